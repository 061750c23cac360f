//! The snapshot: a sealed archive of the source and of the configuration files, under the vault's
//! own key slots, compared with the source's ledger before it is relied on.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::engine::{Engine, Side, local};
use super::error::{Error, Result};
use super::operations::Change;
use super::record::{Record, Snapshot, StoredPath};
use super::survey::{Stage, TreeProgress};
use super::watched::WatchedTree;
use crate::archive::{
    self, Amount, ArchiveKind, ArchiveReader, Control, Description, ExtractOptions, Keyring,
    PendingArchive, Section, SectionName, WriteOptions, select_all,
};
use crate::tree::{EntryKind, LocalTree, Timestamp, TreePath, TreeWriter};

/// How the names of snapshots begin and end.
const PREFIX: &str = "snapshot-";
const SUFFIX: &str = ".tar.zst.enc";

impl Engine<'_> {
    /// Writes the snapshot and reads it back.
    pub(super) fn snapshot(&mut self) -> Result<()> {
        let directory = self.place.directory().to_owned();
        self.remove_unfinished(&directory)?;
        let configs = self.configs_for_snapshot()?;
        let hands = self.environment.hands.clone();
        let (path, bytes) = hands.perform(Change::Snapshot, &directory, || {
            let mut pending = PendingArchive::create(&directory)?;
            self.write_snapshot(&mut pending, &configs)?;
            self.read_back(&pending)?;
            let path = pending.publish(&snapshot_name())?;
            let bytes =
                std::fs::metadata(&path).map_err(|error| Error::io("inspect", &path, error))?.len();
            Ok::<_, Error>((path, bytes))
        })?;
        self.refuse_changed_source()?;
        self.journal.append(Record::Snapshotted(Snapshot { path: StoredPath(path), bytes }))
    }

    /// Removes what an interrupted run left, and a snapshot of a source that changed since.
    fn remove_unfinished(&self, directory: &Path) -> Result<()> {
        archive::remove_leftovers(directory)?;
        let failed = |error| Error::io("list", directory, error);
        for entry in std::fs::read_dir(directory).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            let name = name.as_bytes();
            if name.starts_with(PREFIX.as_bytes()) && name.ends_with(SUFFIX.as_bytes()) {
                self.environment.hands.unlink(&entry.path())?;
            }
        }
        Ok(())
    }

    /// Every configuration file outside the source, its symlinks resolved.
    fn configs_for_snapshot(&self) -> Result<Vec<PathBuf>> {
        let begun = &self.state().begun;
        let files = begun.configs.iter().chain(begun.sets.iter().map(|set| &set.file));
        let mut configs = Vec::new();
        for file in files {
            let path = file.as_path();
            let path = path.canonicalize().map_err(|error| Error::io("find", path, error))?;
            if !path.starts_with(begun.source.as_path()) && !configs.contains(&path) {
                configs.push(path);
            }
        }
        Ok(configs)
    }

    fn write_snapshot(&self, pending: &mut PendingArchive, configs: &[PathBuf]) -> Result<()> {
        let environment = &self.environment;
        let begun = &self.state().begun;
        environment.observer.stage(Stage::Snapshot, self.source_totals());
        let source = local(&self.originals()?)?;
        let exclude = |path: &TreePath, kind: EntryKind| self.excludes(Side::Source, path, kind);
        let mut sections =
            vec![Section { name: SectionName::data(), reader: &source, exclude: &exclude }];
        // A file's directory is its tree, all else left out.
        let trees: Vec<(LocalTree, &Path)> = configs
            .iter()
            .map(|config| Ok((local(super::operations::parent_of(config))?, config.as_path())))
            .collect::<Result<_>>()?;
        let others: Vec<_> = trees
            .iter()
            .map(|(_, config)| {
                let name = config.file_name().unwrap_or_default().as_bytes();
                move |path: &TreePath, _: EntryKind| path.as_bytes() != name
            })
            .collect();
        for (at, ((tree, _), others)) in trees.iter().zip(&others).enumerate() {
            let name = SectionName::new(format!("config-{at}"))?;
            sections.push(Section { name, reader: tree, exclude: others });
        }
        let description = Description {
            name: "snapshot".to_owned(),
            kind: ArchiveKind::Snapshot,
            created: now(),
            chain: Vec::new(),
            details: json!({
                "migration": self.journal.id().to_string(),
                "source": begun.source,
                "configs": configs.iter().map(|path| StoredPath(path.clone())).collect::<Vec<_>>(),
            }),
        };
        let options = WriteOptions {
            // It is refused if the source is not what was listed.
            expected: self
                .source_totals()
                .map(|totals| Amount { entries: totals.entries, bytes: totals.bytes }),
            threads: Some(environment.threads()),
            cancelled: environment.observer.cancelled(),
            progress: &TreeProgress(environment.observer),
            ..WriteOptions::default()
        };
        let keys = environment.vault.archive_keys();
        pending.write(Some(&keys), &description, &sections, None, &options)?;
        Ok(())
    }

    fn keyring(&self) -> Keyring {
        Keyring::new().with_set(self.environment.vault.archive_keys())
    }

    /// Reads the archive from the disk, every byte of it, and compares it with the ledger.
    fn read_back(&self, pending: &PendingArchive) -> Result<()> {
        let observer = self.environment.observer;
        observer.stage(Stage::ReadBack, self.source_totals());
        super::caches::drop(self.place.directory());
        let reader = pending.reader(&self.keyring())?;
        let progress = TreeProgress(observer);
        reader.verify(Control { cancelled: observer.cancelled(), progress: &progress })?;
        let mut ledger = self.source_ledger()?;
        let data = SectionName::data();
        let mut wrong = None;
        reader.index(Control { cancelled: observer.cancelled(), progress: &() }, &mut |line| {
            if line.section == data && wrong.is_none() {
                let expected = ledger.next_entry().map_err(into_archive)?;
                let same = expected.is_some_and(|expected| {
                    let accessed = expected.entry.metadata.accessed;
                    let mut stored = line.entry.clone();
                    stored.metadata.accessed = accessed;
                    stored == expected.entry
                });
                if !same {
                    wrong = Some(line.entry.path.clone());
                }
            }
            Ok(())
        })?;
        let rest = ledger.next_entry()?.map(|entry| entry.entry.path);
        match wrong.or(rest) {
            // Both came from the source, one after the other.
            Some(path) => Err(Error::SourceChanged { paths: vec![path], count: 1 }),
            None => Ok(()),
        }
    }

    /// Whether the snapshot is still there.
    pub(super) fn has_snapshot(&self) -> bool {
        self.state()
            .snapshot
            .as_ref()
            .is_some_and(|snapshot| self.find_snapshot(snapshot).is_some())
    }

    /// Where the snapshot is: at its path, or in the vault's directory, which may have been moved.
    fn find_snapshot(&self, snapshot: &Snapshot) -> Option<PathBuf> {
        let path = snapshot.path.as_path();
        let moved = self.place.directory().join(path.file_name().unwrap_or_default());
        [path.to_owned(), moved]
            .into_iter()
            .find(|path| path.metadata().is_ok_and(|stat| stat.len() == snapshot.bytes))
    }

    /// Refuses to destroy the originals without the snapshot that a rollback would need.
    pub(super) fn refuse_missing_snapshot(&self) -> Result<()> {
        match &self.state().snapshot {
            Some(snapshot) if !self.has_snapshot() => {
                Err(Error::SnapshotGone { path: snapshot.path.as_path().to_owned() })
            }
            _ => Ok(()),
        }
    }

    /// Writes what the snapshot holds of the source to `target`, durably.
    pub(super) fn restore_snapshot(&self, target: &Path) -> Result<()> {
        let Some(snapshot) = &self.state().snapshot else {
            return Err(Error::State { what: "there is no snapshot", phase: self.state().phase });
        };
        let path = self.find_snapshot(snapshot).unwrap_or_else(|| snapshot.path.0.clone());
        let reader = ArchiveReader::open(&path, &self.keyring())?;
        let environment = &self.environment;
        environment.observer.stage(Stage::Restore, self.source_totals());
        let tree = local(target)?;
        let tree = WatchedTree { tree: &tree, hands: &environment.hands };
        let options = ExtractOptions {
            targets: &[(SectionName::data(), &tree)],
            select: &select_all,
            // Our own snapshot of the user's own directory.
            devices: true,
        };
        let progress = TreeProgress(environment.observer);
        let control = Control { cancelled: environment.observer.cancelled(), progress: &progress };
        reader.extract(&options, control)?;
        Ok(tree.sync()?)
    }
}

/// Carries an error through the archive's reading.
fn into_archive(error: Error) -> archive::Error {
    match error {
        Error::Interrupted => archive::Error::Cancelled,
        other => archive::Error::Damaged(other.to_string()),
    }
}

fn now() -> Timestamp {
    let now = jiff::Timestamp::now();
    Timestamp {
        seconds: now.as_second(),
        nanoseconds: u32::try_from(now.subsec_nanosecond()).unwrap_or(0),
    }
}

/// The name tells nothing of what is inside.
fn snapshot_name() -> String {
    let now = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC);
    format!("{PREFIX}{}{SUFFIX}", now.strftime("%Y%m%d-%H%M%S"))
}
