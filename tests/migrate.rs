//! `strongroom migrate` and `demo` on a real mount, with real stores: the way there, the way back,
//! what is refused, and what happens when the program is killed.

#![allow(clippy::unwrap_used)]

#[path = "migrate/store.rs"]
mod store;
mod support;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use store::{Image, Store};
use support::posix::root_is_here;
use support::{Ran, as_an_ordinary_user, fuse_is_here, kill, run, strongroom, wait_until};

const COST: [&str; 4] = ["--kdf-memory", "64", "--kdf-iterations", "1"];

fn migrate(store: &Store, command: &str) -> Command {
    let mut migrate = strongroom();
    migrate.args(["migrate", command]).current_dir(&store.root);
    if command == "encrypt" || command == "plan" {
        migrate.arg(store.data());
    }
    migrate.arg("--vault").arg(store.vault());
    migrate.arg("--passphrase-file").arg(store.passphrase());
    migrate
}

fn encrypt(store: &Store) -> Command {
    let mut command = migrate(store, "encrypt");
    command.args(COST).arg("--yes").arg("--mount").arg(store.mount_point());
    command.arg("--config").arg(store.config());
    command
}

fn rollback(store: &Store) -> Command {
    let mut command = migrate(store, "rollback");
    command.arg("--yes");
    command
}

fn status(store: &Store) -> serde_json::Value {
    let ran = run(migrate(store, "status").arg("--json")).expect(0);
    ran.result()["migrations"].as_array().unwrap().last().cloned().unwrap_or_default()
}

/// The data are where they were, as they were, and nothing of the migration is left beside them.
#[track_caller]
fn expect_back(store: &Store, before: &Image) {
    before.expect(&store.data());
    assert_eq!(fs::read_to_string(store.config()).unwrap(), store.original_config());
    let mut names: Vec<_> = fs::read_dir(&store.root)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["app.yaml", "data", "passphrase", "vault"]);
}

/// What the vault takes of a filesystem that has so many inodes and no more.
#[test]
fn the_plan_knows_the_inodes_that_a_vault_takes() {
    if !fuse_is_here("the_plan_knows_the_inodes_that_a_vault_takes") {
        return;
    }
    let store = Store::new();
    for number in 0..100 {
        let directory = store.data().join(format!("directory {number}"));
        fs::create_dir(&directory).unwrap();
        for length in [1, 160, 161, 255] {
            fs::write(directory.join("n".repeat(length)), b"").unwrap();
        }
    }
    let mut plan = migrate(&store, "plan");
    plan.arg("--mount").arg(store.mount_point()).arg("--json");
    let planned = run(&mut plan).expect(0).result();
    let planned = planned["inventory"]["vault_inodes"].as_u64().unwrap();
    run(encrypt(&store).arg("--keep-originals")).expect(0);
    let mut inodes = BTreeSet::new();
    for entry in walkdir::WalkDir::new(store.vault()) {
        inodes.insert(entry.unwrap().metadata().unwrap().ino());
    }
    let taken = u64::try_from(inodes.len()).unwrap();
    // Beside them the vault has files of its own, and the migration the snapshot and a journal.
    assert!((planned..planned + 32).contains(&taken), "{taken} inodes for a plan of {planned}");
    run(&mut rollback(&store)).expect(0);
}

#[test]
fn a_store_goes_in_and_comes_back() {
    if !fuse_is_here("a_store_goes_in_and_comes_back") {
        return;
    }
    let store = Store::new();
    let before = Image::of(&store.data());

    // Into the vault, the originals still there; and back.
    let ran = run(encrypt(&store).args(["--keep-originals", "--json"])).expect(0);
    assert_eq!(ran.result()["migration"]["phase"], "kept");
    before.expect(&store.mount_point());
    assert_eq!(fs::read_to_string(store.config()).unwrap(), store.edited_config());
    assert!(!store.data().exists(), "the originals are out of the app's reach");
    store.expect_nothing_readable();
    run(&mut rollback(&store)).expect(0);
    expect_back(&store, &before);

    // Another vault, and the wipe.
    store.remove_vault();
    let ran = run(encrypt(&store).arg("--json")).expect(0);
    assert_eq!(ran.result()["migration"]["phase"], "finished");
    assert_eq!(ran.result()["wipe"]["left"]["files"], 0);
    assert!(!store.data().exists());
    before.expect(&store.mount_point());
    store.expect_nothing_readable();
    run(&mut migrate(&store, "verify")).expect(0);
    assert_eq!(status(&store)["phase"], "finished");
    run(&mut rollback(&store)).expect(0);
    expect_back(&store, &before);
    assert_eq!(store.rows(&store.data()), 500);
}

