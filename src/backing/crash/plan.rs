//! Owns the choices that make one disk out of those that a cut could leave: a [`Plan`], and the
//! [`Sampler`] that draws plans.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

use super::SECTOR;
use crate::backing::memory::{InodeId, PAGE};

/// What became of one operation's data.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Outcome {
    /// For each sector that the operation wrote to, whether it reached the disk.
    pub sectors: Vec<bool>,
    /// How far the file's growth by it did: it has made the file as long as this and as the
    /// operation left it, whichever is less. 0: not at all.
    pub grown: u64,
}

impl Outcome {
    /// For [`Self::grown`]: all the way.
    pub const WHOLE: u64 = u64::MAX;
}

/// One disk among those that a cut could leave.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Plan {
    /// The number of the first operation that was not issued.
    pub at: usize,
    /// The number of the first operation whose metadata the disk does not have.
    pub journal: usize,
    /// What became of data not synced, by the number of the operation. Those that are missing
    /// here were dropped.
    pub outcomes: BTreeMap<usize, Outcome>,
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cut at {}, metadata below {}", self.at, self.journal)?;
        for (number, outcome) in &self.outcomes {
            write!(f, ", {number}: {outcome}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.sectors.contains(&true), self.sectors.contains(&false)) {
            (true, false) => write!(f, "kept")?,
            (false, _) => write!(f, "dropped")?,
            (true, true) => {
                write!(f, "sectors ")?;
                for run in self.sectors.chunk_by(|a, b| a == b) {
                    write!(f, "{}{}", if run[0] { '+' } else { '-' }, run.len())?;
                }
            }
        }
        match self.grown {
            0 => Ok(()),
            Self::WHOLE => write!(f, " grown"),
            size => write!(f, " grown to {size}"),
        }
    }
}

/// An operation whose data may or may not have reached the disk.
pub(super) struct Pending {
    pub(super) number: usize,
    pub(super) file: InodeId,
    /// The sectors that it wrote to.
    pub(super) sectors: Vec<u64>,
    /// Whether it is a write, and not zeros that another operation wrote on the way.
    pub(super) write: bool,
}

impl Pending {
    /// The end of one of the pages that it wrote to: where growth may stop.
    fn page_end(&self, rng: &mut StdRng) -> u64 {
        let sector = self.sectors.choose(rng).copied().unwrap_or(0);
        (sector * SECTOR / PAGE + 1) * PAGE
    }
}

/// All that is open at a cut.
pub(super) struct Choices {
    pub(super) at: usize,
    /// How far the journal may reach; the least is first, `at` last.
    pub(super) journal: Vec<usize>,
    pub(super) pending: Vec<Pending>,
}

/// Draws disks out of those that a cut could leave: every one at the granularity of whole writes
/// where they are few, and else the extremes and a random selection.
pub struct Sampler {
    rng: StdRng,
    limit: usize,
}

impl Sampler {
    /// Gives the same disks for the same `seed` and operations, up to `limit` for each cut.
    pub fn new(seed: u64, limit: usize) -> Self {
        Self { rng: StdRng::seed_from_u64(seed), limit }
    }

    /// Different plans for a cut, the extremes first.
    pub(super) fn plans(&mut self, choices: &Choices) -> Vec<Plan> {
        let mut plans = Selection::new(self.limit);
        extremes(choices, &mut plans);
        self.last_write_torn(choices, &mut plans);
        exhaust(choices, &mut plans);
        // What is drawn may be drawn already; where almost all has been, give up.
        for _ in 0..self.limit.saturating_mul(4) {
            if plans.is_full() || choices.pending.is_empty() && choices.journal.len() == 1 {
                break;
            }
            plans.add(self.random(choices));
        }
        plans.list
    }

    /// Everything is there but for the last write, of which any sectors may be.
    fn last_write_torn(&mut self, choices: &Choices, plans: &mut Selection) {
        let Some(last) = choices.pending.last() else { return };
        if !last.write || last.number + 1 != choices.at || last.sectors.len() < 2 {
            return;
        }
        let count = last.sectors.len();
        let mut torn: Vec<Vec<bool>> = Vec::new();
        // Every split for small writes, and some for large ones.
        let splits: Vec<usize> = if count <= 17 {
            (1..count).collect()
        } else {
            (0..8).map(|_| self.rng.random_range(1..count)).chain([1, count - 1]).collect()
        };
        for split in splits {
            torn.push((0..count).map(|sector| sector < split).collect());
            torn.push((0..count).map(|sector| sector >= split).collect());
        }
        torn.push((0..count).map(|_| self.rng.random()).collect());
        for sectors in torn {
            for grown in [Outcome::WHOLE, 0, last.page_end(&mut self.rng)] {
                let mut plan = choices.plan(choices.at, |_| true);
                plan.outcomes.insert(last.number, Outcome { sectors: sectors.clone(), grown });
                plans.add(plan);
            }
        }
    }

