//! Stores made by their engines, found, checked, summarised and damaged.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt;

use rusqlite::Connection;
use tempfile::TempDir;

use super::*;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/stores")
}

/// A private copy of one fixture.
fn fixture(name: &str) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let source = fixtures().join(name);
    for entry in walkdir::WalkDir::new(&source) {
        let entry = entry.unwrap();
        let target = directory.path().join(entry.path().strip_prefix(&source).unwrap());
        if entry.file_type().is_dir() {
            fs::create_dir_all(target).unwrap();
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
    directory
}

/// Path, numbers of `stat`, content.
type Seen = (PathBuf, [i64; 4], u64, Vec<u8>);

/// Everything of a tree that a check must not change.
fn snapshot(root: &Path) -> Vec<Seen> {
    let mut all = Vec::new();
    for entry in walkdir::WalkDir::new(root).sort_by_file_name() {
        let entry = entry.unwrap();
        let m = entry.metadata().unwrap();
        let content = if m.is_file() { fs::read(entry.path()).unwrap() } else { Vec::new() };
        let times = [m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec()];
        all.push((entry.into_path(), times, m.ino(), content));
    }
    all
}

/// Whether something is true of the name of an entry, and of the length and the beginning of a file.
fn is_any(root: &Path, what: impl Fn(&[u8], u64, &[u8]) -> bool) -> bool {
    walkdir::WalkDir::new(root).into_iter().map(Result::unwrap).any(|entry| {
        use std::os::unix::ffi::OsStrExt as _;
        let is_file = entry.file_type().is_file();
        let content = if is_file { fs::read(entry.path()).unwrap() } else { Vec::new() };
        let head = &content[..content.len().min(GLANCE_LEN)];
        what(entry.file_name().as_bytes(), u64::try_from(content.len()).unwrap(), head)
    })
}

/// Whether a glance claims anything of a tree.
fn is_claimed(root: &Path) -> bool {
    is_any(root, |name, length, head| is_name_of_store(name) || may_be_of_store(length, head))
}

/// Whether whoever reads the files that are hardly of a store notices one.
fn is_missed(root: &Path) -> bool {
    is_any(root, |name, length, head| is_unlikely(name, length) && may_be_of_store(length, head))
}

/// Of files that nothing but what they begin with shows to be of a store.
#[test]
fn a_store_of_unlikely_files_is_missed_and_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    fs::create_dir(root.join("many")).unwrap();
    for number in 0..300 {
        fs::write(root.join("many").join(number.to_string()), "text").unwrap();
    }
    assert!(!is_missed(root));
    fs::write(root.join("many/state"), b"REDIS0011 not whole").unwrap();
    fs::write(root.join("History"), b"SQLite format 3\0, cut off").unwrap();
    let (every, likely) = (scan(root).unwrap(), scan_likely(root, None, &NEVER).unwrap());
    assert_eq!((every.components.len() + every.unreadable.len(), likely.components.len()), (2, 0));
    assert_eq!((likely.entries, likely.bytes), (every.entries, every.bytes));
    assert!(is_missed(root));
    assert_same_by_hand(root);
    for (name, length, unlikely) in [
        ("History", 1, true),
        ("History", 0, false),
        ("History", 4096, false),
        ("History", (256 << 10) + 1, false),
        ("app.DB", 1, false),
        ("x.sqlite3", 1, false),
        ("dump.rdb", 1, false),
        ("appendonly.aof.1.incr.aof", 1, false),
    ] {
        assert_eq!(is_unlikely(name.as_bytes(), length), unlikely, "{name} {length}");
    }
}

