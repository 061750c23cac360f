//! Compression on several processors, in frames: each of the four forms may be a sequence of
//! frames that decompress as one stream. They can be made side by side, and an index can be found
//! without reading all.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::num::NonZeroUsize;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use zstd::zstd_safe::CParameter;

use super::buffer::Buffer;
use super::error::Result;
use super::threads::{start, start_some};
use crate::format::archive::Compression;

/// Bytes of a frame (gzip, LZ4).
const CHUNK: usize = 1 << 20;
/// Bytes of a zstd frame at its usual levels. At the beginning of each there is nothing yet to refer to,
/// which costs time and room where content repeats itself.
const ZSTD_CHUNK: usize = 1 << ZSTD_WINDOW_LOG;
/// Without a level zstd works as at level 1, but may refer to the whole frame (8 MiB instead of 512 KiB),
/// and finds what repeats by a table of 65,536 places. Stores repeat themselves at such distances.
const ZSTD_WINDOW_LOG: u32 = 23;
const ZSTD_HASH_LOG: u32 = 16;
/// A window of 128 MiB: as much as `zstd` itself takes without being told.
pub(super) const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// Bytes that are compressed to one frame. Higher levels find what repeats at greater distances.
fn chunk_len(compression: Compression, level: Option<i32>) -> usize {
    match (compression, level) {
        (Compression::Zstd, None | Some(..=9)) => ZSTD_CHUNK,
        (Compression::Zstd, Some(10..=16)) => 2 * ZSTD_CHUNK,
        (Compression::Zstd, Some(_)) => 4 * ZSTD_CHUNK,
        _ => CHUNK,
    }
}

/// Compresses into `W`: chunk by chunk, in several threads, written in order.
pub(super) struct Compressor<W: Write> {
    output: W,
    /// Bytes written to it.
    count: u64,
    /// `None` where nothing is compressed.
    jobs: Option<Sender<Job>>,
    /// Bytes that follow, and how many they are.
    chunk: Buffer,
    filled: usize,
    chunk_len: usize,
    pending: VecDeque<Pending>,
    /// Chunks on their way, with the one that is submitted.
    limit: usize,
    /// Where the output was cut, as far as that is known.
    cuts: Vec<u64>,
    spare: Vec<Chunk>,
    failed: bool,
}

/// A place in the output between two frames.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cut(usize);

/// Bytes, as many as are filled, and room for what they are compressed to.
#[derive(Default)]
struct Chunk {
    plain: Buffer,
    filled: usize,
    compressed: Vec<u8>,
}

struct Job {
    chunk: Chunk,
    answer: Sender<io::Result<Chunk>>,
}

enum Pending {
    Frame(Receiver<io::Result<Chunk>>),
    Cut,
}

impl<W: Write> Compressor<W> {
    /// # Errors
    /// [`super::Error::NoThread`].
    pub(super) fn new(
        output: W,
        compression: Compression,
        level: Option<i32>,
        threads: NonZeroUsize,
    ) -> Result<Self> {
        let threads = threads.get();
        let (jobs, queue) = unbounded::<Job>();
        if compression != Compression::None {
            start_some(threads, || {
                let queue = queue.clone();
                // They end when the queue does, which this value holds.
                start(move || work(compression, level, &queue))
            })?;
        }
        Ok(Self {
            output,
            count: 0,
            jobs: Some(jobs).filter(|_| compression != Compression::None),
            chunk: Buffer::default(),
            filled: 0,
            chunk_len: chunk_len(compression, level),
            pending: VecDeque::new(),
            limit: threads + 1,
            cuts: Vec::new(),
            spare: Vec::new(),
            failed: false,
        })
    }

    /// Ends the frame, if one was begun: the next one begins behind it.
    pub(super) fn cut(&mut self) -> io::Result<Cut> {
        self.submit()?;
        let cut = Cut(self.cuts.len() + self.pending.iter().filter(|one| one.is_cut()).count());
        self.pending.push_back(Pending::Cut);
        Ok(cut)
    }

    /// Where in the output a cut is. Waits for what is before it.
    pub(super) fn offset(&mut self, cut: Cut) -> io::Result<u64> {
        loop {
            if let Some(offset) = self.cuts.get(cut.0) {
                return Ok(*offset);
            }
            self.collect()?;
        }
    }

