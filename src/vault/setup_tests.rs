#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use tempfile::TempDir;
use zeroize::Zeroizing;

use super::*;
use crate::crypto::{KeyFile, Passphrase, RecoveryKey};
use crate::format::config::Derivation;
use crate::format::directory::{DirectoryCodec, RECORD_NAME};

fn passphrase(text: &str) -> Secret {
    Secret::Passphrase(Passphrase::new(Zeroizing::new(text.as_bytes().to_vec())).unwrap())
}

fn key_file(byte: u8) -> Secret {
    Secret::KeyFile(KeyFile::new(Zeroizing::new(vec![byte; 48])).unwrap())
}

fn slot<'a>(secret: &'a Secret, label: &'a str) -> NewSlot<'a> {
    NewSlot { secret, label, cost: Some(Argon2Parameters::insecure_for_tests()) }
}

/// A vault with the passphrase "one" in slot 0, in a directory of its own.
fn new_vault() -> (TempDir, PathBuf, Vault<Unlocked>) {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("vault");
    let vault = Vault::create(&path, None, &[slot(&passphrase("one"), "first")]).unwrap();
    (directory, path, vault)
}

fn unlock(path: &Path, secret: &Secret) -> Result<Vault<Unlocked>, VaultError> {
    Vault::open(path, None)?.unlock(secret)
}

fn ids(vault: &Vault<Unlocked>) -> Vec<u32> {
    vault.config().slots.iter().map(|slot| slot.parameters.id.0).collect()
}

/// Everything below a directory, to see that nothing changed.
fn contents(path: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in walkdir::WalkDir::new(path).sort_by_file_name() {
        let entry = entry.unwrap();
        let content = if entry.file_type().is_file() {
            fs::read(entry.path()).unwrap()
        } else if entry.file_type().is_symlink() {
            fs::read_link(entry.path()).unwrap().into_os_string().into_encoded_bytes()
        } else {
            Vec::new()
        };
        found.push((entry.into_path(), content));
    }
    found
}

/// Changes one value of a copy of the configuration, at a JSON pointer.
fn edit(path: &Path, pointer: &str, value: serde_json::Value) {
    let mut text: serde_json::Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    *text.pointer_mut(pointer).unwrap() = value;
    fs::write(path, serde_json::to_vec(&text).unwrap()).unwrap();
}

/// Writes what `change` makes of a copy of the configuration, with a checksum that fits.
fn forge(path: &Path, change: impl FnOnce(&mut Config)) {
    let sealed = SealedConfig::decode(&fs::read(path).unwrap()).unwrap();
    fs::write(path, sealed.forged(change).encode()).unwrap();
}

fn config_error(result: Result<Vault<Unlocked>, VaultError>) -> ConfigError {
    match result.err() {
        Some(VaultError::Config { error, .. }) => error,
        other => unreachable!("an error of the configuration was expected: {other:?}"),
    }
}

#[test]
fn a_new_vault_has_its_layout_and_opens() {
    let (_guard, path, vault) = new_vault();
    let mut names: Vec<String> = fs::read_dir(&path)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["overflow", "tree", "vault.json", "vault.json.backup", "vault.json.lock"]);
    let mode = |name: &str| fs::metadata(path.join(name)).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode("") & !0o022, 0o700);
    assert_eq!(mode(TREE_NAME), 0o755);
    assert_eq!(mode("vault.json") & !0o022, 0o600);
    assert!(vault.copies_agree());

    let again = unlock(&path, &passphrase("one")).unwrap();
    assert_eq!(again.master_key().expose(), vault.master_key().expose());
    assert_eq!(again.config(), vault.config());
    assert_eq!(again.unlocked_by(), SlotId(0));
    let record = again.directory().unwrap().open_directory(b"tree").unwrap();
    let record = record.read_link(RECORD_NAME).unwrap();
    assert!(DirectoryCodec::new(&again.master_key().directory_key()).decode(&record).is_ok());
}

#[test]
fn an_existing_empty_directory_becomes_a_vault() {
    let directory = TempDir::new().unwrap();
    Vault::create(directory.path(), None, &[slot(&passphrase("one"), "")]).unwrap();
    unlock(directory.path(), &passphrase("one")).unwrap();
}

