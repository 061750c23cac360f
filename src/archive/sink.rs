//! Where a pass over an archive puts what it has checked. It must know nothing of archives.

use super::error::Result;
use super::metadata::{IndexEntry, SectionName};
use crate::tree::{ContentWriter, Digest, EntryKind, Metadata, TreePath};

/// Takes what a pass has checked.
pub(super) trait Sink {
    /// A directory begins; everything up to its [`Self::leave`] is in it.
    fn enter(&mut self, section: &SectionName, path: &TreePath, metadata: &Metadata) -> Result<()>;

    /// The innermost directory ends.
    fn leave(&mut self) -> Result<()>;

    /// A symlink, FIFO or device.
    fn special(
        &mut self,
        section: &SectionName,
        path: &TreePath,
        metadata: &Metadata,
    ) -> Result<()>;

    /// Another name of what came before, of this kind.
    fn hard_link(
        &mut self,
        section: &SectionName,
        first: &TreePath,
        path: &TreePath,
        kind: EntryKind,
    ) -> Result<()>;

    /// A file, whole. Its digest comes from [`Self::next_digest`]. With `at_once` the file must be
    /// there when this returns.
    fn small(&mut self, file: SmallFile<'_>, at_once: bool) -> Result<()>;

    /// The digest of the first of the files handed to [`Self::small`] of which it was not asked for
    /// yet.
    fn next_digest(&mut self) -> Result<Digest>;

    /// Where a larger file's data go; `None` where nobody wants them.
    fn large(
        &mut self,
        section: &SectionName,
        path: &TreePath,
        metadata: &Metadata,
    ) -> Result<Option<Box<dyn ContentWriter>>>;

    /// A line of the index: its entry has been checked, whether stored here or not.
    fn line(&mut self, line: &IndexEntry) -> Result<()>;
}

/// A file read whole.
pub(super) struct SmallFile<'a> {
    pub(super) section: &'a SectionName,
    pub(super) path: &'a TreePath,
    pub(super) metadata: &'a Metadata,
    /// As many bytes as its size: holes are filled.
    pub(super) data: Vec<u8>,
}
