use super::*;
use crate::format::archive::SEGMENT_LOG2;
use std::collections::BTreeSet;

/// An archive of several segments, sealed by "secret", and the pieces of it.
pub(super) fn sealed() -> (tempfile::TempDir, Vec<u8>) {
    let source = tempfile::tempdir().unwrap();
    let mut state = 1u64;
    let mut noise = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
        state.to_le_bytes()[7]
    };
    let large: Vec<u8> = (0..1_400_000).map(|_| noise()).collect();
    std::fs::write(source.path().join("large"), large).unwrap();
    std::fs::write(source.path().join("small"), "small").unwrap();
    let out = tempfile::tempdir().unwrap();
    let keys = key_set(&passphrase("secret"));
    let (file, _) =
        archive(source.path(), out.path(), "good", Some(&keys), &WriteOptions::default()).unwrap();
    let bytes = std::fs::read(file).unwrap();
    (out, bytes)
}

/// What reading all of these bytes says, and that extracting says no better.
pub(super) fn read(directory: &Path, bytes: &[u8]) -> Result<()> {
    let file = directory.join("changed");
    std::fs::write(&file, bytes).unwrap();
    let keyring = Keyring::new().with_secret(passphrase("secret"));
    let reader = ArchiveReader::open(&file, &keyring)?;
    let verified = reader.verify(Control::default());
    let target = tempfile::tempdir().unwrap();
    let extracted = extract_all(&reader, target.path());
    assert_eq!(verified.is_ok(), extracted.is_ok());
    assert_eq!(verified.is_ok(), reader.verify_written(Control::default()).is_ok());
    verified.map(drop)
}

const SEGMENT: usize = (1 << SEGMENT_LOG2) + 16;

fn header_len(bytes: &[u8]) -> usize {
    crate::format::archive::header_len(bytes.first_chunk().unwrap()).unwrap()
}

#[test]
fn a_flipped_bit_anywhere_is_found() {
    let (out, good) = sealed();
    read(out.path(), &good).unwrap();
    let header = header_len(&good);
    let segments = (good.len() - header).div_ceil(SEGMENT);
    assert!(segments >= 5);
    let mut places = BTreeSet::from([0, 8, 9, 10, 11, 12, 16, 47, 48, header - 1, good.len() - 1]);
    for segment in 0..segments {
        let start = header + segment * SEGMENT;
        let end = (start + SEGMENT).min(good.len());
        places.extend([start, start + 1, (start + end) / 2, end - 17, end - 16, end - 1]);
    }
    for place in places {
        let mut bad = good.clone();
        bad[place] ^= 1 << (place % 8);
        assert!(read(out.path(), &bad).is_err(), "byte {place}");
    }
}

#[test]
fn missing_moved_and_added_segments_are_found() {
    let (out, good) = sealed();
    let header = header_len(&good);
    let (head, rest) = good.split_at(header);
    let segments: Vec<&[u8]> = rest.chunks(SEGMENT).collect();
    let join = |segments: &[&[u8]]| [head, &segments.concat()].concat();
    assert_eq!(join(&segments), good);
    for index in 0..segments.len() {
        let mut fewer = segments.clone();
        fewer.remove(index);
        assert!(read(out.path(), &join(&fewer)).is_err(), "without {index}");
        assert!(read(out.path(), &join(&segments[..index])).is_err(), "cut before {index}");
        let mut twice = segments.clone();
        twice.insert(index, segments[index]);
        assert!(read(out.path(), &join(&twice)).is_err(), "{index} twice");
        for other in 0..index {
            let mut swapped = segments.clone();
            swapped.swap(index, other);
            assert!(read(out.path(), &join(&swapped)).is_err(), "{index} and {other} swapped");
        }
    }
    for cut in [1, 15, 16, 17, 24, 40, 1000, SEGMENT - 1, SEGMENT + 1] {
        assert!(read(out.path(), &good[..good.len() - cut]).is_err(), "{cut} bytes cut off");
    }
    for end in [0, 1, 8, 47, 48, header - 1, header, header + 1, header + 16, header + 17] {
        assert!(read(out.path(), &good[..end]).is_err(), "cut to {end} bytes");
    }
    for added in [&[0u8][..], &[0; 16], &[0; 17], &[0; SEGMENT], segments[0]] {
        assert!(read(out.path(), &[&good[..], added].concat()).is_err());
    }
}

