//! Where the migrations of a vault stand. Reads only, and takes no lock: whatever runs meanwhile
//! is not disturbed.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use super::error::{Error, Result};
use super::journal::{Journal, MigrationId, VaultId};
use super::operations::{Hands, Unwatched, sibling};
use super::place::{Place, is_at, migrations};
use super::record::{Begun, Phase, State, StoredPath, SwitchMode};
use crate::crypto::MigrationKey;

/// What is known of a migration without a key.
#[derive(Clone, Debug, Serialize)]
pub struct Brief {
    /// The migration.
    pub id: String,
    /// Where it stands, by an unauthenticated word.
    pub phase: Phase,
    /// Whether nothing has to follow.
    pub finished: bool,
}

/// What is known of a migration with the vault's key.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// The migration.
    pub id: String,
    /// Where it stands.
    pub phase: Phase,
    /// Whether nothing has to follow.
    pub finished: bool,
    /// The directory that it moves.
    pub source: StoredPath,
    /// Where the app finds it in the vault.
    pub mount_point: StoredPath,
    /// How the app is brought there.
    pub mode: SwitchMode,
    /// The configuration files that it edits.
    pub configs: Vec<StoredPath>,
    /// Regular files of the source, when it was read.
    pub files: Option<u64>,
    /// Their bytes.
    pub bytes: Option<u64>,
    /// The snapshot.
    pub snapshot: Option<StoredPath>,
    /// Whether the copy was verified through a fresh mount.
    pub verified: bool,
    /// Where the originals are now.
    pub originals: Option<StoredPath>,
    /// Whether the originals are all there.
    pub originals_complete: bool,
    /// Where they are being, or were, wiped.
    pub wiped: Option<StoredPath>,
    /// Whether it is on record that a wipe took all of them.
    #[serde(skip)]
    emptied: bool,
}

/// Every migration of a vault, the oldest first, without a key.
///
/// # Errors
/// When they cannot be read.
pub fn brief(vault: &Path) -> Result<Vec<Brief>> {
    let known = migrations(vault)?;
    Ok(known
        .into_iter()
        .map(|(id, header)| Brief {
            id: id.to_string(),
            phase: header.phase,
            finished: header.phase.is_finished(),
        })
        .collect())
}

/// Every migration of a vault, the oldest first.
///
/// # Errors
/// When a journal cannot be read or does not authenticate.
pub fn statuses(vault: &Path, id: VaultId, key: &MigrationKey) -> Result<Vec<Status>> {
    migrations(vault)?.into_iter().map(|(migration, _)| status(vault, id, key, migration)).collect()
}

fn status(vault: &Path, vault_id: VaultId, key: &MigrationKey, id: MigrationId) -> Result<Status> {
    let place = Place::new(vault, id);
    let hands = Hands::new(Arc::new(Unwatched));
    let journal = Journal::open(place.open()?, place.directory(), hands, key, (vault_id, id))?;
    Status::new(journal.state(), id)
}

impl Status {
    /// Of a migration in this state.
    ///
    /// # Errors
    /// When it cannot be told where the originals are.
    pub fn new(state: &State, id: MigrationId) -> Result<Self> {
        let begun = &state.begun;
        let originals = find(begun, id)?;
        Ok(Self {
            id: id.to_string(),
            phase: state.phase,
            finished: state.phase.is_finished(),
            source: begun.source.clone(),
            mount_point: begun.mount_point.clone(),
            mode: begun.mode,
            configs: begun.configs.clone(),
            files: state.source.as_ref().map(|ledger| ledger.files),
            bytes: state.source.as_ref().map(|ledger| ledger.bytes),
            snapshot: state.snapshot.as_ref().map(|snapshot| snapshot.path.clone()),
            verified: state.verified,
            originals_complete: originals.is_some() && state.wiping.is_none(),
            originals: originals.map(StoredPath),
            wiped: state.wiping.clone(),
            emptied: state.emptied,
        })
    }

    /// The state in a sentence.
    pub fn describe(&self) -> &'static str {
        match self.phase {
            Phase::Begun => "begun; nothing of the source has been changed",
            Phase::Surveyed => "the source was read; nothing of it has been changed",
            Phase::Snapshotted => "the snapshot exists; nothing of the source has been changed",
            Phase::Copied => "the copy is complete, not yet verified; the source is unchanged",
            Phase::Verified => "the copy is verified; the source is unchanged",
            Phase::Switching => "the app is being switched over; the originals are complete",
            Phase::Switched => {
                "the app is switched over, not yet known to be well; the originals \
                                are complete"
            }
            Phase::Accepted => {
                "the app uses the vault; the originals are complete and wait for \
                                the wipe"
            }
            Phase::Wiping => "the originals are being wiped; vault and snapshot are complete",
            Phase::Finished if self.emptied => "finished; the originals are wiped",
            Phase::Finished => "finished; the originals are gone, and no wipe of all is on record",
            Phase::Kept => "finished; the originals are aside",
            Phase::RollingBack => "being rolled back",
            Phase::RolledBack => "rolled back; everything is as it was before",
        }
    }

    /// The subcommands that can follow.
    pub fn next(&self) -> &'static [&'static str] {
        match self.phase {
            Phase::Begun
            | Phase::Surveyed
            | Phase::Snapshotted
            | Phase::Copied
            | Phase::Verified
            | Phase::Switching
            | Phase::Switched
            | Phase::Wiping => &["resume", "rollback"],
            Phase::Accepted | Phase::Kept => &["wipe", "rollback"],
            Phase::Finished => &["rollback"],
            Phase::RollingBack => &["rollback"],
            Phase::RolledBack => &[],
        }
    }
}

/// Where the originals are: at their path, aside, or away.
pub(super) fn find(begun: &Begun, id: MigrationId) -> Result<Option<PathBuf>> {
    let source = begun.source.as_path();
    for path in [source.to_owned(), aside(source, id), away(source, id)] {
        if is_at(begun.identity, &path)? {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// Where the originals of a migration go when they leave their path.
pub(super) fn aside(source: &Path, id: MigrationId) -> PathBuf {
    sibling(source, "", &format!(".originals-{id}"))
}

/// Where a tree is for a moment while two names are exchanged in three steps.
pub(super) fn away(source: &Path, id: MigrationId) -> PathBuf {
    sibling(source, ".", &format!(".leftover-{id}"))
}

/// The newest migration that is not finished, or the newest of all.
///
/// # Errors
/// [`Error::NoMigration`].
pub fn newest(vault: &Path) -> Result<MigrationId> {
    super::engine::find(vault, None)
        .map_err(|_: Error| Error::NoMigration { vault: vault.to_owned() })
}
