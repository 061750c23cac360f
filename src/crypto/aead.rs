//! AES-256-GCM-SIV (RFC 8452) behind types: a nonce is used up by sealing, and associated data
//! always names the domain that it belongs to, so that a ciphertext of one kind never
//! authenticates as another.
//!
//! Two implementations of it: AWS-LC's for what is encrypted, on processors for which it has code of its
//! own; RustCrypto's for the rest. The tests hold each against the other.

use aes_gcm_siv::aead::inout::InOutBuf;
use aes_gcm_siv::{AeadInOut, Aes256GcmSiv, KeyInit};
#[cfg(target_arch = "x86_64")]
use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, UnboundKey};

use super::keys::KEY_LEN;
use super::random::random_nonce_bytes;

/// Bytes in a nonce (96 bits).
pub const NONCE_LEN: usize = 12;
/// Bytes in an authentication tag (128 bits).
pub const TAG_LEN: usize = 16;

/// Consumed by sealing.
pub struct Nonce([u8; NONCE_LEN]);

impl Nonce {
    /// A fresh random nonce.
    pub fn random() -> Self {
        Self(random_nonce_bytes())
    }

    /// A nonce that the caller derives: where encryption must be deterministic (names), where only a
    /// tag over associated data is wanted, or where the key is of one stream that counts (segments).
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

/// A key scheduled to encrypt and decrypt.
pub struct SealingKey(Implementation);

enum Implementation {
    #[cfg(target_arch = "x86_64")]
    AwsLc(LessSafeKey),
    RustCrypto(Box<Aes256GcmSiv>),
}

impl SealingKey {
    /// Schedules key bytes; take them from one of the key types.
    pub(crate) fn new(key: &[u8; KEY_LEN]) -> Self {
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("aes")
            && std::arch::is_x86_feature_detected!("pclmulqdq")
            && std::arch::is_x86_feature_detected!("avx")
        {
            return Self::of_aws_lc(key);
        }
        Self::clearing(key)
    }

    #[cfg(target_arch = "x86_64")]
    fn of_aws_lc(key: &[u8; KEY_LEN]) -> Self {
        let key = UnboundKey::new(&AES_256_GCM_SIV, key).expect("the length of its keys");
        Self(Implementation::AwsLc(LessSafeKey::new(key)))
    }

    /// The same for a key that protects other keys: those that are derived from it for a nonce are cleared
    /// from the stack, too.
    pub(crate) fn clearing(key: &[u8; KEY_LEN]) -> Self {
        Self(Implementation::RustCrypto(Box::new(Aes256GcmSiv::new(key.into()))))
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
        assert_eq!(plain.len(), cipher.len());
        let data = associated_data.bytes();
        match &self.0 {
            #[cfg(target_arch = "x86_64")]
            Implementation::AwsLc(key) => {
                let mut tag = [0u8; TAG_LEN];
                let nonce = aws_lc_rs::aead::Nonce::assume_unique_for_key(nonce.0);
                key.seal_out_of_place_scatter(nonce, Aad::from(data), plain, cipher, &[], &mut tag)
                    .expect("within the lengths of RFC 8452");
                tag
            }
            Implementation::RustCrypto(key) => {
                let buffer = InOutBuf::new(plain, cipher).expect("equal lengths");
                key.encrypt_inout_detached(&nonce.0.into(), data, buffer)
                    .expect("within the lengths of RFC 8452")
                    .into()
            }
        }
    }

    /// Decrypts `cipher` into `plain` (same length). On failure `plain` holds zeros.
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
        assert_eq!(plain.len(), cipher.len());
        let data = associated_data.bytes();
        let opened = match &self.0 {
            #[cfg(target_arch = "x86_64")]
            Implementation::AwsLc(key) => {
                let nonce = aws_lc_rs::aead::Nonce::assume_unique_for_key(*nonce);
                key.open_separate_gather(nonce, Aad::from(data), cipher, tag, plain).is_ok()
            }
            Implementation::RustCrypto(key) => {
                let buffer = InOutBuf::new(cipher, plain).expect("equal lengths");
                key.decrypt_inout_detached(&(*nonce).into(), data, buffer, &(*tag).into()).is_ok()
            }
        };
        if opened {
            return Ok(());
        }
        // RustCrypto's leaves what it decrypted where it writes to another place than it reads from.
        plain.fill(0);
        Err(OpenError)
    }

