//! What a vault shows after somebody without its key changed what lies on the disk: an I/O error
//! where it was changed, what was written everywhere else, and never anything made up.
//!
//! What an attacker can do unnoticed is here too, as `docs/threat-model.md` admits it: put holes,
//! shorter files and old versions in the place of what is there, and exchange whole files of a
//! directory.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

use std::collections::{BTreeMap, BTreeSet};

use strongroom::backing::memory::MemoryDirectory;
use strongroom::backing::{Access, Directory, FileKind, RawEntry, RenameMode, XattrMode};
use strongroom::crypto::MasterKey;
use strongroom::format::directory::RECORD_NAME;
use strongroom::format::header::HEADER_LEN;
use strongroom::format::layout::{BLOCK_SIZE, BlockIndex, CIPHER_BLOCK_SIZE, plain_size};
use strongroom::vault::{
    Caller, FileSystem, FilesystemOptions, InodeNumber, OVERFLOW_NAME, SetAttributes, TREE_NAME,
};

const CALLER: Caller = Caller { uid: 0, gid: 0, umask: 0 };
const LONG_A: [u8; 255] = [b'l'; 255];
const LONG_B: [u8; 200] = [b'm'; 200];

type Bytes = Vec<u8>;

/// What one file shows. Errors are errnos.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    kind: FileKind,
    size: u64,
    /// A file's blocks, read one by one.
    blocks: Vec<Result<Bytes, i32>>,
    target: Option<Result<Bytes, i32>>,
    names: Option<Result<BTreeSet<Bytes>, i32>>,
    xattrs: Result<BTreeMap<Bytes, Result<Bytes, i32>>, i32>,
}

type Tree = BTreeMap<Bytes, Seen>;

/// A vault of a few files of every kind, whose ciphertext can be changed.
struct Tampered {
    vault: MemoryDirectory,
    /// Where each plain path lies below the vault directory.
    raw: BTreeMap<Bytes, Bytes>,
    before: Tree,
}

fn master() -> MasterKey {
    MasterKey::from_bytes(&[9; 32])
}

fn open(vault: &MemoryDirectory, read_only: bool) -> FileSystem {
    let options = FilesystemOptions { read_only, ..FilesystemOptions::default() };
    let directory = vault.open_directory(b".").unwrap();
    FileSystem::open(directory, &master(), options, "a test").unwrap()
}

/// The bytes of a file, such that no two blocks of any are the same.
fn content(seed: u8, len: usize) -> Bytes {
    (0..len)
        .map(|at| seed ^ (at % 253) as u8 ^ ((at / BLOCK_SIZE) as u8).wrapping_mul(31))
        .collect()
}

impl Tampered {
    fn new() -> Self {
        let vault = MemoryDirectory::new();
        for name in [TREE_NAME, OVERFLOW_NAME] {
            vault.make_directory(name.as_bytes(), 0o700).unwrap();
        }
        FileSystem::format(&vault, &master()).unwrap();
        let fs = open(&vault, false);
        let root = InodeNumber::ROOT;
        let directory = |parent, name: &[u8]| {
            fs.make_directory(&CALLER, parent, name, 0o755).unwrap().attributes.ino
        };
        let file = |parent, name: &[u8], bytes: &[u8]| {
            let ino = fs.create(&CALLER, parent, name, 0o644).unwrap().attributes.ino;
            fs.write(ino, 0, bytes).unwrap();
            ino
        };
        let set = |ino, name: &[u8], len| {
            fs.set_xattr(ino, name, &content(3, len), XattrMode::Any).unwrap();
        };
        let documents = directory(root, b"documents");
        let other = directory(root, b"other");
        directory(documents, b"deep");
        file(root, b"empty", b"");
        let note = file(documents, b"note", b"a secret");
        file(documents, b"blocks", &content(1, 2 * BLOCK_SIZE + 100));
        file(other, b"blocks", &content(2, 2 * BLOCK_SIZE + 100));
        let holes = file(other, b"holes", &content(4, 10));
        fs.write(holes, 3 * BLOCK_SIZE as u64, &content(5, 10)).unwrap();
        fs.hard_link(note, other, b"the same note").unwrap();
        file(documents, &LONG_A, b"under a long name");
        file(documents, &LONG_B, b"under another long name");
        fs.make_symlink(&CALLER, root, b"link", b"documents/note").unwrap();
        fs.make_symlink(&CALLER, root, b"far", &content(7, 4000)).unwrap();
        set(note, b"user.short", 20);
        set(note, b"user.large", 5000);
        set(holes, &[&b"user."[..], &[b'n'; 240]].concat(), 10);
        set(holes, b"user.plain", 10);
        fs.close().unwrap();
        let mut tampered = Self { vault, raw: BTreeMap::new(), before: Tree::new() };
        tampered.before = tampered.see();
        tampered.find_raw();
        tampered
    }

