//! Archives that are read back while they are written.

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::super::growing::Growth;
use super::super::pipe::PLAIN_BUFFER;
use super::super::read::ArchiveReader;
use super::damage::sealed;
use super::late::noise;
use super::*;
use crate::format::archive::SEGMENT_LOG2;

const ALL: [Compression; 4] =
    [Compression::None, Compression::Zstd, Compression::Gzip, Compression::Lz4];

/// What is read of a file that gets these pieces, one after the other.
fn read_growing(pieces: &[&[u8]]) -> Result<()> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("growing");
    let mut file = std::fs::File::create(&path).unwrap();
    let growth = Arc::new(Growth::default());
    let keyring = Keyring::new().with_secret(passphrase("secret"));
    std::thread::scope(|scope| {
        let end = growth.end();
        let reading = scope.spawn(|| {
            let file = std::fs::File::open(&path).unwrap();
            let unlock = |header: &_| keyring.unlock(header);
            ArchiveReader::verify_growing(file, &path, &unlock, &growth, Control::default())
        });
        for piece in pieces {
            file.write_all(piece).unwrap();
            growth.add(piece.len() as u64);
            std::thread::yield_now();
        }
        drop(end);
        reading.join().unwrap()
    })
}

/// The header, and what follows in pieces of these lengths.
fn pieces(bytes: &[u8], header: usize, length: usize) -> Vec<&[u8]> {
    let (header, rest) = bytes.split_at(header);
    std::iter::once(header).chain(rest.chunks(length)).collect()
}

fn header_len(bytes: &[u8]) -> usize {
    crate::format::archive::header_len(bytes.first_chunk().unwrap()).unwrap()
}

#[test]
fn it_is_read_in_whatever_pieces_it_is_written() {
    let (_out, bytes) = sealed();
    let segment = (1 << SEGMENT_LOG2) + 16;
    for length in [997, segment - 1, segment, segment + 1, 3 * segment, bytes.len()] {
        read_growing(&pieces(&bytes, header_len(&bytes), length)).unwrap();
    }
}

#[test]
fn whatever_is_wrong_with_it_is_found() {
    let (_out, good) = sealed();
    let header = header_len(&good);
    for at in [9, header, header + 300_000, good.len() - 300_000, good.len() - 20, good.len() - 1] {
        let mut bad = good.clone();
        bad[at] ^= 4;
        assert!(read_growing(&pieces(&bad, header, 100_000)).is_err(), "{at}");
    }
    let segment = (1 << SEGMENT_LOG2) + 16;
    for length in [0, 100, header, header + segment, good.len() - 17, good.len() - 1] {
        let cut = &good[..length];
        let pieces = pieces(cut, header.min(length), 100_000);
        assert!(read_growing(&pieces).is_err(), "{length}");
    }
    let longer = [&good[..], b"more"].concat();
    assert!(read_growing(&pieces(&longer, header, 100_000)).is_err());
}

