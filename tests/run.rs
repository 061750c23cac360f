//! `strongroom run`, idle mounts, profiles and mount(8)'s helper, with the real program.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use support::{Place, fuse_is_here, kill, run, strongroom, wait_until};

fn run_command(place: &Place, options: &[&str], script: &str) -> Command {
    let mut command = strongroom();
    command.arg("run").arg("--vault").arg(&place.vault).arg("--mount").arg(&place.mount_point);
    command.arg("--passphrase-file").arg(&place.passphrase).args(options);
    command.args(["--", "sh", "-c", script]).arg(&place.mount_point);
    command
}

/// Starts it and waits until the command wrote `ready` into the mount.
fn start(place: &Place, options: &[&str], script: &str) -> Child {
    let script = format!("{script}\n");
    let child = run_command(place, options, &script).stderr(Stdio::piped()).spawn().unwrap();
    wait_until("the command to be ready", || place.mount_point.join("ready").exists());
    child
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn is_locked(place: &Place) -> bool {
    run(strongroom().args(["status", "--json"]).arg(&place.vault)).code == Some(0)
}

#[test]
fn the_command_has_the_mount_and_its_code_is_passed_on() {
    if !fuse_is_here("the_command_has_the_mount_and_its_code_is_passed_on") {
        return;
    }
    let place = Place::new();
    run(&mut run_command(&place, &[], "echo kept > \"$0/file\"")).expect(0);
    assert!(!place.is_mounted());
    assert_eq!(fs::read_dir(&place.mount_point).unwrap().count(), 0);
    let script = "cat \"$STRONGROOM_MOUNT_POINT/file\"; exit 7";
    let ran = run(&mut run_command(&place, &[], script)).expect(7);
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("kept\n", ""));
    run(&mut run_command(&place, &[], "kill -KILL $$")).expect(137);
    let ran = run(&mut run_command(&place, &["--json"], "exit 3")).expect(3);
    assert_eq!(ran.result()["exit_code"], 3);
    assert!(!place.is_mounted());
}

#[test]
fn what_cannot_be_run_is_told_and_leaves_nothing_mounted() {
    if !fuse_is_here("what_cannot_be_run_is_told_and_leaves_nothing_mounted") {
        return;
    }
    let place = Place::new();
    let with = |program: &Path| {
        let mut command = strongroom();
        command.arg("run").arg("--vault").arg(&place.vault).arg("--mount").arg(&place.mount_point);
        command.arg("--passphrase-file").arg(&place.passphrase).arg("--").arg(program);
        run(&mut command)
    };
    let ran = with(Path::new("no-such-program")).expect(127);
    assert!(ran.stderr.contains("no program no-such-program"), "{}", ran.stderr);
    with(&place.passphrase).expect(126);
    assert!(!place.is_mounted());
    fs::write(&place.passphrase, "wrong").unwrap();
    with(Path::new("true")).expect(10);
    run(strongroom().args(["run", "--vault"]).arg(&place.vault).args(["--", "true"])).expect(2);
    run(strongroom().args(["run", "--profile", "x"])).expect(2);
}

#[test]
fn open_descriptors_and_the_directory_reach_the_command() {
    if !fuse_is_here("open_descriptors_and_the_directory_reach_the_command") {
        return;
    }
    let place = Place::new();
    let held = place.root().join("held");
    fs::write(&held, "from outside").unwrap();
    let inner = run_command(&place, &[], "cat <&9; pwd -P; : > here");
    let mut command = Command::new("sh");
    command.args(["-c", "exec 9<\"$0\"; \"$@\""]).arg(&held).arg(inner.get_program());
    command.args(inner.get_args()).current_dir(&place.mount_point);
    let ran = run(&mut command).expect(0);
    let expected = format!("from outside{}\n", place.mount_point.display());
    assert_eq!(ran.stdout, expected);
    // It was made in the vault, not under the mount.
    assert_eq!(fs::read_dir(&place.mount_point).unwrap().count(), 0);
    run(&mut run_command(&place, &[], "test -e \"$0/here\"")).expect(0);
}

