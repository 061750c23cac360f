//! Names: looking them up, and what creates, removes and moves them.
//!
//! The order of the steps is such that a power cut at any of them leaves every directory with its
//! record and every long name with its sidecar: what makes an entry readable comes before the
//! entry, and goes after it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::MutexGuard;

use super::content::{Content, OpenFile};
use super::core::{Core, is_not_found};
use super::directory::OpenDirectory;
use super::error::{Error, Result};
use super::inode::{DATA_DIRTY, Inode, NO_XATTRS, Open, RECORD_DIRTY};
use super::types::{Caller, Entry, InodeNumber};
use crate::backing::{Access, File, FileKind, RenameMode, Stat};
use crate::crypto::random_array;
use crate::format::directory::{DirId, RECORD_NAME};
use crate::format::name::{CipherName, EntryName, TEMPORARY_PREFIX};
use crate::format::symlink::{TARGET_MAX, split_overflow};

const SET_GROUP_ID: u32 = 0o2000;
const OWNER_WRITE_SEARCH: u32 = 0o300;

impl Core {
    /// Resolves a name.
    pub(super) fn lookup(&self, parent: &Arc<Inode>, name: &[u8]) -> Result<Entry> {
        let directory = self.open_directory(parent)?;
        let cipher_name = directory.encrypt(name)?;
        let _paths = self.paths.read();
        let stat = self.stat(&directory, cipher_name.entry()).map_err(not_found)?;
        self.entry(parent, cipher_name.entry(), &stat, false)
    }

    /// `stat(2)` of a name, with the mode that is the file's own.
    pub(super) fn stat(&self, directory: &OpenDirectory, entry: &[u8]) -> std::io::Result<Stat> {
        let _modes = self.modes.read();
        directory.directory.stat(entry)
    }

    /// Registers what an entry names, counting one lookup.
    pub(super) fn entry(
        &self,
        parent: &Arc<Inode>,
        entry: &[u8],
        stat: &Stat,
        is_new: bool,
    ) -> Result<Entry> {
        if stat.device != self.device {
            return Err(Error::NotSupported);
        }
        let inode = self.inodes.look_up(self.number(stat.ino), stat.kind, is_new);
        inode.add_location(parent, entry);
        match self.plain_attributes(&inode, stat) {
            Ok(attributes) => Ok(Entry { attributes, generation: inode.generation }),
            Err(error) => {
                self.forget(inode.number, 1);
                Err(error)
            }
        }
    }

    pub(super) fn forget(&self, number: InodeNumber, count: u64) {
        if let Some(inode) = self.inodes.forget(number, count) {
            self.drop_if_idle(&inode);
        }
    }

    /// Creates a regular file and opens it.
    pub(super) fn create(
        &self,
        caller: &Caller,
        parent: &Arc<Inode>,
        name: &[u8],
        mode: u32,
    ) -> Result<Entry> {
        self.check_writable()?;
        let (directory, _guard) = self.lock_entries(parent)?;
        let cipher_name = directory.encrypt(name)?;
        let inherits = directory.has_default_acl();
        let mode = new_mode(caller, mode, inherits);
        let file = with_sidecar(&directory, &cipher_name, || {
            directory.directory.create_file(cipher_name.entry(), mode)
        })?;
        let owned = self.hand_over(caller, &directory, cipher_name.entry(), mode, || file.stat());
        let stat = owned.inspect_err(|_| self.take_back(parent, &directory, &cipher_name))?;
        let entry = self.entry(parent, cipher_name.entry(), &stat, true)?;
        let inode = self.inode(entry.attributes.ino)?;
        if !inherits {
            inode.set_flag(NO_XATTRS);
        }
        inode.opens.fetch_add(1, Ordering::Relaxed);
        self.adopt_new_file(&inode, Arc::from(file), &stat);
        self.names_changed(parent);
        Ok(entry)
    }

