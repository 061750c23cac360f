//! Wrapping a master key in a key slot, and authenticating the configuration that holds the
//! slots.
//!
//! AES-GCM-SIV does not commit to its key: someone who writes a slot could craft one that several
//! passphrases open. So each slot also carries a *key check*, derived from the key-encryption key
//! by HKDF. It commits to the secret, and tells a wrong secret from an altered slot.

use hkdf::Hkdf;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::aead::{AssociatedData, Domain, NONCE_LEN, Nonce, SealingKey, TAG_LEN};
use super::keys::{ConfigKey, KEY_LEN, KeyEncryptionKey, MasterKey};

/// Bytes in a hash (SHA-256).
pub const HASH_LEN: usize = 32;
/// Bytes in a message authentication code (HMAC-SHA256).
pub const MAC_LEN: usize = 32;
/// Bytes in a wrapped master key: nonce, ciphertext, tag.
pub const WRAPPED_KEY_LEN: usize = NONCE_LEN + KEY_LEN + TAG_LEN;

/// SHA-256 of the concatenation of `parts`.
pub fn sha256(parts: &[&[u8]]) -> [u8; HASH_LEN] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part);
    }
    hash.finalize().into()
}

/// A master key as a key slot holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WrappedKey {
    /// Tells whether a secret is the slot's, before anything is unwrapped.
    pub key_check: [u8; HASH_LEN],
    /// Nonce, ciphertext and tag of the master key.
    pub wrapped_key: [u8; WRAPPED_KEY_LEN],
}

/// Why a slot does not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnwrapError {
    /// The secret, the salt or the cost of its derivation is not the one that made the slot.
    #[error("the secret does not open this key slot")]
    WrongSecret,
    /// The secret is right, and what it protects was altered.
    #[error("the key slot, or the configuration around it, was altered")]
    Altered,
}

impl KeyEncryptionKey {
    /// Wraps `master` for a slot whose public parameters hash to `binding`.
    ///
    /// # Panics
    /// When the operating system cannot give random bytes.
    pub fn wrap(&self, master: &MasterKey, binding: &[u8; HASH_LEN]) -> WrappedKey {
        let nonce = Nonce::random();
        let mut wrapped_key = [0u8; WRAPPED_KEY_LEN];
        wrapped_key[..NONCE_LEN].copy_from_slice(&nonce.bytes());
        let tag = self.wrapping_key().seal(
            nonce,
            &AssociatedData::new(Domain::KeySlot, &[binding]),
            master.expose(),
            &mut wrapped_key[NONCE_LEN..NONCE_LEN + KEY_LEN],
        );
        wrapped_key[NONCE_LEN + KEY_LEN..].copy_from_slice(&tag);
        WrappedKey { key_check: *self.key_check(), wrapped_key }
    }

    /// Unwraps the master key of a slot whose public parameters hash to `binding`.
    ///
    /// # Errors
    /// [`UnwrapError`].
    ///
    /// # Panics
    /// Never.
    pub fn unwrap(
        &self,
        wrapped: &WrappedKey,
        binding: &[u8; HASH_LEN],
    ) -> Result<MasterKey, UnwrapError> {
        if !bool::from(self.key_check().ct_eq(&wrapped.key_check)) {
            return Err(UnwrapError::WrongSecret);
        }
        let (nonce, rest) =
            wrapped.wrapped_key.split_first_chunk::<NONCE_LEN>().expect("of fixed length");
        let (cipher, tag) = rest.split_last_chunk::<TAG_LEN>().expect("of fixed length");
        let mut plain = Zeroizing::new([0u8; KEY_LEN]);
        let associated_data = AssociatedData::new(Domain::KeySlot, &[binding]);
        self.wrapping_key()
            .open(nonce, &associated_data, cipher, tag, plain.as_mut_slice())
            .map_err(|_| UnwrapError::Altered)?;
        Ok(MasterKey::from_bytes(&plain))
    }

    /// Label `strongroom v1 slot wrap`.
    fn wrapping_key(&self) -> SealingKey {
        SealingKey::clearing(&self.expand(b"strongroom v1 slot wrap"))
    }

    /// Label `strongroom v1 slot check`.
    fn key_check(&self) -> Zeroizing<[u8; HASH_LEN]> {
        self.expand(b"strongroom v1 slot check")
    }

