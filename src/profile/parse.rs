//! Owns the way from a profile's text to a [`Profile`]: every value validated, every path resolved,
//! every complaint with its line.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Spanned;

use super::command::{Command, duration, fill};
use super::raw::{
    Raw, RawApp, RawBackup, RawComponent, RawConfig, RawDump, RawEvents, RawPlan, RawRetention,
    RawSchedule, RawUnlock, Text, Words,
};
use super::{
    App, Backup, Component, ComponentKind, Compression, Config, Dump, Environment, Error, Events,
    Health, Pattern, Plan, Profile, Retention, Schedule, Selector, Switch, Unlock, When,
};

/// Placeholders that every command knows.
const COMMON: [&str; 4] = ["data", "mount", "vault", "root"];
const WITH_FILE: [&str; 5] = ["data", "mount", "vault", "root", "file"];
const WITH_EVENT: [&str; 5] = ["data", "mount", "vault", "root", "event"];

/// How long an app may take to become healthy, where the profile doesn't say.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(60);

/// See [`Profile::parse`].
pub(super) fn parse(text: &str, path: &Path, environment: &Environment) -> Result<Profile, Error> {
    let raw: Raw = toml::from_str(text).map_err(|error| Error::Syntax {
        path: path.to_path_buf(),
        line: line_of(text, error.span()),
        message: error.message().to_owned(),
    })?;
    let environment = match &raw.user {
        None => environment.clone(),
        Some(user) => {
            let reader = Reader { text, path, environment, root: None };
            let found = environment.of_user(user.as_ref());
            found.ok_or_else(|| reader.invalid("user", user.span(), "there is no such user"))?
        }
    };
    let mut reader = Reader { text, path, environment: &environment, root: None };
    let root = raw.root.as_ref().map(|root| reader.path("root", root)).transpose()?;
    reader.root = root.as_deref();
    reader.profile(raw, root.clone())
}

/// The line of a place, counted from 1.
fn line_of(text: &str, span: Option<Range<usize>>) -> usize {
    let start = span.map_or(0, |span| span.start).min(text.len());
    1 + text.as_bytes()[..start].iter().filter(|byte| **byte == b'\n').count()
}

struct Reader<'a> {
    text: &'a str,
    path: &'a Path,
    environment: &'a Environment,
    root: Option<&'a Path>,
}

