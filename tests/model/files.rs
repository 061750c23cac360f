//! A directory of the operating system as a subject: a plain one, or a mounted vault.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, FileTypeExt as _, MetadataExt as _};
use std::path::{Path as SystemPath, PathBuf};

use rustix::fs::{
    AtFlags, FallocateFlags, FileType, Gid, Mode, OFlags, RenameFlags, SeekFrom, Timespec,
    Timestamps, UTIME_OMIT, Uid, XattrFlags,
};
use rustix::io::Errno;
use strongroom::backing::{FileKind, RenameMode, Timestamp, XattrMode};
use strongroom::vault::FallocateMode;

use super::generate::Limits;
use super::step::{
    Modified, Observation, Outcome, Path, SLOTS, Step, Subject, Target, View, p, pattern, target_of,
};

/// Whether the filesystem of `directory` counts directories among a directory's links.
pub fn counts_directories(directory: &SystemPath) -> bool {
    let probe = tempfile::tempdir_in(directory).unwrap();
    std::fs::create_dir(probe.path().join("below")).unwrap();
    std::fs::metadata(probe.path()).unwrap().nlink() == 3
}

/// The modes asked for are the modes given: for a plain directory, and for the program that serves
/// a vault, which has no umask of its own.
pub fn clear_umask() {
    rustix::process::umask(Mode::empty());
}

/// What is done when a subject is to be mounted anew.
pub trait Remount {
    /// What it is called in reports.
    const NAME: &'static str;

    /// Ends and begins again.
    fn remount(&mut self);
}

/// A plain directory, which is always there.
pub struct Plain {
    _directory: tempfile::TempDir,
}

impl Remount for Plain {
    const NAME: &'static str = "the plain directory";

    fn remount(&mut self) {}
}

/// A directory, reached by system calls.
pub struct Files<M: Remount> {
    root: PathBuf,
    slots: [Option<File>; SLOTS],
    counts_directories: bool,
    mount: M,
}

impl Files<Plain> {
    /// A new plain directory.
    pub fn plain() -> Self {
        clear_umask();
        let directory = tempfile::tempdir().unwrap();
        Self::new(directory.path().to_owned(), Plain { _directory: directory })
    }

    /// What the filesystem below takes, found by trying.
    pub fn limits(&self) -> Limits {
        let probe = tempfile::NamedTempFile::new_in(&self.root).unwrap();
        let file = probe.as_file();
        file.set_len(20_000).unwrap();
        let allocate: Vec<FallocateMode> = Limits::VAULT
            .allocate
            .iter()
            .copied()
            .filter(|mode| rustix::fs::fallocate(file, allocate_flags(*mode), 0, 5000).is_ok())
            .collect();
        let set = |name: &str, len: usize| {
            rustix::fs::fsetxattr(file, name, &vec![0; len], XattrFlags::empty()).is_ok()
        };
        let xattr = [65_536, 400, 100].into_iter().find(|len| set("user.probe", 3 * len));
        let target = [4095, 1000].into_iter().find(|len| {
            let path = self.root.join("probe");
            let made = std::os::unix::fs::symlink("x".repeat(*len), &path).is_ok();
            let _ = std::fs::remove_file(path);
            made
        });

        Limits {
            target: target.unwrap_or(100),
            xattr: xattr.unwrap_or(0),
            allocate: allocate.leak(),
            xattrs: xattr.is_some(),
        }
    }
}

type Result<T, E = Errno> = std::result::Result<T, E>;

impl<M: Remount> Files<M> {
    /// The directory `root`, which is empty.
    pub fn new(root: PathBuf, mount: M) -> Self {
        let counts_directories = counts_directories(&root);
        Self { root, slots: [const { None }; SLOTS], counts_directories, mount }
    }

    fn path(&self, path: &Path) -> PathBuf {
        let mut whole = self.root.clone();
        whole.extend(path.components().map(std::ffi::OsStr::from_bytes));
        whole
    }

