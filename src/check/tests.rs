//! The check over memory and over the operating system: a vault with everything in it is clean,
//! each kind of damage is found, and no power cut leaves damage.

#![allow(clippy::unwrap_used)]

use super::*;
use crate::backing::crash::{CrashRecorder, Metadata, Sampler};
use crate::backing::memory::MemoryDirectory;
use crate::backing::os::OsDirectory;
use crate::backing::{Access, Directory, FileKind, RenameMode, XattrMode};
use crate::crypto::MasterKey;
use crate::format::directory::RECORD_NAME;
use crate::format::layout::CIPHER_BLOCK_SIZE;
use crate::vault::{
    Caller, FallocateMode, FileSystem, FilesystemOptions, InodeNumber, OVERFLOW_NAME,
    SetAttributes, TREE_NAME,
};

const CALLER: Caller = Caller { uid: 0, gid: 0, umask: 0o022 };
const ROOT: InodeNumber = InodeNumber::ROOT;
const DATA: Options = Options { read_data: true, threads: 2 };

fn master() -> MasterKey {
    MasterKey::from_bytes(&[42; 32])
}

fn format(vault: &dyn Directory) {
    for name in [TREE_NAME, OVERFLOW_NAME] {
        vault.make_directory(name.as_bytes(), 0o700).unwrap();
    }
    FileSystem::format(vault, &master()).unwrap();
}

fn mount(vault: Box<dyn Directory>) -> FileSystem {
    let options = FilesystemOptions { journal_segment: 128 << 10, ..FilesystemOptions::default() };
    FileSystem::open(vault, &master(), options, "a test").unwrap()
}

fn session(vault: Box<dyn Directory>) -> Session {
    Session::open(vault, &master(), "a test").unwrap()
}

fn check(vault: Box<dyn Directory>) -> Report {
    session(vault).check(DATA, &Unobserved).unwrap()
}

fn codes(report: &Report) -> Vec<&'static str> {
    report.findings.iter().map(|finding| finding.problem.code()).collect()
}

enum Place {
    Memory(MemoryDirectory),
    System(tempfile::TempDir),
}

impl Place {
    fn directory(&self) -> Box<dyn Directory> {
        match self {
            Self::Memory(root) => root.open_directory(b".").unwrap(),
            Self::System(path) => Box::new(OsDirectory::open(path.path()).unwrap()),
        }
    }

    fn tree(&self) -> Box<dyn Directory> {
        self.directory().open_directory(TREE_NAME.as_bytes()).unwrap()
    }
}

/// Vaults in memory and on the disk, with something of everything.
fn places() -> [Place; 2] {
    let places =
        [Place::Memory(MemoryDirectory::new()), Place::System(tempfile::tempdir().unwrap())];
    for place in &places {
        format(&*place.directory());
        let fs = mount(place.directory());
        fill(&fs);
        fs.close().unwrap();
    }
    places
}

fn fill(fs: &FileSystem) {
    let file = |parent, name: &[u8], content: &[u8]| {
        let ino = fs.create(&CALLER, parent, name, 0o644).unwrap().attributes.ino;
        fs.write(ino, 0, content).unwrap();
        fs.release(ino);
        ino
    };
    let below = fs.make_directory(&CALLER, ROOT, b"below", 0o755).unwrap().attributes.ino;
    let content = file(ROOT, b"content", &[7; 9000]);
    file(below, b"within", &[8; 5000]);
    file(below, &[b'n'; 255], b"long name");
    file(ROOT, b"empty", b"");
    let sparse = file(ROOT, b"sparse", b"begin");
    fs.write(sparse, 3_000_000, b"end").unwrap();
    fs.fallocate(content, FallocateMode::PunchHole, 4096, 4096).unwrap();
    fs.hard_link(content, below, b"again").unwrap();
    fs.make_symlink(&CALLER, ROOT, b"link", b"content").unwrap();
    fs.make_symlink(&CALLER, ROOT, b"far", &[b't'; 4095]).unwrap();
    fs.make_node(&CALLER, ROOT, b"pipe", libc::S_IFIFO | 0o600, 0).unwrap();
    fs.set_xattr(content, b"user.small", b"value", XattrMode::Any).unwrap();
    fs.set_xattr(content, b"user.large", &[9; 5000], XattrMode::Any).unwrap();
    let grown = SetAttributes { size: Some(100_000), ..SetAttributes::default() };
    fs.set_attributes(file(ROOT, b"grown", b"x"), &grown).unwrap();
}

