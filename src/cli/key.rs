//! `strongroom key list|add|remove|change|recovery|store|forget`.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use clap::Subcommand;
use serde_json::{Value, json};

use super::Context;
use super::exit_code::ExitCode;
use super::failure::{CommandResult, Failure};
use super::init::CostArgs;
use super::prompt::{NewSecretArgs, SecretArgs, confirm};
use super::recovery::RecoveryOutput;
use super::vault_args::{ConfigArgs, unlock};
use crate::crypto::{KeyFile, RecoveryKey, Secret};
use crate::format::config::{Config, Derivation, KeySlot, SlotId};
use crate::vault::{NewSlot, Unlocked, Vault};

const EXAMPLES: &str = "\
Examples:
  strongroom key list ~/vault
  strongroom key add ~/vault --label laptop
      asks for a passphrase that opens the vault, then for the new one
  strongroom key add ~/vault --generate-key-file /root/vault.key --label server
  strongroom key change ~/vault
      puts a new passphrase in place of the one given
  strongroom key remove ~/vault 2
  strongroom key recovery ~/vault
      makes a new recovery key; the old one opens the vault no longer
  strongroom key store ~/vault keyring --timeout 8h
      from then on `mount --keyring` asks for nothing

Removing or changing a slot does not revoke what somebody copied before: with an old copy of
vault.json and the old secret the vault still opens.";

/// Arguments of `key`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, arg_required_else_help = true)]
pub struct Args {
    #[command(subcommand)]
    command: KeyCommand,
}

#[derive(Debug, Subcommand)]
enum KeyCommand {
    /// List the key slots; needs no secret.
    List(ListArgs),
    /// Add a key slot.
    Add(AddArgs),
    /// Remove a key slot.
    Remove(RemoveArgs),
    /// Put a new secret of the same kind into a key slot.
    Change(ChangeArgs),
    /// Make a new recovery key, in place of any old one.
    Recovery(RecoveryArgs),
    /// Let the keyring or the desktop keep a passphrase.
    Store(super::key_store::StoreArgs),
    /// Take it away from there.
    Forget(super::key_store::ForgetArgs),
}

#[derive(Debug, clap::Args)]
struct ListArgs {
    /// The vault.
    vault: PathBuf,
    #[command(flatten)]
    config: ConfigArgs,
}

#[derive(Debug, clap::Args)]
struct AddArgs {
    /// The vault.
    vault: PathBuf,
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    secret: SecretArgs,
    #[command(flatten)]
    new_secret: NewSecretArgs,
    /// Make a new key file FILE, which must not exist, with random content.
    #[arg(long, value_name = "FILE", group = "new-secret", help_heading = "New secret")]
    generate_key_file: Option<PathBuf>,
    /// What the slot is called.
    #[arg(long, value_name = "TEXT", default_value = "")]
    label: String,
    #[command(flatten)]
    cost: CostArgs,
}

#[derive(Debug, clap::Args)]
struct RemoveArgs {
    /// The vault.
    vault: PathBuf,
    /// The number of the slot, as `key list` shows it.
    slot: u32,
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    secret: SecretArgs,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
}

#[derive(Debug, clap::Args)]
struct ChangeArgs {
    /// The vault.
    vault: PathBuf,
    /// The number of the slot; without it, the one that the secret opens.
    slot: Option<u32>,
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    secret: SecretArgs,
    #[command(flatten)]
    new_secret: NewSecretArgs,
    /// What the slot is called from now on.
    #[arg(long, value_name = "TEXT", default_value = "")]
    label: String,
    #[command(flatten)]
    cost: CostArgs,
}

#[derive(Debug, clap::Args)]
struct RecoveryArgs {
    /// The vault.
    vault: PathBuf,
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    secret: SecretArgs,
    #[command(flatten)]
    recovery: RecoveryOutput,
}

impl Args {
    /// The name, as results give it.
    pub const fn name(&self) -> &'static str {
        match self.command {
            KeyCommand::List(_) => "key list",
            KeyCommand::Add(_) => "key add",
            KeyCommand::Remove(_) => "key remove",
            KeyCommand::Change(_) => "key change",
            KeyCommand::Recovery(_) => "key recovery",
            KeyCommand::Store(_) => "key store",
            KeyCommand::Forget(_) => "key forget",
        }
    }
}

/// Runs one of them.
pub fn run(args: &Args, context: &Context) -> CommandResult {
    match &args.command {
        KeyCommand::List(args) => list(args, context),
        KeyCommand::Add(args) => add(args, context),
        KeyCommand::Remove(args) => remove(args, context),
        KeyCommand::Change(args) => change(args, context),
        KeyCommand::Recovery(args) => recovery(args, context),
        KeyCommand::Store(args) => super::key_store::store(args, context),
        KeyCommand::Forget(args) => super::key_store::forget(args, context),
    }
}

fn list(args: &ListArgs, context: &Context) -> CommandResult {
    let vault = args.config.open(&args.vault, context)?;
    let config = vault.unverified_config();
    for line in slot_lines(config) {
        context.output.print(line);
    }
    let slots: Vec<Value> = config.slots.iter().map(describe_slot).collect();
    context.output.result("key list", &json!({ "slots": slots, "authenticated": false }));
    Ok(())
}

