//! The mount table, as `/proc/self/mountinfo` gives it (proc_pid_mountinfo(5)).

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

/// The filesystem type under which vaults are mounted.
pub(super) const FILESYSTEM_TYPE: &str = "fuse.strongroom";
/// What stands before the vault's path in the source of a mount.
pub(super) const SOURCE_PREFIX: &[u8] = b"strongroom#";

/// One line of the mount table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountEntry {
    /// The device number, major and minor.
    pub device: (u32, u32),
    /// Where it is mounted.
    pub mount_point: PathBuf,
    /// The filesystem type.
    pub filesystem_type: String,
    /// The source.
    pub source: OsString,
    /// Whether it is mounted read-only.
    pub read_only: bool,
}

impl MountEntry {
    /// The vault that is mounted, where it is one of ours.
    pub fn vault(&self) -> Option<PathBuf> {
        if self.filesystem_type != FILESYSTEM_TYPE {
            return None;
        }
        let path = self.source.as_bytes().strip_prefix(SOURCE_PREFIX)?;
        Some(PathBuf::from(OsString::from_vec(path.to_vec())))
    }
}

/// All mounts that this process sees, in the order in which they were made.
///
/// # Errors
/// When `/proc` is not there.
pub fn mounts() -> io::Result<Vec<MountEntry>> {
    Ok(parse(&fs::read("/proc/self/mountinfo")?))
}

/// What is mounted on `path`, which must be absolute and free of symlinks; the topmost, where
/// several are.
///
/// # Errors
/// When `/proc` is not there.
pub fn mounted_on(path: &Path) -> io::Result<Option<MountEntry>> {
    Ok(mounts()?.into_iter().rfind(|entry| entry.mount_point == path))
}

/// The absolute path of a mount point, which may be dead: only its parent is looked at.
///
/// # Errors
/// When the parent cannot be looked at.
pub fn absolute(path: &Path) -> io::Result<PathBuf> {
    match fs::canonicalize(path) {
        Ok(path) => Ok(path),
        Err(error) => {
            let path = std::path::absolute(path)?;
            match (path.parent(), path.file_name()) {
                (Some(parent), Some(name)) => Ok(fs::canonicalize(parent)?.join(name)),
                _ => Err(error),
            }
        }
    }
}

fn parse(table: &[u8]) -> Vec<MountEntry> {
    table.split(|byte| *byte == b'\n').filter_map(parse_line).collect()
}

fn parse_line(line: &[u8]) -> Option<MountEntry> {
    // ID, parent's ID, major:minor, root, mount point, options, optional fields, "-", type,
    // source, options of the superblock.
    let mut fields = line.split(|byte| *byte == b' ');
    let device = fields.nth(2)?;
    let mount_point = fields.nth(1)?;
    let options = fields.next()?;
    let mut after = fields.skip_while(|field| *field != b"-").skip(1);
    let filesystem_type = after.next()?;
    let source = after.next()?;
    let super_options = after.next().unwrap_or_default();
    let (major, minor) = std::str::from_utf8(device).ok()?.split_once(':')?;
    let read_only = |options: &[u8]| options.split(|byte| *byte == b',').any(|o| o == b"ro");
    Some(MountEntry {
        device: (major.parse().ok()?, minor.parse().ok()?),
        mount_point: PathBuf::from(OsString::from_vec(unescape(mount_point))),
        filesystem_type: String::from_utf8_lossy(&unescape(filesystem_type)).into_owned(),
        source: OsString::from_vec(unescape(source)),
        read_only: read_only(options) || read_only(super_options),
    })
}

/// Undoes the kernel's octal escapes (`\040`).
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let octal = tail.get(..3).filter(|digits| {
            first == b'\\' && digits.iter().all(|digit| (b'0'..=b'7').contains(digit))
        });
        if let Some(digits) = octal {
            let value = digits.iter().fold(0u8, |value, digit| {
                value.wrapping_mul(8).wrapping_add(digit.wrapping_sub(b'0'))
            });
            plain.push(value);
            rest = &tail[3..];
        } else {
            plain.push(first);
            rest = tail;
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn lines_are_read_whole() {
        let table = b"36 35 98:0 /mnt1 /mnt/a\\040b\\011\\134c rw,noatime master:1 shared:7 - \
            fuse.strongroom strongroom\\043/srv/v,\\0121 ro,user_id=0\n\
            22 1 0:21 / /proc rw,nosuid - proc proc rw\n\nbroken line\n";
        let entries = parse(table);
        assert_eq!(entries.len(), 2);
        assert_eq!(entries[0].device, (98, 0));
        assert_eq!(entries[0].mount_point, Path::new("/mnt/a b\t\\c"));
        assert_eq!(entries[0].vault().unwrap(), Path::new("/srv/v,\n1"));
        assert!(entries[0].read_only);
        assert_eq!(entries[1].filesystem_type, "proc");
        assert_eq!(entries[1].vault(), None);
        assert!(!entries[1].read_only);
    }

    #[test]
    fn only_whole_escapes_are_undone() {
        assert_eq!(unescape(b"a\\04"), b"a\\04");
        assert_eq!(unescape(b"\\999\\"), b"\\999\\");
        assert_eq!(unescape(b"\\377\\000"), b"\xff\0");
    }

    #[test]
    fn own_table_has_proc() {
        let entry = mounted_on(Path::new("/proc")).unwrap().unwrap();
        assert_eq!(entry.filesystem_type, "proc");
    }
}
