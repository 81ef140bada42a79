//! Room keys, and gossip sealed with them.
//!
//! A room key is 32 random bytes; its id is a hash of it and of the room, so an id names one key
//! and tells nothing of it. A sealed message is
//!
//! ```text
//! 02 ‖ id of the room key, 16 bytes ‖ nonce, 24 bytes ‖ XChaCha20-Poly1305
//! ```
//!
//! under a key that HKDF derives from the room key for the topic; version, id and topic are
//! authenticated with it. Inside is the message, deflated: names, ids and certificates stand in it
//! again and again. The first release did not deflate (01); what it seals is opened. Invariants: a
//! message opens under the key, and on the topic, that it was sealed for, and not at all where a bit
//! was changed; its length tells its bucket and no more; nothing that is opened is longer than
//! [`MESSAGE_MAX`], whatever it says of itself.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use chacha20poly1305::{
    XChaCha20Poly1305, XNonce,
    aead::{Aead as _, KeyInit as _, Payload},
};
use hkdf::Hkdf;
use ruma::RoomId;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use sha2::{Digest as _, Sha256};

use super::ProtoError;

/// Bytes of a room key.
pub const KEY_LEN: usize = 32;
/// Bytes of a nonce.
pub const NONCE_LEN: usize = 24;
/// Longest message inside, however short it is when deflated.
pub const MESSAGE_MAX: usize = 512 * 1024;
/// Version of the format.
const VERSION: u8 = 2;
/// That of the first release, which does not deflate.
const VERSION_PLAIN: u8 = 1;
const ID_LEN: usize = 16;
const HEADER_LEN: usize = 1 + ID_LEN + NONCE_LEN;
/// Authenticates the ciphertext.
const TAG_LEN: usize = 16;
/// The length of the message stands before it, inside.
const LENGTH_LEN: usize = 4;
/// The smallest bucket: typing, receipts and short messages look alike. With all that is around it
/// on a connection such a message goes into one packet of a network with 1,500 bytes.
const BUCKET_MIN: usize = 1_280;
/// That of the first release.
const BUCKET_MIN_PLAIN: usize = 4 * 1024;
/// How hard it is tried to deflate, of 10: more takes longer and gains a few bytes of short messages.
const DEFLATE_LEVEL: u8 = 6;

/// What errors call it.
const WHAT: &str = "sealed message";

/// Names a room key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId([u8; ID_LEN]);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD_NO_PAD.encode(self.0))
    }
}

impl Serialize for KeyId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for KeyId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        bytes(deserializer).map(Self)
    }
}

/// A room key, without the room: as it is sent and stored.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Secret(pub [u8; KEY_LEN]);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD_NO_PAD.encode(self.0))
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        bytes(deserializer).map(Self)
    }
}

fn bytes<'de, D: Deserializer<'de>, const N: usize>(deserializer: D) -> Result<[u8; N], D::Error> {
    let text = String::deserialize(deserializer)?;
    let bytes = STANDARD_NO_PAD.decode(text).map_err(D::Error::custom)?;
    bytes.try_into().map_err(|_| D::Error::custom("of another length"))
}

/// A key of one room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoomKey {
    id: KeyId,
    secret: Secret,
}

impl RoomKey {
    /// Takes a secret for the key of a room.
    pub fn new(room_id: &RoomId, secret: Secret) -> Self {
        let mut hash = Sha256::new();
        hash.update(b"messagehub room key 1");
        hash.update(room_id.as_bytes());
        hash.update(secret.0);
        let hash: [u8; 32] = hash.finalize().into();
        let mut id = [0; ID_LEN];
        id.iter_mut().zip(hash).for_each(|(id, hash)| *id = hash);
        Self { id: KeyId(id), secret }
    }

    /// Returns its id.
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// Returns the secret, to send it to a member or to store it.
    pub fn secret(&self) -> Secret {
        self.secret
    }

