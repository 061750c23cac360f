//! `strongroom status`.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::Context;
use super::exit_code::ExitCode;
use super::failure::{CommandResult, Failure};
use super::mounted::{self, MountedHere, Owner};
use super::shell::quote_path;
use crate::fuse::{Health, absolute};

const EXAMPLES: &str = "\
Examples:
  strongroom status                what is mounted, by whom, and whether it answers
  strongroom status ~/private      the same of one mount point or vault; exit code 19 when it is
                                   not mounted, 31 when it does not answer
  strongroom status --json";

/// Arguments of `status`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// A mount point or a vault; without it, all that are mounted.
    path: Option<PathBuf>,
}

/// Shows what is mounted.
pub fn run(args: &Args, context: &Context) -> CommandResult {
    let mut mounts = mounted::all();
    if let Some(path) = &args.path {
        let wanted = absolute(path).map_err(|error| Failure::io("look at", path, &error))?;
        mounts.retain(|mount| mount.mount_point == wanted || mount.vault == wanted);
        if mounts.is_empty() {
            return Err(Failure::new(
                ExitCode::NotMounted,
                format!("no vault is mounted on {0}, nor is {0} a vault that is", path.display()),
            ));
        }
    }
    let looked_at: Vec<(MountedHere, Health, Option<Owner>)> = mounts
        .into_iter()
        .map(|mount| {
            let health = mount.health();
            let owner = mounted::owner(&mount.vault);
            (mount, health, owner)
        })
        .collect();
    if looked_at.is_empty() {
        context.output.print("No vault is mounted.");
    }
    for (mount, health, owner) in &looked_at {
        let access = if mount.read_only { ", read-only" } else { "" };
        let served = owner.as_ref().map_or_else(String::new, |o| format!(", process {}", o.pid));
        context.output.print(format!(
            "{}  on {}  ({}{access}{served})",
            mount.vault.display(),
            mount.mount_point.display(),
            describe(*health),
        ));
        if matches!(health, Health::Dead | Health::Stuck) {
            context.output.print(format!(
                "    clear it away: strongroom umount {}",
                quote_path(&mount.mount_point)
            ));
        }
    }
    let list: Vec<Value> = looked_at
        .iter()
        .map(|(mount, health, owner)| {
            json!({
                "mount_point": mount.mount_point.display().to_string(),
                "vault": mount.vault.display().to_string(),
                "read_only": mount.read_only,
                "health": name(*health),
                "pid": owner.as_ref().map(|owner| owner.pid),
                "host": owner.as_ref().map(|owner| owner.host.clone()),
            })
        })
        .collect();
    let unwell =
        looked_at.iter().find(|(_, health, _)| matches!(health, Health::Dead | Health::Stuck));
    if args.path.is_some()
        && let Some((mount, health, _)) = unwell
    {
        return Err(Failure::new(
            ExitCode::NotResponding,
            format!("the mount on {} is {}", mount.mount_point.display(), describe(*health)),
        )
        .hint(format!("strongroom umount {}", quote_path(&mount.mount_point)))
        .detail("mounts", list));
    }
    context.output.result("status", &json!({ "mounts": list }));
    Ok(())
}

const fn name(health: Health) -> &'static str {
    match health {
        Health::Well => "well",
        Health::Dead => "dead",
        Health::Stuck => "stuck",
        Health::Unknown => "unknown",
    }
}

const fn describe(health: Health) -> &'static str {
    match health {
        Health::Well => "well",
        Health::Dead => "not responding: its process is gone",
        Health::Stuck => "not responding: its process does not answer",
        Health::Unknown => "mounted by another user",
    }
}
