//! Logging in, and attack 2 of `docs/PROTOCOL.md`: a web page logs in by itself.

use actix_web::test::TestRequest;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::json;

use super::{ELEMENT, Reply, fake::AllRows, get, node, post, send, served, with};
use crate::{actors::store::Row, http::tests::fake};

fn redirect_to(url: &str) -> TestRequest {
    let url = utf8_percent_encode(url, NON_ALPHANUMERIC);
    get(&format!("/_matrix/client/v3/login/sso/redirect?redirectUrl={url}"))
}

fn login_token_of(reply: &Reply) -> String {
    let location = reply.header("location").unwrap_or_else(|| panic!("{reply:?}"));
    let url = url::Url::parse(location).unwrap();
    let mut pairs = url.query_pairs();
    pairs.find(|(name, _)| name == "loginToken").unwrap().1.into_owned()
}

fn token_login(token: &str) -> TestRequest {
    post("/_matrix/client/v3/login", &json!({"type": "m.login.token", "token": token}))
}

#[actix_web::test]
async fn element_logs_in_by_sso() {
    let (fake, gateway) = fake::start().await;
    let app = served(gateway).await;
    let flows = send(&app, get("/_matrix/client/v3/login")).await.json();
    assert_eq!(flows["flows"], json!([{"type": "m.login.sso"}, {"type": "m.login.token"}]));
    let early = send(&app, get("/_matrix/key/v2/server")).await;
    assert_eq!(early.errcode(), (404, "M_NOT_FOUND".into()), "no identity before the first login");

    let reply = send(&app, redirect_to(&format!("{ELEMENT}/?x=1#/login"))).await;
    assert_eq!(reply.status, 302);
    assert!(reply.header("location").unwrap().starts_with("http://127.84.48.1/?x=1&loginToken="));
    assert_eq!(reply.header("cache-control"), Some("no-store"));
    assert_eq!(reply.header("referrer-policy"), Some("no-referrer"));
    assert_eq!(reply.header("access-control-allow-origin"), None);

    let token = login_token_of(&reply);
    let session = send(&app, token_login(&token)).await.json();
    let access_token = session["access_token"].as_str().unwrap();
    let me = send(&app, with(access_token, get("/_matrix/client/v3/account/whoami"))).await.json();
    assert_eq!(me["user_id"], session["user_id"]);
    assert_eq!(me["device_id"], session["device_id"]);
    assert!(session["user_id"].as_str().unwrap().starts_with("@p2p:bahwqcera"));
    let keys = send(&app, get("/_matrix/key/v2/server")).await.json();
    assert_eq!(keys["server_name"], session["home_server"]);

    let again = send(&app, token_login(&token)).await;
    assert_eq!(again.errcode(), (403, "M_FORBIDDEN".into()), "a login token works once");

    let rows = fake.send(AllRows).await.unwrap();
    for (row, value) in &rows {
        let text = format!("{row:?} {}", String::from_utf8_lossy(value));
        assert!(!text.contains(access_token) && !text.contains(&token), "a token on disk: {text}");
    }
    assert!(rows.contains_key(&Row::AccountData(super::owner(), "m.push_rules".into())));
}

#[actix_web::test]
async fn logging_out_ends_the_session_on_memory_and_disk() {
    let (app, fake, token) = node().await;
    let who = || with(&token, get("/_matrix/client/v3/account/whoami"));
    assert_eq!(send(&app, who()).await.status, 200);
    let out = send(&app, with(&token, post("/_matrix/client/v3/logout", &json!({})))).await;
    assert_eq!(out.status, 200);
    assert_eq!(send(&app, who()).await.errcode(), (401, "M_UNKNOWN_TOKEN".into()));
    let rows = fake.send(AllRows).await.unwrap();
    assert!(!rows.keys().any(|row| matches!(row, Row::AccessToken(_) | Row::Device(..))));
    let none = send(&app, get("/_matrix/client/v3/account/whoami")).await;
    assert_eq!(none.errcode(), (401, "M_MISSING_TOKEN".into()));
}

