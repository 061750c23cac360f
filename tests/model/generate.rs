//! Random sequences. What is generated names files by number; only when it is done is a number
//! taken to mean one of the files that exist then, so that most steps do something.

use proptest::prelude::*;
use strongroom::backing::{FileKind, RenameMode, Timestamp, XattrMode};
use strongroom::vault::FallocateMode;

use super::reference::Reference;
use super::step::{Path, SLOTS, Step, Target};

/// What a generated tree may hold, where the filesystem below a plain directory takes less than
/// a vault does.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The longest symlink target.
    pub target: usize,
    /// The longest value of an extended attribute.
    pub xattr: usize,
    /// How a file can be allocated.
    pub allocate: &'static [FallocateMode],
    /// Whether files have extended attributes at all.
    pub xattrs: bool,
}

impl Limits {
    /// What a vault takes.
    pub const VAULT: Self = Self {
        target: 4095,
        xattr: 65_536,
        allocate: &[
            FallocateMode::Allocate,
            FallocateMode::AllocateKeepSize,
            FallocateMode::PunchHole,
            FallocateMode::ZeroRange,
            FallocateMode::ZeroRangeKeepSize,
        ],
        xattrs: true,
    };
}

/// A step before it is known what its numbers mean.
#[derive(Clone, Debug)]
pub enum Draft {
    Create(Place, u32),
    MakeDirectory(Place, u32),
    MakeSymlink(Place, usize),
    MakeFifo(Place, u32),
    Link(Any, Place),
    Unlink(Any),
    RemoveDirectory(Any),
    Rename(Any, Place, RenameMode),
    RenameOver(Any, Any, RenameMode),
    Open(usize, Any),
    Close(usize),
    Write(Any, u64, usize, u8),
    Append(Any, usize, u8),
    Read(Any, u64, usize),
    Truncate(Any, u64),
    Allocate(Any, usize, u64, u64),
    SetMode(Any, u32),
    SetOwner(Any, u32, u32),
    SetTimes(Any, i64, u32),
    GetXattr(Any, usize),
    SetXattr(Any, usize, usize, XattrMode),
    RemoveXattr(Any, usize),
    Sync(Any, bool),
    SyncDirectory(Any),
    SyncAll,
    Remount,
    Crash,
}

/// A name in one of the directories, taken or not.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    directory: usize,
    name: usize,
}

/// One of the files that there are.
#[derive(Clone, Copy, Debug)]
pub struct Any(pub usize);

/// Directories nest no deeper.
const DEPTH: usize = 5;

/// The names: few, so that they meet; the longest, such that look alike, and awkward ones.
fn name(number: usize) -> Vec<u8> {
    match number {
        0..=2 => vec![b'a' + u8::try_from(number).expect("small")],
        3 => vec![b'n'; 255],
        4 => [vec![b'n'; 254], b"m".to_vec()].concat(),
        5 => vec![b'k'; 176],
        6 => b"\xff\xfe\n".to_vec(),
        7 => b"...".to_vec(),
        8 => b"strongroom.dir".to_vec(),
        9 => (1..=255).filter(|byte| *byte != b'/').collect(),
        10 => vec![b'n'; 256],
        _ => unreachable!("a name's number"),
    }
}

fn xattr_name(number: usize) -> Path {
    Path(match number {
        0 => b"user.a".to_vec(),
        1 => b"user.\xe2\x98\x83 comment".to_vec(),
        2 => [b"user.".to_vec(), vec![b'x'; 250]].concat(),
        3 => [b"user.".to_vec(), vec![b'x'; 251]].concat(),
        _ => unreachable!("an attribute's number"),
    })
}

fn any_file() -> impl Strategy<Value = Any> {
    (0usize..64).prop_map(Any)
}

fn place() -> impl Strategy<Value = Place> {
    let name = prop_oneof![12 => 0usize..3, 4 => 3usize..10, 1 => Just(10usize)];
    (0usize..16, name).prop_map(|(directory, name)| Place { directory, name })
}

