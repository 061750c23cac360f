//! What the journal records, and the state that follows from it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::repoint;
use crate::tree::{ByteString, TreePath};

/// A path in JSON: text where it is UTF-8, base64 else.
mod path_bytes {
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    use std::path::{Path, PathBuf};

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::tree::ByteString;

    pub(super) fn serialize<S: Serializer>(path: &Path, to: S) -> Result<S::Ok, S::Error> {
        ByteString(path.as_os_str().as_bytes().to_vec()).serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<PathBuf, D::Error> {
        ByteString::deserialize(from)
            .map(|bytes| PathBuf::from(std::ffi::OsString::from_vec(bytes.0)))
    }
}

/// An absolute path as the journal keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StoredPath(#[serde(with = "path_bytes")] pub PathBuf);

impl StoredPath {
    /// The path.
    pub fn as_path(&self) -> &Path {
        &self.0
    }
}

impl From<&Path> for StoredPath {
    fn from(path: &Path) -> Self {
        Self(path.to_owned())
    }
}

/// Says that a directory is the same one, wherever it has been renamed to. The device number is
/// not part of it: it may change when the machine starts again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The inode.
    pub inode: u64,
    /// When it was made, in nanoseconds since 1970, where the filesystem keeps that.
    pub born: Option<i128>,
}

/// How the app finds its data after the switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SwitchMode {
    /// Its configuration names the mount point.
    Repoint,
    /// The vault is mounted where the data was.
    InPlace,
    /// A symlink to the mount point takes the source's name.
    Symlink,
}

/// A value to set explicitly in a configuration file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetValue {
    /// The file.
    pub file: StoredPath,
    /// The key, components separated by dots.
    pub key: String,
    /// Its new value.
    pub value: String,
}

/// Commands of the app's, for `sh -c`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commands {
    /// Stops it before the copy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop: Option<String>,
    /// Starts it after the switch, or after the way back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<String>,
    /// Succeeds when it runs well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<String>,
    /// How long it may take until it does, in seconds; half a minute where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_seconds: Option<u64>,
}

/// What the app knows when it reads its configuration files, and what they do not tell themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reading {
    /// The app's working directory, which relative values may be below.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub working_directory: Option<StoredPath>,
    /// Variables of the app's environment, which values may refer to.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub variables: BTreeMap<String, String>,
    /// The syntax of files, where somebody says it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub formats: Vec<(StoredPath, repoint::Format)>,
    /// Files that need not name the source, as long as another one does.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub optional: Vec<StoredPath>,
}

impl Reading {
    /// The syntax that `file` is said to have.
    pub fn format_of(&self, file: &Path) -> Option<repoint::Format> {
        self.formats.iter().find(|(path, _)| path.as_path() == file).map(|(_, format)| *format)
    }
}

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begun {
    /// The program's version.
    pub version: String,
    /// The directory to move into the vault, canonical.
    pub source: StoredPath,
    /// That it is still that one.
    pub identity: Identity,
    /// Further paths by which it is known, through symlinks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<StoredPath>,
    /// Where the app will find the vault mounted; the source's own path with
    /// [`SwitchMode::InPlace`].
    pub mount_point: StoredPath,
    /// The mount point did not exist before, and goes with a rollback.
    pub makes_mount_point: bool,
    /// How the app is brought there.
    pub mode: SwitchMode,
    /// Patterns of what is left behind.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
    /// The configuration files to edit.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub configs: Vec<StoredPath>,
    /// Values to set in them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sets: Vec<SetValue>,
    /// How they are read.
    #[serde(default)]
    pub reading: Reading,
    /// Leave the originals aside instead of wiping them.
    pub keep_originals: bool,
    /// The wipe was agreed to beforehand.
    #[serde(default)]
    pub wipe_agreed: bool,
    /// Go on although a store is damaged already.
    #[serde(default)]
    pub accept_damage: bool,
    /// The app's commands.
    #[serde(default)]
    pub commands: Commands,
}

/// A list of entries sealed beside the journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerReference {
    /// The stream's ID, hexadecimal: opens this one and no older one.
    pub stream: String,
    /// Entries of every kind.
    pub entries: u64,
    /// Regular files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// A snapshot written, made durable and read back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Where it is.
    pub path: StoredPath,
    /// Its size in bytes.
    pub bytes: u64,
}

