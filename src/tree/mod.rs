//! Owns the idea of a plain file tree: readers and writers of one, their implementations, and
//! what can be done with any of them (copy, compare, list). It must know nothing of why a tree
//! is read or written.
//!
//! Everything that a Linux filesystem keeps of a file is kept: every kind of entry, modes,
//! owners, times to the nanosecond (before 1970 too), extended attributes and ACLs as raw bytes,
//! hard links, holes, and names of any bytes. Paths are checked once, as [`TreePath`]. Nothing
//! here follows a symlink.

mod bytes;
mod compare;
mod copy;
mod directories;
mod error;
mod local;
mod manifest;
mod path;
mod pattern;
#[cfg(test)]
pub(crate) mod sample;
pub(crate) mod stream;
pub(crate) mod threads;
mod types;

pub(crate) use directories::OpenDirectory;
pub(crate) use path::PathText;
pub(crate) use stream::hash_zeros;

pub use bytes::ByteString;
pub use compare::{CompareOptions, Comparison, Difference, Mismatch, compare, compare_manifest};
pub use copy::{Copied, CopyOptions, OutsideLink, copy};
pub use error::{Error, Operation, Result};
pub use local::{Durability, Listing, LocalTree, Rename};
pub use manifest::{Manifest, ManifestEntry};
pub use path::{NAME_MAX, PATH_LIMIT, PathError, TreePath};
pub use pattern::{PatternError, Patterns};
pub use types::{
    Digest, DigestError, Entry, EntryKind, Extent, HardLink, Metadata, Timestamp, Xattr,
};

/// The entries of a walk: the root first (its path is empty), each directory before what it
/// holds, siblings sorted by the bytes of their names. Memory grows with the largest directory,
/// not with the tree. After an error the walk may go on with what is left.
pub type Walk<'a> = Box<dyn Iterator<Item = Result<Entry>> + Send + 'a>;

/// Says whether a walk leaves an entry out, and with a directory all that it holds.
pub type Exclude<'a> = &'a (dyn Fn(&TreePath, EntryKind) -> bool + Sync);

/// Leaves nothing out.
pub fn exclude_nothing(_: &TreePath, _: EntryKind) -> bool {
    false
}

/// Hears how a long operation gets on; from several threads at once.
pub trait Progress: Sync {
    /// So many bytes of content more are done, holes included.
    fn bytes(&self, count: u64) {
        let _ = count;
    }
    /// One entry more is done.
    fn entry(&self, path: &TreePath) {
        let _ = path;
    }
}

/// Nobody listens.
impl Progress for () {}

/// Something that a tree can be read from. Usable from several threads at once.
pub trait TreeReader: Send + Sync {
    /// What people call it (a path), for messages.
    fn describe(&self) -> String;

    /// Visits every entry but those that `exclude` names, in the order of [`Walk`].
    ///
    /// # Errors
    /// When the root cannot be read.
    fn walk<'a>(&'a self, exclude: Exclude<'a>) -> Result<Walk<'a>>;

    /// The same, for whoever reads the content of every file with one name: the extended attributes of
    /// these may be left to [`ContentReader::xattrs`] ([`Entry::xattrs_unread`]), which takes less.
    ///
    /// # Errors
    /// When the root cannot be read.
    fn walk_to_read<'a>(&'a self, exclude: Exclude<'a>) -> Result<Walk<'a>> {
        self.walk(exclude)
    }

    /// One entry, as [`Self::walk`] gives it.
    ///
    /// # Errors
    /// With `ENOENT` where it is missing.
    fn entry(&self, path: &TreePath) -> Result<Entry>;

    /// Opens the content of a regular file.
    ///
    /// # Errors
    /// [`Error::Changed`] when it is no longer what `entry` describes.
    fn content(&self, entry: &Entry) -> Result<Box<dyn ContentReader>>;
}

/// The content of one regular file.
pub trait ContentReader: Send + Sync {
    /// Reads until `buffer` is full or the file ends; the count.
    ///
    /// # Errors
    /// As the store below gives them.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize>;

