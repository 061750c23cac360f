//! Power cuts: every disk image that a cut could leave, at every operation of a workload, is
//! mounted, recovered, and compared with what was promised.

#![allow(clippy::unwrap_used)]

use std::cell::Cell;

use super::journal::Journal;
use super::tests::{CALLER, format, master, read_all};
use super::*;
use crate::backing::crash::{CrashImage, CrashRecorder, Metadata, Sampler};
use crate::backing::memory::MemoryDirectory;
use crate::backing::{Directory, RenameMode, SetTime, Timestamp};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

const ROOT: InodeNumber = InodeNumber::ROOT;
/// Of how many disks one has its recovery cut, too.
const AGAIN_EVERY: usize = 149;

fn open(vault: Box<dyn Directory>) -> FileSystem {
    // Segments so small that a few writes fill one. The times are set as the kernel sets them.
    let options = FilesystemOptions {
        journal_segment: 128 << 10,
        kernel_keeps_times: true,
        ..FilesystemOptions::default()
    };
    FileSystem::open(vault, &master(), options, "a test").unwrap()
}

/// A vault whose durable beginning has one file, and a recorder on it.
fn recorder(content: &[u8]) -> CrashRecorder {
    let base = CrashRecorder::new();
    format(&*base.root());
    let fs = open(base.root());
    let ino = fs.create(&CALLER, ROOT, b"file", 0o600).unwrap().attributes.ino;
    fs.write(ino, 0, content).unwrap();
    fs.close().unwrap();
    CrashRecorder::on(&base.durable())
}

/// What the file was at one time, and up to which operation of the disk.
struct Moment {
    content: Vec<u8>,
    /// Operations issued when the application saw this state as done.
    operations: usize,
    /// The content was then acknowledged as durable.
    durable: bool,
    /// And the time of its last change.
    time_durable: bool,
    /// When it was last changed: in seconds, as last set; `None` from a change until the next is set.
    modified: Option<i64>,
}

/// Runs steps on the file and notes each state.
struct Workload {
    recorder: CrashRecorder,
    moments: Vec<Moment>,
}

#[derive(Clone, Debug)]
enum Step {
    Write(u64, Vec<u8>),
    Truncate(u64),
    Punch(u64, u64),
    /// Sets the time of last change.
    Touch(i64),
    /// As `fdatasync`.
    SyncData,
    /// As `fsync`.
    Sync,
    CommitAll,
    EmptyJournal,
    /// The journal goes on in its other segment.
    FillSegment,
    /// A filled segment is emptied in part, and the rest has to wait.
    EmptyPart,
    Rename,
    RenameDirectory,
}

