"""A place to try mounts in: an ext4 of its own on a loop device, vaults on it, and their mounts.

Owns setting up and tearing down; knows nothing of what is tried. Everything is made below one
temporary directory in a private mount namespace, so that nothing is left behind and several runs
do not see each other. Python's standard library is all it needs.
"""

import contextlib
import mmap
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
PASSPHRASE = "a passphrase for tests\n"
MOUNT_PATIENCE = 60
UNPRIVILEGED = os.geteuid() != 0
UNMOUNT = ["fusermount3", "-u"] if UNPRIVILEGED else ["umount"]


def require_root():
    """Mounting loop devices needs it; so do tests that change users."""
    if os.geteuid() != 0:
        sys.exit("this must be run as root")


def enter_namespace():
    """Starts this program again in a mount namespace of its own, unless it is in one."""
    require_root()
    marker = "STRONGROOM_LAB_NAMESPACE"
    if os.environ.get(marker) != str(os.getppid()):
        # The parent's number in the marker: an inherited variable alone proves nothing.
        environment = dict(os.environ)
        environment[marker] = str(os.getpid())
        command = ["unshare", "--mount", "--propagation", "private", sys.executable, *sys.argv]
        child = subprocess.Popen(command, env=environment)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda received, _frame: child.send_signal(received))
        sys.exit(child.wait())
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def target_directory():
    """Where cargo builds."""
    return pathlib.Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target"))


def binary():
    """The program under test: $STRONGROOM, else a build of this repository as for its tests."""
    given = os.environ.get("STRONGROOM")
    if given:
        return given
    run(["cargo", "build", "--quiet", "--bin", "strongroom"], cwd=REPOSITORY)
    return str(target_directory() / "debug" / "strongroom")


def run(command, **options):
    """Runs a command that must succeed; its standard output when captured."""
    options.setdefault("check", True)
    return subprocess.run([str(part) for part in command], **options)


def output(command, **options):
    """The standard output of a command that must succeed."""
    return run(command, stdout=subprocess.PIPE, text=True, **options).stdout


def tools_directory():
    """Where programs that the suites need are built, outside of the repository."""
    default = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache"))
    path = pathlib.Path(os.environ.get("STRONGROOM_LAB_TOOLS", default / "strongroom-lab"))
    path.mkdir(parents=True, exist_ok=True)
    return path


def cargo_tool(package, version):
    """A program from crates.io at an exact version, built once."""
    root = tools_directory() / f"{package}-{version}"
    program = root / "bin" / package
    if not program.exists():
        run(["cargo", "install", "--locked", "--root", root, f"{package}@{version}"])
    return program


def python(requirements, name):
    """A Python with what a file of requirements names, in the target directory."""
    venv = target_directory() / name
    marker, wanted = venv / "installed", requirements.read_text()
    if not marker.exists() or marker.read_text() != wanted:
        run([sys.executable, "-m", "venv", venv])
        run([venv / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check",
             "--requirement", requirements])
        marker.write_text(wanted)
    return venv / "bin" / "python"


