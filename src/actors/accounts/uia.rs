//! User-interactive authentication: what has to be proven again before it is done, and by what. Pure:
//! time and chance are arguments.
//!
//! Whoever has an access token, and to register nobody needs one, can begin as many sessions as he likes,
//! so none of them may cost anything: as with login tokens, what a client gets as a session proves by
//! itself that it was made here, for which operation, and until when it counts. Kept are those that the
//! person approved on a page, and those that were used.
//!
//! Invariants: a session counts once, for the very operation that it was begun for (who, on which device,
//! which endpoint, which body) and for a quarter of an hour; what is remembered is bounded, and where that
//! is full, what is new is refused; no session outlives the process.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};

use super::sessions::Session;
use crate::config::limits;

/// What a person is asked to confirm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Matter {
    /// Cross-signing keys take the place of others.
    ReplaceKeys,
    /// Devices are logged out.
    DeleteDevices,
    /// The password is set.
    SetPassword,
    /// The account ends.
    Deactivate,
    /// Somebody registers.
    Register,
}

const MATTERS: [Matter; 5] = [
    Matter::ReplaceKeys,
    Matter::DeleteDevices,
    Matter::SetPassword,
    Matter::Deactivate,
    Matter::Register,
];

/// By what somebody proves that it is them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// `m.login.password`.
    Password,
    /// `m.login.sso`: a page that the person at this machine confirms.
    Sso,
    /// `m.login.dummy`: nothing.
    Dummy,
    /// `m.login.registration_token`.
    RegistrationToken,
}

const STAGES: [Stage; 4] = [Stage::Password, Stage::Sso, Stage::Dummy, Stage::RegistrationToken];

impl Stage {
    /// What the specification calls it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Password => "m.login.password",
            Self::Sso => "m.login.sso",
            Self::Dummy => "m.login.dummy",
            Self::RegistrationToken => "m.login.registration_token",
        }
    }

    fn bit(self) -> u8 {
        match self {
            Self::Password => 1,
            Self::Sso => 2,
            Self::Dummy => 4,
            Self::RegistrationToken => 8,
        }
    }
}

/// What somebody wants to do: who, on which device, at which endpoint, with which body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    pub(super) matter: Matter,
    digest: [u8; 32],
}

impl Operation {
    /// `endpoint` is method and path, `body` what the request says besides the proof.
    pub fn new(matter: Matter, by: Option<&Session>, endpoint: &str, body: &[u8]) -> Self {
        let (user_id, device_id) = match by {
            Some(by) => (by.user_id.as_str(), by.device_id.as_str()),
            None => ("", ""),
        };
        let mut digest = Sha256::new();
        for part in [user_id.as_bytes(), device_id.as_bytes(), endpoint.as_bytes(), body] {
            digest.update((part.len() as u64).to_be_bytes());
            digest.update(part);
        }
        Self { matter, digest: digest.finalize().into() }
    }
}

/// What makes a session the only one of its kind.
type Number = [u8; 16];
/// When it ends, its number, matter, stages, operation, proof.
const LEN: usize = 8 + 16 + 1 + 1 + 32 + 32;

/// A session, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Open {
    until: u64,
    number: Number,
    stages: u8,
    operation: Operation,
}

impl Open {
    /// What it is about.
    pub(super) fn matter(&self) -> Matter {
        self.operation.matter
    }

    /// Tells whether it can be passed by this.
    pub(super) fn allows(&self, stage: Stage) -> bool {
        self.stages & stage.bit() != 0
    }

    /// Tells whether it was begun for this.
    pub(super) fn is_for(&self, operation: &Operation) -> bool {
        self.operation == *operation
    }

    fn bytes(&self) -> Option<Vec<u8>> {
        let matter = MATTERS.iter().position(|matter| *matter == self.operation.matter)?;
        let matter = [u8::try_from(matter).ok()?, self.stages];
        let until = self.until.to_be_bytes();
        Some([&until[..], &self.number, &matter, &self.operation.digest].concat())
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let (until, rest) = bytes.split_first_chunk()?;
        let (number, rest) = rest.split_first_chunk()?;
        let ([matter, stages], rest) = rest.split_first_chunk()?;
        let matter = *MATTERS.get(usize::from(*matter))?;
        let operation = Operation { matter, digest: rest.try_into().ok()? };
        Some(Self {
            until: u64::from_be_bytes(*until),
            number: *number,
            stages: *stages,
            operation,
        })
    }
}

