//! What a libp2p node that is not MessageHub, or a malicious one, gets from a node: the attacks of
//! `docs/PROTOCOL.md` §9 that come over libp2p.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "helpers of tests are not covered by allow-*-in-tests"
)]

use std::{
    collections::HashSet,
    io,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use futures::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, StreamExt as _};
use libp2p::{
    Multiaddr, PeerId, StreamProtocol, Swarm, SwarmBuilder, gossipsub, identify, noise,
    request_response::{self, ResponseChannel},
    swarm::{NetworkBehaviour, SwarmEvent},
    tcp, yamux,
};
use messagehub::proto::{
    signed::{Answer, Request},
    signer::{SecretKeys, Signer},
    topic,
};
use ruma::{CanonicalJsonObject, CanonicalJsonValue, RoomId, ServerName};
use serde_json::{Value, json};

mod common;
#[path = "stranger/curious.rs"]
mod curious;
#[path = "stranger/deep.rs"]
mod deep;
#[path = "stranger/expired.rs"]
mod expired;
#[path = "stranger/floods.rs"]
mod floods;
#[path = "stranger/heads.rs"]
mod heads;
#[path = "stranger/holder.rs"]
mod holder;
#[path = "stranger/liar.rs"]
mod liar;
#[path = "stranger/member.rs"]
mod member;
#[path = "stranger/siege.rs"]
mod siege;

use common::{Client, Home, PATIENCE, client, eventually, home, homes};

const IDENTITY: StreamProtocol = StreamProtocol::new("/messagehub/identity/1");
const FEDERATION: StreamProtocol = StreamProtocol::new("/messagehub/federation/1");
const MEDIA: StreamProtocol = StreamProtocol::new("/messagehub/media/1");
/// Longest answer that is read here.
const ANSWER_LEN: u64 = 1024 * 1024;

/// Frames as `docs/PROTOCOL.md` §4 has them: a length in 4 bytes, then that many bytes.
#[derive(Debug, Clone, Default)]
struct Frames;

async fn read<T: AsyncRead + Unpin + Send>(io: &mut T) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    io.read_exact(&mut length).await?;
    let length = u64::from(u32::from_be_bytes(length)).min(ANSWER_LEN);
    let mut bytes = Vec::new();
    io.take(length).read_to_end(&mut bytes).await?;
    Ok(bytes)
}

async fn write<T: AsyncWrite + Unpin + Send>(io: &mut T, bytes: &[u8]) -> io::Result<()> {
    let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    io.write_all(&length.to_be_bytes()).await?;
    io.write_all(bytes).await?;
    io.flush().await
}

impl request_response::Codec for Frames {
    type Protocol = StreamProtocol;
    type Request = Vec<u8>;
    type Response = Vec<u8>;

    async fn read_request<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Vec<u8>>
    where
        T: AsyncRead + Unpin + Send,
    {
        read(io).await
    }

    async fn read_response<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Vec<u8>>
    where
        T: AsyncRead + Unpin + Send,
    {
        read(io).await
    }

    async fn write_request<T>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        bytes: Vec<u8>,
    ) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        write(io, &bytes).await
    }

    async fn write_response<T>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        bytes: Vec<u8>,
    ) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        write(io, &bytes).await
    }
}

#[derive(NetworkBehaviour)]
struct Behaviour {
    identify: identify::Behaviour,
    identity: request_response::Behaviour<Frames>,
    federation: request_response::Behaviour<Frames>,
    media: request_response::Behaviour<Frames>,
    gossip: gossipsub::Behaviour,
}

/// A libp2p node under our control, connected to a victim.
struct Stranger {
    swarm: Swarm<Behaviour>,
    signer: Signer,
    victim: PeerId,
    /// What it answers when it is asked who it is.
    shows: Vec<u8>,
    /// What the victim says that it speaks.
    protocols: HashSet<String>,
}

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    now.as_millis().try_into().unwrap()
}

fn exchange(name: StreamProtocol) -> request_response::Behaviour<Frames> {
    let config = request_response::Config::default().with_request_timeout(PATIENCE);
    request_response::Behaviour::new([(name, request_response::ProtocolSupport::Full)], config)
}

