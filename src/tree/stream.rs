//! Reads a file's content once, hashing it on the way to wherever it goes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::Builder;

use crossbeam_channel::{Receiver, Sender, bounded};
use sha2::{Digest as _, Sha256};

use super::error::{Error, Result};
use super::types::Digest;
use super::{ContentReader, ContentWriter, Progress};

/// Bytes read at once.
pub(crate) const CHUNK: usize = 1 << 20;
/// Chunks on their way to the hashing thread.
const IN_FLIGHT: usize = 4;
/// From this size on, hashing goes on in a thread of its own.
const PIPELINED: u64 = 8 << 20;

static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

/// What every long operation on trees takes along.
#[derive(Clone, Copy)]
pub(crate) struct Control<'a> {
    /// Set by whoever asked for the operation.
    pub(crate) cancelled: &'a AtomicBool,
    /// Set where another thread of the operation failed.
    pub(crate) stopped: &'a AtomicBool,
    pub(crate) progress: &'a dyn Progress,
}

impl Control<'_> {
    pub(crate) fn check(&self) -> Result<()> {
        let set = |flag: &AtomicBool| flag.load(Ordering::Relaxed);
        if set(self.cancelled) || set(self.stopped) { Err(Error::Cancelled) } else { Ok(()) }
    }
}

/// Hashes `zeros` zero bytes.
pub(crate) fn hash_zeros(hasher: &mut Sha256, zeros: u64) {
    let mut left = zeros;
    while left > 0 {
        let count = usize::try_from(left).unwrap_or(usize::MAX).min(ZEROS.len());
        hasher.update(&ZEROS[..count]);
        left -= u64::try_from(count).unwrap_or(left);
    }
}

/// Reads `size` bytes of `content` and hashes them; data (not holes) also go to `writer`. Does
/// not tell whether the content changed meanwhile, except where it became shorter.
pub(crate) fn stream(
    content: &dyn ContentReader,
    size: u64,
    writer: Option<&mut dyn ContentWriter>,
    control: Control<'_>,
) -> Result<Digest> {
    let mut hasher = Sha256::new();
    let mut writer = writer;
    if size < PIPELINED || !stream_beside(content, size, &mut writer, control, &mut hasher)? {
        let mut buffer = Vec::new();
        pieces(content, size, writer, control, |piece| {
            piece.hash(&mut hasher);
            if let Piece::Data(bytes) = piece {
                buffer = bytes;
            }
            Ok(std::mem::take(&mut buffer))
        })?;
    }
    Ok(Digest(hasher.finalize().into()))
}

/// The same with a thread that hashes; `false` where the system gives none: then nothing was done.
fn stream_beside(
    content: &dyn ContentReader,
    size: u64,
    writer: &mut Option<&mut dyn ContentWriter>,
    control: Control<'_>,
    hasher: &mut Sha256,
) -> Result<bool> {
    let (full, to_hash): (Sender<Piece>, Receiver<Piece>) = bounded(IN_FLIGHT);
    let (hashed, empty): (Sender<Vec<u8>>, Receiver<Vec<u8>>) = bounded(IN_FLIGHT + 2);
    std::thread::scope(|scope| {
        let hash = move || {
            for piece in to_hash {
                piece.hash(hasher);
                if let Piece::Data(bytes) = piece {
                    // Nobody to take it back any more: then it goes.
                    let _ = hashed.try_send(bytes);
                }
            }
        };
        let Ok(hashing) = Builder::new().spawn_scoped(scope, hash) else { return Ok(false) };
        let read = pieces(content, size, writer.take(), control, |piece| {
            full.send(piece).map_err(|_| Error::Worker)?;
            Ok(empty.try_recv().unwrap_or_default())
        });
        drop(full);
        hashing.join().map_err(|_| Error::Worker)?;
        read.map(|()| true)
    })
}

enum Piece {
    Data(Vec<u8>),
    Zeros(u64),
}

impl Piece {
    fn hash(&self, hasher: &mut Sha256) {
        match self {
            Self::Data(bytes) => hasher.update(bytes),
            Self::Zeros(count) => hash_zeros(hasher, *count),
        }
    }
}

/// Hands over the content in order; `take` gives back a buffer to use next.
fn pieces(
    content: &dyn ContentReader,
    size: u64,
    mut writer: Option<&mut dyn ContentWriter>,
    control: Control<'_>,
    mut take: impl FnMut(Piece) -> Result<Vec<u8>>,
) -> Result<()> {
    let mut buffer = Vec::new();
    let mut offset = 0;
    while offset < size {
        let extent = content.next_data(offset)?;
        let start = extent.as_ref().map_or(size, |extent| extent.start.clamp(offset, size));
        if start > offset {
            control.progress.bytes(start - offset);
            take(Piece::Zeros(start - offset))?;
            offset = start;
        }
        let end = extent.map_or(size, |extent| extent.end.min(size));
        while offset < end {
            control.check()?;
            let wanted = usize::try_from(end - offset).unwrap_or(usize::MAX).min(CHUNK);
            buffer.resize(wanted, 0);
            let count = content.read_at(&mut buffer, offset)?;
            if count < wanted {
                content.check_unchanged()?;
                return Err(Error::Short { size, end: offset + length(count) });
            }
            if let Some(writer) = writer.as_deref_mut() {
                writer.write_at(&buffer, offset)?;
            }
            offset += length(count);
            control.progress.bytes(length(count));
            buffer = take(Piece::Data(std::mem::take(&mut buffer)))?;
        }
    }
    Ok(())
}

fn length(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}
