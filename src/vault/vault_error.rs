//! What creating, opening and unlocking a vault, and changing its key slots, can fail with.

use std::io;
use std::path::PathBuf;

use crate::crypto::KdfError;
use crate::format::config::{ConfigError, MAX_LABEL_LEN, MAX_SLOTS, SlotId, SlotKind};

/// Why a vault was not created, opened, unlocked or changed. Each means that the vault is as it
/// was before.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// There is no vault at that path.
    #[error("{} is not a vault: {reason}", path.display())]
    NotAVault {
        /// Where one was looked for.
        path: PathBuf,
        /// What is missing.
        reason: &'static str,
    },
    /// A vault was to be created where one is.
    #[error("{} is a vault already; nothing was changed", path.display())]
    AlreadyAVault {
        /// Where.
        path: PathBuf,
    },
    /// A vault was to be created where other files are.
    #[error("{} is not empty; nothing was changed", path.display())]
    NotEmpty {
        /// Where.
        path: PathBuf,
    },
    /// The configuration cannot be used. The encrypted files are not touched.
    #[error("cannot use the configuration {}: {error}; the vault was not touched", path.display())]
    Config {
        /// The copy that was read.
        path: PathBuf,
        /// What is wrong with it.
        error: ConfigError,
        /// The other copy, where it is whole.
        whole_copy: Option<PathBuf>,
    },
    /// Another process is changing the configuration.
    #[error("another process is changing {}: {owner}", path.display())]
    ConfigInUse {
        /// The configuration.
        path: PathBuf,
        /// What that process tells of itself.
        owner: String,
    },
    /// The secret opens no slot.
    #[error("the {kind} opens no key slot of the vault")]
    WrongSecret {
        /// The kind of secret.
        kind: SlotKind,
    },
    /// No slot takes that kind of secret.
    #[error("the vault has no key slot for a {kind}")]
    NoSuchSlotKind {
        /// The kind of secret.
        kind: SlotKind,
    },
    /// There is no slot with that ID.
    #[error("the vault has no key slot {slot}")]
    NoSuchSlot {
        /// The ID.
        slot: SlotId,
    },
    /// The slot takes another kind of secret.
    #[error("key slot {slot} is for a {found}, not for a {wanted}")]
    OtherSlotKind {
        /// The slot.
        slot: SlotId,
        /// The kind that it has.
        found: SlotKind,
        /// The kind that was to be put into it.
        wanted: SlotKind,
    },
    /// Without the slot nothing could open the vault any more.
    #[error("key slot {slot} is the last; without it nobody could open the vault")]
    LastSlot {
        /// The slot.
        slot: SlotId,
    },
    /// All the slots are taken.
    #[error("all {MAX_SLOTS} key slots are taken")]
    NoFreeSlot,
    /// A vault was to be created that nothing could open.
    #[error("a vault needs at least one key slot")]
    NoSlots,
    /// The label cannot be stored.
    #[error("a label has at most {MAX_LABEL_LEN} bytes and no control characters")]
    Label,
    /// The key could not be derived.
    #[error(transparent)]
    Kdf(#[from] KdfError),
    /// The operating system failed.
    #[error("cannot {action} {}: {error}", path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// How it failed.
        #[source]
        error: io::Error,
    },
}

impl VaultError {
    /// What to do next, where that is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotAVault { .. } => Some(
                "make a vault with `strongroom init`; if its configuration lies elsewhere, name \
                 it with --config"
                    .to_owned(),
            ),
            Self::AlreadyAVault { .. } | Self::NotEmpty { .. } => {
                Some("name a directory that is empty or does not exist".to_owned())
            }
            Self::Config {
                error: ConfigError::UnsupportedVersion { .. } | ConfigError::UnknownFeature { .. },
                ..
            } => Some("use a newer version of strongroom".to_owned()),
            Self::Config { whole_copy: Some(copy), .. } => Some(format!(
                "the second copy {} is whole; if you trust it, put it in place of the first",
                copy.display()
            )),
            Self::Config { .. } => {
                Some("restore the configuration from a backup of the vault".to_owned())
            }
            Self::WrongSecret { kind: SlotKind::Passphrase } => Some(
                "check the keyboard layout and Caps Lock; a recovery key opens it too".to_owned(),
            ),
            Self::NoSuchSlotKind { .. } | Self::NoSuchSlot { .. } | Self::OtherSlotKind { .. } => {
                Some("`strongroom key list` shows the key slots".to_owned())
            }
            Self::LastSlot { .. } => Some("add another key slot first".to_owned()),
            Self::NoFreeSlot => Some("remove one that is not needed any more".to_owned()),
            Self::Kdf(KdfError::OutOfMemory { .. }) => Some(
                "end other programs, or open the vault on a machine with more memory".to_owned(),
            ),
            Self::Kdf(KdfError::OutOfBounds { .. })
            | Self::ConfigInUse { .. }
            | Self::WrongSecret { .. }
            | Self::NoSlots
            | Self::Label
            | Self::Io { .. } => None,
        }
    }
}
