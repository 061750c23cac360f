//! The core over disks that refuse single things: holes, a size, room in the middle of a write, an
//! open against a file's mode, another user's times.

#![allow(clippy::unwrap_used)]

use super::test_disk::{Disk, ROOT, content};
use super::tests::{CALLER, read_all};
use super::*;
use crate::backing::fault::{Fault, Operation};
use crate::backing::{Directory, RenameMode};

const BLOCK: usize = 4096;

fn file(fs: &FileSystem, name: &[u8], content: &[u8]) -> InodeNumber {
    let ino = fs.create(&CALLER, ROOT, name, 0o600).unwrap().attributes.ino;
    fs.write(ino, 0, content).unwrap();
    ino
}

fn resize(fs: &FileSystem, ino: InodeNumber, size: u64) -> Result<Attributes> {
    fs.set_attributes(ino, &SetAttributes { size: Some(size), ..SetAttributes::default() })
}

/// A hole that cannot be made is made of zeros; also by recovery, which must not fail for it.
#[test]
fn where_no_hole_can_be_made_zeros_are_written() {
    let place = Disk::new();
    let fs = place.open();
    let ino = file(&fs, b"file", &[1; 5 * BLOCK]);
    fs.sync(ino, false).unwrap();
    let no_holes =
        || Fault::lasting(|operation| operation == Operation::PunchHole, libc::EOPNOTSUPP);
    place.faults.arm(no_holes());
    fs.fallocate(ino, FallocateMode::PunchHole, 4096, 2 * 4096).unwrap();
    fs.fallocate(ino, FallocateMode::PunchHole, 4 * 4096, 10 * 4096).unwrap();
    let mut expected = vec![1; 5 * BLOCK];
    expected[BLOCK..3 * BLOCK].fill(0);
    expected[4 * BLOCK..].fill(0);
    assert_eq!(read_all(&fs, ino), expected);
    fs.sync(ino, false).unwrap();
    drop(fs);
    let fs = place.open();
    assert!(fs.recovered().unclean);
    assert_eq!(content(&fs, b"file"), expected);
    fs.close().unwrap();
}

/// A size that the filesystem below does not allow leaves the file as it was.
#[test]
fn a_file_that_cannot_grow_keeps_its_size() {
    const TOO_LARGE: u64 = 1 << 46;
    for (synced, shrunk) in [(false, false), (true, false), (true, true)] {
        let place = Disk::new();
        let fs = place.open();
        let ino = file(&fs, b"file", &[1; 100]);
        if synced {
            fs.sync(ino, false).unwrap();
        }
        let mut expected = vec![1; 100];
        if shrunk {
            resize(&fs, ino, 50).unwrap();
            expected.truncate(50);
        }
        assert_eq!(resize(&fs, ino, TOO_LARGE).unwrap_err().errno(), libc::EFBIG);
        assert_eq!(read_all(&fs, ino), expected, "{synced}, {shrunk}");
        fs.sync(ino, false).unwrap();
        drop(fs);
        let fs = place.open();
        assert_eq!(content(&fs, b"file"), expected, "{synced}, {shrunk}");
        fs.close().unwrap();
    }
}

/// Wherever it fails, neither the gap nor what was to follow it is seen.
#[test]
fn a_write_after_a_gap_that_fails_leaves_the_size() {
    for (synced, kernel_keeps_times) in [(false, false), (false, true), (true, false), (true, true)]
    {
        let mut failures = 0;
        loop {
            let place = Disk::new();
            let options = FilesystemOptions { kernel_keeps_times, ..FilesystemOptions::default() };
            let fs = place.open_with(options);
            let ino = file(&fs, b"file", &[1; 100]);
            if synced {
                fs.sync(ino, false).unwrap();
            }
            place
                .faults
                .arm(Fault::once(Operation::is_change, libc::EIO).partial().after(failures));
            let outcome = fs.write(ino, 20_000, &[2; 100_000]);
            place.faults.disarm();
            if outcome.is_ok() {
                break;
            }
            let context = format!("{synced}, {kernel_keeps_times}, change {failures} fails");
            assert_eq!(fs.attributes(ino).unwrap().size, 100, "{context}");
            assert_eq!(read_all(&fs, ino), [1; 100], "{context}");
            fs.sync(ino, false).unwrap();
            fs.close().unwrap();
            let fs = place.open();
            assert_eq!(content(&fs, b"file"), [1; 100], "{context}");
            fs.close().unwrap();
            failures += 1;
        }
        assert!(failures > 1);
    }
}

