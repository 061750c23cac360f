//! What happens while a name or a time changes: an operation below is held up, and another of the
//! core comes in between, as background writeback or a read does, which the kernel's locks do not
//! keep apart from a rename.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use super::test_disk::{Disk, ROOT};
use super::tests::{CALLER, read_all};
use super::*;
use crate::backing::fault::{Moment, Operation};
use crate::backing::{Directory, RenameMode, SetTime, Timestamp, XattrMode};

/// How long an operation below is held up. What waits for it, waits; what does not, is done by then.
const HELD_UP: Duration = Duration::from_millis(150);

impl Disk {
    /// Holds up the next such operation, at that moment of it; tells when it has begun to.
    fn hold_up(&self, operation: Operation, moment: Moment) -> Receiver<()> {
        let (sender, receiver) = channel();
        let told = std::sync::Mutex::new(Some(sender));
        self.faults.watch(move |seen, at| {
            if seen == operation
                && at == moment
                && let Some(sender) = told.lock().unwrap().take()
            {
                sender.send(()).unwrap();
                std::thread::sleep(HELD_UP);
            }
        });
        receiver
    }

    /// Runs `between` while `operation` of `run` is held up.
    fn during<T>(
        &self,
        operation: Operation,
        moment: Moment,
        run: impl FnOnce() + Send,
        between: impl FnOnce() -> T,
    ) -> T {
        let held = self.hold_up(operation, moment);
        let outcome = std::thread::scope(|scope| {
            scope.spawn(run);
            held.recv().unwrap();
            between()
        });
        self.faults.disarm();
        outcome
    }
}

/// A file whose content is durable and of which nothing is in the journal.
fn file(fs: &FileSystem, parent: InodeNumber, name: &[u8], content: &[u8]) -> InodeNumber {
    let ino = fs.create(&CALLER, parent, name, 0o600).unwrap().attributes.ino;
    fs.release(ino);
    fs.write(ino, 0, content).unwrap();
    fs.sync(ino, false).unwrap();
    ino
}

/// Gives up what is open of an inode, as the descriptor cache does.
fn close(fs: &FileSystem, ino: InodeNumber) {
    let inode = fs.core().inode(ino).unwrap();
    let opened = inode.open.lock().take();
    drop(opened);
}

fn content_at(fs: &FileSystem, parent: InodeNumber, name: &[u8]) -> Vec<u8> {
    read_all(fs, fs.lookup(parent, name).unwrap().attributes.ino)
}

/// The first write to a file comes while it is renamed. Synced, it is there after a cut.
#[test]
fn what_is_written_during_a_rename_is_found_by_the_new_name() {
    for moment in [Moment::Before, Moment::After] {
        for closed in [false, true] {
            let place = Disk::new();
            let fs = place.open();
            let ino = file(&fs, ROOT, b"old", &[1; 5000]);
            fs.sync_all().unwrap();
            if closed {
                close(&fs, ino);
            }
            let rename = || fs.rename(ROOT, b"old", ROOT, b"new", RenameMode::NoReplace).unwrap();
            place.during(Operation::Rename, moment, rename, || {
                fs.write(ino, 0, &[2; 4096]).unwrap();
            });
            fs.write(ino, 4096, &[3; 904]).unwrap();
            fs.sync(ino, true).unwrap();
            drop(fs);

            let fs = place.open();
            let expected = [vec![2; 4096], vec![3; 904]].concat();
            assert_eq!(content_at(&fs, ROOT, b"new"), expected, "{moment:?}, closed: {closed}");
            fs.close().unwrap();
        }
    }
}

/// The same while the newest of its names goes.
#[test]
fn what_is_written_while_one_of_two_names_goes_is_found_by_the_other() {
    for moment in [Moment::Before, Moment::After] {
        let place = Disk::new();
        let fs = place.open();
        let ino = file(&fs, ROOT, b"stays", &[1; 5000]);
        fs.hard_link(ino, ROOT, b"goes").unwrap();
        fs.sync_all().unwrap();
        let unlink = || fs.unlink(ROOT, b"goes").unwrap();
        place.during(Operation::Unlink, moment, unlink, || {
            fs.write(ino, 0, &[2; 5000]).unwrap();
        });
        fs.sync(ino, true).unwrap();
        drop(fs);

        let fs = place.open();
        assert_eq!(content_at(&fs, ROOT, b"stays"), [2; 5000], "{moment:?}");
        fs.close().unwrap();
    }
}

