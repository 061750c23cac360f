//! Owns the changes to a vault's key slots. Each is one replacement of the configuration: after a
//! crash it has happened or it has not.

use super::config_file::ConfigCopy;
use super::setup::{Unlocked, Vault, calibrated_cost, now};
use super::vault_error::VaultError;
use crate::crypto::{
    Argon2Parameters, KeyEncryptionKey, MasterKey, RecoveryKey, Secret, random_array,
};
use crate::format::config::{
    Config, Derivation, KeySlot, MAX_SLOTS, SlotId, SlotKind, SlotParameters, is_label,
};

/// A key slot to be made.
pub struct NewSlot<'a> {
    /// What shall open it.
    pub secret: &'a Secret,
    /// What the owner calls it; may be empty.
    pub label: &'a str,
    /// The cost of trying a passphrase; `None` takes [`calibrated_cost`]. Other secrets are random
    /// and need none.
    pub cost: Option<Argon2Parameters>,
}

/// A slot without an ID, its key derived.
pub(super) struct PreparedSlot {
    label: String,
    derivation: Derivation,
    salt: [u8; 32],
    key: KeyEncryptionKey,
}

/// Derives the key of a new slot, which takes long for a passphrase.
pub(super) fn prepare(new: &NewSlot<'_>) -> Result<PreparedSlot, VaultError> {
    if !is_label(new.label) {
        return Err(VaultError::Label);
    }
    let salt = random_array();
    let (derivation, key) = match new.secret {
        Secret::Passphrase(passphrase) => {
            let cost = new.cost.map_or_else(calibrated_cost, Ok)?;
            let key = KeyEncryptionKey::from_passphrase(passphrase, &salt, cost)?;
            (Derivation::Passphrase(cost), key)
        }
        Secret::KeyFile(file) => {
            (Derivation::KeyFile, KeyEncryptionKey::from_key_file(file, &salt))
        }
        Secret::RecoveryKey(recovery) => {
            (Derivation::RecoveryKey, KeyEncryptionKey::from_recovery_key(recovery, &salt))
        }
    };
    Ok(PreparedSlot { label: new.label.to_owned(), derivation, salt, key })
}

/// Puts a slot into the first free place.
pub(super) fn insert(
    config: &mut Config,
    prepared: PreparedSlot,
    master: &MasterKey,
) -> Result<SlotId, VaultError> {
    if config.slots.len() >= MAX_SLOTS {
        return Err(VaultError::NoFreeSlot);
    }
    let free = (0..).map(SlotId).find(|id| config.slot(*id).is_none());
    let id = free.ok_or(VaultError::NoFreeSlot)?;
    let slot = wrap(config, id, prepared, master);
    config.slots.push(slot);
    config.slots.sort_by_key(|slot| slot.parameters.id);
    Ok(id)
}

fn wrap(config: &Config, id: SlotId, prepared: PreparedSlot, master: &MasterKey) -> KeySlot {
    let PreparedSlot { label, derivation, salt, key } = prepared;
    let parameters = SlotParameters { id, label, created: now(), derivation, salt };
    config.wrap(parameters, &key, master)
}

impl Vault<Unlocked> {
    /// Adds a key slot.
    ///
    /// # Errors
    /// [`VaultError`].
    ///
    /// # Panics
    /// When the operating system cannot give random bytes.
    pub fn add_slot(&mut self, new: &NewSlot<'_>) -> Result<SlotId, VaultError> {
        let prepared = prepare(new)?;
        self.update(|config, master| insert(config, prepared, master))
    }

    /// Removes a key slot. Whoever kept a copy of the configuration can still use the slot with
    /// that copy.
    ///
    /// # Errors
    /// [`VaultError::NoSuchSlot`], [`VaultError::LastSlot`], and those of replacing the
    /// configuration.
    pub fn remove_slot(&mut self, id: SlotId) -> Result<(), VaultError> {
        self.update(|config, _| {
            let at = position(config, id)?;
            if config.slots.len() == 1 {
                return Err(VaultError::LastSlot { slot: id });
            }
            config.slots.remove(at);
            Ok(())
        })
    }

