//! What is done to a vault on a recorded disk, and what it looked like after each step.

use std::collections::BTreeMap;
use std::fmt;

use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use strongroom::backing::crash::CrashRecorder;
use strongroom::backing::{Directory, FileKind, RenameMode, XattrMode};
use strongroom::crypto::MasterKey;
use strongroom::vault::{
    Caller, Error, FileSystem, FilesystemOptions, InodeNumber, OVERFLOW_NAME, SetAttributes,
    TREE_NAME,
};

pub const ROOT: InodeNumber = InodeNumber::ROOT;
pub const CALLER: Caller = Caller { uid: 0, gid: 0, umask: 0o022 };
/// The one attribute that steps set.
const ATTRIBUTE: &[u8] = b"user.attribute";

/// Names from the root down.
pub type Path = Vec<Vec<u8>>;

pub fn path(names: &[&[u8]]) -> Path {
    names.iter().map(|name| name.to_vec()).collect()
}

#[derive(Clone)]
pub enum Step {
    Create { path: Path },
    Write { path: Path, offset: u64, data: Vec<u8> },
    Truncate { path: Path, size: u64 },
    MakeSymlink { path: Path, target: Vec<u8> },
    MakeDirectory { path: Path },
    Link { from: Path, to: Path },
    Unlink { path: Path },
    RemoveDirectory { path: Path },
    Rename { from: Path, to: Path, mode: RenameMode },
    SetMode { path: Path, mode: u32 },
    SetXattr { path: Path, value: Vec<u8>, mode: XattrMode },
    RemoveXattr { path: Path },
    Sync { path: Path, data_only: bool },
    SyncDirectory { path: Path },
    SyncAll,
}

impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let p = |path: &Path| {
            let names = path.iter().map(|name| match name.len() {
                0..=9 => name.escape_ascii().to_string(),
                len => format!("{}..{len}", name[..1].escape_ascii()),
            });
            format!("/{}", names.collect::<Vec<_>>().join("/"))
        };
        match self {
            Self::Create { path } => write!(f, "create {}", p(path)),
            Self::Write { path, offset, data } => {
                write!(f, "write {} {offset}+{} of {}", p(path), data.len(), data[0])
            }
            Self::Truncate { path, size } => write!(f, "truncate {} {size}", p(path)),
            Self::MakeSymlink { path, target } => write!(f, "symlink {} {}", p(path), target.len()),
            Self::MakeDirectory { path } => write!(f, "mkdir {}", p(path)),
            Self::Link { from, to } => write!(f, "link {} {}", p(from), p(to)),
            Self::Unlink { path } => write!(f, "unlink {}", p(path)),
            Self::RemoveDirectory { path } => write!(f, "rmdir {}", p(path)),
            Self::Rename { from, to, mode } => write!(f, "rename {} {} {mode:?}", p(from), p(to)),
            Self::SetMode { path, mode } => write!(f, "chmod {} {mode:o}", p(path)),
            Self::SetXattr { path, value, .. } => {
                write!(f, "setxattr {} {} of {}", p(path), value.len(), value[0])
            }
            Self::RemoveXattr { path } => write!(f, "removexattr {}", p(path)),
            Self::Sync { path, data_only } => write!(f, "sync {} {data_only}", p(path)),
            Self::SyncDirectory { path } => write!(f, "syncdir {}", p(path)),
            Self::SyncAll => write!(f, "syncall"),
        }
    }
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let target = self.target.as_ref().map(Vec::len);
        let xattrs = self.xattrs.values().map(|value| (value.len(), value.first()));
        write!(f, "{:?} {:o} {} links", self.kind, self.mode, self.links)?;
        write!(f, " target {target:?} xattrs {:?}", xattrs.collect::<Vec<_>>())?;
        write!(f, " content {}", self.content.len())
    }
}

impl fmt::Debug for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for ((directory, name), ino) in &self.names {
            let (len, start) = (name.len(), name[..1].escape_ascii());
            write!(f, "\n  {}/{start}..{len}: {} {:?}", directory.0, ino.0, self.files[ino])?;
        }
        Ok(())
    }
}

