//! The last step of the way back: what comes back takes the source's path, and what was there, or
//! is left of the originals, is sorted out.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use super::engine::{Engine, local};
use super::error::{Error, Result};
use super::ledger::LedgerReader;
use super::place::is_at;
use super::record::Origin;
use super::switch::{cannot_exchange, present};
use super::watched::WatchedTree;
use super::wipe::Wipe;
use crate::tree::{self, EntryKind, TreePath, TreeReader};

/// What becomes of the originals when the data come from elsewhere.
#[derive(Default)]
pub(super) struct Rest {
    pub(super) leftover: Option<PathBuf>,
    pub(super) originals: Option<PathBuf>,
}

impl Engine<'_> {
    /// Brings the originals from where they are aside.
    pub(super) fn put_originals_back(&self) -> Result<()> {
        let source = self.state().begun.source.as_path();
        let originals = self.originals()?;
        if originals != source {
            self.put(&originals, source)?;
        }
        // What stood in their place.
        for stand_in in [self.aside(), self.away()] {
            if !is_at(self.state().begun.identity, &stand_in)? {
                self.discard_stand_in(&stand_in)?;
            }
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
            hands.rename(from, source)?;
            return self.end_exchange(from);
        }
        // A stand-in directory is immutable under its mount.
        if source.symlink_metadata().is_ok_and(|stat| stat.is_dir()) {
            hands.set_immutable(source, false)?;
        }
        match hands.exchange(from, source) {
            Err(Error::Io { source: error, .. }) if cannot_exchange(&error) => {
                hands.rename(source, &self.away())?;
                hands.rename(from, source)?;
                self.end_exchange(from)
            }
            outcome => outcome,
        }
    }

    /// The last step of an exchange in three steps, where it was begun.
    fn end_exchange(&self, from: &Path) -> Result<()> {
        let away = self.away();
        if present(&away)? && !present(from)? {
            self.environment.hands.rename(&away, from)?;
        }
        Ok(())
    }

    /// Brings the restored tree to the source's path. What is left there of the originals is
    /// sorted out: what is excluded from the migration comes along; of originals that were being
    /// wiped, what was verified goes; what is neither stays beside it, and so do originals that
    /// are still complete.
    pub(super) fn put_restored_in_place(&self) -> Result<Rest> {
        let Some(restored) = self.state().restored.clone() else {
            return Err(Error::State { what: "nothing was restored", phase: self.state().phase });
        };
        let begun = &self.state().begun;
        let (source, target) = (begun.source.as_path(), restored.path.as_path());
        if !is_at(restored.identity, source)? {
            self.put(target, source)?;
        }
        self.end_exchange(target)?;
        // Where the originals were renamed aside, a stand-in has now the target's name.
        if !is_at(begun.identity, target)? {
            self.discard_stand_in(target)?;
        }
        // Something that somebody put there while the originals were at their path.
        let aside = self.aside();
        if !is_at(begun.identity, &aside)? {
            self.discard_stand_in(&aside)?;
        }
        for rest in [target.to_owned(), aside.clone()] {
            if !is_at(begun.identity, &rest)? {
                continue;
            }
            self.bring_excluded(&rest, source)?;
            if self.state().wiping.is_some() {
                return Ok(Rest { leftover: self.clear(&rest)?, originals: None });
            }
            // Nobody has agreed to their end.
            if rest != aside {
                self.environment.hands.rename(&rest, &aside)?;
            }
            return Ok(Rest { leftover: None, originals: Some(aside) });
        }
        Ok(Rest::default())
    }

    /// Removes what the ledger lists of the rest of wiped originals; its path, if anything stays.
    fn clear(&self, rest: &Path) -> Result<Option<PathBuf>> {
        let wipe = Wipe {
            hands: &self.environment.hands,
            observer: self.environment.observer,
            root: rest.to_owned(),
            // Its content is back as plaintext anyway: removing the names is enough.
            wipeability: super::disk::Wipeability::Never,
            sink: &mut |_, _| {},
        };
        wipe.run(&|| self.source_ledger())?;
        super::wipe::remove_root(&self.environment.hands, rest)?;
        Ok(present(rest)?.then(|| rest.to_owned()))
    }

    /// Moves what the migration left out from the rest of the originals into the restored tree.
    fn bring_excluded(&self, rest: &Path, source: &Path) -> Result<()> {
        let left = local(rest)?;
        let excluded = Mutex::new(Vec::new());
        let exclude = |path: &TreePath, kind: EntryKind| {
            let out = self.patterns.matches(path, kind);
            if out {
                excluded.lock().push(path.clone());
            }
            out
        };
        for entry in left.walk(&exclude)? {
            entry?;
        }
        for path in excluded.into_inner() {
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
        self.set_times_again(source)
    }

    /// Gives the directories of the restored tree that hold what was left out of the migration
    /// the times again with which the tree was verified: what is moved into them changed those.
    fn set_times_again(&self, source: &Path) -> Result<()> {
        let (Some(restored), false) =
            (&self.state().restored, self.state().begun.exclude.is_empty())
        else {
            return Ok(());
        };
        let tree = local(source)?;
        let holders = Mutex::new(HashSet::new());
        let exclude = |path: &TreePath, kind: EntryKind| {
            let out = self.patterns.matches(path, kind);
            if out && let Some(parent) = path.parent() {
                holders.lock().insert(parent);
            }
            out
        };
        for entry in tree.walk(&exclude)? {
            entry?;
        }
        let holders = holders.into_inner();
        let mut ledger = match self.state().origin {
            Some(Origin::Vault) => {
                let key = self.environment.vault.migration_key();
                LedgerReader::open(&self.place.restored_ledger(), key, &restored.ledger)?
            }
            _ => self.source_ledger()?,
        };
        let tree = WatchedTree { tree: &tree, hands: &self.environment.hands };
        while let Some(entry) = ledger.next_entry()? {
            let entry = entry.entry;
            if entry.metadata.kind == EntryKind::Directory && holders.contains(&entry.path) {
                tree::TreeWriter::set_metadata(&tree, &entry.path, &entry.metadata)?;
            }
        }
        Ok(())
    }
}