    /// Ends the stream.
    pub(super) fn finish(mut self) -> io::Result<W> {
        self.submit()?;
        while !self.pending.is_empty() {
            self.collect()?;
        }
        Ok(self.output)
    }

    /// Room for bytes that follow, `wanted` or fewer, with anything in it: what is put there counts with
    /// [`Self::advance`]. Spares what can be read right here a copy.
    pub(super) fn room(&mut self, wanted: usize) -> &mut [u8] {
        if self.chunk.is_empty() {
            self.chunk = Buffer::new(self.chunk_len);
        }
        let end = self.chunk_len.min(self.filled.saturating_add(wanted));
        &mut self.chunk[self.filled..end]
    }

    /// The first `count` bytes of the room that was given last are the next ones.
    pub(super) fn advance(&mut self, count: usize) -> io::Result<()> {
        self.check()?;
        self.filled += count;
        if self.jobs.is_none() {
            // Cuts are where they were made.
            while !self.pending.is_empty() {
                self.collect()?;
            }
            let filled = std::mem::take(&mut self.filled);
            self.output.write_all(&self.chunk[..filled])?;
            self.count += filled as u64;
        } else if self.filled == self.chunk_len {
            self.submit()?;
        }
        Ok(())
    }

    /// Hands the chunk to the threads.
    fn submit(&mut self) -> io::Result<()> {
        self.check()?;
        let Some(jobs) = self.jobs.as_ref().filter(|_| self.filled > 0) else {
            return Ok(());
        };
        let mut chunk = self.spare.pop().unwrap_or_default();
        std::mem::swap(&mut chunk.plain, &mut self.chunk);
        chunk.filled = std::mem::take(&mut self.filled);
        let (answer, wait) = bounded(1);
        jobs.send(Job { chunk, answer }).map_err(|_| failed())?;
        self.pending.push_back(Pending::Frame(wait));
        while self.pending.iter().filter(|one| !one.is_cut()).count() >= self.limit {
            self.collect()?;
        }
        self.collect_done()
    }

    /// Writes the frames that are compressed by now: whoever reads them again need not wait for more.
    pub(super) fn collect_done(&mut self) -> io::Result<()> {
        while self.pending.front().is_some_and(Pending::is_done) {
            self.collect()?;
        }
        Ok(())
    }

    /// Writes the next frame.
    fn collect(&mut self) -> io::Result<()> {
        self.check()?;
        // Until it is written: after an error the stream is of no use.
        self.failed = true;
        match self.pending.pop_front().ok_or_else(failed)? {
            Pending::Cut => self.cuts.push(self.count),
            Pending::Frame(wait) => {
                let chunk = wait.recv().map_err(|_| failed())??;
                self.output.write_all(&chunk.compressed)?;
                self.count += chunk.compressed.len() as u64;
                self.spare.push(chunk);
            }
        }
        self.failed = false;
        Ok(())
    }

    fn check(&self) -> io::Result<()> {
        if self.failed { Err(failed()) } else { Ok(()) }
    }
}

impl Pending {
    fn is_cut(&self) -> bool {
        matches!(self, Self::Cut)
    }

    fn is_done(&self) -> bool {
        match self {
            Self::Cut => true,
            Self::Frame(wait) => !wait.is_empty(),
        }
    }
}

fn failed() -> io::Error {
    io::Error::other("the compression failed before")
}

impl<W: Write> Write for Compressor<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = self.room(bytes.len());
        let taken = room.len();
        room.copy_from_slice(&bytes[..taken]);
        self.advance(taken)?;
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What a thread does that compresses.
fn work(compression: Compression, level: Option<i32>, jobs: &Receiver<Job>) {
    let mut zstd = None;
    for Job { mut chunk, answer } in jobs {
        let room = std::mem::take(&mut chunk.compressed);
        let plain = &chunk.plain[..chunk.filled];
        let compressed = match compression {
            Compression::None => Ok(plain.to_vec()),
            Compression::Zstd => zstd_frame(&mut zstd, level, plain, room),
            Compression::Gzip => gzip(plain, level, room),
            Compression::Lz4 => lz4(plain, room),
        };
        let done = compressed.map(|compressed| {
            chunk.compressed = compressed;
            chunk
        });
        // Nobody waits for it any more: then it is not wanted.
        let _ = answer.send(done);
    }
}

