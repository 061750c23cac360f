//! Owns the question whether a value names the old path, in which spelling, and how the new path
//! is spelled in its place. It knows nothing of files or their formats: values are decoded bytes.
//!
//! Paths are compared component by component after lexical normalisation, so a sibling with a
//! common prefix (`/data/app2` for `/data/app`) never matches. What follows the old path in a
//! value is kept as it is spelled.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::expand::Reading;
use super::lexis::{
    assignment, is_pathish, needs_encoding, path_length, percent_encode, scheme_end, split,
    top_level,
};
use super::{Context, MentionReason, Relocation};

/// How a value is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    /// A path, a URL or a list of such.
    Plain,
    /// `SOURCE:TARGET[:MODE]`, of which only the source is a path of this machine; a value without
    /// a colon is a target.
    Volume,
    /// A path inside a container.
    Container,
}

/// What is to be done with a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It has nothing to do with the old path.
    Unrelated,
    /// It becomes this.
    Rewrite(Vec<u8>),
    /// It names the old path, but stays.
    Mention(MentionReason),
    /// It should be rewritten, but the new path can't be spelled there.
    Impossible(&'static str),
}

/// Why a rewrite is impossible.
type Refusal = &'static str;

/// Finds spellings of one relocation in values.
#[derive(Clone, Debug)]
pub(super) struct Matcher {
    /// The old path's names as components, none empty.
    old: Vec<Vec<Vec<u8>>>,
    /// The new path, absolute and without a trailing slash.
    new: Vec<u8>,
    /// What relative values are resolved against.
    bases: Vec<Vec<u8>>,
    reading: Reading,
}

fn bytes(path: &Path) -> Vec<u8> {
    path.as_os_str().as_bytes().to_vec()
}

/// The components of an absolute path after lexical normalisation; `None` for a relative one.
fn components(path: &[u8]) -> Option<Vec<Vec<u8>>> {
    if path.first() != Some(&b'/') {
        return None;
    }
    let mut stack: Vec<Vec<u8>> = Vec::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                stack.pop();
            }
            name => stack.push(name.to_vec()),
        }
    }
    Some(stack)
}

fn join(components: &[Vec<u8>]) -> Vec<u8> {
    components
        .iter()
        .flat_map(|part| [b"/".as_slice(), part.as_slice()])
        .flatten()
        .copied()
        .collect()
}

/// URL schemes whose three-slash form is relative and whose four-slash form is absolute, the way
/// SQLAlchemy reads them. The part before a `+` counts.
const RELATIVE_SCHEMES: [&[u8]; 4] = [b"sqlite", b"sqlite3", b"duckdb", b"libsql"];

impl Matcher {
    pub(super) fn new(relocation: &Relocation, context: &Context) -> Self {
        let old: Vec<_> = relocation
            .old
            .iter()
            .filter_map(|path| components(&bytes(path)))
            .filter(|parts| !parts.is_empty())
            .collect();
        let new = components(&bytes(&relocation.new)).unwrap_or_default();
        // What is relative to a directory that moves along stays valid as it is.
        let bases = [&context.directory, &context.working_directory]
            .into_iter()
            .flatten()
            .filter_map(|base| components(&bytes(base)))
            .filter(|base| !old.iter().any(|old| base.starts_with(old)))
            .map(|base| join(&base))
            .collect();
        let variables = context
            .variables
            .iter()
            .map(|(name, value)| (name.clone().into_bytes(), value.clone().into_bytes()))
            .collect();
        Self {
            old,
            new: join(&new),
            bases,
            reading: Reading {
                home: context.home.as_deref().map(bytes),
                here: context.directory.as_deref().map(bytes),
                variables,
                interpolations: BTreeMap::new(),
                specifiers: false,
                percent: false,
            },
        }
    }

    /// The same matcher, reading systemd's specifiers.
    pub(super) fn with_specifiers(mut self) -> Self {
        self.reading.specifiers = true;
        self
    }

