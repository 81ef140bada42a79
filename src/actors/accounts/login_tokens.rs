//! Login tokens. Pure: time and chance are arguments.
//!
//! A web page can make the person's browser ask for as many as it likes, so none of them may cost
//! anything: a token proves by itself that it was made here and until when it works, and nothing is
//! kept of it until somebody uses it. However many there are, each works, and none pushes another out.
//!
//! Invariants: a token counts once, and for two minutes; what is remembered is bounded, and where that
//! is full, what is new is refused; no token outlives the process.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

/// How long a login token works: two minutes.
pub const LOGIN_TOKEN_MS: u64 = 2 * 60 * 1000;
/// Used tokens that are remembered until they would not work any more: nobody logs in so often.
const USED_MAX: usize = 1024;

/// What makes a token the only one of its kind: as unlikely to come twice as to be guessed.
type Number = [u8; 16];

/// The login tokens of a run of the node.
pub(super) struct LoginTokens {
    /// New at each start, and never written down.
    key: [u8; 32],
    /// Until when each used one would have worked.
    used: Vec<(Number, u64)>,
}

impl std::fmt::Debug for LoginTokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LoginTokens").field("used", &self.used.len()).finish_non_exhaustive()
    }
}

impl LoginTokens {
    pub(super) fn new(key: [u8; 32]) -> Self {
        Self { key, used: Vec::new() }
    }

    /// Makes a token.
    pub(super) fn mint(&self, number: Number, now: u64) -> String {
        let until = now.saturating_add(LOGIN_TOKEN_MS).to_be_bytes();
        let proof = self.proof(&until, &number).map(|proof| proof.finalize().into_bytes());
        let proof = proof.unwrap_or_default();
        format!("mh_{}", URL_SAFE_NO_PAD.encode([&until[..], &number, &proof].concat()))
    }

    /// Uses a token up. Tells whether it was good.
    pub(super) fn take(&mut self, token: &str, now: u64) -> bool {
        let Some((number, until)) = self.read(token).filter(|(_, until)| now < *until) else {
            return false;
        };
        self.used.retain(|(_, until)| now < *until);
        let known = self.used.iter().any(|(used, _)| *used == number);
        if known || self.used.len() >= USED_MAX {
            return false;
        }
        self.used.push((number, until));
        true
    }

    fn read(&self, token: &str) -> Option<(Number, u64)> {
        let bytes = URL_SAFE_NO_PAD.decode(token.strip_prefix("mh_")?).ok()?;
        let (until, rest) = bytes.split_first_chunk()?;
        let (number, proof) = rest.split_first_chunk()?;
        self.proof(until, number)?.verify_slice(proof).ok()?;
        Some((*number, u64::from_be_bytes(*until)))
    }

    fn proof(&self, until: &[u8; 8], number: &Number) -> Option<Hmac<Sha256>> {
        // Any key length fits HMAC.
        let mut proof = Hmac::<Sha256>::new_from_slice(&self.key).ok()?;
        proof.update(until);
        proof.update(number);
        Some(proof)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1000;

    fn number(number: usize) -> Number {
        u128::try_from(number).unwrap().to_be_bytes()
    }

    #[test]
    fn a_login_token_works_once_and_for_two_minutes() {
        let mut tokens = LoginTokens::new([1; 32]);
        let (one, other) = (tokens.mint(number(1), NOW), tokens.mint(number(2), NOW));
        assert!(tokens.take(&one, NOW + LOGIN_TOKEN_MS - 1));
        assert!(!tokens.take(&one, NOW + 1), "used twice");
        assert!(!tokens.take(&other, NOW + LOGIN_TOKEN_MS), "used too late");
        assert!(tokens.take(&other, NOW + LOGIN_TOKEN_MS - 1), "what did not count is not used up");
    }

    #[test]
    fn nobody_makes_one_up() {
        let mut tokens = LoginTokens::new([1; 32]);
        let good = tokens.mint(number(1), NOW);
        for bad in ["", "mh_", "mh_guessed", "mh_AAAA", &good[3..], &format!("{good}A")] {
            assert!(!tokens.take(bad, NOW), "{bad}");
        }
        let bytes = URL_SAFE_NO_PAD.decode(&good[3..]).unwrap();
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            let changed = format!("mh_{}", URL_SAFE_NO_PAD.encode(changed));
            assert!(!tokens.take(&changed, NOW), "byte {at}");
        }
        assert!(!LoginTokens::new([2; 32]).take(&good, NOW), "of another start");
        assert!(tokens.take(&good, NOW));
    }

    #[test]
    fn attack_02_no_number_of_tokens_pushes_one_out() {
        let mut tokens = LoginTokens::new([1; 32]);
        let first = tokens.mint(number(0), NOW);
        for other in 1..10_000 {
            tokens.mint(number(other), NOW);
        }
        assert!(tokens.used.is_empty(), "none costs anything");
        assert!(tokens.take(&first, NOW));
    }

    #[test]
    fn used_ones_are_remembered_in_bounds_and_none_counts_again() {
        let mut tokens = LoginTokens::new([1; 32]);
        let all: Vec<_> = (0..=USED_MAX).map(|at| tokens.mint(number(at), NOW)).collect();
        let taken = all.iter().filter(|token| tokens.take(token, NOW)).count();
        assert_eq!(taken, USED_MAX);
        assert!(all.iter().all(|token| !tokens.take(token, NOW + 1)), "refused, not forgotten");
        let later = NOW + LOGIN_TOKEN_MS;
        let fresh = tokens.mint(number(0), later);
        assert!(tokens.take(&fresh, later));
        assert_eq!(tokens.used.len(), 1);
    }
}
