//! The configuration of a vault, `vault.json`: what it holds, and how every field of it is bound.
//!
//! Three things protect the public fields, all over the same canonical bytes (below), never over
//! the JSON text:
//!
//! - the *binding*: SHA-256 of what never changes in a vault and of the slot's own parameters, in
//!   the associated data of that slot's wrapped key. It leaves out the other slots, so that a
//!   slot can be added with no secret but its own and one other;
//! - the *MAC*: HMAC-SHA256 under [`ConfigKey`] of everything, the list of slots included;
//! - the *checksum*: SHA-256 of everything. It needs no key and stops no forger; it tells damage
//!   and careless edits from a wrong secret, before any secret is asked for.
//!
//! Canonical bytes: a sequence of fields, each its length (4 bytes, little-endian) and its bytes.
//! Numbers are fields of 8 bytes, little-endian; a list is its count and then its elements.

use crate::crypto::{
    Argon2Parameters, ConfigKey, HASH_LEN, KdfError, KeyEncryptionKey, MAC_LEN, MasterKey,
    SALT_LEN, Secret, UnwrapError, WrappedKey, random_array, sha256,
};

mod json;
#[cfg(test)]
mod tests;

/// The version of the format that this program writes, and the newest that it reads.
pub const FORMAT_VERSION: u64 = 1;
/// Longest configuration in bytes.
pub const MAX_CONFIG_LEN: usize = 1024 * 1024;
/// Most key slots.
pub const MAX_SLOTS: usize = 32;
/// Longest label of a key slot in bytes.
pub const MAX_LABEL_LEN: usize = 128;
/// Most feature flags of each kind.
pub const MAX_FEATURES: usize = 32;
/// Longest feature flag in bytes.
pub const MAX_FEATURE_LEN: usize = 64;
/// Bytes of a vault ID.
pub const VAULT_ID_LEN: usize = 16;

/// The required features that this program knows. Version 1 has none.
const KNOWN_FEATURES: &[&str] = &[];
/// What version 1 encrypts with: role and cipher, in canonical order.
const CIPHERS: [(&str, &str); 3] =
    [("content", "aes-256-gcm-siv"), ("names", "aes-256-gcm-siv"), ("keys", "hkdf-sha256")];

/// Why bytes are not a configuration that this program can use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// It ends too early.
    #[error("it is cut short")]
    Truncated,
    /// It is not the JSON of a configuration.
    #[error("it is not a vault configuration: {reason}")]
    Malformed {
        /// What is wrong, and where.
        reason: String,
    },
    /// It is longer than [`MAX_CONFIG_LEN`].
    #[error("it is longer than {MAX_CONFIG_LEN} bytes")]
    TooLarge,
    /// It is of a later version of the format.
    #[error("it is of format version {version}; this program reads version {FORMAT_VERSION}")]
    UnsupportedVersion {
        /// The version it names.
        version: u64,
    },
    /// It needs a feature that this program has not.
    #[error("it needs the feature \"{feature}\", which this program does not know")]
    UnknownFeature {
        /// The feature.
        feature: String,
    },
    /// It names ciphers that this program has not.
    #[error("it wants the cipher \"{cipher}\" for {role}, which this program does not know")]
    UnsupportedCipher {
        /// What the cipher is for.
        role: &'static str,
        /// The cipher.
        cipher: String,
    },
    /// Parameters that would harm whoever opens the vault.
    #[error("key slot {slot}: {error}")]
    ParametersOutOfBounds {
        /// The slot.
        slot: SlotId,
        /// Which parameters.
        error: KdfError,
    },
    /// Its content and its checksum do not belong together.
    #[error("it was altered or damaged: its checksum does not fit")]
    Checksum,
    /// It is not what the owner of the master key wrote.
    #[error("it was altered: it does not authenticate under the vault's key")]
    Forged,
}

/// Identifies a vault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct VaultId(pub [u8; VAULT_ID_LEN]);

impl VaultId {
    /// A new random vault ID.
    pub fn random() -> Self {
        Self(random_array())
    }
}

impl std::fmt::Display for VaultId {
    /// Lower-case hexadecimal.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

/// Identifies a key slot of one vault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotId(pub u32);

impl std::fmt::Display for SlotId {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(formatter)
    }
}

/// What kind of secret opens a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SlotKind {
    /// A passphrase.
    Passphrase,
    /// A key file.
    KeyFile,
    /// A recovery key.
    RecoveryKey,
}

impl SlotKind {
    /// The name in `vault.json` and in the program's output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Passphrase => "passphrase",
            Self::KeyFile => "key-file",
            Self::RecoveryKey => "recovery-key",
        }
    }

    /// The kind of slot that a secret opens.
    pub fn of(secret: &Secret) -> Self {
        match secret {
            Secret::Passphrase(_) => Self::Passphrase,
            Secret::KeyFile(_) => Self::KeyFile,
            Secret::RecoveryKey(_) => Self::RecoveryKey,
        }
    }
}

