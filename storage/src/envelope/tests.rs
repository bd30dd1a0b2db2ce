use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::keys::MasterKeys;

const PATH: &str = "chunk/ab/abcd";
const KIND: ObjectKind = ObjectKind::Chunk;

fn envelope(suite: DigestSuite, cipher: Cipher) -> Envelope {
    let keys = match cipher {
        Cipher::None => None,
        Cipher::Aes256Cbc => {
            let masters = BTreeMap::from([(1, MasterKeys::generate().unwrap())]);
            KeyRing::new(&masters).unwrap()
        }
    };
    Envelope::new(suite, keys)
}

/// One envelope of each kind.
fn envelopes() -> Vec<Envelope> {
    [DigestSuite::Blake3, DigestSuite::Sha256]
        .into_iter()
        .flat_map(|suite| [Cipher::None, Cipher::Aes256Cbc].map(|cipher| envelope(suite, cipher)))
        .collect()
}

fn payload(envelope: &Envelope, plain: &[u8]) -> Payload {
    Payload::pack(envelope.suite, Codec::Zst, None, plain).unwrap()
}

fn seal(envelope: &Envelope, payload: &Payload) -> Vec<u8> {
    envelope.seal(PATH, KIND, payload).unwrap().concat()
}

fn open(envelope: &Envelope, object: &[u8]) -> Result<Opened, EnvelopeError> {
    envelope.open(PATH, KIND, Bytes::copy_from_slice(object))
}

#[test]
fn every_flipped_bit_is_found() {
    for envelope in envelopes() {
        let payload = payload(&envelope, &[7; 300]);
        let object = seal(&envelope, &payload);
        for index in 0..object.len() {
            for bit in 0..8 {
                let mut damaged = object.clone();
                damaged[index] ^= 1 << bit;
                assert!(open(&envelope, &damaged).is_err(), "byte {index}, bit {bit}");
            }
        }
    }
}

#[test]
fn every_other_length_is_found() {
    for envelope in envelopes() {
        let payload = payload(&envelope, &[7; 300]);
        let mut object = seal(&envelope, &payload);
        for length in 0..object.len() {
            assert!(open(&envelope, &object[..length]).is_err(), "cut at {length}");
        }
        for _ in 0..64 {
            object.push(0);
            assert!(open(&envelope, &object).is_err(), "{} bytes", object.len());
        }
    }
}

#[test]
fn an_object_is_good_at_its_own_place_only() {
    for envelope in envelopes() {
        let object = Bytes::from(seal(&envelope, &payload(&envelope, b"content")));
        assert!(matches!(
            envelope.open("chunk/ab/abcd.g1", KIND, object.clone()),
            Err(EnvelopeError::Tag)
        ));
        assert!(matches!(
            envelope.open(PATH, ObjectKind::Manifest, object),
            Err(EnvelopeError::Header { field: "kind", .. })
        ));
    }
}

#[test]
fn another_repositorys_object_is_refused() {
    for suite in [DigestSuite::Blake3, DigestSuite::Sha256] {
        let (one, other) = (envelope(suite, Cipher::Aes256Cbc), envelope(suite, Cipher::Aes256Cbc));
        let object = seal(&one, &payload(&one, b"content"));
        assert!(matches!(open(&other, &object), Err(EnvelopeError::Tag)));
    }
}

#[test]
fn an_unencrypted_object_in_an_encrypted_repository_is_refused() {
    let plain = envelope(DigestSuite::Blake3, Cipher::None);
    let encrypted = envelope(DigestSuite::Blake3, Cipher::Aes256Cbc);
    let forged = seal(&plain, &payload(&plain, b"content"));
    assert!(matches!(
        open(&encrypted, &forged),
        Err(EnvelopeError::Header { field: "cipher", .. })
    ));
    let object = seal(&encrypted, &payload(&encrypted, b"content"));
    assert!(open(&plain, &object).is_err());
}

#[test]
fn old_epochs_stay_readable_and_unknown_ones_are_named() {
    let old = MasterKeys::generate().unwrap();
    let new = MasterKeys {
        naming: old.naming.clone(),
        ..MasterKeys::generate().unwrap()
    };
    let old_ring = BTreeMap::from([(1, old)]);
    let suite = DigestSuite::Blake3;
    let before = Envelope::new(suite, KeyRing::new(&old_ring).unwrap());
    let mut both = old_ring;
    both.insert(2, new);
    let after = Envelope::new(suite, KeyRing::new(&both).unwrap());
    let payload = payload(&before, b"content");
    let object = seal(&before, &payload);
    assert_eq!(open(&after, &object).unwrap().bytes, payload.bytes);
    let newer = seal(&after, &payload);
    assert!(matches!(open(&before, &newer), Err(EnvelopeError::Epoch { epoch: 2 })));
    assert_eq!(before.naming_key(), after.naming_key());
}

#[test]
fn the_layout_is_the_documented_one() {
    let envelope = envelope(DigestSuite::Sha256, Cipher::None);
    let payload = Payload::pack(DigestSuite::Sha256, Codec::None, None, b"abc").unwrap();
    let object = seal(&envelope, &payload);
    let header = b"\x89pgmesh\n\x01\x01\x02\x00\0\0\0\0\x00\0\0\0\x03\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0";
    assert_eq!(&object[..36], header);
    assert_eq!(&object[36..39], b"abc");
    let mut covered = b"\x0d\0\0\0chunk/ab/abcd".to_vec();
    covered.extend_from_slice(&object[..39]);
    assert_eq!(object[39..], DigestSuite::Sha256.digest(&covered).0);
}

#[test]
fn two_seals_of_one_payload_share_no_ciphertext() {
    let envelope = envelope(DigestSuite::Blake3, Cipher::Aes256Cbc);
    let payload = payload(&envelope, b"content");
    let (one, two) = (seal(&envelope, &payload), seal(&envelope, &payload));
    assert_eq!(one[..36], two[..36]);
    assert_ne!(one[36..52], two[36..52], "the initialisation vector is fresh");
    assert_ne!(one[52..], two[52..]);
}

proptest! {
    #[test]
    fn seal_and_open(plain in prop::collection::vec(any::<u8>(), 0..200), shared: bool) {
        for envelope in envelopes() {
            let payload = payload(&envelope, &plain);
            let object = Bytes::from(seal(&envelope, &payload));
            let kept = shared.then(|| object.clone());
            let opened = envelope.open(PATH, KIND, object).unwrap();
            prop_assert_eq!(opened.bytes, payload.bytes);
            prop_assert_eq!(opened.codec, payload.codec);
            prop_assert_eq!(opened.plain_length, payload.plain_length);
            if let Some(kept) = kept {
                // Decrypting a shared buffer has not changed it.
                prop_assert!(envelope.open(PATH, KIND, kept).is_ok());
            }
        }
    }

    #[test]
    fn any_bytes_are_answered(bytes: Vec<u8>) {
        for envelope in envelopes() {
            prop_assert!(open(&envelope, &bytes).is_err());
            let mut object = b"\x89pgmesh\n\x01\x01\x01\x00".to_vec();
            object.extend_from_slice(&bytes);
            prop_assert!(open(&envelope, &object).is_err());
        }
    }
}
