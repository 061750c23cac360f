//! The statements of docs/semantics.md about names: links, renames, deleted files, directories.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write as _;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, Mode, OFlags, RawDir, RenameFlags, SeekFrom, Timespec, Timestamps, openat,
    renameat_with,
};
use rustix::io::Errno;
use support::posix::{errno, mode, new_file, set_xattr, xattr};
use support::{Place, fuse_is_here};

const TEST_FILES: usize = 400;

fn rename_with(from: &Path, to: &Path, flags: RenameFlags) -> Result<(), Errno> {
    renameat_with(CWD, from, CWD, to, flags)
}

fn open_directory(path: &Path) -> OwnedFd {
    openat(CWD, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap()
}

/// The file again, through the descriptor that holds it.
fn reopened(file: &File) -> File {
    File::options()
        .read(true)
        .write(true)
        .open(format!("/proc/self/fd/{}", file.as_raw_fd()))
        .unwrap()
}

#[test]
fn a_new_hard_link_shows_the_size_at_once() {
    if !fuse_is_here("a_new_hard_link_shows_the_size_at_once") {
        return;
    }
    let place = Place::new();
    let mount = place.mount();
    let mut file = new_file(mount.join("a"));
    // Still in the kernel's cache when the link is made.
    file.write_all(&[1; 10_000]).unwrap();
    fs::hard_link(mount.join("a"), mount.join("b")).unwrap();
    let (a, b) = (fs::metadata(mount.join("a")).unwrap(), fs::metadata(mount.join("b")).unwrap());
    assert_eq!((b.len(), b.nlink(), b.ino()), (10_000, 2, a.ino()));
    fs::remove_file(mount.join("a")).unwrap();
    assert_eq!(fs::read(mount.join("b")).unwrap(), [1; 10_000]);
    // Of symlinks and FIFOs, too.
    symlink("target", mount.join("link")).unwrap();
    fs::hard_link(mount.join("link"), mount.join("link2")).unwrap();
    assert_eq!(fs::symlink_metadata(mount.join("link2")).unwrap().nlink(), 2);
    assert_eq!(fs::read_link(mount.join("link2")).unwrap(), Path::new("target"));
    assert_eq!(errno(fs::hard_link(mount, mount.join("x"))), libc::EPERM);
    drop(file);
    place.umount();
}

#[test]
fn a_deleted_file_that_is_open_lives_on() {
    if !fuse_is_here("a_deleted_file_that_is_open_lives_on") {
        return;
    }
    let place = Place::new();
    let mount = place.mount();
    let mut file = new_file(mount.join("file"));
    file.write_all(b"hello").unwrap();
    fs::remove_file(mount.join("file")).unwrap();
    // The name is free at once, and another file there is another file.
    fs::write(mount.join("file"), "another").unwrap();

    file.sync_all().unwrap();
    file.sync_data().unwrap();
    file.set_permissions(fs::Permissions::from_mode(0o600)).unwrap();
    let time = |tv_sec| Timespec { tv_sec, tv_nsec: 123_456_789 };
    let times = Timestamps { last_access: time(1_500_000_000), last_modification: time(1) };
    rustix::fs::futimens(&file, &times).unwrap();
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::fsetxattr(&file, "user.key", b"value", flags).unwrap();
    let mut value = [0; 5];
    assert_eq!(rustix::fs::fgetxattr(&file, "user.key", &mut value[..]), Ok(5));
    rustix::fs::fremovexattr(&file, "user.key").unwrap();
    let metadata = file.metadata().unwrap();
    assert_eq!(
        (metadata.nlink(), metadata.mode() & 0o7777, metadata.len(), metadata.atime_nsec()),
        (0, 0o600, 5, 123_456_789)
    );
    assert_eq!((metadata.atime(), metadata.mtime()), (1_500_000_000, 1));

    let again = reopened(&file);
    again.write_all_at(b"WORLD", 2).unwrap();
    let mut content = [0; 7];
    file.read_exact_at(&mut content, 0).unwrap();
    assert_eq!(&content, b"heWORLD");
    again.set_len(3).unwrap();
    again.write_all_at(&[7; 100_000], 1 << 20).unwrap();
    again.sync_all().unwrap();
    drop(file);
    assert_eq!(again.metadata().unwrap().len(), (1 << 20) + 100_000);
    let mut tail = vec![0; 100_000];
    again.read_exact_at(&mut tail, 1 << 20).unwrap();
    assert!(tail == vec![7; 100_000]);
    assert_eq!(fs::read(mount.join("file")).unwrap(), b"another");
    drop(again);
    place.umount();
}

/// The numbers of deleted files are used again by the filesystem below.
#[test]
fn deleted_files_are_not_mistaken_for_new_ones() {
    if !fuse_is_here("deleted_files_are_not_mistaken_for_new_ones") {
        return;
    }
    let place = Place::new();
    let mount = place.mount();
    for round in 0..3 {
        let name = |number| mount.join(format!("{round}-{number}"));
        let held: Vec<File> = (0..100)
            .map(|number| {
                let mut file = new_file(name(number));
                write!(file, "old {number}").unwrap();
                fs::remove_file(name(number)).unwrap();
                file
            })
            .collect();
        for number in 0..200 {
            fs::write(name(number), format!("new {number}")).unwrap();
        }
        for (number, file) in held.iter().enumerate() {
            let mut content = vec![0; format!("old {number}").len()];
            reopened(file).read_exact_at(&mut content, 0).unwrap();
            assert_eq!(content, format!("old {number}").as_bytes());
        }
        drop(held);
        for number in 0..200 {
            assert_eq!(fs::read(name(number)).unwrap(), format!("new {number}").as_bytes());
            fs::remove_file(name(number)).unwrap();
        }
    }
    place.umount();
}

#[test]
fn a_deleted_directory_that_is_open_takes_nothing_more() {
    if !fuse_is_here("a_deleted_directory_that_is_open_takes_nothing_more") {
        return;
    }
    let place = Place::new();
    let mount = place.mount();
    let path = mount.join("directory");
    fs::create_dir(&path).unwrap();
    let directory = open_directory(&path);
    fs::remove_dir(&path).unwrap();
    assert_eq!(rustix::fs::fstat(&directory).unwrap().st_nlink, 0);
    let mut buffer = [MaybeUninit::uninit(); 2048];
    let listed = RawDir::new(directory.as_fd(), &mut buffer).next().map(|entry| entry.err());
    assert_eq!(listed, Some(Some(Errno::NOENT)), "the kernel says so for every filesystem");
    let create = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
    assert_eq!(openat(&directory, "x", create, Mode::RUSR).err(), Some(Errno::NOENT));
    assert_eq!(rustix::fs::mkdirat(&directory, "x", Mode::RWXU), Err(Errno::NOENT));
    rustix::fs::fchmod(&directory, Mode::RWXU).unwrap();
    rustix::fs::fsync(&directory).unwrap();
    drop(directory);
    place.umount();
}

#[test]
fn other_kinds_live_on_when_deleted_too() {
    if !fuse_is_here("other_kinds_live_on_when_deleted_too") {
        return;
    }
    let place = Place::new();
    let mount = place.mount();
    let fifo = mount.join("fifo");
    rustix::fs::mknodat(CWD, &fifo, rustix::fs::FileType::Fifo, Mode::RWXU, 0).unwrap();
    let mut open = File::options().read(true).write(true).open(&fifo).unwrap();
    fs::remove_file(&fifo).unwrap();
    open.write_all(b"through").unwrap();
    open.set_permissions(fs::Permissions::from_mode(0o640)).unwrap();
    let metadata = open.metadata().unwrap();
    assert_eq!((metadata.nlink(), metadata.mode() & 0o7777), (0, 0o640));

    let link = mount.join("link");
    for target in ["short".to_owned(), "t/".repeat(2047)] {
        symlink(&target, &link).unwrap();
        let flags = OFlags::PATH | OFlags::NOFOLLOW;
        let pinned = openat(CWD, &link, flags, Mode::empty()).unwrap();
        fs::remove_file(&link).unwrap();
        let found = rustix::fs::readlinkat(&pinned, "", Vec::new()).unwrap();
        assert_eq!(found.as_bytes(), target.as_bytes());
    }
    drop(open);
    place.umount();
}

#[test]
fn a_replaced_file_that_is_open_keeps_what_it_was() {
    if !fuse_is_here("a_replaced_file_that_is_open_keeps_what_it_was") {
        return;
    }
    let place = Place::new();
    let mount = place.mount();
    let (old, new) = (mount.join("old"), mount.join("new"));
    fs::write(&old, "old").unwrap();
    fs::write(&new, "newer").unwrap();
    let file = File::options().read(true).write(true).open(&old).unwrap();
    fs::rename(&new, &old).unwrap();
    let metadata = file.metadata().unwrap();
    assert_eq!((metadata.nlink(), metadata.len()), (0, 3));
    file.write_all_at(b"OLD!", 0).unwrap();
    file.sync_all().unwrap();
    assert_eq!(fs::read(&old).unwrap(), b"newer");
    let mut content = [0; 4];
    file.read_exact_at(&mut content, 0).unwrap();
    assert_eq!(&content, b"OLD!");
    drop(file);
    place.umount();
}

#[test]
fn rename_honours_its_flags() {
    if !fuse_is_here("rename_honours_its_flags") {
        return;
    }
    let place = Place::new();
    let mount = place.mount();
    let (a, b, missing) = (mount.join("a"), mount.join("b"), mount.join("missing"));
    // Long names have a sidecar that must follow.
    let long = mount.join("l".repeat(255));
    fs::write(&a, "A").unwrap();
    fs::create_dir(&b).unwrap();
    fs::write(b.join("inside"), "B").unwrap();
    assert_eq!(rename_with(&a, &b, RenameFlags::NOREPLACE), Err(Errno::EXIST));
    rename_with(&a, &missing, RenameFlags::NOREPLACE).unwrap();
    rename_with(&missing, &a, RenameFlags::NOREPLACE).unwrap();
    assert_eq!(rename_with(&a, &missing, RenameFlags::EXCHANGE), Err(Errno::NOENT));
    rename_with(&a, &b, RenameFlags::EXCHANGE).unwrap();
    assert_eq!(fs::read(&b).unwrap(), b"A");
    assert_eq!(fs::read(a.join("inside")).unwrap(), b"B");
    fs::write(&long, "L").unwrap();
    rename_with(&a, &long, RenameFlags::EXCHANGE).unwrap();
    assert_eq!(fs::read(long.join("inside")).unwrap(), b"B");
    assert_eq!(fs::read(&a).unwrap(), b"L");
    let both = RenameFlags::NOREPLACE | RenameFlags::EXCHANGE;
    assert_eq!(rename_with(&a, &b, both), Err(Errno::INVAL));
    assert_eq!(rename_with(&a, &missing, RenameFlags::WHITEOUT), Err(Errno::INVAL));
    place.umount();
    place.mount();
    assert_eq!(fs::read(long.join("inside")).unwrap(), b"B");
    assert_eq!(fs::read(&a).unwrap(), b"L");
    place.umount();
}

#[test]
fn rename_refuses_what_it_must() {
    if !fuse_is_here("rename_refuses_what_it_must") {
        return;
    }
    let place = Place::new();
    let mount = place.mount();
    let (file, full, empty) = (mount.join("file"), mount.join("full"), mount.join("empty"));
    fs::write(&file, "").unwrap();
    fs::create_dir_all(full.join("below")).unwrap();
    fs::create_dir(&empty).unwrap();
    let rename = |from: &Path, to: &Path| errno(fs::rename(from, to));
    assert_eq!(rename(&full, &full.join("below/x")), libc::EINVAL);
    assert_eq!(rename(&empty, &full), libc::ENOTEMPTY);
    assert_eq!(rename(&full.join("below"), &full), libc::ENOTEMPTY);
    assert_eq!(rename(&file, &empty), libc::EISDIR);
    assert_eq!(rename(&empty, &file), libc::ENOTDIR);
    assert_eq!(rename(&mount.join("missing"), &file), libc::ENOENT);
    assert_eq!(rename(&file, &place.root().join("outside")), libc::EXDEV);
    // Two names of one file: nothing happens, both stay (rename(2)).
    fs::hard_link(&file, mount.join("other")).unwrap();
    assert_eq!(rename(&file, &mount.join("other")), 0);
    assert!(file.exists());
    // An empty directory is replaced.
    assert_eq!(rename(&full, &empty), 0);
    assert!(empty.join("below").exists());
    place.umount();
}

#[test]
fn a_directory_moves_while_its_files_are_open() {
    if !fuse_is_here("a_directory_moves_while_its_files_are_open") {
        return;
    }
    let place = Place::new();
    let mount = place.mount();
    let deep = mount.join("one/two/three");
    fs::create_dir_all(&deep).unwrap();
    let mut file = new_file(deep.join("file"));
    let middle = open_directory(&mount.join("one/two"));
    // Durable first, then changed in the journal: its records name the path.
    file.write_all(&[1; 20_000]).unwrap();
    file.sync_all().unwrap();
    file.write_all_at(&[2; 20_000], 0).unwrap();
    file.sync_all().unwrap();
    file.write_all_at(&[3; 5000], 0).unwrap();
    fs::rename(mount.join("one"), mount.join("moved")).unwrap();
    file.write_all_at(&[4; 5000], 10_000).unwrap();
    file.sync_all().unwrap();
    fs::create_dir(mount.join("other")).unwrap();
    fs::rename(mount.join("moved/two/three"), mount.join("other/three")).unwrap();
    file.write_all_at(&[5; 1000], 19_000).unwrap();
    let mut expected = vec![2; 20_000];
    expected[..5000].fill(3);
    expected[10_000..15_000].fill(4);
    expected[19_000..].fill(5);
    let path = mount.join("other/three/file");
    assert!(fs::read(&path).unwrap() == expected);
    // The directory that was open is the one that moved.
    openat(&middle, "new", OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC, Mode::RUSR).unwrap();
    assert!(mount.join("moved/two/new").exists());
    assert!(!mount.join("one").exists());
    drop((file, middle));
    place.umount();
    place.mount();
    assert!(fs::read(&path).unwrap() == expected);
    place.umount();
}

#[test]
fn symlinks_hold_any_target() {
    if !fuse_is_here("symlinks_hold_any_target") {
        return;
    }
    let place = Place::new();
    let mount = place.mount();
    // To the byte around every length at which something changes.
    let lengths = [1, 59, 60, 61, 255, 1000, 2900, 3000, 3010, 3050, 3071, 3072, 4094, 4095];
    let target = |len: usize| -> PathBuf {
        std::ffi::OsString::from_vec((0..len).map(|at| b"ab/\xff\n."[at % 6]).collect()).into()
    };
    for len in lengths {
        symlink(target(len), mount.join(len.to_string())).unwrap();
    }
    assert_eq!(errno(symlink("x".repeat(4096), mount.join("long"))), libc::ENAMETOOLONG);
    assert_eq!(errno(symlink("", mount.join("empty"))), libc::ENOENT);
    for _ in 0..2 {
        for len in lengths {
            let path = mount.join(len.to_string());
            assert_eq!(fs::read_link(&path).unwrap(), target(len), "{len}");
            assert_eq!(fs::symlink_metadata(&path).unwrap().len(), u64::try_from(len).unwrap());
        }
        place.umount();
        place.mount();
    }
    place.umount();
}

#[test]
fn symlinks_have_attributes_of_their_own() {
    if !fuse_is_here("symlinks_have_attributes_of_their_own") {
        return;
    }
    let place = Place::new();
    let mount = place.mount();
    let link = mount.join("link");
    symlink("nowhere", &link).unwrap();
    let time = Timespec { tv_sec: 1_234_567_890, tv_nsec: 987_654_321 };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, &link, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    let metadata = fs::symlink_metadata(&link).unwrap();
    assert_eq!((metadata.mtime(), metadata.mtime_nsec()), (1_234_567_890, 987_654_321));
    assert_eq!(mode(&link), 0o777);
    let user = rustix::fs::lsetxattr(&link, "user.k", b"", rustix::fs::XattrFlags::empty());
    assert_eq!(user, Err(Errno::PERM), "as on ext4");
    if rustix::process::geteuid().is_root() {
        for name in ["trusted.key", "security.key"] {
            set_xattr(&link, name, b"value");
            assert_eq!(xattr(&link, name).as_deref(), Some(&b"value"[..]), "{name}");
        }
        support::posix::chown(&link, 12, 34);
        assert_eq!(support::posix::owner(&link), (12, 34));
    }
    place.umount();
}

/// The entries of an open directory from an offset on, with the offset after each.
fn names(directory: &OwnedFd, offset: u64) -> Vec<(Vec<u8>, u64)> {
    rustix::fs::seek(directory, SeekFrom::Start(offset)).unwrap();
    let mut buffer = [MaybeUninit::uninit(); 2048];
    let mut reader = RawDir::new(directory.as_fd(), &mut buffer);
    let mut found = Vec::new();
    while let Some(entry) = reader.next() {
        let entry = entry.unwrap();
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            found.push((name.to_vec(), entry.next_entry_cookie()));
        }
    }
    found
}

