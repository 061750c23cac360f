//! Reading past the kernel's cache (`O_DIRECT` of open(2)): what comes is what the disk has, and what
//! the cache holds for others stays there.

use std::os::fd::AsFd;
use std::sync::{Mutex, PoisonError};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;

/// Addresses, offsets and lengths are multiples of it: enough for the disks there are, and who wants
/// more says so.
const ALIGNMENT: usize = 4096;
/// Bytes read at once.
const WINDOW: usize = 1 << 20;

/// Reads an open file past the cache, as long as its filesystem permits it.
pub(super) struct Direct(Mutex<State>);

struct State {
    /// Long enough to hold an aligned window.
    buffer: Vec<u8>,
    refused: bool,
}

impl Direct {
    /// `None` where the filesystem has no such thing.
    pub(super) fn begin(file: impl AsFd) -> Option<Self> {
        set(file, true).ok()?;
        let buffer = vec![0; WINDOW + ALIGNMENT];
        Some(Self(Mutex::new(State { buffer, refused: false })))
    }

    /// As `pread(2)` does it, any offset and length.
    pub(super) fn read(
        &self,
        file: impl AsFd,
        into: &mut [u8],
        offset: u64,
    ) -> rustix::io::Result<usize> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.refused {
            return rustix::io::pread(file, into, offset);
        }
        let begin = state.buffer.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        let window = &mut state.buffer[begin..begin + WINDOW];
        let before = usize::try_from(offset % ALIGNMENT as u64).map_err(|_| Errno::OVERFLOW)?;
        let wanted = before.saturating_add(into.len()).min(WINDOW).next_multiple_of(ALIGNMENT);
        match rustix::io::pread(&file, &mut window[..wanted], offset - before as u64) {
            Ok(count) => {
                let found = window[..count].get(before..).unwrap_or_default();
                let count = found.len().min(into.len());
                into[..count].copy_from_slice(&found[..count]);
                Ok(count)
            }
            // A filesystem that takes the flag and then wants more, or nothing of it.
            Err(Errno::INVAL) => {
                state.refused = true;
                set(&file, false)?;
                rustix::io::pread(file, into, offset)
            }
            Err(errno) => Err(errno),
        }
    }
}

fn set(file: impl AsFd, direct: bool) -> rustix::io::Result<()> {
    let mut flags = fcntl_getfl(&file)?;
    flags.set(OFlags::DIRECT, direct);
    fcntl_setfl(file, flags)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs::File;

    use proptest::prelude::*;

    use super::*;

    fn check(length: usize, reads: &[(usize, usize)], refused: bool) {
        let content: Vec<u8> = (0..=250).cycle().take(length).collect();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        std::fs::write(&path, &content).unwrap();
        let file = File::open(&path).unwrap();
        file.sync_all().unwrap();
        // Not there on every filesystem that tests run on; then nothing is read this way.
        let Some(direct) = Direct::begin(&file) else { return };
        if refused {
            direct.0.lock().unwrap().refused = true;
            set(&file, false).unwrap();
        }
        for (offset, wanted) in reads {
            let mut buffer = vec![0xEE; *wanted];
            let mut filled = 0;
            loop {
                let at = (offset + filled) as u64;
                match direct.read(&file, &mut buffer[filled..], at).unwrap() {
                    0 => break,
                    count => filled += count,
                }
            }
            let expected = content.get(*offset..).unwrap_or_default();
            let expected = &expected[..expected.len().min(*wanted)];
            assert_eq!(&buffer[..filled], expected, "{offset} {wanted}");
        }
    }

    #[test]
    fn around_what_is_aligned() {
        for length in [0, 1, 4095, 4096, 4097, WINDOW - 1, WINDOW, WINDOW + 1, 2 * WINDOW + 77] {
            let reads =
                [(0, 0), (0, length), (1, length), (4095, 2), (length, 10), (length + 9, 5)];
            check(length, &reads, false);
            check(length, &reads, true);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn reads_what_the_cache_would(
            length in 0_usize..3_000_000,
            reads in prop::collection::vec((0_usize..3_100_000, 0_usize..2_500_000), 1..5),
        ) {
            check(length, &reads, false);
        }
    }
}