    fn cipher(&self, topic: &str) -> XChaCha20Poly1305 {
        let mut key = [0; KEY_LEN];
        Hkdf::<Sha256>::new(None, &self.secret.0)
            .expand_multi_info(&[b"messagehub gossip 1", topic.as_bytes()], &mut key)
            .unwrap_or_else(|_| unreachable!("HKDF gives 32 bytes"));
        XChaCha20Poly1305::new(&key.into())
    }

    /// Seals a message for a topic. The nonce is random and never used again.
    pub fn seal(
        &self,
        topic: &str,
        nonce: [u8; NONCE_LEN],
        message: &[u8],
    ) -> Result<Vec<u8>, ProtoError> {
        if message.len() > MESSAGE_MAX {
            let (len, limit) = (message.len(), MESSAGE_MAX);
            return Err(ProtoError::TooLarge { what: WHAT, len, limit });
        }
        let message = miniz_oxide::deflate::compress_to_vec(message, DEFLATE_LEVEL);
        let mut plain = Vec::with_capacity(bucket(LENGTH_LEN + message.len()));
        put_length(&mut plain, message.len())?;
        plain.extend_from_slice(&message);
        plain.resize(bucket(plain.len()), 0);
        self.encrypt(VERSION, topic, nonce, &plain)
    }

    fn encrypt(
        &self,
        version: u8,
        topic: &str,
        nonce: [u8; NONCE_LEN],
        plain: &[u8],
    ) -> Result<Vec<u8>, ProtoError> {
        let authenticated = authenticated(version, self.id, topic);
        let payload = Payload { msg: plain, aad: &authenticated };
        let sealed = self
            .cipher(topic)
            .encrypt(&XNonce::from(nonce), payload)
            .map_err(|error| ProtoError::malformed(WHAT, error))?;
        Ok([&[version][..], &self.id.0, &nonce, &sealed].concat())
    }

    /// Opens what was sealed with this key for a topic.
    pub fn open(&self, topic: &str, sealed: &[u8]) -> Result<Vec<u8>, ProtoError> {
        let Parts { version, id, nonce, sealed } = parts(sealed)?;
        if id != self.id {
            return Err(ProtoError::malformed(WHAT, "sealed with another key"));
        }
        let authenticated = authenticated(version, id, topic);
        let payload = Payload { msg: sealed, aad: &authenticated };
        let plain = self
            .cipher(topic)
            .decrypt(&XNonce::from(nonce), payload)
            .map_err(|_| ProtoError::malformed(WHAT, "it does not open"))?;
        unpack(version, &plain)
    }
}

fn put_length(plain: &mut Vec<u8>, length: usize) -> Result<(), ProtoError> {
    let length = u32::try_from(length).map_err(|error| ProtoError::malformed(WHAT, error))?;
    plain.extend_from_slice(&length.to_be_bytes());
    Ok(())
}

/// Takes the message out of what was encrypted.
fn unpack(version: u8, plain: &[u8]) -> Result<Vec<u8>, ProtoError> {
    let message = plain.split_first_chunk().and_then(|(length, rest)| {
        let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
        rest.get(..length)
    });
    let message = message.ok_or_else(|| ProtoError::malformed(WHAT, "its length is wrong"))?;
    if version == VERSION_PLAIN {
        return Ok(message.to_vec());
    }
    miniz_oxide::inflate::decompress_to_vec_with_limit(message, MESSAGE_MAX)
        .map_err(|error| ProtoError::malformed(WHAT, error))
}

/// Returns the id of the key that a message is sealed with.
pub fn key_id(sealed: &[u8]) -> Result<KeyId, ProtoError> {
    parts(sealed).map(|parts| parts.id)
}

/// Returns the largest message that is sealed within `limit` bytes, whatever is in it.
pub const fn capacity(limit: usize) -> usize {
    let room = limit.saturating_sub(HEADER_LEN + TAG_LEN);
    // The largest bucket that fits: one step less than the power of two keeps to the steps of it.
    let step = step(room);
    let bucket = room - room % step;
    // What cannot be deflated grows by some bytes for every block.
    bucket.saturating_sub(LENGTH_LEN + bucket / 4096 + 64)
}

