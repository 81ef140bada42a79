//! The status page: what it is made of, and that nobody else gets any of it.

use actix_web::test::TestRequest;

use super::{ELEMENT, Homeserver, Reply, fake, get, logged_in, node, send, served};

/// Every place of it that says something of the node.
const PLACES: [(&str, &str); 4] = [
    ("GET", "/"),
    ("GET", "/_messagehub/status/events"),
    ("GET", "/_messagehub/status/qr.svg"),
    ("POST", "/_messagehub/status/doctor"),
];
/// What the page that only the person sees has, and no other.
const ONLY_THE_PERSON: &str = "Have the doctor look";

fn ask(method: &str, path: &str) -> TestRequest {
    let request = if method == "GET" { TestRequest::get() } else { TestRequest::post() };
    request.uri(path).insert_header(("Accept", "text/html,*/*"))
}

fn from(peer: &str, request: TestRequest) -> TestRequest {
    request.peer_addr(peer.parse().unwrap())
}

/// Checks that an answer says nothing, and may be read by no other origin.
fn says_nothing(reply: &Reply, what: &str) {
    let text = String::from_utf8_lossy(&reply.body);
    for secret in ["secret", ONLY_THE_PERSON, "<svg", "findings", "/nowhere"] {
        assert!(!text.contains(secret), "{what}: {text}");
    }
    assert_eq!(reply.header("access-control-allow-origin"), None, "{what}");
    assert_eq!(
        reply.header("cross-origin-resource-policy").unwrap_or("same-origin"),
        "same-origin"
    );
}

#[actix_web::test]
async fn the_person_sees_a_page_that_loads_its_own_files_and_nothing_else() {
    let (app, _, _) = node().await;
    let page = send(&app, ask("GET", "/")).await;
    assert_eq!(page.status, 200, "{}", page.text());
    let text = page.text();
    assert!(text.contains(ONLY_THE_PERSON) && text.contains("/nowhere"), "{text}");
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    assert!(policy.contains("frame-ancestors 'none'"), "{policy}");
    assert_eq!(page.header("cache-control"), Some("no-store"));
    assert_eq!(page.header("access-control-allow-origin"), None);
    for inline in ["<style", " style=", "<script>", " onclick", "javascript:"] {
        assert!(!text.contains(inline), "{inline}");
    }
    let mut files = 0;
    for named in text.split(['"', '\'']).filter(|part| part.contains("/status/files/")) {
        let file = send(&app, get(named)).await;
        assert_eq!(file.status, 200, "{named}");
        assert_eq!(file.header("x-content-type-options"), Some("nosniff"));
        let tag = file.header("etag").unwrap().to_owned();
        let again = send(&app, get(named).insert_header(("If-None-Match", tag))).await;
        assert_eq!((again.status, again.body.len()), (304, 0), "{named}");
        files += 1;
    }
    assert!(files >= 8, "{files} files: {text}");
    let other = "/_messagehub/status/files/page.html";
    assert_eq!(send(&app, get(other)).await.status, 404);
    // Nothing that any of them names is somewhere else; their licences' addresses are no loads.
    for own in ["page.js", "parts.js", "network.js", "plots.js", "care.js", "page.css"] {
        let file = send(&app, get(&format!("/_messagehub/status/files/{own}"))).await;
        let foreign = file.text().replace("http://www.w3.org/2000/svg", "");
        assert!(!foreign.contains("http://") && !foreign.contains("https://"), "{own}");
        assert!(!foreign.contains("innerHTML") && !foreign.contains("@import"), "{own}");
    }
}

#[actix_web::test]
async fn what_it_shows_comes_as_events_and_a_window_has_a_place() {
    let (app, _, _) = node().await;
    for _ in 0..2 {
        let events = send(&app, get("/_messagehub/status/events")).await;
        assert_eq!(events.status, 200, "the place of a window that is gone is free");
        assert_eq!(events.header("content-type"), Some("text/event-stream"));
        assert_eq!(events.header("cache-control"), Some("no-store"));
        let expected =
            "event: history\ndata: []\n\nevent: shown\ndata: {\"headline\":\"secret\"}\n\n";
        assert_eq!(events.text(), expected);
    }
    let qr = send(&app, get("/_messagehub/status/qr.svg")).await;
    assert_eq!(qr.header("content-type"), Some("image/svg+xml"));
    assert!(qr.text().starts_with("<svg"), "{}", qr.text());
}

#[actix_web::test]
async fn another_account_and_another_machine_see_nothing_of_it() {
    let (app, _, _) = node().await;
    for peer in ["127.0.0.1:1001", "192.168.1.9:1000", "[2001:db8::1]:1000"] {
        for (method, path) in PLACES {
            let reply = send(&app, from(peer, ask(method, path))).await;
            let what = format!("{peer} {path}");
            says_nothing(&reply, &what);
            let asks = path == "/" && reply.text().contains("name=\"token\"");
            assert!(asks || reply.status == 403, "{what}: {reply:?}");
        }
    }
}