#[test]
fn a_glance_at_other_files_claims_nothing() {
    assert!(!is_claimed(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src")));
    assert!(!is_claimed(&Path::new(env!("CARGO_MANIFEST_DIR")).join("docs")));
}

/// Lists directories by the standard library, but for some.
struct ByHand;

impl Lister for ByHand {
    fn list(&self, directory: &Path, each: &mut dyn FnMut(&[u8], Listed)) -> bool {
        for entry in fs::read_dir(directory).into_iter().flatten() {
            let entry = entry.unwrap();
            let metadata = entry.metadata().unwrap();
            let listed = match metadata.file_type() {
                kind if kind.is_dir() => Listed::Directory,
                kind if kind.is_file() => Listed::Regular { length: metadata.len() },
                _ => Listed::Other,
            };
            each(entry.file_name().as_bytes(), listed);
        }
        // Of these what was told does not count.
        directory.file_name().is_none_or(|name| name.len() % 3 > 0)
    }
}

/// Of a tree whose directories are listed by somebody else the same is found.
fn assert_same_by_hand(root: &Path) {
    let own = scan_likely(root, None, &NEVER).unwrap();
    let by_hand = scan_likely(root, Some(&ByHand), &NEVER).unwrap();
    assert_eq!(own.components, by_hand.components);
    assert_eq!((own.entries, own.bytes), (by_hand.entries, by_hand.bytes));
    let messages = |scan: &Scan| {
        let mut messages: Vec<_> = scan.unreadable.iter().map(ToString::to_string).collect();
        messages.sort();
        messages
    };
    assert_eq!(messages(&own), messages(&by_hand));
}

/// Scans, checks and summarises without a trace.
fn examine(root: &Path) -> Vec<(Component, CheckReport, Option<Summary>)> {
    let before = snapshot(root);
    let scan = scan(root).unwrap();
    assert!(scan.unreadable.is_empty(), "{:?}", scan.unreadable);
    assert!(scan.components.is_empty() || is_claimed(root), "seen at no glance: {root:?}");
    assert!(
        scan_likely(root, None, &NEVER).unwrap().components == scan.components || is_missed(root),
        "missed, and not noticed: {root:?}"
    );
    assert_same_by_hand(root);
    let options = CheckOptions::default();
    let result = scan
        .components
        .into_iter()
        .map(|component| {
            let report = check(root, &component, &options).unwrap();
            let summary = summary(root, &component, &options).ok().flatten();
            let json = serde_json::to_string(&component).unwrap();
            assert_eq!(serde_json::from_str::<Component>(&json).unwrap(), component);
            (component, report, summary)
        })
        .collect();
    assert!(before == snapshot(root), "something changed");
    result
}

fn examine_one(root: &Path) -> (Component, CheckReport, Option<Summary>) {
    let mut all = examine(root);
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0)
}

fn facts(summary: Option<Summary>) -> BTreeMap<String, String> {
    summary.unwrap().facts
}

fn names(component: &Component) -> Vec<&str> {
    component.files.iter().map(|path| path.to_str().unwrap()).collect()
}

/// Cuts the file off at half, and at each of a few places flips a bit: never a panic, and the cut
/// is always noticed.
fn damage(name: &str, file: &str) {
    let directory = fixture(name);
    let path = directory.path().join(file);
    let original = fs::read(&path).unwrap();
    let component = scan(directory.path()).unwrap().components.remove(0);
    let options = CheckOptions::default();
    for place in 0..original.len().min(400) {
        let at = place * original.len() / original.len().min(400);
        let mut bytes = original.clone();
        bytes[at] ^= 1 << (place % 8);
        fs::write(&path, &bytes).unwrap();
        let _ = check(directory.path(), &component, &options);
        let _ = summary(directory.path(), &component, &options);
    }
    for length in [original.len() / 2, original.len() - 1, 20, 1, 0] {
        fs::write(&path, &original[..length]).unwrap();
        match check(directory.path(), &component, &options) {
            Ok(report) => {
                assert_ne!(report.outcome, Outcome::Sound, "{name}/{file} at {length}: {report:?}");
            }
            Err(error) => assert!(matches!(error, Error::Damaged { .. }), "{error}"),
        }
        let _ = summary(directory.path(), &component, &options);
        let _ = scan(directory.path()).unwrap();
    }
}

#[test]
fn lmdb_is_read_without_its_engine() {
    let directory = fixture("lmdb");
    fs::write(directory.path().join("lock.mdb"), "lock").unwrap();
    let (component, report, summary) = examine_one(directory.path());
    assert_eq!((component.kind, component.state), (StoreKind::Lmdb, LiveState::Clean));
    assert_eq!(names(&component), ["data.mdb", "lock.mdb"]);
    assert_eq!((report.outcome, report.findings.as_slice()), (Outcome::Sound, [].as_slice()));
    let facts = facts(summary);
    assert_eq!(facts["entries"], "3");
    assert_eq!(facts["entries of \"sessions\""], "201");
    assert_eq!(facts["entries of \"tags\""], "302");
    assert_eq!(facts["entries of \"numbers\""], "300");
    // Under any name.
    let bare = tempfile::tempdir().unwrap();
    fs::copy(fixtures().join("lmdb/data.mdb"), bare.path().join("working.bin")).unwrap();
    assert_eq!(examine_one(bare.path()).0.kind, StoreKind::Lmdb);
}

#[test]
fn lmdb_damage_is_found() {
    damage("lmdb", "data.mdb");
    let directory = fixture("lmdb");
    let path = directory.path().join("data.mdb");
    let original = fs::read(&path).unwrap();
    // A page in use that is overwritten with zeros.
    let mut found = 0;
    for page in 2..original.len() / 4096 {
        let mut bytes = original.clone();
        bytes[page * 4096..page * 4096 + 16].fill(0);
        fs::write(&path, &bytes).unwrap();
        let component = scan(directory.path()).unwrap().components.remove(0);
        let report = check(directory.path(), &component, &CheckOptions::default()).unwrap();
        found += usize::from(report.outcome == Outcome::Damaged);
    }
    assert!(found >= 15, "{found}");
}

#[test]
fn rocksdb_structure() {
    let directory = fixture("rocksdb");
    let (component, report, summary) = examine_one(directory.path());
    assert_eq!((component.kind, component.state), (StoreKind::RocksDb, LiveState::PendingLog));
    assert_eq!(component.path, Path::new(""));
    assert_eq!(
        names(&component),
        ["000010.log", "000011.sst", "000012.sst", "CURRENT", "IDENTITY", "MANIFEST-000005"]
    );
    assert_eq!((report.outcome, report.findings.as_slice()), (Outcome::Sound, [].as_slice()));
    let facts = facts(summary);
    assert_eq!(facts["column families"], "default, context");
    assert_eq!(facts["tables"], "2");

    fs::rename(directory.path().join("000011.sst"), directory.path().join("elsewhere")).unwrap();
    let (_, report, _) = examine_one(directory.path());
    assert_eq!(report.outcome, Outcome::Damaged);
    assert_eq!(report.findings, ["table 000011 is missing"]);
    fs::write(directory.path().join("000011.sst"), "short").unwrap();
    let (_, report, _) = examine_one(directory.path());
    assert_eq!(report.findings, ["table 000011 has 5 bytes, 2681 expected"]);
    fs::remove_file(directory.path().join("MANIFEST-000005")).unwrap();
    let (_, report, _) = examine_one(directory.path());
    assert_eq!(report.outcome, Outcome::Damaged);
}

#[test]
fn rocksdb_damage_is_found() {
    damage("rocksdb", "MANIFEST-000005");
    damage("rocksdb", "000011.sst");
    damage("leveldb", "000005.ldb");
    let directory = fixture("rocksdb");
    // A write-ahead log may end anywhere; that it ends within a record is told.
    let log = directory.path().join("000010.log");
    let original = fs::read(&log).unwrap();
    for length in 0..original.len() {
        fs::write(&log, &original[..length]).unwrap();
        let (_, report, _) = examine_one(directory.path());
        let told = format!("{:?}", report.findings).contains("ends within a record");
        assert_eq!((report.outcome, told), (Outcome::Sound, length > 0), "at {length}");
    }
    for at in 0..original.len() {
        let mut bytes = original.clone();
        bytes[at] ^= 1 << (at % 8);
        fs::write(&log, bytes).unwrap();
        let (_, report, _) = examine_one(directory.path());
        assert_ne!(report.findings.len(), 0, "at {at}");
    }
    fs::write(&log, original).unwrap();
    let manifest = directory.path().join("MANIFEST-000005");
    let mut bytes = fs::read(&manifest).unwrap();
    bytes[100] ^= 1;
    fs::write(&manifest, bytes).unwrap();
    let (_, report, _) = examine_one(directory.path());
    assert_eq!(report.outcome, Outcome::Damaged, "{report:?}");
}

#[test]
fn leveldb_structure() {
    let directory = fixture("leveldb");
    let (component, report, _) = examine_one(directory.path());
    assert_eq!((component.kind, component.state), (StoreKind::LevelDb, LiveState::PendingLog));
    assert_eq!((report.outcome, report.findings.as_slice()), (Outcome::Sound, [].as_slice()));
}

#[test]
fn duckdb_headers_and_blocks() {
    let directory = fixture("duckdb");
    let (component, report, summary) = examine_one(directory.path());
    assert_eq!((component.kind, component.state), (StoreKind::DuckDb, LiveState::Clean));
    assert_eq!(
        (report.outcome, report.findings.as_slice()),
        (Outcome::StructureOnly, [].as_slice())
    );
    assert!(facts(summary).contains_key("blocks"));
    fs::write(directory.path().join("memory.duckdb.wal"), "log").unwrap();
    let (component, _, _) = examine_one(directory.path());
    assert_eq!(component.state, LiveState::PendingLog);
    assert_eq!(names(&component), ["memory.duckdb", "memory.duckdb.wal"]);
    let path = directory.path().join("memory.duckdb");
    let mut bytes = fs::read(&path).unwrap();
    bytes[12288 + 100] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let (_, report, _) = examine_one(directory.path());
    assert_eq!(report.findings.len(), 1, "{report:?}");
    bytes[20] ^= 1;
    fs::write(&path, &bytes).unwrap();
    assert_eq!(examine_one(directory.path()).1.outcome, Outcome::Damaged);
    damage("duckdb", "memory.duckdb");
}

#[test]
fn redis_dumps_and_commands() {
    let directory = fixture("redis");
    let all = examine(directory.path());
    let found: Vec<_> = all.iter().map(|(component, _, _)| names(component)).collect();
    assert_eq!(
        found,
        [
            vec![
                "appendonlydir/appendonly.aof.2.base.rdb",
                "appendonlydir/appendonly.aof.2.incr.aof",
                "appendonlydir/appendonly.aof.manifest",
            ],
            vec!["dump.rdb"],
        ]
    );
    for (component, report, _) in &all {
        assert_eq!(component.kind, StoreKind::Redis);
        assert_eq!((report.outcome, report.findings.as_slice()), (Outcome::Sound, [].as_slice()));
    }
    let both = facts(all[0].2.clone());
    assert_eq!((both["dumps"].as_str(), both["commands"].as_str()), ("1", "2"));

    // An append-only file of the older kind: a dump, then commands.
    let old = tempfile::tempdir().unwrap();
    let dump = fs::read(directory.path().join("dump.rdb")).unwrap();
    let commands = b"*2\r\n$6\r\nSELECT\r\n$1\r\n0\r\n#TS:1\r\n*2\r\n$3\r\nDEL\r\n$0\r\n\r\n";
    fs::write(old.path().join("appendonly.aof"), [dump.as_slice(), commands].concat()).unwrap();
    let (_, report, summary) = examine_one(old.path());
    assert_eq!((report.outcome, report.findings.as_slice()), (Outcome::Sound, [].as_slice()));
    assert_eq!(facts(summary)["commands"], "2");
    // Cut off in the last command, as a power cut leaves it.
    fs::write(old.path().join("appendonly.aof"), &commands[..40]).unwrap();
    let (_, report, _) = examine_one(old.path());
    assert_eq!((report.outcome, report.findings.len()), (Outcome::Sound, 1));
    fs::write(old.path().join("appendonly.aof"), b"*2\r\n$6\r\nSELECT\r\n$1\r\nxx\r\n").unwrap();
    let (_, report, _) = examine_one(old.path());
    assert_eq!(report.outcome, Outcome::Damaged);

    for at in [10, 100, 1000, dump.len() - 1] {
        let mut bytes = dump.clone();
        bytes[at] ^= 4;
        fs::write(directory.path().join("dump.rdb"), bytes).unwrap();
        let (_, report, _) = examine(directory.path()).remove(1);
        assert_eq!(report.outcome, Outcome::Damaged, "at {at}");
    }
    fs::remove_file(directory.path().join("appendonlydir/appendonly.aof.2.base.rdb")).unwrap();
    let (_, report, _) = examine(directory.path()).remove(0);
    assert_eq!(report.findings, ["appendonly.aof.2.base.rdb is missing"]);
}

#[test]
fn postgres_control_file() {
    let directory = fixture("postgres");
    for name in ["base/1", "pg_wal", "pg_xact"] {
        fs::create_dir_all(directory.path().join(name)).unwrap();
    }
    fs::write(directory.path().join("base/1/1259"), vec![0; 8192]).unwrap();
    let (component, report, summary) = examine_one(directory.path());
    assert_eq!((component.kind, component.state), (StoreKind::Postgres, LiveState::Clean));
    assert_eq!(names(&component), ["PG_VERSION", "base/1/1259", "global/pg_control"]);
    assert_eq!(
        (report.outcome, report.findings.as_slice()),
        (Outcome::StructureOnly, [].as_slice())
    );
    assert_eq!(facts(summary)["version"], "15");
    fs::write(directory.path().join("postmaster.pid"), "1\n").unwrap();
    assert_eq!(examine_one(directory.path()).0.state, LiveState::PendingLog);
    let control = directory.path().join("global/pg_control");
    let mut bytes = fs::read(&control).unwrap();
    bytes[30] ^= 1;
    fs::write(control, bytes).unwrap();
    assert_eq!(examine_one(directory.path()).1.outcome, Outcome::Damaged);
}

#[test]
fn encrypted_databases_are_opaque() {
    let directory = fixture("sqlcipher");
    let (component, report, summary) = examine_one(directory.path());
    assert_eq!(component.kind, StoreKind::SqlCipher);
    assert_eq!(names(&component), ["aico.db", "aico.db.salt"]);
    assert_eq!((report.outcome, summary), (Outcome::NotChecked, None));
    // The same bytes under a name that says nothing are just bytes.
    fs::remove_file(directory.path().join("aico.db.salt")).unwrap();
    fs::rename(directory.path().join("aico.db"), directory.path().join("blob")).unwrap();
    assert_eq!(examine(directory.path()).len(), 0);
    // Text or zeros are no encrypted database, whatever their name.
    fs::write(directory.path().join("notes.db"), "text ".repeat(1024)).unwrap();
    fs::write(directory.path().join("zeros.db"), vec![0; 4096]).unwrap();
    assert_eq!(examine(directory.path()).len(), 0);
}

/// No name with a suffix can be looked for beside them.
#[test]
fn databases_may_have_the_longest_of_names() {
    let directory = tempfile::tempdir().unwrap();
    // SQLite itself makes none: it has a journal while it does.
    database(&directory.path().join("short"));
    fs::rename(directory.path().join("short"), directory.path().join("d".repeat(255))).unwrap();
    let encrypted = fs::read(fixtures().join("sqlcipher/aico.db")).unwrap();
    fs::write(directory.path().join("e".repeat(255)), encrypted).unwrap();
    let (component, report, _) = examine_one(directory.path());
    assert_eq!((component.kind, report.outcome), (StoreKind::Sqlite, Outcome::Sound));
}

#[test]
fn neo4j_is_recognised() {
    let directory = tempfile::tempdir().unwrap();
    let database = directory.path().join("data/databases/neo4j");
    let logs = directory.path().join("data/transactions/neo4j");
    fs::create_dir_all(&database).unwrap();
    fs::create_dir_all(&logs).unwrap();
    for name in ["neostore", "neostore.nodestore.db", "neostore.relationshipstore.db"] {
        fs::write(database.join(name), [1; 10]).unwrap();
    }
    fs::write(logs.join("neostore.transaction.db.0"), [1; 10]).unwrap();
    let (component, report, _) = examine_one(directory.path());
    assert_eq!(component.kind, StoreKind::Neo4j);
    assert_eq!(component.files.len(), 4);
    assert_eq!((report.outcome, report.findings.len()), (Outcome::Damaged, 2));
    for name in ["neostore.propertystore.db", "neostore.labeltokenstore.db"] {
        fs::write(database.join(name), [1; 10]).unwrap();
    }
    assert_eq!(examine_one(directory.path()).1.outcome, Outcome::StructureOnly);
}

/// A database with a few rows, cleanly closed.
fn database(path: &Path) {
    let connection = Connection::open(path).unwrap();
    connection
        .execute_batch(
            "PRAGMA synchronous = 0;
             BEGIN;
             CREATE TABLE person (id INTEGER PRIMARY KEY, name TEXT);
             CREATE TABLE message (id INTEGER PRIMARY KEY, person REFERENCES person(id), text TEXT);
             CREATE INDEX by_text ON message (text);",
        )
        .unwrap();
    connection.execute("INSERT INTO person VALUES (1, 'Ada')", []).unwrap();
    for id in 0..500 {
        let text = format!("message {id} {}", "x".repeat(50));
        connection.execute("INSERT INTO message VALUES (?1, 1, ?2)", (id, text)).unwrap();
    }
    connection.execute_batch("COMMIT").unwrap();
}

/// Leaves a write-ahead log behind, as a killed process does. Returns how many rows there are.
fn leave_log(path: &Path, work: &Path) -> usize {
    let original = work.join("original.db");
    database(&original);
    let connection = Connection::open(&original).unwrap();
    connection.pragma_update(None, "journal_mode", "WAL").unwrap();
    connection.execute("INSERT INTO message VALUES (1000, 1, 'in the log')", []).unwrap();
    for suffix in ["", "-wal", "-shm"] {
        fs::copy(sqlite::with_suffix(&original, suffix), sqlite::with_suffix(path, suffix))
            .unwrap();
    }
    501
}

#[test]
fn sqlite_closed_cleanly() {
    let directory = tempfile::tempdir().unwrap();
    database(&directory.path().join("odd ?#%'name"));
    let (component, report, summary) = examine_one(directory.path());
    assert_eq!((component.kind, component.state), (StoreKind::Sqlite, LiveState::Clean));
    assert_eq!((report.outcome, report.findings.as_slice()), (Outcome::Sound, [].as_slice()));
    let facts = facts(summary);
    assert_eq!(facts["rows of \"message\""], "500");
    assert_eq!(facts["rows of \"person\""], "1");
}

#[test]
fn sqlite_with_a_log_is_read_elsewhere() {
    let (directory, work) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let path = directory.path().join("alice.db");
    let rows = leave_log(&path, work.path());
    for shared_memory in [true, false] {
        if !shared_memory {
            fs::remove_file(directory.path().join("alice.db-shm")).unwrap();
        }
        let (component, report, summary) = examine_one(directory.path());
        assert_eq!(component.state, LiveState::PendingLog);
        assert_eq!((report.outcome, report.findings.as_slice()), (Outcome::Sound, [].as_slice()));
        assert_eq!(facts(summary)["rows of \"message\""], rows.to_string());
    }
    // With a scratch directory nothing goes to memory, and nothing stays.
    let scratch = tempfile::tempdir().unwrap();
    let options =
        CheckOptions { scratch: Some(scratch.path().to_path_buf()), ..CheckOptions::default() };
    let component = scan(directory.path()).unwrap().components.remove(0);
    let report = check(directory.path(), &component, &options).unwrap();
    assert_eq!(report.outcome, Outcome::Sound);
    assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0);
}

