//! What durability costs: a committed SQLite transaction, and overwrites of 4 KiB in random places
//! each followed by `fdatasync`, on a vault with its journal, on one without, and on the
//! filesystem below. The three take turns, so that whatever else the disk does meets them alike.
//!
//! ```text
//! cargo run --release --example durability -- DIRECTORY [ROUNDS]
//! ```
//!
//! Everything lies in a temporary directory below DIRECTORY. Prints a line a workload: the median
//! and the 95th percentile of each, in microseconds. Part of no test run.
//!
//! Each vault has a process of its own, this program once more: a process that maps files of a mount
//! which it serves itself can wait for itself forever.

// A program of its own: it prints, and ends where it cannot go on.
#![allow(clippy::print_stdout, clippy::unwrap_used)]

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use rusqlite::Connection;
use strongroom::backing::Directory as _;
use strongroom::backing::os::OsDirectory;
use strongroom::crypto::MasterKey;
use strongroom::fuse::{MountOptions, MountPoint, MountedVault};
use strongroom::vault::{FileSystem, FilesystemOptions, OVERFLOW_NAME, TREE_NAME};

/// Operations of each workload in a place before the next place has its turn.
const TURN: usize = 20;
const FILE_SIZE: u64 = 64 << 20;
/// The first argument of the process that serves a vault.
const SERVE: &str = "--serve";
const PLACES: [&str; 3] = ["with the journal", "without", "below"];

/// The process that serves a vault until its standard input ends.
struct Served(Child);

impl Served {
    fn start(base: &Path, name: &str) -> Self {
        let vault = base.join(format!("{name}.vault"));
        let place = base.join(name);
        for directory in [&vault, &place, &vault.join(TREE_NAME), &vault.join(OVERFLOW_NAME)] {
            fs::create_dir(directory).unwrap();
        }
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([SERVE, name])
            .args([vault, place])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Self(child)
    }

    fn stop(mut self) {
        drop(self.0.stdin.take());
        assert!(self.0.wait().unwrap().success());
    }
}

fn serve(journal: bool, vault: &Path, place: &Path) {
    let master = MasterKey::from_bytes(&[42; 32]);
    let directory = OsDirectory::open(vault).unwrap();
    FileSystem::format(&directory, &master).unwrap();
    let options =
        FilesystemOptions { journal, kernel_keeps_times: true, ..FilesystemOptions::default() };
    let opened = directory.open_directory(b".").unwrap();
    let core = FileSystem::open(opened, &master, options, "a benchmark").unwrap();
    let mount_point = MountPoint::check(place, vault, false).unwrap();
    let mounted = MountedVault::mount(core, vault, &mount_point, &MountOptions::default()).unwrap();
    println!("ready");
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    mounted.unmount(Duration::from_secs(60)).unwrap();
}

fn sqlite(place: &Path, mode: &str) -> Connection {
    let database = Connection::open(place.join(format!("{mode}.db"))).unwrap();
    let _: String =
        database.query_row(&format!("PRAGMA journal_mode = {mode}"), [], |row| row.get(0)).unwrap();
    database
        .execute_batch(
            "PRAGMA synchronous = FULL;
             CREATE TABLE records (number INTEGER PRIMARY KEY, data BLOB);",
        )
        .unwrap();
    database
}

/// Times each of a turn's operations.
fn turn(times: &mut Vec<Duration>, mut operation: impl FnMut()) {
    for _ in 0..TURN {
        let begin = Instant::now();
        operation();
        times.push(begin.elapsed());
    }
}

fn report(workload: &str, times: [Vec<Duration>; 3]) {
    let cells = PLACES.iter().zip(times).map(|(place, mut times)| {
        times.sort_unstable();
        let (median, high) = (times[times.len() / 2], times[times.len() * 95 / 100]);
        format!("{place} {} ({})", median.as_micros(), high.as_micros())
    });
    println!("{workload}: {}", cells.collect::<Vec<_>>().join(", "));
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let directory = arguments.next().expect("usage: durability DIRECTORY [ROUNDS]");
    if directory == SERVE {
        let rest: [String; 3] = arguments.collect::<Vec<_>>().try_into().unwrap();
        let [name, vault, place] = rest.each_ref().map(Path::new);
        return serve(name == Path::new("with"), vault, place);
    }
    let rounds: usize = arguments.next().map_or(25, |text| text.parse().expect("a number"));
    let base = tempfile::tempdir_in(directory).unwrap();
    fs::create_dir(base.path().join("below")).unwrap();
    let served = ["with", "without"].map(|name| Served::start(base.path(), name));
    let places = ["with", "without", "below"].map(|name| base.path().join(name));

    for mode in ["wal", "delete"] {
        let databases = places.each_ref().map(|place| sqlite(place, mode));
        let mut times = [const { Vec::new() }; 3];
        let mut number = 0;
        for _ in 0..rounds {
            for (database, times) in databases.iter().zip(&mut times) {
                let mut next = number;
                turn(times, || {
                    database
                        .execute("INSERT INTO records VALUES (?1, zeroblob(300))", (next,))
                        .unwrap();
                    next += 1;
                });
            }
            number += i64::try_from(TURN).unwrap();
        }
        report(&format!("SQLite ({mode}), a transaction of one row"), times);
    }

    let files = places.each_ref().map(|place| {
        let file = File::create(place.join("file")).unwrap();
        let mebibyte = vec![7; 1 << 20];
        (0..FILE_SIZE).step_by(1 << 20).for_each(|at| file.write_all_at(&mebibyte, at).unwrap());
        file.sync_all().unwrap();
        file
    });
    let mut times = [const { Vec::new() }; 3];
    let mut rng = StdRng::seed_from_u64(0);
    for _ in 0..rounds {
        for (file, times) in files.iter().zip(&mut times) {
            turn(times, || {
                let at = rng.random_range(0..FILE_SIZE / 4096) * 4096;
                file.write_all_at(&[8; 4096], at).unwrap();
                file.sync_data().unwrap();
            });
        }
    }
    report("4 KiB overwritten in a random place, fdatasync", times);

    let logs = places.each_ref().map(|place| File::create(place.join("log")).unwrap());
    let mut times = [const { Vec::new() }; 3];
    let mut end = 0;
    for _ in 0..rounds {
        for (log, times) in logs.iter().zip(&mut times) {
            let mut at = end;
            turn(times, || {
                log.write_all_at(&[9; 200], at).unwrap();
                log.sync_data().unwrap();
                at += 200;
            });
        }
        end += 200 * u64::try_from(TURN).unwrap();
    }
    report("200 bytes appended to a log, fdatasync", times);

    drop((files, logs));
    served.into_iter().for_each(Served::stop);
}
