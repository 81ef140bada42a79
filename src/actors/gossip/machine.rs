//! Which gossip counts, and how ours is cut. Pure; peers are opaque keys.

use std::{collections::HashMap, hash::Hash};

use ruma::{CanonicalJsonObject, CanonicalJsonValue, OwnedRoomId, OwnedServerName, RoomId};
use serde_json::value::{RawValue, to_raw_value};

use crate::{
    actors::{replay::Replay, upward::TransactionVerdict},
    config::limits,
    proto::{
        ProtoError,
        endpoint::SEND,
        room_key,
        server_keys::{self, VerifiedServerKeys},
        signed::{Request, Verified},
        signer::Signer,
        topic,
    },
};

/// Room for everything around the PDUs and EDUs: server_keys, signature, names.
const ENVELOPE: usize = server_keys::MAX_LEN + 4 * 1024;

/// PDUs and EDUs that go into one message.
#[derive(Debug, Default)]
pub(super) struct Cut {
    pub(super) pdus: Vec<Box<RawValue>>,
    pub(super) edus: Vec<Box<RawValue>>,
}

/// Cuts what is to be published into messages within all limits.
pub(super) fn cut(pdus: Vec<Box<RawValue>>, edus: Vec<Box<RawValue>>) -> Vec<Cut> {
    const ROOM: usize = room_key::capacity(limits::GOSSIP_MESSAGE) - ENVELOPE;
    let mut cuts = Vec::new();
    let (mut open, mut length) = (Cut::default(), 0);
    let items = pdus.into_iter().map(|pdu| (true, pdu));
    for (is_pdu, item) in items.chain(edus.into_iter().map(|edu| (false, edu))) {
        let size = item.get().len() + 1;
        if size > ROOM {
            continue;
        }
        let (count, most) = match is_pdu {
            true => (open.pdus.len(), limits::TRANSACTION_PDUS),
            false => (open.edus.len(), limits::TRANSACTION_EDUS),
        };
        if length + size > ROOM || count >= most {
            cuts.push(std::mem::take(&mut open));
            length = 0;
        }
        length += size;
        let list = if is_pdu { &mut open.pdus } else { &mut open.edus };
        list.push(item);
    }
    if !open.pdus.is_empty() || !open.edus.is_empty() {
        cuts.push(open);
    }
    cuts
}

/// Returns the body of a transaction. server_keys that stand beside it stand in none of its PDUs.
pub(super) fn content(
    cut: &Cut,
    signer: &Signer,
    now: u64,
) -> Result<CanonicalJsonValue, ProtoError> {
    let list = |items: &[Box<RawValue>]| {
        let parsed = items.iter().map(|item| serde_json::from_str(item.get()));
        let items: Result<Vec<CanonicalJsonValue>, _> = parsed.collect();
        items.map_err(|error| ProtoError::malformed("transaction", error))
    };
    let mut pdus = list(&cut.pdus)?;
    for pdu in &mut pdus {
        let CanonicalJsonValue::Object(pdu) = pdu else { continue };
        let along = pdu.get("server_keys");
        if matches!(along, Some(CanonicalJsonValue::Object(keys)) if keys == signer.server_keys()) {
            pdu.remove("server_keys");
        }
    }
    let origin = signer.server_name().to_string();
    let ts = ruma::Int::new_saturating(i64::try_from(now).unwrap_or(i64::MAX));
    Ok(CanonicalJsonValue::Object(CanonicalJsonObject::from([
        ("origin".to_owned(), CanonicalJsonValue::String(origin)),
        ("origin_server_ts".to_owned(), CanonicalJsonValue::Integer(ts)),
        ("pdus".to_owned(), CanonicalJsonValue::Array(pdus)),
        ("edus".to_owned(), CanonicalJsonValue::Array(list(&cut.edus)?)),
    ])))
}

/// A transaction whose envelope is right.
#[derive(Debug)]
pub(super) struct Transaction {
    pub(super) request: Request,
    pub(super) server_keys: VerifiedServerKeys,
    pub(super) pdus: Vec<Box<RawValue>>,
    pub(super) edus: Vec<Box<RawValue>>,
}

