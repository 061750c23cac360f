//! Which renames put what was restored in place.

use std::path::PathBuf;

use super::{SIBLINGS, Step, bad_path, below, children, join};
use crate::backup::error::{Error, Result};
use crate::tree::{EntryKind, LocalTree, TreePath, TreeReader as _, TreeWriter as _};

/// Collects the steps.
pub(super) struct Plan<'a> {
    pub(super) base: &'a LocalTree,
    pub(super) target: &'a TreePath,
    pub(super) new: TreePath,
    pub(super) old: TreePath,
    pub(super) steps: Vec<Step>,
    pub(super) skipped: u64,
}

impl Plan<'_> {
    fn inode(&self, path: &TreePath) -> Result<Option<u64>> {
        Ok(self.base.existing(path)?.map(|entry| entry.inode))
    }

    /// Puts one entry of what was restored in its place, whatever is there.
    pub(super) fn put(&mut self, path: &TreePath) -> Result<()> {
        let (new, target) = (join(&self.new, path)?, join(self.target, path)?);
        let new = self.inode(&new)?.map(|inode| (new, inode));
        let aside = below(&self.old, self.steps.len().to_string().as_bytes())?;
        let old = self.inode(&target)?.map(|inode| (aside, inode));
        if new.is_some() || old.is_some() {
            self.steps.push(Step { target, new, old });
        }
        Ok(())
    }

    /// Every name at the top, of both: for a target that cannot be renamed.
    pub(super) fn all(&mut self, staging: &TreePath) -> Result<()> {
        let mut names = children(self.base, self.target)?;
        names.extend(children(self.base, &self.new)?);
        names.sort();
        names.dedup();
        for name in names.iter().filter(|name| *name != staging) {
            self.put(name)?;
        }
        Ok(())
    }

    /// A part, with the way to it where that is missing, and what belongs to it.
    pub(super) fn part(&mut self, part: &TreePath) -> Result<()> {
        if part.is_root() {
            return Err(Error::Target {
                path: PathBuf::from("."),
                problem: "all of it is no part of it".into(),
            });
        }
        let mut top = part.clone();
        while let Some(parent) = top.parent().filter(|parent| !parent.is_root()) {
            match self.base.existing(&join(self.target, &parent)?)? {
                Some(entry) if entry.metadata.kind == EntryKind::Directory => break,
                Some(entry) => {
                    return Err(Error::Target {
                        path: parent.as_path().to_owned(),
                        problem: format!("it is a {}, not a directory", entry.metadata.kind),
                    });
                }
                None => top = parent,
            }
        }
        let target = join(self.target, &top)?;
        if self.steps.iter().any(|step| target.is_within(&step.target)) {
            return Ok(());
        }
        self.put(&top)?;
        if let Some((parent, name)) = top.parent().zip(top.name()) {
            for sibling in SIBLINGS {
                let sibling = parent.join(&[name, sibling].concat()).map_err(bad_path)?;
                let is_file = |path: TreePath| {
                    let entry = self.base.existing(&path)?;
                    Ok::<_, Error>(entry.is_some_and(|one| one.metadata.kind == EntryKind::Regular))
                };
                if is_file(join(&self.new, &top)?)? && is_file(join(self.target, &sibling)?)? {
                    self.put(&sibling)?;
                }
            }
        }
        Ok(())
    }

    /// Everything but what is kept, and the directories on the way to that.
    pub(super) fn keeping(&mut self, kept: &[TreePath], staging: &TreePath) -> Result<()> {
        let mut left = vec![TreePath::root()];
        while let Some(directory) = left.pop() {
            let mut names = children(self.base, &join(self.target, &directory)?)?;
            let new = join(&self.new, &directory)?;
            if self.base.existing(&new)?.is_some() {
                names.extend(children(self.base, &new)?);
            }
            names.sort();
            names.dedup();
            for name in &names {
                let path = join(&directory, name)?;
                if path == *staging {
                    continue;
                }
                if kept.contains(&path) {
                    self.skipped += 1;
                } else if kept.iter().any(|one| one.is_within(&path)) {
                    match self.base.existing(&join(&self.new, &path)?)? {
                        Some(entry) if entry.metadata.kind != EntryKind::Directory => {
                            return Err(Error::Target {
                                path: path.as_path().to_owned(),
                                problem: "it holds what the backup leaves out, and is no \
                                          directory in the backup"
                                    .into(),
                            });
                        }
                        _ => left.push(path),
                    }
                } else {
                    self.put(&path)?;
                }
            }
        }
        Ok(())
    }

    /// Everything that the target does not have.
    pub(super) fn missing(&mut self) -> Result<()> {
        let mut left = children(self.base, &self.new)?;
        left.reverse();
        while let Some(path) = left.pop() {
            let new = self.base.entry(&join(&self.new, &path)?)?.metadata.kind;
            let there = self.base.existing(&join(self.target, &path)?)?;
            match there.map(|entry| entry.metadata.kind) {
                None => self.put(&path)?,
                Some(EntryKind::Directory) if new == EntryKind::Directory => {
                    let inner = children(self.base, &join(&self.new, &path)?)?;
                    for name in inner.iter().rev() {
                        left.push(join(&path, name)?);
                    }
                }
                Some(_) => self.skipped += 1,
            }
        }
        Ok(())
    }
}
