//! A test double: any directory, made to fail. It owns which operation fails and how; what
//! succeeds goes to the directory behind it.
//!
//! A failed operation has done nothing, but for a write, which may have done a part
//! ([`Fault::partial`]), and for running out of space, which writes what still fits. A failed
//! sync has made nothing durable that it was asked for, as far as the caller may believe; the
//! bytes stay where they are, as on Linux while they are cached, or are lost ([`Fault::dropping`]),
//! as on Linux later on.
//!
//! Every handle that comes from a directory shares its [`Faults`], so a test keeps a clone, lets
//! the code under test run, and arms, counts and disarms as it goes:
//!
//! ```
//! use strongroom::backing::fault::{Fault, Faults, Operation};
//! use strongroom::backing::memory::MemoryDirectory;
//! use strongroom::backing::Directory;
//!
//! let faults = Faults::default();
//! let root = faults.wrap(Box::new(MemoryDirectory::new()));
//! let file = root.create_file(b"f", 0o600)?;
//! faults.arm(Fault::once(Operation::is_sync, libc::EIO).after(1));
//! assert!(file.sync_data().is_ok());
//! assert_eq!(file.sync_all().unwrap_err().raw_os_error(), Some(libc::EIO));
//! assert!(file.sync_all().is_ok());
//! # Ok::<(), std::io::Error>(())
//! ```

mod wrappers;

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

pub use self::wrappers::FaultDirectory;
use super::{Directory, File};

/// What can fail, by the trait's operations; those of files and of directories that do the same
/// are one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// `stat` by name or of a file.
    Stat,
    /// Opening a directory.
    OpenDirectory,
    /// Opening an existing file.
    OpenFile,
    /// Pinning.
    Pin,
    /// Creating a regular file.
    CreateFile,
    /// Making a directory.
    MakeDirectory,
    /// Making a symlink.
    MakeSymlink,
    /// Making a FIFO, socket or device.
    MakeNode,
    /// Reading a symlink.
    ReadLink,
    /// Making a hard link.
    HardLink,
    /// Renaming.
    Rename,
    /// Unlinking anything but a directory.
    Unlink,
    /// Removing a directory.
    RemoveDirectory,
    /// Setting mode, owner or times.
    SetAttributes,
    /// Getting or listing extended attributes.
    ReadXattr,
    /// Setting or removing extended attributes.
    ChangeXattr,
    /// Listing a directory.
    ReadEntries,
    /// `fsync` of a directory.
    SyncDirectory,
    /// `syncfs`.
    SyncFilesystem,
    /// `statvfs`.
    FilesystemStat,
    /// Taking the lock.
    Lock,
    /// Reading a file.
    Read,
    /// Writing to a file.
    Write,
    /// Truncating or extending a file.
    SetLen,
    /// Allocating.
    Allocate,
    /// Punching a hole.
    PunchHole,
    /// Seeking data or a hole.
    Seek,
    /// `fdatasync` of a file.
    SyncData,
    /// `fsync` of a file.
    SyncAll,
}

impl Operation {
    /// Whether it makes something durable.
    pub fn is_sync(self) -> bool {
        matches!(self, Self::SyncData | Self::SyncAll | Self::SyncDirectory | Self::SyncFilesystem)
    }

    /// Whether it changes what lies in the directory.
    pub fn is_change(self) -> bool {
        matches!(
            self,
            Self::CreateFile
                | Self::MakeDirectory
                | Self::MakeSymlink
                | Self::MakeNode
                | Self::HardLink
                | Self::Rename
                | Self::Unlink
                | Self::RemoveDirectory
                | Self::SetAttributes
                | Self::ChangeXattr
                | Self::Write
                | Self::SetLen
                | Self::Allocate
                | Self::PunchHole
        )
    }

    /// Every operation.
    pub fn any(self) -> bool {
        true
    }
}

/// One thing to go wrong.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    operations: fn(Operation) -> bool,
    errno: i32,
    skip: u64,
    times: u64,
    partial: bool,
    dropping: bool,
}

impl Fault {
    /// The next of `operations` fails with `errno`; those after it succeed.
    pub fn once(operations: fn(Operation) -> bool, errno: i32) -> Self {
        Self { operations, errno, skip: 0, times: 1, partial: false, dropping: false }
    }

    /// Each of `operations` fails with `errno` until the faults are disarmed.
    pub fn lasting(operations: fn(Operation) -> bool, errno: i32) -> Self {
        Self { times: u64::MAX, ..Self::once(operations, errno) }
    }

    /// Lets `count` of its operations succeed before.
    #[must_use]
    pub fn after(mut self, count: u64) -> Self {
        self.skip = count;
        self
    }

