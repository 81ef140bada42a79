//! JSON that is nested so deep that it cannot be wrapped: by a client of one's own, and by somebody
//! who joins a public room by such an event (attack 13 of `docs/PROTOCOL.md` §9).

use messagehub::proto::pdu;
use ruma::RoomVersionId;

use super::{member::Eve, *};

/// An object that is nested so deep.
fn nested(levels: usize) -> Value {
    (1..levels).fold(json!({}), |inner, _| json!({"a": inner}))
}

impl Eve {
    /// Tries to join by an event of her own making. Returns what she is told.
    async fn join_by(&mut self, victim: &Home, room: &str, mut content: Value) -> (u16, Value) {
        let (segment, user) = (client::segment(room), self.user_id());
        let uri = format!("/_matrix/federation/v1/make_join/{segment}/{user}?ver=12");
        let (status, template) = self.ask(victim, "GET", &uri, json!({})).await;
        assert_eq!(status, 200, "{template}");
        content["membership"] = json!("join");
        let mut event = template["event"].clone();
        event["content"] = content;
        event["origin_server_ts"] = json!(now_ms());
        let mut event: CanonicalJsonObject = serde_json::from_value(event).unwrap();
        let rules = pdu::rules_of(&RoomVersionId::V12).unwrap();
        self.node.signer.hash_and_sign(&mut event, &rules.redaction).unwrap();
        let hash = ruma::signatures::reference_hash(&event, &rules).unwrap();
        let keys = CanonicalJsonValue::Object(self.node.signer.server_keys().clone());
        event.insert("server_keys".to_owned(), keys);
        let uri = format!(
            "/_matrix/federation/v2/send_join/{segment}/{}",
            client::segment(&format!("${hash}"))
        );
        let body = serde_json::to_value(&event).unwrap();
        self.ask(victim, "PUT", &uri, body).await
    }
}

#[tokio::test]
async fn attack_13_no_event_is_so_deep_that_it_breaks_the_room() {
    let [mut ann, mut bob] = homes().await;
    let body = json!({"preset": "public_chat", "invite": [bob.me.user_id]});
    let room = ann.me.create(body).await;
    let path = format!("v3/rooms/{}/send/m.x", client::segment(&room));
    ann.me.put(&format!("{path}/1"), nested(63)).await.ok();
    for (txn, levels) in [(2, 64), (3, 65), (4, 123), (5, 500)] {
        let answer = ann.me.put(&format!("{path}/{txn}"), nested(levels)).await;
        answer.refused(400, "M_BAD_JSON");
    }
    let large = json!({"body": "x".repeat(70_000)});
    let large = ann.me.put(&format!("{path}/6"), large).await;
    let why = large.body["error"].to_string();
    large.refused(413, "M_TOO_LARGE");
    assert!(why.contains("65535"), "{why}");

    let mut eve = Eve::meet(&ann).await;
    for levels in [64, 123] {
        let (status, told) = eve.join_by(&ann, &room, nested(levels)).await;
        assert_eq!((status, &told["errcode"]), (400, &json!("M_BAD_JSON")), "{levels}");
    }
    // She gets in by what fits, and the room goes on for everybody.
    let (status, told) = eve.join_by(&ann, &room, nested(62)).await;
    assert_eq!(status, 200, "{told}");
    let both = async {
        bob.me.is(&room, "invite").await;
        bob.me.join(&room).await.ok();
        ann.me.send(&room, "do you hear me").await;
        bob.me.reads(&room, "do you hear me").await;
        bob.me.send(&room, "as ever").await;
        ann.me.reads(&room, "as ever").await;
    };
    eve.during(both).await;
}
