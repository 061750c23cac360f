//! The core against simple references, over memory and over the operating system.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::backing::memory::MemoryDirectory;
use crate::backing::os::OsDirectory;
use crate::backing::{Directory, RenameMode, SetTime, Timestamp, XattrMode};
use crate::crypto::MasterKey;

pub(super) const CALLER: Caller = Caller { uid: 0, gid: 0, umask: 0o022 };

pub(super) fn master() -> MasterKey {
    MasterKey::from_bytes(&[42; 32])
}

pub(super) fn format(vault: &dyn Directory) {
    for name in [TREE_NAME, OVERFLOW_NAME] {
        vault.make_directory(name.as_bytes(), 0o700).unwrap();
    }
    FileSystem::format(vault, &master()).unwrap();
}

fn open(vault: Box<dyn Directory>) -> FileSystem {
    FileSystem::open(vault, &master(), FilesystemOptions::default(), "a test").unwrap()
}

/// A vault that can be opened again and again.
enum Place {
    Memory(MemoryDirectory),
    System(tempfile::TempDir),
}

impl Place {
    fn memory() -> Self {
        let place = Self::Memory(MemoryDirectory::new());
        format(&*place.directory());
        place
    }

    fn system() -> Self {
        let place = Self::System(tempfile::tempdir().unwrap());
        format(&*place.directory());
        place
    }

    fn directory(&self) -> Box<dyn Directory> {
        match self {
            Self::Memory(root) => root.open_directory(b".").unwrap(),
            Self::System(path) => Box::new(OsDirectory::open(path.path()).unwrap()),
        }
    }

    fn open(&self) -> FileSystem {
        open(self.directory())
    }
}

pub(super) fn read_all(fs: &FileSystem, ino: InodeNumber) -> Vec<u8> {
    let size = usize::try_from(fs.attributes(ino).unwrap().size).unwrap();
    let mut bytes = vec![0; size + 10];
    let read = fs.read(ino, 0, &mut bytes).unwrap();
    bytes.truncate(read);
    bytes
}

#[test]
fn a_file_lives_through_a_remount() {
    for place in [Place::memory(), Place::system()] {
        let fs = place.open();
        let directory = fs.make_directory(&CALLER, InodeNumber::ROOT, b"notes", 0o777).unwrap();
        let parent = directory.attributes.ino;
        assert_eq!(directory.attributes.mode, 0o755);
        let file = fs.create(&CALLER, parent, b"diary.txt", 0o666).unwrap().attributes;
        assert_eq!((file.mode, file.size, file.links), (0o644, 0, 1));
        fs.write(file.ino, 0, b"dear diary").unwrap();
        fs.write(file.ino, 5000, b"later").unwrap();
        fs.make_symlink(&CALLER, parent, b"link", b"diary.txt").unwrap();
        fs.hard_link(file.ino, parent, &[b'x'; 255]).unwrap();
        fs.set_xattr(file.ino, b"user.mood", b"fine", XattrMode::Any).unwrap();
        assert_eq!(fs.attributes(file.ino).unwrap().links, 2);
        fs.close().unwrap();

        let fs = place.open();
        assert!(!fs.recovered().unclean);
        let parent = fs.lookup(InodeNumber::ROOT, b"notes").unwrap().attributes.ino;
        let file = fs.lookup(parent, &[b'x'; 255]).unwrap().attributes;
        assert_eq!(file.size, 5005);
        let bytes = read_all(&fs, file.ino);
        assert_eq!(&bytes[..10], b"dear diary");
        assert_eq!(bytes[10..5000], [0; 4990]);
        assert_eq!(&bytes[5000..], b"later");
        let link = fs.lookup(parent, b"link").unwrap().attributes;
        assert_eq!(link.size, 9);
        assert_eq!(fs.read_link(link.ino).unwrap(), b"diary.txt");
        assert_eq!(fs.get_xattr(file.ino, b"user.mood").unwrap(), b"fine");
        assert_eq!(fs.list_xattr(file.ino).unwrap(), [b"user.mood"]);
        let mut names = Vec::new();
        fs.read_directory(parent, 0, true, &mut |entry| {
            names.push(entry.name.to_vec());
            true
        })
        .unwrap();
        names.sort();
        assert_eq!(names, [&b"."[..], b"..", b"diary.txt", b"link", &[b'x'; 255]]);
        fs.unlink(parent, &[b'x'; 255]).unwrap();
        fs.unlink(parent, b"diary.txt").unwrap();
        // Open but unlinked: still there.
        assert_eq!(read_all(&fs, file.ino).len(), 5005);
        fs.unlink(parent, b"link").unwrap();
        fs.remove_directory(InodeNumber::ROOT, b"notes").unwrap();
        fs.close().unwrap();
        let tree = place.directory().open_directory(TREE_NAME.as_bytes()).unwrap();
        let mut left = 0;
        tree.read_entries(0, &mut |_| {
            left += 1;
            true
        })
        .unwrap();
        assert_eq!(left, 3, "., .. and the record");
    }
}

