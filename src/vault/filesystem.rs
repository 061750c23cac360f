//! The operations of a mounted vault, by inode number; and how a vault is opened and closed.

use std::sync::Arc;
use std::thread::JoinHandle;

use super::codecs::Codecs;
use super::core::{Core, Parts, is_not_found};
use super::directory::OpenDirectory;
use super::error::{Error, Result};
use super::recovery::{self, Recovered};
use super::setup::{OVERFLOW_NAME, TREE_NAME};
use super::sync::backing_now;
use super::types::{
    Attributes, CachedName, Caller, DirectoryEntry, Entry, FallocateMode, FilesystemOptions,
    InodeNumber, SeekWhence, SetAttributes,
};
use crate::backing::{
    Access, Directory, FileKind, FilesystemStat, LockOutcome, RenameMode, XattrMode,
};
use crate::crypto::MasterKey;
use crate::format::directory::{DirId, RECORD_NAME};
use crate::format::name::NAME_MAX;
use crate::format::state::Window;

/// The lock file in the vault directory.
pub const LOCK_NAME: &[u8] = b"lock";

/// Seconds by which clocks and time stamps may disagree.
const CLOCK_SLACK: i64 = 2;

/// Why a vault could not be mounted.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Somebody else has it mounted.
    #[error("the vault is in use by {holder}")]
    Busy {
        /// What the holder left in the lock file.
        holder: String,
    },
    /// The vault directory has no ciphertext tree.
    #[error("the vault directory has no ciphertext tree")]
    NoTree,
    /// The last mount ended uncleanly, and the disk cannot be written, so nothing can be recovered.
    #[error("the vault was not closed cleanly and must be mounted once where it can be written")]
    NeedsRecovery,
    /// Anything else.
    #[error(transparent)]
    Core(#[from] Error),
}

impl From<std::io::Error> for OpenError {
    fn from(error: std::io::Error) -> Self {
        Self::Core(error.into())
    }
}

/// A mounted vault. All operations may be called from several threads at once. Dropped without
/// [`Self::close`] it ends like a crash: the next mount recovers.
pub struct FileSystem {
    core: Arc<Core>,
    threads: Vec<JoinHandle<()>>,
    recovered: Recovered,
    _lock: Option<Box<dyn std::any::Any + Send + Sync>>,
}

impl FileSystem {
    /// Makes the record of the ciphertext root of a new vault, whose directories exist.
    ///
    /// # Errors
    /// When the filesystem below fails.
    pub fn format(vault: &dyn Directory, master: &MasterKey) -> Result<()> {
        let tree = vault.open_directory(TREE_NAME.as_bytes())?;
        let record = Codecs::new(master).directories.encode(DirId::random());
        tree.make_symlink(&record, RECORD_NAME)?;
        tree.sync()?;
        vault.sync()?;
        Ok(())
    }

    /// Opens a vault: takes its lock, recovers after an unclean end, and starts what works in the
    /// background. `owner` is what others are told who find it locked.
    ///
    /// # Errors
    /// [`OpenError`]; the vault is unharmed.
    pub fn open(
        vault: Box<dyn Directory>,
        master: &MasterKey,
        options: FilesystemOptions,
        owner: &str,
    ) -> Result<Self, OpenError> {
        let codecs = Codecs::new(master);
        let lock = match vault.lock(LOCK_NAME, owner.as_bytes()) {
            Ok(LockOutcome::Held(guard)) => Some(guard),
            Ok(LockOutcome::Busy(holder)) => {
                return Err(OpenError::Busy {
                    holder: String::from_utf8_lossy(&holder).into_owned(),
                });
            }
            Err(error) if options.read_only && error.raw_os_error() == Some(libc::EROFS) => None,
            Err(error) => return Err(error.into()),
        };
        let tree = vault
            .open_directory(TREE_NAME.as_bytes())
            .map_err(|error| if is_not_found(&error) { OpenError::NoTree } else { error.into() })?;
        let recovered = match recovery::recover(&*vault, &*tree, &codecs) {
            Err(error) if error.errno() == libc::EROFS => return Err(OpenError::NeedsRecovery),
            outcome => outcome?,
        };
        let windows = note_unclean_end(&*vault, &codecs, &recovered)?;
        let root_stat = tree.stat(b".")?;
        let target = tree
            .read_link(RECORD_NAME)
            .map_err(|_| Error::Damaged { what: "the root directory's record" })?;
        let id = codecs
            .directories
            .decode(&target)
            .map_err(|_| Error::Damaged { what: "the root directory's record" })?;
        let overflow = vault.open_directory(OVERFLOW_NAME.as_bytes())?;
        let overflow_used = has_entries(&*overflow)?;
        let root = OpenDirectory::new(tree, codecs.names(id));
        let core = Arc::new(Core::new(Parts {
            codecs,
            options,
            vault_directory: vault,
            overflow,
            overflow_used,
            windows,
            root,
            root_stat,
        }));
        core.create_journal()?;
        let mut threads = Vec::new();
        if !options.read_only {
            threads.push(spawn("strongroom-commit", &core, |core| core.maintain())?);
            if options.journal {
                threads.push(spawn("strongroom-sync", &core, |core| core.sync_ahead())?);
            }
            if !core.windows.read().is_empty() {
                threads.push(spawn("strongroom-settle", &core, |core| core.settle())?);
            }
        }
        Ok(Self { core, threads, recovered, _lock: lock })
    }

