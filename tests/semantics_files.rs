//! The statements of docs/semantics.md about what the kernel and other programs do with files:
//! special files, programs, watchers, several at once, what is refused.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::unix::fs::{FileExt as _, FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::fs::{AtFlags, CWD, FileType, Mode, StatxFlags, makedev, mknodat, statx};
use support::posix::{ALICE, chmod, errno, new_file, root_is_here, shared_place};
use support::process::Process;
use support::{Place, fuse_is_here};

#[test]
fn sockets_and_fifos_connect_processes() {
    if !fuse_is_here("sockets_and_fifos_connect_processes") {
        return;
    }
    let place = Place::new();
    let mount = place.mount();
    // A path to a socket has 108 bytes at most, so it is bound by a short one.
    let _ = std::os::unix::fs::symlink(mount, place.root().join("m"));
    let path = place.root().join("m/socket");
    let listener = UnixListener::bind(&path).unwrap();
    assert!(fs::metadata(&path).unwrap().file_type().is_socket());
    let mut client = UnixStream::connect(&path).unwrap();
    let (mut server, _) = listener.accept().unwrap();
    client.write_all(b"hello").unwrap();
    drop(client);
    let mut heard = String::new();
    server.read_to_string(&mut heard).unwrap();
    assert_eq!(heard, "hello");
    drop((listener, server));
    assert_eq!(errno(UnixStream::connect(&path)), libc::ECONNREFUSED);
    fs::remove_file(&path).unwrap();

    let fifo = mount.join("fifo");
    mknodat(CWD, &fifo, FileType::Fifo, Mode::RWXU, 0).unwrap();
    let writer = {
        let fifo = fifo.clone();
        thread::spawn(move || fs::write(fifo, "through").unwrap())
    };
    assert_eq!(fs::read_to_string(&fifo).unwrap(), "through");
    writer.join().unwrap();
    place.umount();
}

#[test]
fn device_files_keep_their_numbers_and_open_only_where_asked() {
    let test = "device_files_keep_their_numbers_and_open_only_where_asked";
    if !root_is_here(test) || !fuse_is_here(test) {
        return;
    }
    let place = Place::new();
    let mount = place.mount();
    let (null, block) = (mount.join("null"), mount.join("block"));
    mknodat(CWD, &null, FileType::CharacterDevice, Mode::RWXU, makedev(1, 3)).unwrap();
    mknodat(CWD, &block, FileType::BlockDevice, Mode::RWXU, makedev(4000, 70_000)).unwrap();
    assert_eq!(errno(File::open(&null)), libc::EACCES, "nodev is the default");
    place.umount();
    place.mount_with(&["-o", "dev"]);
    assert_eq!(fs::metadata(&null).unwrap().rdev(), makedev(1, 3));
    assert_eq!(fs::metadata(&block).unwrap().rdev(), makedev(4000, 70_000));
    assert_eq!(fs::read(&null).unwrap(), b"");
    place.umount();
}

#[test]
fn set_user_id_programs_run_as_their_owner_only_where_asked() {
    let test = "set_user_id_programs_run_as_their_owner_only_where_asked";
    let Some(place) = shared_place(test) else { return };
    let mount = &place.mount_point;
    let program = mount.join("program");
    fs::copy("/usr/bin/id", &program).unwrap();
    chmod(&program, 0o4755);
    ALICE.does(mount, "test $(./program -u) = 12001");
    place.umount();
    place.mount_with(&["--allow-other", "-o", "suid"]);
    ALICE.does(mount, "test $(./program -u) = 0");
    place.umount();
}

