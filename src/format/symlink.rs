//! Symlink targets: `nonce (12) ciphertext tag (16)` in base64url. One that exceeds the 4095 bytes
//! of a target lies in two pieces: the target of the symlink is `overflow ID "." first piece`, and
//! the second piece is the target of a symlink of that name in the vault's overflow directory.

use base64ct::{Base64UrlUnpadded, Encoding};

use super::layout::BLOCK_OVERHEAD;
use crate::crypto::{
    AssociatedData, Domain, NONCE_LEN, Nonce, OpenError, SealingKey, SymlinkKey, TAG_LEN,
    random_array,
};

/// The longest plain target, and the longest target that the filesystem below takes, in bytes.
pub const TARGET_MAX: usize = 4095;
/// Bytes of an overflow ID in text.
pub const OVERFLOW_ID_LEN: usize = 22;

const FIRST_PIECE: usize = TARGET_MAX - OVERFLOW_ID_LEN - 1;

/// A new overflow ID, as the text that names it in the overflow directory.
pub fn new_overflow_id() -> String {
    Base64UrlUnpadded::encode_string(&random_array::<16>())
}

/// A sealed target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedTarget {
    /// The target of the symlink itself.
    pub target: Vec<u8>,
    /// The overflow symlink's name and target, where there is one.
    pub overflow: Option<(String, Vec<u8>)>,
}

/// Seals and opens symlink targets.
pub struct SymlinkCipher(SealingKey);

impl SymlinkCipher {
    /// With the vault's symlink key.
    pub fn new(key: &SymlinkKey) -> Self {
        Self(SealingKey::new(key.expose()))
    }

    /// Seals a plain target of 1 to 4095 bytes.
    pub fn seal(&self, plain: &[u8]) -> SealedTarget {
        let nonce = Nonce::random();
        let mut sealed = vec![0; plain.len() + BLOCK_OVERHEAD];
        sealed[..NONCE_LEN].copy_from_slice(&nonce.bytes());
        let end = NONCE_LEN + plain.len();
        let tag = self.0.seal(
            nonce,
            &AssociatedData::new(Domain::Symlink, &[]),
            plain,
            &mut sealed[NONCE_LEN..end],
        );
        sealed[end..].copy_from_slice(&tag);
        let mut text = Base64UrlUnpadded::encode_string(&sealed).into_bytes();
        if text.len() <= TARGET_MAX {
            return SealedTarget { target: text, overflow: None };
        }
        let rest = text.split_off(FIRST_PIECE);
        let id = new_overflow_id();
        let target = [id.as_bytes(), b".", &text].concat();
        SealedTarget { target, overflow: Some((id, rest)) }
    }

    /// Opens a whole sealed text (both pieces joined, without the overflow ID).
    ///
    /// # Errors
    /// [`OpenError`] when it is not authentic.
    pub fn open(&self, text: &[u8]) -> Result<Vec<u8>, OpenError> {
        let text = std::str::from_utf8(text).map_err(|_| OpenError)?;
        let sealed = Base64UrlUnpadded::decode_vec(text).map_err(|_| OpenError)?;
        let (nonce, rest) = sealed.split_first_chunk::<NONCE_LEN>().ok_or(OpenError)?;
        let (body, tag) = rest.split_last_chunk::<TAG_LEN>().ok_or(OpenError)?;
        let mut plain = vec![0; body.len()];
        self.0.open(nonce, &AssociatedData::new(Domain::Symlink, &[]), body, tag, &mut plain)?;
        Ok(plain)
    }
}

/// Splits a target into overflow ID and first piece; `None` for a target without overflow.
pub fn split_overflow(target: &[u8]) -> Option<(&str, &[u8])> {
    let (id, rest) = target.split_at_checked(OVERFLOW_ID_LEN)?;
    let first = rest.strip_prefix(b".")?;
    let id = std::str::from_utf8(id).ok()?;
    id.bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        .then_some((id, first))
}

/// The plain length of a target without overflow, from the length of its text; what `stat` tells.
pub fn plain_len(text_len: u64) -> u64 {
    (text_len / 4 * 3 + (text_len % 4).saturating_sub(1)).saturating_sub(BLOCK_OVERHEAD as u64)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::crypto::MasterKey;

    #[test]
    fn every_length_works() {
        let cipher = SymlinkCipher::new(&MasterKey::from_bytes(&[1; 32]).symlink_key());
        for len in [1, 2, 3, 4, 59, 60, 255, 3043, 3044, 4000, 4095] {
            let plain = vec![b'x'; len];
            let sealed = cipher.seal(&plain);
            assert!(sealed.target.len() <= TARGET_MAX);
            match &sealed.overflow {
                None => {
                    assert_eq!(cipher.open(&sealed.target).unwrap(), plain);
                    assert_eq!(plain_len(sealed.target.len() as u64), len as u64);
                    assert_eq!(split_overflow(&sealed.target), None);
                }
                Some((id, rest)) => {
                    assert_eq!(sealed.target.len(), TARGET_MAX);
                    let (found, first) = split_overflow(&sealed.target).unwrap();
                    assert_eq!(found, id);
                    assert_eq!(cipher.open(&[first, rest].concat()).unwrap(), plain);
                }
            }
        }
        assert!(cipher.open(b"AAAA").is_err());
    }
}
