//! The content of one open file: its descriptor, its size, what of it is durable, and what of it
//! lies in the journal; and reading it.
//!
//! A block is either *in place* (in the ciphertext file) or *live* (its newest version is a record
//! of the journal that is not yet written in place). Blocks below the durable size are only ever
//! overwritten through the journal, so that a power cut finds the old version or the new one.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};

use super::core::Core;
use super::error::{Error, Result};
use super::inode::Inode;
use super::journal::{BlockPlace, FileReference};
use crate::backing::{Access, File, Stat, Timestamp};
use crate::format::block::{BlockCipher, Opened, is_hole};
use crate::format::header::FileId;
use crate::format::layout::{BLOCK_OVERHEAD, BLOCK_SIZE, BlockIndex, CIPHER_BLOCK_SIZE};

/// A block of which the journal has a record.
#[derive(Clone, Copy, Debug)]
pub(super) struct LiveBlock {
    pub(super) place: BlockPlace,
    /// Written in place; kept because the record would still be replayed.
    pub(super) applied: bool,
}

impl LiveBlock {
    /// Whether the newest version lies in the journal and nowhere else.
    pub(super) fn is_pending(&self) -> bool {
        !self.applied
    }

    /// Whether it stands for a full block.
    pub(super) fn is_full(&self) -> bool {
        self.place.len == CIPHER_BLOCK_SIZE
    }
}

/// The file's own key, and the ID that it comes from.
pub(super) struct FileKeyed {
    pub(super) id: FileId,
    pub(super) cipher: BlockCipher,
}

/// What is known of a file's content; see the module's documentation.
pub(super) struct Content {
    pub(super) handle: Arc<dyn File>,
    pub(super) access: Access,
    /// `None` while the file is empty.
    pub(super) keyed: Option<Arc<FileKeyed>>,
    /// Plain size.
    pub(super) size: u64,
    /// Whether `keyed` is still to be written as the file's header.
    pub(super) header_pending: bool,
    /// Plain size of the ciphertext file as it lies in place; below `size` while appended blocks
    /// are live.
    pub(super) placed: u64,
    /// Whether the file may have holes.
    pub(super) sparse: bool,
    /// Plain bytes from the start that a power cut must not touch.
    pub(super) durable: u64,
    /// Rises when the file shrinks, so that a sync under way knows that what it captured is gone.
    pub(super) shrinks: u64,
    pub(super) live: BTreeMap<u64, LiveBlock>,
    /// Ranges of blocks with live punch records, by generation.
    pub(super) punched: Vec<(Range<u64>, u64)>,
    /// A sync failed since these were made holes in place.
    pub(super) punches_lost: bool,
    /// The lowest size that a live record set, and the generation of the last such record: from
    /// there on recovery takes the file's size and blocks from the journal alone.
    pub(super) resized: Option<(u64, u64)>,
    /// The generation of the newest live record of the time of last change: until it is retired,
    /// recovery takes that time from the journal.
    pub(super) timed: Option<u64>,
    pub(super) reference: FileReference,
    /// Sequence of the newest record about this file.
    pub(super) sequence: u64,
    /// Up to which sequence the records are in place and synced, and need not be found by a path.
    pub(super) settled: u64,
    /// Sequence of the record that made the durable partial last block a full one, while blocks
    /// after it must not be written in place before that record is durable.
    pub(super) tail_sequence: Option<u64>,
    /// Syncs seen, and bytes written since the last: tells files that are synced often.
    pub(super) syncs: u32,
    pub(super) written_since_sync: u64,
    /// Changed while a mount ended uncleanly: a block that does not authenticate was torn before
    /// it was ever durable, and counts as a hole.
    pub(super) suspect: bool,
    /// The last name is gone: nothing of it outlives the mount.
    pub(super) orphan: bool,
    /// The time of last change as the transport set it, where it keeps the times: writing in place
    /// must not move it, for the kernel's writes may arrive after its times.
    pub(super) modified: Option<Timestamp>,
    /// A damaged block was reported already.
    pub(super) reported: bool,
    pub(super) failures: SyncFailures,
}