/// The block that both share is written anew, and the disk gets full in the middle of it.
#[test]
fn an_append_that_fails_leaves_what_was_there() {
    let place = Disk::new();
    let fs = place.open();
    let ino = file(&fs, b"file", &[1; 3000]);
    place
        .faults
        .arm(Fault::once(|operation| operation == Operation::Write, libc::ENOSPC).partial());
    assert_eq!(fs.write(ino, 3000, &[2; 2000]).unwrap_err().errno(), libc::ENOSPC);
    assert!(read_all(&fs, ino) == [1; 3000]);
    fs.close().unwrap();
    let fs = place.open();
    assert!(content(&fs, b"file") == [1; 3000]);
    fs.close().unwrap();
}

#[test]
fn a_file_that_cannot_be_cut_keeps_its_size() {
    let place = Disk::new();
    let fs = place.open();
    let ino = file(&fs, b"file", &[1; 10_000]);
    place.faults.arm(Fault::once(|operation| operation == Operation::SetLen, libc::EIO));
    assert_eq!(resize(&fs, ino, 100).unwrap_err().errno(), libc::EIO);
    assert!(read_all(&fs, ino) == [1; 10_000]);
    fs.close().unwrap();
    let fs = place.open();
    assert!(content(&fs, b"file") == [1; 10_000]);
    fs.close().unwrap();
}

#[test]
fn an_empty_file_that_cannot_grow_stays_empty() {
    let place = Disk::new();
    let fs = place.open();
    let ino = fs.create(&CALLER, ROOT, b"file", 0o600).unwrap().attributes.ino;
    assert_eq!(resize(&fs, ino, 1 << 46).unwrap_err().errno(), libc::EFBIG);
    assert_eq!(fs.attributes(ino).unwrap().size, 0);
    fs.close().unwrap();
    let fs = place.open();
    assert_eq!(content(&fs, b"file"), b"");
    fs.close().unwrap();
}

/// The disk gets full in the middle of a block of a hole.
#[test]
fn a_hole_that_is_written_in_part_is_read_still() {
    let place = Disk::new();
    let fs = place.open();
    let ino = fs.create(&CALLER, ROOT, b"file", 0o600).unwrap().attributes.ino;
    resize(&fs, ino, 8 << 20).unwrap();
    let full = Fault::once(|operation| operation == Operation::Write, libc::ENOSPC).partial();
    place.faults.arm(full);
    assert_eq!(fs.write(ino, 0, &[1; 15 * BLOCK]).unwrap_err().errno(), libc::ENOSPC);
    let found = read_all(&fs, ino);
    assert_eq!(found.len(), 8 << 20);
    let whole = found.iter().position(|byte| *byte == 0).unwrap();
    assert_eq!((whole % BLOCK, whole / BLOCK), (0, 7), "whole blocks, then zeros");
    assert!(found[whole..].iter().all(|byte| *byte == 0));
    fs.close().unwrap();
}

/// The owner made the file read-only while it is open for writing, and its descriptor was given up.
#[test]
fn a_file_is_written_on_after_its_mode_forbids_it() {
    let place = Disk::new();
    let fs = place.open();
    let ino = fs.create(&CALLER, ROOT, b"file", 0o444).unwrap().attributes.ino;
    fs.write(ino, 0, &[1; 100]).unwrap();
    fs.sync_all().unwrap();
    let refused = || Fault::once(|operation| operation == Operation::OpenFile, libc::EACCES);
    let give_up = || drop(fs.core().inode(ino).unwrap().open.lock().take());
    // The first for writing; not the next, for reading; and again the one for writing.
    give_up();
    place.faults.arm(refused());
    place.faults.arm(refused().after(2));
    fs.write(ino, 0, &[2; 50]).unwrap();
    fs.sync(ino, false).unwrap();
    assert_eq!(place.faults.failed(), 2);
    // Neither for writing nor for reading.
    fs.core().empty_journal().unwrap();
    give_up();
    place.faults.arm(refused());
    place.faults.arm(refused().after(1));
    assert_eq!(read_all(&fs, ino), [vec![2; 50], vec![1; 50]].concat());
    assert_eq!(place.faults.failed(), 4);
    assert_eq!(fs.attributes(ino).unwrap().mode, 0o444);
    // Whoever opens it is asked for the permission.
    give_up();
    place.faults.arm(refused());
    place.faults.arm(refused().after(2));
    let opened = fs.open_file(ino, crate::backing::Access::ReadWrite);
    assert_eq!(opened.unwrap_err().errno(), libc::EACCES);
    place.faults.disarm();
    fs.close().unwrap();
}

