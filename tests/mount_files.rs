//! What a mounted vault does with files, through the kernel: what belongs to the adapter and its
//! settings. The filesystem's own rules are tested on the core, and by the POSIX suites.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Command;

use rustix::fs::{FallocateFlags, XattrFlags};
use support::{Place, fuse_is_here};

fn seek(file: &File, from: rustix::fs::SeekFrom) -> Result<u64, rustix::io::Errno> {
    rustix::fs::seek(file, from)
}

/// The kernel asks for data and holes without writing its dirty pages back; who copies by holes
/// would lose what was just written.
#[test]
fn data_that_was_just_written_is_no_hole() {
    if !fuse_is_here("data_that_was_just_written_is_no_hole") {
        return;
    }
    use rustix::fs::SeekFrom::{Data, Hole};
    let place = Place::new();
    let path = place.mount().join("sparse");
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).unwrap();
    file.set_len(1 << 20).unwrap();
    file.sync_all().unwrap();
    // Holes are told in blocks of the disk below, which one of ours shares with its neighbours.
    let near = |found: Result<u64, _>, at: u64| found.is_ok_and(|found| found.abs_diff(at) <= 4096);
    assert_eq!(seek(&file, Data(64 << 10)), Err(rustix::io::Errno::NXIO));
    file.write_all_at(&[1; 4096], 512 << 10).unwrap();
    assert!(near(seek(&file, Data(64 << 10)), 512 << 10));
    assert_eq!(seek(&file, Data(512 << 10)), Ok(512 << 10));
    assert!(near(seek(&file, Hole(512 << 10)), (512 << 10) + 4096));
    // Past the size that the daemon knew.
    file.write_all_at(&[2; 4096], 2 << 20).unwrap();
    assert!(near(seek(&file, Data(3 << 19)), 2 << 20));
    assert_eq!(seek(&file, Hole(2 << 20)), Ok((2 << 20) + 4096));
    assert_eq!(seek(&file, Data((2 << 20) + 4096)), Err(rustix::io::Errno::NXIO));
    // Through another descriptor, and when the file has no name any more.
    let reader = File::open(&path).unwrap();
    fs::remove_file(&path).unwrap();
    file.write_all_at(&[3; 4096], 4 << 20).unwrap();
    assert!(near(seek(&reader, Data(3 << 20)), 4 << 20));
    drop((file, reader));
    place.umount();
}

/// Several at once, more than there are threads to serve them: none may wait for one that waits.
#[test]
fn many_seeks_at_once_do_not_block_each_other() {
    if !fuse_is_here("many_seeks_at_once_do_not_block_each_other") {
        return;
    }
    let place = Place::new();
    let mount = place.mount();
    std::thread::scope(|scope| {
        for thread in 0..16u64 {
            scope.spawn(move || {
                let path = mount.join(format!("file-{thread}"));
                let file =
                    OpenOptions::new().read(true).write(true).create_new(true).open(path).unwrap();
                file.set_len(16 << 20).unwrap();
                for round in 1..20u64 {
                    let at = round * (512 << 10);
                    file.write_all_at(&[1; 100_000], at).unwrap();
                    let found = seek(&file, rustix::fs::SeekFrom::Data(at - 4096)).unwrap();
                    // The block before shares a disk block with this one.
                    assert!((at - 4096..=at).contains(&found), "{found}, not {at}");
                }
            });
        }
    });
    place.umount();
}

#[test]
fn many_may_sync_at_once() {
    if !fuse_is_here("many_may_sync_at_once") {
        return;
    }
    let place = Place::new();
    let mount = place.mount();
    std::thread::scope(|scope| {
        for thread in 0..16u8 {
            scope.spawn(move || {
                let mut file = File::create(mount.join(format!("file-{thread}"))).unwrap();
                for _ in 0..10 {
                    file.write_all(&[thread; 5000]).unwrap();
                    file.sync_data().unwrap();
                    File::open(mount).unwrap().sync_all().unwrap();
                }
            });
        }
    });
    support::kill(place.pid(), "KILL");
    support::wait_until("the mount to be dead", || fs::metadata(mount).is_err());
    place.mount();
    for thread in 0..16u8 {
        assert!(fs::read(mount.join(format!("file-{thread}"))).unwrap() == vec![thread; 50_000]);
    }
    place.umount();
}

