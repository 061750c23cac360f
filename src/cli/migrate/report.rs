//! What the results of the engine look like, as text and as failures.

use std::path::Path;

use serde_json::json;

use super::world::Carried;
use crate::cli::Context;
use crate::cli::exit_code::ExitCode;
use crate::cli::failure::{Failure, RAISE_LIMIT};
use crate::cli::output::human_size;
use crate::cli::shell::quote_path;
use crate::migrate::{
    Account, Blocker, Error, Fate, Plan, Remarks, Status, SwitchMode, Tally, Verification,
};
use crate::repoint::Mention;
use crate::{archive, tree};

/// Prints a plan.
pub(super) fn print_plan(plan: &Plan, context: &Context) {
    let output = &context.output;
    let found = &plan.inventory;
    output.print(format!("Source       {}", plan.source.as_path().display()));
    output.print(format!("Vault        {}", plan.vault.as_path().display()));
    output.print(format!("Mount point  {}", plan.mount_point.as_path().display()));
    output.print(match plan.mode {
        SwitchMode::Repoint => "Switch       the configuration is edited",
        SwitchMode::InPlace => "Switch       the vault is mounted where the source was",
        SwitchMode::Symlink => "Switch       a symlink takes the source's place",
    });
    output.print(format!(
        "\n{} files, {} directories, {} on the disk ({} with holes filled)",
        found.totals.files,
        found.directories,
        human_size(found.allocated),
        human_size(found.totals.bytes)
    ));
    let counted = [
        (found.sparse, "sparse files"),
        (found.hard_linked, "files with several names"),
        (found.symlinks.inside.count, "symlinks inside"),
        (found.fifos, "FIFOs"),
    ];
    for (count, what) in counted.into_iter().filter(|(count, _)| *count > 0) {
        output.print(format!("  {count} {what}"));
    }
    let remarks: [(&Remarks, &str); 6] = [
        (&found.linked_outside, "have names outside the source; their content stays there"),
        (&found.symlinks.leaving, "are symlinks out of the source, relative: they will dangle"),
        (&found.symlinks.absolute_inside, "are symlinks to the source's old path"),
        (&found.symlinks.absolute_outside, "are symlinks to other places"),
        (&found.sockets, "are sockets; they are left out"),
        (&found.devices, "are device files"),
    ];
    for (remarks, what) in remarks.into_iter().filter(|(remarks, _)| remarks.count > 0) {
        let shown: Vec<_> = remarks.paths.iter().take(3).map(ToString::to_string).collect();
        output.print(format!("  {} {what}: {}", remarks.count, shown.join(", ")));
    }
    if !plan.components.is_empty() {
        output.print("\nStores");
    }
    for component in &plan.components {
        let path = match component.path.as_os_str().is_empty() {
            true => ".".to_owned(),
            false => component.path.display().to_string(),
        };
        output.print(format!("  {:<18} {path}  {}", component.kind, human_size(component.bytes)));
    }
    output.print("\nSpace");
    for space in &plan.space {
        output.print(format!(
            "  {}: up to {} needed, {} free",
            space.path.as_path().display(),
            human_size(space.needed),
            human_size(space.available)
        ));
        if space.inodes_short() {
            output.print(format!(
                "  {} inodes needed, {} free",
                space.inodes_needed,
                space.inodes_available.unwrap_or(0)
            ));
        }
    }
    output.print(format!("\nWipe\n  {}", plan.wipe));
    if !plan.edits.is_empty() {
        output.print("\nEdits");
    }
    for edit in &plan.edits {
        output.print(edit.diff.trim_end());
        for mention in &edit.mentions {
            output.print(format!("  left alone: {}", mention_line(mention)));
        }
    }
    if !plan.blockers.is_empty() {
        output.print("\nIn the way");
    }
    for blocker in &plan.blockers {
        output.print(format!("  {blocker}"));
    }
    if plan.unseen_processes > 0 {
        output.warn(format!(
            "{} processes of other users cannot be looked into; be sure that none uses the source",
            plan.unseen_processes
        ));
    }
}

fn mention_line(mention: &Mention) -> String {
    format!("line {}, {}: {}", mention.line, mention.key, mention.reason)
}

/// Warns of what names the old path and is left alone.
pub(super) fn warn_of_mentions(plan: &Plan, context: &Context) {
    for edit in &plan.edits {
        for mention in &edit.mentions {
            let file = edit.file.as_path().display();
            context.output.warn(format!("{file} is left alone at {}", mention_line(mention)));
        }
    }
}

