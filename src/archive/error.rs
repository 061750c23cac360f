//! What can go wrong with an archive.

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::crypto::KdfError;
use crate::format::archive::ArchiveFormatError;
use crate::format::config::ConfigError;
use crate::tree::{self, TreePath};

/// An error of an archive. Unless a variant says otherwise, nothing was changed; what a reader
/// already wrote is of no use.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused.
    #[error("cannot {action} {}: {source}", .path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A name is taken.
    #[error("{} exists already; nothing was written", .0.display())]
    Exists(PathBuf),
    /// Neither a sealed archive nor a tar of ours, or cut short, or of another version.
    #[error("{}: {error}", .path.display())]
    Format {
        /// The archive.
        path: PathBuf,
        /// What is wrong with it.
        error: ArchiveFormatError,
    },
    /// The key slots are altered or damaged.
    #[error("the archive's key slots: {0}")]
    Config(#[from] ConfigError),
    /// A key cannot be derived.
    #[error(transparent)]
    Kdf(#[from] KdfError),
    /// No secret was given, and the archive is sealed.
    #[error("the archive is sealed, and no secret was given")]
    NoSecret,
    /// None of the secrets given opens it.
    #[error("none of the secrets given opens the archive")]
    WrongSecret,
    /// The secret is right, but what it protects was altered.
    #[error("the archive's key slots were altered")]
    Altered,
    /// A segment does not authenticate: bytes were changed, moved, added or cut off.
    #[error("the archive is damaged or was altered: segment {segment} does not authenticate")]
    Segment {
        /// Which, from 0.
        segment: u64,
    },
    /// The compressed stream is damaged (of an archive that is not sealed), or ends too early.
    #[error("the archive is damaged: {0}")]
    Damaged(String),
    /// Something in it that this program never writes.
    #[error("the archive is malformed{}: {problem}", At(.entry))]
    Malformed {
        /// The entry, where one is concerned.
        entry: Option<String>,
        /// What is wrong.
        problem: String,
    },
    /// It holds more than it declares.
    #[error("the archive holds more than the {limit} {what} that it declares; it was not read on")]
    TooMuch {
        /// The limit.
        limit: u64,
        /// Of what.
        what: &'static str,
    },
    /// What an entry holds and what the index says of it differ.
    #[error("the archive contradicts itself: {entry} is not what its index says ({problem})")]
    Mismatch {
        /// The entry.
        entry: String,
        /// What differs.
        problem: &'static str,
    },
    /// Too much for one archive.
    #[error("too much for one archive: {0}")]
    TooLarge(&'static str),
    /// A tree being read or written.
    #[error(transparent)]
    Tree(#[from] tree::Error),
    /// Somebody asked to stop.
    #[error("stopped on request")]
    Cancelled,
    /// The system gives no thread: a limit on tasks was reached.
    #[error("no thread can be started: {0}")]
    NoThread(io::Error),
    /// A thread of the work ended by a panic.
    #[error("a worker thread failed")]
    Worker,
}

/// A result of an archive.
pub type Result<T> = std::result::Result<T, Error>;

struct At<'a>(&'a Option<String>);

impl fmt::Display for At<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(entry) => write!(formatter, " at {entry}"),
            None => Ok(()),
        }
    }
}

impl Error {
    pub(super) fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }

    pub(super) fn malformed(problem: impl Into<String>) -> Self {
        Self::Malformed { entry: None, problem: problem.into() }
    }

    /// Names the entry, where the error does not yet.
    pub(super) fn at(self, section: &str, path: &TreePath) -> Self {
        match self {
            Self::Malformed { entry: None, problem } => {
                Self::Malformed { entry: Some(format!("{section}/{path}")), problem }
            }
            other => other,
        }
    }

    /// Carries it through [`io::Read`] and [`io::Write`].
    pub(super) fn into_io(self) -> io::Error {
        io::Error::other(Carried(self))
    }

    /// Takes out what [`Self::into_io`] carried; what a decoder says itself is damage.
    pub(super) fn from_io(error: io::Error) -> Self {
        match error.downcast::<Carried>() {
            Ok(Carried(error)) => error,
            Err(error) => Self::Damaged(error.to_string()),
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error(transparent)]
struct Carried(Error);
