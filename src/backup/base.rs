//! What an earlier backup stores: its index read beside the walk, in bounded memory.

use std::cmp::Ordering;
use std::thread::{Builder, Scope, ScopedJoinHandle};

use crossbeam_channel::{Receiver, bounded};

use super::error::{Error, Result};
use crate::archive::{self, ArchiveId, ArchiveReader, Control, IndexEntry, SectionName, Where};
use crate::tree::{Digest, Entry, Timestamp};

/// Lines on their way.
const QUEUE: usize = 4096;

/// The files of an earlier backup, in the order of their archive.
pub(super) struct Base<'scope> {
    id: ArchiveId,
    /// What changed later than this may have changed again without its times telling.
    trusted_before: i64,
    sections: Vec<SectionName>,
    lines: Receiver<IndexEntry>,
    current: Option<IndexEntry>,
    reading: ScopedJoinHandle<'scope, archive::Result<()>>,
}

impl<'scope> Base<'scope> {
    /// Begins to read the index of `reader`, which was begun to be written at `created`.
    ///
    /// # Errors
    /// When no thread can be started.
    pub(super) fn new<'env>(
        scope: &'scope Scope<'scope, 'env>,
        reader: &'env ArchiveReader,
        created: i64,
        control: Control<'env>,
    ) -> archive::Result<Self> {
        let (send, lines) = bounded(QUEUE);
        let read = move || {
            let taken = reader.index(control, &mut |line: &IndexEntry| {
                send.send(line.clone()).map_err(|_| archive::Error::Cancelled)
            });
            taken.map(drop)
        };
        let reading = Builder::new().spawn_scoped(scope, read).map_err(archive::Error::NoThread)?;
        let metadata = reader.metadata();
        let current = lines.recv().ok();
        Ok(Self {
            id: metadata.id,
            // The clock of the filesystem may be a little behind.
            trusted_before: created - 2,
            sections: metadata.sections.clone(),
            lines,
            current,
            reading,
        })
    }

    /// Where the content of this file is stored already, if it did not change since. To be asked
    /// in the order of a walk.
    pub(super) fn unchanged(
        &mut self,
        section: &SectionName,
        entry: &Entry,
    ) -> Option<(Digest, ArchiveId)> {
        let (own, trusted_before) = (self.id, self.trusted_before);
        let line = self.line(section, entry)?;
        let same = line.changed == entry.changed
            && line.inode == entry.inode
            && is_same(line, entry)
            && line.changed < Timestamp { seconds: trusted_before, nanoseconds: 0 }
            && !line.unstable;
        if !same {
            return None;
        }
        let stored = match line.stored {
            Where::Here => own,
            Where::In(id) => id,
            Where::Nowhere => return None,
        };
        line.entry.sha256.map(|digest| (digest, stored))
    }

    /// The line of this entry; those before it are passed over.
    fn line(&mut self, section: &SectionName, entry: &Entry) -> Option<&IndexEntry> {
        let number = |name: &SectionName| self.sections.iter().position(|known| known == name);
        let wanted = number(section)?;
        while let Some(line) = &self.current {
            let order = number(&line.section)
                .cmp(&Some(wanted))
                .then_with(|| line.entry.path.cmp(&entry.path));
            match order {
                Ordering::Less => self.current = self.lines.recv().ok(),
                Ordering::Equal => break,
                Ordering::Greater => return None,
            }
        }
        self.current.as_ref()
    }

    /// Ends the reading: only when this returns well were the answers to be relied on.
    pub(super) fn finish(self) -> Result<()> {
        let Self { lines, reading, .. } = self;
        // The rest of it is read, too: its end vouches for its beginning.
        lines.iter().for_each(drop);
        reading.join().map_err(|_| Error::Archive(archive::Error::Worker))??;
        Ok(())
    }
}

/// Everything but the last access.
fn is_same(line: &IndexEntry, entry: &Entry) -> bool {
    let mut metadata = line.entry.metadata.clone();
    metadata.accessed = entry.metadata.accessed;
    metadata == entry.metadata
}