    /// Recovers after an unclean end without mounting. The caller holds the vault's lock.
    ///
    /// # Errors
    /// When the filesystem below fails; nothing is lost then, and recovery can run again.
    pub(crate) fn recover(vault: &dyn Directory, codecs: &Codecs) -> Result<Recovered> {
        let tree = vault.open_directory(TREE_NAME.as_bytes())?;
        let recovered = recovery::recover(vault, &*tree, codecs)?;
        note_unclean_end(vault, codecs, &recovered)?;
        Ok(recovered)
    }

    /// Forgets the unclean ends noted, once every torn block that they left is a durable hole. The
    /// caller holds the vault's lock.
    ///
    /// # Errors
    /// When the filesystem below fails; they are noted still.
    pub(crate) fn forget_unclean_ends(vault: &dyn Directory, codecs: &Codecs) -> Result<()> {
        Core::write_windows(vault, &codecs.journal, &[])
    }

    /// What recovery found when the vault was opened.
    pub fn recovered(&self) -> &Recovered {
        &self.recovered
    }

    /// Resolves a name; counts one lookup.
    pub fn lookup(&self, parent: InodeNumber, name: &[u8]) -> Result<Entry> {
        self.core.lookup(&self.core.inode(parent)?, name)
    }

    /// Gives back `count` lookups.
    pub fn forget(&self, ino: InodeNumber, count: u64) {
        self.core.forget(ino, count);
    }

    /// `stat(2)`.
    pub fn attributes(&self, ino: InodeNumber) -> Result<Attributes> {
        self.core.attributes(&self.core.inode(ino)?)
    }

    /// `chmod`, `chown`, `truncate`, `utimensat` in one; the new attributes.
    pub fn set_attributes(&self, ino: InodeNumber, changes: &SetAttributes) -> Result<Attributes> {
        self.core.set_attributes(&self.core.inode(ino)?, changes)
    }

    /// The target of a symlink.
    pub fn read_link(&self, ino: InodeNumber) -> Result<Vec<u8>> {
        self.core.read_target(&self.core.inode(ino)?)
    }

    /// Creates a regular file and opens it (pair with [`Self::release`]); counts one lookup.
    pub fn create(
        &self,
        caller: &Caller,
        parent: InodeNumber,
        name: &[u8],
        mode: u32,
    ) -> Result<Entry> {
        self.core.create(caller, &self.core.inode(parent)?, name, mode)
    }

    /// Creates a file of any kind but directory and symlink; `mode` with its type bits
    /// (`S_IFMT`; none mean a regular file). Counts one lookup.
    pub fn make_node(
        &self,
        caller: &Caller,
        parent: InodeNumber,
        name: &[u8],
        mode: u32,
        rdev: u32,
    ) -> Result<Entry> {
        let kind = match mode & libc::S_IFMT {
            0 | libc::S_IFREG => FileKind::Regular,
            libc::S_IFIFO => FileKind::Fifo,
            libc::S_IFSOCK => FileKind::Socket,
            libc::S_IFCHR => FileKind::CharacterDevice,
            libc::S_IFBLK => FileKind::BlockDevice,
            _ => return Err(Error::Invalid),
        };
        self.core.make_node(caller, &self.core.inode(parent)?, name, kind, mode & 0o7777, rdev)
    }

    /// Creates a directory; counts one lookup.
    pub fn make_directory(
        &self,
        caller: &Caller,
        parent: InodeNumber,
        name: &[u8],
        mode: u32,
    ) -> Result<Entry> {
        self.core.make_directory(caller, &self.core.inode(parent)?, name, mode)
    }

