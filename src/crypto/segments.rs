//! An archive's payload as a STREAM of AES-256-GCM-SIV segments (Hoang, Reyhanitabar, Rogaway,
//! Vizár: <https://eprint.iacr.org/2015/189>), with the 32-bit counter and the last-segment flag
//! in the nonce: segments cannot be dropped, repeated, reordered or added.

use hmac::{Hmac, Mac as _};
use sha2::Sha256;

use super::aead::{AssociatedData, Domain, NONCE_LEN, Nonce, OpenError, SealingKey};
use super::keys::{ArchiveKey, derive};
use super::wrap::{HASH_LEN, MAC_LEN};

/// Most segments of one archive.
pub const SEGMENTS_MAX: u64 = 1 << 32;

impl ArchiveKey {
    /// HMAC-SHA256 of an archive's header. Label `strongroom v1 archive header`.
    pub fn authenticate_header(&self, header: &[u8]) -> [u8; MAC_LEN] {
        self.header_mac(header).finalize().into_bytes().into()
    }

    /// Whether `mac` is that of `header`, in constant time.
    pub fn verify_header(&self, header: &[u8], mac: &[u8; MAC_LEN]) -> bool {
        self.header_mac(header).verify_slice(mac).is_ok()
    }

    fn header_mac(&self, header: &[u8]) -> Hmac<Sha256> {
        let key = derive(self.expose(), &[b"strongroom v1 archive header"]);
        <Hmac<Sha256> as hmac::KeyInit>::new_from_slice(&*key)
            .expect("HMAC takes keys of any length")
            .chain_update(header)
    }

    /// What seals the segments behind the header with this hash. Label
    /// `strongroom v1 archive segments`, then the hash.
    pub fn segment_cipher(&self, header_hash: &[u8; HASH_LEN]) -> SegmentCipher {
        let key = derive(self.expose(), &[b"strongroom v1 archive segments", header_hash]);
        SegmentCipher(SealingKey::new(&key))
    }
}

/// Seals and opens the segments of one archive, in any order and from any thread.
pub struct SegmentCipher(SealingKey);

impl SegmentCipher {
    /// Encrypts `segment` in place and appends its tag. Each index may be sealed once.
    ///
    /// # Panics
    /// When the segment exceeds the 2^36 bytes of RFC 8452.
    pub fn seal(&self, index: u32, last: bool, segment: &mut Vec<u8>) {
        self.0.seal_in_place(Nonce::deterministic(nonce(index, last)), &associated_data(), segment);
    }

    /// Decrypts `segment` in place and takes its tag off. On failure it holds nothing of use.
    ///
    /// # Errors
    /// [`OpenError`]: it was altered, or is not this archive's segment with this index, or is the
    /// last one and should not be, or the reverse.
    pub fn open(&self, index: u32, last: bool, segment: &mut Vec<u8>) -> Result<(), OpenError> {
        self.0.open_in_place(&nonce(index, last), &associated_data(), segment)
    }
}

/// STREAM's nonce. The key is of one stream: its prefix, here zeros, has nothing to tell apart.
fn nonce(index: u32, last: bool) -> [u8; NONCE_LEN] {
    let mut nonce = [0; NONCE_LEN];
    nonce[7..11].copy_from_slice(&index.to_be_bytes());
    nonce[11] = u8::from(last);
    nonce
}

fn associated_data() -> AssociatedData {
    AssociatedData::new(Domain::Archive, &[])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use aead_stream::{NewStream as _, StreamBE32, StreamPrimitive as _};
    use aes_gcm_siv::{Aes256GcmSiv, KeyInit as _};
    use proptest::prelude::*;

    use super::super::keys::{KEY_LEN, MasterKey};
    use super::super::test_support::hex;
    use super::*;

    fn key() -> ArchiveKey {
        MasterKey::from_bytes(&[7; KEY_LEN]).archive_key(&[9; KEY_LEN])
    }

    /// Expected values from Python's `cryptography` package (OpenSSL).
    #[test]
    fn segments_are_those_of_the_format() {
        let mut segment = b"segment".to_vec();
        key().segment_cipher(&[1; HASH_LEN]).seal(258, true, &mut segment);
        assert_eq!(hex(&segment), "b48d34061f0dca2901394f7add36ae15b1daa79c6945a5");
        assert_eq!(
            hex(&key().authenticate_header(b"header")),
            "d197094b592c15c958500276133088e6c236de8c60575ded34a5ae8c4e32640f"
        );
    }

    proptest! {
        /// The crate `aead-stream` takes RustCrypto's cipher.
        #[test]
        fn they_are_those_of_aead_stream(
            index: u32,
            last: bool,
            plain in prop::collection::vec(any::<u8>(), 0..5000),
        ) {
            let derived = derive(
                key().expose(),
                &[b"strongroom v1 archive segments", &[1; HASH_LEN]],
            );
            let cipher = Aes256GcmSiv::new((&*derived).into());
            let stream = StreamBE32::from_aead(cipher, &[0u8; 7].into());
            let mut expected = plain.clone();
            let data = [Domain::Archive as u8];
            stream.encrypt_in_place(index, last, &data, &mut expected).unwrap();
            let mut sealed = plain.clone();
            let cipher = key().segment_cipher(&[1; HASH_LEN]);
            cipher.seal(index, last, &mut sealed);
            prop_assert_eq!(&sealed, &expected);
            prop_assert_eq!(cipher.open(index, last, &mut sealed), Ok(()));
            prop_assert_eq!(sealed, plain);
        }
    }

    #[test]
    fn a_segment_opens_only_in_its_place() {
        let cipher = key().segment_cipher(&[1; HASH_LEN]);
        let mut sealed = b"segment".to_vec();
        cipher.seal(3, false, &mut sealed);
        let open = |cipher: &SegmentCipher, index, last, bytes: &[u8]| {
            let mut segment = bytes.to_vec();
            cipher.open(index, last, &mut segment).map(|()| segment)
        };
        assert_eq!(open(&cipher, 3, false, &sealed).unwrap(), b"segment");
        assert_eq!(open(&cipher, 3, true, &sealed), Err(OpenError));
        assert_eq!(open(&cipher, 2, false, &sealed), Err(OpenError));
        for length in 0..sealed.len() {
            assert_eq!(open(&cipher, 3, false, &sealed[..length]), Err(OpenError));
        }
        let other = key().segment_cipher(&[2; HASH_LEN]);
        assert_eq!(open(&other, 3, false, &sealed), Err(OpenError));
        for bit in 0..sealed.len() * 8 {
            let mut flipped = sealed.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(open(&cipher, 3, false, &flipped), Err(OpenError));
        }
    }
}
