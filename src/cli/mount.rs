//! `strongroom mount`.

use std::io::{self, Read as _, Write as _};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use sd_notify::NotifyState;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use zeroize::Zeroizing;

use super::exit_code::ExitCode;
use super::failure::{CommandResult, Failure, plain_reason};
use super::log::{self, Destination};
use super::mount_request::{self, HowArgs, Prepared, Request, Target, in_use};
use super::mounted::{Owner, Watched};
use super::{Context, daemon, log_level};
use crate::backing::os::OsDirectory;
use crate::crypto::{KEY_LEN, MasterKey};
use crate::fuse::{
    MountedVault, ServeError, ShutDown, UnmountFailure, descriptors, prepare_process,
};
use crate::vault::{FileSystem, FilesystemOptions, OpenError};

const EXAMPLES: &str = "\
Examples:
  strongroom mount ~/vault ~/private
  strongroom mount /srv/vault /srv/data --key-file /root/vault.key --allow-other
      as root, for services that run as other users
  strongroom mount ~/vault ~/private --read-only
  strongroom mount ~/vault ~/private --foreground
      stays; for service managers (it speaks sd_notify)
  strongroom mount ~/vault ~/private --idle 15m
      closes it when nobody used it for a quarter of an hour
  strongroom mount --profile aico

Mount options (-o): ro, rw, exec, noexec, suid, nosuid, dev, nodev, atime, noatime, sync, async,
dirsync, allow_other, default_permissions, nonempty, passphrase_file=FILE, key_file=FILE,
keyring[=NAME], secret_service, config=FILE, log_file=FILE, idle=TIME, power_saving; those of fstab
and systemd (auto, nofail, user, _netdev, x-…) are ignored.

Close it: strongroom umount MOUNTPOINT";

/// Arguments of `mount`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The vault.
    #[arg(required_unless_present = "profile")]
    vault: Option<PathBuf>,
    /// Where its content shall appear: an empty directory.
    #[arg(required_unless_present = "profile")]
    mount_point: Option<PathBuf>,
    /// Mount what the profile PROFILE says: a name, or a file.
    #[arg(long, value_name = "PROFILE", conflicts_with_all = ["vault", "mount_point"])]
    profile: Option<String>,
    #[command(flatten)]
    how: HowArgs,
    /// Stay in the foreground until it is unmounted.
    #[arg(long, short)]
    foreground: bool,
    /// Unmount it when it was not used for TIME, such as 30s, 10m or 2h.
    #[arg(long, value_name = "TIME", value_parser = mount_request::time)]
    idle: Option<Duration>,
    /// Serve the mount in this process, whose caller hands over the master key and waits for the
    /// result.
    #[arg(long, hide = true)]
    pub(super) daemon: bool,
    /// With --daemon: end when standard input does, and the process that it named.
    #[arg(long, hide = true)]
    ends_with_caller: bool,
    /// With --daemon: what the caller has open is open here, too.
    #[arg(long, hide = true)]
    inherited: bool,
}

/// Mounts a vault.
pub fn run(args: &Args, context: &Context) -> CommandResult {
    if args.daemon && args.inherited {
        return Err(daemon::begin_anew());
    }
    let target = match (&args.profile, &args.vault, &args.mount_point) {
        (Some(profile), ..) => Target::Profile(profile),
        (None, Some(vault), Some(mount_point)) => Target::Paths(vault, mount_point),
        _ => return Err(Failure::new(ExitCode::Usage, "VAULT and MOUNTPOINT are missing")),
    };
    let mut prepared = Prepared::new(target, &args.how, context)?;
    prepared.request.idle = args.idle.or(prepared.request.idle);
    prepared.request.ends_with_caller = args.ends_with_caller;
    if args.daemon {
        return serve_as_daemon(&prepared.request);
    }
    let vault = prepared.unlock(context)?;
    let request = &prepared.request;
    if args.foreground {
        return serve_in_foreground(request, vault.master_key(), context);
    }
    daemon::start(request, vault.master_key(), context)?;
    context.output.say(format!(
        "Mounted {} on {}.",
        request.vault.display(),
        request.mount_point.display()
    ));
    context.output.result("mount", &request.describe());
    Ok(())
}

fn serve_in_foreground(request: &Request, key: &MasterKey, context: &Context) -> CommandResult {
    let destination =
        request.log_file.clone().map_or(Destination::StandardError, Destination::File);
    log::begin(&destination, log_level(&context.global))?;
    let signals = Ending::watch()?;
    let mounted = open_and_mount(request, key)?;
    context.output.say(format!(
        "Mounted {} on {}; Ctrl-C unmounts it.",
        request.vault.display(),
        request.mount_point.display()
    ));
    context.output.event("mounted", &request.describe());
    // Without a service manager there is nobody to tell.
    let _ = sd_notify::notify(&[NotifyState::Ready]);
    serve(request, &mounted, &signals, None)?;
    context.output.result("mount", &request.describe());
    Ok(())
}