    /// Creates a symlink; counts one lookup.
    pub fn make_symlink(
        &self,
        caller: &Caller,
        parent: InodeNumber,
        name: &[u8],
        target: &[u8],
    ) -> Result<Entry> {
        self.core.make_symlink(caller, &self.core.inode(parent)?, name, target)
    }

    /// Creates a hard link; counts one lookup.
    pub fn hard_link(&self, ino: InodeNumber, parent: InodeNumber, name: &[u8]) -> Result<Entry> {
        self.core.hard_link(&self.core.inode(ino)?, &self.core.inode(parent)?, name)
    }

    /// Removes a name of anything but a directory.
    pub fn unlink(&self, parent: InodeNumber, name: &[u8]) -> Result<()> {
        self.core.unlink(&self.core.inode(parent)?, name)
    }

    /// Removes an empty directory.
    pub fn remove_directory(&self, parent: InodeNumber, name: &[u8]) -> Result<()> {
        self.core.remove_directory(&self.core.inode(parent)?, name)
    }

    /// Renames.
    pub fn rename(
        &self,
        parent: InodeNumber,
        name: &[u8],
        new_parent: InodeNumber,
        new_name: &[u8],
        mode: RenameMode,
    ) -> Result<()> {
        let (parent, new_parent) = (self.core.inode(parent)?, self.core.inode(new_parent)?);
        self.core.rename(&parent, name, &new_parent, new_name, mode)
    }

    /// Opens a regular file, checking that the backing file can be opened so (pair with
    /// [`Self::release`]). Where a transport sends no opens, reads and writes work without.
    pub fn open_file(&self, ino: InodeNumber, access: Access) -> Result<()> {
        self.core.open_for(&self.core.inode(ino)?, access)
    }

    /// Ends what [`Self::open_file`] or [`Self::create`] began.
    pub fn release(&self, ino: InodeNumber) {
        if let Ok(inode) = self.core.inode(ino) {
            self.core.release(&inode);
        }
    }

    /// Reads into `buffer`; the count, short only at the end of the file.
    pub fn read(&self, ino: InodeNumber, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        self.core.read(&self.core.inode(ino)?, offset, buffer)
    }

    /// Writes all of `data`; whether the [`Attributes::blocks`] told last may have changed, said
    /// once until they are told again.
    pub fn write(&self, ino: InodeNumber, offset: u64, data: &[u8]) -> Result<bool> {
        self.core.write(&self.core.inode(ino)?, offset, data)
    }

    /// `fsync(2)`, or `fdatasync(2)` with `data_only`.
    pub fn sync(&self, ino: InodeNumber, data_only: bool) -> Result<()> {
        self.core.sync_file(&self.core.inode(ino)?, data_only)
    }

    /// `fsync(2)` of a directory.
    pub fn sync_directory(&self, ino: InodeNumber) -> Result<()> {
        self.core.sync_directory(&self.core.inode(ino)?)
    }

    /// `fallocate(2)`.
    pub fn fallocate(
        &self,
        ino: InodeNumber,
        mode: FallocateMode,
        offset: u64,
        len: u64,
    ) -> Result<()> {
        self.core.allocate(&self.core.inode(ino)?, mode, offset, len)
    }

    /// `lseek(2)` for data and holes.
    pub fn seek(&self, ino: InodeNumber, offset: u64, whence: SeekWhence) -> Result<u64> {
        self.core.seek_content(&self.core.inode(ino)?, offset, whence)
    }