fn fresh_keys() -> SecretKeys {
    SecretKeys { identity: rand::random(), verify: rand::random(), encryption: rand::random() }
}

fn gossip() -> gossipsub::Behaviour {
    let mut config = gossipsub::ConfigBuilder::default();
    config.validation_mode(gossipsub::ValidationMode::Anonymous).message_id_fn(member::message_id);
    let privacy = gossipsub::MessageAuthenticity::Anonymous;
    gossipsub::Behaviour::new(privacy, config.build().unwrap()).unwrap()
}

impl Stranger {
    /// Connects, and learns what the victim speaks.
    async fn meet(victim: &Home) -> Self {
        Self::with_keys(victim, &fresh_keys(), now_ms()).await
    }

    /// The same with server_keys of some other time.
    async fn with_keys(victim: &Home, keys: &SecretKeys, issued_ts: u64) -> Self {
        let address: Multiaddr = victim.node.addresses().await.swap_remove(0).parse().unwrap();
        let mut swarm = SwarmBuilder::with_new_identity()
            .with_tokio()
            .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)
            .unwrap()
            .with_behaviour(|key| Behaviour {
                identify: identify::Behaviour::new(identify::Config::new(
                    "/stranger/1".to_owned(),
                    key.public(),
                )),
                identity: exchange(IDENTITY),
                federation: exchange(FEDERATION),
                media: exchange(MEDIA),
                gossip: gossip(),
            })
            .unwrap()
            .with_swarm_config(|config| config.with_idle_connection_timeout(PATIENCE))
            .build();
        let me = swarm.local_peer_id().to_string();
        let signer = Signer::new(keys, &[me], issued_ts).unwrap();
        swarm.dial(address).unwrap();
        let met = tokio::time::timeout(PATIENCE, async {
            loop {
                let event = swarm.select_next_some().await;
                if let SwarmEvent::Behaviour(BehaviourEvent::Identify(
                    identify::Event::Received { peer_id, info, .. },
                )) = event
                {
                    break (peer_id, info.protocols);
                }
            }
        });
        let (victim, protocols) = met.await.expect("the victim says what it speaks");
        let protocols = protocols.iter().map(ToString::to_string).collect();
        let shows = serde_json::to_vec(signer.server_keys()).unwrap();
        Self { swarm, signer, victim, shows, protocols }
    }

    /// Asks by one of the two protocols; nothing where the victim closed or refused the stream.
    async fn ask(&mut self, by: &StreamProtocol, bytes: Vec<u8>) -> Option<Vec<u8>> {
        let behaviour = self.swarm.behaviour_mut();
        let exchange = match *by == IDENTITY {
            true => &mut behaviour.identity,
            false => &mut behaviour.federation,
        };
        let asked = exchange.send_request(&self.victim, bytes);
        let mine = self.shows.clone();
        let answered = tokio::time::timeout(PATIENCE, async {
            loop {
                let event = match self.swarm.select_next_some().await {
                    SwarmEvent::Behaviour(BehaviourEvent::Identity(
                        request_response::Event::Message {
                            message: request_response::Message::Request { channel, .. },
                            ..
                        },
                    )) => {
                        let identity = &mut self.swarm.behaviour_mut().identity;
                        // The victim asks who we are; where it stopped asking, so be it.
                        let _ = identity.send_response(channel, mine.clone());
                        continue;
                    }
                    SwarmEvent::Behaviour(
                        BehaviourEvent::Identity(event) | BehaviourEvent::Federation(event),
                    ) => event,
                    _ => continue,
                };
                match event {
                    request_response::Event::Message {
                        message: request_response::Message::Response { request_id, response },
                        ..
                    } if request_id == asked => break Some(response),
                    request_response::Event::OutboundFailure { request_id, .. }
                        if request_id == asked =>
                    {
                        break None;
                    }
                    _ => {}
                }
            }
        });
        answered.await.expect("an answer, or the end of the stream")
    }

    /// Waits for a request of the victim to our server.
    async fn asked(&mut self) -> (Vec<u8>, ResponseChannel<Vec<u8>>) {
        let asked = tokio::time::timeout(PATIENCE, async {
            loop {
                if let SwarmEvent::Behaviour(BehaviourEvent::Federation(
                    request_response::Event::Message {
                        message: request_response::Message::Request { request, channel, .. },
                        ..
                    },
                )) = self.swarm.select_next_some().await
                {
                    break (request, channel);
                }
            }
        });
        asked.await.expect("a request of the victim")
    }

    /// Proves an identity of its own: a valid one, but of nobody whom the victim knows.
    async fn prove_itself(&mut self) -> Vec<u8> {
        self.ask(&IDENTITY, self.shows.clone()).await.expect("server_keys for server_keys")
    }

    /// Signs a request to the victim's server.
    fn signed(&self, victim: &Home, method: &str, uri: &str) -> (Request, Vec<u8>, String) {
        let request = Request {
            method: method.to_owned(),
            uri: uri.to_owned(),
            origin: self.signer.server_name().clone(),
            destination: victim.me.server_name().to_owned(),
            origin_server_ts: now_ms(),
            request_id: format!("{:032x}", rand::random::<u128>()),
            content: CanonicalJsonValue::Object(CanonicalJsonObject::new()),
        };
        let wire = request.sign(&self.signer).unwrap();
        (request, wire.bytes, wire.hash)
    }

    /// Makes a signed request; returns status and content of the verified answer, or nothing where
    /// there is none.
    async fn request(&mut self, victim: &Home, method: &str, uri: &str) -> Option<(u16, Value)> {
        let (request, bytes, hash) = self.signed(victim, method, uri);
        let answer = self.ask(&FEDERATION, bytes).await?;
        let from = ServerName::parse(victim.me.server_name()).unwrap();
        let answer = Answer::verify(&answer, &from, &request.request_id, &hash, now_ms()).unwrap();
        Some((answer.message.status, serde_json::to_value(answer.message.content).unwrap()))
    }
}

