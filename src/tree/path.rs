//! Paths inside a tree: bytes, relative, and checked once.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use serde::{Deserialize, Serialize, Serializer};

use super::bytes::{self, ByteString};

/// Longest single component in bytes (`NAME_MAX` of every Linux filesystem worth the name).
pub const NAME_MAX: usize = 255;
/// Longest path in bytes. Trees may be deeper than `PATH_MAX`; this bounds what hostile input
/// can ask for.
pub const PATH_LIMIT: usize = 1 << 20;

/// Why bytes are not a [`TreePath`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// It begins with a slash.
    #[error("it is absolute")]
    Absolute,
    /// A component is `..`.
    #[error("it has a \"..\" component")]
    ParentComponent,
    /// A component is `.`.
    #[error("it has a \".\" component")]
    DotComponent,
    /// Two slashes in a row, or one at the end.
    #[error("it has an empty component")]
    EmptyComponent,
    /// It holds a NUL.
    #[error("it holds a NUL byte")]
    Nul,
    /// A component exceeds [`NAME_MAX`].
    #[error("it has a component of more than 255 bytes")]
    ComponentTooLong,
    /// It exceeds [`PATH_LIMIT`].
    #[error("it is longer than a mebibyte")]
    TooLong,
}

/// A path relative to a tree's root: bytes, components separated by single slashes, none of them
/// empty, `.` or `..`, no NUL. The root itself is the empty path.
///
/// Ordered as a walk goes: a directory before what it holds, siblings by the bytes of their
/// names. (That is not the order of the whole paths' bytes: `a/b` comes before `a-b`.)
#[derive(Clone, PartialEq, Eq, Hash, Default, Deserialize)]
#[serde(try_from = "ByteString")]
pub struct TreePath(Box<[u8]>);

impl TreePath {
    /// The root.
    pub fn root() -> Self {
        Self::default()
    }

    /// Checks `bytes`; empty bytes are the root.
    ///
    /// # Errors
    /// [`PathError`] says what is wrong with them.
    pub fn new(bytes: impl Into<Box<[u8]>>) -> Result<Self, PathError> {
        let bytes = bytes.into();
        if bytes.is_empty() {
            return Ok(Self(bytes));
        }
        if bytes.len() > PATH_LIMIT {
            return Err(PathError::TooLong);
        }
        if bytes[0] == b'/' {
            return Err(PathError::Absolute);
        }
        for component in bytes.split(|byte| *byte == b'/') {
            check_component(component)?;
        }
        Ok(Self(bytes))
    }

    /// The entry `name` of the directory that `self` names.
    ///
    /// # Errors
    /// [`PathError`] when `name` is not one component, or the whole becomes too long.
    pub fn join(&self, name: &[u8]) -> Result<Self, PathError> {
        if name.contains(&b'/') {
            return Err(PathError::EmptyComponent);
        }
        check_component(name)?;
        if self.is_root() {
            return Ok(Self(name.into()));
        }
        let length = self.0.len() + 1 + name.len();
        if length > PATH_LIMIT {
            return Err(PathError::TooLong);
        }
        let mut bytes = Vec::with_capacity(length);
        bytes.extend_from_slice(&self.0);
        bytes.push(b'/');
        bytes.extend_from_slice(name);
        Ok(Self(bytes.into()))
    }

    /// `other` below `self`.
    ///
    /// # Errors
    /// [`PathError::TooLong`].
    pub fn join_path(&self, other: &TreePath) -> Result<Self, PathError> {
        if self.is_root() {
            return Ok(other.clone());
        }
        if other.is_root() {
            return Ok(self.clone());
        }
        Self::new([&*self.0, b"/", &*other.0].concat())
    }

    /// Whether this is the root.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The directory that holds it; `None` for the root.
    pub fn parent(&self) -> Option<Self> {
        self.split().map(|(parent, _)| Self(parent.into()))
    }

    /// The last component; `None` for the root.
    pub fn name(&self) -> Option<&[u8]> {
        self.split().map(|(_, name)| name)
    }

    /// The parent's bytes and the last component.
    pub(crate) fn split(&self) -> Option<(&[u8], &[u8])> {
        if self.is_root() {
            return None;
        }
        Some(match self.0.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => (&self.0[..slash], &self.0[slash + 1..]),
            None => (&[], &self.0),
        })
    }

    /// The components, outermost first; none for the root.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.0.split(|byte| *byte == b'/').filter(|component| !component.is_empty())
    }

    /// How many components.
    pub fn depth(&self) -> usize {
        self.components().count()
    }

    /// Whether `self` is `other` or lies below it.
    pub fn is_within(&self, other: &TreePath) -> bool {
        other.is_root()
            || (self.0.starts_with(&other.0)
                && (self.0.len() == other.0.len() || self.0[other.0.len()] == b'/'))
    }

    /// The bytes; empty for the root.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// As a relative path of the operating system; `.` for the root.
    pub fn as_path(&self) -> &Path {
        if self.is_root() { Path::new(".") } else { Path::new(OsStr::from_bytes(&self.0)) }
    }

    /// For people: lossy, control characters escaped, `.` for the root.
    pub fn display(&self) -> impl fmt::Display + '_ {
        PathText(&self.0)
    }
}

