//! What backups are sealed and opened with.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread::{Builder, Scope, ScopedJoinHandle};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::defaults::Job;
use super::{BackupSecret, CreateArgs, ProfileArgs};
use crate::archive::{self, ArchiveReader, KeySet, Keyring, SealingKeys, peek};
use crate::backup::{Backup, BackupName, Catalog};
use crate::cli::Context;
use crate::cli::exit_code::ExitCode;
use crate::cli::failure::Failure;
use crate::cli::profile_args;
use crate::cli::prompt::has_terminal;
use crate::cli::vault_args::{ConfigArgs, unlock};
use crate::crypto::Argon2Parameters;
use crate::format::config::{Derivation, VaultId};
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

    /// Derives the keys. `quiet` is dropped as soon as nothing that others do meanwhile can make the
    /// new slots cheaper.
    fn derive(self, quiet: Sender<()>) -> Derived {
        let (ring, is_typed, newest, cost) = match self {
            Self::Open(seal) => return Ok((seal, None)),
            Self::Secret { ring, is_typed, newest, cost } => (ring, is_typed, newest, cost),
        };
        let mut warning = None;
        let mut quiet = Some(quiet);
        let mut least = None;
        if let Some(newest) = newest {
            // Its slots are shared nearly always; new ones cost no less than they do.
            least = cost_of(newest);
            quiet = None;
            match ArchiveReader::open(&newest.path, &ring) {
                Ok(reader) => {
                    let shared = reader.header().map(|header| header.config.unverified().vault_id);
                    if shared.is_some() {
                        return Ok((Seal { ring, own: None, shared }, None));
                    }
                }
                Err(archive::Error::WrongSecret) if is_typed => {
                    return Err(Failure::new(
                        ExitCode::WrongSecret,
                        format!("that does not open {}", newest.file_name()),
                    )
                    .hint("a new passphrase is taken from --passphrase-file and the like"));
                }
                Err(archive::Error::WrongSecret) => {
                    warning = Some(format!(
                        "the secret does not open {}: this backup has key slots of its own",
                        newest.file_name()
                    ));
                }
                Err(error) => warning = Some(format!("{}: {error}", newest.file_name())),
            }
        }
        let created = u64::try_from(jiff::Timestamp::now().as_second()).unwrap_or(0);
        let cost = || {
            let calibrated = || calibrated_cost().map(|cost| dearer(cost, least));
            let found = cost.map_or_else(calibrated, Ok);
            drop(quiet);
            found
        };
        let own = ring.new_set(cost, created)?;
        Ok((Seal { ring, own: Some(own), shared: None }, warning))
    }

    /// Derives the keys in a thread of their own.
    pub(super) fn begin<'scope>(
        self,
        scope: &'scope Scope<'scope, 'a>,
    ) -> Result<Deriving<'scope>, Failure> {
        let (hold, quiet) = bounded(0);
        let started = Builder::new().spawn_scoped(scope, || self.derive(hold));
        let thread = Mutex::new(Some(started.map_err(archive::Error::NoThread)?));
        Ok(Deriving { thread, quiet, seal: OnceLock::new(), told: Mutex::default() })
    }

    /// Derives the keys.
    pub(super) fn finish(self, context: &Context) -> Result<Seal, Failure> {
        let (seal, warning) = self.derive(bounded(0).0)?;
        if let Some(warning) = warning {
            context.output.warn(warning);
        }
        Ok(seal)
    }
}

/// What the dearest passphrase slot of a backup costs.
fn cost_of(backup: &Backup) -> Option<Argon2Parameters> {
    let header = peek(&backup.path).ok()??;
    let slots = &header.unverified().config.unverified().slots;
    let costs = slots.iter().filter_map(|slot| match slot.parameters.derivation {
        Derivation::Passphrase(cost) => Some(cost),
        _ => None,
    });
    costs.max_by_key(|cost| work(*cost))
}

