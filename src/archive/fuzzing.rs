//! Doors for fuzzing into what reads archives. Each takes any bytes, panics where a reader does
//! not keep its word, and says whether the bytes were taken for something; and has examples of
//! what is.

use std::fs::File;
use std::io::{Cursor, Write as _};
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::forge::{Forged, Forger, directory, file, hard_link, metadata, play, symlink};
use super::index::{Lines, parse_part};
use super::pipe::{Output, PLAIN_BUFFER, Sealer};
use super::tar::{RawEntry, RawKind, Stored, TarReader, encode_header};
use super::*;
use crate::format::archive::{ArchiveHeader, FOOTER_LEN, segment_cipher};
use crate::format::fuzzing::{example_config, master};
use crate::tree::{EntryKind, LocalTree, Metadata, Progress, Timestamp, exclude_nothing};

const ID: ArchiveId = ArchiveId([7; 32]);
/// The smallest that is read: several segments fit into little.
const SEGMENT_LOG2: u8 = 12;
/// Bytes of content after which a target stops: holes cost time, not bytes.
const CONTENT_MAX: u64 = 1 << 20;
const ALL: [Compression; 4] =
    [Compression::None, Compression::Zstd, Compression::Gzip, Compression::Lz4];

/// Stops what reads more than [`CONTENT_MAX`].
#[derive(Default)]
struct Watch {
    bytes: AtomicU64,
    stop: AtomicBool,
}

impl Progress for Watch {
    fn bytes(&self, count: u64) {
        let before = self.bytes.fetch_add(count, Ordering::Relaxed);
        if before.saturating_add(count) > CONTENT_MAX {
            self.stop.store(true, Ordering::Relaxed);
        }
    }
}

impl Watch {
    fn control(&self) -> Control<'_> {
        Control { cancelled: &self.stop, progress: self }
    }
}

/// `metadata.json`, `index.json` and the lines of an index part.
pub fn metadata_texts(bytes: &[u8]) -> bool {
    let Some((kind, bytes)) = bytes.split_first() else { return false };
    match kind % 3 {
        0 => {
            let Ok(metadata) = ArchiveMetadata::decode(bytes) else { return false };
            let text = serde_json::to_vec(&metadata).expect("plain values serialise");
            let again = ArchiveMetadata::decode(&text).expect("what is written can be read");
            assert_eq!(again, metadata);
        }
        1 => {
            let Ok(index) = serde_json::from_slice::<ArchiveIndex>(bytes) else { return false };
            let text = serde_json::to_vec(&index).expect("plain values serialise");
            assert_eq!(serde_json::from_slice::<ArchiveIndex>(&text).ok(), Some(index));
        }
        _ => {
            let metadata = example_metadata();
            let mut lines = Lines::default();
            for line in parse_part(bytes) {
                let Ok(line) = line else { return false };
                let text = serde_json::to_vec(&line).expect("plain values serialise");
                assert_eq!(serde_json::from_slice::<IndexEntry>(&text).ok().as_ref(), Some(&line));
                if lines.check(&line, &metadata).is_err() {
                    return false;
                }
            }
        }
    }
    true
}

fn description() -> Description {
    Description {
        name: "example".into(),
        kind: ArchiveKind::Incremental,
        created: Timestamp::default(),
        chain: vec![ChainLink { id: ArchiveId([8; 32]), file: "the-full-one.tar".into() }],
        details: serde_json::json!({"tag": "an example"}),
    }
}

fn example_metadata() -> ArchiveMetadata {
    let sections = vec![SectionName::data()];
    let limit = Amount { entries: 10, bytes: 10_000 };
    ArchiveMetadata::new(ID, &description(), Compression::None, sections, limit)
}

/// What [`metadata_texts`] takes.
pub fn metadata_texts_examples() -> Vec<Vec<u8>> {
    let mut examples =
        vec![serde_json::to_vec(&example_metadata()).expect("plain values serialise")];
    let mut tar = TarReader::new(Cursor::new(example(Compression::None, false)));
    while let Ok(Some(entry)) = tar.next_entry() {
        let Ok(content) = content(&mut tar) else { break };
        if entry.name.starts_with(b"index/") {
            examples.push([&[2][..], &content].concat());
        } else if entry.name == b"index.json" {
            examples.push([&[1][..], &content].concat());
        }
    }
    examples[0].insert(0, 0);
    examples
}