/// And while its last name goes, which does not concern who has it open.
#[test]
fn a_file_is_written_while_its_last_name_goes() {
    let place = Disk::new();
    let fs = place.open();
    let ino = file(&fs, ROOT, b"file", &[1; 5000]);
    fs.sync_all().unwrap();
    let unlink = || fs.unlink(ROOT, b"file").unwrap();
    place.during(Operation::Unlink, Moment::After, unlink, || {
        fs.write(ino, 0, &[2; 5000]).unwrap();
    });
    fs.write(ino, 100, &[3; 100]).unwrap();
    assert_eq!(read_all(&fs, ino)[..200], [vec![2; 100], vec![3; 100]].concat());
    fs.close().unwrap();
}

/// Opening by name never takes another file that has the name now.
#[test]
fn files_that_exchange_names_are_not_taken_for_each_other() {
    for moment in [Moment::Before, Moment::After] {
        let place = Disk::new();
        let fs = place.open();
        let one = file(&fs, ROOT, b"one", &[1; 100]);
        let two = file(&fs, ROOT, b"two", &[2; 200]);
        fs.sync_all().unwrap();
        close(&fs, one);
        close(&fs, two);
        let exchange = || fs.rename(ROOT, b"one", ROOT, b"two", RenameMode::Exchange).unwrap();
        place.during(Operation::Rename, moment, exchange, || {
            assert_eq!(fs.attributes(one).unwrap().size, 100);
            assert_eq!(read_all(&fs, one), [1; 100]);
            assert_eq!(read_all(&fs, two), [2; 200]);
        });
        assert_eq!(content_at(&fs, ROOT, b"two"), [1; 100]);
        fs.close().unwrap();
    }
}

#[test]
fn directories_that_exchange_names_are_not_taken_for_each_other() {
    for moment in [Moment::Before, Moment::After] {
        let place = Disk::new();
        let fs = place.open();
        let make = |name: &[u8]| fs.make_directory(&CALLER, ROOT, name, 0o700).unwrap();
        let (one, two) = (make(b"one").attributes.ino, make(b"two").attributes.ino);
        let inside = file(&fs, one, b"inside", &[1; 100]);
        let other = file(&fs, two, b"other", &[2; 200]);
        fs.sync_all().unwrap();
        for ino in [inside, other, one, two] {
            close(&fs, ino);
        }
        let exchange = || fs.rename(ROOT, b"one", ROOT, b"two", RenameMode::Exchange).unwrap();
        place.during(Operation::Rename, moment, exchange, || {
            assert_eq!(fs.lookup(one, b"inside").unwrap().attributes.ino, inside);
            assert_eq!(read_all(&fs, other), [2; 200]);
        });
        assert_eq!(content_at(&fs, two, b"other"), [2; 200]);
        fs.close().unwrap();
    }
}

/// Something else has the name, below and without our doing.
#[test]
fn a_file_that_another_took_the_place_of_is_stale() {
    let place = Disk::new();
    let fs = place.open();
    let ino = file(&fs, ROOT, b"file", &[1; 100]);
    fs.sync_all().unwrap();
    close(&fs, ino);
    let inode = fs.core().inode(ino).unwrap();
    let entry = inode.location().unwrap().entry;
    let tree = place.root.open_directory(TREE_NAME.as_bytes()).unwrap();
    tree.rename(&entry, &*tree, b"aside", RenameMode::NoReplace).unwrap();
    tree.create_file(&entry, 0o600).unwrap();
    assert!(matches!(fs.read(ino, 0, &mut [0; 10]), Err(Error::Stale)));
}