    /// An independent copy.
    fn copy(&self) -> Self {
        Self { vault: self.vault.copy(), raw: self.raw.clone(), before: self.before.clone() }
    }

    /// Everything that can be seen now, through a mount that changes nothing.
    fn see(&self) -> Tree {
        see(&open(&self.vault, true))
    }

    /// Matches plain paths and ciphertext paths by inode number.
    fn find_raw(&mut self) {
        let mut by_number = BTreeMap::new();
        let mut directories = vec![TREE_NAME.as_bytes().to_vec()];
        while let Some(directory) = directories.pop() {
            for (name, kind, ino) in list_raw(&*self.directory(&directory)) {
                let path = join(&directory, &name);
                if kind == FileKind::Directory {
                    directories.push(path.clone());
                }
                by_number.entry(ino).or_insert_with(Vec::new).push(path);
            }
        }
        let fs = open(&self.vault, true);
        for path in self.before.keys() {
            let Some(ino) = find(&fs, path) else { continue };
            if ino == InodeNumber::ROOT {
                self.raw.insert(path.clone(), TREE_NAME.as_bytes().to_vec());
                continue;
            }
            // Names of one file in several directories: the one below the plain directory's own.
            let parent = self.raw[parent(path)].clone();
            let found = by_number[&ino.0].iter().find(|raw| self::parent(raw) == parent).unwrap();
            self.raw.insert(path.clone(), found.clone());
        }
    }

    /// The ciphertext directory at a path below the vault directory.
    fn directory(&self, path: &[u8]) -> Box<dyn Directory> {
        let mut at = self.vault.open_directory(b".").unwrap();
        for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
            at = at.open_directory(name).unwrap();
        }
        at
    }

    /// The directory that holds a ciphertext path, and the entry in it.
    fn place<'a>(&self, raw: &'a [u8]) -> (Box<dyn Directory>, &'a [u8]) {
        (self.directory(parent(raw)), base(raw))
    }

    fn read(&self, raw: &[u8]) -> Bytes {
        let (directory, entry) = self.place(raw);
        let file = directory.open_file(entry, Access::Read).unwrap();
        let mut bytes = vec![0; file.stat().unwrap().size as usize];
        assert_eq!(file.read_at(&mut bytes, 0).unwrap(), bytes.len());
        bytes
    }

    /// Replaces all of a ciphertext file.
    fn write(&self, raw: &[u8], bytes: &[u8]) {
        let (directory, entry) = self.place(raw);
        let file = directory.open_file(entry, Access::ReadWrite).unwrap();
        file.set_len(0).unwrap();
        file.write_at(bytes, 0).unwrap();
        file.set_len(bytes.len() as u64).unwrap();
    }

    /// Replaces the target of a ciphertext symlink.
    fn relink(&self, raw: &[u8], target: &[u8]) {
        let (directory, entry) = self.place(raw);
        directory.unlink(entry).unwrap();
        directory.make_symlink(target, entry).unwrap();
    }

    /// What is seen now that was not before, other than at `places` (and below); as text, so that
    /// an assertion tells it.
    fn changed_elsewhere(&self, places: &[&[u8]]) -> Vec<String> {
        self.changed_elsewhere_but(places, &[])
    }

    /// The same, where the directories `lists` may list other names.
    fn changed_elsewhere_but(&self, places: &[&[u8]], lists: &[&[u8]]) -> Vec<String> {
        let now = self.see();
        let paths: BTreeSet<&Bytes> = self.before.keys().chain(now.keys()).collect();
        let is_at = |path: &[u8]| {
            places.iter().any(|place| {
                path == *place || path.strip_prefix(*place).is_some_and(|rest| rest[0] == b'/')
            })
        };
        let shown = |tree: &Tree, path: &Bytes| {
            let mut seen = tree.get(path).cloned()?;
            if lists.contains(&path.as_slice()) {
                seen.names = None;
            }
            Some(seen)
        };
        paths
            .into_iter()
            .filter(|path| !is_at(path))
            .map(|path| (path, shown(&now, path), shown(&self.before, path)))
            .filter(|(_, found, before)| found != before)
            .map(|(path, found, before)| {
                format!("{}: {found:?}, was {before:?}", path.escape_ascii())
            })
            .collect()
    }

    /// Panics where a file shows what it never held: every block is what it was, or an error.
    fn assert_nothing_made_up(&self, path: &[u8]) {
        let now = self.see();
        let Some(found) = now.get(path) else { return };
        let before = &self.before[path];
        assert_eq!(found.kind, before.kind);
        for (index, (block, was)) in found.blocks.iter().zip(&before.blocks).enumerate() {
            match (block, was) {
                (Ok(bytes), Ok(was)) => assert!(
                    was.starts_with(bytes),
                    "block {index} of {} is made up",
                    path.escape_ascii()
                ),
                (Err(errno), _) => assert_eq!(*errno, libc::EIO),
                (Ok(_), Err(_)) => panic!("it was readable before"),
            }
        }
        if let (Some(Ok(target)), Some(was)) = (&found.target, &before.target) {
            assert_eq!(Ok(target), was.as_ref());
        }
        if let (Ok(found), Ok(before)) = (&found.xattrs, &before.xattrs) {
            for (name, value) in found {
                assert!(
                    *value == Err(libc::EIO) || before.get(name) == Some(value),
                    "an attribute"
                );
            }
        }
    }
}

