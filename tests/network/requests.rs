//! Signed requests.

use std::time::{Duration, Instant};

use messagehub::{
    actors::{clock::now_ms, upward::FederationError},
    proto::signed::{Answer, FRESH_MS},
};
use serde_json::json;

use super::world::{Start, log, pair};

#[actix::test]
async fn a_request_is_answered_and_an_error_is_told() {
    let (ann, bob) = pair().await;
    let answer = ann.ask(&bob, "/hello").await.unwrap();
    assert_eq!(serde_json::to_value(answer).unwrap(), json!({"echo": "/hello"}));
    let requests = bob.look(|world| world.requests.clone()).await;
    assert_eq!(requests[0].origin, ann.server());
    let refused = ann.ask(&bob, "/forbidden").await;
    assert!(
        matches!(&refused, Err(FederationError::Refused { status: 403, errcode, .. })
            if errcode == "M_FORBIDDEN"),
        "{refused:?}"
    );
}

#[actix::test]
async fn replayed_stale_misaddressed_and_forged_requests_get_no_answer() {
    let (ann, bob) = pair().await;
    let good = ann.sign(bob.server().as_str(), "1", now_ms());
    let answer = ann.send_raw(&bob, good.clone()).await.unwrap();
    assert!(Answer::verify(&answer, &bob.server(), "2", "x", now_ms()).is_err());
    // Ann herself may not have got the answer: it is the same once more, and nothing is done.
    assert_eq!(ann.send_raw(&bob, good.clone()).await, Some(answer));
    let carl = Start::new(3).near(&bob).await.start();
    carl.knows(&bob).await;
    assert_eq!(carl.send_raw(&bob, good.clone()).await, None, "replayed by somebody else");
    let other = ann.sign(bob.server().as_str(), "1", now_ms() + 1);
    let text = String::from_utf8(good.clone()).unwrap();
    let refused = [
        ("another one of the same id", other),
        ("for another server", ann.sign(ann.server().as_str(), "2", now_ms())),
        ("for a room", ann.sign("!room:x", "3", now_ms())),
        ("stale", ann.sign(bob.server().as_str(), "4", now_ms() - FRESH_MS - 1000)),
        ("changed", text.replace("/hello", "/other").into_bytes()),
        ("garbage", b"GET /_matrix/client/v3/login HTTP/1.1\r\n\r\n".to_vec()),
        ("empty", Vec::new()),
    ];
    for (what, bytes) in refused {
        assert_eq!(ann.send_raw(&bob, bytes).await, None, "{what} was answered");
    }
    assert_eq!(bob.look(|world| world.requests.len()).await, 1);
    assert!(ann.ask(&bob, "/hello").await.is_ok(), "the connection still serves");
}

#[actix::test]
async fn attack_08_a_node_that_its_server_has_ended_is_neither_answered_nor_believed() {
    let ann = Start { ended: vec![2], ..Start::new(1) }.start();
    let bob = Start::new(2).near(&ann).await.start();
    bob.knows(&ann).await;
    ann.knows(&bob).await;
    let request = bob.sign(ann.server().as_str(), "1", now_ms());
    assert_eq!(bob.send_raw(&ann, request).await, None, "it was answered");
    let asked = ann.ask(&bob, "/hello").await;
    assert!(
        matches!(&asked, Err(FederationError::BadAnswer { why, .. }) if why.contains("ended")),
        "{asked:?}"
    );
    assert_eq!(ann.look(|world| world.requests.len()).await, 0);
}

#[actix::test]
async fn nobody_answers_who_is_not_there() {
    let (ann, bob) = pair().await;
    let carl = Start { waits: true, ..Start::new(3) }.start();
    let asked = ann.ask(&carl, "/hello").await;
    assert!(matches!(asked, Err(FederationError::Unreachable(_))), "{asked:?}");
    let begin = Instant::now();
    let again = ann.ask(&carl, "/hello").await;
    assert!(matches!(again, Err(FederationError::Unreachable(_))), "{again:?}");
    assert!(begin.elapsed() < Duration::from_millis(500), "the failure is remembered");
    let itself = ann.ask(&ann, "/hello").await;
    assert!(matches!(itself, Err(FederationError::Unreachable(_))), "{itself:?}");
    let offline = carl.ask(&bob, "/hello").await;
    assert!(matches!(offline, Err(FederationError::Offline)), "{offline:?}");
}

#[actix::test]
async fn attack_13_an_overloaded_node_drops_work_and_stays_connected() {
    log();
    let ann = Start { places: 0, ..Start::new(1) }.start();
    let bob = Start::new(2).near(&ann).await.start();
    bob.knows(&ann).await;
    ann.join().await;
    bob.join().await;
    let asked = bob.ask(&ann, "/hello").await;
    assert!(matches!(asked, Err(FederationError::Unreachable(_))), "{asked:?}");
    for _ in 0..5 {
        bob.publish(1).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(ann.heard().await, 0);
    assert!(ann.look(|world| world.requests.is_empty()).await);
    assert!(ann.ask(&bob, "/hello").await.is_ok(), "it still asks others");
}

#[actix::test]
async fn askers_who_vanish_leave_nothing_behind() {
    let (ann, bob) = pair().await;
    for _ in 0..50 {
        // Dropped before the answer comes.
        let _ = tokio::time::timeout(Duration::from_micros(1), ann.ask(&bob, "/hello")).await;
        let _ = tokio::time::timeout(Duration::from_micros(1), ann.search("x:abcdefg")).await;
    }
    assert!(ann.ask(&bob, "/hello").await.is_ok());
}
