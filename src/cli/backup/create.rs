//! `strongroom backup create`.

use serde_json::{Value, json};

use super::CreateArgs;
use super::attempt::Attempt;
use super::defaults::Job;
use super::events::{facts, unusual};
use super::keys::Asked;
use super::run::Interrupt;
use super::trees::vault_of;
use crate::backup::{self, Catalog, Created, Lock};
use crate::cli::Context;
use crate::cli::events::Listeners;
use crate::cli::exit_code::ExitCode;
use crate::cli::failure::{CommandResult, Failure};
use crate::cli::output::human_size;
use crate::profile::Event;

/// The section with a vault's keys.
pub(super) const VAULT_SECTION: &str = "vault";
pub(super) const VAULT_CONFIG: &str = "vault.json";

pub(super) fn command(args: &CreateArgs, context: &Context) -> CommandResult {
    let made = make(args, context)?;
    let Created { path, sidecar, .. } = &made;
    let output = &context.output;
    output.say(format!(
        "{} ({}, {} of {} entries, {:.1} s)",
        path.display(),
        sidecar.kind,
        human_size(sidecar.size),
        sidecar.entries,
        std::time::Duration::from_millis(sidecar.duration_ms).as_secs_f64()
    ));
    output.result("backup create", &result(&made));
    Ok(())
}

/// What is told of a backup that was made.
pub(super) fn result(made: &Created) -> Value {
    let mut value = serde_json::to_value(&made.sidecar).unwrap_or_default();
    if let Value::Object(fields) = &mut value {
        fields.insert("archive".into(), made.path.display().to_string().into());
        let not_visited = made.noticed.mount_points.iter().map(|(_, path)| path.to_string());
        fields.insert("not_visited".into(), not_visited.collect::<Vec<_>>().into());
        // `type` says that it is a result.
        if let Some(kind) = fields.remove("type") {
            fields.insert("backup_type".into(), kind);
        }
    }
    value
}

/// Makes a backup, and tells whoever wants to know.
pub(super) fn make(args: &CreateArgs, context: &Context) -> Result<Created, Failure> {
    let job = Job::new(args, context)?;
    let subject = [("name", json!(job.name)), ("source", json!(job.source.display().to_string()))];
    let listeners = Listeners::new(&args.events, job.profile.as_ref(), &subject, context);
    listeners.tell(Event::BackupStarted, &[("type", json!(job.kind))], context);
    match make_job(args, &job, context) {
        Ok((made, catalog)) => {
            listeners.tell(Event::BackupCompleted, &facts(&made.path, &made.sidecar), context);
            let odd = unusual(&made.sidecar, &catalog);
            if !odd.is_empty() {
                let odd = odd.join("; ");
                context.output.warn(format!("this backup is out of the usual: {odd}"));
                let mut facts = facts(&made.path, &made.sidecar);
                facts.push(("unusual", json!(odd)));
                listeners.tell(Event::BackupUnusual, &facts, context);
            }
            Ok(made)
        }
        Err(failure) => {
            let room = "no backup was made; make room, or give --output another place";
            let failure = failure.hint_at(ExitCode::NoSpace, room);
            listeners.tell_failure(Event::BackupFailed, &failure, context);
            Err(failure)
        }
    }
}

fn make_job(
    args: &CreateArgs,
    job: &Job,
    context: &Context,
) -> Result<(Created, Catalog), Failure> {
    let interrupt = Interrupt::watch()?;
    backup::make_output(&job.output)?;
    let _lock = Lock::take(&job.output)?;
    let catalog = Catalog::read(&job.output)?;
    let vault = args.vault.clone().or_else(|| vault_of(&job.source));
    let ask = || Asked::ask(args, job, vault.as_ref(), &catalog, context);
    let asked = job.encrypt.then(ask).transpose()?;
    let made = std::thread::scope(|scope| {
        let attempt = Attempt {
            args,
            job,
            context,
            interrupt: &interrupt,
            catalog: &catalog,
            vault: vault.as_ref(),
            deriving: asked.map(|asked| asked.begin(scope)).transpose()?,
            seal: None,
            unsteady: Vec::new(),
            every_file: !job.is_read_whole(),
        };
        attempt.until_steady()
    })?;
    Ok((made, catalog))
}
