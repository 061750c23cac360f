//! A vault that this process serves through a real mount.

use std::path::Path;
use std::time::Duration;

use strongroom::backing::Directory as _;
use strongroom::backing::os::OsDirectory;
use strongroom::crypto::MasterKey;
use strongroom::fuse::{KernelOptions, MountOptions, MountPoint, MountedVault};
use strongroom::vault::{FileSystem, FilesystemOptions, OVERFLOW_NAME, TREE_NAME};

use super::files::{Files, Remount, clear_umask};

/// How long the kernel may take to let go of a mount.
const PATIENCE: Duration = Duration::from_secs(10);

/// A mounted vault, and the directories that it needs.
pub struct Mounted {
    vault: tempfile::TempDir,
    mount_point: tempfile::TempDir,
    mount: Option<MountedVault>,
}

fn master() -> MasterKey {
    MasterKey::from_bytes(&[42; 32])
}

impl Mounted {
    /// A new vault, mounted.
    pub fn subject() -> Files<Self> {
        clear_umask();
        let vault = tempfile::tempdir().unwrap();
        let directory = OsDirectory::open(vault.path()).unwrap();
        for name in [TREE_NAME, OVERFLOW_NAME] {
            directory.make_directory(name.as_bytes(), 0o700).unwrap();
        }
        FileSystem::format(&directory, &master()).unwrap();
        let mut mounted = Self { vault, mount_point: tempfile::tempdir().unwrap(), mount: None };
        mounted.mount();
        Files::new(mounted.mount_point.path().to_owned(), mounted)
    }

    fn mount(&mut self) {
        let (vault, mount_point) = (self.vault.path(), self.mount_point.path());
        let point = MountPoint::check(mount_point, vault, false).unwrap();
        self.mount = Some(mount(vault, &point));
    }

    fn unmount(&mut self) {
        if let Some(mount) = self.mount.take() {
            mount.unmount(PATIENCE).unwrap();
        }
    }
}

fn mount(vault: &Path, point: &MountPoint) -> MountedVault {
    let options = FilesystemOptions {
        kernel_keeps_times: true,
        descriptors: 16,
        ..FilesystemOptions::default()
    };
    let directory = Box::new(OsDirectory::open(vault).unwrap());
    let core = FileSystem::open(directory, &master(), options, "a test").unwrap();
    let kernel = KernelOptions {
        // What root's mounts have, so that root can set these bits.
        set_user_id: rustix::process::geteuid().is_root(),
        ..KernelOptions::default()
    };
    let options = MountOptions { kernel, ..MountOptions::default() };
    MountedVault::mount(core, vault, point, &options).unwrap()
}

impl Remount for Mounted {
    const NAME: &'static str = "the mounted vault";

    fn remount(&mut self) {
        self.unmount();
        self.mount();
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        self.unmount();
    }
}
