//! The core over a disk that fails: every operation below fails once, at every place of every
//! operation above. Whoever asked gets the errno; what was there before is there and readable, and
//! everything goes on.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

use std::collections::BTreeMap;

use super::tests::{CALLER, format, master, read_all};
use super::*;
use crate::backing::fault::{Fault, FaultDirectory, Faults, Operation};
use crate::backing::memory::MemoryDirectory;
use crate::backing::{Directory, FileKind, RenameMode, XattrMode};

const ROOT: InodeNumber = InodeNumber::ROOT;
const LONG: &[u8] = &[b'l'; 255];

/// What can be seen of one entry.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    kind: FileKind,
    mode: u32,
    links: u32,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    content: Vec<u8>,
}

type Tree = BTreeMap<Vec<u8>, Seen>;

fn open(vault: FaultDirectory) -> FileSystem {
    let options = FilesystemOptions { journal_segment: 1 << 20, ..FilesystemOptions::default() };
    FileSystem::open(Box::new(vault), &master(), options, "a test").unwrap()
}

fn number(fs: &FileSystem, path: &[u8]) -> InodeNumber {
    path.split(|byte| *byte == b'/')
        .fold(ROOT, |parent, name| fs.lookup(parent, name).unwrap().attributes.ino)
}

fn bytes(seed: u8, len: usize) -> Vec<u8> {
    (0..len).map(|at| seed ^ (at as u8) ^ ((at >> 8) as u8)).collect()
}

/// A tree with something of everything, all of it durable; part of it still in the journal.
fn prepare(fs: &FileSystem) {
    let directory = fs.make_directory(&CALLER, ROOT, b"directory", 0o755).unwrap().attributes.ino;
    fs.make_directory(&CALLER, ROOT, b"empty", 0o755).unwrap();
    fs.make_directory(&CALLER, ROOT, b"vacant", 0o755).unwrap();
    for (name, seed) in [(&b"file"[..], 1), (b"other", 2), (LONG, 3)] {
        let ino = fs.create(&CALLER, directory, name, 0o644).unwrap().attributes.ino;
        fs.write(ino, 0, &bytes(seed, 5 * 4096 + 1000)).unwrap();
        fs.sync(ino, false).unwrap();
        fs.write(ino, 4096, &bytes(seed + 100, 4096)).unwrap();
        fs.sync(ino, false).unwrap();
        fs.release(ino);
    }
    let file = number(fs, b"directory/file");
    fs.hard_link(file, ROOT, b"linked").unwrap();
    fs.set_xattr(file, b"user.key", b"value", XattrMode::Any).unwrap();
    fs.set_xattr(file, b"user.large", &bytes(9, 20_000), XattrMode::Any).unwrap();
    fs.make_symlink(&CALLER, ROOT, b"symlink", &[b't'; 4095]).unwrap();
    fs.sync_all().unwrap();
}

fn look(fs: &FileSystem) -> Tree {
    let mut tree = Tree::new();
    look_in(fs, ROOT, b"", &mut tree);
    tree
}

fn look_in(fs: &FileSystem, directory: InodeNumber, prefix: &[u8], tree: &mut Tree) {
    let mut entries = Vec::new();
    fs.read_directory(directory, 0, false, &mut |entry| {
        if entry.name != b"." && entry.name != b".." {
            entries.push(entry.name.to_vec());
        }
        true
    })
    .unwrap();
    for name in entries {
        let attributes = fs.lookup(directory, &name).unwrap().attributes;
        let ino = attributes.ino;
        let path = [prefix, &name].concat();
        let content = match attributes.kind {
            FileKind::Regular => read_all(fs, ino),
            FileKind::Symlink => fs.read_link(ino).unwrap(),
            FileKind::Directory => {
                look_in(fs, ino, &[&path, &b"/"[..]].concat(), tree);
                Vec::new()
            }
            _ => Vec::new(),
        };
        let names = fs.list_xattr(ino).unwrap();
        let value = |name: Vec<u8>| (name.clone(), fs.get_xattr(ino, &name).unwrap());
        let xattrs = names.into_iter().map(value).collect();
        let Attributes { kind, mode, links, .. } = attributes;
        tree.insert(path, Seen { kind, mode, links, xattrs, content });
        fs.forget(ino, 1);
    }
}