#[test]
fn what_was_written_since_is_not_lost() {
    if !fuse_is_here("what_was_written_since_is_not_lost") {
        return;
    }
    let store = Store::new();
    let before = Image::of(&store.data());
    run(&mut encrypt(&store)).expect(0);
    store.add_row(&store.mount_point());
    let ran = run(rollback(&store).arg("--json")).expect(23);
    let lost = ran.result()["differences"].to_string();
    assert!(lost.contains("app.db"), "{lost}");
    before.expect_but(&store.mount_point(), &["app.db"]);

    run(rollback(&store).args(["--from", "vault"])).expect(0);
    assert_eq!(store.rows(&store.data()), 501);
    before.expect_but(&store.data(), &["app.db"]);
    assert_eq!(fs::read_to_string(store.config()).unwrap(), store.original_config());
}

#[test]
fn changes_can_be_discarded() {
    if !fuse_is_here("changes_can_be_discarded") {
        return;
    }
    let store = Store::new();
    let before = Image::of(&store.data());
    run(&mut encrypt(&store)).expect(0);
    store.add_row(&store.mount_point());
    run(rollback(&store).args(["--from", "snapshot"])).expect(23);
    run(rollback(&store).args(["--from", "snapshot", "--discard-changes"])).expect(0);
    expect_back(&store, &before);
}

#[test]
fn in_place_and_with_a_symlink() {
    if !fuse_is_here("in_place_and_with_a_symlink") {
        return;
    }
    for mode in ["--in-place", "--symlink"] {
        let store = Store::new();
        let before = Image::of(&store.data());
        let mut command = migrate(&store, "encrypt");
        command.args(COST).args(["--yes", mode]);
        if mode == "--symlink" {
            command.arg("--mount").arg(store.mount_point());
        }
        run(&mut command).expect(0);
        before.expect(&store.data());
        store.add_row(&store.data());
        assert_eq!(store.data().is_symlink(), mode == "--symlink");
        run(strongroom().arg("umount").arg(store.data())).expect(0);
        if mode == "--in-place" && rustix::process::geteuid().is_root() {
            // An app started without its vault cannot write plaintext there.
            assert!(fs::write(store.data().join("plaintext"), b"x").is_err());
            assert_eq!(fs::read_dir(store.data()).unwrap().count(), 0);
        }
        run(rollback(&store).args(["--from", "vault"])).expect(0);
        assert_eq!(store.rows(&store.data()), 501);
        before.expect_but(&store.data(), &["app.db"]);
    }
}

