//! `strongroom backup restore`.

use std::path::Path;

use serde_json::json;

use super::RestoreArgs;
use super::create::{VAULT_CONFIG, VAULT_SECTION};
use super::defaults::{self, tree_path};
use super::keys::{for_archive, secret_of};
use super::run::{Bar, Interrupt, absolute};
use super::safety::before;
use super::servers::{bring_back, is_dump, place_of_dumps};
use crate::archive::SectionName;
use crate::backup::{
    self, Chain, Component, Details, Error, Extent, Filter, RestoreOutcome, RestoreRequest, Target,
    Terms,
};
use crate::cli::Context;
use crate::cli::events::Listeners;
use crate::cli::exit_code::ExitCode;
use crate::cli::failure::{CommandResult, Failure};
use crate::cli::output::human_size;
use crate::profile::{Event, Profile};
use crate::stores;
use crate::tree::{EntryKind, LocalTree, TreePath, TreeReader as _};

/// What of a backup is restored.
enum Wanted {
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
    let targets = targets(args, &chain, &details, &wanted, context)?;
    let select = |section: &SectionName, path: &TreePath, kind: EntryKind| {
        wanted.holds(section, path)
            && targets.iter().any(|target| target.section == *section)
            && (args.devices
                || !matches!(kind, EntryKind::BlockDevice | EntryKind::CharacterDevice))
    };
    check_parts(&wanted, &chain, &details, &interrupt, context)?;
    if args.dry_run {
        return dry_run(args, &chain, &targets, &select, &interrupt, context);
    }
    if !args.merge && !args.live {
        refuse_used(&targets)?;
    }
    let total = {
        let quiet = Bar::new(context, "looking at the backup", None);
        chain.measure(&select, interrupt.control(&quiet))?.bytes
    };
    let bar = Bar::new(context, "restoring", Some(total));
    let request = RestoreRequest {
        chain: &chain,
        targets: &targets,
        select: &select,
        replace: true,
        devices: args.devices,
        check_stores: !args.no_check,
        control: interrupt.control(&bar),
    };
    // What the user or the safety backup says stands before what the library makes of it.
    let mut refused = None;
    let mut safety = None;
    let restored = backup::restore(&request, &mut |replaced| match before(
        args, &chain, &keyring, replaced, &interrupt, context,
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
    tell(args, &outcome, &targets, safety.as_deref(), brought.as_deref().ok(), context);
    brought.map(drop)
}

fn tell(
    args: &RestoreArgs,
    outcome: &RestoreOutcome,
    targets: &[Target],
    safety: Option<&Path>,
    servers: Option<&[String]>,
    context: &Context,
) {
    let output = &context.output;
    if outcome.recovered {
        output.warn("an earlier restore had been interrupted; it was undone first");
    }
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
            "recovered": outcome.recovered,
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

fn no_such(name: &str, details: &Details) -> Failure {
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

/// Where everything goes.
fn targets(
    args: &RestoreArgs,
    chain: &Chain<'_>,
    details: &Details,
    wanted: &Wanted,
    context: &Context,
) -> Result<Vec<Target>, Failure> {
    let vault = SectionName::new(VAULT_SECTION)?;
    let data = SectionName::data();
    let mut targets = Vec::new();
    let mut left_out = Vec::new();
    for section in &chain.reader().metadata().sections {
        let dump = is_dump(section);
        if (*section == vault) != args.vault_config.is_some()
            || (dump && (args.vault_config.is_some() || args.config_only))
            || section.as_str() == backup::SEALED_SECTION
        {
            continue;
        }
        let parts: Vec<TreePath> = match wanted {
            Wanted::All => Vec::new(),
            Wanted::Parts(parts) => parts
                .iter()
                .filter(|(name, _)| name == section)
                .map(|(_, path)| path.clone())
                .collect(),
        };
        if matches!(wanted, Wanted::Parts(_)) && parts.is_empty() {
            continue;
        }
        let path = match (&args.vault_config, &args.target) {
            (Some(directory), _) => directory.clone(),
            (None, Some(target)) if dump => place_of_dumps(target),
            (None, Some(target)) => {
                if *section != data && !args.config_only {
                    left_out.push(section.as_str().to_owned());
                    continue;
                }
                target.clone()
            }
            (None, None) => {
                details.source(section).ok_or_else(|| Error::NoTarget(args.archive.clone()))?
            }
        };
        let path = absolute(&path)?;
        let extent = if args.merge {
            Extent::Missing
        } else if *section != data && matches!(wanted, Wanted::All) {
            Extent::Parts(files_of(details, section))
        } else if matches!(wanted, Wanted::All) {
            whole(details, &path)?
        } else {
            Extent::Parts(parts)
        };
        targets.push(Target { section: section.clone(), path, extent });
    }
    if !left_out.is_empty() {
        context.output.say(format!(
            "{} configuration files are left out; --config-only --target DIR restores them",
            left_out.len()
        ));
    }
    if targets.is_empty() {
        return Err(no_such("that", details));
    }
    Ok(targets)
}

/// What there is in a section that is not the data: configuration files, or a dump.
fn files_of(details: &Details, section: &SectionName) -> Vec<TreePath> {
    details
        .components
        .iter()
        .filter(|one| one.section == *section)
        .flat_map(|one| one.paths.clone())
        .collect()
}

/// All of the target, but for what the backup leaves out.
fn whole(details: &Details, target: &Path) -> Result<Extent, Failure> {
    if (details.include.is_empty() && details.exclude.is_empty()) || !target.is_dir() {
        return Ok(Extent::Whole);
    }
    let data = SectionName::data();
    let filter = Filter {
        include: Terms::new(&details.include, &details.components)?,
        exclude: Terms::new(&details.exclude, &details.components)?,
        only: Vec::new(),
    };
    let tree = LocalTree::open(target).map_err(Error::from)?;
    let mut kept: Vec<TreePath> = Vec::new();
    let inside_kept = std::sync::Mutex::new(Vec::new());
    // Below what is kept nothing need be looked at.
    let exclude = |path: &TreePath, kind: EntryKind| {
        let left_out = filter.excludes(&data, path, kind);
        if left_out && let Ok(mut kept) = inside_kept.lock() {
            kept.push(path.clone());
        }
        left_out
    };
    for entry in tree.walk(&exclude).map_err(Error::from)? {
        entry.map_err(Error::from)?;
    }
    kept.append(&mut inside_kept.into_inner().unwrap_or_default());
    Ok(if kept.is_empty() { Extent::Whole } else { Extent::Keeping(kept) })
}

/// Refuses to replace what processes use.
fn refuse_used(targets: &[Target]) -> CommandResult {
    for target in targets.iter().filter(|target| target.path.is_dir()) {
        let open = stores::open_files(&target.path)
            .map_err(|error| Failure::new(ExitCode::Failure, error.to_string()))?;
        let holders: Vec<String> = open
            .files
            .iter()
            .filter(|file| {
                matches!(
                    file.how,
                    stores::Holder::Descriptor
                        | stores::Holder::WritableDescriptor
                        | stores::Holder::Map
                )
            })
            .take(5)
            .map(|file| format!("{} ({}) has {}", file.command, file.pid, file.path.display()))
            .collect();
        if !holders.is_empty() {
            let message = format!("{} is in use: {}", target.path.display(), holders.join(", "));
            return Err(Failure::new(ExitCode::SourceInUse, message).hint(
                "stop what uses it, or give --live: it would go on with the files that are \
                 replaced",
            ));
        }
    }
    Ok(())
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
    chain.verify(interrupt.control(&bar))?;
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
