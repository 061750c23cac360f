//! The command line: options that every command takes, and the list of commands.

use std::io;

use clap::builder::styling::{AnsiColor, Styles};
use clap::{ArgAction, CommandFactory as _, Parser, Subcommand, ValueEnum};

use super::failure::CommandResult;
use super::{Context, backup, completions, fsck, info, init, key, man, profile, speed};
#[cfg(feature = "mount")]
use super::{demo, migrate, mount, run, status, umount};

/// When to use colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ColorChoice {
    /// On a terminal, unless NO_COLOR is set.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// Options of every command.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct GlobalArgs {
    /// Print JSON lines for programs: progress and warnings, then one result.
    #[arg(long, global = true, help_heading = "Output")]
    pub json: bool,
    /// Print errors and what was asked for, nothing else.
    #[arg(long, short, global = true, conflicts_with = "verbose", help_heading = "Output")]
    pub quiet: bool,
    /// Say more; twice: everything.
    #[arg(long, short, global = true, action = ArgAction::Count, help_heading = "Output")]
    pub verbose: u8,
    /// When to use colour.
    #[arg(
        long,
        global = true,
        value_name = "WHEN",
        default_value = "auto",
        hide_possible_values = false,
        help_heading = "Output"
    )]
    pub color: ColorChoice,
}

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

const EXAMPLES: &str = "\
Examples:
  strongroom init ~/vault                      make a vault; asks for a passphrase
  strongroom mount ~/vault ~/private           open it at ~/private
  strongroom umount ~/private                  close it
  strongroom status                            what is mounted, and is it well
  strongroom run --profile aico -- aico start  run an app with its vault mounted
  strongroom migrate encrypt ~/.local/share/app --vault ~/vault --mount ~/app-data \\
      --config ~/.config/app/app.yaml          move an app's data into a vault

Exit codes are listed in docs/cli.md; `strongroom COMMAND --help` has more examples.";

/// An encrypted home for an app's data.
///
/// strongroom keeps a directory encrypted on disk (a vault) and shows it in plain at a mount
/// point, so that apps work on it unchanged. It moves existing data in, verified and with a way
/// back, and makes sealed backups.
#[derive(Debug, Parser)]
#[command(name = "strongroom", version, styles = STYLES, after_help = EXAMPLES,
    max_term_width = 100, propagate_version = false, subcommand_required = true,
    arg_required_else_help = true)]
pub struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub global: GlobalArgs,
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands. Each has a file of its own with its `Args` and its `run`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a vault.
    Init(init::Args),
    /// Mount a vault.
    #[cfg(feature = "mount")]
    Mount(mount::Args),
    /// Unmount a vault.
    #[cfg(feature = "mount")]
    #[command(visible_alias = "unmount")]
    Umount(umount::Args),
    /// Run a command with a vault mounted for as long as it runs.
    #[cfg(feature = "mount")]
    Run(run::Args),
    /// In a process of `run`: become the command.
    #[cfg(feature = "mount")]
    #[command(hide = true)]
    RunCommand(run::BecomeArgs),
    /// Show what is mounted.
    #[cfg(feature = "mount")]
    Status(status::Args),
    /// Show what a vault tells without a secret.
    Info(info::Args),
    /// Check a vault, repair it, salvage what is left.
    Fsck(fsck::Args),
    /// Manage the secrets that open a vault.
    Key(key::Args),
    /// Measure how fast this machine encrypts.
    Speed(speed::Args),
    /// Describe apps: where their data is, how they are stopped, started and backed up.
    Profile(profile::Args),
    /// Move an app's data into a vault, and back.
    #[cfg(feature = "mount")]
    Migrate(Box<migrate::Args>),
    /// Make, restore, check and keep backups.
    Backup(backup::Args),
    /// Show a migration and its way back, on a store made for it.
    #[cfg(feature = "mount")]
    Demo(demo::Args),
    /// Write a shell's completion script to standard output.
    Completions(completions::Args),
    /// Write the manual pages into a directory.
    Man(man::Args),
}

