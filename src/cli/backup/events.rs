//! Tells others what happens: a command, a webhook.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Map, Value, json};

use super::CreateArgs;
use crate::backup::{Backup, Catalog, Sidecar};
use crate::cli::Context;
use crate::cli::failure::Failure;
use crate::profile::{Event, Events, Profile};

/// How long a webhook may take, in seconds.
const WEBHOOK_SECONDS: u32 = 20;
/// How many earlier backups tell what is usual.
const USUAL_COUNT: usize = 4;
/// What takes less time is never unusual.
const UNUSUAL_MS: u64 = 10_000;

/// Who is told.
pub(super) struct Listeners {
    commands: Vec<Vec<String>>,
    webhooks: Vec<String>,
    on: Vec<Event>,
    subject: Map<String, Value>,
}

impl Listeners {
    /// Those of the command line, and those of the profile.
    pub(super) fn new(
        args: &CreateArgs,
        profile: Option<&Profile>,
        subject: &[(&str, Value)],
        context: &Context,
    ) -> Self {
        let mut listeners = Self {
            commands: Vec::new(),
            webhooks: args.webhook.iter().cloned().collect(),
            on: Vec::new(),
            subject: subject.iter().map(|(key, value)| ((*key).into(), value.clone())).collect(),
        };
        if let Some(command) = &args.on_event {
            listeners.commands.push(vec!["sh".into(), "-c".into(), command.clone()]);
        }
        if let Some(profile) = profile {
            let Events { command, webhook, on } = &profile.events;
            listeners.webhooks.extend(webhook.iter().cloned());
            listeners.on.clone_from(on);
            if let Some(command) = command {
                // `{event}` is filled in later.
                match command.with(&profile.placeholders(&profile.data)) {
                    Ok(words) => listeners.commands.push(words),
                    Err(_) => listeners.commands.push(command.words().to_vec()),
                }
                if command.words().is_empty() {
                    context.output.warn("the profile's event command is empty");
                }
            }
        }
        listeners
    }

    /// Tells an event. Whoever cannot be told is a warning, no failure of the work.
    pub(super) fn tell(&self, event: Event, facts: &[(&str, Value)], context: &Context) {
        if !self.on.is_empty() && !self.on.contains(&event) {
            return;
        }
        let name = serde_json::to_value(event).unwrap_or_default();
        let name = name.as_str().unwrap_or("event").to_owned();
        let mut message = Map::new();
        message.insert("event".into(), name.clone().into());
        message.insert("time".into(), jiff::Timestamp::now().to_string().into());
        message.extend(self.subject.clone());
        message.extend(facts.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
        let body = Value::Object(message).to_string();
        for words in &self.commands {
            let words: Vec<String> =
                words.iter().map(|word| word.replace("{event}", &name)).collect();
            if let Err(problem) = run(&words, &name, &body) {
                context.output.warn(format!("the event command {problem}"));
            }
        }
        for url in &self.webhooks {
            if let Err(problem) = post(url, &body) {
                context.output.warn(format!("the webhook was not told of {name}: {problem}"));
            }
        }
    }

    /// Tells that something failed.
    pub(super) fn tell_failure(&self, event: Event, failure: &Failure, context: &Context) {
        let facts = [("error", json!(failure.code.name())), ("message", json!(failure.message))];
        self.tell(event, &facts, context);
    }
}

fn run(words: &[String], event: &str, body: &str) -> Result<(), String> {
    let [program, arguments @ ..] = words else { return Err("is empty".into()) };
    let mut child = Command::new(program)
        .args(arguments)
        .env("STRONGROOM_EVENT", event)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .map_err(|error| format!("could not be started: {error}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A command that does not read it needs not.
        let _ = writeln!(stdin, "{body}");
    }
    match child.wait() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("failed ({status})")),
        Err(error) => Err(format!("was lost: {error}")),
    }
}

/// By curl, which has every certificate and proxy that this machine uses. What is secret in a URL
/// is not shown in the list of processes: curl reads it from its standard input.
fn post(url: &str, body: &str) -> Result<(), String> {
    if !url.starts_with("https://") && !url.starts_with("http://") {
        return Err("it is neither http nor https".into());
    }
    let quote = |text: &str| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
    let config = format!(
        "url = {}\ndata-raw = {}\nheader = \"Content-Type: application/json\"\n\
         max-time = {WEBHOOK_SECONDS}\nfail\nsilent\nshow-error\noutput = \"/dev/null\"\n",
        quote(url),
        quote(body)
    );
    let mut child = Command::new("curl")
        .args(["--disable", "--config", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("curl could not be started: {error}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        let _ = stdin.write_all(config.as_bytes());
    }
    let output = child.wait_with_output().map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    let told = String::from_utf8_lossy(&output.stderr);
    // curl names the host, never the whole URL.
    Err(told.lines().last().unwrap_or("curl failed").trim().to_owned())
}

/// What is out of the usual about a new backup, compared with earlier ones of its kind.
pub(super) fn unusual(new: &Sidecar, catalog: &Catalog) -> Vec<String> {
    let earlier: Vec<&Sidecar> = catalog
        .backups()
        .iter()
        .rev()
        .filter(|backup: &&Backup| backup.name.name == new.name)
        .filter_map(|backup| backup.sidecar.as_ref().ok())
        .filter(|sidecar| sidecar.kind == new.kind && sidecar.id != new.id)
        .take(12)
        .collect();
    if earlier.len() < USUAL_COUNT {
        return Vec::new();
    }
    let median = |number: &dyn Fn(&Sidecar) -> u64| {
        let mut all: Vec<u64> = earlier.iter().map(|sidecar| number(sidecar)).collect();
        all.sort_unstable();
        all[all.len() / 2]
    };
    let mut found = Vec::new();
    let size = median(&|sidecar| sidecar.size);
    // Increments differ by nature.
    let usual_size = new.kind != crate::archive::ArchiveKind::Full
        || (new.size >= size / 2 && new.size <= size.saturating_mul(2));
    if !usual_size {
        found.push(format!("{} bytes, where {size} are usual", new.size));
    }
    let duration = median(&|sidecar| sidecar.duration_ms);
    if new.duration_ms > UNUSUAL_MS && new.duration_ms > duration.saturating_mul(3) {
        found.push(format!("{} ms, where {duration} are usual", new.duration_ms));
    }
    found
}

/// What an event tells of a backup.
pub(super) fn facts(path: &Path, sidecar: &Sidecar) -> Vec<(&'static str, Value)> {
    vec![
        ("archive", json!(path.display().to_string())),
        ("type", json!(sidecar.kind)),
        ("size", json!(sidecar.size)),
        ("entries", json!(sidecar.entries)),
        ("duration_ms", json!(sidecar.duration_ms)),
    ]
}
