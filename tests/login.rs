//! Who gets in by being there: the account that runs the node, from its own machine, and nobody else.
//!
//! Other accounts, user namespaces in which somebody calls himself root, other machines, and whatever a
//! request says of itself. As root alone; the accounts need not exist.

#![expect(clippy::unwrap_used, reason = "helpers of tests are not covered by allow-*-in-tests")]

use std::{fs, process::Command};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::json;
use tempfile::TempDir;

mod common;

use common::{
    Node, eventually,
    netns::{Network, Running},
    node::{free_port, own_address},
    skip,
};

/// Numbers of accounts that nobody has.
const STRANGER: &str = "48480";
const FRIEND: u32 = 48481;
/// What a browser sends where a person typed an address or followed a link.
const BROWSER: &str =
    "Sec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\nSec-Fetch-Site: none";
/// What a request may say of itself.
const HEADERS: [&str; 5] = [
    "X-Nothing: 1",
    BROWSER,
    "Sec-Fetch-Mode: cors\r\nSec-Fetch-Site: cross-site\r\nOrigin: http://evil.example",
    "Sec-Fetch-Mode: navigate\r\nSec-Fetch-Site: same-origin\r\nX-Forwarded-For: 127.0.0.1",
    "X-Real-Ip: 127.0.0.1\r\nForwarded: for=127.0.0.1;host=localhost",
];
/// Opens a connection to `$0`:`$1`, says `$2`, and shows the answer.
const TALK: &str = r#"exec 3<>"/dev/tcp/$0/$1"; printf '%s' "$2" >&3; timeout 20 cat <&3"#;

/// Sends a request from within `command` (which may be another account, or another machine).
fn ask(mut command: Command, address: &str, request: &str) -> String {
    let (host, port) = address.rsplit_once(':').unwrap();
    command.args(["bash", "-c", TALK, host, port, request]);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.starts_with("HTTP/1.1 "), "{said} {}", String::from_utf8_lossy(&output.stderr));
    said
}

fn get(host: &str, redirect_url: &str, headers: &str) -> String {
    let url = utf8_percent_encode(redirect_url, NON_ALPHANUMERIC);
    format!(
        "GET /_matrix/client/v3/login/sso/redirect?redirectUrl={url} HTTP/1.1\r\nHost: {host}\r\n\
         Accept: text/html\r\nConnection: close\r\n{headers}\r\n\r\n"
    )
}

/// The same account, in nothing but an environment of its own.
fn me() -> Command {
    Command::new("env")
}

fn account(uid: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args([&format!("--reuid={uid}"), &format!("--regid={uid}"), "--clear-groups"]);
    command
}

fn is_in(answer: &str) -> bool {
    let head = answer.split("\r\n\r\n").next().unwrap().to_lowercase();
    head.lines().any(|line| line.starts_with("location:") && line.contains("logintoken="))
}

