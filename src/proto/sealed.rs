//! Signed requests sealed to their destination, so that others can carry them unread
//! (`docs/PROTOCOL.md` §4).
//!
//! A request is sealed by HPKE (RFC 9180) to the encryption key in the destination's server_keys.
//! The answer comes back under a key that only the two ends can derive, as in Oblivious HTTP (RFC
//! 9458). What a seal vouches for is secrecy and the destination; who asks, and who answers, is
//! proven by the signatures inside.
//!
//! Invariants: a seal opens only at its destination and with the lifetime it was made with; an
//! answer opens only for whoever sealed the request; an answer is cut into pieces, so that no
//! carrier holds more than one of them.

use chacha20poly1305::{ChaCha20Poly1305, KeyInit as _, aead::Aead as _};
use hkdf::Hkdf;
use hpke::{
    Deserializable as _, Kem as _, OpModeR, OpModeS, Serializable as _,
    rand_core::{TryCryptoRng, TryRng},
};
use ruma::{
    OwnedServerName, ServerName,
    serde::{Base64, base64::Standard},
};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{
    ProtoError,
    signed::{FRESH_MS, MAX_ANSWER_LEN},
};

/// Connections that a sealed request may cross: two carriers, and the way to the destination.
pub const HOPS_MAX: u8 = 3;
/// Largest request that is carried. Its base64 and what is around it have to fit a request.
pub const MAX_CARRIED_LEN: usize = 1024 * 1024;
/// Most bytes of an answer that are carried at once; the rest is fetched piece by piece.
pub const PIECE_LEN: usize = 512 * 1024;
/// How long a sealed request lives: as long as the signed one inside.
pub const LIFETIME_MS: u64 = FRESH_MS;
/// Lengths are hidden up to this many bytes.
const BUCKET: usize = 1024;
/// Largest sealed request: version and key id, encapsulated key, length, padding, tag.
const MAX_SEALED_LEN: usize = HEADER_LEN + KEY_LEN + 4 + MAX_CARRIED_LEN + BUCKET + TAG_LEN;
/// Largest sealed answer: nonce, three numbers, padding, tag.
pub const MAX_SEALED_ANSWER_LEN: usize = KEY_LEN + 12 + PIECE_LEN + BUCKET + TAG_LEN;

/// The format, in the first byte and in what the key is derived from.
const VERSION: u8 = 1;
/// Version, and the first 4 bytes of the key that it is sealed to.
const HEADER_LEN: usize = 5;
const KEY_LEN: usize = 32;
const NONCE_LEN: usize = 12;
const TAG_LEN: usize = 16;
const REQUEST_LABEL: &[u8] = b"messagehub sealed request";
const ANSWER_LABEL: &[u8] = b"messagehub sealed answer";

type Kem = hpke::kem::X25519HkdfSha256;
type Kdf = hpke::kdf::HkdfSha256;
type Cipher = hpke::aead::ChaCha20Poly1305;

/// A sealed request on its way: the body of `PUT …/carry/{destination}`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Parcel {
    /// Which connection of the way this is: 1 from whoever sealed it, [`HOPS_MAX`] at most.
    pub hops: u8,
    /// The sealed request.
    pub sealed: Base64<Standard>,
    /// When it dies, in milliseconds. Part of the seal.
    pub expires_ts: u64,
    /// How long whoever handed it on still waits, in milliseconds.
    pub wait_ms: u64,
}

impl Parcel {
    /// Checks what a carrier can check. `now` is in milliseconds.
    pub fn check(&self, now: u64) -> Result<(), ProtoError> {
        let malformed = |why: &str| ProtoError::malformed("carried request", why);
        let len = self.sealed.as_bytes().len();
        if len > MAX_SEALED_LEN {
            return Err(ProtoError::TooLarge {
                what: "carried request",
                len,
                limit: MAX_SEALED_LEN,
            });
        }
        if !(1..=HOPS_MAX).contains(&self.hops) {
            return Err(malformed("it came over too many connections"));
        }
        if self.expires_ts < now {
            return Err(ProtoError::NotFresh(self.expires_ts.cast_signed() - now.cast_signed()));
        }
        // Clocks may differ by as much as a signed request may be off.
        if self.expires_ts - now > LIFETIME_MS + FRESH_MS {
            return Err(malformed("it lives for too long"));
        }
        Ok(())
    }

