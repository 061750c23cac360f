//! The redo journal: two segment files, each a header and a sequence of records. A record is
//! accepted only with its tag, in its segment's generation, at its offset and with the next
//! sequence number, so that a stale, moved, forged or torn record ends the journal.
//!
//! ```text
//! segment header = "SRJOURNL" version (2) zero (6) generation (8) session (16)
//!                  first sequence (8) durable-until seconds (8) nanoseconds (4) zero (4)
//!                  tag (16)                                                        80 bytes
//! record         = kind (1) zero (3) payload length (4) sequence (8) payload tag (16)
//! ```
//! All integers are little-endian.

use super::header::{FILE_ID_LEN, FileId};
use super::layout::{BLOCK_OVERHEAD, BLOCK_SIZE, BlockIndex, CIPHER_BLOCK_SIZE, MAX_PLAIN_SIZE};
use crate::crypto::{
    AssociatedData, AuthenticationKey, Domain, JournalKey, NONCE_LEN, Nonce, TAG_LEN,
};

/// Bytes of a segment header.
pub const SEGMENT_HEADER_LEN: usize = SEGMENT_AUTHENTICATED + TAG_LEN;
/// Where the first record of a segment lies.
pub const FIRST_RECORD: u64 = 4096;
/// Bytes of a record before its payload.
pub const RECORD_HEADER_LEN: usize = 16;
/// Bytes that a record is longer than its payload.
pub const RECORD_OVERHEAD: usize = RECORD_HEADER_LEN + TAG_LEN;
/// Bytes of a blocks record's payload before the blocks.
pub const BLOCKS_PREFIX_LEN: usize = 16;
/// Bytes that a record's tag covers before the record itself.
pub const FRAME_LEN: usize = 39;
/// The longest payload that a reader accepts.
pub const PAYLOAD_MAX: usize = 4 << 20;

const SEGMENT_AUTHENTICATED: usize = 64;
const MAGIC: &[u8; 8] = b"SRJOURNL";
const VERSION: u16 = 1;

/// A random number that tells one mount's journal from another's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionId(pub [u8; 16]);

/// The header of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Rises by one with every segment begun; the segments are read in its order.
    pub generation: u64,
    /// The mount that wrote the segment.
    pub session: SessionId,
    /// The sequence number of its first record.
    pub first_sequence: u64,
    /// Everything changed before this time (seconds and nanoseconds since 1970) is durable.
    pub durable_until: (i64, u32),
}

/// A record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// `local (4) file ID (16) path`: the file that later records of this segment call `local`.
    File {
        /// Its number in this segment.
        local: u32,
        /// Its file ID.
        file_id: FileId,
        /// Its path below the ciphertext root, components separated by `/`.
        path: Vec<u8>,
    },
    /// `local (4) zero (4) first block (8) blocks`: sealed blocks to be written in place; only
    /// the last may be shorter than 4124 bytes, and then it is the file's last.
    Blocks {
        /// The file.
        local: u32,
        /// The first block.
        first: BlockIndex,
        /// The sealed blocks, joined.
        sealed: Vec<u8>,
    },
    /// `local (4) zero (4) plain size (8) sealed last block`: the file has this size; what earlier
    /// records say of blocks beyond it is void. Where the size ends inside a block, that block
    /// comes with the record: neither may be done without the other.
    Resize {
        /// The file.
        local: u32,
        /// In plain bytes.
        size: u64,
        /// The block that ends the file, if it is shorter than a full one and changes.
        tail: Vec<u8>,
    },
    /// `local (4) zero (4) first block (8) count (8)`: these blocks become holes.
    Punch {
        /// The file.
        local: u32,
        /// The first block.
        first: BlockIndex,
        /// How many.
        count: u64,
    },
    /// `seconds (8) nanoseconds (4)`: everything changed before this time is durable.
    DurableUntil {
        /// Since 1970.
        seconds: i64,
        /// Below 1,000,000,000.
        nanoseconds: u32,
    },
    /// `generation (8)`: everything in the segment of this generation is in place and durable.
    Retire {
        /// The generation.
        generation: u64,
    },
    /// Everything in the journal is in place and durable; the mount ended cleanly.
    Clean,
    /// `local (4) nanoseconds (4) seconds (8)`: the file's content was last changed at this time.
    Modified {
        /// The file.
        local: u32,
        /// Since 1970.
        seconds: i64,
        /// Below 1,000,000,000.
        nanoseconds: u32,
    },
}

