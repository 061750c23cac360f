//! Owns LMDB environments: reading the whole of one, page by page, without its engine.
//!
//! LMDB trusts its file and reads it through a memory map, so a damaged or cut-off file can end the
//! process that opens it. This reader bounds every step, and never takes a lock or makes a lock
//! file. It follows data version 1 (LMDB 0.9) as 64-bit little-endian machines write it.

mod pages;

use std::sync::atomic::{AtomicBool, Ordering};

use pages::{
    HEADER, MAX_DEPTH, Meta, NODE_BIG, NODE_DUPLICATES, NODE_TREE, NONE, Node, PAGE_BRANCH,
    PAGE_LEAF, PAGE_LEAF_FIXED, PAGE_OVERFLOW, Pages, Tree, branch, key_count,
};
pub(super) use pages::{Kind, MAGIC, recognise};

use super::report::{Findings, not_checked};
use super::source::{Source, u16_at, u32_at, u64_at};
use super::{CheckReport, Error, NEVER, Outcome, Summary};

/// What was counted in one tree, the trees of duplicates in it included.
#[derive(Clone, Copy, Default)]
struct Counts {
    branches: u64,
    leaves: u64,
    overflows: u64,
    entries: u64,
}

impl Counts {
    fn of_entries(entries: u64) -> Self {
        Self { entries, ..Self::default() }
    }

    fn add(&mut self, other: Self) {
        self.branches += other.branches;
        self.leaves += other.leaves;
        self.overflows += other.overflows;
        self.entries += other.entries;
    }
}

/// What a node of a leaf holds.
enum Value {
    Plain,
    /// Bytes on pages of their own.
    Big {
        page: u64,
        length: u64,
    },
    /// A tree by its name.
    Named(Vec<u8>, Tree),
    /// The duplicates of a key: so many in place.
    Inline(u64),
    /// The duplicates of a key: a tree.
    Duplicates(Tree),
}

/// Is told each value of a leaf with its bytes on the page, and tells what it stands for.
type Visitor<'v, 'a> = &'v mut dyn FnMut(&mut Reader<'a>, Value, &[u8]) -> Result<Counts, Error>;

struct Reader<'a> {
    source: &'a Source,
    cancelled: &'a AtomicBool,
    page_size: usize,
    /// Pages up to the last one that the meta page and the file's length allow.
    end: u64,
    used: Pages,
    findings: Findings,
}

/// A damaged place: the text goes to the findings.
type Damage = String;

impl<'a> Reader<'a> {
    fn new(source: &'a Source, meta: &Meta, cancelled: &'a AtomicBool) -> Self {
        let size = u64::try_from(meta.page_size).unwrap_or(u64::MAX);
        let end = (source.length() / size).min(meta.last_page.saturating_add(1));
        let mut used = Pages::new(end);
        used.add(0);
        used.add(1);
        let findings = Findings::default();
        Self { source, cancelled, page_size: meta.page_size, end, used, findings }
    }

    /// Reads one page and checks its header.
    fn page(&mut self, number: u64, kind: u16) -> Result<Result<Vec<u8>, Damage>, Error> {
        if number >= self.end {
            return Ok(Err(format!("page {number} lies beyond the end")));
        }
        if !self.used.add(number) {
            return Ok(Err(format!("page {number} is used twice")));
        }
        let mut page = vec![0; self.page_size];
        let offset = number.saturating_mul(u64::try_from(self.page_size).unwrap_or(u64::MAX));
        if self.source.read_at(&mut page, offset)? < page.len() {
            return Ok(Err(format!("page {number} is cut off")));
        }
        let flags = u16_at(&page, 10).unwrap_or(0);
        if u64_at(&page, 0) != Some(number) || flags & kind == 0 {
            return Ok(Err(format!("page {number} has a wrong header")));
        }
        Ok(Ok(page))
    }

    /// Takes the pages of a large value.
    fn overflow(&mut self, number: u64, length: u64) -> Result<Result<u64, Damage>, Error> {
        let first = match self.page(number, PAGE_OVERFLOW)? {
            Ok(page) => page,
            Err(damage) => return Ok(Err(damage)),
        };
        let count = u64::from(u32_at(&first, 12).unwrap_or(0));
        let size = u64::try_from(self.page_size).unwrap_or(u64::MAX);
        let needed = length.saturating_add(16).div_ceil(size);
        if count < needed || count > self.end {
            return Ok(Err(format!("the large value on page {number} has too few pages")));
        }
        for page in number + 1..number.saturating_add(count) {
            if page >= self.end || !self.used.add(page) {
                return Ok(Err(format!(
                    "page {page} of a large value is used twice or beyond the end"
                )));
            }
        }
        Ok(Ok(count))
    }

