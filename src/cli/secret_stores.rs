//! Passphrases that others keep: the kernel's keyring and the desktop's Secret Service, under the
//! ID of the vault.

use std::time::Duration;

use clap::ValueEnum;
use linux_keyutils::{
    Key, KeyError, KeyPermissions, KeyPermissionsBuilder, KeyRing, KeyRingIdentifier, Permission,
};
use zeroize::Zeroizing;

use super::exit_code::ExitCode;
use super::failure::Failure;
use super::prompt::SecretBytes;

/// The longest payload of a key of the type "user".
const MAX_KEY: usize = 32_767;

/// Who keeps a passphrase.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Store {
    /// The kernel's keyring of this user: until the machine is shut down, or a timeout.
    Keyring,
    /// The desktop's Secret Service (GNOME Keyring, KWallet, KeePassXC).
    SecretService,
}

impl Store {
    /// What it is called.
    pub const fn noun(self) -> &'static str {
        match self {
            Self::Keyring => "the kernel's keyring",
            Self::SecretService => "the Secret Service",
        }
    }

    /// The option that takes a passphrase from it.
    pub const fn option(self) -> &'static str {
        match self {
            Self::Keyring => "--keyring",
            Self::SecretService => "--secret-service",
        }
    }

    /// Keeps a passphrase of the vault `id`, which lies at `place`; in the keyring for `timeout`.
    pub fn keep(
        self,
        id: &str,
        place: &str,
        passphrase: &SecretBytes,
        timeout: Option<Duration>,
    ) -> Result<(), Failure> {
        match self {
            Self::Keyring => into_keyring(&key_name(id), passphrase, timeout),
            Self::SecretService => service::keep(id, place, passphrase),
        }
    }

    /// Forgets it; whether there was one.
    pub fn forget(self, id: &str) -> Result<bool, Failure> {
        match self {
            Self::Keyring => match find_key(&key_name(id))? {
                Some(key) => {
                    key.invalidate().map_err(|error| keyring_failure("forget", error))?;
                    Ok(true)
                }
                None => Ok(false),
            },
            Self::SecretService => service::forget(id),
        }
    }
}

/// The name of a vault's key in the keyring.
fn key_name(id: &str) -> String {
    format!("strongroom:{id}")
}

/// The passphrase from the key `name`; empty for that of the vault `id`.
pub fn from_keyring(name: &str, id: Option<&str>) -> Result<SecretBytes, Failure> {
    let name = match (name, id) {
        ("", Some(id)) => key_name(id),
        ("", None) => {
            return Err(Failure::new(
                ExitCode::Usage,
                "--keyring needs a name here: --keyring=NAME",
            ));
        }
        (name, _) => name.to_owned(),
    };
    let key = find_key(&name)?.ok_or_else(|| {
        Failure::new(ExitCode::NoSecret, format!("the keyring has no key {name:?}"))
            .hint("put it there: strongroom key store VAULT keyring")
    })?;
    let mut buffer = Zeroizing::new(vec![0u8; MAX_KEY]);
    let length = key.read(&mut buffer).map_err(|error| keyring_failure("read", error))?;
    Ok(Zeroizing::new(buffer.get(..length).unwrap_or_default().to_vec()))
}

/// Looks in the session's keyring, which links the user's where logins are set up for it, then in
/// the user's.
fn find_key(name: &str) -> Result<Option<Key>, Failure> {
    for place in [KeyRingIdentifier::Session, KeyRingIdentifier::User] {
        let found = KeyRing::from_special_id(place, false).and_then(|ring| ring.search(name));
        match found {
            Ok(key) => return Ok(Some(key)),
            Err(
                KeyError::KeyDoesNotExist
                | KeyError::KeyringDoesNotExist
                | KeyError::KeyExpired
                | KeyError::KeyRevoked,
            ) => {}
            Err(error) if matches!(place, KeyRingIdentifier::User) => {
                return Err(keyring_failure("search", error));
            }
            Err(_) => {}
        }
    }
    Ok(None)
}

fn into_keyring(
    name: &str,
    passphrase: &SecretBytes,
    timeout: Option<Duration>,
) -> Result<(), Failure> {
    let failed = |error| keyring_failure("write to", error);
    if passphrase.len() > MAX_KEY {
        return Err(Failure::new(
            ExitCode::Usage,
            "the keyring takes no passphrase of that length",
        ));
    }
    let ring = KeyRing::from_special_id(KeyRingIdentifier::User, true).map_err(failed)?;
    let key = ring.add_key(name, passphrase.as_slice()).map_err(failed)?;
    // By itself only a process whose session has the keyring could read it: not a service's.
    let all: KeyPermissions =
        KeyPermissionsBuilder::builder().posessor(Permission::ALL).user(Permission::ALL).build();
    key.set_perms(all).map_err(failed)?;
    let seconds = timeout.map_or(0, |timeout| timeout.as_secs());
    key.set_timeout(usize::try_from(seconds).unwrap_or(0)).map_err(failed)
}

