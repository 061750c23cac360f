//! `strongroom fsck`.

use std::ops::Range;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use serde_json::{Value, json};

use super::Context;
use super::exit_code::ExitCode;
use super::failure::{CommandResult, Failure};
use super::output::{Output, Progress, Unit, human_size};
use super::prompt::{SecretArgs, confirm};
use super::vault_args::{ConfigArgs, unlock};
use crate::backing::os::OsDirectory;
use crate::check::{
    CheckError, Finding, Observer, Options, Outcome, Phase, Report, Salvage, Session, Severity,
    Totals,
};
use crate::format::config::ConfigError;
use crate::vault::{Locked, Unlocked, Vault, VaultError};

const EXAMPLES: &str = "\
Examples:
  strongroom fsck ~/vault                           directories, names, headers; reads no content
  strongroom fsck ~/vault --read-data               every block, too
  strongroom fsck ~/vault --read-data --repair      shows a plan, asks, and mends what can be
  strongroom fsck ~/vault --read-data --salvage ~/saved
                                                    copies out what is left of damaged files

The vault must not be mounted. Exit codes: 0 nothing is damaged, 35 all that was found was repaired,
20 damage is left.";

/// Ranges that are shown of one finding.
const RANGES_SHOWN: usize = 8;
const SALVAGE_MODE: u32 = 0o700;

/// Arguments of `fsck`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The vault.
    vault: PathBuf,
    /// Read and authenticate every block, too.
    #[arg(long)]
    read_data: bool,
    /// Repair what can be repaired. Shows what will be done, and asks.
    #[arg(long)]
    repair: bool,
    /// Do not ask.
    #[arg(long, short = 'y', requires = "repair")]
    yes: bool,
    /// Copy what can be read of what is damaged into DIR, which is empty or does not exist yet.
    #[arg(long, value_name = "DIR")]
    salvage: Option<PathBuf>,
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    secret: SecretArgs,
}

/// Checks a vault that is not mounted.
pub fn run(args: &Args, context: &Context) -> CommandResult {
    let output = &context.output;
    let (mut vault, first_copy_used) = open(args, context)?;
    let salvage_to = args.salvage.as_deref().map(salvage_directory).transpose()?;
    let directory = vault.directory().map_err(|it| Failure::io("open", &args.vault, &it))?;
    let owner = format!("strongroom fsck, process {}", std::process::id());
    let session = Session::open(directory, vault.master_key(), &owner)?;
    let options = Options { read_data: args.read_data, ..Options::default() };
    let teller = Teller::new(output);
    let mut report = session.check(options, &teller)?;
    teller.end();
    if !first_copy_used || !vault.copies_agree() {
        let finding = Finding::config_copies();
        teller.found(&finding);
        report.findings.insert(0, finding);
    }
    for finding in &report.findings {
        output.print(describe(finding));
    }
    say_totals(output, &report);

    let mut outcomes = Vec::new();
    if args.repair && report.plan().next().is_some() {
        output.say("Plan:");
        for finding in report.plan() {
            let remedy = finding.remedy.as_ref().map(|it| it.describe()).unwrap_or_default();
            output.say(format!("  {}: {}: {remedy}", place(finding), finding.problem));
        }
        let count = report.plan().count();
        confirm(&format!("Carry out the {} of the plan?", steps(count)), args.yes)?;
        outcomes = repair(&mut vault, &session, &report, &teller)?;
        teller.end();
    }
    for Outcome { finding, failure } in &outcomes {
        match failure {
            None => output.say(format!("repaired {}: {}", place(finding), finding.problem)),
            Some(reason) => {
                output.warn(format!("{} was not repaired: {reason}", place(finding)));
            }
        }
    }
    let left = left_over(&report, &outcomes);
    let salvage = match &salvage_to {
        Some((path, directory)) if left.damage().next().is_some() => {
            let salvage = session.salvage(&left, directory, &teller)?;
            teller.end();
            tell_salvage(output, path, &salvage)?;
            salvage
        }
        _ => Salvage::default(),
    };
    finish(args, output, &report, &left, &outcomes, &salvage)
}

/// The unlocked vault, and whether the first copy of its configuration was good for it.
fn open(args: &Args, context: &Context) -> Result<(Vault<Unlocked>, bool), Failure> {
    let config = args.config.config.as_deref();
    let first = Vault::open(&args.vault, config).map(|vault| {
        let first_copy_used = vault.fallback().is_none();
        (vault, first_copy_used)
    });
    let (locked, first_copy_used) = match first {
        Ok(opened) => opened,
        Err(error) if other_copy_may_serve(&error) => {
            context.output.warn(format!("{error}; the second copy is used"));
            (Vault::open_second_copy(&args.vault, config)?, false)
        }
        Err(error) => return Err(error.into()),
    };
    match unlock(&locked, &args.secret, context) {
        Err(failure) if failure.code == ExitCode::ConfigAltered && first_copy_used => {
            let second: Vault<Locked> = match Vault::open_second_copy(&args.vault, config) {
                Ok(second) => second,
                Err(_) => return Err(failure),
            };
            context.output.warn(format!("{}; the second copy is tried", failure.message));
            Ok((unlock(&second, &args.secret, context)?, false))
        }
        unlocked => Ok((unlocked?, first_copy_used)),
    }
}

