//! The double in memory against the system: any sequence of operations gives the same results,
//! the same errnos and the same tree in both.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::io;

use proptest::prelude::*;

use super::memory::MemoryDirectory;
use super::os::OsDirectory;
use super::{Access, Directory, File, FileKind, RenameMode, SetTime, Timestamp, XattrMode};

/// The directories that operations work in; not all of them exist at all times.
const DIRECTORIES: [&[&[u8]]; 5] = [&[], &[b"a"], &[b"b"], &[b"a", b"b"], &[b"b", b"a"]];
const NAMES: [&[u8]; 5] = [b"a", b"b", b"c", b".", b"a/b"];
const MODES: [u32; 5] = [0o644, 0o755, 0o4755, 0o2755, 0o1700];
const KINDS: [FileKind; 3] = [FileKind::Fifo, FileKind::Socket, FileKind::Regular];
const RENAMES: [RenameMode; 3] = [RenameMode::Replace, RenameMode::NoReplace, RenameMode::Exchange];
const ATTRIBUTES: [&[u8]; 4] = [b"user.a", b"user.b", b"odd", b""];
const XATTRS: [XattrMode; 3] = [XattrMode::Any, XattrMode::Create, XattrMode::Replace];
/// The system follows a symlink before a slash, the double does not; this one ends the same way.
const TARGET: &[u8] = b"/dev/null";
/// Handles at once.
const HANDLES: usize = 3;

/// An operation; numbers choose from the tables above, wherever they are too large by remainder.
#[derive(Clone, Debug)]
enum Operation {
    Stat(usize),
    OpenFile(usize, bool),
    CreateFile(usize, usize),
    Pin(usize),
    MakeDirectory(usize, usize),
    MakeSymlink(usize),
    MakeNode(usize, usize),
    ReadLink(usize),
    HardLink(usize, usize, usize),
    Rename(usize, usize, usize, usize),
    Unlink(usize),
    RemoveDirectory(usize),
    SetMode(usize, usize),
    SetTimes(usize),
    GetXattr(usize, usize),
    SetXattr(usize, usize, usize, usize),
    RemoveXattr(usize, usize),
    Read(u64, usize),
    Write(u64, usize),
    SetLen(u64),
    Allocate(u64, u64),
    Punch(u64, u64),
    FileStat,
    FileSetMode(usize),
    FileSetXattr(usize, usize, usize),
    FileRemoveXattr(usize),
    List,
}

fn operation() -> impl Strategy<Value = Operation> {
    use Operation::*;
    let index = || 0..20_usize;
    let offset = || prop_oneof![0..20_000_u64, Just(4096), Just(0), Just(1 << 63)];
    let len = || prop_oneof![0..20_000_u64, Just(4096), Just(0)];
    let bytes = || prop_oneof![0..20_000_usize, Just(4096_usize), Just(0_usize)];
    prop_oneof![
        1 => index().prop_map(Stat),
        1 => (index(), any::<bool>()).prop_map(|(name, write)| OpenFile(name, write)),
        4 => (index(), index()).prop_map(|(name, mode)| CreateFile(name, mode)),
        1 => index().prop_map(Pin),
        4 => (index(), index()).prop_map(|(name, mode)| MakeDirectory(name, mode)),
        1 => index().prop_map(MakeSymlink),
        1 => (index(), index()).prop_map(|(name, kind)| MakeNode(name, kind)),
        1 => index().prop_map(ReadLink),
        2 => (index(), index(), index()).prop_map(|(name, to, as_name)| HardLink(name, to, as_name)),
        5 => (index(), index(), index(), index())
            .prop_map(|(name, to, as_name, mode)| Rename(name, to, as_name, mode)),
        1 => index().prop_map(Unlink),
        1 => index().prop_map(RemoveDirectory),
        1 => (index(), index()).prop_map(|(name, mode)| SetMode(name, mode)),
        1 => index().prop_map(SetTimes),
        1 => (index(), index()).prop_map(|(name, attribute)| GetXattr(name, attribute)),
        1 => (index(), index(), 0..300_usize, index())
            .prop_map(|(name, attribute, len, mode)| SetXattr(name, attribute, len, mode)),
        1 => (index(), index()).prop_map(|(name, attribute)| RemoveXattr(name, attribute)),
        2 => (offset(), bytes()).prop_map(|(offset, len)| Read(offset, len)),
        4 => (offset(), bytes()).prop_map(|(offset, len)| Write(offset, len)),
        2 => offset().prop_map(SetLen),
        1 => (offset(), len()).prop_map(|(offset, len)| Allocate(offset, len)),
        2 => (offset(), len()).prop_map(|(offset, len)| Punch(offset, len)),
        1 => Just(FileStat),
        1 => index().prop_map(FileSetMode),
        1 => (index(), 0..300_usize, index())
            .prop_map(|(attribute, len, mode)| FileSetXattr(attribute, len, mode)),
        1 => index().prop_map(FileRemoveXattr),
        1 => Just(List),
    ]
}

