//! Owns the shape of a profile's TOML. Every key is known, or an error.

use std::collections::BTreeMap;

use serde::Deserialize;
use toml::Spanned;

use super::{BackupType, ComponentKind, Compression, ConfigFormat, Event, Frequency, Switch};

pub(super) type Text = Spanned<String>;
pub(super) type Words = Spanned<Vec<String>>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Raw {
    pub(super) name: Text,
    pub(super) description: Option<String>,
    pub(super) user: Option<Text>,
    pub(super) root: Option<Text>,
    pub(super) data: Text,
    pub(super) vault: Option<Text>,
    pub(super) mount: Option<Text>,
    pub(super) vault_config: Option<Text>,
    pub(super) mount_options: Option<String>,
    pub(super) unlock: Option<Spanned<RawUnlock>>,
    #[serde(default)]
    pub(super) switch: Switch,
    #[serde(default)]
    pub(super) exclude: Vec<Text>,
    #[serde(default)]
    pub(super) sensitive: Vec<Text>,
    #[serde(default, rename = "component")]
    pub(super) components: Vec<RawComponent>,
    #[serde(default, rename = "config")]
    pub(super) configs: Vec<RawConfig>,
    #[serde(default)]
    pub(super) app: RawApp,
    #[serde(default)]
    pub(super) backup: RawBackup,
    #[serde(default)]
    pub(super) events: RawEvents,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct RawUnlock {
    pub(super) key_file: Option<Text>,
    pub(super) passphrase_file: Option<Text>,
    pub(super) passphrase_command: Option<Words>,
    pub(super) keyring: Option<String>,
    pub(super) secret_service: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct RawComponent {
    pub(super) name: Text,
    pub(super) kind: ComponentKind,
    pub(super) path: Text,
    #[serde(default = "yes")]
    pub(super) essential: bool,
    pub(super) probe: Option<Words>,
    pub(super) prepare: Option<Words>,
    pub(super) finish: Option<Words>,
    pub(super) dump: Option<RawDump>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct RawDump {
    pub(super) command: Words,
    pub(super) restore: Option<Words>,
    pub(super) file: Text,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct RawConfig {
    pub(super) file: Text,
    pub(super) format: Option<ConfigFormat>,
    #[serde(default = "yes")]
    pub(super) repoint: bool,
    #[serde(default)]
    pub(super) set: BTreeMap<String, Text>,
    #[serde(default)]
    pub(super) optional: bool,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct RawApp {
    pub(super) unit: Option<Text>,
    pub(super) user_unit: Option<Spanned<bool>>,
    pub(super) stop: Option<Words>,
    pub(super) start: Option<Words>,
    pub(super) health: Option<RawHealth>,
    pub(super) working_directory: Option<Text>,
    pub(super) environment: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct RawHealth {
    pub(super) command: Words,
    pub(super) timeout: Option<Text>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct RawBackup {
    pub(super) output: Option<Text>,
    #[serde(rename = "type")]
    pub(super) kind: BackupType,
    pub(super) compression: Compression,
    pub(super) compression_level: Option<Spanned<i64>>,
    pub(super) encrypt: Option<bool>,
    pub(super) include: Vec<Text>,
    pub(super) exclude: Vec<Text>,
    pub(super) retention: RawRetention,
    pub(super) schedule: Option<Spanned<RawSchedule>>,
    #[serde(rename = "plan")]
    pub(super) plans: Vec<RawPlan>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct RawPlan {
    pub(super) name: Text,
    #[serde(rename = "type")]
    pub(super) kind: Option<BackupType>,
    pub(super) include: Option<Vec<Text>>,
    pub(super) exclude: Option<Vec<Text>>,
    pub(super) retention: Option<RawRetention>,
    pub(super) schedule: Option<Spanned<RawSchedule>>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct RawRetention {
    pub(super) keep: Option<u32>,
    pub(super) keep_hourly: Option<u32>,
    pub(super) keep_daily: Option<u32>,
    pub(super) keep_weekly: Option<u32>,
    pub(super) keep_monthly: Option<u32>,
    pub(super) keep_yearly: Option<u32>,
    pub(super) keep_within: Option<Text>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct RawSchedule {
    #[serde(default = "yes")]
    pub(super) enabled: bool,
    pub(super) frequency: Option<Frequency>,
    pub(super) time: Option<Text>,
    pub(super) day: Option<Text>,
    pub(super) calendar: Option<Text>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct RawEvents {
    pub(super) command: Option<Words>,
    pub(super) webhook: Option<Text>,
    pub(super) on: Option<Vec<Event>>,
}

fn yes() -> bool {
    true
}
