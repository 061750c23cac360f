//! What is in a backup and what is not: component names and patterns.

use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

use super::details::Component;
use super::error::{Error, Result};
use crate::archive::SectionName;
use crate::tree::{EntryKind, TreePath};

/// A choice of entries. A term is the name of a component, or a pattern: with a slash it is of
/// the whole path below the source (`logs/*.log`, `**/tmp`), without one of any name in it
/// (`*.log`, `cache`). What is chosen comes with all that it holds.
#[derive(Clone, Debug, Default)]
pub struct Terms {
    components: Vec<Component>,
    patterns: GlobSet,
    has_patterns: bool,
}

impl Terms {
    /// Understands the terms; commas separate several in one.
    ///
    /// # Errors
    /// [`Error::Pattern`].
    pub fn new(terms: &[String], components: &[Component]) -> Result<Self> {
        let mut builder = GlobSetBuilder::new();
        let mut chosen = Vec::new();
        let mut has_patterns = false;
        let terms = terms.iter().flat_map(|term| term.split(','));
        for term in terms.map(str::trim).filter(|term| !term.is_empty()) {
            let called: Vec<_> = components.iter().filter(|one| one.is_called(term)).collect();
            if !called.is_empty() {
                chosen.extend(called.into_iter().cloned());
                continue;
            }
            has_patterns = true;
            for glob in globs(term) {
                let glob = GlobBuilder::new(&glob)
                    .literal_separator(true)
                    .build()
                    .map_err(|error| pattern_error(term, &error))?;
                builder.add(glob);
            }
        }
        let patterns = builder.build().map_err(|error| pattern_error("", &error))?;
        Ok(Self { components: chosen, patterns, has_patterns })
    }

    /// Whether nothing is named.
    pub fn is_empty(&self) -> bool {
        self.components.is_empty() && !self.has_patterns
    }

    /// The components named.
    pub fn components(&self) -> &[Component] {
        &self.components
    }

    /// Whether an entry, or a directory that it lies in, is named.
    pub fn name(&self, section: &SectionName, path: &TreePath) -> bool {
        if path.is_root() {
            return false;
        }
        self.components.iter().any(|component| component.holds(section, path))
            || (self.has_patterns && self.matches(path))
    }

    fn matches(&self, path: &TreePath) -> bool {
        let bytes = path.as_bytes();
        let ends = (0..bytes.len()).filter(|at| bytes[*at] == b'/').chain([bytes.len()]);
        ends.into_iter().any(|end| {
            self.patterns.is_match(Path::new(std::ffi::OsStr::from_bytes(&bytes[..end])))
        })
    }

    /// Whether something named may lie below this directory.
    fn may_hold(&self, section: &SectionName, directory: &TreePath) -> bool {
        self.has_patterns
            || self.components.iter().any(|component| {
                component.section == *section
                    && component.paths.iter().any(|path| path.is_within(directory))
            })
    }
}

fn pattern_error(term: &str, error: &globset::Error) -> Error {
    Error::Pattern { pattern: term.to_owned(), problem: error.kind().to_string() }
}

/// A term as globs of whole paths.
fn globs(term: &str) -> Vec<String> {
    let term = term.trim_start_matches("./").trim_end_matches('/');
    match term.strip_prefix('/') {
        Some(anchored) => vec![anchored.to_owned()],
        None if term.contains('/') => vec![term.to_owned()],
        None => vec![term.to_owned(), format!("**/{term}")],
    }
}

/// What a backup is made of.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only this, if anything is named.
    pub include: Terms,
    /// But not this.
    pub exclude: Terms,
    /// Sections of which there is only one file at the top, whatever else is said.
    pub only: Vec<(SectionName, TreePath)>,
}

impl Filter {
    /// Whether an entry is left out.
    pub fn excludes(&self, section: &SectionName, path: &TreePath, kind: EntryKind) -> bool {
        if path.is_root() {
            return false;
        }
        if let Some((_, file)) = self.only.iter().find(|(name, _)| name == section) {
            return path != file;
        }
        if self.exclude.name(section, path) || super::live::is_scratch(path) {
            return true;
        }
        if self.include.is_empty() || self.include.name(section, path) {
            return false;
        }
        kind != EntryKind::Directory || !self.include.may_hold(section, path)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::tree::sample::path;

    fn component(name: &str, kind: &str, root: &str) -> Component {
        Component {
            name: name.into(),
            kind: kind.into(),
            section: SectionName::data(),
            paths: vec![path(root)],
            bytes: 0,
            config: false,
        }
    }

    fn terms(text: &[&str]) -> Terms {
        let components = [
            component("semantic", "ChromaDB", "memory/semantic"),
            component("libsql", "SQLite", "aico.db"),
        ];
        let text: Vec<_> = text.iter().map(|term| (*term).to_owned()).collect();
        Terms::new(&text, &components).unwrap()
    }

    #[test]
    fn components_by_all_their_names() {
        for name in ["semantic", "chromadb", "Semantic", "memory/semantic"] {
            let terms = terms(&[name]);
            assert!(terms.name(&SectionName::data(), &path("memory/semantic/x/y")), "{name}");
            assert!(!terms.name(&SectionName::data(), &path("memory/semantics")), "{name}");
        }
        for name in ["libsql", "aico", "aico.db", "sqlite"] {
            assert!(terms(&[name]).name(&SectionName::data(), &path("aico.db")), "{name}");
        }
        let config = SectionName::new("config").unwrap();
        assert!(!terms(&["aico"]).name(&config, &path("aico.db")));
    }

    #[test]
    fn patterns_of_names_and_of_paths() {
        let named = |term: &str, at: &str| terms(&[term]).name(&SectionName::data(), &path(at));
        for (term, at) in [
            ("models,cache,temp", "a/cache/b"),
            ("models, cache", "cache"),
            ("*.log", "a/b.log"),
            ("logs/*.log", "logs/b.log"),
            ("/top", "top/x"),
            ("a/**/z", "a/b/c/z"),
            ("a/", "a/b"),
            ("./a/b", "a/b"),
            ("[xy].db", "y.db"),
        ] {
            assert!(named(term, at), "{term} {at}");
        }
        for (term, at) in [
            ("cache", "mycache"),
            ("logs/*.log", "a/logs/b.log"),
            ("/top", "a/top"),
            ("*.log", "a.txt"),
        ] {
            assert!(!named(term, at), "{term} {at}");
        }
        assert!(Terms::new(&["[".into()], &[]).is_err());
        assert!(terms(&[]).is_empty() && terms(&["", ","]).is_empty());
        // Names need not be UTF-8.
        assert!(named("*.log", "ok.log"));
        let odd = path(b"a/\xff.log");
        assert!(terms(&["*.log"]).name(&SectionName::data(), &odd));
    }

    #[test]
    fn inclusion_keeps_the_way_there() {
        let filter =
            Filter { include: terms(&["semantic"]), exclude: terms(&["*.tmp"]), only: Vec::new() };
        let excluded = |at: &str, kind| filter.excludes(&SectionName::data(), &path(at), kind);
        assert!(!excluded("memory", EntryKind::Directory));
        assert!(!excluded("memory/semantic", EntryKind::Directory));
        assert!(!excluded("memory/semantic/x", EntryKind::Regular));
        assert!(excluded("memory/semantic/x.tmp", EntryKind::Regular));
        assert!(excluded("memory/working", EntryKind::Directory));
        assert!(excluded("memory/file", EntryKind::Regular));
        assert!(excluded("aico.db", EntryKind::Regular));
        let all = Filter::default();
        assert!(!all.excludes(&SectionName::data(), &path("x"), EntryKind::Regular));
    }
}
