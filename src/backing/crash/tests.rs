use std::collections::BTreeSet;
use std::io;

use proptest::prelude::*;

use super::*;
use crate::backing::differential::dump;
use crate::backing::{Access, File, RenameMode, SetTime, Timestamp, XattrMode};

mod conformance {
    use crate::backing::conformance::instantiate;
    use crate::backing::crash::CrashRecorder;

    instantiate!({
        let recorder = CrashRecorder::new();
        (recorder.memory.root(), recorder)
    });
}

/// What all images of a cut show, in the words of `see`.
fn seen<T: Ord>(
    recorder: &CrashRecorder,
    at: usize,
    metadata: Metadata,
    see: impl Fn(&dyn Directory) -> T,
) -> BTreeSet<T> {
    let mut sampler = Sampler::new(1, 600);
    let images = recorder.images(at, metadata, &mut sampler);
    assert!(!images.is_empty());
    images.iter().map(|image| see(&image.directory)).collect()
}

/// What all images of a cut now show.
fn seen_now<T: Ord>(recorder: &CrashRecorder, see: impl Fn(&dyn Directory) -> T) -> BTreeSet<T> {
    seen(recorder, recorder.operation_count(), Metadata::Ordered, see)
}

fn content(root: &dyn Directory, name: &[u8]) -> Option<Vec<u8>> {
    let file = root.open_file(name, Access::Read).ok()?;
    let mut content = vec![0; usize::try_from(file.stat().unwrap().size).unwrap()];
    assert_eq!(file.read_at(&mut content, 0).unwrap(), content.len());
    Some(content)
}

/// Runs of equal bytes: `a512 b512`.
fn runs(content: Option<Vec<u8>>) -> String {
    let Some(content) = content else { return "missing".into() };
    let run = |run: &[u8]| format!("{}{}", run[0].escape_ascii(), run.len());
    content.chunk_by(|a, b| a == b).map(run).collect::<Vec<_>>().join(" ").replace("\\x00", "0x")
}

fn names(root: &dyn Directory) -> String {
    let mut names = BTreeSet::new();
    root.read_entries(0, &mut |entry| {
        names.insert(String::from_utf8_lossy(entry.name).into_owned());
        true
    })
    .unwrap();
    names.into_iter().filter(|name| !name.starts_with('.')).collect::<Vec<_>>().join(" ")
}

fn set<const N: usize>(words: [&str; N]) -> BTreeSet<String> {
    words.map(String::from).into()
}

/// A file with durable content.
fn durable(recorder: &CrashRecorder, name: &[u8], content: &[u8]) -> Box<dyn File> {
    let file = recorder.root().create_file(name, 0o600).unwrap();
    file.write_at(content, 0).unwrap();
    file.sync_all().unwrap();
    file
}

#[test]
fn what_was_synced_is_on_every_disk() {
    let recorder = CrashRecorder::new();
    durable(&recorder, b"f", &[b'a'; 5000]);
    recorder.root().create_file(b"g", 0o600).unwrap().write_at(b"lost", 0).unwrap();
    assert_eq!(seen_now(&recorder, |root| runs(content(root, b"f"))), set(["a5000"]));
    // Before the sync returned there was no such promise.
    let before = seen(&recorder, 2, Metadata::Ordered, |root| runs(content(root, b"f")));
    assert!(before.contains("missing") && before.contains("") && before.contains("0x5000"));
    assert!(before.contains("a5000") && before.contains("a4096"));
}

#[test]
fn an_overwrite_is_kept_dropped_or_torn_at_sectors() {
    let recorder = CrashRecorder::new();
    let file = durable(&recorder, b"f", &[b'a'; 1024]);
    file.write_at(&[b'b'; 1024], 0).unwrap();
    let see = |root: &dyn Directory| runs(content(root, b"f"));
    assert_eq!(seen_now(&recorder, see), set(["a1024", "b1024", "a512 b512", "b512 a512"]));
    file.sync_data().unwrap();
    assert_eq!(seen_now(&recorder, see), set(["b1024"]));
}

