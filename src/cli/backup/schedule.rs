//! `strongroom backup schedule`.

use clap::{Subcommand, ValueEnum};
use serde_json::{Value, json};

use super::age::age;
use super::defaults::Job;
use super::manage::{clean, local_time, policy};
use super::schedule_file::{Places, ScheduleFile, Scope, State};
use super::schedule_words::{keep_words, parse_words, words};
use super::timers::{Scheduler, cron};
use super::{CreateArgs, KeepArgs, create};
use crate::cli::Context;
use crate::cli::exit_code::ExitCode;
use crate::cli::failure::{CommandResult, Failure};
use crate::cli::output::human_size;
use crate::cli::profile_args;
use crate::cli::prompt::confirm;
use crate::profile::{Frequency, When};

/// Arguments of `backup schedule`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Schedule,
}

#[derive(Debug, Subcommand)]
enum Schedule {
    /// Make a schedule, or change it.
    Create(Box<ScheduleArgs>),
    /// List the schedules, with the last result of each; ends with 39 where one is overdue.
    List(ListArgs),
    /// Show a schedule and how it goes; ends with 39 where it is overdue.
    Show(NameArgs),
    /// Let it run.
    Enable(NameArgs),
    /// Let it not run.
    Disable(NameArgs),
    /// Delete it; its backups stay.
    Delete(DeleteArgs),
    /// Do now what it does.
    Run(NameArgs),
}

/// Whose schedules.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
struct ScopeArgs {
    /// This user's schedules; for all but root that is so anyway.
    #[arg(long, conflicts_with = "system")]
    user: bool,
    /// The machine's schedules; for root that is so anyway.
    #[arg(long)]
    system: bool,
}

impl ScopeArgs {
    fn places(self) -> Result<Places, Failure> {
        let root = rustix::process::geteuid().is_root();
        Places::new(if self.system || (root && !self.user) { Scope::System } else { Scope::User })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum FrequencyArg {
    Hourly,
    Daily,
    Weekly,
    Monthly,
}

#[derive(Clone, Debug, clap::Args)]
struct ScheduleArgs {
    #[command(flatten)]
    backup: CreateArgs,
    /// What the schedule is called; by default as its backups.
    #[arg(long, value_name = "NAME")]
    schedule_name: Option<String>,
    /// How often.
    #[arg(long, value_name = "FREQUENCY", conflicts_with = "calendar")]
    frequency: Option<FrequencyArg>,
    /// At what time: HH:MM.
    #[arg(long, value_name = "TIME", conflicts_with = "calendar")]
    time: Option<String>,
    /// On which day of the week, or of the month.
    #[arg(long, value_name = "DAY", conflicts_with = "calendar")]
    day: Option<String>,
    /// When, as systemd.time(7) has it; where cron runs it, as crontab(5) has.
    #[arg(long, value_name = "EXPRESSION")]
    calendar: Option<String>,
    /// Overdue when the last good backup is older: 12h, 3d, 2w.
    #[arg(long, value_name = "AGE")]
    max_age: Option<String>,
    /// What runs it; by default systemd where it runs, else cron.
    #[arg(long, value_name = "SCHEDULER")]
    scheduler: Option<Scheduler>,
    /// Make it, but let it not run yet.
    #[arg(long)]
    disabled: bool,
    #[command(flatten)]
    keep: KeepArgs,
    #[command(flatten)]
    scope: ScopeArgs,
}

#[derive(Clone, Debug, clap::Args)]
struct ListArgs {
    #[command(flatten)]
    scope: ScopeArgs,
}

#[derive(Clone, Debug, clap::Args)]
struct NameArgs {
    /// The schedule; may be left out where there is only one.
    name: Option<String>,
    #[command(flatten)]
    scope: ScopeArgs,
}

#[derive(Clone, Debug, clap::Args)]
struct DeleteArgs {
    #[command(flatten)]
    name: NameArgs,
    /// Answer the question with yes.
    #[arg(long, short)]
    yes: bool,
}

impl Args {
    pub(super) const fn name(&self) -> &'static str {
        match self.command {
            Schedule::Create(_) => "backup schedule create",
            Schedule::List(_) => "backup schedule list",
            Schedule::Show(_) => "backup schedule show",
            Schedule::Enable(_) => "backup schedule enable",
            Schedule::Disable(_) => "backup schedule disable",
            Schedule::Delete(_) => "backup schedule delete",
            Schedule::Run(_) => "backup schedule run",
        }
    }
}

pub(super) fn run(args: &Args, context: &Context) -> CommandResult {
    match &args.command {
        Schedule::Create(args) => make(args, context),
        Schedule::List(args) => list(args.scope.places()?, context),
        Schedule::Show(args) => show(args, context),
        Schedule::Enable(args) => switch(args, true, context),
        Schedule::Disable(args) => switch(args, false, context),
        Schedule::Delete(args) => delete(args, context),
        Schedule::Run(args) => run_now(args, context),
    }
}

fn usage(problem: impl Into<String>) -> Failure {
    Failure::new(ExitCode::Usage, problem)
}

/// The schedule of the profile's plan that is meant.
fn of_profile<'a>(args: &ScheduleArgs, job: &'a Job) -> Option<&'a crate::profile::Schedule> {
    let plan = args.backup.plan.as_deref();
    let plans = job.profile.iter().flat_map(|profile| &profile.backup.plans);
    let mut plans = plans.filter(|one| plan.is_none_or(|plan| one.name == plan));
    plans.find_map(|plan| plan.schedule.as_ref())
}

