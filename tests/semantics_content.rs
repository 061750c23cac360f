//! The statements of docs/semantics.md about what files hold: holes, allocation, sizes, mappings,
//! locks of one process, many open files.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs::{self, File};
use std::io::Write as _;
use std::os::fd::{AsRawFd as _, RawFd};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, fcntl};
use rustix::fs::{FallocateFlags, FlockOperation, SeekFrom, fallocate, flock};
use rustix::io::Errno;
use support::posix::{errno, new_file};
use support::{Place, fuse_is_here};

const BLOCK: u64 = 4096;

fn seek(file: &File, to: SeekFrom) -> Option<u64> {
    match rustix::fs::seek(file, to) {
        Ok(offset) => Some(offset),
        Err(Errno::NXIO) => None,
        Err(error) => panic!("seeking: {error}"),
    }
}

/// The data of a file, as ranges of blocks, the way `cp --sparse` finds it.
fn data(file: &File) -> Vec<(u64, u64)> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(data) = seek(file, SeekFrom::Data(at)) {
        let hole = seek(file, SeekFrom::Hole(data)).unwrap();
        found.push((data / BLOCK, hole.div_ceil(BLOCK)));
        at = hole;
    }
    found
}

#[test]
fn holes_are_found_to_the_block() {
    if !fuse_is_here("holes_are_found_to_the_block") {
        return;
    }
    let place = Place::new();
    let mount = place.mount();
    let file = new_file(mount.join("file"));
    file.set_len(1000 * BLOCK).unwrap();
    assert_eq!(data(&file), []);
    assert_eq!(seek(&file, SeekFrom::Hole(0)), Some(0));
    for block in [0, 16, 17, 500, 999] {
        file.write_all_at(&[1; 4096], block * BLOCK).unwrap();
    }
    let expected = [(0, 1), (16, 18), (500, 501), (999, 1000)];
    assert_eq!(data(&file), expected, "while it is in the kernel's cache");
    file.sync_all().unwrap();
    assert_eq!(data(&file), expected);
    assert_eq!(seek(&file, SeekFrom::Data(1000 * BLOCK)), None);
    assert_eq!(seek(&file, SeekFrom::Hole(1000 * BLOCK)), None);
    drop(file);
    place.umount();
    place.mount();
    assert_eq!(data(&File::open(mount.join("file")).unwrap()), expected);
    place.umount();
}

#[test]
fn punched_holes_read_as_zeros_and_give_their_space_back() {
    if !fuse_is_here("punched_holes_read_as_zeros_and_give_their_space_back") {
        return;
    }
    let place = Place::new();
    let mount = place.mount();
    let file = new_file(mount.join("file"));
    let mut expected = vec![7; 1 << 20];
    file.write_all_at(&expected, 0).unwrap();
    file.sync_all().unwrap();
    // The kernel hears of it beside the answer to the write.
    let told_by = Instant::now() + Duration::from_secs(10);
    while file.metadata().unwrap().blocks() < 2048 && Instant::now() < told_by {
        std::thread::sleep(Duration::from_millis(10));
    }
    let before = file.metadata().unwrap().blocks();
    assert!(before >= 2048, "{before}");
    let keep = FallocateFlags::KEEP_SIZE;
    fallocate(&file, FallocateFlags::PUNCH_HOLE | keep, 100_000, 500_000).unwrap();
    expected[100_000..600_000].fill(0);
    let after = file.metadata().unwrap().blocks();
    assert!(after <= before - 900, "{before}, then {after}");
    fallocate(&file, FallocateFlags::ZERO_RANGE, 700_000, 1000).unwrap();
    expected[700_000..701_000].fill(0);
    fallocate(&file, FallocateFlags::ZERO_RANGE, 1_000_000, 100_000).unwrap();
    expected[1_000_000..].fill(0);
    expected.resize(1_100_000, 0);
    assert!(fs::read(mount.join("file")).unwrap() == expected);
    assert_eq!(data(&file)[0], (0, 25));
    drop(file);
    place.umount();
    place.mount();
    assert!(fs::read(mount.join("file")).unwrap() == expected);
    place.umount();
}

