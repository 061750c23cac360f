//! Ends the engine, as `kill -9` does, before and after every change that it makes, and looks at
//! what is left: the status is true, a complete copy exists, and both ways out work. Each run is a
//! process of its own (this very test binary), so that nothing of it survives but the disk.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use super::double::{App, Image, Kill, Place, environment};
use super::*;

/// What the child shall do: the directory, the mode, the deed, and after how many changes it dies.
const ORDER: &str = "STRONGROOM_TEST_MIGRATION";
const MODES: [SwitchMode; 3] = [SwitchMode::Repoint, SwitchMode::InPlace, SwitchMode::Symlink];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deed {
    Encrypt,
    Resume,
    RollBack,
    RollBackFromVault,
}

const DEEDS: [(&str, Deed); 4] = [
    ("encrypt", Deed::Encrypt),
    ("resume", Deed::Resume),
    ("roll-back", Deed::RollBack),
    ("roll-back-from-vault", Deed::RollBackFromVault),
];

/// A directory in memory: what is not synced is not the question here, and it is fast.
fn directory() -> Place {
    let memory = Path::new("/dev/shm");
    Place(if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap())
}

/// Not a test of its own: what the other processes of this module run.
#[test]
fn child() {
    let Ok(order) = std::env::var(ORDER) else { return };
    let mut words = order.splitn(4, ' ');
    let mode = MODES[words.next().unwrap().parse::<usize>().unwrap()];
    let name = words.next().unwrap();
    let deed = DEEDS.iter().find(|(known, _)| *known == name).unwrap().1;
    let left = words.next().unwrap().parse().unwrap();
    let app = App::at(Path::new(words.next().unwrap()));
    let vault = app.vault();
    let environment = environment(&vault, Arc::new(Kill { left: AtomicUsize::new(left) }));
    match deed {
        Deed::Encrypt => {
            let plan = plan(&app.request(mode), &Unobserved).unwrap();
            let mut engine = Engine::begin(environment, &plan).unwrap();
            engine.advance().unwrap();
            engine.wipe(WipeOptions::default(), &mut |_, _| {}).unwrap();
        }
        Deed::Resume => {
            let mut engine = Engine::open(environment, None).unwrap();
            engine.advance().unwrap();
            if engine.state().phase != Phase::Finished {
                engine.wipe(WipeOptions::default(), &mut |_, _| {}).unwrap();
            }
        }
        Deed::RollBack | Deed::RollBackFromVault => {
            let from = (deed == Deed::RollBackFromVault).then_some(From::Vault);
            let options = RollbackOptions { from, discard_changes: false };
            Engine::open(environment, None).unwrap().roll_back(options).unwrap();
        }
    }
}

/// Runs a deed in a process of its own that dies after `left` changes (0: never). Whether it lived
/// to the end.
fn run(app: &App, mode: SwitchMode, deed: Deed, left: usize) -> bool {
    let mode = MODES.iter().position(|known| *known == mode).unwrap();
    let name = DEEDS.iter().find(|(_, known)| *known == deed).unwrap().0;
    app.await_rest();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "migrate::crash_tests::child", "--nocapture"])
        .env(ORDER, format!("{mode} {name} {left} {}", app.root.display()))
        .output()
        .unwrap();
    use std::os::unix::process::ExitStatusExt as _;
    if output.status.signal() == Some(libc::SIGKILL) {
        return false;
    }
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{deed:?} {}: {told}", output.status);
    true
}

struct Scene {
    _directory: Place,
    app: App,
    mode: SwitchMode,
    before: Image,
}

impl Scene {
    fn new(mode: SwitchMode) -> Self {
        let directory = directory();
        let app = App::at(&directory.0.path().canonicalize().unwrap());
        app.fill();
        let before = Image::of(&app.source());
        Self { _directory: directory, app, mode, before }
    }

    fn run(&self, deed: Deed, left: usize) -> bool {
        run(&self.app, self.mode, deed, left)
    }

    fn status(&self) -> Option<Status> {
        let vault = self.app.vault();
        statuses(vault.directory(), vault.id(), vault.migration_key()).unwrap().pop()
    }

