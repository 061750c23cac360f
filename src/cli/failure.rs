//! What a command that failed tells: a message, a next step, an exit code.

use std::io;
use std::path::Path;

use super::exit_code::ExitCode;

/// A command's result.
pub type CommandResult = Result<(), Failure>;

/// Why a command failed, and how the process shall end.
///
/// The message says what happened, to which file, and what became of the user's data; the hint
/// says what to do next.
#[derive(Debug)]
pub struct Failure {
    /// How the process ends.
    pub code: ExitCode,
    /// What happened; no capital at its beginning, no full stop at its end.
    pub message: String,
    /// What to do next, where that is known.
    pub hint: Option<String>,
    /// Further fields of the JSON result.
    pub details: Vec<(String, serde_json::Value)>,
    /// Whether the command has said everything itself, its result included.
    pub told: bool,
    /// The exit code of somebody else, in place of `code`.
    pub passed: Option<u8>,
}

impl Failure {
    /// A failure without a hint.
    pub fn new(code: ExitCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            hint: None,
            details: Vec::new(),
            told: false,
            passed: None,
        }
    }

    /// An end with a code of its own, of which everything is said.
    pub fn told(code: ExitCode) -> Self {
        Self { told: true, ..Self::new(code, "") }
    }

    /// The end of a command that was run for the user, whose exit code this process ends with.
    pub fn passed(code: u8) -> Self {
        Self { passed: Some(code), ..Self::told(ExitCode::CommandFailed) }
    }

    /// With a next step.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// With a further field of the JSON result.
    #[must_use]
    pub fn detail(mut self, key: &str, value: impl Into<serde_json::Value>) -> Self {
        self.details.push((key.to_owned(), value.into()));
        self
    }

    /// An error of the operating system, at `path`, while doing what `action` says ("read",
    /// "create").
    pub fn io(action: &str, path: &Path, error: &io::Error) -> Self {
        let code = match error.kind() {
            io::ErrorKind::PermissionDenied => ExitCode::PermissionDenied,
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ExitCode::NoSpace,
            _ => ExitCode::Failure,
        };
        Self::new(code, format!("cannot {action} {}: {}", path.display(), plain_reason(error)))
    }
}

/// The reason without Rust's "(os error N)".
pub fn plain_reason(error: &io::Error) -> String {
    let text = error.to_string();
    match (error.raw_os_error(), text.rfind(" (os error ")) {
        (Some(_), Some(end)) => text[..end].to_owned(),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_plain() {
        let error = io::Error::from_raw_os_error(libc::ENOENT);
        assert_eq!(plain_reason(&error), "No such file or directory");
        let failure = Failure::io("read", Path::new("/x"), &error);
        assert_eq!(failure.message, "cannot read /x: No such file or directory");
        assert_eq!(failure.code, ExitCode::Failure);
        let denied = io::Error::from_raw_os_error(libc::EACCES);
        assert_eq!(Failure::io("read", Path::new("/x"), &denied).code, ExitCode::PermissionDenied);
        assert_eq!(plain_reason(&io::Error::other("odd")), "odd");
    }
}