#[test]
fn writes_are_independent_of_each_other_but_not_within_a_sector() {
    let recorder = CrashRecorder::new();
    let file = durable(&recorder, b"f", &[b'a'; 1024]);
    file.write_at(b"b", 0).unwrap();
    file.write_at(b"c", 1023).unwrap();
    let see = |root: &dyn Directory| runs(content(root, b"f"));
    let all = set(["a1024", "b1 a1023", "a1023 c1", "b1 a1022 c1"]);
    assert_eq!(seen_now(&recorder, see), all);

    let recorder = CrashRecorder::new();
    let file = durable(&recorder, b"f", &[b'a'; 512]);
    file.write_at(b"b", 0).unwrap();
    file.write_at(b"c", 511).unwrap();
    assert_eq!(seen_now(&recorder, see), set(["a512", "b1 a511", "b1 a510 c1"]));
}

#[test]
fn growth_and_data_come_apart() {
    let recorder = CrashRecorder::new();
    let file = durable(&recorder, b"f", &[b'a'; 512]);
    file.write_at(&[b'b'; 512], 512).unwrap();
    let see = |root: &dyn Directory| runs(content(root, b"f"));
    assert_eq!(seen_now(&recorder, see), set(["a512", "a512 b512", "a512 0x512"]));
    // Growth can stop at the end of a page.
    file.write_at(&[b'b'; 8192], 1024).unwrap();
    let seen = seen_now(&recorder, see);
    assert!(seen.contains("a512 b3584") && seen.contains("a512 b7680"), "{seen:?}");
}

#[test]
fn data_is_seen_when_a_later_growth_reaches_it() {
    let recorder = CrashRecorder::new();
    let file = durable(&recorder, b"f", b"");
    file.write_at(&[b'a'; 512], 0).unwrap();
    file.set_len(4096).unwrap();
    let see = |root: &dyn Directory| runs(content(root, b"f"));
    let all = set(["", "a512", "0x512", "a512 0x3584", "0x4096"]);
    assert_eq!(seen_now(&recorder, see), all);
}

#[test]
fn metadata_is_kept_from_the_beginning_on() {
    let recorder = CrashRecorder::new();
    let root = recorder.root();
    root.make_directory(b"a", 0o700).unwrap();
    root.make_symlink(b"t", b"b").unwrap();
    root.hard_link(b"b", &*root, b"c").unwrap();
    root.unlink(b"b").unwrap();
    root.remove_directory(b"a").unwrap();
    assert_eq!(seen_now(&recorder, names), set(["", "a", "a b", "a b c", "a c", "c"]));
    assert_eq!(seen(&recorder, 2, Metadata::Ordered, names), set(["", "a", "a b"]));
    root.sync().unwrap();
    assert_eq!(seen_now(&recorder, names), set(["c"]));
}

#[test]
fn a_sync_forces_the_metadata_of_what_is_synced_and_all_before() {
    let recorder = CrashRecorder::new();
    let root = recorder.root();
    let other = durable(&recorder, b"other", b"x");
    root.create_file(b"a", 0o600).unwrap();
    let file = root.create_file(b"b", 0o600).unwrap();
    root.create_file(b"c", 0o600).unwrap();
    // The other file has no metadata waiting, so its sync commits none.
    other.write_at(b"y", 0).unwrap();
    other.sync_data().unwrap();
    let all = set(["other", "a other", "a b other", "a b c other"]);
    assert_eq!(seen_now(&recorder, names), all);
    file.sync_data().unwrap();
    assert_eq!(seen_now(&recorder, names), set(["a b other", "a b c other"]));
    root.rename(b"b", &*root, b"d", RenameMode::Replace).unwrap();
    let all = set(["a b other", "a b c other", "a c d other"]);
    assert_eq!(seen_now(&recorder, names), all);
    // A rename is no data; fsync makes it durable, fdatasync does not.
    file.sync_data().unwrap();
    assert_eq!(seen_now(&recorder, names), all);
    file.sync_all().unwrap();
    assert_eq!(seen_now(&recorder, names), set(["a c d other"]));
}

