//! `strongroom backup restore`.

use std::path::Path;

use serde_json::json;

use super::RestoreArgs;
use super::create::{VAULT_CONFIG, VAULT_SECTION};
use super::defaults::{self, tree_path};
use super::keys::{for_archive, secret_of};
use super::lookup::find;
use super::run::{Bar, Interrupt};
use super::safety::before;
use super::servers::bring_back;
use super::targets::{confirm_places, finish_earlier, refuse_used, targets};
use crate::archive::SectionName;
use crate::backup::{
    self, Chain, Component, Details, Error, Extent, Known, Recovered, RestoreOutcome,
    RestoreRequest, Selection, Target,
};
use crate::cli::Context;
use crate::cli::events::Listeners;
use crate::cli::exit_code::ExitCode;
use crate::cli::failure::{CommandResult, Failure};
use crate::cli::output::human_size;
use crate::profile::{Event, Profile};
use crate::tree::{EntryKind, TreePath};

/// What of a backup is restored.
pub(super) enum Wanted {
    All,
    /// Only these, by section.
    Parts(Vec<(SectionName, TreePath)>),
}

impl Wanted {
    fn holds(&self, section: &SectionName, path: &TreePath) -> bool {
        match self {
            Self::All => true,
            Self::Parts(parts) => {
                parts.iter().any(|(name, root)| name == section && path.is_within(root))
            }
        }
    }
}

pub(super) fn command(args: &RestoreArgs, context: &Context) -> CommandResult {
    let profile = defaults::profile(&args.profile, false, context)?;
    let archive = find(&args.archive, &args.profile, context)?;
    let args = &RestoreArgs { archive, ..args.clone() };
    let subject = [("archive", json!(args.archive.display().to_string()))];
    let listeners = Listeners::new(&args.events, profile.as_ref(), &subject, context);
    let work = || restore(args, profile.as_ref(), context);
    if args.dry_run {
        return work();
    }
    let events = (Event::RestoreCompleted, Event::RestoreFailed);
    listeners.around(events, context, work, |()| Vec::new())
}

fn restore(args: &RestoreArgs, profile: Option<&Profile>, context: &Context) -> CommandResult {
    let interrupt = Interrupt::watch()?;
    let secret = secret_of(&args.archive, &args.secret, &args.profile, context)?;
    let keyring = for_archive(&args.archive, &secret, context)?;
    let chain = Chain::open(&args.archive, &keyring)?;
    let details = Details::of(chain.reader().metadata())?;
    let wanted = wanted(args, &details)?;
    let find_targets = || targets(args, &chain, &details, &wanted, context);
    let mut targets = find_targets()?;
    let sections: Vec<_> = targets.iter().map(|target| target.section.clone()).collect();
    let chosen = |section: &SectionName, path: &TreePath| {
        wanted.holds(section, path) && sections.contains(section)
    };
    let select = |section: &SectionName, path: &TreePath, _: EntryKind| chosen(section, path);
    let selection = match wanted {
        Wanted::All if sections.len() == chain.reader().metadata().sections.len() => {
            Selection::Everything
        }
        _ => Selection::Some(&select),
    };
    check_parts(&wanted, &chain, &details, &interrupt, context)?;
    backup::refuse_to_replace_backups(&chain, &targets)?;
    if args.dry_run {
        let select = |section: &SectionName, path: &TreePath, kind: EntryKind| {
            chosen(section, path) && (args.devices || !kind.is_device())
        };
        return dry_run(args, &chain, &targets, &select, &interrupt, context);
    }
    confirm_places(args, &chain, &targets, context)?;
    refuse_used(args, &targets)?;
    let recovered = finish_earlier(args, &targets, context)?;
    if recovered.is_any() {
        // What came back may be what the backup leaves out, hold the backup, or be in use.
        targets = find_targets()?;
        backup::refuse_to_replace_backups(&chain, &targets)?;
        refuse_used(args, &targets)?;
    }
    let total = {
        let quiet = Bar::new(context, "looking at the backup", None);
        chain.bytes(selection, interrupt.control(&quiet))?
    };
    let bar = Bar::new(context, "restoring", Some(total));
    let request = RestoreRequest {
        chain: &chain,
        targets: &targets,
        selection,
        replace: true,
        devices: args.devices,
        check_stores: !args.no_check,
        control: interrupt.control(&bar),
    };
    // What the user or the safety backup says stands before what the library makes of it.
    let mut refused = None;
    let mut safety = None;
    let restored = backup::restore(&request, &mut |replaced| match before(
        args, profile, &chain, &keyring, replaced, &interrupt, context,
    ) {
        Ok(made) => {
            safety = made;
            Ok(())
        }
        Err(failure) => {
            refused = Some(failure);
            Err(Error::Cancelled)
        }
    });
    drop(bar);
    if let Some(failure) = refused {
        return Err(failure);
    }
    let outcome = match restored {
        Err(Error::Cancelled | Error::Archive(crate::archive::Error::Cancelled))
            if interrupt.is_set() =>
        {
            let message = "interrupted; everything is as it was before";
            return Err(Failure::new(ExitCode::Interrupted, message));
        }
        restored => restored.map_err(|error| {
            let room = "everything is as it was before; all that is restored needs room beside \
                        what is there, before it takes its place";
            Failure::from(error).hint_at(ExitCode::NoSpace, room)
        })?,
    };
    let brought = bring_back(profile, &details, &targets, args.force, context);
    let told = Told { safety: safety.as_deref(), servers: brought.as_deref().ok(), recovered };
    let devices = outcome.restored.devices;
    if devices > 0 {
        context.output.warn(format!("{devices} device files were left out; --devices makes them"));
    }
    tell(args, &outcome, &targets, &told, context);
    brought.map(drop)
}

