"""Writers that tell of everything that is durable, and can find it again after a crash.

Each writes numbered records, from 0 on, and calls `tell` with a number when it was told that the
record is durable. `find` reads and repairs as the store itself would after a crash, raises where
something is damaged, and gives the number of records found; all that was told must be among them.
"""

import contextlib
import hashlib
import json
import os
import random
import sqlite3
import struct
import sys

RECORD = struct.Struct("<Q")


def payload(number):
    """Bytes and a length that follow from a number."""
    source = random.Random(number)
    return source.randbytes(source.choice([50, 700, 4096, 9000]))


def sync_directory(path):
    directory = os.open(path, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


class Sqlite:
    """Numbered rows, one a transaction, and a counter of them."""

    def __init__(self, mode):
        self.mode, self.name = mode, f"sqlite-{mode}"
        # FULL does not sync the directory after the rollback journal is deleted, which is the
        # commit: where a removed name may come back, only EXTRA promises anything.
        # https://www.sqlite.org/pragma.html#pragma_synchronous
        self.synchronous = "FULL"

    def connect(self, directory):
        database = sqlite3.connect(directory / f"{self.name}.db", isolation_level=None)
        try:
            database.execute(f"PRAGMA journal_mode = {self.mode}")
            database.execute(f"PRAGMA synchronous = {self.synchronous}")
            database.execute("PRAGMA wal_autocheckpoint = 50")
        except sqlite3.Error:
            database.close()
            raise
        return database

    def set_up(self, directory):
        with contextlib.closing(self.connect(directory)) as database:
            database.execute("CREATE TABLE records (number INTEGER PRIMARY KEY, data BLOB)")
            database.execute("CREATE TABLE counter (value INTEGER)")
            database.execute("INSERT INTO counter VALUES (0)")

    def write(self, directory, first, tell):
        database, number = self.connect(directory), first
        while True:
            database.execute("BEGIN IMMEDIATE")
            database.execute("INSERT INTO records VALUES (?, ?)", (number, payload(number)))
            database.execute("UPDATE counter SET value = value + 1")
            database.execute("COMMIT")
            tell(number)
            number += 1

    def find(self, directory, _told):
        with contextlib.closing(self.connect(directory)) as database:
            whole = database.execute("PRAGMA integrity_check").fetchone()[0]
            assert whole == "ok", whole
            count = database.execute("SELECT value FROM counter").fetchone()[0]
            found = 0
            for number, data in database.execute("SELECT * FROM records ORDER BY number"):
                assert number == found and data == payload(number), number
                found += 1
            assert found == count, (found, count)
            return found


class Log:
    """Records appended to one file, each with its digest."""

    name = "log"

    def set_up(self, directory):
        (directory / "log").touch()

    def write(self, directory, first, tell):
        with open(directory / "log", "ab", buffering=0) as log:
            number = first
            while True:
                data = payload(number)
                log.write(RECORD.pack(len(data)) + hashlib.sha256(data).digest() + data)
                (os.fdatasync if number % 2 else os.fsync)(log.fileno())
                tell(number)
                number += 1

    def find(self, directory, _told):
        content, at, found = (directory / "log").read_bytes(), 0, 0
        while at + RECORD.size + 32 <= len(content):
            (length,) = RECORD.unpack_from(content, at)
            data = content[at + 40:at + 40 + length]
            if data != payload(found) or hashlib.sha256(data).digest() != content[at + 8:at + 40]:
                break
            at, found = at + 40 + length, found + 1
        # What was not synced may be there in parts: it goes, as a database would have it.
        os.truncate(directory / "log", at)
        return found


class Files:
    """Whole files under short and long names, renamed over a predecessor."""

    name = "files"
    PLACES = 50

    def path(self, directory, number):
        place = number % self.PLACES
        name = f"{place}" if place % 4 else f"{place}".rjust(250, "n")
        return directory / f"below-{place % 3}" / name

    def set_up(self, directory):
        for number in range(3):
            (directory / f"below-{number}").mkdir()

    def write(self, directory, first, tell):
        number = first
        while True:
            path = self.path(directory, number)
            new = path.parent / "new"
            with open(new, "wb") as file:
                file.write(RECORD.pack(number) + payload(number))
                file.flush()
                os.fsync(file.fileno())
            os.rename(new, path)
            sync_directory(path.parent)
            tell(number)
            number += 1

    def find(self, directory, _told):
        newest = -1
        numbers = {}
        for place in range(self.PLACES):
            path = self.path(directory, place)
            if path.exists():
                content = path.read_bytes()
                (number,) = RECORD.unpack_from(content)
                assert number % self.PLACES == place, (number, place)
                assert content[RECORD.size:] == payload(number), f"{number} is not whole"
                numbers[place] = number
                newest = max(newest, number)
        for number in range(max(0, newest - self.PLACES + 1), newest + 1):
            assert numbers.get(number % self.PLACES) == number, f"{number} is lost"
        return newest + 1


class Overwrites:
    """Writes of any place and length inside one file, synced one to three at a time. Whatever is
    under way, the bytes around it stay."""

    name = "overwrites"
    SIZE = (1 << 20) + 777

    def writes(self, number):
        source = random.Random(number)
        for _ in range(source.randint(1, 3)):
            length = source.choice([1, 100, 512, 4096, 5000, 20_000])
            unit = source.choice([1, 512, 4096])
            offset = source.randrange((self.SIZE - length) // unit + 1) * unit
            yield offset, source.randbytes(length)

    def begin(self):
        return bytearray(random.Random("begin").randbytes(self.SIZE))

    def set_up(self, directory):
        with open(directory / "overwrites", "wb") as file:
            file.write(self.begin())
            file.flush()
            os.fsync(file.fileno())

    def write(self, directory, first, tell):
        with open(directory / "overwrites", "r+b", buffering=0) as file:
            number = first
            while True:
                for offset, data in self.writes(number):
                    os.pwrite(file.fileno(), data, offset)
                os.fdatasync(file.fileno())
                tell(number)
                number += 1

    def find(self, directory, told):
        content = (directory / "overwrites").read_bytes()
        assert len(content) == self.SIZE, f"{len(content)} bytes"
        expected = self.begin()
        for number in range(told):
            for offset, data in self.writes(number):
                expected[offset:offset + len(data)] = data
        # Of the one under way each byte may be there or not.
        versions = [expected]
        for offset, data in self.writes(told):
            version = bytearray(versions[-1])
            version[offset:offset + len(data)] = data
            versions.append(version)
        if content != expected:
            for at, byte in enumerate(content):
                assert byte == expected[at] or any(byte == version[at] for version in versions), (
                    f"byte {at} is neither old nor new")
        return told


class Lmdb:
    """Numbered entries, one a transaction, old ones removed so that pages are used again."""

    name = "lmdb"
    KEPT = 200

    def environment(self, directory, create=False):
        import lmdb
        return lmdb.open(str(directory / "store"), map_size=256 << 20, create=create)

    def set_up(self, directory):
        self.environment(directory, create=True).close()

    def write(self, directory, first, tell):
        store, number = self.environment(directory), first
        while True:
            with store.begin(write=True) as transaction:
                transaction.put(b"%010d" % number, payload(number))
                transaction.delete(b"%010d" % (number - self.KEPT))
                transaction.put(b"count", b"%d" % (number + 1))
            tell(number)
            number += 1

    def find(self, directory, _told):
        with self.environment(directory) as store, store.begin() as transaction:
            count = int(transaction.get(b"count", b"0"))
            entries = {key: value for key, value in transaction.cursor() if key != b"count"}
            numbers = range(max(0, count - self.KEPT), count)
            assert sorted(entries) == [b"%010d" % number for number in numbers]
            for number in numbers:
                assert entries[b"%010d" % number] == payload(number), number
            return count


class RocksDb:
    """Numbered entries, each synced with the write-ahead log; small tables, so that some are
    written and compacted on the way."""

    name = "rocksdb"

    def open(self, directory, create=False):
        import rocksdict
        options = rocksdict.Options(raw_mode=True)
        options.create_if_missing(create)
        options.set_paranoid_checks(True)
        options.set_write_buffer_size(256 << 10)
        return rocksdict.Rdict(str(directory / "store"), options)

    def set_up(self, directory):
        self.open(directory, create=True).close()

    def write(self, directory, first, tell):
        import rocksdict
        durable = rocksdict.WriteOptions()
        durable.sync = True
        store, number = self.open(directory), first
        while True:
            store.put(b"%010d" % number, payload(number), write_opt=durable)
            tell(number)
            number += 1

    def find(self, directory, _told):
        import rocksdict
        reading = rocksdict.ReadOptions()
        reading.set_verify_checksums(True)
        store, found = self.open(directory), 0
        try:
            for key, value in store.items(read_opt=reading):
                assert key == b"%010d" % found and value == payload(found), key
                found += 1
        finally:
            store.close()
        return found


def start(store, directory, first, is_over, finds=False):
    """Forks a writer that goes on at the record `first`, or from what it finds: its process, and
    the end of a pipe to read what it tells. It ends well if it fails when `is_over`, because what
    it writes to is gone.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        code = 1
        try:
            if finds:
                found = store.find(directory, first)
                assert found >= first, f"{found} of {first}"
                first = found
            store.write(directory, first, lambda number: os.write(writing, RECORD.pack(number)))
        except BaseException as error:  # noqa: BLE001
            if is_over():
                code = 0
            else:
                print(f"{store.name}: {error!r}", file=sys.stderr, flush=True)
        finally:
            os._exit(code)
    os.close(writing)
    return pid, reading


def apart(call, *arguments):
    """Calls a store's method in a process of its own: a damaged page of mapped memory kills who
    reads it, and some stores have threads, which a fork would lose. Raises what went wrong."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        try:
            said = {"answer": call(*arguments)}
        except BaseException as error:  # noqa: BLE001
            said = {"error": repr(error)[:500]}
        os.write(writing, json.dumps(said).encode())
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        said = pipe.read()
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code != 0:
        raise LookupError(f"ended with {code}")
    said = json.loads(said)
    if "error" in said:
        raise LookupError(said["error"])
    return said["answer"]


def told(reading):
    """How many records were told of, 0 if none was; returns when the writer has ended."""
    with open(reading, "rb") as pipe:
        numbers = pipe.read()
    return RECORD.unpack_from(numbers, len(numbers) - RECORD.size)[0] + 1 if numbers else 0
