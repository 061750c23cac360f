//! Sources that change, fail, or were archived before.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::tree::sample::{fill, path};
use crate::tree::{ContentReader, Entry, Exclude, Extent, Progress, Walk, Xattr};

/// A tree of which some files change while they are read.
struct Restless {
    tree: LocalTree,
    root: PathBuf,
    act: fn(&Path),
    done: Mutex<Vec<TreePath>>,
    once: bool,
}

struct RestlessContent {
    content: Box<dyn ContentReader>,
    act: Option<fn(&Path)>,
    path: PathBuf,
}

impl TreeReader for Restless {
    fn describe(&self) -> String {
        TreeReader::describe(&self.tree)
    }
    fn walk<'a>(&'a self, exclude: Exclude<'a>) -> crate::tree::Result<Walk<'a>> {
        self.tree.walk(exclude)
    }
    fn walk_to_read<'a>(&'a self, exclude: Exclude<'a>) -> crate::tree::Result<Walk<'a>> {
        self.tree.walk_to_read(exclude)
    }
    fn entry(&self, path: &TreePath) -> crate::tree::Result<Entry> {
        self.tree.entry(path)
    }
    fn content(&self, entry: &Entry) -> crate::tree::Result<Box<dyn ContentReader>> {
        let content = self.tree.content(entry)?;
        let mut done = self.done.lock().unwrap();
        let again = self.once && done.contains(&entry.path);
        done.push(entry.path.clone());
        let changes = entry.path.name().is_some_and(|name| name.starts_with(b"restless"));
        let act = (changes && !again).then_some(self.act);
        let path = self.root.join(entry.path.as_path());
        Ok(Box::new(RestlessContent { content, act, path }))
    }
}

impl ContentReader for RestlessContent {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> crate::tree::Result<usize> {
        if let Some(act) = self.act {
            act(&self.path);
        }
        self.content.read_at(buffer, offset)
    }
    fn next_data(&self, offset: u64) -> crate::tree::Result<Option<Extent>> {
        self.content.next_data(offset)
    }
    fn xattrs(&self) -> crate::tree::Result<Vec<Xattr>> {
        self.content.xattrs()
    }
    fn check_unchanged(&self) -> crate::tree::Result<()> {
        self.content.check_unchanged()
    }
}

fn append(path: &Path) {
    let file = std::fs::File::options().append(true).open(path).unwrap();
    std::io::Write::write_all(&mut &file, b"more").unwrap();
}

fn shorten(path: &Path) {
    std::fs::File::options().write(true).open(path).unwrap().set_len(3).unwrap();
}

fn restless(act: fn(&Path), once: bool) -> (tempfile::TempDir, Restless) {
    let source = tempfile::tempdir().unwrap();
    std::fs::write(source.path().join("calm"), "calm").unwrap();
    std::fs::write(source.path().join("restless small"), vec![1; 1000]).unwrap();
    std::fs::write(source.path().join("restless large"), vec![1; 3_000_000]).unwrap();
    let tree = LocalTree::open(source.path()).unwrap();
    let root = source.path().to_owned();
    (source, Restless { tree, root, act, done: Mutex::default(), once })
}

fn write(
    pending: &mut PendingArchive,
    reader: &dyn TreeReader,
    options: &WriteOptions<'_>,
) -> Result<Written> {
    let sections = [Section { name: SectionName::data(), reader, exclude: &exclude_nothing }];
    let about = description(ArchiveKind::Full);
    pending.write(None, &about, &sections, None, options)
}

/// Cuts off a byte each time.
fn shrink(path: &Path) {
    let length = std::fs::metadata(path).unwrap().len();
    std::fs::File::options().write(true).open(path).unwrap().set_len(length - 1).unwrap();
}

/// What a file lost while it was read is zeros, not what another file had in the buffer.
#[test]
fn a_file_holds_nothing_of_another_one() {
    let (source, reader) = restless(shrink, false);
    for number in 0..3000 {
        std::fs::write(source.path().join(format!("calm{number}")), vec![2; 16_000]).unwrap();
    }
    let options = WriteOptions { on_change: OnChange::Keep, ..WriteOptions::default() };
    let (out, target) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut pending = PendingArchive::create(out.path()).unwrap();
    write(&mut pending, &reader, &options).unwrap();
    extract_all(&pending.reader(&Keyring::new()).unwrap(), target.path()).unwrap();
    let kept = std::fs::read(target.path().join("restless small")).unwrap();
    assert_eq!(kept, [&[1; 997][..], &[0]].concat());
}

