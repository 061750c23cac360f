//! Which of the threads that serve the kernel's requests wait for the next one, and how.
//!
//! A thread that sleeps until a request comes must first be woken, on another processor as a rule,
//! and on an idle one that takes longer than most requests do. So while requests come in quick
//! succession (*hot*), one thread waits for them without sleeping, and the others rest in the end
//! of the request that they answered last, where the kernel cannot wake them for nothing. More
//! threads take their turn
//!
//! - when a request is begun that will take long, and nobody would be left to wait for others;
//! - when one takes long unexpectedly;
//! - when requests come faster than those at work take them.
//!
//! Otherwise (*cold*) all threads sleep in the kernel, which wakes one for a request. It is cold as
//! long as requests are few, on a single processor, and for a while after others had to wait for
//! the processor of the thread that did not sleep.
//!
//! Knows nothing of what the requests are.

use std::cell::Cell;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

/// How often it is looked at while it is hot.
const TICK: Duration = Duration::from_millis(1);
/// So many requests within a tick make it hot: sleeping between them would take about as long as
/// not sleeping does.
const HEAT: u32 = 8;
/// With fewer in each of two ticks it becomes cold.
const KEEP_HOT: u64 = 4;
/// A request that comes so soon after an answer was waiting already.
const EAGER: Duration = Duration::from_micros(3);
/// Of a tick, how long threads that are ready to run may wait for a processor, in nanoseconds.
const CROWDED: u64 = 300_000;
/// So many crowded ticks in a row make it cold.
const CROWDED_TICKS: u32 = 3;
/// How long it stays cold then.
const REST: Duration = Duration::from_millis(50);

/// Bytes from which a read or write is a long request.
const LONG_TRANSFER: usize = 64 << 10;
/// Where syncs take so long, in nanoseconds, they are long requests.
const LONG_SYNC: u64 = 500_000;

thread_local! {
    /// When this thread ended its last request.
    static LAST_END: Cell<Option<Instant>> = const { Cell::new(None) };
    static KNOWN: Cell<bool> = const { Cell::new(false) };
}

/// The threads' turns.
pub(super) struct Turns {
    shared: Arc<Shared>,
}

struct Shared {
    /// The connection, whose status flags all threads share.
    connection: OnceLock<OwnedFd>,
    threads: u32,
    hot: AtomicBool,
    /// Threads that wait for a request, or are about to. Only changed so that it is never 0 while
    /// no thread is at work.
    waiting: AtomicU32,
    /// How many may wait while it is hot.
    wanted: AtomicU32,
    requests: AtomicU64,
    /// Requests that were there when a thread was ready for them.
    eager: AtomicU64,
    window: Window,
    /// How long syncs take of late, in nanoseconds.
    sync_time: AtomicU64,
    state: Mutex<State>,
    /// For the threads that rest.
    turn: Condvar,
    /// For the governor.
    change: Condvar,
    governor: Mutex<Option<JoinHandle<()>>>,
}

/// Requests since a moment, to tell how quickly they come while it is cold.
struct Window {
    begin: Mutex<(Instant, u32)>,
}

#[derive(Default)]
struct State {
    /// Threads that rest.
    resting: u32,
    /// Of those, how many have been told to go on.
    called: u32,
    cold_until: Option<Instant>,
    closed: bool,
    /// The scheduler's account of each thread (`/proc/PID/task/TID/schedstat`).
    accounts: Vec<File>,
}

/// A request that a thread answers; its end may take long, because the thread rests in it.
pub(super) struct Turn<'a> {
    shared: &'a Shared,
}