fn run(initial: &[u8], steps: &[Step]) -> Workload {
    let recorder = recorder(initial);
    let mut content = initial.to_vec();
    let mut moments = vec![Moment {
        content: content.clone(),
        operations: 0,
        durable: true,
        time_durable: true,
        modified: None,
    }];
    let mut clock = 0;
    let mut modified = None;
    let fs = open(recorder.root());
    let ino = fs.lookup(ROOT, b"file").unwrap().attributes.ino;
    let mut here = true;
    for step in steps {
        let touch = |seconds: i64| {
            let at = SetTime::At(Timestamp { seconds, nanoseconds: 5 });
            let changes = SetAttributes { modified: at, ..SetAttributes::default() };
            fs.set_attributes(ino, &changes).unwrap();
            Some(seconds)
        };
        let (mut durable, mut time_durable) = (false, false);
        if matches!(step, Step::SyncData | Step::Sync | Step::CommitAll) && modified.is_none() {
            // The kernel tells the time of its writes before it asks for a sync.
            clock += 1;
            modified = touch(clock);
        }
        match step {
            Step::Write(offset, data) => {
                modified = None;
                fs.write(ino, *offset, data).unwrap();
                let offset = usize::try_from(*offset).unwrap();
                let end = offset + data.len();
                content.resize(content.len().max(end), 0);
                content[offset..end].copy_from_slice(data);
            }
            Step::Truncate(size) => {
                modified = None;
                fs.set_attributes(
                    ino,
                    &SetAttributes { size: Some(*size), ..SetAttributes::default() },
                )
                .unwrap();
                content.resize(usize::try_from(*size).unwrap(), 0);
            }
            Step::Punch(offset, len) => {
                modified = None;
                fs.fallocate(ino, FallocateMode::PunchHole, *offset, *len).unwrap();
                let start = usize::try_from(*offset).unwrap().min(content.len());
                let end = usize::try_from(offset + len).unwrap().min(content.len());
                content[start..end].fill(0);
            }
            Step::Touch(seconds) => modified = touch(*seconds),
            Step::SyncData => {
                fs.sync(ino, true).unwrap();
                durable = true;
            }
            Step::Sync => {
                fs.sync(ino, false).unwrap();
                (durable, time_durable) = (true, true);
            }
            Step::CommitAll => {
                fs.sync_all().unwrap();
                (durable, time_durable) = (true, true);
            }
            Step::EmptyJournal => fs.core().empty_journal().unwrap(),
            Step::FillSegment => {
                fs.core().journal().unwrap().fill_active().unwrap();
            }
            Step::EmptyPart => {
                let steps = Cell::new(0);
                let stop = |_: &Journal| steps.replace(steps.get() + 1) == 1;
                fs.core().checkpoint_filled(stop).unwrap();
            }
            Step::Rename => {
                let (from, to): (&[u8], &[u8]) =
                    if here { (b"file", b"other") } else { (b"other", b"file") };
                fs.rename(ROOT, from, ROOT, to, RenameMode::Replace).unwrap();
                here = !here;
            }
            Step::RenameDirectory => {
                fs.make_directory(&CALLER, ROOT, b"directory", 0o700).unwrap();
                fs.rename(ROOT, b"directory", ROOT, b"moved", RenameMode::Replace).unwrap();
                fs.remove_directory(ROOT, b"moved").unwrap();
            }
        }
        moments.push(Moment {
            content: content.clone(),
            operations: recorder.operation_count(),
            durable,
            time_durable,
            modified,
        });
    }
    drop(fs);
    Workload { recorder, moments }
}

impl Workload {
    /// Cuts the power at every operation and checks up to `limit` images of each.
    fn check(&self, metadata: Metadata, seed: u64, limit: usize) -> usize {
        self.check_and_again(metadata, seed, limit, AGAIN_EVERY)
    }

    /// The same, with a second cut under the recovery of one of `again_every` images.
    fn check_and_again(
        &self,
        metadata: Metadata,
        seed: u64,
        limit: usize,
        again_every: usize,
    ) -> usize {
        let mut sampler = Sampler::new(seed, limit);
        let mut timeline = self.recorder.timeline(metadata);
        let mut images = 0;
        let last = self.moments.last().unwrap().operations;
        for at in 0..=last {
            timeline.advance(at);
            for image in timeline.images(&mut sampler) {
                images += 1;
                if images % again_every == 0 {
                    self.check_again(metadata, seed, at, &image);
                }
                if let Err(problem) = self.check_image(at, &image.directory) {
                    panic!(
                        "seed {seed}, {metadata:?}, cut at {at}: {problem}\n{}",
                        image.description
                    );
                }
            }
        }
        images
    }

    /// Cuts the power once more, at every operation of the recovery.
    fn check_again(&self, metadata: Metadata, seed: u64, at: usize, image: &CrashImage) {
        let recorder = CrashRecorder::on(&image.directory);
        let fs = open(recorder.root());
        let recovered = recorder.operation_count();
        drop(fs);
        let mut sampler = Sampler::new(seed, 3);
        let mut timeline = recorder.timeline(metadata);
        for again in 0..=recovered {
            timeline.advance(again);
            for second in timeline.images(&mut sampler) {
                if let Err(problem) = self.check_image(at, &second.directory) {
                    panic!(
                        "seed {seed}, {metadata:?}: {problem}\ncut again at {again}: {}\nfirst: {}",
                        second.description, image.description
                    );
                }
            }
        }
    }

