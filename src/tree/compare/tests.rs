#![allow(clippy::unwrap_used)]
use std::os::unix::fs::FileExt;

use super::super::sample::{acl, fill, is_root, path};
use super::super::{CopyOptions, LocalTree, TreeWriter, copy};
use super::*;

struct Pair {
    _directories: (tempfile::TempDir, tempfile::TempDir),
    left: LocalTree,
    right: LocalTree,
    right_path: std::path::PathBuf,
}

fn pair() -> Pair {
    let directories = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fill(directories.0.path());
    let left = LocalTree::open(directories.0.path()).unwrap();
    let right = LocalTree::open(directories.1.path()).unwrap();
    copy(&left, &right, &CopyOptions::default(), &|_| Ok(())).unwrap();
    let right_path = directories.1.path().to_owned();
    Pair { _directories: directories, left, right, right_path }
}

impl Pair {
    /// What differs after `change` was made to the metadata of `name` on the right.
    fn after(&self, name: &str, change: impl Fn(&mut Metadata)) -> Vec<Mismatch> {
        let entry = self.right.entry(&path(name)).unwrap();
        let mut metadata = entry.metadata.clone();
        change(&mut metadata);
        self.right.set_metadata(&entry.path, &metadata).unwrap();
        let found = self.differences();
        self.right.set_metadata(&entry.path, &entry.metadata).unwrap();
        assert!(found.iter().all(|difference| difference.path == entry.path), "{found:?}");
        found.into_iter().map(|difference| difference.mismatch).collect()
    }

    fn differences(&self) -> Vec<Difference> {
        let comparison = compare(&self.left, &self.right, &CompareOptions::default()).unwrap();
        assert_eq!(comparison.total_differences, comparison.differences.len() as u64);
        comparison.differences
    }
}

#[test]
fn each_kind_of_metadata_counts() {
    let pair = pair();
    assert_eq!(pair.differences(), []);
    for name in ["old", "sub", "fifo", "empty directory"] {
        let found = pair.after(name, |metadata| metadata.mode ^= 0o001);
        assert!(matches!(found[..], [Mismatch::Mode { .. }]), "{name}: {found:?}");
    }
    for name in ["old", "many", "dangling", "socket"] {
        let found = pair.after(name, |metadata| metadata.modified.nanoseconds ^= 1);
        assert!(matches!(found[..], [Mismatch::Modified { .. }]), "{name}: {found:?}");
    }
    if is_root() {
        for name in ["old", "sub", "dangling", "null"] {
            let found = pair.after(name, |metadata| metadata.gid ^= 1);
            assert!(matches!(found[..], [Mismatch::Owner { .. }]), "{name}: {found:?}");
        }
    }
    let change = |metadata: &mut Metadata| metadata.xattrs[3].value.0.push(0);
    let found = pair.after("attributes", change);
    assert!(matches!(&found[..], [Mismatch::Xattr { name, .. }] if name.0 == b"user.plain"));
    let found = pair.after("attributes", |metadata| drop(metadata.xattrs.pop()));
    assert!(matches!(found[..], [Mismatch::Xattr { left: Some(_), right: None, .. }]));
    let found = pair.after("empty", |metadata| {
        let name = ByteString(b"user.more".to_vec());
        metadata.xattrs.push(Xattr { name, value: ByteString::default() });
    });
    assert!(matches!(found[..], [Mismatch::Xattr { left: None, right: Some(_), .. }]));
    let found = pair.after("empty directory", |metadata| {
        let name = ByteString(b"system.posix_acl_default".to_vec());
        metadata.xattrs.push(Xattr { name, value: ByteString(acl()) });
    });
    assert!(matches!(found[..], [Mismatch::Xattr { .. }]), "{found:?}");
    assert!(pair.after("old", |metadata| metadata.accessed.seconds -= 5).is_empty());
}

#[test]
fn content_counts_to_the_last_byte() {
    let pair = pair();
    for (name, offset) in
        [("sub/one byte", 0), ("sub/deeper/large", 11_999_999), ("sparse", 3 << 20), ("first", 4)]
    {
        let entry = pair.right.entry(&path(name)).unwrap();
        let file = std::fs::File::options().write(true).open(pair.right_path.join(name)).unwrap();
        file.write_all_at(b"\x01", offset).unwrap();
        pair.right.set_metadata(&entry.path, &entry.metadata).unwrap();
        let found = pair.differences();
        assert!(
            matches!(&found[..], [Difference { path, mismatch: Mismatch::Content { .. } }]
                if *path == entry.path),
            "{name}: {found:?}"
        );
        file.write_all_at(b"\0", offset).unwrap();
        std::fs::remove_file(pair.right_path.join(name)).unwrap();
        let again = CopyOptions { replace: true, ..CopyOptions::default() };
        copy(&pair.left, &pair.right, &again, &|_| Ok(())).unwrap();
        assert_eq!(pair.differences(), []);
    }
    // Holes filled with zeros, or data become a hole, are the same content.
    let file = std::fs::File::options().write(true).open(pair.right_path.join("sparse")).unwrap();
    file.write_all_at(&[0; 10_000], 1 << 20).unwrap();
    let sparse = pair.left.entry(&path("sparse")).unwrap();
    pair.right.set_metadata(&path("sparse"), &sparse.metadata).unwrap();
    assert_eq!(pair.differences(), []);
    file.set_len((40 << 20) + 1).unwrap();
    pair.right.set_metadata(&path("sparse"), &sparse.metadata).unwrap();
    assert!(matches!(pair.differences()[..], [Difference { mismatch: Mismatch::Size { .. }, .. }]));
}