    fn expand(&self, label: &[u8]) -> Zeroizing<[u8; KEY_LEN]> {
        let mut output = Zeroizing::new([0u8; KEY_LEN]);
        Hkdf::<Sha256>::new(None, self.expose())
            .expand(label, output.as_mut())
            .expect("32 bytes are within the 8160 that HKDF-SHA256 can give");
        output
    }
}

impl ConfigKey {
    /// HMAC-SHA256 of `message`.
    pub fn authenticate(&self, message: &[u8]) -> [u8; MAC_LEN] {
        self.mac(message).finalize().into_bytes().into()
    }

    /// Whether `mac` is that of `message`, in constant time.
    pub fn verify(&self, message: &[u8], mac: &[u8; MAC_LEN]) -> bool {
        self.mac(message).verify_slice(mac).is_ok()
    }

    fn mac(&self, message: &[u8]) -> Hmac<Sha256> {
        Hmac::new_from_slice(self.expose())
            .expect("HMAC takes keys of any length")
            .chain_update(message)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::test_support::hex;
    use super::*;

    fn key(byte: u8) -> KeyEncryptionKey {
        KeyEncryptionKey::from_bytes(&[byte; KEY_LEN])
    }

    #[test]
    fn only_the_right_secret_and_binding_unwrap() {
        let master = MasterKey::from_bytes(&[42; KEY_LEN]);
        let wrapped = key(1).wrap(&master, &[7; HASH_LEN]);
        assert_eq!(key(1).unwrap(&wrapped, &[7; HASH_LEN]).unwrap().expose(), &[42; KEY_LEN]);
        let wrong = key(2).unwrap(&wrapped, &[7; HASH_LEN]);
        assert_eq!(wrong.err(), Some(UnwrapError::WrongSecret));
        let altered = key(1).unwrap(&wrapped, &[8; HASH_LEN]);
        assert_eq!(altered.err(), Some(UnwrapError::Altered));
    }

    #[test]
    fn every_byte_of_a_wrapped_key_counts() {
        let master = MasterKey::from_bytes(&[42; KEY_LEN]);
        let wrapped = key(1).wrap(&master, &[7; HASH_LEN]);
        for at in 0..WRAPPED_KEY_LEN {
            let mut changed = wrapped;
            changed.wrapped_key[at] ^= 1;
            let error = key(1).unwrap(&changed, &[7; HASH_LEN]).err();
            assert_eq!(error, Some(UnwrapError::Altered), "byte {at}");
        }
        for at in 0..HASH_LEN {
            let mut changed = wrapped;
            changed.key_check[at] ^= 1;
            let error = key(1).unwrap(&changed, &[7; HASH_LEN]).err();
            assert_eq!(error, Some(UnwrapError::WrongSecret), "byte {at}");
        }
    }

    #[test]
    fn wrapping_twice_gives_two_ciphertexts() {
        let master = MasterKey::from_bytes(&[42; KEY_LEN]);
        let first = key(1).wrap(&master, &[7; HASH_LEN]);
        let second = key(1).wrap(&master, &[7; HASH_LEN]);
        assert_ne!(first.wrapped_key, second.wrapped_key);
        assert_eq!(first.key_check, second.key_check);
    }

    /// Expected values from Python's `hmac` and the `cryptography` package.
    #[test]
    fn derivations_are_those_of_the_format() {
        let key = ConfigKey::from_bytes(&[5; KEY_LEN]);
        let mac = key.authenticate(b"message");
        assert_eq!(hex(&mac), "9352f7d015dab1c063e235eae7bffd623b925760931b3e65bd3f2d103a0fe736");
        assert!(key.verify(b"message", &mac));
        assert!(!key.verify(b"messagf", &mac));

        let key = KeyEncryptionKey::from_bytes(&[5; KEY_LEN]);
        assert_eq!(
            hex(key.expand(b"strongroom v1 slot wrap").as_ref()),
            "67da39b6867f470ed46dabf9a7be70e03e5ca6d9ff10fb17fec390f811a6fd67"
        );
        assert_eq!(
            hex(key.key_check().as_ref()),
            "f9fa4b181d7f325eed3a9d763b093d160b8640fe684e77bcb7466d1f5d1e7f0f"
        );
    }
}
