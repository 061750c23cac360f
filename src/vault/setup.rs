//! Owns a vault as a whole, before it is mounted: creating one, opening and unlocking it. It must
//! know nothing of the files inside.
//!
//! A vault directory holds `vault.json` and `vault.json.backup` (unless they lie apart), the
//! ciphertext in `tree/` and `overflow/`, and the core's own files. The ciphertext has its own
//! directory, so no user's file name can collide with one of ours.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::config_file::{CONFIG_NAME, ConfigCopy, ConfigFile, LoadError};
use super::filesystem::FileSystem;
use super::slots::{NewSlot, insert, prepare};
use super::vault_error::VaultError;
use crate::backing::os::OsDirectory;
use crate::backing::{Directory, FileKind};
use crate::crypto::{Argon2Parameters, KdfError, MasterKey, Secret, UnwrapError};
use crate::format::config::{Config, ConfigError, KeySlot, SealedConfig, SlotId, SlotKind};

/// The directory of the ciphertext.
pub const TREE_NAME: &str = "tree";
/// The directory of what is too long for the place where it belongs.
pub const OVERFLOW_NAME: &str = "overflow";
/// How long a passphrase shall take to try, on the machine that makes its slot.
pub const DERIVATION_TIME: Duration = Duration::from_secs(1);

const DIRECTORY_MODE: u32 = 0o700;
/// Of the root that the mount shows. The vault around it keeps others from the ciphertext, and the
/// kernel from the mount unless it is made with `allow_other`, when they shall find it open.
const ROOT_MODE: u32 = 0o755;

/// A vault. Only an unlocked one has a master key:
///
/// ```compile_fail
/// fn read(vault: &strongroom::vault::Vault<strongroom::vault::Locked>) {
///     vault.master_key();
/// }
/// ```
pub struct Vault<State> {
    pub(super) location: Arc<Location>,
    pub(super) state: State,
}

/// Where a vault lies, and which copy of its configuration is used.
pub(super) struct Location {
    pub(super) path: PathBuf,
    root: Box<dyn Directory>,
    pub(super) file: ConfigFile,
    pub(super) copy: ConfigCopy,
}

/// The state of a vault whose configuration was read, and not yet proved authentic.
pub struct Locked {
    sealed: SealedConfig,
    fallback: Option<io::Error>,
}

/// The state of a vault whose master key is known.
pub struct Unlocked {
    pub(super) config: Config,
    pub(super) master: MasterKey,
    slot: SlotId,
}

/// The cost for a new passphrase slot that takes about [`DERIVATION_TIME`] on this machine.
/// Takes a part of that itself.
///
/// # Errors
/// [`KdfError::OutOfMemory`].
pub fn calibrated_cost() -> Result<Argon2Parameters, KdfError> {
    use nix::unistd::{SysconfVar, sysconf};
    let number = |variable| sysconf(variable).ok().flatten().and_then(|n| u64::try_from(n).ok());
    let pages = number(SysconfVar::_PHYS_PAGES).unwrap_or(0);
    let page_size = number(SysconfVar::PAGE_SIZE).unwrap_or(4096);
    Argon2Parameters::calibrate(DERIVATION_TIME, pages.saturating_mul(page_size / 1024))
}

pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> VaultError {
    let path = path.to_owned();
    move |error| VaultError::Io { action, path, error }
}

impl Location {
    fn new(
        path: &Path,
        root: Box<dyn Directory>,
        config: Option<&Path>,
    ) -> Result<Self, VaultError> {
        let file = match config {
            None => {
                let directory = root.open_directory(b".").map_err(failed("open", path))?;
                ConfigFile::new(directory, path.to_owned(), OsStr::new(CONFIG_NAME))
            }
            Some(config) => {
                // A symlink is followed once, here: replacing the file must not replace the link.
                let config = config.canonicalize().unwrap_or_else(|_| config.to_owned());
                let no_name = || failed("use", &config)(io::ErrorKind::InvalidInput.into());
                let name = config.file_name().ok_or_else(no_name)?;
                let parent = match config.parent() {
                    Some(parent) if !parent.as_os_str().is_empty() => parent,
                    _ => Path::new("."),
                };
                let directory = OsDirectory::open(parent).map_err(failed("open", parent))?;
                ConfigFile::new(Box::new(directory), parent.to_owned(), name)
            }
        };
        Ok(Self { path: path.to_owned(), root, file, copy: ConfigCopy::First })
    }

