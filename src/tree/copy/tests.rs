#![allow(clippy::unwrap_used)]
use std::collections::HashMap;
use std::path::Path;

use super::super::sample::{fill, path};
use super::super::{CompareOptions, LocalTree, Manifest, Metadata, compare, compare_manifest};
use super::*;

fn open(directory: &Path) -> LocalTree {
    LocalTree::open(directory).unwrap()
}

fn set_mode(directory: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(mode)).unwrap();
}

fn copy_all(
    source: &dyn TreeReader,
    target: &dyn TreeWriter,
    options: &CopyOptions<'_>,
) -> Result<(Copied, Manifest)> {
    let entries = Mutex::new(Vec::new());
    let copied = copy(source, target, options, &|entry| {
        entries.lock().unwrap().push(entry);
        Ok(())
    })?;
    target.sync()?;
    Ok((copied, Manifest::new(entries.into_inner().unwrap())))
}

fn assert_equal(left: &dyn TreeReader, right: &dyn TreeReader) {
    let comparison = compare(left, right, &CompareOptions::default()).unwrap();
    assert!(comparison.is_equal(), "{:#?}", comparison.differences);
}

#[test]
fn a_copy_is_equal_in_everything() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fill(from.path());
    // Made in a directory that has its default ACL only at the end, as all of a copy is.
    std::fs::write(from.path().join("default acl/inside"), "inside").unwrap();
    std::fs::create_dir(from.path().join("default acl/too")).unwrap();
    let source = open(from.path());
    for (jobs, empty) in [1, 2, 7].into_iter().flat_map(|jobs| [(jobs, false), (jobs, true)]) {
        open(to.path()).remove(&TreePath::root()).unwrap();
        set_mode(to.path(), 0o700);
        let target = open(to.path());
        let target = if empty { target.filling_an_empty_one() } else { target };
        let options = CopyOptions { jobs: NonZeroUsize::new(jobs), ..CopyOptions::default() };
        let (copied, manifest) = copy_all(&source, &target, &options).unwrap();
        assert_equal(&source, &target);
        assert_eq!(copied.entries, manifest.entries().len() as u64);
        assert_eq!((copied.outside_links, copied.mount_points), (vec![], vec![]));
        let entries = manifest.entries().iter().cloned().map(Ok);
        let comparison = compare_manifest(entries, &target, &CompareOptions::default()).unwrap();
        assert!(comparison.is_equal(), "{:#?}", comparison.differences);
        assert_eq!(comparison.files, copied.files);
        assert_eq!(comparison.bytes, copied.bytes);
        let mut lines = Vec::new();
        manifest.write_lines(&mut lines).unwrap();
        assert_eq!(Manifest::read_lines(&*lines).unwrap(), manifest);
    }
    let sparse = open(to.path()).entry(&path("sparse")).unwrap();
    assert!(sparse.allocated < sparse.metadata.size / 100, "{}", sparse.allocated);
}

#[test]
fn digests_are_those_of_sha256sum() {
    let from = tempfile::tempdir().unwrap();
    fill(from.path());
    let to = tempfile::tempdir().unwrap();
    let options = CopyOptions::default();
    let (_, manifest) = copy_all(&open(from.path()), &open(to.path()), &options).unwrap();
    for name in ["sparse", "only a hole", "hole first", "sub/deeper/large", "empty", "old"] {
        let output =
            std::process::Command::new("sha256sum").arg(from.path().join(name)).output().unwrap();
        let expected = String::from_utf8(output.stdout).unwrap();
        let digest = manifest.get(&path(name)).unwrap().sha256.unwrap();
        assert_eq!(expected.split(' ').next().unwrap(), digest.to_string(), "{name}");
    }
}

