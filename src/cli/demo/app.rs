//! The demo's app: what it keeps, how it writes and reads it.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use rusqlite::Connection;

use super::lmdb;
use crate::cli::exit_code::ExitCode;
use crate::cli::failure::Failure;
use crate::tree::{CopyOptions, LocalTree, copy};

/// A text that every store holds.
pub(super) const SECRET: &str = "meet me at the old lighthouse";
/// A file's name that tells something, too.
const TELLING_NAME: &str = "diary of the lighthouse keeper.md";
/// What the app's own use changes.
pub(super) const STORES: [&str; 2] = ["messages.db", "memory"];
const ATTRIBUTE: &str = "user.demo.origin";

/// What the app reads of its stores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Read {
    /// Rows in SQLite.
    pub(super) rows: u64,
    /// What `PRAGMA integrity_check` says.
    pub(super) integrity: String,
    /// Entries in LMDB.
    pub(super) entries: u64,
}

/// The app and its directory.
pub(super) struct App {
    root: PathBuf,
}

fn sqlite(error: rusqlite::Error) -> Failure {
    Failure::new(ExitCode::Failure, format!("SQLite: {error}"))
}

impl App {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    pub(super) fn data(&self) -> PathBuf {
        self.root.join("app-data")
    }

    pub(super) fn mount_point(&self) -> PathBuf {
        self.root.join("app-data-encrypted")
    }

    pub(super) fn config(&self) -> PathBuf {
        self.root.join("app.yaml")
    }

    pub(super) fn config_name(&self) -> &'static str {
        "app.yaml"
    }

    /// A copy from the beginning, to compare with in the end.
    pub(super) fn aside(&self) -> PathBuf {
        self.root.join("copy-from-the-beginning")
    }

    /// Texts and names that must not be found in the vault.
    pub(super) fn secrets(&self) -> Vec<&'static [u8]> {
        vec![SECRET.as_bytes(), TELLING_NAME.as_bytes(), b"messages.db", b"SQLite format 3"]
    }

    fn config_text(&self) -> String {
        format!(
            "# The app's configuration.\n\
             storage:\n\
             \x20 data_directory: {}   # comments and layout stay\n\
             \x20 database: \"{}/messages.db\"\n\
             theme: dark\n",
            self.data().display(),
            self.data().display()
        )
    }

    /// Makes it all.
    pub(super) fn make(&self) -> Result<(), Failure> {
        let data = self.data();
        let failed = |error: std::io::Error| Failure::io("write to", &data, &error);
        fs::create_dir_all(data.join("notes")).map_err(failed)?;
        fs::create_dir(data.join("memory")).map_err(failed)?;
        self.write_rows(&data, 2000)?;
        lmdb::write(&data.join("memory"), 0, 500, SECRET)?;
        let note = data.join("notes").join(TELLING_NAME);
        fs::write(&note, format!("# Diary\n{SECRET}\n").repeat(200)).map_err(failed)?;
        fs::set_permissions(&note, fs::Permissions::from_mode(0o640)).map_err(failed)?;
        fs::hard_link(&note, data.join("notes/latest.md")).map_err(failed)?;
        symlink("notes/latest.md", data.join("today")).map_err(failed)?;
        let sparse = File::create(data.join("cache.img")).map_err(failed)?;
        sparse.set_len(64 << 20).map_err(failed)?;
        sparse.write_all_at(SECRET.as_bytes(), 33 << 20).map_err(failed)?;
        // Not every temporary directory takes attributes.
        let flags = rustix::fs::XattrFlags::CREATE;
        let _ = rustix::fs::setxattr(&note, ATTRIBUTE, SECRET.as_bytes(), flags);
        fs::write(self.config(), self.config_text()).map_err(failed)
    }

    pub(super) fn has_attributes(&self) -> bool {
        let mut value = [0u8; 256];
        let note = self.data().join("notes").join(TELLING_NAME);
        rustix::fs::getxattr(&note, ATTRIBUTE, &mut value[..]).is_ok()
    }

    /// Copies the store to compare with it in the end.
    pub(super) fn set_aside(&self) -> Result<(), Failure> {
        let failed = |error: crate::tree::Error| Failure::new(ExitCode::Failure, error.to_string());
        fs::create_dir(self.aside())
            .map_err(|error| Failure::io("create", &self.aside(), &error))?;
        let from = LocalTree::open(self.data()).map_err(failed)?;
        let to = LocalTree::open(self.aside()).map_err(failed)?;
        copy(&from, &to, &CopyOptions::default(), &|_| Ok(())).map_err(failed)?;
        Ok(())
    }

    /// The directory that the configuration names now.
    pub(super) fn configured(&self) -> Result<PathBuf, Failure> {
        let text = fs::read_to_string(self.config())
            .map_err(|error| Failure::io("read", &self.config(), &error))?;
        text.lines()
            .find_map(|line| line.trim().strip_prefix("data_directory:"))
            .and_then(|value| value.split('#').next())
            .map(|value| PathBuf::from(value.trim().trim_matches('"')))
            .ok_or_else(|| {
                Failure::new(ExitCode::VerificationFailed, "the configuration lost its value")
            })
    }

    /// Fails unless the configuration is what it was at the beginning.
    pub(super) fn check_config(&self) -> Result<(), Failure> {
        let text = fs::read_to_string(self.config())
            .map_err(|error| Failure::io("read", &self.config(), &error))?;
        if text == self.config_text() {
            return Ok(());
        }
        Err(Failure::new(ExitCode::VerificationFailed, "the configuration is not what it was"))
    }

    fn write_rows(&self, data: &Path, count: usize) -> Result<(), Failure> {
        let mut database = Connection::open(data.join("messages.db")).map_err(sqlite)?;
        database.pragma_update(None, "journal_mode", "wal").map_err(sqlite)?;
        database
            .execute_batch(
                "CREATE TABLE IF NOT EXISTS messages (id INTEGER PRIMARY KEY, text TEXT NOT NULL)",
            )
            .map_err(sqlite)?;
        let transaction = database.transaction().map_err(sqlite)?;
        for number in 0..count {
            transaction
                .execute("INSERT INTO messages (text) VALUES (?1)", [format!("{SECRET} {number}")])
                .map_err(sqlite)?;
        }
        transaction.commit().map_err(sqlite)?;
        database.close().map_err(|(_, error)| sqlite(error))
    }

    /// The app does what it does.
    pub(super) fn write_more(&self, data: &Path) -> Result<(), Failure> {
        self.write_rows(data, 250)?;
        lmdb::write(&data.join("memory"), 500, 50, "written through the mount")
    }

    /// What it reads.
    pub(super) fn read(&self, data: &Path) -> Result<Read, Failure> {
        let database = Connection::open(data.join("messages.db")).map_err(sqlite)?;
        let rows = database
            .query_row("SELECT count(*) FROM messages", [], |row| row.get::<_, i64>(0))
            .map_err(sqlite)?;
        let integrity =
            database.query_row("PRAGMA integrity_check", [], |row| row.get(0)).map_err(sqlite)?;
        database.close().map_err(|(_, error)| sqlite(error))?;
        let rows = u64::try_from(rows).unwrap_or(0);
        Ok(Read { rows, integrity, entries: lmdb::count(&data.join("memory"))? })
    }
}
