//! The ciphers of blocks and names, and the core without FUSE over a directory of the system.
//!
//! ```text
//! cargo bench                              all; compares with the last run
//! cargo bench -- blocks                    some
//! TMPDIR=/dev/shm cargo bench -- core      without a disk below
//! ```
//!
//! Part of no test run.

// A program of its own: it ends where it cannot go on.
#![allow(missing_docs, clippy::unwrap_used)]

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use strongroom::backing::Directory as _;
use strongroom::backing::os::OsDirectory;
use strongroom::crypto::MasterKey;
use strongroom::format::block::BlockCipher;
use strongroom::format::directory::DirId;
use strongroom::format::header::FileId;
use strongroom::format::layout::{BLOCK_SIZE, BlockIndex, CIPHER_BLOCK_SIZE};
use strongroom::format::name::{EntryName, NameCipher};
use strongroom::vault::{
    Caller, FileSystem, FilesystemOptions, InodeNumber, OVERFLOW_NAME, TREE_NAME,
};

const ROOT: InodeNumber = InodeNumber::ROOT;
const CALLER: Caller = Caller { uid: 0, gid: 0, umask: 0o022 };
const MEBIBYTE: usize = 1 << 20;

fn master() -> MasterKey {
    MasterKey::from_bytes(&[42; 32])
}

fn blocks(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("blocks");
    let cipher = BlockCipher::new(&master().content_key(), FileId::random());
    let plain = [7; BLOCK_SIZE];
    let mut sealed = [0; CIPHER_BLOCK_SIZE];
    let mut opened = [0; BLOCK_SIZE];
    group.throughput(Throughput::Bytes(u64::try_from(BLOCK_SIZE).unwrap()));
    group.bench_function("seal 4 KiB", |bencher| {
        bencher.iter(|| cipher.seal(BlockIndex(3), black_box(&plain), &mut sealed));
    });
    group.bench_function("open 4 KiB", |bencher| {
        bencher.iter(|| cipher.open(BlockIndex(3), black_box(&sealed), &mut opened).unwrap());
    });
    group.finish();
}

fn names(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("names");
    let schedule = NameCipher::schedule(&master().name_key());
    let names = NameCipher::new(schedule, DirId::random());
    for (what, name) in [("short", vec![b'n'; 20]), ("long", vec![b'n'; 255])] {
        group.bench_function(format!("encrypt, {what}"), |bencher| {
            bencher.iter(|| names.encrypt(black_box(&name)).unwrap());
        });
    }
    let entry = names.encrypt(b"a name of some length").unwrap();
    group.bench_function("decrypt, short", |bencher| {
        bencher.iter(|| {
            assert!(matches!(names.classify(black_box(entry.entry())), EntryName::Plain(_)));
        });
    });
    group.finish();
}

/// A vault in a temporary directory.
struct Vault {
    filesystem: FileSystem,
    _directory: tempfile::TempDir,
}

impl Vault {
    fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        let directory = OsDirectory::open(place.path()).unwrap();
        for name in [TREE_NAME, OVERFLOW_NAME] {
            directory.make_directory(name.as_bytes(), 0o700).unwrap();
        }
        FileSystem::format(&directory, &master()).unwrap();
        let options = FilesystemOptions { kernel_keeps_times: true, ..Default::default() };
        let filesystem =
            FileSystem::open(Box::new(directory), &master(), options, "a benchmark").unwrap();
        Self { filesystem, _directory: place }
    }

    fn file(&self, name: &str) -> InodeNumber {
        let entry = self.filesystem.create(&CALLER, ROOT, name.as_bytes(), 0o644).unwrap();
        entry.attributes.ino
    }
}

fn core(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("core");
    let vault = Vault::new();
    let core = &vault.filesystem;

    let mut number = 0;
    group.bench_function("create, write 4 KiB, unlink", |bencher| {
        bencher.iter(|| {
            number += 1;
            let name = format!("file {number}");
            let ino = vault.file(&name);
            core.write(ino, 0, &[7; BLOCK_SIZE]).unwrap();
            core.unlink(ROOT, name.as_bytes()).unwrap();
            core.forget(ino, 1);
        });
    });

    let large = vault.file("large");
    let data = vec![7; MEBIBYTE];
    for index in 0..64 {
        core.write(large, index * u64::try_from(MEBIBYTE).unwrap(), &data).unwrap();
    }
    group.bench_function("look up and forget", |bencher| {
        bencher.iter(|| {
            let entry = core.lookup(ROOT, black_box(b"large")).unwrap();
            core.forget(entry.attributes.ino, 1);
        });
    });
    group.bench_function("attributes", |bencher| {
        bencher.iter(|| core.attributes(black_box(large)).unwrap());
    });
    let mut small = [0; BLOCK_SIZE];
    let mut at = 0;
    group.bench_function("read 4 KiB, at random", |bencher| {
        bencher.iter(|| {
            at = (at + 7919) % (64 * 256);
            core.read(large, at * u64::try_from(BLOCK_SIZE).unwrap(), &mut small).unwrap()
        });
    });

    group.throughput(Throughput::Bytes(u64::try_from(MEBIBYTE).unwrap()));
    let mut buffer = vec![0; MEBIBYTE];
    group.bench_function("read 1 MiB", |bencher| {
        bencher.iter(|| core.read(large, 0, &mut buffer).unwrap());
    });
    group.bench_function("write 1 MiB of a new file", |bencher| {
        bencher.iter_batched(
            || {
                number += 1;
                let name = format!("file {number}");
                (vault.file(&name), name)
            },
            |(ino, name)| {
                core.write(ino, 0, &data).unwrap();
                core.unlink(ROOT, name.as_bytes()).unwrap();
                core.forget(ino, 1);
            },
            BatchSize::PerIteration,
        );
    });
    group.bench_function("overwrite 1 MiB that is durable", |bencher| {
        core.sync_all().unwrap();
        bencher.iter(|| core.write(large, 0, &data).unwrap());
    });
    group.finish();
}

criterion_group!(benches, blocks, names, core);
criterion_main!(benches);
