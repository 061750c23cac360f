//! Every decoder of what lies on disk, given anything: it answers or refuses, and never panics;
//! and of what was once valid it never takes another meaning.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::block::{BlockCipher, Opened};
use super::config::SealedConfig;
use super::directory::{DirId, DirectoryCodec};
use super::header::{FileId, HEADER_LEN, HeaderCodec};
use super::journal::{
    JournalCodec, Place, RECORD_HEADER_LEN, Record, SEGMENT_HEADER_LEN, SegmentHeader, SessionId,
};
use super::layout::{BLOCK_OVERHEAD, BlockIndex};
use super::name::{EntryName, NameCipher, long_entry_of, sidecar_of};
use super::state::{self, Window};
use super::symlink::{SymlinkCipher, plain_len, split_overflow};
use super::xattr::{StoredName, XattrCipher, parse_value};
use crate::crypto::MasterKey;

fn master() -> MasterKey {
    MasterKey::from_bytes(&[1; 32])
}

fn names(directory: u8) -> NameCipher {
    NameCipher::new(NameCipher::schedule(&master().name_key()), DirId([directory; 16]))
}

fn place() -> Place {
    Place { session: SessionId([4; 16]), generation: 3, offset: 4096, sequence: 17 }
}

/// One change of some bytes.
#[derive(Clone, Debug)]
enum Damage {
    Set(prop::sample::Index, u8),
    Cut(prop::sample::Index),
    Insert(prop::sample::Index, u8),
    Swap(prop::sample::Index, prop::sample::Index),
}

fn damage() -> impl Strategy<Value = Damage> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        (index(), any::<u8>()).prop_map(|(at, byte)| Damage::Set(at, byte)),
        index().prop_map(Damage::Cut),
        (index(), any::<u8>()).prop_map(|(at, byte)| Damage::Insert(at, byte)),
        (index(), index()).prop_map(|(one, other)| Damage::Swap(one, other)),
    ]
}

impl Damage {
    /// The damaged bytes; `None` where they are what they were.
    fn apply(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        let mut damaged = bytes.to_vec();
        match self {
            Self::Set(at, byte) => damaged[at.index(bytes.len())] = *byte,
            Self::Cut(at) => damaged.truncate(at.index(bytes.len())),
            Self::Insert(at, byte) => damaged.insert(at.index(bytes.len() + 1), *byte),
            Self::Swap(one, other) => {
                damaged.swap(one.index(bytes.len()), other.index(bytes.len()))
            }
        }
        (damaged != bytes).then_some(damaged)
    }
}

fn bytes(most: usize) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..most)
}

/// Bytes of the alphabet that most of the format is written in.
fn text(most: usize) -> impl Strategy<Value = Vec<u8>> {
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.=";
    prop::collection::vec(prop::sample::select(alphabet.as_bytes()), 0..most)
}