#[test]
fn refusals_leave_everything_as_it_was() {
    if !fuse_is_here("refusals_leave_everything_as_it_was") {
        return;
    }
    let store = Store::new();
    let before = Image::of(&store.data());
    let untouched = || {
        before.expect(&store.data());
        assert_eq!(fs::read_to_string(store.config()).unwrap(), store.original_config());
    };

    // A process that holds a file.
    let mut holder = Command::new("sleep")
        .arg("1000")
        .stdin(fs::File::open(store.data().join("app.db")).unwrap())
        .spawn()
        .unwrap();
    let ran = run(&mut encrypt(&store));
    let asked = run(encrypt(&store).arg("--json"));
    holder.kill().unwrap();
    holder.wait().unwrap();
    let ran = ran.expect(28);
    assert!(ran.stderr.contains(&format!("sleep (process {}", holder.id())), "{}", ran.stderr);
    assert!(asked.expect(28).stdout.contains("open-files"));
    untouched();
    assert!(!store.vault().exists());

    // A mount point that is not empty.
    fs::create_dir(store.mount_point()).unwrap();
    fs::write(store.mount_point().join("file"), b"x").unwrap();
    run(&mut encrypt(&store)).expect(16);
    fs::remove_dir_all(store.mount_point()).unwrap();
    untouched();

    // What neither a copy nor a wipe can do justice, and a configuration that could not be edited.
    for (path, code) in [(store.data().join("app.db"), 32), (store.config(), 1)] {
        let set = |flag| Command::new("chattr").arg(flag).arg(&path).output();
        let root = rustix::process::geteuid().is_root();
        if root && set("+i").is_ok_and(|done| done.status.success()) {
            let ran = run(&mut encrypt(&store));
            assert!(set("-i").unwrap().status.success());
            assert!(ran.expect(code).stderr.contains("the source is untouched"));
            untouched();
            assert!(!store.vault().exists());
        }
    }

    // A configuration that names something else.
    let other = store.root.join("other.yaml");
    fs::write(&other, "a: /elsewhere\n").unwrap();
    let ran = run(encrypt(&store).arg("--config").arg(&other)).expect(1);
    assert!(ran.stderr.contains("names nothing in the source"), "{}", ran.stderr);
    fs::remove_file(&other).unwrap();
    untouched();

    // No answer, and nobody to ask.
    let mut unanswered = migrate(&store, "encrypt");
    unanswered.arg("--mount").arg(store.mount_point()).arg("--config").arg(store.config());
    run(&mut unanswered).expect(23);
    untouched();

    // The source inside the vault, and the other way round.
    let mut inside = migrate(&store, "encrypt");
    inside.arg("--yes").arg("--mount").arg(store.data().join("mount"));
    run(&mut inside).expect(2);
    untouched();

    // The wrong passphrase; a vault that holds something.
    run(&mut encrypt(&store)).expect(0);
    run(&mut rollback(&store)).expect(0);
    expect_back(&store, &before);
    run(&mut encrypt(&store)).expect(15);
    expect_back(&store, &before);
    fs::write(store.passphrase(), "wrong").unwrap();
    run(&mut encrypt(&store)).expect(10);
    untouched();
}

/// What the app holds open does not stand in the way of a migration that stops the app.
#[test]
fn an_app_that_runs_is_stopped_first() {
    if !fuse_is_here("an_app_that_runs_is_stopped_first") {
        return;
    }
    let store = Store::new();
    let held = fs::OpenOptions::new().append(true).create(true).open(store.data().join("held"));
    let mut app = Command::new("sleep").arg("1000").stdout(held.unwrap()).spawn().unwrap();
    let ran = run(&mut encrypt(&store));
    let stop = format!("kill {}", app.id());
    let stopped = run(encrypt(&store).args(["--stop-command", &stop]));
    app.kill().unwrap();
    app.wait().unwrap();
    assert!(ran.expect(28).stderr.contains("--stop-command"));
    stopped.expect(0);
    assert!(store.mount_point().join("held").exists());
}

#[test]
fn a_second_run_is_refused_while_one_is_unfinished() {
    if !fuse_is_here("a_second_run_is_refused_while_one_is_unfinished") {
        return;
    }
    let store = Store::new();
    let before = Image::of(&store.data());
    // The source changes under the migration's feet.
    let late = store.data().join("sub/late");
    let done = store.root.join("done");
    let writer = format!(
        "[ -e {done} ] || (for i in $(seq 200); do touch {late}; sleep 0.01; done; touch {done}) &",
        done = done.display(),
        late = late.display()
    );
    let unfinished = run(encrypt(&store).args(["--stop-command", &writer])).expect(21);
    // Seen while it was copied, or by the comparison afterwards.
    assert!(unfinished.stderr.contains("changed"), "{}", unfinished.stderr);
    assert!(unfinished.stderr.contains("sub"), "{}", unfinished.stderr);
    wait_until("the writer's end", || done.exists());
    let mut elsewhere = migrate(&store, "encrypt");
    elsewhere.args(COST).args(["--yes", "--in-place"]);
    let again = run(&mut elsewhere);
    assert_eq!(again.code, Some(27), "{}", again.stderr);
    assert!(again.stderr.contains("migrate resume"), "{}", again.stderr);
    let mut other_vault = strongroom();
    other_vault.args(["migrate", "encrypt"]).arg(store.data()).args(["--in-place", "--yes"]);
    other_vault.arg("--vault").arg(store.root.join("vault2"));
    other_vault.arg("--passphrase-file").arg(store.passphrase()).args(COST);
    assert_eq!(run(&mut other_vault).code, Some(27));

    fs::remove_file(late).unwrap();
    before.expect_times_aside(&store.data());
    run(migrate(&store, "resume").arg("--yes")).expect(0);
    before.expect_times_aside(&store.mount_point());
}