#[actix_web::test]
async fn attack_2_no_page_logs_in_without_a_login_token() {
    let (fake, gateway) = fake::start().await;
    let app = served(gateway).await;
    let password = json!({"type": "m.login.password", "user": "p2p", "password": ""});
    for (body, status) in [
        (password, 400),
        (json!({"type": "m.login.dummy"}), 400),
        (json!({"type": "m.login.token"}), 400),
        (json!({"type": "m.login.token", "token": ""}), 403),
        (json!({"type": "m.login.token", "token": "constant"}), 403),
    ] {
        let reply = send(&app, post("/_matrix/client/v3/login", &body)).await;
        assert_eq!(reply.status, status, "{body}: {reply:?}");
    }
    let untyped = send(&app, post("/_matrix/client/v3/login", &json!({}))).await;
    assert_eq!(untyped.errcode(), (400, "M_BAD_JSON".into()));
    let register = post("/_matrix/client/v3/register", &json!({"auth": {"type": "m.login.dummy"}}));
    assert_eq!(send(&app, register).await.status, 403);
    assert!(fake.send(AllRows).await.unwrap().is_empty(), "something was made for a stranger");
}

#[actix_web::test]
async fn attack_2_no_page_reads_or_frames_a_login_token() {
    let (_, gateway) = fake::start().await;
    let app = served(gateway).await;
    let sources: [&[(&str, &str)]; 5] = [
        &[("Sec-Fetch-Mode", "cors"), ("Sec-Fetch-Site", "cross-site")],
        &[("Sec-Fetch-Mode", "no-cors"), ("Sec-Fetch-Site", "cross-site")],
        &[("Sec-Fetch-Mode", "navigate"), ("Sec-Fetch-Dest", "iframe")],
        &[("Origin", "http://evil.example")],
        &[("Origin", "null")],
    ];
    for source in sources {
        let mut request = redirect_to(ELEMENT);
        for header in source {
            request = request.insert_header(*header);
        }
        let reply = send(&app, request).await;
        assert_eq!(reply.errcode(), (403, "M_FORBIDDEN".into()), "{source:?}");
        assert_eq!(reply.header("access-control-allow-origin"), None, "{source:?}");
    }
    // A page may navigate here, and then the token goes to Element and nowhere else.
    let navigate = redirect_to(ELEMENT)
        .insert_header(("Sec-Fetch-Mode", "navigate"))
        .insert_header(("Sec-Fetch-Site", "cross-site"))
        .insert_header(("Sec-Fetch-Dest", "document"));
    assert_eq!(send(&app, navigate).await.status, 302);
    // An encoded path is the same path.
    let hidden =
        get("/_matrix/client/v3/login/%73so/redirect?redirectUrl=http%3A%2F%2F127.84.48.1");
    assert_eq!(send(&app, hidden).await.header("access-control-allow-origin"), None);
    let preflight = TestRequest::with_uri("/_matrix/client/v3/login/sso/redirect");
    let preflight = preflight.method(actix_web::http::Method::OPTIONS);
    assert_eq!(send(&app, preflight).await.header("access-control-allow-origin"), None);
}

#[actix_web::test]
async fn attack_2_a_domain_that_resolves_to_us_gets_nothing() {
    let (app, _, token) = node().await;
    for host in ["evil.example", "evil.example:80", "127.84.48.2.evil.example", "127.84.48.1"] {
        for request in [
            redirect_to(ELEMENT),
            get("/_matrix/client/versions"),
            with(&token, get("/_matrix/client/v3/account/whoami")),
            TestRequest::with_uri("/_matrix/client/v3/sync")
                .method(actix_web::http::Method::OPTIONS),
        ] {
            let reply = send(&app, request.insert_header(("Host", host))).await;
            assert_eq!(reply.errcode(), (403, "M_FORBIDDEN".into()), "{host}");
        }
    }
    let local = get("/_matrix/client/versions").insert_header(("Host", "localhost:80"));
    assert_eq!(send(&app, local).await.status, 200);
}

