//! Owns the making of edits: judges each scalar, writes the new tokens, and reads the result again
//! to prove that nothing else changed.

use std::collections::BTreeMap;

use super::insert::insert;
use super::scalar::{Key, Role, Scalar, Scalars, Style, encode, scan};
use super::spelling::{Manner, Matcher, Verdict};
use super::{
    Context, Edit, Error, Format, Mention, MentionReason, Relocation, Repointed, json, toml, yaml,
};

/// See [`super::repoint`].
pub(super) fn repoint(
    bytes: &[u8],
    format: Format,
    relocation: &Relocation,
    context: &Context,
) -> Result<Repointed, Error> {
    let before = scan(format, bytes)?;
    let verdicts = judge(format, &before, Matcher::new(relocation, context));
    let mut mentions = Vec::new();
    let mut values = Vec::new();
    for (index, (scalar, verdict)) in before.list.iter().zip(verdicts).enumerate() {
        if verdict == Verdict::Unrelated {
            continue;
        }
        let line = line_of(bytes, scalar.range.start);
        match verdict {
            Verdict::Unrelated => {}
            Verdict::Rewrite(value) => values.push((index, value)),
            Verdict::Mention(reason) => {
                mentions.push(Mention { key: scalar.key.to_string(), line, reason });
            }
            Verdict::Impossible(reason) => {
                return Err(Error::Inexpressible { key: scalar.key.to_string(), line, reason });
            }
        }
    }
    apply(bytes, format, &before, &values, mentions)
}

/// Judges every scalar. Values that the text itself defines count as they are after the edit, so
/// that what refers to them needs none.
fn judge(format: Format, scalars: &Scalars, mut matcher: Matcher) -> Vec<Verdict> {
    if scalars.systemd {
        matcher = matcher.with_specifiers();
    }
    let interpolates = |scalar: &Scalar| {
        format == Format::Ini
            && !scalars.systemd
            && scalar.value.windows(2).any(|pair| pair == b"%(")
    };
    let mut verdicts = Vec::with_capacity(scalars.list.len());
    for scalar in &scalars.list {
        let verdict = match scalar.role {
            Role::Name => match matcher.mention(&scalar.value) {
                Verdict::Mention(_) => Verdict::Mention(MentionReason::IsKey),
                other => other,
            },
            _ if is_bare(format, scalar) || interpolates(scalar) => Verdict::Unrelated,
            Role::Value => matcher.judge(&scalar.value, Manner::Plain),
            Role::Volume => matcher.judge(&scalar.value, Manner::Volume),
            Role::Container => matcher.judge(&scalar.value, Manner::Container),
        };
        if format == Format::Env
            && let (Role::Value, Some(Some(name))) = (scalar.role, scalar.key.names().first())
        {
            matcher.define(name.as_bytes(), after(scalar, &verdict));
        }
        verdicts.push(verdict);
    }
    if format == Format::Ini {
        interpolated(scalars, &matcher, &mut verdicts, interpolates);
    }
    verdicts
}

/// Judges the values with `%(name)s` in them, now that what they refer to is known.
fn interpolated(
    scalars: &Scalars,
    matcher: &Matcher,
    verdicts: &mut [Verdict],
    interpolates: impl Fn(&Scalar) -> bool,
) {
    let mut sections: BTreeMap<String, BTreeMap<Vec<u8>, Vec<u8>>> = BTreeMap::new();
    for (scalar, verdict) in scalars.list.iter().zip(verdicts.iter()) {
        if let (Role::Value, [Some(section), Some(name)]) =
            (scalar.role, scalar.key.names().as_slice())
            && !interpolates(scalar)
        {
            let name = name.to_ascii_lowercase().into_bytes();
            let values = sections.entry((*section).to_owned()).or_default();
            values.insert(name, after(scalar, verdict).to_vec());
        }
    }
    let default = sections.get("DEFAULT").cloned().unwrap_or_default();
    for (scalar, verdict) in scalars.list.iter().zip(verdicts) {
        if scalar.role == Role::Value && interpolates(scalar) {
            let section = scalar.key.names().first().copied().flatten().unwrap_or_default();
            let mut values = default.clone();
            values.extend(sections.get(section).cloned().unwrap_or_default());
            let mut matcher = matcher.clone();
            matcher.interpolate(values);
            *verdict = matcher.judge(&scalar.value, Manner::Plain);
        }
    }
}

/// A scalar's value after the edit.
fn after<'a>(scalar: &'a Scalar, verdict: &'a Verdict) -> &'a [u8] {
    match verdict {
        Verdict::Rewrite(value) => value,
        _ => &scalar.value,
    }
}

/// Whether a scalar is no string.
fn is_bare(format: Format, scalar: &Scalar) -> bool {
    scalar.style == Style::Bare
        && match format {
            Format::Yaml => std::str::from_utf8(&scalar.value).is_ok_and(yaml::is_bare),
            Format::Toml | Format::Json => true,
            Format::Ini | Format::Env => false,
        }
}

/// The line of a place, counted from 1.
pub(super) fn line_of(bytes: &[u8], offset: usize) -> usize {
    1 + bytes[..offset.min(bytes.len())].iter().filter(|byte| **byte == b'\n').count()
}

