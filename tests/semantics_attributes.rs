//! The statements of docs/semantics.md about what stands in the inode: times, extended attributes,
//! access control lists, and what the filesystem as a whole tells.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::fs::{FallocateFlags, XattrFlags, fallocate};
use rustix::io::Errno;
use support::posix::{
    ACCESS_ACL, DEFAULT_ACL, acl, chmod, errno, mode, new_file, set_xattr, xattr,
};
use support::{Place, fuse_is_here};

/// A time that a change moves on from.
const LONG_AGO: SystemTime = SystemTime::UNIX_EPOCH;

fn set_old(path: &Path) {
    let times = fs::FileTimes::new().set_accessed(LONG_AGO).set_modified(LONG_AGO);
    File::open(path).unwrap().set_times(times).unwrap();
}

fn modified(path: &Path) -> SystemTime {
    fs::metadata(path).unwrap().modified().unwrap()
}

fn changed(path: &Path) -> (i64, i64) {
    let metadata = fs::symlink_metadata(path).unwrap();
    (metadata.ctime(), metadata.ctime_nsec())
}

#[test]
fn what_changes_content_sets_its_times() {
    if !fuse_is_here("what_changes_content_sets_its_times") {
        return;
    }
    let place = Place::new();
    let mount = place.mount();
    let path = mount.join("file");
    let file = new_file(&path);
    file.write_all_at(&[1; 100], 0).unwrap();
    type Change<'a> = &'a dyn Fn();
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    let changes: [(&str, Change<'_>); 6] = [
        ("write", &|| file.write_all_at(b"x", 5).unwrap()),
        ("longer", &|| file.set_len(10_000).unwrap()),
        ("shorter", &|| file.set_len(5000).unwrap()),
        ("allocate", &|| fallocate(&file, FallocateFlags::empty(), 0, 20_000).unwrap()),
        ("punch", &|| fallocate(&file, punch, 0, 4096).unwrap()),
        ("O_TRUNC", &|| drop(File::create(&path).unwrap())),
    ];
    for (name, change) in changes {
        set_old(&path);
        let before = changed(&path);
        assert_eq!(modified(&path), LONG_AGO);
        std::thread::sleep(Duration::from_millis(10));
        change();
        assert!(modified(&path) > LONG_AGO, "{name}");
        assert!(changed(&path) > before, "{name}");
        let told = modified(&path);
        file.sync_all().unwrap();
        assert_eq!(modified(&path), told, "{name}: it stays when it reaches the disk");
    }
    // A read changes the time of access only.
    set_old(&path);
    file.write_all_at(b"x", 0).unwrap();
    set_old(&path);
    fs::read(&path).unwrap();
    assert_eq!(modified(&path), LONG_AGO);
    place.umount_after(file);
}

#[test]
fn what_changes_an_inode_sets_its_time_of_change() {
    if !fuse_is_here("what_changes_an_inode_sets_its_time_of_change") {
        return;
    }
    let place = Place::new();
    let mount = place.mount();
    let path = mount.join("file");
    drop(new_file(&path));
    type Change<'a> = &'a dyn Fn();
    let (link, moved) = (mount.join("link"), mount.join("moved"));
    let changes: [(&str, Change<'_>); 6] = [
        ("chmod", &|| chmod(&path, 0o600)),
        ("setxattr", &|| set_xattr(&path, "user.key", b"value")),
        ("removexattr", &|| rustix::fs::removexattr(&path, "user.key").unwrap()),
        ("link", &|| fs::hard_link(&path, &link).unwrap()),
        ("unlink", &|| fs::remove_file(&link).unwrap()),
        ("rename", &|| {
            fs::rename(&path, &moved).unwrap();
            fs::rename(&moved, &path).unwrap();
        }),
    ];
    for (name, change) in changes {
        let before = changed(&path);
        std::thread::sleep(Duration::from_millis(10));
        change();
        assert!(changed(&path) > before, "{name}");
    }
    place.umount();
}

#[test]
fn what_changes_a_directory_sets_its_times() {
    if !fuse_is_here("what_changes_a_directory_sets_its_times") {
        return;
    }
    let place = Place::new();
    let mount = place.mount();
    let directory = mount.join("directory");
    fs::create_dir(&directory).unwrap();
    fs::create_dir(directory.join("below")).unwrap();
    type Change<'a> = &'a dyn Fn();
    let changes: [(&str, Change<'_>); 6] = [
        ("create", &|| drop(new_file(directory.join("file")))),
        ("link", &|| fs::hard_link(directory.join("file"), directory.join("link")).unwrap()),
        ("rename", &|| fs::rename(directory.join("link"), directory.join("moved")).unwrap()),
        ("unlink", &|| fs::remove_file(directory.join("moved")).unwrap()),
        ("mkdir", &|| fs::create_dir(directory.join("new")).unwrap()),
        ("rmdir", &|| fs::remove_dir(directory.join("new")).unwrap()),
    ];
    for (name, change) in changes {
        set_old(&directory);
        change();
        assert!(modified(&directory) > LONG_AGO, "{name}");
    }
    set_old(&directory);
    fs::write(directory.join("below/file"), "").unwrap();
    fs::write(directory.join("file"), "changed").unwrap();
    assert_eq!(modified(&directory), LONG_AGO);
    place.umount();
}

#[test]
fn extended_attributes_have_every_size() {
    if !fuse_is_here("extended_attributes_have_every_size") {
        return;
    }
    let place = Place::new();
    let mount = place.mount();
    let path = mount.join("file");
    drop(new_file(&path));
    fs::create_dir(mount.join("directory")).unwrap();
    let value = |len: usize| -> Vec<u8> { (0..len).map(|at| at.to_le_bytes()[0]).collect() };
    // Beyond some 4000 bytes a value has no room in an inode of ext4.
    for len in [0, 1, 100, 2000, 3900, 4030, 4096, 20_000, 65_536] {
        for path in [&path, &mount.join("directory")] {
            set_xattr(path, "user.value", &value(len));
            assert_eq!(xattr(path, "user.value").as_ref(), Some(&value(len)), "{len}");
        }
    }
    let too_long = rustix::fs::setxattr(&path, "user.value", &value(65_537), XattrFlags::empty());
    assert_eq!(too_long, Err(Errno::TOOBIG));
    let longest = format!("user.{}", "n".repeat(250));
    set_xattr(&path, &longest, b"long");
    set_xattr(&path, "user.short", b"");
    place.umount();
    place.mount();
    assert_eq!(xattr(&path, "user.value"), Some(value(65_536)));
    assert_eq!(xattr(&path, &longest).as_deref(), Some(&b"long"[..]));
    let mut list = vec![0; 1024];
    let len = rustix::fs::listxattr(&path, &mut list[..]).unwrap();
    let names: BTreeSet<&[u8]> = list[..len - 1].split(|byte| *byte == 0).collect();
    assert_eq!(names, BTreeSet::from([&b"user.value"[..], b"user.short", longest.as_bytes()]));
    for name in ["user.value", "user.short", &longest] {
        rustix::fs::removexattr(&path, name).unwrap();
        assert_eq!(xattr(&path, name), None);
    }
    place.umount();
}

#[test]
fn extended_attributes_are_refused_as_on_ext4() {
    if !fuse_is_here("extended_attributes_are_refused_as_on_ext4") {
        return;
    }
    let place = Place::new();
    let path = place.mount().join("file");
    drop(new_file(&path));
    let set = |name: &str| rustix::fs::setxattr(&path, name, b"v", XattrFlags::empty());
    assert_eq!(set("user."), Err(Errno::INVAL));
    assert_eq!(set("unknown.name"), Err(Errno::OPNOTSUPP));
    assert_eq!(set("noname"), Err(Errno::OPNOTSUPP));
    assert_eq!(set(&format!("user.{}", "n".repeat(251))), Err(Errno::RANGE));
    let fifo = place.mount_point.join("fifo");
    let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU);
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, kind, mode, 0).unwrap();
    let on_fifo = rustix::fs::setxattr(&fifo, "user.key", b"v", XattrFlags::empty());
    assert_eq!(on_fifo, Err(Errno::PERM));
    place.umount();
}

#[test]
fn a_default_acl_is_inherited_and_the_umask_set_aside() {
    if !fuse_is_here("a_default_acl_is_inherited_and_the_umask_set_aside") {
        return;
    }
    let place = Place::new();
    let mount = place.mount_with(&["-o", "default_permissions"]);
    let directory = mount.join("directory");
    fs::create_dir(&directory).unwrap();
    let default = acl(&[("u", 7), ("u:12001", 7), ("g", 5), ("g:12002", 1), ("m", 7), ("o", 0)]);
    set_xattr(&directory, DEFAULT_ACL, &default);
    let script =
        "umask 077; : >file; mkdir below; mkfifo fifo; mkdir -m 0700 private; ln -s x link";
    let run = std::process::Command::new("sh")
        .args(["-euc", script])
        .current_dir(&directory)
        .status()
        .unwrap();
    assert!(run.success());
    // The mode that was asked for limits owner, mask and others; the umask does not.
    let file = acl(&[("u", 6), ("u:12001", 7), ("g", 5), ("g:12002", 1), ("m", 6), ("o", 0)]);
    assert_eq!(xattr(directory.join("file"), ACCESS_ACL), Some(file.clone()));
    assert_eq!(xattr(directory.join("fifo"), ACCESS_ACL), Some(file));
    assert_eq!(mode(directory.join("file")), 0o660);
    assert_eq!(xattr(directory.join("below"), ACCESS_ACL), Some(default.clone()));
    assert_eq!(xattr(directory.join("below"), DEFAULT_ACL), Some(default.clone()));
    let private = acl(&[("u", 7), ("u:12001", 7), ("g", 5), ("g:12002", 1), ("m", 0), ("o", 0)]);
    assert_eq!(xattr(directory.join("private"), ACCESS_ACL), Some(private));
    assert_eq!(xattr(directory.join("private"), DEFAULT_ACL), Some(default));
    assert_eq!(mode(directory.join("private")), 0o700);
    // One that says no more than a mode becomes one.
    let plain = mount.join("plain");
    fs::create_dir(&plain).unwrap();
    set_xattr(&plain, DEFAULT_ACL, &acl(&[("u", 7), ("g", 5), ("o", 4)]));
    drop(new_file(plain.join("file")));
    assert_eq!(xattr(plain.join("file"), ACCESS_ACL), None);
    assert_eq!(mode(plain.join("file")), 0o644);
    rustix::fs::removexattr(&plain, DEFAULT_ACL).unwrap();
    let run = std::process::Command::new("sh")
        .args(["-euc", "umask 077; : >after"])
        .current_dir(&plain)
        .status()
        .unwrap();
    assert!(run.success());
    assert_eq!(mode(plain.join("after")), 0o600);
    place.umount();
}

#[test]
fn an_acl_and_the_mode_follow_each_other() {
    if !fuse_is_here("an_acl_and_the_mode_follow_each_other") {
        return;
    }
    let place = Place::new();
    let path = place.mount_with(&["-o", "default_permissions"]).join("file");
    drop(new_file(&path));
    set_xattr(&path, ACCESS_ACL, &acl(&[("u", 6), ("u:12001", 6), ("g", 4), ("m", 6), ("o", 0)]));
    assert_eq!(mode(&path), 0o660);
    chmod(&path, 0o640);
    let narrowed = acl(&[("u", 6), ("u:12001", 6), ("g", 4), ("m", 4), ("o", 0)]);
    assert_eq!(xattr(&path, ACCESS_ACL), Some(narrowed));
    rustix::fs::removexattr(&path, ACCESS_ACL).unwrap();
    assert_eq!(xattr(&path, ACCESS_ACL), None);
    let default = rustix::fs::setxattr(
        &path,
        DEFAULT_ACL,
        &acl(&[("u", 6), ("g", 4), ("o", 0)]),
        XattrFlags::empty(),
    );
    assert_eq!(default, Err(Errno::ACCESS), "only directories have one");
    place.umount();
}

#[test]
fn the_filesystem_tells_of_the_disk_below() {
    if !fuse_is_here("the_filesystem_tells_of_the_disk_below") {
        return;
    }
    let place = Place::new();
    let mount = place.mount();
    let (here, below) =
        (rustix::fs::statvfs(mount).unwrap(), rustix::fs::statvfs(&place.vault).unwrap());
    assert_eq!(here.f_namemax, 255);
    assert_eq!(here.f_blocks * here.f_frsize, below.f_blocks * below.f_frsize);
    assert_eq!(errno(fs::metadata(mount.join("n".repeat(256)))), libc::ENAMETOOLONG);
    let mut file = new_file(mount.join("file"));
    file.write_all(b"x").unwrap();
    let metadata = file.metadata().unwrap();
    assert_eq!(metadata.blksize(), 4096);
    assert_eq!(metadata.dev(), fs::metadata(mount).unwrap().dev());
    place.umount_after(file);
}

/// All of the above again, where the tests run as root.
#[test]
fn as_an_ordinary_user() {
    support::as_an_ordinary_user("as_an_ordinary_user");
}
