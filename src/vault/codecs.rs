//! The vault's keys, scheduled once for all operations.

use std::sync::Arc;

use crate::crypto::{ContentKey, JournalKey, MasterKey, SealingKey};
use crate::format::block::BlockCipher;
use crate::format::directory::{DirId, DirectoryCodec};
use crate::format::header::{FileId, HeaderCodec};
use crate::format::name::NameCipher;
use crate::format::symlink::SymlinkCipher;
use crate::format::xattr::XattrCipher;

/// Everything that encrypts, decrypts and authenticates.
pub(crate) struct Codecs {
    pub(crate) content: ContentKey,
    pub(crate) headers: HeaderCodec,
    pub(crate) directories: DirectoryCodec,
    pub(crate) symlinks: SymlinkCipher,
    pub(crate) xattrs: XattrCipher,
    pub(crate) journal: JournalKey,
    names: Arc<SealingKey>,
}

impl Codecs {
    pub(crate) fn new(master: &MasterKey) -> Self {
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
    pub(crate) fn names(&self, directory: DirId) -> NameCipher {
        NameCipher::new(self.names.clone(), directory)
    }

    /// The blocks of one file.
    pub(crate) fn blocks(&self, file: FileId) -> BlockCipher {
        BlockCipher::new(&self.content, file)
    }
}
