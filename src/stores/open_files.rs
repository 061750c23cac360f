//! Owns the question which processes hold files of a tree open (Linux: `/proc`).

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, StatxFlags, makedev};
use walkdir::DirEntryExt;

use super::Error;
use super::elsewhere::Elsewhere;

/// How a process holds a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Holder {
    /// An open descriptor.
    Descriptor,
    /// An open descriptor that may write.
    WritableDescriptor,
    /// A memory map.
    Map,
    /// Its working directory.
    WorkingDirectory,
    /// Its root directory.
    RootDirectory,
    /// The program that it runs.
    Program,
}

/// A process with a file of the tree.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct OpenFile {
    /// The process.
    pub pid: u32,
    /// Its name (`/proc/PID/comm`).
    pub command: String,
    /// The file, as the process sees it.
    #[serde(with = "super::path_text")]
    pub path: PathBuf,
    /// How it holds it.
    pub how: Holder,
}

/// What [`open_files`] saw, and what it could not.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct OpenFiles {
    /// The files held, by process.
    pub files: Vec<OpenFile>,
    /// Processes that could not be looked into (another user's), with their names. Where this is
    /// not empty, "nobody holds a file" is not known.
    pub unseen: Vec<(u32, String)>,
}

/// Which processes hold files under `root` (or `root` itself) open. This process is left out.
///
/// Files are known by their path, and by device and inode: so a process in a container, which sees
/// them under another path, is found too.
///
/// # Errors
/// Where `/proc` or `root` can't be read.
pub fn open_files(root: &Path) -> Result<OpenFiles, Error> {
    let mut tree = Tree::new(root)?;
    let proc = Path::new("/proc");
    let failed = |error| Error::io(proc, "list", error);
    let own = std::process::id();
    let mut result = OpenFiles::default();
    for entry in std::fs::read_dir(proc).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let pid = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok());
        let Some(pid) = pid.filter(|pid| *pid != own) else { continue };
        let process = Process { pid, directory: entry.path() };
        if process.holds_nothing() {
            continue;
        }
        match process.look(&mut tree, &mut result) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                result.unseen.push((pid, process.command()));
            }
            // It ended meanwhile.
            Err(_) => {}
        }
    }
    result.files.sort();
    result.files.dedup();
    result.unseen.sort();
    Ok(result)
}

/// The tree in question.
struct Tree {
    root: PathBuf,
    device: u64,
    elsewhere: Option<Elsewhere>,
    /// Inodes of the filesystem that are known not to be in it.
    outside: HashSet<u64>,
    /// Its inodes, listed when first needed: that takes a while where there are many.
    inodes: Option<HashSet<u64>>,
}

impl Tree {
    fn new(root: &Path) -> Result<Self, Error> {
        let root = std::fs::canonicalize(root).map_err(|error| Error::io(root, "find", error))?;
        let metadata =
            std::fs::metadata(&root).map_err(|error| Error::io(&root, "look at", error))?;
        let (device, elsewhere) = (metadata.dev(), Elsewhere::of(&root));
        Ok(Self { root, device, elsewhere, outside: HashSet::new(), inodes: None })
    }

    fn has_path(&self, path: &Path) -> bool {
        path.starts_with(&self.root)
    }

    /// Whether a file that a process knows by this path is in the tree by another.
    fn has_inode(&mut self, path: &Path, device: u64, inode: u64) -> bool {
        if device != self.device || self.outside.contains(&inode) {
            return false;
        }
        let elsewhere = self.elsewhere.as_mut().filter(|_| self.inodes.is_none());
        if elsewhere.is_some_and(|elsewhere| elsewhere.has(path, inode)) {
            self.outside.insert(inode);
            return false;
        }
        let root = &self.root;
        let inodes = self.inodes.get_or_insert_with(|| {
            let entries = walkdir::WalkDir::new(root).same_file_system(true).into_iter();
            entries.filter_map(Result::ok).map(|entry| entry.ino()).collect()
        });
        inodes.contains(&inode)
    }
}

struct Process {
    pid: u32,
    directory: PathBuf,
}

impl Process {
    fn command(&self) -> String {
        let name = std::fs::read(self.directory.join("comm")).unwrap_or_default();
        String::from_utf8_lossy(name.trim_ascii()).into_owned()
    }

    /// Kernel threads and processes that have ended hold no files, and can't be looked into.
    fn holds_nothing(&self) -> bool {
        const KERNEL_THREAD: u32 = 0x0020_0000;
        let stat = std::fs::read(self.directory.join("stat")).unwrap_or_default();
        // The name in parentheses may hold anything.
        let Some(end) = stat.iter().rposition(|byte| *byte == b')') else { return false };
        let fields: Vec<&[u8]> = stat[end + 1..].trim_ascii().split(|byte| *byte == b' ').collect();
        let flags =
            fields.get(6).and_then(|flags| std::str::from_utf8(flags).ok()?.parse::<u32>().ok());
        matches!(fields.first(), Some([b'Z' | b'X']))
            || flags.is_some_and(|f| f & KERNEL_THREAD != 0)
    }

