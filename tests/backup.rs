//! Backups, as a person or a script makes and restores them with the program.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;
use support::posix::root_is_here;
use support::{Place, Ran, fuse_is_here, kill, run, strongroom, wait_until};
use tempfile::TempDir;

const CHEAP: [&str; 4] = ["--kdf-memory", "64", "--kdf-iterations", "1"];

struct Room {
    directory: TempDir,
}

impl Room {
    /// A store with a database, some files, configuration and a secret.
    fn new() -> Self {
        let room = Self { directory: tempfile::tempdir().unwrap() };
        let source = room.path("app");
        fs::create_dir_all(source.join("memory/semantic")).unwrap();
        fs::create_dir_all(source.join("models")).unwrap();
        fs::write(source.join("memory/semantic/facts.txt"), "facts").unwrap();
        fs::write(source.join("models/large.bin"), vec![7; 100_000]).unwrap();
        fs::write(source.join("notes"), "first").unwrap();
        symlink("notes", source.join("link")).unwrap();
        let database = rusqlite::Connection::open(source.join("app.db")).unwrap();
        database.execute_batch("create table t (x); insert into t values (1);").unwrap();
        fs::create_dir(room.path("config")).unwrap();
        fs::write(room.path("config/app.yaml"), "key: value\n").unwrap();
        let passphrase = room.path("passphrase");
        fs::write(&passphrase, "correct horse\n").unwrap();
        fs::set_permissions(&passphrase, fs::Permissions::from_mode(0o600)).unwrap();
        room
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = strongroom();
        command.arg("backup").args(words).current_dir(self.directory.path());
        for (name, below) in [
            ("HOME", "home"),
            ("XDG_CONFIG_HOME", "home/config"),
            ("XDG_DATA_HOME", "home/data"),
            ("XDG_STATE_HOME", "home/state"),
        ] {
            command.env(name, self.path(below));
        }
        command.env_remove("STRONGROOM_PROFILE").env_remove("XDG_RUNTIME_DIR");
        command
    }

    fn run(&self, words: &[&str]) -> Ran {
        run(&mut self.command(words))
    }

    fn create(&self, more: &[&str]) -> PathBuf {
        let words: Vec<&str> = ["create", "app", "--output", "out", "--json"]
            .iter()
            .chain(&["--passphrase-file", "passphrase"])
            .chain(&CHEAP)
            .chain(more)
            .copied()
            .collect();
        let result = self.run(&words).expect(0).result();
        assert_eq!(result["ok"], true);
        PathBuf::from(result["archive"].as_str().unwrap())
    }

    fn restore(&self, archive: &Path, more: &[&str]) -> Ran {
        let words: Vec<&str> = ["restore", archive.to_str().unwrap(), "--json"]
            .iter()
            .chain(&["--passphrase-file", "passphrase"])
            .chain(more)
            .copied()
            .collect();
        self.run(&words)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    fn names(&self, directory: &str) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.path(directory))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn same(&self, left: &str, right: &str) {
        let diff = Command::new("diff")
            .args(["-r", "--no-dereference"])
            .args([self.path(left), self.path(right)])
            .output()
            .unwrap();
        assert!(diff.status.success(), "{}", String::from_utf8_lossy(&diff.stdout));
    }
}

#[test]
fn made_listed_verified_restored() {
    let room = Room::new();
    let archive = room.create(&["--tag", "the first"]);
    assert_eq!(fs::metadata(&archive).unwrap().permissions().mode() & 0o777, 0o600);
    let name = archive.file_name().unwrap().to_str().unwrap();
    assert!(name.starts_with("app-") && name.ends_with(".tar.zst.enc"), "{name}");
    assert_eq!(room.names("out").len(), 3, "{:?}", room.names("out"));

    let listed = room.run(&["list", "out", "--json"]).expect(0).result();
    assert_eq!(listed["backups"][0]["tag"], "the first");
    assert_eq!(listed["backups"][0]["components"][0]["kind"], "SQLite");
    let archive_text = archive.to_str().unwrap();
    let info = room.run(&["info", archive_text, "--json"]).expect(0).result();
    assert_eq!(info["authenticated"], false);
    let secret = ["--passphrase-file", "passphrase"];
    let info =
        room.run(&["info", archive_text, "--json", "--files", secret[0], secret[1]]).expect(0);
    assert!(info.stdout.contains("memory/semantic/facts.txt"));
    assert_eq!(info.result()["metadata"]["type"], "full");
    assert_eq!(info.result()["authenticated"], true);
    for how in [&["--checksum"][..], &secret, &[secret[0], secret[1], "--test-restore"]] {
        let verify = ["verify", archive_text, "--json"];
        let words: Vec<&str> = verify.iter().chain(how).copied().collect();
        let verified = room.run(&words).expect(0).result();
        assert_eq!(verified["verified"], 1);
    }

    let restored = room.restore(&archive, &["--target", "there"]).expect(0).result();
    assert_eq!(restored["stores"][0]["outcome"], "sound");
    room.same("app", "there");
    // Another secret, and none.
    fs::write(room.path("wrong"), "wrong\n").unwrap();
    room.run(&["restore", archive_text, "--target", "x", "--passphrase-file", "wrong"]).expect(10);
    room.run(&["restore", archive_text, "--target", "x"]).expect(24);
    assert!(!room.path("x").exists());
}

