//! Owns the lock that keeps a file or directory to one program at a time. Must not know what for.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::FlockOperation;

/// An exclusive lock of `flock(2)`, held until it is dropped or the process ends, however that ends.
///
/// It is given back in so many words and not by closing the file: a process that is being started has all
/// that is open here too, until it executes its program, and with it the lock.
#[derive(Debug)]
pub struct ExclusiveLock {
    descriptor: OwnedFd,
}

impl ExclusiveLock {
    /// Takes the lock on what is open, without waiting for it.
    ///
    /// # Errors
    /// [`rustix::io::Errno::WOULDBLOCK`] while it is held through another opening of the same file.
    pub fn take(descriptor: OwnedFd) -> rustix::io::Result<Self> {
        rustix::io::retry_on_intr(|| {
            rustix::fs::flock(&descriptor, FlockOperation::NonBlockingLockExclusive)
        })?;
        Ok(Self { descriptor })
    }
}

impl AsFd for ExclusiveLock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

impl Drop for ExclusiveLock {
    fn drop(&mut self) {
        // If it fails, closing does it.
        let _ = rustix::fs::flock(&self.descriptor, FlockOperation::Unlock);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use rustix::io::Errno;

    use super::*;

    #[test]
    fn it_ends_although_a_process_that_is_being_started_has_the_file_open() {
        let directory = tempfile::tempdir().unwrap();
        let open = || OwnedFd::from(std::fs::File::open(directory.path()).unwrap());
        let lock = ExclusiveLock::take(open()).unwrap();
        // What a process has between fork(2) and execve(2).
        let inherited = lock.as_fd().try_clone_to_owned().unwrap();
        assert_eq!(ExclusiveLock::take(open()).unwrap_err(), Errno::WOULDBLOCK);
        drop(lock);
        drop(ExclusiveLock::take(open()).unwrap());
        drop(inherited);
    }
}
