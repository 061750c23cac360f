//! A mounted filesystem in this process: served by its own threads until it is unmounted.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use fuser::{Config, Session, SessionACL};
use parking_lot::Mutex;

use super::adapter::Adapter;
use super::error::{MountError, ServeError, UnmountError};
use super::mount::{
    Detach, KernelOptions, MountPoint, attach, detach, may_mount, tune, write_back_all,
};
use super::negotiation::AdapterSettings;
use super::operations::Operations;
use super::processes::holders;
use super::prune::{self, Means, Pruner};
use super::seek::{Connection, Seeker};
use super::table::mounted_on;

/// How a filesystem is mounted.
#[derive(Clone, Debug, Default)]
pub struct MountOptions {
    /// What the kernel sees.
    pub kernel: KernelOptions,
    /// Mount over a directory that holds files.
    pub allow_nonempty: bool,
    /// Threads that serve; one a CPU, and at least two, where not given.
    pub threads: Option<usize>,
    /// Inodes kept in memory, beyond which the kernel is asked to let go of some that nobody uses;
    /// 400,000 where not given, at some 300 bytes each.
    pub inode_cache: Option<usize>,
    /// Let idle CPUs sleep as deeply as ever while the mount is busy: it is slower, and takes less
    /// power. Only root's mounts would keep them from it.
    pub power_saving: bool,
}

/// A filesystem that is mounted and served by this process.
///
/// Dropped, it is unmounted, lazily if it is busy.
pub struct MountedVault {
    mount_point: PathBuf,
    device: (u32, u32),
    sync_all: Box<dyn Fn() -> crate::vault::Result<()> + Send + Sync>,
    cached_inodes: Box<dyn Fn() -> usize + Send + Sync>,
    worker: Mutex<Option<JoinHandle<Result<(), ServeError>>>>,
    requests: Arc<AtomicU64>,
    ended: Receiver<()>,
}

/// How long a process that is to end tries to unmount cleanly.
const UNMOUNT_PATIENCE: Duration = Duration::from_millis(500);
/// How long a connection that was cut may take to end.
const ABORT_PATIENCE: Duration = Duration::from_secs(30);
/// Between two tries to unmount.
const RETRY: Duration = Duration::from_millis(20);

impl MountedVault {
    /// Mounts `core` on `mount_point`; returns when it can be used.
    ///
    /// `vault` is the path that the mount table will name.
    ///
    /// # Errors
    /// What is wrong with the mount point, what is missing, or who refused. The core is closed.
    pub fn mount<C: Operations>(
        core: C,
        vault: &Path,
        mount_point: &MountPoint,
        options: &MountOptions,
    ) -> Result<Self, MountError> {
        Self::mount_with(core, vault, mount_point, options, None)
    }

