//! Decompresses zstd frame by frame, where each says how long it is: straight to where its bytes are
//! wanted, without the window that a stream is decompressed through.

use std::io::{self, BufRead, Chain, Cursor, Read};

use zstd::bulk::Decompressor;
use zstd::stream::read::Decoder;
use zstd::zstd_safe::{compress_bound, find_frame_compressed_size, get_frame_content_size};

use super::compress::ZSTD_WINDOW_LOG_MAX;
use super::pipe::{Ahead, Filled, Piece, Pieces};

/// Longest content of a frame that is decompressed whole; others are streamed.
const WHOLE_MAX: usize = 8 << 20;
/// Longest header of a frame.
const HEADER_MAX: usize = 18;

type Rest = Chain<Cursor<Vec<u8>>, Ahead>;

/// A sequence of zstd frames.
pub(super) struct ZstdFrames {
    /// The compressed bytes; `None` once they are streamed.
    input: Option<Ahead>,
    /// Those of them that were read, and not decompressed yet.
    read: Vec<u8>,
    decompressor: Decompressor<'static>,
    streamed: Option<Filled<Decoder<'static, Rest>>>,
}

impl ZstdFrames {
    /// Buffers on their way: few, as each is a frame.
    pub(super) const IN_FLIGHT: usize = 2;

    pub(super) fn new(input: Ahead) -> io::Result<Self> {
        let decompressor = Decompressor::new()?;
        Ok(Self { input: Some(input), read: Vec::new(), decompressor, streamed: None })
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
        self.streamed.as_mut().ok_or_else(|| io::Error::other("the decompression failed before"))
    }
}

impl Pieces for ZstdFrames {
    fn next(&mut self, mut spare: Vec<u8>) -> io::Result<Piece> {
        let Some((compressed, content)) = self.next_frame()? else {
            if self.read.is_empty() && self.streamed.is_none() {
                return Ok((spare, 0..0));
            }
            return self.stream()?.next(spare);
        };
        spare.clear();
        spare.reserve(content);
        let frame = self.read.get(..compressed).unwrap_or_default();
        let count = self.decompressor.decompress_to_buffer(frame, &mut spare)?;
        if count != content {
            return Err(io::Error::other("a frame is not as long as it says"));
        }
        self.read.drain(..compressed);
        Ok((spare, 0..count))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn frames(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let input = Ahead::new(Filled(Cursor::new(bytes.to_vec())), 2);
        let mut output = Vec::new();
        Ahead::new(ZstdFrames::new(input)?, ZstdFrames::IN_FLIGHT).read_to_end(&mut output)?;
        Ok(output)
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