    fn not_a_vault(&self, reason: &'static str) -> VaultError {
        VaultError::NotAVault { path: self.path.clone(), reason }
    }

    fn check_tree(&self) -> Result<(), VaultError> {
        match self.root.stat(TREE_NAME.as_bytes()) {
            Ok(stat) if stat.kind == FileKind::Directory => Ok(()),
            Ok(_) => Err(self.not_a_vault("its \"tree\" is not a directory")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(self.not_a_vault("it has no directory \"tree\""))
            }
            Err(error) => Err(failed("examine", &self.path.join(TREE_NAME))(error)),
        }
    }
}

impl<State> Vault<State> {
    /// The path that the vault was opened by.
    pub fn path(&self) -> &Path {
        &self.location.path
    }

    /// The path of the configuration in use.
    pub fn config_path(&self) -> PathBuf {
        self.location.file.path_of(self.location.copy)
    }

    /// The vault directory, opened anew.
    ///
    /// # Errors
    /// Those of `open(2)`.
    pub fn directory(&self) -> io::Result<Box<dyn Directory>> {
        self.location.root.open_directory(b".")
    }
}

impl Vault<Unlocked> {
    /// Makes a vault with one key slot for each of `slots`, in a directory that is empty or does
    /// not exist yet; its configuration at `config`, if it shall lie apart. When this returns, the
    /// vault survives a power cut.
    ///
    /// # Errors
    /// [`VaultError`]; where files are in the way, nothing was changed.
    ///
    /// # Panics
    /// When the operating system cannot give random bytes.
    pub fn create(
        path: &Path,
        config: Option<&Path>,
        slots: &[NewSlot<'_>],
    ) -> Result<Self, VaultError> {
        let prepared = Prepared::new(slots)?;
        let root = match OsDirectory::create(path, DIRECTORY_MODE) {
            Ok(root) => {
                // The vault's own name must be durable too.
                let parent = path.canonicalize().ok().and_then(|p| p.parent().map(Path::to_owned));
                if let Some(parent) = parent {
                    OsDirectory::open(&parent)
                        .and_then(|parent| parent.sync())
                        .map_err(failed("sync", &parent))?;
                }
                root
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                OsDirectory::open(path).map_err(failed("open", path))?
            }
            Err(error) => return Err(failed("create", path)(error)),
        };
        Self::create_in(Location::new(path, Box::new(root), config)?, prepared)
    }

    fn create_in(location: Location, prepared: Prepared) -> Result<Self, VaultError> {
        let Location { path, root, file, .. } = &location;
        if file.exists()? {
            return Err(VaultError::AlreadyAVault { path: path.clone() });
        }
        let mut empty = true;
        root.read_entries(0, &mut |entry| {
            empty = matches!(entry.name, b"." | b"..");
            empty
        })
        .map_err(failed("list", path))?;
        if !empty {
            return Err(VaultError::NotEmpty { path: path.clone() });
        }

        let Prepared { config, master, slot } = prepared;
        for (name, mode) in [(TREE_NAME, ROOT_MODE), (OVERFLOW_NAME, DIRECTORY_MODE)] {
            root.make_directory(name.as_bytes(), mode)
                .map_err(failed("create", &path.join(name)))?;
        }
        FileSystem::format(&**root, &master).map_err(|error| {
            failed("write to", &path.join(TREE_NAME))(io::Error::from_raw_os_error(error.errno()))
        })?;
        root.sync().map_err(failed("sync", path))?;
        // Last: a directory without a configuration is no vault yet.
        let _guard = file.lock()?;
        file.replace(&config.clone().seal(&master.config_key()))?;
        let state = Unlocked { config, master, slot };
        Ok(Self { location: Arc::new(location), state })
    }

    /// The master key.
    pub fn master_key(&self) -> &MasterKey {
        &self.state.master
    }

    /// The configuration, which is authentic.
    pub fn config(&self) -> &Config {
        &self.state.config
    }

    /// The slot that the vault was unlocked by; of a new vault the first.
    pub fn unlocked_by(&self) -> SlotId {
        self.state.slot
    }
}

/// All that a new vault needs and that takes long or can fail, made before the disk is touched.
struct Prepared {
    config: Config,
    master: MasterKey,
    slot: SlotId,
}

impl Prepared {
    fn new(slots: &[NewSlot<'_>]) -> Result<Self, VaultError> {
        let master = MasterKey::generate();
        let mut config = Config::new(now());
        let mut first = None;
        for new in slots {
            let slot = insert(&mut config, prepare(new)?, &master)?;
            first.get_or_insert(slot);
        }
        let slot = first.ok_or(VaultError::NoSlots)?;
        Ok(Self { config, master, slot })
    }
}

impl Vault<Locked> {
    /// Opens the vault at `path`, with its configuration at `config` where that lies apart. Where
    /// the first copy of the configuration is missing, or the disk cannot read it, the second is
    /// used ([`Self::fallback`] tells). A first copy that can be read and is wrong is an error:
    /// copies are replaced atomically, so no crash does that, and the owner must know.
    ///
    /// # Errors
    /// [`VaultError::NotAVault`], [`VaultError::Config`] (never for being forged: that takes the
    /// key), [`VaultError::Io`].
    pub fn open(path: &Path, config: Option<&Path>) -> Result<Self, VaultError> {
        Self::open_in(Self::locate(path, config)?)
    }