fn work(cost: Argon2Parameters) -> u64 {
    u64::from(cost.memory_kib()) * u64::from(cost.iterations())
}

/// The one that costs more, of those that a new slot may have.
fn dearer(cost: Argon2Parameters, least: Option<Argon2Parameters>) -> Argon2Parameters {
    let allowed = |cost: &Argon2Parameters| {
        Argon2Parameters::new(cost.memory_kib(), cost.iterations(), cost.lanes()).is_ok()
    };
    least.filter(allowed).filter(|least| work(*least) > work(cost)).unwrap_or(cost)
}

/// Keys that are being derived, once, beside what does not need them.
pub(super) struct Deriving<'scope> {
    thread: Mutex<Option<ScopedJoinHandle<'scope, Derived>>>,
    quiet: Receiver<()>,
    seal: OnceLock<Option<Seal>>,
    told: Mutex<Told>,
}

/// What there is to say of a derivation.
#[derive(Default)]
struct Told {
    warning: Option<String>,
    failure: Option<Failure>,
}

impl Deriving<'_> {
    /// Waits until the cost of new key slots is found, which a busy machine would make too small.
    pub(super) fn calibrated(&self) {
        // Nothing is ever sent.
        let _ = self.quiet.recv();
    }

    /// Waits for the keys.
    fn wait(&self) -> Option<&Seal> {
        let derive = || {
            let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
            let derived = thread?.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            match derived {
                Ok((seal, warning)) => {
                    told.warning = warning;
                    Some(seal)
                }
                Err(failure) => {
                    told.failure = Some(failure);
                    None
                }
            }
        };
        self.seal.get_or_init(derive).as_ref()
    }

    /// Waits for the keys, and says what there is to say of them.
    pub(super) fn get(&self, context: &Context) -> Result<&Seal, Failure> {
        let seal = self.wait();
        let told = std::mem::take(&mut *self.told.lock().unwrap_or_else(PoisonError::into_inner));
        if let Some(warning) = told.warning {
            context.output.warn(warning);
        }
        match (seal, told.failure) {
            (Some(seal), _) => Ok(seal),
            (None, Some(failure)) => Err(failure),
            (None, None) => Err(lost()),
        }
    }
}

impl SealingKeys for Deriving<'_> {
    fn lend(&self, borrow: &mut dyn FnMut(&KeySet)) -> archive::Result<()> {
        let lent = self.wait().and_then(|seal| seal.lend(borrow));
        lent.ok_or(archive::Error::NoSecret)
    }
}

fn lost() -> Failure {
    Failure::new(ExitCode::Failure, "the keys of the backups are lost")
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

    /// Lends the keys; `None` where there are none.
    fn lend(&self, borrow: impl FnOnce(&KeySet)) -> Option<()> {
        match (&self.own, self.shared) {
            (Some(own), _) => {
                borrow(own);
                Some(())
            }
            (None, Some(id)) => self.ring.set_of(id, borrow),
            (None, None) => None,
        }
    }

    /// Lends the keys. There is no way without them: nothing is left unsealed by accident.
    pub(super) fn with<T>(
        &self,
        use_keys: impl FnOnce(&KeySet) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let mut used = None;
        self.lend(|keys| used = Some(use_keys(keys)));
        used.unwrap_or_else(|| Err(lost()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn new_slots_are_no_cheaper_than_those_before() {
        let cost = |mib: u32, passes| Argon2Parameters::new(mib * 1024, passes, 1).unwrap();
        let found = cost(256, 4);
        assert_eq!(dearer(found, None), found);
        assert_eq!(dearer(found, Some(cost(256, 5))), cost(256, 5));
        assert_eq!(dearer(found, Some(cost(256, 3))), found);
        assert_eq!(dearer(found, Some(cost(64, 17))), cost(64, 17));
        // One that no new slot may have counts for nothing.
        let small = Argon2Parameters::of_existing(8, 1 << 20, 1).unwrap();
        assert_eq!(dearer(found, Some(small)), found);
    }
}