/// Writes new values in the place of scalars, given by their index in rising order, and proves the
/// result.
fn apply(
    bytes: &[u8],
    format: Format,
    before: &Scalars,
    values: &[(usize, Vec<u8>)],
    mentions: Vec<Mention>,
) -> Result<Repointed, Error> {
    let mut edits = Vec::with_capacity(values.len());
    for (index, value) in values {
        let scalar = &before.list[*index];
        let token = &bytes[scalar.range.clone()];
        let line = line_of(bytes, scalar.range.start);
        let key = scalar.key.to_string();
        let new = encode(format, token, scalar, value).map_err(|reason| Error::Inexpressible {
            key: key.clone(),
            line,
            reason,
        })?;
        edits.push(Edit { offset: scalar.range.start, old: token.to_vec(), new, key, line });
    }
    let result = splice(bytes, &edits);
    prove(format, before, values, &edits, &scan(format, &result)?)?;
    Ok(Repointed { bytes: result, edits, mentions })
}

/// The text with edits made.
pub(super) fn splice(bytes: &[u8], edits: &[Edit]) -> Vec<u8> {
    let mut result = Vec::with_capacity(bytes.len());
    let mut at = 0;
    for edit in edits {
        result.extend_from_slice(&bytes[at..edit.offset]);
        result.extend_from_slice(&edit.new);
        at = edit.offset + edit.old.len();
    }
    result.extend_from_slice(&bytes[at..]);
    result
}

/// Proves that a text, read again after edits, has the same scalars in the same places, and other
/// values only where they were wanted.
fn prove(
    format: Format,
    before: &Scalars,
    values: &[(usize, Vec<u8>)],
    edits: &[Edit],
    after: &Scalars,
) -> Result<(), Error> {
    let fail = |key: &Key| {
        let detail = format!("{format} reads {key} otherwise");
        Err(Error::SideEffect { detail })
    };
    if before.list.len() != after.list.len() || before.shape != after.shape {
        let detail = format!("{format} finds another structure");
        return Err(Error::SideEffect { detail });
    }
    let wanted: BTreeMap<usize, &[u8]> =
        values.iter().map(|(i, value)| (*i, value.as_slice())).collect();
    let mut next = edits.iter().peekable();
    let (mut removed, mut added) = (0, 0);
    for (index, (old, new)) in before.list.iter().zip(&after.list).enumerate() {
        while let Some(edit) = next.next_if(|edit| {
            edit.offset + edit.old.len() <= old.range.start && edit.offset < old.range.start
        }) {
            removed += edit.old.len();
            added += edit.new.len();
        }
        let start = old.range.start - removed + added;
        let (value, length) = match (wanted.get(&index), next.peek()) {
            (Some(value), Some(edit)) => (*value, edit.new.len()),
            (Some(_), None) => return fail(&old.key),
            (None, _) => (old.value.as_slice(), old.range.len()),
        };
        if new.value != value
            || new.key != old.key
            || new.role != old.role
            || new.range.end != start + length
            || new.range.start < start
            || (!wanted.contains_key(&index) && new.range.start != start)
        {
            return fail(&old.key);
        }
    }
    Ok(())
}

/// See [`super::set`].
pub(super) fn set(
    bytes: &[u8],
    format: Format,
    key: &str,
    value: &str,
) -> Result<Repointed, Error> {
    let wanted = Key::parse(key)?;
    let scalars = scan(format, bytes)?;
    let is_value = |scalar: &&(usize, &Scalar)| scalar.1.role != Role::Name;
    let find = |test: &dyn Fn(&Scalar) -> bool| -> Vec<usize> {
        let all = scalars.list.iter().enumerate().collect::<Vec<_>>();
        all.iter()
            .filter(is_value)
            .filter(|(_, scalar)| test(scalar))
            .map(|(index, _)| *index)
            .collect()
    };
    let mut found = find(&|scalar| scalar.key.is_meant_by(&wanted));
    if found.is_empty() {
        found = find(&|scalar| scalar.key.loose() == key);
    }
    let Some(&index) = found.last() else {
        return insert(bytes, format, &scalars, &wanted, value);
    };
    let scalar = &scalars.list[index];
    let token = &bytes[scalar.range.clone()];
    let line = line_of(bytes, scalar.range.start);
    let new = literal(format, scalar, token, value).map_err(|reason| Error::Inexpressible {
        key: scalar.key.to_string(),
        line,
        reason,
    })?;
    if new == token {
        return Ok(Repointed { bytes: bytes.to_vec(), edits: Vec::new(), mentions: Vec::new() });
    }
    let edit = Edit {
        offset: scalar.range.start,
        old: token.to_vec(),
        new,
        key: scalar.key.to_string(),
        line,
    };
    let edits = vec![edit];
    let result = splice(bytes, &edits);
    let values = [(index, value.as_bytes().to_vec())];
    prove(format, &scalars, &values, &edits, &scan(format, &result)?)?;
    Ok(Repointed { bytes: result, edits, mentions: Vec::new() })
}

/// The token for a value that a person gave: what was no string stays none where the new value is
/// none either.
fn literal(
    format: Format,
    scalar: &Scalar,
    token: &[u8],
    value: &str,
) -> Result<Vec<u8>, &'static str> {
    let bare = match format {
        // Nothing after `key:`, not even a blank.
        Format::Yaml if token.is_empty() && !value.is_empty() => {
            let scalar = Scalar { style: Style::Bare, ..scalar.clone() };
            let text = literal(format, &scalar, b"?", value)?;
            return Ok([b" ", text.as_slice()].concat());
        }
        Format::Yaml => scalar.style == Style::Bare && !value.is_empty() && yaml::is_bare(value),
        Format::Json => scalar.style == Style::Bare && json::is_bare(value),
        Format::Toml => scalar.style == Style::Bare && toml::is_bare(value),
        Format::Ini | Format::Env => false,
    };
    if bare {
        return Ok(value.as_bytes().to_vec());
    }
    encode(format, token, scalar, value.as_bytes())
}
