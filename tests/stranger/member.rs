//! A node under our control that is let into rooms, and listens on when it is not in them any more:
//! what it can read of what it hears (attack 4 of `docs/PROTOCOL.md` §9).

#![allow(clippy::indexing_slicing, reason = "a failed test may panic")]

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use messagehub::proto::{
    media::piece::{Asked, Given},
    pdu::{self, Draft, Pdu, Position},
    room_key::{self, KeyId, RoomKey, Secret},
};
use ruma::{OwnedUserId, RoomVersionId, events::TimelineEventType};

use super::*;

/// Names a message by its bytes, as members do: messages here have no author.
pub(super) fn message_id(message: &gossipsub::Message) -> gossipsub::MessageId {
    let mut hasher = DefaultHasher::new();
    (&message.topic.to_string(), &message.data).hash(&mut hasher);
    gossipsub::MessageId::new(&hasher.finish().to_be_bytes())
}

/// What Eve answers to a request; nothing: an empty object.
pub(super) type Serve = Box<dyn FnMut(&Request) -> Option<(u16, Value)>>;

/// What Eve answers who asks for pieces of media.
pub(super) type Give = Box<dyn FnMut(Asked) -> Given>;

/// Eve: she keeps all that she hears and is told, and every key that she was ever given.
pub(super) struct Eve {
    pub(super) node: Stranger,
    heard: Vec<(String, Vec<u8>)>,
    pub(super) told: Vec<Request>,
    pub(super) keys: Vec<RoomKey>,
    pub(super) serve: Serve,
    /// What she gives of media, and how often she was asked.
    pub(super) give: Give,
    pub(super) given: usize,
}

impl Eve {
    pub(super) async fn meet(victim: &Home) -> Self {
        Self::with_keys(victim, &fresh_keys()).await
    }

    /// The same with keys of her choice.
    pub(super) async fn with_keys(victim: &Home, keys: &SecretKeys) -> Self {
        let mut node = Stranger::with_keys(victim, keys, now_ms()).await;
        node.prove_itself().await;
        let serve = Box::new(|_: &Request| None);
        let give = Box::new(|_| Given::Unknown);
        let (heard, told, keys) = (Vec::new(), Vec::new(), Vec::new());
        Self { node, heard, told, keys, serve, give, given: 0 }
    }

    /// Makes one more connection. gossipsub asks for gossip when a connection stands, and never
    /// again on one where that was refused: a node that is let in later has to be asked anew.
    pub(super) async fn connect_again(&mut self, victim: &Home) {
        let address: Multiaddr = victim.node.addresses().await.swap_remove(0).parse().unwrap();
        let dial = DialOpts::peer_id(self.node.victim)
            .condition(PeerCondition::Always)
            .addresses(vec![address]);
        self.node.swarm.dial(dial.build()).unwrap();
    }

    pub(super) fn user_id(&self) -> String {
        format!("@p2p:{}", self.node.signer.server_name())
    }

    pub(super) fn listen(&mut self, room: &str) -> String {
        let topic = topic::of_room(&RoomId::parse(room).unwrap());
        let subscribed = gossipsub::IdentTopic::new(topic.clone());
        self.node.swarm.behaviour_mut().gossip.subscribe(&subscribed).unwrap();
        topic
    }

    /// Makes a request, and goes on listening and answering meanwhile.
    pub(super) async fn ask(
        &mut self,
        victim: &Home,
        method: &str,
        uri: &str,
        body: Value,
    ) -> (u16, Value) {
        let (mut request, ..) = self.node.signed(victim, method, uri);
        request.content = serde_json::from_value(body).unwrap();
        let wire = request.sign(&self.node.signer).unwrap();
        let peer = self.node.victim;
        let federation = &mut self.node.swarm.behaviour_mut().federation;
        let asked = federation.send_request(&peer, wire.bytes);
        let answered = tokio::time::timeout(PATIENCE, async {
            loop {
                match self.node.swarm.select_next_some().await {
                    SwarmEvent::Behaviour(BehaviourEvent::Federation(
                        request_response::Event::Message {
                            message: request_response::Message::Response { request_id, response },
                            ..
                        },
                    )) if request_id == asked => break response,
                    SwarmEvent::Behaviour(BehaviourEvent::Federation(
                        request_response::Event::OutboundFailure { request_id, error, .. },
                    )) if request_id == asked => panic!("no answer to {uri}: {error}"),
                    event => self.take(event),
                }
            }
        });
        let answer = answered.await.expect("an answer, or the end of the stream");
        let from = ServerName::parse(victim.me.server_name()).unwrap();
        let answer =
            Answer::verify(&answer, &from, &request.request_id, &wire.hash, now_ms()).unwrap();
        (answer.message.status, serde_json::to_value(answer.message.content).unwrap())
    }