#[test]
fn an_app_that_is_not_well_gets_its_data_back() {
    if !fuse_is_here("an_app_that_is_not_well_gets_its_data_back") {
        return;
    }
    let store = Store::new();
    let before = Image::of(&store.data());
    let ran = run(encrypt(&store).args(["--start-command", "false"])).expect(30);
    assert!(ran.stderr.contains("everything is as it was before"), "{}", ran.stderr);
    expect_back(&store, &before);
    assert_eq!(status(&store)["phase"], "rolled-back");
}

/// Asked to stop, it stops between two steps, and says how to go on.
#[test]
fn interrupts_stop_it_cleanly() {
    if !fuse_is_here("interrupts_stop_it_cleanly") {
        return;
    }
    let store = Store::new();
    let before = Image::of(&store.data());
    let marker = store.root.join("stopping");
    let child = encrypt(&store)
        .args(["--stop-command", &format!("touch {}; sleep 1", marker.display())])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_until("the stop command", || marker.exists());
    kill(child.id(), "INT");
    let ran = Ran::of(child.wait_with_output().unwrap()).expect(130);
    assert!(ran.stderr.contains("migrate resume"), "{}", ran.stderr);
    assert!(ran.stderr.contains("the source is untouched"), "{}", ran.stderr);
    fs::remove_file(marker).unwrap();
    before.expect(&store.data());
    assert_eq!(status(&store)["phase"], "begun");
    run(&mut rollback(&store)).expect(0);
    expect_back(&store, &before);
}

/// Who wipes by the command for it means it; who agreed to the wipe beforehand is not asked again.
#[test]
fn a_wipe_waits_for_no_terminal() {
    if !fuse_is_here("a_wipe_waits_for_no_terminal") {
        return;
    }
    let store = Store::new();
    let before = Image::of(&store.data());
    run(encrypt(&store).arg("--keep-originals")).expect(0);
    run(&mut migrate(&store, "wipe")).expect(0);
    assert_eq!(status(&store)["phase"], "finished");
    // The vault itself in place of a directory: its content is what counts.
    let mut verify = strongroom();
    verify.args(["migrate", "verify", "--source"]).arg(store.data());
    verify.arg("--target").arg(store.vault()).arg("--passphrase-file").arg(store.passphrase());
    let ran = run(verify.arg("--json")).expect(0);
    assert_eq!(ran.result()["verification"]["phase"], "finished");
    // So it does at the mount, now that the source is gone.
    let mut verify = strongroom();
    verify.args(["migrate", "verify", "--source"]).arg(store.data());
    verify.arg("--target").arg(store.mount_point());
    run(verify.arg("--passphrase-file").arg(store.passphrase())).expect(0);
    run(&mut rollback(&store)).expect(0);
    expect_back(&store, &before);

    store.remove_vault();
    let marker = store.root.join("stopping");
    let child = encrypt(&store)
        .args(["--stop-command", &format!("touch {}; sleep 1", marker.display())])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_until("the stop command", || marker.exists());
    kill(child.id(), "INT");
    Ran::of(child.wait_with_output().unwrap()).expect(130);
    fs::remove_file(marker.as_path()).unwrap();
    let ran = run(migrate(&store, "resume").arg("--json")).expect(0);
    assert_eq!(ran.result()["migration"]["phase"], "finished");
    let _ = fs::remove_file(marker);
    run(&mut rollback(&store)).expect(0);
    let _ = fs::remove_file(store.root.join("stopping"));
    expect_back(&store, &before);
}

