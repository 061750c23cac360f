//! Power cuts under names, attributes and small files: after every operation of a workload, disks
//! that a cut could leave are checked, mounted, recovered and compared with what was promised; and
//! the power is cut again while the recovery runs.
//!
//! Random workloads run with the seeds from `STRONGROOM_CRASH_FIRST` (0), `STRONGROOM_CRASH_SEEDS`
//! of them (4).

#![allow(clippy::unwrap_used)]

mod contract;
mod workload;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use strongroom::backing::crash::Metadata;
use strongroom::backing::{RenameMode, XattrMode};

use workload::{Step, path, run};

const BOTH: [Metadata; 2] = [Metadata::Ordered, Metadata::PerFile];
const LONG: &[u8] = &[b'l'; 200];
const LONGER: &[u8] = &[b'm'; 255];

fn number_from(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// Runs a script and cuts it everywhere.
fn cut(steps: &[Step], limit: usize, again_every: usize) {
    let done = run(steps);
    for metadata in BOTH {
        let cuts = done.check(metadata, 1, limit, again_every);
        assert!(cuts.images > 10 && cuts.twice > 10, "{cuts:?}");
    }
}

fn write(name: &[u8], byte: u8, len: usize) -> Step {
    Step::Write { path: path(&[name]), offset: 0, data: vec![byte; len] }
}

#[test]
fn a_new_file_over_an_old_one_is_either_whole() {
    cut(
        &[
            Step::Create { path: path(&[b"file"]) },
            write(b"file", 1, 9000),
            Step::SyncAll,
            Step::Create { path: path(&[b"new"]) },
            write(b"new", 2, 7000),
            Step::Rename { from: path(&[b"new"]), to: path(&[b"file"]), mode: RenameMode::Replace },
            Step::SyncDirectory { path: path(&[]) },
        ],
        24,
        9,
    );
}

#[test]
fn long_names_keep_their_sidecars() {
    let below = |name: &[u8]| path(&[b"below", name]);
    cut(
        &[
            Step::MakeDirectory { path: path(&[b"below"]) },
            Step::Create { path: path(&[LONG]) },
            write(LONG, 3, 100),
            Step::Sync { path: path(&[LONG]), data_only: false },
            Step::Rename { from: path(&[LONG]), to: below(LONGER), mode: RenameMode::Replace },
            // The directory that it left, not the one that it came to.
            Step::SyncDirectory { path: path(&[]) },
            Step::Link { from: below(LONGER), to: path(&[LONG]) },
            Step::Sync { path: below(LONGER), data_only: true },
            Step::Unlink { path: below(LONGER) },
            Step::SyncDirectory { path: path(&[b"below"]) },
            Step::MakeDirectory { path: below(LONG) },
            Step::Rename { from: below(LONG), to: path(&[LONG]), mode: RenameMode::Exchange },
            Step::SyncAll,
        ],
        20,
        5,
    );
}

#[test]
fn directories_keep_their_records() {
    let deep = |name: &[u8]| path(&[b"a", b"b", name]);
    cut(
        &[
            Step::MakeDirectory { path: path(&[b"a"]) },
            Step::MakeDirectory { path: path(&[b"a", b"b"]) },
            Step::Create { path: deep(b"file") },
            Step::Write { path: deep(b"file"), offset: 0, data: vec![4; 5000] },
            Step::Sync { path: deep(b"file"), data_only: true },
            Step::MakeDirectory { path: path(&[b"c"]) },
            Step::Rename {
                from: path(&[b"a", b"b"]),
                to: path(&[b"c"]),
                mode: RenameMode::Replace,
            },
            Step::Write { path: path(&[b"c", b"file"]), offset: 4000, data: vec![5; 3000] },
            Step::Sync { path: path(&[b"c", b"file"]), data_only: true },
            Step::RemoveDirectory { path: path(&[b"a"]) },
            Step::SyncDirectory { path: path(&[]) },
        ],
        20,
        5,
    );
}

#[test]
fn large_attributes_and_far_targets_stay_whole() {
    let large = |byte: u8| Step::SetXattr {
        path: path(&[b"file"]),
        value: vec![byte; 5000],
        mode: XattrMode::Any,
    };
    cut(
        &[
            Step::Create { path: path(&[b"file"]) },
            large(1),
            Step::MakeSymlink { path: path(&[b"far"]), target: vec![b't'; 4000] },
            Step::SyncAll,
            large(2),
            // Makes the overflow directory durable, but not the file's attribute.
            Step::MakeSymlink { path: path(&[b"farther"]), target: vec![b'u'; 4001] },
            Step::SyncDirectory { path: path(&[]) },
            Step::Unlink { path: path(&[b"far"]) },
            large(3),
            Step::SyncAll,
            Step::RemoveXattr { path: path(&[b"file"]) },
            Step::SyncAll,
        ],
        20,
        5,
    );
}

#[test]
fn random_workloads_keep_the_contract() {
    let (first, seeds) =
        (number_from("STRONGROOM_CRASH_FIRST", 0), number_from("STRONGROOM_CRASH_SEEDS", 4));
    let mut cuts = contract::Cuts::default();
    for seed in first..first + seeds {
        let mut rng = StdRng::seed_from_u64(seed);
        let count = rng.random_range(8..24);
        let done = workload::random(&mut rng, count);
        for metadata in BOTH {
            cuts += done.check(metadata, seed, 4, 29);
        }
    }
    assert!(cuts.images > 0 && cuts.twice > 0, "{cuts:?}");
}
