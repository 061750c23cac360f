//! The ends of an archive file: threads that seal and write, read and open, so that these go on
//! while other threads compress.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, bounded};
use sha2::{Digest as _, Sha256};

use super::error::{Error, Result};
use crate::crypto::SegmentCipher;
use crate::format::archive::SegmentLayout;
use crate::tree::Digest;

/// Buffers on their way.
const IN_FLIGHT: usize = 8;
/// Bytes of a buffer where the archive is not sealed.
pub(super) const PLAIN_BUFFER: usize = 256 * 1024;

/// Writes an archive file from its own thread.
pub(super) struct Output {
    buffer: Vec<u8>,
    capacity: usize,
    sender: Option<Sender<(Vec<u8>, bool)>>,
    empty: Receiver<Vec<u8>>,
    thread: Option<JoinHandle<Option<(u64, Digest)>>>,
    failure: Arc<Mutex<Option<Error>>>,
}

impl Output {
    /// Writes `header` to an empty file, and what is written behind it: sealed in segments of
    /// `capacity` bytes where there is a cipher.
    pub(super) fn new(
        file: File,
        path: &Path,
        header: Vec<u8>,
        cipher: Option<SegmentCipher>,
        capacity: usize,
    ) -> Self {
        let (sender, full) = bounded::<(Vec<u8>, bool)>(IN_FLIGHT);
        let (give_back, empty) = bounded(IN_FLIGHT);
        let failure = Arc::new(Mutex::new(None));
        let told = Arc::clone(&failure);
        let path = path.to_owned();
        let thread = std::thread::spawn(move || {
            let mut file = Hashed { file, path, length: 0, hasher: Sha256::new() };
            let written = file
                .put(&header)
                .and_then(|()| write_all(&mut file, cipher.as_ref(), &full, &give_back));
            match written {
                Ok(()) => Some((file.length, Digest(file.hasher.finalize().into()))),
                Err(error) => {
                    *told.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                    None
                }
            }
        });
        let buffer = Vec::with_capacity(capacity);
        Self { buffer, capacity, sender: Some(sender), empty, thread: Some(thread), failure }
    }

    /// Hands over the buffer.
    fn send(&mut self, last: bool) -> Result<()> {
        let next = self.empty.try_recv().unwrap_or_default();
        let full = std::mem::replace(&mut self.buffer, next);
        self.buffer.clear();
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

/// A file with the digest of what was written to it.
struct Hashed {
    file: File,
    path: PathBuf,
    length: u64,
    hasher: Sha256,
}

impl Hashed {
    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(Error::io("write", &self.path))?;
        self.hasher.update(bytes);
        self.length += bytes.len() as u64;
        Ok(())
    }
}

fn write_all(
    file: &mut Hashed,
    cipher: Option<&SegmentCipher>,
    full: &Receiver<(Vec<u8>, bool)>,
    give_back: &Sender<Vec<u8>>,
) -> Result<()> {
    for (index, (mut buffer, last)) in (0u64..).zip(full) {
        if let Some(cipher) = cipher {
            let index = u32::try_from(index).map_err(|_| Error::TooLarge("2^32 segments"))?;
            cipher.seal(index, last, &mut buffer);
        }
        file.put(&buffer)?;
        // Nobody to take it back any more: then it goes.
        let _ = give_back.try_send(buffer);
    }
    Ok(())
}

/// The payload of an archive file, sealed or not: opened piece by piece, in any order.
pub(super) struct Input {
    file: File,
    path: PathBuf,
    sealed: Option<(SegmentCipher, SegmentLayout)>,
    length: u64,
}

impl Input {
    /// Of a file of which `length` bytes count.
    pub(super) fn plain(file: File, path: &Path, length: u64) -> Self {
        Self { file, path: path.to_owned(), sealed: None, length }
    }

    pub(super) fn sealed(
        file: File,
        path: &Path,
        cipher: SegmentCipher,
        layout: SegmentLayout,
    ) -> Self {
        let length = layout.payload_len();
        Self { file, path: path.to_owned(), sealed: Some((cipher, layout)), length }
    }

