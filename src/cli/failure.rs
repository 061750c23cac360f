//! What a command that failed tells: a message, a next step, an exit code.

use std::io;
use std::path::{Path, PathBuf};

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

/// What to do where the system gives no thread.
pub const RAISE_LIMIT: &str =
    "raise the limit on tasks: `ulimit -u`, or the container's (pids.max)";

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

    /// No thread could be started.
    pub fn no_thread(message: impl Into<String>) -> Self {
        Self::new(ExitCode::Failure, message).hint(RAISE_LIMIT)
    }

    /// With a next step.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// With a next step where a failure with this code has none of its own.
    #[must_use]
    pub fn hint_at(self, code: ExitCode, hint: &str) -> Self {
        if self.code == code && self.hint.is_none() { self.hint(hint) } else { self }
    }

    /// With a further field of the JSON result.
    #[must_use]
    pub fn detail(mut self, key: &str, value: impl Into<serde_json::Value>) -> Self {
        self.details.push((key.to_owned(), value.into()));
        self
    }

    /// How a process ends that failed with this error of the operating system.
    pub fn io_code(error: &io::Error) -> ExitCode {
        match error.kind() {
            io::ErrorKind::PermissionDenied => ExitCode::PermissionDenied,
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ExitCode::NoSpace,
            _ => ExitCode::Failure,
        }
    }

    /// An error of the operating system, at `path`, while doing what `action` says ("read",
    /// "create").
    pub fn io(action: &str, path: &Path, error: &io::Error) -> Self {
        let failure = Self::new(
            Self::io_code(error),
            format!("cannot {action} {}: {}", path.display(), plain_reason(error)),
        );
        match similar_path(path) {
            Some(similar) if error.kind() == io::ErrorKind::NotFound => {
                failure.hint(format!("did you mean {}?", similar.display()))
            }
            _ => failure,
        }
    }
}

/// From where on two names are alike; of 1.
const LIKENESS: f64 = 0.85;
/// Most names of a directory that are looked at.
const NAMES_MAX: usize = 10_000;

/// What is there under a name much like that of a path that is not.
pub fn similar_path(path: &Path) -> Option<PathBuf> {
    let is_missing = |path: &&Path| {
        path.file_name().is_some()
            && matches!(path.symlink_metadata(), Err(error) if error.kind() == io::ErrorKind::NotFound)
    };
    let missing = path.ancestors().take_while(is_missing).last()?;
    let name = missing.file_name()?.to_str()?;
    let parent = match missing.parent()? {
        parent if parent.as_os_str().is_empty() => Path::new("."),
        parent => parent,
    };
    let entries = parent.read_dir().ok()?.take(NAMES_MAX).filter_map(Result::ok);
    let (_, similar) = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .map(|other| (strsim::jaro_winkler(&other, name), other))
        .filter(|(likeness, _)| *likeness >= LIKENESS)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))?;
    let rest = path.strip_prefix(missing).ok()?;
    let mut found = missing.with_file_name(similar);
    if !rest.as_os_str().is_empty() {
        found.push(rest);
    }
    found.symlink_metadata().is_ok().then_some(found)
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
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn what_may_have_been_meant() {
        let room = tempfile::tempdir().unwrap();
        let vault = room.path().join("my-vault");
        std::fs::create_dir(&vault).unwrap();
        std::fs::write(vault.join("file"), "").unwrap();
        let similar = |name: &str| similar_path(&room.path().join(name));
        assert_eq!(similar("my-vualt"), Some(vault.clone()));
        assert_eq!(similar("my-vaul/file"), Some(vault.join("file")));
        assert_eq!(similar("my-vaul/other"), None);
        assert_eq!(similar("something else"), None);
        assert_eq!(similar("my-vault"), None, "it is there");
        let missing = io::Error::from_raw_os_error(libc::ENOENT);
        let failure = Failure::io("find", &room.path().join("my-vualt"), &missing);
        assert!(failure.hint.unwrap().contains("my-vault"));
    }

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