#[test]
fn a_name_that_was_missing_is_found_once_made() {
    if !fuse_is_here("a_name_that_was_missing_is_found_once_made") {
        return;
    }
    let place = Place::new();
    let mount = place.mount();
    fs::create_dir(mount.join("directory")).unwrap();
    fs::write(mount.join("source"), "").unwrap();
    type Make<'a> = &'a dyn Fn(&Path);
    let make: [(&str, Make<'_>); 7] = [
        ("file", &|path| fs::write(path, "").unwrap()),
        ("directory/below", &|path| fs::create_dir(path).unwrap()),
        ("symlink", &|path| std::os::unix::fs::symlink("x", path).unwrap()),
        ("link", &|path| fs::hard_link(mount.join("source"), path).unwrap()),
        ("renamed", &|path| fs::rename(mount.join("source"), path).unwrap()),
        ("fifo", &|path| {
            let status = Command::new("mkfifo").arg(path).status().unwrap();
            assert!(status.success());
        }),
        ("again", &|path| fs::write(path, "").unwrap()),
    ];
    for (name, make) in make {
        let path = mount.join(name);
        for _ in 0..2 {
            let missing = fs::symlink_metadata(&path).unwrap_err();
            assert_eq!(missing.kind(), std::io::ErrorKind::NotFound, "{name}");
        }
        make(&path);
        fs::symlink_metadata(&path).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    fs::remove_file(mount.join("again")).unwrap();
    assert!(fs::symlink_metadata(mount.join("again")).is_err());
    place.umount();
}

#[test]
fn a_large_directory_is_listed_whole_however_it_is_read() {
    if !fuse_is_here("a_large_directory_is_listed_whole_however_it_is_read") {
        return;
    }
    let place = Place::new();
    let mount = place.mount();
    let expected: BTreeSet<String> = (0..3000).map(|n| format!("{n:0>100}")).collect();
    for name in &expected {
        File::create(mount.join(name)).unwrap();
    }
    let list = || -> Vec<String> {
        fs::read_dir(mount)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    };
    let check = |list: Vec<String>| {
        assert_eq!(list.len(), expected.len());
        assert_eq!(list.into_iter().collect::<BTreeSet<_>>(), expected);
    };
    // From the daemon (without and with attributes), from the kernel's cache, and after a change.
    check(list());
    check(list());
    for entry in fs::read_dir(mount).unwrap() {
        assert!(entry.unwrap().metadata().unwrap().is_file());
    }
    check(list());
    File::create(mount.join("new")).unwrap();
    assert!(list().contains(&"new".to_owned()));
    fs::remove_file(mount.join("new")).unwrap();
    check(list());
    place.umount();
    place.mount();
    check(list());
    // Read while it is emptied: each name is met.
    for entry in fs::read_dir(mount).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    assert_eq!(list(), Vec::<String>::new());
    place.umount();
}

#[test]
fn modes_are_as_asked_and_the_umask_holds() {
    if !fuse_is_here("modes_are_as_asked_and_the_umask_holds") {
        return;
    }
    let place = Place::new();
    let mount = place.mount();
    let script = "umask 0; mkdir -m 0151 a; mkdir b; : >c; umask 077; mkdir d; : >e; mkfifo f";
    assert!(Command::new("sh").args(["-c", script]).current_dir(mount).status().unwrap().success());
    for (name, mode) in
        [("a", 0o151), ("b", 0o777), ("c", 0o666), ("d", 0o700), ("e", 0o600), ("f", 0o600)]
    {
        let found = fs::symlink_metadata(mount.join(name)).unwrap().mode() & 0o7777;
        assert_eq!(found, mode, "{name}: {found:o}");
    }
    place.umount();
}

#[test]
fn what_is_executable_is_executed_and_nothing_else() {
    if !fuse_is_here("what_is_executable_is_executed_and_nothing_else") {
        return;
    }
    let place = Place::new();
    let mount = place.mount();
    // Programs are written by processes of their own: a child that another test starts meanwhile would
    // hold what is open for writing here, and nobody executes that (execve(2), `ETXTBSY`).
    let script = mount.join("script");
    let write = "printf '#!/bin/sh\nexit 7\n' > \"$0\"";
    assert!(Command::new("sh").args(["-c", write]).arg(&script).status().unwrap().success());
    for (mode, executable) in [(0o644, false), (0o744, true), (0o600, false)] {
        fs::set_permissions(&script, fs::Permissions::from_mode(mode)).unwrap();
        let test = Command::new("test").arg("-x").arg(&script).status().unwrap();
        assert_eq!(test.success(), executable, "{mode:o}");
        let run = Command::new(&script).status();
        assert_eq!(run.ok().and_then(|status| status.code()), executable.then_some(7), "{mode:o}");
    }
    // A program with its own mappings.
    let program = mount.join("program");
    assert!(Command::new("cp").arg("/bin/true").arg(&program).status().unwrap().success());
    assert!(Command::new(&program).status().unwrap().success());
    place.umount();
    place.mount_with(&["-o", "noexec"]);
    assert!(Command::new(&program).status().is_err());
    place.umount();
}

#[test]
fn appends_of_several_writers_are_all_there() {
    if !fuse_is_here("appends_of_several_writers_are_all_there") {
        return;
    }
    let place = Place::new();
    let path = place.mount().join("log");
    let script = "i=0; while [ $i -lt 300 ]; do echo $1-$i; i=$((i+1)); done >>\"$0\"";
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            Command::new("sh").args(["-c", script]).arg(&path).arg(writer.to_string()).spawn()
        })
        .collect();
    for writer in writers {
        assert!(writer.unwrap().wait().unwrap().success());
    }
    let text = fs::read_to_string(&path).unwrap();
    let lines: BTreeSet<&str> = text.lines().collect();
    assert_eq!((text.lines().count(), lines.len()), (1200, 1200));
    // Write-only, in the middle of a page that the kernel does not hold.
    place.umount();
    place.mount();
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(b"X", 5).unwrap();
    drop(file);
    let changed = fs::read(&path).unwrap();
    assert_eq!((changed.len(), changed[5]), (text.len(), b'X'));
    assert_eq!(changed[6..], text.as_bytes()[6..]);
    place.umount();
}