/// The kernel may send the time of a change before the change itself.
#[test]
fn a_write_after_its_time_leaves_the_time() {
    let place = Place::memory();
    let options = FilesystemOptions { kernel_keeps_times: true, ..FilesystemOptions::default() };
    let fs = FileSystem::open(place.directory(), &master(), options, "a test").unwrap();
    let ino = fs.create(&CALLER, InodeNumber::ROOT, b"file", 0o600).unwrap().attributes.ino;
    let time = Timestamp { seconds: 1_000, nanoseconds: 5 };
    let changes = SetAttributes { modified: SetTime::At(time), ..SetAttributes::default() };
    fs.set_attributes(ino, &changes).unwrap();
    fs.write(ino, 0, &[1; 5000]).unwrap();
    assert_eq!(fs.attributes(ino).unwrap().modified, time);
    fs.sync(ino, false).unwrap();
    fs.write(ino, 0, &[2; 5000]).unwrap();
    fs.close().unwrap();
    let fs = place.open();
    assert_eq!(fs.lookup(InodeNumber::ROOT, b"file").unwrap().attributes.modified, time);
    fs.close().unwrap();
}

#[test]
fn renames_replace_exchange_and_refuse() {
    let place = Place::memory();
    let fs = place.open();
    let root = InodeNumber::ROOT;
    let a = fs.create(&CALLER, root, b"a", 0o600).unwrap().attributes.ino;
    fs.write(a, 0, b"A").unwrap();
    let b = fs.create(&CALLER, root, b"b", 0o600).unwrap().attributes.ino;
    fs.write(b, 0, b"B").unwrap();
    assert!(matches!(fs.rename(root, b"a", root, b"b", RenameMode::NoReplace), Err(Error::Exists)));
    fs.rename(root, b"a", root, b"b", RenameMode::Exchange).unwrap();
    assert_eq!(fs.lookup(root, b"b").unwrap().attributes.ino, a);
    fs.rename(root, b"b", root, b"a", RenameMode::Replace).unwrap();
    assert_eq!(fs.lookup(root, b"a").unwrap().attributes.ino, a);
    assert!(matches!(fs.lookup(root, b"b"), Err(Error::NotFound)));
    assert_eq!(read_all(&fs, b), b"B", "replaced but open");
    let d = fs.make_directory(&CALLER, root, b"d", 0o700).unwrap().attributes.ino;
    fs.make_directory(&CALLER, root, b"e", 0o700).unwrap();
    fs.create(&CALLER, d, b"inside", 0o600).unwrap();
    assert!(matches!(fs.rename(root, b"e", root, b"d", RenameMode::Replace), Err(Error::NotEmpty)));
    fs.rename(root, b"d", root, b"e", RenameMode::Replace).unwrap();
    let e = fs.lookup(root, b"e").unwrap().attributes.ino;
    assert_eq!(e, d);
    fs.lookup(e, b"inside").unwrap();
    fs.close().unwrap();
}

#[derive(Clone, Debug)]
enum Step {
    Write { offset: u64, len: usize, byte: u8 },
    Truncate(u64),
    Fallocate(u8, u64, u64),
    Sync,
    SyncAll,
    Remount,
    Drop,
}

fn offset() -> impl Strategy<Value = u64> {
    prop_oneof![0u64..20_000, (0u64..6).prop_map(|block| block * 4096), 0u64..200_000]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (offset(), prop_oneof![1usize..300, 1usize..20_000, Just(4096usize), Just(100_000usize)], 1u8..)
            .prop_map(|(offset, len, byte)| Step::Write { offset, len, byte }),
        2 => offset().prop_map(Step::Truncate),
        1 => Just(Step::Truncate(0)),
        2 => (0u8..5, offset(), 1u64..30_000).prop_map(|(mode, offset, len)| Step::Fallocate(mode, offset, len)),
        3 => Just(Step::Sync),
        1 => Just(Step::SyncAll),
        1 => Just(Step::Remount),
        1 => Just(Step::Drop),
    ]
}

