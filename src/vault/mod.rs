//! Owns the filesystem core: inodes, files, directories, names, attributes and their encryption,
//! over a [`crate::backing::Directory`]. It must know nothing of FUSE.

mod error;
mod filesystem;
mod types;

pub use error::{Error, Result};
pub use filesystem::FileSystem;
pub use types::{
    Attributes, Caller, DirectoryEntry, Entry, FallocateMode, FilesystemOptions, InodeNumber,
    SeekWhence, SetAttributes,
};