#[test]
fn segments_of_another_archive_are_found() {
    let (out, good) = sealed();
    let source = tempfile::tempdir().unwrap();
    std::fs::write(source.path().join("small"), "small").unwrap();
    let keyring = Keyring::new().with_secret(passphrase("secret"));
    ArchiveReader::open(&out.path().join("good"), &keyring).unwrap();
    // Two archives under the very same keys and of the same content.
    let id = peek(&out.path().join("good")).unwrap().unwrap();
    let id = id.unverified().config.unverified().vault_id;
    let mut archives = keyring
        .set_of(id, |keys| {
            ["one", "two"].map(|name| {
                let compression = Compression::None;
                let options = WriteOptions { compression, ..WriteOptions::default() };
                let made = archive(source.path(), out.path(), name, Some(keys), &options).unwrap();
                std::fs::read(made.0).unwrap()
            })
        })
        .unwrap();
    let header = header_len(&archives[0]);
    read(out.path(), &archives[0]).unwrap();
    assert_eq!(archives[0].len(), archives[1].len());
    let one = archives[0][header..].to_vec();
    archives[1][header..].copy_from_slice(&one);
    assert!(read(out.path(), &archives[1]).is_err());
    assert!(
        read(out.path(), &[&archives[0][..header], &good[header_len(&good)..]].concat()).is_err()
    );
}

#[test]
fn damage_to_what_is_not_sealed_is_found_or_harmless() {
    let source = tempfile::tempdir().unwrap();
    for index in 0..40u32 {
        let content: Vec<u8> = (0..index * 50).flat_map(|i| (i ^ index).to_le_bytes()).collect();
        std::fs::write(source.path().join(index.to_string()), content).unwrap();
    }
    let out = tempfile::tempdir().unwrap();
    for compression in [Compression::None, Compression::Zstd, Compression::Gzip, Compression::Lz4] {
        let options = WriteOptions { compression, ..WriteOptions::default() };
        let name = compression.name();
        let (file, _) = archive(source.path(), out.path(), name, None, &options).unwrap();
        let good = std::fs::read(file).unwrap();
        let damaged = out.path().join("damaged");
        for place in (0..good.len()).step_by(good.len() / 150 + 1) {
            let mut bad = good.clone();
            bad[place] ^= 0x04;
            std::fs::write(&damaged, bad).unwrap();
            let target = tempfile::tempdir().unwrap();
            let read = ArchiveReader::open(&damaged, &Keyring::new())
                .and_then(|reader| extract_all(&reader, target.path()));
            if read.is_ok() {
                assert_equal(source.path(), target.path());
            }
            let written = ArchiveReader::open(&damaged, &Keyring::new())
                .and_then(|reader| reader.verify_written(Control::default()));
            assert_eq!(written.is_ok(), read.is_ok(), "{compression}, byte {place}");
        }
        for end in (0..good.len()).step_by(good.len() / 50 + 1) {
            std::fs::write(&damaged, &good[..end]).unwrap();
            let read = ArchiveReader::open(&damaged, &Keyring::new())
                .and_then(|reader| reader.verify(Control::default()));
            assert!(read.is_err(), "cut to {end} bytes");
        }
    }
}

#[test]
fn what_is_no_archive_is_told() {
    let out = tempfile::tempdir().unwrap();
    let file = out.path().join("file");
    let cases: [&[u8]; 7] = [
        b"",
        b"short",
        &[0; 5000],
        b"PK\x03\x04 something else entirely, but long enough to be read as a header",
        b"\x28\xb5\x2f\xfd not zstd after all, in spite of how it begins, and long enough",
        b"\x1f\x8b not gzip after all, in spite of how it begins, and long enough to be",
        b"\x04\x22\x4d\x18 not lz4 after all, in spite of how it begins, and long enough",
    ];
    for bytes in cases {
        std::fs::write(&file, bytes).unwrap();
        assert!(ArchiveReader::open(&file, &Keyring::new()).is_err());
    }
    assert!(ArchiveReader::open(out.path(), &Keyring::new()).is_err());
    assert!(ArchiveReader::open(&out.path().join("missing"), &Keyring::new()).is_err());
    let tar = std::process::Command::new("tar")
        .args(["--format=posix", "-cf"])
        .args([&file, Path::new("/etc/hostname")])
        .output()
        .unwrap();
    assert!(tar.status.success());
    let error = ArchiveReader::open(&file, &Keyring::new()).err().unwrap();
    assert!(matches!(error, Error::Malformed { .. }), "{error}");
}
