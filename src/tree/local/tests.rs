#![allow(clippy::unwrap_used, clippy::print_stderr)]
use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, symlink};

use super::super::sample::{acl, fill, is_root, path};
use super::super::{ByteString, Timestamp, TreeWriter, exclude_nothing};
use super::*;

fn filled() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    fill(directory.path());
    directory
}

fn walk(tree: &LocalTree) -> Vec<Entry> {
    tree.walk(&exclude_nothing).unwrap().collect::<Result<_>>().unwrap()
}

#[test]
fn a_walk_visits_everything_in_order() {
    let directory = filled();
    let entries = walk(&LocalTree::open(directory.path()).unwrap());
    let found: Vec<_> = entries.iter().map(|entry| entry.path.clone()).collect();
    let mut expected: Vec<_> = walkdir::WalkDir::new(directory.path())
        .into_iter()
        .map(|entry| {
            use std::os::unix::ffi::OsStrExt as _;
            let entry = entry.unwrap();
            path(entry.path().strip_prefix(directory.path()).unwrap().as_os_str().as_bytes())
        })
        .collect();
    expected.sort();
    assert_eq!(found, expected);
    assert!(found.len() > 230);
}

#[test]
fn metadata_are_those_of_the_kernel() {
    let directory = filled();
    let entries: BTreeMap<_, _> = walk(&LocalTree::open(directory.path()).unwrap())
        .into_iter()
        .map(|entry| (entry.path.clone(), entry))
        .collect();
    for (path, entry) in &entries {
        let told = std::fs::symlink_metadata(directory.path().join(path.as_path())).unwrap();
        let metadata = &entry.metadata;
        assert_eq!(metadata.mode, told.mode() & 0o7777, "{path}");
        assert_eq!((metadata.uid, metadata.gid), (told.uid(), told.gid()), "{path}");
        let modified = (metadata.modified.seconds, i64::from(metadata.modified.nanoseconds));
        assert_eq!(modified, (told.mtime(), told.mtime_nsec()), "{path}");
        let expected = if told.is_file() { told.size() } else { 0 };
        assert_eq!(metadata.size, expected, "{path}");
        assert_eq!(metadata.rdev, told.rdev(), "{path}");
        assert_eq!(entry.allocated, told.blocks() * 512, "{path}");
        let count = entry.hard_link.map_or(1, |link| link.count);
        assert!(told.is_dir() || count == told.nlink(), "{path}");
        assert!(!entry.mount_point);
    }
    let entry = |name: &str| &entries[&path(name)];
    assert_eq!(entry("old").metadata.modified.seconds, -86_400 * 365);
    assert_eq!(
        entry("sub/half a second before").metadata.modified,
        Timestamp { seconds: -1, nanoseconds: 500_000_000 }
    );
    assert_eq!(entry("first").hard_link.unwrap().count, 3);
    assert_eq!(entry("first").hard_link, entry("sub-b/third").hard_link);
    assert_eq!(entry("symlink").metadata.target.0, b"odd \xff target\n");
    assert_eq!(entry("sub/long link").metadata.target.0.len(), 3500);
    let names: Vec<_> =
        entry("attributes").metadata.xattrs.iter().map(|xattr| &*xattr.name.0).collect();
    let odd = b"user.name = with\nodd bytes";
    assert_eq!(names, [&b"system.posix_acl_access"[..], b"user.empty", odd, b"user.plain"]);
    assert_eq!(entry("attributes").metadata.xattrs[0].value.0, acl());
    assert_eq!(entry("attributes").metadata.mode, 0o664);
    if is_root() {
        assert_eq!(entry("symlink").metadata.xattrs.len(), 1);
        assert_eq!(entry("capable").metadata.xattrs.len(), 2);
        assert_eq!(entry("capable").metadata.uid, 4_000_000_000);
    }
}

