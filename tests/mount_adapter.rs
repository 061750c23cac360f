//! The adapter over a core that fails as no core should: every operation panics. Each request is
//! answered with `EIO`, the mount lives on, and ends as any other.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use strongroom::backing::{Access, FileKind, FilesystemStat, RenameMode, Timestamp, XattrMode};
use strongroom::fuse::{MountOptions, MountPoint, MountedVault, Operations};
use strongroom::vault::{
    Attributes, CachedName, Caller, DirectoryEntry, Entry, Error, FallocateMode, InodeNumber,
    Result, SeekWhence, SetAttributes,
};

/// Knows a root directory and one file, and how to panic.
struct Panics {
    asked: Arc<AtomicUsize>,
    closed: Arc<AtomicBool>,
}

const FILE: InodeNumber = InodeNumber(2);

fn attributes(ino: InodeNumber) -> Attributes {
    let (kind, mode) = match ino {
        InodeNumber::ROOT => (FileKind::Directory, 0o755),
        _ => (FileKind::Regular, 0o644),
    };
    Attributes {
        ino,
        kind,
        mode,
        links: 1,
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        rdev: 0,
        size: 10,
        blocks: 8,
        accessed: Timestamp::default(),
        modified: Timestamp::default(),
        changed: Timestamp::default(),
    }
}

impl Panics {
    fn panic(&self) -> ! {
        self.asked.fetch_add(1, Ordering::Relaxed);
        panic!("as it was told to");
    }
}

