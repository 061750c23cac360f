//! How threads are told that there is work: a flag to wait for.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// Raised by whoever has work; lowered by who waits for it.
#[derive(Default)]
pub(super) struct Signal {
    raised: Mutex<bool>,
    condition: Condvar,
}

/// What the threads of a mounted vault wait for.
#[derive(Clone, Default)]
pub(super) struct Signals {
    /// The maintenance has work.
    pub(super) work: Arc<Signal>,
    /// The journal has much that is not synced.
    pub(super) sync_ahead: Arc<Signal>,
}

impl Signal {
    pub(super) fn raise(&self) {
        *self.raised.lock() = true;
        self.condition.notify_all();
    }

    /// Waits until raised, at most so long (`None`: as long as it takes), and lowers it.
    pub(super) fn wait(&self, patience: Option<Duration>) {
        let mut raised = self.raised.lock();
        if !*raised {
            match patience {
                Some(patience) => {
                    self.condition.wait_for(&mut raised, patience);
                }
                None => self.condition.wait(&mut raised),
            }
        }
        *raised = false;
    }
}