    fn check_image(&self, at: usize, image: &MemoryDirectory) -> Result<(), String> {
        let from = self
            .moments
            .iter()
            .rposition(|moment| moment.durable && moment.operations <= at)
            .unwrap();
        let under_way = self
            .moments
            .iter()
            .position(|moment| moment.operations > at)
            .unwrap_or(self.moments.len() - 1);
        let possible = &self.moments[from..=under_way.max(from)];
        let fs = open(image.open_directory(b".").unwrap());
        let entry = fs
            .lookup(ROOT, b"file")
            .or_else(|_| fs.lookup(ROOT, b"other"))
            .map_err(|error| format!("no file: {error}"))?;
        let ino = entry.attributes.ino;
        let mut found = vec![0; usize::try_from(entry.attributes.size).unwrap()];
        let read = fs.read(ino, 0, &mut found).map_err(|error| format!("unreadable: {error}"))?;
        if read != found.len() {
            return Err(format!("{read} of {} bytes read", found.len()));
        }
        let shortest = possible.iter().map(|moment| moment.content.len()).min().unwrap();
        let longest = possible.iter().map(|moment| moment.content.len()).max().unwrap();
        if found.len() < shortest || found.len() > longest {
            return Err(format!("{} bytes, promised {shortest} to {longest}", found.len()));
        }
        for (offset, byte) in found.iter().enumerate() {
            let allowed = possible.iter().any(|moment| match moment.content.get(offset) {
                Some(known) => known == byte,
                // The file was shorter: what comes after may not have arrived.
                None => *byte == 0,
            });
            if !allowed {
                let promised: Vec<_> =
                    possible.iter().map(|moment| moment.content.get(offset)).collect();
                return Err(format!("byte {offset} is {byte}, possible were {promised:?}"));
            }
        }
        self.check_time(at, under_way, entry.attributes.modified)?;
        // And it is a vault as good as any.
        fs.write(ino, 0, b"after").map_err(|error| format!("not writable: {error}"))?;
        fs.close().map_err(|error| format!("does not close: {error}"))?;
        let fs = open(image.open_directory(b".").unwrap());
        if fs.recovered().unclean {
            return Err("unclean after a clean end".into());
        }
        let ino = fs
            .lookup(ROOT, b"file")
            .or_else(|_| fs.lookup(ROOT, b"other"))
            .map_err(|error| error.to_string())?
            .attributes
            .ino;
        if read_all(&fs, ino).get(..5) != Some(b"after") {
            return Err("the write after recovery is lost".into());
        }
        fs.close().map_err(|error| error.to_string())
    }
    /// The time of last change is one that was set since it was durable, unless the content changed
    /// after that.
    fn check_time(&self, at: usize, under_way: usize, found: Timestamp) -> Result<(), String> {
        let from = self
            .moments
            .iter()
            .rposition(|moment| moment.time_durable && moment.operations <= at)
            .unwrap();
        let possible: Option<Vec<i64>> =
            self.moments[from..=under_way.max(from)].iter().map(|moment| moment.modified).collect();
        match possible {
            Some(possible) if !possible.contains(&found.seconds) || found.nanoseconds != 5 => {
                Err(format!("last changed at {found:?}, set was {possible:?}"))
            }
            _ => Ok(()),
        }
    }
}

fn bytes(rng: &mut StdRng, len: usize) -> Vec<u8> {
    (0..len).map(|_| rng.random_range(1..=255)).collect()
}

fn random_steps(rng: &mut StdRng, count: usize) -> Vec<Step> {
    let offset = |rng: &mut StdRng| match rng.random_range(0..3) {
        0 => rng.random_range(0..20_000),
        1 => rng.random_range(0..5) * 4096,
        _ => rng.random_range(0..3_000),
    };
    (0..count)
        .map(|_| match rng.random_range(0..23) {
            0..=7 => {
                let len = match rng.random_range(0..4) {
                    0 => 4096,
                    1 => rng.random_range(1..100),
                    2 => rng.random_range(1..9000),
                    _ => rng.random_range(60_000..90_000),
                };
                Step::Write(offset(rng), bytes(rng, len))
            }
            8..=9 => Step::Truncate(offset(rng)),
            10 => Step::Truncate(0),
            11 => Step::Punch(offset(rng), rng.random_range(1..30_000)),
            12 | 13 => Step::Sync,
            14 | 15 => Step::SyncData,
            16 => Step::CommitAll,
            17 => Step::EmptyJournal,
            18 => Step::Rename,
            19 => Step::FillSegment,
            20 => Step::EmptyPart,
            21 => Step::Touch(rng.random_range(-3..3_000_000)),
            _ => Step::RenameDirectory,
        })
        .collect()
}

