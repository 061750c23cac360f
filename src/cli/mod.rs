//! Owns the command line: arguments, prompts, output and exit codes. The only module that
//! prints, prompts or exits.
//!
//! A command is a file with a clap `Args` and a `run(&Args, &Context) -> CommandResult`, and one
//! variant of [`args::Command`].

pub mod args;
pub mod backup;
pub mod completions;
#[cfg(feature = "mount")]
pub mod daemon;
#[cfg(feature = "mount")]
pub mod demo;
pub mod events;
pub mod exit_code;
pub mod failure;
pub mod fsck;
pub mod info;
pub mod init;
pub mod key;
mod key_store;
#[cfg(feature = "mount")]
pub mod log;
pub mod man;
#[cfg(feature = "mount")]
pub mod migrate;
#[cfg(feature = "mount")]
pub mod mount;
#[cfg(feature = "mount")]
mod mount_failure;
#[cfg(feature = "mount")]
mod mount_helper;
#[cfg(feature = "mount")]
pub mod mount_options;
#[cfg(feature = "mount")]
pub mod mount_request;
#[cfg(feature = "mount")]
pub mod mounted;
#[cfg(feature = "mount")]
mod namespace;
pub mod output;
pub mod profile;
pub mod profile_args;
pub mod prompt;
pub mod recovery;
#[cfg(feature = "mount")]
pub mod run;
mod secret_stores;
mod shell;
pub mod speed;
mod spellings;
#[cfg(feature = "mount")]
pub mod status;
#[cfg(feature = "mount")]
pub mod umount;
pub mod vault_args;
mod vault_failure;

use std::ffi::OsString;
use std::process;

use clap::Parser as _;
use tracing_subscriber::filter::LevelFilter;

use args::{Cli, GlobalArgs};
use exit_code::ExitCode;
use output::Output;

/// What every command is given.
#[derive(Debug)]
pub struct Context {
    /// Where its output goes.
    pub output: Output,
    /// The options that all commands take.
    pub global: GlobalArgs,
}

/// Parses the arguments, runs the command and returns its exit code.
pub fn main() -> process::ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    #[cfg(feature = "mount")]
    if let Some(asked) = mount_helper::asked(&arguments) {
        return match asked {
            mount_helper::Asked::Nothing => process::ExitCode::SUCCESS,
            mount_helper::Asked::Run(arguments) => run(arguments).into(),
        };
    }
    run(arguments).into()
}

fn run(arguments: Vec<OsString>) -> u8 {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version come this way, too, and go to standard output.
            let _ = error.print();
            if let Some(hint) = spellings::instead(&error) {
                output::hint(&hint);
            }
            let code = if error.use_stderr() { ExitCode::Usage } else { ExitCode::Success };
            return code.number();
        }
    };
    protect_memory();
    let output = Output::new(&cli.global, cli.command.is_daemon());
    let context = Context { output, global: cli.global };
    let result = cli.command.run(&context);
    output::finish(&context.output, cli.command.name(), result)
}

/// How much the library's log says for the options given.
pub fn log_level(global: &GlobalArgs) -> LevelFilter {
    match (global.quiet, global.verbose) {
        (true, _) => LevelFilter::ERROR,
        (false, 0) => LevelFilter::WARN,
        (false, 1) => LevelFilter::INFO,
        (false, _) => LevelFilter::DEBUG,
    }
}

/// Keeps what is in memory, secrets among it, out of core dumps and away from other processes of
/// the same user. What this process starts may have core dumps again if it asks for them.
fn protect_memory() {
    use rustix::process::{
        DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit,
    };
    let none = Rlimit { current: Some(0), maximum: getrlimit(Resource::Core).maximum };
    // Nothing is lost where the system refuses, but this further protection.
    let _ = setrlimit(Resource::Core, none);
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
}
