//! Drives a migration from where its journal says it stands.

use std::io;
use std::path::{Path, PathBuf};

use super::environment::{Environment, Mount, MountAccess};
use super::error::{Error, Result};
use super::journal::{Journal, MigrationId};
use super::operations::exists;
use super::place::{
    self, Place, SourceLock, VaultLock, leave_marker, migrations, refuse_covered, remove_marker,
};
use super::plan::{Plan, Request};
use super::record::{Begun, Phase, Record, State, SwitchMode};
use super::survey::SurveyOptions;
use super::verify::StoreReport;
use crate::tree::{EntryKind, LocalTree, Patterns, TreePath, TreeReader as _, exclude_nothing};

/// Whose tree is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// The originals: what the user excludes stays out of sight.
    Source,
    /// The vault, or what comes back from it: all of it counts. What an app writes there under an
    /// excluded name has no other place.
    Vault,
}

/// One migration under way, with the right to work on it.
pub struct Engine<'a> {
    pub(super) environment: Environment<'a>,
    pub(super) place: Place,
    pub(super) journal: Journal,
    pub(super) patterns: Patterns,
    pub(super) store_reports: Vec<StoreReport>,
    _vault_lock: VaultLock,
    _source_lock: Option<SourceLock>,
}

impl<'a> Engine<'a> {
    /// Begins the migration that `plan` describes. From here on it is journaled.
    ///
    /// # Errors
    /// [`Error::Blocked`] when something stands in the way, [`Error::Unfinished`] when the source
    /// or the vault is part of an unfinished migration, [`Error::VaultNotEmpty`].
    pub fn begin(environment: Environment<'a>, plan: &Plan) -> Result<Self> {
        if !plan.blockers.is_empty() {
            return Err(Error::Blocked(plan.blockers.clone()));
        }
        let request = &plan.request;
        let vault = environment.vault.directory().to_owned();
        let vault_lock = VaultLock::take(&vault, &environment.hands)?;
        let known = migrations(&vault)?;
        if let Some((id, _)) = known.iter().find(|(_, header)| !header.phase.is_finished()) {
            return Err(Error::Unfinished {
                directory: request.source.clone(),
                vault,
                id: id.to_string(),
                marker: None,
            });
        }
        let source_lock = SourceLock::take(&request.source)?;
        refuse_covered(&request.source)?;
        let identity = place::identify(&request.source)
            .map_err(|error| Error::io("inspect", &request.source, error))?;
        let next = known.iter().map(|(id, _)| id.number).max().unwrap_or(0).saturating_add(1);
        let id = MigrationId::new(next);
        let place = Place::new(&vault, id);
        place.create(&environment.hands)?;
        if let Err(error) = refuse_used_vault(&environment, &place) {
            // Nothing was begun.
            let _ = std::fs::remove_dir(place.mount_point());
            let _ = std::fs::remove_dir(place.directory());
            return Err(error);
        }
        let made = |path: &Path| {
            exists(path).map(|there| !there).map_err(|error| Error::io("inspect", path, error))
        };
        let begun = Begun {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            source: request.source.as_path().into(),
            identity,
            names: request.names.iter().map(|name| name.as_path().into()).collect(),
            mount_point: request.mount_point.as_path().into(),
            makes_mount_point: made(&request.mount_point)?,
            mode: request.mode,
            exclude: request.exclude.clone(),
            configs: request.configs.iter().map(|path| path.as_path().into()).collect(),
            sets: request.sets.clone(),
            reading: request.reading.clone(),
            keep_originals: request.keep_originals,
            wipe_agreed: request.wipe_agreed,
            accept_damage: request.accept_damage,
            commands: request.commands.clone(),
        };
        // First the marker: one without a journal is of no migration, but a journal without its
        // marker would let a second run begin.
        if !leave_marker(&environment.hands, &request.source, &vault, id)? {
            environment.observer.note(
                "the directory that holds the source cannot be written, so no marker there keeps \
                 a second migration of it into another vault from being begun",
            );
        }
        let journal = Journal::create(
            place.open()?,
            place.directory(),
            environment.hands.clone(),
            environment.vault.migration_key(),
            (environment.vault.id(), id),
            begun,
        )?;
        let patterns = Patterns::new(&request.exclude).map_err(Error::Pattern)?;
        Ok(Self {
            environment,
            place,
            journal,
            patterns,
            store_reports: Vec::new(),
            _vault_lock: vault_lock,
            _source_lock: Some(source_lock),
        })
    }

