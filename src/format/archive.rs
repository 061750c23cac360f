//! A sealed archive: its header, where its segments lie, and the footer of its payload.
//!
//! ```text
//! header: magic 8 | version 2 | compression 1 | log2(segment) 1 | config length 4 |
//!         archive ID 32 | configuration (the JSON of a vault.json) | HMAC-SHA256 32
//! then:   segments, each of the segment size and a 16-byte tag; the last one may be shorter
//! ```
//!
//! The payload is the compressed tar and then a [`Footer`]. Numbers are little-endian.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::config::{ConfigError, MAX_CONFIG_LEN, SealedConfig};
use crate::crypto::{
    ArchiveKey, MAC_LEN, SEGMENTS_MAX, SegmentCipher, TAG_LEN, random_array, sha256,
};

/// Bytes before the configuration.
pub const PREFIX_LEN: usize = 48;
/// Bytes of the footer.
pub const FOOTER_LEN: usize = 24;
/// Bytes of an archive ID.
pub const ARCHIVE_ID_LEN: usize = 32;
/// The segment size that this program writes, as a power of two (64 KiB: an archive may hold 256 TiB).
/// Short: whoever reads an archive back while it is written waits for whole segments.
pub const SEGMENT_LOG2: u8 = 16;
/// The segment sizes that it reads, as powers of two.
pub const SEGMENT_LOG2_RANGE: std::ops::RangeInclusive<u8> = 12..=24;

const MAGIC: [u8; 8] = *b"\x93SRARC\r\n";
const VERSION: u16 = 1;
const FOOTER_MAGIC: [u8; 8] = *b"SRINDEX\n";

/// Why bytes are not the header or the footer of an archive.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArchiveFormatError {
    /// It does not begin as a sealed archive does.
    #[error("it is not a sealed archive")]
    NotAnArchive,
    /// It ends too early.
    #[error("it is cut short")]
    Truncated,
    /// Written by a later version.
    #[error("it is of archive version {0}; this program reads version {VERSION}")]
    Version(u16),
    /// A number that no version of this program wrote.
    #[error("its header holds an impossible {0}")]
    Impossible(&'static str),
    /// The configuration with the key slots.
    #[error("its key slots cannot be read: {0}")]
    Config(#[from] ConfigError),
    /// The header is not what the owner of the key wrote.
    #[error("its header was altered: it does not authenticate")]
    Forged,
}

/// Identifies an archive, and makes its key its own.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ArchiveId(pub [u8; ARCHIVE_ID_LEN]);

impl ArchiveId {
    /// A new random archive ID.
    pub fn random() -> Self {
        Self(random_array())
    }
}

impl fmt::Display for ArchiveId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

impl fmt::Debug for ArchiveId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl FromStr for ArchiveId {
    type Err = ArchiveIdError;

    fn from_str(text: &str) -> Result<Self, ArchiveIdError> {
        let mut bytes = [0u8; ARCHIVE_ID_LEN];
        decode_hexadecimal(text, &mut bytes).ok_or(ArchiveIdError)?;
        Ok(Self(bytes))
    }
}

/// Not 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an archive ID")]
pub struct ArchiveIdError;

fn decode_hexadecimal(text: &str, bytes: &mut [u8]) -> Option<()> {
    let digits = text.as_bytes();
    if digits.len() != 2 * bytes.len() || text.contains(|c: char| c.is_ascii_uppercase()) {
        return None;
    }
    let digit = |byte: u8| u8::try_from(char::from(byte).to_digit(16)?).ok();
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(())
}

impl Serialize for ArchiveId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ArchiveId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// How the tar is compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// Not at all.
    None,
    /// Zstandard (RFC 8878).
    #[default]
    Zstd,
    /// gzip (RFC 1952).
    Gzip,
    /// The LZ4 frame format.
    Lz4,
}

impl Compression {
    /// Its name on the command line and in `metadata.json`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Zstd => "zstd",
            Self::Gzip => "gzip",
            Self::Lz4 => "lz4",
        }
    }

    /// The end of a file name, before `.enc`.
    pub const fn extension(self) -> &'static str {
        match self {
            Self::None => ".tar",
            Self::Zstd => ".tar.zst",
            Self::Gzip => ".tar.gz",
            Self::Lz4 => ".tar.lz4",
        }
    }

    const fn code(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Zstd => 1,
            Self::Gzip => 2,
            Self::Lz4 => 3,
        }
    }

    const fn of_code(code: u8) -> Option<Self> {
        Some(match code {
            0 => Self::None,
            1 => Self::Zstd,
            2 => Self::Gzip,
            3 => Self::Lz4,
            _ => return None,
        })
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// A sealed archive's header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArchiveHeader {
    /// How the payload is compressed.
    pub compression: Compression,
    /// Bytes of plaintext in a segment, as a power of two.
    pub segment_log2: u8,
    /// The archive's identity.
    pub id: ArchiveId,
    /// The key slots that open it: its own, or those of a vault.
    pub config: SealedConfig,
}

