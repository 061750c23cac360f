//! The end of a migration: the originals are wiped, or stay aside.

use std::path::PathBuf;

use super::account::{Account, FateSink};
use super::disk::Disk;
use super::engine::Engine;
use super::error::{Error, Result};
use super::place::is_at;
use super::record::{Phase, Record, StoredPath};
use super::survey::Stage;
use super::wipe::Wipe;

/// What a wipe may do without.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WipeOptions {
    /// The snapshot is gone, and a rollback to the state at the migration with it.
    pub without_snapshot: bool,
    /// The originals are gone already, by other means.
    pub originals_gone: bool,
}

impl Engine<'_> {
    /// Leaves the originals aside, out of the app's reach.
    ///
    /// # Errors
    /// [`Error::State`] before the app uses the vault.
    pub fn keep(&mut self) -> Result<PathBuf> {
        self.require(&[Phase::Accepted, Phase::Kept], "the app does not use the vault yet")?;
        let originals = self.originals()?;
        let aside = self.aside();
        if self.state().phase == Phase::Accepted {
            if originals != aside {
                self.environment.hands.rename(&originals, &aside)?;
            }
            self.journal.append(Record::Kept(StoredPath(aside.clone())))?;
        }
        self.tidy()?;
        Ok(aside)
    }

    /// How far the originals can be wiped where they are.
    ///
    /// # Errors
    /// When they are gone.
    pub fn wipe_outlook(&self) -> Result<Disk> {
        let root = self.wipe_root()?;
        let originals = match super::switch::present(&root)? {
            true => root.as_path(),
            false => super::operations::parent_of(&root),
        };
        Disk::under(originals).map_err(|error| Error::io("inspect", originals, error))
    }

    fn wipe_root(&self) -> Result<PathBuf> {
        match &self.state().wiping {
            Some(root) => Ok(root.as_path().to_owned()),
            None => self.originals(),
        }
    }

    /// Destroys the originals, or goes on with it.
    ///
    /// # Errors
    /// [`Error::State`] before the app uses the vault, [`Error::SourceChanged`] when the originals
    /// are no longer what was verified: then none is touched. [`Error::NotAllWiped`] when some had
    /// to be left. [`Error::SnapshotGone`] and [`Error::SourceGone`], unless `options` say that
    /// this is known.
    pub fn wipe(&mut self, options: WipeOptions, sink: FateSink<'_>) -> Result<Account> {
        let ready = [Phase::Accepted, Phase::Kept, Phase::Wiping];
        self.require(&ready, "the originals may not be wiped yet")?;
        if options.originals_gone && self.find_originals()?.is_none() {
            return self.end_without_wipe();
        }
        if self.state().phase != Phase::Wiping {
            let originals = self.originals()?;
            if !options.without_snapshot {
                self.refuse_missing_snapshot()?;
            }
            self.refuse_open_files(&originals)?;
            self.refuse_changed_source()?;
            self.journal.append(Record::Wiping(StoredPath(originals)))?;
        }
        let root = self.wipe_root()?;
        self.environment.observer.stage(Stage::Wipe, self.source_totals());
        let there = is_at(self.state().begun.identity, &root)?;
        // A directory that is not there may have been renamed, or its disk is not mounted.
        let removed = self.state().emptied && !super::switch::present(&root)?;
        if !there && !removed {
            return Err(Error::SourceGone { path: root });
        }
        let disk = Disk::under(root.parent().unwrap_or(&root))
            .map_err(|error| Error::io("inspect", &root, error))?;
        let wipe = Wipe {
            hands: &self.environment.hands,
            observer: self.environment.observer,
            root: root.clone(),
            wipeability: disk.wipeability,
            sink,
        };
        let account = wipe.run(&|| self.source_ledger())?;
        if account.left.files > 0 {
            return Err(Error::NotAllWiped { root, account: Box::new(account) });
        }
        if !self.state().emptied {
            self.journal.append(Record::Emptied)?;
        }
        super::wipe::remove_root(&self.environment.hands, &root)?;
        self.journal.append(Record::Wiped)?;
        self.tidy()?;
        Ok(account)
    }

    /// Ends a migration whose originals somebody removed by other means: nothing is claimed of
    /// them.
    fn end_without_wipe(&mut self) -> Result<Account> {
        if self.state().phase != Phase::Wiping {
            let source = self.state().begun.source.clone();
            self.journal.append(Record::Wiping(source))?;
        }
        self.journal.append(Record::Wiped)?;
        self.tidy()?;
        Ok(Account::default())
    }

    pub(super) fn require(&self, phases: &[Phase], what: &'static str) -> Result<()> {
        let phase = self.state().phase;
        if phases.contains(&phase) { Ok(()) } else { Err(Error::State { what, phase }) }
    }

    /// Takes away what only an unfinished migration needs.
    pub(super) fn tidy(&self) -> Result<()> {
        self.remove_marker()?;
        // Not there, or mounted on by hand: no harm either way.
        let _ = std::fs::remove_dir(self.place.mount_point());
        Ok(())
    }
}
