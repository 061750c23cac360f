//! `strongroom info`.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::Context;
use super::failure::CommandResult;
use super::key::{describe_slot, human_date, slot_lines};
use super::vault_args::ConfigArgs;

const EXAMPLES: &str = "\
Examples:
  strongroom info ~/vault
  strongroom info ~/vault --json

What is shown was not checked for being authentic: that takes a secret, and happens when the vault
is opened.";

/// Arguments of `info`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The vault.
    vault: PathBuf,
    #[command(flatten)]
    config: ConfigArgs,
}

/// The version of the format that this program writes.
const FORMAT_VERSION: u32 = 1;

/// Shows what a vault tells without a secret.
pub fn run(args: &Args, context: &Context) -> CommandResult {
    let vault = args.config.open(&args.vault, context)?;
    let config = vault.unverified_config();
    let mount_points = mount_points(&args.vault);
    let output = &context.output;
    let list = |features: &[String]| match features {
        [] => "none".to_owned(),
        features => features.join(", "),
    };
    output.print(format!("Vault           {}", args.vault.display()));
    output.print(format!("ID              {}", config.vault_id));
    output.print(format!("Format          version {FORMAT_VERSION}"));
    output.print(format!("Made            {}", human_date(config.created)));
    output.print(format!("Configuration   {}", vault.config_path().display()));
    output.print(format!("Needs           {}", list(&config.required_features)));
    output.print(format!("May use         {}", list(&config.optional_features)));
    if mount_points.is_empty() {
        output.print("Mounted         no");
    }
    for mount_point in &mount_points {
        output.print(format!("Mounted         on {mount_point}"));
    }
    output.print("Key slots");
    for line in slot_lines(config) {
        output.print(format!("  {line}"));
    }
    output.result(
        "info",
        &json!({
            "vault": args.vault.display().to_string(),
            "id": config.vault_id.to_string(),
            "format_version": FORMAT_VERSION,
            "created": config.created,
            "config": vault.config_path().display().to_string(),
            "required_features": config.required_features,
            "optional_features": config.optional_features,
            "mount_points": mount_points,
            "slots": config.slots.iter().map(describe_slot).collect::<Vec<_>>(),
            "authenticated": false,
        }),
    );
    Ok(())
}

#[cfg(feature = "mount")]
fn mount_points(vault: &Path) -> Vec<String> {
    let mounts = super::mounted::mounts_of(vault);
    mounts.iter().map(|mount| mount.mount_point.display().to_string()).collect()
}

#[cfg(not(feature = "mount"))]
fn mount_points(_vault: &Path) -> Vec<String> {
    Vec::new()
}
