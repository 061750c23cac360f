//! What looking at stores can fail with.

use std::io;
use std::path::{Path, PathBuf};

/// A store that could not be looked at. Nothing was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system failed.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// SQLite failed, for another reason than damage.
    #[error("{}: {source}", path.display())]
    Sqlite {
        /// The database.
        path: PathBuf,
        /// What SQLite says.
        source: rusqlite::Error,
    },
    /// The store is damaged, so there are no facts to tell.
    #[error("{} is damaged: {detail}", path.display())]
    Damaged {
        /// The store's main file or directory.
        path: PathBuf,
        /// Where, and how.
        detail: String,
    },
    /// Somebody asked to stop.
    #[error("{}: the look at the stores was stopped", path.display())]
    Cancelled {
        /// Where it was.
        path: PathBuf,
    },
}

impl Error {
    /// What it is about.
    pub fn path(&self) -> &Path {
        match self {
            Self::Io { path, .. }
            | Self::Sqlite { path, .. }
            | Self::Damaged { path, .. }
            | Self::Cancelled { path } => path,
        }
    }

    /// Why the operating system failed, if that was it.
    pub fn io_kind(&self) -> Option<io::ErrorKind> {
        match self {
            Self::Io { source, .. } => Some(source.kind()),
            _ => None,
        }
    }

    /// An [`Error::Io`].
    pub(super) fn io(path: impl Into<PathBuf>, action: &'static str, source: io::Error) -> Self {
        Self::Io { path: path.into(), action, source }
    }
}
