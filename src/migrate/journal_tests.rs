#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use super::*;
use crate::backing::os::OsDirectory;
use crate::migrate::operations::Unwatched;
use crate::migrate::record::{
    Commands, Identity, LedgerReference, Origin, Snapshot, SwitchMode, Switching,
};

const VAULT: VaultId = [3; 16];

fn begun() -> Begun {
    Begun {
        version: "0".to_owned(),
        source: Path::new("/srv/secret-name").into(),
        identity: Identity { inode: 7, born: Some(-5) },
        names: Vec::new(),
        mount_point: Path::new("/mnt/\u{e9}").into(),
        makes_mount_point: true,
        mode: SwitchMode::Repoint,
        exclude: vec!["*.tmp".to_owned()],
        configs: Vec::new(),
        sets: Vec::new(),
        reading: crate::migrate::Reading::default(),
        keep_originals: false,
        wipe_agreed: true,
        accept_damage: false,
        commands: Commands::default(),
    }
}

fn ledger() -> LedgerReference {
    LedgerReference { stream: "00".repeat(16), entries: 1, files: 2, bytes: 3 }
}

struct Fixture {
    directory: tempfile::TempDir,
    key: MigrationKey,
    id: MigrationId,
}

impl Fixture {
    fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
            key: MigrationKey::from_bytes(&[1; 32]),
            id: MigrationId { number: 1, random: 0xabcd },
        }
    }

    fn open_directory(&self) -> Box<dyn Directory> {
        Box::new(OsDirectory::open(self.directory.path()).unwrap())
    }

    fn create(&self) -> Result<Journal> {
        let hands = Hands::new(Arc::new(Unwatched));
        let path = self.directory.path();
        Journal::create(self.open_directory(), path, hands, &self.key, (VAULT, self.id), begun())
    }

    fn open_as(&self, key: &MigrationKey, vault: VaultId, id: MigrationId) -> Result<Journal> {
        let hands = Hands::new(Arc::new(Unwatched));
        Journal::open(self.open_directory(), self.directory.path(), hands, key, (vault, id))
    }

    fn open(&self) -> Result<Journal> {
        self.open_as(&self.key, VAULT, self.id)
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("journal")
    }
}

#[test]
fn records_come_back() {
    let fixture = Fixture::new();
    let mut journal = fixture.create().unwrap();
    journal.append(Record::Surveyed(ledger())).unwrap();
    journal.append(Record::RollingBack(Origin::Originals)).unwrap();
    let opened = fixture.open().unwrap();
    assert_eq!(opened.state().phase, Phase::RollingBack);
    assert_eq!(opened.state().begun, begun());
    assert_eq!(opened.state().source, Some(ledger()));
    assert_eq!(opened.state().origin, Some(Origin::Originals));
    let header = peek(&*fixture.open_directory()).unwrap().unwrap();
    assert_eq!((header.sequence, header.phase), (3, Phase::RollingBack));
    assert!(fixture.create().is_err(), "a journal is never begun twice");
}

#[test]
fn nothing_of_the_plaintext_is_readable() {
    let fixture = Fixture::new();
    fixture.create().unwrap();
    let bytes = std::fs::read(fixture.file()).unwrap();
    for secret in ["secret-name", "/srv", "/mnt", "tmp"] {
        assert!(!bytes.windows(secret.len()).any(|part| part == secret.as_bytes()), "{secret}");
    }
}

#[test]
fn every_changed_byte_and_every_cut_is_seen() {
    let fixture = Fixture::new();
    let mut journal = fixture.create().unwrap();
    journal.append(Record::Surveyed(ledger())).unwrap();
    let good = std::fs::read(fixture.file()).unwrap();
    let refused = |bytes: &[u8], what: &str| {
        std::fs::write(fixture.file(), bytes).unwrap();
        assert!(matches!(fixture.open(), Err(Error::JournalDamaged { .. })), "{what}");
    };
    for at in 0..good.len() {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        refused(&bytes, &format!("byte {at} changed"));
        refused(&good[..at], &format!("cut at {at}"));
    }
    let mut longer = good.clone();
    longer.push(0);
    refused(&longer, "a byte more");
    std::fs::write(fixture.file(), &good).unwrap();
    fixture.open().unwrap();
}