fn choose<T: Copy>(table: &[T], index: usize) -> T {
    table[index % table.len()]
}

/// One side of the comparison.
struct Side {
    root: Box<dyn Directory>,
    files: BTreeMap<usize, Box<dyn File>>,
}

/// An outcome to compare: what was told, or the errno.
type Outcome = Result<String, i32>;

fn told<T: ToString>(result: io::Result<T>) -> Outcome {
    result.map(|value| value.to_string()).map_err(|error| error.raw_os_error().unwrap())
}

fn done(result: io::Result<()>) -> Outcome {
    told(result.map(|()| ""))
}

fn describe(stat: &super::Stat) -> String {
    let size = if stat.kind == FileKind::Directory { 0 } else { stat.size };
    let (kind, mode, links) = (stat.kind, stat.mode, stat.links);
    format!("{kind:?} {mode:o} {links} {} {} {} {size}", stat.uid, stat.gid, stat.rdev)
}

impl Side {
    fn new(root: impl Directory + 'static) -> Self {
        Self { root: Box::new(root), files: BTreeMap::new() }
    }

    fn directory(&self, index: usize) -> io::Result<Box<dyn Directory>> {
        let mut directory = self.root.open_directory(b".")?;
        for name in choose(&DIRECTORIES, index) {
            directory = directory.open_directory(name)?;
        }
        Ok(directory)
    }

    fn keep(&mut self, slot: usize, opened: io::Result<Box<dyn File>>) -> Outcome {
        let opened = opened.map(|file| {
            self.files.insert(slot % HANDLES, file);
        });
        done(opened)
    }

    fn perform(&mut self, operation: &Operation, directory: usize, slot: usize) -> Outcome {
        let at = match self.directory(directory) {
            Ok(at) => at,
            Err(error) => return told(Err::<u8, _>(error)),
        };
        let name = |index| choose(&NAMES, index);
        // Nobody but root could go on with directories without these bits.
        let mode = |index| choose(&MODES, index) | 0o700;
        match operation {
            Operation::Stat(n) => told(at.stat(name(*n)).map(|stat| describe(&stat))),
            Operation::OpenFile(n, write) => {
                let access = if *write { Access::ReadWrite } else { Access::Read };
                self.keep(slot, at.open_file(name(*n), access))
            }
            Operation::CreateFile(n, m) => self.keep(slot, at.create_file(name(*n), mode(*m))),
            Operation::Pin(n) => self.keep(slot, at.pin(name(*n))),
            Operation::MakeDirectory(n, m) => done(at.make_directory(name(*n), mode(*m))),
            Operation::MakeSymlink(n) => done(at.make_symlink(TARGET, name(*n))),
            Operation::MakeNode(n, kind) => {
                done(at.make_node(name(*n), choose(&KINDS, *kind), 0o600, 0))
            }
            Operation::ReadLink(n) => {
                told(at.read_link(name(*n)).map(|target| format!("{target:?}")))
            }
            Operation::HardLink(n, to, m) => match self.directory(*to) {
                Ok(to) => done(at.hard_link(name(*n), &*to, name(*m))),
                Err(error) => done(Err(error)),
            },
            Operation::Rename(n, to, m, mode) => match self.directory(*to) {
                Ok(to) => done(at.rename(name(*n), &*to, name(*m), choose(&RENAMES, *mode))),
                Err(error) => done(Err(error)),
            },
            Operation::Unlink(n) => done(at.unlink(name(*n))),
            Operation::RemoveDirectory(n) => done(at.remove_directory(name(*n))),
            Operation::SetMode(n, m) => done(at.set_mode(name(*n), mode(*m))),
            Operation::SetTimes(n) => {
                let time = SetTime::At(Timestamp { seconds: 7, nanoseconds: 8 });
                done(at.set_times(name(*n), time, SetTime::Keep))
            }
            Operation::GetXattr(n, attribute) => {
                let value = at.get_xattr(name(*n), choose(&ATTRIBUTES, *attribute));
                told(value.map(|value| format!("{value:?}")))
            }
            Operation::SetXattr(n, attribute, len, mode) => {
                let attribute = choose(&ATTRIBUTES, *attribute);
                done(at.set_xattr(name(*n), attribute, &vec![b'v'; *len], choose(&XATTRS, *mode)))
            }
            Operation::RemoveXattr(n, attribute) => {
                done(at.remove_xattr(name(*n), choose(&ATTRIBUTES, *attribute)))
            }
            Operation::List => {
                let mut names = Vec::new();
                let listed = at.read_entries(0, &mut |entry| {
                    names.push((entry.name.to_vec(), entry.kind));
                    true
                });
                names.sort_by(|a, b| a.0.cmp(&b.0));
                told(listed.map(|()| format!("{names:?}")))
            }
            _ => self
                .files
                .get(&(slot % HANDLES))
                .map_or(Ok(String::new()), |file| perform_on_file(&**file, operation)),
        }
    }

