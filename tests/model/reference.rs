//! The reference: a tree in memory that does what Linux does on ext4, as far as the steps go.

use std::collections::BTreeMap;

use strongroom::backing::{FileKind, RenameMode, XattrMode};
use strongroom::vault::FallocateMode;

use super::step::{
    Modified, Observation, Outcome, Path, SLOTS, Step, Target, View, pattern, target_of,
};

const NAME_MAX: usize = 255;
const XATTR_NAME_MAX: usize = 255;
const ROOT: u64 = 0;

#[derive(Clone)]
struct Node {
    kind: FileKind,
    mode: u32,
    uid: u32,
    gid: u32,
    links: u64,
    modified: Modified,
    content: Vec<u8>,
    entries: BTreeMap<Vec<u8>, u64>,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// The tree.
pub struct Reference {
    nodes: BTreeMap<u64, Node>,
    next: u64,
    slots: [Option<u64>; SLOTS],
    umask: u32,
    uid: u32,
    gid: u32,
}

type Result<T, E = i32> = std::result::Result<T, E>;

impl Reference {
    /// An empty tree; it belongs to this process, and so will everything in it.
    pub fn new(umask: u32) -> Self {
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let node = Node {
            kind: FileKind::Directory,
            mode: 0o755,
            uid,
            gid,
            links: 2,
            modified: Modified::Whenever,
            content: Vec::new(),
            entries: BTreeMap::new(),
            xattrs: BTreeMap::new(),
        };
        Self {
            nodes: BTreeMap::from([(ROOT, node)]),
            next: 1,
            slots: [None; SLOTS],
            umask,
            uid,
            gid,
        }
    }

    /// The paths of everything, and what each is; the root comes first.
    pub fn paths(&self) -> Vec<(Path, FileKind)> {
        let mut found = vec![(Path(Vec::new()), FileKind::Directory)];
        let mut at = 0;
        while at < found.len() {
            if found[at].1 == FileKind::Directory {
                let path = found[at].0.clone();
                let id = self.find(&path).expect("listed before");
                for (name, child) in &self.nodes[&id].entries {
                    found.push((path.join(name), self.nodes[child].kind));
                }
            }
            at += 1;
        }
        found
    }

    /// The slots that are open.
    pub fn open_slots(&self) -> Vec<usize> {
        (0..SLOTS).filter(|slot| self.slots[*slot].is_some()).collect()
    }

    fn node(&mut self, id: u64) -> &mut Node {
        self.nodes.get_mut(&id).expect("a known file")
    }

    fn find(&self, path: &Path) -> Result<u64> {
        let mut at = ROOT;
        for name in path.components() {
            at = self.entry(at, name)?.ok_or(libc::ENOENT)?;
        }
        Ok(at)
    }

    fn entry(&self, directory: u64, name: &[u8]) -> Result<Option<u64>> {
        let node = &self.nodes[&directory];
        if node.kind != FileKind::Directory {
            return Err(libc::ENOTDIR);
        }
        if name.len() > NAME_MAX {
            return Err(libc::ENAMETOOLONG);
        }
        Ok(node.entries.get(name).copied())
    }

    /// The directory of a path, the name in it, and what it names now.
    fn place<'a>(&self, path: &'a Path) -> Result<(u64, &'a [u8], Option<u64>)> {
        let (directory, name) = path.split();
        let directory = self.find(&directory)?;
        Ok((directory, name, self.entry(directory, name)?))
    }

    fn file(&self, target: &Target) -> Result<u64> {
        let id = match target {
            Target::Name(path) => self.find(path)?,
            Target::Slot(slot) => self.slots[*slot].ok_or(libc::EBADF)?,
        };
        if self.nodes[&id].kind == FileKind::Directory { Err(libc::EISDIR) } else { Ok(id) }
    }

