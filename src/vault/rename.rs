//! Renaming: the steps around the one that moves the names.
//!
//! While names change, nothing is resolved by them and no record names a path ([`Core::paths`]):
//! what the journal has of a file that moves is in place before, and the inodes in memory have
//! their new names after it.

use std::sync::Arc;

use super::core::{Core, is_not_found};
use super::directory::OpenDirectory;
use super::error::{Error, Result};
use super::inode::{Inode, Location};
use super::journal::{FileReference, Journal};
use super::namespace::{
    Going, check_empty, lock_both, make_sidecar, not_found, remove_litter, remove_sidecar,
    remove_temporary, sync_sidecar, temporary_name,
};
use crate::backing::{FileKind, RenameMode, Stat};
use crate::format::name::CipherName;

impl Core {
    /// Renames.
    pub(super) fn rename(
        &self,
        parent: &Arc<Inode>,
        name: &[u8],
        new_parent: &Arc<Inode>,
        new_name: &[u8],
        mode: RenameMode,
    ) -> Result<()> {
        self.check_writable()?;
        let _guards = lock_both(parent, new_parent);
        let (from, to) = (self.open_directory(parent)?, self.open_directory(new_parent)?);
        let (old, new) = (from.encrypt(name)?, to.encrypt(new_name)?);
        if Arc::ptr_eq(parent, new_parent) && old == new {
            return from.directory.stat(old.entry()).map(drop).map_err(not_found);
        }
        let stat = from.directory.stat(old.entry()).map_err(not_found)?;
        let target = match to.directory.stat(new.entry()) {
            Ok(target) => Some(target),
            Err(error) if is_not_found(&error) => None,
            Err(error) => return Err(error.into()),
        };
        match (mode, &target) {
            (RenameMode::NoReplace, Some(_)) => return Err(Error::Exists),
            (RenameMode::Exchange, None) => return Err(Error::NotFound),
            // Two names of one file.
            (_, Some(target)) if target.ino == stat.ino => return Ok(()),
            _ => {}
        }
        let moved = self.known(&stat, parent, old.entry());
        let replaced = target.map(|target| (target, self.known(&target, new_parent, new.entry())));
        let outcome = self.rename_known(
            &Side { parent, directory: &from, name: &old, inode: &moved, stat: &stat },
            &Target { parent: new_parent, directory: &to, name: &new, replaced: replaced.as_ref() },
            mode,
        );
        self.forget(moved.number, 1);
        if let Some((_, inode)) = &replaced {
            self.forget(inode.number, 1);
        }
        outcome
    }

    /// The inode of an entry, with one lookup more.
    fn known(&self, stat: &Stat, parent: &Arc<Inode>, entry: &[u8]) -> Arc<Inode> {
        let inode = self.inodes.look_up(self.number(stat.ino), stat.kind, false);
        inode.add_location(parent, entry);
        inode
    }

    fn rename_known(&self, side: &Side<'_>, target: &Target<'_>, mode: RenameMode) -> Result<()> {
        let mut aside = None;
        let mut going = None;
        if let (Some((stat, inode)), false) = (target.replaced, mode == RenameMode::Exchange) {
            match (side.stat.kind == FileKind::Directory, stat.kind == FileKind::Directory) {
                (true, false) => return Err(Error::NotDirectory),
                (false, true) => return Err(Error::IsDirectory),
                (true, true) => {
                    let opened = self.open_directory(inode)?;
                    let litter = check_empty(&opened)?;
                    aside = Some((opened, litter));
                }
                (false, false) => {
                    // After a power cut the name has the old file or the new one, whole.
                    self.settle_before_rename(side.inode)?;
                }
            }
            going = Some(self.prepare_removal(
                target.parent,
                target.directory,
                target.name.entry(),
                stat,
            )?);
        }
        // Most of the work is done before others have to wait.
        self.settle_moving(side, target, mode, going.as_ref())?;
        let made_sidecar = prepare_sidecars(side, target, mode)?;
        let renamed = {
            // From here on nothing is opened by name, and nothing may be: that waits for this lock.
            let _paths = self.paths.write();
            self.settle_moving(side, target, mode, going.as_ref())
                .and_then(|()| rename_entries(side, target, mode, aside.is_some()))
                .inspect(|_| self.names_moved(side, target, mode, going.as_ref()))
        };
        let temporary = renamed.inspect_err(|_| {
            if made_sidecar {
                remove_sidecar(target.directory, target.name);
            }
        })?;
        if let (Some((opened, litter)), Some(temporary)) = (aside, temporary) {
            for entry in litter {
                remove_litter(&opened, &entry);
            }
            remove_temporary(side.directory, &temporary);
        }
        if mode != RenameMode::Exchange {
            remove_sidecar(side.directory, side.name);
        }
        if let Some(going) = going {
            self.finish_removal(going);
        }
        Ok(())
    }