    /// Tells a variable's value for what follows.
    pub(super) fn define(&mut self, name: &[u8], value: &[u8]) {
        let value = self.reading.expand(value).bytes;
        self.reading.variables.insert(name.to_vec(), value);
    }

    /// Tells the values that `%(name)s` stands for from here on.
    pub(super) fn interpolate(&mut self, values: BTreeMap<Vec<u8>, Vec<u8>>) {
        self.reading.interpolations = values;
    }

    /// What is to be done with a value.
    pub(super) fn judge(&self, value: &[u8], manner: Manner) -> Verdict {
        if value.is_empty() || value.iter().any(|byte| matches!(byte, 0 | b'\n' | b'\r')) {
            return self.mention(value);
        }
        let outcome = match manner {
            Manner::Plain => self.value(value),
            Manner::Volume => self.volume(value),
            Manner::Container => {
                return match self.mention(value) {
                    Verdict::Mention(_) => Verdict::Mention(MentionReason::InsideContainer),
                    other => other,
                };
            }
        };
        match outcome {
            Ok(Some(new)) if new != value => Verdict::Rewrite(new),
            Ok(Some(_)) => Verdict::Unrelated,
            Ok(None) if manner == Manner::Volume => self.judge(value, Manner::Container),
            Ok(None) if self.is_relative_name(value) => {
                Verdict::Mention(MentionReason::RelativeName)
            }
            Ok(None) => self.mention(value),
            Err(reason) => Verdict::Impossible(reason),
        }
    }

    /// Whether the old path stands in a text, absolute or after `~`, delimited like a path.
    pub(super) fn mention(&self, text: &[u8]) -> Verdict {
        let mut spellings: Vec<Vec<u8>> = self.old.iter().map(|old| join(old)).collect();
        if let Some(home) = self.reading.home.as_deref().and_then(components) {
            for old in &self.old {
                if !home.is_empty() && old.len() > home.len() && old.starts_with(&home) {
                    let rest = join(&old[home.len()..]);
                    for lead in [b"~".as_slice(), b"$HOME", b"${HOME}"] {
                        spellings.push([lead, &rest].concat());
                    }
                }
            }
        }
        let in_name = |byte: &u8| byte.is_ascii_alphanumeric() || b"_-.".contains(byte);
        let found = spellings.iter().any(|spelling| {
            text.windows(spelling.len()).enumerate().any(|(start, window)| {
                let end = start + spelling.len();
                // "/data/app." may end a sentence; "/data/app.old" is a sibling.
                let next = match &text[end..] {
                    [b'.', next @ ..] => next.first(),
                    rest => rest.first(),
                };
                window == spelling
                    && !(start > 0 && in_name(&text[start - 1]))
                    && !next.is_some_and(in_name)
            })
        });
        if found { Verdict::Mention(MentionReason::InsideText) } else { Verdict::Unrelated }
    }

    /// A single name that would be the old path, or something in it, relative to a base.
    fn is_relative_name(&self, value: &[u8]) -> bool {
        let plain = |byte: &u8| !byte.is_ascii_whitespace() && !b"/:=${}~%".contains(byte);
        value.iter().all(plain)
            && self.bases.iter().any(|base| {
                components(&[base, b"/".as_slice(), value].concat())
                    .is_some_and(|path| self.old.contains(&path))
            })
    }

    /// A whole value: an assignment, a list, a URL or a path.
    fn value(&self, value: &[u8]) -> Result<Option<Vec<u8>>, Refusal> {
        if let Some(start) = assignment(value) {
            let new = self.list(&value[start..])?;
            return Ok(new.map(|new| [&value[..start], &new].concat()));
        }
        self.list(value)
    }

