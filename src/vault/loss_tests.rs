//! After a sync failed, the kernel may have dropped what was written: who is told, what is written
//! again, and what unmounting says.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use super::test_disk::{Disk, ROOT, content, create, is_file_sync};
use super::tests::CALLER;
use super::*;
use crate::backing::RenameMode;
use crate::backing::fault::{Fault, Operation};

/// So many that a commit syncs the filesystem instead of each of them.
const MANY: u8 = 70;
/// Time for a thread that should wait to go wrong.
const MOMENT: Duration = Duration::from_millis(50);
/// The thread whose syncs wait.
const HELD: &str = "held";

impl Disk {
    /// The next sync of a file fails, and what was written since is lost.
    fn lose(&self) {
        self.faults.arm(Fault::once(is_file_sync, libc::EIO).dropping());
    }
}

fn is_held_sync(operation: Operation) -> bool {
    is_file_sync(operation) && std::thread::current().name() == Some(HELD)
}

fn errno(outcome: Result<()>) -> i32 {
    outcome.unwrap_err().errno()
}

/// The kernel tells of a loss once; the one whose sync came second hears of it, too.
#[test]
fn all_whose_syncs_were_under_way_hear_of_a_loss() {
    let disk = Disk::new();
    let fs = disk.open();
    let ino = create(&fs, b"file", &[1; 5000]);
    disk.faults.hold(is_file_sync);
    disk.lose();
    std::thread::scope(|scope| {
        let first = scope.spawn(|| fs.sync(ino, true));
        disk.faults.wait_until_held(1);
        let second = scope.spawn(|| fs.sync(ino, false));
        std::thread::sleep(MOMENT);
        disk.faults.release();
        assert_eq!(errno(first.join().unwrap()), libc::EIO);
        assert_eq!(errno(second.join().unwrap()), libc::EIO);
    });
    assert_eq!(disk.faults.failed(), 1);
    fs.write(ino, 0, &[2; 5000]).unwrap();
    fs.sync(ino, true).unwrap();
    fs.close().unwrap();
    let fs = disk.open();
    assert!(content(&fs, b"file") == [2; 5000]);
    fs.close().unwrap();
}

/// As long as a sync may fail, what a rename writes in place may be lost with it.
#[test]
fn a_rename_waits_for_a_sync_of_its_file() {
    let disk = Disk::new();
    let fs = disk.open();
    let ino = create(&fs, b"old", &[1; 8192]);
    fs.sync_all().unwrap();
    fs.write(ino, 0, &[2; 4096]).unwrap();
    fs.sync(ino, true).unwrap();
    fs.write(ino, 8192, &[3; 4096]).unwrap();
    disk.faults.hold(is_held_sync);
    disk.lose();
    std::thread::scope(|scope| {
        let held = std::thread::Builder::new().name(HELD.to_owned());
        let sync = held.spawn_scoped(scope, || fs.sync(ino, true)).unwrap();
        disk.faults.wait_until_held(1);
        let rename = scope.spawn(|| fs.rename(ROOT, b"old", ROOT, b"new", RenameMode::Replace));
        std::thread::sleep(MOMENT);
        let early = rename.is_finished();
        disk.faults.release();
        assert!(!early, "nothing is settled yet");
        assert_eq!(errno(sync.join().unwrap()), libc::EIO);
        rename.join().unwrap().unwrap();
    });
    drop(fs);
    let fs = disk.open();
    assert!(content(&fs, b"new")[..8192] == [[2; 4096], [1; 4096]].concat());
    fs.close().unwrap();
}

#[test]
fn what_was_settled_before_a_loss_is_settled_again() {
    let disk = Disk::new();
    let fs = disk.open();
    let ino = create(&fs, b"a", &[1; 8192]);
    fs.sync_all().unwrap();
    fs.write(ino, 0, &[2; 4096]).unwrap();
    fs.rename(ROOT, b"a", ROOT, b"b", RenameMode::Replace).unwrap();
    fs.write(ino, 8192, &[3; 4096]).unwrap();
    disk.lose();
    assert_eq!(errno(fs.sync(ino, true)), libc::EIO);
    let pending = || {
        let file = fs.core().inode(ino).unwrap().open_file().unwrap();
        let content = file.content.read();
        content.live.values().filter(|block| block.is_pending()).count()
    };
    assert_eq!(pending(), 1);
    fs.rename(ROOT, b"b", ROOT, b"c", RenameMode::Replace).unwrap();
    assert_eq!(pending(), 0);
    fs.close().unwrap();
}

