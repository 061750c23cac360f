//! Arguments that name a vault and the secret that opens it, and opening it with them.

use std::path::{Path, PathBuf};

use super::Context;
use super::exit_code::ExitCode;
use super::failure::Failure;
use super::prompt::SecretArgs;
use crate::vault::{Locked, Unlocked, Vault, VaultError};

/// How often a passphrase may be typed wrongly.
const TRIES: u32 = 3;

/// Where the vault's configuration lies, where not in the vault.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct ConfigArgs {
    /// The vault's configuration, where it is kept apart from the vault.
    #[arg(long = "config", visible_alias = "vault-config", value_name = "FILE")]
    pub config: Option<PathBuf>,
}

impl ConfigArgs {
    /// The vault at `path`, still locked. Warns where the second copy of its configuration had to
    /// be used.
    ///
    /// # Errors
    /// There is no vault, or its configuration cannot be used.
    pub fn open(&self, path: &Path, context: &Context) -> Result<Vault<Locked>, Failure> {
        let vault = Vault::open(path, self.config.as_deref())?;
        if let Some(error) = vault.fallback() {
            context.output.warn(format!(
                "the first copy of the vault's configuration cannot be read ({error}); the second \
                 was used",
            ));
        }
        Ok(vault)
    }
}

/// Unlocks `vault` with the secret that `args` give. What is typed may be mistyped twice.
///
/// # Errors
/// No secret, a wrong one, or a forged configuration.
pub fn unlock(
    vault: &Vault<Locked>,
    args: &SecretArgs,
    context: &Context,
) -> Result<Vault<Unlocked>, Failure> {
    let subject = format!("the vault {}", vault.path().display());
    let id = vault.unverified_config().vault_id.to_string();
    let mut left = if args.is_typed() { TRIES } else { 1 };
    loop {
        left -= 1;
        let secret = match args.obtain(&subject, Some(&id), &context.output) {
            Ok(secret) => secret,
            Err(failure) if left > 0 && failure.code == ExitCode::WrongSecret => {
                context.output.warn(failure.message);
                continue;
            }
            Err(failure) => return Err(failure),
        };
        match vault.unlock(&secret) {
            Ok(vault) => return Ok(vault),
            Err(error @ VaultError::WrongSecret { .. }) if left > 0 => {
                context.output.warn(format!("{error}; try again"));
            }
            Err(error) => return Err(error.into()),
        }
    }
}