    /// As [`Self::open`], with the second copy of the configuration, whatever the first says.
    /// [`Vault::write_copies`] then mends the first.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_second_copy(path: &Path, config: Option<&Path>) -> Result<Self, VaultError> {
        let location = Self::locate(path, config)?;
        let sealed = location.file.load_or_explain(ConfigCopy::Second)?;
        Ok(Self::with(Location { copy: ConfigCopy::Second, ..location }, sealed, None))
    }

    fn locate(path: &Path, config: Option<&Path>) -> Result<Location, VaultError> {
        let root = OsDirectory::open(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                VaultError::NotAVault { path: path.to_owned(), reason: "it does not exist" }
            }
            io::ErrorKind::NotADirectory => {
                VaultError::NotAVault { path: path.to_owned(), reason: "it is not a directory" }
            }
            _ => failed("open", path)(error),
        })?;
        let location = Location::new(path, Box::new(root), config)?;
        location.check_tree()?;
        Ok(location)
    }

    fn open_in(location: Location) -> Result<Self, VaultError> {
        let unreadable = match location.file.load(ConfigCopy::First) {
            Ok(sealed) => return Ok(Self::with(location, sealed, None)),
            Err(LoadError::Unusable(error)) => {
                return Err(location.file.unusable(ConfigCopy::First, error));
            }
            Err(LoadError::Unreadable(error)) => error,
        };
        match location.file.load(ConfigCopy::Second) {
            Ok(sealed) => {
                let location = Location { copy: ConfigCopy::Second, ..location };
                Ok(Self::with(location, sealed, Some(unreadable)))
            }
            Err(LoadError::Unusable(error)) => {
                Err(location.file.unusable(ConfigCopy::Second, error))
            }
            Err(LoadError::Unreadable(_)) if !location.file.exists()? => {
                Err(location.not_a_vault("it has no configuration \"vault.json\""))
            }
            Err(LoadError::Unreadable(_)) => {
                Err(failed("read", &location.file.path_of(ConfigCopy::First))(unreadable))
            }
        }
    }

    fn with(location: Location, sealed: SealedConfig, fallback: Option<io::Error>) -> Self {
        Self { location: Arc::new(location), state: Locked { sealed, fallback } }
    }

    /// Why the second copy of the configuration is used, if it is.
    pub fn fallback(&self) -> Option<&io::Error> {
        self.state.fallback.as_ref()
    }

    /// What the configuration says. Not authentic before the vault is unlocked; good for a list
    /// of slots, and for nothing that safety depends on.
    pub fn unverified_config(&self) -> &Config {
        self.state.sealed.unverified()
    }

    /// Unlocks the vault with whichever slot the secret opens.
    ///
    /// # Errors
    /// [`VaultError::NoSuchSlotKind`], [`VaultError::WrongSecret`], [`VaultError::Kdf`], and
    /// [`VaultError::Config`] with [`ConfigError::Forged`] when the secret is right and the
    /// configuration is not the one that its owner wrote.
    pub fn unlock(&self, secret: &Secret) -> Result<Vault<Unlocked>, VaultError> {
        self.unlock_slots(secret, |_| true)
    }

    /// As [`Self::unlock`], with one slot only.
    ///
    /// # Errors
    /// As [`Self::unlock`], and [`VaultError::NoSuchSlot`].
    pub fn unlock_slot(&self, id: SlotId, secret: &Secret) -> Result<Vault<Unlocked>, VaultError> {
        if self.unverified_config().slot(id).is_none() {
            return Err(VaultError::NoSuchSlot { slot: id });
        }
        self.unlock_slots(secret, |slot| slot == id)
    }

    fn unlock_slots(
        &self,
        secret: &Secret,
        wanted: impl Fn(SlotId) -> bool,
    ) -> Result<Vault<Unlocked>, VaultError> {
        let kind = SlotKind::of(secret);
        let sealed = &self.state.sealed;
        let slots = || {
            let slots = sealed.unverified().slots.iter();
            slots.filter(|slot| slot.parameters.derivation.kind() == kind)
        };
        if slots().next().is_none() {
            return Err(VaultError::NoSuchSlotKind { kind });
        }
        for slot in slots().filter(|slot| wanted(slot.parameters.id)) {
            match open_slot(sealed.unverified(), slot, secret)? {
                SlotOutcome::Open(master) => {
                    let verified = sealed.verify(&master.config_key());
                    let config = verified.map_err(|error| self.forged(error))?;
                    let state = Unlocked { config, master, slot: slot.parameters.id };
                    return Ok(Vault { location: Arc::clone(&self.location), state });
                }
                SlotOutcome::Altered => return Err(self.forged(ConfigError::Forged)),
                SlotOutcome::Shut => {}
            }
        }
        if self.other_copy_shows_forgery(secret)? {
            return Err(self.forged(ConfigError::Forged));
        }
        Err(VaultError::WrongSecret { kind })
    }

    fn forged(&self, error: ConfigError) -> VaultError {
        self.location.file.unusable(self.location.copy, error)
    }

    /// A forged salt or cost makes a right secret look wrong. If the secret opens the other copy,
    /// and this copy is not authentic under the key found there, it was forged. (If it is, the
    /// secret is merely an old one, and a crash kept the other copy from being replaced.)
    fn other_copy_shows_forgery(&self, secret: &Secret) -> Result<bool, VaultError> {
        let other = match self.location.copy {
            ConfigCopy::First => ConfigCopy::Second,
            ConfigCopy::Second => ConfigCopy::First,
        };
        let Ok(other) = self.location.file.load(other) else { return Ok(false) };
        let ours = self.unverified_config();
        for slot in &other.unverified().slots {
            let tried = ours.slot(slot.parameters.id).is_some_and(|our| {
                our.parameters == slot.parameters && our.wrapped.key_check == slot.wrapped.key_check
            });
            if tried {
                continue;
            }
            if let SlotOutcome::Open(master) = open_slot(other.unverified(), slot, secret)? {
                let key = master.config_key();
                return Ok(other.verify(&key).is_ok() && self.state.sealed.verify(&key).is_err());
            }
        }
        Ok(false)
    }
}

enum SlotOutcome {
    Open(MasterKey),
    Altered,
    Shut,
}

fn open_slot(config: &Config, slot: &KeySlot, secret: &Secret) -> Result<SlotOutcome, KdfError> {
    let Some(key) = slot.parameters.derive(secret)? else { return Ok(SlotOutcome::Shut) };
    Ok(match config.unwrap(slot, &key) {
        Ok(master) => SlotOutcome::Open(master),
        Err(UnwrapError::Altered) => SlotOutcome::Altered,
        Err(UnwrapError::WrongSecret) => SlotOutcome::Shut,
    })
}

#[cfg(test)]
#[path = "setup_crash_tests.rs"]
mod crash_tests;
#[cfg(test)]
#[path = "setup_tests.rs"]
mod tests;