fn authenticated(version: u8, id: KeyId, topic: &str) -> Vec<u8> {
    [&[version][..], &id.0, topic.as_bytes()].concat()
}

/// A sealed message, as far as it can be read without the key.
struct Parts<'a> {
    version: u8,
    id: KeyId,
    nonce: [u8; NONCE_LEN],
    sealed: &'a [u8],
}

fn parts(sealed: &[u8]) -> Result<Parts<'_>, ProtoError> {
    let read = || {
        let (version, rest) = sealed.split_first()?;
        let (id, rest) = rest.split_first_chunk()?;
        let (nonce, sealed) = rest.split_first_chunk()?;
        let least = match *version {
            VERSION => BUCKET_MIN,
            VERSION_PLAIN => BUCKET_MIN_PLAIN,
            _ => return None,
        };
        let parts = Parts { version: *version, id: KeyId(*id), nonce: *nonce, sealed };
        (sealed.len() >= least + TAG_LEN).then_some(parts)
    };
    read().ok_or_else(|| ProtoError::malformed(WHAT, "it is not sealed"))
}

/// Returns how far apart buckets of about this length are (Padmé, of the PURBs paper): a length
/// grows by 12 % at most, and tells no more than a floating-point number of few bits would.
const fn step(length: usize) -> usize {
    if length < 2 {
        return 1;
    }
    let exponent = length.ilog2();
    let mantissa = exponent.ilog2() + 1;
    1 << exponent.saturating_sub(mantissa)
}