    /// Writes that fail have written the first half of their data.
    #[must_use]
    pub fn partial(mut self) -> Self {
        self.partial = true;
        self
    }

    /// Syncs of files that fail have lost what was written or made a hole since the last one, as far
    /// back as the fault was armed.
    #[must_use]
    pub fn dropping(mut self) -> Self {
        self.dropping = true;
        self
    }
}

/// What goes wrong in a [`FaultDirectory`] and all that was opened through it. Clones share.
#[derive(Clone, Default)]
pub struct Faults {
    shared: Arc<Mutex<Armed>>,
    gate: Arc<Gate>,
}

/// Where operations wait.
#[derive(Default)]
struct Gate {
    held: Mutex<Held>,
    changed: Condvar,
}

#[derive(Default)]
struct Held {
    operations: Option<fn(Operation) -> bool>,
    waiting: u64,
}

/// What a write replaced.
struct Replaced {
    offset: u64,
    bytes: Vec<u8>,
}

#[derive(Default)]
struct Armed {
    faults: Vec<Fault>,
    /// Bytes that files may still grow by.
    space: Option<u64>,
    seen: HashMap<Operation, u64>,
    failed: u64,
    /// By the file's inode number, while a fault drops it: what unsynced writes replaced.
    unsynced: HashMap<u64, Vec<Replaced>>,
    watcher: Option<Watcher>,
}

/// Called before and after operations.
type Watcher = Arc<dyn Fn(Operation, Moment) + Send + Sync>;

/// When a watcher is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// The operation is about to be done.
    Before,
    /// It was done, and its caller does not know yet.
    After,
}

/// A failure to be played.
struct Failure {
    error: io::Error,
    partial: bool,
    dropping: bool,
}

impl Faults {
    /// `directory`, failing as armed here.
    pub fn wrap(&self, directory: Box<dyn Directory>) -> FaultDirectory {
        FaultDirectory::new(self.clone(), directory)
    }

    /// Adds a fault to those armed. Of several that want the same operation the first wins; each
    /// counts the operations that it would want.
    pub fn arm(&self, fault: Fault) {
        self.shared.lock().faults.push(fault);
    }

    /// From here on files may grow by `bytes` in all, and nothing may be created once none are
    /// left: `ENOSPC`. Filling a hole inside a file is not counted.
    pub fn limit_space(&self, bytes: u64) {
        self.shared.lock().space = Some(bytes);
    }

    /// Calls `watcher` before and after each renaming, unlinking, writing and `fdatasync` that does not
    /// fail, on the thread that does it, so that a test can have something else happen at that moment.
    pub fn watch(&self, watcher: impl Fn(Operation, Moment) + Send + Sync + 'static) {
        self.shared.lock().watcher = Some(Arc::new(watcher));
    }

    /// Everything succeeds again, and nobody watches. Counts stay.
    pub fn disarm(&self) {
        let mut armed = self.shared.lock();
        armed.faults.clear();
        armed.space = None;
        armed.watcher = None;
    }

    /// From here on `operations` wait, having done nothing and not being counted, until
    /// [`Self::release`].
    pub fn hold(&self, operations: fn(Operation) -> bool) {
        self.gate.held.lock().operations = Some(operations);
    }

    /// Waits until so many operations wait.
    pub fn wait_until_held(&self, count: u64) {
        let mut held = self.gate.held.lock();
        while held.waiting < count {
            self.gate.changed.wait(&mut held);
        }
    }

    /// Lets what waits go on.
    pub fn release(&self) {
        self.gate.held.lock().operations = None;
        self.gate.changed.notify_all();
    }

    fn pass(&self, operation: Operation) {
        let mut held = self.gate.held.lock();
        if held.operations.is_some_and(|holds| holds(operation)) {
            held.waiting += 1;
            self.gate.changed.notify_all();
            while held.operations.is_some_and(|holds| holds(operation)) {
                self.gate.changed.wait(&mut held);
            }
            held.waiting -= 1;
        }
    }

    /// How many of `operations` there have been, failed ones included.
    pub fn seen(&self, operations: fn(Operation) -> bool) -> u64 {
        let armed = self.shared.lock();
        armed.seen.iter().filter(|(operation, _)| operations(**operation)).map(|(_, n)| n).sum()
    }

    /// How many operations were made to fail.
    pub fn failed(&self) -> u64 {
        self.shared.lock().failed
    }

    /// Counts an operation, and fails it where that is due.
    fn check(&self, operation: Operation) -> io::Result<()> {
        self.failure(operation).map_or(Ok(()), |failure| Err(failure.error))
    }

