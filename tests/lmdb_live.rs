//! A consistent copy of an LMDB environment while a process writes to it.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use heed::types::Bytes;
use heed::{CommitOrAbort, Database, Env, EnvOpenOptions};
use strongroom::stores::{CheckOptions, Component, Outcome, StoreKind, check, copy_live, scan};

type Table<'a> = Database<'a, Bytes, Bytes>;

fn open(path: &Path) -> Env {
    let mut options = EnvOpenOptions::new();
    options.map_size(64 << 20);
    // SAFETY: the directories are this test's own, and nothing but LMDB changes their files.
    #[allow(unsafe_code)]
    unsafe { options.open(path) }.unwrap()
}

fn only_component(root: &Path) -> Component {
    let mut components = scan(root).unwrap().components;
    assert_eq!(components.len(), 1);
    assert_eq!(components[0].kind, StoreKind::Lmdb);
    components.remove(0)
}

fn key(number: u32) -> [u8; 4] {
    number.to_be_bytes()
}

/// Gives all of a stripe the same value, in one transaction.
fn write(environment: &Env, value: u8, step: usize) {
    let transaction = environment.write_txn().unwrap();
    environment
        .create_databases_and_commit(transaction, |opener, transaction| {
            let table: Table<'_> = opener.create_database(transaction, None)?;
            for number in (0..2000u32).step_by(step) {
                table.put(transaction, &key(number), &[value; 500])?;
            }
            Ok::<_, heed::Error>(CommitOrAbort::<_, ()>::Commit(table))
        })
        .unwrap();
}

fn stripe(environment: &Env) -> (u64, Vec<u8>) {
    let transaction = environment.read_txn().unwrap();
    let table: Table<'_> = environment
        .open_databases_and_commit(transaction, |opener, transaction| {
            opener.open_database(transaction, None).map(CommitOrAbort::<_, ()>::Commit)
        })
        .unwrap()
        .unwrap_commit()
        .unwrap();
    let transaction = environment.read_txn().unwrap();
    let values = (0..2000u32)
        .step_by(20)
        .map(|number| table.get(&transaction, &key(number)).unwrap().unwrap()[0])
        .collect();
    (table.len(&transaction).unwrap(), values)
}

/// Sets a flag when it goes.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn every_copy_is_one_state() {
    let room = tempfile::tempdir().unwrap();
    let (root, out) = (room.path().join("root"), room.path().join("out"));
    std::fs::create_dir_all(&root).unwrap();
    std::fs::create_dir_all(&out).unwrap();
    let environment = open(&root);
    write(&environment, 0, 1);
    let stop = AtomicBool::new(false);
    // How often was written since the last copy: the pauses grow until one is long enough for a
    // copy, however slow the machine.
    let since = AtomicU32::new(0);
    std::thread::scope(|scope| {
        // Also where the test fails.
        let _stopped = Stop(&stop);
        let writer = scope.spawn(|| {
            let mut rounds = 0u64;
            while !stop.load(Ordering::Relaxed) {
                rounds += 1;
                write(&environment, u8::try_from(rounds % 251).unwrap(), 20);
                let pauses = since.fetch_add(1, Ordering::Relaxed) + 1;
                std::thread::sleep(pauses * Duration::from_millis(15));
            }
            rounds
        });
        for number in 0..20 {
            let place = out.join(number.to_string());
            std::fs::create_dir(&place).unwrap();
            let component = only_component(&root);
            let copy = place.join("data.mdb");
            let made = copy_live(&root, &component, &copy).unwrap().unwrap();
            since.store(0, Ordering::Relaxed);
            assert_eq!(made.file, Path::new("data.mdb"));
            assert_eq!(made.replaced, [PathBuf::from("lock.mdb")]);
            let copied = only_component(&place);
            let report = check(&place, &copied, &CheckOptions::default()).unwrap();
            assert_eq!(report.outcome, Outcome::Sound, "{report:?}");
            let copied = open(&place);
            let (len, mut values) = stripe(&copied);
            values.dedup();
            assert_eq!((len, values.len()), (2000, 1), "two states in one copy");
            // A copy can be written to.
            write(&copied, 7, 20);
            assert_eq!(stripe(&copied).1[0], 7);
            copied.prepare_for_closing().wait();
        }
        stop.store(true, Ordering::Relaxed);
        assert!(writer.join().unwrap() > 0);
    });
}
