//! What backups are sealed and opened with.

use std::path::{Path, PathBuf};
use std::thread::{Scope, ScopedJoinHandle};

use super::defaults::Job;
use super::{BackupSecret, CreateArgs, ProfileArgs};
use crate::archive::{ArchiveReader, KeySet, Keyring, peek};
use crate::backup::{Backup, BackupName, Catalog};
use crate::cli::Context;
use crate::cli::exit_code::ExitCode;
use crate::cli::failure::Failure;
use crate::cli::profile_args;
use crate::cli::prompt::has_terminal;
use crate::cli::vault_args::{ConfigArgs, unlock};
use crate::crypto::Argon2Parameters;
use crate::format::config::VaultId;
use crate::vault::calibrated_cost;

/// Where the secret of a backup comes from: as the command line says, else as the profile of its app
/// does. That is the one named, or the usual one where the backup bears its name, or is called unlike
/// any backup.
pub(super) fn secret_of(
    archive: &Path,
    given: &BackupSecret,
    profile: &ProfileArgs,
    context: &Context,
) -> Result<BackupSecret, Failure> {
    if given.is_given() {
        return Ok(given.clone());
    }
    let named = profile.profile.is_some();
    let found = match super::defaults::profile(profile, true, context) {
        // One that nobody named must not be in the way.
        Err(_) if !named => None,
        found => found?,
    };
    let Some(found) = found else { return Ok(given.clone()) };
    let file_name = archive.file_name().map(|name| name.to_string_lossy().into_owned());
    let of = file_name.and_then(|name| BackupName::parse(&name)).map(|parsed| parsed.name);
    if !named && of.is_some_and(|of| of != found.name) {
        return Ok(given.clone());
    }
    Ok(BackupSecret { secret: profile_args::secret(&found)?, passphrase_stdin: false })
}

/// A ring with the secret that opens `archive`; an empty one where nothing in it is sealed.
pub(super) fn for_archive(
    archive: &Path,
    secret: &BackupSecret,
    context: &Context,
) -> Result<Keyring, Failure> {
    let sealed = peek(archive)?.is_some();
    if !sealed {
        let reader = ArchiveReader::open(archive, &Keyring::new())?;
        if !crate::backup::has_sealed_files(reader.metadata()) {
            return Ok(Keyring::new());
        }
    }
    let subject = format!("the backup {}", archive.display());
    Ok(Keyring::new().with_secret(secret.args().obtain(&subject, None, &context.output)?))
}

/// The same; `None` where no secret is to be had without a word of the user.
pub(super) fn if_given(
    archive: &Path,
    secret: &BackupSecret,
    context: &Context,
) -> Result<Option<Keyring>, Failure> {
    match for_archive(archive, secret, context) {
        Ok(keyring) => Ok(Some(keyring)),
        Err(failure)
            if failure.code == ExitCode::NoSecret && !secret.is_given() && !has_terminal() =>
        {
            Ok(None)
        }
        Err(failure) => Err(failure),
    }
}

/// The secret of a new backup, asked for. What takes time is to derive its keys.
pub(super) enum Asked<'a> {
    /// There are keys already.
    Open(Seal),
    Secret {
        ring: Keyring,
        is_typed: bool,
        /// The newest sealed backup of this name: the new one shares its key slots, if the secret opens
        /// it.
        newest: Option<&'a Backup>,
        cost: Option<Argon2Parameters>,
    },
}

/// Keys, and what there is to be warned of.
type Derived = Result<(Seal, Option<String>), Failure>;

