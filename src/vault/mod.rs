//! Owns the vault: creating, opening and unlocking it, its key slots, and the filesystem core
//! (inodes, files, directories, names, attributes and their encryption, over a
//! [`crate::backing::Directory`]). It must know nothing of FUSE.

mod attributes;
mod below;
mod checkpoint;
mod codecs;
mod config_file;
mod content;
mod core;
mod descriptors;
mod directory;
mod error;
mod filesystem;
mod holes;
mod inode;
mod journal;
mod listing;
mod mending;
mod namespace;
mod opening;
mod recovery;
mod rename;
mod resize;
mod sealing;
mod segment;
mod settle;
mod setup;
mod signal;
mod slots;
mod sync;
mod types;
mod vault_error;
mod write;
mod xattrs;

pub(crate) use below::punch;
pub(crate) use codecs::Codecs;
pub use error::{Error, Result};
pub use filesystem::{FileSystem, LOCK_NAME, OpenError};
pub use recovery::Recovered;
pub(crate) use recovery::Survey;
pub(crate) use settle::STATE_NAME;
pub use setup::{
    DERIVATION_TIME, Locked, OVERFLOW_NAME, TREE_NAME, Unlocked, Vault, calibrated_cost,
};
pub use slots::NewSlot;
pub use types::{
    Attributes, CachedName, Caller, DirectoryEntry, Entry, FallocateMode, FilesystemOptions,
    InodeNumber, SeekWhence, SetAttributes,
};
pub use vault_error::VaultError;

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod disk_tests;
#[cfg(test)]
mod fault_tests;
#[cfg(test)]
mod journal_tests;
#[cfg(test)]
mod loss_tests;
#[cfg(test)]
mod opening_tests;
#[cfg(test)]
mod race_tests;
#[cfg(test)]
mod sealing_tests;
#[cfg(test)]
mod sync_tests;
#[cfg(test)]
mod test_disk;
#[cfg(test)]
mod tests;