#[test]
fn bound_to_key_vault_and_migration() {
    let fixture = Fixture::new();
    fixture.create().unwrap();
    let other_key = MigrationKey::from_bytes(&[2; 32]);
    let other_id = MigrationId { number: 1, random: 0xabce };
    for outcome in [
        fixture.open_as(&other_key, VAULT, fixture.id),
        fixture.open_as(&fixture.key, [4; 16], fixture.id),
        fixture.open_as(&fixture.key, VAULT, other_id),
    ] {
        assert!(matches!(outcome, Err(Error::JournalDamaged { .. })));
    }
}

#[test]
fn a_leftover_of_a_crash_is_no_hindrance() {
    let fixture = Fixture::new();
    let mut journal = fixture.create().unwrap();
    std::fs::write(fixture.directory.path().join("journal.new"), b"torn").unwrap();
    assert_eq!(fixture.open().unwrap().state().phase, Phase::Begun);
    journal.append(Record::Surveyed(ledger())).unwrap();
    assert_eq!(fixture.open().unwrap().state().phase, Phase::Surveyed);
}

#[test]
#[should_panic(expected = "cannot follow")]
fn a_step_out_of_order_is_a_defect() {
    let mut journal = Fixture::new().create().unwrap();
    let _ = journal.append(Record::Wiping(Path::new("/srv").into()));
}

#[test]
fn ids_have_one_form() {
    let id = MigrationId { number: 12, random: 0xdead_beef };
    assert_eq!(id.to_string(), "0012-deadbeef");
    assert_eq!("0012-deadbeef".parse(), Ok(id));
    for bad in ["", "12-deadbeef", "0012-DEADBEEF", "0012-deadbee", "+012-deadbeef", "0012", "../x"]
    {
        assert_eq!(bad.parse::<MigrationId>(), Err(IdError), "{bad}");
    }
    assert!(MigrationId { number: 2, random: 0 } > MigrationId { number: 1, random: u32::MAX });
}

/// The wipe can be recorded only after a verification and a switch.
#[test]
fn no_order_of_records_wipes_what_was_not_verified() {
    use proptest::prelude::*;
    let all = [
        Record::Stopping,
        Record::Surveyed(ledger()),
        Record::Copying,
        Record::Copied,
        Record::Verified,
        Record::Restarted,
        Record::Switching(Switching::default()),
        Record::Switched,
        Record::Accepted,
        Record::Wiping(Path::new("/srv").into()),
        Record::Wiped,
        Record::Kept(Path::new("/srv").into()),
        Record::Snapshotted(Snapshot { path: Path::new("/s").into(), bytes: 1 }),
    ];
    let reached = std::sync::atomic::AtomicBool::new(false);
    proptest!(|(picks in prop::collection::vec(0..all.len(), 0..4000))| {
        let mut state =
            State::from_records(&[Record::Begun(Box::new(begun()))]).unwrap();
        for pick in picks {
            let before = state.clone();
            if state.apply(&all[pick]).is_none() {
                state = before;
                continue;
            }
            if state.phase == Phase::Wiping {
                reached.store(true, std::sync::atomic::Ordering::Relaxed);
                prop_assert!(state.verified && state.switched && state.snapshot.is_some());
            }
        }
    });
    assert!(reached.into_inner(), "the property was tried on a wipe");
}

/// What could not be read again is not written.
#[test]
fn a_journal_that_grows_too_large_stays_as_it_was() {
    let fixture = Fixture::new();
    let mut journal = fixture.create().unwrap();
    journal.limit = 4096;
    let path = PathBuf::from("/".repeat(5000));
    journal.append(Record::RollingBack(Origin::Originals)).unwrap();
    let restored = crate::migrate::record::Restored {
        path: crate::migrate::record::StoredPath(path),
        identity: Identity { inode: 1, born: None },
        ledger: ledger(),
    };
    let refused = journal.append(Record::Restored(restored));
    assert!(matches!(refused, Err(Error::Io { .. })), "{refused:?}");
    assert!(journal.state().restored.is_none());
    drop(journal);
    assert_eq!(fixture.open().unwrap().state().phase, Phase::RollingBack);
}