fn parent(path: &[u8]) -> &[u8] {
    &path[..path.iter().rposition(|byte| *byte == b'/').unwrap_or(0)]
}

fn base(path: &[u8]) -> &[u8] {
    &path[path.iter().rposition(|byte| *byte == b'/').map_or(0, |at| at + 1)..]
}

fn join(directory: &[u8], name: &[u8]) -> Bytes {
    if directory.is_empty() { name.to_vec() } else { [directory, b"/", name].concat() }
}

fn list_raw(directory: &dyn Directory) -> Vec<(Bytes, FileKind, u64)> {
    let mut found = Vec::new();
    directory
        .read_entries(0, &mut |entry: RawEntry<'_>| {
            if entry.name != b"." && entry.name != b".." {
                found.push((entry.name.to_vec(), entry.kind.unwrap(), entry.ino));
            }
            true
        })
        .unwrap();
    found
}

fn find(fs: &FileSystem, path: &[u8]) -> Option<InodeNumber> {
    let mut at = InodeNumber::ROOT;
    for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
        at = fs.lookup(at, name).ok()?.attributes.ino;
    }
    Some(at)
}

/// Everything that a filesystem shows. Paths begin with `/`; the root's is empty.
fn see(fs: &FileSystem) -> Tree {
    let mut tree = Tree::new();
    let mut left = vec![(Bytes::new(), InodeNumber::ROOT)];
    while let Some((path, ino)) = left.pop() {
        let attributes = match fs.attributes(ino) {
            Ok(attributes) => attributes,
            Err(error) => panic!("{}: {error}", path.escape_ascii()),
        };
        let mut seen = Seen {
            kind: attributes.kind,
            size: attributes.size,
            blocks: Vec::new(),
            target: None,
            names: None,
            xattrs: see_xattrs(fs, ino),
        };
        match attributes.kind {
            FileKind::Regular => seen.blocks = see_blocks(fs, ino, attributes.size),
            FileKind::Symlink => {
                seen.target = Some(fs.read_link(ino).map_err(|error| error.errno()));
            }
            FileKind::Directory => {
                let names = see_names(fs, ino);
                for name in names.iter().flatten() {
                    match fs.lookup(ino, name) {
                        Ok(entry) => {
                            let path = [&path[..], b"/", name].concat();
                            left.push((path, entry.attributes.ino));
                        }
                        Err(error) => assert_eq!(error.errno(), libc::EIO, "{error}"),
                    }
                }
                seen.size = 0;
                seen.names = Some(names);
            }
            _ => {}
        }
        tree.insert(path, seen);
    }
    tree
}

fn see_blocks(fs: &FileSystem, ino: InodeNumber, size: u64) -> Vec<Result<Bytes, i32>> {
    (0..size.div_ceil(BLOCK_SIZE as u64))
        .map(|index| {
            let mut block = vec![0xee; BLOCK_SIZE];
            let read = fs
                .read(ino, index * BLOCK_SIZE as u64, &mut block)
                .map_err(|error| error.errno())?;
            block.truncate(read);
            Ok(block)
        })
        .collect()
}

fn see_names(fs: &FileSystem, ino: InodeNumber) -> Result<BTreeSet<Bytes>, i32> {
    let mut names = BTreeSet::new();
    fs.read_directory(ino, 0, true, &mut |entry| {
        if entry.name != b"." && entry.name != b".." {
            names.insert(entry.name.to_vec());
        }
        true
    })
    .map_err(|error| error.errno())?;
    Ok(names)
}

fn see_xattrs(
    fs: &FileSystem,
    ino: InodeNumber,
) -> Result<BTreeMap<Bytes, Result<Bytes, i32>>, i32> {
    let names = fs.list_xattr(ino).map_err(|error| error.errno())?;
    let value = |name: &Bytes| fs.get_xattr(ino, name).map_err(|error| error.errno());
    Ok(names.into_iter().map(|name| (name.clone(), value(&name))).collect())
}

