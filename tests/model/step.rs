//! What is done to a tree, one step at a time; and what a tree then answers and shows.
//!
//! A [`Step`] names its paths outright and prints as Rust, so that a failing sequence can be
//! copied into a regression test.

use std::collections::BTreeMap;
use std::fmt;

use strongroom::backing::{FileKind, RenameMode, Timestamp, XattrMode};
use strongroom::vault::FallocateMode;

/// Files that a sequence holds open at once.
pub const SLOTS: usize = 3;

/// A path below the tree's root, components separated by `/`; empty for the root.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Path(pub Vec<u8>);

/// A path, from a literal.
pub fn p(path: &[u8]) -> Path {
    Path(path.to_vec())
}

impl Path {
    pub fn components(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split(|byte| *byte == b'/').filter(|component| !component.is_empty())
    }

    /// The directory's path, and the name in it.
    pub fn split(&self) -> (Path, &[u8]) {
        match self.0.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => (p(&self.0[..slash]), &self.0[slash + 1..]),
            None => (p(b""), &self.0),
        }
    }

    pub fn join(&self, name: &[u8]) -> Path {
        if self.0.is_empty() { p(name) } else { Path([&self.0, &b"/"[..], name].concat()) }
    }
}

impl fmt::Debug for Path {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "p(b\"{}\")", self.0.escape_ascii())
    }
}

/// A file, by its path or as it is held open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    Name(Path),
    Slot(usize),
}

/// One thing done to a tree.
#[derive(Clone, Debug)]
pub enum Step {
    Create {
        path: Path,
        mode: u32,
    },
    MakeDirectory {
        path: Path,
        mode: u32,
    },
    MakeSymlink {
        path: Path,
        target_len: usize,
    },
    MakeFifo {
        path: Path,
        mode: u32,
    },
    Link {
        from: Path,
        to: Path,
    },
    Unlink {
        path: Path,
    },
    RemoveDirectory {
        path: Path,
    },
    Rename {
        from: Path,
        to: Path,
        mode: RenameMode,
    },
    Open {
        slot: usize,
        path: Path,
    },
    Close {
        slot: usize,
    },
    Write {
        file: Target,
        offset: u64,
        len: usize,
        byte: u8,
    },
    Append {
        file: Target,
        len: usize,
        byte: u8,
    },
    Read {
        file: Target,
        offset: u64,
        len: usize,
    },
    Truncate {
        file: Target,
        size: u64,
    },
    Allocate {
        file: Target,
        mode: FallocateMode,
        offset: u64,
        len: u64,
    },
    SetMode {
        path: Path,
        mode: u32,
    },
    SetOwner {
        path: Path,
        uid: u32,
        gid: u32,
    },
    SetTimes {
        path: Path,
        modified: Timestamp,
    },
    GetXattr {
        path: Path,
        name: Path,
    },
    SetXattr {
        path: Path,
        name: Path,
        value_len: usize,
        mode: XattrMode,
    },
    RemoveXattr {
        path: Path,
        name: Path,
    },
    Sync {
        file: Target,
        data_only: bool,
    },
    SyncDirectory {
        path: Path,
    },
    SyncAll,
    /// Everything is closed, ended cleanly, and opened again.
    Remount,
    /// The process dies; nothing that it was told is lost, for the system goes on.
    Crash,
}

/// What a step answers: bytes where it reads, else nothing; or an errno.
pub type Outcome = Result<Vec<u8>, i32>;

/// The bytes that are written.
pub fn pattern(len: usize, byte: u8) -> Vec<u8> {
    (0..len).map(|at| byte.wrapping_add(u8::try_from(at % 251).unwrap())).collect()
}

/// The target of a symlink.
pub fn target_of(len: usize) -> Vec<u8> {
    (0..len)
        .map(|at| if at % 9 == 8 { b'/' } else { 0x80 + u8::try_from(at % 100).unwrap() })
        .collect()
}

/// When content changed last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Modified {
    /// Then.
    At(Timestamp),
    /// While the test ran, and not at a time that was set.
    Recently,
    /// Who knows.
    Whenever,
}

/// Later than every time that a sequence sets, and before any test.
const RECENT: i64 = 1_500_000_000;

