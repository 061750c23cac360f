#![allow(clippy::unwrap_used)]
use super::*;
use crate::crypto::{Argon2Parameters, KEY_LEN, KeyEncryptionKey, MasterKey, SALT_LEN};
use crate::format::config::{Config, Derivation, SlotId, SlotParameters};
use proptest::prelude::*;

fn sample() -> (ArchiveHeader, ArchiveKey) {
    let master = MasterKey::from_bytes(&[5; KEY_LEN]);
    let mut config = Config::new(1_700_000_000);
    let parameters = SlotParameters {
        id: SlotId(1),
        label: "a passphrase".into(),
        created: 1_700_000_000,
        derivation: Derivation::Passphrase(Argon2Parameters::insecure_for_tests()),
        salt: [3; SALT_LEN],
    };
    let slot = config.wrap(parameters, &KeyEncryptionKey::from_bytes(&[1; KEY_LEN]), &master);
    config.slots.push(slot);
    let id = ArchiveId([9; ARCHIVE_ID_LEN]);
    let header = ArchiveHeader {
        compression: Compression::Gzip,
        segment_log2: 16,
        id,
        config: config.seal(&master.config_key()),
    };
    (header, master.archive_key(&id.0))
}

#[test]
fn header_and_back() {
    let (header, key) = sample();
    let bytes = header.encode(&key);
    assert_eq!(header_len(bytes.first_chunk().unwrap()).unwrap(), bytes.len());
    let read = UnverifiedHeader::decode(bytes).unwrap();
    assert_eq!(*read.unverified(), header);
    assert_eq!(read.verify(&key).unwrap().0, header);
}

#[test]
fn every_flipped_bit_of_the_header_is_found() {
    let (header, key) = sample();
    let bytes = header.encode(&key);
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let accepted = UnverifiedHeader::decode(flipped).and_then(|header| header.verify(&key));
        assert!(accepted.is_err(), "bit {bit}");
    }
    for end in 0..bytes.len() {
        assert!(UnverifiedHeader::decode(bytes[..end].to_vec()).is_err());
    }
    let other = MasterKey::from_bytes(&[6; KEY_LEN]).archive_key(&header.id.0);
    let read = UnverifiedHeader::decode(bytes).unwrap();
    assert_eq!(read.verify(&other).err(), Some(ArchiveFormatError::Forged));
}

#[test]
fn ids_as_text() {
    let id = ArchiveId::random();
    assert_eq!(id.to_string().parse(), Ok(id));
    for wrong in ["", "00", &id.to_string()[1..], &"g".repeat(64), &"A".repeat(64)] {
        assert_eq!(wrong.parse::<ArchiveId>(), Err(ArchiveIdError), "{wrong}");
    }
}

#[test]
fn footers_fit_their_payload() {
    let footer = Footer { index_offset: 100, compressed_len: 1000 };
    assert_eq!(Footer::decode(&footer.encode(), 1024), Ok(footer));
    assert!(Footer::decode(&footer.encode(), 1025).is_err());
    let past = Footer { index_offset: 1000, compressed_len: 1000 };
    assert!(Footer::decode(&past.encode(), 1024).is_err());
    let overflow = Footer { index_offset: 1, compressed_len: u64::MAX };
    assert!(Footer::decode(&overflow.encode(), 1024).is_err());
    let mut wrong = footer.encode();
    wrong[0] ^= 1;
    assert!(Footer::decode(&wrong, 1024).is_err());
}

proptest! {
    #[test]
    fn segments_cover_the_payload(header in 0u64..5000, payload in 1u64..200_000, log2 in 12u8..17) {
        let segments = payload.div_ceil(1 << log2);
        let file = header + payload + segments * 16;
        let layout = SegmentLayout::new(header, log2, file).unwrap();
        prop_assert_eq!(layout.payload_len(), payload);
        prop_assert_eq!(layout.segments(), segments);
        let mut at = header;
        for index in 0..segments {
            let (offset, length, number, last) = layout.segment(index).unwrap();
            prop_assert_eq!((offset, u64::from(number), last), (at, index, index + 1 == segments));
            at += length as u64;
        }
        prop_assert_eq!(at, file);
        prop_assert_eq!(layout.segment(segments), None);
    }

    #[test]
    fn any_length_and_any_bytes_are_survived(
        header: u64, log2: u8, file: u64, bytes in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let _ = SegmentLayout::new(header, log2, file);
        if let Some(prefix) = bytes.first_chunk() {
            let _ = header_len(prefix);
        }
        prop_assert!(UnverifiedHeader::decode(bytes).is_err());
    }
}
