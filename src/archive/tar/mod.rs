//! The tar inside an archive: POSIX pax, in the dialect that GNU tar writes with `--xattrs` and
//! `--sparse`, and read back strictly: what this program never writes is an error.

mod decode;
mod encode;
mod pax;
mod sparse;

pub(super) use decode::{RawEntry, RawKind, TarReader};
pub(super) use encode::{Stored, encode_header, padding};
pub(super) use sparse::SparseMap;

/// Bytes of a tar block.
pub(super) const BLOCK: usize = 512;
/// Two zero blocks end a tar.
pub(super) const END: [u8; 2 * BLOCK] = [0; 2 * BLOCK];

#[cfg(test)]
mod tests;