    fn make(&mut self, path: &Path, kind: FileKind, mode: u32, content: Vec<u8>) -> Result<u64> {
        let (directory, name, existing) = self.place(path)?;
        if existing.is_some() {
            return Err(libc::EEXIST);
        }
        let parent = &self.nodes[&directory];
        let inherits = parent.mode & 0o2000 != 0;
        let gid = if inherits { parent.gid } else { self.gid };
        let mode = match kind {
            FileKind::Symlink => 0o777,
            FileKind::Directory if inherits => mode & 0o1777 & !self.umask | 0o2000,
            FileKind::Directory => mode & 0o1777 & !self.umask,
            _ => mode & 0o7777 & !self.umask,
        };
        let links = if kind == FileKind::Directory { 2 } else { 1 };
        let node = Node {
            kind,
            mode,
            uid: self.uid,
            gid,
            links,
            modified: Modified::Recently,
            content,
            entries: BTreeMap::new(),
            xattrs: BTreeMap::new(),
        };
        let id = self.next;
        self.next += 1;
        self.nodes.insert(id, node);
        self.attach(directory, name, id);
        Ok(id)
    }

    /// Enters a name; links of the file itself are counted by the caller.
    fn attach(&mut self, directory: u64, name: &[u8], id: u64) {
        let is_directory = self.nodes[&id].kind == FileKind::Directory;
        let parent = self.node(directory);
        parent.entries.insert(name.to_vec(), id);
        parent.links += u64::from(is_directory);
        parent.modified = Modified::Recently;
    }

    fn detach(&mut self, directory: u64, name: &[u8]) -> u64 {
        let id = self.node(directory).entries.remove(name).expect("an entry");
        let is_directory = self.nodes[&id].kind == FileKind::Directory;
        let parent = self.node(directory);
        parent.links -= u64::from(is_directory);
        parent.modified = Modified::Recently;
        id
    }

    /// Takes a name's link from a file.
    fn unlink_node(&mut self, id: u64) {
        let node = self.node(id);
        node.links = if node.kind == FileKind::Directory { 0 } else { node.links - 1 };
        self.drop_unused(id);
    }

    fn drop_unused(&mut self, id: u64) {
        if self.nodes[&id].links == 0 && !self.slots.contains(&Some(id)) {
            self.nodes.remove(&id);
        }
    }

    fn remove(&mut self, path: &Path, directories: bool) -> Result<()> {
        let (directory, name, existing) = self.place(path)?;
        let id = existing.ok_or(libc::ENOENT)?;
        let node = &self.nodes[&id];
        match (node.kind == FileKind::Directory, directories) {
            (true, false) => return Err(libc::EISDIR),
            (false, true) => return Err(libc::ENOTDIR),
            (true, true) if !node.entries.is_empty() => return Err(libc::ENOTEMPTY),
            _ => {}
        }
        self.detach(directory, name);
        self.unlink_node(id);
        Ok(())
    }

    fn link(&mut self, from: &Path, to: &Path) -> Result<()> {
        let id = self.find(from)?;
        let (directory, name, existing) = self.place(to)?;
        if existing.is_some() {
            return Err(libc::EEXIST);
        }
        if self.nodes[&id].kind == FileKind::Directory {
            return Err(libc::EPERM);
        }
        self.node(id).links += 1;
        self.attach(directory, name, id);
        Ok(())
    }