fn zstd_frame(
    compressor: &mut Option<zstd::bulk::Compressor<'static>>,
    level: Option<i32>,
    chunk: &[u8],
    mut room: Vec<u8>,
) -> io::Result<Vec<u8>> {
    let compressor = match compressor {
        Some(compressor) => compressor,
        None => compressor.insert(zstd_compressor(level)?),
    };
    room.clear();
    room.reserve(zstd::zstd_safe::compress_bound(chunk.len()));
    compressor.compress_to_buffer(chunk, &mut room)?;
    Ok(room)
}

fn zstd_compressor(level: Option<i32>) -> io::Result<zstd::bulk::Compressor<'static>> {
    let mut compressor = zstd::bulk::Compressor::new(level.unwrap_or(1))?;
    compressor.set_parameter(CParameter::ChecksumFlag(true))?;
    if level.is_none() {
        compressor.set_parameter(CParameter::WindowLog(ZSTD_WINDOW_LOG))?;
        compressor.set_parameter(CParameter::HashLog(ZSTD_HASH_LOG))?;
    }
    Ok(compressor)
}

fn gzip(chunk: &[u8], level: Option<i32>, mut room: Vec<u8>) -> io::Result<Vec<u8>> {
    room.clear();
    let level = level.and_then(|level| u32::try_from(level).ok()).unwrap_or(6);
    let level = flate2::Compression::new(level.min(9));
    let mut encoder = flate2::write::GzEncoder::new(room, level);
    encoder.write_all(chunk)?;
    encoder.finish()
}

fn lz4(chunk: &[u8], mut room: Vec<u8>) -> io::Result<Vec<u8>> {
    room.clear();
    let info = lz4_flex::frame::FrameInfo::new()
        .block_size(lz4_flex::frame::BlockSize::Max1MB)
        .content_checksum(true);
    let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(info, room);
    encoder.write_all(chunk)?;
    encoder.finish().map_err(io::Error::other)
}

/// Decompresses all frames of `input`, one after the other.
pub(super) fn decompressor(
    input: impl Read + Send + 'static,
    compression: Compression,
) -> io::Result<Box<dyn Read + Send>> {
    let input = BufReader::with_capacity(128 * 1024, input);
    Ok(match compression {
        Compression::None => Box::new(input),
        Compression::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(input)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
            Box::new(decoder)
        }
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(input)),
        Compression::Lz4 => Box::new(Lz4Frames(lz4_flex::frame::FrameDecoder::new(input))),
    })
}

/// The decoder stops at the end of each frame.
struct Lz4Frames<R: BufRead>(lz4_flex::frame::FrameDecoder<R>);

