//! Puts a schedule into systemd's or cron's hands, by files and lines that a person can read.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::schedule_file::{Places, ScheduleFile, Scope, remove, replace};
use crate::cli::Context;
use crate::cli::exit_code::ExitCode;
use crate::cli::failure::Failure;
use crate::cli::shell;
use crate::profile::{Day, When};

const CRON_DIRECTORY: &str = "/etc/cron.d";

/// What runs schedules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Scheduler {
    /// Timers of systemd's.
    Systemd,
    /// Lines of a crontab.
    Cron,
}

impl Scheduler {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Systemd => "systemd",
            Self::Cron => "cron",
        }
    }

    pub(super) fn of(file: &ScheduleFile) -> Self {
        if file.scheduler == "cron" { Self::Cron } else { Self::Systemd }
    }

    /// systemd where it runs, else cron.
    pub(super) fn usual(scope: Scope) -> Self {
        let runs = Path::new("/run/systemd/system").is_dir()
            && (scope == Scope::System
                || std::env::var_os("XDG_RUNTIME_DIR")
                    .is_some_and(|runtime| Path::new(&runtime).join("systemd").is_dir()));
        if runs { Self::Systemd } else { Self::Cron }
    }

    /// Makes what runs the schedule, if it is enabled; what there was goes.
    pub(super) fn install(
        self,
        file: &ScheduleFile,
        places: &Places,
        context: &Context,
    ) -> Result<Vec<PathBuf>, Failure> {
        match self {
            Self::Systemd => install_systemd(file, places, context),
            Self::Cron => install_cron(file, places, context),
        }
    }

    /// Removes what runs the schedule.
    pub(super) fn uninstall(
        self,
        file: &ScheduleFile,
        places: &Places,
        context: &Context,
    ) -> Result<(), Failure> {
        match self {
            Self::Systemd => {
                let timer = format!("{}.timer", unit(&file.name));
                systemctl(places, &["disable", "--now", &timer], context);
                remove(&places.units.join(&timer))?;
                remove(&places.units.join(format!("{}.service", unit(&file.name))))?;
                systemctl(places, &["daemon-reload"], context);
                Ok(())
            }
            Self::Cron if places.scope == Scope::System => remove(&cron_file(&file.name)),
            Self::Cron => edit_crontab(&file.name, None),
        }
    }
}

fn unit(name: &str) -> String {
    format!("strongroom-backup-{name}")
}

/// The words that run a schedule.
fn program(places: &Places, name: &str) -> Result<Vec<String>, Failure> {
    let own = std::env::current_exe()
        .map_err(|error| Failure::io("find", Path::new("this program"), &error))?;
    let own = own.to_str().ok_or_else(|| {
        Failure::new(ExitCode::Failure, format!("{} is not UTF-8", own.display()))
    })?;
    let scope = if places.scope == Scope::User { "--user" } else { "--system" };
    Ok([own, "backup", "schedule", "run", name, scope].map(str::to_owned).to_vec())
}

