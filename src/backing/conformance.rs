//! One suite for every implementation of the trait: what the vault core relies on, each case on
//! an empty directory of its own. [`instantiate!`] makes it the tests of an implementation.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use super::{
    Access, Directory, File, FileKind, LockOutcome, RenameMode, SetTime, Timestamp, XattrMode,
};

/// Makes a test of every case. `$open` gives the directory to test with, and what must live as
/// long as the test.
macro_rules! instantiate {
    ($open:expr) => {
        $crate::backing::conformance::instantiate!(
            $open;
            names_are_single_components
            create_is_exclusive_and_takes_the_mode
            only_regular_files_open
            reads_and_writes_are_whole
            read_only_files_refuse_changes
            truncation_zeroes_what_it_cut
            holes_are_found
            allocation_keeps_the_size
            punching_frees_and_zeroes
            directories_count_links
            removed_directories_take_no_entries
            symlinks_are_kept_and_not_followed
            a_name_may_hold_one_slash
            nodes_are_made_and_do_not_block
            hard_links_share_the_inode
            unlinked_files_stay_open
            pins_reach_files_without_names
            files_without_names_open_anew
            renames_replace
            renames_can_refuse_to_replace
            renames_exchange
            renames_keep_the_tree_a_tree
            attributes_are_set_by_name
            times_are_kept_to_the_nanosecond
            extended_attributes_are_kept
            large_extended_attributes_are_whole
            listings_show_everything_once
            listings_continue_while_entries_go
            listings_can_be_nested
            listings_run_in_parallel
            syncs_succeed
            the_filesystem_tells_its_size
            locks_exclude_and_name_their_owner
            long_names_fit
        );
    };
    ($open:expr; $($case:ident)+) => {
        $(
            #[test]
            fn $case() {
                let (root, _keep) = $open;
                $crate::backing::conformance::$case(&root);
            }
        )+
    };
}
pub(crate) use instantiate;

/// The errno of a failure.
#[track_caller]
fn errno<T>(result: io::Result<T>) -> i32 {
    result.err().expect("succeeded").raw_os_error().expect("an errno")
}

fn create(root: &dyn Directory, name: &[u8], content: &[u8]) -> Box<dyn File> {
    let file = root.create_file(name, 0o644).unwrap();
    file.write_at(content, 0).unwrap();
    file
}

fn content(root: &dyn Directory, name: &[u8]) -> Vec<u8> {
    let file = root.open_file(name, Access::Read).unwrap();
    let mut content = vec![0; 1 << 16];
    let count = file.read_at(&mut content, 0).unwrap();
    content.truncate(count);
    content
}

fn exists(root: &dyn Directory, name: &[u8]) -> bool {
    match root.stat(name) {
        Ok(_) => true,
        Err(error) => {
            assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
            false
        }
    }
}

/// All names but `.` and `..`, with their inode numbers, listed in one go.
fn list(root: &dyn Directory) -> BTreeMap<Vec<u8>, u64> {
    let mut names = BTreeMap::new();
    root.read_entries(0, &mut |entry| {
        assert!(names.insert(entry.name.to_vec(), entry.ino).is_none(), "listed twice");
        true
    })
    .unwrap();
    assert!(names.remove(b".".as_slice()).is_some());
    assert!(names.remove(b"..".as_slice()).is_some());
    names
}

pub(crate) fn names_are_single_components(root: &dyn Directory) {
    root.make_directory(b"d", 0o755).unwrap();
    for name in [b"d/x".as_slice(), b"..", b"../x", b"/", b"/etc", b"d/"] {
        assert_eq!(errno(root.stat(name)), libc::EINVAL);
        assert_eq!(errno(root.open_directory(name)), libc::EINVAL);
        assert_eq!(errno(root.create_file(name, 0o644)), libc::EINVAL);
        assert_eq!(errno(root.make_directory(name, 0o755)), libc::EINVAL);
        assert_eq!(errno(root.remove_directory(name)), libc::EINVAL);
        assert_eq!(errno(root.rename(b"d", root, name, RenameMode::Replace)), libc::EINVAL);
        assert_eq!(errno(root.hard_link(b"d", root, name)), libc::EINVAL);
        assert_eq!(errno(root.get_xattr(name, b"user.x")), libc::EINVAL);
    }
    for name in [b"../x".as_slice(), b"/x", b"d/..", b"d/x/y", b"d/", b"./x", b".."] {
        assert_eq!(errno(root.unlink(name)), libc::EINVAL);
        assert_eq!(errno(root.read_link(name)), libc::EINVAL);
        assert_eq!(errno(root.make_symlink(b"t", name)), libc::EINVAL);
    }
    assert_eq!(errno(root.create_file(b"a\0b", 0o644)), libc::EINVAL);
    assert_eq!(errno(root.get_xattr(b"a\0b", b"user.x")), libc::EINVAL);
    assert_eq!(errno(root.stat(b"")), libc::ENOENT);
    assert_eq!(errno(root.list_xattr(b"")), libc::ENOENT);
    assert_eq!(errno(root.create_file(&[b'x'; 256], 0o644)), libc::ENAMETOOLONG);
    assert_eq!(errno(root.list_xattr(&[b'x'; 256])), libc::ENAMETOOLONG);
}

