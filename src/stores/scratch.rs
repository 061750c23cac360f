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
pub(super) fn place(options: &CheckOptions<'_>, bytes: u64) -> Result<Place, Error> {
    if let Some(scratch) = &options.scratch {
        return make(scratch);
    }
    match memory(bytes) {
        Ok(path) => make(path),
        Err(reason) => Ok(Place::Nowhere(reason)),
    }
}

/// How the names of private directories begin; the process that made one follows.
const PREFIX: &str = ".strongroom-check-";
const SHARED_MEMORY: &str = "/dev/shm";

/// Which process: number, time of its start, and the namespace in which the number counts.
fn owner(process: &str) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let (number, _) = stat.split_once(' ')?;
    // The name may hold anything, but no field after it holds a bracket.
    let start = stat.rsplit_once(')')?.1.split_whitespace().nth(19)?;
    let namespace = std::fs::read_link("/proc/self/ns/pid").ok()?;
    let namespace = namespace.to_str()?.trim_matches(|c: char| !c.is_ascii_digit()).to_owned();
    Some(format!("{number}.{start}.{namespace}"))
}

/// Removes the private copies that killed processes left in memory.
pub fn remove_leftovers() {
    remove_leftovers_in(Path::new(SHARED_MEMORY));
}

/// The same in another directory. What cannot be removed is somebody else's, or stays for the next
/// time.
fn remove_leftovers_in(parent: &Path) {
    let Ok(entries) = std::fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(maker) = name.to_str().and_then(|name| name.strip_prefix(PREFIX)) else {
            continue;
        };
        let Some((maker, _)) = maker.rsplit_once('-') else { continue };
        if is_dead(maker) {
            // Not followed where it is a symlink.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// Whether the process that made a directory is gone; one of another namespace cannot be seen.
fn is_dead(maker: &str) -> bool {
    let (Some((number, _)), Some(own)) = (maker.split_once('.'), owner("self")) else {
        return false;
    };
    let namespace = |owner: &str| owner.rsplit_once('.').map(|(_, space)| space.to_owned());
    number.bytes().all(|byte| byte.is_ascii_digit())
        && namespace(maker) == namespace(&own)
        && owner(number).as_deref() != Some(maker)
}

fn make(parent: &Path) -> Result<Place, Error> {
    use std::os::unix::fs::PermissionsExt;
    remove_leftovers_in(parent);
    let maker = owner("self").unwrap_or_else(|| "unknown".to_owned());
    tempfile::Builder::new()
        .prefix(&format!("{PREFIX}{maker}-"))
        .permissions(std::fs::Permissions::from_mode(0o700))
        .tempdir_in(parent)
        .map(Place::Here)
        .map_err(|error| Error::io(parent, "make a private directory in", error))
}

/// A directory that lies in memory and stays there, with room for so many bytes.
#[cfg(target_os = "linux")]
fn memory(bytes: u64) -> Result<&'static Path, String> {
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
    #![allow(clippy::unwrap_used)]

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
    fn what_a_killed_process_left_is_removed() {
        let parent = tempfile::tempdir().unwrap();
        let own = owner("self").unwrap();
        let (number, rest) = own.split_once('.').unwrap();
        let namespace = rest.split_once('.').unwrap().1;
        // The same number, started at another time.
        let dead = format!("{PREFIX}{number}.1.{namespace}-abc");
        let kept = [
            format!("{PREFIX}{own}-abc"),
            format!("{PREFIX}{number}.1.1-abc"),
            format!("{PREFIX}abc"),
            "other".to_owned(),
        ];
        for name in kept.iter().chain([&dead]) {
            std::fs::create_dir(parent.path().join(name)).unwrap();
            std::fs::write(parent.path().join(name).join("store"), b"plain").unwrap();
        }
        let Ok(Place::Here(place)) = make(parent.path()) else { panic!() };
        assert!(!parent.path().join(dead).exists());
        assert!(kept.iter().all(|name| parent.path().join(name).join("store").exists()));
        let name = place.path().file_name().unwrap().to_str().unwrap();
        assert!(name.starts_with(&format!("{PREFIX}{own}-")), "{name}");
    }

    #[test]
    fn what_does_not_fit_has_no_place() {
        let place = place(&CheckOptions::default(), u64::MAX);
        assert!(matches!(place, Ok(Place::Nowhere(_))));
    }
}
