//! Owns the question whether a file on a tree's filesystem is known to lie outside the tree without the
//! tree being listed: by its path, where it has no other.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, StatxFlags, makedev};

/// Filesystems that count the names of a file (linux/magic.h): ext2 to ext4, XFS, Btrfs, F2FS, tmpfs.
const COUNTING_NAMES: [u64; 5] = [0xEF53, 0x5846_5342, 0x9123_683E, 0xF2F5_2010, 0x0102_1994];

/// What lies outside a tree.
pub(super) struct Elsewhere {
    /// The tree's root, and the filesystem it is on.
    inode: u64,
    device: u64,
    /// Where the root's mount begins: paths count from there.
    mount_point: PathBuf,
    mount: OwnedFd,
    /// Directories by their paths below, whether each is another than the root.
    others: HashMap<PathBuf, bool>,
}

impl Elsewhere {
    /// Of the tree below `root`, a canonical path. `None` where paths tell nothing: where something is
    /// mounted in the tree, which may be found outside by another path, where the filesystem may not count
    /// names (those of a network, FUSE), or the kernel does not say which mount a path is on (before
    /// Linux 5.8).
    pub(super) fn of(root: &Path) -> Option<Self> {
        if has_mounts(root, &std::fs::read("/proc/self/mountinfo").ok()?) {
            return None;
        }
        let mount_of = |path: &Path| {
            let found = rustix::fs::statx(CWD, path, AtFlags::empty(), StatxFlags::MNT_ID).ok()?;
            (found.stx_mask & StatxFlags::MNT_ID.bits() != 0).then_some(found.stx_mnt_id)
        };
        let own = mount_of(root)?;
        let on_it = root.ancestors().take_while(|path| mount_of(path) == Some(own));
        let mount_point = on_it.last()?.to_path_buf();
        let metadata = std::fs::metadata(root).ok()?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mount = rustix::fs::open(&mount_point, flags, Mode::empty()).ok()?;
        let kind = rustix::fs::fstatfs(&mount).ok()?.f_type;
        #[allow(clippy::useless_conversion, reason = "the type differs between architectures")]
        let kind = u64::try_from(kind).ok()?;
        if !COUNTING_NAMES.contains(&(kind & 0xFFFF_FFFF)) {
            return None;
        }
        let (inode, device) = (metadata.ino(), metadata.dev());
        Some(Self { inode, device, mount_point, mount, others: HashMap::new() })
    }

    /// Whether the file with this inode, which a process knows by this path, lies outside for certain.
    pub(super) fn has(&mut self, path: &Path, inode: u64) -> bool {
        let Ok(path) = path.strip_prefix(&self.mount_point) else { return false };
        let Some(found) = self.look(path) else { return false };
        let only_name = found.kind == FileType::Directory || found.links == 1;
        // The root is looked for by its inode: names may be the same that are not written the same.
        found.inode == inode
            && found.inode != self.inode
            && only_name
            && path.ancestors().skip(1).all(|directory| self.is_another(directory))
    }

    fn is_another(&mut self, directory: &Path) -> bool {
        if let Some(known) = self.others.get(directory) {
            return *known;
        }
        let another = self.look(directory).is_some_and(|found| found.inode != self.inode);
        self.others.insert(directory.to_path_buf(), another);
        another
    }

    /// What is at a path, if it is on the same mount and no symbolic link leads there. No other mount is
    /// touched: its server may be dead.
    fn look(&self, path: &Path) -> Option<Found> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat2(&self.mount, path, flags, Mode::empty(), resolve).ok()?;
        let wanted = StatxFlags::TYPE | StatxFlags::INO | StatxFlags::NLINK;
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        let found = rustix::fs::statx(&file, c"", flags, wanted).ok()?;
        let on_it = makedev(found.stx_dev_major, found.stx_dev_minor) == self.device;
        on_it.then_some(Found {
            inode: found.stx_ino,
            links: found.stx_nlink,
            kind: FileType::from_raw_mode(found.stx_mode.into()),
        })
    }
}

/// What is at a path.
struct Found {
    inode: u64,
    links: u32,
    kind: FileType,
}

/// Whether anything is mounted below a directory, by a mount table (`proc_pid_mountinfo(5)`).
fn has_mounts(directory: &Path, table: &[u8]) -> bool {
    let escape = |byte: &u8| match byte {
        b' ' | b'\t' | b'\n' | b'\\' => format!("\\{byte:03o}").into_bytes(),
        _ => vec![*byte],
    };
    let mut start: Vec<u8> = directory.as_os_str().as_bytes().iter().flat_map(escape).collect();
    if !start.ends_with(b"/") {
        start.push(b'/');
    }
    table
        .split(|byte| *byte == b'\n')
        .filter_map(|line| line.split(|byte| *byte == b' ').nth(4))
        .any(|mount_point| mount_point.starts_with(&start) && mount_point != start)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs;

    use super::*;

    #[test]
    fn what_is_certain_to_lie_outside() {
        // Elsewhere may be a filesystem of which nothing is told.
        let directory = tempfile::tempdir_in("/dev/shm").unwrap();
        let directory = directory.path().canonicalize().unwrap();
        let root = directory.join("root");
        fs::create_dir_all(root.join("inner")).unwrap();
        fs::create_dir(directory.join("other")).unwrap();
        for name in ["root/file", "root/inner/file", "other/file", "other/two", "rooted"] {
            fs::write(directory.join(name), "x").unwrap();
        }
        fs::hard_link(directory.join("other/two"), directory.join("other/names")).unwrap();
        std::os::unix::fs::symlink("root", directory.join("link")).unwrap();

        let mut elsewhere = Elsewhere::of(&root).unwrap();
        let mut has = |path: &str| {
            let inode = fs::metadata(directory.join(path)).unwrap().ino();
            elsewhere.has(&directory.join(path), inode)
        };
        assert!(has("other") && has("other/file") && has("rooted") && has(""));
        // In the tree, by whatever path.
        assert!(!has("root") && !has("root/file") && !has("root/inner") && !has("root/inner/file"));
        assert!(!has("link/file") && !has("other/../root/file"));
        // It may have a name in the tree.
        assert!(!has("other/two"));
        // Another file, and none.
        let inode = fs::metadata(directory.join("rooted")).unwrap().ino();
        assert!(!elsewhere.has(&directory.join("other/file"), inode));
        assert!(!elsewhere.has(&directory.join("gone"), inode));
        assert!(!elsewhere.has(Path::new("/proc/self/status"), inode));
        assert!(!elsewhere.has(Path::new("relative"), inode));
    }

    #[test]
    fn what_is_mounted_in_a_tree() {
        let table = b"22 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
            40 22 0:4 / /srv/a\\040tree/in\\134ner rw shared:1 - proc proc rw\n\
            41 22 0:5 / /srv/other rw - tmpfs tmpfs rw\n\n";
        for (directory, expected) in [
            ("/", true),
            ("/srv", true),
            ("/srv/a tree", true),
            ("/srv/a tree/in\\ner", false),
            ("/srv/a", false),
            ("/srv/other", false),
            ("/srv/oth", false),
        ] {
            assert_eq!(has_mounts(Path::new(directory), table), expected, "{directory}");
        }
    }
}
