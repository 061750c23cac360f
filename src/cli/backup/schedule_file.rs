//! What is kept of a schedule: what it does (a TOML file that a person can read and edit), and how
//! it went (a JSON file).

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::cli::exit_code::ExitCode;
use crate::cli::failure::Failure;
use crate::profile::Environment;

/// Whose schedules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// The machine's: root's.
    System,
    /// One user's.
    User,
}

/// Where the files of schedules lie.
#[derive(Clone, Debug)]
pub(super) struct Places {
    pub(super) scope: Scope,
    pub(super) schedules: PathBuf,
    states: PathBuf,
    /// systemd's units.
    pub(super) units: PathBuf,
}

impl Places {
    pub(super) fn new(scope: Scope) -> Result<Self, Failure> {
        if scope == Scope::System {
            return Ok(Self {
                scope,
                schedules: "/etc/strongroom/schedules".into(),
                states: "/var/lib/strongroom/schedules".into(),
                units: "/etc/systemd/system".into(),
            });
        }
        let environment = Environment::of_process();
        let expand = |text: &str| {
            environment.expand(text).map_err(|problem| {
                Failure::new(ExitCode::Usage, format!("no place for schedules: {problem}"))
            })
        };
        Ok(Self {
            scope,
            schedules: expand("${XDG_CONFIG_HOME}/strongroom/schedules")?,
            states: expand("${XDG_STATE_HOME}/strongroom/schedules")?,
            units: expand("${XDG_CONFIG_HOME}/systemd/user")?,
        })
    }
}

/// What a schedule does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct ScheduleFile {
    pub(super) name: String,
    pub(super) enabled: bool,
    /// When, for people.
    pub(super) when: String,
    /// When, as a calendar expression of systemd's.
    pub(super) calendar: String,
    /// When, as cron has it, where it can be said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) cron: Option<String>,
    /// What runs it: `systemd` or `cron`.
    pub(super) scheduler: String,
    /// The age of the last good backup at which it is overdue, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) max_age_seconds: Option<i64>,
    /// The directory that backups are made from, where it is given.
    pub(super) created: String,
    /// The arguments of `strongroom backup create`.
    pub(super) backup: Vec<String>,
    /// The options of `strongroom backup cleanup`.
    #[serde(default)]
    pub(super) cleanup: Vec<String>,
}

/// How a schedule went.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct State {
    /// When it last ran: seconds since 1970.
    pub(super) last_run: Option<i64>,
    /// The name of the exit code that it ended with.
    pub(super) last_result: Option<String>,
    /// What it told when it failed.
    pub(super) message: Option<String>,
    /// When the last good backup was made: seconds since 1970.
    pub(super) last_good: Option<i64>,
    /// That backup.
    pub(super) archive: Option<String>,
    /// Its size in bytes.
    pub(super) size: Option<u64>,
}

const HEAD: &str = "\
# A schedule of strongroom's. `strongroom backup schedule run NAME` does what stands here; the times
# stand in the systemd timer or the crontab, too, which `schedule create` makes anew.
";

impl ScheduleFile {
    fn path(places: &Places, name: &str) -> PathBuf {
        places.schedules.join(format!("{name}.toml"))
    }

    /// All schedules, by name.
    pub(super) fn all(places: &Places) -> Result<Vec<Self>, Failure> {
        let entries = match fs::read_dir(&places.schedules) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(Failure::io("list", &places.schedules, &error)),
        };
        let mut all = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|error| Failure::io("list", &places.schedules, &error))?;
            if entry.path().extension().is_some_and(|extension| extension == "toml") {
                all.push(Self::read(&entry.path())?);
            }
        }
        all.sort_by(|left, right| left.name.cmp(&right.name));
        Ok(all)
    }

    pub(super) fn find(places: &Places, name: &str) -> Result<Self, Failure> {
        let path = Self::path(places, name);
        if !path.exists() {
            let all: Vec<String> = Self::all(places)?.into_iter().map(|one| one.name).collect();
            let failure = Failure::new(ExitCode::Failure, format!("there is no schedule {name}"));
            return Err(match all.is_empty() {
                true => failure.hint("strongroom backup schedule create makes one"),
                false => failure.hint(format!("there are: {}", all.join(", "))),
            });
        }
        Self::read(&path)
    }

    fn read(path: &Path) -> Result<Self, Failure> {
        let text = fs::read_to_string(path).map_err(|error| Failure::io("read", path, &error))?;
        toml::from_str(&text).map_err(|error| {
            Failure::new(
                ExitCode::Failure,
                format!("{} cannot be understood: {}", path.display(), error.message()),
            )
        })
    }

    pub(super) fn write(&self, places: &Places) -> Result<PathBuf, Failure> {
        let text = toml::to_string_pretty(self).map_err(|error| {
            Failure::new(ExitCode::Failure, format!("the schedule cannot be written: {error}"))
        })?;
        let path = Self::path(places, &self.name);
        replace(&path, &format!("{HEAD}\n{text}"), 0o600)?;
        Ok(path)
    }

    pub(super) fn remove(&self, places: &Places) -> Result<(), Failure> {
        remove(&Self::path(places, &self.name))?;
        remove(&State::path(places, &self.name))
    }
}

impl State {
    fn path(places: &Places, name: &str) -> PathBuf {
        places.states.join(format!("{name}.json"))
    }

    /// What is known; nothing where it never ran.
    pub(super) fn read(places: &Places, name: &str) -> Self {
        fs::read(Self::path(places, name))
            .ok()
            .and_then(|text| serde_json::from_slice(&text).ok())
            .unwrap_or_default()
    }

    pub(super) fn write(&self, places: &Places, name: &str) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(self).unwrap_or_default();
        replace(&Self::path(places, name), &format!("{text}\n"), 0o600)
    }
}

/// Replaces a file durably, with the directories that it needs.
pub(super) fn replace(path: &Path, text: &str, mode: u32) -> Result<(), Failure> {
    use std::os::unix::fs::PermissionsExt as _;
    let failed = |error: std::io::Error| Failure::io("write", path, &error);
    let directory = path.parent().unwrap_or_else(|| Path::new("."));
    fs::create_dir_all(directory).map_err(|error| Failure::io("create", directory, &error))?;
    let mut file = tempfile::Builder::new()
        .prefix(".strongroom-")
        .permissions(fs::Permissions::from_mode(mode))
        .tempfile_in(directory)
        .map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)?;
    file.as_file().sync_all().map_err(failed)?;
    file.persist(path).map_err(|error| failed(error.error))?;
    fs::File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed)
}

pub(super) fn remove(path: &Path) -> Result<(), Failure> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Failure::io("remove", path, &error))
        }
        _ => Ok(()),
    }
}