#[test]
fn the_passphrase_on_standard_input() {
    let room = Room::new();
    let archive = room.create(&[]);
    let mut child = room
        .command(&["restore", archive.to_str().unwrap(), "--password-stdin", "--target", "there"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    use std::io::Write as _;
    child.stdin.take().unwrap().write_all(b"correct horse\n").unwrap();
    assert!(child.wait().unwrap().success());
    room.same("app", "there");
}

#[test]
fn a_chain_with_deletions_and_its_retention() {
    let room = Room::new();
    let mut kept = Vec::new();
    for (round, kind) in
        ["full", "incremental", "incremental", "differential", "full"].into_iter().enumerate()
    {
        let archive = room.create(&["--type", kind]);
        let copy = format!("kept {round}");
        let copied = Command::new("cp")
            .arg("-a")
            .args([room.path("app"), room.path(&copy)])
            .status()
            .unwrap();
        assert!(copied.success());
        kept.push((archive, copy));
        fs::write(room.path(&format!("app/new {round}")), "new").unwrap();
        let gone = if round == 0 { "notes".to_owned() } else { format!("new {}", round - 1) };
        fs::remove_file(room.path("app").join(gone)).unwrap();
    }
    for (round, (archive, copy)) in kept.iter().enumerate() {
        let target = format!("restored {round}");
        room.restore(archive, &["--target", &target]).expect(0);
        room.same(copy, &target);
    }
    let full = kept[0].0.to_str().unwrap();
    room.run(&["delete", full, "--yes"]).expect(37);
    // Without a terminal nobody confirms.
    room.run(&["delete", kept[4].0.to_str().unwrap()]).expect(23);
    room.run(&["cleanup", "out"]).expect(2);
    let shown = room.run(&["cleanup", "out", "--keep", "2", "--dry-run", "--json"]).expect(0);
    assert_eq!(shown.result()["deleted"].as_array().unwrap().len(), 2);
    let before = room.names("out").len();
    let done = room.run(&["cleanup", "out", "--keep", "2", "--json"]).expect(0).result();
    assert_eq!(done["deleted"].as_array().unwrap().len(), 2);
    assert_eq!(room.names("out").len(), before - 4);
    for (archive, copy) in [&kept[0], &kept[3], &kept[4]] {
        fs::remove_dir_all(room.path("again")).unwrap_or_default();
        room.restore(archive, &["--target", "again"]).expect(0);
        room.same(copy, "again");
    }
    room.run(&["delete", full, "--yes", "--dependents"]).expect(0);
    // A chain that lost its beginning.
    let first = room.create(&[]);
    let second = room.create(&["--type", "incremental"]);
    fs::remove_file(&first).unwrap();
    room.restore(&second, &["--target", "never"]).expect(37);
    let listed = room.run(&["list", "out"]).expect(0);
    assert!(listed.stdout.contains("cannot be restored"), "{}", listed.stdout);
}

#[test]
fn what_is_replaced_is_saved_first() {
    let room = Room::new();
    let archive = room.create(&["--exclude", "models"]);
    fs::write(room.path("app/notes"), "second").unwrap();
    fs::write(room.path("app/later"), "later").unwrap();
    room.restore(&archive, &[]).expect(15);
    assert_eq!(room.read("app/notes"), "second");
    let shown = room.restore(&archive, &["--dry-run"]).expect(0);
    assert_eq!(shown.result()["dry_run"], true);
    assert_eq!(room.read("app/notes"), "second");

    room.restore(&archive, &["--merge"]).expect(0);
    assert_eq!((room.read("app/notes"), room.read("app/later")), ("second".into(), "later".into()));

    let forced = room.restore(&archive, &["--force"]).expect(0).result();
    assert_eq!(room.read("app/notes"), "first");
    assert!(!room.path("app/later").exists());
    // What the backup leaves out stays.
    assert_eq!(fs::metadata(room.path("app/models/large.bin")).unwrap().len(), 100_000);
    let safety = PathBuf::from(forced["safety_backup"].as_str().unwrap());
    room.restore(&safety, &["--target", "before"]).expect(0);
    assert_eq!(
        (room.read("before/notes"), room.read("before/later")),
        ("second".into(), "later".into())
    );
    let count = room.names("out").len();
    room.restore(&archive, &["--force", "--no-safety-backup"]).expect(0);
    assert_eq!(room.names("out").len(), count);
}

/// Interrupts a command as soon as a name with this beginning is in a directory.
fn interrupted_in(room: &Room, words: &[&str], directory: &str, begins: &str) -> Ran {
    let mut command = room.command(words);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_until("its work to begin", || {
        room.names(directory).iter().any(|name| name.starts_with(begins))
    });
    kill(child.id(), "INT");
    Ran::of(child.wait_with_output().unwrap())
}

#[test]
fn an_interrupt_leaves_all_as_it_was() {
    const ENOUGH: usize = 200 << 20;
    let room = Room::new();
    // More than is read, compressed or written between two looks at a directory.
    let mut noise = vec![0; ENOUGH];
    let mut random = fs::File::open("/dev/urandom").unwrap();
    std::io::Read::read_exact(&mut random, &mut noise).unwrap();
    fs::write(room.path("app/models/larger.bin"), &noise).unwrap();
    fs::write(room.path("key"), &noise[..32]).unwrap();
    fs::set_permissions(room.path("key"), fs::Permissions::from_mode(0o600)).unwrap();
    drop(noise);
    fs::create_dir(room.path("out")).unwrap();
    let create = ["create", "app", "--output", "out", "--key-file", "key"];
    let told = interrupted_in(&room, &create, "out", ".strongroom-partial-").expect(130);
    assert!(told.stderr.contains("interrupted; no backup was made"), "{}", told.stderr);
    assert!(!room.names("out").iter().any(|name| name.contains("app")), "{:?}", room.names("out"));
    assert!(!room.names("out").iter().any(|name| name.contains("partial")));

    room.run(&create).expect(0);
    let archive = room.names("out").into_iter().find(|name| name.ends_with(".enc")).unwrap();
    fs::create_dir(room.path("target")).unwrap();
    fs::write(room.path("target/notes"), "mine").unwrap();
    let archive = format!("out/{archive}");
    let restore = ["restore", &archive, "--target", "target", "--force", "--key-file", "key"];
    let before = room.names("out");
    let told = interrupted_in(&room, &restore, ".", ".strongroom-restore-").expect(130);
    assert!(told.stderr.contains("everything is as it was before"), "{}", told.stderr);
    assert_eq!(
        (room.names("target"), room.read("target/notes")),
        (vec!["notes".into()], "mine".into())
    );
    assert!(!room.names(".").iter().any(|name| name.starts_with(".strongroom-")));
    assert_eq!(room.names("out"), before);
}

/// However it is read back, what is named is whole.
#[test]
fn every_way_to_read_a_backup_back() {
    let room = Room::new();
    for (number, how) in
        [&["--validate"][..], &["--no-verify"], &["--no-compress"], &[]].iter().enumerate()
    {
        let archive = room.create(how);
        let text = archive.to_str().unwrap();
        room.run(&["verify", text, "--passphrase-file", "passphrase"]).expect(0);
        let target = format!("target{number}");
        room.restore(&archive, &["--target", &target]).expect(0);
        assert_eq!(room.names(&target), room.names("app"));
    }
    let both = ["create", "app", "--output", "out", "--validate", "--no-verify"];
    room.run(&both).expect(2);
}

/// What an interrupted restore took away is back before it is decided what goes.
#[test]
fn what_a_backup_leaves_out_outlives_an_interrupted_restore() {
    let room = Room::new();
    let archive = room.create(&["--exclude", "models"]);
    let name = ".strongroom-restore-0123456789abcdef";
    let staging = room.path("app").join(name);
    fs::create_dir_all(staging.join("old")).unwrap();
    let inode = fs::metadata(room.path("app/models")).unwrap().ino();
    fs::rename(room.path("app/models"), staging.join("old/0")).unwrap();
    let step = serde_json::json!({
        "target": "models", "new": null, "old": [format!("{name}/old/0"), inode],
    });
    fs::write(staging.join("journal.json"), serde_json::json!({ "steps": [step] }).to_string())
        .unwrap();
    let refused = room.restore(&archive, &[]);
    assert_ne!(refused.code, Some(0));
    let restored = room.restore(&archive, &["--force"]).expect(0).result();
    assert_eq!(restored["undone"].as_array().unwrap().len(), 1);
    assert_eq!(fs::metadata(room.path("app/models/large.bin")).unwrap().len(), 100_000);
}

/// Directories that their owner may not write are replaced like others, and come back as they were.
#[test]
fn what_its_owner_may_not_write() {
    let room = Room::new();
    let (fixed, below) = (room.path("app/fixed"), room.path("app/fixed/below"));
    fs::create_dir_all(&below).unwrap();
    let set_modes = |mode: u32| {
        for path in [&fixed, &below] {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        }
    };
    let write = |text: &str| {
        set_modes(0o755);
        fs::write(below.join("file"), text).unwrap();
        set_modes(0o555);
    };
    write("first");
    let archive = room.create(&["--exclude", "models"]);
    let whole = room.create(&[]);
    // All but what the backup leaves out; a part; all of it.
    for (archive, more) in [(&archive, &[][..]), (&archive, &["fixed"]), (&whole, &[])] {
        write("second");
        let restored = room.restore(archive, &[more, &["--force"]].concat()).expect(0);
        assert_eq!(restored.stderr, "", "nothing is told");
        assert_eq!(room.read("app/fixed/below/file"), "first");
        for path in [&fixed, &below] {
            assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o555);
        }
        let left = |names: Vec<String>| names.iter().any(|name| name.starts_with(".strongroom"));
        assert!(!left(room.names("app")) && !left(room.names("")), "nothing is left");
    }
    set_modes(0o755);
}

#[test]
fn components_paths_and_configuration() {
    let room = Room::new();
    let archive = room.create(&["--config", "config/app.yaml"]);
    room.restore(&archive, &["--target", "one", "--component", "app"]).expect(0);
    assert_eq!(room.names("one"), ["app.db"]);
    room.restore(&archive, &["memory/semantic", "--target", "two"]).expect(0);
    assert_eq!(room.read("two/memory/semantic/facts.txt"), "facts");
    assert_eq!(room.names("two"), ["memory"]);
    let missing = room.restore(&archive, &["--target", "three", "--component", "app,nothing"]);
    let missing = missing.expect(38).result();
    assert!(missing["hint"].as_str().unwrap().contains("app"));
    room.restore(&archive, &["no/such/path", "--target", "three"]).expect(38);
    assert!(!room.path("three").exists());
    room.restore(&archive, &["--config-only", "--target", "four"]).expect(0);
    assert_eq!(room.names("four"), ["app.yaml"]);
    // Where it came from, and nothing beside it.
    fs::write(room.path("config/app.yaml"), "key: broken").unwrap();
    fs::write(room.path("config/other"), "other").unwrap();
    fs::write(room.path("app/notes"), "second").unwrap();
    room.restore(&archive, &["--config-only", "--force"]).expect(0);
    assert_eq!(room.read("config/app.yaml"), "key: value\n");
    assert_eq!(room.read("config/other"), "other");
    assert_eq!(room.read("app/notes"), "second");
    // Only some of it in the backup, and a term that means nothing.
    let part = room.create(&["--include", "app", "--name", "part"]);
    room.restore(&part, &["--target", "five"]).expect(0);
    assert_eq!(room.names("five"), ["app.db"]);
    let words = ["create", "app", "--output", "out", "--include", "nothing"];
    let words: Vec<&str> = words.into_iter().chain(["--passphrase-file", "passphrase"]).collect();
    room.run(&words).expect(38);
}

#[test]
fn in_every_form_and_secrets_never_plain() {
    let room = Room::new();
    for (more, end) in [
        (&["--compression", "gzip", "--compression-level", "9"][..], ".tar.gz.enc"),
        (&["--compression", "lz4"], ".tar.lz4.enc"),
        (&["--compression", "none"], ".tar.enc"),
        (&["--no-compress"], ".tar.enc"),
        (&["--no-encrypt"], ".tar.zst"),
        (&["--no-encrypt", "--no-compress"], ".tar"),
    ] {
        let archive = room.create(more);
        assert!(archive.to_str().unwrap().ends_with(end), "{}", archive.display());
        let target = format!("restored{}", end.replace('.', "-"));
        let _ = fs::remove_dir_all(room.path(&target));
        room.restore(&archive, &["--target", &target]).expect(0);
        room.same("app", &target);
    }
    // Sealed or explicitly not: never by accident.
    room.run(&["create", "app", "--output", "out"]).expect(24);
    fs::write(room.path("app/.env"), "API_KEY=0123456789abcdef").unwrap();
    room.run(&["create", "app", "--output", "out", "--no-encrypt"]).expect(24);
    let plain = room.create(&["--no-encrypt", "--no-compress"]);
    let bytes = fs::read(&plain).unwrap();
    let seen = |text: &[u8]| bytes.windows(text.len()).any(|part| part == text);
    assert!(seen(b"facts") && !seen(b"0123456789abcdef"));
    room.restore(&plain, &["--target", "with-env"]).expect(0);
    room.same("app", "with-env");
    room.run(&["restore", plain.to_str().unwrap(), "--target", "without"]).expect(24);
    assert!(!room.path("without").exists());
}

#[test]
fn damage_is_found_and_nothing_restored() {
    let room = Room::new();
    let archive = room.create(&[]);
    let whole = fs::read(&archive).unwrap();
    let text = archive.to_str().unwrap();
    for damage in 0..4usize {
        let mut bytes = whole.clone();
        match damage {
            0 => bytes.truncate(whole.len() - 1),
            1 => bytes.truncate(100),
            2 => bytes[whole.len() / 2] ^= 1,
            _ => bytes.extend(b"more"),
        }
        fs::write(&archive, bytes).unwrap();
        room.run(&["verify", text, "--checksum"]).expect(29);
        room.run(&["verify", text, "--passphrase-file", "passphrase"]).expect(29);
        room.restore(&archive, &["--force"]).expect(29);
        room.restore(&archive, &["--target", "never"]).expect(29);
        assert_eq!(room.read("app/notes"), "first");
        assert!(!room.path("never").exists());
    }
    fs::write(&archive, &whole).unwrap();
    let all = room.create(&[]);
    fs::write(&all, b"junk").unwrap();
    let verified = room
        .run(&["verify", "out", "--passphrase-file", "passphrase", "--json"])
        .expect(29)
        .result();
    let wells: Vec<&Value> =
        verified["backups"].as_array().unwrap().iter().map(|one| &one["ok"]).collect();
    assert_eq!(wells, [&Value::Bool(true), &Value::Bool(false)]);
    room.run(&["info", "app/notes"]).expect(29);
}

/// A small filesystem, gone with this.
struct Small(PathBuf);

impl Small {
    fn new(path: PathBuf, size: &str) -> Self {
        fs::create_dir(&path).unwrap();
        let options = format!("size={size}");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &options, "small"]).arg(&path);
        assert!(mount.status().unwrap().success(), "{mount:?}");
        Self(path)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

/// A full disk stops a restore and leaves the target as it was; holes need no room.
#[test]
fn what_does_not_fit_is_not_restored() {
    if !root_is_here("what_does_not_fit_is_not_restored") {
        return;
    }
    let room = Room::new();
    let small = Small::new(room.path("small"), "1m");
    fs::File::create(room.path("app/sparse")).unwrap().set_len(1 << 30).unwrap();
    let holes = room.create(&[]);
    let random: Vec<u8> =
        (0..3u32 << 18).flat_map(|at| at.wrapping_mul(0x9e37_79b1).to_le_bytes()).collect();
    fs::write(room.path("app/full"), random).unwrap();
    let full = room.create(&[]);

    let options = ["--target", "small/app", "--force", "--no-safety-backup"];
    room.restore(&holes, &options).expect(0);
    assert_eq!(fs::metadata(small.0.join("app/sparse")).unwrap().len(), 1 << 30);
    fs::remove_file(small.0.join("app/sparse")).unwrap();
    fs::write(small.0.join("app/notes"), "since").unwrap();
    let refused = room.restore(&full, &options).expect(26);
    assert!(refused.stdout.contains("everything is as it was before"), "{}", refused.stdout);
    assert_eq!(room.read("small/app/notes"), "since");
    assert!(!small.0.join("app/full").exists());
    assert_eq!(room.names("small"), ["app"], "nothing is left over");
}

#[test]
fn backups_inside_of_their_source() {
    let room = Room::new();
    let before = room.names("app");
    let words = ["create", "app", "--output", "app", "--passphrase-file", "passphrase"];
    let refused = room.run(&words).expect(2);
    assert!(refused.stderr.contains("--output another directory"), "{}", refused.stderr);
    assert_eq!(room.names("app"), before, "nothing is left in it");
    let inside =
        [&["create", "app", "--output", "app/backups", "--json"], &words[4..], &CHEAP].concat();
    for _ in 0..2 {
        let made = room.run(&inside).expect(0).result();
        let archive = PathBuf::from(made["archive"].as_str().unwrap());
        let options = ["--target", "restored", "--force", "--no-safety-backup"];
        room.restore(&archive, &options).expect(0);
        let inside = fs::read_dir(room.path("restored/backups"));
        assert!(inside.is_err() || inside.unwrap().next().is_none(), "no backup is in a backup");
    }
}

#[test]
fn an_ordinary_user_restores_what_root_archived() {
    if !root_is_here("an_ordinary_user_restores_what_root_archived") {
        return;
    }
    let room = Room::new();
    chown(room.path("app/notes"), Some(12_345), Some(54_321)).unwrap();
    fs::set_permissions(room.path("app/notes"), fs::Permissions::from_mode(0o6755)).unwrap();
    let archive = room.create(&[]);
    let program = room.path("strongroom");
    fs::copy(strongroom().get_program(), &program).unwrap();
    let open = fs::Permissions::from_mode(0o755);
    for path in [room.directory.path().to_owned(), room.path("out")] {
        fs::set_permissions(path, open.clone()).unwrap();
    }
    fs::create_dir(room.path("theirs")).unwrap();
    for path in [room.path("theirs"), room.path("passphrase"), archive.clone()] {
        chown(path, Some(support::NOBODY), Some(support::NOBODY)).unwrap();
    }
    let nobody = support::NOBODY.to_string();
    let mut command = Command::new("setpriv");
    command.args(["--reuid", &nobody, "--regid", &nobody, "--clear-groups", "--"]).arg(program);
    command.args(["backup", "restore", archive.to_str().unwrap(), "--target", "theirs/app"]);
    command.args(["--passphrase-file", "passphrase", "--json"]).current_dir(room.directory.path());
    let told = run(&mut command).expect(0);
    let restored = fs::metadata(room.path("theirs/app/notes")).unwrap();
    assert_eq!((restored.uid(), restored.gid()), (support::NOBODY, support::NOBODY));
    assert_eq!(restored.mode() & 0o7777, 0o755, "nobody else may act as them");
    room.same("app", "theirs/app");
    assert!(told.result()["without_owner"].as_u64().unwrap() > 0);
    assert!(told.stdout.contains("they are yours now"), "{}", told.stdout);
}

#[test]
fn without_threads_there_is_an_error_or_a_backup() {
    if !root_is_here("without_threads_there_is_an_error_or_a_backup") {
        return;
    }
    // Whom no other test's processes count for.
    const USER: &str = "61234";
    let room = Room::new();
    // By a process of its own: see execve(2), `ETXTBSY`.
    let built = strongroom();
    run(Command::new("cp").arg(built.get_program()).arg(room.path("strongroom"))).expect(0);
    // Enough for several threads to look at.
    for number in 0..200 {
        fs::write(room.path(&format!("app/many{number}")), "text").unwrap();
    }
    run(Command::new("chown").args(["-R", USER]).arg(room.directory.path())).expect(0);
    let (mut failed, mut made) = (0, 0);
    for limit in [1, 2, 4, 6, 8, 16, 32] {
        let output = format!("out/{limit}");
        let mut command = Command::new("setpriv");
        command.args(["--reuid", USER, "--regid", USER, "--clear-groups", "--", "prlimit"]);
        command.arg(format!("--nproc={limit}")).arg(room.path("strongroom"));
        command.args(["backup", "create", "app", "--output", &output]);
        command.args(["--passphrase-file", "passphrase"]).args(CHEAP);
        command.current_dir(room.directory.path()).env("HOME", room.path("home"));
        let ran = run(&mut command);
        let written = fs::read_dir(room.path(&output)).map_or(0, |entries| {
            let is_archive = |name: &str| name.contains(".tar.") || name.contains("partial");
            entries
                .filter(|entry| is_archive(entry.as_ref().unwrap().file_name().to_str().unwrap()))
                .count()
        });
        if ran.code == Some(0) {
            made += 1;
            assert_eq!(written, 1, "{limit}");
        } else {
            failed += 1;
            assert_eq!((ran.code, written), (Some(1), 0), "{limit}: {}", ran.stderr);
            assert!(ran.stderr.contains("no thread can be started"), "{limit}: {}", ran.stderr);
        }
    }
    assert!(failed > 0 && made > 0, "{failed} failed, {made} made");
}

/// Waits for a line of a child's, which says that it is ready.
fn ready(child: &mut std::process::Child) {
    use std::io::BufRead as _;
    let mut line = String::new();
    std::io::BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
}

#[test]
fn a_live_database_is_copied_and_other_writers_refused() {
    let room = Room::new();
    let script = "import sqlite3, sys
c = sqlite3.connect('app/app.db')
c.execute('pragma journal_mode=wal')
c.execute('insert into t values (2)')
c.commit()
print('ready', flush=True)
sys.stdin.readline()";
    let python = |script: &str| {
        let mut child = Command::new("python3")
            .args(["-c", script])
            .current_dir(room.directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        ready(&mut child);
        child
    };
    let mut writer = python(script);
    let archive = room.create(&[]);
    room.restore(&archive, &["--target", "copied"]).expect(0);
    assert!(!room.path("copied/app.db-wal").exists());
    let rows: i64 = rusqlite::Connection::open(room.path("copied/app.db"))
        .unwrap()
        .query_row("select count(*) from t", [], |row| row.get(0))
        .unwrap();
    assert_eq!(rows, 2);
    // Nor is it replaced under its writer.
    room.restore(&archive, &["--force"]).expect(28);
    drop(writer.stdin.take());
    writer.wait().unwrap();

    let script = "import sys
f = open('app/notes', 'a')
print('ready', flush=True)
sys.stdin.readline()";
    let mut writer = python(script);
    let words = ["create", "app", "--output", "out", "--passphrase-file", "passphrase"];
    let refused = room.run(&words).expect(28);
    assert!(refused.stderr.contains("python3") && refused.stderr.contains("notes"));
    room.create(&["--live"]);
    room.create(&["--exclude", "notes"]);
    drop(writer.stdin.take());
    writer.wait().unwrap();
}

/// What shows a store in no other way than by what it begins with is found when it is read.
#[test]
fn a_store_of_an_unlikely_file_is_found_all_the_same() {
    let room = Room::new();
    fs::write(room.path("app/memory/state"), b"REDIS0011\xfe\0 and no more").unwrap();
    let words = ["create", "app", "--output", "out", "--json", "--passphrase-file", "passphrase"];
    let kinds = |more: &[&str]| {
        let words: Vec<&str> = words.iter().chain(&CHEAP).chain(more).copied().collect();
        let made = room.run(&words).expect(0).result();
        let components = made["components"].as_array().unwrap().iter();
        let mut kinds: Vec<_> =
            components.map(|one| one["kind"].as_str().unwrap().to_owned()).collect();
        kinds.sort();
        kinds
    };
    assert_eq!(kinds(&[]), ["Redis", "SQLite"]);
    // What is not read is looked at before.
    assert_eq!(kinds(&["--type", "incremental"]), ["Redis", "SQLite"]);
    // Sealed apart.
    fs::rename(room.path("app/memory/state"), room.path("app/memory/state.key")).unwrap();
    assert_eq!(kinds(&["--no-encrypt"]), ["Redis", "SQLite"]);
    // What there is to say of the keys is said once.
    fs::write(room.path("passphrase"), "another\n").unwrap();
    let ran = room.run(&[&words[..], &CHEAP].concat()).expect(0);
    assert_eq!(ran.stdout.matches("the secret does not open").count(), 1, "{}", ran.stdout);
}

/// Sets it when it goes, also by a panic.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The source is listed before the costs of a passphrase's key are measured, which takes a moment.
#[test]
fn a_file_that_is_written_now_and_then_hinders_no_backup() {
    let room = Room::new();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                fs::write(room.path("app/notes"), "again").unwrap();
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        let _stop = Stop(&stop);
        let words = ["create", "app", "-v", "--output", "out", "--passphrase-file", "passphrase"];
        // It may be met being written once more, or not at all.
        let made = (0..20).map(|_| room.run(&words)).find(|ran| {
            ran.code == Some(0) && ran.stderr.contains("app/notes changed: every file is looked at")
        });
        assert!(made.is_some());
    });
    assert!(room.names("out").iter().any(|name| name.ends_with(".enc")));
}