/// Syncs of a file that failed. The kernel tells of each once; here every application hears of it
/// whose sync began before one was told.
#[derive(Default)]
pub(super) struct SyncFailures {
    count: u64,
    told: u64,
    errno: i32,
}

impl SyncFailures {
    fn add(&mut self, error: &io::Error) {
        self.count += 1;
        self.errno = error.raw_os_error().unwrap_or(libc::EIO);
    }

    /// How many an application was told of.
    pub(super) fn told(&self) -> u64 {
        self.told
    }

    /// Why the last one failed, where no application was told yet.
    pub(super) fn untold(&self) -> Option<i32> {
        (self.count > self.told).then_some(self.errno)
    }

    /// What to tell an application whose sync began when so many were told.
    pub(super) fn tell(&mut self, told_then: u64) -> Option<i32> {
        self.told = self.count;
        (self.count > told_then).then_some(self.errno)
    }
}

impl Content {
    pub(super) fn new(handle: Arc<dyn File>, access: Access) -> Self {
        Self {
            handle,
            access,
            keyed: None,
            size: 0,
            header_pending: false,
            placed: 0,
            sparse: false,
            durable: 0,
            shrinks: 0,
            live: BTreeMap::new(),
            punched: Vec::new(),
            punches_lost: false,
            resized: None,
            timed: None,
            reference: FileReference::default(),
            sequence: 0,
            settled: 0,
            tail_sequence: None,
            syncs: 0,
            written_since_sync: 0,
            suspect: false,
            orphan: false,
            modified: None,
            reported: false,
            failures: SyncFailures::default(),
        }
    }

    /// Whether a block may be written in place only through the journal.
    pub(super) fn must_journal(&self, block: BlockIndex) -> bool {
        !self.orphan
            && (block < BlockIndex::count(self.durable)
                || self.live.contains_key(&block.0)
                || self.punched.iter().any(|(range, _)| range.contains(&block.0))
                || self.resized.is_some_and(|(size, _)| block.next().plain_offset() > size))
    }

    /// Whether the journal has a full record of each of these blocks, and so their room is reserved.
    pub(super) fn all_in_journal(&self, first: BlockIndex, after: BlockIndex) -> bool {
        let full = self.live.range(first.0..after.0).filter(|(_, block)| block.is_full());
        to_u64(full.count()) == after.0 - first.0
    }

    /// After a sync of the file failed: the kernel may have dropped what it could not write, and
    /// says so once. What the journal holds must be written in place again, and an application that
    /// relies on what lies nowhere else must hear of it.
    pub(super) fn sync_failed(&mut self, error: &io::Error) {
        for block in self.live.values_mut() {
            block.applied = false;
        }
        self.punches_lost |= !self.punched.is_empty();
        self.settled = 0;
        if self.durable == 0 && self.keyed.is_some() {
            // What is written from here on needs it.
            self.header_pending = true;
        }
        self.failures.add(error);
    }

    /// Whether anything of the file is in the journal only, or would be replayed.
    pub(super) fn has_records(&self) -> bool {
        !self.live.is_empty()
            || !self.punched.is_empty()
            || self.resized.is_some()
            || self.timed.is_some()
    }
}

/// An open regular file.
pub(super) struct OpenFile {
    pub(super) content: RwLock<Content>,
    /// Held by who syncs it, until an error is noted in the content: the kernel tells it once, and
    /// the next one would take its own success for that of all. Taken before the content's lock.
    pub(super) syncing: Mutex<()>,
    /// The content's key when it was written last, to be had without waiting for its lock.
    last_key: Mutex<Option<Arc<FileKeyed>>>,
}

impl OpenFile {
    pub(super) fn new(content: Content) -> Self {
        let content = RwLock::new(content);
        Self { content, syncing: Mutex::new(()), last_key: Mutex::new(None) }
    }

