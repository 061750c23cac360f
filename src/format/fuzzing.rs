//! Doors for fuzzing into the decoders of this module. Each takes any bytes, panics where a
//! decoder does not keep its word, and says whether the bytes were taken for something; and has
//! examples of what is.
//!
//! Past a seal no fuzzer finds its way by chance: there its bytes are what is sealed, under a key
//! that the target has.

use base64ct::{Base64UrlUnpadded, Encoding};
use sha2::{Digest as _, Sha256};

use super::archive::{
    ArchiveFormatError, ArchiveHeader, ArchiveId, Compression, FOOTER_LEN, Footer, PREFIX_LEN,
    SegmentLayout, UnverifiedHeader, header_len,
};
use super::block::BlockCipher;
use super::config::{Config, Derivation, SealedConfig, SlotId, SlotParameters};
use super::directory::{DirId, DirectoryCodec};
use super::header::{FileId, HEADER_LEN, HeaderCodec};
use super::journal::{
    JournalCodec, Place, RECORD_HEADER_LEN, RECORD_OVERHEAD, Record, SEGMENT_HEADER_LEN,
    SegmentHeader, SessionId, split_blocks,
};
use super::layout::{BLOCK_OVERHEAD, BlockIndex, CIPHER_BLOCK_SIZE};
use super::name::{CipherName, EntryName, NameCipher, long_entry_of, sidecar_of};
use super::state::{self, Window};
use super::symlink::{SymlinkCipher, plain_len, split_overflow};
use super::xattr::{Classified, XattrCipher, inline_value, overflow_value, parse_value};
use crate::crypto::{
    AssociatedData, Domain, KeyFile, MIN_KEY_FILE_LEN, MasterKey, NONCE_LEN, Nonce, SALT_LEN,
    SealingKey, Secret, TAG_LEN,
};

const DIRECTORY: DirId = DirId([7; 16]);

/// The key that is known.
pub(crate) fn master() -> MasterKey {
    MasterKey::from_bytes(&[1; 32])
}

fn secret() -> Secret {
    let content = vec![b'k'; MIN_KEY_FILE_LEN];
    Secret::KeyFile(KeyFile::new(content.into()).expect("long enough"))
}

/// A configuration under the key that is known.
pub(crate) fn example_config() -> SealedConfig {
    let mut config = Config::new(1_700_000_000);
    config.vault_id.0 = [3; 16];
    for (id, label) in [(1, ""), (2, "a file")] {
        let parameters = SlotParameters {
            id: SlotId(id),
            label: label.to_owned(),
            created: 1_700_000_000,
            derivation: Derivation::KeyFile,
            salt: [9; SALT_LEN],
        };
        let key = parameters.derive(&secret()).ok().flatten().expect("of the same kind");
        config.slots.push(config.wrap(parameters, &key, &master()));
    }
    config.seal(&master().config_key())
}

/// `vault.json`.
pub fn config(bytes: &[u8]) -> bool {
    let Ok(config) = SealedConfig::decode(bytes) else { return false };
    let again = SealedConfig::decode(&config.encode());
    assert_eq!(again.as_ref(), Ok(&config), "what is read is written as it was");
    for slot in &config.unverified().slots {
        if let Ok(Some(key)) = slot.parameters.derive(&secret()) {
            // A slot that still opens was not touched, nor anything that is bound into it.
            let _ = config.unverified().unwrap(slot, &key);
        }
    }
    config.verify(&master().config_key()).is_ok()
}

/// What [`config`] takes.
pub fn config_examples() -> Vec<Vec<u8>> {
    vec![example_config().encode()]
}

fn names() -> NameCipher {
    NameCipher::new(NameCipher::schedule(&master().name_key()), DIRECTORY)
}

fn place() -> Place {
    Place { session: SessionId([4; 16]), generation: 3, offset: 4096, sequence: 17 }
}

