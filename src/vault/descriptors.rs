//! A bound on the descriptors that the core keeps: a second-chance queue of inodes with something
//! open. What is given up here is opened again by path when it is needed.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::inode::{Inode, Open, USED};

pub(super) struct DescriptorCache {
    limit: usize,
    queue: Mutex<VecDeque<Weak<Inode>>>,
}

impl DescriptorCache {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit: limit.max(1), queue: Mutex::default() }
    }

    /// Notes that an inode has something open now, and gives up others beyond the limit.
    pub(super) fn opened(&self, inode: &Arc<Inode>) {
        let mut queue = self.queue.lock();
        queue.push_back(Arc::downgrade(inode));
        let mut chances = queue.len() * 2;
        while queue.len() > self.limit && chances > 0 {
            chances -= 1;
            let Some(candidate) = queue.pop_front() else { break };
            let Some(candidate) = candidate.upgrade() else { continue };
            // A busy lock means use; and waiting here could be waiting for ourselves.
            let Some(mut open) = candidate.open.try_lock() else {
                queue.push_back(Arc::downgrade(&candidate));
                continue;
            };
            if open.is_none() {
                continue;
            }
            let second_chance = chances > self.limit
                && (candidate.clear_flag(USED) || candidate.opens.load(Ordering::Relaxed) > 0);
            if second_chance || !may_close(&candidate, &open) {
                drop(open);
                queue.push_back(Arc::downgrade(&candidate));
                continue;
            }
            *open = None;
        }
    }
}

/// Whether what is open can be opened again, and nobody uses it now.
fn may_close(inode: &Inode, open: &Option<Open>) -> bool {
    if inode.locations.lock().is_empty() {
        return false;
    }
    match open {
        Some(Open::Directory(directory)) => Arc::strong_count(directory) == 1,
        Some(Open::File(file)) => Arc::strong_count(file) == 1 && file.is_at_rest(),
        Some(Open::Pin(..)) | None => false,
    }
}
