//! A vault in memory, on a disk that fails, waits and is watched as a test wants.

#![allow(clippy::unwrap_used)]

use super::tests::{CALLER, format, master, read_all};
use super::*;
use crate::backing::Directory;
use crate::backing::fault::{Faults, Operation};
use crate::backing::memory::MemoryDirectory;

pub(super) const ROOT: InodeNumber = InodeNumber::ROOT;

pub(super) struct Disk {
    /// The disk as it is, without faults.
    pub(super) root: MemoryDirectory,
    pub(super) faults: Faults,
}

impl Disk {
    pub(super) fn new() -> Self {
        let root = MemoryDirectory::new();
        format(&root);
        Self { root, faults: Faults::default() }
    }

    /// The vault's directory, with the faults.
    pub(super) fn directory(&self) -> Box<dyn Directory> {
        Box::new(self.faults.wrap(self.root.open_directory(b".").unwrap()))
    }

    pub(super) fn open(&self) -> FileSystem {
        self.open_with(FilesystemOptions::default())
    }

    pub(super) fn open_with(&self, options: FilesystemOptions) -> FileSystem {
        FileSystem::open(self.directory(), &master(), options, "a test").unwrap()
    }
}

/// A file in the root that nobody has open, of which nothing need be durable.
pub(super) fn create(fs: &FileSystem, name: &[u8], content: &[u8]) -> InodeNumber {
    let ino = fs.create(&CALLER, ROOT, name, 0o600).unwrap().attributes.ino;
    fs.write(ino, 0, content).unwrap();
    fs.release(ino);
    ino
}

/// The content of a file in the root.
pub(super) fn content(fs: &FileSystem, name: &[u8]) -> Vec<u8> {
    read_all(fs, fs.lookup(ROOT, name).unwrap().attributes.ino)
}

pub(super) fn is_file_sync(operation: Operation) -> bool {
    matches!(operation, Operation::SyncData | Operation::SyncAll)
}