    /// Keeps the descriptor of a file that was just created; nothing of it is durable.
    fn adopt_new_file(&self, inode: &Arc<Inode>, handle: Arc<dyn File>, stat: &Stat) {
        let mut content = Content::new(handle, Access::ReadWrite);
        content.modified = self.options.kernel_keeps_times.then_some(stat.modified);
        *inode.open.lock() = Some(Open::File(Arc::new(OpenFile::new(content))));
        self.descriptors.opened(inode);
    }

    /// Creates a file of any kind but directory and symlink.
    pub(super) fn make_node(
        &self,
        caller: &Caller,
        parent: &Arc<Inode>,
        name: &[u8],
        kind: FileKind,
        mode: u32,
        rdev: u32,
    ) -> Result<Entry> {
        if kind == FileKind::Regular {
            let entry = self.create(caller, parent, name, mode)?;
            self.release(&self.inode(entry.attributes.ino)?);
            return Ok(entry);
        }
        self.check_writable()?;
        let (directory, _guard) = self.lock_entries(parent)?;
        let cipher_name = directory.encrypt(name)?;
        let mode = new_mode(caller, mode, directory.has_default_acl());
        with_sidecar(&directory, &cipher_name, || {
            directory.directory.make_node(cipher_name.entry(), kind, mode, u64::from(rdev))
        })?;
        self.finish_creation(caller, parent, &directory, &cipher_name, mode)
    }

    /// Creates a symlink.
    pub(super) fn make_symlink(
        &self,
        caller: &Caller,
        parent: &Arc<Inode>,
        name: &[u8],
        target: &[u8],
    ) -> Result<Entry> {
        self.check_writable()?;
        if target.is_empty() {
            return Err(Error::NotFound);
        }
        if target.len() > TARGET_MAX {
            return Err(Error::NameTooLong);
        }
        let (directory, _guard) = self.lock_entries(parent)?;
        let cipher_name = directory.encrypt(name)?;
        let sealed = self.codecs.symlinks.seal(target);
        if let Some((id, rest)) = &sealed.overflow {
            self.overflow_used.store(true, Ordering::Release);
            self.overflow.make_symlink(rest, id.as_bytes())?;
            self.overflow_dirty.store(true, Ordering::Release);
        }
        let made = with_sidecar(&directory, &cipher_name, || {
            directory.directory.make_symlink(&sealed.target, cipher_name.entry())
        });
        if made.is_err() {
            self.remove_overflow(sealed.overflow.map(|(id, _)| id));
        }
        made?;
        self.finish_creation(caller, parent, &directory, &cipher_name, 0o777)
    }

    /// The target of a symlink.
    pub(super) fn read_target(&self, inode: &Arc<Inode>) -> Result<Vec<u8>> {
        if inode.kind != FileKind::Symlink {
            return Err(Error::Invalid);
        }
        let pinned = match &*inode.open.lock() {
            Some(Open::Pin(_, target)) => target.as_ref().map(|target| target.to_vec()),
            _ => None,
        };
        let whole = match pinned {
            Some(target) => target,
            None => {
                let _paths = self.paths.read_recursive();
                let (directory, entry) = self.holder(inode)?;
                self.stored_target(&directory, &entry)?
            }
        };
        self.codecs.symlinks.open(&whole).map_err(|_| Error::Damaged { what: "a symlink target" })
    }

    /// A symlink's target as it is stored, with what overflowed.
    fn stored_target(&self, directory: &OpenDirectory, entry: &[u8]) -> Result<Vec<u8>> {
        let text = directory.directory.read_link(entry).map_err(not_found)?;
        match split_overflow(&text) {
            Some((id, first)) => match self.overflow.read_link(id.as_bytes()) {
                Err(error) if is_not_found(&error) => {
                    Err(Error::Damaged { what: "a symlink target" })
                }
                rest => Ok([first, &rest?].concat()),
            },
            None => Ok(text),
        }
    }

