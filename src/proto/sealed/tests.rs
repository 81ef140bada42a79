//! Vectors, round trips, and everything that must not open.

use x25519_dalek::{PublicKey, StaticSecret};

use super::*;
use crate::proto::server_keys::tests::secret_keys;

const NOW: u64 = 1_790_000_000_000;
const EXPIRES: u64 = NOW + LIFETIME_MS;

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text.chars().filter_map(|digit| digit.to_digit(16)).collect();
    digits.chunks(2).map(|pair| (pair[0] * 16 + pair[1]) as u8).collect()
}

fn public(secret: &[u8; 32]) -> [u8; 32] {
    PublicKey::from(&StaticSecret::from(*secret)).to_bytes()
}

/// Seals to the keys of a seed.
fn sealed(to: u8, request: &[u8]) -> (Parcel, AnswerOpener) {
    let keys = secret_keys(to);
    let key = public(&keys.encryption);
    let (sealed, opener) = seal(request, &keys.server_name(), &key, EXPIRES, [7; 32]).unwrap();
    (parcel(sealed, EXPIRES, 1000), opener)
}

fn opened(by: u8, parcel: &Parcel) -> Result<(Vec<u8>, AnswerSealer), ProtoError> {
    let keys = secret_keys(by);
    open(parcel, &keys.server_name(), &[OpeningKey::new(&keys.encryption).unwrap()], NOW)
}

fn changed(parcel: &Parcel, at: usize) -> Parcel {
    let mut bytes = parcel.sealed.as_bytes().to_vec();
    bytes[at] ^= 1;
    Parcel { sealed: Base64::new(bytes), ..parcel.clone() }
}

/// RFC 9180, A.2.1: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, ChaCha20Poly1305, base mode.
#[test]
fn the_vector_of_the_rfc() {
    let info = hex("4f6465206f6e2061204772656369616e2055726e");
    let enc = hex("1afa08d3dec047a643885163f1180476fa7ddb54c6a8029ea33f95796bf2ac4a");
    let secret = hex("8057991eef8f1f1af18f4a9491d16a1ce333f695d4db8e38da75975c4478e0fb");
    let text = hex("4265617574792069732074727574682c20747275746820626561757479");
    let ciphertext = hex(
        "1c5250d8034ec2b784ba2cfd69dbdb8af406cfe3ff938e131f0def8c8b60b4db21993c62ce81883d2dd1b51a28",
    );
    let exported = hex("4bbd6243b8bb54cec311fac9df81841b6fd61f56538a775e7c80a9f40160606e");
    let key = <Kem as hpke::Kem>::PrivateKey::from_bytes(&secret).unwrap();
    let encapsulated = <Kem as hpke::Kem>::EncappedKey::from_bytes(&enc).unwrap();
    let mut context =
        hpke::setup_receiver::<Cipher, Kdf, Kem>(&OpModeR::Base, &key, &encapsulated, &info)
            .unwrap();
    assert_eq!(context.open(&ciphertext, b"Count-0").unwrap(), text);
    let mut secret = [0; 32];
    context.export(b"", &mut secret).unwrap();
    assert_eq!(secret.to_vec(), exported);
    // The other side, from the vector's key material.
    let ikm = hex("909a9b35d3dc4713a5e72a4da274b55d3d3821a37e5d099e74a647db583a904b");
    let (encapsulated, mut context) = hpke::setup_sender_with_rng::<Cipher, Kdf, Kem>(
        &OpModeS::Base,
        &Kem::sk_to_pk(&key),
        &info,
        &mut Given(ikm.try_into().unwrap()),
    )
    .unwrap();
    assert_eq!(encapsulated.to_bytes().to_vec(), enc);
    assert_eq!(context.seal(&text, b"Count-0").unwrap(), ciphertext);
}

