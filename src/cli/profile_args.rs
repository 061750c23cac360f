//! Profiles by their names, and what commands take from them.

use std::path::{Path, PathBuf};

use super::Context;
use super::exit_code::ExitCode;
use super::failure::Failure;
use super::prompt::SecretArgs;
use super::shell::quote;
use crate::profile::{
    Command, Environment, Error, Library, PlaceholderError, Profile, Trust, Unlock, trust,
};

/// Names the profile that is meant where nothing else does.
const PROFILE_VARIABLE: &str = "STRONGROOM_PROFILE";

/// Reads a profile: by its name, or from a file where there is a slash in it or `.toml` at its end.
///
/// # Errors
/// There is none, or it makes no sense.
pub fn load(name: &str) -> Result<(Profile, PathBuf), Failure> {
    let environment = Environment::of_process();
    Ok(Library::standard(&environment).read(name, &environment)?)
}

/// The same, for a profile whose commands will be run.
///
/// # Errors
/// As [`load`]; others can write it.
pub fn load_trusted(name: &str, context: &Context) -> Result<(Profile, PathBuf), Failure> {
    let (profile, file) = load(name)?;
    match trust(&file) {
        Trust::Own => {}
        Trust::Foreign(path) => {
            context.output.warn(format!("{} belongs to another user", path.display()));
        }
        Trust::Writable(path) => {
            return Err(Failure::new(
                ExitCode::Profile,
                format!(
                    "the profile {} is not used: others can write {} and could have their \
                     commands run",
                    profile.name,
                    path.display()
                ),
            )
            .hint(format!("chmod go-w {}", path.display())));
        }
    }
    Ok((profile, file))
}

/// The profile that is meant, if any; `needed` where nothing else tells what is meant: that of the
/// environment then, or the only one of the user's own. Its commands may be run.
///
/// # Errors
/// As [`load_trusted`].
pub fn chosen(
    name: Option<&str>,
    needed: bool,
    context: &Context,
) -> Result<Option<Profile>, Failure> {
    let name = match name {
        Some(name) => Some(name.to_owned()),
        None if needed => usual()?,
        None => None,
    };
    name.map(|name| Ok(load_trusted(&name, context)?.0)).transpose()
}

/// The profile that is meant where nobody names one, by its name or file: that of the environment,
/// or the only one of the user's own.
///
/// # Errors
/// The user's profiles cannot be listed.
pub fn usual() -> Result<Option<String>, Failure> {
    if let Ok(name) = std::env::var(PROFILE_VARIABLE)
        && !name.is_empty()
    {
        return Ok(Some(name));
    }
    let environment = Environment::of_process();
    let library = Library::standard(&environment);
    let Some(own) = library.directories().first() else { return Ok(None) };
    let own = Library::new(vec![own.clone()]);
    Ok(match own.list(&environment)?.as_slice() {
        [only] => Some(only.path.to_string_lossy().into_owned()),
        _ => None,
    })
}

/// The vault of a profile.
///
/// # Errors
/// It names none.
pub fn vault(profile: &Profile) -> Result<&Path, Failure> {
    profile.vault.as_deref().ok_or_else(|| {
        Failure::new(ExitCode::Profile, format!("the profile {} names no vault", profile.name))
            .hint("add a line: vault = \"/path/of/the/vault\"")
    })
}

/// Where the secret comes from, as the profile says; nowhere if it does not.
///
/// # Errors
/// A command of it cannot be filled in.
pub fn secret(profile: &Profile) -> Result<SecretArgs, Failure> {
    let mut secret = SecretArgs::default();
    match &profile.unlock {
        None => {}
        Some(Unlock::KeyFile(file)) => secret.key_file = Some(file.clone()),
        Some(Unlock::PassphraseFile(file)) => secret.passphrase_file = Some(file.clone()),
        Some(Unlock::Keyring(name)) => secret.keyring = Some(name.clone()),
        Some(Unlock::SecretService(wanted)) => secret.secret_service = *wanted,
        Some(Unlock::PassphraseCommand(command)) => {
            secret.passphrase_command = Some(shell_line(profile, command)?);
        }
    }
    Ok(secret)
}

/// A command of a profile as a line for `sh -c`, each word quoted.
///
/// # Errors
/// A placeholder has no value.
pub fn shell_line(profile: &Profile, command: &Command) -> Result<String, Failure> {
    let words =
        command.with(&profile.placeholders(&profile.data)).map_err(|error: PlaceholderError| {
            Failure::new(ExitCode::Profile, format!("the profile {}: {error}", profile.name))
        })?;
    let quoted: Vec<String> = words.iter().map(|word| quote(word)).collect();
    Ok(quoted.join(" "))
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let failure = Self::new(ExitCode::Profile, error.to_string());
        match error {
            Error::NotFound { similar: Some(similar), .. } => {
                failure.hint(format!("did you mean {similar}?"))
            }
            Error::NotFound { .. } => failure.hint("see which there are: strongroom profile list"),
            _ => failure,
        }
    }
}