    /// Encrypts `text` in place and appends the tag.
    ///
    /// # Panics
    /// When it exceeds the 2^36 bytes of RFC 8452.
    pub fn seal_in_place(
        &self,
        nonce: Nonce,
        associated_data: &AssociatedData,
        text: &mut Vec<u8>,
    ) {
        let data = associated_data.bytes();
        match &self.0 {
            #[cfg(target_arch = "x86_64")]
            Implementation::AwsLc(key) => {
                let nonce = aws_lc_rs::aead::Nonce::assume_unique_for_key(nonce.0);
                key.seal_in_place_append_tag(nonce, Aad::from(data), text)
                    .expect("within the lengths of RFC 8452");
            }
            Implementation::RustCrypto(key) => key
                .encrypt_in_place(&nonce.0.into(), data, text)
                .expect("within the lengths of RFC 8452"),
        }
    }

    /// Decrypts in place what [`Self::seal_in_place`] made and takes its tag off. On failure it holds
    /// nothing of use.
    ///
    /// # Errors
    /// [`OpenError`] when authentication fails.
    pub fn open_in_place(
        &self,
        nonce: &[u8; NONCE_LEN],
        associated_data: &AssociatedData,
        sealed: &mut Vec<u8>,
    ) -> Result<(), OpenError> {
        let data = associated_data.bytes();
        match &self.0 {
            #[cfg(target_arch = "x86_64")]
            Implementation::AwsLc(key) => {
                let nonce = aws_lc_rs::aead::Nonce::assume_unique_for_key(*nonce);
                let opened = key.open_in_place(nonce, Aad::from(data), sealed);
                let length = opened.map_err(|_| OpenError)?.len();
                sealed.truncate(length);
                Ok(())
            }
            Implementation::RustCrypto(key) => {
                key.decrypt_in_place(&(*nonce).into(), data, sealed).map_err(|_| OpenError)
            }
        }
    }
}

/// A key scheduled to authenticate what is not encrypted: the tag of AES-256-GCM-SIV over associated data
/// and an empty plaintext.
pub struct AuthenticationKey(Box<Aes256GcmSiv>);

impl AuthenticationKey {
    /// Schedules key bytes; take them from one of the key types.
    pub(crate) fn new(key: &[u8; KEY_LEN]) -> Self {
        Self(Box::new(Aes256GcmSiv::new(key.into())))
    }

    /// A tag over associated data.
    ///
    /// # Panics
    /// When these exceed the 2^36 bytes of RFC 8452.
    pub fn authenticate(&self, nonce: Nonce, associated_data: &AssociatedData) -> [u8; TAG_LEN] {
        self.tag(&nonce.0, associated_data.bytes())
    }

    /// The tag of [`Self::authenticate`] over what stands behind the first byte of `framed`, without a
    /// copy of it: that byte gives its place to the domain.
    ///
    /// # Panics
    /// When `framed` is empty, or exceeds the 2^36 bytes of RFC 8452.
    pub fn authenticate_framed(
        &self,
        nonce: Nonce,
        domain: Domain,
        framed: &mut [u8],
    ) -> [u8; TAG_LEN] {
        framed[0] = domain as u8;
        self.tag(&nonce.0, framed)
    }

    fn tag(&self, nonce: &[u8; NONCE_LEN], associated_data: &[u8]) -> [u8; TAG_LEN] {
        let buffer = InOutBuf::new(&[], &mut []).expect("equal lengths");
        self.0
            .encrypt_inout_detached(&(*nonce).into(), associated_data, buffer)
            .expect("within the lengths of RFC 8452")
            .into()
    }