/// Reads and verifies a message. Heavy: for the CPU pool.
pub(super) fn read(bytes: &[u8], now: u64) -> Result<Transaction, TransactionVerdict> {
    let Verified { mut message, server_keys, .. } =
        Request::verify(bytes, now).map_err(|error| verdict_on(&error))?;
    if message.method != "PUT" || !message.uri.starts_with(SEND) {
        return Err(TransactionVerdict::Reject);
    }
    let CanonicalJsonValue::Object(mut content) =
        std::mem::replace(&mut message.content, CanonicalJsonValue::Null)
    else {
        return Err(TransactionVerdict::Reject);
    };
    if content.get("origin").and_then(CanonicalJsonValue::as_str) != Some(message.origin.as_str()) {
        return Err(TransactionVerdict::Reject);
    }
    let mut list = |key: &str, most: usize| {
        let items = match content.remove(key) {
            None => return Ok(Vec::new()),
            Some(CanonicalJsonValue::Array(items)) if items.len() <= most => items,
            Some(_) => return Err(TransactionVerdict::Reject),
        };
        let objects = items.iter().map(|item| match item {
            CanonicalJsonValue::Object(_) => {
                to_raw_value(item).map_err(|_| TransactionVerdict::Reject)
            }
            _ => Err(TransactionVerdict::Reject),
        });
        objects.collect::<Result<Vec<_>, _>>()
    };
    let pdus = list("pdus", limits::TRANSACTION_PDUS)?;
    let edus = list("edus", limits::TRANSACTION_EDUS)?;
    Ok(Transaction { request: message, server_keys, pdus, edus })
}

/// A late message is nobody's fault, nor is one from the future: our own clock may be behind. A forged
/// one is that of whoever handed it on.
fn verdict_on(error: &ProtoError) -> TransactionVerdict {
    match error {
        ProtoError::NotFresh(_) | ProtoError::KeysAhead(_) => TransactionVerdict::Ignore,
        _ => TransactionVerdict::Reject,
    }
}

/// Why a message is not looked at now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The topic, or the peer, is none of ours.
    Unknown,
    /// The peer has enough in work.
    Busy,
}

/// The rooms that are gossiped, and who may gossip.
#[derive(Debug)]
pub(super) struct Machine<P> {
    topics: HashMap<String, OwnedRoomId>,
    /// Peers that proved their identity, and which.
    verified: HashMap<P, OwnedServerName>,
    in_work: HashMap<P, usize>,
    replay: Replay,
}

impl<P> Default for Machine<P> {
    fn default() -> Self {
        Self {
            topics: HashMap::new(),
            verified: HashMap::new(),
            in_work: HashMap::new(),
            replay: Replay::default(),
        }
    }
}

impl<P: Eq + Hash> Machine<P> {
    /// A room was joined: returns the topic, if it is new.
    pub(super) fn join(&mut self, room: OwnedRoomId) -> Option<String> {
        let topic = topic::of_room(&room);
        let new = self.topics.insert(topic.clone(), room).is_none();
        new.then_some(topic)
    }

    /// A room was left: returns the topic, if there was one.
    pub(super) fn leave(&mut self, room: &RoomId) -> Option<String> {
        let topic = topic::of_room(room);
        self.topics.remove(&topic).map(|_| topic)
    }

    /// Returns the topic of a joined room.
    pub(super) fn topic_of(&self, room: &RoomId) -> Option<String> {
        Some(topic::of_room(room)).filter(|topic| self.topics.contains_key(topic))
    }

    /// Returns all topics.
    pub(super) fn topics(&self) -> impl Iterator<Item = &String> {
        self.topics.keys()
    }

    /// A peer proved its identity.
    pub(super) fn verified(&mut self, peer: P, server: OwnedServerName) {
        self.verified.insert(peer, server);
    }

    /// A peer is gone, or its proof is.
    pub(super) fn forgotten(&mut self, peer: &P) {
        self.verified.remove(peer);
    }

    /// Nobody is connected any more.
    pub(super) fn forget_all(&mut self) {
        self.verified.clear();
    }

