//! What a process must set about itself before it serves a mount.

use rustix::process::{Resource, Rlimit, configure_io_flusher_behavior, getrlimit, setrlimit};

/// Descriptors that are not the core's to keep: the connection, the log, the vault's own.
const RESERVED_DESCRIPTORS: u64 = 64;
/// More descriptors than this help nobody.
const MAX_DESCRIPTORS: u64 = 8192;

/// Readies this process for serving mounts; call it before there are other threads. Files are made
/// with exactly the modes asked for from then on (no umask).
pub fn prepare_process() {
    rustix::process::umask(rustix::fs::Mode::empty());
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::debug!("the limit of open files stays as it is: {error}");
    }
    // The kernel's writeback waits for this process: whatever it allocates or writes must not
    // wait for that writeback in turn. Only a privileged process may say so.
    let _ = configure_io_flusher_behavior(true);
}

/// How many descriptors the core may keep under this process's limit.
pub fn descriptors() -> usize {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(MAX_DESCRIPTORS);
    let share = limit.saturating_sub(RESERVED_DESCRIPTORS).clamp(16, MAX_DESCRIPTORS);
    usize::try_from(share / 2).unwrap_or(512)
}
