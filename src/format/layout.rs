//! Where the parts of a ciphertext file lie: the arithmetic between plain and cipher offsets.
//!
//! ```text
//! file   = empty | header block*
//! header = 36 bytes
//! block  = nonce (12) ciphertext (1..=4096) tag (16)        only the last is shorter than 4124
//! ```

use super::header::HEADER_LEN;
use crate::crypto::{NONCE_LEN, TAG_LEN};

/// Plaintext bytes in a full block.
pub const BLOCK_SIZE: usize = 4096;
/// Bytes that a block's ciphertext is longer than its plaintext.
pub const BLOCK_OVERHEAD: usize = NONCE_LEN + TAG_LEN;
/// Bytes of a full block on disk.
pub const CIPHER_BLOCK_SIZE: usize = BLOCK_SIZE + BLOCK_OVERHEAD;

const BLOCK: u64 = BLOCK_SIZE as u64;
const CIPHER_BLOCK: u64 = CIPHER_BLOCK_SIZE as u64;
const HEADER: u64 = HEADER_LEN as u64;
const OVERHEAD: u64 = BLOCK_OVERHEAD as u64;

/// The largest plain size whose cipher size still is a file offset (below 2^63).
pub const MAX_PLAIN_SIZE: u64 = ((i64::MAX as u64 - HEADER) / CIPHER_BLOCK) * BLOCK;

/// The index of a block in its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockIndex(pub u64);

impl BlockIndex {
    /// The block that holds a plain offset.
    pub fn containing(plain_offset: u64) -> Self {
        Self(plain_offset / BLOCK)
    }

    /// How many blocks a file of this plain size has; also the index after the last.
    pub fn count(plain_size: u64) -> Self {
        Self(plain_size.div_ceil(BLOCK))
    }

    /// Where the block's plaintext begins.
    pub fn plain_offset(self) -> u64 {
        self.0 * BLOCK
    }

    /// Where the block's ciphertext begins.
    pub fn cipher_offset(self) -> u64 {
        HEADER + self.0 * CIPHER_BLOCK
    }

    /// The next block.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// Plaintext bytes that this block has in a file of this plain size; 0 past the end.
    pub fn plain_len(self, plain_size: u64) -> usize {
        let rest = plain_size.saturating_sub(self.plain_offset()).min(BLOCK);
        usize::try_from(rest).expect("at most a block")
    }
}

/// The size on disk of a file of `plain` bytes (at most [`MAX_PLAIN_SIZE`]). 5000 bytes take 5092.
pub fn cipher_size(plain: u64) -> u64 {
    if plain == 0 {
        return 0;
    }
    HEADER + plain + BlockIndex::count(plain).0 * OVERHEAD
}

/// The plain size of a file of `cipher` bytes. A remainder too short to be a block (which no
/// complete write leaves) counts for nothing.
pub fn plain_size(cipher: u64) -> u64 {
    let Some(blocks) = cipher.checked_sub(HEADER) else { return 0 };
    let full = blocks / CIPHER_BLOCK;
    let rest = blocks % CIPHER_BLOCK;
    full * BLOCK + rest.saturating_sub(OVERHEAD)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn worked_sizes() {
        for (plain, cipher) in
            [(0, 0), (1, 65), (4096, 4160), (4097, 4189), (5000, 5092), (8192, 8284)]
        {
            assert_eq!(cipher_size(plain), cipher);
            assert_eq!(plain_size(cipher), plain);
        }
        assert!(i64::try_from(cipher_size(MAX_PLAIN_SIZE)).is_ok());
    }

    proptest! {
        #[test]
        fn sizes_are_inverse(plain in 0..=MAX_PLAIN_SIZE) {
            prop_assert_eq!(plain_size(cipher_size(plain)), plain);
        }

        #[test]
        fn any_cipher_size_has_a_plain_size(cipher in any::<u64>()) {
            prop_assert!(plain_size(cipher) <= cipher);
        }
    }
}
