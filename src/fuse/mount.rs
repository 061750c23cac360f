//! Attaching a FUSE connection to a mount point and detaching it: by mount(2) where this process
//! may, through `fusermount3` where it may not.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::mount::{MntFlags, MsFlags};
use rustix::fs::{Mode, OFlags};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use super::error::{MountError, UnmountError};
use super::table::{FILESYSTEM_TYPE, SOURCE_PREFIX, absolute, mounted_on};

const DEVICE: &str = "/dev/fuse";
const HELPER: &str = "fusermount3";

/// Mount options that the kernel sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KernelOptions {
    /// Refuse every change.
    pub read_only: bool,
    /// Let other users in.
    pub allow_other: bool,
    /// Check permissions in the kernel.
    pub default_permissions: bool,
    /// Execute nothing.
    pub no_exec: bool,
    /// Honour set-user-ID and set-group-ID (only root can ask for it).
    pub set_user_id: bool,
    /// Honour device files (only root can ask for it).
    pub devices: bool,
    /// Keep no access times.
    pub no_access_time: bool,
    /// Make every write durable.
    pub synchronous: bool,
    /// Make every change of a directory durable.
    pub synchronous_directories: bool,
}

impl KernelOptions {
    fn flags(&self) -> MsFlags {
        [
            (self.read_only, MsFlags::MS_RDONLY),
            (self.no_exec, MsFlags::MS_NOEXEC),
            (!self.set_user_id, MsFlags::MS_NOSUID),
            (!self.devices, MsFlags::MS_NODEV),
            (self.no_access_time, MsFlags::MS_NOATIME),
            (self.synchronous, MsFlags::MS_SYNCHRONOUS),
            (self.synchronous_directories, MsFlags::MS_DIRSYNC),
        ]
        .into_iter()
        .filter_map(|(wanted, flag)| wanted.then_some(flag))
        .collect()
    }

    /// For `fusermount3 -o`.
    fn helper_options(&self, source: &OsStr) -> OsString {
        let mut options = b"subtype=strongroom,fsname=".to_vec();
        for &byte in source.as_bytes() {
            if matches!(byte, b',' | b'\\') {
                options.push(b'\\');
            }
            options.push(byte);
        }
        for (wanted, option) in [
            (self.read_only, "ro"),
            (!self.read_only, "rw"),
            (self.no_exec, "noexec"),
            (!self.set_user_id, "nosuid"),
            (self.set_user_id, "suid"),
            (!self.devices, "nodev"),
            (self.devices, "dev"),
            (self.no_access_time, "noatime"),
            (self.synchronous, "sync"),
            (self.synchronous_directories, "dirsync"),
            (self.allow_other, "allow_other"),
            (self.default_permissions, "default_permissions"),
        ] {
            if wanted {
                options.push(b',');
                options.extend_from_slice(option.as_bytes());
            }
        }
        OsString::from_vec(options)
    }
}

/// A mount point that was looked at and found usable.
#[derive(Clone, Debug)]
pub struct MountPoint(PathBuf);

impl MountPoint {
    /// Looks at `path`: it must be an empty directory (`allow_nonempty`: any directory), neither
    /// in the vault nor above it, with nothing mounted. What a killed process of ours left there
    /// is cleared away.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(path: &Path, vault: &Path, allow_nonempty: bool) -> Result<Self, MountError> {
        let access = |error| MountError::Access { path: path.to_owned(), error };
        if let Err(error) = fs::metadata(path)
            && error.raw_os_error() == Some(libc::ENOTCONN)
        {
            clear_dead(&absolute(path).map_err(access)?)?;
        }
        let metadata = fs::metadata(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => MountError::Missing(path.to_owned()),
            _ => access(error),
        })?;
        if !metadata.is_dir() {
            return Err(MountError::NotDirectory(path.to_owned()));
        }
        let path = fs::canonicalize(path).map_err(access)?;
        let vault = fs::canonicalize(vault).unwrap_or_else(|_| vault.to_owned());
        if path.starts_with(&vault) {
            return Err(MountError::InsideVault(path));
        }
        if vault.starts_with(&path) {
            return Err(MountError::VaultInside(path));
        }
        if let Some(entry) = mounted_on(&path).map_err(access)?
            && let Some(mounted) = entry.vault()
        {
            let source_name = format!("the vault {}", mounted.display());
            return Err(MountError::Occupied { path, source_name });
        }
        if !allow_nonempty {
            let mut entries = fs::read_dir(&path).map_err(access)?;
            if entries.next().is_some() {
                return Err(MountError::NotEmpty(path));
            }
        }
        Ok(Self(path))
    }

    /// Its absolute path, free of symlinks.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

