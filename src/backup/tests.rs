//! Whole backups: made, chained, restored, damaged.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use zeroize::Zeroizing;

use super::*;
use crate::archive::{ArchiveKind, Control, KeySet, Keyring, ReadBack, SectionName, WriteOptions};
use crate::crypto::{Argon2Parameters, Passphrase, Secret};
use crate::tree::sample::{fill, is_root, path};
use crate::tree::{CompareOptions, EntryKind, LocalTree, Timestamp, TreePath, TreeWriter, compare};

fn secret() -> Secret {
    Secret::Passphrase(Passphrase::new(Zeroizing::new(b"a secret".to_vec())).unwrap())
}

struct Room {
    directory: tempfile::TempDir,
    keys: KeySet,
    ring: Keyring,
    clock: i64,
    plain: bool,
    sensitive: Terms,
}

impl Room {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("source")).unwrap();
        fs::create_dir(directory.path().join("backups")).unwrap();
        let cost = Argon2Parameters::insecure_for_tests();
        let keys = KeySet::of_secrets(&[(&secret(), "")], || Ok(cost), 0).unwrap();
        // Later than the files' change times: those are trusted at once.
        let clock = jiff::Timestamp::now().as_second() + 100;
        let ring = Keyring::new().with_secret(secret());
        let sensitive = Terms::new(&[".env,*.pem".into()], &[]).unwrap();
        Self { directory, keys, ring, clock, plain: false, sensitive }
    }

    fn source(&self) -> PathBuf {
        self.directory.path().join("source")
    }

    fn backups(&self) -> PathBuf {
        self.directory.path().join("backups")
    }

    fn create(&mut self, kind: ArchiveKind) -> Result<Created> {
        self.create_with(kind, &Filter::default(), Details::default())
    }

    fn create_with(
        &mut self,
        kind: ArchiveKind,
        filter: &Filter,
        details: Details,
    ) -> Result<Created> {
        self.clock += 100;
        let _lock = Lock::take(&self.backups())?;
        let catalog = Catalog::read(&self.backups())?;
        let tree = LocalTree::open(self.source())?;
        let sources = [Source { section: SectionName::data(), path: self.source(), reader: &tree }];
        let base = find_base(&catalog, "app", kind);
        let reader = base
            .map(|base| crate::archive::ArchiveReader::open(&base.path, &self.ring))
            .transpose()?;
        let base = reader
            .as_ref()
            .zip(base)
            .map(|(reader, backup)| BaseBackup { reader, name: backup.name.clone() });
        create(CreateRequest {
            name: "app",
            kind,
            base,
            catalog: &catalog,
            sources: &sources,
            filter,
            details,
            keys: (!self.plain).then_some(&self.keys),
            sensitive: Some(Sensitive { files: &self.sensitive, keys: &self.keys }),
            options: WriteOptions { read_back: ReadBack::Written, ..WriteOptions::default() },
            now: Timestamp { seconds: self.clock, nanoseconds: 0 },
        })
    }

    fn chain(&self, backup: &Created) -> Chain<'_> {
        Chain::open(&backup.path, &self.ring).unwrap()
    }

    fn target(&self, name: &str, extent: Extent) -> Target {
        let path = self.directory.path().join(name);
        Target { section: SectionName::data(), path, extent }
    }

    fn restore(&self, backup: &Created, target: &Target) -> Result<RestoreOutcome> {
        let chain = Chain::open(&backup.path, &self.ring)?;
        restore(&request(&chain, std::slice::from_ref(target)), &mut |_| Ok(()))
    }
}

fn request<'a>(chain: &'a Chain<'a>, targets: &'a [Target]) -> RestoreRequest<'a> {
    RestoreRequest {
        chain,
        targets,
        selection: Selection::Everything,
        replace: true,
        devices: true,
        check_stores: true,
        control: Control::default(),
    }
}