fn profile_of(home: &Home) -> String {
    let user = client::segment(&home.me.user_id);
    format!("/_matrix/federation/v1/query/profile?user_id={user}")
}

#[tokio::test]
async fn a_node_speaks_what_the_protocol_document_names_and_no_more() {
    let ann = home(&[]).await;
    let stranger = Stranger::meet(&ann).await;
    let known = [
        "/messagehub/",
        "/ipfs/id/",
        "/ipfs/ping/",
        "/ipfs/kad/",
        "/libp2p/circuit/relay/",
        "/libp2p/dcutr",
        "/libp2p/autonat/",
    ];
    for protocol in &stranger.protocols {
        assert!(known.iter().any(|name| protocol.starts_with(name)), "what is {protocol}?");
        let http = ["http", "client", "/x/"].iter().any(|word| protocol.contains(word));
        assert!(!http, "{protocol} sounds like the client API");
    }
    assert!(stranger.protocols.contains(FEDERATION.as_ref()), "{:?}", stranger.protocols);
}

#[tokio::test]
async fn attack_01_a_signed_request_cannot_reach_the_client_api() {
    let ann = home(&[]).await;
    let mut stranger = Stranger::meet(&ann).await;
    stranger.prove_itself().await;
    for (method, uri) in [
        ("GET", "/_matrix/client/versions"),
        ("GET", "/_matrix/client/v3/login"),
        ("POST", "/_matrix/client/v3/login"),
        ("GET", "/_matrix/client/v3/account/whoami"),
        ("GET", "/_matrix/client/v3/sync"),
        ("POST", "/_matrix/client/v3/createRoom"),
        ("GET", "/"),
        ("GET", "/_messagehub/status/events"),
        ("GET", "/_messagehub/status/qr.svg"),
        ("POST", "/_messagehub/status/doctor"),
        ("GET", "/_matrix/federation/../client/versions"),
    ] {
        let answer = stranger.request(&ann, method, uri).await;
        let refused = answer.as_ref().is_none_or(|(status, _)| (400..500).contains(status));
        assert!(refused, "{method} {uri}: {answer:?}");
    }
    // The same way does answer what it is for: the refusals above are not its silence.
    let (status, profile) = stranger.request(&ann, "GET", &profile_of(&ann)).await.unwrap();
    assert_eq!(status, 200, "{profile}");
}

