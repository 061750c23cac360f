//! What the core's operations take and give.

use crate::backing::{FileKind, SetTime, Timestamp};

/// The number of an inode: the backing file's, but 1 for the root.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InodeNumber(pub u64);

impl InodeNumber {
    /// The root directory.
    pub const ROOT: Self = Self(1);
}

/// What `stat(2)` tells of a plain file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// The inode number.
    pub ino: InodeNumber,
    /// The kind of file.
    pub kind: FileKind,
    /// Permission bits, set-user-ID, set-group-ID and sticky (`0o7777`).
    pub mode: u32,
    /// Hard links.
    pub links: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device file, as `stat(2)` gives it.
    pub rdev: u32,
    /// Size of the plaintext in bytes.
    pub size: u64,
    /// Allocated blocks of 512 bytes, of the ciphertext.
    pub blocks: u64,
    /// Last access.
    pub accessed: Timestamp,
    /// Last change of content.
    pub modified: Timestamp,
    /// Last change of the inode.
    pub changed: Timestamp,
}

/// A name resolved: counts one lookup, which [`super::FileSystem::forget`] gives back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The file's attributes.
    pub attributes: Attributes,
    /// Tells reused inode numbers apart.
    pub generation: u64,
}

/// Who asks, for what is created: the owner to be, and the umask to apply.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    /// User ID.
    pub uid: u32,
    /// Group ID.
    pub gid: u32,
    /// Applied to modes of new files, unless the directory has a default ACL.
    pub umask: u32,
}

/// Attributes to change; `None` and [`SetTime::Keep`] leave them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SetAttributes {
    /// New mode (`0o7777`).
    pub mode: Option<u32>,
    /// New owner.
    pub uid: Option<u32>,
    /// New group.
    pub gid: Option<u32>,
    /// New size in bytes.
    pub size: Option<u64>,
    /// New time of last access.
    pub accessed: SetTime,
    /// New time of last change.
    pub modified: SetTime,
    /// Whether set-user-ID, set-group-ID and file capabilities must go with the change, because
    /// somebody without privilege makes it.
    pub kill_privileges: bool,
    /// With `kill_privileges`: set-group-ID goes also from a file that its group may not execute,
    /// because whoever makes the change is not in that group.
    pub outside_group: bool,
}

impl Default for SetAttributes {
    fn default() -> Self {
        Self {
            mode: None,
            uid: None,
            gid: None,
            size: None,
            accessed: SetTime::Keep,
            modified: SetTime::Keep,
            kill_privileges: false,
            outside_group: false,
        }
    }
}

/// A name by which an inode in memory was reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CachedName {
    /// The directory.
    pub parent: InodeNumber,
    /// The plain name.
    pub name: Vec<u8>,
    /// What it names.
    pub kind: FileKind,
}

/// One entry of a plain directory listing. `.` and `..` are listed too.
#[derive(Clone, Copy, Debug)]
pub struct DirectoryEntry<'a> {
    /// The plain name.
    pub name: &'a [u8],
    /// Its inode number.
    pub ino: InodeNumber,
    /// Its kind.
    pub kind: FileKind,
    /// Where the listing goes on after this entry.
    pub next_cookie: u64,
    /// With attributes, where they were asked for and the entry is neither `.` nor `..`; counts
    /// one lookup when the sink takes the entry.
    pub entry: Option<&'a Entry>,
}

/// What `fallocate(2)` is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FallocateMode {
    /// Allocate, and grow the file where the range ends past it.
    Allocate,
    /// Allocate without growing (`FALLOC_FL_KEEP_SIZE`).
    AllocateKeepSize,
    /// `FALLOC_FL_PUNCH_HOLE`.
    PunchHole,
    /// `FALLOC_FL_ZERO_RANGE`.
    ZeroRange,
    /// `FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE`.
    ZeroRangeKeepSize,
}

/// What `lseek(2)` looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeekWhence {
    /// The next data.
    Data,
    /// The next hole; the end of the file is one.
    Hole,
}

/// How the core is opened.
#[derive(Clone, Copy, Debug)]
pub struct FilesystemOptions {
    /// Refuse every change with `EROFS`.
    pub read_only: bool,
    /// Keep the redo journal. Off only to measure what it costs: without it a power cut can make
    /// durable data unreadable.
    pub journal: bool,
    /// How many file descriptors the core may keep.
    pub descriptors: usize,
    /// The transport sets the times of written files itself (FUSE's writeback cache does).
    pub kernel_keeps_times: bool,
    /// Bytes of each of the journal's two segments, at most; less is taken where the disk has
    /// little room.
    pub journal_segment: u64,
}

impl Default for FilesystemOptions {
    fn default() -> Self {
        Self {
            read_only: false,
            journal: true,
            descriptors: 512,
            kernel_keeps_times: false,
            journal_segment: 64 << 20,
        }
    }
}