/// What looks through a source before anything is written stops, too.
#[test]
fn looking_can_be_stopped() {
    let room = Room::new();
    fs::write(room.source().join(".env"), "a secret").unwrap();
    let tree = LocalTree::open(room.source()).unwrap();
    let sources = [Source { section: SectionName::data(), path: room.source(), reader: &tree }];
    let (going, stopped) = (AtomicBool::new(false), AtomicBool::new(true));
    let look = |cancelled: &AtomicBool| {
        has_sensitive(&room.sensitive, &sources, &Filter::default(), cancelled)
    };
    assert!(look(&going).unwrap());
    assert!(matches!(look(&stopped), Err(Error::Cancelled)));
    assert!(check_stores(&room.source(), &going).unwrap().is_empty());
    assert!(matches!(check_stores(&room.source(), &stopped), Err(Error::Cancelled)));
}

fn is_socket(_: &TreePath, kind: EntryKind) -> bool {
    kind == EntryKind::Socket
}

fn assert_same(left: &Path, right: &Path) {
    let (left, right) = (LocalTree::open(left).unwrap(), LocalTree::open(right).unwrap());
    let options = CompareOptions { exclude: &is_socket, ..CompareOptions::default() };
    let comparison = compare(&left, &right, &options).unwrap();
    assert!(comparison.is_equal(), "{:#?}", comparison.differences);
    assert!(comparison.entries > 0);
}

/// Copies the source aside, as what a backup made now has to give back.
fn keep(room: &Room, name: &str) -> PathBuf {
    let kept = room.directory.path().join(name);
    let copied = std::process::Command::new("cp")
        .args(["-a", "--sparse=always"])
        .args([&room.source(), &kept])
        .status()
        .unwrap();
    assert!(copied.success());
    kept
}

fn change(room: &Room, round: u32) {
    let source = room.source();
    fs::write(source.join("sub/deeper/large"), vec![u8::try_from(round).unwrap(); 100_000])
        .unwrap();
    fs::write(source.join(format!("new {round}")), format!("{round}")).unwrap();
    fs::remove_file(source.join(format!("many/{round}"))).unwrap();
    fs::rename(source.join(format!("many/1{round}")), source.join(format!("moved {round}")))
        .unwrap();
    // Directories become files, files directories.
    fs::remove_file(source.join(format!("many/2{round}"))).unwrap();
    fs::create_dir(source.join(format!("many/2{round}"))).unwrap();
}

