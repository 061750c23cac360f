//! Owns migrations: plan, journal, execution, verification, the switch, the wipe and the way
//! back. It must know nothing of FUSE or of the vault's insides: a [`Mounter`] and a vault's
//! `environment` are given to it.

mod account;
mod blocker;
mod caches;
mod command;
mod config;
#[cfg(test)]
mod crash_tests;
mod disk;
#[cfg(test)]
mod double;
mod engine;
mod environment;
mod error;
mod finish;
mod inventory;
mod journal;
mod ledger;
mod operations;
mod overwrite;
mod place;
mod plan;
mod put_back;
mod record;
mod rollback;
mod sealed;
mod snapshot;
mod status;
mod steps;
mod survey;
mod switch;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod vanish_tests;
mod verify;
mod watched;
mod wipe;

pub use account::{Account, Fate, FateSink, Tally};
pub use blocker::Blocker;
pub use config::PlannedEdit;
pub use disk::{Disk, Wipeability};
pub use engine::Engine;
pub use environment::{BoxError, Environment, Mount, MountAccess, Mounter, VaultAccess};
pub use error::{Error, Result};
pub use finish::WipeOptions;
pub use inventory::{Inventory, Remarks, Symlinks};
pub use journal::{Header, IdError, Journal, MigrationId, VaultId, peek};
pub use operations::unprotect;
pub use operations::{Change, Hands, Operation, Unwatched, Watch};
pub use place::migrations;
pub use plan::{Plan, Request, Space, plan};
pub use record::{
    Begun, Commands, Edit, Identity, LedgerReference, Origin, Phase, Reading, Record, Restored,
    SetValue, Snapshot, State, StoredPath, SwitchMode, Switching,
};
pub use rollback::{From, RollbackOptions, RolledBack};
pub use status::{Brief, Status, brief, newest, statuses};
pub use survey::{Observer, Stage, Totals, Unobserved};
pub use verify::{StoreReport, Verification};