impl std::fmt::Display for SlotKind {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.name())
    }
}

/// How the key of a slot is derived from its secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Derivation {
    /// A passphrase, by Argon2id at this cost.
    Passphrase(Argon2Parameters),
    /// A key file, by HKDF-SHA256.
    KeyFile,
    /// A recovery key, by HKDF-SHA256.
    RecoveryKey,
}

impl Derivation {
    /// The kind of slot.
    pub const fn kind(self) -> SlotKind {
        match self {
            Self::Passphrase(_) => SlotKind::Passphrase,
            Self::KeyFile => SlotKind::KeyFile,
            Self::RecoveryKey => SlotKind::RecoveryKey,
        }
    }

    /// The algorithm, and its memory in KiB, iterations and lanes where it has them.
    fn parts(self) -> (&'static str, [u64; 3]) {
        match self {
            Self::Passphrase(cost) => (
                ARGON2ID,
                [cost.memory_kib().into(), cost.iterations().into(), cost.lanes().into()],
            ),
            Self::KeyFile | Self::RecoveryKey => (HKDF, [0; 3]),
        }
    }
}

const ARGON2ID: &str = "argon2id";
const HKDF: &str = "hkdf-sha256";

/// The public parameters of a key slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotParameters {
    /// Its ID.
    pub id: SlotId,
    /// What the owner calls it; at most [`MAX_LABEL_LEN`] bytes, no control characters.
    pub label: String,
    /// When it was made, in seconds since 1970-01-01 00:00 UTC.
    pub created: u64,
    /// How its key is derived.
    pub derivation: Derivation,
    /// The salt of the derivation.
    pub salt: [u8; SALT_LEN],
}

impl SlotParameters {
    /// The key that `secret` gives with these parameters; `None` where it is of another kind.
    ///
    /// # Errors
    /// [`KdfError::OutOfMemory`].
    pub fn derive(&self, secret: &Secret) -> Result<Option<KeyEncryptionKey>, KdfError> {
        Ok(match (secret, self.derivation) {
            (Secret::Passphrase(passphrase), Derivation::Passphrase(cost)) => {
                Some(KeyEncryptionKey::from_passphrase(passphrase, &self.salt, cost)?)
            }
            (Secret::KeyFile(key_file), Derivation::KeyFile) => {
                Some(KeyEncryptionKey::from_key_file(key_file, &self.salt))
            }
            (Secret::RecoveryKey(recovery_key), Derivation::RecoveryKey) => {
                Some(KeyEncryptionKey::from_recovery_key(recovery_key, &self.salt))
            }
            _ => None,
        })
    }

    fn put(&self, canonical: &mut Canonical) {
        let (algorithm, cost) = self.derivation.parts();
        canonical.number(self.id.0.into());
        canonical.field(self.derivation.kind().name().as_bytes());
        canonical.field(self.label.as_bytes());
        canonical.number(self.created);
        canonical.field(algorithm.as_bytes());
        for number in cost {
            canonical.number(number);
        }
        canonical.field(&self.salt);
    }
}

/// Whether `label` may be the label of a slot.
pub fn is_label(label: &str) -> bool {
    label.len() <= MAX_LABEL_LEN && !label.chars().any(char::is_control)
}

/// Whether `feature` may be a feature flag: lower-case letters, digits and hyphens.
fn is_feature(feature: &str) -> bool {
    (1..=MAX_FEATURE_LEN).contains(&feature.len())
        && feature.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
}

/// One wrapped copy of the master key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeySlot {
    /// Its public parameters.
    pub parameters: SlotParameters,
    /// The master key, wrapped.
    pub wrapped: WrappedKey,
}

/// A vault's configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The vault's identity.
    pub vault_id: VaultId,
    /// When the vault was made, in seconds since 1970-01-01 00:00 UTC.
    pub created: u64,
    /// What a program must know to open the vault at all; ascending, each once.
    pub required_features: Vec<String>,
    /// What a program may ignore; ascending, each once.
    pub optional_features: Vec<String>,
    /// The key slots, by ascending ID; at least one.
    pub slots: Vec<KeySlot>,
}

impl Config {
    /// Of a new vault that has no slots yet.
    pub fn new(created: u64) -> Self {
        Self {
            vault_id: VaultId::random(),
            created,
            required_features: Vec::new(),
            optional_features: Vec::new(),
            slots: Vec::new(),
        }
    }

    /// The slot with this ID.
    pub fn slot(&self, id: SlotId) -> Option<&KeySlot> {
        self.slots.iter().find(|slot| slot.parameters.id == id)
    }

