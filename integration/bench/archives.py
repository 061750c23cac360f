#!/usr/bin/env python3
"""Times full backups and their restores, side by side with tar | zstd | age, restic and borg.

    integration/bench/archives.py PROGRAM [--store-mib 2048] [--files 15000] [--rounds 3]
        [--workload tree|store|both] [--directory DIR] [--json FILE]

PROGRAM is a release build of strongroom. The tree has many files of the sizes that source trees
have, of text that compresses; the store is one SQLite-like file, half of it hard to compress.
Everything of every program lies in DIR (by default a temporary directory), on one disk. The order of
the programs turns with each round, and each begins with its source in the page cache, which is what a
backup after a day's work finds. Creating ends with a sync; the table gives medians. Each program
encrypts with a passphrase or key of its own, at its usual compression (`zstd -3`; strongroom: zstd without a
level; restic: auto; borg: zstd,3); the table gives the size in MiB, too. The key derivation of a
passphrase (about a second) is part of the time, as for a person; age has a key file and derives nothing,
and `strongroom-key-file` is the number beside that. strongroom reads its backup back before naming it,
which none of the others does: `strongroom-no-verify` and `strongroom-key-file-no-verify` do without. Not
part of any test run.
"""

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "common"))
import lab  # noqa: E402

WORDS = [
    "memory", "session", "context", "token", "vector", "message", "return", "if", "else", "for", "self",
    "import", "value", "error", "result", "index", "query", "store", "data", "the", "of", "and",
]