/// In the process that [`daemon::start`] made: the master key comes from standard input, the
/// result goes to standard output, then both are let go.
fn serve_as_daemon(request: &Request) -> CommandResult {
    let mut bytes = Zeroizing::new([0u8; KEY_LEN]);
    io::stdin().lock().read_exact(bytes.as_mut()).map_err(|error| {
        Failure::new(ExitCode::Usage, format!("no master key came: {}", plain_reason(&error)))
    })?;
    let key = MasterKey::from_bytes(&bytes);
    drop(bytes);
    let destination = request.log_file.clone().map_or(Destination::System, Destination::File);
    let global = super::args::GlobalArgs { verbose: request.verbose, ..Default::default() };
    // What is worth a line for a person is worth one in the log.
    log::begin(
        &destination,
        log_level(&global).max(tracing_subscriber::filter::LevelFilter::INFO),
    )?;
    let signals = Ending::watch()?;
    let caller = request.ends_with_caller.then(|| signals.watch_caller()).transpose()?;
    let mounted = open_and_mount(request, &key)?;
    drop(key);
    if let Err(error) = daemon::report_ready(&request.describe()).and_then(|()| detach()) {
        // Whoever started us is gone: nobody knows of the mount.
        tracing::warn!("nobody waits for this mount any more: {}", plain_reason(&error));
        mounted.shut_down(Duration::ZERO, &signals.events).map_err(serve_failure)?;
        return Ok(());
    }
    tracing::info!("mounted {} on {}", request.vault.display(), request.mount_point.display());
    let ended = serve(request, &mounted, &signals, caller.as_ref());
    match &ended {
        Ok(()) => tracing::info!("unmounted {}", request.mount_point.display()),
        Err(failure) => tracing::error!("{}", failure.message),
    }
    ended
}

/// Leaves the caller's session, directory and terminal.
fn detach() -> io::Result<()> {
    // Fails where this process leads a group already, which is as good.
    let _ = rustix::process::setsid();
    std::env::set_current_dir("/")?;
    io::stdout().flush()?;
    let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    Ok(())
}

fn open_and_mount(request: &Request, key: &MasterKey) -> Result<MountedVault, Failure> {
    let mount_point = request.check_mount_point()?;
    prepare_process();
    hide_panics();
    let directory = OsDirectory::open(&request.vault)
        .map_err(|error| Failure::io("open", &request.vault, &error))?;
    let options = FilesystemOptions {
        read_only: request.options.kernel.read_only,
        descriptors: descriptors(),
        kernel_keeps_times: true,
        ..FilesystemOptions::default()
    };
    let owner = Owner::own().text(mount_point.path());
    let core = FileSystem::open(Box::new(directory), key, options, &owner)?;
    let recovered = core.recovered();
    if recovered.unclean {
        tracing::warn!(
            "the vault was not closed cleanly; recovered {} blocks of {} files",
            recovered.blocks,
            recovered.files
        );
    }
    Ok(MountedVault::mount(core, &request.vault, &mount_point, &request.options)?)
}

/// A panic's message may hold plain names; where it happened does not.
fn hide_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map_or_else(|| "unknown".to_owned(), ToString::to_string);
        tracing::error!("a bug in strongroom: panic at {place}");
    }));
}

/// Serves until the mount is gone or this process is asked to end.
fn serve(
    request: &Request,
    mounted: &MountedVault,
    signals: &Ending,
    caller: Option<&Caller>,
) -> CommandResult {
    let mut idleness = request.idle.map(Idleness::new);
    loop {
        let look = idleness.as_ref().map_or(crossbeam_channel::never(), Idleness::next_look);
        crossbeam_channel::select! {
            recv(mounted.ended()) -> _ => return mounted.wait().map_err(serve_failure),
            recv(signals.events) -> _ => break,
            recv(look) -> _ => {}
        }
        if idleness.as_mut().is_some_and(|idleness| idleness.is_over(mounted.requests())) {
            match mounted.unmount(Duration::ZERO) {
                Ok(()) => {
                    tracing::info!("not used any more, unmounted");
                    return Ok(());
                }
                Err(UnmountFailure::Serve(error)) => return Err(serve_failure(error)),
                // A file is open, or somebody's directory.
                Err(UnmountFailure::Unmount(reason)) => tracing::debug!("idle, but {reason}"),
            }
        }
    }
    let _ = sd_notify::notify(&[NotifyState::Stopping]);
    if let Some(caller) = caller {
        // Without the mount, whom it is for would write plaintext under it.
        caller.wait_for_user(mounted, signals);
    }
    match mounted.shut_down(request.stop_timeout, &signals.events).map_err(serve_failure)? {
        ShutDown::Clean => Ok(()),
        ShutDown::StillUsed => Err(Failure::new(
            ExitCode::Busy,
            format!(
                "processes still used {} when it had to end; what they wrote is safe, what they \
                 do next fails",
                request.mount_point.display()
            ),
        )),
    }
}

