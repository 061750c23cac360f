//! Owns what LMDB's pages look like: the meta pages, the headers, the nodes. Every access is bounded.

use super::super::Error;
use super::super::source::{Source, u16_at, u32_at, u64_at};

pub(in crate::stores) const MAGIC: u32 = 0xBEEF_C0DE;
/// The root of an empty tree.
pub(super) const NONE: u64 = u64::MAX;

pub(super) const HEADER: usize = 16;
pub(super) const PAGE_BRANCH: u16 = 0x01;
pub(super) const PAGE_LEAF: u16 = 0x02;
pub(super) const PAGE_OVERFLOW: u16 = 0x04;
pub(super) const PAGE_META: u16 = 0x08;
pub(super) const PAGE_LEAF_FIXED: u16 = 0x20;

pub(super) const NODE_HEADER: usize = 8;
pub(super) const NODE_BIG: u16 = 0x01;
pub(super) const NODE_TREE: u16 = 0x02;
pub(super) const NODE_DUPLICATES: u16 = 0x04;

/// The deepest tree that LMDB makes.
pub(super) const MAX_DEPTH: usize = 32;

/// What an environment's first bytes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::stores) enum Kind {
    /// This reader's kind.
    Version1,
    /// Of a later version, or of a machine of another kind.
    Other,
}

/// Recognises an environment by its first page.
pub(in crate::stores) fn recognise(head: &[u8]) -> Option<Kind> {
    let meta = |at: usize| u16_at(head, at).is_some_and(|flags| flags & PAGE_META != 0);
    let magic = |at: usize| {
        let bytes = head.get(at..at + 4);
        bytes == Some(&MAGIC.to_le_bytes()) || bytes == Some(&MAGIC.to_be_bytes())
    };
    if u32_at(head, 16) == Some(MAGIC) && u32_at(head, 20) == Some(1) && meta(10) {
        return Some(Kind::Version1);
    }
    // The header is shorter on 32-bit machines and longer in later versions.
    [12, 16, 24].into_iter().any(magic).then_some(Kind::Other)
}

/// A tree, as a meta page or a node describes it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tree {
    pub(super) depth: u16,
    pub(super) branches: u64,
    pub(super) leaves: u64,
    pub(super) overflows: u64,
    pub(super) entries: u64,
    pub(super) root: u64,
}

impl Tree {
    pub(super) const LENGTH: usize = 48;

    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        Some(Self {
            depth: u16_at(bytes, 6)?,
            branches: u64_at(bytes, 8)?,
            leaves: u64_at(bytes, 16)?,
            overflows: u64_at(bytes, 24)?,
            entries: u64_at(bytes, 32)?,
            root: u64_at(bytes, 40)?,
        })
    }
}

/// The newest complete state of an environment.
pub(super) struct Meta {
    pub(super) page_size: usize,
    pub(super) free: Tree,
    pub(super) main: Tree,
    pub(super) last_page: u64,
    pub(super) transaction: u64,
}

impl Meta {
    pub(super) fn read(page: &[u8]) -> Option<Self> {
        if u16_at(page, 10)? & PAGE_META == 0 || u32_at(page, 16)? != MAGIC {
            return None;
        }
        let page_size = usize::try_from(u32_at(page, 40)?).ok()?;
        if !page_size.is_power_of_two() || !(512..=65536).contains(&page_size) {
            return None;
        }
        Some(Self {
            page_size,
            free: Tree::read(page.get(40..)?)?,
            main: Tree::read(page.get(88..)?)?,
            last_page: u64_at(page, 136)?,
            transaction: u64_at(page, 144)?,
        })
    }

    /// The newer of the two meta pages.
    pub(super) fn newest(source: &Source) -> Result<Option<Self>, Error> {
        const LENGTH: usize = 152;
        let first = source.bytes_at::<LENGTH>(0)?.and_then(|page| Self::read(&page));
        let sizes: Vec<u64> = match &first {
            Some(meta) => vec![u64::try_from(meta.page_size).unwrap_or(0)],
            None => (9..=16).map(|power| 1 << power).collect(),
        };
        let mut newest = first;
        for size in sizes {
            let second = source.bytes_at::<LENGTH>(size)?.and_then(|page| Self::read(&page));
            if let Some(second) = second
                && newest.as_ref().is_none_or(|first| second.transaction > first.transaction)
            {
                newest = Some(second);
            }
        }
        Ok(newest)
    }
}

/// A set of pages.
pub(super) struct Pages(Vec<u64>);

impl Pages {
    pub(super) fn new(count: u64) -> Self {
        Self(vec![0; usize::try_from(count / 64 + 1).unwrap_or(0)])
    }

    /// Adds a page; `false` where it is in already, or beyond the end.
    pub(super) fn add(&mut self, page: u64) -> bool {
        let word = usize::try_from(page / 64).ok().and_then(|word| self.0.get_mut(word));
        let bit = 1 << (page % 64);
        match word {
            Some(word) if *word & bit == 0 => {
                *word |= bit;
                true
            }
            _ => false,
        }
    }
}

/// How many keys a page has; `None` where its bounds make no sense.
pub(super) fn key_count(page: &[u8]) -> Option<usize> {
    let lower = usize::from(u16_at(page, 12)?);
    (lower >= HEADER && lower <= page.len()).then(|| (lower - HEADER) / 2)
}

/// The children of a branch page.
pub(super) fn branch(page: &[u8]) -> Option<Vec<u64>> {
    let count = key_count(page)?;
    (0..count)
        .map(|index| {
            let at = usize::from(u16_at(page, HEADER + 2 * index)?);
            let low = u64::from(u32_at(page, at)?);
            let high = u64::from(u16_at(page, at + 4)?);
            Some(high << 32 | low)
        })
        .collect()
}

pub(super) struct Node<'a> {
    pub(super) flags: u16,
    /// The length of the value, which for a big one lies elsewhere.
    pub(super) length: u64,
    pub(super) key: &'a [u8],
    /// What follows the key on the page.
    pub(super) rest: &'a [u8],
}

impl<'a> Node<'a> {
    pub(super) fn read(page: &'a [u8], index: usize) -> Option<Self> {
        let at = usize::from(u16_at(page, HEADER + 2 * index)?);
        let key_length = usize::from(u16_at(page, at + 6)?);
        let key = page.get(at + NODE_HEADER..at + NODE_HEADER + key_length)?;
        Some(Self {
            flags: u16_at(page, at + 4)?,
            length: u64::from(u32_at(page, at)?),
            key,
            rest: page.get(at + NODE_HEADER + key_length..)?,
        })
    }
}
