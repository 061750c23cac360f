//! Where a restore goes, and what must be known of those places before it begins. It must not know how
//! anything is restored.

use std::path::{Component, Path, PathBuf};

use super::RestoreArgs;
use super::create::VAULT_SECTION;
use super::restore::{Wanted, no_such};
use super::run::absolute;
use super::servers::{is_dump, place_of_dumps};
use crate::archive::SectionName;
use crate::backup::{self, Chain, Details, Error, Extent, Filter, Recovered, Target, Terms};
use crate::cli::Context;
use crate::cli::exit_code::ExitCode;
use crate::cli::failure::{CommandResult, Failure};
use crate::cli::prompt::{confirm, has_terminal};
use crate::stores;
use crate::tree::{EntryKind, LocalTree, TreePath, TreeReader as _};

/// Where everything goes.
pub(super) fn targets(
    args: &RestoreArgs,
    chain: &Chain<'_>,
    details: &Details,
    wanted: &Wanted,
    context: &Context,
) -> Result<Vec<Target>, Failure> {
    let vault = SectionName::new(VAULT_SECTION)?;
    let data = SectionName::data();
    let mut targets: Vec<Target> = Vec::new();
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
            (None, Some(target)) if dump => place_of_dumps(&plain(target)?),
            (None, Some(target)) => {
                if *section != data && !args.config_only {
                    left_out.push(section.as_str().to_owned());
                    continue;
                }
                // Two of one name: where each came from tells them apart.
                let taken = |target: &Target| match &target.extent {
                    Extent::Parts(taken) => parts.iter().any(|part| taken.contains(part)),
                    _ => false,
                };
                if args.config_only && targets.iter().any(taken) {
                    apart(target, details, section)
                } else {
                    target.clone()
                }
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

/// Asks whether a backup that is not sealed, and may be by anybody, shall choose where its files go.
pub(super) fn confirm_places(
    args: &RestoreArgs,
    chain: &Chain<'_>,
    targets: &[Target],
    context: &Context,
) -> CommandResult {
    if args.target.is_some() || args.vault_config.is_some() {
        return Ok(());
    }
    let named = |targets: &mut dyn Iterator<Item = &Target>| {
        targets.map(|target| target.path.display().to_string()).collect::<Vec<_>>().join(", ")
    };
    if chain.reader().header().is_some() {
        let data = SectionName::data();
        let outside = named(&mut targets.iter().filter(|target| target.section != data));
        if !outside.is_empty() {
            context.output.say(format!("beside the data it restores to {outside}"));
        }
        return Ok(());
    }
    let places = named(&mut targets.iter());
    if !has_terminal() {
        let message = format!(
            "{} is not sealed, so that anybody may have written it; it would be restored to {places}",
            args.archive.display()
        );
        return Err(Failure::new(ExitCode::NotConfirmed, message)
            .hint("nothing was changed; give --target DIR to say yourself where it goes"));
    }
    confirm(&format!("It is not sealed, anybody may have written it. Restore to {places}?"), false)
}

/// Brings to an end what an interrupted restore left. One that has to be undone is asked about: what it
/// put in place may have been in use since.
pub(super) fn finish_earlier(
    args: &RestoreArgs,
    targets: &[Target],
    context: &Context,
) -> Result<Recovered, Failure> {
    let mut left = Vec::new();
    for target in targets {
        left.extend(backup::unfinished(&target.path)?);
    }
    left.dedup();
    if let Some(first) = left.first().filter(|_| !args.force) {
        if !has_terminal() {
            return Err(Error::Unfinished(first.clone()).into());
        }
        let question = "An earlier restore to it was interrupted half-way. Undo that first, where its \
                        journal can be read? (What it had put in place is kept aside.)";
        confirm(question, false)?;
    }
    let mut recovered = Recovered::default();
    for target in targets {
        let more = backup::recover(&target.path)?;
        recovered.undone.extend(more.undone);
        recovered.unreadable.extend(more.unreadable);
    }
    for kept in &recovered.undone {
        context.output.warn(format!(
            "an earlier restore had been interrupted half-way, and was undone; what it had put in \
             place is in {}",
            kept.display()
        ));
    }
    for kept in &recovered.unreadable {
        context.output.warn(format!(
            "an earlier restore had been interrupted, and its journal cannot be read: nothing was \
             undone; what it had replaced may lie in {}",
            kept.display()
        ));
    }
    Ok(recovered)
}

/// A directory below `target` for what came from the same name elsewhere.
fn apart(target: &Path, details: &Details, section: &SectionName) -> PathBuf {
    let source = details.source(section).unwrap_or_else(|| PathBuf::from(section.as_str()));
    // Whatever it says, it does not lead out of the target.
    let names = source.components().filter(|part| matches!(part, Component::Normal(_)));
    names.fold(target.to_owned(), |path, name| path.join(name))
}

/// The path of a directory that has a name to add to.
fn plain(path: &Path) -> Result<PathBuf, Failure> {
    match path.canonicalize() {
        Ok(path) => Ok(path),
        // What is not there yet has a name, perhaps with a slash behind it.
        Err(_) => Ok(absolute(path)?.components().collect()),
    }
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

/// Refuses to replace what processes use, where that was not asked for.
pub(super) fn refuse_used(args: &RestoreArgs, targets: &[Target]) -> CommandResult {
    if args.merge || args.live {
        return Ok(());
    }
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