/// The regular files with content.
const FILES: [&[u8]; 4] =
    [b"/documents/note", b"/documents/blocks", b"/other/blocks", b"/other/holes"];

/// The other names of what has several.
fn also(path: &[u8]) -> &[u8] {
    if path == b"/documents/note" { b"/other/the same note" } else { path }
}

#[test]
fn the_vault_is_what_the_tests_take_it_for() {
    let vault = Tampered::new();
    assert_eq!(vault.changed_elsewhere(&[]), [""; 0]);
    assert_eq!(vault.before.len(), 14);
    for seen in vault.before.values() {
        assert!(seen.blocks.iter().all(Result::is_ok));
        assert!(seen.xattrs.as_ref().unwrap().values().all(Result::is_ok));
    }
    assert_eq!(vault.before[&b"/other/holes"[..]].blocks.len(), 4);
    assert_eq!(list_raw(&*vault.directory(OVERFLOW_NAME.as_bytes())).len(), 2);
}

#[test]
fn a_flipped_bit_in_a_file_costs_one_block() {
    let vault = Tampered::new();
    for path in FILES {
        let raw = &vault.raw[path];
        let whole = vault.read(raw);
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << (at % 8);
            vault.write(raw, &bytes);
            assert_eq!(vault.changed_elsewhere(&[path, also(path)]), [""; 0], "byte {at}");
            let now = vault.see();
            let (found, before) = (&now[path], &vault.before[path]);
            assert_eq!(found.size, before.size);
            for (index, (block, was)) in found.blocks.iter().zip(&before.blocks).enumerate() {
                let hit = at < HEADER_LEN || (at - HEADER_LEN) / CIPHER_BLOCK_SIZE == index;
                let expected = if hit { &Err(libc::EIO) } else { was };
                assert_eq!(block, expected, "byte {at}, block {index}");
            }
        }
        vault.write(raw, &whole);
    }
    assert_eq!(vault.changed_elsewhere(&[]), [""; 0], "all was put back");
}

#[test]
fn a_file_cut_at_any_byte_shows_a_part_of_it_or_errors() {
    let vault = Tampered::new();
    for path in [&b"/documents/note"[..], b"/documents/blocks"] {
        let raw = &vault.raw[path];
        let whole = vault.read(raw);
        for len in 0..whole.len() {
            vault.write(raw, &whole[..len]);
            assert_eq!(vault.changed_elsewhere(&[path, also(path)]), [""; 0], "{len} bytes");
            vault.assert_nothing_made_up(path);
            assert_eq!(vault.see()[path].size, plain_size(len as u64));
        }
        vault.write(raw, &whole);
    }
}

#[test]
fn what_is_appended_reads_as_zeros_or_errors() {
    let vault = Tampered::new();
    let path = &b"/documents/blocks"[..];
    let raw = &vault.raw[path];
    let whole = vault.read(raw);
    for (len, byte) in [(1, 0), (27, 0), (28, 0), (29, 0), (4124, 0), (9000, 0), (5000, 1), (20, 7)]
    {
        vault.write(raw, &[&whole[..], &vec![byte; len]].concat());
        assert_eq!(vault.changed_elsewhere(&[path]), [""; 0]);
        let found = &vault.see()[path];
        let before = &vault.before[path];
        assert_eq!(found.blocks[..2], before.blocks[..2]);
        for block in &found.blocks[2..] {
            let zeros = block.as_ref().is_ok_and(|block| block.iter().all(|byte| *byte == 0));
            assert!(zeros || *block == Err(libc::EIO), "{len} bytes of {byte}");
        }
    }
}

/// The cipher blocks of a file, one by one, after its header.
fn blocks(whole: &[u8]) -> (Bytes, Vec<Bytes>) {
    let (header, rest) = whole.split_at(HEADER_LEN);
    (header.to_vec(), rest.chunks(CIPHER_BLOCK_SIZE).map(<[u8]>::to_vec).collect())
}

fn joined((header, blocks): &(Bytes, Vec<Bytes>)) -> Bytes {
    [header.clone(), blocks.concat()].concat()
}

