//! Bytes in JSON that a person can still read: a string where they are UTF-8, else an object
//! `{"base64": "…"}`.

use std::fmt;

use base64ct::{Base64, Encoding};
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, MapAccess, Visitor};
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

/// What is no text.
#[derive(Serialize, Deserialize)]
struct Encoded {
    base64: String,
}

impl Serialize for ByteString {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serialize(&self.0, serializer)
    }
}

pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    match std::str::from_utf8(bytes) {
        Ok(text) => serializer.serialize_str(text),
        Err(_) => Encoded { base64: Base64::encode_string(bytes) }.serialize(serializer),
    }
}

impl<'de> Deserialize<'de> for ByteString {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = ByteString;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a string, or bytes in base64")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<ByteString, E> {
                Ok(ByteString(text.as_bytes().to_vec()))
            }

            fn visit_string<E: de::Error>(self, text: String) -> Result<ByteString, E> {
                Ok(ByteString(text.into_bytes()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ByteString, A::Error> {
                let Encoded { base64 } = Encoded::deserialize(MapAccessDeserializer::new(map))?;
                Base64::decode_vec(&base64).map(ByteString).map_err(de::Error::custom)
            }
        }
        // What it is shows in the text itself.
        deserializer.deserialize_any(Either)
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
