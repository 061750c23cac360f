//! What a pass met, held against the index part that must name it. Must know nothing of how either is
//! read.

use super::error::{Error, Result};
use super::metadata::{IndexEntry, SectionName};
use super::sink::Sink;
use crate::tree::{Digest, ManifestEntry, Metadata, TreePath};

/// An entry that the next index part must name.
pub(super) struct Pending {
    pub(super) section: SectionName,
    pub(super) path: TreePath,
    pub(super) what: What,
}

/// What an entry is.
pub(super) enum What {
    Entry(Metadata),
    File(Metadata, Seen),
    HardLink(TreePath),
}

/// What was found of a file's content.
pub(super) enum Seen {
    Digest(Digest),
    /// The sink tells its digest.
    InSink,
    /// It was there.
    Unhashed,
}

/// A line of the index against what was met.
pub(super) fn check_line(
    line: &IndexEntry,
    pending: Option<Pending>,
    sink: &mut dyn Sink,
) -> Result<()> {
    let ManifestEntry { path, metadata, link_to, sha256 } = &line.entry;
    let mismatch =
        |problem| Err(Error::Mismatch { entry: format!("{}/{path}", line.section), problem });
    let Some(pending) = pending else { return mismatch("it is not there") };
    if pending.section != line.section || pending.path != *path {
        return mismatch("it is not there, or not in its place");
    }
    match pending.what {
        What::HardLink(first) if link_to.as_ref() == Some(&first) && sha256.is_none() => Ok(()),
        What::Entry(found) if link_to.is_none() && sha256.is_none() => {
            if found == *metadata {
                Ok(())
            } else {
                mismatch("its metadata")
            }
        }
        What::File(found, content) if link_to.is_none() => {
            let digest = match content {
                Seen::Digest(digest) => Some(digest),
                Seen::InSink => Some(sink.next_digest()?),
                Seen::Unhashed => None,
            };
            if found != *metadata {
                mismatch("its metadata")
            } else if sha256.is_none() || digest.is_some() && digest != *sha256 {
                mismatch("the SHA-256 of its content")
            } else {
                Ok(())
            }
        }
        _ => mismatch("its kind"),
    }
}