/// The sessions of a run of the node.
pub(super) struct Sessions {
    /// New at each start, and never written down.
    key: [u8; 32],
    /// Those that the person approved on a page, and until when they count.
    approved: Vec<(Number, u64)>,
    /// Those that were used, and until when they would have counted.
    used: Vec<(Number, u64)>,
}

impl std::fmt::Debug for Sessions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (approved, used) = (self.approved.len(), self.used.len());
        f.debug_struct("uia::Sessions")
            .field("approved", &approved)
            .field("used", &used)
            .finish_non_exhaustive()
    }
}

impl Sessions {
    pub(super) fn new(key: [u8; 32]) -> Self {
        Self { key, approved: Vec::new(), used: Vec::new() }
    }

    /// Begins a session that any of these stages passes.
    pub(super) fn begin(
        &self,
        operation: &Operation,
        stages: &[Stage],
        number: Number,
        now: u64,
    ) -> String {
        let stages = stages.iter().fold(0, |bits, stage| bits | stage.bit());
        let until = now.saturating_add(limits::UIA_MS);
        let open = Open { until, number, stages, operation: operation.clone() };
        let Some(bytes) = open.bytes() else { return String::new() };
        let proof = self.proof(&bytes).map(|proof| proof.finalize().into_bytes());
        URL_SAFE_NO_PAD.encode([&bytes[..], &proof.unwrap_or_default()].concat())
    }

    /// Reads a session that still counts.
    pub(super) fn read(&self, session: &str, now: u64) -> Option<Open> {
        let bytes = URL_SAFE_NO_PAD.decode(session).ok().filter(|bytes| bytes.len() == LEN)?;
        let (bytes, proof) = bytes.split_at_checked(LEN.checked_sub(32)?)?;
        self.proof(bytes)?.verify_slice(proof).ok()?;
        let open = Open::read(bytes).filter(|open| now < open.until)?;
        let is_used = self.used.iter().any(|(used, until)| *used == open.number && now < *until);
        (!is_used).then_some(open)
    }

    /// The person approved it on a page. Tells whether there is place for it.
    pub(super) fn approve(&mut self, open: &Open, now: u64) -> bool {
        self.approved.retain(|(_, until)| now < *until);
        if self.is_approved(open) {
            return true;
        }
        let approved = open.allows(Stage::Sso) && self.approved.len() < limits::UIA_KEPT;
        if approved {
            self.approved.push((open.number, open.until));
        }
        approved
    }

    /// Tells whether the person approved it.
    pub(super) fn is_approved(&self, open: &Open) -> bool {
        self.approved.iter().any(|(number, _)| *number == open.number)
    }

    /// Uses a session up. Tells whether it counted.
    pub(super) fn take(&mut self, open: &Open, now: u64) -> bool {
        self.approved.retain(|(number, until)| now < *until && *number != open.number);
        self.used.retain(|(_, until)| now < *until);
        let known = self.used.iter().any(|(number, _)| *number == open.number);
        if known || now >= open.until || self.used.len() >= limits::UIA_KEPT {
            return false;
        }
        self.used.push((open.number, open.until));
        true
    }

    fn proof(&self, bytes: &[u8]) -> Option<Hmac<Sha256>> {
        // Any key length fits HMAC.
        let mut proof = Hmac::<Sha256>::new_from_slice(&self.key).ok()?;
        proof.update(bytes);
        Some(proof)
    }
}