#[test]
fn presence_kinds_targets_and_links_count() {
    let pair = pair();
    let keep_root = |name: &str| {
        let parent = path(name).parent().unwrap();
        let metadata = pair.left.entry(&parent).unwrap().metadata;
        pair.right.set_metadata(&parent, &metadata).unwrap();
    };
    let mismatch = |name: &str| {
        keep_root(name);
        let mut found = pair.differences();
        assert_eq!(found.len(), 1, "{name}: {found:?}");
        let found = found.remove(0);
        assert_eq!(found.path, path(name));
        found.mismatch
    };
    let restore = || {
        pair.right.remove(&TreePath::root()).unwrap();
        copy(&pair.left, &pair.right, &CopyOptions::default(), &|_| Ok(())).unwrap();
    };
    let plain = pair.left.entry(&path("empty")).unwrap().metadata;

    pair.right.remove(&path("many/7")).unwrap();
    assert_eq!(mismatch("many/7"), Mismatch::OnlyLeft { kind: EntryKind::Regular });
    restore();
    pair.right.create_file(&path("zz")).unwrap().finish(&plain).unwrap();
    assert_eq!(mismatch("zz"), Mismatch::OnlyRight { kind: EntryKind::Regular });
    restore();
    pair.right.remove(&path("fifo")).unwrap();
    let socket = pair.left.entry(&path("socket")).unwrap().metadata;
    pair.right.create_special(&path("fifo"), &socket).unwrap();
    let kinds = Mismatch::Kind { left: EntryKind::Fifo, right: EntryKind::Socket };
    assert_eq!(mismatch("fifo"), kinds);
    restore();
    pair.right.remove(&path("dangling")).unwrap();
    let mut link = pair.left.entry(&path("dangling")).unwrap().metadata;
    link.target.0.push(b'x');
    pair.right.create_special(&path("dangling"), &link).unwrap();
    assert!(matches!(mismatch("dangling"), Mismatch::Target { .. }));
    restore();
    if is_root() {
        pair.right.remove(&path("null")).unwrap();
        let mut null = pair.left.entry(&path("null")).unwrap().metadata;
        null.rdev += 1;
        pair.right.create_special(&path("null"), &null).unwrap();
        assert!(matches!(mismatch("null"), Mismatch::Device { .. }));
        restore();
    }
    pair.right.remove(&path("sub-b/third")).unwrap();
    let first = pair.left.entry(&path("first")).unwrap().metadata;
    let mut file = pair.right.create_file(&path("sub-b/third")).unwrap();
    file.write_at(b"three names", 0).unwrap();
    file.finish(&first).unwrap();
    let apart = Mismatch::HardLink { left: Some(path("first")), right: None };
    assert_eq!(mismatch("sub-b/third"), apart);
    restore();
    assert_eq!(pair.differences(), []);
}

#[test]
fn differences_are_counted_beyond_the_limit() {
    let pair = pair();
    pair.right.remove(&TreePath::root()).unwrap();
    let options = CompareOptions { limit: 10, ..CompareOptions::default() };
    let comparison = compare(&pair.left, &pair.right, &options).unwrap();
    assert_eq!(comparison.differences.len(), 10);
    assert!(comparison.total_differences > 230);
    assert!(!comparison.is_equal());
    assert_eq!(comparison.unreadable, 0);
}

#[test]
fn what_is_overlooked_does_not_count() {
    let pair = pair();
    pair.right.remove(&path("many")).unwrap();
    std::fs::write(pair.right_path.join("first"), "changed").unwrap();
    let overlook = |path: &TreePath, mismatch: &Mismatch| {
        matches!(mismatch, Mismatch::OnlyLeft { .. }) || path.is_root()
    };
    let options = CompareOptions { overlook: &overlook, limit: 1, ..CompareOptions::default() };
    let comparison = compare(&pair.left, &pair.right, &options).unwrap();
    assert_eq!(comparison.differences.len(), 1);
    // Times and size of one file under its three names.
    assert_eq!(comparison.total_differences, 6, "{:?}", comparison.differences);
}

#[test]
fn what_cannot_be_read_is_counted_beyond_the_limit() {
    let pair = pair();
    let manifest = pair.left.walk(&exclude_nothing).unwrap().map(|entry| {
        let Entry { path, metadata, .. } = entry?;
        Ok(ManifestEntry { path, metadata, link_to: None, sha256: None })
    });
    let options = CompareOptions { limit: 1, ..CompareOptions::default() };
    let comparison = compare_manifest(manifest, &pair.right, &options).unwrap();
    assert_eq!(comparison.differences.len(), 1);
    assert!(comparison.unreadable > 200, "{}", comparison.unreadable);
    assert!(comparison.unreadable < comparison.total_differences);
}

#[test]
fn known_digests_spare_the_left_side() {
    let pair = pair();
    let options = CompareOptions { known: &|_| Some(Digest([7; 32])), ..CompareOptions::default() };
    let comparison = compare(&pair.left, &pair.right, &options).unwrap();
    assert_eq!(comparison.total_differences, comparison.files);
    assert!(comparison.differences.iter().all(|difference| matches!(
        difference.mismatch,
        Mismatch::Content { left: Digest([7, ..]), .. }
    )));
}