    /// Lists a directory from `cookie` (0: from the start) until `sink` answers `false`; an entry
    /// for which it does is listed again next time. With `attributes`, each entry comes with its
    /// [`Entry`] (unless it is damaged) and counts one lookup when taken.
    pub fn read_directory(
        &self,
        ino: InodeNumber,
        cookie: u64,
        attributes: bool,
        sink: &mut dyn FnMut(DirectoryEntry<'_>) -> bool,
    ) -> Result<()> {
        self.core.read_directory(&self.core.inode(ino)?, cookie, attributes, sink)
    }

    /// The value of an extended attribute.
    pub fn get_xattr(&self, ino: InodeNumber, name: &[u8]) -> Result<Vec<u8>> {
        self.core.get_xattr(&self.core.inode(ino)?, name)
    }

    /// The names of the extended attributes.
    pub fn list_xattr(&self, ino: InodeNumber) -> Result<Vec<Vec<u8>>> {
        self.core.list_xattr(&self.core.inode(ino)?)
    }

    /// Sets an extended attribute.
    pub fn set_xattr(
        &self,
        ino: InodeNumber,
        name: &[u8],
        value: &[u8],
        mode: XattrMode,
    ) -> Result<()> {
        self.core.set_xattr(&self.core.inode(ino)?, name, value, mode)
    }

    /// Removes an extended attribute.
    pub fn remove_xattr(&self, ino: InodeNumber, name: &[u8]) -> Result<()> {
        self.core.remove_xattr(&self.core.inode(ino)?, name)
    }

    /// `statvfs(3)`, of the filesystem below.
    pub fn filesystem_stat(&self) -> Result<FilesystemStat> {
        let mut stat = self.core.vault_directory.filesystem_stat()?;
        stat.name_max = u64::try_from(NAME_MAX).expect("small");
        Ok(stat)
    }

    /// Makes everything done so far durable.
    pub fn sync_all(&self) -> Result<()> {
        self.core.commit_all()
    }

    /// What the operations share, for the tests of what goes on below them.
    #[cfg(test)]
    pub(super) fn core(&self) -> &Core {
        &self.core
    }

    /// How many inodes are held in memory.
    pub fn cached_inodes(&self) -> usize {
        self.core.inodes.len()
    }

    /// Those of one of `parts` parts of them, at random.
    pub fn cached_part(&self, part: usize, parts: usize) -> Vec<InodeNumber> {
        self.core.drop_parents_left();
        self.core.inodes.part(part, parts)
    }

    /// A name by which an inode is known. `None` for the root, and where none is left.
    pub fn cached_name(&self, ino: InodeNumber) -> Option<CachedName> {
        let inode = self.core.inode(ino).ok()?;
        let location = inode.location()?;
        let directory = self.core.open_directory(&location.parent).ok()?;
        let name = self.core.plain_name(&directory, &location.entry)?;
        Some(CachedName { parent: location.parent.number, name, kind: inode.kind })
    }

    /// Makes everything durable and ends cleanly: the journal is emptied and the lock given up.
    ///
    /// # Errors
    /// When something could not be made durable; the next mount then recovers what was promised.
    /// Also when a sync failed before, which may have lost what was written, and no application was
    /// told.
    pub fn close(mut self) -> Result<()> {
        self.stop_threads();
        if self.core.options.read_only {
            return Ok(());
        }
        for inode in self.core.inodes.nameless() {
            self.core.remove_overflows_of(&inode);
        }
        self.core.commit_all()?;
        self.core.empty_journal()?;
        self.core.check_losses()?;
        match self.core.journal() {
            Some(journal) => Ok(journal.finish(&*self.core.vault_directory)?),
            None => Ok(()),
        }
    }

    fn stop_threads(&mut self) {
        self.core.begin_closing();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a background thread of the vault failed");
            }
        }
    }
}

impl Drop for FileSystem {
    fn drop(&mut self) {
        self.stop_threads();
    }
}

fn spawn(
    name: &str,
    core: &Arc<Core>,
    run: impl FnOnce(&Core) + Send + 'static,
) -> std::io::Result<JoinHandle<()>> {
    let core = core.clone();
    std::thread::Builder::new().name(name.to_owned()).spawn(move || run(&core))
}

/// After an unclean end, notes the span of time in which files may have torn blocks, and then
/// removes the journal; the spans known now.
fn note_unclean_end(
    vault: &dyn Directory,
    codecs: &Codecs,
    recovered: &Recovered,
) -> Result<Vec<Window>> {
    let mut windows = Core::read_windows(vault, &codecs.journal)?;
    if recovered.unclean {
        let from = recovered.since.unwrap_or(i64::MIN);
        windows.push(Window {
            from: from.saturating_sub(CLOCK_SLACK),
            until: backing_now(vault)?.seconds.saturating_add(CLOCK_SLACK),
        });
        Core::write_windows(vault, &codecs.journal, &windows)?;
    }
    if recovered.found {
        recovery::remove_journal(vault, codecs)?;
    }
    Ok(windows)
}

fn has_entries(directory: &dyn Directory) -> Result<bool> {
    let mut found = false;
    directory.read_entries(0, &mut |entry| {
        found = entry.name != b"." && entry.name != b"..";
        !found
    })?;
    Ok(found)
}
