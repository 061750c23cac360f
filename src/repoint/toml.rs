//! Owns TOML: where the values are, and how a string is written.

use std::ops::Range;

use toml_edit::{Document, InlineTable, Item, Table, Value};

use super::scalar::{Key, Role, Scalar, Scalars, Style};

/// Takes a text apart.
pub(super) fn scan(text: &str) -> Result<Scalars, String> {
    let document = Document::parse(text).map_err(|error| error.to_string())?;
    let mut scalars = Scalars::default();
    table(document.as_table(), &Key::default(), text, &mut scalars);
    scalars.list.sort_by_key(|scalar| scalar.range.start);
    Ok(scalars)
}

fn name(key: &toml_edit::Key, path: &Key, scalars: &mut Scalars) {
    // A name that stands in several headers has a place in the first of them.
    let Some(range) = key.span() else { return };
    scalars.list.push(Scalar {
        range,
        value: key.get().as_bytes().to_vec(),
        key: path.clone(),
        style: Style::Fixed,
        role: Role::Name,
        flow: false,
    });
}

fn table(table: &Table, path: &Key, text: &str, scalars: &mut Scalars) {
    scalars.shape.push(format!("{path} {}", table.len()));
    for (key, item) in table.iter() {
        let below = path.name(key);
        if let Some((key, _)) = table.get_key_value(key) {
            name(key, &below, scalars);
        }
        match item {
            Item::None => {}
            Item::Value(inner) => value(inner, &below, false, text, scalars),
            Item::Table(inner) => self::table(inner, &below, text, scalars),
            Item::ArrayOfTables(inner) => {
                for (index, element) in inner.iter().enumerate() {
                    self::table(element, &below.index(index), text, scalars);
                }
            }
        }
    }
}

fn inline(table: &InlineTable, path: &Key, text: &str, scalars: &mut Scalars) {
    scalars.shape.push(format!("{path} {{{}}}", table.len()));
    for (key, inner) in table.iter() {
        let below = path.name(key);
        if let Some((key, _)) = table.get_key_value(key) {
            name(key, &below, scalars);
        }
        value(inner, &below, true, text, scalars);
    }
}

/// The parser bounds the depth.
fn value(value: &Value, path: &Key, flow: bool, text: &str, scalars: &mut Scalars) {
    let range: Range<usize> = value.span().unwrap_or_default();
    let (content, style) = match value {
        Value::String(string) => (string.value().clone(), Style::Quoted),
        Value::Array(array) => {
            scalars.shape.push(format!("{path}[{}]", array.len()));
            for (index, element) in array.iter().enumerate() {
                self::value(element, &path.index(index), true, text, scalars);
            }
            return;
        }
        Value::InlineTable(table) => return inline(table, path, text, scalars),
        Value::Integer(_) | Value::Float(_) | Value::Boolean(_) | Value::Datetime(_) => {
            (text.get(range.clone()).unwrap_or_default().to_owned(), Style::Bare)
        }
    };
    let known = text.get(range.clone()).is_some_and(|token| {
        !token.is_empty() && (style == Style::Bare || token.starts_with(['"', '\'']))
    });
    scalars.list.push(Scalar {
        range,
        value: content.into_bytes(),
        key: path.clone(),
        style: if known { style } else { Style::Fixed },
        role: Role::Value,
        flow,
    });
}

/// Writes a string in the token's own quotes; literal quotes give way to basic ones where they
/// can't hold it.
pub(super) fn encode(token: &[u8], value: &str) -> Result<String, &'static str> {
    let newline = |quotes: usize| match &token[quotes..] {
        [b'\r', b'\n', ..] => "\r\n",
        [b'\n', ..] => "\n",
        _ => "",
    };
    let literal = !value.chars().any(|c| c == '\'' || (c.is_control() && c != '\t'));
    Ok(if token.starts_with(b"'''") && literal {
        format!("'''{}{value}'''", newline(3))
    } else if token.starts_with(b"\"\"\"") {
        format!("\"\"\"{}{}\"\"\"", newline(3), escape(value))
    } else if token.starts_with(b"'") && literal {
        format!("'{value}'")
    } else {
        format!("\"{}\"", escape(value))
    })
}

fn escape(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    for character in value.chars() {
        match character {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            c if c.is_control() => text.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => text.push(c),
        }
    }
    text
}

/// Whether a text is a number, a boolean or a date.
pub(super) fn is_bare(text: &str) -> bool {
    text.parse::<Value>().is_ok_and(|value| {
        !matches!(value, Value::String(_) | Value::Array(_) | Value::InlineTable(_))
    })
}

/// A name as it is written in a key.
pub(super) fn name_text(name: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !name.is_empty() && name.chars().all(plain) {
        name.to_owned()
    } else {
        format!("\"{}\"", escape(name))
    }
}

/// Where the header of a table ends; `None` where there is no such table, `Some(None)` where it has
/// no header of its own.
pub(super) fn header_end(text: &str, names: &[&str]) -> Option<Option<usize>> {
    let skip = if text.starts_with('\u{FEFF}') { '\u{FEFF}'.len_utf8() } else { 0 };
    let document = Document::parse(&text[skip..]).ok()?;
    let mut item = document.as_item();
    for name in names {
        item = item.get(name)?;
    }
    let table = item.as_table().filter(|table| !table.is_implicit() && !table.is_dotted());
    Some(table.and_then(Table::span).map(|span| skip + span.end))
}