pub(crate) fn create_is_exclusive_and_takes_the_mode(root: &dyn Directory) {
    let file = root.create_file(b"f", 0o640).unwrap();
    let stat = file.stat().unwrap();
    assert_eq!((stat.kind, stat.mode & 0o700, stat.size), (FileKind::Regular, 0o600, 0));
    assert_eq!(stat, root.stat(b"f").unwrap());
    assert_eq!(errno(root.create_file(b"f", 0o640)), libc::EEXIST);
    root.make_symlink(b"nowhere", b"dangling").unwrap();
    assert_eq!(errno(root.create_file(b"dangling", 0o640)), libc::EEXIST);
    assert!(!exists(root, b"nowhere"));
    assert_eq!(errno(root.open_file(b"g", Access::Read)), libc::ENOENT);
}

pub(crate) fn only_regular_files_open(root: &dyn Directory) {
    create(root, b"f", b"x");
    root.make_directory(b"d", 0o755).unwrap();
    root.make_symlink(b"f", b"l").unwrap();
    root.make_node(b"p", FileKind::Fifo, 0o644, 0).unwrap();
    root.make_node(b"s", FileKind::Socket, 0o644, 0).unwrap();
    for access in [Access::Read, Access::ReadWrite] {
        assert!(root.open_file(b"f", access).is_ok());
        assert_eq!(errno(root.open_file(b"d", access)), libc::EISDIR);
        assert_eq!(errno(root.open_file(b".", access)), libc::EISDIR);
        assert_eq!(errno(root.open_file(b"l", access)), libc::ELOOP);
        assert_eq!(errno(root.open_file(b"p", access)), libc::ENXIO);
        assert_eq!(errno(root.open_file(b"s", access)), libc::ENXIO);
    }
    assert!(root.open_directory(b"d").is_ok());
    assert!(root.open_directory(b".").is_ok());
    for name in [b"f", b"l", b"p", b"s"] {
        assert_eq!(errno(root.open_directory(name)), libc::ENOTDIR);
    }
}

pub(crate) fn reads_and_writes_are_whole(root: &dyn Directory) {
    let file = create(root, b"f", b"");
    let data: Vec<u8> = (0..3_000_000u32).flat_map(u32::to_le_bytes).collect();
    file.write_at(&data, 4095).unwrap();
    assert_eq!(file.stat().unwrap().size, 4095 + 12_000_000);
    let mut read = vec![1; data.len() + 9000];
    assert_eq!(file.read_at(&mut read, 4095).unwrap(), data.len());
    assert!(read[..data.len()] == data);
    let mut start = [1; 4095];
    assert_eq!(file.read_at(&mut start, 0).unwrap(), 4095);
    assert_eq!(start, [0; 4095]);
    assert_eq!(file.read_at(&mut start, 4095 + 12_000_000).unwrap(), 0);
    assert_eq!(file.read_at(&mut start, 1 << 40).unwrap(), 0);
    assert_eq!(errno(file.read_at(&mut start, 1 << 63)), libc::EINVAL);
    assert_eq!(errno(file.write_at(b"x", 1 << 63)), libc::EINVAL);
    file.write_at(b"", 1 << 63).unwrap();
    file.write_at(b"over", 4096).unwrap();
    let mut middle = [0; 6];
    file.read_at(&mut middle, 4095).unwrap();
    assert_eq!(&middle, &[data[0], b'o', b'v', b'e', b'r', data[5]]);
}

pub(crate) fn read_only_files_refuse_changes(root: &dyn Directory) {
    create(root, b"f", b"content");
    let file = root.open_file(b"f", Access::Read).unwrap();
    assert_eq!(errno(file.write_at(b"x", 0)), libc::EBADF);
    assert_eq!(errno(file.set_len(0)), libc::EINVAL);
    assert_eq!(errno(file.allocate(0, 1)), libc::EBADF);
    assert_eq!(errno(file.punch_hole(0, 1)), libc::EBADF);
    file.sync_all().unwrap();
    file.sync_data().unwrap();
    assert_eq!(content(root, b"f"), b"content");
}

pub(crate) fn truncation_zeroes_what_it_cut(root: &dyn Directory) {
    let file = create(root, b"f", &[7; 10_000]);
    file.set_len(5000).unwrap();
    file.set_len(9000).unwrap();
    let mut expected = vec![7; 5000];
    expected.resize(9000, 0);
    assert!(content(root, b"f") == expected);
    file.set_len(0).unwrap();
    assert_eq!(file.stat().unwrap().blocks, 0);
    file.set_len(1 << 40).unwrap();
    assert_eq!(file.stat().unwrap().size, 1 << 40);
    assert_eq!(errno(file.set_len(1 << 63)), libc::EINVAL);
}