/// One configuration file to be edited.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Edit {
    /// The file.
    pub file: StoredPath,
    /// What it holds before, byte for byte.
    pub original: ByteString,
    /// What it holds afterwards.
    pub edited: ByteString,
    /// The edits, in the order in which they were made on each other's result.
    pub edits: Vec<repoint::Record>,
    /// Its place in the source, where it lies there: then its copy in the vault is edited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inside: Option<TreePath>,
}

/// What the switch is going to change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Switching {
    /// The edits.
    pub edits: Vec<Edit>,
    /// Where the originals go by rename, if they leave their path.
    pub aside: Option<StoredPath>,
}

/// Where a rollback takes the data from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// The originals, which are all still there.
    Originals,
    /// The snapshot.
    Snapshot,
    /// The vault's present content.
    Vault,
}

/// A tree that is to come back, complete and verified.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restored {
    /// Where it was made, beside its place.
    pub path: StoredPath,
    /// That it is that one.
    pub identity: Identity,
    /// Its entries.
    pub ledger: LedgerReference,
}

/// One durable transition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "record", content = "facts", rename_all = "kebab-case")]
pub enum Record {
    /// A migration began. Nothing but the journal and the marker exists of it.
    Begun(Box<Begun>),
    /// The app's stop command is about to be run.
    Stopping,
    /// The source has been read whole; its entries are listed.
    Surveyed(LedgerReference),
    /// The snapshot is durable and was read back.
    Snapshotted(Snapshot),
    /// The copy is about to begin, not for the first time perhaps.
    Copying,
    /// The copy is complete and durable.
    Copied,
    /// The copy, read through a fresh mount, is equal to a fresh reading of the source.
    Verified,
    /// The source changed before the switch: it has to be read again.
    Restarted,
    /// The switch is about to begin.
    Switching(Switching),
    /// The app finds its data in the vault.
    Switched,
    /// The app was started and is well, or no health command was given.
    Accepted,
    /// The originals at this path are about to be destroyed: they were unchanged since they were
    /// verified.
    Wiping(StoredPath),
    /// Everything in the originals' directory that may go is gone; the directory itself is about
    /// to be removed.
    Emptied,
    /// The originals are gone as far as this disk allows.
    Wiped,
    /// The originals are at this path, for a later wipe.
    Kept(StoredPath),
    /// The way back has begun.
    RollingBack(Origin),
    /// What was written to the vault since the migration may be lost.
    Discarding,
    /// The directory of the tree to come back was made; the tree is about to be written.
    Restoring(Identity),
    /// The tree to come back is complete and was verified.
    Restored(Restored),
    /// Everything is as it was before.
    RolledBack,
}

/// Where a migration stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Begun; the source is being read.
    Begun,
    /// The source is listed.
    Surveyed,
    /// The snapshot exists.
    Snapshotted,
    /// The copy is complete.
    Copied,
    /// The copy is verified.
    Verified,
    /// The switch is under way.
    Switching,
    /// The app uses the vault, its health not yet known.
    Switched,
    /// The app uses the vault; the originals exist, too.
    Accepted,
    /// The originals are being wiped.
    Wiping,
    /// Done; the originals are wiped, or were removed by other means.
    Finished,
    /// Done; the originals are aside.
    Kept,
    /// The way back is under way.
    RollingBack,
    /// Everything is as it was before.
    RolledBack,
}

impl Phase {
    /// Whether neither `resume` nor anything else has to follow.
    pub fn is_finished(self) -> bool {
        matches!(self, Self::Finished | Self::Kept | Self::RolledBack)
    }

    /// The name in JSON and in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Begun => "begun",
            Self::Surveyed => "surveyed",
            Self::Snapshotted => "snapshotted",
            Self::Copied => "copied",
            Self::Verified => "verified",
            Self::Switching => "switching",
            Self::Switched => "switched",
            Self::Accepted => "accepted",
            Self::Wiping => "wiping",
            Self::Finished => "finished",
            Self::Kept => "kept",
            Self::RollingBack => "rolling-back",
            Self::RolledBack => "rolled-back",
        }
    }
}

