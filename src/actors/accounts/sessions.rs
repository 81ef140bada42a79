//! Devices and access tokens.
//!
//! Invariant: tokens are 256 random bits and kept as their SHA-256 only, so nothing that is kept is
//! a token, and looking one up by its hash tells nothing by its duration.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ruma::{OwnedUserId, UserId};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::messages::AccountError;
use crate::actors::store::Row;

/// How often it is written down that a device is in use: ten minutes.
const TOUCH_MS: u64 = 10 * 60 * 1000;
/// Longest device id and device name, in bytes.
const NAME_LEN: usize = 255;

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

/// Who sends a request: a user's device.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Session {
    /// Our user.
    pub user_id: OwnedUserId,
    /// The device.
    pub device_id: String,
}

/// A new session.
#[derive(Clone)]
pub struct LoggedIn {
    /// Who, and on which device.
    pub session: Session,
    /// The access token; this is the only time that it is seen.
    pub access_token: String,
}

/// A device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Its id.
    pub device_id: String,
    /// Its name.
    pub display_name: Option<String>,
    /// When it was last seen, in milliseconds.
    pub last_seen_ts: u64,
}

/// The value of [`Row::Device`].
#[derive(Serialize, Deserialize)]
struct DeviceRow {
    display_name: Option<String>,
    last_seen_ts: u64,
}

/// The value of [`Row::AccessToken`].
#[derive(Serialize, Deserialize)]
struct TokenRow {
    user_id: OwnedUserId,
    device_id: String,
}

/// Rows to be written.
pub(super) type Rows = Vec<(Row, Option<Vec<u8>>)>;

/// All sessions.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    devices: BTreeMap<Session, Device>,
    tokens: HashMap<TokenHash, Session>,
}

impl Sessions {
    /// Rebuilds the sessions from their rows. Tokens without a device are left out.
    pub(super) fn load(
        devices: Vec<(Row, Vec<u8>)>,
        tokens: Vec<(Row, Vec<u8>)>,
    ) -> Result<Self, &'static str> {
        let mut sessions = Self::default();
        for (row, value) in devices {
            let Row::Device(user_id, device_id) = row else { continue };
            let DeviceRow { display_name, last_seen_ts } =
                serde_json::from_slice(&value).map_err(|_| "device")?;
            let device = Device { device_id: device_id.clone(), display_name, last_seen_ts };
            sessions.devices.insert(Session { user_id, device_id }, device);
        }
        for (row, value) in tokens {
            let Row::AccessToken(hash) = row else { continue };
            let hash = TokenHash::from_hex(&hash).ok_or("access token")?;
            let TokenRow { user_id, device_id } =
                serde_json::from_slice(&value).map_err(|_| "access token")?;
            let session = Session { user_id, device_id };
            if sessions.devices.contains_key(&session) {
                sessions.tokens.insert(hash, session);
            }
        }
        Ok(sessions)
    }

    /// Finds out whose a token is. The row is to be written: the device was seen.
    pub(super) fn authenticate(
        &mut self,
        hash: &TokenHash,
        now: u64,
    ) -> Option<(Session, Option<Rows>)> {
        let session = self.tokens.get(hash)?.clone();
        let device = self.devices.get_mut(&session)?;
        let touched = now.saturating_sub(device.last_seen_ts) >= TOUCH_MS;
        if touched {
            device.last_seen_ts = now;
        }
        let rows = touched.then(|| vec![device_row(&session.user_id, device)]);
        Some((session, rows))
    }

    /// Begins a session. A device that exists already loses its other tokens at once; the new
    /// token works after [`Self::open`].
    pub(super) fn begin(
        &mut self,
        hash: TokenHash,
        session: &Session,
        name: Option<String>,
        now: u64,
    ) -> Result<(Rows, Device), AccountError> {
        check_name("device id", &session.device_id)?;
        if session.device_id.is_empty() {
            return Err(AccountError::BadRequest("the device id is empty".to_owned()));
        }
        if let Some(name) = &name {
            check_name("device name", name)?;
        }
        let known = self.devices.get(session);
        let display_name = known.and_then(|device| device.display_name.clone()).or(name);
        let device =
            Device { device_id: session.device_id.clone(), display_name, last_seen_ts: now };
        let mut rows = self.revoke(session);
        rows.push(device_row(&session.user_id, &device));
        let value =
            TokenRow { user_id: session.user_id.clone(), device_id: session.device_id.clone() };
        rows.push((Row::AccessToken(hash.to_string()), Some(to_json(&value))));
        Ok((rows, device))
    }

    /// Lets a session in, once it is on disk.
    pub(super) fn open(&mut self, hash: TokenHash, session: Session, device: Device) {
        self.devices.insert(session.clone(), device);
        self.tokens.insert(hash, session);
    }

    /// Removes devices, at once.
    pub(super) fn delete(&mut self, devices: &[Session]) -> Rows {
        let mut rows = Rows::new();
        for session in devices {
            if self.devices.remove(session).is_none() {
                continue;
            }
            rows.extend(self.revoke(session));
            rows.push((Row::Device(session.user_id.clone(), session.device_id.clone()), None));
        }
        rows
    }

    fn revoke(&mut self, of: &Session) -> Rows {
        let gone = self.tokens.extract_if(|_, session| session == of);
        gone.map(|(hash, _)| (Row::AccessToken(hash.to_string()), None)).collect()
    }

    /// Gives a device another name.
    pub(super) fn rename(
        &mut self,
        session: &Session,
        name: Option<String>,
    ) -> Result<Rows, AccountError> {
        let device = self.devices.get_mut(session).ok_or(AccountError::NotFound("device"))?;
        let Some(name) = name else { return Ok(Rows::new()) };
        check_name("device name", &name)?;
        device.display_name = Some(name);
        Ok(vec![device_row(&session.user_id, device)])
    }

    /// Returns the devices of a user.
    pub(super) fn devices_of(&self, user_id: &UserId) -> impl Iterator<Item = &Device> {
        let first = Session { user_id: user_id.to_owned(), device_id: String::new() };
        let from = self.devices.range(first..);
        from.take_while(move |(session, _)| session.user_id == user_id).map(|(_, device)| device)
    }

    /// Returns those who have devices, once for each device.
    pub(super) fn users(&self) -> impl Iterator<Item = &OwnedUserId> {
        self.devices.keys().map(|session| &session.user_id)
    }
}

