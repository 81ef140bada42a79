//! A secret for a private network (`docs/PROTOCOL.md` §7), as strong as it is easy to pass on.
//!
//! Invariants: all of it comes from the system's own source of chance; it has 160 bits, so that
//! whoever records a connection cannot guess it offline, as a chosen word can be.

use cid::multibase::Base;
use rand::{TryRng as _, rngs::SysRng};

/// Bytes of chance: 160 bits, which are 32 letters and digits without a rest.
const SECRET_LEN: usize = 20;
/// Characters between two hyphens: as many as one reads out at once.
const GROUP_LEN: usize = 4;

/// Makes a new secret: `abcd-ef23-…`, in the letters of base32, which has no 0 and no 1.
pub fn generate() -> Result<String, String> {
    let mut bytes = [0; SECRET_LEN];
    SysRng
        .try_fill_bytes(&mut bytes)
        .map_err(|error| format!("the system gives no random numbers: {error}"))?;
    let text: Vec<char> = Base::Base32Lower.encode(bytes).chars().collect();
    Ok(text.chunks(GROUP_LEN).map(String::from_iter).collect::<Vec<_>>().join("-"))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn secrets_are_long_readable_and_never_the_same() {
        let secrets: HashSet<String> = (0..200).map(|_| generate().unwrap()).collect();
        assert_eq!(secrets.len(), 200);
        for secret in &secrets {
            assert_eq!(secret.len(), 39, "{secret}");
            assert!(secret.split('-').all(|group| group.len() == GROUP_LEN), "{secret}");
            let letters: String = secret.split('-').collect();
            assert_eq!(Base::Base32Lower.decode(&letters).unwrap().len() * 8, 160);
        }
        // Each place takes each letter: no bit stands still.
        for place in (0..39).filter(|place| place % 5 != 4) {
            let seen: HashSet<u8> = secrets.iter().map(|secret| secret.as_bytes()[place]).collect();
            assert!(seen.len() > 16, "place {place} has {} values only", seen.len());
        }
    }
}
