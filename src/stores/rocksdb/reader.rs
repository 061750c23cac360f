//! Owns the reading of a table's blocks: each lies in the file, matches its checksum, and is taken
//! into memory where it leads to others. Keeps in mind what blocks cover. It knows nothing of which
//! blocks there are.

use std::sync::atomic::AtomicBool;

use super::block::{self, Engine, LONGEST, Unread};
use super::checksum;
use super::footer::{Footer, Handle, TRAILER, is_zero};
use super::window::Window;
use crate::stores::Error;
use crate::stores::report::Findings;
use crate::stores::source::{Source, u32_at};

/// The most stretches of a table without a block that are kept in mind.
const MOST_GAPS: usize = 1024;

/// A block as it lies in the file.
pub(super) struct Stored {
    pub(super) contents: Vec<u8>,
    /// How the contents are compressed, and the checksum.
    pub(super) trailer: [u8; 5],
}

/// A table that is being checked.
pub(super) struct Table<'a> {
    pub(super) footer: Footer,
    pub(super) name: &'a str,
    /// Whose rules its blocks follow.
    pub(super) engine: Engine,
    /// What is read besides the data: the blocks that lead to it.
    aside: Window<'a>,
    /// Stretches of the file that blocks cover, and zeros between them.
    covered: Vec<(u64, u64)>,
    unverified: Vec<String>,
    /// Whether it is known already that some blocks are not found.
    lost: bool,
    pub(super) findings: &'a mut Findings,
}

impl<'a> Table<'a> {
    pub(super) fn new(
        source: &'a Source,
        name: &'a str,
        footer: Footer,
        cancelled: &'a AtomicBool,
        findings: &'a mut Findings,
    ) -> Self {
        Self {
            footer,
            name,
            engine: Engine::LevelDb,
            aside: Window::new(source, cancelled),
            covered: Vec::new(),
            unverified: Vec::new(),
            lost: false,
            findings,
        }
    }

    /// Why not all of it was verified.
    pub(super) fn reasons(self) -> Vec<String> {
        self.unverified
    }

    /// Notes why not all of it is verified.
    pub(super) fn unverified(&mut self, why: &str) {
        if !self.unverified.iter().any(|known| known == why) {
            self.unverified.push(why.to_owned());
        }
    }

    /// The same, where blocks are not found for that.
    pub(super) fn lose(&mut self, why: &str) {
        self.lost = true;
        self.unverified(why);
    }

    /// Notes damage.
    pub(super) fn damage(&mut self, what: &str) {
        self.lost = true;
        self.findings.damage(format!("{}: {what}", self.name));
    }

    /// Notes that a block says nothing.
    pub(super) fn unread(&mut self, offset: u64, why: Unread) {
        match why {
            Unread::Malformed => self.damage(&format!("the block at byte {offset} is malformed")),
            Unread::Unknown(what) => self.lose(what),
        }
    }

    /// Reads and verifies a block that leads to others.
    pub(super) fn load(&mut self, handle: Handle) -> Result<Option<Vec<u8>>, Error> {
        self.cover(Some(handle.offset), handle.end().unwrap_or(0));
        self.load_uncovered(handle)
    }

    /// The same of one whose place is noted otherwise.
    pub(super) fn load_uncovered(&mut self, handle: Handle) -> Result<Option<Vec<u8>>, Error> {
        let Some(Stored { contents, trailer }) = self.stored_uncovered(handle)? else {
            return Ok(None);
        };
        if !self.matches(handle, &contents, trailer) {
            self.mismatch(handle);
            return Ok(None);
        }
        match block::decompress(trailer[0], contents, self.engine) {
            Ok(block) => Ok(Some(block)),
            Err(why) => {
                self.unread(handle.offset, why);
                Ok(None)
            }
        }
    }

    /// A block as it lies in the file; see [`Self::stored_uncovered`].
    pub(super) fn stored(&mut self, handle: Handle) -> Result<Option<Stored>, Error> {
        self.cover(Some(handle.offset), handle.end().unwrap_or(0));
        self.stored_uncovered(handle)
    }

