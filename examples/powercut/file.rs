//! Owns one file's content twice, as everybody sees it and as the disk has it, and what a cut can
//! make of the two.
//!
//! The kernel's cache writes whole pages, whenever it likes; a disk, whole sectors. So at a cut
//! each page not synced, or each sector of it, is there as it was written last or as it was
//! before. What a truncation or a hole frees is written no more, and what is written to the same
//! place later is not seen without it. The size may have grown or not.

use std::collections::BTreeSet;

use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;

use super::content::{Content, PAGE, Page, SECTOR, WHOLE, length, pages_of};

/// What becomes of data that was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Fault {
    /// All of it is gone.
    Dropped,
    /// Each page of 4 KiB is there or not.
    Pages,
    /// Each sector of 512 bytes is there or not.
    Sectors,
    /// All of it is there but for a part of the last write.
    LastTorn,
}

/// What frees blocks.
#[derive(Clone, Copy)]
enum Freeing {
    Truncation { size: u64 },
    Hole { offset: u64, len: u64 },
}

impl Freeing {
    fn pages(self) -> std::ops::Range<u64> {
        match self {
            Self::Truncation { size } => size.div_ceil(PAGE)..u64::MAX,
            Self::Hole { offset, len } => Content::whole_pages(offset, len),
        }
    }

    fn apply(self, content: &mut Content) {
        match self {
            Self::Truncation { size } => content.set_size(size),
            Self::Hole { offset, len } => content.punch(offset, len),
        }
    }
}

/// The last write since the last sync.
struct LastWrite {
    number: u64,
    offset: u64,
    len: u64,
    /// The pages and the size before it.
    before: Vec<(u64, Option<Page>)>,
    size_before: u64,
}

/// A file's content.
#[derive(Default)]
pub struct FileData {
    /// What everybody sees.
    pub cache: Content,
    /// What the disk has. Past its size there may be pages that came before the size did.
    disk: Content,
    /// The pages that may differ.
    dirty: BTreeSet<u64>,
    /// What was freed since the last sync, each with the cache as it was before.
    freed: Vec<(Freeing, Content)>,
    last: Option<LastWrite>,
}

impl FileData {
    /// A file of which everything is on the disk.
    pub fn durable(content: Content) -> Self {
        Self { cache: content.clone(), disk: content, ..Self::default() }
    }

    /// Writes, as the `number`th write of all.
    pub fn write(&mut self, offset: u64, data: &[u8], number: u64) {
        let len = length(data.len());
        let pages = pages_of(offset, len);
        let before = pages.clone().map(|page| (page, self.cache.page(page).cloned())).collect();
        let size_before = self.cache.size;
        self.last = Some(LastWrite { number, offset, len, before, size_before });
        self.cache.write(offset, data);
        self.dirty.extend(pages);
    }

    /// Truncates or extends.
    pub fn set_size(&mut self, size: u64) {
        if size < self.cache.size {
            self.free(Freeing::Truncation { size });
            if !size.is_multiple_of(PAGE) {
                self.dirty.insert(size / PAGE);
            }
        } else {
            self.cache.set_size(size);
        }
    }

    /// Makes a hole.
    pub fn punch(&mut self, offset: u64, len: u64) {
        self.free(Freeing::Hole { offset, len });
        let whole = Content::whole_pages(offset, len);
        self.dirty.extend(pages_of(offset, len).filter(|page| !whole.contains(page)));
    }

    fn free(&mut self, freeing: Freeing) {
        self.freed.push((freeing, self.cache.clone()));
        freeing.apply(&mut self.cache);
        self.last = None;
    }

    /// Everything is on the disk from here on.
    pub fn sync(&mut self) {
        if self.freed.is_empty() {
            for page in std::mem::take(&mut self.dirty) {
                self.disk.put(page, self.cache.page(page).cloned());
            }
            // Nothing was freed, so it has only grown.
            self.disk.size = self.cache.size;
        } else {
            self.disk = self.cache.clone();
        }
        self.dirty.clear();
        self.freed.clear();
        self.last = None;
    }

    /// Allocated space, which a sync makes durable.
    pub fn allocate(&mut self, offset: u64, len: u64) {
        self.cache.allocate(offset, len);
        self.dirty.extend(pages_of(offset, len));
    }

