//! Makes the fixture vaults of `tests/fixtures/`. They were made once and stay: every later
//! version of the program must read them, and find the damage in the damaged ones. What is
//! expected of each is stated here, not recorded from what the program does.
//!
//! `cargo run --example make_fixtures NAME…` makes the named ones anew (all but `good` from the
//! committed `good`), in a directory whose filesystem has small inodes, such as ext4's.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, missing_docs)]

use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{FileExt as _, symlink};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use strongroom::backing::XattrMode;
use strongroom::crypto::{Argon2Parameters, MasterKey, sha256};
use strongroom::format::config::SealedConfig;
use strongroom::format::directory::{DirId, DirectoryCodec, RECORD_NAME};
use strongroom::format::layout::BlockIndex;
use strongroom::format::name::{CipherName, NameCipher};
use strongroom::vault::{Caller, FileSystem, InodeNumber, NewSlot, SetAttributes, Unlocked, Vault};
use tempfile::TempDir;

#[path = "../tests/support/fixtures.rs"]
#[allow(dead_code, reason = "what only reads fixtures")]
mod fixtures;

use fixtures::{escape, hex, open_core, secrets};

const CALLER: Caller = Caller { uid: 0, gid: 0, umask: 0 };

/// A plain tree under construction, and what it is expected to look like.
struct Tree {
    fs: FileSystem,
    expected: Map<String, Value>,
}

impl Tree {
    fn directory_of<'a>(&self, path: &'a [u8]) -> (InodeNumber, &'a [u8]) {
        let mut parent = InodeNumber::ROOT;
        let mut components = path.split(|byte| *byte == b'/');
        let last = components.next_back().unwrap();
        for name in components {
            parent = self.fs.lookup(parent, name).unwrap().attributes.ino;
        }
        (parent, last)
    }

    fn expect(&mut self, path: &[u8], entry: Value) {
        self.expected.insert(escape(path), entry);
    }

    fn directory(&mut self, path: &[u8], mode: u32) -> InodeNumber {
        let (parent, name) = self.directory_of(path);
        let made = self.fs.make_directory(&CALLER, parent, name, mode).unwrap();
        self.expect(path, json!({"kind": "directory", "mode": format!("{mode:04o}")}));
        made.attributes.ino
    }

    /// A file of these pieces at these offsets, with holes between them and up to `size`.
    fn file(&mut self, path: &[u8], mode: u32, size: u64, pieces: &[(u64, &[u8])]) -> InodeNumber {
        let (parent, name) = self.directory_of(path);
        let ino = self.fs.create(&CALLER, parent, name, mode).unwrap().attributes.ino;
        let mut content = vec![0; size as usize];
        for (offset, piece) in pieces {
            self.fs.write(ino, *offset, piece).unwrap();
            content[*offset as usize..*offset as usize + piece.len()].copy_from_slice(piece);
        }
        let changes = SetAttributes { size: Some(size), ..SetAttributes::default() };
        self.fs.set_attributes(ino, &changes).unwrap();
        self.fs.release(ino);
        let entry = json!({
            "kind": "file", "mode": format!("{mode:04o}"), "links": 1, "size": size,
            "sha256": hex(&sha256(&[&content])),
        });
        self.expect(path, entry);
        ino
    }

    fn symlink(&mut self, path: &[u8], target: &[u8]) {
        let (parent, name) = self.directory_of(path);
        self.fs.make_symlink(&CALLER, parent, name, target).unwrap();
        let entry =
            json!({"kind": "symlink", "mode": "0777", "links": 1, "target": escape(target)});
        self.expect(path, entry);
    }

    fn xattr(&mut self, path: &[u8], ino: InodeNumber, name: &[u8], value: &[u8]) {
        self.fs.set_xattr(ino, name, value, XattrMode::Create).unwrap();
        self.expected[&escape(path)]["xattrs"][escape(name)] = json!(hex(value));
    }
}

