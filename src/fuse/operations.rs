//! What the adapter asks of a filesystem. The vault core is one; tests and benchmarks put others
//! in its place and get the same kernel settings.

use crate::backing::{Access, FilesystemStat, RenameMode, XattrMode};
use crate::vault::{
    Attributes, CachedName, Caller, DirectoryEntry, Entry, FallocateMode, FileSystem, InodeNumber,
    Result, SeekWhence, SetAttributes,
};

/// Declares [`Operations`] and hands each one to the method of the same name of
/// [`FileSystem`], where it is described.
macro_rules! operations {
    ($(fn $name:ident(&self $(, $argument:ident: $type:ty)* $(,)?) -> $result:ty;)*) => {
        /// The operations of a filesystem, by inode number; [`FileSystem`] describes each. All
        /// may be called from several threads at once.
        pub trait Operations: Send + Sync + Sized + 'static {
            $(
                #[doc = concat!("See [`FileSystem::", stringify!($name), "`].")]
                fn $name(&self $(, $argument: $type)*) -> $result;
            )*
            /// See [`FileSystem::close`].
            fn close(self) -> Result<()>;
        }

        impl Operations for FileSystem {
            $(
                fn $name(&self $(, $argument: $type)*) -> $result {
                    FileSystem::$name(self $(, $argument)*)
                }
            )*
            fn close(self) -> Result<()> {
                FileSystem::close(self)
            }
        }
    };
}

operations! {
    fn lookup(&self, parent: InodeNumber, name: &[u8]) -> Result<Entry>;
    fn forget(&self, ino: InodeNumber, count: u64) -> ();
    fn attributes(&self, ino: InodeNumber) -> Result<Attributes>;
    fn set_attributes(&self, ino: InodeNumber, changes: &SetAttributes) -> Result<Attributes>;
    fn read_link(&self, ino: InodeNumber) -> Result<Vec<u8>>;
    fn create(&self, caller: &Caller, parent: InodeNumber, name: &[u8], mode: u32)
        -> Result<Entry>;
    fn make_node(&self, caller: &Caller, parent: InodeNumber, name: &[u8], mode: u32, rdev: u32)
        -> Result<Entry>;
    fn make_directory(&self, caller: &Caller, parent: InodeNumber, name: &[u8], mode: u32)
        -> Result<Entry>;
    fn make_symlink(&self, caller: &Caller, parent: InodeNumber, name: &[u8], target: &[u8])
        -> Result<Entry>;
    fn hard_link(&self, ino: InodeNumber, parent: InodeNumber, name: &[u8]) -> Result<Entry>;
    fn unlink(&self, parent: InodeNumber, name: &[u8]) -> Result<()>;
    fn remove_directory(&self, parent: InodeNumber, name: &[u8]) -> Result<()>;
    fn rename(
        &self,
        parent: InodeNumber,
        name: &[u8],
        new_parent: InodeNumber,
        new_name: &[u8],
        mode: RenameMode,
    ) -> Result<()>;
    fn open_file(&self, ino: InodeNumber, access: Access) -> Result<()>;
    fn release(&self, ino: InodeNumber) -> ();
    fn read(&self, ino: InodeNumber, offset: u64, buffer: &mut [u8]) -> Result<usize>;
    fn write(&self, ino: InodeNumber, offset: u64, data: &[u8]) -> Result<bool>;
    fn sync(&self, ino: InodeNumber, data_only: bool) -> Result<()>;
    fn sync_directory(&self, ino: InodeNumber) -> Result<()>;
    fn fallocate(&self, ino: InodeNumber, mode: FallocateMode, offset: u64, len: u64)
        -> Result<()>;
    fn seek(&self, ino: InodeNumber, offset: u64, whence: SeekWhence) -> Result<u64>;
    fn read_directory(
        &self,
        ino: InodeNumber,
        cookie: u64,
        attributes: bool,
        sink: &mut dyn FnMut(DirectoryEntry<'_>) -> bool,
    ) -> Result<()>;
    fn get_xattr(&self, ino: InodeNumber, name: &[u8]) -> Result<Vec<u8>>;
    fn list_xattr(&self, ino: InodeNumber) -> Result<Vec<Vec<u8>>>;
    fn set_xattr(&self, ino: InodeNumber, name: &[u8], value: &[u8], mode: XattrMode)
        -> Result<()>;
    fn remove_xattr(&self, ino: InodeNumber, name: &[u8]) -> Result<()>;
    fn cached_inodes(&self) -> usize;
    fn cached_part(&self, part: usize, parts: usize) -> Vec<InodeNumber>;
    fn cached_name(&self, ino: InodeNumber) -> Option<CachedName>;
    fn filesystem_stat(&self) -> Result<FilesystemStat>;
    fn sync_all(&self) -> Result<()>;
}
