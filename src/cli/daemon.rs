//! Starting the process that serves a mount in the background, and waiting until it does.
//!
//! It is this program, run anew: nothing of the caller but its standard error reaches it, so its
//! threads, memory and descriptors are its own. The master key goes to it through a pipe. It
//! answers with the JSON lines of `mount`.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Map, Value};

use super::Context;
use super::exit_code::ExitCode;
use super::failure::{CommandResult, Failure, RAISE_LIMIT, plain_reason};
use super::mount_request::Request;
use super::output::Output;
use super::shell::quote_path;
use crate::crypto::MasterKey;
use crate::fuse::close_inherited_on_exec;

/// The option of the process that has still open what its caller has.
const INHERITED: &str = "--inherited";

/// A process that serves a mount.
#[derive(Debug)]
pub struct Served {
    input: ChildStdin,
}

impl Served {
    /// Tells it the process that the mount is for, where it is to end with its caller: it stays
    /// until that process has ended, whatever happens to the caller.
    ///
    /// # Errors
    /// It is gone.
    pub fn tell_user(&mut self, pid: u32) -> io::Result<()> {
        self.input.write_all(&pid.to_le_bytes())
    }
}

/// Starts a process that mounts what `request` says; returns when the mount can be used. Where the
/// mount is to end with its caller, it does so when the [`Served`] is dropped.
///
/// # Errors
/// Whatever kept it from mounting; nothing is mounted then.
pub fn start(request: &Request, key: &MasterKey, context: &Context) -> Result<Served, Failure> {
    if !request.ends_with_caller {
        close_inherited_on_exec();
    }
    let mut child =
        command(request).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map_err(|error| {
            let failure = lost(request, &plain_reason(&error));
            match error.kind() {
                // fork(2), `EAGAIN`.
                io::ErrorKind::WouldBlock => failure.hint(RAISE_LIMIT),
                _ => failure,
            }
        })?;
    let (input, output) = (child.stdin.take(), child.stdout.take());
    let (Some(mut input), Some(output)) = (input, output) else {
        return Err(lost(request, "it has no pipes"));
    };
    // If it is gone already, what it answered tells why.
    let _ = input.write_all(key.expose());
    match read_answer(output, &context.output) {
        Some(answer) => answer.map(|()| Served { input }),
        None => Err(lost(request, &how_it_ended(&mut child))),
    }
}

/// This program.
fn program() -> PathBuf {
    // The file may have been replaced while this runs; what runs is still there.
    match std::env::current_exe() {
        Ok(path) if path.exists() => path,
        _ => "/proc/self/exe".into(),
    }
}

/// In that process: begins anew without what the caller has open, which the caller goes on to use,
/// and without the signals that the caller holds back. Returns only the failure.
pub fn begin_anew() -> Failure {
    close_inherited_on_exec();
    let _ = nix::sys::signal::SigSet::all().thread_unblock();
    let arguments = std::env::args_os().skip(1).filter(|argument| argument != INHERITED);
    let error = Command::new(program()).args(arguments).exec();
    Failure::new(ExitCode::Failure, format!("cannot begin anew: {}", plain_reason(&error)))
}

fn command(request: &Request) -> Command {
    let mut command = Command::new(program());
    command.args(["mount", "--daemon", "--json"]);
    let kernel = &request.options.kernel;
    let options: Vec<&str> = [
        (kernel.read_only, "ro"),
        (kernel.allow_other, "allow_other"),
        (kernel.default_permissions, "default_permissions"),
        (kernel.no_exec, "noexec"),
        (kernel.set_user_id, "suid"),
        (kernel.devices, "dev"),
        (kernel.no_access_time, "noatime"),
        (kernel.synchronous, "sync"),
        (kernel.synchronous_directories, "dirsync"),
        (request.options.allow_nonempty, "nonempty"),
        (request.options.power_saving, "power_saving"),
    ]
    .into_iter()
    .filter_map(|(wanted, option)| wanted.then_some(option))
    .collect();
    if !options.is_empty() {
        command.args(["-o", &options.join(",")]);
    }
    if let Some(file) = &request.log_file {
        command.arg("--log-file").arg(file);
    }
    if let Some(idle) = request.idle {
        command.arg("--idle").arg(format!("{}s", idle.as_secs()));
    }
    if request.ends_with_caller {
        command.args(["--ends-with-caller", INHERITED]);
    }
    for _ in 0..request.verbose {
        command.arg("--verbose");
    }
    command.arg("--stop-timeout").arg(request.stop_timeout.as_secs().to_string());
    command.arg("--").arg(&request.vault).arg(&request.mount_point);
    command
}

/// Reads the process's JSON lines up to its result.
fn read_answer(pipe: ChildStdout, output: &Output) -> Option<CommandResult> {
    for line in BufReader::new(pipe).lines() {
        let Ok(Value::Object(fields)) = serde_json::from_str(&line.ok()?) else { continue };
        match fields.get("type").and_then(Value::as_str) {
            Some("warning") => output.warn(text(&fields, "message")),
            Some("result") => return Some(result(fields)),
            _ => {}
        }
    }
    None
}

fn result(mut fields: Map<String, Value>) -> CommandResult {
    if fields.get("ok") == Some(&Value::Bool(true)) {
        return Ok(());
    }
    let code = fields
        .get("code")
        .and_then(Value::as_u64)
        .and_then(|number| u8::try_from(number).ok())
        .and_then(ExitCode::from_number)
        .unwrap_or(ExitCode::Failure);
    let mut failure = Failure::new(code, text(&fields, "message"));
    if fields.contains_key("hint") {
        failure = failure.hint(text(&fields, "hint"));
    }
    for known in ["type", "command", "ok", "code", "error", "message", "hint"] {
        fields.shift_remove(known);
    }
    failure.details.extend(fields);
    Err(failure)
}

fn text(fields: &Map<String, Value>, key: &str) -> String {
    fields.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn how_it_ended(child: &mut Child) -> String {
    match child.wait() {
        Ok(status) => format!("it ended early ({status})"),
        Err(error) => plain_reason(&error),
    }
}

fn lost(request: &Request, reason: &str) -> Failure {
    Failure::new(
        ExitCode::Failure,
        format!("the process that was to serve the mount did not come up: {reason}"),
    )
    .hint(format!(
        "`strongroom mount --foreground {} DIRECTORY` shows what it meets",
        quote_path(&request.vault)
    ))
}

/// In that process: tells whoever waits that the mount can be used.
///
/// # Errors
/// Nobody waits any more.
pub fn report_ready(description: &Value) -> io::Result<()> {
    let mut line = Map::new();
    line.insert("type".into(), "result".into());
    line.insert("command".into(), "mount".into());
    line.insert("ok".into(), true.into());
    line.insert("mount".into(), description.clone());
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{}", Value::Object(line))?;
    stdout.flush()
}