impl Turns {
    /// For so many threads, all of which wait for a request.
    pub(super) fn new(threads: usize) -> Self {
        let threads = u32::try_from(threads).unwrap_or(u32::MAX);
        let shared = Shared {
            connection: OnceLock::new(),
            threads,
            hot: AtomicBool::new(false),
            waiting: AtomicU32::new(threads),
            wanted: AtomicU32::new(1),
            requests: AtomicU64::new(0),
            eager: AtomicU64::new(0),
            window: Window { begin: Mutex::new((Instant::now(), 0)) },
            sync_time: AtomicU64::new(0),
            state: Mutex::default(),
            turn: Condvar::new(),
            change: Condvar::new(),
            governor: Mutex::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Takes turns on `connection` from now on; without, all threads sleep in the kernel. `beside`
    /// is called again and again while it is hot, by a thread that serves nobody.
    pub(super) fn connect(&self, connection: OwnedFd, beside: impl Fn() + Send + 'static) {
        let processors = thread::available_parallelism().map_or(1, usize::from);
        if processors < 2 || self.shared.connection.set(connection).is_err() {
            return;
        }
        let shared = Arc::clone(&self.shared);
        let made =
            thread::Builder::new().name("mount-turns".into()).spawn(move || shared.govern(&beside));
        match made {
            Ok(handle) => *self.shared.governor.lock() = Some(handle),
            Err(error) => {
                self.shared.state.lock().closed = true;
                tracing::warn!("requests will be waited for asleep: {error}");
            }
        }
    }

    /// Whether requests come in quick succession.
    pub(super) fn are_hot(&self) -> bool {
        self.shared.hot.load(Ordering::Acquire)
    }

    /// To be called by whoever makes it, and by the threads' owner.
    pub(super) fn share(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }

    /// Begins a request on the thread that was given it.
    pub(super) fn begin(&self) -> Turn<'_> {
        let shared = &*self.shared;
        shared.waiting.fetch_sub(1, Ordering::AcqRel);
        shared.requests.fetch_add(1, Ordering::Relaxed);
        if !KNOWN.replace(true) {
            shared.register();
        }
        if shared.hot.load(Ordering::Acquire) {
            let ended = LAST_END.get();
            if ended.is_some_and(|ended| ended.elapsed() < EAGER) {
                shared.eager.fetch_add(1, Ordering::Relaxed);
            }
        } else {
            shared.warm();
        }
        Turn { shared }
    }

    /// A sync took so long.
    pub(super) fn synced(&self, took: Duration) {
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let typical = self.shared.sync_time.load(Ordering::Relaxed);
        // An eighth of the way to the newest.
        let next = typical - typical / 8 + took / 8;
        self.shared.sync_time.store(next, Ordering::Relaxed);
    }

    /// Ends all turns: whoever rests goes on.
    pub(super) fn close(&self) {
        self.shared.state.lock().closed = true;
        self.shared.change.notify_all();
        let governor = self.shared.governor.lock().take();
        if let Some(governor) = governor {
            let _ = governor.join();
        }
    }
}

impl Turn<'_> {
    /// The request reads or writes so many bytes.
    pub(super) fn transfers(&self, bytes: usize) {
        if bytes >= LONG_TRANSFER {
            self.is_long();
        }
    }

    /// The request makes something durable.
    pub(super) fn syncs(&self) {
        if self.shared.sync_time.load(Ordering::Relaxed) >= LONG_SYNC {
            self.is_long();
        }
    }

    /// The request will take long: somebody else must wait for others.
    fn is_long(&self) {
        let shared = self.shared;
        if shared.hot.load(Ordering::Acquire) && shared.waiting.load(Ordering::Acquire) == 0 {
            shared.call(&mut shared.state.lock());
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.shared.end();
    }
}

impl Shared {
    fn register(&self) {
        let id = rustix::thread::gettid().as_raw_nonzero();
        if let Ok(account) = File::open(format!("/proc/self/task/{id}/schedstat")) {
            self.state.lock().accounts.push(account);
        }
    }

    /// While it is cold: whether requests come so quickly that it becomes hot.
    fn warm(&self) {
        if self.connection.get().is_none() {
            return;
        }
        let Some(mut window) = self.window.begin.try_lock() else { return };
        let now = Instant::now();
        if now.duration_since(window.0) > TICK {
            *window = (now, 1);
            return;
        }
        window.1 += 1;
        if window.1 < HEAT {
            return;
        }
        *window = (now, 0);
        drop(window);
        let mut state = self.state.lock();
        let rests = state.cold_until.is_some_and(|until| now < until);
        if state.closed || rests || self.hot.load(Ordering::Relaxed) {
            return;
        }
        state.cold_until = None;
        self.wanted.store(1, Ordering::Relaxed);
        if self.sleepless(true) {
            self.hot.store(true, Ordering::Release);
            self.change.notify_all();
        }
    }

    /// Whether reading the connection returns at once where there is no request; whether that could
    /// be set.
    fn sleepless(&self, on: bool) -> bool {
        let Some(connection) = self.connection.get() else { return false };
        let set = fcntl_getfl(connection).and_then(|mut flags| {
            flags.set(OFlags::NONBLOCK, on);
            fcntl_setfl(connection, flags)
        });
        set.is_ok()
    }

