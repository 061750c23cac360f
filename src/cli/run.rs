//! `strongroom run`: a command with its vault mounted for as long as it runs.
//!
//! Two processes besides this one: the server of the mount, and the command, which is this program
//! first ([`become_command`]), so that it ends when this process is killed. This process has one
//! thread and takes signals as they come, one after the other.

use std::ffi::{OsStr, OsString};
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::json;

use super::exit_code::ExitCode;
use super::failure::{CommandResult, Failure, plain_reason};
use super::mount_request::{HowArgs, Prepared, Request, Target};
use super::{Context, daemon, namespace};
use crate::fuse::{Detach, Health, Holder, UnmountError, detach, health, holders, mounted_on};

const EXAMPLES: &str = "\
Examples:
  strongroom run --profile aico -- aico start
  strongroom run --vault ~/vault --mount ~/private -- sh
      a shell with the vault mounted; closed when the shell ends
  strongroom run --vault ~/vault --mount ~/private --private -- app
      nobody but the app and what it starts sees the content

The command's exit code is passed through (128 + N where signal N ended it), and so are signals.
When processes that the command started still use the mount, they are named and waited for.";

/// Signals that are handed to the command.
const PASSED: [Signal; 6] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
];
/// How long a mount may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the server of the mount may take to make everything durable.
const CLOSING: Duration = Duration::from_secs(300);
/// Between two tries to unmount.
const RETRY: Duration = Duration::from_millis(100);

/// Arguments of `run`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Mount what the profile PROFILE says: a name, or a file.
    #[arg(long, value_name = "PROFILE", conflicts_with_all = ["vault", "mount"])]
    profile: Option<String>,
    /// The vault.
    #[arg(long, value_name = "VAULT", required_unless_present = "profile", requires = "mount")]
    vault: Option<PathBuf>,
    /// Where its content shall appear: an empty directory.
    #[arg(long, value_name = "MOUNTPOINT", required_unless_present = "profile")]
    mount: Option<PathBuf>,
    #[command(flatten)]
    how: HowArgs,
    /// Mount it where only the command and what it starts can see it.
    #[arg(long)]
    private: bool,
    /// When processes still use the mount after the command, wait for them for SECONDS, then let
    /// them finish without it; by default, wait for as long as they take.
    #[arg(long, value_name = "SECONDS")]
    wait: Option<u64>,
    /// The command and its arguments.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Arguments of the process that becomes the command.