#[test]
fn sqlite_with_a_hot_journal_is_rolled_back_elsewhere() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.db");
    let work = tempfile::tempdir().unwrap();
    let original = work.path().join("a.db");
    database(&original);
    let connection = Connection::open(&original).unwrap();
    // So small a cache that the transaction spills into the file before its end.
    connection.pragma_update(None, "cache_size", 2).unwrap();
    connection
        .execute_batch("PRAGMA foreign_keys = 0; BEGIN; UPDATE message SET text = text || 'y'; DELETE FROM person;")
        .unwrap();
    connection.execute("INSERT INTO message VALUES (1000, 1, ?1)", ["z".repeat(100_000)]).unwrap();
    for suffix in ["", "-journal"] {
        fs::copy(sqlite::with_suffix(&original, suffix), sqlite::with_suffix(&path, suffix))
            .unwrap();
    }
    let (component, report, summary) = examine_one(directory.path());
    assert_eq!(component.state, LiveState::PendingLog);
    assert_eq!((report.outcome, report.findings.as_slice()), (Outcome::Sound, [].as_slice()));
    let facts = facts(summary);
    assert_eq!(
        (facts["rows of \"message\""].as_str(), facts["rows of \"person\""].as_str()),
        ("500", "1")
    );
}

#[test]
fn sqlite_damage_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.db");
    database(&path);
    let original = fs::read(&path).unwrap();
    let mut outcomes = BTreeSet::new();
    for page in 0..original.len() / 4096 {
        let mut bytes = original.clone();
        bytes[page * 4096..(page + 1) * 4096].fill(0xA5);
        if page == 0 {
            bytes[..100].copy_from_slice(&original[..100]);
        }
        fs::write(&path, &bytes).unwrap();
        let (_, report, _) = examine_one(directory.path());
        outcomes.insert(format!("{:?}", report.outcome));
    }
    assert_eq!(outcomes, ["Damaged".to_owned()].into());
    fs::write(&path, &original[..original.len() / 2]).unwrap();
    assert_eq!(examine_one(directory.path()).1.outcome, Outcome::Damaged);
    // The mark alone.
    fs::write(&path, &original[..16]).unwrap();
    assert_eq!(examine_one(directory.path()).1.outcome, Outcome::Damaged);
}

