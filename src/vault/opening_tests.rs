//! Files that are opened again while their names or modes change: what somebody has open stays
//! usable, and no mode is lost.

#![allow(clippy::unwrap_used)]

use std::sync::mpsc::channel;
use std::time::Duration;

use super::tests::{CALLER, format, master, read_all};
use super::*;
use crate::backing::fault::{Fault, Faults, Moment, Operation};
use crate::backing::memory::MemoryDirectory;
use crate::backing::os::OsDirectory;
use crate::backing::{Access, Directory};

const ROOT: InodeNumber = InodeNumber::ROOT;
/// Time for a thread that should wait to go wrong.
const MOMENT: Duration = Duration::from_millis(50);
/// The thread whose changes of attributes wait.
const HELD: &str = "held";

fn open(faults: &Faults, root: &dyn Directory, descriptors: usize) -> FileSystem {
    let vault = faults.wrap(root.open_directory(b".").unwrap());
    let options = FilesystemOptions { descriptors, ..FilesystemOptions::default() };
    FileSystem::open(Box::new(vault), &master(), options, "a test").unwrap()
}

/// A file whose content is durable, and which is closed.
fn file(fs: &FileSystem, name: &[u8]) -> InodeNumber {
    let ino = fs.create(&CALLER, ROOT, name, 0o444).unwrap().attributes.ino;
    fs.write(ino, 0, &[1; 5000]).unwrap();
    fs.sync(ino, false).unwrap();
    fs.sync_all().unwrap();
    close(fs, ino);
    ino
}

/// Gives up what is open of an inode, as the descriptor cache does.
fn close(fs: &FileSystem, ino: InodeNumber) {
    drop(fs.core().inode(ino).unwrap().open.lock().take());
}

fn refused() -> Fault {
    Fault::once(|operation| operation == Operation::OpenFile, libc::EACCES)
}

fn write_unlinked(root: &dyn Directory) {
    for refused_again in [false, true] {
        let faults = Faults::default();
        let fs = open(&faults, root, 100);
        let ino = file(&fs, b"file");
        // Its mode lets it be opened for reading only.
        faults.arm(refused());
        assert!(read_all(&fs, ino) == [1; 5000]);
        assert_eq!(faults.failed(), 1);
        fs.unlink(ROOT, b"file").unwrap();
        if refused_again {
            faults.arm(refused());
        }
        fs.write(ino, 0, &[2; 100]).unwrap();
        fs.open_file(ino, Access::ReadWrite).unwrap();
        fs.sync(ino, false).unwrap();
        assert!(read_all(&fs, ino) == [vec![2; 100], vec![1; 4900]].concat());
        assert_eq!(fs.attributes(ino).unwrap().mode, 0o444);
        // Another of its name is not it.
        file(&fs, b"file");
        fs.write(ino, 0, &[3; 100]).unwrap();
        fs.forget(ino, 1);
        assert!(read_all(&fs, fs.lookup(ROOT, b"file").unwrap().attributes.ino) == [1; 5000]);
        fs.unlink(ROOT, b"file").unwrap();
        fs.close().unwrap();
    }
}

/// Somebody may have it open for writing, though it was opened again for reading only.
#[test]
fn a_file_without_a_name_is_opened_for_writing() {
    let root = MemoryDirectory::new();
    format(&root);
    write_unlinked(&root);
}

#[test]
fn a_file_without_a_name_is_opened_for_writing_on_the_system() {
    let place = tempfile::tempdir().unwrap();
    let root = OsDirectory::open(place.path()).unwrap();
    format(&root);
    write_unlinked(&root);
}

/// The descriptor cache gives up others at any moment.
#[test]
fn a_file_stays_open_while_its_last_name_goes() {
    let root = MemoryDirectory::new();
    format(&root);
    let faults = Faults::default();
    let fs = open(&faults, &root, 1);
    let (ino, other) = (file(&fs, b"file"), file(&fs, b"other"));
    let (sender, began) = channel();
    let sender = std::sync::Mutex::new(sender);
    faults.watch(move |operation, moment| {
        if (operation, moment) == (Operation::Unlink, Moment::Before) {
            sender.lock().unwrap().send(()).unwrap();
            std::thread::sleep(3 * MOMENT);
        }
    });
    std::thread::scope(|scope| {
        scope.spawn(|| fs.unlink(ROOT, b"file").unwrap());
        began.recv().unwrap();
        for _ in 0..3 {
            close(&fs, other);
            assert!(read_all(&fs, other) == [1; 5000]);
        }
    });
    faults.disarm();
    assert!(read_all(&fs, ino) == [1; 5000]);
    fs.write(ino, 0, &[2; 100]).unwrap();
    fs.close().unwrap();
}

/// A mode that forbids its owner to open a file is lifted for a moment.
#[test]
fn a_mode_that_is_set_while_another_is_lifted_stays() {
    let root = MemoryDirectory::new();
    format(&root);
    let faults = Faults::default();
    let fs = open(&faults, &root, 100);
    let ino = file(&fs, b"file");
    faults.arm(refused());
    faults.arm(refused().after(1));
    faults.hold(|operation| {
        operation == Operation::SetAttributes && std::thread::current().name() == Some(HELD)
    });
    let changes = SetAttributes { mode: Some(0o240), ..SetAttributes::default() };
    let told = std::thread::scope(|scope| {
        let held = std::thread::Builder::new().name(HELD.to_owned());
        held.spawn_scoped(scope, || assert!(read_all(&fs, ino) == [1; 5000])).unwrap();
        faults.wait_until_held(1);
        let change = scope.spawn(|| fs.set_attributes(ino, &changes).unwrap().mode);
        std::thread::sleep(MOMENT);
        faults.release();
        change.join().unwrap()
    });
    assert_eq!((told, fs.attributes(ino).unwrap().mode), (0o240, 0o240));
    fs.close().unwrap();
}
