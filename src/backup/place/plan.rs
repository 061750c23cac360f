//! Which renames put what was restored in place.

use std::path::PathBuf;

use super::{PREFIX, SIBLINGS, Step, UNDONE, below, children, join};
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
    pub(super) fn all(&mut self) -> Result<()> {
        let mut names = children(self.base, self.target)?;
        names.extend(children(self.base, &self.new)?);
        names.sort();
        names.dedup();
        for name in &names {
            if !self.is_ours(name)? {
                self.put(name)?;
            }
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
        self.siblings(&top)
    }

    /// Puts what lies beside a file that is put and belongs to it: the log of a database that is
    /// replaced would be taken for the new one's.
    fn siblings(&mut self, file: &TreePath) -> Result<()> {
        let Some((parent, name)) = file.parent().zip(file.name()) else { return Ok(()) };
        if !self.is_file(&join(&self.new, file)?)? {
            return Ok(());
        }
        for sibling in SIBLINGS {
            // Where such a name would be too long, there is none.
            let Ok(sibling) = parent.join(&[name, sibling].concat()) else { continue };
            if self.is_file(&join(self.target, &sibling)?)? {
                self.put(&sibling)?;
            }
        }
        Ok(())
    }

    fn is_file(&self, path: &TreePath) -> Result<bool> {
        let entry = self.base.existing(path)?;
        Ok(entry.is_some_and(|entry| entry.metadata.kind == EntryKind::Regular))
    }

    /// Everything but what is kept, and the directories on the way to that.
    pub(super) fn keeping(&mut self, kept: &[TreePath]) -> Result<()> {
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
                if directory.is_root() && self.is_ours(&path)? {
                    continue;
                }
                if kept.contains(&path) {
                    if self.goes_with_its_file(&path, kept)? {
                        self.put(&path)?;
                    } else {
                        self.skipped += 1;
                    }
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

    /// Whether this name at the top is a restore's own directory, or what one left there: a backup may
    /// hold that like anything else.
    fn is_ours(&self, name: &TreePath) -> Result<bool> {
        let begins = |prefix: &str| name.as_bytes().starts_with(prefix.as_bytes());
        Ok(begins(PREFIX) || (begins(UNDONE) && self.inode(&join(&self.new, name)?)?.is_none()))
    }

    /// Whether this belongs to a file that is put, and is none by itself.
    fn goes_with_its_file(&self, path: &TreePath, kept: &[TreePath]) -> Result<bool> {
        Ok(match main_of(path)? {
            Some(file) => {
                !kept.contains(&file)
                    && self.is_file(&join(self.target, path)?)?
                    && self.is_file(&join(&self.new, &file)?)?
            }
            None => false,
        })
    }

    /// Everything that the target does not have.
    pub(super) fn missing(&mut self) -> Result<()> {
        let mut left = children(self.base, &self.new)?;
        left.reverse();
        while let Some(path) = left.pop() {
            let new = self.base.entry(&join(&self.new, &path)?)?.metadata.kind;
            let there = self.base.existing(&join(self.target, &path)?)?;
            let main = main_of(&path)?;
            let main_there = match &main {
                Some(main) => self.base.existing(&join(self.target, main)?)?.is_some(),
                None => false,
            };
            match there.map(|entry| entry.metadata.kind) {
                // The log of another state of a database that stays would damage it.
                None if new == EntryKind::Regular && main_there => self.skipped += 1,
                None => {
                    self.put(&path)?;
                    self.siblings(&path)?;
                }
                // Its file is put, and takes it along.
                Some(EntryKind::Regular) if self.is_missing_file(main.as_ref())? => {}
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

    fn is_missing_file(&self, path: Option<&TreePath>) -> Result<bool> {
        let Some(path) = path else { return Ok(false) };
        Ok(self.is_file(&join(&self.new, path)?)?
            && self.base.existing(&join(self.target, path)?)?.is_none())
    }
}

/// The file that this one belongs to, by its name.
fn main_of(path: &TreePath) -> Result<Option<TreePath>> {
    let Some((parent, name)) = path.parent().zip(path.name()) else { return Ok(None) };
    let main = SIBLINGS.iter().find_map(|ending| name.strip_suffix(*ending));
    main.filter(|name| !name.is_empty()).map(|name| below(&parent, name)).transpose()
}
