//! How an operation's result becomes an answer: each runs in the core, guarded, and is told as the
//! protocol wants it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use fuser::{Errno, Generation, ReplyEmpty, ReplyEntry, ReplyXattr, Request};

use super::{Adapter, FOREVER};
use crate::backing::FileKind;
use crate::fuse::access::in_group;
use crate::fuse::convert::file_attributes;
use crate::fuse::operations::Operations;
use crate::vault::{self, Caller, InodeNumber, SetAttributes};

impl<C: Operations> Adapter<C> {
    /// Runs one operation of the core.
    pub(super) fn call<T>(
        &self,
        operation: &'static str,
        body: impl FnOnce(&C) -> vault::Result<T>,
    ) -> Result<T, Errno> {
        self.cpu_latency.requested(&self.pool);
        guarded(operation, || body(&self.core))
    }

    pub(super) fn answer(
        &self,
        operation: &'static str,
        reply: ReplyEmpty,
        body: impl FnOnce(&C) -> vault::Result<()>,
    ) {
        match self.call(operation, body) {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        }
    }

    /// Makes something durable, which takes the disk's time. Done here, it costs no change of
    /// thread; but the last free thread goes on to serve requests and leaves it to the pool: so
    /// others are not held up, and whoever else wants to sync shares the commit.
    pub(super) fn answer_sync(
        &self,
        operation: &'static str,
        reply: ReplyEmpty,
        body: impl FnOnce(&C) -> vault::Result<()> + Send + 'static,
    ) {
        let syncing = self.syncing.fetch_add(1, Ordering::Relaxed) + 1;
        if syncing < self.settings.threads {
            self.answer(operation, reply, body);
            self.syncing.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        self.syncing.fetch_sub(1, Ordering::Relaxed);
        let core = Arc::clone(&self.core);
        let job = Box::new(move || match guarded(operation, || body(&core)) {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        });
        if let Err(job) = self.pool.submit(job) {
            job();
        }
    }

    pub(super) fn answer_entry(
        &self,
        operation: &'static str,
        reply: ReplyEntry,
        body: impl FnOnce(&C) -> vault::Result<vault::Entry>,
    ) {
        match self.call(operation, body) {
            Ok(entry) => reply.entry(
                &FOREVER,
                &file_attributes(&entry.attributes),
                Generation(entry.generation),
            ),
            Err(errno) => reply.error(errno),
        }
        self.pruner.inodes_were_added(&self.core, &self.pool);
    }

    /// Set-user-ID, set-group-ID and file capabilities go when somebody without privilege changes
    /// what a file holds.
    pub(super) fn drop_privileges(&self, request: &Request, ino: InodeNumber) -> Result<(), Errno> {
        self.call("setattr", |core| {
            let changes = SetAttributes {
                kill_privileges: true,
                outside_group: loses_set_group_id(core, request, ino)?,
                ..SetAttributes::default()
            };
            core.set_attributes(ino, &changes).map(drop)
        })
    }
}

/// Runs `body`; a panic becomes `EIO`.
pub(in crate::fuse) fn guarded<T>(
    operation: &'static str,
    body: impl FnOnce() -> vault::Result<T>,
) -> Result<T, Errno> {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(errno(&error)),
        Err(_) => {
            tracing::error!(
                operation,
                "a bug: the operation panicked; it was answered with EIO, the mount goes on"
            );
            Err(Errno::EIO)
        }
    }
}

/// The errno of an error. `ENOSYS` would switch the operation off for the whole mount, and a file
/// system below that says so means this one call.
pub(super) fn errno(error: &vault::Error) -> Errno {
    match error.errno() {
        libc::ENOSYS => Errno::EOPNOTSUPP,
        code => Errno::from_i32(code),
    }
}

/// Whether a file has the set-group-ID bit and whoever asks is not in its group, for which the
/// kernel takes the bit away whoever may execute the file.
pub(super) fn loses_set_group_id<C: Operations>(
    core: &C,
    request: &Request,
    ino: InodeNumber,
) -> vault::Result<bool> {
    let attributes = core.attributes(ino)?;
    let set = attributes.kind == FileKind::Regular && attributes.mode & libc::S_ISGID != 0;
    Ok(set && !in_group(request, attributes.gid))
}

pub(super) fn caller(request: &Request, umask: u32) -> Caller {
    Caller { uid: request.uid(), gid: request.gid(), umask }
}

/// Answers with `value`, or its length where `size` is 0.
pub(super) fn answer_sized(value: &[u8], size: u32, reply: ReplyXattr) {
    match u32::try_from(value.len()) {
        Ok(len) if size == 0 => reply.size(len),
        Ok(len) if len <= size => reply.data(value),
        _ => reply.error(Errno::ERANGE),
    }
}
