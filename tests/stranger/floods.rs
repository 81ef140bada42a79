//! Floods and endless work, made by somebody who is a member like any other: attack 13 of
//! `docs/PROTOCOL.md` §9.

use messagehub::proto::pdu::{self, Draft, Pdu, Position};
use ruma::{OwnedEventId, OwnedUserId, RoomVersionId, events::TimelineEventType};

use super::{
    member::{Eve, Serve},
    *,
};

/// Events that wait for others in one room, and events of one answer (`config::limits`).
const PARKED_MAX: usize = 2000;
const PAGE: usize = 100;
/// Requests of one peer in work at once.
const WORK_PEER: usize = 32;
/// What somebody may leave here with whom no room is shared.
const INVITES_STRANGER: usize = 5;
const TO_DEVICE_STRANGER: usize = 100;
/// The largest message for a device.
const TO_DEVICE_LEN: usize = 64 * 1024;

/// What Eve needs to write into a room.
pub(super) struct Pen {
    room: String,
    auth_events: Vec<OwnedEventId>,
    pub(super) joined: Pdu,
}

impl Pen {
    pub(super) async fn new(eve: &mut Eve, ann: &Home, room: &str) -> Self {
        let joined = eve.join(ann, room).await;
        // A member that hears nothing of the room would be connected anew while it is in use.
        eve.listen(room);
        eve.come_back(ann).await;
        let (segment, id) = (client::segment(room), client::segment(joined.event_id.as_str()));
        let uri = format!("/_matrix/federation/v1/state/{segment}?event_id={id}");
        let (status, state) = eve.ask(ann, "GET", &uri, json!({})).await;
        assert_eq!(status, 200, "{state}");
        let levels = state["pdus"].as_array().unwrap().iter();
        let levels = levels.clone().find(|pdu| pdu["type"] == "m.room.power_levels").unwrap();
        let rules = pdu::rules_of(&RoomVersionId::V12).unwrap();
        let raw = serde_json::value::to_raw_value(levels).unwrap();
        let room_id = RoomId::parse(room).unwrap();
        let known = std::collections::HashMap::new();
        let levels = pdu::receive(&raw, &room_id, &rules, &known, now_ms()).unwrap();
        let auth_events = vec![levels.pdu.event_id, joined.event_id.clone()];
        Self { room: room.to_owned(), auth_events, joined }
    }

    /// Writes a message that follows another event.
    pub(super) fn write(&self, eve: &Eve, body: &str, prev: &OwnedEventId, depth: u64) -> Pdu {
        let content = json!({"msgtype": "m.text", "body": body});
        let draft = Draft {
            kind: TimelineEventType::RoomMessage,
            state_key: None,
            content: serde_json::from_value(content).unwrap(),
            redacts: None,
        };
        self.place(eve, draft, prev, depth)
    }

    /// Gives Eve another name in the room: a state event that follows another event.
    pub(super) fn rename(&self, eve: &Eve, name: &str, prev: &OwnedEventId, depth: u64) -> Pdu {
        let content = json!({"membership": "join", "displayname": name});
        let draft = Draft {
            kind: TimelineEventType::RoomMember,
            state_key: Some(eve.user_id()),
            content: serde_json::from_value(content).unwrap(),
            redacts: None,
        };
        self.place(eve, draft, prev, depth)
    }

    fn place(&self, eve: &Eve, draft: Draft, prev: &OwnedEventId, depth: u64) -> Pdu {
        let position = Position {
            room_id: Some(RoomId::parse(&self.room).unwrap()),
            prev_events: vec![prev.clone()],
            auth_events: self.auth_events.clone(),
            depth,
            origin_server_ts: now_ms(),
        };
        let rules = pdu::rules_of(&RoomVersionId::V12).unwrap();
        let user = OwnedUserId::try_from(eve.user_id()).unwrap();
        pdu::compose(draft, &position, eve.node.signer.author(&user).unwrap(), &rules).unwrap()
    }

    /// Writes messages in a row.
    fn row(&self, eve: &Eve, count: usize, first: &OwnedEventId) -> Vec<Pdu> {
        let mut row: Vec<Pdu> = Vec::new();
        for number in 0..count {
            let prev = row.last().map_or(first, |pdu| &pdu.event_id).clone();
            let depth = self.joined.depth + 1 + u64::try_from(number).unwrap();
            row.push(self.write(eve, &format!("eve {number}"), &prev, depth));
        }
        row
    }
}

