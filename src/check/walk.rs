//! The walk through the ciphertext tree: directories with their records, entries with their names,
//! always in the same order. What is wrong with records and names is found here; what the entries
//! hold is the visitor's business.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;

use super::finding::{Finding, Location, Problem, Remedy};
use super::mend;
use super::session::CheckError;
use crate::backing::{Directory, FileKind, Stat};
use crate::crypto::sha256;
use crate::format::directory::RECORD_NAME;
use crate::format::name::{
    EntryName, NameCipher, RESERVED_PREFIX, TEMPORARY_PREFIX, long_entry_of,
};
use crate::vault::{Codecs, TREE_NAME};

/// Bytes of a stored name that stand for a plain name that is not known.
const SHOWN: usize = 24;
/// Begins the plain name of an entry whose own is lost.
pub(super) const NEUTRAL_PREFIX: &str = "strongroom-lost-name.";

/// A directory of the ciphertext tree.
pub(super) struct Folder {
    pub(super) directory: Box<dyn Directory>,
    /// Below the vault directory.
    pub(super) stored: Vec<u8>,
    /// Empty for the root.
    pub(super) plain: Vec<u8>,
    /// `None` when the record is lost.
    pub(super) names: Option<NameCipher>,
}

impl Folder {
    /// Where an entry is.
    pub(super) fn location(&self, entry: &[u8], plain: Option<&[u8]>) -> Location {
        Location {
            stored: join(&self.stored, entry),
            plain: Some(join(
                &self.plain,
                &plain.map_or_else(|| placeholder(entry), <[u8]>::to_vec),
            )),
        }
    }

    /// Where the directory itself is.
    pub(super) fn own_location(&self) -> Location {
        let plain = if self.plain.is_empty() { b"/".to_vec() } else { self.plain.clone() };
        Location { stored: self.stored.clone(), plain: Some(plain) }
    }
}

/// An entry of a folder that holds something of the user's.
pub(super) struct Item {
    pub(super) folder: Arc<Folder>,
    pub(super) entry: Vec<u8>,
    /// `None` when it is not known.
    pub(super) plain: Option<Vec<u8>>,
    pub(super) stat: Stat,
}

impl Item {
    pub(super) fn location(&self) -> Location {
        self.folder.location(&self.entry, self.plain.as_deref())
    }
}

/// What is done on the walk.
pub(super) trait Visitor {
    /// Something is wrong with a record or a name.
    fn found(&mut self, finding: Finding);
    /// A directory, before its entries.
    fn folder(&mut self, folder: &Arc<Folder>) -> Result<(), CheckError>;
    /// An entry; directories too, before they are entered.
    fn item(&mut self, item: Item) -> Result<(), CheckError>;
    /// Whether an entry whose name is damaged holds something that is the vault's own.
    fn is_ours(&self, folder: &Folder, entry: &[u8], stat: &Stat) -> bool;
}

fn join(parent: &[u8], name: &[u8]) -> Vec<u8> {
    [parent, b"/", name].concat()
}

fn placeholder(entry: &[u8]) -> Vec<u8> {
    [b"?", &entry[entry.len().saturating_sub(SHOWN)..]].concat()
}

/// The plain name that an entry gets whose own is lost. It tells entries apart, and one whose name
/// is found later can be told from it.
pub(super) fn neutral_name(entry: &[u8]) -> Vec<u8> {
    let hash = sha256(&[entry]);
    let hex: String = hash[..12].iter().map(|byte| format!("{byte:02x}")).collect();
    [NEUTRAL_PREFIX.as_bytes(), hex.as_bytes()].concat()
}

/// Opens a directory by its path below the vault directory.
pub(super) fn open_path(vault: &dyn Directory, path: &[u8]) -> io::Result<Box<dyn Directory>> {
    let mut opened = vault.open_directory(b".")?;
    for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
        opened = opened.open_directory(name)?;
    }
    Ok(opened)
}

/// The names in a directory, in ascending order, without `.` and `..`.
pub(super) fn list(directory: &dyn Directory) -> io::Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    directory.read_entries(0, &mut |entry| {
        if entry.name != b"." && entry.name != b".." {
            names.push(entry.name.to_vec());
        }
        true
    })?;
    names.sort_unstable();
    Ok(names)
}

struct Pending {
    stored: Vec<u8>,
    plain: Vec<u8>,
}

/// Walks the whole tree of the vault.
pub(super) fn walk(
    vault: &dyn Directory,
    codecs: &Codecs,
    visitor: &mut dyn Visitor,
) -> Result<(), CheckError> {
    let mut pending = vec![Pending { stored: TREE_NAME.as_bytes().to_vec(), plain: Vec::new() }];
    let device = vault.stat(TREE_NAME.as_bytes())?.device;
    // Directory by directory, and within one in the order of the names: the same every time.
    while let Some(Pending { stored, plain }) = pending.pop() {
        let mut folder = Folder {
            directory: match open_path(vault, &stored) {
                Ok(directory) => directory,
                Err(error) => {
                    visitor.found(unreadable(Location { stored, plain: Some(plain) }, &error));
                    continue;
                }
            },
            stored,
            plain,
            names: None,
        };
        let entries = match list(&*folder.directory) {
            Ok(entries) => entries,
            Err(error) => {
                visitor.found(unreadable(folder.own_location(), &error));
                continue;
            }
        };
        folder.names = read_record(codecs, &folder, &entries, visitor);
        let folder = Arc::new(folder);
        visitor.folder(&folder)?;
        let present: HashSet<&[u8]> = entries.iter().map(Vec::as_slice).collect();
        let mut below = Vec::new();
        for entry in &entries {
            let Some(item) = examine_entry(&folder, entry, &present, visitor)? else { continue };
            let descend = item.stat.kind == FileKind::Directory;
            if item.stat.device != device {
                visitor.found(Finding::new(item.location(), Problem::ForeignFilesystem));
                continue;
            }
            if descend {
                let Location { stored, plain } = item.location();
                below.push(Pending { stored, plain: plain.unwrap_or_default() });
            }
            visitor.item(item)?;
        }
        pending.extend(below.into_iter().rev());
    }
    Ok(())
}