#[test]
fn a_block_in_another_place_is_an_error() {
    let vault = Tampered::new();
    let (mine, others) = (&b"/documents/blocks"[..], &b"/other/blocks"[..]);
    let (my_blocks, other_blocks) =
        (blocks(&vault.read(&vault.raw[mine])), blocks(&vault.read(&vault.raw[others])));
    let expect = |hit: &[usize], what: &str| {
        assert_eq!(vault.changed_elsewhere(&[mine]), [""; 0], "{what}");
        let found = &vault.see()[mine].blocks;
        for (index, was) in vault.before[mine].blocks.iter().enumerate() {
            let expected = if hit.contains(&index) { &Err(libc::EIO) } else { was };
            assert_eq!(&found[index], expected, "{what}, block {index}");
        }
    };
    let mut swapped = my_blocks.clone();
    swapped.1.swap(0, 1);
    vault.write(&vault.raw[mine], &joined(&swapped));
    expect(&[0, 1], "two blocks of a file exchanged");

    let mut doubled = my_blocks.clone();
    doubled.1[1] = doubled.1[0].clone();
    vault.write(&vault.raw[mine], &joined(&doubled));
    expect(&[1], "a block twice");

    for index in 0..3 {
        let mut mixed = my_blocks.clone();
        mixed.1[index] = other_blocks.1[index].clone();
        vault.write(&vault.raw[mine], &joined(&mixed));
        expect(&[index], "a block of another file");
    }
    let mut headed = my_blocks.clone();
    headed.0 = other_blocks.0.clone();
    vault.write(&vault.raw[mine], &joined(&headed));
    expect(&[0, 1, 2], "the header of another file");

    // A part of a block, zeroed, is no hole.
    let mut gnawed = my_blocks.clone();
    gnawed.1[1][2000..].fill(0);
    vault.write(&vault.raw[mine], &joined(&gnawed));
    expect(&[1], "half a block of zeros");
}

#[test]
fn a_name_in_another_directory_is_not_shown() {
    let original = Tampered::new();
    for path in original.raw.keys().filter(|path| !path.is_empty()) {
        for target in [&b""[..], b"/documents", b"/other", b"/documents/deep"] {
            if target.starts_with(path) || parent(path) == target {
                continue;
            }
            for with_sidecar in [false, true] {
                let vault = original.copy();
                let (from, entry) = vault.place(&vault.raw[path]);
                let to = vault.directory(&vault.raw[target]);
                from.rename(entry, &*to, entry, RenameMode::NoReplace).unwrap();
                if let (Some(sidecar), true) = (sidecar(entry), with_sidecar) {
                    from.rename(&sidecar, &*to, &sidecar, RenameMode::NoReplace).unwrap();
                }
                // It is gone from where it was, and nowhere else.
                let changed = vault.changed_elsewhere_but(&[path], &[parent(path)]);
                assert_eq!(changed, [""; 0], "{}", path.escape_ascii());
                let now = vault.see();
                assert!(!now.contains_key(path));
                let mut names = vault.before[parent(path)].names.clone().unwrap().unwrap();
                names.remove(base(path));
                assert_eq!(now[parent(path)].names, Some(Ok(names)));
            }
        }
    }
}

/// The sidecar of a ciphertext entry, if that is a long name's.
fn sidecar(entry: &[u8]) -> Option<Bytes> {
    let hash = entry.strip_prefix(b"strongroom.long.")?;
    Some([&b"strongroom.name."[..], hash].concat())
}

#[test]
fn a_changed_name_is_not_shown() {
    let original = Tampered::new();
    for path in original.raw.keys().filter(|path| !path.is_empty()) {
        let raw = &original.raw[path];
        let entry = base(raw);
        for at in 0..entry.len() {
            let mut name = entry.to_vec();
            name[at] = if name[at] == b'A' { b'B' } else { b'A' };
            let vault = original.copy();
            let (directory, entry) = vault.place(raw);
            directory.rename(entry, &*directory, &name, RenameMode::NoReplace).unwrap();
            let changed = vault.changed_elsewhere_but(&[path], &[parent(path)]);
            assert_eq!(changed, [""; 0], "{}, byte {at}", path.escape_ascii());
            assert!(!vault.see().contains_key(path), "{}, byte {at}", path.escape_ascii());
        }
    }
}

