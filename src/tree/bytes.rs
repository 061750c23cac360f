//! Bytes in JSON that a person can still read: a string where they are UTF-8, else an object
//! `{"base64": "…"}`.

use base64ct::{Base64, Encoding};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Bytes that are usually text (names, symlink targets, attribute values), in readable JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteString(pub Vec<u8>);

impl ByteString {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Form {
    Text(String),
    Encoded { base64: String },
}

impl Serialize for ByteString {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(&self.0) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => {
                Form::Encoded { base64: Base64::encode_string(&self.0) }.serialize(serializer)
            }
        }
    }
}

impl<'de> Deserialize<'de> for ByteString {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Form::deserialize(deserializer)? {
            Form::Text(text) => Ok(Self(text.into_bytes())),
            Form::Encoded { base64 } => {
                Base64::decode_vec(&base64).map(Self).map_err(serde::de::Error::custom)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn readable_where_it_can_be() {
        let json = |bytes: &[u8]| serde_json::to_string(&ByteString(bytes.to_vec())).unwrap();
        assert_eq!(json("straße\n".as_bytes()), "\"straße\\n\"");
        assert_eq!(json(b"\xff\0"), "{\"base64\":\"/wA=\"}");
        for bytes in [&b""[..], b"plain", b"\xff\xfe", b"\0\x01"] {
            let back: ByteString = serde_json::from_str(&json(bytes)).unwrap();
            assert_eq!(back.0, bytes);
        }
        assert!(serde_json::from_str::<ByteString>("{\"base64\":\"?\"}").is_err());
    }
}