#[test]
fn allocation_modes_are_honoured_or_refused() {
    if !fuse_is_here("allocation_modes_are_honoured_or_refused") {
        return;
    }
    let place = Place::new();
    let path = place.mount().join("file");
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(path).unwrap();
    let keep = FallocateFlags::KEEP_SIZE;
    let allocate = |mode, offset, len| rustix::fs::fallocate(&file, mode, offset, len);
    allocate(FallocateFlags::empty(), 0, 100_000).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 100_000);
    allocate(keep, 100_000, 100_000).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 100_000);
    file.write_all_at(&[7; 100_000], 0).unwrap();
    allocate(FallocateFlags::PUNCH_HOLE | keep, 8192, 8192).unwrap();
    allocate(FallocateFlags::ZERO_RANGE, 50_000, 1000).unwrap();
    allocate(FallocateFlags::ZERO_RANGE | keep, 99_000, 5000).unwrap();
    let mut expected = vec![7; 100_000];
    expected[8192..16384].fill(0);
    expected[50_000..51_000].fill(0);
    expected[99_000..].fill(0);
    let mut found = Vec::new();
    (&file).seek(SeekFrom::Start(0)).unwrap();
    (&file).read_to_end(&mut found).unwrap();
    assert!(found == expected);
    for mode in [FallocateFlags::COLLAPSE_RANGE, FallocateFlags::INSERT_RANGE] {
        assert_eq!(allocate(mode, 4096, 4096), Err(rustix::io::Errno::OPNOTSUPP));
    }
    drop(file);
    place.umount();
}

