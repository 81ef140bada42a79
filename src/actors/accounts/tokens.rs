//! Access tokens and refresh tokens. Pure: time and chance are arguments.
//!
//! A client that asked for it gets access tokens that end, each with a refresh token that gets the next
//! pair. The answer with the next pair may be lost: so the pair before counts on until the new access
//! token is used, or the new refresh token; who asks again with the old one gets another pair, and the
//! one that nobody used is gone. Invariants: a device has two pairs at most; tokens are 256 random bits
//! and kept as their SHA-256 only, so nothing that is kept is a token, and looking one up by its hash
//! tells nothing by its duration.

use std::{collections::HashMap, fmt};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ruma::OwnedUserId;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{
    messages::AccountError,
    sessions::{Rows, Session, to_json},
};
use crate::{actors::store::Row, config::limits};

/// The SHA-256 of a token.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenHash([u8; 32]);

impl TokenHash {
    /// Hashes a token.
    pub fn of(token: &str) -> Self {
        Self(Sha256::digest(token.as_bytes()).into())
    }

    fn from_hex(hex: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        if hex.len() != 64 {
            return None;
        }
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(hex.get(2 * at..2 * at + 2)?, 16).ok()?;
        }
        Some(Self(bytes))
    }
}

impl fmt::Display for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenHash(..)")
    }
}

/// Makes a token out of 256 random bits.
pub(super) fn token(random: [u8; 32]) -> String {
    format!("mh_{}", URL_SAFE_NO_PAD.encode(random))
}

/// The hashes of tokens that a client gets together.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pair {
    pub(super) access: TokenHash,
    /// None for a client that did not ask for it: then the access token does not end.
    pub(super) refresh: Option<TokenHash>,
}

/// Why a token lets nobody in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoSession {
    /// It is none, or not any more.
    Unknown,
    /// It has ended, and the client is to refresh it.
    Expired,
}

#[derive(Debug, Clone)]
struct Access {
    session: Session,
    expires_ts: Option<u64>,
    /// The refresh token that it was got by, until it is used for the first time.
    after: Option<TokenHash>,
}

#[derive(Debug, Clone)]
struct Refresh {
    session: Session,
    /// The access token of the same pair.
    access: TokenHash,
}

/// The value of [`Row::AccessToken`].
#[derive(Serialize, Deserialize)]
struct AccessRow {
    user_id: OwnedUserId,
    device_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires_ts: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    after: Option<String>,
}

/// The value of [`Row::RefreshToken`].
#[derive(Serialize, Deserialize)]
struct RefreshRow {
    user_id: OwnedUserId,
    device_id: String,
    access: String,
}

/// A pair that is on its way to the disk: it counts once it is there.
#[derive(Debug)]
pub(super) struct Issued {
    pair: Pair,
    access: Access,
}

impl Issued {
    /// Whose it is.
    pub(super) fn session(&self) -> &Session {
        &self.access.session
    }
}

/// All tokens.
#[derive(Debug, Default)]
pub(super) struct Tokens {
    access: HashMap<TokenHash, Access>,
    refresh: HashMap<TokenHash, Refresh>,
}

