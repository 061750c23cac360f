//! `strongroom init`.

use std::fs;
use std::path::PathBuf;

use serde_json::json;

use super::Context;
use super::exit_code::ExitCode;
use super::failure::{CommandResult, Failure};
use super::prompt::SecretArgs;
use super::recovery::RecoveryOutput;
use super::shell::quote_path;
use super::vault_args::ConfigArgs;
use crate::crypto::{Argon2Parameters, RecoveryKey, Secret};
use crate::vault::{NewSlot, Vault};

const EXAMPLES: &str = "\
Examples:
  strongroom init ~/vault
      asks for a passphrase, shows a recovery key
  strongroom init /srv/vault --passphrase-file /run/secret --recovery-key-out /mnt/usb/recovery
      for scripts; the recovery key's words go to a file
  strongroom init /srv/vault --key-file vault.key --no-recovery-key
      whoever loses the key file loses the data

Then: strongroom mount VAULT MOUNTPOINT";

/// Arguments of `init`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The vault to make: a directory that is empty or does not exist yet.
    vault: PathBuf,
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    secret: SecretArgs,
    #[command(flatten)]
    recovery: RecoveryOutput,
    /// Make no recovery key.
    #[arg(long, conflicts_with = "recovery_key_out", help_heading = "Recovery key")]
    no_recovery_key: bool,
    /// What the first key slot is called.
    #[arg(long, value_name = "TEXT", default_value = "")]
    label: String,
    #[command(flatten)]
    cost: CostArgs,
}

/// What trying a passphrase shall cost.
#[derive(Clone, Debug, clap::Args)]
pub struct CostArgs {
    /// Memory that trying a passphrase takes, in MiB (64 to 1024). Without this and
    /// --kdf-iterations, trying one takes this machine about a second.
    #[arg(long, value_name = "MIB", requires = "kdf_iterations", help_heading = "Passphrase cost")]
    pub kdf_memory: Option<u32>,
    /// Passes over that memory.
    #[arg(long, value_name = "N", requires = "kdf_memory", help_heading = "Passphrase cost")]
    pub kdf_iterations: Option<u32>,
}

impl CostArgs {
    /// The cost asked for, if any was.
    ///
    /// # Errors
    /// It is out of bounds.
    pub fn cost(&self) -> Result<Option<Argon2Parameters>, Failure> {
        let (Some(memory), Some(iterations)) = (self.kdf_memory, self.kdf_iterations) else {
            return Ok(None);
        };
        Argon2Parameters::new(memory.saturating_mul(1024), iterations, 1)
            .map(Some)
            .map_err(|error| Failure::new(ExitCode::Usage, error.to_string()))
    }
}

/// Makes a vault.
pub fn run(args: &Args, context: &Context) -> CommandResult {
    let path = &args.vault;
    let cost = args.cost.cost()?;
    if !args.no_recovery_key && !args.recovery.has_place(context) {
        return Err(Failure::new(
            ExitCode::Usage,
            "without a terminal the recovery key has no place to go",
        )
        .hint("give --recovery-key-out FILE, or --no-recovery-key to do without one"));
    }
    if args.secret.recovery_key || args.secret.recovery_key_file.is_some() {
        return Err(Failure::new(
            ExitCode::Usage,
            "a vault is made with a passphrase or a key file; its recovery key is made for you",
        ));
    }
    // Before anybody is asked for anything.
    if fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some()) {
        let failure = match Vault::open(path, args.config.config.as_deref()) {
            Ok(_) => crate::vault::VaultError::AlreadyAVault { path: path.clone() },
            Err(_) => crate::vault::VaultError::NotEmpty { path: path.clone() },
        };
        return Err(failure.into());
    }
    let subject = format!("the vault {}", path.display());
    let secret = args.secret.obtain_new(&subject, &context.output)?;
    let recovery = (!args.no_recovery_key).then(RecoveryKey::generate);
    let described = recovery.as_ref().map(|key| args.recovery.describe(key));
    if let Some(key) = &recovery
        && args.recovery.recovery_key_out.is_some()
    {
        // First: a vault whose recovery key nobody got would be a trap.
        args.recovery.give(key, context)?;
    }
    let (vault, recovery) = match create(args, &secret, recovery, cost) {
        Ok(made) => made,
        Err(failure) => {
            args.recovery.take_back();
            return Err(failure);
        }
    };
    if let Some(Secret::RecoveryKey(key)) = &recovery
        && args.recovery.recovery_key_out.is_none()
    {
        args.recovery.give(key, context)?;
    }
    context.output.say(format!("Made the vault {}.", path.display()));
    if args.no_recovery_key {
        context.output.say("It has no recovery key: whoever loses its secret loses the data.");
    }
    context.output.say(format!("Open it: strongroom mount {} MOUNTPOINT", quote_path(path)));
    context.output.result(
        "init",
        &json!({
            "vault": path.display().to_string(),
            "config": vault.config_path().display().to_string(),
            "id": vault.config().vault_id.to_string(),
            "recovery_key": described,
        }),
    );
    Ok(())
}

fn create(
    args: &Args,
    secret: &Secret,
    recovery: Option<RecoveryKey>,
    cost: Option<Argon2Parameters>,
) -> Result<(Vault<crate::vault::Unlocked>, Option<Secret>), Failure> {
    let recovery = recovery.map(Secret::RecoveryKey);
    let mut slots = vec![NewSlot { secret, label: &args.label, cost }];
    slots.extend(recovery.iter().map(|secret| NewSlot { secret, label: "", cost: None }));
    let vault = Vault::create(&args.vault, args.config.config.as_deref(), &slots)?;
    Ok((vault, recovery))
}