#[test]
fn an_overwrite_finds_the_old_bytes_or_the_new() {
    let workload = run(
        &[7; 10_000],
        &[Step::Write(100, vec![8; 5000]), Step::Sync, Step::Write(0, vec![9; 10_000])],
    );
    for metadata in [Metadata::Ordered, Metadata::PerFile] {
        assert!(workload.check(metadata, 1, 200) > 100);
    }
}

#[test]
fn an_appended_log_keeps_every_acknowledged_record() {
    let mut steps = Vec::new();
    for record in 1..20u8 {
        steps.push(Step::Write(u64::from(record - 1) * 700, vec![record; 700]));
        steps.push(Step::Sync);
    }
    let workload = run(&[], &steps);
    for metadata in [Metadata::Ordered, Metadata::PerFile] {
        workload.check(metadata, 2, 60);
    }
}

#[test]
fn a_large_append_after_a_durable_tail_leaves_the_tail() {
    let workload = run(
        &[7; 5000],
        &[Step::Write(5000, vec![8; 200_000]), Step::Sync, Step::Truncate(6001), Step::Sync],
    );
    for metadata in [Metadata::Ordered, Metadata::PerFile] {
        workload.check(metadata, 3, 60);
    }
}

#[test]
fn emptying_the_journal_can_stop_and_go_on_later() {
    let part = || Step::EmptyPart;
    let workload = run(
        &[7; 30_000],
        &[
            Step::Write(100, vec![8; 25_000]),
            Step::Sync,
            Step::FillSegment,
            part(),
            Step::Write(9000, vec![9; 9000]),
            Step::Sync,
            part(),
            Step::Truncate(14_000),
            Step::Sync,
            part(),
            Step::Punch(4096, 4096),
            Step::Write(20_000, vec![10; 5000]),
            Step::Sync,
            part(),
            Step::EmptyJournal,
            Step::Write(0, vec![11; 4096]),
            Step::Sync,
        ],
    );
    for metadata in [Metadata::Ordered, Metadata::PerFile] {
        assert!(workload.check(metadata, 5, 100) > 100);
    }
}

#[test]
fn a_cut_while_the_journal_is_removed_brings_nothing_old_back() {
    // The older records in either segment, the newer in the other.
    for turns in 0..2 {
        let mut steps = vec![Step::Write(0, vec![8; 5000]), Step::Sync];
        for turn in 0..=turns {
            steps.extend([
                Step::EmptyJournal,
                Step::Write(0, vec![9 + 2 * turn; 5000]),
                Step::Sync,
                Step::FillSegment,
                Step::Write(0, vec![10 + 2 * turn; 5000]),
                Step::Sync,
            ]);
        }
        let workload = run(&[7; 9000], &steps);
        for metadata in [Metadata::Ordered, Metadata::PerFile] {
            workload.check_and_again(metadata, 4, 4, 7);
        }
    }
}

/// A seed that once found something, run again with more disks a cut.
fn seed(seed: u64, limit: usize) {
    let mut rng = StdRng::seed_from_u64(seed);
    let count = rng.random_range(3..14);
    let len = rng.random_range(0..12_000);
    let initial = bytes(&mut rng, len);
    let steps = random_steps(&mut rng, count);
    let workload = run(&initial, &steps);
    for metadata in [Metadata::Ordered, Metadata::PerFile] {
        workload.check(metadata, seed, limit);
    }
}

#[test]
fn a_hole_in_appended_blocks_keeps_the_size() {
    seed(2073, 24);
}

#[test]
fn fresh_blocks_in_a_size_that_was_set_may_be_torn() {
    seed(411, 12);
    seed(436, 12);
}

#[test]
fn random_workloads_keep_the_contract() {
    let seeds: u64 = std::env::var("STRONGROOM_CRASH_SEEDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(12);
    let first: u64 = std::env::var("STRONGROOM_CRASH_FIRST")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(0);
    for number in first..first + seeds {
        seed(number, 12);
    }
}