    fn open(&self, path: &Path, flags: OFlags) -> Result<File> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(rustix::fs::open(self.path(path), flags, Mode::empty())?.into())
    }

    fn with_file<T>(
        &self,
        file: &Target,
        flags: OFlags,
        run: impl FnOnce(&File) -> Result<T>,
    ) -> Result<T> {
        match file {
            Target::Name(path) => run(&self.open(path, flags)?),
            Target::Slot(slot) => run(self.slots[*slot].as_ref().ok_or(Errno::BADF)?),
        }
    }

    fn try_apply(&mut self, step: &Step) -> Result<Vec<u8>> {
        use rustix::fs;
        match step {
            Step::Create { path, mode } => {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR;
                drop(fs::open(self.path(path), flags, Mode::from_raw_mode(*mode))?);
            }
            Step::MakeDirectory { path, mode } => {
                fs::mkdir(self.path(path), Mode::from_raw_mode(*mode))?;
            }
            Step::MakeSymlink { path, target_len } => {
                fs::symlink(target_of(*target_len), self.path(path))?;
            }
            Step::MakeFifo { path, mode } => {
                let mode = Mode::from_raw_mode(*mode);
                fs::mknodat(fs::CWD, self.path(path), FileType::Fifo, mode, 0)?;
            }
            Step::Link { from, to } => fs::link(self.path(from), self.path(to))?,
            Step::Unlink { path } => fs::unlink(self.path(path))?,
            Step::RemoveDirectory { path } => fs::rmdir(self.path(path))?,
            Step::Rename { from, to, mode } => {
                let flags = match mode {
                    RenameMode::Replace => RenameFlags::empty(),
                    RenameMode::NoReplace => RenameFlags::NOREPLACE,
                    RenameMode::Exchange => RenameFlags::EXCHANGE,
                };
                fs::renameat_with(fs::CWD, self.path(from), fs::CWD, self.path(to), flags)?;
            }
            Step::Open { slot, path } => {
                self.slots[*slot] = None;
                self.slots[*slot] = Some(self.open(path, OFlags::RDWR)?);
            }
            Step::Close { slot } => drop(self.slots[*slot].take().ok_or(Errno::BADF)?),
            Step::Write { file, offset, len, byte } => {
                self.with_file(file, OFlags::WRONLY, |file| {
                    errno(file.write_all_at(&pattern(*len, *byte), *offset))
                })?;
            }
            Step::Append { file, len, byte } => self.append(file, &pattern(*len, *byte))?,
            Step::Read { file, offset, len } => {
                return self.with_file(file, OFlags::RDONLY, |file| read(file, *offset, *len));
            }
            Step::Truncate { file, size } => {
                self.with_file(file, OFlags::WRONLY, |file| fs::ftruncate(file, *size))?;
            }
            Step::Allocate { file, mode, offset, len } => {
                self.with_file(file, OFlags::RDWR, |file| {
                    fs::fallocate(file, allocate_flags(*mode), *offset, *len)
                })?;
            }
            Step::SetMode { path, mode } => {
                fs::chmod(self.path(path), Mode::from_raw_mode(*mode))?;
            }
            Step::SetOwner { path, uid, gid } => {
                let (uid, gid) = (Uid::from_raw(*uid), Gid::from_raw(*gid));
                let path = self.path(path);
                fs::chownat(fs::CWD, path, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
            }
            Step::SetTimes { path, modified } => {
                let times = Timestamps {
                    last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
                    last_modification: Timespec {
                        tv_sec: modified.seconds,
                        tv_nsec: modified.nanoseconds.into(),
                    },
                };
                fs::utimensat(fs::CWD, self.path(path), &times, AtFlags::SYMLINK_NOFOLLOW)?;
            }
            Step::GetXattr { path, name } => return get_xattr(&self.path(path), &name.0),
            Step::SetXattr { path, name, value_len, mode } => {
                let flags = match mode {
                    XattrMode::Any => XattrFlags::empty(),
                    XattrMode::Create => XattrFlags::CREATE,
                    XattrMode::Replace => XattrFlags::REPLACE,
                };
                fs::lsetxattr(self.path(path), &name.0[..], &pattern(*value_len, 7), flags)?;
            }
            Step::RemoveXattr { path, name } => fs::lremovexattr(self.path(path), &name.0[..])?,
            Step::Sync { file, data_only } => {
                self.with_file(file, OFlags::RDONLY, |file| {
                    if *data_only { fs::fdatasync(file) } else { fs::fsync(file) }
                })?;
            }
            Step::SyncDirectory { path } => {
                fs::fsync(self.open(path, OFlags::RDONLY)?)?;
            }
            Step::SyncAll => fs::syncfs(self.open(&p(b""), OFlags::RDONLY)?)?,
            // No way to end a mount uncleanly from within the process that serves it.
            Step::Remount | Step::Crash => {
                self.slots = [const { None }; SLOTS];
                self.mount.remount();
            }
        }
        Ok(Vec::new())
    }

    fn append(&self, file: &Target, data: &[u8]) -> Result<()> {
        use std::io::Write as _;
        match file {
            Target::Name(path) => {
                errno(self.open(path, OFlags::WRONLY | OFlags::APPEND)?.write_all(data))
            }
            Target::Slot(slot) => {
                let file = self.slots[*slot].as_ref().ok_or(Errno::BADF)?;
                let end = rustix::fs::seek(file, SeekFrom::End(0))?;
                errno(file.write_all_at(data, end))
            }
        }
    }

    fn view_path(&self, path: &Path) -> Result<View> {
        let whole = self.path(path);
        let metadata = errno(std::fs::symlink_metadata(&whole))?;
        let content = if metadata.is_file() {
            content(&self.open(path, OFlags::RDONLY)?)?
        } else if metadata.is_symlink() {
            let target = rustix::fs::readlink(&whole, Vec::new())?.into_bytes();
            assert_eq!(metadata.size(), target.len() as u64, "what stat tells");
            target
        } else {
            Vec::new()
        };
        let mut xattrs = BTreeMap::new();
        for name in list_xattrs(&whole)? {
            xattrs.insert(name.clone(), get_xattr(&whole, &name)?);
        }
        Ok(self.view(&metadata, content, xattrs))
    }

    fn view_slot(&self, file: &File) -> Result<View> {
        let metadata = errno(file.metadata())?;
        let mut xattrs = BTreeMap::new();
        for name in names(|buffer| rustix::fs::flistxattr(file, buffer))? {
            let value = sized(|buffer| rustix::fs::fgetxattr(file, &name[..], buffer))?;
            xattrs.insert(name, value);
        }
        Ok(self.view(&metadata, content(file)?, xattrs))
    }

    fn view(
        &self,
        metadata: &std::fs::Metadata,
        content: Vec<u8>,
        xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    ) -> View {
        let modified = Timestamp {
            seconds: metadata.mtime(),
            nanoseconds: u32::try_from(metadata.mtime_nsec()).unwrap(),
        };
        View {
            kind: kind(metadata.file_type()),
            mode: metadata.mode() & 0o7777,
            uid: metadata.uid(),
            gid: metadata.gid(),
            links: (!metadata.is_dir() || self.counts_directories).then_some(metadata.nlink()),
            modified: Modified::At(modified),
            content,
            xattrs,
            identity: metadata.ino(),
        }
    }

    fn try_observe(&mut self) -> Result<Observation> {
        let mut tree = BTreeMap::new();
        let mut directories = vec![p(b"")];
        tree.insert(p(b""), self.view_path(&p(b""))?);
        while let Some(directory) = directories.pop() {
            for entry in errno(std::fs::read_dir(self.path(&directory)))? {
                let entry = errno(entry)?;
                let path = directory.join(entry.file_name().as_bytes());
                let view = self.view_path(&path)?;
                assert_eq!(
                    (kind(errno(entry.file_type())?), {
                        use std::os::unix::fs::DirEntryExt as _;
                        entry.ino()
                    }),
                    (view.kind, view.identity),
                    "what the listing tells of {path:?}"
                );
                if view.kind == FileKind::Directory {
                    directories.push(path.clone());
                }
                assert!(tree.insert(path, view).is_none(), "listed twice");
            }
        }
        let mut slots = [const { None }; SLOTS];
        for (slot, file) in self.slots.iter().enumerate() {
            if let Some(file) = file {
                slots[slot] = Some(self.view_slot(file)?);
            }
        }
        Ok(Observation { tree, slots })
    }
}

