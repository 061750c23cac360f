//! Searches a directory for plaintext, as a thief of the disk would.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use crate::cli::failure::Failure;

/// What a search went through, and found.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Searched {
    /// Files and other entries.
    pub(super) files: u64,
    /// Bytes of the files.
    pub(super) bytes: u64,
    /// Entries that hold one of the texts, in content, name, target or attribute.
    pub(super) hits: u64,
}

/// Searches every file, name, symlink target and extended attribute below `root` for `texts`.
pub(super) fn search(root: &Path, texts: &[&[u8]]) -> Result<Searched, Failure> {
    let mut searched = Searched::default();
    let longest = texts.iter().map(|text| text.len()).max().unwrap_or(0);
    for entry in walkdir::WalkDir::new(root).min_depth(1) {
        let entry = entry.map_err(|error| Failure::io("search", root, &error.into()))?;
        searched.files += 1;
        let mut hit = contains(entry.file_name().as_bytes(), texts);
        if entry.file_type().is_symlink() {
            let target = std::fs::read_link(entry.path())
                .map_err(|error| Failure::io("read", entry.path(), &error))?;
            hit |= contains(target.as_os_str().as_bytes(), texts);
        } else if entry.file_type().is_file() {
            hit |= search_file(entry.path(), texts, longest, &mut searched.bytes)?;
        }
        hit |= search_attributes(entry.path(), texts);
        searched.hits += u64::from(hit);
    }
    Ok(searched)
}

fn search_file(
    path: &Path,
    texts: &[&[u8]],
    longest: usize,
    bytes: &mut u64,
) -> Result<bool, Failure> {
    let failed = |error: std::io::Error| Failure::io("read", path, &error);
    let mut file = File::open(path).map_err(failed)?;
    let mut buffer = vec![0u8; 1 << 20];
    let mut kept = 0;
    loop {
        let read = file.read(&mut buffer[kept..]).map_err(failed)?;
        if read == 0 {
            return Ok(false);
        }
        *bytes += u64::try_from(read).unwrap_or(0);
        let filled = kept + read;
        if contains(&buffer[..filled], texts) {
            return Ok(true);
        }
        // A text may lie across two readings.
        kept = filled.min(longest.saturating_sub(1));
        buffer.copy_within(filled - kept..filled, 0);
    }
}

fn search_attributes(path: &Path, texts: &[&[u8]]) -> bool {
    let mut names: Vec<u8> = Vec::with_capacity(65_536);
    let spare = rustix::buffer::spare_capacity(&mut names);
    if rustix::fs::llistxattr(path, spare).is_err() {
        return false;
    }
    contains(&names, texts)
        || names.split(|byte| *byte == 0).filter(|name| !name.is_empty()).any(|name| {
            let mut value: Vec<u8> = Vec::with_capacity(65_536);
            let spare = rustix::buffer::spare_capacity(&mut value);
            rustix::fs::lgetxattr(path, name, spare).is_ok() && contains(&value, texts)
        })
}

fn contains(haystack: &[u8], texts: &[&[u8]]) -> bool {
    texts.iter().any(|text| {
        let Some(first) = text.first() else { return false };
        let mut from = 0;
        while let Some(at) = haystack[from..].iter().position(|byte| byte == first) {
            let at = from + at;
            if haystack[at..].starts_with(text) {
                return true;
            }
            from = at + 1;
        }
        false
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// A search that finds nothing proves something only if it finds what is there.
    #[test]
    fn it_finds_what_is_there() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        let hits = || search(root, &[b"needle"]).unwrap().hits;
        assert_eq!(hits(), 0);
        let mut content = vec![b'n'; (1 << 20) - 3];
        content.extend_from_slice(b"needle");
        std::fs::write(root.join("across"), &content).unwrap();
        assert_eq!(hits(), 1);
        std::fs::write(root.join("a needle"), b"").unwrap();
        assert_eq!(hits(), 2);
        std::os::unix::fs::symlink("x/needle", root.join("link")).unwrap();
        assert_eq!(hits(), 3);
        std::fs::write(root.join("needl"), b"nneedl e").unwrap();
        assert_eq!(hits(), 3);
    }
}