fn mark(path: &Path) {
    rustix::fs::setxattr(path, "user.mark", b"late", rustix::fs::XattrFlags::empty()).unwrap();
}

/// Attributes are as they were when the content was read that is kept, not when the file was met.
#[test]
fn attributes_that_change_meanwhile_are_those_of_the_content() {
    let (_source, reader) = restless(mark, true);
    let expected = Some(Amount { entries: 4, bytes: 0 });
    let on_change = OnChange::Keep;
    let options = WriteOptions { on_change, expected, ..WriteOptions::default() };
    let (out, target) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut pending = PendingArchive::create(out.path()).unwrap();
    write(&mut pending, &reader, &options).unwrap();
    extract_all(&pending.reader(&Keyring::new()).unwrap(), target.path()).unwrap();
    let kept = LocalTree::open(target.path()).unwrap().entry(&path("restless small")).unwrap();
    let [attribute] = &kept.metadata.xattrs[..] else { panic!("{:?}", kept.metadata.xattrs) };
    assert_eq!((&*attribute.name.0, &*attribute.value.0), (&b"user.mark"[..], &b"late"[..]));
}

#[test]
fn a_source_that_changes_fails_the_archive() {
    for act in [append, shorten] {
        let (_source, reader) = restless(act, false);
        let out = tempfile::tempdir().unwrap();
        let mut pending = PendingArchive::create(out.path()).unwrap();
        let error = write(&mut pending, &reader, &WriteOptions::default()).unwrap_err();
        let changed = matches!(&error, Error::Tree(crate::tree::Error::Changed { .. }));
        assert!(changed, "{error}");
        drop(pending);
        assert_eq!(std::fs::read_dir(out.path()).unwrap().count(), 0);
    }
}

#[test]
fn a_live_source_is_kept_as_it_was_read() {
    let options = WriteOptions { on_change: OnChange::Keep, ..WriteOptions::default() };
    for (act, once, unstable) in [
        (append as fn(&Path), false, &["restless large", "restless small"][..]),
        (shorten, false, &["restless large", "restless small"]),
        (append, true, &["restless large"]),
    ] {
        let (_source, reader) = restless(act, once);
        let out = tempfile::tempdir().unwrap();
        let mut pending = PendingArchive::create(out.path()).unwrap();
        let written = write(&mut pending, &reader, &options).unwrap();
        let told: Vec<_> =
            written.noticed.unstable.iter().map(|(_, path)| path.to_string()).collect();
        assert_eq!(told, unstable);
        let archive = pending.reader(&Keyring::new()).unwrap();
        let target = tempfile::tempdir().unwrap();
        extract_all(&archive, target.path()).unwrap();
        assert_eq!(std::fs::read(target.path().join("calm")).unwrap(), b"calm");
        let size = std::fs::metadata(target.path().join("restless large")).unwrap().len();
        assert_eq!(size, 3_000_000);
        let marked = index_of(&archive).unwrap();
        assert_eq!(marked.iter().filter(|line| line.unstable).count(), unstable.len());
    }
}

#[test]
fn what_vanishes_is_left_out_of_a_live_archive() {
    struct Vanishing(LocalTree, PathBuf);
    impl TreeReader for Vanishing {
        fn describe(&self) -> String {
            TreeReader::describe(&self.0)
        }
        fn walk<'a>(&'a self, exclude: Exclude<'a>) -> crate::tree::Result<Walk<'a>> {
            self.0.walk(exclude)
        }
        fn entry(&self, path: &TreePath) -> crate::tree::Result<Entry> {
            self.0.entry(path)
        }
        fn content(&self, entry: &Entry) -> crate::tree::Result<Box<dyn ContentReader>> {
            let _ = std::fs::remove_file(self.1.join(entry.path.as_path()));
            self.0.content(entry)
        }
    }
    let source = tempfile::tempdir().unwrap();
    std::fs::write(source.path().join("small"), "x").unwrap();
    std::fs::write(source.path().join("large"), vec![1; 3_000_000]).unwrap();
    let reader = Vanishing(LocalTree::open(source.path()).unwrap(), source.path().to_owned());
    let out = tempfile::tempdir().unwrap();
    let options = WriteOptions { on_change: OnChange::Keep, ..WriteOptions::default() };
    let mut pending = PendingArchive::create(out.path()).unwrap();
    let written = write(&mut pending, &reader, &options).unwrap();
    assert_eq!(written.noticed.vanished.len(), 2);
    assert_eq!((written.amount, written.entries), (Amount { entries: 1, bytes: 0 }, 1));
    pending.reader(&Keyring::new()).unwrap().verify(Control::default()).unwrap();
    assert!(write(&mut pending, &reader, &WriteOptions::default()).is_ok());
    std::fs::write(source.path().join("small"), "x").unwrap();
    assert!(write(&mut pending, &reader, &WriteOptions::default()).is_err());
}

