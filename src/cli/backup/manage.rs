//! `strongroom backup list`, `info`, `verify`, `delete` and `cleanup`.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::{Value, json};

use super::age::age;
use super::defaults::{directory, profile};
use super::keys::{if_given, secret_of};
use super::lookup::find;
use super::run::{Bar, Interrupt, printable};
use super::{CleanupArgs, DeleteArgs, InfoArgs, KeepArgs, ListArgs, ProfileArgs};
use crate::archive::{SectionName, Where, peek, select_all};
use crate::backup::{Backup, Catalog, Chain, Details, Error, Lock, Policy, Sidecar, decide};
use crate::cli::Context;
use crate::cli::exit_code::ExitCode;
use crate::cli::failure::{CommandResult, Failure};
use crate::cli::output::{Verbosity, human_size};
use crate::cli::prompt::confirm;

/// When a backup was begun, in local time.
pub(super) fn local_time(seconds: i64) -> String {
    Timestamp::from_second(seconds)
        .unwrap_or_default()
        .to_zoned(TimeZone::system())
        .strftime("%Y-%m-%d %H:%M:%S")
        .to_string()
}

fn describe(backup: &Backup) -> Value {
    let mut value = match &backup.sidecar {
        Ok(sidecar) => serde_json::to_value(sidecar).unwrap_or_default(),
        Err(problem) => json!({
            "file": backup.file_name(),
            "name": backup.name.name,
            "compression": backup.name.compression,
            "sealed": backup.name.sealed,
            "size": backup.size,
            "problem": problem,
        }),
    };
    if let Value::Object(fields) = &mut value {
        fields.insert("archive".into(), backup.path.display().to_string().into());
        fields.insert("time".into(), backup.name.created.into());
    }
    value
}

pub(super) fn list(args: &ListArgs, context: &Context) -> CommandResult {
    let directory = directory(args.directory.as_deref(), &args.profile, context)?;
    let catalog = Catalog::read(&directory)?;
    let output = &context.output;
    let missing = |backup: &Backup| {
        backup.chain().iter().filter(|link| catalog.by_id(link.id).is_none()).count()
    };
    if catalog.backups().is_empty() {
        output.print(format!("no backups in {}", directory.display()));
    } else {
        output.print(format!(
            "{:<20} {:<13} {:>12}  {:<7} {}",
            "MADE", "TYPE", "SIZE", "SEALED", "FILE"
        ));
    }
    for backup in catalog.backups() {
        let kind = backup.kind().map_or("unknown", crate::archive::ArchiveKind::name);
        output.print(format!(
            "{:<20} {kind:<13} {:>12}  {:<7} {}",
            local_time(backup.name.created),
            human_size(backup.size),
            if backup.name.sealed { "yes" } else { "no" },
            backup.file_name()
        ));
        match &backup.sidecar {
            Err(problem) => output.print(format!("    {problem}")),
            Ok(_) if missing(backup) > 0 => {
                output.print("    cannot be restored: a backup that it needs is missing");
            }
            Ok(sidecar) if output.verbosity() >= Verbosity::Verbose => {
                print_details(sidecar, context);
            }
            Ok(_) => {}
        }
    }
    let backups: Vec<Value> = catalog.backups().iter().map(describe).collect();
    output.result(
        "backup list",
        &json!({ "directory": directory.display().to_string(), "backups": backups }),
    );
    Ok(())
}

fn print_details(sidecar: &Sidecar, context: &Context) {
    let output = &context.output;
    let mut line = format!(
        "    {} entries, {} stored, {:.1} s",
        sidecar.entries,
        human_size(sidecar.stored.bytes),
        std::time::Duration::from_millis(sidecar.duration_ms).as_secs_f64()
    );
    if let Some(tag) = &sidecar.tag {
        line.push_str(&format!(", tag {tag:?}"));
    }
    output.print(line);
    for component in &sidecar.components {
        let size = human_size(component.bytes);
        let (name, kind) = (printable(&component.name), printable(&component.kind));
        output.print(format!("    {name} ({kind}), {size}"));
    }
    for link in &sidecar.chain {
        output.print(format!("    needs {}", printable(&link.file)));
    }
}