pub(crate) fn holes_are_found(root: &dyn Directory) {
    let file = create(root, b"f", b"");
    assert_eq!(file.seek_data(0).unwrap(), None);
    assert_eq!(file.seek_hole(0).unwrap(), None);
    file.write_at(&[1; 4096], 8192).unwrap();
    file.set_len(40_960).unwrap();
    file.write_at(&[1; 100], 20_480).unwrap();
    file.sync_all().unwrap();
    let data = |offset| file.seek_data(offset).unwrap();
    let hole = |offset| file.seek_hole(offset).unwrap();
    assert_eq!((data(0), hole(0)), (Some(8192), Some(0)));
    assert_eq!((data(8192), hole(8192)), (Some(8192), Some(12_288)));
    assert_eq!((data(9000), hole(9000)), (Some(9000), Some(12_288)));
    assert_eq!((data(12_288), hole(12_288)), (Some(20_480), Some(12_288)));
    assert_eq!((data(20_500), hole(20_500)), (Some(20_500), Some(24_576)));
    assert_eq!((data(24_576), hole(24_576)), (None, Some(24_576)));
    assert_eq!((data(40_960), hole(40_960)), (None, None));
    assert_eq!((data(1 << 62), hole(1 << 62)), (None, None));
    file.write_at(&[1; 10], 40_950).unwrap();
    assert_eq!(hole(40_955), Some(40_960));
}

pub(crate) fn allocation_keeps_the_size(root: &dyn Directory) {
    let file = create(root, b"f", b"abc");
    file.allocate(0, 100_000).unwrap();
    let stat = file.stat().unwrap();
    assert_eq!(stat.size, 3);
    assert!(stat.blocks >= 100_000 / 512, "{}", stat.blocks);
    assert_eq!(content(root, b"f"), b"abc");
    file.set_len(50_000).unwrap();
    assert!(file.stat().unwrap().blocks >= 100_000 / 512, "growing gives nothing back");
    assert!(content(root, b"f")[3..].iter().all(|&byte| byte == 0));
    assert_eq!(errno(file.allocate(0, 0)), libc::EINVAL);
    assert_eq!(errno(file.allocate(1 << 63, 1)), libc::EINVAL);
    file.write_at(&[5; 4096], 8192).unwrap();
    let mut read = vec![0; 4096];
    file.read_at(&mut read, 8192).unwrap();
    assert_eq!(read, [5; 4096]);
}

pub(crate) fn punching_frees_and_zeroes(root: &dyn Directory) {
    let file = create(root, b"f", &[9; 32_768]);
    file.sync_all().unwrap();
    let before = file.stat().unwrap();
    file.punch_hole(5000, 20_000).unwrap();
    let after = file.stat().unwrap();
    assert_eq!(after.size, before.size);
    assert!(after.blocks < before.blocks);
    let mut expected = vec![9; 32_768];
    expected[5000..25_000].fill(0);
    assert!(content(root, b"f") == expected);
    assert_eq!(file.seek_hole(0).unwrap(), Some(8192));
    assert_eq!(file.seek_data(8192).unwrap(), Some(24_576));
    file.punch_hole(100, 10).unwrap();
    file.punch_hole(32_000, 100_000).unwrap();
    expected[100..110].fill(0);
    expected[32_000..].fill(0);
    assert!(content(root, b"f") == expected);
    assert_eq!(errno(file.punch_hole(0, 0)), libc::EINVAL);
}

pub(crate) fn directories_count_links(root: &dyn Directory) {
    let links = |name: &[u8]| root.stat(name).unwrap().links;
    root.make_directory(b"a", 0o755).unwrap();
    root.make_directory(b"b", 0o755).unwrap();
    let (a, b) = (root.open_directory(b"a").unwrap(), root.open_directory(b"b").unwrap());
    a.make_directory(b"x", 0o700).unwrap();
    a.make_directory(b"y", 0o700).unwrap();
    create(&*a, b"file", b"");
    assert_eq!((links(b"a"), links(b"b")), (4, 2));
    a.rename(b"x", &*b, b"x", RenameMode::Replace).unwrap();
    assert_eq!((links(b"a"), links(b"b")), (3, 3));
    a.rename(b"y", &*b, b"x", RenameMode::Replace).unwrap();
    assert_eq!((links(b"a"), links(b"b")), (2, 3));
    a.rename(b"file", &*b, b"x", RenameMode::Exchange).unwrap();
    assert_eq!((links(b"a"), links(b"b")), (3, 2));
    assert_eq!(errno(root.remove_directory(b"a")), libc::ENOTEMPTY);
    assert_eq!(errno(a.remove_directory(b".")), libc::EINVAL);
    assert_eq!(errno(b.remove_directory(b"x")), libc::ENOTDIR);
    assert_eq!(errno(a.unlink(b"file")), libc::EISDIR);
    a.remove_directory(b"file").unwrap();
    assert_eq!(links(b"a"), 2);
    root.remove_directory(b"a").unwrap();
    assert!(!exists(root, b"a"));
    assert_eq!(errno(root.make_directory(b"b", 0o755)), libc::EEXIST);
    assert_eq!(errno(root.make_directory(b".", 0o755)), libc::EEXIST);
}

