//! The ends of an archive file: threads that seal and write, read and open, so that these go on
//! while other threads compress.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, bounded, select};
use sha2::{Digest as _, Sha256};

use super::ahead::{Piece, Pieces};
use super::buffer::Buffer;
use super::error::{Error, Result};
use super::growing::{Growing, Growth, Place};
use super::threads::start;
use crate::crypto::{SegmentCipher, TAG_LEN};
use crate::format::archive::SegmentLayout;
use crate::tree::Digest;

/// Bytes on their way to whoever reads, as far as that are several buffers, and not too many.
const IN_FLIGHT: u64 = 2 << 20;
/// Buffers on their way to the file: room for a whole frame of zstd's usual levels (8 MiB), so that who
/// hands one over need not wait until it is sealed and written, but goes on reading.
const TO_FILE: usize = 128;
/// Most buffers that wait for the key they are sealed with (64 MiB, and [`TO_FILE`] behind them). Deriving
/// one from a passphrase takes about a second, in which most backups are read and compressed whole.
const WAITING_MAX: usize = 1024;
/// Bytes of a buffer where the archive is not sealed.
pub(super) const PLAIN_BUFFER: usize = 64 * 1024;

/// What an archive file begins with, and how the rest of it is sealed.
pub(super) struct Sealer {
    pub(super) header: Vec<u8>,
    pub(super) cipher: Option<SegmentCipher>,
}

impl Sealer {
    /// Of an archive that is not sealed.
    pub(super) fn plain() -> Self {
        Self { header: Vec::new(), cipher: None }
    }
}

/// A buffer, and whether it is the last one.
type Full = (Vec<u8>, bool);

/// Writes an archive file from its own thread.
pub(super) struct Output {
    buffer: Vec<u8>,
    capacity: usize,
    sender: Option<Sender<Full>>,
    empty: Receiver<Vec<u8>>,
    thread: Option<JoinHandle<Option<(u64, Digest)>>>,
    failure: Arc<Mutex<Option<Error>>>,
}

impl Output {
    /// Writes to an empty file what `sealer` gives, and behind it what is written here: sealed in
    /// segments of `capacity` bytes where there is a cipher. The sealer may come late. `growth` is told
    /// how far the file is.
    ///
    /// # Errors
    /// [`Error::NoThread`].
    pub(super) fn new(
        file: File,
        path: &Path,
        sealer: Receiver<Result<Sealer>>,
        capacity: usize,
        growth: Option<Arc<Growth>>,
    ) -> Result<Self> {
        let (sender, full) = bounded(TO_FILE);
        let (give_back, empty) = bounded(TO_FILE);
        let failure = Arc::new(Mutex::new(None));
        let told = Arc::clone(&failure);
        let path = path.to_owned();
        let thread = start(move || {
            let mut file = Hashed { file, path, length: 0, hasher: Sha256::new(), growth };
            match write_all(&mut file, &sealer, &full, &give_back) {
                Ok(()) => Some((file.length, Digest(file.hasher.finalize().into()))),
                Err(error) => {
                    *told.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                    None
                }
            }
        })?;
        let buffer = buffer_for(capacity);
        Ok(Self { buffer, capacity, sender: Some(sender), empty, thread: Some(thread), failure })
    }

    /// Hands over the buffer.
    fn send(&mut self, last: bool) -> Result<()> {
        let next = match self.empty.try_recv() {
            Ok(mut empty) => {
                empty.clear();
                empty
            }
            Err(_) => buffer_for(self.capacity),
        };
        let full = std::mem::replace(&mut self.buffer, next);
        let sent = self.sender.as_ref().is_some_and(|sender| sender.send((full, last)).is_ok());
        if sent { Ok(()) } else { Err(self.failure()) }
    }

    fn failure(&self) -> Error {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or(Error::Worker)
    }

    /// Ends the file: all of it is written when this returns, though not yet durable. Its length
    /// and its SHA-256.
    pub(super) fn finish(mut self) -> Result<(u64, Digest)> {
        let sent = self.send(true);
        self.sender = None;
        let joined = self.thread.take().and_then(|thread| thread.join().ok()).flatten();
        match (sent, joined) {
            (Ok(()), Some(written)) => Ok(written),
            (Err(error), _) => Err(error),
            (Ok(()), None) => Err(self.failure()),
        }
    }
}