#[test]
fn attributes_are_metadata() {
    let recorder = CrashRecorder::new();
    let file = durable(&recorder, b"f", b"x");
    let at = Timestamp { seconds: 5, nanoseconds: 6 };
    file.set_mode(0o640).unwrap();
    file.set_xattr(b"user.x", b"1", XattrMode::Any).unwrap();
    file.set_times(SetTime::At(at), SetTime::Keep).unwrap();
    let see = |root: &dyn Directory| {
        let stat = root.stat(b"f").unwrap();
        let xattr = root.get_xattr(b"f", b"user.x").is_ok();
        format!("{:o} {xattr} {}", stat.mode, stat.accessed == at)
    };
    let all = set(["600 false false", "640 false false", "640 true false", "640 true true"]);
    assert_eq!(seen_now(&recorder, see), all);
    file.sync_data().unwrap();
    assert_eq!(seen_now(&recorder, see), all);
    file.sync_all().unwrap();
    assert_eq!(seen_now(&recorder, see), set(["640 true true"]));
}

#[test]
fn a_rename_leaves_the_old_or_the_new() {
    let recorder = CrashRecorder::new();
    let root = recorder.root();
    durable(&recorder, b"f", b"old");
    let new = root.create_file(b"temporary", 0o600).unwrap();
    new.write_at(b"new", 0).unwrap();
    new.sync_all().unwrap();
    root.rename(b"temporary", &*root, b"f", RenameMode::Replace).unwrap();
    let see = |root: &dyn Directory| (content(root, b"f").unwrap(), names(root));
    let (old, new) = ((b"old".to_vec(), "f temporary".into()), (b"new".to_vec(), "f".into()));
    assert_eq!(seen_now(&recorder, see), BTreeSet::from([old, new.clone()]));
    root.sync().unwrap();
    assert_eq!(seen_now(&recorder, see), BTreeSet::from([new]));
}

#[test]
fn a_rename_without_a_sync_before_can_lose_the_content() {
    let recorder = CrashRecorder::new();
    let root = recorder.root();
    durable(&recorder, b"f", b"old");
    root.create_file(b"temporary", 0o600).unwrap().write_at(b"new", 0).unwrap();
    root.rename(b"temporary", &*root, b"f", RenameMode::Replace).unwrap();
    root.sync().unwrap();
    let all = set(["", "0x3", "n1 e1 w1"]);
    assert_eq!(seen_now(&recorder, |root| runs(content(root, b"f"))), all);
}

#[test]
fn a_size_comes_to_the_disk_with_its_time() {
    let changes: [fn(&dyn File) -> io::Result<()>; 3] = [
        |file| file.set_len(100),
        |file| file.set_len(3000),
        |file| file.write_at(&[b'b'; 3000], 0),
    ];
    for change in changes {
        for synced in [false, true] {
            let recorder = CrashRecorder::new();
            let file = durable(&recorder, b"f", &[b'a'; 600]);
            let sized = |root: &dyn Directory| {
                let stat = root.open_file(b"f", Access::Read).unwrap().stat().unwrap();
                (stat.size != 600, stat.changed)
            };
            let before = sized(&*recorder.root());
            change(&*file).unwrap();
            let after = sized(&*recorder.root());
            assert!(before.1 < after.1);
            if synced {
                file.sync_data().unwrap();
            }
            let possible = seen_now(&recorder, sized);
            assert_eq!(possible.contains(&before), !synced);
            assert!(possible.contains(&after));
            assert!(possible.iter().all(|&(sized, changed)| !sized || changed == after.1));
        }
    }
}

