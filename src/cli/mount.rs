//! `strongroom mount`.

use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ArgAction;
use crossbeam_channel::Receiver;
use sd_notify::NotifyState;
use serde_json::json;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use zeroize::Zeroizing;

use super::exit_code::ExitCode;
use super::failure::{CommandResult, Failure, plain_reason};
use super::log::{self, Destination};
use super::mount_options::MountFlags;
use super::mounted::Owner;
use super::prompt::SecretArgs;
use super::vault_args::{ConfigArgs, unlock};
use super::{Context, daemon, log_level};
use crate::backing::os::OsDirectory;
use crate::crypto::{KEY_LEN, MasterKey};
use crate::fuse::{
    MountError, MountOptions, MountPoint, MountedVault, ServeError, ShutDown, descriptors,
    prepare_process,
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

Mount options (-o): ro, rw, exec, noexec, suid, nosuid, dev, nodev, atime, noatime, sync, async,
dirsync, allow_other, default_permissions, nonempty, passphrase_file=FILE, key_file=FILE,
config=FILE, log_file=FILE; those of fstab and systemd (auto, nofail, user, _netdev, x-…) are
ignored.

Close it: strongroom umount MOUNTPOINT";

/// Arguments of `mount`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The vault.
    vault: PathBuf,
    /// Where its content shall appear: an empty directory.
    mount_point: PathBuf,
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    secret: SecretArgs,
    /// Refuse every change.
    #[arg(long, visible_alias = "ro")]
    read_only: bool,
    /// Let other users in, as far as the files' permissions do.
    #[arg(long)]
    allow_other: bool,
    /// Mount options, separated by commas.
    #[arg(short = 'o', value_name = "OPTIONS", action = ArgAction::Append)]
    options: Vec<String>,
    /// Stay in the foreground until it is unmounted.
    #[arg(long, short)]
    foreground: bool,
    /// Log to FILE; by default the system's log, in the foreground standard error.
    #[arg(long, value_name = "FILE")]
    log_file: Option<PathBuf>,
    /// When asked to end while it is busy, let whoever uses it finish for SECONDS.
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    stop_timeout: u64,
    /// Serve the mount in this process, whose caller hands over the master key and waits for the
    /// result.
    #[arg(long, hide = true)]
    pub(super) daemon: bool,
}

/// A mount to be made; what the arguments and `-o` said together.
#[derive(Clone, Debug)]
pub struct Request {
    /// The vault, absolute.
    pub vault: PathBuf,
    /// The mount point.
    pub mount_point: PathBuf,
    /// How it is mounted.
    pub options: MountOptions,
    /// Where the log goes; `None`: as is usual.
    pub log_file: Option<PathBuf>,
    /// How long whoever uses it may go on when it shall end.
    pub stop_timeout: Duration,
    /// How much is logged: the count of `--verbose`.
    pub verbose: u8,
}

/// Mounts a vault.
pub fn run(args: &Args, context: &Context) -> CommandResult {
    let flags = MountFlags::parse(&args.options)?;
    let request = request(args, &flags, context)?;
    if args.daemon {
        return serve_as_daemon(&request);
    }
    // Before anybody is asked for anything.
    check_mount_point(&request)?;
    if let Some(owner) = super::mounted::owner(&request.vault) {
        return Err(in_use(&format!("process {} on host {}", owner.pid, owner.host)));
    }
    let config = ConfigArgs { config: args.config.config.clone().or(flags.config) };
    let mut secret = args.secret.clone();
    if !secret.is_given() {
        secret.passphrase_file = flags.passphrase_file;
        if secret.passphrase_file.is_none() {
            secret.key_file = flags.key_file;
        }
    }
    let vault = unlock(&config.open(&request.vault, context)?, &secret, context)?;
    if args.foreground {
        return serve_in_foreground(&request, vault.master_key(), context);
    }
    daemon::start(&request, vault.master_key(), context)?;
    context.output.say(format!(
        "Mounted {} on {}.",
        args.vault.display(),
        args.mount_point.display()
    ));
    context.output.result("mount", &describe(&request));
    Ok(())
}