    /// A message came: returns its room, and the server of the peer, if it is worth a look. Then [`Self::done`] is owed.
    pub(super) fn begin(
        &mut self,
        peer: P,
        topic: &str,
    ) -> Result<(OwnedRoomId, OwnedServerName), Refusal> {
        let (Some(room), Some(server)) = (self.topics.get(topic), self.verified.get(&peer)) else {
            return Err(Refusal::Unknown);
        };
        let from = (room.clone(), server.clone());
        let in_work = self.in_work.entry(peer).or_default();
        if *in_work >= limits::WORK_PEER {
            return Err(Refusal::Busy);
        }
        *in_work += 1;
        Ok(from)
    }

    /// The message of a peer has its verdict.
    pub(super) fn done(&mut self, peer: &P) {
        if let Some(in_work) = self.in_work.get_mut(peer) {
            *in_work = in_work.saturating_sub(1);
            if *in_work == 0 {
                self.in_work.remove(peer);
            }
        }
    }

    /// Returns the server that a peer speaks for.
    pub(super) fn server_of(&self, peer: &P) -> Option<&OwnedServerName> {
        self.verified.get(peer)
    }

    /// Tells whether a verified request counts in a room.
    pub(super) fn judge(
        &mut self,
        room: &RoomId,
        request: &Request,
        now: u64,
    ) -> Result<(), TransactionVerdict> {
        if request.destination != room.as_str() {
            return Err(TransactionVerdict::Reject);
        }
        // Left while the message was verified.
        self.topic_of(room).ok_or(TransactionVerdict::Ignore)?;
        self.replay
            .admit(&request.origin, &request.request_id, request.origin_server_ts, now)
            .map_err(|_| TransactionVerdict::Ignore)
    }
}

#[cfg(test)]
mod tests {
    use ruma::room_id;

    use super::*;
    use crate::proto::{server_keys::tests::secret_keys, signed::FRESH_MS};

    const NOW: u64 = 1_790_000_000_000;

