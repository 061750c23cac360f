//! After an unclean end: finding the blocks that were torn before they ever were durable, and
//! making holes of them, so that from then on every block that does not authenticate is damage.
//!
//! It runs beside everything else. Until it is done, files changed in the doubtful span of time
//! count as suspect, and their torn blocks read as zeros.

use std::sync::Arc;

use super::below::{keep_modified, punch};
use super::content::{Content, prefix, to_u64, with_scratch};
use super::core::Core;
use super::error::{Error, Result};
use super::inode::Inode;
use super::opening::Permission;
use super::write::Stop;
use crate::backing::{FileKind, SetTime, Stat};
use crate::format::block::is_hole;
use crate::format::header::HEADER_LEN;
use crate::format::layout::{
    BLOCK_OVERHEAD, BLOCK_SIZE, BlockIndex, CIPHER_BLOCK_SIZE, cipher_size, plain_size,
};
use crate::format::state::{self, Window};

/// The name of the state file in the vault directory.
pub(crate) const STATE_NAME: &[u8] = b"state";
const STATE_TEMPORARY: &[u8] = b"state.new";
const STATE_MAX: usize = 64 << 10;

/// Blocks examined while the file's content is locked.
const STEP: u64 = 256;

impl Core {
    /// Walks the vault for suspect files and settles each. Ends early when the core is closing.
    pub(super) fn settle(&self) {
        if self.windows.read().is_empty() {
            return;
        }
        match self.settle_directory(&self.inodes.root().clone()) {
            Ok(true) => {
                if let Err(error) = self.forget_windows() {
                    tracing::error!(
                        "the vault's state could not be written; the next mount looks again: {error}"
                    );
                }
            }
            Ok(false) => {}
            Err(error) => {
                tracing::error!("torn blocks could not be looked for; the next mount does: {error}")
            }
        }
    }

    /// `false` when the core is closing.
    fn settle_directory(&self, root: &Arc<Inode>) -> Result<bool> {
        let mut directories = vec![root.clone()];
        while let Some(inode) = directories.pop() {
            let mut names = Vec::new();
            let listed = self.read_directory(&inode, 0, false, &mut |entry| {
                if entry.name != b"." && entry.name != b".." {
                    names.push((entry.name.to_vec(), entry.kind));
                }
                true
            });
            match listed {
                Err(error) if is_refused(&error) => self.note_refused(&inode),
                outcome => outcome?,
            }
            for (name, kind) in names {
                if self.closing() {
                    return Ok(false);
                }
                if !matches!(kind, FileKind::Directory | FileKind::Regular) {
                    continue;
                }
                let entry = match self.lookup(&inode, &name) {
                    Ok(entry) => entry,
                    Err(Error::NotFound | Error::Damaged { .. }) => continue,
                    Err(error) if is_refused(&error) => {
                        // All entries of a directory that may not be searched.
                        self.note_refused(&inode);
                        break;
                    }
                    Err(error) => return Err(error),
                };
                let child = self.inode(entry.attributes.ino)?;
                if kind == FileKind::Directory {
                    directories.push(child);
                    continue;
                }
                let changed = entry.attributes.changed.seconds;
                let suspect = self.windows.read().iter().any(|window| changed >= window.from);
                if suspect {
                    self.settle_file(&child)?;
                }
                self.forget(child.number, 1);
            }
            if inode.number != root.number {
                self.forget(inode.number, 1);
            }
        }
        Ok(true)
    }

    /// Tells of what torn blocks cannot be looked for in. The others' are.
    fn note_refused(&self, inode: &Arc<Inode>) {
        let path = self.plain_path(inode);
        tracing::warn!(
            path,
            "its mode does not let this process in, so blocks that were being written there when \
             the power went are not looked for; reading such a block gives an I/O error until it \
             is written again"
        );
    }

