//! What people type who know other tools, and what to type instead.

use clap::error::{ContextKind, ContextValue, Error};

/// What is not known here, and what stands for it.
const INSTEAD: [(&str, &str); 24] = [
    (
        "--password",
        "a passphrase on the command line could be read by everybody: leave it out to be asked, or \
         use --passphrase-file FILE or --passphrase-stdin",
    ),
    (
        "--passphrase",
        "a passphrase on the command line could be read by everybody: leave it out to be asked, or \
         use --passphrase-file FILE or --passphrase-stdin",
    ),
    ("--no-encryption", "--no-encrypt makes a backup that is not sealed"),
    ("--no-compression", "--no-compress"),
    ("--no-cache", "--exclude names what is left out: --exclude cache"),
    ("--no-sanity-check", "--no-verify does not read a backup back"),
    ("--comprehensive", "backup verify reads every byte; --test-restore restores it on trial, too"),
    ("--backup", "the backup is an argument: strongroom backup verify ARCHIVE"),
    ("--file", "the backup is an argument: strongroom backup restore ARCHIVE"),
    ("--list", "strongroom backup list [DIR]"),
    ("--cleanup", "strongroom backup cleanup [DIR] --keep-daily 7 --keep-weekly 4"),
    ("--days", "--keep-within 30d keeps what is younger than that"),
    ("--keep-days", "--keep-within 30d keeps what is younger than that"),
    ("--keep-last", "--keep N keeps the newest N"),
    ("--destination", "--output DIR, or --target DIR for a restore"),
    ("--dest", "--output DIR, or --target DIR for a restore"),
    ("--schedule", "strongroom backup schedule create --frequency daily --time 02:00"),
    ("backup", "strongroom backup create SOURCE --output DIR"),
    ("restore", "strongroom backup restore ARCHIVE"),
    (
        "verify",
        "strongroom backup verify ARCHIVE, strongroom migrate verify, strongroom fsck VAULT",
    ),
    ("install", "strongroom backup schedule create --frequency daily --time 02:00"),
    ("uninstall", "strongroom backup schedule delete"),
    ("trigger", "strongroom backup schedule run"),
    ("status", "strongroom backup schedule show tells how a schedule goes"),
];

/// What to type instead of what the command line has, where that is known.
pub fn instead(error: &Error) -> Option<String> {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    if let (Some(option), Some("config")) =
        (text(ContextKind::InvalidArg), text(ContextKind::InvalidValue))
        && option.starts_with("--type")
    {
        return Some(
            "a backup of the configuration alone: --include config, where a profile has such a \
             component, or --plan with a plan for it"
                .to_owned(),
        );
    }
    let unknown = match text(ContextKind::InvalidSubcommand) {
        Some(command) => command,
        // Of an option, only its name.
        None => text(ContextKind::InvalidArg)?.split(['=', ' ']).next()?,
    };
    let (_, hint) = INSTEAD.iter().find(|(spelling, _)| *spelling == unknown)?;
    Some((*hint).to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use clap::Parser as _;

    use super::super::args::Cli;
    use super::*;

    #[test]
    fn what_other_tools_take() {
        let hint = |line: &str| {
            let error = Cli::try_parse_from(line.split(' ')).unwrap_err();
            instead(&error).unwrap_or_default()
        };
        for (line, part) in [
            ("strongroom backup create --password secret", "--passphrase-file"),
            ("strongroom backup restore x --password=secret", "--passphrase-file"),
            ("strongroom backup create --type config", "--include config"),
            ("strongroom backup create --no-cache", "--exclude cache"),
            ("strongroom backup verify --comprehensive", "--test-restore"),
            ("strongroom backup backup x", "backup create"),
            ("strongroom backup schedule install daily", "schedule create"),
            ("strongroom restore x", "backup restore"),
        ] {
            let hint = hint(line);
            assert!(hint.contains(part), "{line}: {hint:?}");
            assert!(!hint.contains("secret"), "{line}");
        }
        assert_eq!(hint("strongroom backup create --type hourly"), "");
        assert_eq!(hint("strongroom mount --no-such-option"), "");
    }
}
