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

/// Whether whoever asks is in a group. In doubt (its process is gone, or in a PID namespace that
/// is not ours) it is: nothing is taken away then.
pub(super) fn in_group(request: &Request, gid: u32) -> bool {
    request.gid() == gid
        || std::fs::read_to_string(format!("/proc/{}/status", request.pid()))
            .map_or(true, |status| supplementary_groups(&status).any(|group| group == gid))
}

/// The supplementary groups in the text of a `/proc/PID/status`.
fn supplementary_groups(status: &str) -> impl Iterator<Item = u32> {
    let line = status.lines().find_map(|line| line.strip_prefix("Groups:"));
    line.unwrap_or_default().split_whitespace().filter_map(|group| group.parse().ok())
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
    fn groups_are_read_as_the_kernel_lists_them() {
        let groups = |status| supplementary_groups(status).collect::<Vec<_>>();
        assert_eq!(groups("Name:\tx\nGroups:\t4 24 1000 \nNStgid:\t5\n"), [4, 24, 1000]);
        assert_eq!(groups("Name:\tx\nGroups:\t\n"), [0; 0]);
        assert_eq!(groups(""), [0; 0]);
    }

    #[test]
    fn root_executes_only_what_is_executable() {
        assert!(mode_permits(&file(FileKind::Regular, 0), 0, 0, &[], libc::R_OK | libc::W_OK));
        assert!(!mode_permits(&file(FileKind::Regular, 0o666), 0, 0, &[], libc::X_OK));
        assert!(mode_permits(&file(FileKind::Regular, 0o601), 0, 0, &[], libc::X_OK));
        assert!(mode_permits(&file(FileKind::Directory, 0), 0, 0, &[], libc::X_OK));
    }
}
