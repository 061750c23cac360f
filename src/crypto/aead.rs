//! AES-256-GCM-SIV (RFC 8452) behind types: a nonce is used up by sealing, and associated data
//! always names the domain that it belongs to, so that a ciphertext of one kind never
//! authenticates as another.

use aes_gcm_siv::aead::inout::InOutBuf;
use aes_gcm_siv::{AeadInOut, Aes256GcmSiv, KeyInit};

use super::keys::KEY_LEN;
use super::random::random_nonce_bytes;

/// Bytes in a nonce (96 bits).
pub const NONCE_LEN: usize = 12;
/// Bytes in an authentication tag (128 bits).
pub const TAG_LEN: usize = 16;

/// Consumed by [`SealingKey::seal`].
pub struct Nonce([u8; NONCE_LEN]);

impl Nonce {
    /// A fresh random nonce.
    pub fn random() -> Self {
        Self(random_nonce_bytes())
    }

    /// A nonce that the caller derives, where encryption must be deterministic (names) or where
    /// only a tag over associated data is wanted.
    pub fn deterministic(bytes: [u8; NONCE_LEN]) -> Self {
        Self(bytes)
    }

    /// The bytes, to be stored beside the ciphertext.
    pub fn bytes(&self) -> [u8; NONCE_LEN] {
        self.0
    }
}

/// What a ciphertext is; the first byte of its associated data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Domain {
    /// A block of a file; the rest is the block index.
    Block = 1,
    /// A file header.
    Header = 2,
    /// A name; the rest is the directory ID.
    Name = 3,
    /// A directory record.
    Directory = 4,
    /// A symlink target.
    Symlink = 5,
    /// The name of an extended attribute.
    XattrName = 6,
    /// The value of an extended attribute; the rest is its name.
    XattrValue = 7,
    /// A record of the redo journal.
    Journal = 8,
    /// A wrapped master key; the rest is the hash of the public configuration.
    KeySlot = 9,
    /// A migration journal record.
    Migration = 10,
    /// An archive.
    Archive = 11,
}

/// Associated data of one domain.
pub struct AssociatedData(Inner);

enum Inner {
    Short([u8; 33], usize),
    Long(Vec<u8>),
}

impl AssociatedData {
    /// Of `domain`, over the concatenation of `parts`. Parts of varying length must carry their
    /// own lengths where a boundary could move.
    pub fn new(domain: Domain, parts: &[&[u8]]) -> Self {
        let total: usize = 1 + parts.iter().map(|part| part.len()).sum::<usize>();
        if total <= 33 {
            let mut bytes = [0u8; 33];
            bytes[0] = domain as u8;
            let mut at = 1;
            for part in parts {
                bytes[at..at + part.len()].copy_from_slice(part);
                at += part.len();
            }
            Self(Inner::Short(bytes, total))
        } else {
            let mut bytes = Vec::with_capacity(total);
            bytes.push(domain as u8);
            for part in parts {
                bytes.extend_from_slice(part);
            }
            Self(Inner::Long(bytes))
        }
    }

    fn bytes(&self) -> &[u8] {
        match &self.0 {
            Inner::Short(bytes, len) => &bytes[..*len],
            Inner::Long(bytes) => bytes,
        }
    }
}

/// The ciphertext, its tag, its nonce and its associated data do not belong together under this
/// key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("authentication failed")]
pub struct OpenError;

/// A key scheduled for AES-256-GCM-SIV.
pub struct SealingKey(Box<Aes256GcmSiv>);

impl SealingKey {
    /// Schedules key bytes; take them from one of the key types.
    pub(crate) fn new(key: &[u8; KEY_LEN]) -> Self {
        Self(Box::new(Aes256GcmSiv::new(key.into())))
    }

    /// Encrypts `plain` into `cipher` (same length) and returns the tag.
    ///
    /// # Panics
    /// When the lengths differ, or exceed the 2^36 bytes of RFC 8452.
    pub fn seal(
        &self,
        nonce: Nonce,
        associated_data: &AssociatedData,
        plain: &[u8],
        cipher: &mut [u8],
    ) -> [u8; TAG_LEN] {
        let buffer = InOutBuf::new(plain, cipher).expect("equal lengths");
        self.0
            .encrypt_inout_detached(&nonce.0.into(), associated_data.bytes(), buffer)
            .expect("within the lengths of RFC 8452")
            .into()
    }

    /// Decrypts `cipher` into `plain` (same length). On failure `plain` holds nothing of use.
    ///
    /// # Errors
    /// [`OpenError`] when authentication fails.
    ///
    /// # Panics
    /// When the lengths differ.
    pub fn open(
        &self,
        nonce: &[u8; NONCE_LEN],
        associated_data: &AssociatedData,
        cipher: &[u8],
        tag: &[u8; TAG_LEN],
        plain: &mut [u8],
    ) -> Result<(), OpenError> {
        let buffer = InOutBuf::new(cipher, plain).expect("equal lengths");
        self.0
            .decrypt_inout_detached(
                &(*nonce).into(),
                associated_data.bytes(),
                buffer,
                &(*tag).into(),
            )
            .map_err(|_| OpenError)
    }

    /// A tag over associated data alone.
    pub fn authenticate(&self, nonce: Nonce, associated_data: &AssociatedData) -> [u8; TAG_LEN] {
        self.seal(nonce, associated_data, &[], &mut [])
    }

    /// The tag of [`Self::authenticate`] over what stands behind the first byte of `framed`, without a
    /// copy of it: that byte gives its place to the domain.
    ///
    /// # Panics
    /// When `framed` is empty.
    pub fn authenticate_framed(
        &self,
        nonce: Nonce,
        domain: Domain,
        framed: &mut [u8],
    ) -> [u8; TAG_LEN] {
        framed[0] = domain as u8;
        let buffer = InOutBuf::new(&[], &mut []).expect("equal lengths");
        self.0
            .encrypt_inout_detached(&nonce.0.into(), framed, buffer)
            .expect("within the lengths of RFC 8452")
            .into()
    }

    /// Whether `tag` is the tag of the associated data.
    pub fn verify(
        &self,
        nonce: &[u8; NONCE_LEN],
        associated_data: &AssociatedData,
        tag: &[u8; TAG_LEN],
    ) -> bool {
        self.open(nonce, associated_data, &[], tag, &mut []).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn framed_data_has_the_same_tag() {
        let key = SealingKey::new(&[3; KEY_LEN]);
        let nonce = || Nonce::deterministic([1; NONCE_LEN]);
        let mut framed = [0xEE; 100];
        let data = AssociatedData::new(Domain::Journal, &[&framed[1..]]);
        let tag = key.authenticate(nonce(), &data);
        assert_eq!(key.authenticate_framed(nonce(), Domain::Journal, &mut framed), tag);
    }

    #[test]
    fn domains_are_separate() {
        let key = SealingKey::new(&[3; KEY_LEN]);
        let mut cipher = [0u8; 5];
        let block = AssociatedData::new(Domain::Block, &[&7u64.to_le_bytes()]);
        let tag = key.seal(Nonce::deterministic([1; NONCE_LEN]), &block, b"hello", &mut cipher);
        let mut plain = [0u8; 5];
        let header = AssociatedData::new(Domain::Header, &[&7u64.to_le_bytes()]);
        assert_eq!(key.open(&[1; NONCE_LEN], &header, &cipher, &tag, &mut plain), Err(OpenError));
        assert_eq!(key.open(&[1; NONCE_LEN], &block, &cipher, &tag, &mut plain), Ok(()));
        assert_eq!(&plain, b"hello");
    }
}