pub(super) fn info(args: &InfoArgs, context: &Context) -> CommandResult {
    let output = &context.output;
    let archive = find(&args.archive, &args.profile, context)?;
    let header = peek(&archive)?;
    let sidecar = Sidecar::read(&archive).ok().flatten();
    output.print(format!("Backup       {}", archive.display()));
    output.print(format!("Sealed       {}", if header.is_some() { "yes" } else { "no" }));
    let secret = secret_of(&archive, &args.secret, &args.profile, context)?;
    let Some(keyring) = if_given(&archive, &secret, context)? else {
        if let Some(sidecar) = &sidecar {
            output.print(format!("Type         {}", sidecar.kind));
            output.print(format!("Made         {}", printable(&sidecar.created)));
            print_details(sidecar, context);
        }
        output.warn("without its secret a backup shows only what is noted beside it");
        output.result(
            "backup info",
            &json!({
                "archive": archive.display().to_string(),
                "sealed": header.is_some(),
                "authenticated": false,
                "notes": sidecar,
            }),
        );
        return Ok(());
    };
    let interrupt = Interrupt::watch()?;
    let chain = Chain::open(&archive, &keyring)?;
    let metadata = chain.reader().metadata();
    let details = Details::of(metadata)?;
    let bar = Bar::new(context, "reading the index", None);
    let held = chain.measure(&select_all, interrupt.control(&bar))?;
    drop(bar);
    output.print(format!("Name         {}", printable(&metadata.name)));
    output.print(format!("Type         {}", metadata.kind));
    output.print(format!("Made         {}", printable(&metadata.created)));
    output.print(format!("Compression  {}", metadata.compression));
    output.print(format!("Holds        {} entries, {}", held.entries, human_size(held.bytes)));
    if let Some(tag) = &details.tag {
        output.print(format!("Tag          {}", printable(tag)));
    }
    if !details.not_running.is_empty() {
        output.print(format!("Not running  {}", printable(&details.not_running.join(", "))));
    }
    for section in details.sources.keys() {
        let section = SectionName::new(section.clone())?;
        if let Some(source) = details.source(&section) {
            let source = printable(&source.display().to_string());
            output.print(format!("From         {source} ({section})"));
        }
    }
    for component in &details.components {
        output.print(format!(
            "Component    {} ({}), {}",
            printable(&component.name),
            printable(&component.kind),
            human_size(component.bytes)
        ));
    }
    for link in &metadata.chain {
        output.print(format!("Needs        {}", printable(&link.file)));
    }
    let made_by = format!("{} on {}", metadata.tool, metadata.platform);
    output.print(format!("Made by      {}", printable(&made_by)));
    if args.files {
        print_files(&chain, &interrupt, context)?;
    }
    output.result(
        "backup info",
        &json!({
            "archive": archive.display().to_string(),
            "sealed": header.is_some(),
            "authenticated": header.is_some(),
            "metadata": metadata,
            "entries": held.entries,
            "bytes": held.bytes,
            "notes": sidecar,
        }),
    );
    Ok(())
}

fn print_files(chain: &Chain<'_>, interrupt: &Interrupt, context: &Context) -> CommandResult {
    let output = &context.output;
    let bar = Bar::new(context, "reading the index", None);
    chain.lines(interrupt.control(&bar), &mut |line| {
        let metadata = &line.entry.metadata;
        let stored = match line.stored {
            Where::Here => "",
            Where::In(_) => "  (in an earlier backup)",
            Where::Nowhere => "  (not stored)",
        };
        output.print(format!(
            "{:>14} {:<16} {}/{}{stored}",
            metadata.size,
            metadata.kind.to_string(),
            line.section,
            line.entry.path
        ));
        output.event(
            "file",
            &json!({
                "section": line.section,
                "path": line.entry.path.to_string(),
                "kind": metadata.kind,
                "size": metadata.size,
                "sha256": line.entry.sha256,
            }),
        );
        Ok(())
    })?;
    Ok(())
}

pub(super) fn delete(args: &DeleteArgs, context: &Context) -> CommandResult {
    // Those of one directory together: one may need another that goes, too.
    let mut directories: Vec<(PathBuf, Vec<PathBuf>)> = Vec::new();
    for archive in &args.archives {
        let archive = find(archive, &ProfileArgs::default(), context)?;
        archive.symlink_metadata().map_err(|error| Failure::io("find", &archive, &error))?;
        let directory = match archive.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        match directories.iter_mut().find(|(known, _)| *known == directory) {
            Some((_, archives)) => archives.push(archive),
            None => directories.push((directory, vec![archive])),
        }
    }
    let mut deleted = Vec::new();
    for (directory, archives) in &directories {
        deleted.extend(delete_in(directory, archives, args, context)?);
    }
    context.output.result("backup delete", &json!({ "deleted": deleted }));
    Ok(())
}

