//! The vault's keys, scheduled once for all operations.

use std::sync::Arc;

use crate::crypto::{ContentKey, JournalKey, MasterKey, SealingKey};
use crate::format::directory::{DirId, DirectoryCodec};
use crate::format::header::HeaderCodec;
use crate::format::name::NameCipher;
use crate::format::symlink::SymlinkCipher;
use crate::format::xattr::XattrCipher;

/// Everything that encrypts, decrypts and authenticates.
pub(super) struct Codecs {
    pub(super) content: ContentKey,
    pub(super) headers: HeaderCodec,
    pub(super) directories: DirectoryCodec,
    pub(super) symlinks: SymlinkCipher,
    pub(super) xattrs: XattrCipher,
    pub(super) journal: JournalKey,
    names: Arc<SealingKey>,
}

impl Codecs {
    pub(super) fn new(master: &MasterKey) -> Self {
        Self {
            content: master.content_key(),
            headers: HeaderCodec::new(&master.header_key()),
            directories: DirectoryCodec::new(&master.directory_key()),
            symlinks: SymlinkCipher::new(&master.symlink_key()),
            xattrs: XattrCipher::new(&master.xattr_key()),
            journal: master.journal_key(),
            names: NameCipher::schedule(&master.name_key()),
        }
    }

    /// The names of one directory.
    pub(super) fn names(&self, directory: DirId) -> NameCipher {
        NameCipher::new(self.names.clone(), directory)
    }
}
