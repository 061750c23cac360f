//! Where a migration keeps what it keeps: `VAULT/migrations/ID/`, and a marker beside the source
//! by which a second run finds the first.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::{Error, Result};
use super::journal::{Header, MigrationId, peek};
use super::operations::{Change, Hands, parent_of, sibling, sync_parent};
use super::record::{Identity, StoredPath};
use crate::backing::os::OsDirectory;
use crate::backing::{Directory, ExclusiveLock, LockOutcome};

/// The directory in the vault that holds all migrations.
const MIGRATIONS: &str = "migrations";
const LOCK: &[u8] = b"lock";

/// The files of one migration.
#[derive(Clone, Debug)]
pub(super) struct Place {
    directory: PathBuf,
    mount_point: PathBuf,
}

impl Place {
    pub(super) fn new(vault: &Path, id: MigrationId) -> Self {
        Self {
            directory: vault.join(MIGRATIONS).join(id.to_string()),
            mount_point: sibling(vault, ".", ".migration-mount"),
        }
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// The source's entries as they were read.
    pub(super) fn source_ledger(&self) -> PathBuf {
        self.directory.join("source.ledger")
    }

    /// The entries of the tree that comes back.
    pub(super) fn restored_ledger(&self) -> PathBuf {
        self.directory.join("restored.ledger")
    }

    /// A mount point of the migration's own, where the app's must not be used (yet). Beside the
    /// vault, not in it: whoever copies the vault must not meet its plaintext.
    pub(super) fn mount_point(&self) -> &Path {
        &self.mount_point
    }

    /// Opens the directory for its journal.
    pub(super) fn open(&self) -> Result<Box<dyn Directory>> {
        match OsDirectory::open(&self.directory) {
            Ok(directory) => Ok(Box::new(directory)),
            Err(error) => Err(Error::io("open", &self.directory, error)),
        }
    }

    /// Makes the directory, durably, and those above it.
    pub(super) fn create(&self, hands: &Hands) -> Result<()> {
        for directory in [parent_of(&self.directory), &self.directory] {
            match hands.make_directory(directory, 0o700) {
                Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::AlreadyExists => {}
                outcome => outcome?,
            }
        }
        Ok(())
    }
}

/// The right to run a migration on a vault.
pub(super) struct VaultLock(
    #[expect(dead_code, reason = "held, not read")] Box<dyn std::any::Any + Send + Sync>,
);

impl VaultLock {
    /// Takes the lock.
    ///
    /// # Errors
    /// [`Error::Running`] when another process has it.
    pub(super) fn take(vault: &Path, hands: &Hands) -> Result<Self> {
        let path = vault.join(MIGRATIONS);
        if !path.is_dir() {
            match hands.make_directory(&path, 0o700) {
                Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::AlreadyExists => {}
                outcome => outcome?,
            }
        }
        let directory =
            OsDirectory::open(&path).map_err(|error| Error::io("open", &path, error))?;
        let owner = format!("process {}", std::process::id());
        match directory.lock(LOCK, owner.as_bytes()) {
            Ok(LockOutcome::Held(guard)) => Ok(Self(guard)),
            Ok(LockOutcome::Busy(owner)) => Err(Error::Running {
                path: vault.to_owned(),
                owner: String::from_utf8_lossy(&owner)
                    .chars()
                    .filter(|c| !c.is_control())
                    .collect(),
            }),
            Err(error) => Err(Error::io("lock", &path, error)),
        }
    }
}

/// The right to move a source: a lock on the directory itself, which changes nothing of it.
pub(super) struct SourceLock {
    /// `None` on a filesystem that has no locks.
    _lock: Option<ExclusiveLock>,
}

impl SourceLock {
    /// Takes the lock.
    ///
    /// # Errors
    /// [`Error::Running`] when another process has it.
    pub(super) fn take(source: &Path) -> Result<Self> {
        let directory = super::operations::open_directory(source)
            .map_err(|error| Error::io("open", source, error))?;
        match ExclusiveLock::take(directory) {
            Ok(lock) => Ok(Self { _lock: Some(lock) }),
            Err(rustix::io::Errno::WOULDBLOCK) => {
                Err(Error::Running { path: source.to_owned(), owner: "another process".to_owned() })
            }
            // A filesystem without locks has none to offer; the marker still tells.
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOLCK) => {
                Ok(Self { _lock: None })
            }
            Err(error) => Err(Error::io("lock", source, error)),
        }
    }
}

/// The identity of the directory at `path`, not followed where it is a symlink.
///
/// # Errors
/// When it cannot be looked at.
pub(super) fn identify(path: &Path) -> io::Result<Identity> {
    use rustix::fs::{AtFlags, CWD, StatxFlags};
    let wanted = StatxFlags::INO | StatxFlags::BTIME;
    let stat = rustix::fs::statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, wanted)?;
    let has_birth = StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::BTIME);
    let born = has_birth.then(|| {
        i128::from(stat.stx_btime.tv_sec) * 1_000_000_000 + i128::from(stat.stx_btime.tv_nsec)
    });
    Ok(Identity { inode: stat.stx_ino, born })
}

/// Whether the directory at `path` is the one with this identity; `false` also where nothing is.
///
/// # Errors
/// When that cannot be told.
pub(super) fn is_at(identity: Identity, path: &Path) -> Result<bool> {
    match identify(path) {
        Ok(found) => Ok(found == identity),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Error::io("inspect", path, error)),
    }
}

