//! The redo journal at run time: appending records, making them durable for many at once, and the
//! life of its two segments. It must know nothing of what the records mean for a file's content.
//!
//! A segment is free, active, or filled. Records go to the active one; when it has no room left
//! the other, if free, becomes active, and the filled one waits to be checkpointed (its blocks
//! written in place and synced), after which a [`Record::Retire`] makes it free.

mod records;

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

pub(super) use self::records::{
    AppendError, Appended, BlockPlace, FileRecord, FileReference, RecordOwner,
};
use super::content::with_scratch;
use super::inode::Inode;
use super::recovery::remove_segments;
use super::segment::{self, Segment, SegmentState};
use super::signal::Signals;
use crate::backing::{Directory, File, Timestamp};
use crate::crypto::random_array;
use crate::format::journal::{
    BLOCKS_PREFIX_LEN, FIRST_RECORD, FRAME_LEN, JournalCodec, PAYLOAD_MAX, Place,
    RECORD_HEADER_LEN, RECORD_OVERHEAD, Record, SegmentHeader, SessionId,
};

/// The names of the two segments in the vault directory.
pub(super) const SEGMENT_NAMES: [&[u8]; 2] = [b"journal.0", b"journal.1"];

/// Sizes tried for a segment, in bytes, where the disk has no room for the wanted one.
const SMALL_SEGMENT_SIZES: [u64; 3] = [8 << 20, 2 << 20, 512 << 10];
/// What part of the free room a segment takes at most, unless that is less than the smallest.
const SHARE_OF_ROOM: u64 = 32;
/// The number of no file: readers pass over records about it.
const NOBODY: u32 = u32::MAX;
/// How often emptying a segment may fail, one time after the other, while somebody waits for it.
const PATIENCE: u64 = 3;
/// Room kept in every segment for the records that end it.
const RESERVE: u64 = 4096;

/// Bytes that are not left to whoever waits for the next sync.
const SYNC_AHEAD: u64 = 8 << 20;

/// Records that a failed write left out: no reader would get past it. What is to stand there has
/// their places and lengths and means nothing.
struct Gap {
    file: Arc<dyn File>,
    offset: u64,
    bytes: Vec<u8>,
}

struct Inner {
    segments: [Segment; 2],
    next_generation: u64,
    next_sequence: u64,
    durable_sequence: u64,
    /// Sequences handed out whose bytes are not written yet.
    in_flight: BTreeSet<u64>,
    syncing: bool,
    /// Bytes written since the last sync began.
    unsynced_bytes: u64,
    /// What writes that failed left out.
    gaps: Vec<Gap>,
    /// A sync failed: nothing here can be relied on any more.
    failed: Option<i32>,
    durable_until: Timestamp,
    /// Records of blocks appended since the maintenance last looked.
    activity: u64,
    /// When an application last waited for a sync.
    last_sync: Option<Instant>,
    /// How many wait for a free segment.
    waiting: usize,
    /// How often a filled segment could not be emptied, and why the last time.
    failures: (u64, i32),
}

/// The journal of a mounted vault.
pub(super) struct Journal {
    codec: JournalCodec,
    session: SessionId,
    inner: Mutex<Inner>,
    written: Condvar,
    synced: Condvar,
    room: Condvar,
    signals: Signals,
}

