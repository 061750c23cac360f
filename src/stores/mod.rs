//! Owns what strongroom knows of SQLite, LMDB, RocksDB, Chroma, DuckDB and others: detect, quiesce, check, dump.