impl<R: BufRead> Read for Lz4Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let count = self.0.read(buffer)?;
            if count > 0 || buffer.is_empty() || self.0.get_mut().fill_buf()?.is_empty() {
                return Ok(count);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const ALL: [Compression; 4] =
        [Compression::None, Compression::Zstd, Compression::Gzip, Compression::Lz4];

    fn compress(compression: Compression, parts: &[&[u8]]) -> (Vec<u8>, Vec<u64>) {
        let threads = NonZeroUsize::new(3).unwrap();
        let mut compressor = Compressor::new(Vec::new(), compression, None, threads).unwrap();
        let mut cuts = Vec::new();
        for part in parts {
            compressor.write_all(part).unwrap();
            cuts.push(compressor.cut().unwrap());
        }
        let cuts = cuts.into_iter().map(|cut| compressor.offset(cut).unwrap()).collect();
        (compressor.finish().unwrap(), cuts)
    }

    fn decompress(compression: Compression, bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut output = Vec::new();
        decompressor(io::Cursor::new(bytes.to_vec()), compression)?.read_to_end(&mut output)?;
        Ok(output)
    }

    fn text(length: usize) -> Vec<u8> {
        (0..length).map(|index| b"some words to repeat, "[(index * index / 77) % 22]).collect()
    }

    #[test]
    fn any_frame_can_be_begun_at() {
        let parts = [text(5_000_000), Vec::new(), text(7), text(CHUNK), text(2 * CHUNK + 1)];
        let parts: Vec<_> = parts.iter().map(Vec::as_slice).collect();
        for compression in ALL {
            let (bytes, cuts) = compress(compression, &parts);
            assert_eq!(decompress(compression, &bytes).unwrap(), parts.concat());
            assert_eq!(*cuts.last().unwrap(), bytes.len() as u64);
            for (index, cut) in cuts.iter().enumerate() {
                let rest = &bytes[usize::try_from(*cut).unwrap()..];
                if rest.is_empty() {
                    continue;
                }
                let expected = parts[index + 1..].concat();
                assert_eq!(
                    decompress(compression, rest).unwrap(),
                    expected,
                    "{compression} {index}"
                );
            }
            assert!(compression == Compression::None || bytes.len() < 6_000_000);
        }
    }

    /// Though no more follows.
    #[test]
    fn what_is_compressed_can_be_written_at_once() {
        for compression in ALL {
            let threads = NonZeroUsize::new(2).unwrap();
            let mut compressor = Compressor::new(Vec::new(), compression, None, threads).unwrap();
            let frame = text(chunk_len(compression, None));
            compressor.write_all(&frame).unwrap();
            let begun = std::time::Instant::now();
            while compressor.output.is_empty() && begun.elapsed().as_secs() < 60 {
                compressor.collect_done().unwrap();
                std::thread::yield_now();
            }
            assert!(!compressor.output.is_empty(), "{compression}");
            let bytes = compressor.finish().unwrap();
            assert!(decompress(compression, &bytes).unwrap() == frame);
        }
    }

    #[test]
    fn zstd_finds_what_repeats_at_a_distance() {
        // Further away than the window of level 3, which is 2 MiB.
        let once: Vec<u8> = (0..3 << 20)
            .scan(1_u32, |state, _| {
                *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                Some(state.to_be_bytes()[0])
            })
            .collect();
        let (bytes, _) = compress(Compression::Zstd, &[&[&once[..], &once[..]].concat()]);
        assert!(bytes.len() < once.len() * 11 / 10, "{} of {}", bytes.len(), once.len());
        assert_eq!(decompress(Compression::Zstd, &bytes).unwrap(), [&once[..], &once[..]].concat());
    }

    #[test]
    fn the_usual_tools_read_it() {
        let parts = [text(3_000_000), text(70)];
        let directory = tempfile::tempdir().unwrap();
        for (compression, tool) in [(Compression::Zstd, "zstd"), (Compression::Gzip, "gzip")] {
            let (bytes, _) = compress(compression, &[&parts[0], &parts[1]]);
            let file = directory.path().join(tool);
            std::fs::write(&file, bytes).unwrap();
            let output = std::process::Command::new(tool)
                .args(["-d", "-c"])
                .stdin(std::fs::File::open(file).unwrap())
                .output()
                .unwrap();
            assert!(output.status.success(), "{tool}");
            assert_eq!(output.stdout, parts.concat(), "{tool}");
        }
    }

    #[test]
    fn damage_is_an_error_where_there_are_checksums() {
        let part = text(300_000);
        for compression in &ALL[1..] {
            let (bytes, _) = compress(*compression, &[&part]);
            for at in (0..bytes.len()).step_by(bytes.len() / 50 + 1) {
                let mut damaged = bytes.clone();
                damaged[at] ^= 0x10;
                let found = decompress(*compression, &damaged);
                assert!(found.is_err() || found.unwrap() == part, "{compression} {at}");
            }
            assert!(decompress(*compression, &bytes[..bytes.len() - 1]).is_err());
        }
    }

    /// Fails after so many bytes.
    struct Full(usize);

    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 = self.0.checked_sub(bytes.len()).ok_or(io::ErrorKind::StorageFull)?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_full_disk_is_told() {
        for compression in ALL {
            let threads = NonZeroUsize::new(2).unwrap();
            let mut compressor = Compressor::new(Full(1000), compression, None, threads).unwrap();
            let mut state = 1u64;
            let noise: Vec<u8> = (0..3 * CHUNK)
                .map(|_| {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    state.to_le_bytes()[3]
                })
                .collect();
            let written = compressor.write_all(&noise).and_then(|()| compressor.finish().map(drop));
            assert_eq!(written.unwrap_err().kind(), io::ErrorKind::StorageFull, "{compression}");
        }
    }
}