/// What is told beside the outcome.
struct Told<'a> {
    safety: Option<&'a Path>,
    servers: Option<&'a [String]>,
    recovered: Recovered,
}

fn tell(
    args: &RestoreArgs,
    outcome: &RestoreOutcome,
    targets: &[Target],
    told: &Told<'_>,
    context: &Context,
) {
    let Told { safety, servers, recovered } = told;
    let output = &context.output;
    let places: Vec<String> =
        targets.iter().map(|target| target.path.display().to_string()).collect();
    output.say(format!(
        "restored {} entries ({}) to {}",
        outcome.restored.entries,
        human_size(outcome.restored.bytes),
        places.join(", ")
    ));
    if outcome.let_go_of > 0 {
        output.warn(format!(
            "{} of them belonged to others, or have attributes that only root may set: they are \
             yours now, without these",
            outcome.let_go_of
        ));
    }
    for leftover in &outcome.leftovers {
        output.warn(format!(
            "not all of what was replaced can be removed; the rest is in {}",
            leftover.display()
        ));
    }
    if outcome.placed.skipped > 0 {
        output.say(format!("{} entries that were there stayed", outcome.placed.skipped));
    }
    if let Some(safety) = safety {
        output.say(format!("what was replaced is in {}", safety.display()));
    }
    for store in &outcome.stores {
        output.detail(format!("{} {}: {:?}", store.kind, store.path, store.report.outcome));
    }
    output.result(
        "backup restore",
        &json!({
            "archive": args.archive.display().to_string(),
            "targets": places,
            "entries": outcome.restored.entries,
            "bytes": outcome.restored.bytes,
            "sockets": outcome.restored.sockets,
            "without_owner": outcome.let_go_of,
            "put": outcome.placed.put,
            "replaced": outcome.placed.replaced,
            "skipped": outcome.placed.skipped,
            "stores": outcome.stores,
            "safety_backup": safety.map(|path| path.display().to_string()),
            "recovered": recovered.is_any(),
            "undone": recovered.undone,
            "unreadable": recovered.unreadable,
            "servers": servers,
            "dry_run": false,
        }),
    );
}

