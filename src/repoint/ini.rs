//! Owns INI and what resembles it: where the values are, and how one is written. systemd's units
//! and drop-ins are read by their own rules: no comments after values, `\` at the end of a line,
//! lists of words with quotes.
//!
//! The reader accepts every text: a line that it can't place holds no values.

use std::collections::HashMap;
use std::ops::Range;

use super::scalar::{Key, Role, Scalar, Scalars, Style};

/// Sections that make a text a systemd unit or a Quadlet.
const UNIT_SECTIONS: [&str; 14] = [
    "Unit",
    "Service",
    "Install",
    "Socket",
    "Timer",
    "Mount",
    "Automount",
    "Path",
    "Slice",
    "Swap",
    "Scope",
    "Container",
    "Pod",
    "Volume",
];

/// systemd's settings that are lists of words, besides those that begin with `Exec`.
const WORD_SETTINGS: [&str; 13] = [
    "Environment",
    "EnvironmentFile",
    "ReadWritePaths",
    "ReadOnlyPaths",
    "InaccessiblePaths",
    "BindPaths",
    "BindReadOnlyPaths",
    "TemporaryFileSystem",
    "RequiresMountsFor",
    "WantsMountsFor",
    "Volume",
    "ReadWriteDirectories",
    "ReadOnlyDirectories",
];

/// A reader of one text.
struct Reader<'a> {
    text: &'a [u8],
    scalars: Scalars,
    section: Key,
    /// The last key, its indentation, and whether a `\` continues its value.
    current: Option<(Key, usize, bool)>,
    /// How many scalars each key has.
    counts: HashMap<Key, usize>,
    /// What the words of a command so far make of the next one.
    command: Command,
}

/// A command line that may start a container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Command {
    /// No such one so far.
    #[default]
    Other,
    /// One of a container engine.
    Engine,
    /// The next word is the host's and the container's path.
    Volume,
    /// The next word is read inside the container.
    Inside,
}

impl Command {
    /// After this word.
    fn after(self, word: &[u8]) -> Self {
        let program = word.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        match word {
            _ if matches!(program, b"docker" | b"podman" | b"nerdctl") => Self::Engine,
            _ if self == Self::Other => Self::Other,
            b"-v" | b"--volume" => Self::Volume,
            b"-e" | b"--env" | b"-w" | b"--workdir" | b"--entrypoint" | b"--tmpfs" => Self::Inside,
            _ => Self::Engine,
        }
    }
}

/// Takes a text apart.
pub(super) fn scan(text: &[u8]) -> Scalars {
    let mut reader = Reader {
        text,
        scalars: Scalars { systemd: is_unit(text), ..Scalars::default() },
        section: Key::default(),
        current: None,
        counts: HashMap::new(),
        command: Command::default(),
    };
    let mut start = 0;
    while start < text.len() {
        let end = text[start..]
            .iter()
            .position(|byte| *byte == b'\n')
            .map_or(text.len(), |at| start + at);
        let line_end = if text[start..end].ends_with(b"\r") { end - 1 } else { end };
        reader.line(start..line_end);
        start = end + 1;
    }
    reader.scalars
}

/// Whether a text is a systemd unit or a Quadlet.
pub(super) fn is_unit(text: &[u8]) -> bool {
    text.split(|byte| *byte == b'\n').any(|line| {
        line.trim_ascii()
            .strip_prefix(b"[")
            .and_then(|line| line.strip_suffix(b"]"))
            .is_some_and(|name| UNIT_SECTIONS.iter().any(|unit| unit.as_bytes() == name))
    })
}

