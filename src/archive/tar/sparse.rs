//! Sparse files: the map in front of the data, as GNU tar's version 1.0 has it.

use super::BLOCK;
use super::pax::number;
use crate::tree::Extent;

/// Most stretches of data in one map. A file with more has its smallest holes filled.
const EXTENTS_MAX: usize = 1 << 16;

/// Where a file has data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::archive) struct SparseMap {
    extents: Vec<Extent>,
    real_size: u64,
    /// Holes below this are filled.
    least_hole: u64,
}

impl SparseMap {
    /// Of a file of this size, with no data yet.
    pub(in crate::archive) fn new(real_size: u64) -> Self {
        Self { extents: Vec::new(), real_size, least_hole: 1 }
    }

    /// Of a file without holes.
    pub(in crate::archive) fn dense(real_size: u64) -> Self {
        let mut map = Self::new(real_size);
        if real_size > 0 {
            map.push(0..real_size);
        }
        map
    }

    /// Adds a stretch that begins at the end of the last one or later.
    pub(in crate::archive) fn push(&mut self, extent: Extent) {
        self.add(extent);
        while self.extents.len() > EXTENTS_MAX {
            self.least_hole = self.least_hole.saturating_mul(2).max(4096);
            for extent in std::mem::take(&mut self.extents) {
                self.add(extent);
            }
        }
    }

    fn add(&mut self, extent: Extent) {
        match self.extents.last_mut() {
            Some(last) if extent.start - last.end < self.least_hole => last.end = extent.end,
            _ => self.extents.push(extent),
        }
    }

    pub(in crate::archive) fn extents(&self) -> &[Extent] {
        &self.extents
    }

    pub(in crate::archive) fn real_size(&self) -> u64 {
        self.real_size
    }

    /// Bytes of data.
    pub(in crate::archive) fn data_len(&self) -> u64 {
        self.extents.iter().map(|extent| extent.end - extent.start).sum()
    }

    /// Whether it says nothing that the size does not.
    pub(in crate::archive) fn is_dense(&self) -> bool {
        self.data_len() == self.real_size
    }

    /// The map as it precedes the data, in whole blocks.
    pub(in crate::archive) fn encode(&self) -> Vec<u8> {
        // A last stretch of no length says where a file ends that ends with a hole.
        let end = self.real_size..self.real_size;
        let ends_with_hole = self.extents.last().is_none_or(|last| last.end < self.real_size);
        let extents = self.extents.iter().chain(ends_with_hole.then_some(&end));
        let count = self.extents.len() + usize::from(ends_with_hole);
        let mut text = format!("{count}\n");
        for extent in extents {
            text.push_str(&format!("{}\n{}\n", extent.start, extent.end - extent.start));
        }
        let mut bytes = text.into_bytes();
        bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
        bytes
    }

    /// Reads a map block by block through `next`; `Ok(None)` where it is not one of ours.
    pub(in crate::archive) fn decode<E>(
        real_size: u64,
        mut next: impl FnMut() -> Result<Option<[u8; BLOCK]>, E>,
    ) -> Result<Option<Self>, E> {
        let mut block = [0u8; BLOCK];
        let mut at = BLOCK;
        let mut line = || -> Result<Option<u64>, E> {
            let mut digits = Vec::new();
            loop {
                if at == BLOCK {
                    match next()? {
                        Some(read) => block = read,
                        None => return Ok(None),
                    }
                    at = 0;
                }
                let byte = block[at];
                at += 1;
                match byte {
                    b'\n' => return Ok(number(&digits)),
                    digit if digits.len() < 20 => digits.push(digit),
                    _ => return Ok(None),
                }
            }
        };
        let Some(count) = line()?.and_then(|count| usize::try_from(count).ok()) else {
            return Ok(None);
        };
        if count > EXTENTS_MAX + 1 {
            return Ok(None);
        }
        let mut map = Self::new(real_size);
        let mut end = 0;
        for index in 0..count {
            let (Some(start), Some(length)) = (line()?, line()?) else { return Ok(None) };
            let last = index + 1 == count;
            let Some(stop) = start.checked_add(length) else { return Ok(None) };
            let ends = last && length == 0 && start == real_size;
            if start < end || stop > real_size || (length == 0 && !ends) {
                return Ok(None);
            }
            if length > 0 {
                map.extents.push(start..stop);
            }
            end = stop;
        }
        Ok(Some(map))
    }
}
