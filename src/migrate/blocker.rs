//! What stands in the way of a migration.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::inventory::Remarks;
use super::plan::Space;
use super::record::StoredPath;
use crate::stores;

/// What stands in the way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "blocker", rename_all = "kebab-case")]
pub enum Blocker {
    /// One path lies inside another.
    Overlap {
        /// The one.
        one: StoredPath,
        /// The other.
        other: StoredPath,
    },
    /// The source is a mount point: nothing can take its place, neither now nor on the way back.
    SourceIsMountPoint,
    /// Other filesystems are mounted inside the source.
    MountedBelow(Remarks),
    /// The mount point cannot be used.
    MountPoint {
        /// Why not.
        reason: String,
    },
    /// Processes hold files of the source open.
    OpenFiles {
        /// Which, by whom.
        files: Vec<stores::OpenFile>,
    },
    /// Too little space, or too few inodes.
    NoSpace(Space),
    /// Immutable or append-only entries.
    Fixed(Remarks),
    /// A configuration file names nothing in the source.
    NothingToRepoint {
        /// The file.
        file: StoredPath,
    },
    /// A configuration file cannot be edited.
    Config {
        /// The file.
        file: StoredPath,
        /// Why not.
        reason: String,
    },
    /// Only root can keep these as they are.
    NeedsRoot(Remarks),
    /// Nothing but root can read these.
    Unreadable {
        /// What failed, and why.
        reason: String,
    },
    /// The directory that holds the source cannot be written, so the source cannot be renamed.
    ParentNotWritable,
}

impl fmt::Display for Blocker {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = |remarks: &Remarks| {
            let shown: Vec<_> =
                remarks.paths.iter().take(3).map(|path| path.display().to_string()).collect();
            let rest = remarks.count.saturating_sub(u64::try_from(shown.len()).unwrap_or(0));
            match rest {
                0 => shown.join(", "),
                rest => format!("{} and {rest} more", shown.join(", ")),
            }
        };
        match self {
            Self::Overlap { one, other } => write!(
                formatter,
                "{} and {} lie one inside the other",
                one.as_path().display(),
                other.as_path().display()
            ),
            Self::SourceIsMountPoint => formatter.write_str(
                "the source is a mount point, so that nothing could take its place on the way back",
            ),
            Self::MountedBelow(remarks) => {
                write!(formatter, "other filesystems are mounted in the source: {}", names(remarks))
            }
            Self::MountPoint { reason } => write!(formatter, "the mount point {reason}"),
            Self::OpenFiles { files } => {
                let mut processes: BTreeMap<u32, (&str, u64)> = BTreeMap::new();
                for file in files {
                    processes.entry(file.pid).or_insert((&file.command, 0)).1 += 1;
                }
                let shown: Vec<_> = processes
                    .iter()
                    .take(5)
                    .map(|(pid, (command, count))| format!("{command} (process {pid}, {count})"))
                    .collect();
                write!(formatter, "files of the source are open in {}", shown.join(", "))
            }
            Self::NoSpace(space) if space.inodes_short() => write!(
                formatter,
                "{} has {} inodes free, and up to {} are needed",
                space.path.as_path().display(),
                space.inodes_available.unwrap_or(0),
                space.inodes_needed
            ),
            Self::NoSpace(space) => write!(
                formatter,
                "{} has {} bytes free, and up to {} are needed",
                space.path.as_path().display(),
                space.available,
                space.needed
            ),
            Self::Fixed(remarks) => write!(
                formatter,
                "immutable or append-only, which neither a copy nor a wipe can do justice: {}",
                names(remarks)
            ),
            Self::NothingToRepoint { file } => {
                write!(formatter, "{} names nothing in the source", file.as_path().display())
            }
            Self::Config { file, reason } => {
                write!(formatter, "{} cannot be edited: {reason}", file.as_path().display())
            }
            Self::NeedsRoot(remarks) => {
                write!(formatter, "only root can keep owner and attributes of {}", names(remarks))
            }
            Self::Unreadable { reason } => formatter.write_str(reason),
            Self::ParentNotWritable => {
                formatter.write_str("the directory that holds the source cannot be written")
            }
        }
    }
}
