//! Owns the sparse content of a file in memory. It must know nothing of inodes.

use std::collections::BTreeMap;
use std::sync::Arc;

/// What content is kept and seen in, in bytes: holes are found at this granularity.
pub(crate) const PAGE: u64 = 4096;
const PAGE_BYTES: usize = 4096;

/// One page; absent pages are holes.
#[derive(Clone)]
enum Page {
    /// Written. Shared between copies of a content until one of them changes it.
    Data(Arc<[u8; PAGE_BYTES]>),
    /// Allocated and not written: reads as zeros, and counts as a hole, as on ext4.
    Allocated,
}

/// Bytes with holes, of a size.
#[derive(Clone, Default)]
pub(crate) struct Content {
    size: u64,
    pages: BTreeMap<u64, Page>,
}

/// The part of a range that lies in one page.
struct Piece {
    page: u64,
    /// Where it begins in the page.
    start: usize,
    /// Where it begins in the range.
    from: usize,
    len: usize,
}

/// The pages of `len` bytes from `offset`; nothing past what 64 bits can address.
fn pieces(offset: u64, len: usize) -> impl Iterator<Item = Piece> {
    let mut from = 0;
    std::iter::from_fn(move || {
        let position = offset.checked_add(u64::try_from(from).ok()?)?;
        let start = usize::try_from(position % PAGE).ok()?;
        let piece = (PAGE_BYTES - start).min(len - from);
        if piece == 0 {
            return None;
        }
        let found = Piece { page: position / PAGE, start, from, len: piece };
        from += piece;
        Some(found)
    })
}

impl Content {
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Allocated bytes.
    pub(crate) fn allocated(&self) -> u64 {
        u64::try_from(self.pages.len()).unwrap_or(u64::MAX).saturating_mul(PAGE)
    }

    /// Reads up to the end of the file; the count.
    pub(crate) fn read(&self, buffer: &mut [u8], offset: u64) -> usize {
        let left = usize::try_from(self.size.saturating_sub(offset)).unwrap_or(usize::MAX);
        let count = buffer.len().min(left);
        for piece in pieces(offset, count) {
            let target = &mut buffer[piece.from..piece.from + piece.len];
            match self.pages.get(&piece.page) {
                Some(Page::Data(page)) => {
                    target.copy_from_slice(&page[piece.start..piece.start + piece.len]);
                }
                Some(Page::Allocated) | None => target.fill(0),
            }
        }
        count
    }

    /// Writes, and grows the file where the data ends past it.
    pub(crate) fn write(&mut self, data: &[u8], offset: u64) {
        self.store(data, offset);
        let len = u64::try_from(data.len()).unwrap_or(u64::MAX);
        if len > 0 {
            self.size = self.size.max(offset.saturating_add(len));
        }
    }

    /// Writes without growing the file: what lies past its end stays, unseen, until
    /// [`Self::set_len`] or [`Self::forget_past_end`] removes it or [`Self::grow`] shows it. A
    /// disk does so when the data has reached it and the size has not.
    fn store(&mut self, data: &[u8], offset: u64) {
        for piece in pieces(offset, data.len()) {
            let source = &data[piece.from..piece.from + piece.len];
            let page = self.pages.entry(piece.page).or_insert(Page::Allocated);
            if let Page::Allocated = page {
                *page = Page::Data(Arc::new([0; PAGE_BYTES]));
            }
            if let Page::Data(bytes) = page {
                Arc::make_mut(bytes)[piece.start..piece.start + piece.len].copy_from_slice(source);
            }
        }
    }

    /// Copies bytes that lie in one page out of another content, past its end too and without
    /// growing. Where the other has a hole, nothing is copied.
    pub(crate) fn copy(&mut self, from: &Self, offset: u64, len: u64) {
        let Some(Page::Data(page)) = from.pages.get(&(offset / PAGE)) else { return };
        let start = usize::try_from(offset % PAGE).unwrap_or(0);
        let end = start.saturating_add(usize::try_from(len).unwrap_or(0)).min(PAGE_BYTES);
        let bytes = page[start..end].to_vec();
        self.store(&bytes, offset);
    }

    /// Grows to at least `len`.
    pub(crate) fn grow(&mut self, len: u64) {
        self.size = self.size.max(len);
    }

    /// Truncates or extends; what lay past the smaller of both sizes reads as zeros afterwards.
    /// What was allocated past the end stays where the file grows.
    pub(crate) fn set_len(&mut self, len: u64) {
        let grows = len > self.size;
        self.size = self.size.min(len);
        self.remove_past_end(grows);
        self.size = len;
    }

    /// Removes data past the end of the file; what was allocated there stays.
    pub(crate) fn forget_past_end(&mut self) {
        self.remove_past_end(true);
    }

    fn remove_past_end(&mut self, keep_allocated: bool) {
        let whole = self.size.div_ceil(PAGE);
        let mut past = self.pages.split_off(&whole);
        if keep_allocated {
            past.retain(|_, page| matches!(page, Page::Allocated));
            self.pages.append(&mut past);
        }
        let tail = usize::try_from(self.size % PAGE).unwrap_or(0);
        if tail > 0
            && let Some(Page::Data(bytes)) = self.pages.get_mut(&(self.size / PAGE))
        {
            Arc::make_mut(bytes)[tail..].fill(0);
        }
    }

    /// Allocates pages for a range, wherever it lies.
    pub(crate) fn allocate(&mut self, offset: u64, len: u64) {
        let end = offset.saturating_add(len).div_ceil(PAGE);
        for page in offset / PAGE..end {
            self.pages.entry(page).or_insert(Page::Allocated);
        }
    }

    /// Makes a range read as zeros, freeing the pages that lie in it whole.
    pub(crate) fn punch(&mut self, offset: u64, len: u64) {
        let end = offset.saturating_add(len);
        let (first_whole, end_whole) = (offset.div_ceil(PAGE), end / PAGE);
        if first_whole < end_whole {
            let mut from = self.pages.split_off(&first_whole);
            let mut after = from.split_off(&end_whole);
            self.pages.append(&mut after);
        }
        let mut zero = |start: u64, end: u64| {
            let (Ok(from), Ok(to)) =
                (usize::try_from(start % PAGE), usize::try_from(end - start / PAGE * PAGE))
            else {
                return;
            };
            if let Some(Page::Data(bytes)) = self.pages.get_mut(&(start / PAGE)) {
                Arc::make_mut(bytes)[from..to].fill(0);
            }
        };
        if first_whole > end_whole {
            zero(offset, end);
        } else {
            if offset < first_whole * PAGE {
                zero(offset, first_whole * PAGE);
            }
            if end_whole * PAGE < end {
                zero(end_whole * PAGE, end);
            }
        }
    }

    /// Where data begins at or after `offset`.
    pub(crate) fn seek_data(&self, offset: u64) -> Option<u64> {
        self.pages
            .range(offset / PAGE..)
            .find(|(_, page)| matches!(page, Page::Data(_)))
            .map(|(page, _)| offset.max(page * PAGE))
            .filter(|&found| found < self.size)
    }

    /// Where a hole begins at or after `offset`; the end of the file is one.
    pub(crate) fn seek_hole(&self, offset: u64) -> Option<u64> {
        if offset >= self.size {
            return None;
        }
        let mut page = offset / PAGE;
        for (&found, state) in self.pages.range(page..) {
            if found != page || matches!(state, Page::Allocated) {
                break;
            }
            page += 1;
        }
        Some(offset.max(page * PAGE).min(self.size))
    }
}