pub(crate) fn removed_directories_take_no_entries(root: &dyn Directory) {
    root.make_directory(b"d", 0o755).unwrap();
    create(root, b"f", b"");
    let directory = root.open_directory(b"d").unwrap();
    root.remove_directory(b"d").unwrap();
    assert_eq!(directory.stat(b".").unwrap().links, 0);
    assert_eq!(errno(directory.stat(b"x")), libc::ENOENT);
    assert_eq!(errno(directory.create_file(b"x", 0o644)), libc::ENOENT);
    assert_eq!(errno(directory.make_directory(b"x", 0o755)), libc::ENOENT);
    assert_eq!(errno(directory.make_symlink(b"t", b"x")), libc::ENOENT);
    assert_eq!(errno(root.hard_link(b"f", &*directory, b"x")), libc::ENOENT);
    assert_eq!(errno(root.rename(b"f", &*directory, b"x", RenameMode::Replace)), libc::ENOENT);
    assert_eq!(errno(directory.read_entries(0, &mut |_| true)), libc::ENOENT);
}

pub(crate) fn symlinks_are_kept_and_not_followed(root: &dyn Directory) {
    for len in [1, 1023, 1024, 1025, 4095] {
        let target = vec![b't'; len];
        root.make_symlink(&target, b"l").unwrap();
        assert!(root.read_link(b"l").unwrap() == target);
        let stat = root.stat(b"l").unwrap();
        assert_eq!(stat.kind, FileKind::Symlink);
        assert_eq!(stat.size, u64::try_from(len).unwrap());
        root.unlink(b"l").unwrap();
    }
    assert_eq!(errno(root.make_symlink(b"", b"l")), libc::ENOENT);
    assert_eq!(errno(root.make_symlink(&[b't'; 4096], b"l")), libc::ENAMETOOLONG);
    create(root, b"f", b"x");
    root.make_symlink(b"f", b"l").unwrap();
    assert_eq!(errno(root.make_symlink(b"f", b"l")), libc::EEXIST);
    assert_eq!(errno(root.read_link(b"f")), libc::EINVAL);
    assert_eq!(errno(root.set_mode(b"l", 0o600)), libc::EOPNOTSUPP);
    let at = Timestamp { seconds: 1234, nanoseconds: 5 };
    root.set_times(b"l", SetTime::At(at), SetTime::At(at)).unwrap();
    assert_eq!(root.stat(b"l").unwrap().modified, at);
    assert_ne!(root.stat(b"f").unwrap().modified, at);
    assert_eq!(errno(root.set_xattr(b"l", b"user.x", b"", XattrMode::Any)), libc::EPERM);
    root.hard_link(b"l", root, b"m").unwrap();
    assert_eq!(root.read_link(b"m").unwrap(), b"f");
}

pub(crate) fn a_name_may_hold_one_slash(root: &dyn Directory) {
    root.make_directory(b"d", 0o755).unwrap();
    root.make_symlink(b"record", b"d/r").unwrap();
    assert_eq!(root.read_link(b"d/r").unwrap(), b"record");
    assert_eq!(root.open_directory(b"d").unwrap().read_link(b"r").unwrap(), b"record");
    assert_eq!(errno(root.make_symlink(b"record", b"d/r")), libc::EEXIST);
    assert_eq!(errno(root.make_symlink(b"record", b"missing/r")), libc::ENOENT);
    create(root, b"f", b"");
    assert_eq!(errno(root.make_symlink(b"record", b"f/r")), libc::ENOTDIR);
    assert_eq!(errno(root.read_link(b"f/r")), libc::ENOTDIR);
    root.unlink(b"d/r").unwrap();
    assert_eq!(errno(root.unlink(b"d/r")), libc::ENOENT);
    root.remove_directory(b"d").unwrap();
}

pub(crate) fn nodes_are_made_and_do_not_block(root: &dyn Directory) {
    root.make_node(b"p", FileKind::Fifo, 0o600, 0).unwrap();
    root.make_node(b"s", FileKind::Socket, 0o600, 0).unwrap();
    assert_eq!(root.stat(b"p").unwrap().kind, FileKind::Fifo);
    assert_eq!(root.stat(b"s").unwrap().kind, FileKind::Socket);
    assert_eq!(errno(root.make_node(b"p", FileKind::Fifo, 0o600, 0)), libc::EEXIST);
    for kind in [FileKind::Regular, FileKind::Directory, FileKind::Symlink] {
        assert_eq!(errno(root.make_node(b"x", kind, 0o600, 0)), libc::EINVAL);
    }
    let pin = root.pin(b"p").unwrap();
    assert_eq!(errno(pin.read_at(&mut [0], 0)), libc::EBADF);
    pin.set_mode(0o640).unwrap();
    assert_eq!(root.stat(b"p").unwrap().mode, 0o640);
}

pub(crate) fn hard_links_share_the_inode(root: &dyn Directory) {
    create(root, b"f", b"one");
    root.make_directory(b"d", 0o755).unwrap();
    let directory = root.open_directory(b"d").unwrap();
    root.hard_link(b"f", &*directory, b"g").unwrap();
    let (f, g) = (root.stat(b"f").unwrap(), directory.stat(b"g").unwrap());
    assert_eq!((f.ino, f.links), (g.ino, 2));
    directory.open_file(b"g", Access::ReadWrite).unwrap().write_at(b"two", 0).unwrap();
    assert_eq!(content(root, b"f"), b"two");
    assert_eq!(errno(root.hard_link(b"f", &*directory, b"g")), libc::EEXIST);
    assert_eq!(errno(root.hard_link(b"missing", root, b"h")), libc::ENOENT);
    assert_eq!(errno(root.hard_link(b"d", root, b"h")), libc::EPERM);
    root.unlink(b"f").unwrap();
    assert_eq!(directory.stat(b"g").unwrap().links, 1);
    // Both names of one inode: a rename does nothing.
    directory.hard_link(b"g", root, b"f").unwrap();
    root.rename(b"f", &*directory, b"g", RenameMode::Replace).unwrap();
    assert!(exists(root, b"f") && exists(&*directory, b"g"));
}

