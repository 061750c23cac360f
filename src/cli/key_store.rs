//! `strongroom key store|forget`.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;

use super::Context;
use super::exit_code::ExitCode;
use super::failure::{CommandResult, Failure};
use super::prompt::SecretArgs;
use super::secret_stores::Store;
use super::vault_args::ConfigArgs;
use crate::profile::duration;

/// Arguments of `key store`.
#[derive(Debug, clap::Args)]
pub struct StoreArgs {
    /// The vault.
    vault: PathBuf,
    /// Who keeps the passphrase.
    store: Store,
    /// Forget it after TIME, such as 30m or 8h (keyring only).
    #[arg(long, value_name = "TIME", value_parser = duration)]
    timeout: Option<Duration>,
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    secret: SecretArgs,
}

/// Arguments of `key forget`.
#[derive(Debug, clap::Args)]
pub struct ForgetArgs {
    /// The vault.
    vault: PathBuf,
    /// Who kept the passphrase.
    store: Store,
    #[command(flatten)]
    config: ConfigArgs,
}

/// Puts a passphrase there that opens the vault.
pub(super) fn store(args: &StoreArgs, context: &Context) -> CommandResult {
    if args.timeout.is_some() && args.store != Store::Keyring {
        return Err(Failure::new(ExitCode::Usage, "only the keyring forgets after a time"));
    }
    let vault = args.config.open(&args.vault, context)?;
    let id = vault.unverified_config().vault_id.to_string();
    let place = vault.path().display().to_string();
    let subject = format!("the vault {place}");
    let (secret, bytes) = args.secret.obtain_passphrase(&subject, &id, &context.output)?;
    // What opens nothing is not worth keeping.
    vault.unlock(&secret)?;
    args.store.keep(&id, &place, &bytes, args.timeout)?;
    context.output.say(format!(
        "Kept by {}; take it with {}.",
        args.store.noun(),
        args.store.option()
    ));
    context.output.result("key store", &json!({ "vault": place, "id": id }));
    Ok(())
}

/// Takes it away from there.
pub(super) fn forget(args: &ForgetArgs, context: &Context) -> CommandResult {
    let vault = args.config.open(&args.vault, context)?;
    let id = vault.unverified_config().vault_id.to_string();
    let forgotten = args.store.forget(&id)?;
    context.output.say(if forgotten {
        format!("Forgotten by {}.", args.store.noun())
    } else {
        format!("There was none in {}.", args.store.noun())
    });
    context.output.result("key forget", &json!({ "id": id, "forgotten": forgotten }));
    Ok(())
}