/// What a step that succeeded made durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durable {
    Nothing,
    Content(InodeNumber),
    File(InodeNumber),
    Directory(InodeNumber),
    Everything,
}

/// All there is to see of a file but its times.
#[derive(Clone, PartialEq, Eq)]
pub struct View {
    pub kind: FileKind,
    pub mode: u32,
    pub links: u32,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub target: Option<Vec<u8>>,
    /// Of a regular file.
    pub content: Vec<u8>,
}

/// All there is to see of a vault: what each name in each directory means.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Tree {
    pub names: BTreeMap<(InodeNumber, Vec<u8>), InodeNumber>,
    pub files: BTreeMap<InodeNumber, View>,
}

/// The vault at one time.
pub struct Moment {
    pub tree: Tree,
    /// Operations of the disk issued until then.
    pub operations: usize,
    pub durable: Durable,
    /// The directory, name and new file of a file put in another's place just now.
    pub replaced: Option<(InodeNumber, Vec<u8>, InodeNumber)>,
}

pub struct Done {
    pub recorder: CrashRecorder,
    pub steps: Vec<Step>,
    pub moments: Vec<Moment>,
}

pub fn master() -> MasterKey {
    MasterKey::from_bytes(&[42; 32])
}

pub fn open(vault: Box<dyn Directory>) -> FileSystem {
    let options = FilesystemOptions {
        journal_segment: 128 << 10,
        // So few that files are closed and opened all the time.
        descriptors: 3,
        ..FilesystemOptions::default()
    };
    FileSystem::open(vault, &master(), options, "a test").unwrap()
}

/// A recorder on a new vault.
fn recorder() -> CrashRecorder {
    let base = CrashRecorder::new();
    let vault = base.root();
    for name in [TREE_NAME, OVERFLOW_NAME] {
        vault.make_directory(name.as_bytes(), 0o700).unwrap();
    }
    FileSystem::format(&*vault, &master()).unwrap();
    CrashRecorder::on(&base.durable())
}

/// Looks at everything; what cannot be read is an error in words.
pub fn look(fs: &FileSystem) -> Result<Tree, String> {
    let mut tree = Tree::default();
    let attributes = fs.attributes(ROOT).map_err(|error| format!("the root: {error}"))?;
    tree.files.insert(ROOT, view(fs, ROOT, &attributes)?);
    let (mut open, mut passed) = (vec![ROOT], Vec::new());
    while let Some(directory) = open.pop() {
        let mut names: Vec<Vec<u8>> = Vec::new();
        fs.read_directory(directory, 0, false, &mut |entry| {
            names.push(entry.name.to_vec());
            true
        })
        .map_err(|error| format!("listing: {error}"))?;
        names.retain(|name| name != b"." && name != b"..");
        for name in names {
            let shown = name.escape_ascii().to_string();
            let found = fs.lookup(directory, &name).map_err(|error| format!("{shown}: {error}"))?;
            let ino = found.attributes.ino;
            let view =
                view(fs, ino, &found.attributes).map_err(|error| format!("{shown}: {error}"));
            tree.names.insert((directory, name), ino);
            if tree.files.insert(ino, view?).is_none()
                && found.attributes.kind == FileKind::Directory
            {
                open.push(ino);
            }
            passed.push(ino);
        }
    }
    passed.into_iter().for_each(|ino| fs.forget(ino, 1));
    Ok(tree)
}

fn view(
    fs: &FileSystem,
    ino: InodeNumber,
    attributes: &strongroom::vault::Attributes,
) -> Result<View, String> {
    let kind = attributes.kind;
    let mut xattrs = BTreeMap::new();
    if kind != FileKind::Symlink {
        for name in fs.list_xattr(ino).map_err(|error| format!("attributes: {error}"))? {
            let value = fs.get_xattr(ino, &name).map_err(|error| format!("attribute: {error}"))?;
            xattrs.insert(name, value);
        }
    }
    let target = match kind {
        FileKind::Symlink => Some(fs.read_link(ino).map_err(|error| format!("target: {error}"))?),
        _ => None,
    };
    let mut content = Vec::new();
    if kind == FileKind::Regular {
        content.resize(usize::try_from(attributes.size).unwrap(), 0);
        let read = fs.read(ino, 0, &mut content).map_err(|error| format!("content: {error}"))?;
        if read != content.len() {
            return Err(format!("{read} of {} bytes read", content.len()));
        }
    }
    // How many directories one holds tells nothing new, and leftovers count.
    let links = if kind == FileKind::Directory { 0 } else { attributes.links };
    Ok(View { kind, mode: attributes.mode, links, xattrs, target, content })
}

