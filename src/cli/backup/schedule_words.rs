//! What a schedule remembers of the command line, as words that are parsed again when it runs.

use std::path::Path;

use clap::ValueEnum as _;

use super::run::absolute;
use super::schedule_file::ScheduleFile;
use super::{CreateArgs, KeepArgs};
use crate::cli::exit_code::ExitCode;
use crate::cli::failure::Failure;

fn wrong(problem: impl Into<String>) -> Failure {
    Failure::new(ExitCode::Usage, problem)
}

/// The arguments of `backup create`, to be parsed again when it runs.
pub(super) fn words(args: &CreateArgs) -> Result<Vec<String>, Failure> {
    let mut words: Vec<String> = Vec::new();
    let text = |path: &Path| {
        let path = absolute(path)?;
        path.to_str()
            .map(str::to_owned)
            .ok_or_else(|| wrong(format!("{} is not UTF-8", path.display())))
    };
    let mut option = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            words.push(format!("--{name}={value}"));
        }
    };
    let maybe = |path: &Option<std::path::PathBuf>| path.as_deref().map(text).transpose();
    let secret = &args.secret.secret;
    option(
        "profile",
        match &args.profile.profile {
            Some(name) if name.contains('/') || name.ends_with(".toml") => {
                Some(text(Path::new(name))?)
            }
            other => other.clone(),
        },
    );
    option("plan", args.plan.clone());
    option("output", maybe(&args.output)?);
    option("name", args.name.clone());
    let value = |value: clap::builder::PossibleValue| value.get_name().to_owned();
    option("type", args.kind.and_then(|kind| kind.to_possible_value()).map(value));
    for include in &args.include {
        option("include", Some(include.clone()));
    }
    for exclude in &args.exclude {
        option("exclude", Some(exclude.clone()));
    }
    for config in &args.configs {
        option("config", Some(text(config)?));
    }
    let compression = args.compression.and_then(|compression| compression.to_possible_value());
    option("compression", compression.map(value));
    option("compression-level", args.compression_level.map(|level| level.to_string()));
    for pattern in &args.sensitive {
        option("sensitive", Some(pattern.clone()));
    }
    option("tag", args.tag.clone());
    option("vault", maybe(&args.vault)?);
    option("scratch", maybe(&args.scratch)?);
    option("on-event", args.events.on_event.clone());
    option("webhook", args.events.webhook.clone());
    option("passphrase-file", maybe(&secret.passphrase_file)?);
    option("passphrase-command", secret.passphrase_command.clone());
    option("keyring", secret.keyring.clone());
    option("key-file", maybe(&secret.key_file)?);
    option("recovery-key-file", maybe(&secret.recovery_key_file)?);
    option("kdf-memory", args.cost.kdf_memory.map(|memory| memory.to_string()));
    option("kdf-iterations", args.cost.kdf_iterations.map(|count| count.to_string()));
    let flags = [
        (args.no_compress, "no-compress"),
        (args.no_encrypt, "no-encrypt"),
        (args.encrypt, "encrypt"),
        (args.vault_keys, "vault-keys"),
        (args.live, "live"),
        (args.no_verify, "no-verify"),
        (args.validate, "validate"),
        (secret.secret_service, "secret-service"),
    ];
    words.extend(flags.iter().filter(|(set, _)| *set).map(|(_, name)| format!("--{name}")));
    if let Some(source) = &args.source {
        words.extend(["--".to_owned(), text(source)?]);
    }
    Ok(words)
}

pub(super) fn keep_words(keep: &KeepArgs) -> Vec<String> {
    let counts = [
        ("keep", keep.keep),
        ("keep-daily", keep.keep_daily),
        ("keep-weekly", keep.keep_weekly),
        ("keep-monthly", keep.keep_monthly),
        ("keep-yearly", keep.keep_yearly),
    ];
    let counts =
        counts.iter().filter_map(|(name, count)| count.map(|count| format!("--{name}={count}")));
    counts.chain(keep.keep_within.iter().map(|age| format!("--keep-within={age}"))).collect()
}

fn parse<T: clap::Args + clap::FromArgMatches>(words: &[String]) -> Result<T, Failure> {
    let command = T::augment_args(clap::Command::new("schedule").no_binary_name(true));
    command
        .try_get_matches_from(words)
        .and_then(|matches| T::from_arg_matches(&matches))
        .map_err(|error| wrong(format!("the schedule makes no sense: {error}")))
}

pub(super) fn parse_words(file: &ScheduleFile) -> Result<(CreateArgs, KeepArgs), Failure> {
    Ok((parse(&file.backup)?, parse(&file.cleanup)?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use clap::Args as _;

    use super::*;
    use crate::archive::ReadBack;

    /// Everything that can be said to `backup create` is remembered.
    #[test]
    fn words_come_back() {
        let given = [
            "--profile=x",
            "--plan=daily",
            "--output=/o",
            "--name=n",
            "--type=incremental",
            "--include=a",
            "--include=b",
            "--exclude=c",
            "--config=/e",
            "--compression=gzip",
            "--compression-level=3",
            "--no-encrypt",
            "--sensitive=s",
            "--tag=t t",
            "--vault=/v",
            "--live",
            "--scratch=/s",
            "--no-verify",
            "--on-event=e",
            "--webhook=https://w",
            "--key-file=/k",
            "--kdf-memory=64",
            "--kdf-iterations=1",
            "--",
            "/-source",
        ]
        .map(str::to_owned);
        let args: CreateArgs = parse(&given).unwrap();
        let again: CreateArgs = parse(&words(&args).unwrap()).unwrap();
        assert_eq!(format!("{args:?}"), format!("{again:?}"));
        let given = ["--no-compress", "--vault-keys", "--validate", "--passphrase-command=p"]
            .map(str::to_owned);
        let args: CreateArgs = parse(&given).unwrap();
        let again: CreateArgs = parse(&words(&args).unwrap()).unwrap();
        assert_eq!(format!("{args:?}"), format!("{again:?}"));
        assert_eq!(again.read_back(), ReadBack::Whole);
        for secret in ["--keyring=x", "--keyring=", "--secret-service"] {
            let args: CreateArgs = parse(&[secret.to_owned()]).unwrap();
            let again: CreateArgs = parse(&words(&args).unwrap()).unwrap();
            assert_eq!(format!("{args:?}"), format!("{again:?}"));
        }
        let known = CreateArgs::augment_args(clap::Command::new("x"));
        // Those that take a person: the descriptor, standard input, a typed recovery key.
        let never = ["passphrase_fd", "passphrase_stdin", "recovery_key"];
        let said: Vec<&str> = known
            .get_arguments()
            .map(|argument| argument.get_id().as_str())
            .filter(|id| !never.contains(id))
            .collect();
        let source = include_str!("schedule_words.rs");
        for id in said {
            assert!(source.contains(&id.replace('_', "-")) || id == "source", "{id}");
        }
    }
}