/// Whether a tree is what was before or what should be after, or, for content, something between:
/// each byte is one or the other, zero where there was none.
fn is_between(now: &Tree, before: &Tree, after: &Tree) -> Result<(), String> {
    let sides = [before, after];
    if sides.iter().all(|side| !now.keys().eq(side.keys())) {
        return Err(format!("names: {:?}", now.keys().map(|key| key.escape_ascii().to_string())));
    }
    for (path, seen) in now {
        let sides: Vec<&Seen> = sides.iter().filter_map(|side| side.get(path)).collect();
        let name = path.escape_ascii();
        let like = |differs: &dyn Fn(&&&Seen) -> bool| sides.iter().any(|side| !differs(&side));
        if !like(&|side| side.kind != seen.kind || side.xattrs != seen.xattrs) {
            return Err(format!("{name}: kind or attributes"));
        }
        if !like(&|side| side.mode != seen.mode) || !like(&|side| side.links != seen.links) {
            return Err(format!("{name}: mode {:o}, {} links", seen.mode, seen.links));
        }
        let (least, most) = (
            sides.iter().map(|side| side.content.len()).min().unwrap_or(0),
            sides.iter().map(|side| side.content.len()).max().unwrap_or(0),
        );
        if !(least..=most).contains(&seen.content.len()) {
            return Err(format!("{name}: {} bytes", seen.content.len()));
        }
        for (at, byte) in seen.content.iter().enumerate() {
            let known = sides.iter().any(|side| side.content.get(at) == Some(byte));
            let fresh_zero = *byte == 0 && at >= least;
            if !known && !fresh_zero {
                return Err(format!("{name}: byte {at}"));
            }
        }
    }
    Ok(())
}

type Run = fn(&FileSystem) -> Result<()>;

fn set_size(fs: &FileSystem, size: u64) -> Result<()> {
    let changes = SetAttributes { size: Some(size), ..SetAttributes::default() };
    fs.set_attributes(number_or(fs, b"directory/file")?, &changes).map(drop)
}

/// Like [`number`], with the error.
fn number_or(fs: &FileSystem, path: &[u8]) -> Result<InodeNumber> {
    let mut at = ROOT;
    for name in path.split(|byte| *byte == b'/') {
        at = fs.lookup(at, name)?.attributes.ino;
    }
    Ok(at)
}

fn write(fs: &FileSystem, offset: u64, data: &[u8]) -> Result<()> {
    let ino = number_or(fs, b"directory/file")?;
    fs.write(ino, offset, data)?;
    fs.sync(ino, false)
}

fn allocate(fs: &FileSystem, mode: FallocateMode, offset: u64, len: u64) -> Result<()> {
    fs.fallocate(number_or(fs, b"directory/file")?, mode, offset, len)
}

fn rename(fs: &FileSystem, from: &[u8], to: (&[u8], &[u8]), mode: RenameMode) -> Result<()> {
    let directory = number_or(fs, b"directory")?;
    let target = if to.0.is_empty() { ROOT } else { number_or(fs, to.0)? };
    fs.rename(directory, from, target, to.1, mode)
}