pub(super) fn wire(eve: &Eve, pdu: &Pdu) -> Value {
    let text = pdu.to_wire(eve.node.signer.server_keys_text());
    serde_json::from_str(text.get()).unwrap()
}

/// Hands an event to Ann as a server does that missed the gossip.
async fn send(eve: &mut Eve, ann: &Home, pdu: &Pdu) {
    let pdu = wire(eve, pdu);
    send_all(eve, ann, &[pdu]).await;
}

async fn send_all(eve: &mut Eve, ann: &Home, pdus: &[Value]) {
    let body = json!({
        "origin": eve.node.signer.server_name(),
        "origin_server_ts": now_ms(),
        "pdus": pdus,
        "edus": [],
    });
    let uri = format!("/_matrix/federation/v1/send/{}", rand::random::<u32>());
    let (status, answer) = eve.ask(ann, "PUT", &uri, body).await;
    assert_eq!(status, 200, "{answer}");
}

/// Whatever Ann fetches, there is always more before it, and none of it ever meets what she has.
#[tokio::test]
async fn attack_13_history_without_end_is_not_followed() {
    let ann = home(&[]).await;
    let room = ann.me.create(json!({"preset": "public_chat"})).await;
    let mut eve = Eve::meet(&ann).await;
    let pen = Pen::new(&mut eve, &ann, &room).await;
    let nowhere = OwnedEventId::try_from(format!("${}", "n".repeat(43))).unwrap();
    let row = pen.row(&eve, PARKED_MAX + 10 * PAGE, &nowhere);
    let pages: Vec<Value> = row.iter().map(|pdu| wire(&eve, pdu)).collect();
    let last = row.last().unwrap().clone();
    let places: std::collections::HashMap<String, usize> =
        row.iter().enumerate().map(|(at, pdu)| (pdu.event_id.to_string(), at)).collect();
    let serve: Serve = Box::new(move |request| {
        if !request.uri.contains("/get_missing_events/") {
            let refused = json!({"errcode": "M_NOT_FOUND", "error": "no"});
            return Some((404, refused)).filter(|_| !request.uri.contains("room_keys"));
        }
        let asked = serde_json::to_value(&request.content).unwrap();
        let latest = asked["latest_events"].as_array().unwrap().iter();
        let at = latest.filter_map(|id| places.get(id.as_str()?)).min().copied().unwrap_or(0);
        Some((200, json!({"events": pages[at.saturating_sub(PAGE)..at]})))
    });
    eve.serve = serve;
    send(&mut eve, &ann, &last).await;
    let asked = |eve: &Eve| {
        let asked = eve.told.iter().filter(|request| request.uri.contains("/get_missing_events/"));
        asked.count()
    };
    eve.until("being asked for more", |eve| (asked(eve) > PARKED_MAX / PAGE).then_some(())).await;
    let mut before = 0;
    while asked(&eve) > before {
        before = asked(&eve);
        eve.during(tokio::time::sleep(Duration::from_secs(3))).await;
    }
    assert!(before <= PARKED_MAX / PAGE + 5, "{before} pages were fetched");
    // The room lives, and what Eve really says in it is heard.
    eve.during(ann.me.send(&room, "unharmed")).await;
    let real = pen.write(&eve, "really", &pen.joined.event_id, pen.joined.depth + 1);
    send(&mut eve, &ann, &real).await;
    let mut ann = ann;
    eve.during(ann.me.reads(&room, "really")).await;
}