    /// The same, keeping the core's memory bounded by other means than the kernel's best.
    pub(super) fn mount_with<C: Operations>(
        core: C,
        vault: &Path,
        mount_point: &MountPoint,
        options: &MountOptions,
        means: Option<Means>,
    ) -> Result<Self, MountError> {
        let root = rustix::process::geteuid().is_root();
        let mut kernel = options.kernel;
        // Where several users come, somebody must check what each may do.
        kernel.default_permissions |= kernel.allow_other;
        let threads = options.threads.unwrap_or_else(default_threads);
        let settings = AdapterSettings {
            threads,
            kernel_permissions: kernel.default_permissions,
            stateless_opens: root || kernel.default_permissions,
            power_saving: options.power_saving,
        };
        let core = Arc::new(core);
        let connection = match attach(mount_point, vault, &kernel) {
            Ok(connection) => connection,
            Err(error) => {
                close(core);
                return Err(error);
            }
        };
        let known = Arc::new(OnceLock::new());
        // Where nothing can be written, nothing is to be written back.
        let writers_are_known = !settings.stateless_opens || kernel.read_only;
        let seeker = Seeker::new(writers_are_known, Arc::clone(&known));
        let mut config = Config::default();
        config.n_threads = Some(threads);
        // The kernel itself lets only those in whom the mount admits; `fuser`'s own check would
        // turn its writeback away, which comes as root.
        let pruner = Pruner::new(options.inode_cache.unwrap_or(prune::DEFAULT_LIMIT));
        if let Some(means) = means {
            pruner.use_means(means);
        }
        let notices = connection.try_clone();
        let adapter = Adapter::new(Arc::clone(&core), settings, seeker, pruner.share());
        let requests = adapter.requests();
        let session = Session::from_fd(adapter, connection, SessionACL::All, config);
        let session = match session {
            Ok(session) => session,
            Err(error) => {
                let _ = detach(mount_point.path(), Detach::Lazily);
                close(core);
                return Err(MountError::Connection(error));
            }
        };
        let device = mounted_on(mount_point.path())
            .ok()
            .flatten()
            .map(|entry| entry.device)
            .unwrap_or_default();
        let _ = known.set(Connection { device, notifier: session.notifier() });
        match notices {
            Ok(notices) => pruner.connect(notices),
            Err(error) => tracing::warn!("memory for inodes will not be bounded: {error}"),
        }
        let weak = Arc::downgrade(&core);
        let cached_inodes = Box::new({
            let weak = weak.clone();
            move || weak.upgrade().map_or(0, |core| core.cached_inodes())
        });
        let sync_all = Box::new(move || weak.upgrade().map_or(Ok(()), |core| core.sync_all()));
        let (sender, ended) = crossbeam_channel::bounded(0);
        let worker = thread::Builder::new()
            .name("mount".into())
            .spawn(move || {
                // Dropped when this thread ends, which is how whoever waits learns of it.
                let _sender = sender;
                let served = session.run().map_err(ServeError::Connection);
                let closed = match Arc::into_inner(core) {
                    Some(core) => core.close().map_err(ServeError::Close),
                    None => Ok(()),
                };
                served.and(closed)
            })
            .map_err(MountError::Connection)?;
        tune(device);
        if !root && may_mount() {
            // In a user namespace the kernel takes the root directory for a stranger's, and lets
            // nobody write to it, until it has asked for its attributes.
            let _ = mount_point.path().metadata();
        }
        Ok(Self {
            mount_point: mount_point.path().to_owned(),
            device,
            sync_all,
            cached_inodes,
            worker: Mutex::new(Some(worker)),
            requests,
            ended,
        })
    }

    /// How many inodes are in memory.
    pub fn cached_inodes(&self) -> usize {
        (self.cached_inodes)()
    }

    /// Where it is mounted.
    pub fn mount_point(&self) -> &Path {
        &self.mount_point
    }

    /// How many requests were served so far. Unchanged, the mount was not used, but for what the
    /// kernel answered from its memory.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Disconnects when the mount has ended and the core is closed.
    pub fn ended(&self) -> &Receiver<()> {
        &self.ended
    }

