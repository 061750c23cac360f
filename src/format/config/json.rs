//! The JSON text of `vault.json`, read strictly: no unknown field, no field twice, no number or
//! base64 that could be written in another way, every length bounded.

use base64ct::{Base64, Encoding};
use serde::{Deserialize, Serialize};

use super::{
    ARGON2ID, CIPHERS, Config, ConfigError, Derivation, FORMAT_VERSION, HKDF, KNOWN_FEATURES,
    KeySlot, MAX_CONFIG_LEN, MAX_FEATURES, MAX_SLOTS, SealedConfig, SlotId, SlotKind,
    SlotParameters, VaultId, is_feature, is_label,
};
use crate::crypto::{Argon2Parameters, KdfError, WrappedKey};

const FORMAT: &str = "strongroom vault";

/// What every version to come will have.
#[derive(Deserialize)]
struct Preamble {
    format: String,
    version: u64,
}

/// What must be understood before the rest of version 1 can be read.
#[derive(Deserialize)]
struct Features {
    required_features: Vec<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    format: String,
    version: u64,
    vault_id: String,
    created: u64,
    required_features: Vec<String>,
    optional_features: Vec<String>,
    ciphers: Ciphers,
    slots: Vec<Slot>,
    mac: String,
    checksum: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Ciphers {
    content: String,
    names: String,
    keys: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Slot {
    id: u32,
    kind: String,
    label: String,
    created: u64,
    kdf: Kdf,
    salt: String,
    key_check: String,
    wrapped_key: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kdf {
    algorithm: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    memory_kib: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    iterations: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lanes: Option<u32>,
}

pub(super) fn encode(sealed: &SealedConfig) -> Vec<u8> {
    let SealedConfig { config, mac } = sealed;
    let [(_, content), (_, names), (_, keys)] = CIPHERS;
    let file = File {
        format: FORMAT.to_owned(),
        version: FORMAT_VERSION,
        vault_id: Base64::encode_string(&config.vault_id.0),
        created: config.created,
        required_features: config.required_features.clone(),
        optional_features: config.optional_features.clone(),
        ciphers: Ciphers {
            content: content.to_owned(),
            names: names.to_owned(),
            keys: keys.to_owned(),
        },
        slots: config.slots.iter().map(encode_slot).collect(),
        mac: Base64::encode_string(mac),
        checksum: Base64::encode_string(&sealed.checksum()),
    };
    let mut text = serde_json::to_vec_pretty(&file).expect("strings and numbers make JSON");
    text.push(b'\n');
    text
}

fn encode_slot(slot: &KeySlot) -> Slot {
    let SlotParameters { id, label, created, derivation, salt } = &slot.parameters;
    let kdf = match derivation {
        Derivation::Passphrase(cost) => Kdf {
            algorithm: ARGON2ID.to_owned(),
            memory_kib: Some(cost.memory_kib()),
            iterations: Some(cost.iterations()),
            lanes: Some(cost.lanes()),
        },
        Derivation::KeyFile | Derivation::RecoveryKey => {
            Kdf { algorithm: HKDF.to_owned(), memory_kib: None, iterations: None, lanes: None }
        }
    };
    Slot {
        id: id.0,
        kind: derivation.kind().name().to_owned(),
        label: label.clone(),
        created: *created,
        kdf,
        salt: Base64::encode_string(salt),
        key_check: Base64::encode_string(&slot.wrapped.key_check),
        wrapped_key: Base64::encode_string(&slot.wrapped.wrapped_key),
    }
}

pub(super) fn decode(bytes: &[u8]) -> Result<SealedConfig, ConfigError> {
    if bytes.len() > MAX_CONFIG_LEN {
        return Err(ConfigError::TooLarge);
    }
    let preamble: Preamble = parse(bytes)?;
    if preamble.format != FORMAT {
        return Err(malformed("\"format\" is not that of a vault"));
    }
    if preamble.version != FORMAT_VERSION {
        return Err(ConfigError::UnsupportedVersion { version: preamble.version });
    }
    let Features { required_features } = parse(bytes)?;
    check_features(&required_features)?;
    let unknown = |feature: &&String| !KNOWN_FEATURES.contains(&feature.as_str());
    if let Some(feature) = required_features.iter().find(unknown) {
        return Err(ConfigError::UnknownFeature { feature: feature.clone() });
    }

    let file: File = parse(bytes)?;
    check_features(&file.optional_features)?;
    check_ciphers(&file.ciphers)?;
    let ascending = file.slots.is_sorted_by(|a, b| a.id < b.id);
    if !(1..=MAX_SLOTS).contains(&file.slots.len()) || !ascending {
        return Err(malformed("\"slots\" must be 1 to 32, by ascending \"id\", each once"));
    }
    let config = Config {
        vault_id: VaultId(bytes_of("vault_id", &file.vault_id)?),
        created: file.created,
        required_features: file.required_features,
        optional_features: file.optional_features,
        slots: file.slots.into_iter().map(decode_slot).collect::<Result<_, _>>()?,
    };
    let sealed = SealedConfig { config, mac: bytes_of("mac", &file.mac)? };
    if sealed.checksum() != bytes_of("checksum", &file.checksum)? {
        return Err(ConfigError::Checksum);
    }
    Ok(sealed)
}

fn decode_slot(slot: Slot) -> Result<KeySlot, ConfigError> {
    let id = SlotId(slot.id);
    if !is_label(&slot.label) {
        return Err(malformed(&format!(
            "the \"label\" of key slot {id} is too long or holds control characters"
        )));
    }
    let kdf =
        (slot.kdf.algorithm.as_str(), slot.kdf.memory_kib, slot.kdf.iterations, slot.kdf.lanes);
    let derivation = match (slot.kind.as_str(), kdf) {
        (kind, (ARGON2ID, Some(memory_kib), Some(iterations), Some(lanes)))
            if kind == SlotKind::Passphrase.name() =>
        {
            let cost = Argon2Parameters::of_existing(memory_kib, iterations, lanes);
            Derivation::Passphrase(cost.map_err(|error: KdfError| {
                ConfigError::ParametersOutOfBounds { slot: id, error }
            })?)
        }
        (kind, (HKDF, None, None, None)) if kind == SlotKind::KeyFile.name() => Derivation::KeyFile,
        (kind, (HKDF, None, None, None)) if kind == SlotKind::RecoveryKey.name() => {
            Derivation::RecoveryKey
        }
        _ => {
            return Err(malformed(&format!(
                "\"kind\" and \"kdf\" of key slot {id} do not fit together"
            )));
        }
    };
    Ok(KeySlot {
        parameters: SlotParameters {
            id,
            label: slot.label,
            created: slot.created,
            derivation,
            salt: bytes_of("salt", &slot.salt)?,
        },
        wrapped: WrappedKey {
            key_check: bytes_of("key_check", &slot.key_check)?,
            wrapped_key: bytes_of("wrapped_key", &slot.wrapped_key)?,
        },
    })
}

fn check_ciphers(found: &Ciphers) -> Result<(), ConfigError> {
    let found = [&found.content, &found.names, &found.keys];
    for ((role, known), cipher) in CIPHERS.into_iter().zip(found) {
        if cipher != known {
            return Err(ConfigError::UnsupportedCipher { role, cipher: printable(cipher) });
        }
    }
    Ok(())
}

fn check_features(features: &[String]) -> Result<(), ConfigError> {
    let valid = features.len() <= MAX_FEATURES
        && features.iter().all(|feature| is_feature(feature))
        && features.is_sorted_by(|a, b| a < b);
    if valid {
        Ok(())
    } else {
        Err(malformed("feature flags must be at most 32 words, ascending, each once"))
    }
}

/// Exactly `N` bytes in base64, in the one way to write them.
fn bytes_of<const N: usize>(field: &str, text: &str) -> Result<[u8; N], ConfigError> {
    let mut bytes = [0u8; N];
    match Base64::decode(text, &mut bytes) {
        Ok(decoded) if decoded.len() == N => Ok(bytes),
        _ => Err(malformed(&format!("\"{field}\" is not {N} bytes in base64"))),
    }
}

fn parse<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, ConfigError> {
    serde_json::from_slice(bytes).map_err(|error| {
        if error.is_eof() { ConfigError::Truncated } else { malformed(&error.to_string()) }
    })
}

/// Hostile text, fit for a message.
fn printable(text: &str) -> String {
    text.chars().take(200).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

fn malformed(reason: &str) -> ConfigError {
    ConfigError::Malformed { reason: printable(reason) }
}
