//! What a check can find, how grave it is, and what can be done about it.

use std::ops::Range;

use crate::format::directory::DirId;
use crate::format::header::FileId;

/// How grave a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Nothing that was ever durable is lost: litter, or what the next mount recovers by itself.
    Note,
    /// Something cannot be read.
    Damage,
}

/// Where something was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// The path below the vault directory, as it stands on the disk.
    pub stored: Vec<u8>,
    /// The path in the plain tree, beginning with `/`; a component that is not known is `?` and the
    /// beginning of the stored name. `None` for what is in no plain path.
    pub plain: Option<Vec<u8>>,
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// A copy of the configuration is missing, damaged, or differs from the other.
    #[error("the two copies of the configuration are not the same")]
    ConfigCopies,
    /// The last mount ended uncleanly.
    #[error("the vault was not closed cleanly; what the journal holds is not in place yet")]
    UncleanEnd,
    /// The state file is not authentic, so it is not used.
    #[error("the record of earlier unclean ends does not authenticate and is not used")]
    StateFile,
    /// A directory of the vault itself is missing.
    #[error("a directory of the vault itself is missing")]
    PartMissing,
    /// A file that was being written when the power went.
    #[error("a leftover of a file that was being replaced")]
    LeftoverFile,
    /// A directory that was being made when the power went.
    #[error("a leftover of a directory that was being made")]
    LeftoverDirectory,
    /// A sidecar without its entry.
    #[error("the sidecar of a long name whose entry is gone")]
    OrphanSidecar,
    /// A piece of an overflowed value or target that nothing refers to.
    #[error("an overflow piece that nothing refers to")]
    OrphanOverflow,
    /// A name that begins like the program's own and is none that it knows.
    #[error("a name of the program's own that this version does not know")]
    UnknownReserved,
    /// Another filesystem is mounted inside the vault.
    #[error("another filesystem is mounted there; it was not looked into")]
    ForeignFilesystem,
    /// A directory record is missing or not authentic: the names in the directory are unreadable.
    #[error("the directory's record is missing or does not authenticate: its names are unreadable")]
    DirectoryRecord,
    /// A name is not authentic in its directory.
    #[error("the name does not authenticate in its directory")]
    Name,
    /// The sidecar of a long name is missing or another's.
    #[error("the sidecar that holds the long name is missing or another's")]
    LongName,
    /// A file's size is one that no complete write leaves.
    #[error("the file ends in the middle of a block: it was cut off")]
    Size,
    /// As [`Self::Size`], of a file that was being written at an unclean end.
    #[error("the file's end was torn by an unclean end, before it was durable")]
    TornSize,
    /// A file header is not authentic.
    #[error("the file header does not authenticate: the file's blocks cannot be read")]
    Header,
    /// As [`Self::Header`], of a file that was being made at an unclean end.
    #[error("the file header was torn by an unclean end, before it was durable")]
    TornHeader,
    /// Blocks are not authentic.
    #[error("blocks do not authenticate")]
    Blocks,
    /// Blocks that were being written at an unclean end.
    #[error("blocks were torn by an unclean end, before they were durable; they read as zeros")]
    TornBlocks,
    /// The file ends before its last block's worth of data, or a symlink's target is unreadable.
    #[error("the symlink's target does not authenticate, or its second piece is missing")]
    Symlink,
    /// An extended attribute is not authentic, or its value is missing.
    #[error("an extended attribute does not authenticate, or its value is missing ({stored_name})")]
    Attribute {
        /// The name that it is stored under.
        stored_name: String,
    },
    /// The disk, or a permission, kept it from being read.
    #[error("cannot be read: {reason}")]
    Unreadable {
        /// What the operating system says.
        reason: String,
    },
}