#[test]
fn blocks_of_a_lost_truncation_keep_their_old_content() {
    let recorder = CrashRecorder::new();
    let file = durable(&recorder, b"f", &[b'a'; 8192]);
    file.set_len(0).unwrap();
    file.write_at(&[b'b'; 512], 0).unwrap();
    let see = |root: &dyn Directory| runs(content(root, b"f"));
    assert_eq!(seen_now(&recorder, see), set(["a8192", "", "b512", "0x512"]));
}

#[test]
fn a_truncation_inside_a_block_zeroes_its_rest_early() {
    let recorder = CrashRecorder::new();
    let file = durable(&recorder, b"f", &[b'a'; 8192]);
    file.set_len(3584).unwrap();
    let see = |root: &dyn Directory| runs(content(root, b"f"));
    assert_eq!(seen_now(&recorder, see), set(["a8192", "a3584", "a3584 0x512 a4096"]));
    // What is cut off at a block's end leaves no such trace.
    file.sync_all().unwrap();
    file.write_at(&[b'a'; 4608], 3584).unwrap();
    file.sync_all().unwrap();
    file.set_len(4096).unwrap();
    assert_eq!(seen_now(&recorder, see), set(["a8192", "a4096"]));
}

#[test]
fn a_hole_is_metadata_and_its_ends_are_data() {
    let recorder = CrashRecorder::new();
    let file = durable(&recorder, b"f", &[b'a'; 12_288]);
    file.punch_hole(3584, 4608).unwrap();
    let see = |root: &dyn Directory| runs(content(root, b"f"));
    let all = set(["a12288", "a3584 0x4608 a4096", "a3584 0x512 a8192", "a4096 0x4096 a4096"]);
    assert_eq!(seen_now(&recorder, see), all);
    // Written again: seen only where the hole is, and else the old block stays.
    file.write_at(&[b'b'; 512], 4096).unwrap();
    let seen = seen_now(&recorder, see);
    assert!(seen.contains("a4096 b512 0x3584 a4096"), "{seen:?}");
    assert!(seen.iter().all(|runs| !runs.contains("b512 a")), "{seen:?}");
}

#[test]
fn allocated_blocks_read_as_zeros_until_written() {
    let recorder = CrashRecorder::new();
    let file = durable(&recorder, b"f", b"");
    file.allocate(0, 8192).unwrap();
    file.set_len(4096).unwrap();
    file.sync_all().unwrap();
    file.write_at(&[b'a'; 512], 0).unwrap();
    let see = |root: &dyn Directory| (runs(content(root, b"f")), root.stat(b"f").unwrap().blocks);
    let (without, with) = (("0x4096".into(), 16), ("a512 0x3584".into(), 16));
    assert_eq!(seen_now(&recorder, see), BTreeSet::from([without, with]));
}

#[test]
fn syncfs_makes_everything_durable() {
    let recorder = CrashRecorder::new();
    let root = recorder.root();
    root.make_directory(b"d", 0o700).unwrap();
    let directory = root.open_directory(b"d").unwrap();
    directory.create_file(b"f", 0o600).unwrap().write_at(&[b'a'; 700], 0).unwrap();
    root.sync_filesystem().unwrap();
    root.make_directory(b"e", 0o700).unwrap();
    let see = |root: &dyn Directory| {
        let directory = root.open_directory(b"d").unwrap();
        (runs(content(&*directory, b"f")), names(root))
    };
    let with = |names: &str| ("a700".to_owned(), names.to_owned());
    assert_eq!(seen_now(&recorder, see), BTreeSet::from([with("d"), with("d e")]));
}

