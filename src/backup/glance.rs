//! Looks at what is restored on its way to its place: whether any of it may be of a store. Where nothing
//! is, nobody need read all of it again to find the stores.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::stores::{self, GLANCE_LEN};
use crate::tree::{ContentWriter, Entry, LocalTree, Metadata, Result, TreePath, TreeWriter};

/// A directory being filled.
pub(super) struct Glancing {
    tree: LocalTree,
    may_hold_stores: Arc<AtomicBool>,
}

impl Glancing {
    /// What was there before is not looked at.
    pub(super) fn new(tree: LocalTree) -> Self {
        Self { tree, may_hold_stores: Arc::default() }
    }

    pub(super) fn tree(&self) -> &LocalTree {
        &self.tree
    }

    /// Whether something that was written may be of a store.
    pub(super) fn may_hold_stores(&self) -> bool {
        self.may_hold_stores.load(Ordering::Relaxed)
    }

    fn name(&self, path: &TreePath) {
        if path.name().is_some_and(stores::is_name_of_store) {
            self.may_hold_stores.store(true, Ordering::Relaxed);
        }
    }

    fn glance(&self, content: Box<dyn ContentWriter>, length: u64) -> Box<dyn ContentWriter> {
        let may_hold_stores = Arc::clone(&self.may_hold_stores);
        Box::new(GlancingContent { content, length, may_hold_stores })
    }
}

impl TreeWriter for Glancing {
    fn describe(&self) -> String {
        TreeWriter::describe(&self.tree)
    }

    fn existing(&self, path: &TreePath) -> Result<Option<Entry>> {
        self.tree.existing(path)
    }

    fn create_directory(&self, path: &TreePath) -> Result<()> {
        self.tree.create_directory(path)
    }

    fn create_file(&self, path: &TreePath) -> Result<Box<dyn ContentWriter>> {
        // How long it is going to be is part of what is looked at.
        self.may_hold_stores.store(true, Ordering::Relaxed);
        self.tree.create_file(path)
    }

    fn create_file_for(
        &self,
        path: &TreePath,
        metadata: &Metadata,
    ) -> Result<Box<dyn ContentWriter>> {
        self.name(path);
        Ok(self.glance(self.tree.create_file_for(path, metadata)?, metadata.size))
    }

    fn create_special(&self, path: &TreePath, metadata: &Metadata) -> Result<()> {
        self.name(path);
        self.tree.create_special(path, metadata)
    }

    fn hard_link(&self, original: &TreePath, path: &TreePath) -> Result<()> {
        self.name(path);
        self.tree.hard_link(original, path)
    }

    fn set_metadata(&self, path: &TreePath, metadata: &Metadata) -> Result<()> {
        self.tree.set_metadata(path, metadata)
    }

    fn remove(&self, path: &TreePath) -> Result<()> {
        self.tree.remove(path)
    }

    fn sync(&self) -> Result<()> {
        self.tree.sync()
    }
}

struct GlancingContent {
    content: Box<dyn ContentWriter>,
    /// How long it is going to be.
    length: u64,
    may_hold_stores: Arc<AtomicBool>,
}

impl ContentWriter for GlancingContent {
    fn write_at(&mut self, data: &[u8], offset: u64) -> Result<()> {
        // Behind a hole nothing is recognised: a file begins with its mark, or with what looks random.
        if offset < GLANCE_LEN as u64 {
            let head = &data[..data.len().min(GLANCE_LEN)];
            let whole = offset == 0 && head.len() as u64 >= self.length.min(GLANCE_LEN as u64);
            // What comes in pieces is not put together.
            if !whole || stores::may_be_of_store(self.length, head) {
                self.may_hold_stores.store(true, Ordering::Relaxed);
            }
        }
        self.content.write_at(data, offset)
    }

    fn finish(self: Box<Self>, metadata: &Metadata) -> Result<()> {
        self.content.finish(metadata)
    }
}
