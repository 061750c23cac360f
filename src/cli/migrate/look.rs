//! What the subcommands do that only look: `verify` and `status`.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::actions::Run;
use super::observer::Shown;
use super::report::{failure, print_status, print_verification};
use super::world::{Interrupt, OpenVault};
use super::{StatusArgs, VaultArgs, VerifyArgs};
use crate::cli::Context;
use crate::cli::exit_code::ExitCode;
use crate::cli::failure::{CommandResult, Failure};
use crate::cli::mounted;
use crate::cli::output::human_size;
use crate::cli::prompt::has_terminal;
use crate::cli::vault_args::unlock;
use crate::migrate::{self, Engine, VaultAccess as _};
use crate::tree::{CompareOptions, LocalTree, compare};
use crate::vault::Vault;

pub(super) fn verify(args: &VerifyArgs, context: &Context) -> CommandResult {
    let Some(path) = &args.vault else { return verify_directories(args, context) };
    let vault = VaultArgs { vault: path.clone(), ..args.vault_args() };
    let run = Run::open(&vault, &args.work, context)?;
    run.run_existing(&args.which, |engine, shown| report(&run, engine, shown, context))
}

fn report(
    run: &Run<'_>,
    engine: &mut Engine<'_>,
    shown: &Shown<'_>,
    context: &Context,
) -> CommandResult {
    let found = engine.verify().map_err(run.failed())?;
    shown.end();
    print_verification(&found, context);
    if !found.is_good() {
        return Err(Failure::new(
            ExitCode::VerificationFailed,
            "the verification failed; nothing was changed",
        )
        .detail("verification", json!(found)));
    }
    context.output.result("migrate verify", &json!({ "verification": found }));
    Ok(())
}

/// The vault that `--target` names, where it is to be compared by what the migration recorded: it
/// is the vault itself, or the mount of one whose source is wiped by now.
pub(super) fn vault_of_target(args: &VerifyArgs) -> Option<PathBuf> {
    let target = args.target.as_ref()?;
    if args.vault_config.is_some() || target.join("vault.json").is_file() {
        return Some(target.clone());
    }
    if args.source.as_ref()?.exists() {
        return None;
    }
    let point = target.canonicalize().ok()?;
    mounted::all().into_iter().find(|found| found.mount_point == point).map(|found| found.vault)
}

/// A vault in place of a directory: what it holds is to be compared, not its ciphertext. The source
/// may be wiped by now; what the migration recorded of it is not.
pub(super) fn verify_against_vault(
    args: &VerifyArgs,
    vault: &Path,
    context: &Context,
) -> CommandResult {
    let named = args.source.as_deref().unwrap_or(Path::new(""));
    let absolute = |path: &Path| {
        path.canonicalize().or_else(|_| std::path::absolute(path)).unwrap_or_else(|_| path.into())
    };
    let named = absolute(named);
    let vault = VaultArgs { vault: vault.to_owned(), ..args.vault_args() };
    let run = Run::open(&vault, &args.work, context)?;
    run.run_existing(&args.which, |engine, shown| {
        let begun = &engine.state().begun;
        let is_source = begun.source.as_path() == named
            || begun.names.iter().any(|name| name.as_path() == named)
            || engine.find_originals().is_ok_and(|path| path.is_some_and(|path| path == named));
        if !is_source {
            return Err(Failure::new(
                ExitCode::Usage,
                format!("{} is not what was migrated into the vault", named.display()),
            )
            .hint("give the mount point as --target to compare any other directory with it"));
        }
        report(&run, engine, shown, context)
    })
}

/// Any two directories, without a vault: what an app's own tool asks for.
fn verify_directories(args: &VerifyArgs, context: &Context) -> CommandResult {
    let (Some(source), Some(target)) = (&args.source, &args.target) else {
        return Err(Failure::new(ExitCode::Usage, "--vault is missing"));
    };
    let interrupt = Interrupt::watch()?;
    let open = |path: &Path| {
        LocalTree::open(path).map_err(|error| Failure::new(ExitCode::Failure, error.to_string()))
    };
    let options = CompareOptions {
        jobs: args.work.jobs,
        cancelled: interrupt.flag(),
        ..CompareOptions::default()
    };
    let found = compare(&open(source)?, &open(target)?, &options)
        .map_err(|error| failure(error.into(), target))?;
    if !found.is_equal() {
        for difference in found.differences.iter().take(20) {
            context.output.print(format!("{}: {}", difference.path, difference.mismatch));
        }
        return Err(Failure::new(
            ExitCode::VerificationFailed,
            format!("{} differences; nothing was changed", found.total_differences),
        )
        .detail("differences", json!(found.differences)));
    }
    context.output.print(format!(
        "Equal: {} entries, {} in {} files.",
        found.entries,
        human_size(found.bytes),
        found.files
    ));
    context.output.result("migrate verify", &found);
    Ok(())
}

/// Of a vault that a profile names and that is not there yet.
pub(super) fn no_status(vault: &Path, context: &Context) -> CommandResult {
    context.output.print(format!(
        "There is no vault at {}, and none is mounted where the profile says: no migration.",
        vault.display()
    ));
    let migrations: [(); 0] = [];
    context
        .output
        .result("migrate status", &json!({ "authenticated": false, "migrations": migrations }));
    Ok(())
}

pub(super) fn status(args: &StatusArgs, context: &Context) -> CommandResult {
    let failed = |error| failure(error, &args.vault);
    let directory =
        args.vault.canonicalize().map_err(|error| Failure::io("open", &args.vault, &error))?;
    let locked = Vault::open(&args.vault, args.vault_config.as_deref())?;
    if args.no_secret || !(args.secret.is_given() || has_terminal()) {
        let briefs = migrate::brief(&directory).map_err(failed)?;
        for brief in &briefs {
            context.output.print(format!("{}  {}", brief.id, brief.phase.name()));
        }
        if briefs.is_empty() {
            context.output.print("The vault has no migration.");
        }
        context
            .output
            .result("migrate status", &json!({ "authenticated": false, "migrations": briefs }));
        return Ok(());
    }
    let vault = OpenVault::new(unlock(&locked, &args.secret, context)?)?;
    let statuses =
        migrate::statuses(&directory, vault.id(), vault.migration_key()).map_err(failed)?;
    for (at, status) in statuses.iter().enumerate() {
        if at > 0 {
            context.output.print("");
        }
        print_status(status, &args.vault, context);
    }
    if statuses.is_empty() {
        context.output.print("The vault has no migration.");
    }
    context
        .output
        .result("migrate status", &json!({ "authenticated": true, "migrations": statuses }));
    Ok(())
}