#[test]
fn without_a_common_journal_a_sync_forces_only_what_it_builds_upon() {
    let recorder = CrashRecorder::new();
    let root = recorder.root();
    root.make_directory(b"d", 0o700).unwrap();
    root.create_file(b"x", 0o600).unwrap();
    root.open_directory(b"d").unwrap().create_file(b"f", 0o600).unwrap().sync_all().unwrap();
    let now = recorder.operation_count();
    let see = |root: &dyn Directory| {
        assert_eq!(names(&*root.open_directory(b"d").unwrap()), "f");
        names(root)
    };
    assert_eq!(seen(&recorder, now, Metadata::PerFile, see), set(["d", "d x"]));
    assert_eq!(seen(&recorder, now, Metadata::Ordered, see), set(["d x"]));

    // A file does not appear with the inode number of one that is still there.
    let recorder = CrashRecorder::new();
    let root = recorder.root();
    let old = durable(&recorder, b"old", b"").stat().unwrap().ino;
    root.unlink(b"old").unwrap();
    root.make_symlink(b"t", b"link").unwrap();
    let new = root.create_file(b"new", 0o600).unwrap();
    root.unlink(b"link").unwrap();
    let again = root.create_file(b"again", 0o600).unwrap();
    assert_ne!(again.stat().unwrap().ino, new.stat().unwrap().ino);
    assert!([&new, &again].into_iter().any(|file| file.stat().unwrap().ino == old) || old > 0);
    again.sync_all().unwrap();
    let inos = |root: &dyn Directory| {
        let mut inos = Vec::new();
        root.read_entries(0, &mut |entry| {
            inos.push(entry.ino);
            true
        })
        .unwrap();
        // `.` and `..` of the root are one.
        let different: BTreeSet<u64> = inos.iter().copied().collect();
        inos.len() == different.len() + 1
    };
    let now = recorder.operation_count();
    assert_eq!(seen(&recorder, now, Metadata::PerFile, inos), BTreeSet::from([true]));
}

#[test]
fn files_without_a_name_are_gone() {
    let recorder = CrashRecorder::new();
    let file = durable(&recorder, b"f", b"x");
    recorder.root().unlink(b"f").unwrap();
    recorder.root().sync().unwrap();
    file.write_at(b"y", 0).unwrap();
    file.sync_all().unwrap();
    assert_eq!(seen_now(&recorder, names), set([""]));
    assert_eq!(names(&recorder.durable()), "");
}

#[test]
fn power_can_be_cut_again_on_an_image() {
    let recorder = CrashRecorder::new();
    let file = durable(&recorder, b"f", &[b'a'; 512]);
    file.write_at(&[b'b'; 512], 0).unwrap();
    let mut sampler = Sampler::new(2, 50);
    let images = recorder.images(recorder.operation_count(), Metadata::Ordered, &mut sampler);
    let torn =
        images.iter().find(|image| content(&image.directory, b"f") == Some([b'b'; 512].into()));
    let second = CrashRecorder::on(&torn.unwrap().directory);
    assert_eq!(second.operation_count(), 0);
    let root = second.root();
    root.open_file(b"f", Access::ReadWrite).unwrap().write_at(&[b'c'; 512], 0).unwrap();
    let all = set(["b512", "c512"]);
    assert_eq!(seen_now(&second, |root| runs(content(root, b"f"))), all);
    // Neither the first recorder nor the image has changed.
    assert_eq!(content(&torn.unwrap().directory, b"f"), Some([b'b'; 512].into()));
    assert_eq!(content(&*recorder.root(), b"f"), Some([b'b'; 512].into()));
}

