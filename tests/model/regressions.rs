//! Sequences that once failed, shrunk.

use strongroom::backing::XattrMode;

use super::core::{Core, UMASK};
use super::replay;
use super::step::{Step, Target, p};

fn replay_on_cores(steps: &[Step]) {
    replay(steps, vec![Box::new(Core::in_memory()), Box::new(Core::on_system())], UMASK);
}

fn create(path: &[u8]) -> Step {
    Step::Create { path: p(path), mode: 0o644 }
}

fn write(path: &[u8], byte: u8) -> Step {
    Step::Write { file: Target::Name(p(path)), offset: 0, len: 1, byte }
}

fn sync(path: &[u8]) -> Step {
    Step::Sync { file: Target::Name(p(path)), data_only: false }
}

fn truncate(path: &[u8], size: u64) -> Step {
    Step::Truncate { file: Target::Name(p(path)), size }
}

/// A directory that was removed before its record was synced stayed known by its name.
#[test]
fn a_file_takes_the_name_of_a_removed_directory() {
    replay_on_cores(&[
        Step::MakeDirectory { path: p(b"a"), mode: 0o755 },
        Step::RemoveDirectory { path: p(b"a") },
        create(b"a"),
        write(b"a", 1),
        Step::SyncAll,
        Step::Remount,
    ]);
}

/// The journal knew its files by inode number: blocks of a file that was let go of in between were
/// never written in place.
#[test]
fn an_overwrite_outlives_the_truncation_before_it() {
    replay_on_cores(&[
        create(b"a"),
        write(b"a", 1),
        sync(b"a"),
        write(b"a", 2),
        truncate(b"a", 0),
        truncate(b"a", 1),
        Step::SyncAll,
        write(b"a", 3),
        Step::Remount,
    ]);
}

/// The overflow file of an attribute went with the file's last name.
#[test]
fn an_open_file_without_a_name_keeps_its_long_attributes() {
    let set = |value_len| Step::SetXattr {
        path: p(b"a"),
        name: p(b"user.a"),
        value_len,
        mode: XattrMode::Any,
    };
    replay_on_cores(&[
        create(b"a"),
        set(5000),
        Step::Open { slot: 0, path: p(b"a") },
        Step::Unlink { path: p(b"a") },
        Step::Close { slot: 0 },
        // One that is still open at the end.
        create(b"a"),
        set(6000),
        Step::Open { slot: 0, path: p(b"a") },
        Step::Unlink { path: p(b"a") },
        Step::Remount,
    ]);
}

#[test]
fn a_file_keeps_its_long_attributes_under_a_name_that_nobody_asked_for() {
    replay_on_cores(&[
        create(b"a"),
        Step::SetXattr { path: p(b"a"), name: p(b"user.a"), value_len: 5000, mode: XattrMode::Any },
        Step::Link { from: p(b"a"), to: p(b"b") },
        Step::Remount,
        Step::Unlink { path: p(b"a") },
    ]);
}

#[test]
fn a_symlink_keeps_its_other_name() {
    replay_on_cores(&[
        Step::MakeDirectory { path: p(b"a"), mode: 0o644 },
        Step::MakeSymlink { path: p(b"b"), target_len: 1 },
        Step::Link { from: p(b"b"), to: p(b"a/c") },
        Step::SyncAll,
        Step::SetXattr { path: p(b"b"), name: p(b"user.a"), value_len: 0, mode: XattrMode::Any },
        Step::MakeDirectory { path: p(b"a/a"), mode: 0o644 },
        Step::Unlink { path: p(b"a/c") },
    ]);
}
