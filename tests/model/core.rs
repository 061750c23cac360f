//! The vault core as a subject: steps become calls by inode number, with the lookups and forgets
//! that a kernel would send.

use std::collections::BTreeMap;

use strongroom::backing::memory::MemoryDirectory;
use strongroom::backing::os::OsDirectory;
use strongroom::backing::{Access, Directory, FileKind, RawEntry, RenameMode, SetTime};
use strongroom::crypto::MasterKey;
use strongroom::vault::{
    Attributes, Caller, Error, FileSystem, FilesystemOptions, InodeNumber, OVERFLOW_NAME,
    SeekWhence, SetAttributes, TREE_NAME,
};

use super::step::{
    Modified, Observation, Outcome, Path, SLOTS, Step, Subject, Target, View, p, pattern, target_of,
};

/// The umask of the one who asks.
pub const UMASK: u32 = 0o022;
/// Descriptors that the core may keep: few, so that files are closed and opened all the time.
const DESCRIPTORS: usize = 2;
/// Entries taken from a listing at once.
const LISTING: usize = 3;

/// Where the ciphertext lies.
enum Place {
    Memory(MemoryDirectory),
    System(tempfile::TempDir),
}

/// A vault, opened without a mount.
pub struct Core {
    place: Place,
    filesystem: Option<FileSystem>,
    slots: [Option<InodeNumber>; SLOTS],
    root_links: bool,
    /// Whether it is told of files being opened and closed; where a kernel checks permissions, it
    /// is not.
    opens: bool,
    /// It died once, and may have left litter.
    died: bool,
}

type Result<T, E = Error> = std::result::Result<T, E>;

fn master() -> MasterKey {
    MasterKey::from_bytes(&[42; 32])
}

impl Core {
    /// A new vault in memory.
    pub fn in_memory() -> Self {
        Self::new(Place::Memory(MemoryDirectory::new()), true, false)
    }

    /// A new vault in a temporary directory.
    pub fn on_system() -> Self {
        super::files::clear_umask();
        let directory = tempfile::tempdir().unwrap();
        let counts = super::files::counts_directories(directory.path());
        Self::new(Place::System(directory), counts, true)
    }

    fn new(place: Place, root_links: bool, opens: bool) -> Self {
        let mut core =
            Self { place, filesystem: None, slots: [None; SLOTS], root_links, opens, died: false };
        let vault = core.directory();
        for name in [TREE_NAME, OVERFLOW_NAME] {
            vault.make_directory(name.as_bytes(), 0o700).unwrap();
        }
        FileSystem::format(&*vault, &master()).unwrap();
        core.open(false);
        core
    }

    fn directory(&self) -> Box<dyn Directory> {
        match &self.place {
            Place::Memory(root) => root.open_directory(b".").unwrap(),
            Place::System(path) => Box::new(OsDirectory::open(path.path()).unwrap()),
        }
    }

    fn open(&mut self, read_only: bool) {
        let options = FilesystemOptions {
            read_only,
            descriptors: DESCRIPTORS,
            ..FilesystemOptions::default()
        };
        let opened = FileSystem::open(self.directory(), &master(), options, "a test").unwrap();
        self.filesystem = Some(opened);
    }

    fn filesystem(&self) -> &FileSystem {
        self.filesystem.as_ref().expect("open")
    }

    /// Ends the core, cleanly or not, and opens it again; in between once read-only after a clean
    /// end, which must show the same.
    fn reopen(&mut self, cleanly: bool) {
        for slot in 0..SLOTS {
            self.close(slot);
        }
        let ended = self.filesystem.take().expect("open");
        if !cleanly {
            drop(ended);
            self.died = true;
            self.open(false);
            assert!(self.filesystem().recovered().unclean, "it died");
            return;
        }
        let before = {
            self.filesystem = Some(ended);
            self.observe()
        };
        self.filesystem.take().expect("open").close().unwrap();
        self.open(true);
        assert!(!self.filesystem().recovered().unclean, "it was closed");
        if let Some(difference) = before.difference(&self.observe()) {
            panic!("read-only: {difference}");
        }
        let made = self.apply(&Step::Create { path: p(b"new"), mode: 0o600 });
        assert_eq!(made, Err(libc::EROFS), "read-only");
        self.filesystem.take().expect("open").close().unwrap();
        self.open(false);
    }