#[test]
fn images_are_described_and_come_again_with_the_seed() {
    let recorder = CrashRecorder::new();
    recorder.root().make_directory(b"d", 0o700).unwrap();
    let directory = recorder.root().open_directory(b"d").unwrap();
    let file = directory.create_file(b"f\xff", 0o600).unwrap();
    file.write_at(&[b'a'; 5000], 100).unwrap();
    let plans = |seed| -> Vec<Plan> {
        let mut sampler = Sampler::new(seed, 40);
        let images = recorder.images(3, Metadata::Ordered, &mut sampler);
        images.into_iter().map(|image| image.plan).collect()
    };
    assert_eq!(plans(5), plans(5));
    assert_ne!(plans(5), plans(6));
    assert_eq!(plans(5).len(), 40);
    assert_eq!(plans(5).iter().collect::<std::collections::HashSet<_>>().len(), 40);
    let images = recorder.images(3, Metadata::Ordered, &mut Sampler::new(0, 2));
    let [nothing, all] = [0, 1].map(|image| images[image].description.as_str());
    assert!(nothing.starts_with("cut at 3, metadata below 0\n"), "{nothing}");
    assert!(all.starts_with("cut at 3, metadata below 3, 2: kept grown\n"), "{all}");
    assert!(all.ends_with("\n  2: write /d/f\\xff 100+5000"), "{all}");
    let mut timeline = recorder.timeline(Metadata::Ordered);
    timeline.advance(3);
    let again = timeline.image(images[1].plan.clone());
    assert_eq!(
        content(&*again.directory.open_directory(b"d").unwrap(), b"f\xff").unwrap().len(),
        5100
    );
}

