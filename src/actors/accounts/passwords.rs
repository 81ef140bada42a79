//! Passwords: how they are kept and compared, and how often one may be tried. Pure: time and chance are
//! arguments.
//!
//! Invariants: what is kept is argon2id with a salt of its own; to compare takes as long for a name that
//! nobody has; a password is neither logged nor shown.

use std::{
    net::{IpAddr, Ipv6Addr},
    num::NonZeroUsize,
    time::Duration,
};

use argon2::{Argon2, PasswordHasher as _, PasswordVerifier as _};
use lru::LruCache;
use ruma::OwnedUserId;

use super::messages::AccountError;
use crate::{
    actors::rate::{Bucket, Rate},
    config::limits,
};

/// A hash of no password, for names that nobody has: of the parameters that new ones get.
const NOBODYS: &str = "$argon2id$v=19$m=19456,t=2,p=1$bm9ib2R5c3Bhc3N3b3Jk$\
    bWF5IG5vYm9keSBrbm93IGEgcGFzc3dvcmQgb2YgaXQ";

/// Refuses a password that is too short to be one, or too long to be compared.
pub fn check_password(password: &str) -> Result<(), AccountError> {
    if password.chars().count() < limits::PASSWORD_CHARS {
        return Err(AccountError::WeakPassword);
    }
    if password.len() > limits::PASSWORD_LEN {
        let why = format!("a password has {} bytes at most", limits::PASSWORD_LEN);
        return Err(AccountError::BadRequest(why));
    }
    Ok(())
}

/// Returns what is kept of a password. Takes its time: 19 MiB and two passes, as OWASP has it.
pub(super) fn hashed(password: &str, salt: [u8; 16]) -> Result<String, AccountError> {
    let hashed = Argon2::default().hash_password_with_salt(password.as_bytes(), &salt);
    // Neither the parameters nor the lengths can be wrong.
    hashed.map(|hash| hash.to_string()).map_err(|error| AccountError::BadRequest(error.to_string()))
}

/// Tells whether a password is right; none is kept of who has no password. Takes as long in any case.
pub(super) fn is_right(password: &str, kept: Option<&str>) -> bool {
    if password.len() > limits::PASSWORD_LEN {
        return false;
    }
    let right = Argon2::default().verify_password(password.as_bytes(), kept.unwrap_or(NOBODYS));
    right.is_ok() && kept.is_some()
}

/// Whose secret somebody tries to guess.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Guessed {
    /// The password of a user of ours.
    Of(OwnedUserId),
    /// The password of a name that nobody has.
    Nobody,
    /// The token that lets people register.
    RegistrationToken,
}

/// How often secrets were tried, from where.
#[derive(Debug)]
pub(super) struct Tries(LruCache<(Guessed, IpAddr), Bucket<u64>>);

impl Default for Tries {
    fn default() -> Self {
        Self(LruCache::new(NonZeroUsize::new(limits::TRIES_KEPT).unwrap_or(NonZeroUsize::MIN)))
    }
}

impl Tries {
    /// Counts a try, or tells after how long one may be made.
    pub(super) fn count(
        &mut self,
        guessed: Guessed,
        from: IpAddr,
        now: u64,
    ) -> Result<(), Duration> {
        let rate = Rate { burst: limits::TRIES_BURST, per_second: limits::TRIES_PER_SECOND };
        let full = || Bucket::full(rate, now);
        let bucket = self.0.get_or_insert_mut((guessed, place_of(from)), full);
        if bucket.take(1.0, now) { Ok(()) } else { Err(bucket.wait(now)) }
    }

    /// Somebody got in: his tries before do not count any more.
    pub(super) fn succeeded(&mut self, guessed: Guessed, from: IpAddr) {
        self.0.pop(&(guessed, place_of(from)));
    }
}

/// Addresses that one machine can have as many of as it likes are one place: a /64, and loopback.
fn place_of(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        ip if ip.is_loopback() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64)),
        ip => ip,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use ruma::user_id;

    use super::*;

    #[test]
    fn a_password_is_kept_as_a_hash_with_its_own_salt() {
        let (one, other) = (hashed("secret word", [1; 16]), hashed("secret word", [2; 16]));
        let (one, other) = (one.unwrap(), other.unwrap());
        assert_ne!(one, other);
        assert!(!one.contains("secret"));
        assert!(is_right("secret word", Some(&one)) && is_right("secret word", Some(&other)));
        for wrong in ["", "secret wor", "Secret word", "secret word "] {
            assert!(!is_right(wrong, Some(&one)), "{wrong}");
        }
        assert!(!is_right("secret word", Some("no hash")), "a spoilt row lets nobody in");
        assert!(!is_right(&"x".repeat(limits::PASSWORD_LEN + 1), Some(&one)));
        let parameters = |hash: &str| hash.split('$').take(4).collect::<Vec<_>>().join("$");
        assert_eq!(parameters(&one), parameters(NOBODYS), "the time that it takes tells nothing");
    }

    #[test]
    fn a_name_that_nobody_has_takes_as_long() {
        let kept = hashed("secret word", [1; 16]).unwrap();
        let took = |kept: Option<&str>| {
            let times = (0..5).map(|_| {
                let start = Instant::now();
                assert!(!is_right("wrong word", kept));
                start.elapsed()
            });
            times.min().unwrap()
        };
        let (known, unknown) = (took(Some(&kept)), took(None));
        assert!(unknown * 4 > known && known * 4 > unknown, "{known:?} {unknown:?}");
    }

    #[test]
    fn passwords_have_a_length() {
        for (password, good) in [
            ("", false),
            ("seven77", false),
            ("eight888", true),
            ("ächtächt", true),
            (&"x".repeat(limits::PASSWORD_LEN), true),
            (&"x".repeat(limits::PASSWORD_LEN + 1), false),
        ] {
            assert_eq!(check_password(password).is_ok(), good, "{password}");
        }
    }

    #[test]
    fn who_guesses_is_slowed_down_and_nobody_else() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let ann = || Guessed::Of(user_id!("@ann:x").to_owned());
        let mut tries = Tries::default();
        let burst = (0..1000).filter(|_| tries.count(ann(), ip("10.0.0.1"), 0).is_ok()).count();
        assert_eq!(burst as f64, limits::TRIES_BURST);
        let wait = tries.count(ann(), ip("10.0.0.1"), 0).unwrap_err();
        assert!(wait > Duration::from_secs(1), "{wait:?}");
        let later = u64::try_from(wait.as_millis()).unwrap() + 1;
        assert!(tries.count(ann(), ip("10.0.0.1"), later).is_ok());
        assert!(tries.count(ann(), ip("10.0.0.2"), 0).is_ok(), "somebody elsewhere");
        assert!(tries.count(Guessed::Nobody, ip("10.0.0.1"), 0).is_ok(), "another name");
        while tries.count(ann(), ip("fd00::1"), 0).is_ok() {}
        assert!(tries.count(ann(), ip("fd00::2"), 0).is_err(), "the same network");
        while tries.count(ann(), ip("127.0.0.1"), 0).is_ok() {}
        assert!(tries.count(ann(), ip("127.7.7.7"), 0).is_err(), "the same machine");
        tries.succeeded(ann(), ip("127.0.0.1"));
        assert!(tries.count(ann(), ip("127.0.0.1"), 0).is_ok());
        for at in 0..u32::try_from(2 * limits::TRIES_KEPT).unwrap() {
            let _ = tries.count(ann(), IpAddr::V4(at.into()), 0);
        }
        assert!(tries.0.len() <= limits::TRIES_KEPT);
    }
}