#[test]
fn content_and_its_holes() {
    let directory = filled();
    let tree = LocalTree::open(directory.path()).unwrap();
    let content = tree.content(&tree.entry(&path("sparse")).unwrap()).unwrap();
    let mut extents = Vec::new();
    let mut offset = 0;
    while let Some(extent) = content.next_data(offset).unwrap() {
        offset = extent.end;
        extents.push(extent);
    }
    assert_eq!(extents.len(), 2, "{extents:?}");
    assert!(extents[0].contains(&(9 << 20)) && extents[1].contains(&(39 << 20)));
    let mut buffer = [0; 10];
    assert_eq!(content.read_at(&mut buffer, (40 << 20) - 4).unwrap(), 4);
    assert_eq!(content.read_at(&mut buffer, 41 << 20).unwrap(), 0);
    let hole = tree.content(&tree.entry(&path("only a hole")).unwrap()).unwrap();
    assert_eq!(hole.next_data(0).unwrap(), None);
    let empty = tree.content(&tree.entry(&path("empty")).unwrap()).unwrap();
    assert_eq!(empty.next_data(0).unwrap(), None);
}

#[test]
fn a_change_under_the_reader_is_seen() {
    let directory = filled();
    let tree = LocalTree::open(directory.path()).unwrap();
    let entry = tree.entry(&path("old")).unwrap();
    let content = tree.content(&entry).unwrap();
    content.check_unchanged().unwrap();
    std::fs::write(directory.path().join("old"), "new").unwrap();
    assert!(matches!(content.check_unchanged(), Err(Error::Changed { .. })));
    assert!(matches!(tree.content(&entry), Err(Error::Changed { .. })));
}

#[test]
fn no_symlink_is_followed() {
    let directory = filled();
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("target"), "outside").unwrap();
    symlink(outside.path(), directory.path().join("away")).unwrap();
    symlink(outside.path().join("target"), directory.path().join("file link")).unwrap();
    for resolve_at_once in [true, false] {
        let mut tree = LocalTree::open(directory.path()).unwrap();
        assert!(tree.resolve_at_once);
        tree.resolve_at_once = resolve_at_once;
        let below = path("away/target");
        assert!(tree.entry(&below).is_err());
        assert!(tree.create_file(&path("away/new")).is_err());
        assert!(tree.create_directory(&path("away/new")).is_err());
        assert!(tree.hard_link(&below, &path("linked")).is_err());
        assert!(tree.hard_link(&path("old"), &path("away/linked")).is_err());
        assert!(tree.remove(&below).is_err());
        assert!(tree.create_file(&path("file link")).is_err());
        let entry = tree.entry(&path("old")).unwrap();
        assert!(tree.content(&Entry { path: path("file link"), ..entry.clone() }).is_err());
        assert!(tree.set_metadata(&path("file link"), &entry.metadata).is_err());
        assert!(tree.set_metadata(&below, &entry.metadata).is_err());
    }
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 1);
    assert_eq!(std::fs::read(outside.path().join("target")).unwrap(), b"outside");
    let tree = LocalTree::open(directory.path()).unwrap();
    tree.remove(&path("away")).unwrap();
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 1);
}

#[test]
fn names_taken_are_errors() {
    let directory = filled();
    let tree = LocalTree::open(directory.path()).unwrap();
    let exists = |result: Result<()>| assert_eq!(result.unwrap_err().raw_os_error(), Some(17));
    exists(tree.create_file(&path("old")).map(drop));
    exists(tree.create_file(&path("sub")).map(drop));
    exists(tree.create_directory(&path("old")));
    exists(tree.hard_link(&path("old"), &path("sub")));
    let link = tree.entry(&path("symlink")).unwrap();
    exists(tree.create_special(&path("old"), &link.metadata));
    assert!(tree.create_special(&path("n"), &tree.entry(&path("old")).unwrap().metadata).is_err());
    let error = tree.create_directory(&path("sub/one byte/below")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOTDIR));
    let text = error.to_string();
    assert!(text.starts_with("cannot create /") && text.contains("sub/one byte/below: "), "{text}");
}