/// Bytes that differ from block to block and from file to file.
fn bytes(seed: u8, length: usize) -> Vec<u8> {
    (0..length).map(|at| (at as u8).wrapping_mul(31) ^ (at >> 8) as u8 ^ seed).collect()
}

const LONG_FILE: [u8; 161] = [b'x'; 161];
const LONG_DIRECTORY: [u8; 255] = [0xe9; 255];
const LONG_TARGET: [u8; 3500] = [b't'; 3500];

fn populate(fs: FileSystem) -> Tree {
    let mut tree = Tree { fs, expected: Map::new() };
    tree.expect(b"", json!({"kind": "directory", "mode": "0700"}));
    tree.file(b"empty", 0o644, 0, &[]);
    tree.file(b"one-byte", 0o644, 1, &[(0, b"1")]);
    tree.file(b"one-block", 0o644, 4096, &[(0, &bytes(1, 4096))]);
    tree.file(b"three-blocks", 0o640, 10_000, &[(0, &bytes(2, 10_000))]);
    tree.file(b"twin", 0o640, 10_000, &[(0, &bytes(3, 10_000))]);
    let pieces: [(u64, &[u8]); 2] = [(0, &bytes(4, 4096)), (5 * 4096 + 7, b"after the hole")];
    tree.file(b"sparse", 0o600, 5 * 4096 + 21, &pieces);
    tree.file(b"hole-at-the-end", 0o600, 12_288, &[(0, b"short")]);
    let notes = tree.directory(b"notes", 0o750);
    tree.xattr(b"notes", notes, b"user.colour", b"green");
    tree.file(b"notes/diary.txt", 0o600, 11, &[(0, b"dear diary\n")]);
    tree.directory(b"notes/deeper", 0o1777);
    tree.file(b"notes/deeper/leaf", 0o4755, 4, &[(0, b"leaf")]);
    tree.directory(b"empty-directory", 0o700);
    tree.file("caf\u{e9}".as_bytes(), 0o644, 5, &[(0, b"utf-8")]);
    tree.file(b"\xff\xfe \n*?\"\\", 0o644, 3, &[(0, b"odd")]);
    tree.file(&LONG_FILE, 0o644, 4, &[(0, b"long")]);
    tree.directory(&LONG_DIRECTORY, 0o755);
    tree.file(&[&LONG_DIRECTORY[..], b"/inside"].concat(), 0o644, 6, &[(0, b"inside")]);
    tree.symlink(&[&LONG_DIRECTORY[..], b"/", &[b'l'; 200]].concat(), b"inside");
    tree.symlink(b"link", b"notes/diary.txt");
    tree.symlink(b"long-link", &LONG_TARGET);

    let hard = tree.file(b"hard-1", 0o644, 4, &[(0, b"hard")]);
    tree.fs.hard_link(hard, InodeNumber::ROOT, b"hard-2").unwrap();
    let mut entry = tree.expected["hard-1"].clone();
    entry["links"] = json!(2);
    tree.expect(b"hard-1", entry.clone());
    tree.expect(b"hard-2", entry);

    tree.fs.make_node(&CALLER, InodeNumber::ROOT, b"fifo", libc::S_IFIFO | 0o620, 0).unwrap();
    tree.expect(b"fifo", json!({"kind": "fifo", "mode": "0620", "links": 1}));

    let path = b"attributes";
    let ino = tree.file(path, 0o644, 0, &[]);
    tree.xattr(path, ino, b"user.comment", b"a value");
    tree.xattr(path, ino, b"user.empty", b"");
    tree.xattr(path, ino, &[&b"user."[..], &[b'n'; 250]].concat(), b"of a long name");
    tree.xattr(path, ino, b"user.big", &bytes(5, 3000));
    tree.xattr(path, ino, b"user.bigger", &bytes(6, 3000));
    tree
}