fn delete_in(
    directory: &Path,
    archives: &[PathBuf],
    args: &DeleteArgs,
    context: &Context,
) -> Result<Vec<String>, Failure> {
    let _lock = Lock::take(directory)?;
    let catalog = Catalog::read(directory)?;
    let mut goes: Vec<&Backup> = Vec::new();
    for archive in archives {
        let backup = catalog
            .backups()
            .iter()
            .find(|backup| backup.path.file_name() == archive.file_name())
            .ok_or_else(|| Error::NotABackup(archive.clone()))?;
        let needed_by = match backup.id().filter(|_| args.dependents) {
            Some(id) => catalog.dependents(id),
            None => Vec::new(),
        };
        let dependents =
            catalog.backups().iter().filter(|one| needed_by.contains(&one.file_name()));
        for one in std::iter::once(backup).chain(dependents) {
            if !goes.iter().any(|known| known.path == one.path) {
                goes.push(one);
            }
        }
    }
    catalog.check_needed(&goes)?;
    let names: Vec<String> = goes.iter().map(|backup| backup.file_name()).collect();
    confirm(&format!("Delete {}?", names.join(", ")), args.yes)?;
    catalog.delete(&goes)?;
    for name in &names {
        context.output.say(format!("deleted {name}"));
    }
    Ok(names)
}

/// The rules of the command line.
pub(super) fn policy(keep: &KeepArgs) -> Result<Policy, Failure> {
    Ok(Policy {
        last: keep.keep.unwrap_or(0),
        hourly: 0,
        daily: keep.keep_daily.unwrap_or(0),
        weekly: keep.keep_weekly.unwrap_or(0),
        monthly: keep.keep_monthly.unwrap_or(0),
        yearly: keep.keep_yearly.unwrap_or(0),
        within: keep.keep_within.as_deref().map(age).transpose()?,
        kind: None,
    })
}

pub(super) fn cleanup(args: &CleanupArgs, context: &Context) -> CommandResult {
    let directory = directory(args.directory.as_deref(), &args.profile, context)?;
    if let Some(number) = args.directory.as_ref().and_then(|directory| directory.to_str())
        && number.parse::<u32>().is_ok()
        && !directory.exists()
    {
        let message = format!("there is no directory {number}");
        return Err(Failure::new(ExitCode::Usage, message)
            .hint(format!("to keep the backups of {number} days, give --keep-within {number}d")));
    }
    let mut policy = policy(&args.keep)?;
    if policy.is_empty()
        && let Some(profile) = profile(&args.profile, args.directory.is_none(), context)?
        && let Some(plan) = profile.backup.plans.first()
    {
        policy = super::defaults::policy(&plan.retention);
    }
    policy.kind = args.kind.map(Into::into);
    if policy.is_empty() {
        return Err(Failure::new(ExitCode::Usage, "no rule says what is kept")
            .hint("give --keep N, --keep-daily N, --keep-within AGE, …"));
    }
    let (deleted, kept) = clean(&directory, &policy, args.name.as_deref(), args.dry_run, context)?;
    context.output.result(
        "backup cleanup",
        &json!({
            "directory": directory.display().to_string(),
            "deleted": deleted,
            "kept": kept,
            "dry_run": args.dry_run,
        }),
    );
    Ok(())
}

/// Deletes what no rule keeps; the names of what goes, and how many stay.
pub(super) fn clean(
    directory: &Path,
    policy: &Policy,
    name: Option<&str>,
    dry_run: bool,
    context: &Context,
) -> Result<(Vec<String>, usize), Failure> {
    let _lock = if dry_run { None } else { Some(Lock::take(directory)?) };
    let catalog = Catalog::read(directory)?;
    let decisions = decide(catalog.backups(), policy, Timestamp::now(), &TimeZone::system());
    let output = &context.output;
    let mut goes = Vec::new();
    for decision in &decisions {
        let backup = decision.backup;
        if name.is_some_and(|name| backup.name.name != name) {
            continue;
        }
        let file = backup.file_name();
        if decision.keep.is_empty() {
            output.say(format!("{} {file}", if dry_run { "would delete" } else { "delete" }));
            goes.push(backup);
        } else {
            let why: Vec<String> = decision
                .keep
                .iter()
                .filter_map(|reason| Some(serde_json::to_value(reason).ok()?.as_str()?.to_owned()))
                .collect();
            output.detail(format!("keep {file} ({})", why.join(", ")));
        }
    }
    if !dry_run {
        catalog.delete(&goes)?;
    }
    let names: Vec<String> = goes.iter().map(|backup| backup.file_name()).collect();
    let kept = decisions.len() - names.len();
    Ok((names, kept))
}