#[test]
fn what_is_not_supported_says_so() {
    if !fuse_is_here("what_is_not_supported_says_so") {
        return;
    }
    let place = Place::new();
    let mount = place.mount();
    let temporary =
        OpenOptions::new().write(true).custom_flags(libc::O_TMPFILE).open(mount).unwrap_err();
    assert_eq!(temporary.raw_os_error(), Some(libc::EOPNOTSUPP));
    let file = File::create(mount.join("file")).unwrap();
    // TCGETS, which isatty(3) asks.
    assert!(!std::io::IsTerminal::is_terminal(&file));
    assert_eq!(rustix::fs::ioctl_getflags(&file), Err(rustix::io::Errno::NOTTY));
    // The file can still be used, and so can what the kernel falls back to.
    let copy = File::create(mount.join("copy")).unwrap();
    fs::write(mount.join("file"), "0123456789").unwrap();
    let source = File::open(mount.join("file")).unwrap();
    let copied = rustix::fs::copy_file_range(&source, None, &copy, None, 100).unwrap();
    assert_eq!(copied, 10);
    assert_eq!(fs::read_to_string(mount.join("copy")).unwrap(), "0123456789");
    drop((file, copy, source));
    place.umount();
}

#[test]
fn extended_attributes_keep_to_the_protocol() {
    if !fuse_is_here("extended_attributes_keep_to_the_protocol") {
        return;
    }
    use rustix::io::Errno;
    let place = Place::new();
    let path = place.mount().join("file");
    File::create(&path).unwrap();
    let set = |name: &str, value: &[u8], flags| rustix::fs::setxattr(&path, name, value, flags);
    let get = |name: &str, buffer: &mut [u8]| rustix::fs::getxattr(&path, name, buffer);
    set("user.one", b"12345", XattrFlags::CREATE).unwrap();
    assert_eq!(set("user.one", b"", XattrFlags::CREATE), Err(Errno::EXIST));
    assert_eq!(set("user.two", b"", XattrFlags::REPLACE), Err(Errno::NODATA));
    set("user.two", b"", XattrFlags::empty()).unwrap();
    assert_eq!(rustix::fs::getxattr_query(&path, "user.one"), Ok(5));
    assert_eq!(get("user.one", &mut [0; 4]), Err(Errno::RANGE));
    let mut value = [0; 5];
    assert_eq!(get("user.one", &mut value), Ok(5));
    assert_eq!(&value, b"12345");
    assert_eq!(get("user.two", &mut [0; 10]), Ok(0));
    assert_eq!(get("user.three", &mut [0; 10]), Err(Errno::NODATA));
    let list = |buffer: &mut [u8]| rustix::fs::listxattr(&path, buffer);
    assert_eq!(rustix::fs::listxattr_query(&path), Ok(18));
    assert_eq!(list(&mut [0; 17]), Err(Errno::RANGE));
    let mut names = [0; 18];
    assert_eq!(list(&mut names), Ok(18));
    let names: BTreeSet<&[u8]> = names[..17].split(|byte| *byte == 0).collect();
    assert_eq!(names, BTreeSet::from([&b"user.one"[..], b"user.two"]));
    rustix::fs::removexattr(&path, "user.one").unwrap();
    assert_eq!(rustix::fs::removexattr(&path, "user.one"), Err(Errno::NODATA));
    let longest = format!("user.{}", "n".repeat(250));
    set(&longest, &[1; 100], XattrFlags::empty()).unwrap();
    assert_eq!(get(&longest, &mut [0; 100]), Ok(100));
    place.umount();
    place.mount();
    assert_eq!(get(&longest, &mut [0; 100]), Ok(100));
    place.umount();
}

#[test]
fn times_hold_to_the_nanosecond_before_1970_and_after_2038() {
    if !fuse_is_here("times_hold_to_the_nanosecond_before_1970_and_after_2038") {
        return;
    }
    let place = Place::new();
    let mount = place.mount();
    // What ext4 can hold: 1901 to 2446.
    let times = [(-1, 999_999_999), (-1_000_000_000, 1), (0, 0), (4_102_444_800, 123_456_789)];
    for (index, (seconds, nanoseconds)) in times.into_iter().enumerate() {
        let path = mount.join(index.to_string());
        File::create(&path).unwrap();
        let time = rustix::fs::Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
        let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
        let flags = rustix::fs::AtFlags::empty();
        rustix::fs::utimensat(rustix::fs::CWD, &path, &times, flags).unwrap();
    }
    for _ in 0..2 {
        for (index, expected) in times.into_iter().enumerate() {
            let metadata = fs::metadata(mount.join(index.to_string())).unwrap();
            assert_eq!((metadata.mtime(), metadata.mtime_nsec()), expected);
            assert_eq!((metadata.atime(), metadata.atime_nsec()), expected);
        }
        place.umount();
        place.mount();
    }
    place.umount();
}

