use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::thread;
use std::time::Instant;

use super::*;
use crate::backing::Directory;
use crate::backing::memory::MemoryDirectory;
use crate::crypto::MasterKey;
use crate::fuse::{MountOptions, MountPoint, MountedVault};
use crate::vault::{FileSystem, FilesystemOptions, OVERFLOW_NAME, TREE_NAME};

const PATIENCE: Duration = Duration::from_secs(60);
const LIMIT: usize = 1000;

#[test]
fn kernels_are_asked_in_the_way_that_they_know() {
    assert_eq!(Means::of_version(7, 45), Means::Numbers);
    assert_eq!(Means::of_version(8, 0), Means::Numbers);
    assert_eq!(Means::of_version(7, 44), Means::DroppedNames);
}

fn filesystem() -> FileSystem {
    let vault = MemoryDirectory::new();
    let master = MasterKey::from_bytes(&[7; 32]);
    for name in [TREE_NAME, OVERFLOW_NAME] {
        vault.make_directory(name.as_bytes(), 0o755).unwrap();
    }
    FileSystem::format(&vault, &master).unwrap();
    let options = FilesystemOptions { kernel_keeps_times: true, ..FilesystemOptions::default() };
    FileSystem::open(Box::new(vault), &master, options, "a test").unwrap()
}

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "still waiting for: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

fn listing_of(path: &Path) -> fs::File {
    fs::File::open(path).unwrap()
}

/// Many files are made and found; the core keeps few, and those in use are usable.
fn stays_within_the_limit(means: Option<Means>) {
    if !Path::new("/dev/fuse").exists() {
        let reason = std::env::var("STRONGROOM_TEST_WITHOUT_FUSE");
        eprintln!("not run, there is no /dev/fuse: {}", reason.expect("a reason why"));
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("mount");
    fs::create_dir(&path).unwrap();
    let point = MountPoint::check(&path, Path::new("/nowhere"), false).unwrap();
    let options = MountOptions { inode_cache: Some(LIMIT), ..MountOptions::default() };
    let vault = Path::new("/memory");
    let mounted = MountedVault::mount_with(filesystem(), vault, &point, &options, means).unwrap();

    fs::create_dir_all(path.join("used/below")).unwrap();
    let open = fs::File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(path.join("used/below/open"))
        .unwrap();
    open.write_all_at(b"open", 0).unwrap();
    let deleted = fs::File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(path.join("gone"))
        .unwrap();
    deleted.write_all_at(b"gone", 0).unwrap();
    fs::remove_file(path.join("gone")).unwrap();
    let listing = fs::read_dir(path.join("used")).unwrap();

    for directory in 0..20 {
        let directory = path.join(format!("directory-{directory}"));
        fs::create_dir(&directory).unwrap();
        for file in 0..250 {
            fs::write(directory.join(format!("file-{file}")), [1; 10]).unwrap();
        }
    }
    // What is yet to be written back is in use.
    rustix::fs::syncfs(listing_of(&path)).unwrap();
    wait_until("the kernel to let go", || mounted.cached_inodes() <= LIMIT + LIMIT / 4);
    let mut found = 0;
    for directory in 0..20 {
        for entry in fs::read_dir(path.join(format!("directory-{directory}"))).unwrap() {
            let entry = entry.unwrap();
            assert_eq!(entry.metadata().unwrap().len(), 10);
            found += 1;
        }
    }
    assert_eq!(found, 5000);
    wait_until("the kernel to let go again", || mounted.cached_inodes() <= LIMIT + LIMIT / 4);
    assert_eq!(fs::read(path.join("directory-7/file-100")).unwrap(), [1; 10]);

    for (file, content) in [(&open, b"open"), (&deleted, b"gone")] {
        let mut read = [0; 4];
        file.read_exact_at(&mut read, 0).unwrap();
        assert_eq!(&read, content);
        file.write_all_at(b"still", 4).unwrap();
        file.sync_all().unwrap();
    }
    assert_eq!(fs::read(path.join("used/below/open")).unwrap(), b"openstill");
    assert_eq!(listing.count(), 1);
    drop((open, deleted));
    mounted.unmount(PATIENCE).unwrap();
}

#[test]
fn memory_is_bounded_as_this_kernel_knows_best() {
    stays_within_the_limit(None);
}

#[test]
fn memory_is_bounded_by_dropping_names() {
    stays_within_the_limit(Some(Means::DroppedNames));
}
