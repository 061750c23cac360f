//! `strongroom backup`: makes, restores, checks and keeps backups.

mod age;
mod attempt;
mod create;
mod defaults;
mod events;
mod keys;
mod lookup;
mod manage;
mod noticed;
mod restore;
mod run;
mod safety;
mod schedule;
mod schedule_file;
mod schedule_words;
mod servers;
mod targets;
mod timers;
mod trees;
mod verify;
mod writing;

use std::path::PathBuf;

use clap::{Subcommand, ValueEnum};

use super::Context;
use super::events::EventArgs;
use super::failure::CommandResult;
use super::init::CostArgs;
use super::prompt::SecretArgs;
use crate::archive::{ArchiveKind, Compression, ReadBack};

const EXAMPLES: &str = "\
Examples:
  strongroom backup create ~/.local/share/app --output ~/backups
  strongroom backup create ~/.local/share/app --output ~/backups --type incremental --exclude models,cache
  strongroom backup list ~/backups
  strongroom backup verify ~/backups/app-20251017-123000.tar.zst.enc
  strongroom backup restore ~/backups/app-20251017-123000.tar.zst.enc --target ~/restored
  strongroom backup cleanup ~/backups --keep-daily 7 --keep-weekly 4 --keep-monthly 6
  strongroom backup schedule create ~/.local/share/app --output ~/backups --frequency daily \\
      --time 02:00 --passphrase-file ~/.config/strongroom/backup-passphrase

With a profile of the app (--profile NAME, or the only one there is) source, output and the rest
need not be given. docs/backup-guide.md tells more.";

/// Arguments of `backup`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(subcommand)]
    command: Backup,
}

#[derive(Debug, Subcommand)]
enum Backup {
    /// Make a backup.
    Create(Box<CreateArgs>),
    /// Restore a backup, or parts of it.
    Restore(Box<RestoreArgs>),
    /// List the backups of a directory.
    List(ListArgs),
    /// Show what a backup is and holds.
    Info(InfoArgs),
    /// Check backups: every byte, and that nothing is missing.
    Verify(VerifyArgs),
    /// Delete backups.
    Delete(DeleteArgs),
    /// Delete the backups that no rule keeps.
    Cleanup(CleanupArgs),
    /// Make backups by themselves, at given times.
    Schedule(schedule::Args),
    /// The same as `strongroom migrate`.
    #[cfg(feature = "mount")]
    Migrate(Box<super::migrate::Args>),
}

/// The app, where a profile describes it.
#[derive(Clone, Debug, Default, clap::Args)]
struct ProfileArgs {
    /// The app's profile: its name, or a file. Without it and without SOURCE:
    /// $STRONGROOM_PROFILE, or the only profile of your own.
    #[arg(long, value_name = "PROFILE")]
    profile: Option<String>,
}

/// The secret of backups.
#[derive(Clone, Debug, Default, clap::Args)]
struct BackupSecret {
    #[command(flatten)]
    secret: SecretArgs,
    /// Read the passphrase from standard input.
    #[arg(
        long,
        visible_alias = "password-stdin",
        conflicts_with = "secret",
        help_heading = "Secret"
    )]
    passphrase_stdin: bool,
}

impl BackupSecret {
    fn args(&self) -> SecretArgs {
        let mut secret = self.secret.clone();
        if self.passphrase_stdin {
            secret.passphrase_file = Some(PathBuf::from("-"));
        }
        secret
    }