#[test]
fn sqlite_extensions_that_are_missing_are_no_damage() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.db");
    database(&path);
    let connection = Connection::open(&path).unwrap();
    connection
        .execute_batch(
            "PRAGMA foreign_keys = 0;
             CREATE VIRTUAL TABLE search USING fts5(text);
             INSERT INTO search VALUES ('hello');
             CREATE TABLE collated (x TEXT COLLATE NOCASE);
             CREATE INDEX by_x ON collated (x);
             INSERT INTO collated VALUES ('a');
             PRAGMA writable_schema = 1;
             UPDATE sqlite_schema SET sql = replace(sql, 'fts5', 'vec0') WHERE name = 'search';
             UPDATE sqlite_schema SET sql = replace(sql, 'NOCASE', 'PHONEBOOK') WHERE name = 'collated';
             INSERT INTO message VALUES (2000, 77, 'to nobody');",
        )
        .unwrap();
    drop(connection);
    let (_, report, summary) = examine_one(directory.path());
    assert_eq!(report.outcome, Outcome::NotChecked, "{report:?}");
    assert!(!report.findings.is_empty());
    let facts = facts(summary);
    assert_eq!(facts["rows of \"message\""], "501");
    assert_eq!(facts["rows of \"search\""], "not readable here");
}

/// An index on a function that only the app has, as libSQL's vector indexes are.
#[test]
fn sqlite_functions_that_are_missing_keep_nothing_from_being_copied() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.db");
    database(&path);
    let connection = Connection::open(&path).unwrap();
    connection
        .execute_batch(
            "CREATE TABLE vectors (x); CREATE INDEX by_f ON vectors (abs(x));
             INSERT INTO vectors VALUES (-1);
             PRAGMA writable_schema = 1;
             UPDATE sqlite_schema SET sql = replace(sql, 'abs(', 'f(') WHERE name = 'by_f';",
        )
        .unwrap();
    drop(connection);
    let (_, report, summary) = examine_one(directory.path());
    assert_eq!(report.outcome, Outcome::NotChecked, "{report:?}");
    assert!(report.findings[0].contains("f()"), "{report:?}");
    assert_eq!(facts(summary)["rows of \"message\""], "500");
}