    /// Whether, without the slot `id`, there is still one that a person can open from memory or
    /// paper: a passphrase or a recovery key. If not, whoever loses the key files loses the vault.
    pub fn opens_without_key_file(&self, id: SlotId) -> bool {
        self.config().slots.iter().any(|slot| {
            slot.parameters.id != id && slot.parameters.derivation.kind() != SlotKind::KeyFile
        })
    }

    /// Puts another secret of the same kind into a slot, which keeps its ID; and its label, where
    /// `new` has none.
    ///
    /// # Errors
    /// [`VaultError::NoSuchSlot`], [`VaultError::OtherSlotKind`], and those of replacing the
    /// configuration.
    ///
    /// # Panics
    /// When the operating system cannot give random bytes.
    pub fn change_slot(&mut self, id: SlotId, new: &NewSlot<'_>) -> Result<(), VaultError> {
        let wanted = SlotKind::of(new.secret);
        let check = |config: &Config| {
            let at = position(config, id)?;
            let found = config.slots[at].parameters.derivation.kind();
            if found == wanted {
                Ok(at)
            } else {
                Err(VaultError::OtherSlotKind { slot: id, found, wanted })
            }
        };
        check(self.config())?;
        let mut prepared = prepare(new)?;
        self.update(|config, master| {
            let at = check(config)?;
            if prepared.label.is_empty() {
                prepared.label.clone_from(&config.slots[at].parameters.label);
            }
            config.slots[at] = wrap(config, id, prepared, master);
            Ok(())
        })
    }

    /// Makes `recovery_key` the one that opens the vault: any older one is removed in the same
    /// step. The caller has shown it to the owner before.
    ///
    /// # Errors
    /// [`VaultError`].
    ///
    /// # Panics
    /// When the operating system cannot give random bytes.
    pub fn replace_recovery_key(
        &mut self,
        recovery_key: RecoveryKey,
    ) -> Result<SlotId, VaultError> {
        let secret = Secret::RecoveryKey(recovery_key);
        let prepared = prepare(&NewSlot { secret: &secret, label: "", cost: None })?;
        self.update(|config, master| {
            config.slots.retain(|slot| slot.parameters.derivation.kind() != SlotKind::RecoveryKey);
            insert(config, prepared, master)
        })
    }

    /// Writes both copies of the configuration anew, where one was lost or damaged.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn write_copies(&mut self) -> Result<(), VaultError> {
        self.update(|_, _| Ok(()))
    }

    /// Whether both copies of the configuration are there and the same.
    pub fn copies_agree(&self) -> bool {
        let file = &self.location.file;
        match (file.load(ConfigCopy::First), file.load(ConfigCopy::Second)) {
            (Ok(first), Ok(second)) => first == second,
            _ => false,
        }
    }

    /// Changes the configuration as it lies on disk now, which another process may have changed
    /// since it was read here.
    fn update<T>(
        &mut self,
        change: impl FnOnce(&mut Config, &MasterKey) -> Result<T, VaultError>,
    ) -> Result<T, VaultError> {
        let file = &self.location.file;
        let _guard = file.lock()?;
        let key = self.state.master.config_key();
        let copy = self.location.copy;
        let verified = file.load_or_explain(copy)?.verify(&key);
        let mut config = verified.map_err(|error| file.unusable(copy, error))?;
        let done = change(&mut config, &self.state.master)?;
        file.replace(&config.clone().seal(&key))?;
        self.state.config = config;
        Ok(done)
    }
}

fn position(config: &Config, id: SlotId) -> Result<usize, VaultError> {
    let found = config.slots.iter().position(|slot| slot.parameters.id == id);
    found.ok_or(VaultError::NoSuchSlot { slot: id })
}
