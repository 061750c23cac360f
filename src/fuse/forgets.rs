//! What the kernel has forgotten, to be told to the core.
//!
//! Nobody waits for it, but it may close a file, and of one without a name the filesystem below then
//! frees the room. While requests come in quick succession it is therefore done beside them.

use parking_lot::Mutex;

use super::operations::Operations;
use crate::vault::InodeNumber;

/// Inodes, each with how many lookups the kernel gave back.
#[derive(Default)]
pub(super) struct Forgets(Mutex<Vec<(InodeNumber, u64)>>);

impl Forgets {
    /// Leaves it to whoever calls [`Self::tell`] next.
    pub(super) fn gather(&self, ino: InodeNumber, count: u64) {
        self.0.lock().push((ino, count));
    }

    /// Whether nothing is left to be told.
    pub(super) fn are_none(&self) -> bool {
        self.0.lock().is_empty()
    }

    /// Tells the core all that was gathered.
    pub(super) fn tell<C: Operations>(&self, core: &C) {
        let gathered = std::mem::take(&mut *self.0.lock());
        for (ino, count) in gathered {
            core.forget(ino, count);
        }
    }
}