#[test]
fn a_long_name_without_its_sidecar_costs_that_name_alone() {
    let original = Tampered::new();
    let path = join(b"/documents", &LONG_A);
    let raw = &original.raw[&path];
    let sidecar_path = join(parent(raw), &sidecar(base(raw)).unwrap());
    let other = &original.raw[&join(b"/documents", &LONG_B)];
    let other_sidecar = join(parent(other), &sidecar(base(other)).unwrap());
    let target = original.place(&sidecar_path).0.read_link(base(&sidecar_path)).unwrap();
    let other_target = original.place(&other_sidecar).0.read_link(base(&other_sidecar)).unwrap();
    let check = |vault: &Tampered, what: &str| {
        let changed = vault.changed_elsewhere_but(&[&path], &[b"/documents"]);
        assert_eq!(changed, [""; 0], "{what}");
        let mut names = vault.before[&b"/documents"[..]].names.clone().unwrap().unwrap();
        names.remove(&LONG_A[..]);
        assert_eq!(vault.see()[&b"/documents"[..]].names, Some(Ok(names)), "{what}");
        // The name itself still leads to the file: only the listing needs the sidecar.
        let fs = open(&vault.vault, true);
        let ino = find(&fs, &path).unwrap();
        let mut bytes = vec![0; 100];
        let read = fs.read(ino, 0, &mut bytes).unwrap();
        assert_eq!(&bytes[..read], b"under a long name", "{what}");
    };

    let vault = original.copy();
    let (directory, entry) = vault.place(&sidecar_path);
    directory.unlink(entry).unwrap();
    check(&vault, "deleted");

    for at in 0..target.len() {
        let vault = original.copy();
        let mut changed = target.clone();
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        vault.relink(&sidecar_path, &changed);
        check(&vault, &format!("byte {at}"));
    }
    for (changed, what) in [
        (&other_target[..], "another's"),
        (b"x", "short"),
        (b"../../../etc/passwd", "a path"),
        (b"\xff\xfe", "no text"),
    ] {
        let vault = original.copy();
        vault.relink(&sidecar_path, changed);
        check(&vault, what);
    }
    let vault = original.copy();
    let (directory, entry) = vault.place(&sidecar_path);
    directory.unlink(entry).unwrap();
    directory.create_file(entry, 0o600).unwrap();
    check(&vault, "no symlink");
}

#[test]
fn a_damaged_directory_record_costs_that_directory() {
    let original = Tampered::new();
    let record = |path: &[u8]| join(&original.raw[path], RECORD_NAME);
    let target = |path: &[u8]| original.place(&record(path)).0.read_link(RECORD_NAME).unwrap();
    let path = &b"/documents"[..];
    let check = |vault: &Tampered, what: &str| {
        assert_eq!(vault.changed_elsewhere(&[path]), [""; 0], "{what}");
        assert_eq!(vault.see()[path].names, Some(Err(libc::EIO)), "{what}");
        let fs = open(&vault.vault, true);
        let ino = find(&fs, path).unwrap();
        assert_eq!(fs.lookup(ino, b"note").unwrap_err().errno(), libc::EIO, "{what}");
    };

    let vault = original.copy();
    vault.directory(&vault.raw[path]).unlink(RECORD_NAME).unwrap();
    check(&vault, "deleted");

    let whole = target(path);
    for at in 0..whole.len() {
        let vault = original.copy();
        let mut changed = whole.clone();
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        vault.relink(&record(path), &changed);
        check(&vault, &format!("byte {at}"));
    }
    for changed in [&b"x"[..], b"..", b"/etc/passwd", &whole[..whole.len() - 1]] {
        let vault = original.copy();
        vault.relink(&record(path), changed);
        check(&vault, "another target");
    }
    let vault = original.copy();
    let directory = vault.directory(&vault.raw[path]);
    directory.unlink(RECORD_NAME).unwrap();
    directory.create_file(RECORD_NAME, 0o600).unwrap().write_at(&whole, 0).unwrap();
    check(&vault, "no symlink");

    // The record of another directory is authentic, but no name is of that directory.
    let vault = original.copy();
    vault.relink(&record(path), &target(b"/other"));
    assert_eq!(vault.changed_elsewhere(&[path]), [""; 0]);
    assert_eq!(vault.see()[path].names, Some(Ok(BTreeSet::new())));
}

#[test]
fn a_vault_whose_root_record_is_damaged_does_not_open() {
    let vault = Tampered::new();
    let tree = vault.directory(TREE_NAME.as_bytes());
    let record = tree.read_link(RECORD_NAME).unwrap();
    for changed in [None, Some(&record[1..]), Some(b"x")] {
        let _ = tree.unlink(RECORD_NAME);
        if let Some(changed) = changed {
            tree.make_symlink(changed, RECORD_NAME).unwrap();
        }
        let directory = vault.vault.open_directory(b".").unwrap();
        let options = FilesystemOptions::default();
        let opened = FileSystem::open(directory, &master(), options, "a test");
        assert!(opened.is_err_and(|error| error.to_string().contains("record")));
    }
}

#[test]
fn a_changed_symlink_is_an_error_and_leads_nowhere_else() {
    let original = Tampered::new();
    for path in [&b"/link"[..], b"/far"] {
        let raw = &original.raw[path];
        let whole = original.place(raw).0.read_link(base(raw)).unwrap();
        let changes = (0..whole.len())
            .map(|at| {
                let mut changed = whole.clone();
                changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
                changed
            })
            .chain([b"/etc/passwd".to_vec(), b"x".to_vec(), vec![0xff; 40]])
            .chain([whole[..whole.len() - 4].to_vec()]);
        for changed in changes {
            let vault = original.copy();
            vault.relink(raw, &changed);
            let changed = vault.changed_elsewhere_but(&[path], &[]);
            assert_eq!(changed, [""; 0], "{}", path.escape_ascii());
            // Where its attributes can be read at all.
            if let Some(found) = vault.see().get(path) {
                assert_eq!(found.target, Some(Err(libc::EIO)));
            }
        }
    }
}