impl Record {
    fn kind(&self) -> u8 {
        match self {
            Self::File { .. } => 1,
            Self::Blocks { .. } => 2,
            Self::Resize { .. } => 3,
            Self::Punch { .. } => 4,
            Self::DurableUntil { .. } => 5,
            Self::Retire { .. } => 6,
            Self::Clean => 7,
            Self::Modified { .. } => 8,
        }
    }

    fn payload(&self) -> Vec<u8> {
        let mut payload = Vec::new();
        match self {
            Self::File { local, file_id, path } => {
                payload.extend_from_slice(&local.to_le_bytes());
                payload.extend_from_slice(&file_id.0);
                payload.extend_from_slice(path);
            }
            Self::Blocks { local, first, sealed } => {
                payload.extend_from_slice(&blocks_prefix(*local, *first));
                payload.extend_from_slice(sealed);
            }
            Self::Resize { local, size, tail } => {
                payload.extend_from_slice(&blocks_prefix(*local, BlockIndex(*size)));
                payload.extend_from_slice(tail);
            }
            Self::Punch { local, first, count } => {
                payload.extend_from_slice(&blocks_prefix(*local, *first));
                payload.extend_from_slice(&count.to_le_bytes());
            }
            Self::DurableUntil { seconds, nanoseconds } => {
                payload.extend_from_slice(&seconds.to_le_bytes());
                payload.extend_from_slice(&nanoseconds.to_le_bytes());
            }
            Self::Retire { generation } => payload.extend_from_slice(&generation.to_le_bytes()),
            Self::Clean => {}
            Self::Modified { local, seconds, nanoseconds } => {
                payload.extend_from_slice(&local.to_le_bytes());
                payload.extend_from_slice(&nanoseconds.to_le_bytes());
                payload.extend_from_slice(&seconds.to_le_bytes());
            }
        }
        payload
    }

    fn parse(kind: u8, payload: &[u8]) -> Option<Self> {
        let prefix = || {
            let (prefix, rest) = payload.split_first_chunk::<BLOCKS_PREFIX_LEN>()?;
            let local = u32::from_le_bytes(*prefix.first_chunk()?);
            let first = BlockIndex(u64::from_le_bytes(*prefix.last_chunk()?));
            Some((local, first, rest))
        };
        match kind {
            1 => {
                let (local, rest) = payload.split_first_chunk::<4>()?;
                let (file_id, path) = rest.split_first_chunk::<FILE_ID_LEN>()?;
                Some(Self::File {
                    local: u32::from_le_bytes(*local),
                    file_id: FileId(*file_id),
                    path: path.to_vec(),
                })
            }
            2 => {
                let (local, first, sealed) = prefix()?;
                let last = sealed.len() % CIPHER_BLOCK_SIZE;
                if sealed.is_empty() || (last != 0 && last <= BLOCK_OVERHEAD) {
                    return None;
                }
                let count = sealed.len().div_ceil(CIPHER_BLOCK_SIZE);
                first.0.checked_add(u64::try_from(count).ok()?)?;
                Some(Self::Blocks { local, first, sealed: sealed.to_vec() })
            }
            3 => {
                let (local, BlockIndex(size), tail) = prefix()?;
                let last = BlockIndex::containing(size).plain_len(size);
                let fits = tail.is_empty() || (last > 0 && tail.len() == last + BLOCK_OVERHEAD);
                (fits && size <= MAX_PLAIN_SIZE).then(|| Self::Resize {
                    local,
                    size,
                    tail: tail.to_vec(),
                })
            }
            4 => {
                let (local, first, rest) = prefix()?;
                let count = u64::from_le_bytes(rest.try_into().ok()?);
                first.0.checked_add(count)?;
                Some(Self::Punch { local, first, count })
            }
            5 => {
                let (seconds, nanoseconds) = payload.split_first_chunk::<8>()?;
                Some(Self::DurableUntil {
                    seconds: i64::from_le_bytes(*seconds),
                    nanoseconds: u32::from_le_bytes(nanoseconds.try_into().ok()?),
                })
            }
            6 => Some(Self::Retire { generation: u64::from_le_bytes(payload.try_into().ok()?) }),
            7 => payload.is_empty().then_some(Self::Clean),
            8 => {
                let (local, rest) = payload.split_first_chunk::<4>()?;
                let (nanoseconds, seconds) = rest.split_first_chunk::<4>()?;
                let nanoseconds = u32::from_le_bytes(*nanoseconds);
                (nanoseconds < 1_000_000_000).then_some(Self::Modified {
                    local: u32::from_le_bytes(*local),
                    seconds: i64::from_le_bytes(seconds.try_into().ok()?),
                    nanoseconds,
                })
            }
            _ => None,
        }
    }
}