    /// Unmounts, trying for `patience` while it is busy, then waits until everything is durable
    /// and the core is closed.
    ///
    /// # Errors
    /// [`UnmountFailure::Unmount`], and it stays mounted; or the end of its service.
    pub fn unmount(&self, patience: Duration) -> Result<(), UnmountFailure> {
        let deadline = Instant::now() + patience;
        loop {
            match detach(&self.mount_point, Detach::Cleanly) {
                Ok(()) => break,
                // Somebody else unmounted it.
                Err(UnmountError::NotMounted(_)) => break,
                Err(UnmountError::Busy { .. }) if Instant::now() < deadline => {
                    thread::sleep(RETRY);
                }
                Err(UnmountError::Busy { path, .. }) => {
                    let holders = holders(&path, self.device);
                    return Err(UnmountError::Busy { path, holders }.into());
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(self.wait()?)
    }

    /// Ends the mount because the process is to end: unmounts it if nobody uses it, or takes it out
    /// of the tree, so that nobody new comes in, and lets who uses it finish for `grace`, or until
    /// something arrives on `hurry`.
    ///
    /// # Errors
    /// When the service did not end well.
    pub fn shut_down(
        &self,
        grace: Duration,
        hurry: &Receiver<impl Send>,
    ) -> Result<ShutDown, ServeError> {
        match self.unmount(UNMOUNT_PATIENCE) {
            Ok(()) => return Ok(ShutDown::Clean),
            Err(UnmountFailure::Serve(error)) => return Err(error),
            Err(UnmountFailure::Unmount(UnmountError::Busy { holders, .. })) => {
                for holder in holders {
                    tracing::warn!(
                        "still used by process {} ({}): {}",
                        holder.pid,
                        holder.name,
                        holder.how
                    );
                }
            }
            Err(UnmountFailure::Unmount(error)) => tracing::warn!("{error}"),
        }
        // What was written so far shall not depend on who goes on using it.
        if let Err(error) = write_back_all(&self.mount_point) {
            tracing::warn!("writing back before the end: {error}");
        }
        if let Err(error) = detach(&self.mount_point, Detach::Lazily) {
            tracing::warn!("{error}");
        }
        crossbeam_channel::select! {
            recv(self.ended) -> _ => return self.wait().map(|()| ShutDown::Clean),
            recv(hurry) -> _ => {}
            default(grace) => {}
        }
        self.abort()?;
        Ok(ShutDown::StillUsed)
    }

    /// Cuts the connection, so that the core can be closed though files of the mount are in use.
    fn abort(&self) -> Result<(), ServeError> {
        // https://docs.kernel.org/filesystems/fuse/fuse.html#control-filesystem
        let switch = format!("/sys/fs/fuse/connections/{}/abort", self.device.1);
        let cut = std::fs::write(&switch, "1");
        if cut.is_ok()
            && self.ended.recv_timeout(ABORT_PATIENCE).is_err_and(|error| error.is_disconnected())
        {
            return self.wait();
        }
        // The end of this process cuts it; nobody waits for the thread any more.
        drop(self.worker.lock().take());
        (self.sync_all)().map_err(ServeError::Close)
    }

    /// Waits until it is unmounted, by whomever, and the core is closed.
    ///
    /// # Errors
    /// When the service did not end well.
    pub fn wait(&self) -> Result<(), ServeError> {
        match self.worker.lock().take() {
            Some(worker) => worker.join().unwrap_or(Err(ServeError::Panicked)),
            None => Ok(()),
        }
    }
}

/// How [`MountedVault::shut_down`] ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShutDown {
    /// Everything is durable and the vault is closed.
    Clean,
    /// Processes still use files of the mount, which is no longer in the tree. When this process
    /// ends, they get errors; what was synced is safe, and the next mount recovers.
    StillUsed,
}

/// Why [`MountedVault::unmount`] failed.
#[derive(Debug, thiserror::Error)]
pub enum UnmountFailure {
    /// It is still mounted.
    #[error(transparent)]
    Unmount(#[from] UnmountError),
    /// It is unmounted, but its service did not end well.
    #[error(transparent)]
    Serve(#[from] ServeError),
}

impl Drop for MountedVault {
    fn drop(&mut self) {
        if self.worker.lock().is_none() {
            return;
        }
        if self.unmount(Duration::ZERO).is_err() {
            let _ = detach(&self.mount_point, Detach::Lazily);
        }
    }
}

fn close<C: Operations>(core: Arc<C>) {
    if let Some(core) = Arc::into_inner(core)
        && let Err(error) = core.close()
    {
        tracing::warn!("closing the vault: {error}");
    }
}

/// Threads by default: more only get in each other's way.
fn default_threads() -> usize {
    thread::available_parallelism().map_or(2, usize::from).max(2)
}