#[test]
fn a_shared_mapping_reaches_the_disk() {
    if !fuse_is_here("a_shared_mapping_reaches_the_disk") {
        return;
    }
    let place = Place::new();
    let path = place.mount().join("mapped");
    fs::write(&path, vec![b'a'; 10_000]).unwrap();
    let script = "import mmap,sys\n\
                  f=open(sys.argv[1],'r+b')\n\
                  m=mmap.mmap(f.fileno(),0)\n\
                  m[5000:5005]=b'HELLO'\n\
                  m.flush()\n\
                  m[6000:6005]=b'THERE'\n\
                  m.close()\n";
    let status = Command::new("python3").args(["-c", script]).arg(&path).status().unwrap();
    assert!(status.success());
    let mut expected = vec![b'a'; 10_000];
    expected[5000..5005].copy_from_slice(b"HELLO");
    expected[6000..6005].copy_from_slice(b"THERE");
    assert!(fs::read(&path).unwrap() == expected);
    place.umount();
    place.mount();
    assert!(fs::read(&path).unwrap() == expected);
    place.umount();
}

#[test]
fn blocks_and_links_are_told_at_once() {
    if !fuse_is_here("blocks_and_links_are_told_at_once") {
        return;
    }
    let place = Place::new();
    let mount = place.mount();
    let (a, b) = (mount.join("a"), mount.join("b"));
    fs::write(&a, vec![1; 1 << 20]).unwrap();
    assert!(fs::metadata(&a).unwrap().blocks() >= 2048, "the blocks are those of the content");
    fs::hard_link(&a, &b).unwrap();
    for path in [&a, &b] {
        let metadata = fs::metadata(path).unwrap();
        assert_eq!((metadata.len(), metadata.nlink()), (1 << 20, 2));
    }
    let file = File::open(&b).unwrap();
    fs::rename(&a, mount.join("c")).unwrap();
    fs::remove_file(&b).unwrap();
    assert_eq!(file.metadata().unwrap().nlink(), 1);
    fs::remove_file(mount.join("c")).unwrap();
    assert_eq!(file.metadata().unwrap().nlink(), 0);
    let mut content = Vec::new();
    (&file).read_to_end(&mut content).unwrap();
    assert!(content == vec![1; 1 << 20]);
    drop(file);
    place.umount();
}

#[test]
fn names_of_every_length_and_byte_work() {
    if !fuse_is_here("names_of_every_length_and_byte_work") {
        return;
    }
    let place = Place::new();
    let mount = place.mount();
    let mut names: Vec<Vec<u8>> = (1..=255).map(|len| vec![b'x'; len]).collect();
    names.extend((1..=255u8).filter(|byte| *byte != b'/').map(|byte| vec![b'.', b'.', byte]));
    for name in &names {
        let path = mount.join(std::ffi::OsStr::from_bytes(name));
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&path)
            .unwrap()
            .write_all(name)
            .unwrap();
    }
    place.umount();
    place.mount();
    for name in &names {
        let path = mount.join(std::ffi::OsStr::from_bytes(name));
        assert_eq!(&fs::read(&path).unwrap(), name);
    }
    assert_eq!(fs::read_dir(mount).unwrap().count(), names.len());
    let long = mount.join("x".repeat(256));
    assert_eq!(File::create(long).unwrap_err().raw_os_error(), Some(libc::ENAMETOOLONG));
    let target = "t/".repeat(2047);
    std::os::unix::fs::symlink(&target, mount.join("link")).unwrap();
    assert_eq!(fs::read_link(mount.join("link")).unwrap(), Path::new(&target));
    assert!(CString::new(target).is_ok());
    place.umount();
}

/// All of the above again, where the tests run as root.
#[test]
fn as_an_ordinary_user() {
    support::as_an_ordinary_user("as_an_ordinary_user");
}