#[test]
fn a_running_program_cannot_be_written_to() {
    if !fuse_is_here("a_running_program_cannot_be_written_to") {
        return;
    }
    let place = Place::new();
    let program = place.mount().join("program");
    fs::copy("/bin/cat", &program).unwrap();
    let mut running =
        Command::new(&program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    // It runs once it answers.
    running.stdin.as_mut().unwrap().write_all(b"x").unwrap();
    running.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    assert_eq!(errno(File::options().write(true).open(&program)), libc::ETXTBSY);
    // It can be replaced, as package managers do.
    fs::copy("/bin/cat", place.mount_point.join("new")).unwrap();
    fs::rename(place.mount_point.join("new"), &program).unwrap();
    running.stdin.as_mut().unwrap().write_all(b"y").unwrap();
    running.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    drop(running.stdin.take());
    assert!(running.wait().unwrap().success());
    File::options().write(true).open(&program).unwrap();
    place.umount();
}

#[test]
fn watchers_are_told_of_changes() {
    if !fuse_is_here("watchers_are_told_of_changes") {
        return;
    }
    let place = Place::new();
    let mount = place.mount();
    let watcher = inotify::init(CreateFlags::NONBLOCK).unwrap();
    let wanted = WatchFlags::CREATE
        | WatchFlags::CLOSE_WRITE
        | WatchFlags::MOVED_TO
        | WatchFlags::DELETE
        | WatchFlags::ATTRIB;
    inotify::add_watch(&watcher, mount, wanted).unwrap();
    fs::write(mount.join("file"), "content").unwrap();
    chmod(mount.join("file"), 0o600);
    fs::rename(mount.join("file"), mount.join("moved")).unwrap();
    fs::remove_file(mount.join("moved")).unwrap();
    let mut told = BTreeSet::new();
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut reader = inotify::Reader::new(&watcher, &mut buffer);
    while let Ok(event) = reader.next() {
        let name = event.file_name().unwrap().to_str().unwrap().to_owned();
        told.insert((event.events().bits(), name));
    }
    for (event, name) in [
        (ReadFlags::CREATE, "file"),
        (ReadFlags::CLOSE_WRITE, "file"),
        (ReadFlags::ATTRIB, "file"),
        (ReadFlags::MOVED_TO, "moved"),
        (ReadFlags::DELETE, "moved"),
    ] {
        assert!(told.contains(&(event.bits(), name.to_owned())), "{event:?} {name}: {told:?}");
    }
    drop(watcher);
    place.umount();
}

#[test]
fn of_several_that_create_a_file_one_does() {
    if !fuse_is_here("of_several_that_create_a_file_one_does") {
        return;
    }
    let place = Place::new();
    let mount = place.mount();
    let mut processes: Vec<Process> = (0..4).map(|_| Process::new(mount)).collect();
    for process in &mut processes {
        process.begin("create_each(200)");
    }
    let created: usize = processes.iter_mut().map(|p| p.outcome().parse::<usize>().unwrap()).sum();
    assert_eq!(created, 200);
    drop(processes);
    place.umount();
}

/// What applications replace a file by: write another, rename it over.
#[test]
fn who_reads_while_a_file_is_replaced_sees_the_old_or_the_new_one() {
    let test = "who_reads_while_a_file_is_replaced_sees_the_old_or_the_new_one";
    if !fuse_is_here(test) {
        return;
    }
    let place = Place::new();
    let mount = place.mount();
    let path = mount.join("file");
    fs::write(&path, vec![0; 10_000]).unwrap();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let content = fs::read(&path).unwrap();
                    assert_eq!(content.len(), 10_000);
                    assert!(content.iter().all(|byte| *byte == content[0]));
                }
            });
        }
        scope.spawn(|| {
            for round in 0..300u32 {
                let new = mount.join(format!("new-{round}"));
                fs::write(&new, vec![u8::try_from(round % 251).unwrap(); 10_000]).unwrap();
                fs::rename(&new, &path).unwrap();
            }
            done.store(true, Ordering::Relaxed);
        });
    });
    assert_eq!(fs::read_dir(mount).unwrap().count(), 1);
    place.umount();
}

/// The same with 100,000 entries: `integration/posix/scale`.
#[test]
fn a_large_tree_is_removed_in_one_go() {
    if !fuse_is_here("a_large_tree_is_removed_in_one_go") {
        return;
    }
    const ENTRIES: usize = 4000;
    let place = Place::new();
    let mount = place.mount();
    let tree = mount.join("tree");
    for directory in ["", "a", "a/b"] {
        fs::create_dir_all(tree.join(directory)).unwrap();
    }
    for number in 0..ENTRIES {
        let directory = ["", "a", "a/b"][number % 3];
        // Some of the names are long ones.
        let name = if number % 10 == 0 { format!("{number:0>250}") } else { number.to_string() };
        File::create(tree.join(directory).join(name)).unwrap();
    }
    let removed = Command::new("rm").arg("-rf").arg(&tree).status().unwrap();
    assert!(removed.success());
    assert!(!tree.exists());
    // Nothing is left of it in the vault.
    place.umount();
    let ran = support::run(place.command("fsck").arg("--json"));
    assert_eq!(ran.code, Some(0), "{}{}", ran.stdout, ran.stderr);
    let left = walk(&place.vault);
    assert!(left < 100, "{left} entries are left below");
}

