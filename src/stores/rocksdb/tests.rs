//! Real tables of every form, sound and damaged, and what nobody's engine wrote.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::sync::atomic::Ordering;

use proptest::prelude::*;
use tempfile::{NamedTempFile, TempDir};

use super::footer::{Ending, Footer, LONG};
use super::fuzzing::{index, write_number};
use super::numbers::Cursor;
use super::*;

static NEVER: AtomicBool = AtomicBool::new(false);

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/stores")
}

/// The committed tables by name.
fn tables() -> Vec<(String, Vec<u8>)> {
    let mut tables: Vec<_> = fs::read_dir(fixtures().join("tables"))
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            (path.file_stem().unwrap().to_str().unwrap().to_owned(), fs::read(path).unwrap())
        })
        .collect();
    tables.sort();
    assert!(tables.len() > 40);
    tables
}

fn table(name: &str) -> Vec<u8> {
    tables().into_iter().find(|(own, _)| own == name).unwrap().1
}

/// Checks bytes as a table: damage, and why it is not verified in full.
fn check_table(bytes: &[u8]) -> (CheckReport, Vec<String>) {
    let mut file = NamedTempFile::new().unwrap();
    std::io::Write::write_all(&mut file, bytes).unwrap();
    check_file(file.path())
}

fn check_file(path: &Path) -> (CheckReport, Vec<String>) {
    let mut findings = Findings::default();
    let source = Source::open(path).unwrap();
    let unverified = table::check(&source, "it", &NEVER, &mut findings).unwrap();
    (findings.report(Outcome::Sound, "a test"), unverified)
}

/// Checks one file with each of its bytes changed in turn. Tells the offsets at which that makes no
/// difference, and those at which it is told but not called damage.
fn flip_each(bytes: &[u8]) -> (Vec<usize>, Vec<usize>) {
    use std::os::unix::fs::FileExt;
    let file = NamedTempFile::new().unwrap();
    file.as_file().write_all_at(bytes, 0).unwrap();
    let sound = check_file(file.path());
    let (mut silent, mut mild) = (Vec::new(), Vec::new());
    for (at, byte) in bytes.iter().enumerate() {
        let place = u64::try_from(at).unwrap();
        let bit = 1 << (at % 8);
        file.as_file().write_all_at(&[byte ^ bit], place).unwrap();
        let found = check_file(file.path());
        if found == sound {
            silent.push(at);
        } else if found.0.outcome != Outcome::Damaged {
            mild.push(at);
        }
        file.as_file().write_all_at(&[*byte], place).unwrap();
    }
    (silent, mild)
}