    /// Creates a directory: under a temporary name, given its record, then renamed.
    pub(super) fn make_directory(
        &self,
        caller: &Caller,
        parent: &Arc<Inode>,
        name: &[u8],
        mode: u32,
    ) -> Result<Entry> {
        self.check_writable()?;
        let (directory, _guard) = self.lock_entries(parent)?;
        let cipher_name = directory.encrypt(name)?;
        let mode = new_mode(caller, mode, directory.has_default_acl());
        let temporary = temporary_name();
        directory.directory.make_directory(&temporary, mode | OWNER_WRITE_SEARCH)?;
        let finished = (|| {
            let record = self.codecs.directories.encode(DirId::random());
            directory.directory.make_symlink(&record, &record_in(&temporary))?;
            if mode & OWNER_WRITE_SEARCH != OWNER_WRITE_SEARCH {
                let made = directory.directory.stat(&temporary)?;
                directory
                    .directory
                    .set_mode(&temporary, made.mode & !(OWNER_WRITE_SEARCH & !mode))?;
            }
            with_sidecar(&directory, &cipher_name, || {
                directory.directory.rename(
                    &temporary,
                    &*directory.directory,
                    cipher_name.entry(),
                    RenameMode::NoReplace,
                )
            })
        })();
        if let Err(error) = finished {
            remove_temporary(&directory, &temporary);
            return Err(error);
        }
        let entry = self.finish_creation(caller, parent, &directory, &cipher_name, mode)?;
        let inode = self.inode(entry.attributes.ino)?;
        inode.set_flag(RECORD_DIRTY);
        self.new_directories.lock().entry(parent.number).or_default().push(inode);
        // Again: a sync since then knew nothing of the record.
        self.names_changed(parent);
        Ok(entry)
    }

    /// Hands what was created to its owner, and registers it.
    fn finish_creation(
        &self,
        caller: &Caller,
        parent: &Arc<Inode>,
        directory: &Arc<OpenDirectory>,
        cipher_name: &CipherName,
        mode: u32,
    ) -> Result<Entry> {
        let entry = cipher_name.entry();
        let owned =
            self.hand_over(caller, directory, entry, mode, || directory.directory.stat(entry));
        let stat = owned.inspect_err(|_| self.take_back(parent, directory, cipher_name))?;
        self.names_changed(parent);
        self.entry(parent, cipher_name.entry(), &stat, true)
    }

    /// Gives a new file to the caller; what `stat` tells of it then.
    fn hand_over(
        &self,
        caller: &Caller,
        directory: &OpenDirectory,
        entry: &[u8],
        mode: u32,
        stat: impl Fn() -> std::io::Result<Stat>,
    ) -> Result<Stat> {
        let made = stat()?;
        let given = self.give_to(caller, directory, entry, &made, mode)?;
        Ok(if given { stat()? } else { made })
    }

    /// Removes what was created and could not be handed over. The kernel takes it not to exist.
    fn take_back(&self, parent: &Arc<Inode>, directory: &OpenDirectory, name: &CipherName) {
        let below = &*directory.directory;
        if below.unlink(name.entry()).is_err() {
            // A directory, which must not stand there without its record.
            let temporary = temporary_name();
            let moved = below.rename(name.entry(), below, &temporary, RenameMode::NoReplace);
            if moved.is_ok() {
                remove_temporary(directory, &temporary);
            }
        }
        remove_sidecar(directory, name);
        self.names_changed(parent);
    }

    /// Gives a new file to the caller; whether anything changed. The group stays where the
    /// directory's set-group-ID bit gave it (`inode(7)`).
    fn give_to(
        &self,
        caller: &Caller,
        directory: &OpenDirectory,
        entry: &[u8],
        stat: &Stat,
        mode: u32,
    ) -> Result<bool> {
        if caller.uid == stat.uid && caller.gid == stat.gid {
            return Ok(false);
        }
        let inherits_group = directory.directory.stat(b".")?.mode & SET_GROUP_ID != 0;
        let gid = if inherits_group { stat.gid } else { caller.gid };
        if caller.uid == stat.uid && gid == stat.gid {
            return Ok(false);
        }
        directory.directory.set_owner(entry, Some(caller.uid), Some(gid))?;
        // A change of owner clears these bits.
        if stat.kind != FileKind::Symlink && mode & 0o6000 != 0 {
            directory.directory.set_mode(entry, stat.mode)?;
        }
        Ok(true)
    }