impl Tokens {
    /// Rebuilds them from their rows; those of devices that are none are left out.
    pub(super) fn load(
        access: Vec<(Row, Vec<u8>)>,
        refresh: Vec<(Row, Vec<u8>)>,
        is_device: impl Fn(&Session) -> bool,
    ) -> Result<Self, &'static str> {
        let mut tokens = Self::default();
        for (row, value) in access {
            let Row::AccessToken(hash) = row else { continue };
            let hash = TokenHash::from_hex(&hash).ok_or("access token")?;
            let AccessRow { user_id, device_id, expires_ts, after } =
                serde_json::from_slice(&value).map_err(|_| "access token")?;
            let after = after.map(|hex| TokenHash::from_hex(&hex).ok_or("access token"));
            let (session, after) = (Session { user_id, device_id }, after.transpose()?);
            if is_device(&session) {
                tokens.access.insert(hash, Access { session, expires_ts, after });
            }
        }
        for (row, value) in refresh {
            let Row::RefreshToken(hash) = row else { continue };
            let hash = TokenHash::from_hex(&hash).ok_or("refresh token")?;
            let RefreshRow { user_id, device_id, access } =
                serde_json::from_slice(&value).map_err(|_| "refresh token")?;
            let access = TokenHash::from_hex(&access).ok_or("refresh token")?;
            let session = Session { user_id, device_id };
            if is_device(&session) {
                tokens.refresh.insert(hash, Refresh { session, access });
            }
        }
        Ok(tokens)
    }

    /// Finds out whose an access token is. Where it is used for the first time, the rows are to be
    /// written: the pair before is gone.
    pub(super) fn authenticate(
        &mut self,
        hash: &TokenHash,
        now: u64,
    ) -> Result<(Session, Rows), NoSession> {
        let access = self.access.get(hash).ok_or(NoSession::Unknown)?;
        if access.expires_ts.is_some_and(|expires| expires <= now) {
            return Err(NoSession::Expired);
        }
        let session = access.session.clone();
        Ok((session, self.used(hash)))
    }

    /// Makes a pair, and the rows that say so.
    pub(super) fn issue(
        session: &Session,
        pair: Pair,
        after: Option<TokenHash>,
        now: u64,
    ) -> (Rows, Issued) {
        let expires_ts = pair.refresh.map(|_| now.saturating_add(limits::ACCESS_TOKEN_MS));
        let access = Access { session: session.clone(), expires_ts, after };
        let mut rows = vec![access_row(&pair.access, &access)];
        if let Some(refresh) = pair.refresh {
            let value = RefreshRow {
                user_id: session.user_id.clone(),
                device_id: session.device_id.clone(),
                access: pair.access.to_string(),
            };
            rows.push((Row::RefreshToken(refresh.to_string()), Some(to_json(&value))));
        }
        (rows, Issued { pair, access })
    }

    /// Lets a pair in, once it is on disk.
    pub(super) fn open(&mut self, Issued { pair, access }: Issued) {
        if let Some(refresh) = pair.refresh {
            let session = access.session.clone();
            self.refresh.insert(refresh, Refresh { session, access: pair.access });
        }
        self.access.insert(pair.access, access);
    }

    /// Gets the next pair by a refresh token.
    pub(super) fn refresh(
        &mut self,
        by: TokenHash,
        pair: Pair,
        now: u64,
    ) -> Result<(Rows, Issued), AccountError> {
        let Refresh { session, access } =
            self.refresh.get(&by).cloned().ok_or(AccountError::BadRefreshToken)?;
        // Whoever has it got the answer that it came with.
        let mut rows = self.used(&access);
        // The answer before this one, if there was one, reached nobody.
        let unused: Vec<TokenHash> = self
            .access
            .iter()
            .filter(|(_, access)| access.after == Some(by))
            .map(|(hash, _)| *hash)
            .collect();
        for access in unused {
            rows.extend(self.drop_pair_of(&access));
        }
        let (more, issued) = Self::issue(&session, pair, Some(by), now);
        rows.extend(more);
        Ok((rows, issued))
    }

    /// Ends all tokens of a device.
    pub(super) fn revoke(&mut self, of: &Session) -> Rows {
        let access = self.access.extract_if(|_, access| access.session == *of);
        let mut rows: Rows =
            access.map(|(hash, _)| (Row::AccessToken(hash.to_string()), None)).collect();
        let refresh = self.refresh.extract_if(|_, refresh| refresh.session == *of);
        rows.extend(refresh.map(|(hash, _)| (Row::RefreshToken(hash.to_string()), None)));
        rows
    }

    /// An access token is used, or what came with it: the pair by which it was got is over.
    fn used(&mut self, hash: &TokenHash) -> Rows {
        let Some(access) = self.access.get_mut(hash) else { return Rows::new() };
        let Some(before) = access.after.take() else { return Rows::new() };
        let mut rows = vec![access_row(hash, access)];
        if let Some(before) = self.refresh.get(&before).map(|refresh| refresh.access) {
            rows.extend(self.drop_pair_of(&before));
        }
        rows
    }

    fn drop_pair_of(&mut self, access: &TokenHash) -> Rows {
        self.access.remove(access);
        let mut rows = vec![(Row::AccessToken(access.to_string()), None)];
        let refresh = self.refresh.extract_if(|_, refresh| refresh.access == *access);
        rows.extend(refresh.map(|(hash, _)| (Row::RefreshToken(hash.to_string()), None)));
        rows
    }
}