/// Returns the stages that a set of them names, as the specification does.
pub(super) fn stages_of(open: &Open) -> Vec<Stage> {
    STAGES.into_iter().filter(|stage| open.allows(*stage)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: u64 = 1000;
    const BOTH: [Stage; 2] = [Stage::Password, Stage::Sso];

    fn device(user: &str, device_id: &str) -> Session {
        let user_id = ruma::UserId::parse(format!("@{user}:x")).unwrap();
        Session { user_id, device_id: device_id.to_owned() }
    }

    fn operation() -> Operation {
        Operation::new(Matter::DeleteDevices, Some(&device("ann", "A")), "DELETE /devices/B", b"{}")
    }

    fn number(number: usize) -> Number {
        u128::try_from(number).unwrap().to_be_bytes()
    }

    #[test]
    fn a_session_counts_for_its_operation_alone() {
        let ann = device("ann", "A");
        let mine = operation();
        let other = |by: Option<&Session>, endpoint: &str, body: &[u8]| {
            Operation::new(Matter::DeleteDevices, by, endpoint, body)
        };
        let sessions = Sessions::new([1; 32]);
        let open = sessions.read(&sessions.begin(&mine, &BOTH, number(1), NOW), NOW).unwrap();
        assert!(open.is_for(&mine) && open.is_for(&operation()));
        let keys = Operation::new(Matter::ReplaceKeys, Some(&ann), "DELETE /devices/B", b"{}");
        for (what, other) in [
            ("another user", other(Some(&device("bob", "A")), "DELETE /devices/B", b"{}")),
            ("another device", other(Some(&device("ann", "B")), "DELETE /devices/B", b"{}")),
            ("another endpoint", other(Some(&ann), "DELETE /devices/C", b"{}")),
            ("another body", other(Some(&ann), "DELETE /devices/B", b"{\"a\":1}")),
            ("nobody", other(None, "DELETE /devices/B", b"{}")),
            ("moved between parts", other(Some(&ann), "DELETE /devices/B{", b"}")),
            ("another matter", keys),
        ] {
            assert!(!open.is_for(&other), "{what}");
        }
        assert_eq!(open.matter(), Matter::DeleteDevices);
        assert_eq!(stages_of(&open), BOTH);
    }

    #[test]
    fn it_counts_once_and_for_a_while() {
        let mut sessions = Sessions::new([1; 32]);
        let session = sessions.begin(&operation(), &BOTH, number(1), NOW);
        let end = NOW + limits::UIA_MS;
        assert!(sessions.read(&session, end - 1).is_some());
        assert_eq!(sessions.read(&session, end), None, "too late");
        let open = sessions.read(&session, NOW).unwrap();
        assert!(!sessions.take(&open, end), "read in time, used too late");
        assert!(sessions.take(&open, NOW));
        assert!(!sessions.take(&open, NOW), "of two at once one gets through");
        assert_eq!(sessions.read(&session, NOW), None, "replayed");
    }

    #[test]
    fn the_persons_word_is_for_one_session() {
        let mut sessions = Sessions::new([1; 32]);
        let [one, other, by_password] = [(1, &BOTH[..]), (2, &BOTH), (3, &[Stage::Password])]
            .map(|(at, stages)| sessions.begin(&operation(), stages, number(at), NOW))
            .map(|session| sessions.read(&session, NOW).unwrap());
        assert!(sessions.approve(&one, NOW) && sessions.approve(&one, NOW), "pressed twice");
        assert!(sessions.is_approved(&one) && !sessions.is_approved(&other));
        assert!(!sessions.approve(&by_password, NOW), "this one has no such stage");
        assert!(sessions.take(&one, NOW));
        assert!(!sessions.is_approved(&one));
    }

    #[test]
    fn begun_sessions_cost_nothing_and_what_is_kept_has_a_bound() {
        let mut sessions = Sessions::new([1; 32]);
        let all: Vec<Open> = (0..=limits::UIA_KEPT)
            .map(|at| sessions.begin(&operation(), &BOTH, number(at), NOW))
            .map(|session| sessions.read(&session, NOW).unwrap())
            .collect();
        assert!(sessions.approved.is_empty() && sessions.used.is_empty());
        let approved = all.iter().filter(|open| sessions.approve(open, NOW)).count();
        let taken = all.iter().filter(|open| sessions.take(open, NOW)).count();
        assert_eq!((approved, taken), (limits::UIA_KEPT, limits::UIA_KEPT));
        let later = NOW + limits::UIA_MS;
        let fresh = sessions.begin(&operation(), &BOTH, number(0), later);
        let fresh = sessions.read(&fresh, later).unwrap();
        assert!(sessions.take(&fresh, later));
        assert_eq!(sessions.used.len(), 1);
    }

    proptest! {
        #[test]
        fn nobody_makes_one_up(at in 0..LEN, bit in 0..8_u8, text in ".{0,200}") {
            let sessions = Sessions::new([1; 32]);
            let good = sessions.begin(&operation(), &BOTH, number(1), NOW);
            prop_assert!(Sessions::new([2; 32]).read(&good, NOW).is_none(), "of another start");
            let mut changed = URL_SAFE_NO_PAD.decode(&good).unwrap();
            changed[at] ^= 1 << bit;
            prop_assert!(sessions.read(&URL_SAFE_NO_PAD.encode(changed), NOW).is_none());
            prop_assert!(sessions.read(&text, NOW).is_none());
            prop_assert!(sessions.read(&good[1..], NOW).is_none());
        }
    }
}
