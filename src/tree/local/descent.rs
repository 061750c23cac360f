//! The way down a local directory: which directories are open, and where each one stands.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};

use super::super::TreeReader as _;
use super::super::error::{Error, Operation, Result};
use super::super::path::TreePath;
use super::LocalTree;
use super::inspect::{self, Identity};
use super::names::Names;

/// Directories held open on the way down; those further up are opened again on the way back.
/// Trees may be deeper than the limit on descriptors.
const OPEN_LIMIT: usize = 32;

/// A stack of directories, each inside the one before.
pub(super) struct Descent<'a> {
    tree: &'a LocalTree,
    stack: Vec<Frame>,
}

struct Frame {
    path: TreePath,
    identity: Identity,
    directory: Option<OwnedFd>,
    names: Names,
    next: usize,
}

/// Where a descent goes on.
pub(super) enum Step {
    /// At this entry of the innermost directory.
    Entry(TreePath),
    /// The directory has no more entries and was left.
    Left(TreePath),
}

impl<'a> Descent<'a> {
    pub(super) fn new(tree: &'a LocalTree) -> Self {
        Self { tree, stack: Vec::new() }
    }

    /// Opens and lists `path`: an entry of the innermost directory, or anything to begin with.
    pub(super) fn enter(&mut self, path: &TreePath, identity: Identity) -> Result<()> {
        let tree = self.tree;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NONBLOCK;
        let directory = match (self.stack.is_empty(), path.name()) {
            (false, Some(name)) => rustix::fs::openat(
                self.directory()?,
                name,
                flags | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                Mode::empty(),
            ),
            _ => tree.open_below(path.as_bytes(), flags, Mode::empty()),
        }
        .map_err(|errno| tree.error(Operation::Open, path, errno))?;
        check_identity(tree, directory.as_fd(), path, identity)?;
        let names = Names::list(directory.as_fd())
            .map_err(|errno| tree.error(Operation::List, path, errno))?;
        if let Some(above) = self.stack.len().checked_sub(OPEN_LIMIT) {
            self.stack[above].directory = None;
        }
        let path = path.clone();
        self.stack.push(Frame { path, identity, directory: Some(directory), names, next: 0 });
        Ok(())
    }

    /// The innermost directory; the root before anything was entered.
    pub(super) fn directory(&mut self) -> Result<BorrowedFd<'_>> {
        let tree = self.tree;
        let Some(frame) = self.stack.last_mut() else {
            return Ok(tree.root.as_fd());
        };
        let directory = match frame.directory.take() {
            Some(directory) => directory,
            None => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NONBLOCK;
                let directory = tree
                    .open_below(frame.path.as_bytes(), flags, Mode::empty())
                    .map_err(|errno| tree.error(Operation::Open, &frame.path, errno))?;
                check_identity(tree, directory.as_fd(), &frame.path, frame.identity)?;
                directory
            }
        };
        let directory: &OwnedFd = frame.directory.insert(directory);
        Ok(directory.as_fd())
    }

    /// The next entry, or the innermost directory left; `None` when all are left.
    pub(super) fn step(&mut self) -> Option<Result<Step>> {
        let frame = self.stack.last_mut()?;
        let Some(name) = frame.names.get(frame.next) else {
            return self.stack.pop().map(|frame| Ok(Step::Left(frame.path)));
        };
        frame.next += 1;
        Some(frame.path.join(name).map(Step::Entry).map_err(|error| Error::BadName {
            tree: self.tree.describe(),
            path: frame.path.clone(),
            error,
        }))
    }
}

fn check_identity(
    tree: &LocalTree,
    directory: BorrowedFd<'_>,
    path: &TreePath,
    expected: Identity,
) -> Result<()> {
    let stat = inspect::stat(directory, b"")
        .map_err(|errno| tree.error(Operation::Inspect, path, errno))?;
    if inspect::identity(&stat) == expected { Ok(()) } else { Err(tree.changed(path)) }
}