/// The entry of `tree` that a plain name has.
fn stored(place: &Place, plain: &[u8]) -> Vec<u8> {
    let session = session(place.directory());
    let record = place.tree().read_link(RECORD_NAME).unwrap();
    let id = session.codecs.directories.decode(&record).unwrap();
    session.codecs.names(id).encrypt(plain).unwrap().entry().to_vec()
}

#[test]
fn a_vault_with_everything_in_it_is_clean() {
    for place in places() {
        let report = check(place.directory());
        assert_eq!(report.findings, []);
        assert_eq!((report.totals.directories, report.totals.files), (2, 6));
        assert!(report.bytes_read > 20_000 && report.bytes_read < 60_000, "holes are skipped");
    }
}

#[test]
fn checking_changes_nothing() {
    for place in places() {
        let before = (contents(&*place.tree()), check(place.directory()).totals);
        let after = (contents(&*place.tree()), check(place.directory()).totals);
        assert_eq!(before, after);
    }
}

/// Every file below, with its bytes, and every symlink with its target.
fn contents(directory: &dyn Directory) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut found = Vec::new();
    for name in walk::list(directory).unwrap() {
        let stat = directory.stat(&name).unwrap();
        let content = match stat.kind {
            FileKind::Regular => {
                let mut bytes = vec![0; usize::try_from(stat.size).unwrap()];
                directory.open_file(&name, Access::Read).unwrap().read_at(&mut bytes, 0).unwrap();
                bytes
            }
            FileKind::Symlink => directory.read_link(&name).unwrap(),
            FileKind::Directory => {
                let below = contents(&*directory.open_directory(&name).unwrap());
                found.extend(below);
                continue;
            }
            _ => Vec::new(),
        };
        found.push((name, content));
    }
    found
}

/// Flips one bit in each block's worth of every file, and one character in every symlink.
#[test]
fn a_bit_flipped_anywhere_is_found() {
    let [place, _] = places();
    let mut flips = 0;
    for name in [TREE_NAME, OVERFLOW_NAME] {
        let directory = place.directory().open_directory(name.as_bytes()).unwrap();
        flips += flip_below(&place, &*directory);
    }
    assert!(flips > 50, "{flips}");
}

fn assert_found(place: &Place, what: &str) {
    let report = check(place.directory());
    assert!(report.damage().next().is_some(), "{what}: {:?}", report.findings);
}

fn flip_below(place: &Place, directory: &dyn Directory) -> usize {
    let mut flips = 0;
    for name in walk::list(directory).unwrap() {
        let shown = String::from_utf8_lossy(&name).into_owned();
        let stat = directory.stat(&name).unwrap();
        match stat.kind {
            FileKind::Regular => {
                let file = directory.open_file(&name, Access::ReadWrite).unwrap();
                // A few near the borders of header and blocks, and one in every stretch.
                let near = [0, 3, 4, 20, 35, 36, 47, 48, stat.size.saturating_sub(1)];
                let step = (stat.size / 5).max(997);
                let spread = (1..5).map(|number| number * step);
                for at in near.into_iter().chain(spread).filter(|at| *at < stat.size) {
                    let mut byte = [0];
                    file.read_at(&mut byte, at).unwrap();
                    file.write_at(&[byte[0] ^ 0x10], at).unwrap();
                    assert_found(place, &format!("byte {at} of {shown}"));
                    file.write_at(&byte, at).unwrap();
                    flips += 1;
                }
            }
            FileKind::Symlink => {
                let target = directory.read_link(&name).unwrap();
                for at in [0, 22, target.len() / 2, target.len() - 1] {
                    let mut changed = target.clone();
                    changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
                    directory.unlink(&name).unwrap();
                    directory.make_symlink(&changed, &name).unwrap();
                    assert_found(place, &format!("character {at} of {shown}"));
                    directory.unlink(&name).unwrap();
                    directory.make_symlink(&target, &name).unwrap();
                    flips += 1;
                }
            }
            FileKind::Directory => {
                flips += flip_below(place, &*directory.open_directory(&name).unwrap());
            }
            _ => {}
        }
    }
    flips
}