fn hidden_value(page: &str, name: &str) -> String {
    let (_, rest) = page.split_once(&format!(r#"name="{name}" value=""#)).unwrap();
    rest.split_once('"').unwrap().0.to_owned()
}

fn confirm(redirect_url: &str, csrf: &str, cookie: Option<&str>) -> TestRequest {
    confirm_with(redirect_url, csrf, cookie, None)
}

fn confirm_with(
    redirect_url: &str,
    csrf: &str,
    cookie: Option<&str>,
    token: Option<&str>,
) -> TestRequest {
    let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let mut body = format!("redirect_url={}&csrf={}", encode(redirect_url), encode(csrf));
    if let Some(token) = token {
        body += &format!("&token={}", encode(token));
    }
    let request = TestRequest::post()
        .uri("/_messagehub/login/confirm")
        .insert_header(("Content-Type", "application/x-www-form-urlencoded"))
        .set_payload(body);
    match cookie {
        Some(cookie) => request.insert_header(("Cookie", cookie.to_owned())),
        None => request,
    }
}

#[actix_web::test]
async fn attack_2_another_address_needs_the_persons_button() {
    let (_, gateway) = fake::start().await;
    let app = served(gateway).await;
    let target = "http://evil.example/\"><script>?x=1";
    let page = send(&app, redirect_to(target)).await;
    assert_eq!(page.status, 200, "no token yet");
    assert_eq!(page.header("location"), None);
    assert!(page.text().contains("<code>http://evil.example</code>"), "{}", page.text());
    assert!(!page.text().contains("<script>"), "{}", page.text());
    assert_eq!(page.header("x-frame-options"), Some("DENY"));
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.contains("frame-ancestors 'none'") && policy.contains("default-src 'none'"));
    let cookie = page.header("set-cookie").unwrap();
    assert!(cookie.contains("SameSite=Strict") && cookie.contains("HttpOnly"), "{cookie}");
    let cookie = cookie.split_once(';').unwrap().0;
    let csrf = hidden_value(page.text(), "csrf");

    let other = send(&app, redirect_to(target)).await;
    let other_cookie = other.header("set-cookie").unwrap().split_once(';').unwrap().0;
    for (what, request) in [
        ("no cookie", confirm(target, &csrf, None)),
        ("another cookie", confirm(target, &csrf, Some(other_cookie))),
        ("no token", confirm(target, "", Some(cookie))),
        ("another address", confirm("http://worse.example/", &csrf, Some(cookie))),
        (
            "from another page",
            confirm(target, &csrf, Some(cookie)).insert_header(("Origin", "http://evil.example")),
        ),
        (
            "from a sandboxed frame",
            confirm(target, &csrf, Some(cookie))
                .insert_header(("Origin", "null"))
                .insert_header(("Sec-Fetch-Site", "cross-site")),
        ),
        (
            "by fetch",
            confirm(target, &csrf, Some(cookie)).insert_header(("Sec-Fetch-Mode", "cors")),
        ),
    ] {
        let reply = send(&app, request).await;
        assert_eq!(reply.errcode(), (403, "M_FORBIDDEN".into()), "{what}");
        assert_eq!(reply.header("access-control-allow-origin"), None, "{what}");
    }
    let pressed = confirm(target, &csrf, Some(cookie))
        .insert_header(("Origin", "http://127.84.48.2"))
        .insert_header(("Sec-Fetch-Site", "same-origin"))
        .insert_header(("Sec-Fetch-Mode", "navigate"));
    let reply = send(&app, pressed).await;
    assert_eq!(reply.status, 303);
    assert!(reply.header("location").unwrap().starts_with("http://evil.example/"));
    let session = send(&app, token_login(&login_token_of(&reply))).await;
    assert_eq!(session.status, 200);

    let unreadable = TestRequest::post().uri("/_messagehub/login/confirm").set_payload("{}");
    assert_eq!(send(&app, unreadable).await.status, 403);
}

#[actix_web::test]
async fn attack_2_code_is_no_address() {
    let (_, gateway) = fake::start().await;
    let app = served(gateway).await;
    for target in ["javascript:alert(1)", "data:text/html,x", "//evil.example", ""] {
        let reply = send(&app, redirect_to(target)).await;
        assert_eq!(reply.errcode(), (403, "M_FORBIDDEN".into()), "{target}");
    }
    let none = get("/_matrix/client/v3/login/sso/redirect");
    assert_eq!(send(&app, none).await.status, 403);
    let app_link = send(&app, redirect_to("element://connect")).await;
    assert!(app_link.text().contains("<code>element:</code>"));
}

#[actix_web::test]
async fn devices_are_listed_renamed_and_deleted() {
    let (fake, gateway) = fake::start().await;
    let first = super::logged_in(&gateway, "A").await;
    let second = super::logged_in(&gateway, "B").await;
    let app = served(gateway.clone()).await;
    let rename = super::put("/_matrix/client/v3/devices/A", &json!({"display_name": "Laptop"}));
    assert_eq!(send(&app, with(&second, rename)).await.status, 200);
    let list = send(&app, with(&second, get("/_matrix/client/v3/devices"))).await.json();
    assert_eq!(list["devices"][0]["display_name"], "Laptop");
    assert_eq!(list["devices"][1]["device_id"], "B");
    // It has to be proven that the person wants it (`accounts.rs`).
    let gone = || with(&second, TestRequest::delete().uri("/_matrix/client/v3/devices/A"));
    let wanted = send(&app, gone()).await;
    assert_eq!(wanted.status, 401);
    let session = wanted.json()["session"].as_str().unwrap().to_owned();
    assert!(gateway.ask_accounts(crate::actors::accounts::Approve(session.clone())).await.unwrap());
    let gone = gone().set_payload(json!({"auth": {"session": session}}).to_string());
    assert_eq!(send(&app, gone).await.status, 200);
    let who = with(&first, get("/_matrix/client/v3/account/whoami"));
    assert_eq!(send(&app, who).await.errcode(), (401, "M_UNKNOWN_TOKEN".into()));
    let absent = send(&app, with(&second, get("/_matrix/client/v3/devices/A"))).await;
    assert_eq!(absent.errcode(), (404, "M_NOT_FOUND".into()));
    let rows = fake.send(AllRows).await.unwrap();
    assert!(!rows.contains_key(&Row::Device(super::owner(), "A".into())));
}

#[actix_web::test]
async fn sessions_and_profile_outlive_a_restart() {
    let (fake, mut gateway) = fake::start().await;
    let token = super::logged_in(&gateway, "A").await;
    let name = crate::actors::accounts::SetProfile {
        user_id: super::owner(),
        field: crate::actors::accounts::ProfileField::Displayname,
        value: Some("Ann".into()),
    };
    gateway.ask_accounts(name).await.unwrap().unwrap();
    gateway.accounts = fake::start_accounts(&fake).await;
    let app = served(gateway).await;
    let me = send(&app, with(&token, get("/_matrix/client/v3/account/whoami"))).await.json();
    assert_eq!(me["device_id"], "A");
    let path = format!("/_matrix/client/v3/profile/{}", me["user_id"].as_str().unwrap());
    assert_eq!(send(&app, with(&token, get(&path))).await.json(), json!({"displayname": "Ann"}));
    let told = fake.send(fake::Told).await.unwrap();
    let again = [r#"profile Some("Ann")"#, "advertise Ann"];
    assert!(told.ends_with(&again.map(ToOwned::to_owned)), "both are told again: {told:?}");
    assert_eq!(told.iter().filter(|line| *line == again[1]).count(), 2, "{told:?}");
}

/// A page can have the browser come here as often as it likes.
#[actix_web::test]
async fn attack_2_a_page_that_has_tokens_made_takes_nobodys_away() {
    let (_, gateway) = fake::start().await;
    let app = served(gateway.clone()).await;
    let printed = gateway.ask_accounts(crate::actors::accounts::MintLoginToken).await.unwrap();
    let element = login_token_of(&send(&app, redirect_to(ELEMENT)).await);
    for _ in 0..200 {
        assert_eq!(send(&app, redirect_to(ELEMENT)).await.status, 302);
    }
    for waiting in [&printed, &element, &login_token_of(&send(&app, redirect_to(ELEMENT)).await)] {
        assert_eq!(send(&app, token_login(waiting)).await.status, 200, "each one works");
        assert_eq!(send(&app, token_login(waiting)).await.status, 403, "and once");
    }
}

#[actix_web::test]
async fn two_who_use_a_login_token_at_once_are_one() {
    let (_, gateway) = fake::start().await;
    let token = gateway.ask_accounts(crate::actors::accounts::MintLoginToken).await.unwrap();
    let app = served(gateway).await;
    let both =
        futures::future::join(send(&app, token_login(&token)), send(&app, token_login(&token)));
    let (one, other) = both.await;
    let mut statuses = [one.status, other.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 403]);
}

/// An account of this machine that is not the person's.
const ANOTHER: &str = "127.0.0.1:1001";
/// A machine elsewhere, by a port that would be the person's account.
const ELSEWHERE: &str = "192.168.1.9:1000";

fn from(peer: &str, request: TestRequest) -> TestRequest {
    request.peer_addr(peer.parse().unwrap())
}

/// Whatever a request says of itself, it is the account behind the connection that counts.
#[actix_web::test]
async fn attack_2_another_account_or_machine_gets_no_token_by_being_there() {
    let (_, gateway) = fake::start().await;
    let app = served(gateway).await;
    let forged: [&[(&str, &str)]; 4] = [
        &[],
        &[
            ("Sec-Fetch-Mode", "navigate"),
            ("Sec-Fetch-Site", "none"),
            ("Sec-Fetch-Dest", "document"),
        ],
        &[("Sec-Fetch-Site", "same-origin"), ("Origin", "http://127.84.48.2")],
        &[
            ("X-Forwarded-For", "127.0.0.1"),
            ("Forwarded", "for=127.0.0.1"),
            ("X-Real-Ip", "127.0.0.1"),
        ],
    ];
    for (peer, status, words) in
        [(ANOTHER, 403, "belongs to the account"), (ELSEWHERE, 200, "cannot be told from here")]
    {
        for headers in forged {
            for target in [ELEMENT, "http://client.example/"] {
                let mut request = from(peer, redirect_to(target));
                for header in headers {
                    request = request.insert_header(*header);
                }
                let page = send(&app, request).await;
                assert_eq!(page.status, status, "{peer} {headers:?}");
                assert_eq!(page.header("location"), None, "{peer} {headers:?}");
                assert_eq!(page.header("access-control-allow-origin"), None);
                assert!(page.header("content-security-policy").unwrap().contains("'none'"));
                let text = page.text();
                assert!(
                    text.contains("messagehub login-token") && text.contains(r#"name="token""#)
                );
                assert!(!text.contains("loginToken") && text.contains(words), "{text}");

                // The button is for the person: without a token it is no way in.
                let cookie = page.header("set-cookie").unwrap().split_once(';').unwrap().0;
                let csrf = hidden_value(text, "csrf");
                for token in [None, Some(""), Some("mh_made_up")] {
                    let pressed = confirm_with(target, &csrf, Some(cookie), token);
                    let again = send(&app, from(peer, pressed)).await;
                    assert_eq!(again.header("location"), None, "{peer} {token:?}");
                    assert!(again.text().contains(r#"name="token""#), "{}", again.text());
                }
            }
        }
    }
}

#[actix_web::test]
async fn a_token_lets_the_person_in_from_anywhere_once() {
    let (_, gateway) = fake::start().await;
    let app = served(gateway.clone()).await;
    for peer in [ANOTHER, ELSEWHERE] {
        let target = "http://client.example/?x=1";
        let page = send(&app, from(peer, redirect_to(target))).await;
        let cookie = page.header("set-cookie").unwrap().split_once(';').unwrap().0.to_owned();
        let csrf = hidden_value(page.text(), "csrf");
        let token = gateway.ask_accounts(crate::actors::accounts::MintLoginToken).await.unwrap();
        let typed = format!(" {token}\n");
        let enter = |cookie: &str, csrf: &str| {
            from(peer, confirm_with(target, csrf, Some(cookie), Some(&typed)))
        };
        let elsewhere = send(&app, enter("messagehub_login=x", &csrf)).await;
        assert_eq!(elsewhere.status, 403, "the form is bound to its cookie");
        let on = send(&app, enter(&cookie, &csrf)).await;
        assert_eq!(on.status, 303, "{}", on.text());
        let renewed = login_token_of(&on);
        assert_ne!(renewed, token, "what was typed is not handed on");
        assert_eq!(send(&app, token_login(&renewed)).await.status, 200);
        assert_eq!(send(&app, token_login(&token)).await.status, 403, "used up");
        let twice = send(&app, enter(&cookie, &csrf)).await;
        assert_eq!(twice.status, 403);
        assert!(twice.text().contains("was used already"), "{}", twice.text());
    }
}

#[actix_web::test]
async fn somebody_with_a_browser_sees_pages_and_a_program_sees_json() {
    let (_, gateway) = fake::start().await;
    let app = served(gateway).await;
    let browser = |request: TestRequest| {
        request.insert_header(("Accept", "text/html,application/xhtml+xml,*/*;q=0.8"))
    };
    let home = send(&app, browser(get("/"))).await;
    assert_eq!(home.status, 200);
    assert!(home.header("content-type").unwrap().starts_with("text/html"));
    let text = home.text();
    assert!(text.contains(r#"href="http://127.84.48.1""#), "{text}");
    assert!(text.contains("<code>http://127.84.48.2</code>"), "{text}");
    assert_eq!(send(&app, get("/")).await.errcode(), (404, "M_UNRECOGNIZED".into()));

    let bad = || redirect_to("javascript:alert('<x>')");
    let page = send(&app, browser(bad())).await;
    assert_eq!(page.status, 403);
    assert!(page.text().contains("neither a web page nor an app"), "{}", page.text());
    assert!(page.text().starts_with("<!DOCTYPE html>") && !page.text().contains("<x>"));
    assert_eq!(send(&app, bad()).await.errcode(), (403, "M_FORBIDDEN".into()));
}
