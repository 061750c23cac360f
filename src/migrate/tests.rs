//! The engine on doubles.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::sync::Arc;

use super::double::{App, Image, Place, environment};
use super::*;

fn app() -> (Place, App) {
    let directory = Place(tempfile::tempdir().unwrap());
    let app = App::at(&directory.0.path().canonicalize().unwrap());
    app.fill();
    (directory, app)
}

const MODES: [SwitchMode; 3] = [SwitchMode::Repoint, SwitchMode::InPlace, SwitchMode::Symlink];

fn migrate<'a>(app: &App, vault: &'a double::PlainVault, request: &Request) -> Engine<'a> {
    let plan = plan(request, &Unobserved).unwrap();
    assert_eq!(plan.blockers, []);
    let _ = app;
    let mut engine = Engine::begin(environment(vault, Arc::new(Unwatched)), &plan).unwrap();
    engine.advance().unwrap();
    engine
}

#[test]
fn there_and_back_before_the_wipe() {
    for mode in MODES {
        let (_directory, app) = app();
        let before = Image::of(&app.source());
        let vault = app.vault();
        let mut engine = migrate(&app, &vault, &app.request(mode));
        assert_eq!(engine.state().phase, Phase::Accepted);
        assert_eq!(Image::of(&vault.content()), before, "{mode:?}");
        if mode == SwitchMode::Repoint {
            assert_eq!(fs::read_to_string(app.config()).unwrap(), app.edited_config());
        }
        let back = engine.roll_back(RollbackOptions::default()).unwrap();
        assert_eq!(back.origin, Origin::Originals);
        assert_eq!(Image::of(&app.source()), before, "{mode:?}");
        assert_eq!(fs::read_to_string(app.config()).unwrap(), app.original_config());
        assert!(!app.mount_point().exists());
        assert!(vault.current().unwrap().is_none());
        assert_eq!(names(&app), ["app.yaml", "data", "vault"]);
    }
}

/// What lies beside the app's data: no marker, no aside, no mount point may stay.
fn names(app: &App) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(&app.root)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn there_and_back_after_the_wipe() {
    for mode in MODES {
        for from in [None, Some(From::Vault), Some(From::Snapshot)] {
            let (_directory, app) = app();
            let before = Image::of(&app.source());
            let vault = app.vault();
            let mut engine = migrate(&app, &vault, &app.request(mode));
            let account = engine.wipe(&mut |_, _| {}).unwrap();
            assert_eq!(account.files(), 4);
            assert_eq!(engine.state().phase, Phase::Finished);
            let options = RollbackOptions { from, discard_changes: false };
            engine.roll_back(options).unwrap();
            assert_eq!(Image::of(&app.source()), before, "{mode:?} {from:?}");
            assert_eq!(fs::read_to_string(app.config()).unwrap(), app.original_config());
            assert_eq!(names(&app), ["app.yaml", "data", "vault"], "{mode:?} {from:?}");
        }
    }
}
