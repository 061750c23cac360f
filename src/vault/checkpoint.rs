//! Emptying the journal: the blocks of a filled segment are written in place and synced, then the
//! segment is retired and can be used again.
//!
//! A segment may only be retired when for each of its blocks either its own version is in place
//! and synced, or a newer version is durable in the other segment.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::RwLockWriteGuard;

use super::below::{keep_modified, punch};
use super::content::{Content, prefix, to_u64, with_scratch};
use super::core::Core;
use super::error::Result;
use super::inode::{DATA_DIRTY, Inode};
use super::journal::{BlockPlace, FileReference, Journal};
use crate::backing::SetTime;
use crate::format::layout::{BlockIndex, CIPHER_BLOCK_SIZE, cipher_size};

/// The longest time between a change and its being durable without being asked.
pub(super) const COMMIT_INTERVAL: Duration = Duration::from_secs(4);

/// How long to wait before trying again what failed.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);

/// How long an application that syncs has the disk for itself, after each sync.
const SYNC_INTERVAL: Duration = Duration::from_millis(20);

/// Bytes written in place at once.
const APPLY_RUN: usize = 1 << 20;

/// Blocks written in place while their file can be neither read nor written: 4 MiB. Unit tests take
/// many steps.
const APPLY_STEP: usize = if cfg!(test) { 2 } else { 1024 };

impl Core {
    /// The maintenance thread: commits periodically, empties filled segments, and after a quiet
    /// interval empties the journal altogether; asleep while there is nothing to do. Ends when the
    /// core is closing.
    pub(super) fn maintain(&self) {
        let mut commit_due: Option<Instant> = None;
        let mut filled = false;
        while !self.closing() {
            let patience = commit_due.map(|due| due.saturating_duration_since(Instant::now()));
            let interval = filled.then_some(SYNC_INTERVAL);
            self.signals.work.wait(patience.into_iter().chain(interval).min());
            if self.closing() {
                return;
            }
            let may_wait = |journal: &Journal| journal.emptying_can_wait(SYNC_INTERVAL);
            match self.checkpoint_filled(may_wait) {
                Ok(done) => filled = !done,
                Err(error) => {
                    if let Some(journal) = self.journal() {
                        journal.emptying_failed(error.errno());
                    }
                    tracing::error!(
                        "the journal could not be written in place, which will be tried again: {error}"
                    );
                    std::thread::sleep(RETRY_INTERVAL);
                    self.signals.work.raise();
                }
            }
            if commit_due.is_some_and(|due| due <= Instant::now()) {
                commit_due = None;
                self.commit_periodically();
            }
            if commit_due.is_none() && self.has_work() {
                commit_due = Some(Instant::now() + COMMIT_INTERVAL);
            }
        }
    }

    /// Syncs the journal whenever much of it is not: who fills it as fast as the disk takes it then
    /// waits less at the end, and its emptying, which begins with a sync, has less before it. Ends when
    /// the core is closing.
    pub(super) fn sync_ahead(&self) {
        while !self.closing() {
            self.signals.sync_ahead.wait(None);
            if let Some(journal) = self.journal().filter(|_| !self.closing()) {
                // The journal remembers a failure, for all who rely on it.
                let _ = journal.commit(u64::MAX);
            }
        }
    }

    /// Whether the periodic commit has something to do.
    fn has_work(&self) -> bool {
        !self.dirty.lock().is_empty() || self.journal().is_some_and(Journal::has_members)
    }

    fn commit_periodically(&self) {
        let quiet = self
            .journal()
            .is_some_and(|journal| journal.take_activity() == 0 && journal.has_members());
        let outcome = self.commit_all().and_then(|()| match self.journal() {
            // The next round empties what is filled here.
            Some(journal) if quiet => {
                journal.fill_active()?;
                self.signals.work.raise();
                Ok(())
            }
            _ => Ok(()),
        });
        if let Err(error) = outcome {
            tracing::error!("the periodic commit failed and will be tried again: {error}");
        }
        self.create_journal_if_missing();
    }