/// All the small things that stand in a ciphertext directory, as they stand there.
pub fn records(bytes: &[u8]) -> bool {
    let master = master();
    let mut taken = false;
    if let Ok(directory) = DirectoryCodec::new(&master.directory_key()).decode(bytes) {
        assert_eq!(DirectoryCodec::new(&master.directory_key()).encode(directory), bytes);
        taken = true;
    }
    let _ = DirectoryCodec::new(&master.directory_key()).decode_unverified(bytes);
    taken |= state::decode(&master.journal_key(), bytes).is_some();

    taken |= SymlinkCipher::new(&master.symlink_key()).open(bytes).is_ok();
    if let Some((id, first)) = split_overflow(bytes) {
        assert!(!id.contains(['/', '\0']) && id.len() + 1 + first.len() == bytes.len());
        taken = true;
    }
    let _ = plain_len(bytes.len() as u64);

    match names().classify(bytes) {
        EntryName::Plain(name) => {
            let cipher_name = names().encrypt(&name);
            // One that is too long for an entry is what a sidecar holds. What is no name, nobody
            // makes without the key; with it, the kernel refuses it.
            let same = |it: &CipherName| bytes.len() > 255 || it.entry() == bytes;
            assert!(cipher_name.as_ref().is_ok_and(same) || cipher_name.is_err());
            taken = true;
        }
        EntryName::Long { sidecar } => {
            assert_eq!(sidecar_of(bytes).as_ref(), Some(&sidecar));
            assert_eq!(long_entry_of(&sidecar).as_deref(), Some(bytes));
            taken = true;
        }
        EntryName::Reserved | EntryName::Dots | EntryName::Damaged => {}
    }
    let long = [b"strongroom.long.", hash_name(bytes).as_bytes()].concat();
    taken |= names().decrypt_long(&long, bytes).is_some();

    let xattrs = XattrCipher::new(&master.xattr_key());
    taken |= matches!(xattrs.classify(bytes), Classified::Plain(_) | Classified::Long);
    taken |= parse_value(bytes).is_some();
    taken |= xattrs.open_value(b"user.sr.x", bytes).is_ok();

    let blocks = BlockCipher::new(&master.content_key(), FileId([9; 16]));
    let mut plain = vec![0; bytes.len().saturating_sub(BLOCK_OVERHEAD)];
    taken |=
        bytes.len() <= CIPHER_BLOCK_SIZE && blocks.open(BlockIndex(3), bytes, &mut plain).is_ok();

    let journal = JournalCodec::new(&master.journal_key());
    taken |= journal.decode(&place(), bytes).is_some();
    if let Some(start) = bytes.first_chunk::<RECORD_HEADER_LEN>() {
        let _ = JournalCodec::announced_len(start);
    }
    if let Some(header) = bytes.first_chunk::<SEGMENT_HEADER_LEN>() {
        taken |= journal.decode_header(header).is_some();
    }
    if let Some(header) = bytes.first_chunk::<HEADER_LEN>() {
        taken |= HeaderCodec::new(&master.header_key()).decode(header).is_ok();
    }
    taken
}

fn hash_name(bytes: &[u8]) -> String {
    Base64UrlUnpadded::encode_string(&Sha256::digest(bytes))
}

/// What [`records`] takes.
pub fn records_examples() -> Vec<Vec<u8>> {
    let master = master();
    let symlinks = SymlinkCipher::new(&master.symlink_key());
    let xattrs = XattrCipher::new(&master.xattr_key());
    let journal = JournalCodec::new(&master.journal_key());
    let mut block = vec![0; 100 + BLOCK_OVERHEAD];
    BlockCipher::new(&master.content_key(), FileId([9; 16])).seal(
        BlockIndex(3),
        &[b'b'; 100],
        &mut block,
    );
    let header = SegmentHeader {
        generation: 3,
        session: SessionId([4; 16]),
        first_sequence: 17,
        durable_until: (-5, 7),
    };
    let mut record = Vec::new();
    journal.encode(&place(), &Record::Retire { generation: 2 }, &mut record);
    let windows = [Window { from: 1, until: 2 }, Window { from: 3, until: i64::MAX }];
    let long = names().encrypt(&[b'n'; 255]).expect("a name");
    let (_, sidecar_target) = long.sidecar().expect("a long name has a sidecar");
    vec![
        DirectoryCodec::new(&master.directory_key()).encode(DIRECTORY),
        state::encode(&master.journal_key(), &windows),
        symlinks.seal(b"../target").target,
        symlinks.seal(&[b't'; 4000]).target,
        names().encrypt(b"name").expect("a name").entry().to_vec(),
        long.entry().to_vec(),
        sidecar_target.to_vec(),
        inline_value(&xattrs.seal_value(b"user.sr.x", b"user.x", b"value")),
        xattrs.seal_value(b"user.sr.x", b"user.x", b"value"),
        overflow_value(&"i".repeat(super::symlink::OVERFLOW_ID_LEN)),
        block,
        record,
        journal.encode_header(&header).to_vec(),
        HeaderCodec::new(&master.header_key()).encode(FileId([9; 16])).to_vec(),
    ]
}