#[test]
fn signals_are_passed_on() {
    if !fuse_is_here("signals_are_passed_on") {
        return;
    }
    for signal in ["TERM", "INT", "HUP", "USR1"] {
        let place = Place::new();
        let script = format!(
            "trap 'echo got > \"$1/got\"; exit 42' {signal}
            : > \"$1/ready\"
            while :; do sleep 0.05; done"
        );
        let file = place.root().join("script");
        fs::write(&file, script).unwrap();
        // A shell cannot trap what was ignored when it began, as nohup(1) has SIGHUP ignored.
        let shell = format!("exec env --default-signal sh {} \"$0\"", file.display());
        let mut child = start(&place, &[], &shell);
        kill(child.id(), signal);
        assert_eq!(child.wait().unwrap().code(), Some(42), "{signal}");
        assert!(!place.is_mounted());
        run(&mut run_command(&place, &[], "cat \"$0/got\"")).expect(0);
    }
}

#[test]
fn who_still_uses_the_mount_is_named_and_waited_for() {
    if !fuse_is_here("who_still_uses_the_mount_is_named_and_waited_for") {
        return;
    }
    let place = Place::new();
    // It is looked at once it has the name by which it is told.
    let straggler = "exec 8> \"$0/late\"; sleep 1 >/dev/null 2>&1 &
        exec 8>&-; until grep -q sleep /proc/$!/comm; do :; done";
    let ran = run(&mut run_command(&place, &[], straggler)).expect(0);
    assert!(ran.stderr.contains("waiting for process"), "{}", ran.stderr);
    assert!(ran.stderr.contains("(sleep)"), "{}", ran.stderr);
    assert!(!place.is_mounted() && !is_locked(&place));

    let stays = "exec 8> \"$0/late\"; sh -c 'exec sleep 600' >/dev/null 2>&1 & echo $!";
    let ran = run(&mut run_command(&place, &["--wait", "0"], stays)).expect(18);
    assert!(ran.stderr.contains("still use files of it"), "{}", ran.stderr);
    assert!(!place.is_mounted());
    kill(ran.stdout.trim().parse().unwrap(), "KILL");
    // Its server goes with the last who uses it, and the vault can be had again.
    wait_until("the vault to be closed", || {
        run(&mut run_command(&place, &[], "true")).code == Some(0)
    });
}

#[test]
fn killed_it_takes_the_command_and_the_mount_with_it() {
    if !fuse_is_here("killed_it_takes_the_command_and_the_mount_with_it") {
        return;
    }
    let place = Place::new();
    let script = "trap 'sleep 1; echo told > \"$0/told\"; exit' TERM
        echo $$ > \"$0/ready\"
        while :; do sleep 0.05; done";
    let mut child = start(&place, &["--stop-timeout", "30"], script);
    wait_until("the number", || {
        !fs::read_to_string(place.mount_point.join("ready")).unwrap().is_empty()
    });
    let command = fs::read_to_string(place.mount_point.join("ready")).unwrap();
    kill(child.id(), "KILL");
    child.wait().unwrap();
    wait_until("the mount to go", || !place.is_mounted());
    wait_until("the command to end", || {
        !Path::new("/proc").join(command.trim()).join("exe").exists()
            || fs::read_link(Path::new("/proc").join(command.trim()).join("exe")).is_err()
    });
    wait_until("the vault to be closed", || {
        run(&mut run_command(&place, &[], "true")).code == Some(0)
    });
    // Its last words went into the vault, not under the mount point.
    assert_eq!(fs::read_dir(&place.mount_point).unwrap().count(), 0);
    run(&mut run_command(&place, &[], "test -s \"$0/ready\" && test -s \"$0/told\"")).expect(0);
}

