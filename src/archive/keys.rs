//! What opens and seals archives: key sets, and a ring of them.

use std::cell::LazyCell;
use std::sync::{Arc, Mutex};

use crate::crypto::{
    ArchiveKey, Argon2Parameters, KdfError, MasterKey, SALT_LEN, Secret, UnwrapError, random_array,
};
use crate::format::archive::{ArchiveId, UnverifiedHeader};
use crate::format::config::{
    Config, Derivation, SealedConfig, SlotId, SlotKind, SlotParameters, VaultId,
};

use super::error::{Error, Result};

/// Key slots and the master key that they wrap: a vault's, or an archive's own. All the archives
/// of one set open with the same secrets, and one unlocking opens them all.
pub struct KeySet {
    config: SealedConfig,
    master: MasterKey,
}

impl KeySet {
    /// Of a vault: its archives open with the vault's key slots as they are now.
    pub fn of_vault(config: SealedConfig, master: &MasterKey) -> Self {
        Self { config, master: MasterKey::from_bytes(master.expose()) }
    }

    /// A new set with a slot for each secret, its label beside it; passphrases at `cost`, which is
    /// asked for only where there is one; `created` in seconds since 1970.
    ///
    /// # Errors
    /// When there are no secrets, or too many, or a key cannot be derived.
    pub fn of_secrets(
        secrets: &[(&Secret, &str)],
        cost: impl FnOnce() -> std::result::Result<Argon2Parameters, KdfError>,
        created: u64,
    ) -> Result<Self> {
        if secrets.is_empty() {
            return Err(Error::NoSecret);
        }
        let cost = LazyCell::new(cost);
        let master = MasterKey::generate();
        let mut config = Config::new(created);
        for (id, (secret, label)) in (1u32..).zip(secrets) {
            let derivation = match SlotKind::of(secret) {
                SlotKind::Passphrase => Derivation::Passphrase((*cost)?),
                SlotKind::KeyFile => Derivation::KeyFile,
                SlotKind::RecoveryKey => Derivation::RecoveryKey,
            };
            let parameters = SlotParameters {
                id: SlotId(id),
                label: (*label).to_owned(),
                created,
                derivation,
                salt: random_array::<SALT_LEN>(),
            };
            let key = parameters.derive(secret)?.ok_or(Error::WrongSecret)?;
            config.slots.push(config.wrap(parameters, &key, &master));
        }
        let config = config.seal(&master.config_key());
        // Too many slots or a bad label: better found now than by whoever needs the archive.
        SealedConfig::decode(&config.encode())?;
        Ok(Self { config, master })
    }

    /// The identity that its archives carry: the vault's, or one of its own.
    pub fn id(&self) -> VaultId {
        self.config.unverified().vault_id
    }

    /// The key slots.
    pub fn config(&self) -> &SealedConfig {
        &self.config
    }

    pub(super) fn archive_key(&self, id: ArchiveId) -> ArchiveKey {
        self.master.archive_key(&id.0)
    }

    /// Opens a slot of the configuration with the secret.
    fn unlock(config: &SealedConfig, secret: &Secret) -> Result<Option<Self>> {
        let slots = config.unverified();
        for slot in &slots.slots {
            let Some(key) = slot.parameters.derive(secret)? else { continue };
            match slots.unwrap(slot, &key) {
                Ok(master) => {
                    config.verify(&master.config_key())?;
                    return Ok(Some(Self { config: config.clone(), master }));
                }
                Err(UnwrapError::WrongSecret) => {}
                Err(UnwrapError::Altered) => return Err(Error::Altered),
            }
        }
        Ok(None)
    }
}

/// Keys to seal with: at hand, or still being derived beside what does not need them.
pub trait SealingKeys: Sync {
    /// Lends the keys, once they are there. The same ones each time.
    ///
    /// # Errors
    /// When there are none after all; they are not lent then.
    fn lend(&self, borrow: &mut dyn FnMut(&KeySet)) -> Result<()>;
}

impl SealingKeys for KeySet {
    fn lend(&self, borrow: &mut dyn FnMut(&KeySet)) -> Result<()> {
        borrow(self);
        Ok(())
    }
}

/// The secrets at hand. Remembers what they opened: deriving a key from a passphrase takes a
/// second, and a chain of backups has many archives.
#[derive(Default)]
pub struct Keyring {
    secrets: Vec<Secret>,
    sets: Mutex<Vec<Arc<KeySet>>>,
}

impl Keyring {
    /// An empty ring: opens only what is not sealed.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a secret.
    #[must_use]
    pub fn with_secret(mut self, secret: Secret) -> Self {
        self.secrets.push(secret);
        self
    }

    /// Adds a set that is open already.
    #[must_use]
    pub fn with_set(self, set: KeySet) -> Self {
        self.remember(set);
        self
    }

    /// Whether there is a secret in it.
    pub fn has_secret(&self) -> bool {
        !self.secrets.is_empty()
    }

    /// A new key set with a slot for each secret of the ring.
    ///
    /// # Errors
    /// Those of [`KeySet::of_secrets`].
    pub fn new_set(
        &self,
        cost: impl FnOnce() -> std::result::Result<Argon2Parameters, KdfError>,
        created: u64,
    ) -> Result<KeySet> {
        let secrets: Vec<_> = self.secrets.iter().map(|secret| (secret, "")).collect();
        KeySet::of_secrets(&secrets, cost, created)
    }

    fn remember(&self, set: KeySet) {
        self.sets.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(Arc::new(set));
    }

    /// The key that authenticates this header.
    pub(super) fn unlock(&self, header: &UnverifiedHeader) -> Result<ArchiveKey> {
        let id = header.unverified().id;
        let known = |sets: &[Arc<KeySet>]| {
            sets.iter().map(|set| set.archive_key(id)).find(|key| header.is_authentic(key))
        };
        let sets = self.sets.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(key) = known(&sets) {
            return Ok(key);
        }
        if self.secrets.is_empty() {
            return Err(if sets.is_empty() { Error::NoSecret } else { Error::WrongSecret });
        }
        drop(sets);
        for secret in &self.secrets {
            if let Some(set) = KeySet::unlock(&header.unverified().config, secret)? {
                let key = set.archive_key(id);
                self.remember(set);
                return Ok(key);
            }
        }
        Err(Error::WrongSecret)
    }

    /// Runs `use_set` on the set of the archive with this header, which must be open already.
    pub fn set_of<T>(&self, id: VaultId, use_set: impl FnOnce(&KeySet) -> T) -> Option<T> {
        let sets = self.sets.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let set = sets.iter().find(|set| set.id() == id).cloned();
        // Whatever it is used for may need the ring, too.
        drop(sets);
        set.map(|set| use_set(&set))
    }
}