    /// Returns what tells it apart from others.
    pub fn hash(&self) -> [u8; 32] {
        Sha256::digest(self.sealed.as_bytes()).into()
    }
}

/// A carried answer: the body of what a carrier answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SealedAnswer {
    /// The sealed piece.
    pub sealed: Base64<Standard>,
}

/// A piece of a signed answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Length of the whole answer.
    pub total: usize,
    /// Where this piece begins.
    pub from: usize,
    /// The piece.
    pub bytes: Vec<u8>,
}

impl Piece {
    /// Cuts a piece out of an answer.
    pub fn cut(answer: &[u8], from: usize) -> Option<Self> {
        let until = from.saturating_add(PIECE_LEN).min(answer.len());
        let bytes = answer.get(from..until)?.to_vec();
        Some(Self { total: answer.len(), from, bytes })
    }
}

/// What the answer to one sealed request is sealed with. Both ends derive the same.
#[derive(Clone)]
struct AnswerKey {
    secret: [u8; KEY_LEN],
    encapsulated: Vec<u8>,
}

impl AnswerKey {
    /// RFC 9458 §4.4: fresh for each answer by its nonce.
    fn cipher(&self, nonce: &[u8; KEY_LEN]) -> Option<(ChaCha20Poly1305, [u8; NONCE_LEN])> {
        let salt = [self.encapsulated.as_slice(), nonce].concat();
        let derived = Hkdf::<Sha256>::new(Some(&salt), &self.secret);
        let (mut key, mut iv) = ([0; KEY_LEN], [0; NONCE_LEN]);
        derived.expand(b"key", &mut key).ok()?;
        derived.expand(b"nonce", &mut iv).ok()?;
        Some((ChaCha20Poly1305::new(&key.into()), iv))
    }
}

/// Seals answers to one request; the destination has it.
#[derive(Clone)]
pub struct AnswerSealer(AnswerKey);

/// Opens answers to one request; whoever sealed that has it.
#[derive(Clone)]
pub struct AnswerOpener(AnswerKey);

impl std::fmt::Debug for AnswerSealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AnswerSealer(..)")
    }
}

impl std::fmt::Debug for AnswerOpener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AnswerOpener(..)")
    }
}

/// Randomness that was given as bytes. The encapsulation takes exactly one key's worth.
struct Given([u8; KEY_LEN]);

impl TryRng for Given {
    type Error = std::convert::Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        let mut bytes = [0; 4];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, into: &mut [u8]) -> Result<(), Self::Error> {
        for chunk in into.chunks_mut(KEY_LEN) {
            for (to, from) in chunk.iter_mut().zip(self.0) {
                *to = from;
            }
            // Whoever asks for more gets something else, never the same again.
            self.0 = Sha256::digest(self.0).into();
        }
        Ok(())
    }
}

impl TryCryptoRng for Given {}

/// What the key is derived from besides the secret: format, destination and lifetime are bound.
fn info(header: &[u8], destination: &ServerName, expires_ts: u64) -> Vec<u8> {
    [REQUEST_LABEL, &[0], header, &expires_ts.to_be_bytes(), destination.as_bytes()].concat()
}

fn header(public: &[u8]) -> Vec<u8> {
    std::iter::once(VERSION).chain(public.iter().copied().take(HEADER_LEN - 1)).collect()
}

/// Fills up to a multiple of [`BUCKET`].
fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(BUCKET), 0);
}

