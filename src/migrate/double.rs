//! Doubles for tests: a vault that is a plain directory, a mount that is a note on the disk, and
//! an app's directory to migrate. What they do outlives the process, as a real mount does.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use zeroize::Zeroizing;

use crate::archive::KeySet;
use crate::crypto::{KeyFile, MasterKey, MigrationKey, SALT_LEN, Secret};
use crate::format::config::{Config, Derivation, SlotId, SlotParameters};
use crate::tree::{LocalTree, TreeReader as _};

/// A vault whose content lies in `content/`, in plain.
pub(crate) struct PlainVault {
    directory: PathBuf,
    key: MigrationKey,
}

impl PlainVault {
    pub(crate) fn create(directory: &Path) -> Self {
        fs::create_dir_all(directory).unwrap();
        if fs::create_dir(directory.join("content")).is_ok() {
            let mode = fs::Permissions::from_mode(0o700);
            fs::set_permissions(directory.join("content"), mode).unwrap();
        }
        Self { directory: directory.to_owned(), key: MigrationKey::from_bytes(&[5; 32]) }
    }

    pub(crate) fn content(&self) -> PathBuf {
        self.directory.join("content")
    }

    fn note(&self) -> PathBuf {
        self.directory.join("mounted-at")
    }
}

impl VaultAccess for PlainVault {
    fn directory(&self) -> &Path {
        &self.directory
    }

    fn id(&self) -> VaultId {
        [8; 16]
    }

    fn migration_key(&self) -> &MigrationKey {
        &self.key
    }

    fn archive_keys(&self) -> KeySet {
        // The same in every process: the next one must open what this one sealed.
        let master = MasterKey::from_bytes(&[6; 32]);
        let secret = Secret::KeyFile(KeyFile::new(Zeroizing::new(vec![7; 64])).unwrap());
        let mut config = Config::new(1);
        let parameters = SlotParameters {
            id: SlotId(0),
            label: String::new(),
            created: 1,
            derivation: Derivation::KeyFile,
            salt: [1; SALT_LEN],
        };
        let key = parameters.derive(&secret).unwrap().unwrap();
        config.slots.push(config.wrap(parameters, &key, &master));
        KeySet::of_vault(config.seal(&master.config_key()), &master)
    }
}

impl Mounter for PlainVault {
    fn mount(&self, point: &Path, _: MountAccess) -> std::result::Result<Mount, BoxError> {
        // As a real mount, it wants an empty directory and is the only one of its vault.
        let empty = fs::read_dir(point)?.next().is_none();
        if !empty || self.note().exists() {
            return Err("the mount point is not empty, or the vault is mounted".into());
        }
        use std::os::unix::ffi::OsStrExt as _;
        fs::write(self.note(), point.as_os_str().as_bytes())?;
        Ok(Mount { point: point.to_owned(), content: self.content() })
    }

    fn unmount(&self, _: &Mount) -> std::result::Result<(), BoxError> {
        fs::remove_file(self.note())?;
        Ok(())
    }