    /// Empties the filled segment, where there is one, unless `may_wait` says before a step that
    /// the rest can wait; whether none is left. What an earlier call left is gone on with.
    pub(super) fn checkpoint_filled(&self, may_wait: impl Fn(&Journal) -> bool) -> Result<bool> {
        let Some(journal) = self.journal() else { return Ok(true) };
        let _one_at_a_time = self.checkpointing.lock();
        let Some((generation, members)) = journal.filled() else { return Ok(true) };
        if may_wait(journal) {
            return Ok(false);
        }
        journal.commit(u64::MAX)?;
        for inode in &members {
            if !self.apply(journal, inode, generation, &may_wait)? || may_wait(journal) {
                return Ok(false);
            }
        }
        // Blocks whose newer version lies in the other segment: that version is durable after this.
        journal.commit(u64::MAX)?;
        for inode in &members {
            self.sync_applied(inode, generation)?;
        }
        self.sync_names_left()?;
        journal.retire(generation)?;
        for inode in &members {
            if let Some(file) = inode.open_file() {
                let mut content = file.content.write();
                content.live.retain(|_, block| block.place.generation != generation);
                content.punched.retain(|(_, punched)| *punched != generation);
                content.resized = content.resized.filter(|(_, resized)| *resized != generation);
                content.timed = content.timed.filter(|timed| *timed != generation);
            }
        }
        journal.free(generation);
        for inode in &members {
            self.drop_if_idle(inode);
        }
        Ok(true)
    }

    /// Makes durable what was written in place of a file's records in a segment.
    fn sync_applied(&self, inode: &Arc<Inode>, generation: u64) -> Result<()> {
        let Some(file) = inode.open_file() else {
            // It was let go of: its last name went, or it was emptied.
            let unsynced = inode.is_dirty(DATA_DIRTY) && inode.location().is_some();
            return if unsynced { self.sync_inode(inode) } else { Ok(()) };
        };
        let _one_at_a_time = file.syncing.lock();
        let (orphan, timed) = {
            let content = file.content.read();
            (content.orphan, content.timed == Some(generation))
        };
        if orphan {
            return Ok(());
        }
        file.sync(timed)?;
        let content = file.content.read();
        let dropped = content
            .live
            .values()
            .any(|block| block.place.generation == generation && block.is_pending());
        if (dropped || content.punches_lost) && !content.orphan {
            // Another's sync failed since they were written, and they must be written again.
            let errno = content.failures.untold().unwrap_or(libc::EIO);
            return Err(io::Error::from_raw_os_error(errno).into());
        }
        Ok(())
    }

    /// Makes durable that files are gone of which the journal has records: a cut must not bring one
    /// back whose records are retired.
    fn sync_names_left(&self) -> Result<()> {
        let left = std::mem::take(&mut *self.left_by_records.lock());
        let is_removed = |directory: &Arc<Inode>| {
            directory.location().is_none() && !Arc::ptr_eq(directory, self.inodes.root())
        };
        let outcome = (|| {
            left.values().try_for_each(|directory| self.sync_inode(directory))?;
            // Such a one could come back with the file.
            if left.values().any(is_removed) && !self.sync_filesystem()? {
                self.commit_all()?;
            }
            Ok(())
        })();
        if outcome.is_err() {
            self.left_by_records.lock().extend(left);
        }
        outcome
    }

    /// Empties the whole journal: everything is in place and durable afterwards.
    pub(super) fn empty_journal(&self) -> Result<()> {
        let Some(journal) = self.journal() else { return Ok(()) };
        // The first round empties a segment filled before, the second the one active until now.
        for _ in 0..3 {
            self.checkpoint_filled(|_| false)?;
            if !journal.fill_active()? {
                break;
            }
        }
        self.checkpoint_filled(|_| false)?;
        Ok(())
    }