impl Command {
    /// The name, as results give it.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Init(_) => "init",
            #[cfg(feature = "mount")]
            Self::Mount(_) => "mount",
            #[cfg(feature = "mount")]
            Self::Umount(_) => "umount",
            #[cfg(feature = "mount")]
            Self::Run(_) => "run",
            #[cfg(feature = "mount")]
            Self::RunCommand(_) => "run-command",
            #[cfg(feature = "mount")]
            Self::Status(_) => "status",
            Self::Info(_) => "info",
            Self::Fsck(_) => "fsck",
            Self::Key(args) => args.name(),
            Self::Speed(_) => "speed",
            Self::Profile(args) => args.name(),
            #[cfg(feature = "mount")]
            Self::Migrate(args) => args.name(),
            Self::Backup(args) => args.name(),
            #[cfg(feature = "mount")]
            Self::Demo(_) => "demo",
            Self::Completions(_) => "completions",
            Self::Man(_) => "man",
        }
    }

    /// Whether its output is for a program of ours that waits, and nothing is for people.
    pub const fn is_daemon(&self) -> bool {
        match self {
            #[cfg(feature = "mount")]
            Self::Mount(args) => args.daemon,
            _ => false,
        }
    }

    /// Runs it.
    pub fn run(&self, context: &Context) -> CommandResult {
        match self {
            Self::Init(args) => init::run(args, context),
            #[cfg(feature = "mount")]
            Self::Mount(args) => mount::run(args, context),
            #[cfg(feature = "mount")]
            Self::Umount(args) => umount::run(args, context),
            #[cfg(feature = "mount")]
            Self::Run(args) => run::run(args, context),
            #[cfg(feature = "mount")]
            Self::RunCommand(args) => run::become_command(args),
            #[cfg(feature = "mount")]
            Self::Status(args) => status::run(args, context),
            Self::Info(args) => info::run(args, context),
            Self::Fsck(args) => fsck::run(args, context),
            Self::Key(args) => key::run(args, context),
            Self::Speed(args) => speed::run(args, context),
            Self::Profile(args) => profile::run(args, context),
            #[cfg(feature = "mount")]
            Self::Migrate(args) => migrate::run(args, context),
            Self::Backup(args) => backup::run(args, context),
            #[cfg(feature = "mount")]
            Self::Demo(args) => demo::run(args, context),
            Self::Completions(args) => completions::run(args, context),
            Self::Man(args) => man::run(args, context),
        }
    }
}

/// Writes the completion script of `shell`.
pub fn write_completions(shell: clap_complete::Shell, into: &mut dyn io::Write) {
    clap_complete::generate(shell, &mut Cli::command(), "strongroom", into);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    /// Every command and every long option stands in `docs/cli.md`.
    #[test]
    fn documentation_names_every_option() {
        let page = include_str!("../../docs/cli.md");
        let mut missing = Vec::new();
        let mut pending = vec![(String::from("strongroom"), Cli::command())];
        while let Some((path, command)) = pending.pop() {
            // What stands below `backup migrate` is told once, at `migrate`.
            let told_at = path.replace(" backup migrate ", " migrate ");
            if path != "strongroom" && !page.contains(&format!("{told_at}`")) {
                missing.push(path.clone());
            }
            for argument in command.get_arguments() {
                let Some(long) = argument.get_long() else { continue };
                let told = argument.is_hide_set() || ["help", "version"].contains(&long);
                if !told && !page.contains(&format!("`--{long}")) {
                    missing.push(format!("{path} --{long}"));
                }
            }
            let shown = |sub: &&clap::Command| sub.get_name() != "help" && !sub.is_hide_set();
            for sub in command.get_subcommands().filter(shown) {
                pending.push((format!("{path} {}", sub.get_name()), sub.clone()));
            }
        }
        assert!(missing.is_empty(), "docs/cli.md lacks: {missing:#?}");
    }
}