/// An app that opens its database only for moments: nobody holds it when the backup looks.
#[test]
fn a_database_that_is_opened_for_moments_is_copied_when_it_changes() {
    let room = Room::new();
    let database = room.path("app/app.db");
    rusqlite::Connection::open(&database)
        .unwrap()
        .execute_batch("create table big (x); insert into big values (zeroblob(50000000));")
        .unwrap();
    let stop = AtomicBool::new(false);
    let (last, made) = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut last = 1;
            while !stop.load(Ordering::Relaxed) {
                let connection = rusqlite::Connection::open(&database).unwrap();
                connection.busy_timeout(Duration::from_secs(30)).unwrap();
                connection.execute("insert into t values (?1)", (last + 1,)).unwrap();
                last += 1;
                drop(connection);
                std::thread::sleep(Duration::from_millis(5));
            }
            last
        });
        let words =
            ["create", "app", "--output", "out", "--json", "--passphrase-file", "passphrase"];
        let words: Vec<&str> = words.iter().chain(&CHEAP).copied().collect();
        let made: Vec<Ran> = (0..3).map(|_| room.run(&words)).collect();
        stop.store(true, Ordering::Relaxed);
        (writer.join().unwrap(), made)
    });
    for (number, made) in made.into_iter().enumerate() {
        let result = made.expect(0).result();
        let target = format!("restored-{number}");
        let archive = Path::new(result["archive"].as_str().unwrap());
        room.restore(archive, &["--target", &target]).expect(0);
        let restored = rusqlite::Connection::open(room.path(&target).join("app.db")).unwrap();
        let check: String =
            restored.query_row("pragma integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(check, "ok");
        // Every number from the first to some, and none twice.
        let found: (i64, i64) = restored
            .query_row("select count(distinct x), max(x) from t", [], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
            .unwrap();
        assert_eq!(found.0, found.1);
        assert!(found.1 <= last);
    }
}

#[test]
fn from_the_backup_and_its_passphrase_alone_after_the_vault_is_lost() {
    if !fuse_is_here("from_the_backup_and_its_passphrase_alone_after_the_vault_is_lost") {
        return;
    }
    let room = Room::new();
    let place = Place::new();
    let mount = place.mount().to_owned();
    let copied = Command::new("cp").arg("-a").arg(room.path("app/.")).arg(&mount).status().unwrap();
    assert!(copied.success());
    let backup = |more: &[&str], secret: &Path| {
        let mut command = room.command(&["create", mount.to_str().unwrap(), "--output", "out"]);
        command.args(CHEAP).args(["--json", "--passphrase-file"]).arg(secret).args(more);
        let result = run(&mut command).expect(0).result();
        PathBuf::from(result["archive"].as_str().unwrap())
    };
    let own = backup(&[], &room.path("passphrase"));
    let of_vault = backup(&["--vault-keys", "--name", "vault-keys"], &place.passphrase);
    let config = fs::read(place.vault.join("vault.json")).unwrap();
    place.umount();
    let vault_secret = fs::read(&place.passphrase).unwrap();
    fs::remove_dir_all(&place.vault).unwrap();
    // Nothing but the two files and what a person remembers.
    let elsewhere = tempfile::tempdir().unwrap();
    for (archive, secret) in [(own, b"correct horse\n".to_vec()), (of_vault, vault_secret)] {
        let file = elsewhere.path().join(archive.file_name().unwrap());
        fs::rename(&archive, &file).unwrap();
        let passphrase = elsewhere.path().join("remembered");
        fs::write(&passphrase, secret).unwrap();
        let target = file.with_extension("target");
        let keys = file.with_extension("keys");
        for words in
            [["--target", target.to_str().unwrap()], ["--vault-config", keys.to_str().unwrap()]]
        {
            let mut restore = room.command(&["restore", file.to_str().unwrap()]);
            restore.args(words).arg("--passphrase-file").arg(&passphrase);
            run(&mut restore).expect(0);
        }
        let diff = Command::new("diff")
            .args(["-r", "--no-dereference"])
            .args([&room.path("app"), &target])
            .output()
            .unwrap();
        assert!(diff.status.success(), "{}", String::from_utf8_lossy(&diff.stdout));
        assert_eq!(fs::read(keys.join("vault.json")).unwrap(), config);
    }
}

#[test]
fn events_reach_a_command() {
    let room = Room::new();
    let log = room.path("events");
    let hook = format!("cat >> '{}'", log.display());
    let archive = room.create(&["--on-event", &hook]);
    let events = || -> Vec<Value> {
        fs::read_to_string(&log)
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    };
    let names: Vec<Value> = events().iter().map(|event| event["event"].clone()).collect();
    assert_eq!(names, ["backup-started", "backup-completed"]);
    assert!(events()[1]["size"].as_u64().unwrap() > 0);
    let mut failing = room.command(&["create", "app", "--output", "out", "--include", "nothing"]);
    failing.args(["--passphrase-file", "passphrase", "--on-event", &hook]);
    run(&mut failing).expect(38);
    assert_eq!(events().last().unwrap()["event"], "backup-failed");
    assert_eq!(events().last().unwrap()["error"], "not-in-backup");
    let told = |words: &[&str], code| {
        let mut command = room.command(words);
        command.args(["--passphrase-file", "passphrase", "--on-event", &hook]);
        run(&mut command).expect(code);
        events().last().unwrap()["event"].clone()
    };
    let file = archive.to_str().unwrap();
    assert_eq!(told(&["verify", file], 0), "backup-validated");
    assert_eq!(told(&["restore", file, "--target", "back"], 0), "restore-completed");
    let damaged = room.path("app-20200101-000000.tar.zst.enc");
    let whole = fs::read(&archive).unwrap();
    fs::write(&damaged, &whole[..whole.len() - 1]).unwrap();
    let file = damaged.to_str().unwrap();
    assert_eq!(told(&["verify", file], 29), "backup-invalid");
    assert_eq!(told(&["restore", file, "--target", "other"], 29), "restore-failed");
    // Whoever cannot be told does not spoil the backup.
    let mut deaf = room.command(&["create", "app", "--output", "out", "--on-event", "exit 3"]);
    deaf.args(["--passphrase-file", "passphrase"]);
    assert!(run(&mut deaf).expect(0).stderr.contains("event command"));
    for _ in 0..4 {
        room.create(&[]);
    }
    fs::write(
        room.path("app/large"),
        (0..3_000_000u32).flat_map(u32::to_le_bytes).collect::<Vec<_>>(),
    )
    .unwrap();
    room.create(&["--on-event", &hook]);
    assert_eq!(events().last().unwrap()["event"], "backup-unusual");
}

#[test]
fn schedules_are_files_that_run_and_tell_how_it_goes() {
    let room = Room::new();
    let schedule = |words: &[&str]| {
        let mut command = room.command(&["schedule"]);
        command.args(words).arg("--user").env("PATH", path_with_fakes(&room));
        run(&mut command)
    };
    schedule(&["show"]).expect(1);
    let create = [
        "create",
        "app",
        "--output",
        "out",
        "--frequency",
        "weekly",
        "--day",
        "sunday",
        "--time",
        "03:00",
        "--passphrase-file",
        "passphrase",
        "--keep",
        "2",
        "--scheduler",
    ];
    let create = |scheduler: &str| {
        let words: Vec<&str> =
            create.iter().chain(&[scheduler, "--json"]).chain(&CHEAP).copied().collect();
        schedule(&words).expect(0).result()
    };
    create("systemd");
    let timer = room.read("home/config/systemd/user/strongroom-backup-app.timer");
    assert!(timer.contains("OnCalendar=Sun *-*-* 03:00:00"), "{timer}");
    let service = room.read("home/config/systemd/user/strongroom-backup-app.service");
    assert!(service.contains("\"backup\" \"schedule\" \"run\" \"app\""), "{service}");
    assert!(room.read("systemctl-log").contains("--user enable --now strongroom-backup-app.timer"));
    // To cron: systemd's files go.
    create("cron");
    assert!(room.names("home/config/systemd/user").is_empty());
    assert!(room.read("crontab").contains("0 3 * * 0 "), "{}", room.read("crontab"));

    let shown = schedule(&["show", "--json"]).expect(0).result();
    assert_eq!(shown["state"]["last_good"], Value::Null);
    for _ in 0..3 {
        let ran = schedule(&["run", "app", "--json"]).expect(0).result();
        assert_eq!(ran["schedule"], "app");
    }
    // Two are kept, with their notes, and the lock.
    assert_eq!(room.names("out").len(), 5, "{:?}", room.names("out"));
    let listed = schedule(&["list", "--json"]).expect(0).result();
    assert_eq!(listed["schedules"][0]["state"]["last_result"], "success");
    assert_eq!(listed["schedules"][0]["overdue"], false);

    // It fails: the last good one stays known, and after a time it is overdue.
    fs::rename(room.path("passphrase"), room.path("lost")).unwrap();
    schedule(&["run", "app"]).expect(1);
    let shown = schedule(&["show", "--json"]).expect(0).result();
    assert_eq!(shown["state"]["last_result"], "failure");
    assert!(shown["state"]["last_good"].as_i64().unwrap() > 0);
    let state = room.path("home/state/strongroom/schedules/app.json");
    let text = fs::read_to_string(&state).unwrap();
    let good = shown["state"]["last_good"].as_i64().unwrap();
    let month_ago = (good - 31 * 86_400).to_string();
    fs::write(&state, text.replace(&good.to_string(), &month_ago)).unwrap();
    schedule(&["show"]).expect(39);
    schedule(&["list"]).expect(39);
    schedule(&["disable"]).expect(0);
    assert!(room.read("crontab").contains("# disabled: 0 3 * * 0"));
    schedule(&["show"]).expect(0);
    schedule(&["enable"]).expect(0);
    assert!(!room.read("crontab").contains("disabled"));
    schedule(&["delete"]).expect(0);
    assert_eq!(room.read("crontab"), "");
    schedule(&["list"]).expect(0);
    schedule(&["delete"]).expect(1);
    assert_eq!(room.names("out").len(), 5);

    // A calendar says nothing of how old is too old: there a failure counts.
    let when = ["--calendar", "0 */6 * * *", "--scheduler", "cron"];
    let secret = ["--passphrase-file", "passphrase"];
    schedule(&[&["create", "app", "--output", "out"][..], &when, &secret].concat()).expect(0);
    assert!(room.read("crontab").contains("0 */6 * * * "), "{}", room.read("crontab"));
    schedule(&["list"]).expect(0);
    schedule(&["run"]).expect(1);
    schedule(&["list"]).expect(39);
    schedule(&["show"]).expect(39);
}

/// A PATH with a crontab and a systemctl that only write down what they are told.
fn path_with_fakes(room: &Room) -> String {
    let fakes = room.path("fakes");
    fs::create_dir_all(&fakes).unwrap();
    let root = room.directory.path().display();
    let scripts = [
        ("systemctl", format!("#!/bin/sh\necho \"$@\" >> '{root}/systemctl-log'\n")),
        (
            "crontab",
            format!(
                "#!/bin/sh\nif [ \"$1\" = -l ]; then cat '{root}/crontab' 2>/dev/null; exit; fi\n\
                 cat > '{root}/crontab.new' && mv '{root}/crontab.new' '{root}/crontab'\n"
            ),
        ),
    ];
    for (name, text) in scripts {
        let path = fakes.join(name);
        if !path.exists() {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
    }
    format!("{}:{}", fakes.display(), std::env::var("PATH").unwrap())
}

#[test]
fn what_a_profile_does_not_enable_is_made_and_waits() {
    let room = Room::new();
    let root = room.directory.path().display();
    let text = format!(
        "name = \"mine\"\ndata = \"{root}/app\"\n\
         unlock = {{ passphrase-file = \"{root}/passphrase\" }}\n\
         [backup]\noutput = \"{root}/out\"\n\
         schedule = {{ enabled = false, frequency = \"daily\", time = \"04:00\" }}\n"
    );
    let profile = room.path("mine.toml");
    fs::write(&profile, text).unwrap();
    for path in [profile.as_path(), room.directory.path()] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o700)).unwrap();
    }
    let path = path_with_fakes(&room);
    let create = |more: &[&str]| {
        let words = ["schedule", "create", "--profile", "./mine.toml", "--user"];
        let mut command = room.command(&[&words[..], &["--scheduler", "cron"], more].concat());
        run(command.env("PATH", &path)).expect(0);
    };
    create(&[]);
    assert!(room.read("crontab").contains("# disabled: 0 4 * * *"), "{}", room.read("crontab"));
    create(&["--frequency", "daily", "--time", "05:00"]);
    let crontab = room.read("crontab");
    assert!(!crontab.contains("disabled") && crontab.contains("0 5 * * *"), "{crontab}");
    // As often as the profile says.
    create(&["--time", "06:30"]);
    let crontab = room.read("crontab");
    assert!(!crontab.contains("disabled") && crontab.contains("30 6 * * *"), "{crontab}");
}

