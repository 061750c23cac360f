//! What a sync promises while another is under way, after one has failed, and for files whose names
//! go: over a disk whose operations wait or fail, and one whose power is cut.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use super::inode::Inode;
use super::journal::{FileRecord, FileReference, RecordOwner};
use super::test_disk::{Disk, ROOT, create, is_file_sync};
use super::tests::{CALLER, format, master, read_all};
use super::*;
use crate::backing::crash::{CrashRecorder, Metadata, Sampler};
use crate::backing::fault::{Fault, Operation};
use crate::backing::{Directory, RenameMode};
use crate::format::header::FileId;
use crate::format::layout::BlockIndex;

/// So many that a commit syncs the filesystem instead of each of them.
const MANY: u8 = 70;
/// Time for a thread that should wait to go wrong.
const MOMENT: Duration = Duration::from_millis(50);

fn open(vault: Box<dyn Directory>) -> FileSystem {
    let options = FilesystemOptions { journal_segment: 16 << 20, ..FilesystemOptions::default() };
    FileSystem::open(vault, &master(), options, "a test").unwrap()
}

fn number(fs: &FileSystem, name: &[u8]) -> InodeNumber {
    fs.lookup(ROOT, name).unwrap().attributes.ino
}

fn name(at: u8) -> Vec<u8> {
    format!("file {at}").into_bytes()
}

fn set_size(fs: &FileSystem, ino: InodeNumber, size: u64) {
    let changes = SetAttributes { size: Some(size), ..SetAttributes::default() };
    fs.set_attributes(ino, &changes).unwrap();
}

fn is_filesystem_sync(operation: Operation) -> bool {
    operation == Operation::SyncFilesystem
}

/// The journal's active segment is filled and emptied.
fn checkpoint(fs: &FileSystem) -> Result<bool> {
    fs.core().journal().unwrap().fill_active().unwrap();
    fs.core().checkpoint_filled(|_| false)
}

#[test]
fn a_sync_during_the_commit_of_everything_syncs_by_itself() {
    let disk = Disk::new();
    let fs = open(disk.directory());
    let files: Vec<_> = (0..MANY).map(|at| create(&fs, &name(at), &[at; 5000])).collect();
    disk.faults.hold(is_filesystem_sync);
    std::thread::scope(|scope| {
        let commit = scope.spawn(|| fs.sync_all());
        disk.faults.wait_until_held(1);
        let before = disk.faults.seen(is_file_sync);
        fs.sync(files[3], true).unwrap();
        assert_eq!(
            disk.faults.seen(is_file_sync) - before,
            1,
            "the commit has not made it durable yet"
        );
        disk.faults.release();
        commit.join().unwrap().unwrap();
    });
    let before = disk.faults.seen(is_file_sync);
    fs.sync(files[4], false).unwrap();
    assert_eq!(disk.faults.seen(is_file_sync), before, "now it is");
    fs.close().unwrap();
}

#[test]
fn a_sync_waits_for_another_of_the_same_file() {
    let disk = Disk::new();
    let fs = open(disk.directory());
    let ino = create(&fs, b"file", &[1; 5000]);
    disk.faults.hold(|operation| operation == Operation::SyncAll);
    std::thread::scope(|scope| {
        let commit = scope.spawn(|| fs.sync_all());
        disk.faults.wait_until_held(1);
        let sync = scope.spawn(|| fs.sync(ino, true));
        std::thread::sleep(MOMENT);
        assert!(!sync.is_finished(), "nothing is durable yet");
        disk.faults.release();
        sync.join().unwrap().unwrap();
        commit.join().unwrap().unwrap();
    });
    fs.close().unwrap();
}

#[test]
fn a_record_waits_for_the_names_that_a_commit_is_syncing() {
    let disk = Disk::new();
    let fs = open(disk.directory());
    let ino = create(&fs, b"old", &[1; 8192]);
    fs.sync_all().unwrap();
    fs.rename(ROOT, b"old", ROOT, b"new", RenameMode::Replace).unwrap();
    for at in 0..MANY {
        create(&fs, &name(at), b"content");
    }
    disk.faults.hold(is_filesystem_sync);
    std::thread::scope(|scope| {
        let commit = scope.spawn(|| fs.sync_all());
        disk.faults.wait_until_held(1);
        let directories = |operation| operation == Operation::SyncDirectory;
        let before = disk.faults.seen(directories);
        fs.write(ino, 0, &[2; 4096]).unwrap();
        fs.sync(ino, true).unwrap();
        assert!(disk.faults.seen(directories) > before, "its path is not durable yet");
        disk.faults.release();
        commit.join().unwrap().unwrap();
    });
    fs.close().unwrap();
}

