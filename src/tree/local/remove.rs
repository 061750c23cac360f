//! Removing entries of a local directory.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{AtFlags, Mode, OFlags, Statx};
use rustix::io::Errno;

use super::super::error::{Error, Operation, Result};
use super::super::path::TreePath;
use super::LocalTree;
use super::descent::{Descent, Step};
use super::{inspect, xattr};

impl LocalTree {
    /// Removes an entry, a directory with all that it holds; of the root, what it holds. What is
    /// mounted below is not touched: `EBUSY`.
    pub(super) fn remove_all(&self, path: &TreePath) -> Result<()> {
        let error = |errno| self.error(Operation::Remove, path, errno);
        let (parent, name) = self.parent(path).map_err(error)?;
        if !path.is_root() {
            match rustix::fs::unlinkat(&parent, name, AtFlags::empty()) {
                Ok(()) => return Ok(()),
                // POSIX has EPERM where Linux says EISDIR.
                Err(Errno::ISDIR | Errno::PERM) => {}
                Err(errno) => return Err(error(errno)),
            }
        }
        let mut descent = Descent::new(self);
        let stat = inspect::stat(parent.as_fd(), name).map_err(error)?;
        if !path.is_root() && self.is_mount_point(&stat) {
            return Err(error(Errno::BUSY));
        }
        open_up(parent.as_fd(), name, &stat);
        descent.enter(path, inspect::identity(&stat))?;
        while let Some(step) = descent.step() {
            self.remove_step(&mut descent, step?, path)?;
        }
        Ok(())
    }

    fn remove_step(&self, descent: &mut Descent<'_>, step: Step, top: &TreePath) -> Result<()> {
        let at = |path: &TreePath, errno| -> Error { self.error(Operation::Remove, path, errno) };
        match step {
            Step::Entry(path) => {
                let name = path.name().unwrap_or_default();
                let directory = descent.directory()?;
                match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
                    Ok(()) => Ok(()),
                    Err(Errno::ISDIR | Errno::PERM) => {
                        let stat = inspect::stat(directory, name).map_err(|e| at(&path, e))?;
                        if self.is_mount_point(&stat) {
                            return Err(at(&path, Errno::BUSY));
                        }
                        open_up(directory, name, &stat);
                        descent.enter(&path, inspect::identity(&stat))
                    }
                    Err(errno) => Err(at(&path, errno)),
                }
            }
            Step::Left(path) if path.is_root() => Ok(()),
            Step::Left(path) => {
                let name = path.name().unwrap_or_default();
                if path == *top {
                    let (parent, name) = self.parent(&path).map_err(|e| at(&path, e))?;
                    rustix::fs::unlinkat(&parent, name, AtFlags::REMOVEDIR)
                } else {
                    rustix::fs::unlinkat(descent.directory()?, name, AtFlags::REMOVEDIR)
                }
                .map_err(|errno| at(&path, errno))
            }
        }
    }
}

/// Lets its owner look into a directory and remove what is in it. Where that fails, the removal does,
/// and tells why.
fn open_up(parent: BorrowedFd<'_>, name: &[u8], stat: &Statx) {
    let mode = Mode::from_raw_mode(u32::from(stat.stx_mode) & 0o7777);
    if mode.contains(Mode::RWXU) {
        return;
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    if let Ok(pinned) = rustix::fs::openat(parent, name, flags, Mode::empty()) {
        let path = xattr::descriptor_path(pinned.as_fd());
        let _ = rustix::fs::chmod(&*path, mode | Mode::RWXU);
    }
}
