//! What the commands share: signals, progress, and what failures look like.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::archive::{self, Control};
use crate::backup::Error;
use crate::cli::Context;
use crate::cli::exit_code::ExitCode;
use crate::cli::failure::{Failure, plain_reason};
use crate::cli::output::{Progress, Unit};
use crate::format::archive::ArchiveFormatError;
use crate::tree;

/// Set by the signals that ask a process to end.
pub(super) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    pub(super) fn watch() -> Result<Self, Failure> {
        let asked = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::flag::register(signal, Arc::clone(&asked))
                .map_err(|error| Failure::io("watch for", Path::new("signals"), &error))?;
        }
        Ok(Self(asked))
    }

    pub(super) fn flag(&self) -> &AtomicBool {
        &self.0
    }

    pub(super) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn control<'a>(&'a self, bar: &'a Bar) -> Control<'a> {
        Control { cancelled: &self.0, progress: bar }
    }
}

/// Progress in bytes.
pub(super) struct Bar(Progress);

impl Bar {
    pub(super) fn new(context: &Context, phase: &str, total: Option<u64>) -> Self {
        Self(context.output.progress(phase, Unit::Bytes, total))
    }
}

impl tree::Progress for Bar {
    fn bytes(&self, count: u64) {
        self.0.advance(count);
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let code = match &error {
            Error::Io { action, path, source } => return Self::io(action, path, source),
            Error::Archive(error) => return of_archive(error),
            Error::Tree(error) => return of_tree(error),
            Error::Locked(_) => ExitCode::BackupsLocked,
            Error::NotABackup(_)
            | Error::Pattern { .. }
            | Error::BadName(_)
            | Error::Schedule(_)
            | Error::NoTarget(_) => ExitCode::Usage,
            Error::NoSuchComponent(_) => ExitCode::NotInBackup,
            Error::MissingLink { .. } | Error::Needed { .. } => ExitCode::BackupChain,
            Error::NotEmpty(_) | Error::Unfinished(_) => ExitCode::AlreadyExists,
            Error::BackupInTarget { .. } => ExitCode::Usage,
            Error::Target { .. } | Error::HalfWay { .. } | Error::HalfRestored(_) => {
                ExitCode::Failure
            }
            Error::Incomplete { .. } | Error::Checksum(_) => ExitCode::ArchiveDamaged,
            Error::StoreDamaged { .. } => ExitCode::VerificationFailed,
            Error::InUse { .. } => ExitCode::SourceInUse,
            Error::Cancelled => ExitCode::Interrupted,
        };
        let failure = Self::new(code, error.to_string());
        match &error {
            Error::Locked(_) => failure.hint("wait until it has ended"),
            Error::MissingLink { .. } => failure
                .hint("put the backup that is missing beside it; restore an earlier one otherwise"),
            Error::Needed { .. } => failure.hint(
                "--dependents deletes those, too; one whose notes are lost may need any before it, \
                 and goes only if it is named itself",
            ),
            Error::NotEmpty(_) => failure.hint(
                "--force replaces what is there, after a safety backup; --merge restores only \
                 what is missing",
            ),
            Error::Unfinished(_) => failure.hint(
                "nothing was changed; --force undoes it first, and keeps what it had put in place",
            ),
            Error::HalfRestored(_) => failure.hint(
                "restore to that place again, which undoes it first; --exclude that directory to \
                 leave it out",
            ),
            Error::BackupInTarget { .. } => failure.hint(
                "move the backups elsewhere, or give --target another directory; --merge replaces \
                 nothing",
            ),
            Error::NoTarget(_) => failure.hint("give --target DIR"),
            Error::InUse { .. } => failure
                .hint("stop what uses it; or give --live: what is written meanwhile may be torn"),
            Error::Checksum(_) => failure.hint("use another backup, or another copy of this one"),
            Error::StoreDamaged { .. } => failure.hint(
                "the backup holds it as it was backed up; an earlier one may be sound; --no-check \
                 restores it all the same",
            ),
            Error::HalfWay { .. } => failure.hint("the next restore to that place undoes it"),
            _ => failure,
        }
    }
}

pub(super) fn of_archive(error: &archive::Error) -> Failure {
    use archive::Error as E;
    let code = match error {
        E::Io { action, path, source } => return Failure::io(action, path, source),
        E::Tree(error) => return of_tree(error),
        E::Exists(_) => ExitCode::AlreadyExists,
        E::Format { error: ArchiveFormatError::Version(_), .. } => ExitCode::UnsupportedVersion,
        E::Format { .. }
        | E::Config(_)
        | E::Altered
        | E::Segment { .. }
        | E::Damaged(_)
        | E::Malformed { .. }
        | E::TooMuch { .. }
        | E::Mismatch { .. } => ExitCode::ArchiveDamaged,
        E::Kdf(_) | E::TooLarge(_) | E::Worker => ExitCode::Failure,
        E::NoThread(_) => return Failure::no_thread(error.to_string()),
        E::NoSecret => ExitCode::NoSecret,
        E::WrongSecret => ExitCode::WrongSecret,
        E::Cancelled => ExitCode::Interrupted,
    };
    let failure = Failure::new(code, error.to_string());
    match code {
        ExitCode::ArchiveDamaged => {
            failure.hint("nothing was changed; use another backup, or another copy of this one")
        }
        ExitCode::NoSecret => failure.hint("use --passphrase-file or another secret option"),
        ExitCode::WrongSecret => failure.hint(
            "nothing was changed; a backup keeps the secrets of the day it was made: try earlier \
             ones",
        ),
        _ => failure,
    }
}

fn of_tree(error: &tree::Error) -> Failure {
    let code = match error {
        tree::Error::Changed { .. } => ExitCode::SourceChanged,
        tree::Error::Cancelled => ExitCode::Interrupted,
        tree::Error::NoThread(_) => return Failure::no_thread(error.to_string()),
        _ => match error.raw_os_error() {
            Some(libc::EACCES | libc::EPERM) => ExitCode::PermissionDenied,
            Some(libc::ENOSPC | libc::EDQUOT) => ExitCode::NoSpace,
            _ => ExitCode::Failure,
        },
    };
    let failure = Failure::new(code, error.to_string());
    match code {
        ExitCode::SourceChanged => failure.hint(
            "no backup was made; stop what writes to it, or give --live to keep it as it is read",
        ),
        _ => failure,
    }
}

impl From<archive::Error> for Failure {
    fn from(error: archive::Error) -> Self {
        of_archive(&error)
    }
}

/// How an error is told in a list of results.
pub(super) fn short(failure: &Failure) -> String {
    failure.message.clone()
}

/// Makes a path absolute without looking at what it leads through.
pub(super) fn absolute(path: &Path) -> Result<std::path::PathBuf, Failure> {
    std::path::absolute(path).map_err(|error| {
        Failure::new(
            ExitCode::Failure,
            format!("cannot find {}: {}", path.display(), plain_reason(&error)),
        )
    })
}

/// Text of an archive or its notes, fit for a terminal.
pub(super) fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for letter in text.chars() {
        if letter.is_control() {
            shown.extend(letter.escape_default());
        } else {
            shown.push(letter);
        }
    }
    shown
}