fn run(place: &Place, steps: &[Step]) {
    let mut fs = place.open();
    let root = InodeNumber::ROOT;
    let mut ino = fs.create(&CALLER, root, b"file", 0o600).unwrap().attributes.ino;
    let mut model: Vec<u8> = Vec::new();
    for (number, step) in steps.iter().enumerate() {
        match step {
            Step::Write { offset, len, byte } => {
                let data: Vec<u8> = (0..*len).map(|at| byte.wrapping_add(at as u8 % 7)).collect();
                fs.write(ino, *offset, &data).unwrap();
                let end = *offset as usize + len;
                model.resize(model.len().max(end), 0);
                model[*offset as usize..end].copy_from_slice(&data);
            }
            Step::Truncate(size) => {
                let changes = SetAttributes { size: Some(*size), ..SetAttributes::default() };
                assert_eq!(fs.set_attributes(ino, &changes).unwrap().size, *size);
                model.resize(*size as usize, 0);
            }
            Step::Fallocate(mode, offset, len) => {
                let modes = [
                    FallocateMode::Allocate,
                    FallocateMode::AllocateKeepSize,
                    FallocateMode::PunchHole,
                    FallocateMode::ZeroRange,
                    FallocateMode::ZeroRangeKeepSize,
                ];
                let mode = modes[usize::from(*mode)];
                fs.fallocate(ino, mode, *offset, *len).unwrap();
                let end = (*offset + *len) as usize;
                if matches!(mode, FallocateMode::Allocate | FallocateMode::ZeroRange) {
                    model.resize(model.len().max(end), 0);
                }
                if !matches!(mode, FallocateMode::Allocate | FallocateMode::AllocateKeepSize) {
                    let end = end.min(model.len());
                    let start = (*offset as usize).min(end);
                    model[start..end].fill(0);
                }
            }
            Step::Sync => fs.sync(ino, true).unwrap(),
            Step::SyncAll => fs.sync_all().unwrap(),
            Step::Remount | Step::Drop => {
                if matches!(step, Step::Remount) {
                    fs.close().unwrap();
                } else {
                    // Like a crash of the process: what was written so far is in the filesystem.
                    fs.sync(ino, false).unwrap();
                    drop(fs);
                }
                fs = place.open();
                assert_eq!(fs.recovered().unclean, matches!(step, Step::Drop));
                ino = fs.lookup(root, b"file").unwrap().attributes.ino;
            }
        }
        assert_eq!(
            fs.attributes(ino).unwrap().size,
            model.len() as u64,
            "after step {number}: {step:?}"
        );
        let bytes = read_all(&fs, ino);
        if bytes != model {
            let at = bytes.iter().zip(&model).position(|(a, b)| a != b);
            panic!(
                "after step {number}, {step:?}: {} and {} bytes, first difference at {at:?}",
                bytes.len(),
                model.len()
            );
        }
        check_seek(&fs, ino, &model);
    }
    fs.close().unwrap();
}