/// Detaches what a process of ours that was killed left at `path`.
fn clear_dead(path: &Path) -> Result<(), MountError> {
    let ours = mounted_on(path).ok().flatten().is_some_and(|entry| entry.vault().is_some());
    if !ours {
        return Err(MountError::Dead(path.to_owned()));
    }
    tracing::info!("clearing away the mount whose process is gone on {}", path.display());
    detach(path, Detach::Lazily).map_err(|_| MountError::Dead(path.to_owned()))
}

/// Mounts: the connection over which the kernel will send requests. Until somebody answers them,
/// whoever looks at the mount point waits.
///
/// # Errors
/// What is missing, or who refused.
pub(super) fn attach(
    mount_point: &MountPoint,
    vault: &Path,
    options: &KernelOptions,
) -> Result<OwnedFd, MountError> {
    let mut source = SOURCE_PREFIX.to_vec();
    source.extend_from_slice(vault.as_os_str().as_bytes());
    let source = OsString::from_vec(source);
    if !rustix::process::geteuid().is_root() && !may_mount() {
        return attach_by_helper(mount_point.path(), &source, options);
    }
    match attach_directly(mount_point.path(), &source, options) {
        // Root of a container that may not mount: some let fusermount3 do it.
        Err(MountError::Refused { path, error }) if error.raw_os_error() == Some(libc::EPERM) => {
            attach_by_helper(mount_point.path(), &source, options)
                .map_err(|_| MountError::Refused { path, error })
        }
        result => result,
    }
}

/// Whether this process may mount without being root, as in a user namespace of its own.
pub(super) fn may_mount() -> bool {
    rustix::thread::capabilities(None).is_ok_and(|capabilities| {
        capabilities.effective.contains(rustix::thread::CapabilitySet::SYS_ADMIN)
    })
}

fn attach_directly(
    mount_point: &Path,
    source: &OsStr,
    options: &KernelOptions,
) -> Result<OwnedFd, MountError> {
    let device = rustix::fs::open(DEVICE, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map_err(
        |errno| match errno {
            rustix::io::Errno::NOENT | rustix::io::Errno::NODEV | rustix::io::Errno::NXIO => {
                MountError::DeviceMissing
            }
            errno => MountError::DeviceDenied(errno.into()),
        },
    )?;
    let mut data = format!(
        "fd={},rootmode=40000,user_id={},group_id={}",
        device.as_raw_fd(),
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw(),
    );
    if options.allow_other {
        data.push_str(",allow_other");
    }
    if options.default_permissions {
        data.push_str(",default_permissions");
    }
    nix::mount::mount(
        Some(source),
        mount_point,
        Some(FILESYSTEM_TYPE),
        options.flags(),
        Some(data.as_str()),
    )
    .map_err(|errno| match errno {
        nix::errno::Errno::ENODEV => MountError::DeviceMissing,
        errno => MountError::Refused { path: mount_point.to_owned(), error: errno.into() },
    })?;
    Ok(device)
}

/// `fusermount3` opens the device, mounts, and hands the descriptor over a socket, which it is
/// told to find at its standard input.
fn attach_by_helper(
    mount_point: &Path,
    source: &OsStr,
    options: &KernelOptions,
) -> Result<OwnedFd, MountError> {
    if !Path::new(DEVICE).exists() {
        return Err(MountError::DeviceMissing);
    }
    let (ours, theirs) = UnixStream::pair().map_err(MountError::Connection)?;
    let child = Command::new(HELPER)
        .arg("-o")
        .arg(options.helper_options(source))
        .arg("--")
        .arg(mount_point)
        .env("_FUSE_COMMFD", "0")
        .stdin(OwnedFd::from(theirs))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => MountError::HelperMissing,
            _ => MountError::Connection(error),
        })?;
    let received = receive_descriptor(&ours);
    let output = child.wait_with_output().map_err(MountError::Connection)?;
    match received {
        Ok(Some(device)) if output.status.success() => Ok(device),
        Err(error) if output.status.success() => Err(MountError::Connection(error)),
        _ => Err(refusal(&String::from_utf8_lossy(&output.stderr))),
    }
}