#[test]
fn every_backup_of_a_chain_gives_back_its_moment() {
    let mut room = Room::new();
    fill(&room.source());
    let kinds = [
        ArchiveKind::Full,
        ArchiveKind::Incremental,
        ArchiveKind::Incremental,
        ArchiveKind::Differential,
        ArchiveKind::Incremental,
    ];
    let mut made = Vec::new();
    for (round, kind) in (1u32..).zip(kinds) {
        let created = room.create(kind).unwrap();
        made.push((created, keep(&room, &format!("kept {round}"))));
        change(&room, round);
        // Not a moment that a clock's step could hide.
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let needs: Vec<usize> = made.iter().map(|(created, _)| created.sidecar.chain.len()).collect();
    assert_eq!(needs, [0, 1, 2, 1, 2]);
    let full = made[0].0.sidecar.stored.bytes;
    assert!(made[1..].iter().all(|(created, _)| created.sidecar.stored.bytes < full / 10));
    for (round, (created, kept)) in made.iter().enumerate() {
        let chain = room.chain(created);
        chain.verify(&mut Known::default(), Control::default()).unwrap();
        let target = room.target(&format!("restored {round}"), Extent::Whole);
        let outcome = room.restore(created, &target).unwrap();
        assert_same(kept, &target.path);
        assert!(outcome.restored.entries > 200);
        assert!(verify_checksum(&created.path, Control::default()).unwrap().is_some());
    }

    // Nothing goes that another one needs.
    let catalog = Catalog::read(&room.backups()).unwrap();
    let all = catalog.backups();
    assert_eq!(all.len(), 5);
    let error = catalog.delete(&[&all[0]]).unwrap_err();
    assert!(matches!(&error, Error::Needed { needed_by, .. } if needed_by.len() == 4), "{error}");
    catalog.delete(&[&all[0], &all[1], &all[2], &all[3], &all[4]]).unwrap();
    let left: Vec<_> = fs::read_dir(room.backups()).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(left, [room.backups().join(".strongroom-lock")]);
}

#[test]
fn a_chain_with_a_missing_or_another_link_restores_nothing() {
    let mut room = Room::new();
    fill(&room.source());
    let full = room.create(ArchiveKind::Full).unwrap();
    change(&room, 1);
    let incremental = room.create(ArchiveKind::Incremental).unwrap();
    let target = room.target("restored", Extent::Whole);
    let aside = room.directory.path().join("aside");
    fs::rename(&full.path, &aside).unwrap();
    let error = room.restore(&incremental, &target).unwrap_err();
    assert!(matches!(error, Error::MissingLink { .. }), "{error}");
    // Another backup under its name.
    fs::remove_file(room.source().join("old")).unwrap();
    fs::remove_file(name::sidecar_path(&full.path).unwrap()).unwrap();
    let other = room.create(ArchiveKind::Full).unwrap();
    fs::rename(&other.path, &full.path).unwrap();
    let error = room.restore(&incremental, &target).unwrap_err();
    assert!(matches!(error, Error::MissingLink { .. }), "{error}");
    assert!(!target.path.exists());
    // The right one is found by its name, its notes lost.
    fs::rename(&aside, &full.path).unwrap();
    room.restore(&incremental, &target).unwrap();
}

#[test]
fn a_backup_is_not_replaced_by_its_own_restore() {
    let mut room = Room::new();
    fill(&room.source());
    let full = room.create(ArchiveKind::Full).unwrap();
    fs::create_dir(room.backups().join("sub")).unwrap();
    let extents = [Extent::Whole, Extent::Keeping(vec![path("sub")])];
    for extent in extents.iter().chain(&[Extent::Parts(vec![path("backups")])]) {
        let name = if matches!(extent, Extent::Parts(_)) { "." } else { "backups" };
        let failed = room.restore(&full, &room.target(name, extent.clone()));
        assert!(matches!(failed, Err(Error::BackupInTarget { .. })), "{extent:?}");
    }
    let outer = Target { path: room.directory.path().into(), ..room.target("", Extent::Whole) };
    assert!(matches!(room.restore(&full, &outer), Err(Error::BackupInTarget { .. })));
    let beside = room.target("backups", Extent::Missing);
    room.restore(&full, &beside).unwrap();
    assert!(full.path.exists());
}

#[test]
fn damage_in_what_a_backup_needs_is_damage_in_it() {
    let mut room = Room::new();
    fill(&room.source());
    // Nothing that compresses, so that the damage is of content.
    let noise: Vec<u8> = (0..250_000).flat_map(|_| crate::crypto::random_array::<32>()).collect();
    fs::write(room.source().join("noise"), noise).unwrap();
    let full = room.create(ArchiveKind::Full).unwrap();
    change(&room, 1);
    let later = room.create(ArchiveKind::Incremental).unwrap();
    let mut known = Known::default();
    verify_whole(&room.chain(&later), &mut known, Control::default()).unwrap();
    assert_eq!(known.0.len(), 2);
    let mut bytes = fs::read(&full.path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&full.path, bytes).unwrap();
    // Also for the next one that needs it.
    let mut known = Known::default();
    for _ in 0..2 {
        assert!(verify_whole(&room.chain(&later), &mut known, Control::default()).is_err());
    }
}

/// A restore that stopped half-way has what it replaced in a directory that is in no backup.
#[test]
fn no_backup_of_what_is_half_restored() {
    let mut room = Room::new();
    fill(&room.source());
    for place in ["", "sub/"] {
        let staging = room.source().join(format!("{place}.strongroom-restore-1"));
        fs::create_dir_all(staging.join("old")).unwrap();
        // One that has nothing to bring back is left out.
        room.create(ArchiveKind::Full).unwrap();
        fs::write(staging.join("journal.json"), "{\"steps\": []}").unwrap();
        match room.create(ArchiveKind::Full) {
            Err(Error::HalfRestored(path)) => assert_eq!(path, staging),
            other => panic!("{other:?}"),
        }
        let exclude = Terms::new(&[".strongroom-restore-*".into()], &[]).unwrap();
        let filter = Filter { exclude, ..Filter::default() };
        room.create_with(ArchiveKind::Full, &filter, Details::default()).unwrap();
        fs::remove_dir_all(staging).unwrap();
    }
}

#[test]
fn what_others_may_need_is_not_deleted() {
    let mut room = Room::new();
    fill(&room.source());
    let full = room.create(ArchiveKind::Full).unwrap();
    let later = room.create(ArchiveKind::Incremental).unwrap();
    fs::remove_file(name::sidecar_path(&later.path).unwrap()).unwrap();
    let catalog = Catalog::read(&room.backups()).unwrap();
    let [first, second] = catalog.backups() else { panic!("two backups") };
    assert!(matches!(catalog.delete(&[first]), Err(Error::Needed { .. })));
    assert!(full.path.exists());
    catalog.delete(&[first, second]).unwrap();
    assert!(!full.path.exists() && !later.path.exists());
}

#[test]
fn leftovers_of_a_killed_backup_go() {
    let room = Room::new();
    let leftover = room.backups().join(format!("{}x", crate::archive::PARTIAL_PREFIX));
    fs::create_dir(&leftover).unwrap();
    fs::write(leftover.join("sealed.tar.zst.enc"), "").unwrap();
    fs::write(room.backups().join(format!("{}y", crate::archive::PARTIAL_PREFIX)), "").unwrap();
    drop(Lock::take(&room.backups()).unwrap());
    assert_eq!(fs::read_dir(room.backups()).unwrap().count(), 1, "only the lock");
}

#[test]
fn parts_and_what_is_missing() {
    let mut room = Room::new();
    fill(&room.source());
    let full = room.create(ArchiveKind::Full).unwrap();
    let chain = room.chain(&full);
    // A later name of a file whose first one is not asked for.
    let target = room.target("restored", Extent::Parts(vec![path("sub-b"), path("many/7")]));
    let select = |_: &SectionName, at: &TreePath, _: EntryKind| {
        at.is_within(&path("sub-b")) || *at == path("many/7")
    };
    let targets = [target.clone()];
    let mut wanted = request(&chain, &targets);
    wanted.selection = Selection::Some(&select);
    restore(&wanted, &mut |_| Ok(())).unwrap();
    let read = |name: &str| fs::read_to_string(target.path.join(name));
    assert_eq!(read("sub-b/third").unwrap(), "three names");
    assert_eq!(read("many/7").unwrap(), "file 7");
    assert!(!target.path.join("first").exists() && !target.path.join("many/8").exists());

    fs::write(target.path.join("many/7"), "mine").unwrap();
    fs::write(target.path.join("own"), "mine").unwrap();
    let missing = Target { extent: Extent::Missing, ..target.clone() };
    let outcome = room.restore(&full, &missing).unwrap();
    assert!(outcome.placed.skipped > 0 && outcome.placed.replaced == 0);
    assert_eq!((read("many/7").unwrap(), read("own").unwrap()), ("mine".into(), "mine".into()));
    assert_eq!(read("many/8").unwrap(), "file 8");
}

#[test]
fn refused_or_failed_leaves_the_target_as_it_was() {
    let mut room = Room::new();
    fill(&room.source());
    let full = room.create(ArchiveKind::Full).unwrap();
    let target = room.target("restored", Extent::Whole);
    fs::create_dir(&target.path).unwrap();
    fs::write(target.path.join("mine"), "mine").unwrap();
    let untouched = || {
        let names: Vec<_> =
            fs::read_dir(&target.path).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["mine"]);
        let beside: Vec<_> = fs::read_dir(room.directory.path())
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.starts_with('.'))
            .collect();
        assert!(beside.is_empty(), "{beside:?}");
    };
    let chain = room.chain(&full);
    let targets = [target.clone()];
    let mut wanted = request(&chain, &targets);
    wanted.replace = false;
    assert!(matches!(restore(&wanted, &mut |_| Ok(())), Err(Error::NotEmpty(_))));
    untouched();
    wanted.replace = true;
    let mut asked = 0;
    let refused = restore(&wanted, &mut |replaced| {
        asked += replaced.len();
        Err(Error::Cancelled)
    });
    assert!(matches!(refused, Err(Error::Cancelled)) && asked == 1);
    untouched();

    // Damage anywhere.
    let bytes = fs::read(&full.path).unwrap();
    for at in (5000..bytes.len()).step_by(bytes.len() / 7) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 4;
        fs::write(&full.path, damaged).unwrap();
        room.restore(&full, &target).unwrap_err();
        assert!(matches!(verify_checksum(&full.path, Control::default()), Err(Error::Checksum(_))));
        untouched();
    }
    fs::write(&full.path, &bytes[..bytes.len() - 100]).unwrap();
    room.restore(&full, &target).unwrap_err();
    untouched();
    fs::write(&full.path, &bytes).unwrap();
    room.restore(&full, &target).unwrap();
    assert_same(&room.source(), &target.path);
}