impl Operations for Panics {
    fn lookup(&self, _: InodeNumber, name: &[u8]) -> Result<Entry> {
        match name {
            b"file" => Ok(Entry { attributes: attributes(FILE), generation: 1 }),
            b"missing" => Err(Error::NotFound),
            _ => self.panic(),
        }
    }
    fn forget(&self, _: InodeNumber, _: u64) {
        self.panic()
    }
    fn attributes(&self, ino: InodeNumber) -> Result<Attributes> {
        Ok(attributes(ino))
    }
    fn set_attributes(&self, _: InodeNumber, _: &SetAttributes) -> Result<Attributes> {
        self.panic()
    }
    fn read_link(&self, _: InodeNumber) -> Result<Vec<u8>> {
        self.panic()
    }
    fn create(&self, _: &Caller, _: InodeNumber, _: &[u8], _: u32) -> Result<Entry> {
        self.panic()
    }
    fn make_node(&self, _: &Caller, _: InodeNumber, _: &[u8], _: u32, _: u32) -> Result<Entry> {
        self.panic()
    }
    fn make_directory(&self, _: &Caller, _: InodeNumber, _: &[u8], _: u32) -> Result<Entry> {
        self.panic()
    }
    fn make_symlink(&self, _: &Caller, _: InodeNumber, _: &[u8], _: &[u8]) -> Result<Entry> {
        self.panic()
    }
    fn hard_link(&self, _: InodeNumber, _: InodeNumber, _: &[u8]) -> Result<Entry> {
        self.panic()
    }
    fn unlink(&self, _: InodeNumber, _: &[u8]) -> Result<()> {
        self.panic()
    }
    fn remove_directory(&self, _: InodeNumber, _: &[u8]) -> Result<()> {
        self.panic()
    }
    fn rename(
        &self,
        _: InodeNumber,
        _: &[u8],
        _: InodeNumber,
        _: &[u8],
        _: RenameMode,
    ) -> Result<()> {
        self.panic()
    }
    fn open_file(&self, _: InodeNumber, _: Access) -> Result<()> {
        Ok(())
    }
    fn release(&self, _: InodeNumber) {
        self.panic()
    }
    fn read(&self, _: InodeNumber, _: u64, _: &mut [u8]) -> Result<usize> {
        self.panic()
    }
    fn write(&self, _: InodeNumber, _: u64, _: &[u8]) -> Result<bool> {
        self.panic()
    }
    fn sync(&self, _: InodeNumber, _: bool) -> Result<()> {
        self.panic()
    }
    fn sync_directory(&self, _: InodeNumber) -> Result<()> {
        self.panic()
    }
    fn fallocate(&self, _: InodeNumber, _: FallocateMode, _: u64, _: u64) -> Result<()> {
        self.panic()
    }
    fn seek(&self, _: InodeNumber, _: u64, _: SeekWhence) -> Result<u64> {
        self.panic()
    }
    fn read_directory(
        &self,
        _: InodeNumber,
        _: u64,
        _: bool,
        _: &mut dyn FnMut(DirectoryEntry<'_>) -> bool,
    ) -> Result<()> {
        self.panic()
    }
    fn get_xattr(&self, _: InodeNumber, _: &[u8]) -> Result<Vec<u8>> {
        self.panic()
    }
    fn list_xattr(&self, _: InodeNumber) -> Result<Vec<Vec<u8>>> {
        self.panic()
    }
    fn set_xattr(&self, _: InodeNumber, _: &[u8], _: &[u8], _: XattrMode) -> Result<()> {
        self.panic()
    }
    // Not asked for a request, but in between.
    fn cached_inodes(&self) -> usize {
        0
    }
    fn cached_part(&self, _: usize, _: usize) -> Vec<InodeNumber> {
        Vec::new()
    }
    fn cached_name(&self, _: InodeNumber) -> Option<CachedName> {
        None
    }
    fn remove_xattr(&self, _: InodeNumber, _: &[u8]) -> Result<()> {
        self.panic()
    }
    fn filesystem_stat(&self) -> Result<FilesystemStat> {
        self.panic()
    }
    fn sync_all(&self) -> Result<()> {
        self.panic()
    }
    fn close(self) -> Result<()> {
        self.closed.store(true, Ordering::Relaxed);
        Ok(())
    }
}

#[test]
fn a_panic_is_an_error_of_one_request() {
    if !support::fuse_is_here("a_panic_is_an_error_of_one_request") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("mount");
    fs::create_dir(&place).unwrap();
    let (asked, closed) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let core = Panics { asked: Arc::clone(&asked), closed: Arc::clone(&closed) };
    let mount_point = MountPoint::check(&place, Path::new("/nonexistent"), false).unwrap();
    let mounted = MountedVault::mount(
        core,
        Path::new("/nonexistent"),
        &mount_point,
        &MountOptions::default(),
    )
    .unwrap();
    let file = place.join("file");
    let use_it = || {
        let io = |result: std::io::Result<()>| result.unwrap_err().raw_os_error();
        let os = |result: rustix::io::Result<()>| Some(result.unwrap_err().raw_os_error());
        let opened = fs::OpenOptions::new().read(true).write(true).open(&file).unwrap();
        let data = rustix::fs::SeekFrom::Data(0);
        [
            io(fs::metadata(place.join("other")).map(drop)),
            io(fs::create_dir(place.join("missing"))),
            io(fs::File::create(place.join("missing")).map(drop)),
            io(std::os::unix::fs::symlink("target", place.join("missing"))),
            io(fs::hard_link(&file, place.join("missing"))),
            io(fs::rename(&file, place.join("missing"))),
            io(fs::remove_file(&file)),
            io(fs::read(&file).map(drop)),
            io(fs::read_dir(&place).unwrap().next().unwrap().map(drop)),
            io(opened.set_len(3)),
            io(opened.sync_all()),
            os(rustix::fs::seek(&opened, data).map(drop)),
            os(rustix::fs::fallocate(&opened, rustix::fs::FallocateFlags::empty(), 0, 100)),
            os(rustix::fs::getxattr(&file, "user.x", &mut [0; 8][..]).map(drop)),
            os(rustix::fs::setxattr(&file, "user.x", b"", rustix::fs::XattrFlags::empty())),
            os(rustix::fs::statvfs(&place).map(drop)),
        ]
    };
    for _ in 0..3 {
        for (index, errno) in use_it().into_iter().enumerate() {
            assert_eq!(errno, Some(libc::EIO), "operation {index}");
        }
        // It still answers.
        assert_eq!(fs::metadata(&file).unwrap().len(), 10);
        assert_eq!(
            fs::metadata(place.join("missing")).unwrap_err().raw_os_error(),
            Some(libc::ENOENT)
        );
    }
    assert!(asked.load(Ordering::Relaxed) >= 3 * 16);
    mounted.unmount(Duration::from_secs(30)).unwrap();
    assert!(closed.load(Ordering::Relaxed));
}
