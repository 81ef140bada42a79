//! The identity in 24 words: BIP-39, English, with the 32 bytes of the identity key as entropy and nothing
//! else, so that an identity that was made before has words too.
//!
//! Who has the words is this person for everybody: they sign new keys for a new node. They bring back no
//! room and no message; a backup does.

use std::path::Path;

use bip39::{Error, Language, Mnemonic};
use ruma::OwnedServerName;

use super::{SafekeepingError, failed};
use crate::actors::{clock::now_ms, identity, store};

/// How many words there are.
const WORDS: usize = 24;

/// Returns the words of the identity in a data folder.
pub(super) fn export(data: &Path) -> Result<String, SafekeepingError> {
    let seed = identity::read_seed(data)?;
    let seed = seed.ok_or_else(|| failed(data, &"there is no identity in it yet: log in once"))?;
    from_seed(&seed).ok_or_else(|| failed(data, &"its identity key has no words"))
}

fn from_seed(seed: &[u8; 32]) -> Option<String> {
    let words = Mnemonic::from_entropy_in(Language::English, seed).ok()?;
    Some(words.words().collect::<Vec<_>>().join(" "))
}

/// Reads words, in whichever case and however they are spaced. Says which of them is wrong.
pub(super) fn seed_of(words: &str) -> Result<[u8; 32], String> {
    let words: Vec<String> = words.split_whitespace().map(str::to_lowercase).collect();
    if words.len() != WORDS {
        return Err(format!("these are {} words, and an identity has {WORDS}", words.len()));
    }
    let read = Mnemonic::parse_in_normalized(Language::English, &words.join(" "));
    let read = read.map_err(|error| match error {
        Error::UnknownWord(at) => {
            let number = at.saturating_add(1);
            format!("word {number} is none of the list: look at how it is written")
        }
        Error::InvalidChecksum => {
            "one of the words is wrong, or two have changed places: they belong to no identity"
                .to_owned()
        }
        error => error.to_string(),
    })?;
    let (entropy, len) = read.to_entropy_array();
    match (entropy.first_chunk::<32>(), len) {
        (Some(seed), 32) => Ok(*seed),
        _ => Err("these words are not of an identity".to_owned()),
    }
}

/// Begins a node with an identity, in an empty data folder: with new keys for everything else, and without
/// rooms. Returns whose it is.
pub(super) fn import(data: &Path, seed: [u8; 32]) -> Result<OwnedServerName, SafekeepingError> {
    crate::data_folder::prepare(data).map_err(|error| failed(data, &error))?;
    let mut entries = std::fs::read_dir(data).map_err(|error| failed(data, &error))?;
    if entries.next().is_some() {
        return Err(SafekeepingError::NotEmpty(data.display().to_string()));
    }
    // As at the first login: a database that nobody owns yet, and then the keys.
    store::begin(data)?;
    Ok(identity::create_from_seed(data, seed, now_ms())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The secret key of the first test of RFC 8032.
    const SEED: [u8; 32] = [
        0x9d, 0x61, 0xb1, 0x9d, 0xef, 0xfd, 0x5a, 0x60, 0xba, 0x84, 0x4a, 0xf4, 0x92, 0xec, 0x2c,
        0xc4, 0x44, 0x49, 0xc5, 0x69, 0x7b, 0x32, 0x69, 0x19, 0x70, 0x3b, 0xac, 0x03, 0x1c, 0xae,
        0x7f, 0x60,
    ];
    const VECTOR: &str = "output assault guess that stick core tube matter virus number arctic mass \
                          duty tired planet green harbor slide auction fix crack fire work arrive";

    #[test]
    fn the_vector() {
        assert_eq!(from_seed(&SEED).unwrap(), VECTOR);
        assert_eq!(seed_of(VECTOR).unwrap(), SEED);
        assert_eq!(seed_of(&VECTOR.to_uppercase().replace(' ', "\n  ")).unwrap(), SEED);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (words, said) in [
            (VECTOR.replacen("stick", "stik", 1), "word 5 "),
            (VECTOR.replacen("stick", "stem", 1), "one of the words"),
            (VECTOR.replacen("output assault", "assault output", 1), "changed places"),
            (VECTOR.replacen("output ", "", 1), "23 words"),
            (String::new(), "0 words"),
        ] {
            let error = seed_of(&words).unwrap_err();
            assert!(error.contains(said) && !error.contains("assault"), "{words}: {error}");
        }
    }

    #[test]
    fn an_identity_comes_back_with_its_words() {
        let data = tempfile::tempdir().unwrap();
        let name = import(data.path(), SEED).unwrap();
        assert_eq!(name.as_str(), "bahwqceraeh7ddx5bksrgcytl7bkai36se4nxx3klnk7elksyq57pi74xeg4q");
        assert_eq!(export(data.path()).unwrap(), VECTOR);
        let error = import(data.path(), SEED).unwrap_err();
        assert!(matches!(error, SafekeepingError::NotEmpty(_)), "{error}");
    }
}