    /// A list of paths and URLs, mostly of one.
    fn list(&self, value: &[u8]) -> Result<Option<Vec<u8>>, Refusal> {
        let pieces = split(value);
        let mut result = Vec::with_capacity(value.len() + self.new.len());
        let mut changed = false;
        let mut left_over = false;
        for (index, (separator, piece)) in pieces.iter().enumerate() {
            // Words after a text that is no path ("see /data/app") are prose, not a list.
            if index > 0 && !is_pathish(pieces[0].1) {
                return Ok(None);
            }
            result.extend_from_slice(separator);
            let new = match assignment(piece).filter(|_| index > 0) {
                Some(start) => {
                    self.single(&piece[start..])?.map(|new| [&piece[..start], &new].concat())
                }
                None => self.single(piece)?,
            };
            match new {
                Some(new) => {
                    changed = true;
                    result.extend_from_slice(&new);
                }
                None => {
                    left_over |= self.mention(piece) != Verdict::Unrelated;
                    result.extend_from_slice(piece);
                }
            }
        }
        // Half a value is worse than none: the app would use both places.
        Ok((changed && !left_over).then_some(result))
    }

    /// One path or URL.
    fn single(&self, value: &[u8]) -> Result<Option<Vec<u8>>, Refusal> {
        match scheme_end(value) {
            Some(end) if value[end..].starts_with(b"//") => self.url(value, end + 2),
            Some(end) => {
                let stop = end + path_length(&value[end..]);
                let new = self.path(&value[end..stop], value.starts_with(b"file:"))?;
                Ok(new.map(|new| [&value[..end], &new, &value[stop..]].concat()))
            }
            None => Ok(self.spelled(value, false).or_else(|| self.relative(value, false))),
        }
    }

    /// `scheme://…`, whose part after the `//` begins at `start`.
    fn url(&self, value: &[u8], start: usize) -> Result<Option<Vec<u8>>, Refusal> {
        let scheme = value[..start - 3].to_ascii_lowercase();
        let is_file = scheme == b"file";
        let base = scheme.rsplit(|byte| *byte == b':').next().unwrap_or_default();
        let family = base.split(|byte| *byte == b'+').next().unwrap_or_default();
        let start = match value[start..].strip_prefix(b"localhost/") {
            Some(_) if is_file => start + b"localhost".len(),
            _ => start,
        };
        let stop = start + path_length(&value[start..]);
        let path = &value[start..stop];
        let put = |from: usize, new: Vec<u8>| [&value[..from], &new, &value[stop..]].concat();
        match path.first() {
            Some(b'/') => {}
            // Two slashes and a spelled or relative path, as some drivers take them.
            Some(b'~' | b'$' | b'.') => {
                return Ok(self.path(path, is_file)?.map(|new| put(start, new)));
            }
            _ => return Ok(None),
        }
        let inner = &path[1..];
        match inner.first() {
            // Four slashes, or a spelling of an absolute path after the third.
            Some(b'/' | b'~' | b'$' | b'%') => {
                if let Some(new) = self.path(inner, is_file)? {
                    return Ok(Some(put(start + 1, new)));
                }
            }
            Some(_) if RELATIVE_SCHEMES.contains(&family) => {
                if let Some(new) = self.checked(self.relative(inner, false), is_file)? {
                    return Ok(Some(put(start + 1, new)));
                }
            }
            _ => {}
        }
        Ok(self.path(path, is_file)?.map(|new| put(start, new)))
    }

    /// A path in a URL. Raw spellings come first; where only the percent-decoded one matches, or
    /// the scheme is one that decodes, the new path is encoded.
    fn path(&self, path: &[u8], is_file: bool) -> Result<Option<Vec<u8>>, Refusal> {
        let encoded = is_file && path.iter().all(|byte| !needs_encoding(*byte) || *byte == b'%');
        let raw = self.spelled(path, encoded).or_else(|| self.relative(path, encoded));
        if raw.is_some() {
            return self.checked(raw, encoded);
        }
        if !path.contains(&b'%') {
            return Ok(None);
        }
        let mut decoding = self.clone();
        decoding.reading.percent = true;
        Ok(decoding.spelled(path, true).or_else(|| decoding.relative(path, true)))
    }