impl Reader<'_> {
    fn line(&mut self, line: Range<usize>) {
        let range = trim(self.text, line.clone());
        let indent = range.start - line.start;
        let content = &self.text[range.clone()];
        let systemd = self.scalars.systemd;
        match content.first() {
            // A comment inside a continued value does not end it.
            None | Some(b'#' | b';') => return,
            Some(_) => {}
        }
        if let Some((key, own, continued)) = self.current.clone()
            && (continued || (!systemd && indent > own))
        {
            self.values(&key, range);
            return;
        }
        self.current = None;
        if content.starts_with(b"[") {
            if let Some(end) = content.iter().rposition(|byte| *byte == b']') {
                let name = range.start + 1..range.start + end;
                self.section = Key::default().name(self.lossy(name.clone()));
                let key = self.section.clone();
                self.push(name, key, Style::Fixed, Role::Name);
            }
            return;
        }
        let delimiter = |byte: &u8| *byte == b'=' || (*byte == b':' && !systemd);
        let Some(at) = content.iter().position(delimiter) else { return };
        let name = trim(self.text, range.start..range.start + at);
        if name.is_empty() {
            return;
        }
        let key = self.section.name(self.lossy(name.clone()));
        self.push(name, key.clone(), Style::Fixed, Role::Name);
        self.current = Some((key.clone(), indent, false));
        self.command = Command::default();
        self.values(&key, trim(self.text, range.start + at + 1..range.end));
    }

    fn lossy(&self, range: Range<usize>) -> String {
        String::from_utf8_lossy(&self.text[range]).into_owned()
    }

    fn push(&mut self, range: Range<usize>, key: Key, style: Style, role: Role) {
        let value = self.text[range.clone()].to_vec();
        self.scalars.list.push(Scalar { range, value, key, style, role, flow: false });
    }

    /// The values in one line after its delimiter, or in a line that continues it.
    fn values(&mut self, key: &Key, mut range: Range<usize>) {
        if self.scalars.systemd {
            let continued = self.text[range.clone()].ends_with(b"\\");
            if continued {
                range = trim(self.text, range.start..range.end - 1);
            }
            if let Some(current) = &mut self.current {
                current.2 = continued;
            }
        }
        let names = key.names();
        let setting = names.last().copied().flatten().unwrap_or_default();
        if self.scalars.systemd && (setting.starts_with("Exec") || WORD_SETTINGS.contains(&setting))
        {
            let role = match (names.first().copied().flatten(), setting) {
                (_, "Volume" | "BindPaths" | "BindReadOnlyPaths") => Role::Volume,
                (Some("Container"), "Environment" | "Exec") => Role::Container,
                _ => Role::Value,
            };
            self.words(key, range, role);
            return;
        }
        if !self.scalars.systemd {
            range = before_comment(self.text, range);
        }
        if !range.is_empty() {
            let range = self.without_prefix(range);
            self.value(key, range, Role::Value, false);
        }
    }

    /// One value, in quotes or not.
    fn value(&mut self, key: &Key, range: Range<usize>, role: Role, flow: bool) {
        let count = self.counts.entry(key.clone()).or_default();
        let own = if *count == 0 { key.clone() } else { key.index(*count) };
        *count += 1;
        let token = &self.text[range.clone()];
        let (value, style) = match token {
            [quote @ (b'"' | b'\''), inner @ .., last]
                if quote == last && !inner.contains(quote) && !(flow && inner.contains(&b'\\')) =>
            {
                (inner.to_vec(), Style::Quoted)
            }
            _ if flow && token.iter().any(|byte| b"\"'\\".contains(byte)) => {
                (token.to_vec(), Style::Fixed)
            }
            _ => (token.to_vec(), Style::Bare),
        };
        self.scalars.list.push(Scalar { range, value, key: own, style, role, flow });
    }

    /// A list of words with quotes.
    fn words(&mut self, key: &Key, range: Range<usize>, role: Role) {
        let mut at = range.start;
        while at < range.end {
            if self.text[at].is_ascii_whitespace() {
                at += 1;
                continue;
            }
            let start = at;
            let mut quote = None;
            while at < range.end {
                let byte = self.text[at];
                match quote {
                    None if byte.is_ascii_whitespace() => break,
                    None if byte == b'"' || byte == b'\'' => quote = Some(byte),
                    Some(open) if byte == open => quote = None,
                    _ if byte == b'\\' => at += 1,
                    _ => {}
                }
                at += 1;
            }
            at = at.min(range.end);
            let word = self.without_prefix(start..at);
            let word = self.quoted_part(word);
            if let (Role::Value, Some((word, role))) = (role, self.of_engine(word.clone())) {
                self.value(key, word, role, true);
                continue;
            }
            // A single path in a list of binds is both source and target.
            let single = role == Role::Volume && !self.text[word.clone()].contains(&b':');
            self.value(key, word, if single { Role::Value } else { role }, true);
        }
    }

    /// A word of a container engine's command that tells of the container: its part that counts,
    /// and what that is.
    fn of_engine(&mut self, word: Range<usize>) -> Option<(Range<usize>, Role)> {
        let command = self.command;
        let token = &self.text[word.clone()];
        self.command = command.after(token);
        let after = |prefix: &[u8]| token.starts_with(prefix).then_some(word.start + prefix.len());
        let joined = [b"--volume=".as_slice(), b"-v="].into_iter().find_map(after);
        let inside = [b"--env=".as_slice(), b"-e=", b"--workdir=", b"-w=", b"--entrypoint="];
        let (word, role) = match (command, joined) {
            (Command::Other, _) => return None,
            (Command::Volume, _) => (word, Role::Volume),
            (Command::Inside, _) => (word, Role::Container),
            (Command::Engine, Some(start)) => (start..word.end, Role::Volume),
            (Command::Engine, None) => {
                let start = inside.into_iter().find_map(after)?;
                (start..word.end, Role::Container)
            }
        };
        // A single path is the container's.
        let single = role == Role::Volume && !self.text[word.clone()].contains(&b':');
        Some((word, if single { Role::Container } else { role }))
    }

    /// What follows the marks that systemd puts before paths (`-`, `+`, `!`, `@`, `|`, `:`).
    fn without_prefix(&self, range: Range<usize>) -> Range<usize> {
        if !self.scalars.systemd {
            return range;
        }
        let token = &self.text[range.clone()];
        let marks = token.iter().take_while(|byte| b"-+!@:|".contains(byte)).count();
        match token.get(marks) {
            Some(b'/' | b'~' | b'$' | b'%' | b'"' | b'\'') => range.start + marks..range.end,
            _ => range,
        }
    }

    /// The quoted part of `NAME="value"`.
    fn quoted_part(&self, range: Range<usize>) -> Range<usize> {
        let token = &self.text[range.clone()];
        match token.iter().position(|byte| *byte == b'=') {
            Some(at) if at > 0 && matches!(token.get(at + 1), Some(b'"' | b'\'')) => {
                let plain = token[..at].iter().all(|byte| !b"\"'\\".contains(byte));
                if plain { range.start + at + 1..range.end } else { range }
            }
            _ => range,
        }
    }
}

