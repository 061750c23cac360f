//! Owns the wish that idle CPUs wake up quickly while the kernel's requests come in quick
//! succession. It must know nothing of what is requested.
//!
//! Each request wakes this process, and each answer whoever asked. Where idle CPUs sleep deeply (in
//! a virtual machine whose CPUs go back to the host, above all), that takes longer than most
//! answers. The kernel takes wishes for it, machine-wide, from whoever may open
//! `/dev/cpu_dma_latency`, and forgets them when the descriptor is closed, by the end of the process
//! at the latest: <https://docs.kernel.org/power/pm_qos_interface.html>. So it is open only as long
//! as requests are frequent, and at rest nothing costs anything.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::pool::Pool;

const DEVICE: &str = "/dev/cpu_dma_latency";
const CPU_IDLE: &str = "/sys/devices/system/cpu";
/// Requests that are looked at together.
const BATCH: u64 = 32;
/// Within it a batch is frequent: 2,000 a second. More rarely, waking up is not what takes the time.
const BATCH_TIME: Duration = Duration::from_millis(16);
/// How often is looked whether requests are still frequent.
const LOOK: Duration = Duration::from_millis(20);
/// So many between two looks are: 1,000 a second, fewer than what begins it, lest it go on and off.
const LOOK_REQUESTS: u64 = 20;

/// The wish, made and withdrawn as requests come and cease.
pub(super) struct CpuLatency {
    wish: Option<Wish>,
    requests: Arc<AtomicU64>,
    held: Arc<AtomicBool>,
    start: Instant,
    /// When the last batch was full, in microseconds since `start`.
    last_batch: AtomicU64,
}

/// A wish that the kernel would take.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wish {
    device: PathBuf,
    /// Microseconds that a CPU may take to wake up; 0 keeps it from sleeping.
    latency: i32,
}

impl CpuLatency {
    /// Counts `requests`. With `allowed` it makes wishes where this process may and they help.
    pub(super) fn new(requests: Arc<AtomicU64>, allowed: bool) -> Self {
        let wish = allowed.then(|| Wish::of_machine(Path::new(DEVICE), Path::new(CPU_IDLE)));
        Self::with(requests, wish.flatten())
    }

    fn with(requests: Arc<AtomicU64>, wish: Option<Wish>) -> Self {
        Self {
            wish,
            requests,
            held: Arc::default(),
            start: Instant::now(),
            last_batch: AtomicU64::new(0),
        }
    }

    /// Counts a request.
    pub(super) fn requested(&self, pool: &Pool) {
        let count = self.requests.fetch_add(1, Ordering::Relaxed) + 1;
        if count.is_multiple_of(BATCH) {
            self.batch_is_full(pool);
        }
    }

    fn batch_is_full(&self, pool: &Pool) {
        let Some(wish) = &self.wish else { return };
        if self.held.load(Ordering::Relaxed) {
            return;
        }
        let now = u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX);
        let before = self.last_batch.swap(now, Ordering::Relaxed);
        if u128::from(now.saturating_sub(before)) > BATCH_TIME.as_micros()
            || self.held.swap(true, Ordering::Relaxed)
        {
            return;
        }
        let (wish, requests, held) =
            (wish.clone(), Arc::clone(&self.requests), Arc::clone(&self.held));
        let hold = move || {
            if let Err(error) = wish.hold_while_frequent(&requests) {
                tracing::debug!("{}: {error}", wish.device.display());
            }
            held.store(false, Ordering::Relaxed);
        };
        // Where no thread can be made, requests take longer.
        if pool.submit(Box::new(hold)).is_err() {
            self.held.store(false, Ordering::Relaxed);
        }
    }
}

impl Wish {
    /// What to wish for here; `None` where this process may not, or nothing would come of it.
    fn of_machine(device: &Path, cpu_idle: &Path) -> Option<Self> {
        let latency = latency_to_wish(cpu_idle)?;
        let wish = Self { device: device.to_owned(), latency };
        match wish.open() {
            Ok(_) => Some(wish),
            Err(error) => {
                tracing::debug!("{}: {error}", device.display());
                None
            }
        }
    }

    fn open(&self) -> io::Result<File> {
        OpenOptions::new().write(true).open(&self.device)
    }

