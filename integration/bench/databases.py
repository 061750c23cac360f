"""Fills of databases that come from PyPI, timed in the Python of integration/databases.

Owns what is done in each; knows nothing of mounts.
"""

import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "common"))
import lab  # noqa: E402

REQUIREMENTS = HERE.parent / "databases" / "requirements.txt"

LMDB = """
import lmdb, os, sys, time
path, scale = sys.argv[1], float(sys.argv[2])
environment = lmdb.open(path, map_size=1 << 30)
begin = time.perf_counter()
for batch in range(int(50 * scale)):
    with environment.begin(write=True) as transaction:
        for number in range(1000):
            transaction.put(f"{batch}-{number * 7919 % 1000}".encode(), b"value" * 40)
environment.close()
print("LMDB fill, 1,000 records a transaction", time.perf_counter() - begin, sep="\\t")
"""

ROCKSDB = """
import sys, time
from rocksdict import Rdict
path, scale = sys.argv[1], float(sys.argv[2])
begin = time.perf_counter()
store = Rdict(path)
for number in range(int(100_000 * scale)):
    store[f"key {number * 7919 % 100_000}"] = "value" * 40
store.flush()
store.close()
print("RocksDB fill", time.perf_counter() - begin, sep="\\t")
"""

CHROMA = """
import random, sys, time
import chromadb
from chromadb.config import Settings
path, scale = sys.argv[1], float(sys.argv[2])
generator = random.Random(6)
vectors = [[generator.random() for _ in range(384)] for _ in range(int(2000 * scale))]
begin = time.perf_counter()
client = chromadb.PersistentClient(path, settings=Settings(anonymized_telemetry=False))
collection = client.create_collection("texts")
for start in range(0, len(vectors), 100):
    part = vectors[start:start + 100]
    collection.add(ids=[str(start + at) for at in range(len(part))], embeddings=part,
                   documents=[f"text {start + at}" for at in range(len(part))])
print("ChromaDB insert", time.perf_counter() - begin, sep="\\t")
begin = time.perf_counter()
for vector in vectors[:100]:
    collection.query(query_embeddings=[vector], n_results=5)
print("ChromaDB query", time.perf_counter() - begin, sep="\\t")
"""


def time_in(system, scale):
    """Each workload with its seconds, in directories of the system's own."""
    interpreter = lab.python(REQUIREMENTS, "databases-venv")
    for name, program in [("lmdb", LMDB), ("rocksdb", ROCKSDB), ("chroma", CHROMA)]:
        path = system.path / name
        path.mkdir()
        command = [str(interpreter), "-c", program, str(path), str(scale)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        if done.returncode != 0:
            # EncFS cannot map files for writing, for one; that is no reason to stop.
            print(f"{system.name}: {name} failed with {done.returncode}", file=sys.stderr)
            continue
        for line in done.stdout.splitlines():
            workload, _, seconds = line.partition("\t")
            yield workload, float(seconds)
