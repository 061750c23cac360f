//! The blocks of a file: `nonce (12) ciphertext tag (16)`, the block's index in the associated
//! data, under a key of the file's own. A block of zeros on disk is a hole and reads as zeros.

use super::header::FileId;
use super::layout::{BLOCK_OVERHEAD, BlockIndex};
use crate::crypto::{
    AssociatedData, ContentKey, Domain, NONCE_LEN, Nonce, OpenError, SealingKey, TAG_LEN,
};

/// What a block on disk turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opened {
    /// Decrypted data.
    Data,
    /// A hole; the plaintext is zeros.
    Hole,
}

/// Seals and opens the blocks of one file.
pub struct BlockCipher(SealingKey);

impl BlockCipher {
    /// For the file with this ID.
    pub fn new(key: &ContentKey, file_id: FileId) -> Self {
        Self(SealingKey::new(key.file_key(&file_id.0).expose()))
    }

    /// Seals `plain` (1 to 4096 bytes) into `cipher`, which is 28 bytes longer.
    ///
    /// # Panics
    /// When the lengths don't fit each other.
    pub fn seal(&self, index: BlockIndex, plain: &[u8], cipher: &mut [u8]) {
        assert_eq!(cipher.len(), plain.len() + BLOCK_OVERHEAD, "the lengths of a block");
        let nonce = Nonce::random();
        let (head, rest) = cipher.split_at_mut(NONCE_LEN);
        head.copy_from_slice(&nonce.bytes());
        let (body, tail) = rest.split_at_mut(plain.len());
        let tag = self.0.seal(nonce, &associated_data(index), plain, body);
        tail.copy_from_slice(&tag);
    }

    /// Opens `cipher` into `plain`, which is 28 bytes shorter.
    ///
    /// # Errors
    /// [`OpenError`] when the block is neither a hole nor authentic, or too short to be a block.
    ///
    /// # Panics
    /// When `plain` is not 28 bytes shorter than a `cipher` of more than 28.
    pub fn open(
        &self,
        index: BlockIndex,
        cipher: &[u8],
        plain: &mut [u8],
    ) -> Result<Opened, OpenError> {
        if is_hole(cipher) {
            plain.fill(0);
            return Ok(Opened::Hole);
        }
        if cipher.len() <= BLOCK_OVERHEAD {
            return Err(OpenError);
        }
        let (nonce, rest) = cipher.split_first_chunk::<NONCE_LEN>().ok_or(OpenError)?;
        let (body, tag) = rest.split_last_chunk::<TAG_LEN>().ok_or(OpenError)?;
        self.0.open(nonce, &associated_data(index), body, tag, plain)?;
        Ok(Opened::Data)
    }
}

/// Whether a block on disk is a hole: zeros throughout.
pub fn is_hole(cipher: &[u8]) -> bool {
    // A random nonce is all but never zero: its bytes decide for nearly every block.
    let head = cipher.len().min(NONCE_LEN);
    cipher[..head].iter().all(|byte| *byte == 0) && cipher[head..].iter().all(|byte| *byte == 0)
}

fn associated_data(index: BlockIndex) -> AssociatedData {
    AssociatedData::new(Domain::Block, &[&index.0.to_le_bytes()])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::MasterKey;

    fn cipher(file: u8) -> BlockCipher {
        BlockCipher::new(&MasterKey::from_bytes(&[1; 32]).content_key(), FileId([file; 16]))
    }

    #[test]
    fn a_block_belongs_to_its_place_and_file() {
        let mut sealed = vec![0; 100 + BLOCK_OVERHEAD];
        cipher(1).seal(BlockIndex(3), &[7; 100], &mut sealed);
        let mut plain = [0; 100];
        assert_eq!(cipher(1).open(BlockIndex(3), &sealed, &mut plain), Ok(Opened::Data));
        assert_eq!(plain, [7; 100]);
        assert_eq!(cipher(1).open(BlockIndex(4), &sealed, &mut plain), Err(OpenError));
        assert_eq!(cipher(2).open(BlockIndex(3), &sealed, &mut plain), Err(OpenError));
    }

    #[test]
    fn zeros_are_a_hole() {
        let mut plain = [1; 4096];
        assert_eq!(cipher(1).open(BlockIndex(0), &[0; 4124], &mut plain), Ok(Opened::Hole));
        assert_eq!(plain, [0; 4096]);
        assert_eq!(cipher(1).open(BlockIndex(0), &[1; 20], &mut []), Err(OpenError));
    }
}
