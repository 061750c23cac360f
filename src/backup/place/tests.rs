#![allow(clippy::unwrap_used)]
use std::collections::BTreeMap;
use std::fs;

use super::*;
use crate::tree::sample::path;

/// Every file below a directory with its content, hidden things of ours left out.
fn files(root: &Path) -> BTreeMap<String, String> {
    walkdir::WalkDir::new(root)
        .into_iter()
        .filter_entry(|entry| !entry.file_name().to_string_lossy().starts_with(PREFIX))
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.depth() > 0)
        .map(|entry| {
            let name = entry.path().strip_prefix(root).unwrap().display().to_string();
            let content = match entry.file_type().is_dir() {
                true => "/".to_owned(),
                false => fs::read_to_string(entry.path()).unwrap(),
            };
            (name, content)
        })
        .collect()
}

fn write(root: &Path, content: &[(&str, &str)]) {
    for (name, text) in content {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}

fn is_clean(directory: &Path) -> bool {
    fs::read_dir(directory)
        .unwrap()
        .all(|entry| !entry.unwrap().file_name().to_string_lossy().starts_with(PREFIX))
}

const BEFORE: [(&str, &str); 5] = [
    ("a", "old a"),
    ("db", "old db"),
    ("db-wal", "old wal"),
    ("sub/x", "old x"),
    ("sub/deep/y", "old y"),
];
const RESTORED: [(&str, &str); 4] =
    [("a", "new a"), ("db", "new db"), ("sub/x", "new x"), ("fresh/way/z", "new z")];

fn prepared(extent: Extent) -> (tempfile::TempDir, PathBuf, Place) {
    let room = tempfile::tempdir().unwrap();
    let target = room.path().join("target");
    write(&target, &BEFORE);
    let place = Place::prepare(&target, extent).unwrap();
    write(&place.new_root(), &RESTORED);
    (room, target, place)
}

fn extents() -> [Extent; 4] {
    let parts = ["a", "db", "fresh/way/z", "sub/deep/y"].map(path).to_vec();
    let kept = ["db-wal", "sub/deep"].map(path).to_vec();
    [Extent::Whole, Extent::Parts(parts), Extent::Missing, Extent::Keeping(kept)]
}

fn expected(extent: &Extent) -> BTreeMap<String, String> {
    let room = tempfile::tempdir().unwrap();
    let root = room.path();
    match extent {
        Extent::Whole => write(root, &RESTORED),
        Extent::Parts(_) => {
            write(root, &[("a", "new a"), ("db", "new db"), ("sub/x", "old x")]);
            write(root, &[("fresh/way/z", "new z")]);
            // Restored to be missing.
            fs::create_dir(root.join("sub/deep")).unwrap();
        }
        Extent::Missing => {
            write(root, &BEFORE);
            write(root, &[("fresh/way/z", "new z")]);
        }
        Extent::Keeping(_) => {
            write(root, &RESTORED);
            // The log goes with the database that it is of.
            write(root, &[("sub/deep/y", "old y")]);
        }
    }
    files(root)
}

#[test]
fn put_in_place_or_given_up() {
    for extent in extents() {
        let (room, target, mut place) = prepared(extent.clone());
        let before = files(&target);
        assert_eq!(place.replaced().unwrap().is_empty(), extent == Extent::Missing);
        let placed = place.commit().unwrap();
        assert!(placed.put > 0);
        assert_eq!(files(&target), expected(&extent), "{extent:?}");
        place.undo().unwrap();
        assert_eq!(files(&target), before, "{extent:?}");
        drop((place, room));

        let (room, target, mut place) = prepared(extent.clone());
        place.commit().unwrap();
        place.settle().unwrap();
        assert_eq!(place.finish(), None);
        assert_eq!(files(&target), expected(&extent), "{extent:?}");
        assert!(is_clean(&target) && is_clean(room.path()));

        let (room, target, place) = prepared(extent);
        drop(place);
        assert_eq!(files(&target), before);
        assert!(is_clean(&target) && is_clean(room.path()));
    }
}

/// Leaves everything as a process does that is killed after so many renames; `false` where there are
/// fewer.
fn kill_after(done: usize, place: &mut Place) -> bool {
    place.journal.steps = place.plan().unwrap().0;
    place.write_journal().unwrap();
    let steps = place.journal.steps.clone();
    for step in &steps[..done.min(steps.len())] {
        place.take(step).unwrap();
    }
    // Its lock goes, and nothing else.
    rustix::fs::flock(&place._lock, rustix::fs::FlockOperation::Unlock).unwrap();
    place.kept = true;
    done <= steps.len()
}

/// Whatever renames were made when the process was killed, all of them included: the next one takes
/// them back.
#[test]
fn killed_after_any_rename() {
    for extent in extents() {
        for done in 0.. {
            let (room, target, mut place) = prepared(extent.clone());
            let before = files(&target);
            let all = place.plan().unwrap().0.len();
            if !kill_after(done, &mut place) {
                assert!(done > 1);
                break;
            }
            let half = (1..=all).contains(&done);
            assert_eq!(unfinished(&target).unwrap().len(), usize::from(half), "{extent:?} {done}");
            let recovered = recover(&target).unwrap();
            assert_eq!(recovered.undone.len(), usize::from(half));
            assert_eq!(recovered.unreadable.len(), 0);
            let mut now = files(&target);
            now.retain(|name, _| !name.starts_with(UNDONE));
            assert_eq!(now, before, "{extent:?} after {done}");
            assert!(is_clean(&target) && is_clean(room.path()));
            assert_eq!(recover(&target).unwrap(), Recovered::default());
        }
    }
}

/// All of one place says nothing of the others, nor of an undo that failed: only the way back given up
/// makes it final.
#[test]
fn final_once_the_way_back_is_given_up() {
    for extent in extents() {
        let (room, target, mut place) = prepared(extent.clone());
        place.commit().unwrap();
        rustix::fs::flock(&place._lock, rustix::fs::FlockOperation::Unlock).unwrap();
        assert_eq!(unfinished(&target).unwrap().len(), 1, "{extent:?}");
        place.settle().unwrap();
        assert_eq!(unfinished(&target).unwrap().len(), 0, "{extent:?}");
        assert_eq!(recover(&target).unwrap(), Recovered::default());
        assert_eq!(files(&target), expected(&extent), "{extent:?}");
        assert!(is_clean(&target) && is_clean(room.path()));
    }
}

/// Killed between two places that give up their ways back: each is all as restored, or all as before.
#[test]
fn killed_between_two_ways_back() {
    for (first, second) in extents().into_iter().zip(extents().into_iter().rev()) {
        let (_one, settled, mut place) = prepared(first.clone());
        let (_two, left, mut other) = prepared(second.clone());
        let before = files(&left);
        place.commit().unwrap();
        other.commit().unwrap();
        place.settle().unwrap();
        for place in [&mut place, &mut other] {
            rustix::fs::flock(&place._lock, rustix::fs::FlockOperation::Unlock).unwrap();
            place.kept = true;
        }
        drop((place, other));
        assert_eq!(unfinished(&settled).unwrap().len(), 0);
        assert_eq!(unfinished(&left).unwrap().len(), 1);
        // In whichever order they are met.
        let undone = recover(&left).unwrap().undone;
        assert_eq!(undone.len(), 1);
        assert_eq!(recover(&settled).unwrap(), Recovered::default());
        assert_eq!(files(&settled), expected(&first), "{first:?}");
        let mut now = files(&left);
        now.retain(|name, _| !name.starts_with(UNDONE));
        assert_eq!(now, before, "{second:?}");
        for target in [settled, left] {
            assert!(is_clean(&target) && is_clean(target.parent().unwrap()));
        }
    }
}

/// Killed while it is undone, or when it is: what an app wrote since is in what the next one keeps.
#[test]
fn killed_while_it_is_undone() {
    let parts = Extent::Parts(vec![path("a"), path("fresh/way/z")]);
    for extent in [Extent::Whole, parts, Extent::Keeping(Vec::new())] {
        for undone in 0.. {
            let (room, target, mut place) = prepared(extent.clone());
            let before = files(&target);
            assert!(kill_after(place.plan().unwrap().0.len(), &mut place));
            write(&target, &[("a.new", "since")]);
            fs::rename(target.join("a.new"), target.join("a")).unwrap();
            let (base, steps) = (&place.base, &place.journal.steps);
            let last = steps[steps.len() - undone..].to_vec();
            recover::take_back(base, &place.staging, &Journal { steps: last }).unwrap();
            assert!(holds_way_back(place.new_root().parent().unwrap()));
            assert_eq!(unfinished(&target).unwrap().len(), 1, "{extent:?} {undone}");
            let kept = recover(&target).unwrap().undone;
            let since = fs::read_to_string(kept[0].join("new/a")).unwrap();
            assert_eq!(since, "since", "{extent:?} {undone}");
            let mut now = files(&target);
            now.retain(|name, _| !name.starts_with(UNDONE));
            assert_eq!(now, before, "{extent:?} {undone}");
            assert!(is_clean(&target) && is_clean(room.path()));
            if undone == place.journal.steps.len() {
                break;
            }
        }
    }
}

/// What an app wrote since a restore was interrupted is never lost.
#[test]
fn what_was_written_since_stays() {
    let parts = Extent::Parts(vec![path("a"), path("sub/x")]);
    for (done, extent) in [(2, parts.clone()), (1, Extent::Whole), (1, parts)] {
        let (room, target, mut place) = prepared(extent.clone());
        assert!(kill_after(done, &mut place));
        // As apps save: beside it, then over it.
        write(&target, &[("a.new", "since")]);
        fs::rename(target.join("a.new"), target.join("a")).unwrap();
        // A restore of a part works in the target, one of all of it beside that.
        let recovered = recover(&target).unwrap();
        let kept = recovered.undone[0].join("new/a");
        assert_eq!(fs::read_to_string(kept).unwrap(), "since");
        assert_eq!(fs::read_to_string(target.join("a")).unwrap(), "old a");
        assert!(is_clean(&target) && is_clean(room.path()));
    }
}

#[test]
fn a_journal_that_cannot_be_read_is_in_nobodys_way() {
    // Empty, torn, and nothing that can be read at all.
    for (text, kept) in [(Some(""), false), (Some("{\"steps\": ["), true), (None, true)] {
        let (room, target, mut place) = prepared(Extent::Whole);
        let before = files(&target);
        let journal = place.new_root().parent().unwrap().join("journal.json");
        match text {
            Some(text) => fs::write(journal, text).unwrap(),
            None => fs::create_dir(journal).unwrap(),
        }
        rustix::fs::flock(&place._lock, rustix::fs::FlockOperation::Unlock).unwrap();
        place.kept = true;
        assert_eq!(unfinished(&target).unwrap().len(), usize::from(kept));
        let Recovered { undone, unreadable } = recover(&target).unwrap();
        assert_eq!((undone.len(), unreadable.len()), (0, usize::from(kept)));
        assert!(unreadable.iter().all(|aside| aside.join("journal.json").exists()));
        assert_eq!(files(&target), before);
        assert!(is_clean(room.path()));
    }
}

/// A backup may hold what an earlier restore left; what one left here stays.
#[test]
fn what_was_kept_of_an_undone_restore() {
    let kept = Extent::Keeping(vec![path("db-wal")]);
    let (held, other) = (format!("{UNDONE}1/a"), format!("{UNDONE}2/a"));
    for extent in [kept, Extent::Whole] {
        // From within, as all of it where something is mounted.
        let (_room, target, mut place) = prepared(Extent::Keeping(Vec::new()));
        place.extent = extent;
        write(&place.new_root(), &[(held.as_str(), "held")]);
        write(&target, &[(other.as_str(), "here")]);
        place.commit().unwrap();
        place.settle().unwrap();
        assert_eq!(place.finish(), None);
        assert_eq!(fs::read_to_string(target.join(&held)).unwrap(), "held");
        assert_eq!(fs::read_to_string(target.join(&other)).unwrap(), "here");
        assert_eq!(fs::read_to_string(target.join("a")).unwrap(), "new a");
    }
}

/// A log is of one state of its database, and goes with that.
#[test]
fn logs_go_with_their_databases() {
    let room = tempfile::tempdir().unwrap();
    let target = room.path().join("target");
    write(&target, &[("kept.db", "old"), ("lost.db-wal", "of the lost one"), ("x-wal", "own")]);
    let mut place = Place::prepare(&target, Extent::Missing).unwrap();
    let new = [("kept.db", "new"), ("kept.db-wal", "new wal"), ("lost.db", "new")];
    write(&place.new_root(), &new);
    assert_eq!(place.replaced().unwrap(), [path("lost.db-wal")]);
    place.commit().unwrap();
    place.settle().unwrap();
    assert_eq!(place.finish(), None);
    let now: Vec<_> = files(&target).into_iter().collect();
    let expected = [("kept.db", "old"), ("lost.db", "new"), ("x-wal", "own")];
    assert_eq!(now, expected.map(|(name, text)| (name.to_owned(), text.to_owned())));
}

#[test]
fn another_restore_at_work_is_left_alone() {
    let (_room, target, place) = prepared(Extent::Missing);
    assert_eq!(recover(&target).unwrap(), Recovered::default());
    let other = Place::prepare(&target, Extent::Missing).unwrap();
    assert!(place.new_root().exists());
    drop(other);
    assert!(place.new_root().exists());
}

#[test]
fn a_part_below_a_file_is_refused() {
    let (_room, target, mut place) = prepared(Extent::Parts(vec![path("a/inner")]));
    let before = files(&target);
    assert!(matches!(place.commit(), Err(Error::Target { .. })));
    assert_eq!(files(&target), before);
}

#[test]
fn a_target_that_is_missing_or_no_directory() {
    let room = tempfile::tempdir().unwrap();
    let target = room.path().join("not/yet/there");
    let mut place = Place::prepare(&target, Extent::Whole).unwrap();
    write(&place.new_root(), &RESTORED);
    assert_eq!(place.replaced().unwrap(), []);
    place.commit().unwrap();
    place.settle().unwrap();
    assert_eq!(place.finish(), None);
    assert_eq!(files(&target).len(), 7);
    let file = room.path().join("file");
    fs::write(&file, "").unwrap();
    assert!(matches!(Place::prepare(&file, Extent::Whole), Err(Error::Target { .. })));
}
