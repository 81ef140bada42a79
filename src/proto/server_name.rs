//! Server names: the CID of the identity key (`docs/PROTOCOL.md` §1).
//!
//! A name is CIDv1 · multicodec `ed25519-pub` · sha2-256 of the raw 32-byte public key, in base32:
//! always 61 characters that begin with `bahwqcera`. It is a hash, so the key itself has to travel
//! in server_keys; whoever has both can check one by the other without asking anybody.

use cid::{Cid, multibase::Base, multihash::Multihash};
use ruma::{OwnedServerName, OwnedUserId, ServerName, UserId};
use sha2::{Digest, Sha256};

use super::{ProtoError, names};

/// The multicodec of an Ed25519 public key.
const ED25519_PUB: u64 = 0xed;
/// The multihash function sha2-256.
const SHA2_256: u64 = 0x12;
/// Length of every server name, in bytes.
pub const SERVER_NAME_LEN: usize = 61;
/// Whose node it is: the user who is there from the beginning.
pub const LOCALPART: &str = "p2p";

/// Returns the server name that belongs to an identity key.
pub fn from_identity_key(public_key: &[u8; 32]) -> OwnedServerName {
    let digest = Multihash::<64>::wrap(SHA2_256, &Sha256::digest(public_key))
        .unwrap_or_else(|_| unreachable!("a sha2-256 digest fits 64 bytes"));
    let name = Cid::new_v1(ED25519_PUB, digest)
        .to_string_of_base(Base::Base32Lower)
        .unwrap_or_else(|_| unreachable!("a CIDv1 has a base32 form"));
    OwnedServerName::try_from(name).unwrap_or_else(|_| unreachable!("base32 is in the grammar"))
}

/// Decodes a server name to the digest of its identity key, strictly: version, codec, hash
/// function, length and canonical base32 must all be as [`from_identity_key`] makes them.
pub fn digest(name: &ServerName) -> Result<[u8; 32], ProtoError> {
    let bad = |why| ProtoError::BadServerName(name.as_str().chars().take(80).collect(), why);
    if name.as_str().len() != SERVER_NAME_LEN {
        return Err(bad("it is not 61 characters long"));
    }
    let cid = Cid::try_from(name.as_str()).map_err(|_| bad("it is not a CID"))?;
    if cid.codec() != ED25519_PUB || cid.hash().code() != SHA2_256 {
        return Err(bad("it is not the sha2-256 of an ed25519-pub"));
    }
    if cid.to_string_of_base(Base::Base32Lower).ok().as_deref() != Some(name.as_str()) {
        return Err(bad("it is not in canonical base32"));
    }
    cid.hash().digest().try_into().map_err(|_| bad("its digest is not 32 bytes long"))
}

/// Tells whether `name` is the name of `public_key`.
pub fn belongs_to(name: &ServerName, public_key: &[u8; 32]) -> bool {
    digest(name).is_ok_and(|digest| digest[..] == Sha256::digest(public_key)[..])
}

/// Returns whose node the server is: `@p2p:<server name>`.
pub fn user_of(name: &ServerName) -> OwnedUserId {
    UserId::parse(format!("@{LOCALPART}:{name}"))
        .unwrap_or_else(|_| unreachable!("the localpart is in the grammar"))
}

/// Checks that a user can exist: on a server of our kind, under a name of the specification.
pub fn check_user(user_id: &UserId) -> Result<(), ProtoError> {
    digest(user_id.server_name())?;
    names::check_user_id(user_id)
}

#[cfg(test)]
mod tests {
    use ruma::server_name;

    use super::*;

    #[test]
    fn only_users_of_real_servers_can_exist() {
        let server = server_name!("bahwqcerawciaks5d2ox7bqfpmq7zjxfcgu2nrytapoklc3vs6vni6iwqjdna");
        for good in [user_of(server).to_string(), format!("@bob:{server}")] {
            check_user(&UserId::parse(good).unwrap()).unwrap();
        }
        for bad in [format!("@Bob Byte:{server}"), "@p2p:example.org".to_owned()] {
            assert!(check_user(&UserId::parse(bad).unwrap()).is_err());
        }
    }

    #[test]
    fn the_vectors_of_the_protocol_document() {
        let seed = server_name!("bahwqcerawciaks5d2ox7bqfpmq7zjxfcgu2nrytapoklc3vs6vni6iwqjdna");
        let hex: String = digest(seed).unwrap().iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, "b090054ba3d3aff0c0af643f94dca23534d8e2607b94b16eb2f55a8f22d048da");

        let rfc8032 = ruma::serde::Base64::<ruma::serde::base64::Standard>::parse(
            "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo",
        )
        .unwrap();
        let key: [u8; 32] = rfc8032.as_bytes().try_into().unwrap();
        let name = from_identity_key(&key);
        assert_eq!(name, "bahwqceraeh7ddx5bksrgcytl7bkai36se4nxx3klnk7elksyq57pi74xeg4q");
        assert!(belongs_to(&name, &key));
        assert!(!belongs_to(seed, &key));
    }

    #[test]
    fn only_the_one_canonical_form_is_a_name() {
        let name = from_identity_key(&[7; 32]).to_string();
        let refused = [
            name.to_uppercase(),
            format!("{}b", &name[..60]),
            name[..60].to_owned(),
            format!("{name}a"),
            "example.org".to_owned(),
            // The CID of a raw block, and of a dag-pb one.
            "bafkreia5seh36rfdv3qp57ldpwx5du73ua334repu6dyifolskc4bml5yy".to_owned(),
        ];
        for text in refused {
            let Ok(parsed) = OwnedServerName::try_from(text.as_str()) else { continue };
            assert!(digest(&parsed).is_err(), "{text} was accepted");
        }
    }
}