#[test]
fn metadata_replace_what_was_there() {
    let directory = filled();
    let tree = LocalTree::open(directory.path()).unwrap();
    let mut metadata = tree.entry(&path("attributes")).unwrap().metadata;
    metadata.xattrs.remove(0);
    metadata.xattrs[0].value = ByteString(vec![1; 3000]);
    metadata.mode = 0o400;
    tree.set_metadata(&path("attributes"), &metadata).unwrap();
    assert_eq!(tree.entry(&path("attributes")).unwrap().metadata, metadata);
    // A default ACL is inherited by what is created, and must not stay.
    let plain = tree.entry(&path("empty")).unwrap().metadata;
    tree.create_file(&path("default acl/new")).unwrap().finish(&plain).unwrap();
    assert_eq!(tree.entry(&path("default acl/new")).unwrap().metadata, plain);
}

#[test]
fn removal_goes_deep_and_stays_inside() {
    let directory = filled();
    let tree = LocalTree::open(directory.path()).unwrap();
    let before = walk(&tree).len();
    let mut deep = path("sub");
    for _ in 0..1500 {
        deep = deep.join(b"directory").unwrap();
        tree.create_directory(&deep).unwrap();
    }
    assert!(deep.as_bytes().len() > 2 * 4096);
    tree.create_file(&deep.join(b"bottom").unwrap()).unwrap();
    assert_eq!(walk(&tree).len(), before + 1501);
    tree.remove(&path("sub")).unwrap();
    assert!(tree.existing(&path("sub")).unwrap().is_none());
    assert!(tree.existing(&path("sub-b/third")).unwrap().is_some());
    tree.remove(&TreePath::root()).unwrap();
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    assert_eq!(tree.remove(&path("sub")).unwrap_err().raw_os_error(), Some(libc::ENOENT));
}

#[test]
fn exclusion_prunes() {
    let directory = filled();
    let tree = LocalTree::open(directory.path()).unwrap();
    let exclude = |path: &TreePath, kind: EntryKind| {
        kind == EntryKind::Socket || path.as_bytes() == b"sub" || path.as_bytes() == b"many/7"
    };
    let found: Vec<_> = tree.walk(&exclude).unwrap().map(|entry| entry.unwrap().path).collect();
    assert!(!found.iter().any(|found| found.is_within(&path("sub"))));
    assert!(!found.contains(&path("socket")) && !found.contains(&path("many/7")));
    assert!(found.contains(&path("sub-b")) && found.contains(&path("many/77")));
}

#[test]
fn mount_points_are_reported_not_visited() {
    if !is_root() {
        eprintln!("only root can mount: not tested");
        return;
    }
    let directory = filled();
    let inside = directory.path().join("empty directory");
    let mount = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "none"])
        .arg(&inside)
        .status()
        .unwrap();
    assert!(mount.success());
    std::fs::write(inside.join("hidden"), "x").unwrap();
    let visit = |tree: &LocalTree| {
        let entries = walk(tree);
        let mounted = entries.iter().filter(|entry| entry.mount_point).count();
        let inside = entries.iter().any(|e| e.path == path("empty directory/hidden"));
        (mounted, inside)
    };
    let apart = visit(&LocalTree::open(directory.path()).unwrap());
    let crossing = visit(&LocalTree::open(directory.path()).unwrap().crossing_mounts());
    let removed = LocalTree::open(directory.path()).unwrap().remove(&path("empty directory"));
    let left = std::fs::read(inside.join("hidden"));
    let unmount = std::process::Command::new("umount").arg(&inside).status().unwrap();
    assert!(unmount.success());
    assert_eq!(apart, (1, false));
    assert_eq!(crossing, (1, true));
    assert_eq!(removed.unwrap_err().raw_os_error(), Some(libc::EBUSY));
    assert!(left.is_ok());
}

