//! The life of a mount, made by the program and used through the kernel: mounting, unmounting,
//! signals, death, and what each refuses.

#![allow(clippy::unwrap_used)]
#![allow(clippy::print_stderr, reason = "a test that is not run says so")]

mod support;

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use support::{PATIENCE, Place, fuse_is_here, kill, run, strongroom, wait_until};

/// All the bytes below a directory: content, names, symlinks.
fn everything(directory: &Path) -> Vec<u8> {
    let mut all = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        all.extend_from_slice(path.file_name().unwrap().as_encoded_bytes());
        all.push(b'\n');
        let kind = fs::symlink_metadata(&path).unwrap().file_type();
        if kind.is_dir() {
            all.extend(everything(&path));
        } else if kind.is_symlink() {
            all.extend_from_slice(fs::read_link(&path).unwrap().as_os_str().as_encoded_bytes());
        } else {
            File::open(&path).unwrap().read_to_end(&mut all).unwrap();
        }
    }
    all
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

#[test]
fn content_survives_and_is_nowhere_in_plain() {
    if !fuse_is_here("content_survives_and_is_nowhere_in_plain") {
        return;
    }
    let place = Place::new();
    let mount = place.mount();
    fs::create_dir(mount.join("diary-directory")).unwrap();
    fs::write(mount.join("diary-directory/secret-name"), "plain-content ".repeat(1000)).unwrap();
    std::os::unix::fs::symlink("link-target", mount.join("link-name")).unwrap();
    place.umount();
    assert!(!place.is_mounted());
    assert_eq!(fs::read_dir(mount).unwrap().count(), 0, "the bare mount point is empty");
    let stored = everything(&place.vault);
    for plain in ["diary-directory", "secret-name", "plain-content", "link-target", "link-name"] {
        assert!(!contains(&stored, plain.as_bytes()), "{plain} lies in the vault");
    }
    place.mount();
    let content = fs::read_to_string(mount.join("diary-directory/secret-name")).unwrap();
    assert_eq!(content, "plain-content ".repeat(1000));
    assert_eq!(fs::read_link(mount.join("link-name")).unwrap(), Path::new("link-target"));
    place.umount();
}

#[test]
fn secrets_are_not_among_the_arguments_or_in_the_environment() {
    if !fuse_is_here("secrets_are_not_among_the_arguments_or_in_the_environment") {
        return;
    }
    let place = Place::new();
    place.mount();
    let pid = place.pid();
    let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap();
    assert!(!contains(&arguments, b"correct horse"));
    let environment = fs::read(format!("/proc/{pid}/environ"));
    if !rustix::process::geteuid().is_root() {
        // The rest nobody but root may see.
        assert_eq!(environment.unwrap_err().kind(), std::io::ErrorKind::PermissionDenied);
        assert!(fs::read_dir(format!("/proc/{pid}/fd")).is_err());
        assert!(fs::read(format!("/proc/{pid}/mem")).is_err());
        return place.umount();
    }
    assert!(!contains(&environment.unwrap(), b"correct horse"));
    // Nor does it keep what its caller had open, nor the caller's directory.
    assert_eq!(fs::read_link(format!("/proc/{pid}/cwd")).unwrap(), Path::new("/"));
    for descriptor in ["0", "1", "2"] {
        let target = fs::read_link(format!("/proc/{pid}/fd/{descriptor}")).unwrap();
        assert_eq!(target, Path::new("/dev/null"));
    }
    place.umount();
}

#[test]
fn the_daemon_keeps_no_descriptor_of_its_caller() {
    if !fuse_is_here("the_daemon_keeps_no_descriptor_of_its_caller") {
        return;
    }
    let place = Place::new();
    let held = place.root().join("held");
    let mut mount = place.mount_command();
    let program = mount.get_program().to_owned();
    let arguments: Vec<_> = mount.get_args().map(ToOwned::to_owned).collect();
    // The shell leaves descriptor 9 open to what it starts.
    mount = Command::new("sh");
    mount.args(["-c", "exec 9>\"$0\"; \"$@\""]).arg(&held).arg(program).args(arguments);
    run(&mut mount).expect(0);
    if !rustix::process::geteuid().is_root() {
        // Only root may look.
        return place.umount();
    }
    let pid = place.pid();
    let open: Vec<_> = fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .filter_map(|entry| fs::read_link(entry.unwrap().path()).ok())
        .collect();
    assert!(!open.contains(&held), "{open:?}");
    place.umount();
}

