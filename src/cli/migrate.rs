//! `strongroom migrate`: moves an app's data into a vault, and back.

mod actions;
mod look;
mod observer;
mod profile;
mod report;
mod world;

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Subcommand, ValueEnum};
use serde_json::json;

use super::Context;
use super::events::{EventArgs, Listeners};
use super::exit_code::ExitCode;
use super::failure::{CommandResult, Failure};
use super::init::CostArgs;
use super::prompt::SecretArgs;
use super::recovery::RecoveryOutput;
use crate::migrate::{Commands, MigrationId, Reading, Request, SetValue, SwitchMode};
use crate::profile::{Event, Profile};

pub(super) use observer::Shown;
pub(super) use report::{account_lines, failure};
pub(super) use world::{Interrupt, OpenVault, VaultMounter};

const EXAMPLES: &str = "\
Examples:
  strongroom migrate plan ~/.local/share/app --vault ~/vault --mount ~/app-data \\
      --config ~/.config/app/app.yaml
      what would be done, with the edits as a diff; changes nothing
  strongroom migrate encrypt ~/.local/share/app --vault ~/vault --mount ~/app-data \\
      --config ~/.config/app/app.yaml
  strongroom migrate encrypt /srv/app/data --vault /srv/app/vault --in-place
      the vault is mounted where the data was; no configuration is edited
  strongroom migrate encrypt --profile aico
      what a profile of the app says
  strongroom migrate status --vault ~/vault
  strongroom migrate rollback --vault ~/vault

Interrupted, by whatever: migrate status tells where it stands; migrate resume and migrate rollback
both finish. docs/migration-guide.md has every situation.";

/// Arguments of `migrate`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(subcommand)]
    command: Migrate,
}

#[derive(Debug, Subcommand)]
enum Migrate {
    /// Show what encrypt would do; change nothing.
    Plan(EncryptArgs),
    /// Move a directory into a vault: copy, verify, switch the app over, wipe the originals.
    Encrypt(EncryptArgs),
    /// Go on with an interrupted migration.
    Resume(ResumeArgs),
    /// Read everything again and compare.
    Verify(VerifyArgs),
    /// Tell where the migrations of a vault stand.
    Status(StatusArgs),
    /// Take a migration back.
    Rollback(RollbackArgs),
    /// Destroy the originals of a finished migration.
    Wipe(WipeArgs),
}

/// Names the vault, and opens it.
#[derive(Clone, Debug, clap::Args)]
struct VaultArgs {
    /// The vault.
    #[arg(
        long,
        visible_alias = "output",
        value_name = "VAULT",
        default_value = "",
        hide_default_value = true,
        value_parser = left_open(),
        value_hint = clap::ValueHint::DirPath
    )]
    vault: PathBuf,
    /// Take what is not said here from the profile PROFILE: a name, or a file. Where no vault is
    /// named: $STRONGROOM_PROFILE, or the only profile of your own.
    #[arg(long, value_name = "PROFILE")]
    profile: Option<String>,
    /// The vault's configuration, where it is kept apart from the vault.
    #[arg(long, value_name = "FILE")]
    vault_config: Option<PathBuf>,
    #[command(flatten)]
    secret: SecretArgs,
}

/// How the work is done.
#[derive(Clone, Debug, clap::Args)]
struct WorkArgs {
    /// Files copied and hashed at the same time; by default one a processor.
    #[arg(long, value_name = "N")]
    jobs: Option<NonZeroUsize>,
    /// Let other users in at the mount; root does that anyway.
    #[arg(long)]
    allow_other: bool,
    /// Answer every question with yes.
    #[arg(long, short)]
    yes: bool,
}

