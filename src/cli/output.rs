//! What commands print: text for people, JSON lines for programs.
//!
//! With `--json` every line on standard output is one object with a `type`: `progress` or
//! `warning`, any number of them, then exactly one `result`. Text goes to standard output when it
//! is what was asked for, and to standard error when it is about the work.

use std::fmt::Display;
use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use parking_lot::Mutex;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::args::{ColorChoice, GlobalArgs};
use super::exit_code::ExitCode;
use super::failure::Failure;

/// How much text a person wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verbosity {
    /// Errors, and what was asked for.
    Quiet,
    /// What is done, too.
    Normal,
    /// And how.
    Verbose,
}

/// Where and how a command's output goes.
#[derive(Debug)]
pub struct Output {
    json: bool,
    verbosity: Verbosity,
    color_stdout: bool,
    color_stderr: bool,
    /// Nothing on standard error: whoever reads the JSON lines says it all.
    silent: bool,
}

impl Output {
    /// As the command line and the terminal want it; `silent`: nothing on standard error.
    pub fn new(args: &GlobalArgs, silent: bool) -> Self {
        let verbosity = if args.quiet {
            Verbosity::Quiet
        } else if args.verbose > 0 {
            Verbosity::Verbose
        } else {
            Verbosity::Normal
        };
        let allowed = |terminal: bool| match args.color {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            ColorChoice::Auto => {
                // https://no-color.org: any value but the empty one turns colour off.
                let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
                    || std::env::var_os("TERM").is_some_and(|term| term == "dumb");
                terminal && !refused
            }
        };
        Self {
            json: args.json,
            verbosity,
            color_stdout: !args.json && allowed(io::stdout().is_terminal()),
            color_stderr: allowed(io::stderr().is_terminal()),
            silent,
        }
    }

    /// Whether the output is JSON.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// How much is said.
    pub fn verbosity(&self) -> Verbosity {
        self.verbosity
    }

    /// Whether standard output takes colour.
    pub fn color(&self) -> bool {
        self.color_stdout
    }

    /// Prints what was asked for: always, unless the output is JSON.
    pub fn print(&self, text: impl Display) {
        if !self.json {
            write_line(&mut io::stdout().lock(), &text.to_string());
        }
    }

    /// Says what is being done: not with `--quiet`.
    pub fn say(&self, text: impl Display) {
        if !self.json && self.verbosity >= Verbosity::Normal {
            write_line(&mut io::stdout().lock(), &text.to_string());
        }
    }

    /// Says how it is done: only with `--verbose`.
    pub fn detail(&self, text: impl Display) {
        if !self.json && self.verbosity >= Verbosity::Verbose {
            write_line(&mut io::stderr().lock(), &format!("strongroom: {text}"));
        }
    }

    /// Warns, on standard error, and in the JSON lines.
    pub fn warn(&self, text: impl Display) {
        if self.json {
            print_json(&json!({ "type": "warning", "message": text.to_string() }));
        }
        if self.silent {
            return;
        }
        let label = self.paint_stderr("warning:", "33");
        write_line(&mut io::stderr().lock(), &format!("strongroom: {label} {text}"));
    }

    /// Begins to show the progress of `phase`, which works on `total` bytes or items.
    pub fn progress(&self, phase: &str, unit: Unit, total: Option<u64>) -> Progress {
        let bar = (!self.json && self.verbosity >= Verbosity::Normal && io::stderr().is_terminal())
            .then(|| draw_bar(phase, unit, total, self.color_stderr));
        Progress {
            phase: phase.to_owned(),
            unit,
            json: self.json,
            bar,
            state: Mutex::new(State { done: 0, total, last_line: None }),
        }
    }

    /// Tells programs that a step was reached: a `progress` line with `phase` and the fields of
    /// `value`.
    pub fn event(&self, phase: &str, value: &impl Serialize) {
        if self.json {
            let mut object = Map::new();
            object.insert("type".into(), "progress".into());
            object.insert("phase".into(), phase.into());
            if let Ok(Value::Object(fields)) = serde_json::to_value(value) {
                object.extend(fields);
            }
            print_json(&Value::Object(object));
        }
    }

    /// The one result of a command that succeeded. The fields of `value` (a struct or map) stand
    /// beside `type`, `command` and `ok`.
    pub fn result(&self, command: &str, value: &impl Serialize) {
        if !self.json {
            return;
        }
        let mut object = Map::new();
        object.insert("type".into(), "result".into());
        object.insert("command".into(), command.into());
        object.insert("ok".into(), true.into());
        if let Ok(Value::Object(fields)) = serde_json::to_value(value) {
            object.extend(fields);
        }
        print_json(&Value::Object(object));
    }