#[derive(Clone, Debug, clap::Args)]
pub struct BecomeArgs {
    /// The process that it ends with.
    parent: u32,
    /// The command and its arguments.
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

/// Mounts, runs the command, unmounts.
pub fn run(args: &Args, context: &Context) -> CommandResult {
    let target = match (&args.profile, &args.vault, &args.mount) {
        (Some(profile), ..) => Target::Profile(profile),
        (None, Some(vault), Some(mount)) => Target::Paths(vault, mount),
        _ => return Err(Failure::new(ExitCode::Usage, "--vault and --mount are missing")),
    };
    let mut prepared = Prepared::new(target, &args.how, context)?;
    prepared.request.ends_with_caller = true;
    if args.private {
        namespace::enter()?;
    }
    let vault = prepared.unlock(context)?;
    let request = &prepared.request;
    let signals = Signals::watch()?;
    let mut served = daemon::start(request, vault.master_key(), context)?;
    drop(vault);
    let mounted = Mounted { request, context };
    let status = start(args, request, &signals).and_then(|child| {
        // If it is gone, the command will notice soon enough.
        let _ = served.tell_user(child.id());
        supervise(child, &signals)
    });
    let closed = mounted.close(args.wait.map(Duration::from_secs), &signals);
    drop(served);
    let status = status?;
    let code = exit_code(status);
    match closed {
        Ok(()) if code == 0 => {
            context.output.result("run", &json!({ "exit_code": 0 }));
            Ok(())
        }
        // What the command says of itself matters more.
        Err(failure) if code == 0 => Err(failure),
        closed => {
            if let Err(failure) = closed {
                context.output.warn(failure.message);
            }
            if context.output.is_json() {
                context.output.result("run", &json!({ "exit_code": code }));
            }
            Err(Failure::passed(code))
        }
    }
}

/// What a shell would say.
fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().or(status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    u8::try_from(code).unwrap_or(u8::MAX)
}

fn start(args: &Args, request: &Request, signals: &Signals) -> Result<Child, Failure> {
    if let Some(signal) = signals.next(Some(Duration::ZERO))?.filter(Received::ends) {
        let code = if signal.number == Signal::SIGINT {
            ExitCode::Interrupted
        } else {
            ExitCode::Terminated
        };
        return Err(Failure::new(code, "asked to end before the command was started"));
    }
    // What runs is there, whatever became of its file.
    let mut command = Command::new("/proc/self/exe");
    command.arg0("strongroom").args(["run-command", &std::process::id().to_string(), "--"]);
    command.args(&args.command).env("STRONGROOM_MOUNT_POINT", &request.mount_point);
    // A directory below the mount point is to be the one in the vault, not the one under it.
    if let Ok(here) = std::env::current_dir()
        && here.starts_with(&request.mount_point)
    {
        command.current_dir(if here.is_dir() { &here } else { &request.mount_point });
    }
    command.spawn().map_err(|error| {
        Failure::new(ExitCode::Failure, format!("cannot start a process: {}", plain_reason(&error)))
    })
}

/// In that process: becomes the command.
pub fn become_command(args: &BecomeArgs) -> CommandResult {
    let failed = |reason: String| Failure::new(ExitCode::Failure, reason);
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM))
        .map_err(|error| failed(format!("cannot watch the caller: {error}")))?;
    // It may have been killed before.
    let parent = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get());
    if parent.and_then(|parent| u32::try_from(parent).ok()) != Some(args.parent) {
        return Err(failed("the process that was to watch over the command is gone".to_owned()));
    }
    let _ = SigSet::all().thread_unblock();
    namespace::give_up_privileges()
        .map_err(|error| failed(format!("cannot give up privileges: {}", plain_reason(&error))))?;
    let Some((program, arguments)) = args.command.split_first() else {
        return Err(failed("there is no command".to_owned()));
    };
    let error = Command::new(program).args(arguments).exec();
    if !is_there(program) {
        let message = format!("there is no program {}", Path::new(program).display());
        return Err(Failure::new(ExitCode::CommandNotFound, message));
    }
    Err(Failure::new(
        ExitCode::CommandNotRun,
        format!("cannot run {}: {}", Path::new(program).display(), plain_reason(&error)),
    ))
}

/// Whether a program exists, whether or not it can be run.
fn is_there(program: &OsStr) -> bool {
    if program.as_bytes().contains(&b'/') {
        return Path::new(program).exists();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).exists())
}

/// Waits for the command's end and hands it signals.
fn supervise(mut child: Child, signals: &Signals) -> Result<ExitStatus, Failure> {
    let lost = |error: std::io::Error| {
        Failure::new(ExitCode::Failure, format!("the command was lost: {}", plain_reason(&error)))
    };
    loop {
        if let Some(status) = child.try_wait().map_err(lost)? {
            return Ok(status);
        }
        let Some(received) = signals.next(None)? else { continue };
        // The terminal gave its signal to all of its processes already.
        if PASSED.contains(&received.number) && !received.from_terminal {
            let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap_or_default());
            // It may have ended meanwhile.
            let _ = nix::sys::signal::kill(pid, received.number);
        }
    }
}

/// Signals, as they come.
struct Signals(SignalFd);

/// A signal that came.
struct Received {
    number: Signal,
    from_terminal: bool,
}

impl Received {
    /// Whether it asks for the end.
    fn ends(&self) -> bool {
        [Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM, Signal::SIGQUIT].contains(&self.number)
    }
}

impl Signals {
    /// From now on signals wait until they are asked for. What is started inherits that, and has
    /// to undo it.
    fn watch() -> Result<Self, Failure> {
        let mut set = SigSet::empty();
        set.add(Signal::SIGCHLD);
        for signal in PASSED {
            set.add(signal);
        }
        set.thread_block()
            .and_then(|()| {
                SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
            })
            .map(Self)
            .map_err(|error| {
                Failure::new(ExitCode::Failure, format!("cannot watch for signals: {error}"))
            })
    }