impl Modified {
    fn admits(self, found: Timestamp) -> bool {
        match self {
            Self::At(expected) => found == expected,
            Self::Recently => found.seconds > RECENT,
            Self::Whenever => true,
        }
    }
}

/// Everything that can be seen of one file.
#[derive(Clone)]
pub struct View {
    pub kind: FileKind,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// `None` where the filesystem does not count a directory's directories.
    pub links: Option<u64>,
    pub modified: Modified,
    /// A file's bytes, a symlink's target.
    pub content: Vec<u8>,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Tells which paths name the same file.
    pub identity: u64,
}

/// Everything that can be seen of a tree: by path, and what is held open.
pub struct Observation {
    pub tree: BTreeMap<Path, View>,
    pub slots: [Option<View>; SLOTS],
}

impl Observation {
    /// What of `found` is not as expected here; `None` when everything is.
    pub fn difference(&self, found: &Self) -> Option<String> {
        let (expected_paths, found_paths) = (self.tree.keys(), found.tree.keys());
        if !expected_paths.clone().eq(found_paths.clone()) {
            let missing: Vec<_> =
                expected_paths.filter(|path| !found.tree.contains_key(path)).collect();
            let surplus: Vec<_> =
                found_paths.filter(|path| !self.tree.contains_key(path)).collect();
            return Some(format!("missing: {missing:?}; not expected: {surplus:?}"));
        }
        let mut identities = BTreeMap::new();
        let mut found_identities = BTreeMap::new();
        let slots = self.slots.iter().zip(&found.slots).enumerate();
        let slots =
            slots.map(|(slot, views)| (format!("slot {slot}"), views.0.as_ref(), views.1.as_ref()));
        let tree = self.tree.iter().zip(found.tree.values());
        let tree = tree.map(|((path, a), b)| (format!("{path:?}"), Some(a), Some(b)));
        for (name, expected, found) in tree.chain(slots) {
            let (Some(expected), Some(found)) = (expected, found) else {
                if expected.is_some() != found.is_some() {
                    return Some(format!("{name}: open in one only"));
                }
                continue;
            };
            if let Some(difference) = expected.difference(found) {
                return Some(format!("{name}: {difference}"));
            }
            let first = identities.entry(expected.identity).or_insert_with(|| name.clone());
            let found_first =
                found_identities.entry(found.identity).or_insert_with(|| name.clone());
            if first != found_first {
                return Some(format!(
                    "{name}: is the same file as {found_first}, expected {first}"
                ));
            }
        }
        None
    }
}

impl View {
    fn difference(&self, found: &Self) -> Option<String> {
        if self.kind != found.kind {
            return Some(format!("kind {:?}, expected {:?}", found.kind, self.kind));
        }
        if (self.mode, self.uid, self.gid) != (found.mode, found.uid, found.gid) {
            return Some(format!(
                "mode {:o} of {}:{}, expected {:o} of {}:{}",
                found.mode, found.uid, found.gid, self.mode, self.uid, self.gid
            ));
        }
        if let (Some(expected), Some(links)) = (self.links, found.links)
            && expected != links
        {
            return Some(format!("{links} links, expected {expected}"));
        }
        if self.content != found.content {
            let at = self.content.iter().zip(&found.content).position(|(a, b)| a != b);
            return Some(format!(
                "{} bytes, expected {}; first difference at {at:?}",
                found.content.len(),
                self.content.len()
            ));
        }
        if self.xattrs != found.xattrs {
            let names = |view: &Self| {
                let names = view.xattrs.iter();
                names
                    .map(|(name, value)| (name.escape_ascii().to_string(), value.len()))
                    .collect::<Vec<_>>()
            };
            return Some(format!("xattrs {:?}, expected {:?}", names(found), names(self)));
        }
        match found.modified {
            Modified::At(time) if !self.modified.admits(time) => {
                Some(format!("modified {time:?}, expected {:?}", self.modified))
            }
            _ => None,
        }
    }
}

/// Something that steps can be done to.
pub trait Subject {
    /// What it is called in reports.
    fn name(&self) -> &'static str;
    fn apply(&mut self, step: &Step) -> Outcome;
    fn observe(&mut self) -> Observation;
    /// Looks at what cannot be seen in the tree, at the end of a sequence.
    fn finish(&mut self) {}
}