    /// Refuses what would end the path early, or be decoded, in a URL that isn't encoded.
    fn checked(&self, new: Option<Vec<u8>>, encoded: bool) -> Result<Option<Vec<u8>>, Refusal> {
        if new.is_some() && !encoded && self.new.iter().any(|byte| b"?#%".contains(byte)) {
            return Err("the new path has a ?, # or %, which means something else in this URL");
        }
        Ok(new)
    }

    /// `SOURCE:TARGET[:MODE]`.
    fn volume(&self, value: &[u8]) -> Result<Option<Vec<u8>>, Refusal> {
        let Some(colon) = top_level(value).find(|(_, byte)| *byte == b':').map(|(at, _)| at) else {
            return Ok(None);
        };
        if self.new.contains(&b':') {
            return Err("the new path has a colon, which separates the parts of a volume");
        }
        let new = self.single(&value[..colon])?;
        Ok(new.map(|new| [&new, &value[colon..]].concat()))
    }

    /// An absolute path in any spelling, or `None` where it isn't the old path or under it.
    fn spelled(&self, text: &[u8], encode: bool) -> Option<Vec<u8>> {
        if let Some(default) = self.reading.default_of(text) {
            let inner = &text[default.clone()];
            if let Some(new) = self.spelled(inner, encode).or_else(|| self.relative(inner, encode))
            {
                return Some([&text[..default.start], &new, &text[default.end..]].concat());
            }
        }
        let expansion = self.reading.expand(text);
        let prefix = self.prefix(&expansion.bytes)?;
        let mut result = self.new_after(expansion.lead.as_ref(), text, encode);
        result.extend_from_slice(&expansion.after(prefix));
        Some(result)
    }

    /// The new path's text, keeping a leading `~` or variable where the new path is under it too.
    fn new_after(&self, lead: Option<&(usize, Vec<u8>)>, text: &[u8], encode: bool) -> Vec<u8> {
        let coded = |path: &[u8]| if encode { percent_encode(path) } else { path.to_vec() };
        if let Some((length, value)) = lead
            && let (Some(value), Some(new)) = (components(value), components(&self.new))
            && !value.is_empty()
            && new.starts_with(&value)
        {
            return [&text[..*length], &coded(&join(&new[value.len()..]))].concat();
        }
        coded(&self.new)
    }

    /// A relative path with a `/` in it.
    fn relative(&self, text: &[u8], encode: bool) -> Option<Vec<u8>> {
        if !text.contains(&b'/') || matches!(text.first(), Some(b'/' | b'~' | b'$' | b'%')) {
            return None;
        }
        self.bases.iter().find_map(|base| {
            let lead = [base.as_slice(), b"/"].concat();
            let expansion = self.reading.expand(text).behind(&lead);
            let prefix = self.prefix(&expansion.bytes)?;
            let new = self.new_after(None, text, encode);
            Some([new, expansion.after(prefix)].concat())
        })
    }

    /// Where the old path ends in an absolute path that is it or lies under it.
    fn prefix(&self, path: &[u8]) -> Option<usize> {
        if path.first() != Some(&b'/') {
            return None;
        }
        self.old.iter().find_map(|old| {
            let mut stack: Vec<&[u8]> = Vec::new();
            let mut found = None;
            let mut start = 0;
            for part in path.split(|byte| *byte == b'/') {
                let end = start + part.len();
                match part {
                    b"" | b"." => {}
                    b".." => {
                        stack.pop();
                    }
                    name => stack.push(name),
                }
                let under = stack.len() >= old.len() && stack.iter().zip(old).all(|(a, b)| a == b);
                match found {
                    Some(_) if under => {}
                    None if under && stack.len() == old.len() => found = Some(end),
                    _ => found = None,
                }
                start = end + 1;
            }
            found
        })
    }
}

#[cfg(test)]
#[path = "spelling_tests.rs"]
mod tests;