    fn learn(&mut self, room: &str, keys: &Value) {
        for key in keys.as_array().into_iter().flatten() {
            let secret: Secret = serde_json::from_value(key["key"].clone()).unwrap();
            self.keys.push(RoomKey::new(&RoomId::parse(room).unwrap(), secret));
        }
    }

    /// Comes back after a while away: whoever is connected is asked nothing new.
    pub(super) async fn come_back(&mut self, victim: &Home) {
        let peer = self.node.victim;
        self.node.swarm.disconnect_peer_id(peer).unwrap();
        self.until("the end of the connection", |eve| {
            (!eve.node.swarm.is_connected(&peer)).then_some(())
        })
        .await;
        self.connect_again(victim).await;
        self.until("a connection", |eve| eve.node.swarm.is_connected(&peer).then_some(())).await;
    }

    /// Joins a public room, as any member of it may. Returns her join.
    pub(super) async fn join(&mut self, victim: &Home, room: &str) -> Pdu {
        let path = |what: &str, last: &str| {
            let (room, last) = (client::segment(room), client::segment(last));
            format!("/_matrix/federation/{what}/{room}/{last}")
        };
        let uri = format!("{}?ver=12", path("v1/make_join", &self.user_id()));
        let (status, template) = self.ask(victim, "GET", &uri, json!({})).await;
        assert_eq!(status, 200, "{template}");
        let take = |key: &str| template["event"][key].clone();
        let position = Position {
            room_id: Some(RoomId::parse(room).unwrap()),
            prev_events: serde_json::from_value(take("prev_events")).unwrap(),
            auth_events: serde_json::from_value(take("auth_events")).unwrap(),
            depth: take("depth").as_u64().unwrap(),
            origin_server_ts: now_ms(),
        };
        let draft = Draft {
            kind: TimelineEventType::RoomMember,
            state_key: Some(self.user_id()),
            content: serde_json::from_value(json!({"membership": "join"})).unwrap(),
            redacts: None,
        };
        let rules = pdu::rules_of(&RoomVersionId::V12).unwrap();
        let user = OwnedUserId::try_from(self.user_id()).unwrap();
        let author = self.node.signer.author(&user).unwrap();
        let join = pdu::compose(draft, &position, author, &rules).unwrap();
        let wire = join.to_wire(self.node.signer.server_keys_text());
        let uri = path("v2/send_join", join.event_id.as_str());
        let body = serde_json::from_str(wire.get()).unwrap();
        let (status, answer) = self.ask(victim, "PUT", &uri, body).await;
        assert_eq!(status, 200, "{answer}");
        self.learn(room, &answer["messagehub.room_keys"]);
        join
    }

    /// Listens while something comes to pass.
    pub(super) async fn during<T>(&mut self, scene: impl Future<Output = T>) -> T {
        let mut scene = std::pin::pin!(scene);
        loop {
            let event = tokio::select! {
                done = &mut scene => return done,
                event = self.node.swarm.select_next_some() => event,
            };
            self.take(event);
        }
    }

    /// Listens until there is something.
    pub(super) async fn until<T>(&mut self, what: &str, look: impl Fn(&Self) -> Option<T>) -> T {
        let waited = tokio::time::timeout(PATIENCE, async {
            loop {
                if let Some(found) = look(self) {
                    return found;
                }
                let event = self.node.swarm.select_next_some().await;
                self.take(event);
            }
        });
        waited.await.unwrap_or_else(|_| panic!("Eve waits in vain: {what}"))
    }