#[derive(Clone, Debug, clap::Args)]
struct EncryptArgs {
    /// The directory to move into the vault.
    #[arg(default_value = "", hide_default_value = true, value_parser = left_open(), value_hint = clap::ValueHint::DirPath)]
    source: PathBuf,
    #[command(flatten)]
    vault: VaultArgs,
    /// Where the app will find it: a directory that is empty or does not exist yet.
    #[arg(long, value_name = "MOUNTPOINT")]
    mount: Option<PathBuf>,
    /// Mount the vault where the source was; no configuration needs an edit.
    #[arg(long, conflicts_with_all = ["mount", "symlink"])]
    in_place: bool,
    /// Put a symlink to the mount point where the source was.
    #[arg(long)]
    symlink: bool,
    /// A configuration file whose values that name the source are edited.
    #[arg(long = "config", value_name = "FILE", conflicts_with_all = ["in_place", "symlink"])]
    configs: Vec<PathBuf>,
    /// Set a value in a configuration file; the key's parts are separated by dots.
    #[arg(long = "set", value_name = "FILE:KEY=VALUE", value_parser = parse_set)]
    sets: Vec<SetValue>,
    /// What only a profile says of the configuration files.
    #[arg(skip)]
    reading: Reading,
    /// Leave out what matches, separated by commas: a name anywhere, or a path with slashes; * ?
    /// [..] ** as in .gitignore.
    #[arg(long, value_name = "PATTERN", value_delimiter = ',')]
    exclude: Vec<String>,
    /// Leave the originals aside instead of wiping them.
    #[arg(long)]
    keep_originals: bool,
    /// Run COMMAND with `sh -c` to stop the app before the copy.
    #[arg(long, value_name = "COMMAND", help_heading = "The app")]
    stop_command: Option<String>,
    /// Run COMMAND to start the app after the switch.
    #[arg(long, value_name = "COMMAND", help_heading = "The app")]
    start_command: Option<String>,
    /// Run COMMAND to see that the app is well; if it is not within half a minute, everything
    /// goes back.
    #[arg(long, value_name = "COMMAND", help_heading = "The app")]
    health_command: Option<String>,
    /// How long the app may take to become well: 30s, 5m.
    #[arg(long, value_name = "TIME", value_parser = crate::profile::duration,
        help_heading = "The app")]
    health_timeout: Option<std::time::Duration>,
    /// Go on although a store is damaged already.
    #[arg(long)]
    accept_damage: bool,
    /// A snapshot is made anyway; taken for other tools' sake.
    #[arg(long, hide = true)]
    create_backup: bool,
    /// Show what would be done; change nothing.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    recovery: RecoveryOutput,
    /// Make no recovery key.
    #[arg(long, conflicts_with = "recovery_key_out", help_heading = "Recovery key")]
    no_recovery_key: bool,
    #[command(flatten)]
    cost: CostArgs,
    #[command(flatten)]
    work: WorkArgs,
}

#[derive(Clone, Debug, clap::Args)]
struct ResumeArgs {
    #[command(flatten)]
    vault: VaultArgs,
    #[command(flatten)]
    which: WhichArgs,
    #[command(flatten)]
    work: WorkArgs,
}

/// Picks a migration of the vault.
#[derive(Clone, Debug, clap::Args)]
struct WhichArgs {
    /// The migration; by default the newest.
    #[arg(long, value_name = "ID")]
    id: Option<MigrationId>,
}

#[derive(Clone, Debug, clap::Args)]
struct VerifyArgs {
    /// The vault.
    #[arg(long, visible_alias = "output", value_name = "VAULT")]
    vault: Option<PathBuf>,
    /// Take the vault and its secret from the profile PROFILE.
    #[arg(long, value_name = "PROFILE", conflicts_with = "source")]
    profile: Option<String>,
    /// The vault's configuration, where it is kept apart from the vault.
    #[arg(long, value_name = "FILE")]
    vault_config: Option<PathBuf>,
    /// Compare this directory instead, with --target.
    #[arg(long, value_name = "DIR", requires = "target", conflicts_with = "vault")]
    source: Option<PathBuf>,
    /// What to compare --source with: the mount point or any directory; or the vault, which is then
    /// read through a mount of its own and compared with what was migrated.
    #[arg(long, value_name = "DIR", requires = "source")]
    target: Option<PathBuf>,
    #[command(flatten)]
    secret: SecretArgs,
    #[command(flatten)]
    which: WhichArgs,
    #[command(flatten)]
    work: WorkArgs,
}

#[derive(Clone, Debug, clap::Args)]
struct StatusArgs {
    /// The vault; without a secret, only what its journals say openly.
    #[arg(
        long,
        visible_alias = "output",
        value_name = "VAULT",
        default_value = "",
        hide_default_value = true,
        value_parser = left_open(),
        value_hint = clap::ValueHint::DirPath
    )]
    vault: PathBuf,
    /// Take the vault and its secret from the profile PROFILE.
    #[arg(long, value_name = "PROFILE")]
    profile: Option<String>,
    /// The vault's configuration, where it is kept apart from the vault.
    #[arg(long, value_name = "FILE")]
    vault_config: Option<PathBuf>,
    #[command(flatten)]
    secret: SecretArgs,
    /// Ask for no secret.
    #[arg(long, conflicts_with = "secret")]
    no_secret: bool,
}