    pub(super) fn settle_file(&self, inode: &Arc<Inode>) -> Result<()> {
        let file = match self.held_content(inode) {
            Ok(file) => file,
            Err(Error::Damaged { .. } | Error::NotFound | Error::Stale) => return Ok(()),
            Err(error) if is_refused(&error) => {
                self.note_refused(inode);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let mut next = BlockIndex(0);
        let mut torn = 0;
        loop {
            let (after, found) =
                self.with_content(&file, |content| self.settle_blocks(inode, content, next))?;
            torn += found;
            match after {
                Some(after) => next = after,
                None => break,
            }
        }
        if torn > 0 {
            let path = self.plain_path(inode);
            tracing::warn!(
                path,
                torn,
                "blocks that were being written when the power went were never durable; they read as zeros"
            );
        }
        Ok(())
    }

    /// Examines some blocks: where to go on (`None`: at the end), and how many were torn.
    fn settle_blocks(
        &self,
        inode: &Arc<Inode>,
        content: &mut Content,
        first: BlockIndex,
    ) -> Result<(Option<BlockIndex>, u64), Stop> {
        let end = BlockIndex::count(content.placed);
        let after = BlockIndex((first.0 + STEP).min(end.0));
        if !content.suspect || first >= after {
            if content.suspect {
                self.settle_size(inode, content)?;
            }
            content.suspect = false;
            return Ok((None, 0));
        }
        if content.keyed.is_none() {
            // Not even the header was durable: the file keeps its size and reads as zeros.
            self.writable(inode, content, Permission::Held)?;
            self.ensure_keyed(content);
            self.mark_dirty(inode);
            if let Some(keyed) = content.keyed.clone() {
                self.write_header(content, &keyed)?;
            }
        }
        let mut torn = Vec::new();
        with_scratch(|scratch| -> Result<()> {
            let span = usize::try_from(after.0 - first.0).expect("a step") * CIPHER_BLOCK_SIZE;
            let cipher = prefix(&mut scratch.cipher, span);
            let read = content.handle.read_at(cipher, first.cipher_offset())?;
            let block = prefix(&mut scratch.block, BLOCK_SIZE);
            for (number, sealed) in (first.0..).zip(cipher[..read].chunks(CIPHER_BLOCK_SIZE)) {
                let index = BlockIndex(number);
                let whole = content.keyed.as_ref().is_some_and(|keyed| {
                    let len = sealed.len().saturating_sub(BLOCK_OVERHEAD);
                    len > 0 && keyed.cipher.open(index, sealed, &mut block[..len]).is_ok()
                });
                if !is_hole(sealed) && !whole && !content.live.contains_key(&number) {
                    torn.push(index);
                }
            }
            Ok(())
        })?;
        if !torn.is_empty() {
            self.writable(inode, content, Permission::Held)?;
            self.mark_dirty(inode);
            content.sparse = true;
        }
        let modified = content.modified.unwrap_or(content.handle.stat()?.modified);
        for index in &torn {
            let from = index.cipher_offset();
            let until = index.next().cipher_offset().min(cipher_size(content.placed));
            punch(&*content.handle, from, until.saturating_sub(from))?;
        }
        if !torn.is_empty() {
            keep_modified(&*content.handle, SetTime::At(modified))?;
        }
        Ok((Some(after), to_u64(torn.len())))
    }

    /// Cuts off what is too short to be a header or a block: its rest never came to the disk.
    fn settle_size(&self, inode: &Arc<Inode>, content: &mut Content) -> Result<(), Stop> {
        let Stat { size, modified, .. } = content.handle.stat()?;
        // Where all blocks are in the journal only, their file is found there by its header.
        let header =
            if content.keyed.is_some() && !content.header_pending { HEADER_LEN } else { 0 };
        let whole = cipher_size(content.placed).max(to_u64(header));
        if plain_size(size) == content.placed && whole < size {
            self.writable(inode, content, Permission::Held)?;
            self.mark_dirty(inode);
            content.handle.set_len(whole)?;
            let modified = content.modified.unwrap_or(modified);
            keep_modified(&*content.handle, SetTime::At(modified))?;
        }
        Ok(())
    }

    /// The spans of time noted in the state file.
    ///
    /// # Errors
    /// When it cannot be read. One that does not authenticate counts as none.
    pub(super) fn read_windows(
        vault: &dyn crate::backing::Directory,
        key: &crate::crypto::JournalKey,
    ) -> Result<Vec<Window>> {
        let file = match vault.open_file(STATE_NAME, crate::backing::Access::Read) {
            Ok(file) => file,
            Err(error) if super::core::is_not_found(&error) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        };
        let mut bytes = vec![0; STATE_MAX];
        let read = file.read_at(&mut bytes, 0)?;
        Ok(state::decode(key, &bytes[..read]).unwrap_or_else(|| {
            tracing::warn!("the vault's state file is damaged and is not used");
            Vec::new()
        }))
    }

    /// Notes spans of time durably, before anything relies on their being known.
    pub(super) fn write_windows(
        vault: &dyn crate::backing::Directory,
        key: &crate::crypto::JournalKey,
        windows: &[Window],
    ) -> Result<()> {
        match vault.unlink(STATE_TEMPORARY) {
            Err(error) if !super::core::is_not_found(&error) => return Err(error.into()),
            _ => {}
        }
        let file = vault.create_file(STATE_TEMPORARY, 0o600)?;
        file.write_at(&state::encode(key, windows), 0)?;
        file.sync_all()?;
        vault.rename(STATE_TEMPORARY, vault, STATE_NAME, crate::backing::RenameMode::Replace)?;
        vault.sync()?;
        Ok(())
    }

    fn forget_windows(&self) -> Result<()> {
        self.commit_all()?;
        Self::write_windows(&*self.vault_directory, &self.codecs.journal, &[])?;
        self.windows.write().clear();
        Ok(())
    }
}

fn is_refused(error: &Error) -> bool {
    matches!(error.errno(), libc::EACCES | libc::EPERM)
}
