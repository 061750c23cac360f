//! The `state` file of a vault: the spans of time in which a mount ended uncleanly and whose
//! torn, never durable blocks have not all been found yet. Text in JSON, with a tag.

use base64ct::{Base64UrlUnpadded, Encoding};
use serde::{Deserialize, Serialize};

use crate::crypto::{
    AssociatedData, AuthenticationKey, Domain, JournalKey, NONCE_LEN, Nonce, TAG_LEN,
};

/// A span of time, in seconds since 1970, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// From when on changes may not be durable.
    pub from: i64,
    /// When the vault was mounted again.
    pub until: i64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StateFile {
    version: u32,
    windows: Vec<Window>,
    tag: String,
}

const VERSION: u32 = 1;

fn tag(key: &JournalKey, windows: &[Window]) -> [u8; TAG_LEN] {
    let bytes: Vec<u8> = windows
        .iter()
        .flat_map(|window| [window.from.to_le_bytes(), window.until.to_le_bytes()])
        .flatten()
        .collect();
    let data = AssociatedData::new(Domain::Journal, &[b"state", &VERSION.to_le_bytes(), &bytes]);
    AuthenticationKey::new(key.expose()).authenticate(Nonce::deterministic([0; NONCE_LEN]), &data)
}

/// The bytes of the state file.
pub fn encode(key: &JournalKey, windows: &[Window]) -> Vec<u8> {
    let file = StateFile {
        version: VERSION,
        windows: windows.to_vec(),
        tag: Base64UrlUnpadded::encode_string(&tag(key, windows)),
    };
    let mut bytes = serde_json::to_vec(&file).expect("plain numbers and text serialise");
    bytes.push(b'\n');
    bytes
}

/// The spans in a state file; `None` when it is not authentic.
pub fn decode(key: &JournalKey, bytes: &[u8]) -> Option<Vec<Window>> {
    let file: StateFile = serde_json::from_slice(bytes).ok()?;
    let expected = Base64UrlUnpadded::encode_string(&tag(key, &file.windows));
    (file.version == VERSION && file.tag == expected).then_some(file.windows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::MasterKey;

    #[test]
    fn a_forged_state_is_refused() {
        let key = MasterKey::from_bytes(&[1; 32]).journal_key();
        let windows = vec![Window { from: -3, until: 5 }, Window { from: 9, until: 10 }];
        let bytes = encode(&key, &windows);
        assert_eq!(decode(&key, &bytes), Some(windows));
        let forged = String::from_utf8_lossy(&bytes).replace("-3", "-4");
        assert_eq!(decode(&key, forged.as_bytes()), None);
        assert_eq!(decode(&key, b""), None);
    }
}
