//! `strongroom umount`.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Context;
use super::exit_code::ExitCode;
use super::failure::{CommandResult, Failure};
use super::mounted::{self, MountedHere, Watched};
use super::shell::quote_path;
use crate::fuse::{
    Detach, Health, Holder, MountEntry, UnmountError, absolute, detach, health, holders, mounted_on,
};

const EXAMPLES: &str = "\
Examples:
  strongroom umount ~/private
  strongroom umount ~/private --wait 30    give whoever uses it half a minute
  strongroom umount ~/private --lazy       let them finish; nobody new gets in

When this returns 0, everything is durable and the vault can be mounted again. A mount whose
process was killed is cleared away.";

/// How long a mount may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the process may take to make everything durable.
const CLOSING: Duration = Duration::from_secs(300);
/// Between two tries.
const RETRY: Duration = Duration::from_millis(50);

/// Arguments of `umount`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The mount point.
    mount_point: PathBuf,
    /// Try again for SECONDS while it is busy.
    #[arg(long, value_name = "SECONDS", default_value_t = 1)]
    wait: u64,
    /// Take it out of the tree at once; whoever uses it may finish, and the vault is closed then.
    #[arg(long, short = 'z')]
    lazy: bool,
}

/// Unmounts.
pub fn run(args: &Args, context: &Context) -> CommandResult {
    let path = absolute(&args.mount_point)
        .map_err(|error| Failure::io("look at", &args.mount_point, &error))?;
    let entry = ours(&path)?;
    let mended = unmount(&entry, args)?;
    if mended {
        context.output.say(format!(
            "The process of the mount on {} was gone; it was cleared away. The next mount \
             recovers the vault.",
            path.display()
        ));
    }
    context.output.result(
        "umount",
        &json!({ "mount_point": path.display().to_string(), "was_dead": mended }),
    );
    Ok(())
}

/// Unmounts a vault cleanly, trying for `wait` seconds while it is busy; a mount whose process was
/// gone is cleared away.
///
/// # Errors
/// It is busy, is no vault, or cannot be unmounted.
pub fn unmount_at(path: &Path, wait: u64) -> CommandResult {
    let args = Args { mount_point: path.to_owned(), wait, lazy: false };
    unmount(&ours(path)?, &args).map(|_| ())
}

fn ours(path: &Path) -> Result<MountEntry, Failure> {
    let entry = mounted_on(path)
        .map_err(|error| Failure::io("read", Path::new("/proc/self/mountinfo"), &error))?;
    match entry {
        Some(entry) if entry.vault().is_some() => Ok(entry),
        Some(entry) => Err(Failure::new(
            ExitCode::NotMounted,
            format!(
                "what is mounted on {} is no vault but {}",
                path.display(),
                entry.filesystem_type
            ),
        )),
        None => Err(UnmountError::NotMounted(path.to_owned()).into()),
    }
}

/// Whether its process was gone.
fn unmount(entry: &MountEntry, args: &Args) -> Result<bool, Failure> {
    let path = &entry.mount_point;
    let mount = mounted::of_entry(entry);
    if mount.as_ref().map_or_else(|| health(path, PATIENCE), MountedHere::health) == Health::Dead {
        match &mount {
            Some(mount) => mount.clear_away()?,
            None => detach(path, Detach::Lazily)?,
        }
        return Ok(true);
    }
    // Found before unmounting, so that its end can be waited for.
    let process = entry
        .vault()
        .and_then(|vault| mounted::owner(&vault))
        .filter(mounted::Owner::is_here)
        .and_then(|owner| Watched::new(owner.pid));
    if args.lazy {
        detach(path, Detach::Lazily)?;
        return Ok(false);
    }
    let deadline = Instant::now() + Duration::from_secs(args.wait);
    loop {
        match detach(path, Detach::Cleanly) {
            Ok(()) => break,
            Err(UnmountError::Busy { .. }) if Instant::now() < deadline => thread::sleep(RETRY),
            Err(UnmountError::Busy { path, .. }) => {
                let holders = holders(&path, entry.device);
                return Err(UnmountError::Busy { path, holders }.into());
            }
            Err(error) => return Err(error.into()),
        }
    }
    if process.is_some_and(|process| !process.wait(CLOSING)) {
        return Err(Failure::new(
            ExitCode::NotResponding,
            format!("{} is unmounted, but its process has not ended", path.display()),
        )
        .hint("what was synced is safe; wait for the process, or see its log"));
    }
    Ok(false)
}

impl From<UnmountError> for Failure {
    fn from(error: UnmountError) -> Self {
        let message = error.to_string();
        match error {
            UnmountError::Busy { path, holders } => {
                let hint = if holders.is_empty() {
                    format!(
                        "as root, see who: fuser -vm {0}; or let them finish: strongroom umount \
                         --lazy {0}",
                        quote_path(&path)
                    )
                } else {
                    format!(
                        "end them, or let them finish: strongroom umount --lazy {}",
                        quote_path(&path)
                    )
                };
                let list: Vec<Value> = holders.iter().map(describe).collect();
                Self::new(ExitCode::Busy, message + &who(&holders))
                    .hint(hint)
                    .detail("holders", list)
            }
            UnmountError::NotMounted(_) => {
                Self::new(ExitCode::NotMounted, message).hint("see what is: strongroom status")
            }
            UnmountError::HelperMissing => Self::new(ExitCode::FuseUnavailable, message)
                .hint("install the package fuse3, or unmount as root"),
            UnmountError::Refused { .. } => Self::new(ExitCode::PermissionDenied, message),
        }
    }
}

fn who(holders: &[Holder]) -> String {
    let mut text = String::new();
    for holder in holders {
        text.push_str(&format!(
            "\n  process {} ({}): {} {}",
            holder.pid,
            holder.name,
            holder.how,
            holder.path.display()
        ));
    }
    text
}

fn describe(holder: &Holder) -> Value {
    json!({
        "pid": holder.pid,
        "name": holder.name,
        "how": holder.how,
        "path": holder.path.display().to_string(),
    })
}
