"""RocksDB (rocksdict): writes, deletions, compaction, and a writer that is killed."""

from rocksdict import Options, Rdict, ReadOptions, WriteOptions

from common import main, payload, run_and_kill

ENTRIES = 20_000
SYNCED = 100


def options():
    chosen = Options(raw_mode=True)
    chosen.create_if_missing(True)
    chosen.set_paranoid_checks(True)
    chosen.set_write_buffer_size(1 << 20)
    return chosen


def key(number):
    return b"entry-%010d" % number


def scribble(path):
    store = Rdict(path, options())
    while True:
        for number in range(1000):
            store[b"scratch-%d" % number] = payload(number, 400)


def fill(directory, scale):
    path = str(directory / "store")
    store = Rdict(path, options())
    for number in range(ENTRIES * scale):
        store[key(number)] = payload(number)
    for number in range(0, ENTRIES * scale, 3):
        del store[key(number)]
    store.flush()
    store.compact_range(None, None)
    durable = WriteOptions()
    durable.sync = True
    for number in range(SYNCED):
        store.put(b"synced-%d" % number, payload(number), write_opt=durable)
    store.close()
    run_and_kill(scribble, path)


def check(directory, scale):
    store = Rdict(str(directory / "store"), options())
    reading = ReadOptions()
    reading.set_verify_checksums(True)
    found, synced = 0, 0
    for name, value in store.items(read_opt=reading):
        if name.startswith(b"entry-"):
            number = int(name.removeprefix(b"entry-"))
            assert number % 3 and value == payload(number), name
            found += 1
        elif name.startswith(b"synced-"):
            assert value == payload(int(name.removeprefix(b"synced-"))), name
            synced += 1
    expected = sum(1 for number in range(ENTRIES * scale) if number % 3)
    assert (found, synced) == (expected, SYNCED), (found, synced)
    store.close()
    print(found, synced, "checksums ok")


if __name__ == "__main__":
    main(fill, check)
