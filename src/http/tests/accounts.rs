//! Passwords, proofs that something is wanted, and people who register.

use actix_web::test::TestRequest;
use serde_json::{Value, json};

use super::{
    Homeserver, Reply,
    fake::{self, AllRows, Fake, Told},
    get, logged_in, owner, post, send, served, with,
};
use crate::{
    actors::{
        accounts::{LeaveRooms, LogOut, MintLoginToken, SetPassword, Whose},
        store::{Row, WriteRows},
    },
    config::{Registration, limits},
    http::gateway::Gateway,
    proto::device_keys::tests::cross,
};

const V3: &str = "/_matrix/client/v3";
/// The account of another person of this machine.
const ANOTHER: &str = "127.0.0.1:1001";
/// Another machine.
const ELSEWHERE: &str = "192.168.1.9:1000";

struct World {
    app: Homeserver,
    fake: actix::Addr<Fake>,
    gateway: Gateway,
}

impl World {
    async fn new(registration: Registration) -> Self {
        let (fake, gateway) = fake::start_with(registration).await;
        let app = served(gateway.clone()).await;
        Self { app, fake, gateway }
    }

    async fn post(&self, token: &str, path: &str, body: &Value) -> Reply {
        send(&self.app, with(token, post(&format!("{V3}/{path}"), body))).await
    }

    async fn open(&self, path: &str, body: &Value) -> Reply {
        send(&self.app, post(&format!("{V3}/{path}"), body)).await
    }

    async fn get(&self, token: &str, path: &str) -> Reply {
        send(&self.app, with(token, get(&format!("{V3}/{path}")))).await
    }

    async fn is_in(&self, token: &str) -> bool {
        self.get(token, "account/whoami").await.status == 200
    }

    async fn set_password(&self, name: Option<&str>, password: &str) {
        let set = SetPassword {
            whose: Whose::Named(name.map(str::to_owned)),
            password: password.to_owned(),
            log_out: LogOut::Nobody,
        };
        self.gateway.ask_accounts(set).await.unwrap().unwrap();
    }