#[test]
fn a_request_to_stop_stops() {
    struct StopAfter(Mutex<u32>, AtomicBool);
    impl Progress for StopAfter {
        fn entry(&self, _: &TreePath) {
            let mut left = self.0.lock().unwrap();
            *left -= 1;
            if *left == 0 {
                self.1.store(true, Ordering::Relaxed);
            }
        }
    }
    let source = tempfile::tempdir().unwrap();
    fill(source.path());
    let tree = LocalTree::open(source.path()).unwrap();
    let out = tempfile::tempdir().unwrap();
    for after in [1, 5, 100] {
        let stop = StopAfter(Mutex::new(after), AtomicBool::new(false));
        let options =
            WriteOptions { cancelled: &stop.1, progress: &stop, ..WriteOptions::default() };
        let mut pending = PendingArchive::create(out.path()).unwrap();
        let error = write(&mut pending, &tree, &options).unwrap_err();
        assert!(matches!(error, Error::Cancelled), "{error}");
        write(&mut pending, &tree, &WriteOptions::default()).unwrap();
        let stop = StopAfter(Mutex::new(after), AtomicBool::new(false));
        let control = Control { cancelled: &stop.1, progress: &stop };
        let error = pending.reader(&Keyring::new()).unwrap().verify(control).unwrap_err();
        assert!(matches!(error, Error::Cancelled), "{error}");
        let stop = StopAfter(Mutex::new(after), AtomicBool::new(false));
        let control = Control { cancelled: &stop.1, progress: &stop };
        let error = pending.reader(&Keyring::new()).unwrap().verify_written(control).unwrap_err();
        assert!(matches!(error, Error::Cancelled), "{error}");
    }
    assert_eq!(std::fs::read_dir(out.path()).unwrap().count(), 0);
}

/// A large file's bytes are told of as they come, and its holes; all are in the end.
#[test]
fn reading_back_shows_its_progress() {
    #[derive(Default)]
    struct Steps(Mutex<Vec<u64>>);
    impl Progress for Steps {
        fn bytes(&self, count: u64) {
            self.0.lock().unwrap().push(count);
        }
    }
    let source = tempfile::tempdir().unwrap();
    let large: Vec<u8> = (0..20u32 << 20).map(|index| (index >> 9).to_le_bytes()[0]).collect();
    std::fs::write(source.path().join("large"), large).unwrap();
    let sparse = std::fs::File::create(source.path().join("sparse")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"end", 5 << 20).unwrap();
    std::fs::write(source.path().join("small"), "small").unwrap();
    let tree = LocalTree::open(source.path()).unwrap();
    let out = tempfile::tempdir().unwrap();
    let mut pending = PendingArchive::create(out.path()).unwrap();
    let written = write(&mut pending, &tree, &WriteOptions::default()).unwrap();
    let steps = Steps::default();
    let control = Control { progress: &steps, ..Control::default() };
    pending.reader(&Keyring::new()).unwrap().verify_written(control).unwrap();
    let steps = steps.0.into_inner().unwrap();
    assert_eq!(steps.iter().sum::<u64>(), written.amount.bytes);
    assert!(steps.iter().all(|step| *step <= 8 << 20), "{steps:?}");
}