/// Runs with the inode of a path.
fn at<T>(
    fs: &FileSystem,
    path: &[Vec<u8>],
    run: impl FnOnce(InodeNumber) -> Result<T, Error>,
) -> Result<T, Error> {
    let mut passed = vec![ROOT];
    let outcome = (|| {
        for name in path {
            passed.push(fs.lookup(*passed.last().unwrap(), name)?.attributes.ino);
        }
        run(*passed.last().unwrap())
    })();
    passed[1..].iter().for_each(|ino| fs.forget(*ino, 1));
    outcome
}

/// Runs with the directory of a path and the name in it.
fn within<T>(
    fs: &FileSystem,
    path: &[Vec<u8>],
    run: impl FnOnce(InodeNumber, &[u8]) -> Result<T, Error>,
) -> Result<T, Error> {
    let (name, directory) = path.split_last().unwrap();
    at(fs, directory, |directory| run(directory, name))
}

fn apply(fs: &FileSystem, step: &Step) -> Result<Durable, Error> {
    let set = |path: &Path, changes: SetAttributes| {
        at(fs, path, |ino| fs.set_attributes(ino, &changes).map(drop))
    };
    match step {
        Step::Create { path } => within(fs, path, |parent, name| {
            let ino = fs.create(&CALLER, parent, name, 0o600)?.attributes.ino;
            fs.release(ino);
            fs.forget(ino, 1);
            Ok(())
        })?,
        Step::Write { path, offset, data } => {
            at(fs, path, |ino| fs.write(ino, *offset, data).map(drop))?;
        }
        Step::Truncate { path, size } => {
            set(path, SetAttributes { size: Some(*size), ..SetAttributes::default() })?;
        }
        Step::MakeSymlink { path, target } => within(fs, path, |parent, name| {
            let ino = fs.make_symlink(&CALLER, parent, name, target)?.attributes.ino;
            fs.forget(ino, 1);
            Ok(())
        })?,
        Step::MakeDirectory { path } => within(fs, path, |parent, name| {
            let ino = fs.make_directory(&CALLER, parent, name, 0o755)?.attributes.ino;
            fs.forget(ino, 1);
            Ok(())
        })?,
        Step::Link { from, to } => at(fs, from, |ino| {
            within(fs, to, |parent, name| fs.hard_link(ino, parent, name).map(drop))?;
            fs.forget(ino, 1);
            Ok(())
        })?,
        Step::Unlink { path } => within(fs, path, |parent, name| fs.unlink(parent, name))?,
        Step::RemoveDirectory { path } => {
            within(fs, path, |parent, name| fs.remove_directory(parent, name))?;
        }
        Step::Rename { from, to, mode } => within(fs, from, |parent, name| {
            within(fs, to, |target, new| fs.rename(parent, name, target, new, *mode))
        })?,
        Step::SetMode { path, mode } => {
            set(path, SetAttributes { mode: Some(*mode), ..SetAttributes::default() })?;
        }
        Step::SetXattr { path, value, mode } => {
            at(fs, path, |ino| fs.set_xattr(ino, ATTRIBUTE, value, *mode))?;
        }
        Step::RemoveXattr { path } => at(fs, path, |ino| fs.remove_xattr(ino, ATTRIBUTE))?,
        Step::Sync { path, data_only } => {
            return at(fs, path, |ino| {
                fs.sync(ino, *data_only)?;
                Ok(if *data_only { Durable::Content(ino) } else { Durable::File(ino) })
            });
        }
        Step::SyncDirectory { path } => {
            return at(fs, path, |ino| {
                fs.sync_directory(ino)?;
                Ok(Durable::Directory(ino))
            });
        }
        Step::SyncAll => {
            fs.sync_all()?;
            return Ok(Durable::Everything);
        }
    }
    Ok(Durable::Nothing)
}