/// The app's profile tells everything that the command line does not.
#[test]
fn a_profile_says_the_rest() {
    let room = Room::new();
    let profiles = room.path("home/config/strongroom/profiles");
    fs::create_dir_all(&profiles).unwrap();
    let root = room.directory.path().display();
    let text = format!(
        "name = \"mine\"\ndata = \"{root}/app\"\nmount = \"{root}/mount\"\n\
         sensitive = [\"notes\"]\n\
         [unlock]\npassphrase-file = \"{root}/passphrase\"\n\
         [[component]]\nname = \"semantic\"\nkind = \"files\"\npath = \"memory/semantic\"\n\
         [[component]]\nname = \"models\"\nkind = \"files\"\npath = \"models\"\nessential = false\n\
         [[config]]\nfile = \"{root}/config/app.yaml\"\n\
         [backup]\noutput = \"{root}/backups\"\ncompression = \"gzip\"\n\
         [backup.retention]\nkeep = 1\n\
         [[backup.plan]]\nname = \"daily\"\ntype = \"incremental\"\n"
    );
    let profile = profiles.join("mine.toml");
    fs::write(&profile, text).unwrap();
    fs::set_permissions(&profile, fs::Permissions::from_mode(0o600)).unwrap();
    let cheap = |words: &[&'static str]| -> Vec<&'static str> {
        words.iter().chain(&CHEAP).copied().collect()
    };
    let made = room.run(&cheap(&["create", "--json"])).expect(0).result();
    let archive = made["archive"].as_str().unwrap().to_owned();
    assert!(archive.contains("/backups/mine-") && archive.ends_with(".tar.gz.enc"), "{archive}");
    let restored = room.restore(Path::new(&archive), &["--target", "there"]).expect(0);
    assert!(restored.stderr.is_empty());
    assert!(!room.path("there/models").exists() && room.path("there/notes").exists());
    room.restore(Path::new(&archive), &["--target", "one", "--database", "semantic"]).expect(0);
    // What the profile unlocks with opens what bears its name.
    let verified = room.run(&["verify", &archive, "--json"]).expect(0).result();
    assert_eq!(verified["backups"][0]["how"], "whole and authentic");
    room.run(&["restore", &archive, "--target", "two"]).expect(0);
    room.run(&["info", &archive, "--files"]).expect(0);
    // A schedule keeps the profile's name, though nobody said it.
    let mut schedule = room.command(&["schedule", "create", "--user", "--scheduler", "cron"]);
    schedule.args(["--frequency", "daily", "--json"]).env("PATH", path_with_fakes(&room));
    let schedule = run(&mut schedule).expect(0).result();
    let words = schedule["schedule"]["backup"].as_array().unwrap();
    assert!(words.iter().any(|word| word.as_str().unwrap().ends_with("mine.toml")), "{words:?}");
    assert_eq!(room.read("one/memory/semantic/facts.txt"), "facts");
    room.run(&cheap(&["create", "--plan", "daily"])).expect(0);
    let listed = room.run(&["list", "--json"]).expect(0).result();
    assert_eq!(listed["backups"].as_array().unwrap().len(), 2);
    assert_eq!(listed["backups"][1]["type"], "incremental");
    assert_eq!(listed["backups"][1]["tag"], "daily");
    room.run(&cheap(&["create", "--no-encrypt", "--no-compress", "--name", "plain"])).expect(0);
    let plain = room.names("backups").into_iter().find(|name| name.ends_with(".tar")).unwrap();
    let bytes = fs::read(room.path("backups").join(plain)).unwrap();
    assert!(!bytes.windows(5).any(|part| part == b"first"));
    let cleaned = room.run(&["cleanup", "--json"]).expect(0).result();
    assert_eq!(cleaned["deleted"].as_array().unwrap().len(), 0, "the chain stays");
    room.run(&["create", "--profile", "nobody"]).expect(33);
}

/// Data, configuration and what the data's log holds: all that goes is in the safety backup.
#[test]
fn all_that_is_replaced_is_saved() {
    let room = Room::new();
    let archive = room.create(&["--config", "config/app.yaml"]);
    let change = || {
        fs::write(room.path("app/notes"), "second").unwrap();
        fs::write(room.path("config/app.yaml"), "key: second").unwrap();
    };
    change();
    let forced = room.restore(&archive, &["--force"]).expect(0).result();
    assert_eq!(room.read("config/app.yaml"), "key: value\n");
    let safety = PathBuf::from(forced["safety_backup"].as_str().unwrap());
    room.restore(&safety, &["--target", "before"]).expect(0);
    assert_eq!(room.read("before/notes"), "second");
    // To where it came from, configuration too.
    room.restore(&safety, &["--force", "--no-safety-backup"]).expect(0);
    assert_eq!(room.read("app/notes"), "second");
    assert_eq!(room.read("config/app.yaml"), "key: second");
    // A part, with the log that goes with it; the rest stays as it is.
    fs::write(room.path("app/app.db-wal"), "newer").unwrap();
    let forced = room.restore(&archive, &["app.db", "--force"]).expect(0).result();
    assert!(!room.path("app/app.db-wal").exists());
    let safety = PathBuf::from(forced["safety_backup"].as_str().unwrap());
    room.restore(&safety, &["--target", "log", "--no-check"]).expect(0);
    assert_eq!(room.names("log"), ["app.db", "app.db-wal"]);
    room.restore(&safety, &["--force", "--no-safety-backup", "--no-check"]).expect(0);
    assert_eq!(
        (room.read("app/app.db-wal"), room.read("app/notes")),
        ("newer".into(), "second".into())
    );
}

#[test]
fn a_restore_never_replaces_its_backup() {
    let room = Room::new();
    let archive = room.create(&[]);
    let before = room.names("out");
    let refused = room.restore(&archive, &["--target", "out", "--force"]).expect(2);
    assert!(refused.stdout.contains("lies in"), "{}", refused.stdout);
    room.restore(&archive, &["--target", "out", "--dry-run"]).expect(2);
    assert_eq!(room.names("out"), before);
}

/// Nobody vouches for an archive that is not sealed: it does not choose where it goes.
#[test]
fn an_unsealed_backup_is_told_where_it_goes() {
    let room = Room::new();
    let plain = room.create(&["--no-encrypt"]);
    fs::write(room.path("app/notes"), "second").unwrap();
    let refused = room.restore(&plain, &["--force"]).expect(23).result();
    assert!(refused["hint"].as_str().unwrap().contains("--target"));
    assert_eq!(room.read("app/notes"), "second");
    // What is saved of the target is no less secret than it was.
    fs::write(room.path("app/.env"), "API_KEY=0123456789abcdef").unwrap();
    let words = ["restore", plain.to_str().unwrap(), "--target", "app", "--force", "--json"];
    room.run(&words).expect(24);
    assert_eq!(room.read("app/notes"), "second");
    let forced = room.restore(&plain, &["--target", "app", "--force"]).expect(0).result();
    let safety = PathBuf::from(forced["safety_backup"].as_str().unwrap());
    let bytes = Command::new("zstd").arg("-dc").arg(&safety).output().unwrap().stdout;
    let seen = |text: &[u8]| bytes.windows(text.len()).any(|part| part == text);
    assert!(seen(b"second") && !seen(b"0123456789abcdef"));
    room.restore(&safety, &[".env", "--target", "env"]).expect(0);
    assert_eq!(room.read("env/.env"), "API_KEY=0123456789abcdef");
}

#[test]
fn configuration_files_of_one_name_and_none() {
    let room = Room::new();
    fs::create_dir(room.path("other")).unwrap();
    fs::write(room.path("other/app.yaml"), "other").unwrap();
    fs::write(room.path("other/b.env"), "secret").unwrap();
    let config = ["--config", "config/app.yaml", "--config", "other/app.yaml"];
    let archive = room.create(&[&config[..], &["--config", "other/b.env"]].concat());
    room.restore(&archive, &["--config-only", "--target", "all"]).expect(0);
    let below = |name: &str| format!("all{}/{name}", room.path("other").display());
    assert_eq!(
        (room.read("all/app.yaml"), room.read("all/b.env")),
        ("key: value\n".into(), "secret".into())
    );
    assert_eq!(room.read(&below("app.yaml")), "other");
    // Left out, by a pattern and by what they are.
    let some =
        room.create(&[&config[..], &["--config", "other/b.env", "--exclude", "b.env"]].concat());
    room.restore(&some, &["--config-only", "--target", "some"]).expect(0);
    assert!(room.path("some/app.yaml").exists() && !room.path("some/b.env").exists());
    let none = room.create(&[&config[..], &["--exclude", "config"]].concat());
    room.restore(&none, &["--config-only", "--target", "none"]).expect(38);
    let only = room.create(&[&config[..], &["--include", "config"]].concat());
    room.restore(&only, &["--config-only", "--target", "only"]).expect(0);
    assert_eq!(room.read("only/app.yaml"), "key: value\n");
}

#[test]
fn named_in_short_and_wrongly() {
    let room = Room::new();
    fs::create_dir_all(room.path("home/data/strongroom")).unwrap();
    symlink(room.path("out"), room.path("home/data/strongroom/backups")).unwrap();
    let archive = room.create(&[]);
    let file = archive.file_name().unwrap().to_str().unwrap();
    let stem = file.split_once(".tar").unwrap().0;
    for name in [file, stem, &stem[4..], &stem[4..].replace('-', "_")] {
        let _ = fs::remove_dir_all(room.path("there"));
        room.restore(Path::new(name), &["--target", "there"]).expect(0);
        room.same("app", "there");
    }
    room.restore(Path::new("nothing"), &["--target", "never"]).expect(1);
    fs::create_dir(room.path("empty")).unwrap();
    room.run(&["verify", "empty"]).expect(39);
    let hint = room.run(&["cleanup", "7"]).expect(2).stderr;
    assert!(hint.contains("--keep-within 7d"), "{hint}");
    // Of two, one needs the other.
    let later = room.create(&["--type", "incremental"]);
    let both = [archive.to_str().unwrap(), later.to_str().unwrap()];
    room.run(&["delete", both[0], both[1], "--yes"]).expect(0);
    assert!(!archive.exists() && !later.exists());
}

#[test]
fn as_an_ordinary_user() {
    support::as_an_ordinary_user("as_an_ordinary_user");
}