    /// Creates a hard link.
    pub(super) fn hard_link(
        &self,
        inode: &Arc<Inode>,
        parent: &Arc<Inode>,
        name: &[u8],
    ) -> Result<Entry> {
        self.check_writable()?;
        if inode.kind == FileKind::Directory {
            return Err(Error::NotPermitted);
        }
        let (directory, _guard) = self.lock_entries(parent)?;
        let cipher_name = directory.encrypt(name)?;
        let _paths = self.paths.read();
        let (source, source_entry) = self.holder(inode)?;
        with_sidecar(&directory, &cipher_name, || {
            source.directory.hard_link(&source_entry, &*directory.directory, cipher_name.entry())
        })?;
        self.names_changed(parent);
        let stat = self.stat(&directory, cipher_name.entry())?;
        self.entry(parent, cipher_name.entry(), &stat, false)
    }

    /// Removes a name of anything but a directory.
    pub(super) fn unlink(&self, parent: &Arc<Inode>, name: &[u8]) -> Result<()> {
        self.check_writable()?;
        let (directory, _guard) = self.lock_entries(parent)?;
        let cipher_name = directory.encrypt(name)?;
        let stat = directory.directory.stat(cipher_name.entry()).map_err(not_found)?;
        if stat.kind == FileKind::Directory {
            return Err(Error::IsDirectory);
        }
        let going = self.prepare_removal(parent, &directory, cipher_name.entry(), &stat)?;
        {
            // Of a file that goes on under another name, nothing may come to rely on this one.
            let _paths = (!going.last).then(|| self.paths.write());
            self.settle_going(&going)?;
            directory.directory.unlink(cipher_name.entry()).map_err(not_found)?;
            self.name_is_gone(parent, cipher_name.entry(), &going);
        }
        remove_sidecar(&directory, &cipher_name);
        self.finish_removal(going);
        Ok(())
    }

    /// Before a name of a file goes: what is open stays reachable, and most of the work is done
    /// that [`Self::settle_going`] has to do while others wait.
    pub(super) fn prepare_removal(
        &self,
        parent: &Arc<Inode>,
        directory: &OpenDirectory,
        entry: &[u8],
        stat: &Stat,
    ) -> Result<Going> {
        let last = stat.links <= 1;
        let inode = self.inodes.get(self.number(stat.ino));
        let mut pinned = None;
        if let Some(inode) = &inode {
            // A name that was moved with a directory above it may still stand there as it was.
            if last || inode.has_only_location(parent, entry) {
                pinned = self.pin(inode, directory, entry)?;
            }
            if !last {
                self.settle_file_records(inode)?;
            }
        }
        let mut overflows = Vec::new();
        if last && self.overflow_used.load(Ordering::Acquire) {
            // What is open keeps its attributes until it is let go of.
            if inode.as_ref().is_none_or(|inode| inode.open.lock().is_none()) {
                let pinned = Arc::from(directory.directory.pin(entry)?);
                overflows = self.overflows_of(&super::attributes::Handle::File(pinned));
            }
            if stat.kind == FileKind::Symlink {
                let target = directory.directory.read_link(entry)?;
                overflows.extend(split_overflow(&target).map(|(id, _)| id.to_owned()));
            }
        }
        Ok(Going { inode, last, overflows, _pinned: pinned })
    }

    /// Opens what is about to lose its name, for those who may have it open; a regular file is not
    /// closed again as long as what is returned is held.
    fn pin(
        &self,
        inode: &Arc<Inode>,
        directory: &OpenDirectory,
        entry: &[u8],
    ) -> Result<Option<Arc<OpenFile>>> {
        match inode.kind {
            FileKind::Regular => match self.held_content(inode) {
                Ok(file) => Ok(Some(file)),
                // A damaged file can still be deleted.
                Err(Error::Damaged { .. }) => Ok(None),
                Err(error) if matches!(error.errno(), libc::EACCES | libc::EPERM) => Ok(None),
                Err(error) => Err(error),
            },
            FileKind::Directory => self.open_directory(inode).map(|_| None),
            _ => {
                let mut open = inode.open.lock();
                if open.is_none() {
                    let file = Arc::from(directory.directory.pin(entry)?);
                    // A damaged target can still be deleted.
                    let target = (inode.kind == FileKind::Symlink)
                        .then(|| self.stored_target(directory, entry).unwrap_or_default());
                    *open = Some(Open::Pin(file, target.map(Vec::into_boxed_slice)));
                }
                Ok(None)
            }
        }
    }