/// Takes steps and remembers what the vault looked like after each.
struct Taker {
    fs: FileSystem,
    done: Done,
}

impl Taker {
    fn new() -> Self {
        let recorder = recorder();
        let fs = open(recorder.root());
        let first = Moment {
            tree: look(&fs).unwrap(),
            operations: 0,
            durable: Durable::Everything,
            replaced: None,
        };
        Self { fs, done: Done { recorder, steps: Vec::new(), moments: vec![first] } }
    }

    fn tree(&self) -> &Tree {
        &self.done.moments.last().unwrap().tree
    }

    fn take(&mut self, step: Step) {
        let mut replaced = self.replaced(&step);
        let mut exchanged = self.exchanged(&step);
        let durable = match apply(&self.fs, &step) {
            Ok(durable) => durable,
            Err(Error::NotEmpty | Error::Exists | Error::IsDirectory | Error::NotDirectory) => {
                (replaced, exchanged) = (None, None);
                Durable::Nothing
            }
            Err(error) => panic!("{step:?}: {error}"),
        };
        if let Some(tree) = exchanged {
            let operations = self.done.recorder.operation_count();
            let durable = Durable::Nothing;
            self.done.moments.push(Moment { tree, operations, durable, replaced: None });
        }
        // Before looking, which may read but does not write.
        let operations = self.done.recorder.operation_count();
        let tree = look(&self.fs).unwrap();
        self.done.moments.push(Moment { tree, operations, durable, replaced });
        self.done.steps.push(step);
    }

    /// A directory takes an empty one's place in two steps: what is there after the first.
    fn exchanged(&self, step: &Step) -> Option<Tree> {
        let Step::Rename { from, to, mode: RenameMode::Replace } = step else { return None };
        let (from, to) = (self.place(from)?, self.place(to)?);
        let mut tree = self.tree().clone();
        let (moved, empty) = (*tree.names.get(&from)?, *tree.names.get(&to)?);
        let are_directories =
            [moved, empty].iter().all(|ino| tree.files[ino].kind == FileKind::Directory);
        if !are_directories || moved == empty {
            return None;
        }
        tree.names.insert(from, empty);
        tree.names.insert(to, moved);
        Some(tree)
    }

    /// Whether this step puts a file in another's place.
    fn replaced(&self, step: &Step) -> Option<(InodeNumber, Vec<u8>, InodeNumber)> {
        let Step::Rename { from, to, mode: RenameMode::Replace } = step else { return None };
        let (from, (directory, name)) = (self.resolve(from)?, self.place(to)?);
        let old = self.tree().names.get(&(directory, name.clone()))?;
        let is_file = |ino| self.tree().files[ino].kind == FileKind::Regular;
        (is_file(&from) && is_file(old) && from != *old).then_some((directory, name, from))
    }

    fn place(&self, path: &Path) -> Option<(InodeNumber, Vec<u8>)> {
        let (name, directory) = path.split_last()?;
        Some((self.resolve(directory)?, name.clone()))
    }

    fn resolve(&self, path: &[Vec<u8>]) -> Option<InodeNumber> {
        let names = &self.tree().names;
        path.iter().try_fold(ROOT, |at, name| names.get(&(at, name.clone())).copied())
    }

    /// The paths of what is there, the root's too.
    fn paths(&self) -> Vec<(Path, FileKind)> {
        let mut found = vec![(Path::new(), FileKind::Directory)];
        let mut next = 0;
        while let Some((above, kind)) = found.get(next).cloned() {
            next += 1;
            if kind != FileKind::Directory {
                continue;
            }
            let ino = self.resolve(&above).unwrap();
            for ((_, name), child) in
                self.tree().names.range((ino, Vec::new())..).take_while(|((at, _), _)| *at == ino)
            {
                let below = [&above[..], std::slice::from_ref(name)].concat();
                found.push((below, self.tree().files[child].kind));
            }
        }
        found
    }
}

