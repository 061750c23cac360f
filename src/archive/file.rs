//! Archive files: written under a temporary name, named when they are whole.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread::JoinHandle;

use crossbeam_channel::bounded;
use rustix::fs::{Advice, AtFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::error::{Error, Result};
use super::gather::{Section, Unchanged};
use super::growing::Growth;
use super::keys::{KeySet, Keyring, SealingKeys};
use super::metadata::Description;
use super::pass::Control;
use super::pipe::{Output, PLAIN_BUFFER, Sealer};
use super::read::ArchiveReader;
use super::threads::{start, start_in};
use super::write::{self, ReadBack, WriteOptions, Written};
use crate::crypto::{ArchiveKey, random_array};
use crate::format::archive::{
    ArchiveHeader, ArchiveId, Compression, SEGMENT_LOG2, UnverifiedHeader, segment_cipher,
};

/// Begins the names of archives that are not whole.
pub const PARTIAL_PREFIX: &str = ".strongroom-partial-";

/// An archive that has its name not yet: only its owner can read it, and it goes when this is
/// dropped.
pub struct PendingArchive {
    directory: OwnedFd,
    shown: PathBuf,
    partial: String,
    /// Makes durable what was written, while others go on.
    syncing: Option<JoinHandle<io::Result<()>>>,
    published: bool,
}

impl PendingArchive {
    /// A new file in `directory`.
    ///
    /// # Errors
    /// When it cannot be created.
    pub fn create(directory: &Path) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = rustix::fs::open(directory, flags, Mode::empty())
            .map_err(|errno| Error::io("open", directory)(errno.into()))?;
        let id: String = random_array::<8>().iter().map(|byte| format!("{byte:02x}")).collect();
        let pending = Self {
            directory: opened,
            shown: directory.to_owned(),
            partial: format!("{PARTIAL_PREFIX}{id}"),
            syncing: None,
            published: false,
        };
        pending.open(OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL, "create")?;
        Ok(pending)
    }

    fn open(&self, flags: OFlags, action: &'static str) -> Result<File> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&self.directory, &*self.partial, flags, Mode::RUSR | Mode::WUSR)
            .map(File::from)
            .map_err(|errno| Error::io(action, self.path())(errno.into()))
    }

    /// Where it lies for now.
    pub fn path(&self) -> PathBuf {
        self.shown.join(&self.partial)
    }

    /// Writes the archive: sealed under `keys`, or as a plain tar without; and reads it back, as `options`
    /// say. Keys that are still being derived are waited for only when there is much to be sealed. Nothing
    /// is durable, and nothing has a name, before [`Self::publish`].
    ///
    /// # Errors
    /// When a section cannot be read, the file cannot be written, or there are no keys after all;
    /// what is wrong with what was read back. The file is of no use then.
    pub fn write(
        &mut self,
        keys: Option<&dyn SealingKeys>,
        description: &Description,
        sections: &[Section<'_>],
        unchanged: Option<&mut Unchanged<'_>>,
        options: &WriteOptions<'_>,
    ) -> Result<Written> {
        self.synced()?;
        let file = self.open(OFlags::WRONLY | OFlags::TRUNC, "open")?;
        let path = self.path();
        let (id, compression) = (ArchiveId::random(), options.compression);
        let capacity = if keys.is_some() { 1 << SEGMENT_LOG2 } else { PLAIN_BUFFER };
        let durable = file.try_clone().map_err(Error::io("open", &path))?;
        let meanwhile = options.read_back == ReadBack::Written;
        let growth = Arc::new(Growth::default());
        let (tell, sealer) = bounded(1);
        let (written, read) = std::thread::scope(|scope| {
            // Before whoever reads is waited for, whatever happens here.
            let end = growth.end();
            let follow = || start_in(scope, || self.follow(keys, &growth, options.cancelled));
            // Without a thread for it, it is read afterwards.
            let reading = meanwhile.then(follow).and_then(Result::ok);
            let told = reading.is_some().then(|| Arc::clone(&growth));
            let output = Output::new(file, &path, sealer, capacity, told)?;
            start_in(scope, move || {
                let sealer = match keys {
                    None => Ok(Sealer::plain()),
                    Some(keys) => sealer_of(keys, id, compression),
                };
                // Nobody waits for it any more: then it is not wanted.
                let _ = tell.send(sealer);
            })?;
            let sealed = keys.is_some();
            let written =
                write::write(output, sealed, id, description, sections, unchanged, options);
            drop(end);
            // What is wrong is told by whoever reads it once more.
            let read = reading.is_some_and(|reading| matches!(reading.join(), Ok(Ok(()))));
            written.map(|written| (written, read))
        })?;
        self.syncing = match start(move || durable.sync_all()) {
            Ok(syncing) => Some(syncing),
            // By the only thread that there is.
            Err(_) => {
                let file = self.open(OFlags::WRONLY, "open")?;
                file.sync_all().map_err(Error::io("sync", &path))?;
                None
            }
        };
        let control = Control { cancelled: options.cancelled, progress: options.progress };
        match options.read_back {
            // Not every filesystem lets read what is being written: the closed file counts.
            ReadBack::Written if !read => {
                self.synced()?;
                self.read_again(keys, &written)?.verify_written(control)?;
            }
            ReadBack::Whole => {
                self.synced()?;
                let file = self.open(OFlags::RDONLY, "open")?;
                // A hint: without it nothing is lost.
                let _ = rustix::fs::fadvise(&file, 0, None, Advice::DontNeed);
                drop(file);
                self.read_again(keys, &written)?.verify(control)?;
            }
            ReadBack::Written | ReadBack::No => {}
        }
        Ok(written)
    }

    /// Reads back what is being written, as far as it is there.
    fn follow(
        &self,
        keys: Option<&dyn SealingKeys>,
        growth: &Arc<Growth>,
        cancelled: &AtomicBool,
    ) -> Result<()> {
        let file = self.open(OFlags::RDONLY, "open")?;
        let control = Control { cancelled, progress: &() };
        let unlock = |header: &UnverifiedHeader| archive_key(keys, header);
        ArchiveReader::verify_growing(file, &self.path(), &unlock, growth, control)
    }

    /// Opens what was written, if it is as long.
    fn read_again(
        &self,
        keys: Option<&dyn SealingKeys>,
        written: &Written,
    ) -> Result<ArchiveReader> {
        let file = self.open(OFlags::RDONLY, "open")?;
        check_length(&file, &self.path(), written.file_len)?;
        ArchiveReader::of_file(file, &self.path(), &|header| archive_key(keys, header))
    }

    /// Waits until what was written is durable.
    fn synced(&mut self) -> Result<()> {
        let Some(syncing) = self.syncing.take() else { return Ok(()) };
        syncing.join().map_err(|_| Error::Worker)?.map_err(Error::io("sync", self.path()))
    }

    /// Opens what was written, to verify it before it is relied on.
    ///
    /// # Errors
    /// Those of [`ArchiveReader::open`].
    pub fn reader(&self, keyring: &Keyring) -> Result<ArchiveReader> {
        let file = self.open(OFlags::RDONLY, "open")?;
        ArchiveReader::of_file(file, &self.path(), &|header| keyring.unlock(header))
    }

    /// Gives the archive its name, once its content is durable; the name is, too, when this returns.
    /// Nothing is ever replaced.
    ///
    /// # Errors
    /// [`Error::Exists`] where the name is taken; those of the disk. The archive goes then.
    pub fn publish(mut self, name: &str) -> Result<PathBuf> {
        self.synced()?;
        let target = self.shown.join(name);
        let (from, to) = (&*self.partial, name);
        let flags = RenameFlags::NOREPLACE;
        let at = &self.directory;
        rustix::fs::renameat_with(at, from, at, to, flags)
            .or_else(|errno| match errno {
                // Filesystems without that flag still have links, which never replace.
                Errno::INVAL | Errno::NOSYS => {
                    rustix::fs::linkat(at, from, at, to, AtFlags::empty())?;
                    rustix::fs::unlinkat(at, from, AtFlags::empty())
                }
                other => Err(other),
            })
            .map_err(|errno| match errno {
                Errno::EXIST => Error::Exists(target.clone()),
                other => Error::io("name", &target)(other.into()),
            })?;
        self.published = true;
        rustix::fs::fsync(at).map_err(|errno| Error::io("sync", &self.shown)(errno.into()))?;
        Ok(target)
    }
}

/// Nobody but its writer may have made a file longer, or shorter.
pub(super) fn check_length(file: &File, path: &Path, written: u64) -> Result<()> {
    match file.metadata().map_err(Error::io("read", path))?.len() {
        there if there == written => Ok(()),
        _ => Err(Error::Damaged("it is not as long as what was written to it".into())),
    }
}

/// The key of an archive that was sealed with these.
fn archive_key(keys: Option<&dyn SealingKeys>, header: &UnverifiedHeader) -> Result<ArchiveKey> {
    let mut key = None;
    let id = header.unverified().id;
    keys.ok_or(Error::NoSecret)?.lend(&mut |keys| key = Some(keys.archive_key(id)))?;
    key.ok_or(Error::NoSecret)
}

/// The header of an archive, and what seals the rest.
fn sealer_of(keys: &dyn SealingKeys, id: ArchiveId, compression: Compression) -> Result<Sealer> {
    let mut sealer = None;
    keys.lend(&mut |keys: &KeySet| {
        let key = keys.archive_key(id);
        let config = keys.config().clone();
        let header =
            ArchiveHeader { compression, segment_log2: SEGMENT_LOG2, id, config }.encode(&key);
        let cipher = Some(segment_cipher(&key, &header));
        sealer = Some(Sealer { header, cipher });
    })?;
    sealer.ok_or(Error::NoSecret)
}

impl Drop for PendingArchive {
    fn drop(&mut self) {
        if !self.published {
            // Nobody can be told, and the name says what a leftover is.
            let _ = rustix::fs::unlinkat(&self.directory, &*self.partial, AtFlags::empty());
        }
    }
}

/// Removes what writers that were killed left in `directory`; the names of what was removed. Only
/// for a directory in which nobody is writing an archive.
///
/// # Errors
/// When the directory cannot be listed or a leftover not removed.
pub fn remove_leftovers(directory: &Path) -> Result<Vec<PathBuf>> {
    let failed = |error: io::Error| Error::io("list", directory)(error);
    let mut removed = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_name().as_bytes().starts_with(PARTIAL_PREFIX.as_bytes()) {
            // A directory is of what is sealed apart in an archive that is not sealed.
            let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
            let gone = match is_directory {
                true => std::fs::remove_dir_all(entry.path()),
                false => std::fs::remove_file(entry.path()),
            };
            gone.map_err(Error::io("remove", entry.path()))?;
            removed.push(entry.path());
        }
    }
    Ok(removed)
}
