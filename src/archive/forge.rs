//! Archives that no writer of ours makes: everything in them is well-formed and consistent but
//! for one thing; and what becomes of them. For tests and fuzzing.

use sha2::{Digest as _, Sha256};

use super::tar::{END, Stored, encode_header, padding};
use super::*;
use crate::tree::{
    ByteString, Digest, EntryKind, LocalTree, ManifestEntry, Metadata, Timestamp, TreePath,
    TreeWriter,
};

/// An entry of a forged archive.
pub(super) struct Forged {
    pub(super) name: Vec<u8>,
    pub(super) metadata: Metadata,
    pub(super) content: Vec<u8>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) links: u64,
}

pub(super) fn metadata(kind: EntryKind) -> Metadata {
    Metadata {
        kind,
        mode: 0o700,
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        modified: Timestamp::default(),
        accessed: Timestamp::default(),
        size: 0,
        rdev: 0,
        target: ByteString::default(),
        xattrs: Vec::new(),
    }
}

pub(super) fn directory(name: impl Into<Vec<u8>>) -> Forged {
    let metadata = metadata(EntryKind::Directory);
    Forged { name: name.into(), metadata, content: Vec::new(), link: None, links: 1 }
}

pub(super) fn file(name: impl Into<Vec<u8>>, content: impl Into<Vec<u8>>) -> Forged {
    let content = content.into();
    let mut metadata = metadata(EntryKind::Regular);
    metadata.size = content.len() as u64;
    Forged { name: name.into(), metadata, content, link: None, links: 1 }
}

pub(super) fn symlink(name: impl Into<Vec<u8>>, target: impl Into<Vec<u8>>) -> Forged {
    let mut metadata = metadata(EntryKind::Symlink);
    metadata.target = ByteString(target.into());
    Forged { name: name.into(), metadata, content: Vec::new(), link: None, links: 1 }
}

pub(super) fn hard_link(name: impl Into<Vec<u8>>, target: impl Into<Vec<u8>>) -> Forged {
    let metadata = metadata(EntryKind::Regular);
    let link = Some(target.into());
    Forged { name: name.into(), metadata, content: Vec::new(), link, links: 1 }
}

fn own(tar: &mut Vec<u8>, name: &str, content: &[u8]) {
    let mut metadata = metadata(EntryKind::Regular);
    metadata.size = content.len() as u64;
    tar.extend(encode_header(name.as_bytes(), &metadata, &Stored::Content, 1));
    tar.extend(content);
    tar.extend(padding(metadata.size));
}

pub(super) struct Forger {
    pub(super) limit: Amount,
    pub(super) change_metadata: fn(String) -> String,
    pub(super) change_lines: fn(String) -> String,
    pub(super) change_index: fn(String) -> String,
}

impl Default for Forger {
    fn default() -> Self {
        let limit = Amount { entries: 1000, bytes: 1000 };
        let same = |text| text;
        Self { limit, change_metadata: same, change_lines: same, change_index: same }
    }
}

impl Forger {
    pub(super) fn forge(&self, entries: &[Forged]) -> Vec<u8> {
        let sections = vec![SectionName::data()];
        let about = Description {
            name: "forged".into(),
            kind: ArchiveKind::Full,
            created: Timestamp::default(),
            chain: Vec::new(),
            details: serde_json::Value::Null,
        };
        let id = ArchiveId::random();
        let metadata = ArchiveMetadata::new(id, &about, Compression::None, sections, self.limit);
        let mut tar = Vec::new();
        let json = (self.change_metadata)(
            serde_json::to_string(&metadata).expect("plain values serialise"),
        );
        own(&mut tar, "metadata.json", json.as_bytes());
        let mut lines = String::new();
        let mut amount = Amount::default();
        for Forged { name, metadata, content, link, links } in entries {
            let stored = link.as_ref().map_or(Stored::Content, |link| Stored::HardLink(link));
            tar.extend(encode_header(name, metadata, &stored, *links));
            tar.extend(content);
            tar.extend(padding(content.len() as u64));
            amount.entries += 1;
            amount.bytes += metadata.size;
            // Of what no path can be, there is no line either.
            let inner = name.strip_prefix(b"data/").unwrap_or_default();
            let Ok(path) = TreePath::new(inner) else { continue };
            let first = link.as_deref().and_then(|link| link.strip_prefix(b"data/"));
            let is_file = metadata.kind == EntryKind::Regular && link.is_none();
            let line = IndexEntry {
                section: SectionName::data(),
                entry: ManifestEntry {
                    path,
                    metadata: metadata.clone(),
                    link_to: first.and_then(|first| TreePath::new(first).ok()),
                    sha256: is_file.then(|| Digest(Sha256::digest(content).into())),
                },
                changed: Timestamp::default(),
                inode: 0,
                stored: Where::Here,
                unstable: false,
            };
            lines.push_str(&serde_json::to_string(&line).expect("plain values serialise"));
            lines.push('\n');
        }
        let lines = (self.change_lines)(lines);
        own(&mut tar, "index/00000000.jsonl", lines.as_bytes());
        let part = IndexPart {
            offset: 0,
            bytes: lines.len() as u64,
            entries: lines.lines().count() as u64,
        };
        let sha256 = Digest(Sha256::digest(lines.as_bytes()).into());
        let metadata_sha256 = Digest(Sha256::digest(json.as_bytes()).into());
        let index = ArchiveIndex { amount, parts: vec![part], sha256, metadata_sha256 };
        let index =
            (self.change_index)(serde_json::to_string(&index).expect("plain values serialise"));
        own(&mut tar, "index.json", index.as_bytes());
        tar.extend(END);
        tar
    }
}

/// Verifies and extracts the archive into an empty directory, beside which another one must stay
/// as it is.
pub(super) fn play(tar: &[u8]) -> Result<()> {
    let place = tempfile::tempdir().expect("a temporary directory");
    let (file, target) = (place.path().join("archive"), place.path().join("target"));
    std::fs::write(&file, tar).expect("the place is ours");
    std::fs::create_dir(&target).expect("the place is ours");
    std::fs::create_dir(place.path().join("outside")).expect("the place is ours");
    std::fs::write(place.path().join("outside/file"), "untouched").expect("the place is ours");
    let result = ArchiveReader::open(&file, &Keyring::new()).and_then(|reader| {
        let verified = reader.verify(Control::default());
        // It is not compressed: nothing but the digests vouches for what it holds.
        let written = reader.verify_written(Control::default());
        assert_eq!(verified.is_ok(), written.is_ok());
        let tree = LocalTree::open(&target).expect("the target is there");
        let targets: [(SectionName, &dyn TreeWriter); 1] = [(SectionName::data(), &tree)];
        let options = ExtractOptions { targets: &targets, select: &select_all, devices: false };
        let extracted = reader.extract(&options, Control::default());
        if let Err(error) = verified {
            assert!(extracted.is_err(), "extracted in spite of {error}");
        }
        extracted.map(drop)
    });
    let left: Vec<_> = std::fs::read_dir(place.path()).expect("it can be listed").collect();
    assert_eq!(left.len(), 3, "written outside the target");
    let outside: Vec<_> =
        std::fs::read_dir(place.path().join("outside")).expect("it can be listed").collect();
    assert_eq!(outside.len(), 1);
    assert_eq!(
        std::fs::read(place.path().join("outside/file")).expect("it is there"),
        b"untouched"
    );
    result
}