/// What the command line asks for.
fn wanted(args: &RestoreArgs, details: &Details) -> Result<Wanted, Failure> {
    let parts_of = |components: &mut dyn Iterator<Item = &Component>| {
        components
            .flat_map(|one| one.paths.iter().map(|path| (one.section.clone(), path.clone())))
            .collect::<Vec<_>>()
    };
    if args.vault_config.is_some() {
        let section = SectionName::new(VAULT_SECTION)?;
        let file = tree_path(Path::new(VAULT_CONFIG))?;
        return Ok(Wanted::Parts(vec![(section, file)]));
    }
    if args.config_only {
        let parts = parts_of(&mut details.components.iter().filter(|one| one.config));
        if parts.is_empty() {
            return Err(no_such("configuration files", details));
        }
        return Ok(Wanted::Parts(parts));
    }
    if !args.component.is_empty() {
        let mut parts = Vec::new();
        for name in args.component.iter().map(|name| name.trim()).filter(|name| !name.is_empty()) {
            let found = parts_of(&mut details.components.iter().filter(|one| one.is_called(name)));
            if found.is_empty() {
                return Err(no_such(name, details));
            }
            parts.extend(found);
        }
        return Ok(Wanted::Parts(parts));
    }
    if args.paths.is_empty() {
        return Ok(Wanted::All);
    }
    let source = details.source(&SectionName::data());
    let mut parts = Vec::new();
    for path in &args.paths {
        // As it is called in the backup, or as it was called where it came from.
        let inside = source.as_ref().and_then(|source| path.strip_prefix(source).ok());
        let path = tree_path(inside.unwrap_or(path))?;
        if path.is_root() {
            return Ok(Wanted::All);
        }
        parts.push((SectionName::data(), path));
    }
    Ok(Wanted::Parts(parts))
}

pub(super) fn no_such(name: &str, details: &Details) -> Failure {
    let names: Vec<&str> = details.components.iter().map(|one| &*one.name).collect();
    let failure = Failure::from(Error::NoSuchComponent(name.to_owned()));
    if names.is_empty() {
        failure.hint("it has no components; give paths instead")
    } else {
        failure.hint(format!("its components: {}", names.join(", ")))
    }
}

/// What is asked for must be in the backup: what a backup does not hold is not taken away.
fn check_parts(
    wanted: &Wanted,
    chain: &Chain<'_>,
    details: &Details,
    interrupt: &Interrupt,
    context: &Context,
) -> CommandResult {
    let Wanted::Parts(parts) = wanted else { return Ok(()) };
    let bar = Bar::new(context, "looking at the backup", None);
    let found: std::cell::RefCell<Vec<bool>> = std::cell::RefCell::new(vec![false; parts.len()]);
    chain.each(interrupt.control(&bar), &mut |section, path| {
        for (found, (name, root)) in found.borrow_mut().iter_mut().zip(parts) {
            *found |= name == section && path.is_within(root);
        }
    })?;
    let found = found.into_inner();
    // A store's log may be missing; the store itself may not.
    let whole = |at: usize| {
        found[at]
            || details.components.iter().any(|one| {
                one.section == parts[at].0
                    && one.paths.contains(&parts[at].1)
                    && parts.iter().zip(&found).any(|((section, path), found)| {
                        *found && *section == one.section && one.paths.contains(path)
                    })
            })
    };
    match (0..parts.len()).find(|at| !whole(*at)) {
        Some(missing) => Err(no_such(&parts[missing].1.to_string(), details)),
        None => Ok(()),
    }
}

/// Reads and checks everything, and says what would be done.
fn dry_run(
    args: &RestoreArgs,
    chain: &Chain<'_>,
    targets: &[Target],
    select: crate::archive::Select<'_>,
    interrupt: &Interrupt,
    context: &Context,
) -> CommandResult {
    let bar = Bar::new(context, "checking the backup", None);
    backup::verify_whole(chain, &mut Known::default(), interrupt.control(&bar))?;
    let selected = chain.measure(select, interrupt.control(&bar))?;
    drop(bar);
    let output = &context.output;
    let mut places = Vec::new();
    for target in targets {
        let is_there =
            std::fs::read_dir(&target.path).is_ok_and(|mut entries| entries.next().is_some());
        let what = match (&target.extent, is_there) {
            (_, false) => "made",
            (Extent::Whole, true) => "replaced",
            (Extent::Keeping(_), true) => "replaced, but for what the backup leaves out",
            (Extent::Parts(_), true) => "replaced in parts",
            (Extent::Missing, true) => "completed; nothing there changes",
        };
        output.print(format!("{} would be {what}", target.path.display()));
        places.push(json!({ "path": target.path.display().to_string(), "change": what }));
    }
    output.print(format!(
        "{} entries, {}; the backup is whole",
        selected.entries,
        human_size(selected.bytes)
    ));
    output.result(
        "backup restore",
        &json!({
            "archive": args.archive.display().to_string(),
            "targets": places,
            "entries": selected.entries,
            "bytes": selected.bytes,
            "dry_run": true,
        }),
    );
    Ok(())
}
