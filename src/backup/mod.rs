//! Owns backups: create, restore, verify, retention, schedule. Names neither FUSE nor the vault's insides.

mod base;
mod catalog;
mod chain;
mod create;
mod details;
mod error;
mod filter;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod glance;
mod live;
mod look;
mod missed;
mod name;
mod place;
mod restore;
mod retention;
mod sealed;
mod sidecar;
mod verify;

pub use catalog::{Backup, Catalog, Lock};
pub use chain::{Chain, Known, Restored, Selected, Selection};
pub use create::{BaseBackup, CreateRequest, Created, Source, create, find_base, make_output};
pub use details::{Component, Details};
pub use error::{Error, Result};
pub use filter::{Filter, Terms};
pub use live::{InUse, LiveTree, in_use, store_of};
pub use look::scan_listed;
pub use missed::Watched;
pub use name::{BackupName, name_of, sidecar_path};
pub use place::{Extent, Place, Placed, Recovered, recover, unfinished};
pub use restore::{
    Replaced, RestoreOutcome, RestoreRequest, StoreCheck, Target, check_stores,
    refuse_to_replace_backups, restore,
};
pub use retention::{Decision, Policy, Reason, decide};
pub use sealed::{SEALED_SECTION, Sensitive, has_sealed_files, has_sensitive};
pub use sidecar::{ComponentNote, Sidecar};
pub use verify::{test_restore, verify_checksum, verify_whole};

#[cfg(test)]
mod tests;