fn footer(bytes: &[u8]) -> Footer {
    let tail = &bytes[bytes.len().saturating_sub(LONG)..];
    match footer::read(tail, u64::try_from(bytes.len()).unwrap()) {
        Ending::Blocks(footer) => footer,
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_table_is_sound() {
    for (name, bytes) in tables() {
        let (report, unverified) = check_table(&bytes);
        assert_eq!(
            (report.outcome, report.findings.len()),
            (Outcome::Sound, 0),
            "{name} {report:?}"
        );
        let expected: &[&str] = match name.as_str() {
            "rocksdb-plain" => &["what a plain table holds is not read"],
            "rocksdb-5-bzip2" => &["its index is compressed with bzip2"],
            _ if name.contains("-none-") && !name.starts_with("rocksdb-7") => {
                if name.ends_with("-none-none-binary") || !is_summed(&bytes) {
                    &["its blocks have no checksums"]
                } else {
                    &[]
                }
            }
            _ => &[],
        };
        assert_eq!(unverified.len(), expected.len(), "{name}: {unverified:?}");
        for (found, expected) in unverified.iter().zip(expected) {
            assert!(found.contains(expected), "{name}: {found}");
        }
    }
}

fn is_summed(bytes: &[u8]) -> bool {
    footer(bytes).checksum != checksum::Kind::None
}

/// All that the fixtures are there for is in them.
#[test]
fn the_tables_have_every_form() {
    let mut seen = BTreeSet::new();
    for (name, bytes) in tables().iter().filter(|(name, _)| name != "rocksdb-plain") {
        let footer = footer(bytes);
        seen.insert(format!("version {}", footer.version));
        seen.insert(format!("{:?} in {}", footer.checksum, footer.version.clamp(2, 6)));
        if let Some(index) = footer.index {
            let kind = bytes[usize::try_from(index.offset + index.size).unwrap()];
            seen.insert(format!("index compressed {kind}"));
        }
        for part in ["two", "hash", "binary", "firstkeys", "aligned"] {
            if name.ends_with(part) {
                seen.insert(part.to_owned());
            }
        }
    }
    for version in 0..=7 {
        assert!(seen.contains(&format!("version {version}")), "{version}: {seen:?}");
    }
    for version in 2..=6 {
        for kind in ["None", "Crc32c", "XxHash", "XxHash64", "Xxh3"] {
            assert!(
                seen.contains(&format!("{kind} in {version}")),
                "{kind} in {version}: {seen:?}"
            );
        }
    }
    for kind in [0, 1, 2, 3, 4, 5, 7] {
        assert!(seen.contains(&format!("index compressed {kind}")), "{kind}: {seen:?}");
    }
    for part in ["two", "hash", "binary", "firstkeys", "aligned"] {
        assert!(seen.contains(part), "{part}");
    }
}

/// What no checksum covers, byte by byte.
fn uncovered(name: &str, bytes: &[u8]) -> Vec<std::ops::Range<usize>> {
    let footer = footer(bytes);
    let at = usize::try_from(footer.offset).unwrap();
    let mut ranges = Vec::new();
    if (1..6).contains(&footer.version) {
        // The format version of a footer without a checksum: one known version for another.
        ranges.push(bytes.len() - 12..bytes.len() - 8);
    }
    if name == "rocksdb-5-ingested" {
        // The sequence number that was written over, which the checksum leaves out.
        let key = b"external_sst_file.global_seqno";
        let place = bytes.windows(key.len()).position(|window| window == key).unwrap() + key.len();
        ranges.push(place..place + 8);
    }
    if name == "rocksdb-5-bzip2" {
        // Data that only its index leads to, which is not read.
        ranges.push(0..usize::try_from(footer.index.unwrap().offset).unwrap());
    }
    if footer.checksum == checksum::Kind::None {
        ranges.push(0..at);
    }
    ranges
}

#[test]
fn every_changed_byte_is_found() {
    for (name, bytes) in tables() {
        if name == "rocksdb-plain" {
            continue;
        }
        let (silent, mild) = flip_each(&bytes);
        let uncovered = uncovered(&name, &bytes);
        let left: Vec<_> =
            silent.iter().filter(|at| !uncovered.iter().any(|range| range.contains(at))).collect();
        assert!(left.is_empty(), "{name}: changes at {left:?} are not found");
        // Told as a remark: zeros that are none any more, and what makes another format of it.
        let footer = usize::try_from(footer(&bytes).offset).unwrap();
        for at in mild {
            let fills = bytes[at] == 0;
            let expected =
                fills || at >= footer || uncovered.iter().any(|range| range.contains(&at));
            assert!(expected, "{name}: a change at {at} is only remarked");
        }
    }
}

#[test]
fn cut_off_tables_are_damaged() {
    for (name, bytes) in tables().iter().filter(|(name, _)| name != "rocksdb-plain") {
        for length in [0, 1, 7, 8, 47, 48, 52, 53, bytes.len() / 2, bytes.len() - 1] {
            let (report, _) = check_table(&bytes[..length]);
            assert_eq!(report.outcome, Outcome::Damaged, "{name} at {length}");
            // The end alone, as if the beginning were cut off.
            let (report, unverified) = check_table(&bytes[bytes.len() - length..]);
            let told = report.outcome == Outcome::Damaged || !unverified.is_empty();
            assert!(told, "{name}: the last {length}");
        }
    }
}

/// A block in another one's place has the right checksum, unless the place counts.
#[test]
fn blocks_in_each_others_place_are_found_where_their_place_counts() {
    let bytes = table("rocksdb-6-crc32c-none-binary");
    let blocks = data_blocks(&bytes);
    let (first, second) = (blocks[1], blocks[2]);
    assert_eq!(first.size, second.size, "{blocks:?}");
    let range = |handle: footer::Handle| {
        usize::try_from(handle.offset).unwrap()..usize::try_from(handle.end().unwrap()).unwrap()
    };
    let mut swapped = bytes.clone();
    swapped[range(first)].copy_from_slice(&bytes[range(second)]);
    swapped[range(second)].copy_from_slice(&bytes[range(first)]);
    let (report, _) = check_table(&swapped);
    let expected = [first, second].map(|handle| {
        format!("it: the block at byte {} does not match its checksum", handle.offset)
    });
    assert_eq!(report.findings, expected);
}

/// The data blocks of a table whose index is not compressed.
fn data_blocks(bytes: &[u8]) -> Vec<footer::Handle> {
    let at = |handle: footer::Handle| {
        let start = usize::try_from(handle.offset).unwrap();
        &bytes[start..start + usize::try_from(handle.size).unwrap()]
    };
    let footer = footer(bytes);
    let metaindex = at(footer.metaindex);
    let mut index = footer.index;
    block::for_each(metaindex, |key, place| {
        if key == b"rocksdb.index" {
            index = footer::Handle::read(&mut Cursor(&metaindex[place]));
        }
        true
    })
    .unwrap();
    let form = block::Form { differences: footer.version >= 4, first_keys: false };
    let mut handles = block::Handles::new(at(index.unwrap()), form).unwrap();
    std::iter::from_fn(|| handles.next()).map(Result::unwrap).collect()
}

/// A footer before format version 6 with its index at a place of choice.
fn with_index(bytes: &[u8], index: footer::Handle) -> Vec<u8> {
    let footer = footer(bytes);
    assert!(footer.index.is_some());
    let at = usize::try_from(footer.offset).unwrap();
    let (head, tail) = if footer.version == 0 { (0, 8) } else { (1, 12) };
    let mut handles = Vec::new();
    for number in [footer.metaindex.offset, footer.metaindex.size, index.offset, index.size] {
        write_number(&mut handles, number);
    }
    let mut changed = bytes.to_vec();
    let room = changed.len() - tail - at - head;
    handles.resize(room, 0);
    changed[at + head..at + head + room].copy_from_slice(&handles);
    changed
}

/// A LevelDB table of these data blocks, with an index block of choice.
fn forge(data: &[&[u8]], contents: &[u8], kind: u8) -> Vec<u8> {
    fuzzing::forge(data, &index(&[]), contents, kind)
}

fn handle(offset: u64, size: u64) -> footer::Handle {
    footer::Handle { offset, size }
}

#[test]
fn an_index_leads_nowhere_but_into_the_file_and_forward() {
    let data: [&[u8]; 2] = [b"12345678", b"abcdefgh"];
    let sound = [handle(0, 8), handle(13, 8)];
    let (report, unverified) = check_table(&forge(&data, &index(&sound), 0));
    assert_eq!((report.outcome, unverified.len()), (Outcome::Sound, 0), "{report:?}");
    for (handles, finding) in [
        (vec![handle(0, 8), handle(0, 8)], "the block at byte 0 overlaps another one"),
        (vec![handle(13, 8), handle(0, 8)], "the block at byte 0 overlaps another one"),
        (vec![handle(0, u64::MAX)], "does not lie in the file"),
        (vec![handle(u64::MAX, 8)], "does not lie in the file"),
        (vec![handle(0, 8), handle(13, 1 << 40)], "does not lie in the file"),
        (vec![handle(0, 7)], "the block at byte 0 does not match its checksum"),
    ] {
        let (report, _) = check_table(&forge(&data, &index(&handles), 0));
        assert_eq!(report.outcome, Outcome::Damaged, "{handles:?}");
        assert!(report.findings[0].contains(finding), "{report:?}");
    }
    // A block that the index leaves out is told.
    let (report, unverified) = check_table(&forge(&data, &index(&sound[..1]), 0));
    assert_eq!(report.outcome, Outcome::Sound);
    assert_eq!(unverified, ["13 bytes from byte 13 on belong to no block"]);
    // The metaindex for the index, and the footer for it.
    let bytes = table("leveldb-snappy");
    let end = u64::try_from(bytes.len()).unwrap();
    for index in [handle(end, 0), handle(end - 48, 20), handle(u64::MAX, u64::MAX)] {
        let (report, _) = check_table(&with_index(&bytes, index));
        assert_eq!(report.outcome, Outcome::Damaged, "{index:?}");
    }
}

#[test]
fn hostile_lengths_are_refused_before_they_are_believed() {
    let huge = {
        let mut bytes = Vec::new();
        write_number(&mut bytes, block::LONGEST + 1);
        bytes.extend_from_slice(b"what is not that long");
        bytes
    };
    let engine = block::Engine::RocksDb(5);
    for kind in [1, 2, 4, 5, 7] {
        let refused = block::decompress(kind, huge.clone(), engine);
        assert!(matches!(refused, Err(block::Unread::Unknown(_))), "{kind}: {refused:?}");
    }
    // Little that unfolds into much.
    let zeros = vec![0; usize::try_from(block::LONGEST).unwrap() + 1];
    let bomb = zstd::bulk::compress(&zeros, 1).unwrap();
    let refused = block::decompress(2, bomb, block::Engine::LevelDb);
    assert_eq!(refused, Err(block::Unread::Unknown("its index is too long")));
    // Not compressed at all, or in an unknown way.
    for kind in [1, 2, 4, 5, 7, 0x40] {
        assert!(block::decompress(kind, vec![0xff; 20], engine).is_err(), "{kind}");
        assert!(block::decompress(kind, Vec::new(), engine).is_err(), "{kind}");
    }
    for kind in [3, 6, 8, 0x80, 0xff] {
        let refused = block::decompress(kind, vec![1; 20], engine);
        assert!(matches!(refused, Err(block::Unread::Unknown(_))), "{kind}: {refused:?}");
    }
    // A count of places to begin at that the block has no room for.
    for count in [1_u32, 7, (1 << 28) - 1] {
        let found = block::for_each(&count.to_le_bytes(), |_, _| true);
        assert_eq!(found, Err(block::Unread::Malformed));
    }
    let found = block::for_each(&(1_u32 << 31).to_le_bytes(), |_, _| true);
    assert!(matches!(found, Err(block::Unread::Unknown(_))), "{found:?}");
}

#[test]
fn an_index_of_leveldb_may_be_compressed_with_zstd() {
    let handles = index(&[handle(0, 8)]);
    let packed = zstd::bulk::compress(&handles, 1).unwrap();
    let bytes = forge(&[b"12345678"], &packed, 2);
    let (report, unverified) = check_table(&bytes);
    assert_eq!((report.outcome, unverified.len()), (Outcome::Sound, 0), "{report:?}");
    // Other engines use the number for something else.
    let (report, unverified) = check_table(&forge(&[b"12345678"], b"\x78\x9c...", 2));
    assert_eq!(report.outcome, Outcome::Sound, "{report:?}");
    assert!(unverified[0].contains("in a way that is not known"), "{unverified:?}");
}

/// Longer than what is read at once, and not within what was read for the block before.
#[test]
fn long_blocks_are_verified_in_pieces() {
    let long = vec![7; 3 * window::Window::MOST + 5];
    let (short, size) = ([1; 100], u64::try_from(long.len()).unwrap());
    let handles = [handle(0, 100), handle(105, size), handle(110 + size, 100)];
    let mut bytes = forge(&[&short, &long, &short], &index(&handles), 0);
    let (report, unverified) = check_table(&bytes);
    assert_eq!((report.outcome, unverified.len()), (Outcome::Sound, 0), "{report:?}");
    for at in [105, 2 * window::Window::MOST, long.len() + 104, long.len() + 105, long.len() + 109]
    {
        bytes[at] ^= 1;
        let (report, _) = check_table(&bytes);
        assert_eq!(report.findings, ["it: the block at byte 105 does not match its checksum"]);
        bytes[at] ^= 1;
    }
}

#[test]
fn checksums_in_pieces_are_those_of_the_whole() {
    let bytes: Vec<u8> = (0..=255).cycle().take(3000).collect();
    for number in 0..=4 {
        let kind = checksum::Kind::from_number(number).unwrap();
        for length in [0, 1, 2, 239, 240, 241, 3000] {
            for piece in [1, 7, 240, 3000] {
                let mut running = kind.begin();
                bytes[..length].chunks(piece).for_each(|piece| running.update(piece));
                assert_eq!(running.finish(), kind.of(&bytes[..length]), "{kind:?} of {length}");
            }
        }
    }
    assert_eq!(checksum::Kind::from_number(5), None);
}

#[test]
fn tables_of_other_kinds_are_told_from_damage() {
    let tail = |magic: u64| [&[0; LONG - 8][..], &magic.to_le_bytes()].concat();
    for (magic, kind) in [
        (0x9267_89d0_c5f1_7873, "cuckoo"),
        (0x8242_2296_63bf_9564, "plain"),
        (0x4f34_18eb_7a8f_13b8, "plain"),
    ] {
        let (report, unverified) = check_table(&tail(magic));
        assert_eq!(report.outcome, Outcome::Sound);
        assert_eq!(unverified, [format!("what a {kind} table holds is not read")]);
    }
    let mut bytes = table("rocksdb-5-crc32c-none-binary");
    let at = bytes.len() - 12;
    bytes[at] = 8;
    let (report, unverified) = check_table(&bytes);
    assert_eq!(report.outcome, Outcome::Sound);
    assert_eq!(unverified, ["format version 8 is not known"]);
}

/// A store of one table.
fn store_of_values() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(fixtures().join("rocksdb-values")).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), directory.path().join(entry.file_name())).unwrap();
    }
    directory
}