#[test]
fn a_directory_can_change_while_it_is_read() {
    if !fuse_is_here("a_directory_can_change_while_it_is_read") {
        return;
    }
    let place = Place::new();
    let mount = place.mount();
    for number in 0..TEST_FILES {
        File::create(mount.join(format!("file-{number:03}"))).unwrap();
    }
    let directory = open_directory(mount);
    let before = names(&directory, 0);
    assert_eq!(before.len(), TEST_FILES);
    // seekdir to where telldir was, after a change of what lies on both sides.
    let (at, after) = (before[TEST_FILES / 2].1, &before[TEST_FILES / 2 + 1..]);
    for (name, _) in before.iter().step_by(2) {
        fs::remove_file(mount.join(std::ffi::OsStr::from_bytes(name))).unwrap();
    }
    for number in 0..TEST_FILES {
        File::create(mount.join(format!("new-{number}"))).unwrap();
    }
    let removed: BTreeSet<&[u8]> = before.iter().step_by(2).map(|(name, _)| &name[..]).collect();
    let stayed = |name: &&[u8]| name.starts_with(b"file") && !removed.contains(name);
    let expected: Vec<&[u8]> = after.iter().map(|(name, _)| &name[..]).filter(stayed).collect();
    let again = names(&directory, at);
    let found: Vec<&[u8]> = again.iter().map(|(name, _)| &name[..]).filter(stayed).collect();
    assert_eq!(found, expected, "each that stayed, once (POSIX leaves open what of the others)");
    // From the start: exactly what is there.
    let now: BTreeSet<Vec<u8>> = names(&directory, 0).into_iter().map(|(name, _)| name).collect();
    assert_eq!(now.len(), TEST_FILES / 2 + TEST_FILES);
    assert!(now.iter().all(|name| !removed.contains(&name[..])));
    drop(directory);
    place.umount();
}