#[test]
fn a_failed_commit_leaves_every_change_to_the_next_sync() {
    let disk = Disk::new();
    let fs = open(disk.directory());
    let ino = create(&fs, b"file", &[1; 5000]);
    fs.sync_all().unwrap();
    let changes = SetAttributes { mode: Some(0o640), ..SetAttributes::default() };
    fs.set_attributes(ino, &changes).unwrap();
    disk.faults.arm(Fault::once(|operation| operation == Operation::SyncAll, libc::EIO));
    assert_eq!(fs.sync_all().unwrap_err().errno(), libc::EIO);
    let before = disk.faults.seen(|operation| operation == Operation::SyncAll);
    assert!(fs.sync(ino, false).is_err(), "it hears of the commit");
    assert_eq!(disk.faults.seen(|operation| operation == Operation::SyncAll) - before, 1);
    fs.sync(ino, false).unwrap();
    fs.close().unwrap();
}

#[test]
fn what_a_failed_sync_dropped_is_written_in_place_again() {
    let disk = Disk::new();
    let fs = open(disk.directory());
    let ino = create(&fs, b"file", &[1; 20_000]);
    fs.sync_all().unwrap();
    fs.write(ino, 4096, &[2; 8192]).unwrap();
    fs.sync(ino, true).unwrap();
    fs.core().journal().unwrap().fill_active().unwrap();
    disk.faults
        .arm(Fault::once(|operation| operation == Operation::SyncData, libc::EIO).dropping());
    assert!(fs.core().checkpoint_filled(|_| false).is_err());
    assert_eq!(disk.faults.failed(), 1);
    disk.faults.disarm();
    let whole = [vec![1; 4096], vec![2; 8192], vec![1; 20_000 - 12_288]].concat();
    assert!(read_all(&fs, ino) == whole);
    assert!(fs.core().checkpoint_filled(|_| false).unwrap());
    assert!(read_all(&fs, ino) == whole);
    assert_eq!(fs.sync(ino, true).unwrap_err().errno(), libc::EIO, "told once");
    fs.sync(ino, true).unwrap();
    fs.close().unwrap();
    let fs = open(disk.directory());
    assert!(read_all(&fs, number(&fs, b"file")) == whole);
    fs.close().unwrap();
}

#[test]
fn an_application_hears_of_a_commit_that_failed() {
    let disk = Disk::new();
    let fs = open(disk.directory());
    let ino = create(&fs, b"file", &[1; 5000]);
    disk.faults.arm(Fault::once(|operation| operation == Operation::SyncAll, libc::EIO));
    assert!(fs.sync_all().is_err());
    fs.sync_all().unwrap();
    assert_eq!(fs.sync(ino, true).unwrap_err().errno(), libc::EIO);
    fs.sync(ino, true).unwrap();
    fs.close().unwrap();
}

#[test]
fn a_file_that_cannot_be_synced_keeps_no_other_from_the_commit() {
    let disk = Disk::new();
    let fs = open(disk.directory());
    let files: Vec<_> = (0..3).map(|at| create(&fs, &name(at), &[at; 5000])).collect();
    disk.faults.arm(Fault::once(|operation| operation == Operation::SyncAll, libc::EIO));
    let before = disk.faults.seen(|operation| operation == Operation::SyncAll);
    assert!(fs.sync_all().is_err());
    assert_eq!(disk.faults.seen(|operation| operation == Operation::SyncAll) - before, 3);
    assert!(fs.sync(files[0], true).is_err());
    fs.sync(files[1], true).unwrap();
    fs.close().unwrap();
}

/// The directory that a file was removed from went itself, and nothing is left to be synced.
#[test]
fn a_removed_directory_does_not_keep_the_journal_from_being_emptied() {
    let disk = Disk::new();
    let fs = open(disk.directory());
    let directory = fs.make_directory(&CALLER, ROOT, b"d", 0o700).unwrap().attributes.ino;
    let ino = fs.create(&CALLER, directory, b"file", 0o600).unwrap().attributes.ino;
    fs.write(ino, 0, &[1; 8192]).unwrap();
    fs.sync_all().unwrap();
    fs.write(ino, 0, &[2; 4096]).unwrap();
    fs.sync(ino, true).unwrap();
    fs.unlink(directory, b"file").unwrap();
    fs.release(ino);
    fs.forget(ino, 1);
    fs.remove_directory(ROOT, b"d").unwrap();
    fs.forget(directory, 1);
    let before = disk.faults.seen(is_filesystem_sync);
    assert!(checkpoint(&fs).unwrap());
    assert_eq!(disk.faults.seen(is_filesystem_sync) - before, 1);
    fs.close().unwrap();
}

