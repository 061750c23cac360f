//! Permission checks for `access(2)`, `chdir(2)` and opening a directory, on mounts where the
//! kernel leaves them to the filesystem because only the owner comes.

use std::sync::OnceLock;

use fuser::{AccessFlags, Request};

use crate::backing::FileKind;
use crate::vault::Attributes;

/// Whether the mode lets whoever asks do what `mask` says. ACLs are left to the filesystem below,
/// which checks them when the file is opened.
pub(super) fn permits(attributes: &Attributes, request: &Request, mask: AccessFlags) -> bool {
    mode_permits(attributes, request.uid(), request.gid(), own_groups(), mask.bits())
}

/// The supplementary groups of this process: whoever asks is the same user.
fn own_groups() -> &'static [u32] {
    static GROUPS: OnceLock<Vec<u32>> = OnceLock::new();
    GROUPS.get_or_init(|| {
        rustix::process::getgroups()
            .map(|groups| groups.iter().map(|group| group.as_raw()).collect())
            .unwrap_or_default()
    })
}

fn mode_permits(attributes: &Attributes, uid: u32, gid: u32, groups: &[u32], mask: i32) -> bool {
    let mode = attributes.mode;
    if uid == 0 {
        // Root may do all, but execute only what anybody may.
        let executable = attributes.kind == FileKind::Directory || mode & 0o111 != 0;
        return mask & libc::X_OK == 0 || executable;
    }
    let granted = if uid == attributes.uid {
        mode >> 6
    } else if gid == attributes.gid || groups.contains(&attributes.gid) {
        mode >> 3
    } else {
        mode
    };
    let wanted = [(libc::R_OK, 4), (libc::W_OK, 2), (libc::X_OK, 1)];
    wanted.into_iter().all(|(flag, bit)| mask & flag == 0 || granted & bit != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backing::Timestamp;
    use crate::vault::InodeNumber;

    fn file(kind: FileKind, mode: u32) -> Attributes {
        Attributes {
            ino: InodeNumber(2),
            kind,
            mode,
            links: 1,
            uid: 1000,
            gid: 100,
            rdev: 0,
            size: 0,
            blocks: 0,
            accessed: Timestamp::default(),
            modified: Timestamp::default(),
            changed: Timestamp::default(),
        }
    }

    #[test]
    fn class_decides_and_owner_comes_first() {
        let attributes = file(FileKind::Regular, 0o074);
        assert!(!mode_permits(&attributes, 1000, 100, &[], libc::R_OK));
        assert!(mode_permits(&attributes, 1001, 100, &[], libc::R_OK | libc::W_OK | libc::X_OK));
        assert!(mode_permits(&attributes, 1001, 5, &[7, 100], libc::X_OK));
        assert!(mode_permits(&attributes, 1001, 5, &[], libc::R_OK));
        assert!(!mode_permits(&attributes, 1001, 5, &[], libc::R_OK | libc::W_OK));
        assert!(mode_permits(&attributes, 1000, 100, &[], libc::F_OK));
    }

    #[test]
    fn root_executes_only_what_is_executable() {
        assert!(mode_permits(&file(FileKind::Regular, 0), 0, 0, &[], libc::R_OK | libc::W_OK));
        assert!(!mode_permits(&file(FileKind::Regular, 0o666), 0, 0, &[], libc::X_OK));
        assert!(mode_permits(&file(FileKind::Regular, 0o601), 0, 0, &[], libc::X_OK));
        assert!(mode_permits(&file(FileKind::Directory, 0), 0, 0, &[], libc::X_OK));
    }
}