fn refusal(text: &str) -> MountError {
    let text = text.trim().trim_start_matches("fusermount3: ").replace('\n', "; ");
    if text.contains("user_allow_other") {
        MountError::AllowOtherForbidden
    } else if text.contains("device not found") {
        MountError::DeviceMissing
    } else if text.contains("failed to open /dev/fuse") {
        MountError::DeviceDenied(io::Error::from_raw_os_error(libc::EACCES))
    } else {
        MountError::HelperRefused(if text.is_empty() { "no reason given".into() } else { text })
    }
}

fn receive_descriptor(socket: &UnixStream) -> io::Result<Option<OwnedFd>> {
    let mut byte = [0u8; 1];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    rustix::io::retry_on_intr(|| {
        recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC)
    })?;
    let mut received = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    Ok(received.next())
}

/// How to detach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detach {
    /// Only when nobody uses it.
    Cleanly,
    /// At once; who uses it goes on until done.
    Lazily,
}

/// Unmounts what is mounted on `path` (absolute, free of symlinks). Cleanly, the kernel writes
/// all its pages back before this returns.
///
/// # Errors
/// [`UnmountError::Busy`] without the holders, or who refused.
pub fn detach(path: &Path, how: Detach) -> Result<(), UnmountError> {
    let flags = match how {
        Detach::Cleanly => MntFlags::UMOUNT_NOFOLLOW,
        Detach::Lazily => MntFlags::UMOUNT_NOFOLLOW | MntFlags::MNT_DETACH,
    };
    let refused = |reason: String| UnmountError::Refused { path: path.to_owned(), reason };
    match nix::mount::umount2(path, flags) {
        Ok(()) => Ok(()),
        Err(nix::errno::Errno::EBUSY) => {
            Err(UnmountError::Busy { path: path.to_owned(), holders: Vec::new() })
        }
        Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => {
            Err(UnmountError::NotMounted(path.to_owned()))
        }
        Err(nix::errno::Errno::EPERM) => detach_by_helper(path, how),
        Err(errno) => Err(refused(errno.desc().to_owned())),
    }
}

fn detach_by_helper(path: &Path, how: Detach) -> Result<(), UnmountError> {
    let refused = |reason: String| UnmountError::Refused { path: path.to_owned(), reason };
    let mut command = Command::new(HELPER);
    command.arg("-u");
    if how == Detach::Lazily {
        command.arg("-z");
    }
    let output = command.arg("--").arg(path).stdin(Stdio::null()).output().map_err(|error| {
        match error.kind() {
            io::ErrorKind::NotFound => UnmountError::HelperMissing,
            _ => refused(error.to_string()),
        }
    })?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let text = text.trim().trim_start_matches("fusermount3: ");
    if text.contains("busy") {
        Err(UnmountError::Busy { path: path.to_owned(), holders: Vec::new() })
    } else {
        Err(refused(text.replace('\n', "; ")))
    }
}

/// Whether a mount can be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// It answers.
    Well,
    /// Its process is gone.
    Dead,
    /// It does not answer in time.
    Stuck,
    /// This user may not look.
    Unknown,
}

/// Looks at the mount on `path`, for at most `patience`.
pub fn health(path: &Path, patience: std::time::Duration) -> Health {
    let (sender, receiver) = crossbeam_channel::bounded(1);
    let path = path.to_owned();
    // A mount that does not answer holds the thread, not us.
    let started = std::thread::Builder::new().name("health".into()).spawn(move || {
        let answer = match rustix::fs::statvfs(&path) {
            Ok(_) => Health::Well,
            Err(rustix::io::Errno::NOTCONN | rustix::io::Errno::CONNABORTED) => Health::Dead,
            Err(_) => Health::Unknown,
        };
        let _ = sender.send(answer);
    });
    if started.is_err() {
        return Health::Unknown;
    }
    receiver.recv_timeout(patience).unwrap_or(Health::Stuck)
}