fn content(tar: &mut TarReader<Cursor<Vec<u8>>>) -> Result<Vec<u8>> {
    let mut content = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        match tar.read_content(&mut buffer)? {
            0 => return Ok(content),
            count => content.extend_from_slice(&buffer[..count]),
        }
    }
}

/// A tar, entry by entry. What is read is written as it was.
pub fn tar(bytes: &[u8]) -> bool {
    let mut tar = TarReader::new(Cursor::new(bytes.to_vec()));
    loop {
        match tar.next_entry() {
            Err(_) => return false,
            Ok(None) => return true,
            Ok(Some(entry)) => {
                read_again(&entry);
                if content(&mut tar).is_err() {
                    return false;
                }
            }
        }
    }
}

fn read_again(entry: &RawEntry) {
    let RawEntry { name, kind, links, sparse } = entry;
    let nothing = metadata(EntryKind::Regular);
    let (metadata, stored): (&Metadata, _) = match (kind, sparse) {
        (RawKind::HardLink(target), _) => (&nothing, Stored::HardLink(target)),
        (RawKind::Entry(metadata), Some(map)) => (metadata, Stored::Sparse(map)),
        (RawKind::Entry(metadata), None) if metadata.kind == EntryKind::Regular => {
            (metadata, Stored::Content)
        }
        (RawKind::Entry(metadata), None) => (metadata, Stored::Nothing),
    };
    let mut bytes = encode_header(name, metadata, &stored, *links);
    if let Some(map) = sparse {
        bytes.extend(map.encode());
    }
    let again = TarReader::new(Cursor::new(bytes)).next_entry();
    assert_eq!(again.ok().flatten().as_ref(), Some(entry));
}

/// What [`tar`] takes.
pub fn tar_examples() -> Vec<Vec<u8>> {
    vec![example(Compression::None, false)]
}

/// The payload of a sealed archive, behind the seal: compressed frames and a footer. The first
/// byte chooses the compression, and one bit of it damage: the next two bytes say where a bit of
/// the segments flips.
pub fn payload(bytes: &[u8]) -> bool {
    let Some((choice, payload)) = bytes.split_first() else { return false };
    let compression = ALL[usize::from(choice % 4)];
    let (flip, payload) = match payload.split_first_chunk::<2>() {
        Some((place, rest)) if choice & 4 != 0 => (Some(u16::from_le_bytes(*place)), rest),
        _ => (None, payload),
    };
    let key = || master().archive_key(&ID.0);
    let header =
        ArchiveHeader { compression, segment_log2: SEGMENT_LOG2, id: ID, config: example_config() }
            .encode(&key());
    let cipher = segment_cipher(&key(), &header);
    let mut sealed = header.clone();
    let pieces: Vec<_> = payload.chunks(1 << SEGMENT_LOG2).collect();
    for (index, piece) in (0u32..).zip(&pieces) {
        let mut piece = piece.to_vec();
        cipher.seal(
            index,
            usize::try_from(index).is_ok_and(|at| at + 1 == pieces.len()),
            &mut piece,
        );
        sealed.extend(piece);
    }
    if let Some(place) = flip {
        let length = sealed.len() - header.len();
        if length == 0 {
            return false;
        }
        sealed[header.len() + usize::from(place) % length] ^= 1 << (choice >> 5);
    }
    let opened = ArchiveReader::of_file(in_memory(&sealed), Path::new("fuzzed"), &|_| Ok(key()));
    let Ok(reader) = opened else { return false };
    let watch = Watch::default();
    let indexed = reader.index(watch.control(), &mut |_| Ok(()));
    let watch = Watch::default();
    let verified = reader.verify(watch.control());
    assert!(verified.is_err() || flip.is_none(), "damage was not noticed");
    if let (Ok(verified), Ok(indexed)) = (&verified, indexed) {
        assert_eq!(*verified, indexed);
    }
    verified.is_ok()
}

