//! The test vectors of `tests/vectors/`, which another implementation made
//! (`integration/decoder/make_vectors.py`): what it wrote is read here, and what is deterministic
//! is written the same.

#![allow(clippy::unwrap_used)]

use serde::Deserialize;
use zeroize::Zeroizing;

use super::block::{BlockCipher, Opened};
use super::config::{Config, SealedConfig};
use super::directory::{DirId, DirectoryCodec};
use super::header::{FileId, HeaderCodec};
use super::journal::{
    JournalCodec, Place, RECORD_HEADER_LEN, RECORD_OVERHEAD, Record, SegmentHeader, SessionId,
};
use super::layout::{self, BLOCK_OVERHEAD, BlockIndex};
use super::name::{EntryName, NameCipher};
use super::state::{self, Window};
use super::symlink::{SymlinkCipher, split_overflow};
use super::xattr::{Classified, StoredName, StoredValue, XattrCipher, parse_value};
use crate::crypto::{KeyFile, MasterKey, Passphrase, RecoveryKey, Secret, sha256};

/// Bytes, in hexadecimal.
struct Hex(Vec<u8>);

impl<'de> Deserialize<'de> for Hex {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let pairs = (0..text.len()).step_by(2);
        Ok(Self(pairs.map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()))
    }
}

