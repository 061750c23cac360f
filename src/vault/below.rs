//! What the core asks of a ciphertext file in more than one place, and what it makes of a
//! filesystem below that cannot do it.

use std::io;

use super::content::to_u64;
use crate::backing::{File, SetTime};

/// Sets the time of last change of content. Where the file is another user's, only that user may,
/// and the time stays as the writing left it.
pub(super) fn keep_modified(file: &dyn File, modified: SetTime) -> io::Result<()> {
    match file.set_times(SetTime::Keep, modified) {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => Ok(()),
        outcome => outcome,
    }
}

/// The most zeros written at once where no hole can be made.
const ZEROS: usize = 64 << 10;

/// Makes a hole, which ends with the file at the latest; where the filesystem below has none, of
/// zeros, which count as one.
pub(crate) fn punch(file: &dyn File, offset: u64, len: u64) -> io::Result<()> {
    match file.punch_hole(offset, len) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOSYS)) => {
            write_zeros(file, offset, offset.saturating_add(len).min(file.stat()?.size))
        }
        outcome => outcome,
    }
}

fn write_zeros(file: &dyn File, offset: u64, end: u64) -> io::Result<()> {
    let zeros = vec![0; ZEROS];
    let mut at = offset;
    while at < end {
        let count = usize::try_from(end - at).unwrap_or(ZEROS).min(ZEROS);
        file.write_at(&zeros[..count], at)?;
        at += to_u64(count);
    }
    Ok(())
}
