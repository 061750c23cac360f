//! A store as an app keeps it, and pictures of a tree that don't rely on the program under test.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use heed::types::Str;
use heed::{CommitOrAbort, Database, EnvOpenOptions};
use rusqlite::Connection;
use tempfile::TempDir;

/// What must not be found in the vault.
const SECRET: &str = "a secret that nobody else may read";

/// A directory with SQLite, LMDB, files of every kind, and a configuration.
pub struct Store {
    _directory: TempDir,
    pub root: PathBuf,
}

impl Store {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        let store = Self { _directory: directory, root };
        store.fill();
        store
    }

    pub fn data(&self) -> PathBuf {
        self.root.join("data")
    }

    pub fn vault(&self) -> PathBuf {
        self.root.join("vault")
    }

    /// As a person removes a vault in which directories may not be written.
    pub fn remove_vault(&self) {
        let mut chmod = std::process::Command::new("chmod");
        let _ = chmod.args(["-R", "u+w"]).arg(self.vault()).output();
        let _ = fs::remove_dir_all(self.vault());
    }

    pub fn mount_point(&self) -> PathBuf {
        self.root.join("mount")
    }

    pub fn config(&self) -> PathBuf {
        self.root.join("app.yaml")
    }

    pub fn passphrase(&self) -> PathBuf {
        self.root.join("passphrase")
    }

    fn config_naming(&self, data: &Path) -> String {
        format!(
            "# comments stay\nstorage:\n    directory:   {0}   # here\n    url: \"sqlite:///{0}/app.db\"\n\
             other: 1\n",
            data.display()
        )
    }

    pub fn original_config(&self) -> String {
        self.config_naming(&self.data())
    }

    pub fn edited_config(&self) -> String {
        self.config_naming(&self.mount_point())
    }

    fn fill(&self) {
        let data = self.data();
        fs::create_dir_all(data.join("sub/deeper")).unwrap();
        fs::create_dir(data.join("memory")).unwrap();
        fs::write(self.passphrase(), "correct horse battery").unwrap();
        fs::set_permissions(self.passphrase(), fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(self.config(), self.original_config()).unwrap();
        let database = Connection::open(data.join("app.db")).unwrap();
        database.pragma_update(None, "journal_mode", "wal").unwrap();
        database.execute_batch("CREATE TABLE rows (text TEXT)").unwrap();
        drop(database);
        for _ in 0..500 {
            self.add_row(&data);
        }
        fill_lmdb(&data.join("memory"));
        fs::write(data.join("sub/file"), SECRET).unwrap();
        fs::hard_link(data.join("sub/file"), data.join("hard link")).unwrap();
        symlink("sub/file", data.join("link")).unwrap();
        symlink("nowhere", data.join("dangling")).unwrap();
        let sparse = File::create(data.join("sparse")).unwrap();
        sparse.set_len(8 << 20).unwrap();
        sparse.write_all_at(SECRET.as_bytes(), 5 << 20).unwrap();
        fs::write(data.join("sub/deeper").join("n".repeat(255)), vec![7; 10_000]).unwrap();
        fs::write(data.join("sub/empty"), b"").unwrap();
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(data.join("sub/file"), "user.note", SECRET.as_bytes(), flags).unwrap();
        fs::set_permissions(data.join("sub/file"), fs::Permissions::from_mode(0o604)).unwrap();
        fs::set_permissions(data.join("sub"), fs::Permissions::from_mode(0o1750)).unwrap();
        fs::create_dir(data.join("read only")).unwrap();
        fs::write(data.join("read only/file"), SECRET).unwrap();
        fs::set_permissions(data.join("read only"), fs::Permissions::from_mode(0o555)).unwrap();
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(data.join("sub/empty"), Some(1234), Some(4321)).unwrap();
        }
        let old = std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000_000, 123_456_789);
        for name in ["sub/file", "sub/deeper", "memory", ""] {
            File::open(data.join(name)).unwrap().set_modified(old).unwrap();
        }
    }

    pub fn add_row(&self, data: &Path) {
        let database = Connection::open(data.join("app.db")).unwrap();
        database.pragma_update(None, "synchronous", "off").unwrap();
        database.execute("INSERT INTO rows VALUES (?1)", [SECRET]).unwrap();
    }

    pub fn rows(&self, data: &Path) -> i64 {
        let database = Connection::open(data.join("app.db")).unwrap();
        let sound: String =
            database.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(sound, "ok");
        database.query_row("SELECT count(*) FROM rows", [], |row| row.get(0)).unwrap()
    }

    /// Neither texts nor names of the store can be read in the vault's directory.
    #[track_caller]
    pub fn expect_nothing_readable(&self) {
        let texts: [&[u8]; 4] = [SECRET.as_bytes(), b"SQLite format", b"app.db", b"hard link"];
        let found = |bytes: &[u8]| {
            texts.iter().any(|text| bytes.windows(text.len()).any(|part| part == *text))
        };
        let mut files = 0;
        let mut pending = vec![self.vault()];
        while let Some(directory) = pending.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let entry = entry.unwrap();
                use std::os::unix::ffi::OsStrExt as _;
                assert!(!found(entry.file_name().as_bytes()), "{entry:?}");
                let kind = entry.file_type().unwrap();
                if kind.is_dir() {
                    pending.push(entry.path());
                } else if kind.is_symlink() {
                    let target = fs::read_link(entry.path()).unwrap();
                    assert!(!found(target.as_os_str().as_bytes()), "{entry:?}");
                } else {
                    files += 1;
                    assert!(!found(&fs::read(entry.path()).unwrap()), "{entry:?}");
                }
            }
        }
        assert!(files > 8, "the vault was searched");
    }
}