    /// Wraps `master` under `key` for a slot with these parameters.
    pub fn wrap(
        &self,
        parameters: SlotParameters,
        key: &KeyEncryptionKey,
        master: &MasterKey,
    ) -> KeySlot {
        let wrapped = key.wrap(master, &self.binding(&parameters));
        KeySlot { parameters, wrapped }
    }

    /// Unwraps the master key of `slot`.
    ///
    /// # Errors
    /// [`UnwrapError`].
    pub fn unwrap(&self, slot: &KeySlot, key: &KeyEncryptionKey) -> Result<MasterKey, UnwrapError> {
        key.unwrap(&slot.wrapped, &self.binding(&slot.parameters))
    }

    /// The hash of what is bound into a slot's wrapped key.
    pub(super) fn binding(&self, parameters: &SlotParameters) -> [u8; HASH_LEN] {
        let mut canonical = Canonical::new("strongroom v1 key slot");
        self.put_invariant(&mut canonical);
        parameters.put(&mut canonical);
        sha256(&[&canonical.0])
    }

    /// What never changes while the master key stays.
    fn put_invariant(&self, canonical: &mut Canonical) {
        canonical.number(FORMAT_VERSION);
        canonical.field(&self.vault_id.0);
        canonical.number(self.created);
        canonical.list(&self.required_features);
        for (role, cipher) in CIPHERS {
            canonical.field(role.as_bytes());
            canonical.field(cipher.as_bytes());
        }
    }

    #[cfg(test)]
    pub(super) fn canonical_for_mac(&self) -> Vec<u8> {
        self.canonical(MAC_LABEL).0
    }

    /// Everything, under a label that says what for.
    fn canonical(&self, label: &str) -> Canonical {
        let mut canonical = Canonical::new(label);
        self.put_invariant(&mut canonical);
        canonical.list(&self.optional_features);
        canonical.count(self.slots.len());
        for slot in &self.slots {
            slot.parameters.put(&mut canonical);
            canonical.field(&slot.wrapped.key_check);
            canonical.field(&slot.wrapped.wrapped_key);
        }
        canonical
    }

    /// Authenticates the configuration under the vault's key.
    pub fn seal(self, key: &ConfigKey) -> SealedConfig {
        let mac = key.authenticate(&self.canonical(MAC_LABEL).0);
        SealedConfig { config: self, mac }
    }
}

const MAC_LABEL: &str = "strongroom v1 config";
const CHECKSUM_LABEL: &str = "strongroom v1 config checksum";

/// A configuration with its MAC, as it lies on disk: whole, but not yet known to be authentic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedConfig {
    config: Config,
    mac: [u8; MAC_LEN],
}

impl SealedConfig {
    /// Reads `vault.json`.
    ///
    /// # Errors
    /// [`ConfigError`]: anything but [`ConfigError::Forged`].
    pub fn decode(bytes: &[u8]) -> Result<Self, ConfigError> {
        json::decode(bytes)
    }

    /// The content of `vault.json`.
    pub fn encode(&self) -> Vec<u8> {
        json::encode(self)
    }

    /// What it says, to find the slot that a secret opens. Nothing else may be believed before
    /// [`Self::verify`].
    pub fn unverified(&self) -> &Config {
        &self.config
    }

    /// Gives the configuration out once it proves to be what the owner of the master key wrote.
    ///
    /// # Errors
    /// [`ConfigError::Forged`].
    pub fn verify(&self, key: &ConfigKey) -> Result<Config, ConfigError> {
        if key.verify(&self.config.canonical(MAC_LABEL).0, &self.mac) {
            Ok(self.config.clone())
        } else {
            Err(ConfigError::Forged)
        }
    }

    /// What a forger without the key makes of it.
    #[cfg(test)]
    pub(crate) fn forged(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(&mut self.config);
        self
    }

    fn checksum(&self) -> [u8; HASH_LEN] {
        let mut canonical = self.config.canonical(CHECKSUM_LABEL);
        canonical.field(&self.mac);
        sha256(&[&canonical.0])
    }
}

/// Canonical bytes.
struct Canonical(Vec<u8>);

impl Canonical {
    fn new(label: &str) -> Self {
        let mut canonical = Self(Vec::new());
        canonical.field(label.as_bytes());
        canonical
    }

    fn field(&mut self, bytes: &[u8]) {
        let length = u32::try_from(bytes.len()).expect("fields are bounded by the limits above");
        self.0.extend_from_slice(&length.to_le_bytes());
        self.0.extend_from_slice(bytes);
    }

    fn number(&mut self, number: u64) {
        self.field(&number.to_le_bytes());
    }

    fn count(&mut self, count: usize) {
        self.number(u64::try_from(count).expect("usize has at most 64 bits"));
    }

    fn list(&mut self, elements: &[String]) {
        self.count(elements.len());
        for element in elements {
            self.field(element.as_bytes());
        }
    }
}