#[test]
fn a_damaged_overflow_file_costs_what_it_holds() {
    let original = Tampered::new();
    let overflow = OVERFLOW_NAME.as_bytes();
    for (name, kind, _) in list_raw(&*original.directory(overflow)) {
        let raw = join(overflow, &name);
        let paths: &[&[u8]] = match kind {
            FileKind::Symlink => &[b"/far"],
            _ => &[b"/documents/note", b"/other/the same note"],
        };
        let check = |vault: &Tampered, what: &str| {
            assert_eq!(vault.changed_elsewhere(paths), [""; 0], "{what}");
            vault.assert_nothing_made_up(paths[0]);
            let now = vault.see();
            match now.get(paths[0]) {
                Some(found) if kind == FileKind::Symlink => {
                    assert_eq!(found.target, Some(Err(libc::EIO)), "{what}");
                }
                Some(found) => {
                    assert_eq!(found.blocks, vault.before[paths[0]].blocks, "{what}");
                    let xattrs = found.xattrs.as_ref().unwrap();
                    assert_eq!(xattrs[&b"user.large"[..]], Err(libc::EIO), "{what}");
                    assert!(xattrs[&b"user.short"[..]].is_ok(), "{what}");
                }
                None => assert_eq!(kind, FileKind::Symlink, "{what}"),
            }
        };
        let vault = original.copy();
        vault.directory(overflow).unlink(&name).unwrap();
        check(&vault, "deleted");
        if kind == FileKind::Symlink {
            let whole = original.directory(overflow).read_link(&name).unwrap();
            for at in 0..whole.len() {
                let mut changed = whole.clone();
                changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
                let vault = original.copy();
                vault.relink(&raw, &changed);
                check(&vault, &format!("byte {at}"));
            }
        } else {
            let whole = original.read(&raw);
            let vault = original.copy();
            for at in 0..whole.len() {
                let mut changed = whole.clone();
                changed[at] ^= 1 << (at % 8);
                vault.write(&raw, &changed);
                check(&vault, &format!("byte {at}"));
            }
            for len in [0, 1, 27, 28, 29, whole.len() - 1] {
                vault.write(&raw, &whole[..len]);
                check(&vault, &format!("{len} bytes"));
            }
        }
    }
}

#[test]
fn a_changed_attribute_is_an_error_and_hides_no_other() {
    let original = Tampered::new();
    for path in [&b"/documents/note"[..], b"/other/holes"] {
        let (directory, entry) = original.place(&original.raw[path]);
        for stored in directory.list_xattr(entry).unwrap() {
            let whole = directory.get_xattr(entry, &stored).unwrap();
            let vault = original.copy();
            let (directory, entry) = vault.place(&vault.raw[path]);
            for at in 0..whole.len() {
                let mut changed = whole.clone();
                changed[at] ^= 1 << (at % 8);
                directory.set_xattr(entry, &stored, &changed, XattrMode::Replace).unwrap();
                assert_eq!(vault.changed_elsewhere(&[path, also(path)]), [""; 0]);
                vault.assert_nothing_made_up(path);
                let now = vault.see();
                assert_eq!(now[path].blocks, vault.before[path].blocks);
                let before = vault.before[path].xattrs.as_ref().unwrap();
                let found = now[path].xattrs.as_ref().expect("the others are listed");
                let right = before.iter().filter(|(name, value)| found.get(*name) == Some(*value));
                assert_eq!(right.count(), before.len() - 1, "{}, byte {at}", path.escape_ascii());
            }
        }
    }
}