    /// As the device reads it: in hexadecimal, and not of four characters, which would be the number
    /// itself.
    fn text(&self) -> String {
        format!("{:#010x}", self.latency)
    }

    fn hold_while_frequent(&self, requests: &AtomicU64) -> io::Result<()> {
        let mut device = self.open()?;
        device.write_all(self.text().as_bytes())?;
        let mut before = requests.load(Ordering::Relaxed);
        loop {
            thread::sleep(LOOK);
            let now = requests.load(Ordering::Relaxed);
            if now.wrapping_sub(before) < LOOK_REQUESTS {
                return Ok(());
            }
            before = now;
        }
    }
}

/// On a machine of its own the shallowest sleep, which is nearly as good as none and hardly takes
/// power. A virtual machine's (driver `haltpoll`) claims to be as shallow, but gives the CPU back to
/// the host. Without a driver the kernel heeds no wish.
fn latency_to_wish(cpu_idle: &Path) -> Option<i32> {
    let driver = fs::read_to_string(cpu_idle.join("cpuidle/current_driver")).ok()?;
    match driver.trim() {
        "none" | "" => None,
        "haltpoll" => Some(0),
        _ => (0..)
            .map_while(|number| {
                let state = cpu_idle.join(format!("cpu0/cpuidle/state{number}/latency"));
                fs::read_to_string(state).ok()?.trim().parse::<i32>().ok()
            })
            .filter(|latency| *latency > 0)
            .min(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn machine(driver: &str, latencies: &[i32]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("cpuidle")).unwrap();
        fs::write(directory.path().join("cpuidle/current_driver"), driver).unwrap();
        for (number, latency) in latencies.iter().enumerate() {
            let state = directory.path().join(format!("cpu0/cpuidle/state{number}"));
            fs::create_dir_all(&state).unwrap();
            fs::write(state.join("latency"), format!("{latency}\n")).unwrap();
        }
        directory
    }

    #[test]
    fn the_machine_decides_what_is_wished_for() {
        assert_eq!(latency_to_wish(machine("haltpoll\n", &[0, 1]).path()), Some(0));
        assert_eq!(latency_to_wish(machine("intel_idle\n", &[0, 2, 10, 133]).path()), Some(2));
        assert_eq!(latency_to_wish(machine("none\n", &[]).path()), None);
        assert_eq!(latency_to_wish(Path::new("/nowhere")), None);
    }

    #[test]
    fn where_it_may_not_be_opened_nothing_is_wished_for() {
        let machine = machine("haltpoll\n", &[0, 1]);
        assert_eq!(Wish::of_machine(Path::new("/nowhere/device"), machine.path()), None);
    }

    #[test]
    fn it_is_held_while_requests_are_frequent() {
        let device = tempfile::NamedTempFile::new().unwrap();
        let wish = Wish { device: device.path().to_owned(), latency: 0x0102 };
        let (latency, pool) = (CpuLatency::with(Arc::default(), Some(wish)), Pool::default());
        for _ in 0..BATCH / 2 {
            latency.requested(&pool);
        }
        assert!(!latency.held.load(Ordering::Relaxed), "a few requests");
        let wait = |wanted: bool| {
            let begun = Instant::now();
            while latency.held.load(Ordering::Relaxed) != wanted {
                assert!(begun.elapsed() < Duration::from_secs(60), "held is not {wanted}");
                if wanted {
                    latency.requested(&pool);
                } else {
                    thread::sleep(LOOK);
                }
            }
        };
        wait(true);
        wait(false);
        assert_eq!(fs::read_to_string(device.path()).unwrap(), "0x00000102");
        wait(true);
        wait(false);
    }

    #[test]
    fn rare_requests_do_not_begin_it() {
        let device = tempfile::NamedTempFile::new().unwrap();
        let wish = Wish { device: device.path().to_owned(), latency: 0 };
        let (latency, pool) = (CpuLatency::with(Arc::default(), Some(wish)), Pool::default());
        thread::sleep(2 * BATCH_TIME);
        for number in 0..3 * BATCH {
            if number.is_multiple_of(BATCH / 2) {
                thread::sleep(2 * BATCH_TIME);
            }
            latency.requested(&pool);
        }
        assert!(!latency.held.load(Ordering::Relaxed));
        assert!(fs::read(device.path()).unwrap().is_empty());
    }
}
