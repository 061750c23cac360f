//! Tells others what happens: a command, a webhook.

use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use super::Context;
use super::failure::Failure;
use crate::profile::{Event, Events, Profile};

/// How long a command may take.
const COMMAND_LIMIT: Duration = Duration::from_secs(60);
/// How often a command is asked whether it has ended.
const COMMAND_POLL: Duration = Duration::from_millis(10);
/// How long a webhook may take, in seconds.
const WEBHOOK_SECONDS: u32 = 20;

/// Options that name who is told.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct EventArgs {
    /// Run COMMAND with `sh -c` at each event, which it gets as JSON on standard input.
    #[arg(long, value_name = "COMMAND", help_heading = "Events")]
    pub on_event: Option<String>,
    /// POST each event as JSON to URL.
    #[arg(long, value_name = "URL", help_heading = "Events")]
    pub webhook: Option<String>,
}

/// Who is told.
pub struct Listeners {
    commands: Vec<Vec<String>>,
    webhooks: Vec<String>,
    on: Vec<Event>,
    subject: Map<String, Value>,
}

impl Listeners {
    /// Those of the command line, and those of the profile.
    pub fn new(
        args: &EventArgs,
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
    pub fn tell(&self, event: Event, facts: &[(&str, Value)], context: &Context) {
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
            if let Err(problem) = run(&words, &name, &body, COMMAND_LIMIT) {
                context.output.warn(format!("the event command {problem}"));
            }
        }
        for url in &self.webhooks {
            if let Err(problem) = post(url, &body) {
                context.output.warn(format!("the webhook was not told of {name}: {problem}"));
            }
        }
    }

    /// Does `work`, and tells how it ended.
    ///
    /// # Errors
    /// Those of `work`.
    pub fn around<T>(
        &self,
        (completed, failed): (Event, Event),
        context: &Context,
        work: impl FnOnce() -> Result<T, Failure>,
        facts: impl FnOnce(&T) -> Vec<(&'static str, Value)>,
    ) -> Result<T, Failure> {
        match work() {
            Ok(done) => {
                self.tell(completed, &facts(&done), context);
                Ok(done)
            }
            Err(failure) => {
                self.tell_failure(failed, &failure, context);
                Err(failure)
            }
        }
    }

    /// Tells that something failed.
    pub fn tell_failure(&self, event: Event, failure: &Failure, context: &Context) {
        let facts = [("error", json!(failure.code.name())), ("message", json!(failure.message))];
        self.tell(event, &facts, context);
    }
}

fn run(words: &[String], event: &str, body: &str, limit: Duration) -> Result<(), String> {
    let [program, arguments @ ..] = words else { return Err("is empty".into()) };
    let mut child = Command::new(program)
        .args(arguments)
        .env("STRONGROOM_EVENT", event)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        // So that whatever it starts can be ended with it.
        .process_group(0)
        .spawn()
        .map_err(|error| format!("could not be started: {error}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        let body = format!("{body}\n");
        // A command that does not read it needs not, and must not be waited for here.
        let tell = move || stdin.write_all(body.as_bytes());
        if let Err(error) = std::thread::Builder::new().spawn(tell) {
            end(&mut child).map_err(|error| format!("was lost: {error}"))?;
            return Err(format!("could not be told of it: {error}"));
        }
    }
    match wait(&mut child, limit) {
        Ok(Some(status)) if status.success() => Ok(()),
        Ok(Some(status)) => Err(format!("failed ({status})")),
        Ok(None) => Err(format!("was ended: it took more than {} seconds", limit.as_secs())),
        Err(error) => Err(format!("was lost: {error}")),
    }
}

/// Waits for its end; `None`: it took too long, and was ended.
fn wait(child: &mut Child, limit: Duration) -> std::io::Result<Option<ExitStatus>> {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if begun.elapsed() >= limit {
            end(child)?;
            return Ok(None);
        }
        std::thread::sleep(COMMAND_POLL);
    }
}

/// Ends it, with whatever it started.
fn end(child: &mut Child) -> std::io::Result<()> {
    let group = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw);
    if let Some(group) = group {
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
    child.wait().map(drop)
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn shell(command: &str, limit: Duration) -> Result<(), String> {
        run(&["sh".into(), "-c".into(), command.into()], "event", "{}", limit)
    }

    #[test]
    fn a_command_that_hangs_is_ended_with_all_it_started() {
        let begun = Instant::now();
        let problem = shell("sleep 300 | cat", Duration::from_millis(200)).unwrap_err();
        assert!(problem.contains("was ended"), "{problem}");
        assert!(begun.elapsed() < Duration::from_secs(100));
        assert_eq!(shell("grep -q {}", COMMAND_LIMIT), Ok(()));
        assert!(shell("exit 3", COMMAND_LIMIT).unwrap_err().contains("failed"));
    }
}
