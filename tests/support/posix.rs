//! What tests of a filesystem's semantics need: other users, ACLs, and errors by their number.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Command;

use rustix::fs::{AtFlags, CWD, Gid, Uid};

use super::{Place, fuse_is_here};

/// A user without any privilege: number and group.
pub const ALICE: User = User { uid: 12001, groups: &[12001] };
/// Another, who is also in Alice's group.
pub const BOB: User = User { uid: 12002, groups: &[12002, 12001] };
/// Another, who has nothing to do with either.
pub const CAROL: User = User { uid: 12003, groups: &[12003] };

/// A user, by number: none needs to be in the system's list.
#[derive(Clone, Copy)]
pub struct User {
    pub uid: u32,
    /// The first is the primary one.
    pub groups: &'static [u32],
}

impl User {
    /// Runs a shell script as this user in `directory`; whether it succeeded.
    #[track_caller]
    pub fn can(self, directory: &Path, script: &str) -> bool {
        let groups: Vec<String> = self.groups[1..].iter().map(u32::to_string).collect();
        let groups = match groups.join(",") {
            none if none.is_empty() => "--clear-groups".to_owned(),
            some => format!("--groups={some}"),
        };
        let output = Command::new("setpriv")
            .arg(format!("--reuid={}", self.uid))
            .arg(format!("--regid={}", self.groups[0]))
            .args([&groups, "sh", "-euc", script])
            .current_dir(directory)
            .output()
            .expect("setpriv starts");
        if !output.status.success() {
            eprintln!("{script}: {}", String::from_utf8_lossy(&output.stderr).trim_end());
        }
        output.status.success()
    }

    /// Runs a script that must succeed.
    #[track_caller]
    pub fn does(self, directory: &Path, script: &str) {
        assert!(self.can(directory, script), "user {}: {script}", self.uid);
    }

    /// Runs a script that must fail.
    #[track_caller]
    pub fn cannot(self, directory: &Path, script: &str) {
        assert!(!self.can(directory, script), "user {}: {script}", self.uid);
    }
}

/// A vault mounted for all users, its root open to all; `None` where there is no FUSE.
///
/// # Panics
/// When the tests do not run as root and nothing says that they need not:
/// `STRONGROOM_TEST_WITHOUT_ROOT`, set to the reason.
pub fn shared_place(test: &str) -> Option<Place> {
    if !root_is_here(test) || !fuse_is_here(test) {
        return None;
    }
    let place = Place::new();
    // Others must be able to get there.
    chmod(place.root(), 0o755);
    place.mount_with(&["--allow-other"]);
    chmod(&place.mount_point, 0o777);
    Some(place)
}

/// Whether the test can become other users; says so where it need not.
///
/// # Panics
/// When it cannot and nothing says that it need not.
pub fn root_is_here(test: &str) -> bool {
    if rustix::process::geteuid().is_root() {
        return true;
    }
    match std::env::var("STRONGROOM_TEST_WITHOUT_ROOT") {
        Ok(reason) => {
            eprintln!("{test}: not run, it needs root: {reason}");
            false
        }
        Err(_) => panic!(
            "{test} needs root; set STRONGROOM_TEST_WITHOUT_ROOT to the reason if there is none"
        ),
    }
}

/// A new file, for reading and writing.
#[track_caller]
pub fn new_file(path: impl AsRef<Path>) -> File {
    OpenOptions::new().read(true).write(true).create_new(true).mode(0o644).open(path).expect("new")
}

#[track_caller]
pub fn chmod(path: impl AsRef<Path>, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("chmod");
}

#[track_caller]
pub fn chown(path: impl AsRef<Path>, uid: u32, gid: u32) {
    let owner = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
    rustix::fs::chownat(CWD, path.as_ref(), owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW)
        .expect("chown");
}

/// Permission bits and the three above them.
#[track_caller]
pub fn mode(path: impl AsRef<Path>) -> u32 {
    fs::symlink_metadata(path).expect("stat").mode() & 0o7777
}

/// Owner and group.
#[track_caller]
pub fn owner(path: impl AsRef<Path>) -> (u32, u32) {
    let metadata = fs::symlink_metadata(path).expect("stat");
    (metadata.uid(), metadata.gid())
}

/// The errno of a failure; 0 for success.
pub fn errno<T>(result: io::Result<T>) -> i32 {
    match result {
        Ok(_) => 0,
        Err(error) => error.raw_os_error().unwrap_or(-1),
    }
}

/// An entry of an ACL: who (`u`, `u:12001`, `g`, `g:12001`, `m`, `o`), and permission bits.
pub type AclEntry = (&'static str, u16);

/// The form in which the kernel takes and gives ACLs as extended attributes.
pub fn acl(entries: &[AclEntry]) -> Vec<u8> {
    let mut bytes = 2u32.to_le_bytes().to_vec();
    for (who, permissions) in entries {
        let (kind, id) = match who.split_once(':') {
            Some((kind, id)) => (kind, id.parse().expect("a number")),
            None => (*who, u32::MAX),
        };
        let tag: u16 = match (kind, id) {
            ("u", u32::MAX) => 0x01,
            ("u", _) => 0x02,
            ("g", u32::MAX) => 0x04,
            ("g", _) => 0x08,
            ("m", _) => 0x10,
            ("o", _) => 0x20,
            _ => panic!("{who}: u, g, m or o"),
        };
        bytes.extend_from_slice(&tag.to_le_bytes());
        bytes.extend_from_slice(&permissions.to_le_bytes());
        bytes.extend_from_slice(&id.to_le_bytes());
    }
    bytes
}

pub const ACCESS_ACL: &str = "system.posix_acl_access";
pub const DEFAULT_ACL: &str = "system.posix_acl_default";

/// Sets an extended attribute, of a symlink itself.
#[track_caller]
pub fn set_xattr(path: impl AsRef<Path>, name: &str, value: &[u8]) {
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::lsetxattr(path.as_ref(), name, value, flags)
        .unwrap_or_else(|error| panic!("setting {name} on {}: {error}", path.as_ref().display()));
}

/// An extended attribute, of a symlink itself; `None` where there is none.
#[track_caller]
pub fn xattr(path: impl AsRef<Path>, name: impl AsRef<OsStr>) -> Option<Vec<u8>> {
    let (path, name) = (path.as_ref(), name.as_ref());
    let mut value = vec![0; 65536];
    match rustix::fs::lgetxattr(path, name, &mut value[..]) {
        Ok(len) => {
            value.truncate(len);
            Some(value)
        }
        Err(rustix::io::Errno::NODATA) => None,
        Err(error) => panic!("reading {} of {}: {error}", name.display(), path.display()),
    }
}