/// What is restored is looked at on its way, and searched for stores only where it may hold some.
#[test]
fn stores_of_every_kind_are_checked() {
    let mut room = Room::new();
    let target = room.target("restored", Extent::Whole);
    let found = |room: &mut Room| {
        let created = room.create(ArchiveKind::Full).unwrap();
        let restored = room.restore(&created, &target).unwrap().stores;
        let tried = test_restore(&room.chain(&created), room.directory.path(), Control::default());
        assert_eq!(tried.unwrap().len(), restored.len());
        restored.into_iter().map(|one| format!("{} {}", one.path, one.kind)).collect::<Vec<_>>()
    };
    assert_eq!(found(&mut room), [""; 0]);
    let source = room.source();
    // Known by its name alone.
    fs::create_dir(source.join("level")).unwrap();
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/stores/leveldb");
    for file in fs::read_dir(fixture).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), source.join("level").join(file.file_name())).unwrap();
    }
    assert_eq!(found(&mut room), ["level LevelDB"]);
    fs::remove_dir_all(source.join("level")).unwrap();
    // One that is not read whole, one with holes.
    let database = rusqlite::Connection::open(source.join("large.db")).unwrap();
    database.execute_batch("create table t (x); insert into t values (zeroblob(3e6));").unwrap();
    drop(database);
    assert_eq!(found(&mut room), ["large.db SQLite"]);
    let dense = fs::read(source.join("large.db")).unwrap();
    fs::remove_file(source.join("large.db")).unwrap();
    let sparse = fs::File::create(source.join("sparse.db")).unwrap();
    for (page, data) in dense.chunks(4096).enumerate().filter(|(_, data)| data != &[0; 4096]) {
        std::os::unix::fs::FileExt::write_all_at(&sparse, data, page as u64 * 4096).unwrap();
    }
    sparse.set_len(dense.len() as u64).unwrap();
    assert_eq!(found(&mut room), ["sparse.db SQLite"]);
}