fn trim(text: &[u8], range: Range<usize>) -> Range<usize> {
    let slice = &text[range.clone()];
    let start = slice.len() - slice.trim_ascii_start().len();
    range.start + start..range.start + start + slice.trim_ascii().len()
}

/// The value without a comment after it, as most dialects have them: after a blank. In a quoted
/// value the comment comes after the quote.
fn before_comment(text: &[u8], range: Range<usize>) -> Range<usize> {
    let slice = &text[range.clone()];
    let quoted = match slice {
        [quote @ (b'"' | b'\''), rest @ ..] => {
            rest.iter().position(|byte| byte == quote).map(|at| at + 2)
        }
        _ => None,
    };
    let from = quoted.unwrap_or(0);
    let comment = slice[from..]
        .windows(2)
        .position(|pair| pair[0].is_ascii_whitespace() && matches!(pair[1], b'#' | b';'));
    match comment {
        Some(at) => trim(text, range.start..range.start + from + at),
        None => range,
    }
}

/// Writes a value. `flow` marks systemd's words.
pub(super) fn encode(token: &[u8], scalar: &Scalar, value: &[u8]) -> Result<Vec<u8>, &'static str> {
    let count = |text: &[u8], byte: u8| text.iter().filter(|other| **other == byte).count();
    if value.iter().any(|byte| matches!(byte, b'\n' | b'\r')) {
        return Err("the value has a line break");
    }
    if count(value, b'%') > count(&scalar.value, b'%') {
        return Err("the new value has a %, which means something else here");
    }
    if scalar.flow && count(value, b'$') > count(&scalar.value, b'$') {
        return Err("the new value has a $, which means something else here");
    }
    let quoted = |quote: u8| {
        if value.contains(&quote) || (scalar.flow && value.contains(&b'\\')) {
            return Err("the new value has a quote or a backslash");
        }
        Ok([&[quote], value, &[quote]].concat())
    };
    match scalar.style {
        Style::Quoted => {
            let own = token.first().copied().unwrap_or(b'"');
            quoted(own).or_else(|reason| match own {
                b'"' => quoted(b'\''),
                b'\'' => quoted(b'"'),
                _ => Err(reason),
            })
        }
        _ if scalar.flow => {
            let plain = |byte: &u8| !byte.is_ascii_whitespace() && !b"\"'\\".contains(byte);
            if !value.is_empty() && value.iter().all(plain) {
                Ok(value.to_vec())
            } else {
                quoted(b'"').or_else(|_| quoted(b'\''))
            }
        }
        _ => {
            let comment = |text: &[u8]| {
                text.windows(2)
                    .any(|pair| pair[0].is_ascii_whitespace() && matches!(pair[1], b'#' | b';'))
            };
            if value != value.trim_ascii() || comment(value) || value.ends_with(b"\\") {
                return Err("unquoted values can't hold it");
            }
            Ok(value.to_vec())
        }
    }
}