#[test]
fn litter_is_noted_and_removed() {
    for place in places() {
        let (vault, tree) = (place.directory(), place.tree());
        let overflow = vault.open_directory(OVERFLOW_NAME.as_bytes()).unwrap();
        let sidecar = [&b"strongroom.name."[..], &[b'A'; 43]].concat();
        tree.make_symlink(b"whatever", &sidecar).unwrap();
        tree.make_directory(b"strongroom.tmp.half", 0o700).unwrap();
        tree.make_directory(b"strongroom.tmp.full", 0o700).unwrap();
        let full = tree.open_directory(b"strongroom.tmp.full").unwrap();
        full.create_file(b"somebody's", 0o600).unwrap();
        overflow.create_file(b"AAAAAAAAAAAAAAAAAAAAAA", 0o600).unwrap();
        vault.create_file(b"state.new", 0o600).unwrap();

        let session = session(place.directory());
        let report = session.check(Options::default(), &Unobserved).unwrap();
        let mut found = codes(&report);
        found.sort_unstable();
        let leftover = "leftover-directory";
        assert_eq!(
            found,
            [leftover, leftover, "leftover-file", "orphan-overflow", "orphan-sidecar"]
        );
        assert_eq!(report.damage().count(), 0);
        let outcomes = session.repair(&report, &Unobserved).unwrap();
        assert_eq!(outcomes.len(), 4, "what holds something stays: {outcomes:?}");
        assert!(outcomes.iter().all(|outcome| outcome.failure.is_none()), "{outcomes:?}");
        let again = session.check(DATA, &Unobserved).unwrap();
        assert_eq!(codes(&again), [leftover]);
        assert!(full.stat(b"somebody's").is_ok());
    }
}

#[test]
fn overflow_pieces_stay_while_something_is_damaged() {
    let [place, _] = places();
    let overflow = place.directory().open_directory(OVERFLOW_NAME.as_bytes()).unwrap();
    overflow.create_file(b"AAAAAAAAAAAAAAAAAAAAAA", 0o600).unwrap();
    let link = stored(&place, b"link");
    place.tree().unlink(&link).unwrap();
    place.tree().make_symlink(b"damaged", &link).unwrap();
    let session = session(place.directory());
    let report = session.check(Options::default(), &Unobserved).unwrap();
    assert!(codes(&report).contains(&"orphan-overflow"));
    session.repair(&report, &Unobserved).unwrap();
    assert!(overflow.stat(b"AAAAAAAAAAAAAAAAAAAAAA").is_ok());
}

#[test]
fn a_file_that_was_cut_is_damage_and_is_not_touched() {
    for place in places() {
        let name = stored(&place, b"grown");
        let file = place.tree().open_file(&name, Access::ReadWrite).unwrap();
        let cut = 36 + u64::try_from(CIPHER_BLOCK_SIZE).unwrap() + 10;
        file.set_len(cut).unwrap();
        let session = session(place.directory());
        let report = session.check(DATA, &Unobserved).unwrap();
        assert_eq!(codes(&report), ["size"]);
        assert_eq!(session.repair(&report, &Unobserved).unwrap().len(), 0);
        assert_eq!(file.stat().unwrap().size, cut);
    }
}

