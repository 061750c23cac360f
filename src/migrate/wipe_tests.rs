#![allow(clippy::unwrap_used)]

use std::fs;
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::crypto::MigrationKey;
use crate::migrate::account::Tally;
use crate::migrate::ledger;
use crate::migrate::operations::{Operation, Unwatched, Watch};
use crate::migrate::record::LedgerReference;
use crate::migrate::survey::{SurveyOptions, Unobserved};
use crate::tree::{LocalTree, sample};

struct Fixture {
    directory: tempfile::TempDir,
    key: MigrationKey,
    reference: LedgerReference,
}

fn exclude(path: &TreePath, kind: EntryKind) -> bool {
    kind == EntryKind::Socket || path.as_bytes() == b"cache"
}

/// Lets so many changes pass, then none.
struct Stops {
    left: AtomicUsize,
}

impl Watch for Stops {
    fn before(&self, _: &Operation<'_>) -> io::Result<()> {
        match self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1))
        {
            Ok(_) => Ok(()),
            Err(_) => Err(io::ErrorKind::Interrupted.into()),
        }
    }

    fn after(&self, _: &Operation<'_>) {}
}

impl Fixture {
    fn new(fill: impl FnOnce(&Path)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let key = MigrationKey::from_bytes(&[1; 32]);
        let root = directory.path().join("source");
        fs::create_dir(&root).unwrap();
        fill(&root);
        let tree = LocalTree::open(&root).unwrap();
        let options =
            SurveyOptions { jobs: 2, hash: true, exclude: &exclude, observer: &Unobserved };
        let ledger = directory.path().join("ledger");
        let reference = ledger::write(&ledger, &key, &tree, &options).unwrap();
        Self { directory, key, reference }
    }

    fn root(&self) -> PathBuf {
        self.directory.path().join("source")
    }

    fn wipe(&self, watch: Arc<dyn Watch>, wipeability: Wipeability) -> Result<Account> {
        let hands = Hands::new(watch);
        let wipe = Wipe {
            hands: &hands,
            observer: &Unobserved,
            root: self.root(),
            wipeability,
            sink: &mut |_, _| {},
        };
        let ledger = self.directory.path().join("ledger");
        let account = wipe.run(&|| LedgerReader::open(&ledger, &self.key, &self.reference))?;
        remove_root(&hands, &self.root())?;
        Ok(account)
    }

    fn wipe_all(&self, wipeability: Wipeability) -> Account {
        self.wipe(Arc::new(Unwatched), wipeability).unwrap()
    }
}

#[test]
fn everything_goes_whatever_it_is() {
    for wipeability in [Wipeability::InPlace, Wipeability::BestEffort, Wipeability::Never] {
        let fixture = Fixture::new(sample::fill);
        let mut account = fixture.wipe_all(wipeability);
        assert!(!fixture.root().exists());
        assert_eq!(account.left.files, 0, "{:?}", account.left_paths);
        assert_eq!(account.tally(fate_of(wipeability)).files, fixture.reference.files);
        assert_eq!(account.tally(fate_of(wipeability)).bytes, fixture.reference.bytes);
        // Once more changes nothing, and tells the same.
        assert_eq!(fixture.wipe_all(wipeability), account);
    }
}

/// Reads the blocks through a second name that only the test has.
#[test]
fn content_is_overwritten_where_it_lay() {
    let fixture = Fixture::new(|root| {
        fs::write(root.join("small"), b"the plaintext").unwrap();
        fs::write(root.join("large"), vec![b'p'; 5 << 20]).unwrap();
        fs::set_permissions(root.join("small"), fs::Permissions::from_mode(0o400)).unwrap();
    });
    let held: Vec<_> = ["small", "large"]
        .map(|name| fs::File::open(fixture.root().join(name)).unwrap())
        .into_iter()
        .collect();
    fixture.wipe_all(Wipeability::InPlace);
    for file in held {
        let size = file.metadata().unwrap().size();
        assert!(size >= 13);
        let mut bytes = Vec::new();
        io::Read::read_to_end(&mut &file, &mut bytes).unwrap();
        assert!(!bytes.windows(6).any(|part| part == b"plaint" || part == b"pppppp"));
    }
}