#[test]
fn a_write_that_fails_leaves_the_header() {
    let disk = Disk::new();
    let fs = open(disk.directory());
    let ino = fs.create(&CALLER, ROOT, b"file", 0o600).unwrap().attributes.ino;
    // The header, then the block.
    let write = |operation| operation == Operation::Write;
    disk.faults.arm(Fault::once(write, libc::ENOSPC).after(1).partial());
    assert_eq!(fs.write(ino, 8192, &[1; 4096]).unwrap_err().errno(), libc::ENOSPC);
    disk.faults.disarm();
    fs.write(ino, 8192, &[2; 4096]).unwrap();
    fs.release(ino);
    fs.close().unwrap();
    let fs = open(disk.directory());
    let expected = [vec![0; 8192], vec![2; 4096]].concat();
    assert!(read_all(&fs, number(&fs, b"file")) == expected);
    fs.close().unwrap();
}

#[test]
fn a_file_that_has_another_name_is_known_while_the_journal_has_records_of_it() {
    const BLOCK: u64 = 4096;
    let disk = Disk::new();
    let fs = open(disk.directory());
    let ino = create(&fs, b"a", &vec![1; 100 * 4096]);
    fs.hard_link(ino, ROOT, b"b").unwrap();
    fs.close().unwrap();

    let fs = open(disk.directory());
    let ino = number(&fs, b"a");
    set_size(&fs, ino, 10 * BLOCK);
    fs.sync(ino, true).unwrap();
    fs.unlink(ROOT, b"a").unwrap();
    fs.forget(ino, 1);
    let ino = number(&fs, b"b");
    fs.write(ino, 10 * BLOCK, &vec![2; 50 * 4096]).unwrap();
    fs.sync(ino, true).unwrap();
    fs.write(ino, 0, &[3; 4096]).unwrap();
    fs.sync(ino, true).unwrap();
    drop(fs);

    let fs = open(disk.directory());
    assert!(fs.recovered().unclean);
    let expected = [vec![3; 4096], vec![1; 9 * 4096], vec![2; 50 * 4096]].concat();
    assert!(read_all(&fs, number(&fs, b"b")) == expected);
    fs.close().unwrap();
}

/// What goes from memory with its last name does so as before.
#[test]
fn a_file_with_another_name_is_let_go_of_when_the_journal_is_empty() {
    let disk = Disk::new();
    let fs = open(disk.directory());
    let ino = create(&fs, b"a", &[1; 8192]);
    fs.hard_link(ino, ROOT, b"b").unwrap();
    fs.close().unwrap();

    let fs = open(disk.directory());
    let ino = number(&fs, b"a");
    set_size(&fs, ino, 4096);
    fs.unlink(ROOT, b"a").unwrap();
    fs.forget(ino, 1);
    assert_eq!(fs.cached_inodes(), 2);
    fs.sync_all().unwrap();
    fs.core().empty_journal().unwrap();
    assert_eq!(fs.cached_inodes(), 1);
    fs.close().unwrap();
}

#[test]
fn a_journal_is_made_once_when_there_is_room_for_it() {
    let disk = Disk::new();
    let fs = open(disk.directory());
    create(&fs, b"a", &[1; 8192]);
    create(&fs, b"b", &[1; 8192]);
    fs.close().unwrap();
    disk.faults.arm(Fault::lasting(|operation| operation == Operation::Allocate, libc::ENOSPC));
    let fs = open(disk.directory());
    assert!(fs.core().journal().is_none());
    disk.faults.disarm();
    let files = |operation| operation == Operation::CreateFile;
    let before = disk.faults.seen(files);
    disk.faults.hold(|operation| operation == Operation::FilesystemStat);
    std::thread::scope(|scope| {
        let write = |name: &'static [u8]| {
            let fs = &fs;
            scope.spawn(move || fs.write(number(fs, name), 0, &[2; 4096]).unwrap())
        };
        let writers = [write(b"a"), write(b"b")];
        disk.faults.wait_until_held(1);
        std::thread::sleep(MOMENT);
        disk.faults.release();
        for writer in writers {
            writer.join().unwrap();
        }
    });
    assert_eq!(disk.faults.seen(files) - before, 2, "two segments");
    fs.close().unwrap();
}