pub(super) fn unreadable(location: Location, error: &io::Error) -> Finding {
    Finding::new(location, Problem::Unreadable { reason: error.to_string() })
}

fn read_record(
    codecs: &Codecs,
    folder: &Folder,
    entries: &[Vec<u8>],
    visitor: &mut dyn Visitor,
) -> Option<NameCipher> {
    let target = match folder.directory.read_link(RECORD_NAME) {
        Ok(target) => target,
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINVAL)) => {
            Vec::new()
        }
        Err(error) => {
            visitor.found(unreadable(folder.location(RECORD_NAME, None), &error));
            return None;
        }
    };
    if let Ok(id) = codecs.directories.decode(&target) {
        return Some(codecs.names(id));
    }
    let finding = Finding::new(folder.own_location(), Problem::DirectoryRecord);
    let id = mend::directory_id(codecs, &target, entries);
    visitor.found(match id {
        Some(directory) => finding.remedy(Remedy::WriteRecord { directory }),
        None => finding,
    });
    id.map(|id| codecs.names(id))
}

/// The item that an entry is; `None` for what is not the user's, or cannot be looked at.
fn examine_entry(
    folder: &Arc<Folder>,
    entry: &[u8],
    present: &HashSet<&[u8]>,
    visitor: &mut dyn Visitor,
) -> Result<Option<Item>, CheckError> {
    if entry == RECORD_NAME {
        return Ok(None);
    }
    let stat = match folder.directory.stat(entry) {
        Ok(stat) => stat,
        Err(error) => {
            visitor.found(unreadable(folder.location(entry, None), &error));
            return Ok(None);
        }
    };
    let item =
        |plain| Ok(Some(Item { folder: Arc::clone(folder), entry: entry.to_vec(), plain, stat }));
    if let Some(long) = long_entry_of(entry) {
        if !present.contains(&long[..]) {
            let location = folder.location(entry, Some(entry));
            visitor.found(Finding::new(location, Problem::OrphanSidecar).remedy(Remedy::Remove));
        }
        return Ok(None);
    }
    let kind = folder.names.as_ref().map(|names| names.classify(entry));
    match kind {
        // Without the record nothing can be told of names, but what is ours is so by its look.
        None if !entry.starts_with(RESERVED_PREFIX) => item(None),
        Some(EntryName::Plain(plain)) => item(Some(plain)),
        Some(EntryName::Dots) => Ok(None),
        Some(EntryName::Long { sidecar }) => {
            let names = folder.names.as_ref().expect("classified with them");
            let target = folder.directory.read_link(&sidecar);
            let plain = target.as_ref().ok().and_then(|target| names.decrypt_long(entry, target));
            if plain.is_some() {
                return item(plain);
            }
            let others = present.iter().filter(|name| long_entry_of(name).is_some());
            let others = others.filter_map(|name| folder.directory.read_link(name).ok());
            let mended = mend::long_name(names, entry, target.ok().as_deref(), others);
            let (remedy, plain) = match mended {
                Some((target, plain)) => (Remedy::WriteSidecar { target }, Some(plain)),
                None => (Remedy::RenameNeutral { plain: neutral_name(entry) }, None),
            };
            let location = folder.location(entry, plain.as_deref());
            visitor.found(Finding::new(location, Problem::LongName).remedy(remedy));
            item(plain)
        }
        Some(EntryName::Damaged) => {
            let names = folder.names.as_ref().expect("classified with them");
            if let Some((known, plain)) = mend::entry_name(names, entry) {
                let finding = Finding::new(folder.location(entry, Some(&plain)), Problem::Name);
                visitor.found(if present.contains(&known[..]) {
                    finding
                } else {
                    finding.remedy(Remedy::RestoreName { entry: known })
                });
                return item(Some(plain));
            }
            let finding = Finding::new(folder.location(entry, None), Problem::Name);
            let ours = visitor.is_ours(folder, entry, &stat);
            visitor.found(if ours {
                finding.remedy(Remedy::RenameNeutral { plain: neutral_name(entry) })
            } else {
                finding
            });
            item(None)
        }
        None | Some(EntryName::Reserved) => {
            if crate::format::name::sidecar_of(entry).is_some() {
                return item(None);
            }
            visitor.found(reserved(folder, entry, &stat));
            Ok(None)
        }
    }
}

fn reserved(folder: &Folder, entry: &[u8], stat: &Stat) -> Finding {
    let location = folder.location(entry, Some(entry));
    if !entry.starts_with(TEMPORARY_PREFIX) || stat.kind != FileKind::Directory {
        return Finding::new(location, Problem::UnknownReserved);
    }
    let finding = Finding::new(location, Problem::LeftoverDirectory);
    if holds_only_its_record(&*folder.directory, entry) {
        finding.remedy(Remedy::RemoveDirectory)
    } else {
        finding
    }
}

/// Whether a directory can be removed without losing anything.
pub(super) fn holds_only_its_record(parent: &dyn Directory, entry: &[u8]) -> bool {
    let listed = parent.open_directory(entry).and_then(|directory| list(&*directory));
    listed.is_ok_and(|names| names.iter().all(|name| name == RECORD_NAME))
}