    /// The end of a request: the thread waits for the next one, or rests where enough do.
    fn end(&self) {
        loop {
            let waiting = self.waiting.load(Ordering::Acquire);
            let enough = waiting >= self.wanted.load(Ordering::Relaxed);
            if enough && self.hot.load(Ordering::Acquire) {
                self.rest();
                // Whoever calls a thread counts it among those who wait.
                break;
            }
            let changed = self.waiting.compare_exchange(
                waiting,
                waiting + 1,
                Ordering::AcqRel,
                Ordering::Acquire,
            );
            if changed.is_ok() {
                break;
            }
        }
        LAST_END.set(self.hot.load(Ordering::Relaxed).then(Instant::now));
    }

    fn rest(&self) {
        let mut state = self.state.lock();
        state.resting += 1;
        // Those who wait may have got requests since they were counted.
        let needed = self.waiting.load(Ordering::Acquire) == 0;
        if needed || !self.hot.load(Ordering::Acquire) {
            state.resting -= 1;
            self.waiting.fetch_add(1, Ordering::AcqRel);
            return;
        }
        while state.called == 0 {
            self.turn.wait(&mut state);
        }
        state.called -= 1;
    }

    /// Lets one thread that rests go on, if there is one.
    fn call(&self, state: &mut State) -> bool {
        if state.resting == 0 {
            return false;
        }
        state.resting -= 1;
        state.called += 1;
        self.waiting.fetch_add(1, Ordering::AcqRel);
        self.turn.notify_one();
        true
    }

    /// Runs until [`Turns::close`].
    fn govern(&self, beside: &dyn Fn()) {
        let mut state = self.state.lock();
        while !state.closed {
            if !self.hot.load(Ordering::Relaxed) {
                self.change.wait(&mut state);
                continue;
            }
            self.watch(&mut state, beside);
            self.hot.store(false, Ordering::Release);
            self.sleepless(false);
            while self.call(&mut state) {}
            MutexGuard::unlocked(&mut state, beside);
        }
    }

    /// Until it is to become cold.
    fn watch(&self, state: &mut MutexGuard<'_, State>, beside: &dyn Fn()) {
        let mut requests = self.requests.load(Ordering::Relaxed);
        let mut eager = self.eager.load(Ordering::Relaxed);
        let mut delay = run_delay(&state.accounts);
        let (mut slow_ticks, mut crowded_ticks) = (0, 0);
        while !state.closed {
            self.change.wait_for(state, TICK);
            MutexGuard::unlocked(state, beside);
            let (requests_now, eager_now) =
                (self.requests.load(Ordering::Relaxed), self.eager.load(Ordering::Relaxed));
            let (came, waited) = (requests_now - requests, eager_now - eager);
            (requests, eager) = (requests_now, eager_now);
            if came == 0 && self.waiting.load(Ordering::Acquire) == 0 {
                self.call(state);
            }
            let wanted = self.wanted.load(Ordering::Relaxed);
            if came >= u64::from(HEAT) && waited * 4 > came * 3 {
                let more = (wanted + 1).min(self.threads);
                self.wanted.store(more, Ordering::Relaxed);
                if more > wanted {
                    self.call(state);
                }
            } else if waited * 4 < came {
                self.wanted.store(wanted.saturating_sub(1).max(1), Ordering::Relaxed);
            }
            slow_ticks = if came < KEEP_HOT { slow_ticks + 1 } else { 0 };
            if slow_ticks >= 2 {
                return;
            }
            let delay_now = run_delay(&state.accounts);
            let crowded = delay_now.saturating_sub(delay) > CROWDED;
            delay = delay_now;
            crowded_ticks = if crowded { crowded_ticks + 1 } else { 0 };
            if crowded_ticks >= CROWDED_TICKS {
                state.cold_until = Some(Instant::now() + REST);
                return;
            }
        }
    }
}

/// How long these threads, together, were ready to run and had no processor, in nanoseconds; 0
/// where the kernel keeps no such account.
fn run_delay(accounts: &[File]) -> u64 {
    let mut buffer = [0u8; 96];
    let mut delay = 0u64;
    for account in accounts {
        let read = account.read_at(&mut buffer, 0).unwrap_or(0);
        // Time on a processor, time ready for one, turns on one.
        let field = std::str::from_utf8(&buffer[..read]).ok().and_then(|t| t.split(' ').nth(1));
        delay = delay.saturating_add(field.and_then(|field| field.parse().ok()).unwrap_or(0));
    }
    delay
}

#[cfg(test)]
mod tests;
