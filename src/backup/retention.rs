//! Which backups stay: rules on times, and the chains that they must not break.

use std::collections::BTreeSet;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, Zoned};
use serde::Serialize;

use super::catalog::Backup;
use crate::archive::{ArchiveId, ArchiveKind, ChainLink};

/// How many backups of each name are kept. Without any rule all are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// The newest so many.
    pub last: usize,
    /// The newest of each of the newest so many hours that have any.
    pub hourly: usize,
    /// The same for days.
    pub daily: usize,
    /// The same for weeks (beginning on Monday).
    pub weekly: usize,
    /// The same for months.
    pub monthly: usize,
    /// The same for years.
    pub yearly: usize,
    /// All that are not older.
    pub within: Option<SignedDuration>,
    /// Only backups of this kind are ever deleted; the rules count only them.
    pub kind: Option<ArchiveKind>,
}

impl Policy {
    /// Whether there is any rule.
    pub fn is_empty(&self) -> bool {
        let Self { last, hourly, daily, weekly, monthly, yearly, within, kind: _ } = self;
        within.is_none()
            && [last, hourly, daily, weekly, monthly, yearly].iter().all(|count| **count == 0)
    }
}

/// Why a backup stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// One of the newest.
    Last,
    /// The newest of its hour.
    Hourly,
    /// The newest of its day.
    Daily,
    /// The newest of its week.
    Weekly,
    /// The newest of its month.
    Monthly,
    /// The newest of its year.
    Yearly,
    /// Young enough.
    Within,
    /// A backup that stays needs it.
    Needed,
    /// The rules are not about its kind.
    OtherKind,
    /// What it is and what it needs is not known: its notes are missing.
    Unknown,
    /// What it needs is missing: it can be restored only when that is back, and counts for nothing.
    Broken,
    /// Its notes are missing for a later one: that one may need it.
    MayBeNeeded,
}

/// What becomes of one backup.
#[derive(Clone, Debug)]
pub struct Decision<'a> {
    /// The backup.
    pub backup: &'a Backup,
    /// Why it stays; for no reason: it goes.
    pub keep: BTreeSet<Reason>,
}

/// Decides on all backups, which are given in the order of their times; each name by itself.
/// Days, weeks, months and years are those of `zone`.
pub fn decide<'a>(
    backups: &'a [Backup],
    policy: &Policy,
    now: Timestamp,
    zone: &TimeZone,
) -> Vec<Decision<'a>> {
    let mut decisions: Vec<Decision<'a>> =
        backups.iter().map(|backup| Decision { backup, keep: BTreeSet::new() }).collect();
    for decision in &mut decisions {
        let is_there = |link: &ChainLink| {
            backups.iter().any(|one| one.id() == Some(link.id))
                || backups.iter().any(|one| one.id().is_none() && one.file_name() == link.file)
        };
        if !decision.backup.chain().iter().all(is_there) {
            decision.keep.insert(Reason::Broken);
        }
    }
    let names: BTreeSet<&str> = backups.iter().map(|backup| &*backup.name.name).collect();
    for name in names {
        decide_name(&mut decisions, name, policy, now, zone);
    }
    keep_chains(&mut decisions);
    decisions
}

fn decide_name(
    decisions: &mut [Decision<'_>],
    name: &str,
    policy: &Policy,
    now: Timestamp,
    zone: &TimeZone,
) {
    let mut unknown_after = false;
    let mut counted = Vec::new();
    for decision in decisions.iter_mut().rev().filter(|one| one.backup.name.name == name) {
        if unknown_after {
            decision.keep.insert(Reason::MayBeNeeded);
        }
        match decision.backup.kind() {
            None => {
                decision.keep.insert(Reason::Unknown);
                unknown_after = true;
            }
            Some(_) if decision.keep.contains(&Reason::Broken) => {}
            Some(kind) if policy.kind.is_some_and(|wanted| wanted != kind) => {
                decision.keep.insert(Reason::OtherKind);
            }
            Some(_) if policy.is_empty() => {
                decision.keep.insert(Reason::Last);
            }
            Some(_) => counted.push(decision),
        }
    }
    let time = |decision: &Decision<'_>| {
        Timestamp::from_second(decision.backup.name.created).unwrap_or(now).to_zoned(zone.clone())
    };
    type Period = fn(&Zoned) -> (i16, i16, i8);
    let rules: [(usize, Reason, Period); 5] = [
        (policy.hourly, Reason::Hourly, |time| (time.year(), time.day_of_year(), time.hour())),
        (policy.daily, Reason::Daily, |time| (time.year(), time.day_of_year(), 0)),
        (policy.weekly, Reason::Weekly, |time| {
            let week = time.date().iso_week_date();
            (week.year(), week.week().into(), 0)
        }),
        (policy.monthly, Reason::Monthly, |time| (time.year(), time.month().into(), 0)),
        (policy.yearly, Reason::Yearly, |time| (time.year(), 0, 0)),
    ];
    for (limit, reason, period) in rules {
        let mut last = None;
        let mut kept = 0;
        // The newest first.
        for decision in &mut counted {
            let this = period(&time(decision));
            if kept < limit && last != Some(this) {
                decision.keep.insert(reason);
                (last, kept) = (Some(this), kept + 1);
            }
        }
    }
    for (number, decision) in counted.iter_mut().enumerate() {
        if number < policy.last {
            decision.keep.insert(Reason::Last);
        }
        if policy.within.is_some_and(|within| time(decision).timestamp() >= now - within) {
            decision.keep.insert(Reason::Within);
        }
    }
}

/// Whatever stays keeps what it needs.
fn keep_chains(decisions: &mut [Decision<'_>]) {
    let needed: BTreeSet<[u8; 32]> = decisions
        .iter()
        .filter(|decision| !decision.keep.is_empty())
        .flat_map(|decision| decision.backup.chain())
        .map(|link| link.id.0)
        .collect();
    for decision in decisions {
        if decision.backup.id().is_some_and(|ArchiveId(id)| needed.contains(&id)) {
            decision.keep.insert(Reason::Needed);
        }
    }
}

#[cfg(test)]
mod tests;
