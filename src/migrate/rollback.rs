//! The way back: by rename while the originals exist, else from the snapshot or from the vault.
//! Nothing is given up on the way: the vault and the snapshot stay, and what comes back is
//! complete and verified before it takes its place.

use std::path::{Path, PathBuf};

use super::config::{self, TakenBack};
use super::engine::{Engine, local};
use super::environment::MountAccess;
use super::error::{Error, Result};
use super::ledger::{self, LedgerReader};
use super::operations::sibling;
use super::place::{identify, is_at};
use super::record::{LedgerReference, Origin, Phase, Record, Restored, StoredPath, SwitchMode};
use super::survey::{Stage, TreeProgress};
use super::switch::present;
use super::watched::WatchedTree;
use super::wipe::Wipe;
use crate::tree::{
    self, Comparison, CopyOptions, Difference, EntryKind, Mismatch, TreePath, TreeReader,
};

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
    /// Where files were left that are neither in the vault nor excluded.
    pub leftover: Option<StoredPath>,
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
            .and_then(|ledger| self.compare(&local(&mount.content)?, ledger));
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
        let compared = local(&mount.content)
            .and_then(|vault| self.compare(&vault, self.source_ledger()?))
            .map(|found| self.leave_out_expected(&mount.content, found));
        if current.is_none() {
            self.environment.unmount()?;
        }
        compared
    }

    /// Drops differences that are none of the user's data.
    fn leave_out_expected(&self, vault: &Path, mut found: Comparison) -> Comparison {
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
                    && std::fs::read(vault.join(inside.as_path()))
                        .is_ok_and(|bytes| bytes == edit.edited.0)
            })
        };
        found.differences.retain(|Difference { path, mismatch }| {
            let expected = match mismatch {
                Mismatch::Modified { .. } => true,
                Mismatch::Size { .. } | Mismatch::Content { .. } => ours(path),
                Mismatch::OnlyRight { .. } => is_scratch_of_store(path),
                _ => false,
            };
            !expected
        });
        found.total_differences = u64::try_from(found.differences.len()).unwrap_or(u64::MAX);
        found
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
        let leftover = match origin {
            Origin::Originals => {
                self.put_originals_back()?;
                None
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
        let source = self.state().begun.source.clone();
        Ok(RolledBack { origin, source, edited_since, leftover: leftover.map(StoredPath) })
    }

    /// Brings the originals from where they are aside.
    fn put_originals_back(&self) -> Result<()> {
        let source = self.state().begun.source.as_path();
        let originals = self.originals()?;
        if originals != source {
            self.put(&originals, source)?;
        }
        // What stood in their place.
        if self.state().begun.mode != SwitchMode::Repoint {
            self.discard_stand_in(&self.aside())?;
        }
        // What a rollback from elsewhere had begun to make: a copy in plain that nobody needs.
        let target = self.restore_target();
        if present(&target)? && !is_at(self.state().begun.identity, &target)? {
            self.remove_tree(&target)?;
        }
        if self.state().source.is_some() {
            let changed = self.source_changes()?;
            if changed.count > 0 {
                self.environment.observer.note(&format!(
                    "{} entries of the originals were changed since they were read",
                    changed.count
                ));
            }
        }
        Ok(())
    }

    /// Brings `from` to the source's path; what is there takes its place, if anything is.
    fn put(&self, from: &Path, source: &Path) -> Result<()> {
        let hands = &self.environment.hands;
        if !present(source)? {
            return hands.rename(from, source);
        }
        // A stand-in directory is immutable under its mount.
        if source.symlink_metadata().is_ok_and(|stat| stat.is_dir()) {
            hands.set_immutable(source, false)?;
        }
        match hands.exchange(from, source) {
            Err(Error::Io { source: error, .. })
                if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOSYS)) =>
            {
                let away = sibling(source, ".", &format!(".leftover-{}", self.journal.id()));
                hands.rename(source, &away)?;
                hands.rename(from, source)?;
                hands.rename(&away, from)
            }
            outcome => outcome,
        }
    }

    /// Where the tree that comes back is made.
    fn restore_target(&self) -> PathBuf {
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
            if is_at(self.state().begun.identity, &target)? {
                return Err(Error::BackAlready { origin });
            }
            self.remove_tree(&target)?;
        }
        self.environment.hands.make_directory(&target, 0o700)?;
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
        let written = local(&mount.content).and_then(|vault| {
            let reference =
                self.with_survey(true, |options| ledger::write(&ledger, key, &vault, options))?;
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
                if present(&path)? {
                    config::take_back_at(&environment.hands, edit, &path)?;
                }
            }
        }
        Ok(reference)
    }

    fn copy_back(&self, vault: &dyn TreeReader, target: &Path) -> Result<()> {
        let environment = &self.environment;
        let tree = local(target)?;
        let tree = WatchedTree { tree: &tree, hands: &environment.hands };
        let exclude = |path: &TreePath, kind: EntryKind| self.excludes(path, kind);
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
        let found = self.compare(&local(target)?, ledger)?;
        if found.is_equal() {
            return Ok(());
        }
        Err(Error::Mismatch { of: "what came back", found: Box::new(found) })
    }

    /// Brings the restored tree to the source's path. What is left there of the originals is
    /// sorted out: what is excluded from the migration comes along, what was verified goes, what
    /// is neither stays beside it, and its path is returned.
    fn put_restored_in_place(&self) -> Result<Option<PathBuf>> {
        let Some(restored) = self.state().restored.clone() else {
            return Err(Error::State { what: "nothing was restored", phase: self.state().phase });
        };
        let begun = &self.state().begun;
        let (source, target) = (begun.source.as_path(), restored.path.as_path());
        if !is_at(restored.identity, source)? {
            self.put(target, source)?;
        }
        // Where the originals were renamed aside, a stand-in has now the target's name.
        if !is_at(begun.identity, target)? {
            self.discard_stand_in(target)?;
        }
        for rest in [target.to_owned(), self.aside()] {
            if is_at(begun.identity, &rest)? {
                return self.sort_out(&rest, source);
            }
        }
        Ok(None)
    }

    fn sort_out(&self, rest: &Path, source: &Path) -> Result<Option<PathBuf>> {
        self.bring_excluded(rest, source)?;
        let wipe = Wipe {
            hands: &self.environment.hands,
            observer: self.environment.observer,
            root: rest.to_owned(),
            // Its content is back as plaintext anyway: removing the names is enough.
            wipeability: super::disk::Wipeability::Never,
            sink: &mut |_, _| {},
        };
        wipe.run(&|| self.source_ledger())?;
        Ok(present(rest)?.then(|| rest.to_owned()))
    }

    /// Moves what the migration left out from the rest of the originals into the restored tree.
    fn bring_excluded(&self, rest: &Path, source: &Path) -> Result<()> {
        let left = local(rest)?;
        let excluded = std::sync::Mutex::new(Vec::new());
        let exclude = |path: &TreePath, kind: EntryKind| {
            let out = self.patterns.matches(path, kind);
            if out && let Ok(mut excluded) = excluded.lock() {
                excluded.push(path.clone());
            }
            out
        };
        for entry in left.walk(&exclude)? {
            entry?;
        }
        for path in excluded.into_inner().unwrap_or_default() {
            let to = source.join(path.as_path());
            let parent = super::operations::parent_of(&to);
            if parent.is_dir() && !present(&to)? {
                match self.environment.hands.rename(&rest.join(path.as_path()), &to) {
                    // Something is mounted there.
                    Err(Error::Io { path, source, .. })
                        if source.kind() == std::io::ErrorKind::ResourceBusy =>
                    {
                        self.environment.observer.note(&format!(
                            "something is mounted on {}, which therefore stays there",
                            path.display()
                        ));
                    }
                    outcome => outcome?,
                }
            }
        }
        Ok(())
    }

    /// Removes a tree that this migration made.
    fn remove_tree(&self, root: &Path) -> Result<()> {
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