#[test]
fn a_second_mount_is_refused_and_told_who_holds_the_vault() {
    if !fuse_is_here("a_second_mount_is_refused_and_told_who_holds_the_vault") {
        return;
    }
    let place = Place::new();
    place.mount();
    let pid = place.pid();
    let other = place.root().join("other");
    fs::create_dir(&other).unwrap();
    let refused = run(place.command("mount").arg(&other).arg("--json")).expect(14);
    assert!(refused.stderr.contains(&format!("process {pid} on host")), "{}", refused.stderr);
    assert_eq!(refused.result()["error"], "vault-in-use");
    // On the same mount point it is the mount point that is taken.
    run(&mut place.mount_command()).expect(16);
    place.umount();
    run(place.command("mount").arg(&other)).expect(0);
    run(strongroom().arg("umount").arg(&other)).expect(0);
}

#[test]
fn a_busy_mount_names_who_uses_it_and_stays() {
    if !fuse_is_here("a_busy_mount_names_who_uses_it_and_stays") {
        return;
    }
    let place = Place::new();
    let mount = place.mount();
    fs::write(mount.join("file"), "content").unwrap();
    let mut user = Command::new("sleep")
        .arg("1000")
        .stdin(File::open(mount.join("file")).unwrap())
        .spawn()
        .unwrap();
    let busy = run(place.umount_command().args(["--wait", "0", "--json"])).expect(18);
    assert!(busy.stderr.contains(&format!("process {} (sleep): open file", user.id())));
    assert_eq!(busy.result()["holders"][0]["pid"], user.id());
    assert!(place.is_mounted());
    assert_eq!(fs::read_to_string(mount.join("file")).unwrap(), "content");
    user.kill().unwrap();
    user.wait().unwrap();
    place.umount();
}

#[test]
fn a_lazy_unmount_lets_who_uses_it_finish() {
    if !fuse_is_here("a_lazy_unmount_lets_who_uses_it_finish") {
        return;
    }
    let place = Place::new();
    let mount = place.mount();
    let mut file = File::create(mount.join("file")).unwrap();
    run(place.umount_command().arg("--lazy")).expect(0);
    assert!(!place.is_mounted());
    file.write_all(b"written late").unwrap();
    drop(file);
    // The vault is free when the last user is gone.
    wait_until("the vault to be free", || run(&mut place.mount_command()).code == Some(0));
    assert_eq!(fs::read_to_string(mount.join("file")).unwrap(), "written late");
    place.umount();
}

#[test]
fn a_killed_daemon_is_recognised_and_cleared_away() {
    if !fuse_is_here("a_killed_daemon_is_recognised_and_cleared_away") {
        return;
    }
    let place = Place::new();
    let mount = place.mount();
    let mut file = File::create(mount.join("synced")).unwrap();
    file.write_all(b"durable").unwrap();
    file.sync_all().unwrap();
    File::open(mount).unwrap().sync_all().unwrap();
    drop(file);
    for mend_by_umount in [true, false] {
        let pid = place.pid();
        kill(pid, "KILL");
        wait_until("the mount to be dead", || fs::metadata(mount).is_err());
        let status = run(strongroom().args(["status", "--json"]).arg(mount)).expect(31);
        assert_eq!(status.result()["mounts"][0]["health"], "dead");
        if mend_by_umount {
            let mended = run(place.umount_command().arg("--json")).expect(0);
            assert_eq!(mended.result()["was_dead"], true);
            assert!(!place.is_mounted());
        }
        // The next mount recovers the vault, and clears the mount point away itself.
        place.mount();
        assert_eq!(fs::read_to_string(mount.join("synced")).unwrap(), "durable");
        assert_eq!(place.health(), "well");
    }
    place.umount();
}

/// A file on it that somebody has open must not keep a migration of something else waiting.
#[test]
fn a_look_at_who_uses_a_directory_waits_for_no_daemon() {
    if !fuse_is_here("a_look_at_who_uses_a_directory_waits_for_no_daemon") {
        return;
    }
    let place = Place::new();
    let file = place.mount().join("file");
    fs::write(&file, "x").unwrap();
    // After a read that the daemon answered, the kernel would ask for the file's times anew.
    place.umount();
    place.mount();
    let mut holder =
        Command::new("sleep").arg("600").stdin(fs::File::open(&file).unwrap()).spawn().unwrap();
    fs::read(&file).unwrap();
    let daemon = place.pid();
    kill(daemon, "STOP");
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let other = tempfile::tempdir().unwrap();
        sender.send(strongroom::stores::open_files(other.path()).map(|found| found.files)).unwrap();
    });
    let looked = receiver.recv_timeout(std::time::Duration::from_secs(60));
    kill(daemon, "CONT");
    holder.kill().unwrap();
    holder.wait().unwrap();
    place.umount();
    assert_eq!(looked.expect("it waited").unwrap(), []);
}

