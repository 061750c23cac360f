//! What can go wrong with backups.

use std::io;
use std::path::PathBuf;

use crate::archive::{self, ArchiveId};
use crate::tree::{self, TreePath};

/// An error of a backup. Unless a variant says otherwise, nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused.
    #[error("cannot {action} {}: {source}", .path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// An archive.
    #[error(transparent)]
    Archive(#[from] archive::Error),
    /// A tree being read or written.
    #[error(transparent)]
    Tree(#[from] tree::Error),
    /// Another process works on the backups of this directory.
    #[error("another process works on the backups in {}", .0.display())]
    Locked(PathBuf),
    /// A file is no backup of ours by its name.
    #[error("{} is not named like a backup (NAME-YYYYMMDD-HHMMSS.tar…)", .0.display())]
    NotABackup(PathBuf),
    /// An archive that another one needs is not there.
    #[error("{} needs the backup {file} ({id}), which is not in its directory", .path.display())]
    MissingLink {
        /// The one that needs it.
        path: PathBuf,
        /// The name of the one needed, when it was.
        file: String,
        /// Its identity.
        id: ArchiveId,
    },
    /// Other backups need this one.
    #[error("{} is needed by {}; nothing was deleted", .path.display(), .needed_by.join(", "))]
    Needed {
        /// The one to be deleted.
        path: PathBuf,
        /// The others' file names.
        needed_by: Vec<String>,
    },
    /// A pattern cannot be understood.
    #[error("the pattern {pattern:?} cannot be understood: {problem}")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// Why not.
        problem: String,
    },
    /// Nothing in the backup is what was asked for.
    #[error("the backup holds nothing named {0:?}")]
    NoSuchComponent(String),
    /// A name that no backup can have.
    #[error("{0:?} cannot be the name of a backup: letters, digits, '.', '_' and '-' only")]
    BadName(String),
    /// The target of a restore is not empty.
    #[error("{} is not empty; nothing was restored", .0.display())]
    NotEmpty(PathBuf),
    /// The target of a restore cannot be one.
    #[error("cannot restore to {}: {problem}", .path.display())]
    Target {
        /// The target.
        path: PathBuf,
        /// Why not.
        problem: String,
    },
    /// Where the backup came from is not known, or there are several places.
    #[error("{} does not say where it came from; name a target", .0.display())]
    NoTarget(PathBuf),
    /// What was restored is not what the index says.
    #[error("the backup is incomplete: {missing} of {expected} entries could not be restored")]
    Incomplete {
        /// How many are missing.
        missing: u64,
        /// How many there should be.
        expected: u64,
    },
    /// A store that was restored is damaged.
    #[error("the store {store} is damaged: {finding}")]
    StoreDamaged {
        /// Its path in the backup.
        store: String,
        /// The first finding.
        finding: String,
    },
    /// Processes may write to the source.
    #[error("{} is in use: {}", .path.display(), .holders.join(", "))]
    InUse {
        /// The source.
        path: PathBuf,
        /// Who holds what.
        holders: Vec<String>,
    },
    /// A backup's file does not have the checksum that its sidecar names.
    #[error("{} is damaged: its SHA-256 is not the one that was written", .0.display())]
    Checksum(PathBuf),
    /// Putting what was restored in place failed, and so did undoing it.
    #[error("{problem}; the previous content lies in {}", .aside.display())]
    HalfWay {
        /// What failed.
        problem: String,
        /// Where the previous content is.
        aside: PathBuf,
    },
    /// The backup lies in what its restore would replace.
    #[error(
        "{} lies in {}, which would be replaced with everything in it; nothing was changed",
        .archive.display(), .target.display()
    )]
    BackupInTarget {
        /// The backup, or one that it needs.
        archive: PathBuf,
        /// The target.
        target: PathBuf,
    },
    /// An earlier restore to the target was interrupted between its renames.
    #[error("an earlier restore was interrupted half-way; what it left is in {}", .0.display())]
    Unfinished(PathBuf),
    /// A source holds what an interrupted restore left.
    #[error(
        "a restore was interrupted half-way, or is at work; what it replaced may lie in {} and \
         nowhere else; no backup was made",
        .0.display()
    )]
    HalfRestored(PathBuf),
    /// A schedule's expression, or the schedule itself.
    #[error("{0}")]
    Schedule(String),
    /// Somebody asked to stop.
    #[error("stopped on request")]
    Cancelled,
}

/// A result of a backup.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// The file that changed, or went, while a backup was being made of it.
    pub fn changed(&self) -> Option<&TreePath> {
        let (Self::Tree(error) | Self::Archive(archive::Error::Tree(error))) = self else {
            return None;
        };
        match error {
            tree::Error::Changed { path, .. } => Some(path),
            // Gone, or something else is there.
            tree::Error::Io { path, source, .. }
                if matches!(
                    source.raw_os_error(),
                    Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP | libc::ENXIO)
                ) =>
            {
                Some(path)
            }
            _ => None,
        }
    }

    pub(super) fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }

    pub(super) fn errno(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(rustix::io::Errno) -> Self {
        let path = path.into();
        move |errno| Self::Io { action, path, source: errno.into() }
    }
}
