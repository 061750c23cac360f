//! Owns the atomic, durable replacement of a configuration file.

use std::ffi::{CStr, OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, Stat, XattrFlags, fchmod, fchown, fgetxattr, fgetxattr_query,
    flistxattr, flistxattr_query, fsetxattr, fstat, fsync, openat, renameat, statat, unlinkat,
};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use super::Error;

/// The file to be replaced, pinned by its directory.
struct Target {
    /// The path as it was given, for messages.
    path: PathBuf,
    directory: OwnedFd,
    name: OsString,
}

impl Target {
    fn error(&self, action: &'static str) -> impl FnOnce(Errno) -> Error + '_ {
        move |errno| Error::Io { path: self.path.clone(), action, source: errno.into() }
    }

    /// A name in the same directory that only this file's replacement uses, so that what a crash
    /// left is found and overwritten by the next try.
    fn temporary(&self) -> OsString {
        use std::os::unix::ffi::OsStrExt;
        let digest = Sha256::digest(self.name.as_bytes());
        let mut name = String::from(".strongroom-");
        for byte in digest.iter().take(8) {
            name.push_str(&format!("{byte:02x}"));
        }
        name.push_str(".tmp");
        OsString::from(name)
    }
}

/// See [`super::replace_file`].
pub(super) fn replace(path: &Path, expected: &[u8], content: &[u8]) -> Result<(), Error> {
    let target = find(path)?;
    let (old, stat) = open(&target)?;
    let present = read(&target, &old)?;
    if present == content {
        // Done before, perhaps by a process that ended before it was durable.
        fsync(&old).map_err(target.error("sync"))?;
        return fsync(&target.directory).map_err(target.error("sync the directory of"));
    }
    if present != expected {
        return Err(Error::Changed { path: target.path });
    }
    if stat.st_nlink > 1 {
        #[allow(clippy::useless_conversion, reason = "the type is narrower on other machines")]
        let links = u64::from(stat.st_nlink);
        return Err(Error::HardLinked { path: target.path, links });
    }
    let temporary = target.temporary();
    let outcome = write(&target, &temporary, &old, &stat, content)
        .and_then(|()| swap(&target, &temporary, &stat));
    if outcome.is_err() {
        // The outcome says more than a failure to clean up would.
        let _ = unlinkat(&target.directory, &temporary, AtFlags::empty());
        return outcome;
    }
    fsync(&target.directory).map_err(target.error("sync the directory of"))
}

/// Follows symlinks to the file itself.
fn find(path: &Path) -> Result<Target, Error> {
    let io =
        |action| move |source: io::Error| Error::Io { path: path.to_path_buf(), action, source };
    let real = std::fs::canonicalize(path).map_err(io("find"))?;
    let (Some(parent), Some(name)) = (real.parent(), real.file_name()) else {
        return Err(Error::NotAFile { path: path.to_path_buf() });
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(parent, flags, Mode::empty())
        .map_err(|errno| io("open the directory of")(errno.into()))?;
    Ok(Target { path: path.to_path_buf(), directory, name: name.to_os_string() })
}

fn open(target: &Target) -> Result<(OwnedFd, Stat), Error> {
    let seen = statat(&target.directory, &target.name, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(target.error("look at"))?;
    if FileType::from_raw_mode(seen.st_mode) != FileType::RegularFile {
        return Err(Error::NotAFile { path: target.path.clone() });
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = openat(&target.directory, &target.name, flags, Mode::empty())
        .map_err(target.error("open"))?;
    let stat = fstat(&file).map_err(target.error("look at"))?;
    Ok((file, stat))
}

fn read(target: &Target, file: &OwnedFd) -> Result<Vec<u8>, Error> {
    let io = |source| Error::Io { path: target.path.clone(), action: "read", source };
    let mut content = Vec::new();
    File::from(file.try_clone().map_err(io)?).read_to_end(&mut content).map_err(io)?;
    Ok(content)
}

/// Writes the temporary file with everything that the old file has but its content and times.
fn write(
    target: &Target,
    temporary: &OsStr,
    old: &OwnedFd,
    stat: &Stat,
    content: &[u8],
) -> Result<(), Error> {
    match unlinkat(&target.directory, temporary, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(errno) => return Err(target.error("remove an earlier temporary file of")(errno)),
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let new = openat(&target.directory, temporary, flags, Mode::RUSR | Mode::WUSR)
        .map_err(target.error("make a temporary file next to"))?;
    let mut new = File::from(new);
    new.write_all(content).map_err(|source| Error::Io {
        path: target.path.clone(),
        action: "write the replacement of",
        source,
    })?;
    let own = fstat(&new).map_err(target.error("look at the replacement of"))?;
    if (own.st_uid, own.st_gid) != (stat.st_uid, stat.st_gid) {
        let user = rustix::fs::Uid::from_raw(stat.st_uid);
        let group = rustix::fs::Gid::from_raw(stat.st_gid);
        fchown(&new, Some(user), Some(group)).map_err(target.error("keep the owner of"))?;
    }
    let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
    fchmod(&new, mode).map_err(target.error("keep the mode of"))?;
    // After the mode, which would change an ACL's mask.
    copy_attributes(target, old, &new)?;
    fsync(&new).map_err(target.error("sync the replacement of"))
}

fn copy_attributes(target: &Target, old: &OwnedFd, new: &File) -> Result<(), Error> {
    let names = match grow(|| flistxattr_query(old), |buffer| flistxattr(old, buffer)) {
        Ok(names) => names,
        Err(Errno::OPNOTSUPP) => return Ok(()),
        Err(errno) => return Err(target.error("list the extended attributes of")(errno)),
    };
    for name in names.split_inclusive(|byte| *byte == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
        let value = grow(|| fgetxattr_query(old, name), |buffer| fgetxattr(old, name, buffer))
            .map_err(target.error("read an extended attribute of"))?;
        match fsetxattr(new, name, &value, XattrFlags::empty()) {
            Ok(()) => {}
            // The system's own labels, which it sets by itself.
            Err(Errno::PERM | Errno::OPNOTSUPP | Errno::ACCESS)
                if name.to_bytes().starts_with(b"security.") => {}
            Err(errno) => return Err(target.error("keep an extended attribute of")(errno)),
        }
    }
    Ok(())
}

/// Reads what has no known length: asks for it first, and again where it grew meanwhile.
fn grow(
    length: impl Fn() -> Result<usize, Errno>,
    read: impl Fn(&mut [u8]) -> Result<usize, Errno>,
) -> Result<Vec<u8>, Errno> {
    loop {
        let mut buffer = vec![0; length()?];
        match read(&mut buffer) {
            Ok(length) => {
                buffer.truncate(length);
                return Ok(buffer);
            }
            Err(Errno::RANGE) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// Puts the temporary file in the place of the file, if that is still the one that was read.
fn swap(target: &Target, temporary: &OsStr, stat: &Stat) -> Result<(), Error> {
    let now = statat(&target.directory, &target.name, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(target.error("look at"))?;
    let identity = |s: &Stat| (s.st_dev, s.st_ino, s.st_size, s.st_mtime, s.st_mtime_nsec);
    if identity(&now) != identity(stat) {
        return Err(Error::Changed { path: target.path.clone() });
    }
    renameat(&target.directory, temporary, &target.directory, &target.name)
        .map_err(target.error("replace"))
}