    /// Sees to it that the journal's records of a file that stays do not need the name that goes.
    pub(super) fn settle_going(&self, going: &Going) -> Result<()> {
        match &going.inode {
            Some(inode) if !going.last => self.settle_file_records(inode),
            _ => Ok(()),
        }
    }

    /// Forgets a name that just went.
    pub(super) fn name_is_gone(&self, parent: &Arc<Inode>, entry: &[u8], going: &Going) {
        self.names_changed(parent);
        if let Some(inode) = &going.inode {
            if going.last
                && let Some(file) = inode.open_file()
            {
                let mut content = file.content.write();
                // One that was emptied and closed since no longer knows of its records.
                if content.sequence > 0 || inode.is_dirty(DATA_DIRTY) {
                    let mut left = self.left_by_records.lock();
                    left.insert(Arc::as_ptr(parent).addr(), parent.clone());
                }
                // Before it has no name: a record would need one.
                content.orphan = true;
            }
            inode.remove_location(parent, entry);
            if going.last {
                inode.remove_locations();
            }
        }
    }

    /// Lets go of what lost a name.
    pub(super) fn finish_removal(&self, going: Going) {
        if let Some(inode) = &going.inode {
            self.drop_if_idle(inode);
        }
        self.remove_overflows_later(going.overflows);
    }

    /// Removes an empty directory: renamed to a temporary name, so that it never stands there
    /// without its record.
    pub(super) fn remove_directory(&self, parent: &Arc<Inode>, name: &[u8]) -> Result<()> {
        self.check_writable()?;
        let directory = self.open_directory(parent)?;
        let cipher_name = directory.encrypt(name)?;
        let stat = directory.directory.stat(cipher_name.entry()).map_err(not_found)?;
        if stat.kind != FileKind::Directory {
            return Err(Error::NotDirectory);
        }
        let child = self.inodes.look_up(self.number(stat.ino), stat.kind, false);
        child.add_location(parent, cipher_name.entry());
        let outcome = (|| {
            let _guards = lock_both(parent, &child);
            let opened = self.open_directory(&child)?;
            let litter = check_empty(&opened)?;
            let temporary = temporary_name();
            directory.directory.rename(
                cipher_name.entry(),
                &*directory.directory,
                &temporary,
                RenameMode::NoReplace,
            )?;
            for entry in litter {
                remove_litter(&opened, &entry);
            }
            remove_temporary(&directory, &temporary);
            remove_sidecar(&directory, &cipher_name);
            child.remove_location(parent, cipher_name.entry());
            self.names_changed(parent);
            Ok(())
        })();
        self.forget(child.number, 1);
        outcome
    }

    fn lock_entries<'a>(
        &self,
        parent: &'a Arc<Inode>,
    ) -> Result<(Arc<OpenDirectory>, MutexGuard<'a, ()>)> {
        let directory = self.open_directory(parent)?;
        let guard = parent.entries.lock();
        if parent.locations.lock().is_empty() && parent.number != InodeNumber::ROOT {
            return Err(Error::NotFound);
        }
        Ok((directory, guard))
    }
}

/// A file whose name is about to go.
pub(super) struct Going {
    inode: Option<Arc<Inode>>,
    last: bool,
    overflows: Vec<String>,
    /// What keeps the file open until it is known to have no name.
    _pinned: Option<Arc<OpenFile>>,
}

