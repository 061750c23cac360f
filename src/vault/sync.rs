//! Making things durable: fsync of files and directories, and the periodic commit.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::content::OpenFile;
use super::core::Core;
use super::error::Result;
use super::filesystem::LOCK_NAME;
use super::inode::{
    DATA_DIRTY, Inode, LISTED, Location, METADATA_DIRTY, NAMES_DIRTY, RECORD_DIRTY,
};
use super::types::InodeNumber;
use crate::backing::{Directory, FileKind, SetTime, Timestamp};
use crate::format::name::sidecar_of;

/// Files beyond which one sync of the whole filesystem is cheaper than one each.
const SYNC_FILESYSTEM_FROM: usize = 64;

/// What a file's content was when a sync began.
#[derive(Clone, Copy)]
struct Captured {
    size: u64,
    shrinks: u64,
    sequence: u64,
}

impl Core {
    /// `fsync(2)`, or `fdatasync(2)` with `data_only`, of a regular file.
    pub(super) fn sync_file(&self, inode: &Arc<Inode>, data_only: bool) -> Result<()> {
        if self.options.read_only {
            return Ok(());
        }
        let file = self.open_content(inode)?;
        let (captured, handle) = {
            let content = file.content.read();
            (capture(&content), content.handle.clone())
        };
        self.sync_way(inode)?;
        let data_dirty = inode.clear_flag(DATA_DIRTY);
        let metadata_dirty = !data_only && inode.clear_flag(METADATA_DIRTY);
        let outcome = if metadata_dirty {
            handle.sync_all()
        } else if data_dirty {
            handle.sync_data()
        } else {
            Ok(())
        };
        if let Err(error) = outcome {
            inode.set_flag(DATA_DIRTY | METADATA_DIRTY);
            return Err(error.into());
        }
        if let Some(journal) = self.journal()
            && captured.sequence > 0
        {
            journal.commit_for_sync(captured.sequence)?;
        }
        let mut content = file.content.write();
        content.syncs = if content.written_since_sync > (1 << 20) {
            0
        } else {
            content.syncs.saturating_add(1)
        };
        content.written_since_sync = 0;
        note_durable(&mut content, captured);
        Ok(())
    }

    /// Makes durable what it takes to find a file by its name. The filesystem below may make the
    /// entries that lead to a synced file durable with it (btrfs does), but knows nothing of the
    /// records of new directories among them, nor of a long name's sidecar.
    fn sync_way(&self, inode: &Arc<Inode>) -> Result<()> {
        let mut open: Vec<Location> = inode.locations.lock().clone();
        while let Some(Location { parent, entry }) = open.pop() {
            if parent.flag(NAMES_DIRTY)
                && (parent.flag(RECORD_DIRTY) || sidecar_of(&entry).is_some())
            {
                self.sync_directory(&parent)?;
            }
            open.extend(parent.location());
        }
        Ok(())
    }

    /// `fsync(2)` of a directory: its names are durable afterwards, and with a name what makes it
    /// readable. Filesystems that journal metadata in order make the records of new directories
    /// durable with the names; where another lies below, nothing is left to its mercy.
    pub(super) fn sync_directory(&self, inode: &Arc<Inode>) -> Result<()> {
        if self.options.read_only {
            return Ok(());
        }
        self.sync_way(inode)?;
        let new = self.new_directories.lock().remove(&inode.number).unwrap_or_default();
        let outcome = self.sync_names(inode, &new);
        if outcome.is_err() {
            inode.set_flag(NAMES_DIRTY);
            self.new_directories.lock().entry(inode.number).or_default().extend(new);
        } else {
            self.records_are_durable(&new);
        }
        outcome
    }

    /// Lets go of new directories whose records are durable, or which are gone.
    fn records_are_durable(&self, directories: &[Arc<Inode>]) {
        for inode in directories {
            inode.clear_flag(RECORD_DIRTY);
            self.drop_if_idle(inode);
        }
    }

    fn sync_names(&self, inode: &Arc<Inode>, new: &[Arc<Inode>]) -> Result<()> {
        for child in new {
            match self.open_directory(child) {
                Ok(directory) => directory.directory.sync()?,
                // Removed meanwhile.
                Err(error) if error.errno() == libc::ENOENT => {}
                Err(error) => return Err(error),
            }
        }
        if self.overflow_dirty.swap(false, Ordering::AcqRel) {
            self.overflow.sync()?;
        }
        let directory = self.open_directory(inode)?;
        inode.clear_flag(NAMES_DIRTY);
        Ok(directory.directory.sync()?)
    }

    /// Notes that a directory's names changed.
    pub(super) fn names_changed(&self, directory: &Arc<Inode>) {
        directory.set_flag(NAMES_DIRTY);
        self.list_for_commit(directory);
    }

    /// Remembers an inode for the periodic commit.
    pub(super) fn list_for_commit(&self, inode: &Arc<Inode>) {
        if !inode.set_flag(LISTED) {
            let mut dirty = self.dirty.lock();
            dirty.push(inode.clone());
            if dirty.len() == 1 {
                self.signal.raise();
            }
        }
    }

