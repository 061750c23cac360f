//! The way back: by rename while the originals exist, else from the snapshot or from the vault.
//! Nothing is given up on the way: the vault and the snapshot stay, and what comes back is
//! complete and verified before it takes its place.

use std::path::{Path, PathBuf};

use super::config::{self, TakenBack};
use super::engine::{Engine, Side, local};
use super::environment::{Mount, MountAccess};
use super::error::{Error, Result};
use super::ledger::{self, LedgerReader};
use super::operations::sibling;
use super::place::{identify, is_at};
use super::put_back::Rest;
use super::record::{LedgerReference, Origin, Phase, Record, Restored, StoredPath};
use super::survey::{Stage, TreeProgress};
use super::switch::present;
use super::watched::WatchedTree;
use crate::tree::{self, Comparison, CopyOptions, EntryKind, Mismatch, TreePath, TreeReader};

/// What a rollback may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RollbackOptions {
    /// Where to take the data from, where it matters.
    pub from: Option<From>,
    /// What was written to the vault since the migration may be lost.
    pub discard_changes: bool,
}

/// Which state of the data comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// The vault's present content.
    Vault,
    /// The state at the migration: the originals, or the snapshot.
    Snapshot,
}

/// What a rollback left behind.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct RolledBack {
    /// Where the data came from.
    pub origin: Origin,
    /// Where they are now.
    pub source: StoredPath,
    /// Configuration files from which only our own edits were taken, since somebody edited them.
    pub edited_since: Vec<StoredPath>,
    /// Where files of the originals were left that did not come back: they were changed after they
    /// were verified, or something else has their place now.
    pub leftover: Option<StoredPath>,
    /// Where the complete originals are aside, where the data came from elsewhere.
    pub originals: Option<StoredPath>,
    /// Where something is now that somebody had put in the data's place.
    pub found: Vec<StoredPath>,
}