#[test]
fn names_outside_keep_their_content() {
    let fixture = Fixture::new(|root| {
        fs::create_dir(root.join("sub")).unwrap();
        fs::write(root.join("sub/shared"), b"shared").unwrap();
        fs::hard_link(root.join("sub/shared"), root.parent().unwrap().join("outside")).unwrap();
        fs::write(root.join("twice"), b"twice").unwrap();
        fs::hard_link(root.join("twice"), root.join("sub/again")).unwrap();
    });
    let account = fixture.wipe_all(Wipeability::InPlace);
    assert_eq!(account.linked_outside, Tally { files: 1, bytes: 6 });
    assert_eq!(account.overwritten_in_place, Tally { files: 1, bytes: 5 });
    assert_eq!(fs::read(fixture.directory.path().join("outside")).unwrap(), b"shared");
    assert!(!fixture.root().exists());
    assert_eq!(fixture.wipe_all(Wipeability::InPlace), account);
}

/// Gives a file another name right before it is overwritten.
struct Links {
    from: PathBuf,
    to: PathBuf,
}

impl Watch for Links {
    fn before(&self, operation: &Operation<'_>) -> io::Result<()> {
        if operation.change == Change::Overwrite && !self.to.exists() {
            for entry in fs::read_dir(&self.from)? {
                fs::hard_link(entry?.path(), &self.to)?;
            }
        }
        Ok(())
    }

    fn after(&self, _: &Operation<'_>) {}
}

/// A name that a file got outside the tree at the last moment keeps its content, and the account
/// says so.
#[test]
fn names_made_outside_meanwhile_keep_their_content() {
    for twice in [false, true] {
        let fixture = Fixture::new(|root| {
            fs::create_dir(root.join("sub")).unwrap();
            fs::write(root.join("sub/file"), b"content").unwrap();
            if twice {
                fs::hard_link(root.join("sub/file"), root.join("a name")).unwrap();
            }
        });
        let outside = fixture.directory.path().join("outside");
        let watch = Links { from: fixture.root().join("sub"), to: outside.clone() };
        let account = fixture.wipe(Arc::new(watch), Wipeability::InPlace).unwrap();
        assert_eq!(fs::read(&outside).unwrap(), b"content");
        assert_eq!(account.linked_outside, Tally { files: 1, bytes: 7 }, "{twice}");
        assert_eq!(account.overwritten_in_place, Tally::default(), "{twice}");
        assert!(!fixture.root().exists());
    }
}

#[test]
fn what_was_not_verified_stays() {
    let fixture = Fixture::new(|root| {
        for directory in ["cache", "sub"] {
            fs::create_dir(root.join(directory)).unwrap();
        }
        fs::write(root.join("cache/excluded"), b"excluded").unwrap();
        fs::write(root.join("sub/changed"), b"before").unwrap();
        fs::write(root.join("sub/good"), b"good").unwrap();
    });
    fs::write(fixture.root().join("sub/changed"), b"written since").unwrap();
    fs::write(fixture.root().join("sub/new"), b"new").unwrap();
    std::os::unix::fs::symlink("/etc", fixture.root().join("link")).unwrap();
    let account = fixture.wipe_all(Wipeability::InPlace);
    assert_eq!(account.left.files, 1);
    assert_eq!(account.left_paths[0].0.as_bytes(), b"sub/changed");
    assert_eq!(fs::read(fixture.root().join("sub/changed")).unwrap(), b"written since");
    assert_eq!(fs::read(fixture.root().join("sub/new")).unwrap(), b"new");
    assert_eq!(fs::read(fixture.root().join("cache/excluded")).unwrap(), b"excluded");
    assert!(fixture.root().join("link").is_symlink());
    assert!(!fixture.root().join("sub/good").exists());
}

/// Deeper than a process may have files open by default.
#[test]
fn a_deep_tree_goes() {
    let fixture = Fixture::new(|root| {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let mut at = open_directory(root).unwrap();
        for _ in 0..1500 {
            rustix::fs::mkdirat(&at, "d", Mode::RWXU).unwrap();
            at = rustix::fs::openat(&at, "d", flags, Mode::empty()).unwrap();
        }
    });
    fixture.wipe_all(Wipeability::InPlace);
    assert!(!fixture.root().exists());
}

/// A symlink put in a directory's place leads nowhere.
#[test]
fn nothing_is_followed() {
    let fixture = Fixture::new(|root| {
        fs::create_dir(root.join("sub")).unwrap();
        fs::write(root.join("sub/file"), b"same").unwrap();
    });
    let elsewhere = fixture.directory.path().join("elsewhere");
    fs::rename(fixture.root().join("sub"), &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, fixture.root().join("sub")).unwrap();
    fixture.wipe_all(Wipeability::InPlace);
    assert_eq!(fs::read(elsewhere.join("file")).unwrap(), b"same");
}

/// Stopped before every single change, and gone on with: everything goes in the end, and the
/// account is that of a run without interruption.
#[test]
fn interrupted_anywhere_it_goes_on() {
    let fill = |root: &Path| {
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::write(root.join("a/b/one"), b"one").unwrap();
        fs::write(root.join("a/two"), b"two").unwrap();
        fs::hard_link(root.join("a/two"), root.join("three")).unwrap();
        fs::write(root.join("empty"), b"").unwrap();
        std::os::unix::fs::symlink("a", root.join("link")).unwrap();
        fs::hard_link(root.join("a/b/one"), root.parent().unwrap().join("outside")).unwrap();
    };
    let whole = Fixture::new(fill).wipe_all(Wipeability::InPlace);
    let mut stops = 0;
    loop {
        let fixture = Fixture::new(fill);
        let watch = Stops { left: AtomicUsize::new(stops) };
        let interrupted = fixture.wipe(Arc::new(watch), Wipeability::InPlace);
        assert_eq!(fixture.wipe_all(Wipeability::InPlace), whole, "after {stops} changes");
        assert!(!fixture.root().exists());
        assert_eq!(fs::read(fixture.directory.path().join("outside")).unwrap(), b"one");
        if interrupted.is_ok() {
            break;
        }
        assert!(matches!(interrupted, Err(Error::Interrupted)), "{interrupted:?}");
        stops += 1;
    }
    assert!(stops > 10, "the enumeration went through every change: {stops}");
}

/// What is made, in its order.
#[derive(Default)]
struct Notes(parking_lot::Mutex<Vec<Change>>);

impl Watch for Notes {
    fn before(&self, _: &Operation<'_>) -> io::Result<()> {
        Ok(())
    }

