//! What a tree holds: entries and their metadata.

use std::fmt;
use std::ops::Range;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::bytes::ByteString;
use super::path::TreePath;

/// A point in time. Nanoseconds are below 1,000,000,000, also before 1970.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Timestamp {
    /// Seconds since 1970-01-01 00:00 UTC.
    pub seconds: i64,
    /// Nanoseconds after that second.
    pub nanoseconds: u32,
}

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EntryKind {
    /// A regular file.
    Regular,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A FIFO.
    Fifo,
    /// A Unix domain socket.
    Socket,
    /// A character device.
    CharacterDevice,
    /// A block device.
    BlockDevice,
}

impl EntryKind {
    /// Whether it is a device file, of either kind.
    pub fn is_device(self) -> bool {
        matches!(self, Self::CharacterDevice | Self::BlockDevice)
    }
}

impl fmt::Display for EntryKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Regular => "regular file",
            Self::Directory => "directory",
            Self::Symlink => "symlink",
            Self::Fifo => "FIFO",
            Self::Socket => "socket",
            Self::CharacterDevice => "character device",
            Self::BlockDevice => "block device",
        })
    }
}

/// An extended attribute, raw: `user.*`, `security.*`, `trusted.*` and the ACLs
/// (`system.posix_acl_access`, `system.posix_acl_default`) alike.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Xattr {
    /// The whole name.
    pub name: ByteString,
    /// The value.
    pub value: ByteString,
}

/// What a copy of an entry keeps, beside its content and its place.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Metadata {
    /// The kind of entry.
    pub kind: EntryKind,
    /// Permission bits, set-user-ID, set-group-ID and sticky (`0o7777`).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last change of content.
    pub modified: Timestamp,
    /// Last access; kept where a writer can, never compared.
    pub accessed: Timestamp,
    /// Size in bytes of a regular file; 0 for everything else.
    pub size: u64,
    /// Device number of a device file, as `stat(2)` gives it; 0 for everything else.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub rdev: u64,
    /// Target of a symlink; empty for everything else.
    #[serde(default, skip_serializing_if = "ByteString::is_empty")]
    pub target: ByteString,
    /// Extended attributes, sorted by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub xattrs: Vec<Xattr>,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Says which names are the same file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HardLink {
    /// The filesystem.
    pub device: u64,
    /// The inode in it.
    pub inode: u64,
    /// How many names it has in all, in the tree or outside.
    pub count: u64,
}

/// One entry of a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where it is.
    pub path: TreePath,
    /// What a copy keeps.
    pub metadata: Metadata,
    /// Last change of the inode, for telling whether it changed since; no copy can keep it.
    pub changed: Timestamp,
    /// The inode number, for the same; 0 where the store has none.
    pub inode: u64,
    /// Set for everything but directories, where there is more than one name.
    pub hard_link: Option<HardLink>,
    /// Bytes that it takes on the disk; less than the size where there are holes.
    pub allocated: u64,
    /// Another filesystem is mounted here. What a directory of this kind holds was not visited.
    pub mount_point: bool,
    /// Its extended attributes are not in `metadata` yet: they come with the content. Only from
    /// [`super::TreeReader::walk_to_read`].
    pub xattrs_unread: bool,
    /// It is immutable or append-only, as `chattr +i` and `+a` make it; no copy can keep that.
    pub is_fixed: bool,
}

/// The SHA-256 of a regular file's content, holes read as zeros.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// As two digits a byte.
    fn with_hex<T>(&self, then: impl FnOnce(&str) -> T) -> T {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = [0; 64];
        for (pair, byte) in text.chunks_exact_mut(2).zip(self.0) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 15)];
        }
        then(std::str::from_utf8(&text).unwrap_or_default())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.with_hex(|text| formatter.write_str(text))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl std::str::FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let digits = text.as_bytes();
        let mut bytes = [0u8; 32];
        if digits.len() != 2 * bytes.len() {
            return Err(DigestError);
        }
        let digit =
            |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let (Some(high), Some(low)) = (digit(pair[0]), digit(pair[1])) else {
                return Err(DigestError);
            };
            *byte = high << 4 | low;
        }
        Ok(Self(bytes))
    }
}

/// Not 64 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a SHA-256 in hexadecimal")]
pub struct DigestError;

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.with_hex(|text| serializer.serialize_str(text))
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Hex;
        impl Visitor<'_> for Hex {
            type Value = Digest;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a SHA-256 in hexadecimal")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Digest, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Hex)
    }
}

/// A stretch of a file that holds data.
pub type Extent = Range<u64>;
