//! The statements of docs/semantics.md about owners and permissions, with several users on a mount
//! with `--allow-other`. They need root, to become those users.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use support::posix::{
    ACCESS_ACL, ALICE, BOB, CAROL, User, acl, chmod, chown, mode, new_file, owner, root_is_here,
    set_xattr, shared_place, xattr,
};
use support::{Place, fuse_is_here};

/// The group that neither Alice nor Bob nor Carol is in.
const STAFF: u32 = 12900;

#[test]
fn another_user_creates_what_is_then_theirs() {
    let Some(place) = shared_place("another_user_creates_what_is_then_theirs") else { return };
    let mount = &place.mount_point;
    fs::write(mount.join("roots"), "by root").unwrap();
    ALICE.does(mount, "umask 022; echo hello >file; mkdir directory; ln -s x link; mkfifo fifo");
    ALICE.does(mount, "umask 007; : >private; ln file linked; mknod node p");
    for name in ["file", "directory", "link", "fifo", "private", "linked", "node"] {
        assert_eq!(owner(mount.join(name)), (12001, 12001), "{name}");
    }
    for (name, expected) in
        [("file", 0o644), ("directory", 0o755), ("fifo", 0o644), ("private", 0o660)]
    {
        assert_eq!(mode(mount.join(name)), expected, "{name}");
    }
    BOB.does(mount, "test -w private; echo more >>private");
    BOB.cannot(mount, "echo more >>file");
    CAROL.cannot(mount, "cat private");
    CAROL.cannot(mount, "echo x >directory/file");
    CAROL.does(mount, "cat file roots && test ! -w file");
    // Root works on beside them.
    fs::write(mount.join("directory/roots"), "").unwrap();
    fs::write(mount.join("private"), "changed by root").unwrap();
    assert_eq!(owner(mount.join("private")), (12001, 12001));
    ALICE.does(mount, "rm -f directory/roots && rm -r directory file");
    place.umount();
}

#[test]
fn the_kernel_checks_permissions() {
    let Some(place) = shared_place("the_kernel_checks_permissions") else { return };
    let mount = &place.mount_point;
    ALICE.does(mount, "mkdir d; echo x >d/file; chmod 0711 d");
    CAROL.does(mount, "cat d/file");
    CAROL.cannot(mount, "ls d");
    CAROL.cannot(mount, "rm -f d/file");
    ALICE.does(mount, "chmod 0744 d");
    CAROL.cannot(mount, "cat d/file");
    ALICE.does(mount, "chmod 0600 d/file; chmod 0755 d");
    CAROL.cannot(mount, "cat d/file");
    CAROL.cannot(mount, "chmod 0644 d/file");
    CAROL.cannot(mount, "touch -d 2001-01-01 d/file");
    CAROL.cannot(mount, "mv d/file d/other");
    CAROL.cannot(mount, "ln d/file mine");
    CAROL.cannot(mount, "truncate -s 0 d/file");
    // Who may write may say "now" and nothing else.
    ALICE.does(mount, "chmod 0666 d/file");
    CAROL.does(mount, "touch d/file");
    CAROL.cannot(mount, "touch -d 2001-01-01 d/file");
    place.umount();
}

#[test]
fn chown_is_for_root_and_chgrp_for_members() {
    let Some(place) = shared_place("chown_is_for_root_and_chgrp_for_members") else { return };
    let mount = &place.mount_point;
    BOB.does(mount, ": >file");
    BOB.cannot(mount, "chown 12001 file");
    BOB.cannot(mount, &format!("chgrp {STAFF} file"));
    ALICE.cannot(mount, "chgrp 12001 file");
    BOB.does(mount, "chgrp 12001 file");
    assert_eq!(owner(mount.join("file")), (12002, 12001));
    chown(mount.join("file"), 12003, STAFF);
    assert_eq!(owner(mount.join("file")), (12003, STAFF));
    place.umount();
}

#[test]
fn a_set_group_id_directory_hands_its_group_down() {
    let Some(place) = shared_place("a_set_group_id_directory_hands_its_group_down") else { return };
    let mount = &place.mount_point;
    let shared = mount.join("shared");
    fs::create_dir(&shared).unwrap();
    chown(&shared, 0, STAFF);
    chmod(&shared, 0o2777);
    ALICE
        .does(&shared, "umask 002; : >file; mkdir below; mkfifo fifo; ln -s x link; : >below/deep");
    for name in ["file", "below", "fifo", "link", "below/deep"] {
        assert_eq!(owner(shared.join(name)), (12001, STAFF), "{name}");
    }
    assert_eq!(mode(shared.join("below")), 0o2775, "directories hand it on");
    assert_eq!(mode(shared.join("file")), 0o664);
    // A bit that its creator may not give (inode(7)).
    ALICE.does(
        &shared,
        "umask 002; python3 -c \"import os; os.open('program', os.O_CREAT, 0o2775)\"",
    );
    assert_eq!(mode(shared.join("program")), 0o775);
    place.umount();
}

