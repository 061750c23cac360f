//! Extended attributes, through `/proc/self/fd`: the system calls that take a descriptor want
//! one open for reading, which symlinks, devices and FIFOs don't offer.

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::fs::XattrFlags;
use rustix::io::Errno;

use super::super::bytes::ByteString;
use super::super::types::Xattr;

/// The kernel's own limit on a list of names and on a value (`XATTR_LIST_MAX`,
/// `XATTR_SIZE_MAX`).
const LIMIT: usize = 64 * 1024;

/// The ACL that entries made in a directory inherit.
pub(super) const DEFAULT_ACL: &[u8] = b"system.posix_acl_default";

/// What the descriptor stands for, even a symlink.
pub(super) fn descriptor_path(fd: BorrowedFd<'_>) -> Vec<u8> {
    format!("/proc/self/fd/{}", fd.as_raw_fd()).into_bytes()
}

/// A name in an open directory.
pub(super) fn name_path(directory: BorrowedFd<'_>, name: &[u8]) -> Vec<u8> {
    let mut path = descriptor_path(directory);
    path.push(b'/');
    path.extend_from_slice(name);
    path
}

/// Every attribute of what `path` names, a symlink at its end not followed; sorted by name.
pub(super) fn read_all(path: &[u8]) -> rustix::io::Result<Vec<Xattr>> {
    read_by(
        |buffer| rustix::fs::llistxattr(path, buffer),
        |name, buffer| rustix::fs::lgetxattr(path, name, buffer),
    )
}

/// Every attribute of a file that is open for reading; sorted by name.
pub(super) fn read_open(file: BorrowedFd<'_>) -> rustix::io::Result<Vec<Xattr>> {
    read_by(
        |buffer| rustix::fs::flistxattr(file, buffer),
        |name, buffer| rustix::fs::fgetxattr(file, name, buffer),
    )
}

fn read_by(
    names: impl Fn(&mut [u8]) -> rustix::io::Result<usize>,
    value: impl Fn(&[u8], &mut [u8]) -> rustix::io::Result<usize>,
) -> rustix::io::Result<Vec<Xattr>> {
    let Some(names) = list(names)? else {
        return Ok(Vec::new());
    };
    let mut xattrs = Vec::new();
    for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        match read_grown(|buffer| value(name, buffer)) {
            Ok(value) => {
                xattrs.push(Xattr { name: ByteString(name.to_vec()), value: ByteString(value) })
            }
            // Gone since it was listed, or listed without being readable by us (overlayfs).
            Err(Errno::NODATA) => {}
            Err(errno) => return Err(errno),
        }
    }
    xattrs.sort();
    Ok(xattrs)
}

/// Makes the attributes of what the descriptor stands for those of `wanted`; with `as_permitted`
/// without those that only root may set. What is `bare` has none to go. Whether all were set.
pub(super) fn replace_all(
    fd: BorrowedFd<'_>,
    wanted: &[Xattr],
    bare: bool,
    as_permitted: bool,
) -> rustix::io::Result<bool> {
    let mut whole = true;
    let path = descriptor_path(fd);
    let present = match bare {
        true => Vec::new(),
        false => list(|buffer| rustix::fs::listxattr(&*path, buffer))?.unwrap_or_default(),
    };
    for name in present.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        if !wanted.iter().any(|xattr| xattr.name.0 == name) && is_ours_to_remove(name) {
            match rustix::fs::removexattr(&*path, name) {
                Ok(()) | Err(Errno::NODATA) => {}
                Err(errno) => return Err(errno),
            }
        }
    }
    for Xattr { name, value } in wanted {
        match rustix::fs::setxattr(&*path, &*name.0, &value.0, XattrFlags::empty()) {
            Err(Errno::PERM) if as_permitted && !name.0.starts_with(b"user.") => whole = false,
            set => set?,
        }
    }
    Ok(whole)
}

/// Security modules label what is created by their own rules; those labels stay.
fn is_ours_to_remove(name: &[u8]) -> bool {
    name == b"security.capability"
        || name.starts_with(b"user.")
        || name.starts_with(b"trusted.")
        || name.starts_with(b"system.posix_acl_")
}

/// A list of names, `None` where the filesystem has no attributes.
fn list(
    call: impl Fn(&mut [u8]) -> rustix::io::Result<usize>,
) -> rustix::io::Result<Option<Vec<u8>>> {
    match read_grown(call) {
        Ok(names) if names.is_empty() => Ok(None),
        Ok(names) => Ok(Some(names)),
        Err(Errno::OPNOTSUPP) => Ok(None),
        Err(errno) => Err(errno),
    }
}

fn read_grown(
    call: impl Fn(&mut [u8]) -> rustix::io::Result<usize>,
) -> rustix::io::Result<Vec<u8>> {
    let mut small = [0u8; 512];
    match call(&mut small) {
        Ok(length) => return Ok(small[..length].to_vec()),
        Err(Errno::RANGE) => {}
        Err(errno) => return Err(errno),
    }
    let mut large = vec![0u8; LIMIT];
    let length = call(&mut large)?;
    large.truncate(length);
    Ok(large)
}
