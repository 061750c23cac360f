//! A sealed stream: what a migration keeps of names and contents beside the vault must not be
//! readable there. Chunks are sealed with their position, the stream's random ID and whether they
//! are the last, so that none can be moved, dropped or taken from another stream.

use std::io::{self, Read, Write};

use crate::crypto::{
    AssociatedData, Domain, MigrationKey, NONCE_LEN, Nonce, SealingKey, TAG_LEN, random_array,
};

/// Plaintext bytes in every chunk but the last.
const CHUNK: usize = 256 * 1024;

/// Identifies one sealed stream; the journal keeps it.
pub(super) type StreamId = [u8; 16];

fn associated_data(id: &StreamId, index: u64, last: bool) -> AssociatedData {
    AssociatedData::new(Domain::Migration, &[b"s", id, &index.to_le_bytes(), &[u8::from(last)]])
}

/// Seals what is written to it.
pub(super) struct SealedWriter<W: Write> {
    inner: W,
    key: SealingKey,
    id: StreamId,
    index: u64,
    plain: Vec<u8>,
    cipher: Vec<u8>,
}

impl<W: Write> SealedWriter<W> {
    /// A new stream with a random ID.
    pub(super) fn new(inner: W, key: &MigrationKey) -> Self {
        Self {
            inner,
            key: SealingKey::new(key.expose()),
            id: random_array(),
            index: 0,
            plain: Vec::with_capacity(CHUNK),
            cipher: vec![0; CHUNK],
        }
    }

    fn seal_chunk(&mut self, last: bool) -> io::Result<()> {
        let nonce = Nonce::random();
        let nonce_bytes = nonce.bytes();
        let cipher = &mut self.cipher[..self.plain.len()];
        let tag =
            self.key.seal(nonce, &associated_data(&self.id, self.index, last), &self.plain, cipher);
        self.inner.write_all(&nonce_bytes)?;
        self.inner.write_all(cipher)?;
        self.inner.write_all(&tag)?;
        self.plain.clear();
        self.index += 1;
        Ok(())
    }

    /// Seals the last chunk; what lies below, and the ID that opens the stream.
    pub(super) fn finish(mut self) -> io::Result<(W, StreamId)> {
        self.seal_chunk(true)?;
        self.inner.flush()?;
        Ok((self.inner, self.id))
    }
}

impl<W: Write> Write for SealedWriter<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        // A full chunk is sealed only when more follows: the last one must know that it is.
        if self.plain.len() == CHUNK {
            self.seal_chunk(false)?;
        }
        let taken = data.len().min(CHUNK - self.plain.len());
        self.plain.extend_from_slice(&data[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Opens what [`SealedWriter`] sealed. An error of kind `InvalidData` means that it was changed
/// or cut short.
pub(super) struct SealedReader<R: Read> {
    inner: R,
    key: SealingKey,
    id: StreamId,
    index: u64,
    stored: Vec<u8>,
    plain: Vec<u8>,
    at: usize,
    ended: bool,
}

impl<R: Read> SealedReader<R> {
    /// Reads the stream with this ID.
    pub(super) fn new(inner: R, key: &MigrationKey, id: StreamId) -> Self {
        Self {
            inner,
            key: SealingKey::new(key.expose()),
            id,
            index: 0,
            stored: Vec::new(),
            plain: Vec::new(),
            at: 0,
            ended: false,
        }
    }

    fn open_chunk(&mut self) -> io::Result<()> {
        const FULL: usize = NONCE_LEN + CHUNK + TAG_LEN;
        // One byte more than a chunk tells whether it is the last.
        let carried = self.stored.len();
        let wanted = u64::try_from(FULL + 1 - carried).unwrap_or(0);
        (&mut self.inner).take(wanted).read_to_end(&mut self.stored)?;
        let last = self.stored.len() <= FULL;
        let rest = if last { Vec::new() } else { self.stored.split_off(FULL) };
        let damaged = || io::Error::new(io::ErrorKind::InvalidData, "it was changed or cut short");
        if self.stored.len() < NONCE_LEN + TAG_LEN {
            return Err(damaged());
        }
        let (nonce, body) = self.stored.split_at(NONCE_LEN);
        let (cipher, tag) = body.split_at(body.len() - TAG_LEN);
        let (Ok(nonce), Ok(tag)) = (nonce.try_into(), tag.try_into()) else {
            return Err(damaged());
        };
        self.plain.resize(cipher.len(), 0);
        self.key
            .open(nonce, &associated_data(&self.id, self.index, last), cipher, tag, &mut self.plain)
            .map_err(|_| damaged())?;
        self.stored = rest;
        self.index += 1;
        self.at = 0;
        self.ended = last;
        Ok(())
    }
}

impl<R: Read> Read for SealedReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.plain.len() && !self.ended {
            self.open_chunk()?;
        }
        let taken = buffer.len().min(self.plain.len() - self.at);
        buffer[..taken].copy_from_slice(&self.plain[self.at..self.at + taken]);
        self.at += taken;
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn key() -> MigrationKey {
        MigrationKey::from_bytes(&[9; 32])
    }

    fn sealed(plain: &[u8]) -> (Vec<u8>, StreamId) {
        let mut writer = SealedWriter::new(Vec::new(), &key());
        writer.write_all(plain).unwrap();
        writer.finish().unwrap()
    }

    fn opened(stored: &[u8], id: StreamId) -> io::Result<Vec<u8>> {
        let mut plain = Vec::new();
        SealedReader::new(stored, &key(), id).read_to_end(&mut plain)?;
        Ok(plain)
    }

    #[test]
    fn every_length_comes_back() {
        for len in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 3 * CHUNK + 5] {
            let plain: Vec<u8> = (0..len).map(|at| u8::try_from(at % 251).unwrap()).collect();
            let (stored, id) = sealed(&plain);
            assert_eq!(opened(&stored, id).unwrap(), plain, "{len}");
        }
    }

    #[test]
    fn every_change_is_seen() {
        const STEP: usize = NONCE_LEN + CHUNK + TAG_LEN;
        let (stored, id) = sealed(&vec![7; 2 * CHUNK + 9]);
        let damaged = |bytes: &[u8]| {
            assert_eq!(opened(bytes, id).unwrap_err().kind(), io::ErrorKind::InvalidData);
        };
        for cut in [0, 1, 27, STEP, 2 * STEP, stored.len() - 1] {
            damaged(&stored[..cut]);
        }
        for at in (0..stored.len()).step_by(10_007).chain([stored.len() - 1]) {
            let mut changed = stored.clone();
            changed[at] ^= 1;
            damaged(&changed);
        }
        let mut swapped = stored.clone();
        let (first, second) = swapped.split_at_mut(STEP);
        first.swap_with_slice(&mut second[..STEP]);
        damaged(&swapped);
        let mut longer = stored.clone();
        longer.push(0);
        damaged(&longer);
        let (other, _) = sealed(b"another");
        damaged(&other);
    }
}