/// Ends a connection, by the device number of its mount: whoever waits for an answer gets
/// `ENOTCONN`, the mount stays and is dead.
///
/// # Errors
/// Where the kernel's control filesystem is not mounted, or the mount is somebody else's.
pub fn abort(device: (u32, u32)) -> io::Result<()> {
    std::fs::write(format!("/sys/fs/fuse/connections/{}/abort", device.1), "1")
}

/// Lets the kernel read ahead and write back on the mount as on a disk. Its defaults for FUSE
/// (128 KiB of read-ahead, hardly any dirty pages) cost most of the throughput. Read-ahead of two
/// requests (1 MiB each) lets one be decrypted while the next is read. Only root may; without, the
/// mount is merely slower.
pub(super) fn tune(device: (u32, u32)) {
    let directory = format!("/sys/class/bdi/{}:{}", device.0, device.1);
    for (setting, value) in [("read_ahead_kb", "2048"), ("max_ratio", "100"), ("strict_limit", "0")]
    {
        let path = Path::new(&directory).join(setting);
        if let Err(error) = fs::write(&path, value) {
            tracing::debug!("{} stays as it is: {error}", path.display());
        }
    }
}

/// Marks every descriptor but standard input, output and error to be closed when a program is
/// executed: a daemon shall not keep open what its caller happened to have.
#[allow(unsafe_code)]
pub fn close_inherited_on_exec() {
    // SAFETY: takes numbers only, and changes nothing but a flag that matters at exec.
    let result = unsafe {
        libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC)
    };
    if result != 0 {
        tracing::debug!("inherited descriptors stay open: {}", io::Error::last_os_error());
    }
}

/// Makes the kernel write back all it holds for a mounted filesystem, and waits for it.
pub(super) fn write_back_all(path: &Path) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(path, flags, Mode::empty())?;
    Ok(rustix::fs::syncfs(directory)?)
}

/// Writes the dirty pages of a file back to its filesystem and waits for it, no more: nothing is
/// made durable, and no lock is taken that whoever uses the file may hold.
#[allow(unsafe_code)]
pub(super) fn write_back(file: &OwnedFd) -> io::Result<()> {
    let flags = libc::SYNC_FILE_RANGE_WAIT_BEFORE
        | libc::SYNC_FILE_RANGE_WRITE
        | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    // SAFETY: takes numbers only; the descriptor is open for as long as it is borrowed.
    let result = unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, flags) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn helper_options_escape_what_separates() {
        let options = KernelOptions { read_only: true, ..KernelOptions::default() };
        assert_eq!(
            options.helper_options(OsStr::new("strongroom#/a,b\\c")),
            "subtype=strongroom,fsname=strongroom#/a\\,b\\\\c,ro,nosuid,nodev"
        );
    }

    #[test]
    fn unusable_mount_points_are_named() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        let vault = root.join("vault");
        fs::create_dir_all(vault.join("inside")).unwrap();
        fs::write(root.join("file"), "").unwrap();
        let check = |name: &str, nonempty| MountPoint::check(&root.join(name), &vault, nonempty);
        assert!(matches!(check("missing", false), Err(MountError::Missing(_))));
        assert!(matches!(check("file", false), Err(MountError::NotDirectory(_))));
        assert!(matches!(check("vault", false), Err(MountError::InsideVault(_))));
        assert!(matches!(check("vault/inside", false), Err(MountError::InsideVault(_))));
        assert!(matches!(check("", false), Err(MountError::VaultInside(_))));
        fs::create_dir(root.join("full")).unwrap();
        fs::write(root.join("full/file"), "").unwrap();
        assert!(matches!(check("full", false), Err(MountError::NotEmpty(_))));
        assert_eq!(check("full", true).unwrap().path(), root.join("full"));
        // A name that merely begins alike is no relation.
        fs::create_dir(root.join("vault2")).unwrap();
        assert!(check("vault2", false).is_ok());
    }

    #[test]
    fn refusals_are_understood() {
        let text = "fusermount3: option allow_other only allowed if 'user_allow_other' is set in \
                    /etc/fuse.conf\n";
        assert!(matches!(refusal(text), MountError::AllowOtherForbidden));
        let text = "fusermount3: user has no write access to mountpoint /x\n";
        let error = refusal(text);
        assert_eq!(
            error.to_string(),
            "fusermount3 refused: user has no write access to mountpoint /x"
        );
    }
}
