//! What can go wrong with a migration.

use std::io;
use std::path::{Path, PathBuf};

use super::account::Account;
use super::blocker::Blocker;
use super::environment::BoxError;
use super::record::{Origin, Phase};
use crate::archive;
use crate::repoint;
use crate::stores::{self, Component};
use crate::tree::{self, Comparison, TreePath};

/// An error of a migration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused.
    #[error("cannot {doing} {}: {source}", .path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A tree could not be read or written.
    #[error(transparent)]
    Tree(tree::Error),
    /// Somebody asked to stop.
    #[error("stopped on request")]
    Interrupted,
    /// The journal is not what was written.
    #[error("the migration's journal {} cannot be relied on: {why}", .path.display())]
    JournalDamaged {
        /// The journal.
        path: PathBuf,
        /// What is wrong.
        why: &'static str,
    },
    /// The vault could not be mounted or unmounted.
    #[error("cannot {doing} {}: {source}", .path.display())]
    Mount {
        /// What was tried.
        doing: &'static str,
        /// Where.
        path: PathBuf,
        /// Why not.
        source: BoxError,
    },
    /// An exclude pattern makes no sense.
    #[error(transparent)]
    Pattern(tree::PatternError),
    /// The snapshot could not be written or read.
    #[error("the snapshot: {0}")]
    Archive(archive::Error),
    /// A store could not be looked at.
    #[error(transparent)]
    Store(stores::Error),
    /// A configuration file could not be edited.
    #[error("{}: {source}", .file.display())]
    Config {
        /// The file.
        file: PathBuf,
        /// Why not.
        source: repoint::Error,
    },
    /// It is not known how to edit a configuration file.
    #[error("{}: neither name nor content tell its format", .file.display())]
    UnknownFormat {
        /// The file.
        file: PathBuf,
    },
    /// A configuration file was edited by somebody else meanwhile.
    #[error("{} was edited by somebody else meanwhile and is left as it is:\n{diff}", .file.display())]
    ConfigChanged {
        /// The file.
        file: PathBuf,
        /// What was edited.
        diff: String,
    },
    /// Values that the migration had edited were edited by somebody else since.
    #[error("{} was edited by somebody else since, at {}, and is left as it is:\n{diff}",
        .file.display(), .keys.join(", "))]
    ConfigConflict {
        /// The file.
        file: PathBuf,
        /// The keys of those values.
        keys: Vec<String>,
        /// From the file as the migration left it to the file as it is.
        diff: String,
    },
    /// Another process is at it.
    #[error("{owner} is working on {} right now", .path.display())]
    Running {
        /// The vault or the source.
        path: PathBuf,
        /// Who.
        owner: String,
    },
    /// A migration was begun and neither finished nor rolled back.
    #[error("a migration of {} into {} ({id}) is not finished", .directory.display(), .vault.display())]
    Unfinished {
        /// The source.
        directory: PathBuf,
        /// The vault.
        vault: PathBuf,
        /// The migration.
        id: String,
        /// The marker to remove, where the vault is gone.
        marker: Option<PathBuf>,
    },
    /// The migration does not stand where this could be done.
    #[error("{what} (the migration is {})", .phase.name())]
    State {
        /// What is in the way.
        what: &'static str,
        /// Where it stands.
        phase: Phase,
    },
    /// Things stand in the way; nothing was changed.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Blocked(Vec<Blocker>),
    /// The vault holds data already.
    #[error("the vault {} holds data already", .path.display())]
    VaultNotEmpty {
        /// The vault.
        path: PathBuf,
    },
    /// The vault has no migration.
    #[error("the vault {} has no migration", .vault.display())]
    NoMigration {
        /// The vault.
        vault: PathBuf,
    },
    /// The originals are neither at their path nor aside.
    #[error("{} is not the directory that the migration began with", .path.display())]
    SourceGone {
        /// The path.
        path: PathBuf,
    },
    /// A store is damaged.
    #[error("the {} store {} is damaged: {}", .component.kind, .component.path.display(),
        .findings.first().map_or("its check failed", String::as_str))]
    StoreDamaged {
        /// The store.
        component: Box<Component>,
        /// What its check says.
        findings: Vec<String>,
    },
    /// A copy does not match.
    #[error("{of} does not match: {}", differences(.found))]
    Mismatch {
        /// What does not match.
        of: &'static str,
        /// In what.
        found: Box<Comparison>,
    },
    /// Something was written to the vault since the migration.
    #[error("the vault was changed since the migration: {}", differences(.found))]
    VaultChanged {
        /// What was changed.
        found: Box<Comparison>,
    },
    /// The data are back in their place already, from elsewhere than asked for.
    #[error("the data are back in their place already, from {}", match .origin {
        Origin::Originals => "the originals",
        Origin::Snapshot => "the snapshot",
        Origin::Vault => "the vault",
    })]
    BackAlready {
        /// Where they came from.
        origin: Origin,
    },
    /// A command of the app's failed.
    #[error("the {purpose} command failed ({reason}): {command}")]
    Command {
        /// What it is for.
        purpose: &'static str,
        /// The command.
        command: String,
        /// How it ended, and what it said.
        reason: String,
    },
    /// The app did not become well on its vault; everything is as it was before.
    #[error("the app did not work on its vault, and everything is as it was before: {source}")]
    BackedOut {
        /// What failed.
        source: Box<Error>,
    },
    /// Some of the originals had to be left.
    #[error("{} files could not be wiped and are left in {}: {}", .account.left.files,
        .root.display(), .account.left_paths.first()
            .map_or(String::new(), |(path, why)| format!("{path} ({why})")))]
    NotAllWiped {
        /// Where they are.
        root: PathBuf,
        /// What was done.
        account: Box<Account>,
    },
    /// The snapshot is gone.
    #[error("the snapshot {} is gone", .path.display())]
    SnapshotGone {
        /// Where it was.
        path: PathBuf,
    },
    /// The source is no longer what was read.
    #[error("the source changed: {}{}", list(.paths), more(*.count, .paths.len()))]
    SourceChanged {
        /// What changed, the first of them.
        paths: Vec<TreePath>,
        /// How many entries changed.
        count: u64,
    },
}

fn differences(found: &Comparison) -> String {
    let shown: Vec<_> = found
        .differences
        .iter()
        .take(5)
        .map(|difference| format!("{} ({})", difference.path, difference.mismatch))
        .collect();
    format!("{}{}", shown.join(", "), more(found.total_differences, shown.len()))
}

fn list(paths: &[TreePath]) -> String {
    paths.iter().take(5).map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn more(count: u64, listed: usize) -> String {
    let shown = u64::try_from(listed.min(5)).unwrap_or(5);
    if count > shown { format!(" and {} more", count - shown) } else { String::new() }
}

/// A result of a migration.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(super) fn io(doing: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        Self::Io { doing, path: path.to_owned(), source: source.into() }
    }
}

impl From<tree::Error> for Error {
    fn from(error: tree::Error) -> Self {
        match error {
            tree::Error::Cancelled => Self::Interrupted,
            other => Self::Tree(other),
        }
    }
}

impl From<archive::Error> for Error {
    fn from(error: archive::Error) -> Self {
        match error {
            archive::Error::Cancelled => Self::Interrupted,
            archive::Error::Tree(error) => error.into(),
            other => Self::Archive(other),
        }
    }
}
