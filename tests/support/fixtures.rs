//! What the fixture vaults have in common: their secrets, how they are packed, and how the plain
//! tree of a vault is observed.
//!
//! A fixture is `NAME.tar.gz`, the vault directory with what is no matter of course for `tar` (its
//! extended attributes and FIFOs) in `extras.json`, and `NAME.json`, what is expected of it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use strongroom::backing::FileKind;
use strongroom::crypto::{KeyFile, Passphrase, RecoveryKey, Secret, sha256};
use strongroom::vault::{FileSystem, FilesystemOptions, InodeNumber, Unlocked, Vault};
use zeroize::Zeroizing;

/// Where the fixtures lie.
pub fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

pub const PASSPHRASE: &[u8] = b"open sesame";
pub const RECOVERY_WORDS: &str = "legal winner thank year wave sausage worth useful legal winner \
                                  thank year wave sausage worth useful legal winner thank year \
                                  wave sausage worth title";

/// 64 bytes that no random generator would give.
pub fn key_file_content() -> Vec<u8> {
    (0..64).collect()
}

/// The secrets of the slots 0, 1 and 2.
pub fn secrets() -> [Secret; 3] {
    [
        Secret::Passphrase(Passphrase::new(Zeroizing::new(PASSPHRASE.to_vec())).unwrap()),
        Secret::KeyFile(KeyFile::new(Zeroizing::new(key_file_content())).unwrap()),
        Secret::RecoveryKey(RecoveryKey::parse(RECOVERY_WORDS).unwrap()),
    ]
}

/// Bytes as text, as Python's `urllib.parse.quote(data, safe="/~")` has them.
pub fn escape(bytes: &[u8]) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-~/".contains(&byte);
    bytes
        .iter()
        .map(
            |byte| {
                if plain(*byte) { char::from(*byte).to_string() } else { format!("%{byte:02X}") }
            },
        )
        .collect()
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[derive(Default, Serialize, Deserialize)]
struct Extras {
    /// Path, then name, then value in hexadecimal.
    xattrs: BTreeMap<String, BTreeMap<String, String>>,
    /// Path, then mode.
    fifos: BTreeMap<String, u32>,
}

/// Unpacks a fixture; the vault's path.
pub fn unpack(name: &str, target: &Path) -> PathBuf {
    let packed = File::open(directory().join(format!("{name}.tar.gz"))).unwrap();
    let mut archive = tar::Archive::new(GzDecoder::new(packed));
    archive.set_preserve_permissions(true);
    archive.set_preserve_mtime(true);
    archive.unpack(target).unwrap();
    let extras = fs::read(target.join("extras.json")).unwrap();
    let extras: Extras = serde_json::from_slice(&extras).unwrap();
    for (path, mode) in extras.fifos {
        let path = target.join(path);
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }
    for (path, attributes) in extras.xattrs {
        for (attribute, value) in attributes {
            let value: Vec<u8> = (0..value.len())
                .step_by(2)
                .map(|at| u8::from_str_radix(&value[at..at + 2], 16).unwrap())
                .collect();
            let path = target.join(&path);
            rustix::fs::lsetxattr(&path, &attribute, &value, rustix::fs::XattrFlags::empty())
                .unwrap_or_else(|error| panic!("{attribute} of {}: {error}", path.display()));
        }
    }
    target.join("vault")
}

/// Packs the directory `vault` of `source` as a fixture.
pub fn pack(name: &str, source: &Path) {
    let mut extras = Extras::default();
    let mut archive = tar::Builder::new(flate2::write::GzEncoder::new(
        File::create(directory().join(format!("{name}.tar.gz"))).unwrap(),
        flate2::Compression::best(),
    ));
    archive.follow_symlinks(false);
    let mut links: BTreeMap<u64, PathBuf> = BTreeMap::new();
    for entry in walkdir::WalkDir::new(source.join("vault")).sort_by_file_name() {
        let entry = entry.unwrap();
        let path = entry.path().strip_prefix(source).unwrap().to_owned();
        let found = list_xattrs(entry.path());
        if !found.is_empty() {
            extras.xattrs.insert(path.to_str().unwrap().to_owned(), found);
        }
        let metadata = entry.metadata().unwrap();
        if metadata.file_type().is_fifo() {
            let mode = metadata.permissions().mode() & 0o777;
            extras.fifos.insert(path.to_str().unwrap().to_owned(), mode);
            continue;
        }
        let mut header = tar::Header::new_gnu();
        header.set_metadata(&metadata);
        // Nobody's in particular.
        header.set_uid(0);
        header.set_gid(0);
        if metadata.is_symlink() {
            let target = fs::read_link(entry.path()).unwrap();
            header.set_size(0);
            archive.append_link(&mut header, &path, target).unwrap();
        } else if metadata.is_file() {
            if let Some(first) = links.get(&metadata.ino()) {
                header.set_entry_type(tar::EntryType::Link);
                header.set_size(0);
                archive.append_link(&mut header, &path, first).unwrap();
            } else {
                links.insert(metadata.ino(), path.clone());
                let content = fs::read(entry.path()).unwrap();
                archive.append_data(&mut header, &path, &content[..]).unwrap();
            }
        } else {
            header.set_size(0);
            archive.append_data(&mut header, &path, &[][..]).unwrap();
        }
    }
    let text = serde_json::to_vec_pretty(&extras).unwrap();
    let mut header = tar::Header::new_gnu();
    header.set_size(text.len() as u64);
    header.set_mode(0o644);
    archive.append_data(&mut header, "extras.json", &text[..]).unwrap();
    archive.into_inner().unwrap().finish().unwrap();
}

