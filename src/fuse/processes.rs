//! Which processes use a mount.

use std::fs;
use std::path::{Path, PathBuf};

/// A process that uses a mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its ID.
    pub pid: u32,
    /// Its short name.
    pub name: String,
    /// What it holds: a path below the mount point.
    pub path: PathBuf,
    /// How: an open file, its working directory, …
    pub how: &'static str,
}

/// At most so many holders are looked for.
const MAX_HOLDERS: usize = 64;

/// The processes that use the mount at `mount_point` with that device number, as far as this user
/// may see; each once. Looks at links only, so that a mount that does not answer cannot hold it up.
pub fn holders(mount_point: &Path, device: (u32, u32)) -> Vec<Holder> {
    let mut found = Vec::new();
    let Ok(processes) = fs::read_dir("/proc") else { return found };
    for process in processes.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        if pid == std::process::id() {
            continue;
        }
        if let Some((path, how)) = holds(&process.path(), mount_point, device) {
            let name = fs::read(process.path().join("comm")).unwrap_or_default();
            let name = String::from_utf8_lossy(&name).trim_end().to_owned();
            found.push(Holder { pid, name, path, how });
            if found.len() == MAX_HOLDERS {
                break;
            }
        }
    }
    found.sort_by_key(|holder| holder.pid);
    found
}

fn holds(
    process: &Path,
    mount_point: &Path,
    device: (u32, u32),
) -> Option<(PathBuf, &'static str)> {
    let below = |path: &PathBuf| path.starts_with(mount_point);
    let linked = |name: &str| fs::read_link(process.join(name)).ok().filter(below);
    if let Some(path) = linked("cwd") {
        return Some((path, "working directory"));
    }
    if let Some(path) = linked("root") {
        return Some((path, "root directory"));
    }
    if let Some(path) = linked("exe") {
        return Some((path, "program"));
    }
    for descriptor in fs::read_dir(process.join("fd")).into_iter().flatten().flatten() {
        if let Some(path) = fs::read_link(descriptor.path()).ok().filter(below) {
            return Some((path, "open file"));
        }
    }
    mapped(process, device).map(|path| (path, "mapped file"))
}

/// A mapping of a file of that device. The table names it in hexadecimal, `major:minor`.
fn mapped(process: &Path, device: (u32, u32)) -> Option<PathBuf> {
    let maps = fs::read(process.join("maps")).ok()?;
    let wanted = format!("{:02x}:{:02x}", device.0, device.1);
    String::from_utf8_lossy(&maps).lines().find_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        (fields.nth(3)? == wanted)
            .then(|| PathBuf::from(fields.skip(1).collect::<Vec<_>>().join(" ")))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn finds_open_files_and_working_directories() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().canonicalize().unwrap();
        let file = place.join("held");
        fs::write(&file, "x").unwrap();
        let mut by_cwd = Command::new("sleep")
            .arg("60")
            .current_dir(&place)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let mut by_file =
            Command::new("sleep").arg("60").stdin(fs::File::open(&file).unwrap()).spawn().unwrap();
        // A device that is nobody's: only the paths count.
        let found = holders(&place, (4095, 4095));
        for child in [&mut by_cwd, &mut by_file] {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        let of = |pid: u32| found.iter().find(|holder| holder.pid == pid).unwrap();
        assert_eq!((of(by_cwd.id()).how, &of(by_cwd.id()).path), ("working directory", &place));
        assert_eq!((of(by_file.id()).how, &of(by_file.id()).path), ("open file", &file));
        assert_eq!(of(by_file.id()).name, "sleep");
    }

    #[test]
    fn mapped_files_are_told_by_device() {
        let own = PathBuf::from("/proc/self");
        let program = std::env::current_exe().unwrap();
        // On some filesystems the table's device is not stat's; then there is nothing to compare.
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        let device = maps.lines().next().unwrap().split_ascii_whitespace().nth(3).unwrap();
        let (major, minor) = device.split_once(':').unwrap();
        let device =
            (u32::from_str_radix(major, 16).unwrap(), u32::from_str_radix(minor, 16).unwrap());
        assert_eq!(mapped(&own, device).unwrap(), program);
        assert_eq!(mapped(&own, (4095, 4095)), None);
    }
}