    fn is_given(&self) -> bool {
        self.passphrase_stdin || self.secret.is_given()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum KindArg {
    /// Everything.
    Full,
    /// What changed since the last backup of any type.
    Incremental,
    /// What changed since the last full backup.
    Differential,
}

impl From<KindArg> for ArchiveKind {
    fn from(kind: KindArg) -> Self {
        match kind {
            KindArg::Full => Self::Full,
            KindArg::Incremental => Self::Incremental,
            KindArg::Differential => Self::Differential,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum CompressionArg {
    /// Fast and small.
    Zstd,
    /// For other programs' sake.
    Gzip,
    /// The fastest.
    Lz4,
    /// Not at all.
    None,
}

impl From<CompressionArg> for Compression {
    fn from(compression: CompressionArg) -> Self {
        match compression {
            CompressionArg::Zstd => Self::Zstd,
            CompressionArg::Gzip => Self::Gzip,
            CompressionArg::Lz4 => Self::Lz4,
            CompressionArg::None => Self::None,
        }
    }
}

/// What a backup is made of and how; a schedule remembers all of it.
#[derive(Clone, Debug, Default, clap::Args)]
struct CreateArgs {
    /// The directory to back up: plain, or where a vault is mounted.
    source: Option<PathBuf>,
    #[command(flatten)]
    profile: ProfileArgs,
    /// The plan of the profile; by default its first one.
    #[arg(long, value_name = "NAME")]
    plan: Option<String>,
    /// Where the backup goes.
    #[arg(long, short, value_name = "DIR")]
    output: Option<PathBuf>,
    /// What backups are called, before the date; by default the profile's or the source's name.
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// How much is stored.
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<KindArg>,
    /// Only these components or patterns, separated by commas.
    #[arg(long, value_name = "WHAT", value_delimiter = ',')]
    include: Vec<String>,
    /// Not these components or patterns.
    #[arg(long, value_name = "WHAT", value_delimiter = ',')]
    exclude: Vec<String>,
    /// A configuration file outside the source that belongs to it.
    #[arg(long = "config", value_name = "FILE")]
    configs: Vec<PathBuf>,
    /// How it is compressed.
    #[arg(long, value_name = "COMPRESSION")]
    compression: Option<CompressionArg>,
    /// From 1 (fast) to 9 (small; zstd: up to 22). Without it zstd comes near the size of level 3 in
    /// less time.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..=22))]
    compression_level: Option<i32>,
    /// Do not compress.
    #[arg(long, conflicts_with_all = ["compression", "compression_level"])]
    no_compress: bool,
    /// Do not seal: whoever has the file reads it. What is sensitive is sealed all the same.
    #[arg(long)]
    no_encrypt: bool,
    /// Seal it, whatever the profile says; without a profile that is so anyway.
    #[arg(long, conflicts_with = "no_encrypt")]
    encrypt: bool,
    /// More patterns of files that are sealed even with --no-encrypt.
    #[arg(long, value_name = "PATTERN", value_delimiter = ',')]
    sensitive: Vec<String>,
    /// What you call it.
    #[arg(long, value_name = "TEXT")]
    tag: Option<String>,
    /// Carry this vault's keys, as its vault.json has them, in the backup; a vault mounted at the
    /// source is found by itself.
    #[arg(long, value_name = "VAULT")]
    vault: Option<PathBuf>,
    /// Seal with the vault's own key slots; the secret is one of the vault's.
    #[arg(long, conflicts_with = "no_encrypt")]
    vault_keys: bool,
    /// Go on while processes write to the source, where no consistent copy can be made.
    #[arg(long)]
    live: bool,
    /// Where consistent copies of live stores lie for a while; by default in the source.
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
    /// Do not read the backup back.
    #[arg(long)]
    no_verify: bool,
    /// Read the backup back when it is durable, past the kernel's cache where the filesystem permits
    /// that, and compare the SHA-256 of each file, too.
    #[arg(long, conflicts_with = "no_verify")]
    validate: bool,
    #[command(flatten)]
    events: EventArgs,
    #[command(flatten)]
    secret: BackupSecret,
    #[command(flatten)]
    cost: OptionalCost,
}

impl CreateArgs {
    fn read_back(&self) -> ReadBack {
        match (self.no_verify, self.validate) {
            (true, _) => ReadBack::No,
            (false, true) => ReadBack::Whole,
            (false, false) => ReadBack::Written,
        }
    }
}

/// [`CostArgs`], with a default.
#[derive(Clone, Debug, Default, clap::Args)]
struct OptionalCost {
    /// Memory that trying a new passphrase takes, in MiB.
    #[arg(long, value_name = "MIB", requires = "kdf_iterations", help_heading = "Passphrase cost")]
    kdf_memory: Option<u32>,
    /// Passes over that memory.
    #[arg(long, value_name = "N", requires = "kdf_memory", help_heading = "Passphrase cost")]
    kdf_iterations: Option<u32>,
}

impl OptionalCost {
    fn args(&self) -> CostArgs {
        CostArgs { kdf_memory: self.kdf_memory, kdf_iterations: self.kdf_iterations }
    }
}

#[derive(Clone, Debug, Default, clap::Args)]
struct RestoreArgs {
    /// The backup.
    archive: PathBuf,
    /// Only these files and directories, as they are called in the backup.
    #[arg(value_name = "PATH", conflicts_with_all = ["component", "config_only"])]
    paths: Vec<PathBuf>,
    /// Restore to DIR instead of where the backup came from.
    #[arg(long, value_name = "DIR")]
    target: Option<PathBuf>,
    /// Only these components, separated by commas.
    #[arg(long, visible_alias = "database", value_name = "NAME", value_delimiter = ',')]
    component: Vec<String>,
    /// Only configuration files.
    #[arg(long, conflicts_with = "component")]
    config_only: bool,
    /// Only the vault's keys: writes the vault.json that the backup carries into DIR.
    #[arg(long, value_name = "DIR",
        conflicts_with_all = ["component", "config_only", "paths", "target", "merge"])]
    vault_config: Option<PathBuf>,
    /// Read and check everything, say what would be done, change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Replace what is there without asking.
    #[arg(long, visible_alias = "yes")]
    force: bool,
    /// Only restore what is missing; nothing that is there changes.
    #[arg(long, conflicts_with = "force")]
    merge: bool,
    /// Do not back up what is replaced.
    #[arg(long)]
    no_safety_backup: bool,
    /// Do not run the stores' checks on what was restored.
    #[arg(long)]
    no_check: bool,
    /// Make device files, too.
    #[arg(long)]
    devices: bool,
    /// Replace although processes use the target.
    #[arg(long)]
    live: bool,
    /// The app's profile: its commands let servers read their dumps.
    #[command(flatten)]
    profile: ProfileArgs,
    #[command(flatten)]
    events: EventArgs,
    #[command(flatten)]
    secret: BackupSecret,
}

#[derive(Clone, Debug, clap::Args)]
struct ListArgs {
    /// The directory of the backups.
    directory: Option<PathBuf>,
    #[command(flatten)]
    profile: ProfileArgs,
}

#[derive(Clone, Debug, clap::Args)]
struct InfoArgs {
    /// The backup.
    archive: PathBuf,
    #[command(flatten)]
    profile: ProfileArgs,
    /// List the files in it.
    #[arg(long)]
    files: bool,
    #[command(flatten)]
    secret: BackupSecret,
}

#[derive(Clone, Debug, clap::Args)]
struct VerifyArgs {
    /// Backups, or directories of such.
    archives: Vec<PathBuf>,
    #[command(flatten)]
    profile: ProfileArgs,
    /// Only compare checksums; needs no secret.
    #[arg(long)]
    checksum: bool,
    /// Restore to a temporary place, run the stores' checks, and throw it away.
    #[arg(long, conflicts_with = "checksum")]
    test_restore: bool,
    /// Where that place is; what lies there for a while is plain.
    #[arg(long, value_name = "DIR", requires = "test_restore")]
    scratch: Option<PathBuf>,
    #[command(flatten)]
    events: EventArgs,
    #[command(flatten)]
    secret: BackupSecret,
}

#[derive(Clone, Debug, clap::Args)]
struct DeleteArgs {
    /// The backups.
    #[arg(required = true)]
    archives: Vec<PathBuf>,
    /// Delete the backups that need them, too.
    #[arg(long)]
    dependents: bool,
    /// Answer the question with yes.
    #[arg(long, short, visible_alias = "force")]
    yes: bool,
}

/// Which backups are kept.
#[derive(Clone, Debug, Default, clap::Args)]
struct KeepArgs {
    /// Keep the newest N.
    #[arg(long, value_name = "N", visible_alias = "keep-last")]
    keep: Option<usize>,
    /// Keep the newest of each of the last N days that have one.
    #[arg(long, value_name = "N")]
    keep_daily: Option<usize>,
    /// The same for weeks.
    #[arg(long, value_name = "N")]
    keep_weekly: Option<usize>,
    /// The same for months.
    #[arg(long, value_name = "N")]
    keep_monthly: Option<usize>,
    /// The same for years.
    #[arg(long, value_name = "N")]
    keep_yearly: Option<usize>,
    /// Keep what is not older: 30d, 8w, 6m, 1y.
    #[arg(long, value_name = "AGE")]
    keep_within: Option<String>,
}

#[derive(Clone, Debug, clap::Args)]
struct CleanupArgs {
    /// The directory of the backups.
    directory: Option<PathBuf>,
    #[command(flatten)]
    profile: ProfileArgs,
    #[command(flatten)]
    keep: KeepArgs,
    /// Delete only backups of this type; the rules count only them.
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<KindArg>,
    /// Only backups of this name.
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Show what would be deleted; delete nothing.
    #[arg(long)]
    dry_run: bool,
}

impl Args {
    /// The name, as results give it.
    pub const fn name(&self) -> &'static str {
        match &self.command {
            Backup::Create(_) => "backup create",
            Backup::Restore(_) => "backup restore",
            Backup::List(_) => "backup list",
            Backup::Info(_) => "backup info",
            Backup::Verify(_) => "backup verify",
            Backup::Delete(_) => "backup delete",
            Backup::Cleanup(_) => "backup cleanup",
            Backup::Schedule(args) => args.name(),
            #[cfg(feature = "mount")]
            Backup::Migrate(args) => args.name(),
        }
    }
}

/// Runs a subcommand.
pub fn run(args: &Args, context: &Context) -> CommandResult {
    match &args.command {
        Backup::Create(args) => create::command(args, context),
        Backup::Restore(args) => restore::command(args, context),
        Backup::List(args) => manage::list(args, context),
        Backup::Info(args) => manage::info(args, context),
        Backup::Verify(args) => verify::verify(args, context),
        Backup::Delete(args) => manage::delete(args, context),
        Backup::Cleanup(args) => manage::cleanup(args, context),
        Backup::Schedule(args) => schedule::run(args, context),
        #[cfg(feature = "mount")]
        Backup::Migrate(args) => super::migrate::run(args, context),
    }
}

/// Restores all of a backup to where it came from.
///
/// # Errors
/// As `backup restore`.
#[cfg(feature = "mount")]
pub fn restore_all(
    archive: &std::path::Path,
    secret: SecretArgs,
    force: bool,
    context: &Context,
) -> CommandResult {
    let args = RestoreArgs {
        archive: archive.to_owned(),
        force,
        secret: BackupSecret { secret, passphrase_stdin: false },
        ..RestoreArgs::default()
    };
    restore::command(&args, context)
}
