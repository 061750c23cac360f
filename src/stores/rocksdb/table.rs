//! Owns the check of one table that is made of blocks: every block that its footer, its metaindex
//! and its index lead to is read and its checksum verified, and what no block covers is told. It
//! knows nothing of the store that the table is in.

use std::sync::atomic::AtomicBool;

use super::block::{self, Engine, Form};
use super::checksum;
use super::footer::{self, Ending, Handle};
use super::numbers::Cursor;
use super::reader::{Stored, Table};
use crate::stores::Error;
use crate::stores::report::Findings;
use crate::stores::source::{Source, u32_at};

/// The most blocks that a metaindex may name.
const MOST_NAMED: usize = 1024;

/// What a metaindex calls the blocks that are more than bytes.
const PROPERTIES: [&[u8]; 2] = [b"rocksdb.properties", b"rocksdb.stats"];
const INDEX: &[u8] = b"rocksdb.index";
const FILTER_PARTITIONS: &[u8] = b"partitionedfilter.";

/// Properties that say how to read an index.
const INDEX_TYPE: &[u8] = b"rocksdb.block.based.table.index.type";
const DIFFERENCES: &[u8] = b"rocksdb.index.value.is.delta.encoded";
/// The property that is overwritten when a table made elsewhere is taken into a store; the checksum
/// stays that of the block with zeros there.
const SEQUENCE: &[u8] = b"rocksdb.external_sst_file.global_seqno";

/// Checks a table. Damage goes to the findings, after the table's name. Tells why not all of it was
/// verified; nothing for one that was.
pub(super) fn check(
    source: &Source,
    name: &str,
    cancelled: &AtomicBool,
    findings: &mut Findings,
) -> Result<Vec<String>, Error> {
    let mut tail = [0; footer::LONG];
    let start = source.length().saturating_sub(u64::try_from(tail.len()).unwrap_or(0));
    let count = source.read_at(&mut tail, start)?;
    let footer = match footer::read(&tail[..count], source.length()) {
        Ending::Blocks(footer) => footer,
        Ending::Other(kind) => return Ok(vec![format!("what a {kind} table holds is not read")]),
        Ending::Unknown(version) => {
            return Ok(vec![format!("format version {version} is not known")]);
        }
        Ending::None => {
            findings.damage(format!("{name} has no footer"));
            return Ok(Vec::new());
        }
        Ending::Damaged(how) => {
            findings.damage(format!("{name}: {how}"));
            return Ok(Vec::new());
        }
    };
    let mut table = Table::new(source, name, footer, cancelled, findings);
    table.walk(cancelled)?;
    Ok(table.reasons())
}

/// What a metaindex names.
#[derive(Default)]
struct Named {
    properties: Option<Handle>,
    index: Option<Handle>,
    filter_partitions: Option<Handle>,
    others: Vec<Handle>,
}

impl<'a> Table<'a> {
    fn walk(&mut self, cancelled: &'a AtomicBool) -> Result<(), Error> {
        if self.footer.stray {
            let offset = self.footer.offset;
            self.findings.remark(format!(
                "{}: the footer at byte {offset} is not zero where nothing is written",
                self.name
            ));
        }
        if self.footer.checksum == checksum::Kind::None {
            self.unverified("its blocks have no checksums");
        }
        let Some(metaindex) = self.load(self.footer.metaindex)? else { return Ok(()) };
        let Some(named) = self.named(&metaindex) else { return Ok(()) };
        drop(metaindex);
        // LevelDB knows no properties.
        if named.properties.is_some() || self.footer.version > 0 {
            self.engine = Engine::RocksDb(self.footer.version);
        }
        self.others(named.others)?;
        let mut form = Some((Form::default(), false));
        if let Some(properties) = named.properties {
            form = self.properties(properties)?;
        }
        let Some(index) = self.footer.index.or(named.index) else {
            self.damage("its metaindex names no index");
            return Ok(());
        };
        // Without the properties nobody knows how to read the index: it is only verified.
        let Some((form, is_partitioned)) = form else {
            self.verify_alone(index)?;
            return Ok(());
        };
        if let Some(top) = named.filter_partitions {
            let form = Form { first_keys: false, ..form };
            if let Some(block) = self.load(top)? {
                self.row(&block, top, form, cancelled)?;
            }
        }
        if let Some(block) = self.load(index)? {
            if is_partitioned {
                self.partitions(&block, index, form, cancelled)?;
            } else {
                self.row(&block, index, form, cancelled)?;
            }
        }
        self.gaps()
    }

