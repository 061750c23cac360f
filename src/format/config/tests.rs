#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::*;
use crate::crypto::{KeyFile, Passphrase, RecoveryKey};

fn master() -> MasterKey {
    MasterKey::from_bytes(&[9; 32])
}

fn passphrase(text: &str) -> Secret {
    Secret::Passphrase(Passphrase::new(Zeroizing::new(text.as_bytes().to_vec())).unwrap())
}

fn slot(config: &Config, id: u32, label: &str, secret: &Secret) -> KeySlot {
    let derivation = match secret {
        Secret::Passphrase(_) => Derivation::Passphrase(Argon2Parameters::insecure_for_tests()),
        Secret::KeyFile(_) => Derivation::KeyFile,
        Secret::RecoveryKey(_) => Derivation::RecoveryKey,
    };
    let parameters = SlotParameters {
        id: SlotId(id),
        label: label.to_owned(),
        created: 1_800_000_000,
        derivation,
        salt: random_array(),
    };
    let key = parameters.derive(secret).unwrap().unwrap();
    config.wrap(parameters, &key, &master())
}

/// One slot of each kind; the secrets in the order of the slots.
fn example() -> (SealedConfig, [Secret; 3]) {
    let secrets = [
        passphrase("open sesame"),
        Secret::KeyFile(KeyFile::new(Zeroizing::new(vec![3; 64])).unwrap()),
        Secret::RecoveryKey(RecoveryKey::generate()),
    ];
    let mut config = Config::new(1_700_000_000);
    config.optional_features = vec!["nice-to-have".to_owned()];
    for ((id, label), secret) in [(0, "me"), (3, "boot"), (4, "")].into_iter().zip(&secrets) {
        let slot = slot(&config, id, label, secret);
        config.slots.push(slot);
    }
    (config.seal(&master().config_key()), secrets)
}

fn decode(value: &Value) -> Result<SealedConfig, ConfigError> {
    SealedConfig::decode(&serde_json::to_vec(value).unwrap())
}

#[test]
fn what_is_written_is_read_and_every_slot_opens() {
    let (sealed, secrets) = example();
    let read = SealedConfig::decode(&sealed.encode()).unwrap();
    assert_eq!(read, sealed);
    for (slot, secret) in read.unverified().slots.iter().zip(&secrets) {
        let key = slot.parameters.derive(secret).unwrap().unwrap();
        let master = read.unverified().unwrap(slot, &key).unwrap();
        assert_eq!(read.verify(&master.config_key()).unwrap(), *sealed.unverified());
    }
}

#[test]
fn a_secret_of_another_kind_or_value_opens_nothing() {
    let (sealed, secrets) = example();
    let slots = &sealed.unverified().slots;
    assert!(slots[0].parameters.derive(&secrets[1]).unwrap().is_none());
    assert!(slots[1].parameters.derive(&secrets[2]).unwrap().is_none());
    assert!(slots[2].parameters.derive(&secrets[0]).unwrap().is_none());
    let key = slots[0].parameters.derive(&passphrase("open sesami")).unwrap().unwrap();
    let error = sealed.unverified().unwrap(&slots[0], &key).err();
    assert_eq!(error, Some(UnwrapError::WrongSecret));
}

#[test]
fn a_slot_is_added_without_the_secrets_of_the_others() {
    let (sealed, secrets) = example();
    let mut config = sealed.verify(&master().config_key()).unwrap();
    let added = slot(&config, 9, "new", &passphrase("another"));
    config.slots.push(added);
    let sealed = config.seal(&master().config_key());
    let read = SealedConfig::decode(&sealed.encode()).unwrap();
    let first = &read.unverified().slots[0];
    let key = first.parameters.derive(&secrets[0]).unwrap().unwrap();
    assert!(read.unverified().unwrap(first, &key).is_ok());
}

#[test]
fn a_slot_of_another_vault_does_not_open_here() {
    let (sealed, secrets) = example();
    let mut other = Config::new(1_700_000_000);
    other.slots = sealed.unverified().slots.clone();
    let key = other.slots[0].parameters.derive(&secrets[0]).unwrap().unwrap();
    assert_eq!(other.unwrap(&other.slots[0], &key).err(), Some(UnwrapError::Altered));
}

