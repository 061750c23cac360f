//! Owns the choice of a format for a file: by name, else by content.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::scalar::scan;
use super::{Format, ini};

/// See [`Format::detect`].
pub(super) fn detect(path: &Path, content: &[u8]) -> Option<Format> {
    path.file_name()
        .and_then(|name| by_name(name.as_bytes()))
        .or_else(|| if is_drop_in(path) { Some(Format::Ini) } else { by_content(content) })
}

/// Whether a file is a drop-in of a systemd unit: in `NAME.service.d/`, say.
fn is_drop_in(path: &Path) -> bool {
    let directory = path.parent().and_then(Path::file_name);
    directory
        .and_then(|name| name.as_bytes().strip_suffix(b".d"))
        .is_some_and(|unit| by_name(unit) == Some(Format::Ini))
}

fn by_name(name: &[u8]) -> Option<Format> {
    let name = name.to_ascii_lowercase();
    if name == b".env" || name == b"env" || name.starts_with(b".env.") || name == b".envrc" {
        return Some(Format::Env);
    }
    let extension =
        name.rsplit(|byte| *byte == b'.').next().filter(|end| end.len() < name.len())?;
    match extension {
        b"yaml" | b"yml" => Some(Format::Yaml),
        b"toml" => Some(Format::Toml),
        b"json" | b"jsonc" | b"json5" | b"code-workspace" => Some(Format::Json),
        b"ini" | b"cfg" | b"desktop" | b"service" | b"socket" | b"timer" | b"mount"
        | b"automount" | b"path" | b"slice" | b"container" | b"volume" => Some(Format::Ini),
        b"env" => Some(Format::Env),
        _ => None,
    }
}

/// The narrowest format that takes the text and finds something in it.
fn by_content(content: &[u8]) -> Option<Format> {
    let accepts = |format| scan(format, content).is_ok_and(|scalars| !scalars.list.is_empty());
    let text = content.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(content);
    if text.contains(&0) {
        return None;
    }
    let lines = || {
        text.split(|byte| *byte == b'\n')
            .map(<[u8]>::trim_ascii)
            .filter(|line| !line.is_empty() && !matches!(line[0], b'#' | b';'))
    };
    let first = lines().next()?;
    let is_section = |line: &[u8]| line.starts_with(b"[") && line.ends_with(b"]");
    if matches!(first[0], b'{' | b'[') && accepts(Format::Json) {
        return Some(Format::Json);
    }
    if ini::is_unit(text) {
        // Its lines may happen to be TOML, too; what they mean is systemd's to say.
        return Some(Format::Ini);
    }
    if lines().any(is_section) {
        return [Format::Toml, Format::Ini].into_iter().find(|format| accepts(*format));
    }
    let is_variable = |line: &[u8]| {
        let line = line.strip_prefix(b"export ").unwrap_or(line);
        let name = line.split(|byte| *byte == b'=').next().unwrap_or_default();
        line.contains(&b'=')
            && !name.is_empty()
            && name.iter().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || *b == b'_')
    };
    if lines().all(is_variable) {
        return Some(Format::Env);
    }
    let has_names = |format| {
        scan(format, content).is_ok_and(|scalars| {
            scalars.list.iter().any(|scalar| scalar.role == super::scalar::Role::Name)
        })
    };
    [Format::Toml, Format::Yaml]
        .into_iter()
        .find(|format| has_names(*format))
        .or_else(|| lines().all(|line| line.contains(&b'=')).then_some(Format::Ini))
}
