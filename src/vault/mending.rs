//! After blocks could not be written whole: what was readable before is made readable again.

use super::below::punch;
use super::content::{Content, FileKeyed, to_u64};
use super::write::{Run, offset_in};
use crate::format::layout::{BLOCK_OVERHEAD, BLOCK_SIZE, BlockIndex, CIPHER_BLOCK_SIZE};

/// Makes holes again of those of a run's blocks that were holes and of which the beginning was
/// written, so that they read as zeros still.
pub(super) fn mend_holes(content: &Content, run: Run, sealed: &[u8]) {
    let blocks = (run.first.0..).map(BlockIndex).zip(sealed.chunks(CIPHER_BLOCK_SIZE));
    for (index, wanted) in blocks.take_while(|(index, _)| index.plain_offset() < content.placed) {
        let mut found = [0; CIPHER_BLOCK_SIZE];
        let offset = index.cipher_offset();
        let Ok(read) = content.handle.read_at(&mut found, offset) else { continue };
        let found = &found[..read.min(wanted.len())];
        let written = found.iter().zip(wanted).take_while(|(found, wanted)| found == wanted);
        let written = written.count();
        let was_hole = found[written..].iter().all(|byte| *byte == 0);
        if written < found.len()
            && was_hole
            && punch(&*content.handle, offset, to_u64(found.len())).is_err()
        {
            let _ = content.handle.write_at(&vec![0; written], offset);
        }
    }
}

/// The block that ends what lies in place was to be replaced by a longer one, of which a part was
/// written: writes again what that keeps of it.
pub(super) fn mend_tail(content: &Content, keyed: &FileKeyed, run: Run, sealed: &[u8]) {
    let tail = BlockIndex::containing(content.placed);
    let len = tail.plain_len(content.placed);
    if len == 0 || !(run.first..run.after).contains(&tail) {
        return;
    }
    let mut found = [0; CIPHER_BLOCK_SIZE];
    let mut block = [0; BLOCK_SIZE];
    let found = &mut found[..len + BLOCK_OVERHEAD];
    let intact = content
        .handle
        .read_at(found, tail.cipher_offset())
        .is_ok_and(|_| keyed.cipher.open(tail, found, &mut block[..len]).is_ok());
    let longer = sealed.chunks(CIPHER_BLOCK_SIZE).nth(offset_in(tail.0, run.first.0));
    let Some(longer) = longer.filter(|_| !intact) else { return };
    let longer_len = longer.len() - BLOCK_OVERHEAD;
    if longer_len >= len && keyed.cipher.open(tail, longer, &mut block[..longer_len]).is_ok() {
        keyed.cipher.seal(tail, &block[..len], found);
        let _ = content.handle.write_at(found, tail.cipher_offset());
    }
}
