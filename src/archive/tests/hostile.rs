//! Archives that no writer of ours makes: everything in them is well-formed and consistent but
//! for one thing.

use super::super::forge::{Forged, Forger, directory, file, hard_link, metadata, play, symlink};
use super::super::tar::{END, Stored, encode_header};
use super::*;

fn refused(entries: Vec<Forged>, why: &str) {
    let error = play(&Forger::default().forge(&entries)).unwrap_err().to_string();
    assert!(error.contains(why), "{error:?} does not contain {why:?}");
}

#[test]
fn the_forger_can_be_honest() {
    let entries = vec![
        directory("data"),
        Forged { links: 2, ..file("data/a", "a") },
        directory("data/d"),
        file("data/d/b", ""),
        hard_link("data/d/c", "data/a"),
        symlink("data/e", "../outside"),
    ];
    play(&Forger::default().forge(&entries)).unwrap();
}

#[test]
fn names_that_lead_outside() {
    for name in [
        "data/../outside/file",
        "data/..",
        "data/a/../../outside/x",
        "/etc/strongroom-test",
        "../outside/x",
        "data//x",
        "data/./x",
        "data/",
        "data/x/",
        "outside/x",
        "",
        "metadata.json",
    ] {
        let error = play(&Forger::default().forge(&[directory("data"), file(name, "x")]));
        assert!(matches!(error, Err(Error::Malformed { .. })), "{name:?}: {error:?}");
    }
    refused(vec![directory("data"), file("data/..", "x")], "\"..\" component");
    refused(vec![directory("data"), file("/data/x", "x")], "no section");
    let long = format!("data/{}", "n".repeat(256));
    refused(vec![directory("data"), file(long, "x")], "255 bytes");
}

#[test]
fn nothing_is_written_through_a_symlink_or_a_file() {
    refused(
        vec![directory("data"), symlink("data/a", "../outside"), file("data/a/file", "changed")],
        "in something that is no directory",
    );
    refused(
        vec![directory("data"), symlink("data/a", "../outside"), directory("data/a")],
        "there twice",
    );
    refused(
        vec![directory("data"), symlink("data/a", "../outside/file"), file("data/a", "changed")],
        "there twice",
    );
    refused(vec![directory("data"), file("data/a", ""), file("data/a/b", "")], "no directory");
    refused(vec![directory("data"), file("data/a/b", "")], "no directory");
    refused(vec![symlink("data", "outside"), file("data/file", "x")], "no directory");
    refused(vec![file("data/file", "x")], "begin with its root");
}

#[test]
fn duplicates_and_disorder() {
    refused(vec![directory("data"), file("data/a", "1"), file("data/a", "2")], "there twice");
    refused(vec![directory("data"), file("data/b", ""), file("data/a", "")], "out of order");
    refused(vec![directory("data"), directory("data/a"), directory("data/a")], "there twice");
    refused(vec![directory("data"), directory("data")], "there twice");
}

#[test]
fn hard_links_to_what_is_not_in_the_archive() {
    for target in [
        "/etc/passwd",
        "../outside/file",
        "data/../../outside/file",
        "data/none",
        "data/b",
        "data",
        "index.json",
    ] {
        let error =
            play(&Forger::default().forge(&[directory("data"), hard_link("data/b", target)]));
        assert!(matches!(error, Err(Error::Malformed { .. })), "{target}: {error:?}");
    }
    let away = symlink("data/a", "../outside/file");
    refused(vec![directory("data"), away, hard_link("data/b", "data/a")], "not there");
    let single = file("data/a", "x");
    refused(vec![directory("data"), single, hard_link("data/b", "data/a")], "not there");
}

#[test]
fn devices_and_odd_entries() {
    for kind in [EntryKind::CharacterDevice, EntryKind::BlockDevice] {
        let mut device = metadata(kind);
        device.rdev = rustix::fs::makedev(1, 3);
        let name = b"data/device".to_vec();
        let device = Forged { name, metadata: device, content: Vec::new(), link: None, links: 1 };
        refused(vec![directory("data"), device], "device file");
    }
    refused(vec![directory("data"), symlink("data/a", "")], "impossible target");
    let long = "x".repeat(5000);
    refused(vec![directory("data"), symlink("data/a", long)], "impossible target");
}

#[test]
fn more_than_was_declared() {
    let many: Vec<_> = std::iter::once(directory("data"))
        .chain((0..1000).map(|i| file(format!("data/{i:04}"), "")))
        .collect();
    let error = play(&Forger::default().forge(&many)).unwrap_err();
    assert!(matches!(error, Error::TooMuch { limit: 1000, what: "entries" }), "{error}");
    let large = vec![directory("data"), file("data/a", "x".repeat(999)), file("data/b", "yy")];
    let error = play(&Forger::default().forge(&large)).unwrap_err();
    assert!(matches!(error, Error::TooMuch { limit: 1000, what: "bytes" }), "{error}");
    // A hole of eight exbibytes weighs nothing, but is declared nowhere.
    let mut sparse = metadata(EntryKind::Regular);
    sparse.size = 1 << 62;
    let map = super::super::tar::SparseMap::new(1 << 62);
    let mut tar = Forger::default().forge(&[directory("data")]);
    let at = tar.len() - END.len();
    tar.truncate(at);
    let mut whole = Vec::new();
    let honest = Forger::default().forge(&[directory("data")]);
    let split = honest.windows(20).position(|bytes| bytes == b"index/00000000.jsonl").unwrap();
    let split = split / 512 * 512 - 1024;
    whole.extend(&honest[..split]);
    whole.extend(encode_header(b"data/hole", &sparse, &Stored::Sparse(&map), 1));
    whole.extend(map.encode());
    whole.extend(&honest[split..]);
    let error = play(&whole).unwrap_err();
    assert!(matches!(error, Error::TooMuch { what: "bytes", .. }), "{error}");
}

