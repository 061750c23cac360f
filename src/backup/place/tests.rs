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
    let (place, recovered) = Place::prepare(&target, extent).unwrap();
    assert!(!recovered);
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
            write(root, &[("db-wal", "old wal"), ("sub/deep/y", "old y")]);
        }
    }
    files(root)
}

#[test]
fn put_in_place_or_given_up() {
    for extent in extents() {
        let (room, target, mut place) = prepared(extent.clone());
        let before = files(&target);
        assert_eq!(place.replaces().unwrap(), extent != Extent::Missing);
        let placed = place.commit().unwrap();
        assert!(placed.put > 0);
        assert_eq!(files(&target), expected(&extent), "{extent:?}");
        place.undo().unwrap();
        assert_eq!(files(&target), before, "{extent:?}");
        drop((place, room));

        let (room, target, mut place) = prepared(extent.clone());
        place.commit().unwrap();
        place.finish().unwrap();
        assert_eq!(files(&target), expected(&extent), "{extent:?}");
        assert!(is_clean(&target) && is_clean(room.path()));

        let (room, target, place) = prepared(extent);
        drop(place);
        assert_eq!(files(&target), before);
        assert!(is_clean(&target) && is_clean(room.path()));
    }
}

/// Whatever renames were made when the process was killed: the next one takes them back.
#[test]
fn killed_after_any_rename() {
    for extent in extents() {
        for done in 0.. {
            let (room, target, mut place) = prepared(extent.clone());
            let before = files(&target);
            place.journal.steps = place.plan().unwrap().0;
            place.write_journal().unwrap();
            let steps = place.journal.steps.clone();
            if done > steps.len() {
                assert!(done > 1);
                break;
            }
            for step in &steps[..done] {
                place.take(step).unwrap();
            }
            // Its lock goes, and nothing else.
            let Place { _lock, .. } = &place;
            rustix::fs::flock(_lock, FlockOperation::Unlock).unwrap();
            place.kept = true;
            let (again, recovered) = Place::prepare(&target, extent.clone()).unwrap();
            assert!(recovered);
            assert_eq!(files(&target), before, "{extent:?} after {done}");
            drop(again);
            assert!(is_clean(&target) && is_clean(room.path()));
        }
    }
}

#[test]
fn another_restore_at_work_is_left_alone() {
    let (_room, target, place) = prepared(Extent::Missing);
    let (other, recovered) = Place::prepare(&target, Extent::Missing).unwrap();
    assert!(!recovered);
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
    let (mut place, _) = Place::prepare(&target, Extent::Whole).unwrap();
    write(&place.new_root(), &RESTORED);
    assert!(!place.replaces().unwrap());
    place.commit().unwrap();
    place.finish().unwrap();
    assert_eq!(files(&target).len(), 7);
    let file = room.path().join("file");
    fs::write(&file, "").unwrap();
    assert!(matches!(Place::prepare(&file, Extent::Whole), Err(Error::Target { .. })));
}
