//! Reads a tar strictly: exactly what the encoder writes, everything else is an error.

use std::io::{BufRead, ErrorKind, Read};

use tar::{EntryType, Header};

use super::pax::{COMMENT, LINKS, XATTR, decode_time, decode_xattr_key, number, parse};
use super::{BLOCK, SparseMap};
use crate::archive::error::{Error, Result};
use crate::tree::{ByteString, EntryKind, Metadata, Xattr};

/// Longest pax header: the attributes of one inode may take 64 KiB a value, and filesystems
/// differ in how many there can be.
const PAX_LIMIT: u64 = 16 << 20;

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::archive) enum RawKind {
    /// It has these metadata; a regular file's content follows.
    Entry(Metadata),
    /// Another name of the file stored under this one.
    HardLink(Vec<u8>),
}

/// An entry as it stands in the tar; nothing in it is to be trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::archive) struct RawEntry {
    /// The name, a directory's without the slash at its end.
    pub(in crate::archive) name: Vec<u8>,
    /// What it is.
    pub(in crate::archive) kind: RawKind,
    /// How many names the file has at most.
    pub(in crate::archive) links: u64,
    /// Where it has data, if it has holes.
    pub(in crate::archive) sparse: Option<SparseMap>,
}

/// A tar being read from its beginning to its end.
pub(in crate::archive) struct TarReader<R> {
    input: R,
    /// Bytes of the present entry's content that were not read yet.
    content: u64,
    /// Bytes after them that fill up the last block.
    padding: u64,
    ended: bool,
}

impl<R: BufRead> TarReader<R> {
    /// Goes past what is left of the present entry's content; `passed` is told of the bytes, and says
    /// whether to go on.
    pub(in crate::archive) fn skip_content(
        &mut self,
        mut passed: impl FnMut(u64) -> Result<()>,
    ) -> Result<()> {
        while self.content > 0 {
            let available = match self.input.fill_buf() {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                other => other.map_err(Error::from_io)?.len(),
            };
            if available == 0 {
                return Err(Error::Damaged("it ends too early".into()));
            }
            let wanted = usize::try_from(self.content).unwrap_or(usize::MAX).min(available);
            self.input.consume(wanted);
            self.content -= wanted as u64;
            passed(wanted as u64)?;
        }
        Ok(())
    }
}

impl<R: Read> TarReader<R> {
    pub(in crate::archive) fn new(input: R) -> Self {
        Self { input, content: 0, padding: 0, ended: false }
    }

    /// The next entry, or `None` at the end. What is left of the last one's content must have
    /// been read.
    pub(in crate::archive) fn next_entry(&mut self) -> Result<Option<RawEntry>> {
        debug_assert_eq!(self.content, 0, "content is read before the next entry");
        if self.ended {
            return Ok(None);
        }
        self.skip_padding()?;
        let Some(first) = self.header()? else {
            return self.end();
        };
        if first.entry_type() != EntryType::XHeader {
            return Err(Error::malformed("an entry has no pax header"));
        }
        let length = first.entry_size().map_err(|_| Error::malformed("a header has no size"))?;
        if length > PAX_LIMIT {
            return Err(Error::malformed("a pax header is too long"));
        }
        let mut bytes = vec![0u8; usize::try_from(length).unwrap_or(0)];
        self.fill(&mut bytes)?;
        self.padding = pad(length);
        self.skip_padding()?;
        let records = Records::new(&bytes)?;
        let header = self.header()?.ok_or_else(|| Error::malformed("a pax header stands alone"))?;
        self.entry(&header, &records).map(Some)
    }

    /// Reads from the present entry's content; 0 at its end.
    pub(in crate::archive) fn read_content(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let wanted = usize::try_from(self.content).unwrap_or(usize::MAX).min(buffer.len());
        let buffer = &mut buffer[..wanted];
        self.fill(buffer)?;
        self.content -= wanted as u64;
        Ok(wanted)
    }

    /// Bytes of the present entry's content still to come.
    pub(in crate::archive) fn content_left(&self) -> u64 {
        self.content
    }

