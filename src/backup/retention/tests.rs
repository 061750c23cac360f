#![allow(clippy::unwrap_used)]
use std::path::PathBuf;

use proptest::prelude::*;

use super::*;
use crate::archive::{Amount, ChainLink, Compression};
use crate::backup::name::BackupName;
use crate::backup::sidecar::Sidecar;
use crate::tree::Digest;

fn backup(name: &str, time: &str, kind: Option<ArchiveKind>, number: u8, needs: &[u8]) -> Backup {
    let created = time.parse::<Timestamp>().unwrap().as_second();
    let compression = Compression::Zstd;
    let name = BackupName { name: name.into(), created, compression, sealed: true };
    let chain: Vec<_> = needs
        .iter()
        .map(|id| ChainLink { id: ArchiveId([*id; 32]), file: id.to_string() })
        .collect();
    let sidecar = kind.map(|kind| {
        serde_json::from_value::<Sidecar>(serde_json::json!({
            "format": "strongroom-backup", "version": 1, "file": name.file_name(),
            "id": ArchiveId([number; 32]), "name": name.name, "type": kind, "created": time,
            "chain": chain, "compression": compression, "sealed": true, "size": 1,
            "sha256": Digest([0; 32]), "stored": Amount::default(), "entries": 1,
            "duration_ms": 1, "tool": "", "platform": "",
        }))
        .unwrap()
    });
    let path = PathBuf::from(name.file_name());
    Backup { path, name, size: 1, sidecar: sidecar.ok_or_else(|| "missing".into()) }
}

fn full(time: &str, number: u8) -> Backup {
    backup("a", time, Some(ArchiveKind::Full), number, &[])
}

/// The numbers of those that stay.
fn kept(backups: &[Backup], policy: &Policy) -> Vec<usize> {
    let now = "2025-10-20T12:00:00Z".parse().unwrap();
    decide(backups, policy, now, &TimeZone::UTC)
        .iter()
        .enumerate()
        .filter(|(_, decision)| !decision.keep.is_empty())
        .map(|(number, _)| number)
        .collect()
}

#[test]
fn the_newest_of_each_period() {
    let backups = [
        full("2023-05-05T02:00:00Z", 0),
        full("2024-12-31T02:00:00Z", 1),
        full("2025-08-01T02:00:00Z", 2),
        full("2025-09-30T02:00:00Z", 3),
        full("2025-10-01T02:00:00Z", 4),
        full("2025-10-12T02:00:00Z", 5),
        full("2025-10-13T02:00:00Z", 6),
        full("2025-10-19T02:00:00Z", 7),
        full("2025-10-20T02:00:00Z", 8),
        full("2025-10-20T03:00:00Z", 9),
    ];
    let of = |policy: Policy| kept(&backups, &policy);
    assert_eq!(of(Policy::default()), (0..10).collect::<Vec<_>>());
    assert_eq!(of(Policy { last: 3, ..Policy::default() }), [7, 8, 9]);
    assert_eq!(of(Policy { hourly: 2, ..Policy::default() }), [8, 9]);
    assert_eq!(of(Policy { daily: 3, ..Policy::default() }), [6, 7, 9]);
    // The 13th is a Monday.
    assert_eq!(of(Policy { weekly: 3, ..Policy::default() }), [5, 7, 9]);
    assert_eq!(of(Policy { monthly: 3, ..Policy::default() }), [2, 3, 9]);
    assert_eq!(of(Policy { yearly: 2, ..Policy::default() }), [1, 9]);
    assert_eq!(of(Policy { yearly: 9, ..Policy::default() }), [0, 1, 9]);
    let within = Some(SignedDuration::from_hours(24 * 7));
    assert_eq!(of(Policy { within, ..Policy::default() }), [7, 8, 9]);
    assert_eq!(of(Policy { daily: 1, monthly: 2, ..Policy::default() }), [3, 9]);
}

#[test]
fn days_are_those_of_the_place() {
    let backups = [full("2025-10-19T21:30:00Z", 0), full("2025-10-19T22:30:00Z", 1)];
    let policy = Policy { daily: 5, ..Policy::default() };
    let zone = TimeZone::fixed(jiff::tz::offset(2));
    let decisions = decide(&backups, &policy, Timestamp::now(), &zone);
    assert!(decisions.iter().all(|decision| !decision.keep.is_empty()));
    assert_eq!(kept(&backups, &policy), [1]);
}

