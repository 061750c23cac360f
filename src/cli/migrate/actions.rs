//! What the subcommands do.

use std::cell::Cell;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::observer::Shown;
use super::report::{both_ways, failure, print_account, print_plan, warn_of_mentions};
use super::world::{Interrupt, OpenVault, VaultMounter, clear_dead_mounts};
use super::{
    EncryptArgs, FromArg, ResumeArgs, RollbackArgs, VaultArgs, WhichArgs, WipeArgs, WorkArgs,
};
use crate::cli::Context;
use crate::cli::exit_code::ExitCode;
use crate::cli::failure::{CommandResult, Failure};
use crate::cli::mounted;
use crate::cli::output::human_size;
use crate::cli::prompt::{confirm, has_terminal};
use crate::cli::shell::quote_path;
use crate::cli::vault_args::unlock;
use crate::migrate::{
    self, Account, Engine, Environment, Fate, From, Hands, Phase, Plan, PlannedEdit,
    RollbackOptions, Status, StoreReport, WipeOptions,
};
use crate::tree::TreePath;
use crate::vault::{NewSlot, Vault};

pub(super) fn plan(args: &EncryptArgs, context: &Context, command: &str) -> CommandResult {
    let interrupt = Interrupt::watch()?;
    let shown = Shown::new(context, &interrupt);
    let plan = make_plan(args, &shown)?;
    print_plan(&plan, context);
    context.output.result(command, &plan);
    Ok(())
}

fn make_plan(args: &EncryptArgs, shown: &Shown<'_>) -> Result<Plan, Failure> {
    let request = args.request()?;
    let plan = migrate::plan(&request, shown).map_err(|error| failure(error, &args.vault.vault))?;
    shown.end();
    Ok(plan)
}

/// Everything that a run of the engine needs, kept alive for it.
pub(super) struct Run<'a> {
    context: &'a Context,
    interrupt: Interrupt,
    vault: OpenVault,
    path: PathBuf,
    work: &'a WorkArgs,
}

impl<'a> Run<'a> {
    fn new(
        vault: OpenVault,
        path: &Path,
        interrupt: Interrupt,
        work: &'a WorkArgs,
        context: &'a Context,
    ) -> Self {
        Self { context, interrupt, vault, path: path.to_owned(), work }
    }

    pub(super) fn open(
        args: &VaultArgs,
        work: &'a WorkArgs,
        context: &'a Context,
    ) -> Result<Self, Failure> {
        let interrupt = Interrupt::watch()?;
        clear_dead_mounts(&args.vault);
        let vault = Vault::open(&args.vault, args.vault_config.as_deref())?;
        let vault = OpenVault::new(unlock(&vault, &args.secret, context)?)?;
        Ok(Self::new(vault, &args.vault, interrupt, work, context))
    }

    /// Runs `act` on an engine that `make` makes, and reports what it fails with.
    fn run<T>(
        &self,
        make: impl FnOnce(Environment<'_>) -> migrate::Result<Engine<'_>>,
        act: impl FnOnce(&mut Engine<'_>, &Shown<'_>) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let shown = Shown::new(self.context, &self.interrupt);
        // Root's mounts are for the app, which mostly is another user.
        let allow_other = self.work.allow_other || rustix::process::geteuid().is_root();
        let mounter = VaultMounter::new(&self.vault, self.context, allow_other);
        let environment = Environment {
            vault: &self.vault,
            mounter: &mounter,
            observer: &shown,
            hands: Hands::new(self.interrupt.watcher()),
            jobs: self.work.jobs,
        };
        let mut engine = make(environment).map_err(|error| failure(error, &self.path))?;
        let done = act(&mut engine, &shown);
        shown.end();
        done.map_err(|mut failure| {
            if engine.state().stopped && engine.state().phase < Phase::Switched {
                failure.message.push_str("; the app was stopped for this and is not running");
            }
            let phase = engine.state().phase;
            failure.message.push_str(whereabouts(phase));
            if phase == Phase::RollingBack && failure.hint == Some(both_ways(&self.path)) {
                let vault = quote_path(&self.path);
                failure.hint = Some(format!("go on: strongroom migrate rollback --vault {vault}"));
            }
            failure
        })
    }

    pub(super) fn run_existing<T>(
        &self,
        which: &WhichArgs,
        act: impl FnOnce(&mut Engine<'_>, &Shown<'_>) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        self.run(|environment| Engine::open(environment, which.id), act)
    }

    pub(super) fn failed(&self) -> impl Fn(migrate::Error) -> Failure + '_ {
        |error| failure(error, &self.path)
    }