    /// Reads the metaindex. `None` where it makes no sense.
    fn named(&mut self, metaindex: &[u8]) -> Option<Named> {
        let mut named = Named::default();
        let (mut many, mut bad) = (false, false);
        let read = block::for_each(metaindex, |key, place| {
            let mut value = Cursor(&metaindex[place]);
            let Some(handle) = Handle::read(&mut value).filter(|_| value.0.is_empty()) else {
                bad = true;
                return true;
            };
            if PROPERTIES.contains(&key) {
                named.properties = Some(handle);
            } else if key == INDEX {
                named.index = Some(handle);
            } else if key.starts_with(FILTER_PARTITIONS) {
                named.filter_partitions = Some(handle);
            } else {
                named.others.push(handle);
            }
            many = named.others.len() > MOST_NAMED;
            !many
        });
        if many {
            self.unverified("its metaindex names too many blocks");
        }
        if bad {
            self.unverified("its metaindex names what is no block");
        }
        match read {
            Ok(()) => Some(named),
            Err(why) => {
                self.unread(self.footer.metaindex.offset, why);
                None
            }
        }
    }

    /// Verifies the blocks that are no more than bytes here: filters, dictionaries, deletions.
    fn others(&mut self, mut others: Vec<Handle>) -> Result<(), Error> {
        others.sort_unstable();
        others.dedup();
        let mut end = 0;
        for handle in others {
            if handle.offset < end {
                self.damage(&format!("the block at byte {} overlaps another one", handle.offset));
                return Ok(());
            }
            self.verify_alone(handle)?;
            end = handle.end().unwrap_or(u64::MAX);
        }
        Ok(())
    }

    /// Reads the properties: the form of the index, and whether it is one of partitions. `None` where
    /// they do not tell.
    fn properties(&mut self, handle: Handle) -> Result<Option<(Form, bool)>, Error> {
        let Some(Stored { mut contents, trailer }) = self.stored(handle)? else { return Ok(None) };
        if !self.matches(handle, &contents, trailer) {
            let mut overwritten = None;
            // Bytes that are not verified yet: they may not even be a block.
            let _ = block::for_each(&contents, |key, place| {
                if key == SEQUENCE && place.len() == 8 {
                    overwritten = Some(place);
                }
                overwritten.is_none()
            });
            if let Some(place) = overwritten {
                contents[place].fill(0);
            }
            if !self.matches(handle, &contents, trailer) {
                self.mismatch(handle);
                return Ok(None);
            }
        }
        let block = match block::decompress(trailer[0], contents, self.engine) {
            Ok(block) => block,
            Err(why) => {
                self.unread(handle.offset, why);
                return Ok(None);
            }
        };
        let (mut form, mut kind) = (Form::default(), 0);
        let read = block::for_each(&block, |key, place| {
            let value = &block[place];
            if key == INDEX_TYPE {
                kind = u32_at(value, 0).unwrap_or(u32::MAX);
            } else if key == DIFFERENCES {
                form.differences = Cursor(value).number().unwrap_or(0) != 0;
            }
            true
        });
        if let Err(why) = read {
            self.unread(handle.offset, why);
            return Ok(None);
        }
        match kind {
            // Searched by bisection or by a hash: the blocks are the same.
            0 | 1 => {}
            2 => return Ok(Some((form, true))),
            3 => form.first_keys = true,
            _ => {
                self.lose(&format!("its index is of kind {kind}, which is not known"));
                return Ok(None);
            }
        }
        Ok(Some((form, false)))
    }
}
