//! `lseek(2)` for data and holes.
//!
//! The kernel sends it on without writing back what its page cache holds, so the core would take
//! fresh data for a hole, and whoever copies files by their holes would lose it. (Linux 6.18 still
//! does.) Before the core is asked, the file's dirty pages are therefore written back:
//!
//! - Where the daemon sees files being opened, it knows which may have any: those open for
//!   writing.
//! - Else, and for those, it opens the file anew through the descriptor that the caller seeks on
//!   (`/proc/PID/fd`), and starts and awaits its writeback, which keeps the cache.
//! - Where it may not look there (another PID namespace), it makes the kernel drop its cache of
//!   the file, which writes dirty pages back first.
//!
//! Writing back sends requests to the threads that serve them, so none of those may wait for it:
//! one of the pool does.

use std::collections::HashMap;
use std::fs;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use fuser::{INodeNo, Notifier, ReplyLseek};
use parking_lot::Mutex;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags, makedev};

use super::adapter::guarded;
use super::mount::write_back;
use super::operations::Operations;
use super::pool::Pool;
use crate::vault::{InodeNumber, SeekWhence};

/// At most so many descriptors of a caller are looked at.
const MAX_DESCRIPTORS: usize = 4096;

/// So long what the kernel is to hear of is gathered: waking a thread for each file takes longer
/// than to write a small one.
const GATHERING: Duration = Duration::from_millis(1);

/// What becomes known when the mount is there.
pub(super) struct Connection {
    pub(super) device: (u32, u32),
    pub(super) notifier: Notifier,
}

/// Answers seeks.
pub(super) struct Seeker {
    /// How often each file is open for writing; `None` where opening sends no message.
    writers: Option<Mutex<HashMap<InodeNumber, u64>>>,
    connection: Arc<OnceLock<Connection>>,
    /// Files whose attributes the kernel is to ask for again.
    changed: Arc<Mutex<Vec<InodeNumber>>>,
}

/// One seek.
pub(super) struct Seek {
    pub(super) ino: InodeNumber,
    pub(super) offset: u64,
    pub(super) whence: SeekWhence,
    /// Who seeks.
    pub(super) pid: u32,
    pub(super) reply: ReplyLseek,
}

impl Seeker {
    pub(super) fn new(writers_are_known: bool, connection: Arc<OnceLock<Connection>>) -> Self {
        Self {
            writers: writers_are_known.then(Mutex::default),
            connection,
            changed: Arc::default(),
        }
    }

    pub(super) fn opened_for_writing(&self, ino: InodeNumber) {
        if let Some(writers) = &self.writers {
            *writers.lock().entry(ino).or_default() += 1;
        }
    }

    /// The kernel wrote the file's pages back before it said so.
    pub(super) fn closed_for_writing(&self, ino: InodeNumber) {
        if let Some(writers) = &self.writers {
            let mut writers = writers.lock();
            if let Some(count) = writers.get_mut(&ino) {
                *count -= 1;
                if *count == 0 {
                    writers.remove(&ino);
                }
            }
        }
    }

    /// Has the kernel ask for a file's attributes when somebody wants them next. It counts size and
    /// times itself, but not the room that a file takes.
    pub(super) fn attributes_changed(&self, ino: InodeNumber, pool: &Pool) {
        let mut changed = self.changed.lock();
        changed.push(ino);
        if changed.len() > 1 {
            return;
        }
        drop(changed);
        let (connection, gathered) = (Arc::clone(&self.connection), Arc::clone(&self.changed));
        // The kernel may wait for an inode that is going, and that for its pages' being written.
        let submitted = pool.submit(Box::new(move || {
            thread::sleep(GATHERING);
            let changed = std::mem::take(&mut *gathered.lock());
            let Some(connection) = connection.get() else { return };
            for ino in changed {
                let _ = connection.notifier.inval_inode(INodeNo(ino.0), -1, 0);
            }
        }));
        if submitted.is_err() {
            self.changed.lock().clear();
        }
    }

    pub(super) fn seek<C: Operations>(&self, core: &Arc<C>, pool: &Pool, seek: Seek) {
        let clean =
            self.writers.as_ref().is_some_and(|writers| !writers.lock().contains_key(&seek.ino));
        if clean {
            return answer(&**core, seek);
        }
        let (core, connection) = (Arc::clone(core), Arc::clone(&self.connection));
        // Where there is no thread for it, the request is answered with EIO when it is dropped.
        let _ = pool.submit(Box::new(move || {
            if let Some(connection) = connection.get() {
                write_back_pages(connection, seek.ino, seek.pid);
            }
            answer(&*core, seek);
        }));
    }
}

fn answer<C: Operations>(core: &C, seek: Seek) {
    match guarded("lseek", || core.seek(seek.ino, seek.offset, seek.whence)) {
        Ok(found) => seek.reply.offset(i64::try_from(found).unwrap_or(i64::MAX)),
        Err(errno) => seek.reply.error(errno),
    }
}

fn write_back_pages(connection: &Connection, ino: InodeNumber, pid: u32) {
    let through_caller =
        caller_file(connection.device, ino, pid).is_some_and(|file| write_back(&file).is_ok());
    if !through_caller {
        // An error means that the kernel knows no such inode (any more).
        let _ = connection.notifier.inval_inode(INodeNo(ino.0), 0, 0);
    }
}

/// The file, opened anew through a descriptor of the process that seeks on it.
fn caller_file(device: (u32, u32), ino: InodeNumber, pid: u32) -> Option<OwnedFd> {
    if pid == 0 {
        return None;
    }
    let device = makedev(device.0, device.1);
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).ok()?.flatten().take(MAX_DESCRIPTORS) {
        let path = entry.path();
        if is_file(CWD, &path, device, ino) {
            // The caller's other threads may have put another file there since; merely opening
            // some devices does something. So it is pinned, looked at again, and opened then.
            let pin =
                rustix::fs::open(&path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).ok()?;
            if is_file(&pin, Path::new(""), device, ino) {
                let path = format!("/proc/self/fd/{}", pin.as_raw_fd());
                return rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
                    .ok();
            }
        }
    }
    None
}

fn is_file(directory: impl AsFd, path: &Path, device: u64, ino: InodeNumber) -> bool {
    // What is cached will do, and a descriptor on a filesystem that hangs shall not hold us up.
    let flags = AtFlags::STATX_DONT_SYNC | AtFlags::EMPTY_PATH;
    rustix::fs::statx(directory, path, flags, StatxFlags::INO).is_ok_and(|found| {
        found.stx_ino == ino.0 && makedev(found.stx_dev_major, found.stx_dev_minor) == device
    })
}