    /// Goes on to the end: until the app uses the vault, then to the fate of the originals.
    fn finish(
        &self,
        engine: &mut Engine<'_>,
        shown: &Shown<'_>,
        edits: Option<&[PlannedEdit]>,
        command: &str,
    ) -> CommandResult {
        engine.advance().map_err(self.failed())?;
        shown.end();
        let mut account = None;
        let mut kept = None;
        match engine.state().phase {
            Phase::Accepted if engine.state().begun.keep_originals => {
                kept = Some(engine.keep().map_err(self.failed())?);
            }
            Phase::Wiping => account = Some(self.wipe(engine, WipeOptions::default())?),
            Phase::Accepted if self.may_wipe(engine)? => {
                account = Some(self.wipe(engine, WipeOptions::default())?);
            }
            _ => {}
        }
        shown.end();
        self.conclude(engine, account.as_ref(), kept.as_deref(), edits, command)
    }

    /// Asks, where the answer is not given yet. Without a terminal the originals wait.
    fn may_wipe(&self, engine: &Engine<'_>) -> Result<bool, Failure> {
        if self.work.yes || engine.state().begun.wipe_agreed {
            return Ok(true);
        }
        if !has_terminal() {
            return Ok(false);
        }
        let disk = engine.wipe_outlook().map_err(self.failed())?;
        let originals = engine.find_originals().map_err(self.failed())?.unwrap_or_default();
        let question = format!(
            "The copy is verified and in use. Wipe the originals in {} now? ({disk})",
            originals.display()
        );
        Ok(confirm(&question, false).is_ok())
    }

    fn wipe(&self, engine: &mut Engine<'_>, options: WipeOptions) -> Result<Account, Failure> {
        let output = &self.context.output;
        let mut tell = |path: &TreePath, fate: Fate| {
            output.event("wiped", &json!({ "path": path, "fate": fate }));
            output.detail(format!("{path}: {}", fate.describe()));
        };
        engine.wipe(options, &mut tell).map_err(self.failed())
    }

    fn conclude(
        &self,
        engine: &Engine<'_>,
        account: Option<&Account>,
        kept: Option<&Path>,
        edits: Option<&[PlannedEdit]>,
        command: &str,
    ) -> CommandResult {
        let output = &self.context.output;
        let state = engine.state();
        let status = Status::new(state, engine.id()).map_err(self.failed())?;
        if let Some(account) = account {
            print_account(account, self.context);
        }
        if let Some(kept) = kept {
            output.say(format!("The originals are in {}.", kept.display()));
        }
        output.say(format!("Migration {}: {}.", status.id, status.describe()));
        if state.phase != Phase::RolledBack {
            let mounted = !mounted::mounts_of(&self.path).is_empty();
            output.say(format!(
                "The data are in the vault {}, {}mounted on {}.",
                self.path.display(),
                if mounted { "" } else { "which is not " },
                status.mount_point.as_path().display()
            ));
            output.say(format!(
                "{}: strongroom mount {} {}",
                if mounted { "After a restart" } else { "To mount it" },
                quote_path(&self.path),
                quote_path(status.mount_point.as_path())
            ));
        }
        if state.phase == Phase::Accepted {
            output.say(format!(
                "When you are sure: strongroom migrate wipe --vault {}",
                quote_path(&self.path)
            ));
        }
        let stores: Vec<_> = engine
            .store_reports()
            .iter()
            .map(|StoreReport { component, report }| {
                let path = component.path.display().to_string();
                json!({ "kind": component.kind, "path": path, "report": report })
            })
            .collect();
        let mut result = json!({ "migration": status, "wipe": account, "stores": stores });
        if let Some(edits) = edits {
            let mentions: Vec<_> = edits
                .iter()
                .flat_map(|edit| edit.mentions.iter().map(move |mention| (edit, mention)))
                .map(|(edit, mention)| json!({ "file": edit.file, "mention": mention }))
                .collect();
            result["mentions"] = json!(mentions);
        }
        output.result(command, &result);
        Ok(())
    }
}