/// Returns the length that a message is padded to.
fn bucket(length: usize) -> usize {
    length.next_multiple_of(step(length)).max(BUCKET_MIN)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ruma::room_id;

    use super::*;

    fn key(byte: u8) -> RoomKey {
        RoomKey::new(room_id!("!room:x"), Secret([byte; KEY_LEN]))
    }

    #[test]
    fn an_id_names_key_and_room() {
        // SHA-256("messagehub room key 1" ‖ "!room:x" ‖ 32 times 01), its first 16 bytes.
        assert_eq!(key(1).id().to_string(), "1fXwhac8v7StirecZZKr2w");
        assert_ne!(key(1).id(), key(2).id());
        let elsewhere = RoomKey::new(room_id!("!other:x"), Secret([1; KEY_LEN]));
        assert_ne!(key(1).id(), elsewhere.id());
        assert_eq!(format!("{:?}", key(1).secret()), "Secret(..)");
    }

    #[test]
    fn every_bit_of_a_sealed_message_counts() {
        let sealed = key(1).seal("topic", [7; NONCE_LEN], b"hello").unwrap();
        assert_eq!(key_id(&sealed), Ok(key(1).id()));
        assert_eq!(key(1).open("topic", &sealed).unwrap(), b"hello");
        assert!(key(1).open("another", &sealed).is_err(), "another topic");
        assert!(key(2).open("topic", &sealed).is_err(), "another key");
        for at in (0..sealed.len()).step_by(13).chain(0..64) {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(key(1).open("topic", &changed).is_err(), "byte {at}");
        }
        for length in [0, 1, 17, 40, 41, 57, 1000, sealed.len() - 1] {
            assert!(key(1).open("topic", &sealed[..length]).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn what_is_not_sealed_is_told_at_once() {
        let others = [&[VERSION; 100][..], &[VERSION_PLAIN; 2000], &[3; 8000]];
        for bytes in [&b""[..], b"{}", &[b'{'; 8000], &[0; 8000]].into_iter().chain(others) {
            assert!(key_id(bytes).is_err());
        }
    }

    /// Bytes that nothing makes shorter.
    fn noise(len: usize) -> Vec<u8> {
        let mut last = 1_u64;
        let mut next = || {
            last = last.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            last.to_be_bytes()[0]
        };
        (0..len).map(|_| next()).collect()
    }

    #[test]
    fn short_messages_have_one_length() {
        let length = |len| key(1).seal("t", [0; NONCE_LEN], &noise(len)).unwrap().len();
        assert_eq!(length(0), length(1200));
        assert_ne!(length(1200), length(1400));
    }

    #[test]
    fn the_largest_that_fits_fits() {
        for limit in [8_000, 500_000, 511 * 1024] {
            for message in [vec![0x5a; capacity(limit)], noise(capacity(limit))] {
                let sealed = key(3).seal("topic", [1; NONCE_LEN], &message).unwrap();
                assert!(sealed.len() <= limit);
                assert_eq!(key(3).open("topic", &sealed).unwrap(), message);
            }
        }
    }

    /// Seals what is to be inside, as a member who keeps to no rule may.
    fn seal_plain(version: u8, plain: &[u8]) -> Vec<u8> {
        key(1).encrypt(version, "topic", [7; NONCE_LEN], plain).unwrap()
    }

    #[test]
    fn what_the_first_release_sealed_opens() {
        let mut plain = [&5_u32.to_be_bytes()[..], b"hello"].concat();
        plain.resize(BUCKET_MIN_PLAIN, 0);
        let sealed = seal_plain(VERSION_PLAIN, &plain);
        assert_eq!(key(1).open("topic", &sealed).unwrap(), b"hello");
        let mut other = sealed.clone();
        other[0] = VERSION;
        assert!(key(1).open("topic", &other).is_err(), "the version is authenticated");
        let short = seal_plain(VERSION_PLAIN, &plain[..BUCKET_MIN]);
        assert!(key(1).open("topic", &short).is_err(), "shorter than that release seals");
    }

    #[test]
    fn attack_13_a_message_that_swells_beyond_all_limits_is_refused() {
        let swollen = |len| {
            let deflated = miniz_oxide::deflate::compress_to_vec(&vec![0; len], 10);
            let length = u32::try_from(deflated.len()).unwrap();
            let mut plain = [&length.to_be_bytes()[..], &deflated].concat();
            plain.resize(bucket(plain.len()), 0);
            key(1).open("topic", &seal_plain(VERSION, &plain))
        };
        assert_eq!(swollen(MESSAGE_MAX).map(|message| message.len()), Ok(MESSAGE_MAX));
        assert!(swollen(MESSAGE_MAX + 1).is_err());
        assert!(swollen(64 * 1024 * 1024).is_err());
        assert!(key(1).seal("topic", [7; NONCE_LEN], &vec![0; MESSAGE_MAX + 1]).is_err());
    }

    proptest! {
        #[test]
        fn whatever_a_member_seals_is_opened_or_refused(
            length in 0_u32..3000,
            mut plain in proptest::collection::vec(any::<u8>(), 0..2000),
            version in 0_u8..4,
        ) {
            plain.splice(0..0, length.to_be_bytes());
            plain.resize(plain.len().max(BUCKET_MIN_PLAIN), 0);
            if let Ok(message) = key(1).open("topic", &seal_plain(version, &plain)) {
                prop_assert!(message.len() <= MESSAGE_MAX);
            }
        }

        #[test]
        fn padding_hides_the_length_and_costs_little(length in 0_usize..600_000) {
            let padded = bucket(length);
            prop_assert!(padded >= length && padded <= length.max(BUCKET_MIN) * 112 / 100);
            prop_assert_eq!(bucket(padded), padded);
        }

        #[test]
        fn what_fits_is_nearly_all(limit in 8_000_usize..600_000) {
            let most = capacity(limit);
            prop_assert!(most * 100 >= limit * 85, "{} of {}", most, limit);
            let grown = LENGTH_LEN + most + most / 4096 + 64;
            prop_assert!(HEADER_LEN + TAG_LEN + bucket(grown) <= limit);
        }
    }
}