/// When it runs, and at what age of the last good backup it is overdue.
fn when(args: &ScheduleArgs, job: &Job) -> Result<(When, Option<i64>), Failure> {
    const HOUR: i64 = 3600;
    let overdue = |when: &When| match when {
        When::Hourly { .. } => Some(3 * HOUR),
        When::Daily { .. } => Some(50 * HOUR),
        When::Weekly { .. } => Some(15 * 24 * HOUR),
        When::Monthly { .. } => Some(63 * 24 * HOUR),
        When::Calendar(_) => None,
    };
    if let Some(expression) = &args.calendar {
        if expression.trim().is_empty() || expression.contains(['\n', '\r']) {
            return Err(usage("the calendar expression makes no sense"));
        }
        return Ok((When::Calendar(expression.clone()), None));
    }
    let Some(frequency) = args.frequency else {
        let when = match of_profile(args, job) {
            Some(schedule) => {
                schedule.when.moved(args.time.as_deref(), args.day.as_deref()).map_err(usage)?
            }
            None if args.time.is_some() => {
                When::new(Frequency::Daily, args.time.as_deref(), args.day.as_deref())
                    .map_err(usage)?
            }
            None => return Err(usage("nothing says when: give --frequency or --calendar")),
        };
        let overdue = overdue(&when);
        return Ok((when, overdue));
    };
    let frequency = match frequency {
        FrequencyArg::Hourly => Frequency::Hourly,
        FrequencyArg::Daily => Frequency::Daily,
        FrequencyArg::Weekly => Frequency::Weekly,
        FrequencyArg::Monthly => Frequency::Monthly,
    };
    let when = When::new(frequency, args.time.as_deref(), args.day.as_deref()).map_err(usage)?;
    let overdue = overdue(&when);
    Ok((when, overdue))
}

/// When, for people.
fn describe(when: &When) -> String {
    match when {
        When::Hourly { minute } => format!("every hour at minute {minute}"),
        When::Daily { hour, minute } => format!("every day at {hour:02}:{minute:02}"),
        When::Weekly { day, hour, minute } => {
            format!("every week on {day:?} at {hour:02}:{minute:02}")
        }
        When::Monthly { day, hour, minute } => {
            format!("every month on day {day} at {hour:02}:{minute:02}")
        }
        When::Calendar(expression) => expression.clone(),
    }
}

