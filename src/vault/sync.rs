//! Making things durable: fsync of files and directories, and the periodic commit.

use std::collections::HashSet;
use std::collections::hash_map::Entry;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::content::OpenFile;
use super::core::Core;
use super::error::Result;
use super::filesystem::LOCK_NAME;
use super::inode::{
    DATA_DIRTY, Inode, LISTED, Location, METADATA_DIRTY, NAMES_DIRTY, Open, RECORD_DIRTY,
    ROOM_DIRTY, Syncing,
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
        let file = self.held_content(inode)?;
        let (captured, told) = {
            let content = file.content.read();
            (capture(&content), content.failures.told())
        };
        let kinds = if data_only { DATA_DIRTY } else { DATA_DIRTY | METADATA_DIRTY };
        let outcome = self.sync_captured(inode, &file, captured, kinds);
        let mut content = file.content.write();
        if let Some(errno) = content.failures.tell(told) {
            return Err(io::Error::from_raw_os_error(errno).into());
        }
        outcome?;
        content.syncs = if content.written_since_sync > (1 << 20) {
            0
        } else {
            content.syncs.saturating_add(1)
        };
        content.written_since_sync = 0;
        note_durable(&mut content, captured);
        Ok(())
    }

    fn sync_captured(
        &self,
        inode: &Arc<Inode>,
        file: &OpenFile,
        captured: Captured,
        kinds: u64,
    ) -> Result<()> {
        self.sync_way(inode)?;
        if inode.is_dirty(kinds) {
            self.sync_content(inode, file, kinds)?;
        }
        match self.journal() {
            Some(journal) if captured.sequence > 0 => {
                Ok(journal.commit_for_sync(captured.sequence)?)
            }
            _ => Ok(()),
        }
    }

    /// Syncs the file below, unless another's sync meanwhile did.
    fn sync_content(&self, inode: &Arc<Inode>, file: &OpenFile, kinds: u64) -> Result<()> {
        let _one_at_a_time = file.syncing.lock();
        let sync = {
            let _no_write_under_way = file.content.read();
            inode.begin_sync(kinds)
        };
        if sync.found(kinds)
            && let Err(error) = file.sync(sync.found(METADATA_DIRTY))
        {
            drop(sync);
            self.list_for_commit(inode);
            return Err(error.into());
        }
        sync.succeeded();
        Ok(())
    }

    /// Makes durable what it takes to find a file by its name. The filesystem below may make the
    /// entries that lead to a synced file durable with it (btrfs does), but knows nothing of the
    /// records of new directories among them, nor of a long name's sidecar.
    fn sync_way(&self, inode: &Arc<Inode>) -> Result<()> {
        let mut open: Vec<Location> = inode.locations.lock().clone();
        let mut way = Vec::new();
        while let Some(Location { parent, entry }) = open.pop() {
            open.extend(parent.location());
            if parent.is_dirty(NAMES_DIRTY)
                && (parent.flag(RECORD_DIRTY) || sidecar_of(&entry).is_some())
            {
                way.push(parent);
            }
        }
        // From the root on: what is above a directory is durable before it.
        way.iter()
            .rev()
            // One that several names lead through is synced once.
            .filter(|directory| directory.is_dirty(NAMES_DIRTY))
            .try_for_each(|directory| self.sync_one_directory(directory))
    }

    /// `fsync(2)` of a directory: its names are durable afterwards, and with a name what makes it
    /// readable. Filesystems that journal metadata in order make the records of new directories
    /// durable with the names; where another lies below, nothing is left to its mercy.
    pub(super) fn sync_directory(&self, inode: &Arc<Inode>) -> Result<()> {
        if self.options.read_only {
            return Ok(());
        }
        self.sync_way(inode)?;
        self.sync_one_directory(inode)
    }

    fn sync_one_directory(&self, inode: &Arc<Inode>) -> Result<()> {
        // Who else syncs it meanwhile must find them, too.
        let new = self.new_directories.lock().get(&inode.number).cloned().unwrap_or_default();
        self.sync_names(inode, &new)?;
        self.records_are_durable(inode.number, &new);
        Ok(())
    }

    /// Lets go of new directories in one whose records are durable, or which are gone.
    fn records_are_durable(&self, parent: InodeNumber, directories: &[Arc<Inode>]) {
        if directories.is_empty() {
            return;
        }
        let durable: HashSet<_> = directories.iter().map(Arc::as_ptr).collect();
        if let Entry::Occupied(mut known) = self.new_directories.lock().entry(parent) {
            known.get_mut().retain(|inode| !durable.contains(&Arc::as_ptr(inode)));
            if known.get().is_empty() {
                known.remove();
            }
        }
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
        self.sync_overflow()?;
        let directory = self.open_directory(inode)?;
        let sync = inode.begin_sync(NAMES_DIRTY);
        if let Err(error) = directory.directory.sync() {
            drop(sync);
            self.list_for_commit(inode);
            return Err(error.into());
        }
        sync.succeeded();
        Ok(())
    }

    /// Makes durable what overflowed from symlinks' targets.
    fn sync_overflow(&self) -> Result<()> {
        if !self.overflow_used.load(Ordering::Acquire) {
            return Ok(());
        }
        // Whoever comes while another syncs waits for that, too.
        let _one_at_a_time = self.overflow_syncing.lock();
        if self.overflow_dirty.swap(false, Ordering::AcqRel)
            && let Err(error) = self.overflow.sync()
        {
            self.overflow_dirty.store(true, Ordering::Release);
            return Err(error.into());
        }
        Ok(())
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
                self.signals.work.raise();
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
        let mut room = Vec::new();
        let mut syncs = Vec::new();
        for inode in &batch {
            inode.clear_flag(LISTED);
            let (file, sync) = begin_sync_of_all(inode);
            captured.extend(file);
            let reserved = inode.clear_flag(ROOM_DIRTY);
            if reserved {
                room.push(inode.clone());
            }
            let changed = reserved || sync.found(DATA_DIRTY | METADATA_DIRTY);
            if changed || inode.kind == FileKind::Directory {
                to_sync.push(inode.clone());
            }
            syncs.push(sync);
        }
        if let Err(error) = self.sync_inodes(&to_sync) {
            self.remove_overflows_later(overflows);
            drop(syncs);
            for inode in room {
                inode.set_flag(ROOM_DIRTY);
            }
            for inode in batch {
                self.list_for_commit(&inode);
            }
            return Err(error);
        }
        syncs.into_iter().for_each(Syncing::succeeded);
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
            let new = self.new_directories.lock().clone();
            let directories = inodes.iter().filter(|inode| inode.kind == FileKind::Directory);
            let names: Vec<_> = directories.map(|inode| inode.begin_sync(NAMES_DIRTY)).collect();
            match self.sync_filesystem() {
                Ok(true) => {
                    names.into_iter().for_each(Syncing::succeeded);
                    for (parent, children) in new {
                        self.records_are_durable(parent, &children);
                    }
                    return Ok(());
                }
                Ok(false) => {}
                // Perhaps for a file that is none of these: each by itself tells.
                Err(error) => tracing::warn!("syncing the whole filesystem failed: {error}"),
            }
        }
        // One that fails, perhaps for good, leaves none of the others out.
        let mut outcome = Ok(());
        for inode in inodes {
            outcome = outcome.and(self.sync_inode(inode));
        }
        outcome
    }

    /// Syncs the whole filesystem below; `false` where that cannot be relied on. It is not once it
    /// has failed: it fails once for whatever was lost, and does not tell for which file.
    pub(super) fn sync_filesystem(&self) -> Result<bool> {
        if self.filesystem_sync_failed.load(Ordering::Acquire) {
            return Ok(false);
        }
        let outcome = self.vault_directory.sync_filesystem();
        if outcome.is_err() {
            self.filesystem_sync_failed.store(true, Ordering::Release);
        }
        Ok(outcome?)
    }

    /// Syncs all of an inode; nothing, where nothing of it outlives the mount.
    pub(super) fn sync_inode(&self, inode: &Arc<Inode>) -> Result<()> {
        let nameless = inode.locations.lock().is_empty() && inode.number != InodeNumber::ROOT;
        match inode.kind {
            FileKind::Directory if nameless => {
                let gone = self.new_directories.lock().get(&inode.number).cloned();
                self.records_are_durable(inode.number, &gone.unwrap_or_default());
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
                if !file.content.read().orphan {
                    self.sync_way(inode)?;
                    let _one_at_a_time = file.syncing.lock();
                    file.sync(true)?;
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
        let sync = inode.begin_sync(NAMES_DIRTY);
        if inode.locations.lock().is_empty() || self.sync_filesystem()? {
            sync.succeeded();
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
        if inode.is_dirty(DATA_DIRTY) || has_records {
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

/// Begins a sync of an inode's content and attributes; and what its content is then, where it is
/// open. Where it is not, nobody may open and write it in between.
fn begin_sync_of_all(inode: &Arc<Inode>) -> (Option<(Arc<OpenFile>, Captured)>, Syncing) {
    let kinds = DATA_DIRTY | METADATA_DIRTY;
    loop {
        if let Some(file) = inode.open_file() {
            let content = file.content.read();
            let (captured, sync) = (capture(&content), inode.begin_sync(kinds));
            drop(content);
            return (Some((file, captured)), sync);
        }
        let open = inode.open.lock();
        if !matches!(&*open, Some(Open::File(_))) {
            return (None, inode.begin_sync(kinds));
        }
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
