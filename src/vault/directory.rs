//! Open directories: the descriptor, the directory ID's name cipher, and the way from an inode to
//! them.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use super::core::Core;
use super::error::{Error, Result};
use super::inode::{Inode, Location, NAMES_DIRTY, Open, USED};
use crate::backing::{Directory, FileKind};
use crate::format::directory::RECORD_NAME;
use crate::format::name::{CipherName, NameCipher, NameError};

const ACL_UNKNOWN: u8 = 0;
const ACL_NONE: u8 = 1;
const ACL_DEFAULT: u8 = 2;

/// A directory that is open.
pub(super) struct OpenDirectory {
    pub(super) directory: Box<dyn Directory>,
    pub(super) names: NameCipher,
    default_acl: AtomicU8,
}

impl OpenDirectory {
    pub(super) fn new(directory: Box<dyn Directory>, names: NameCipher) -> Self {
        Self { directory, names, default_acl: AtomicU8::new(ACL_UNKNOWN) }
    }

    /// Encrypts a name of this directory.
    pub(super) fn encrypt(&self, name: &[u8]) -> Result<CipherName> {
        self.names.encrypt(name).map_err(|error| match error {
            NameError::TooLong => Error::NameTooLong,
            NameError::Invalid => Error::Invalid,
        })
    }

    /// Whether new entries inherit an ACL, in which case the umask does not apply (acl(5)).
    pub(super) fn has_default_acl(&self) -> bool {
        match self.default_acl.load(Ordering::Acquire) {
            ACL_UNKNOWN => {
                let has = self.directory.get_xattr(b".", b"system.posix_acl_default").is_ok();
                self.default_acl.store(if has { ACL_DEFAULT } else { ACL_NONE }, Ordering::Release);
                has
            }
            state => state == ACL_DEFAULT,
        }
    }

    /// Forgets what is known of the ACL, because it was changed.
    pub(super) fn acl_changed(&self) {
        self.default_acl.store(ACL_UNKNOWN, Ordering::Release);
    }
}

/// What is open of a directory's inode.
fn opened(inode: &Inode) -> Option<Arc<OpenDirectory>> {
    match &*inode.open.lock() {
        Some(Open::Directory(directory)) => {
            inode.set_flag(USED);
            Some(directory.clone())
        }
        _ => None,
    }
}

impl Core {
    /// The inode's directory, opened where it is not.
    pub(super) fn open_directory(&self, inode: &Arc<Inode>) -> Result<Arc<OpenDirectory>> {
        if inode.kind != FileKind::Directory {
            return Err(Error::NotDirectory);
        }
        if let Some(directory) = opened(inode) {
            return Ok(directory);
        }
        // Descend from the nearest ancestor that is open; a loop, for paths can be deep.
        let _paths = self.paths.read_recursive();
        let mut closed: Vec<(Arc<Inode>, Location)> = Vec::new();
        let mut at = inode.clone();
        let mut directory = loop {
            if let Some(directory) = opened(&at) {
                break directory;
            }
            let location = at.location().ok_or(Error::NotFound)?;
            let parent = location.parent.clone();
            closed.push((at, location));
            at = parent;
        };
        while let Some((inode, location)) = closed.pop() {
            let opened = directory.directory.open_directory(&location.entry)?;
            self.check_is(&inode, &opened.stat(b".")?)?;
            directory = self.adopt_directory(&inode, opened)?;
        }
        Ok(directory)
    }

    /// Reads the record of a directory that was just opened, and keeps it open.
    fn adopt_directory(
        &self,
        inode: &Arc<Inode>,
        opened: Box<dyn Directory>,
    ) -> Result<Arc<OpenDirectory>> {
        let target = opened.read_link(RECORD_NAME).map_err(|error| match error.raw_os_error() {
            Some(libc::ENOENT | libc::EINVAL) => Error::Damaged { what: "a directory record" },
            _ => Error::Backing(error),
        })?;
        let id = self
            .codecs
            .directories
            .decode(&target)
            .map_err(|_| Error::Damaged { what: "a directory record" })?;
        let directory = Arc::new(OpenDirectory::new(opened, self.codecs.names(id)));
        {
            let mut open = inode.open.lock();
            if let Some(Open::Directory(known)) = &*open {
                return Ok(known.clone());
            }
            *open = Some(Open::Directory(directory.clone()));
        }
        self.descriptors.opened(inode);
        Ok(directory)
    }

    /// The directory that holds an inode, and the inode's entry in it. For the root: itself, `.`.
    pub(super) fn holder(&self, inode: &Arc<Inode>) -> Result<(Arc<OpenDirectory>, Box<[u8]>)> {
        if Arc::ptr_eq(inode, self.inodes.root()) {
            return Ok((self.open_directory(inode)?, b"."[..].into()));
        }
        let location = inode.location().ok_or(Error::NotFound)?;
        Ok((self.open_directory(&location.parent)?, location.entry))
    }

    /// The inode's path below the ciphertext root, for the journal, durable: recovery must find
    /// the file by it, also when a rename of the file or of a directory above it was just made.
    ///
    /// # Errors
    /// When it has no name any more, or the names on the way to it cannot be made durable.
    pub(super) fn journal_path(&self, inode: &Arc<Inode>) -> io::Result<Vec<u8>> {
        let mut entries = Vec::new();
        let mut at = inode.clone();
        while !Arc::ptr_eq(&at, self.inodes.root()) {
            let gone = || io::Error::from_raw_os_error(libc::ESTALE);
            let location = at.location().ok_or_else(gone)?;
            if location.parent.is_dirty(NAMES_DIRTY) {
                self.sync_directory(&location.parent)
                    .map_err(|error| io::Error::from_raw_os_error(error.errno()))?;
            }
            entries.push(location.entry);
            at = location.parent;
        }
        entries.reverse();
        Ok(entries.join(&b'/'))
    }

    /// The inode's plain path, for reports of damage; as much of it as can be told.
    pub(super) fn plain_path(&self, inode: &Arc<Inode>) -> String {
        let mut names = Vec::new();
        let mut at = inode.clone();
        while !Arc::ptr_eq(&at, self.inodes.root()) {
            let Some(location) = at.location() else {
                names.push("(unlinked)".to_owned());
                break;
            };
            let name = self
                .open_directory(&location.parent)
                .ok()
                .and_then(|directory| self.plain_name(&directory, &location.entry));
            names.push(match name {
                Some(name) => String::from_utf8_lossy(&name).into_owned(),
                None => "?".to_owned(),
            });
            at = location.parent;
        }
        names.reverse();
        format!("/{}", names.join("/"))
    }
}
