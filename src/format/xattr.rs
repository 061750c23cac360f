//! Extended attributes. The namespace stays (`user.`, `trusted.`); the rest of the name is
//! encrypted deterministically like a file name and stored as `NAMESPACE.sr.BASE64URL`, the value
//! as `00 nonce ciphertext tag` with the plain name in the associated data. A name too long for
//! that is stored as `NAMESPACE.srl.HASH`, its plaintext value beginning with the name's length
//! (2 bytes, little-endian) and the name. A value for which the filesystem below has no room in
//! the inode lies in a file of the overflow directory, and `01 overflow-ID` stands in its place.
//!
//! `system.*` (POSIX ACLs) and `security.*` pass through as they are: the kernel acts on them. But
//! not file capabilities: the filesystem below would take them away whenever this program writes the
//! file, long after whoever wrote it through the mount, and then gave it its capabilities. They are
//! stored as a `user.` attribute whose name nobody else can have: it begins with a zero byte.

use base64ct::{Base64UrlUnpadded, Encoding};
use sha2::{Digest, Sha256};

use super::layout::BLOCK_OVERHEAD;
use super::symlink::OVERFLOW_ID_LEN;
use crate::crypto::{
    AssociatedData, Domain, NONCE_LEN, Nonce, OpenError, SealingKey, TAG_LEN, XattrKey,
};

/// The longest name of an extended attribute, in bytes, with its namespace.
pub const XATTR_NAME_MAX: usize = 255;

const NAMESPACES: [&[u8]; 2] = [b"user.", b"trusted."];
/// File capabilities, and the name under which they are encrypted.
const CAPABILITIES: (&[u8], &[u8]) = (b"security.capability", b"user.\0security.capability");
const SHORT: &[u8] = b"sr.";
const LONG: &[u8] = b"srl.";
const PADDING: usize = 16;
const INLINE: u8 = 0;
const OVERFLOW: u8 = 1;

/// How a plain attribute is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoredName {
    /// As it is: the kernel acts on it.
    PassThrough,
    /// Under this name.
    Encrypted(Vec<u8>),
}

/// What a stored attribute is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Classified {
    /// Shown as it is.
    PassThrough,
    /// This plain name.
    Plain(Vec<u8>),
    /// The plain name begins the value.
    Long,
    /// None of ours, or damaged: not shown.
    Foreign,
}

/// A stored value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoredValue<'a> {
    /// The sealed value itself.
    Inline(&'a [u8]),
    /// The name of the overflow file that holds the sealed value.
    Overflow(&'a str),
}

/// Encrypts and decrypts extended attributes.
pub struct XattrCipher(SealingKey);

impl XattrCipher {
    /// With the vault's xattr key.
    pub fn new(key: &XattrKey) -> Self {
        Self(SealingKey::new(key.expose()))
    }

    /// The name under which a plain attribute is stored.
    pub fn stored_name(&self, name: &[u8]) -> StoredName {
        let name = if name == CAPABILITIES.0 { CAPABILITIES.1 } else { name };
        let Some((namespace, rest)) = split_namespace(name) else { return StoredName::PassThrough };
        let mut padded = rest.to_vec();
        padded.resize(rest.len().next_multiple_of(PADDING).max(PADDING), 0);
        let mut sealed = vec![0; TAG_LEN + padded.len()];
        let tag = self.0.seal(
            Nonce::deterministic([0; NONCE_LEN]),
            &AssociatedData::new(Domain::XattrName, &[namespace]),
            &padded,
            &mut sealed[TAG_LEN..],
        );
        sealed[..TAG_LEN].copy_from_slice(&tag);
        let text = Base64UrlUnpadded::encode_string(&sealed);
        if namespace.len() + SHORT.len() + text.len() <= XATTR_NAME_MAX {
            return StoredName::Encrypted([namespace, SHORT, text.as_bytes()].concat());
        }
        let hash = Base64UrlUnpadded::encode_string(&Sha256::digest(text.as_bytes()));
        StoredName::Encrypted([namespace, LONG, hash.as_bytes()].concat())
    }

    /// What a stored attribute is, by its name.
    pub fn classify(&self, stored: &[u8]) -> Classified {
        let Some((namespace, rest)) = split_namespace(stored) else {
            return Classified::PassThrough;
        };
        if rest.starts_with(LONG) {
            return Classified::Long;
        }
        let Some(text) = rest.strip_prefix(SHORT) else { return Classified::Foreign };
        self.open_name(namespace, text).map_or(Classified::Foreign, Classified::Plain)
    }

    fn open_name(&self, namespace: &[u8], text: &[u8]) -> Option<Vec<u8>> {
        let sealed = Base64UrlUnpadded::decode_vec(std::str::from_utf8(text).ok()?).ok()?;
        let (tag, body) = sealed.split_first_chunk::<TAG_LEN>()?;
        let mut padded = vec![0; body.len()];
        let data = AssociatedData::new(Domain::XattrName, &[namespace]);
        self.0.open(&[0; NONCE_LEN], &data, body, tag, &mut padded).ok()?;
        let len = padded.iter().rposition(|byte| *byte != 0)? + 1;
        padded.truncate(len);
        let name = [namespace, &padded].concat();
        Some(if name == CAPABILITIES.1 { CAPABILITIES.0.to_vec() } else { name })
    }

    /// Seals a value, ready to be stored inline (after [`inline_value`]) or in an overflow file.
    pub fn seal_value(&self, stored_name: &[u8], name: &[u8], value: &[u8]) -> Vec<u8> {
        let mut plain = Vec::with_capacity(2 + name.len() + value.len());
        if is_long(stored_name) {
            let len = u16::try_from(name.len()).expect("names have at most 255 bytes");
            plain.extend_from_slice(&len.to_le_bytes());
            plain.extend_from_slice(name);
        }
        plain.extend_from_slice(value);
        let nonce = Nonce::random();
        let mut sealed = vec![0; plain.len() + BLOCK_OVERHEAD];
        sealed[..NONCE_LEN].copy_from_slice(&nonce.bytes());
        let end = NONCE_LEN + plain.len();
        let data = AssociatedData::new(Domain::XattrValue, &[stored_name]);
        let tag = self.0.seal(nonce, &data, &plain, &mut sealed[NONCE_LEN..end]);
        sealed[end..].copy_from_slice(&tag);
        sealed
    }

    /// Opens a sealed value: the plain name where it is a long one, and the value.
    ///
    /// # Errors
    /// [`OpenError`] when it is not authentic under this stored name.
    pub fn open_value(
        &self,
        stored_name: &[u8],
        sealed: &[u8],
    ) -> Result<(Option<Vec<u8>>, Vec<u8>), OpenError> {
        let (nonce, rest) = sealed.split_first_chunk::<NONCE_LEN>().ok_or(OpenError)?;
        let (body, tag) = rest.split_last_chunk::<TAG_LEN>().ok_or(OpenError)?;
        let mut plain = vec![0; body.len()];
        let data = AssociatedData::new(Domain::XattrValue, &[stored_name]);
        self.0.open(nonce, &data, body, tag, &mut plain)?;
        if !is_long(stored_name) {
            return Ok((None, plain));
        }
        let (len, rest) = plain.split_first_chunk::<2>().ok_or(OpenError)?;
        let (name, value) =
            rest.split_at_checked(usize::from(u16::from_le_bytes(*len))).ok_or(OpenError)?;
        Ok((Some(name.to_vec()), value.to_vec()))
    }
}

/// A sealed value as it is stored inline.
pub fn inline_value(sealed: &[u8]) -> Vec<u8> {
    [&[INLINE], sealed].concat()
}

/// What is stored in place of a value that lies in the overflow file of this name.
pub fn overflow_value(id: &str) -> Vec<u8> {
    [&[OVERFLOW], id.as_bytes()].concat()
}

/// What a stored value is; `None` when it is none of ours.
pub fn parse_value(stored: &[u8]) -> Option<StoredValue<'_>> {
    match stored.split_first()? {
        (&INLINE, sealed) => Some(StoredValue::Inline(sealed)),
        (&OVERFLOW, id) => {
            let id = std::str::from_utf8(id).ok()?;
            let valid = id.len() == OVERFLOW_ID_LEN
                && id
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
            valid.then_some(StoredValue::Overflow(id))
        }
        _ => None,
    }
}