    fn take(&mut self, event: SwarmEvent<BehaviourEvent>) {
        let SwarmEvent::Behaviour(event) = event else { return };
        let message = |event| match event {
            request_response::Event::Message {
                message: request_response::Message::Request { request, channel, .. },
                ..
            } => Some((request, channel)),
            _ => None,
        };
        match event {
            BehaviourEvent::Gossip(gossipsub::Event::Message { message, .. }) => {
                self.heard.push((message.topic.to_string(), message.data));
            }
            BehaviourEvent::Identity(event) => {
                let Some((_, channel)) = message(event) else { return };
                let mine = self.node.shows.clone();
                let _ = self.node.swarm.behaviour_mut().identity.send_response(channel, mine);
            }
            BehaviourEvent::Media(event) => {
                let Some((bytes, channel)) = message(event) else { return };
                let given = (self.give)(Asked::read(&bytes).unwrap()).into_bytes();
                self.given += 1;
                let _ = self.node.swarm.behaviour_mut().media.send_response(channel, given);
            }
            BehaviourEvent::Federation(event) => {
                let Some((bytes, channel)) = message(event) else { return };
                let request = Request::verify(&bytes, now_ms()).unwrap();
                let empty = || (200, json!({}));
                let (status, content) = (self.serve)(&request.message).unwrap_or_else(empty);
                let answer = Answer {
                    request_id: request.message.request_id.clone(),
                    request_hash: request.hash.clone(),
                    status,
                    content: CanonicalJsonValue::try_from(content).unwrap(),
                    origin: self.node.signer.server_name().clone(),
                    origin_server_ts: now_ms(),
                };
                let answer = answer.sign(&self.node.signer).unwrap().bytes;
                let federation = &mut self.node.swarm.behaviour_mut().federation;
                let _ = federation.send_response(channel, answer);
                if let Some(room) = request.message.uri.strip_prefix(ROOM_KEYS) {
                    let content = serde_json::to_value(&request.message.content).unwrap();
                    self.learn(room, &content["keys"]);
                }
                self.told.push(request.message);
            }
            _ => {}
        }
    }

    /// Returns what she hears on a topic, from the `from`th message on: the key that it is sealed
    /// with, and the text where she can read it.
    fn hears(&self, topic: &str, from: usize) -> Vec<(KeyId, Option<String>)> {
        let read = |sealed: &[u8]| {
            let opened = self.keys.iter().find_map(|key| key.open(topic, sealed).ok());
            opened.map(|opened| String::from_utf8(opened).unwrap())
        };
        let mut heard = self.heard.iter().skip(from).filter(|(on, _)| on == topic);
        heard.by_ref().map(|(_, bytes)| (room_key::key_id(bytes).unwrap(), read(bytes))).collect()
    }

    fn reads(&self, topic: &str, from: usize, text: &str) -> bool {
        let reads = |(_, read): &(KeyId, Option<String>)| {
            read.as_ref().is_some_and(|read| read.contains(text))
        };
        self.hears(topic, from).iter().any(reads)
    }

    /// Has somebody say something again and again until Eve reads it, or, where she cannot, hears
    /// that something was said: gossip takes a while to stand. Returns where that begins.
    async fn hears_of(
        &mut self,
        speaker: &Home,
        (room, topic): (&str, &str),
        what: &str,
        reads: bool,
    ) -> usize {
        let begin = self.heard.len();
        for n in 0..30 {
            if n % 10 == 5 {
                self.connect_again(speaker).await;
            }
            let scene = async {
                speaker.me.send(room, &format!("{what} {n}")).await;
                tokio::time::sleep(Duration::from_millis(300)).await;
            };
            self.during(scene).await;
            if self.reads(topic, begin, what) || !reads && !self.hears(topic, begin).is_empty() {
                return begin;
            }
        }
        panic!("Eve never hears of {what}");
    }
}

/// Where keys are handed over.
const ROOM_KEYS: &str = "/_messagehub/federation/v1/room_keys/";

