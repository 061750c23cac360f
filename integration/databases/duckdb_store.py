"""DuckDB: bulk load, updates, checkpoints, and a writer that is killed with its log full."""

import duckdb

from common import main, run_and_kill

ROWS = 200_000


def scribble(path):
    database = duckdb.connect(path)
    database.execute("SET checkpoint_threshold = '1GB'")
    while True:
        database.execute("BEGIN")
        database.execute("UPDATE entries SET text = text || 'x' WHERE key % 10 = 0")
        database.execute("ROLLBACK")


def summary(database):
    return database.execute(
        "SELECT count(*), sum(key), sum(hash(text) % 1000003), bit_xor(hash(key, text, number))"
        " FROM entries").fetchone()


def fill(directory, scale):
    path = str(directory / "store.duckdb")
    database = duckdb.connect(path)
    database.execute(
        "CREATE TABLE entries AS SELECT range AS key, md5(range::VARCHAR) AS text,"
        f" range * 0.5 AS number FROM range({ROWS * scale})")
    database.execute("CREATE UNIQUE INDEX by_key ON entries (key)")
    database.execute("CHECKPOINT")
    database.execute("UPDATE entries SET text = upper(text) WHERE key % 7 = 0")
    database.execute("DELETE FROM entries WHERE key % 11 = 0")
    before = summary(database)
    database.close()
    run_and_kill(scribble, path, after=1)
    database = duckdb.connect(path)
    assert summary(database) == before
    database.close()


def check(directory, _scale):
    # DuckDB checks each block's checksum as it reads it.
    database = duckdb.connect(str(directory / "store.duckdb"))
    print(*summary(database))
    wrong = database.execute(
        "SELECT count(*) FROM entries WHERE key % 11 = 0 OR lower(text) <> md5(key::VARCHAR)")
    assert wrong.fetchone()[0] == 0
    database.execute("FORCE CHECKPOINT")
    database.close()


if __name__ == "__main__":
    main(fill, check)
