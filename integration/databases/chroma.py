"""ChromaDB with given vectors of 768 dimensions: filled, queried after a remount, and compared."""

import sqlite3

import chromadb
import numpy
from chromadb.config import Settings

from common import main

DIMENSIONS = 768
VECTORS = 2_000
BATCH = 500


def collection(directory):
    client = chromadb.PersistentClient(str(directory / "store"),
                                       Settings(anonymized_telemetry=False))
    settings = {"hnsw:space": "l2", "hnsw:sync_threshold": 1000}
    return client.get_or_create_collection("memories", metadata=settings, embedding_function=None)


def vectors(count):
    return numpy.random.default_rng(7).standard_normal((count, DIMENSIONS)).astype(numpy.float32)


def fill(directory, scale):
    count = VECTORS * scale
    store, data = collection(directory), vectors(count)
    for first in range(0, count, BATCH):
        numbers = range(first, min(first + BATCH, count))
        store.add(ids=[f"id-{number}" for number in numbers],
                  embeddings=data[first:numbers.stop],
                  documents=[f"document {number}" for number in numbers],
                  metadatas=[{"number": number, "even": number % 2 == 0} for number in numbers])
    store.delete(ids=[f"id-{number}" for number in range(0, count, 10)])


def check(directory, scale):
    count = VECTORS * scale
    store, data = collection(directory), vectors(count)
    assert store.count() == count - len(range(0, count, 10)), store.count()
    for first in range(0, count, BATCH):
        ids = [f"id-{n}" for n in range(first, min(first + BATCH, count)) if n % 10]
        found = store.get(ids=ids, include=["embeddings", "documents", "metadatas"])
        for name, embedding, document, metadata in zip(
                found["ids"], found["embeddings"], found["documents"], found["metadatas"]):
            number = int(name.removeprefix("id-"))
            assert numpy.array_equal(numpy.asarray(embedding, numpy.float32), data[number]), name
            assert document == f"document {number}" and metadata["number"] == number, name
        assert len(found["ids"]) == len(ids)
    asked = list(range(1, count, count // 20))
    answers = store.query(query_embeddings=data[asked], n_results=10)
    kept = numpy.array([number for number in range(count) if number % 10])
    recalled = itself = 0
    for number, ids, distances in zip(asked, answers["ids"], answers["distances"]):
        true = ((data[kept] - data[number]) ** 2).sum(axis=1)
        nearest = set(kept[numpy.argsort(true)[:10]].tolist())
        given = [int(name.removeprefix("id-")) for name in ids]
        assert len(set(given)) == 10, given
        itself += given[0] == number
        expected = true[numpy.searchsorted(kept, given)]
        assert numpy.allclose(distances, expected, rtol=1e-3, atol=1e-2), (distances, expected)
        recalled += len(nearest.intersection(given))
    # The index is an approximate one, made differently each time, and random vectors, which lie all
    # equally far from each other, are the hardest for it: of 20,000 it misses some anywhere.
    assert recalled >= 0.4 * 10 * len(asked) and itself >= 0.7 * len(asked), (recalled, itself)
    filtered = store.query(query_embeddings=data[3:4], n_results=5, where={"even": True})
    assert all(int(name.removeprefix("id-")) % 2 == 0 for name in filtered["ids"][0])
    database = sqlite3.connect(directory / "store" / "chroma.sqlite3")
    assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    database.close()
    print(store.count(), "vectors, documents and queries right, integrity ok")


if __name__ == "__main__":
    main(fill, check)