/// A Chroma directory as its engine lays it out.
fn chroma(directory: &Path) -> PathBuf {
    let connection = Connection::open(directory.join("chroma.sqlite3")).unwrap();
    connection
        .execute_batch(
            "CREATE TABLE collections (id TEXT PRIMARY KEY, name TEXT, database_id TEXT);
             CREATE TABLE segments (id TEXT PRIMARY KEY, type TEXT, scope TEXT, collection TEXT);
             CREATE TABLE embeddings (id INTEGER PRIMARY KEY, segment_id TEXT, embedding_id TEXT);
             CREATE TABLE embeddings_queue (seq_id INTEGER PRIMARY KEY);
             CREATE TABLE max_seq_id (segment_id TEXT PRIMARY KEY, seq_id BLOB);
             INSERT INTO collections VALUES ('c1', 'conversations', 'd'), ('c2', 'facts', 'd');
             INSERT INTO segments VALUES
               ('00000000-0000-0000-0000-00000000000a', 'urn:chroma:segment/vector/hnsw-local-persisted', 'VECTOR', 'c1'),
               ('00000000-0000-0000-0000-00000000000b', 'urn:chroma:segment/metadata/sqlite', 'METADATA', 'c1'),
               ('00000000-0000-0000-0000-00000000000c', 'urn:chroma:segment/vector/hnsw-local-persisted', 'VECTOR', 'c2');
             INSERT INTO embeddings VALUES (1, '00000000-0000-0000-0000-00000000000b', 'x'), (2, '00000000-0000-0000-0000-00000000000b', 'y');
             INSERT INTO max_seq_id VALUES ('00000000-0000-0000-0000-00000000000a', 2);",
        )
        .unwrap();
    let index = directory.join("00000000-0000-0000-0000-00000000000a");
    fs::create_dir(&index).unwrap();
    let mut header = vec![0; 100];
    header[0] = 1;
    header[20] = 2;
    header[28] = 204;
    fs::write(index.join("header.bin"), header).unwrap();
    fs::write(index.join("data_level0.bin"), vec![7; 408]).unwrap();
    fs::write(index.join("length.bin"), vec![7; 8]).unwrap();
    fs::write(index.join("link_lists.bin"), []).unwrap();
    index
}