/// Nonce, ciphertext and tag.
fn seal(key: &SealingKey, domain: Domain, bound: &[&[u8]], plain: &[u8]) -> Vec<u8> {
    let mut cipher = vec![0; plain.len()];
    let nonce = [0; NONCE_LEN];
    let data = AssociatedData::new(domain, bound);
    let tag = key.seal(Nonce::deterministic(nonce), &data, plain, &mut cipher);
    [&nonce[..], &cipher, &tag].concat()
}

/// What lies behind the seals of names, symlinks, attributes and journal records; the first byte
/// says of which.
pub fn sealed(bytes: &[u8]) -> bool {
    let Some((kind, plain)) = bytes.split_first() else { return false };
    let master = master();
    match kind % 5 {
        0 => {
            let key = SealingKey::new(master.symlink_key().expose());
            let sealed = seal(&key, Domain::Symlink, &[], plain);
            let text = Base64UrlUnpadded::encode_string(&sealed).into_bytes();
            let opened = SymlinkCipher::new(&master.symlink_key()).open(&text);
            assert_eq!(opened.as_deref(), Ok(plain));
            true
        }
        1 => {
            let nonce: [u8; NONCE_LEN] = *DIRECTORY.0.first_chunk().expect("it is longer");
            let data = AssociatedData::new(Domain::Name, &[&DIRECTORY.0]);
            let mut body = vec![0; plain.len()];
            let key = SealingKey::new(master.name_key().expose());
            let tag = key.seal(Nonce::deterministic(nonce), &data, plain, &mut body);
            let entry = Base64UrlUnpadded::encode_string(&[&tag[..], &body].concat());
            matches!(names().classify(entry.as_bytes()), EntryName::Plain(_))
        }
        2 => {
            let key = SealingKey::new(master.xattr_key().expose());
            let sealed = seal(&key, Domain::XattrName, &[b"user."], plain);
            let (cipher, tag) = sealed[NONCE_LEN..].split_at(plain.len());
            let text = Base64UrlUnpadded::encode_string(&[tag, cipher].concat());
            let stored = format!("user.sr.{text}");
            let xattrs = XattrCipher::new(&master.xattr_key());
            matches!(xattrs.classify(stored.as_bytes()), Classified::Plain(_))
        }
        3 => {
            let stored = b"user.srl.x";
            let key = SealingKey::new(master.xattr_key().expose());
            let sealed = seal(&key, Domain::XattrValue, &[stored], plain);
            XattrCipher::new(&master.xattr_key()).open_value(stored, &sealed).is_ok()
        }
        _ => {
            let Some((kind, payload)) = plain.split_first() else { return false };
            let journal = JournalCodec::new(&master.journal_key());
            let mut bytes = Vec::new();
            journal.encode_parts(&place(), *kind, &[payload], &mut bytes);
            assert_eq!(bytes.len(), payload.len() + RECORD_OVERHEAD);
            let Some(record) = journal.decode(&place(), &bytes) else { return false };
            if let Record::Blocks { first, sealed, .. } = &record {
                let blocks = split_blocks(*first, sealed);
                assert_eq!(blocks.map(|(_, block)| block.len()).sum::<usize>(), sealed.len());
            }
            let mut again = Vec::new();
            journal.encode(&place(), &record, &mut again);
            assert_eq!(journal.decode(&place(), &again), Some(record));
            true
        }
    }
}