const OPERATIONS: [(&str, Run); 29] = [
    ("overwrite a block", |fs| write(fs, 8192, &bytes(50, 4096))),
    ("overwrite across blocks", |fs| write(fs, 3000, &bytes(51, 9000))),
    ("overwrite the tail", |fs| write(fs, 5 * 4096 + 100, &bytes(52, 500))),
    ("append", |fs| write(fs, 5 * 4096 + 1000, &bytes(53, 20_000))),
    ("write after a gap", |fs| write(fs, 60_000, &bytes(54, 5000))),
    ("shorten", |fs| set_size(fs, 10_000)),
    ("shorten to a border", |fs| set_size(fs, 8192)),
    ("empty", |fs| set_size(fs, 0)),
    ("lengthen", |fs| set_size(fs, 100_000)),
    ("punch", |fs| allocate(fs, FallocateMode::PunchHole, 1000, 12_000)),
    ("zero and lengthen", |fs| allocate(fs, FallocateMode::ZeroRange, 15_000, 30_000)),
    ("allocate", |fs| allocate(fs, FallocateMode::Allocate, 0, 50_000)),
    ("create", |fs| {
        let ino = fs.create(&CALLER, ROOT, b"new", 0o600)?.attributes.ino;
        fs.release(ino);
        Ok(())
    }),
    ("create with a long name", |fs| {
        fs.make_node(&CALLER, ROOT, &[b'n'; 255], libc::S_IFREG | 0o600, 0).map(drop)
    }),
    ("make a directory", |fs| fs.make_directory(&CALLER, ROOT, b"new", 0o700).map(drop)),
    ("make a directory with a long name", |fs| {
        fs.make_directory(&CALLER, ROOT, &[b'n'; 255], 0o500).map(drop)
    }),
    ("make a symlink", |fs| fs.make_symlink(&CALLER, ROOT, b"new", &[b's'; 4000]).map(drop)),
    ("link", |fs| {
        let ino = number_or(fs, b"directory/other")?;
        fs.hard_link(ino, ROOT, &[b'h'; 255]).map(drop)
    }),
    ("unlink", |fs| fs.unlink(number_or(fs, b"directory")?, b"other")),
    ("unlink a long name", |fs| fs.unlink(number_or(fs, b"directory")?, LONG)),
    ("unlink one of two names", |fs| fs.unlink(ROOT, b"linked")),
    ("unlink a symlink", |fs| fs.unlink(ROOT, b"symlink")),
    ("remove a directory", |fs| fs.remove_directory(ROOT, b"empty")),
    ("rename over", |fs| rename(fs, b"file", (b"directory", b"other"), RenameMode::Replace)),
    ("move", |fs| rename(fs, LONG, (b"empty", b"short"), RenameMode::NoReplace)),
    ("exchange", |fs| rename(fs, b"other", (b"", b"empty"), RenameMode::Exchange)),
    ("rename a directory over another", |fs| {
        fs.rename(ROOT, b"vacant", ROOT, b"empty", RenameMode::Replace)
    }),
    ("set an attribute", |fs| {
        let ino = number_or(fs, b"directory/file")?;
        fs.set_xattr(ino, b"user.large", &bytes(10, 30_000), XattrMode::Replace)
    }),
    ("remove an attribute", |fs| fs.remove_xattr(number_or(fs, b"directory/file")?, b"user.key")),
];

/// Whether what is stored is what was shown.
fn assert_same(stored: &Tree, shown: &Tree) {
    assert!(stored.keys().eq(shown.keys()), "names");
    for (path, seen) in stored {
        let differs = (0..seen.content.len())
            .find(|at| shown[path].content.get(*at) != seen.content.get(*at));
        let path_shown = path.escape_ascii();
        assert_eq!(seen.content.len(), shown[path].content.len(), "{path_shown}");
        assert!(*seen == shown[path], "{path_shown}: stored is not what was shown ({differs:?})");
    }
}

/// Runs an operation on a fresh vault with a fault below, and closes it. `sides`: what is there
/// before it and what after.
fn run(
    operation: Run,
    sides: (&Tree, &Tree),
    fault: impl FnOnce(&Faults),
    check: impl FnOnce(&FileSystem, Result<()>, &Faults),
) {
    let faults = Faults::default();
    let vault = MemoryDirectory::new();
    format(&vault);
    let wrapped = || faults.wrap(vault.open_directory(b".").unwrap());
    let fs = open(wrapped());
    prepare(&fs);
    fault(&faults);
    let outcome = operation(&fs);
    let faults_then = faults.clone();
    faults.disarm();
    check(&fs, outcome, &faults_then);
    // Everything goes on, and the vault closes.
    let ino = fs.create(&CALLER, ROOT, b"afterwards", 0o600).unwrap().attributes.ino;
    fs.write(ino, 0, b"works").unwrap();
    fs.sync(ino, false).unwrap();
    fs.release(ino);
    let live = look(&fs);
    // A journal that could not be synced is given up: the vault then ends uncleanly, and the next
    // mount recovers; what had failed may be done then.
    let clean = fs.close().is_ok();
    let fs = open(wrapped());
    assert_eq!(fs.recovered().unclean, !clean);
    let mut stored = look(&fs);
    if clean {
        assert_same(&stored, &live);
    } else {
        assert_eq!(stored.remove(&b"afterwards"[..]).unwrap().content, b"works");
        is_between(&stored, sides.0, sides.1).unwrap();
    }
    fs.close().unwrap();
}

