//! The headers of an entry.

use std::sync::LazyLock;

use tar::{EntryType, Header};

use super::pax::{COMMENT, LINKS, acl_text, encode_time, encode_xattr_key, record};
use super::{BLOCK, SparseMap};
use crate::tree::{EntryKind, Metadata};

/// What follows an entry's headers.
pub(in crate::archive) enum Stored<'a> {
    /// Content, whole.
    Content,
    /// Content with holes: the map, then the data.
    Sparse(&'a SparseMap),
    /// Nothing: another name of the file stored under this one.
    HardLink(&'a [u8]),
    /// Nothing: not a regular file.
    Nothing,
}

const NAME_LEN: usize = 100;
/// The most that seven octal digits hold.
const OCTAL_7: u64 = 0o7_777_777;
/// The most that eleven octal digits hold.
const OCTAL_11: u64 = 0o77_777_777_777;

/// Zeros that fill up the last block of content of this length.
pub(in crate::archive) fn padding(length: u64) -> &'static [u8] {
    static ZEROS: [u8; BLOCK] = [0; BLOCK];
    let used = usize::try_from(length % BLOCK as u64).unwrap_or(0);
    if used == 0 { &[] } else { &ZEROS[used..] }
}

/// The blocks in front of an entry's content: a pax header and its own. `links` is how many
/// names the file has, on the first of several.
pub(in crate::archive) fn encode_header(
    name: &[u8],
    metadata: &Metadata,
    stored: &Stored<'_>,
    links: u64,
) -> Vec<u8> {
    let size = match stored {
        Stored::Content => metadata.size,
        Stored::Sparse(map) => map.data_len() + length(map.encode().len()),
        Stored::HardLink(_) | Stored::Nothing => 0,
    };
    let target = match stored {
        Stored::HardLink(target) => target,
        _ => &*metadata.target.0,
    };
    let records = records(name, metadata, stored, target, size, links);
    let mut bytes = Vec::with_capacity(3 * BLOCK + records.len());
    bytes.extend_from_slice(pax_header(length(records.len())).as_bytes());
    bytes.extend_from_slice(&records);
    bytes.extend_from_slice(padding(length(records.len())));
    bytes.extend_from_slice(header(name, metadata, stored, target, size).as_bytes());
    bytes
}

/// The header of a pax header with so many bytes of records.
fn pax_header(size: u64) -> Header {
    static WITHOUT_SIZE: LazyLock<Header> = LazyLock::new(|| {
        let mut pax = Header::new_ustar();
        put_name(&mut pax, b"PaxHeaders/entry");
        pax.set_entry_type(EntryType::XHeader);
        pax.set_mode(0o600);
        pax.set_uid(0);
        pax.set_gid(0);
        pax.set_mtime(0);
        pax
    });
    let mut pax = WITHOUT_SIZE.clone();
    put_octal(&mut pax.as_old_mut().size, size);
    put_checksum(&mut pax);
    pax
}

fn records(
    name: &[u8],
    metadata: &Metadata,
    stored: &Stored<'_>,
    target: &[u8],
    size: u64,
    links: u64,
) -> Vec<u8> {
    let mut records = Vec::new();
    let mut number = |key: &[u8], number: u64| {
        record(&mut records, key, number.to_string().as_bytes());
    };
    if size > OCTAL_11 {
        number(b"size", size);
    }
    if u64::from(metadata.uid) > OCTAL_7 {
        number(b"uid", metadata.uid.into());
    }
    if u64::from(metadata.gid) > OCTAL_7 {
        number(b"gid", metadata.gid.into());
    }
    if links > 1 {
        record(&mut records, COMMENT, &[LINKS, links.to_string().as_bytes()].concat());
    }
    let mut number = |key: &[u8], number: u64| {
        record(&mut records, key, number.to_string().as_bytes());
    };
    if let Stored::Sparse(map) = stored {
        number(b"GNU.sparse.major", 1);
        number(b"GNU.sparse.minor", 0);
        number(b"GNU.sparse.realsize", map.real_size());
        record(&mut records, b"GNU.sparse.name", name);
    } else if name.len() > NAME_LEN {
        record(&mut records, b"path", name);
    }
    if target.len() > NAME_LEN {
        record(&mut records, b"linkpath", target);
    }
    record(&mut records, b"mtime", &encode_time(metadata.modified));
    record(&mut records, b"atime", &encode_time(metadata.accessed));
    // Of a hard link they are its first name's.
    if !matches!(stored, Stored::HardLink(_)) {
        for xattr in &metadata.xattrs {
            record(&mut records, &encode_xattr_key(&xattr.name.0), &xattr.value.0);
            let key: &[u8] = match &*xattr.name.0 {
                b"system.posix_acl_access" => b"SCHILY.acl.access",
                b"system.posix_acl_default" => b"SCHILY.acl.default",
                _ => continue,
            };
            if let Some(text) = acl_text(&xattr.value.0) {
                record(&mut records, key, &text);
            }
        }
    }
    records
}