/// The format, byte by byte: who changes it changes the version too.
#[test]
fn the_format_stays() {
    let (parcel, opener) = sealed(1, b"request");
    let bytes = parcel.sealed.as_bytes();
    assert_eq!(bytes.len(), HEADER_LEN + KEY_LEN + BUCKET + TAG_LEN);
    assert_eq!(bytes[0], 1);
    assert_eq!(bytes[1..5], public(&secret_keys(1).encryption)[..4]);
    let digest = |bytes: &[u8]| -> String {
        Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
    };
    assert_eq!(digest(bytes), "ed728dc8035299b9c98f6c8b0047d24418fc0e1d1823c1f870b94022cd18f38e");
    let piece = Piece::cut(b"answer", 0).unwrap();
    let answer = AnswerSealer(opener.0).seal(&piece, [9; 32]).unwrap();
    assert_eq!(digest(&answer), "0309785d22b5668de90bb212af7f6c83ad89b715584dbdcad9a8ffea8cd8cc61");
}

#[test]
fn a_request_there_and_its_answer_back() {
    for length in [0, 1, 1019, 1020, 1021, 4096, MAX_CARRIED_LEN] {
        let request = vec![b'x'; length];
        let (parcel, opener) = sealed(1, &request);
        assert!(parcel.sealed.as_bytes().len() <= MAX_SEALED_LEN);
        let (got, sealer) = opened(1, &parcel).unwrap();
        assert_eq!(got, request);
        let piece = Piece::cut(b"answer", 0).unwrap();
        let answer = sealer.seal(&piece, [3; 32]).unwrap();
        assert_eq!(opener.open(&answer).unwrap(), piece);
    }
    let keys = secret_keys(1);
    let long = vec![0; MAX_CARRIED_LEN + 1];
    let key = public(&keys.encryption);
    assert!(seal(&long, &keys.server_name(), &key, EXPIRES, [7; 32]).is_err());
}

#[test]
fn the_key_that_it_was_sealed_to_opens_it_as_long_as_there_is_one() {
    let keys = secret_keys(1);
    let (parcel, _) = sealed(1, b"request");
    let opening = |seeds: &[[u8; 32]]| -> Vec<OpeningKey> {
        seeds.iter().filter_map(OpeningKey::new).collect()
    };
    let open = |with: &[OpeningKey]| open(&parcel, &keys.server_name(), with, NOW);
    let newer = opening(&[[1; 32], [2; 32], keys.encryption, [3; 32]]);
    assert_eq!(open(&newer).unwrap().0, b"request");
    for destroyed in [opening(&[[1; 32], [2; 32]]), Vec::new()] {
        assert!(matches!(open(&destroyed), Err(ProtoError::BadSeal(_))));
    }
}

#[test]
fn lengths_are_hidden() {
    let length = |request: &[u8]| sealed(1, request).0.sealed.as_bytes().len();
    assert_eq!(length(b"GET"), length(&[b'x'; 1000]));
    assert_ne!(length(b"GET"), length(&[b'x'; 1021]));
}

#[test]
fn no_changed_byte_goes_unseen() {
    let (parcel, opener) = sealed(1, b"request");
    for at in 0..parcel.sealed.as_bytes().len() {
        let result = opened(1, &changed(&parcel, at));
        // X25519 ignores the highest bit of a public key; the key schedule does not.
        assert!(result.is_err(), "byte {at} was changed and nobody saw it");
    }
    for cut in [0, 4, 36, 37, 60] {
        let bytes = parcel.sealed.as_bytes()[..cut].to_vec();
        let cut = Parcel { sealed: Base64::new(bytes), ..parcel.clone() };
        assert!(opened(1, &cut).is_err());
    }
    let (_, sealer) = opened(1, &parcel).unwrap();
    let answer = sealer.seal(&Piece::cut(b"answer", 0).unwrap(), [3; 32]).unwrap();
    for at in 0..answer.len() {
        let mut answer = answer.clone();
        answer[at] ^= 1;
        assert!(opener.open(&answer).is_err(), "byte {at} of the answer");
    }
    assert!(opener.open(&answer[..answer.len() - 1]).is_err());
    assert!(opener.open(&[]).is_err());
}

