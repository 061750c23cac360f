"""Tests the decoder against vaults that the program writes now, through a real mount: what is
decoded must be what was seen there. Run by `run`, which sets STRONGROOM to the program.
"""

import hashlib
import json
import os
import random
import shutil
import signal
import stat
import subprocess
import tempfile
import time
import unittest
import urllib.parse
from pathlib import Path

from test_decoder import decode

PROGRAM = os.environ["STRONGROOM"]
WITHOUT_FUSE = os.environ.get("STRONGROOM_TEST_WITHOUT_FUSE")
KINDS = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "symlink", stat.S_IFIFO: "fifo"}


def strongroom(*arguments):
    return subprocess.run([PROGRAM, *arguments], capture_output=True, text=True, check=True)


def observe(root):
    """What decode.py tells of a tree, from a mount of it."""
    tree = {}
    for directory, _, names in os.walk(os.fsencode(root)):
        for path in [directory, *(os.path.join(directory, name) for name in names)]:
            observe_entry(tree, os.fsencode(root), path)
        for name in os.listdir(directory):
            path = os.path.join(directory, name)
            if os.path.islink(path):
                observe_entry(tree, os.fsencode(root), path)
    return tree


def observe_entry(tree, root, path):
    status = os.lstat(path)
    kind = KINDS[stat.S_IFMT(status.st_mode)]
    entry = {
        "kind": kind,
        "mode": f"{stat.S_IMODE(status.st_mode):04o}",
        "uid": status.st_uid,
        "gid": status.st_gid,
        "mtime_ns": status.st_mtime_ns,
    }
    if kind != "directory":
        entry["links"] = status.st_nlink
    if kind == "file":
        with open(path, "rb") as file:
            entry["sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
        entry["size"] = status.st_size
    if kind == "symlink":
        entry["target"] = quote(os.readlink(path))
    else:
        attributes = {
            quote(os.fsencode(name)): os.getxattr(path, name, follow_symlinks=False).hex()
            for name in os.listxattr(path, follow_symlinks=False)
        }
        if attributes:
            entry["xattrs"] = attributes
    tree[quote(os.path.relpath(path, root) if path != root else b"")] = entry


def quote(data):
    return urllib.parse.quote(data, safe="/~")


def decoded(output):
    entries = [json.loads(line) for line in output.splitlines()]
    return {entry.pop("path"): entry for entry in entries}


def any_name(rng, length):
    """Any bytes that a name may have."""
    while True:
        name = bytes(rng.choice(range(1, 256)) for _ in range(length)).replace(b"/", b"_")
        if name not in (b".", b".."):
            return name


def populate(root, rng):
    """A tree with every feature, and much that is at a limit."""
    root = os.fsencode(root)
    for length in (1, 15, 16, 17, 159, 160, 161, 254, 255):
        with open(os.path.join(root, any_name(rng, length)), "wb") as file:
            file.write(rng.randbytes(length))
    for size in (0, 1, 4095, 4096, 4097, 8192, 100_000):
        with open(os.path.join(root, b"size-%d" % size), "wb") as file:
            file.write(rng.randbytes(size))
    with open(os.path.join(root, b"sparse"), "wb") as file:
        for offset in (3, 5 * 4096 - 1, 1 << 20, (1 << 24) + 17):
            file.seek(offset)
            file.write(b"data")
        file.truncate((1 << 24) + 99_999)
    with open(os.path.join(root, b"rewritten"), "wb") as file:
        file.write(rng.randbytes(50_000))
        file.flush()
        os.fsync(file.fileno())
        for _ in range(40):
            file.seek(rng.randrange(45_000))
            file.write(rng.randbytes(rng.randrange(5000)))
        file.truncate(33_333)
    for length in (1, 43, 3043, 3044, 4000):
        os.symlink(any_name(rng, length), os.path.join(root, b"link-%d" % length))
    with open(os.path.join(root, b"attributes"), "wb") as file:
        for name, size in (("short", 10), ("empty", 0), ("l" * 250, 100), ("x", 2500), ("y", 3000)):
            os.setxattr(file.fileno(), "user." + name, rng.randbytes(size))
    os.mkfifo(os.path.join(root, b"fifo"), 0o640)
    os.link(os.path.join(root, b"size-4097"), os.path.join(root, b"hard"))
    deep = root
    for level in range(40):
        deep = os.path.join(deep, b"level-%d" % level)
        os.mkdir(deep, 0o700 | level)
    with open(os.path.join(deep, any_name(rng, 255)), "wb") as file:
        file.write(b"bottom")
    os.mkdir(os.path.join(root, any_name(rng, 255)))
    os.utime(os.path.join(root, b"size-1"), ns=(1, -1_500_000_000_123_456_789))
    os.chmod(os.path.join(root, b"size-1"), 0o4711)
    if os.geteuid() == 0:
        os.chown(os.path.join(root, b"size-0"), 12345, 54321)


@unittest.skipIf(WITHOUT_FUSE, WITHOUT_FUSE)
class Live(unittest.TestCase):
    def setUp(self):
        self.maxDiff = None
        seed = os.environ.get("SEED") or str(random.SystemRandom().randrange(1 << 32))
        self.enterContext(self.subTest(seed=seed))
        self.rng = random.Random(seed)
        self.place = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.place)
        self.vault, self.mount = self.place / "vault", self.place / "mount"
        self.mount.mkdir()
        (self.place / "passphrase").write_text("correct horse\n")
        (self.place / "key").write_bytes(self.rng.randbytes(100))
        self.secret = ("--passphrase-file", self.place / "passphrase")
        strongroom(
            "init", self.vault, *self.secret, "--recovery-key-out", self.place / "words",
            "--kdf-memory", "64", "--kdf-iterations", "1",
        )
        self.daemon = None
        self.addCleanup(self.unmount)

    def start(self):
        self.daemon = subprocess.Popen(
            [PROGRAM, "mount", self.vault, self.mount, *self.secret, "--foreground"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        while not os.path.ismount(self.mount):
            self.assertIsNone(self.daemon.poll(), "the daemon runs")
            time.sleep(0.02)

    def unmount(self):
        if self.daemon:
            subprocess.run([PROGRAM, "umount", self.mount], capture_output=True, check=False)
            self.daemon.wait(timeout=60)
            self.daemon = None

    def check_decoded(self, expected, vault=None):
        done = decode(vault or self.vault, self.secret, "--json", "check")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        found = decoded(done.stdout)
        self.assertEqual(found.keys(), expected.keys())
        for path, entry in expected.items():
            self.assertEqual(found[path], entry, path)

    def test_everything_is_decoded_as_it_was_seen(self):
        self.start()
        populate(self.mount, self.rng)
        self.unmount()
        self.start()
        seen = observe(self.mount)
        self.assertGreater(len(seen), 60)
        self.unmount()
        self.check_decoded(seen)

    def test_every_slot_opens(self):
        strongroom("key", "add", self.vault, *self.secret, "--new-key-file", self.place / "key")
        for secret in (
            self.secret,
            ("--key-file", self.place / "key"),
            ("--recovery-words-file", self.place / "words"),
        ):
            done = decode(self.vault, secret, "list")
            self.assertEqual((done.returncode, done.stderr), (0, ""), secret[0])

    def test_what_a_killed_mount_left_is_decoded_as_it_is_recovered(self):
        self.start()
        populate(self.mount, self.rng)
        with open(self.mount / "durable", "wb") as file:
            file.write(self.rng.randbytes(60_000))
            os.fsync(file.fileno())
        self.unmount()
        self.start()
        with open(self.mount / "durable", "r+b") as file:
            for _ in range(10):
                file.seek(self.rng.randrange(50_000))
                file.write(self.rng.randbytes(6000))
                file.flush()
                os.fsync(file.fileno())
        self.daemon.send_signal(signal.SIGKILL)
        self.daemon.wait()
        subprocess.run(["umount", "--lazy", self.mount], capture_output=True, check=False)
        subprocess.run(["fusermount3", "-uz", self.mount], capture_output=True, check=False)
        killed = self.place / "killed"
        subprocess.run(["cp", "-a", self.vault, killed], check=True)
        self.start()
        recovered = observe(self.mount)
        self.unmount()
        self.check_decoded(recovered, killed)
        self.check_decoded(recovered)


if __name__ == "__main__":
    unittest.main()