fn before_and_after(operation: Run) -> (Tree, Tree) {
    let mut trees = (Tree::new(), Tree::new());
    let none = (&Tree::new(), &Tree::new());
    run(|_| Ok(()), none, |_| {}, |fs, _, _| trees.0 = look(fs));
    run(
        operation,
        none,
        |_| {},
        |fs, outcome, _| {
            outcome.unwrap();
            trees.1 = look(fs);
        },
    );
    trees
}

fn fails_once_everywhere(errno: i32, partial: bool) {
    for (name, operation) in OPERATIONS {
        let (before, after) = before_and_after(operation);
        let mut tries = 0;
        loop {
            let mut done = false;
            run(
                operation,
                (&before, &after),
                |faults| {
                    let fault = Fault::once(crate::backing::fault::Operation::any, errno);
                    faults.arm(if partial { fault.partial() } else { fault }.after(tries));
                },
                |fs, outcome, faults| {
                    let now = look(fs);
                    let place = || format!("{name}, operation {tries} below fails");
                    match outcome {
                        Ok(()) => assert!(now == after, "{}: done, but not to be seen", place()),
                        Err(error) => {
                            assert_eq!(error.errno(), errno, "{}", place());
                            if let Err(problem) = is_between(&now, &before, &after) {
                                panic!("{}: {problem}", place());
                            }
                        }
                    }
                    done = faults.failed() == 0;
                },
            );
            if done {
                break;
            }
            tries += 1;
            assert!(tries < 500, "{name}");
        }
        assert!(tries > 0, "{name} asks nothing of the disk");
    }
}

#[test]
fn an_input_output_error_reaches_who_asked_and_harms_nothing() {
    fails_once_everywhere(libc::EIO, false);
}

#[test]
fn a_write_that_is_cut_short_harms_nothing() {
    fails_once_everywhere(libc::EDQUOT, true);
}

/// The disk takes no change any more: all that was is read, and all that would change it fails.
#[test]
fn a_disk_that_takes_no_changes_is_still_read() {
    for errno in [libc::EROFS, libc::ENOSPC, libc::EDQUOT, libc::EIO] {
        for (name, operation) in OPERATIONS {
            let (before, after) = before_and_after(operation);
            run(
                operation,
                (&before, &after),
                |faults| {
                    faults.arm(Fault::lasting(crate::backing::fault::Operation::is_change, errno));
                },
                |fs, outcome, _| {
                    if let Err(error) = outcome {
                        assert_eq!(error.errno(), errno, "{name}");
                    }
                    if let Err(problem) = is_between(&look(fs), &before, &after) {
                        panic!("{name}: {problem}");
                    }
                },
            );
        }
    }
}

/// Room is reserved once for a block in the journal, and again where a short one grows.
#[test]
fn what_the_journal_holds_whole_needs_no_more_room() {
    let faults = Faults::default();
    let place = MemoryDirectory::new();
    format(&place);
    let fs = open(faults.wrap(place.open_directory(b".").unwrap()));
    let ino = fs.create(&CALLER, ROOT, b"file", 0o600).unwrap().attributes.ino;
    fs.write(ino, 0, &bytes(1, 100)).unwrap();
    fs.sync(ino, true).unwrap();
    // The durable tail grows in the journal, and what follows it joins it there.
    fs.write(ino, 100, &bytes(2, 4096 + 50)).unwrap();

    faults.arm(Fault::lasting(|operation| operation == Operation::Allocate, libc::ENOSPC));
    fs.write(ino, 0, &bytes(3, 4096)).unwrap();
    assert_eq!(faults.failed(), 0, "its room is reserved");
    let grown = fs.write(ino, 4096 + 150, &bytes(4, 3000)).unwrap_err();
    assert_eq!(grown.errno(), libc::ENOSPC);
    faults.disarm();
    fs.write(ino, 4096 + 150, &bytes(4, 3000)).unwrap();
    fs.close().unwrap();
}
