//! The exit codes: a contract with scripts. `docs/cli.md` holds the same table, and a test keeps
//! the two alike. A number once given is never given another meaning.

use std::process;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum ExitCode {
    /// Done.
    Success = 0,
    /// A failure without a number of its own.
    Failure = 1,
    /// The command line makes no sense.
    Usage = 2,
    /// The passphrase, key file or recovery key opens no key slot.
    WrongSecret = 10,
    /// There is no vault at that path.
    NotAVault = 11,
    /// `vault.json` is truncated or otherwise damaged.
    ConfigDamaged = 12,
    /// The vault needs a newer version of the program.
    UnsupportedVersion = 13,
    /// Another process holds the vault.
    VaultInUse = 14,
    /// The target exists already, or is not empty.
    AlreadyExists = 15,
    /// The mount point cannot be used.
    MountPoint = 16,
    /// FUSE is not available to this user on this machine.
    FuseUnavailable = 17,
    /// Processes keep the mount busy.
    Busy = 18,
    /// Nothing is mounted there.
    NotMounted = 19,
    /// Damage was found in the vault.
    DamageFound = 20,
    /// The source changed while it was read.
    SourceChanged = 21,
    /// A copy does not match its original.
    VerificationFailed = 22,
    /// Confirmation was refused, or wanted and not given.
    NotConfirmed = 23,
    /// No secret was given, and there is no terminal to ask on.
    NoSecret = 24,
    /// There is no such key slot, or it may not be removed.
    KeySlot = 25,
    /// There is not enough free space.
    NoSpace = 26,
    /// The migration is not in a state that allows that.
    MigrationState = 27,
    /// Processes hold files of the source open.
    SourceInUse = 28,
    /// An archive is damaged, truncated or not one.
    ArchiveDamaged = 29,
    /// A command that was to be run failed.
    CommandFailed = 30,
    /// The mount's process is gone or does not answer.
    NotResponding = 31,
    /// The operating system denied access.
    PermissionDenied = 32,
    /// A profile is wrong or missing.
    Profile = 33,
    /// `vault.json` was altered: its checksum or its authentication does not fit.
    ConfigAltered = 34,
    /// Everything that was damaged or left behind was repaired.
    Repaired = 35,
    /// Another process works on the same backups.
    BackupsLocked = 36,
    /// A backup is needed by others, or needs one that is missing.
    BackupChain = 37,
    /// The backup does not hold what was asked for.
    NotInBackup = 38,
    /// The last good backup is too old, or there is none.
    BackupOverdue = 39,
    /// `run` could not run the command.
    CommandNotRun = 126,
    /// `run` did not find the command.
    CommandNotFound = 127,
    /// Interrupted from the keyboard (`SIGINT`).
    Interrupted = 130,
    /// Asked to end (`SIGTERM`).
    Terminated = 143,
}

