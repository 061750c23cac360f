//! Keeps the number of inodes in memory bounded. The kernel caches whatever it was told of for as
//! long as it has memory, and the core must know every inode that the kernel knows. Beyond a limit
//! the kernel is asked to let go of some that nobody uses; it then says so (`FORGET`), and the core
//! lets go of them, too.
//!
//! How to ask depends on the kernel:
//!
//! - from 6.18 on, by inode number, many at once (`FUSE_NOTIFY_PRUNE`);
//! - before, a name can be dropped (`FUSE_NOTIFY_INVAL_ENTRY`), whether or not it is in use. Files
//!   that are open don't mind; a working directory would have no path any more, so directories are
//!   left alone. (`FUSE_EXPIRE_ONLY`, from 6.2 on, does not drop names that are not in use.)
//!
//! `fuser` knows the second only and copies for it, so the messages are written here.

use std::io::{self, IoSlice};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::operations::Operations;
use super::pool::Pool;
use crate::backing::FileKind;
use crate::vault::{CachedName, InodeNumber};

/// Inodes in memory by default, at some 300 bytes each.
pub(super) const DEFAULT_LIMIT: usize = 400_000;
/// The core hands its inodes out in so many parts.
const PARTS: usize = 16;
/// Inodes in one message.
const BATCH: usize = 512;
/// The kernel's answers to a part of them are waited for so long before the next.
const BREATH: Duration = Duration::from_millis(20);
/// How long to wait before asking again, each time that too many are left. The kernel writes back
/// what is older than half a minute.
const WAITS: [Duration; 5] = [
    Duration::from_secs(1),
    Duration::from_secs(4),
    Duration::from_secs(10),
    Duration::from_secs(20),
    Duration::from_secs(40),
];

/// How the kernel is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Means {
    Numbers,
    DroppedNames,
}

impl Means {
    /// What a kernel understands, by the version of its protocol.
    pub(super) fn of_version(major: u32, minor: u32) -> Self {
        match (major, minor) {
            (7, 45..) | (8.., _) => Self::Numbers,
            _ => Self::DroppedNames,
        }
    }
}

/// Asks the kernel to let go of inodes when there are too many.
pub(super) struct Pruner {
    shared: Arc<Shared>,
}

struct Shared {
    /// The connection, once the mount is there.
    connection: OnceLock<OwnedFd>,
    means: OnceLock<Means>,
    limit: usize,
    /// Inodes beyond which it begins; more than the limit while the kernel uses that many.
    begin: AtomicUsize,
    running: AtomicBool,
    next_part: AtomicUsize,
    closing: Mutex<bool>,
    closed: Condvar,
}

impl Pruner {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            shared: Arc::new(Shared {
                connection: OnceLock::new(),
                means: OnceLock::new(),
                limit,
                begin: AtomicUsize::new(limit),
                running: AtomicBool::new(false),
                next_part: AtomicUsize::new(0),
                closing: Mutex::new(false),
                closed: Condvar::new(),
            }),
        }
    }

    /// The same, for whoever makes the connection.
    pub(super) fn share(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }

    /// Only from then on anything is asked.
    pub(super) fn connect(&self, connection: OwnedFd) {
        let _ = self.shared.connection.set(connection);
    }

    /// Keeps to these means; the first call decides.
    pub(super) fn use_means(&self, means: Means) {
        let _ = self.shared.means.set(means);
    }

    /// Asks nothing more.
    pub(super) fn close(&self) {
        *self.shared.closing.lock() = true;
        self.shared.closed.notify_all();
    }

    /// To be called when the kernel was told of inodes.
    pub(super) fn inodes_were_added<C: Operations>(&self, core: &Arc<C>, pool: &Pool) {
        let shared = &self.shared;
        if core.cached_inodes() <= shared.begin.load(Ordering::Relaxed)
            || shared.connection.get().is_none()
            || shared.running.swap(true, Ordering::Relaxed)
        {
            return;
        }
        let (shared, core) = (Arc::clone(shared), Arc::clone(core));
        let job = Box::new(move || {
            shared.prune(&*core);
            shared.running.store(false, Ordering::Relaxed);
        });
        if pool.submit(job).is_err() {
            self.shared.running.store(false, Ordering::Relaxed);
        }
    }
}

