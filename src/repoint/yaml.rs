//! Owns YAML: where the scalars are, and how one is written.

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle, Span};

use super::compose;
use super::scalar::{Key, Role, Scalar, Scalars, Style};

/// What encloses a node.
enum Frame {
    /// A mapping, and the name whose value comes next.
    Mapping { key: Key, name: Option<String>, flow: bool },
    /// A list, and how many elements it has so far.
    Sequence { key: Key, length: usize, flow: bool },
}

/// Anchors and what refers to them.
#[derive(Default)]
pub(super) struct Anchors {
    /// Where each anchored node stands.
    pub(super) places: HashMap<usize, Key>,
    /// Where aliases stand.
    pub(super) aliases: Vec<(Key, usize)>,
}

/// Takes a text apart. Scalars of a second and further document have keys that begin with the
/// document's index.
pub(super) fn scan(text: &str) -> Result<Scalars, String> {
    let offsets = Offsets::new(text);
    let mut scalars = Scalars::default();
    let mut anchors = Anchors::default();
    let mut frames: Vec<Frame> = Vec::new();
    let mut documents = 0_usize;
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| error.to_string())?;
        if !matches!(event, Event::Scalar(..)) {
            scalars.shape.push(format!("{event:?}"));
        }
        match event {
            Event::DocumentStart(_) => documents += 1,
            Event::Scalar(value, style, anchor, tag) => {
                scalars.shape.push(format!("{anchor} {tag:?}"));
                let (key, role) = place(&mut frames, documents, Some(&value));
                if anchor > 0 {
                    anchors.places.insert(anchor, key.clone());
                }
                let flow = frames.last().is_some_and(Frame::flow);
                let (range, style) = offsets.token(span, &value, style);
                // A block's line break belongs to the block, not to its line.
                let value = match style {
                    Style::Block => value.trim_end_matches('\n').as_bytes().to_vec(),
                    _ => value.into_owned().into_bytes(),
                };
                scalars.list.push(Scalar { range, value, key, style, role, flow });
            }
            Event::Alias(anchor) => {
                let (key, _) = place(&mut frames, documents, None);
                anchors.aliases.push((key, anchor));
            }
            Event::SequenceStart(anchor, _) | Event::MappingStart(anchor, _) => {
                let (key, _) = place(&mut frames, documents, None);
                if anchor > 0 {
                    anchors.places.insert(anchor, key.clone());
                }
                let flow = frames.last().is_some_and(Frame::flow)
                    || matches!(offsets.byte(span), Some(b'[' | b'{'));
                frames.push(match event {
                    Event::SequenceStart(..) => Frame::Sequence { key, length: 0, flow },
                    _ => Frame::Mapping { key, name: None, flow },
                });
            }
            Event::SequenceEnd | Event::MappingEnd => {
                frames.pop();
            }
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
        }
    }
    compose::assign_roles(&mut scalars.list, &anchors);
    Ok(scalars)
}

impl Frame {
    fn flow(&self) -> bool {
        match self {
            Self::Mapping { flow, .. } | Self::Sequence { flow, .. } => *flow,
        }
    }
}

/// The key of a node that begins here, and whether it is a name. `scalar` is its value if it is
/// one.
fn place(frames: &mut [Frame], documents: usize, scalar: Option<&str>) -> (Key, Role) {
    match frames.last_mut() {
        None if documents > 1 => (Key::default().index(documents - 1), Role::Value),
        None => (Key::default(), Role::Value),
        Some(Frame::Sequence { key, length, .. }) => {
            *length += 1;
            (key.index(*length - 1), Role::Value)
        }
        Some(Frame::Mapping { key, name, .. }) => match name.take() {
            Some(name) => (key.name(name), Role::Value),
            None => {
                let own = scalar.unwrap_or("?").to_owned();
                *name = Some(own.clone());
                (key.name(own), Role::Name)
            }
        },
    }
}

/// Byte offsets of the parser's places, which count characters.
struct Offsets<'a> {
    text: &'a str,
    /// Empty for ASCII, where both are the same.
    bytes: Vec<usize>,
}

impl<'a> Offsets<'a> {
    fn new(text: &'a str) -> Self {
        let bytes = if text.is_ascii() {
            Vec::new()
        } else {
            text.char_indices().map(|(at, _)| at).collect()
        };
        Self { text, bytes }
    }

    fn offset(&self, index: usize) -> usize {
        if self.bytes.is_empty() {
            index.min(self.text.len())
        } else {
            self.bytes.get(index).copied().unwrap_or(self.text.len())
        }
    }

    fn byte(&self, span: Span) -> Option<u8> {
        self.text.as_bytes().get(self.offset(span.start.index())).copied()
    }