    /// Waits until the others were told something, and what follows from it is written.
    async fn until_told(&self, what: &str) {
        for _ in 0..500 {
            let told = self.fake.send(Told).await.unwrap();
            let rows = self.fake.send(AllRows).await.unwrap();
            let gone = |row: &Vec<u8>| String::from_utf8_lossy(row).contains(r#""ended":"gone""#);
            if told.iter().any(|told| told == what) && rows.values().any(gone) {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        panic!("{what} was never told");
    }

    /// Presses the button of the page for a session.
    async fn press(&self, session: &str) -> Reply {
        let page = send(&self.app, page_of(session)).await;
        assert_eq!(page.status, 200, "{page:?}");
        send(&self.app, pressed(&page, session, None)).await
    }
}

fn page_of(session: &str) -> TestRequest {
    get(&format!("{V3}/auth/m.login.sso/fallback/web?session={session}"))
}

fn pressed(page: &Reply, session: &str, token: Option<&str>) -> TestRequest {
    let (_, rest) = page.text().split_once(r#"name="csrf" value=""#).unwrap();
    let csrf = rest.split_once('"').unwrap().0;
    let cookie = page.header("set-cookie").unwrap().split_once(';').unwrap().0.to_owned();
    let token = token.map(|token| format!("&token={token}")).unwrap_or_default();
    TestRequest::post()
        .uri("/_messagehub/login/approve")
        .insert_header(("Content-Type", "application/x-www-form-urlencoded"))
        .insert_header(("Cookie", cookie))
        .set_payload(format!("session={session}&csrf={csrf}{token}"))
}

fn by_password(user: &str, password: &str) -> Value {
    json!({"type": "m.login.password", "identifier": {"type": "m.id.user", "user": user},
        "password": password})
}

fn session_of(wanted: &Reply) -> String {
    assert_eq!(wanted.status, 401, "{wanted:?}");
    wanted.json()["session"].as_str().unwrap().to_owned()
}

fn token_of(reply: &Reply) -> String {
    assert_eq!(reply.status, 200, "{reply:?}");
    reply.json()["access_token"].as_str().unwrap().to_owned()
}

#[actix_web::test]
async fn keys_are_replaced_once_the_person_has_confirmed_it_on_the_page() {
    let world = World::new(Registration::Off).await;
    let token = logged_in(&world.gateway, "D").await;
    let keys = |n: u8, auth: Value| {
        json!({
            "master_key": cross(&owner(), "master", n, None),
            "self_signing_key": cross(&owner(), "self_signing", n + 1, Some(n)),
            "user_signing_key": cross(&owner(), "user_signing", n + 2, Some(n)),
            "auth": auth,
        })
    };
    let path = "keys/device_signing/upload";
    assert_eq!(world.post(&token, path, &keys(10, Value::Null)).await.status, 200, "the first");
    let wanted = world.post(&token, path, &keys(20, Value::Null)).await;
    let session = session_of(&wanted);
    assert_eq!(wanted.json()["flows"], json!([{"stages": ["m.login.sso"]}]));
    let auth = || json!({"session": session});
    let early = world.post(&token, path, &keys(20, auth())).await;
    assert_eq!(session_of(&early), session, "the same session goes on");
    assert!(early.json().get("errcode").is_none(), "nothing was wrong yet");

    let done = world.press(&session).await;
    assert_eq!(done.status, 200, "{done:?}");
    assert!(done.text().contains("authDone"), "{}", done.text());
    let policy = done.header("content-security-policy").unwrap();
    assert!(policy.contains("script-src 'nonce-") && policy.contains("frame-ancestors 'none'"));
    assert_eq!(done.header("access-control-allow-origin"), None);

    // What was confirmed is that, for this device, and once.
    let other = world.post(&token, path, &keys(30, auth())).await;
    assert_eq!(other.errcode(), (401, "M_FORBIDDEN".into()), "other keys");
    let second = logged_in(&world.gateway, "E").await;
    let other = world.post(&second, path, &keys(20, auth())).await;
    assert_eq!(other.status, 401, "another device");
    let devices = json!({"devices": ["E"], "auth": auth()});
    let elsewhere = world.post(&token, "delete_devices", &devices).await;
    assert_eq!(elsewhere.status, 401, "another operation");
    assert_eq!(world.post(&token, path, &keys(20, auth())).await.status, 200);
    assert_eq!(world.post(&token, path, &keys(10, Value::Null)).await.status, 401);
    let replayed = world.post(&token, path, &keys(20, auth())).await;
    assert_eq!(replayed.status, 200, "the same keys again want no proof");
    let replayed = world.post(&token, path, &keys(10, auth())).await;
    assert_eq!(replayed.errcode(), (401, "M_FORBIDDEN".into()));
    let unstable = with(
        &token,
        post("/_matrix/client/unstable/keys/device_signing/upload", &keys(20, auth())),
    );
    assert_eq!(send(&world.app, unstable).await.status, 200, "by its older name");
}

#[actix_web::test]
async fn attack_2_no_page_confirms_anything_for_the_person() {
    let world = World::new(Registration::Off).await;
    let token = logged_in(&world.gateway, "D").await;
    let devices = |session: Option<&str>| match session {
        Some(session) => json!({"devices": ["D"], "auth": {"session": session}}),
        None => json!({"devices": ["D"]}),
    };
    let session = session_of(&world.post(&token, "delete_devices", &devices(None)).await);
    let is_confirmed =
        async || world.post(&token, "delete_devices", &devices(Some(&session))).await.status == 200;
    let sources: [&[(&str, &str)]; 4] = [
        &[("Sec-Fetch-Mode", "cors"), ("Sec-Fetch-Site", "cross-site")],
        &[("Sec-Fetch-Mode", "navigate"), ("Sec-Fetch-Dest", "iframe")],
        &[("Origin", "http://evil.example")],
        &[("Origin", "null")],
    ];
    for source in sources {
        let mut request = page_of(&session);
        for header in source {
            request = request.insert_header(*header);
        }
        let reply = send(&world.app, request).await;
        assert_eq!(reply.errcode(), (403, "M_FORBIDDEN".into()), "{source:?}");
        assert_eq!(reply.header("access-control-allow-origin"), None, "{source:?}");
    }
    let page = send(&world.app, page_of(&session)).await;
    assert_eq!(page.header("x-frame-options"), Some("DENY"));
    assert!(page.header("set-cookie").unwrap().contains("SameSite=Strict"));
    let other = send(&world.app, page_of(&session)).await;
    let other_cookie = other.header("set-cookie").unwrap().split_once(';').unwrap().0.to_owned();
    let press = || pressed(&page, &session, None);
    for (what, request) in [
        ("no cookie", press().insert_header(("Cookie", ""))),
        ("another cookie", press().insert_header(("Cookie", other_cookie))),
        ("another session", pressed(&page, "other", None)),
        ("from a page", press().insert_header(("Origin", "http://evil.example"))),
        ("by fetch", press().insert_header(("Sec-Fetch-Mode", "cors"))),
        ("from Element", press().insert_header(("Origin", super::ELEMENT))),
    ] {
        let reply = send(&world.app, request).await;
        assert_eq!(reply.status, 403, "{what}: {reply:?}");
        assert!(!is_confirmed().await, "{what}");
    }
    // Who is not there needs a token.
    for peer in [ANOTHER, ELSEWHERE] {
        let from = |request: TestRequest| request.peer_addr(peer.parse().unwrap());
        let page = send(&world.app, from(page_of(&session))).await;
        assert!(page.text().contains(r#"name="token""#), "{}", page.text());
        for token in [None, Some("mh_made_up")] {
            let again = send(&world.app, from(pressed(&page, &session, token))).await;
            assert!(again.text().contains(r#"name="token""#), "{}", again.text());
            assert!(!is_confirmed().await, "{peer} {token:?}");
        }
    }
    for made_up in ["", "x", &session[1..]] {
        let page = send(&world.app, page_of(made_up)).await;
        assert_eq!(page.status, 403, "{made_up}");
    }
    let unknown = get(&format!("{V3}/auth/m.login.dummy/fallback/web?session={session}"));
    assert_eq!(send(&world.app, unknown).await.status, 404);
    let from_there = |request: TestRequest| request.peer_addr(ELSEWHERE.parse().unwrap());
    let page = send(&world.app, from_there(page_of(&session))).await;
    let printed = world.gateway.ask_accounts(MintLoginToken).await.unwrap();
    let typed = send(&world.app, from_there(pressed(&page, &session, Some(&printed)))).await;
    assert!(typed.text().contains("authDone"), "{}", typed.text());
    assert!(is_confirmed().await);
    assert!(!world.is_in(&token).await);
}

#[actix_web::test]
async fn a_password_logs_in_once_there_is_one() {
    let world = World::new(Registration::Off).await;
    let flows = async || {
        let flows = send(&world.app, get(&format!("{V3}/login"))).await.json();
        flows["flows"].as_array().unwrap().iter().any(|flow| flow["type"] == "m.login.password")
    };
    assert!(!flows().await);
    let early = world.open("login", &by_password("p2p", "secret word")).await;
    assert_eq!(early.errcode(), (400, "M_UNKNOWN".into()));
    world.set_password(None, "secret word").await;
    assert!(flows().await);
    let id = owner();
    for user in ["p2p", "P2P", id.as_str()] {
        let reply = world.open("login", &by_password(user, "secret word")).await;
        assert!(world.is_in(&token_of(&reply)).await);
        assert!(reply.json().get("refresh_token").is_none(), "nobody asked: {reply:?}");
    }
    let old = json!({"type": "m.login.password", "user": "p2p", "password": "secret word"});
    assert_eq!(world.open("login", &old).await.status, 200, "an older client");
    for (user, password) in
        [("p2p", "wrong word"), ("nobody", "secret word"), ("@p2p:elsewhere", "secret word")]
    {
        let reply = world.open("login", &by_password(user, password)).await;
        assert_eq!(reply.errcode(), (403, "M_FORBIDDEN".into()), "{user}");
        assert!(reply.text().contains("user name or the password"), "which is not told");
    }
    let odd = json!({"type": "m.login.password", "password": "secret word",
        "identifier": {"type": "m.id.phone", "country": "CH", "phone": "1"}});
    assert_eq!(world.open("login", &odd).await.errcode(), (403, "M_FORBIDDEN".into()));
    for (row, value) in world.fake.send(AllRows).await.unwrap() {
        let text = String::from_utf8_lossy(&value).into_owned();
        assert!(!text.contains("secret word"), "{row:?}: {text}");
    }
}

#[actix_web::test]
async fn who_guesses_passwords_is_told_to_wait_and_the_person_elsewhere_is_not() {
    let world = World::new(Registration::Off).await;
    world.set_password(None, "secret word").await;
    let guess = |password: &str| post(&format!("{V3}/login"), &by_password("p2p", password));
    let from = |peer: &str, request: TestRequest| request.peer_addr(peer.parse().unwrap());
    let mut refused = 0;
    let limited = loop {
        let reply = send(&world.app, from(ELSEWHERE, guess("wrong word"))).await;
        if reply.status == 429 {
            break reply;
        }
        assert_eq!(reply.status, 403);
        refused += 1;
        assert!(refused <= 50, "guesses without end");
    };
    assert_eq!(f64::from(refused), limits::TRIES_BURST);
    assert_eq!(limited.errcode().1, "M_LIMIT_EXCEEDED");
    assert!(limited.json()["retry_after_ms"].as_u64().unwrap() > 0);
    assert!(limited.header("retry-after").is_some());
    let right = send(&world.app, from(ELSEWHERE, guess("secret word"))).await;
    assert_eq!(right.status, 429, "also with the right one");
    let here = send(&world.app, guess("secret word")).await;
    assert_eq!(here.status, 200, "somebody elsewhere: {here:?}");
}

#[actix_web::test]
async fn a_flood_of_logins_leaves_a_bounded_queue() {
    let world = World::new(Registration::Off).await;
    world.set_password(None, "secret word").await;
    let many = (0..3 * limits::HASHES_WAITING).map(|at| {
        let peer = format!("10.0.0.{}:1", at + 1).parse().unwrap();
        let body = by_password("p2p", "wrong word");
        send(&world.app, post(&format!("{V3}/login"), &body).peer_addr(peer))
    });
    let replies = futures::future::join_all(many).await;
    let refused = replies.iter().filter(|reply| reply.status == 403).count();
    let limited = replies.iter().filter(|reply| reply.status == 429).count();
    assert_eq!(refused + limited, replies.len());
    assert_eq!(refused, limits::HASHES_WAITING);
    let later = world.open("login", &by_password("p2p", "secret word")).await;
    assert_eq!(later.status, 200, "the queue is empty again");
}

#[actix_web::test]
async fn a_password_is_set_in_a_client_and_logs_the_others_out() {
    let world = World::new(Registration::Off).await;
    let (first, second) =
        (logged_in(&world.gateway, "A").await, logged_in(&world.gateway, "B").await);
    let body = |password: &str, auth: Value| json!({"new_password": password, "auth": auth});
    let weak = world.post(&first, "account/password", &body("short", Value::Null)).await;
    assert_eq!(weak.errcode(), (400, "M_WEAK_PASSWORD".into()));
    let none = world.open("account/password", &body("secret word", Value::Null)).await;
    assert_eq!(none.errcode(), (401, "M_MISSING_TOKEN".into()));
    // Without a password the page is the way; with one, that is another.
    let wanted = world.post(&first, "account/password", &body("secret word", Value::Null)).await;
    let session = session_of(&wanted);
    world.press(&session).await;
    let auth = json!({"type": "m.login.sso", "session": session});
    let keep = json!({"new_password": "secret word", "logout_devices": false});
    let kept = world.post(&first, "account/password", &keep).await;
    assert_eq!(kept.status, 401, "another body");
    assert_eq!(
        world.post(&first, "account/password", &body("secret word", auth)).await.status,
        200
    );
    assert!(world.is_in(&first).await && !world.is_in(&second).await);
    let third = token_of(&world.open("login", &by_password("p2p", "secret word")).await);

    let able = world.get(&first, "capabilities").await.json();
    assert_eq!(able["capabilities"]["m.change_password"], json!({"enabled": true}));
    let wanted = world.post(&first, "account/password", &keep).await;
    let flows = json!([{"stages": ["m.login.password"]}, {"stages": ["m.login.sso"]}]);
    assert_eq!(wanted.json()["flows"], flows);
    let session = session_of(&wanted);
    let mut change = json!({"new_password": "other secret", "logout_devices": false});
    let wanted = world.post(&first, "account/password", &change).await;
    let other_session = session_of(&wanted);
    for (user, password, session) in [
        ("p2p", "wrong word", &other_session),
        ("nobody", "secret word", &other_session),
        ("p2p", "secret word", &session),
    ] {
        let mut auth = by_password(user, password);
        auth["session"] = json!(session);
        change["auth"] = auth;
        let refused = world.post(&first, "account/password", &change).await;
        assert_eq!(refused.errcode(), (401, "M_FORBIDDEN".into()), "{user} {password}");
        assert!(refused.json()["flows"].is_array(), "it can be tried again");
    }
    change["auth"] = by_password("p2p", "secret word");
    change["auth"]["session"] = json!(other_session);
    assert_eq!(world.post(&first, "account/password", &change).await.status, 200);
    assert!(world.is_in(&third).await, "nobody is logged out");
    assert_eq!(world.open("login", &by_password("p2p", "secret word")).await.status, 403);
    assert_eq!(world.open("login", &by_password("p2p", "other secret")).await.status, 200);
    let ended = world.post(&first, "account/deactivate", &json!({})).await;
    assert_eq!(ended.errcode(), (403, "M_FORBIDDEN".into()), "the owner stays");
    assert!(ended.text().contains("owner"), "{}", ended.text());
}

#[actix_web::test]
async fn who_asks_for_it_gets_tokens_that_are_refreshed() {
    let world = World::new(Registration::Off).await;
    world.set_password(None, "secret word").await;
    let mut login = by_password("p2p", "secret word");
    login["refresh_token"] = json!(true);
    let session = world.open("login", &login).await.json();
    assert_eq!(session["expires_in_ms"], limits::ACCESS_TOKEN_MS);
    let text = |value: &Value, key: &str| value[key].as_str().unwrap().to_owned();
    let (first, refresh) = (text(&session, "access_token"), text(&session, "refresh_token"));
    let refreshed =
        async |token: &str| world.open("refresh", &json!({"refresh_token": token})).await;
    let lost = refreshed(&refresh).await.json();
    let next = refreshed(&refresh).await;
    assert_eq!(next.status, 200, "the answer was lost: {next:?}");
    let next = next.json();
    assert!(world.is_in(&first).await, "until the next one is used");
    assert!(!world.is_in(&text(&lost, "access_token")).await);
    assert!(world.is_in(&text(&next, "access_token")).await);
    assert!(!world.is_in(&first).await);
    assert_eq!(refreshed(&refresh).await.errcode(), (401, "M_UNKNOWN_TOKEN".into()));
    assert_eq!(refreshed("mh_made_up").await.errcode(), (401, "M_UNKNOWN_TOKEN".into()));
    let rows = world.fake.send(AllRows).await.unwrap();
    let kept = |row: &Row| matches!(row, Row::AccessToken(_) | Row::RefreshToken(_));
    assert_eq!(rows.keys().filter(|row| kept(row)).count(), 2, "one pair");
    world.post(&text(&next, "access_token"), "logout", &json!({})).await;
    let rows = world.fake.send(AllRows).await.unwrap();
    assert!(!rows.keys().any(kept));
}

#[actix_web::test]
async fn nobody_registers_where_the_node_does_not_say_so() {
    let world = World::new(Registration::Off).await;
    for body in [
        json!({}),
        json!({"username": "bob", "password": "secret word",
        "auth": {"type": "m.login.dummy"}}),
    ] {
        let reply = world.open("register", &body).await;
        assert_eq!(reply.errcode(), (403, "M_FORBIDDEN".into()), "{body}");
    }
    let guest = world.open("register?kind=guest", &json!({})).await;
    assert_eq!(guest.errcode(), (403, "M_GUEST_ACCESS_FORBIDDEN".into()));
    assert!(world.fake.send(AllRows).await.unwrap().is_empty());
}

#[actix_web::test]
async fn people_register_and_are_whole_users() {
    let world = World::new(Registration::Open).await;
    let ann = logged_in(&world.gateway, "A").await;
    let available = async |name: &str| {
        send(&world.app, get(&format!("{V3}/register/available?username={name}"))).await
    };
    assert_eq!(available("bob").await.json(), json!({"available": true}));
    let wanted =
        world.open("register", &json!({"username": "bob", "password": "secret word"})).await;
    assert_eq!(wanted.json()["flows"], json!([{"stages": ["m.login.dummy"]}]));
    let body = json!({"username": "bob", "password": "secret word", "device_id": "PHONE",
        "initial_device_display_name": "Bob's", "refresh_token": true,
        "auth": {"type": "m.login.dummy", "session": session_of(&wanted)}});
    let session = world.open("register", &body).await;
    let bob = token_of(&session);
    let session = session.json();
    let id = format!("@bob:{}", owner().server_name());
    assert_eq!(session["user_id"], id);
    assert_eq!(session["device_id"], "PHONE");
    assert!(session["refresh_token"].is_string());
    let again = world.open("register", &body).await;
    assert_eq!(again.errcode(), (400, "M_USER_IN_USE".into()));
    assert_eq!(available("bob").await.errcode(), (400, "M_USER_IN_USE".into()));
    for (name, errcode) in
        [("p2p", "M_USER_IN_USE"), ("Bob", "M_INVALID_USERNAME"), ("b%20b", "M_INVALID_USERNAME")]
    {
        assert_eq!(available(name).await.errcode(), (400, errcode.into()), "{name}");
    }
    for (change, errcode) in [
        (json!({"username": "carl\u{202e}"}), "M_INVALID_USERNAME"),
        (json!({"username": ""}), "M_INVALID_USERNAME"),
        (json!({"username": "carl", "password": "short"}), "M_WEAK_PASSWORD"),
        (json!({"username": "carl", "password": null}), "M_MISSING_PARAM"),
    ] {
        let mut body = json!({"password": "secret word", "auth": {"type": "m.login.dummy"}});
        for (key, value) in change.as_object().unwrap() {
            body[key] = value.clone();
        }
        let reply = world.open("register", &body).await;
        assert_eq!(reply.errcode(), (400, errcode.into()), "{change}");
    }
    // What a user has from the first moment on.
    let rules = world.get(&bob, "pushrules/").await.json();
    assert!(rules["global"]["override"].is_array());
    let profile = format!("profile/{id}");
    assert_eq!(world.get(&ann, &profile).await.json(), json!({"displayname": "bob"}));
    let found = world.post(&ann, "user_directory/search", &json!({"search_term": "bob"})).await;
    assert_eq!(found.json()["results"][0]["user_id"], id);
    let found = world.post(&bob, "user_directory/search", &json!({"search_term": "p2p"})).await;
    assert_eq!(found.json()["results"][0]["user_id"], owner().as_str());
    let told = world.fake.send(Told).await.unwrap();
    assert!(told.contains(&"advertise p2p bob".to_owned()), "{told:?}");
    assert!(told.contains(&r#"profile Some("bob")"#.to_owned()), "{told:?}");

    // He proves by his password what he wants; presence is the owner's.
    let wanted = world.post(&bob, "delete_devices", &json!({"devices": ["PHONE"]})).await;
    assert_eq!(wanted.json()["flows"], json!([{"stages": ["m.login.password"]}]));
    let page = send(&world.app, page_of(&session_of(&wanted))).await;
    assert_eq!(page.status, 403, "not for the owner to confirm");
    let silent = world
        .open(
            "register",
            &json!({"username": "carl", "password": "secret word",
        "inhibit_login": true, "auth": {"type": "m.login.dummy"}}),
        )
        .await
        .json();
    assert!(silent.get("access_token").is_none() && silent.get("device_id").is_none());
    let nameless = world
        .open(
            "register",
            &json!({"password": "secret word",
        "auth": {"type": "m.login.dummy"}}),
        )
        .await;
    assert_eq!(nameless.status, 200, "a name is made up: {nameless:?}");
}

#[actix_web::test]
async fn of_two_at_once_who_want_a_name_one_gets_it() {
    let world = World::new(Registration::Open).await;
    let body =
        json!({"username": "bob", "password": "secret word", "auth": {"type": "m.login.dummy"}});
    let (one, other) =
        futures::future::join(world.open("register", &body), world.open("register", &body)).await;
    let mut statuses = [one.status, other.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 400]);
}

#[actix_web::test]
async fn a_token_lets_people_register_and_is_not_guessed() {
    let world = World::new(Registration::Token("come in".to_owned())).await;
    let body = |name: &str, token: &str| {
        json!({"username": name, "password": "secret word",
            "auth": {"type": "m.login.registration_token", "token": token}})
    };
    let valid = async |token: &str| {
        let path = "/_matrix/client/v1/register/m.login.registration_token/validity?token=";
        send(&world.app, get(&format!("{path}{token}"))).await
    };
    assert_eq!(valid("come%20in").await.json(), json!({"valid": true}));
    assert_eq!(valid("no").await.json(), json!({"valid": false}));
    let dummy =
        json!({"username": "bob", "password": "secret word", "auth": {"type": "m.login.dummy"}});
    let refused = world.open("register", &dummy).await;
    assert_eq!(refused.errcode(), (401, "M_FORBIDDEN".into()));
    assert_eq!(refused.json()["flows"], json!([{"stages": ["m.login.registration_token"]}]));
    let wrong = world.open("register", &body("bob", "let me in")).await;
    assert_eq!(wrong.errcode(), (401, "M_FORBIDDEN".into()));
    assert_eq!(world.open("register", &body("bob", "come in")).await.status, 200);
    let mut guesses = 0;
    while world.open("register", &body("carl", "guess")).await.status == 401 {
        guesses += 1;
        assert!(guesses <= 50, "guesses without end");
    }
    assert_eq!(world.open("register", &body("carl", "come in")).await.status, 429);
    assert_eq!(valid("guess").await.status, 429, "nor by asking whether it is right");
}

#[actix_web::test]
async fn who_ends_an_account_is_gone_and_the_name_with_him() {
    let world = World::new(Registration::Open).await;
    logged_in(&world.gateway, "A").await;
    let body =
        json!({"username": "bob", "password": "secret word", "auth": {"type": "m.login.dummy"}});
    let bob = token_of(&world.open("register", &body).await);
    world.open("login", &by_password("bob", "secret word")).await;
    let wanted = world.post(&bob, "account/deactivate", &json!({"erase": true})).await;
    let mut auth = by_password("bob", "secret word");
    auth["session"] = json!(session_of(&wanted));
    let ended = world.post(&bob, "account/deactivate", &json!({"erase": true, "auth": auth})).await;
    assert_eq!(ended.json(), json!({"id_server_unbind_result": "no-support"}));
    assert!(!world.is_in(&bob).await);
    let again = world.open("login", &by_password("bob", "secret word")).await;
    assert_eq!(again.status, 400, "nobody else has a password: {again:?}");
    assert_eq!(world.open("register", &body).await.errcode(), (400, "M_USER_IN_USE".into()));
    let id = format!("@bob:{}", owner().server_name());
    let gone = format!("gone {id}");
    world.until_told(&gone).await;
    let told = world.fake.send(Told).await.unwrap();
    for room in ["!in:x Leave", "!invited:x Leave"] {
        assert!(told.iter().any(|told| told.starts_with(room) && told.contains(&id)), "{told:?}");
    }
    assert!(told.contains(&gone) && told.contains(&"advertise p2p".to_owned()), "{told:?}");
    let ann = logged_in(&world.gateway, "A").await;
    assert_eq!(world.get(&ann, &format!("profile/{id}")).await.status, 404);
    let mut rows = world.fake.send(AllRows).await.unwrap();
    rows.retain(|row, _| format!("{row:?}").contains("@bob:"));
    let left: Vec<_> = rows.keys().collect();
    assert!(matches!(left[..], [Row::Account(_)]), "only the name is left: {left:?}");
    assert!(!String::from_utf8_lossy(rows.values().next().unwrap()).contains("argon2"));
}

#[actix_web::test]
async fn a_node_that_was_killed_amid_an_end_goes_on_with_it_at_the_next_start() {
    let world = World::new(Registration::Open).await;
    logged_in(&world.gateway, "A").await;
    // As the disk is after the first write: nobody logs in any more, and the rooms are not left.
    let bob: ruma::OwnedUserId = format!("@bob:{}", owner().server_name()).try_into().unwrap();
    let row = br#"{"registered_ts":1,"ended":"leaving"}"#.to_vec();
    let rows = vec![(Row::Account(bob.clone()), Some(row))];
    world.fake.send(WriteRows(rows)).await.unwrap().unwrap();
    let accounts = fake::start_accounts(&world.fake).await;
    accounts.send(LeaveRooms).await.unwrap();
    world.until_told(&format!("gone {bob}")).await;
    let told = world.fake.send(Told).await.unwrap();
    let left = told.iter().filter(|told| told.contains(" Leave") && told.contains(bob.as_str()));
    assert_eq!(left.count(), 2, "{told:?}");
    let row = &world.fake.send(AllRows).await.unwrap()[&Row::Account(bob)];
    assert!(String::from_utf8_lossy(row).contains("gone"));
}

#[actix_web::test]
async fn there_are_no_mail_addresses_and_phone_numbers() {
    let world = World::new(Registration::Off).await;
    let token = logged_in(&world.gateway, "D").await;
    assert_eq!(world.get(&token, "account/3pid").await.json(), json!({"threepids": []}));
    for (path, body) in [
        ("account/3pid", json!({})),
        ("account/3pid/add", json!({"sid": "a", "client_secret": "b"})),
        (
            "account/3pid/email/requestToken",
            json!({"client_secret": "b", "email": "a@b.org", "send_attempt": 1}),
        ),
    ] {
        let refused = world.post(&token, path, &body).await;
        assert_eq!(refused.errcode(), (403, "M_THREEPID_DENIED".into()), "{path}");
    }
    let gone = json!({"medium": "email", "address": "a@b.org"});
    assert_eq!(world.post(&token, "account/3pid/delete", &gone).await.status, 200);
}