    /// Takes up the newest migration of the vault, or the one with this ID.
    ///
    /// # Errors
    /// [`Error::NoMigration`], [`Error::Running`], [`Error::JournalDamaged`].
    pub fn open(environment: Environment<'a>, id: Option<MigrationId>) -> Result<Self> {
        let vault = environment.vault.directory().to_owned();
        let vault_lock = VaultLock::take(&vault, &environment.hands)?;
        let id = find(&vault, id)?;
        let place = Place::new(&vault, id);
        // What a killed run left of a check in memory.
        crate::stores::remove_leftovers();
        let journal = Journal::open(
            place.open()?,
            place.directory(),
            environment.hands.clone(),
            environment.vault.migration_key(),
            (environment.vault.id(), id),
        )?;
        let patterns = Patterns::new(&journal.state().begun.exclude).map_err(Error::Pattern)?;
        let mut engine = Self {
            environment,
            place,
            journal,
            patterns,
            store_reports: Vec::new(),
            _vault_lock: vault_lock,
            _source_lock: None,
        };
        if let Some(originals) = engine.find_originals()? {
            engine._source_lock = Some(SourceLock::take(&originals)?);
        }
        if engine.state().phase.is_finished() {
            // What an interruption after the last record left.
            engine.tidy()?;
        }
        Ok(engine)
    }

    /// The migration's ID.
    pub fn id(&self) -> MigrationId {
        self.journal.id()
    }

    /// Where it stands.
    pub fn state(&self) -> &State {
        self.journal.state()
    }

    /// Goes on until the app uses the vault and only the fate of the originals is open
    /// ([`Phase::Accepted`]), or the migration is over.
    ///
    /// # Errors
    /// Whatever keeps a step from being done. Before [`Phase::Switching`] nothing of the user's has
    /// been changed; from there on, the originals are still complete.
    pub fn advance(&mut self) -> Result<()> {
        self.restart_if_changed()?;
        loop {
            self.environment.observer.check()?;
            match self.state().phase {
                Phase::Begun => self.survey()?,
                Phase::Surveyed => self.snapshot()?,
                Phase::Snapshotted => self.copy()?,
                Phase::Copied => self.verify_copy()?,
                Phase::Verified | Phase::Switching => self.switch()?,
                Phase::Switched => self.accept()?,
                Phase::RollingBack => {
                    return Err(Error::State {
                        what: "it is being rolled back",
                        phase: Phase::RollingBack,
                    });
                }
                Phase::Accepted
                | Phase::Wiping
                | Phase::Finished
                | Phase::Kept
                | Phase::RolledBack => return Ok(()),
            }
        }
    }

    /// A source that was changed since it was read has to be read again, as long as nothing
    /// depends on it.
    fn restart_if_changed(&mut self) -> Result<()> {
        let phase = self.state().phase;
        if phase < Phase::Surveyed || phase > Phase::Verified {
            return Ok(());
        }
        let changed = self.source_changes()?;
        if changed.count > 0 {
            self.environment
                .observer
                .note("the source changed since it was read; reading it again");
            self.journal.append(Record::Restarted)?;
        }
        Ok(())
    }

    /// Where the originals are now: at their path, or aside. `None` when they are gone.
    ///
    /// # Errors
    /// When that cannot be told.
    pub fn find_originals(&self) -> Result<Option<PathBuf>> {
        super::status::find(&self.state().begun, self.journal.id())
    }

    /// The originals' path, which must be there.
    pub(super) fn originals(&self) -> Result<PathBuf> {
        self.find_originals()?.ok_or_else(|| Error::SourceGone {
            path: self.state().begun.source.as_path().to_owned(),
        })
    }

    /// Where the tree at the source's path is for a moment, on a filesystem that cannot exchange
    /// two names.
    pub(super) fn away(&self) -> PathBuf {
        super::status::away(self.state().begun.source.as_path(), self.journal.id())
    }

    /// Where the originals go when they leave their path.
    pub(super) fn aside(&self) -> PathBuf {
        super::status::aside(self.state().begun.source.as_path(), self.journal.id())
    }

    pub(super) fn remove_marker(&self) -> Result<()> {
        remove_marker(
            &self.environment.hands,
            self.state().begun.source.as_path(),
            self.journal.id(),
        )
    }

