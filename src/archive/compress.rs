//! Compression on several processors, in frames: each of the four forms may be a sequence of
//! frames that decompress as one stream, so that an index can be found without reading all.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::num::NonZeroUsize;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

use crate::format::archive::Compression;

/// Bytes of a frame where each is compressed by itself (gzip, LZ4).
const CHUNK: usize = 1 << 20;
/// A window of 128 MiB: as much as `zstd` itself takes without being told.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// The level that a compression has by default.
pub(super) fn default_level(compression: Compression) -> i32 {
    match compression {
        Compression::Zstd => 3,
        Compression::Gzip => 6,
        Compression::None | Compression::Lz4 => 0,
    }
}

/// Compresses into `W`.
pub(super) struct Compressor<W: Write> {
    compression: Compression,
    level: i32,
    threads: usize,
    /// Empty only while a frame is being begun or ended, and after a failure to.
    state: Option<State<W>>,
}

enum State<W: Write> {
    /// Between frames, or not compressing.
    Plain(Counted<W>),
    Zstd(zstd::stream::write::Encoder<'static, Counted<W>>),
    Chunks(Chunks<W>),
}

struct Counted<W> {
    output: W,
    count: u64,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.output.write(bytes)?;
        self.count += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}

impl<W: Write> Compressor<W> {
    pub(super) fn new(
        output: W,
        compression: Compression,
        level: Option<i32>,
        threads: NonZeroUsize,
    ) -> Self {
        Self {
            compression,
            level: level.unwrap_or_else(|| default_level(compression)),
            threads: threads.get(),
            state: Some(State::Plain(Counted { output, count: 0 })),
        }
    }

    /// Ends the frame, if one was begun; where in the output the next one will begin.
    pub(super) fn cut(&mut self) -> io::Result<u64> {
        let output = match self.take()? {
            State::Plain(output) => output,
            State::Zstd(encoder) => encoder.finish()?,
            State::Chunks(chunks) => chunks.finish()?,
        };
        let count = output.count;
        self.state = Some(State::Plain(output));
        Ok(count)
    }

    /// Ends the stream.
    pub(super) fn finish(mut self) -> io::Result<W> {
        self.cut()?;
        match self.take()? {
            State::Plain(output) => Ok(output.output),
            State::Zstd(_) | State::Chunks(_) => Err(failed()),
        }
    }

    fn take(&mut self) -> io::Result<State<W>> {
        self.state.take().ok_or_else(failed)
    }

    fn begin(&self, output: Counted<W>) -> io::Result<State<W>> {
        Ok(match self.compression {
            Compression::None => State::Plain(output),
            Compression::Zstd => {
                let mut encoder = zstd::stream::write::Encoder::new(output, self.level)?;
                encoder.include_checksum(true)?;
                encoder.multithread(u32::try_from(self.threads).unwrap_or(1))?;
                State::Zstd(encoder)
            }
            Compression::Gzip => {
                let level = flate2::Compression::new(u32::try_from(self.level).unwrap_or(6).min(9));
                State::Chunks(Chunks::new(output, self.threads, move |chunk| gzip(chunk, level)))
            }
            Compression::Lz4 => State::Chunks(Chunks::new(output, self.threads, lz4)),
        })
    }
}

/// After an error the stream is of no use.
fn failed() -> io::Error {
    io::Error::other("the compression failed before")
}

impl<W: Write> Write for Compressor<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(State::Plain(_)) = &self.state
            && let State::Plain(output) = self.take()?
        {
            self.state = Some(self.begin(output)?);
        }
        match self.state.as_mut().ok_or_else(failed)? {
            State::Plain(output) => output.write(bytes),
            State::Zstd(encoder) => encoder.write(bytes),
            State::Chunks(chunks) => chunks.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn gzip(chunk: &[u8], level: flate2::Compression) -> io::Result<Vec<u8>> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::with_capacity(chunk.len() / 2), level);
    encoder.write_all(chunk)?;
    encoder.finish()
}

fn lz4(chunk: &[u8]) -> io::Result<Vec<u8>> {
    let info = lz4_flex::frame::FrameInfo::new()
        .block_size(lz4_flex::frame::BlockSize::Max1MB)
        .content_checksum(true);
    let output = Vec::with_capacity(chunk.len() / 2);
    let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(info, output);
    encoder.write_all(chunk)?;
    encoder.finish().map_err(io::Error::other)
}

type Compress = dyn Fn(&[u8]) -> io::Result<Vec<u8>> + Send + Sync;
type Job = (Vec<u8>, Sender<io::Result<Vec<u8>>>);

/// Chunks compressed by several threads and written in order.
struct Chunks<W> {
    output: Counted<W>,
    buffer: Vec<u8>,
    jobs: Sender<Job>,
    pending: VecDeque<Receiver<io::Result<Vec<u8>>>>,
    limit: usize,
}

impl<W: Write> Chunks<W> {
    fn new(
        output: Counted<W>,
        threads: usize,
        compress: impl Fn(&[u8]) -> io::Result<Vec<u8>> + Send + Sync + 'static,
    ) -> Self {
        let (jobs, queue) = unbounded::<Job>();
        let compress: std::sync::Arc<Compress> = std::sync::Arc::new(compress);
        for _ in 0..threads {
            let (queue, compress) = (queue.clone(), std::sync::Arc::clone(&compress));
            // They end when the queue does, which this value holds.
            std::thread::spawn(move || {
                for (chunk, answer) in queue {
                    // Nobody waits for it any more: then it is not wanted.
                    let _ = answer.send(compress(&chunk));
                }
            });
        }
        let buffer = Vec::with_capacity(CHUNK);
        Self { output, buffer, jobs, pending: VecDeque::new(), limit: threads + 2 }
    }

    fn submit(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        while self.pending.len() >= self.limit {
            self.collect()?;
        }
        let (answer, wait) = bounded(1);
        let chunk = std::mem::replace(&mut self.buffer, Vec::with_capacity(CHUNK));
        self.jobs.send((chunk, answer)).map_err(|_| failed())?;
        self.pending.push_back(wait);
        Ok(())
    }

    fn collect(&mut self) -> io::Result<()> {
        let Some(wait) = self.pending.pop_front() else { return Ok(()) };
        let frame = wait.recv().map_err(|_| failed())??;
        self.output.write_all(&frame)
    }

    fn finish(mut self) -> io::Result<Counted<W>> {
        self.submit()?;
        while !self.pending.is_empty() {
            self.collect()?;
        }
        Ok(self.output)
    }
}

impl<W: Write> Write for Chunks<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(CHUNK - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..taken]);
        if self.buffer.len() == CHUNK {
            self.submit()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
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
        let mut compressor = Compressor::new(Vec::new(), compression, None, threads);
        let mut cuts = Vec::new();
        for part in parts {
            compressor.write_all(part).unwrap();
            cuts.push(compressor.cut().unwrap());
        }
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
            let mut compressor = Compressor::new(Full(1000), compression, None, threads);
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