/// The first bytes of the payload of records about blocks.
pub fn blocks_prefix(local: u32, first: BlockIndex) -> [u8; BLOCKS_PREFIX_LEN] {
    let mut prefix = [0u8; BLOCKS_PREFIX_LEN];
    prefix[..4].copy_from_slice(&local.to_le_bytes());
    prefix[8..].copy_from_slice(&first.0.to_le_bytes());
    prefix
}

/// Splits the joined blocks of a [`Record::Blocks`] into single ones.
pub fn split_blocks(first: BlockIndex, sealed: &[u8]) -> impl Iterator<Item = (BlockIndex, &[u8])> {
    (first.0..).map(BlockIndex).zip(sealed.chunks(CIPHER_BLOCK_SIZE))
}

/// The plain length of a sealed block.
pub fn sealed_plain_len(sealed: &[u8]) -> usize {
    sealed.len().saturating_sub(BLOCK_OVERHEAD).min(BLOCK_SIZE)
}

/// Where a record stands; part of what its tag covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The segment's session.
    pub session: SessionId,
    /// The segment's generation.
    pub generation: u64,
    /// The record's offset in the segment.
    pub offset: u64,
    /// The record's sequence number, rising by one over all segments of a session.
    pub sequence: u64,
}

/// Makes and reads the journal.
pub struct JournalCodec(AuthenticationKey);

impl JournalCodec {
    /// With the vault's journal key.
    pub fn new(key: &JournalKey) -> Self {
        Self(AuthenticationKey::new(key.expose()))
    }