#[tokio::test]
async fn attack_03_the_uri_of_a_request_is_no_address() {
    let ann = home(&[]).await;
    let listener = std::net::TcpListener::bind((common::node::own_address(), 0)).unwrap();
    listener.set_nonblocking(true).unwrap();
    let target = listener.local_addr().unwrap();
    let mut stranger = Stranger::meet(&ann).await;
    stranger.prove_itself().await;
    for uri in [
        format!("http://{target}/_matrix/federation/v1/version"),
        format!("@{target}/_matrix/federation/v1/version"),
        format!("//{target}/"),
        format!(":{}/", target.port()),
    ] {
        let answer = stranger.request(&ann, "GET", &uri).await;
        let refused = answer.as_ref().is_none_or(|(status, _)| (400..500).contains(status));
        assert!(refused, "{uri}: {answer:?}");
    }
    let none = listener.accept().unwrap_err();
    assert_eq!(none.kind(), io::ErrorKind::WouldBlock, "the node called where it was told to");
}

#[tokio::test]
async fn attack_04_a_stranger_is_let_into_no_gossip() {
    let ann = home(&[]).await;
    ann.me.create(json!({"name": "secret"})).await;
    let stranger = Stranger::meet(&ann).await;
    let gossip = stranger.protocols.iter().find(|protocol| protocol.contains("meshsub"));
    assert!(gossip.is_none(), "{gossip:?} is open to somebody who proved nothing");
}

/// Identities cost nothing: one that shares no room with the victim opens no gossip, even to
/// somebody who knows the room and its topic.
#[tokio::test]
async fn attack_04_an_identity_without_a_shared_room_is_let_into_no_gossip() {
    let ann = home(&[]).await;
    let room = ann.me.create(json!({"name": "secret"})).await;
    let mut eve = Stranger::meet(&ann).await;
    let name = topic::of_room(&RoomId::parse(&room).unwrap());
    let topic = gossipsub::IdentTopic::new(name);
    eve.swarm.behaviour_mut().gossip.subscribe(&topic).unwrap();
    eve.prove_itself().await;
    let id = eve.swarm.local_peer_id().to_string();
    let server = eve.signer.server_name().to_string();
    // Ann's node asks who Eve is on its own account; Eve has to answer that.
    let proven = async {
        eventually("a proof of Eve's", async || {
            let status = ann.node.status().await?;
            let peers = status["peers"].as_array()?;
            let proven = |peer: &Value| peer["peer_id"] == id && peer["server_name"] == *server;
            peers.iter().any(proven).then_some(())
        })
        .await;
        ann.me.send(&room, "only for members").await;
        // Nothing is to happen, so there is nothing to wait for but time: many times what opening
        // gossip between members takes.
        tokio::time::sleep(Duration::from_secs(3)).await;
    };
    let mut proven = std::pin::pin!(proven);
    let mine = eve.shows.clone();
    loop {
        let event = tokio::select! {
            () = &mut proven => break,
            event = eve.swarm.select_next_some() => event,
        };
        match event {
            SwarmEvent::Behaviour(BehaviourEvent::Identify(identify::Event::Received {
                info,
                ..
            })) => {
                let gossip = info.protocols.iter().find(|name| name.as_ref().contains("meshsub"));
                assert!(gossip.is_none(), "{gossip:?} is open to somebody without a shared room");
            }
            SwarmEvent::Behaviour(BehaviourEvent::Identity(request_response::Event::Message {
                message: request_response::Message::Request { channel, .. },
                ..
            })) => {
                let identity = &mut eve.swarm.behaviour_mut().identity;
                let _ = identity.send_response(channel, mine.clone());
            }
            SwarmEvent::Behaviour(BehaviourEvent::Gossip(
                event @ (gossipsub::Event::Message { .. } | gossipsub::Event::Subscribed { .. }),
            )) => panic!("Eve hears gossip: {event:?}"),
            _ => {}
        }
    }
    let gossip = &eve.swarm.behaviour().gossip;
    assert!(gossip.all_peers().all(|(_, topics)| topics.is_empty()), "Eve knows Ann's topics");
}