#[test]
fn nothing_is_overwritten() {
    let (_guard, path, _) = new_vault();
    let before = contents(&path);
    let again = Vault::create(&path, None, &[slot(&passphrase("two"), "")]);
    assert!(matches!(again.err(), Some(VaultError::AlreadyAVault { .. })));
    assert_eq!(contents(&path), before);

    let other = TempDir::new().unwrap();
    fs::write(other.path().join("precious"), "data").unwrap();
    let before = contents(other.path());
    let refused = Vault::create(other.path(), None, &[slot(&passphrase("two"), "")]);
    assert!(matches!(refused.err(), Some(VaultError::NotEmpty { .. })));
    let config = path.join("vault.json");
    let refused = Vault::create(other.path(), Some(&config), &[slot(&passphrase("two"), "")]);
    assert!(matches!(refused.err(), Some(VaultError::AlreadyAVault { .. })));
    assert_eq!(contents(other.path()), before);

    let file = other.path().join("precious");
    let refused = Vault::create(&file, None, &[slot(&passphrase("two"), "")]);
    assert!(matches!(refused.err(), Some(VaultError::Io { .. })));
    let none = Vault::create(&other.path().join("new"), None, &[]);
    assert!(matches!(none.err(), Some(VaultError::NoSlots)));
    assert!(!other.path().join("new").exists());
}

#[test]
fn the_configuration_may_lie_apart() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("vault");
    let config = directory.path().join("apart.json");
    let link = directory.path().join("link.json");
    Vault::create(&path, Some(&config), &[slot(&passphrase("one"), "")]).unwrap();
    assert!(config.exists() && directory.path().join("apart.json.backup").exists());
    assert!(!path.join("vault.json").exists());

    let without = Vault::open(&path, None).err();
    assert!(matches!(without, Some(VaultError::NotAVault { .. })), "{without:?}");
    symlink(&config, &link).unwrap();
    for config in [&config, &link] {
        let mut vault =
            Vault::open(&path, Some(config)).unwrap().unlock(&passphrase("one")).unwrap();
        vault.add_slot(&slot(&key_file(1), "")).unwrap();
        assert!(vault.copies_agree());
    }
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    let vault = Vault::open(&path, Some(&config)).unwrap().unlock(&passphrase("one")).unwrap();
    assert_eq!(ids(&vault), [0, 1, 2]);
}

#[test]
fn what_is_no_vault_is_named_so() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    fs::create_dir(directory.path().join("half")).unwrap();
    fs::create_dir(directory.path().join("half/tree")).unwrap();
    for name in ["", "missing", "file", "half"] {
        let error = Vault::open(&directory.path().join(name), None).err();
        assert!(matches!(error, Some(VaultError::NotAVault { .. })), "{name}: {error:?}");
    }
}

#[test]
fn a_wrong_secret_and_a_missing_kind_are_told_apart() {
    let (_guard, path, _) = new_vault();
    let before = contents(&path);
    let wrong = unlock(&path, &passphrase("two")).err();
    assert!(matches!(wrong, Some(VaultError::WrongSecret { kind: SlotKind::Passphrase })));
    let missing = unlock(&path, &key_file(1)).err();
    assert!(matches!(missing, Some(VaultError::NoSuchSlotKind { kind: SlotKind::KeyFile })));
    let locked = Vault::open(&path, None).unwrap();
    let no_slot = locked.unlock_slot(SlotId(7), &passphrase("one")).err();
    assert!(matches!(no_slot, Some(VaultError::NoSuchSlot { slot: SlotId(7) })));
    assert!(locked.unlock_slot(SlotId(0), &passphrase("one")).is_ok());
    assert_eq!(contents(&path), before);
}

#[test]
fn slots_are_added_changed_and_removed() {
    let (_guard, path, mut vault) = new_vault();
    let recovery = RecoveryKey::generate();
    let words = recovery.words();
    let recovery_again = || Secret::RecoveryKey(RecoveryKey::parse(&words).unwrap());
    assert_eq!(vault.add_slot(&slot(&key_file(1), "boot")).unwrap(), SlotId(1));
    assert_eq!(vault.replace_recovery_key(recovery).unwrap(), SlotId(2));
    for (secret, id) in [(passphrase("one"), 0), (key_file(1), 1), (recovery_again(), 2)] {
        let opened = unlock(&path, &secret).unwrap();
        assert_eq!(opened.unlocked_by(), SlotId(id));
        assert_eq!(opened.master_key().expose(), vault.master_key().expose());
    }

    vault.change_slot(SlotId(0), &slot(&passphrase("two"), "")).unwrap();
    assert_eq!(vault.config().slot(SlotId(0)).unwrap().parameters.label, "first");
    assert!(unlock(&path, &passphrase("two")).is_ok());
    let old = unlock(&path, &passphrase("one")).err();
    assert!(matches!(old, Some(VaultError::WrongSecret { .. })));
    let other = vault.change_slot(SlotId(1), &slot(&passphrase("two"), ""));
    assert!(matches!(other, Err(VaultError::OtherSlotKind { found: SlotKind::KeyFile, .. })));

    let newer = RecoveryKey::generate();
    let newer_words = newer.words();
    assert_eq!(vault.replace_recovery_key(newer).unwrap(), SlotId(2));
    let old = unlock(&path, &recovery_again()).err();
    assert!(matches!(old, Some(VaultError::WrongSecret { kind: SlotKind::RecoveryKey })));
    let newer = Secret::RecoveryKey(RecoveryKey::parse(&newer_words).unwrap());
    assert!(unlock(&path, &newer).is_ok());

    assert!(vault.opens_without_key_file(SlotId(0)));
    vault.remove_slot(SlotId(2)).unwrap();
    assert!(!vault.opens_without_key_file(SlotId(0)));
    let missing = vault.remove_slot(SlotId(2));
    assert!(matches!(missing, Err(VaultError::NoSuchSlot { .. })));
    vault.remove_slot(SlotId(0)).unwrap();
    let before = contents(&path);
    let last = vault.remove_slot(SlotId(1));
    assert!(matches!(last, Err(VaultError::LastSlot { slot: SlotId(1) })));
    assert_eq!(contents(&path), before);
    assert!(unlock(&path, &key_file(1)).is_ok());
    assert!(vault.copies_agree());
}