#[test]
fn files_of_large_values_are_verified() {
    let directory = store_of_values();
    let report = check(directory.path(), &NEVER).unwrap();
    assert_eq!((report.outcome, report.findings.len()), (Outcome::Sound, 0), "{report:?}");
    let files = files(directory.path()).unwrap();
    let values = blobs(&files);
    assert_eq!(values.len(), 1);
    let path = values.values().next().unwrap();
    let bytes = fs::read(path).unwrap();
    let mut silent = Vec::new();
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 1 << (at % 8);
        fs::write(path, changed).unwrap();
        let report = check(directory.path(), &NEVER).unwrap();
        if report.outcome == Outcome::Sound {
            silent.push(at);
        }
    }
    // What begins the file has no checksum; the engine reads no more than that from it.
    assert_eq!(silent, (8..30).collect::<Vec<_>>());
    for length in [0, 1, 29, 30, 61, 62, 63, bytes.len() - 33, bytes.len() - 1] {
        fs::write(path, &bytes[..length]).unwrap();
        let report = check(directory.path(), &NEVER).unwrap();
        assert_eq!(report.outcome, Outcome::Damaged, "at {length}");
    }
}

#[test]
fn a_damaged_table_of_a_store_is_named_with_the_place() {
    let directory = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(fixtures().join("rocksdb")).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), directory.path().join(entry.file_name())).unwrap();
    }
    let path = directory.path().join("000012.sst");
    let mut bytes = fs::read(&path).unwrap();
    bytes[20] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let report = check(directory.path(), &NEVER).unwrap();
    assert_eq!(report.outcome, Outcome::Damaged);
    assert_eq!(report.findings, ["table 000012: the block at byte 0 does not match its checksum"]);
}