/// Whether a daemon has the kernel keep idle CPUs from sleeping deeply.
fn keeps_cpus_awake(pid: u32) -> bool {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten().any(|descriptor| {
        fs::read_link(descriptor.path()).is_ok_and(|to| to == Path::new(CPU_LATENCY))
    })
}

const CPU_LATENCY: &str = "/dev/cpu_dma_latency";
/// So long a mount is busy that asks for nothing.
const BUSY: Duration = Duration::from_secs(1);

#[test]
fn idle_cpus_are_kept_awake_while_the_mount_is_busy_unless_power_is_to_be_saved() {
    let name = "idle_cpus_are_kept_awake_while_the_mount_is_busy_unless_power_is_to_be_saved";
    if !fuse_is_here(name) {
        return;
    }
    let driver = fs::read_to_string("/sys/devices/system/cpu/cpuidle/current_driver");
    let driver = driver.unwrap_or_default();
    let can_be_asked = OpenOptions::new().write(true).open(CPU_LATENCY).is_ok()
        && !matches!(driver.trim(), "" | "none");
    if !can_be_asked {
        eprintln!("{name}: not tested: {CPU_LATENCY} is not to be had, or no driver heeds it");
    }
    for saving in [false, true] {
        let place = Place::new();
        let options: &[&str] = if saving { &["-o", "power_saving"] } else { &[] };
        let mount = place.mount_with(options);
        let pid = place.pid();
        let mut seen = false;
        let begun = Instant::now();
        // Names that nobody asked for before: a request each.
        for number in 0.. {
            assert!(!mount.join(format!("absent {number}")).exists());
            seen |= number % 64 == 0 && can_be_asked && keeps_cpus_awake(pid);
            let enough = if saving || !can_be_asked { BUSY } else { PATIENCE };
            if seen || begun.elapsed() > enough {
                break;
            }
        }
        assert_eq!(seen, can_be_asked && !saving, "power_saving: {saving}");
        if seen {
            wait_until("idle CPUs sleep as ever", || !keeps_cpus_awake(pid));
        }
        place.umount();
    }
}

#[test]
fn a_daemon_that_is_asked_to_end_unmounts() {
    if !fuse_is_here("a_daemon_that_is_asked_to_end_unmounts") {
        return;
    }
    let place = Place::new();
    for signal in ["TERM", "INT", "HUP"] {
        let mount = place.mount();
        // Not synced: a clean end makes it durable.
        fs::write(mount.join(signal), "content").unwrap();
        let pid = place.pid();
        kill(pid, signal);
        wait_until("the mount to be gone", || !place.is_mounted());
        wait_until("the process to end", || !Path::new(&format!("/proc/{pid}")).exists());
        place.mount();
        assert_eq!(fs::read_to_string(mount.join(signal)).unwrap(), "content");
        place.umount();
    }
}

#[test]
fn a_daemon_that_must_end_while_it_is_used_closes_the_vault() {
    if !fuse_is_here("a_daemon_that_must_end_while_it_is_used_closes_the_vault") {
        return;
    }
    let place = Place::new();
    let log = place.root().join("log");
    let mount = place.mount_with(&["--stop-timeout", "1", "--log-file", log.to_str().unwrap()]);
    let mut file = File::create(mount.join("file")).unwrap();
    file.write_all(b"before the end").unwrap();
    let pid = place.pid();
    kill(pid, "TERM");
    wait_until("the process to end", || !Path::new(&format!("/proc/{pid}")).exists());
    assert!(!place.is_mounted());
    assert!(file.write_all(b"after").and_then(|()| file.sync_all()).is_err());
    drop(file);
    let text = fs::read_to_string(&log).unwrap();
    assert!(text.contains(&format!("still used by process {}", std::process::id())), "{text}");
    place.mount();
    assert_eq!(fs::read_to_string(mount.join("file")).unwrap(), "before the end");
    place.umount();
}