#[test]
fn foreign_entries_and_their_content_stay() {
    for place in places() {
        place.tree().create_file(b"lost+found", 0o600).unwrap();
        let session = session(place.directory());
        let report = session.check(DATA, &Unobserved).unwrap();
        assert_eq!(codes(&report), ["name"]);
        session.repair(&report, &Unobserved).unwrap();
        assert!(place.tree().stat(b"lost+found").is_ok());
    }
}

#[test]
fn ranges_of_lost_blocks_are_joined_and_end_with_the_file() {
    assert_eq!(data::byte_ranges(&[0, 1, 3], 12_300), [0..8192, 12_288..12_300]);
    assert!(data::byte_ranges(&[], 100).is_empty());
}

/// What a session of an application does, made durable here and there.
fn workload(recorder: &CrashRecorder) {
    let fs = mount(recorder.root());
    let file = fs.lookup(ROOT, b"content").unwrap().attributes.ino;
    let below = fs.lookup(ROOT, b"below").unwrap().attributes.ino;
    fs.write(file, 100, &[1; 5000]).unwrap();
    fs.sync(file, true).unwrap();
    let fresh = fs.create(&CALLER, below, &[b'f'; 200], 0o600).unwrap().attributes.ino;
    fs.write(fresh, 0, &[2; 6000]).unwrap();
    fs.make_directory(&CALLER, ROOT, b"made", 0o700).unwrap();
    fs.make_symlink(&CALLER, ROOT, b"farther", &[b'u'; 4000]).unwrap();
    fs.sync(fresh, false).unwrap();
    let made = fs.lookup(ROOT, b"made").unwrap().attributes.ino;
    let deep = fs.make_directory(&CALLER, made, b"deeper", 0o700).unwrap().attributes.ino;
    let deepest = fs.create(&CALLER, deep, b"deepest", 0o600).unwrap().attributes.ino;
    fs.write(deepest, 0, &[6; 100]).unwrap();
    fs.sync(deepest, true).unwrap();
    fs.write(file, 8000, &[3; 3000]).unwrap();
    fs.write(fresh, 5000, &[4; 2000]).unwrap();
    fs.set_xattr(file, b"user.large", &[5; 6000], XattrMode::Any).unwrap();
    fs.rename(below, &[b'f'; 200], ROOT, &[b'g'; 210], RenameMode::Replace).unwrap();
    fs.sync_directory(ROOT).unwrap();
    fs.unlink(ROOT, b"far").unwrap();
    fs.sync(file, true).unwrap();
    drop(fs);
}

/// Every disk that a power cut could leave has no damage: before recovery, after it, and after the
/// repair, which leaves nothing to be noted.
#[test]
fn no_power_cut_leaves_damage() {
    let base = CrashRecorder::new();
    format(&*base.root());
    let fs = mount(base.root());
    fill(&fs);
    fs.close().unwrap();
    let recorder = CrashRecorder::on(&base.durable());
    workload(&recorder);
    let mut unclean = 0;
    for metadata in [Metadata::Ordered, Metadata::PerFile] {
        let mut sampler = Sampler::new(11, 4);
        let mut timeline = recorder.timeline(metadata);
        for at in 0..=recorder.operation_count() {
            timeline.advance(at);
            for image in timeline.images(&mut sampler) {
                let context = format!("{metadata:?}, cut at {at}\n{}", image.description);
                let session = session(image.directory.open_directory(b".").unwrap());
                let report = session.check(DATA, &Unobserved).unwrap();
                assert_eq!(report.damage().next(), None, "{context}");
                unclean += usize::from(codes(&report).contains(&"unclean-end"));
                for outcome in session.repair(&report, &Unobserved).unwrap() {
                    assert_eq!(outcome.failure, None, "{:?} {context}", outcome.finding);
                }
                let again = session.check(DATA, &Unobserved).unwrap();
                assert_eq!(again.damage().next(), None, "repaired: {context}");
                assert!(!codes(&again).contains(&"unclean-end"), "{context}");
                assert!(!codes(&again).contains(&"torn-blocks"), "{context}");
            }
        }
    }
    assert!(unclean > 100, "{unclean}");
}
