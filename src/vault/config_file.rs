//! Owns `vault.json` as a file: its two copies, how they are read, and how they are replaced so
//! that a power cut leaves at least one whole. It must know nothing of keys.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use super::vault_error::VaultError;
use crate::backing::{Access, Directory, LockOutcome, RenameMode};
use crate::format::config::{ConfigError, MAX_CONFIG_LEN, SealedConfig};

/// The name of the configuration where it lies in the vault.
pub(super) const CONFIG_NAME: &str = "vault.json";

const SECOND_COPY_SUFFIX: &[u8] = b".backup";
const TEMPORARY_SUFFIX: &[u8] = b".new";
const LOCK_SUFFIX: &[u8] = b".lock";
/// Says nothing secret, but is nobody else's business.
const MODE: u32 = 0o600;

/// One of the two copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigCopy {
    /// `vault.json`.
    First,
    /// `vault.json.backup`.
    Second,
}

/// Where the configuration lies.
pub(super) struct ConfigFile {
    directory: Box<dyn Directory>,
    /// For messages.
    directory_path: PathBuf,
    name: Vec<u8>,
}

impl ConfigFile {
    /// The configuration `name` in `directory`.
    pub(super) fn new(
        directory: Box<dyn Directory>,
        directory_path: PathBuf,
        name: &OsStr,
    ) -> Self {
        Self { directory, directory_path, name: name.as_bytes().to_vec() }
    }

    fn name_of(&self, copy: ConfigCopy) -> Vec<u8> {
        match copy {
            ConfigCopy::First => self.name.clone(),
            ConfigCopy::Second => self.suffixed(SECOND_COPY_SUFFIX),
        }
    }

    fn suffixed(&self, suffix: &[u8]) -> Vec<u8> {
        [&self.name, suffix].concat()
    }

    fn path(&self, name: &[u8]) -> PathBuf {
        self.directory_path.join(OsStr::from_bytes(name))
    }

    /// The path of a copy, for messages.
    pub(super) fn path_of(&self, copy: ConfigCopy) -> PathBuf {
        self.path(&self.name_of(copy))
    }

    fn failed(&self, action: &'static str, name: &[u8]) -> impl FnOnce(io::Error) -> VaultError {
        let path = self.path(name);
        move |error| VaultError::Io { action, path, error }
    }

    /// Whether one of the copies is there.
    pub(super) fn exists(&self) -> Result<bool, VaultError> {
        for copy in [ConfigCopy::First, ConfigCopy::Second] {
            let name = self.name_of(copy);
            match self.directory.stat(&name) {
                Ok(_) => return Ok(true),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(self.failed("examine", &name)(error)),
            }
        }
        Ok(false)
    }

    /// The content of a copy; one byte more than allowed where it is too long.
    fn read(&self, copy: ConfigCopy) -> io::Result<Vec<u8>> {
        let file = self.directory.open_file(&self.name_of(copy), Access::Read)?;
        let size = usize::try_from(file.stat()?.size).unwrap_or(usize::MAX);
        let mut content = vec![0; size.min(MAX_CONFIG_LEN + 1)];
        let length = file.read_at(&mut content, 0)?;
        content.truncate(length);
        Ok(content)
    }

    /// Reads and decodes a copy.
    pub(super) fn load(&self, copy: ConfigCopy) -> Result<SealedConfig, LoadError> {
        let content = self.read(copy).map_err(LoadError::Unreadable)?;
        SealedConfig::decode(&content).map_err(LoadError::Unusable)
    }

    /// Says what is wrong with a copy, and whether the other would do.
    pub(super) fn unusable(&self, copy: ConfigCopy, error: ConfigError) -> VaultError {
        let other = match copy {
            ConfigCopy::First => ConfigCopy::Second,
            ConfigCopy::Second => ConfigCopy::First,
        };
        let whole_copy = self.load(other).is_ok().then(|| self.path_of(other));
        VaultError::Config { path: self.path_of(copy), error, whole_copy }
    }

    /// As [`Self::load`], with a message.
    pub(super) fn load_or_explain(&self, copy: ConfigCopy) -> Result<SealedConfig, VaultError> {
        self.load(copy).map_err(|error| match error {
            LoadError::Unusable(error) => self.unusable(copy, error),
            LoadError::Unreadable(error) => self.failed("read", &self.name_of(copy))(error),
        })
    }

    /// Replaces both copies durably, first one and then the other: at any moment at least one is
    /// whole, and the first is the old or the new.
    pub(super) fn replace(&self, sealed: &SealedConfig) -> Result<(), VaultError> {
        let content = sealed.encode();
        self.replace_copy(ConfigCopy::First, &content)?;
        self.replace_copy(ConfigCopy::Second, &content)
    }

    fn replace_copy(&self, copy: ConfigCopy, content: &[u8]) -> Result<(), VaultError> {
        let name = self.name_of(copy);
        let write = || {
            let temporary = self.suffixed(TEMPORARY_SUFFIX);
            match self.directory.unlink(&temporary) {
                // Whoever left it there is gone: the lock is ours.
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            let file = self.directory.create_file(&temporary, MODE)?;
            let written = file.write_at(content, 0).and_then(|()| file.sync_all()).and_then(|()| {
                self.directory.rename(&temporary, &*self.directory, &name, RenameMode::Replace)
            });
            if let Err(error) = written {
                // The error that matters is the first; a leftover is removed next time.
                let _ = self.directory.unlink(&temporary);
                return Err(error);
            }
            self.directory.sync()
        };
        write().map_err(self.failed("replace", &name))
    }

    /// Keeps other processes from changing the configuration until the guard is dropped.
    pub(super) fn lock(&self) -> Result<Box<dyn std::any::Any + Send + Sync>, VaultError> {
        let name = self.suffixed(LOCK_SUFFIX);
        let owner = format!("process {}", std::process::id());
        match self.directory.lock(&name, owner.as_bytes()) {
            Ok(LockOutcome::Held(guard)) => Ok(guard),
            Ok(LockOutcome::Busy(owner)) => Err(VaultError::ConfigInUse {
                path: self.path_of(ConfigCopy::First),
                owner: String::from_utf8_lossy(&owner)
                    .chars()
                    .filter(|c| !c.is_control())
                    .take(200)
                    .collect(),
            }),
            Err(error) => Err(self.failed("lock", &name)(error)),
        }
    }
}

/// Why a copy cannot be used.
#[derive(Debug)]
pub(super) enum LoadError {
    /// It is missing, or the operating system cannot read it.
    Unreadable(io::Error),
    /// It was read, and is not what it should be.
    Unusable(ConfigError),
}