    /// Everything below the root that both sides must agree on.
    fn dump(&self) -> String {
        let mut text = String::new();
        dump(&*self.root, 0, &mut text);
        text
    }
}

fn perform_on_file(file: &dyn File, operation: &Operation) -> Outcome {
    match operation {
        Operation::Read(offset, len) => {
            let mut buffer = vec![0; *len];
            let count = file.read_at(&mut buffer, *offset);
            told(count.map(|count| format!("{count} {buffer:?}")))
        }
        Operation::Write(offset, len) => {
            // Tells writes apart, and their bytes.
            let data =
                (0..*len).map(|n| ((n / 7 + len) % 251).to_le_bytes()[0]).collect::<Vec<_>>();
            done(file.write_at(&data, *offset))
        }
        Operation::SetLen(len) => done(file.set_len(*len)),
        Operation::Allocate(offset, len) => done(file.allocate(*offset, *len)),
        Operation::Punch(offset, len) => done(file.punch_hole(*offset, *len)),
        Operation::FileStat => told(file.stat().map(|stat| describe(&stat))),
        Operation::FileSetMode(mode) => done(file.set_mode(choose(&MODES, *mode) | 0o700)),
        Operation::FileSetXattr(attribute, len, mode) => {
            let attribute = choose(&ATTRIBUTES, *attribute);
            done(file.set_xattr(attribute, &vec![b'f'; *len], choose(&XATTRS, *mode)))
        }
        Operation::FileRemoveXattr(attribute) => {
            done(file.remove_xattr(choose(&ATTRIBUTES, *attribute)))
        }
        _ => unreachable!("operations on directories are performed elsewhere"),
    }
}

/// Everything below `directory` but times and inode numbers, as text.
pub(crate) fn dump(directory: &dyn Directory, depth: usize, text: &mut String) {
    let mut names = Vec::new();
    directory
        .read_entries(0, &mut |entry| {
            names.push(entry.name.to_vec());
            true
        })
        .unwrap();
    names.sort();
    for name in names.into_iter().filter(|name| name != b"." && name != b"..") {
        let stat = directory.stat(&name).unwrap();
        let mut xattrs = directory.list_xattr(&name).unwrap();
        xattrs.retain(|attribute| attribute.starts_with(b"user."));
        xattrs.sort();
        let what = String::from_utf8_lossy(&name).into_owned();
        writeln!(text, "{:depth$}{what} {} {xattrs:?}", "", describe(&stat)).unwrap();
        match stat.kind {
            FileKind::Directory => {
                dump(&*directory.open_directory(&name).unwrap(), depth + 1, text)
            }
            FileKind::Regular => {
                let file = directory.open_file(&name, Access::Read).unwrap();
                let mut content = vec![0; usize::try_from(stat.size).unwrap().min(100_000)];
                file.read_at(&mut content, 0).unwrap();
                writeln!(text, "{content:?}").unwrap();
            }
            _ => {}
        }
    }
}

proptest! {
    #[test]
    fn memory_behaves_as_the_system(
        operations in prop::collection::vec((operation(), 0..5_usize, 0..HANDLES), 1..300)
    ) {
        let temporary = tempfile::tempdir().unwrap();
        let mut system = Side::new(OsDirectory::open(temporary.path()).unwrap());
        let mut memory = Side::new(MemoryDirectory::new());
        for (operation, directory, slot) in &operations {
            let expected = system.perform(operation, *directory, *slot);
            let outcome = memory.perform(operation, *directory, *slot);
            prop_assert!(
                outcome == expected,
                "{operation:?} in directory {directory}: {outcome:.200?} in memory, {expected:.200?} on the system",
            );
        }
        prop_assert_eq!(memory.dump(), system.dump());
    }
}