fn make_good() {
    let place = TempDir::new().unwrap();
    let path = place.path().join("vault");
    let secrets = secrets();
    let cost = Some(Argon2Parameters::insecure_for_tests());
    let slots: Vec<NewSlot<'_>> = secrets
        .iter()
        .zip(["passphrase", "key file", "recovery key"])
        .map(|(secret, label)| NewSlot { secret, label, cost })
        .collect();
    let vault = Vault::create(&path, None, &slots).unwrap();
    let tree = populate(open_core(&vault));
    tree.fs.close().unwrap();
    let overflows = fs::read_dir(path.join("overflow")).unwrap().count();
    assert_eq!(overflows, 2, "a symlink and a value lie in the overflow directory");
    fixtures::pack("good", place.path());
    state_expectations("good", json!({"what": "every feature", "tree": tree.expected}));
}

fn state_expectations(name: &str, expectations: Value) {
    let mut text = serde_json::to_string_pretty(&expectations).unwrap();
    text.push('\n');
    fs::write(fixtures::directory().join(format!("{name}.json")), text).unwrap();
}

/// A copy of the good vault, to be damaged.
struct Patient {
    place: TempDir,
    path: PathBuf,
    vault: Vault<Unlocked>,
}

impl Patient {
    fn new() -> Self {
        let place = TempDir::new().unwrap();
        let path = fixtures::unpack("good", place.path());
        let vault = Vault::open(&path, None).unwrap().unlock(&secrets()[0]).unwrap();
        Self { place, path, vault }
    }

    /// The ciphertext directory and the cipher name of a plain path.
    fn find(&self, plain: &[u8]) -> (PathBuf, CipherName) {
        let master = self.vault.master_key();
        let records = DirectoryCodec::new(&master.directory_key());
        let key = NameCipher::schedule(&master.name_key());
        let mut directory = self.path.join("tree");
        let mut components = plain.split(|byte| *byte == b'/').peekable();
        loop {
            let record = fs::read_link(directory.join(name(RECORD_NAME))).unwrap();
            let id: DirId = records.decode(record.as_os_str().as_bytes()).unwrap();
            let cipher = NameCipher::new(key.clone(), id);
            let found = cipher.encrypt(components.next().unwrap()).unwrap();
            if components.peek().is_none() {
                return (directory, found);
            }
            directory.push(name(found.entry()));
        }
    }

    /// The path in the ciphertext of a plain path.
    fn cipher_path(&self, plain: &[u8]) -> PathBuf {
        let (directory, cipher_name) = self.find(plain);
        directory.join(name(cipher_name.entry()))
    }

    fn flip(&self, path: &Path, offset: u64) {
        let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, offset).unwrap();
        file.write_all_at(&[byte[0] ^ 0x10], offset).unwrap();
    }

    fn read_block(&self, plain: &[u8], index: u64) -> Vec<u8> {
        let mut block = vec![0; 4124];
        let file = fs::File::open(self.cipher_path(plain)).unwrap();
        file.read_exact_at(&mut block, BlockIndex(index).cipher_offset()).unwrap();
        block
    }

    fn write_block(&self, plain: &[u8], index: u64, block: &[u8]) {
        let file = OpenOptions::new().write(true).open(self.cipher_path(plain)).unwrap();
        file.write_all_at(block, BlockIndex(index).cipher_offset()).unwrap();
    }

    /// Replaces a symlink's target by what `change` makes of it.
    fn relink(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let mut target = fs::read_link(path).unwrap().into_os_string().into_vec();
        change(&mut target);
        fs::remove_file(path).unwrap();
        symlink(name(&target), path).unwrap();
    }

    fn edit_config(&self, copies: &[&str], change: impl Fn(&str) -> String) {
        for copy in copies {
            let path = self.path.join(copy);
            let text = fs::read_to_string(&path).unwrap();
            let changed = change(&text);
            assert_ne!(text, changed);
            fs::write(path, changed).unwrap();
        }
    }

    fn done(self, name: &str, expectations: Value) {
        drop(self.vault);
        fixtures::pack(name, self.place.path());
        state_expectations(name, expectations);
    }
}

fn name(bytes: &[u8]) -> &OsStr {
    OsStr::from_bytes(bytes)
}