#[test]
fn chroma_is_its_database_and_its_indexes() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("semantic");
    fs::create_dir(&directory).unwrap();
    let index = chroma(&directory);
    database(&directory.join("another.db"));
    let all = examine(root.path());
    let kinds: Vec<_> = all.iter().map(|(c, _, _)| (c.kind, c.path.to_str().unwrap())).collect();
    assert_eq!(
        kinds,
        [(StoreKind::Chroma, "semantic"), (StoreKind::Sqlite, "semantic/another.db")]
    );
    let (component, report, summary) = &all[0];
    assert_eq!(component.files.len(), 5, "{component:?}");
    assert_eq!((report.outcome, report.findings.as_slice()), (Outcome::Sound, [].as_slice()));
    let facts = facts(summary.clone());
    assert_eq!(facts["records of collection \"conversations\""], "2");
    assert_eq!(facts["records of collection \"facts\""], "0");

    fs::write(index.join("data_level0.bin"), vec![7; 407]).unwrap();
    fs::create_dir(directory.join("ffffffff-0000-0000-0000-000000000000")).unwrap();
    let (_, report, _) = examine(root.path()).remove(0);
    assert_eq!(report.outcome, Outcome::Damaged);
    assert_eq!(report.findings.len(), 2, "{report:?}");
    fs::remove_dir_all(&index).unwrap();
    let (_, report, _) = examine(root.path()).remove(0);
    assert!(report.findings[0].contains("is missing"), "{report:?}");
}

/// A schema of another version is no damage, and keeps nothing from being copied.
#[test]
fn chroma_of_another_version() {
    let root = tempfile::tempdir().unwrap();
    let connection = Connection::open(root.path().join("chroma.sqlite3")).unwrap();
    connection
        .execute_batch(
            "CREATE TABLE collections (uuid); CREATE TABLE segments (uuid);
             CREATE TABLE embeddings (uuid); CREATE TABLE embeddings_queue (uuid);",
        )
        .unwrap();
    drop(connection);
    let (component, report, summary) = examine(root.path()).remove(0);
    assert_eq!(component.kind, StoreKind::Chroma);
    assert_eq!(report.outcome, Outcome::Sound, "{report:?}");
    assert!(report.findings[0].contains("another version"), "{report:?}");
    assert!(summary.is_some());
}