fn keyring_failure(action: &str, error: KeyError) -> Failure {
    let code = match error {
        KeyError::AccessDenied | KeyError::PermissionDenied => ExitCode::PermissionDenied,
        _ => ExitCode::NoSecret,
    };
    let reason = match error {
        KeyError::AccessDenied | KeyError::PermissionDenied => "access was denied".to_owned(),
        KeyError::QuotaExceeded => "this user's share of it is full".to_owned(),
        // ENOSYS: some containers have none.
        KeyError::OperationNotSupported | KeyError::Unknown(38) => "there is none here".to_owned(),
        other => format!("{other:?}"),
    };
    Failure::new(code, format!("cannot {action} the kernel's keyring: {reason}"))
}

/// The passphrase of the vault `id` from the Secret Service.
pub fn from_service(id: Option<&str>) -> Result<SecretBytes, Failure> {
    let id = id.ok_or_else(|| {
        Failure::new(ExitCode::Usage, "--secret-service opens vaults, which this is not")
    })?;
    service::read(id)
}

#[cfg(feature = "secret-service")]
mod service {
    use std::collections::HashMap;

    use dbus_secret_service::{EncryptionType, Error, SecretService};

    use super::{ExitCode, Failure, SecretBytes, Zeroizing};

    fn attributes(id: &str) -> HashMap<&str, &str> {
        HashMap::from([("application", "strongroom"), ("vault", id)])
    }

    fn connect() -> Result<SecretService, Failure> {
        // What goes over the bus is encrypted: whoever watches the bus learns nothing.
        SecretService::connect(EncryptionType::Dh).map_err(|error| failed("reach", &error))
    }

    pub(super) fn read(id: &str) -> Result<SecretBytes, Failure> {
        let service = connect()?;
        let failed = |error| failed("read from", &error);
        let found = service.search_items(attributes(id)).map_err(failed)?;
        let item = found.unlocked.first().or(found.locked.first()).ok_or_else(|| {
            Failure::new(ExitCode::NoSecret, "the Secret Service has no passphrase of this vault")
                .hint("put it there: strongroom key store VAULT secret-service")
        })?;
        item.ensure_unlocked().or_else(|_| item.unlock()).map_err(failed)?;
        item.get_secret().map(Zeroizing::new).map_err(failed)
    }

    pub(super) fn keep(id: &str, place: &str, passphrase: &SecretBytes) -> Result<(), Failure> {
        let service = connect()?;
        let failed = |error| failed("write to", &error);
        let collection = service.get_default_collection().map_err(failed)?;
        collection.ensure_unlocked().or_else(|_| collection.unlock()).map_err(failed)?;
        let label = format!("strongroom vault {place}");
        collection
            .create_item(&label, attributes(id), passphrase, true, "text/plain")
            .map(drop)
            .map_err(failed)
    }

    pub(super) fn forget(id: &str) -> Result<bool, Failure> {
        let service = connect()?;
        let failed = |error| failed("write to", &error);
        let found = service.search_items(attributes(id)).map_err(failed)?;
        let mut any = false;
        for item in found.unlocked.iter().chain(&found.locked) {
            item.ensure_unlocked().or_else(|_| item.unlock()).map_err(failed)?;
            item.delete().map_err(failed)?;
            any = true;
        }
        Ok(any)
    }

    fn failed(action: &str, error: &Error) -> Failure {
        let failure = Failure::new(
            ExitCode::NoSecret,
            format!("cannot {action} the Secret Service: {error}"),
        );
        match error {
            Error::Unavailable | Error::Dbus(_) => failure
                .hint("it needs a desktop session, or dbus-run-session with a keyring daemon"),
            _ => failure,
        }
    }
}

#[cfg(not(feature = "secret-service"))]
mod service {
    use super::{ExitCode, Failure, SecretBytes};

    fn absent<T>() -> Result<T, Failure> {
        Err(Failure::new(ExitCode::NoSecret, "this program was built without the Secret Service"))
    }

    pub(super) fn read(_: &str) -> Result<SecretBytes, Failure> {
        absent()
    }

    pub(super) fn keep(_: &str, _: &str, _: &SecretBytes) -> Result<(), Failure> {
        absent()
    }

    pub(super) fn forget(_: &str) -> Result<bool, Failure> {
        absent()
    }
}
