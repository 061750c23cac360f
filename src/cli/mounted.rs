//! What is mounted now, who serves it, and whether it is well.

use std::ffi::OsStr;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::fuse::{Detach, Health, MountEntry, UnmountError, abort, detach, health, mounts};
use crate::vault::LOCK_NAME;

/// How long a mount may take to answer before it counts as stuck.
const PATIENCE: Duration = Duration::from_secs(3);

/// How often `/proc/locks` is searched for the lock of a process that lives.
const LOOKS: usize = 5;

/// Who holds a vault, as the lock file tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The process.
    pub pid: u32,
    /// The host that it runs on.
    pub host: String,
}

impl Owner {
    /// This process.
    pub fn own() -> Self {
        Self { pid: std::process::id(), host: host_name() }
    }

    /// The text for the lock file; [`Self::parse`] reads it.
    pub fn text(&self, mount_point: &Path) -> String {
        format!("process {} on host {}, mounted on {}", self.pid, self.host, mount_point.display())
    }

    /// Reads what [`Self::text`] wrote.
    pub fn parse(text: &str) -> Option<Self> {
        let rest = text.strip_prefix("process ")?;
        let (pid, rest) = rest.split_once(" on host ")?;
        let (host, _) = rest.split_once(", mounted on ")?;
        Some(Self { pid: pid.parse().ok()?, host: host.to_owned() })
    }

    /// Whether it runs on this host.
    pub fn is_here(&self) -> bool {
        self.host == host_name()
    }
}

fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Who holds the vault now; `None` when nobody does, or this user may not know.
pub fn owner(vault: &Path) -> Option<Owner> {
    let path = vault.join(OsStr::from_bytes(LOCK_NAME));
    // The text stays when the lock goes. To try the lock would keep out who wants it meanwhile.
    let owner = Owner::parse(&fs::read_to_string(&path).ok()?)?;
    let ino = fs::metadata(&path).ok()?.ino();
    let device = device(&path);
    // The kernel makes the table up piece by piece while it is read, and when others come and go
    // meanwhile, a lock can be left out: one that is not seen while its process lives is looked
    // for again.
    for _ in 0..LOOKS {
        if is_locked(&fs::read_to_string("/proc/locks").ok()?, device, ino) {
            return Some(owner);
        }
        if !owner.is_here() || Watched::new(owner.pid).is_none() {
            break;
        }
    }
    None
}

/// The device that `/proc/locks` names for a file: that of the mount that it is in. Some filesystems
/// give stat(2) another one.
fn device(path: &Path) -> Option<(u32, u32)> {
    let path = path.canonicalize().ok()?;
    let mounts = mounts().ok()?;
    let holding = mounts.iter().filter(|entry| path.starts_with(&entry.mount_point));
    // Of several at one place the last is on top, which is the one that this finds.
    holding.max_by_key(|entry| entry.mount_point.as_os_str().len()).map(|entry| entry.device)
}

/// Whether `/proc/locks` names a flock on an inode of that number, on any device where it is not
/// known.
fn is_locked(locks: &str, device: Option<(u32, u32)>, ino: u64) -> bool {
    locks.lines().any(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let flock = fields.next() == Some("FLOCK");
        let mut place = fields.nth(3).unwrap_or_default().split(':');
        let mut number = || u32::from_str_radix(place.next()?, 16).ok();
        let of = number().zip(number());
        let same_device = device.is_none_or(|device| of == Some(device));
        let of_inode = place.next().and_then(|number| number.parse().ok());
        flock && same_device && of_inode == Some(ino)
    })
}

/// A vault that is mounted.
#[derive(Clone, Debug)]
pub struct MountedHere {
    /// Where.
    pub mount_point: PathBuf,
    /// The vault.
    pub vault: PathBuf,
    /// Whether nothing can be changed.
    pub read_only: bool,
    /// The device number.
    pub device: (u32, u32),
}

/// All vaults that are mounted.
pub fn all() -> Vec<MountedHere> {
    mounts().unwrap_or_default().iter().filter_map(of_entry).collect()
}

/// The mounts of one vault.
pub fn mounts_of(vault: &Path) -> Vec<MountedHere> {
    let Ok(vault) = vault.canonicalize() else { return Vec::new() };
    all().into_iter().filter(|mount| mount.vault == vault).collect()
}

