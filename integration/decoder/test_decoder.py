#!/usr/bin/env python3
"""Tests the decoder: against the test vectors, and against the fixture vaults, good and damaged,
which the program wrote. (`run` also tests it against a vault that the program writes now.)
"""

import contextlib
import io
import json
import os
import stat
import subprocess
import sys
import tarfile
import tempfile
import unittest
from pathlib import Path

import make_vectors

HERE = Path(__file__).resolve().parent
TESTS = HERE.parent.parent / "tests"
FIXTURES = TESTS / "fixtures"
WORDS = ("legal winner thank year wave sausage worth useful " * 3).rsplit(" ", 2)[0] + " title"


def unpack(name, target):
    """Unpacks a fixture; the vault's path."""
    with tarfile.open(FIXTURES / f"{name}.tar.gz") as archive:
        archive.extractall(target, filter="tar")
    extras = json.loads((target / "extras.json").read_text())
    for path, mode in extras["fifos"].items():
        os.mkfifo(target / path)
        os.chmod(target / path, mode)
    for path, attributes in extras["xattrs"].items():
        for attribute, value in attributes.items():
            value = bytes.fromhex(value)
            os.setxattr(target / path, attribute, value, follow_symlinks=False)
    # tarfile takes set-user-ID and sticky bits away.
    for entry in tarfile.open(FIXTURES / f"{name}.tar.gz"):
        if not entry.issym():
            os.chmod(target / entry.name, stat.S_IMODE(entry.mode))
    return target / "vault"


def decode(vault, secret, *arguments):
    command = [sys.executable, HERE / "decode.py", vault, *secret, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def merge(value, change):
    if not (isinstance(value, dict) and isinstance(change, dict)):
        return change
    return {**value, **{name: merge(value.get(name), inner) for name, inner in change.items()}}


def expected_tree(expectations):
    tree = json.loads((FIXTURES / "good.json").read_text())["tree"]
    for path, change in expectations.get("changes", {}).items():
        if change is None:
            del tree[path]
        else:
            tree[path] = merge(tree[path], change)
    return tree


def observed_tree(output):
    tree = {}
    for line in output.splitlines():
        entry = json.loads(line)
        for field in ("uid", "gid", "mtime_ns"):
            del entry[field]
        attributes = entry.pop("xattrs", {})
        attributes = {name: it for name, it in attributes.items() if name.startswith("user.")}
        if attributes:
            entry["xattrs"] = attributes
        tree[entry.pop("path")] = entry
    return tree


class Fixtures(unittest.TestCase):
    def setUp(self):
        self.maxDiff = None
        self.place = Path(self.enterContext(tempfile.TemporaryDirectory()))
        (self.place / "passphrase").write_text("open sesame\n")
        (self.place / "key").write_bytes(bytes(range(64)))
        (self.place / "words").write_text(WORDS)
        self.secret = ("--passphrase-file", self.place / "passphrase")

    def test_every_fixture(self):
        names = sorted(path.stem for path in FIXTURES.glob("*.json"))
        self.assertEqual(len(names), 25)
        for name in names:
            with self.subTest(name):
                expectations = json.loads((FIXTURES / f"{name}.json").read_text())
                target = self.place / name
                target.mkdir()
                done = decode(unpack(name, target), self.secret, "--json", "check")
                if "refused" in expectations:
                    self.assertEqual(done.returncode, 2, done.stderr)
                    self.assertIn("vault.json", done.stderr)
                    continue
                self.assertEqual(observed_tree(done.stdout), expected_tree(expectations))
                changes = expectations.get("changes")
                damaged = bool(changes) and name != "unclean-end"
                self.assertEqual(done.returncode, int(damaged), done.stderr)
                self.assertEqual("damaged" in done.stderr, damaged, done.stderr)

    def test_every_secret_and_no_other(self):
        vault = unpack("good", self.place)
        for option, file in (("passphrase", "passphrase"), ("key", "key"), ("recovery-words", "words")):
            done = decode(vault, (f"--{option}-file", self.place / file), "list")
            self.assertEqual((done.returncode, done.stderr), (0, ""))
            self.assertIn("/notes/diary.txt", done.stdout)
        (self.place / "passphrase").write_text("open sesam")
        done = decode(vault, self.secret, "list")
        self.assertEqual((done.returncode, done.stdout), (2, ""))
        self.assertIn("opens no key slot", done.stderr)

    def test_extraction(self):
        vault = unpack("good", self.place)
        plain = self.place / "plain"
        done = decode(vault, self.secret, "extract", plain)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual((plain / "notes/diary.txt").read_text(), "dear diary\n")
        self.assertEqual(os.readlink(plain / "long-link"), "t" * 3500)
        self.assertEqual((plain / ("x" * 161)).read_text(), "long")
        self.assertTrue((plain / "hard-1").samefile(plain / "hard-2"))
        self.assertTrue((plain / "fifo").is_fifo())
        self.assertEqual(os.getxattr(plain / "attributes", "user." + "n" * 250), b"of a long name")
        sparse = (plain / "sparse").stat()
        self.assertEqual(sparse.st_size, 5 * 4096 + 21)
        self.assertLess(sparse.st_blocks * 512, sparse.st_size, "the hole is one again")
        mode = stat.S_IMODE((plain / "notes/deeper/leaf").stat().st_mode)
        self.assertEqual(mode, 0o4755)


class Vectors(unittest.TestCase):
    def test_the_committed_vectors_are_these(self):
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            make_vectors.main()
        committed = (TESTS / "vectors/format-1.json").read_text()
        self.assertEqual(output.getvalue(), committed)


if __name__ == "__main__":
    unittest.main()
