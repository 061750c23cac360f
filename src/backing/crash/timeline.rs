//! Owns what is durable at each point of a record, and the building of disks.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Write;

use super::plan::{Choices, Outcome, Pending, Plan, Sampler};
use super::touch::Touches;
use super::{SECTOR, describe};
use crate::backing::Timestamp;
use crate::backing::memory::{
    Change, Content, Event, InodeId, MemoryDirectory, PAGE, Record, State,
};

/// How the filesystem below orders metadata; see the module's description.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metadata {
    /// One journal: a beginning of all operations.
    Ordered,
    /// A beginning of all operations, and what was synced.
    PerFile,
}

/// A disk that a power cut could have left.
pub struct CrashImage {
    /// Its root directory. The filesystem is its own: nothing done to it reaches another.
    pub directory: MemoryDirectory,
    /// The choices that made it.
    pub plan: Plan,
    /// The plan in words, with the operations that it decides upon and those before the cut: what
    /// a failed test should print.
    pub description: String,
}

/// A regular file at a point of the record.
#[derive(Default)]
struct FileState {
    /// The operation that made it; `None` where it was there before.
    created: Option<usize>,
    /// Its content at its last sync.
    synced: Content,
    /// The operations on its content since.
    pending: Vec<usize>,
    /// When its size was last set, or a write made it grow, of what was synced: filesystems keep
    /// size and time of change in one record, so one is not on the disk without the other.
    sized_at: Option<Timestamp>,
}

/// Walks along a record and rebuilds the disks that a cut at the point reached could leave.
pub struct Timeline {
    records: Vec<Record>,
    /// The same in words.
    words: Vec<String>,
    metadata: Metadata,
    /// The point reached: operations below have been issued.
    at: usize,
    /// Metadata below is on every disk.
    forced: usize,
    /// Metadata at or after `forced` that is on every disk all the same, by number.
    forced_alone: BTreeSet<usize>,
    /// The filesystem with all forced metadata below `forced` and with no contents but those that
    /// the record began with.
    skeleton: State,
    files: HashMap<InodeId, FileState>,
    touches: Touches,
}

impl Timeline {
    pub(super) fn new(base: State, records: Vec<Record>, metadata: Metadata) -> Self {
        let content = |id| base.content(id).cloned().unwrap_or_default();
        let file = |id| (id, FileState { synced: content(id), ..FileState::default() });
        let files = base.regular_files().into_iter().map(file).collect();
        let touches = Touches::new(&base);
        let words = describe::all(&base, &records);
        Self {
            records,
            words,
            metadata,
            at: 0,
            forced: 0,
            forced_alone: BTreeSet::new(),
            skeleton: base,
            files,
            touches,
        }
    }

    /// Walks on to a cut at `at`.
    ///
    /// # Panics
    ///
    /// Where there are not so many operations, or `at` lies behind: a timeline goes one way.
    pub fn advance(&mut self, at: usize) {
        assert!(at >= self.at && at <= self.records.len(), "no such point ahead: {at}");
        while self.at < at {
            self.step(self.at);
            self.at += 1;
        }
    }

    fn step(&mut self, number: usize) {
        let Some(record) = self.records.get(number) else { return };
        match &record.event {
            Event::Change(change) => {
                match change {
                    Change::Create { inode, .. } => {
                        let file = FileState { created: Some(number), ..FileState::default() };
                        self.files.insert(inode.id, file);
                    }
                    Change::Write { id, .. }
                    | Change::SetLen { id, .. }
                    | Change::Allocate { id, .. }
                    | Change::Punch { id, .. } => {
                        // Without it where no disk has a name for the file.
                        if let Some(file) = self.files.get_mut(id) {
                            file.pending.push(number);
                        }
                    }
                    _ => {}
                }
                self.touches.add(number, change);
            }
            &Event::Sync { id, data_only } => {
                match self.metadata {
                    Metadata::Ordered => {
                        let last = self.touches.of(id, data_only).last();
                        self.force(last.map_or(0, |last| last + 1));
                    }
                    Metadata::PerFile => {
                        let with_dependencies = self.touches.closure(id, data_only);
                        self.forced_alone.extend(with_dependencies);
                    }
                }
                self.settle(id);
            }
            Event::SyncFilesystem => {
                self.force(number);
                let files: Vec<InodeId> = self.files.keys().copied().collect();
                files.into_iter().for_each(|id| self.settle(id));
            }
        }
    }