    /// Whether `tag` is the tag of the associated data, in constant time.
    pub fn verify(
        &self,
        nonce: &[u8; NONCE_LEN],
        associated_data: &AssociatedData,
        tag: &[u8; TAG_LEN],
    ) -> bool {
        let buffer = InOutBuf::new(&[], &mut []).expect("equal lengths");
        self.0
            .decrypt_inout_detached(
                &(*nonce).into(),
                associated_data.bytes(),
                buffer,
                &(*tag).into(),
            )
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn framed_data_has_the_same_tag() {
        let key = AuthenticationKey::new(&[3; KEY_LEN]);
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

    /// The counter begins at the tag without its highest bit: with that one forged the plaintext would come
    /// out whole.
    #[test]
    fn what_fails_is_not_given_out() {
        for key in [SealingKey::new(&[3; KEY_LEN]), SealingKey::clearing(&[3; KEY_LEN])] {
            let data = AssociatedData::new(Domain::Block, &[]);
            let (plain, mut cipher) = ([7u8; 100], [0u8; 100]);
            let nonce = Nonce::deterministic([1; NONCE_LEN]);
            let mut tag = key.seal(nonce, &data, &plain, &mut cipher);
            tag[TAG_LEN - 1] ^= 0x80;
            let mut opened = plain;
            assert_eq!(
                key.open(&[1; NONCE_LEN], &data, &cipher, &tag, &mut opened),
                Err(OpenError)
            );
            assert_eq!(opened, [0; 100]);
            let mut whole = [&cipher[..], &tag].concat();
            assert_eq!(key.open_in_place(&[1; NONCE_LEN], &data, &mut whole), Err(OpenError));
            assert!(!whole.starts_with(&plain));
        }
    }

    proptest! {
        /// Lengths about those at which implementations change their ways, and any.
        #[test]
        fn the_implementations_agree(
            key: [u8; KEY_LEN],
            nonce: [u8; NONCE_LEN],
            length in prop_oneof![0usize..300, 4080usize..4112, 0usize..20_000],
            bound in prop::collection::vec(any::<u8>(), 0..700),
            flipped: prop::sample::Index,
        ) {
            let plain: Vec<u8> =
                (0..length).map(|index| key[index % KEY_LEN] ^ (index / 7).to_le_bytes()[0]).collect();
            let data = AssociatedData::new(Domain::Block, &[&bound]);
            let expected = SealingKey::clearing(&key);
            let sealing = SealingKey::new(&key);
            let nonce_of = || Nonce::deterministic(nonce);
            let (mut cipher, mut expected_cipher) = (vec![0; length], vec![0; length]);
            let tag = sealing.seal(nonce_of(), &data, &plain, &mut cipher);
            let expected_tag = expected.seal(nonce_of(), &data, &plain, &mut expected_cipher);
            prop_assert_eq!(&cipher, &expected_cipher);
            prop_assert_eq!(tag, expected_tag);
            if length == 0 {
                let authenticated = AuthenticationKey::new(&key).authenticate(nonce_of(), &data);
                prop_assert_eq!(authenticated, tag);
            }

            let mut both = [&cipher[..], &tag[..]].concat();
            let place = flipped.index(both.len() * 8);
            both[place / 8] ^= 1 << (place % 8);
            let (forged, forged_tag) = both.split_at(length);
            let forged_tag = forged_tag.try_into().unwrap();
            let mut opened = vec![0; length];
            for key in [&sealing, &expected] {
                prop_assert_eq!(key.open(&nonce, &data, &cipher, &tag, &mut opened), Ok(()));
                prop_assert_eq!(&opened, &plain);
                let failed = key.open(&nonce, &data, forged, forged_tag, &mut opened);
                prop_assert_eq!(failed, Err(OpenError));
                // Nothing of what was forged is given out.
                prop_assert!(opened.iter().all(|byte| *byte == 0));

                let mut whole = plain.clone();
                key.seal_in_place(nonce_of(), &data, &mut whole);
                prop_assert_eq!(&whole, &[&cipher[..], &tag[..]].concat());
                prop_assert_eq!(key.open_in_place(&nonce, &data, &mut whole), Ok(()));
                prop_assert_eq!(&whole, &plain);
                let mut whole = both.clone();
                prop_assert_eq!(key.open_in_place(&nonce, &data, &mut whole), Err(OpenError));
                prop_assert!(length < TAG_LEN || !whole.starts_with(&plain));
            }
        }
    }
}
