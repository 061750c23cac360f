//! The engine on doubles.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
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

fn told(engine: &Engine<'_>) -> &'static str {
    Status::new(engine.state(), engine.id()).unwrap().describe()
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
            let account = engine.wipe(WipeOptions::default(), &mut |_, _| {}).unwrap();
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
    Engine::open(environment(vault, watch), None).unwrap()
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
                engine.wipe(WipeOptions::default(), &mut |_, _| {}).unwrap();
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
    migrate(&app, &vault, &app.request(SwitchMode::Repoint))
        .wipe(WipeOptions::default(), &mut |_, _| {})
        .unwrap();
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
    engine.wipe(WipeOptions::default(), &mut |_, _| {}).unwrap();
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

fn excluding(app: &App, mode: SwitchMode) -> Request {
    Request { exclude: vec!["models".to_owned()], ..app.request(mode) }
}

/// What an app writes to the vault under an excluded name has no other place.
#[test]
fn what_is_written_under_an_excluded_name_is_not_lost() {
    for wiped in [false, true] {
        let (_directory, app) = app();
        fs::create_dir(app.source().join("models")).unwrap();
        fs::write(app.source().join("models/old.bin"), b"old").unwrap();
        let vault = app.vault();
        let mut engine = migrate(&app, &vault, &excluding(&app, SwitchMode::Repoint));
        if wiped {
            engine.wipe(WipeOptions::default(), &mut |_, _| {}).unwrap();
        }
        fs::create_dir(vault.content().join("models")).unwrap();
        fs::write(vault.content().join("models/new.bin"), b"new").unwrap();
        let refused = engine.roll_back(RollbackOptions::default());
        assert!(matches!(refused, Err(Error::VaultChanged { .. })), "{refused:?}");
        let back = engine.roll_back(FROM_VAULT).unwrap();
        assert_eq!(fs::read(app.source().join("models/new.bin")).unwrap(), b"new");
        // What was left behind under the same name is told of.
        let beside = if wiped { back.leftover } else { back.originals }.unwrap();
        assert_eq!(fs::read(beside.as_path().join("models/old.bin")).unwrap(), b"old");
    }
}

/// What comes along from outside the migration changes no time of what it comes into.
#[test]
fn times_are_as_before_where_something_was_excluded() {
    for from in [Some(From::Vault), Some(From::Snapshot)] {
        let (_directory, app) = app();
        fs::create_dir(app.source().join("sub/models")).unwrap();
        fs::write(app.source().join("sub/models/old.bin"), b"old").unwrap();
        fs::write(app.source().join("models"), b"a file").unwrap();
        for name in ["sub", ""] {
            let time = std::time::UNIX_EPOCH + std::time::Duration::new(1_200_000_000, 5);
            fs::File::open(app.source().join(name)).unwrap().set_modified(time).unwrap();
        }
        let before = Image::of(&app.source());
        let vault = app.vault();
        let mut engine = migrate(&app, &vault, &excluding(&app, SwitchMode::Repoint));
        engine.wipe(WipeOptions::default(), &mut |_, _| {}).unwrap();
        let options = RollbackOptions { from, discard_changes: false };
        engine.roll_back(options).unwrap();
        assert_eq!(Image::of(&app.source()), before, "{from:?}");
        assert_eq!(names(&app), ["app.yaml", "data", "vault"]);
    }
}

/// A job that knows the old path only puts something there: it is kept, and nothing waits for it.
#[test]
fn what_lies_in_the_old_place_is_kept() {
    for mode in MODES {
        for kept in [false, true] {
            let (_directory, app) = app();
            let before = Image::of(&app.source());
            let vault = app.vault();
            let mut engine = migrate(&app, &vault, &app.request(mode));
            if kept {
                engine.keep().unwrap();
            } else {
                engine.wipe(WipeOptions::default(), &mut |_, _| {}).unwrap();
            }
            if let Some(mount) = vault.current().unwrap() {
                vault.unmount(&mount).unwrap();
            }
            unprotect(&app.source());
            match mode {
                SwitchMode::Symlink => fs::remove_file(app.source()).unwrap(),
                SwitchMode::Repoint => {}
                SwitchMode::InPlace => fs::remove_dir(app.source()).unwrap(),
            }
            fs::create_dir(app.source()).unwrap();
            fs::write(app.source().join("job.log"), b"log").unwrap();
            let back = engine.roll_back(RollbackOptions::default()).unwrap();
            assert_eq!(Image::of(&app.source()), before, "{mode:?} {kept}");
            let [found] = back.found.as_slice() else { panic!("{mode:?} {kept}: {back:?}") };
            assert_eq!(fs::read(found.as_path().join("job.log")).unwrap(), b"log");
            let name = found.as_path().file_name().unwrap().to_str().unwrap().to_owned();
            assert_eq!(names(&app), ["app.yaml", "data", name.as_str(), "vault"]);
        }
    }
}

/// Nobody has agreed to the end of originals that were not being wiped.
#[test]
fn originals_that_are_complete_outlive_a_rollback_from_the_vault() {
    for mode in MODES {
        let (_directory, app) = app();
        let before = Image::of(&app.source());
        let vault = app.vault();
        let mut engine = migrate(&app, &vault, &app.request(mode));
        fs::write(vault.content().join("since"), b"since").unwrap();
        let back = engine.roll_back(FROM_VAULT).unwrap();
        assert_eq!(fs::read(app.source().join("since")).unwrap(), b"since");
        let originals = back.originals.unwrap();
        assert_eq!(Image::of(originals.as_path()), before, "{mode:?}");
        assert_eq!((back.leftover, back.found), (None, Vec::new()));
    }
}

/// Lets an exchange of two names fail, as on a filesystem that cannot.
struct CannotExchange {
    renames: std::sync::atomic::AtomicUsize,
}

impl Watch for CannotExchange {
    fn before(&self, operation: &Operation<'_>) -> std::io::Result<()> {
        use std::sync::atomic::Ordering;
        if operation.change != Change::Rename {
            return Ok(());
        }
        match self.renames.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)) {
            // The exchange itself is the first.
            Ok(_) => Ok(()),
            Err(_) => Err(std::io::ErrorKind::Interrupted.into()),
        }
    }

    fn after(&self, _: &Operation<'_>) {}
}

/// An exchange in three steps, ended after the first or the second of them: the tree that was in
/// the way for that time is found again.
#[test]
fn an_exchange_in_three_steps_is_ended_later() {
    for steps in [1, 2] {
        let (_directory, app) = app();
        let before = Image::of(&app.source());
        let vault = app.vault();
        let engine = migrate(&app, &vault, &app.request(SwitchMode::Repoint));
        let (id, source) = (engine.id(), app.source());
        drop(engine);
        // Stopped right before the restored tree takes its place.
        let fault = CannotExchange { renames: std::sync::atomic::AtomicUsize::new(0) };
        reopen(&vault, Arc::new(fault)).roll_back(FROM_VAULT).unwrap_err();
        let target = app.root.join(format!(".data.restore-{id}"));
        assert!(target.is_dir());
        fs::rename(&source, status::away(&source, id)).unwrap();
        if steps == 2 {
            fs::rename(&target, &source).unwrap();
        }
        let back = reopen(&vault, Arc::new(Unwatched)).roll_back(FROM_VAULT).unwrap();
        assert_eq!(Image::of(&source), before, "{steps}");
        assert_eq!(Image::of(back.originals.unwrap().as_path()), before, "{steps}");
        assert_eq!(names(&app).iter().filter(|name| name.starts_with('.')).count(), 0);
    }
}

/// Originals that are not where they were left are not taken for wiped.
#[test]
fn a_wipe_does_not_end_without_its_directory() {
    let (_directory, app) = app();
    let before = Image::of(&app.source());
    let vault = app.vault();
    drop(migrate(&app, &vault, &app.request(SwitchMode::Repoint)));
    let mut engine = reopen(&vault, Arc::new(Fails(Change::Unlink)));
    // Recorded, and stopped at the first name.
    let _ = engine.wipe(WipeOptions::default(), &mut |_, _| {});
    assert_eq!(engine.state().phase, Phase::Wiping);
    drop(engine);
    let elsewhere = app.root.join("elsewhere");
    fs::rename(app.source(), &elsewhere).unwrap();
    let mut engine = reopen(&vault, Arc::new(Unwatched));
    engine.wipe_outlook().unwrap();
    let refused = engine.wipe(WipeOptions::default(), &mut |_, _| {});
    assert!(matches!(refused, Err(Error::SourceGone { .. })), "{refused:?}");
    assert_eq!(engine.state().phase, Phase::Wiping);
    // Whoever knows that they are gone may say so; nothing is claimed of them.
    let options = WipeOptions { originals_gone: true, ..WipeOptions::default() };
    assert_eq!(engine.wipe(options, &mut |_, _| {}).unwrap(), Account::default());
    assert_eq!(engine.state().phase, Phase::Finished);
    assert!(!told(&engine).contains("wiped"), "{}", told(&engine));
    engine.roll_back(RollbackOptions::default()).unwrap();
    assert_eq!(Image::of(&app.source()), before);
}

/// The snapshot may be removed by whoever will not want the state at the migration.
#[test]
fn a_wipe_without_the_snapshot_wants_to_be_told() {
    let (_directory, app) = app();
    let vault = app.vault();
    let mut engine = migrate(&app, &vault, &app.request(SwitchMode::Repoint));
    fs::remove_file(engine.state().snapshot.as_ref().unwrap().path.as_path()).unwrap();
    let refused = engine.wipe(WipeOptions::default(), &mut |_, _| {});
    assert!(matches!(refused, Err(Error::SnapshotGone { .. })), "{refused:?}");
    assert_eq!(engine.state().phase, Phase::Accepted);
    let options = WipeOptions { without_snapshot: true, ..WipeOptions::default() };
    assert_eq!(engine.wipe(options, &mut |_, _| {}).unwrap().files(), 4);
    assert!(told(&engine).contains("wiped"), "{}", told(&engine));
}

/// A vault that was moved takes its snapshot along.
#[test]
fn a_snapshot_is_found_where_the_vault_is() {
    let (_directory, app) = app();
    let before = Image::of(&app.source());
    let vault = app.vault();
    let mut engine = migrate(&app, &vault, &app.request(SwitchMode::Repoint));
    engine.wipe(WipeOptions::default(), &mut |_, _| {}).unwrap();
    drop(engine);
    let mount = vault.current().unwrap().unwrap();
    vault.unmount(&mount).unwrap();
    let moved = app.root.join("moved");
    fs::rename(app.root.join("vault"), &moved).unwrap();
    let vault = double::PlainVault::create(&moved);
    let options = RollbackOptions { from: Some(From::Snapshot), discard_changes: true };
    let back = reopen(&vault, Arc::new(Unwatched)).roll_back(options).unwrap();
    assert_eq!(back.origin, Origin::Snapshot);
    assert_eq!(Image::of(&app.source()), before);
}

/// A configuration that cannot be taken back is shown before anything is changed.
#[test]
fn a_conflict_keeps_everything_as_it_is() {
    let (_directory, app) = app();
    let vault = app.vault();
    let mut engine = migrate(&app, &vault, &app.request(SwitchMode::Repoint));
    let mine = app.edited_config().replace(app.mount_point().to_str().unwrap(), "/elsewhere");
    fs::write(app.config(), &mine).unwrap();
    match engine.roll_back(RollbackOptions::default()) {
        Err(Error::ConfigConflict { file, keys, diff }) => {
            assert_eq!((file, keys), (app.config(), vec!["data.dir".to_owned()]));
            assert!(diff.contains("/elsewhere"), "{diff}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(engine.state().phase, Phase::Accepted);
    assert_eq!(fs::read_to_string(app.config()).unwrap(), mine);
}

/// What would fail at the switch stands in the way at the plan.
#[test]
fn configuration_that_cannot_be_edited_is_found_at_the_plan() {
    let reason = |app: &App, request: &Request| -> String {
        app.await_rest();
        let blockers = plan(request, &Unobserved).unwrap().blockers;
        assert_eq!(blockers.len(), 1, "{blockers:?}");
        blockers[0].to_string()
    };
    let (_directory, app) = app();
    let request = app.request(SwitchMode::Repoint);
    fs::hard_link(app.config(), app.root.join("another name")).unwrap();
    assert!(reason(&app, &request).contains("several names"));
    fs::remove_file(app.root.join("another name")).unwrap();

    let inside = app.source().join("models/app.yaml");
    fs::create_dir(app.source().join("models")).unwrap();
    fs::rename(app.config(), &inside).unwrap();
    let excluded =
        Request { configs: vec![inside.clone()], ..excluding(&app, SwitchMode::Repoint) };
    assert!(reason(&app, &excluded).contains("--exclude"));
    std::os::unix::fs::symlink(&inside, app.config()).unwrap();
    assert!(reason(&app, &request).contains("symlink into the source"));
    // Under its own path it may be edited.
    app.await_rest();
    let itself = Request { configs: vec![inside], ..request };
    assert_eq!(plan(&itself, &Unobserved).unwrap().blockers, []);
}

/// Keeps the order of the stages.
#[derive(Default)]
struct Stages(std::sync::Mutex<Vec<Stage>>, std::sync::atomic::AtomicBool);

impl Observer for Stages {
    fn stage(&self, stage: Stage, _: Option<Totals>) {
        self.0.lock().unwrap().push(stage);
    }
    fn advance(&self, _: u64, _: u64) {}
    fn note(&self, _: &str) {}
    fn cancelled(&self) -> &std::sync::atomic::AtomicBool {
        &self.1
    }
}

/// A check may move the change time of a database's log, which must not look like a change of the
/// source.
#[test]
fn stores_are_checked_before_the_source_is_listed() {
    let (_directory, app) = app();
    let vault = app.vault();
    let stages = Stages::default();
    app.await_rest();
    let plan = plan(&app.request(SwitchMode::Repoint), &Unobserved).unwrap();
    let environment = Environment { observer: &stages, ..environment(&vault, Arc::new(Unwatched)) };
    Engine::begin(environment, &plan).unwrap().advance().unwrap();
    let stages = stages.0.lock().unwrap();
    let at = |wanted| stages.iter().position(|stage| *stage == wanted).unwrap();
    assert!(at(Stage::Check) < at(Stage::Survey), "{stages:?}");
}

/// Where a filesystem keeps no times of birth, the directory of the tree that comes back may have
/// the inode that the originals had: the journal knows that it is another one.
#[test]
fn a_directory_with_the_inode_of_originals_that_are_gone_is_made_again() {
    let (_directory, app) = app();
    fs::create_dir(app.source().join("models")).unwrap();
    let vault = app.vault();
    let mut engine = migrate(&app, &vault, &excluding(&app, SwitchMode::Repoint));
    engine.wipe(WipeOptions::default(), &mut |_, _| {}).unwrap();
    drop(engine);
    reopen(&vault, Arc::new(Fails(Change::Copy))).roll_back(FROM_VAULT).unwrap_err();
    let mut engine = reopen(&vault, Arc::new(Unwatched));
    // What is excluded has kept the directory, which now stands for a new one of the same inode.
    let target = app.root.join(format!(".data.restore-{}", engine.id()));
    fs::remove_dir_all(&target).unwrap();
    fs::rename(app.source(), &target).unwrap();
    let identity = engine.state().begun.identity;
    engine.journal.append(Record::Restoring(identity)).unwrap();
    engine.roll_back(FROM_VAULT).unwrap();
    assert_eq!(fs::read(app.source().join("one")).unwrap(), b"one");
    assert_eq!(names(&app), ["app.yaml", "data", "vault"]);
}

/// After a power cut any number of files may be what they seem and yet hold something else.
/// Other content, of which the metadata tell nothing.
fn alter(path: &Path, content: &str) {
    let modified = fs::metadata(path).unwrap().modified().unwrap();
    let mut file = fs::File::options().write(true).open(path).unwrap();
    std::io::Write::write_all(&mut file, content.as_bytes()).unwrap();
    file.set_modified(modified).unwrap();
}

#[test]
fn the_vault_and_the_source_are_compared_side_by_side() {
    let (_directory, app) = app();
    for name in ["a", "z"] {
        fs::write(app.source().join(name), "right").unwrap();
    }
    let vault = app.vault();
    let engine = migrate(&app, &vault, &app.request(SwitchMode::Repoint));
    let compare = || engine.compare_vault(Some(&app.source())).unwrap();
    let (found, source) = compare();
    assert!(found.is_equal() && source.is_some_and(|source| source.is_equal()));

    alter(&app.source().join("z"), "wrong");
    let (found, source) = compare();
    let source = source.unwrap();
    assert!(found.is_equal());
    let different: Vec<_> = source.differences.iter().map(|one| one.path.to_string()).collect();
    assert!(different.contains(&"z".to_owned()), "{different:?}");

    // Of a vault that is not equal, nothing else is of interest.
    alter(&vault.content().join("a"), "wrong");
    let (found, source) = compare();
    assert_eq!(found.total_differences, 1);
    assert!(source.is_none());
}

#[test]
fn a_copy_that_is_mostly_wrong_is_made_again() {
    for wrong in [5, 1005] {
        let (_directory, app) = app();
        for number in 0..wrong {
            fs::write(app.source().join(format!("{number:04}")), "right").unwrap();
        }
        let before = Image::of(&app.source());
        let vault = app.vault();
        app.await_rest();
        let plan = plan(&app.request(SwitchMode::Repoint), &Unobserved).unwrap();
        let watch = Arc::new(Fails(Change::Sync));
        let mut engine = Engine::begin(environment(&vault, watch), &plan).unwrap();
        engine.advance().unwrap_err();
        assert_eq!(engine.state().phase, Phase::Snapshotted);
        drop(engine);
        let content = vault.content();
        for number in 0..wrong {
            alter(&content.join(format!("{number:04}")), "wrong");
        }
        fs::write(content.join("extra"), "extra").unwrap();
        let mut engine = reopen(&vault, Arc::new(Unwatched));
        engine.advance().unwrap();
        assert_eq!(Image::of(&content), before);
        assert_eq!(Image::of(&app.source()), before);
    }
}