    /// Writes a file's committed blocks of one segment in place, letting others at the file in
    /// between: what they change of it lies in the other segment. Whether all are; not where
    /// `may_wait` said before a step that the rest can wait.
    fn apply(
        &self,
        journal: &Journal,
        inode: &Arc<Inode>,
        generation: u64,
        may_wait: impl Fn(&Journal) -> bool,
    ) -> Result<bool> {
        let Some(file) = inode.open_file() else { return Ok(true) };
        let mut next = Some(0);
        while let Some(from) = next {
            let mut content = file.content.write();
            self.restore_below(&mut content)?;
            next = apply_content(journal, &mut content, Some(generation), from, APPLY_STEP)?;
            RwLockWriteGuard::unlock_fair(content);
            if next.is_some() && may_wait(journal) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Before a file's name changes: nothing in the journal may depend on the old one. Its records
    /// are written in place and synced, so that replaying them changes nothing; later ones name
    /// the file by its new path. The caller holds [`OpenFile::syncing`](super::content::OpenFile).
    pub(super) fn settle_records(&self, content: &mut Content) -> Result<()> {
        let Some(journal) = self.journal() else { return Ok(()) };
        // Also where a record was refused after the segment had the path.
        content.reference = FileReference::default();
        if !content.has_records() {
            return Ok(());
        }
        journal.commit(content.sequence)?;
        self.restore_below(content)?;
        apply_content(journal, content, None, 0, usize::MAX)?;
        let synced = if content.timed.is_some() {
            content.handle.sync_all()
        } else {
            content.handle.sync_data()
        };
        if let Err(error) = &synced {
            content.sync_failed(error);
        }
        Ok(synced?)
    }

    /// After a sync of a file failed, what its blocks in the journal need below: the header that
    /// they are found by, and holes where the journal has holes.
    fn restore_below(&self, content: &mut Content) -> io::Result<()> {
        if content.header_pending
            && !content.live.is_empty()
            && let Some(keyed) = content.keyed.clone()
        {
            self.write_header(content, &keyed)?;
        }
        if content.punches_lost && !content.orphan {
            for holes in holes_recorded(content) {
                let from = BlockIndex(holes.start).cipher_offset();
                punch(&*content.handle, from, BlockIndex(holes.end).cipher_offset() - from)?;
            }
        }
        content.punches_lost = false;
        Ok(())
    }
}

/// The blocks of which the journal has holes and nothing newer: those that were written since then
/// are live.
fn holes_recorded(content: &Content) -> Vec<Range<u64>> {
    let mut holes = Vec::new();
    for (range, _) in &content.punched {
        let mut from = range.start;
        for (written, _) in content.live.range(range.clone()) {
            holes.push(from..*written);
            from = written + 1;
        }
        holes.push(from..range.end);
    }
    holes.retain(|hole| !hole.is_empty());
    holes
}

/// Writes committed blocks in place, of one segment or all: the first `limit` of those from the
/// block `from` on. Where to go on, unless these were all.
fn apply_content(
    journal: &Journal,
    content: &mut Content,
    generation: Option<u64>,
    from: u64,
    limit: usize,
) -> io::Result<Option<u64>> {
    if content.placed > content.size {
        // The journal has the end of the file, but cutting it in place failed.
        content.handle.set_len(cipher_size(content.size))?;
        content.placed = content.size;
    }
    let mut blocks: Vec<u64> = content
        .live
        .range(from..)
        .filter(|(_, block)| {
            block.is_pending() && generation.is_none_or(|wanted| block.place.generation == wanted)
        })
        .map(|(index, _)| *index)
        .take(limit)
        .collect();
    let Some(last) = blocks.last().copied() else { return Ok(None) };
    let next = (blocks.len() == limit).then_some(last + 1);
    let stat = content.handle.stat()?;
    blocks.reverse();
    while let Some(first) = blocks.pop() {
        let mut run = vec![first];
        while run.len() * CIPHER_BLOCK_SIZE < APPLY_RUN
            && blocks.last() == Some(&(first + to_u64(run.len())))
        {
            run.extend(blocks.pop());
        }
        apply_run(journal, content, &run)?;
    }
    // Late writing is not a change of content: what stat tells stays.
    let modified = content.modified.unwrap_or(stat.modified);
    keep_modified(&*content.handle, SetTime::At(modified))?;
    Ok(next)
}

fn apply_run(journal: &Journal, content: &mut Content, run: &[u64]) -> io::Result<()> {
    let Some((first, last)) = run.first().zip(run.last()) else { return Ok(()) };
    let mut buffer = with_scratch(|scratch| std::mem::take(&mut scratch.cipher));
    let outcome = (|| {
        let places = run.iter().filter_map(|index| content.live.get(index)).map(|live| live.place);
        let places = joined(places);
        let sealed = prefix(&mut buffer, places.iter().map(|place| place.len).sum());
        let mut rest = &mut *sealed;
        for place in &places {
            let (part, after) = rest.split_at_mut(place.len);
            journal.read_block(place, part)?;
            rest = after;
        }
        content.handle.write_at(sealed, BlockIndex(*first).cipher_offset())
    })();
    with_scratch(|scratch| scratch.cipher = buffer);
    outcome?;
    for index in run {
        if let Some(live) = content.live.get_mut(index) {
            live.applied = true;
        }
    }
    let end = BlockIndex(*last).next().plain_offset().min(content.size);
    if cipher_size(end) > cipher_size(content.placed) {
        content.placed = end;
    }
    Ok(())
}

/// Places of which one follows the other in the journal as one, to be read at once.
fn joined(places: impl Iterator<Item = BlockPlace>) -> Vec<BlockPlace> {
    let mut spans: Vec<BlockPlace> = Vec::new();
    for place in places {
        match spans.last_mut() {
            Some(span)
                if span.generation == place.generation
                    && span.offset + to_u64(span.len) == place.offset =>
            {
                span.len += place.len;
            }
            _ => spans.push(place),
        }
    }
    spans
}
