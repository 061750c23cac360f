//! A test double: a filesystem in memory that remembers everything done to it, and can rebuild
//! each disk that a power cut could have left. It owns the model of what a disk may have lost;
//! it must know nothing of what was stored.
//!
//! # The model
//!
//! Operations are numbered from 0 in the order in which they were issued. A cut *at `n`* comes
//! when the operations below `n` have been issued and no other has; a sync below `n` has
//! returned. What is on the disk then depends on three choices, each free of the others:
//!
//! **Metadata**: creating, linking, unlinking, renaming; setting a size, mode, owner, time or
//! extended attribute; allocating and punching. They go through the filesystem's journal, so what
//! is kept is a beginning of their sequence ([`Metadata::Ordered`]: ext4, xfs). A sync forces
//! that beginning to reach up to the last operation on the very file or directory that is synced
//! (an entry's change is one on both its directory and the file; `fdatasync` counts only what it
//! takes to read the data back: creation, size, allocation, punching). It promises nothing of
//! metadata issued after that operation, even before the sync: where the synced file has no
//! metadata waiting, ext4 commits no transaction. `syncfs` forces everything.
//! [`Metadata::PerFile`] is weaker, as where a sync writes a log of one file's changes (btrfs,
//! f2fs): any beginning of the sequence, and in addition the operations on what was synced and
//! those that they build upon.
//!
//! **Data**: for each sector of 512 bytes of each file, independently, the disk has what the file
//! held there after some write since the file's last sync, or at that sync. So each write may be
//! kept, dropped or torn, in any order; but sectors are never torn, and one that shows a write
//! also shows the earlier ones to that sector, since the kernel writes pages of its cache and not
//! the caller's buffers. Where nothing was written to the disk there are old bytes, or zeros
//! where the block was newly allocated.
//!
//! - Blocks freed by a truncation or a punched hole are written no more, and those allocated in
//!   their place are seen only where the freeing is kept.
//! - A truncation inside a block of 4096 bytes writes zeros to the rest of that block, and a
//!   punched hole to the parts of blocks at its ends. That is data: it can reach the disk without
//!   the change of size, and, for the hole, the hole without it.
//!
//! **Growth**: a write past the end of a file makes it longer at some later time (delayed
//! allocation), so the size is that after some write since the last sync or kept truncation.
//! Either of data and growth may be there without the other: growth without data reads as zeros,
//! data without growth is not seen.
//!
//! A size that grew came to the disk with its inode, and so with the time of the write that made
//! it grow. Other times of change that data writes leave behind are not modelled: they stay at
//! what the last kept change of metadata set.
//!
//! Files without a name are gone, and locks with them.
//!
//! # Use
//!
//! ```
//! use strongroom::backing::crash::{CrashRecorder, Metadata, Sampler};
//! use strongroom::backing::Directory;
//!
//! let recorder = CrashRecorder::new();
//! let file = recorder.root().create_file(b"f", 0o600)?;
//! file.write_at(b"acknowledged", 0)?;
//! file.sync_all()?;
//! let acknowledged = recorder.operation_count();
//! file.write_at(b"in flight", 12)?;
//!
//! let mut sampler = Sampler::new(7, 100);
//! let mut timeline = recorder.timeline(Metadata::Ordered);
//! for at in 0..=recorder.operation_count() {
//!     timeline.advance(at);
//!     for image in timeline.images(&mut sampler) {
//!         if at >= acknowledged {
//!             let size = image.directory.stat(b"f")?.size;
//!             assert!(size >= 12, "{}", image.description);
//!         }
//!     }
//! }
//! # Ok::<(), std::io::Error>(())
//! ```

mod describe;
mod plan;
mod timeline;
mod touch;

use super::Directory;
use super::memory::{MemoryDirectory, Record, State};

pub use self::plan::{Outcome, Plan, Sampler};
pub use self::timeline::{CrashImage, Metadata, Timeline};

/// What a disk writes whole or not at all, in bytes.
const SECTOR: u64 = 512;

/// A filesystem in memory that remembers what is done to it.
pub struct CrashRecorder {
    memory: MemoryDirectory,
    /// What was there, and durable, before the first operation.
    base: State,
}

impl Default for CrashRecorder {
    fn default() -> Self {
        Self::new()
    }
}

impl CrashRecorder {
    /// An empty filesystem.
    pub fn new() -> Self {
        Self::on(&MemoryDirectory::new())
    }

    /// A copy of the filesystem that `image` belongs to, all of it durable: to run what follows a
    /// power cut, and cut the power again.
    pub fn on(image: &MemoryDirectory) -> Self {
        let base = image.state().without_handles();
        let memory = MemoryDirectory::of_state(base.clone(), Some(Vec::new()));
        Self { memory, base }
    }

    /// The root directory, for the code under test.
    pub fn root(&self) -> Box<dyn Directory> {
        Box::new(self.memory.root())
    }

    /// How many operations there have been: the number of the next, and the latest point to cut.
    pub fn operation_count(&self) -> usize {
        self.memory.with_record(<[Record]>::len)
    }

    /// The disks that the operations so far could leave, from the first on. Later operations do
    /// not reach it.
    pub fn timeline(&self, metadata: Metadata) -> Timeline {
        let records = self.memory.with_record(<[Record]>::to_vec);
        Timeline::new(self.base.clone(), records, metadata)
    }

    /// Disks that a cut at `at` could leave. To cut at many points, [`Self::timeline`] is faster.
    ///
    /// # Panics
    ///
    /// Where there have not been so many operations.
    pub fn images(&self, at: usize, metadata: Metadata, sampler: &mut Sampler) -> Vec<CrashImage> {
        let mut timeline = self.timeline(metadata);
        timeline.advance(at);
        timeline.images(sampler).collect()
    }

    /// The disk had the power been cut with every operation durable: what a clean end leaves.
    pub fn durable(&self) -> MemoryDirectory {
        self.memory.copy()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