/// Left out with every name that they have.
#[test]
fn devices_of_several_names_are_left_out() {
    if !is_root() {
        eprintln!("not run: device files are made by root alone");
        return;
    }
    let mut room = Room::new();
    let source = room.source();
    let name = |name: &str| source.join(name);
    let mode = rustix::fs::Mode::RUSR;
    let (kind, null) = (rustix::fs::FileType::CharacterDevice, rustix::fs::makedev(1, 3));
    rustix::fs::mknodat(rustix::fs::CWD, name("device"), kind, mode, null).unwrap();
    fs::hard_link(name("device"), name("device again")).unwrap();
    fs::write(name("file"), "text").unwrap();
    fs::hard_link(name("file"), name("file again")).unwrap();
    let created = room.create(ArchiveKind::Full).unwrap();
    let later = |_: &SectionName, path: &TreePath, _: EntryKind| {
        path.is_root() || path.as_bytes().ends_with(b"again")
    };
    for (number, (selection, left_out)) in
        [(Selection::Everything, 2), (Selection::Some(&later), 1)].into_iter().enumerate()
    {
        let target = room.target(&format!("restored {number}"), Extent::Whole);
        let chain = room.chain(&created);
        let targets = [target.clone()];
        let wanted = RestoreRequest { selection, devices: false, ..request(&chain, &targets) };
        let outcome = restore(&wanted, &mut |_| Ok(())).unwrap();
        assert_eq!(outcome.restored.devices, left_out);
        assert_eq!(fs::read(target.path.join("file again")).unwrap(), b"text");
        assert!(!target.path.join("device again").exists());
    }
}

