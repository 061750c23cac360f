//! Verifying backups: by their checksums without a key, byte for byte with one, and by restoring
//! them to a place that is thrown away.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use super::chain::{Chain, Known, Selection};
use super::error::{Error, Result};
use super::glance::Glancing;
use super::place::lock;
use super::restore::{StoreCheck, check_stores};
use super::sidecar::Sidecar;
use crate::archive::{Control, Passed, SectionName};
use crate::tree::{Digest, LocalTree, TreeWriter};

/// Begins the names of directories for trial restores.
pub(super) const TEST_PREFIX: &str = ".strongroom-test-";
const CHUNK: usize = 1 << 20;
/// A younger directory may not be locked yet.
const LEFTOVER_AGE: Duration = Duration::from_secs(60);

/// Compares a backup's file with the checksum noted beside it; `None` where none is.
///
/// # Errors
/// [`Error::Checksum`] where it is another; when a file cannot be read.
pub fn verify_checksum(archive: &Path, control: Control<'_>) -> Result<Option<Digest>> {
    let Some(sidecar) = Sidecar::read(archive)? else { return Ok(None) };
    let mut file = File::open(archive).map_err(Error::io("open", archive))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0u8; CHUNK];
    loop {
        if control.cancelled.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(Error::Cancelled);
        }
        let count = match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Error::io("read", archive)(error)),
        };
        hasher.update(&buffer[..count]);
        control.progress.bytes(u64::try_from(count).unwrap_or(0));
    }
    if Digest(hasher.finalize().into()) == sidecar.sha256 {
        Ok(Some(sidecar.sha256))
    } else {
        Err(Error::Checksum(archive.to_owned()))
    }
}

/// Reads all of a backup and of those that it needs, checks every byte of them, and that what it needs
/// is there. Those in `known` are not read again, and those that are whole are added to it.
///
/// # Errors
/// What is wrong.
pub fn verify_whole(chain: &Chain<'_>, known: &mut Known, control: Control<'_>) -> Result<Passed> {
    chain.verify(known, control)
}

/// Restores a backup into `scratch` (a directory that must not be read by others, and may hold
/// plaintext for that time), runs the stores' checks on it, and removes it again.
///
/// # Errors
/// What is wrong with it.
pub fn test_restore(
    chain: &Chain<'_>,
    scratch: &Path,
    control: Control<'_>,
) -> Result<Vec<StoreCheck>> {
    remove_leftovers(scratch);
    let place = tempfile::Builder::new()
        .prefix(TEST_PREFIX)
        .tempdir_in(scratch)
        .map_err(Error::io("create a directory in", scratch))?;
    // While it is held, the directory is nobody's leftover.
    let _lock = lock(place.path())?;
    let mut trees = Vec::new();
    for section in &chain.reader().metadata().sections {
        let root = place.path().join(section.as_str());
        std::fs::create_dir(&root).map_err(Error::io("create", &root))?;
        // Whose files they are is not what is tested.
        let tree = LocalTree::open(&root)?.filling_an_empty_one();
        let tree = if rustix::process::geteuid().is_root() { tree } else { tree.as_permitted() };
        trees.push((section.clone(), Glancing::new(tree), root));
    }
    let targets: Vec<(SectionName, &dyn TreeWriter)> =
        trees.iter().map(|(section, tree, _)| (section.clone(), tree as &dyn TreeWriter)).collect();
    // Whether device files could be made is not what is tested.
    chain.restore(&targets, Selection::Everything, false, control)?;
    let mut checks = Vec::new();
    for (_, tree, root) in &trees {
        if tree.may_hold_stores() {
            checks.extend(check_stores(root, control.cancelled)?);
        }
        tree.remove(&crate::tree::TreePath::root())?;
    }
    place.close().map_err(Error::io("remove what was restored in", scratch))?;
    Ok(checks)
}

/// Removes what processes that were killed left of trial restores: it is plain.
fn remove_leftovers(scratch: &Path) {
    let Ok(entries) = std::fs::read_dir(scratch) else { return };
    let own = rustix::process::geteuid().as_raw();
    for entry in entries.flatten() {
        let is_leftover = |status: std::fs::Metadata| {
            let age = status.modified().ok().and_then(|time| time.elapsed().ok());
            status.is_dir() && status.uid() == own && age.is_some_and(|age| age > LEFTOVER_AGE)
        };
        if entry.file_name().as_bytes().starts_with(TEST_PREFIX.as_bytes())
            && entry.metadata().is_ok_and(is_leftover)
            && lock(&entry.path()).is_ok()
        {
            // What cannot be removed is no reason not to test.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_what_nobody_holds_is_a_leftover() {
        let scratch = tempfile::tempdir().unwrap();
        let old = std::time::SystemTime::now() - LEFTOVER_AGE * 2;
        let made = ["dead", "held", "young", "other"].map(|name| {
            let prefix = if name == "other" { "x-" } else { TEST_PREFIX };
            let path = scratch.path().join(format!("{prefix}{name}"));
            std::fs::create_dir(&path).unwrap();
            std::fs::write(path.join("plain"), "").unwrap();
            if name != "young" {
                File::open(&path).unwrap().set_modified(old).unwrap();
            }
            path
        });
        let lock = lock(&made[1]).unwrap();
        remove_leftovers(scratch.path());
        assert_eq!(made.map(|path| path.exists()), [false, true, true, true]);
        drop(lock);
    }
}
