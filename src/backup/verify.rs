//! Verifying backups: by their checksums without a key, byte for byte with one, and by restoring
//! them to a place that is thrown away.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use sha2::{Digest as _, Sha256};

use super::chain::Chain;
use super::error::{Error, Result};
use super::restore::{StoreCheck, check_stores};
use super::sidecar::Sidecar;
use crate::archive::{Control, Passed, SectionName, select_all};
use crate::tree::{Digest, LocalTree, TreeWriter};

const CHUNK: usize = 1 << 20;

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

/// Reads all of a backup, checks every byte of it, and that what it needs of other backups is
/// there.
///
/// # Errors
/// What is wrong.
pub fn verify_whole(chain: &Chain<'_>, control: Control<'_>) -> Result<Passed> {
    chain.verify(control)
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
    let place = tempfile::Builder::new()
        .prefix(".strongroom-test-")
        .tempdir_in(scratch)
        .map_err(Error::io("create a directory in", scratch))?;
    let mut trees = Vec::new();
    for section in &chain.reader().metadata().sections {
        let root = place.path().join(section.as_str());
        std::fs::create_dir(&root).map_err(Error::io("create", &root))?;
        trees.push((section.clone(), LocalTree::open(&root)?, root));
    }
    let targets: Vec<(SectionName, &dyn TreeWriter)> =
        trees.iter().map(|(section, tree, _)| (section.clone(), tree as &dyn TreeWriter)).collect();
    // Whether device files could be made is not what is tested.
    let select = |section: &SectionName, path: &_, kind| {
        use crate::tree::EntryKind::{BlockDevice, CharacterDevice};
        !matches!(kind, BlockDevice | CharacterDevice) && select_all(section, path, kind)
    };
    chain.restore(&targets, &select, false, control)?;
    let mut checks = Vec::new();
    for (_, tree, root) in &trees {
        checks.extend(check_stores(root)?);
        tree.remove(&crate::tree::TreePath::root())?;
    }
    place.close().map_err(Error::io("remove what was restored in", scratch))?;
    Ok(checks)
}