pub(crate) fn unlinked_files_stay_open(root: &dyn Directory) {
    let file = create(root, b"f", b"content");
    let inode = file.stat().unwrap().ino;
    root.unlink(b"f").unwrap();
    assert_eq!(errno(root.unlink(b"f")), libc::ENOENT);
    assert_eq!(errno(root.unlink(b".")), libc::EISDIR);
    let stat = file.stat().unwrap();
    assert_eq!((stat.links, stat.size), (0, 7));
    file.write_at(b"more", 7).unwrap();
    let mut read = [0; 11];
    assert_eq!(file.read_at(&mut read, 0).unwrap(), 11);
    assert_eq!(&read, b"contentmore");
    let other = create(root, b"f", b"other");
    assert_ne!(other.stat().unwrap().ino, inode);
    file.set_mode(0o600).unwrap();
    assert_eq!(root.stat(b"f").unwrap().mode & 0o777, 0o644 & root.stat(b"f").unwrap().mode);
    file.sync_all().unwrap();
}

pub(crate) fn files_without_names_open_anew(root: &dyn Directory) {
    create(root, b"f", b"content");
    root.make_symlink(b"target", b"l").unwrap();
    let read = root.open_file(b"f", Access::Read).unwrap();
    let (pinned, link) = (root.pin(b"f").unwrap(), root.pin(b"l").unwrap());
    root.unlink(b"f").unwrap();
    create(root, b"f", b"another");
    assert_eq!(errno(read.write_at(b"C", 0)), libc::EBADF);
    read.reopen().unwrap().write_at(b"C", 0).unwrap();
    pinned.reopen().unwrap().write_at(b"T", 3).unwrap();
    let mut found = [0; 7];
    read.read_at(&mut found, 0).unwrap();
    assert_eq!(&found, b"ConTent");
    assert_eq!(errno(link.reopen().map(drop)), libc::ENXIO);
}

pub(crate) fn pins_reach_files_without_names(root: &dyn Directory) {
    create(root, b"f", b"content");
    root.make_symlink(b"target", b"l").unwrap();
    let (file, link) = (root.pin(b"f").unwrap(), root.pin(b"l").unwrap());
    root.unlink(b"f").unwrap();
    root.unlink(b"l").unwrap();
    assert_eq!(file.stat().unwrap().links, 0);
    assert_eq!(link.stat().unwrap().kind, FileKind::Symlink);
    let at = Timestamp { seconds: -5, nanoseconds: 999_999_999 };
    let own = file.stat().unwrap();
    for pin in [&file, &link] {
        pin.set_times(SetTime::Keep, SetTime::At(at)).unwrap();
        assert_eq!(pin.stat().unwrap().modified, at);
        pin.set_owner(Some(own.uid), Some(own.gid)).unwrap();
    }
    file.set_mode(0o604).unwrap();
    assert_eq!(file.stat().unwrap().mode, 0o604);
    assert_eq!(errno(link.set_mode(0o600)), libc::EOPNOTSUPP);
    file.set_xattr(b"user.x", b"value", XattrMode::Create).unwrap();
    assert_eq!(file.get_xattr(b"user.x").unwrap(), b"value");
    assert!(file.list_xattr().unwrap().contains(&b"user.x".to_vec()));
    file.remove_xattr(b"user.x").unwrap();
    assert_eq!(errno(file.get_xattr(b"user.x")), libc::ENODATA);
    assert_eq!(errno(file.read_at(&mut [0], 0)), libc::EBADF);
    assert_eq!(errno(file.write_at(&[0], 0)), libc::EBADF);
    assert_eq!(errno(file.set_len(0)), libc::EBADF);
    assert_eq!(errno(file.allocate(0, 1)), libc::EBADF);
    assert_eq!(errno(file.punch_hole(0, 1)), libc::EBADF);
    assert_eq!(errno(file.seek_data(0)), libc::EBADF);
    assert_eq!(errno(file.sync_data()), libc::EBADF);
    assert_eq!(errno(root.pin(b"missing")), libc::ENOENT);
    assert_eq!(root.pin(b".").unwrap().stat().unwrap().ino, root.stat(b".").unwrap().ino);
}