    fn random(&mut self, choices: &Choices) -> Plan {
        let rng = &mut self.rng;
        let journal = match rng.random_range(0..3) {
            0 => choices.journal.first().copied(),
            1 => choices.journal.last().copied(),
            _ => choices.journal.choose(rng).copied(),
        };
        let mut plan = Plan {
            at: choices.at,
            journal: journal.unwrap_or(choices.at),
            outcomes: BTreeMap::new(),
        };
        let fate = rng.random_range(0..5);
        let growth = rng.random_range(0..4);
        let boundary = rng.random_range(0..=choices.pending.len());
        let mut pages: HashMap<(InodeId, u64), bool> = HashMap::new();
        for (position, pending) in choices.pending.iter().enumerate() {
            let count = pending.sectors.len();
            let sectors: Vec<bool> = match fate {
                // Each write whole or not at all.
                0 => vec![rng.random(); count],
                // Each write in its own way.
                1 => torn(rng, count),
                // Each page of 4 KiB, whatever was written to it.
                2 => {
                    let page = |sector: &u64| (pending.file, sector * SECTOR / PAGE);
                    let of_page =
                        |sector| *pages.entry(page(sector)).or_insert_with(|| rng.random());
                    pending.sectors.iter().map(of_page).collect()
                }
                // Each sector of each write.
                3 => (0..count).map(|_| rng.random()).collect(),
                // What came first is there, what came last is not, and one between is torn.
                _ if position == boundary => torn(rng, count),
                _ => vec![position < boundary; count],
            };
            let grown = match growth {
                0 => Outcome::WHOLE,
                1 => 0,
                2 if sectors.contains(&true) => Outcome::WHOLE,
                2 => 0,
                _ => *[0, pending.page_end(rng), Outcome::WHOLE].choose(rng).unwrap_or(&0),
            };
            plan.add(pending, sectors, grown);
        }
        plan
    }
}

/// A write's sectors, torn somehow.
fn torn(rng: &mut StdRng, count: usize) -> Vec<bool> {
    let split = rng.random_range(0..=count);
    match rng.random_range(0..4) {
        0 => vec![rng.random(); count],
        1 => (0..count).map(|sector| sector < split).collect(),
        2 => (0..count).map(|sector| sector >= split).collect(),
        _ => (0..count).map(|_| rng.random()).collect(),
    }
}

/// Nothing of what was not synced, all of it, and one without the other.
fn extremes(choices: &Choices, plans: &mut Selection) {
    let least = choices.journal.first().copied().unwrap_or(choices.at);
    plans.add(choices.plan(least, |_| false));
    plans.add(choices.plan(choices.at, |_| true));
    plans.add(choices.plan(choices.at, |_| false));
    plans.add(choices.plan(least, |_| true));
    for journal in [choices.at, least] {
        for data in [true, false] {
            let mut plan = choices.plan(journal, |_| data);
            for pending in choices.pending.iter().filter(|pending| pending.write) {
                let outcome = plan.outcomes.entry(pending.number).or_default();
                outcome.grown = if data { 0 } else { Outcome::WHOLE };
            }
            plans.add(plan);
        }
    }
}

/// Every beginning of the journal with every choice of whole writes, where the limit has room.
fn exhaust(choices: &Choices, plans: &mut Selection) {
    let bits = u32::try_from(choices.pending.len()).unwrap_or(u32::MAX);
    let Some(subsets) = 1_usize.checked_shl(bits).filter(|&subsets| subsets > 0) else { return };
    if subsets.saturating_mul(choices.journal.len()) > plans.room() {
        return;
    }
    for &journal in &choices.journal {
        for subset in 0..subsets {
            plans.add(choices.plan(journal, |position| subset >> position & 1 == 1));
        }
    }
}

impl Choices {
    /// Each write whole or not at all, with its growth.
    fn plan(&self, journal: usize, kept: impl Fn(usize) -> bool) -> Plan {
        let mut plan = Plan { at: self.at, journal, outcomes: BTreeMap::new() };
        for (position, pending) in self.pending.iter().enumerate() {
            if kept(position) {
                plan.add(pending, vec![true; pending.sectors.len()], Outcome::WHOLE);
            }
        }
        plan
    }
}

impl Plan {
    fn add(&mut self, pending: &Pending, sectors: Vec<bool>, grown: u64) {
        let grown = if pending.write { grown } else { 0 };
        if grown > 0 || sectors.contains(&true) {
            self.outcomes.insert(pending.number, Outcome { sectors, grown });
        }
    }
}

/// Different plans, up to a limit.
struct Selection {
    list: Vec<Plan>,
    known: HashSet<Plan>,
    limit: usize,
}

impl Selection {
    fn new(limit: usize) -> Self {
        Self { list: Vec::new(), known: HashSet::new(), limit }
    }

    fn is_full(&self) -> bool {
        self.room() == 0
    }

    fn room(&self) -> usize {
        self.limit.saturating_sub(self.list.len())
    }

    fn add(&mut self, plan: Plan) {
        if !self.is_full() && self.known.insert(plan.clone()) {
            self.list.push(plan);
        }
    }
}
