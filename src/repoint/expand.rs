//! Owns the expansion of `~`, variables, interpolations and percent-encoding in one text, with the
//! way back from the expanded text to the places in the original.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;

/// What a text may refer to.
#[derive(Clone, Debug, Default)]
pub(super) struct Reading {
    /// `~`, `$HOME`, `${HOME}`, `%h`.
    pub(super) home: Option<Vec<u8>>,
    /// `%(here)s`.
    pub(super) here: Option<Vec<u8>>,
    /// `$NAME`, `${NAME}`.
    pub(super) variables: BTreeMap<Vec<u8>, Vec<u8>>,
    /// `%(name)s`, names in lower case.
    pub(super) interpolations: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Whether `%h` is the home directory.
    pub(super) specifiers: bool,
    /// Whether `%41` is `A`.
    pub(super) percent: bool,
}

/// An expanded text.
pub(super) struct Expansion<'a> {
    text: Cow<'a, [u8]>,
    /// The expanded bytes.
    pub(super) bytes: Vec<u8>,
    /// For each expanded byte, where the text goes on after it; `None` inside an expansion.
    ends: Vec<Option<usize>>,
    /// The length in the text and the value of an expansion at its very beginning.
    pub(super) lead: Option<(usize, Vec<u8>)>,
}

impl Expansion<'_> {
    /// The text after the first `length` expanded bytes, as it is spelled; the rest of an
    /// expansion that `length` cuts through comes first, as its value.
    pub(super) fn after(&self, length: usize) -> Vec<u8> {
        let mut at = length;
        let mut result = Vec::new();
        let resume = loop {
            match at.checked_sub(1).map(|last| self.ends.get(last).copied().flatten()) {
                None => break 0,
                Some(Some(end)) => break end,
                Some(None) => {
                    let Some(byte) = self.bytes.get(at) else { break self.text.len() };
                    result.push(*byte);
                    at += 1;
                }
            }
        };
        result.extend_from_slice(self.text.get(resume..).unwrap_or_default());
        result
    }

    /// The same text behind a fixed lead that isn't part of it.
    pub(super) fn behind(mut self, lead: &[u8]) -> Self {
        self.bytes.splice(0..0, lead.iter().copied());
        self.ends.splice(0..0, lead.iter().map(|_| Some(0)));
        self.lead = None;
        self
    }
}

impl Reading {
    /// Expands what is known and leaves the rest as it stands.
    pub(super) fn expand<'a>(&self, text: &'a [u8]) -> Expansion<'a> {
        let mut expansion = Expansion {
            text: Cow::Borrowed(text),
            bytes: Vec::with_capacity(text.len()),
            ends: Vec::with_capacity(text.len()),
            lead: None,
        };
        let mut at = 0;
        while at < text.len() {
            if let Some((length, value)) = self.reference(text, at) {
                if at == 0 {
                    expansion.lead = Some((length, value.clone()));
                }
                at += length;
                let count = value.len();
                expansion.bytes.extend_from_slice(&value);
                expansion.ends.extend((1..=count).map(|index| (index == count).then_some(at)));
            } else {
                let (length, byte) = self.byte(&text[at..]);
                at += length;
                expansion.bytes.push(byte);
                expansion.ends.push(Some(at));
            }
        }
        expansion
    }

    /// One byte, percent-decoded where that is wanted.
    fn byte(&self, text: &[u8]) -> (usize, u8) {
        if self.percent
            && let [b'%', high, low, ..] = text
            && let (Some(high), Some(low)) = (hex(*high), hex(*low))
        {
            return (3, high << 4 | low);
        }
        (1, text[0])
    }

    /// The length and value of a reference at a place.
    fn reference(&self, text: &[u8], at: usize) -> Option<(usize, Vec<u8>)> {
        let rest = &text[at..];
        match rest {
            [b'~'] | [b'~', b'/', ..] if at == 0 => Some((1, self.home.clone()?)),
            [b'%', b'h', ..] if self.specifiers => Some((2, self.home.clone()?)),
            [b'%', b'(', inner @ ..] => {
                let length = inner.iter().position(|byte| *byte == b')')?;
                let name = inner[..length].to_ascii_lowercase();
                if inner.get(length + 1) != Some(&b's') {
                    return None;
                }
                let value = match self.interpolations.get(&name) {
                    Some(value) => value.clone(),
                    None if name == b"here" => self.here.clone()?,
                    None => return None,
                };
                Some((length + 4, value))
            }
            [b'$', b'{', inner @ ..] => {
                let length = closing(inner)?;
                let (name, default) = split_default(&inner[..length]);
                let value = match self.variable(name) {
                    Some(value) => value,
                    None if at == 0 => default?.1.to_vec(),
                    None => return None,
                };
                Some((length + 3, value))
            }
            [b'$', inner @ ..] => {
                let length = name_length(inner);
                Some((length + 1, self.variable(&inner[..length])?))
            }
            _ => None,
        }
    }

    fn variable(&self, name: &[u8]) -> Option<Vec<u8>> {
        match self.variables.get(name) {
            Some(value) => Some(value.clone()),
            None if name == b"HOME" => self.home.clone(),
            None => None,
        }
    }

    /// Where the default stands in a text that begins with `${NAME:-default}`; only for a variable
    /// whose value is not known.
    pub(super) fn default_of(&self, text: &[u8]) -> Option<Range<usize>> {
        let inner = text.strip_prefix(b"${")?;
        let length = closing(inner)?;
        let (name, default) = split_default(&inner[..length]);
        if self.variable(name).is_some() {
            return None;
        }
        let (start, default) = default?;
        Some(start + 2..start + 2 + default.len())
    }
}

/// The name in `NAME`, `NAME:-default` or `NAME-default`, and the default with its place.
fn split_default(inner: &[u8]) -> (&[u8], Option<(usize, &[u8])>) {
    let length = name_length(inner);
    let (name, rest) = inner.split_at(length);
    let mark = match rest {
        [b':', b'-', ..] => 2,
        [b'-', ..] => 1,
        _ => return (if rest.is_empty() { name } else { b"" }, None),
    };
    (name, Some((length + mark, &rest[mark..])))
}

/// Where the brace that closes `${` is.
fn closing(inner: &[u8]) -> Option<usize> {
    let mut depth = 0_usize;
    for (at, byte) in inner.iter().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' if depth == 0 => return Some(at),
            b'}' => depth -= 1,
            _ => {}
        }
    }
    None
}

fn name_length(text: &[u8]) -> usize {
    if text.first().is_some_and(u8::is_ascii_digit) {
        return 0;
    }
    text.iter().take_while(|byte| byte.is_ascii_alphanumeric() || **byte == b'_').count()
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}