pub(crate) fn renames_replace(root: &dyn Directory) {
    create(root, b"a", b"a");
    let replaced = create(root, b"b", b"b");
    root.make_directory(b"d", 0o755).unwrap();
    root.make_directory(b"e", 0o755).unwrap();
    let rename = |from: &[u8], to: &[u8]| root.rename(from, root, to, RenameMode::Replace);
    rename(b"a", b"b").unwrap();
    assert!(!exists(root, b"a"));
    assert_eq!(content(root, b"b"), b"a");
    assert_eq!(replaced.stat().unwrap().links, 0);
    assert_eq!(errno(rename(b"a", b"b")), libc::ENOENT);
    assert_eq!(errno(rename(b"b", b"d")), libc::EISDIR);
    assert_eq!(errno(rename(b"d", b"b")), libc::ENOTDIR);
    rename(b"b", b"b").unwrap();
    rename(b"d", b"e").unwrap();
    create(&*root.open_directory(b"e").unwrap(), b"x", b"");
    root.make_directory(b"d", 0o755).unwrap();
    assert_eq!(errno(rename(b"d", b"e")), libc::ENOTEMPTY);
    assert_eq!(errno(rename(b".", b"x")), libc::EBUSY);
    assert_eq!(errno(rename(b"d", b".")), libc::EBUSY);
    assert_eq!(list(root).into_keys().collect::<Vec<_>>(), [b"b", b"d", b"e"]);
}

pub(crate) fn renames_can_refuse_to_replace(root: &dyn Directory) {
    create(root, b"a", b"a");
    create(root, b"b", b"b");
    let rename = |from: &[u8], to: &[u8]| root.rename(from, root, to, RenameMode::NoReplace);
    assert_eq!(errno(rename(b"a", b"b")), libc::EEXIST);
    assert_eq!(errno(rename(b"a", b"a")), libc::EEXIST);
    assert_eq!(errno(rename(b"a", b".")), libc::EEXIST);
    assert_eq!(errno(rename(b"missing", b"c")), libc::ENOENT);
    rename(b"a", b"c").unwrap();
    assert_eq!((content(root, b"b"), content(root, b"c")), (b"b".to_vec(), b"a".to_vec()));
}

pub(crate) fn renames_exchange(root: &dyn Directory) {
    create(root, b"f", b"file");
    root.make_directory(b"d", 0o755).unwrap();
    root.make_directory(b"e", 0o755).unwrap();
    let e = root.open_directory(b"e").unwrap();
    create(&*e, b"g", b"other");
    let exchange = |from: &[u8], to: &dyn Directory, name: &[u8]| {
        root.rename(from, to, name, RenameMode::Exchange)
    };
    exchange(b"f", &*e, b"g").unwrap();
    assert_eq!((content(root, b"f"), content(&*e, b"g")), (b"other".to_vec(), b"file".to_vec()));
    exchange(b"d", &*e, b"g").unwrap();
    assert_eq!(root.stat(b"d").unwrap().kind, FileKind::Regular);
    assert_eq!(e.stat(b"g").unwrap().kind, FileKind::Directory);
    assert_eq!(errno(exchange(b"f", root, b"missing")), libc::ENOENT);
    assert_eq!(errno(exchange(b"e", &*e, b"g")), libc::EINVAL);
    exchange(b"f", root, b"f").unwrap();
}

pub(crate) fn renames_keep_the_tree_a_tree(root: &dyn Directory) {
    root.make_directory(b"a", 0o755).unwrap();
    let a = root.open_directory(b"a").unwrap();
    a.make_directory(b"b", 0o755).unwrap();
    let b = a.open_directory(b"b").unwrap();
    b.make_directory(b"c", 0o755).unwrap();
    assert_eq!(errno(root.rename(b"a", &*a, b"x", RenameMode::Replace)), libc::EINVAL);
    assert_eq!(errno(root.rename(b"a", &*b, b"c", RenameMode::Replace)), libc::EINVAL);
    assert_eq!(errno(b.rename(b"c", root, b"a", RenameMode::Replace)), libc::ENOTEMPTY);
    assert_eq!(errno(b.rename(b"c", root, b"a", RenameMode::Exchange)), libc::EINVAL);
}

pub(crate) fn attributes_are_set_by_name(root: &dyn Directory) {
    let file = create(root, b"f", b"");
    root.make_directory(b"d", 0o755).unwrap();
    for name in [b"f", b"d"] {
        root.set_mode(name, 0o1711).unwrap();
        assert_eq!(root.stat(name).unwrap().mode, 0o1711);
    }
    root.set_mode(b".", 0o711).unwrap();
    assert_eq!(root.stat(b".").unwrap().mode, 0o711);
    let own = root.stat(b"f").unwrap();
    file.set_mode(0o4755).unwrap();
    file.set_owner(Some(own.uid), None).unwrap();
    assert_eq!(root.stat(b"f").unwrap().mode, 0o755, "set-user-ID goes with a new owner");
    root.set_owner(b"f", None, Some(own.gid)).unwrap();
    root.set_owner(b".", None, None).unwrap();
    assert_eq!(errno(root.set_owner(b"f", Some(u32::MAX), None)), libc::EINVAL);
    assert_eq!(errno(root.set_mode(b"missing", 0o600)), libc::ENOENT);
    assert_eq!(errno(root.set_owner(b"missing", None, None)), libc::ENOENT);
    assert_eq!(errno(root.set_times(b"missing", SetTime::Now, SetTime::Now)), libc::ENOENT);
}

