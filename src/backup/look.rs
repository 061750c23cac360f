//! The look for stores in a tree that is about to be read whole.

use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use crate::stores::{self, Listed, Lister, Scan};
use crate::tree::{EntryKind, Listing, TreePath};

/// [Finds](stores::scan_likely) the likely stores in `source`, the directory of `listing`, which lists it for
/// that and for the walk that follows.
///
/// # Errors
/// Those of [`stores::scan_likely`].
pub fn scan_listed(
    source: &Path,
    listing: &Listing<'_>,
    cancelled: &AtomicBool,
) -> Result<Scan, stores::Error> {
    stores::scan_likely(source, Some(&ListerOf { source, listing }), cancelled)
}

struct ListerOf<'a> {
    source: &'a Path,
    listing: &'a Listing<'a>,
}

impl Lister for ListerOf<'_> {
    fn list(&self, directory: &Path, each: &mut dyn FnMut(&[u8], Listed)) -> bool {
        let inside = directory.strip_prefix(self.source).ok();
        let Some(path) = inside.and_then(|path| TreePath::new(path.as_os_str().as_bytes()).ok())
        else {
            return false;
        };
        self.listing.list(&path, |name, kind, length| {
            let listed = match kind {
                EntryKind::Directory => Listed::Directory,
                EntryKind::Regular => Listed::Regular { length },
                _ => Listed::Other,
            };
            each(name, listed);
        })
    }
}
