//! What the engine is given: the vault, the mounts, and the signals that stop it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::archive::KeySet;
use crate::cli::Context;
use crate::cli::failure::Failure;
use crate::cli::mount_request::Request;
use crate::cli::{daemon, mounted, umount};
use crate::crypto::MigrationKey;
use crate::fuse::{Health, MountOptions};
use crate::migrate::{BoxError, Mount, MountAccess, Mounter, Operation, VaultAccess, Watch};
use crate::vault::{Unlocked, Vault};

/// How long an unmount is tried again while something still looks at the mount.
const BUSY_SECONDS: u64 = 3;

/// An unlocked vault.
pub struct OpenVault {
    vault: Vault<Unlocked>,
    directory: PathBuf,
    key: MigrationKey,
}

impl OpenVault {
    /// Takes over an unlocked vault.
    ///
    /// # Errors
    /// When its path cannot be found any more.
    pub fn new(vault: Vault<Unlocked>) -> Result<Self, Failure> {
        let path = vault.path().to_owned();
        Self::at(vault, &path)
    }

    /// Takes over an unlocked vault that was renamed to `path`.
    ///
    /// # Errors
    /// When it is not there.
    pub fn at(vault: Vault<Unlocked>, path: &Path) -> Result<Self, Failure> {
        let directory = path.canonicalize().map_err(|error| Failure::io("find", path, &error))?;
        let key = vault.master_key().migration_key();
        Ok(Self { vault, directory, key })
    }
}

impl VaultAccess for OpenVault {
    fn directory(&self) -> &Path {
        &self.directory
    }

    fn id(&self) -> [u8; 16] {
        self.vault.config().vault_id.0
    }

    fn migration_key(&self) -> &MigrationKey {
        &self.key
    }

    fn archive_keys(&self) -> KeySet {
        let master = self.vault.master_key();
        KeySet::of_vault(self.vault.config().clone().seal(&master.config_key()), master)
    }
}

/// Mounts by processes of their own, which outlive this one.
pub struct VaultMounter<'a> {
    vault: &'a OpenVault,
    context: &'a Context,
    allow_other: bool,
}

impl<'a> VaultMounter<'a> {
    /// Mounts `vault`, for other users too where `allow_other` says so.
    pub fn new(vault: &'a OpenVault, context: &'a Context, allow_other: bool) -> Self {
        Self { vault, context, allow_other }
    }
}

/// A failure of the command line, carried through the engine.
#[derive(Debug)]
pub(super) struct Carried(pub(super) Failure);

impl std::fmt::Display for Carried {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.0.message)
    }
}

impl std::error::Error for Carried {}

fn carried(failure: Failure) -> BoxError {
    Box::new(Carried(failure))
}

impl Mounter for VaultMounter<'_> {
    fn mount(&self, point: &Path, access: MountAccess) -> Result<Mount, BoxError> {
        // As the mount table has it: a directory on the way may be a symbolic link by now.
        let point = point.canonicalize().unwrap_or_else(|_| point.to_owned());
        let mut options = MountOptions::default();
        options.kernel.read_only = access == MountAccess::ReadOnly;
        options.kernel.allow_other = self.allow_other;
        let request = Request {
            verbose: self.context.global.verbose,
            ..Request::new(self.vault.directory.clone(), point.clone(), options)
        };
        daemon::start(&request, self.vault.vault.master_key(), self.context).map_err(carried)?;
        Ok(Mount { content: point.clone(), point })
    }

    fn unmount(&self, mount: &Mount) -> Result<(), BoxError> {
        umount::unmount_at(&mount.point, BUSY_SECONDS).map_err(carried)
    }

    fn current(&self) -> Result<Option<Mount>, BoxError> {
        for found in mounted::mounts_of(&self.vault.directory) {
            if found.health() == Health::Dead {
                found.clear_away()?;
                continue;
            }
            let point = found.mount_point;
            return Ok(Some(Mount { content: point.clone(), point }));
        }
        Ok(None)
    }
}

/// Clears away what killed processes left mounted of a vault: an earlier run of a migration may wait
/// for an answer there, and be in the way as long as it does.
pub fn clear_dead_mounts(vault: &Path) {
    for found in mounted::mounts_of(vault) {
        if found.health() == Health::Dead {
            // Where this fails, whoever needs the mount point says so.
            let _ = found.clear_away();
        }
    }
}

/// Set by the signals that ask a process to end.
pub struct Interrupt {
    asked: Arc<AtomicBool>,
}

impl Interrupt {
    /// Begins to watch for signals.
    ///
    /// # Errors
    /// When the operating system refuses.
    pub fn watch() -> Result<Self, Failure> {
        let asked = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::flag::register(signal, Arc::clone(&asked))
                .map_err(|error| Failure::io("watch for", Path::new("signals"), &error))?;
        }
        Ok(Self { asked })
    }

    /// Set once a signal came.
    pub fn flag(&self) -> &AtomicBool {
        &self.asked
    }

    /// Whether a signal came.
    pub fn is_set(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    /// Lets no change begin after a signal.
    pub fn watcher(&self) -> Arc<dyn Watch> {
        Arc::new(StopsBetweenSteps(Arc::clone(&self.asked)))
    }
}

/// Lets no new change begin once somebody asked to stop.
struct StopsBetweenSteps(Arc<AtomicBool>);

impl Watch for StopsBetweenSteps {
    fn before(&self, operation: &Operation<'_>) -> std::io::Result<()> {
        // What was begun is ended cleanly: a mount must not be left because somebody is in haste.
        if self.0.load(Ordering::Relaxed) && !operation.change.ends_something() {
            return Err(std::io::ErrorKind::Interrupted.into());
        }
        Ok(())
    }

    fn after(&self, _: &Operation<'_>) {}
}
