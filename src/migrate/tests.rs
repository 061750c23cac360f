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
    app.await_rest();
    let plan = plan(request, &Unobserved).unwrap();
    assert_eq!(plan.blockers, []);
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

/// Lets one kind of change fail, from the first one on.
struct Fails(Change);

impl Watch for Fails {
    fn before(&self, operation: &Operation<'_>) -> std::io::Result<()> {
        match operation.change == self.0 {
            true => Err(std::io::ErrorKind::ResourceBusy.into()),
            false => Ok(()),
        }
    }

    fn after(&self, _: &Operation<'_>) {}
}

fn reopen<'a>(vault: &'a double::PlainVault, watch: Arc<dyn Watch>) -> Engine<'a> {
    loop {
        match Engine::open(environment(vault, Arc::clone(&watch)), None) {
            // A process that another test forks holds the lock, too, until it executes its program.
            Err(Error::Running { .. }) => std::thread::yield_now(),
            opened => return opened.unwrap(),
        }
    }
}

const FROM_VAULT: RollbackOptions =
    RollbackOptions { from: Some(From::Vault), discard_changes: false };
const DISCARDING: RollbackOptions =
    RollbackOptions { from: Some(From::Snapshot), discard_changes: true };

/// A rollback that could not be ended says nothing of what the app writes afterwards.
#[test]
fn what_is_written_after_an_interrupted_rollback_is_not_lost() {
    for wiped in [false, true] {
        for fault in [Change::Unmount, Change::ReplaceFile] {
            let (_directory, app) = app();
            let vault = app.vault();
            let mut engine = migrate(&app, &vault, &app.request(SwitchMode::Repoint));
            if wiped {
                engine.wipe(&mut |_, _| {}).unwrap();
            }
            drop(engine);
            reopen(&vault, Arc::new(Fails(fault)))
                .roll_back(RollbackOptions::default())
                .unwrap_err();
            fs::write(vault.content().join("since"), b"since").unwrap();
            let refused = reopen(&vault, Arc::new(Unwatched)).roll_back(RollbackOptions::default());
            assert!(
                matches!(refused, Err(Error::VaultChanged { .. })),
                "{wiped} {fault:?}: {refused:?}"
            );
            reopen(&vault, Arc::new(Unwatched)).roll_back(FROM_VAULT).unwrap();
            assert_eq!(fs::read(app.source().join("since")).unwrap(), b"since");
            assert_eq!(fs::read_to_string(app.config()).unwrap(), app.original_config());
        }
    }
}

/// Whoever said that it may be lost is not asked again.
#[test]
fn an_answer_outlives_an_interruption() {
    let (_directory, app) = app();
    let before = Image::of(&app.source());
    let vault = app.vault();
    drop(migrate(&app, &vault, &app.request(SwitchMode::Repoint)));
    fs::write(vault.content().join("since"), b"since").unwrap();
    reopen(&vault, Arc::new(Fails(Change::ReplaceFile))).roll_back(DISCARDING).unwrap_err();
    reopen(&vault, Arc::new(Unwatched)).roll_back(RollbackOptions::default()).unwrap();
    assert_eq!(Image::of(&app.source()), before);
}

/// A configuration file that is gone keeps nothing else from coming back.
#[test]
fn a_removed_configuration_file_is_not_in_the_way() {
    let (_directory, app) = app();
    let before = Image::of(&app.source());
    let vault = app.vault();
    let mut engine = migrate(&app, &vault, &app.request(SwitchMode::Repoint));
    fs::remove_file(app.config()).unwrap();
    engine.roll_back(RollbackOptions::default()).unwrap();
    assert_eq!(Image::of(&app.source()), before);
    assert!(!app.config().exists());
}

/// A tree that was made from the vault is made again when the vault was written to meanwhile.
#[test]
fn what_is_written_after_the_restoring_comes_back_too() {
    let (_directory, app) = app();
    let vault = app.vault();
    migrate(&app, &vault, &app.request(SwitchMode::Repoint)).wipe(&mut |_, _| {}).unwrap();
    reopen(&vault, Arc::new(Fails(Change::ReplaceFile))).roll_back(FROM_VAULT).unwrap_err();
    assert!(reopen(&vault, Arc::new(Unwatched)).state().restored.is_some());
    fs::write(vault.content().join("since"), b"since").unwrap();
    reopen(&vault, Arc::new(Unwatched)).roll_back(RollbackOptions::default()).unwrap();
    assert_eq!(fs::read(app.source().join("since")).unwrap(), b"since");
}

/// A tree that was being made of the vault is a copy in plain: it does not stay when the originals
/// come back instead.
#[test]
fn nothing_of_another_way_back_is_left() {
    for mode in MODES {
        let (_directory, app) = app();
        let before = Image::of(&app.source());
        let vault = app.vault();
        drop(migrate(&app, &vault, &app.request(mode)));
        reopen(&vault, Arc::new(Fails(Change::Copy))).roll_back(FROM_VAULT).unwrap_err();
        assert!(names(&app).iter().any(|name| name.contains("restore")), "{mode:?}");
        let back = reopen(&vault, Arc::new(Unwatched)).roll_back(DISCARDING).unwrap();
        assert_eq!(back.origin, Origin::Originals);
        assert_eq!(Image::of(&app.source()), before, "{mode:?}");
        assert_eq!(names(&app), ["app.yaml", "data", "vault"], "{mode:?}");
    }
}

/// Once the data are back in their place, what was left of the originals has their old name: it
/// must not be taken for a tree that was being made.
#[test]
fn another_origin_comes_too_late_once_the_data_are_back() {
    let (_directory, app) = app();
    fs::create_dir(app.source().join("cache")).unwrap();
    fs::write(app.source().join("cache/kept"), b"left behind").unwrap();
    let vault = app.vault();
    let mut request = app.request(SwitchMode::Repoint);
    request.exclude = vec!["cache".to_owned()];
    let mut engine = migrate(&app, &vault, &request);
    // What is in the way of the wipe is what it does not know.
    engine.wipe(&mut |_, _| {}).unwrap();
    drop(engine);
    // The exchange of the trees is done, what follows is not.
    let fault = Arc::new(Fails(Change::RemoveDirectory));
    reopen(&vault, fault).roll_back(FROM_VAULT).unwrap_err();
    let late = reopen(&vault, Arc::new(Unwatched)).roll_back(DISCARDING);
    assert!(matches!(late, Err(Error::BackAlready { origin: Origin::Vault })), "{late:?}");
    reopen(&vault, Arc::new(Unwatched)).roll_back(FROM_VAULT).unwrap();
    assert_eq!(fs::read(app.source().join("cache/kept")).unwrap(), b"left behind");
    assert_eq!(fs::read(app.source().join("one")).unwrap(), b"one");
}