impl ArchiveHeader {
    /// The header's bytes, authenticated under the archive's key.
    ///
    /// # Panics
    /// When the configuration exceeds [`MAX_CONFIG_LEN`], which no valid one does.
    pub fn encode(&self, key: &ArchiveKey) -> Vec<u8> {
        let config = self.config.encode();
        assert!(config.len() <= MAX_CONFIG_LEN, "a configuration within its limit");
        let length = u32::try_from(config.len()).expect("within the limit above");
        let mut bytes = Vec::with_capacity(PREFIX_LEN + config.len() + MAC_LEN);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.push(self.compression.code());
        bytes.push(self.segment_log2);
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(&self.id.0);
        bytes.extend_from_slice(&config);
        let mac = key.authenticate_header(&bytes);
        bytes.extend_from_slice(&mac);
        bytes
    }
}

/// How long the whole header is that begins with these bytes.
///
/// # Errors
/// [`ArchiveFormatError`].
pub fn header_len(prefix: &[u8; PREFIX_LEN]) -> Result<usize, ArchiveFormatError> {
    let (magic, rest) = prefix.split_first_chunk::<8>().expect("of fixed length");
    if *magic != MAGIC {
        return Err(ArchiveFormatError::NotAnArchive);
    }
    let version = u16::from_le_bytes([rest[0], rest[1]]);
    if version != VERSION {
        return Err(ArchiveFormatError::Version(version));
    }
    let length = u32::from_le_bytes([rest[4], rest[5], rest[6], rest[7]]);
    match usize::try_from(length) {
        Ok(length) if length <= MAX_CONFIG_LEN => Ok(PREFIX_LEN + length + MAC_LEN),
        _ => Err(ArchiveFormatError::Impossible("length of its key slots")),
    }
}

/// A header as read: whole, but not yet known to be authentic.
#[derive(Clone, Debug)]
pub struct UnverifiedHeader {
    header: ArchiveHeader,
    bytes: Vec<u8>,
}

impl UnverifiedHeader {
    /// Reads a whole header, of the length that [`header_len`] told.
    ///
    /// # Errors
    /// [`ArchiveFormatError`]: anything but [`ArchiveFormatError::Forged`].
    pub fn decode(bytes: Vec<u8>) -> Result<Self, ArchiveFormatError> {
        let prefix = bytes.first_chunk::<PREFIX_LEN>().ok_or(ArchiveFormatError::Truncated)?;
        if bytes.len() != header_len(prefix)? {
            return Err(ArchiveFormatError::Truncated);
        }
        let compression = Compression::of_code(prefix[10])
            .ok_or(ArchiveFormatError::Impossible("compression"))?;
        let segment_log2 = prefix[11];
        if !SEGMENT_LOG2_RANGE.contains(&segment_log2) {
            return Err(ArchiveFormatError::Impossible("segment size"));
        }
        let (_, id) = prefix.split_last_chunk::<ARCHIVE_ID_LEN>().expect("of fixed length");
        let config = SealedConfig::decode(&bytes[PREFIX_LEN..bytes.len() - MAC_LEN])?;
        let header = ArchiveHeader { compression, segment_log2, id: ArchiveId(*id), config };
        Ok(Self { header, bytes })
    }

    /// What it says, to find the slot that a secret opens. Nothing else may be believed before
    /// [`Self::verify`].
    pub fn unverified(&self) -> &ArchiveHeader {
        &self.header
    }

    /// Whether this key authenticates the header.
    pub fn is_authentic(&self, key: &ArchiveKey) -> bool {
        self.bytes
            .split_last_chunk::<MAC_LEN>()
            .is_some_and(|(authenticated, mac)| key.verify_header(authenticated, mac))
    }

    /// Gives out the header and what opens its segments, once it proves to be authentic.
    ///
    /// # Errors
    /// [`ArchiveFormatError::Forged`].
    pub fn verify(
        self,
        key: &ArchiveKey,
    ) -> Result<(ArchiveHeader, SegmentCipher), ArchiveFormatError> {
        if !self.is_authentic(key) {
            return Err(ArchiveFormatError::Forged);
        }
        Ok((self.header, segment_cipher(key, &self.bytes)))
    }
}

