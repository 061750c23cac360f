//! Translation between the core's types and those of `fuser`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{FileAttr, FileType, INodeNo, TimeOrNow};

use crate::backing::{FileKind, SetTime, Timestamp, XattrMode};
use crate::vault::{Attributes, FallocateMode, InodeNumber};

/// What `stat(2)` shall call the best size for reads and writes.
const BLOCK_SIZE: u32 = 4096;

pub(super) fn inode(ino: INodeNo) -> InodeNumber {
    InodeNumber(ino.0)
}

pub(super) fn file_type(kind: FileKind) -> FileType {
    match kind {
        FileKind::Regular => FileType::RegularFile,
        FileKind::Directory => FileType::Directory,
        FileKind::Symlink => FileType::Symlink,
        FileKind::Fifo => FileType::NamedPipe,
        FileKind::Socket => FileType::Socket,
        FileKind::CharacterDevice => FileType::CharDevice,
        FileKind::BlockDevice => FileType::BlockDevice,
    }
}

pub(super) fn file_attributes(attributes: &Attributes) -> FileAttr {
    FileAttr {
        ino: INodeNo(attributes.ino.0),
        size: attributes.size,
        blocks: attributes.blocks,
        atime: system_time(attributes.accessed),
        mtime: system_time(attributes.modified),
        ctime: system_time(attributes.changed),
        crtime: UNIX_EPOCH,
        kind: file_type(attributes.kind),
        perm: u16::try_from(attributes.mode & 0o7777).unwrap_or_default(),
        nlink: attributes.links,
        uid: attributes.uid,
        gid: attributes.gid,
        rdev: attributes.rdev,
        blksize: BLOCK_SIZE,
        flags: 0,
    }
}

/// What a name that does not exist is answered with: inode 0, which the kernel remembers.
pub(super) fn no_file() -> FileAttr {
    FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: FileType::RegularFile,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: BLOCK_SIZE,
        flags: 0,
    }
}

/// Every [`Timestamp`] has a `SystemTime` on Linux, where both keep 64-bit seconds.
fn system_time(timestamp: Timestamp) -> SystemTime {
    let whole = Duration::from_secs(timestamp.seconds.unsigned_abs());
    let second = if timestamp.seconds >= 0 {
        UNIX_EPOCH.checked_add(whole)
    } else {
        UNIX_EPOCH.checked_sub(whole)
    };
    second
        .and_then(|second| second.checked_add(Duration::from_nanos(timestamp.nanoseconds.into())))
        .unwrap_or(UNIX_EPOCH)
}

/// A time that `fuser` made of the kernel's seconds and nanoseconds. For a time before 1970 it
/// subtracts both from the epoch, where the nanoseconds should be added; undone here.
fn timestamp(time: SystemTime) -> Timestamp {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => Timestamp {
            seconds: i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
            nanoseconds: after.subsec_nanos(),
        },
        Err(before) => {
            let before = before.duration();
            Timestamp {
                seconds: 0i64.checked_sub_unsigned(before.as_secs()).unwrap_or(i64::MIN),
                nanoseconds: before.subsec_nanos(),
            }
        }
    }
}

pub(super) fn set_time(time: Option<TimeOrNow>) -> SetTime {
    match time {
        None => SetTime::Keep,
        Some(TimeOrNow::Now) => SetTime::Now,
        Some(TimeOrNow::SpecificTime(time)) => SetTime::At(timestamp(time)),
    }
}

/// The mode of a `fallocate(2)`, where it is one that the core knows.
pub(super) fn fallocate_mode(mode: i32) -> Option<FallocateMode> {
    const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    const ZERO_KEEP: i32 = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;
    match mode {
        0 => Some(FallocateMode::Allocate),
        libc::FALLOC_FL_KEEP_SIZE => Some(FallocateMode::AllocateKeepSize),
        PUNCH => Some(FallocateMode::PunchHole),
        libc::FALLOC_FL_ZERO_RANGE => Some(FallocateMode::ZeroRange),
        ZERO_KEEP => Some(FallocateMode::ZeroRangeKeepSize),
        _ => None,
    }
}

/// The flags of a `setxattr(2)`.
pub(super) fn xattr_mode(flags: i32) -> Option<XattrMode> {
    match flags {
        0 => Some(XattrMode::Any),
        libc::XATTR_CREATE => Some(XattrMode::Create),
        libc::XATTR_REPLACE => Some(XattrMode::Replace),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As `fuser` 0.18 makes a `SystemTime` of what the kernel sends.
    fn as_fuser_reads(seconds: i64, nanoseconds: u32) -> SystemTime {
        if seconds >= 0 {
            UNIX_EPOCH + Duration::new(seconds.unsigned_abs(), nanoseconds)
        } else {
            UNIX_EPOCH - Duration::new(seconds.unsigned_abs(), nanoseconds)
        }
    }

    proptest! {
        #[test]
        fn times_come_in_as_the_kernel_sent_them(
            seconds in -(1i64 << 62)..(1i64 << 62),
            nanoseconds in 0u32..1_000_000_000,
        ) {
            let expected = Timestamp { seconds, nanoseconds };
            prop_assert_eq!(timestamp(as_fuser_reads(seconds, nanoseconds)), expected);
        }

        /// `fuser` writes a `SystemTime` out correctly; so a correct one is what it needs.
        #[test]
        fn times_go_out_correctly(
            seconds in -(1i64 << 62)..(1i64 << 62),
            nanoseconds in 0u32..1_000_000_000,
        ) {
            let time = system_time(Timestamp { seconds, nanoseconds });
            let from_epoch = match time.duration_since(UNIX_EPOCH) {
                Ok(after) => i128::try_from(after.as_nanos()),
                Err(before) => i128::try_from(before.duration().as_nanos()).map(|nanos| -nanos),
            };
            let expected = i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds);
            prop_assert_eq!(from_epoch, Ok(expected));
        }
    }

    #[test]
    fn extreme_times_do_not_panic() {
        for seconds in [i64::MIN, i64::MAX, -1, 0] {
            for nanoseconds in [0, 999_999_999] {
                let _ = timestamp(system_time(Timestamp { seconds, nanoseconds }));
            }
        }
    }

    #[test]
    fn unknown_modes_are_refused() {
        for mode in [
            libc::FALLOC_FL_PUNCH_HOLE,
            libc::FALLOC_FL_COLLAPSE_RANGE,
            libc::FALLOC_FL_INSERT_RANGE,
            libc::FALLOC_FL_UNSHARE_RANGE,
            -1,
        ] {
            assert_eq!(fallocate_mode(mode), None);
        }
        assert_eq!(xattr_mode(libc::XATTR_CREATE | libc::XATTR_REPLACE), None);
    }
}