/// `three-blocks` or `twin` with some blocks unreadable.
fn with_damaged(seed: u8, blocks: &[usize]) -> Value {
    let mut content = bytes(seed, 10_000);
    for block in blocks {
        let end = content.len().min((block + 1) * 4096);
        content[block * 4096..end].fill(0);
    }
    json!({"sha256": hex(&sha256(&[&content])), "damaged_blocks": blocks})
}

const BOTH: [&str; 2] = ["vault.json", "vault.json.backup"];

/// Makes a damaged fixture and states what is expected of it: `changes` to the good tree (`null`:
/// the entry does not appear), or why the vault does not open.
#[allow(clippy::too_many_lines, reason = "one arm a fixture")]
fn make_damaged(which: &str) {
    let it = Patient::new();
    let changed = |what: &str, changes: Value| json!({"what": what, "changes": changes});
    let refused = |what: &str, error: &str| json!({"what": what, "refused": error});
    let expectations = match which {
        "block-bit-flipped" => {
            it.flip(&it.cipher_path(b"three-blocks"), BlockIndex(1).cipher_offset() + 2000);
            changed(
                "a bit in the ciphertext of a block",
                json!({"three-blocks": with_damaged(2, &[1])}),
            )
        }
        "nonce-bit-flipped" => {
            it.flip(&it.cipher_path(b"three-blocks"), BlockIndex(0).cipher_offset());
            changed("a bit in the nonce of a block", json!({"three-blocks": with_damaged(2, &[0])}))
        }
        "tag-bit-flipped" => {
            let path = it.cipher_path(b"three-blocks");
            it.flip(&path, fs::metadata(&path).unwrap().len() - 1);
            changed(
                "a bit in the tag of the last block",
                json!({"three-blocks": with_damaged(2, &[2])}),
            )
        }
        "header-bit-flipped" => {
            it.flip(&it.cipher_path(b"three-blocks"), 7);
            changed(
                "a bit in the file ID of a header",
                json!({"three-blocks": with_damaged(2, &[0, 1, 2])}),
            )
        }
        "blocks-swapped" => {
            let (first, second) = (it.read_block(b"twin", 0), it.read_block(b"twin", 1));
            it.write_block(b"twin", 0, &second);
            it.write_block(b"twin", 1, &first);
            changed("two blocks of one file swapped", json!({"twin": with_damaged(3, &[0, 1])}))
        }
        "blocks-swapped-between-files" => {
            let (one, other) = (it.read_block(b"three-blocks", 1), it.read_block(b"twin", 1));
            it.write_block(b"three-blocks", 1, &other);
            it.write_block(b"twin", 1, &one);
            changed(
                "the same block of two files swapped",
                json!({"three-blocks": with_damaged(2, &[1]), "twin": with_damaged(3, &[1])}),
            )
        }
        "header-of-another-file" => {
            let mut header = [0; 36];
            let file = fs::File::open(it.cipher_path(b"twin")).unwrap();
            file.read_exact_at(&mut header, 0).unwrap();
            let file =
                OpenOptions::new().write(true).open(it.cipher_path(b"three-blocks")).unwrap();
            file.write_all_at(&header, 0).unwrap();
            changed(
                "a file with another's header",
                json!({"three-blocks": with_damaged(2, &[0, 1, 2])}),
            )
        }
        "file-cut-in-a-block" => {
            let file =
                OpenOptions::new().write(true).open(it.cipher_path(b"three-blocks")).unwrap();
            file.set_len(BlockIndex(1).cipher_offset() + 1028).unwrap();
            let mut content = bytes(2, 4096);
            content.resize(4096 + 1000, 0);
            changed(
                "a file cut in its second block",
                json!({"three-blocks": {
                    "size": 5096, "sha256": hex(&sha256(&[&content])), "damaged_blocks": [1],
                }}),
            )
        }
        "name-bit-flipped" => {
            let path = it.cipher_path(b"one-block");
            let mut changed_name = path.file_name().unwrap().as_bytes().to_vec();
            changed_name[20] = if changed_name[20] == b'A' { b'B' } else { b'A' };
            fs::rename(&path, path.with_file_name(name(&changed_name))).unwrap();
            changed("a character of a cipher name", json!({"one-block": null}))
        }
        "names-swapped-between-directories" => {
            let (one, other) = (it.cipher_path(b"one-block"), it.cipher_path(b"notes/diary.txt"));
            fs::rename(&one, other.with_file_name(one.file_name().unwrap())).unwrap();
            fs::rename(&other, one.with_file_name(other.file_name().unwrap())).unwrap();
            changed(
                "two entries, each moved into the other's directory under its cipher name",
                json!({"one-block": null, "notes/diary.txt": null}),
            )
        }
        "record-bit-flipped" => {
            it.relink(&it.cipher_path(b"notes").join(name(RECORD_NAME)), |target| {
                target[5] = if target[5] == b'A' { b'B' } else { b'A' };
            });
            changed(
                "a character of a directory record",
                json!({
                    "notes": {"entries": "damaged"}, "notes/diary.txt": null,
                    "notes/deeper": null, "notes/deeper/leaf": null,
                }),
            )
        }
        "record-missing" => {
            fs::remove_file(it.cipher_path(b"notes/deeper").join(name(RECORD_NAME))).unwrap();
            changed(
                "a directory without its record",
                json!({"notes/deeper": {"entries": "damaged"}, "notes/deeper/leaf": null}),
            )
        }
        "record-of-another-directory" => {
            let record = it.cipher_path(b"empty-directory").join(name(RECORD_NAME));
            let other = fs::read_link(it.cipher_path(b"notes").join(name(RECORD_NAME))).unwrap();
            it.relink(&record, |target| *target = other.into_os_string().into_vec());
            changed("the record of a directory in another, empty one: nothing shows it", json!({}))
        }
        "sidecar-missing" => {
            let (directory, cipher_name) = it.find(&LONG_FILE);
            fs::remove_file(directory.join(name(&cipher_name.sidecar().unwrap().0))).unwrap();
            changed("a long name without its sidecar", json!({escape(&LONG_FILE): null}))
        }
        "sidecars-swapped" => {
            let (directory, file) = it.find(&LONG_FILE);
            let (_, other) = it.find(&LONG_DIRECTORY);
            let path = |of: &CipherName| directory.join(name(&of.sidecar().unwrap().0));
            fs::rename(path(&file), directory.join("aside")).unwrap();
            fs::rename(path(&other), path(&file)).unwrap();
            fs::rename(directory.join("aside"), path(&other)).unwrap();
            let long = escape(&LONG_DIRECTORY);
            changed(
                "two long names with each other's sidecar",
                json!({
                    escape(&LONG_FILE): null, long.clone(): null, format!("{long}/inside"): null,
                    format!("{long}/{}", "l".repeat(200)): null,
                }),
            )
        }
        "symlink-bit-flipped" => {
            it.relink(&it.cipher_path(b"link"), |target| {
                target[30] = if target[30] == b'A' { b'B' } else { b'A' };
            });
            changed("a character of a symlink's target", json!({"link": {"target": "damaged"}}))
        }
        "overflow-missing" => {
            for entry in fs::read_dir(it.path.join("overflow")).unwrap() {
                fs::remove_file(entry.unwrap().path()).unwrap();
            }
            changed(
                "an empty overflow directory",
                json!({
                    "long-link": {"target": "damaged"},
                    "attributes": {"xattrs": {"user.bigger": "damaged"}},
                }),
            )
        }
        "xattr-bit-flipped" => {
            let path = it.cipher_path(b"notes");
            let mut names = vec![0u8; 1024];
            let length = rustix::fs::llistxattr(&path, &mut names[..]).unwrap();
            let stored = names[..length].split(|byte| *byte == 0).next().unwrap();
            let stored = std::str::from_utf8(stored).unwrap();
            let mut value = vec![0u8; 1024];
            let length = rustix::fs::lgetxattr(&path, stored, &mut value[..]).unwrap();
            value[length - 20] ^= 1;
            let flags = rustix::fs::XattrFlags::REPLACE;
            rustix::fs::lsetxattr(&path, stored, &value[..length], flags).unwrap();
            changed(
                "a bit in the value of an extended attribute",
                json!({"notes": {"xattrs": {"user.colour": "damaged"}}}),
            )
        }
        "unclean-end" => {
            let fs = open_core(&it.vault);
            let ino = fs.lookup(InodeNumber::ROOT, b"twin").unwrap().attributes.ino;
            let mut content = bytes(3, 10_000);
            content[4000..5000].fill(b'!');
            fs.write(ino, 4000, &content[4000..5000]).unwrap();
            fs.sync(ino, false).unwrap();
            drop(fs);
            // What was under way when the power went: a torn block in place.
            it.write_block(b"twin", 0, &[0xaa; 512]);
            for segment in ["journal.0", "journal.1"] {
                let path = it.path.join(segment);
                let content = fs::read(&path).unwrap();
                let used = content.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
                OpenOptions::new().write(true).open(path).unwrap().set_len(used as u64).unwrap();
            }
            changed(
                "a power cut while what an fsync had promised was written in place",
                json!({"twin": {"sha256": hex(&sha256(&[&content]))}}),
            )
        }
        "config-truncated" => {
            it.edit_config(&BOTH, |text| text[..text.len() / 2].to_owned());
            refused("both copies of vault.json cut in half", "truncated")
        }
        "config-edited" => {
            it.edit_config(&BOTH, |text| {
                text.replacen("\"lanes\": 1", "\"lanes\": 2", 1).replacen(
                    "\"memory_kib\": 8",
                    "\"memory_kib\": 16",
                    1,
                )
            });
            refused("the cost of a passphrase changed in both copies", "checksum")
        }
        "config-forged" => {
            it.edit_config(&BOTH, |text| {
                let sealed = SealedConfig::decode(text.as_bytes()).unwrap();
                let mut config = sealed.unverified().clone();
                config.slots[1].parameters.label = "key fire".to_owned();
                // With a checksum that fits and a MAC that does not.
                let forged = config.seal(&MasterKey::from_bytes(&[0; 32]).config_key());
                String::from_utf8(forged.encode()).unwrap()
            });
            refused("the label of another slot changed in both copies, with its checksum", "forged")
        }
        "config-of-a-later-version" => {
            it.edit_config(&BOTH, |text| text.replacen("\"version\": 1", "\"version\": 2", 1));
            refused("both copies of format version 2", "unsupported-version")
        }
        "config-with-an-unknown-feature" => {
            it.edit_config(&BOTH, |text| {
                text.replacen("\"required_features\": []", "\"required_features\": [\"warp\"]", 1)
            });
            refused("both copies require the feature \"warp\"", "unknown-feature")
        }
        other => unreachable!("there is no recipe for {other}"),
    };
    it.done(which, expectations);
}

const DAMAGED: [&str; 24] = [
    "block-bit-flipped",
    "nonce-bit-flipped",
    "tag-bit-flipped",
    "header-bit-flipped",
    "blocks-swapped",
    "blocks-swapped-between-files",
    "header-of-another-file",
    "file-cut-in-a-block",
    "name-bit-flipped",
    "names-swapped-between-directories",
    "record-bit-flipped",
    "record-missing",
    "record-of-another-directory",
    "sidecar-missing",
    "sidecars-swapped",
    "symlink-bit-flipped",
    "overflow-missing",
    "xattr-bit-flipped",
    "unclean-end",
    "config-truncated",
    "config-edited",
    "config-forged",
    "config-of-a-later-version",
    "config-with-an-unknown-feature",
];

fn main() {
    // As the core wants it: it applies the callers' masks itself.
    nix::sys::stat::umask(nix::sys::stat::Mode::empty());
    for which in std::env::args().skip(1) {
        match which.as_str() {
            "good" => make_good(),
            "damaged" => DAMAGED.into_iter().for_each(make_damaged),
            one => make_damaged(one),
        }
    }
}