/// What seals and opens the segments behind a header: bound to every byte of it.
pub fn segment_cipher(key: &ArchiveKey, header: &[u8]) -> SegmentCipher {
    key.segment_cipher(&sha256(&[header]))
}

/// Where the segments of an archive lie: arithmetic on its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentLayout {
    header_len: u64,
    segment_len: u64,
    segments: u64,
    payload_len: u64,
}

const TAG: u64 = TAG_LEN as u64;

impl SegmentLayout {
    /// Of a file of `file_len` bytes with a header of `header_len`.
    ///
    /// # Errors
    /// [`ArchiveFormatError::Truncated`] where no whole archive has this length.
    pub fn new(
        header_len: u64,
        segment_log2: u8,
        file_len: u64,
    ) -> Result<Self, ArchiveFormatError> {
        if !SEGMENT_LOG2_RANGE.contains(&segment_log2) {
            return Err(ArchiveFormatError::Impossible("segment size"));
        }
        let segment_len = 1u64 << segment_log2;
        let sealed = file_len.checked_sub(header_len).ok_or(ArchiveFormatError::Truncated)?;
        let segments = sealed.div_ceil(segment_len + TAG);
        // Every segment holds something: an archive cut right after a tag is cut all the same.
        let last = sealed - segments.saturating_sub(1) * (segment_len + TAG);
        if last <= TAG {
            return Err(ArchiveFormatError::Truncated);
        }
        if segments > SEGMENTS_MAX {
            return Err(ArchiveFormatError::Impossible("number of segments"));
        }
        Ok(Self { header_len, segment_len, segments, payload_len: sealed - segments * TAG })
    }

    /// How many segments there are; at least one.
    pub fn segments(&self) -> u64 {
        self.segments
    }

    /// Bytes of plaintext in all.
    pub fn payload_len(&self) -> u64 {
        self.payload_len
    }

    /// Bytes of plaintext in every segment but the last.
    pub fn segment_len(&self) -> u64 {
        self.segment_len
    }

    /// Where a segment lies in the file: offset and length with its tag; and its index and
    /// whether it is the last, as its cipher wants them. `None` past the end.
    pub fn segment(&self, index: u64) -> Option<(u64, usize, u32, bool)> {
        let last = self.segments.checked_sub(1)?;
        if index > last {
            return None;
        }
        let plain = self.segment_len.min(self.payload_len - index * self.segment_len);
        let offset = self.header_len + index * (self.segment_len + TAG);
        let length = usize::try_from(plain + TAG).ok()?;
        Some((offset, length, u32::try_from(index).ok()?, index == last))
    }
}

/// The end of a sealed archive's payload: it leads to the index without reading what precedes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footer {
    /// Where in the compressed tar the frame with `index.json` begins.
    pub index_offset: u64,
    /// Bytes of the compressed tar: the payload without this footer.
    pub compressed_len: u64,
}

impl Footer {
    /// The footer's bytes.
    pub fn encode(&self) -> [u8; FOOTER_LEN] {
        let mut bytes = [0u8; FOOTER_LEN];
        bytes[..8].copy_from_slice(&FOOTER_MAGIC);
        bytes[8..16].copy_from_slice(&self.index_offset.to_le_bytes());
        bytes[16..].copy_from_slice(&self.compressed_len.to_le_bytes());
        bytes
    }

    /// Reads the footer of a payload of `payload_len` bytes.
    ///
    /// # Errors
    /// [`ArchiveFormatError::Impossible`] where the numbers do not fit the payload.
    pub fn decode(bytes: &[u8; FOOTER_LEN], payload_len: u64) -> Result<Self, ArchiveFormatError> {
        let number = |at: usize| {
            let bytes = bytes[at..at + 8].try_into().expect("eight bytes");
            u64::from_le_bytes(bytes)
        };
        let footer = Self { index_offset: number(8), compressed_len: number(16) };
        let fits = bytes[..8] == FOOTER_MAGIC
            && footer.compressed_len.checked_add(FOOTER_LEN as u64) == Some(payload_len)
            && footer.index_offset < footer.compressed_len;
        if fits { Ok(footer) } else { Err(ArchiveFormatError::Impossible("footer")) }
    }
}

#[cfg(test)]
mod tests;