/// What [`sealed`] takes.
pub fn sealed_examples() -> Vec<Vec<u8>> {
    let mut examples = vec![
        [&[0][..], b"../target"].concat(),
        [&[1][..], b"name\0\0\0\0\0\0\0\0\0\0\0\0"].concat(),
        [&[2][..], b"name\0\0\0\0\0\0\0\0\0\0\0\0"].concat(),
        [&[3][..], &[6, 0], b"user.xvalue"].concat(),
    ];
    let journal = JournalCodec::new(&master().journal_key());
    for record in [
        Record::File { local: 1, file_id: FileId([2; 16]), path: b"abc/def".to_vec() },
        Record::Blocks { local: 1, first: BlockIndex(7), sealed: vec![9; 100] },
        Record::Resize { local: 1, size: 12_345, tail: vec![5; 57 + BLOCK_OVERHEAD] },
        Record::Punch { local: 1, first: BlockIndex(3), count: 9 },
        Record::DurableUntil { seconds: -1, nanoseconds: 999_999_999 },
        Record::Retire { generation: 2 },
        Record::Clean,
        Record::Modified { local: 1, seconds: -1, nanoseconds: 999_999_999 },
    ] {
        let mut bytes = Vec::new();
        journal.encode(&place(), &record, &mut bytes);
        let payload = &bytes[RECORD_HEADER_LEN..bytes.len() - TAG_LEN];
        examples.push([&[4, bytes[0]], payload].concat());
    }
    examples
}

/// The header of a sealed archive, where its segments lie, and its footer: the last 24 bytes.
pub fn archive_header(bytes: &[u8]) -> bool {
    let Some(prefix) = bytes.first_chunk::<PREFIX_LEN>() else { return false };
    let Ok(length) = header_len(prefix) else { return false };
    let Some(header) = bytes.get(..length) else { return false };
    let Ok(unverified) = UnverifiedHeader::decode(header.to_vec()) else { return false };
    let rest = bytes.len() as u64;
    let layout = SegmentLayout::new(length as u64, unverified.unverified().segment_log2, rest);
    if let Ok(layout) = layout {
        let mut end = length as u64;
        let mut payload = 0;
        for index in 0..layout.segments() {
            let (offset, length, number, last) = layout.segment(index).expect("it is there");
            assert_eq!((offset, u64::from(number)), (end, index));
            assert_eq!(last, index + 1 == layout.segments());
            end += length as u64;
            payload += (length - TAG_LEN) as u64;
        }
        assert_eq!((end, payload), (rest, layout.payload_len()));
        assert_eq!(layout.segment(layout.segments()), None);
        if let Some(footer) = bytes.last_chunk::<FOOTER_LEN>() {
            let read = Footer::decode(footer, layout.payload_len());
            assert!(read.is_err() || read.is_ok_and(|read| read.encode() == *footer));
        }
    }
    let id = unverified.unverified().id;
    match unverified.verify(&master().archive_key(&id.0)) {
        Ok((header, _)) => {
            assert_eq!(header.encode(&master().archive_key(&id.0)), bytes[..length]);
            true
        }
        Err(ArchiveFormatError::Forged) => false,
        Err(other) => unreachable!("{other}"),
    }
}

/// What [`archive_header`] takes.
pub fn archive_header_examples() -> Vec<Vec<u8>> {
    let id = ArchiveId([7; 32]);
    let header = ArchiveHeader {
        compression: Compression::Zstd,
        segment_log2: 12,
        id,
        config: example_config(),
    };
    let mut bytes = header.encode(&master().archive_key(&id.0));
    let bare = bytes.clone();
    // Two segments, the second one with a footer where it would be if nothing were sealed.
    bytes.extend([0; 4096 + TAG_LEN + 200]);
    let payload = 4096 + 200 - TAG_LEN as u64;
    let footer = Footer { index_offset: 40, compressed_len: payload - FOOTER_LEN as u64 };
    bytes.extend(footer.encode());
    let at = bytes.len() - FOOTER_LEN;
    bytes.drain(at - FOOTER_LEN..at);
    vec![bare, bytes]
}