    /// A key that the content had; it may have another by now.
    pub(super) fn keyed(&self) -> Option<Arc<FileKeyed>> {
        self.last_key.lock().clone()
    }

    /// Remembers the content's key.
    pub(super) fn note_key(&self, content: &Content) {
        let mut last = self.last_key.lock();
        let same = match (&*last, &content.keyed) {
            (Some(last), Some(keyed)) => Arc::ptr_eq(last, keyed),
            (last, keyed) => last.is_none() == keyed.is_none(),
        };
        if !same {
            last.clone_from(&content.keyed);
        }
    }

    /// Whether nothing would be lost by closing it.
    pub(super) fn is_at_rest(&self) -> bool {
        self.content.try_read().is_some_and(|content| {
            !content.has_records() && !content.orphan && content.failures.untold().is_none()
        })
    }

    /// Why what was written to it may be lost without anybody having been told, if it may.
    pub(super) fn untold_loss(&self) -> Option<i32> {
        let content = self.content.read();
        content.failures.untold().filter(|_| !content.orphan)
    }

    /// Whether nothing is lost when it is no longer known: a file that has names must be, as long
    /// as the journal has records of it or something is `unsynced`.
    pub(super) fn may_be_forgotten(&self, unsynced: bool) -> bool {
        self.content
            .try_read()
            .is_some_and(|content| content.orphan || !(unsynced || content.has_records()))
    }

    /// Syncs it; the caller holds [`Self::syncing`].
    pub(super) fn sync(&self, all: bool) -> io::Result<()> {
        let handle = self.content.read().handle.clone();
        let outcome = if all { handle.sync_all() } else { handle.sync_data() };
        if let Err(error) = &outcome {
            self.content.write().sync_failed(error);
        }
        outcome
    }
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = const { RefCell::new(Scratch::new()) };
}

/// Buffers that a thread keeps from one operation to the next.
pub(super) struct Scratch {
    pub(super) cipher: Vec<u8>,
    pub(super) block: Vec<u8>,
    pub(super) record: Vec<u8>,
}

impl Scratch {
    const fn new() -> Self {
        Self { cipher: Vec::new(), block: Vec::new(), record: Vec::new() }
    }
}

/// Runs with this thread's buffers.
pub(super) fn with_scratch<T>(run: impl FnOnce(&mut Scratch) -> T) -> T {
    SCRATCH.with(|scratch| match scratch.try_borrow_mut() {
        Ok(mut scratch) => run(&mut scratch),
        Err(_) => run(&mut Scratch::new()),
    })
}

/// The first `len` bytes of a buffer, grown where needed; their content is arbitrary.
pub(super) fn prefix(buffer: &mut Vec<u8>, len: usize) -> &mut [u8] {
    if buffer.len() < len {
        buffer.resize(len, 0);
    }
    &mut buffer[..len]
}

impl Core {
    pub(super) fn key_file(&self, id: FileId) -> Arc<FileKeyed> {
        Arc::new(FileKeyed { id, cipher: BlockCipher::new(&self.codecs.content, id) })
    }

    /// Whether a file changed in a span of time whose writes may be torn.
    pub(super) fn is_suspect(&self, stat: &Stat) -> bool {
        self.windows.read().iter().any(|window| stat.changed.seconds >= window.from)
    }

    /// Reads into `buffer`; the count, short only at the end of the file.
    pub(super) fn read(&self, inode: &Arc<Inode>, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let file = self.held_content(inode)?;
        let content = file.content.read();
        let outcome = self.read_content(&content, offset, buffer);
        if let Err(Error::Damaged { what }) = &outcome {
            let first = !content.reported;
            drop(content);
            if first {
                file.content.write().reported = true;
                let path = self.plain_path(inode);
                tracing::error!(
                    path,
                    offset,
                    "{what} does not authenticate; reading it gives an I/O error"
                );
            }
        }
        outcome
    }