#[test]
fn the_sticky_bit_protects_others_files() {
    let Some(place) = shared_place("the_sticky_bit_protects_others_files") else { return };
    let mount = &place.mount_point;
    fs::create_dir(mount.join("tmp")).unwrap();
    chmod(mount.join("tmp"), 0o1777);
    ALICE.does(mount, ": >tmp/a; mkdir tmp/d");
    CAROL.cannot(mount, "rm -f tmp/a");
    CAROL.cannot(mount, "mv tmp/a tmp/b");
    CAROL.cannot(mount, "rmdir tmp/d");
    CAROL.does(mount, ": >tmp/c");
    CAROL.cannot(mount, "mv -f tmp/c tmp/a");
    ALICE.does(mount, "mv tmp/a tmp/b; rm tmp/b; rmdir tmp/d");
    place.umount();
}

/// Set-user-ID and set-group-ID after a change of content by somebody.
fn after(path: &Path, before: u32, user: Option<User>, script: &str) -> u32 {
    let _ = fs::remove_file(path);
    fs::write(path, vec![b'x'; 10_000]).unwrap();
    chown(path, 12001, 12001);
    chmod(path, before);
    match user {
        Some(user) => user.does(path.parent().unwrap(), script),
        None => {
            let directory = path.parent().unwrap();
            let mut shell = std::process::Command::new("sh");
            assert!(
                shell.args(["-euc", script]).current_dir(directory).status().unwrap().success()
            );
        }
    }
    mode(path)
}

#[test]
fn set_user_id_goes_when_content_changes() {
    let Some(place) = shared_place("set_user_id_goes_when_content_changes") else { return };
    let path = place.mount_point.join("file");
    let changes = [
        "printf y >>file",
        "printf y | dd of=file conv=notrunc status=none",
        ": >file",
        "truncate -s 5 file",
        "fallocate -l 20000 file",
        "fallocate -p -o 0 -l 4096 file",
    ];
    for script in changes {
        // Where the group may execute, both go; else set-group-ID means something else, and stays
        // for members of the group.
        assert_eq!(after(&path, 0o6777, Some(ALICE), script), 0o777, "{script}");
        assert_eq!(after(&path, 0o6767, Some(ALICE), script), 0o2767, "{script}");
        assert_eq!(after(&path, 0o6767, Some(BOB), script), 0o2767, "{script}: by its groups");
        assert_eq!(after(&path, 0o6767, Some(CAROL), script), 0o767, "{script}");
        assert_eq!(after(&path, 0o6777, None, script), 0o6777, "{script}: root may");
    }
    // A change of owner or group, by anybody.
    assert_eq!(after(&path, 0o6777, None, "chown 12003 file"), 0o777);
    assert_eq!(after(&path, 0o6777, None, "chgrp 12003 file"), 0o777);
    place.umount();
}