#[test]
fn slots_and_labels_are_bounded() {
    let (_guard, path, mut vault) = new_vault();
    let bad = vault.add_slot(&slot(&key_file(1), "a\nb"));
    assert!(matches!(bad, Err(VaultError::Label)));
    for _ in 1..32 {
        vault.add_slot(&slot(&key_file(1), &"x".repeat(128))).unwrap();
    }
    let full = vault.add_slot(&slot(&key_file(1), ""));
    assert!(matches!(full, Err(VaultError::NoFreeSlot)));
    assert_eq!(ids(&unlock(&path, &key_file(1)).unwrap()), (0..32).collect::<Vec<_>>());
    vault.remove_slot(SlotId(7)).unwrap();
    assert_eq!(vault.add_slot(&slot(&key_file(1), "")).unwrap(), SlotId(7));
}

#[test]
fn two_processes_lose_no_change() {
    let (_guard, path, mut one) = new_vault();
    let mut other = unlock(&path, &passphrase("one")).unwrap();
    one.add_slot(&slot(&key_file(1), "")).unwrap();
    other.add_slot(&slot(&key_file(2), "")).unwrap();
    assert_eq!(ids(&unlock(&path, &passphrase("one")).unwrap()), [0, 1, 2]);

    let held = one.location.file.lock().unwrap();
    let busy = other.add_slot(&slot(&key_file(3), ""));
    assert!(matches!(busy, Err(VaultError::ConfigInUse { .. })), "{busy:?}");
    drop(held);
    other.add_slot(&slot(&key_file(3), "")).unwrap();
}

#[test]
fn a_damaged_first_copy_is_an_error_that_names_the_second() {
    let (_guard, path, _) = new_vault();
    let config = path.join("vault.json");
    let good = fs::read(&config).unwrap();
    type Matches = fn(&ConfigError) -> bool;
    let cases: [(&[u8], Matches); 4] = [
        (b"", |e| *e == ConfigError::Truncated),
        (&good[..200], |e| *e == ConfigError::Truncated),
        (b"\0\0\0\0", |e| matches!(e, ConfigError::Malformed { .. })),
        (&vec![b' '; 2 << 20], |e| *e == ConfigError::TooLarge),
    ];
    for (content, expected) in cases {
        fs::write(&config, content).unwrap();
        let before = contents(&path);
        match Vault::open(&path, None).err() {
            Some(VaultError::Config { error, whole_copy, .. }) => {
                assert!(expected(&error), "{error:?}");
                assert_eq!(whole_copy, Some(path.join("vault.json.backup")));
            }
            other => unreachable!("{other:?}"),
        }
        assert_eq!(contents(&path), before, "the vault is unharmed");
    }

    let mut vault =
        Vault::open_second_copy(&path, None).unwrap().unlock(&passphrase("one")).unwrap();
    assert!(!vault.copies_agree());
    vault.write_copies().unwrap();
    assert!(vault.copies_agree());
    assert!(unlock(&path, &passphrase("one")).is_ok());

    fs::write(&config, "{").unwrap();
    fs::write(path.join("vault.json.backup"), "{").unwrap();
    let error = Vault::open(&path, None).err();
    assert!(matches!(error, Some(VaultError::Config { whole_copy: None, .. })), "{error:?}");
}

#[test]
fn a_missing_first_copy_falls_back_and_says_so() {
    let (_guard, path, vault) = new_vault();
    assert!(Vault::open(&path, None).unwrap().fallback().is_none());
    fs::remove_file(path.join("vault.json")).unwrap();
    let locked = Vault::open(&path, None).unwrap();
    assert_eq!(locked.fallback().unwrap().kind(), io::ErrorKind::NotFound);
    assert_eq!(locked.config_path(), path.join("vault.json.backup"));
    let mut again = locked.unlock(&passphrase("one")).unwrap();
    assert_eq!(again.master_key().expose(), vault.master_key().expose());
    again.add_slot(&slot(&key_file(1), "")).unwrap();
    assert!(again.copies_agree());
    assert!(Vault::open(&path, None).unwrap().fallback().is_none());

    fs::remove_file(path.join("vault.json")).unwrap();
    fs::write(path.join("vault.json.backup"), "{").unwrap();
    assert_eq!(config_error(unlock(&path, &passphrase("one"))), ConfigError::Truncated);
}