#[test]
fn reasons_are_told_once() {
    let mut unverified = Unverified::default();
    unverified.add("table 000001", ["a".to_owned(), "b".to_owned()]);
    unverified.add("table 000002", ["a".to_owned()]);
    unverified.add("table 000003", ["a".to_owned()]);
    let mut findings = Findings::default();
    assert!(unverified.tell(&mut findings));
    let report = findings.report(Outcome::StructureOnly, "a test");
    let expected = [
        "table 000001 and 2 others: not verified in full: a",
        "table 000001: not verified in full: b",
    ];
    assert_eq!(report.findings, expected);
    assert!(!Unverified::default().tell(&mut Findings::default()));
}

#[test]
fn a_check_ends_when_asked_to() {
    let cancelled = AtomicBool::new(false);
    assert!(check(&fixtures().join("rocksdb"), &cancelled).is_ok());
    cancelled.store(true, Ordering::Relaxed);
    let ended = check(&fixtures().join("rocksdb"), &cancelled);
    assert!(matches!(ended, Err(Error::Cancelled { .. })), "{ended:?}");
}

/// Changes some bytes have: where, as a share of the length, and to what.
fn changes() -> impl Strategy<Value = Vec<(u16, u8)>> {
    proptest::collection::vec((any::<u16>(), any::<u8>()), 1..12)
}

