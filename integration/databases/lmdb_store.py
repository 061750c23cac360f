"""LMDB with and without `writemap`: 8 processes that count together, and a writer that is killed."""

import lmdb

from common import WRITERS, main, payload, run_and_kill, run_writers

INCREMENTS = 50
MAP_SIZE = 1 << 30
WAYS = {"plain": {}, "writemap": {"writemap": True}}


def environment(directory, name):
    return lmdb.open(str(directory / name), map_size=MAP_SIZE, **WAYS[name])


def count(number, directory, name, times):
    with environment(directory, name) as store:
        for step in range(times):
            with store.begin(write=True) as transaction:
                value = int(transaction.get(b"counter", b"0")) + 1
                transaction.put(b"counter", str(value).encode())
                key = number * 1_000_000 + step
                transaction.put(b"entry-%010d" % key, payload(key, 1000))


def scribble(directory, name):
    with environment(directory, name) as store:
        step = 0
        while True:
            with store.begin(write=True) as transaction:
                for _ in range(1000):
                    transaction.put(b"scratch-%010d" % (step % 5000), payload(step, 500))
                    step += 1
                transaction.abort()


def fill(directory, scale):
    for name in WAYS:
        (directory / name).mkdir()
        run_writers(count, directory, name, INCREMENTS * scale)
        run_and_kill(scribble, directory, name)
        verify(directory, name, scale)


def verify(directory, name, scale):
    with environment(directory, name) as store:
        store.reader_check()
        with store.begin() as transaction:
            counted = int(transaction.get(b"counter"))
            assert counted == WRITERS * INCREMENTS * scale, counted
            entries = 0
            for key, value in transaction.cursor():
                if key != b"counter":
                    number = int(key.removeprefix(b"entry-"))
                    assert value == payload(number, 1000), key
                    entries += 1
            assert entries == counted == transaction.stat()["entries"] - 1
        # A compacting copy reads every page and counts them; LMDB has no other check.
        copy = directory / f"copy-of-{name}"
        copy.mkdir(exist_ok=True)
        (copy / "data.mdb").unlink(missing_ok=True)
        store.copy(str(copy), compact=True)
        with lmdb.open(str(copy), readonly=True, lock=False) as copied:
            assert copied.stat()["entries"] == store.stat()["entries"]
    return counted


def check(directory, scale):
    for name in WAYS:
        print(name, verify(directory, name, scale), "whole")


if __name__ == "__main__":
    main(fill, check)
