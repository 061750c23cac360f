//! Whatever bytes come: errors, no panics, nothing outside the target, no memory without bounds.

use std::sync::LazyLock;

use proptest::prelude::*;

use super::super::forge::{Forger, directory, file, hard_link, play, symlink};

/// One change of a file.
#[derive(Clone, Debug)]
enum Change {
    Flip(usize, u8),
    Set(usize, Vec<u8>),
    Insert(usize, Vec<u8>),
    Remove(usize, usize),
    /// Copies a block of a tar over another one.
    Block(usize, usize),
}

fn change() -> impl Strategy<Value = Change> {
    let bytes = || proptest::collection::vec(any::<u8>(), 1..40);
    prop_oneof![
        (any::<usize>(), any::<u8>()).prop_map(|(at, with)| Change::Flip(at, with)),
        (any::<usize>(), bytes()).prop_map(|(at, bytes)| Change::Set(at, bytes)),
        (any::<usize>(), bytes()).prop_map(|(at, bytes)| Change::Insert(at, bytes)),
        (any::<usize>(), 1usize..2000).prop_map(|(at, len)| Change::Remove(at, len)),
        (any::<usize>(), any::<usize>()).prop_map(|(from, to)| Change::Block(from, to)),
    ]
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    const BLOCK: usize = 512;
    let len = bytes.len().max(1);
    match change {
        Change::Flip(at, with) => {
            if let Some(byte) = bytes.get_mut(at % len) {
                *byte ^= with;
            }
        }
        Change::Set(at, with) => {
            for (byte, with) in bytes.iter_mut().skip(at % len).zip(with) {
                *byte = *with;
            }
        }
        Change::Insert(at, with) => {
            let at = at % len;
            bytes.splice(at.min(bytes.len())..at.min(bytes.len()), with.iter().copied());
        }
        Change::Remove(at, count) => {
            let at = (at % len).min(bytes.len());
            bytes.drain(at..(at + count).min(bytes.len()));
        }
        Change::Block(from, to) => {
            let blocks = bytes.len() / BLOCK;
            if blocks > 0 {
                let (from, to) = (from % blocks * BLOCK, to % blocks * BLOCK);
                bytes.copy_within(from..from + BLOCK, to);
            }
        }
    }
}

/// The checksum of each tar header made right again, so that what is behind it is reached.
fn mend_checksums(bytes: &mut [u8]) {
    for header in bytes.chunks_exact_mut(512) {
        if &header[257..262] == b"ustar" {
            header[148..156].fill(b' ');
            let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
            header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
    }
}

fn forged() -> Vec<u8> {
    Forger::default().forge(&[
        directory("data"),
        file("data/a", "content"),
        directory("data/d"),
        file("data/d/b", "more"),
        symlink("data/e", "d"),
        hard_link("data/f", "data/a"),
    ])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_changed_archive(changes in proptest::collection::vec(change(), 1..4), mend: bool) {
        let mut bytes = forged();
        for change in &changes {
            apply(&mut bytes, change);
        }
        if mend {
            mend_checksums(&mut bytes);
        }
        // `play` looks that nothing outside changes.
        let _ = play(&bytes);
    }

    #[test]
    fn any_bytes_with_a_beginning(
        beginning in 0usize..5,
        bytes in proptest::collection::vec(any::<u8>(), 0..3000),
    ) {
        let beginnings: [&[u8]; 5] =
            [b"", b"\x93SRARC\r\n\x01\x00", b"\x28\xb5\x2f\xfd", b"\x1f\x8b\x08\x00", b"\x04\x22\x4d\x18"];
        let _ = play(&[beginnings[beginning], &bytes].concat());
    }

}

/// One is made for all.
static SEALED: LazyLock<(tempfile::TempDir, Vec<u8>)> = LazyLock::new(super::damage::sealed);

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn a_changed_sealed_archive(changes in proptest::collection::vec(change(), 1..3)) {
        let (out, good) = &*SEALED;
        let mut bytes = good.clone();
        for change in &changes {
            apply(&mut bytes, change);
        }
        prop_assume!(bytes != *good);
        prop_assert!(super::damage::read(out.path(), &bytes).is_err());
    }
}
