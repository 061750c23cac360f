//! What the disk under a path can promise of a wipe: which filesystem it is, whether it writes in
//! place, whether the device keeps old copies.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// What overwriting a file achieves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Wipeability {
    /// The new bytes go where the old ones were.
    InPlace,
    /// They should, but the device (flash) or what lies between may keep the old ones.
    BestEffort,
    /// They go elsewhere; the old ones stay until their space is used again.
    Never,
}

/// A filesystem as the wipe sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Disk {
    /// The filesystem's type: `ext4`, `btrfs`, …
    pub filesystem: String,
    /// Whether the device below has spinning platters, where that is known.
    pub rotational: Option<bool>,
    /// What follows.
    pub wipeability: Wipeability,
    /// Why, for people.
    pub reason: String,
}

impl fmt::Display for Disk {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} ({})", self.filesystem, self.reason)
    }
}

impl Disk {
    /// Looks at the filesystem that holds `path`.
    ///
    /// # Errors
    /// When `path` cannot be looked at.
    pub fn under(path: &Path) -> io::Result<Self> {
        let stat = rustix::fs::stat(path)?;
        let magic = magic_of(path)?;
        let device = Path::new("/sys/dev/block").join(format!(
            "{}:{}",
            rustix::fs::major(stat.st_dev),
            rustix::fs::minor(stat.st_dev)
        ));
        Ok(Self::judge(magic, rotational(&device), has_snapshots(&device)))
    }

    fn judge(magic: u32, rotational: Option<bool>, snapshots: bool) -> Self {
        use Wipeability::{BestEffort, InPlace, Never};
        let (filesystem, kind) = name_of(magic);
        let (wipeability, reason) = match (kind, rotational) {
            (Kind::CopyOnWrite, _) => (Never, "it never writes in place"),
            (Kind::Memory, _) => (InPlace, "in memory; pages that were swapped out may remain"),
            (Kind::Remote, _) => (BestEffort, "what lies behind it cannot be known from here"),
            (Kind::InPlace, _) if snapshots => {
                (Never, "a snapshot of the volume keeps the old data")
            }
            (Kind::InPlace, Some(true)) => (InPlace, "it writes in place, on a spinning disk"),
            (Kind::InPlace, Some(false)) => {
                (BestEffort, "a solid-state or virtual disk may keep old copies of its own")
            }
            (Kind::InPlace, None) => (BestEffort, "the device below is not known"),
        };
        Self {
            filesystem: filesystem.to_owned(),
            rotational,
            wipeability,
            reason: reason.to_owned(),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    InPlace,
    CopyOnWrite,
    Memory,
    Remote,
}

/// The magic numbers of `linux/magic.h` and of the filesystems that are not in it.
fn name_of(magic: u32) -> (&'static str, Kind) {
    match magic {
        0xEF53 => ("ext4", Kind::InPlace),
        0x5846_5342 => ("xfs", Kind::InPlace),
        0x3153_464A => ("jfs", Kind::InPlace),
        0x5265_4973 => ("reiserfs", Kind::InPlace),
        0x4D44 => ("vfat", Kind::InPlace),
        0x2011_BAB0 => ("exfat", Kind::InPlace),
        0x7366_746E => ("ntfs3", Kind::InPlace),
        0x9123_683E => ("btrfs", Kind::CopyOnWrite),
        0x2FC1_2FC1 => ("zfs", Kind::CopyOnWrite),
        0xCA45_1A4E => ("bcachefs", Kind::CopyOnWrite),
        0xF2F5_2010 => ("f2fs", Kind::CopyOnWrite),
        0x3434 => ("nilfs2", Kind::CopyOnWrite),
        0x2405_1905 => ("ubifs", Kind::CopyOnWrite),
        0x794C_7630 => ("overlay", Kind::CopyOnWrite),
        0x0102_1994 => ("tmpfs", Kind::Memory),
        0x8584_58F6 => ("ramfs", Kind::Memory),
        0x6969 => ("nfs", Kind::Remote),
        0xFF53_4D42 | 0xFE53_4D42 => ("cifs", Kind::Remote),
        0x6573_5546 => ("fuse", Kind::Remote),
        _ => ("unknown", Kind::Remote),
    }
}

fn magic_of(path: &Path) -> io::Result<u32> {
    let filesystem = rustix::fs::statfs(path)?;
    // The field's type differs by architecture; the value always is 32 bits.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "32 bits are used")]
    let magic = filesystem.f_type as u32;
    Ok(magic)
}

/// `queue/rotational` of a disk, or of the disk that a partition is on.
fn rotational(device: &Path) -> Option<bool> {
    let real = fs::canonicalize(device).ok()?;
    [real.clone(), real.parent().map(PathBuf::from)?].iter().find_map(|directory| {
        match fs::read(directory.join("queue/rotational")).ok()?.first()? {
            b'0' => Some(false),
            b'1' => Some(true),
            _ => None,
        }
    })
}

/// Whether the device is an LVM volume that snapshots are taken of: device-mapper then puts a
/// `…-real` device below it.
fn has_snapshots(device: &Path) -> bool {
    let Ok(below) = fs::read_dir(device.join("slaves")) else { return false };
    below.flatten().any(|slave| {
        fs::read_to_string(slave.path().join("dm/name"))
            .is_ok_and(|name| name.trim_end().ends_with("-real"))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn promises_follow_from_the_facts() {
        let judged =
            |magic, rotational, snapshots| Disk::judge(magic, rotational, snapshots).wipeability;
        assert_eq!(judged(0xEF53, Some(true), false), Wipeability::InPlace);
        assert_eq!(judged(0xEF53, Some(false), false), Wipeability::BestEffort);
        assert_eq!(judged(0xEF53, None, false), Wipeability::BestEffort);
        assert_eq!(judged(0xEF53, Some(true), true), Wipeability::Never);
        assert_eq!(judged(0x9123_683E, Some(true), false), Wipeability::Never);
        assert_eq!(judged(0x0102_1994, None, false), Wipeability::InPlace);
        assert_eq!(judged(0x6969, None, false), Wipeability::BestEffort);
        assert_eq!(judged(0xDEAD, Some(true), false), Wipeability::BestEffort);
    }

    #[test]
    fn this_machine_is_known() {
        let shm = Disk::under(Path::new("/dev/shm")).unwrap();
        assert_eq!(shm.filesystem, "tmpfs");
        assert!(Disk::under(Path::new("/")).is_ok());
        assert!(Disk::under(Path::new("/nonexistent")).is_err());
    }
}
