//! Patterns that name entries to leave out.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

use super::path::TreePath;
use super::types::EntryKind;

/// Glob patterns as people know them from `.gitignore`: one without a slash matches a name at any
/// depth, one with a slash matches a path from the root; `**` goes through directories, a slash at
/// the end asks for a directory. What lies in a directory left out is left out.
#[derive(Clone, Debug, Default)]
pub struct Patterns {
    names: GlobSet,
    paths: GlobSet,
    directory_names: GlobSet,
    directory_paths: GlobSet,
}

/// A pattern that makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{pattern:?} is no pattern: {reason}")]
pub struct PatternError {
    /// The pattern.
    pub pattern: String,
    /// What is wrong with it.
    pub reason: String,
}

impl Patterns {
    /// Parses patterns; none leave nothing out.
    ///
    /// # Errors
    /// On the first that makes no sense.
    pub fn new(patterns: impl IntoIterator<Item = impl AsRef<str>>) -> Result<Self, PatternError> {
        let mut sets = [(); 4].map(|()| GlobSetBuilder::new());
        for pattern in patterns {
            let pattern = pattern.as_ref();
            let failed = |reason: String| PatternError { pattern: pattern.to_owned(), reason };
            let (body, directory) = match pattern.strip_suffix('/') {
                Some(body) => (body, true),
                None => (pattern, false),
            };
            let anchored = body.contains('/');
            let body = body.strip_prefix('/').unwrap_or(body);
            if body.is_empty() {
                return Err(failed("it is empty".to_owned()));
            }
            let glob = GlobBuilder::new(body)
                .literal_separator(true)
                .backslash_escape(true)
                .build()
                .map_err(|error| failed(error.kind().to_string()))?;
            sets[usize::from(anchored) + 2 * usize::from(directory)].add(glob);
        }
        let build = |set: &GlobSetBuilder| {
            set.build().map_err(|error| PatternError {
                pattern: error.glob().unwrap_or_default().to_owned(),
                reason: error.kind().to_string(),
            })
        };
        let [names, paths, directory_names, directory_paths] = &sets;
        Ok(Self {
            names: build(names)?,
            paths: build(paths)?,
            directory_names: build(directory_names)?,
            directory_paths: build(directory_paths)?,
        })
    }

    /// Whether an entry is left out. The root never is.
    pub fn matches(&self, path: &TreePath, kind: EntryKind) -> bool {
        let Some(name) = path.name() else { return false };
        let (name, path) = (OsStr::from_bytes(name), OsStr::from_bytes(path.as_bytes()));
        self.names.is_match(name)
            || self.paths.is_match(path)
            || (kind == EntryKind::Directory
                && (self.directory_names.is_match(name) || self.directory_paths.is_match(path)))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_left_out() {
        let patterns = Patterns::new(["*.tmp", "cache/", "/models", "a/**/x", "[!b]z"]).unwrap();
        let matches =
            |path: &str, kind| patterns.matches(&TreePath::new(path.as_bytes()).unwrap(), kind);
        use EntryKind::{Directory, Regular};
        for (path, kind, expected) in [
            ("", Directory, false),
            ("one.tmp", Regular, true),
            ("deep/down/.tmp", Regular, true),
            ("one.tmp2", Regular, false),
            ("cache", Directory, true),
            ("deep/cache", Directory, true),
            ("cache", Regular, false),
            ("models", Directory, true),
            ("deep/models", Directory, false),
            ("a/x", Regular, true),
            ("a/b/c/x", Regular, true),
            ("b/a/x", Regular, false),
            ("cz", Regular, true),
            ("bz", Regular, false),
        ] {
            assert_eq!(matches(path, kind), expected, "{path} {kind}");
        }
        let odd = TreePath::new(&b"\xff\xfe.tmp"[..]).unwrap();
        assert!(patterns.matches(&odd, Regular));
    }

    #[test]
    fn nonsense_is_named() {
        assert_eq!(Patterns::new(["ok", "[a"]).unwrap_err().pattern, "[a");
        assert!(Patterns::new(["/"]).is_err());
        assert!(Patterns::new([""]).is_err());
    }
}