#[derive(Clone, Debug, clap::Args)]
struct RollbackArgs {
    #[command(flatten)]
    vault: VaultArgs,
    #[command(flatten)]
    which: WhichArgs,
    /// What comes back: the vault's present content, or the state at the migration.
    #[arg(long, value_name = "ORIGIN")]
    from: Option<FromArg>,
    /// Lose what was written to the vault since the migration.
    #[arg(long)]
    discard_changes: bool,
    /// Restore this backup instead, to where it came from; the same as `backup restore ARCHIVE`.
    #[arg(long, value_name = "ARCHIVE", conflicts_with_all = ["id", "from", "discard_changes"])]
    backup: Option<PathBuf>,
    #[command(flatten)]
    work: WorkArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum FromArg {
    /// The vault's present content.
    Vault,
    /// The state at the migration.
    Snapshot,
}

#[derive(Clone, Debug, clap::Args)]
struct WipeArgs {
    #[command(flatten)]
    vault: VaultArgs,
    #[command(flatten)]
    which: WhichArgs,
    /// Wipe although the snapshot is gone, which a rollback to the state at the migration needs.
    #[arg(long)]
    without_snapshot: bool,
    /// The originals were removed by other means: end the migration, with no account of them.
    #[arg(long)]
    originals_gone: bool,
    #[command(flatten)]
    work: WorkArgs,
}

impl Args {
    /// The name, as results give it.
    pub const fn name(&self) -> &'static str {
        match self.command {
            Migrate::Plan(_) => "migrate plan",
            Migrate::Encrypt(_) => "migrate encrypt",
            Migrate::Resume(_) => "migrate resume",
            Migrate::Verify(_) => "migrate verify",
            Migrate::Status(_) => "migrate status",
            Migrate::Rollback(_) => "migrate rollback",
            Migrate::Wipe(_) => "migrate wipe",
        }
    }
}

/// Runs a subcommand.
pub fn run(args: &Args, context: &Context) -> CommandResult {
    match &args.command {
        Migrate::Plan(args) => {
            actions::plan(&profile::complete(args, context)?.0, context, "migrate plan")
        }
        Migrate::Encrypt(args) => {
            let (completed, profile) = profile::complete(args, context)?;
            if args.dry_run {
                return actions::plan(&completed, context, "migrate encrypt");
            }
            let work = || actions::encrypt(&completed, context);
            told(profile.as_ref(), &completed.vault, false, context, work)
        }
        Migrate::Resume(args) => {
            let (vault, profile) = profile::complete_vault(&args.vault, context)?;
            let work =
                || actions::resume(&ResumeArgs { vault: vault.clone(), ..args.clone() }, context);
            told(profile.as_ref(), &vault, false, context, work)
        }
        Migrate::Verify(args) => {
            let mut args = args.clone();
            if let Some(vault) = look::vault_of_target(&args) {
                return look::verify_against_vault(&args, &vault, context);
            }
            if args.source.is_none() {
                let (vault, _) = profile::complete_vault(&args.vault_args(), context)?;
                args.vault = Some(vault.vault);
                (args.vault_config, args.secret) = (vault.vault_config, vault.secret);
            }
            look::verify(&args, context)
        }
        Migrate::Status(args) => {
            let mut args = args.clone();
            let unsaid = args.vault.as_os_str().is_empty();
            let (vault, profile) = profile::complete_vault(&args.vault_args(), context)?;
            args.vault = vault.vault;
            args.vault_config = vault.vault_config;
            let known =
                crate::migrate::migrations(&args.vault).is_ok_and(|known| !known.is_empty());
            if let Some(profile) = profile.filter(|_| unsaid && !known) {
                // The migration may have gone into another vault than the profile names.
                match profile::mounted_vault(&profile) {
                    Some(mounted) => args.vault = mounted,
                    None if args.vault.exists() => {}
                    None => return look::no_status(&args.vault, context),
                }
            }
            if !args.no_secret {
                args.secret = vault.secret;
            }
            look::status(&args, context)
        }
        Migrate::Rollback(args) => {
            if let Some(archive) = &args.backup {
                let secret = args.vault.secret.clone();
                return crate::cli::backup::restore_all(archive, secret, args.work.yes, context);
            }
            let (vault, profile) = profile::complete_vault(&args.vault, context)?;
            let work = || {
                actions::rollback(&RollbackArgs { vault: vault.clone(), ..args.clone() }, context)
            };
            told(profile.as_ref(), &vault, true, context, work)
        }
        Migrate::Wipe(args) => {
            let (vault, _) = profile::complete_vault(&args.vault, context)?;
            actions::wipe(&WipeArgs { vault, ..args.clone() }, context)
        }
    }
}