impl ExitCode {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 37] = [
        Self::Success,
        Self::Failure,
        Self::Usage,
        Self::WrongSecret,
        Self::NotAVault,
        Self::ConfigDamaged,
        Self::UnsupportedVersion,
        Self::VaultInUse,
        Self::AlreadyExists,
        Self::MountPoint,
        Self::FuseUnavailable,
        Self::Busy,
        Self::NotMounted,
        Self::DamageFound,
        Self::SourceChanged,
        Self::VerificationFailed,
        Self::NotConfirmed,
        Self::NoSecret,
        Self::KeySlot,
        Self::NoSpace,
        Self::MigrationState,
        Self::SourceInUse,
        Self::ArchiveDamaged,
        Self::CommandFailed,
        Self::NotResponding,
        Self::PermissionDenied,
        Self::Profile,
        Self::ConfigAltered,
        Self::Repaired,
        Self::BackupsLocked,
        Self::BackupChain,
        Self::NotInBackup,
        Self::BackupOverdue,
        Self::CommandNotRun,
        Self::CommandNotFound,
        Self::Interrupted,
        Self::Terminated,
    ];

    /// The number.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The code of a number, where it is one of ours.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.number() == number)
    }

    /// The name that `--json` gives.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Usage => "usage",
            Self::WrongSecret => "wrong-secret",
            Self::NotAVault => "not-a-vault",
            Self::ConfigDamaged => "config-damaged",
            Self::UnsupportedVersion => "unsupported-version",
            Self::VaultInUse => "vault-in-use",
            Self::AlreadyExists => "already-exists",
            Self::MountPoint => "mount-point",
            Self::FuseUnavailable => "fuse-unavailable",
            Self::Busy => "busy",
            Self::NotMounted => "not-mounted",
            Self::DamageFound => "damage-found",
            Self::SourceChanged => "source-changed",
            Self::VerificationFailed => "verification-failed",
            Self::NotConfirmed => "not-confirmed",
            Self::NoSecret => "no-secret",
            Self::KeySlot => "key-slot",
            Self::NoSpace => "no-space",
            Self::MigrationState => "migration-state",
            Self::SourceInUse => "source-in-use",
            Self::ArchiveDamaged => "archive-damaged",
            Self::CommandFailed => "command-failed",
            Self::NotResponding => "not-responding",
            Self::PermissionDenied => "permission-denied",
            Self::Profile => "profile",
            Self::ConfigAltered => "config-altered",
            Self::Repaired => "repaired",
            Self::BackupsLocked => "backups-locked",
            Self::BackupChain => "backup-chain",
            Self::NotInBackup => "not-in-backup",
            Self::BackupOverdue => "backup-overdue",
            Self::CommandNotRun => "command-not-run",
            Self::CommandNotFound => "command-not-found",
            Self::Interrupted => "interrupted",
            Self::Terminated => "terminated",
        }
    }

    /// What it means, in the words of the documentation.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Success => "Done.",
            Self::Failure => "A failure without a number of its own.",
            Self::Usage => "The command line makes no sense.",
            Self::WrongSecret => "The passphrase, key file or recovery key opens no key slot.",
            Self::NotAVault => "There is no vault at that path.",
            Self::ConfigDamaged => "`vault.json` is truncated or otherwise damaged.",
            Self::UnsupportedVersion => "The vault needs a newer version of the program.",
            Self::VaultInUse => "Another process holds the vault.",
            Self::AlreadyExists => "The target exists already, or is not empty.",
            Self::MountPoint => "The mount point cannot be used.",
            Self::FuseUnavailable => "FUSE is not available to this user on this machine.",
            Self::Busy => "Processes keep the mount busy.",
            Self::NotMounted => "Nothing is mounted there.",
            Self::DamageFound => "Damage was found in the vault.",
            Self::SourceChanged => "The source changed while it was read.",
            Self::VerificationFailed => "A copy does not match its original.",
            Self::NotConfirmed => "Confirmation was refused, or wanted and not given.",
            Self::NoSecret => "No secret was given, and there is no terminal to ask on.",
            Self::KeySlot => "There is no such key slot, or it may not be removed.",
            Self::NoSpace => "There is not enough free space.",
            Self::MigrationState => "The migration is not in a state that allows that.",
            Self::SourceInUse => "Processes hold files of the source open.",
            Self::ArchiveDamaged => "An archive is damaged, truncated or not one.",
            Self::CommandFailed => "A command that was to be run failed.",
            Self::NotResponding => "The mount's process is gone or does not answer.",
            Self::PermissionDenied => "The operating system denied access.",
            Self::Profile => "A profile is wrong or missing.",
            Self::ConfigAltered => {
                "`vault.json` was altered: its checksum or its authentication does not fit."
            }
            Self::Repaired => "Everything that was damaged or left behind was repaired.",
            Self::BackupsLocked => "Another process works on the same backups.",
            Self::BackupChain => "A backup is needed by others, or needs one that is missing.",
            Self::NotInBackup => "The backup does not hold what was asked for.",
            Self::BackupOverdue => "The last good backup is too old, or there is none.",
            Self::CommandNotRun => "`run` could not run the command.",
            Self::CommandNotFound => "`run` did not find the command.",
            Self::Interrupted => "Interrupted from the keyboard (`SIGINT`).",
            Self::Terminated => "Asked to end (`SIGTERM`).",
        }
    }
}

impl From<ExitCode> for process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code.number())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::ExitCode;

    #[test]
    fn numbers_are_ascending_and_names_distinct() {
        let numbers: Vec<u8> = ExitCode::ALL.iter().map(|code| code.number()).collect();
        assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
        let mut names: Vec<&str> = ExitCode::ALL.iter().map(|code| code.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ExitCode::ALL.len());
        for code in ExitCode::ALL {
            assert_eq!(ExitCode::from_number(code.number()), Some(code));
        }
    }

    /// The table of `docs/cli.md` and the enum say the same.
    #[test]
    fn documented_table_is_the_enum() {
        let page = include_str!("../../docs/cli.md");
        let documented: Vec<&str> = page
            .lines()
            .skip_while(|line| *line != "| Code | Name | Meaning |")
            .skip(2)
            .take_while(|line| line.starts_with('|'))
            .collect();
        let expected: Vec<String> = ExitCode::ALL
            .iter()
            .map(|code| format!("| {} | `{}` | {} |", code.number(), code.name(), code.meaning()))
            .collect();
        assert_eq!(documented, expected);
    }
}