/// Locks the entries of two directories, which may be the same one.
pub(super) fn lock_both<'a>(
    a: &'a Arc<Inode>,
    b: &'a Arc<Inode>,
) -> (MutexGuard<'a, ()>, Option<MutexGuard<'a, ()>>) {
    if Arc::ptr_eq(a, b) {
        return (a.entries.lock(), None);
    }
    let (low, high) = if a.number < b.number { (a, b) } else { (b, a) };
    let first = low.entries.lock();
    (first, Some(high.entries.lock()))
}

/// Runs what makes an entry, with the sidecar that a long name needs made before it.
fn with_sidecar<T>(
    directory: &OpenDirectory,
    name: &CipherName,
    make: impl FnOnce() -> std::io::Result<T>,
) -> Result<T> {
    let made_sidecar = make_sidecar(directory, name)?;
    make().map_err(|error| {
        if made_sidecar {
            remove_sidecar(directory, name);
        }
        error.into()
    })
}

/// Makes the sidecar that a long name needs; whether it was not there.
pub(super) fn make_sidecar(directory: &OpenDirectory, name: &CipherName) -> Result<bool> {
    let Some((sidecar, target)) = name.sidecar() else { return Ok(false) };
    match directory.directory.make_symlink(target, &sidecar) {
        Ok(()) => Ok(true),
        // Of an entry that exists, or litter that serves as well.
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Makes the sidecar that a long name has durable, before an entry comes from another directory: a
/// sync of that one may make the entry durable, but not what was made in this one.
pub(super) fn sync_sidecar(directory: &OpenDirectory, name: &CipherName) -> std::io::Result<()> {
    if name.sidecar().is_some() { directory.directory.sync() } else { Ok(()) }
}

/// Removes the sidecar of a long name whose entry is gone. One that stays is only litter.
pub(super) fn remove_sidecar(directory: &OpenDirectory, name: &CipherName) {
    if let Some((sidecar, _)) = name.sidecar() {
        let _ = directory.directory.unlink(&sidecar);
    }
}

/// Whether a directory has no plain entries; what it has besides its record is litter.
pub(super) fn check_empty(directory: &OpenDirectory) -> Result<Vec<Vec<u8>>> {
    let mut litter = Vec::new();
    let mut occupied = false;
    directory.directory.read_entries(0, &mut |raw| {
        match directory.names.classify(raw.name) {
            EntryName::Dots => {}
            EntryName::Reserved => {
                if raw.name != RECORD_NAME {
                    litter.push(raw.name.to_vec());
                }
            }
            EntryName::Plain(_) | EntryName::Long { .. } | EntryName::Damaged => occupied = true,
        }
        !occupied
    })?;
    if occupied { Err(Error::NotEmpty) } else { Ok(litter) }
}

/// Removes what an interrupted operation left in a directory that is going: a sidecar, or a
/// temporary directory.
pub(super) fn remove_litter(directory: &OpenDirectory, entry: &[u8]) {
    if directory.directory.unlink(entry).is_err() {
        remove_temporary(directory, entry);
    }
}

/// Removes a temporary directory with its record.
pub(super) fn remove_temporary(directory: &OpenDirectory, temporary: &[u8]) {
    let _ = directory.directory.unlink(&record_in(temporary));
    let _ = directory.directory.remove_directory(temporary);
}

/// The record's name in a directory, from the one above.
fn record_in(directory: &[u8]) -> Vec<u8> {
    [directory, b"/", RECORD_NAME].concat()
}

pub(super) fn temporary_name() -> Vec<u8> {
    let number = u64::from_le_bytes(random_array());
    [TEMPORARY_PREFIX, format!("{number:016x}").as_bytes()].concat()
}

/// The mode of a new file: the umask applies unless an ACL is inherited (`acl(5)`).
fn new_mode(caller: &Caller, mode: u32, inherits_acl: bool) -> u32 {
    let mode = mode & 0o7777;
    if inherits_acl { mode } else { mode & !caller.umask }
}

pub(super) fn not_found(error: std::io::Error) -> Error {
    match error.raw_os_error() {
        Some(libc::ENOENT) => Error::NotFound,
        Some(libc::EEXIST) => Error::Exists,
        _ => Error::Backing(error),
    }
}