/// Eve names an event and keeps back what comes before it; another member has all of it.
#[tokio::test]
async fn attack_13_who_keeps_back_what_comes_before_an_event_hides_nothing() {
    let mut ann = home(&[]).await;
    let room = ann.me.create(json!({"preset": "public_chat"})).await;
    let mut eve = Eve::meet(&ann).await;
    let pen = Pen::new(&mut eve, &ann, &room).await;
    let mut bob = Eve::meet(&ann).await;
    eve.during(Pen::new(&mut bob, &ann, &room)).await;
    let row = pen.row(&eve, 5, &pen.joined.event_id);
    let before: Vec<Value> = row[..4].iter().map(|pdu| wire(&eve, pdu)).collect();
    let refuse = |request: &Request| {
        let refused = json!({"errcode": "M_NOT_FOUND", "error": "no"});
        (!request.uri.contains("room_keys")).then_some((404, refused))
    };
    eve.serve = Box::new(refuse);
    bob.serve = Box::new(move |request| {
        let asked = request.uri.contains("/get_missing_events/");
        if asked { Some((200, json!({"events": before}))) } else { refuse(request) }
    });
    bob.during(send(&mut eve, &ann, &row[4])).await;
    for number in 0..5 {
        eve.during(bob.during(ann.me.reads(&room, &format!("eve {number}")))).await;
    }
}

#[tokio::test]
async fn attack_13_one_bad_event_spoils_no_other() {
    let mut ann = home(&[]).await;
    let room = ann.me.create(json!({"preset": "public_chat"})).await;
    let mut eve = Eve::meet(&ann).await;
    let pen = Pen::new(&mut eve, &ann, &room).await;
    let row = pen.row(&eve, 5, &pen.joined.event_id);
    let good: Vec<Value> = row.iter().map(|pdu| wire(&eve, pdu)).collect();
    let unsigned = {
        let mut pdu = good[1].clone();
        pdu["signatures"] = json!({});
        pdu
    };
    let deeper = {
        let mut pdu = good[2].clone();
        pdu["depth"] = json!(1);
        pdu
    };
    let mut answer =
        vec![json!({}), json!(5), json!(null), json!([[[]]]), unsigned, deeper, json!({"a": "b"})];
    // Each good one stands between bad ones, and comes twice.
    for (at, pdu) in good[..4].iter().enumerate() {
        answer.insert(2 * at + 1, pdu.clone());
        answer.push(pdu.clone());
    }
    let serve: Serve = Box::new(move |request| {
        let asked = request.uri.contains("/get_missing_events/");
        asked.then(|| (200, json!({"events": answer})))
    });
    eve.serve = serve;
    send(&mut eve, &ann, &row[4]).await;
    for number in 0..5 {
        eve.during(ann.me.reads(&room, &format!("eve {number}"))).await;
    }
}

#[tokio::test]
async fn attack_13_a_flood_of_requests_slows_its_peer_and_nobody_else() {
    let ann = home(&[]).await;
    let mut eve = Stranger::meet(&ann).await;
    eve.prove_itself().await;
    let mut bob = Stranger::meet(&ann).await;
    bob.prove_itself().await;
    let flood = 1500;
    let mut requests: Vec<Vec<u8>> =
        (0..flood).map(|_| eve.signed(&ann, "GET", &profile_of(&ann)).1).collect();
    let begin = std::time::Instant::now();
    let flooding = async {
        let (mut answered, mut refused, mut open) = (0, 0, 0);
        while answered + refused < flood {
            while open < 2 * WORK_PEER
                && let Some(bytes) = requests.pop()
            {
                eve.swarm.behaviour_mut().federation.send_request(&eve.victim, bytes);
                open += 1;
            }
            let over = match eve.swarm.select_next_some().await {
                SwarmEvent::Behaviour(BehaviourEvent::Federation(
                    request_response::Event::Message {
                        message: request_response::Message::Response { .. },
                        ..
                    },
                )) => &mut answered,
                SwarmEvent::Behaviour(BehaviourEvent::Federation(
                    request_response::Event::OutboundFailure { .. },
                )) => &mut refused,
                _ => continue,
            };
            *over += 1;
            open -= 1;
        }
        answered
    };
    let others = async {
        let mut slowest = Duration::ZERO;
        for _ in 0..20 {
            let asked = std::time::Instant::now();
            let answer = bob.request(&ann, "GET", &profile_of(&ann)).await;
            assert_eq!(answer.map(|(status, _)| status), Some(200));
            slowest = slowest.max(asked.elapsed());
        }
        slowest
    };
    let (answered, slowest) = tokio::join!(flooding, others);
    let share = 200 + 50 * usize::try_from(begin.elapsed().as_secs() + 1).unwrap();
    assert!((1..=share).contains(&answered), "{answered} of {flood} were answered");
    assert!(slowest < Duration::from_secs(10), "Bob waited {slowest:?}");
    // Who asks in measure is answered again.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let answer = eve.request(&ann, "GET", &profile_of(&ann)).await;
    assert_eq!(answer.map(|(status, _)| status), Some(200));
}

