use super::*;
use crate::crypto::{KeyFile, MasterKey, RecoveryKey};
use crate::tree::sample::{fill, path};
use crate::tree::{ByteString, Metadata, Xattr};
use proptest::prelude::*;

const ALL: [Compression; 4] =
    [Compression::None, Compression::Zstd, Compression::Gzip, Compression::Lz4];

#[test]
fn everything_comes_back_in_every_form() {
    let (source, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fill(source.path());
    let secret = passphrase("a secret");
    let keys = key_set(&secret);
    let keyring = Keyring::new().with_secret(secret);
    for compression in ALL {
        for sealed in [true, false] {
            let options = WriteOptions { compression, ..WriteOptions::default() };
            let name = format!("{compression}-{sealed}");
            let keys = sealed.then_some(&keys);
            let (file, written) =
                archive(source.path(), out.path(), &name, keys, &options).unwrap();
            use std::os::unix::fs::PermissionsExt as _;
            let mode = std::fs::metadata(&file).unwrap().permissions().mode();
            assert_eq!(mode & 0o7777, 0o600);
            assert_eq!(written.noticed.sockets, [(SectionName::data(), path("socket"))]);

            let reader = ArchiveReader::open(&file, &keyring).unwrap();
            assert_eq!(*reader.metadata(), written.metadata);
            assert_eq!(reader.header().is_some(), sealed);
            let passed = reader.verify(Control::default()).unwrap();
            assert_eq!((passed.amount, passed.entries), (written.amount, written.entries));
            assert_eq!(reader.verify_written(Control::default()).unwrap(), passed);
            let target = tempfile::tempdir().unwrap();
            let (passed, extracted) = extract_all(&reader, target.path()).unwrap();
            assert_equal(source.path(), target.path());
            assert_eq!(extracted.entries, written.amount.entries);
            assert_eq!(extracted.entries + extracted.elsewhere, passed.entries);
            let sparse = LocalTree::open(target.path()).unwrap().entry(&path("sparse")).unwrap();
            assert!(sparse.allocated < sparse.metadata.size / 100);
            let lines = index_of(&reader).unwrap();
            assert_eq!(lines.len() as u64, written.entries);
            let tree = LocalTree::open(source.path()).unwrap();
            for (line, entry) in lines.iter().zip(tree.walk(&exclude_nothing).unwrap()) {
                let mut entry = entry.unwrap();
                // The walk itself reads directories.
                entry.metadata.accessed = line.entry.metadata.accessed;
                assert_eq!(line.entry.path, entry.path);
                assert_eq!(line.entry.metadata, entry.metadata);
                assert_eq!((line.changed, line.inode), (entry.changed, entry.inode));
                assert_eq!(line.stored == Where::Nowhere, entry.metadata.kind == EntryKind::Socket);
            }
        }
    }
}

/// A small file keeps its holes as well as a large one.
#[test]
fn holes_of_small_files_come_back() {
    use std::os::unix::fs::FileExt as _;
    let (source, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let file = std::fs::File::create(source.path().join("small")).unwrap();
    file.set_len(128 * 1024).unwrap();
    file.write_all_at(b"in the middle", 64 * 1024).unwrap();
    file.sync_all().unwrap();
    let hole = std::fs::File::create(source.path().join("hole")).unwrap();
    hole.set_len(8192).unwrap();
    let (archive, _) =
        archive(source.path(), out.path(), "small", None, &WriteOptions::default()).unwrap();
    let reader = ArchiveReader::open(&archive, &Keyring::new()).unwrap();
    let target = tempfile::tempdir().unwrap();
    extract_all(&reader, target.path()).unwrap();
    assert_equal(source.path(), target.path());
    for name in ["small", "hole"] {
        let [before, after] = [source.path(), target.path()]
            .map(|root| LocalTree::open(root).unwrap().entry(&path(name)).unwrap());
        assert!(before.allocated < before.metadata.size);
        assert!(after.allocated < after.metadata.size, "{name}: {}", after.allocated);
    }
}

#[test]
fn gnu_tar_reads_what_is_not_sealed() {
    let (source, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fill(source.path());
    for (compression, flag) in [
        (Compression::None, "--no-auto-compress"),
        (Compression::Zstd, "--zstd"),
        (Compression::Gzip, "--gzip"),
    ] {
        let options = WriteOptions { compression, ..WriteOptions::default() };
        let (file, _) =
            archive(source.path(), out.path(), compression.name(), None, &options).unwrap();
        let target = tempfile::tempdir().unwrap();
        let output = std::process::Command::new("tar")
            .args(["--extract", "--preserve-permissions", "--same-owner", "--acls"])
            .args(["--xattrs", "--xattrs-include=*", flag, "--file"])
            .arg(&file)
            .arg("--directory")
            .arg(target.path())
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        let odd = |line: &str| !line.contains("time stamp");
        assert!(output.status.success(), "{told}");
        assert_eq!(told.lines().filter(|line| odd(line)).collect::<Vec<_>>(), [""; 0], "{told}");
        assert_equal(source.path(), &target.path().join("data"));
        assert!(target.path().join("metadata.json").is_file());
        assert!(target.path().join("index/00000000.jsonl").is_file());
    }
}

#[test]
fn each_kind_of_secret_opens_and_nothing_else() {
    let (source, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::fs::write(source.path().join("file"), "content").unwrap();
    let key_file = || Secret::KeyFile(KeyFile::new(KeyFile::generate_content()).unwrap());
    let content = KeyFile::generate_content();
    let the_file = || Secret::KeyFile(KeyFile::new(content.clone()).unwrap());
    let words = RecoveryKey::generate().words();
    let recovery = || Secret::RecoveryKey(RecoveryKey::parse(&words).unwrap());
    let cost = Argon2Parameters::insecure_for_tests();
    let (one, two, three) = (passphrase("one"), the_file(), recovery());
    let secrets = [(&one, "one"), (&two, "two"), (&three, "three")];
    let keys = KeySet::of_secrets(&secrets, || Ok(cost), 0).unwrap();
    let options = WriteOptions::default();
    let (file, _) = archive(source.path(), out.path(), "own", Some(&keys), &options).unwrap();
    let open = |keyring: Keyring| ArchiveReader::open(&file, &keyring).map(drop);
    for secret in [passphrase("one"), the_file(), recovery()] {
        open(Keyring::new().with_secret(secret)).unwrap();
    }
    open(Keyring::new().with_secret(passphrase("two")).with_secret(recovery())).unwrap();
    assert!(matches!(open(Keyring::new()), Err(Error::NoSecret)));
    for secret in [passphrase("two"), key_file()] {
        assert!(matches!(open(Keyring::new().with_secret(secret)), Err(Error::WrongSecret)));
    }
    let header = peek(&file).unwrap().unwrap();
    assert_eq!(header.unverified().config.unverified().slots.len(), 3);
    // What costs nothing asks for no cost.
    let free = [(&two, "two"), (&three, "three")];
    KeySet::of_secrets(&free, || unreachable!("no passphrase"), 0).unwrap();
    assert!(matches!(KeySet::of_secrets(&[], || Ok(cost), 0), Err(Error::NoSecret)));
    let many = vec![(&one, "x"); 33];
    assert!(KeySet::of_secrets(&many, || Ok(cost), 0).is_err());
}

#[test]
fn a_vaults_keys_seal_and_open() {
    let (source, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::fs::write(source.path().join("file"), "content").unwrap();
    let own = key_set(&passphrase("vault"));
    let master = MasterKey::from_bytes(&[1; 32]);
    // A vault: some configuration, and its master key.
    let vault = KeySet::of_vault(own.config().clone(), &master);
    let options = WriteOptions::default();
    let (file, _) = archive(source.path(), out.path(), "vault", Some(&vault), &options).unwrap();
    let again = KeySet::of_vault(own.config().clone(), &master);
    let keyring = Keyring::new().with_set(again);
    ArchiveReader::open(&file, &keyring).unwrap().verify(Control::default()).unwrap();
    assert_eq!(keyring.set_of(own.id(), |set| set.id()), Some(own.id()));
    let other = KeySet::of_vault(own.config().clone(), &MasterKey::from_bytes(&[2; 32]));
    let opened = ArchiveReader::open(&file, &Keyring::new().with_set(other));
    assert!(matches!(opened, Err(Error::WrongSecret)));

    let (file, _) = archive(source.path(), out.path(), "own", Some(&own), &options).unwrap();
    let keyring = Keyring::new().with_secret(passphrase("vault"));
    ArchiveReader::open(&file, &keyring).unwrap();
    assert_eq!(keyring.set_of(own.id(), |set| set.id()), Some(own.id()));
    assert!(keyring.set_of(crate::format::config::VaultId::random(), |_| ()).is_none());
    // Who has borrowed a set can use the ring.
    let opened = keyring.set_of(own.id(), |_| ArchiveReader::open(&file, &keyring).is_ok());
    assert_eq!(opened, Some(true));
}

#[test]
fn sections_patterns_and_selections() {
    let source = tempfile::tempdir().unwrap();
    let out = tempfile::tempdir().unwrap();
    fill(source.path());
    let tree = LocalTree::open(source.path()).unwrap();
    let sub = LocalTree::open(source.path().join("sub")).unwrap();
    let exclude = |path: &TreePath, _: EntryKind| path.as_bytes().starts_with(b"many/1");
    let config = SectionName::new("config").unwrap();
    let sections = [
        Section { name: config.clone(), reader: &sub, exclude: &exclude_nothing },
        Section { name: SectionName::data(), reader: &tree, exclude: &exclude },
    ];
    let mut pending = PendingArchive::create(out.path()).unwrap();
    let options = WriteOptions::default();
    let about = description(ArchiveKind::Snapshot);
    let written = pending.write(None, &about, &sections, None, &options).unwrap();
    assert_eq!(written.noticed.outside_links, [(config.clone(), path("second"))]);
    let reader = pending.reader(&Keyring::new()).unwrap();
    reader.verify(Control::default()).unwrap();

    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let targets = [LocalTree::open(one.path()).unwrap(), LocalTree::open(two.path()).unwrap()];
    let targets: [(SectionName, &dyn TreeWriter); 2] =
        [(config.clone(), &targets[0]), (SectionName::data(), &targets[1])];
    let select = |section: &SectionName, path: &TreePath, _: EntryKind| {
        *section == config || [&b"many/77"[..], b"sub/deeper/large"].contains(&path.as_bytes())
    };
    let options = ExtractOptions { targets: &targets, select: &select, devices: true };
    reader.extract(&options, Control::default()).unwrap();
    assert_equal(&source.path().join("sub"), one.path());
    let select = |path: &TreePath, kind| {
        let path = path.as_bytes();
        !(kind == EntryKind::Directory && [&b"many"[..], b"sub", b"sub/deeper"].contains(&path)
            || [&b"many/77"[..], b"sub/deeper/large"].contains(&path))
    };
    let options = CompareOptions { exclude: &select, ..CompareOptions::default() };
    let written = LocalTree::open(two.path()).unwrap();
    let comparison = compare(&tree, &written, &options).unwrap();
    assert!(comparison.is_equal(), "{:#?}", comparison.differences);
    assert_eq!(comparison.entries, 6);
    let excluded = index_of(&reader).unwrap();
    assert!(excluded.iter().all(|line| !line.entry.path.as_bytes().starts_with(b"many/1")));
    // The second name alone has no content.
    let select = |_: &SectionName, path: &TreePath, _: EntryKind| path.as_bytes() == b"sub/second";
    let options = ExtractOptions { targets: &targets[1..], select: &select, devices: true };
    LocalTree::open(two.path()).unwrap().remove(&TreePath::root()).unwrap();
    assert!(reader.extract(&options, Control::default()).is_err());
}

#[test]
fn names_are_given_once_and_leftovers_go() {
    let (source, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::fs::write(source.path().join("file"), "content").unwrap();
    let names = || {
        let mut names: Vec<_> = std::fs::read_dir(out.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    let options = WriteOptions::default();
    let (file, _) = archive(source.path(), out.path(), "taken", None, &options).unwrap();
    let before = std::fs::read(&file).unwrap();
    let taken = archive(source.path(), out.path(), "taken", None, &options);
    assert!(matches!(taken, Err(Error::Exists(path)) if path == file));
    assert_eq!(std::fs::read(&file).unwrap(), before);
    assert_eq!(names(), ["taken"]);
    let pending = PendingArchive::create(out.path()).unwrap();
    assert!(names()[0].starts_with(PARTIAL_PREFIX));
    std::mem::forget(pending);
    assert_eq!(remove_leftovers(out.path()).unwrap().len(), 1);
    assert_eq!(names(), ["taken"]);
    assert!(PendingArchive::create(&out.path().join("missing")).is_err());
}

#[derive(Clone, Debug)]
enum Kind {
    File { chunks: Vec<(u32, u16)>, size: u32 },
    Directory,
    Symlink(Vec<u8>),
    Fifo,
    Link(prop::sample::Index),
}

#[derive(Clone, Debug)]
struct Node {
    parent: prop::sample::Index,
    name: Vec<u8>,
    kind: Kind,
    mode: u32,
    time: (i32, u32),
    xattrs: Vec<(u8, Vec<u8>)>,
}

fn node() -> impl Strategy<Value = Node> {
    let kind = prop_oneof![
        4 => (proptest::collection::vec((0u32..3_000_000, 0u16..20_000), 0..4), 0u32..3_100_000)
            .prop_map(|(chunks, size)| Kind::File { chunks, size }),
        3 => Just(Kind::Directory),
        1 => proptest::collection::vec(1u8.., 1..300).prop_map(Kind::Symlink),
        1 => Just(Kind::Fifo),
        2 => any::<prop::sample::Index>().prop_map(Kind::Link),
    ];
    let name = prop_oneof![
        proptest::collection::vec(1u8.., 1..20),
        proptest::collection::vec(b'a'..=b'c', 1..3),
        proptest::collection::vec(1u8.., 200..=255),
    ];
    let xattrs = proptest::collection::vec(
        (b'a'..=b'e', proptest::collection::vec(any::<u8>(), 0..50)),
        0..3,
    );
    (
        any::<prop::sample::Index>(),
        name,
        kind,
        0u32..0o10000,
        (any::<i32>(), 0u32..1_000_000_000),
        xattrs,
    )
        .prop_map(|(parent, name, kind, mode, time, xattrs)| Node {
            parent,
            name,
            kind,
            mode,
            time,
            xattrs,
        })
}

/// Makes the nodes that can be made.
fn build(tree: &LocalTree, nodes: &[Node]) {
    let mut directories = vec![(TreePath::root(), None)];
    let mut files: Vec<TreePath> = Vec::new();
    for node in nodes {
        let parent = &directories[node.parent.index(directories.len())].0;
        let Ok(path) = parent.join(&node.name) else { continue };
        let regular = matches!(node.kind, Kind::File { .. });
        let xattrs: std::collections::BTreeMap<_, _> = node.xattrs.iter().cloned().collect();
        let mut metadata = Metadata {
            kind: EntryKind::Regular,
            mode: node.mode,
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            modified: Timestamp { seconds: node.time.0.into(), nanoseconds: node.time.1 },
            accessed: Timestamp { seconds: 1, nanoseconds: node.time.1 },
            size: 0,
            rdev: 0,
            target: ByteString::default(),
            xattrs: Vec::new(),
        };
        if regular || matches!(node.kind, Kind::Directory) {
            metadata.xattrs = xattrs
                .into_iter()
                .map(|(name, value)| Xattr {
                    name: ByteString([b"user.", &[name][..]].concat()),
                    value: ByteString(value),
                })
                .collect();
        }
        let made = match &node.kind {
            Kind::File { chunks, size } => tree.create_file(&path).and_then(|mut file| {
                metadata.size = u64::from(*size);
                for (offset, length) in chunks {
                    let data: Vec<u8> = (0..*length).map(|i| i.to_le_bytes()[0] | 1).collect();
                    let end = u64::from(*offset) + u64::from(*length);
                    metadata.size = metadata.size.max(end);
                    file.write_at(&data, u64::from(*offset))?;
                }
                file.finish(&metadata)
            }),
            Kind::Directory => {
                metadata.kind = EntryKind::Directory;
                tree.create_directory(&path)
            }
            Kind::Symlink(target) => {
                metadata.kind = EntryKind::Symlink;
                metadata.target = ByteString(target.clone());
                tree.create_special(&path, &metadata)
            }
            Kind::Fifo => {
                metadata.kind = EntryKind::Fifo;
                tree.create_special(&path, &metadata)
            }
            Kind::Link(_) if files.is_empty() => continue,
            Kind::Link(index) => tree.hard_link(&files[index.index(files.len())], &path),
        };
        match made {
            Ok(()) if metadata.kind == EntryKind::Directory => {
                directories.push((path, Some(metadata)));
            }
            Ok(()) => files.push(path),
            Err(error) => assert_eq!(error.raw_os_error(), Some(libc::EEXIST), "{error}"),
        }
    }
    for (path, metadata) in directories.iter().rev() {
        if let Some(metadata) = metadata {
            tree.set_metadata(path, metadata).unwrap();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn any_tree_comes_back(nodes in proptest::collection::vec(node(), 0..60), kind in 0usize..8) {
        let (source, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        build(&LocalTree::open(source.path()).unwrap(), &nodes);
        let secret = passphrase("any");
        let keys = (kind >= 4).then(|| key_set(&secret));
        let options = WriteOptions { compression: ALL[kind % 4], ..WriteOptions::default() };
        let (file, _) = archive(source.path(), out.path(), "a", keys.as_ref(), &options).unwrap();
        let reader = ArchiveReader::open(&file, &Keyring::new().with_secret(secret)).unwrap();
        let target = tempfile::tempdir().unwrap();
        extract_all(&reader, target.path()).unwrap();
        assert_equal(source.path(), target.path());
    }
}
