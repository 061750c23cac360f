//! `strongroom speed`.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Map, Value};

use super::Context;
use super::exit_code::ExitCode;
use super::failure::{CommandResult, Failure};
use crate::crypto::{MasterKey, random_array};
use crate::format::block::BlockCipher;
use crate::format::directory::DirId;
use crate::format::header::FileId;
use crate::format::layout::{BLOCK_SIZE, BlockIndex, CIPHER_BLOCK_SIZE};
use crate::format::name::NameCipher;
use crate::vault::calibrated_cost;

const EXAMPLES: &str = "\
Examples:
  strongroom speed               how fast this machine encrypts
  strongroom speed /srv          and how fast the disk under /srv writes

A mount is as fast as the slower of the two, less what FUSE costs.";

/// How long each figure is measured.
const MEASURE: Duration = Duration::from_millis(500);
/// What is written to a disk, in bytes.
const DISK_BYTES: usize = 256 * 1024 * 1024;
/// One write, in bytes.
const DISK_CHUNK: usize = 1024 * 1024;

/// Arguments of `speed`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Measure the disk of this directory, too; takes 256 MiB of it for a moment.
    directory: Option<PathBuf>,
}

/// Measures.
pub fn run(args: &Args, context: &Context) -> CommandResult {
    let mut report = Report { context, fields: Map::new() };
    let cores = thread::available_parallelism().map_or(1, usize::from);
    report.add("cores", "CPU cores", cores.to_string(), cores);
    for (threads, suffix, name) in [(1, "", "one core"), (cores, "_all", "all cores")] {
        let rate = parallel(threads, seal_blocks)?;
        report.rate(&format!("encrypt{suffix}"), &format!("Encrypt content, {name}"), rate);
        let rate = parallel(threads, open_blocks)?;
        report.rate(&format!("decrypt{suffix}"), &format!("Decrypt content, {name}"), rate);
    }
    let names = encrypt_names();
    report.add("names", "Encrypt names", format!("{names:.0} a second"), names.round());
    let cost =
        calibrated_cost().map_err(|error| Failure::new(ExitCode::Failure, error.to_string()))?;
    let memory = cost.memory_kib() / 1024;
    let text = format!("{memory} MiB, {} passes", cost.iterations());
    report.add("kdf_memory_mib", "A passphrase of one second", text, memory);
    report.fields.insert("kdf_iterations".into(), cost.iterations().into());
    if let Some(directory) = &args.directory {
        let disk = measure_disk(directory)
            .map_err(|error| Failure::io("measure the disk of", directory, &error))?;
        report.rate("disk_write", "Write to the disk, synced", disk.write);
        let text = format!("{:.0} a second", disk.syncs);
        report.add("disk_syncs", "Synced 4 KiB overwrites", text, disk.syncs.round());
    }
    context.output.result("speed", &Value::Object(report.fields));
    Ok(())
}

struct Report<'a> {
    context: &'a Context,
    fields: Map<String, Value>,
}

impl Report<'_> {
    fn add(&mut self, field: &str, label: &str, text: String, value: impl Into<Value>) {
        self.context.output.print(format!("{label:<28} {text}"));
        self.fields.insert(field.to_owned(), value.into());
    }

    /// `rate` in bytes a second.
    fn rate(&mut self, field: &str, label: &str, rate: f64) {
        let mebibytes = rate / f64::from(1u32 << 20);
        let field = format!("{field}_mib_per_second");
        self.add(&field, label, format!("{mebibytes:.0} MiB/s"), mebibytes.round());
    }
}

/// Bytes a second of `threads` threads together.
///
/// # Errors
/// Where the system gives fewer: the figure would be another.
fn parallel(threads: usize, work: fn() -> f64) -> Result<f64, Failure> {
    thread::scope(|scope| {
        let running: std::io::Result<Vec<_>> =
            (0..threads).map(|_| thread::Builder::new().spawn_scoped(scope, work)).collect();
        let running = running
            .map_err(|error| Failure::no_thread(format!("no thread can be started: {error}")))?;
        Ok(running.into_iter().filter_map(|thread| thread.join().ok()).sum())
    })
}

/// How often a second `step` runs, with what each run counts for.
fn per_second(counts: u32, mut step: impl FnMut()) -> f64 {
    let began = Instant::now();
    let mut done = 0u32;
    while began.elapsed() < MEASURE {
        step();
        done = done.saturating_add(1);
    }
    f64::from(done) * f64::from(counts) / began.elapsed().as_secs_f64()
}

fn block_cipher() -> BlockCipher {
    BlockCipher::new(&MasterKey::generate().content_key(), FileId::random())
}

const BLOCK_BYTES: u32 = 4096;
const _: () = assert!(BLOCK_BYTES as usize == BLOCK_SIZE);

fn seal_blocks() -> f64 {
    let cipher = block_cipher();
    let plain = [0x5a; BLOCK_SIZE];
    let mut sealed = [0; CIPHER_BLOCK_SIZE];
    let mut index = 0;
    per_second(BLOCK_BYTES, || {
        cipher.seal(BlockIndex(index), &plain, &mut sealed);
        index += 1;
    })
}

fn open_blocks() -> f64 {
    let cipher = block_cipher();
    let mut plain = [0x5a; BLOCK_SIZE];
    let mut sealed = [0; CIPHER_BLOCK_SIZE];
    cipher.seal(BlockIndex(0), &plain, &mut sealed);
    per_second(BLOCK_BYTES, || {
        let opened = cipher.open(BlockIndex(0), &sealed, &mut plain);
        debug_assert!(opened.is_ok());
    })
}

fn encrypt_names() -> f64 {
    let names =
        NameCipher::new(NameCipher::schedule(&MasterKey::generate().name_key()), DirId::random());
    per_second(1, || {
        let encrypted = names.encrypt(b"conversation-2026-01-31.sqlite3");
        debug_assert!(encrypted.is_ok());
    })
}

struct Disk {
    /// Bytes a second.
    write: f64,
    /// Overwrites a second.
    syncs: f64,
}

fn measure_disk(directory: &Path) -> io::Result<Disk> {
    let mut file = scratch_file(directory)?;
    // Nothing that a disk could compress.
    let mut chunk = vec![0u8; DISK_CHUNK];
    for part in chunk.chunks_exact_mut(BLOCK_SIZE) {
        part.copy_from_slice(&random_array::<BLOCK_SIZE>());
    }
    let began = Instant::now();
    for _ in 0..DISK_BYTES / DISK_CHUNK {
        file.write_all(&chunk)?;
    }
    file.sync_data()?;
    let bytes = u32::try_from(DISK_BYTES).map_or(0.0, f64::from);
    let write = bytes / began.elapsed().as_secs_f64();
    let mut failed = None;
    let mut at = 0u64;
    let syncs = per_second(1, || {
        let done =
            file.write_all_at(&chunk[..BLOCK_SIZE], at * 4096).and_then(|()| file.sync_data());
        failed = failed.take().or(done.err());
        at = (at + 4099) % 65_536;
    });
    failed.map_or(Ok(Disk { write, syncs }), Err)
}

/// A file that has no name, or loses it at once.
fn scratch_file(directory: &Path) -> io::Result<File> {
    let path = directory.join(format!(".strongroom-speed-{}", std::process::id()));
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}