fn walk(path: &std::path::Path) -> usize {
    walkdir::WalkDir::new(path).into_iter().map(Result::unwrap).count()
}

#[test]
fn no_time_of_birth_is_told() {
    if !fuse_is_here("no_time_of_birth_is_told") {
        return;
    }
    let place = Place::new();
    let path = place.mount().join("file");
    fs::write(&path, [1; 5000]).unwrap();
    let wanted = StatxFlags::ALL | StatxFlags::BTIME;
    let told = statx(CWD, &path, AtFlags::empty(), wanted).unwrap();
    let mask = StatxFlags::from_bits_retain(told.stx_mask);
    assert!(mask.contains(StatxFlags::BASIC_STATS));
    assert!(!mask.contains(StatxFlags::BTIME));
    let metadata = fs::metadata(&path).unwrap();
    assert_eq!((told.stx_size, told.stx_ino), (5000, metadata.ino()));
    assert_eq!((told.stx_mtime.tv_sec, told.stx_blocks), (metadata.mtime(), metadata.blocks()));
    place.umount();
}

/// What is asked of a filesystem by ioctl(2) and its kin is refused, in the way in which whoever
/// asks understands that it is not there.
#[test]
fn what_only_the_filesystem_below_could_do_is_refused() {
    if !fuse_is_here("what_only_the_filesystem_below_could_do_is_refused") {
        return;
    }
    let place = Place::new();
    let mount = place.mount();
    let file = new_file(mount.join("file"));
    file.write_all_at(b"content", 0).unwrap();
    let mut process = Process::new(&mount.join("file"));
    process.does("use('file')");
    process.does("use('other', os.O_RDWR | os.O_CREAT, path + '-other')");
    for (request, number, expected) in [
        ("FS_IOC_GETFLAGS", 0x8008_6601_u32, "ENOTTY"),
        ("FS_IOC_SETFLAGS", 0x4008_6602, "ENOTTY"),
        ("FS_IOC_FSGETXATTR", 0x801c_581f, "ENOTTY"),
        ("FS_IOC_FIEMAP", 0xc020_660b, "EOPNOTSUPP"),
        ("FITRIM", 0xc018_5879, "ENOTTY"),
        ("TCGETS", 0x5401, "ENOTTY"),
        ("BLKGETSIZE64", 0x8008_1272, "ENOTTY"),
    ] {
        let asked = process.ask(&format!("fcntl.ioctl(opened['file'], {number}, bytes(64))"));
        // Another name of EOPNOTSUPP.
        assert_eq!(asked.replace("ENOTSUP", "EOPNOTSUPP"), expected, "{request}");
    }
    let clone = process.ask("fcntl.ioctl(opened['other'], 0x40049409, opened['file'])");
    assert!(["EOPNOTSUPP", "ENOTSUP"].contains(&&clone[..]), "FICLONE: {clone}");
    // How many bytes can be read is the kernel's own to tell.
    let left = process.ask("struct.unpack('i', fcntl.ioctl(opened['file'], 0x541b, bytes(4)))[0]");
    assert_eq!(left, "7");
    // cp asks for a clone first, and copies then.
    let copied = Command::new("cp")
        .arg("--reflink=auto")
        .args([mount.join("file"), mount.join("copy")])
        .status()
        .unwrap();
    assert!(copied.success());
    assert_eq!(fs::read(mount.join("copy")).unwrap(), b"content");
    drop((file, process));
    place.umount();
}