#[test]
fn a_damaged_store_is_not_put_in_place() {
    let mut room = Room::new();
    let database = rusqlite::Connection::open(room.source().join("app.db")).unwrap();
    database.execute_batch("create table t (x); insert into t values (zeroblob(50000));").unwrap();
    drop(database);
    let sound = room.create(ArchiveKind::Full).unwrap();
    let target = room.target("restored", Extent::Whole);
    let outcome = room.restore(&sound, &target).unwrap();
    assert_eq!(outcome.stores.len(), 1);
    let mut bytes = fs::read(room.source().join("app.db")).unwrap();
    bytes[4096..4200].fill(0xff);
    fs::write(room.source().join("app.db"), bytes).unwrap();
    let damaged = room.create(ArchiveKind::Full).unwrap();
    let error = room.restore(&damaged, &target).unwrap_err();
    assert!(matches!(error, Error::StoreDamaged { .. }), "{error}");
    assert!(
        test_restore(&room.chain(&damaged), room.directory.path(), Control::default()).is_err()
    );
    test_restore(&room.chain(&sound), room.directory.path(), Control::default()).unwrap();
    rusqlite::Connection::open(target.path.join("app.db"))
        .unwrap()
        .query_row("select count(*) from t", [], |row| row.get::<_, i64>(0))
        .unwrap();
}

#[test]
fn what_is_left_out_is_not_in_it() {
    let mut room = Room::new();
    fill(&room.source());
    let exclude = Terms::new(&["many,*.log".into(), "sub/deeper".into()], &[]).unwrap();
    let filter = Filter { exclude, ..Filter::default() };
    let details = Details { tag: Some("a tag".into()), ..Details::default() };
    let created = room.create_with(ArchiveKind::Full, &filter, details).unwrap();
    assert_eq!(created.sidecar.tag.as_deref(), Some("a tag"));
    let target = room.target("restored", Extent::Whole);
    room.restore(&created, &target).unwrap();
    assert!(target.path.join("sub/one byte").exists());
    assert!(!target.path.join("many").exists() && !target.path.join("sub/deeper").exists());
    // What a tree's writer would be given.
    let _: &dyn TreeWriter = &LocalTree::open(&target.path).unwrap();
    let details = Details::of(room.chain(&created).reader().metadata()).unwrap();
    assert_eq!(details.source(&SectionName::data()), Some(room.source()));
}

#[test]
fn one_at_a_time() {
    let mut room = Room::new();
    let lock = Lock::take(&room.backups()).unwrap();
    assert!(matches!(room.create(ArchiveKind::Full), Err(Error::Locked(_))));
    drop(lock);
    room.create(ArchiveKind::Full).unwrap();
}