/// A directory that moves takes along what the journal has of its members; the rest stays there.
#[test]
fn moving_a_directory_settles_its_members_only() {
    let place = Disk::new();
    let fs = place.open();
    let make = |parent, name: &[u8]| {
        fs.make_directory(&CALLER, parent, name, 0o700).unwrap().attributes.ino
    };
    let deep = make(make(ROOT, b"moves"), b"deep");
    let inside = file(&fs, deep, b"inside", &[1; 5000]);
    let outside = file(&fs, make(ROOT, b"stays"), b"outside", &[1; 5000]);
    for ino in [inside, outside] {
        fs.write(ino, 0, &[2; 5000]).unwrap();
        fs.sync(ino, true).unwrap();
    }
    let pending = |ino| {
        let file = fs.core().inode(ino).unwrap().open_file().unwrap();
        let content = file.content.read();
        content.live.values().filter(|block| block.is_pending()).count()
    };
    assert_eq!((pending(inside), pending(outside)), (2, 2));
    fs.rename(ROOT, b"moves", ROOT, b"moved", RenameMode::NoReplace).unwrap();
    assert_eq!((pending(inside), pending(outside)), (0, 2));
    fs.write(inside, 0, &[3; 4096]).unwrap();
    fs.sync(inside, true).unwrap();
    drop(fs);

    let fs = place.open();
    let moved = fs.lookup(ROOT, b"moved").unwrap().attributes.ino;
    let deep = fs.lookup(moved, b"deep").unwrap().attributes.ino;
    let stays = fs.lookup(ROOT, b"stays").unwrap().attributes.ino;
    assert_eq!(content_at(&fs, deep, b"inside"), [vec![3; 4096], vec![2; 904]].concat());
    assert_eq!(content_at(&fs, stays, b"outside"), [2; 5000]);
    fs.close().unwrap();
}

/// Late writing in place puts back the time that it found, but not over one set meanwhile.
#[test]
fn a_time_that_is_set_while_the_journal_is_emptied_stays() {
    for kernel_keeps_times in [false, true] {
        let place = Disk::new();
        let options = FilesystemOptions { kernel_keeps_times, ..FilesystemOptions::default() };
        let fs = Arc::new(place.open_with(options));
        let ino = file(&fs, ROOT, b"file", &[1; 5000]);
        fs.write(ino, 0, &[2; 5000]).unwrap();
        fs.sync(ino, true).unwrap();
        fs.core().journal().unwrap().fill_active().unwrap();
        let time = Timestamp { seconds: 1_000, nanoseconds: 5 };
        let changes = SetAttributes { modified: SetTime::At(time), ..SetAttributes::default() };
        let empty = || assert!(fs.core().checkpoint_filled(|_| false).unwrap());
        place.during(Operation::Write, Moment::After, empty, || {
            fs.set_attributes(ino, &changes).unwrap();
        });
        assert_eq!(fs.attributes(ino).unwrap().modified, time, "{kernel_keeps_times}");
    }
}

/// Directories in directories, deeper than a stack: a local user can make them.
#[test]
fn deep_directories_need_no_deep_stack() {
    const DEPTH: usize = 3000;
    let place = Disk::new();
    let run = move || {
        let fs = place.open();
        let mut at = ROOT;
        for _ in 0..DEPTH {
            at = fs.make_directory(&CALLER, at, b"d", 0o700).unwrap().attributes.ino;
        }
        let ino = file(&fs, at, b"file", &[1; 100]);
        fs.write(ino, 0, &[2; 100]).unwrap();
        fs.sync(ino, false).unwrap();
        fs.sync_directory(at).unwrap();
        drop(fs);
    };
    let thread = std::thread::Builder::new().stack_size(256 << 10).spawn(run).unwrap();
    thread.join().unwrap();
}

#[test]
fn an_attribute_is_not_missed_by_who_looks_while_it_is_set() {
    let place = Disk::new();
    let fs = place.open();
    let ino = fs.create(&CALLER, ROOT, b"file", 0o600).unwrap().attributes.ino;
    let set = || fs.set_xattr(ino, b"user.known", b"1", XattrMode::Any).unwrap();
    place.faults.hold(|operation| operation == Operation::ChangeXattr);
    std::thread::scope(|scope| {
        scope.spawn(set);
        place.faults.wait_until_held(1);
        assert!(matches!(fs.get_xattr(ino, b"user.known"), Err(Error::NoAttribute)));
        place.faults.release();
    });
    assert_eq!(fs.get_xattr(ino, b"user.known").unwrap(), b"1");
    fs.remove_xattr(ino, b"user.known").unwrap();
    assert!(matches!(fs.get_xattr(ino, b"user.known"), Err(Error::NoAttribute)));
    set();
    assert_eq!(fs.list_xattr(ino).unwrap(), [b"user.known"]);
}