impl Hex {
    fn array<const N: usize>(&self) -> [u8; N] {
        self.0.as_slice().try_into().unwrap()
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Vectors {
    master_key: Hex,
    keys: Keys,
    config: ConfigVector,
    sizes: Vec<(u64, u64)>,
    directory_records: Vec<RecordVector>,
    names: Vec<NameVector>,
    headers: Vec<HeaderVector>,
    blocks: Vec<BlockVector>,
    symlinks: Vec<SymlinkVector>,
    xattrs: Vec<XattrVector>,
    journal: JournalVector,
    state: StateVector,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys {
    content: Hex,
    header: Hex,
    name: Hex,
    directory: Hex,
    symlink: Hex,
    xattr: Hex,
    journal: Hex,
    config: Hex,
    migration: Hex,
    file: Hex,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ConfigVector {
    passphrase: Hex,
    key_file: Hex,
    recovery_words: String,
    slot_bindings: Vec<Hex>,
    mac_input: Hex,
    text: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RecordVector {
    directory_id: Hex,
    target: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NameVector {
    directory_id: Hex,
    plain: Hex,
    entry: String,
    sidecar: Option<String>,
    sidecar_target: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HeaderVector {
    file_id: Hex,
    header: Hex,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BlockVector {
    file_id: Hex,
    index: u64,
    plain: Hex,
    sealed: Hex,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SymlinkVector {
    plain: Hex,
    target: String,
    overflow: Option<String>,
    overflow_target: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct XattrVector {
    name: Hex,
    value: Hex,
    stored_name: String,
    stored_value: Hex,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JournalVector {
    header: Hex,
    session: Hex,
    generation: u64,
    first_sequence: u64,
    records_at: u64,
    records: Hex,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StateVector {
    windows: Vec<Window>,
    text: String,
}

fn vectors() -> (Vectors, MasterKey) {
    let text = include_str!("../../tests/vectors/format-1.json");
    let vectors: Vectors = serde_json::from_str(text).unwrap();
    let master = MasterKey::from_bytes(&vectors.master_key.array());
    (vectors, master)
}

#[test]
fn keys() {
    let (Vectors { keys, headers, .. }, master) = vectors();
    let content = master.content_key();
    assert_eq!(content.expose(), &keys.content.array());
    assert_eq!(master.header_key().expose(), &keys.header.array());
    assert_eq!(master.name_key().expose(), &keys.name.array());
    assert_eq!(master.directory_key().expose(), &keys.directory.array());
    assert_eq!(master.symlink_key().expose(), &keys.symlink.array());
    assert_eq!(master.xattr_key().expose(), &keys.xattr.array());
    assert_eq!(master.journal_key().expose(), &keys.journal.array());
    assert_eq!(master.config_key().expose(), &keys.config.array());
    assert_eq!(master.migration_key().expose(), &keys.migration.array());
    assert_eq!(content.file_key(&headers[0].file_id.array()).expose(), &keys.file.array());
}

#[test]
fn configuration() {
    let (Vectors { config, .. }, master) = vectors();
    let sealed = SealedConfig::decode(config.text.as_bytes()).unwrap();
    assert_eq!(String::from_utf8(sealed.encode()).unwrap(), config.text);
    let read: &Config = sealed.unverified();
    assert_eq!(read.canonical_for_mac(), config.mac_input.0);
    let secrets = [
        Secret::Passphrase(Passphrase::new(Zeroizing::new(config.passphrase.0)).unwrap()),
        Secret::KeyFile(KeyFile::new(Zeroizing::new(config.key_file.0)).unwrap()),
        Secret::RecoveryKey(RecoveryKey::parse(&config.recovery_words).unwrap()),
    ];
    assert_eq!(read.slots.len(), secrets.len());
    for ((slot, secret), binding) in read.slots.iter().zip(&secrets).zip(&config.slot_bindings) {
        assert_eq!(read.binding(&slot.parameters), binding.array());
        let key = slot.parameters.derive(secret).unwrap().unwrap();
        let unwrapped = read.unwrap(slot, &key).unwrap();
        assert_eq!(unwrapped.expose(), master.expose());
        sealed.verify(&unwrapped.config_key()).unwrap();
    }
    let resealed = read.clone().seal(&master.config_key());
    assert_eq!(resealed, sealed, "the MAC is deterministic");
}

#[test]
fn sizes() {
    for (plain, cipher) in vectors().0.sizes {
        assert_eq!(layout::cipher_size(plain), cipher);
        assert_eq!(layout::plain_size(cipher), plain);
    }
}

#[test]
fn directory_records() {
    let (Vectors { directory_records, .. }, master) = vectors();
    let codec = DirectoryCodec::new(&master.directory_key());
    for vector in directory_records {
        let id = DirId(vector.directory_id.array());
        assert_eq!(codec.encode(id), vector.target.as_bytes());
        assert_eq!(codec.decode(vector.target.as_bytes()), Ok(id));
    }
}

#[test]
fn names() {
    let (Vectors { names, .. }, master) = vectors();
    let key = NameCipher::schedule(&master.name_key());
    for vector in names {
        let cipher = NameCipher::new(key.clone(), DirId(vector.directory_id.array()));
        let entry = vector.entry.as_bytes();
        let name = cipher.encrypt(&vector.plain.0).unwrap();
        assert_eq!(name.entry(), entry);
        let sidecar = name.sidecar().map(|(name, target)| (name, target.to_vec()));
        let expected = vector.sidecar.zip(vector.sidecar_target);
        assert_eq!(sidecar, expected.map(|(name, target)| (name.into(), target.into())));
        match sidecar {
            None => assert_eq!(cipher.classify(entry), EntryName::Plain(vector.plain.0)),
            Some((sidecar, target)) => {
                assert_eq!(cipher.classify(entry), EntryName::Long { sidecar });
                assert_eq!(cipher.decrypt_long(entry, &target), Some(vector.plain.0));
            }
        }
    }
}

#[test]
fn headers_and_blocks() {
    let (Vectors { headers, blocks, .. }, master) = vectors();
    let codec = HeaderCodec::new(&master.header_key());
    for vector in headers {
        let id = FileId(vector.file_id.array());
        assert_eq!(codec.encode(id), vector.header.array());
        assert_eq!(codec.decode(&vector.header.array()), Ok(id));
    }
    for vector in blocks {
        let cipher = BlockCipher::new(&master.content_key(), FileId(vector.file_id.array()));
        let mut plain = vec![0; vector.sealed.0.len() - BLOCK_OVERHEAD];
        let opened = cipher.open(BlockIndex(vector.index), &vector.sealed.0, &mut plain);
        assert_eq!(opened, Ok(Opened::Data));
        assert_eq!(plain, vector.plain.0);
    }
}

#[test]
fn symlinks() {
    let (Vectors { symlinks, .. }, master) = vectors();
    let cipher = SymlinkCipher::new(&master.symlink_key());
    for vector in symlinks {
        let target = vector.target.as_bytes();
        let whole = match (split_overflow(target), vector.overflow) {
            (Some((id, first)), Some(overflow)) => {
                assert_eq!(id, overflow);
                [first, vector.overflow_target.unwrap().as_bytes()].concat()
            }
            (None, None) => target.to_vec(),
            other => unreachable!("{other:?}"),
        };
        assert_eq!(cipher.open(&whole).unwrap(), vector.plain.0);
        let ours = cipher.seal(&vector.plain.0);
        assert_eq!(ours.target.len(), vector.target.len());
    }
}

#[test]
fn extended_attributes() {
    let (Vectors { xattrs, .. }, master) = vectors();
    let cipher = XattrCipher::new(&master.xattr_key());
    for vector in xattrs {
        let stored = vector.stored_name.as_bytes();
        assert_eq!(cipher.stored_name(&vector.name.0), StoredName::Encrypted(stored.to_vec()));
        let Some(StoredValue::Inline(sealed)) = parse_value(&vector.stored_value.0) else {
            unreachable!("the vectors are inline")
        };
        let (long_name, value) = cipher.open_value(stored, sealed).unwrap();
        assert_eq!(value, vector.value.0);
        match cipher.classify(stored) {
            Classified::Plain(name) => assert_eq!((name, long_name), (vector.name.0, None)),
            Classified::Long => assert_eq!(long_name, Some(vector.name.0)),
            other => unreachable!("{other:?}"),
        }
    }
}

#[test]
fn the_journal() {
    let (Vectors { journal, blocks, .. }, master) = vectors();
    let codec = JournalCodec::new(&master.journal_key());
    let header = SegmentHeader {
        generation: journal.generation,
        session: SessionId(journal.session.array()),
        first_sequence: journal.first_sequence,
        durable_until: (1_750_000_000, 9),
    };
    assert_eq!(codec.encode_header(&header), journal.header.array());
    assert_eq!(codec.decode_header(&journal.header.array()), Some(header));

    let file_id = FileId(blocks[0].file_id.array());
    let mut rest = journal.records.0.as_slice();
    let mut place = Place {
        session: header.session,
        generation: header.generation,
        offset: journal.records_at,
        sequence: header.first_sequence,
    };
    let mut read = Vec::new();
    while !rest.is_empty() {
        let len =
            JournalCodec::announced_len(rest[..RECORD_HEADER_LEN].try_into().unwrap()).unwrap();
        let (bytes, after) = rest.split_at(len + RECORD_OVERHEAD);
        let record = codec.decode(&place, bytes).unwrap();
        let mut again = Vec::new();
        codec.encode(&place, &record, &mut again);
        assert_eq!(again, bytes);
        read.push(record);
        place.offset += u64::try_from(bytes.len()).unwrap();
        place.sequence += 1;
        rest = after;
    }
    let Record::Blocks { local: 1, first: BlockIndex(3), sealed } = read.remove(1) else {
        unreachable!("{read:?}")
    };
    let mut plain = [0; 14];
    let cipher = BlockCipher::new(&master.content_key(), file_id);
    cipher.open(BlockIndex(3), &sealed, &mut plain).unwrap();
    assert_eq!(&plain, b"in the journal");
    assert_eq!(
        read,
        [
            Record::File { local: 1, file_id, path: b"directory/file".to_vec() },
            Record::Resize { local: 1, size: 9, tail: Vec::new() },
            Record::Punch { local: 1, first: BlockIndex(0), count: 2 },
            Record::DurableUntil { seconds: -1, nanoseconds: 999_999_999 },
            Record::Retire { generation: 4 },
            Record::Clean,
        ]
    );
}

#[test]
fn the_state() {
    let (Vectors { state, .. }, master) = vectors();
    let key = master.journal_key();
    assert_eq!(state::encode(&key, &state.windows), state.text.as_bytes());
    assert_eq!(state::decode(&key, state.text.as_bytes()), Some(state.windows));
}

/// The decoder's list of words is that of BIP-39.
#[test]
fn words() {
    let words = include_bytes!("../../integration/decoder/bip39-english.txt");
    let hash: String = sha256(&[words]).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hash, "2f5eed53a4727b4bf8880d8f3f199efc90e58503646d9ff8eff3a2ed3b24dbda");
}

/// The rows of the table in `docs/format.md` that begins with this heading.
fn table(heading: &str) -> Vec<Vec<&'static str>> {
    let page = include_str!("../../docs/format.md");
    let rows: Vec<_> = page
        .lines()
        .skip_while(|line| !line.starts_with(heading))
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    assert!(!rows.is_empty(), "{heading} is in the page");
    rows
}

#[test]
fn the_page_shows_the_vectors() {
    let page = include_str!("../../docs/format.md");
    let text = include_str!("../../tests/vectors/format-1.json");
    let vectors: serde_json::Value = serde_json::from_str(text).unwrap();
    for pointer in [
        "/config/text",
        "/headers/0/header",
        "/blocks/0/sealed",
        "/directory_records/0/target",
        "/names/1/entry",
        "/xattrs/0/stored_name",
    ] {
        assert!(page.contains(vectors.pointer(pointer).unwrap().as_str().unwrap()), "{pointer}");
    }
    let labels = table("| Label | Key |").len();
    assert_eq!(labels + 1, vectors["keys"].as_object().unwrap().len(), "and the file key");
    for label in vectors["keys"].as_object().unwrap().keys() {
        assert!(page.contains(&format!("`strongroom v1 {label}`")), "{label}");
    }
}

#[test]
fn the_sizes_of_the_page() {
    for row in table("| Plain size | Size on disk |") {
        let [plain, cipher] = [0, 1].map(|column| row[column].parse().unwrap());
        assert_eq!(layout::cipher_size(plain), cipher);
        assert_eq!(layout::plain_size(cipher), plain);
    }
    let key = NameCipher::schedule(&vectors().1.name_key());
    let cipher = NameCipher::new(key, DirId([0; 16]));
    for row in table("| Plain name | Cipher name |") {
        let bounds = row[0].trim_end_matches(" bytes").split(" to ");
        let expected = [1, 2].map(|column: usize| row[column].parse::<usize>().unwrap());
        for length in bounds {
            let name = cipher.encrypt(&vec![b'x'; length.parse().unwrap()]).unwrap();
            let whole = name.sidecar().map_or(name.entry().len(), |(_, target)| target.len());
            assert_eq!([whole, name.entry().len()], expected, "{length}");
        }
    }
}