#[test]
fn secrets_are_sealed_in_what_is_not() {
    let mut room = Room::new();
    room.plain = true;
    fill(&room.source());
    fs::write(room.source().join(".env"), "API_KEY=plain-to-see").unwrap();
    fs::write(room.source().join("sub/deeper/a.pem"), "plain-to-see as well").unwrap();
    let full = room.create(ArchiveKind::Full).unwrap();
    change(&room, 1);
    let later = room.create(ArchiveKind::Incremental).unwrap();
    for created in [&full, &later] {
        assert!(!created.sidecar.sealed);
        let listed = std::process::Command::new("tar")
            .args(["--zstd", "-xOf"])
            .arg(&created.path)
            .output()
            .unwrap();
        let seen = |text: &[u8]| listed.stdout.windows(text.len()).any(|part| part == text);
        assert!(seen(b"file 42") || created.path == later.path);
        assert!(!seen(b"plain-to-see"));
    }
    let chain = room.chain(&later);
    test_restore(&chain, room.directory.path(), Control::default()).unwrap();
    let target = room.target("restored", Extent::Whole);
    room.restore(&later, &target).unwrap();
    assert_same(&room.source(), &target.path);
    // Only one of them.
    let target = room.target("part", Extent::Parts(vec![path(".env")]));
    let select = |_: &SectionName, at: &TreePath, _: EntryKind| *at == path(".env");
    let targets = [target.clone()];
    let mut wanted = request(&chain, &targets);
    wanted.selection = Selection::Some(&select);
    restore(&wanted, &mut |_| Ok(())).unwrap();
    assert_eq!(fs::read_dir(&target.path).unwrap().count(), 1);
    // With its secret they are in what it holds, and are verified with it.
    let listed = |ring: &Keyring| {
        let chain = Chain::open(&later.path, ring).unwrap();
        let mut found = 0;
        let mut take = |_: &SectionName, at: &TreePath| found += usize::from(*at == path(".env"));
        chain.each(Control::default(), &mut take).unwrap();
        verify_whole(&chain, &mut Known::default(), Control::default()).unwrap();
        found
    };
    assert_eq!((listed(&room.ring), listed(&Keyring::new())), (1, 0));
    // Without the secret nothing is restored.
    let ring = Keyring::new();
    let chain = Chain::open(&later.path, &ring).unwrap();
    let targets = [room.target("never", Extent::Whole)];
    assert!(restore(&request(&chain, &targets), &mut |_| Ok(())).is_err());
    assert!(!targets[0].path.exists());
}

#[test]
fn what_was_asked_for_and_is_not_there_makes_no_backup() {
    let mut room = Room::new();
    fill(&room.source());
    let include = Terms::new(&["nothing-of-that-name".into()], &[]).unwrap();
    let filter = Filter { include, ..Filter::default() };
    let failed = room.create_with(ArchiveKind::Full, &filter, Details::default());
    assert!(matches!(failed, Err(Error::NoSuchComponent(_))));
    assert!(Catalog::read(&room.backups()).unwrap().backups().is_empty());
}

/// A database that is written to while it is backed up, and one that changed only in its log.
#[test]
fn live_stores_are_copied() {
    let room = Room::new();
    let source = room.source();
    let database = rusqlite::Connection::open(source.join("app.db")).unwrap();
    database
        .execute_batch(
            "pragma journal_mode=wal; create table t (x); insert into t values (1), (2);",
        )
        .unwrap();
    fs::write(source.join("notes"), "notes").unwrap();
    let before = LocalTree::open(&source).unwrap();
    let before = crate::tree::TreeReader::entry(&before, &TreePath::root()).unwrap().metadata;
    let components = crate::stores::scan(&source).unwrap().components;
    let live = LiveTree::new(&source, &components, None).unwrap();
    assert_eq!(live.copied(), 1);
    database.execute_batch("insert into t values (3);").unwrap();
    let copied = room.directory.path().join("copied");
    fs::create_dir(&copied).unwrap();
    let target = LocalTree::open(&copied).unwrap();
    crate::tree::copy(&live, &target, &crate::tree::CopyOptions::default(), &|_| Ok(())).unwrap();
    let mut names: Vec<_> =
        fs::read_dir(&copied).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["app.db", "notes"]);
    let rows: i64 = rusqlite::Connection::open(copied.join("app.db"))
        .unwrap()
        .query_row("select count(*) from t", [], |row| row.get(0))
        .unwrap();
    assert_eq!(rows, 2);
    drop(live);
    assert!(
        fs::read_dir(&source).unwrap().all(|e| !e
            .unwrap()
            .file_name()
            .to_string_lossy()
            .starts_with(".strongroom"))
    );
    let after = LocalTree::open(&source).unwrap();
    let after = crate::tree::TreeReader::entry(&after, &TreePath::root()).unwrap().metadata;
    assert_eq!(before.modified, after.modified);
}
