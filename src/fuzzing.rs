//! What a fuzzer may call: every parser of bytes that somebody else may have written, by name.
//! Built for tests, and by cargo-fuzz, for the programs in `integration/fuzz`. Where a parser
//! itself is private, its module has a door of its own for this one.

use crate::profile::{Environment, Profile};
use crate::repoint::{Context, Format, Relocation, repoint, revert};
use crate::{archive, backup, format, stores};
use std::path::Path;

/// Something to be fuzzed.
pub struct Target {
    /// Its name: that of the program in `integration/fuzz/targets`.
    pub name: &'static str,
    /// Takes any bytes. Panics where the parser does not keep its word. Whether it took the bytes
    /// for something.
    pub run: fn(&[u8]) -> bool,
    /// Some bytes that it takes, to begin with.
    pub examples: fn() -> Vec<Vec<u8>>,
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target {
        name: "archive_header",
        run: format::fuzzing::archive_header,
        examples: format::fuzzing::archive_header_examples,
    },
    Target {
        name: "archive_metadata",
        run: archive::fuzzing::metadata_texts,
        examples: archive::fuzzing::metadata_texts_examples,
    },
    Target {
        name: "archive_paths",
        run: archive::fuzzing::paths,
        examples: archive::fuzzing::paths_examples,
    },
    Target {
        name: "archive_payload",
        run: archive::fuzzing::payload,
        examples: archive::fuzzing::payload_examples,
    },
    Target {
        name: "archive_tar",
        run: archive::fuzzing::tar,
        examples: archive::fuzzing::tar_examples,
    },
    Target {
        name: "backup_sidecar",
        run: backup::fuzzing::sidecar,
        examples: backup::fuzzing::sidecar_examples,
    },
    Target { name: "config_file", run: config_file, examples: config_file_examples },
    Target { name: "profile", run: profile, examples: profile_examples },
    Target {
        name: "store_tables",
        run: stores::fuzzing::tables,
        examples: stores::fuzzing::tables_examples,
    },
    Target {
        name: "vault_config",
        run: format::fuzzing::config,
        examples: format::fuzzing::config_examples,
    },
    Target {
        name: "vault_records",
        run: format::fuzzing::records,
        examples: format::fuzzing::records_examples,
    },
    Target {
        name: "vault_sealed",
        run: format::fuzzing::sealed,
        examples: format::fuzzing::sealed_examples,
    },
];

/// Runs the target of this name.
///
/// # Panics
/// Where there is none, or the parser does not keep its word.
pub fn run(name: &str, bytes: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name);
    (target.expect("the table knows every target").run)(bytes);
}

const FORMATS: [Format; 5] = [Format::Yaml, Format::Toml, Format::Json, Format::Ini, Format::Env];

/// An app's configuration file, repointed and back. The first byte says in which format it is.
fn config_file(bytes: &[u8]) -> bool {
    let Some((format, text)) = bytes.split_first() else { return false };
    let format = FORMATS[usize::from(*format) % FORMATS.len()];
    let relocation = Relocation::new("/old/data", "/mnt/private");
    let Ok(result) = repoint(text, format, &relocation, &Context::default()) else { return false };
    let reverted = revert(&result.bytes, &result.record(format, text));
    assert!(reverted.is_ok_and(|reverted| reverted.bytes == text), "edits can be taken back");
    true
}

fn config_file_examples() -> Vec<Vec<u8>> {
    let texts = [
        "a:\n  dir: /old/data # here\n  list: [\"/old/data/x\", '/else']\n",
        "[a]\ndir = '/old/data/x'\nnumber = 1.5\n",
        "{\n\t\"dir\": \"\\/old/data\", \"list\": [1, null]\n}",
        "[a]\r\ndir = /old/data\r\n; a comment\r\n",
        "export DIR=\"/old/data\"\nURL=sqlite:////old/data/x.db # old\n",
    ];
    (0u8..).zip(texts).map(|(format, text)| [&[format][..], text.as_bytes()].concat()).collect()
}

/// A profile.
fn profile(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let path = Path::new("/etc/strongroom/example.toml");
    let environment = Environment { home: Some("/home/ada".into()), ..Environment::default() };
    let Ok(profile) = Profile::parse(text, path, &environment) else { return false };
    // What cannot be written as TOML is told.
    let _ = profile.to_toml();
    true
}

fn profile_examples() -> Vec<Vec<u8>> {
    let examples = [
        include_str!("../integration/profiles/aico.toml"),
        include_str!("../integration/profiles/whisperengine.toml"),
    ];
    examples.map(|text| text.as_bytes().to_vec()).into()
}

#[cfg(test)]
mod tests;
