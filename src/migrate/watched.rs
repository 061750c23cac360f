//! A tree whose every change passes the watch.

use std::io;

use super::error::Error;
use super::operations::{Change, Hands};
use crate::tree::{
    self, ContentWriter, Entry, LocalTree, Metadata, TreePath, TreeReader, TreeWriter,
};

/// Writes to a local tree under the watch's eyes.
pub(super) struct WatchedTree<'a> {
    pub(super) tree: &'a LocalTree,
    pub(super) hands: &'a Hands,
}

/// What [`Hands::perform`] fails with, here.
enum Failure {
    Tree(tree::Error),
    Watch(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Watch(error)
    }
}

impl WatchedTree<'_> {
    fn watched<T>(
        &self,
        path: &TreePath,
        make: impl FnOnce() -> tree::Result<T>,
    ) -> tree::Result<T> {
        watched(self.hands, &TreeWriter::describe(self.tree), path, make)
    }

    fn file(
        &self,
        path: &TreePath,
        create: impl FnOnce() -> tree::Result<Box<dyn ContentWriter>>,
    ) -> tree::Result<Box<dyn ContentWriter>> {
        let inner = self.watched(path, create)?;
        let tree = TreeWriter::describe(self.tree);
        Ok(Box::new(WatchedFile { inner, hands: self.hands.clone(), tree, path: path.clone() }))
    }
}

fn watched<T>(
    hands: &Hands,
    tree: &str,
    path: &TreePath,
    make: impl FnOnce() -> tree::Result<T>,
) -> tree::Result<T> {
    hands.perform(Change::Copy, path.as_path(), || make().map_err(Failure::Tree)).map_err(
        |failure| match failure {
            Failure::Tree(error) => error,
            Failure::Watch(Error::Interrupted) => tree::Error::Cancelled,
            Failure::Watch(error) => tree::Error::Io {
                operation: tree::Operation::Write,
                tree: tree.to_owned(),
                path: path.clone(),
                source: match error {
                    Error::Io { source, .. } => source,
                    other => io::Error::other(other),
                },
            },
        },
    )
}

impl TreeWriter for WatchedTree<'_> {
    fn describe(&self) -> String {
        TreeWriter::describe(self.tree)
    }

    fn existing(&self, path: &TreePath) -> tree::Result<Option<Entry>> {
        self.tree.existing(path)
    }

    fn create_directory(&self, path: &TreePath) -> tree::Result<()> {
        self.watched(path, || self.tree.create_directory(path))
    }

    fn create_file(&self, path: &TreePath) -> tree::Result<Box<dyn ContentWriter>> {
        self.file(path, || self.tree.create_file(path))
    }

    fn create_file_for(
        &self,
        path: &TreePath,
        metadata: &Metadata,
    ) -> tree::Result<Box<dyn ContentWriter>> {
        self.file(path, || self.tree.create_file_for(path, metadata))
    }

    fn create_special(&self, path: &TreePath, metadata: &Metadata) -> tree::Result<()> {
        self.watched(path, || self.tree.create_special(path, metadata))
    }

    fn hard_link(&self, original: &TreePath, path: &TreePath) -> tree::Result<()> {
        self.watched(path, || self.tree.hard_link(original, path))
    }

    fn set_metadata(&self, path: &TreePath, metadata: &Metadata) -> tree::Result<()> {
        self.watched(path, || self.tree.set_metadata(path, metadata))
    }

    fn remove(&self, path: &TreePath) -> tree::Result<()> {
        self.watched(path, || self.tree.remove(path))
    }

    fn sync(&self) -> tree::Result<()> {
        self.watched(&TreePath::root(), || self.tree.sync())
    }
}

struct WatchedFile {
    inner: Box<dyn ContentWriter>,
    hands: Hands,
    tree: String,
    path: TreePath,
}

impl ContentWriter for WatchedFile {
    fn write_at(&mut self, data: &[u8], offset: u64) -> tree::Result<()> {
        let Self { inner, hands, tree, path } = self;
        watched(hands, tree, path, || inner.write_at(data, offset))
    }

    fn finish(self: Box<Self>, metadata: &Metadata) -> tree::Result<()> {
        let Self { inner, hands, tree, path } = *self;
        watched(&hands, &tree, &path, || inner.finish(metadata))
    }
}

/// Keeps the import of the reader's trait beside the writer's: both describe.
const _: fn(&LocalTree) -> String = |tree| TreeReader::describe(tree);