proptest! {
    #[test]
    fn nothing_panics(bytes in prop_oneof![bytes(300), text(300)], index: u64) {
        let master = master();
        prop_assert!(SealedConfig::decode(&bytes).is_err());
        prop_assert!(DirectoryCodec::new(&master.directory_key()).decode(&bytes).is_err());
        prop_assert!(state::decode(&master.journal_key(), &bytes).is_none());
        prop_assert!(SymlinkCipher::new(&master.symlink_key()).open(&bytes).is_err());
        prop_assert!(names(1).decrypt_long(&bytes, &bytes).is_none());
        let classified = names(1).classify(&bytes);
        prop_assert!(!matches!(classified, EntryName::Plain(_)), "{:?}", classified);
        let _ = (sidecar_of(&bytes), long_entry_of(&bytes), split_overflow(&bytes));
        let _ = (parse_value(&bytes), plain_len(index));

        let xattrs = XattrCipher::new(&master.xattr_key());
        let _ = xattrs.classify(&bytes);
        prop_assert!(xattrs.open_value(b"user.sr.x", &bytes).is_err());
        prop_assert!(xattrs.open_value(b"user.srl.x", &bytes).is_err());

        let blocks = BlockCipher::new(&master.content_key(), FileId([9; 16]));
        let mut plain = vec![0; bytes.len().saturating_sub(BLOCK_OVERHEAD)];
        let opened = blocks.open(BlockIndex(index), &bytes, &mut plain);
        prop_assert!(opened != Ok(Opened::Data));

        let journal = JournalCodec::new(&master.journal_key());
        prop_assert!(journal.decode(&place(), &bytes).is_none());
        if let Some(start) = bytes.first_chunk::<RECORD_HEADER_LEN>() {
            let _ = JournalCodec::announced_len(start);
        }
        if let Some(header) = bytes.first_chunk::<SEGMENT_HEADER_LEN>() {
            prop_assert!(journal.decode_header(header).is_none());
        }
        if let Some(header) = bytes.first_chunk::<HEADER_LEN>() {
            prop_assert!(HeaderCodec::new(&master.header_key()).decode(header).is_err());
        }
    }

    #[test]
    fn a_damaged_record_header_or_block_is_refused(damage in damage(), plain in bytes(200)) {
        let master = master();
        let records = DirectoryCodec::new(&master.directory_key());
        if let Some(damaged) = damage.apply(&records.encode(DirId([7; 16]))) {
            prop_assert!(records.decode(&damaged).is_err());
        }
        let headers = HeaderCodec::new(&master.header_key());
        let damaged = damage.apply(&headers.encode(FileId([7; 16])));
        if let Some(Ok(header)) = damaged.map(TryInto::try_into) {
            prop_assert!(headers.decode(&header).is_err());
        }
        let blocks = BlockCipher::new(&master.content_key(), FileId([7; 16]));
        let plain = [&plain[..], b"!"].concat();
        let mut sealed = vec![0; plain.len() + BLOCK_OVERHEAD];
        blocks.seal(BlockIndex(3), &plain, &mut sealed);
        if let Some(damaged) = damage.apply(&sealed) {
            let mut opened = vec![0; damaged.len().saturating_sub(BLOCK_OVERHEAD)];
            let outcome = blocks.open(BlockIndex(3), &damaged, &mut opened);
            // Cut to nothing it is a hole of no length.
            prop_assert!(outcome.is_err() || damaged.is_empty());
        }
    }

    #[test]
    fn a_damaged_name_is_refused(damage in damage(), length in 1usize..=255) {
        let name = vec![b'n'; length];
        let cipher_name = names(1).encrypt(&name).unwrap();
        prop_assert!(!matches!(names(2).classify(cipher_name.entry()), EntryName::Plain(_)));
        match cipher_name.sidecar() {
            None => {
                if let Some(damaged) = damage.apply(cipher_name.entry()) {
                    let classified = names(1).classify(&damaged);
                    prop_assert!(!matches!(classified, EntryName::Plain(_)), "{:?}", classified);
                }
            }
            Some((_, target)) => {
                prop_assert!(names(2).decrypt_long(cipher_name.entry(), target).is_none());
                if let Some(damaged) = damage.apply(target) {
                    prop_assert!(names(1).decrypt_long(cipher_name.entry(), &damaged).is_none());
                }
                if let Some(damaged) = damage.apply(cipher_name.entry()) {
                    prop_assert!(names(1).decrypt_long(&damaged, target).is_none());
                }
            }
        }
    }

    #[test]
    fn a_damaged_symlink_or_attribute_is_refused(damage in damage(), value in bytes(200)) {
        let master = master();
        let symlinks = SymlinkCipher::new(&master.symlink_key());
        let target = [&value[..], b"t"].concat();
        if let Some(damaged) = damage.apply(&symlinks.seal(&target).target) {
            prop_assert!(symlinks.open(&damaged).is_err());
        }
        let xattrs = XattrCipher::new(&master.xattr_key());
        for name in [&b"user.a"[..], &[&b"trusted."[..], &[b'n'; 240]].concat()] {
            let StoredName::Encrypted(stored) = xattrs.stored_name(name) else { unreachable!() };
            let sealed = xattrs.seal_value(&stored, name, &value);
            if let Some(damaged) = damage.apply(&sealed) {
                prop_assert!(xattrs.open_value(&stored, &damaged).is_err());
            }
            if let Some(damaged) = damage.apply(&stored) {
                prop_assert!(xattrs.open_value(&damaged, &sealed).is_err());
            }
        }
    }

    #[test]
    fn a_damaged_journal_or_state_is_refused(damage in damage(), path in bytes(100), sealed in bytes(100)) {
        let key = master().journal_key();
        let journal = JournalCodec::new(&key);
        let header = SegmentHeader {
            generation: 3,
            session: SessionId([4; 16]),
            first_sequence: 17,
            durable_until: (-5, 7),
        };
        let damaged = damage.apply(&journal.encode_header(&header));
        if let Some(Ok(header)) = damaged.map(TryInto::try_into) {
            prop_assert!(journal.decode_header(&header).is_none());
        }
        for record in [
            Record::File { local: 1, file_id: FileId([2; 16]), path },
            Record::Blocks { local: 1, first: BlockIndex(7), sealed },
            Record::Retire { generation: 2 },
            Record::Clean,
        ] {
            let mut bytes = Vec::new();
            journal.encode(&place(), &record, &mut bytes);
            if let Some(damaged) = damage.apply(&bytes) {
                prop_assert!(journal.decode(&place(), &damaged).is_none());
            }
        }
        let windows = vec![Window { from: 1, until: 2 }, Window { from: 3, until: i64::MAX }];
        if let Some(damaged) = damage.apply(&state::encode(&key, &windows)) {
            // White space says nothing.
            prop_assert!(state::decode(&key, &damaged).is_none_or(|read| read == windows));
        }
    }
}
