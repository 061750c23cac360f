//! Owns how values are cut: assignments, schemes, lists, percent-encoding. It knows nothing of what
//! the pieces mean.

/// Where the value of `NAME=…` or `--name=…` begins.
pub(super) fn assignment(text: &[u8]) -> Option<usize> {
    let dashes = text.iter().take(2).take_while(|byte| **byte == b'-').count();
    let name = &text[dashes..];
    let length = name
        .iter()
        .take_while(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(byte))
        .count();
    let starts = name.first().is_some_and(|byte| byte.is_ascii_alphabetic() || *byte == b'_');
    (starts && name.get(length) == Some(&b'=')).then_some(dashes + length + 1)
}

/// The end of `scheme:` (or `jdbc:sqlite:`) in front of a path or an authority.
pub(super) fn scheme_end(text: &[u8]) -> Option<usize> {
    let mut end = 0;
    loop {
        let rest = &text[end..];
        let length = rest
            .iter()
            .take_while(|byte| byte.is_ascii_alphanumeric() || b"+.-".contains(byte))
            .count();
        // A single letter would be a drive, not a scheme.
        if length < 2 || !rest[0].is_ascii_alphabetic() || rest.get(length) != Some(&b':') {
            return (end > 0 && matches!(text.get(end), Some(b'/' | b'~' | b'$' | b'.' | b'%')))
                .then_some(end);
        }
        end += length + 1;
    }
}

/// How much of a URL's rest is path: up to `?` or `#`.
pub(super) fn path_length(text: &[u8]) -> usize {
    top_level(text).find(|(_, byte)| matches!(byte, b'?' | b'#')).map_or(text.len(), |(at, _)| at)
}

/// The bytes outside `${…}`, with their places.
pub(super) fn top_level(text: &[u8]) -> impl Iterator<Item = (usize, u8)> + '_ {
    let mut depth = 0_usize;
    text.iter().enumerate().filter_map(move |(at, byte)| {
        match byte {
            b'{' if depth > 0 || (at > 0 && text[at - 1] == b'$') => depth += 1,
            b'}' if depth > 0 => {
                depth -= 1;
                return None;
            }
            _ => {}
        }
        (depth == 0).then_some((at, *byte))
    })
}

/// Whether a text begins like a path, a URL of a path, or an option.
pub(super) fn is_pathish(text: &[u8]) -> bool {
    starts_path(text) || text.starts_with(b"-") || scheme_end(text).is_some() || text == b"~" || {
        let word = text.split(u8::is_ascii_whitespace).next().unwrap_or_default();
        word.contains(&b'/')
    }
}

fn starts_path(text: &[u8]) -> bool {
    [b"/".as_slice(), b"~/", b"$", b"./", b"../", b"%("].iter().any(|lead| text.starts_with(lead))
}

/// The pieces of a list, each with the separator before it. A separator splits only in front of
/// what begins like a path, so that names with spaces, commas or colons stay whole.
pub(super) fn split(value: &[u8]) -> Vec<(&[u8], &[u8])> {
    let mut cuts = Vec::new();
    for (at, byte) in top_level(value) {
        let rest = &value[at + 1..];
        let cut = match byte {
            b',' | b';' => starts_path(rest) || scheme_end(rest).is_some(),
            b' ' | b'\t' => {
                starts_path(rest)
                    || scheme_end(rest).is_some()
                    || (rest.starts_with(b"-") && assignment(rest).is_some())
            }
            // Not the colon of a scheme.
            b':' => starts_path(rest) && !ends_with_scheme(&value[..=at]),
            _ => false,
        };
        if cut {
            cuts.push(at);
        }
    }
    let mut pieces = Vec::with_capacity(cuts.len() + 1);
    let mut start = 0;
    let mut separator: &[u8] = b"";
    for cut in cuts {
        pieces.push((separator, &value[start..cut]));
        separator = &value[cut..=cut];
        start = cut + 1;
    }
    pieces.push((separator, &value[start..]));
    pieces
}

/// Whether a text ends with `scheme:` at its start or after a separator.
fn ends_with_scheme(text: &[u8]) -> bool {
    let word = text
        .rsplit(|byte| byte.is_ascii_whitespace() || b",;=".contains(byte))
        .next()
        .unwrap_or_default();
    scheme_end(&[word, b"/"].concat()) == Some(word.len())
}

pub(super) fn needs_encoding(byte: u8) -> bool {
    !(byte.is_ascii_alphanumeric() || b"-._~/!$&'()*+,;=:@".contains(&byte))
}

pub(super) fn percent_encode(path: &[u8]) -> Vec<u8> {
    let mut result = Vec::with_capacity(path.len());
    for byte in path {
        if needs_encoding(*byte) {
            result.extend_from_slice(format!("%{byte:02X}").as_bytes());
        } else {
            result.push(*byte);
        }
    }
    result
}