#[test]
fn blocks_are_those_that_the_disk_gave() {
    if !fuse_is_here("blocks_are_those_that_the_disk_gave") {
        return;
    }
    let place = Place::new();
    let mount = place.mount();
    let file = new_file(mount.join("file"));
    let blocks = || file.metadata().unwrap().blocks();
    assert_eq!(blocks(), 0);
    file.set_len(1 << 40).unwrap();
    assert!(
        blocks() <= 8,
        "a sparse file of a tebibyte holds no more than its header: {}",
        blocks()
    );
    fallocate(&file, FallocateFlags::KEEP_SIZE, 0, 4 << 20).unwrap();
    assert!(blocks() >= 8192, "{}", blocks());
    file.set_len(0).unwrap();
    assert_eq!(blocks(), 0);
    place.umount_after(file);
}

#[test]
fn sizes_reach_terabytes_and_not_beyond_the_disk() {
    if !fuse_is_here("sizes_reach_terabytes_and_not_beyond_the_disk") {
        return;
    }
    let place = Place::new();
    let mount = place.mount();
    let file = new_file(mount.join("file"));
    for size in [1 << 31, 1 << 32, 1 << 43] {
        file.write_all_at(b"end", size).unwrap();
        assert_eq!(file.metadata().unwrap().len(), size + 3);
    }
    let mut end = [0; 3];
    file.sync_all().unwrap();
    file.read_exact_at(&mut end, 1 << 32).unwrap();
    assert_eq!(&end, b"end");
    assert_eq!(errno(file.set_len((1 << 63) - 1)), libc::EFBIG);
    assert_eq!(file.metadata().unwrap().len(), (1 << 43) + 3);
    place.umount_after(file);
}

#[test]
fn direct_io_is_accepted_and_sees_what_others_write() {
    if !fuse_is_here("direct_io_is_accepted_and_sees_what_others_write") {
        return;
    }
    let place = Place::new();
    let path = place.mount().join("file");
    let direct = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .custom_flags(libc::O_DIRECT)
        .open(&path)
        .unwrap();
    let buffered = File::options().read(true).write(true).open(&path).unwrap();
    let mut page = [0; 8192];
    for round in 1..=5u8 {
        direct.write_all_at(&[round; 8192], 0).unwrap();
        buffered.read_exact_at(&mut page, 0).unwrap();
        assert_eq!(page, [round; 8192]);
        buffered.write_all_at(&[round + 100; 4096], 4096).unwrap();
        direct.read_exact_at(&mut page, 0).unwrap();
        assert_eq!((page[0], page[5000]), (round, round + 100));
        // What ext4 refuses: a length that is no multiple of a sector.
        direct.write_all_at(&[round; 100], 8192).unwrap();
    }
    assert_eq!(direct.metadata().unwrap().len(), 8292);
    drop(direct);
    place.umount_after(buffered);
}

#[test]
fn copies_within_and_from_outside_are_exact() {
    if !fuse_is_here("copies_within_and_from_outside_are_exact") {
        return;
    }
    let place = Place::new();
    let mount = place.mount();
    let bytes: Vec<u8> = (0..1_000_000u32).map(|at| at.to_le_bytes()[1]).collect();
    let file = new_file(mount.join("file"));
    file.write_all_at(&bytes, 0).unwrap();
    // std::fs::copy and io::copy use copy_file_range and sendfile.
    fs::copy(mount.join("file"), mount.join("inside")).unwrap();
    fs::copy(mount.join("file"), place.root().join("outside")).unwrap();
    fs::copy(place.root().join("outside"), mount.join("back")).unwrap();
    for path in [mount.join("inside"), place.root().join("outside"), mount.join("back")] {
        assert!(fs::read(&path).unwrap() == bytes, "{}", path.display());
    }
    // Within one file, and refused where the ranges overlap.
    let (mut from, mut to) = (0, 2_000_000);
    let copied = rustix::fs::copy_file_range(&file, Some(&mut from), &file, Some(&mut to), 5000);
    assert_eq!(copied, Ok(5000));
    let (mut from, mut to) = (0, 100);
    let copied = rustix::fs::copy_file_range(&file, Some(&mut from), &file, Some(&mut to), 5000);
    assert_eq!(copied, Err(Errno::INVAL));
    place.umount_after(file);
}