fn check_name(what: &str, name: &str) -> Result<(), AccountError> {
    if name.len() > NAME_LEN {
        let why = format!("the {what} is longer than {NAME_LEN} bytes");
        return Err(AccountError::BadRequest(why));
    }
    Ok(())
}

fn device_row(user_id: &UserId, device: &Device) -> (Row, Option<Vec<u8>>) {
    let value =
        DeviceRow { display_name: device.display_name.clone(), last_seen_ts: device.last_seen_ts };
    (Row::Device(user_id.to_owned(), device.device_id.clone()), Some(to_json(&value)))
}

/// Writes what cannot fail to be JSON.
pub(super) fn to_json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use ruma::user_id;

    use super::*;

    fn session(device_id: &str) -> Session {
        Session { user_id: user_id!("@p2p:x").to_owned(), device_id: device_id.to_owned() }
    }

    fn opened(sessions: &mut Sessions, token: &str, device: &str) -> Rows {
        let hash = TokenHash::of(token);
        let (rows, new) = sessions.begin(hash, &session(device), Some("Phone".into()), 5).unwrap();
        sessions.open(hash, session(device), new);
        rows
    }

    #[test]
    fn rows_hold_hashes_and_never_tokens() {
        let mut sessions = Sessions::default();
        let rows = opened(&mut sessions, "mh_secret", "D");
        for (row, value) in &rows {
            let text = format!("{row:?} {}", String::from_utf8_lossy(value.as_deref().unwrap()));
            assert!(!text.contains("mh_secret"), "{text}");
        }
        let split = |kind: fn(&Row) -> bool| -> Vec<(Row, Vec<u8>)> {
            let mine = rows.iter().filter(|(row, _)| kind(row));
            mine.map(|(row, value)| (row.clone(), value.clone().unwrap())).collect()
        };
        let devices = split(|row| matches!(row, Row::Device(..)));
        let tokens = split(|row| matches!(row, Row::AccessToken(_)));
        let mut again = Sessions::load(devices, tokens.clone()).unwrap();
        let (found, _) = again.authenticate(&TokenHash::of("mh_secret"), 6).unwrap();
        assert_eq!(found, session("D"));
        let mut orphans = Sessions::load(Vec::new(), tokens).unwrap();
        assert!(orphans.authenticate(&TokenHash::of("mh_secret"), 6).is_none());
    }

    #[test]
    fn a_second_login_of_a_device_ends_the_first() {
        let mut sessions = Sessions::default();
        opened(&mut sessions, "one", "D");
        let rows = opened(&mut sessions, "two", "D");
        let old = Row::AccessToken(TokenHash::of("one").to_string());
        assert!(rows.contains(&(old, None)));
        assert!(sessions.authenticate(&TokenHash::of("one"), 6).is_none());
        assert!(sessions.authenticate(&TokenHash::of("two"), 6).is_some());
        assert_eq!(sessions.devices_of(user_id!("@p2p:x")).count(), 1);
    }

    #[test]
    fn deleting_a_device_ends_its_tokens_at_once() {
        let mut sessions = Sessions::default();
        opened(&mut sessions, "one", "A");
        opened(&mut sessions, "two", "B");
        let rows = sessions.delete(&[session("A"), session("nobody")]);
        assert_eq!(rows.len(), 2, "token, device: {rows:?}");
        assert!(sessions.authenticate(&TokenHash::of("one"), 6).is_none());
        assert!(sessions.authenticate(&TokenHash::of("two"), 6).is_some());
    }

    #[test]
    fn two_people_may_have_devices_of_one_id() {
        let mut sessions = Sessions::default();
        opened(&mut sessions, "one", "D");
        let bob = Session { user_id: user_id!("@bob:x").to_owned(), device_id: "D".to_owned() };
        let hash = TokenHash::of("two");
        let (rows, device) = sessions.begin(hash, &bob, Some("Bob's".into()), 5).unwrap();
        assert!(rows.iter().all(|(_, value)| value.is_some()), "nobody is logged out: {rows:?}");
        sessions.open(hash, bob.clone(), device);
        let names = |sessions: &Sessions, user: &UserId| -> Vec<_> {
            sessions.devices_of(user).map(|device| device.display_name.clone()).collect()
        };
        assert_eq!(names(&sessions, user_id!("@p2p:x")), [Some("Phone".to_owned())]);
        assert_eq!(names(&sessions, &bob.user_id), [Some("Bob's".to_owned())]);
        sessions.delete(std::slice::from_ref(&bob));
        assert!(sessions.authenticate(&hash, 6).is_none());
        let (found, _) = sessions.authenticate(&TokenHash::of("one"), 6).unwrap();
        assert_eq!(found, session("D"));
    }

    #[test]
    fn being_seen_is_written_now_and_then() {
        let mut sessions = Sessions::default();
        opened(&mut sessions, "one", "A");
        let hash = TokenHash::of("one");
        assert!(sessions.authenticate(&hash, 6).unwrap().1.is_none());
        assert!(sessions.authenticate(&hash, 5 + TOUCH_MS).unwrap().1.is_some());
        assert!(sessions.authenticate(&hash, 6 + TOUCH_MS).unwrap().1.is_none());
    }

    #[test]
    fn names_have_limits() {
        let mut sessions = Sessions::default();
        let long = "x".repeat(NAME_LEN + 1);
        let hash = TokenHash::of("one");
        assert!(sessions.begin(hash, &session(&long), None, 5).is_err());
        assert!(sessions.begin(hash, &session(""), None, 5).is_err());
        opened(&mut sessions, "one", "A");
        assert!(sessions.rename(&session("A"), Some(long)).is_err());
        assert!(matches!(sessions.rename(&session("B"), None), Err(AccountError::NotFound(_))));
        sessions.rename(&session("A"), Some("Laptop".into())).unwrap();
        let mut devices = sessions.devices_of(user_id!("@p2p:x"));
        assert_eq!(devices.next().unwrap().display_name.as_deref(), Some("Laptop"));
    }
}