pub(crate) fn times_are_kept_to_the_nanosecond(root: &dyn Directory) {
    let file = create(root, b"f", b"");
    let old = Timestamp { seconds: -1_000_000, nanoseconds: 123_456_789 };
    let new = Timestamp { seconds: 4_000_000_000, nanoseconds: 1 };
    root.set_times(b"f", SetTime::At(old), SetTime::At(new)).unwrap();
    let stat = root.stat(b"f").unwrap();
    assert_eq!((stat.accessed, stat.modified), (old, new));
    file.set_times(SetTime::At(new), SetTime::Keep).unwrap();
    assert_eq!((file.stat().unwrap().accessed, file.stat().unwrap().modified), (new, new));
    file.set_times(SetTime::Keep, SetTime::Now).unwrap();
    let stat = file.stat().unwrap();
    assert_eq!(stat.accessed, new);
    assert!(stat.modified < new && stat.modified > Timestamp { seconds: 1, nanoseconds: 0 });
    let wrong = Timestamp { seconds: 0, nanoseconds: 1_000_000_000 };
    assert_eq!(errno(root.set_times(b"f", SetTime::At(wrong), SetTime::Keep)), libc::EINVAL);
    root.set_times(b".", SetTime::At(old), SetTime::At(old)).unwrap();
    assert_eq!(root.stat(b".").unwrap().modified, old);
    create(root, b"g", b"");
    assert_ne!(root.stat(b".").unwrap().modified, old);
}

pub(crate) fn extended_attributes_are_kept(root: &dyn Directory) {
    let file = create(root, b"f", b"");
    root.make_directory(b"d", 0o755).unwrap();
    for name in [b"f".as_slice(), b"d", b"."] {
        root.set_xattr(name, b"user.one", b"1", XattrMode::Any).unwrap();
        root.set_xattr(name, b"user.two", b"", XattrMode::Create).unwrap();
        assert_eq!(root.get_xattr(name, b"user.one").unwrap(), b"1");
        assert_eq!(root.get_xattr(name, b"user.two").unwrap(), b"");
        let names: BTreeSet<_> = root.list_xattr(name).unwrap().into_iter().collect();
        assert!(names.contains(b"user.one".as_slice()) && names.contains(b"user.two".as_slice()));
    }
    let set = |mode| root.set_xattr(b"f", b"user.one", b"new", mode);
    assert_eq!(errno(set(XattrMode::Create)), libc::EEXIST);
    set(XattrMode::Replace).unwrap();
    assert_eq!(file.get_xattr(b"user.one").unwrap(), b"new");
    root.remove_xattr(b"f", b"user.one").unwrap();
    assert_eq!(errno(set(XattrMode::Replace)), libc::ENODATA);
    assert_eq!(errno(root.get_xattr(b"f", b"user.one")), libc::ENODATA);
    assert_eq!(errno(root.remove_xattr(b"f", b"user.one")), libc::ENODATA);
    assert_eq!(errno(root.get_xattr(b"missing", b"user.one")), libc::ENOENT);
    assert_eq!(errno(root.get_xattr(b"f", b"odd.one")), libc::EOPNOTSUPP);
    file.remove_xattr(b"user.two").unwrap();
    assert!(!file.list_xattr().unwrap().contains(&b"user.two".to_vec()));
}

pub(crate) fn large_extended_attributes_are_whole(root: &dyn Directory) {
    let file = create(root, b"f", b"");
    for len in [511, 512, 513, 3000] {
        let value = vec![b'v'; len];
        file.set_xattr(b"user.large", &value, XattrMode::Any).unwrap();
        assert!(file.get_xattr(b"user.large").unwrap() == value);
        assert!(root.get_xattr(b"f", b"user.large").unwrap() == value);
        assert!(root.pin(b"f").unwrap().get_xattr(b"user.large").unwrap() == value);
    }
    let too_large = vec![0; (64 << 10) + 1];
    assert_eq!(errno(file.set_xattr(b"user.x", &too_large, XattrMode::Any)), libc::E2BIG);
    assert_eq!(errno(file.set_xattr(b"", b"", XattrMode::Any)), libc::ERANGE);
    let other = create(root, b"g", b"");
    let names: Vec<_> = (0..20).map(|n| format!("user.{n:0>100}").into_bytes()).collect();
    names.iter().for_each(|name| other.set_xattr(name, b"v", XattrMode::Any).unwrap());
    let listed: BTreeSet<_> = other.list_xattr().unwrap().into_iter().collect();
    assert!(names.iter().all(|name| listed.contains(name)));
}

pub(crate) fn listings_show_everything_once(root: &dyn Directory) {
    let mut expected = BTreeMap::new();
    for number in 0..3000 {
        let name = format!("{number:0>60}").into_bytes();
        let file = root.create_file(&name, 0o600).unwrap();
        expected.insert(name, file.stat().unwrap().ino);
    }
    root.make_directory(b"d", 0o755).unwrap();
    root.make_symlink(b"t", b"l").unwrap();
    expected.insert(b"d".to_vec(), root.stat(b"d").unwrap().ino);
    expected.insert(b"l".to_vec(), root.stat(b"l").unwrap().ino);
    assert!(list(root) == expected);
    let mut kinds = BTreeMap::new();
    root.read_entries(0, &mut |entry| {
        if let Some(kind) = entry.kind {
            kinds.insert(entry.name.to_vec(), kind);
        }
        true
    })
    .unwrap();
    assert_eq!(
        kinds.get(b"d".as_slice()).copied().unwrap_or(FileKind::Directory),
        FileKind::Directory
    );
    assert_eq!(kinds.get(b"l".as_slice()).copied().unwrap_or(FileKind::Symlink), FileKind::Symlink);
    // The same in small pieces, each from the cookie where the last one ended.
    let (mut names, mut cookie) = (BTreeSet::new(), 0);
    loop {
        let mut left = 7;
        root.read_entries(cookie, &mut |entry| {
            assert!(names.insert(entry.name.to_vec()), "listed twice");
            cookie = entry.next_cookie;
            left -= 1;
            left > 0
        })
        .unwrap();
        if left > 0 {
            break;
        }
    }
    assert_eq!(names.len(), expected.len() + 2);
}

