//! `strongroom backup verify`.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::defaults::{directory, profile};
use super::keys::{for_archive, if_given, secret_of};
use super::lookup::find;
use super::run::{Bar, Interrupt, short};
use super::{BackupSecret, VerifyArgs};
use crate::archive::{Keyring, peek};
use crate::backup::{self, Catalog, Chain, Error, Known};
use crate::cli::Context;
use crate::cli::events::Listeners;
use crate::cli::exit_code::ExitCode;
use crate::cli::failure::{CommandResult, Failure};
use crate::profile::Event;

/// What one verification has for the next.
#[derive(Default)]
struct Shared {
    /// One question for all of them.
    ring: Option<Keyring>,
    /// Those that were read, for the ones that need them.
    known: Known,
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
            if catalog.backups().is_empty() {
                archives.push(place.clone());
            }
        } else {
            archives.push(find(place, &args.profile, context)?);
        }
    }
    let output = &context.output;
    let told = profile(&args.profile, args.archives.is_empty(), context)?;
    let listeners = Listeners::new(&args.events, told.as_ref(), &[], context);
    let mut results = Vec::new();
    let mut shared = Shared::default();
    for archive in archives {
        let verified = verify_one(args, &archive, &mut shared, &interrupt, context);
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
    shared: &mut Shared,
    interrupt: &Interrupt,
    context: &Context,
) -> Verified {
    let mut verified =
        Verified { archive: archive.to_owned(), how: "not verified", failure: None, stores: 0 };
    match try_verify(args, archive, shared, interrupt, context) {
        Ok((how, stores)) => (verified.how, verified.stores) = (how, stores),
        Err(failure) => verified.failure = Some(failure),
    }
    verified
}

fn try_verify(
    args: &VerifyArgs,
    archive: &Path,
    shared: &mut Shared,
    interrupt: &Interrupt,
    context: &Context,
) -> Result<(&'static str, usize), Failure> {
    if archive.is_dir() {
        return Err(Failure::new(ExitCode::BackupOverdue, "there is no backup in it")
            .hint("backups are called NAME-YYYYMMDD-HHMMSS.tar…; is it the right directory?"));
    }
    let size = std::fs::metadata(archive).map_err(|error| Failure::io("read", archive, &error))?;
    let bar = Bar::new(context, "verifying", Some(size.len()));
    if !args.checksum && shared.ring.is_none() {
        let secret = secret_of(archive, &args.secret, &args.profile, context)?;
        shared.ring = ring_for(archive, &secret, context)?;
    }
    let Some(keyring) = shared.ring.as_ref().filter(|_| !args.checksum) else {
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
    backup::verify_whole(&chain, &mut shared.known, interrupt.control(&bar))?;
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
) -> Result<Option<Keyring>, Failure> {
    // One that is not sealed says nothing of the next.
    if peek(archive)?.is_none() && !secret.is_given() {
        return for_archive(archive, secret, context).map(Some);
    }
    if_given(archive, secret, context)
}
