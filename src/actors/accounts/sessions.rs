//! Devices, and the tokens that they have (`tokens.rs`).

use std::{collections::BTreeMap, net::IpAddr};

use ruma::{OwnedUserId, UserId};
use serde::{Deserialize, Serialize};

use super::{
    messages::AccountError,
    tokens::{Issued, NoSession, Pair, TokenHash, Tokens},
};
use crate::{actors::store::Row, config::limits};

/// How often it is written down that a device is in use: ten minutes.
const TOUCH_MS: u64 = 10 * 60 * 1000;
/// Longest device id and device name, in bytes.
const NAME_LEN: usize = 255;

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
    /// The refresh token, where the client asked for one; this is the only time that it is seen.
    pub refresh_token: Option<String>,
}

/// A device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Its id.
    pub device_id: String,
    /// Its name.
    pub display_name: Option<String>,
    /// When it was last seen, in milliseconds; true to some minutes.
    pub last_seen_ts: u64,
    /// From where, then.
    pub last_seen_ip: Option<String>,
}

/// The value of [`Row::Device`].
#[derive(Serialize, Deserialize)]
struct DeviceRow {
    display_name: Option<String>,
    last_seen_ts: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last_seen_ip: Option<String>,
}

/// A session that is on its way to the disk.
#[derive(Debug)]
pub(super) struct Begun {
    pub(super) device: Device,
    issued: Issued,
}

/// Rows to be written.
pub(super) type Rows = Vec<(Row, Option<Vec<u8>>)>;

/// All sessions.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    devices: BTreeMap<Session, Device>,
    tokens: Tokens,
}