/// All the leaves of a JSON document, as pointers.
fn leaves(value: &Value, at: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                leaves(value, &format!("{at}/{name}"), found);
            }
        }
        Value::Array(elements) => {
            for (index, value) in elements.iter().enumerate() {
                leaves(value, &format!("{at}/{index}"), found);
            }
        }
        _ => found.push(at.to_owned()),
    }
}

/// Another value of the same type and, for base64, of the same length.
fn change(value: &mut Value) {
    match value {
        Value::Number(number) => *value = json!(number.as_u64().unwrap() + 1),
        Value::String(text) => {
            let first = if text.starts_with('b') { 'c' } else { 'b' };
            let rest: String = text.chars().skip(1).collect();
            *value = json!(format!("{first}{rest}"));
        }
        _ => unreachable!("the configuration has numbers and strings"),
    }
}

/// Who edits a field without knowing of the checksum is told so before a secret is asked for.
#[test]
fn each_public_field_changed_is_found_without_a_secret() {
    let (sealed, _) = example();
    let original: Value = serde_json::from_slice(&sealed.encode()).unwrap();
    let mut pointers = Vec::new();
    leaves(&original, "", &mut pointers);
    assert_eq!(pointers.len(), 37, "every field of the example: {pointers:?}");
    for pointer in pointers {
        let mut changed = original.clone();
        change(changed.pointer_mut(&pointer).unwrap());
        let error = decode(&changed).unwrap_err();
        let expected = match pointer.as_str() {
            "/format" => matches!(error, ConfigError::Malformed { .. }),
            "/version" => error == ConfigError::UnsupportedVersion { version: 2 },
            pointer if pointer.starts_with("/ciphers/") => {
                matches!(error, ConfigError::UnsupportedCipher { .. })
            }
            pointer if pointer.ends_with("/kind") || pointer.ends_with("/algorithm") => {
                matches!(error, ConfigError::Malformed { .. })
            }
            "/slots/0/kdf/lanes" => {
                // Two lanes need 16 KiB, and the tests' slots have 8.
                matches!(error, ConfigError::ParametersOutOfBounds { .. })
            }
            "/slots/1/id" => {
                // 3 becomes 4, which is taken.
                matches!(error, ConfigError::Malformed { .. })
            }
            _ => error == ConfigError::Checksum,
        };
        assert!(expected, "{pointer}: {error}");
    }
}

