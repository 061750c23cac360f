//! What a migration needs from outside: an open vault, somebody who mounts it, and the run's
//! options.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use super::engine::local;
use super::error::{Error, Result};
use super::journal::VaultId;
use super::operations::{Change, Hands};
use super::survey::Observer;
use crate::archive::KeySet;
use crate::crypto::MigrationKey;
use crate::tree::LocalTree;

/// An error of whoever provides a trait of this module.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// An unlocked vault, as a migration sees it.
pub trait VaultAccess: Send + Sync {
    /// The vault's directory.
    fn directory(&self) -> &Path;
    /// The vault's ID.
    fn id(&self) -> VaultId;
    /// Authenticates the journal and seals what lies beside it.
    fn migration_key(&self) -> &MigrationKey;
    /// Seals archives under the vault's key slots, and opens them.
    fn archive_keys(&self) -> KeySet;
}

/// Whether a mount can be written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MountAccess {
    /// For the app, and for the copy.
    ReadWrite,
    /// For verification: nothing that reads can change anything.
    ReadOnly,
}

/// The vault, mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Where.
    pub point: PathBuf,
    /// Where its content is to be found: the mount point, but for doubles of a mount.
    pub content: PathBuf,
}

/// Mounts the vault. Mounts outlive the process that made them.
pub trait Mounter: Send + Sync {
    /// Mounts the vault and returns when it can be used.
    ///
    /// # Errors
    /// When it cannot be mounted; nothing is mounted then.
    fn mount(&self, point: &Path, access: MountAccess) -> std::result::Result<Mount, BoxError>;

    /// Unmounts it and returns when all that was written is durable.
    ///
    /// # Errors
    /// When processes keep it busy (named in the error), or it cannot be ended cleanly.
    fn unmount(&self, mount: &Mount) -> std::result::Result<(), BoxError>;

    /// Where the vault is mounted now, if anywhere. A mount whose process has died is cleared
    /// away and is none.
    ///
    /// # Errors
    /// When that cannot be told.
    fn current(&self) -> std::result::Result<Option<Mount>, BoxError>;
}

/// All that a run is given.
#[derive(Clone)]
pub struct Environment<'a> {
    /// The vault.
    pub vault: &'a dyn VaultAccess,
    /// Who mounts it.
    pub mounter: &'a dyn Mounter,
    /// Told of progress; says when to stop.
    pub observer: &'a dyn Observer,
    /// Makes every durable change.
    pub hands: Hands,
    /// Threads for copying and hashing; by default one a processor.
    pub jobs: Option<NonZeroUsize>,
}

impl Environment<'_> {
    pub(super) fn threads(&self) -> NonZeroUsize {
        /// More help no disk, and each takes a buffer.
        const MOST: NonZeroUsize = NonZeroUsize::MIN.saturating_add(255);
        let threads = self.jobs.or_else(|| std::thread::available_parallelism().ok());
        threads.unwrap_or(NonZeroUsize::MIN).min(MOST)
    }

    pub(super) fn current_mount(&self) -> Result<Option<Mount>> {
        self.mounter.current().map_err(|source| Error::Mount {
            doing: "find the mount of",
            path: self.vault.directory().to_owned(),
            source,
        })
    }

    /// Mounts the vault at `point`, wherever it was mounted before.
    pub(super) fn mount(&self, point: &Path, access: MountAccess) -> Result<Mount> {
        self.unmount()?;
        self.hands.perform(Change::Mount, point, || {
            self.mounter.mount(point, access).map_err(|source| Error::Mount {
                doing: "mount the vault at",
                path: point.to_owned(),
                source,
            })
        })
    }

    /// The tree of a mounted vault. A mount may go by itself between its being made and this, and leave the
    /// bare directory: nothing must be written to that, and nothing in it be taken for what the vault holds.
    pub(super) fn open(&self, mount: &Mount) -> Result<LocalTree> {
        let tree = local(&mount.content)?;
        // Asked with the root open: what goes from now on takes the root with it.
        self.expect_mounted(mount)?;
        Ok(tree)
    }

    /// Refuses a mount that is there no more. What is reached by its path is to be believed only where this
    /// is asked afterwards, too.
    pub(super) fn expect_mounted(&self, mount: &Mount) -> Result<()> {
        match self.current_mount()? {
            Some(current) if current.point == mount.point => Ok(()),
            _ => Err(Error::Mount {
                doing: "go on with the vault at",
                path: mount.point.clone(),
                source: "it is not mounted there any more".into(),
            }),
        }
    }

    /// Unmounts the vault, if it is mounted.
    pub(super) fn unmount(&self) -> Result<()> {
        let Some(mount) = self.current_mount()? else { return Ok(()) };
        self.hands.perform(Change::Unmount, &mount.point, || {
            self.mounter.unmount(&mount).map_err(|source| Error::Mount {
                doing: "unmount the vault at",
                path: mount.point.clone(),
                source,
            })
        })
    }
}
