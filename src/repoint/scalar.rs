//! Owns what the formats have in common: a text's scalars with their places, and keys. It knows
//! neither paths nor edits.

use std::fmt;
use std::ops::Range;

use super::{Error, Format, env, ini, json, toml, yaml};

/// One part of a key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Part {
    /// A name in a mapping, a table, a section.
    Name(String),
    /// A place in a list, or among values of the same name, counted from 0.
    Index(usize),
}

/// Where a value stands in the structure of a text.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key(pub(super) Vec<Part>);

impl Key {
    /// This key and a name below it.
    pub(super) fn name(&self, name: impl Into<String>) -> Self {
        self.with(Part::Name(name.into()))
    }

    /// This key and an index below it.
    pub(super) fn index(&self, index: usize) -> Self {
        self.with(Part::Index(index))
    }

    fn with(&self, part: Part) -> Self {
        let mut parts = self.0.clone();
        parts.push(part);
        Self(parts)
    }

    /// Its parts as names, `None` for an index.
    pub(super) fn names(&self) -> Vec<Option<&str>> {
        self.0
            .iter()
            .map(|part| match part {
                Part::Name(name) => Some(name.as_str()),
                Part::Index(_) => None,
            })
            .collect()
    }

    /// The names joined by dots without quotes, as people write keys that hold dots themselves.
    pub(super) fn loose(&self) -> String {
        let mut text = String::new();
        for part in &self.0 {
            match part {
                Part::Name(name) if text.is_empty() => text.push_str(name),
                Part::Name(name) => {
                    text.push('.');
                    text.push_str(name);
                }
                Part::Index(index) => text.push_str(&format!("[{index}]")),
            }
        }
        text
    }

    /// Reads `backup.output_dir`, `volumes[0]`, `tool."odd name".x`; `list.0` is `list[0]` as well.
    pub(super) fn parse(text: &str) -> Result<Self, Error> {
        let bad = |reason| Error::BadKey { key: text.to_owned(), reason };
        let mut parts = Vec::new();
        let mut rest = text;
        loop {
            if let Some(quoted) = rest.strip_prefix('"') {
                let (name, after) = unquote(quoted).ok_or_else(|| bad("a quote is not closed"))?;
                parts.push(Part::Name(name));
                rest = after;
            } else {
                let end = rest.find(['.', '[', '"']).unwrap_or(rest.len());
                let (name, after) = rest.split_at(end);
                if name.is_empty() && !after.starts_with('[') {
                    return Err(bad("a name is empty"));
                }
                if !name.is_empty() {
                    parts.push(Part::Name(name.to_owned()));
                }
                rest = after;
            }
            while let Some(inner) = rest.strip_prefix('[') {
                let (index, after) = inner.split_once(']').ok_or_else(|| bad("a [ has no ]"))?;
                let index = index.parse().map_err(|_| bad("an index is not a number"))?;
                parts.push(Part::Index(index));
                rest = after;
            }
            match rest.strip_prefix('.') {
                Some(after) => rest = after,
                None if rest.is_empty() => return Ok(Self(parts)),
                None => return Err(bad("a dot is missing")),
            }
        }
    }

    /// Whether another key means this place: equal, or with `.0` for `[0]`.
    pub(super) fn is_meant_by(&self, other: &Self) -> bool {
        self.0.len() == other.0.len()
            && self.0.iter().zip(&other.0).all(|(own, given)| match (own, given) {
                (Part::Index(index), Part::Name(name)) => *name == index.to_string(),
                _ => own == given,
            })
    }
}

/// The text up to the closing quote, and what follows it.
fn unquote(text: &str) -> Option<(String, &str)> {
    let mut name = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((name, &text[at + 1..])),
            '\\' => name.push(characters.next()?.1),
            other => name.push(other),
        }
    }
    None
}

impl fmt::Display for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, part) in self.0.iter().enumerate() {
            match part {
                Part::Index(index) => write!(formatter, "[{index}]")?,
                Part::Name(name) => {
                    if place > 0 {
                        formatter.write_str(".")?;
                    }
                    let plain =
                        |c: char| !c.is_control() && !c.is_whitespace() && !".[]\"\\:=".contains(c);
                    if !name.is_empty() && name.chars().all(plain) {
                        formatter.write_str(name)?;
                    } else {
                        write!(
                            formatter,
                            "\"{}\"",
                            name.replace('\\', "\\\\").replace('"', "\\\"")
                        )?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// How a scalar is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    /// Without quotes. In formats whose strings have quotes: a number, a boolean, null, a date.
    Bare,
    /// A string in quotes; the token tells which.
    Quoted,
    /// The only line of a YAML block scalar.
    Block,
    /// In a way that can't be edited here: its token is not known, or its syntax is unusual.
    Fixed,
}

/// What a scalar is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// A value.
    Value,
    /// The source and target of a volume.
    Volume,
    /// A value that is read inside a container.
    Container,
    /// A name of a mapping.
    Name,
}

/// One scalar of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Scalar {
    /// Its token in the text, quotes included.
    pub(super) range: Range<usize>,
    /// What it means.
    pub(super) value: Vec<u8>,
    /// Where it stands. A name's key is its own.
    pub(super) key: Key,
    /// How it is written.
    pub(super) style: Style,
    /// What it is for.
    pub(super) role: Role,
    /// Whether it stands between brackets, where commas and braces have a meaning.
    pub(super) flow: bool,
}

/// A text taken apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Scalars {
    /// The scalars in the order of the text.
    pub(super) list: Vec<Scalar>,
    /// Everything else that the parser saw, to compare before and after an edit.
    pub(super) shape: Vec<String>,
    /// Whether the text follows systemd's syntax, with `%h` for the home directory.
    pub(super) systemd: bool,
}

/// The byte order mark that a text may begin with.
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// Takes a text apart.
pub(super) fn scan(format: Format, bytes: &[u8]) -> Result<Scalars, Error> {
    let skip = if bytes.starts_with(BYTE_ORDER_MARK) { BYTE_ORDER_MARK.len() } else { 0 };
    let text = &bytes[skip..];
    let as_text = || {
        std::str::from_utf8(text).map_err(|error| Error::Syntax {
            format,
            message: format!("not UTF-8 at byte {}", skip + error.valid_up_to()),
        })
    };
    let mut scalars = match format {
        Format::Yaml => yaml::scan(as_text()?),
        Format::Toml => toml::scan(as_text()?),
        Format::Json => json::scan(as_text()?),
        Format::Ini => Ok(ini::scan(text)),
        Format::Env => Ok(env::scan(text)),
    }
    .map_err(|message| Error::Syntax { format, message })?;
    for scalar in &mut scalars.list {
        scalar.range.start += skip;
        scalar.range.end += skip;
    }
    Ok(scalars)
}

/// Writes a value in the place of a scalar, in its style where that can hold it.
pub(super) fn encode(
    format: Format,
    token: &[u8],
    scalar: &Scalar,
    value: &[u8],
) -> Result<Vec<u8>, &'static str> {
    if scalar.style == Style::Fixed {
        return Err("it is written in a way that can't be edited safely");
    }
    if value.contains(&0) {
        return Err("the value has a NUL byte");
    }
    let text = || std::str::from_utf8(value).map_err(|_| "the value is not UTF-8");
    match format {
        Format::Yaml => yaml::encode(token, scalar, text()?).map(String::into_bytes),
        Format::Toml => toml::encode(token, text()?).map(String::into_bytes),
        Format::Json => json::encode(token, text()?).map(String::into_bytes),
        Format::Ini => ini::encode(token, scalar, value),
        Format::Env => env::encode(token, scalar, value),
    }
}
