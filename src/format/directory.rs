//! The directory record: the symlink [`RECORD_NAME`] in every ciphertext directory, whose target
//! is `version (1) directory ID (16) tag (16)` in base64url. At 44 bytes the target lies in the
//! symlink's inode, so the filesystem below journals it together with the entry.

use base64ct::{Base64UrlUnpadded, Encoding};

use crate::crypto::{
    AssociatedData, AuthenticationKey, DirectoryKey, Domain, NONCE_LEN, Nonce, TAG_LEN,
    random_array,
};

/// The name of the record in its directory.
pub const RECORD_NAME: &[u8] = b"strongroom.dir";
/// Bytes of a directory ID.
pub const DIR_ID_LEN: usize = 16;

const VERSION: u8 = 1;
const RECORD_LEN: usize = 1 + DIR_ID_LEN + TAG_LEN;

/// A directory's random identity, under which its names are encrypted. It moves with the
/// directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DirId(pub [u8; DIR_ID_LEN]);

impl DirId {
    /// A new random directory ID.
    pub fn random() -> Self {
        Self(random_array())
    }
}

/// The record does not authenticate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the directory record does not authenticate")]
pub struct RecordError;

/// Makes and reads directory records.
pub struct DirectoryCodec(AuthenticationKey);

impl DirectoryCodec {
    /// With the vault's directory key.
    pub fn new(key: &DirectoryKey) -> Self {
        Self(AuthenticationKey::new(key.expose()))
    }

    /// The target of the record of the directory with this ID.
    pub fn encode(&self, directory: DirId) -> Vec<u8> {
        let mut record = [0u8; RECORD_LEN];
        record[0] = VERSION;
        record[1..=DIR_ID_LEN].copy_from_slice(&directory.0);
        let data = AssociatedData::new(Domain::Directory, &[&record[..=DIR_ID_LEN]]);
        let tag = self.0.authenticate(Nonce::deterministic([0; NONCE_LEN]), &data);
        record[1 + DIR_ID_LEN..].copy_from_slice(&tag);
        Base64UrlUnpadded::encode_string(&record).into_bytes()
    }

    /// The directory ID in a record's target.
    ///
    /// # Errors
    /// [`RecordError`] when it is not authentic.
    pub fn decode(&self, target: &[u8]) -> Result<DirId, RecordError> {
        let mut record = [0u8; RECORD_LEN];
        let decoded = Base64UrlUnpadded::decode(target, &mut record).map_err(|_| RecordError)?;
        if decoded.len() != RECORD_LEN || decoded[0] != VERSION {
            return Err(RecordError);
        }
        let (authenticated, tag) = record.split_last_chunk::<TAG_LEN>().ok_or(RecordError)?;
        let data = AssociatedData::new(Domain::Directory, &[authenticated]);
        if !self.0.verify(&[0; NONCE_LEN], &data, tag) {
            return Err(RecordError);
        }
        let mut directory = [0u8; DIR_ID_LEN];
        directory.copy_from_slice(&authenticated[1..]);
        Ok(DirId(directory))
    }

    /// The directory ID that stands in a record, whether it is authentic or not: only for working
    /// out what a damaged record was, by what authenticates under the ID. `None` when it is too
    /// damaged to tell.
    pub fn decode_unverified(&self, target: &[u8]) -> Option<DirId> {
        let mut record = [0u8; RECORD_LEN];
        let decoded = Base64UrlUnpadded::decode(target, &mut record).ok()?;
        let id = decoded.get(1..=DIR_ID_LEN)?;
        Some(DirId(*id.first_chunk()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::MasterKey;

    #[test]
    fn a_record_fits_an_inode_and_every_change_is_found() {
        let codec = DirectoryCodec::new(&MasterKey::from_bytes(&[1; 32]).directory_key());
        let record = codec.encode(DirId([5; DIR_ID_LEN]));
        assert!(record.len() < 60, "ext4 keeps such targets in the inode");
        assert_eq!(codec.decode(&record), Ok(DirId([5; DIR_ID_LEN])));
        for index in 0..record.len() {
            for byte in [0, b'A', b'B', b'-', 255] {
                let mut changed = record.clone();
                if changed[index] != byte {
                    changed[index] = byte;
                    assert_eq!(codec.decode(&changed), Err(RecordError));
                }
            }
        }
        assert_eq!(codec.decode(b""), Err(RecordError));
        assert_eq!(codec.decode(&record[..43]), Err(RecordError));
    }
}