fn errno(result: io::Result<()>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

/// Something done to a few files, for the properties below.
#[derive(Clone, Debug)]
enum Step {
    Create(u8),
    Unlink(u8),
    Rename(u8, u8),
    Link(u8, u8),
    Write(u8, u64, usize),
    SetLen(u8, u64),
    Punch(u8, u64, u64),
    Allocate(u8, u64, u64),
    SetMode(u8, u32),
    Sync(u8, bool),
    SyncDirectory,
}

fn step(files: u8) -> impl Strategy<Value = Step> {
    use Step::*;
    let file = move || 0..files;
    let offset = || prop_oneof![0..20_000_u64, (0..5_u64).prop_map(|page| page * 4096)];
    prop_oneof![
        3 => file().prop_map(Create),
        1 => file().prop_map(Unlink),
        2 => (file(), file()).prop_map(|(from, to)| Rename(from, to)),
        1 => (file(), file()).prop_map(|(from, to)| Link(from, to)),
        8 => (file(), offset(), 1..9000_usize).prop_map(|(file, at, len)| Write(file, at, len)),
        2 => (file(), offset()).prop_map(|(file, len)| SetLen(file, len)),
        2 => (file(), offset(), 1..9000_u64).prop_map(|(file, at, len)| Punch(file, at, len)),
        1 => (file(), offset(), 1..9000_u64).prop_map(|(file, at, len)| Allocate(file, at, len)),
        1 => (file(), 0..0o777_u32).prop_map(|(file, mode)| SetMode(file, mode)),
        2 => (file(), any::<bool>()).prop_map(|(file, data_only)| Sync(file, data_only)),
        1 => Just(SyncDirectory),
    ]
}

/// Performs a step, whether or not it can succeed.
fn perform(root: &dyn Directory, number: usize, step: &Step) {
    let name = |file: u8| [b'a' + file];
    let open = |file: u8| root.open_file(&name(file), Access::ReadWrite);
    let byte = u8::try_from(number % 250 + 1).unwrap();
    let outcome = match *step {
        Step::Create(file) => root.create_file(&name(file), 0o600).map(drop),
        Step::Unlink(file) => root.unlink(&name(file)),
        Step::Rename(from, to) => root.rename(&name(from), root, &name(to), RenameMode::Replace),
        Step::Link(from, to) => root.hard_link(&name(from), root, &name(to)),
        Step::Write(file, offset, len) => {
            open(file).and_then(|file| file.write_at(&vec![byte; len], offset))
        }
        Step::SetLen(file, len) => open(file).and_then(|file| file.set_len(len)),
        Step::Punch(file, offset, len) => open(file).and_then(|file| file.punch_hole(offset, len)),
        Step::Allocate(file, offset, len) => open(file).and_then(|file| file.allocate(offset, len)),
        Step::SetMode(file, mode) => root.set_mode(&name(file), mode),
        Step::Sync(file, true) => open(file).and_then(|file| file.sync_data()),
        Step::Sync(file, false) => open(file).and_then(|file| file.sync_all()),
        Step::SyncDirectory => root.sync(),
    };
    let outcome = errno(outcome);
    assert!(matches!(outcome, None | Some(libc::ENOENT | libc::EEXIST)), "{outcome:?}");
}

fn dumped(root: &dyn Directory) -> String {
    let mut text = String::new();
    dump(root, 0, &mut text);
    text
}

proptest! {
    /// The disk with everything kept is what the filesystem was at that time.
    #[test]
    fn everything_kept_is_the_present(steps in prop::collection::vec(step(4), 1..40)) {
        let recorder = CrashRecorder::new();
        let root = recorder.root();
        let mut present = vec![(0, dumped(&*root))];
        for (number, step) in steps.iter().enumerate() {
            perform(&*root, number, step);
            present.push((recorder.operation_count(), dumped(&*root)));
        }
        for metadata in [Metadata::Ordered, Metadata::PerFile] {
            let mut timeline = recorder.timeline(metadata);
            for (at, expected) in &present {
                timeline.advance(*at);
                // The second extreme; the first where nothing is open.
                let images: Vec<_> = timeline.images(&mut Sampler::new(0, 2)).collect();
                let whole = images.last().unwrap();
                prop_assert_eq!(&dumped(&whole.directory), expected, "{}", whole.description);
            }
        }
    }

    /// After a sync of the whole filesystem no disk is missing anything.
    #[test]
    fn everything_synced_is_the_present(steps in prop::collection::vec(step(4), 1..40)) {
        let recorder = CrashRecorder::new();
        let root = recorder.root();
        steps.iter().enumerate().for_each(|(number, step)| perform(&*root, number, step));
        root.sync_filesystem().unwrap();
        for metadata in [Metadata::Ordered, Metadata::PerFile] {
            let all = seen(&recorder, recorder.operation_count(), metadata, dumped);
            prop_assert_eq!(all, BTreeSet::from([dumped(&*root)]));
        }
    }

    /// Every sector on every disk is one that the file had since its last sync, but for zeros
    /// where it was cut off or grew.
    #[test]
    fn every_sector_is_of_some_version(steps in prop::collection::vec(step(1), 1..20), seed: u64) {
        let recorder = CrashRecorder::new();
        let root = recorder.root();
        root.create_file(b"a", 0o600).unwrap();
        root.sync().unwrap();
        let sync = |step: &Step| matches!(step, Step::Sync(..));
        let steps: Vec<_> = steps
            .into_iter()
            .filter(|step| !matches!(step, Step::Unlink(_) | Step::SyncDirectory))
            .collect();
        let mut versions = vec![Vec::new()];
        let mut sampler = Sampler::new(seed, 30);
        for (number, step) in steps.iter().enumerate() {
            perform(&*root, number, step);
            let now = content(&*root, b"a").unwrap();
            if sync(step) {
                versions = vec![now];
            } else {
                versions.push(now);
            }
            let at = recorder.operation_count();
            for image in recorder.images(at, Metadata::Ordered, &mut sampler) {
                let disk = content(&image.directory, b"a").unwrap();
                prop_assert!(disk.len() <= versions.iter().map(Vec::len).max().unwrap());
                prop_assert!(disk.len() >= versions.iter().map(Vec::len).min().unwrap());
                for (sector, bytes) in disk.chunks(512).enumerate() {
                    let same = |version: &Vec<u8>| {
                        let had = version.get(sector * 512..).unwrap_or_default();
                        let mut pairs = bytes.iter().zip(had.iter().chain(std::iter::repeat(&0)));
                        pairs.all(|(&byte, &had)| byte == had || byte == 0)
                    };
                    prop_assert!(
                        versions.iter().any(same),
                        "sector {sector}: {}", image.description
                    );
                }
            }
        }
    }
}