    fn look(&self, tree: &mut Tree, result: &mut OpenFiles) -> io::Result<()> {
        let mut found = Vec::new();
        for (name, how) in [
            ("cwd", Holder::WorkingDirectory),
            ("root", Holder::RootDirectory),
            ("exe", Holder::Program),
        ] {
            match self.link(&self.directory.join(name), tree) {
                Ok(Some(path)) => found.push((path, how)),
                Ok(None) => {}
                // A kernel thread has no program.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        for entry in std::fs::read_dir(self.directory.join("fd"))? {
            let link = entry?.path();
            // An error means that it was closed meanwhile.
            if let Ok(Some(path)) = self.link(&link, tree) {
                found.push((path, self.access(&link)));
            }
        }
        self.maps(tree, &mut found)?;
        if found.is_empty() {
            return Ok(());
        }
        let command = self.command();
        result.files.extend(found.into_iter().map(|(path, how)| OpenFile {
            pid: self.pid,
            command: command.clone(),
            path,
            how,
        }));
        Ok(())
    }

    /// Where a link of `/proc` leads, if that is in the tree.
    fn link(&self, link: &Path, tree: &mut Tree) -> io::Result<Option<PathBuf>> {
        let path = std::fs::read_link(link)?;
        if tree.has_path(&path) {
            return Ok(Some(path));
        }
        // Sockets, pipes and the like have no place in a tree.
        if !path.is_absolute() {
            return Ok(None);
        }
        // What the kernel knows will do: a server that this file is on, or a daemon, may be dead,
        // and nobody must wait for it here.
        let flags = AtFlags::STATX_DONT_SYNC;
        let wanted = StatxFlags::TYPE | StatxFlags::INO | StatxFlags::NLINK;
        let found = rustix::fs::statx(CWD, link, flags, wanted)?;
        // It has no name any more, here or there. Some filesystems count none of any file.
        if found.stx_nlink == 0 && path.as_os_str().as_bytes().ends_with(b" (deleted)") {
            return Ok(None);
        }
        let regular = matches!(
            FileType::from_raw_mode(found.stx_mode.into()),
            FileType::RegularFile | FileType::Directory
        );
        let device = makedev(found.stx_dev_major, found.stx_dev_minor);
        Ok((regular && tree.has_inode(&path, device, found.stx_ino)).then_some(path))
    }

    /// Whether a descriptor may write, from its flags.
    fn access(&self, link: &Path) -> Holder {
        let number = link.file_name().unwrap_or_default();
        let information = self.directory.join("fdinfo").join(number);
        let text = std::fs::read_to_string(information).unwrap_or_default();
        let flags = text
            .lines()
            .find_map(|line| line.strip_prefix("flags:"))
            .and_then(|flags| u32::from_str_radix(flags.trim(), 8).ok());
        match flags {
            // `O_ACCMODE`: `O_RDONLY` is 0.
            Some(flags) if flags & 3 == 0 => Holder::Descriptor,
            _ => Holder::WritableDescriptor,
        }
    }

    /// The files in its memory map.
    fn maps(&self, tree: &mut Tree, found: &mut Vec<(PathBuf, Holder)>) -> io::Result<()> {
        let maps = File::open(self.directory.join("maps"))?;
        let mut reader = BufReader::new(maps);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line)? > 0 {
            if let Some(path) = mapped(&line, tree) {
                found.push((path, Holder::Map));
            }
            line.clear();
        }
        Ok(())
    }
}

/// The file of one line of a memory map (`range permissions offset device inode path`), if it is in
/// the tree.
fn mapped(line: &[u8], tree: &mut Tree) -> Option<PathBuf> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let mut rest = line;
    let mut fields: [&[u8]; 5] = [b""; 5];
    for field in &mut fields {
        let end = rest.iter().position(|byte| *byte == b' ')?;
        *field = &rest[..end];
        rest = rest[end..].trim_ascii_start();
    }
    if !rest.starts_with(b"/") {
        return None;
    }
    // A line break in a name is written as `\012`.
    let path = PathBuf::from(OsStr::from_bytes(rest));
    if tree.has_path(&path) {
        return Some(path);
    }
    let text = |field: &[u8]| std::str::from_utf8(field).ok().map(str::to_owned);
    let device = text(fields[3])?;
    let (major, minor) = device.split_once(':')?;
    let number = |hex| u32::from_str_radix(hex, 16).ok();
    let device = rustix::fs::makedev(number(major)?, number(minor)?);
    let inode = text(fields[4])?.parse().ok()?;
    tree.has_inode(&path, device, inode).then_some(path)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs;

    use super::*;

    #[test]
    fn a_tree_is_listed_only_where_paths_do_not_tell() {
        // Elsewhere may be a filesystem of which paths do not tell.
        let directory = tempfile::tempdir_in("/dev/shm").unwrap();
        let root = directory.path().join("root");
        fs::create_dir(&root).unwrap();
        fs::write(root.join("file"), "x").unwrap();
        let other = directory.path().canonicalize().unwrap().join("other");
        fs::write(&other, "x").unwrap();
        let mut tree = Tree::new(&root).unwrap();
        let mut has = |path: &Path| {
            let metadata = fs::metadata(path).unwrap();
            let found = tree.has_inode(path, metadata.dev(), metadata.ino());
            (found, tree.inodes.is_some())
        };
        assert_eq!(has(&other), (false, false));
        fs::remove_file(&other).unwrap();
        fs::hard_link(root.join("file"), &other).unwrap();
        assert_eq!(has(&other), (true, true));
    }
}
