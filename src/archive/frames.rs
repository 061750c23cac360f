//! Decompresses zstd frame by frame, where each says how long it is: straight to where its bytes are
//! wanted, without the window that a stream is decompressed through, and side by side.

use std::collections::VecDeque;
use std::io::{self, BufRead, Chain, Cursor, Read};

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use zstd::bulk::Decompressor;
use zstd::stream::read::Decoder;
use zstd::zstd_safe::{compress_bound, find_frame_compressed_size, get_frame_content_size};

use super::ahead::{Ahead, Filled, Piece, Pieces};
use super::buffer::Buffer;
use super::compress::ZSTD_WINDOW_LOG_MAX;
use super::threads::start;

/// Longest content of a frame that is decompressed whole; others are streamed.
const WHOLE_MAX: usize = 8 << 20;
/// Longest header of a frame.
const HEADER_MAX: usize = 18;

/// Threads that decompress at most: each holds a frame, compressed and not.
const THREADS_MAX: usize = 4;

type Rest = Chain<Cursor<Vec<u8>>, Ahead>;

/// A frame to be decompressed.
struct Job {
    frame: Vec<u8>,
    /// How long it is decompressed.
    content: usize,
    /// Where its bytes go.
    into: Buffer,
    answer: Sender<io::Result<Done>>,
}

/// A frame and what it was decompressed to.
struct Done {
    frame: Vec<u8>,
    bytes: Buffer,
    length: usize,
}

/// A sequence of zstd frames.
pub(super) struct ZstdFrames {
    /// The compressed bytes; `None` once they are streamed.
    input: Option<Ahead>,
    /// Those of them that were read, and not taken for a frame yet.
    read: Vec<u8>,
    jobs: Sender<Job>,
    /// Frames being decompressed, in their order, and how many there may be.
    pending: VecDeque<Receiver<io::Result<Done>>>,
    limit: usize,
    threads: usize,
    /// Those that were started, and what each is given.
    started: usize,
    queue: Receiver<Job>,
    /// What is wrong with the input behind them.
    failure: Option<io::Error>,
    /// For what is read next, instead of new memory.
    spare: Vec<u8>,
    streamed: Option<Filled<Decoder<'static, Rest>>>,
    /// Where no thread decompresses.
    decompressor: Option<Decompressor<'static>>,
}

impl ZstdFrames {
    /// Buffers on their way, but for those of the threads: none, as each is a frame. New memory is slow
    /// where the system has to find it first.
    pub(super) const IN_FLIGHT: usize = 0;

    /// Of frames that `threads` threads decompress, or fewer; whoever asks for them, where there are none.
    pub(super) fn new(input: Ahead, threads: usize) -> Self {
        let (jobs, queue) = unbounded();
        let threads = threads.min(THREADS_MAX);
        Self {
            input: Some(input),
            read: Vec::new(),
            jobs,
            pending: VecDeque::new(),
            limit: 0,
            threads,
            started: 0,
            queue,
            failure: None,
            spare: Vec::new(),
            streamed: None,
            decompressor: None,
        }
    }

    /// Starts one more thread, if so many frames may be on their way. As many as the system gives will do.
    fn start_thread(&mut self) {
        if self.started >= self.threads {
            return;
        }
        let queue = self.queue.clone();
        // They end when the queue does, of which this value holds the other end.
        match start(move || work(&queue)) {
            Ok(_) => self.started += 1,
            Err(_) => self.threads = self.started,
        }
    }

    /// The next frame, decompressed here.
    fn here(&mut self, spare: Buffer) -> io::Result<Piece> {
        let Some((compressed, content)) = self.next_frame()? else { return self.rest(spare) };
        let decompressor = match &mut self.decompressor {
            Some(decompressor) => decompressor,
            none => none.insert(Decompressor::new()?),
        };
        let frame = self.read.get(..compressed).unwrap_or_default();
        let bytes = decompress(decompressor, frame, content, spare)?;
        self.read.drain(..compressed);
        Ok((bytes, 0..content))
    }

    /// What is not a frame that is decompressed whole, or the end.
    fn rest(&mut self, spare: Buffer) -> io::Result<Piece> {
        match self.read.is_empty() {
            true => Ok((spare, 0..0)),
            false => self.stream()?.next(spare),
        }
    }

    /// Hands on the next frame; whether there is one that is decompressed whole.
    fn submit(&mut self, spare: &mut Buffer) -> io::Result<bool> {
        let Some((compressed, content)) = self.next_frame()? else { return Ok(false) };
        let mut next = std::mem::take(&mut self.spare);
        next.clear();
        next.extend_from_slice(self.read.get(compressed..).unwrap_or_default());
        self.read.truncate(compressed);
        let frame = std::mem::replace(&mut self.read, next);
        let into = std::mem::take(spare);
        let (answer, wait) = bounded(1);
        self.jobs.send(Job { frame, content, into, answer }).map_err(|_| failed())?;
        self.pending.push_back(wait);
        Ok(true)
    }