    /// The next one; `None` when none came in time.
    fn next(&self, patience: Option<Duration>) -> Result<Option<Received>, Failure> {
        let failed = |error: &dyn std::fmt::Display| {
            Failure::new(ExitCode::Failure, format!("cannot watch for signals: {error}"))
        };
        let timeout = patience.and_then(|patience| Timespec::try_from(patience).ok());
        let mut watched = [PollFd::from_borrowed_fd(self.0.as_fd(), PollFlags::IN)];
        match poll(&mut watched, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(failed(&error)),
        }
        let Some(info) = self.0.read_signal().map_err(|error| failed(&error))? else {
            return Ok(None);
        };
        let number = i32::try_from(info.ssi_signo).ok().and_then(|n| Signal::try_from(n).ok());
        // sigaction(2): what the kernel itself sent has this code.
        let from_terminal = info.ssi_code == libc::SI_KERNEL;
        Ok(number.map(|number| Received { number, from_terminal }))
    }
}

/// The mount, after the command.
struct Mounted<'a> {
    request: &'a Request,
    context: &'a Context,
}

impl Mounted<'_> {
    /// Unmounts when nobody uses it any more, and waits until everything is durable.
    fn close(&self, wait: Option<Duration>, signals: &Signals) -> Result<(), Failure> {
        let path = self.request.mount_point.canonicalize();
        let path = path.as_deref().unwrap_or(&self.request.mount_point);
        let entry = mounted_on(path)
            .map_err(|error| Failure::io("read", Path::new("/proc/self/mountinfo"), &error))?;
        // Somebody else unmounted it.
        let Some(entry) = entry.filter(|entry| entry.vault().is_some()) else { return Ok(()) };
        if health(path, PATIENCE) == Health::Dead {
            detach(path, Detach::Lazily)?;
            return Err(Failure::new(
                ExitCode::NotResponding,
                format!("the process of the mount on {} was gone", path.display()),
            )
            .hint("what was synced is safe; the next mount recovers the vault"));
        }
        let process = super::mounted::owner(&self.request.vault)
            .and_then(|owner| super::mounted::Watched::new(owner.pid));
        let deadline = wait.map(|wait| Instant::now() + wait);
        let mut named: Vec<u32> = Vec::new();
        let stragglers = loop {
            match detach(path, Detach::Cleanly) {
                Ok(()) | Err(UnmountError::NotMounted(_)) => break Vec::new(),
                Err(UnmountError::Busy { .. }) => {}
                Err(error) => return Err(error.into()),
            }
            let using = holders(path, entry.device);
            self.name(&using, &mut named);
            let late = deadline.is_some_and(|deadline| Instant::now() >= deadline);
            let asked = signals.next(Some(RETRY))?.is_some_and(|received| received.ends());
            if late || asked {
                detach(path, Detach::Lazily)?;
                break using;
            }
        };
        if !stragglers.is_empty() {
            return Err(Failure::new(
                ExitCode::Busy,
                format!(
                    "{} is unmounted, but {} processes still use files of it; the vault is closed \
                     when they end",
                    path.display(),
                    stragglers.len()
                ),
            ));
        }
        if process.is_some_and(|process| !process.wait(CLOSING)) {
            return Err(Failure::new(
                ExitCode::NotResponding,
                format!("{} is unmounted, but its process has not ended", path.display()),
            )
            .hint("what was synced is safe; wait for the process, or see its log"));
        }
        Ok(())
    }

    /// Names who still uses it, each once.
    fn name(&self, holders: &[Holder], named: &mut Vec<u32>) {
        for holder in holders {
            if !named.contains(&holder.pid) {
                named.push(holder.pid);
                // Standard output is the command's.
                self.context.output.warn(format!(
                    "waiting for process {} ({}), which uses {}: {}",
                    holder.pid,
                    holder.name,
                    holder.path.display(),
                    holder.how
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_those_of_a_shell() {
        assert_eq!(exit_code(ExitStatus::from_raw(7 << 8)), 7);
        assert_eq!(exit_code(ExitStatus::from_raw(0)), 0);
        assert_eq!(exit_code(ExitStatus::from_raw(9)), 137);
    }
}
