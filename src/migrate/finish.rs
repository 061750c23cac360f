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
        let originals = self.wipe_root()?;
        Disk::under(&originals).map_err(|error| Error::io("inspect", &originals, error))
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
    /// to be left.
    pub fn wipe(&mut self, sink: FateSink<'_>) -> Result<Account> {
        let ready = [Phase::Accepted, Phase::Kept, Phase::Wiping];
        self.require(&ready, "the originals may not be wiped yet")?;
        if self.state().phase != Phase::Wiping {
            let originals = self.originals()?;
            self.refuse_missing_snapshot()?;
            self.refuse_open_files(&originals)?;
            self.refuse_changed_source()?;
            self.journal.append(Record::Wiping(StoredPath(originals)))?;
        }
        let root = self.wipe_root()?;
        self.environment.observer.stage(Stage::Wipe, self.source_totals());
        let account =
            if !super::switch::present(&root)? || is_at(self.state().begun.identity, &root)? {
                let disk = match Disk::under(root.parent().unwrap_or(&root)) {
                    Ok(disk) => disk,
                    Err(error) => return Err(Error::io("inspect", &root, error)),
                };
                let wipe = Wipe {
                    hands: &self.environment.hands,
                    observer: self.environment.observer,
                    root: root.clone(),
                    wipeability: disk.wipeability,
                    sink,
                };
                wipe.run(&|| self.source_ledger())?
            } else {
                return Err(Error::SourceGone { path: root });
            };
        if account.left.files > 0 {
            return Err(Error::NotAllWiped { root, account: Box::new(account) });
        }
        self.journal.append(Record::Wiped)?;
        self.tidy()?;
        Ok(account)
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
