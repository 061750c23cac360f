//! Owns the adapter between the kernel's FUSE protocol and the vault core, and mounting; the only
//! place that names `fuser`. It must know nothing of keys or formats: it serves whatever answers
//! [`Operations`].

mod access;
mod adapter;
mod convert;
mod cpu_latency;
mod error;
mod mount;
mod negotiation;
mod operations;
mod pool;
mod process;
mod processes;
mod prune;
mod seek;
mod session;
mod table;

pub use error::{MountError, ServeError, UnmountError};
pub use mount::{
    Detach, Health, KernelOptions, MountPoint, abort, close_inherited_on_exec, detach, health,
};
pub use operations::Operations;
pub use process::{descriptors, prepare_process};
pub use processes::{Holder, holders};
pub use session::{MountOptions, MountedVault, ShutDown, UnmountFailure};
pub use table::{MountEntry, absolute, mounted_on, mounts};
