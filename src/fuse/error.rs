//! What mounting and unmounting can fail with, and what to do about it.

use std::io;
use std::path::PathBuf;

use super::processes::Holder;

/// Why a vault could not be mounted. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// There is no such directory.
    #[error("the mount point {} does not exist", .0.display())]
    Missing(PathBuf),
    /// It is not a directory.
    #[error("the mount point {} is not a directory", .0.display())]
    NotDirectory(PathBuf),
    /// It holds files, which the mount would hide.
    #[error("the mount point {} is not empty", .0.display())]
    NotEmpty(PathBuf),
    /// Something is mounted there.
    #[error("{} is mounted on {} already", .source_name, .path.display())]
    Occupied {
        /// The mount point.
        path: PathBuf,
        /// What `mount(8)` calls the source of what is mounted.
        source_name: String,
    },
    /// The process of another kind of FUSE mount there is gone.
    #[error("the mount point {} belongs to a mount whose process is gone", .0.display())]
    Dead(PathBuf),
    /// The mount point is the vault, or lies in it.
    #[error("the mount point {} lies inside the vault", .0.display())]
    InsideVault(PathBuf),
    /// The vault lies below the mount point, where the mount would hide it.
    #[error("the vault lies inside the mount point {}, which would hide it", .0.display())]
    VaultInside(PathBuf),
    /// The mount point cannot be looked at.
    #[error("cannot use the mount point {}: {error}", .path.display())]
    Access {
        /// The mount point.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// This kernel has no FUSE.
    #[error("there is no /dev/fuse: this kernel (or container) has no FUSE")]
    DeviceMissing,
    /// `/dev/fuse` does not open.
    #[error("cannot open /dev/fuse: {0}")]
    DeviceDenied(io::Error),
    /// Neither may this process mount by itself, nor is there a helper that would.
    #[error("fusermount3, with which ordinary users mount, was not found")]
    HelperMissing,
    /// `/etc/fuse.conf` does not let users open mounts to others.
    #[error("only root may use --allow-other on this machine")]
    AllowOtherForbidden,
    /// `fusermount3` refused.
    #[error("fusermount3 refused: {0}")]
    HelperRefused(String),
    /// The kernel refused.
    #[error("the kernel refused to mount on {}: {error}", .path.display())]
    Refused {
        /// The mount point.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The kernel and this program did not come to terms.
    #[error("the FUSE connection could not be set up: {0}")]
    Connection(io::Error),
}

/// Why a vault could not be unmounted. It is still mounted.
#[derive(Debug, thiserror::Error)]
pub enum UnmountError {
    /// Processes use it.
    #[error("{} is busy", .path.display())]
    Busy {
        /// The mount point.
        path: PathBuf,
        /// Who, as far as this user may see.
        holders: Vec<Holder>,
    },
    /// Nothing of ours is mounted there.
    #[error("no vault is mounted on {}", .0.display())]
    NotMounted(PathBuf),
    /// Unmounting wants `fusermount3`, which is not there.
    #[error("fusermount3, with which ordinary users unmount, was not found")]
    HelperMissing,
    /// The kernel or `fusermount3` refused.
    #[error("cannot unmount {}: {reason}", .path.display())]
    Refused {
        /// The mount point.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// How the service of a mount ended, when not well.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The connection to the kernel failed.
    #[error("the FUSE connection failed: {0}")]
    Connection(io::Error),
    /// The core could not make everything durable.
    #[error("the vault was not closed cleanly, the next mount recovers it: {0}")]
    Close(crate::vault::Error),
    /// The thread that served is gone.
    #[error("the serving thread panicked; the next mount recovers the vault")]
    Panicked,
}
