//! Listing directories.

use std::sync::Arc;

use super::core::Core;
use super::error::{Error, Result};
use super::inode::Inode;
use super::types::DirectoryEntry;
use crate::backing::FileKind;
use crate::format::name::EntryName;

/// An entry taken out of the listing of the ciphertext directory.
struct Listed {
    entry: Vec<u8>,
    name: Option<Vec<u8>>,
    ino: u64,
    kind: Option<FileKind>,
    next_cookie: u64,
}

/// Entries taken from the ciphertext directory at once.
const BATCH: usize = 256;

impl Core {
    /// Lists a directory; see [`super::FileSystem::read_directory`].
    pub(super) fn read_directory(
        &self,
        inode: &Arc<Inode>,
        cookie: u64,
        attributes: bool,
        sink: &mut dyn FnMut(DirectoryEntry<'_>) -> bool,
    ) -> Result<()> {
        let directory = self.open_directory(inode)?;
        let mut cookie = cookie;
        loop {
            let mut batch = Vec::with_capacity(BATCH);
            directory.directory.read_entries(cookie, &mut |raw| {
                let name = match directory.names.classify(raw.name) {
                    EntryName::Plain(name) => Some(name),
                    EntryName::Dots => Some(raw.name.to_vec()),
                    EntryName::Long { .. } => None,
                    EntryName::Reserved => return true,
                    EntryName::Damaged => {
                        tracing::error!(
                            directory = self.plain_path(inode),
                            entry = String::from_utf8_lossy(raw.name).as_ref(),
                            "a name does not authenticate; the entry is not shown"
                        );
                        return true;
                    }
                };
                let entry = raw.name.to_vec();
                batch.push(Listed {
                    entry,
                    name,
                    ino: raw.ino,
                    kind: raw.kind,
                    next_cookie: raw.next_cookie,
                });
                batch.len() < BATCH
            })?;
            let Some(last) = batch.last() else { return Ok(()) };
            cookie = last.next_cookie;
            for listed in &batch {
                // A long name whose sidecar is missing or damaged is not shown either.
                let found;
                let name = match &listed.name {
                    Some(name) => name,
                    None => match self.plain_name(&directory, &listed.entry) {
                        Some(name) => {
                            found = name;
                            &found
                        }
                        None => continue,
                    },
                };
                if !self.deliver(inode, &directory, listed, name, attributes, sink)? {
                    return Ok(());
                }
            }
        }
    }

    fn deliver(
        &self,
        inode: &Arc<Inode>,
        directory: &super::directory::OpenDirectory,
        listed: &Listed,
        name: &[u8],
        attributes: bool,
        sink: &mut dyn FnMut(DirectoryEntry<'_>) -> bool,
    ) -> Result<bool> {
        let dots = name == b"." || name == b"..";
        let mut number = self.number(listed.ino);
        if dots {
            // The root's parent is outside of the vault.
            let parent =
                if name == b".." { inode.location().map(|location| location.parent) } else { None };
            number = parent.map_or(inode.number, |parent| parent.number);
        }
        let mut entry = None;
        let mut kind = listed.kind;
        if (attributes && !dots) || kind.is_none() {
            let _paths = self.paths.read();
            match self.stat(directory, &listed.entry) {
                Ok(stat) => {
                    kind = Some(stat.kind);
                    if attributes && !dots {
                        match self.entry(inode, &listed.entry, &stat, false) {
                            Ok(found) => entry = Some(found),
                            // A damaged entry is listed without attributes, so that the others are.
                            Err(Error::Damaged { .. }) => {}
                            Err(error) => return Err(error),
                        }
                    }
                }
                // Deleted since it was listed.
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(true),
                Err(error) => return Err(error.into()),
            }
        }
        let taken = sink(DirectoryEntry {
            name,
            ino: number,
            kind: kind.unwrap_or(FileKind::Regular),
            next_cookie: listed.next_cookie,
            entry: entry.as_ref(),
        });
        if let (false, Some(entry)) = (taken, entry) {
            self.forget(entry.attributes.ino, 1);
        }
        Ok(taken)
    }
}