    fn after(&self, operation: &Operation<'_>) {
        self.0.lock().push(operation.change);
    }
}

/// However many share a sync, none loses its name before its overwriting is durable; and neither the
/// descriptors nor what waits in memory grow with the tree.
#[test]
fn overwrites_are_durable_before_names_go() {
    let directories = 2 * ENTERED + 10;
    let fixture = Fixture::new(|root| {
        for directory in 0..directories {
            let directory = root.join(directory.to_string());
            fs::create_dir(&directory).unwrap();
            for file in 0..3 {
                fs::write(directory.join(file.to_string()), b"content").unwrap();
            }
        }
        let large = root.join("large");
        fs::create_dir(&large).unwrap();
        for file in 0..70 {
            fs::File::create(large.join(file.to_string())).unwrap().set_len(LARGE).unwrap();
            // A page of data; the rest is a hole, which counts as well.
            fs::File::options()
                .write(true)
                .open(large.join(file.to_string()))
                .unwrap()
                .write_at(b"content", LARGE / 2)
                .unwrap();
        }
    });
    let notes = Arc::new(Notes::default());
    let account = fixture.wipe(Arc::clone(&notes) as Arc<dyn Watch>, Wipeability::InPlace).unwrap();
    assert_eq!(account.overwritten_in_place.files, 3 * directories as u64 + 70);
    assert!(!fixture.root().exists());
    let (mut unsynced, mut since, mut syncs) = (0, 0, 0);
    for change in notes.0.lock().iter() {
        match change {
            Change::Overwrite => (unsynced, since) = (unsynced + 1, since + 1),
            Change::Sync => (unsynced, since, syncs) = (0, 0, syncs + 1),
            Change::Unlink => assert_eq!(unsynced, 0),
            _ => {}
        }
        assert!(since <= 3 * ENTERED + 3, "{since}");
    }
    // Two for the directories, one for the bytes, and those at the end.
    assert!((4..=6).contains(&syncs), "{syncs}");
}
