//! The header of a non-empty file: magic `SR`, format version, file ID, tag.

use crate::crypto::{
    AssociatedData, AuthenticationKey, Domain, HeaderKey, NONCE_LEN, Nonce, TAG_LEN, random_array,
};

/// Bytes of a header.
pub const HEADER_LEN: usize = 2 + 2 + FILE_ID_LEN + TAG_LEN;
/// Bytes of a file ID.
pub const FILE_ID_LEN: usize = 16;

const MAGIC: [u8; 2] = *b"SR";
const VERSION: u16 = 1;
const AUTHENTICATED: usize = HEADER_LEN - TAG_LEN;

/// A file's random identity, from which its key is derived. A file that is truncated to nothing
/// and written again gets a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileId(pub [u8; FILE_ID_LEN]);

impl FileId {
    /// A new random file ID.
    pub fn random() -> Self {
        Self(random_array())
    }
}

/// Why a header cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Not a header, or of another vault, or changed.
    #[error("the file header does not authenticate")]
    NotAuthentic,
    /// Written by a later version.
    #[error("the file header has version {0}, which this program does not know")]
    Version(u16),
}

/// Makes and reads headers.
pub struct HeaderCodec(AuthenticationKey);

impl HeaderCodec {
    /// With the vault's header key.
    pub fn new(key: &HeaderKey) -> Self {
        Self(AuthenticationKey::new(key.expose()))
    }

    /// The header of a file.
    pub fn encode(&self, file_id: FileId) -> [u8; HEADER_LEN] {
        let mut header = [0u8; HEADER_LEN];
        header[..2].copy_from_slice(&MAGIC);
        header[2..4].copy_from_slice(&VERSION.to_le_bytes());
        header[4..AUTHENTICATED].copy_from_slice(&file_id.0);
        let data = AssociatedData::new(Domain::Header, &[&header[..AUTHENTICATED]]);
        let tag = self.0.authenticate(Nonce::deterministic([0; NONCE_LEN]), &data);
        header[AUTHENTICATED..].copy_from_slice(&tag);
        header
    }

    /// The file ID of a header.
    ///
    /// # Errors
    /// [`HeaderError`] when it is not authentic or of another version.
    pub fn decode(&self, header: &[u8; HEADER_LEN]) -> Result<FileId, HeaderError> {
        let (authenticated, tag) = header.split_at(AUTHENTICATED);
        let tag: &[u8; TAG_LEN] = tag.try_into().expect("the split leaves a tag");
        let data = AssociatedData::new(Domain::Header, &[authenticated]);
        if !self.0.verify(&[0; NONCE_LEN], &data, tag) {
            return Err(HeaderError::NotAuthentic);
        }
        let version = u16::from_le_bytes([authenticated[2], authenticated[3]]);
        if authenticated[..2] != MAGIC || version != VERSION {
            return Err(HeaderError::Version(version));
        }
        let mut file_id = [0u8; FILE_ID_LEN];
        file_id.copy_from_slice(&authenticated[4..]);
        Ok(FileId(file_id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::MasterKey;

    #[test]
    fn every_flipped_bit_is_found() {
        let codec = HeaderCodec::new(&MasterKey::from_bytes(&[1; 32]).header_key());
        let file_id = FileId([9; FILE_ID_LEN]);
        let header = codec.encode(file_id);
        assert_eq!(codec.decode(&header), Ok(file_id));
        for bit in 0..HEADER_LEN * 8 {
            let mut changed = header;
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(codec.decode(&changed), Err(HeaderError::NotAuthentic));
        }
    }
}