    /// Does an operation under the eyes of the watcher.
    fn watched(
        &self,
        operation: Operation,
        run: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<()> {
        let watcher = self.shared.lock().watcher.clone();
        let Some(watcher) = watcher else { return run() };
        watcher(operation, Moment::Before);
        run()?;
        watcher(operation, Moment::After);
        Ok(())
    }

    fn failure(&self, operation: Operation) -> Option<Failure> {
        self.pass(operation);
        let mut armed = self.shared.lock();
        *armed.seen.entry(operation).or_default() += 1;
        let mut found: Option<Fault> = None;
        for fault in armed.faults.iter_mut().filter(|fault| (fault.operations)(operation)) {
            if fault.skip > 0 {
                fault.skip -= 1;
            } else if fault.times > 0 && found.is_none() {
                fault.times = if fault.times == u64::MAX { u64::MAX } else { fault.times - 1 };
                found = Some(*fault);
            }
        }
        let creates = matches!(
            operation,
            Operation::CreateFile
                | Operation::MakeDirectory
                | Operation::MakeSymlink
                | Operation::MakeNode
        );
        let (errno, partial, dropping) = match found {
            Some(fault) => (fault.errno, fault.partial, fault.dropping),
            None if creates && armed.space == Some(0) => (libc::ENOSPC, false, false),
            None => return None,
        };
        armed.failed += 1;
        Some(Failure { error: io::Error::from_raw_os_error(errno), partial, dropping })
    }

    /// Remembers what a write or a hole is about to replace, where that may be asked for.
    fn before_change(&self, file: &dyn File, offset: u64, len: u64) -> io::Result<()> {
        if !self.shared.lock().faults.iter().any(|fault| fault.dropping) {
            return Ok(());
        }
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
        file.read_at(&mut bytes, offset)?;
        let ino = file.stat()?.ino;
        self.shared.lock().unsynced.entry(ino).or_default().push(Replaced { offset, bytes });
        Ok(())
    }

    /// A sync of a file, that fails where that is due.
    fn sync(&self, operation: Operation, file: &dyn File) -> io::Result<()> {
        let failure = self.failure(operation);
        let replaced = self.shared.lock().unsynced.remove(&file.stat()?.ino);
        let Some(failure) = failure else { return Ok(()) };
        let replaced = replaced.filter(|_| failure.dropping).unwrap_or_default();
        for Replaced { offset, bytes } in replaced.into_iter().rev() {
            let left = usize::try_from(file.stat()?.size.saturating_sub(offset));
            file.write_at(&bytes[..bytes.len().min(left.unwrap_or(usize::MAX))], offset)?;
        }
        Err(failure.error)
    }

    /// Takes the space by which a file grows when its bytes up to `end` are written; what is
    /// missing of it, having taken what there was.
    fn take_space(&self, file: &dyn File, end: u64, all_or_nothing: bool) -> io::Result<u64> {
        if self.shared.lock().space.is_none() {
            return Ok(0);
        }
        let stat = file.stat()?;
        let growth = end.saturating_sub(stat.size.max(stat.blocks.saturating_mul(512)));
        let mut armed = self.shared.lock();
        let Some(space) = armed.space else { return Ok(0) };
        let missing = growth.saturating_sub(space);
        if missing == 0 || !all_or_nothing {
            armed.space = Some(space.saturating_sub(growth));
        }
        armed.failed += u64::from(missing > 0);
        Ok(missing)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::backing::Access;
    use crate::backing::memory::MemoryDirectory;

    mod conformance {
        use super::*;
        use crate::backing::conformance::instantiate;

        instantiate!((Faults::default().wrap(Box::new(MemoryDirectory::new())), ()));
    }

    fn errno<T>(result: io::Result<T>) -> Option<i32> {
        result.err().and_then(|error| error.raw_os_error())
    }

    fn size(root: &dyn Directory, name: &[u8]) -> u64 {
        root.stat(name).unwrap().size
    }

    #[test]
    fn the_chosen_operation_fails_and_does_nothing() {
        let faults = Faults::default();
        let root = faults.wrap(Box::new(MemoryDirectory::new()));
        faults.arm(Fault::once(|operation| operation == Operation::Rename, libc::EIO).after(1));
        root.create_file(b"a", 0o600).unwrap();
        let rename = |from: &[u8], to: &[u8]| {
            root.rename(from, &root, to, crate::backing::RenameMode::Replace)
        };
        rename(b"a", b"b").unwrap();
        assert_eq!(errno(rename(b"b", b"c")), Some(libc::EIO));
        assert!(root.stat(b"b").is_ok());
        rename(b"b", b"c").unwrap();
        assert_eq!(faults.seen(|operation| operation == Operation::Rename), 3);
        assert_eq!(faults.failed(), 1);
    }

    #[test]
    fn a_lasting_fault_lasts_until_disarmed_and_reaches_opened_files() {
        let faults = Faults::default();
        let root = faults.wrap(Box::new(MemoryDirectory::new()));
        root.make_directory(b"d", 0o700).unwrap();
        let directory = root.open_directory(b"d").unwrap();
        let file = directory.create_file(b"f", 0o600).unwrap();
        faults.arm(Fault::lasting(Operation::is_change, libc::EROFS));
        assert_eq!(errno(file.write_at(b"x", 0)), Some(libc::EROFS));
        assert_eq!(errno(directory.unlink(b"f")), Some(libc::EROFS));
        assert_eq!(errno(file.set_len(0)), Some(libc::EROFS));
        assert!(file.sync_all().is_ok());
        assert!(directory.open_file(b"f", Access::Read).is_ok());
        faults.disarm();
        file.write_at(b"x", 0).unwrap();
        assert_eq!(faults.failed(), 3);
    }

    #[test]
    fn each_operation_is_counted_so_that_a_test_can_fail_every_one() {
        let work = |faults: &Faults| -> io::Result<()> {
            let root = faults.wrap(Box::new(MemoryDirectory::new()));
            let file = root.create_file(b"f", 0o600)?;
            file.write_at(b"x", 0)?;
            file.sync_all()?;
            root.sync()
        };
        let counting = Faults::default();
        work(&counting).unwrap();
        assert_eq!(counting.seen(Operation::any), 4);
        for number in 0..4 {
            let faults = Faults::default();
            faults.arm(Fault::once(Operation::any, libc::EIO).after(number));
            assert_eq!(errno(work(&faults)), Some(libc::EIO));
            assert_eq!(faults.seen(Operation::any), number + 1);
        }
    }

    #[test]
    fn a_partial_write_leaves_its_first_half() {
        let faults = Faults::default();
        let root = faults.wrap(Box::new(MemoryDirectory::new()));
        let file = root.create_file(b"f", 0o600).unwrap();
        faults.arm(Fault::once(|operation| operation == Operation::Write, libc::EIO).partial());
        assert_eq!(errno(file.write_at(b"abcdef", 0)), Some(libc::EIO));
        assert_eq!(size(&root, b"f"), 3);
    }

    #[test]
    fn a_failed_sync_can_lose_what_was_not_synced() {
        let faults = Faults::default();
        let root = faults.wrap(Box::new(MemoryDirectory::new()));
        let file = root.create_file(b"f", 0o600).unwrap();
        let sync = |operation| operation == Operation::SyncData;
        faults.arm(Fault::once(sync, libc::EIO).after(1).dropping());
        file.write_at(b"abcdef", 0).unwrap();
        file.sync_data().unwrap();
        file.write_at(b"XY", 1).unwrap();
        file.write_at(b"YZ..", 2).unwrap();
        assert_eq!(errno(file.sync_data()), Some(libc::EIO));
        let mut read = [0; 6];
        file.read_at(&mut read, 0).unwrap();
        assert_eq!(read, *b"abcdef");
    }

    #[test]
    fn held_operations_wait() {
        let faults = Faults::default();
        let root = faults.wrap(Box::new(MemoryDirectory::new()));
        faults.hold(|operation| operation == Operation::SyncDirectory);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| root.sync());
            faults.wait_until_held(1);
            root.stat(b".").unwrap();
            assert!(!waiting.is_finished());
            faults.release();
            waiting.join().unwrap().unwrap();
        });
    }

    #[test]
    fn space_runs_out() {
        let faults = Faults::default();
        let root = faults.wrap(Box::new(MemoryDirectory::new()));
        let file = root.create_file(b"f", 0o600).unwrap();
        file.write_at(&[1; 4096], 0).unwrap();
        faults.limit_space(6000);
        assert_eq!(errno(file.allocate(4096, 8192)), Some(libc::ENOSPC));
        file.allocate(4096, 4096).unwrap();
        file.write_at(&[2; 8192], 0).unwrap();
        assert_eq!(errno(file.write_at(&[3; 4096], 8192)), Some(libc::ENOSPC));
        assert_eq!(size(&root, b"f"), 8192 + 6000 - 4096);
        assert_eq!(errno(root.create_file(b"g", 0o600)), Some(libc::ENOSPC));
        assert_eq!(errno(root.make_directory(b"g", 0o600)), Some(libc::ENOSPC));
        file.write_at(&[4; 100], 0).unwrap();
        faults.disarm();
        root.create_file(b"g", 0o600).unwrap();
    }
}
