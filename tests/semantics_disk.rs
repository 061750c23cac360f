//! The statements of docs/semantics.md about errors of the disk below, on a small ext4 of its own.
//! They need root, to mount it. Other errors (EIO, EDQUOT) are played on the core, in
//! `vault::fault_tests`.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use support::posix::{errno, new_file, root_is_here};
use support::{Place, fuse_is_here, strongroom};
use tempfile::TempDir;

/// An ext4 in a file, mounted.
struct Disk {
    path: PathBuf,
    _directory: TempDir,
}

impl Disk {
    fn new(mebibytes: u64) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let image = directory.path().join("image");
        File::create(&image).unwrap().set_len(mebibytes << 20).unwrap();
        let path = directory.path().join("disk");
        fs::create_dir(&path).unwrap();
        run(Command::new("mkfs.ext4").args(["-q", "-m", "0", "-N", "2000"]).arg(&image));
        run(Command::new("mount").args(["-o", "loop,errors=remount-ro"]).args([&image, &path]));
        Self { path, _directory: directory }
    }

    fn remount(&self, option: &str) {
        run(Command::new("mount").args(["-o", &format!("remount,{option}")]).arg(&self.path));
    }

    fn free(&self) -> u64 {
        let stat = rustix::fs::statvfs(&self.path).unwrap();
        stat.f_bavail * stat.f_frsize
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.path).status();
    }
}

#[track_caller]
fn run(command: &mut Command) {
    assert!(command.status().unwrap().success(), "{command:?}");
}

/// Writes and syncs until it fails; the bytes that were written and the error.
fn fill(path: &Path) -> (u64, i32) {
    let file = new_file(path);
    let chunk = vec![b'f'; 256 << 10];
    let mut written = 0;
    loop {
        let outcome = file.write_all_at(&chunk, written).and_then(|()| file.sync_all());
        match errno(outcome) {
            0 => written += 256 << 10,
            error => return (written, error),
        }
    }
}

fn check(path: &Path, len: u64, byte: u8) {
    let content = fs::read(path).unwrap();
    assert!(content.len() as u64 >= len);
    let good = content[..usize::try_from(len).unwrap()].iter().all(|found| *found == byte);
    assert!(good, "{}", path.display());
}

#[test]
fn a_full_disk_says_so_and_everything_else_goes_on() {
    let test = "a_full_disk_says_so_and_everything_else_goes_on";
    if !root_is_here(test) || !fuse_is_here(test) {
        return;
    }
    let disk = Disk::new(320);
    let place = Place::with_vault_in(&disk.path);
    let mount = place.mount();
    let old = mount.join("old");
    let file = new_file(&old);
    file.write_all_at(&vec![b'o'; 4 << 20], 0).unwrap();
    file.sync_all().unwrap();

    let (written, error) = fill(&mount.join("filler"));
    assert_eq!(error, libc::ENOSPC);
    assert!(written > 32 << 20, "{written}");
    check(&mount.join("filler"), written, b'f');
    check(&old, 4 << 20, b'o');
    // Overwriting asks for no room that is not there: it works, and reaches the disk.
    file.write_all_at(&vec![b'n'; 1 << 20], 1 << 20).unwrap();
    file.sync_all().unwrap();
    check(&old, 1 << 20, b'o');
    let content = fs::read(&old).unwrap();
    assert!(content[1 << 20..2 << 20].iter().all(|byte| *byte == b'n'));
    // Names are refused or made, and nothing in between.
    let made = (0..200).filter(|n| fs::create_dir(mount.join(format!("d{n}"))).is_ok()).count();
    assert_eq!(fs::read_dir(mount).unwrap().count(), made + 2);

    // Room that is given back can be used.
    fs::remove_file(mount.join("filler")).unwrap();
    // The kernel tells of the last use of a file a moment after it.
    let deadline = Instant::now() + Duration::from_secs(60);
    while disk.free() < written / 2 {
        assert!(Instant::now() < deadline, "{} bytes free", disk.free());
        thread::sleep(Duration::from_millis(10));
    }
    fs::write(mount.join("again"), vec![b'a'; 16 << 20]).unwrap();
    File::open(mount.join("again")).unwrap().sync_all().unwrap();
    drop(file);
    place.umount();
    place.mount();
    check(&mount.join("again"), 16 << 20, b'a');
    let content = fs::read(&old).unwrap();
    assert!(content[1 << 20..2 << 20].iter().all(|byte| *byte == b'n'));
    assert!(content[2 << 20..].iter().all(|byte| *byte == b'o'));
    place.umount();
}

#[test]
fn holes_cannot_be_filled_on_a_full_disk_and_stay_holes() {
    let test = "holes_cannot_be_filled_on_a_full_disk_and_stay_holes";
    if !root_is_here(test) || !fuse_is_here(test) {
        return;
    }
    let disk = Disk::new(160);
    let place = Place::with_vault_in(&disk.path);
    let mount = place.mount();
    let sparse = new_file(mount.join("sparse"));
    sparse.set_len(8 << 20).unwrap();
    sparse.write_all_at(b"begin", 0).unwrap();
    sparse.sync_all().unwrap();
    let (_, error) = fill(&mount.join("filler"));
    assert_eq!(error, libc::ENOSPC);
    // Until not even the last blocks are left.
    let mut small = 0;
    while fs::write(mount.join(format!("small-{small}")), [1; 3000]).is_ok() && small < 500 {
        small += 1;
    }
    let written = sparse.write_all_at(&vec![9; 4 << 20], 1 << 20).and_then(|()| sparse.sync_all());
    assert_eq!(errno(written), libc::ENOSPC);
    // What could not be written is told by fsync; whatever of it is there is right.
    drop(sparse);
    fs::remove_file(mount.join("filler")).unwrap();
    place.umount();
    place.mount();
    let content = fs::read(mount.join("sparse")).unwrap();
    assert_eq!(content.len(), 8 << 20);
    assert_eq!(&content[..5], b"begin");
    assert!(content[1 << 20..5 << 20].iter().all(|byte| *byte == 9 || *byte == 0));
    assert!(content[5 << 20..].iter().all(|byte| *byte == 0));
    place.umount();
}