fn refused(why: &'static str) -> ProtoError {
    ProtoError::BadSeal(why)
}

fn read_u32(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let (number, rest) = bytes.split_first_chunk::<4>()?;
    Some((usize::try_from(u32::from_be_bytes(*number)).ok()?, rest))
}

/// Reads a length, that many bytes, and nothing but padding after them.
fn read_padded(bytes: &[u8]) -> Option<&[u8]> {
    let (length, rest) = read_u32(bytes)?;
    let (bytes, padding) = rest.split_at_checked(length)?;
    padding.iter().all(|byte| *byte == 0).then_some(bytes)
}

fn u32_of(number: usize) -> Result<[u8; 4], ProtoError> {
    u32::try_from(number).map(u32::to_be_bytes).map_err(|_| refused("it is too long"))
}

/// Seals a signed request to the encryption key of its destination. `random` is used for this
/// seal alone; the seal dies at `expires_ts` (milliseconds).
pub fn seal(
    request: &[u8],
    destination: &ServerName,
    encryption_key: &[u8; KEY_LEN],
    expires_ts: u64,
    random: [u8; KEY_LEN],
) -> Result<(Vec<u8>, AnswerOpener), ProtoError> {
    if request.len() > MAX_CARRIED_LEN {
        let (len, limit) = (request.len(), MAX_CARRIED_LEN);
        return Err(ProtoError::TooLarge { what: "request to be carried", len, limit });
    }
    let public = <Kem as hpke::Kem>::PublicKey::from_bytes(encryption_key)
        .map_err(|_| refused("its destination has no usable key"))?;
    let mut sealed = header(encryption_key);
    let info = info(&sealed, destination, expires_ts);
    let mode = OpModeS::Base;
    let (encapsulated, mut context) =
        hpke::setup_sender_with_rng::<Cipher, Kdf, Kem>(&mode, &public, &info, &mut Given(random))
            .map_err(|_| refused("its destination has no usable key"))?;
    let mut plain = u32_of(request.len())?.to_vec();
    plain.extend_from_slice(request);
    pad(&mut plain);
    let ciphertext = context.seal(&plain, &[]).map_err(|_| refused("it cannot be sealed"))?;
    let mut secret = [0; KEY_LEN];
    context.export(ANSWER_LABEL, &mut secret).map_err(|_| refused("it cannot be sealed"))?;
    let encapsulated = encapsulated.to_bytes().to_vec();
    sealed.extend_from_slice(&encapsulated);
    sealed.extend_from_slice(&ciphertext);
    Ok((sealed, AnswerOpener(AnswerKey { secret, encapsulated })))
}

/// A key that opens what was sealed to it: an X25519 key whose public half our server_keys name, or
/// named once.
#[derive(Clone)]
pub struct OpeningKey {
    secret: <Kem as hpke::Kem>::PrivateKey,
    header: Vec<u8>,
}

impl OpeningKey {
    /// Makes one of a secret.
    pub fn new(secret: &[u8; KEY_LEN]) -> Option<Self> {
        let secret = <Kem as hpke::Kem>::PrivateKey::from_bytes(secret).ok()?;
        let header = header(&Kem::sk_to_pk(&secret).to_bytes());
        Some(Self { secret, header })
    }
}