impl Problem {
    /// A stable name for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::ConfigCopies => "config-copies",
            Self::UncleanEnd => "unclean-end",
            Self::StateFile => "state-file",
            Self::PartMissing => "part-missing",
            Self::LeftoverFile => "leftover-file",
            Self::LeftoverDirectory => "leftover-directory",
            Self::OrphanSidecar => "orphan-sidecar",
            Self::OrphanOverflow => "orphan-overflow",
            Self::UnknownReserved => "unknown-reserved",
            Self::ForeignFilesystem => "foreign-filesystem",
            Self::DirectoryRecord => "directory-record",
            Self::Name => "name",
            Self::LongName => "long-name",
            Self::Size => "size",
            Self::TornSize => "torn-size",
            Self::Header => "header",
            Self::TornHeader => "torn-header",
            Self::Blocks => "blocks",
            Self::TornBlocks => "torn-blocks",
            Self::Symlink => "symlink",
            Self::Attribute { .. } => "attribute",
            Self::Unreadable { .. } => "unreadable",
        }
    }

    /// How grave it is.
    pub fn severity(&self) -> Severity {
        match self {
            Self::UncleanEnd
            | Self::LeftoverFile
            | Self::LeftoverDirectory
            | Self::OrphanSidecar
            | Self::OrphanOverflow
            | Self::UnknownReserved
            | Self::ForeignFilesystem
            | Self::TornSize
            | Self::TornHeader
            | Self::TornBlocks => Severity::Note,
            Self::ConfigCopies
            | Self::StateFile
            | Self::PartMissing
            | Self::DirectoryRecord
            | Self::Name
            | Self::LongName
            | Self::Size
            | Self::Header
            | Self::Blocks
            | Self::Symlink
            | Self::Attribute { .. }
            | Self::Unreadable { .. } => Severity::Damage,
        }
    }
}

/// What [`super::Session::repair`] can do about a finding. It looks again before it acts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// Write both copies of the configuration anew. The vault's opener does that
    /// ([`crate::vault::Vault::write_copies`]).
    WriteConfigCopies,
    /// Write in place what the journal holds.
    Recover,
    /// Remove the file or symlink.
    Remove,
    /// Remove a directory that holds nothing but perhaps its record.
    RemoveDirectory,
    /// Write the directory record that was worked out.
    WriteRecord {
        /// The directory's ID.
        directory: DirId,
    },
    /// Write the file header that was worked out.
    WriteHeader {
        /// The file's ID.
        file: FileId,
    },
    /// Give a file whose content never was durable a header, and make holes of its blocks.
    ClearContent,
    /// Cut the file.
    Truncate {
        /// To this many bytes on disk.
        len: u64,
    },
    /// Make holes of the torn blocks.
    PunchTorn,
    /// Rename to the stored name that was worked out.
    RestoreName {
        /// The entry's name.
        entry: Vec<u8>,
    },
    /// Make the sidecar of a long name anew.
    WriteSidecar {
        /// The cipher name.
        target: Vec<u8>,
    },
    /// Rename, so that the content can be reached: the name itself is lost.
    RenameNeutral {
        /// The plain name to be.
        plain: Vec<u8>,
    },
}

impl Remedy {
    /// What it does, for the plan.
    pub fn describe(&self) -> String {
        match self {
            Self::WriteConfigCopies => "write both copies anew from the authentic one".to_owned(),
            Self::Recover => "write in place what the journal holds".to_owned(),
            Self::Remove | Self::RemoveDirectory => "remove it".to_owned(),
            Self::WriteRecord { .. } => "write the record anew; no name is lost".to_owned(),
            Self::WriteHeader { .. } => "write the header anew; nothing is lost".to_owned(),
            Self::ClearContent => "let the file read as zeros".to_owned(),
            Self::Truncate { len } => format!("cut the torn end off, at {len} bytes on disk"),
            Self::PunchTorn => "make holes of them".to_owned(),
            Self::WriteSidecar { .. } => "write the sidecar anew; the name is known".to_owned(),
            Self::RestoreName { .. } => "restore the name; it is known".to_owned(),
            Self::RenameNeutral { plain } => {
                format!("call it {}; its own name is lost", String::from_utf8_lossy(plain))
            }
        }
    }
}

/// One thing that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Where.
    pub location: Location,
    /// What.
    pub problem: Problem,
    /// Which bytes of the plain content, where it is about content.
    pub ranges: Vec<Range<u64>>,
    /// What can be done.
    pub remedy: Option<Remedy>,
}

impl Finding {
    pub(super) fn new(location: Location, problem: Problem) -> Self {
        Self { location, problem, ranges: Vec::new(), remedy: None }
    }

    pub(super) fn remedy(mut self, remedy: Remedy) -> Self {
        self.remedy = Some(remedy);
        self
    }

    pub(super) fn range(mut self, range: Range<u64>) -> Self {
        self.ranges.push(range);
        self
    }

    pub(super) fn ranges(mut self, ranges: Vec<Range<u64>>) -> Self {
        self.ranges = ranges;
        self
    }

    /// About the two copies of the configuration, which the vault's opener compares.
    pub fn config_copies() -> Self {
        let location = Location { stored: b"vault.json".to_vec(), plain: None };
        Self::new(location, Problem::ConfigCopies).remedy(Remedy::WriteConfigCopies)
    }
}