/// Whether a mount is used.
struct Idleness {
    limit: Duration,
    requests: u64,
    since: Instant,
}

impl Idleness {
    fn new(limit: Duration) -> Self {
        Self { limit, requests: 0, since: Instant::now() }
    }

    /// When to look again: often enough that the end comes within a tenth of the limit.
    fn next_look(&self) -> Receiver<Instant> {
        let pause = self.limit / 10;
        crossbeam_channel::after(pause.clamp(Duration::from_millis(100), Duration::from_secs(60)))
    }

    /// Whether the limit is over with `requests` served by now; if so, it begins anew.
    fn is_over(&mut self, requests: u64) -> bool {
        if requests != self.requests {
            self.requests = requests;
            self.since = Instant::now();
            return false;
        }
        let over = self.since.elapsed() >= self.limit;
        if over {
            self.since = Instant::now();
        }
        over
    }
}

/// What asks this process to end, as it comes.
struct Ending {
    events: Receiver<()>,
    sender: Sender<()>,
}

impl Ending {
    fn watch() -> Result<Self, Failure> {
        let failed = |error: io::Error| {
            Failure::new(ExitCode::Failure, format!("cannot watch for signals: {error}"))
        };
        let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).map_err(failed)?;
        let (sender, events) = crossbeam_channel::unbounded();
        let ending = Self { events, sender: sender.clone() };
        std::thread::Builder::new()
            .name("signals".into())
            .spawn(move || {
                for _ in signals.forever() {
                    if sender.send(()).is_err() {
                        return;
                    }
                }
            })
            .map_err(failed)?;
        Ok(ending)
    }

    /// The end of the caller asks for the end, too: the end of what comes from standard input.
    fn watch_caller(&self) -> Result<Caller, Failure> {
        let failed = |error: io::Error| {
            Failure::new(ExitCode::Failure, format!("cannot watch the caller: {error}"))
        };
        let input = rustix::io::fcntl_dupfd_cloexec(io::stdin(), 3);
        let mut input = std::fs::File::from(input.map_err(|error| failed(error.into()))?);
        let (sender, user) = crossbeam_channel::bounded(1);
        let ending = self.sender.clone();
        std::thread::Builder::new()
            .name("caller".into())
            .spawn(move || {
                let mut pid = [0u8; 4];
                if input.read_exact(&mut pid).is_ok() {
                    let _ = sender.send(Watched::new(u32::from_le_bytes(pid)));
                    let _ = input.read(&mut [0u8; 1]);
                }
                let _ = ending.send(());
            })
            .map_err(failed)?;
        Ok(Caller { user })
    }
}

/// The caller of a mount that ends with it.
struct Caller {
    user: Receiver<Option<Watched>>,
}

impl Caller {
    /// Waits until the process that the mount is for has ended, or somebody is in haste.
    fn wait_for_user(&self, mounted: &MountedVault, signals: &Ending) {
        let Ok(Some(user)) = self.user.try_recv() else { return };
        while !user.wait(Duration::from_millis(100)) {
            let unmounted = mounted.ended().try_recv().is_err_and(|error| error.is_disconnected());
            if unmounted || signals.events.try_recv().is_ok() {
                return;
            }
        }
    }
}

fn serve_failure(error: ServeError) -> Failure {
    Failure::new(ExitCode::Failure, error.to_string())
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Busy { holder } => in_use(&holder),
            OpenError::NoTree => Self::new(ExitCode::NotAVault, error.to_string()),
            OpenError::NeedsRecovery => Self::new(ExitCode::Failure, error.to_string())
                .hint("mount it without --read-only where it can be written, or copy it there"),
            OpenError::Core(crate::vault::Error::Damaged { .. }) => {
                Self::new(ExitCode::DamageFound, format!("the vault cannot be mounted: {error}"))
                    .hint("strongroom fsck VAULT tells more")
            }
            OpenError::Core(crate::vault::Error::Backing(error)) => {
                let code = match error.kind() {
                    io::ErrorKind::PermissionDenied => ExitCode::PermissionDenied,
                    io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ExitCode::NoSpace,
                    _ => ExitCode::Failure,
                };
                Self::new(code, format!("the vault cannot be mounted: {}", plain_reason(&error)))
            }
            OpenError::Core(error) => {
                Self::new(ExitCode::Failure, format!("the vault cannot be mounted: {error}"))
            }
        }
    }
}