/// A mount of one of our vaults.
pub fn of_entry(entry: &MountEntry) -> Option<MountedHere> {
    Some(MountedHere {
        mount_point: entry.mount_point.clone(),
        vault: entry.vault()?,
        read_only: entry.read_only,
        device: entry.device,
    })
}

impl MountedHere {
    /// Whether it answers.
    pub fn health(&self) -> Health {
        match health(&self.mount_point, PATIENCE) {
            Health::Stuck if was_killed(&self.vault) => Health::Dead,
            found => found,
        }
    }

    /// Clears away what a dead process left mounted, and frees whoever waits there for an answer.
    ///
    /// # Errors
    /// When it cannot be unmounted.
    pub fn clear_away(&self) -> Result<(), UnmountError> {
        self.let_go();
        detach(&self.mount_point, Detach::Lazily)
    }

    /// Frees whoever waits for an answer of a process that was killed. One of its own threads may be
    /// among them (it writes back pages through its mount), and then the kernel keeps waiting.
    fn let_go(&self) {
        if !was_killed(&self.vault) {
            return;
        }
        let process = owner(&self.vault).and_then(|owner| Watched::new(owner.pid));
        if abort(self.device).is_err() {
            tracing::debug!("the connection {:?} cannot be ended", self.device);
        } else if let Some(process) = process {
            // Its last threads end now, and with them its locks.
            process.wait(PATIENCE);
        }
    }
}

/// Whether the process that holds a vault was killed, and is still there because a thread of it waits
/// in the kernel.
fn was_killed(vault: &Path) -> bool {
    owner(vault).is_some_and(|owner| owner.is_here() && is_defunct(owner.pid))
}

/// Whether a process has ended, but for threads in the kernel or whoever is to be told of it
/// (`proc_pid_stat(5)`).
fn is_defunct(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['Z', 'X']))
}

/// A process, watched from before it ends, so that no other with its number is mistaken for it.
pub struct Watched(OwnedFd);

impl Watched {
    /// Watches a process; `None` if there is none.
    pub fn new(pid: u32) -> Option<Self> {
        let pid = Pid::from_raw(i32::try_from(pid).ok()?)?;
        pidfd_open(pid, PidfdFlags::empty()).ok().map(Self)
    }

    /// Waits for its end; whether it came.
    pub fn wait(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = Timespec::try_from(left).ok();
            let mut watched = [PollFd::new(&self.0, PollFlags::IN)];
            match poll(&mut watched, timeout.as_ref()) {
                Ok(0) => return false,
                Ok(_) => return true,
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return false,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::process::Command;

    use super::*;

    #[test]
    fn owners_text_is_read_back() {
        let owner = Owner { pid: 4711, host: "box, mounted".into() };
        assert_eq!(
            Owner::parse(&owner.text(Path::new("/mnt/a, mounted on b"))),
            Some(Owner { pid: 4711, host: "box, mounted".into() })
        );
        assert_eq!(Owner::parse(""), None);
        assert_eq!(Owner::parse("process x on host y, mounted on z"), None);
        assert!(Owner::own().is_here());
    }

    #[test]
    fn locks_are_found_by_inode() {
        let table = "1: POSIX  ADVISORY  WRITE 77 fe:00:11 0 EOF\n\
                     2: FLOCK  ADVISORY  WRITE 78 fe:00:4711 0 EOF\n";
        for device in [None, Some((0xfe, 0))] {
            assert!(is_locked(table, device, 4711));
            assert!(!is_locked(table, device, 11));
            assert!(!is_locked(table, device, 47));
        }
        assert!(!is_locked(table, Some((0xfe, 1)), 4711), "another disk");
    }

    #[test]
    fn a_process_that_nobody_waited_for_is_defunct() {
        let mut child = Command::new("sleep").arg("30").spawn().unwrap();
        assert!(!is_defunct(child.id()));
        let watched = Watched::new(child.id()).unwrap();
        child.kill().unwrap();
        assert!(watched.wait(Duration::from_secs(20)));
        assert!(is_defunct(child.id()));
        child.wait().unwrap();
        assert!(!is_defunct(child.id()));
    }

    #[test]
    fn ends_are_seen() {
        let mut child = Command::new("sleep").arg("30").spawn().unwrap();
        let watched = Watched::new(child.id()).unwrap();
        assert!(!watched.wait(Duration::ZERO));
        child.kill().unwrap();
        assert!(watched.wait(Duration::from_secs(20)));
        child.wait().unwrap();
    }
}