fn mode() -> impl Strategy<Value = u32> {
    prop_oneof![
        Just(0o644),
        Just(0o755),
        Just(0o2755),
        Just(0o4711),
        Just(0o1777),
        Just(0o600),
        0u32..0o10000
    ]
}

fn rename_mode() -> impl Strategy<Value = RenameMode> {
    prop_oneof![
        3 => Just(RenameMode::Replace),
        1 => Just(RenameMode::NoReplace),
        1 => Just(RenameMode::Exchange)
    ]
}

fn xattr_mode() -> impl Strategy<Value = XattrMode> {
    prop_oneof![2 => Just(XattrMode::Any), 1 => Just(XattrMode::Create), 1 => Just(XattrMode::Replace)]
}

fn offset() -> impl Strategy<Value = u64> {
    prop_oneof![4 => 0u64..10_000, 2 => (0u64..6).prop_map(|block| block * 4096), 1 => 0u64..200_000]
}

fn len() -> impl Strategy<Value = usize> {
    prop_oneof![4 => 0usize..300, 3 => 0usize..9_000, 2 => Just(4096usize), 1 => 0usize..70_000]
}

fn target_len() -> impl Strategy<Value = usize> {
    prop_oneof![4 => 1usize..60, 1 => 1usize..4096, 1 => Just(4095usize)]
}

fn value_len() -> impl Strategy<Value = usize> {
    prop_oneof![6 => 0usize..200, 1 => 0usize..=65_536]
}

/// A draft of one step.
pub fn draft() -> impl Strategy<Value = Draft> {
    let names = prop_oneof![
        4 => (place(), mode()).prop_map(|(place, mode)| Draft::Create(place, mode)),
        3 => (place(), mode()).prop_map(|(place, mode)| Draft::MakeDirectory(place, mode)),
        1 => (place(), target_len()).prop_map(|(place, len)| Draft::MakeSymlink(place, len)),
        1 => (place(), mode()).prop_map(|(place, mode)| Draft::MakeFifo(place, mode)),
        2 => (any_file(), place()).prop_map(|(from, to)| Draft::Link(from, to)),
        2 => any_file().prop_map(Draft::Unlink),
        2 => any_file().prop_map(Draft::RemoveDirectory),
        3 => (any_file(), place(), rename_mode())
            .prop_map(|(from, to, mode)| Draft::Rename(from, to, mode)),
        3 => (any_file(), any_file(), rename_mode())
            .prop_map(|(from, to, mode)| Draft::RenameOver(from, to, mode)),
    ];
    let content = prop_oneof![
        2 => (0..SLOTS, any_file()).prop_map(|(slot, file)| Draft::Open(slot, file)),
        1 => (0..SLOTS).prop_map(Draft::Close),
        5 => (any_file(), offset(), len(), any::<u8>())
            .prop_map(|(file, offset, len, byte)| Draft::Write(file, offset, len, byte)),
        2 => (any_file(), len(), any::<u8>())
            .prop_map(|(file, len, byte)| Draft::Append(file, len, byte)),
        1 => (any_file(), offset(), len())
            .prop_map(|(file, offset, len)| Draft::Read(file, offset, len)),
        2 => (any_file(), offset()).prop_map(|(file, size)| Draft::Truncate(file, size)),
        1 => any_file().prop_map(|file| Draft::Truncate(file, 0)),
        2 => (any_file(), 0usize..60, offset(), prop_oneof![9 => 1u64..30_000, 1 => Just(0)])
            .prop_map(|(file, mode, offset, len)| Draft::Allocate(file, mode, offset, len)),
    ];
    let attributes = prop_oneof![
        2 => (any_file(), mode()).prop_map(|(file, mode)| Draft::SetMode(file, mode)),
        1 => (any_file(), owner(), owner())
            .prop_map(|(file, uid, gid)| Draft::SetOwner(file, uid, gid)),
        2 => (any_file(), -2_000_000_000i64..1_400_000_000, 0u32..1_000_000_000)
            .prop_map(|(file, seconds, nanoseconds)| Draft::SetTimes(file, seconds, nanoseconds)),
        1 => (any_file(), 0usize..4).prop_map(|(file, name)| Draft::GetXattr(file, name)),
        3 => (any_file(), 0usize..4, value_len(), xattr_mode())
            .prop_map(|(file, name, len, mode)| Draft::SetXattr(file, name, len, mode)),
        1 => (any_file(), 0usize..4).prop_map(|(file, name)| Draft::RemoveXattr(file, name)),
    ];
    let durability = prop_oneof![
        4 => (any_file(), any::<bool>()).prop_map(|(file, data_only)| Draft::Sync(file, data_only)),
        1 => any_file().prop_map(Draft::SyncDirectory),
        2 => Just(Draft::SyncAll),
        2 => Just(Draft::Remount),
        1 => Just(Draft::Crash),
    ];
    prop_oneof![5 => names, 5 => content, 2 => attributes, 2 => durability]
}

