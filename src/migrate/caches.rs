//! Makes the kernel forget what it holds of a tree's files, so that the next reading comes from
//! the disk. Best effort: pages in use or not yet written stay.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{Advice, Mode, OFlags};

/// Drops the cached pages of every file below `root`.
pub(super) fn drop(root: &Path) {
    let walk = walkdir::WalkDir::new(root).follow_links(false).same_file_system(true);
    for entry in walk.into_iter().flatten().filter(|entry| entry.file_type().is_file()) {
        if let Ok(file) = open(entry.path()) {
            let _ = rustix::fs::fadvise(&file, 0, None, Advice::DontNeed);
        }
    }
}

fn open(path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::open(path, flags | OFlags::NOATIME, Mode::empty())
        .or_else(|_| rustix::fs::open(path, flags, Mode::empty()))
}