/// A file that goes takes its records with it; when it comes back after a cut, so must they.
#[test]
fn a_replaced_file_comes_back_with_what_was_synced() {
    let base = CrashRecorder::new();
    format(&*base.root());
    let fs = open(base.root());
    create(&fs, b"conf", &[1; 9000]);
    fs.close().unwrap();
    let recorder = CrashRecorder::on(&base.durable());
    let fs = open(recorder.root());
    let ino = number(&fs, b"conf");
    fs.write(ino, 0, &[2; 4096]).unwrap();
    fs.sync(ino, true).unwrap();
    let new = create(&fs, b"conf.new", &[3; 9000]);
    fs.sync(new, true).unwrap();
    fs.rename(ROOT, b"conf.new", ROOT, b"conf", RenameMode::Replace).unwrap();
    let renamed = recorder.operation_count();
    assert!(checkpoint(&fs).unwrap());
    let emptied = recorder.operation_count();

    let old = [vec![2; 4096], vec![1; 9000 - 4096]].concat();
    for metadata in [Metadata::Ordered, Metadata::PerFile] {
        for at in renamed..=emptied {
            for image in recorder.images(at, metadata, &mut Sampler::new(1, 50)) {
                let after = open(image.directory.open_directory(b".").unwrap());
                let found = read_all(&after, number(&after, b"conf"));
                assert!(
                    found == old || found == vec![3; 9000],
                    "{metadata:?}, cut at {at}: {}",
                    image.description
                );
                after.close().unwrap();
            }
        }
    }
}

#[test]
fn writers_hear_that_the_journal_cannot_be_emptied() {
    let disk = Disk::new();
    let options = FilesystemOptions { journal_segment: 512 << 10, ..FilesystemOptions::default() };
    let root = disk.directory();
    let fs = FileSystem::open(root, &master(), options, "a test").unwrap();
    let ino = create(&fs, b"file", &vec![1; 1 << 20]);
    fs.sync_all().unwrap();
    disk.faults.arm(Fault::lasting(|operation| operation == Operation::Stat, libc::EIO));
    let blocks = (0..256).map(|at| at * 4096);
    let outcome = blocks.map(|at| fs.write(ino, at, &[2; 4096])).find(|outcome| outcome.is_err());
    assert_eq!(outcome.unwrap().unwrap_err().errno(), libc::EIO);
    disk.faults.disarm();
    // And it goes on when it can be.
    fs.write(ino, 0, &vec![3; 1 << 20]).unwrap();
    fs.write(ino, 0, &[3; 4096]).unwrap();
    fs.sync(ino, true).unwrap();
    fs.close().unwrap();
}

#[test]
fn a_write_may_be_larger_than_the_journal() {
    let disk = Disk::new();
    let options = FilesystemOptions { journal_segment: 512 << 10, ..FilesystemOptions::default() };
    let root = disk.root.open_directory(b".").unwrap();
    let fs = FileSystem::open(root, &master(), options, "a test").unwrap();
    let ino = create(&fs, b"file", &vec![1; 2 << 20]);
    fs.sync_all().unwrap();
    fs.write(ino, 100, &vec![2; (2 << 20) - 200]).unwrap();
    let expected = [vec![1; 100], vec![2; (2 << 20) - 200], vec![1; 100]].concat();
    assert!(read_all(&fs, ino) == expected);
    fs.close().unwrap();
}

/// Where the disk had no room for a journal when the vault was mounted, the write itself makes it.
#[test]
fn a_write_may_be_larger_than_the_journal_that_it_makes() {
    let disk = Disk::new();
    let options = FilesystemOptions { journal_segment: 512 << 10, ..FilesystemOptions::default() };
    let open = || {
        let root = disk.root.open_directory(b".").unwrap();
        let root = Box::new(disk.faults.wrap(root));
        FileSystem::open(root, &master(), options, "a test").unwrap()
    };
    let fs = open();
    create(&fs, b"file", &vec![1; 2 << 20]);
    fs.close().unwrap();
    disk.faults.arm(Fault::lasting(|operation| operation == Operation::Allocate, libc::ENOSPC));
    let fs = open();
    assert!(fs.core().journal().is_none());
    disk.faults.disarm();
    let ino = number(&fs, b"file");
    fs.write(ino, 0, &vec![2; 2 << 20]).unwrap();
    assert!(read_all(&fs, ino) == vec![2; 2 << 20]);
    fs.close().unwrap();
}