/// Runs a script.
pub fn run(steps: &[Step]) -> Done {
    let mut taker = Taker::new();
    steps.iter().for_each(|step| taker.take(step.clone()));
    drop(taker.fs);
    taker.done
}

/// Runs steps drawn at random.
pub fn random(rng: &mut StdRng, count: usize) -> Done {
    let mut taker = Taker::new();
    while taker.done.steps.len() < count {
        if let Some(step) = draw(rng, &taker.paths()) {
            taker.take(step);
        }
    }
    drop(taker.fs);
    taker.done
}

fn draw(rng: &mut StdRng, paths: &[(Path, FileKind)]) -> Option<Step> {
    let some = |rng: &mut StdRng, wanted: &dyn Fn(FileKind) -> bool| {
        let all: Vec<&Path> = paths
            .iter()
            .filter(|(path, kind)| !path.is_empty() && wanted(*kind))
            .map(|(path, _)| path)
            .collect();
        all.choose(rng).map(|path| (*path).clone())
    };
    let file = |rng: &mut StdRng| some(rng, &|kind| kind == FileKind::Regular);
    let any = |rng: &mut StdRng| some(rng, &|_| true);
    // With an attribute: what symlinks have none of.
    let holder = |rng: &mut StdRng| some(rng, &|kind| kind != FileKind::Symlink);
    let directory = |rng: &mut StdRng| {
        let all: Vec<&Path> = paths
            .iter()
            .filter(|(path, kind)| *kind == FileKind::Directory && path.len() < 3)
            .map(|(path, _)| path)
            .collect();
        all.choose(rng).map(|path| (*path).clone())
    };
    let place = |rng: &mut StdRng| {
        let mut place = directory(rng)?;
        place.push(match rng.random_range(0..6) {
            0 => vec![b'l'; 200],
            1 => vec![b'm'; 255],
            short => vec![b'a' + short],
        });
        Some(place)
    };
    let free =
        |rng: &mut StdRng| place(rng).filter(|place| !paths.iter().any(|(path, _)| path == place));
    let bytes = |rng: &mut StdRng, len: usize| vec![rng.random_range(1..=255u8); len];
    Some(match rng.random_range(0..30) {
        0..=3 => Step::Create { path: free(rng)? },
        4..=6 => {
            let len = rng.random_range(1..6000);
            let (offset, data) = (rng.random_range(0..5000), bytes(rng, len));
            Step::Write { path: file(rng)?, offset, data }
        }
        7 => Step::Truncate { path: file(rng)?, size: rng.random_range(0..9000) },
        8 => {
            let target = vec![b't'; *[20, 4000].choose(rng).unwrap()];
            Step::MakeSymlink { path: free(rng)?, target }
        }
        9..=10 => Step::MakeDirectory { path: free(rng)? },
        11..=12 => Step::Link { from: file(rng)?, to: free(rng)? },
        13..=14 => Step::Unlink { path: some(rng, &|kind| kind != FileKind::Directory)? },
        15 => Step::RemoveDirectory { path: some(rng, &|kind| kind == FileKind::Directory)? },
        16..=20 => {
            let (from, to) = (any(rng)?, place(rng)?);
            if to.starts_with(&from) || from.starts_with(&to) {
                return None;
            }
            let there = paths.iter().any(|(path, _)| *path == to);
            let mode = match rng.random_range(0..4) {
                0 if there => RenameMode::Exchange,
                _ => RenameMode::Replace,
            };
            Step::Rename { from, to, mode }
        }
        21 => {
            Step::SetMode { path: holder(rng)?, mode: *[0o700, 0o750, 0o711].choose(rng).unwrap() }
        }
        22..=23 => {
            let len = *[10, 5000].choose(rng).unwrap();
            Step::SetXattr { path: holder(rng)?, value: bytes(rng, len), mode: XattrMode::Any }
        }
        24..=25 => Step::Sync { path: file(rng)?, data_only: rng.random() },
        26..=28 => Step::SyncDirectory { path: directory(rng)? },
        _ => Step::SyncAll,
    })
}
