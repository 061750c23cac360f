//! Reading buffer by buffer: ahead, in a thread of its own, or in place. Must know nothing of what is read.

use std::io::{self, BufRead, Read};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

use super::buffer::Buffer;
use super::error::{Error, Result};
use super::threads::start;

/// A buffer, and where in it the bytes are.
pub(super) type Piece = (Buffer, std::ops::Range<usize>);

/// What is read ahead: bytes, in buffers of any length.
pub(super) trait Pieces: Send {
    /// The next bytes, and where in the buffer they are: none at the end. `spare` may be used for
    /// them.
    fn next(&mut self, spare: Buffer) -> io::Result<Piece>;
}

/// Bytes of a buffer that a stream is read into, and how many of those are on their way.
const FILLED: usize = 256 * 1024;
pub(super) const FILLED_IN_FLIGHT: usize = 8;

/// Reads from a stream into whole buffers.
pub(super) struct Filled<R>(pub(super) R);

impl<R: Read + Send> Pieces for Filled<R> {
    fn next(&mut self, spare: Buffer) -> io::Result<Piece> {
        let mut spare = spare.into_vec();
        spare.resize(FILLED, 0);
        let mut filled = 0;
        while filled < spare.len() {
            match self.0.read(&mut spare[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok((Buffer::Heap(spare), 0..filled))
    }
}

/// Reads ahead in a thread of its own.
pub(super) struct Ahead {
    receiver: Option<Receiver<io::Result<Piece>>>,
    give_back: Sender<Buffer>,
    buffer: Buffer,
    at: std::ops::Range<usize>,
    thread: Option<JoinHandle<()>>,
}

impl Ahead {
    /// Reads `input` to its end or its first error, at most so many buffers ahead.
    ///
    /// # Errors
    /// [`Error::NoThread`].
    pub(super) fn new(mut input: impl Pieces + 'static, in_flight: usize) -> Result<Self> {
        let (sender, receiver) = bounded(in_flight);
        // Bounded by what is on its way. None is made anew where there is one to be had: the first use of
        // a page takes the system as long as to fill it.
        let (give_back, empty) = unbounded::<Buffer>();
        let thread = start(move || {
            loop {
                let read = input.next(empty.try_recv().unwrap_or_default());
                let ends = !matches!(&read, Ok((_, bytes)) if !bytes.is_empty());
                if sender.send(read).is_err() || ends {
                    return;
                }
            }
        })?;
        let (buffer, at) = (Buffer::default(), 0..0);
        Ok(Self { receiver: Some(receiver), give_back, buffer, at, thread: Some(thread) })
    }
}

impl BufRead for Ahead {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.at.is_empty() {
            let Some(receiver) = &self.receiver else { break };
            self.at = 0..0;
            let read = std::mem::take(&mut self.buffer);
            if !read.is_empty() {
                // Nobody to take it back any more: then it goes.
                let _ = self.give_back.send(read);
            }
            match receiver.recv() {
                Ok(Ok((_, next))) if next.is_empty() => self.receiver = None,
                Ok(Ok((next, at))) => (self.buffer, self.at) = (next, at),
                Ok(Err(error)) => return Err(error),
                Err(_) => return Err(Error::Worker.into_io()),
            }
        }
        Ok(&self.buffer[self.at.clone()])
    }

    fn consume(&mut self, count: usize) {
        self.at.start += count.min(self.at.len());
    }
}

impl Read for Ahead {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(buffer)?;
        self.consume(count);
        Ok(count)
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.receiver = None;
        if let Some(thread) = self.thread.take() {
            // A panic there was reported where it happened.
            let _ = thread.join();
        }
    }
}

/// Reads when it is wanted, in the thread that wants it.
pub(super) struct InPlace<P> {
    /// `None` after the end, or an error.
    input: Option<P>,
    buffer: Buffer,
    at: std::ops::Range<usize>,
    failed: bool,
}

impl<P: Pieces> InPlace<P> {
    pub(super) fn new(input: P) -> Self {
        Self { input: Some(input), buffer: Buffer::default(), at: 0..0, failed: false }
    }
}

impl<P: Pieces> BufRead for InPlace<P> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.failed {
            return Err(Error::Worker.into_io());
        }
        if self.at.is_empty()
            && let Some(mut input) = self.input.take()
        {
            self.failed = true;
            (self.buffer, self.at) = input.next(std::mem::take(&mut self.buffer))?;
            self.failed = false;
            self.input = Some(input).filter(|_| !self.at.is_empty());
        }
        Ok(&self.buffer[self.at.clone()])
    }

    fn consume(&mut self, count: usize) {
        self.at.start += count.min(self.at.len());
    }
}

impl<P: Pieces> Read for InPlace<P> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(buffer)?;
        self.consume(count);
        Ok(count)
    }
}
