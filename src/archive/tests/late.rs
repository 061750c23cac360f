//! Keys that come late, or never.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::*;

/// Keys that come only when so many bytes were read, or never.
struct Late<'a> {
    keys: Option<&'a KeySet>,
    read: &'a Counted,
    after: u64,
}

#[derive(Default)]
struct Counted(AtomicU64);

impl crate::tree::Progress for Counted {
    fn bytes(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }
}

impl SealingKeys for Late<'_> {
    fn lend(&self, borrow: &mut dyn FnMut(&KeySet)) -> Result<()> {
        let begun = Instant::now();
        while self.read.0.load(Ordering::Relaxed) < self.after {
            assert!(begun.elapsed() < Duration::from_secs(60), "nothing is read before the keys");
            std::thread::sleep(Duration::from_millis(1));
        }
        borrow(self.keys.ok_or(Error::NoSecret)?);
        Ok(())
    }
}

pub(super) fn noise(seed: u8, length: usize) -> Vec<u8> {
    let mut state = 1 + u64::from(seed) * 0x9E37_79B9;
    let step = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(step).take(length / 8).flatten().collect()
}

/// A tree that does not compress, of this many MiB.
fn source(mib: u8) -> tempfile::TempDir {
    let source = tempfile::tempdir().unwrap();
    for number in 0..mib {
        std::fs::write(source.path().join(format!("{number:03}")), noise(number, 1 << 20)).unwrap();
    }
    source
}

fn write_late(source: &Path, pending: &mut PendingArchive, keys: &Late<'_>) -> Result<Written> {
    let tree = LocalTree::open(source).unwrap();
    let sections =
        [Section { name: SectionName::data(), reader: &tree, exclude: &exclude_nothing }];
    let read_back = ReadBack::Written;
    let options = WriteOptions { progress: keys.read, read_back, ..WriteOptions::default() };
    let about = description(ArchiveKind::Full);
    pending.write(Some(keys), &about, &sections, None, &options)
}

#[test]
fn all_is_read_before_the_keys_are_there() {
    let (source, out) = (source(3), tempfile::tempdir().unwrap());
    let keys = key_set(&passphrase("late"));
    let read = Counted::default();
    let late = Late { keys: Some(&keys), read: &read, after: 3 << 20 };
    let mut pending = PendingArchive::create(out.path()).unwrap();
    write_late(source.path(), &mut pending, &late).unwrap();
    let file = pending.publish("late").unwrap();
    let ring = Keyring::new().with_secret(passphrase("late"));
    let restored = tempfile::tempdir().unwrap();
    extract_all(&ArchiveReader::open(&file, &ring).unwrap(), restored.path()).unwrap();
    assert_equal(source.path(), restored.path());
}

#[test]
fn what_waits_for_the_keys_is_bounded() {
    // What is waiting, in the queue, in the buffers of the compression and those of the reading is
    // below this.
    let (source, out) = (source(160), tempfile::tempdir().unwrap());
    let keys = key_set(&passphrase("late"));
    let read = Counted::default();
    let mut pending = PendingArchive::create(out.path()).unwrap();
    let most = AtomicU64::new(0);
    struct Never<'a>(Late<'a>, &'a AtomicU64);
    impl SealingKeys for Never<'_> {
        fn lend(&self, borrow: &mut dyn FnMut(&KeySet)) -> Result<()> {
            self.0.lend(&mut |_| ())?;
            // Until nothing moves any more.
            let now = || self.0.read.0.load(Ordering::Relaxed);
            let mut before = 0;
            while before != now() {
                before = now();
                std::thread::sleep(Duration::from_millis(500));
            }
            // The first time: whoever reads back asks for them, too.
            let _ = self.1.compare_exchange(0, before, Ordering::Relaxed, Ordering::Relaxed);
            self.0.lend(borrow)
        }
    }
    let late = Never(Late { keys: Some(&keys), read: &read, after: 64 << 20 }, &most);
    let tree = LocalTree::open(source.path()).unwrap();
    let sections =
        [Section { name: SectionName::data(), reader: &tree, exclude: &exclude_nothing }];
    let threads = std::num::NonZeroUsize::new(2);
    let read_back = ReadBack::Written;
    let options = WriteOptions { progress: &read, threads, read_back, ..WriteOptions::default() };
    let about = description(ArchiveKind::Full);
    pending.write(Some(&late), &about, &sections, None, &options).unwrap();
    assert!(most.load(Ordering::Relaxed) < 120 << 20);
}

#[test]
fn without_keys_there_is_no_archive() {
    let out = tempfile::tempdir().unwrap();
    for (mib, after) in [(0, 0), (3, 0), (3, 3 << 20)] {
        let source = source(mib);
        let read = Counted::default();
        let late = Late { keys: None, read: &read, after };
        let mut pending = PendingArchive::create(out.path()).unwrap();
        let written = write_late(source.path(), &mut pending, &late);
        assert!(matches!(written, Err(Error::NoSecret)), "{written:?}");
        // Nothing of the source is there, sealed or not.
        assert_eq!(std::fs::metadata(pending.path()).unwrap().len(), 0);
        drop(pending);
        assert_eq!(std::fs::read_dir(out.path()).unwrap().count(), 0);
    }
}

#[test]
fn a_source_that_fails_leaves_nothing() {
    let (source, out) = (source(1), tempfile::tempdir().unwrap());
    let keys = key_set(&passphrase("late"));
    let cancelled = std::sync::atomic::AtomicBool::new(true);
    let tree = LocalTree::open(source.path()).unwrap();
    let sections =
        [Section { name: SectionName::data(), reader: &tree, exclude: &exclude_nothing }];
    let options = WriteOptions { cancelled: &cancelled, ..WriteOptions::default() };
    let about = description(ArchiveKind::Full);
    let mut pending = PendingArchive::create(out.path()).unwrap();
    let written = pending.write(Some(&keys), &about, &sections, None, &options);
    assert!(matches!(written, Err(Error::Cancelled)));
    // Perhaps the header, for which the keys were at hand.
    assert!(std::fs::metadata(pending.path()).unwrap().len() < 4096);
    drop(pending);
    assert_eq!(std::fs::read_dir(out.path()).unwrap().count(), 0);
}
