//! A mount namespace of this process's own, in which nobody but its children sees what it mounts.

use std::io;
use std::path::Path;

use nix::mount::MsFlags;
use nix::sched::{CloneFlags, unshare};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
    configure_capability_in_ambient_set, set_capabilities,
};

use super::exit_code::ExitCode;
use super::failure::{Failure, plain_reason};

/// Moves this process, which must have one thread, into a mount namespace of its own. What is
/// mounted outside later still appears in it.
///
/// An ordinary user gets a user namespace with it, in which this process and the server of the
/// mount may mount; [`give_up_privileges`] is for what the user's command is to be.
///
/// # Errors
/// The kernel refuses.
pub fn enter() -> Result<(), Failure> {
    let root = rustix::process::geteuid().is_root();
    let result =
        if root { unshare(CloneFlags::CLONE_NEWNS).map_err(io::Error::from) } else { user() };
    result.and_then(|()| keep_to_ourselves()).map_err(|error| {
        let failure = Failure::new(
            ExitCode::FuseUnavailable,
            format!("cannot make a mount namespace: {}", plain_reason(&error)),
        );
        if root {
            failure.hint("containers often may not; leave --private away there")
        } else {
            failure.hint(
                "user namespaces may be forbidden here (sysctl kernel.unprivileged_userns_clone, \
                 kernel.apparmor_restrict_unprivileged_userns); leave --private away, or run it \
                 as root",
            )
        }
    })
}

fn keep_to_ourselves() -> io::Result<()> {
    let none: Option<&Path> = None;
    nix::mount::mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none)?;
    Ok(())
}

fn user() -> io::Result<()> {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    // A process that nobody may look into may not write its own maps. No secret is here yet.
    set_dumpable_behavior(DumpableBehavior::Dumpable)?;
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS)?;
    std::fs::write("/proc/self/setgroups", "deny")?;
    std::fs::write("/proc/self/uid_map", format!("{uid} {uid} 1"))?;
    std::fs::write("/proc/self/gid_map", format!("{gid} {gid} 1"))?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    // The server of the mount is another program run, which would lose the right to mount.
    let own = capabilities(None)?;
    let inheritable = own.inheritable | CapabilitySet::SYS_ADMIN;
    set_capabilities(None, CapabilitySets { inheritable, ..own })?;
    configure_capability_in_ambient_set(CapabilitySet::SYS_ADMIN, true)?;
    Ok(())
}

/// Gives up what [`enter`] gave an ordinary user beyond the user's rights, for the program that
/// this process becomes.
///
/// # Errors
/// The kernel refuses.
pub fn give_up_privileges() -> io::Result<()> {
    clear_ambient_capability_set()?;
    if !rustix::process::geteuid().is_root() {
        let own = capabilities(None)?;
        let inheritable = own.inheritable.difference(CapabilitySet::SYS_ADMIN);
        set_capabilities(None, CapabilitySets { inheritable, ..own })?;
    }
    Ok(())
}