fn check_component(component: &[u8]) -> Result<(), PathError> {
    match component {
        b"" => Err(PathError::EmptyComponent),
        b"." => Err(PathError::DotComponent),
        b".." => Err(PathError::ParentComponent),
        _ if component.len() > NAME_MAX => Err(PathError::ComponentTooLong),
        _ if component.contains(&0) => Err(PathError::Nul),
        _ => Ok(()),
    }
}

impl Ord for TreePath {
    fn cmp(&self, other: &Self) -> Ordering {
        // A slash ends a component, so it sorts before every byte that could continue one.
        let key = |byte: &u8| if *byte == b'/' { 0 } else { *byte };
        self.0.iter().map(key).cmp(other.0.iter().map(key))
    }
}

impl PartialOrd for TreePath {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Debug for TreePath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "\"{}\"", PathText(&self.0))
    }
}

impl fmt::Display for TreePath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        PathText(&self.0).fmt(formatter)
    }
}

impl TryFrom<ByteString> for TreePath {
    type Error = PathError;

    fn try_from(bytes: ByteString) -> Result<Self, PathError> {
        Self::new(bytes.0)
    }
}

impl Serialize for TreePath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        bytes::serialize(&self.0, serializer)
    }
}

/// Bytes as text for a terminal or a log: a file name must not be able to move the cursor.
pub(crate) struct PathText<'a>(pub(crate) &'a [u8]);

impl fmt::Display for PathText<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return formatter.write_str(".");
        }
        let text: Cow<'_, str> = String::from_utf8_lossy(self.0);
        for character in text.chars() {
            if character.is_control() {
                write!(formatter, "{}", character.escape_default())?;
            } else {
                write!(formatter, "{character}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn path(text: &str) -> TreePath {
        TreePath::new(text.as_bytes()).unwrap()
    }

    #[test]
    fn hostile_paths_are_refused() {
        for (bytes, error) in [
            (&b"/etc/passwd"[..], PathError::Absolute),
            (b"..", PathError::ParentComponent),
            (b"a/../b", PathError::ParentComponent),
            (b"a/..", PathError::ParentComponent),
            (b"./a", PathError::DotComponent),
            (b"a//b", PathError::EmptyComponent),
            (b"a/", PathError::EmptyComponent),
            (b"a\0b", PathError::Nul),
            (&[b'x'; 256], PathError::ComponentTooLong),
        ] {
            assert_eq!(TreePath::new(bytes), Err(error), "{bytes:?}");
        }
        for name in [&b""[..], b".", b"..", b"a/b", b"/", b"\0"] {
            assert!(path("d").join(name).is_err(), "{name:?}");
        }
        assert!(TreePath::new(&b"a/...\xff\n/ "[..]).is_ok());
    }

    #[test]
    fn parts() {
        let long = path("a/b/c");
        assert_eq!(long.parent(), Some(path("a/b")));
        assert_eq!(long.name(), Some(&b"c"[..]));
        assert_eq!(path("a").parent(), Some(TreePath::root()));
        assert_eq!(TreePath::root().parent(), None);
        assert_eq!(long.depth(), 3);
        assert_eq!(TreePath::root().depth(), 0);
        assert!(long.is_within(&path("a/b")) && long.is_within(&TreePath::root()));
        assert!(!path("a/bc").is_within(&path("a/b")));
        assert_eq!(path("a").join_path(&path("b/c")).unwrap(), long);
    }

    #[test]
    fn text_shows_no_control_characters() {
        assert_eq!(TreePath::new(&b"a\x1b[2J\n"[..]).unwrap().to_string(), "a\\u{1b}[2J\\n");
    }

    proptest! {
        #[test]
        fn order_is_that_of_components(
            left in proptest::collection::vec("[-a/]{0,5}", 0..4),
            right in proptest::collection::vec("[-a/]{0,5}", 0..4),
        ) {
            let make = |parts: &[String]| {
                let parts: Vec<_> =
                    parts.iter().flat_map(|part| part.split('/')).filter(|p| !p.is_empty()).collect();
                TreePath::new(parts.join("/").into_bytes()).unwrap()
            };
            let (left, right) = (make(&left), make(&right));
            prop_assert_eq!(left.cmp(&right), left.components().cmp(right.components()));
        }

        #[test]
        fn serialised_and_back(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(path) = TreePath::new(bytes) {
                let json = serde_json::to_string(&path).unwrap();
                prop_assert_eq!(serde_json::from_str::<TreePath>(&json).unwrap(), path);
            }
        }
    }
}