impl Drop for Store {
    /// Whatever a test left mounted, or immutable.
    fn drop(&mut self) {
        for path in [self.mount_point(), self.data()] {
            let _ = support_umount(&path);
            let _ = std::process::Command::new("chattr").arg("-i").arg(&path).output();
        }
    }
}

fn support_umount(path: &Path) -> std::io::Result<std::process::Output> {
    crate::strongroom().args(["umount", "--lazy"]).arg(path).output()
}

fn fill_lmdb(path: &Path) {
    let mut options = EnvOpenOptions::new();
    options.map_size(1 << 20);
    // SAFETY: the file is this test's own, and closed before anything else opens it.
    #[allow(unsafe_code)]
    let environment = unsafe { options.open(path) }.unwrap();
    let transaction = environment.write_txn().unwrap();
    let committed: Result<CommitOrAbort<Database<'_, Str, Str>, ()>, heed::Error> = environment
        .create_databases_and_commit(transaction, |opener, transaction| {
            let database: Database<'_, Str, Str> = opener.create_database(transaction, None)?;
            for number in 0..100 {
                database.put(transaction, &format!("key {number}"), SECRET)?;
            }
            Ok(CommitOrAbort::<_, ()>::Commit(database))
        });
    assert!(committed.is_ok());
    environment.prepare_for_closing().wait();
}

/// All that a faithful copy keeps, told without the program under test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image(BTreeMap<PathBuf, Vec<String>>);

impl Image {
    pub fn of(root: &Path) -> Self {
        // It may be a symlink to what is looked at.
        let root = &root.canonicalize().unwrap();
        let mut image = BTreeMap::new();
        let mut names: HashMap<u64, PathBuf> = HashMap::new();
        let mut pending = vec![root.to_owned()];
        while let Some(path) = pending.pop() {
            let stat = path.symlink_metadata().unwrap();
            let below = path.strip_prefix(root).unwrap().to_owned();
            let mut facts = vec![
                format!("mode {:o}", stat.mode()),
                format!("owner {}:{}", stat.uid(), stat.gid()),
                format!("time {}.{:09}", stat.mtime(), stat.mtime_nsec()),
            ];
            let readable = if stat.is_dir() {
                let mut entries: Vec<_> =
                    fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()).collect();
                entries.sort();
                entries.reverse();
                pending.extend(entries);
                true
            } else if stat.is_symlink() {
                facts.push(format!("target {}", fs::read_link(&path).unwrap().display()));
                false
            } else {
                if stat.nlink() > 1 {
                    let first = names.entry(stat.ino()).or_insert_with(|| below.clone());
                    facts.push(format!("the same as {}", first.display()));
                }
                // A hole of a megabyte is one in every copy.
                facts.push(format!("holes {}", stat.blocks() * 512 + (1 << 20) < stat.size()));
                facts.push(format!("content {:?}", digest(&fs::read(&path).unwrap())));
                true
            };
            if readable {
                facts.extend(attributes(&path));
            }
            image.insert(below, facts);
        }
        Self(image)
    }

    #[track_caller]
    pub fn expect(&self, root: &Path) {
        self.expect_but(root, &[]);
    }

    /// Equal, but for the content and time of some files, the times of directories, and scratch
    /// files of SQLite.
    #[track_caller]
    pub fn expect_but(&self, root: &Path, changed: &[&str]) {
        let found = Self::of(root);
        if changed.is_empty() {
            for (path, facts) in &self.0 {
                assert_eq!(found.0.get(path), Some(facts), "{}", path.display());
            }
            assert_eq!(found.0.len(), self.0.len(), "nothing more is there");
            return;
        }
        for (path, facts) in &self.0 {
            let Some(now) = found.0.get(path) else { panic!("{} is missing", path.display()) };
            if changed.iter().all(|changed| Path::new(changed) != path) {
                let stable = |facts: &[String]| -> Vec<String> {
                    facts.iter().filter(|fact| !fact.starts_with("time")).cloned().collect()
                };
                assert_eq!(stable(now), stable(facts), "{}", path.display());
            }
        }
    }

    #[track_caller]
    pub fn expect_times_aside(&self, root: &Path) {
        self.expect_but(root, &["none"]);
    }
}

fn digest(bytes: &[u8]) -> (usize, u64) {
    use std::hash::{DefaultHasher, Hash as _, Hasher as _};
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    (bytes.len(), hasher.finish())
}

fn attributes(path: &Path) -> Vec<String> {
    let mut list = vec![0u8; 65_536];
    let Ok(len) = rustix::fs::llistxattr(path, &mut list[..]) else { return Vec::new() };
    let mut found: Vec<String> = list[..len]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .map(|name| {
            let mut value = vec![0u8; 65_536];
            let len = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
            format!("attribute {} {:?}", String::from_utf8_lossy(name), &value[..len])
        })
        .collect();
    found.sort();
    found
}
