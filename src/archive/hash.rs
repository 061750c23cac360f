//! Hashes a large file's content in a thread of its own while it is read and written; holes also in
//! the caller's, in stretches.

use crossbeam_channel::{Receiver, Sender, bounded};
use sha2::{Digest as _, Sha256};

use super::error::{Error, Result};
use super::threads::start_in;
use crate::tree::{self, Digest};

/// Buffers on their way.
const IN_FLIGHT: usize = 4;
/// Zeros hashed at once, which takes time without a byte being read.
const ZEROS: u64 = 64 << 20;

/// Where content goes to be hashed.
pub(super) struct Hashing {
    full: Sender<Piece>,
    empty: Receiver<Vec<u8>>,
}

enum Piece {
    Zeros(u64),
    Data(Vec<u8>),
}

/// Runs `work`, which hands over content in order; the digest of all of it.
pub(super) fn hashing<T>(work: impl FnOnce(&Hashing) -> Result<T>) -> Result<(Digest, T)> {
    let (full, pieces) = bounded(IN_FLIGHT);
    let (hashed, empty) = bounded(IN_FLIGHT + 2);
    std::thread::scope(|scope| {
        let thread = start_in(scope, move || {
            let mut hasher = Sha256::new();
            for piece in pieces {
                match piece {
                    Piece::Zeros(count) => tree::hash_zeros(&mut hasher, count),
                    Piece::Data(data) => {
                        hasher.update(&data);
                        // Nobody to take it back any more: then it goes.
                        let _ = hashed.try_send(data);
                    }
                }
            }
            Digest(hasher.finalize().into())
        })?;
        let hashing = Hashing { full, empty };
        let done = work(&hashing);
        drop(hashing);
        let digest = thread.join().map_err(|_| Error::Worker)?;
        Ok((digest, done?))
    })
}

impl Hashing {
    /// A buffer of `length` bytes, whatever they are.
    pub(super) fn buffer(&self, length: usize) -> Vec<u8> {
        let mut buffer = self.empty.try_recv().unwrap_or_default();
        buffer.resize(length, 0);
        buffer
    }

    /// Hands over data.
    pub(super) fn data(&self, data: Vec<u8>) -> Result<()> {
        self.full.send(Piece::Data(data)).map_err(|_| Error::Worker)
    }

    /// Hands over a hole; `check` says between its stretches whether to go on.
    pub(super) fn zeros(&self, count: u64, check: impl Fn() -> Result<()>) -> Result<()> {
        zeros_in_steps(count, |now| {
            check()?;
            self.full.send(Piece::Zeros(now)).map_err(|_| Error::Worker)
        })
    }
}

/// Hashes a hole in this thread; `check` says between its stretches whether to go on.
pub(super) fn hash_hole(
    hasher: &mut Sha256,
    length: u64,
    check: impl Fn() -> Result<()>,
) -> Result<()> {
    zeros_in_steps(length, |now| {
        check()?;
        tree::hash_zeros(hasher, now);
        Ok(())
    })
}

/// Zeros in steps between which there is time to ask whether to go on.
fn zeros_in_steps(count: u64, mut step: impl FnMut(u64) -> Result<()>) -> Result<()> {
    let mut left = count;
    while left > 0 {
        let now = left.min(ZEROS);
        step(now)?;
        left -= now;
    }
    Ok(())
}