fn list_xattrs(path: &Path) -> BTreeMap<String, String> {
    let mut names = vec![0u8; 64 << 10];
    let length = rustix::fs::llistxattr(path, &mut names[..]).unwrap();
    let names = &names[..length];
    let names = names.split(|byte| *byte == 0).filter(|name| name.starts_with(b"user."));
    names
        .map(|name| {
            let name = std::str::from_utf8(name).unwrap();
            let mut value = vec![0u8; 64 << 10];
            let length = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
            (name.to_owned(), hex(&value[..length]))
        })
        .collect()
}

/// The expectations of a fixture.
pub fn expectations(name: &str) -> Value {
    let text = fs::read(directory().join(format!("{name}.json"))).unwrap();
    serde_json::from_slice(&text).unwrap()
}

/// Mounts the core over an unlocked vault.
pub fn open_core(vault: &Vault<Unlocked>) -> FileSystem {
    let directory = vault.directory().unwrap();
    FileSystem::open(directory, vault.master_key(), FilesystemOptions::default(), "a test").unwrap()
}

/// The whole plain tree, by escaped path; what cannot be read has "damaged" in its place.
pub fn observe(fs: &FileSystem) -> Map<String, Value> {
    let mut tree = Map::new();
    observe_entry(fs, InodeNumber::ROOT, b"", &mut tree);
    tree
}

fn observe_entry(fs: &FileSystem, ino: InodeNumber, path: &[u8], tree: &mut Map<String, Value>) {
    let attributes = fs.attributes(ino).unwrap();
    let mut entry = Map::new();
    entry.insert("kind".to_owned(), json!(kind_name(attributes.kind)));
    entry.insert("mode".to_owned(), json!(format!("{:04o}", attributes.mode)));
    if attributes.kind != FileKind::Directory {
        entry.insert("links".to_owned(), json!(attributes.links));
    }
    let mut below = None;
    match attributes.kind {
        FileKind::Regular => observe_content(fs, ino, attributes.size, &mut entry),
        FileKind::Symlink => {
            let target =
                fs.read_link(ino).map_or_else(|_| json!("damaged"), |it| json!(escape(&it)));
            entry.insert("target".to_owned(), target);
        }
        FileKind::Directory => {
            below = list(fs, ino);
            if below.is_none() {
                entry.insert("entries".to_owned(), json!("damaged"));
            }
        }
        _ => {}
    }
    if attributes.kind != FileKind::Symlink {
        observe_xattrs(fs, ino, &mut entry);
    }
    tree.insert(escape(path), Value::Object(entry));
    for name in below.unwrap_or_default() {
        let path = if path.is_empty() { name.clone() } else { [path, b"/", &name].concat() };
        let entry = fs.lookup(ino, &name).unwrap();
        observe_entry(fs, entry.attributes.ino, &path, tree);
    }
}

fn kind_name(kind: FileKind) -> &'static str {
    match kind {
        FileKind::Regular => "file",
        FileKind::Directory => "directory",
        FileKind::Symlink => "symlink",
        FileKind::Fifo => "fifo",
        FileKind::Socket => "socket",
        FileKind::CharacterDevice => "character-device",
        FileKind::BlockDevice => "block-device",
    }
}

fn list(fs: &FileSystem, ino: InodeNumber) -> Option<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    let listed = fs.read_directory(ino, 0, false, &mut |entry| {
        if entry.name != b"." && entry.name != b".." {
            names.push(entry.name.to_vec());
        }
        true
    });
    names.sort();
    listed.ok().map(|()| names)
}

fn observe_content(fs: &FileSystem, ino: InodeNumber, size: u64, entry: &mut Map<String, Value>) {
    let mut content = Vec::new();
    let mut damaged = Vec::new();
    for index in 0..size.div_ceil(4096) {
        let offset = index * 4096;
        let mut block = vec![0; usize::try_from((size - offset).min(4096)).unwrap()];
        match fs.read(ino, offset, &mut block) {
            Ok(length) => assert_eq!(length, block.len(), "no short read before the end"),
            Err(error) => {
                assert_eq!(error.errno(), libc::EIO);
                block.fill(0);
                damaged.push(index);
            }
        }
        content.extend_from_slice(&block);
    }
    entry.insert("size".to_owned(), json!(size));
    entry.insert("sha256".to_owned(), json!(hex(&sha256(&[&content]))));
    if !damaged.is_empty() {
        entry.insert("damaged_blocks".to_owned(), json!(damaged));
    }
}

fn observe_xattrs(fs: &FileSystem, ino: InodeNumber, entry: &mut Map<String, Value>) {
    let Ok(names) = fs.list_xattr(ino) else {
        entry.insert("xattrs".to_owned(), json!("damaged"));
        return;
    };
    let mut found = BTreeMap::new();
    for name in names {
        // What the system adds to every file is not the fixture's.
        if !name.starts_with(b"user.") {
            continue;
        }
        let value = fs.get_xattr(ino, &name);
        found.insert(escape(&name), value.map_or_else(|_| "damaged".to_owned(), |it| hex(&it)));
    }
    if !found.is_empty() {
        entry.insert("xattrs".to_owned(), json!(found));
    }
}
