//! Owns the log of versions: the edits of LevelDB and RocksDB that add up to the files that are part
//! of a store. It knows nothing of what is in those files.

use std::collections::{BTreeMap, BTreeSet};

use super::log::{self, End};
use super::numbers::Cursor;
use crate::stores::Error;
use crate::stores::source::Source;

/// The longest log of versions that is read, and the longest record in one, in bytes.
pub(super) const LONGEST: u64 = 1 << 30;

/// What the log of versions says of a table.
#[derive(Clone, Copy)]
pub(super) struct Table {
    /// Its size in bytes.
    pub(super) size: u64,
    /// The file of large values that it refers to, the oldest of them; 0 for none.
    pub(super) blob: u64,
}

/// What the log of versions adds up to.
#[derive(Default)]
pub(super) struct Version {
    /// Tables by column family and number.
    pub(super) tables: BTreeMap<(u64, u64), Table>,
    pub(super) families: BTreeMap<u64, Vec<u8>>,
    pub(super) last_sequence: u64,
    /// Files of large values that were added. Nothing tells when one is given up: it is gone then.
    pub(super) values: BTreeSet<u64>,
    /// Whether an edit told the number of the next file: without it no engine opens the store.
    pub(super) begun: bool,
    /// Whether an edit had a field that this reader doesn't know.
    pub(super) unknown: bool,
}

impl Version {
    /// Applies one edit.
    pub(super) fn apply(&mut self, edit: &[u8]) {
        let mut cursor = Cursor(edit);
        let mut family = 0;
        let mut added = Vec::new();
        let mut removed = Vec::new();
        while !cursor.0.is_empty() {
            if self.field(&mut cursor, &mut family, &mut added, &mut removed).is_none() {
                self.unknown = true;
                break;
            }
        }
        for number in removed {
            self.tables.remove(&(family, number));
        }
        for (number, table) in added {
            self.tables.insert((family, number), table);
        }
    }

    /// Reads one field; `None` where it is unknown or malformed.
    fn field(
        &mut self,
        cursor: &mut Cursor<'_>,
        family: &mut u64,
        added: &mut Vec<(u64, Table)>,
        removed: &mut Vec<u64>,
    ) -> Option<()> {
        match cursor.number()? {
            // Comparator.
            1 => drop(cursor.string()?),
            // Log numbers, next file, largest column family, atomic group.
            tag @ (2 | 3 | 9 | 10 | 203 | 300) => {
                cursor.number()?;
                self.begun |= tag == 3;
            }
            4 => self.last_sequence = cursor.number()?,
            5 => {
                cursor.number()?;
                cursor.string()?;
            }
            6 => {
                cursor.number()?;
                removed.push(cursor.number()?);
            }
            tag @ (7 | 100 | 102 | 103) => {
                cursor.number()?;
                let number = cursor.number()?;
                if tag == 102 {
                    cursor.number()?;
                }
                let size = cursor.number()?;
                cursor.string()?;
                cursor.string()?;
                if tag != 7 {
                    cursor.number()?;
                    cursor.number()?;
                }
                let mut blob = 0;
                let mut next = if tag == 103 { cursor.number()? } else { 1 };
                while next != 1 {
                    let value = cursor.string()?;
                    if next == 4 {
                        blob = Cursor(value).number()?;
                    }
                    next = cursor.number()?;
                }
                added.push((number, Table { size, blob }));
            }
            200 => *family = cursor.number()?,
            201 => {
                let name = cursor.string()?.to_vec();
                self.families.insert(*family, name);
            }
            202 => {
                self.families.remove(family);
                self.tables.retain(|(owner, _), _| owner != family);
            }
            // Files of large values: added, and what in them is not wanted any more.
            tag @ (400 | 401) => {
                let number = cursor.number()?;
                cursor.number()?;
                cursor.number()?;
                if tag == 400 {
                    self.values.insert(number);
                    cursor.string()?;
                    cursor.string()?;
                }
                while cursor.number()? != 0 {
                    cursor.string()?;
                }
            }
            // Fields that may be skipped.
            tag if tag & (1 << 13) != 0 => drop(cursor.string()?),
            _ => return None,
        }
        Some(())
    }
}

/// Reads the log of versions: what it adds up to, and how it ends.
pub(super) fn read(manifest: &Source) -> Result<(Version, End), Error> {
    let mut version = Version::default();
    version.families.insert(0, b"default".to_vec());
    let limit = usize::try_from(LONGEST).unwrap_or(usize::MAX);
    let end = log::read(manifest, limit, |record| version.apply(record))?;
    Ok((version, end))
}