/// Killed at whatever moment it happens to be: the status can be told, and both ways out work.
#[test]
fn killed_at_any_moment() {
    if !fuse_is_here("killed_at_any_moment") {
        return;
    }
    let store = Store::new();
    let before = Image::of(&store.data());
    let begun = std::time::Instant::now();
    run(&mut encrypt(&store)).expect(0);
    let whole = begun.elapsed();
    run(&mut rollback(&store)).expect(0);
    expect_back(&store, &before);

    const ROUNDS: u32 = 8;
    for round in 0..ROUNDS {
        store.remove_vault();
        let mut child =
            encrypt(&store).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(whole * (round + 1) / (ROUNDS + 1));
        child.kill().unwrap();
        child.wait().unwrap();
        if !store.vault().join("vault.json").exists() {
            before.expect(&store.data());
            let _ = fs::remove_dir_all(store.root.join(".vault.being-made"));
            continue;
        }
        let status = status(&store);
        let what = format!("round {round}: {status}");
        if status.is_null() {
            before.expect(&store.data());
            run(&mut encrypt(&store)).expect(0);
        } else if round % 2 == 0 {
            let ran = run(migrate(&store, "resume").arg("--yes"));
            assert_eq!(ran.code, Some(0), "{what}: {}", ran.stderr);
            before.expect(&store.mount_point());
        }
        let ran = run(&mut rollback(&store));
        assert_eq!(ran.code, Some(0), "{what}: {}", ran.stderr);
        expect_back(&store, &before);
    }
}

#[test]
fn a_plan_changes_nothing() {
    let store = Store::new();
    let before = Image::of(&store.data());
    let mut plan = migrate(&store, "plan");
    plan.arg("--mount").arg(store.mount_point()).arg("--config").arg(store.config());
    let ran = run(plan.arg("--json")).expect(0);
    let plan = ran.result();
    assert_eq!(plan["blockers"], serde_json::json!([]));
    assert!(plan["edits"][0]["diff"].as_str().unwrap().contains("mount"), "{plan}");
    // The filesystem below has a say in which others are.
    assert!(plan["inventory"]["sparse"].as_u64().unwrap() >= 1, "{plan}");
    expect_unmade(&store);
    before.expect(&store.data());
}

fn expect_unmade(store: &Store) {
    assert!(!store.vault().exists() && !store.mount_point().exists());
    assert_eq!(fs::read_to_string(store.config()).unwrap(), store.original_config());
}

/// Neither the arguments nor the environment of any process hold the passphrase.
#[test]
fn the_passphrase_is_nowhere() {
    if !fuse_is_here("the_passphrase_is_nowhere") {
        return;
    }
    let store = Store::new();
    run(&mut encrypt(&store)).expect(0);
    let secret = fs::read(store.passphrase()).unwrap();
    for process in fs::read_dir("/proc").unwrap().flatten() {
        for name in ["cmdline", "environ"] {
            let bytes = fs::read(process.path().join(name)).unwrap_or_default();
            assert!(!bytes.windows(secret.len()).any(|part| part == secret), "{process:?}");
        }
    }
    run(&mut rollback(&store)).expect(0);
}

fn demo(parent: &Path) -> Command {
    let mut demo = strongroom();
    demo.arg("demo").arg("--directory").arg(parent);
    demo
}

#[test]
fn the_demo_leaves_nothing() {
    if !fuse_is_here("the_demo_leaves_nothing") {
        return;
    }
    let parent = tempfile::tempdir().unwrap();
    let ran = run(demo(parent.path()).arg("--json")).expect(0);
    assert_eq!(ran.result()["steps"].as_array().unwrap().len(), 6);
    assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
    assert!(
        !fs::read_to_string("/proc/self/mountinfo")
            .unwrap()
            .contains(parent.path().to_str().unwrap())
    );
}