    /// Metadata below `until` is on every disk from here on.
    fn force(&mut self, until: usize) {
        for number in self.forced..until {
            apply_metadata(&mut self.skeleton, &self.records[number]);
        }
        self.forced = self.forced.max(until);
        self.forced_alone = self.forced_alone.split_off(&self.forced);
        self.touches.forget_below(self.forced);
        let (skeleton, forced) = (&self.skeleton, self.forced);
        self.files.retain(|id, file| {
            skeleton.content(*id).is_some() || file.created.is_some_and(|created| created >= forced)
        });
    }

    /// The content of a file is on every disk from here on.
    fn settle(&mut self, id: InodeId) {
        let Some(file) = self.files.get_mut(&id) else { return };
        for number in std::mem::take(&mut file.pending) {
            let Record { event, now } = &self.records[number];
            if let Event::Change(change) = event {
                let before = file.synced.size();
                change_content(&mut file.synced, change);
                let sized = match change {
                    Change::Write { .. } => file.synced.size() > before,
                    Change::SetLen { .. } => true,
                    _ => false,
                };
                if sized {
                    file.sized_at = Some(*now);
                }
            }
        }
    }

    fn is_kept(&self, number: usize, plan: &Plan) -> bool {
        number < plan.journal || self.forced_alone.contains(&number)
    }

    /// Disks that a cut at the point reached could leave, all different in what was kept, as far
    /// as `sampler` goes. Two may still show the same files.
    pub fn images(&self, sampler: &mut Sampler) -> impl Iterator<Item = CrashImage> {
        let plans = sampler.plans(&self.choices());
        plans.into_iter().map(|plan| self.image(plan))
    }

    fn choices(&self) -> Choices {
        let is_metadata = |&number: &usize| match &self.records[number].event {
            Event::Change(change) => !matches!(change, Change::Write { .. }),
            Event::Sync { .. } | Event::SyncFilesystem => false,
        };
        let after = (self.forced..self.at).filter(is_metadata).map(|number| number + 1);
        let mut journal: Vec<usize> = std::iter::once(self.forced).chain(after).collect();
        if journal.last() != Some(&self.at) {
            // The same disks as the last one, but `at` is what means everything.
            let last = journal.len() - 1;
            if last == 0 {
                journal[0] = self.at;
            } else {
                journal[last] = self.at;
            }
        }
        let mut pending: Vec<Pending> = Vec::new();
        for (&file, state) in &self.files {
            for &number in &state.pending {
                let Event::Change(change) = &self.records[number].event else { continue };
                let sectors = sectors(change);
                let write = matches!(change, Change::Write { .. });
                if !sectors.is_empty() {
                    pending.push(Pending { number, file, sectors, write });
                }
            }
        }
        pending.sort_by_key(|pending| pending.number);
        Choices { at: self.at, journal, pending }
    }

    /// The disk that `plan` describes, at the point reached.
    ///
    /// # Panics
    ///
    /// Where the plan is for another point.
    pub fn image(&self, plan: Plan) -> CrashImage {
        assert_eq!(plan.at, self.at, "the plan is for another cut");
        let mut state = self.skeleton.clone();
        for number in self.forced..self.at {
            if self.is_kept(number, &plan) {
                apply_metadata(&mut state, &self.records[number]);
            }
        }
        for id in state.regular_files() {
            if let Some(file) = self.files.get(&id)
                && let Some(content) = state.content_mut(id)
            {
                let (on_disk, sized_at) = self.content(file, &plan);
                *content = on_disk;
                if let Some(time) = sized_at {
                    state.changed_at(id, time);
                }
            }
        }
        let description = self.describe(&plan);
        CrashImage { directory: MemoryDirectory::of_state(state, None), plan, description }
    }

