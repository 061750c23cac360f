//! The statements of docs/semantics.md about locks between processes.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use support::process::Process;
use support::{Place, fuse_is_here, wait_until};

/// `fcntl(2)` with locks of the process and of the open file, and `flock(2)`.
const KINDS: [&str; 3] = ["fcntl", "ofd", "flock"];

/// A mounted vault with a file in it; `None` where there is no FUSE.
fn file_on_a_mount(test: &str) -> Option<(Place, PathBuf)> {
    if !fuse_is_here(test) {
        return None;
    }
    let place = Place::new();
    let path = place.mount().join("file");
    fs::write(&path, [b'0'; 20]).unwrap();
    Some((place, path))
}

/// A process that has the file open.
fn user(path: &Path) -> Process {
    let mut process = Process::new(path);
    process.does("use('file')");
    process
}

/// Waits until the kernel has somebody waiting for a lock on the file.
fn wait_for_a_waiter(path: &Path) {
    let metadata = fs::metadata(path).unwrap();
    let (major, minor) = (rustix::fs::major(metadata.dev()), rustix::fs::minor(metadata.dev()));
    let file = format!(" {major:02x}:{minor:02x}:{} ", metadata.ino());
    wait_until("a process to wait for a lock", || {
        let locks = fs::read_to_string("/proc/locks").unwrap();
        locks.lines().any(|line| line.contains("->") && line.contains(&file))
    });
}

#[test]
fn records_locked_by_one_process_are_refused_to_others() {
    let test = "records_locked_by_one_process_are_refused_to_others";
    let Some((place, path)) = file_on_a_mount(test) else { return };
    let (mut one, mut two) = (user(&path), user(&path));
    for kind in ["fcntl", "ofd"] {
        one.does(&format!("lock('file', '{kind}', WRITE, 100, 50)"));
        one.does(&format!("lock('file', '{kind}', READ, 200, 50)"));
        for other in ["fcntl", "ofd"] {
            let mut try_lock = |how: &str, start: u64, len: u64| {
                let outcome = two.ask(&format!("lock('file', '{other}', {how}, {start}, {len})"));
                two.does(&format!("lock('file', '{other}', NONE)"));
                outcome
            };
            for (how, start, len, expected) in [
                ("READ", 0, 100, "None"),
                ("READ", 0, 101, "EAGAIN"),
                ("WRITE", 149, 1, "EAGAIN"),
                ("WRITE", 150, 50, "None"),
                ("READ", 200, 0, "None"),
                ("WRITE", 249, 1, "EAGAIN"),
                ("WRITE", 250, 0, "None"),
                ("WRITE", 0, 0, "EAGAIN"),
            ] {
                let outcome = try_lock(how, start, len);
                assert_eq!(outcome, expected, "{kind}, {other} {how} {start} {len}");
            }
        }
        // Who is asked tells who holds it: a process by its number, an open file by -1.
        let holder = if kind == "fcntl" { i64::from(one.pid()) } else { -1 };
        let told = two.ask("lock('file', 'fcntl', WRITE, 120, 1, TELL)");
        assert_eq!(told, format!("(1, 0, 100, 50, {holder})"));
        // A part of it can be given back.
        one.does(&format!("lock('file', '{kind}', NONE, 110, 10)"));
        two.does("lock('file', 'fcntl', WRITE, 110, 10)");
        two.does("lock('file', 'fcntl', NONE)");
        one.does(&format!("lock('file', '{kind}', NONE)"));
    }
    drop((one, two));
    place.umount();
}

#[test]
fn a_flock_excludes_other_processes() {
    let Some((place, path)) = file_on_a_mount("a_flock_excludes_other_processes") else { return };
    let (mut one, mut two) = (user(&path), user(&path));
    one.does("lock('file', 'flock', READ)");
    two.does("lock('file', 'flock', READ)");
    assert_eq!(two.ask("lock('file', 'flock', WRITE)"), "EAGAIN");
    one.does("lock('file', 'flock', NONE)");
    two.does("lock('file', 'flock', WRITE)");
    assert_eq!(one.ask("lock('file', 'flock', READ)"), "EAGAIN");
    // The two families of locks know nothing of each other.
    one.does("lock('file', 'fcntl', WRITE)");
    // Directories can be locked so, too.
    for process in [&mut one, &mut two] {
        process.does("use('directory', os.O_RDONLY, os.path.dirname(path))");
    }
    one.does("lock('directory', 'flock', WRITE)");
    assert_eq!(two.ask("lock('directory', 'flock', READ)"), "EAGAIN");
    drop((one, two));
    place.umount();
}

