//! Working out what a damaged header, record or name was. It takes what authenticates and nothing
//! else, so a guess cannot be wrong.

use crate::backing::File;
use crate::format::directory::DirId;
use crate::format::header::{FILE_ID_LEN, FileId, HEADER_LEN};
use crate::format::layout::{BLOCK_OVERHEAD, BLOCK_SIZE, BlockIndex, CIPHER_BLOCK_SIZE};
use crate::format::name::{EntryName, NameCipher};
use crate::vault::Codecs;

const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
const FILE_ID_AT: usize = 4;
const CIPHER_BLOCK: u64 = CIPHER_BLOCK_SIZE as u64;
/// Blocks that are tried with the file ID as it stands.
const BLOCKS_TRIED: usize = 16;

/// The text, with each one character replaced by each other.
fn with_one_character_changed(text: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    (0..text.len()).flat_map(move |at| {
        ALPHABET.iter().filter(move |byte| text[at] != **byte).map(move |byte| {
            let mut changed = text.to_vec();
            changed[at] = *byte;
            changed
        })
    })
}

/// The file ID of a header of which one byte is wrong, or of which the ID itself is whole (then a
/// block of the file authenticates under it).
///
/// # Errors
/// When the file cannot be read.
pub(super) fn file_id(
    codecs: &Codecs,
    header: &[u8; HEADER_LEN],
    file: &dyn File,
) -> std::io::Result<Option<FileId>> {
    for at in 0..HEADER_LEN {
        for byte in 0..=u8::MAX {
            let mut changed = *header;
            changed[at] = byte;
            if let Ok(id) = codecs.headers.decode(&changed) {
                return Ok(Some(id));
            }
        }
    }
    let mut id = [0u8; FILE_ID_LEN];
    id.copy_from_slice(&header[FILE_ID_AT..FILE_ID_AT + FILE_ID_LEN]);
    let id = FileId(id);
    let cipher = codecs.blocks(id);
    let mut index = BlockIndex(0);
    for _ in 0..BLOCKS_TRIED {
        let Some(data) = file.seek_data(index.cipher_offset())? else { break };
        let at = (data.max(index.cipher_offset()) - BlockIndex(0).cipher_offset()) / CIPHER_BLOCK;
        index = BlockIndex(at);
        let mut sealed = [0u8; CIPHER_BLOCK_SIZE];
        let read = file.read_at(&mut sealed, index.cipher_offset())?;
        let mut plain = [0u8; BLOCK_SIZE];
        let len = read.saturating_sub(BLOCK_OVERHEAD);
        let sealed = &sealed[..read];
        if len > 0
            && !crate::format::block::is_hole(sealed)
            && cipher.open(index, sealed, &mut plain[..len]).is_ok()
        {
            return Ok(Some(id));
        }
        index = index.next();
    }
    Ok(None)
}

/// The directory ID of a record of which one character is wrong, or of which the ID is whole (then
/// one of the `entries` authenticates under it).
pub(super) fn directory_id(codecs: &Codecs, target: &[u8], entries: &[Vec<u8>]) -> Option<DirId> {
    // A record has 44 characters; anything much longer is none.
    if target.len() > 64 {
        return None;
    }
    let mended =
        with_one_character_changed(target).find_map(|text| codecs.directories.decode(&text).ok());
    mended.or_else(|| {
        let id = codecs.directories.decode_unverified(target)?;
        let names = codecs.names(id);
        let shown = |entry: &Vec<u8>| matches!(names.classify(entry), EntryName::Plain(_));
        entries.iter().any(shown).then_some(id)
    })
}

/// The entry's name of which one character is wrong.
pub(super) fn entry_name(names: &NameCipher, entry: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    with_one_character_changed(entry).find_map(|text| match names.classify(&text) {
        EntryName::Plain(plain) => Some((text, plain)),
        _ => None,
    })
}

/// The cipher name and the plain name of a long entry, from its sidecar's target with one wrong
/// character, or from `others`: the targets of the directory's other sidecars.
pub(super) fn long_name(
    names: &NameCipher,
    entry: &[u8],
    target: Option<&[u8]>,
    mut others: impl Iterator<Item = Vec<u8>>,
) -> Option<(Vec<u8>, Vec<u8>)> {
    let opened = |text: Vec<u8>| names.decrypt_long(entry, &text).map(|plain| (text, plain));
    // A cipher name has at most 363 characters; anything much longer is none.
    target
        .filter(|target| target.len() <= 400)
        .and_then(|target| with_one_character_changed(target).find_map(opened))
        .or_else(|| others.find_map(opened))
}