/// A server shows an invite to its user before its answer reaches the inviter.
#[tokio::test]
async fn an_invited_user_may_join_before_the_inviter_has_the_answer() {
    let ann = home(&[]).await;
    let room = ann.me.create(json!({"preset": "private_chat"})).await;
    let mut bob = Stranger::meet(&ann).await;
    bob.prove_itself().await;
    let user = format!("@p2p:{}", bob.signer.server_name());
    let join = format!(
        "/_matrix/federation/v1/make_join/{}/{}?ver=12",
        client::segment(&room),
        client::segment(&user)
    );
    let scene = async {
        // The profile may be asked for first.
        let (invite, answer_to) = loop {
            let (asked, answer_to) = bob.asked().await;
            let asked = Request::verify(&asked, now_ms()).unwrap();
            if asked.message.uri.contains("/invite/") {
                break (asked, answer_to);
            }
            let none = Answer {
                request_id: asked.message.request_id.clone(),
                request_hash: asked.hash.clone(),
                status: 200,
                content: CanonicalJsonValue::Object(CanonicalJsonObject::new()),
                origin: bob.signer.server_name().clone(),
                origin_server_ts: now_ms(),
            };
            let none = none.sign(&bob.signer).unwrap().bytes;
            bob.swarm.behaviour_mut().federation.send_response(answer_to, none).unwrap();
        };
        let CanonicalJsonValue::Object(content) = &invite.message.content else { panic!() };
        let answer = Answer {
            request_id: invite.message.request_id.clone(),
            request_hash: invite.hash.clone(),
            status: 200,
            content: CanonicalJsonValue::Object(
                [("event".to_owned(), content["event"].clone())].into_iter().collect(),
            ),
            origin: bob.signer.server_name().clone(),
            origin_server_ts: now_ms(),
        };
        let answer = answer.sign(&bob.signer).unwrap().bytes;
        let (request, bytes, hash) = bob.signed(&ann, "GET", &join);
        bob.swarm.behaviour_mut().federation.send_request(&bob.victim, bytes);
        // Time enough to refuse the join, which is what must not happen.
        let mut answer_to = Some(answer_to);
        let mut late = std::pin::pin!(tokio::time::sleep(Duration::from_millis(500)));
        let joined = tokio::time::timeout(PATIENCE, async {
            loop {
                tokio::select! {
                    () = &mut late, if answer_to.is_some() => {
                        let channel = answer_to.take().unwrap();
                        let federation = &mut bob.swarm.behaviour_mut().federation;
                        federation.send_response(channel, answer.clone()).unwrap();
                    }
                    event = bob.swarm.select_next_some() => {
                        if let SwarmEvent::Behaviour(BehaviourEvent::Federation(
                            request_response::Event::Message {
                                message: request_response::Message::Response { response, .. },
                                ..
                            },
                        )) = event
                        {
                            break response;
                        }
                    }
                }
            }
        });
        let joined = joined.await.expect("an answer to make_join");
        let from = ServerName::parse(ann.me.server_name()).unwrap();
        Answer::verify(&joined, &from, &request.request_id, &hash, now_ms()).unwrap().message
    };
    let (invited, joined) = tokio::join!(ann.me.invite(&room, &user), scene);
    assert_eq!(joined.status, 200, "make_join: {joined:?}");
    invited.ok();
}

/// Eve hands Ann's server_keys to Bob as if they were hers: they are genuine, but they name
/// another PeerId.
#[tokio::test]
async fn attack_05_the_keys_of_another_are_no_proof() {
    let [ann, bob] = homes().await;
    let url = format!("{}/_matrix/key/v2/server", ann.node.base());
    let keys = client::ask(reqwest::Client::new().get(url), "server_keys").await.ok();
    assert_eq!(keys["server_name"], ann.me.server_name());
    let mut eve = Stranger::meet(&bob).await;
    let eve_id = eve.swarm.local_peer_id().to_string();
    eve.shows = serde_json::to_vec(&keys).unwrap();
    eve.ask(&IDENTITY, eve.shows.clone()).await;
    // Bob has judged what Eve sent before he answers what she asks next, on the same connection.
    let answer = eve.request(&bob, "GET", &profile_of(&bob)).await;
    let status = bob.node.status().await.unwrap();
    for peer in status["peers"].as_array().unwrap() {
        let taken = peer["peer_id"] == eve_id && peer["server_name"] == ann.me.server_name();
        assert!(!taken, "Eve is taken for Ann ({answer:?}): {peer}");
    }
    ann.node.connected_to(&bob.me).await;
}

