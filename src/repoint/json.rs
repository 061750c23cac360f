//! Owns JSON and its relatives: where the values are, and how a string is written.

use jsonc_parser::ast::{ObjectPropName, Value};
use jsonc_parser::common::{Range, Ranged};
use jsonc_parser::{CollectOptions, ParseOptions, parse_to_ast};

use super::scalar::{Key, Role, Scalar, Scalars, Style};

/// Takes a text apart. Comments, trailing commas and JSON5's quotes are accepted.
pub(super) fn scan(text: &str) -> Result<Scalars, String> {
    let parsed = parse_to_ast(text, &CollectOptions::default(), &ParseOptions::default())
        .map_err(|error| error.to_string())?;
    let mut scalars = Scalars::default();
    if let Some(value) = &parsed.value {
        walk(value, &Key::default(), &mut scalars);
    }
    Ok(scalars)
}

fn push(scalars: &mut Scalars, range: Range, value: &str, key: &Key, style: Style, role: Role) {
    scalars.list.push(Scalar {
        range: range.start..range.end,
        value: value.as_bytes().to_vec(),
        key: key.clone(),
        style,
        role,
        flow: true,
    });
}

/// The parser bounds the depth.
fn walk(value: &Value<'_>, key: &Key, scalars: &mut Scalars) {
    match value {
        Value::StringLit(literal) => {
            push(scalars, literal.range(), &literal.value, key, Style::Quoted, Role::Value);
        }
        Value::NumberLit(literal) => {
            push(scalars, literal.range(), literal.value, key, Style::Bare, Role::Value);
        }
        Value::BooleanLit(literal) => {
            let text = if literal.value { "true" } else { "false" };
            push(scalars, literal.range(), text, key, Style::Bare, Role::Value);
        }
        Value::NullKeyword(literal) => {
            push(scalars, literal.range(), "null", key, Style::Bare, Role::Value);
        }
        Value::Array(array) => {
            scalars.shape.push(format!("{key}[{}]", array.elements.len()));
            for (index, element) in array.elements.iter().enumerate() {
                walk(element, &key.index(index), scalars);
            }
        }
        Value::Object(object) => {
            scalars.shape.push(format!("{key}{{{}}}", object.properties.len()));
            for property in &object.properties {
                let below = key.name(property.name.as_str());
                let (range, style) = match &property.name {
                    ObjectPropName::String(literal) => (literal.range(), Style::Quoted),
                    ObjectPropName::Word(literal) => (literal.range(), Style::Bare),
                };
                push(scalars, range, property.name.as_str(), &below, style, Role::Name);
                walk(&property.value, &below, scalars);
            }
        }
    }
}

/// Writes a string with the token's own kind of quote, and with `\/` where the token had only that.
pub(super) fn encode(token: &[u8], value: &str) -> Result<String, &'static str> {
    let quote = if token.first() == Some(&b'\'') { '\'' } else { '"' };
    let slashes = token.iter().filter(|byte| **byte == b'/').count();
    let escaped = token.windows(2).filter(|pair| pair == b"\\/").count();
    let escape_slash = escaped > 0 && escaped == slashes;
    let mut text = String::with_capacity(value.len() + 2);
    text.push(quote);
    for character in value.chars() {
        match character {
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            '/' if escape_slash => text.push_str("\\/"),
            c if c == quote => {
                text.push('\\');
                text.push(c);
            }
            c if c.is_control() => text.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => text.push(c),
        }
    }
    text.push(quote);
    Ok(text)
}

/// Whether a text is a number, a boolean or null.
pub(super) fn is_bare(text: &str) -> bool {
    matches!(text, "true" | "false" | "null")
        || serde_json::from_str::<serde_json::Number>(text).is_ok()
}

/// Where an object's inside begins, and where its first property does.
pub(super) fn object(bytes: &[u8], names: &[&str]) -> Option<(usize, Option<usize>)> {
    let skip = if bytes.starts_with(b"\xEF\xBB\xBF") { 3 } else { 0 };
    let text = std::str::from_utf8(&bytes[skip..]).ok()?;
    let parsed = parse_to_ast(text, &CollectOptions::default(), &ParseOptions::default()).ok()?;
    let mut object = parsed.value.as_ref()?.as_object()?;
    for name in names {
        object = object.get(name)?.value.as_object()?;
    }
    let first = object.properties.first().map(|property| skip + property.range.start);
    Some((skip + object.range.start + 1, first))
}
