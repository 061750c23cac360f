//! Trees for tests: one with everything that a filesystem keeps, and random ones.
#![allow(clippy::unwrap_used)]

use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;

use super::{ByteString, EntryKind, LocalTree, Metadata, Timestamp, TreePath, TreeWriter, Xattr};

/// A path of bytes known to be good.
pub(crate) fn path(bytes: impl AsRef<[u8]>) -> TreePath {
    TreePath::new(bytes.as_ref()).unwrap()
}

/// Whether devices, owners and security attributes can be made.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// An access ACL: a user and a mask beside the three classes.
pub(crate) fn acl() -> Vec<u8> {
    let mut bytes = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in [
        (1u16, 6u16, u32::MAX),
        (2, 4, 1234),
        (4, 4, u32::MAX),
        (16, 6, u32::MAX),
        (32, 4, u32::MAX),
    ] {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(permissions.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

fn xattr(name: &str, value: &[u8]) -> Xattr {
    Xattr { name: ByteString(name.into()), value: ByteString(value.to_vec()) }
}

fn metadata(kind: EntryKind) -> Metadata {
    Metadata {
        kind,
        mode: 0o640,
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        modified: Timestamp { seconds: 1_234_567_890, nanoseconds: 123_456_789 },
        accessed: Timestamp { seconds: 1_300_000_000, nanoseconds: 1 },
        size: 0,
        rdev: 0,
        target: ByteString::default(),
        xattrs: Vec::new(),
    }
}

/// Fills an empty directory with every kind of entry and of metadata.
pub(crate) fn fill(directory: &Path) {
    let tree = LocalTree::open(directory).unwrap();
    let regular = metadata(EntryKind::Regular);
    let write = |name: &[u8], content: &[u8], metadata: &Metadata| {
        let mut file = tree.create_file(&path(name)).unwrap();
        file.write_at(content, 0).unwrap();
        file.finish(&Metadata { size: content.len() as u64, ..metadata.clone() }).unwrap();
    };
    for name in ["empty directory", "sub", "sub/deeper", "sub-b", "many", "default acl"] {
        tree.create_directory(&path(name)).unwrap();
    }
    write(b"empty", b"", &regular);
    write(b"sub/one byte", b"x", &regular);
    let large: Vec<u8> = (0..3_000_000u32).flat_map(|i| (i / 7).to_le_bytes()).collect();
    write(b"sub/deeper/large", &large, &regular);
    for index in 0..200 {
        write(format!("many/{index}").as_bytes(), format!("file {index}").as_bytes(), &regular);
    }
    write(&[b'n'; 255], b"the longest name", &regular);
    write(b"odd \xff\xfe \n\t\\ \"bytes\" =", b"odd", &regular);
    write("ünï cødé".as_bytes(), b"unicode", &regular);
    write(b"-rf", b"dash", &regular);
    let before_1970 = Timestamp { seconds: -86_400 * 365, nanoseconds: 999_999_999 };
    write(b"old", b"old", &Metadata { modified: before_1970, ..regular.clone() });
    let epoch = Timestamp { seconds: -1, nanoseconds: 500_000_000 };
    write(b"sub/half a second before", b"", &Metadata { modified: epoch, ..regular.clone() });
    let future = Timestamp { seconds: 10_000_000_000, nanoseconds: 7 };
    write(b"future", b"future", &Metadata { modified: future, ..regular.clone() });
    write(b"setuid", b"#!", &Metadata { mode: 0o6711, ..regular.clone() });
    write(b"unreadable", b"secret", &Metadata { mode: 0, ..regular.clone() });
    let xattrs = vec![
        xattr("system.posix_acl_access", &acl()),
        xattr("user.empty", b""),
        xattr("user.name = with\nodd bytes", b"\0\n=\xff binary"),
        xattr("user.plain", b"value"),
    ];
    write(b"attributes", b"x", &Metadata { mode: 0o664, xattrs, ..regular.clone() });
    fill_special(&tree, directory);

    for name in ["first", "sub/second", "sub-b/third"] {
        if name == "first" {
            write(name.as_bytes(), b"three names", &regular);
        } else {
            tree.hard_link(&path("first"), &path(name)).unwrap();
        }
    }
    tree.hard_link(&path("symlink"), &path("symlink too")).unwrap();
    let mut default = metadata(EntryKind::Directory);
    default.mode = 0o2775;
    default.xattrs = vec![xattr("system.posix_acl_default", &acl())];
    tree.set_metadata(&path("default acl"), &default).unwrap();
    for name in ["sub/deeper", "sub", "empty directory", "many"] {
        let directory = Metadata { mode: 0o1750, ..metadata(EntryKind::Directory) };
        tree.set_metadata(&path(name), &directory).unwrap();
    }
}

fn fill_special(tree: &LocalTree, directory: &Path) {
    let sparse = std::fs::File::create(directory.join("sparse")).unwrap();
    sparse.set_len(40 << 20).unwrap();
    sparse.write_all_at(&[7; 5000], 9 << 20).unwrap();
    sparse.write_all_at(b"near the end", 39 << 20).unwrap();
    let hole = std::fs::File::create(directory.join("only a hole")).unwrap();
    hole.set_len((1 << 20) + 1).unwrap();
    let tail = std::fs::File::create(directory.join("hole first")).unwrap();
    tail.write_all_at(b"the end", 1 << 20).unwrap();
    let permissions = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(directory.join("sparse"), permissions).unwrap();

    symlink("no such file", directory.join("dangling")).unwrap();
    symlink("../../../../etc/passwd", directory.join("sub/outside")).unwrap();
    let mut long = metadata(EntryKind::Symlink);
    long.mode = 0o777;
    long.target = ByteString(b"../long".repeat(500));
    tree.create_special(&path("sub/long link"), &long).unwrap();
    let mut link = metadata(EntryKind::Symlink);
    link.mode = 0o777;
    link.target = ByteString(b"odd \xff target\n".to_vec());
    if is_root() {
        link.xattrs = vec![xattr("trusted.on a symlink", b"value")];
        (link.uid, link.gid) = (1234, 4321);
    }
    tree.create_special(&path("symlink"), &link).unwrap();
    tree.create_special(&path("fifo"), &metadata(EntryKind::Fifo)).unwrap();
    tree.create_special(&path("socket"), &metadata(EntryKind::Socket)).unwrap();
    if is_root() {
        let mut device = metadata(EntryKind::CharacterDevice);
        device.rdev = rustix::fs::makedev(1, 3);
        tree.create_special(&path("null"), &device).unwrap();
        device.kind = EntryKind::BlockDevice;
        device.rdev = rustix::fs::makedev(259, 70_000);
        tree.create_special(&path("sub/block"), &device).unwrap();
        let mut owned = metadata(EntryKind::Regular);
        (owned.uid, owned.gid) = (4_000_000_000, 70_000);
        owned.mode = 0o755;
        // A file capability (`VFS_CAP_REVISION_2`), which a change of owner would clear.
        owned.xattrs = vec![
            xattr("security.capability", b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0"),
            xattr("trusted.for root", b"1"),
        ];
        tree.create_file(&path("capable")).unwrap().finish(&owned).unwrap();
    }
}