    /// The next stretch of data at or after `offset`, `None` when only a hole or nothing
    /// follows. A store without holes answers with all that follows.
    ///
    /// # Errors
    /// As the store below gives them.
    fn next_data(&self, offset: u64) -> Result<Option<Extent>>;

    /// The file's extended attributes, sorted by name.
    ///
    /// # Errors
    /// As the store below gives them.
    fn xattrs(&self) -> Result<Vec<Xattr>>;

    /// To be called after the last read, before what was read is relied on.
    ///
    /// # Errors
    /// [`Error::Changed`] when the file is no longer what it was when it was opened.
    fn check_unchanged(&self) -> Result<()>;
}

/// Something that a tree can be written to. Usable from several threads at once.
///
/// Directories come before what they hold; their metadata are set last, when all that they hold
/// is complete. Nothing is ever written through a symlink.
pub trait TreeWriter: Send + Sync {
    /// What people call it (a path), for messages.
    fn describe(&self) -> String;

    /// What is there already, if anything.
    ///
    /// # Errors
    /// As the store below gives them.
    fn existing(&self, path: &TreePath) -> Result<Option<Entry>>;

    /// Creates a directory, private to the owner until [`Self::set_metadata`]. The root exists.
    ///
    /// # Errors
    /// `EEXIST` where the name is taken.
    fn create_directory(&self, path: &TreePath) -> Result<()>;

    /// Creates an empty regular file, private to the owner until [`ContentWriter::finish`].
    ///
    /// # Errors
    /// `EEXIST` where the name is taken.
    fn create_file(&self, path: &TreePath) -> Result<Box<dyn ContentWriter>>;

    /// The same, of a file that [`ContentWriter::finish`] will give `metadata`. A part of them may be
    /// given at once, where that lets nobody in who will not be.
    ///
    /// # Errors
    /// `EEXIST` where the name is taken.
    fn create_file_for(
        &self,
        path: &TreePath,
        metadata: &Metadata,
    ) -> Result<Box<dyn ContentWriter>> {
        let _ = metadata;
        self.create_file(path)
    }

    /// Creates a symlink, FIFO, socket or device with all its metadata.
    ///
    /// # Errors
    /// `EEXIST` where the name is taken; [`Error::Kind`] for a regular file or a directory.
    fn create_special(&self, path: &TreePath, metadata: &Metadata) -> Result<()>;

    /// Makes `path` another name of `original`, which is already there.
    ///
    /// # Errors
    /// `EEXIST` where the name is taken.
    fn hard_link(&self, original: &TreePath, path: &TreePath) -> Result<()>;

    /// Sets owner, extended attributes, mode and times of what is there already; attributes that
    /// `metadata` does not name go. Kind, size and target are taken as they are.
    ///
    /// # Errors
    /// As the store below gives them.
    fn set_metadata(&self, path: &TreePath, metadata: &Metadata) -> Result<()>;

    /// Removes an entry, a directory with all that it holds.
    ///
    /// # Errors
    /// `ENOENT` where nothing is there.
    fn remove(&self, path: &TreePath) -> Result<()>;

    /// Returns when everything written so far survives a power cut, as far as the store below
    /// keeps its promises.
    ///
    /// # Errors
    /// As the store below gives them: then nothing may be relied on.
    fn sync(&self) -> Result<()>;
}

/// A regular file being written.
pub trait ContentWriter: Send {
    /// Writes all of `data`. Stretches never written read as zeros and are holes where the store
    /// has holes.
    ///
    /// # Errors
    /// As the store below gives them.
    fn write_at(&mut self, data: &[u8], offset: u64) -> Result<()>;

    /// Gives the file the size and metadata of `metadata` and closes it. A writer that is dropped
    /// without this leaves a file of no use.
    ///
    /// # Errors
    /// As the store below gives them.
    fn finish(self: Box<Self>, metadata: &Metadata) -> Result<()>;
}
