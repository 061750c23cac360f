//! Owns what lies on disk: pure encoding and decoding of names, headers, blocks, records, the
//! configuration and archives. It must know nothing of files or directories; it turns bytes into
//! bytes. `docs/format.md` specifies the same to the byte.

pub mod archive;
pub mod block;
pub mod config;
pub mod directory;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod header;
pub mod journal;
pub mod layout;
pub mod name;
pub mod state;
pub mod symlink;
pub mod xattr;

#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod vectors_tests;