#[test]
fn unmounting_from_outside_closes_the_vault_cleanly() {
    if !fuse_is_here("unmounting_from_outside_closes_the_vault_cleanly") {
        return;
    }
    let place = Place::new();
    let log = place.root().join("log");
    let mount = place.mount();
    fs::write(mount.join("file"), "content").unwrap();
    let pid = place.pid();
    let tool: (&str, &[&str]) = if rustix::process::geteuid().is_root() {
        ("umount", &[])
    } else {
        ("fusermount3", &["-u"])
    };
    assert!(Command::new(tool.0).args(tool.1).arg(mount).status().unwrap().success());
    wait_until("the process to end", || !Path::new(&format!("/proc/{pid}")).exists());
    place.mount_with(&["--log-file", log.to_str().unwrap()]);
    assert_eq!(fs::read_to_string(mount.join("file")).unwrap(), "content");
    place.umount();
    let text = fs::read_to_string(&log).unwrap();
    assert!(!text.contains("not closed cleanly"), "{text}");
}

#[test]
fn the_log_names_no_plain_names() {
    if !fuse_is_here("the_log_names_no_plain_names") {
        return;
    }
    let place = Place::new();
    let log = place.root().join("log");
    let mount = place.mount_with(&["-v", "-v", "--log-file", log.to_str().unwrap()]);
    fs::create_dir(mount.join("private-directory")).unwrap();
    fs::write(mount.join("private-directory/private-file"), "private-content").unwrap();
    fs::rename(mount.join("private-directory/private-file"), mount.join("private-new")).unwrap();
    assert!(fs::metadata(mount.join("private-missing")).is_err());
    place.umount();
    let text = fs::read_to_string(&log).unwrap();
    assert!(text.contains("mounted"), "{text}");
    assert!(!text.contains("private"), "{text}");
}

#[test]
fn in_the_foreground_it_tells_when_it_is_ready_and_ends_when_asked() {
    if !fuse_is_here("in_the_foreground_it_tells_when_it_is_ready_and_ends_when_asked") {
        return;
    }
    let place = Place::new();
    let mut child = place
        .mount_command()
        .args(["--foreground", "--json"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let ready: serde_json::Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(ready["phase"], "mounted");
    fs::write(place.mount_point.join("file"), "content").unwrap();
    assert_eq!(place.pid(), child.id());
    kill(child.id(), "INT");
    let result: serde_json::Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!((&result["type"], &result["ok"]), (&"result".into(), &true.into()));
    assert!(child.wait().unwrap().success());
    assert!(!place.is_mounted());
}

#[test]
fn a_service_manager_is_told_when_it_is_ready() {
    if !fuse_is_here("a_service_manager_is_told_when_it_is_ready") {
        return;
    }
    let place = Place::new();
    let path = place.root().join("notify");
    let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(support::PATIENCE)).unwrap();
    let mut child = place
        .mount_command()
        .arg("--foreground")
        .env("NOTIFY_SOCKET", &path)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut buffer = [0; 256];
    let count = socket.recv(&mut buffer).unwrap();
    assert!(contains(&buffer[..count], b"READY=1"));
    assert!(place.is_mounted());
    place.umount();
    assert!(child.wait().unwrap().success());
}

#[test]
fn unusable_mount_points_are_refused_before_anything_is_asked() {
    if !fuse_is_here("unusable_mount_points_are_refused_before_anything_is_asked") {
        return;
    }
    let place = Place::new();
    let root = place.root();
    fs::write(root.join("file"), "").unwrap();
    fs::create_dir(root.join("full")).unwrap();
    fs::write(root.join("full/file"), "hidden").unwrap();
    for name in ["missing", "file", "full", "vault", "vault/tree", "."] {
        // No secret is given, and none is needed to say no.
        let mut command = strongroom();
        let refused = run(command.arg("mount").arg(&place.vault).arg(root.join(name))).expect(16);
        assert!(refused.stderr.starts_with("strongroom: error: "), "{name}: {}", refused.stderr);
    }
    let full = root.join("full");
    run(place.command("mount").arg(&full).args(["-o", "nonempty"])).expect(0);
    assert!(!full.join("file").exists());
    run(strongroom().arg("umount").arg(&full)).expect(0);
    assert_eq!(fs::read_to_string(full.join("file")).unwrap(), "hidden");
}

#[test]
fn a_wrong_passphrase_mounts_nothing() {
    if !fuse_is_here("a_wrong_passphrase_mounts_nothing") {
        return;
    }
    let place = Place::new();
    fs::write(&place.passphrase, "wrong\n").unwrap();
    run(&mut place.mount_command()).expect(10);
    assert!(!place.is_mounted());
    run(&mut place.umount_command()).expect(19);
}

#[test]
fn a_read_only_mount_changes_nothing() {
    if !fuse_is_here("a_read_only_mount_changes_nothing") {
        return;
    }
    let place = Place::new();
    let mount = place.mount();
    fs::write(mount.join("file"), "content").unwrap();
    place.umount();
    for options in [&["--read-only"][..], &["-o", "ro,noatime"]] {
        place.mount_with(options);
        assert_eq!(fs::read_to_string(mount.join("file")).unwrap(), "content");
        let denied = [
            fs::write(mount.join("new"), ""),
            fs::remove_file(mount.join("file")),
            fs::rename(mount.join("file"), mount.join("other")),
            OpenOptions::new().append(true).open(mount.join("file")).map(drop),
        ];
        for result in denied {
            assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EROFS));
        }
        let status = run(strongroom().args(["status", "--json"]).arg(mount)).expect(0);
        assert_eq!(status.result()["mounts"][0]["read_only"], true);
        place.umount();
    }
}