    /// Reads more of the input; whether there was any.
    fn read_more(&mut self) -> io::Result<bool> {
        let Some(input) = &mut self.input else { return Ok(false) };
        let bytes = input.fill_buf()?;
        let count = bytes.len();
        self.read.extend_from_slice(bytes);
        input.consume(count);
        Ok(count > 0)
    }

    /// The lengths of the next frame, compressed and not; `None` where it is not one that is
    /// decompressed whole, whatever it is.
    fn next_frame(&mut self) -> io::Result<Option<(usize, usize)>> {
        while self.read.len() < HEADER_MAX && self.read_more()? {}
        let content = get_frame_content_size(&self.read).ok().flatten();
        let content = content.and_then(|length| usize::try_from(length).ok());
        let Some(content) = content.filter(|length| (1..=WHOLE_MAX).contains(length)) else {
            return Ok(None);
        };
        loop {
            if let Ok(compressed) = find_frame_compressed_size(&self.read) {
                return Ok(Some((compressed, content)));
            }
            if self.read.len() > 2 * compress_bound(content) || !self.read_more()? {
                return Ok(None);
            }
        }
    }

    /// The rest as a stream, which also tells what is wrong with it.
    fn stream(&mut self) -> io::Result<&mut Filled<Decoder<'static, Rest>>> {
        if let Some(input) = self.input.take() {
            let rest = Cursor::new(std::mem::take(&mut self.read)).chain(input);
            let mut decoder = Decoder::with_buffer(rest)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
            self.streamed = Some(Filled(decoder));
        }
        self.streamed.as_mut().ok_or_else(failed)
    }
}

/// What a thread does that decompresses.
fn work(jobs: &Receiver<Job>) {
    let mut decompressor = Decompressor::new();
    for Job { frame, content, into, answer } in jobs {
        let done =
            match &mut decompressor {
                Ok(decompressor) => decompress(decompressor, &frame, content, into)
                    .map(|bytes| Done { frame, bytes, length: content }),
                Err(error) => Err(io::Error::other(error.to_string())),
            };
        // Nobody waits for it any more: then it is not wanted.
        let _ = answer.send(done);
    }
}

fn decompress(
    decompressor: &mut Decompressor<'_>,
    frame: &[u8],
    content: usize,
    mut into: Buffer,
) -> io::Result<Buffer> {
    if into.len() < content {
        // For longer ones, too, that follow.
        into = Buffer::new(WHOLE_MAX);
    }
    match decompressor.decompress_to_buffer(frame, &mut into[..content])? {
        count if count == content => Ok(into),
        _ => Err(io::Error::other("a frame is not as long as it says")),
    }
}

fn failed() -> io::Error {
    io::Error::other("the decompression failed before")
}