#[test]
fn locks_end_with_the_process_that_held_them() {
    let test = "locks_end_with_the_process_that_held_them";
    let Some((place, path)) = file_on_a_mount(test) else { return };
    let mut other = user(&path);
    for kind in KINDS {
        for end in [Process::exit, Process::kill] {
            let mut holder = user(&path);
            holder.does(&format!("lock('file', '{kind}', WRITE)"));
            assert_eq!(other.ask(&format!("lock('file', '{kind}', READ)")), "EAGAIN");
            end(holder);
            other.does(&format!("lock('file', '{kind}', WRITE)"));
            other.does(&format!("lock('file', '{kind}', NONE)"));
        }
    }
    drop(other);
    place.umount();
}

#[test]
fn who_waits_for_a_lock_gets_it_when_it_is_free() {
    let test = "who_waits_for_a_lock_gets_it_when_it_is_free";
    let Some((place, path)) = file_on_a_mount(test) else { return };
    for kind in KINDS {
        let wait = format!("lock('file', '{kind}', WRITE, then=WAIT)");
        // Given back by its holder, by its end and by its death.
        let ends: [fn(Process); 3] = [
            |mut holder| {
                for kind in KINDS {
                    holder.does(&format!("lock('file', '{kind}', NONE)"));
                }
                holder.exit();
            },
            Process::exit,
            Process::kill,
        ];
        for end in ends {
            let (mut holder, mut waiting) = (user(&path), user(&path));
            holder.does(&format!("lock('file', '{kind}', WRITE)"));
            waiting.begin(&wait);
            wait_for_a_waiter(&path);
            end(holder);
            assert_eq!(waiting.outcome(), "None");
        }
        // Who is killed while it waits leaves nothing behind.
        let (mut holder, mut waiting) = (user(&path), user(&path));
        holder.does(&format!("lock('file', '{kind}', WRITE)"));
        waiting.begin(&wait);
        wait_for_a_waiter(&path);
        waiting.kill();
        holder.exit();
        user(&path).does(&format!("lock('file', '{kind}', WRITE)"));
    }
    place.umount();
}

#[test]
fn two_that_would_wait_for_each_other_are_told() {
    let test = "two_that_would_wait_for_each_other_are_told";
    let Some((place, path)) = file_on_a_mount(test) else { return };
    let (mut one, mut two) = (user(&path), user(&path));
    one.does("lock('file', 'fcntl', WRITE, 0, 1)");
    two.does("lock('file', 'fcntl', WRITE, 1, 1)");
    one.begin("lock('file', 'fcntl', WRITE, 1, 1, WAIT)");
    wait_for_a_waiter(&path);
    // Another name of EDEADLK.
    assert_eq!(two.ask("lock('file', 'fcntl', WRITE, 0, 1, WAIT)"), "EDEADLOCK");
    two.does("lock('file', 'fcntl', NONE)");
    assert_eq!(one.outcome(), "None");
    drop((one, two));
    place.umount();
}