#[test]
fn something_else_in_the_place_of_a_file_is_contained() {
    let original = Tampered::new();
    for (path, raw) in original.raw.iter().filter(|(path, _)| !path.is_empty()) {
        for kind in [FileKind::Fifo, FileKind::Symlink, FileKind::Directory, FileKind::Regular] {
            if original.before[path].kind == kind {
                continue;
            }
            let vault = original.copy();
            let (directory, entry) = vault.place(raw);
            directory.rename(entry, &*directory, b"strongroom.aside", RenameMode::Replace).unwrap();
            match kind {
                FileKind::Fifo => directory.make_node(entry, kind, 0o600, 0).unwrap(),
                FileKind::Symlink => directory.make_symlink(b"/etc/passwd", entry).unwrap(),
                FileKind::Directory => directory.make_directory(entry, 0o700).unwrap(),
                _ => {
                    let file = directory.create_file(entry, 0o600).unwrap();
                    file.write_at(&[1; 100], 0).unwrap();
                }
            }
            let what = format!("{kind:?} at {}", path.escape_ascii());
            assert_eq!(vault.changed_elsewhere_but(&[path], &[]), [""; 0], "{what}");
            let now = vault.see();
            let found = &now[path];
            assert!(found.blocks.iter().all(|block| *block == Err(libc::EIO)), "{what}");
            assert!(found.target.as_ref().is_none_or(|target| *target == Err(libc::EIO)), "{what}");
            assert!(found.names.as_ref().is_none_or(|names| *names == Err(libc::EIO)), "{what}");
        }
    }
}

#[test]
fn damage_does_not_keep_others_from_being_written_and_synced() {
    let vault = Tampered::new();
    let (damaged, other) = (&b"/documents/blocks"[..], &b"/other/blocks"[..]);
    let mut bytes = vault.read(&vault.raw[damaged]);
    bytes[0] ^= 1;
    vault.write(&vault.raw[damaged], &bytes);
    vault.directory(&vault.raw[&b"/documents/deep"[..]]).unlink(RECORD_NAME).unwrap();
    let fs = open(&vault.vault, false);
    for path in [damaged, b"/documents/deep"] {
        let mode = SetAttributes { mode: Some(0o700), ..SetAttributes::default() };
        fs.set_attributes(find(&fs, path).unwrap(), &mode).unwrap();
    }
    let ino = find(&fs, other).unwrap();
    fs.write(ino, 0, b"something new").unwrap();
    fs.sync_all().unwrap();
    fs.sync(ino, false).unwrap();
    fs.close().unwrap();
    let now = vault.see();
    assert!(now[other].blocks[0].as_ref().unwrap().starts_with(b"something new"));
    assert_eq!(now[damaged].blocks, [Err(libc::EIO), Err(libc::EIO), Err(libc::EIO)]);
}

/// What the threat model admits: these go unnoticed.
mod admitted {
    use super::*;

    #[test]
    fn a_block_of_zeros_reads_as_zeros() {
        let vault = Tampered::new();
        let path = &b"/documents/blocks"[..];
        let (header, mut blocks) = blocks(&vault.read(&vault.raw[path]));
        blocks[1].fill(0);
        vault.write(&vault.raw[path], &joined(&(header, blocks)));
        assert_eq!(vault.changed_elsewhere(&[path]), [""; 0]);
        let mut expected = vault.before[path].blocks.clone();
        expected[1] = Ok(vec![0; BLOCK_SIZE]);
        assert_eq!(vault.see()[path].blocks, expected);
    }

    #[test]
    fn a_file_cut_between_blocks_is_a_shorter_file() {
        let vault = Tampered::new();
        let path = &b"/documents/blocks"[..];
        let whole = vault.read(&vault.raw[path]);
        let cut = usize::try_from(BlockIndex(1).cipher_offset()).unwrap();
        vault.write(&vault.raw[path], &whole[..cut]);
        assert_eq!(vault.see()[path].blocks, vault.before[path].blocks[..1]);
    }

    #[test]
    fn an_old_version_of_a_block_can_be_put_back() {
        let vault = Tampered::new();
        let path = &b"/documents/blocks"[..];
        let old = blocks(&vault.read(&vault.raw[path]));
        let fs = open(&vault.vault, false);
        fs.write(find(&fs, path).unwrap(), 0, &[9; 2 * BLOCK_SIZE]).unwrap();
        fs.close().unwrap();
        let mut mixed = blocks(&vault.read(&vault.raw[path]));
        assert_ne!(mixed.1[0], old.1[0]);
        mixed.1[0] = old.1[0].clone();
        vault.write(&vault.raw[path], &joined(&mixed));
        let found = &vault.see()[path].blocks;
        assert_eq!(found[0], vault.before[path].blocks[0]);
        assert_eq!(found[1], Ok(vec![9; BLOCK_SIZE]));
    }

    #[test]
    fn whole_files_can_be_exchanged() {
        let vault = Tampered::new();
        let (mine, others) = (&b"/documents/blocks"[..], &b"/other/blocks"[..]);
        let (from, entry) = vault.place(&vault.raw[mine]);
        let (to, other_entry) = vault.place(&vault.raw[others]);
        from.rename(entry, &*to, other_entry, RenameMode::Exchange).unwrap();
        let now = vault.see();
        assert_eq!(now[mine].blocks, vault.before[others].blocks);
        assert_eq!(now[others].blocks, vault.before[mine].blocks);
    }
}
