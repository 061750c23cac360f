//! The backups of a directory, and which needs which.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::error::{Error, Result};
use super::name::{BackupName, sidecar_path};
use super::sidecar::Sidecar;
use crate::archive::{ArchiveId, ArchiveKind, ChainLink};
use crate::backing::ExclusiveLock;

const LOCK: &str = ".strongroom-lock";

/// One backup, as far as it can be known without a key.
#[derive(Clone, Debug)]
pub struct Backup {
    /// The archive.
    pub path: PathBuf,
    /// Its name, taken apart.
    pub name: BackupName,
    /// Bytes of the file.
    pub size: u64,
    /// What is noted of it; where nothing is, why.
    pub sidecar: std::result::Result<Sidecar, String>,
}

impl Backup {
    /// Its file name.
    pub fn file_name(&self) -> String {
        self.name.file_name()
    }

    /// Its identity, where it is noted.
    pub fn id(&self) -> Option<ArchiveId> {
        self.sidecar.as_ref().ok().map(|sidecar| sidecar.id)
    }

    /// What kind it is, where that is noted.
    pub fn kind(&self) -> Option<ArchiveKind> {
        self.sidecar.as_ref().ok().map(|sidecar| sidecar.kind)
    }

    /// The backups that it needs, as far as is noted.
    pub fn chain(&self) -> &[ChainLink] {
        self.sidecar.as_ref().map_or(&[], |sidecar| &sidecar.chain)
    }
}

/// All backups of a directory, the oldest first.
#[derive(Clone, Debug)]
pub struct Catalog {
    directory: PathBuf,
    backups: Vec<Backup>,
}

impl Catalog {
    /// Looks at a directory. Files that are not named like backups are passed over.
    ///
    /// # Errors
    /// When it cannot be listed.
    pub fn read(directory: &Path) -> Result<Self> {
        let failed = |error| Error::io("list", directory)(error);
        let mut backups = Vec::new();
        for entry in std::fs::read_dir(directory).map_err(failed)? {
            let entry = entry.map_err(|error| Error::io("list", directory)(error))?;
            let Some(name) = entry.file_name().to_str().and_then(BackupName::parse) else {
                continue;
            };
            let path = entry.path();
            let status = match entry.metadata() {
                Ok(status) if status.is_file() => status,
                // Another process may be deleting.
                _ => continue,
            };
            let sidecar = match Sidecar::read(&path) {
                Ok(Some(sidecar)) if sidecar.file == name.file_name() => Ok(sidecar),
                Ok(Some(_)) => Err("its notes are of another file".to_owned()),
                Ok(None) => Err("it has no notes beside it".to_owned()),
                Err(error) => Err(error.to_string()),
            };
            backups.push(Backup { path, name, size: status.len(), sidecar });
        }
        backups.sort_by(|left, right| {
            (left.name.created, &left.path).cmp(&(right.name.created, &right.path))
        });
        Ok(Self { directory: directory.to_owned(), backups })
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The backups, the oldest first.
    pub fn backups(&self) -> &[Backup] {
        &self.backups
    }

    /// The backup with this identity.
    pub fn by_id(&self, id: ArchiveId) -> Option<&Backup> {
        self.backups.iter().find(|backup| backup.id() == Some(id))
    }

    /// The newest backup of this name of one of these kinds, with everything that it needs here.
    pub fn latest(&self, name: &str, kinds: &[ArchiveKind]) -> Option<&Backup> {
        self.backups.iter().rev().find(|backup| {
            backup.name.name == name
                && backup.kind().is_some_and(|kind| kinds.contains(&kind))
                && backup.chain().iter().all(|link| self.by_id(link.id).is_some())
        })
    }

    /// The file names of the backups that need this one.
    pub fn dependents(&self, id: ArchiveId) -> Vec<String> {
        self.backups
            .iter()
            .filter(|backup| backup.chain().iter().any(|link| link.id == id))
            .map(Backup::file_name)
            .collect()
    }

    /// The file names of the backups that need this one, or may: of a later one of its name whose notes
    /// are lost nobody knows.
    pub fn possible_dependents(&self, backup: &Backup) -> Vec<String> {
        let may_need = |one: &&Backup| {
            one.sidecar.is_err()
                && one.name.name == backup.name.name
                && one.name.created > backup.name.created
        };
        let mut files = backup.id().map(|id| self.dependents(id)).unwrap_or_default();
        files.extend(self.backups.iter().filter(may_need).map(Backup::file_name));
        files
    }

    /// Where the archives of a chain lie.
    ///
    /// # Errors
    /// [`Error::MissingLink`].
    pub fn resolve(&self, path: &Path, chain: &[ChainLink]) -> Result<HashMap<ArchiveId, PathBuf>> {
        chain
            .iter()
            .map(|link| match self.by_id(link.id) {
                Some(backup) => Ok((link.id, backup.path.clone())),
                None => {
                    // Its notes may be lost; its name may still be right.
                    let named = self.directory.join(&link.file);
                    if BackupName::parse(&link.file).is_some() && named.is_file() {
                        return Ok((link.id, named));
                    }
                    let (file, id) = (link.file.clone(), link.id);
                    Err(Error::MissingLink { path: path.to_owned(), file, id })
                }
            })
            .collect()
    }

    /// Whether these may go.
    ///
    /// # Errors
    /// [`Error::Needed`], where one that stays needs one of them, or may.
    pub fn check_needed(&self, goes: &[&Backup]) -> Result<()> {
        for backup in goes {
            let needed_by: Vec<_> = self
                .possible_dependents(backup)
                .into_iter()
                .filter(|file| !goes.iter().any(|other| other.file_name() == *file))
                .collect();
            if !needed_by.is_empty() {
                return Err(Error::Needed { path: backup.path.clone(), needed_by });
            }
        }
        Ok(())
    }

    /// Deletes backups with their notes: those that need others first, so that no moment leaves
    /// one without what it needs.
    ///
    /// # Errors
    /// [`Error::Needed`] before anything is deleted, where one that stays needs one that goes;
    /// when a file cannot be removed.
    pub fn delete(&self, goes: &[&Backup]) -> Result<()> {
        self.check_needed(goes)?;
        let mut goes = goes.to_vec();
        goes.sort_by_key(|backup| std::cmp::Reverse(backup.chain().len()));
        for backup in goes {
            remove(&backup.path)?;
            if let Some(sidecar) = sidecar_path(&backup.path) {
                remove(&sidecar)?;
            }
        }
        File::open(&self.directory)
            .and_then(|directory| directory.sync_all())
            .map_err(Error::io("sync", &self.directory))
    }
}

fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io("remove", path)(error))
        }
        _ => Ok(()),
    }
}

/// Held by whoever makes or deletes backups in a directory.
pub struct Lock {
    _lock: ExclusiveLock,
}

impl Lock {
    /// Takes the lock, and removes what writers that were killed left.
    ///
    /// # Errors
    /// [`Error::Locked`] while another process has it.
    pub fn take(directory: &Path) -> Result<Self> {
        use std::os::unix::fs::OpenOptionsExt as _;
        let path = directory.join(LOCK);
        let file = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&path)
            .map_err(Error::io("open", &path))?;
        let lock = match ExclusiveLock::take(file.into()) {
            Ok(lock) => lock,
            Err(Errno::WOULDBLOCK) => return Err(Error::Locked(directory.to_owned())),
            Err(errno) => return Err(Error::errno("lock", path)(errno)),
        };
        crate::archive::remove_leftovers(directory)?;
        Ok(Self { _lock: lock })
    }
}
