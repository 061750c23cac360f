//! Owns the vault: creating, opening and unlocking it, its key slots, and the filesystem core
//! (inodes, files, directories, names, attributes and their encryption, over a
//! [`crate::backing::Directory`]). It must know nothing of FUSE.

mod config_file;
mod error;
mod filesystem;
mod setup;
mod slots;
mod types;
mod vault_error;

pub use error::{Error, Result};
pub use filesystem::FileSystem;
pub use setup::{
    DERIVATION_TIME, Locked, OVERFLOW_NAME, TREE_NAME, Unlocked, Vault, calibrated_cost,
};
pub use slots::NewSlot;
pub use types::{
    Attributes, Caller, DirectoryEntry, Entry, FallocateMode, FilesystemOptions, InodeNumber,
    SeekWhence, SetAttributes,
};
pub use vault_error::VaultError;
