#![allow(clippy::unwrap_used)]
use proptest::prelude::*;

use super::decode::RawEntry;
use super::pax::{decode_time, decode_xattr_key, encode_time, encode_xattr_key, parse, record};
use super::*;
use crate::tree::{ByteString, EntryKind, Metadata, Timestamp, Xattr};

#[test]
fn records_count_their_own_digits() {
    for length in 0..1200 {
        let mut records = Vec::new();
        record(&mut records, b"key", &vec![b'='; length]);
        record(&mut records, b"k\xff", b"\n1 a=b\n");
        let parsed = parse(&records).unwrap();
        assert_eq!(parsed.len(), 2);
        assert_eq!(parsed[0], (&b"key"[..], &*vec![b'='; length]));
        assert_eq!(parsed[1], (&b"k\xff"[..], &b"\n1 a=b\n"[..]));
    }
    for wrong in ["5 a=b", "9 a=b\n", "6 ab=\n\n", "+6 a=b\n", "6 a=b\n1", "0 a=b\n", "3 a\n"] {
        assert_eq!(parse(wrong.as_bytes()), None, "{wrong:?}");
    }
}

#[test]
fn times_are_those_of_gnu_tar() {
    for (seconds, nanoseconds, text) in [
        (0, 0, "0.000000000"),
        (1, 5, "1.000000005"),
        (-1, 500_000_000, "-0.500000000"),
        (-1, 999_999_999, "-0.000000001"),
        (-86_400, 0, "-86400.000000000"),
        (-86_400, 1, "-86399.999999999"),
        (i64::MAX, 999_999_999, "9223372036854775807.999999999"),
    ] {
        let time = Timestamp { seconds, nanoseconds };
        assert_eq!(String::from_utf8(encode_time(time)).unwrap(), text);
        assert_eq!(decode_time(text.as_bytes()), Some(time));
    }
    assert_eq!(decode_time(b"5"), Some(Timestamp { seconds: 5, nanoseconds: 0 }));
    assert_eq!(decode_time(b"5.5"), Some(Timestamp { seconds: 5, nanoseconds: 500_000_000 }));
    for wrong in
        ["", "-", ".", "1.", ".1", "1.0000000001", "+1", "1e5", "--1", "99999999999999999999"]
    {
        assert_eq!(decode_time(wrong.as_bytes()), None, "{wrong}");
    }
}

fn sample_metadata() -> impl Strategy<Value = Metadata> {
    let xattr =
        (proptest::collection::vec(1u8.., 1..20), proptest::collection::vec(any::<u8>(), 0..300));
    (
        0usize..6,
        (0u32..0o10000, any::<u32>(), any::<u32>()),
        ((-1i64 << 40)..(1i64 << 40), 0u32..1_000_000_000, any::<i32>()),
        prop_oneof![0u64..10_000, Just(u64::MAX / 4), Just(0o77_777_777_777), Just(1 << 33)],
        (0u32..4096, 0u32..1_048_576),
        proptest::collection::vec(1u8.., 1..5000),
        proptest::collection::btree_map(xattr.0, xattr.1, 0..4),
    )
        .prop_map(|(kind, (mode, uid, gid), times, size, device, target, xattrs)| {
            let kind = [
                EntryKind::Regular,
                EntryKind::Directory,
                EntryKind::Symlink,
                EntryKind::Fifo,
                EntryKind::CharacterDevice,
                EntryKind::BlockDevice,
            ][kind];
            let is_device = matches!(kind, EntryKind::CharacterDevice | EntryKind::BlockDevice);
            Metadata {
                kind,
                mode,
                uid,
                gid,
                modified: Timestamp { seconds: times.0, nanoseconds: times.1 },
                accessed: Timestamp { seconds: times.2.into(), nanoseconds: times.1 / 3 },
                size: if kind == EntryKind::Regular { size } else { 0 },
                rdev: if is_device { rustix::fs::makedev(device.0, device.1) } else { 0 },
                target: ByteString(if kind == EntryKind::Symlink { target } else { Vec::new() }),
                xattrs: xattrs
                    .into_iter()
                    .map(|(name, value)| Xattr { name: ByteString(name), value: ByteString(value) })
                    .collect(),
            }
        })
}