fn request(args: &Args, flags: &MountFlags, context: &Context) -> Result<Request, Failure> {
    let vault = args.vault.canonicalize().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => crate::vault::VaultError::NotAVault {
            path: args.vault.clone(),
            reason: "it does not exist",
        }
        .into(),
        _ => Failure::io("open", &args.vault, &error),
    })?;
    let absolute =
        |path: &Path| std::path::absolute(path).map_err(|error| Failure::io("use", path, &error));
    let mut options = MountOptions {
        kernel: flags.kernel,
        allow_nonempty: flags.nonempty,
        ..MountOptions::default()
    };
    options.kernel.read_only |= args.read_only;
    options.kernel.allow_other |= args.allow_other;
    let log_file = args.log_file.as_deref().or(flags.log_file.as_deref());
    Ok(Request {
        vault,
        mount_point: absolute(&args.mount_point)?,
        options,
        log_file: log_file.map(absolute).transpose()?,
        stop_timeout: Duration::from_secs(args.stop_timeout),
        verbose: context.global.verbose,
    })
}

fn check_mount_point(request: &Request) -> Result<MountPoint, Failure> {
    let nonempty = request.options.allow_nonempty;
    Ok(MountPoint::check(&request.mount_point, &request.vault, nonempty)?)
}

fn describe(request: &Request) -> serde_json::Value {
    json!({
        "vault": request.vault.display().to_string(),
        "mount_point": request.mount_point.display().to_string(),
        "read_only": request.options.kernel.read_only,
    })
}

fn in_use(holder: &str) -> Failure {
    Failure::new(ExitCode::VaultInUse, format!("the vault is in use by {holder}"))
        .hint("a vault has one owner at a time; see what is mounted: strongroom status")
        .detail("holder", holder)
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
    context.output.event("mounted", &describe(request));
    // Without a service manager there is nobody to tell.
    let _ = sd_notify::notify(&[NotifyState::Ready]);
    serve(request, &mounted, &signals)?;
    context.output.result("mount", &describe(request));
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
    let mounted = open_and_mount(request, &key)?;
    drop(key);
    if let Err(error) = daemon::report_ready(&describe(request)).and_then(|()| detach()) {
        // Whoever started us is gone: nobody knows of the mount.
        tracing::warn!("nobody waits for this mount any more: {}", plain_reason(&error));
        mounted.shut_down(Duration::ZERO, &signals.0).map_err(serve_failure)?;
        return Ok(());
    }
    tracing::info!("mounted {} on {}", request.vault.display(), request.mount_point.display());
    let ended = serve(request, &mounted, &signals);
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
    let mount_point = check_mount_point(request)?;
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
fn serve(request: &Request, mounted: &MountedVault, signals: &Ending) -> CommandResult {
    crossbeam_channel::select! {
        recv(mounted.ended()) -> _ => return mounted.wait().map_err(serve_failure),
        recv(signals.0) -> _ => {}
    }
    let _ = sd_notify::notify(&[NotifyState::Stopping]);
    match mounted.shut_down(request.stop_timeout, &signals.0).map_err(serve_failure)? {
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

/// The signals that ask this process to end, as they come.
struct Ending(Receiver<i32>);

impl Ending {
    fn watch() -> Result<Self, Failure> {
        let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).map_err(|error| {
            Failure::new(ExitCode::Failure, format!("cannot watch for signals: {error}"))
        })?;
        let (sender, receiver) = crossbeam_channel::unbounded();
        std::thread::Builder::new()
            .name("signals".into())
            .spawn(move || {
                for signal in signals.forever() {
                    if sender.send(signal).is_err() {
                        return;
                    }
                }
            })
            .map_err(|error| {
                Failure::new(ExitCode::Failure, format!("cannot watch for signals: {error}"))
            })?;
        Ok(Self(receiver))
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

impl From<MountError> for Failure {
    fn from(error: MountError) -> Self {
        let code = match &error {
            MountError::Missing(_)
            | MountError::NotDirectory(_)
            | MountError::NotEmpty(_)
            | MountError::Occupied { .. }
            | MountError::Dead(_)
            | MountError::InsideVault(_)
            | MountError::VaultInside(_)
            | MountError::Access { .. }
            | MountError::HelperRefused(_)
            | MountError::Refused { .. } => ExitCode::MountPoint,
            MountError::DeviceMissing
            | MountError::DeviceDenied(_)
            | MountError::HelperMissing
            | MountError::AllowOtherForbidden
            | MountError::Connection(_) => ExitCode::FuseUnavailable,
        };
        let failure = Self::new(code, error.to_string());
        match error.hint() {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}
