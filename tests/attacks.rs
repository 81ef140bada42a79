//! The attacks of `docs/PROTOCOL.md` §9 that need a running node: each fails here.
//!
//! Those that bytes alone can show stand beside the code that refuses them.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests are not covered by allow-*-in-tests"
)]

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use reqwest::Method;
use serde_json::{Value, json};

mod common;

use common::{Client, Home, Node, client, home, homes};

/// What an HTTP server would answer with.
const HTTP: &[u8] = b"HTTP/";

/// Sends bytes to a port and returns what comes back until the other side closes or is silent.
fn talk(address: &str, say: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    stream.write_all(say).unwrap();
    let mut heard = Vec::new();
    // Silence and a reset both end the reading: what was heard until then counts.
    let _ = stream.read_to_end(&mut heard);
    heard
}

/// A request with headers of its own choice, as a web page or a rebound name would make it.
async fn crafted(
    node: &Node,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
) -> (u16, String, reqwest::header::HeaderMap) {
    let http = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build();
    let mut request = http.unwrap().request(method, format!("{}{path}", node.base()));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = request.send().await.unwrap();
    let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
    (status, answer.text().await.unwrap(), headers)
}

#[tokio::test]
async fn attack_01_the_libp2p_port_speaks_no_http() {
    let home = home(&[]).await;
    let addresses = home.node.addresses().await;
    let tcp = addresses.iter().find(|address| address.contains("/tcp/")).unwrap();
    let mut parts = tcp.split('/').skip(2).step_by(2);
    let address = format!("{}:{}", parts.next().unwrap(), parts.next().unwrap());
    let plain = "GET /_matrix/client/versions HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let spliced = format!("\u{13}/multistream/1.0.0\n{plain}");
    for say in [plain, &spliced] {
        let heard = tokio::task::spawn_blocking({
            let (address, say) = (address.clone(), say.to_owned());
            move || talk(&address, say.as_bytes())
        });
        let heard = heard.await.unwrap();
        assert!(!heard.windows(HTTP.len()).any(|window| window == HTTP), "it speaks HTTP");
    }
}

#[tokio::test]
async fn attack_01_no_other_servers_api_is_on_the_client_port() {
    let home = home(&[]).await;
    let path = "/_matrix/federation/v1/send/1";
    let (status, ..) = crafted(&home.node, Method::PUT, path, &[]).await;
    assert!((400..500).contains(&status), "federation answers {status} to anybody on loopback");
}

#[tokio::test]
async fn attack_02_a_name_that_was_rebound_to_loopback_is_refused() {
    let home = home(&[]).await;
    for host in ["evil.example", "evil.example:80", "127.0.0.1.evil.example"] {
        let (status, ..) =
            crafted(&home.node, Method::GET, "/_matrix/client/versions", &[("host", host)]).await;
        assert!(matches!(status, 400 | 403 | 421), "Host {host} is served: {status}");
    }
    let (status, ..) = crafted(&home.node, Method::GET, "/_matrix/client/versions", &[]).await;
    assert_eq!(status, 200, "its own name is served");
}

#[tokio::test]
async fn attack_02_a_web_page_cannot_log_in() {
    let home = home(&[]).await;
    let page = [("origin", "https://evil.example"), ("sec-fetch-site", "cross-site")];
    for token in ["", "p2p", "token", home.me.server_name(), home.me.token()] {
        let http = reqwest::Client::new();
        let url = format!("{}/_matrix/client/v3/login", home.node.base());
        let body = json!({"type": "m.login.token", "token": token});
        let request = http.post(url).header(page[0].0, page[0].1).header(page[1].0, page[1].1);
        let answer = client::ask(request.json(&body), "login").await;
        assert!((400..500).contains(&answer.status), "{token:?} logs in: {}", answer.body);
    }
    for path in ["/_matrix/client/v3/register", "/_matrix/client/v3/register?kind=guest"] {
        let (status, body, _) = crafted(&home.node, Method::POST, path, &page).await;
        assert!((400..500).contains(&status), "{path}: {status}");
        assert!(!body.contains("access_token"), "{path} gives a token to anybody: {body}");
    }
}

/// Whatever a page makes a browser open, no login token ends up in a foreign page's address.
#[tokio::test]
async fn attack_02_no_open_redirect_hands_a_login_token_out() {
    let home = home(&[]).await;
    for path in ["v3/login/sso/redirect", "v3/login/sso/redirect/p2p", "r0/login/sso/redirect"] {
        let path = format!("/_matrix/client/{path}?redirectUrl=https%3A%2F%2Fevil.example%2F");
        let headers = [("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")];
        let (status, body, headers) = crafted(&home.node, Method::GET, &path, &headers).await;
        let location = headers.get("location").and_then(|to| to.to_str().ok()).unwrap_or_default();
        assert!(!location.contains("evil.example"), "{path}: {status}, to {location}");
        assert!(!body.contains("loginToken="), "{path}: {status}, {body}");
    }
}

#[tokio::test]
async fn attack_02_cookies_are_no_credentials() {
    let home = home(&[]).await;
    let cookie = format!("access_token={}", home.me.token());
    let path = "/_matrix/client/v3/account/whoami";
    let (status, _, headers) = crafted(&home.node, Method::GET, path, &[("cookie", &cookie)]).await;
    assert_eq!(status, 401);
    assert!(headers.get("access-control-allow-credentials").is_none());
}