def make_tree(root, files):
    generator = random.Random(1)
    for number in range(files):
        directory = root / f"{number % 40:02}" / f"{number % 1600 // 40:02}"
        directory.mkdir(parents=True, exist_ok=True)
        size = min(int(generator.lognormvariate(8, 1.5)), 2_000_000)
        text = " ".join(generator.choices(WORDS, k=200))
        (directory / f"file{number}.txt").write_text((f"{number} " + text * (size // len(text) + 1))[:size])


def make_store(root, mib):
    root.mkdir(parents=True, exist_ok=True)
    generator = random.Random(2)
    text = (" ".join(generator.choices(WORDS, k=80_000))).encode()
    with open(root / "store.db", "wb") as file:
        for number in range(mib):
            if number % 2:
                file.write(generator.randbytes(1 << 20))
            else:
                begin = generator.randrange(100_000)
                part = (text[begin:] + text[:begin] + text + text)[: (1 << 20) - 8]
                file.write(number.to_bytes(8, "big") + part)


class Tool:
    def __init__(self, work):
        self.work = work
        self.environment = dict(os.environ)

    def run(self, *command, **more):
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                       env=self.environment, **more)

    def shell(self, line):
        self.run("bash", "-o", "pipefail", "-c", line)


class Strongroom(Tool):
    name = "strongroom"
    option = "--passphrase-file"
    more = ()

    def __init__(self, work, program):
        super().__init__(work)
        self.program = program
        self.secret = work / "secret"
        self.secret.touch(0o600)
        self.secret.write_bytes(self.content())

    def content(self):
        return b"correct horse\n"

    def create(self, source):
        self.run(self.program, "backup", "create", source, "--output", self.work / "out",
                 self.option, self.secret, *self.more)

    def restore(self, source, target):
        archive = next((self.work / "out").glob("*.enc"))
        self.run(self.program, "backup", "restore", archive, "--target", target,
                 self.option, self.secret)


class StrongroomNoVerify(Strongroom):
    name = "strongroom-no-verify"
    more = ("--no-verify",)


class StrongroomKeyFile(Strongroom):
    name = "strongroom-key-file"
    option = "--key-file"

    def content(self):
        return os.urandom(32)


class StrongroomKeyFileNoVerify(StrongroomKeyFile):
    name = "strongroom-key-file-no-verify"
    more = ("--no-verify",)


class Age(Tool):
    name = "tar|zstd|age"

    def __init__(self, work, _program):
        super().__init__(work)
        self.run("age-keygen", "-o", work / "key")
        recipient = subprocess.run(["age-keygen", "-y", work / "key"], capture_output=True, text=True, check=True)
        self.recipient = recipient.stdout.strip()

    def create(self, source):
        (self.work / "out").mkdir(exist_ok=True)
        out = self.work / "out/archive.tar.zst.age"
        self.shell(f"tar -C {source} -cf - . | zstd -T0 -3 -q | age -r {self.recipient} > {out}")

    def restore(self, source, target):
        target.mkdir()
        archive = self.work / "out/archive.tar.zst.age"
        self.shell(f"age -d -i {self.work}/key {archive} | zstd -d -q | tar -C {target} -xf -")


class Restic(Tool):
    name = "restic"

    def __init__(self, work, _program):
        super().__init__(work)
        self.environment |= {"RESTIC_REPOSITORY": str(work / "out"), "RESTIC_PASSWORD": "correct horse",
                             "RESTIC_CACHE_DIR": str(work / "cache")}

    def create(self, source):
        self.run("restic", "init", "-q")
        self.run("restic", "backup", "-q", source)

    def restore(self, source, target):
        self.run("restic", "restore", "latest", "-q", "--target", target)


class Borg(Tool):
    name = "borg"

    def __init__(self, work, _program):
        super().__init__(work)
        self.environment |= {"BORG_PASSPHRASE": "correct horse", "BORG_BASE_DIR": str(work / "base"),
                             "BORG_RELOCATED_REPO_ACCESS_IS_OK": "yes"}

    def create(self, source):
        self.run("borg", "init", "-e", "repokey", self.work / "out")
        self.run("borg", "create", "-C", "zstd,3", f"{self.work}/out::one", source)

    def restore(self, source, target):
        target.mkdir()
        self.run("borg", "extract", f"{self.work}/out::one", cwd=target)


TOOLS = {
    Strongroom: None, StrongroomNoVerify: None, StrongroomKeyFile: None, StrongroomKeyFileNoVerify: None,
    Age: "age", Restic: "restic", Borg: "borg",
}


def restored_root(target, source):
    """restic and borg restore whole paths."""
    below = target / str(source).lstrip("/")
    return below if below.exists() else target


def warm(source):
    for directory, _, names in os.walk(source):
        for name in names:
            with open(os.path.join(directory, name), "rb") as file:
                while file.read(1 << 20):
                    pass


def timed(action):
    os.sync()
    lab.touch_memory(4)
    begun = time.monotonic()
    action()
    os.sync()
    return time.monotonic() - begun


def measure(tool_class, source, directory, program):
    with tempfile.TemporaryDirectory(dir=directory) as name:
        work = Path(name)
        tool = tool_class(work, program)
        warm(source)
        create = timed(lambda: tool.create(source))
        size = sum(file.stat().st_size for file in (work / "out").rglob("*") if file.is_file())
        target = work / "target"
        restore = timed(lambda: tool.restore(source, target))
        subprocess.run(["diff", "-rq", source, restored_root(target, source)], check=True)
        return create, restore, size


def main():
    parser = argparse.ArgumentParser(description="Times backups side by side.")
    parser.add_argument("program")
    parser.add_argument("--store-mib", type=int, default=2048)
    parser.add_argument("--files", type=int, default=15000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workload", choices=["tree", "store", "both"], default="both")
    parser.add_argument("--directory")
    parser.add_argument("--json")
    arguments = parser.parse_args()
    program = str(Path(arguments.program).resolve())
    tools = [tool for tool, needs in TOOLS.items() if needs is None or shutil.which(needs)]
    missing = [needs for needs in TOOLS.values() if needs and not shutil.which(needs)]
    if missing:
        print(f"not measured, not installed: {', '.join(missing)}")
    results = {}
    with tempfile.TemporaryDirectory(dir=arguments.directory) as name:
        for workload in ["tree", "store"] if arguments.workload == "both" else [arguments.workload]:
            source = Path(name) / workload
            if workload == "tree":
                make_tree(source, arguments.files)
            else:
                make_store(source, arguments.store_mib)
            seen = {tool.name: [] for tool in tools}
            for number in range(arguments.rounds):
                for tool in tools[number % len(tools):] + tools[: number % len(tools)]:
                    seen[tool.name].append(measure(tool, source, name, program))
            print(f"\n{workload}: {arguments.rounds} rounds, medians")
            print(f"{'':<30} {'create s':>9} {'restore s':>10} {'MiB':>8}")
            results[workload] = {}
            for tool, runs in seen.items():
                create, restore, size = (statistics.median(column) for column in zip(*runs))
                results[workload][tool] = {"create_s": create, "restore_s": restore, "bytes": size}
                print(f"{tool:<30} {create:>9.2f} {restore:>10.2f} {size / 2**20:>8.1f}")
            shutil.rmtree(source)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