impl<'a> Asked<'a> {
    /// Asks for the secret.
    pub(super) fn ask(
        args: &CreateArgs,
        job: &Job,
        vault: Option<&PathBuf>,
        catalog: &'a Catalog,
        context: &Context,
    ) -> Result<Self, Failure> {
        let secret = job.secret(args)?;
        if args.vault_keys {
            let path = vault.ok_or_else(|| {
                Failure::new(ExitCode::Usage, "no vault is known to seal with")
                    .hint("give --vault VAULT, or back up what is mounted")
            })?;
            let vault = ConfigArgs::default().open(path, context)?;
            let vault = unlock(&vault, &secret, context)?;
            let of_vault = || {
                let master = vault.master_key();
                KeySet::of_vault(vault.config().clone().seal(&master.config_key()), master)
            };
            let ring = Keyring::new().with_set(of_vault());
            return Ok(Self::Open(Seal { ring, own: Some(of_vault()), shared: None }));
        }
        let newest = catalog
            .backups()
            .iter()
            .rev()
            .find(|backup| backup.name.name == job.name && backup.name.sealed);
        let subject = format!("the backups in {}", catalog.directory().display());
        let given = match newest {
            Some(_) => secret.obtain(&subject, None, &context.output)?,
            None => secret.obtain_new(&subject, &context.output)?,
        };
        let (ring, is_typed) = (Keyring::new().with_secret(given), secret.is_typed());
        Ok(Self::Secret { ring, is_typed, newest, cost: args.cost.args().cost()? })
    }

    fn derive(self) -> Derived {
        let (ring, is_typed, newest, cost) = match self {
            Self::Open(seal) => return Ok((seal, None)),
            Self::Secret { ring, is_typed, newest, cost } => (ring, is_typed, newest, cost),
        };
        let mut warning = None;
        if let Some(newest) = newest {
            match ArchiveReader::open(&newest.path, &ring) {
                Ok(reader) => {
                    let shared = reader.header().map(|header| header.config.unverified().vault_id);
                    if shared.is_some() {
                        return Ok((Seal { ring, own: None, shared }, None));
                    }
                }
                Err(crate::archive::Error::WrongSecret) if is_typed => {
                    return Err(Failure::new(
                        ExitCode::WrongSecret,
                        format!("that does not open {}", newest.file_name()),
                    )
                    .hint("a new passphrase is taken from --passphrase-file and the like"));
                }
                Err(crate::archive::Error::WrongSecret) => {
                    warning = Some(format!(
                        "the secret does not open {}: this backup has key slots of its own",
                        newest.file_name()
                    ));
                }
                Err(error) => warning = Some(format!("{}: {error}", newest.file_name())),
            }
        }
        let created = u64::try_from(jiff::Timestamp::now().as_second()).unwrap_or(0);
        let own = ring.new_set(|| cost.map_or_else(calibrated_cost, Ok), created)?;
        Ok((Seal { ring, own: Some(own), shared: None }, warning))
    }

    /// Derives the keys in a thread of their own.
    pub(super) fn begin<'scope>(self, scope: &'scope Scope<'scope, 'a>) -> Deriving<'scope> {
        Deriving(scope.spawn(|| self.derive()))
    }

    /// Derives the keys.
    pub(super) fn finish(self, context: &Context) -> Result<Seal, Failure> {
        tell(self.derive(), context)
    }
}

/// Keys that are being derived beside what does not need them.
pub(super) struct Deriving<'scope>(ScopedJoinHandle<'scope, Derived>);

impl Deriving<'_> {
    pub(super) fn wait(self, context: &Context) -> Result<Seal, Failure> {
        let derived = self.0.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        tell(derived, context)
    }
}

fn tell(derived: Derived, context: &Context) -> Result<Seal, Failure> {
    let (seal, warning) = derived?;
    if let Some(warning) = warning {
        context.output.warn(warning);
    }
    Ok(seal)
}

/// What a new backup is sealed with: a set that earlier ones share, or a new one.
pub(super) struct Seal {
    ring: Keyring,
    own: Option<KeySet>,
    shared: Option<VaultId>,
}

impl Seal {
    /// The ring that opens what it sealed.
    pub(super) fn ring(&self) -> &Keyring {
        &self.ring
    }

    /// Lends the keys. There is no way without them: nothing is left unsealed by accident.
    pub(super) fn with<T>(
        &self,
        use_keys: impl FnOnce(&KeySet) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let lost = || Failure::new(ExitCode::Failure, "the keys of the earlier backups are lost");
        match (&self.own, self.shared) {
            (Some(own), _) => use_keys(own),
            (None, Some(id)) => self.ring.set_of(id, use_keys).unwrap_or_else(|| Err(lost())),
            (None, None) => Err(lost()),
        }
    }
}
