//! Owns the place for a private copy of a store that can only be read by replaying its log: the
//! caller's directory on an encrypted mount, else memory. Never a plain disk.

use std::path::Path;

use tempfile::TempDir;

use super::{CheckOptions, Error};

/// A private directory that vanishes when dropped, or why there is none.
pub(super) enum Place {
    Here(TempDir),
    Nowhere(String),
}

/// Finds a place for so many bytes.
pub(super) fn place(options: &CheckOptions, bytes: u64) -> Result<Place, Error> {
    if let Some(scratch) = &options.scratch {
        return make(scratch);
    }
    match memory(bytes) {
        Ok(path) => make(path),
        Err(reason) => Ok(Place::Nowhere(reason)),
    }
}

fn make(parent: &Path) -> Result<Place, Error> {
    use std::os::unix::fs::PermissionsExt;
    tempfile::Builder::new()
        .prefix(".strongroom-check-")
        .permissions(std::fs::Permissions::from_mode(0o700))
        .tempdir_in(parent)
        .map(Place::Here)
        .map_err(|error| Error::io(parent, "make a private directory in", error))
}

/// A directory that lies in memory and stays there, with room for so many bytes.
#[cfg(target_os = "linux")]
fn memory(bytes: u64) -> Result<&'static Path, String> {
    const SHARED_MEMORY: &str = "/dev/shm";
    const TMPFS_MAGIC: u64 = 0x0102_1994;
    let path = Path::new(SHARED_MEMORY);
    let no_memory = || format!("{SHARED_MEMORY} does not lie in memory");
    let stat = rustix::fs::statfs(path).map_err(|_| no_memory())?;
    if u64::try_from(stat.f_type).ok() != Some(TMPFS_MAGIC) {
        return Err(no_memory());
    }
    if swaps_to_disk(&std::fs::read_to_string("/proc/swaps").unwrap_or_default()) {
        return Err("memory may be swapped out to a disk".to_owned());
    }
    let block = u64::try_from(stat.f_bsize).unwrap_or(0);
    let free = block.saturating_mul(stat.f_bavail) / 2;
    let available = available_memory(&std::fs::read_to_string("/proc/meminfo").unwrap_or_default());
    let room = free.min(available / 4);
    if bytes > room {
        return Err(format!(
            "a private copy of {bytes} bytes does not fit into memory ({room} bytes)"
        ));
    }
    Ok(path)
}

#[cfg(not(target_os = "linux"))]
fn memory(_bytes: u64) -> Result<&'static Path, String> {
    Err("there is no directory in memory".to_owned())
}

/// Whether `/proc/swaps` lists anything but compressed memory.
fn swaps_to_disk(swaps: &str) -> bool {
    swaps.lines().skip(1).any(|line| !line.starts_with("/dev/zram"))
}

/// `MemAvailable` of `/proc/meminfo`, in bytes; 0 where it isn't told.
fn available_memory(meminfo: &str) -> u64 {
    meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|number| number.parse::<u64>().ok())
        .map_or(0, |kibibytes| kibibytes.saturating_mul(1024))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn swaps_and_memory_are_read() {
        let header = "Filename\tType\tSize\tUsed\tPriority\n";
        assert!(!swaps_to_disk(header));
        assert!(!swaps_to_disk(&format!("{header}/dev/zram0 partition 1 0 5\n")));
        assert!(swaps_to_disk(&format!("{header}/swapfile file 1 0 -2\n")));
        assert_eq!(available_memory("MemTotal: 9 kB\nMemAvailable:   12 kB\n"), 12 * 1024);
        assert_eq!(available_memory(""), 0);
    }

    #[test]
    fn what_does_not_fit_has_no_place() {
        let place = place(&CheckOptions::default(), u64::MAX);
        assert!(matches!(place, Ok(Place::Nowhere(_))));
    }
}
