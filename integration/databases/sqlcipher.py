"""SQLCipher: an encrypted database with a write-ahead log, written by 8 processes."""

from sqlcipher3 import dbapi2 as sqlcipher

from common import WRITERS, main, payload, run_writers

INCREMENTS = 10


def connect(path):
    database = sqlcipher.connect(str(path), timeout=300, isolation_level=None)
    database.execute("PRAGMA key = 'a key'")
    database.execute("PRAGMA journal_mode = wal")
    return database


def count(number, path, times):
    database = connect(path)
    for step in range(times):
        key = number * 1_000_000 + step
        database.execute("BEGIN IMMEDIATE")
        database.execute("UPDATE counter SET value = value + 1")
        database.execute("INSERT INTO entries VALUES (?, ?)", (key, payload(key, 3000)))
        database.execute("COMMIT")
    database.close()


def fill(directory, scale):
    path = directory / "store.db"
    database = connect(path)
    database.execute("CREATE TABLE counter (value INTEGER)")
    database.execute("INSERT INTO counter VALUES (0)")
    database.execute("CREATE TABLE entries (key INTEGER PRIMARY KEY, data BLOB)")
    database.close()
    run_writers(count, path, INCREMENTS * scale)


def check(directory, scale):
    path = directory / "store.db"
    assert b"SQLite format 3" not in path.read_bytes()[:100], "it is not encrypted"
    database = connect(path)
    counted = database.execute("SELECT value FROM counter").fetchone()[0]
    assert counted == WRITERS * INCREMENTS * scale, counted
    rows = database.execute("SELECT key, data FROM entries").fetchall()
    assert len(rows) == counted and all(data == payload(key, 3000) for key, data in rows)
    assert database.execute("PRAGMA cipher_integrity_check").fetchall() == []
    assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    database.close()
    print(counted, "integrity ok")


if __name__ == "__main__":
    main(fill, check)