fn apply(bytes: &mut [u8], changes: &[(u16, u8)]) {
    for (place, byte) in changes {
        let at = usize::from(*place) * bytes.len() / (usize::from(u16::MAX) + 1);
        bytes[at] = *byte;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn no_change_does_harm(
        which in any::<prop::sample::Index>(),
        changes in changes(),
        resealed in any::<bool>(),
    ) {
        let tables = tables();
        let (_, bytes) = which.get(&tables);
        let mut bytes = bytes.clone();
        apply(&mut bytes, &changes);
        if resealed {
            // As somebody would who can make checksums, too: the parsers see what was changed.
            bytes = forge(&[], &bytes, 0);
        }
        check_table(&bytes);
    }

    #[test]
    fn any_index_is_read_without_harm(contents in proptest::collection::vec(any::<u8>(), 0..200)) {
        check_table(&forge(&[b"12345678"], &contents, 0));
        let forms = [(false, false), (true, false), (true, true)];
        for (differences, first_keys) in forms {
            let form = block::Form { differences, first_keys };
            if let Ok(mut handles) = block::Handles::new(&contents, form) {
                while let Some(Ok(_)) = handles.next() {}
            }
        }
        let _ = block::for_each(&contents, |_, _| true);
    }

    #[test]
    fn any_end_is_read_without_harm(
        mut tail in proptest::collection::vec(any::<u8>(), 0..60),
        magic in prop::sample::select(vec![footer::LEVELDB, 0x88e2_41b7_85f4_cff7]),
    ) {
        tail.extend_from_slice(&magic.to_le_bytes());
        check_table(&tail);
    }
}
