//! Owns `.env` files: where the values are, and how one is written.
//!
//! The reader accepts every text: a line that is no assignment holds no values.

use std::ops::Range;

use super::scalar::{Key, Role, Scalar, Scalars, Style};

/// Takes a text apart.
pub(super) fn scan(text: &[u8]) -> Scalars {
    let mut scalars = Scalars::default();
    let mut counts = std::collections::HashMap::<Key, usize>::new();
    let mut at = 0;
    while at < text.len() {
        let end = line_end(text, at);
        let Some((name, value)) = assignment(text, at..end) else {
            at = end + 1;
            continue;
        };
        let (range, style) = token(text, value, end);
        let key = Key::default().name(String::from_utf8_lossy(&text[name.clone()]));
        let count = counts.entry(key.clone()).or_default();
        let own = if *count == 0 { key.clone() } else { key.index(*count) };
        *count += 1;
        let push = |range: Range<usize>, value: &[u8], style, role| Scalar {
            range,
            value: value.to_vec(),
            key: own.clone(),
            style,
            role,
            flow: false,
        };
        scalars.list.push(push(name.clone(), &text[name], Style::Fixed, Role::Name));
        let raw = &text[range.clone()];
        let inner =
            if style == Style::Quoted || is_quoted(raw) { &raw[1..raw.len() - 1] } else { raw };
        scalars.list.push(push(range.clone(), inner, style, Role::Value));
        at = line_end(text, range.end) + 1;
    }
    scalars
}

fn line_end(text: &[u8], from: usize) -> usize {
    text[from..].iter().position(|byte| *byte == b'\n').map_or(text.len(), |at| from + at)
}

fn skip_blanks(text: &[u8], from: usize, end: usize) -> usize {
    from + text[from..end].iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count()
}

/// The name in a line, and where its value begins.
fn assignment(text: &[u8], line: Range<usize>) -> Option<(Range<usize>, usize)> {
    let mut start = skip_blanks(text, line.start, line.end);
    let rest = &text[start..line.end];
    if rest.starts_with(b"export ") || rest.starts_with(b"export\t") {
        start = skip_blanks(text, start + b"export".len(), line.end);
    }
    let name = &text[start..line.end];
    let starts = name.first().is_some_and(|byte| byte.is_ascii_alphabetic() || *byte == b'_');
    let length = name
        .iter()
        .take_while(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(byte))
        .count();
    let sign = skip_blanks(text, start + length, line.end);
    if !starts || text.get(sign) != Some(&b'=') || sign >= line.end {
        return None;
    }
    Some((start..start + length, skip_blanks(text, sign + 1, line.end)))
}

/// The token of a value that begins at `start` in a line that ends at `end`.
fn token(text: &[u8], start: usize, end: usize) -> (Range<usize>, Style) {
    if let Some(quote @ (b'"' | b'\'' | b'`')) = text[start..end].first().copied()
        && let Some(close) = closing(text, start + 1, quote)
    {
        let after = skip_blanks(text, close + 1, text.len());
        let ends = matches!(text.get(after), None | Some(b'\n' | b'\r'))
            || (after > close + 1 && text[after] == b'#');
        if ends {
            let escaped = quote == b'"' && text[start..close].contains(&b'\\');
            return (start..close + 1, if escaped { Style::Fixed } else { Style::Quoted });
        }
        return (start..start + text[start..end].trim_ascii_end().len(), Style::Fixed);
    }
    let line = &text[start..end];
    let comment = (0..line.len())
        .find(|at| line[*at] == b'#' && (*at == 0 || matches!(line[at - 1], b' ' | b'\t')));
    let value = line[..comment.unwrap_or(line.len())].trim_ascii_end();
    let odd = value.iter().any(|byte| b"\\\"'`".contains(byte));
    (start..start + value.len(), if odd { Style::Fixed } else { Style::Bare })
}

fn closing(text: &[u8], from: usize, quote: u8) -> Option<usize> {
    let mut at = from;
    while let Some(byte) = text.get(at) {
        match *byte {
            b'\\' if quote == b'"' => at += 1,
            byte if byte == quote => return Some(at),
            _ => {}
        }
        at += 1;
    }
    None
}

fn is_quoted(raw: &[u8]) -> bool {
    matches!(raw, [first @ (b'"' | b'\'' | b'`'), .., last] if first == last)
}

/// Writes a value in the token's own quotes, or in the first that can hold it.
pub(super) fn encode(token: &[u8], scalar: &Scalar, value: &[u8]) -> Result<Vec<u8>, &'static str> {
    let count = |text: &[u8], byte: u8| text.iter().filter(|other| **other == byte).count();
    if value.iter().any(|byte| matches!(byte, b'\n' | b'\r')) {
        return Err("the new value has a line break");
    }
    let new_dollar = count(value, b'$') > count(&scalar.value, b'$');
    let quoted = |quote: u8| {
        let bad: &[u8] = if quote == b'"' { b"\"\\`" } else { b"" };
        if value.contains(&quote)
            || value.iter().any(|byte| bad.contains(byte))
            || (quote == b'"' && new_dollar)
        {
            return Err("no quotes of a .env file can hold the new value");
        }
        Ok([&[quote], value, &[quote]].concat())
    };
    let plain = |byte: &u8| {
        byte.is_ascii_alphanumeric() || b"_./:@%+,=~{}$?&-".contains(byte) || *byte >= 0x80
    };
    match (scalar.style, token.first()) {
        (Style::Quoted, Some(own)) => {
            quoted(*own).or_else(|_| quoted(b'\'')).or_else(|_| quoted(b'"'))
        }
        _ if value.iter().all(plain) && !new_dollar => Ok(value.to_vec()),
        // Single quotes would stop a variable from being expanded.
        _ if value.contains(&b'$') && !new_dollar => quoted(b'"'),
        _ => quoted(b'\'').or_else(|_| quoted(b'"')),
    }
}