    /// A scalar's token without its anchor and tag. The style is `Fixed` where the token is not
    /// plainly what the parser says.
    fn token(
        &self,
        span: Span,
        value: &str,
        style: ScalarStyle,
    ) -> (std::ops::Range<usize>, Style) {
        let start = self.offset(span.start.index());
        let end = self.offset(span.end.index()).max(start);
        let token = self.text.get(start..end).unwrap_or_default();
        let fixed = (start..end, Style::Fixed);
        match style {
            ScalarStyle::Plain if value.is_empty() => {
                // The parser tells the place of the colon.
                let colon = usize::from(self.text.as_bytes().get(start) == Some(&b':'));
                (start + colon..start + colon, Style::Fixed)
            }
            ScalarStyle::Plain => {
                let token = token.trim_end_matches([' ', '\t', '\r', '\n']);
                match token.strip_suffix(value) {
                    Some(properties) if properties.is_empty() || is_properties(properties) => {
                        (start + properties.len()..start + token.len(), Style::Bare)
                    }
                    _ => fixed,
                }
            }
            ScalarStyle::SingleQuoted | ScalarStyle::DoubleQuoted => {
                let quote = if style == ScalarStyle::SingleQuoted { '\'' } else { '"' };
                // The parser's end may lie behind blanks and a comment.
                match token.find(quote).map(|at| (at, at + quoted_length(&token[at..]))) {
                    Some((at, close))
                        if close > at
                            && is_blank_or_comment(&token[close..])
                            && (at == 0 || is_properties(&token[..at])) =>
                    {
                        (start + at..start + close, Style::Quoted)
                    }
                    _ => fixed,
                }
            }
            ScalarStyle::Literal | ScalarStyle::Folded => {
                let line = value.trim_end_matches('\n');
                let content = token.trim_matches([' ', '\t', '\r', '\n']);
                if line.is_empty() || line.starts_with([' ', '\t']) || content != line {
                    return fixed;
                }
                let at = token.find(content).unwrap_or(0);
                (start + at..start + at + content.len(), Style::Block)
            }
        }
    }
}

/// The length of the quoted scalar that a text begins with, quotes included; 0 where it isn't
/// closed.
fn quoted_length(text: &str) -> usize {
    let bytes = text.as_bytes();
    let Some(quote) = bytes.first() else { return 0 };
    let mut at = 1;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'\\' if *quote == b'"' => at += 1,
            b'\'' if *quote == b'\'' && bytes.get(at + 1) == Some(&b'\'') => at += 1,
            byte if byte == quote => return at + 1,
            _ => {}
        }
        at += 1;
    }
    0
}

fn is_blank_or_comment(text: &str) -> bool {
    let rest = text.trim_start();
    rest.is_empty() || (rest.len() < text.len() && rest.starts_with('#'))
}

/// Whether a text is an anchor and a tag, or one of them, and the blanks after it.
fn is_properties(text: &str) -> bool {
    text.ends_with([' ', '\t', '\n'])
        && text.split_whitespace().all(|word| word.starts_with(['&', '!']))
}

/// Writes a value in the scalar's own style, or the next plainest that can hold it.
pub(super) fn encode(token: &[u8], scalar: &Scalar, value: &str) -> Result<String, &'static str> {
    let double = || {
        let mut text = String::from('"');
        for character in value.chars() {
            match character {
                '"' => text.push_str("\\\""),
                '\\' => text.push_str("\\\\"),
                '\n' => text.push_str("\\n"),
                '\r' => text.push_str("\\r"),
                '\t' => text.push_str("\\t"),
                c if is_printable(c) => text.push(c),
                c => text.push_str(&format!("\\U{:08X}", u32::from(c))),
            }
        }
        text.push('"');
        text
    };
    let printable = value.chars().all(is_printable);
    match scalar.style {
        Style::Block if printable && !value.starts_with(' ') && !value.ends_with(' ') => {
            Ok(value.to_owned())
        }
        Style::Block => Err("a block scalar can't hold the new value"),
        Style::Bare if is_plain(value, scalar.flow) => Ok(value.to_owned()),
        Style::Quoted if token.first() == Some(&b'"') => Ok(double()),
        Style::Bare | Style::Quoted if printable => Ok(format!("'{}'", value.replace('\'', "''"))),
        Style::Bare | Style::Quoted => Ok(double()),
        Style::Fixed => Err("its place in the text is not certain"),
    }
}

fn is_printable(character: char) -> bool {
    !character.is_control() && !matches!(character, '\u{FEFF}' | '\u{2028}' | '\u{2029}' | '\u{85}')
}

/// Whether a value can stand without quotes and stays a string. Cautious: quotes never hurt.
fn is_plain(value: &str, flow: bool) -> bool {
    let Some(first) = value.chars().next() else { return false };
    (first.is_alphanumeric() || "/$~._".contains(first))
        && value.chars().all(is_printable)
        && !value.ends_with([' ', ':'])
        && !value.contains(": ")
        && !value.contains(" #")
        && !(flow && value.contains([',', '[', ']', '{', '}']))
        && !is_bare(value)
}

/// Whether a plain text is something else than a string in one of YAML's schemas.
pub(super) fn is_bare(text: &str) -> bool {
    let lower = text.to_ascii_lowercase();
    matches!(
        lower.as_str(),
        "" | "~"
            | "null"
            | "true"
            | "false"
            | "yes"
            | "no"
            | "on"
            | "off"
            | "y"
            | "n"
            | ".inf"
            | ".nan"
    ) || lower.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c))
        && lower.chars().all(|c| c.is_ascii_hexdigit() || "+-._:xobtz".contains(c))
        && lower.contains(|c: char| c.is_ascii_digit())
}
