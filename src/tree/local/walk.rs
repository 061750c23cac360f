//! The walk of a local directory: depth first, names sorted.

use std::os::fd::AsFd;

use super::super::Exclude;
use super::super::error::{Error, Result};
use super::super::path::TreePath;
use super::super::types::{Entry, EntryKind};
use super::LocalTree;
use super::descent::{Descent, Step};
use super::inspect::XattrsOf;

pub(super) struct LocalWalk<'a> {
    tree: &'a LocalTree,
    exclude: Exclude<'a>,
    xattrs_of: XattrsOf,
    descent: Descent<'a>,
    started: bool,
    /// A directory was yielded; its listing failed.
    failed: Option<Error>,
}

impl<'a> LocalWalk<'a> {
    pub(super) fn new(tree: &'a LocalTree, exclude: Exclude<'a>, xattrs_of: XattrsOf) -> Self {
        let descent = Descent::new(tree);
        Self { tree, exclude, xattrs_of, descent, started: false, failed: None }
    }

    /// Inspects an entry and enters it where it is a directory; `None` where it is left out.
    fn visit(&mut self, path: TreePath) -> Result<Option<Entry>> {
        let tree = self.tree;
        let (entry, identity) = match path.name() {
            None => tree.inspect(tree.root.as_fd(), b".", path, self.xattrs_of)?,
            Some(name) => {
                let name = name.to_vec();
                tree.inspect(self.descent.directory()?, &name, path, self.xattrs_of)?
            }
        };
        let kind = entry.metadata.kind;
        if !entry.path.is_root() && (self.exclude)(&entry.path, kind) {
            return Ok(None);
        }
        if kind == EntryKind::Directory && (!entry.mount_point || tree.cross_mounts) {
            self.failed = self.descent.enter(&entry.path, identity).err();
        }
        Ok(Some(entry))
    }
}

impl Iterator for LocalWalk<'_> {
    type Item = Result<Entry>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(error) = self.failed.take() {
            return Some(Err(error));
        }
        if !self.started {
            self.started = true;
            return self.visit(TreePath::root()).transpose();
        }
        loop {
            match self.descent.step()? {
                Ok(Step::Left(_)) => {}
                Ok(Step::Entry(path)) => {
                    if let Some(item) = self.visit(path).transpose() {
                        return Some(item);
                    }
                }
                Err(error) => return Some(Err(error)),
            }
        }
    }
}
