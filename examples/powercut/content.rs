//! Owns the bytes of one file: sparse pages and a size. Knows nothing of what is durable.

use std::collections::BTreeMap;
use std::sync::Arc;

/// What a kernel's cache holds and writes, in bytes.
pub const PAGE: u64 = 4096;
const PAGE_BYTES: usize = 4096;
/// What a disk writes whole or not at all, in bytes.
pub const SECTOR: u64 = 512;
const SECTOR_BYTES: usize = 512;
/// Every sector of a page.
pub const WHOLE: u8 = u8::MAX;

/// One page; what is absent is a hole.
#[derive(Clone)]
pub enum Page {
    /// Written once.
    Data(Arc<[u8; PAGE_BYTES]>),
    /// Allocated only: reads as zeros.
    Allocated,
}

/// Bytes with holes, of a size.
#[derive(Clone, Default)]
pub struct Content {
    /// In bytes. Pages may lie past it, unseen, until it grows or they are trimmed.
    pub size: u64,
    pages: BTreeMap<u64, Page>,
}

/// A number of bytes below 2^63 as an index into memory.
pub fn index(bytes: u64) -> usize {
    usize::try_from(bytes).expect("64-bit addresses")
}

/// The length of something in memory.
pub fn length(bytes: usize) -> u64 {
    u64::try_from(bytes).expect("64-bit addresses")
}

/// The pages that a range touches.
pub fn pages_of(offset: u64, len: u64) -> std::ops::Range<u64> {
    if len == 0 { 0..0 } else { offset / PAGE..(offset + len).div_ceil(PAGE) }
}

impl Content {
    /// The bytes of a range, up to the end of the file.
    pub fn read(&self, offset: u64, len: u64) -> Vec<u8> {
        let end = self.size.min(offset.saturating_add(len));
        let mut bytes = vec![0; index(end.saturating_sub(offset))];
        for page in pages_of(offset, length(bytes.len())) {
            if let Some(Page::Data(data)) = self.pages.get(&page) {
                let (from, to) = (offset.max(page * PAGE), end.min((page + 1) * PAGE));
                bytes[index(from - offset)..index(to - offset)]
                    .copy_from_slice(&data[index(from - page * PAGE)..index(to - page * PAGE)]);
            }
        }
        bytes
    }

    /// Writes, and grows the file where the data ends past it.
    pub fn write(&mut self, offset: u64, data: &[u8]) {
        let end = offset + length(data.len());
        for page in pages_of(offset, length(data.len())) {
            let (from, to) = (offset.max(page * PAGE), end.min((page + 1) * PAGE));
            self.bytes_mut(page)[index(from - page * PAGE)..index(to - page * PAGE)]
                .copy_from_slice(&data[index(from - offset)..index(to - offset)]);
        }
        if !data.is_empty() {
            self.size = self.size.max(end);
        }
    }

    fn bytes_mut(&mut self, page: u64) -> &mut [u8; PAGE_BYTES] {
        let slot = self.pages.entry(page).or_insert(Page::Allocated);
        if matches!(slot, Page::Allocated) {
            *slot = Page::Data(Arc::new([0; PAGE_BYTES]));
        }
        match slot {
            Page::Data(data) => Arc::make_mut(data),
            Page::Allocated => unreachable!("just given data"),
        }
    }

    /// Sets the size. What lay past the smaller of both reads as zeros afterwards.
    pub fn set_size(&mut self, size: u64) {
        if size < self.size {
            self.size = size;
            self.pages.split_off(&size.div_ceil(PAGE));
        }
        self.trim();
        self.size = size;
    }

    /// Forgets data past the end; what was only allocated there stays.
    pub fn trim(&mut self) {
        let past = self.pages.split_off(&self.size.div_ceil(PAGE));
        self.pages.extend(past.into_iter().filter(|(_, page)| matches!(page, Page::Allocated)));
        self.zero_in_page(self.size, self.size.next_multiple_of(PAGE));
    }

    /// Zeros a range that lies in one page, where that has data.
    fn zero_in_page(&mut self, from: u64, to: u64) {
        let page = from / PAGE;
        if from < to && matches!(self.pages.get(&page), Some(Page::Data(_))) {
            self.bytes_mut(page)[index(from - page * PAGE)..index(to - page * PAGE)].fill(0);
        }
    }

    /// Allocates pages without data, wherever they lie.
    pub fn allocate(&mut self, offset: u64, len: u64) {
        for page in pages_of(offset, len) {
            self.pages.entry(page).or_insert(Page::Allocated);
        }
    }

    /// The pages that lie in a range whole.
    pub fn whole_pages(offset: u64, len: u64) -> std::ops::Range<u64> {
        let range = offset.div_ceil(PAGE)..offset.saturating_add(len) / PAGE;
        if range.start < range.end { range } else { 0..0 }
    }

    /// Makes a range read as zeros and frees the pages that lie in it whole.
    pub fn punch(&mut self, offset: u64, len: u64) {
        let whole = Self::whole_pages(offset, len);
        for page in pages_of(offset, len) {
            if whole.contains(&page) {
                self.pages.remove(&page);
            } else {
                let (from, to) = (offset.max(page * PAGE), (offset + len).min((page + 1) * PAGE));
                self.zero_in_page(from, to);
            }
        }
    }

    /// Where data begins at or after `offset`.
    pub fn seek_data(&self, offset: u64) -> Option<u64> {
        let mut after = self.pages.range(offset / PAGE..);
        after
            .find(|(_, page)| matches!(page, Page::Data(_)))
            .map(|(page, _)| offset.max(page * PAGE))
            .filter(|found| *found < self.size)
    }

    /// Where a hole begins at or after `offset`; the end of the file is one.
    pub fn seek_hole(&self, offset: u64) -> Option<u64> {
        if offset >= self.size {
            return None;
        }
        let mut page = offset / PAGE;
        while matches!(self.pages.get(&page), Some(Page::Data(_))) {
            page += 1;
        }
        Some(offset.max(page * PAGE).min(self.size))
    }

    /// One page.
    pub fn page(&self, page: u64) -> Option<&Page> {
        self.pages.get(&page)
    }

    /// Puts a page where it was, or a hole.
    pub fn put(&mut self, number: u64, page: Option<Page>) {
        match page {
            Some(page) => self.pages.insert(number, page),
            None => self.pages.remove(&number),
        };
    }

    /// All pages, in order.
    pub fn pages(&self) -> impl Iterator<Item = (u64, &Page)> {
        self.pages.iter().map(|(number, page)| (*number, page))
    }

    /// Takes the sectors of a page that `sectors` has a bit for (the lowest is the first) from
    /// another version of the file. A page that the other has no data for is left alone.
    pub fn take(&mut self, other: &Self, page: u64, sectors: u8) {
        let Some(Page::Data(data)) = other.pages.get(&page) else { return };
        if sectors == WHOLE {
            self.pages.insert(page, Page::Data(Arc::clone(data)));
        } else if sectors != 0 {
            let own = self.bytes_mut(page);
            let both = own.chunks_mut(SECTOR_BYTES).zip(data.chunks(SECTOR_BYTES));
            for (number, (own, other)) in both.enumerate() {
                if sectors >> number & 1 == 1 {
                    own.copy_from_slice(other);
                }
            }
        }
    }

    /// Allocated bytes.
    pub fn allocated(&self) -> u64 {
        length(self.pages.len()) * PAGE
    }
}