    /// A block as it lies in the file: its contents, and its trailer. `None` where that is too much:
    /// then it is verified in pieces.
    fn stored_uncovered(&mut self, handle: Handle) -> Result<Option<Stored>, Error> {
        if !self.is_inside(handle) {
            return Ok(None);
        }
        if handle.size > LONGEST {
            if !verify(&mut self.aside, &self.footer, handle)? {
                self.mismatch(handle);
            }
            self.lose("its index is too long");
            return Ok(None);
        }
        let mut contents = Vec::with_capacity(usize::try_from(handle.size).unwrap_or(0));
        self.aside.pieces(handle.offset, handle.size + TRAILER, |piece| {
            contents.extend_from_slice(piece);
        })?;
        let trailer = contents.last_chunk().copied();
        match trailer {
            Some(trailer) if u64::try_from(contents.len()) == Ok(handle.size + TRAILER) => {
                contents.truncate(contents.len() - trailer.len());
                Ok(Some(Stored { contents, trailer }))
            }
            _ => {
                self.mismatch(handle);
                Ok(None)
            }
        }
    }

    /// Verifies a block without a look into it.
    pub(super) fn verify_alone(&mut self, handle: Handle) -> Result<(), Error> {
        if self.is_inside(handle) {
            self.cover(Some(handle.offset), handle.end().unwrap_or(0));
            if !verify(&mut self.aside, &self.footer, handle)? {
                self.mismatch(handle);
            }
        }
        Ok(())
    }

    /// Whether contents and trailer belong together.
    pub(super) fn matches(&self, handle: Handle, contents: &[u8], trailer: [u8; 5]) -> bool {
        let mut running = self.footer.checksum.begin();
        running.update(contents);
        running.update(&trailer[..1]);
        let context = checksum::context(self.footer.base, handle.offset);
        u32_at(&trailer, 1) == Some(running.finish().wrapping_add(context))
    }

    /// Notes that a block is damaged.
    pub(super) fn mismatch(&mut self, handle: Handle) {
        self.damage(&format!("the block at byte {} does not match its checksum", handle.offset));
    }

    /// Whether a block lies before the footer; it is damage if not.
    pub(super) fn is_inside(&mut self, handle: Handle) -> bool {
        let inside = handle.end().is_some_and(|end| end <= self.footer.offset);
        if !inside {
            self.damage(&format!(
                "the block of {} bytes at byte {} does not lie in the file",
                handle.size, handle.offset
            ));
        }
        inside
    }

    pub(super) fn source(&self) -> &'a Source {
        self.aside.source()
    }

    /// Notes what blocks cover.
    pub(super) fn cover(&mut self, start: Option<u64>, end: u64) {
        if let Some(start) = start
            && start < end
            && self.covered.len() <= MOST_GAPS
        {
            self.covered.push((start, end));
        }
    }

    /// Tells what no block covers, if there is more than zeros.
    pub(super) fn gaps(&mut self) -> Result<(), Error> {
        if self.lost {
            return Ok(());
        }
        if self.covered.len() > MOST_GAPS {
            self.unverified("bytes in many places belong to no block");
            return Ok(());
        }
        self.covered.push((self.footer.offset, self.footer.offset));
        self.covered.sort_unstable();
        let (mut at, mut bytes, mut first) = (0, 0, None);
        for (start, end) in std::mem::take(&mut self.covered) {
            if start > at && !is_zeros(&mut self.aside, at, start)? {
                first.get_or_insert(at);
                bytes += start - at;
            }
            at = at.max(end);
        }
        if let Some(first) = first {
            self.unverified(&format!("{bytes} bytes from byte {first} on belong to no block"));
        }
        Ok(())
    }
}

fn is_zeros(window: &mut Window<'_>, from: u64, to: u64) -> Result<bool, Error> {
    let mut zeros = true;
    window.pieces(from, to - from, |piece| zeros &= is_zero(piece))?;
    Ok(zeros)
}

/// Verifies one block, however long it is.
pub(super) fn verify(
    window: &mut Window<'_>,
    footer: &Footer,
    handle: Handle,
) -> Result<bool, Error> {
    let context = checksum::context(footer.base, handle.offset);
    let end = handle.offset.saturating_add(handle.size);
    let whole = handle.size.saturating_add(TRAILER);
    let (sum, stored) = match usize::try_from(whole) {
        Ok(length) if length <= Window::MOST => {
            let bytes = window.get(handle.offset, length)?;
            let Some((summed, stored)) = bytes.split_last_chunk::<4>() else { return Ok(false) };
            if bytes.len() < length {
                return Ok(false);
            }
            (footer.checksum.of(summed), u32::from_le_bytes(*stored))
        }
        _ => {
            let mut running = footer.checksum.begin();
            window.pieces(handle.offset, handle.size.saturating_add(1), |piece| {
                running.update(piece);
            })?;
            let Some(stored) = u32_at(window.get(end.saturating_add(1), 4)?, 0) else {
                return Ok(false);
            };
            (running.finish(), stored)
        }
    };
    Ok(sum.wrapping_add(context) == stored)
}