    /// Encodes a segment header.
    pub fn encode_header(&self, header: &SegmentHeader) -> [u8; SEGMENT_HEADER_LEN] {
        let mut bytes = [0u8; SEGMENT_HEADER_LEN];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..10].copy_from_slice(&VERSION.to_le_bytes());
        bytes[16..24].copy_from_slice(&header.generation.to_le_bytes());
        bytes[24..40].copy_from_slice(&header.session.0);
        bytes[40..48].copy_from_slice(&header.first_sequence.to_le_bytes());
        bytes[48..56].copy_from_slice(&header.durable_until.0.to_le_bytes());
        bytes[56..60].copy_from_slice(&header.durable_until.1.to_le_bytes());
        let data =
            AssociatedData::new(Domain::Journal, &[b"segment", &bytes[..SEGMENT_AUTHENTICATED]]);
        let tag = self.0.authenticate(Nonce::deterministic([0; NONCE_LEN]), &data);
        bytes[SEGMENT_AUTHENTICATED..].copy_from_slice(&tag);
        bytes
    }

    /// Decodes a segment header; `None` when it is not authentic.
    pub fn decode_header(&self, bytes: &[u8; SEGMENT_HEADER_LEN]) -> Option<SegmentHeader> {
        let (authenticated, tag) = bytes.split_last_chunk::<TAG_LEN>()?;
        let data = AssociatedData::new(Domain::Journal, &[b"segment", authenticated]);
        if !self.0.verify(&[0; NONCE_LEN], &data, tag) {
            return None;
        }
        if authenticated[..8] != *MAGIC
            || u16::from_le_bytes([authenticated[8], authenticated[9]]) != VERSION
        {
            return None;
        }
        Some(SegmentHeader {
            generation: u64::from_le_bytes(authenticated[16..24].try_into().ok()?),
            session: SessionId(authenticated[24..40].try_into().ok()?),
            first_sequence: u64::from_le_bytes(authenticated[40..48].try_into().ok()?),
            durable_until: (
                i64::from_le_bytes(authenticated[48..56].try_into().ok()?),
                u32::from_le_bytes(authenticated[56..60].try_into().ok()?),
            ),
        })
    }

    /// Encodes a record for its place, onto the end of `out`.
    ///
    /// # Panics
    /// When the payload exceeds [`PAYLOAD_MAX`].
    pub fn encode(&self, place: &Place, record: &Record, out: &mut Vec<u8>) {
        self.encode_parts(place, record.kind(), &[&record.payload()], out);
    }

    /// Encodes a [`Record::Blocks`] without owning its blocks; and without copying them more than
    /// once, where at least [`FRAME_LEN`] bytes stand in `out` before.
    ///
    /// # Panics
    /// When the payload exceeds [`PAYLOAD_MAX`].
    pub fn encode_blocks(
        &self,
        place: &Place,
        local: u32,
        first: BlockIndex,
        sealed: &[u8],
        out: &mut Vec<u8>,
    ) {
        self.encode_parts(place, 2, &[&blocks_prefix(local, first), sealed], out);
    }

    pub(super) fn encode_parts(
        &self,
        place: &Place,
        kind: u8,
        payload: &[&[u8]],
        out: &mut Vec<u8>,
    ) {
        let len: usize = payload.iter().map(|part| part.len()).sum();
        assert!(len <= PAYLOAD_MAX, "a journal record's payload is bounded");
        let start = out.len();
        out.extend_from_slice(&[kind, 0, 0, 0]);
        out.extend_from_slice(&u32::try_from(len).expect("bounded above").to_le_bytes());
        out.extend_from_slice(&place.sequence.to_le_bytes());
        for part in payload {
            out.extend_from_slice(part);
        }
        let tag = match start.checked_sub(FRAME_LEN) {
            Some(frame) => {
                // What stands before makes room for a moment.
                let mut before = frame_of(place);
                before.swap_with_slice(&mut out[frame..start]);
                let framed = &mut out[frame..];
                let tag = self.0.authenticate_framed(nonce(place), Domain::Journal, framed);
                out[frame..start].copy_from_slice(&before);
                tag
            }
            None => self.0.authenticate(nonce(place), &associated_data(place, &out[start..])),
        };
        out.extend_from_slice(&tag);
    }

    /// The payload length that a record's first bytes announce; `None` when they can't begin a
    /// record.
    pub fn announced_len(header: &[u8; RECORD_HEADER_LEN]) -> Option<usize> {
        let len = usize::try_from(u32::from_le_bytes(*header[4..].first_chunk()?)).ok()?;
        (header[0] != 0 && len <= PAYLOAD_MAX).then_some(len)
    }

    /// Decodes a whole record; `None` when it does not belong to this place.
    pub fn decode(&self, place: &Place, bytes: &[u8]) -> Option<Record> {
        let (authenticated, tag) = bytes.split_last_chunk::<TAG_LEN>()?;
        let (header, payload) = authenticated.split_first_chunk::<RECORD_HEADER_LEN>()?;
        if u64::from_le_bytes(*header.last_chunk()?) != place.sequence {
            return None;
        }
        if !self.0.verify(&nonce(place).bytes(), &associated_data(place, authenticated), tag) {
            return None;
        }
        Record::parse(header[0], payload)
    }
}

fn nonce(place: &Place) -> Nonce {
    let mut bytes = [0u8; NONCE_LEN];
    bytes[..8].copy_from_slice(&place.sequence.to_le_bytes());
    Nonce::deterministic(bytes)
}

fn associated_data(place: &Place, record: &[u8]) -> AssociatedData {
    AssociatedData::new(Domain::Journal, &[&frame_of(place)[1..], record])
}