#[test]
fn in_private_nobody_else_sees_it() {
    if !fuse_is_here("in_private_nobody_else_sees_it") {
        return;
    }
    let place = Place::new();
    let outside = place.root().join("outside");
    let script = format!(
        "echo private > \"$0/file\"; id -u > \"$0/user\"
        : > {0}.ready
        while [ ! -e {0}.seen ]; do sleep 0.02; done
        cat \"$0/file\" \"$0/user\"",
        outside.display()
    );
    let child = run_command(&place, &["--private"], &script)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_until("the command to be ready", || outside.with_extension("ready").exists());
    assert_eq!(fs::read_dir(&place.mount_point).unwrap().count(), 0);
    assert!(!place.is_mounted());
    let refused = run(&mut place.mount_command()).expect(14);
    assert!(refused.stderr.contains("in use by process"), "{}", refused.stderr);
    fs::write(outside.with_extension("seen"), "").unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let user = rustix::process::geteuid().as_raw();
    assert_eq!(String::from_utf8_lossy(&output.stdout), format!("private\n{user}\n"));
    run(&mut run_command(&place, &[], "test -s \"$0/file\"")).expect(0);
}

#[test]
fn an_idle_mount_closes_itself() {
    if !fuse_is_here("an_idle_mount_closes_itself") {
        return;
    }
    let place = Place::new();
    place.mount_with(&["--idle", "1s"]);
    let file = fs::File::create(place.mount_point.join("file")).unwrap();
    // Open files keep it, used or not.
    std::thread::sleep(std::time::Duration::from_millis(2500));
    assert!(place.is_mounted());
    drop(file);
    wait_until("the mount to close itself", || !place.is_mounted());
    wait_until("the vault to be closed", || run(&mut place.mount_command()).code == Some(0));
    assert!(place.mount_point.join("file").exists());
    place.umount();
    run(place.mount_command().args(["--idle", "soon"])).expect(2);
}