/// Does `work`, and tells whom the profile names how it ended; one that went back has failed.
fn told(
    profile: Option<&Profile>,
    vault: &VaultArgs,
    back: bool,
    context: &Context,
    work: impl FnOnce() -> CommandResult,
) -> CommandResult {
    let Some(profile) = profile else { return work() };
    let subject =
        [("name", json!(profile.name)), ("vault", json!(vault.vault.display().to_string()))];
    let listeners = Listeners::new(&EventArgs::default(), Some(profile), &subject, context);
    let completed = if back { Event::MigrationFailed } else { Event::MigrationCompleted };
    let facts =
        |_: &()| if back { vec![("message", json!("it was rolled back"))] } else { Vec::new() };
    listeners.around((completed, Event::MigrationFailed), context, work, facts)
}

impl VerifyArgs {
    fn vault_args(&self) -> VaultArgs {
        VaultArgs {
            vault: self.vault.clone().unwrap_or_default(),
            profile: self.profile.clone(),
            vault_config: self.vault_config.clone(),
            secret: self.secret.clone(),
        }
    }
}

impl StatusArgs {
    fn vault_args(&self) -> VaultArgs {
        VaultArgs {
            vault: self.vault.clone(),
            profile: self.profile.clone(),
            vault_config: self.vault_config.clone(),
            secret: self.secret.clone(),
        }
    }
}

impl EncryptArgs {
    fn request(&self) -> Result<Request, Failure> {
        let mode = match (self.in_place, self.symlink) {
            (true, _) => SwitchMode::InPlace,
            (false, true) => SwitchMode::Symlink,
            (false, false) => SwitchMode::Repoint,
        };
        let mount_point = match (&self.mount, mode) {
            (Some(mount), _) => mount.clone(),
            (None, SwitchMode::InPlace) => self.source.clone(),
            (None, _) => {
                return Err(Failure::new(ExitCode::Usage, "--mount MOUNTPOINT is missing"));
            }
        };
        Ok(Request {
            source: self.source.clone(),
            names: Vec::new(),
            vault: self.vault.vault.clone(),
            mount_point,
            mode,
            configs: self.configs.clone(),
            sets: self.sets.clone(),
            reading: self.reading.clone(),
            exclude: self.exclude.clone(),
            keep_originals: self.keep_originals,
            wipe_agreed: self.work.yes,
            commands: Commands {
                stop: self.stop_command.clone(),
                start: self.start_command.clone(),
                health: self.health_command.clone(),
                health_seconds: self.health_timeout.map(|timeout| timeout.as_secs()),
            },
            accept_damage: self.accept_damage,
        })
    }
}

/// Takes a path; the empty one stands for what a profile is to say.
fn left_open() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(PathBuf::from)
}

/// `FILE:KEY=VALUE`; the file may hold colons, the key may not.
fn parse_set(text: &str) -> Result<SetValue, String> {
    let (place, value) = text.split_once('=').ok_or("it has no \"=\"")?;
    let (file, key) = place.rsplit_once(':').ok_or("it has no \":\" before the key")?;
    if file.is_empty() || key.is_empty() {
        return Err("it is FILE:KEY=VALUE".to_owned());
    }
    Ok(SetValue {
        file: std::path::Path::new(file).into(),
        key: key.to_owned(),
        value: value.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn values_to_set() {
        let set = parse_set("/etc/a:b.yaml:data.dir=/mnt/x=y").unwrap();
        assert_eq!(set.file.as_path(), std::path::Path::new("/etc/a:b.yaml"));
        assert_eq!((set.key.as_str(), set.value.as_str()), ("data.dir", "/mnt/x=y"));
        for bad in ["", "file", "file:key", "=x", "file=x", ":key=x", "file:=x"] {
            assert!(parse_set(bad).is_err(), "{bad}");
        }
    }
}