/// What a record's tag covers before the record: room for the domain, and where it stands.
fn frame_of(place: &Place) -> [u8; FRAME_LEN] {
    let mut frame = [0u8; FRAME_LEN];
    frame[1..7].copy_from_slice(b"record");
    frame[7..23].copy_from_slice(&place.session.0);
    frame[23..31].copy_from_slice(&place.generation.to_le_bytes());
    frame[31..].copy_from_slice(&place.offset.to_le_bytes());
    frame
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::crypto::MasterKey;
    use proptest::prelude::*;

    fn codec() -> JournalCodec {
        JournalCodec::new(&MasterKey::from_bytes(&[1; 32]).journal_key())
    }

    fn place() -> Place {
        Place { session: SessionId([4; 16]), generation: 3, offset: 4096, sequence: 17 }
    }

    fn records() -> Vec<Record> {
        vec![
            Record::File { local: 1, file_id: FileId([2; 16]), path: b"abc/def".to_vec() },
            Record::Blocks {
                local: 1,
                first: BlockIndex(7),
                sealed: vec![9; CIPHER_BLOCK_SIZE + 100],
            },
            Record::Resize { local: 1, size: 12_345, tail: vec![5; 57 + BLOCK_OVERHEAD] },
            Record::Resize { local: 1, size: 12_345, tail: Vec::new() },
            Record::Punch { local: 1, first: BlockIndex(3), count: 9 },
            Record::DurableUntil { seconds: -1, nanoseconds: 999_999_999 },
            Record::Retire { generation: 2 },
            Record::Clean,
            Record::Modified { local: 1, seconds: -1, nanoseconds: 999_999_999 },
        ]
    }

    #[test]
    fn records_come_back_at_their_place_only() {
        for record in records() {
            let mut bytes = Vec::new();
            codec().encode(&place(), &record, &mut bytes);
            let announced = JournalCodec::announced_len(bytes.first_chunk().unwrap()).unwrap();
            assert_eq!(announced + RECORD_OVERHEAD, bytes.len());
            assert_eq!(codec().decode(&place(), &bytes), Some(record));
            for other in [
                Place { session: SessionId([5; 16]), ..place() },
                Place { generation: 4, ..place() },
                Place { offset: 8192, ..place() },
                Place { sequence: 18, ..place() },
            ] {
                assert_eq!(codec().decode(&other, &bytes), None);
            }
            for index in 0..bytes.len() {
                let mut changed = bytes.clone();
                changed[index] ^= 1;
                assert_eq!(codec().decode(&place(), &changed), None);
            }
        }
    }

    #[test]
    fn blocks_past_every_file_are_none() {
        for (first, good) in
            [(0, true), (u64::MAX - 2, true), (u64::MAX - 1, false), (u64::MAX, false)]
        {
            let first = BlockIndex(first);
            let sealed = vec![9; CIPHER_BLOCK_SIZE + 100];
            let record = Record::Blocks { local: 1, first, sealed };
            let read = Record::parse(record.kind(), &record.payload());
            assert_eq!(read.is_some(), good, "{first:?}");
            if let Some(Record::Blocks { first, sealed, .. }) = read {
                assert_eq!(split_blocks(first, &sealed).count(), 2);
            }
        }
    }

    #[test]
    fn blocks_encode_alike_owned_or_not() {
        let sealed = vec![9; 300];
        let (mut owned, mut borrowed) = (Vec::new(), Vec::new());
        let record = Record::Blocks { local: 5, first: BlockIndex(1), sealed: sealed.clone() };
        codec().encode(&place(), &record, &mut owned);
        codec().encode_blocks(&place(), 5, BlockIndex(1), &sealed, &mut borrowed);
        assert_eq!(owned, borrowed);
        for before in [1, FRAME_LEN - 1, FRAME_LEN, 100] {
            let mut behind = vec![7; before];
            codec().encode_blocks(&place(), 5, BlockIndex(1), &sealed, &mut behind);
            assert_eq!(behind[..before], vec![7; before]);
            assert_eq!(behind[before..], owned);
        }
    }

    #[test]
    fn segment_headers_come_back_and_every_change_is_found() {
        let header = SegmentHeader {
            generation: 8,
            session: SessionId([1; 16]),
            first_sequence: 4,
            durable_until: (-5, 6),
        };
        let bytes = codec().encode_header(&header);
        assert_eq!(codec().decode_header(&bytes), Some(header));
        for index in 0..bytes.len() {
            let mut changed = bytes;
            changed[index] ^= 0x80;
            assert_eq!(codec().decode_header(&changed), None);
        }
    }

    proptest! {
        #[test]
        fn foreign_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in any::<u8>()) {
            prop_assert_eq!(codec().decode(&place(), &bytes), None);
            let _ = Record::parse(kind, &bytes);
        }
    }
}
