//! Mounts that go by themselves.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::double::{App, Image, Place, PlainVault, environment};
use super::*;

/// One of its mounts goes as soon as it is there: the bare directory is found in its place.
struct Vanishing<'a> {
    vault: &'a PlainVault,
    /// Mounts up to that one.
    left: Mutex<usize>,
    /// The bare directory.
    bare: Mutex<Option<PathBuf>>,
}

impl Mounter for Vanishing<'_> {
    fn mount(&self, point: &Path, access: MountAccess) -> std::result::Result<Mount, BoxError> {
        let mount = self.vault.mount(point, access)?;
        let mut left = self.left.lock();
        *left = left.wrapping_sub(1);
        if *left != 0 {
            return Ok(mount);
        }
        self.vault.unmount(&mount)?;
        *self.bare.lock() = Some(point.to_owned());
        Ok(Mount { point: point.to_owned(), content: point.to_owned() })
    }

    fn unmount(&self, mount: &Mount) -> std::result::Result<(), BoxError> {
        self.vault.unmount(mount)
    }

    fn current(&self) -> std::result::Result<Option<Mount>, BoxError> {
        self.vault.current()
    }
}

impl Vanishing<'_> {
    /// Whether a run failed as a mount went. Nothing is in the bare directory, whatever came of it.
    fn failed<T>(&self, outcome: std::result::Result<T, Error>) -> bool {
        let bare = self.bare.lock().take();
        if let Some(bare) = &bare {
            assert!(!bare.exists() || fs::read_dir(bare).unwrap().next().is_none(), "{bare:?}");
        }
        match outcome {
            Ok(_) => false,
            Err(error) => {
                assert!(bare.is_some(), "{error}");
                assert!(error.to_string().contains("not mounted there any more"), "{error}");
                true
            }
        }
    }
}

#[test]
fn a_mount_that_goes_is_neither_written_to_nor_believed() {
    const FROM_VAULT: RollbackOptions =
        RollbackOptions { from: Some(From::Vault), discard_changes: false };
    let mut failed = [0; 3];
    for turn in 1.. {
        let directory = Place(tempfile::tempdir().unwrap());
        let app = App::at(&directory.0.path().canonicalize().unwrap());
        app.fill();
        let before = Image::of(&app.source());
        app.await_rest();
        let vault = app.vault();
        let vanishing = Vanishing { vault: &vault, left: Mutex::new(turn), bare: Mutex::new(None) };
        let environment =
            Environment { mounter: &vanishing, ..environment(&vault, Arc::new(Unwatched)) };
        let plan = plan(&app.request(SwitchMode::Repoint), &Unobserved).unwrap();

        let mut engine = match Engine::begin(environment.clone(), &plan) {
            Ok(engine) => engine,
            outcome => {
                assert!(vanishing.failed(outcome));
                failed[0] += 1;
                Engine::begin(environment, &plan).unwrap()
            }
        };
        if vanishing.failed(engine.advance()) {
            assert_eq!(Image::of(&app.source()), before);
            failed[1] += 1;
            engine.advance().unwrap();
        }
        assert_eq!(Image::of(&vault.content()), before);
        if vanishing.failed(engine.roll_back(FROM_VAULT)) {
            failed[2] += 1;
            engine.roll_back(FROM_VAULT).unwrap();
        }
        assert_eq!(Image::of(&app.source()), before, "{turn}");
        if (1..=turn).contains(&vanishing.left.lock()) {
            // There were not so many mounts.
            break;
        }
    }
    // Begun once, copied and compared, and restored.
    assert!(failed[0] == 1 && failed[1] >= 2 && failed[2] >= 1, "{failed:?}");
}