impl Shared {
    /// Makes room, and again for a while if there was none to be had: the kernel keeps what it has
    /// yet to write back.
    fn prune<C: Operations>(&self, core: &C) {
        for wait in WAITS {
            self.prune_once(core);
            if core.cached_inodes() <= self.limit || self.closes_within(wait) {
                return;
            }
        }
    }

    /// Waits; whether there is nothing more to do then.
    fn closes_within(&self, wait: Duration) -> bool {
        let mut closing = self.closing.lock();
        if !*closing {
            self.closed.wait_for(&mut closing, wait);
        }
        *closing
    }

    /// Makes room for a quarter more than there are to be.
    fn prune_once<C: Operations>(&self, core: &C) {
        let target = self.limit - self.limit / 4;
        for _ in 0..PARTS {
            if core.cached_inodes() <= target {
                break;
            }
            let part = self.next_part.fetch_add(1, Ordering::Relaxed) % PARTS;
            if let Err(error) = self.prune_part(core, part) {
                tracing::debug!("the kernel was not asked to let go of inodes: {error}");
                break;
            }
            if self.closes_within(BREATH) {
                return;
            }
        }
        // Those that are left are in use: asking again at once would be for nothing.
        let left = core.cached_inodes();
        let begin = if left > target { left + self.limit / 4 } else { self.limit };
        self.begin.store(begin.max(self.limit), Ordering::Relaxed);
    }

    fn prune_part<C: Operations>(&self, core: &C, part: usize) -> io::Result<()> {
        let Some(connection) = self.connection.get() else { return Ok(()) };
        let means = *self.means.get_or_init(|| Means::DroppedNames);
        let inodes = core.cached_part(part, PARTS);
        if means == Means::Numbers {
            return inodes.chunks(BATCH).try_for_each(|batch| send(connection, &numbers(batch)));
        }
        for ino in inodes {
            let Some(name) = core.cached_name(ino) else { continue };
            if name.kind == FileKind::Directory {
                continue;
            }
            match send(connection, &dropping(&name)) {
                // The kernel let go of it meanwhile, or has something mounted on it.
                Err(error)
                    if matches!(
                        error.raw_os_error(),
                        Some(libc::ENOENT | libc::ENOTDIR | libc::EBUSY)
                    ) => {}
                outcome => outcome?,
            }
        }
        Ok(())
    }
}

/// The `notify_code`s of the protocol.
const INVALIDATE_ENTRY: i32 = 3;
const PRUNE: i32 = 9;

/// A message without its length.
struct Message {
    code: i32,
    body: Vec<u8>,
}

/// The protocol is in the host's byte order.
#[allow(clippy::host_endian_bytes)]
fn numbers(inodes: &[InodeNumber]) -> Message {
    let count = u32::try_from(inodes.len()).expect("a batch");
    // struct fuse_notify_prune_out
    let mut body = count.to_ne_bytes().to_vec();
    body.extend_from_slice(&[0; 12]);
    body.extend(inodes.iter().flat_map(|ino| ino.0.to_ne_bytes()));
    Message { code: PRUNE, body }
}

#[allow(clippy::host_endian_bytes)]
fn dropping(name: &CachedName) -> Message {
    let len = u32::try_from(name.name.len()).expect("at most 255");
    // struct fuse_notify_inval_entry_out
    let mut body = name.parent.0.to_ne_bytes().to_vec();
    body.extend_from_slice(&len.to_ne_bytes());
    body.extend_from_slice(&[0; 4]);
    body.extend_from_slice(&name.name);
    body.push(0);
    Message { code: INVALIDATE_ENTRY, body }
}

#[allow(clippy::host_endian_bytes)]
fn send(connection: &OwnedFd, message: &Message) -> io::Result<()> {
    // struct fuse_out_header, which has the code in place of an error
    let len = u32::try_from(16 + message.body.len()).expect("a small message");
    let mut header = [0; 16];
    header[..4].copy_from_slice(&len.to_ne_bytes());
    header[4..8].copy_from_slice(&message.code.to_ne_bytes());
    let parts = [IoSlice::new(&header), IoSlice::new(&message.body)];
    rustix::io::writev(connection, &parts)?;
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::print_stderr)]
mod tests;
