//! `strongroom backup list`, `info`, `verify`, `delete` and `cleanup`.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::{Value, json};

use super::age::age;
use super::defaults::{directory, profile};
use super::keys::{for_archive, if_given, secret_of};
use super::run::{Bar, Interrupt, short};
use super::{BackupSecret, CleanupArgs, DeleteArgs, InfoArgs, KeepArgs, ListArgs, VerifyArgs};
use crate::archive::{Where, peek, select_all};
use crate::backup::{self, Backup, Catalog, Chain, Details, Error, Lock, Policy, Sidecar, decide};
use crate::cli::Context;
use crate::cli::events::Listeners;
use crate::cli::exit_code::ExitCode;
use crate::cli::failure::{CommandResult, Failure};
use crate::cli::output::{Verbosity, human_size};
use crate::cli::prompt::confirm;
use crate::profile::Event;

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
        output.print(format!("    {} ({}), {size}", component.name, component.kind));
    }
    for link in &sidecar.chain {
        output.print(format!("    needs {}", link.file));
    }
}

pub(super) fn info(args: &InfoArgs, context: &Context) -> CommandResult {
    let output = &context.output;
    let header = peek(&args.archive)?;
    let sidecar = Sidecar::read(&args.archive).ok().flatten();
    output.print(format!("Backup       {}", args.archive.display()));
    output.print(format!("Sealed       {}", if header.is_some() { "yes" } else { "no" }));
    let secret = secret_of(&args.archive, &args.secret, &args.profile, context)?;
    let Some(keyring) = if_given(&args.archive, &secret, context)? else {
        if let Some(sidecar) = &sidecar {
            output.print(format!("Type         {}", sidecar.kind));
            output.print(format!("Made         {}", sidecar.created));
            print_details(sidecar, context);
        }
        output.warn("without its secret a backup shows only what is noted beside it");
        output.result(
            "backup info",
            &json!({
                "archive": args.archive.display().to_string(),
                "sealed": true,
                "authenticated": false,
                "notes": sidecar,
            }),
        );
        return Ok(());
    };
    let interrupt = Interrupt::watch()?;
    let chain = Chain::open(&args.archive, &keyring)?;
    let metadata = chain.reader().metadata();
    let details = Details::of(metadata)?;
    let bar = Bar::new(context, "reading the index", None);
    let held = chain.measure(&select_all, interrupt.control(&bar))?;
    drop(bar);
    output.print(format!("Name         {}", metadata.name));
    output.print(format!("Type         {}", metadata.kind));
    output.print(format!("Made         {}", metadata.created));
    output.print(format!("Compression  {}", metadata.compression));
    output.print(format!("Holds        {} entries, {}", held.entries, human_size(held.bytes)));
    if let Some(tag) = &details.tag {
        output.print(format!("Tag          {tag}"));
    }
    if !details.not_running.is_empty() {
        output.print(format!("Not running  {}", details.not_running.join(", ")));
    }
    for section in details.sources.keys() {
        let section = crate::archive::SectionName::new(section.clone())?;
        if let Some(source) = details.source(&section) {
            output.print(format!("From         {} ({section})", source.display()));
        }
    }
    for component in &details.components {
        output.print(format!(
            "Component    {} ({}), {}",
            component.name,
            component.kind,
            human_size(component.bytes)
        ));
    }
    for link in &metadata.chain {
        output.print(format!("Needs        {}", link.file));
    }
    output.print(format!("Made by      {} on {}", metadata.tool, metadata.platform));
    if args.files {
        print_files(&chain, &interrupt, context)?;
    }
    output.result(
        "backup info",
        &json!({
            "archive": args.archive.display().to_string(),
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
    chain.reader().index(interrupt.control(&bar), &mut |line| {
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

/// What came of verifying one backup.
struct Verified {
    archive: PathBuf,
    how: &'static str,
    failure: Option<Failure>,
    stores: usize,
}

pub(super) fn verify(args: &VerifyArgs, context: &Context) -> CommandResult {
    let interrupt = Interrupt::watch()?;
    let mut archives = Vec::new();
    let places = match args.archives.is_empty() {
        true => vec![directory(None, &args.profile, context)?],
        false => args.archives.clone(),
    };
    for place in &places {
        if place.is_dir() {
            let catalog = Catalog::read(place)?;
            archives.extend(catalog.backups().iter().map(|backup| backup.path.clone()));
        } else {
            archives.push(place.clone());
        }
    }
    let output = &context.output;
    let told = profile(&args.profile, args.archives.is_empty(), context)?;
    let listeners = Listeners::new(&args.events, told.as_ref(), &[], context);
    let mut results = Vec::new();
    // One question for all of them.
    let mut ring = None;
    for archive in archives {
        let verified = verify_one(args, &archive, &mut ring, &interrupt, context);
        if interrupt.is_set() {
            return Err(Failure::new(ExitCode::Interrupted, "interrupted"));
        }
        let subject = ("archive", json!(archive.display().to_string()));
        match &verified.failure {
            None => {
                output.say(format!("{}: {}", archive.display(), verified.how));
                let facts = [subject, ("how", json!(verified.how))];
                listeners.tell(Event::BackupValidated, &facts, context);
            }
            Some(failure) => {
                output.warn(format!("{}: {}", archive.display(), failure.message));
                let facts = [subject, ("error", json!(failure.code.name()))];
                let message = ("message", json!(failure.message));
                let facts = [&facts[..], &[message]].concat();
                listeners.tell(Event::BackupInvalid, &facts, context);
            }
        }
        results.push(verified);
    }
    let listed: Vec<Value> = results
        .iter()
        .map(|one| {
            json!({
                "archive": one.archive.display().to_string(),
                "ok": one.failure.is_none(),
                "how": one.how,
                "stores_checked": one.stores,
                "error": one.failure.as_ref().map(|failure| failure.code.name()),
                "message": one.failure.as_ref().map(short),
            })
        })
        .collect();
    let bad = results.iter().filter(|one| one.failure.is_some()).count();
    if bad == 0 {
        output.result("backup verify", &json!({ "verified": results.len(), "backups": listed }));
        return Ok(());
    }
    let count = results.len();
    if count == 1
        && let Some(failure) = results.pop().and_then(|one| one.failure)
    {
        return Err(failure.detail("backups", listed));
    }
    let message = format!("{bad} of {count} backups are not well");
    Err(Failure::new(ExitCode::ArchiveDamaged, message).detail("backups", listed))
}

fn verify_one(
    args: &VerifyArgs,
    archive: &Path,
    ring: &mut Option<crate::archive::Keyring>,
    interrupt: &Interrupt,
    context: &Context,
) -> Verified {
    let mut verified =
        Verified { archive: archive.to_owned(), how: "not verified", failure: None, stores: 0 };
    match try_verify(args, archive, ring, interrupt, context) {
        Ok((how, stores)) => (verified.how, verified.stores) = (how, stores),
        Err(failure) => verified.failure = Some(failure),
    }
    verified
}

fn try_verify(
    args: &VerifyArgs,
    archive: &Path,
    ring: &mut Option<crate::archive::Keyring>,
    interrupt: &Interrupt,
    context: &Context,
) -> Result<(&'static str, usize), Failure> {
    let size = std::fs::metadata(archive).map_err(|error| Failure::io("read", archive, &error))?;
    let bar = Bar::new(context, "verifying", Some(size.len()));
    if !args.checksum && ring.is_none() {
        let secret = secret_of(archive, &args.secret, &args.profile, context)?;
        *ring = ring_for(archive, &secret, context)?;
    }
    let Some(keyring) = ring.as_ref().filter(|_| !args.checksum) else {
        if !args.checksum {
            context.output.warn("no secret was given: only checksums are compared");
        }
        return match backup::verify_checksum(archive, interrupt.control(&bar)) {
            Ok(Some(_)) => Ok(("its checksum is right", 0)),
            Ok(None) | Err(Error::NotABackup(_)) => Err(Failure::new(
                ExitCode::NoSecret,
                "no checksum is noted beside it: verifying it takes its secret",
            )),
            Err(error) => Err(error.into()),
        };
    };
    let chain = Chain::open(archive, keyring)?;
    backup::verify_whole(&chain, interrupt.control(&bar))?;
    if !args.test_restore {
        return Ok(("whole and authentic", 0));
    }
    let scratch = args.scratch.clone().unwrap_or_else(std::env::temp_dir);
    let stores = backup::test_restore(&chain, &scratch, interrupt.control(&bar))?;
    Ok(("restored on trial, and well", stores.len()))
}

/// The ring for all archives that are verified.
fn ring_for(
    archive: &Path,
    secret: &BackupSecret,
    context: &Context,
) -> Result<Option<crate::archive::Keyring>, Failure> {
    // One that is not sealed says nothing of the next.
    if peek(archive)?.is_none() && !secret.is_given() {
        return for_archive(archive, secret, context).map(Some);
    }
    if_given(archive, secret, context)
}

pub(super) fn delete(args: &DeleteArgs, context: &Context) -> CommandResult {
    let mut deleted = Vec::new();
    for archive in &args.archives {
        let directory = match archive.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        archive.symlink_metadata().map_err(|error| Failure::io("find", archive, &error))?;
        let _lock = Lock::take(directory)?;
        let catalog = Catalog::read(directory)?;
        let backup = catalog
            .backups()
            .iter()
            .find(|backup| backup.path.file_name() == archive.file_name())
            .ok_or_else(|| Error::NotABackup(archive.clone()))?;
        let mut goes = vec![backup];
        if args.dependents
            && let Some(id) = backup.id()
        {
            let needed_by = catalog.dependents(id);
            let dependents =
                catalog.backups().iter().filter(|one| needed_by.contains(&one.file_name()));
            goes.extend(dependents);
        } else if let Some(id) = backup.id() {
            let needed_by = catalog.dependents(id);
            if !needed_by.is_empty() {
                return Err(Error::Needed { path: archive.clone(), needed_by }.into());
            }
        }
        let names: Vec<String> = goes.iter().map(|backup| backup.file_name()).collect();
        confirm(&format!("Delete {}?", names.join(", ")), args.yes)?;
        catalog.delete(&goes)?;
        for name in &names {
            context.output.say(format!("deleted {name}"));
        }
        deleted.extend(names);
    }
    context.output.result("backup delete", &json!({ "deleted": deleted }));
    Ok(())
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