#[test]
fn an_interrupted_demo_leaves_nothing() {
    if !fuse_is_here("an_interrupted_demo_leaves_nothing") {
        return;
    }
    for milliseconds in [100, 700, 1500, 2500] {
        let parent = tempfile::tempdir().unwrap();
        let child =
            demo(parent.path()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        wait_until("the demo's directory", || {
            fs::read_dir(parent.path()).unwrap().next().is_some()
        });
        std::thread::sleep(Duration::from_millis(milliseconds));
        // It may be done already.
        let _ = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
        let ran = Ran::of(child.wait_with_output().unwrap());
        assert!(matches!(ran.code, Some(0 | 130)), "{:?} {}", ran.code, ran.stderr);
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0, "{milliseconds}");
    }
}

/// An ordinary user migrates under a limit on tasks: whole, or to an error, after which it goes on without
/// the limit; and comes back.
const UNDER_A_LIMIT: &str = r#"set -u
    user=$1 limit=$2 program=$3 root=$4
    node=/dev/strongroom-test-$$
    mknod -m 666 $node c 10 229 && mount --bind $node /dev/fuse && rm $node || exit 9
    as() { setpriv --reuid $user --regid $user --clear-groups -- "$@"; }
    migrate() {
        command=$1; shift
        as "$@" "$program" migrate $command --vault $root/vault --passphrase-file $root/passphrase
    }
    encrypt() {
        as "$@" "$program" migrate encrypt $root/data --vault $root/vault --mount $root/mount --yes \
            --passphrase-file $root/passphrase --config $root/app.yaml --keep-originals \
            --kdf-memory 64 --kdf-iterations 1
    }
    encrypt prlimit --nproc=$limit >&2
    echo "code $?"
    as mountpoint -q $root/mount || find $root/mount -mindepth 1 2>/dev/null | sed 's/^/bare /'
    migrate verify env >&2 || migrate resume env >&2 || encrypt env >&2 || exit 10
    migrate verify env >&2 || exit 11
    as "$program" migrate rollback --vault $root/vault --passphrase-file $root/passphrase --yes >&2 || exit 12
"#;

#[test]
fn under_a_limit_on_tasks_a_migration_is_whole_or_goes_on() {
    let test = "under_a_limit_on_tasks_a_migration_is_whole_or_goes_on";
    if !fuse_is_here(test) || !root_is_here(test) {
        return;
    }
    // Whom no other processes count for; fusermount3(1) wants a name.
    const USER: &str = "mail";
    let place = tempfile::tempdir().unwrap();
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let program = place.path().join("strongroom");
    // By a process of its own: see execve(2), `ETXTBSY`.
    run(Command::new("cp").arg(strongroom().get_program()).arg(&program)).expect(0);
    let (mut failed, mut made) = (0, 0);
    for limit in [1, 4, 8, 10, 12, 14, 16, 20, 24, 64] {
        let store = Store::new();
        run(Command::new("chown").args(["-hR", &format!("{USER}:{USER}")]).arg(&store.root))
            .expect(0);
        let before = Image::of(&store.data());
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "slave", "sh", "-c", UNDER_A_LIMIT, "sh", USER]);
        command.arg(limit.to_string()).arg(&program).arg(&store.root);
        command.env("HOME", &store.root).env_remove("CREDENTIALS_DIRECTORY");
        let ran = run(command.current_dir(&store.root)).expect(0);
        match ran.stdout.as_str() {
            "code 0\n" => made += 1,
            // No panic, no signal, and nothing in the bare mount point.
            code => {
                assert!(!["code 101\n", "code 134\n"].contains(&code), "{limit}: {}", ran.stderr);
                assert!(code.starts_with("code ") && code.lines().count() == 1, "{limit}: {code}");
                // No process for the mount.
                assert!(limit > 1 || ran.stderr.contains("limit on tasks"), "{}", ran.stderr);
                failed += 1;
            }
        }
        expect_back(&store, &before);
    }
    assert!(failed > 0 && made > 0, "{failed} failed, {made} whole");
}

#[test]
fn everything_works_as_an_ordinary_user() {
    as_an_ordinary_user("everything_works_as_an_ordinary_user");
}