    /// The one result of a command that failed.
    pub fn failure(&self, command: &str, failure: &Failure) {
        if self.json {
            let mut object = Map::new();
            object.insert("type".into(), "result".into());
            object.insert("command".into(), command.into());
            object.insert("ok".into(), false.into());
            object.insert("code".into(), failure.code.number().into());
            object.insert("error".into(), failure.code.name().into());
            object.insert("message".into(), failure.message.clone().into());
            if let Some(hint) = &failure.hint {
                object.insert("hint".into(), hint.clone().into());
            }
            object.extend(failure.details.clone());
            print_json(&Value::Object(object));
        }
        if self.silent {
            return;
        }
        let mut stderr = io::stderr().lock();
        let label = self.paint_stderr("error:", "1;31");
        write_line(&mut stderr, &format!("strongroom: {label} {}", failure.message));
        if let Some(hint) = &failure.hint {
            let label = self.paint_stderr("hint:", "36");
            write_line(&mut stderr, &format!("strongroom: {label} {hint}"));
        }
    }

    fn paint_stderr(&self, text: &str, style: &str) -> String {
        if self.color_stderr { format!("\x1b[{style}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// What a progress counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// Files, steps, entries.
    Items,
}

impl Unit {
    const fn name(self) -> &'static str {
        match self {
            Self::Bytes => "bytes",
            Self::Items => "items",
        }
    }
}

/// Shows how far a phase is: a bar with rate and time left on a terminal, for what lasts longer
/// than a second; JSON lines for programs, at most four a second and one at the end. May be used
/// from several threads. Ends when dropped.
pub struct Progress {
    phase: String,
    unit: Unit,
    json: bool,
    bar: Option<ProgressBar>,
    state: Mutex<State>,
}

struct State {
    done: u64,
    total: Option<u64>,
    last_line: Option<Instant>,
}

/// Between two JSON lines of one phase.
const LINE_INTERVAL: Duration = Duration::from_millis(250);
/// What is over sooner shows no bar.
const BAR_DELAY: Duration = Duration::from_secs(1);

impl Progress {
    /// `count` more bytes or items are done.
    pub fn advance(&self, count: u64) {
        let mut state = self.state.lock();
        state.done = state.done.saturating_add(count);
        self.show(&mut state);
    }

    /// So many bytes or items are done in all.
    pub fn set(&self, done: u64) {
        let mut state = self.state.lock();
        state.done = done;
        self.show(&mut state);
    }

    /// The total has become known, or has changed.
    pub fn set_total(&self, total: u64) {
        let mut state = self.state.lock();
        state.total = Some(total);
        if let Some(bar) = &self.bar {
            bar.set_length(total);
        }
    }

    fn show(&self, state: &mut State) {
        if let Some(bar) = &self.bar {
            if bar.is_hidden() && bar.elapsed() >= BAR_DELAY {
                bar.set_draw_target(ProgressDrawTarget::stderr());
            }
            bar.set_position(state.done);
        }
        if self.json && state.last_line.is_none_or(|last| last.elapsed() >= LINE_INTERVAL) {
            state.last_line = Some(Instant::now());
            self.line(state, false);
        }
    }

    fn line(&self, state: &State, finished: bool) {
        print_json(&json!({
            "type": "progress",
            "phase": self.phase,
            "done": state.done,
            "total": state.total,
            "unit": self.unit.name(),
            "finished": finished,
        }));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        if self.json {
            self.line(&self.state.lock(), true);
        }
    }
}

fn draw_bar(phase: &str, unit: Unit, total: Option<u64>, color: bool) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::hidden());
    let filled = if color { "{bar:28.green}" } else { "{bar:28}" };
    let template = match (unit, total) {
        (Unit::Bytes, Some(_)) => {
            format!("{{msg}} {filled} {{bytes}}/{{total_bytes}} {{bytes_per_sec}} {{eta}} left")
        }
        (Unit::Bytes, None) => "{msg} {spinner} {bytes} {bytes_per_sec}".to_owned(),
        (Unit::Items, Some(_)) => {
            format!("{{msg}} {filled} {{human_pos}}/{{human_len}} {{per_sec}} {{eta}} left")
        }
        (Unit::Items, None) => "{msg} {spinner} {human_pos} {per_sec}".to_owned(),
    };
    if let Ok(style) = ProgressStyle::with_template(&template) {
        bar.set_style(style);
    }
    bar.set_message(phase.to_owned());
    bar
}

/// Whoever reads may go away: that is not an error of ours.
fn write_line(stream: &mut dyn io::Write, text: &str) {
    let _ = writeln!(stream, "{text}");
}

/// Tells a next step where it is not known yet how output is to look.
pub fn hint(text: &str) {
    write_line(&mut io::stderr().lock(), &format!("strongroom: hint: {text}"));
}

fn print_json(value: &Value) {
    let mut stdout = io::stdout().lock();
    write_line(&mut stdout, &value.to_string());
    let _ = stdout.flush();
}

/// A size for people: `1.5 GiB`.
pub fn human_size(bytes: u64) -> String {
    humansize::format_size(bytes, humansize::BINARY)
}

/// How the process ends after `result`, which is printed when it is a failure.
pub fn finish(output: &Output, command: &str, result: super::failure::CommandResult) -> u8 {
    match result {
        Ok(()) => ExitCode::Success.number(),
        Err(failure) => {
            if !failure.told {
                output.failure(command, &failure);
            }
            failure.passed.unwrap_or(failure.code.number())
        }
    }
}
