//! Owns sealed tar archives: writing them, reading, verifying and extracting them. It knows tree
//! readers and writers, not the vault, and nothing of what an archive is made for.
//!
//! An archive is a tar of *sections* (trees with a name each), `metadata.json` before them and an
//! index among and behind them, compressed and then sealed. Nothing in an archive is trusted
//! before it is checked. `docs/format-archive.md` specifies the form to the byte.
//!
//! To write one: [`PendingArchive::create`], [`PendingArchive::write`], which can read it back meanwhile,
//! [`PendingArchive::publish`]. To read one: [`ArchiveReader::open`]
//! with a [`Keyring`].

mod ahead;
mod buffer;
mod compress;
mod error;
mod extract;
mod file;
#[cfg(any(test, fuzzing))]
mod forge;
mod frames;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod gather;
mod growing;
mod hash;
mod index;
mod keys;
mod metadata;
mod pass;
mod pending;
mod pipe;
mod read;
mod sink;
mod small;
mod tar;
mod threads;
mod write;

pub use crate::format::archive::{ArchiveId, Compression};
pub use error::{Error, Result};
pub use extract::{ExtractOptions, Extracted, Select, TakeLine, select_all};
pub use file::{PARTIAL_PREFIX, PendingArchive, remove_leftovers};
pub use gather::{Noticed, OnChange, Section, Unchanged};
pub use keys::{KeySet, Keyring, SealingKeys};
pub use metadata::{
    Amount, ArchiveIndex, ArchiveKind, ArchiveMetadata, ChainLink, Description, IndexEntry,
    IndexPart, SectionName, Where,
};
pub use pass::{Control, Passed};
pub use read::{ArchiveReader, peek};
pub use write::{ReadBack, WriteOptions, Written};

#[cfg(test)]
mod tests;