/// Prints where a migration stands.
pub(super) fn print_status(status: &Status, vault: &Path, context: &Context) {
    let output = &context.output;
    output.print(format!("Migration    {}", status.id));
    output.print(format!("State        {}", status.describe()));
    output.print(format!("Source       {}", status.source.as_path().display()));
    output.print(format!("Mount point  {}", status.mount_point.as_path().display()));
    if let (Some(files), Some(bytes)) = (status.files, status.bytes) {
        output.print(format!("Data         {files} files, {}", human_size(bytes)));
    }
    if let Some(snapshot) = &status.snapshot {
        output.print(format!("Snapshot     {}", snapshot.as_path().display()));
    }
    let complete = if status.originals_complete { "" } else { ", being wiped" };
    match &status.originals {
        Some(path) => {
            output.print(format!("Originals    {}{complete}", path.as_path().display()));
        }
        None => output.print("Originals    gone"),
    }
    for next in status.next() {
        output
            .print(format!("Next         strongroom migrate {next} --vault {}", quote_path(vault)));
    }
}

/// What a wipe achieved, honestly.
pub fn account_lines(account: &Account) -> Vec<String> {
    let fates = [
        (account.overwritten_in_place, Fate::OverwrittenInPlace),
        (account.best_effort, Fate::BestEffort),
        (account.cannot_be_wiped, Fate::CannotBeWiped),
        (account.linked_outside, Fate::LinkedOutside),
        (account.left, Fate::Left),
    ];
    let mut lines: Vec<String> = fates
        .into_iter()
        .filter(|(tally, _)| tally.files > 0)
        .map(|(Tally { files, bytes }, fate)| {
            format!("{files} files, {}: {}", human_size(bytes), fate.describe())
        })
        .collect();
    if account.best_effort.files > 0 {
        lines.push(
            "a solid-state or virtual disk may keep old copies; `fstrim` on the filesystem, run \
             as root, tells the disk that it need not"
                .to_owned(),
        );
    }
    lines
}

/// Prints what a wipe achieved.
pub(super) fn print_account(account: &Account, context: &Context) {
    for line in account_lines(account) {
        context.output.say(format!("  {line}"));
    }
    for (path, why) in &account.left_paths {
        context.output.warn(format!("{path} is left: {why}"));
    }
}

/// Prints a verification.
pub(super) fn print_verification(found: &Verification, context: &Context) {
    let output = &context.output;
    let equal = |name: &str, comparison: &crate::tree::Comparison| {
        if comparison.is_equal() {
            output.print(format!(
                "{name}: {} entries, {} in {} files, all as migrated",
                comparison.entries,
                human_size(comparison.bytes),
                comparison.files
            ));
            return;
        }
        output.print(format!("{name}: {} differences", comparison.total_differences));
        for difference in comparison.differences.iter().take(20) {
            output.print(format!("  {}: {}", difference.path, difference.mismatch));
        }
    };
    equal("Vault", &found.vault);
    if found.in_use && !found.vault.is_equal() && found.readable {
        output.print("  The app has used the vault since; every entry of it can be read.");
    }
    for store in &found.stores {
        output.print(format!(
            "Store {} {}: {:?}",
            store.component.kind,
            store.component.path.display(),
            store.report.outcome
        ));
        for finding in store.report.findings.iter().take(5) {
            output.print(format!("  {finding}"));
        }
    }
    if let Some(originals) = &found.originals {
        equal("Originals", originals);
    }
}

/// What happened to the user's data is always said.
const UNTOUCHED: &str = "the source is untouched";

/// The two ways out of a migration that stopped.
pub fn both_ways(vault: &Path) -> String {
    let vault = quote_path(vault);
    format!(
        "go on: strongroom migrate resume --vault {vault}; or back: strongroom migrate rollback \
         --vault {vault}"
    )
}