/// Whether the first copy is damaged or altered, and not of a version that is not known.
fn other_copy_may_serve(error: &VaultError) -> bool {
    match error {
        VaultError::Config { error, whole_copy: Some(_), .. } => !matches!(
            error,
            ConfigError::UnsupportedVersion { .. }
                | ConfigError::UnknownFeature { .. }
                | ConfigError::UnsupportedCipher { .. }
        ),
        _ => false,
    }
}

fn salvage_directory(path: &Path) -> Result<(&Path, OsDirectory), Failure> {
    match OsDirectory::create(path, SALVAGE_MODE) {
        Ok(directory) => return Ok((path, directory)),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(Failure::io("create", path, &error)),
    }
    let mut entries = std::fs::read_dir(path).map_err(|error| Failure::io("list", path, &error))?;
    if entries.next().is_some() {
        return Err(Failure::new(
            ExitCode::AlreadyExists,
            format!("{} is not empty; nothing was changed", path.display()),
        )
        .hint("name a directory that is empty or does not exist"));
    }
    let directory = OsDirectory::open(path).map_err(|error| Failure::io("open", path, &error))?;
    Ok((path, directory))
}

fn repair(
    vault: &mut Vault<Unlocked>,
    session: &Session,
    report: &Report,
    teller: &Teller<'_>,
) -> Result<Vec<Outcome>, Failure> {
    let mut outcomes = Vec::new();
    // First: without a configuration nothing can be opened.
    for finding in report.plan().filter(|it| **it == Finding::config_copies()) {
        let failure = vault.write_copies().err().map(|error| error.to_string());
        outcomes.push(Outcome { finding: finding.clone(), failure });
    }
    outcomes.extend(session.repair(report, teller)?);
    Ok(outcomes)
}

/// The report without what was repaired.
fn left_over(report: &Report, outcomes: &[Outcome]) -> Report {
    let repaired = |finding: &Finding| {
        outcomes.iter().any(|it| it.failure.is_none() && it.finding == *finding)
    };
    let findings = report.findings.iter().filter(|it| !repaired(it)).cloned().collect();
    Report { findings, ..report.clone() }
}

fn finish(
    args: &Args,
    output: &Output,
    report: &Report,
    left: &Report,
    outcomes: &[Outcome],
    salvage: &Salvage,
) -> CommandResult {
    let repaired = outcomes.iter().filter(|outcome| outcome.failure.is_none()).count();
    let damage = left.damage().count();
    let details = json!({
        "vault": args.vault.display().to_string(),
        "read_data": report.read_data,
        "directories": report.totals.directories,
        "files": report.totals.files,
        "bytes_read": report.bytes_read,
        "found": report.findings.len(),
        "repaired": repaired,
        "damage_left": damage,
        "salvaged": salvage.files.iter().filter(|file| file.target.is_some()).count(),
    });
    if damage > 0 {
        let what = if damage == 1 { "1 thing is" } else { &format!("{damage} things are") };
        let mut failure = Failure::new(
            ExitCode::DamageFound,
            format!("{what} damaged in {}; the rest is readable", args.vault.display()),
        );
        if let Value::Object(fields) = details {
            failure.details.extend(fields);
        }
        return Err(match (left.plan().any(is_damage), &args.salvage) {
            (true, _) if !args.repair => {
                failure.hint("some of it can be repaired: run it again with --repair")
            }
            (_, None) => failure.hint(
                "restore the files named from a backup; --salvage DIR copies out what is left of \
                 them",
            ),
            (_, Some(_)) => failure.hint("restore the files named from a backup"),
        });
    }
    output.result("fsck", &details);
    if repaired > 0 {
        output.say("Everything that was damaged or left behind is repaired.");
        return Err(Failure::told(ExitCode::Repaired));
    }
    output.say(match (report.findings.is_empty(), report.read_data) {
        (true, true) => "No damage.",
        (true, false) => "No damage; the content was not read (--read-data does).",
        (false, _) => "No damage; --repair tidies up what was left behind.",
    });
    Ok(())
}

fn is_damage(finding: &Finding) -> bool {
    finding.problem.severity() == Severity::Damage
}

fn say_totals(output: &Output, report: &Report) {
    let Totals { directories, files, entries, .. } = report.totals;
    let read = if report.read_data {
        format!(", {} read", human_size(report.bytes_read))
    } else {
        String::new()
    };
    output.say(format!(
        "{directories} directories, {files} files, {} other entries{read}",
        entries.saturating_sub(files)
    ));
}