fn install_systemd(
    file: &ScheduleFile,
    places: &Places,
    context: &Context,
) -> Result<Vec<PathBuf>, Failure> {
    let name = &file.name;
    if is_cron(&file.calendar) {
        let problem = format!("systemd has no such time as {:?}", file.calendar);
        return Err(Failure::new(ExitCode::Usage, problem)
            .hint("write it as systemd.time(7) has it: every six hours is '*-*-* 00/6:00:00'"));
    }
    let made = format!(
        "# Made by `strongroom backup schedule create`; `strongroom backup schedule delete {name}`\n\
         # removes it.\n"
    );
    let words: Vec<String> = program(places, name)?
        .iter()
        .map(|word| {
            format!("\"{}\"", word.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%"))
        })
        .collect();
    let service = format!(
        "{made}[Unit]\nDescription=Backup {name} (strongroom)\n\n\
         [Service]\nType=oneshot\nExecStart={}\nUMask=0077\nNice=10\n\
         IOSchedulingClass=best-effort\nIOSchedulingPriority=7\n",
        words.join(" ")
    );
    let timer = format!(
        "{made}[Unit]\nDescription=Backup {name} (strongroom), {}\n\n\
         [Timer]\nOnCalendar={}\nPersistent=true\n\n[Install]\nWantedBy=timers.target\n",
        file.when, file.calendar
    );
    let timer_name = format!("{}.timer", unit(name));
    let paths =
        [places.units.join(format!("{}.service", unit(name))), places.units.join(&timer_name)];
    replace(&paths[0], &service, 0o644)?;
    replace(&paths[1], &timer, 0o644)?;
    systemctl(places, &["daemon-reload"], context);
    let verb = if file.enabled { "enable" } else { "disable" };
    systemctl(places, &[verb, "--now", &timer_name], context);
    Ok(paths.to_vec())
}

/// What systemd refuses is a warning: the files are there for when it runs.
fn systemctl(places: &Places, arguments: &[&str], context: &Context) {
    let mut command = Command::new("systemctl");
    if places.scope == Scope::User {
        command.arg("--user");
    }
    let result = command.args(arguments).stdin(Stdio::null()).output();
    let problem = match result {
        Ok(output) if output.status.success() => return,
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        Err(error) => error.to_string(),
    };
    context.output.warn(format!("systemctl {} failed: {problem}", arguments.join(" ")));
}

fn cron_file(name: &str) -> PathBuf {
    // cron passes over names with dots.
    Path::new(CRON_DIRECTORY).join(unit(name).replace('.', "_"))
}

fn install_cron(
    file: &ScheduleFile,
    places: &Places,
    context: &Context,
) -> Result<Vec<PathBuf>, Failure> {
    let Some(times) = &file.cron else {
        return Err(Failure::new(
            ExitCode::Usage,
            format!("cron has no such time as {:?}", file.calendar),
        )
        .hint("use --frequency, --time and --day, or cron's five fields: '0 */6 * * *'"));
    };
    let words: Vec<String> = program(places, &file.name)?.iter().map(|word| quote(word)).collect();
    let command = words.join(" ");
    let comment = if file.enabled { "" } else { "# disabled: " };
    if places.scope == Scope::User {
        edit_crontab(&file.name, Some(&format!("{comment}{times} {command}")))?;
        return Ok(Vec::new());
    }
    if !Path::new(CRON_DIRECTORY).is_dir() {
        return Err(Failure::new(
            ExitCode::Failure,
            format!("neither systemd runs here, nor is there {CRON_DIRECTORY}; nothing was made"),
        )
        .hint("install cron, or run `strongroom backup create` from what starts programs here"));
    }
    let path = cron_file(&file.name);
    let text = format!(
        "# Made by `strongroom backup schedule create`: {}.\n\
         # `strongroom backup schedule delete {}` removes it.\n{comment}{times} root {command}\n",
        file.when, file.name
    );
    replace(&path, &text, 0o644)?;
    if !["/usr/sbin/cron", "/usr/sbin/crond", "/usr/bin/crond"]
        .iter()
        .any(|cron| Path::new(cron).exists())
    {
        context
            .output
            .warn(format!("no cron is installed: nothing reads {} until one is", path.display()));
    }
    Ok(vec![path])
}

/// A word for sh, in a line of cron's, where `%` means the end of the line.
fn quote(word: &str) -> String {
    shell::quote(word).replace('%', r"\%")
}

/// Puts a line into the user's crontab, or takes it out.
fn edit_crontab(name: &str, line: Option<&str>) -> Result<(), Failure> {
    let failed = |problem: String| {
        Failure::new(ExitCode::Failure, format!("the crontab cannot be changed: {problem}"))
            .hint("install cron, or use --scheduler systemd")
    };
    let listed = Command::new("crontab")
        .arg("-l")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| failed(error.to_string()))?;
    // Without a crontab it fails, and prints none.
    let old = String::from_utf8_lossy(&listed.stdout).into_owned();
    let new = with_line(&old, name, line);
    if new == old {
        return Ok(());
    }
    let mut child = Command::new("crontab")
        .arg("-")
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(new.as_bytes()).map_err(|error| failed(error.to_string()))?;
    }
    let output = child.wait_with_output().map_err(|error| failed(error.to_string()))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned())),
    }
}

