//! Owns the walk along a table's index: the blocks that it leads to, one behind the other, whether it
//! is one index or one of partitions. It knows nothing of metaindexes and footers.

use std::sync::atomic::AtomicBool;

use super::block::{Form, Handles};
use super::footer::{Handle, is_zero};
use super::reader::{Table, verify};
use super::window::Window;
use crate::stores::Error;

/// Blocks that lie one behind the other, as far as they were read.
struct Row<'a> {
    window: Window<'a>,
    /// Where those that were not noted yet begin, and where the last one ends.
    start: u64,
    end: u64,
}

impl<'a> Table<'a> {
    /// Walks an index of partitions: each is an index of data.
    pub(super) fn partitions(
        &mut self,
        top: &[u8],
        at: Handle,
        form: Form,
        cancelled: &'a AtomicBool,
    ) -> Result<(), Error> {
        // What leads to partitions has their handles only.
        let outer = Form { first_keys: false, ..form };
        let mut handles = match Handles::new(top, outer) {
            Ok(handles) => handles,
            Err(why) => {
                self.unread(at.offset, why);
                return Ok(());
            }
        };
        let mut row = Row { window: Window::new(self.source(), cancelled), start: 0, end: 0 };
        let (mut start, mut end) = (None, 0);
        while let Some(handle) = handles.next() {
            let handle = match handle {
                Ok(handle) if handle.offset >= end => handle,
                Ok(handle) => {
                    self.damage(&format!(
                        "the block at byte {} overlaps another one",
                        handle.offset
                    ));
                    break;
                }
                Err(why) => {
                    self.unread(at.offset, why);
                    break;
                }
            };
            if start.is_some() && handle.offset != end {
                self.cover(start.take(), end);
            }
            start.get_or_insert(handle.offset);
            end = handle.end().unwrap_or(u64::MAX);
            if let Some(partition) = self.load_uncovered(handle)?
                && !self.follow(&partition, handle, form, &mut row)?
            {
                break;
            }
            if self.findings.is_full() {
                break;
            }
        }
        self.cover(start, end);
        self.cover(Some(row.start), row.end);
        Ok(())
    }

    /// Verifies all blocks of an index.
    pub(super) fn row(
        &mut self,
        index: &[u8],
        at: Handle,
        form: Form,
        cancelled: &'a AtomicBool,
    ) -> Result<(), Error> {
        let mut row = Row { window: Window::new(self.source(), cancelled), start: 0, end: 0 };
        self.follow(index, at, form, &mut row)?;
        self.cover(Some(row.start), row.end);
        Ok(())
    }

    /// Verifies the blocks of an index behind those of the ones before. Whether to go on.
    fn follow(
        &mut self,
        index: &[u8],
        at: Handle,
        form: Form,
        row: &mut Row<'a>,
    ) -> Result<bool, Error> {
        let mut handles = match Handles::new(index, form) {
            Ok(handles) => handles,
            Err(why) => {
                self.unread(at.offset, why);
                return Ok(true);
            }
        };
        while let Some(handle) = handles.next() {
            let handle = match handle {
                Ok(handle) => handle,
                Err(why) => {
                    self.unread(at.offset, why);
                    return Ok(true);
                }
            };
            // A block is never in two places of an index, and all lie in its order. It also bounds
            // the work: no byte is read twice.
            if handle.offset < row.end {
                self.damage(&format!("the block at byte {} overlaps another one", handle.offset));
                return Ok(false);
            }
            if row.start == row.end {
                (row.start, row.end) = (handle.offset, handle.offset);
            }
            if handle.offset > row.end && !padding(&mut row.window, row.end, handle.offset)? {
                self.cover(Some(row.start), row.end);
                row.start = handle.offset;
            }
            if !self.is_inside(handle) {
                return Ok(false);
            }
            if !verify(&mut row.window, &self.footer, handle)? {
                self.mismatch(handle);
                if self.findings.is_full() {
                    return Ok(false);
                }
            }
            row.end = handle.end().unwrap_or(u64::MAX);
        }
        Ok(true)
    }
}

/// Whether what lies between two blocks is zeros that fill a page.
fn padding(window: &mut Window<'_>, from: u64, to: u64) -> Result<bool, Error> {
    let few = usize::try_from(to - from).unwrap_or(usize::MAX);
    if few > Window::MOST {
        return Ok(false);
    }
    let bytes = window.get(from, few)?;
    Ok(bytes.len() == few && is_zero(bytes))
}