pub(super) fn encrypt(args: &EncryptArgs, context: &Context) -> CommandResult {
    let begun = Cell::new(false);
    encrypt_and_tell(args, context, &begun).map_err(|mut failure| {
        let said = ["untouched", "nothing was changed"];
        if !begun.get() && !said.iter().any(|said| failure.message.contains(said)) {
            failure.message.push_str("; the source is untouched");
        }
        failure
    })
}

fn encrypt_and_tell(args: &EncryptArgs, context: &Context, begun: &Cell<bool>) -> CommandResult {
    let interrupt = Interrupt::watch()?;
    let plan = make_plan(args, &Shown::new(context, &interrupt))?;
    if !plan.blockers.is_empty() {
        return Err(failure(migrate::Error::Blocked(plan.blockers), &args.vault.vault));
    }
    warn_of_mentions(&plan, context);
    let totals = plan.inventory.totals;
    let then = if args.keep_originals { "keep the originals aside" } else { "wipe the originals" };
    let question = format!(
        "Move {} ({} files, {}) into the vault {}, and {then} afterwards?",
        plan.source.as_path().display(),
        totals.files,
        human_size(totals.bytes),
        plan.vault.as_path().display()
    );
    confirm(&question, args.work.yes)?;
    let vault = open_or_create(args, context)?;
    let run = Run::new(vault, &args.vault.vault, interrupt, &args.work, context);
    run.run(
        |environment| Engine::begin(environment, &plan),
        |engine, shown| {
            begun.set(true);
            run.finish(engine, shown, Some(&plan.edits), "migrate encrypt")
        },
    )
}

/// What became of the user's data when something failed.
fn whereabouts(phase: Phase) -> &'static str {
    match phase {
        Phase::Begun | Phase::Surveyed | Phase::Snapshotted | Phase::Copied | Phase::Verified => {
            "; the source is untouched"
        }
        Phase::Switching | Phase::Switched | Phase::Accepted => "; the originals are complete",
        Phase::Wiping => "; everything is in the vault, verified",
        Phase::RollingBack => "; the vault is as it was",
        Phase::Finished | Phase::Kept | Phase::RolledBack => "",
    }
}

/// The vault at that path; made, where there is none yet.
fn open_or_create(args: &EncryptArgs, context: &Context) -> Result<OpenVault, Failure> {
    let path = &args.vault.vault;
    let config = args.vault.vault_config.as_deref();
    let nothing_there = match std::fs::read_dir(path) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    };
    if !nothing_there {
        let vault = Vault::open(path, config)?;
        return OpenVault::new(unlock(&vault, &args.vault.secret, context)?);
    }
    let cost = args.cost.cost()?;
    let subject = format!("the vault {}", path.display());
    let secret = args.vault.secret.obtain_new(&subject, &context.output)?;
    let wanted = !args.no_recovery_key && args.recovery.has_place(context);
    let recovery = wanted.then(crate::crypto::RecoveryKey::generate);
    if let Some(key) = &recovery {
        // First: a vault whose recovery key nobody got would be a trap.
        args.recovery.give(key, context)?;
    }
    let recovery = recovery.map(crate::crypto::Secret::RecoveryKey);
    let mut slots = vec![NewSlot { secret: &secret, label: "", cost }];
    slots.extend(recovery.iter().map(|secret| NewSlot { secret, label: "", cost: None }));
    let vault = create_whole(path, config, &slots).inspect_err(|_| args.recovery.take_back())?;
    if recovery.is_none() && !args.no_recovery_key {
        context.output.warn(
            "the vault has no recovery key: whoever loses its secret loses the data; \
             `strongroom key recovery` makes one",
        );
    }
    Ok(vault)
}

