//! Owns the cryptography: keys, key derivation, and authenticated encryption of bytes to bytes.
//! It must know nothing of files, paths, serialisation or where bytes are stored.

mod aead;
mod keys;
mod random;

pub use aead::{AssociatedData, Domain, NONCE_LEN, Nonce, OpenError, SealingKey, TAG_LEN};
pub use keys::{
    ConfigKey, ContentKey, DirectoryKey, FileKey, HeaderKey, JournalKey, KEY_LEN, KeyEncryptionKey,
    MasterKey, MigrationKey, NameKey, SymlinkKey, XattrKey,
};
pub use random::{random_array, random_nonce_bytes};