impl<M: Remount> Subject for Files<M> {
    fn name(&self) -> &'static str {
        M::NAME
    }

    fn apply(&mut self, step: &Step) -> Outcome {
        self.try_apply(step).map_err(Errno::raw_os_error)
    }

    fn observe(&mut self) -> Observation {
        self.try_observe().unwrap()
    }
}

fn errno<T>(result: std::io::Result<T>) -> Result<T> {
    result.map_err(|error| Errno::from_io_error(&error).expect("an error of the system"))
}

fn kind(file_type: std::fs::FileType) -> FileKind {
    match file_type {
        kind if kind.is_file() => FileKind::Regular,
        kind if kind.is_dir() => FileKind::Directory,
        kind if kind.is_symlink() => FileKind::Symlink,
        kind if kind.is_fifo() => FileKind::Fifo,
        kind => panic!("{kind:?} was not made"),
    }
}

/// The flags that `fallocate(2)` takes.
pub fn allocate_flags(mode: FallocateMode) -> FallocateFlags {
    match mode {
        FallocateMode::Allocate => FallocateFlags::empty(),
        FallocateMode::AllocateKeepSize => FallocateFlags::KEEP_SIZE,
        FallocateMode::PunchHole => FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
        FallocateMode::ZeroRange => FallocateFlags::ZERO_RANGE,
        FallocateMode::ZeroRangeKeepSize => FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE,
    }
}