fn header(
    name: &[u8],
    metadata: &Metadata,
    stored: &Stored<'_>,
    target: &[u8],
    size: u64,
) -> Header {
    let mut header = Header::new_ustar();
    if let Stored::Sparse(_) = stored {
        // Where a reader that knows nothing of sparse files puts it.
        let last = name.rsplit(|byte| *byte == b'/').next().unwrap_or(name);
        put_name(&mut header, &[&b"GNUSparseFile.0/"[..], last].concat());
    } else {
        put_name(&mut header, name);
    }
    let fits = target.len().min(NAME_LEN);
    header.as_old_mut().linkname[..fits].copy_from_slice(&target[..fits]);
    header.set_entry_type(match (stored, metadata.kind) {
        (Stored::HardLink(_), _) => EntryType::Link,
        (_, EntryKind::Regular | EntryKind::Socket) => EntryType::Regular,
        (_, EntryKind::Directory) => EntryType::Directory,
        (_, EntryKind::Symlink) => EntryType::Symlink,
        (_, EntryKind::Fifo) => EntryType::Fifo,
        (_, EntryKind::CharacterDevice) => EntryType::Char,
        (_, EntryKind::BlockDevice) => EntryType::Block,
    });
    let old = header.as_old_mut();
    put_octal(&mut old.mode, u64::from(metadata.mode & 0o7777));
    put_octal(&mut old.uid, u64::from(metadata.uid).min(OCTAL_7));
    put_octal(&mut old.gid, u64::from(metadata.gid).min(OCTAL_7));
    put_octal(&mut old.size, size.min(OCTAL_11));
    let modified = u64::try_from(metadata.modified.seconds).unwrap_or(0);
    put_octal(&mut old.mtime, modified.min(OCTAL_11));
    if metadata.kind.is_device() {
        let ustar = header.as_ustar_mut().expect("made as one");
        ustar.set_device_major(rustix::fs::major(metadata.rdev));
        ustar.set_device_minor(rustix::fs::minor(metadata.rdev));
    }
    put_checksum(&mut header);
    header
}

/// Puts a number into a field: octal digits up to its last byte, a NUL. It fits. The crate's own way
/// formats it as text first, which takes longer than all the rest of a header.
fn put_octal(field: &mut [u8], mut number: u64) {
    let Some((end, digits)) = field.split_last_mut() else { return };
    *end = 0;
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + u8::try_from(number & 7).unwrap_or(0);
        number >>= 3;
    }
}

/// The sum of a header's bytes, those of the sum itself taken for spaces (POSIX `pax`, "ustar").
fn put_checksum(header: &mut Header) {
    header.as_old_mut().cksum = [b' '; 8];
    let sum: u64 = header.as_bytes().iter().map(|byte| u64::from(*byte)).sum();
    put_octal(&mut header.as_old_mut().cksum, sum);
}

fn put_name(header: &mut Header, name: &[u8]) {
    let fits = name.len().min(NAME_LEN);
    header.as_old_mut().name[..fits].copy_from_slice(&name[..fits]);
}

fn length(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}