impl Reader<'_> {
    fn invalid(&self, key: &'static str, span: Range<usize>, message: impl Into<String>) -> Error {
        Error::Invalid {
            path: self.path.to_path_buf(),
            line: line_of(self.text, Some(span)),
            key,
            message: message.into(),
        }
    }

    fn path(&self, key: &'static str, text: &Text) -> Result<PathBuf, Error> {
        self.environment
            .resolve(text.as_ref(), self.root)
            .map_err(|message| self.invalid(key, text.span(), message))
    }

    fn optional_path(
        &self,
        key: &'static str,
        text: Option<&Text>,
    ) -> Result<Option<PathBuf>, Error> {
        text.map(|text| self.path(key, text)).transpose()
    }

    fn pattern(&self, key: &'static str, text: &Text) -> Result<Pattern, Error> {
        Pattern::new(text.as_ref()).map_err(|message| self.invalid(key, text.span(), message))
    }

    fn patterns(&self, key: &'static str, texts: &[Text]) -> Result<Vec<Pattern>, Error> {
        texts.iter().map(|text| self.pattern(key, text)).collect()
    }

    fn command(&self, key: &'static str, words: &Words, known: &[&str]) -> Result<Command, Error> {
        Command::new(words.get_ref().clone(), known)
            .map_err(|message| self.invalid(key, words.span(), message))
    }

    fn optional_command(
        &self,
        key: &'static str,
        words: Option<&Words>,
    ) -> Result<Option<Command>, Error> {
        words.map(|words| self.command(key, words, &COMMON)).transpose()
    }

    /// A name that may stand in file names and units.
    fn name(&self, key: &'static str, text: &Text) -> Result<String, Error> {
        let name = text.get_ref();
        let valid = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c);
        let starts = name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
        if starts && name.len() <= 64 && name.chars().all(valid) {
            Ok(name.clone())
        } else {
            let message = format!(
                "{name:?} is no name: lower-case letters, digits, '-', '_' and '.', at most 64"
            );
            Err(self.invalid(key, text.span(), message))
        }
    }

    fn profile(&self, raw: Raw, root: Option<PathBuf>) -> Result<Profile, Error> {
        let data = self.path("data", &raw.data)?;
        let mount = self.optional_path("mount", raw.mount.as_ref())?;
        let mount = match (raw.switch, mount) {
            (Switch::InPlace, Some(mount)) if mount != data => {
                let span = raw.mount.as_ref().map_or(0..0, Spanned::span);
                return Err(self.invalid(
                    "mount",
                    span,
                    "with switch = \"in-place\" the vault is mounted at the data directory",
                ));
            }
            (Switch::InPlace, _) => data.clone(),
            (_, Some(mount)) if mount == data => {
                let span = raw.mount.as_ref().map_or(0..0, Spanned::span);
                return Err(self.invalid(
                    "mount",
                    span,
                    "is the data directory; that is switch = \"in-place\"",
                ));
            }
            (_, Some(mount)) => mount,
            (_, None) => beside(&data, ".private"),
        };
        let vault = self.optional_path("vault", raw.vault.as_ref())?;
        if let Some(vault) = vault.as_ref().filter(|vault| vault.starts_with(&data)) {
            let span = raw.vault.as_ref().map_or(0..0, Spanned::span);
            let message = format!("{} lies in the data directory", vault.display());
            return Err(self.invalid("vault", span, message));
        }
        let components = self.components(&raw.components)?;
        Ok(Profile {
            name: self.name("name", &raw.name)?,
            description: raw.description,
            user: raw.user.map(Spanned::into_inner),
            root,
            data,
            vault,
            mount,
            vault_config: self.optional_path("vault-config", raw.vault_config.as_ref())?,
            mount_options: raw.mount_options,
            unlock: raw.unlock.as_ref().map(|unlock| self.unlock(unlock)).transpose()?,
            switch: raw.switch,
            exclude: self.patterns("exclude", &raw.exclude)?,
            sensitive: self.patterns("sensitive", &raw.sensitive)?,
            configs: raw
                .configs
                .iter()
                .map(|config| self.config(config))
                .collect::<Result<_, _>>()?,
            app: self.app(raw.app)?,
            backup: self.backup(&raw.backup, &components)?,
            events: self.events(raw.events)?,
            components,
        })
    }

    fn unlock(&self, spanned: &Spanned<RawUnlock>) -> Result<Unlock, Error> {
        let raw = spanned.get_ref();
        let mut given = Vec::new();
        if let Some(file) = &raw.key_file {
            given.push(Unlock::KeyFile(self.path("unlock.key-file", file)?));
        }
        if let Some(file) = &raw.passphrase_file {
            given.push(Unlock::PassphraseFile(self.path("unlock.passphrase-file", file)?));
        }
        if let Some(words) = &raw.passphrase_command {
            let command = self.command("unlock.passphrase-command", words, &COMMON)?;
            given.push(Unlock::PassphraseCommand(command));
        }
        given.extend(raw.keyring.clone().map(Unlock::Keyring));
        given.extend(raw.secret_service.filter(|wanted| *wanted).map(Unlock::SecretService));
        match given.pop() {
            Some(unlock) if given.is_empty() => Ok(unlock),
            _ => Err(self.invalid("unlock", spanned.span(), "must tell one source")),
        }
    }

    fn components(&self, raw: &[RawComponent]) -> Result<Vec<Component>, Error> {
        let mut names = BTreeSet::new();
        raw.iter()
            .map(|component| {
                let name = self.name("component.name", &component.name)?;
                if !names.insert(name.clone()) {
                    let message = format!("{name:?} is the name of another component, too");
                    return Err(self.invalid("component.name", component.name.span(), message));
                }
                self.component(component, name)
            })
            .collect()
    }

    fn component(&self, raw: &RawComponent, name: String) -> Result<Component, Error> {
        let server = matches!(
            raw.kind,
            ComponentKind::Postgres
                | ComponentKind::Redis
                | ComponentKind::Neo4j
                | ComponentKind::Chroma
        );
        let dump = raw.dump.as_ref().map(|dump| self.dump(dump)).transpose()?;
        if let (Some(dump), false) = (&raw.dump, server || raw.kind == ComponentKind::Files) {
            let message = format!("{} is no server: its files are copied", raw.kind);
            return Err(self.invalid("component.dump", dump.command.span(), message));
        }
        Ok(Component {
            name,
            kind: raw.kind,
            path: self.pattern("component.path", &raw.path)?,
            essential: raw.essential,
            probe: self.optional_command("component.probe", raw.probe.as_ref())?,
            prepare: self.optional_command("component.prepare", raw.prepare.as_ref())?,
            finish: self.optional_command("component.finish", raw.finish.as_ref())?,
            dump,
        })
    }

    fn dump(&self, raw: &RawDump) -> Result<Dump, Error> {
        let file = raw.file.get_ref();
        if file.is_empty() || file.contains(['/', '\0']) || file == "." || file == ".." {
            let message = format!("{file:?} is no file name");
            return Err(self.invalid("component.dump.file", raw.file.span(), message));
        }
        let restore = raw
            .restore
            .as_ref()
            .map(|words| self.command("component.dump.restore", words, &WITH_FILE))
            .transpose()?;
        Ok(Dump {
            command: self.command("component.dump.command", &raw.command, &WITH_FILE)?,
            restore,
            file: file.clone(),
        })
    }

    fn config(&self, raw: &RawConfig) -> Result<Config, Error> {
        for text in raw.set.values() {
            fill(text.as_ref(), &mut |name| COMMON.contains(&name).then(String::new))
                .map_err(|error| self.invalid("config.set", text.span(), error.to_string()))?;
        }
        Ok(Config {
            file: self.path("config.file", &raw.file)?,
            format: raw.format,
            repoint: raw.repoint,
            set: raw.set.iter().map(|(key, text)| (key.clone(), text.get_ref().clone())).collect(),
            optional: raw.optional,
        })
    }

    fn app(&self, raw: RawApp) -> Result<App, Error> {
        let mut app = App {
            stop: self.optional_command("app.stop", raw.stop.as_ref())?,
            start: self.optional_command("app.start", raw.start.as_ref())?,
            health: None,
            working_directory: self
                .optional_path("app.working-directory", raw.working_directory.as_ref())?,
            environment: raw.environment,
        };
        let user_unit = raw.user_unit.as_ref().is_some_and(|user| *user.get_ref());
        match (&raw.unit, &raw.user_unit) {
            (None, Some(user)) => {
                return Err(self.invalid("app.user-unit", user.span(), "there is no unit"));
            }
            (None, None) => {}
            (Some(unit), _) if app.stop.is_some() || app.start.is_some() => {
                return Err(self.invalid("app.unit", unit.span(), "there are commands besides"));
            }
            (Some(unit), _) => {
                let name = unit.get_ref();
                if name.is_empty() || name.starts_with('-') || name.contains(['/', ' ', '{', '}']) {
                    return Err(self.invalid("app.unit", unit.span(), "is no unit's name"));
                }
                let systemctl = |verb: &str| {
                    let user: &[&str] = if user_unit { &["--user"] } else { &[] };
                    let words = [&["systemctl"], user, &[verb, name.as_str()]].concat();
                    let words = words.into_iter().map(str::to_owned).collect();
                    Command::new(words, &[]).map_err(|e| self.invalid("app.unit", unit.span(), e))
                };
                app.stop = Some(systemctl("stop")?);
                app.start = Some(systemctl("start")?);
            }
        }
        if let Some(health) = raw.health {
            let timeout = match &health.timeout {
                Some(text) => duration(text.as_ref())
                    .map_err(|message| self.invalid("app.health.timeout", text.span(), message))?,
                None => HEALTH_TIMEOUT,
            };
            let command = self.command("app.health.command", &health.command, &COMMON)?;
            app.health = Some(Health { command, timeout });
        }
        Ok(app)
    }

    fn backup(&self, raw: &RawBackup, components: &[Component]) -> Result<Backup, Error> {
        let level =
            raw.compression_level.as_ref().map(|level| self.level(raw, level)).transpose()?;
        let include = self.selectors("backup.include", &raw.include, components)?;
        let exclude = self.selectors("backup.exclude", &raw.exclude, components)?;
        let default = Plan {
            name: "default".to_owned(),
            kind: raw.kind,
            include,
            exclude,
            retention: self.retention(&raw.retention)?,
            schedule: raw.schedule.as_ref().map(|s| self.schedule(s)).transpose()?,
        };
        let mut plans: Vec<Plan> = Vec::new();
        for plan in &raw.plans {
            let plan = self.plan(plan, &default, components, &plans)?;
            plans.push(plan);
        }
        if plans.is_empty() {
            plans.push(default);
        } else if let Some(schedule) = &raw.schedule {
            let message = "belongs into the plans where there are some";
            return Err(self.invalid("backup.schedule", schedule.span(), message));
        }
        Ok(Backup {
            output: self.optional_path("backup.output", raw.output.as_ref())?,
            compression: raw.compression,
            compression_level: level,
            encrypt: raw.encrypt.unwrap_or(true),
            plans,
        })
    }

    fn level(&self, raw: &RawBackup, level: &Spanned<i64>) -> Result<u8, Error> {
        let most = match raw.compression {
            Compression::Zstd => 22,
            Compression::Gzip => 9,
            Compression::Lz4 | Compression::None => 0,
        };
        u8::try_from(*level.get_ref()).ok().filter(|level| (1..=most).contains(level)).ok_or_else(
            || {
                let message = match most {
                    0 => "this compression has no levels".to_owned(),
                    most => format!("must be 1 to {most}"),
                };
                self.invalid("backup.compression-level", level.span(), message)
            },
        )
    }

    fn plan(
        &self,
        raw: &RawPlan,
        default: &Plan,
        components: &[Component],
        others: &[Plan],
    ) -> Result<Plan, Error> {
        let name = self.name("backup.plan.name", &raw.name)?;
        if others.iter().any(|other| other.name == name) {
            let message = format!("{name:?} is the name of another plan, too");
            return Err(self.invalid("backup.plan.name", raw.name.span(), message));
        }
        let selectors = |key, texts: &Option<Vec<Text>>, default: &[Selector]| match texts {
            Some(texts) => self.selectors(key, texts, components),
            None => Ok(default.to_vec()),
        };
        Ok(Plan {
            name,
            kind: raw.kind.unwrap_or(default.kind),
            include: selectors("backup.plan.include", &raw.include, &default.include)?,
            exclude: selectors("backup.plan.exclude", &raw.exclude, &default.exclude)?,
            retention: match &raw.retention {
                Some(retention) => self.retention(retention)?,
                None => default.retention.clone(),
            },
            schedule: raw.schedule.as_ref().map(|s| self.schedule(s)).transpose()?,
        })
    }

    fn selectors(
        &self,
        key: &'static str,
        texts: &[Text],
        components: &[Component],
    ) -> Result<Vec<Selector>, Error> {
        texts
            .iter()
            .map(|text| {
                if components.iter().any(|component| component.name == *text.get_ref()) {
                    Ok(Selector::Component(text.get_ref().clone()))
                } else {
                    self.pattern(key, text).map(Selector::Pattern)
                }
            })
            .collect()
    }

    fn retention(&self, raw: &RawRetention) -> Result<Retention, Error> {
        let within = raw.keep_within.as_ref().map(|text| {
            duration(text.as_ref())
                .map_err(|message| self.invalid("retention.keep-within", text.span(), message))
        });
        Ok(Retention {
            keep: raw.keep,
            keep_hourly: raw.keep_hourly,
            keep_daily: raw.keep_daily,
            keep_weekly: raw.keep_weekly,
            keep_monthly: raw.keep_monthly,
            keep_yearly: raw.keep_yearly,
            keep_within: within.transpose()?,
        })
    }

    fn schedule(&self, spanned: &Spanned<RawSchedule>) -> Result<Schedule, Error> {
        let raw = spanned.get_ref();
        let text = |text: &Option<Text>| text.as_ref().map(|text| text.get_ref().clone());
        let when = match (raw.frequency, text(&raw.calendar)) {
            (Some(frequency), None) => {
                When::new(frequency, text(&raw.time).as_deref(), text(&raw.day).as_deref())
            }
            (None, Some(expression)) if raw.time.is_none() && raw.day.is_none() => {
                if expression.is_empty() || expression.contains(['\n', '\r', '\0']) {
                    Err("the calendar expression is empty or has a line break".to_owned())
                } else {
                    Ok(When::Calendar(expression))
                }
            }
            (None, Some(_)) => Err("a calendar expression takes no time and no day".to_owned()),
            _ => Err("needs a frequency or a calendar expression, not both".to_owned()),
        };
        let when = when.map_err(|message| self.invalid("schedule", spanned.span(), message))?;
        Ok(Schedule { enabled: raw.enabled, when })
    }

    fn events(&self, raw: RawEvents) -> Result<Events, Error> {
        let command = raw
            .command
            .as_ref()
            .map(|words| self.command("events.command", words, &WITH_EVENT))
            .transpose()?;
        if let Some(webhook) = &raw.webhook {
            let url = webhook.get_ref();
            let host = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
            if host.is_none_or(str::is_empty) || url.contains(char::is_whitespace) {
                return Err(self.invalid(
                    "events.webhook",
                    webhook.span(),
                    "is no http or https URL",
                ));
            }
        }
        Ok(Events {
            command,
            webhook: raw.webhook.map(Spanned::into_inner),
            on: raw.on.unwrap_or_default(),
        })
    }
}

/// A path next to another one, its name with something appended.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(suffix);
    path.with_file_name(name)
}
