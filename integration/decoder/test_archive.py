"""Tests archive1.py against backups that the program makes now: all that is decoded must be what lies
in the source, and every damage must be noticed. Run by `run`, which sets STRONGROOM to the program.
"""

import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

HERE = Path(__file__).parent
PROGRAM = os.environ["STRONGROOM"]
FORMS = ["zstd", "gzip", "lz4", "none"]


def decoder(*arguments):
    command = [sys.executable, HERE / "archive1.py", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


class Backups(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.root = Path(directory.name)
        self.passphrase = self.root / "passphrase"
        self.passphrase.write_text("correct horse\n")
        self.passphrase.chmod(0o600)
        source = self.root / "source"
        (source / "sub/deeper").mkdir(parents=True)
        generator = random.Random(7)
        for number in range(300):
            content = generator.randbytes(generator.randrange(3000))
            (source / f"sub/{number}").write_bytes(content)
        (source / "large").write_bytes(generator.randbytes(3_000_000) + bytes(2_000_000))
        (source / "empty").touch()
        with open(source / "sparse", "wb") as file:
            file.truncate(30_000_000)
            file.seek(20_000_000)
            file.write(b"in the middle")
        (source / "link").symlink_to("sub/7")
        os.link(source / "large", source / "sub/large too")
        with open(os.fsencode(source) + b"/odd \xff\n name", "wb") as file:
            file.write(b"odd")
        self.source = source

    def backup(self, *more):
        arguments = ["--json", "--passphrase-file", self.passphrase, "--output", self.root / "out"]
        cost = ["--kdf-memory", "64", "--kdf-iterations", "1"]
        command = [PROGRAM, "backup", "create", self.source, *arguments, *cost, *more]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return json.loads(done.stdout.splitlines()[-1])["archive"]

    def decode(self, archive, command, *more):
        return decoder(archive, "--passphrase-file", self.passphrase, command, *more)

    def test_every_form(self):
        for compression in FORMS:
            for more in ([], ["--no-encrypt"]):
                with self.subTest(compression=compression, more=more):
                    archive = self.backup("--compression", compression, *more)
                    done = self.decode(archive, "check")
                    self.assertEqual(done.returncode, 0, done.stderr)
                    self.compare(archive)

    def compare(self, archive):
        """Each regular file of the source has its line, with its digest."""
        listed = self.decode(archive, "list")
        self.assertEqual(listed.returncode, 0, listed.stderr)
        digests = {}
        for line in map(json.loads, listed.stdout.splitlines()):
            entry = line["entry"]
            if not isinstance(entry["path"], str):
                continue
            if entry.get("sha256"):
                digests[entry["path"]] = entry["sha256"]
            elif entry.get("link_to"):
                digests[entry["path"]] = digests[entry["link_to"]]
        for path in self.source.rglob("*"):
            name = str(path.relative_to(self.source))
            if path.is_file() and not path.is_symlink() and name.isprintable() and "\udcff" not in name:
                expected = hashlib.sha256(path.read_bytes()).hexdigest()
                self.assertEqual(digests.get(name), expected, name)

    def test_tar_reads_what_is_unsealed(self):
        archive = self.backup()
        out = self.root / "unsealed.tar.zst"
        self.assertEqual(self.decode(archive, "unseal", out).returncode, 0)
        target = self.root / "target"
        target.mkdir()
        subprocess.run(["tar", "--zstd", "-xf", out, "-C", target], check=True)
        command = ["diff", "-r", "--no-dereference", self.source, target / "data"]
        diff = subprocess.run(command, capture_output=True, text=True, check=False)
        self.assertEqual(diff.returncode, 0, diff.stdout)

    def test_damage_and_wrong_secrets(self):
        archive = Path(self.backup())
        whole = archive.read_bytes()
        generator = random.Random(8)
        for _ in range(20):
            damaged = bytearray(whole)
            damaged[generator.randrange(len(whole))] ^= 1 << generator.randrange(8)
            archive.write_bytes(damaged)
            self.assertNotEqual(self.decode(archive, "check").returncode, 0)
        for cut in (0, 40, 200, len(whole) // 2, len(whole) - 1):
            archive.write_bytes(whole[:cut])
            self.assertNotEqual(self.decode(archive, "check").returncode, 0, cut)
        archive.write_bytes(whole)
        self.passphrase.write_text("wrong\n")
        self.assertEqual(self.decode(archive, "check").returncode, 2)
        self.assertEqual(decoder(archive, "check").returncode, 2)


if __name__ == "__main__":
    unittest.main()