/// Reads headers without content behind them.
fn decode(bytes: &[u8]) -> crate::archive::Result<Option<RawEntry>> {
    TarReader::new(bytes).next_entry()
}

proptest! {
    #[test]
    fn headers_and_back(
        metadata in sample_metadata(),
        name in proptest::collection::vec(1u8.., 1..600),
        links in 1u64..100,
    ) {
        prop_assume!(name.last() != Some(&b'/'));
        let bytes = encode_header(&name, &metadata, &Stored::Content, links);
        let read = decode(&bytes).unwrap().unwrap();
        prop_assert_eq!(read, RawEntry { name, kind: RawKind::Entry(metadata), links, sparse: None });
    }

    #[test]
    fn hard_links_and_back(
        metadata in sample_metadata(),
        name in proptest::collection::vec(1u8.., 1..600),
        target in proptest::collection::vec(1u8.., 1..600),
    ) {
        let bytes = encode_header(&name, &metadata, &Stored::HardLink(&target), 1);
        let read = decode(&bytes).unwrap().unwrap();
        prop_assert_eq!(read, RawEntry { name, kind: RawKind::HardLink(target), links: 0, sparse: None });
    }

    #[test]
    fn any_bytes_are_survived(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..4096),
        metadata in sample_metadata(),
        at in 0usize..1600,
        byte: u8,
    ) {
        let _ = decode(&bytes);
        bytes.clear();
        bytes.extend(encode_header(b"data/name", &metadata, &Stored::Content, 1));
        bytes.resize(bytes.len() + 2048, 0);
        let at = at % bytes.len();
        bytes[at] = byte;
        let _ = decode(&bytes);
    }

    #[test]
    fn attribute_names_and_back(name in proptest::collection::vec(1u8.., 0..50)) {
        let key = encode_xattr_key(&name);
        prop_assert!(!key.contains(&b'='));
        prop_assert_eq!(decode_xattr_key(&key), Some(name));
    }

    #[test]
    fn sparse_maps_and_back(lengths in proptest::collection::vec((1u64..1 << 40, 1u64..1 << 40), 0..200), tail: u32) {
        let mut end = 0;
        let mut extents = Vec::new();
        for (hole, data) in lengths {
            extents.push(end + hole..end + hole + data);
            end += hole + data;
        }
        let mut map = SparseMap::new(end + u64::from(tail));
        for extent in &extents {
            map.push(extent.clone());
        }
        prop_assert_eq!(map.extents(), extents);
        let bytes = map.encode();
        let mut blocks = bytes.chunks_exact(BLOCK);
        let read = SparseMap::decode(map.real_size(), || {
            Ok::<_, ()>(blocks.next().map(|block| block.try_into().unwrap()))
        });
        prop_assert_eq!(read.unwrap().unwrap(), map);
        prop_assert!(blocks.next().is_none());
    }
}

#[test]
fn many_holes_are_few_enough() {
    let mut map = SparseMap::new(1 << 40);
    for index in 0..300_000u64 {
        map.push(index * 8192..index * 8192 + 4096);
    }
    map.push(1 << 39..(1 << 39) + 1);
    assert!(map.extents().len() <= 1 << 16);
    assert!(map.extents().windows(2).all(|pair| pair[0].end < pair[1].start));
    for index in [0u64, 1, 299_999] {
        let data = index * 8192..index * 8192 + 4096;
        assert!(map.extents().iter().any(|e| e.start <= data.start && data.end <= e.end));
    }
    assert!(map.data_len() < 1 << 32);
}