/// Every migration of a vault, by number, with what its journal's header says. A directory
/// without a journal is one that was never begun.
///
/// # Errors
/// When the directory cannot be read.
pub fn migrations(vault: &Path) -> Result<Vec<(MigrationId, Header)>> {
    let path = vault.join(MIGRATIONS);
    let failed = |error: io::Error| Error::io("list", &path, error);
    let entries = match fs::read_dir(&path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let header = OsDirectory::open(&entry.path()).and_then(|directory| peek(&directory));
        let journal = || entry.path().join("journal");
        match header {
            Ok(Some(header)) => found.push((id, header)),
            Ok(None) => {}
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                let why = "its header cannot be read";
                return Err(Error::JournalDamaged { path: journal(), why });
            }
            Err(error) => return Err(Error::io("read", &journal(), error)),
        }
    }
    found.sort_by_key(|(id, _)| *id);
    Ok(found)
}

/// What the marker beside a source says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Marker {
    /// For whoever finds the file.
    note: String,
    vault: StoredPath,
    id: String,
}

/// Longest marker that is read.
const MARKER_LIMIT: u64 = 64 << 10;
const MARKER_SUFFIX: &str = ".strongroom-migration";

fn marker_path(source: &Path) -> PathBuf {
    sibling(source, ".", MARKER_SUFFIX)
}

/// Whether a name is that of a marker.
pub(super) fn is_marker_name(name: &[u8]) -> bool {
    name.starts_with(b".") && name.ends_with(MARKER_SUFFIX.as_bytes())
}

/// Leaves the marker; one of a migration that is over makes way. `false` where the directory
/// beside the source cannot be written by this user.
pub(super) fn leave_marker(
    hands: &Hands,
    source: &Path,
    vault: &Path,
    id: MigrationId,
) -> Result<bool> {
    let path = marker_path(source);
    let marker = Marker {
        note: "a migration of strongroom is under way here; `strongroom migrate status` tells \
               where it stands, and resume or rollback end it"
            .to_owned(),
        vault: vault.into(),
        id: id.to_string(),
    };
    let json = serde_json::to_vec(&marker).map_err(|error| Error::io("write", &path, error))?;
    if super::operations::exists(&path).map_err(|error| Error::io("inspect", &path, error))? {
        hands.unlink(&path)?;
    }
    match hands.create_file(Change::Marker, &path, &json) {
        Ok(()) => Ok(true),
        Err(Error::Io { source, .. })
            if matches!(
                source.kind(),
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem
            ) =>
        {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// Takes the marker away again, if it is this migration's.
pub(super) fn remove_marker(hands: &Hands, source: &Path, id: MigrationId) -> Result<()> {
    let path = marker_path(source);
    match read_marker(&path)? {
        Some(marker) if marker.id == id.to_string() => hands.perform(Change::Marker, &path, || {
            fs::remove_file(&path)
                .and_then(|()| sync_parent(&path))
                .map_err(|error| Error::io("remove", &path, error))
        }),
        _ => Ok(()),
    }
}

fn read_marker(path: &Path) -> Result<Option<Marker>> {
    let failed = |error: io::Error| Error::io("read", path, error);
    let stat = match path.symlink_metadata() {
        Ok(stat) => stat,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    if !stat.is_file() || stat.len() > MARKER_LIMIT {
        return Ok(None);
    }
    Ok(serde_json::from_slice(&fs::read(path).map_err(failed)?).ok())
}

/// Refuses a source that an unfinished migration covers: its own, or one of a directory above it.
///
/// # Errors
/// [`Error::Unfinished`].
pub(super) fn refuse_covered(source: &Path) -> Result<()> {
    source.ancestors().try_for_each(|path| {
        if path.file_name().is_some() { refuse_marker(&marker_path(path), path) } else { Ok(()) }
    })
}

/// Refuses when the marker at `marker`, about `source`, is of an unfinished migration.
///
/// # Errors
/// [`Error::Unfinished`].
pub(super) fn refuse_marker(marker: &Path, source: &Path) -> Result<()> {
    let Some(found) = read_marker(marker)? else { return Ok(()) };
    let vault = found.vault.as_path();
    let Ok(id) = found.id.parse::<MigrationId>() else { return Ok(()) };
    if !vault.is_dir() {
        // The vault may be on a disk that is not mounted now.
        return Err(Error::Unfinished {
            directory: source.to_owned(),
            vault: vault.to_owned(),
            id: found.id,
            marker: Some(marker.to_owned()),
        });
    }
    let known = migrations(vault)?.into_iter().find(|(known, _)| *known == id);
    match known {
        Some((_, header)) if !header.phase.is_finished() => Err(Error::Unfinished {
            directory: source.to_owned(),
            vault: vault.to_owned(),
            id: found.id,
            marker: None,
        }),
        _ => Ok(()),
    }
}

/// Whether one path is the other, or lies below it. Both are canonical.
pub(super) fn overlap(one: &Path, other: &Path) -> bool {
    one.starts_with(other) || other.starts_with(one)
}

/// Canonicalises a path whose last component may not exist yet.
///
/// # Errors
/// When its parent does not exist.
pub(super) fn canonical(path: &Path) -> Result<PathBuf> {
    let failed = |error: io::Error| Error::io("find", path, error);
    match fs::canonicalize(path) {
        Ok(canonical) => Ok(canonical),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let name = path.file_name().filter(|name| !name.as_bytes().is_empty());
            match name {
                Some(name) => Ok(fs::canonicalize(parent_of(path)).map_err(failed)?.join(name)),
                None => Err(failed(error)),
            }
        }
        Err(error) => Err(failed(error)),
    }
}
