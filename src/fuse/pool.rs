//! Threads for what must not hold up those that serve the kernel's requests: made when they are
//! needed, gone when they have been idle for a while.

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// At most so many threads.
const MAX_WORKERS: usize = 16;
/// After so long without work a thread ends.
const IDLE: Duration = Duration::from_secs(10);

/// Work to be done; must not panic.
pub(super) type Job = Box<dyn FnOnce() + Send>;

/// The threads. Dropped, it waits until all work is done.
#[derive(Default)]
pub(super) struct Pool {
    shared: Arc<Shared>,
    handles: Mutex<Vec<JoinHandle<()>>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Job>,
    workers: usize,
    /// Workers that wait for work.
    idle: usize,
    closed: bool,
}

impl Pool {
    /// Has `job` done by a thread of the pool.
    ///
    /// # Errors
    /// Gives the job back where there is no thread and none can be made.
    pub(super) fn submit(&self, job: Job) -> Result<(), Job> {
        let mut state = self.shared.state.lock();
        let wanted = state.queue.len() >= state.idle && state.workers < MAX_WORKERS;
        if wanted && self.grow() {
            state.workers += 1;
        }
        if state.workers == 0 {
            return Err(job);
        }
        state.queue.push_back(job);
        self.shared.changed.notify_one();
        Ok(())
    }

    fn grow(&self) -> bool {
        let shared = Arc::clone(&self.shared);
        let made = thread::Builder::new().name("mount-work".into()).spawn(move || shared.work());
        match made {
            Ok(handle) => {
                let mut handles = self.handles.lock();
                handles.retain(|handle| !handle.is_finished());
                handles.push(handle);
                true
            }
            Err(error) => {
                tracing::warn!("no further thread: {error}");
                false
            }
        }
    }
}

impl Shared {
    fn work(&self) {
        let mut state = self.state.lock();
        loop {
            if let Some(job) = state.queue.pop_front() {
                drop(state);
                job();
                state = self.state.lock();
                continue;
            }
            if state.closed {
                break;
            }
            state.idle += 1;
            let waited = self.changed.wait_for(&mut state, IDLE);
            state.idle -= 1;
            if waited.timed_out() && state.queue.is_empty() {
                break;
            }
        }
        state.workers -= 1;
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.state.lock().closed = true;
        self.shared.changed.notify_all();
        for handle in self.handles.get_mut().drain(..) {
            let _ = handle.join();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn work_that_waits_for_other_work_is_done() {
        let pool = Pool::default();
        // None of these ends before all have begun.
        let barrier = Arc::new(Barrier::new(MAX_WORKERS));
        for _ in 0..MAX_WORKERS {
            let barrier = Arc::clone(&barrier);
            assert!(
                pool.submit(Box::new(move || {
                    barrier.wait();
                }))
                .is_ok()
            );
        }
        drop(pool);
    }

    #[test]
    fn all_is_done_before_the_end() {
        let done = Arc::new(AtomicUsize::new(0));
        let pool = Pool::default();
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..250 {
                        let done = Arc::clone(&done);
                        let job = move || {
                            done.fetch_add(1, Ordering::Relaxed);
                        };
                        assert!(pool.submit(Box::new(job)).is_ok());
                    }
                });
            }
        });
        assert!(pool.shared.state.lock().workers <= MAX_WORKERS);
        drop(pool);
        assert_eq!(done.load(Ordering::Relaxed), 1000);
    }
}