#[test]
fn mappings_are_coherent_with_reads_and_writes() {
    if !fuse_is_here("mappings_are_coherent_with_reads_and_writes") {
        return;
    }
    let place = Place::new();
    let path = place.mount().join("file");
    let script = "
import mmap, os, sys
f = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
os.write(f, b'a' * 10000)
shared = mmap.mmap(f, 10000)
private = mmap.mmap(f, 10000, mmap.MAP_PRIVATE)
shared[0:3] = b'XYZ'
assert os.pread(f, 4, 0) == b'XYZa'
private[5:8] = b'PPP'
assert os.pread(f, 10, 0) == b'XYZaaaaaaa'
os.pwrite(f, b'WW', 9998)
assert shared[9996:] == b'aaWW'
os.ftruncate(f, 20000)
shared.resize(20000)
assert shared[19999] == 0
shared[19999] = 7
assert os.pread(f, 1, 19999) == b'\\x07'
os.close(f)
os.unlink(sys.argv[1])
shared[1] = 66
shared.flush()
assert shared[:3] == b'XBZ'
";
    let status = Command::new("python3").args(["-c", script]).arg(&path).status().unwrap();
    assert!(status.success());
    place.umount();
}

#[test]
fn a_descriptor_keeps_what_it_was_opened_for() {
    if !fuse_is_here("a_descriptor_keeps_what_it_was_opened_for") {
        return;
    }
    let place = Place::new();
    let mount = place.mount();
    let path = mount.join("file");
    // Created so that nobody may open it; whoever created it may write.
    let mut file =
        File::options().read(true).write(true).create_new(true).mode(0o000).open(&path).unwrap();
    file.write_all(b"data").unwrap();
    file.sync_all().unwrap();
    support::posix::chmod(&path, 0o600);
    let reader = File::open(&path).unwrap();
    support::posix::chmod(&path, 0);
    let mut content = [0; 4];
    reader.read_exact_at(&mut content, 0).unwrap();
    assert_eq!(&content, b"data");
    assert_eq!(errno((&reader).write(b"x")), libc::EBADF);
    assert_eq!(errno(reader.set_len(0)), libc::EINVAL);
    file.write_all(b"more").unwrap();
    drop(reader);
    place.umount_after(file);
}

#[test]
fn record_locks_of_open_files_and_flocks_exclude_each_other() {
    if !fuse_is_here("record_locks_of_open_files_and_flocks_exclude_each_other") {
        return;
    }
    let place = Place::new();
    let path = place.mount().join("file");
    fs::write(&path, [0; 100]).unwrap();
    let open = || File::options().read(true).write(true).open(&path).unwrap();
    let (one, two) = (open(), open());
    let range = |kind: i32, start, len| libc::flock {
        l_type: i16::try_from(kind).unwrap(),
        l_whence: 0,
        l_start: start,
        l_len: len,
        l_pid: 0,
    };
    let lock = |file: &File, range: &libc::flock| fcntl(file, FcntlArg::F_OFD_SETLK(range));
    lock(&one, &range(libc::F_WRLCK, 0, 50)).unwrap();
    assert_eq!(lock(&two, &range(libc::F_RDLCK, 49, 1)), Err(nix::Error::EAGAIN));
    lock(&two, &range(libc::F_WRLCK, 50, 0)).unwrap();
    lock(&one, &range(libc::F_UNLCK, 10, 10)).unwrap();
    lock(&two, &range(libc::F_WRLCK, 10, 10)).unwrap();
    drop(one);
    lock(&two, &range(libc::F_WRLCK, 0, 0)).unwrap();

    let one = open();
    flock(&one, FlockOperation::LockShared).unwrap();
    flock(&two, FlockOperation::NonBlockingLockShared).unwrap();
    let exclusive = FlockOperation::NonBlockingLockExclusive;
    assert_eq!(flock(&two, exclusive), Err(Errno::WOULDBLOCK));
    drop(one);
    flock(&two, exclusive).unwrap();
    place.umount_after(two);
}

