//! What all operations of a mounted vault share.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::{Mutex, RwLock};

use super::codecs::Codecs;
use super::descriptors::DescriptorCache;
use super::directory::OpenDirectory;
use super::error::{Error, Result};
use super::inode::{
    DATA_DIRTY, Inode, InodeTable, LISTED, METADATA_DIRTY, NAMES_DIRTY, RECORD_DIRTY,
};
use super::journal::Journal;
use super::signal::Signals;
use super::sync::backing_now;
use super::types::{FilesystemOptions, InodeNumber};
use crate::backing::{Directory, FileKind, Stat};
use crate::format::journal::JournalCodec;
use crate::format::name::EntryName;
use crate::format::state::Window;

/// A mounted vault. Lock order: `Inode::entries` (lower number first), `paths`, an inode's content,
/// `Inode::open`, `Inode::locations`, the journal's own.
pub(super) struct Core {
    pub(super) codecs: Codecs,
    pub(super) options: FilesystemOptions,
    pub(super) vault_directory: Box<dyn Directory>,
    pub(super) overflow: Box<dyn Directory>,
    /// Whether the overflow directory may have entries, so that deletions must look.
    pub(super) overflow_used: AtomicBool,
    /// Whether the overflow directory has entries since its last sync.
    pub(super) overflow_dirty: AtomicBool,
    /// Held by the one who syncs the overflow directory.
    pub(super) overflow_syncing: Mutex<()>,
    /// Overflow files that nothing refers to; the commit removes them.
    pub(super) overflows_left: Mutex<Vec<String>>,
    /// Held by the one who commits everything.
    pub(super) committing: Mutex<()>,
    pub(super) inodes: InodeTable,
    pub(super) descriptors: DescriptorCache,
    /// The backing root's own inode number and device.
    pub(super) root_ino: u64,
    pub(super) device: u64,
    journal: OnceLock<Journal>,
    /// Held by the one who makes the journal.
    creating_journal: Mutex<()>,
    /// Read while a name is resolved to what it leads to, and while a record that names a path is
    /// appended; written while a name changes that such a path may have: from the last look at what
    /// the journal has by it, until the inodes in memory have their new names.
    pub(super) paths: RwLock<()>,
    /// Written while a file has another mode than its own, to be opened; read around what changes a
    /// mode or tells it. Nothing else is waited for by who holds it.
    pub(super) modes: RwLock<()>,
    pub(super) checkpointing: Mutex<()>,
    pub(super) dirty: Mutex<Vec<Arc<Inode>>>,
    /// By the number of the directory above: directories whose records are not yet synced.
    pub(super) new_directories: Mutex<HashMap<InodeNumber, Vec<Arc<Inode>>>>,
    /// By where they are in memory: directories from which files went of which the journal has
    /// records. Without the record, the file must not be there any more either.
    pub(super) left_by_records: Mutex<HashMap<usize, Arc<Inode>>>,
    pub(super) windows: RwLock<Vec<Window>>,
    /// A sync of the whole filesystem failed, and could not tell for which file.
    pub(super) filesystem_sync_failed: AtomicBool,
    /// The error of a sync that failed for a file that nothing is known of any more, and of which
    /// nobody was told; 0 for none.
    untold_loss: AtomicI32,
    closing: AtomicBool,
    pub(super) signals: Signals,
}

/// What a [`Core`] is made of.
pub(super) struct Parts {
    pub(super) codecs: Codecs,
    pub(super) options: FilesystemOptions,
    pub(super) vault_directory: Box<dyn Directory>,
    pub(super) overflow: Box<dyn Directory>,
    pub(super) overflow_used: bool,
    pub(super) windows: Vec<Window>,
    pub(super) root: OpenDirectory,
    pub(super) root_stat: Stat,
}

impl Core {
    pub(super) fn new(parts: Parts) -> Self {
        let inodes = InodeTable::new();
        *inodes.root().open.lock() = Some(super::inode::Open::Directory(Arc::new(parts.root)));
        Self {
            codecs: parts.codecs,
            descriptors: DescriptorCache::new(parts.options.descriptors),
            options: parts.options,
            vault_directory: parts.vault_directory,
            overflow: parts.overflow,
            overflow_used: AtomicBool::new(parts.overflow_used),
            overflow_dirty: AtomicBool::new(false),
            overflow_syncing: Mutex::default(),
            overflows_left: Mutex::default(),
            committing: Mutex::default(),
            new_directories: Mutex::default(),
            left_by_records: Mutex::default(),
            inodes,
            root_ino: parts.root_stat.ino,
            device: parts.root_stat.device,
            journal: OnceLock::new(),
            creating_journal: Mutex::default(),
            paths: RwLock::new(()),
            modes: RwLock::new(()),
            checkpointing: Mutex::new(()),
            dirty: Mutex::new(Vec::new()),
            windows: RwLock::new(parts.windows),
            filesystem_sync_failed: AtomicBool::new(false),
            untold_loss: AtomicI32::new(0),
            closing: AtomicBool::new(false),
            signals: Signals::default(),
        }
    }

    /// The journal; `None` where it is switched off, not needed, or the disk has no room for it.
    pub(super) fn journal(&self) -> Option<&Journal> {
        self.journal.get()
    }

