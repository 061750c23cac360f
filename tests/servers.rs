//! Backups of servers, as a profile describes them: probed, made ready, dumped, let go on, and
//! brought back. The servers are scripts, which note their calls.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use support::{Ran, run, strongroom};
use tempfile::TempDir;

struct Machine {
    directory: TempDir,
}

impl Machine {
    /// A database, a cache, an index and a graph, each with a server.
    fn new() -> Self {
        let machine = Self { directory: tempfile::tempdir().unwrap() };
        for below in ["bin", "home", "data/database", "data/cache", "data/index", "data/graph"] {
            fs::create_dir_all(machine.path(below)).unwrap();
        }
        fs::write(machine.path("data/database/pages"), "torn if it is copied").unwrap();
        fs::write(machine.path("data/cache/dump.rdb"), "old").unwrap();
        fs::write(machine.path("data/index/index.bin"), "index").unwrap();
        fs::write(machine.path("data/graph/store"), "graph").unwrap();
        fs::write(machine.path("data/notes.txt"), "notes").unwrap();
        fs::write(machine.path("content"), "create table t;\ninsert 1;\n").unwrap();
        fs::write(machine.path("passphrase"), "correct horse").unwrap();
        let private = fs::Permissions::from_mode(0o600);
        fs::set_permissions(machine.path("passphrase"), private).unwrap();
        let root = machine.directory.path().display();
        machine.program(
            "server",
            &format!(
                "cd {root}; echo \"$*\" >> calls\n\
                 case $1 in\n\
                 probe) test ! -e down-$2 ;;\n\
                 dump) test ! -e broken || {{ echo 'disk on fire' >&2; exit 3; }}; cat content ;;\n\
                 restore) cat > restored ;;\n\
                 save) echo new > data/cache/dump.rdb ;;\n\
                 pause) test -e data/index/index.bin ;;\n\
                 esac"
            ),
        );
        let server = machine.path("bin/server");
        let command = |words: &str| {
            let words = words.split(' ').map(|word| format!("\"{word}\""));
            let words: Vec<String> = words.collect();
            format!("[\"{}\", {}]", server.display(), words.join(", "))
        };
        let profile = format!(
            "name = \"app\"\ndata = \"{root}/data\"\n\
             [[component]]\nname = \"database\"\nkind = \"postgres\"\npath = \"database\"\n\
             probe = {}\n\
             dump = {{ command = {}, restore = {}, file = \"database.sql\" }}\n\
             [[component]]\nname = \"cache\"\nkind = \"redis\"\npath = \"cache\"\n\
             probe = {}\nprepare = {}\n\
             [[component]]\nname = \"index\"\nkind = \"chroma\"\npath = \"index\"\n\
             prepare = {}\nfinish = {}\n\
             [[component]]\nname = \"graph\"\nkind = \"neo4j\"\npath = \"graph\"\n\
             essential = false\nprobe = {}\nprepare = {}\n",
            command("probe database"),
            command("dump"),
            command("restore"),
            command("probe cache"),
            command("save"),
            command("pause"),
            command("unpause"),
            command("probe graph"),
            command("stop graph"),
        );
        fs::write(machine.path("app.toml"), profile).unwrap();
        for path in [machine.path("app.toml"), machine.directory.path().to_owned()] {
            let mode = if path.is_dir() { 0o755 } else { 0o644 };
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        }
        machine
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn program(&self, name: &str, script: &str) {
        let path = self.path("bin").join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = strongroom();
        command.arg("backup").args(words).args(["--json", "--passphrase-file", "passphrase"]);
        command.current_dir(self.directory.path()).env("HOME", self.path("home"));
        for variable in ["XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "STRONGROOM_PROFILE"]
        {
            command.env_remove(variable);
        }
        command
    }

    fn create(&self, more: &[&str]) -> Ran {
        let words = ["create", "--profile", "./app.toml", "--output", "out"];
        let cheap = ["--kdf-memory", "64", "--kdf-iterations", "1"];
        run(&mut self.command(&[&words[..], &cheap, more].concat()))
    }

    fn restore(&self, result: &Value, more: &[&str]) -> Ran {
        let archive = result["archive"].as_str().unwrap();
        run(&mut self.command(&[&["restore", archive][..], more].concat()))
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    /// What was called, and forgets it.
    fn calls(&self) -> Vec<String> {
        let calls = fs::read_to_string(self.path("calls")).unwrap_or_default();
        let _ = fs::remove_file(self.path("calls"));
        calls.lines().map(str::to_owned).collect()
    }

    fn names(&self, directory: &str) -> Vec<String> {
        let entries = walkdir::WalkDir::new(self.path(directory)).min_depth(1).sort_by_file_name();
        let name = |path: &Path| {
            path.strip_prefix(self.path(directory)).unwrap().to_str().unwrap().to_owned()
        };
        entries.into_iter().map(|entry| name(entry.unwrap().path())).collect()
    }
}

/// A process that has a file open for writing, as a server has.
struct Writer(std::process::Child);

impl Writer {
    fn of(path: &Path) -> Self {
        let file = fs::OpenOptions::new().append(true).open(path).unwrap();
        Self(Command::new("sleep").arg("600").stdin(Stdio::null()).stdout(file).spawn().unwrap())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn what_runs_is_dumped_or_made_ready_and_let_go_on() {
    let machine = Machine::new();
    // As they have while they run; without their commands the backup would be refused.
    let writers = ["database/pages", "cache/dump.rdb", "index/index.bin"]
        .map(|name| machine.path("data").join(name));
    let writers = writers.map(|path| Writer::of(&path));
    let made = machine.create(&[]).expect(0).result();
    assert_eq!(
        machine.calls(),
        ["probe database", "probe cache", "probe graph", "save", "pause", "dump", "unpause"]
    );
    assert!(made.get("not_running").is_none(), "{made}");
    assert_eq!(machine.names("data").iter().filter(|name| name.starts_with('.')).count(), 0);
    drop(writers);

    // The files are restored as files, the dump beside them.
    machine.restore(&made, &["--target", "new"]).expect(0);
    assert_eq!(
        machine.names("new"),
        ["cache", "cache/dump.rdb", "index", "index/index.bin", "notes.txt"]
    );
    assert_eq!(machine.read("new/cache/dump.rdb"), "new\n");
    assert_eq!(machine.read("new.dumps/database.sql"), machine.read("content"));
    assert_eq!(machine.calls(), Vec::<String>::new(), "no server is asked by itself");

    // Or the server reads it.
    let words = ["--component", "database", "--profile", "./app.toml", "--force"];
    let restored = machine.restore(&made, &words).expect(0).result();
    assert_eq!(restored["servers"], serde_json::json!(["database"]));
    assert_eq!(machine.read("restored"), machine.read("content"));
    assert_eq!(machine.calls(), ["restore"]);
    assert!(!machine.path("data.dumps").exists(), "no plain dump stays");
    assert_eq!(machine.read("data/database/pages"), "torn if it is copied", "not touched");
}

#[test]
fn what_does_not_run_is_skipped_and_that_is_recorded() {
    let machine = Machine::new();
    for server in ["database", "graph"] {
        fs::write(machine.path(&format!("down-{server}")), "").unwrap();
    }
    let Ran { stdout, stderr, .. } = machine.create(&[]).expect(0);
    assert!(stdout.contains("the server of database does not run"), "{stdout}{stderr}");
    let calls = machine.calls();
    assert!(!calls.iter().any(|call| call == "dump" || call.starts_with("stop")), "{calls:?}");
    let made: Value = serde_json::from_str(stdout.lines().last().unwrap()).unwrap();
    assert_eq!(made["not_running"], serde_json::json!(["database", "graph"]));
    // At rest, files are a copy as good as a dump.
    machine.restore(&made, &["--target", "new"]).expect(0);
    assert_eq!(machine.read("new/database/pages"), "torn if it is copied");
    assert!(!machine.path("new.dumps").exists());
    let archive = made["archive"].as_str().unwrap();
    let info = run(&mut machine.command(&["info", archive])).expect(0).result();
    assert!(info.to_string().contains("not_running"), "{info}");
}

#[test]
fn only_what_is_wanted_is_asked_for() {
    let machine = Machine::new();
    let made = machine.create(&["--include", "index"]).expect(0).result();
    let calls = machine.calls();
    assert!(!calls.iter().any(|call| call == "dump" || call == "save"), "{calls:?}");
    assert!(calls.ends_with(&["pause".to_owned(), "unpause".to_owned()]), "{calls:?}");
    machine.restore(&made, &["--target", "new"]).expect(0);
    assert_eq!(machine.names("new"), ["index", "index/index.bin"]);
    machine.create(&["--exclude", "database,index"]).expect(0);
    let calls = machine.calls();
    assert!(!calls.iter().any(|call| call == "dump" || call == "pause"), "{calls:?}");
}

#[test]
fn a_dump_that_fails_ends_the_backup_and_servers_go_on() {
    let machine = Machine::new();
    fs::write(machine.path("broken"), "").unwrap();
    let failed = machine.create(&[]).expect(30);
    let message = failed.result()["message"].as_str().unwrap().to_owned();
    assert!(message.contains("database") && message.contains("disk on fire"), "{message}");
    assert_eq!(machine.calls().last().unwrap(), "unpause");
    assert!(machine.names("out").iter().all(|name| !name.ends_with(".enc")));

    fs::remove_file(machine.path("broken")).unwrap();
    fs::write(machine.path("content"), "").unwrap();
    machine.create(&[]).expect(30);
    // One that cannot be made ready, too.
    fs::remove_file(machine.path("data/index/index.bin")).unwrap();
    machine.calls();
    machine.create(&[]).expect(30);
    assert_eq!(machine.calls().last().unwrap(), "unpause", "half made ready is let go on");
}
