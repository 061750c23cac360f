//! `strongroom man`: the manual pages, made of the same text as `--help`. For packagers.

use std::fs;
use std::path::PathBuf;

use clap::CommandFactory as _;
use serde_json::json;

use super::Context;
use super::args::Cli;
use super::failure::{CommandResult, Failure};

/// Arguments of `man`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The directory that the pages are written to.
    directory: PathBuf,
}

/// Writes a page for each command.
pub fn run(args: &Args, context: &Context) -> CommandResult {
    let failed = |error| Failure::io("write to", &args.directory, &error);
    fs::create_dir_all(&args.directory).map_err(failed)?;
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    let mut pending = vec![command];
    let mut pages = 0;
    while let Some(command) = pending.pop() {
        let name = command.get_display_name().unwrap_or(command.get_name()).to_owned();
        let mut page = Vec::new();
        clap_mangen::Man::new(command.clone().name(name.clone()))
            .title(name.to_uppercase())
            .manual("strongroom")
            .render(&mut page)
            .map_err(failed)?;
        fs::write(args.directory.join(format!("{name}.1")), page).map_err(failed)?;
        pages += 1;
        pending.extend(command.get_subcommands().filter(|sub| !sub.is_hide_set()).cloned());
    }
    context.output.result("man", &json!({ "pages": pages }));
    Ok(())
}