    /// Bytes of plaintext.
    pub(super) fn len(&self) -> u64 {
        self.length
    }

    pub(super) fn is_sealed(&self) -> bool {
        self.sealed.is_some()
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn piece_len(&self) -> u64 {
        self.sealed.as_ref().map_or(PLAIN_BUFFER as u64, |(_, layout)| layout.segment_len())
    }

    /// Puts the piece with this index into `buffer`; empty past the end.
    fn piece(&self, index: u64, buffer: &mut Vec<u8>) -> Result<()> {
        let read = |buffer: &mut Vec<u8>, length: usize, offset: u64| {
            buffer.resize(length, 0);
            self.file.read_exact_at(buffer, offset).map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => {
                    Error::Damaged("it became shorter while it was read".into())
                }
                _ => Error::Io { action: "read", path: self.path.clone(), source: error },
            })
        };
        buffer.clear();
        let Some((cipher, layout)) = &self.sealed else {
            let offset = index.saturating_mul(PLAIN_BUFFER as u64).min(self.length);
            let length = (self.length - offset).min(PLAIN_BUFFER as u64);
            return read(buffer, usize::try_from(length).unwrap_or(0), offset);
        };
        let Some((offset, length, number, last)) = layout.segment(index) else { return Ok(()) };
        read(buffer, length, offset)?;
        cipher
            .open(number, last, buffer)
            .map_err(|_| Error::Segment { segment: index, segments: layout.segments() })
    }

    /// The bytes from `start` on, `length` of them or up to the end.
    pub(super) fn range(self: &Arc<Self>, start: u64, length: u64) -> Range {
        Range {
            input: Arc::clone(self),
            at: start,
            end: start.saturating_add(length).min(self.length),
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

/// Reads ahead in a thread of its own.
pub(super) struct Ahead {
    receiver: Option<Receiver<io::Result<Vec<u8>>>>,
    give_back: Sender<Vec<u8>>,
    buffer: Vec<u8>,
    at: usize,
    thread: Option<JoinHandle<()>>,
}

impl Ahead {
    /// Reads `input` to its end or its first error.
    pub(super) fn new(mut input: impl Read + Send + 'static) -> Self {
        let (sender, receiver) = bounded(IN_FLIGHT);
        let (give_back, empty): (Sender<Vec<u8>>, Receiver<Vec<u8>>) = bounded(IN_FLIGHT);
        let thread = std::thread::spawn(move || {
            loop {
                let mut buffer = empty.try_recv().unwrap_or_default();
                let read = fill(&mut input, &mut buffer);
                let ends = !matches!(&read, Ok(count) if *count > 0);
                if sender.send(read.map(|_| buffer)).is_err() || ends {
                    return;
                }
            }
        });
        let (buffer, at) = (Vec::new(), 0);
        Self { receiver: Some(receiver), give_back, buffer, at, thread: Some(thread) }
    }
}

/// Fills the buffer as far as the input reaches.
fn fill(input: &mut impl Read, buffer: &mut Vec<u8>) -> io::Result<usize> {
    buffer.resize(PLAIN_BUFFER, 0);
    let mut filled = 0;
    while filled < buffer.len() {
        match input.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    buffer.truncate(filled);
    Ok(filled)
}

impl Read for Ahead {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.buffer.len() {
            let Some(receiver) = &self.receiver else { return Ok(0) };
            match receiver.recv() {
                Ok(Ok(next)) if next.is_empty() => self.receiver = None,
                Ok(Ok(next)) => {
                    // Nobody to take it back any more: then it goes.
                    let _ = self.give_back.try_send(std::mem::replace(&mut self.buffer, next));
                    self.at = 0;
                }
                Ok(Err(error)) => return Err(error),
                Err(_) => return Err(Error::Worker.into_io()),
            }
        }
        let count = buffer.len().min(self.buffer.len() - self.at);
        buffer[..count].copy_from_slice(&self.buffer[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.receiver = None;
        if let Some(thread) = self.thread.take() {
            // A panic there was reported where it happened.
            let _ = thread.join();
        }
    }
}