fn read(file: &File, offset: u64, len: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0xee; len];
    let mut done = 0;
    while done < len {
        match errno(file.read_at(&mut bytes[done..], offset + done as u64))? {
            0 => break,
            count => done += count,
        }
    }
    bytes.truncate(done);
    Ok(bytes)
}

/// All of a file; its holes, too, must be where there are only zeros.
fn content(file: &File) -> Result<Vec<u8>> {
    let size = errno(file.metadata())?.len();
    let bytes = read(file, 0, usize::try_from(size).unwrap() + 10)?;
    assert_eq!(bytes.len() as u64, size, "what stat tells");
    let mut at = 0;
    while at < size {
        let data = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Err(Errno::NXIO) => size,
            found => found?,
        };
        let hole = &bytes[usize::try_from(at).unwrap()..usize::try_from(data).unwrap()];
        assert!(hole.iter().all(|byte| *byte == 0), "a hole that holds data");
        if data == size {
            break;
        }
        at = rustix::fs::seek(file, SeekFrom::Hole(data))?;
        assert!(at > data, "data ends after it begins");
    }
    Ok(bytes)
}

fn get_xattr(path: &SystemPath, name: &[u8]) -> Result<Vec<u8>> {
    sized(|buffer| rustix::fs::lgetxattr(path, name, buffer))
}

/// The names that begin with `user.`; what the system adds is its own.
fn list_xattrs(path: &SystemPath) -> Result<Vec<Vec<u8>>> {
    names(|buffer| rustix::fs::llistxattr(path, buffer))
}

fn names(list: impl Fn(&mut [u8]) -> Result<usize>) -> Result<Vec<Vec<u8>>> {
    let found = match sized(list) {
        Err(Errno::OPNOTSUPP) => Vec::new(),
        found => found?,
    };
    let names = found.split(|byte| *byte == 0);
    Ok(names.filter(|name| name.starts_with(b"user.")).map(<[u8]>::to_vec).collect())
}

/// Calls with a buffer that is larger than any answer.
fn sized(call: impl Fn(&mut [u8]) -> Result<usize>) -> Result<Vec<u8>> {
    let mut buffer = vec![0; 70_000];
    let len = call(&mut buffer)?;
    buffer.truncate(len);
    Ok(buffer)
}