    fn entry(&mut self, header: &Header, records: &Records<'_>) -> Result<RawEntry> {
        let bad = |what: &str| Error::malformed(format!("a header has an impossible {what}"));
        let octal_or = |record: Option<u64>, field: std::io::Result<u64>, what: &str| match record {
            Some(number) => Ok(number),
            None => field.map_err(|_| bad(what)),
        };
        let size = octal_or(records.number(b"size")?, header.entry_size(), "size")?;
        let uid = octal_or(records.number(b"uid")?, header.uid(), "owner")?;
        let gid = octal_or(records.number(b"gid")?, header.gid(), "group")?;
        let real_size = records.number(b"GNU.sparse.realsize")?;
        let sparse = records.get(b"GNU.sparse.name");
        if sparse.is_some() != real_size.is_some()
            || (sparse.is_some()
                && (records.get(b"GNU.sparse.major"), records.get(b"GNU.sparse.minor"))
                    != (Some(b"1"), Some(b"0")))
        {
            return Err(bad("form of a sparse file"));
        }
        let path = records.get(b"path");
        if path.is_some() && sparse.is_some() {
            return Err(bad("form of a sparse file"));
        }
        let old = header.as_old();
        let mut name = sparse.or(path).map_or_else(|| field(&old.name), <[u8]>::to_vec);
        let link = records.get(b"linkpath").map_or_else(|| field(&old.linkname), <[u8]>::to_vec);
        let kind = kind_of(header.entry_type()).ok_or_else(|| {
            Error::malformed(format!("type {:?} of an entry is unknown", header.entry_type()))
        })?;
        if kind == Some(EntryKind::Directory) && name.last() == Some(&b'/') {
            name.pop();
        }
        if kind != Some(EntryKind::Regular) && (size != 0 || sparse.is_some()) {
            return Err(bad("size: only regular files have content"));
        }
        if !matches!(kind, None | Some(EntryKind::Symlink)) && !link.is_empty() {
            return Err(bad("link target"));
        }
        self.content = size;
        self.padding = pad(size);
        let sparse = match real_size {
            None => None,
            Some(real_size) => Some(self.sparse_map(real_size)?),
        };
        let Some(kind) = kind else {
            return Ok(RawEntry { name, kind: RawKind::HardLink(link), links: 0, sparse: None });
        };
        let time =
            |key: &[u8]| records.get(key).and_then(decode_time).ok_or_else(|| bad("time, or none"));
        let mode = header.mode().map_err(|_| bad("mode"))?;
        let metadata = Metadata {
            kind,
            mode: Some(mode).filter(|mode| mode & !0o7777 == 0).ok_or_else(|| bad("mode"))?,
            uid: u32::try_from(uid).map_err(|_| bad("owner"))?,
            gid: u32::try_from(gid).map_err(|_| bad("group"))?,
            modified: time(b"mtime")?,
            accessed: time(b"atime")?,
            size: sparse.as_ref().map_or(size, SparseMap::real_size),
            rdev: device(header, kind).ok_or_else(|| bad("device number"))?,
            target: ByteString(link),
            xattrs: records.xattrs()?,
        };
        let links = match records.get(COMMENT) {
            None => 1,
            Some(comment) => comment
                .strip_prefix(LINKS)
                .and_then(number)
                .filter(|links: &u64| *links > 0)
                .ok_or_else(|| bad("number of links"))?,
        };
        Ok(RawEntry { name, kind: RawKind::Entry(metadata), links, sparse })
    }

    fn sparse_map(&mut self, real_size: u64) -> Result<SparseMap> {
        let map = SparseMap::decode(real_size, || {
            let mut block = [0u8; BLOCK];
            if self.content < BLOCK as u64 {
                return Ok::<_, Error>(None);
            }
            self.read_content(&mut block)?;
            Ok(Some(block))
        })?;
        match map {
            Some(map) if map.data_len() == self.content => Ok(map),
            _ => Err(Error::malformed("a sparse file's map is wrong")),
        }
    }

    /// The next header, or `None` for a block of zeros.
    fn header(&mut self) -> Result<Option<Header>> {
        let mut header = Header::new_old();
        self.fill(header.as_mut_bytes())?;
        if header.as_bytes().iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let sum: u32 = {
            let bytes = header.as_bytes();
            let blank = bytes[148..156].iter().map(|byte| u32::from(*byte)).sum::<u32>();
            bytes.iter().map(|byte| u32::from(*byte)).sum::<u32>() - blank + 8 * 32
        };
        if header.as_ustar().is_none() || header.cksum().ok() != Some(sum) {
            return Err(Error::malformed("a header's checksum is wrong"));
        }
        Ok(Some(header))
    }