#[test]
fn a_copy_goes_on_where_another_stopped() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fill(from.path());
    let (source, target) = (open(from.path()), open(to.path()));
    let total = source.walk(&exclude_nothing).unwrap().count();
    for stop_after in (0..total).step_by(17) {
        target.remove(&TreePath::root()).unwrap();
        let stop = AtomicBool::new(stop_after == 0);
        let done = Mutex::new(HashMap::new());
        let first = CopyOptions { cancelled: &stop, ..CopyOptions::default() };
        let result = copy(&source, &target, &first, &|entry| {
            let mut done = done.lock().unwrap();
            if let Some(digest) = entry.sha256 {
                done.insert(entry.path, digest);
            }
            if done.len() >= stop_after {
                stop.store(true, Ordering::Relaxed);
            }
            Ok(())
        });
        assert!(result.is_err() || done.lock().unwrap().len() < stop_after);
        let done = done.into_inner().unwrap();
        let again = CopyOptions {
            copied_before: &|entry| done.get(&entry.path).copied(),
            replace: true,
            ..CopyOptions::default()
        };
        let (copied, _) = copy_all(&source, &target, &again).unwrap();
        assert_eq!(copied.skipped, done.len() as u64);
        assert_equal(&source, &target);
    }
}

#[test]
fn what_is_in_the_way_is_an_error_or_replaced() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fill(from.path());
    let (source, target) = (open(from.path()), open(to.path()));
    // A directory where a file goes, a file where a directory goes, a symlink leading out.
    std::fs::create_dir_all(to.path().join("old/full/of")).unwrap();
    std::fs::write(to.path().join("sub"), "in the way").unwrap();
    std::os::unix::fs::symlink("/etc", to.path().join("many")).unwrap();
    std::fs::create_dir(to.path().join("first")).unwrap();
    let error = copy_all(&source, &target, &CopyOptions::default()).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EEXIST), "{error}");
    let replace = CopyOptions { replace: true, ..CopyOptions::default() };
    copy_all(&source, &target, &replace).unwrap();
    assert_equal(&source, &target);
}

#[test]
fn links_to_the_outside_are_told() {
    let outer = tempfile::tempdir().unwrap();
    let from = outer.path().join("from");
    std::fs::create_dir(&from).unwrap();
    std::fs::write(from.join("a"), "x").unwrap();
    std::fs::hard_link(from.join("a"), from.join("b")).unwrap();
    std::fs::hard_link(from.join("a"), outer.path().join("outside")).unwrap();
    let to = tempfile::tempdir().unwrap();
    let (source, target) = (open(&from), open(to.path()));
    let (copied, _) = copy_all(&source, &target, &CopyOptions::default()).unwrap();
    assert_eq!(copied.outside_links, [OutsideLink { path: path("a"), inside: 2, count: 3 }]);
    assert_equal(&source, &target);
}

/// A tree of which one file changes as it is being read.
struct Changing(LocalTree, std::path::PathBuf);

struct ChangingContent(Box<dyn super::super::ContentReader>, std::path::PathBuf);

impl TreeReader for Changing {
    fn describe(&self) -> String {
        TreeReader::describe(&self.0)
    }
    fn walk<'a>(&'a self, exclude: Exclude<'a>) -> Result<super::super::Walk<'a>> {
        self.0.walk(exclude)
    }
    fn entry(&self, path: &TreePath) -> Result<Entry> {
        self.0.entry(path)
    }
    fn content(&self, entry: &Entry) -> Result<Box<dyn super::super::ContentReader>> {
        let content = self.0.content(entry)?;
        Ok(Box::new(ChangingContent(content, self.1.join(entry.path.as_path()))))
    }
}

impl super::super::ContentReader for ChangingContent {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        if self.1.ends_with("future") {
            let file = std::fs::File::options().append(true).open(&self.1).unwrap();
            std::io::Write::write_all(&mut &file, b"more").unwrap();
        }
        if self.1.ends_with("old") {
            std::fs::File::options().write(true).open(&self.1).unwrap().set_len(1).unwrap();
        }
        self.0.read_at(buffer, offset)
    }
    fn next_data(&self, offset: u64) -> Result<Option<super::super::Extent>> {
        self.0.next_data(offset)
    }
    fn xattrs(&self) -> Result<Vec<super::super::Xattr>> {
        self.0.xattrs()
    }
    fn check_unchanged(&self) -> Result<()> {
        self.0.check_unchanged()
    }
}