fn owner() -> impl Strategy<Value = u32> {
    prop_oneof![Just(0u32), Just(1), Just(1000), Just(65_534)]
}

impl Draft {
    /// The step that this is while the tree looks like `reference`; `None` when there is nothing
    /// that it could mean.
    pub fn resolve(&self, reference: &Reference, limits: &Limits) -> Option<Step> {
        let scene = Scene::new(reference);
        Some(match self {
            Self::Create(place, mode) => {
                Step::Create { path: scene.place(*place), mode: allowed(*mode) }
            }
            Self::MakeDirectory(place, mode) => {
                Step::MakeDirectory { path: scene.place(*place), mode: allowed(*mode) }
            }
            Self::MakeSymlink(place, len) => Step::MakeSymlink {
                path: scene.place(*place),
                target_len: *len.min(&limits.target),
            },
            Self::MakeFifo(place, mode) => {
                Step::MakeFifo { path: scene.place(*place), mode: allowed(*mode) }
            }
            Self::Link(from, to) => Step::Link { from: scene.entry(*from)?, to: scene.place(*to) },
            Self::Unlink(entry) => Step::Unlink { path: scene.entry(*entry)? },
            Self::RemoveDirectory(Any(number)) => Step::RemoveDirectory {
                path: if number % 8 == 0 {
                    scene.entry(Any(number / 8))?
                } else {
                    scene.directory(Any(*number))?
                },
            },
            Self::Rename(from, to, mode) => {
                Step::Rename { from: scene.entry(*from)?, to: scene.place(*to), mode: *mode }
            }
            Self::RenameOver(from, to, mode) => {
                Step::Rename { from: scene.entry(*from)?, to: scene.entry(*to)?, mode: *mode }
            }
            Self::Open(slot, file) => Step::Open { slot: *slot, path: scene.file(*file)? },
            Self::Close(slot) => Step::Close { slot: *slot },
            Self::Write(file, offset, len, byte) => {
                Step::Write { file: scene.target(*file)?, offset: *offset, len: *len, byte: *byte }
            }
            Self::Append(file, len, byte) => {
                Step::Append { file: scene.target(*file)?, len: *len, byte: *byte }
            }
            Self::Read(file, offset, len) => {
                Step::Read { file: scene.target(*file)?, offset: *offset, len: *len }
            }
            Self::Truncate(file, size) => {
                Step::Truncate { file: scene.target(*file)?, size: *size }
            }
            Self::Allocate(file, mode, offset, len) => Step::Allocate {
                file: scene.target(*file)?,
                mode: *limits.allocate.get(mode % limits.allocate.len().max(1))?,
                offset: *offset,
                len: *len,
            },
            // The mode of a symlink cannot be set.
            Self::SetMode(any, mode) => {
                Step::SetMode { path: scene.no_symlink(*any)?, mode: allowed(*mode) }
            }
            Self::SetOwner(..) if !is_root() => return None,
            Self::SetOwner(any, uid, gid) => {
                Step::SetOwner { path: scene.any(*any), uid: *uid, gid: *gid }
            }
            Self::SetTimes(any, seconds, nanoseconds) => Step::SetTimes {
                path: scene.any(*any),
                modified: Timestamp { seconds: *seconds, nanoseconds: *nanoseconds },
            },
            Self::GetXattr(..) | Self::SetXattr(..) | Self::RemoveXattr(..) if !limits.xattrs => {
                return None;
            }
            Self::GetXattr(any, name) => {
                Step::GetXattr { path: scene.any(*any), name: xattr_name(*name) }
            }
            Self::SetXattr(any, name, len, mode) => Step::SetXattr {
                path: scene.any(*any),
                name: xattr_name(*name),
                value_len: *len.min(&limits.xattr),
                mode: *mode,
            },
            Self::RemoveXattr(any, name) => {
                Step::RemoveXattr { path: scene.any(*any), name: xattr_name(*name) }
            }
            Self::Sync(file, data_only) => {
                Step::Sync { file: scene.target(*file)?, data_only: *data_only }
            }
            Self::SyncDirectory(any) => Step::SyncDirectory { path: scene.directory(*any)? },
            Self::SyncAll => Step::SyncAll,
            Self::Remount => Step::Remount,
            Self::Crash => Step::Crash,
        })
    }
}