/// Wherever the model has a byte that is not zero, there is data; and holes and data alternate.
fn check_seek(fs: &FileSystem, ino: InodeNumber, model: &[u8]) {
    let mut at = 0;
    let mut rounds = 0;
    while at < model.len() as u64 {
        let data = match fs.seek(ino, at, SeekWhence::Data) {
            Ok(data) => data,
            Err(Error::NoOffset) => model.len() as u64,
            Err(error) => panic!("{error}"),
        };
        assert!(
            model[at as usize..data as usize].iter().all(|byte| *byte == 0),
            "a hole that holds data"
        );
        if data == model.len() as u64 {
            break;
        }
        let hole = fs.seek(ino, data, SeekWhence::Hole).unwrap();
        assert!(hole > data, "data ends after it begins");
        at = hole;
        rounds += 1;
        assert!(rounds < 1000);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn a_file_is_like_bytes_in_memory(steps in proptest::collection::vec(step(), 1..40)) {
        run(&Place::memory(), &steps);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn a_file_is_like_bytes_in_memory_on_the_system(steps in proptest::collection::vec(step(), 1..40)) {
        run(&Place::system(), &steps);
    }
}

/// Cipher blocks lie across the borders of the blocks below; data and holes are told to the plain
/// block all the same.
#[test]
fn data_and_holes_are_told_to_the_block() {
    const BLOCK: u64 = 4096;
    let place = Place::system();
    let fs = place.open();
    let ino = fs.create(&CALLER, InodeNumber::ROOT, b"sparse", 0o644).unwrap().attributes.ino;
    let size = SetAttributes { size: Some(256 * BLOCK), ..SetAttributes::default() };
    fs.set_attributes(ino, &size).unwrap();
    let seek = |at: u64, whence| fs.seek(ino, at * BLOCK, whence).ok().map(|at| at / BLOCK);
    assert_eq!(seek(0, SeekWhence::Data), None);
    assert_eq!(seek(0, SeekWhence::Hole), Some(0));
    fs.write(ino, 16 * BLOCK, &[1; BLOCK as usize]).unwrap();
    assert_eq!(seek(0, SeekWhence::Data), Some(16));
    assert_eq!(seek(16, SeekWhence::Hole), Some(17));
    assert_eq!(seek(17, SeekWhence::Data), None);
    fs.write(ino, 0, &vec![1; 256 * BLOCK as usize]).unwrap();
    for (first, after) in [(32, 96), (100, 103), (200, 256)] {
        let len = (after - first) * BLOCK;
        fs.fallocate(ino, FallocateMode::PunchHole, first * BLOCK, len).unwrap();
        assert_eq!(seek(first - 1, SeekWhence::Hole), Some(first));
        assert_eq!(seek(first, SeekWhence::Hole), Some(first));
        assert_eq!(seek(first, SeekWhence::Data), Some(after).filter(|after| *after < 256));
    }
    fs.close().unwrap();
}

/// A directory is forgotten before a file that was found in it: the file is also known by a name
/// elsewhere. When the directory then moves, the file must still be found by the name in it.
#[test]
fn a_forgotten_directory_that_moves_takes_its_members_along() {
    let place = Place::memory();
    let fs = place.open();
    let make = |name: &[u8]| fs.make_directory(&CALLER, InodeNumber::ROOT, name, 0o755).unwrap();
    let (one, two) = (make(b"one").attributes.ino, make(b"two").attributes.ino);
    let file = fs.create(&CALLER, one, b"file", 0o644).unwrap().attributes.ino;
    fs.release(file);
    fs.write(file, 0, b"content").unwrap();
    fs.hard_link(file, two, b"link").unwrap();
    fs.sync_all().unwrap();
    fs.forget(two, 1);
    let rename = |from: &[u8], to: &[u8]| {
        fs.rename(InodeNumber::ROOT, from, InodeNumber::ROOT, to, RenameMode::Replace).unwrap();
    };
    fs.lookup(InodeNumber::ROOT, b"two").unwrap();
    rename(b"two", b"moved");
    fs.forget(two, 1);
    // Nothing but the name in the directory that moved is left, and every descriptor is given up.
    fs.unlink(one, b"file").unwrap();
    fs.sync_all().unwrap();
    for number in 0..2000 {
        let name = format!("other-{number}");
        let other = fs.create(&CALLER, one, name.as_bytes(), 0o644).unwrap().attributes.ino;
        fs.release(other);
    }
    assert_eq!(read_all(&fs, file), b"content");
    assert_eq!(fs.attributes(file).unwrap().links, 1);
    // And what nobody refers to any more is forgotten.
    fs.forget(file, 2);
    fs.unlink(one, b"other-0").unwrap();
    fs.sync_all().unwrap();
    assert!(fs.lookup(two, b"link").is_err());
    fs.close().unwrap();
}

/// What was appended while torn blocks are looked for may lie in the journal alone, and is found
/// there by the file's header.
#[test]
fn looking_for_torn_blocks_leaves_the_header_of_what_lies_in_the_journal() {
    for place in [Place::memory(), Place::system()] {
        let fs = place.open();
        let ino = fs.create(&CALLER, InodeNumber::ROOT, b"log", 0o600).unwrap().attributes.ino;
        fs.sync(ino, true).unwrap();
        fs.sync(ino, true).unwrap();
        fs.write(ino, 0, &[7; 5000]).unwrap();
        let inode = fs.core().inode(ino).unwrap();
        {
            let file = inode.open_file().unwrap();
            let mut content = file.content.write();
            assert!(content.has_records(), "the journal has it");
            content.suspect = true;
        }
        fs.core().settle_file(&inode).unwrap();
        fs.sync(ino, true).unwrap();
        drop((inode, fs));

        let fs = place.open();
        let ino = fs.lookup(InodeNumber::ROOT, b"log").unwrap().attributes.ino;
        assert_eq!(read_all(&fs, ino), [7; 5000]);
    }
}

/// Emptying the journal makes way for an application that syncs, while there is room.
#[test]
fn emptying_the_journal_waits_for_who_syncs() {
    const EVER: Duration = Duration::from_secs(1 << 30);
    let options = FilesystemOptions { journal_segment: 128 << 10, ..FilesystemOptions::default() };
    let vault = Place::memory().directory();
    let fs = FileSystem::open(vault, &master(), options, "a test").unwrap();
    let ino = fs.create(&CALLER, InodeNumber::ROOT, b"file", 0o600).unwrap().attributes.ino;
    fs.write(ino, 0, &[7; 100_000]).unwrap();
    fs.sync(ino, true).unwrap();
    fs.write(ino, 0, &[8; 4096]).unwrap();
    let journal = fs.core().journal().unwrap();
    assert!(!journal.emptying_can_wait(EVER), "nobody waited for it");
    fs.sync(ino, true).unwrap();
    assert!(journal.emptying_can_wait(EVER));
    assert!(!journal.emptying_can_wait(Duration::ZERO), "that was long ago");
    for _ in 0..16 {
        fs.write(ino, 0, &[9; 4096]).unwrap();
    }
    fs.sync(ino, true).unwrap();
    assert!(!journal.emptying_can_wait(EVER), "there is little room left");
}