fn tell_salvage(output: &Output, path: &Path, salvage: &Salvage) -> Result<(), Failure> {
    let mut lines = String::new();
    for file in &salvage.files {
        let target = file.target.as_deref().map(printable);
        let whole = file.missing.is_empty() && file.failure.is_none();
        let line = json!({
            "from": file.location.plain.as_deref().map(printable),
            "stored": printable(&file.location.stored),
            "to": target,
            "size": file.size,
            "whole": whole,
            "missing": ranges_json(&file.missing),
            "failure": file.failure,
        });
        output.event("salvaged", &line);
        lines.push_str(&format!("{line}\n"));
        let from = file.location.plain.as_deref().map(printable).unwrap_or_default();
        output.print(match (&target, &file.failure) {
            (Some(target), None) if whole => format!("salvaged {from} as {target}, whole"),
            (Some(target), None) => {
                format!("salvaged {from} as {target}, without {}", ranges_text(&file.missing))
            }
            (_, Some(reason)) => format!("not salvaged: {from}: {reason}"),
            (None, None) => format!("not salvaged: {from}"),
        });
    }
    let report = path.join("strongroom-salvage.jsonl");
    std::fs::write(&report, lines).map_err(|error| Failure::io("write", &report, &error))?;
    output.say(format!("What is missing of each file stands in {}", report.display()));
    Ok(())
}

fn steps(count: usize) -> String {
    if count == 1 { "one step".to_owned() } else { format!("{count} steps") }
}

fn place(finding: &Finding) -> String {
    printable(finding.location.plain.as_deref().unwrap_or(&finding.location.stored))
}

fn describe(finding: &Finding) -> String {
    let severity = match finding.problem.severity() {
        Severity::Note => "note",
        Severity::Damage => "damage",
    };
    let ranges = match &finding.ranges[..] {
        [] => String::new(),
        ranges => format!(" ({})", ranges_text(ranges)),
    };
    format!("{severity}: {}: {}{ranges}", place(finding), finding.problem)
}

fn ranges_text(ranges: &[Range<u64>]) -> String {
    let mut shown: Vec<String> = ranges
        .iter()
        .take(RANGES_SHOWN)
        .map(|range| match range.end.checked_sub(range.start + 1) {
            Some(_) => format!("bytes {} to {}", range.start, range.end - 1),
            None => format!("from byte {} on", range.start),
        })
        .collect();
    if ranges.len() > RANGES_SHOWN {
        shown.push(format!("and {} more ranges", ranges.len() - RANGES_SHOWN));
    }
    shown.join(", ")
}

fn ranges_json(ranges: &[Range<u64>]) -> Value {
    ranges.iter().map(|range| json!([range.start, range.end])).collect()
}

/// A path for people: what could move the cursor, or is no UTF-8, is shown escaped.
fn printable(path: &[u8]) -> String {
    let mut text = String::new();
    for chunk in path.utf8_chunks() {
        for letter in chunk.valid().chars() {
            if letter.is_control() {
                text.extend(letter.escape_default());
            } else {
                text.push(letter);
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

/// Shows progress and, to programs, each finding as it comes.
struct Teller<'a> {
    output: &'a Output,
    progress: Mutex<Option<Progress>>,
}

impl<'a> Teller<'a> {
    fn new(output: &'a Output) -> Self {
        Self { output, progress: Mutex::new(None) }
    }

    fn end(&self) {
        self.progress.lock().take();
    }
}

impl Observer for Teller<'_> {
    fn phase(&self, phase: Phase, total: Option<u64>) {
        let (name, unit) = match phase {
            Phase::Structure => ("checking entries", Unit::Items),
            Phase::Data => ("reading blocks", Unit::Bytes),
            Phase::Repair => ("repairing", Unit::Items),
            Phase::Salvage => ("salvaging", Unit::Items),
        };
        let mut progress = self.progress.lock();
        progress.take();
        *progress = Some(self.output.progress(name, unit, total));
    }

    fn advance(&self, count: u64) {
        if let Some(progress) = &*self.progress.lock() {
            progress.advance(count);
        }
    }

    fn found(&self, finding: &Finding) {
        self.output.event(
            "finding",
            &json!({
                "problem": finding.problem.code(),
                "severity": if is_damage(finding) { "damage" } else { "note" },
                "message": finding.problem.to_string(),
                "path": finding.location.plain.as_deref().map(printable),
                "stored": printable(&finding.location.stored),
                "ranges": ranges_json(&finding.ranges),
                "remedy": finding.remedy.as_ref().map(|remedy| remedy.describe()),
            }),
        );
    }
}

impl From<CheckError> for Failure {
    fn from(error: CheckError) -> Self {
        match &error {
            CheckError::Busy { .. } => Self::new(ExitCode::VaultInUse, error.to_string())
                .hint("unmount it first: `strongroom umount MOUNTPOINT`"),
            CheckError::NoTree => Self::new(ExitCode::NotAVault, error.to_string()),
            CheckError::Cancelled => Self::new(ExitCode::Interrupted, error.to_string()),
            CheckError::NoThread(_) => Self::no_thread(error.to_string()),
            CheckError::Io(cause) => {
                let code = match cause.kind() {
                    std::io::ErrorKind::PermissionDenied => ExitCode::PermissionDenied,
                    std::io::ErrorKind::StorageFull => ExitCode::NoSpace,
                    _ => ExitCode::Failure,
                };
                Self::new(code, error.to_string())
            }
        }
    }
}