/// Checks that somebody got a page that tells how the person gets in, or a refusal, and no token.
#[track_caller]
fn is_out(answer: &str) {
    assert!(!is_in(answer) && !answer.contains("loginToken="), "{answer}");
    let page = answer.contains("messagehub login-token") && answer.contains(r#"name="token""#);
    assert!(page || answer.contains("for people, not for pages"), "{answer}");
}

/// Fills the form of the page with a token.
fn fill(page: &str, host: &str, token: &str) -> String {
    let hidden = |name: &str| {
        let (_, rest) = page.split_once(&format!(r#"name="{name}" value=""#)).unwrap();
        rest.split_once('"').unwrap().0.to_owned()
    };
    let cookie = page.lines().find(|line| line.to_lowercase().starts_with("set-cookie:")).unwrap();
    let cookie = cookie.split_once(": ").unwrap().1.split(';').next().unwrap();
    let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let body = format!(
        "redirect_url={}&csrf={}&token={}",
        encode(&hidden("redirect_url")),
        encode(&hidden("csrf")),
        encode(token)
    );
    format!(
        "POST /_messagehub/login/confirm HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\
         Cookie: {cookie}\r\nContent-Type: application/x-www-form-urlencoded\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

#[tokio::test]
async fn attack_02_another_account_of_the_machine_cannot_become_the_user() {
    if !rustix::process::geteuid().is_root() {
        return skip("only root can try it as another account");
    }
    let mut node = Node::new(&[]);
    let element = format!("{}:{}", own_address(), free_port());
    node.configure(|config| {
        config["element"] = json!({"listenAddress": element, "fetch": false});
        config["login"] = json!({"localAccounts": [FRIEND]});
    });
    node.start_again().await;
    let at = node.address().to_owned();
    let element = format!("http://{element}");

    assert!(is_in(&ask(me(), &at, &get(&at, &element, BROWSER))), "whose node it is");
    let friend = ask(account(&FRIEND.to_string()), &at, &get(&at, &element, BROWSER));
    assert!(is_in(&friend), "whom the configuration names: {friend}");
    for headers in HEADERS {
        for target in [element.as_str(), "http://client.example/"] {
            is_out(&ask(account(STRANGER), &at, &get(&at, target, headers)));
        }
    }
    let page = ask(account(STRANGER), &at, &get(&at, &element, BROWSER));
    assert!(page.starts_with("HTTP/1.1 403") && page.contains("belongs to the account root"));
    is_out(&ask(account(STRANGER), &at, &fill(&page, &at, "")));
    let entered = ask(account(STRANGER), &at, &fill(&page, &at, &node.login_token().await));
    assert!(is_in(&entered), "with a token everybody is the person: {entered}");

    // The same of the status page, and of what it is told.
    let show = |path: &str| {
        format!(
            "GET {path} HTTP/1.1\r\nHost: {at}\r\nAccept: text/html\r\nConnection: close\r\n\r\n"
        )
    };
    for (path, only_the_person) in [("/", "id=\"doctor\""), ("/_messagehub/status/qr.svg", "<svg")]
    {
        assert!(ask(me(), &at, &show(path)).contains(only_the_person), "{path}");
        let stranger = ask(account(STRANGER), &at, &show(path));
        assert!(stranger.starts_with("HTTP/1.1 403"), "{stranger}");
        assert!(!stranger.contains(only_the_person), "{stranger}");
    }
    let events = ask(account(STRANGER), &at, &show("/_messagehub/status/events"));
    assert!(events.starts_with("HTTP/1.1 403") && !events.contains("event:"), "{events}");

    // Who calls himself root in a namespace of his own is still who he is.
    let mut namespace = account(STRANGER);
    namespace.args(["unshare", "--user", "--map-root-user"]);
    let mut trial = account(STRANGER);
    let possible = trial.args(["unshare", "--user", "--map-root-user", "true"]).output();
    if !possible.is_ok_and(|output| output.status.success()) {
        return skip("this machine lets no ordinary account make user namespaces");
    }
    is_out(&ask(namespace, &at, &get(&at, &element, BROWSER)));
}

#[tokio::test]
async fn attack_02_away_from_loopback_only_a_token_lets_anybody_in() {
    const HERE: &str = "10.84.50.1:8008";
    let Some(network) = Network::new(&["10.84.50.1/24", "10.84.50.2/24"]) else { return };
    for listen in [HERE, "0.0.0.0:8008"] {
        let folder = TempDir::new().unwrap();
        let config = json!({
            "listenAddress": listen,
            "element": {"listenAddress": "127.0.0.1:8009", "fetch": false},
            // Nor does it help to trust everybody who sits here.
            "login": {"localAccounts": "any"},
            "libp2p": {"mdns": false, "portMapping": false, "dht": {"bootstrapPeers": []}},
        });
        fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        let log = fs::File::create(folder.path().join("log")).unwrap();
        let mut command = network.messagehub(0, folder.path());
        let node = command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        let _node = Running(node);
        let token = || {
            let output = network.run(0, folder.path(), &["login-token"]);
            output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
        };
        eventually("a node that runs", async || token()).await;
        let log = fs::read_to_string(folder.path().join("log")).unwrap();
        let said = log.contains(listen) && log.contains("only a token of `messagehub login-token`");
        assert!(said, "the log says what it means: {log}");
        let doctor = network.run(0, folder.path(), &["doctor"]);
        let doctor = String::from_utf8(doctor.stdout).unwrap();
        let warned =
            doctor.lines().any(|line| line.starts_with("warning") && line.contains(listen));
        assert!(warned, "and so does the doctor: {doctor}");

        let machine = |number: usize| network.command(number, "env");
        let element = "http://127.0.0.1:8009";
        let mut seen = vec![(0, HERE), (1, HERE)];
        if listen != HERE {
            seen.push((0, "127.0.0.1:8008"));
        }
        for (number, at) in seen {
            for headers in HEADERS {
                for target in [element, "http://client.example/"] {
                    is_out(&ask(machine(number), at, &get(at, target, headers)));
                }
            }
            let page = ask(machine(number), at, &get(at, element, BROWSER));
            is_out(&ask(machine(number), at, &fill(&page, at, "mh_guessed")));
            let typed = fill(&page, at, token().unwrap().trim());
            let entered = ask(machine(number), at, &typed);
            assert!(is_in(&entered), "the person, from anywhere: {entered}");
            is_out(&ask(machine(number), at, &typed));
        }
    }
}
