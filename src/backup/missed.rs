//! Notices stores that a look at the likely files alone did not find, when their files are read.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::stores::{self, GLANCE_LEN};
use crate::tree::{
    ContentReader, Entry, Error, Exclude, Extent, Operation, Result, TreePath, TreeReader, Walk,
    Xattr,
};

/// A tree of which the stores are known as far as [`stores::scan_likely`] finds them. To read a file that
/// is of another one fails.
pub struct Watched<'a> {
    tree: &'a dyn TreeReader,
    described: Arc<str>,
    missed: Arc<AtomicBool>,
}

impl<'a> Watched<'a> {
    /// Sets `missed` when a file is met that may be of a store and was not looked at.
    pub fn new(tree: &'a dyn TreeReader, missed: Arc<AtomicBool>) -> Self {
        Self { tree, described: tree.describe().into(), missed }
    }
}

impl TreeReader for Watched<'_> {
    fn describe(&self) -> String {
        self.tree.describe()
    }

    fn walk<'a>(&'a self, exclude: Exclude<'a>) -> Result<Walk<'a>> {
        self.tree.walk(exclude)
    }

    fn walk_to_read<'a>(&'a self, exclude: Exclude<'a>) -> Result<Walk<'a>> {
        self.tree.walk_to_read(exclude)
    }

    fn entry(&self, path: &TreePath) -> Result<Entry> {
        self.tree.entry(path)
    }

    fn content(&self, entry: &Entry) -> Result<Box<dyn ContentReader>> {
        let content = self.tree.content(entry)?;
        let length = entry.metadata.size;
        if !entry.path.name().is_some_and(|name| stores::is_unlikely(name, length)) {
            return Ok(content);
        }
        let (tree, missed) = (Arc::clone(&self.described), Arc::clone(&self.missed));
        let path = entry.path.clone();
        Ok(Box::new(WatchedContent { content, length, tree, path, missed }))
    }
}

struct WatchedContent {
    content: Box<dyn ContentReader>,
    length: u64,
    tree: Arc<str>,
    path: TreePath,
    missed: Arc<AtomicBool>,
}

impl WatchedContent {
    fn may_be_of_store(&self, read: &[u8]) -> Result<bool> {
        let wanted = usize::try_from(self.length).unwrap_or(usize::MAX).min(GLANCE_LEN);
        if let Some(head) = read.get(..wanted) {
            return Ok(stores::may_be_of_store(self.length, head));
        }
        let mut head = vec![0; wanted];
        let count = self.content.read_at(&mut head, 0)?;
        Ok(stores::may_be_of_store(self.length, &head[..count]))
    }
}

impl ContentReader for WatchedContent {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        let count = self.content.read_at(buffer, offset)?;
        if offset == 0 && self.may_be_of_store(&buffer[..count])? {
            self.missed.store(true, Ordering::Relaxed);
            return Err(Error::Io {
                operation: Operation::Read,
                tree: self.tree.to_string(),
                path: self.path.clone(),
                source: std::io::Error::other("it may be of a store, and was not looked at before"),
            });
        }
        Ok(count)
    }

    fn next_data(&self, offset: u64) -> Result<Option<Extent>> {
        self.content.next_data(offset)
    }

    fn xattrs(&self) -> Result<Vec<Xattr>> {
        self.content.xattrs()
    }

    fn check_unchanged(&self) -> Result<()> {
        self.content.check_unchanged()
    }
}
