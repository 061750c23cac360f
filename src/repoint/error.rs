//! What a repointing can fail with.

use std::io;
use std::path::PathBuf;

/// A failed edit of a configuration file. In every case the file on disk is as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The format's own parser rejects the text.
    #[error("not valid {format}: {message}")]
    Syntax {
        /// The format that was tried.
        format: super::Format,
        /// What the parser says, with the line.
        message: String,
    },
    /// The new value cannot be written in this format at this place.
    #[error("line {line}: {key} cannot hold the new value: {reason}")]
    Inexpressible {
        /// The key whose value it is.
        key: String,
        /// Its line, counted from 1.
        line: usize,
        /// Why not.
        reason: &'static str,
    },
    /// The edited text, read again, differs in more than the edited values. The edit is refused.
    #[error("the edit would change more than it should ({detail}); nothing was written")]
    SideEffect {
        /// What differs.
        detail: String,
    },
    /// There is no value under that key.
    #[error("there is no value {key}")]
    NoSuchKey {
        /// The key as it was given.
        key: String,
    },
    /// The key itself cannot be read.
    #[error("{key:?} is not a key: {reason}")]
    BadKey {
        /// The key as it was given.
        key: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The file was changed since it was edited, at the very places that were edited.
    #[error("the file was changed since, at {}; nothing was written", keys.join(", "))]
    Conflict {
        /// The keys whose values are no longer what was written.
        keys: Vec<String>,
        /// From the file as it is to the file as it would be without the edits that can still be
        /// found, as a unified diff; empty where none was found.
        diff: String,
    },
    /// The file on disk is not what the edit was made from.
    #[error("{} changed in the meantime; it was left as it is", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// The file has other names, which an atomic replacement would cut off.
    #[error("{} has {links} hard links, of which only one would be edited", path.display())]
    HardLinked {
        /// The file.
        path: PathBuf,
        /// How many names it has.
        links: u64,
    },
    /// The path leads to something else than a regular file.
    #[error("{} is not a regular file", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// The operating system failed.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}
