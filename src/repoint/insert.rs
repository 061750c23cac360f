//! Owns the adding of a key that a text doesn't have yet, where its format has a plain place for
//! it: at the head of its section, table, mapping or object; at the end of a `.env` file.

use super::edit::{line_of, splice};
use super::scalar::{Key, Part, Role, Scalar, Scalars, Style, scan};
use super::{Edit, Error, Format, Repointed, env, ini, json, toml, yaml};

/// Where a text goes in, and the text.
struct Insertion {
    offset: usize,
    text: Vec<u8>,
}

/// Adds a key with a value.
pub(super) fn insert(
    bytes: &[u8],
    format: Format,
    scalars: &Scalars,
    key: &Key,
    value: &str,
) -> Result<Repointed, Error> {
    let no_place = || Error::NoSuchKey { key: key.to_string() };
    let names: Vec<&str> = key.names().into_iter().collect::<Option<_>>().ok_or_else(no_place)?;
    let (name, parents) = names.split_last().ok_or_else(no_place)?;
    let insertion = match format {
        Format::Env => in_env(bytes, name, parents, value),
        Format::Ini => in_ini(bytes, scalars, name, parents, value),
        Format::Toml => in_toml(bytes, scalars, name, parents, value),
        Format::Json => in_json(bytes, name, parents, value),
        Format::Yaml => in_yaml(bytes, scalars, name, parents, value),
    }
    .ok_or_else(no_place)?;
    let edit = Edit {
        offset: insertion.offset,
        old: Vec::new(),
        line: line_of(bytes, insertion.offset),
        new: insertion.text,
        key: key.to_string(),
    };
    let edits = vec![edit];
    let result = splice(bytes, &edits);
    prove(scalars, &edits[0], &scan(format, &result)?, key, value)?;
    Ok(Repointed { bytes: result, edits, mentions: Vec::new() })
}

/// Proves that the text has one value more, and otherwise the same ones.
fn prove(
    before: &Scalars,
    edit: &Edit,
    after: &Scalars,
    key: &Key,
    value: &str,
) -> Result<(), Error> {
    let end = edit.offset + edit.new.len();
    let (added, kept): (Vec<&Scalar>, Vec<&Scalar>) =
        after.list.iter().partition(|s| s.range.start >= edit.offset && s.range.end <= end);
    let values: Vec<_> = added.iter().filter(|scalar| scalar.role != Role::Name).collect();
    let wanted =
        matches!(values.as_slice(), [one] if one.key == *key && one.value == value.as_bytes());
    let same = kept.len() == before.list.len()
        && kept.iter().zip(&before.list).all(|(new, old)| {
            let shift = if old.range.start >= edit.offset { edit.new.len() } else { 0 };
            new.range.start == old.range.start + shift
                && (&new.value, &new.key, new.role) == (&old.value, &old.key, old.role)
        });
    if wanted && same {
        Ok(())
    } else {
        Err(Error::SideEffect { detail: format!("{key} has no plain place") })
    }
}

/// The text's own line break.
fn line_break(bytes: &[u8]) -> &'static [u8] {
    match bytes.iter().position(|byte| *byte == b'\n') {
        Some(at) if at > 0 && bytes[at - 1] == b'\r' => b"\r\n",
        _ => b"\n",
    }
}

/// A new last line.
fn at_end(bytes: &[u8], line: &[u8]) -> Insertion {
    let end = line_break(bytes);
    let complete = bytes.is_empty() || bytes.ends_with(b"\n");
    let text = if complete { [line, end].concat() } else { [end, line].concat() };
    Insertion { offset: bytes.len(), text }
}

/// A new line after the one that holds a place.
fn after_line(bytes: &[u8], place: usize, line: &[u8]) -> Insertion {
    match bytes[place..].iter().position(|byte| *byte == b'\n') {
        Some(at) => Insertion { offset: place + at + 1, text: [line, line_break(bytes)].concat() },
        None => Insertion { offset: bytes.len(), text: [line_break(bytes), line].concat() },
    }
}

/// A new line before the one that holds a place.
fn before_line(bytes: &[u8], place: usize, line: &[u8]) -> Insertion {
    let offset = line_start(bytes, place);
    Insertion { offset, text: [line, line_break(bytes)].concat() }
}

fn line_start(bytes: &[u8], place: usize) -> usize {
    let mark = if bytes.starts_with(b"\xEF\xBB\xBF") { 3 } else { 0 };
    bytes[..place].iter().rposition(|byte| *byte == b'\n').map_or(mark, |at| at + 1)
}

/// A scalar that stands nowhere yet.
fn fresh(style: Style, flow: bool) -> Scalar {
    Scalar { range: 0..0, value: Vec::new(), key: Key::default(), style, role: Role::Value, flow }
}