    /// The bytes of a large value; fewer where the file ends.
    fn big_value(&self, page: u64, length: u64) -> Result<Vec<u8>, Error> {
        let size = u64::try_from(self.page_size).unwrap_or(u64::MAX);
        let offset = page.saturating_mul(size).saturating_add(16);
        let length = length.min(self.source.length().saturating_sub(offset));
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        let count = self.source.read_at(&mut bytes, offset)?;
        bytes.truncate(count);
        Ok(bytes)
    }

    /// Walks a tree, telling each leaf's values, and compares it with its description.
    fn walk(&mut self, what: &str, tree: &Tree, each: Visitor<'_, 'a>) -> Result<Counts, Error> {
        let mut counts = Counts::default();
        if tree.root == NONE {
            if tree.entries != 0 {
                self.findings.damage(format!("{what}: {} entries but no root", tree.entries));
            }
            return Ok(counts);
        }
        let mut stack = vec![(tree.root, 1_usize)];
        while let Some((number, depth)) = stack.pop() {
            if self.findings.is_full() {
                return Ok(counts);
            }
            if self.cancelled.load(Ordering::Relaxed) {
                return Err(Error::Cancelled { path: self.source.path().to_path_buf() });
            }
            let leaf = depth >= usize::from(tree.depth).min(MAX_DEPTH);
            let kind = if leaf { PAGE_LEAF } else { PAGE_BRANCH };
            let page = match self.page(number, kind)? {
                Ok(page) => page,
                Err(damage) => {
                    self.findings.damage(format!("{what}: {damage}"));
                    continue;
                }
            };
            let read = if leaf {
                counts.leaves += 1;
                self.leaf(&page, &mut counts, each)?
            } else {
                counts.branches += 1;
                branch(&page).map(|children| {
                    stack.extend(children.into_iter().rev().map(|child| (child, depth + 1)));
                })
            };
            if read.is_none() {
                self.findings.damage(format!("{what}: page {number} is malformed"));
            }
        }
        self.compare(what, tree, &counts);
        Ok(counts)
    }

    fn compare(&mut self, what: &str, tree: &Tree, counts: &Counts) {
        let pairs = [
            ("branch pages", counts.branches, tree.branches),
            ("leaf pages", counts.leaves, tree.leaves),
            ("overflow pages", counts.overflows, tree.overflows),
            ("entries", counts.entries, tree.entries),
        ];
        for (name, found, wanted) in pairs {
            if found != wanted {
                self.findings.damage(format!("{what}: {found} {name}, {wanted} expected"));
            }
        }
    }

    /// Reads one leaf; `None` where it is malformed.
    fn leaf(
        &mut self,
        page: &[u8],
        counts: &mut Counts,
        each: Visitor<'_, 'a>,
    ) -> Result<Option<()>, Error> {
        let Some(count) = key_count(page) else { return Ok(None) };
        if u16_at(page, 10).unwrap_or(0) & PAGE_LEAF_FIXED != 0 {
            // Keys of one length, side by side.
            let length = usize::from(u16_at(page, 8).unwrap_or(0));
            counts.entries += u64::try_from(count).unwrap_or(0);
            return Ok((HEADER + count * length <= page.len()).then_some(()));
        }
        for index in 0..count {
            let Some(node) = Node::read(page, index) else { return Ok(None) };
            let mut data: &[u8] = &[];
            let value = if node.flags & NODE_BIG != 0 {
                let Some(number) = u64_at(node.rest, 0) else { return Ok(None) };
                match self.overflow(number, node.length)? {
                    Ok(pages) => counts.overflows += pages,
                    Err(damage) => self.findings.damage(damage),
                }
                Value::Big { page: number, length: node.length }
            } else {
                let length = usize::try_from(node.length).unwrap_or(usize::MAX);
                match node.rest.get(..length) {
                    Some(rest) => data = rest,
                    None => return Ok(None),
                }
                match (node.flags & NODE_TREE != 0, node.flags & NODE_DUPLICATES != 0) {
                    (true, duplicates) => {
                        let Some(sub) = Tree::read(data).filter(|_| data.len() >= Tree::LENGTH)
                        else {
                            return Ok(None);
                        };
                        match duplicates {
                            true => Value::Duplicates(sub),
                            false => Value::Named(node.key.to_vec(), sub),
                        }
                    }
                    (false, true) => match key_count(data) {
                        Some(count) => Value::Inline(u64::try_from(count).unwrap_or(0)),
                        None => return Ok(None),
                    },
                    (false, false) => Value::Plain,
                }
            };
            counts.add(each(self, value, data)?);
        }
        Ok(Some(()))
    }
}

/// What a whole reading told.
struct Reading {
    findings: Findings,
    /// Entries of the main tree, and of each named one.
    main: u64,
    named: Vec<(Vec<u8>, u64)>,
}