#[test]
fn other_files_are_no_stores() {
    use std::os::unix::fs::symlink;
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("chroma.sqlite3"), "not SQLite").unwrap();
    fs::write(directory.path().join("data.mdb"), "not LMDB").unwrap();
    fs::write(directory.path().join("CURRENT"), "MANIFEST-000001").unwrap();
    fs::write(directory.path().join("empty.db"), "").unwrap();
    fs::write(directory.path().join("list"), "*1 point\r\n$2\r\n").unwrap();
    symlink("/etc/passwd", directory.path().join("link.db")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        directory.path().join("fifo"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    assert_eq!(examine(directory.path()).len(), 0);
    assert!(scan(&directory.path().join("missing")).is_err());
}

#[test]
fn a_search_can_be_stopped() {
    let root = tempfile::tempdir().unwrap();
    for number in 0..600 {
        let directory = root.path().join(format!("{}/{number}", number % 7));
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("file"), "a file").unwrap();
    }
    let stopped = AtomicBool::new(true);
    assert!(matches!(scan_until(root.path(), &stopped), Err(Error::Cancelled { .. })));
    // Also in its midst: some time it is met there.
    let met = (0..200).any(|round| {
        let stopped = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let search = scope.spawn(|| scan_until(root.path(), &stopped));
            std::thread::sleep(std::time::Duration::from_micros(500 + 100 * (round % 20)));
            stopped.store(true, std::sync::atomic::Ordering::Relaxed);
            matches!(search.join().unwrap(), Err(Error::Cancelled { .. }))
        })
    });
    assert!(met);
    assert!(scan_until(root.path(), &AtomicBool::new(false)).is_ok());
}

/// More directories than are looked at ahead.
#[test]
fn stores_are_found_behind_thousands_of_directories() {
    let root = tempfile::tempdir().unwrap();
    let mut directories = 1;
    for part in ["a", "b/c", "d"] {
        for number in 0..1700 {
            fs::create_dir_all(root.path().join(format!("{part}/{number}/in"))).unwrap();
        }
        directories += part.split('/').count() + 2 * 1700;
    }
    for path in ["a/0/in/first.db", "b/c/1699/in/second.db", "d/99/third.db"] {
        database(&root.path().join(path));
    }
    let scan = scan(root.path()).unwrap();
    assert_eq!((scan.components.len(), scan.unreadable.len()), (3, 0));
    assert_eq!(usize::try_from(scan.entries).unwrap(), directories - 1 + 3);
}

/// Directories are looked at ahead of their turn, and those with many files in parts.
#[test]
fn stores_are_found_among_many_directories() {
    let root = tempfile::tempdir().unwrap();
    let at = |path: &str| root.path().join(path);
    for number in 0..700 {
        let directory = at(&format!("{}/{number}/deep", number % 20));
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("note"), "text").unwrap();
    }
    fs::create_dir_all(at("many/inner/last")).unwrap();
    for number in 0..5000 {
        fs::write(at(&format!("many/{number}")), "text").unwrap();
    }
    // All in a cluster is its own.
    for part in ["global", "base/1", "base/2"] {
        fs::create_dir_all(at("7/cluster").join(part)).unwrap();
    }
    fs::write(at("7/cluster/PG_VERSION"), "17").unwrap();
    fs::write(at("7/cluster/global/pg_control"), "").unwrap();
    database(&at("one.db"));
    let stores =
        ["3/403/deep/a.db", "7/cluster/base/2/b.db", "many/c.db", "many/inner/last/d.db", "z.db"];
    for store in stores {
        fs::copy(at("one.db"), at(store)).unwrap();
    }
    let scan = scan(root.path()).unwrap();
    assert!(scan.unreadable.is_empty(), "{:?}", scan.unreadable);
    let found: Vec<_> = scan.components.iter().map(|one| one.path.to_str().unwrap()).collect();
    let expected =
        ["3/403/deep/a.db", "7/cluster", "many/c.db", "many/inner/last/d.db", "one.db", "z.db"];
    assert_eq!(found, expected);
}

#[test]
fn a_single_file_can_be_scanned() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.db");
    database(&path);
    let component = scan(&path).unwrap().components.remove(0);
    assert_eq!(component.path, Path::new(""));
    let report = check(&path, &component, &CheckOptions::default()).unwrap();
    assert_eq!(report.outcome, Outcome::Sound);
}

#[test]
fn paths_in_json_keep_their_bytes() {
    use std::os::unix::ffi::OsStrExt;
    let odd = PathBuf::from(std::ffi::OsStr::from_bytes(b"a\xFF/b"));
    let component = Component {
        kind: StoreKind::Sqlite,
        path: odd.clone(),
        files: vec![odd, "plain".into()],
        bytes: 1,
        state: LiveState::Unknown,
    };
    let json = serde_json::to_string(&component).unwrap();
    assert_eq!(serde_json::from_str::<Component>(&json).unwrap(), component);
}

proptest::proptest! {
    #[test]
    fn any_bytes_are_recognised_or_not(head: Vec<u8>, tail: Vec<u8>, which in 0..6_usize) {
        let marks: [&[u8]; 6] = [
            b"", b"SQLite format 3\0", b"REDIS0011", b"*3\r\n$", b"12345678DUCK",
            b"\0\0\0\0\0\0\0\0\0\0\x08\0\0\0\0\0\xde\xc0\xef\xbe\x01\0\0\0",
        ];
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("x.db"), [marks[which], &head, &tail].concat()).unwrap();
        let options = CheckOptions::default();
        let components = scan(directory.path()).unwrap().components;
        assert!(components.is_empty() || is_claimed(directory.path()), "{components:?}");
        for component in components {
            let _ = check(directory.path(), &component, &options);
            let _ = summary(directory.path(), &component, &options);
        }
    }
}