    fn raw(length: usize) -> Box<RawValue> {
        RawValue::from_string(format!(r#"{{"x":"{}"}}"#, "y".repeat(length - 8))).unwrap()
    }

    fn lengths(cuts: &[Cut]) -> Vec<(usize, usize)> {
        cuts.iter().map(|cut| (cut.pdus.len(), cut.edus.len())).collect()
    }

    #[test]
    fn what_is_published_is_cut_within_all_limits() {
        let many = |count, length| (0..count).map(|_| raw(length)).collect::<Vec<_>>();
        for (pdus, edus, expected) in [
            (many(0, 9), many(0, 9), vec![]),
            (many(1, 9), many(1, 9), vec![(1, 1)]),
            (many(51, 9), many(1, 9), vec![(50, 0), (1, 1)]),
            (many(0, 9), many(101, 9), vec![(0, 100), (0, 1)]),
            (many(9, 65_000), many(0, 9), vec![(7, 0), (2, 0)]),
            (many(1, 600_000), many(1, 9), vec![(0, 1)]),
        ] {
            let cuts = cut(pdus, edus);
            assert_eq!(lengths(&cuts), expected);
            for cut in &cuts {
                let wire = sign(&signer(), &request(content(cut, &signer(), NOW).unwrap()));
                assert!(wire.len() <= room_key::capacity(limits::GOSSIP_MESSAGE));
            }
        }
    }

    fn signer() -> Signer {
        Signer::new(&secret_keys(1), &["peer".to_owned()], NOW).unwrap()
    }

    fn own_name() -> String {
        signer().server_name().to_string()
    }

    fn name(name: &str) -> OwnedServerName {
        name.try_into().unwrap()
    }

    fn request(content: CanonicalJsonValue) -> Request {
        Request {
            method: "PUT".into(),
            uri: format!("{SEND}1"),
            origin: signer().server_name().clone(),
            destination: "!room:x".into(),
            origin_server_ts: NOW,
            request_id: "1".into(),
            content,
        }
    }

    fn sign(signer: &Signer, request: &Request) -> Vec<u8> {
        request.sign(signer).unwrap().bytes
    }

    fn body(origin: &str, pdus: serde_json::Value) -> CanonicalJsonValue {
        serde_json::from_value(serde_json::json!({"origin": origin, "pdus": pdus, "edus": []}))
            .unwrap()
    }

    #[test]
    fn envelopes() {
        use TransactionVerdict::{Ignore, Reject};
        type Change = fn(&mut Request);
        let good = request(body(&own_name(), serde_json::json!([{"a": 1}])));
        let read_at = |request: &Request, now| read(&sign(&signer(), request), now);
        assert_eq!(read_at(&good, NOW).unwrap().pdus.len(), 1);
        assert_eq!(read_at(&good, NOW + FRESH_MS + 1).unwrap_err(), Ignore);
        let wrong: [(&str, Change); 6] = [
            ("method", |request| request.method = "GET".into()),
            ("path", |request| request.uri = "/_matrix/client/v3/login".into()),
            ("no content", |request| request.content = CanonicalJsonValue::Null),
            ("another origin", |request| {
                request.content = body("other", serde_json::json!([]));
            }),
            ("too many", |request| {
                request.content = body(&own_name(), vec![serde_json::json!({}); 51].into());
            }),
            ("no object", |request| request.content = body(&own_name(), serde_json::json!([1]))),
        ];
        for (what, change) in wrong {
            let mut request = good.clone();
            change(&mut request);
            assert_eq!(read_at(&request, NOW).unwrap_err(), Reject, "{what}");
        }
        assert_eq!(read(b"garbage", NOW).unwrap_err(), Reject);
    }

    #[test]
    fn fuzz_messages_of_a_member() {
        let good = body(&own_name(), serde_json::json!([{"type": "m.room.message"}]));
        let good = serde_json::to_value(good).unwrap();
        crate::fuzz::json("gossip", vec![good], |value| {
            let Ok(content) = serde_json::from_value(value.clone()) else {
                return "no content".to_owned();
            };
            let Ok(sent) = request(content).sign(&signer()) else { return "not sent".to_owned() };
            match read(&sent.bytes, NOW) {
                Ok(transaction) => {
                    assert!(transaction.pdus.len() <= limits::TRANSACTION_PDUS);
                    assert!(transaction.edus.len() <= limits::TRANSACTION_EDUS);
                    "good".to_owned()
                }
                Err(verdict) => format!("{verdict:?}"),
            }
        });
    }

    #[test]
    fn who_may_gossip_and_where() {
        use TransactionVerdict::{Ignore, Reject};
        let room = room_id!("!room:x");
        let mut machine = Machine::<u8>::default();
        let topic = machine.join(room.to_owned()).unwrap();
        assert_eq!(machine.join(room.to_owned()), None, "joined twice");
        assert_eq!(machine.begin(1, &topic), Err(Refusal::Unknown), "a stranger");
        machine.verified(1, name("one"));
        assert_eq!(machine.begin(1, "another topic"), Err(Refusal::Unknown));
        assert_eq!(machine.begin(1, &topic), Ok((room.to_owned(), name("one"))));
        let request = request(CanonicalJsonValue::Null);
        let mut elsewhere = request.clone();
        elsewhere.destination = "!other:x".into();
        assert_eq!(machine.judge(room, &elsewhere, NOW), Err(Reject));
        assert_eq!(machine.judge(room, &request, NOW), Ok(()));
        assert_eq!(machine.judge(room, &request, NOW), Err(Ignore), "replayed");
        machine.forgotten(&1);
        assert_eq!(machine.begin(1, &topic), Err(Refusal::Unknown), "its proof expired");
        assert_eq!(machine.leave(room), Some(topic));
        assert_eq!(machine.leave(room), None);
    }

    #[test]
    fn one_peer_takes_only_its_share() {
        let mut machine = Machine::<u8>::default();
        let topic = machine.join(room_id!("!room:x").to_owned()).unwrap();
        machine.verified(1, name("one"));
        machine.verified(2, name("two"));
        for _ in 0..limits::WORK_PEER {
            machine.begin(1, &topic).unwrap();
        }
        assert_eq!(machine.begin(1, &topic), Err(Refusal::Busy));
        assert!(machine.begin(2, &topic).is_ok());
        machine.done(&1);
        assert!(machine.begin(1, &topic).is_ok());
    }
}