    /// What the disk has of a file, and when the size that it has was set.
    fn content(&self, file: &FileState, plan: &Plan) -> (Content, Option<Timestamp>) {
        let mut cache = file.synced.clone();
        let mut disk = file.synced.clone();
        // Pages that were freed by what is not kept: their old blocks are not written again.
        let mut frozen: Vec<(u64, u64)> = Vec::new();
        let mut growth_frozen = false;
        let mut sized_at = file.sized_at;
        let nothing = Outcome::default();
        for &number in &file.pending {
            let Event::Change(change) = &self.records[number].event else { continue };
            let kept = self.is_kept(number, plan);
            let size_before = cache.size();
            change_content(&mut cache, change);
            let outcome = plan.outcomes.get(&number).unwrap_or(&nothing);
            match change {
                Change::SetLen { len, .. } if kept => {
                    // The size says so whatever became of the writes before it.
                    disk.grow(size_before);
                    disk.set_len(*len);
                    sized_at = Some(self.records[number].now);
                    continue;
                }
                Change::Allocate { offset, len, .. } if kept => disk.allocate(*offset, *len),
                Change::Punch { .. } if kept => {
                    if let Some((from, to)) = freed_pages(change) {
                        disk.punch(from * PAGE, (to - from) * PAGE);
                    }
                }
                _ => {}
            }
            for (sector, &reached) in sectors(change).into_iter().zip(&outcome.sectors) {
                let page = sector * SECTOR / PAGE;
                let frozen = frozen.iter().any(|&(from, to)| (from..to).contains(&page));
                if reached && !frozen {
                    disk.copy(&cache, sector * SECTOR, SECTOR);
                }
            }
            if !growth_frozen {
                let before = disk.size();
                disk.grow(outcome.grown.min(cache.size()));
                if disk.size() > before {
                    sized_at = Some(self.records[number].now);
                }
            }
            if !kept {
                frozen.extend(freed_pages(change));
                growth_frozen |= matches!(change, Change::SetLen { .. });
            }
        }
        disk.forget_past_end();
        (disk, sized_at)
    }

    fn describe(&self, plan: &Plan) -> String {
        const SHOWN: usize = 12;
        let mut text = plan.to_string();
        if !self.forced_alone.is_empty() {
            let _ = write!(text, ", and metadata synced alone: {:?}", self.forced_alone);
        }
        let decided = plan.outcomes.keys().copied();
        let before = self.at.saturating_sub(SHOWN)..self.at;
        let numbers: BTreeSet<usize> = decided.chain(before).collect();
        for number in numbers {
            let _ = write!(text, "\n  {number}: {}", self.words[number]);
        }
        text
    }

    /// The operations in words, by number.
    pub fn operations(&self) -> &[String] {
        &self.words
    }
}

/// Applies all that a change does but for content.
fn apply_metadata(state: &mut State, record: &Record) {
    match &record.event {
        Event::Change(
            Change::Write { .. }
            | Change::SetLen { .. }
            | Change::Allocate { .. }
            | Change::Punch { .. },
        )
        | Event::Sync { .. }
        | Event::SyncFilesystem => {}
        Event::Change(change) => state.apply(change, record.now),
    }
}

/// Applies what a change does to content.
fn change_content(content: &mut Content, change: &Change) {
    match change {
        Change::Write { offset, data, .. } => content.write(data, *offset),
        Change::SetLen { len, .. } => content.set_len(*len),
        Change::Allocate { offset, len, .. } => content.allocate(*offset, *len),
        Change::Punch { offset, len, .. } => content.punch(*offset, *len),
        _ => {}
    }
}

/// The pages whose blocks a change frees, from and to.
fn freed_pages(change: &Change) -> Option<(u64, u64)> {
    match change {
        Change::SetLen { len, .. } => Some((len.div_ceil(PAGE), u64::MAX)),
        Change::Punch { offset, len, .. } => {
            let (from, to) = (offset.div_ceil(PAGE), offset.saturating_add(*len) / PAGE);
            (from < to).then_some((from, to))
        }
        _ => None,
    }
}

/// The sectors that a change writes to: its data, or zeros in blocks that it frees a part of.
fn sectors(change: &Change) -> Vec<u64> {
    let of = |from: u64, to: u64| from / SECTOR..to.div_ceil(SECTOR).max(from / SECTOR);
    match change {
        Change::Write { offset, data, .. } => {
            let len = u64::try_from(data.len()).unwrap_or(u64::MAX);
            of(*offset, offset.saturating_add(len)).collect()
        }
        Change::SetLen { len, .. } => of(*len, len.next_multiple_of(PAGE)).collect(),
        Change::Punch { offset, len, .. } => {
            let end = offset.saturating_add(*len);
            match freed_pages(change) {
                None => of(*offset, end).collect(),
                Some((from, to)) => of(*offset, from * PAGE).chain(of(to * PAGE, end)).collect(),
            }
        }
        _ => Vec::new(),
    }
}