    fn rename(&mut self, from: &Path, to: &Path, mode: RenameMode) -> Result<()> {
        let (source, old, moved) = self.place(from)?;
        let (target, new, replaced) = self.place(to)?;
        let moved = moved.ok_or(libc::ENOENT)?;
        match (mode, replaced) {
            (RenameMode::NoReplace, Some(_)) => return Err(libc::EEXIST),
            (RenameMode::Exchange, None) => return Err(libc::ENOENT),
            _ => {}
        }
        if self.is_below(target, moved) {
            return Err(libc::EINVAL);
        }
        if replaced.is_some_and(|replaced| self.is_below(source, replaced)) {
            let exchange = mode == RenameMode::Exchange;
            return Err(if exchange { libc::EINVAL } else { libc::ENOTEMPTY });
        }
        if replaced == Some(moved) {
            return Ok(());
        }
        if let (RenameMode::Replace, Some(replaced)) = (mode, replaced) {
            let is_directory = |id: u64| self.nodes[&id].kind == FileKind::Directory;
            match (is_directory(moved), is_directory(replaced)) {
                (true, false) => return Err(libc::ENOTDIR),
                (false, true) => return Err(libc::EISDIR),
                (true, true) if !self.nodes[&replaced].entries.is_empty() => {
                    return Err(libc::ENOTEMPTY);
                }
                _ => {}
            }
        }
        self.detach(source, old);
        let replaced = replaced.map(|_| self.detach(target, new));
        self.attach(target, new, moved);
        match (replaced, mode) {
            (Some(replaced), RenameMode::Exchange) => self.attach(source, old, replaced),
            (Some(replaced), _) => self.unlink_node(replaced),
            (None, _) => {}
        }
        Ok(())
    }

    /// Whether a directory is `above` or lies somewhere in it.
    fn is_below(&self, directory: u64, above: u64) -> bool {
        directory == above
            || self.nodes.get(&above).is_some_and(|node| {
                node.entries.values().any(|child| {
                    self.nodes[child].kind == FileKind::Directory
                        && self.is_below(directory, *child)
                })
            })
    }

    fn write(&mut self, id: u64, offset: usize, data: &[u8]) {
        let node = self.node(id);
        let end = offset + data.len();
        if node.content.len() < end {
            node.content.resize(end, 0);
        }
        node.content[offset..end].copy_from_slice(data);
        node.modified = Modified::Recently;
    }

    fn allocate(&mut self, id: u64, mode: FallocateMode, offset: u64, len: u64) -> Result<()> {
        if len == 0 {
            return Err(libc::EINVAL);
        }
        let node = self.node(id);
        let (offset, end) = (to_usize(offset), to_usize(offset + len));
        if matches!(mode, FallocateMode::Allocate | FallocateMode::ZeroRange) {
            node.content.resize(node.content.len().max(end), 0);
        }
        if !matches!(mode, FallocateMode::Allocate | FallocateMode::AllocateKeepSize) {
            let end = end.min(node.content.len());
            node.content[offset.min(end)..end].fill(0);
        }
        node.modified = Modified::Whenever;
        Ok(())
    }

    /// The file of a path, checked to be one on which `user.` attributes can be set.
    fn with_xattrs(&mut self, path: &Path, name: &[u8], refusal: i32) -> Result<&mut Node> {
        let id = self.find(path)?;
        if name.len() > XATTR_NAME_MAX {
            return Err(libc::ERANGE);
        }
        let node = self.node(id);
        match node.kind {
            FileKind::Regular | FileKind::Directory => Ok(node),
            _ => Err(refusal),
        }
    }

    fn set_xattr(&mut self, path: &Path, name: &[u8], len: usize, mode: XattrMode) -> Result<()> {
        let node = self.with_xattrs(path, name, libc::EPERM)?;
        match (mode, node.xattrs.contains_key(name)) {
            (XattrMode::Create, true) => return Err(libc::EEXIST),
            (XattrMode::Replace, false) => return Err(libc::ENODATA),
            _ => {}
        }
        node.xattrs.insert(name.to_vec(), pattern(len, 7));
        Ok(())
    }

    fn close(&mut self, slot: usize) -> Result<()> {
        let id = self.slots[slot].take().ok_or(libc::EBADF)?;
        self.drop_unused(id);
        Ok(())
    }

    fn view(&self, id: u64) -> View {
        let node = &self.nodes[&id];
        View {
            kind: node.kind,
            mode: node.mode,
            uid: node.uid,
            gid: node.gid,
            links: Some(node.links),
            modified: node.modified,
            content: node.content.clone(),
            xattrs: node.xattrs.clone(),
            identity: id,
        }
    }
}