/// A crontab with the line of one schedule in it, or without.
fn with_line(crontab: &str, name: &str, line: Option<&str>) -> String {
    let mark = format!("# strongroom backup schedule {name}:");
    let mut lines: Vec<&str> = Vec::new();
    let mut ours = false;
    for old in crontab.lines() {
        if ours || old == mark {
            ours = !ours;
        } else {
            lines.push(old);
        }
    }
    if let Some(line) = line {
        lines.extend([&*mark, line]);
    }
    let mut text = lines.join("\n");
    if !text.is_empty() {
        text.push('\n');
    }
    text
}

/// A time as cron has it.
pub(super) fn cron(when: &When) -> Option<String> {
    Some(match when {
        When::Hourly { minute } => format!("{minute} * * * *"),
        When::Daily { hour, minute } => format!("{minute} {hour} * * *"),
        When::Weekly { day, hour, minute } => {
            let number = match day {
                Day::Sunday => 0,
                Day::Monday => 1,
                Day::Tuesday => 2,
                Day::Wednesday => 3,
                Day::Thursday => 4,
                Day::Friday => 5,
                Day::Saturday => 6,
            };
            format!("{minute} {hour} * * {number}")
        }
        When::Monthly { day, hour, minute } => format!("{minute} {hour} {day} * *"),
        When::Calendar(expression) if is_cron(expression) => expression.clone(),
        When::Calendar(_) => return None,
    })
}

/// Whether an expression is of cron's five fields. No expression of systemd's has as many.
fn is_cron(expression: &str) -> bool {
    let is_field = |field: &str| {
        field.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"*/,-".contains(&byte))
    };
    expression.split_whitespace().count() == 5 && expression.split_whitespace().all(is_field)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::profile::Frequency;

    #[test]
    fn times_as_cron_has_them() {
        let cron = |frequency, time, day| cron(&When::new(frequency, time, day).unwrap()).unwrap();
        assert_eq!(cron(Frequency::Hourly, Some("00:07"), None), "7 * * * *");
        assert_eq!(cron(Frequency::Daily, Some("02:00"), None), "0 2 * * *");
        assert_eq!(cron(Frequency::Weekly, Some("03:30"), Some("sunday")), "30 3 * * 0");
        assert_eq!(cron(Frequency::Monthly, None, Some("28")), "0 2 28 * *");
        let calendar = |expression: &str| super::cron(&When::Calendar(expression.into()));
        for good in ["0 */6 * * *", "5,35 1-4 * jan-mar mon"] {
            assert_eq!(calendar(good).as_deref(), Some(good));
        }
        for bad in ["hourly", "Mon *-*-* 02:00:00", "* * * * * reboot", "* * * * $(x)", "0 1 * *"] {
            assert_eq!(calendar(bad), None, "{bad}");
        }
    }

    #[test]
    fn other_lines_of_a_crontab_stay() {
        let old = "MAILTO=me\n0 1 * * * mine\n";
        let one = with_line(old, "a", Some("0 2 * * * a"));
        assert_eq!(one, format!("{old}# strongroom backup schedule a:\n0 2 * * * a\n"));
        let two = with_line(&one, "b", Some("0 3 * * * b"));
        let changed = with_line(&two, "a", Some("0 4 * * * a"));
        assert!(changed.contains("0 4 * * * a") && !changed.contains("0 2 * * * a"));
        let gone = with_line(&with_line(&changed, "a", None), "b", None);
        assert_eq!(gone, old);
        assert_eq!(with_line("", "a", None), "");
    }

    #[test]
    fn words_for_cron() {
        assert_eq!(quote("/usr/bin/a"), "/usr/bin/a");
        assert_eq!(quote("a b%"), r"'a b\%'");
        assert_eq!(quote("it's"), r"'it'\''s'");
    }
}