#[test]
fn whatever_is_wrong_with_one_that_is_not_sealed_is_found() {
    let (source, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::fs::write(source.path().join("file"), noise(1, 600_000)).unwrap();
    // Nothing is held against the content of one that is neither sealed nor compressed but its digest.
    for compression in ALL {
        let options = WriteOptions { compression, ..WriteOptions::default() };
        let (file, _) =
            archive(source.path(), out.path(), compression.name(), None, &options).unwrap();
        let good = std::fs::read(file).unwrap();
        read_growing(&pieces(&good, good.len().min(PLAIN_BUFFER), 100_000)).unwrap();
        for at in [3, good.len() / 2, good.len() - 1500] {
            let mut bad = good.clone();
            bad[at] ^= 4;
            let pieces = pieces(&bad, good.len().min(PLAIN_BUFFER), 100_000);
            assert!(read_growing(&pieces).is_err(), "{compression}, byte {at}");
        }
        for length in [0, 5, good.len() / 2, good.len() - 1] {
            let pieces = pieces(&good[..length], length.min(PLAIN_BUFFER), 100_000);
            assert!(read_growing(&pieces).is_err(), "{compression}, {length} bytes");
        }
    }
}

/// Nobody but its writer may make the file longer.
#[test]
fn what_others_wrote_is_found() {
    for sealed_by in [None, Some(key_set(&passphrase("secret")))] {
        let (source, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::write(source.path().join("file"), "text").unwrap();
        let options = WriteOptions::default();
        let (file, _) =
            archive(source.path(), out.path(), "good", sealed_by.as_ref(), &options).unwrap();
        let growth = Arc::new(Growth::default());
        let length = std::fs::metadata(&file).unwrap().len();
        growth.add(length);
        drop(growth.end());
        let keyring = Keyring::new().with_secret(passphrase("secret"));
        let read = || {
            let unlock = |header: &_| keyring.unlock(header);
            let opened = std::fs::File::open(&file).unwrap();
            ArchiveReader::verify_growing(opened, &file, &unlock, &growth, Control::default())
        };
        read().unwrap();
        std::fs::File::options().append(true).open(&file).unwrap().write_all(b"more").unwrap();
        assert!(read().is_err());
    }
}

/// Sources of all lengths around those of a segment and of a buffer.
#[test]
fn every_form_is_read_back() {
    let keys = key_set(&passphrase("secret"));
    let segment = 1 << SEGMENT_LOG2;
    let around = [segment - 12_000, segment - 100, segment, segment + 1000];
    for length in [0, 8, 1 << 18, 1 << 20, 3_000_000].into_iter().chain(around) {
        let source = tempfile::tempdir().unwrap();
        std::fs::write(source.path().join("file"), noise(1, length)).unwrap();
        for compression in ALL {
            for keys in [None, Some(&keys)] {
                for read_back in [ReadBack::Written, ReadBack::Whole] {
                    let out = tempfile::tempdir().unwrap();
                    let options =
                        WriteOptions { compression, read_back, ..WriteOptions::default() };
                    archive(source.path(), out.path(), "good", keys, &options).unwrap();
                }
            }
        }
    }
}

/// Other keys the second time, which is when it is read back meanwhile, and perhaps ever after.
struct Switching {
    right: KeySet,
    wrong: KeySet,
    for_ever: bool,
    asked: AtomicU32,
}

impl Switching {
    fn new(for_ever: bool) -> Self {
        let secret = passphrase("secret");
        let (right, wrong) = (key_set(&secret), key_set(&secret));
        Self { right, wrong, for_ever, asked: AtomicU32::new(0) }
    }
}

impl SealingKeys for Switching {
    fn lend(&self, borrow: &mut dyn FnMut(&KeySet)) -> Result<()> {
        let before = self.asked.fetch_add(1, Ordering::Relaxed);
        borrow(if before == 1 || before > 1 && self.for_ever { &self.wrong } else { &self.right });
        Ok(())
    }
}

/// What cannot be read while it is written is read afterwards, and that counts.
#[test]
fn what_does_not_come_back_is_no_archive() {
    let source = tempfile::tempdir().unwrap();
    for number in 0..50u8 {
        std::fs::write(source.path().join(number.to_string()), vec![number; 1 << 20]).unwrap();
    }
    for compression in ALL {
        for for_ever in [true, false] {
            let keys = Switching::new(for_ever);
            let tree = LocalTree::open(source.path()).unwrap();
            let sections =
                [Section { name: SectionName::data(), reader: &tree, exclude: &exclude_nothing }];
            let read_back = ReadBack::Written;
            let options = WriteOptions { compression, read_back, ..WriteOptions::default() };
            let out = tempfile::tempdir().unwrap();
            let mut pending = PendingArchive::create(out.path()).unwrap();
            let about = description(ArchiveKind::Full);
            let written = pending.write(Some(&keys), &about, &sections, None, &options);
            assert_eq!(keys.asked.load(Ordering::Relaxed), 3);
            match written {
                Err(error) => {
                    assert!(for_ever && matches!(error, Error::Format { .. }), "{error:?}");
                    drop(pending);
                    assert_eq!(std::fs::read_dir(out.path()).unwrap().count(), 0);
                }
                Ok(_) => assert!(!for_ever),
            }
        }
    }
}

/// Keys; who asks for them this time changes a byte of the archive before.
struct Spoiling {
    keys: KeySet,
    out: PathBuf,
    wrong: Switching,
    time: u32,
}

impl SealingKeys for Spoiling {
    fn lend(&self, borrow: &mut dyn FnMut(&KeySet)) -> Result<()> {
        use std::os::unix::fs::FileExt as _;
        let before = self.wrong.asked.fetch_add(1, Ordering::Relaxed);
        if before == self.time {
            let entry = std::fs::read_dir(&self.out).unwrap().next().unwrap().unwrap();
            let file = std::fs::File::options().read(true).write(true).open(entry.path()).unwrap();
            let middle = file.metadata().unwrap().len() / 2;
            let mut byte = [0];
            file.read_exact_at(&mut byte, middle).unwrap();
            file.write_all_at(&[byte[0] ^ 1], middle).unwrap();
        }
        // So that it is not read back meanwhile, but afterwards.
        borrow(if before == 1 && self.time == 2 { &self.wrong.wrong } else { &self.keys });
        Ok(())
    }
}

/// Whether it is read afterwards as it could not be meanwhile, or as that was asked for.
#[test]
fn what_is_read_afterwards_is_read_whole() {
    let source = tempfile::tempdir().unwrap();
    std::fs::write(source.path().join("file"), noise(3, 3_000_000)).unwrap();
    for (read_back, time) in [(ReadBack::Written, 2), (ReadBack::Whole, 1)] {
        let out = tempfile::tempdir().unwrap();
        let keys = key_set(&passphrase("secret"));
        let wrong = Switching::new(false);
        let keys = Spoiling { keys, out: out.path().to_owned(), wrong, time };
        let tree = LocalTree::open(source.path()).unwrap();
        let sections =
            [Section { name: SectionName::data(), reader: &tree, exclude: &exclude_nothing }];
        let options = WriteOptions { read_back, ..WriteOptions::default() };
        let mut pending = PendingArchive::create(out.path()).unwrap();
        let about = description(ArchiveKind::Full);
        let written = pending.write(Some(&keys), &about, &sections, None, &options);
        assert!(matches!(written, Err(Error::Segment { .. })), "{read_back:?}: {written:?}");
    }
}

#[test]
fn whoever_stops_waits_for_nobody() {
    let source = tempfile::tempdir().unwrap();
    std::fs::write(source.path().join("a"), "a").unwrap();
    let cancelled = std::sync::atomic::AtomicBool::new(true);
    let keys = key_set(&passphrase("secret"));
    for read_back in [ReadBack::Written, ReadBack::Whole] {
        let options = WriteOptions { read_back, cancelled: &cancelled, ..WriteOptions::default() };
        let out = tempfile::tempdir().unwrap();
        let written = archive(source.path(), out.path(), "none", Some(&keys), &options);
        assert!(matches!(written, Err(Error::Cancelled)), "{written:?}");
        assert_eq!(std::fs::read_dir(out.path()).unwrap().count(), 0);
    }
}

/// The source's own error is told, not what is missing of the archive.
#[test]
fn a_writer_that_fails_is_no_wrong_archive() {
    let (source, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::fs::write(source.path().join("a"), vec![1; 3 << 20]).unwrap();
    std::fs::write(source.path().join("b"), "b").unwrap();
    let keys = key_set(&passphrase("secret"));
    let both = [ReadBack::Written, ReadBack::Whole];
    for (compression, read_back) in ALL.iter().flat_map(|one| both.map(|how| (*one, how))) {
        let expected = Some(Amount { entries: 3, bytes: 0 });
        let tree = Failing(LocalTree::open(source.path()).unwrap());
        let sections =
            [Section { name: SectionName::data(), reader: &tree, exclude: &exclude_nothing }];
        let options = WriteOptions { compression, read_back, expected, ..WriteOptions::default() };
        let mut pending = PendingArchive::create(out.path()).unwrap();
        let about = description(ArchiveKind::Full);
        let written = pending.write(Some(&keys), &about, &sections, None, &options);
        assert!(matches!(written, Err(Error::Tree(_))), "{written:?}");
    }
}

/// A tree of which the file `b` cannot be read.
struct Failing(LocalTree);

impl TreeReader for Failing {
    fn describe(&self) -> String {
        TreeReader::describe(&self.0)
    }
    fn walk<'a>(
        &'a self,
        exclude: crate::tree::Exclude<'a>,
    ) -> crate::tree::Result<crate::tree::Walk<'a>> {
        self.0.walk(exclude)
    }
    fn entry(&self, path: &TreePath) -> crate::tree::Result<crate::tree::Entry> {
        self.0.entry(path)
    }
    fn content(
        &self,
        entry: &crate::tree::Entry,
    ) -> crate::tree::Result<Box<dyn crate::tree::ContentReader>> {
        if entry.path.as_bytes() == b"b" {
            let path = entry.path.clone();
            return Err(crate::tree::Error::Changed { tree: "test".into(), path });
        }
        self.0.content(entry)
    }
}