fn add(args: &AddArgs, context: &Context) -> CommandResult {
    let cost = args.cost.cost()?;
    let mut vault = opened(&args.vault, &args.config, &args.secret, context)?;
    let subject = format!("the vault {}", args.vault.display());
    let secret = match &args.generate_key_file {
        Some(path) => generate_key_file(path)?,
        None => args.new_secret.obtain(&subject, &context.output)?,
    };
    let added = vault.add_slot(&NewSlot { secret: &secret, label: &args.label, cost });
    let slot = added.inspect_err(|_| {
        if let Some(path) = &args.generate_key_file {
            let _ = std::fs::remove_file(path);
        }
    })?;
    context.output.say(format!("Added key slot {slot}."));
    context.output.result("key add", &json!({ "slot": slot.0 }));
    Ok(())
}

fn remove(args: &RemoveArgs, context: &Context) -> CommandResult {
    let slot = SlotId(args.slot);
    let mut vault = opened(&args.vault, &args.config, &args.secret, context)?;
    if vault.config().slot(slot).is_some() && vault.config().slots.len() > 1 {
        let warning = if vault.opens_without_key_file(slot) {
            ""
        } else {
            " Only key files will open the vault then: whoever loses them loses the data."
        };
        confirm(&format!("Remove key slot {slot}?{warning}"), args.yes)?;
    }
    vault.remove_slot(slot)?;
    context.output.say(format!("Removed key slot {slot}."));
    context.output.result("key remove", &json!({ "slot": slot.0 }));
    Ok(())
}

fn change(args: &ChangeArgs, context: &Context) -> CommandResult {
    let cost = args.cost.cost()?;
    let mut vault = opened(&args.vault, &args.config, &args.secret, context)?;
    let slot = args.slot.map_or(vault.unlocked_by(), SlotId);
    let subject = format!("key slot {slot} of the vault {}", args.vault.display());
    let secret = args.new_secret.obtain(&subject, &context.output)?;
    vault.change_slot(slot, &NewSlot { secret: &secret, label: &args.label, cost })?;
    context.output.say(format!("Changed key slot {slot}."));
    context.output.result("key change", &json!({ "slot": slot.0 }));
    Ok(())
}

fn recovery(args: &RecoveryArgs, context: &Context) -> CommandResult {
    if !args.recovery.has_place(context) {
        return Err(Failure::new(
            ExitCode::Usage,
            "without a terminal the recovery key has no place to go",
        )
        .hint("give --recovery-key-out FILE"));
    }
    let mut vault = opened(&args.vault, &args.config, &args.secret, context)?;
    let key = RecoveryKey::generate();
    let described = args.recovery.describe(&key);
    // First the owner, then the vault: in between, the old one still opens it.
    args.recovery.give(&key, context)?;
    let slot = vault.replace_recovery_key(key).inspect_err(|_| args.recovery.take_back())?;
    context.output.say(format!("The new recovery key is in key slot {slot}."));
    context.output.result("key recovery", &json!({ "slot": slot.0, "recovery_key": described }));
    Ok(())
}

fn opened(
    path: &Path,
    config: &ConfigArgs,
    secret: &SecretArgs,
    context: &Context,
) -> Result<Vault<Unlocked>, Failure> {
    unlock(&config.open(path, context)?, secret, context)
}

fn generate_key_file(path: &Path) -> Result<Secret, Failure> {
    let content = KeyFile::generate_content();
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::AlreadyExists => Failure::new(
            ExitCode::AlreadyExists,
            format!("{} exists; a key file overwrites nothing", path.display()),
        ),
        _ => Failure::io("write the key file", path, &error),
    };
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    file.write_all(&content).and_then(|()| file.sync_all()).map_err(failed)?;
    let key_file = KeyFile::new(content)
        .map_err(|error| Failure::new(ExitCode::Failure, error.to_string()))?;
    Ok(Secret::KeyFile(key_file))
}

/// A slot, as JSON.
pub(super) fn describe_slot(slot: &KeySlot) -> Value {
    let parameters = &slot.parameters;
    let cost = match parameters.derivation {
        Derivation::Passphrase(cost) => json!({
            "algorithm": "argon2id",
            "memory_kib": cost.memory_kib(),
            "iterations": cost.iterations(),
            "lanes": cost.lanes(),
        }),
        Derivation::KeyFile | Derivation::RecoveryKey => json!({ "algorithm": "hkdf-sha256" }),
    };
    json!({
        "slot": parameters.id.0,
        "kind": parameters.derivation.kind().name(),
        "label": parameters.label,
        "created": parameters.created,
        "derivation": cost,
    })
}

/// The slots, for people.
pub(super) fn slot_lines(config: &Config) -> Vec<String> {
    config
        .slots
        .iter()
        .map(|slot| {
            let parameters = &slot.parameters;
            let kind = parameters.derivation.kind().name();
            let made = human_date(parameters.created);
            let cost = match parameters.derivation {
                Derivation::Passphrase(cost) => format!(
                    "argon2id, {} MiB, {} passes",
                    cost.memory_kib() / 1024,
                    cost.iterations()
                ),
                Derivation::KeyFile | Derivation::RecoveryKey => String::new(),
            };
            let line = format!(
                "{:>2}  {kind:<12}  {made}  {:<20}  {cost}",
                parameters.id.0, parameters.label
            );
            line.trim_end().to_owned()
        })
        .collect()
}

/// A date, in this machine's time zone.
pub(super) fn human_date(seconds: u64) -> String {
    i64::try_from(seconds)
        .ok()
        .and_then(|seconds| jiff::Timestamp::from_second(seconds).ok())
        .map_or_else(
            || "unknown".to_owned(),
            |time| {
                time.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M").to_string()
            },
        )
}