    /// Makes the journal. On a full disk there is none until there is room.
    pub(super) fn create_journal(&self) -> Result<()> {
        if self.options.read_only || !self.options.journal || self.journal.get().is_some() {
            return Ok(());
        }
        let _one_at_a_time = self.creating_journal.lock();
        if self.journal.get().is_some() {
            return Ok(());
        }
        let codec = JournalCodec::new(&self.codecs.journal);
        let now = backing_now(&*self.vault_directory)?;
        match Journal::create(
            &*self.vault_directory,
            codec,
            now,
            self.options.journal_segment,
            &self.signals,
        ) {
            Ok(journal) => {
                let _ = self.journal.set(journal);
                Ok(())
            }
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT)) => {
                tracing::warn!(
                    "no room for the journal: existing data cannot be overwritten until there is"
                );
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    pub(super) fn create_journal_if_missing(&self) {
        if let Err(error) = self.create_journal() {
            tracing::error!("the journal could not be made: {error}");
        }
    }

    /// The inode with this number.
    pub(super) fn inode(&self, number: InodeNumber) -> Result<Arc<Inode>> {
        self.inodes.get(number).ok_or(Error::Stale)
    }

    /// The plain filesystem's number of a backing inode.
    pub(super) fn number(&self, ino: u64) -> InodeNumber {
        if ino == self.root_ino { InodeNumber::ROOT } else { InodeNumber(ino) }
    }

    /// Refuses what a read-only mount must not do.
    pub(super) fn check_writable(&self) -> Result<()> {
        if self.options.read_only { Err(Error::ReadOnly) } else { Ok(()) }
    }

    /// Lets go of an inode that nobody refers to and of which nothing is still to be kept.
    pub(super) fn drop_if_idle(&self, inode: &Arc<Inode>) {
        let gone = self.inodes.remove_if(inode, |inode| {
            let unsynced =
                inode.flag(LISTED) || inode.is_dirty(DATA_DIRTY | METADATA_DIRTY | NAMES_DIRTY);
            let file = inode.open_file();
            if inode.locations.lock().is_empty() {
                // A file may have names that nobody looked up.
                return file.is_none_or(|file| file.may_be_forgotten(unsynced));
            }
            if unsynced || inode.flag(RECORD_DIRTY) {
                return false;
            }
            inode.kind != FileKind::Regular || file.is_none_or(|file| file.may_be_forgotten(false))
        });
        if gone && let Some(errno) = inode.open_file().and_then(|file| file.untold_loss()) {
            self.untold_loss.store(errno, Ordering::Release);
            self.tell_loss(inode);
        }
        if gone && inode.locations.lock().is_empty() {
            self.remove_overflows_of(inode);
            // Its space is free at once, though the periodic commit may still know it.
            inode.open.lock().take();
        }
    }

    /// Lets go of directories that outlived their last reference for the sake of their members.
    pub(super) fn drop_parents_left(&self) {
        for inode in self.inodes.parents_left() {
            self.drop_if_idle(&inode);
        }
    }

    /// The plain name of an entry; `None` when it has none (ours, or damaged).
    pub(super) fn plain_name(&self, directory: &OpenDirectory, entry: &[u8]) -> Option<Vec<u8>> {
        match directory.names.classify(entry) {
            EntryName::Plain(name) => Some(name),
            EntryName::Long { sidecar } => {
                let target = directory.directory.read_link(&sidecar).ok()?;
                directory.names.decrypt_long(entry, &target)
            }
            EntryName::Reserved | EntryName::Dots | EntryName::Damaged => None,
        }
    }

    /// Fails where something that was written is not known to be durable, and nobody was told.
    pub(super) fn check_losses(&self) -> Result<()> {
        let of_inode = |inode: &Arc<Inode>| {
            let known = inode.open_file().and_then(|file| file.untold_loss());
            let unsynced = inode.kind == FileKind::Regular && inode.is_dirty(DATA_DIRTY);
            let errno = known.or_else(|| unsynced.then_some(libc::EIO))?;
            Some((errno, inode.clone()))
        };
        let found = self.inodes.find(of_inode);
        if let Some((_, inode)) = &found {
            self.tell_loss(inode);
        }
        let forgotten = Some(self.untold_loss.load(Ordering::Acquire)).filter(|errno| *errno != 0);
        match forgotten.or(found.map(|(errno, _)| errno)) {
            Some(errno) => Err(io::Error::from_raw_os_error(errno).into()),
            None => Ok(()),
        }
    }

    fn tell_loss(&self, inode: &Arc<Inode>) {
        let path = self.plain_path(inode);
        tracing::error!(
            path,
            "what was written to this file may be lost: the filesystem below failed to make it \
             durable, and no application has asked since"
        );
    }

    pub(super) fn closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    /// Tells the threads to end.
    pub(super) fn begin_closing(&self) {
        self.closing.store(true, Ordering::Release);
        self.signals.work.raise();
        self.signals.sync_ahead.raise();
    }
}

/// Whether an error of the filesystem below means that something does not exist.
pub(super) fn is_not_found(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENOENT)
}