    /// After the first of the two zero blocks: nothing but the second one may follow.
    fn end(&mut self) -> Result<Option<RawEntry>> {
        if self.header()?.is_some() {
            return Err(Error::malformed("a zero block stands between entries"));
        }
        let mut byte = [0u8];
        let more = loop {
            match self.input.read(&mut byte) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                other => break other.map_err(Error::from_io)?,
            }
        };
        if more != 0 {
            return Err(Error::malformed("something follows the end"));
        }
        self.ended = true;
        Ok(None)
    }

    fn skip_padding(&mut self) -> Result<()> {
        let mut padding = [0u8; BLOCK];
        let length = usize::try_from(self.padding).unwrap_or(0).min(BLOCK);
        self.padding = 0;
        self.fill(&mut padding[..length])?;
        if padding.iter().any(|byte| *byte != 0) {
            return Err(Error::malformed("something hides behind an entry's content"));
        }
        Ok(())
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<()> {
        self.input.read_exact(buffer).map_err(|error| match error.kind() {
            ErrorKind::UnexpectedEof => Error::Damaged("it ends too early".into()),
            _ => Error::from_io(error),
        })
    }
}

/// Whatever the length, which nobody has checked yet.
fn pad(length: u64) -> u64 {
    let block = BLOCK as u64;
    (block - length % block) % block
}

/// A header's field up to its first NUL.
fn field(bytes: &[u8]) -> Vec<u8> {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default().to_vec()
}

/// `Some(None)` is a hard link; `None` is unknown.
#[allow(clippy::option_option, reason = "a hard link is no kind of its own")]
fn kind_of(kind: EntryType) -> Option<Option<EntryKind>> {
    Some(Some(match kind {
        EntryType::Regular => EntryKind::Regular,
        EntryType::Directory => EntryKind::Directory,
        EntryType::Symlink => EntryKind::Symlink,
        EntryType::Fifo => EntryKind::Fifo,
        EntryType::Char => EntryKind::CharacterDevice,
        EntryType::Block => EntryKind::BlockDevice,
        EntryType::Link => return Some(None),
        _ => return None,
    }))
}

fn device(header: &Header, kind: EntryKind) -> Option<u64> {
    if !kind.is_device() {
        return Some(0);
    }
    let major = header.device_major().ok()??;
    let minor = header.device_minor().ok()??;
    Some(rustix::fs::makedev(major, minor))
}

/// The records of a pax header, sorted by their keys.
struct Records<'a>(Vec<(&'a [u8], &'a [u8])>);

impl<'a> Records<'a> {
    fn new(bytes: &'a [u8]) -> Result<Self> {
        let mut records =
            parse(bytes).ok_or_else(|| Error::malformed("a pax header cannot be read"))?;
        if !records.iter().all(|(key, _)| Self::is_known(key)) {
            return Err(Error::malformed("a pax header has an unknown record"));
        }
        records.sort_unstable();
        if records.windows(2).any(|pair| pair[0].0 == pair[1].0) {
            return Err(Error::malformed("a pax header has a record twice"));
        }
        Ok(Self(records))
    }

    fn is_known(key: &[u8]) -> bool {
        matches!(
            key,
            b"GNU.sparse.major"
                | b"GNU.sparse.minor"
                | b"GNU.sparse.name"
                | b"GNU.sparse.realsize"
                | b"SCHILY.acl.access"
                | b"SCHILY.acl.default"
                | COMMENT
                | b"atime"
                | b"gid"
                | b"linkpath"
                | b"mtime"
                | b"path"
                | b"size"
                | b"uid"
        ) || key.starts_with(XATTR)
    }

    fn get(&self, key: &[u8]) -> Option<&'a [u8]> {
        let found = self.0.binary_search_by(|(known, _)| known.cmp(&key)).ok()?;
        self.0.get(found).map(|(_, value)| *value)
    }

    fn number(&self, key: &[u8]) -> Result<Option<u64>> {
        let Some(digits) = self.get(key) else { return Ok(None) };
        match number(digits) {
            Some(number) => Ok(Some(number)),
            None => Err(Error::malformed("a pax header has an impossible number")),
        }
    }

    /// Sorted by their names, as a tree has them.
    fn xattrs(&self) -> Result<Vec<Xattr>> {
        let mut xattrs = Vec::new();
        for (key, value) in self.0.iter().filter(|(key, _)| key.starts_with(XATTR)) {
            let name = decode_xattr_key(key)
                .filter(|name| !name.is_empty() && !name.contains(&0))
                .ok_or_else(|| Error::malformed("an extended attribute has an impossible name"))?;
            xattrs.push(Xattr { name: ByteString(name), value: ByteString(value.to_vec()) });
        }
        xattrs.sort();
        Ok(xattrs)
    }
}
