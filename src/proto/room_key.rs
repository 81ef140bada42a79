//! Room keys, and gossip sealed with them.
//!
//! A room key is 32 random bytes; its id is a hash of it and of the room, so an id names one key
//! and tells nothing of it. A sealed message is
//!
//! ```text
//! 01 ‖ id of the room key, 16 bytes ‖ nonce, 24 bytes ‖ XChaCha20-Poly1305
//! ```
//!
//! under a key that HKDF derives from the room key for the topic; version, id and topic are
//! authenticated with it. Invariants: a message opens under the key, and on the topic, that it was
//! sealed for, and not at all where a bit was changed; its length tells its bucket and no more.

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
/// Version of the format.
const VERSION: u8 = 1;
const ID_LEN: usize = 16;
const HEADER_LEN: usize = 1 + ID_LEN + NONCE_LEN;
/// Authenticates the ciphertext.
const TAG_LEN: usize = 16;
/// The length of the message stands before it, inside.
const LENGTH_LEN: usize = 4;
/// The smallest bucket: typing, receipts and short messages look alike.
const BUCKET_MIN: usize = 4 * 1024;

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
        let length =
            u32::try_from(message.len()).map_err(|error| ProtoError::malformed(WHAT, error))?;
        let mut plain = Vec::with_capacity(bucket(LENGTH_LEN + message.len()));
        plain.extend_from_slice(&length.to_be_bytes());
        plain.extend_from_slice(message);
        plain.resize(bucket(plain.len()), 0);
        let authenticated = authenticated(self.id, topic);
        let payload = Payload { msg: &plain, aad: &authenticated };
        let sealed = self
            .cipher(topic)
            .encrypt(&XNonce::from(nonce), payload)
            .map_err(|error| ProtoError::malformed(WHAT, error))?;
        Ok([&[VERSION][..], &self.id.0, &nonce, &sealed].concat())
    }

    /// Opens what was sealed with this key for a topic.
    pub fn open(&self, topic: &str, sealed: &[u8]) -> Result<Vec<u8>, ProtoError> {
        let (id, nonce, sealed) = parts(sealed)?;
        if id != self.id {
            return Err(ProtoError::malformed(WHAT, "sealed with another key"));
        }
        let authenticated = authenticated(id, topic);
        let payload = Payload { msg: sealed, aad: &authenticated };
        let mut plain = self
            .cipher(topic)
            .decrypt(&XNonce::from(nonce), payload)
            .map_err(|_| ProtoError::malformed(WHAT, "it does not open"))?;
        let length = plain.first_chunk().map(|length| u32::from_be_bytes(*length));
        let end = length
            .and_then(|length| LENGTH_LEN.checked_add(usize::try_from(length).ok()?))
            .filter(|end| *end <= plain.len())
            .ok_or_else(|| ProtoError::malformed(WHAT, "its length is wrong"))?;
        plain.truncate(end);
        plain.drain(..LENGTH_LEN);
        Ok(plain)
    }
}

/// Returns the id of the key that a message is sealed with.
pub fn key_id(sealed: &[u8]) -> Result<KeyId, ProtoError> {
    parts(sealed).map(|(id, _, _)| id)
}

/// Returns the largest message that is sealed within `limit` bytes.
pub const fn capacity(limit: usize) -> usize {
    let room = limit.saturating_sub(HEADER_LEN + TAG_LEN);
    // The largest bucket that fits: one step less than the power of two keeps to the steps of it.
    let step = step(room);
    (room - room % step).saturating_sub(LENGTH_LEN)
}

fn authenticated(id: KeyId, topic: &str) -> Vec<u8> {
    [&[VERSION][..], &id.0, topic.as_bytes()].concat()
}

/// Takes a message apart, as far as it can be without the key.
fn parts(sealed: &[u8]) -> Result<(KeyId, [u8; NONCE_LEN], &[u8]), ProtoError> {
    let read = || {
        let (version, rest) = sealed.split_first()?;
        let (id, rest) = rest.split_first_chunk()?;
        let (nonce, rest) = rest.split_first_chunk()?;
        let whole = *version == VERSION && rest.len() >= BUCKET_MIN + TAG_LEN;
        whole.then_some((KeyId(*id), *nonce, rest))
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
        for length in [0, 1, 17, 40, 41, 57, 4000, sealed.len() - 1] {
            assert!(key(1).open("topic", &sealed[..length]).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn what_is_not_sealed_is_told_at_once() {
        for bytes in [&b""[..], b"{}", &[b'{'; 8000], &[0; 8000], &[VERSION; 100]] {
            assert!(key_id(bytes).is_err());
        }
    }

    #[test]
    fn short_messages_have_one_length() {
        let length = |len| key(1).seal("t", [0; NONCE_LEN], &vec![1; len]).unwrap().len();
        assert_eq!(length(0), length(4000));
        assert_ne!(length(4000), length(5000));
    }

    #[test]
    fn the_largest_that_fits_fits() {
        let limit = 500_000;
        let message = vec![0x5a; capacity(limit)];
        let sealed = key(3).seal("topic", [1; NONCE_LEN], &message).unwrap();
        assert!(sealed.len() <= limit);
        assert_eq!(key(3).open("topic", &sealed).unwrap(), message);
    }

    proptest! {
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
            prop_assert!(HEADER_LEN + TAG_LEN + bucket(LENGTH_LEN + most) <= limit);
        }
    }
}
