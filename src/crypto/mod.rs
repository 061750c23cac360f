//! Owns the cryptography: keys, key derivation, and authenticated encryption of bytes to bytes.
//! It must know nothing of files, paths, serialisation or where bytes are stored.

mod aead;
mod kdf;
mod keys;
mod random;
mod secret;
mod segments;
#[cfg(test)]
mod test_support;
mod wrap;

pub use aead::{
    AssociatedData, AuthenticationKey, Domain, NONCE_LEN, Nonce, OpenError, SealingKey, TAG_LEN,
};
pub use kdf::{
    Argon2Parameters, KdfError, MAX_LANES, MAX_MEMORY_KIB, MAX_WORK_KIB, MIN_MEMORY_KIB, SALT_LEN,
};
pub use keys::{
    ArchiveKey, ConfigKey, ContentKey, DirectoryKey, FileKey, HeaderKey, JournalKey, KEY_LEN,
    KeyEncryptionKey, MasterKey, MigrationKey, NameKey, SymlinkKey, XattrKey,
};
pub use random::{random_array, random_nonce_bytes};
pub use secret::{
    KeyFile, MAX_KEY_FILE_LEN, MAX_PASSPHRASE_LEN, MIN_KEY_FILE_LEN, Passphrase, RECOVERY_LEN,
    RECOVERY_WORDS, RecoveryKey, Secret, SecretError,
};
pub use segments::{SEGMENTS_MAX, SegmentCipher};
pub use wrap::{HASH_LEN, MAC_LEN, UnwrapError, WRAPPED_KEY_LEN, WrappedKey, sha256};