    /// Makes everything that was changed so far durable.
    pub(super) fn commit_all(&self) -> Result<()> {
        if self.options.read_only {
            return Ok(());
        }
        let _one_at_a_time = self.committing.lock();
        let started = backing_now(&*self.vault_directory)?;
        // Whatever referred to these was listed before: it is in this batch or was in an earlier.
        let overflows = std::mem::take(&mut *self.overflows_left.lock());
        let batch = std::mem::take(&mut *self.dirty.lock());
        if batch.is_empty() && overflows.is_empty() {
            return Ok(());
        }
        let mut captured: Vec<(Arc<OpenFile>, Captured)> = Vec::new();
        let mut to_sync = Vec::new();
        for inode in &batch {
            inode.clear_flag(LISTED);
            if let Some(file) = inode.open_file() {
                let content = capture(&file.content.read());
                captured.push((file, content));
            }
            let dirty = inode.clear_flag(DATA_DIRTY) | inode.clear_flag(METADATA_DIRTY);
            if dirty || inode.kind == FileKind::Directory {
                to_sync.push(inode.clone());
            }
        }
        if let Err(error) = self.sync_inodes(&to_sync) {
            self.remove_overflows_later(overflows);
            for inode in to_sync {
                inode.set_flag(DATA_DIRTY);
                self.list_for_commit(&inode);
            }
            return Err(error);
        }
        for id in overflows {
            self.remove_overflow(Some(id));
        }
        if let Some(journal) = self.journal() {
            journal.commit(u64::MAX)?;
            journal.record_durable_until(started)?;
        }
        for (file, captured) in captured {
            note_durable(&mut file.content.write(), captured);
        }
        for inode in &batch {
            self.drop_if_idle(inode);
        }
        self.drop_parents_left();
        Ok(())
    }

    fn sync_inodes(&self, inodes: &[Arc<Inode>]) -> Result<()> {
        if inodes.len() >= SYNC_FILESYSTEM_FROM {
            let new = std::mem::take(&mut *self.new_directories.lock());
            let names: Vec<_> =
                inodes.iter().filter(|inode| inode.clear_flag(NAMES_DIRTY)).collect();
            let outcome = self.vault_directory.sync_filesystem();
            if matches!(outcome, Ok(true)) {
                self.records_are_durable(&new.into_values().flatten().collect::<Vec<_>>());
                return Ok(());
            }
            for inode in names {
                inode.set_flag(NAMES_DIRTY);
            }
            let mut known = self.new_directories.lock();
            for (parent, children) in new {
                known.entry(parent).or_default().extend(children);
            }
            drop(known);
            outcome?;
        }
        for inode in inodes {
            self.sync_inode(inode)?;
        }
        Ok(())
    }

    /// Syncs all of an inode; nothing, where nothing of it outlives the mount.
    fn sync_inode(&self, inode: &Arc<Inode>) -> Result<()> {
        let nameless = inode.locations.lock().is_empty() && inode.number != InodeNumber::ROOT;
        match inode.kind {
            FileKind::Directory if nameless => {
                let gone = self.new_directories.lock().remove(&inode.number).unwrap_or_default();
                self.records_are_durable(&gone);
                Ok(())
            }
            FileKind::Directory => match self.open_directory(inode) {
                Ok(_) => self.sync_directory(inode),
                Err(_) => self.sync_unopened(inode),
            },
            FileKind::Regular => {
                let file = match inode.open_file() {
                    Some(file) => file,
                    None => match self.open_content(inode) {
                        Ok(file) => file,
                        Err(_) => return self.sync_unopened(inode),
                    },
                };
                let (handle, orphan) = {
                    let content = file.content.read();
                    (content.handle.clone(), content.orphan)
                };
                if !orphan {
                    self.sync_way(inode)?;
                    handle.sync_all()?;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Syncs an inode that cannot be opened: its mode forbids it, it is damaged, it was unlinked,
    /// or a directory above it was moved after the kernel forgot both. Others must not suffer for
    /// it.
    fn sync_unopened(&self, inode: &Arc<Inode>) -> Result<()> {
        if inode.locations.lock().is_empty() || self.vault_directory.sync_filesystem()? {
            return Ok(());
        }
        // Whoever asks for it by its name shall have it synced.
        let names = if inode.kind == FileKind::Directory { NAMES_DIRTY } else { 0 };
        inode.set_flag(DATA_DIRTY | METADATA_DIRTY | names);
        Ok(())
    }

    /// Before a rename puts a file in another's place: the file's content is durable first.
    pub(super) fn settle_before_rename(&self, inode: &Arc<Inode>) -> Result<()> {
        if inode.kind != FileKind::Regular {
            return Ok(());
        }
        let has_records = inode.open_file().is_some_and(|file| file.content.read().has_records());
        if inode.flag(DATA_DIRTY) || has_records {
            self.sync_file(inode, true)?;
        }
        Ok(())
    }

    /// Counts an open as ended.
    pub(super) fn release(&self, inode: &Arc<Inode>) {
        let _ = inode
            .opens
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |opens| opens.checked_sub(1));
    }
}

fn capture(content: &super::content::Content) -> Captured {
    Captured { size: content.size, shrinks: content.shrinks, sequence: content.sequence }
}

/// What was captured before a sync is durable after it, unless it was cut off meanwhile.
fn note_durable(content: &mut super::content::Content, captured: Captured) {
    if content.shrinks == captured.shrinks {
        content.durable = content.durable.max(captured.size);
    }
}

/// The present time by the clock of the filesystem below, which stamps its files with it.
pub(super) fn backing_now(vault: &dyn Directory) -> io::Result<Timestamp> {
    vault.set_times(LOCK_NAME, SetTime::Now, SetTime::Now)?;
    Ok(vault.stat(LOCK_NAME)?.changed)
}