    /// Sees to it that nothing in the journal depends on the names that change.
    fn settle_moving(
        &self,
        side: &Side<'_>,
        target: &Target<'_>,
        mode: RenameMode,
        going: Option<&Going>,
    ) -> Result<()> {
        for inode in std::iter::once(side.inode).chain(target.exchanged(mode)) {
            if inode.kind == FileKind::Directory {
                self.settle_below(inode)?;
            } else {
                self.settle_file_records(inode)?;
            }
        }
        going.map_or(Ok(()), |going| self.settle_going(going))
    }

    /// Settles the records of every file below a directory. Where the rest of the journal is about
    /// does not matter.
    fn settle_below(&self, directory: &Inode) -> Result<()> {
        let members = self.journal().map(Journal::members).unwrap_or_default();
        for inode in members.iter().filter(|inode| is_below(inode, directory)) {
            self.settle_file_records(inode)?;
        }
        Ok(())
    }

    /// Settles a file's records ([`Self::settle_records`]), where it is open; else it has none.
    pub(super) fn settle_file_records(&self, inode: &Inode) -> Result<()> {
        let Some(file) = inode.open_file() else { return Ok(()) };
        {
            let mut content = file.content.write();
            if content.settled == content.sequence {
                // Since the last time there was no record, but perhaps one that failed after the
                // journal was told the path.
                content.reference = FileReference::default();
                return Ok(());
            }
        }
        // Another's sync under way may be the one that is told that what is written here is lost.
        let _one_at_a_time = file.syncing.lock();
        let mut content = file.content.write();
        self.settle_records(&mut content)?;
        content.settled = content.sequence;
        Ok(())
    }

    /// Tells the inodes in memory of their new names.
    fn names_moved(
        &self,
        side: &Side<'_>,
        target: &Target<'_>,
        mode: RenameMode,
        going: Option<&Going>,
    ) {
        self.names_changed(side.parent);
        self.names_changed(target.parent);
        let (old, new) = (side.name.entry(), target.name.entry());
        if let Some(going) = going {
            self.name_is_gone(target.parent, new, going);
        }
        side.inode.add_location(target.parent, new);
        side.inode.remove_location(side.parent, old);
        if let Some(other) = target.exchanged(mode) {
            other.add_location(side.parent, old);
            other.remove_location(target.parent, new);
        }
    }
}

/// Whether one of an inode's names lies below a directory.
fn is_below(inode: &Inode, directory: &Inode) -> bool {
    let mut open: Vec<Location> = inode.locations.lock().clone();
    while let Some(Location { parent, .. }) = open.pop() {
        if parent.number == directory.number {
            return true;
        }
        open.extend(parent.location());
    }
    false
}

/// Makes the sidecar that a long name needs before its entry, and those durable that a sync of
/// another directory would not; whether one was made.
fn prepare_sidecars(side: &Side<'_>, target: &Target<'_>, mode: RenameMode) -> Result<bool> {
    let made = target.replaced.is_none() && make_sidecar(target.directory, target.name)?;
    if Arc::ptr_eq(side.parent, target.parent) {
        return Ok(made);
    }
    let exchanged =
        if mode == RenameMode::Exchange { sync_sidecar(side.directory, side.name) } else { Ok(()) };
    match exchanged.and_then(|()| sync_sidecar(target.directory, target.name)) {
        Ok(()) => Ok(made),
        Err(error) => {
            if made {
                remove_sidecar(target.directory, target.name);
            }
            Err(error.into())
        }
    }
}

/// The rename itself. A directory whose place is taken moves `aside`: the record in it keeps the
/// filesystem below from replacing it; to the name that is returned, beside where the other was.
fn rename_entries(
    side: &Side<'_>,
    target: &Target<'_>,
    mode: RenameMode,
    aside: bool,
) -> Result<Option<Vec<u8>>> {
    let rename = |mode| {
        side.directory.directory.rename(
            side.name.entry(),
            &*target.directory.directory,
            target.name.entry(),
            mode,
        )
    };
    if !aside {
        rename(mode)?;
        return Ok(None);
    }
    rename(RenameMode::Exchange)?;
    let temporary = temporary_name();
    let moved = side.directory.directory.rename(
        side.name.entry(),
        &*side.directory.directory,
        &temporary,
        RenameMode::NoReplace,
    );
    if let Err(error) = moved {
        if let Err(undoing) = rename(RenameMode::Exchange) {
            tracing::error!(
                "a directory and the empty one that it was to replace have each other's names, \
                 and nothing of them is lost; mount the vault again to see them so: {undoing}"
            );
        }
        return Err(error.into());
    }
    Ok(Some(temporary))
}

struct Side<'a> {
    parent: &'a Arc<Inode>,
    directory: &'a Arc<OpenDirectory>,
    name: &'a CipherName,
    inode: &'a Arc<Inode>,
    stat: &'a Stat,
}

struct Target<'a> {
    parent: &'a Arc<Inode>,
    directory: &'a Arc<OpenDirectory>,
    name: &'a CipherName,
    replaced: Option<&'a (Stat, Arc<Inode>)>,
}

impl<'a> Target<'a> {
    /// The inode that takes the other's name.
    fn exchanged(&self, mode: RenameMode) -> Option<&'a Arc<Inode>> {
        self.replaced.map(|(_, inode)| inode).filter(|_| mode == RenameMode::Exchange)
    }
}