impl Sessions {
    /// Rebuilds the sessions from their rows. Tokens without a device are left out.
    pub(super) fn load(
        devices: Vec<(Row, Vec<u8>)>,
        access: Vec<(Row, Vec<u8>)>,
        refresh: Vec<(Row, Vec<u8>)>,
    ) -> Result<Self, &'static str> {
        let mut known = BTreeMap::new();
        for (row, value) in devices {
            let Row::Device(user_id, device_id) = row else { continue };
            let DeviceRow { display_name, last_seen_ts, last_seen_ip } =
                serde_json::from_slice(&value).map_err(|_| "device")?;
            let device =
                Device { device_id: device_id.clone(), display_name, last_seen_ts, last_seen_ip };
            known.insert(Session { user_id, device_id }, device);
        }
        let tokens = Tokens::load(access, refresh, |session| known.contains_key(session))?;
        Ok(Self { devices: known, tokens })
    }

    /// Finds out whose a token is. The rows are to be written: the device was seen, the first time in a
    /// while, or uses the token for the first time.
    pub(super) fn authenticate(
        &mut self,
        hash: &TokenHash,
        from: Option<IpAddr>,
        now: u64,
    ) -> Result<(Session, Rows), NoSession> {
        let (session, mut rows) = self.tokens.authenticate(hash, now)?;
        let device = self.devices.get_mut(&session).ok_or(NoSession::Unknown)?;
        let is_new = device.last_seen_ip.is_none() && from.is_some();
        if is_new || now.saturating_sub(device.last_seen_ts) >= TOUCH_MS {
            device.last_seen_ts = now;
            device.last_seen_ip = from.map(|ip| ip.to_canonical().to_string());
            rows.push(device_row(&session.user_id, device));
        }
        Ok((session, rows))
    }

    /// Begins a session. A device that exists already loses its other tokens at once; the new
    /// ones work after [`Self::open`].
    pub(super) fn begin(
        &mut self,
        pair: Pair,
        session: &Session,
        name: Option<String>,
        now: u64,
    ) -> Result<(Rows, Begun), AccountError> {
        check_name("device id", &session.device_id)?;
        if session.device_id.is_empty() {
            return Err(AccountError::BadRequest("the device id is empty".to_owned()));
        }
        if let Some(name) = &name {
            check_name("device name", name)?;
        }
        let known = self.devices.get(session);
        if known.is_none() && self.devices_of(&session.user_id).count() >= limits::DEVICES_LOGGED_IN
        {
            return Err(AccountError::Full("devices are logged in: log some of them out"));
        }
        let device = Device {
            device_id: session.device_id.clone(),
            display_name: known.and_then(|device| device.display_name.clone()).or(name),
            last_seen_ts: now,
            last_seen_ip: known.and_then(|device| device.last_seen_ip.clone()),
        };
        let mut rows = self.tokens.revoke(session);
        rows.push(device_row(&session.user_id, &device));
        let (more, issued) = Tokens::issue(session, pair, None, now);
        rows.extend(more);
        Ok((rows, Begun { device, issued }))
    }

    /// Lets a session in, once it is on disk.
    pub(super) fn open(&mut self, session: Session, begun: Begun) {
        self.devices.insert(session, begun.device);
        self.tokens.open(begun.issued);
    }

    /// The tokens of the devices.
    pub(super) fn tokens(&mut self) -> &mut Tokens {
        &mut self.tokens
    }

    /// Removes devices, at once.
    pub(super) fn delete(&mut self, devices: &[Session]) -> Rows {
        let mut rows = Rows::new();
        for session in devices {
            if self.devices.remove(session).is_none() {
                continue;
            }
            rows.extend(self.tokens.revoke(session));
            rows.push((Row::Device(session.user_id.clone(), session.device_id.clone()), None));
        }
        rows
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
    let Device { display_name, last_seen_ts, last_seen_ip, .. } = device.clone();
    let value = DeviceRow { display_name, last_seen_ts, last_seen_ip };
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
        let (rows, new) =
            sessions.begin(pair(token), &session(device), Some("Phone".into()), 5).unwrap();
        sessions.open(session(device), new);
        rows
    }

    fn pair(token: &str) -> Pair {
        Pair { access: TokenHash::of(token), refresh: None }
    }

    fn is_in(sessions: &mut Sessions, token: &str) -> Option<Session> {
        Some(sessions.authenticate(&TokenHash::of(token), None, 6).ok()?.0)
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
        let mut again = Sessions::load(devices, tokens.clone(), Vec::new()).unwrap();
        assert_eq!(is_in(&mut again, "mh_secret"), Some(session("D")));
        let mut orphans = Sessions::load(Vec::new(), tokens, Vec::new()).unwrap();
        assert_eq!(is_in(&mut orphans, "mh_secret"), None);
    }

    #[test]
    fn a_second_login_of_a_device_ends_the_first() {
        let mut sessions = Sessions::default();
        opened(&mut sessions, "one", "D");
        let rows = opened(&mut sessions, "two", "D");
        let old = Row::AccessToken(TokenHash::of("one").to_string());
        assert!(rows.contains(&(old, None)));
        assert_eq!(is_in(&mut sessions, "one"), None);
        assert!(is_in(&mut sessions, "two").is_some());
        assert_eq!(sessions.devices_of(user_id!("@p2p:x")).count(), 1);
    }

    #[test]
    fn deleting_a_device_ends_its_tokens_at_once() {
        let mut sessions = Sessions::default();
        opened(&mut sessions, "one", "A");
        opened(&mut sessions, "two", "B");
        let rows = sessions.delete(&[session("A"), session("nobody")]);
        assert_eq!(rows.len(), 2, "token, device: {rows:?}");
        assert_eq!(is_in(&mut sessions, "one"), None);
        assert!(is_in(&mut sessions, "two").is_some());
    }

    #[test]
    fn two_people_may_have_devices_of_one_id() {
        let mut sessions = Sessions::default();
        opened(&mut sessions, "one", "D");
        let bob = Session { user_id: user_id!("@bob:x").to_owned(), device_id: "D".to_owned() };
        let (rows, begun) = sessions.begin(pair("two"), &bob, Some("Bob's".into()), 5).unwrap();
        assert!(rows.iter().all(|(_, value)| value.is_some()), "nobody is logged out: {rows:?}");
        sessions.open(bob.clone(), begun);
        let names = |sessions: &Sessions, user: &UserId| -> Vec<_> {
            sessions.devices_of(user).map(|device| device.display_name.clone()).collect()
        };
        assert_eq!(names(&sessions, user_id!("@p2p:x")), [Some("Phone".to_owned())]);
        assert_eq!(names(&sessions, &bob.user_id), [Some("Bob's".to_owned())]);
        sessions.delete(std::slice::from_ref(&bob));
        assert_eq!(is_in(&mut sessions, "two"), None);
        assert_eq!(is_in(&mut sessions, "one"), Some(session("D")));
    }

    #[test]
    fn being_seen_is_written_now_and_then() {
        let mut sessions = Sessions::default();
        opened(&mut sessions, "one", "A");
        let hash = TokenHash::of("one");
        let ip = |text: &str| text.parse().ok();
        let mut written = |from: Option<IpAddr>, now| {
            let (_, rows) = sessions.authenticate(&hash, from, now).unwrap();
            let seen = sessions.devices_of(user_id!("@p2p:x")).next().unwrap();
            (rows.len(), seen.last_seen_ip.clone())
        };
        assert_eq!(written(None, 6), (0, None));
        let here = Some("127.0.0.1".to_owned());
        assert_eq!(
            written(ip("::ffff:127.0.0.1"), 6),
            (1, here.clone()),
            "seen for the first time"
        );
        assert_eq!(written(ip("10.0.0.1"), 5 + TOUCH_MS), (0, here));
        let there = Some("10.0.0.1".to_owned());
        assert_eq!(written(ip("10.0.0.1"), 6 + TOUCH_MS), (1, there.clone()));
        assert_eq!(written(ip("10.0.0.2"), 7 + TOUCH_MS), (0, there));
    }

    #[test]
    fn devices_have_a_number() {
        let mut sessions = Sessions::default();
        for at in 0..limits::DEVICES_LOGGED_IN {
            opened(&mut sessions, &format!("t{at}"), &format!("D{at}"));
        }
        let more = sessions.begin(pair("more"), &session("more"), None, 5);
        assert!(matches!(more, Err(AccountError::Full(_))), "{more:?}");
        opened(&mut sessions, "again", "D0");
    }

    #[test]
    fn names_have_limits() {
        let mut sessions = Sessions::default();
        let long = "x".repeat(NAME_LEN + 1);
        assert!(sessions.begin(pair("one"), &session(&long), None, 5).is_err());
        assert!(sessions.begin(pair("one"), &session(""), None, 5).is_err());
        opened(&mut sessions, "one", "A");
        assert!(sessions.rename(&session("A"), Some(long)).is_err());
        assert!(matches!(sessions.rename(&session("B"), None), Err(AccountError::NotFound(_))));
        sessions.rename(&session("A"), Some("Laptop".into())).unwrap();
        let mut devices = sessions.devices_of(user_id!("@p2p:x"));
        assert_eq!(devices.next().unwrap().display_name.as_deref(), Some("Laptop"));
    }
}
