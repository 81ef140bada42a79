//! What keys are worth after their time: attack 8 of `docs/PROTOCOL.md` §9.

use messagehub::proto::server_keys::LIFETIME_MS;

use super::*;

/// Tells whether a node takes somebody for a server.
async fn is_taken_for(home: &Home, stranger: &Stranger) -> bool {
    let id = stranger.swarm.local_peer_id().to_string();
    let status = home.node.status().await.unwrap();
    let peers = status["peers"].as_array().unwrap();
    let name = stranger.signer.server_name().as_str();
    peers.iter().any(|peer| peer["peer_id"] == id && peer["server_name"] == name)
}

/// Whoever got hold of the keys of a server, but for the identity key, has server_keys that expire
/// and cannot make others.
#[tokio::test]
async fn attack_08_expired_server_keys_speak_for_nobody() {
    let ann = home(&[]).await;
    let keys = fresh_keys();
    let old = now_ms() - LIFETIME_MS - 60_000;
    let mut eve = Stranger::with_keys(&ann, &keys, old).await;
    eve.ask(&IDENTITY, eve.shows.clone()).await;
    // Signed now, with the right key: what certifies it has expired.
    let answer = eve.request(&ann, "GET", &profile_of(&ann)).await;
    assert_eq!(answer, None, "a request was served");
    assert!(!is_taken_for(&ann, &eve).await, "and she is taken for a server");

    // The same keys, certified anew, are good: it was their age.
    let mut owner = Stranger::with_keys(&ann, &keys, now_ms()).await;
    owner.prove_itself().await;
    let answer = owner.request(&ann, "GET", &profile_of(&ann)).await;
    assert_eq!(answer.map(|(status, _)| status), Some(200));
    assert!(is_taken_for(&ann, &owner).await);
}

/// A node that a server's newest server_keys do not name any more is nobody, whatever it shows.
#[tokio::test]
async fn attack_08_an_old_node_is_out_once_newer_server_keys_are_seen() {
    let ann = home(&[]).await;
    let keys = fresh_keys();
    let hour = 60 * 60 * 1000;
    let mut old = Stranger::with_keys(&ann, &keys, now_ms() - hour).await;
    old.prove_itself().await;
    old.request(&ann, "GET", &profile_of(&ann)).await.expect("an answer");
    assert!(is_taken_for(&ann, &old).await, "its time has not come yet");

    let mut new = Stranger::with_keys(&ann, &keys, now_ms()).await;
    new.prove_itself().await;
    eventually("the new node alone", async || {
        (is_taken_for(&ann, &new).await && !is_taken_for(&ann, &old).await).then_some(())
    })
    .await;
    // Nor when it comes again, with server_keys that are valid for days.
    let mut again = Stranger::with_keys(&ann, &keys, now_ms() - hour).await;
    again.ask(&IDENTITY, again.shows.clone()).await;
    again.request(&ann, "GET", &profile_of(&ann)).await;
    assert!(!is_taken_for(&ann, &again).await);
    assert!(is_taken_for(&ann, &new).await);
}
