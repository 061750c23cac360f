//! Names: padded with NULs to a multiple of 16 bytes, encrypted deterministically with
//! AES-256-GCM-SIV under nonce and associated data from the directory ID, as
//! `tag (16) ciphertext`, in base64url without padding. A cipher name of more than 255 bytes is a
//! long name: the entry is called by its hash, and a sidecar holds the whole.

use std::sync::Arc;

use base64ct::{Base64UrlUnpadded, Encoding};
use sha2::{Digest, Sha256};

use super::directory::DirId;
use crate::crypto::{AssociatedData, Domain, NONCE_LEN, NameKey, Nonce, SealingKey, TAG_LEN};

/// The longest plain name in bytes, as on ext4.
pub const NAME_MAX: usize = 255;
/// The longest plain name in bytes whose cipher name needs no sidecar.
pub const NAME_MAX_WITHOUT_SIDECAR: usize = 160;
/// Every name of our own in a ciphertext directory begins so; no cipher name holds a `.`.
pub const RESERVED_PREFIX: &[u8] = b"strongroom.";
/// Begins the names of directories that are being made.
pub const TEMPORARY_PREFIX: &[u8] = b"strongroom.tmp.";

const LONG_PREFIX: &[u8] = b"strongroom.long.";
const SIDECAR_PREFIX: &[u8] = b"strongroom.name.";
const PADDING: usize = 16;

/// A name as it stands in a ciphertext directory.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CipherName {
    entry: Vec<u8>,
    whole: Option<Vec<u8>>,
}

impl CipherName {
    /// The name of the directory entry.
    pub fn entry(&self) -> &[u8] {
        &self.entry
    }

    /// For a long name: the sidecar's name, and the target that the sidecar (a symlink) has.
    pub fn sidecar(&self) -> Option<(Vec<u8>, &[u8])> {
        let whole = self.whole.as_deref()?;
        Some((sidecar_of(&self.entry)?, whole))
    }
}

/// Why a name cannot be encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Longer than 255 bytes.
    #[error("the name is longer than 255 bytes")]
    TooLong,
    /// Empty, `.`, `..`, or with `/` or NUL.
    #[error("not a file name")]
    Invalid,
}

/// What an entry of a ciphertext directory is, by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryName {
    /// An encrypted name.
    Plain(Vec<u8>),
    /// A long name: its sidecar must be read.
    Long {
        /// The sidecar's name.
        sidecar: Vec<u8>,
    },
    /// One of ours: the directory record, a sidecar, a temporary, or an unknown one.
    Reserved,
    /// `.` or `..`.
    Dots,
    /// Damaged: it does not authenticate here.
    Damaged,
}

/// Encrypts and decrypts the names of one directory.
#[derive(Clone)]
pub struct NameCipher {
    key: Arc<SealingKey>,
    directory: DirId,
}

impl NameCipher {
    /// Schedules the vault's name key, once for all directories.
    pub fn schedule(key: &NameKey) -> Arc<SealingKey> {
        Arc::new(SealingKey::new(key.expose()))
    }

    /// For the directory with this ID.
    pub fn new(key: Arc<SealingKey>, directory: DirId) -> Self {
        Self { key, directory }
    }

    /// The directory whose names these are.
    pub fn directory(&self) -> DirId {
        self.directory
    }

    /// Encrypts a plain name.
    ///
    /// # Errors
    /// [`NameError`] when it is no name that ext4 would take.
    pub fn encrypt(&self, name: &[u8]) -> Result<CipherName, NameError> {
        if name.len() > NAME_MAX {
            return Err(NameError::TooLong);
        }
        if name.is_empty()
            || name == b"."
            || name == b".."
            || name.iter().any(|byte| matches!(byte, 0 | b'/'))
        {
            return Err(NameError::Invalid);
        }
        let padded_len = name.len().next_multiple_of(PADDING);
        let mut padded = [0u8; NAME_MAX + 1];
        padded[..name.len()].copy_from_slice(name);
        let mut sealed = [0u8; TAG_LEN + NAME_MAX + 1];
        let sealed = &mut sealed[..TAG_LEN + padded_len];
        let tag = self.key.seal(
            Nonce::deterministic(self.nonce()),
            &self.associated_data(),
            &padded[..padded_len],
            &mut sealed[TAG_LEN..],
        );
        sealed[..TAG_LEN].copy_from_slice(&tag);
        let whole = Base64UrlUnpadded::encode_string(sealed).into_bytes();
        if whole.len() <= NAME_MAX {
            return Ok(CipherName { entry: whole, whole: None });
        }
        let mut entry = LONG_PREFIX.to_vec();
        entry.extend_from_slice(
            Base64UrlUnpadded::encode_string(&Sha256::digest(&whole)).as_bytes(),
        );
        Ok(CipherName { entry, whole: Some(whole) })
    }