#[test]
fn a_file_that_changes_stops_the_copy() {
    for name in ["future", "old"] {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::write(from.path().join(name), "content").unwrap();
        let source = Changing(open(from.path()), from.path().to_owned());
        let error = copy_all(&source, &open(to.path()), &CopyOptions::default()).unwrap_err();
        assert!(
            matches!(&error, Error::Changed { path, .. } if path.as_bytes() == name.as_bytes()),
            "{error}"
        );
    }
}

/// A target that is full after so many bytes.
struct Full(LocalTree, AtomicU64);

impl TreeWriter for Full {
    fn describe(&self) -> String {
        TreeWriter::describe(&self.0)
    }
    fn existing(&self, path: &TreePath) -> Result<Option<Entry>> {
        self.0.existing(path)
    }
    fn create_directory(&self, path: &TreePath) -> Result<()> {
        self.0.create_directory(path)
    }
    fn create_file(&self, path: &TreePath) -> Result<Box<dyn ContentWriter>> {
        if self.1.fetch_sub(1, Ordering::Relaxed) == 1 {
            return Err(Error::Io {
                operation: super::super::Operation::Create,
                tree: self.describe(),
                path: path.clone(),
                source: std::io::Error::from_raw_os_error(libc::ENOSPC),
            });
        }
        self.0.create_file(path)
    }
    fn create_special(&self, path: &TreePath, metadata: &Metadata) -> Result<()> {
        self.0.create_special(path, metadata)
    }
    fn hard_link(&self, original: &TreePath, path: &TreePath) -> Result<()> {
        self.0.hard_link(original, path)
    }
    fn set_metadata(&self, path: &TreePath, metadata: &Metadata) -> Result<()> {
        self.0.set_metadata(path, metadata)
    }
    fn remove(&self, path: &TreePath) -> Result<()> {
        self.0.remove(path)
    }
    fn sync(&self) -> Result<()> {
        self.0.sync()
    }
}

#[test]
fn the_first_failure_ends_the_copy_and_is_told() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fill(from.path());
    let target = Full(open(to.path()), AtomicU64::new(40));
    let error = copy_all(&open(from.path()), &target, &CopyOptions::default()).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "{error}");
}

#[test]
fn progress_adds_up() {
    #[derive(Default)]
    struct Count(AtomicU64, AtomicU64);
    impl Progress for Count {
        fn bytes(&self, count: u64) {
            self.0.fetch_add(count, Ordering::Relaxed);
        }
        fn entry(&self, _: &TreePath) {
            self.1.fetch_add(1, Ordering::Relaxed);
        }
    }
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fill(from.path());
    let count = Count::default();
    let options = CopyOptions { progress: &count, ..CopyOptions::default() };
    let (copied, _) = copy_all(&open(from.path()), &open(to.path()), &options).unwrap();
    assert_eq!(count.0.into_inner(), copied.bytes);
    assert_eq!(count.1.into_inner(), copied.entries);
}

#[test]
fn trees_deeper_than_a_path_can_be() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (source, target) = (open(from.path()), open(to.path()));
    let mut deep = TreePath::root();
    for _ in 0..600 {
        deep = deep.join(b"directory").unwrap();
        source.create_directory(&deep).unwrap();
    }
    let (copied, _) = copy_all(&source, &target, &CopyOptions::default()).unwrap();
    assert_eq!(copied.entries, 601);
    assert_equal(&source, &target);
    for tree in [source, target] {
        tree.remove(&TreePath::root()).unwrap();
    }
}