impl Journal {
    /// Makes the two segments afresh (nothing may be left in them) and begins the first.
    ///
    /// # Errors
    /// `ENOSPC` when there is no room even for small ones.
    pub(super) fn create(
        directory: &dyn Directory,
        codec: JournalCodec,
        now: Timestamp,
        wanted_size: u64,
        signals: &Signals,
    ) -> io::Result<Self> {
        let mut last = io::Error::from_raw_os_error(libc::ENOSPC);
        let room = directory.filesystem_stat()?;
        let share = room.block_size.saturating_mul(room.blocks_available) / SHARE_OF_ROOM;
        let [.., smallest] = SMALL_SEGMENT_SIZES;
        let wanted_size = wanted_size.min(share.max(smallest).next_multiple_of(4096));
        let smaller = SMALL_SEGMENT_SIZES.into_iter().filter(|size| *size < wanted_size);
        for size in std::iter::once(wanted_size).chain(smaller) {
            let files: io::Result<Vec<_>> =
                SEGMENT_NAMES.iter().map(|name| segment::create(directory, name, size)).collect();
            match files {
                Ok(files) => {
                    let files: [Arc<dyn File>; 2] =
                        files.try_into().ok().expect("two names, two files");
                    let journal = Self::begin(files, size, codec, now, signals.clone())?;
                    directory.sync()?;
                    return Ok(journal);
                }
                Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT)) => {
                    last = error
                }
                Err(error) => return Err(error),
            }
        }
        for name in SEGMENT_NAMES {
            let _ = directory.unlink(name);
        }
        Err(last)
    }

    fn begin(
        files: [Arc<dyn File>; 2],
        size: u64,
        codec: JournalCodec,
        now: Timestamp,
        signals: Signals,
    ) -> io::Result<Self> {
        let session = SessionId(random_array());
        let inner = Inner {
            segments: files.map(|file| Segment::new(file, size)),
            next_generation: 1,
            next_sequence: 1,
            durable_sequence: 0,
            in_flight: BTreeSet::new(),
            syncing: false,
            unsynced_bytes: 0,
            gaps: Vec::new(),
            failed: None,
            durable_until: now,
            activity: 0,
            last_sync: None,
            waiting: 0,
            failures: (0, 0),
        };
        let journal = Self {
            codec,
            session,
            inner: Mutex::new(inner),
            written: Condvar::new(),
            synced: Condvar::new(),
            room: Condvar::new(),
            signals,
        };
        {
            let mut inner = journal.inner.lock();
            journal.activate(&mut inner, 0)?;
        }
        journal.commit(u64::MAX)?;
        Ok(journal)
    }

    /// Makes a free segment the active one.
    fn activate(&self, inner: &mut Inner, index: usize) -> io::Result<()> {
        let generation = inner.next_generation;
        let durable_until = (inner.durable_until.seconds, inner.durable_until.nanoseconds);
        let header = self.codec.encode_header(&SegmentHeader {
            generation,
            session: self.session,
            first_sequence: inner.next_sequence,
            durable_until,
        });
        let segment = &mut inner.segments[index];
        segment.file.write_at(&header, 0)?;
        segment.state = SegmentState::Active;
        segment.generation = generation;
        segment.head = FIRST_RECORD;
        segment.dirty = true;
        segment.next_local = 0;
        segment.members.clear();
        inner.next_generation += 1;
        Ok(())
    }

    /// Makes sure that the active segment has room for `len` bytes.
    fn make_room(&self, inner: &mut Inner, len: u64, reserve: u64) -> Result<usize, AppendError> {
        let active = active_index(inner);
        let segment = &inner.segments[active];
        if segment.head + len + reserve <= segment.size {
            return Ok(active);
        }
        let other = 1 - active;
        if inner.segments[other].state != SegmentState::Free {
            self.signals.work.raise();
            return Err(AppendError::Full);
        }
        if FIRST_RECORD + len + reserve > inner.segments[other].size {
            return Err(AppendError::Failed(io::Error::from_raw_os_error(libc::ENOSPC)));
        }
        self.activate(inner, other).map_err(AppendError::Failed)?;
        inner.segments[active].state = SegmentState::Filled;
        self.signals.work.raise();
        Ok(other)
    }

    /// The longest run of sealed blocks that one record should hold.
    pub(super) fn run_limit(&self) -> usize {
        let size = self.inner.lock().segments[0].size;
        usize::try_from((size / 4).min(1 << 20)).expect("at most 1 MiB")
    }

    /// Appends a record about a file; `path` tells the file's path where the segment needs it.
    pub(super) fn append(
        &self,
        owner: RecordOwner<'_>,
        record: &FileRecord<'_>,
        path: impl FnOnce() -> io::Result<Vec<u8>>,
    ) -> Result<Appended, AppendError> {
        let payload_len = match record {
            FileRecord::Blocks { sealed, .. } => BLOCKS_PREFIX_LEN + sealed.len(),
            FileRecord::Resize { tail, .. } => BLOCKS_PREFIX_LEN + tail.len(),
            FileRecord::Punch { .. } => BLOCKS_PREFIX_LEN + 8,
            FileRecord::Modified(_) => BLOCKS_PREFIX_LEN,
        };
        let mut path_if_needed: Option<Vec<u8>> = None;
        let mut path = Some(path);
        let mut inner = self.inner.lock();
        let total = loop {
            check(&inner)?;
            mend(&mut inner).map_err(AppendError::Failed)?;
            let known =
                inner.segments[active_index(&inner)].generation == owner.reference.generation;
            let file_record_len = match (&path_if_needed, known) {
                (_, true) => 0,
                (Some(path), false) => file_record_len(path),
                (None, false) => {
                    // Resolving the path takes other locks: not under this one.
                    let resolved =
                        MutexGuard::unlocked(&mut inner, || path.take().map(|path| path()));
                    path_if_needed = resolved.transpose().map_err(AppendError::Failed)?;
                    if path_if_needed.as_ref().is_some_and(|path| !has_room_in_record(path)) {
                        let too_long = io::Error::from_raw_os_error(libc::ENAMETOOLONG);
                        return Err(AppendError::Failed(too_long));
                    }
                    continue;
                }
            };
            let before = active_index(&inner);
            let total = to_u64(file_record_len + payload_len + RECORD_OVERHEAD);
            if self.make_room(&mut inner, total, RESERVE)? == before {
                break total;
            }
        };
        let active = active_index(&inner);
        inner.segments[active].write_ahead(total).map_err(AppendError::Failed)?;
        let mut sequences = Vec::with_capacity(2);
        let segment_generation = inner.segments[active].generation;
        let start = inner.segments[active].head;
        let mut place = |inner: &mut Inner, len: usize| {
            let sequence = inner.next_sequence;
            inner.next_sequence += 1;
            inner.in_flight.insert(sequence);
            sequences.push(sequence);
            let segment = &mut inner.segments[active];
            let offset = segment.head;
            segment.head += to_u64(len);
            segment.dirty = true;
            Place { session: self.session, generation: segment_generation, offset, sequence }
        };
        let mut file_record = None;
        if owner.reference.generation != segment_generation {
            let path = path_if_needed.expect("resolved above");
            let local = inner.segments[active].next_local;
            inner.segments[active].next_local += 1;
            *owner.reference = FileReference { generation: segment_generation, local };
            let file_place = place(&mut inner, file_record_len(&path));
            file_record = Some((file_place, Record::File { local, file_id: owner.file_id, path }));
        }
        let local = owner.reference.local;
        let record_place = place(&mut inner, payload_len + RECORD_OVERHEAD);
        inner.segments[active]
            .members
            .entry(Arc::as_ptr(owner.inode).addr())
            .or_insert_with(|| owner.inode.clone());
        inner.activity += 1;
        let file = inner.segments[active].file.clone();
        drop(inner);

        let mut bytes = with_scratch(|scratch| std::mem::take(&mut scratch.record));
        // What stands before a record spares it a copy.
        bytes.clear();
        bytes.resize(FRAME_LEN, 0);
        if let Some((place, record)) = &file_record {
            self.codec.encode(place, record, &mut bytes);
        }
        let file_record_end = bytes.len();
        self.encode_file_record(&record_place, local, record, &mut bytes);
        let filler = || {
            let mut filler = bytes[FRAME_LEN..file_record_end].to_vec();
            self.encode_file_record(&record_place, NOBODY, record, &mut filler);
            filler
        };
        let written = self.finish_write(&file, &bytes[FRAME_LEN..], start, &sequences, filler);
        with_scratch(|scratch| scratch.record = bytes);
        written.map_err(AppendError::Failed)?;
        Ok(Appended {
            generation: segment_generation,
            payload: record_place.offset + to_u64(RECORD_HEADER_LEN + BLOCKS_PREFIX_LEN),
            sequence: record_place.sequence,
        })
    }

    fn encode_file_record(
        &self,
        place: &Place,
        local: u32,
        record: &FileRecord<'_>,
        bytes: &mut Vec<u8>,
    ) {
        match record {
            FileRecord::Blocks { first, sealed } => {
                self.codec.encode_blocks(place, local, *first, sealed, bytes);
            }
            FileRecord::Resize { size, tail } => {
                let record = Record::Resize { local, size: *size, tail: tail.to_vec() };
                self.codec.encode(place, &record, bytes);
            }
            FileRecord::Punch { first, count } => {
                let record = Record::Punch { local, first: *first, count: *count };
                self.codec.encode(place, &record, bytes);
            }
            FileRecord::Modified(Timestamp { seconds, nanoseconds }) => {
                let (seconds, nanoseconds) = (*seconds, *nanoseconds);
                self.codec.encode(place, &Record::Modified { local, seconds, nanoseconds }, bytes);
            }
        }
    }

    /// Appends a record about the journal itself; there is always room for these.
    fn append_own(&self, record: &Record) -> io::Result<u64> {
        let mut inner = self.inner.lock();
        check(&inner).map_err(into_io)?;
        mend(&mut inner)?;
        let mut bytes = Vec::new();
        let active = active_index(&inner);
        let segment = &inner.segments[active];
        let place = Place {
            session: self.session,
            generation: segment.generation,
            offset: segment.head,
            sequence: inner.next_sequence,
        };
        self.codec.encode(&place, record, &mut bytes);
        if segment.head + to_u64(bytes.len()) > segment.size {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        let file = segment.file.clone();
        inner.segments[active].write_ahead(to_u64(bytes.len()))?;
        inner.next_sequence += 1;
        inner.in_flight.insert(place.sequence);
        inner.segments[active].head += to_u64(bytes.len());
        inner.segments[active].dirty = true;
        drop(inner);
        // What it says stays true.
        self.finish_write(&file, &bytes, place.offset, &[place.sequence], || bytes.clone())?;
        Ok(place.sequence)
    }

    /// Writes records into their place; `filler` makes what may stand there when that fails.
    fn finish_write(
        &self,
        file: &Arc<dyn File>,
        bytes: &[u8],
        offset: u64,
        sequences: &[u64],
        filler: impl FnOnce() -> Vec<u8>,
    ) -> io::Result<()> {
        let outcome = file.write_at(bytes, offset);
        let mut inner = self.inner.lock();
        for sequence in sequences {
            inner.in_flight.remove(sequence);
        }
        if outcome.is_err() {
            inner.gaps.push(Gap { file: file.clone(), offset, bytes: filler() });
        }
        inner.unsynced_bytes += to_u64(bytes.len());
        if inner.unsynced_bytes >= SYNC_AHEAD && !inner.syncing {
            self.signals.sync_ahead.raise();
        }
        // Again: a sync of records before these may have begun while they were being written.
        for segment in &mut inner.segments {
            segment.dirty |= Arc::ptr_eq(&segment.file, file);
        }
        self.written.notify_all();
        outcome
    }

    /// Makes every record up to `sequence` durable (`u64::MAX`: every one appended so far). One
    /// sync serves all who wait.
    pub(super) fn commit(&self, sequence: u64) -> io::Result<()> {
        let mut inner = self.inner.lock();
        let target = sequence.min(inner.next_sequence - 1);
        let force = sequence == u64::MAX;
        loop {
            check(&inner).map_err(into_io)?;
            let pending = inner.segments.iter().any(|segment| segment.dirty);
            if inner.durable_sequence >= target && !(force && pending && target == 0) {
                return Ok(());
            }
            if inner.syncing {
                self.synced.wait(&mut inner);
                continue;
            }
            inner.syncing = true;
            inner.unsynced_bytes = 0;
            let end = inner.next_sequence - 1;
            while inner.failed.is_none()
                && inner.in_flight.first().is_some_and(|first| *first <= end)
            {
                self.written.wait(&mut inner);
            }
            if let Err(error) = mend(&mut inner) {
                inner.syncing = false;
                self.synced.notify_all();
                return Err(error);
            }
            let files: Vec<_> = inner
                .segments
                .iter_mut()
                .filter_map(|segment| {
                    std::mem::take(&mut segment.dirty).then(|| segment.file.clone())
                })
                .collect();
            let outcome = MutexGuard::unlocked(&mut inner, || {
                files.iter().try_for_each(|file| file.sync_data())
            });
            inner.syncing = false;
            self.synced.notify_all();
            match outcome {
                Ok(()) => inner.durable_sequence = inner.durable_sequence.max(end),
                Err(error) => {
                    // After a failed sync the kernel may have dropped the pages: nothing here can
                    // be relied on any more.
                    inner.failed = Some(error.raw_os_error().unwrap_or(libc::EIO));
                    return Err(error);
                }
            }
            if force && target == 0 {
                return Ok(());
            }
        }
    }

    /// The same for an application that waits, of which the emptying of the journal takes notice.
    pub(super) fn commit_for_sync(&self, sequence: u64) -> io::Result<()> {
        self.inner.lock().last_sync = Some(Instant::now());
        self.commit(sequence)
    }

    /// Whether emptying the filled segment may wait: an application synced within `interval`, so
    /// the emptying would slow it down, and the active segment has room for some time.
    pub(super) fn emptying_can_wait(&self, interval: Duration) -> bool {
        let inner = self.inner.lock();
        let active = &inner.segments[active_index(&inner)];
        inner.waiting == 0
            && active.head < active.size / 2
            && inner.last_sync.is_some_and(|sync| sync.elapsed() < interval)
    }

    /// Up to which sequence the journal is durable.
    pub(super) fn durable_sequence(&self) -> u64 {
        self.inner.lock().durable_sequence
    }

    /// Reads a sealed block back, or several that follow each other.
    /// # Panics
    /// When `buffer` is not as long as the place.
    pub(super) fn read_block(&self, place: &BlockPlace, buffer: &mut [u8]) -> io::Result<()> {
        assert_eq!(buffer.len(), place.len, "a buffer for the block");
        let file = {
            let inner = self.inner.lock();
            let segment = inner
                .segments
                .iter()
                .find(|segment| segment.generation == place.generation)
                .ok_or_else(|| io::Error::from_raw_os_error(libc::EIO))?;
            segment.file.clone()
        };
        let read = file.read_at(buffer, place.offset)?;
        if read == place.len { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EIO)) }
    }

    /// Notes durably that everything changed before `time` is durable.
    pub(super) fn record_durable_until(&self, time: Timestamp) -> io::Result<()> {
        {
            let mut inner = self.inner.lock();
            inner.durable_until = time;
            let active = active_index(&inner);
            let segment = &inner.segments[active];
            // The reserve is for records that end the segment.
            if segment.head + RESERVE > segment.size - RESERVE / 2 {
                return Ok(());
            }
        }
        let sequence = self.append_own(&Record::DurableUntil {
            seconds: time.seconds,
            nanoseconds: time.nanoseconds,
        })?;
        self.commit(sequence)
    }

    /// Waits until a segment was made free, or the journal failed.
    ///
    /// # Errors
    /// Why none is made free, when that fails again and again.
    pub(super) fn wait_for_room(&self) -> io::Result<()> {
        let mut inner = self.inner.lock();
        inner.waiting += 1;
        let (before, _) = inner.failures;
        let outcome = loop {
            if inner.failed.is_some()
                || inner.segments.iter().any(|segment| segment.state == SegmentState::Free)
            {
                break Ok(());
            }
            let (failures, errno) = inner.failures;
            if failures - before >= PATIENCE {
                break Err(io::Error::from_raw_os_error(errno));
            }
            self.signals.work.raise();
            self.room.wait_for(&mut inner, Duration::from_millis(200));
        };
        inner.waiting -= 1;
        outcome
    }

    /// Notes that the filled segment could not be emptied, for those who wait for it.
    pub(super) fn emptying_failed(&self, errno: i32) {
        let mut inner = self.inner.lock();
        inner.failures = (inner.failures.0 + 1, errno);
        self.room.notify_all();
    }

    /// The filled segment's generation and the inodes with records in it.
    pub(super) fn filled(&self) -> Option<(u64, Vec<Arc<Inode>>)> {
        let inner = self.inner.lock();
        filled(&inner)
            .map(|segment| (segment.generation, segment.members.values().cloned().collect()))
    }

    /// The inodes with records in any segment.
    pub(super) fn members(&self) -> Vec<Arc<Inode>> {
        let inner = self.inner.lock();
        inner.segments.iter().flat_map(|segment| segment.members.values().cloned()).collect()
    }

    /// Makes the active segment a filled one, if it has records of files and the other is free.
    pub(super) fn fill_active(&self) -> io::Result<bool> {
        let mut inner = self.inner.lock();
        check(&inner).map_err(into_io)?;
        let active = active_index(&inner);
        if inner.segments[active].members.is_empty()
            || inner.segments[1 - active].state != SegmentState::Free
        {
            return Ok(false);
        }
        self.activate(&mut inner, 1 - active)?;
        inner.segments[active].state = SegmentState::Filled;
        Ok(true)
    }

    /// Retires a filled segment whose blocks are all in place and synced.
    pub(super) fn retire(&self, generation: u64) -> io::Result<()> {
        let sequence = self.append_own(&Record::Retire { generation })?;
        self.commit(sequence)
    }

    /// Frees a retired segment, once no reader needs its blocks.
    pub(super) fn free(&self, generation: u64) {
        let mut inner = self.inner.lock();
        if let Some(segment) = inner.segments.iter_mut().find(|segment| {
            segment.generation == generation && segment.state == SegmentState::Filled
        }) {
            segment.state = SegmentState::Free;
            segment.members.clear();
        }
        self.room.notify_all();
    }

    /// Records of blocks since the last call.
    pub(super) fn take_activity(&self) -> u64 {
        std::mem::take(&mut self.inner.lock().activity)
    }

    /// Whether any segment has records of files.
    pub(super) fn has_members(&self) -> bool {
        self.inner.lock().segments.iter().any(|segment| !segment.members.is_empty())
    }

    /// Everything is in place and synced: ends the journal and removes its files.
    pub(super) fn finish(&self, directory: &dyn Directory) -> io::Result<()> {
        let sequence = self.append_own(&Record::Clean)?;
        self.commit(sequence)?;
        let active = active_index(&self.inner.lock());
        remove_segments(directory, [SEGMENT_NAMES[1 - active], SEGMENT_NAMES[active]])
    }
}

