//! What is agreed with the kernel when a connection begins (`FUSE_INIT`).

use fuser::{InitFlags, KernelConfig};

/// Bytes in the largest write and read; the kernel's own limit by default (256 pages).
const MAX_WRITE: u32 = 1024 * 1024;
/// Read-ahead and writeback requests that may be under way at once.
const MAX_BACKGROUND: u16 = 64;

/// What is asked of every kernel that offers it. To be left out, because `fuser` 0.18 cannot
/// honour them: `OVER_IO_URING`, `SETXATTR_EXT`, `ALLOW_IDMAP`, `SECURITY_CTX` and
/// `CREATE_SUPP_GROUP`.
const WANTED: InitFlags = InitFlags::FUSE_ASYNC_READ
    .union(InitFlags::FUSE_BIG_WRITES)
    .union(InitFlags::FUSE_MAX_PAGES)
    .union(InitFlags::FUSE_PARALLEL_DIROPS)
    .union(InitFlags::FUSE_DO_READDIRPLUS)
    .union(InitFlags::FUSE_READDIRPLUS_AUTO)
    .union(InitFlags::FUSE_CACHE_SYMLINKS)
    .union(InitFlags::FUSE_WRITEBACK_CACHE)
    .union(InitFlags::FUSE_HANDLE_KILLPRIV_V2)
    .union(InitFlags::FUSE_ASYNC_DIO)
    // The core applies the umask: a directory's default ACL takes its place.
    .union(InitFlags::FUSE_DONT_MASK);

/// How a filesystem is served.
#[derive(Clone, Copy, Debug)]
pub struct AdapterSettings {
    /// The kernel checks permissions by mode and ACL. Needed where several users come; costs a
    /// message for every name made or removed, so not used where only the owner comes.
    pub kernel_permissions: bool,
    /// How many threads serve requests.
    pub threads: usize,
    /// Opening a file sends no message. Only where the daemon may open whatever the kernel lets
    /// be opened; else opening is where the filesystem below refuses.
    pub stateless_opens: bool,
    /// Idle CPUs may sleep as deeply as ever while requests come in quick succession.
    pub power_saving: bool,
}

/// What was agreed, as far as the adapter must know.
pub(super) struct Agreed {
    /// The kernel takes `ENOSYS` for "opening a file needs no message".
    pub(super) stateless_opens: bool,
    /// The same of directories, whose listings it then keeps.
    pub(super) stateless_directory_opens: bool,
}

/// Asks for what the kernel offers of what is wanted. What it does not offer is done without; every
/// kernel since 5.12 offers all of it.
pub(super) fn negotiate(config: &mut KernelConfig, settings: AdapterSettings) -> Agreed {
    let offered = config.capabilities();
    let mut wanted = WANTED;
    if settings.kernel_permissions {
        // This one makes the kernel check permissions, asked for or not.
        wanted |= InitFlags::FUSE_POSIX_ACL;
    }
    let _ = config.add_capabilities(wanted & offered);
    let _ = config.set_max_write(MAX_WRITE);
    let _ = config.set_max_background(MAX_BACKGROUND);
    let stateless = |flag| settings.stateless_opens && offered.contains(flag);
    Agreed {
        stateless_opens: stateless(InitFlags::FUSE_NO_OPEN_SUPPORT),
        stateless_directory_opens: stateless(InitFlags::FUSE_NO_OPENDIR_SUPPORT),
    }
}
