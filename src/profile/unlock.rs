//! Owns how an app's vault is unlocked without anybody being asked.

use std::path::PathBuf;

use serde::Serialize;

use super::Command;

/// Where the secret comes from. The profile holds no secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unlock {
    /// A key file.
    KeyFile(PathBuf),
    /// A file with a passphrase.
    PassphraseFile(PathBuf),
    /// The output of a command.
    PassphraseCommand(Command),
    /// The kernel's keyring, by the key's name; empty for the name that the vault's ID makes.
    Keyring(String),
    /// The desktop's Secret Service.
    SecretService(bool),
}