fn make(args: &ScheduleArgs, context: &Context) -> CommandResult {
    let mut args = args.clone();
    if args.backup.source.is_none() && args.backup.profile.profile.is_none() {
        // By its name: another profile may stand beside it when the schedule runs.
        args.backup.profile.profile = profile_args::usual()?;
    }
    let args = &args;
    let places = args.scope.places()?;
    let job = Job::new(&args.backup, context)?;
    let (when, mut max_age) = when(args, &job)?;
    if let Some(text) = &args.max_age {
        max_age = Some(age(text)?.as_secs());
    }
    policy(&args.keep)?;
    let name = args.schedule_name.clone().unwrap_or_else(|| job.name.clone());
    crate::backup::BackupName::new(
        &name,
        crate::tree::Timestamp::default(),
        crate::archive::Compression::None,
        false,
    )?;
    let secret = &args.backup.secret;
    if secret.passphrase_stdin
        || secret.secret.passphrase_fd.is_some()
        || secret.secret.recovery_key
    {
        return Err(usage("nobody is there to give the secret when a schedule runs")
            .hint("give --passphrase-file, --passphrase-command or --key-file"));
    }
    if job.encrypt && !job.secret(&args.backup)?.is_given() {
        context.output.warn(
            "nothing says where the passphrase comes from when nobody is there: the runs will \
             look for the systemd credential strongroom.passphrase; --passphrase-file, \
             --passphrase-command or --key-file say it",
        );
    }
    let scheduler = args.scheduler.unwrap_or_else(|| Scheduler::usual(places.scope));
    let said = args.frequency.is_some()
        || args.calendar.is_some()
        || args.time.is_some()
        || args.day.is_some();
    let file = ScheduleFile {
        name: name.clone(),
        enabled: !args.disabled && (said || of_profile(args, &job).is_none_or(|one| one.enabled)),
        when: describe(&when),
        calendar: when.calendar(),
        cron: cron(&when),
        scheduler: scheduler.name().to_owned(),
        max_age_seconds: max_age,
        created: jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        backup: words(&args.backup)?,
        cleanup: keep_words(&args.keep),
    };
    // What cannot be read back is better known now.
    parse_words(&file)?;
    let before = ScheduleFile::all(&places)?.into_iter().find(|one| one.name == name);
    if let Some(before) = &before
        && Scheduler::of(before) != scheduler
    {
        Scheduler::of(before).uninstall(before, &places, context)?;
    }
    let made = scheduler.install(&file, &places, context)?;
    let path = file.write(&places)?;
    let replaced = if before.is_some() { "; it replaced the one of that name" } else { "" };
    context.output.say(format!("{name}: {}, by {}{replaced}", file.when, scheduler.name()));
    let files = std::iter::once(&path).chain(&made);
    let files: Vec<String> = files.map(|path| path.display().to_string()).collect();
    files.iter().for_each(|path| context.output.detail(format!("wrote {path}")));
    let result = json!({ "schedule": file, "files": files, "replaced": before.is_some() });
    context.output.result("backup schedule create", &result);
    Ok(())
}

/// Seconds since 1970.
fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

fn is_overdue(file: &ScheduleFile, state: &State) -> bool {
    let made = file.created.parse::<jiff::Timestamp>().map_or(0, |created| created.as_second());
    // A schedule that never ran has from its making on. Where no age is too old, a failure is.
    let since = state.last_good.unwrap_or(made);
    let failed = state.last_result.as_deref().is_some_and(|it| it != ExitCode::Success.name());
    file.enabled && file.max_age_seconds.map_or(failed, |most| now() - since > most)
}

fn report(file: &ScheduleFile, state: &State) -> Value {
    json!({
        "schedule": file,
        "state": state,
        "last_good_age_seconds": state.last_good.map(|good| now() - good),
        "overdue": is_overdue(file, state),
    })
}

fn overdue_failure(names: &[String], details: Value) -> Failure {
    let message = match names {
        [name] => format!("the last backup of {name} failed, or the last good one is too old"),
        names => format!("backups fail, or the last good ones are old: {}", names.join(", ")),
    };
    Failure::new(ExitCode::BackupOverdue, message)
        .hint("strongroom backup schedule run NAME makes one now, and says what is wrong")
        .detail("schedules", details)
}

fn list(places: Places, context: &Context) -> CommandResult {
    let output = &context.output;
    let all = ScheduleFile::all(&places)?;
    if all.is_empty() {
        output.print("no schedules");
    } else {
        output.print(format!(
            "{:<20} {:<9} {:<34} {:<18} {}",
            "NAME", "STATE", "WHEN", "LAST RESULT", "LAST GOOD BACKUP"
        ));
    }
    let (mut overdue, mut reports) = (Vec::new(), Vec::new());
    for file in &all {
        let state = State::read(&places, &file.name);
        if is_overdue(file, &state) {
            overdue.push(file.name.clone());
        }
        output.print(format!(
            "{:<20} {:<9} {:<34} {:<18} {}",
            file.name,
            if file.enabled { "enabled" } else { "disabled" },
            file.when,
            state.last_result.as_deref().unwrap_or("never ran"),
            state.last_good.map_or_else(|| "none".to_owned(), local_time)
        ));
        reports.push(report(file, &state));
    }
    if !overdue.is_empty() {
        return Err(overdue_failure(&overdue, reports.into()));
    }
    output.result("backup schedule list", &json!({ "schedules": reports }));
    Ok(())
}

/// The one that is named, or the only one.
fn find(args: &NameArgs, places: &Places) -> Result<ScheduleFile, Failure> {
    if let Some(name) = &args.name {
        return ScheduleFile::find(places, name);
    }
    let mut all = ScheduleFile::all(places)?;
    match all.len() {
        1 => Ok(all.remove(0)),
        0 => Err(Failure::new(ExitCode::Failure, "there is no schedule")
            .hint("strongroom backup schedule create makes one")),
        _ => {
            let names: Vec<String> = all.into_iter().map(|one| one.name).collect();
            Err(usage("there are several schedules: name one").hint(names.join(", ")))
        }
    }
}