/// Ann's room with Bob as a moderator, both joined.
async fn moderated() -> (Home, Home, String, Value) {
    let [mut ann, mut bob] = homes().await;
    let room = ann.me.create_with(&[&bob.me]).await;
    bob.me.is(&room, "invite").await;
    bob.me.join(&room).await.ok();
    ann.me.sees_member(&room, &bob.me.user_id, "join").await;
    let mut levels = ann.me.state(&room, "m.room.power_levels", "").await;
    levels["users"][&bob.me.user_id] = json!(50);
    levels["events"]["m.room.power_levels"] = json!(50);
    ann.me.set_state(&room, "m.room.power_levels", "", levels.clone()).await.ok();
    common::eventually("Bob as a moderator on his own side", async || {
        let seen = bob.me.state(&room, "m.room.power_levels", "").await;
        (seen["users"] == levels["users"]).then_some(())
    })
    .await;
    (ann, bob, room, levels)
}

#[tokio::test]
async fn attack_06_a_moderator_cannot_grant_himself_more() {
    let (ann, bob, room, levels) = moderated().await;
    let mut greedy = levels.clone();
    greedy["users"][&bob.me.user_id] = json!(100);
    let answer = bob.me.set_state(&room, "m.room.power_levels", "", greedy).await;
    answer.refused(403, "M_FORBIDDEN");
    let mut open = levels.clone();
    open["users_default"] = json!(100);
    bob.me.set_state(&room, "m.room.power_levels", "", open).await.refused(403, "M_FORBIDDEN");
    // What he may do works: it is his power that is bounded, not the endpoint that is broken.
    let mut modest = levels.clone();
    modest["users"][&bob.me.user_id] = json!(40);
    bob.me.set_state(&room, "m.room.power_levels", "", modest.clone()).await.ok();
    common::eventually("the lesser power on Ann's side", async || {
        let seen = ann.me.state(&room, "m.room.power_levels", "").await;
        (seen["users"] == modest["users"]).then_some(())
    })
    .await;
}

#[tokio::test]
async fn attack_06_state_keyed_by_another_user_is_theirs() {
    let (ann, bob, room, _) = moderated().await;
    let mine = json!({"mine": true});
    let (a, b) = (ann.me.user_id.clone(), bob.me.user_id.clone());
    for (person, key) in [(&bob.me, &a), (&ann.me, &b)] {
        let answer = person.set_state(&room, "org.example.own", key, mine.clone()).await;
        answer.refused(403, "M_FORBIDDEN");
    }
    bob.me.set_state(&room, "org.example.own", &b, mine.clone()).await.ok();
    assert_eq!(bob.me.state(&room, "org.example.own", &a).await, Value::Null);
    assert_eq!(bob.me.state(&room, "org.example.own", &b).await, mine);
}

#[tokio::test]
async fn attack_06_a_member_cannot_be_made_to_join_by_another() {
    let (ann, bob, room, _) = moderated().await;
    let joined = json!({"membership": "join"});
    let answer = bob.me.set_state(&room, "m.room.member", &ann.me.user_id, joined).await;
    assert!(matches!(answer.status, 400 | 403), "{}", answer.body);
}

#[tokio::test]
async fn attack_07_a_second_create_event_is_refused() {
    let home = home(&[]).await;
    let room = home.me.create(json!({"name": "first"})).await;
    let state = home.me.whole_state(&room).await;
    let content = json!({"room_version": "11", "creator": home.me.user_id});
    for key in ["", "another"] {
        let answer = home.me.set_state(&room, "m.room.create", key, content.clone()).await;
        assert!(matches!(answer.status, 400 | 403), "key {key:?}: {}", answer.body);
    }
    let path = format!("v3/rooms/{}/send/m.room.create/t1", client::segment(&room));
    let answer = home.me.put(&path, content.clone()).await;
    assert!(matches!(answer.status, 400 | 403), "{}", answer.body);
    assert_eq!(home.me.whole_state(&room).await, state);

    let twice = json!({
        "initial_state": [{"type": "m.room.create", "state_key": "", "content": content}],
    });
    let answer = home.me.post("v3/createRoom", twice).await;
    if answer.status == 200 {
        // Leaving it out is as good as refusing it.
        let room = answer.body["room_id"].as_str().unwrap().to_owned();
        let creates = home.me.messages(&room).await;
        let creates = creates.iter().filter(|event| event["type"] == "m.room.create");
        assert_eq!(creates.count(), 1);
    } else {
        assert!(matches!(answer.status, 400 | 403), "{}", answer.body);
    }
}

#[tokio::test]
async fn attack_14_a_login_token_of_another_node_is_worth_nothing() {
    let one = Node::start(&[]).await;
    let other = Node::start(&[]).await;
    let me: Client = other.log_in().await;
    let body = json!({"type": "m.login.token", "token": one.login_token().await});
    me.post("v3/login", body).await.refused(403, "M_FORBIDDEN");
    let whoami = format!("{}/_matrix/client/v3/account/whoami", one.base());
    let request = reqwest::Client::new().get(whoami).bearer_auth(me.token());
    client::ask(request, "whoami").await.refused(401, "M_UNKNOWN_TOKEN");
}