#[test]
fn odd_paths_are_mounted_shown_and_unmounted() {
    if !fuse_is_here("odd_paths_are_mounted_shown_and_unmounted") {
        return;
    }
    let place = Place::new();
    let odd = place.root().join("a b,c\\d#e\tf\n");
    fs::create_dir(&odd).unwrap();
    let vault = odd.join("vault,x=y");
    let mount_point = odd.join("mount, point");
    fs::rename(&place.vault, &vault).unwrap();
    fs::create_dir(&mount_point).unwrap();
    run(strongroom()
        .arg("mount")
        .args([&vault, &mount_point])
        .arg("--passphrase-file")
        .arg(&place.passphrase))
    .expect(0);
    fs::write(mount_point.join("file"), "content").unwrap();
    let status = run(strongroom().args(["status", "--json"]).arg(&mount_point)).expect(0);
    assert_eq!(status.result()["mounts"][0]["vault"], vault.to_str().unwrap());
    run(strongroom().arg("umount").arg(&mount_point)).expect(0);
    assert_eq!(fs::read_dir(&mount_point).unwrap().count(), 0);
}

/// All of the above again, where the tests run as root.
#[test]
fn as_an_ordinary_user() {
    support::as_an_ordinary_user("as_an_ordinary_user");
}

/// Runs `cat` as another user.
fn others_read(path: &Path) -> bool {
    Command::new("setpriv")
        .args(["--reuid", "65533", "--regid", "65533", "--clear-groups", "cat"])
        .arg(path)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap()
        .success()
}

#[test]
fn others_come_in_only_where_they_are_let_in_and_as_permissions_say() {
    if !fuse_is_here("others_come_in_only_where_they_are_let_in_and_as_permissions_say") {
        return;
    }
    let place = Place::new();
    if !rustix::process::geteuid().is_root() {
        // An ordinary user may let others in only where the administrator allows it.
        let allowed = fs::read_to_string("/etc/fuse.conf")
            .is_ok_and(|text| text.lines().any(|line| line.trim() == "user_allow_other"));
        if !allowed {
            let refused = run(place.mount_command().arg("--allow-other")).expect(17);
            assert!(refused.stderr.contains("/etc/fuse.conf"), "{}", refused.stderr);
            assert!(!place.is_mounted());
        }
        return;
    }
    fs::set_permissions(place.root(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mount = place.mount();
    let set_mode = |name: &str, mode| {
        let permissions = std::os::unix::fs::PermissionsExt::from_mode(mode);
        fs::set_permissions(mount.join(name), permissions).unwrap();
    };
    set_mode("", 0o755);
    for (name, mode) in [("open", 0o644), ("closed", 0o600)] {
        fs::write(mount.join(name), "content").unwrap();
        set_mode(name, mode);
    }
    assert!(!others_read(&mount.join("open")), "only the owner comes in");
    place.umount();
    for options in [&["--allow-other"][..], &["-o", "allow_other"]] {
        place.mount_with(options);
        assert!(others_read(&mount.join("open")));
        assert!(!others_read(&mount.join("closed")));
        place.umount();
    }
}
