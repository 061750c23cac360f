//! The core's errors, each with its errno.

use std::io;

/// What an operation of the core can fail with.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such file.
    #[error("no such file or directory")]
    NotFound,
    /// The name is taken.
    #[error("the name exists already")]
    Exists,
    /// A directory was wanted.
    #[error("not a directory")]
    NotDirectory,
    /// Anything but a directory was wanted.
    #[error("is a directory")]
    IsDirectory,
    /// The directory has entries.
    #[error("directory not empty")]
    NotEmpty,
    /// The name is longer than 255 bytes, or a target than 4095.
    #[error("name too long")]
    NameTooLong,
    /// The arguments make no sense.
    #[error("invalid argument")]
    Invalid,
    /// The file would be larger than the format allows.
    #[error("file too large")]
    TooLarge,
    /// The operation is not supported here.
    #[error("operation not supported")]
    NotSupported,
    /// The caller may not do that.
    #[error("operation not permitted")]
    NotPermitted,
    /// The mount is read-only.
    #[error("read-only filesystem")]
    ReadOnly,
    /// There is no such extended attribute.
    #[error("no such attribute")]
    NoAttribute,
    /// The buffer is too small.
    #[error("result too large")]
    Range,
    /// No data, or no hole, at or after that offset.
    #[error("no such offset")]
    NoOffset,
    /// The inode is not known (any more).
    #[error("stale file handle")]
    Stale,
    /// What lies on disk does not authenticate, or is not of the format.
    #[error("{what} is damaged")]
    Damaged {
        /// What is damaged: a block, a header, a directory record, …
        what: &'static str,
    },
    /// The filesystem below failed.
    #[error("{0}")]
    Backing(#[from] io::Error),
}

/// A result of the core.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// The errno that an application sees.
    pub fn errno(&self) -> i32 {
        match self {
            Self::NotFound => libc::ENOENT,
            Self::Exists => libc::EEXIST,
            Self::NotDirectory => libc::ENOTDIR,
            Self::IsDirectory => libc::EISDIR,
            Self::NotEmpty => libc::ENOTEMPTY,
            Self::NameTooLong => libc::ENAMETOOLONG,
            Self::Invalid => libc::EINVAL,
            Self::TooLarge => libc::EFBIG,
            Self::NotSupported => libc::EOPNOTSUPP,
            Self::NotPermitted => libc::EPERM,
            Self::ReadOnly => libc::EROFS,
            Self::NoAttribute => libc::ENODATA,
            Self::Range => libc::ERANGE,
            Self::NoOffset => libc::ENXIO,
            Self::Stale => libc::ESTALE,
            Self::Damaged { .. } => libc::EIO,
            Self::Backing(error) => error.raw_os_error().unwrap_or(libc::EIO),
        }
    }
}