/// A hole in durable blocks comes back with what was there before, and is made again.
#[test]
fn a_hole_that_was_lost_is_made_again() {
    let disk = Disk::new();
    let fs = disk.open();
    let ino = create(&fs, b"file", &[1; 5 * 4096]);
    fs.sync_all().unwrap();
    let sync = |operation| operation == Operation::SyncAll;
    disk.faults.arm(Fault::once(sync, libc::EIO).dropping());
    fs.fallocate(ino, FallocateMode::PunchHole, 4096, 3 * 4096).unwrap();
    // The journal has the hole and, within it, a block.
    fs.write(ino, 2 * 4096, &[2; 4096]).unwrap();
    assert_eq!(errno(fs.sync_all()), libc::EIO);
    assert_eq!(errno(fs.sync(ino, true)), libc::EIO);
    fs.core().empty_journal().unwrap();
    let expected = [[1; 4096], [0; 4096], [2; 4096], [0; 4096], [1; 4096]].concat();
    assert!(content(&fs, b"file") == expected);
    fs.close().unwrap();
    let fs = disk.open();
    assert!(content(&fs, b"file") == expected);
    fs.close().unwrap();
}

/// Without its header nothing in a file could be read, whatever is written to it again.
#[test]
fn a_header_that_was_lost_is_written_again() {
    let disk = Disk::new();
    let fs = disk.open();
    let ino = fs.create(&CALLER, ROOT, b"file", 0o600).unwrap().attributes.ino;
    disk.lose();
    fs.write(ino, 0, &[1; 8192]).unwrap();
    assert_eq!(errno(fs.sync(ino, true)), libc::EIO);
    fs.write(ino, 4096, &[2; 4096]).unwrap();
    fs.write(ino, 0, &[2; 4096]).unwrap();
    fs.sync(ino, true).unwrap();
    fs.release(ino);
    fs.close().unwrap();
    let fs = disk.open();
    assert!(content(&fs, b"file") == [2; 8192]);
    fs.close().unwrap();
}

/// The second commit succeeds, for the kernel has nothing left to write.
#[test]
fn unmounting_tells_of_a_loss_that_nobody_was_told_of() {
    for forgotten in [false, true] {
        let disk = Disk::new();
        let fs = disk.open();
        disk.lose();
        let ino = create(&fs, b"file", &[1; 5000]);
        assert_eq!(errno(fs.sync_all()), libc::EIO);
        fs.sync_all().unwrap();
        if forgotten {
            fs.forget(ino, 1);
            assert_eq!(fs.cached_inodes(), 1);
        }
        assert_eq!(errno(fs.close()), libc::EIO, "{forgotten}");
        let fs = disk.open();
        assert!(fs.recovered().unclean);
        fs.close().unwrap();
    }
}

#[test]
fn unmounting_does_not_tell_of_what_went() {
    let disk = Disk::new();
    let fs = disk.open();
    disk.lose();
    create(&fs, b"file", &[1; 5000]);
    assert_eq!(errno(fs.sync_all()), libc::EIO);
    fs.unlink(ROOT, b"file").unwrap();
    fs.close().unwrap();
}

/// `syncfs` fails once for all files, and each file's own sync still tells of its loss.
#[test]
fn a_failed_sync_of_the_filesystem_is_told_to_whom_it_concerns() {
    let disk = Disk::new();
    let fs = disk.open();
    let many = |fs: &FileSystem, seed| -> Vec<_> {
        (0..MANY).map(|at| create(fs, format!("{seed} {at}").as_bytes(), &[at; 5000])).collect()
    };
    let files = many(&fs, "one");
    disk.faults.arm(Fault::once(|operation| operation == Operation::SyncFilesystem, libc::EIO));
    disk.lose();
    assert_eq!(errno(fs.sync_all()), libc::EIO);
    fs.sync_all().unwrap();
    assert_eq!(files.iter().filter(|ino| fs.sync(**ino, true).is_err()).count(), 1);
    // It is told once also where another's sync of the filesystem was the one that was told.
    let before = disk.faults.seen(|operation| operation == Operation::SyncFilesystem);
    many(&fs, "two");
    fs.sync_all().unwrap();
    assert_eq!(disk.faults.seen(|operation| operation == Operation::SyncFilesystem), before);
    fs.close().unwrap();
}