/// Eve shares a room with Ann, so gossip with her is open all the while, and she knows the id and
/// the topic of another one. She can read that while she is in it: not before, and not after.
#[tokio::test]
async fn attack_04_only_those_who_are_in_a_room_can_read_it() {
    let [mut ann, mut bob] = homes().await;
    let open = json!({"preset": "public_chat"});
    let (shared, room) = (ann.me.create(open.clone()).await, ann.me.create(open).await);
    ann.me.invite(&room, &bob.me.user_id).await.ok();
    bob.me.is(&room, "invite").await;
    bob.me.join(&room).await.ok();
    ann.me.sees_member(&room, &bob.me.user_id, "join").await;

    let mut eve = Eve::meet(&ann).await;
    eve.join(&ann, &shared).await;
    let topic = eve.listen(&room);
    eve.listen(&shared);
    let at = (room.as_str(), topic.as_str());
    let before = eve.hears_of(&ann, at, "before Eve", false).await;
    assert!(!eve.reads(&topic, before, "before Eve"), "the topic alone opens nothing");
    let query = format!("{ROOM_KEYS}{room}/query");
    let id = eve.hears(&topic, before)[0].0;
    let (status, refused) = eve.ask(&ann, "POST", &query, json!({"ids": [id]})).await;
    assert_eq!(status, 404, "{refused}");

    eve.join(&ann, &room).await;
    assert!(!eve.keys.is_empty(), "keys come with the join");
    let user = eve.user_id();
    eve.during(bob.me.sees_member(&room, &user, "join")).await;
    let while_in = eve.hears_of(&ann, at, "with Eve", true).await;
    assert!(!eve.reads(&topic, 0, "before Eve"), "not what was said before");

    let kick = format!("v3/rooms/{}/kick", client::segment(&room));
    let shown_out = async {
        ann.me.post(&kick, json!({"user_id": user})).await.ok();
        bob.me.sees_member(&room, &user, "leave").await;
    };
    eve.during(shown_out).await;
    eve.until("being told", |eve| {
        let told = eve.told.iter().any(|request| request.uri.contains("/v1/send/"));
        (told && eve.reads(&topic, while_in, "\"leave\"")).then_some(())
    })
    .await;
    let keys = eve.keys.len();
    let after = eve.hears_of(&ann, at, "after Eve", false).await;
    eve.during(bob.me.reads(&room, "after Eve 0")).await;
    eve.during(bob.me.send(&room, "bob after Eve")).await;
    eve.during(ann.me.reads(&room, "bob after Eve")).await;
    let heard = eve.hears(&topic, after);
    assert!(!heard.is_empty() && heard.iter().all(|(_, read)| read.is_none()), "{heard:?}");
    let (status, refused) = eve.ask(&ann, "POST", &query, json!({"ids": [heard[0].0]})).await;
    assert_eq!(status, 404, "{refused}");
    assert_eq!(eve.keys.len(), keys, "nobody gave her another key");
    // Ann and Bob agree on one.
    let ids: HashSet<KeyId> = heard.iter().map(|(id, _)| *id).collect();
    assert_eq!(ids.len(), 1, "{heard:?}");

    // A member for whom a key is made that way has it taken from nobody but members.
    let forged = json!({"keys": [{
        "key": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        "made_ts": now_ms(),
        "servers": [ann.me.server_name(), bob.me.server_name()],
    }]});
    let (status, refused) = eve.ask(&ann, "PUT", &format!("{ROOM_KEYS}{room}"), forged).await;
    assert_eq!(status, 404, "{refused}");
}

#[tokio::test]
async fn a_restart_keeps_the_room_key_and_hands_out_none() {
    let mut ann = home(&[]).await;
    let room = ann.me.create(json!({"preset": "public_chat"})).await;
    let mut eve = Eve::meet(&ann).await;
    eve.join(&ann, &room).await;
    let topic = eve.listen(&room);
    let before = eve.hears_of(&ann, (&room, &topic), "good night", true).await;
    eve.during(ann.node.stop()).await;
    eve.during(ann.node.start_again()).await;
    eve.connect_again(&ann).await;
    eve.node.prove_itself().await;
    let told = eve.told.len();
    let after = eve.hears_of(&ann, (&room, &topic), "good morning", true).await;
    assert_eq!(eve.hears(&topic, after)[0].0, eve.hears(&topic, before)[0].0);
    let handed = eve.told.iter().skip(told).filter(|request| request.uri.starts_with(ROOM_KEYS));
    assert_eq!(handed.count(), 0, "she has the key");
}