#[test]
fn a_lock_belongs_to_its_process_or_to_its_open_file() {
    let test = "a_lock_belongs_to_its_process_or_to_its_open_file";
    let Some((place, path)) = file_on_a_mount(test) else { return };
    let mut other = user(&path);
    for kind in KINDS {
        let mut holder = user(&path);
        holder.does("use('again')");
        holder.does(&format!("lock('file', '{kind}', WRITE)"));
        // Locks of a process don't exclude itself; those of an open file exclude its others.
        let again = holder.ask(&format!("lock('again', '{kind}', WRITE)"));
        assert_eq!(again, if kind == "fcntl" { "None" } else { "EAGAIN" });
        // Locks of a process go when it closes the file anywhere (fcntl(2)), others do not.
        holder.does("os.close(opened['again'])");
        let taken = other.ask(&format!("lock('file', '{kind}', WRITE)"));
        assert_eq!(taken, if kind == "fcntl" { "None" } else { "EAGAIN" });
        other.does(&format!("lock('file', '{kind}', NONE)"));
        // Those of an open file last until its last descriptor is closed, in whatever process.
        holder.does(&format!("lock('file', '{kind}', WRITE)"));
        holder.does("opened.update(other=os.dup(opened['file']))");
        holder.does("os.close(opened['file'])");
        let taken = other.ask(&format!("lock('file', '{kind}', WRITE)"));
        assert_eq!(taken, if kind == "fcntl" { "None" } else { "EAGAIN" });
        holder.does("os.close(opened['other'])");
        other.does(&format!("lock('file', '{kind}', WRITE)"));
        other.does(&format!("lock('file', '{kind}', NONE)"));
    }
    drop(other);
    place.umount();
}

#[test]
fn a_lock_is_on_the_file_whatever_its_names() {
    let test = "a_lock_is_on_the_file_whatever_its_names";
    let Some((place, path)) = file_on_a_mount(test) else { return };
    let mount = &place.mount_point;
    for kind in KINDS {
        let mut holder = user(&path);
        holder.does(&format!("lock('file', '{kind}', WRITE)"));
        fs::hard_link(&path, mount.join("link")).unwrap();
        let refused = |path: PathBuf| {
            assert_eq!(user(&path).ask(&format!("lock('file', '{kind}', WRITE)")), "EAGAIN");
        };
        refused(mount.join("link"));
        fs::rename(&path, mount.join("moved")).unwrap();
        refused(mount.join("moved"));
        fs::remove_file(mount.join("moved")).unwrap();
        refused(mount.join("link"));
        // A new file of that name is another.
        fs::write(&path, [b'0'; 20]).unwrap();
        user(&path).does(&format!("lock('file', '{kind}', WRITE)"));
        fs::remove_file(mount.join("link")).unwrap();
    }
    place.umount();
}

#[test]
fn a_lock_needs_a_descriptor_that_may_do_what_it_guards() {
    let test = "a_lock_needs_a_descriptor_that_may_do_what_it_guards";
    let Some((place, path)) = file_on_a_mount(test) else { return };
    let mut process = Process::new(&path);
    process.does("use('reader', os.O_RDONLY)");
    process.does("use('writer', os.O_WRONLY)");
    for kind in ["fcntl", "ofd"] {
        assert_eq!(process.ask(&format!("lock('reader', '{kind}', WRITE)")), "EBADF");
        assert_eq!(process.ask(&format!("lock('writer', '{kind}', READ)")), "EBADF");
        process.does(&format!("lock('reader', '{kind}', READ, 0, 5)"));
        process.does(&format!("lock('reader', '{kind}', NONE)"));
        process.does(&format!("lock('writer', '{kind}', WRITE, 0, 5)"));
        process.does(&format!("lock('writer', '{kind}', NONE)"));
    }
    process.does("lock('reader', 'flock', WRITE)");
    drop(process);
    place.umount();
}

/// What several processes count under a lock comes out exact; without it, some are lost.
#[test]
fn a_counter_under_a_lock_comes_out_exact() {
    const PROCESSES: usize = 6;
    const TIMES: usize = 300;
    let test = "a_counter_under_a_lock_comes_out_exact";
    let Some((place, path)) = file_on_a_mount(test) else { return };
    for kind in KINDS {
        fs::write(&path, [b'0'; 20]).unwrap();
        let mut processes: Vec<Process> = (0..PROCESSES).map(|_| user(&path)).collect();
        for process in &mut processes {
            process.begin(&format!("count('{kind}', {TIMES})"));
        }
        for process in &mut processes {
            assert_eq!(process.outcome(), "None");
        }
        let counted: usize = fs::read_to_string(&path).unwrap().parse().unwrap();
        assert_eq!(counted, PROCESSES * TIMES, "{kind}");
    }
    place.umount();
}

/// All of the above again, where the tests run as root.
#[test]
fn as_an_ordinary_user() {
    support::as_an_ordinary_user("as_an_ordinary_user");
}