/// All that the records say.
#[derive(Clone, Debug)]
pub struct State {
    /// Where it stands.
    pub phase: Phase,
    /// What was asked for.
    pub begun: Begun,
    /// The stop command was run, so the app is to be started again.
    pub stopped: bool,
    /// The source's entries.
    pub source: Option<LedgerReference>,
    /// The snapshot.
    pub snapshot: Option<Snapshot>,
    /// How many times a copy was begun.
    pub copies: u32,
    /// Whether the copy was verified.
    pub verified: bool,
    /// What the switch changes.
    pub switching: Option<Switching>,
    /// Whether the switch was completed.
    pub switched: bool,
    /// Where the originals are or were wiped.
    pub wiping: Option<StoredPath>,
    /// Whether all of them that may go is gone.
    pub emptied: bool,
    /// Where a rollback takes the data from.
    pub origin: Option<Origin>,
    /// Whether what was written to the vault since the migration may be lost.
    pub discards: bool,
    /// The directory in which the tree to come back is being made.
    pub restoring: Option<Identity>,
    /// The tree to come back.
    pub restored: Option<Restored>,
}

impl State {
    /// The state after these records; `None` where they cannot follow each other.
    pub fn from_records<'a>(records: impl IntoIterator<Item = &'a Record>) -> Option<Self> {
        let mut records = records.into_iter();
        let Some(Record::Begun(begun)) = records.next() else { return None };
        let mut state = Self {
            phase: Phase::Begun,
            begun: (**begun).clone(),
            stopped: false,
            source: None,
            snapshot: None,
            copies: 0,
            verified: false,
            switching: None,
            switched: false,
            wiping: None,
            emptied: false,
            origin: None,
            discards: false,
            restoring: None,
            restored: None,
        };
        records.try_for_each(|record| state.apply(record)).map(|()| state)
    }

    /// Takes one more record; `None` where it cannot follow.
    pub(super) fn apply(&mut self, record: &Record) -> Option<()> {
        use Phase as P;
        let from = self.phase;
        let (allowed, to) = match record {
            Record::Begun(_) => return None,
            Record::Stopping => (from == P::Begun, P::Begun),
            Record::Surveyed(_) => (from == P::Begun, P::Surveyed),
            Record::Snapshotted(_) => (from == P::Surveyed, P::Snapshotted),
            Record::Copying => (matches!(from, P::Snapshotted | P::Copied), P::Snapshotted),
            Record::Copied => (from == P::Snapshotted && self.copies > 0, P::Copied),
            Record::Restarted => (from < P::Switching, P::Begun),
            Record::Verified => (from == P::Copied, P::Verified),
            Record::Switching(_) => (from == P::Verified, P::Switching),
            Record::Switched => (from == P::Switching, P::Switched),
            Record::Accepted => (from == P::Switched, P::Accepted),
            Record::Wiping(_) => (matches!(from, P::Accepted | P::Kept), P::Wiping),
            Record::Emptied => (from == P::Wiping, P::Wiping),
            Record::Wiped => (from == P::Wiping, P::Finished),
            Record::Kept(_) => (from == P::Accepted, P::Kept),
            Record::RollingBack(_) => (from != P::RolledBack, P::RollingBack),
            Record::Discarding | Record::Restoring(_) | Record::Restored(_) => {
                (from == P::RollingBack, P::RollingBack)
            }
            Record::RolledBack => (from == P::RollingBack, P::RolledBack),
        };
        if !allowed {
            return None;
        }
        self.phase = to;
        match record {
            Record::Stopping => self.stopped = true,
            Record::Surveyed(ledger) => self.source = Some(ledger.clone()),
            Record::Snapshotted(snapshot) => self.snapshot = Some(snapshot.clone()),
            Record::Copying => self.copies += 1,
            Record::Restarted => {
                self.source = None;
                self.snapshot = None;
                self.verified = false;
            }
            Record::Verified => self.verified = true,
            Record::Switching(switching) => self.switching = Some(switching.clone()),
            Record::Switched => self.switched = true,
            Record::Wiping(root) => self.wiping = Some(root.clone()),
            Record::Emptied => self.emptied = true,
            Record::RollingBack(origin) => {
                // Another origin starts the restoring again.
                self.origin = Some(*origin);
                self.discards = false;
                self.restored = None;
            }
            Record::Discarding => self.discards = true,
            Record::Restoring(identity) => self.restoring = Some(*identity),
            Record::Restored(restored) => self.restored = Some(restored.clone()),
            Record::Begun(_)
            | Record::Copied
            | Record::Accepted
            | Record::Wiped
            | Record::Kept(_)
            | Record::RolledBack => {}
        }
        Some(())
    }
}