    /// Removes all files; whether nothing is left then of what lay below.
    fn check_litter(&mut self) {
        let tree = self.observe().tree;
        for (path, view) in tree.iter().rev().filter(|(path, _)| !path.0.is_empty()) {
            let path = path.clone();
            let step = match view.kind {
                FileKind::Directory => Step::RemoveDirectory { path },
                _ => Step::Unlink { path },
            };
            self.apply(&step).unwrap();
        }
        for name in tree[&p(b"")].xattrs.keys() {
            self.filesystem().remove_xattr(InodeNumber::ROOT, name).unwrap();
        }
        self.reopen(true);
        let left = |name: &str| {
            let directory = self.directory().open_directory(name.as_bytes()).unwrap();
            let mut names = Vec::new();
            let mut sink = |entry: RawEntry<'_>| {
                names.push(entry.name.escape_ascii().to_string());
                true
            };
            directory.read_entries(0, &mut sink).unwrap();
            names.retain(|name| name != "." && name != "..");
            names
        };
        assert_eq!(left(TREE_NAME), ["strongroom.dir"], "litter in the tree");
        assert_eq!(left(OVERFLOW_NAME), [""; 0], "litter in the overflow directory");
    }

    fn close(&mut self, slot: usize) {
        if let Some(ino) = self.slots[slot].take() {
            if self.opens {
                self.filesystem().release(ino);
            }
            self.filesystem().forget(ino, 1);
        }
    }

    /// Runs with the inode of a path looked up.
    fn with<T>(
        &self,
        path: &Path,
        run: impl FnOnce(&FileSystem, Attributes) -> Result<T>,
    ) -> Result<T> {
        let filesystem = self.filesystem();
        let mut passed = Vec::new();
        let outcome = (|| {
            let mut at = filesystem.attributes(InodeNumber::ROOT)?;
            for name in path.components() {
                if at.kind != FileKind::Directory {
                    return Err(Error::NotDirectory);
                }
                at = filesystem.lookup(at.ino, name)?.attributes;
                passed.push(at.ino);
            }
            run(filesystem, at)
        })();
        for ino in passed {
            filesystem.forget(ino, 1);
        }
        outcome
    }

    /// Runs with the directory of a path looked up, and the name in it.
    fn within<T>(
        &self,
        path: &Path,
        run: impl FnOnce(&FileSystem, InodeNumber, &[u8]) -> Result<T>,
    ) -> Result<T> {
        let (directory, name) = path.split();
        self.with(&directory, |filesystem, directory| run(filesystem, directory.ino, name))
    }

    /// Runs with the inode of a file. What is not held open is opened for it.
    fn with_file<T>(
        &self,
        file: &Target,
        access: Access,
        run: impl FnOnce(&FileSystem, Attributes) -> Result<T>,
    ) -> Result<T> {
        match file {
            Target::Slot(slot) => {
                let ino = self.slots[*slot].ok_or_else(|| errno(libc::EBADF))?;
                run(self.filesystem(), self.filesystem().attributes(ino)?)
            }
            Target::Name(path) => self.with(path, |filesystem, attributes| {
                if !self.opens {
                    return run(filesystem, attributes);
                }
                filesystem.open_file(attributes.ino, access)?;
                let outcome = run(filesystem, attributes);
                filesystem.release(attributes.ino);
                outcome
            }),
        }
    }

    /// What a kernel refuses by itself, after its own lookups: to make a directory where something
    /// is, to link over a name, and to move a directory into itself.
    fn refused_by_kernel(&self, step: &Step) -> Result<()> {
        let exists = |path: &Path| match self.with(path, |_, file| Ok(file.ino)) {
            Ok(ino) => Ok(Some(ino)),
            Err(Error::NotFound) => Ok(None),
            Err(error) => Err(error),
        };
        match step {
            Step::MakeDirectory { path, .. } if exists(path)?.is_some() => Err(Error::Exists),
            Step::Link { from, to } => {
                self.with(from, |_, _| Ok(()))?;
                if exists(to)?.is_some() { Err(Error::Exists) } else { Ok(()) }
            }
            Step::Rename { from, to, mode } => {
                self.with(from, |_, _| Ok(()))?;
                let replaced = exists(to)?;
                match (mode, replaced) {
                    (RenameMode::NoReplace, Some(_)) => return Err(Error::Exists),
                    (RenameMode::Exchange, None) => return Err(Error::NotFound),
                    _ => {}
                }
                let above = |above: &Path, below: &Path| {
                    below.components().count() > above.components().count()
                        && above.components().zip(below.components()).all(|(a, b)| a == b)
                };
                if above(from, to) {
                    return Err(Error::Invalid);
                }
                match above(to, from) {
                    true if *mode == RenameMode::Exchange => Err(Error::Invalid),
                    true => Err(Error::NotEmpty),
                    false => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }

    fn try_apply(&mut self, step: &Step) -> Result<Vec<u8>> {
        self.refused_by_kernel(step)?;
        let caller = Caller {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            umask: UMASK,
        };
        let made = |filesystem: &FileSystem, ino: InodeNumber| {
            filesystem.forget(ino, 1);
            Ok(())
        };
        match step {
            Step::Create { path, mode } => self.within(path, |filesystem, parent, name| {
                let entry = filesystem.create(&caller, parent, name, *mode)?;
                filesystem.release(entry.attributes.ino);
                made(filesystem, entry.attributes.ino)
            })?,
            Step::MakeDirectory { path, mode } => {
                self.within(path, |filesystem, parent, name| {
                    let entry = filesystem.make_directory(&caller, parent, name, *mode)?;
                    made(filesystem, entry.attributes.ino)
                })?
            }
            Step::MakeFifo { path, mode } => self.within(path, |filesystem, parent, name| {
                let mode = libc::S_IFIFO | mode;
                let entry = filesystem.make_node(&caller, parent, name, mode, 0)?;
                made(filesystem, entry.attributes.ino)
            })?,
            Step::MakeSymlink { path, target_len } => {
                self.within(path, |filesystem, parent, name| {
                    let target = target_of(*target_len);
                    let entry = filesystem.make_symlink(&caller, parent, name, &target)?;
                    made(filesystem, entry.attributes.ino)
                })?;
            }
            Step::Link { from, to } => self.with(from, |_, source| {
                self.within(to, |filesystem, parent, name| {
                    let entry = filesystem.hard_link(source.ino, parent, name)?;
                    made(filesystem, entry.attributes.ino)
                })
            })?,
            Step::Unlink { path } => {
                self.within(path, |filesystem, parent, name| filesystem.unlink(parent, name))?;
            }
            Step::RemoveDirectory { path } => self.within(path, |filesystem, parent, name| {
                filesystem.remove_directory(parent, name)
            })?,
            Step::Rename { from, to, mode } => self.within(from, |_, parent, name| {
                self.within(to, |filesystem, new_parent, new_name| {
                    filesystem.rename(parent, name, new_parent, new_name, *mode)
                })
            })?,
            Step::Open { slot, path } => {
                self.close(*slot);
                let ino = self.with(path, |filesystem, attributes| {
                    if self.opens {
                        filesystem.open_file(attributes.ino, Access::ReadWrite)?;
                    }
                    Ok(attributes.ino)
                })?;
                // The lookup that `with` gave back; opening keeps one.
                self.within(path, |filesystem, parent, name| filesystem.lookup(parent, name))?;
                self.slots[*slot] = Some(ino);
            }
            Step::Close { slot } => {
                if self.slots[*slot].is_none() {
                    return Err(errno(libc::EBADF));
                }
                self.close(*slot);
            }
            Step::Write { file, offset, len, byte } => {
                self.with_file(file, Access::ReadWrite, |filesystem, attributes| {
                    filesystem.write(attributes.ino, *offset, &pattern(*len, *byte))
                })?;
            }
            Step::Append { file, len, byte } => {
                self.with_file(file, Access::ReadWrite, |filesystem, attributes| {
                    filesystem.write(attributes.ino, attributes.size, &pattern(*len, *byte))
                })?;
            }
            Step::Read { file, offset, len } => {
                return self.with_file(file, Access::Read, |filesystem, attributes| {
                    let mut bytes = vec![0xee; *len];
                    let read = filesystem.read(attributes.ino, *offset, &mut bytes)?;
                    bytes.truncate(read);
                    Ok(bytes)
                });
            }
            Step::Truncate { file, size } => {
                self.with_file(file, Access::ReadWrite, |filesystem, attributes| {
                    let changes = SetAttributes { size: Some(*size), ..SetAttributes::default() };
                    filesystem.set_attributes(attributes.ino, &changes)
                })?;
            }
            Step::Allocate { file, mode, offset, len } => {
                self.with_file(file, Access::ReadWrite, |filesystem, attributes| {
                    filesystem.fallocate(attributes.ino, *mode, *offset, *len)
                })?;
            }
            Step::SetMode { path, mode } => {
                self.set(path, SetAttributes { mode: Some(*mode), ..SetAttributes::default() })?;
            }
            Step::SetOwner { path, uid, gid } => {
                let changes =
                    SetAttributes { uid: Some(*uid), gid: Some(*gid), ..SetAttributes::default() };
                self.set(path, changes)?;
            }
            Step::SetTimes { path, modified } => {
                let changes =
                    SetAttributes { modified: SetTime::At(*modified), ..SetAttributes::default() };
                self.set(path, changes)?;
            }
            Step::GetXattr { path, name } => {
                return self.with(path, |filesystem, file| filesystem.get_xattr(file.ino, &name.0));
            }
            Step::SetXattr { path, name, value_len, mode } => {
                self.with(path, |filesystem, file| {
                    filesystem.set_xattr(file.ino, &name.0, &pattern(*value_len, 7), *mode)
                })?
            }
            Step::RemoveXattr { path, name } => {
                self.with(path, |filesystem, file| filesystem.remove_xattr(file.ino, &name.0))?;
            }
            Step::Sync { file, data_only } => {
                self.with_file(file, Access::ReadWrite, |filesystem, attributes| {
                    filesystem.sync(attributes.ino, *data_only)
                })?;
            }
            Step::SyncDirectory { path } => {
                self.with(path, |filesystem, directory| match directory.kind {
                    FileKind::Directory => filesystem.sync_directory(directory.ino),
                    _ => Ok(()),
                })?;
            }
            Step::SyncAll => self.filesystem().sync_all()?,
            Step::Remount => self.reopen(true),
            Step::Crash => self.reopen(false),
        }
        Ok(Vec::new())
    }

    fn set(&self, path: &Path, changes: SetAttributes) -> Result<()> {
        self.with(path, |filesystem, file| filesystem.set_attributes(file.ino, &changes).map(drop))
    }

    fn list(
        &self,
        directory: InodeNumber,
        parent: InodeNumber,
    ) -> Vec<(Vec<u8>, FileKind, InodeNumber)> {
        let filesystem = self.filesystem();
        let mut found = Vec::new();
        let mut dots = Vec::new();
        let mut cookie = 0;
        loop {
            let mut taken = 0;
            let mut counted = Vec::new();
            filesystem
                .read_directory(directory, cookie, true, &mut |entry| {
                    if taken == LISTING {
                        return false;
                    }
                    taken += 1;
                    cookie = entry.next_cookie;
                    if entry.name == b"." || entry.name == b".." {
                        dots.push((entry.name.to_vec(), entry.ino));
                        return true;
                    }
                    let with_attributes =
                        entry.entry.expect("attributes were asked for").attributes;
                    assert_eq!(
                        (with_attributes.ino, with_attributes.kind),
                        (entry.ino, entry.kind)
                    );
                    counted.push(entry.ino);
                    found.push((entry.name.to_vec(), entry.kind, entry.ino));
                    true
                })
                .unwrap();
            for ino in counted {
                filesystem.forget(ino, 1);
            }
            if taken < LISTING {
                break;
            }
        }
        dots.sort();
        assert_eq!(dots, [(b".".to_vec(), directory), (b"..".to_vec(), parent)]);
        found
    }

    fn view(&self, ino: InodeNumber) -> View {
        let filesystem = self.filesystem();
        let attributes = filesystem.attributes(ino).unwrap();
        let content = match attributes.kind {
            FileKind::Regular => {
                let content = self.read_all(ino, attributes.size);
                self.check_holes(ino, &content);
                content
            }
            FileKind::Symlink => filesystem.read_link(ino).unwrap(),
            _ => Vec::new(),
        };
        if matches!(attributes.kind, FileKind::Regular | FileKind::Symlink) {
            assert_eq!(attributes.size, content.len() as u64, "what stat tells");
        }
        let names = filesystem.list_xattr(ino).unwrap();
        let xattrs: BTreeMap<_, _> = names
            .iter()
            // What the system below adds is its own.
            .filter(|name| name.starts_with(b"user."))
            .map(|name| (name.clone(), filesystem.get_xattr(ino, name).unwrap()))
            .collect();
        View {
            kind: attributes.kind,
            mode: attributes.mode,
            uid: attributes.uid,
            gid: attributes.gid,
            links: (attributes.kind != FileKind::Directory || self.root_links)
                .then_some(u64::from(attributes.links)),
            modified: Modified::At(attributes.modified),
            content,
            xattrs,
            identity: ino.0,
        }
    }

    fn read_all(&self, ino: InodeNumber, size: u64) -> Vec<u8> {
        let mut bytes = vec![0xee; usize::try_from(size).unwrap() + 10];
        let read = self.filesystem().read(ino, 0, &mut bytes).unwrap();
        bytes.truncate(read);
        bytes
    }

    /// Where there are bytes other than zeros there is data, and data and holes alternate.
    fn check_holes(&self, ino: InodeNumber, content: &[u8]) {
        let filesystem = self.filesystem();
        let end = content.len() as u64;
        let mut at = 0;
        while at < end {
            let data = match filesystem.seek(ino, at, SeekWhence::Data) {
                Err(Error::NoOffset) => end,
                found => found.unwrap(),
            };
            let hole = &content[usize::try_from(at).unwrap()..usize::try_from(data).unwrap()];
            assert!(hole.iter().all(|byte| *byte == 0), "a hole that holds data");
            if data == end {
                break;
            }
            at = filesystem.seek(ino, data, SeekWhence::Hole).unwrap();
            assert!(at > data, "data ends after it begins");
        }
    }
}

fn errno(number: i32) -> Error {
    Error::Backing(std::io::Error::from_raw_os_error(number))
}

impl Subject for Core {
    fn name(&self) -> &'static str {
        "the core"
    }

    fn apply(&mut self, step: &Step) -> Outcome {
        self.try_apply(step).map_err(|error| error.errno())
    }

    fn finish(&mut self) {
        if !self.died {
            self.check_litter();
        }
    }

    fn observe(&mut self) -> Observation {
        let root = InodeNumber::ROOT;
        let mut tree = BTreeMap::from([(p(b""), self.view(root))]);
        // Path, inode, the inode above; all of them looked up until the end.
        let mut directories = vec![(p(b""), root, root)];
        let mut held = Vec::new();
        while let Some((path, directory, parent)) = directories.pop() {
            for (name, kind, ino) in self.list(directory, parent) {
                let entry = self.filesystem().lookup(directory, &name).unwrap();
                assert_eq!((entry.attributes.ino, entry.attributes.kind), (ino, kind));
                held.push(ino);
                let path = path.join(&name);
                if kind == FileKind::Directory {
                    directories.push((path.clone(), ino, directory));
                }
                assert!(tree.insert(path, self.view(ino)).is_none(), "listed twice");
            }
        }
        for ino in held {
            self.filesystem().forget(ino, 1);
        }
        Observation { tree, slots: self.slots.map(|slot| slot.map(|ino| self.view(ino))) }
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        if let (Some(filesystem), false) = (self.filesystem.take(), std::thread::panicking()) {
            filesystem.close().unwrap();
        }
    }
}