    fn current(&self) -> std::result::Result<Option<Mount>, BoxError> {
        use std::os::unix::ffi::OsStringExt as _;
        match fs::read(self.note()) {
            Ok(bytes) => Ok(Some(Mount {
                point: std::ffi::OsString::from_vec(bytes).into(),
                content: self.content(),
            })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// What a test looks at after every interruption, and before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Image(Vec<String>);

impl Image {
    /// Everything that a rollback must give back: content, modes, owners, times, attributes,
    /// links, holes; not the time of last access nor that of the inode's change.
    pub(crate) fn of(root: &Path) -> Self {
        let tree = LocalTree::open(root).unwrap();
        let mut lines = Vec::new();
        let mut names = std::collections::HashMap::new();
        for entry in tree.walk(&crate::tree::exclude_nothing).unwrap() {
            let entry = entry.unwrap();
            let link = entry
                .hard_link
                .map(|link| names.entry(link.inode).or_insert(entry.path.clone()).clone());
            let path = root.join(entry.path.as_path());
            let content = if path.symlink_metadata().unwrap().is_file() {
                fs::read(&path).unwrap()
            } else {
                Vec::new()
            };
            let sparse =
                path.symlink_metadata().unwrap().blocks() * 512 + 65_536 < entry.metadata.size;
            let mut metadata = entry.metadata;
            metadata.accessed = crate::tree::Timestamp::default();
            lines.push(format!(
                "{:?} {metadata:?} {link:?} sparse {sparse} {:016x}",
                entry.path,
                content.iter().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
                    (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
                })
            ));
        }
        Self(lines)
    }
}

/// An app in a directory of its own: data, configuration, vault, mount point.
pub(crate) struct App {
    pub(crate) root: PathBuf,
}

pub(crate) const CONFIG: &str = "# where the data are\ndata:\n  dir: \"DATA\"   # here\nother: 1\n";

/// A temporary directory for an app. Bare mount points, which could not be removed otherwise, are let
/// go of at the end.
pub(crate) struct Place(pub(crate) tempfile::TempDir);

impl Drop for Place {
    fn drop(&mut self) {
        let app = App { root: self.0.path().to_owned() };
        for point in [app.source(), app.mount_point()] {
            unprotect(&point);
        }
    }
}

impl App {
    pub(crate) fn at(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// Makes the app's files.
    pub(crate) fn fill(&self) {
        let source = self.source();
        fs::create_dir_all(source.join("sub/deep")).unwrap();
        fs::write(source.join("one"), b"one").unwrap();
        fs::write(source.join("sub/two"), vec![b'2'; 100_000]).unwrap();
        fs::hard_link(source.join("one"), source.join("sub/one again")).unwrap();
        std::os::unix::fs::symlink("sub/two", source.join("link")).unwrap();
        let sparse = fs::File::create(source.join("sub/deep/sparse")).unwrap();
        sparse.set_len(1 << 20).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&sparse, b"end", (1 << 20) - 3).unwrap();
        fs::write(source.join("sub/deep/empty"), b"").unwrap();
        fs::set_permissions(source.join("sub"), fs::Permissions::from_mode(0o1750)).unwrap();
        for (name, seconds) in [("one", 1_000_000_000), ("sub/deep", 1_100_000_000), ("", 7)] {
            let file = fs::File::open(source.join(name)).unwrap();
            let time = std::time::UNIX_EPOCH + std::time::Duration::new(seconds, 123_456_789);
            file.set_modified(time).unwrap();
        }
        fs::write(self.config(), self.original_config()).unwrap();
    }

    /// Waits until no other process has a file of the source open: one that another test forks
    /// holds what was open then, until it executes its program.
    pub(crate) fn await_rest(&self) {
        let held = || !crate::stores::open_files(&self.source()).unwrap().files.is_empty();
        while self.source().is_dir() && held() {
            std::thread::yield_now();
        }
    }

    pub(crate) fn source(&self) -> PathBuf {
        self.root.join("data")
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.root.join("app.yaml")
    }

    pub(crate) fn original_config(&self) -> String {
        CONFIG.replace("DATA", self.source().to_str().unwrap())
    }

    pub(crate) fn edited_config(&self) -> String {
        CONFIG.replace("DATA", self.mount_point().to_str().unwrap())
    }

    pub(crate) fn mount_point(&self) -> PathBuf {
        self.root.join("mount")
    }

    pub(crate) fn vault(&self) -> PlainVault {
        PlainVault::create(&self.root.join("vault"))
    }

    pub(crate) fn request(&self, mode: SwitchMode) -> Request {
        Request {
            source: self.source(),
            names: Vec::new(),
            vault: self.root.join("vault"),
            mount_point: self.mount_point(),
            mode,
            configs: match mode {
                SwitchMode::Repoint => vec![self.config()],
                SwitchMode::InPlace | SwitchMode::Symlink => Vec::new(),
            },
            sets: Vec::new(),
            reading: crate::migrate::Reading::default(),
            exclude: Vec::new(),
            keep_originals: false,
            wipe_agreed: false,
            commands: Commands::default(),
            accept_damage: false,
        }
    }

    /// Whether a complete and equal tree lies at `path`, but for what `patterns` leave out.
    pub(crate) fn is_whole(path: &Path, expected: &Image) -> bool {
        path.is_dir() && Image::of(path) == *expected
    }
}

/// An environment on a plain vault.
pub(crate) fn environment<'a>(vault: &'a PlainVault, watch: Arc<dyn Watch>) -> Environment<'a> {
    Environment {
        vault,
        mounter: vault,
        observer: &Unobserved,
        hands: Hands::new(watch),
        jobs: std::num::NonZeroUsize::new(1),
    }
}

/// Ends the process, as `kill -9` does, at one of the changes.
pub(crate) struct Kill {
    pub(crate) left: AtomicUsize,
}

impl Kill {
    fn point(&self) {
        if self.left.fetch_sub(1, Ordering::SeqCst) == 1 {
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL)
                .unwrap();
            // The signal may take a moment to arrive.
            loop {
                std::thread::park();
            }
        }
    }
}

impl Watch for Kill {
    fn before(&self, _: &Operation<'_>) -> io::Result<()> {
        self.point();
        Ok(())
    }

    fn after(&self, _: &Operation<'_>) {
        self.point();
    }
}