mod holders {
    use std::io::Read;
    use std::process::{Child, Command, Stdio};

    use super::*;

    /// A process that holds what the script opens, until dropped.
    struct Holding(Child);

    impl Holding {
        fn start(mut command: Command) -> Self {
            let mut child = command.stdout(Stdio::piped()).stdin(Stdio::piped()).spawn().unwrap();
            let mut ready = [0; 6];
            child.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
            Self(child)
        }

        fn shell(script: &str, directory: &Path) -> Self {
            let mut command = Command::new("sh");
            command
                .args(["-c", &format!("{script}; echo ready; read line")])
                .current_dir(directory);
            Self::start(command)
        }

        fn found(&self, root: &Path) -> Vec<(PathBuf, Holder)> {
            let all = open_files(root).unwrap();
            let own = all.files.into_iter().filter(|file| file.pid == self.0.id());
            own.map(|file| (file.path, file.how)).collect()
        }
    }

    impl Drop for Holding {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[test]
    fn descriptors_and_directories_are_seen() {
        let directory = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(directory.path()).unwrap();
        let other = tempfile::tempdir().unwrap();
        for name in ["read", "written", "gone", "two words"] {
            fs::write(root.join(name), "x").unwrap();
        }
        let script = format!(
            "cd '{0}'; exec 3<read 4>>written 5<gone 6<'two words'; rm gone",
            root.display()
        );
        let holding = Holding::shell(&script, other.path());
        let mut expected = vec![
            (root.join("gone (deleted)"), Holder::Descriptor),
            (root.join("read"), Holder::Descriptor),
            (root.join("two words"), Holder::Descriptor),
            (root.join("written"), Holder::WritableDescriptor),
            (root.clone(), Holder::WorkingDirectory),
        ];
        expected.sort();
        assert_eq!(holding.found(&root), expected);
        assert_eq!(holding.found(other.path()), []);
        drop(holding);
        assert_eq!(open_files(&root).unwrap().files, []);
    }

    #[test]
    fn programs_and_maps_are_seen() {
        let directory = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(directory.path()).unwrap();
        let program = root.join("program");
        fs::copy("/bin/sh", &program).unwrap();
        let mut command = Command::new(&program);
        command.args(["-c", "echo ready; read line"]);
        let holding = Holding::start(command);
        let found = holding.found(&root);
        assert!(found.contains(&(program.clone(), Holder::Map)), "{found:?}");
        assert!(found.contains(&(program, Holder::Program)), "{found:?}");
    }

    #[test]
    fn files_opened_by_another_name_are_seen() {
        let directory = tempfile::tempdir().unwrap();
        let (root, other) = (directory.path().join("root"), directory.path().join("other"));
        fs::create_dir(&root).unwrap();
        fs::create_dir(&other).unwrap();
        fs::write(root.join("file"), "x").unwrap();
        fs::hard_link(root.join("file"), other.join("link")).unwrap();
        let holding = Holding::shell("exec 3<link", &other);
        let other = fs::canonicalize(other).unwrap();
        assert_eq!(holding.found(&root), [(other.join("link"), Holder::Descriptor)]);
    }
}

#[test]
fn a_scan_counts_the_tree() {
    let directory = fixture("rocksdb");
    let root = directory.path();
    // One listed at once, one with more files than that.
    for (name, files) in [("few", 20_u32), ("many", 700)] {
        fs::create_dir(root.join(name)).unwrap();
        for number in 0..files {
            let content = vec![b'x'; number as usize];
            fs::write(root.join(name).join(number.to_string()), content).unwrap();
        }
    }
    std::os::unix::fs::symlink("few", root.join("symlink")).unwrap();
    let (mut entries, mut bytes) = (0, 0);
    for entry in walkdir::WalkDir::new(root).min_depth(1) {
        let entry = entry.unwrap();
        entries += 1;
        if entry.file_type().is_file() {
            bytes += entry.metadata().unwrap().len();
        }
    }
    let scan = scan(root).unwrap();
    assert_eq!((scan.entries, scan.bytes), (entries, bytes));

    let file = scan_until(&root.join("many/99"), &AtomicBool::new(false)).unwrap();
    assert_eq!((file.entries, file.bytes), (1, 99));
}

#[test]
fn a_check_that_nobody_wants_any_more_ends() {
    let database = tempfile::tempdir().unwrap();
    let connection = Connection::open(database.path().join("app.db")).unwrap();
    connection.execute_batch("CREATE TABLE t (x); INSERT INTO t VALUES (1);").unwrap();
    drop(connection);
    for directory in [database, fixture("lmdb"), fixture("rocksdb"), fixture("leveldb")] {
        let root = directory.path();
        let scan = scan(root).unwrap();
        assert!(!scan.components.is_empty());
        for component in scan.components {
            for stopped in [false, true] {
                let cancelled = AtomicBool::new(stopped);
                let options = CheckOptions { cancelled: Some(&cancelled), ..Default::default() };
                let checked = check(root, &component, &options);
                let ended = matches!(checked, Err(Error::Cancelled { .. }));
                assert_eq!(ended, stopped, "{component:?}: {checked:?}");
            }
        }
    }
}