pub(crate) fn listings_continue_while_entries_go(root: &dyn Directory) {
    for number in 0..500 {
        root.create_file(format!("f{number}").as_bytes(), 0o600).unwrap();
    }
    // Remove what was listed, as `rm -r` does, and create something else meanwhile.
    let (mut removed, mut cookie) = (BTreeSet::new(), 0);
    loop {
        let mut names = Vec::new();
        root.read_entries(cookie, &mut |entry| {
            cookie = entry.next_cookie;
            names.push(entry.name.to_vec());
            names.len() < 50
        })
        .unwrap();
        if names.is_empty() {
            break;
        }
        for name in names.into_iter().filter(|name| name.starts_with(b"f")) {
            root.unlink(&name).unwrap();
            assert!(removed.insert(name));
        }
        root.create_file(format!("new{}", removed.len()).as_bytes(), 0o600).ok();
    }
    assert_eq!(removed.len(), 500);
    assert!(list(root).into_keys().all(|name| name.starts_with(b"new")));
}

pub(crate) fn listings_can_be_nested(root: &dyn Directory) {
    for number in 0..100 {
        root.create_file(format!("f{number}").as_bytes(), 0o600).unwrap();
    }
    let mut outer = 0;
    root.read_entries(0, &mut |entry| {
        root.stat(entry.name.strip_prefix(b"..").map_or(entry.name, |_| b".")).unwrap();
        if outer % 40 == 0 {
            assert_eq!(list(root).len(), 100);
        }
        outer += 1;
        true
    })
    .unwrap();
    assert_eq!(outer, 102);
}

pub(crate) fn listings_run_in_parallel(root: &dyn Directory) {
    for number in 0..1000 {
        root.create_file(format!("{number:0>100}").as_bytes(), 0o600).unwrap();
    }
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..5).for_each(|_| assert_eq!(list(root).len(), 1000)));
        }
    });
}

pub(crate) fn syncs_succeed(root: &dyn Directory) {
    let file = create(root, b"f", b"x");
    file.sync_data().unwrap();
    file.sync_all().unwrap();
    root.sync().unwrap();
    root.sync_filesystem().unwrap();
}

pub(crate) fn the_filesystem_tells_its_size(root: &dyn Directory) {
    let stat = root.filesystem_stat().unwrap();
    assert!(stat.block_size >= 512 && stat.blocks >= stat.blocks_free && stat.blocks > 0);
    assert!(stat.blocks_free >= stat.blocks_available);
    assert_eq!(stat.name_max, 255);
}

pub(crate) fn locks_exclude_and_name_their_owner(root: &dyn Directory) {
    let lock = |owner: &[u8]| root.lock(b"lock", owner).unwrap();
    let LockOutcome::Held(guard) = lock(b"first owner, pid 7") else { panic!("busy") };
    let LockOutcome::Busy(owner) = lock(b"second") else { panic!("held twice") };
    assert_eq!(owner, b"first owner, pid 7");
    let again = root.open_directory(b".").unwrap();
    assert!(matches!(again.lock(b"lock", b"third").unwrap(), LockOutcome::Busy(_)));
    drop(guard);
    let LockOutcome::Held(_guard) = lock(b"fourth") else { panic!("busy") };
    assert_eq!(content(root, b"lock"), b"fourth");
    root.make_directory(b"d", 0o755).unwrap();
    root.make_node(b"p", FileKind::Fifo, 0o600, 0).unwrap();
    root.make_symlink(b"lock", b"l").unwrap();
    assert_eq!(errno(root.lock(b"d", b"")), libc::EISDIR);
    assert_eq!(errno(root.lock(b"p", b"")), libc::ENXIO);
    assert_eq!(errno(root.lock(b"l", b"")), libc::ELOOP);
}

pub(crate) fn long_names_fit(root: &dyn Directory) {
    let odd: Vec<u8> = (1..=255).filter(|&byte| byte != b'/').chain([b'x']).collect();
    for name in [[b'n'; 255].to_vec(), odd] {
        create(root, &name, b"x").set_xattr(b"user.x", b"1", XattrMode::Any).unwrap();
        assert_eq!(root.get_xattr(&name, b"user.x").unwrap(), b"1");
        root.set_mode(&name, 0o600).unwrap();
        assert!(list(root).contains_key(&name));
    }
    root.make_directory(&[b'd'; 255], 0o755).unwrap();
    let record = [[b'd'; 255].as_slice(), b"/", &[b'r'; 255]].concat();
    root.make_symlink(b"record", &record).unwrap();
    assert_eq!(root.read_link(&record).unwrap(), b"record");
    root.unlink(&record).unwrap();
}