    /// What a walk leaves out: sockets, which are nothing without the process that listens, and of
    /// the source what the user named.
    pub(super) fn excludes(&self, side: Side, path: &TreePath, kind: EntryKind) -> bool {
        kind == EntryKind::Socket || (side == Side::Source && self.patterns.matches(path, kind))
    }

    /// Runs `work` with the options of a survey of that side.
    pub(super) fn with_survey<T>(
        &self,
        side: Side,
        hash: bool,
        work: impl FnOnce(&SurveyOptions<'_>) -> Result<T>,
    ) -> Result<T> {
        let exclude = |path: &TreePath, kind| self.excludes(side, path, kind);
        work(&SurveyOptions {
            jobs: self.environment.threads().get(),
            hash,
            exclude: &exclude,
            observer: self.environment.observer,
        })
    }

    /// The request as it was, for planning the edits of the switch.
    pub(super) fn request(&self) -> Request {
        let begun = &self.state().begun;
        Request {
            source: begun.source.as_path().to_owned(),
            names: begun.names.iter().map(|name| name.as_path().to_owned()).collect(),
            vault: self.environment.vault.directory().to_owned(),
            mount_point: begun.mount_point.as_path().to_owned(),
            mode: begun.mode,
            configs: begun.configs.iter().map(|path| path.as_path().to_owned()).collect(),
            sets: begun.sets.clone(),
            reading: begun.reading.clone(),
            exclude: begun.exclude.clone(),
            keep_originals: begun.keep_originals,
            wipe_agreed: begun.wipe_agreed,
            commands: begun.commands.clone(),
            accept_damage: begun.accept_damage,
        }
    }

    /// The migration's own mount point, made where it is missing.
    pub(super) fn private_mount_point(&self) -> Result<PathBuf> {
        private_mount_point(&self.environment, &self.place)
    }

    /// Where the copy goes in and is verified: the app's mount point, unless the source is still
    /// there.
    pub(super) fn working_mount_point(&self) -> Result<PathBuf> {
        let begun = &self.state().begun;
        if begun.mode == SwitchMode::InPlace {
            return self.private_mount_point();
        }
        self.make_mount_point()?;
        Ok(begun.mount_point.as_path().to_owned())
    }

    pub(super) fn make_mount_point(&self) -> Result<()> {
        let point = self.state().begun.mount_point.as_path();
        if exists(point).map_err(|error| Error::io("inspect", point, error))? {
            return Ok(());
        }
        self.environment.hands.make_directory(point, 0o700)
    }
}

fn private_mount_point(environment: &Environment<'_>, place: &Place) -> Result<PathBuf> {
    let path = place.mount_point().to_owned();
    match environment.hands.make_directory(&path, 0o700) {
        Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::AlreadyExists => {}
        outcome => outcome?,
    }
    Ok(path)
}

/// Refuses a vault in which something lies already. One that is in use stays mounted.
fn refuse_used_vault(environment: &Environment<'_>, place: &Place) -> Result<()> {
    let is_used = |mount: &Mount| -> Result<bool> {
        let tree = environment.open(mount)?;
        let mut entries = tree.walk(&exclude_nothing)?;
        // The root comes first; where it cannot be read, nobody knows what is in it.
        entries.next().transpose()?;
        Ok(entries.next().transpose()?.is_some())
    };
    let used = match environment.current_mount()? {
        Some(mount) => is_used(&mount)?,
        None => {
            let point = private_mount_point(environment, place)?;
            let mount = environment.mount(&point, MountAccess::ReadOnly)?;
            let used = is_used(&mount);
            environment.unmount()?;
            let _ = std::fs::remove_dir(&point);
            used?
        }
    };
    if used {
        return Err(Error::VaultNotEmpty { path: environment.vault.directory().to_owned() });
    }
    environment.unmount()
}

/// The ID asked for, or the newest.
pub(super) fn find(vault: &Path, id: Option<MigrationId>) -> Result<MigrationId> {
    let known = migrations(vault)?;
    let found = match id {
        Some(id) => known.iter().find(|(known, _)| *known == id),
        None => known.last(),
    };
    found.map(|(id, _)| *id).ok_or_else(|| Error::NoMigration { vault: vault.to_owned() })
}

/// Opens a tree for reading and writing.
pub(super) fn local(path: &Path) -> Result<LocalTree> {
    LocalTree::open(path).map_err(Error::from)
}