impl Engine<'_> {
    /// Takes everything back; what is back already stays so.
    ///
    /// # Errors
    /// [`Error::VaultChanged`] when something was written to the vault since the migration and
    /// `options` do not say what shall become of it; [`Error::BackAlready`] when they name another
    /// state than the one that is back in its place. Whatever fails, another call goes on.
    pub fn roll_back(&mut self, options: RollbackOptions) -> Result<RolledBack> {
        if self.state().phase == Phase::RolledBack {
            return Ok(RolledBack {
                origin: self.state().origin.unwrap_or(Origin::Originals),
                source: self.state().begun.source.clone(),
                edited_since: Vec::new(),
                leftover: None,
                originals: None,
                found: Vec::new(),
            });
        }
        let mut origin = self.choose_origin(options)?;
        let mounted = self.environment.current_mount()?.is_some();
        // Refused while the app runs, before anything is recorded or changed.
        self.environment.unmount()?;
        if mounted {
            // The app may have written while the vault was compared.
            origin = self.choose_origin(options)?;
        }
        if origin == Origin::Vault && self.restored_is_stale()? {
            self.journal.append(Record::RollingBack(origin))?;
        }
        // Nothing is taken back by halves for a file that is in the way.
        for edit in self.state().switching.iter().flat_map(|switching| &switching.edits) {
            if edit.inside.is_none() {
                config::try_take_back(edit)?;
            }
        }
        self.begin_rollback(origin)?;
        let discards = options.discard_changes && options.from == Some(From::Snapshot);
        if discards && !self.state().discards {
            self.journal.append(Record::Discarding)?;
        }
        self.roll_back_to(origin)
    }

    /// Where the data shall come from. A rollback that was interrupted has an answer; but what was
    /// written to the vault since is given up for no answer that did not know of it.
    fn choose_origin(&self, options: RollbackOptions) -> Result<Origin> {
        let state = self.state();
        let begun = state.origin.filter(|_| state.phase == Phase::RollingBack);
        if let Some(origin) = begun
            && self.restored_is_in_place()?
        {
            let wants_vault = options.from.map(|from| from == From::Vault);
            return match wants_vault.is_none_or(|wanted| wanted == (origin == Origin::Vault)) {
                true => Ok(origin),
                false => Err(Error::BackAlready { origin }),
            };
        }
        if let (Some(origin), None) = (begun, options.from)
            && (origin == Origin::Vault || state.discards)
        {
            return Ok(origin);
        }
        let intact = state.wiping.is_none() && self.find_originals()?.is_some();
        let past = if intact { Origin::Originals } else { Origin::Snapshot };
        if state.switching.is_none() {
            return Ok(past);
        }
        match (options.from, options.discard_changes) {
            (Some(From::Vault), _) => return Ok(Origin::Vault),
            (Some(From::Snapshot), true) => return Ok(past),
            _ => {}
        }
        let changed = self.vault_changes()?;
        if !changed.is_equal() {
            return Err(Error::VaultChanged { found: Box::new(changed) });
        }
        if past == Origin::Snapshot && !self.has_snapshot() {
            return Ok(Origin::Vault);
        }
        Ok(past)
    }

    /// Whether the tree that comes back has taken its place already.
    fn restored_is_in_place(&self) -> Result<bool> {
        let state = self.state();
        match &state.restored {
            Some(restored) => is_at(restored.identity, state.begun.source.as_path()),
            None => Ok(false),
        }
    }

    /// Whether the vault was written to since the tree that comes back was made from it.
    fn restored_is_stale(&self) -> Result<bool> {
        let state = self.state();
        let (Some(Origin::Vault), Some(restored)) = (state.origin, &state.restored) else {
            return Ok(false);
        };
        if self.restored_is_in_place()? {
            return Ok(false);
        }
        let environment = &self.environment;
        environment.observer.stage(Stage::Changes, None);
        let mount = environment.mount(&self.private_mount_point()?, MountAccess::ReadOnly)?;
        let key = environment.vault.migration_key();
        let compared = LedgerReader::open(&self.place.restored_ledger(), key, &restored.ledger)
            .and_then(|ledger| self.compare(Side::Vault, &environment.open(&mount)?, ledger));
        environment.unmount()?;
        Ok(!compared?.is_equal())
    }

    fn begin_rollback(&mut self, origin: Origin) -> Result<()> {
        if self.state().phase != Phase::RollingBack || self.state().origin != Some(origin) {
            self.journal.append(Record::RollingBack(origin))?;
        }
        Ok(())
    }

    /// What in the vault is not what was migrated: content, names, permissions; but not the times
    /// that move when an app merely opens its stores.
    ///
    /// # Errors
    /// When vault or ledger cannot be read.
    pub fn vault_changes(&self) -> Result<Comparison> {
        self.environment.observer.stage(Stage::Changes, self.source_totals());
        let current = self.environment.current_mount()?;
        let mount = match &current {
            Some(mount) => mount.clone(),
            None => self.environment.mount(&self.private_mount_point()?, MountAccess::ReadOnly)?,
        };
        let compared = self.compare_with_migrated(&mount);
        if current.is_none() {
            self.environment.unmount()?;
        }
        compared
    }

    /// Compares a mounted vault with the source's ledger; differences that are none of the user's
    /// data don't count.
    fn compare_with_migrated(&self, mount: &Mount) -> Result<Comparison> {
        let edits: Vec<_> = self
            .state()
            .switching
            .iter()
            .flat_map(|switching| &switching.edits)
            .filter_map(|edit| Some((edit.inside.as_ref()?, edit)))
            .collect();
        let ours = |path: &TreePath| {
            edits.iter().any(|(inside, edit)| {
                *inside == path
                    && std::fs::read(mount.content.join(inside.as_path()))
                        .is_ok_and(|bytes| bytes == edit.edited.0)
            })
        };
        let expected = |path: &TreePath, mismatch: &Mismatch| match mismatch {
            Mismatch::Modified { .. } => true,
            Mismatch::Size { .. } | Mismatch::Content { .. } => ours(path),
            Mismatch::OnlyRight { .. } => is_scratch_of_store(path),
            _ => false,
        };
        let ledger = self.source_ledger()?;
        self.compare_overlooking(
            Side::Vault,
            &self.environment.open(mount)?,
            ledger,
            None,
            &expected,
        )
    }

    pub(super) fn roll_back_to(&mut self, origin: Origin) -> Result<RolledBack> {
        self.begin_rollback(origin)?;
        if origin != Origin::Originals && self.state().restored.is_none() {
            self.restore(origin)?;
        }
        self.environment.unmount()?;
        self.environment.observer.stage(Stage::SwitchBack, None);
        let mut edited_since = Vec::new();
        for edit in self.state().switching.iter().flat_map(|switching| &switching.edits) {
            if edit.inside.is_some() {
                continue;
            }
            match config::take_back(&self.environment.hands, edit)? {
                TakenBack::Whole => {}
                TakenBack::OwnEdits => edited_since.push(edit.file.clone()),
                TakenBack::Gone => self.environment.observer.note(&format!(
                    "{} was removed since, and is left so; the snapshot has it as it was",
                    edit.file.as_path().display()
                )),
            }
        }
        let rest = match origin {
            Origin::Originals => {
                self.put_originals_back()?;
                Rest::default()
            }
            Origin::Snapshot | Origin::Vault => self.put_restored_in_place()?,
        };
        self.remove_mount_point()?;
        self.journal.append(Record::RolledBack)?;
        self.tidy()?;
        if self.state().stopped
            && let Err(error) = self.start_app()
        {
            self.environment.observer.note(&format!("the data are back, but {error}"));
        }
        Ok(RolledBack {
            origin,
            source: self.state().begun.source.clone(),
            edited_since,
            leftover: rest.leftover.map(StoredPath),
            originals: rest.originals.map(StoredPath),
            found: self.found()?.into_iter().map(StoredPath).collect(),
        })
    }

    /// Where the tree that comes back is made.
    pub(super) fn restore_target(&self) -> PathBuf {
        sibling(
            self.state().begun.source.as_path(),
            ".",
            &format!(".restore-{}", self.journal.id()),
        )
    }

    /// Makes the tree that comes back, beside its place, and verifies it.
    fn restore(&mut self, origin: Origin) -> Result<()> {
        let target = self.restore_target();
        // The app must not write while its data are read; and a fresh mount reads from the disk.
        self.environment.unmount()?;
        if present(&target)? {
            // What is left of the originals may bear this name, where another tree took their place.
            // A directory made here may have got the inode of originals that are gone.
            let ours = match self.state().restoring {
                Some(identity) => is_at(identity, &target)?,
                None => false,
            };
            if !ours && is_at(self.state().begun.identity, &target)? {
                return Err(Error::BackAlready { origin });
            }
            self.remove_tree(&target)?;
        }
        self.environment.hands.make_directory(&target, 0o700)?;
        let made = identify(&target).map_err(|error| Error::io("inspect", &target, error))?;
        self.journal.append(Record::Restoring(made))?;
        let reference = match origin {
            Origin::Vault => self.restore_from_vault(&target)?,
            Origin::Snapshot | Origin::Originals => {
                self.restore_snapshot(&target)?;
                self.verify_restored(&target, self.source_ledger()?)?;
                self.source_reference()?
            }
        };
        let identity = identify(&target).map_err(|error| Error::io("inspect", &target, error))?;
        let restored = Restored { path: StoredPath(target), identity, ledger: reference };
        self.journal.append(Record::Restored(restored))
    }

    fn restore_from_vault(&self, target: &Path) -> Result<LedgerReference> {
        let environment = &self.environment;
        super::caches::drop(environment.vault.directory());
        let mount = environment.mount(&self.private_mount_point()?, MountAccess::ReadOnly)?;
        environment.observer.stage(Stage::Restore, None);
        let key = environment.vault.migration_key();
        let ledger = self.place.restored_ledger();
        let written = environment.open(&mount).and_then(|vault| {
            let reference = self.with_survey(Side::Vault, true, |options| {
                ledger::write(&ledger, key, &vault, options)
            })?;
            self.copy_back(&vault, target)?;
            Ok(reference)
        });
        environment.unmount()?;
        let reference = written?;
        self.verify_restored(target, LedgerReader::open(&ledger, key, &reference)?)?;
        // Files of the configuration that lie in the source were edited in the vault.
        for edit in self.state().switching.iter().flat_map(|switching| &switching.edits) {
            if let Some(inside) = &edit.inside {
                let path = target.join(inside.as_path());
                if !present(&path)? {
                    continue;
                }
                match config::take_back_at(&environment.hands, edit, &path) {
                    // It comes back as it is: what somebody wrote there is theirs to keep.
                    Err(Error::ConfigConflict { keys, .. }) => {
                        environment.observer.note(&format!(
                            "{inside} was edited by somebody else since, at {}, and comes back as \
                             it is",
                            keys.join(", ")
                        ));
                    }
                    outcome => {
                        outcome?;
                    }
                }
            }
        }
        Ok(reference)
    }

    fn copy_back(&self, vault: &dyn TreeReader, target: &Path) -> Result<()> {
        let environment = &self.environment;
        let tree = local(target)?;
        let tree = WatchedTree { tree: &tree, hands: &environment.hands };
        let exclude = |path: &TreePath, kind: EntryKind| self.excludes(Side::Vault, path, kind);
        let options = CopyOptions {
            exclude: &exclude,
            jobs: Some(environment.threads()),
            cancelled: environment.observer.cancelled(),
            progress: &TreeProgress(environment.observer),
            ..CopyOptions::default()
        };
        tree::copy(vault, &tree, &options, &|_| Ok(()))?;
        Ok(tree::TreeWriter::sync(&tree)?)
    }

    fn verify_restored(&self, target: &Path, ledger: LedgerReader) -> Result<()> {
        super::caches::drop(target);
        self.environment.observer.stage(Stage::VerifyRestored, self.source_totals());
        let found = self.compare(Side::Vault, &local(target)?, ledger)?;
        if found.is_equal() {
            return Ok(());
        }
        Err(Error::Mismatch { of: "what came back", found: Box::new(found) })
    }

    /// Removes a tree that this migration made.
    pub(super) fn remove_tree(&self, root: &Path) -> Result<()> {
        let tree = local(root)?;
        let tree = WatchedTree { tree: &tree, hands: &self.environment.hands };
        tree::TreeWriter::remove(&tree, &TreePath::root())?;
        self.environment.hands.remove_directory(root)
    }
}

/// Whether a new file is one that a store's library makes and needs at no other time: SQLite's
/// shared memory and its empty log.
fn is_scratch_of_store(path: &TreePath) -> bool {
    path.name().is_some_and(|name| name.ends_with(b"-shm"))
}
