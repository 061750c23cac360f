//! What a migration takes from a profile: whatever the command line does not say.

use std::path::{Path, PathBuf};

use super::{EncryptArgs, VaultArgs};
use crate::cli::Context;
use crate::cli::exit_code::ExitCode;
use crate::cli::failure::Failure;
use crate::cli::mounted;
use crate::cli::profile_args::{chosen, secret, shell_line, vault};
use crate::migrate::{Reading, SetValue};
use crate::profile::{ConfigFormat, Profile, Switch};
use crate::repoint::Format;

/// Fills in what `vault` leaves open; `None` without a profile.
///
/// # Errors
/// The profile is missing or wrong, or names no vault.
pub(super) fn complete_vault(
    args: &VaultArgs,
    context: &Context,
) -> Result<(VaultArgs, Option<Profile>), Failure> {
    let mut args = args.clone();
    let unsaid = args.vault.as_os_str().is_empty();
    let Some(profile) = chosen(args.profile.as_deref(), unsaid, context)? else {
        return if unsaid {
            Err(unclear("which vault", "--vault VAULT"))
        } else {
            Ok((args, None))
        };
    };
    if args.vault.as_os_str().is_empty() {
        args.vault = vault(&profile)?.to_owned();
    }
    if args.vault_config.is_none() {
        args.vault_config.clone_from(&profile.vault_config);
    }
    if !args.secret.is_given() {
        args.secret = secret(&profile)?;
    }
    Ok((args, Some(profile)))
}

fn unclear(what: &str, option: &str) -> Failure {
    Failure::new(ExitCode::Usage, format!("nothing says {what} is meant"))
        .hint(format!("give {option}, or --profile PROFILE"))
}

/// The same for `encrypt` and `plan`.
///
/// # Errors
/// As [`complete_vault`].
pub(super) fn complete(
    args: &EncryptArgs,
    context: &Context,
) -> Result<(EncryptArgs, Option<Profile>), Failure> {
    let mut args = args.clone();
    let (vault, mut profile) = complete_vault(&args.vault, context)?;
    args.vault = vault;
    if profile.is_none() && args.source.as_os_str().is_empty() {
        profile = chosen(None, true, context)?;
        if let Some(profile) = profile.as_ref().filter(|_| !args.vault.secret.is_given()) {
            args.vault.secret = secret(profile)?;
        }
    }
    let Some(profile) = profile else {
        if args.source.as_os_str().is_empty() {
            return Err(unclear("which directory", "SOURCE"));
        }
        if args.mount.is_none() && !args.in_place {
            return Err(unclear("which mount point", "--mount MOUNTPOINT, or --in-place"));
        }
        return Ok((args, None));
    };
    if args.source.as_os_str().is_empty() {
        args.source.clone_from(&profile.data);
    }
    let edits_nothing = matches!(profile.switch, Switch::InPlace | Switch::Symlink);
    if args.mount.is_none() && !args.in_place && edits_nothing && !args.configs.is_empty() {
        return Err(Failure::new(
            ExitCode::Usage,
            format!(
                "the profile {} brings the app to the vault without an edit, so --config has no \
                 use",
                profile.name
            ),
        )
        .hint(
            "give --mount MOUNTPOINT as well, and the configuration is edited; or leave it out",
        ));
    }
    if args.mount.is_none() && !args.in_place {
        match profile.switch {
            Switch::InPlace if !args.symlink => args.in_place = true,
            Switch::Symlink => args.symlink = true,
            Switch::InPlace | Switch::Repoint => {}
        }
        if !args.in_place {
            args.mount = Some(profile.mount.clone());
        }
    }
    let anchored = |pattern: &crate::profile::Pattern| {
        // A profile's patterns begin at the data directory.
        format!("/{}", pattern.as_str().trim_start_matches("./"))
    };
    args.exclude.extend(profile.exclude.iter().map(anchored));
    if !args.in_place && !args.symlink && args.configs.is_empty() {
        args.configs = configs(&profile)?;
    }
    if args.sets.is_empty() {
        args.sets = sets(&profile)?;
    }
    args.reading = reading(&profile);
    let app = &profile.app;
    if let (None, None, Some(health)) = (&args.health_command, args.health_timeout, &app.health) {
        args.health_timeout = Some(health.timeout);
    }
    for (given, command) in [
        (&mut args.stop_command, app.stop.as_ref()),
        (&mut args.start_command, app.start.as_ref()),
        (&mut args.health_command, app.health.as_ref().map(|health| &health.command)),
    ] {
        if let (None, Some(command)) = (&given, command) {
            *given = Some(shell_line(&profile, command)?);
        }
    }
    Ok((args, Some(profile)))
}

/// The vault that is mounted where the profile says, whatever vault it names.
pub(super) fn mounted_vault(profile: &Profile) -> Option<PathBuf> {
    let mount = profile.mount.canonicalize().ok()?;
    mounted::all().into_iter().find(|found| found.mount_point == mount).map(|found| found.vault)
}

/// What the profile says of its configuration files.
fn reading(profile: &Profile) -> Reading {
    let format = |format: ConfigFormat| match format {
        ConfigFormat::Yaml => Format::Yaml,
        ConfigFormat::Toml => Format::Toml,
        ConfigFormat::Json => Format::Json,
        ConfigFormat::Ini => Format::Ini,
        ConfigFormat::Env => Format::Env,
    };
    let configs = profile.configs.iter();
    let formats =
        configs.filter_map(|config| Some((config.file.as_path().into(), format(config.format?))));
    Reading {
        working_directory: profile.app.working_directory.as_deref().map(Into::into),
        variables: profile.app.environment.clone(),
        formats: formats.collect(),
        optional: profile
            .configs
            .iter()
            .filter(|config| config.optional)
            .map(|config| config.file.as_path().into())
            .collect(),
    }
}

/// The configuration files to edit that are there.
fn configs(profile: &Profile) -> Result<Vec<PathBuf>, Failure> {
    let mut files = Vec::new();
    for config in profile.configs.iter().filter(|config| config.repoint) {
        if exists(&config.file, config.optional)? {
            files.push(config.file.clone());
        }
    }
    Ok(files)
}

fn sets(profile: &Profile) -> Result<Vec<SetValue>, Failure> {
    let mut sets = Vec::new();
    for config in &profile.configs {
        if config.set.is_empty() || !exists(&config.file, config.optional)? {
            continue;
        }
        let values = config.set_with(&profile.placeholders(&profile.mount)).map_err(|error| {
            Failure::new(ExitCode::Profile, format!("the profile {}: {error}", profile.name))
        })?;
        sets.extend(values.into_iter().map(|(key, value)| SetValue {
            file: config.file.as_path().into(),
            key,
            value,
        }));
    }
    Ok(sets)
}

fn exists(file: &Path, optional: bool) -> Result<bool, Failure> {
    match file.symlink_metadata() {
        Ok(_) => Ok(true),
        Err(error) if optional && error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Failure::io("read the configuration", file, &error)),
    }
}