/// Changes what an event says, which its id does not show.
pub(super) fn spoil(mut pdu: Value) -> Value {
    pdu["content"]["body"] = json!("not what was said");
    pdu
}

#[tokio::test]
async fn attack_13_spoilt_copies_make_no_work_where_the_event_is_known_and_little_elsewhere() {
    let mut ann = home(&[]).await;
    let room = ann.me.create(json!({"preset": "public_chat"})).await;
    let mut eve = Eve::meet(&ann).await;
    let pen = Pen::new(&mut eve, &ann, &room).await;
    let asked = |eve: &Eve| {
        let asked = eve.told.iter().filter(|request| request.uri.contains("/v1/event/"));
        asked.count()
    };
    let row = pen.row(&eve, 20, &pen.joined.event_id);
    let known: Vec<Value> = row.iter().map(|pdu| wire(&eve, pdu)).collect();
    send_all(&mut eve, &ann, &known).await;
    eve.during(ann.me.reads(&room, "eve 19")).await;
    let copies: Vec<Value> = known.into_iter().map(spoil).collect();
    for _ in 0..5 {
        send_all(&mut eve, &ann, &copies).await;
    }
    let last = row.last().unwrap();
    let after = pen.write(&eve, "after them", &last.event_id, last.depth + 1);
    send(&mut eve, &ann, &after).await;
    eve.during(ann.me.reads(&room, "after them")).await;
    eve.during(tokio::time::sleep(Duration::from_secs(1))).await;
    assert_eq!(asked(&eve), 0, "nobody is asked for what is here");

    // Of events that nobody has whole, few are asked for, and one after another.
    let unknown: Vec<Value> = (0..150)
        .map(|n| spoil(wire(&eve, &pen.write(&eve, &format!("lost {n}"), &last.event_id, 100))))
        .collect();
    for pdus in unknown.chunks(50) {
        send_all(&mut eve, &ann, pdus).await;
    }
    eve.until("being asked for one", |eve| (asked(eve) > 0).then_some(())).await;
    eve.during(ann.me.send(&room, "unharmed")).await;
    eve.during(tokio::time::sleep(Duration::from_secs(12))).await;
    assert!(asked(&eve) <= 40, "{} were asked for", asked(&eve));
}

/// A room that there is not, and an invite to it.
async fn invite(eve: &mut Eve, ann: &Home, room: &str, whom: &str) -> (u16, Value) {
    let rules = pdu::rules_of(&RoomVersionId::V11).unwrap();
    let draft = Draft {
        kind: TimelineEventType::RoomMember,
        state_key: Some(whom.to_owned()),
        content: serde_json::from_value(json!({"membership": "invite"})).unwrap(),
        redacts: None,
    };
    let position = Position {
        room_id: Some(RoomId::parse(room).unwrap()),
        prev_events: Vec::new(),
        auth_events: Vec::new(),
        depth: 1,
        origin_server_ts: now_ms(),
    };
    let user = OwnedUserId::try_from(eve.user_id()).unwrap();
    let author = eve.node.signer.author(&user).unwrap();
    let invite = pdu::compose(draft, &position, author, &rules).unwrap();
    let body = json!({
        "event": wire(eve, &invite), "invite_room_state": [], "room_version": "11",
    });
    let (room, event) = (client::segment(room), client::segment(invite.event_id.as_str()));
    eve.ask(ann, "PUT", &format!("/_matrix/federation/v2/invite/{room}/{event}"), body).await
}