fn in_memory(bytes: &[u8]) -> File {
    let flags = rustix::fs::MemfdFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::memfd_create("archive", flags).expect("memory is there"));
    file.write_all(bytes).expect("memory is there");
    file
}

/// What [`payload`] takes.
pub fn payload_examples() -> Vec<Vec<u8>> {
    let payload = |(choice, compression)| [&[choice][..], &example(compression, true)].concat();
    (0u8..).zip(ALL).map(payload).collect()
}

/// A small archive, without its seal: as a whole, or as the payload of a sealed one.
fn example(compression: Compression, sealed: bool) -> Vec<u8> {
    let place = tempfile::tempdir().expect("a temporary directory");
    let written = |path: &str, bytes: &[u8]| {
        std::fs::write(place.path().join(path), bytes).expect("the place is ours");
    };
    written("a", b"content");
    std::fs::create_dir(place.path().join("d")).expect("the place is ours");
    written("d/long", &[b'l'; 9000]);
    let (a, link) = (place.path().join("a"), place.path().join("d/link"));
    std::fs::hard_link(a, link).expect("the place is ours");
    std::os::unix::fs::symlink("../a", place.path().join("s")).expect("the place is ours");
    let sparse = File::create(place.path().join("sparse")).expect("the place is ours");
    sparse.set_len(200_000).and_then(|()| sparse.write_all_at(b"x", 100_000)).expect("the same");

    let tree = LocalTree::open(place.path()).expect("it is there");
    let sections =
        [Section { name: SectionName::data(), reader: &tree, exclude: &exclude_nothing }];
    let file = in_memory(&[]);
    let result = file.try_clone().expect("a descriptor more");
    let (tell, sealer) = crossbeam_channel::bounded(1);
    tell.send(Ok(Sealer::plain())).expect("there is room for one");
    let output =
        Output::new(file, Path::new("example"), sealer, PLAIN_BUFFER, None).expect("a thread");
    let options = WriteOptions { compression, threads: NonZeroUsize::new(1), ..Default::default() };
    write::write(output, sealed, ID, &description(), &sections, None, &options)
        .expect("a small tree can be archived");
    let length = result.metadata().expect("of an open file").len();
    let mut bytes = vec![0; usize::try_from(length).expect("it is small")];
    result.read_exact_at(&mut bytes, 0).expect("it was written");
    assert!(bytes.len() > FOOTER_LEN);
    bytes
}

/// Archives whose index agrees with whatever is in them, extracted: nothing outside of the target
/// changes. The bytes are a list of entries: what it is, how long its name and target are, and
/// these.
pub fn paths(bytes: &[u8]) -> bool {
    let mut rest = bytes;
    let mut take = |count: usize| {
        let (taken, left) = rest.split_at(count.min(rest.len()));
        rest = left;
        taken
    };
    let mut entries = vec![directory("data")];
    while let [kind, lengths] = *take(2) {
        let name = take(usize::from(lengths & 31));
        let name = if kind & 8 == 0 { [b"data/", name].concat() } else { name.to_vec() };
        let target = take(usize::from(lengths >> 5));
        entries.push(match kind % 8 {
            0 | 1 => file(name, target),
            2 => directory(name),
            3 | 4 => symlink(name, target),
            5 => hard_link(name, [b"data/", target].concat()),
            6 => Forged { links: 2, ..file(name, target) },
            _ => Forged { metadata: metadata(EntryKind::Fifo), ..file(name, []) },
        });
    }
    play(&Forger::default().forge(&entries)).is_ok()
}

/// What [`paths`] takes.
pub fn paths_examples() -> Vec<Vec<u8>> {
    let entry = |kind: u8, name: &str, target: &str| {
        let length = |text: &str| u8::try_from(text.len()).expect("it is short");
        let lengths = length(name) | length(target) << 5;
        [&[kind, lengths][..], name.as_bytes(), target.as_bytes()].concat()
    };
    vec![
        Vec::new(),
        [entry(6, "a", "text"), entry(5, "b", "a"), entry(3, "c", "../../o")].concat(),
        [entry(2, "d", ""), entry(2, "d/e", ""), entry(0, "d/e/f", "x"), entry(7, "g", "")]
            .concat(),
    ]
}
