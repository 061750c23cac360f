//! Blocks that are sealed before the content's lock is taken.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

use std::sync::Arc;
use std::thread;

use super::tests::{CALLER, format, master, read_all};
use super::*;
use crate::backing::Directory;
use crate::backing::memory::MemoryDirectory;

fn open(root: &MemoryDirectory) -> FileSystem {
    let vault = root.open_directory(b".").unwrap();
    FileSystem::open(vault, &master(), FilesystemOptions::default(), "a test").unwrap()
}

fn new_file(fs: &FileSystem) -> InodeNumber {
    fs.create(&CALLER, InodeNumber::ROOT, b"file", 0o600).unwrap().attributes.ino
}

fn check_after_remount(root: &MemoryDirectory, fs: FileSystem, wanted: &[u8]) {
    fs.close().unwrap();
    let fs = open(root);
    let ino = fs.lookup(InodeNumber::ROOT, b"file").unwrap().attributes.ino;
    assert!(read_all(&fs, ino) == wanted);
}

#[test]
fn a_file_that_was_emptied_is_not_sealed_with_its_old_key() {
    let root = MemoryDirectory::new();
    format(&root);
    let fs = open(&root);
    let ino = new_file(&fs);
    for fill in 1..5u8 {
        // The second write, and those over what is durable, know the key of the one before.
        let content = vec![fill; 300_000];
        for _ in 0..2 {
            fs.write(ino, 0, &content).unwrap();
            assert!(read_all(&fs, ino) == content);
            fs.sync(ino, false).unwrap();
        }
        let empty = SetAttributes { size: Some(0), ..SetAttributes::default() };
        fs.set_attributes(ino, &empty).unwrap();
    }
    fs.write(ino, 7, &[9; 200_000]).unwrap();
    let wanted = [vec![0; 7], vec![9; 200_000]].concat();
    assert!(read_all(&fs, ino) == wanted);
    check_after_remount(&root, fs, &wanted);
}

#[test]
fn writes_of_one_file_at_the_same_time_all_arrive() {
    const WRITERS: usize = 4;
    const PIECE: usize = 50_001;
    const ROUNDS: usize = 40;
    let root = MemoryDirectory::new();
    format(&root);
    let fs = Arc::new(open(&root));
    let ino = new_file(&fs);
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let fs = Arc::clone(&fs);
            thread::spawn(move || {
                for round in 0..ROUNDS {
                    // Each has pieces of its own, of which the edges share blocks with others'.
                    let piece = (round % 5) * WRITERS + writer;
                    let fill = (round / 5 * WRITERS + writer + 1) as u8;
                    fs.write(ino, (piece * PIECE) as u64, &vec![fill; PIECE]).unwrap();
                    if round % 7 == writer {
                        fs.sync(ino, true).unwrap();
                    }
                }
            })
        })
        .collect();
    writers.into_iter().for_each(|writer| writer.join().unwrap());
    let last = (ROUNDS - 1) / 5 * WRITERS;
    let wanted: Vec<u8> = (0..5 * WRITERS)
        .flat_map(|piece| vec![(last + piece % WRITERS + 1) as u8; PIECE])
        .collect();
    assert!(read_all(&fs, ino) == wanted);
    check_after_remount(&root, Arc::into_inner(fs).unwrap(), &wanted);
}
