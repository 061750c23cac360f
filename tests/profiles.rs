//! The profiles that come with strongroom, each from end to end: the app's store, made of what its
//! engines wrote, is migrated as the profile says, used, and brought back.
//!
//! The programs that a profile calls (`systemctl`, `docker`) are stand-ins that note their calls.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use rusqlite::Connection;
use support::{Ran, fuse_is_here, run, strongroom};
use tempfile::TempDir;

/// A home directory with one app in it.
struct Machine {
    directory: TempDir,
    home: PathBuf,
    passphrase: PathBuf,
}

impl Machine {
    fn new(profile: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        let machine =
            Self { home: root.join("home"), passphrase: root.join("passphrase"), directory };
        for below in [".config/strongroom/profiles", "bin"] {
            fs::create_dir_all(machine.home.join(below)).unwrap();
        }
        fs::write(&machine.passphrase, "correct horse").unwrap();
        fs::set_permissions(&machine.passphrase, fs::Permissions::from_mode(0o600)).unwrap();
        for program in ["systemctl", "docker"] {
            let path = machine.home.join("bin").join(program);
            let script = format!("#!/bin/sh\necho {program} \"$@\" >> {}/calls\n", root.display());
            fs::write(&path, script).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("integration/profiles");
        let text = fs::read_to_string(shipped.join(format!("{profile}.toml"))).unwrap();
        // Where a profile names a place of the whole machine, the test's is below its own.
        let home = machine.home.display();
        let text = text
            .replace("\"/opt/", &format!("\"{home}/opt/"))
            .replace("\"/var/", &format!("\"{home}/var/"));
        // That of a service is for root.
        let text = if rustix::process::geteuid().is_root() {
            text
        } else {
            text.replace("mount-options = \"allow_other\"\n", "")
        };
        let place = machine.home.join(".config/strongroom/profiles");
        fs::set_permissions(&place, fs::Permissions::from_mode(0o755)).unwrap();
        let file = place.join(format!("{profile}.toml"));
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        machine
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = strongroom();
        let path = std::env::var("PATH").unwrap();
        command.env("PATH", format!("{}/bin:{path}", self.home.display())).env("HOME", &self.home);
        for variable in ["XDG_CONFIG_HOME", "XDG_DATA_HOME", "ALICE_HOME", "ANGLES_HOME"] {
            command.env_remove(variable);
        }
        command.env_remove("WHISPERENGINE_HOME").args(arguments);
        command
    }

    fn with_secret(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(arguments);
        command.arg("--passphrase-file").arg(&self.passphrase);
        command
    }

    /// What was called, and forgets it.
    fn calls(&self) -> String {
        let path = self.directory.path().join("calls");
        let calls = fs::read_to_string(&path).unwrap_or_default();
        let _ = fs::remove_file(path);
        calls
    }
}

/// Every file below a directory, with its content.
fn content(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut pending = vec![directory.to_path_buf()];
    while let Some(next) = pending.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                pending.push(path);
            } else {
                let name = path.strip_prefix(directory).unwrap().to_path_buf();
                files.insert(name, fs::read(&path).unwrap());
            }
        }
    }
    files
}