    /// Where complete copies of the data are now.
    fn whole(&self) -> Vec<PathBuf> {
        let vault = self.app.vault();
        let mut places: Vec<PathBuf> = fs::read_dir(&self.app.root)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| !path.is_symlink() && !path.ends_with("vault"))
            .collect();
        places.push(vault.content());
        places.retain(|path| App::is_whole(path, &self.before));
        places
    }

    /// What must be true whenever the engine has died.
    fn check(&self, what: &str) -> Option<Status> {
        let whole = self.whole();
        assert!(!whole.is_empty(), "{what}: no complete copy is left");
        let status = self.status()?;
        let briefs = brief(&self.app.root.join("vault")).unwrap();
        assert_eq!(briefs.last().unwrap().phase, status.phase, "{what}");
        if let Some(originals) = &status.originals
            && status.originals_complete
        {
            let path = originals.as_path().to_owned();
            assert!(whole.contains(&path), "{what}: {} is not whole", path.display());
        } else {
            // Given up only for a copy that was verified.
            assert!(status.verified, "{what}");
            assert!(whole.contains(&self.app.vault().content()), "{what}: {whole:?}");
        }
        Some(status)
    }

    /// Everything is as it was before, and nothing is left beside it.
    fn check_back(&self, what: &str) {
        assert!(App::is_whole(&self.app.source(), &self.before), "{what}");
        let config = fs::read_to_string(self.app.config()).unwrap();
        assert_eq!(config, self.app.original_config(), "{what}");
        assert_eq!(self.names(), ["app.yaml", "data", "vault"], "{what}");
        assert!(self.app.vault().current().unwrap().is_none(), "{what}");
    }

    /// The app uses the vault, and the originals are gone.
    fn check_there(&self, what: &str) {
        assert_eq!(Image::of(&self.app.vault().content()), self.before, "{what}");
        let names = match self.mode {
            SwitchMode::Repoint => ["app.yaml", "mount", "vault"].as_slice(),
            SwitchMode::InPlace => ["app.yaml", "data", "vault"].as_slice(),
            SwitchMode::Symlink => ["app.yaml", "data", "mount", "vault"].as_slice(),
        };
        assert_eq!(self.names(), names, "{what}");
        if self.mode == SwitchMode::Repoint {
            let config = fs::read_to_string(self.app.config()).unwrap();
            assert_eq!(config, self.app.edited_config(), "{what}");
        }
        let mount = self.app.vault().current().unwrap().unwrap();
        let expected = match self.mode {
            SwitchMode::InPlace => self.app.source(),
            SwitchMode::Repoint | SwitchMode::Symlink => self.app.mount_point(),
        };
        assert_eq!(mount.point, expected, "{what}");
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(&self.app.root)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

/// The whole way there, killed at every change; then `resume`, or `rollback`.
fn enumerate_encrypt(mode: SwitchMode) {
    let mut left = 1;
    loop {
        let what = format!("{mode:?} killed at {left}");
        let scene = Scene::new(mode);
        if scene.run(Deed::Encrypt, left) {
            break;
        }
        let status = scene.check(&what);
        let Some(status) = status else {
            // Nothing was begun: a new run begins.
            assert!(App::is_whole(&scene.app.source(), &scene.before), "{what}");
            assert!(scene.run(Deed::Encrypt, 0), "{what}");
            scene.check_there(&what);
            left += 1;
            continue;
        };
        // A second run is refused while this one is unfinished.
        if !status.finished {
            let other = App::at(&scene.app.root);
            let refused = plan(&other.request(mode), &Unobserved);
            assert!(
                matches!(refused, Err(Error::Unfinished { .. }) | Err(Error::Io { .. })),
                "{what}: {refused:?}"
            );
        }
        assert!(scene.run(Deed::Resume, 0), "{what}");
        scene.check_there(&what);

        let scene = Scene::new(mode);
        assert!(!scene.run(Deed::Encrypt, left));
        assert!(scene.run(Deed::RollBack, 0), "{what}");
        scene.check_back(&what);
        left += 1;
    }
    assert!(left > 60, "the enumeration went through every change: {left}");
}

/// The way back, killed at every change, then once more.
fn enumerate_rollback(mode: SwitchMode, deed: Deed, prepare: impl Fn(&Scene)) {
    let mut left = 1;
    loop {
        let what = format!("{mode:?} {deed:?} killed at {left}");
        let scene = Scene::new(mode);
        prepare(&scene);
        let lived = scene.run(deed, left);
        scene.check(&what);
        if !lived {
            assert!(scene.run(deed, 0), "{what}");
        }
        scene.check_back(&what);
        if lived {
            break;
        }
        left += 1;
    }
    assert!(left > 5, "the enumeration went through every change: {left}");
}

#[test]
fn killed_anywhere_repointing() {
    enumerate_encrypt(SwitchMode::Repoint);
}

#[test]
fn killed_anywhere_in_place() {
    enumerate_encrypt(SwitchMode::InPlace);
}

#[test]
fn killed_anywhere_with_a_symlink() {
    enumerate_encrypt(SwitchMode::Symlink);
}

#[test]
fn rollback_killed_anywhere_after_the_wipe() {
    for mode in MODES {
        for deed in [Deed::RollBack, Deed::RollBackFromVault] {
            enumerate_rollback(mode, deed, |scene| assert!(scene.run(Deed::Encrypt, 0)));
        }
    }
}

/// The last change of the wipe but a few is undone: the originals are gone in part.
#[test]
fn rollback_killed_anywhere_in_the_middle_of_the_wipe() {
    for mode in MODES {
        let mut changes = 1;
        while !Scene::new(mode).run(Deed::Encrypt, changes) {
            changes += 1;
        }
        enumerate_rollback(mode, Deed::RollBack, |scene| {
            assert!(!scene.run(Deed::Encrypt, changes - 14));
            assert_eq!(scene.status().unwrap().phase, Phase::Wiping);
        });
    }
}