fn access_row(hash: &TokenHash, access: &Access) -> (Row, Option<Vec<u8>>) {
    let Session { user_id, device_id } = access.session.clone();
    let (expires_ts, after) = (access.expires_ts, access.after.map(|hash| hash.to_string()));
    let value = AccessRow { user_id, device_id, expires_ts, after };
    (Row::AccessToken(hash.to_string()), Some(to_json(&value)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use ruma::user_id;

    use super::*;

    const NOW: u64 = 1000;
    const LATER: u64 = NOW + limits::ACCESS_TOKEN_MS;

    fn session() -> Session {
        Session { user_id: user_id!("@ann:x").to_owned(), device_id: "D".to_owned() }
    }

    fn hash(text: &str) -> TokenHash {
        TokenHash::of(text)
    }

    fn pair(number: u8) -> Pair {
        let (access, refresh) = (hash(&format!("a{number}")), hash(&format!("r{number}")));
        Pair { access, refresh: Some(refresh) }
    }

    /// Tokens, and the disk under them.
    #[derive(Default)]
    struct Node {
        tokens: Tokens,
        disk: BTreeMap<String, (Row, Vec<u8>)>,
    }

    impl Node {
        fn write(&mut self, rows: Rows) {
            for (row, value) in rows {
                match value {
                    Some(value) => self.disk.insert(format!("{row:?}"), (row, value)),
                    None => self.disk.remove(&format!("{row:?}")),
                };
            }
        }

        fn log_in(&mut self, pair: Pair) {
            let (rows, issued) = Tokens::issue(&session(), pair, None, NOW);
            self.write(rows);
            self.tokens.open(issued);
        }

        fn refresh(&mut self, by: &str, number: u8, now: u64) -> bool {
            let Ok((rows, issued)) = self.tokens.refresh(hash(by), pair(number), now) else {
                return false;
            };
            self.write(rows);
            self.tokens.open(issued);
            true
        }

        fn lets_in(&mut self, access: &str, now: u64) -> Result<(), NoSession> {
            let (_, rows) = self.tokens.authenticate(&hash(access), now)?;
            self.write(rows);
            Ok(())
        }

        fn restart(&mut self) {
            let of = |kind: fn(&Row) -> bool| {
                self.disk.values().filter(|(row, _)| kind(row)).cloned().collect::<Vec<_>>()
            };
            let access = of(|row| matches!(row, Row::AccessToken(_)));
            let refresh = of(|row| matches!(row, Row::RefreshToken(_)));
            self.tokens = Tokens::load(access, refresh, |_| true).unwrap();
        }
    }

    #[test]
    fn who_did_not_ask_has_a_token_that_does_not_end() {
        let mut node = Node::default();
        node.log_in(Pair { refresh: None, ..pair(1) });
        node.restart();
        assert_eq!(node.lets_in("a1", u64::MAX), Ok(()));
        assert!(!node.refresh("a1", 2, NOW) && !node.refresh("r1", 2, NOW));
        assert_eq!(node.disk.len(), 1);
    }

    #[test]
    fn a_pair_counts_until_the_next_one_is_used() {
        for restarts in [false, true] {
            let mut node = Node::default();
            let step = |node: &mut Node| {
                if restarts {
                    node.restart();
                }
            };
            node.log_in(pair(1));
            step(&mut node);
            assert_eq!(node.lets_in("a1", LATER - 1), Ok(()));
            assert_eq!(node.lets_in("a1", LATER), Err(NoSession::Expired));
            assert!(node.refresh("r1", 2, LATER), "the answer is lost");
            step(&mut node);
            assert!(node.refresh("r1", 3, LATER), "and asked for again");
            step(&mut node);
            assert_eq!(node.lets_in("a2", LATER), Err(NoSession::Unknown), "nobody has it");
            assert!(!node.refresh("r2", 9, LATER));
            assert_eq!(node.lets_in("a3", LATER), Ok(()));
            step(&mut node);
            assert!(!node.refresh("r1", 9, LATER), "the one before is over");
            assert_eq!(node.lets_in("a1", NOW), Err(NoSession::Unknown));
            // By the refresh token it counts as used as well.
            assert!(node.refresh("r3", 4, LATER) && node.refresh("r4", 5, LATER));
            step(&mut node);
            assert!(!node.refresh("r3", 9, LATER));
            assert_eq!(node.lets_in("a3", LATER), Err(NoSession::Unknown));
            assert!(node.tokens.access.len() <= 2 && node.disk.len() <= 4, "two pairs at most");
            let rows = node.tokens.revoke(&session());
            node.write(rows);
            assert!(node.disk.is_empty() && node.tokens.access.is_empty());
            assert!(!node.refresh("r5", 9, LATER));
        }
    }

    #[test]
    fn rows_hold_hashes_and_never_tokens() {
        let (rows, _) = Tokens::issue(&session(), pair(1), Some(hash("r0")), NOW);
        assert_eq!(rows.len(), 2);
        for (row, value) in &rows {
            let text = format!("{row:?} {}", String::from_utf8_lossy(value.as_deref().unwrap()));
            assert!(!["\"a1\"", "\"r1\"", "\"r0\""].iter().any(|token| text.contains(token)));
        }
    }
}
