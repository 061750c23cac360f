//! Runs the app's own commands: stop, start, health.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;
use std::process::{Command, Stdio};

use super::error::{Error, Result};
use super::operations::{Change, Hands};

/// Bytes of a command's output that an error tells.
const TOLD: usize = 2000;

/// Runs `command` with `sh -c`; what it prints is told only when it fails.
///
/// # Errors
/// [`Error::Command`] when it cannot be run or fails.
pub(super) fn run(hands: &Hands, purpose: &'static str, command: &str) -> Result<()> {
    let failed = |reason: String| Error::Command { purpose, command: command.to_owned(), reason };
    hands.perform(Change::Command, Path::new(purpose), || {
        // Into a file: a daemon that the command leaves behind may keep its standard error.
        let told = tempfile::tempfile().map_err(|error| failed(error.to_string()))?;
        let stderr = told.try_clone().map_err(|error| failed(error.to_string()))?;
        let status = Command::new("sh")
            .args(["-c", command])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr)
            .status()
            .map_err(|error| failed(error.to_string()))?;
        if status.success() {
            return Ok(());
        }
        let text = tail(told);
        let text = text.trim();
        let start = text.char_indices().rev().map(|(at, _)| at).take(TOLD).last().unwrap_or(0);
        Err(failed(format!("{status}: {}", &text[start..])))
    })
}

/// The end of what a file holds.
fn tail(mut file: File) -> String {
    let mut bytes = Vec::new();
    let len = file.metadata().map_or(0, |stat| stat.len());
    let start = len.saturating_sub(4 * u64::try_from(TOLD).unwrap_or(0));
    if file.seek(SeekFrom::Start(start)).is_ok() {
        let _ = file.read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
