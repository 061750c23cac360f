//! Doors for fuzzing into what reads RocksDB's and LevelDB's files. They take any bytes, panic where
//! a reader does not keep its word, and say whether the bytes were taken for something. What has to
//! match a checksum before it is read is given the right one: nobody guesses it.

use std::io::Write as _;
use std::sync::atomic::AtomicBool;

use tempfile::NamedTempFile;

use super::checksum::Kind;
use super::footer::{self, Handle};
use super::version::Version;
use super::{blob, table};
use crate::stores::report::Findings;
use crate::stores::source::Source;
use crate::stores::{Error, Outcome};

/// A block of data that a forged table has.
const DATA: &[u8] = b"12345678";

/// A number as [`super::numbers::Cursor`] reads it.
pub(super) fn write_number(bytes: &mut Vec<u8>, mut number: u64) {
    while let Some(byte) = u8::try_from(number & 0x7f).ok().filter(|_| number >= 0x80) {
        bytes.push(byte | 0x80);
        number >>= 7;
    }
    bytes.extend(u8::try_from(number));
}

/// A block of a LevelDB table with its trailer.
fn block(contents: &[u8], kind: u8) -> Vec<u8> {
    let mut bytes = contents.to_vec();
    bytes.push(kind);
    let sum = Kind::Crc32c.of(&bytes);
    bytes.extend_from_slice(&sum.to_le_bytes());
    bytes
}

/// The contents of an index of a LevelDB table with these handles; without any, those of an empty
/// block.
pub(super) fn index(handles: &[Handle]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for handle in handles {
        let mut value = Vec::new();
        write_number(&mut value, handle.offset);
        write_number(&mut value, handle.size);
        bytes.extend_from_slice(&[0, 1]);
        bytes.extend(u8::try_from(value.len()));
        bytes.push(b'k');
        bytes.extend_from_slice(&value);
    }
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&1_u32.to_le_bytes());
    bytes
}

/// A LevelDB table of these data blocks, with a metaindex and an index of choice, both compressed as
/// `kind` says.
pub(super) fn forge(data: &[&[u8]], metaindex: &[u8], index: &[u8], kind: u8) -> Vec<u8> {
    let mut bytes: Vec<u8> = data.iter().flat_map(|data| block(data, 0)).collect();
    let mut end = Vec::new();
    for (contents, kind) in [(metaindex, 0), (index, kind)] {
        write_number(&mut end, u64::try_from(bytes.len()).unwrap_or(0));
        write_number(&mut end, u64::try_from(contents.len()).unwrap_or(0));
        bytes.extend_from_slice(&block(contents, kind));
    }
    end.resize(40, 0);
    bytes.extend_from_slice(&end);
    bytes.extend_from_slice(&footer::LEVELDB.to_le_bytes());
    bytes
}

/// Whether a check of a file with these bytes finds no damage.
fn is_sound(
    bytes: &[u8],
    check: impl Fn(&Source, &AtomicBool, &mut Findings) -> Result<(), Error>,
) -> bool {
    let mut file = NamedTempFile::new().expect("there is room for a file");
    file.write_all(bytes).expect("there is room for a file");
    let source = Source::open(file.path()).expect("what was written can be read");
    let mut findings = Findings::default();
    check(&source, &AtomicBool::new(false), &mut findings).expect("the file can be read");
    findings.report(Outcome::Sound, "fuzzing").outcome == Outcome::Sound
}

fn is_sound_table(bytes: &[u8]) -> bool {
    is_sound(bytes, |source, cancelled, findings| {
        table::check(source, "it", cancelled, findings).map(drop)
    })
}

/// A table, an index or a metaindex in one, a file of large values, or an edit of the log of
/// versions. The first byte says which of them.
pub fn tables(bytes: &[u8]) -> bool {
    let Some((which, bytes)) = bytes.split_first() else { return false };
    match which % 5 {
        0 => is_sound_table(bytes),
        1 => {
            let Some((kind, bytes)) = bytes.split_first() else { return false };
            is_sound_table(&forge(&[DATA], &index(&[]), bytes, *kind))
        }
        2 => is_sound_table(&forge(&[DATA], bytes, &index(&[]), 0)),
        3 => is_sound(bytes, |source, cancelled, findings| {
            blob::check(source, "it", cancelled, findings).map(drop)
        }),
        _ => {
            let mut version = Version::default();
            version.apply(bytes);
            !version.unknown
        }
    }
}

/// Some of each.
pub fn tables_examples() -> Vec<Vec<u8>> {
    macro_rules! fixture {
        ($name:literal) => {
            include_bytes!(concat!("../../../tests/fixtures/stores/", $name)).as_slice()
        };
    }
    let handles = index(&[Handle { offset: 0, size: 8 }]);
    let packed = snap::raw::Encoder::new().compress_vec(&handles).expect("it is short");
    let examples = [
        (0, fixture!("tables/leveldb-snappy.ldb")),
        (0, fixture!("tables/rocksdb-5-firstkeys.sst")),
        (0, fixture!("tables/rocksdb-6-xxhash64-lz4hc-two.sst")),
        (2, &index(&[])),
        (2, &handles),
        (3, fixture!("rocksdb-values/000010.blob")),
        (4, b"\x01\x1aleveldb.BytewiseComparator\x02\x03\x03\x05\x04\x00"),
    ];
    let mut all: Vec<_> =
        examples.iter().map(|(which, text)| [&[*which], *text].concat()).collect();
    all.push([&[1, 0], &handles[..]].concat());
    all.push([&[1, 1], &packed[..]].concat());
    all
}
