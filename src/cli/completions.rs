//! `strongroom completions SHELL`.

use super::Context;
use super::args::write_completions;
use super::failure::CommandResult;

const EXAMPLES: &str = "\
Examples:
  strongroom completions bash > ~/.local/share/bash-completion/completions/strongroom
  strongroom completions zsh > ~/.zfunc/_strongroom
  strongroom completions fish > ~/.config/fish/completions/strongroom.fish";

/// Arguments of `completions`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The shell.
    shell: clap_complete::Shell,
}

/// Writes the script to standard output.
pub fn run(args: &Args, context: &Context) -> CommandResult {
    let mut script = Vec::new();
    write_completions(args.shell, &mut script);
    let script = String::from_utf8_lossy(&script).into_owned();
    context.output.print(script.trim_end());
    context.output.result("completions", &serde_json::json!({ "script": script }));
    Ok(())
}