/// The daemon at the default limit of descriptors; the application has its own.
#[test]
fn a_thousand_open_files_do_not_exhaust_the_daemon() {
    if !fuse_is_here("a_thousand_open_files_do_not_exhaust_the_daemon") {
        return;
    }
    let place = Place::new();
    let mount_command = place.mount_command();
    let mut limited = Command::new("sh");
    limited.args(["-c", "ulimit -Sn 1024; ulimit -Hn 1024; exec \"$@\"", "sh"]);
    limited.arg(mount_command.get_program()).args(mount_command.get_args());
    limited.env_remove("CREDENTIALS_DIRECTORY");
    support::run(&mut limited).expect(0);
    let mount = &place.mount_point;
    // Files that are open, as many that are deleted too, and directories.
    let script = "
import os, resource, sys
limit = min(6000, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
os.chdir(sys.argv[1])
opened = []
for n in range(1500):
    f = os.open(f'f{n}', os.O_RDWR | os.O_CREAT)
    os.write(f, b'%d' % n * 1000)
    opened.append(f)
for n in range(0, 600):
    os.unlink(f'f{n}')
directories = []
for n in range(500):
    os.mkdir(f'd{n}')
    directories.append(os.open(f'd{n}', os.O_RDONLY))
    os.close(os.open(f'inside', os.O_CREAT | os.O_WRONLY, dir_fd=directories[-1]))
for n, f in enumerate(opened):
    os.pwrite(f, b'again', 0)
    os.fsync(f) if n % 100 == 0 else None
    assert os.pread(f, 10**5, 0) == b'again' + (b'%d' % n * 1000)[5:], n
for d in directories:
    assert os.listdir(d) == ['inside']
# Only root sees those of the daemon; the limit holds for both.
print('descriptors', len(os.listdir('/proc/%s/fd' % sys.argv[2])) if os.geteuid() == 0 else 0)
";
    let pid = place.pid();
    let output = Command::new("python3")
        .args(["-c", script])
        .arg(mount)
        .arg(pid.to_string())
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let held: usize = printed.trim().strip_prefix("descriptors ").unwrap().parse().unwrap();
    assert!(held < 1000, "{held}");
    assert_eq!(fs::read(mount.join("f1499")).unwrap().len(), 4000);
    place.umount();
}

#[test]
fn a_path_through_proc_opens_the_same_file() {
    if !fuse_is_here("a_path_through_proc_opens_the_same_file") {
        return;
    }
    let place = Place::new();
    let file = new_file(place.mount().join("file"));
    let through = |descriptor: RawFd| format!("/proc/self/fd/{descriptor}");
    let again = File::options().append(true).open(through(file.as_raw_fd())).unwrap();
    (&again).write_all(b"appended").unwrap();
    assert_eq!(file.metadata().unwrap().len(), 8);
    assert_eq!(file.metadata().unwrap().ino(), again.metadata().unwrap().ino());
    drop(again);
    place.umount_after(file);
}

/// All of the above again, where the tests run as root.
#[test]
fn as_an_ordinary_user() {
    support::as_an_ordinary_user("as_an_ordinary_user");
}