/// Opens what was sealed to us: the request, and what its answer is to be sealed with. The seal says by
/// its first bytes to which of our keys it is.
pub fn open(
    parcel: &Parcel,
    us: &ServerName,
    keys: &[OpeningKey],
    now: u64,
) -> Result<(Vec<u8>, AnswerSealer), ProtoError> {
    parcel.check(now)?;
    let short = || refused("it is too short");
    let sealed = parcel.sealed.as_bytes();
    let (head, rest) = sealed.split_at_checked(HEADER_LEN).ok_or_else(short)?;
    let (encapsulated, ciphertext) = rest.split_at_checked(KEY_LEN).ok_or_else(short)?;
    let key = keys.iter().find(|key| head == key.header);
    let key = key.ok_or_else(|| refused("it is of another version, or for another key"))?;
    let info = info(head, us, parcel.expires_ts);
    let bad = |_| refused("it was changed, or is for somebody else");
    let encapsulated_key =
        <Kem as hpke::Kem>::EncappedKey::from_bytes(encapsulated).map_err(bad)?;
    let mode = OpModeR::Base;
    let mut context =
        hpke::setup_receiver::<Cipher, Kdf, Kem>(&mode, &key.secret, &encapsulated_key, &info)
            .map_err(bad)?;
    let plain = context.open(ciphertext, &[]).map_err(bad)?;
    let request = read_padded(&plain).ok_or_else(|| refused("its padding is wrong"))?.to_vec();
    let mut secret = [0; KEY_LEN];
    context.export(ANSWER_LABEL, &mut secret).map_err(bad)?;
    let encapsulated = encapsulated.to_vec();
    Ok((request, AnswerSealer(AnswerKey { secret, encapsulated })))
}

impl AnswerSealer {
    /// Seals a piece of the answer. `nonce` is random, and never used again for this request.
    pub fn seal(&self, piece: &Piece, nonce: [u8; KEY_LEN]) -> Result<Vec<u8>, ProtoError> {
        let failed = || refused("the answer cannot be sealed");
        let (cipher, iv) = self.0.cipher(&nonce).ok_or_else(failed)?;
        let mut plain = u32_of(piece.total)?.to_vec();
        plain.extend_from_slice(&u32_of(piece.from)?);
        plain.extend_from_slice(&u32_of(piece.bytes.len())?);
        plain.extend_from_slice(&piece.bytes);
        pad(&mut plain);
        let ciphertext = cipher.encrypt(&iv.into(), plain.as_slice()).map_err(|_| failed())?;
        Ok([nonce.as_slice(), &ciphertext].concat())
    }
}

impl AnswerOpener {
    /// Opens a piece of the answer.
    pub fn open(&self, sealed: &[u8]) -> Result<Piece, ProtoError> {
        if sealed.len() > MAX_SEALED_ANSWER_LEN {
            let (len, limit) = (sealed.len(), MAX_SEALED_ANSWER_LEN);
            return Err(ProtoError::TooLarge { what: "carried answer", len, limit });
        }
        let bad = || refused("the answer was changed, or is to another request");
        let (nonce, ciphertext) = sealed.split_first_chunk::<KEY_LEN>().ok_or_else(bad)?;
        let (cipher, iv) = self.0.cipher(nonce).ok_or_else(bad)?;
        let plain = cipher.decrypt(&iv.into(), ciphertext).map_err(|_| bad())?;
        let read = || {
            let (total, rest) = read_u32(&plain)?;
            let (from, rest) = read_u32(rest)?;
            let bytes = read_padded(rest)?.to_vec();
            let fits = from.checked_add(bytes.len())? <= total && total <= MAX_ANSWER_LEN;
            let useful = bytes.len() <= PIECE_LEN && (!bytes.is_empty() || total == 0);
            (fits && useful).then_some(Piece { total, from, bytes })
        };
        read().ok_or_else(|| refused("the answer is no piece of one"))
    }
}

/// Puts a sealed request into the form that travels.
pub fn parcel(sealed: Vec<u8>, expires_ts: u64, wait_ms: u64) -> Parcel {
    Parcel { hops: 1, sealed: Base64::new(sealed), expires_ts, wait_ms }
}

/// Reads the name of a destination: of this network, or nothing is done with it.
pub fn destination(text: &str) -> Result<OwnedServerName, ProtoError> {
    let bad = |_| ProtoError::malformed("carried request", "its destination is no server name");
    let server = OwnedServerName::try_from(text).map_err(bad)?;
    super::server_name::digest(&server)?;
    Ok(server)
}

#[cfg(test)]
mod tests;
