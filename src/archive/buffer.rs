//! Large buffers that are used again and again. Must know nothing of what is in them.

use std::ops::{Deref, DerefMut};

use memmap2::{Advice, MmapMut};

/// Zeros at first, of a fixed length. In huge pages where the system has them for who asks (madvise(2),
/// `MADV_HUGEPAGE`): the first touch of 8 MiB is otherwise 2,048 page faults, which take longer than to
/// fill it.
pub(super) enum Buffer {
    Pages(MmapMut),
    Heap(Vec<u8>),
}

impl Buffer {
    pub(super) fn new(length: usize) -> Self {
        match MmapMut::map_anon(length) {
            Ok(pages) => {
                // A hint: without it nothing is lost.
                let _ = pages.advise(Advice::HugePage);
                Self::Pages(pages)
            }
            Err(_) => Self::Heap(vec![0; length]),
        }
    }

    /// The bytes of one that is a vector; an empty one else.
    pub(super) fn into_vec(self) -> Vec<u8> {
        match self {
            Self::Pages(_) => Vec::new(),
            Self::Heap(bytes) => bytes,
        }
    }
}

impl Default for Buffer {
    /// Of no length, in no memory.
    fn default() -> Self {
        Self::Heap(Vec::new())
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Pages(pages) => pages,
            Self::Heap(bytes) => bytes,
        }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        match self {
            Self::Pages(pages) => pages,
            Self::Heap(bytes) => bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_that_can_be_written() {
        for length in [0, 1, 4096, 8 << 20] {
            let mut buffer = Buffer::new(length);
            assert!(buffer.len() == length && buffer.iter().all(|byte| *byte == 0));
            buffer.fill(7);
            assert!(buffer.iter().all(|byte| *byte == 7));
        }
        assert!(Buffer::default().is_empty());
    }
}