#[test]
fn it_opens_nowhere_else() {
    let (parcel, _) = sealed(1, b"request");
    assert!(matches!(opened(2, &parcel), Err(ProtoError::BadSeal(_))));
    // With our key, but under the name of another server.
    let (ann, bob) = (secret_keys(1), secret_keys(2));
    assert!(
        open(&parcel, &bob.server_name(), &[OpeningKey::new(&ann.encryption).unwrap()], NOW)
            .is_err()
    );
    let key = public(&ann.encryption);
    let (misaddressed, _) = seal(b"request", &bob.server_name(), &key, EXPIRES, [7; 32]).unwrap();
    let misaddressed = super::parcel(misaddressed, EXPIRES, 1);
    assert!(opened(1, &misaddressed).is_err());
}

#[test]
fn an_answer_to_another_request_does_not_open() {
    let (first, _) = sealed(1, b"request");
    let keys = secret_keys(1);
    let key = public(&keys.encryption);
    let (_, other) = seal(b"request", &keys.server_name(), &key, EXPIRES, [8; 32]).unwrap();
    let (_, sealer) = opened(1, &first).unwrap();
    let answer = sealer.seal(&Piece::cut(b"answer", 0).unwrap(), [3; 32]).unwrap();
    assert!(other.open(&answer).is_err());
}

#[test]
fn the_lifetime_is_sealed_and_kept() {
    let (parcel, _) = sealed(1, b"request");
    let longer = Parcel { expires_ts: EXPIRES + 1, ..parcel.clone() };
    assert!(matches!(opened(1, &longer), Err(ProtoError::BadSeal(_))));
    let keys = secret_keys(1);
    let late = open(
        &parcel,
        &keys.server_name(),
        &[OpeningKey::new(&keys.encryption).unwrap()],
        EXPIRES + 1,
    );
    assert!(matches!(late, Err(ProtoError::NotFresh(-1))), "{late:?}");
    for (what, parcel) in [
        ("no hop", Parcel { hops: 0, ..parcel.clone() }),
        ("too many hops", Parcel { hops: HOPS_MAX + 1, ..parcel.clone() }),
        ("eternal", Parcel { expires_ts: NOW + LIFETIME_MS + FRESH_MS + 1, ..parcel.clone() }),
        ("huge", super::parcel(vec![0; MAX_SEALED_LEN + 1], EXPIRES, 1)),
    ] {
        assert!(parcel.check(NOW).is_err(), "{what}");
    }
    for hops in 1..=HOPS_MAX {
        assert!(Parcel { hops, ..parcel.clone() }.check(NOW).is_ok());
    }
}

#[test]
fn pieces_make_up_an_answer() {
    let (parcel, opener) = sealed(1, b"request");
    let (_, sealer) = opened(1, &parcel).unwrap();
    let answer: Vec<u8> = (0..PIECE_LEN * 2 + 5).map(|at| (at % 251) as u8).collect();
    let mut whole = Vec::new();
    let mut pieces = 0;
    while whole.len() < answer.len() {
        let piece = Piece::cut(&answer, whole.len()).unwrap();
        let sealed = sealer.seal(&piece, [pieces; 32]).unwrap();
        assert!(sealed.len() <= MAX_SEALED_ANSWER_LEN);
        let piece = opener.open(&sealed).unwrap();
        assert_eq!((piece.total, piece.from), (answer.len(), whole.len()));
        whole.extend(piece.bytes);
        pieces += 1;
    }
    assert_eq!((whole, pieces), (answer.clone(), 3));
    assert_eq!(Piece::cut(&answer, answer.len() + 1), None);
    let lies = [
        Piece { total: 3, from: 0, bytes: b"long".to_vec() },
        Piece { total: 3, from: 3, bytes: b"x".to_vec() },
        Piece { total: 3, from: 0, bytes: Vec::new() },
        Piece { total: MAX_ANSWER_LEN + 1, from: 0, bytes: b"x".to_vec() },
    ];
    for lie in lies {
        assert!(opener.open(&sealer.seal(&lie, [0; 32]).unwrap()).is_err(), "{lie:?}");
    }
}

#[test]
fn destinations_are_of_this_network() {
    let name = secret_keys(1).server_name();
    assert_eq!(destination(name.as_str()).unwrap(), name);
    assert!(destination("example.org").is_err());
}