/// Puts a store that its engine wrote at a place.
fn store(name: &str, at: &Path) {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/stores").join(name);
    for (name, bytes) in content(&from) {
        let path = at.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

fn sqlite(path: &Path) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let connection = Connection::open(path).unwrap();
    connection
        .execute_batch("CREATE TABLE message (text); INSERT INTO message VALUES ('kept')")
        .unwrap();
}

fn file(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// A Chroma directory: its database and an index.
fn chroma(at: &Path) {
    fs::create_dir_all(at).unwrap();
    Connection::open(at.join("chroma.sqlite3"))
        .unwrap()
        .execute_batch(
            "CREATE TABLE collections (id TEXT PRIMARY KEY, name TEXT, database_id TEXT);
             CREATE TABLE segments (id TEXT PRIMARY KEY, type TEXT, scope TEXT, collection TEXT);
             CREATE TABLE embeddings (id INTEGER PRIMARY KEY, segment_id TEXT, embedding_id TEXT);
             CREATE TABLE embeddings_queue (seq_id INTEGER PRIMARY KEY);
             CREATE TABLE max_seq_id (segment_id TEXT PRIMARY KEY, seq_id BLOB);
             INSERT INTO collections VALUES ('c1', 'conversations', 'd');",
        )
        .unwrap();
}

/// Where everything lies, and what the profile is expected to do.
struct App {
    profile: &'static str,
    data: PathBuf,
    mount: PathBuf,
    /// A file below the data, for a look through the mount.
    sample: &'static str,
    config: Option<(PathBuf, &'static str)>,
    stop: &'static str,
    start: &'static str,
}

fn from_end_to_end(machine: &Machine, app: &App) {
    let before = content(&app.data);
    assert!(before.contains_key(Path::new(app.sample)));
    let config = app.config.as_ref().map(|(path, _)| fs::read(path).unwrap());
    let checked = run(&mut machine.command(&["profile", "check", app.profile]));
    checked.expect(0);
    let mut plan = machine.with_secret(&["migrate", "plan", "--profile", app.profile]);
    run(&mut plan).expect(0);
    assert_eq!(machine.calls(), "", "a plan runs nothing");

    let mut encrypt = machine.with_secret(&["migrate", "encrypt", "--profile", app.profile]);
    encrypt.args(["--yes", "--kdf-memory", "64", "--kdf-iterations", "1"]);
    let Ran { stdout, stderr, .. } = run(&mut encrypt).expect(0);
    let calls = machine.calls();
    assert!(calls.starts_with(app.stop), "{calls}\n{stdout}{stderr}");
    assert!(calls.contains(app.start), "{calls}");
    assert_eq!(content(&app.mount), before);
    if let Some((path, value)) = &app.config {
        let text = fs::read_to_string(path).unwrap();
        assert!(text.contains(value), "{text}");
    }

    // Closed, the data is not to be had; opened by the profile, it is.
    let mut umount = machine.command(&["umount"]);
    run(umount.arg(&app.mount)).expect(0);
    assert_eq!(fs::read_dir(&app.mount).unwrap().count(), 0);
    let mut use_it = machine.with_secret(&["run", "--profile", app.profile]);
    use_it.arg("--").arg("cat").arg(app.mount.join(app.sample));
    assert_eq!(run(&mut use_it).expect(0).stdout.as_bytes(), before[Path::new(app.sample)]);
    let mut status =
        machine.with_secret(&["migrate", "status", "--json", "--profile", app.profile]);
    let status = run(&mut status).expect(0).result();
    assert_eq!(status["migrations"][0]["finished"], true, "{status}");
    run(&mut machine.with_secret(&["migrate", "verify", "--profile", app.profile])).expect(0);

    machine.calls();
    let mut rollback = machine.with_secret(&["migrate", "rollback", "--profile", app.profile]);
    run(rollback.args(["--yes", "--from", "vault"])).expect(0);
    assert_eq!(content(&app.data), before);
    if let (Some((path, _)), Some(bytes)) = (&app.config, config) {
        assert_eq!(fs::read(path).unwrap(), bytes);
    }
}

#[test]
fn aico() {
    if !fuse_is_here("aico") {
        return;
    }
    let machine = Machine::new("aico");
    let root = machine.home.join(".local/share/aico");
    let data = root.join("data");
    store("sqlcipher", &data);
    chroma(&data.join("memory/semantic"));
    store("lmdb", &data.join("memory/working"));
    file(&data.join("models/model.bin"), "weights");
    let config = root.join("config/core.yaml");
    file(&config, &format!("# AICO\nsystem:\n  data_directory: {}  # all of it\n", data.display()));
    from_end_to_end(
        &machine,
        &App {
            profile: "aico",
            mount: root.join("private"),
            sample: "models/model.bin",
            config: Some((config, "aico/private  # all of it")),
            stop: "systemctl --user stop aico.service",
            start: "systemctl --user start aico.service",
            data,
        },
    );
}

/// With one profile only, nothing else need be said; and everything stands below `backup`, too.
#[test]
fn backup_migrate_with_what_the_only_profile_says() {
    if !fuse_is_here("backup_migrate_with_what_the_only_profile_says") {
        return;
    }
    let machine = Machine::new("aico");
    let root = machine.home.join(".local/share/aico");
    let (data, mount, vault) = (root.join("data"), root.join("private"), machine.home.join("v"));
    chroma(&data.join("memory/semantic"));
    file(&data.join("models/model.bin"), "weights");
    let config = root.join("config/core.yaml");
    file(&config, &format!("system:\n  data_directory: {}\n", data.display()));
    let (data_before, config_before) = (content(&data), fs::read(&config).unwrap());
    let back = machine.home.join("backups");
    let mut create = machine.with_secret(&["backup", "create", "--kdf-memory", "64"]);
    let create = run(create.args(["--json", "--kdf-iterations", "1", "--output"]).arg(&back));
    let archive = PathBuf::from(create.expect(0).result()["archive"].as_str().unwrap());

    let migrate = |words: &[&str]| {
        let mut command = machine.command(&["backup", "migrate"]);
        command.args(words);
        command
    };
    let with_secret = |mut command: Command| {
        command.arg("--passphrase-file").arg(&machine.passphrase);
        command
    };
    let mut encrypt = with_secret(migrate(&["encrypt", "--create-backup", "--yes"]));
    encrypt.args(["--kdf-memory", "64", "--kdf-iterations", "1", "--output"]).arg(&vault);
    run(&mut encrypt).expect(0);
    assert_eq!(content(&mount), data_before);
    let mut status = migrate(&["status", "--no-secret", "--json", "--vault"]);
    let status = run(status.arg(&vault)).expect(0).result();
    assert_eq!(status["migrations"][0]["finished"], true, "{status}");
    // By the profile alone, which names another vault: the one that is mounted where it says.
    let status = run(&mut migrate(&["status", "--no-secret", "--json"])).expect(0).result();
    assert_eq!(status["migrations"][0]["finished"], true, "{status}");

    let mut rollback = with_secret(migrate(&["rollback", "--yes"]));
    run(rollback.arg("--vault").arg(&vault)).expect(0);
    let none = run(&mut migrate(&["status", "--no-secret"])).expect(0);
    assert!(none.stdout.contains("no migration"), "{}", none.stdout);
    assert_eq!((content(&data), fs::read(&config).unwrap()), (data_before.clone(), config_before));

    // A rollback to a backup.
    fs::write(data.join("memory/semantic/chroma.sqlite3"), "damaged").unwrap();
    let mut restore = with_secret(migrate(&["rollback", "--yes"]));
    run(restore.arg("--backup").arg(&archive)).expect(0);
    assert_eq!(content(&data), data_before);
    let mut verify = migrate(&["verify", "--source"]);
    verify.arg(&data).arg("--target").arg(&data);
    run(&mut verify).expect(0);

    // Without a profile, what is missing is said.
    fs::remove_dir_all(machine.home.join(".config/strongroom/profiles")).unwrap();
    let unclear = run(&mut with_secret(migrate(&["status"]))).expect(2);
    assert!(unclear.stderr.contains("--vault"), "{}", unclear.stderr);
}

#[test]
fn alice() {
    if !fuse_is_here("alice") {
        return;
    }
    let machine = Machine::new("alice");
    let data = machine.home.join("alice/server");
    sqlite(&data.join("alice.db"));
    sqlite(&data.join("documents.db"));
    file(&data.join("data/tts_cache/a.wav"), "sound");
    file(&data.join(".env"), "API_KEY=x\n");
    file(&data.join("test_document.md"), "# Notes\n");
    file(&data.join("models/voice.bin"), "weights");
    from_end_to_end(
        &machine,
        &App {
            profile: "alice",
            mount: data.clone(),
            sample: "test_document.md",
            config: None,
            stop: "systemctl --user stop alice.service",
            start: "systemctl --user start alice.service",
            data,
        },
    );
}

#[test]
fn angles_ai() {
    if !fuse_is_here("angles_ai") {
        return;
    }
    let machine = Machine::new("angles-ai");
    let data = machine.home.join("angles-ai/memory");
    sqlite(&data.join("long_term.db"));
    file(&data.join("state.json"), "{\"mood\": \"well\"}\n");
    file(&data.join("indexes/topics.idx"), "index");
    from_end_to_end(
        &machine,
        &App {
            profile: "angles-ai",
            mount: data.clone(),
            sample: "state.json",
            config: None,
            stop: "",
            start: "",
            data,
        },
    );
}

#[test]
fn personal_ai_chatbot() {
    if !fuse_is_here("personal_ai_chatbot") {
        return;
    }
    let machine = Machine::new("personal-ai-chatbot");
    let data = machine.home.join("opt/personal-ai-chatbot");
    file(&data.join("data/conversations/1.json"), "[\"hello\"]\n");
    file(&data.join("data/cache/x"), "cached");
    file(&data.join("config/app.json"), "{}\n");
    file(&data.join("logs/app.log"), "started\n");
    from_end_to_end(
        &machine,
        &App {
            profile: "personal-ai-chatbot",
            mount: data.clone(),
            sample: "data/conversations/1.json",
            config: None,
            stop: "systemctl stop personal-ai-chatbot.service",
            start: "systemctl start personal-ai-chatbot.service",
            data,
        },
    );
}

#[test]
fn whisperengine() {
    if !fuse_is_here("whisperengine") {
        return;
    }
    let machine = Machine::new("whisperengine");
    let root = machine.home.join("whisperengine");
    let data = root.join("data");
    store("postgres", &data.join("postgres"));
    // No file of theirs is in the fixture.
    for directory in ["base", "pg_wal", "pg_xact"] {
        fs::create_dir_all(data.join("postgres").join(directory)).unwrap();
    }
    store("redis", &data.join("redis"));
    chroma(&data.join("chromadb"));
    file(&data.join("neo4j/databases/neo4j/neostore"), "graph");
    let compose = root.join("docker-compose.yml");
    file(
        &compose,
        "services:\n  postgres:\n    image: postgres:16\n    volumes:\n      - \
         ./data/postgres:/var/lib/postgresql/data  # kept\n",
    );
    from_end_to_end(
        &machine,
        &App {
            profile: "whisperengine",
            mount: root.join("private"),
            sample: "postgres/PG_VERSION",
            config: Some((compose, "private/postgres:/var/lib/postgresql/data  # kept")),
            stop: "docker compose --project-directory",
            start: "up --detach",
            data,
        },
    );
}

#[test]
fn an_app_that_is_not_well_when_its_time_is_over_is_taken_back() {
    if !fuse_is_here("an_app_that_is_not_well_when_its_time_is_over_is_taken_back") {
        return;
    }
    let machine = Machine::new("angles-ai");
    let data = machine.home.join("angles-ai/memory");
    file(&data.join("state.json"), "{\"mood\": \"well\"}\n");
    let before = content(&data);
    let tries = machine.directory.path().join("tries");
    let profile = machine.home.join(".config/strongroom/profiles/angles-ai.toml");
    let health = format!(
        "\n[app]\nhealth = {{ command = [\"sh\", \"-c\", \"echo >> {}; false\"], timeout = \"1s\" }}\n",
        tries.display()
    );
    let text = fs::read_to_string(&profile).unwrap() + &health;
    fs::write(&profile, text).unwrap();
    let mut encrypt = machine.with_secret(&["migrate", "encrypt", "--profile", "angles-ai"]);
    encrypt.args(["--yes", "--kdf-memory", "64", "--kdf-iterations", "1"]);
    run(&mut encrypt).expect(30);
    assert_eq!(content(&data), before);
    // A second apart: half a minute, which is usual, would be many more.
    let tries = fs::read_to_string(tries).unwrap().len();
    assert!((1..10).contains(&tries), "{tries}");
}

/// What a profile says of the configuration's reading: its syntax where the file's name does not tell,
/// the app's working directory, and its variables.
#[test]
fn a_profile_tells_how_its_configuration_is_read() {
    if !fuse_is_here("a_profile_tells_how_its_configuration_is_read") {
        return;
    }
    let machine = Machine::new("angles-ai");
    let app = machine.home.join("app");
    file(&app.join("data/notes.txt"), "of mine\n");
    let settings = app.join("settings.rc");
    file(&settings, "data_dir: ./data\nindex: ${APP_DATA}/index\nother: ${ELSEWHERE}/x\n");
    let profile = format!(
        "name = \"app\"\nroot = \"{}\"\ndata = \"data\"\nvault = \"vault\"\nmount = \"private\"\n\
         [app]\nworking-directory = \"{0}\"\n\
         environment = {{ APP_DATA = \"{0}/data\", ELSEWHERE = \"/srv\" }}\n\
         [[config]]\nfile = \"settings.rc\"\nformat = \"yaml\"\n\
         [events]\ncommand = [\"sh\", \"-c\", \"echo {{event}} >> {0}/events\"]\n",
        app.display()
    );
    let place = machine.home.join(".config/strongroom/profiles/app.toml");
    fs::write(&place, &profile).unwrap();
    let before = fs::read(&settings).unwrap();
    let mut encrypt = machine.with_secret(&["migrate", "encrypt", "--profile", "app", "--yes"]);
    run(encrypt.args(["--kdf-memory", "64", "--kdf-iterations", "1"])).expect(0);
    let mount = app.join("private");
    let expected =
        format!("data_dir: {}\nindex: {0}/index\nother: ${{ELSEWHERE}}/x\n", mount.display());
    assert_eq!(fs::read_to_string(&settings).unwrap(), expected);
    run(&mut machine.with_secret(&["migrate", "rollback", "--profile", "app", "--yes"])).expect(0);
    assert_eq!(fs::read(&settings).unwrap(), before);
    let events = fs::read_to_string(app.join("events")).unwrap();
    assert_eq!(events, "migration-completed\nmigration-failed\n");
}

#[test]
fn also_as_an_ordinary_user() {
    support::as_an_ordinary_user("also_as_an_ordinary_user");
}