fn active_index(inner: &Inner) -> usize {
    usize::from(inner.segments[1].state == SegmentState::Active)
}

fn filled(inner: &Inner) -> Option<&Segment> {
    inner.segments.iter().find(|segment| segment.state == SegmentState::Filled)
}

/// Fills the gaps that failed writes left, or says why it cannot be.
fn mend(inner: &mut Inner) -> io::Result<()> {
    while let Some(gap) = inner.gaps.last() {
        gap.file.write_at(&gap.bytes, gap.offset)?;
        inner.gaps.pop();
    }
    Ok(())
}

fn check(inner: &Inner) -> Result<(), AppendError> {
    match inner.failed {
        Some(errno) => Err(AppendError::Failed(io::Error::from_raw_os_error(errno))),
        None => Ok(()),
    }
}

fn into_io(error: AppendError) -> io::Error {
    match error {
        AppendError::Full => io::Error::from_raw_os_error(libc::EAGAIN),
        AppendError::Failed(error) => error,
    }
}

fn file_record_len(path: &[u8]) -> usize {
    4 + 16 + path.len() + RECORD_OVERHEAD
}

/// Whether a record can name a file by this path.
fn has_room_in_record(path: &[u8]) -> bool {
    file_record_len(path) - RECORD_OVERHEAD <= PAYLOAD_MAX
}

fn to_u64(len: usize) -> u64 {
    u64::try_from(len).expect("a usize fits 64 bits")
}