#[test]
fn file_capabilities_go_when_content_changes() {
    let Some(place) = shared_place("file_capabilities_go_when_content_changes") else { return };
    let path = place.mount_point.join("file");
    // VFS_CAP_REVISION_2, effective; CAP_NET_BIND_SERVICE.
    let capability = [0x0200_0001u32, 1 << 10, 0, 0, 0].map(u32::to_le_bytes).concat();
    type Change<'a> = &'a dyn Fn();
    let changes: [(&str, Change<'_>); 3] = [
        ("write", &|| fs::write(&path, "changed").unwrap()),
        ("write by another", &|| ALICE.does(&place.mount_point, "echo changed >file")),
        ("chown", &|| chown(&path, 12001, 12001)),
    ];
    drop(new_file(&path));
    chmod(&path, 0o777);
    for (name, change) in changes {
        set_xattr(&path, "security.capability", &capability);
        assert_eq!(xattr(&path, "security.capability").as_ref(), Some(&capability));
        change();
        assert_eq!(xattr(&path, "security.capability"), None, "{name}");
    }
    place.umount();
}

/// As `tar` and `cp` do it: content is written, capabilities are given, and only then the kernel
/// passes the content on.
#[test]
fn file_capabilities_stay_though_content_is_still_on_its_way() {
    let name = "file_capabilities_stay_though_content_is_still_on_its_way";
    let Some(place) = shared_place(name) else { return };
    let capability = [0x0200_0001u32, 1 << 10, 0, 0, 0].map(u32::to_le_bytes).concat();
    for (name, size) in [("small", 100), ("large", 3_000_000)] {
        let path = place.mount_point.join(name);
        let mut file = new_file(&path);
        std::io::Write::write_all(&mut file, &vec![7; size]).unwrap();
        set_xattr(&path, "security.capability", &capability);
        file.sync_all().unwrap();
        assert_eq!(xattr(&path, "security.capability").as_ref(), Some(&capability), "{name}");
    }
    place.umount();
    place.mount_with(&["--allow-other"]);
    for name in ["small", "large"] {
        let path = place.mount_point.join(name);
        assert_eq!(xattr(&path, "security.capability").as_ref(), Some(&capability), "{name}");
    }
    place.umount();
}

#[test]
fn acls_let_in_whom_they_name() {
    let Some(place) = shared_place("acls_let_in_whom_they_name") else { return };
    let mount = &place.mount_point;
    let path = mount.join("file");
    fs::write(&path, "text").unwrap();
    chown(&path, 12001, STAFF);
    let entries = [("u", 6), ("u:12003", 6), ("g", 0), ("g:12002", 4), ("m", 6), ("o", 0)];
    set_xattr(&path, ACCESS_ACL, &acl(&entries));
    CAROL.does(mount, "cat file; echo more >>file");
    BOB.does(mount, "cat file");
    BOB.cannot(mount, "echo more >>file");
    User { uid: 12004, groups: &[12004] }.cannot(mount, "cat file");
    // The mask limits them.
    chmod(&path, 0o640);
    CAROL.cannot(mount, "echo more >>file");
    // Only the owner may change it.
    let remove = "python3 -c \"import os; os.removexattr('file', 'system.posix_acl_access')\"";
    CAROL.cannot(mount, remove);
    ALICE.does(mount, remove);
    BOB.cannot(mount, "cat file");
    place.umount();
}

/// With the programs that people use.
#[test]
fn setfacl_gives_and_directories_hand_down() {
    let Some(place) = shared_place("setfacl_gives_and_directories_hand_down") else { return };
    let mount = &place.mount_point;
    ALICE.does(
        mount,
        "umask 027; mkdir shared; setfacl -m u:12003:rwx,d:u:12003:rwx,d:g::r-x,d:o::--- shared",
    );
    // Whoever makes something there hands on what the directory says; the umask counts for nothing.
    ALICE.does(mount, "umask 077; mkdir shared/below; echo text >shared/below/file");
    CAROL.does(mount, "cat shared/below/file; echo more >>shared/below/file; : >shared/below/hers");
    BOB.cannot(mount, "echo more >>shared/below/file");
    BOB.does(mount, "cat shared/below/file; getfacl -n shared/below | grep default:user:12003:rwx");
    ALICE.does(mount, "getfacl -cn shared/below/hers | grep user:12003:rwx");
    assert_eq!(owner(mount.join("shared/below/hers")), (12003, 12003));
    CAROL.cannot(mount, "setfacl -m u:12003:rwx shared/below/file");
    ALICE.does(mount, "setfacl -x u:12003 shared/below/file");
    CAROL.cannot(mount, "cat shared/below/file");
    // Copies keep them.
    ALICE.does(
        mount,
        "setfacl -m u:12002:r shared/below/file; cp -p shared/below/file copy
         getfacl -cn copy | grep user:12002:r--",
    );
    place.umount();
}

#[test]
fn an_acl_by_somebody_outside_the_group_drops_set_group_id() {
    let Some(place) = shared_place("an_acl_by_somebody_outside_the_group_drops_set_group_id")
    else {
        return;
    };
    let path = place.mount_point.join("file");
    drop(new_file(&path));
    let set = "python3 -c \"
import os, struct
acl = struct.pack('<I', 2)
for tag, permissions, who in ((1, 7, -1), (2, 6, 12003), (4, 7, -1), (16, 7, -1), (32, 0, -1)):
    acl += struct.pack('<HHi', tag, permissions, who)
os.setxattr('file', 'system.posix_acl_access', acl)\"";
    for (group, expected) in [(STAFF, 0o770), (12001, 0o2770)] {
        chown(&path, 12001, group);
        chmod(&path, 0o2770);
        ALICE.does(&place.mount_point, set);
        assert_eq!(mode(&path), expected);
    }
    place.umount();
}

#[test]
fn user_attributes_need_the_permission_that_content_needs() {
    let test = "user_attributes_need_the_permission_that_content_needs";
    let Some(place) = shared_place(test) else { return };
    let mount = &place.mount_point;
    ALICE.does(mount, ": >file; chmod 0644 file");
    let set = |name: &str| format!("python3 -c \"import os; os.setxattr('file', '{name}', b'v')\"");
    ALICE.does(mount, &set("user.key"));
    ALICE.cannot(mount, &set("trusted.key"));
    ALICE.cannot(mount, &set("security.key"));
    CAROL.cannot(mount, &set("user.key"));
    CAROL.does(mount, "python3 -c \"import os; assert os.getxattr('file', 'user.key') == b'v'\"");
    // Root's are not shown to others.
    set_xattr(mount.join("file"), "trusted.root", b"secret");
    ALICE.does(
        mount,
        "python3 -c \"import os; assert os.listxattr('file') == ['user.key'], os.listxattr('file')\"",
    );
    place.umount();
}

#[test]
fn without_allow_other_nobody_else_comes_in() {
    let test = "without_allow_other_nobody_else_comes_in";
    if !root_is_here(test) || !fuse_is_here(test) {
        return;
    }
    let place = Place::new();
    chmod(place.root(), 0o755);
    place.mount();
    chmod(&place.mount_point, 0o777);
    symlink("target", place.mount_point.join("link")).unwrap();
    ALICE.cannot(place.root(), "ls mount");
    ALICE.cannot(place.root(), "readlink mount/link");
    ALICE.cannot(place.root(), ": >mount/file");
    place.umount();
}