    /// What an entry of the ciphertext directory is.
    pub fn classify(&self, entry: &[u8]) -> EntryName {
        if entry == b"." || entry == b".." {
            return EntryName::Dots;
        }
        if let Some(sidecar) = sidecar_of(entry) {
            return EntryName::Long { sidecar };
        }
        if entry.starts_with(RESERVED_PREFIX) {
            return EntryName::Reserved;
        }
        match self.decrypt(entry) {
            Some(name) => EntryName::Plain(name),
            None => EntryName::Damaged,
        }
    }

    /// The plain name of a long entry from its sidecar's target; `None` when they don't belong
    /// together, or not to this directory.
    pub fn decrypt_long(&self, entry: &[u8], sidecar_target: &[u8]) -> Option<Vec<u8>> {
        let hash = entry.strip_prefix(LONG_PREFIX)?;
        if Base64UrlUnpadded::encode_string(&Sha256::digest(sidecar_target)).as_bytes() != hash {
            return None;
        }
        self.decrypt(sidecar_target)
    }

    fn decrypt(&self, cipher_name: &[u8]) -> Option<Vec<u8>> {
        let text = std::str::from_utf8(cipher_name).ok()?;
        let sealed = Base64UrlUnpadded::decode_vec(text).ok()?;
        let (tag, body) = sealed.split_first_chunk::<TAG_LEN>()?;
        if body.is_empty() || body.len() % PADDING != 0 {
            return None;
        }
        let mut plain = vec![0; body.len()];
        self.key.open(&self.nonce(), &self.associated_data(), body, tag, &mut plain).ok()?;
        let len = plain.iter().rposition(|byte| *byte != 0)? + 1;
        plain.truncate(len);
        Some(plain)
    }

    fn nonce(&self) -> [u8; NONCE_LEN] {
        *self.directory.0.first_chunk().expect("a directory ID is longer than a nonce")
    }

    fn associated_data(&self) -> AssociatedData {
        AssociatedData::new(Domain::Name, &[&self.directory.0])
    }
}

/// The sidecar's name of a long entry; `None` for any other.
pub fn sidecar_of(entry: &[u8]) -> Option<Vec<u8>> {
    let hash = entry.strip_prefix(LONG_PREFIX)?;
    Some([SIDECAR_PREFIX, hash].concat())
}

/// The long entry's name of a sidecar; `None` for any other.
pub fn long_entry_of(sidecar: &[u8]) -> Option<Vec<u8>> {
    let hash = sidecar.strip_prefix(SIDECAR_PREFIX)?;
    Some([LONG_PREFIX, hash].concat())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::crypto::MasterKey;
    use proptest::prelude::*;

    fn names(directory: u8) -> NameCipher {
        let key = NameCipher::schedule(&MasterKey::from_bytes(&[1; 32]).name_key());
        NameCipher::new(key, DirId([directory; 16]))
    }

    proptest! {
        #[test]
        fn every_name_of_ext4_works(name in proptest::collection::vec(any::<u8>().prop_filter("", |byte| !matches!(byte, 0 | b'/')), 1..=255)) {
            prop_assume!(name != b"." && name != b"..");
            let cipher_name = names(1).encrypt(&name).unwrap();
            prop_assert!(cipher_name.entry().len() <= 255);
            prop_assert_eq!(&cipher_name, &names(1).encrypt(&name).unwrap());
            match names(1).classify(cipher_name.entry()) {
                EntryName::Plain(plain) => prop_assert_eq!(plain, name),
                EntryName::Long { sidecar } => {
                    let (expected, target) = cipher_name.sidecar().unwrap();
                    prop_assert_eq!(&sidecar, &expected);
                    prop_assert_eq!(long_entry_of(&sidecar).unwrap(), cipher_name.entry());
                    prop_assert_eq!(names(1).decrypt_long(cipher_name.entry(), target), Some(name));
                    prop_assert_eq!(names(2).decrypt_long(cipher_name.entry(), target), None);
                }
                other => prop_assert!(false, "{:?}", other),
            }
        }

        #[test]
        fn foreign_names_never_panic(entry in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = names(1).classify(&entry);
            let _ = names(1).decrypt_long(&entry, &entry);
        }
    }

    #[test]
    fn names_have_a_sidecar_from_a_length_on() {
        let has_sidecar = |len| names(1).encrypt(&vec![b'n'; len]).unwrap().sidecar().is_some();
        assert!(!has_sidecar(NAME_MAX_WITHOUT_SIDECAR));
        assert!(has_sidecar(NAME_MAX_WITHOUT_SIDECAR + 1));
    }

    #[test]
    fn a_name_belongs_to_its_directory() {
        let cipher_name = names(1).encrypt(b"diary.txt").unwrap();
        assert_eq!(names(2).classify(cipher_name.entry()), EntryName::Damaged);
    }

    #[test]
    fn no_name_no_cipher_name() {
        assert_eq!(names(1).encrypt(&[b'a'; 256]), Err(NameError::TooLong));
        for bad in [&b""[..], b".", b"..", b"a/b", b"a\0"] {
            assert_eq!(names(1).encrypt(bad), Err(NameError::Invalid));
        }
    }
}