fn is_long(stored_name: &[u8]) -> bool {
    split_namespace(stored_name).is_some_and(|(_, rest)| rest.starts_with(LONG))
}

fn split_namespace(name: &[u8]) -> Option<(&'static [u8], &[u8])> {
    NAMESPACES.into_iter().find_map(|namespace| Some((namespace, name.strip_prefix(namespace)?)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::crypto::MasterKey;
    use proptest::prelude::*;

    fn cipher() -> XattrCipher {
        XattrCipher::new(&MasterKey::from_bytes(&[1; 32]).xattr_key())
    }

    proptest! {
        #[test]
        fn names_and_values_come_back(
            trusted in any::<bool>(),
            rest in proptest::collection::vec(1u8.., 1..=247),
            value in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let name = [if trusted { &b"trusted."[..] } else { b"user." }, &rest].concat();
            let StoredName::Encrypted(stored) = cipher().stored_name(&name) else { panic!() };
            prop_assert!(stored.len() <= XATTR_NAME_MAX);
            let sealed = cipher().seal_value(&stored, &name, &value);
            let (long_name, opened) = cipher().open_value(&stored, &sealed).unwrap();
            prop_assert_eq!(opened, value);
            match cipher().classify(&stored) {
                Classified::Plain(plain) => { prop_assert_eq!(plain, name); prop_assert_eq!(long_name, None); }
                Classified::Long => prop_assert_eq!(long_name, Some(name)),
                other => prop_assert!(false, "{:?}", other),
            }
        }

        #[test]
        fn foreign_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = cipher().classify(&bytes);
            let _ = cipher().open_value(b"user.srl.x", &bytes);
            let _ = parse_value(&bytes);
        }
    }

    #[test]
    fn what_the_kernel_acts_on_passes_through() {
        assert_eq!(cipher().stored_name(b"system.posix_acl_access"), StoredName::PassThrough);
        assert_eq!(cipher().stored_name(b"security.selinux"), StoredName::PassThrough);
        assert_eq!(cipher().classify(b"user.other"), Classified::Foreign);
    }

    #[test]
    fn file_capabilities_are_stored_where_nobody_else_takes_them_away() {
        let name = b"security.capability";
        let StoredName::Encrypted(stored) = cipher().stored_name(name) else { panic!() };
        assert!(stored.starts_with(b"user.sr."));
        assert_eq!(cipher().classify(&stored), Classified::Plain(name.to_vec()));
        let other = cipher().stored_name(b"user.security.capability");
        assert_ne!(other, StoredName::Encrypted(stored));
    }

    #[test]
    fn stored_values_are_told_apart() {
        assert_eq!(parse_value(&inline_value(b"abc")), Some(StoredValue::Inline(b"abc")));
        let id = super::super::symlink::new_overflow_id();
        assert_eq!(parse_value(&overflow_value(&id)), Some(StoredValue::Overflow(&id)));
        assert_eq!(parse_value(b"\x01../../etc/passwd......"), None);
    }
}