/// Who knows the format writes the checksum anew. Then the secret that fits finds it out: by the
/// binding of the slot, by the MAC, or because the key is another.
#[test]
fn each_public_field_forged_is_found_with_the_secret() {
    let (sealed, secrets) = example();
    type Forgery = (&'static str, fn(&mut SealedConfig), Found);
    #[derive(Debug, PartialEq)]
    enum Found {
        Secret,
        Binding,
        Mac,
    }
    let forgeries: [Forgery; 19] = [
        ("vault_id", |it| it.config.vault_id.0[0] ^= 1, Found::Binding),
        ("created", |it| it.config.created += 1, Found::Binding),
        ("required", |it| it.config.required_features.push("x".into()), Found::Binding),
        ("optional added", |it| it.config.optional_features.push("x".into()), Found::Mac),
        ("optional removed", |it| it.config.optional_features.clear(), Found::Mac),
        ("slot id", |it| it.config.slots[0].parameters.id.0 += 1, Found::Binding),
        ("label", |it| it.config.slots[0].parameters.label.push('x'), Found::Binding),
        ("slot created", |it| it.config.slots[0].parameters.created -= 1, Found::Binding),
        ("salt", |it| it.config.slots[0].parameters.salt[31] ^= 1, Found::Secret),
        (
            "cost",
            |it| {
                let cost = Argon2Parameters::of_existing(9, 1, 1).unwrap();
                it.config.slots[0].parameters.derivation = Derivation::Passphrase(cost);
            },
            Found::Secret,
        ),
        ("check", |it| it.config.slots[0].wrapped.key_check[0] ^= 1, Found::Secret),
        ("nonce", |it| it.config.slots[0].wrapped.wrapped_key[0] ^= 1, Found::Binding),
        ("tag", |it| it.config.slots[0].wrapped.wrapped_key[59] ^= 1, Found::Binding),
        ("mac", |it| it.mac[0] ^= 1, Found::Mac),
        ("other slot removed", |it| drop(it.config.slots.pop()), Found::Mac),
        ("other slot's label", |it| it.config.slots[1].parameters.label.clear(), Found::Mac),
        ("other slot's salt", |it| it.config.slots[1].parameters.salt[0] ^= 1, Found::Mac),
        (
            "other slot's kind",
            |it| it.config.slots[1].parameters.derivation = Derivation::RecoveryKey,
            Found::Mac,
        ),
        (
            "slot added",
            |it| {
                let mut slot = it.config.slots[2].clone();
                slot.parameters.id.0 += 1;
                it.config.slots.push(slot);
            },
            Found::Mac,
        ),
    ];
    for (what, forge, expected) in forgeries {
        let mut forged = sealed.clone();
        forge(&mut forged);
        if what != "required" {
            assert_eq!(SealedConfig::decode(&forged.encode()).as_ref(), Ok(&forged), "{what}");
        }
        let config = forged.unverified();
        let key = config.slots[0].parameters.derive(&secrets[0]).unwrap().unwrap();
        let found = match config.unwrap(&config.slots[0], &key) {
            Err(UnwrapError::WrongSecret) => Found::Secret,
            Err(UnwrapError::Altered) => Found::Binding,
            Ok(master) => {
                assert_eq!(forged.verify(&master.config_key()), Err(ConfigError::Forged));
                Found::Mac
            }
        };
        assert_eq!(found, expected, "{what}");
    }
}

#[test]
fn canonical_fields_do_not_run_into_each_other() {
    let (sealed, _) = example();
    let mut one = sealed.config.clone();
    one.optional_features = vec!["ab".to_owned(), "c".to_owned()];
    let mut other = one.clone();
    other.optional_features = vec!["a".to_owned(), "bc".to_owned()];
    assert_ne!(one.canonical("x").0, other.canonical("x").0);
}

#[test]
fn every_prefix_is_truncated() {
    let (sealed, _) = example();
    let bytes = sealed.encode();
    // Without its last line break the text is whole.
    for length in 0..bytes.len() - 1 {
        assert_eq!(SealedConfig::decode(&bytes[..length]), Err(ConfigError::Truncated), "{length}");
    }
}

#[test]
fn what_a_later_program_writes_is_named() {
    let later = json!({"format": "strongroom vault", "version": 2, "required_features": {"a": 1}});
    assert_eq!(decode(&later), Err(ConfigError::UnsupportedVersion { version: 2 }));

    let (sealed, _) = example();
    let mut text: Value = serde_json::from_slice(&sealed.encode()).unwrap();
    text["required_features"] = json!(["compression"]);
    text["compression"] = json!({"level": 3});
    assert_eq!(
        decode(&text),
        Err(ConfigError::UnknownFeature { feature: "compression".to_owned() })
    );
}

#[test]
fn parameters_that_exhaust_the_machine_are_refused() {
    let (sealed, _) = example();
    let original: Value = serde_json::from_slice(&sealed.encode()).unwrap();
    for (field, value) in [("memory_kib", u32::MAX), ("iterations", u32::MAX), ("lanes", 17)] {
        let mut text = original.clone();
        text["slots"][0]["kdf"][field] = json!(value);
        let error = decode(&text).unwrap_err();
        assert!(matches!(error, ConfigError::ParametersOutOfBounds { .. }), "{field}: {error}");
    }
}

#[test]
fn the_text_is_read_strictly() {
    let (sealed, _) = example();
    let text = String::from_utf8(sealed.encode()).unwrap();
    let salt = Value::from(text.split("\"salt\": \"").nth(1).unwrap().split('"').next().unwrap());
    let salt = salt.as_str().unwrap();
    let (body, last) = (&salt[..salt.len() - 2], salt.as_bytes()[salt.len() - 2]);
    // 32 bytes leave two unused bits in the last character: set one.
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let value = alphabet.iter().position(|byte| *byte == last).unwrap();
    let loose = format!("{body}{}=", char::from(alphabet[value | 1]));
    let edits = [
        ("an unknown field", text.replacen('{', "{\"surprise\": 1,", 1)),
        ("a field twice", text.replacen("\"version\": 1", "\"version\": 1, \"version\": 1", 1)),
        ("an inner field twice", text.replacen("\"lanes\": 1", "\"lanes\": 1, \"lanes\": 1", 1)),
        ("an inner unknown field", text.replacen("\"lanes\": 1", "\"lanes\": 1, \"x\": 1", 1)),
        ("a number as text", text.replacen("\"version\": 1", "\"version\": \"1\"", 1)),
        ("a fraction", text.replacen("\"lanes\": 1", "\"lanes\": 1.0", 1)),
        ("a negative number", text.replacen("\"lanes\": 1", "\"lanes\": -1", 1)),
        ("something after the end", format!("{text}x")),
        ("a byte-order mark", format!("\u{feff}{text}")),
        ("loose base64", text.replacen(salt, &loose, 1)),
        ("base64 without padding", text.replacen(salt, salt.trim_end_matches('='), 1)),
        ("a null parameter", text.replacen("\"lanes\": 1", "\"lanes\": null", 1)),
    ];
    for (what, edited) in edits {
        assert_ne!(edited, text, "{what} was edited in");
        let error = SealedConfig::decode(edited.as_bytes()).unwrap_err();
        assert!(matches!(error, ConfigError::Malformed { .. }), "{what}: {error}");
    }
    let spaced = text.replace("\n", "\r\n  ");
    assert_eq!(SealedConfig::decode(spaced.as_bytes()), Ok(sealed), "white space says nothing");
}

#[test]
fn limits_hold() {
    let (sealed, _) = example();
    let original: Value = serde_json::from_slice(&sealed.encode()).unwrap();
    let refused = |edit: &dyn Fn(&mut Value)| {
        let mut text = original.clone();
        edit(&mut text);
        matches!(decode(&text), Err(ConfigError::Malformed { .. }))
    };
    assert!(refused(&|text| text["slots"] = json!([])));
    assert!(refused(&|text| {
        let slot = text["slots"][0].clone();
        let slots = (0..33).map(|id| {
            let mut slot = slot.clone();
            slot["id"] = json!(id);
            slot
        });
        text["slots"] = slots.collect();
    }));
    assert!(refused(&|text| text["slots"][0]["label"] = json!("x".repeat(129))));
    assert!(refused(&|text| text["slots"][0]["label"] = json!("a\u{1b}[2J")));
    assert!(refused(&|text| text["optional_features"] = json!(["B"])));
    assert!(refused(&|text| text["optional_features"] = json!(["b", "a"])));
    assert!(refused(&|text| text["optional_features"] = json!(["a", "a"])));
    assert!(refused(&|text| text["optional_features"] = json!([""])));
    assert!(refused(&|text| text["slots"].as_array_mut().unwrap().swap(0, 1)));
    let long = vec![b' '; MAX_CONFIG_LEN + 1];
    assert_eq!(SealedConfig::decode(&long), Err(ConfigError::TooLarge));
    let deep = "[".repeat(MAX_CONFIG_LEN);
    assert!(SealedConfig::decode(deep.as_bytes()).is_err());
}

#[test]
fn messages_carry_no_control_characters() {
    let text =
        r#"{"format": "strongroom vault", "version": 1, "required_features": [], "\u001b[2J": 1}"#;
    let error = SealedConfig::decode(text.as_bytes()).unwrap_err();
    assert!(!error.to_string().contains('\u{1b}'), "{error}");
}

proptest! {
    #[test]
    fn arbitrary_bytes_are_refused(bytes: Vec<u8>) {
        prop_assert!(SealedConfig::decode(&bytes).is_err());
    }

    #[test]
    fn a_damaged_byte_is_found_or_says_nothing(at: prop::sample::Index, byte: u8) {
        let (sealed, _) = example();
        let mut bytes = sealed.encode();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(read) = SealedConfig::decode(&bytes) {
            prop_assert_eq!(read, sealed);
        }
    }

    #[test]
    fn any_labels_and_times_go_round(label in "[^\\p{Cc}]{0,32}", created: u64, made: u64) {
        let mut config = Config::new(made);
        let mut slot = slot(&config, u32::MAX, &label, &passphrase("x"));
        slot.parameters.created = created;
        config.slots.push(slot);
        let sealed = config.seal(&master().config_key());
        prop_assert_eq!(SealedConfig::decode(&sealed.encode()), Ok(sealed));
    }
}
