//! What can go wrong with a tree.

use std::fmt;
use std::io;

use super::path::{PathError, PathText, TreePath};
use super::types::EntryKind;

/// What was being done to an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Opening it.
    Open,
    /// Reading its attributes.
    Inspect,
    /// Listing a directory.
    List,
    /// Reading content.
    Read,
    /// Reading a symlink's target.
    ReadLink,
    /// Reading extended attributes.
    ReadXattr,
    /// Creating it.
    Create,
    /// Writing content.
    Write,
    /// Making a hard link.
    Link,
    /// Setting the owner.
    SetOwner,
    /// Setting the mode.
    SetMode,
    /// Setting the times.
    SetTimes,
    /// Setting extended attributes.
    SetXattr,
    /// Removing it.
    Remove,
    /// Renaming it.
    Rename,
    /// Making it durable.
    Sync,
}

impl fmt::Display for Operation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Open => "open",
            Self::Inspect => "read the attributes of",
            Self::List => "list",
            Self::Read => "read",
            Self::ReadLink => "read the target of",
            Self::ReadXattr => "read the extended attributes of",
            Self::Create => "create",
            Self::Write => "write",
            Self::Link => "link",
            Self::SetOwner => "set the owner of",
            Self::SetMode => "set the mode of",
            Self::SetTimes => "set the times of",
            Self::SetXattr => "set the extended attributes of",
            Self::Remove => "remove",
            Self::Rename => "rename",
            Self::Sync => "sync",
        })
    }
}

/// An error of a tree: what was tried, on which entry, of which tree.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused.
    #[error("cannot {operation} {}: {source}", Place(.tree, .path))]
    Io {
        /// What was tried.
        operation: Operation,
        /// The tree, as its [`super::TreeReader::describe`] names it.
        tree: String,
        /// The entry.
        path: TreePath,
        /// Why not.
        source: io::Error,
    },
    /// A directory lists a name that no path can hold.
    #[error("{} holds an entry with an impossible name: {error}", Place(.tree, .path))]
    BadName {
        /// The tree.
        tree: String,
        /// The directory.
        path: TreePath,
        /// What is wrong with the name.
        error: PathError,
    },
    /// It changed while it was being read: what was read is of no use.
    #[error("{} changed while it was being read", Place(.tree, .path))]
    Changed {
        /// The tree.
        tree: String,
        /// The entry.
        path: TreePath,
    },
    /// The operation does not apply to this kind of entry.
    #[error("cannot {operation} {}: it is a {kind}", Place(.tree, .path))]
    Kind {
        /// What was tried.
        operation: Operation,
        /// The tree.
        tree: String,
        /// The entry.
        path: TreePath,
        /// What it is.
        kind: EntryKind,
    },
    /// A file gave fewer bytes than its size, without having changed.
    #[error("a file of {size} bytes ended after {end}")]
    Short {
        /// Its size.
        size: u64,
        /// Where it ended.
        end: u64,
    },
    /// What was done could not be written down.
    #[error("cannot record what was done: {0}")]
    Record(#[source] io::Error),
    /// Somebody asked to stop.
    #[error("stopped on request")]
    Cancelled,
    /// The system gives no thread: a limit on tasks was reached.
    #[error("no thread can be started: {0}")]
    NoThread(#[source] io::Error),
    /// A thread of the copy or comparison ended by a panic.
    #[error("a worker thread failed")]
    Worker,
}

impl Error {
    /// The errno, where the operating system gave one.
    pub fn raw_os_error(&self) -> Option<i32> {
        match self {
            Self::Io { source, .. } => source.raw_os_error(),
            Self::BadName { .. }
            | Self::Changed { .. }
            | Self::Kind { .. }
            | Self::Short { .. }
            | Self::Cancelled
            | Self::Worker => None,
            Self::Record(source) | Self::NoThread(source) => source.raw_os_error(),
        }
    }

    /// The entry that it is about.
    pub fn path(&self) -> Option<&TreePath> {
        match self {
            Self::Io { path, .. }
            | Self::BadName { path, .. }
            | Self::Changed { path, .. }
            | Self::Kind { path, .. } => Some(path),
            Self::Short { .. }
            | Self::Record(_)
            | Self::NoThread(_)
            | Self::Cancelled
            | Self::Worker => None,
        }
    }
}

/// A result of a tree.
pub type Result<T> = std::result::Result<T, Error>;

struct Place<'a>(&'a String, &'a TreePath);

impl fmt::Display for Place<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(tree, path) = self;
        PathText(tree.as_bytes()).fmt(formatter)?;
        if !path.is_root() {
            if !tree.ends_with('/') {
                formatter.write_str("/")?;
            }
            path.fmt(formatter)?;
        }
        Ok(())
    }
}