#[test]
fn an_index_that_says_otherwise() {
    let entries = || vec![directory("data"), file("data/a", "a"), file("data/b", "b")];
    let lines: [fn(String) -> String; 9] = [
        |text| text.replace("448", "449"),
        |text| text.replacen("\"sha256\":\"", "\"sha256\":\"00", 1),
        |text| {
            text.replace(
                "3e23e8160039594a33894f6564e1b1348bbd7a0088d42c4acb73eeaed59c009d",
                &"0".repeat(64),
            )
        },
        |text| text.lines().take(2).map(|line| format!("{line}\n")).collect(),
        |text| format!("{text}{text}"),
        |text| text.lines().rev().map(|line| format!("{line}\n")).collect(),
        |text| text.replace("\"data\"", "\"other\""),
        |text| text.replace("\"path\":\"b\"", "\"path\":\"../b\""),
        |text| text.trim_end().to_owned(),
    ];
    for (number, change_lines) in lines.into_iter().enumerate() {
        let forger = Forger { change_lines, ..Forger::default() };
        assert!(play(&forger.forge(&entries())).is_err(), "{number}");
    }
    let indexes: [fn(String) -> String; 5] = [
        |text| text.replace("\"entries\":3,\"bytes\":2", "\"entries\":2,\"bytes\":2"),
        |text| text.replace("\"bytes\":2}", "\"bytes\":1}"),
        |text| text.replace("\"sha256\":\"", "\"sha256\":\"00"),
        |text| text.replace("\"parts\":[", "\"parts\":[{\"offset\":0,\"bytes\":0,\"entries\":0},"),
        |_| "{}".into(),
    ];
    for (number, change_index) in indexes.into_iter().enumerate() {
        let forger = Forger { change_index, ..Forger::default() };
        assert!(play(&forger.forge(&entries())).is_err(), "{number}");
    }
    let metadatas: [fn(String) -> String; 4] = [
        |text| text.replace("\"sections\":[\"data\"]", "\"sections\":[]"),
        |text| text.replace("[\"data\"]", "[\"data\",\"more\"]"),
        |text| text.replace("\"compression\":\"none\"", "\"compression\":\"zstd\""),
        |text| text.replace("\"version\":1", "\"version\":2"),
    ];
    // A bit of the metadata flipped, which remain as good as they were: where would it be restored?
    let mut flipped = Forger::default().forge(&entries());
    let at = flipped.windows(8).position(|bytes| bytes == b"\"forged\"").unwrap();
    flipped[at + 1] = b'F';
    assert!(play(&flipped).is_err(), "metadata");
    for (number, change_metadata) in metadatas.into_iter().enumerate() {
        let forger = Forger { change_metadata, ..Forger::default() };
        assert!(play(&forger.forge(&entries())).is_err(), "{number}");
    }
}

#[test]
fn content_stored_elsewhere_must_be_in_the_chain() {
    let forger = Forger {
        change_lines: |text| {
            let id = "0".repeat(64);
            let last = text.lines().last().unwrap();
            let line = last.replace("\"path\":\"a\"", "\"path\":\"b\"");
            let line = line.strip_suffix('}').unwrap();
            format!("{text}{line},\"stored\":{{\"in\":\"{id}\"}}}}\n")
        },
        ..Forger::default()
    };
    let error = play(&forger.forge(&[directory("data"), file("data/a", "a")])).unwrap_err();
    assert!(error.to_string().contains("does not need"), "{error}");
}

/// Where what was just written is read back, the checksums of the compression vouch for contents.
#[test]
fn a_false_digest_is_none_of_the_compressions() {
    let entries = [directory("data"), file("data/a", "a"), file("data/b", "b")];
    let forger = Forger {
        change_metadata: |text| text.replace("\"none\"", "\"zstd\""),
        change_lines: |text| {
            text.replace(
                "3e23e8160039594a33894f6564e1b1348bbd7a0088d42c4acb73eeaed59c009d",
                &"0".repeat(64),
            )
        },
        ..Forger::default()
    };
    let mut compressor = zstd::bulk::Compressor::new(3).unwrap();
    compressor.include_checksum(true).unwrap();
    let frame = compressor.compress(&forger.forge(&entries)).unwrap();
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("archive");
    std::fs::write(&path, &frame).unwrap();
    let reader = ArchiveReader::open(&path, &Keyring::new()).unwrap();
    reader.verify_written(Control::default()).unwrap();
    let error = reader.verify(Control::default()).unwrap_err();
    assert!(matches!(error, Error::Mismatch { .. }), "{error}");

    let mut damaged = frame;
    *damaged.last_mut().unwrap() ^= 1;
    std::fs::write(&path, &damaged).unwrap();
    let written = ArchiveReader::open(&path, &Keyring::new())
        .and_then(|reader| reader.verify_written(Control::default()));
    assert!(written.is_err());
}
