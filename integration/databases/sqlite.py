"""SQLite in every journal mode, with and without `mmap_size`: 8 processes that count together, a
writer that is killed, and a check."""

import sqlite3

from common import WRITERS, main, payload, run_and_kill, run_writers

MODES = ["delete", "truncate", "persist", "memory", "off", "wal"]
MAPPED = [0, 64 << 20]
# A writer that is killed without a rollback journal on disk leaves what it leaves, anywhere.
SAFE = {"delete", "truncate", "persist", "wal"}
INCREMENTS = 25


def connect(path, mode, mapped):
    database = sqlite3.connect(path, timeout=300, isolation_level=None)
    database.execute(f"PRAGMA mmap_size = {mapped}")
    got = database.execute(f"PRAGMA journal_mode = {mode}").fetchone()[0]
    assert got == mode, f"asked for {mode}, got {got}"
    database.execute("PRAGMA synchronous = FULL")
    return database


def count(number, path, mode, mapped, times):
    database = connect(path, mode, mapped)
    for step in range(times):
        database.execute("BEGIN IMMEDIATE")
        value = database.execute("SELECT value FROM counter").fetchone()[0]
        database.execute("UPDATE counter SET value = ?", (value + 1,))
        key = number * 1_000_000 + step
        database.execute("INSERT INTO entries VALUES (?, ?)", (key, payload(key, 1500)))
        database.execute("COMMIT")
    database.close()


def scribble(path, mode, mapped):
    database = connect(path, mode, mapped)
    database.execute("PRAGMA cache_size = 10")
    while True:
        database.execute("BEGIN IMMEDIATE")
        database.execute("UPDATE entries SET data = zeroblob(1500)")
        database.execute("ROLLBACK")


def stores(directory):
    for mode in MODES:
        for mapped in MAPPED:
            yield directory / f"{mode}-{mapped}.db", mode, mapped


def fill(directory, scale):
    for path, mode, mapped in stores(directory):
        database = connect(path, mode, mapped)
        database.execute("CREATE TABLE counter (value INTEGER)")
        database.execute("INSERT INTO counter VALUES (0)")
        database.execute("CREATE TABLE entries (key INTEGER PRIMARY KEY, data BLOB)")
        database.execute("CREATE INDEX by_data ON entries (data)")
        database.close()
        run_writers(count, path, mode, mapped, INCREMENTS * scale)
        if mode in SAFE:
            run_and_kill(scribble, path, mode, mapped)
        verify(path, mode, mapped, scale)


def verify(path, mode, mapped, scale):
    database = connect(path, mode, mapped)
    counted = database.execute("SELECT value FROM counter").fetchone()[0]
    assert counted == WRITERS * INCREMENTS * scale, f"{path.name}: counted {counted}"
    rows = database.execute("SELECT key, data FROM entries").fetchall()
    assert len(rows) == counted, f"{path.name}: {len(rows)} entries"
    assert all(data == payload(key, 1500) for key, data in rows), f"{path.name}: content"
    found = database.execute("PRAGMA integrity_check").fetchall()
    assert found == [("ok",)], f"{path.name}: {found}"
    database.close()
    return counted


def check(directory, scale):
    for path, mode, mapped in stores(directory):
        print(path.name, verify(path, mode, mapped, scale), "integrity ok")


if __name__ == "__main__":
    main(fill, check)