/// What is filled from the start is known to inherit nothing; all else is asked for.
#[test]
fn files_have_their_mode_at_once_only_where_that_is_safe() {
    use std::os::unix::fs::PermissionsExt as _;
    let source = filled();
    let plain = LocalTree::open(source.path()).unwrap().entry(&path("empty")).unwrap().metadata;
    assert_eq!(plain.mode, 0o640);
    let made = |prepare: &dyn Fn(&std::path::Path), metadata: &Metadata| {
        let directory = tempfile::tempdir().unwrap();
        let mode = std::fs::Permissions::from_mode(0o700);
        std::fs::set_permissions(directory.path(), mode).unwrap();
        prepare(directory.path());
        let tree = LocalTree::open(directory.path()).unwrap().filling_an_empty_one();
        let file = tree.create_file_for(&path("new"), metadata).unwrap();
        let stat = std::fs::metadata(directory.path().join("new")).unwrap();
        let root = std::fs::metadata(directory.path()).unwrap();
        assert!(stat.mode() & 0o7777 == 0o600 || root.mode() & 0o7777 == 0o700);
        file.finish(metadata).unwrap();
        assert_eq!(tree.entry(&path("new")).unwrap().metadata, *metadata);
        stat.mode() & 0o7777
    };
    let nothing = |_: &std::path::Path| {};
    assert_eq!(made(&nothing, &plain), 0o640);
    for mode in [0o4755, 0o2755, 0o400, 0o040, 0o1644] {
        assert_eq!(made(&nothing, &Metadata { mode, ..plain.clone() }), 0o600, "{mode:o}");
    }
    if is_root() {
        assert_eq!(made(&nothing, &Metadata { uid: 1234, ..plain.clone() }), 0o600);
        assert_eq!(made(&nothing, &Metadata { gid: 1234, ..plain.clone() }), 0o600);
    }
    let with_acl = LocalTree::open(source.path()).unwrap().entry(&path("attributes")).unwrap();
    let with_acl = Metadata { size: 0, ..with_acl.metadata };
    assert_eq!(made(&nothing, &with_acl), 0o600);
    let set = |mode: u32| {
        move |directory: &std::path::Path| {
            let mode = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(directory, mode).unwrap();
        }
    };
    // Whoever else could reach it can no longer.
    assert_eq!(made(&set(0o755), &plain), 0o640);
    // What is made in it gets its group.
    assert_eq!(made(&set(0o2755), &plain), 0o600);
    let gives_acl = |directory: &std::path::Path| {
        let tree = LocalTree::open(directory).unwrap();
        let mut root = tree.entry(&TreePath::root()).unwrap().metadata;
        root.xattrs.push(super::super::Xattr {
            name: ByteString(xattr::DEFAULT_ACL.to_vec()),
            value: ByteString(acl()),
        });
        tree.set_metadata(&TreePath::root(), &root).unwrap();
    };
    // The ACL that it inherits is gone in the end.
    assert_eq!(made(&gives_acl, &plain) & 0o007, 0);
    let holds_something =
        |directory: &std::path::Path| std::fs::write(directory.join("old"), "").unwrap();
    assert_eq!(made(&holds_something, &plain), 0o600);
}

#[test]
fn what_gives_its_acl_on_ends_the_sparing() {
    use std::os::unix::fs::PermissionsExt as _;
    let source = filled();
    let source = LocalTree::open(source.path()).unwrap();
    let plain = source.entry(&path("empty")).unwrap().metadata;
    let giving = source.entry(&path("default acl")).unwrap().metadata;
    let directory = tempfile::tempdir().unwrap();
    let mode = std::fs::Permissions::from_mode(0o700);
    std::fs::set_permissions(directory.path(), mode).unwrap();
    let tree = LocalTree::open(directory.path()).unwrap().filling_an_empty_one();
    tree.create_directory(&path("sub")).unwrap();
    tree.set_metadata(&path("sub"), &giving).unwrap();
    tree.create_file_for(&path("sub/new"), &plain).unwrap().finish(&plain).unwrap();
    assert_eq!(tree.entry(&path("sub/new")).unwrap().metadata, plain);
}

#[test]
fn attributes_are_left_out_on_demand() {
    let directory = filled();
    let whole = walk(&LocalTree::open(directory.path()).unwrap());
    let without = walk(&LocalTree::open(directory.path()).unwrap().without_xattrs());
    assert!(whole.iter().any(|entry| !entry.metadata.xattrs.is_empty()));
    for (whole, without) in whole.into_iter().zip(without) {
        assert_eq!(without.metadata.xattrs, []);
        let xattrs = whole.metadata.xattrs.clone();
        // Listing a directory moves it.
        let accessed = whole.metadata.accessed;
        let metadata = Metadata { xattrs, accessed, ..without.metadata.clone() };
        assert_eq!(Entry { metadata, ..without }, whole);
    }
}