#[test]
fn a_special_file_in_place_of_the_configuration_does_no_harm() {
    let (_guard, path, _) = new_vault();
    fs::remove_file(path.join("vault.json.backup")).unwrap();
    let config = path.join("vault.json");
    fs::rename(&config, path.join("moved")).unwrap();
    nix::unistd::mkfifo(&config, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(matches!(Vault::open(&path, None).err(), Some(VaultError::Io { .. })));
    fs::remove_file(&config).unwrap();
    fs::create_dir(&config).unwrap();
    assert!(matches!(Vault::open(&path, None).err(), Some(VaultError::Io { .. })));
    fs::remove_dir(&config).unwrap();
    symlink("moved", &config).unwrap();
    assert!(matches!(Vault::open(&path, None).err(), Some(VaultError::Io { .. })));
}

#[test]
fn a_careless_edit_is_not_taken_for_a_wrong_secret() {
    let (_guard, path, _) = new_vault();
    let config = path.join("vault.json");
    edit(&config, "/slots/0/kdf/iterations", 2.into());
    assert_eq!(config_error(unlock(&path, &passphrase("one"))), ConfigError::Checksum);
}

#[test]
fn a_skilled_forgery_is_found_with_the_secret() {
    for change in [
        (|config| config.created += 1) as fn(&mut Config),
        |config| config.slots[0].parameters.label.push('!'),
        |config| config.optional_features.push("x".to_owned()),
        // These change the key that the secret gives; the second copy shows that they are forged.
        |config| config.slots[0].parameters.salt[0] ^= 1,
        |config| config.slots[0].wrapped.key_check[0] ^= 1,
        |config| {
            let cost = Argon2Parameters::of_existing(16, 1, 1).unwrap();
            config.slots[0].parameters.derivation = Derivation::Passphrase(cost);
        },
    ] {
        let (_guard, path, _) = new_vault();
        forge(&path.join("vault.json"), change);
        let before = contents(&path);
        match unlock(&path, &passphrase("one")).err() {
            Some(VaultError::Config { error, whole_copy, .. }) => {
                assert_eq!(error, ConfigError::Forged);
                assert_eq!(whole_copy, Some(path.join("vault.json.backup")));
            }
            other => unreachable!("{other:?}"),
        }
        let wrong = unlock(&path, &passphrase("two")).err();
        assert!(matches!(wrong, Some(VaultError::WrongSecret { .. })));
        assert_eq!(contents(&path), before);
    }
}

/// A crash between the two copies leaves an old second one. The secret that it knows is an old
/// secret, not the sign of a forgery.
#[test]
fn an_old_secret_is_wrong_even_where_the_second_copy_still_knows_it() {
    let (_guard, path, mut vault) = new_vault();
    let old = fs::read(path.join("vault.json.backup")).unwrap();
    vault.change_slot(SlotId(0), &slot(&passphrase("two"), "")).unwrap();
    fs::write(path.join("vault.json.backup"), old).unwrap();
    let wrong = unlock(&path, &passphrase("one")).err();
    assert!(matches!(wrong, Some(VaultError::WrongSecret { .. })), "{wrong:?}");
    assert!(!unlock(&path, &passphrase("two")).unwrap().copies_agree());
}

#[test]
fn a_leftover_of_an_interrupted_change_does_not_stand_in_the_way() {
    let (_guard, path, mut vault) = new_vault();
    fs::write(path.join("vault.json.new"), "half").unwrap();
    vault.add_slot(&slot(&key_file(1), "")).unwrap();
    assert!(!path.join("vault.json.new").exists());
    assert_eq!(ids(&unlock(&path, &passphrase("one")).unwrap()), [0, 1]);
}

#[test]
fn errors_have_their_hints() {
    let (_guard, path, mut vault) = new_vault();
    let last = vault.remove_slot(SlotId(0)).unwrap_err();
    assert_eq!(last.hint().unwrap(), "add another key slot first");
    fs::write(path.join("vault.json"), "{").unwrap();
    let damaged = Vault::open(&path, None).err().unwrap();
    let message = damaged.to_string();
    assert!(
        message.contains("vault.json: it is cut short; the vault was not touched"),
        "{message}"
    );
    assert!(damaged.hint().unwrap().contains("vault.json.backup is whole"));
}