impl Reference {
    /// Does a step.
    pub fn apply(&mut self, step: &Step) -> Outcome {
        match step {
            Step::Create { path, mode } => {
                self.make(path, FileKind::Regular, *mode, Vec::new())?;
            }
            Step::MakeDirectory { path, mode } => {
                self.make(path, FileKind::Directory, *mode, Vec::new())?;
            }
            Step::MakeFifo { path, mode } => {
                self.make(path, FileKind::Fifo, *mode, Vec::new())?;
            }
            Step::MakeSymlink { path, target_len } => {
                self.make(path, FileKind::Symlink, 0o777, target_of(*target_len))?;
            }
            Step::Link { from, to } => self.link(from, to)?,
            Step::Unlink { path } => self.remove(path, false)?,
            Step::RemoveDirectory { path } => self.remove(path, true)?,
            Step::Rename { from, to, mode } => self.rename(from, to, *mode)?,
            Step::Open { slot, path } => {
                if self.slots[*slot].is_some() {
                    self.close(*slot)?;
                }
                self.slots[*slot] = Some(self.file(&Target::Name(path.clone()))?);
            }
            Step::Close { slot } => self.close(*slot)?,
            Step::Write { file, offset, len, byte } => {
                let id = self.file(file)?;
                if *len > 0 {
                    self.write(id, to_usize(*offset), &pattern(*len, *byte));
                }
            }
            Step::Append { file, len, byte } => {
                let id = self.file(file)?;
                if *len > 0 {
                    let end = self.nodes[&id].content.len();
                    self.write(id, end, &pattern(*len, *byte));
                }
            }
            Step::Read { file, offset, len } => {
                let content = &self.nodes[&self.file(file)?].content;
                let start = to_usize(*offset).min(content.len());
                return Ok(content[start..(start + len).min(content.len())].to_vec());
            }
            Step::Truncate { file, size } => {
                let id = self.file(file)?;
                let node = self.node(id);
                node.content.resize(to_usize(*size), 0);
                node.modified = Modified::Recently;
            }
            Step::Allocate { file, mode, offset, len } => {
                let id = self.file(file)?;
                self.allocate(id, *mode, *offset, *len)?;
            }
            Step::SetMode { path, mode } => {
                let id = self.find(path)?;
                self.node(id).mode = mode & 0o7777;
            }
            Step::SetOwner { path, uid, gid } => {
                let id = self.find(path)?;
                let node = self.node(id);
                (node.uid, node.gid) = (*uid, *gid);
                if node.kind != FileKind::Directory {
                    node.mode &= !0o4000;
                    if node.mode & 0o010 != 0 {
                        node.mode &= !0o2000;
                    }
                }
            }
            Step::SetTimes { path, modified } => {
                let id = self.find(path)?;
                self.node(id).modified = Modified::At(*modified);
            }
            Step::GetXattr { path, name } => {
                let node = self.with_xattrs(path, &name.0, libc::ENODATA)?;
                return node.xattrs.get(&name.0).cloned().ok_or(libc::ENODATA);
            }
            Step::SetXattr { path, name, value_len, mode } => {
                self.set_xattr(path, &name.0, *value_len, *mode)?;
            }
            Step::RemoveXattr { path, name } => {
                let node = self.with_xattrs(path, &name.0, libc::EPERM)?;
                node.xattrs.remove(&name.0).ok_or(libc::ENODATA)?;
            }
            Step::Sync { file, .. } => drop(self.file(file)?),
            Step::SyncDirectory { path } => drop(self.find(path)?),
            Step::SyncAll => {}
            Step::Remount | Step::Crash => {
                for slot in self.open_slots() {
                    self.close(slot)?;
                }
            }
        }
        Ok(Vec::new())
    }

    /// Everything that can be seen.
    pub fn observe(&self) -> Observation {
        let paths = self.paths();
        let view = |path: &Path| self.view(self.find(path).expect("listed"));
        Observation {
            tree: paths.iter().map(|(path, _)| (path.clone(), view(path))).collect(),
            slots: self.slots.map(|slot| slot.map(|id| self.view(id))),
        }
    }
}

fn to_usize(number: u64) -> usize {
    usize::try_from(number).expect("small")
}