fn read(source: &Source, cancelled: &AtomicBool) -> Result<Option<Reading>, Error> {
    let Some(meta) = Meta::newest(source)? else { return Ok(None) };
    let mut reader = Reader::new(source, &meta, cancelled);
    let size = u64::try_from(meta.page_size).unwrap_or(u64::MAX);
    if meta.main.root != NONE && source.length() / size <= meta.main.root {
        reader.findings.damage("the file is cut off before the root of its main tree");
    }
    let mut trees = Vec::new();
    let main = reader.walk("the main tree", &meta.main, &mut |reader, value, _| {
        duplicates(reader, value, &mut trees)
    })?;
    let mut named = Vec::new();
    for (name, tree) in trees {
        let what = format!("the tree {:?}", String::from_utf8_lossy(&name));
        let mut deeper = Vec::new();
        let counts = reader
            .walk(&what, &tree, &mut |reader, value, _| duplicates(reader, value, &mut deeper))?;
        if !deeper.is_empty() {
            reader.findings.damage(format!("{what} has trees in it"));
        }
        named.push((name, counts.entries));
    }
    free_pages(&mut reader, &meta)?;
    Ok(Some(Reading { findings: reader.findings, main: main.entries, named }))
}

/// What a value stands for. Named trees are collected.
fn duplicates(
    reader: &mut Reader<'_>,
    value: Value,
    trees: &mut Vec<(Vec<u8>, Tree)>,
) -> Result<Counts, Error> {
    match value {
        Value::Plain | Value::Big { .. } => Ok(Counts::of_entries(1)),
        Value::Inline(count) => Ok(Counts::of_entries(count)),
        Value::Named(name, tree) => {
            trees.push((name, tree));
            Ok(Counts::of_entries(1))
        }
        Value::Duplicates(tree) => {
            reader.walk("duplicates of a key", &tree, &mut |_, _, _| Ok(Counts::of_entries(1)))
        }
    }
}

/// Reads the lists of free pages: none of them may be in use.
fn free_pages(reader: &mut Reader<'_>, meta: &Meta) -> Result<(), Error> {
    let mut lists: Vec<(u64, u64, Vec<u8>)> = Vec::new();
    reader.walk("the tree of free pages", &meta.free, &mut |_, value, data| {
        lists.push(match value {
            Value::Big { page, length } => (page, length, Vec::new()),
            _ => (0, 0, data.to_vec()),
        });
        Ok(Counts::of_entries(1))
    })?;
    for (page, length, inline) in lists {
        let list = if inline.is_empty() { reader.big_value(page, length)? } else { inline };
        let count = u64_at(&list, 0).and_then(|count| usize::try_from(count).ok()).unwrap_or(0);
        for index in 1..=count {
            let Some(page) = u64_at(&list, index.saturating_mul(8)) else {
                reader.findings.damage("a list of free pages is cut off");
                break;
            };
            if page < reader.end && !reader.used.add(page) {
                reader.findings.damage(format!("page {page} is free and in use"));
            }
            if reader.findings.is_full() {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Reads every page that is in use.
pub(super) fn check(source: &Source, cancelled: &AtomicBool) -> Result<CheckReport, Error> {
    if recognise(&source.head(HEADER + 24)?) == Some(Kind::Other) {
        return Ok(not_checked("written by another kind of machine or a later version of LMDB"));
    }
    match read(source, cancelled)? {
        Some(reading) => Ok(reading
            .findings
            .report(Outcome::Sound, "every page and entry, without LMDB's engine")),
        None => {
            let mut findings = Findings::default();
            findings.damage("neither of the two meta pages is readable");
            Ok(findings.report(Outcome::Damaged, "every page and entry, without LMDB's engine"))
        }
    }
}

/// Facts of an environment: entries of the main tree and the named ones.
pub(super) fn summary(source: &Source) -> Result<Option<Summary>, Error> {
    if recognise(&source.head(HEADER + 24)?) == Some(Kind::Other) {
        return Ok(None);
    }
    let damaged = |detail: String| Error::Damaged { path: source.path().to_path_buf(), detail };
    let reading =
        read(source, &NEVER)?.ok_or_else(|| damaged("no readable meta page".to_owned()))?;
    if reading.findings.is_damaged() {
        let report = reading.findings.report(Outcome::Damaged, "");
        return Err(damaged(report.findings.join("; ")));
    }
    let mut summary = Summary::default();
    summary.facts.insert("entries".to_owned(), reading.main.to_string());
    for (name, entries) in reading.named {
        let name = format!("entries of \"{}\"", name.escape_ascii());
        summary.facts.insert(name, entries.to_string());
    }
    Ok(Some(summary))
}
