//! A vault in a temporary directory, mounted by the program itself.
//!
//! Tests that mount fail where FUSE is missing. Only the environment variable
//! `STRONGROOM_TEST_WITHOUT_FUSE`, set to the reason, lets them pass; each then says so.
//! `integration/test` finds out whether it must.

#![allow(dead_code, reason = "each test file uses its own part")]
#![allow(clippy::print_stderr, reason = "a test that is not run says so")]

pub mod posix;
pub mod process;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// How long a test waits for what must come.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Whether the test can mount; says so where it need not.
///
/// # Panics
/// When there is no FUSE and nothing says that there need not be.
pub fn fuse_is_here(test: &str) -> bool {
    if let Some(reason) = std::env::var_os("STRONGROOM_TEST_WITHOUT_FUSE") {
        eprintln!("{test}: not run, for it mounts: {}", reason.display());
        return false;
    }
    assert!(
        Path::new("/dev/fuse").exists(),
        "{test} needs /dev/fuse; set STRONGROOM_TEST_WITHOUT_FUSE to the reason if there is none \
         here"
    );
    true
}

/// The program under test.
pub fn strongroom() -> Command {
    let mut command = Command::new(binary());
    command.env_remove("CREDENTIALS_DIRECTORY").env_remove("NO_COLOR").stdin(Stdio::null());
    command
}

fn binary() -> PathBuf {
    match std::env::var_os("STRONGROOM_TEST_BINARY") {
        Some(path) => path.into(),
        None => env!("CARGO_BIN_EXE_strongroom").into(),
    }
}

/// An ID that is nobody's who matters.
pub const NOBODY: u32 = 65534;

/// Runs the tests of this binary, but for the one named, as an ordinary user, if they run as root.
/// In a mount namespace of their own they find a `/dev/fuse` that is open to all, as it is where
/// udev made it.
///
/// # Panics
/// When one of them fails.
pub fn as_an_ordinary_user(except: &str) {
    if !fuse_is_here(except) || !rustix::process::geteuid().is_root() {
        return;
    }
    // Where this binary lies, others may not come.
    let place = tempfile::tempdir().expect("a temporary directory");
    let (tests, program) = (place.path().join("tests"), place.path().join("strongroom"));
    fs::copy(std::env::current_exe().expect("this binary"), &tests).expect("a copy");
    fs::copy(binary(), &program).expect("a copy");
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
    let work = place.path().join("work");
    fs::create_dir(&work).expect("a directory");
    std::os::unix::fs::chown(&work, Some(NOBODY), Some(NOBODY)).expect("chown");
    let script = "set -e
        node=/dev/strongroom-test-$$
        mknod -m 666 $node c 10 229
        mount --bind $node /dev/fuse
        rm $node
        exec setpriv --reuid $1 --regid $1 --clear-groups -- \"$0\" --skip $2 --test-threads 2";
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "slave", "sh", "-c", script])
        .args([tests.as_os_str(), NOBODY.to_string().as_ref(), except.as_ref()])
        .env("STRONGROOM_TEST_BINARY", &program)
        .env("TMPDIR", &work)
        .env("HOME", &work)
        .env("RUST_BACKTRACE", "0")
        .env("STRONGROOM_TEST_WITHOUT_ROOT", "this is an ordinary user; root has run them")
        .current_dir(&work)
        .output()
        .expect("unshare");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("test result: ok"),
        "{text}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// What a run of the program printed and ended with.
pub struct Ran {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    pub fn of(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// The last line, as JSON.
    pub fn result(&self) -> serde_json::Value {
        let line = self.stdout.lines().last().unwrap_or_default();
        serde_json::from_str(line)
            .unwrap_or_else(|error| panic!("{error}: {}\n{}", self.stdout, self.stderr))
    }

    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }
}

pub fn run(command: &mut Command) -> Ran {
    Ran::of(command.output().expect("the program starts"))
}

/// A vault, made with the least that a passphrase may cost, and a place to mount it.
pub struct Place {
    directory: TempDir,
    pub vault: PathBuf,
    pub mount_point: PathBuf,
    pub passphrase: PathBuf,
}

impl Place {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let root = directory.path().canonicalize().expect("its path");
        Self::make(directory, root.join("vault"))
    }

    /// With the vault in a directory of the test's choosing.
    pub fn with_vault_in(parent: &Path) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        Self::make(directory, parent.canonicalize().expect("a path").join("vault"))
    }

    fn make(directory: TempDir, vault: PathBuf) -> Self {
        let root = directory.path().canonicalize().expect("its path");
        let place = Self {
            vault,
            mount_point: root.join("mount"),
            passphrase: root.join("passphrase"),
            directory,
        };
        fs::create_dir(&place.mount_point).expect("a mount point");
        fs::write(&place.passphrase, "correct horse\n").expect("a passphrase");
        fs::set_permissions(&place.passphrase, fs::Permissions::from_mode(0o600)).expect("chmod");
        run(place.command("init").args([
            "--no-recovery-key",
            "--kdf-memory",
            "64",
            "--kdf-iterations",
            "1",
        ]))
        .expect(0);
        place
    }

    /// The directory that holds them, and whatever else a test needs.
    pub fn root(&self) -> &Path {
        self.directory.path()
    }

    /// A command on the vault, with the passphrase.
    pub fn command(&self, name: &str) -> Command {
        let mut command = strongroom();
        command.arg(name).arg(&self.vault).arg("--passphrase-file").arg(&self.passphrase);
        command
    }

    pub fn mount_command(&self) -> Command {
        let mut command = self.command("mount");
        command.arg(&self.mount_point);
        command
    }

    #[track_caller]
    pub fn mount(&self) -> &Path {
        run(&mut self.mount_command()).expect(0);
        &self.mount_point
    }

    #[track_caller]
    pub fn mount_with(&self, options: &[&str]) -> &Path {
        run(self.mount_command().args(options)).expect(0);
        &self.mount_point
    }

    pub fn umount_command(&self) -> Command {
        let mut command = strongroom();
        command.arg("umount").arg(&self.mount_point);
        command
    }

    #[track_caller]
    pub fn umount(&self) {
        run(&mut self.umount_command()).expect(0);
    }

    /// Unmounts when whatever uses the mount has been let go of.
    #[track_caller]
    pub fn umount_after<T>(&self, user: T) {
        drop(user);
        self.umount();
    }

    /// The process that serves the mount.
    #[track_caller]
    pub fn pid(&self) -> u32 {
        let status = run(strongroom().args(["status", "--json"]).arg(&self.mount_point)).expect(0);
        let pid = status.result()["mounts"][0]["pid"].as_u64().expect("a process");
        u32::try_from(pid).expect("a number of a process")
    }

    #[track_caller]
    pub fn health(&self) -> String {
        let status = run(strongroom().args(["status", "--json"]).arg(&self.mount_point));
        status.result()["mounts"][0]["health"].as_str().expect("health").to_owned()
    }

    pub fn is_mounted(&self) -> bool {
        let table = fs::read_to_string("/proc/self/mountinfo").expect("the mount table");
        let path = self.mount_point.to_str().expect("a plain path");
        table.lines().any(|line| line.split(' ').nth(4) == Some(path))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.is_mounted() {
            let _ = self.umount_command().arg("--lazy").output();
        }
    }
}

pub fn kill(pid: u32, signal: &str) {
    let status = Command::new("kill")
        .args([&format!("-{signal}"), &pid.to_string()])
        .status()
        .expect("kill");
    assert!(status.success(), "kill -{signal} {pid}");
}

/// Waits until `condition` holds.
#[track_caller]
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "still waiting for: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