class Mount:
    """A filesystem served by a daemon in the foreground."""

    def __init__(self, lab, path, command, name):
        self.lab, self.path, self.name = lab, pathlib.Path(path), name
        self.log_path = lab.base / f"{name}.log"
        self.command = command
        self.process = None
        self.start()

    def start(self):
        self.path.mkdir(exist_ok=True)
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                [str(part) for part in self.command], stdout=log, stderr=log,
                stdin=subprocess.DEVNULL, start_new_session=True,
            )
        deadline = time.monotonic() + MOUNT_PATIENCE
        while not os.path.ismount(self.path):
            if self.process.poll() is not None:
                raise RuntimeError(f"{self.name} ended with {self.process.returncode}: {self.log()}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} did not mount in {MOUNT_PATIENCE} s: {self.log()}")
            time.sleep(0.05)

    def stop(self):
        """Unmounts and waits for the daemon; its exit code must be 0."""
        if self.process is None:
            return
        if self.process.poll() is None:
            run([*UNMOUNT, self.path])
        code = self.process.wait(timeout=300)
        self.process = None
        if code != 0:
            raise RuntimeError(f"{self.name} ended with {code}: {self.log()}")

    def remount(self):
        """Unmounts, drops the kernel's caches of what lies below, and mounts afresh."""
        self.stop()
        drop_caches()
        self.start()

    def kill(self):
        """As after a crash of the daemon: SIGKILL, then the dead mount is cleared away."""
        self.process.kill()
        self.process.wait()
        self.process = None
        run([*UNMOUNT, "-z" if UNPRIVILEGED else "--lazy", self.path])

    def is_gone(self, patience=10):
        """Whether nothing is mounted there any more, or soon."""
        deadline = time.monotonic() + patience
        while os.path.ismount(self.path):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    def abandon(self):
        """Ends it however it stands."""
        if self.process is None:
            return
        subprocess.run([*UNMOUNT, "-z" if UNPRIVILEGED else "--lazy", self.path], stderr=subprocess.DEVNULL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=20)
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.process = None

    def log(self):
        return self.log_path.read_text(errors="replace")[-4000:]

    def memory(self):
        """Resident memory of the daemon in bytes: (now, at its peak)."""
        fields = {}
        for line in pathlib.Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            key, _, value = line.partition(":")
            fields[key] = value.split()
        return int(fields["VmRSS"][0]) * 1024, int(fields["VmHWM"][0]) * 1024

    def descriptors(self):
        """How many file descriptors the daemon has open."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))


class Lab:
    """An ext4 on a loop device, and what is mounted from it. Use as a context manager. Without
    `loop` the disk is but a directory, which needs no root.

    It lies in $STRONGROOM_LAB_DIRECTORY, else where temporary files do. On a tmpfs its syncs cost
    nothing, which makes long runs short.
    """

    def __init__(self, gibibytes=4, mkfs=("mkfs.ext4", "-q"), loop=True, filled=False):
        directory = os.environ.get("STRONGROOM_LAB_DIRECTORY")
        self.base = pathlib.Path(tempfile.mkdtemp(prefix="strongroom-lab-", dir=directory))
        self.base.chmod(0o755)
        self.image = self.base / "image"
        self.disk = self.base / "disk"
        self.mounts = []
        self.size = int(gibibytes * (1 << 30))
        self.mkfs = mkfs
        self.loop = loop
        self.filled = filled

    def __enter__(self):
        try:
            self.disk.mkdir()
            if self.loop:
                with open(self.image, "wb", buffering=0) as image:
                    image.truncate(self.size)
                    if self.filled:
                        # The first write to a page of it shall take no longer than the next.
                        # Reserving the room alone does not do for that, and mkfs must not discard it.
                        zeros = bytes(1 << 20)
                        for _ in range(self.size >> 20):
                            image.write(zeros)
                run([*self.mkfs, self.image])
                run(["mount", "-o", "loop", self.image, self.disk])
            self.plain = self.disk / "plain"
            self.plain.mkdir()
            self.passphrase = self.base / "passphrase"
            self.passphrase.write_text(PASSPHRASE)
            self.passphrase.chmod(0o600)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, *_):
        for mount in reversed(self.mounts):
            mount.abandon()
        if self.disk.is_mount():
            subprocess.run(["umount", "--lazy", self.disk])
        shutil.rmtree(self.base, ignore_errors=True)

    def vault(self, name="vault", options=None, prefix=()):
        """A new vault on the disk, mounted; as root for others, too, unless `options` say else.
        `prefix` goes before the daemon's command line.
        """
        if options is None:
            options = [] if UNPRIVILEGED else ["--allow-other"]
        program, directory = binary(), self.disk / name
        run([program, "init", directory, "--passphrase-file", self.passphrase,
             "--no-recovery-key", "--kdf-memory", "64", "--kdf-iterations", "1", "--quiet"])
        command = [*prefix, program, "mount", directory, self.base / f"{name}.mnt",
                   "--passphrase-file", self.passphrase, "--foreground", *options]
        return self._mounted(self.base / f"{name}.mnt", command, name)

    def gocryptfs(self, name="gocryptfs"):
        """The same with gocryptfs, to compare."""
        directory = self.disk / name
        directory.mkdir()
        run(["gocryptfs", "-q", "-init", "-scryptn", "10", "-passfile", self.passphrase, directory])
        command = ["gocryptfs", "-q", "-fg", "-allow_other", "-acl",
                   "-passfile", self.passphrase, directory, self.base / f"{name}.mnt"]
        return self._mounted(self.base / f"{name}.mnt", command, name)

    def _mounted(self, path, command, name):
        mount = Mount(self, path, command, name)
        self.mounts.append(mount)
        return mount


def touch_memory(gibibytes=3):
    """Uses memory and gives it back, for what is timed next: a virtual machine whose host takes back
    what is free pays for the first use of each page (here 0.3 s a GiB from a program, 2.5 s in the cache
    of files), and the one that begins after a pause would pay for all.
    """
    with open("/proc/meminfo") as lines:
        available = next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable"))
    size = min(gibibytes << 30, available // 2) & -4096
    with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE):
        pass


def drop_caches():
    """Has the kernel forget what it has of files, where this user may."""
    os.sync()
    if UNPRIVILEGED:
        return
    pathlib.Path("/proc/sys/vm/drop_caches").write_text("3")