/// How an error of the engine ends the command. `vault` completes the commands in hints.
pub fn failure(error: Error, vault: &Path) -> Failure {
    let how = |command: &str| format!("strongroom migrate {command} --vault {}", quote_path(vault));
    let go_on = || both_ways(vault);
    // What was not begun goes neither way.
    let begun = crate::migrate::migrations(vault).is_ok_and(|known| !known.is_empty());
    let next = |failure: Failure| match failure.hint {
        None if begun => failure.hint(go_on()),
        _ => failure,
    };
    let message = error.to_string();
    match error {
        Error::Io { source, doing, path } => next(Failure::io(doing, &path, &source)),
        Error::Tree(tree::Error::NoThread(_)) | Error::Archive(archive::Error::NoThread(_)) => {
            let failure = Failure::no_thread(message);
            if begun { failure.hint(format!("{RAISE_LIMIT}; then {}", go_on())) } else { failure }
        }
        Error::Tree(ref tree) => next(Failure::new(tree_code(tree), message)),
        Error::Interrupted if begun => {
            Failure::new(ExitCode::Interrupted, "stopped on request, between two steps")
                .hint(go_on())
        }
        Error::Interrupted => {
            Failure::new(ExitCode::Interrupted, "stopped on request, before it began")
                .hint("the same command begins it anew")
        }
        Error::JournalDamaged { .. } => Failure::new(ExitCode::ConfigAltered, message).hint(
            "the vault and the snapshot beside the journal do not depend on it: mount the vault, \
             or restore the snapshot with strongroom backup restore",
        ),
        Error::Mount { source, doing, path } => match source.downcast::<Carried>() {
            Ok(carried) => {
                let Carried(mut failure) = *carried;
                failure.message = format!("cannot {doing} {}: {}", path.display(), failure.message);
                failure
            }
            Err(_) => Failure::new(ExitCode::MountPoint, message),
        },
        Error::Pattern(_) => Failure::new(ExitCode::Usage, message),
        Error::Store(_) => next(Failure::new(ExitCode::Failure, message)),
        Error::Archive(archive::Error::Io { action, path, source }) => {
            next(Failure::io(action, &path, &source))
        }
        Error::Archive(
            archive::Error::Kdf(_) | archive::Error::TooLarge(_) | archive::Error::Worker,
        ) => next(Failure::new(ExitCode::Failure, message)),
        Error::Archive(_) => next(Failure::new(ExitCode::ArchiveDamaged, message)),
        Error::Config { ref source, .. } => {
            let code = match source {
                crate::repoint::Error::Io { source, .. } => Failure::io_code(source),
                _ => ExitCode::Failure,
            };
            next(Failure::new(code, message))
        }
        Error::UnknownFormat { .. } => Failure::new(ExitCode::Failure, message),
        Error::ConfigChanged { file, diff } => Failure::new(ExitCode::SourceChanged, message)
            .detail("file", file.display().to_string())
            .detail("diff", diff)
            .hint("put the file back as it was, or edit it by hand, and resume or roll back"),
        Error::ConfigConflict { file, keys, diff } => {
            let values = keys.join(", ");
            Failure::new(ExitCode::SourceChanged, message)
                .detail("file", file.display().to_string())
                .detail("keys", json!(keys))
                .detail("diff", diff)
                .hint(format!(
                    "give {values} in {} the old value, or the one that the migration wrote, then: {}",
                    file.display(),
                    how("rollback")
                ))
        }
        Error::Running { .. } => Failure::new(ExitCode::VaultInUse, message)
            .hint("wait for it; strongroom migrate status tells how far it is"),
        Error::Unfinished { vault, marker, .. } => {
            let hint = match marker {
                Some(marker) => format!(
                    "its vault is not there now; if it is gone for good, remove {}",
                    marker.display()
                ),
                None => format!(
                    "strongroom migrate resume --vault {0}, or strongroom migrate rollback \
                     --vault {0}",
                    quote_path(&vault)
                ),
            };
            Failure::new(ExitCode::MigrationState, message).hint(hint)
        }
        Error::State { phase, .. } => Failure::new(ExitCode::MigrationState, message)
            .hint(how("status"))
            .detail("phase", phase.name()),
        Error::Blocked(blockers) => blocked(&blockers, message),
        Error::VaultNotEmpty { .. } => {
            Failure::new(ExitCode::AlreadyExists, format!("{message}; {UNTOUCHED}"))
                .hint("give a vault that does not exist yet, or an empty one")
        }
        Error::NoMigration { .. } => Failure::new(ExitCode::MigrationState, message),
        Error::SourceGone { .. } => Failure::new(ExitCode::SourceChanged, message).hint(format!(
            "if it was renamed, give it its old name; if its disk is not mounted, mount it; if it \
             is gone for good and its data are in the vault: {} --originals-gone",
            how("wipe")
        )),
        Error::StoreDamaged { findings, .. } => {
            Failure::new(ExitCode::DamageFound, message).detail("findings", findings).hint(
                "mend the store with its own tools and resume; or, to keep it as it is, roll back \
                 and begin anew with --accept-damage",
            )
        }
        Error::Mismatch { found, .. } => Failure::new(ExitCode::VerificationFailed, message)
            .detail("differences", json!(found.differences.iter().take(1000).collect::<Vec<_>>()))
            .hint(go_on()),
        Error::VaultChanged { found } => Failure::new(ExitCode::NotConfirmed, message)
            .detail("differences", json!(found.differences.iter().take(1000).collect::<Vec<_>>()))
            .hint(
                "--from vault keeps what was written since; --from snapshot --discard-changes \
                 gives back the state at the migration",
            ),
        Error::BackAlready { .. } => Failure::new(ExitCode::MigrationState, message).hint(format!(
            "{} without --from ends it; the vault still holds its content",
            how("rollback")
        )),
        Error::Command { .. } => Failure::new(ExitCode::CommandFailed, message).hint(go_on()),
        Error::BackedOut { .. } => Failure::new(ExitCode::CommandFailed, message),
        Error::NotAllWiped { account, .. } => Failure::new(ExitCode::Failure, message)
            .detail("account", json!(account))
            .hint(format!("see to what is left, then: {}", how("wipe"))),
        Error::SnapshotGone { .. } => Failure::new(ExitCode::Failure, message).hint(format!(
            "put it back, or roll back while the originals exist: {}; or do without the state at \
             the migration: {} --without-snapshot",
            how("rollback"),
            how("wipe")
        )),
        Error::SourceChanged { paths, .. } => {
            Failure::new(ExitCode::SourceChanged, format!("{message}; nothing was done to it"))
                .detail("paths", json!(paths))
                .hint(format!("stop whatever writes there, then: {}", how("resume")))
        }
    }
}

