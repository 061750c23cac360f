//! The keys, as types that cannot be confused, copied, printed or serialised, and the one table
//! of labels by which they are derived from the master key (HKDF-SHA256, RFC 5869).

use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::Zeroizing;

use super::random::random_array;

/// Bytes in every key.
pub const KEY_LEN: usize = 32;

macro_rules! key_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        ///
        /// 32 bytes, boxed, zeroized on drop; neither `Clone`, `Debug` nor serialisable:
        ///
        #[doc = concat!("```compile_fail\nfn copy<T: Clone>() {}\ncopy::<strongroom::crypto::", stringify!($name), ">();\n```")]
        pub struct $name(Box<Zeroizing<[u8; KEY_LEN]>>);

        impl $name {
            /// Takes over key bytes; the caller's copy stays the caller's to wipe.
            pub fn from_bytes(bytes: &[u8; KEY_LEN]) -> Self {
                let mut boxed = Box::new(Zeroizing::new([0u8; KEY_LEN]));
                boxed.copy_from_slice(bytes);
                Self(boxed)
            }

            /// The key bytes, for the ciphers of this crate.
            pub(crate) fn expose(&self) -> &[u8; KEY_LEN] {
                &self.0
            }
        }
    };
}

key_type! {
    /// The root of every other key of a vault. Lies on disk only wrapped in key slots.
    MasterKey
}
key_type! {
    /// Wraps a master key in one key slot; derived from a passphrase, a key file or a recovery
    /// key.
    KeyEncryptionKey
}
key_type! {
    /// From which the key of every file's content is derived.
    ContentKey
}
key_type! {
    /// Encrypts the blocks of one file.
    FileKey
}
key_type! {
    /// Authenticates file headers.
    HeaderKey
}
key_type! {
    /// Encrypts names.
    NameKey
}
key_type! {
    /// Authenticates directory records.
    DirectoryKey
}
key_type! {
    /// Encrypts symlink targets.
    SymlinkKey
}
key_type! {
    /// Encrypts extended attributes.
    XattrKey
}
key_type! {
    /// Authenticates the redo journal.
    JournalKey
}
key_type! {
    /// Authenticates `vault.json`.
    ConfigKey
}
key_type! {
    /// Authenticates migration journals and seals what they hold.
    MigrationKey
}
key_type! {
    /// Of one archive: authenticates its header and seals what it holds.
    ArchiveKey
}

/// Derives 32 bytes from `key` under `info` (HKDF-SHA256, no salt: the input is a uniform key).
pub(super) fn derive(key: &[u8; KEY_LEN], info: &[&[u8]]) -> Zeroizing<[u8; KEY_LEN]> {
    let mut output = Zeroizing::new([0u8; KEY_LEN]);
    Hkdf::<Sha256>::new(None, key)
        .expand_multi_info(info, output.as_mut())
        .expect("32 bytes are within the 8160 that HKDF-SHA256 can give");
    output
}

impl MasterKey {
    /// A new random master key.
    ///
    /// # Panics
    /// When the operating system cannot give random bytes.
    pub fn generate() -> Self {
        Self::from_bytes(&Zeroizing::new(random_array()))
    }

    /// The key that file keys are derived from. Label `strongroom v1 content`.
    pub fn content_key(&self) -> ContentKey {
        ContentKey::from_bytes(&derive(self.expose(), &[b"strongroom v1 content"]))
    }

    /// The key of file headers. Label `strongroom v1 header`.
    pub fn header_key(&self) -> HeaderKey {
        HeaderKey::from_bytes(&derive(self.expose(), &[b"strongroom v1 header"]))
    }

    /// The key of names. Label `strongroom v1 name`.
    pub fn name_key(&self) -> NameKey {
        NameKey::from_bytes(&derive(self.expose(), &[b"strongroom v1 name"]))
    }

    /// The key of directory records. Label `strongroom v1 directory`.
    pub fn directory_key(&self) -> DirectoryKey {
        DirectoryKey::from_bytes(&derive(self.expose(), &[b"strongroom v1 directory"]))
    }

    /// The key of symlink targets. Label `strongroom v1 symlink`.
    pub fn symlink_key(&self) -> SymlinkKey {
        SymlinkKey::from_bytes(&derive(self.expose(), &[b"strongroom v1 symlink"]))
    }

    /// The key of extended attributes. Label `strongroom v1 xattr`.
    pub fn xattr_key(&self) -> XattrKey {
        XattrKey::from_bytes(&derive(self.expose(), &[b"strongroom v1 xattr"]))
    }

    /// The key of the redo journal. Label `strongroom v1 journal`.
    pub fn journal_key(&self) -> JournalKey {
        JournalKey::from_bytes(&derive(self.expose(), &[b"strongroom v1 journal"]))
    }

    /// The key that authenticates `vault.json`. Label `strongroom v1 config`.
    pub fn config_key(&self) -> ConfigKey {
        ConfigKey::from_bytes(&derive(self.expose(), &[b"strongroom v1 config"]))
    }

    /// The key of migration journals. Label `strongroom v1 migration`.
    pub fn migration_key(&self) -> MigrationKey {
        MigrationKey::from_bytes(&derive(self.expose(), &[b"strongroom v1 migration"]))
    }

    /// The key of the archive with this archive ID. Label `strongroom v1 archive`, then the ID.
    pub fn archive_key(&self, archive_id: &[u8; KEY_LEN]) -> ArchiveKey {
        ArchiveKey::from_bytes(&derive(self.expose(), &[b"strongroom v1 archive", archive_id]))
    }
}

impl ContentKey {
    /// The key of the file with this file ID. Label `strongroom v1 file`, then the file ID.
    pub fn file_key(&self, file_id: &[u8; 16]) -> FileKey {
        FileKey::from_bytes(&derive(self.expose(), &[b"strongroom v1 file", file_id]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_give_distinct_keys() {
        let master = MasterKey::from_bytes(&[7; KEY_LEN]);
        let keys = [
            *master.content_key().expose(),
            *master.header_key().expose(),
            *master.name_key().expose(),
            *master.directory_key().expose(),
            *master.symlink_key().expose(),
            *master.xattr_key().expose(),
            *master.journal_key().expose(),
            *master.config_key().expose(),
            *master.migration_key().expose(),
            *master.content_key().file_key(&[0; 16]).expose(),
            *master.content_key().file_key(&[1; 16]).expose(),
            *master.archive_key(&[0; KEY_LEN]).expose(),
            *master.archive_key(&[1; KEY_LEN]).expose(),
        ];
        let distinct: std::collections::HashSet<_> = keys.iter().collect();
        assert_eq!(distinct.len(), keys.len());
    }
}