fn show(args: &NameArgs, context: &Context) -> CommandResult {
    let places = args.scope.places()?;
    let file = find(args, &places)?;
    let state = State::read(&places, &file.name);
    let output = &context.output;
    output.print(format!("Schedule     {}", file.name));
    output.print(format!("State        {}", if file.enabled { "enabled" } else { "disabled" }));
    output.print(format!("When         {} ({}), by {}", file.when, file.calendar, file.scheduler));
    output.print(format!("Does         strongroom backup create {}", file.backup.join(" ")));
    if !file.cleanup.is_empty() {
        output.print(format!("Then         strongroom backup cleanup {}", file.cleanup.join(" ")));
    }
    if let Some(run) = state.last_run {
        let result = state.last_result.as_deref().unwrap_or("unknown");
        output.print(format!("Last run     {}: {result}", local_time(run)));
    }
    if let Some(message) = &state.message {
        output.print(format!("             {message}"));
    }
    match (state.last_good, &state.archive) {
        (Some(good), archive) => {
            output.print(format!(
                "Last good    {}, {} hours ago",
                local_time(good),
                (now() - good) / 3600
            ));
            if let Some(archive) = archive {
                let size =
                    state.size.map_or_else(String::new, |size| format!(" ({})", human_size(size)));
                output.print(format!("             {archive}{size}"));
            }
        }
        (None, _) => output.print("Last good    none yet"),
    }
    if is_overdue(&file, &state) {
        let report = Value::Array(vec![report(&file, &state)]);
        return Err(overdue_failure(&[file.name], report));
    }
    output.result("backup schedule show", &report(&file, &state));
    Ok(())
}

fn switch(args: &NameArgs, enabled: bool, context: &Context) -> CommandResult {
    let places = args.scope.places()?;
    let mut file = find(args, &places)?;
    file.enabled = enabled;
    Scheduler::of(&file).install(&file, &places, context)?;
    file.write(&places)?;
    let word = if enabled { "enabled" } else { "disabled" };
    context.output.say(format!("{} is {word}", file.name));
    let name = if enabled { "backup schedule enable" } else { "backup schedule disable" };
    context.output.result(name, &json!({ "schedule": file }));
    Ok(())
}

fn delete(args: &DeleteArgs, context: &Context) -> CommandResult {
    let places = args.name.scope.places()?;
    let file = find(&args.name, &places)?;
    // What it made stays, so that only a terminal is asked.
    if crate::cli::prompt::has_terminal() {
        confirm(&format!("Delete the schedule {}?", file.name), args.yes)?;
    }
    Scheduler::of(&file).uninstall(&file, &places, context)?;
    file.remove(&places)?;
    context.output.say(format!("deleted {}; its backups stay", file.name));
    context.output.result("backup schedule delete", &json!({ "deleted": file.name }));
    Ok(())
}

fn run_now(args: &NameArgs, context: &Context) -> CommandResult {
    let places = args.scope.places()?;
    let file = find(args, &places)?;
    let mut state = State::read(&places, &file.name);
    state.last_run = Some(now());
    let result = run_file(&file, context);
    match &result {
        Ok((made, _)) => {
            state.last_result = Some(ExitCode::Success.name().to_owned());
            state.message = None;
            state.last_good = Some(now());
            state.archive = Some(made.path.display().to_string());
            state.size = Some(made.sidecar.size);
        }
        Err(failure) => {
            state.last_result = Some(failure.code.name().to_owned());
            state.message = Some(failure.message.clone());
        }
    }
    state.write(&places, &file.name)?;
    let (made, cleaned) = result?;
    let output = &context.output;
    output.say(format!("{} ({})", made.path.display(), human_size(made.sidecar.size)));
    let mut told = create::result(&made);
    if let Value::Object(fields) = &mut told {
        fields.insert("schedule".into(), file.name.clone().into());
        fields.insert("deleted".into(), json!(cleaned.as_ref().ok()));
    }
    // A backup that was made is good, whatever becomes of old ones.
    if let Err(failure) = cleaned {
        output.warn(format!("old backups were not deleted: {}", failure.message));
    }
    output.result("backup schedule run", &told);
    Ok(())
}

type Ran = (crate::backup::Created, Result<Vec<String>, Failure>);

fn run_file(file: &ScheduleFile, context: &Context) -> Result<Ran, Failure> {
    let (args, keep) = parse_words(file)?;
    let made = create::make(&args, context)?;
    let job = Job::new(&args, context)?;
    let mut rules = policy(&keep)?;
    if rules.is_empty() {
        rules = job.retention.clone();
    }
    if rules.is_empty() {
        return Ok((made, Ok(Vec::new())));
    }
    let cleaned = clean(&job.output, &rules, Some(&job.name), false, context);
    Ok((made, cleaned.map(|(deleted, _)| deleted)))
}