#[actix_web::test]
async fn no_page_of_another_origin_gets_any_of_it() {
    let (app, _, _) = node().await;
    let foreign: [&[(&str, &str)]; 7] = [
        &[("Origin", "http://evil.example")],
        &[("Origin", ELEMENT)],
        &[("Origin", "null")],
        &[("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Mode", "cors")],
        &[("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Mode", "no-cors")],
        &[("Sec-Fetch-Site", "same-site"), ("Sec-Fetch-Mode", "cors")],
        &[
            ("Sec-Fetch-Site", "cross-site"),
            ("Sec-Fetch-Mode", "navigate"),
            ("Sec-Fetch-Dest", "iframe"),
        ],
    ];
    for headers in foreign {
        for (method, path) in PLACES {
            let mut request = ask(method, path);
            for header in headers {
                request = request.insert_header(*header);
            }
            let reply = send(&app, request).await;
            assert_eq!(reply.status, 403, "{path} {headers:?}");
            says_nothing(&reply, path);
        }
    }
    let preflight = TestRequest::with_uri("/_messagehub/status/events");
    let preflight = preflight.method(actix_web::http::Method::OPTIONS);
    assert_eq!(send(&app, preflight).await.header("access-control-allow-origin"), None);
}

#[actix_web::test]
async fn a_domain_that_resolves_to_us_gets_none_of_it() {
    let (app, _, _) = node().await;
    for host in ["evil.example", "127.84.48.2.evil.example", "127.84.48.1"] {
        for (method, path) in PLACES {
            let reply = send(&app, ask(method, path).insert_header(("Host", host))).await;
            assert_eq!(reply.status, 403, "{host} {path}");
            says_nothing(&reply, path);
        }
    }
}

/// Returns the cookie that a page set, and the token of its form.
fn form_of(page: &Reply) -> (String, String) {
    let cookie = page.header("set-cookie").unwrap();
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"), "{cookie}");
    let csrf = page.text().split("name=\"csrf\" value=\"").nth(1).unwrap();
    (cookie.split(';').next().unwrap().to_owned(), csrf.split('"').next().unwrap().to_owned())
}

async fn open(app: &Homeserver, cookie: &str, csrf: &str, token: &str) -> Reply {
    let form = format!("csrf={csrf}&token={token}");
    let request = TestRequest::post()
        .uri("/_messagehub/status/open")
        .insert_header(("Content-Type", "application/x-www-form-urlencoded"))
        .insert_header(("Accept", "text/html"))
        .insert_header(("Cookie", cookie.to_owned()))
        .set_payload(form);
    send(app, from("192.168.1.9:7", request)).await
}

#[actix_web::test]
async fn a_browser_elsewhere_is_shown_it_for_a_login_token() {
    let (_, gateway) = fake::start().await;
    logged_in(&gateway, "D").await;
    let mint = crate::actors::accounts::MintLoginToken;
    let token = gateway.ask_accounts(mint).await.unwrap();
    let app = served(gateway).await;
    let elsewhere = |path: &str| from("192.168.1.9:7", ask("GET", path));
    let asked = send(&app, elsewhere("/")).await;
    let (cookie, csrf) = form_of(&asked);

    let wrong = open(&app, &cookie, &csrf, "guessed").await;
    assert_eq!(wrong.status, 403);
    assert!(wrong.text().contains("was used already"), "{}", wrong.text());
    for (cookie, csrf) in [("messagehub_status_form=x", csrf.as_str()), (cookie.as_str(), "x")] {
        assert_eq!(open(&app, cookie, csrf, &token).await.status, 403, "not from the form");
    }
    let opened = open(&app, &cookie, &csrf, &token).await;
    assert_eq!(opened.status, 303, "{}", opened.text());
    let pass = opened.header("set-cookie").unwrap();
    assert!(pass.contains("HttpOnly") && pass.contains("SameSite=Strict"), "{pass}");
    let pass = pass.split(';').next().unwrap().to_owned();
    let with = |path: &str, pass: &str| elsewhere(path).insert_header(("Cookie", pass.to_owned()));
    assert!(send(&app, with("/", &pass)).await.text().contains(ONLY_THE_PERSON));
    assert_eq!(send(&app, with("/_messagehub/status/events", &pass)).await.status, 200);

    let twice = open(&app, &cookie, &csrf, &token).await;
    assert_eq!(twice.status, 403, "a login token counts once");
    // It counts until then and no longer, and nobody makes one.
    let (name, value) = pass.split_once('=').unwrap();
    let (until, code) = value.split_once('.').unwrap();
    let later = until.parse::<u64>().unwrap() + 1;
    for forged in [format!("{later}.{code}"), format!("0.{code}"), format!("{until}."), "x".into()]
    {
        let forged = format!("{name}={forged}");
        let reply = send(&app, with("/_messagehub/status/events", &forged)).await;
        assert_eq!(reply.status, 403, "{forged}");
    }
    let foreign =
        with("/_messagehub/status/events", &pass).insert_header(("Origin", "http://evil.example"));
    assert_eq!(send(&app, foreign).await.status, 403, "a pass is for our own page");
}
