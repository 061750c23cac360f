//! How the command line reports what a vault's setup can fail with.

use super::exit_code::ExitCode;
use super::failure::{Failure, similar_path};
use crate::format::config::ConfigError;
use crate::vault::VaultError;

impl From<VaultError> for Failure {
    fn from(error: VaultError) -> Self {
        let code = match &error {
            VaultError::NotAVault { .. } => ExitCode::NotAVault,
            VaultError::AlreadyAVault { .. } | VaultError::NotEmpty { .. } => {
                ExitCode::AlreadyExists
            }
            VaultError::Config { error, .. } => config_code(error),
            VaultError::ConfigInUse { .. } => ExitCode::VaultInUse,
            VaultError::WrongSecret { .. } | VaultError::NoSuchSlotKind { .. } => {
                ExitCode::WrongSecret
            }
            VaultError::NoSuchSlot { .. }
            | VaultError::OtherSlotKind { .. }
            | VaultError::LastSlot { .. }
            | VaultError::NoFreeSlot => ExitCode::KeySlot,
            VaultError::NoSlots | VaultError::Label => ExitCode::Usage,
            VaultError::Kdf(_) => ExitCode::Failure,
            VaultError::Io { action, path, error } => return Self::io(action, path, error),
        };
        let failure = Self::new(code, error.to_string());
        if let VaultError::NotAVault { path, .. } = &error
            && let Some(similar) = similar_path(path)
        {
            return failure.hint(format!("did you mean {}?", similar.display()));
        }
        match error.hint() {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}

fn config_code(error: &ConfigError) -> ExitCode {
    match error {
        ConfigError::Truncated | ConfigError::Malformed { .. } | ConfigError::TooLarge => {
            ExitCode::ConfigDamaged
        }
        ConfigError::UnsupportedVersion { .. }
        | ConfigError::UnknownFeature { .. }
        | ConfigError::UnsupportedCipher { .. } => ExitCode::UnsupportedVersion,
        ConfigError::ParametersOutOfBounds { .. } | ConfigError::Checksum | ConfigError::Forged => {
            ExitCode::ConfigAltered
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::format::config::SlotKind;

    #[test]
    fn damage_forgery_and_a_wrong_secret_have_codes_of_their_own() {
        let config = |error| VaultError::Config {
            path: PathBuf::from("vault.json"),
            error,
            whole_copy: None,
        };
        let codes = [
            config(ConfigError::Truncated),
            config(ConfigError::Forged),
            config(ConfigError::UnsupportedVersion { version: 2 }),
            VaultError::WrongSecret { kind: SlotKind::Passphrase },
            VaultError::NotAVault { path: PathBuf::from("x"), reason: "it does not exist" },
        ]
        .map(|error| Failure::from(error).code);
        assert_eq!(
            codes,
            [
                ExitCode::ConfigDamaged,
                ExitCode::ConfigAltered,
                ExitCode::UnsupportedVersion,
                ExitCode::WrongSecret,
                ExitCode::NotAVault,
            ]
        );
    }
}