#[test]
fn chains_hold_together() {
    let kind =
        |kind, time: &str, number, needs: &[u8]| backup("a", time, Some(kind), number, needs);
    let backups = [
        full("2025-10-01T02:00:00Z", 0),
        kind(ArchiveKind::Incremental, "2025-10-02T02:00:00Z", 1, &[0]),
        kind(ArchiveKind::Incremental, "2025-10-03T02:00:00Z", 2, &[0, 1]),
        full("2025-10-04T02:00:00Z", 3),
        kind(ArchiveKind::Differential, "2025-10-05T02:00:00Z", 4, &[3]),
        kind(ArchiveKind::Differential, "2025-10-06T02:00:00Z", 5, &[3]),
    ];
    assert_eq!(kept(&backups, &Policy { last: 1, ..Policy::default() }), [3, 5]);
    assert_eq!(kept(&backups[..3], &Policy { last: 1, ..Policy::default() }), [0, 1, 2]);
    let incremental = Some(ArchiveKind::Incremental);
    let policy = Policy { last: 1, kind: incremental, ..Policy::default() };
    assert_eq!(kept(&backups, &policy), [0, 1, 2, 3, 4, 5]);
    let within = Some(SignedDuration::from_hours(1));
    let policy = Policy { within, kind: incremental, ..Policy::default() };
    assert_eq!(kept(&backups, &policy), [0, 3, 4, 5]);
}

#[test]
fn what_is_not_known_stays_with_all_before_it() {
    let backups = [
        full("2025-10-01T02:00:00Z", 0),
        backup("a", "2025-10-02T02:00:00Z", None, 1, &[]),
        full("2025-10-03T02:00:00Z", 2),
        full("2025-10-04T02:00:00Z", 3),
        backup("b", "2025-10-01T02:00:00Z", Some(ArchiveKind::Full), 4, &[]),
    ];
    assert_eq!(kept(&backups, &Policy { last: 1, ..Policy::default() }), [0, 1, 3, 4]);
}

proptest! {
    #[test]
    fn no_chain_is_ever_broken(
        days in proptest::collection::vec((0i64..400, 0u8..3, any::<bool>()), 1..40),
        last in 0usize..5, daily in 0usize..5, weekly in 0usize..3, monthly in 0usize..3,
        only in proptest::option::of(0usize..2),
    ) {
        let mut days = days;
        days.sort_unstable();
        let mut chain: Vec<u8> = Vec::new();
        let backups: Vec<_> = days
            .iter()
            .zip(0u8..)
            .map(|((day, kind, known), number)| {
                let time = Timestamp::from_second(1_700_000_000 + day * 86_400).unwrap().to_string();
                let kind = if chain.is_empty() { 0 } else { *kind };
                let needs: Vec<u8> = match kind {
                    0 => Vec::new(),
                    1 => chain[..1].to_vec(),
                    _ => chain.clone(),
                };
                let kind = [ArchiveKind::Full, ArchiveKind::Differential, ArchiveKind::Incremental]
                    [usize::from(kind)];
                if kind == ArchiveKind::Full {
                    chain = vec![number];
                } else if kind == ArchiveKind::Incremental {
                    chain.push(number);
                }
                backup("a", &time, known.then_some(kind), number, &needs)
            })
            .collect();
        let kind = only.map(|kind| [ArchiveKind::Incremental, ArchiveKind::Full][kind]);
        let policy = Policy { last, daily, weekly, monthly, kind, ..Policy::default() };
        let stays = kept(&backups, &policy);
        for number in &stays {
            for link in backups[*number].chain() {
                let needed = backups.iter().position(|one| one.id() == Some(link.id));
                // One whose notes are missing stays without being known by its identity.
                if let Some(needed) = needed {
                    prop_assert!(stays.contains(&needed), "{} needs {}", number, needed);
                }
            }
        }
        if last > 0 && kind.is_none() {
            prop_assert!(stays.contains(&(backups.len() - 1)));
        }
    }
}

#[test]
fn what_cannot_be_restored_counts_for_nothing() {
    let incremental = |time: &str, number: u8, needs: &[u8]| {
        backup("a", time, Some(ArchiveKind::Incremental), number, needs)
    };
    let backups = [
        full("2025-10-10T02:00:00Z", 0),
        full("2025-10-11T02:00:00Z", 1),
        // What these need was lost.
        incremental("2025-10-12T02:00:00Z", 2, &[9]),
        incremental("2025-10-13T02:00:00Z", 3, &[9, 2]),
    ];
    let policy = Policy { last: 1, ..Policy::default() };
    assert_eq!(kept(&backups, &policy), [1, 2, 3]);
    let policy = Policy { daily: 1, ..Policy::default() };
    assert_eq!(kept(&backups, &policy), [1, 2, 3]);
}