#[tokio::test]
async fn attack_13_a_stranger_leaves_few_invites_and_no_rooms() {
    let mut ann = home(&[]).await;
    let mut eve = Eve::meet(&ann).await;
    let me = ann.me.user_id.clone();
    let room = |number: usize| format!("!made-up-{number}:example.org");
    for number in 0..20 {
        let (status, answer) = invite(&mut eve, &ann, &room(number), "@p2p:example.org").await;
        assert_eq!(status, 400, "{answer}");
    }
    eventually("no room in memory", async || {
        (ann.node.status().await?["rooms"]["live"] == 0).then_some(())
    })
    .await;
    for number in 0..INVITES_STRANGER {
        let (status, answer) = invite(&mut eve, &ann, &room(number), &me).await;
        assert_eq!(status, 200, "{answer}");
    }
    let more = room(INVITES_STRANGER);
    let (status, answer) = invite(&mut eve, &ann, &more, &me).await;
    assert_eq!((status, &answer["errcode"]), (429, &json!("M_LIMIT_EXCEEDED")), "{answer}");
    // Nor after a restart; but one that is turned down makes room for another.
    eve.during(ann.node.stop()).await;
    eve.during(ann.node.start_again()).await;
    eve.connect_again(&ann).await;
    eve.node.prove_itself().await;
    let (status, answer) = invite(&mut eve, &ann, &more, &me).await;
    assert_eq!(status, 429, "{answer}");
    eve.during(ann.me.leave(&room(0))).await.ok();
    let (status, answer) = invite(&mut eve, &ann, &more, &me).await;
    assert_eq!(status, 200, "{answer}");
    eve.during(ann.me.is(&more, "invite")).await;
}

#[tokio::test]
async fn attack_13_a_stranger_leaves_few_to_device_messages() {
    let mut ann = home(&[]).await;
    let mut eve = Eve::meet(&ann).await;
    let message = |number: usize| {
        json!({"edu_type": "m.direct_to_device", "content": {
            "sender": eve.user_id(),
            "type": "org.example.noise",
            "message_id": number.to_string(),
            "messages": {&ann.me.user_id: {"*": {"number": number}}},
        }})
    };
    let messages: Vec<Value> = (0..=TO_DEVICE_STRANGER).map(message).collect();
    let transaction = |edus: &[Value]| {
        let origin = eve.node.signer.server_name().clone();
        json!({"origin": origin, "origin_server_ts": now_ms(), "pdus": [], "edus": edus})
    };
    let all = transaction(&messages[..TO_DEVICE_STRANGER]);
    let more = transaction(&messages[TO_DEVICE_STRANGER..]);
    let send = "/_matrix/federation/v1/send/";
    let (status, answer) = eve.ask(&ann, "PUT", &format!("{send}1"), all.clone()).await;
    assert_eq!(status, 200, "{answer}");
    let (status, answer) = eve.ask(&ann, "PUT", &format!("{send}2"), more).await;
    assert_eq!((status, &answer["errcode"]), (429, &json!("M_LIMIT_EXCEEDED")), "{answer}");
    // What came already comes again and is no news.
    let (status, answer) = eve.ask(&ann, "PUT", &format!("{send}3"), all).await;
    assert_eq!(status, 200, "{answer}");
    let news = ann.me.sync(Duration::ZERO).await;
    let got = news["to_device"]["events"].as_array().unwrap().len();
    assert_eq!(got, TO_DEVICE_STRANGER);
}

#[tokio::test]
async fn attack_13_a_to_device_message_that_is_too_large_is_refused_aloud() {
    let mut ann = home(&[]).await;
    let mut eve = Eve::meet(&ann).await;
    let message = json!({"edu_type": "m.direct_to_device", "content": {
        "sender": eve.user_id(),
        "type": "org.example.large",
        "message_id": "large",
        "messages": {&ann.me.user_id: {"*": {"text": "x".repeat(TO_DEVICE_LEN)}}},
    }});
    let origin = eve.node.signer.server_name().clone();
    let large = json!({
        "origin": origin, "origin_server_ts": now_ms(), "pdus": [], "edus": [message],
    });
    let uri = "/_matrix/federation/v1/send/large";
    let (status, answer) = eve.ask(&ann, "PUT", uri, large).await;
    assert_eq!((status, &answer["errcode"]), (413, &json!("M_TOO_LARGE")), "{answer}");
    let news = ann.me.sync(Duration::ZERO).await;
    let got = news["to_device"]["events"].as_array();
    assert!(got.is_none_or(Vec::is_empty), "{got:?}");
}