#[test]
fn what_was_cut_off_reads_as_zeros_when_the_file_grows_again() {
    let test = "what_was_cut_off_reads_as_zeros_when_the_file_grows_again";
    if !fuse_is_here(test) {
        return;
    }
    let place = Place::new();
    let path = place.mount().join("file");
    let file = new_file(&path);
    let mut expected = Vec::new();
    for (cut, grown) in [(5000, 30_000), (4096, 20_000), (1, 8192), (0, 100)] {
        file.write_all_at(&[7; 40_000], 0).unwrap();
        file.sync_all().unwrap();
        file.set_len(cut).unwrap();
        file.set_len(grown).unwrap();
        expected = vec![7; usize::try_from(cut).unwrap()];
        expected.resize(usize::try_from(grown).unwrap(), 0);
        assert!(fs::read(&path).unwrap() == expected, "cut at {cut}");
    }
    drop(file);
    place.umount();
    place.mount();
    assert!(fs::read(&path).unwrap() == expected);
    place.umount();
}

#[test]
fn what_is_appended_goes_to_the_end_wherever_it_was_meant_to() {
    let test = "what_is_appended_goes_to_the_end_wherever_it_was_meant_to";
    if !fuse_is_here(test) {
        return;
    }
    let place = Place::new();
    let path = place.mount().join("file");
    fs::write(&path, "begin").unwrap();
    let append = File::options().append(true).open(&path).unwrap();
    let other = File::options().write(true).open(&path).unwrap();
    // As Linux has it (pwrite(2), bugs).
    append.write_all_at(b"-one", 0).unwrap();
    other.write_all_at(b"-two", 9).unwrap();
    append.write_all_at(b"-three", 2).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "begin-one-two-three");
    other.set_len(5).unwrap();
    (&append).write_all(b"!").unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "begin!");
    drop(append);
    place.umount_after(other);
}

#[test]
fn opening_honours_its_flags() {
    if !fuse_is_here("opening_honours_its_flags") {
        return;
    }
    let place = Place::new();
    let mount = place.mount();
    let path = mount.join("file");
    fs::write(&path, "content").unwrap();
    std::os::unix::fs::symlink("file", mount.join("link")).unwrap();
    std::os::unix::fs::symlink("loop", mount.join("loop")).unwrap();
    let with = |name: &str, flags: i32| {
        errno(File::options().read(true).custom_flags(flags).open(mount.join(name)))
    };
    let new =
        |name: &str| errno(File::options().write(true).create_new(true).open(mount.join(name)));
    assert_eq!(new("file"), libc::EEXIST);
    assert_eq!(new("link"), libc::EEXIST);
    assert_eq!(with("link", libc::O_NOFOLLOW), libc::ELOOP);
    assert_eq!(with("loop", 0), libc::ELOOP);
    assert_eq!(with("file", libc::O_DIRECTORY), libc::ENOTDIR);
    assert_eq!(with("file/below", 0), libc::ENOTDIR);
    assert_eq!(with("missing", 0), libc::ENOENT);
    assert_eq!(errno(File::options().write(true).open(mount)), libc::EISDIR);
    assert_eq!(fs::read_to_string(mount.join("link")).unwrap(), "content");
    drop(File::options().write(true).truncate(true).open(mount.join("link")).unwrap());
    assert_eq!(fs::metadata(&path).unwrap().len(), 0);
    place.umount();
}

/// Each file has a number of its own that stays as long as the mount.
#[test]
fn numbers_of_files_are_stable_and_their_own() {
    if !fuse_is_here("numbers_of_files_are_stable_and_their_own") {
        return;
    }
    let place = Place::new();
    let mount = place.mount();
    let mut numbers = BTreeSet::new();
    for number in 0..500 {
        let path = mount.join(number.to_string());
        File::create(&path).unwrap();
        numbers.insert(fs::metadata(&path).unwrap().ino());
    }
    assert_eq!(numbers.len(), 500);
    let listed: BTreeSet<u64> = fs::read_dir(mount)
        .unwrap()
        .map(|entry| std::os::unix::fs::DirEntryExt::ino(&entry.unwrap()))
        .collect();
    assert_eq!(listed, numbers, "readdir(3) tells the same");
    let (path, moved) = (mount.join("7"), mount.join("moved"));
    let before = fs::metadata(&path).unwrap().ino();
    fs::rename(&path, &moved).unwrap();
    fs::write(&moved, "changed").unwrap();
    assert_eq!(fs::metadata(&moved).unwrap().ino(), before);
    place.umount();
}

/// All of the above again, where the tests run as root.
#[test]
fn as_an_ordinary_user() {
    support::as_an_ordinary_user("as_an_ordinary_user");
}