fn tree_code(error: &tree::Error) -> ExitCode {
    match (error, error.raw_os_error()) {
        // What was listed and is gone when it is opened was removed meanwhile.
        (tree::Error::Changed { .. }, _) | (_, Some(libc::ENOENT)) => ExitCode::SourceChanged,
        (_, Some(libc::ENOSPC | libc::EDQUOT)) => ExitCode::NoSpace,
        (_, Some(libc::EACCES | libc::EPERM)) => ExitCode::PermissionDenied,
        _ => ExitCode::Failure,
    }
}

fn blocked(blockers: &[Blocker], message: String) -> Failure {
    let code = blockers.first().map_or(ExitCode::Failure, |blocker| match blocker {
        Blocker::OpenFiles { .. } => ExitCode::SourceInUse,
        Blocker::NoSpace(_) => ExitCode::NoSpace,
        Blocker::MountPoint { .. } => ExitCode::MountPoint,
        Blocker::Overlap { .. } => ExitCode::Usage,
        Blocker::NeedsRoot(_)
        | Blocker::Unreadable { .. }
        | Blocker::Fixed(_)
        | Blocker::ParentNotWritable => ExitCode::PermissionDenied,
        Blocker::SourceIsMountPoint
        | Blocker::MountedBelow(_)
        | Blocker::NothingToRepoint { .. }
        | Blocker::Config { .. } => ExitCode::Failure,
    });
    let hint = blockers.first().map(|blocker| match blocker {
        Blocker::OpenFiles { .. } => "stop the app, or let --stop-command do it",
        Blocker::NoSpace(_) => "make room, or put the vault on another disk",
        Blocker::MountPoint { .. } => "give a directory that is empty or does not exist yet",
        Blocker::Overlap { .. } => "source, vault and mount point must lie apart",
        Blocker::NeedsRoot(_) | Blocker::Unreadable { .. } => "run it as root",
        Blocker::ParentNotWritable => "run it as root, or repoint the app with --config",
        Blocker::SourceIsMountPoint => "move the data into a directory in it, and migrate that one",
        Blocker::Fixed(_) => "chattr -ia FILE, or leave them out with --exclude",
        Blocker::MountedBelow(_) => "unmount them, or leave them out with --exclude",
        Blocker::NothingToRepoint { .. } => "set the value with --set FILE:KEY=VALUE",
        Blocker::Config { .. } => "edit it by hand, and leave it out here",
    });
    let failure =
        Failure::new(code, format!("{message}; {UNTOUCHED}")).detail("blockers", json!(blockers));
    match hint {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn what_was_not_begun_is_not_said_to_go_on() {
        let vault = tempfile::tempdir().unwrap();
        let hint = failure(Error::Interrupted, vault.path()).hint.unwrap();
        assert!(!hint.contains("resume"), "{hint}");
    }
    #[test]
    fn what_is_to_be_done_can_be_copied() {
        let hint = both_ways(Path::new("/srv/My Vault"));
        assert!(hint.contains("migrate resume --vault '/srv/My Vault';"), "{hint}");
        assert!(hint.ends_with("migrate rollback --vault '/srv/My Vault'"), "{hint}");
    }
}