/// Makes a vault beside its place and renames it there: whatever interrupts, there is a whole
/// vault or none.
fn create_whole(
    path: &Path,
    config: Option<&Path>,
    slots: &[NewSlot<'_>],
) -> Result<OpenVault, Failure> {
    let absolute = std::path::absolute(path).map_err(|error| Failure::io("use", path, &error))?;
    let (Some(parent), Some(name)) = (absolute.parent(), absolute.file_name()) else {
        return Err(Failure::new(ExitCode::Usage, "the vault has no name"));
    };
    let mut unfinished = std::ffi::OsString::from(".");
    unfinished.push(name);
    unfinished.push(".being-made");
    let unfinished = parent.join(unfinished);
    match std::fs::remove_dir_all(&unfinished) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(Failure::io("remove", &unfinished, &error));
        }
        _ => {}
    }
    let vault = Vault::create(&unfinished, config, slots)?;
    std::fs::rename(&unfinished, &absolute)
        .and_then(|()| std::fs::File::open(parent)?.sync_all())
        .map_err(|error| Failure::io("create", &absolute, &error))?;
    OpenVault::at(vault, &absolute)
}

pub(super) fn resume(args: &ResumeArgs, context: &Context) -> CommandResult {
    let run = Run::open(&args.vault, &args.work, context)?;
    run.run_existing(&args.which, |engine, shown| run.finish(engine, shown, None, "migrate resume"))
}

pub(super) fn wipe(args: &WipeArgs, context: &Context) -> CommandResult {
    let run = Run::open(&args.vault, &args.work, context)?;
    run.run_existing(&args.which, |engine, shown| {
        let originals = engine.find_originals().map_err(run.failed())?;
        // Who gives this command without a terminal means it.
        if let Some(originals) = originals.filter(|_| has_terminal()) {
            let disk = engine.wipe_outlook().map_err(run.failed())?;
            let question = format!("Wipe the originals in {}? ({disk})", originals.display());
            confirm(&question, args.work.yes)?;
        }
        let options = WipeOptions {
            without_snapshot: args.without_snapshot,
            originals_gone: args.originals_gone,
        };
        let account = run.wipe(engine, options)?;
        shown.end();
        run.conclude(engine, Some(&account), None, None, "migrate wipe")
    })
}

pub(super) fn rollback(args: &RollbackArgs, context: &Context) -> CommandResult {
    let run = Run::open(&args.vault, &args.work, context)?;
    let from = args.from.map(|from| match from {
        FromArg::Vault => From::Vault,
        FromArg::Snapshot => From::Snapshot,
    });
    let options = RollbackOptions { from, discard_changes: args.discard_changes };
    run.run_existing(&args.which, |engine, shown| {
        let source = engine.state().begun.source.as_path().to_owned();
        confirm(&format!("Bring the data back to {}?", source.display()), args.work.yes)?;
        let back = engine.roll_back(options).map_err(run.failed())?;
        shown.end();
        let output = &context.output;
        for file in &back.edited_since {
            output.warn(format!(
                "{} was edited since; only the migration's own edits were taken back",
                file.as_path().display()
            ));
        }
        if let Some(leftover) = &back.leftover {
            output.warn(format!(
                "{} holds files of the originals that did not come back: they were changed after \
                 they were verified, or something else has their place now; they are yours to \
                 look at",
                leftover.as_path().display()
            ));
        }
        if let Some(originals) = &back.originals {
            output.warn(format!(
                "the originals, as they were at the migration, are in {}; remove them when you \
                 need them no more",
                originals.as_path().display()
            ));
        }
        for found in &back.found {
            output.warn(format!(
                "something had been put where the data were; it is kept as {}",
                found.as_path().display()
            ));
        }
        output.say(format!("Rolled back: the data are in {}, as before.", source.display()));
        output.say(format!(
            "The vault {} still holds its encrypted copy; remove it when you need it no more.",
            run.path.display()
        ));
        output.result("migrate rollback", &json!({ "rollback": back }));
        Ok(())
    })
}