    fn read_content(&self, content: &Content, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let available = content.size.saturating_sub(offset);
        let len = usize::try_from(available).unwrap_or(usize::MAX).min(buffer.len());
        if len == 0 {
            return Ok(0);
        }
        let buffer = &mut buffer[..len];
        let end = offset + to_u64(len);
        let first = BlockIndex::containing(offset);
        let after = BlockIndex::count(end);
        let span = usize::try_from(after.cipher_offset() - first.cipher_offset())
            .map_err(|_| Error::Invalid)?;
        with_scratch(|scratch| {
            let cipher = prefix(&mut scratch.cipher, span);
            let read = content.handle.read_at(cipher, first.cipher_offset())?;
            let mut at = offset;
            let mut out = buffer;
            for index in (first.0..after.0).map(BlockIndex) {
                let start = usize::try_from(at - index.plain_offset()).expect("within a block");
                let count = (BLOCK_SIZE - start).min(out.len());
                let (part, rest) = out.split_at_mut(count);
                let from = usize::try_from(index.cipher_offset() - first.cipher_offset())
                    .expect("within the span");
                let placed = &cipher[from.min(read)..(from + CIPHER_BLOCK_SIZE).min(read)];
                let block_len = index.plain_len(content.size);
                if start == 0 && count == block_len {
                    self.open_block(content, index, placed, part)?;
                } else {
                    let block = prefix(&mut scratch.block, BLOCK_SIZE);
                    self.open_block(content, index, placed, &mut block[..block_len])?;
                    part.copy_from_slice(&block[start..start + count]);
                }
                at += to_u64(count);
                out = rest;
            }
            Ok(len)
        })
    }

    /// Decrypts one block, from the journal where its newest version is there, into `plain`, which
    /// is as long as the block is in the file.
    pub(super) fn open_block(
        &self,
        content: &Content,
        index: BlockIndex,
        placed: &[u8],
        plain: &mut [u8],
    ) -> Result<()> {
        let live = content.live.get(&index.0).filter(|block| block.is_pending());
        let mut buffer;
        let cipher = match live {
            Some(block) => {
                let journal = self.journal().ok_or(Error::Damaged { what: "the journal" })?;
                buffer = [0u8; CIPHER_BLOCK_SIZE];
                let sealed = &mut buffer[..block.place.len];
                journal.read_block(&block.place, sealed)?;
                &*sealed
            }
            None => placed,
        };
        if is_hole(cipher) {
            plain.fill(0);
            return Ok(());
        }
        let body = cipher.len().saturating_sub(BLOCK_OVERHEAD);
        let opened = match &content.keyed {
            Some(keyed) if body == plain.len() => keyed.cipher.open(index, cipher, plain),
            // The block is longer than the file (an extension that failed half-way), or ends
            // before it (the rest is a hole still to come).
            Some(keyed) if body > 0 => {
                let mut block = vec![0; body];
                let opened = keyed.cipher.open(index, cipher, &mut block);
                let common = body.min(plain.len());
                plain[..common].copy_from_slice(&block[..common]);
                plain[common..].fill(0);
                opened
            }
            _ => Err(crate::crypto::OpenError),
        };
        match opened {
            Ok(Opened::Data | Opened::Hole) => Ok(()),
            Err(_) if content.suspect => {
                plain.fill(0);
                Ok(())
            }
            Err(_) => {
                plain.fill(0);
                Err(Error::Damaged { what: "a block" })
            }
        }
    }

    /// Reads one block as it stands, for a write that keeps part of it; zeros beyond the file.
    pub(super) fn read_old_block(
        &self,
        content: &Content,
        index: BlockIndex,
        block: &mut [u8],
    ) -> Result<()> {
        let len = index.plain_len(content.size).min(block.len());
        block[len..].fill(0);
        if len == 0 {
            return Ok(());
        }
        let mut cipher = [0u8; CIPHER_BLOCK_SIZE];
        let read = content.handle.read_at(&mut cipher, index.cipher_offset())?;
        self.open_block(content, index, &cipher[..read], &mut block[..len])
    }
}

pub(super) fn to_u64(len: usize) -> u64 {
    u64::try_from(len).expect("a usize fits 64 bits")
}
