//! Owns patterns of paths.

use std::path::Path;

use globset::{GlobBuilder, GlobMatcher};
use serde::Serialize;

/// A pattern of paths relative to a directory: `*` and `?` stay within a name, `**` does not. What
/// lies below a directory that matches, matches.
#[derive(Clone, Debug)]
pub struct Pattern {
    text: String,
    /// The pattern itself, and everything below what it matches.
    matchers: [GlobMatcher; 2],
}

impl Pattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// A message where it is malformed, absolute, or leads out of its directory.
    pub fn new(text: &str) -> Result<Self, String> {
        let clean = text.trim_end_matches('/');
        let clean = clean.strip_prefix("./").unwrap_or(clean);
        if clean.is_empty() {
            return Err("a pattern is empty".to_owned());
        }
        if clean.starts_with('/') || clean.starts_with('~') {
            return Err(format!("{text:?} is not relative to the data directory"));
        }
        if clean.split('/').any(|part| part == "..") {
            return Err(format!("{text:?} leads out of the data directory"));
        }
        let glob = |pattern: &str| {
            GlobBuilder::new(pattern)
                .literal_separator(true)
                .build()
                .map(|glob| glob.compile_matcher())
                .map_err(|error| error.to_string())
        };
        let matchers = [glob(clean)?, glob(&format!("{clean}/**"))?];
        Ok(Self { text: text.to_owned(), matchers })
    }

    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether a path relative to the directory matches, or lies below one that does.
    pub fn matches(&self, path: &Path) -> bool {
        self.matchers.iter().any(|matcher| matcher.is_match(path))
    }

    /// Whether it stands for one path.
    pub fn is_literal(&self) -> bool {
        !self.text.contains(['*', '?', '[', '{'])
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Serialize for Pattern {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}