#[test]
fn a_size_that_cannot_be_recorded_is_not_left_below() {
    let disk = Disk::new();
    let fs = open(disk.directory());
    let ino = create(&fs, b"file", &[1; 16384]);
    fs.sync_all().unwrap();
    let resize = |size| {
        let size = SetAttributes { size: Some(size), ..SetAttributes::default() };
        fs.set_attributes(ino, &size)
    };
    resize(8192).unwrap();
    disk.faults.arm(Fault::once(|operation| operation == Operation::Write, libc::EIO));
    assert!(resize(1 << 20).is_err());
    disk.faults.disarm();
    fs.close().unwrap();
    let fs = open(disk.directory());
    assert!(read_all(&fs, number(&fs, b"file")) == [1; 8192]);
    fs.close().unwrap();
}

#[test]
fn a_record_that_failed_leaves_no_old_name_behind() {
    let disk = Disk::new();
    let fs = open(disk.directory());
    let ino = create(&fs, b"old", &[1; 8192]);
    fs.sync_all().unwrap();
    disk.faults.arm(Fault::once(|operation| operation == Operation::Write, libc::EIO));
    assert!(fs.write(ino, 0, &[2; 4096]).is_err());
    disk.faults.disarm();
    fs.rename(ROOT, b"old", ROOT, b"new", RenameMode::Replace).unwrap();
    fs.write(ino, 0, &[3; 4096]).unwrap();
    fs.sync(ino, true).unwrap();
    drop(fs);
    let fs = open(disk.directory());
    assert_eq!(fs.recovered().gone, 0);
    assert!(read_all(&fs, number(&fs, b"new")) == [[3; 4096], [1; 4096]].concat());
    fs.close().unwrap();
}

#[test]
fn a_path_that_no_record_holds_is_refused() {
    let disk = Disk::new();
    let fs = open(disk.directory());
    let ino = create(&fs, b"file", &[1; 8192]);
    fs.sync_all().unwrap();
    let inode: std::sync::Arc<Inode> = fs.core().inode(ino).unwrap();
    let owner = RecordOwner {
        inode: &inode,
        file_id: FileId::random(),
        reference: &mut FileReference::default(),
    };
    let record = FileRecord::Punch { first: BlockIndex(0), count: 1 };
    let journal = fs.core().journal().unwrap();
    let outcome = journal.append(owner, &record, || Ok(vec![b'a'; 5 << 20]));
    assert!(format!("{:?}", outcome.unwrap_err()).contains("36"), "ENAMETOOLONG");
    // The next one is committed.
    fs.write(ino, 0, &[2; 4096]).unwrap();
    fs.sync(ino, true).unwrap();
    fs.close().unwrap();
}

#[test]
fn a_reservation_is_synced() {
    let disk = Disk::new();
    let fs = open(disk.directory());
    let ino = create(&fs, b"file", &[1; 8192]);
    fs.sync_all().unwrap();
    fs.fallocate(ino, FallocateMode::AllocateKeepSize, 0, 1 << 20).unwrap();
    let before = disk.faults.seen(is_file_sync);
    fs.sync(ino, true).unwrap();
    assert_eq!(disk.faults.seen(is_file_sync) - before, 1);
    fs.close().unwrap();
}

/// A sync of the file does not wait for it.
#[test]
fn room_for_blocks_of_the_journal_is_synced_with_the_next_commit() {
    let disk = Disk::new();
    let fs = open(disk.directory());
    let ino = create(&fs, b"file", &[1; 8192]);
    set_size(&fs, ino, 1 << 20);
    fs.sync_all().unwrap();
    fs.write(ino, 65_536, &[2; 4096]).unwrap();
    let all = |operation| operation == Operation::SyncAll;
    let before = disk.faults.seen(all);
    fs.sync(ino, true).unwrap();
    assert_eq!(disk.faults.seen(all) - before, 0);
    disk.faults.arm(Fault::once(all, libc::EIO));
    assert!(fs.sync_all().is_err());
    fs.sync_all().unwrap();
    assert_eq!(disk.faults.seen(all) - before, 2);
    assert!(fs.sync(ino, true).is_err());
    fs.close().unwrap();
}

/// One sync of the journal, and none of the file.
#[test]
fn a_sync_of_overwritten_blocks_costs_one() {
    let disk = Disk::new();
    let fs = open(disk.directory());
    let ino = create(&fs, b"file", &[1; 20_000]);
    fs.sync_all().unwrap();
    for at in 0..4 {
        fs.write(ino, at * 4096, &[2; 4096]).unwrap();
        let before = disk.faults.seen(Operation::is_sync);
        fs.sync(ino, true).unwrap();
        assert_eq!(disk.faults.seen(Operation::is_sync) - before, 1);
    }
    fs.close().unwrap();
}