    /// The number of the last write since the last sync.
    pub fn last_write(&self) -> Option<u64> {
        self.last.as_ref().map(|last| last.number)
    }

    /// The kernel writes a page of its own accord.
    pub fn write_back(&mut self, fault: Fault, random: &mut StdRng) {
        if self.freed.is_empty()
            && let Some(&page) =
                self.dirty.iter().nth(random.random_range(0..self.dirty.len().max(1)))
        {
            let sectors = if fault == Fault::Sectors { random.random() } else { WHOLE };
            self.disk.take(&self.cache, page, sectors);
            if sectors == WHOLE {
                self.dirty.remove(&page);
            }
        }
    }

    /// What the disk has after a cut, and whether the inode came to it with new blocks or a new
    /// size. `tears` says that the last write of all went to this file.
    pub fn cut(&self, fault: Fault, tears: bool, random: &mut StdRng) -> (Content, bool) {
        let mut disk = self.disk.clone();
        let kept = match fault {
            // Sizes, too, or those by chance.
            Fault::Dropped if random.random() => {
                disk.trim();
                return (disk, false);
            }
            Fault::LastTorn => self.freed.len(),
            _ => random.random_range(0..=self.freed.len()),
        };
        for (freeing, before) in &self.freed[..kept] {
            if let Freeing::Truncation { .. } = freeing {
                // The size says so, whatever became of growth before.
                disk.size = disk.size.max(before.size);
            }
            freeing.apply(&mut disk);
        }
        let undone = &self.freed[kept..];
        let (cache, size) = match undone.first() {
            Some((_, before)) => (before, before.size),
            None => (&self.cache, self.cache.size),
        };
        let mut end = disk.size;
        let mut new_blocks = kept > 0;
        for &page in &self.dirty {
            let sectors = match fault {
                Fault::Dropped => 0,
                Fault::Pages if random.random() => 0,
                Fault::Sectors => random.random(),
                _ => WHOLE,
            };
            let frozen = undone.iter().any(|(freeing, _)| freeing.pages().contains(&page));
            let version = if frozen { cache } else { &self.cache };
            if sectors != 0 && matches!(version.page(page), Some(Page::Data(_))) {
                new_blocks |= !matches!(disk.page(page), Some(Page::Data(_)));
                disk.take(version, page, sectors);
                end = end.max(((page + 1) * PAGE).min(size));
            }
        }
        let sizes = match fault {
            Fault::LastTorn => vec![size],
            _ => vec![disk.size, end, size],
        };
        let chosen = sizes.choose(random).copied().unwrap_or(size).max(disk.size);
        new_blocks |= chosen != disk.size;
        disk.size = chosen;
        if tears && let Some(last) = &self.last {
            tear(&mut disk, last, random);
        }
        disk.trim();
        (disk, new_blocks)
    }
}

/// Takes a part of the last write away: what lies before or after a border of sectors or pages.
fn tear(disk: &mut Content, last: &LastWrite, random: &mut StdRng) {
    let end = last.offset + last.len;
    let unit = *[SECTOR, PAGE].choose(random).unwrap_or(&SECTOR);
    let borders: Vec<u64> =
        (last.offset / unit + 1..end.div_ceil(unit)).map(|n| n * unit).collect();
    // A write within one unit is there or not.
    let border = borders.choose(random).copied().unwrap_or(last.offset);
    let first_kept: bool = random.random();
    let lost = if first_kept { border..end } else { last.offset..border };
    let mut before = Content::default();
    for (number, page) in &last.before {
        before.put(*number, page.clone().map(with_data));
        for sector in 0..PAGE / SECTOR {
            let at = number * PAGE + sector * SECTOR;
            if at < lost.end && at + SECTOR > lost.start {
                match before.page(*number) {
                    Some(_) => disk.take(&before, *number, 1 << sector),
                    None => disk.punch(at, SECTOR),
                }
            }
        }
    }
    if last.size_before < end {
        let torn = if first_kept { border.max(last.size_before) } else { end };
        let sizes = [last.size_before, torn, end];
        disk.size = disk.size.min(sizes.choose(random).copied().unwrap_or(end));
    }
}

/// An allocated page as the zeros that it reads as.
fn with_data(page: Page) -> Page {
    match page {
        Page::Allocated => Page::Data(std::sync::Arc::new([0; 4096])),
        data => data,
    }
}
