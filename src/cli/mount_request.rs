//! What shall be mounted where and how: from arguments, `-o` and a profile.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ArgAction;
use serde_json::json;

use super::Context;
use super::exit_code::ExitCode;
use super::failure::Failure;
use super::mount_options::MountFlags;
use super::mounted::{self, Owner, Watched};
use super::profile_args;
use super::prompt::SecretArgs;
use super::vault_args::{ConfigArgs, unlock};
use crate::fuse::{MountOptions, MountPoint};
use crate::profile::duration;
use crate::vault::{Unlocked, Vault};

/// How long a vault that is unmounted may take to be closed.
const CLOSING: Duration = Duration::from_secs(5);

/// How a vault is mounted and unlocked.
#[derive(Clone, Debug, clap::Args)]
pub struct HowArgs {
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
    /// Log to FILE; by default the system's log, in the foreground standard error.
    #[arg(long, value_name = "FILE")]
    log_file: Option<PathBuf>,
    /// When asked to end while it is busy, let whoever uses it finish for SECONDS.
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    stop_timeout: u64,
}

/// A mount to be made.
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
    /// After how long without use it is unmounted.
    pub idle: Option<Duration>,
    /// Whether it ends with the process that asks for it.
    pub ends_with_caller: bool,
    /// How much is logged: the count of `--verbose`.
    pub verbose: u8,
}

impl Request {
    /// A mount as it is usual.
    pub fn new(vault: PathBuf, mount_point: PathBuf, options: MountOptions) -> Self {
        Self {
            vault,
            mount_point,
            options,
            log_file: None,
            stop_timeout: Duration::from_secs(10),
            idle: None,
            ends_with_caller: false,
            verbose: 0,
        }
    }

    /// The mount point, checked.
    ///
    /// # Errors
    /// It cannot be used.
    pub fn check_mount_point(&self) -> Result<MountPoint, Failure> {
        let nonempty = self.options.allow_nonempty;
        Ok(MountPoint::check(&self.mount_point, &self.vault, nonempty)?)
    }

    /// The fields of the result.
    pub fn describe(&self) -> serde_json::Value {
        json!({
            "vault": self.vault.display().to_string(),
            "mount_point": self.mount_point.display().to_string(),
            "read_only": self.options.kernel.read_only,
        })
    }
}

/// A mount to be made, and what opens its vault.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// The mount.
    pub request: Request,
    config: ConfigArgs,
    secret: SecretArgs,
}

/// What is mounted where.
#[derive(Clone, Copy, Debug)]
pub enum Target<'a> {
    /// A vault on a mount point.
    Paths(&'a Path, &'a Path),
    /// What a profile says.
    Profile(&'a str),
}

impl Prepared {
    /// Puts together what the arguments, `-o` and a profile say; the command line wins, then `-o`.
    ///
    /// # Errors
    /// There is no such vault or profile, or an option makes no sense.
    pub fn new(target: Target<'_>, how: &HowArgs, context: &Context) -> Result<Self, Failure> {
        let (vault, mount_point, profile) = match target {
            Target::Paths(vault, mount_point) => (vault.to_owned(), mount_point.to_owned(), None),
            Target::Profile(name) => {
                let (profile, _) = profile_args::load_trusted(name, context)?;
                let vault = profile_args::vault(&profile)?.to_owned();
                (vault, profile.mount.clone(), Some(profile))
            }
        };
        let of_profile = profile.as_ref().and_then(|profile| profile.mount_options.clone());
        let lists: Vec<String> = of_profile.into_iter().chain(how.options.clone()).collect();
        let flags = MountFlags::parse(&lists)?;
        let mut options = MountOptions {
            kernel: flags.kernel,
            allow_nonempty: flags.nonempty,
            power_saving: flags.power_saving,
            ..MountOptions::default()
        };
        options.kernel.read_only |= how.read_only;
        options.kernel.allow_other |= how.allow_other;
        let log_file = how.log_file.as_deref().or(flags.log_file.as_deref());
        let request = Request {
            log_file: log_file.map(absolute).transpose()?,
            stop_timeout: Duration::from_secs(how.stop_timeout),
            idle: flags.idle,
            verbose: context.global.verbose,
            ..Request::new(existing(&vault)?, absolute(&mount_point)?, options)
        };
        let of_profile = profile.as_ref().and_then(|profile| profile.vault_config.clone());
        let config = ConfigArgs {
            config: how.config.config.clone().or(flags.config.clone()).or(of_profile),
        };
        let mut secret = how.secret.clone();
        if !secret.is_given() {
            secret = of_flags(flags);
        }
        if let Some(profile) = profile.filter(|_| !secret.is_given()) {
            secret = profile_args::secret(&profile)?;
        }
        Ok(Self { request, config, secret })
    }

    /// Opens the vault, after a look at whether it can be mounted.
    ///
    /// # Errors
    /// The mount point cannot be used, the vault is in use, or the secret opens nothing.
    pub fn unlock(&self, context: &Context) -> Result<Vault<Unlocked>, Failure> {
        // Before anybody is asked for anything.
        self.request.check_mount_point()?;
        if let Some(owner) = owner_that_stays(&self.request.vault) {
            return Err(in_use(&format!("process {} on host {}", owner.pid, owner.host)));
        }
        unlock(&self.config.open(&self.request.vault, context)?, &self.secret, context)
    }
}

/// Who holds the vault. One that is unmounted already, but not closed yet, is given a moment: the
/// umount(8) that everybody has does not wait for it.
fn owner_that_stays(vault: &Path) -> Option<Owner> {
    let owner = mounted::owner(vault)?;
    if owner.is_here()
        && mounted::mounts_of(vault).is_empty()
        && Watched::new(owner.pid).is_none_or(|process| process.wait(CLOSING))
    {
        return mounted::owner(vault);
    }
    Some(owner)
}

fn of_flags(flags: MountFlags) -> SecretArgs {
    let mut secret = SecretArgs::default();
    if flags.passphrase_file.is_some() {
        secret.passphrase_file = flags.passphrase_file;
    } else if flags.key_file.is_some() {
        secret.key_file = flags.key_file;
    } else if flags.keyring.is_some() {
        secret.keyring = flags.keyring;
    } else {
        secret.secret_service = flags.secret_service;
    }
    secret
}

/// The failure of a mount whose vault somebody else has.
pub fn in_use(holder: &str) -> Failure {
    Failure::new(ExitCode::VaultInUse, format!("the vault is in use by {holder}"))
        .hint("a vault has one owner at a time; see what is mounted: strongroom status")
        .detail("holder", holder)
}

fn existing(vault: &Path) -> Result<PathBuf, Failure> {
    vault.canonicalize().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => crate::vault::VaultError::NotAVault {
            path: vault.to_owned(),
            reason: "it does not exist",
        }
        .into(),
        _ => Failure::io("open", vault, &error),
    })
}

fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path).map_err(|error| Failure::io("use", path, &error))
}

/// Reads a length of time for clap.
///
/// # Errors
/// It is none.
pub fn time(text: &str) -> Result<Duration, String> {
    duration(text)
}
