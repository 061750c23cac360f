//! Verification on request, at any time.

use serde::Serialize;

use super::engine::{Engine, Side, local};
use super::environment::MountAccess;
use super::error::{Error, Result};
use super::record::Phase;
use super::steps::{PASSING, left_open};
use super::survey::Stage;
use crate::stores::{CheckReport, Component, Outcome};
use crate::tree::Comparison;

/// A store and what its check said.
#[derive(Clone, Debug, Serialize)]
pub struct StoreReport {
    /// The store.
    pub component: Component,
    /// What its check said.
    pub report: CheckReport,
}

/// What a verification found.
#[derive(Clone, Debug, Serialize)]
pub struct Verification {
    /// Where the migration stands.
    pub phase: Phase,
    /// The vault against what was migrated.
    pub vault: Comparison,
    /// Whether every entry of the vault could be read.
    pub readable: bool,
    /// Whether a difference in the vault is to be expected, because the app uses it.
    pub in_use: bool,
    /// The vault's stores.
    pub stores: Vec<StoreReport>,
    /// The originals against what was migrated, where they still exist.
    pub originals: Option<Comparison>,
}

impl Verification {
    /// Whether all is as it should be.
    pub fn is_good(&self) -> bool {
        let vault = self.readable && (self.in_use || self.vault.is_equal());
        let damaged = self.stores.iter().any(|store| store.report.outcome == Outcome::Damaged);
        let originals = self.originals.as_ref().is_none_or(Comparison::is_equal);
        vault && !damaged && originals
    }
}

impl Engine<'_> {
    /// Reads the whole vault and, while they exist, the originals, and compares both with what
    /// was migrated. Reads through a fresh mount, unless the vault is in use.
    ///
    /// # Errors
    /// [`Error::State`] before there is a copy.
    pub fn verify(&mut self) -> Result<Verification> {
        let phase = self.state().phase;
        if matches!(phase, Phase::Begun | Phase::Surveyed | Phase::Snapshotted) {
            return Err(Error::State { what: "there is no complete copy yet", phase });
        }
        let observer = self.environment.observer;
        let in_use = self.state().switching.is_some();
        let current = self.environment.current_mount()?;
        super::caches::drop(self.environment.vault.directory());
        let mount = match &current {
            Some(mount) => {
                super::caches::drop(&mount.content);
                mount.clone()
            }
            None => {
                let point = self.private_mount_point()?;
                self.environment.mount(&point, MountAccess::ReadOnly)?
            }
        };
        observer.stage(Stage::VerifyVault, self.source_totals());
        let read = self.environment.open(&mount).and_then(|tree| {
            let vault = self.compare(Side::Vault, &tree, self.source_ledger()?)?;
            // A store that is being written to would look damaged.
            let open = left_open(&mount.content, PASSING, observer)?;
            if !open.files.is_empty() {
                observer.note("the app is running, so the stores' own checks are left out");
                return Ok((vault, Vec::new()));
            }
            observer.stage(Stage::Check, None);
            let stores = self.check_stores(Side::Vault, &mount.content)?;
            self.environment.expect_mounted(&mount)?;
            Ok((vault, stores))
        });
        if current.is_none() {
            self.environment.unmount()?;
            let _ = std::fs::remove_dir(self.place.mount_point());
        }
        let (vault, stores) = read?;
        let readable = vault.unreadable == 0;
        let originals = match self.find_originals()? {
            Some(path) if self.state().wiping.is_none() => {
                observer.stage(Stage::VerifySource, self.source_totals());
                super::caches::drop(&path);
                let tree = local(&path)?.from_the_disk();
                Some(self.compare(Side::Source, &tree, self.source_ledger()?)?)
            }
            _ => None,
        };
        Ok(Verification { phase, vault, readable, in_use, stores, originals })
    }
}