#[test]
fn paths_may_be_deep() {
    if !fuse_is_here("paths_may_be_deep") {
        return;
    }
    let place = Place::new();
    let mount = place.mount();
    let name = "d".repeat(200);
    let mut directory = open_directory(mount);
    for _ in 0..200 {
        rustix::fs::mkdirat(&directory, &name, Mode::RWXU).unwrap();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        directory = openat(&directory, &name, flags, Mode::empty()).unwrap();
    }
    let create = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC;
    let file = File::from(openat(&directory, "file", create, Mode::RUSR).unwrap());
    file.write_all_at(&[1; 5000], 0).unwrap();
    file.sync_all().unwrap();
    file.write_all_at(&[2; 5000], 0).unwrap();
    file.sync_all().unwrap();
    drop((file, directory));
    fs::rename(mount.join(&name), mount.join("top")).unwrap();
    place.umount();
    place.mount();
    let remove = std::process::Command::new("rm").arg("-rf").arg(mount.join("top")).status();
    assert!(remove.unwrap().success());
    assert_eq!(fs::read_dir(mount).unwrap().count(), 0);
    place.umount();
}

#[test]
fn link_counts_of_directories_are_right() {
    if !fuse_is_here("link_counts_of_directories_are_right") {
        return;
    }
    let place = Place::new();
    let mount = place.mount();
    let directory = mount.join("directory");
    let links = || fs::metadata(&directory).unwrap().nlink();
    fs::create_dir(&directory).unwrap();
    assert_eq!(links(), 2);
    fs::create_dir(directory.join("a")).unwrap();
    fs::create_dir(directory.join("b")).unwrap();
    File::create(directory.join("file")).unwrap();
    assert_eq!(links(), 4);
    fs::remove_dir(directory.join("a")).unwrap();
    fs::rename(directory.join("b"), mount.join("b")).unwrap();
    assert_eq!(links(), 2);
    assert_eq!(errno(fs::remove_dir(&directory)), libc::ENOTEMPTY);
    place.umount();
}

/// All of the above again, where the tests run as root.
#[test]
fn as_an_ordinary_user() {
    support::as_an_ordinary_user("as_an_ordinary_user");
}