/// A directory that cannot take another's place after all has its name again.
#[test]
fn a_directory_that_cannot_replace_another_keeps_its_name() {
    let place = Disk::new();
    let fs = place.open();
    let full = fs.make_directory(&CALLER, ROOT, b"full", 0o700).unwrap().attributes.ino;
    let empty = fs.make_directory(&CALLER, ROOT, b"empty", 0o700).unwrap().attributes.ino;
    fs.create(&CALLER, full, b"inside", 0o600).unwrap();
    let second = Fault::once(|operation| operation == Operation::Rename, libc::EIO).after(1);
    place.faults.arm(second);
    let renamed = fs.rename(ROOT, b"full", ROOT, b"empty", RenameMode::Replace);
    assert_eq!(renamed.unwrap_err().errno(), libc::EIO);
    place.faults.disarm();
    assert_eq!(fs.lookup(ROOT, b"full").unwrap().attributes.ino, full);
    assert_eq!(fs.lookup(ROOT, b"empty").unwrap().attributes.ino, empty);
    fs.lookup(full, b"inside").unwrap();
    fs.rename(ROOT, b"full", ROOT, b"empty", RenameMode::Replace).unwrap();
    assert!(matches!(fs.lookup(ROOT, b"full"), Err(Error::NotFound)));
    fs.close().unwrap();
    let fs = place.open();
    let empty = fs.lookup(ROOT, b"empty").unwrap().attributes.ino;
    fs.lookup(empty, b"inside").unwrap();
    fs.close().unwrap();
}

/// The times of another user's file cannot be set. Writing it, which its group may, goes on.
#[test]
fn a_file_whose_times_cannot_be_set_is_written_all_the_same() {
    let place = Disk::new();
    let fs = place.open();
    let ino = file(&fs, b"file", &[1; 2 * BLOCK]);
    fs.sync(ino, false).unwrap();
    let not_ours =
        || Fault::lasting(|operation| operation == Operation::SetAttributes, libc::EPERM);
    place.faults.arm(not_ours());
    fs.write(ino, 0, &[2; BLOCK]).unwrap();
    fs.sync(ino, true).unwrap();
    fs.core().empty_journal().unwrap();
    fs.write(ino, 0, &[3; BLOCK]).unwrap();
    fs.sync(ino, true).unwrap();
    place.faults.disarm();
    drop(fs);
    // The first that recovery sets.
    place.faults.arm(Fault::once(|operation| operation == Operation::SetAttributes, libc::EPERM));
    let fs = place.open();
    assert!(fs.recovered().unclean);
    assert_eq!(content(&fs, b"file"), [vec![3; BLOCK], vec![1; BLOCK]].concat());
    fs.close().unwrap();
}

/// What cannot be given to its owner does not stay: the kernel takes it not to exist.
#[test]
fn what_cannot_be_handed_over_is_not_there() {
    let place = Disk::new();
    let fs = place.open();
    let caller = Caller { uid: 12_345, ..CALLER };
    let names = [b"x".to_vec(), vec![b'x'; 255]];
    for name in &names {
        let creations: [&dyn Fn() -> Result<Entry>; 4] = [
            &|| fs.create(&caller, ROOT, name, 0o600),
            &|| fs.make_directory(&caller, ROOT, name, 0o700),
            &|| fs.make_symlink(&caller, ROOT, name, b"target"),
            &|| fs.make_node(&caller, ROOT, name, libc::S_IFIFO | 0o600, 0),
        ];
        for create in creations {
            let fault = Fault::once(|operation| operation == Operation::SetAttributes, libc::EPERM);
            place.faults.arm(fault);
            assert_eq!(create().unwrap_err().errno(), libc::EPERM);
            assert!(matches!(fs.lookup(ROOT, name), Err(Error::NotFound)));
        }
    }
    fs.close().unwrap();
    let mut left = 0;
    let tree = place.root.open_directory(TREE_NAME.as_bytes()).unwrap();
    tree.read_entries(0, &mut |_| {
        left += 1;
        true
    })
    .unwrap();
    assert_eq!(left, 3, "., .. and the record");
}

/// The kernel's time of a write cannot be set either; a sync, which begins with it, does not fail.
#[test]
fn the_kernels_time_of_a_write_to_anothers_file_is_let_go_of() {
    let place = Disk::new();
    let options = FilesystemOptions { kernel_keeps_times: true, ..FilesystemOptions::default() };
    let fs = place.open_with(options);
    let ino = file(&fs, b"file", &[1; 100]);
    let time = crate::backing::Timestamp { seconds: 1_000, nanoseconds: 5 };
    let changes =
        SetAttributes { modified: crate::backing::SetTime::At(time), ..SetAttributes::default() };
    let not_ours = Fault::once(|operation| operation == Operation::SetAttributes, libc::EPERM);
    place.faults.arm(not_ours);
    assert_ne!(fs.set_attributes(ino, &changes).unwrap().modified, time);
    let changes = SetAttributes { accessed: crate::backing::SetTime::Now, ..changes };
    place.faults.arm(not_ours);
    assert_eq!(fs.set_attributes(ino, &changes).unwrap_err().errno(), libc::EPERM);
    fs.close().unwrap();
}