impl Pieces for ZstdFrames {
    fn next(&mut self, mut spare: Buffer) -> io::Result<Piece> {
        if let Some(streamed) = &mut self.streamed {
            return streamed.next(spare);
        }
        // More by and by: whoever only looks at the beginning need not wait for what follows.
        self.start_thread();
        if self.threads == 0 {
            return self.here(spare);
        }
        self.limit = (self.limit + 1).min(self.threads);
        while self.pending.len() < self.limit && self.failure.is_none() {
            match self.submit(&mut spare) {
                Ok(true) => {}
                Ok(false) => break,
                // It is told in its turn.
                Err(error) => self.failure = Some(error),
            }
        }
        if let Some(next) = self.pending.pop_front() {
            let Done { frame, bytes, length } = next.recv().map_err(|_| failed())??;
            self.spare = frame;
            return Ok((bytes, 0..length));
        }
        if let Some(error) = self.failure.take() {
            return Err(error);
        }
        self.rest(spare)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::super::ahead::InPlace;
    use super::*;

    /// Decompresses all of it, by threads and without any: what came of it, and why no more.
    fn decompressed(bytes: &[u8]) -> (Vec<u8>, io::Result<()>) {
        let frames = |threads| {
            let input = Ahead::new(Filled(Cursor::new(bytes.to_vec())), 2).unwrap();
            ZstdFrames::new(input, threads)
        };
        let read = |reader: &mut dyn Read| {
            let mut output = Vec::new();
            let read = reader.read_to_end(&mut output).map(drop);
            (output, read)
        };
        let ahead = |threads| Ahead::new(frames(threads), ZstdFrames::IN_FLIGHT).unwrap();
        let found = read(&mut ahead(3));
        for other in [read(&mut ahead(0)), read(&mut InPlace::new(frames(0)))] {
            assert!(other.0 == found.0 && other.1.is_ok() == found.1.is_ok());
        }
        found
    }

    fn frames(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let (output, read) = decompressed(bytes);
        read.map(|()| output)
    }

    fn text(length: usize) -> Vec<u8> {
        (0..length).map(|index| b"some words to repeat, "[(index * index / 77) % 22]).collect()
    }

    /// A frame that says how long it is.
    fn whole(content: &[u8]) -> Vec<u8> {
        let mut compressor = zstd::bulk::Compressor::new(3).unwrap();
        compressor.include_checksum(true).unwrap();
        compressor.compress(content).unwrap()
    }

    /// A frame that does not.
    fn stream(content: &[u8]) -> Vec<u8> {
        zstd::stream::encode_all(content, 3).unwrap()
    }

    #[test]
    fn frames_of_every_kind() {
        let (short, long, longer) = (text(7), text(3_000_000), text(WHOLE_MAX + 1));
        let cases: [&[(bool, &[u8])]; 8] = [
            &[],
            &[(true, &short)],
            &[(true, &long), (true, &short), (true, &long)],
            &[(false, &long), (true, &short)],
            &[(true, &short), (false, &long), (true, &long)],
            &[(true, &short), (true, &longer), (true, &long)],
            &[(true, &short), (true, &[]), (true, &long)],
            &[(false, &[]), (true, &long)],
        ];
        for case in cases {
            let mut bytes = Vec::new();
            let mut expected = Vec::new();
            for (is_whole, content) in case {
                bytes.extend(if *is_whole { whole(content) } else { stream(content) });
                expected.extend_from_slice(content);
            }
            assert!(frames(&bytes).unwrap() == expected);
        }
    }

    #[test]
    fn damage_is_an_error() {
        let content = text(300_000);
        let bytes = [whole(&content), whole(&content)].concat();
        for at in (0..bytes.len()).step_by(bytes.len() / 100 + 1) {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            let found = frames(&damaged);
            assert!(found.is_err() || found.unwrap() == content.repeat(2), "{at}");
        }
        for length in [1, 3, 17, bytes.len() / 4, bytes.len() / 2 + 1, bytes.len() - 1] {
            assert!(frames(&bytes[..length]).is_err(), "{length}");
        }
        assert!(frames(b"this is no frame at all").is_err());
        assert!(frames(&[&bytes[..], b"trailing"].concat()).is_err());
    }

    /// Pieces without end, each in a buffer that came back or a new one; counts the latter.
    struct Counted(Arc<AtomicUsize>);

    impl Pieces for Counted {
        fn next(&mut self, spare: Buffer) -> io::Result<Piece> {
            if !spare.is_empty() {
                return Ok((spare, 0..1));
            }
            self.0.fetch_add(1, Ordering::Relaxed);
            Ok((Buffer::new(1 << 16), 0..1))
        }
    }

    /// Fails once, then has bytes again.
    struct FailsOnce(u8);

    impl Pieces for FailsOnce {
        fn next(&mut self, _spare: Buffer) -> io::Result<Piece> {
            self.0 += 1;
            match self.0 {
                2 => Err(io::Error::other("once")),
                _ => Ok((Buffer::new(1), 0..1)),
            }
        }
    }

    #[test]
    fn after_an_error_nothing_follows() {
        let mut readers: [Box<dyn Read>; 2] =
            [Box::new(Ahead::new(FailsOnce(0), 4).unwrap()), Box::new(InPlace::new(FailsOnce(0)))];
        for reader in &mut readers {
            assert_eq!(reader.read(&mut [0; 8]).unwrap(), 1);
            assert_eq!(reader.read(&mut [0; 8]).unwrap_err().to_string(), "once");
            assert!(reader.read(&mut [0; 8]).is_err());
            assert!(reader.read(&mut [0; 8]).is_err());
        }
    }

    #[test]
    fn buffers_come_back() {
        for in_flight in [0, 1, 8] {
            let new = Arc::default();
            let mut ahead = Ahead::new(Counted(Arc::clone(&new)), in_flight).unwrap();
            ahead.read_exact(&mut [0; 1000]).unwrap();
            drop(ahead);
            // Those on their way, the one being made and the one being read.
            let new = new.load(Ordering::Relaxed);
            assert!((1..=in_flight + 2).contains(&new), "{new}");
        }
    }

    /// What is whole comes first, whatever is wrong behind it.
    #[test]
    fn an_error_comes_in_its_turn() {
        let frame = whole(&text(300_000));
        let good = frame.repeat(6);
        let mut bad = frame.clone();
        bad[200_000.min(frame.len() / 2)] ^= 0x10;
        for tail in [bad, frame[..frame.len() / 2].to_vec(), b"no frame".to_vec()] {
            let bytes = [&good[..], &tail].concat();
            let (output, read) = decompressed(&bytes);
            assert!(read.is_err());
            assert!(output.starts_with(&text(300_000).repeat(6)));
        }
    }

    /// A frame that claims more than it holds, or less.
    #[test]
    fn a_false_length_is_an_error() {
        let bytes = whole(&text(300_000));
        // Four bytes of content size behind the magic number and the descriptor.
        assert_eq!(bytes[5..9], 300_000u32.to_le_bytes());
        for claimed in [1u32, 299_999, 300_001, 8 << 20] {
            let mut forged = bytes.clone();
            forged[5..9].copy_from_slice(&claimed.to_le_bytes());
            assert!(frames(&forged).is_err(), "{claimed}");
        }
    }
}