impl Drop for Output {
    /// Nothing writes to the file any more after this, finished or not.
    fn drop(&mut self) {
        self.sender = None;
        if let Some(thread) = self.thread.take() {
            // A panic there was reported where it happened.
            let _ = thread.join();
        }
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // A full buffer waits for the byte after it: only the last segment may be the last.
        if self.buffer.len() == self.capacity {
            self.send(false).map_err(Error::into_io)?;
        }
        let taken = bytes.len().min(self.capacity - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Room for a segment and its tag: else it would move when it is sealed, and leave behind what it held.
fn buffer_for(capacity: usize) -> Vec<u8> {
    Vec::with_capacity(capacity + TAG_LEN)
}

/// A file with the digest of what was written to it.
struct Hashed {
    file: File,
    path: PathBuf,
    length: u64,
    hasher: Sha256,
    growth: Option<Arc<Growth>>,
}

impl Hashed {
    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(Error::io("write", &self.path))?;
        self.hasher.update(bytes);
        let count = bytes.len() as u64;
        self.length += count;
        if let Some(growth) = &self.growth {
            growth.add(count);
        }
        Ok(())
    }
}

fn write_all(
    file: &mut Hashed,
    sealer: &Receiver<Result<Sealer>>,
    full: &Receiver<Full>,
    give_back: &Sender<Vec<u8>>,
) -> Result<()> {
    let (Sealer { header, cipher }, waiting) = wait(sealer, full)?;
    file.put(&header)?;
    for (index, (mut buffer, last)) in (0u64..).zip(waiting.into_iter().chain(full)) {
        if let Some(cipher) = &cipher {
            let index = u32::try_from(index).map_err(|_| Error::TooLarge("2^32 segments"))?;
            cipher.seal(index, last, &mut buffer);
        }
        file.put(&buffer)?;
        // Nobody to take it back any more: then it goes.
        let _ = give_back.try_send(buffer);
    }
    Ok(())
}

/// The sealer, and the buffers that came before it.
fn wait(sealer: &Receiver<Result<Sealer>>, full: &Receiver<Full>) -> Result<(Sealer, Vec<Full>)> {
    let mut waiting = Vec::new();
    let found = loop {
        if waiting.len() >= WAITING_MAX {
            break sealer.recv();
        }
        select! {
            recv(sealer) -> found => break found,
            recv(full) -> buffer => match buffer {
                Ok(buffer) => waiting.push(buffer),
                Err(_) if waiting.last().is_some_and(|(_, last)| *last) => break sealer.recv(),
                // Given up: nothing of it is written.
                Err(_) => return Err(Error::Worker),
            },
        }
    };
    Ok((found.map_err(|_| Error::Worker)??, waiting))
}

/// The payload of an archive file, sealed or not: opened piece by piece, in any order.
pub(super) struct Input {
    file: File,
    path: PathBuf,
    /// Where it is sealed.
    cipher: Option<SegmentCipher>,
    extent: Extent,
}

/// What of a file there is.
pub(super) enum Extent {
    /// As many bytes, not sealed.
    Plain(u64),
    /// Segments.
    Sealed(SegmentLayout),
    /// What was written of it so far.
    Growing(Growing),
}

impl Input {
    pub(super) fn new(
        file: File,
        path: &Path,
        cipher: Option<SegmentCipher>,
        extent: Extent,
    ) -> Self {
        Self { file, path: path.to_owned(), cipher, extent }
    }

    /// Bytes of plaintext, at most.
    pub(super) fn len(&self) -> u64 {
        match &self.extent {
            Extent::Plain(length) => *length,
            Extent::Sealed(layout) => layout.payload_len(),
            Extent::Growing(_) => u64::MAX,
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is being written.
    pub(super) fn is_growing(&self) -> bool {
        matches!(self.extent, Extent::Growing(_))
    }

    /// How many pieces are read ahead.
    pub(super) fn in_flight(&self) -> usize {
        usize::try_from(IN_FLIGHT / self.piece_len()).unwrap_or(usize::MAX).clamp(2, 32)
    }

    fn piece_len(&self) -> u64 {
        match &self.extent {
            Extent::Plain(_) => PLAIN_BUFFER as u64,
            Extent::Sealed(layout) => layout.segment_len(),
            Extent::Growing(growing) => growing.piece_len(),
        }
    }

    /// Where the piece with this index lies; `None` past the end.
    fn place(&self, index: u64) -> Result<Option<Place>> {
        match &self.extent {
            Extent::Plain(end) => {
                let offset = index.saturating_mul(PLAIN_BUFFER as u64).min(*end);
                let length = (end - offset).min(PLAIN_BUFFER as u64);
                let length = usize::try_from(length).unwrap_or(0);
                Ok(Some(Place { offset, length, number: 0, last: false, kept: length }))
            }
            Extent::Sealed(layout) => {
                let found = layout.segment(index);
                Ok(found.map(|(offset, length, number, last)| Place {
                    offset,
                    length,
                    number,
                    last,
                    kept: length,
                }))
            }
            Extent::Growing(growing) => growing
                .place(index)
                .map_err(|error| Error::Format { path: self.path.clone(), error }),
        }
    }

    /// Puts the piece with this index into `buffer`; empty past the end.
    fn piece(&self, index: u64, buffer: &mut Vec<u8>) -> Result<()> {
        let Some(Place { offset, length, number, last, kept }) = self.place(index)? else {
            buffer.clear();
            return Ok(());
        };
        // Not cleared before: what is read fills all of it or fails, and zeros would be for nothing.
        buffer.resize(length, 0);
        self.file.read_exact_at(buffer, offset).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => {
                Error::Damaged("it became shorter while it was read".into())
            }
            _ => Error::Io { action: "read", path: self.path.clone(), source: error },
        })?;
        if let Some(cipher) = &self.cipher {
            cipher.open(number, last, buffer).map_err(|_| Error::Segment { segment: index })?;
        }
        buffer.truncate(kept);
        Ok(())
    }

    /// The bytes from `start` on, `length` of them or up to the end.
    pub(super) fn range(self: &Arc<Self>, start: u64, length: u64) -> Range {
        Range {
            input: Arc::clone(self),
            at: start,
            end: start.saturating_add(length).min(self.len()),
            index: None,
            buffer: Vec::new(),
        }
    }
}

/// A part of an [`Input`], being read.
pub(super) struct Range {
    input: Arc<Input>,
    at: u64,
    end: u64,
    index: Option<u64>,
    buffer: Vec<u8>,
}

impl Read for Range {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at >= self.end || buffer.is_empty() {
            return Ok(0);
        }
        let piece_len = self.input.piece_len();
        let index = self.at / piece_len;
        if self.index != Some(index) {
            self.index = None;
            self.input.piece(index, &mut self.buffer).map_err(Error::into_io)?;
            self.index = Some(index);
        }
        let from = usize::try_from(self.at % piece_len).unwrap_or(usize::MAX);
        let available = self.buffer.get(from..).unwrap_or_default();
        let wanted = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
        let count = available.len().min(wanted).min(buffer.len());
        buffer[..count].copy_from_slice(&available[..count]);
        self.at += count as u64;
        Ok(count)
    }
}

/// What is opened is handed on as it is.
impl Pieces for Range {
    fn next(&mut self, spare: Buffer) -> io::Result<Piece> {
        let mut spare = spare.into_vec();
        if self.at >= self.end {
            return Ok((Buffer::Heap(spare), 0..0));
        }
        let piece_len = self.input.piece_len();
        let from = usize::try_from(self.at % piece_len).unwrap_or(usize::MAX);
        self.input.piece(self.at / piece_len, &mut spare).map_err(Error::into_io)?;
        let wanted = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
        let count = spare.len().saturating_sub(from).min(wanted);
        self.at += count as u64;
        Ok((Buffer::Heap(spare), from..from + count))
    }
}