/// Modes that an ordinary user can set without locking themselves out.
fn allowed(mode: u32) -> u32 {
    if is_root() { mode } else { mode & 0o1777 | 0o700 }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// What there is to choose from.
struct Scene {
    paths: Vec<(Path, FileKind)>,
    slots: Vec<usize>,
}

impl Scene {
    fn new(reference: &Reference) -> Self {
        Self { paths: reference.paths(), slots: reference.open_slots() }
    }

    fn pick(&self, number: usize, wanted: impl Fn(&Path, FileKind) -> bool) -> Option<Path> {
        let fitting: Vec<&Path> = self
            .paths
            .iter()
            .filter(|(path, kind)| wanted(path, *kind))
            .map(|(path, _)| path)
            .collect();
        fitting.get(number % fitting.len().max(1)).map(|path| (*path).clone())
    }

    fn place(&self, place: Place) -> Path {
        let directory = self.pick(place.directory, |path, kind| {
            kind == FileKind::Directory && path.components().count() < DEPTH
        });
        directory.expect("the root at least").join(&name(place.name))
    }

    fn any(&self, any: Any) -> Path {
        self.pick(any.0, |_, _| true).expect("the root at least")
    }

    fn entry(&self, any: Any) -> Option<Path> {
        self.pick(any.0, |path, _| !path.0.is_empty())
    }

    fn directory(&self, any: Any) -> Option<Path> {
        self.pick(any.0, |path, kind| !path.0.is_empty() && kind == FileKind::Directory)
    }

    fn file(&self, any: Any) -> Option<Path> {
        self.pick(any.0, |_, kind| kind == FileKind::Regular)
    }

    fn no_symlink(&self, any: Any) -> Option<Path> {
        self.pick(any.0, |_, kind| kind != FileKind::Symlink)
    }

    /// A file by name or, as often, one that is held open.
    fn target(&self, any: Any) -> Option<Target> {
        let files: Vec<Target> = self
            .paths
            .iter()
            .filter(|(_, kind)| *kind == FileKind::Regular)
            .map(|(path, _)| Target::Name(path.clone()))
            .chain(self.slots.iter().map(|slot| Target::Slot(*slot)))
            .collect();
        files.get(any.0 % files.len().max(1)).cloned()
    }
}
