//! What somebody gets who asks for what is none of their business: attack 12 of
//! `docs/PROTOCOL.md` §9.

use super::*;

#[tokio::test]
async fn attack_12_media_are_no_other_servers_to_read() {
    let ann = home(&[]).await;
    let mut eve = Stranger::meet(&ann).await;
    eve.prove_itself().await;
    let server = ann.me.server_name();
    for uri in [
        "/_matrix/federation/v1/media/download/abc".to_owned(),
        "/_matrix/federation/v1/media/thumbnail/abc?width=1&height=1".to_owned(),
        format!("/_matrix/media/v3/download/{server}/abc"),
        format!("/_matrix/media/r0/thumbnail/{server}/abc"),
        format!("/_matrix/client/v1/media/download/{server}/abc"),
        "/_matrix/media/v3/config".to_owned(),
    ] {
        let (status, answer) = eve.request(&ann, "GET", &uri).await.expect("an answer");
        assert_eq!((status, &answer["errcode"]), (404, &json!("M_UNRECOGNIZED")), "{uri}");
    }
}

/// Who asks for a profile says who they are, and proves it.
#[tokio::test]
async fn attack_12_nobody_reads_a_profile_without_a_name() {
    let [mut ann, mut bob] = common::homes().await;
    ann.me.call_oneself("Ann").await;
    let mut eve = Stranger::meet(&ann).await;
    eve.prove_itself().await;
    let (request, good, _) = eve.signed(&ann, "GET", &profile_of(&ann));
    let signed: Value = serde_json::from_slice(&good).unwrap();
    let without = |key: &str| {
        let mut request = signed.clone();
        request.as_object_mut().unwrap().remove(key);
        serde_json::to_vec(&request).unwrap()
    };
    let in_the_name_of = |origin: &str| {
        let origin = ServerName::parse(origin).unwrap();
        let request = Request { origin, request_id: "other".to_owned(), ..request.clone() };
        request.sign(&eve.signer).unwrap().bytes
    };
    let anonymous = [
        ("bare", serde_json::to_vec(&request).unwrap()),
        ("without a signature", without("signatures")),
        ("without server_keys", without("server_keys")),
        ("without an origin", without("origin")),
        ("in Bob's name", in_the_name_of(bob.me.server_name())),
    ];
    for (what, bytes) in anonymous {
        assert_eq!(eve.ask(&FEDERATION, bytes).await, None, "{what} it was answered");
    }
    // Of people who share a room with us nobody is told by us.
    let room = ann.me.create_with(&[&bob.me]).await;
    bob.me.is(&room, "invite").await;
    bob.me.join(&room).await.ok();
    ann.me.sees_member(&room, &bob.me.user_id, "join").await;
    let (status, answer) = eve.request(&ann, "GET", &profile_of(&bob)).await.expect("an answer");
    assert_eq!(status, 404, "{answer}");

    let (status, answer) = eve.request(&ann, "GET", &profile_of(&ann)).await.expect("an answer");
    assert_eq!(
        (status, &answer["displayname"]),
        (200, &json!("Ann")),
        "the name they are found by"
    );
    let told: Vec<&String> = answer.as_object().unwrap().keys().collect();
    assert_eq!(told, ["displayname"], "and nothing that was not set");
}
