//! Paths in JSON: text where they are UTF-8, else `{"base64": …}`.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use base64ct::{Base64, Encoding};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Form {
    Text(String),
    Bytes { base64: String },
}

fn to_form(path: &Path) -> Form {
    match path.to_str() {
        Some(text) => Form::Text(text.to_owned()),
        None => Form::Bytes { base64: Base64::encode_string(path.as_os_str().as_bytes()) },
    }
}

fn from_form<E: de::Error>(form: Form) -> Result<PathBuf, E> {
    match form {
        Form::Text(text) => Ok(PathBuf::from(text)),
        Form::Bytes { base64 } => Base64::decode_vec(&base64)
            .map(|bytes| PathBuf::from(OsString::from_vec(bytes)))
            .map_err(de::Error::custom),
    }
}

pub(super) fn serialize<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    to_form(path).serialize(serializer)
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<PathBuf, D::Error> {
    from_form(Form::deserialize(d)?)
}

/// The same for lists of paths.
pub(super) mod list {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(paths: &[PathBuf], s: S) -> Result<S::Ok, S::Error> {
        s.collect_seq(paths.iter().map(|path| to_form(path)))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<PathBuf>, D::Error> {
        Vec::<Form>::deserialize(d)?.into_iter().map(from_form).collect()
    }
}