fn in_env(bytes: &[u8], name: &str, parents: &[&str], value: &str) -> Option<Insertion> {
    let value = env::encode(b"", &fresh(Style::Bare, false), value.as_bytes()).ok()?;
    parents.is_empty().then(|| at_end(bytes, &[name.as_bytes(), b"=", &value].concat()))
}

fn in_ini(
    bytes: &[u8],
    scalars: &Scalars,
    name: &str,
    parents: &[&str],
    value: &str,
) -> Option<Insertion> {
    let value = ini::encode(b"", &fresh(Style::Bare, false), value.as_bytes()).ok()?;
    let sign: &[u8] = if scalars.systemd { b"=" } else { b" = " };
    let line = [name.as_bytes(), sign, &value].concat();
    let is_header = |scalar: &&Scalar| {
        scalar.role == Role::Name && scalar.range.start > 0 && bytes[scalar.range.start - 1] == b'['
    };
    match parents {
        [] => Some(match scalars.list.iter().find(is_header) {
            Some(header) => before_line(bytes, header.range.start, &line),
            None => at_end(bytes, &line),
        }),
        [section] => {
            let key = Key::default().name(*section);
            match scalars.list.iter().filter(is_header).find(|scalar| scalar.key == key) {
                Some(header) => Some(after_line(bytes, header.range.end, &line)),
                None => {
                    let header = [b"[", section.as_bytes(), b"]", line_break(bytes)].concat();
                    Some(at_end(bytes, &[header, line].concat()))
                }
            }
        }
        _ => None,
    }
}

fn in_toml(
    bytes: &[u8],
    scalars: &Scalars,
    name: &str,
    parents: &[&str],
    value: &str,
) -> Option<Insertion> {
    let value =
        if toml::is_bare(value) { value.to_owned() } else { toml::encode(b"\"", value).ok()? };
    let line = format!("{} = {value}", toml::name_text(name)).into_bytes();
    let text = std::str::from_utf8(bytes).ok()?;
    if parents.is_empty() {
        return Some(match scalars.list.first() {
            Some(first) => before_line(bytes, first.range.start, &line),
            None => at_end(bytes, &line),
        });
    }
    match toml::header_end(text, parents) {
        Some(Some(end)) => Some(after_line(bytes, end, &line)),
        Some(None) => None,
        None => {
            let path: Vec<String> = parents.iter().map(|part| toml::name_text(part)).collect();
            let header = format!("[{}]", path.join(".")).into_bytes();
            Some(at_end(bytes, &[&header, line_break(bytes), &line].concat()))
        }
    }
}

fn in_json(bytes: &[u8], name: &str, parents: &[&str], value: &str) -> Option<Insertion> {
    let name = json::encode(b"\"", name).ok()?;
    let value =
        if json::is_bare(value) { value.to_owned() } else { json::encode(b"\"", value).ok()? };
    let (inside, first) = json::object(bytes, parents)?;
    match first {
        None => Some(Insertion { offset: inside, text: format!("{name}: {value}").into_bytes() }),
        Some(first) => {
            let before = &bytes[inside..first];
            let blank = before.len() - before.trim_ascii_end().len();
            let mut text = format!("{name}: {value},").into_bytes();
            text.extend_from_slice(if blank > 0 { &before[before.len() - blank..] } else { b" " });
            Some(Insertion { offset: first, text })
        }
    }
}

fn in_yaml(
    bytes: &[u8],
    scalars: &Scalars,
    name: &str,
    parents: &[&str],
    value: &str,
) -> Option<Insertion> {
    let parts =
        |names: &[&str]| names.iter().map(|n| Part::Name((*n).to_owned())).collect::<Vec<_>>();
    let depth = parents.len();
    let parent = parts(parents);
    let sibling = scalars.list.iter().find(|scalar| {
        scalar.role == Role::Name
            && scalar.key.0.len() == depth + 1
            && scalar.key.0[..depth] == parent
    });
    let flow = sibling.is_some_and(|scalar| scalar.flow);
    let style = fresh(Style::Bare, flow);
    let name = yaml::encode(b"", &style, name).ok()?;
    let value = if !value.is_empty() && yaml::is_bare(value) {
        value.to_owned()
    } else {
        yaml::encode(b"", &style, value).ok()?
    };
    let Some(sibling) = sibling else {
        let empty = parents.is_empty() && scalars.list.is_empty();
        return empty.then(|| at_end(bytes, format!("{name}: {value}").as_bytes()));
    };
    let start = sibling.range.start;
    if flow {
        return Some(Insertion { offset: start, text: format!("{name}: {value}, ").into_bytes() });
    }
    let indent = &bytes[line_start(bytes, start)..start];
    if !indent.iter().all(|byte| *byte == b' ') {
        return None;
    }
    let line = [indent, name.as_bytes(), b": ", value.as_bytes()].concat();
    Some(before_line(bytes, start, &line))
}