#[tokio::test]
async fn attack_09_a_request_counts_once() {
    let ann = home(&[]).await;
    let mut stranger = Stranger::meet(&ann).await;
    stranger.prove_itself().await;
    let (_, bytes, _) = stranger.signed(&ann, "GET", &profile_of(&ann));
    let answer = stranger.ask(&FEDERATION, bytes.clone()).await.expect("an answer");
    let first: Value = serde_json::from_slice(&answer).unwrap();
    assert_eq!(first["status"], 200, "{first}");
    // Who asked may ask for the answer again, which is the old one; nobody else may.
    let again = stranger.ask(&FEDERATION, bytes.clone()).await;
    assert_eq!(again, Some(answer), "it was answered anew");
    let mut thief = Stranger::meet(&ann).await;
    thief.prove_itself().await;
    assert_eq!(thief.ask(&FEDERATION, bytes.clone()).await, None, "it was answered to a thief");
    for _ in 0..2 {
        stranger.ask(&FEDERATION, bytes.clone()).await.expect("a copy");
    }
    assert_eq!(stranger.ask(&FEDERATION, bytes).await, None, "copies are counted");
}

#[tokio::test]
async fn attack_13_garbage_harms_nobody() {
    let ann = home(&[]).await;
    let room = ann.me.create(json!({})).await;
    for protocol in [IDENTITY, FEDERATION] {
        for garbage in [&b""[..], b"{", b"null", b"{\"server_keys\":{}}", &[0xff; 4096]] {
            let mut stranger = Stranger::meet(&ann).await;
            let answer = stranger.ask(&protocol, garbage.to_vec()).await;
            let text = answer.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
            let good = text.as_deref().is_some_and(|text| text.contains("\"status\":200"));
            assert!(!good, "{garbage:?} was taken for a request");
        }
    }
    ann.me.send(&room, "unharmed").await;
    eventually("the node in good health", async || ann.node.status().await).await;
}

/// Returns what the doctor of a node says of its clock: level, and words.
async fn clock_of(home: &Home) -> (String, String) {
    let config = home.node.config_file();
    let output = home.node.run(&["doctor", "--json", "--config", config.to_str().unwrap()]).await;
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let mut findings = report.get("findings").unwrap().as_array().unwrap().iter();
    let clock = findings.rfind(|finding| finding.get("check").unwrap() == "clock").unwrap();
    let word = |key: &str| clock.get(key).unwrap().as_str().unwrap().to_owned();
    (word("level"), word("text"))
}

#[tokio::test]
async fn the_doctor_tells_that_the_clock_is_off_by_what_others_sign() {
    let ann = home(&[]).await;
    assert_eq!(clock_of(&ann).await.0, "not-tested");
    let mut stranger = Stranger::meet(&ann).await;
    stranger.prove_itself().await;
    let minutes = |count: u64| count * 60 * 1000;
    for (ts, answered, level, words) in [
        (now_ms(), true, "ok", " s "),
        (now_ms() + minutes(2), true, "warning", " s behind"),
        // Refused, and what is said of it is all the more needed.
        (now_ms() + minutes(20), false, "problem", " s behind"),
        (now_ms() - minutes(20), false, "problem", " s ahead of"),
    ] {
        let (mut request, ..) = stranger.signed(&ann, "GET", &profile_of(&ann));
        request.origin_server_ts = ts;
        let wire = request.sign(&stranger.signer).unwrap();
        let answer = stranger.ask(&FEDERATION, wire.bytes).await;
        assert_eq!(answer.is_some(), answered, "{words}");
        let (said, text) = eventually(format_args!("a clock {words}"), async || {
            let (said, text) = clock_of(&ann).await;
            (said == level).then_some((said, text))
        })
        .await;
        assert!(text.contains(words) && text.contains("(1 nodes)"), "{said}: {text}");
    }
}