#[test]
fn what_an_earlier_archive_stores_is_only_indexed() {
    let source = tempfile::tempdir().unwrap();
    fill(source.path());
    let tree = LocalTree::open(source.path()).unwrap();
    let out = tempfile::tempdir().unwrap();
    let mut full = PendingArchive::create(out.path()).unwrap();
    let base = write(&mut full, &tree, &WriteOptions::default()).unwrap();
    let lines = index_of(&full.reader(&Keyring::new()).unwrap()).unwrap();
    std::fs::write(source.path().join("many/7"), "changed").unwrap();
    std::fs::remove_file(source.path().join("many/8")).unwrap();
    std::fs::write(source.path().join("new"), "new").unwrap();

    let id = base.metadata.id;
    let mut about = description(ArchiveKind::Incremental);
    about.chain = vec![ChainLink { id, file: "full".into() }];
    let mut unchanged = |section: &SectionName, entry: &Entry| {
        let line =
            lines.iter().find(|line| line.section == *section && line.entry.path == entry.path)?;
        let same = line.changed == entry.changed && line.entry.metadata == entry.metadata;
        line.entry.sha256.filter(|_| same).map(|digest| (digest, id))
    };
    let sections =
        [Section { name: SectionName::data(), reader: &tree, exclude: &exclude_nothing }];
    let mut pending = PendingArchive::create(out.path()).unwrap();
    let options = WriteOptions::default();
    let written = pending.write(None, &about, &sections, Some(&mut unchanged), &options).unwrap();
    assert_eq!(written.entries, base.entries);
    assert_eq!(written.amount.bytes, 10);
    let reader = pending.reader(&Keyring::new()).unwrap();
    reader.verify(Control::default()).unwrap();
    let stored: Vec<_> = index_of(&reader)
        .unwrap()
        .into_iter()
        .filter(|line| line.stored == Where::Here && line.entry.sha256.is_some())
        .map(|line| line.entry.path)
        .collect();
    assert_eq!(stored, [path("many/7"), path("new")]);
    let elsewhere = index_of(&reader).unwrap();
    let links: Vec<_> = elsewhere.iter().filter(|line| line.entry.link_to.is_some()).collect();
    assert!(links.iter().any(|line| line.stored == Where::In(id)));
    let target = tempfile::tempdir().unwrap();
    let (_, extracted) = extract_all(&reader, target.path()).unwrap();
    assert_eq!(extracted.elsewhere + extracted.entries, written.entries);
    assert_eq!(std::fs::read(target.path().join("many/7")).unwrap(), b"changed");
}

/// Counts how often it is walked.
struct Walked(LocalTree, std::sync::atomic::AtomicU32);

impl TreeReader for Walked {
    fn describe(&self) -> String {
        TreeReader::describe(&self.0)
    }
    fn walk<'a>(&'a self, exclude: crate::tree::Exclude<'a>) -> crate::tree::Result<Walk<'a>> {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.walk(exclude)
    }
    fn walk_to_read<'a>(&'a self, exclude: Exclude<'a>) -> crate::tree::Result<Walk<'a>> {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.walk_to_read(exclude)
    }
    fn entry(&self, path: &TreePath) -> crate::tree::Result<Entry> {
        self.0.entry(path)
    }
    fn content(&self, entry: &Entry) -> crate::tree::Result<Box<dyn ContentReader>> {
        self.0.content(entry)
    }
}

#[test]
fn what_was_counted_elsewhere_is_walked_once() {
    let source = tempfile::tempdir().unwrap();
    fill(source.path());
    // More than a batch has room for: by their number, and by their bytes.
    for number in 0..300_u32 {
        let size = if number % 50 == 0 { 250_000 } else { number as usize };
        let content = number.to_le_bytes().repeat(size / 4);
        std::fs::write(source.path().join(format!("file{number:03}")), content).unwrap();
    }
    std::fs::hard_link(source.path().join("file299"), source.path().join("a first name")).unwrap();
    let reader = Walked(LocalTree::open(source.path()).unwrap(), Default::default());
    let entries = reader.0.walk(&exclude_nothing).unwrap().count() as u64;
    let expected = Some(Amount { entries, bytes: 0 });
    let out = tempfile::tempdir().unwrap();
    let mut pending = PendingArchive::create(out.path()).unwrap();
    let written =
        write(&mut pending, &reader, &WriteOptions { expected, ..Default::default() }).unwrap();
    assert_eq!(reader.1.load(Ordering::Relaxed), 1);
    assert_eq!(written.entries, entries);
    assert!(written.metadata.limit.entries > entries);
    let archive = pending.reader(&Keyring::new()).unwrap();
    let target = tempfile::tempdir().unwrap();
    extract_all(&archive, target.path()).unwrap();
    // With their attributes, which come with their contents.
    assert_equal(source.path(), target.path());

    // Far more than was counted is not taken for more that came meanwhile.
    std::fs::File::create(source.path().join("sparse")).unwrap().set_len(2 << 30).unwrap();
    let mut pending = PendingArchive::create(out.path()).unwrap();
    let options = WriteOptions { expected, ..Default::default() };
    let error = write(&mut pending, &reader, &options).unwrap_err();
    assert!(matches!(error, Error::TooLarge(_)), "{error}");
}
