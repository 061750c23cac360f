//! The journal's promises where several write at once, and after a step of its own failed.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::test_disk::{Disk, ROOT, content};
use super::tests::CALLER;
use super::*;
use crate::backing::fault::{Fault, Moment, Operation};

/// Time for a thread to come to where it waits.
const MOMENT: Duration = Duration::from_millis(50);

/// A file whose content is durable and of which nothing is in the journal.
fn file(fs: &FileSystem, name: &[u8], content: &[u8]) -> InodeNumber {
    let ino = fs.create(&CALLER, ROOT, name, 0o600).unwrap().attributes.ino;
    fs.release(ino);
    fs.write(ino, 0, content).unwrap();
    fs.sync_all().unwrap();
    ino
}

/// Lets writes below go on one by one.
#[derive(Default)]
struct Turnstile {
    /// How many came, and how many may go on.
    counts: Mutex<(u64, u64)>,
    changed: Condvar,
}

impl Turnstile {
    fn pass(&self) {
        let mut counts = self.counts.lock();
        let mine = counts.0;
        counts.0 += 1;
        self.changed.notify_all();
        self.changed.wait_while(&mut counts, |(_, go)| *go <= mine);
    }

    fn wait_for(&self, count: u64) {
        self.changed.wait_while(&mut self.counts.lock(), |(came, _)| *came < count);
    }

    fn let_go(&self, count: u64) {
        self.counts.lock().1 = count;
        self.changed.notify_all();
    }
}

/// A record is placed while a sync waits for the one before it, and written while that sync runs,
/// which need not have covered it.
#[test]
fn a_record_written_during_a_sync_of_others_is_synced_itself() {
    let disk = Disk::new();
    let fs = disk.open();
    let files = [file(&fs, b"a", &[1; 8192]), file(&fs, b"b", &[1; 8192])];
    let turnstile = Arc::new(Turnstile::default());
    let writes = turnstile.clone();
    disk.faults.watch(move |operation, moment| {
        if (operation, moment) == (Operation::Write, Moment::Before) {
            writes.pass();
        }
    });
    std::thread::scope(|scope| {
        let first = scope.spawn(|| fs.write(files[0], 0, &[2; 4096]).unwrap());
        turnstile.wait_for(1);
        let sync = scope.spawn(|| fs.core().journal().unwrap().commit(u64::MAX).unwrap());
        std::thread::sleep(MOMENT);
        let second = scope.spawn(|| fs.write(files[1], 0, &[2; 4096]).unwrap());
        turnstile.wait_for(2);
        turnstile.let_go(1);
        first.join().unwrap();
        sync.join().unwrap();
        turnstile.let_go(u64::MAX);
        second.join().unwrap();
    });
    let syncs = |operation| operation == Operation::SyncData;
    let before = disk.faults.seen(syncs);
    fs.sync(files[1], true).unwrap();
    assert_eq!(disk.faults.seen(syncs) - before, 1);
    disk.faults.disarm();
    fs.close().unwrap();
}

/// The segment that was to be emptied stays the one that is written to; it must not be retired.
#[test]
fn a_segment_that_has_no_successor_yet_is_not_emptied() {
    let disk = Disk::new();
    let fs = disk.open();
    let ino = file(&fs, b"file", &[1; 8192]);
    fs.write(ino, 0, &[2; 4096]).unwrap();
    fs.sync(ino, true).unwrap();
    disk.faults.arm(Fault::once(|operation| operation == Operation::Write, libc::EIO));
    assert!(fs.core().journal().unwrap().fill_active().is_err());
    disk.faults.disarm();
    fs.core().checkpoint_filled(|_| false).unwrap();
    fs.write(ino, 4096, &[3; 4096]).unwrap();
    fs.sync(ino, true).unwrap();
    drop(fs);
    let fs = disk.open();
    assert!(content(&fs, b"file") == [[2; 4096], [3; 4096]].concat());
    fs.close().unwrap();
}

/// Much in the journal is on its way to the disk before anybody asks: else who writes faster than the
/// disk takes it waits for all of it at once.
#[test]
fn much_in_the_journal_is_made_durable_unasked() {
    const LONG: Duration = Duration::from_secs(60);
    let disk = Disk::new();
    let fs = disk.open();
    let part = vec![7; 1 << 20];
    let ino = file(&fs, b"file", &[]);
    for number in 0..9 {
        fs.write(ino, number << 20, &part).unwrap();
    }
    fs.sync_all().unwrap();
    let (synced, seen) = crossbeam_channel::unbounded();
    disk.faults.watch(move |operation, moment| {
        let name = std::thread::current().name().map(str::to_owned);
        if (operation, moment) == (Operation::SyncData, Moment::After) {
            // Nobody looks any more at the end.
            let _ = synced.send(name);
        }
    });
    for number in 0..9 {
        fs.write(ino, number << 20, &part).unwrap();
    }
    let ahead = || seen.recv_timeout(LONG).unwrap().as_deref() == Some("strongroom-sync");
    while !ahead() {}
    disk.faults.disarm();
    fs.close().unwrap();
}