#[test]
fn a_disk_that_becomes_read_only_is_still_read() {
    let test = "a_disk_that_becomes_read_only_is_still_read";
    if !root_is_here(test) || !fuse_is_here(test) {
        return;
    }
    let disk = Disk::new(160);
    let place = Place::with_vault_in(&disk.path);
    let mount = place.mount();
    fs::write(mount.join("file"), vec![1; 1 << 20]).unwrap();
    fs::create_dir(mount.join("directory")).unwrap();
    place.umount();

    // Mounted read-only below, the vault is readable and says EROFS to the rest.
    disk.remount("ro");
    place.mount_with(&["--read-only"]);
    assert!(fs::read(mount.join("file")).unwrap() == vec![1; 1 << 20]);
    assert_eq!(errno(File::create(mount.join("new"))), libc::EROFS);
    assert_eq!(errno(fs::remove_dir(mount.join("directory"))), libc::EROFS);
    place.umount();
    disk.remount("rw");
    place.mount();
    fs::write(mount.join("new"), "").unwrap();
    place.umount();
}

/// As after an error of the disk, for which ext4 is mounted with `errors=remount-ro`.
#[test]
fn a_disk_that_stops_taking_writes_under_a_mount_gives_erofs() {
    let test = "a_disk_that_stops_taking_writes_under_a_mount_gives_erofs";
    if !root_is_here(test) || !fuse_is_here(test) {
        return;
    }
    let disk = Disk::new(160);
    let place = Place::with_vault_in(&disk.path);
    let mount = place.mount();
    let file = new_file(mount.join("file"));
    file.write_all_at(&vec![1; 1 << 20], 0).unwrap();
    file.sync_all().unwrap();
    // What an error of the disk does; a remount is refused while files are open for writing.
    run(Command::new("sh")
        .arg("-c")
        .arg(format!("echo test >/sys/fs/ext4/{}/trigger_fs_error", device_name(&disk.path))));
    assert_ne!(errno(File::create(mount.join("new"))), 0);
    let mut content = vec![0; 1 << 20];
    file.read_exact_at(&mut content, 0).unwrap();
    assert!(content == vec![1; 1 << 20]);
    let written = file.write_all_at(&[2; 4096], 0).and_then(|()| file.sync_all());
    let refused = errno(written);
    assert!([libc::EROFS, libc::EIO].contains(&refused), "{refused}");
    assert!(fs::metadata(mount.join("file")).is_ok());
    drop(file);
    // It ends, and says that it did not end cleanly.
    let _ = place.umount_command().status();
    let _ = strongroom().arg("umount").arg("--lazy").arg(&place.mount_point).status();
}

/// Filesystems made alike give their files the same numbers.
#[test]
fn a_vault_on_another_disk_is_not_mistaken_for_one_in_use() {
    let test = "a_vault_on_another_disk_is_not_mistaken_for_one_in_use";
    if !root_is_here(test) || !fuse_is_here(test) {
        return;
    }
    let disks = [Disk::new(160), Disk::new(160)];
    let places = disks.each_ref().map(|disk| Place::with_vault_in(&disk.path));
    for place in &places {
        place.mount();
        place.umount();
    }
    let lock = |place: &Place| fs::metadata(place.vault.join("lock")).unwrap().ino();
    assert_eq!(lock(&places[0]), lock(&places[1]));
    for place in &places {
        place.mount();
    }
    for place in &places {
        place.umount();
    }
}

/// As many as ext4 gives one.
#[test]
fn a_file_has_as_many_links_as_the_disk_gives_it() {
    let test = "a_file_has_as_many_links_as_the_disk_gives_it";
    if !root_is_here(test) || !fuse_is_here(test) {
        return;
    }
    let disk = Disk::new(160);
    let place = Place::with_vault_in(&disk.path);
    let mount = place.mount();
    let file = mount.join("file");
    fs::write(&file, "linked").unwrap();
    let mut links = 1u64;
    loop {
        match errno(fs::hard_link(&file, mount.join(links.to_string()))) {
            0 => links += 1,
            error => {
                assert_eq!(error, libc::EMLINK, "after {links} links");
                break;
            }
        }
    }
    assert_eq!(links, 65_000);
    assert_eq!(fs::metadata(&file).unwrap().nlink(), links);
    // One less, and one may be made again.
    fs::remove_file(mount.join("1")).unwrap();
    fs::hard_link(&file, mount.join("again")).unwrap();
    place.umount();
}

fn device_name(path: &Path) -> String {
    let device = fs::metadata(path).unwrap().dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let link = fs::read_link(format!("/sys/dev/block/{major}:{minor}")).unwrap();
    link.file_name().unwrap().to_str().unwrap().to_owned()
}