#[test]
fn wrong_sparse_maps_are_refused() {
    let decode = |text: &str, real_size| {
        let mut bytes = text.as_bytes().to_vec();
        bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
        let mut blocks = bytes.chunks_exact(BLOCK).map(|block| block.try_into().unwrap());
        SparseMap::decode(real_size, || Ok::<_, ()>(blocks.next())).unwrap()
    };
    assert!(decode("2\n0\n5\n10\n5\n", 15).is_some());
    assert!(decode("1\n0\n0\n", 0).is_some());
    for (text, real_size) in [
        ("2\n0\n5\n10\n5\n", 14),
        ("2\n10\n5\n0\n5\n", 15),
        ("2\n0\n5\n4\n5\n", 15),
        ("2\n0\n0\n4\n5\n", 15),
        ("1\n18446744073709551615\n5\n", u64::MAX),
        ("99999999\n", 15),
        ("-1\n", 15),
        ("x", 15),
        ("", 15),
        ("3\n0\n5\n", 15),
    ] {
        assert_eq!(decode(text, real_size), None, "{text:?}");
    }
}

fn file_of(size: u64) -> Metadata {
    Metadata {
        kind: EntryKind::Regular,
        mode: 0o600,
        uid: 0,
        gid: 0,
        modified: Timestamp::default(),
        accessed: Timestamp::default(),
        size,
        rdev: 0,
        target: ByteString::default(),
        xattrs: Vec::new(),
    }
}

/// A whole tar, with what follows the last entry.
fn tar_with(name: &[u8], content: &[u8], end: &[u8]) -> Vec<u8> {
    let metadata = file_of(content.len() as u64);
    let mut tar = encode_header(name, &metadata, &Stored::Content, 1);
    tar.extend_from_slice(content);
    tar.extend_from_slice(padding(content.len() as u64));
    tar.extend_from_slice(end);
    tar
}

fn read_through(tar: &[u8]) -> crate::archive::Result<usize> {
    let mut reader = TarReader::new(tar);
    let mut count = 0;
    while reader.next_entry()?.is_some() {
        count += 1;
        let mut buffer = [0; 100];
        while reader.read_content(&mut buffer)? > 0 {}
    }
    Ok(count)
}

#[test]
fn the_end_is_where_it_should_be() {
    let good = tar_with(b"name", b"content", &END);
    assert_eq!(read_through(&good).unwrap(), 1);
    for end in 0..good.len() {
        assert!(read_through(&good[..end]).is_err(), "cut at {end}");
    }
    assert!(read_through(&[&good[..], &[0]].concat()).is_err());
    assert!(read_through(&tar_with(b"name", b"content", &[0; BLOCK])).is_err());
    let after_zeros = [&[0; BLOCK][..], &good].concat();
    assert!(read_through(&tar_with(b"name", b"", &after_zeros)).is_err());
    let mut hidden = good.clone();
    hidden[good.len() - 2 * BLOCK - 1] = 1;
    assert!(read_through(&hidden).is_err());
}

#[test]
fn a_size_beyond_every_file_is_refused() {
    for size in [u64::MAX, u64::MAX - 511, 1 << 63] {
        let tar = encode_header(b"name", &file_of(size), &Stored::Content, 1);
        assert!(read_through(&tar).is_err(), "{size}");
    }
}

#[test]
fn a_file_of_no_names_is_refused() {
    let mut header = encode_header(b"name", &file_of(7), &Stored::Content, 5);
    let at = header.windows(7).position(|bytes| bytes == b"links=5").unwrap() + 6;
    for (links, is_good) in [(b'5', true), (b'0', false)] {
        header[at] = links;
        assert_eq!(TarReader::new(&header[..]).next_entry().is_ok(), is_good);
    }
}

/// The fields are filled in here, as the crate would.
#[test]
fn headers_are_those_of_the_crate() {
    proptest!(|(metadata in sample_metadata(), links in 1u64..9)| {
        let bytes = encode_header(b"data/some name", &metadata, &Stored::Nothing, links);
        let blocks: Vec<_> = bytes.chunks_exact(BLOCK).collect();
        for block in [blocks[0], blocks[blocks.len() - 1]] {
            let mut header = ::tar::Header::new_old();
            header.as_mut_bytes().copy_from_slice(block);
            header.set_mode(header.mode().unwrap());
            header.set_uid(header.uid().unwrap());
            header.set_gid(header.gid().unwrap());
            header.set_size(header.entry_size().unwrap());
            header.set_mtime(header.mtime().unwrap());
            header.set_cksum();
            prop_assert_eq!(&header.as_bytes()[..], block);
        }
    });
}