/// A directory of profiles with one that describes the place.
fn profile(place: &Place, more: &str) -> PathBuf {
    let home = place.root().join("config");
    let profiles = home.join("strongroom/profiles");
    fs::create_dir_all(&profiles).unwrap();
    let text = format!(
        "name = \"app\"\ndescription = \"An app\"\ndata = \"{0}/data\"\nvault = \"{0}/vault\"\n\
         mount = \"{0}/mount\"\n{more}\n",
        place.root().canonicalize().unwrap().display()
    );
    let file = profiles.join("app.toml");
    fs::write(&file, text).unwrap();
    fs::set_permissions(&profiles, fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    home
}

fn with_profiles(home: &Path, arguments: &[&str]) -> Command {
    let mut command = strongroom();
    command.env("XDG_CONFIG_HOME", home).args(arguments);
    command
}

#[test]
fn a_profile_tells_what_is_mounted_and_how_it_is_unlocked() {
    if !fuse_is_here("a_profile_tells_what_is_mounted_and_how_it_is_unlocked") {
        return;
    }
    let place = Place::new();
    let more = format!(
        "mount-options = \"ro,idle=1h\"\nunlock = {{ passphrase-command = [\"cat\", \"{}\"] }}",
        place.passphrase.display()
    );
    let home = profile(&place, &more);
    run(&mut with_profiles(&home, &["run", "--profile", "app", "--", "true"])).expect(0);
    let ran = run(&mut with_profiles(&home, &["mount", "--profile", "app", "--json"])).expect(0);
    assert_eq!(ran.result()["read_only"], true);
    assert!(place.is_mounted());
    place.umount();
    // The command line wins.
    let wrong = place.root().join("wrong");
    fs::write(&wrong, "wrong").unwrap();
    let mut command = with_profiles(&home, &["mount", "--profile", "app", "--passphrase-file"]);
    run(command.arg(&wrong)).expect(10);
    // Whoever can write a profile could have commands run.
    let file = home.join("strongroom/profiles/app.toml");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
    let ran = run(&mut with_profiles(&home, &["run", "--profile", "app", "--", "true"])).expect(33);
    assert!(ran.stderr.contains("others can write"), "{}", ran.stderr);
}

#[test]
fn profiles_are_listed_shown_checked_and_drafted() {
    let place = Place::new();
    let home = profile(&place, "[[component]]\nname = \"db\"\nkind = \"sqlite\"\npath = \"x.db\"");
    let listed = run(&mut with_profiles(&home, &["profile", "list", "--json"])).expect(0);
    assert_eq!(listed.result()["profiles"][0]["name"], "app");
    let shown = run(&mut with_profiles(&home, &["profile", "show", "app"])).expect(0);
    assert!(shown.stdout.contains("[[component]]"), "{}", shown.stdout);
    let missing = run(&mut with_profiles(&home, &["profile", "show", "ap"])).expect(33);
    assert!(missing.stderr.contains("did you mean app?"), "{}", missing.stderr);
    // There is no data yet.
    let checked = run(&mut with_profiles(&home, &["profile", "check", "app", "--json"])).expect(33);
    assert_eq!(checked.result()["findings"][0]["key"], "data");
    let data = place.root().join("data");
    fs::create_dir(&data).unwrap();
    rusqlite::Connection::open(data.join("x.db"))
        .unwrap()
        .execute_batch("CREATE TABLE t (x)")
        .unwrap();
    let checked = run(&mut with_profiles(&home, &["profile", "check", "app"])).expect(0);
    assert!(!checked.stdout.contains("error"), "{}", checked.stdout);

    fs::write(place.root().join("app.yaml"), format!("data: {}/sub\n", data.display())).unwrap();
    let mut init = with_profiles(&home, &["profile", "init", "--name", "Other App", "--json"]);
    let drafted = run(init.arg(&data)).expect(0).result();
    assert_eq!(drafted["profile"]["name"], "other-app");
    assert_eq!(drafted["profile"]["components"], 1);
    assert_eq!(drafted["profile"]["configs"], 1);
    let shown = run(&mut with_profiles(&home, &["profile", "show", "other-app"])).expect(0);
    assert!(shown.stdout.contains("app.yaml"), "{}", shown.stdout);
    run(&mut init).expect(15);
    let mut init = with_profiles(&home, &["profile", "init", "--output", "-"]);
    let text = run(init.arg(&data)).expect(0).stdout;
    assert!(text.starts_with("# ") && text.contains("name = \"data\""), "{text}");
}

#[test]
fn the_helper_of_mount_is_this_program() {
    if !fuse_is_here("the_helper_of_mount_is_this_program") {
        return;
    }
    let place = Place::new();
    let helper = place.root().join("mount.fuse.strongroom");
    let program = strongroom().get_program().to_owned();
    std::os::unix::fs::symlink(program, &helper).unwrap();
    let call = |flags: &[&str]| {
        let options = format!("rw,noauto,passphrase_file={}", place.passphrase.display());
        let mut command = Command::new(&helper);
        command.arg(&place.vault).arg(&place.mount_point).args(flags);
        run(command.args(["-o", &options, "-t", "fuse.strongroom"]).stdin(Stdio::null()))
    };
    call(&["-f"]).expect(0);
    assert!(!place.is_mounted());
    call(&["-n"]).expect(0);
    assert!(place.is_mounted());
    // umount(8) does not wait until the vault is closed; mounting does.
    for _ in 0..5 {
        fs::write(place.mount_point.join("file"), vec![1; 1 << 20]).unwrap();
        let mut umount = Command::new(if is_root() { "umount" } else { "fusermount3" });
        umount.args(if is_root() { None } else { Some("-u") }).arg(&place.mount_point);
        run(&mut umount).expect(0);
        call(&[]).expect(0);
    }
    place.umount();
}

#[test]
fn manual_pages_are_made() {
    let place = tempfile::tempdir().unwrap();
    run(strongroom().arg("man").arg(place.path())).expect(0);
    let page = fs::read_to_string(place.path().join("strongroom-migrate-encrypt.1")).unwrap();
    assert!(page.contains(".TH") && page.contains("keep"), "{page}");
    assert!(place.path().join("strongroom.1").exists());
    assert!(!place.path().join("strongroom-run-command.1").exists());
}

#[test]
fn also_as_an_ordinary_user() {
    support::as_an_ordinary_user("also_as_an_ordinary_user");
}
