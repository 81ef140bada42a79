//! The servers on real sockets: Element, its configuration, and stopping.

use std::{path::Path, time::Duration};

use tokio::sync::watch;

use super::{fake, logged_in};
use crate::{
    actors::{
        element::Work,
        http_gateway::{Drain, HttpGatewayActor, bind, start},
    },
    config::Config,
};

struct Served {
    homeserver: String,
    element: String,
    token: String,
    server: actix::Addr<HttpGatewayActor>,
    _data: tempfile::TempDir,
}

async fn served(prepare: impl FnOnce(&Path)) -> Served {
    let data = tempfile::tempdir().unwrap();
    prepare(data.path());
    let file = data.path().join("config.json");
    let config = r#"{"listenAddress":"127.0.0.1:0","element":{"listenAddress":"127.0.0.1:0"}}"#;
    std::fs::write(&file, config).unwrap();
    let bound = bind(&Config::load(Some(&file)).unwrap()).unwrap();
    let homeserver = format!("http://{}", bound.homeserver());
    let element = format!("http://{}", bound.element().unwrap());
    let (_, gateway) = fake::start().await;
    let token = logged_in(&gateway, "D").await;
    let work = watch::Sender::new(Work::None);
    let server = start(bound, gateway, data.path(), work.subscribe());
    Served { homeserver, element, token, server, _data: data }
}

fn with_element(data: &Path) {
    let bundles = data.join("element/bundles/0123456789abcdef");
    std::fs::create_dir_all(&bundles).unwrap();
    std::fs::write(data.join("element/index.html"), "<title>Element</title>").unwrap();
    std::fs::write(bundles.join("init.js"), "0123456789").unwrap();
    std::fs::write(data.join("identity.key"), "secret").unwrap();
}

#[actix_web::test]
async fn element_is_served_with_a_configuration_that_points_here() {
    let served = served(with_element).await;
    let client = reqwest::Client::new();
    let get = |path: &str| client.get(format!("{}{path}", served.element));
    let index = get("/").send().await.unwrap();
    assert_eq!(index.headers()["cache-control"], "no-cache");
    assert_eq!(index.headers()["x-content-type-options"], "nosniff");
    assert!(
        index.headers()["content-security-policy"].to_str().unwrap().contains("frame-ancestors")
    );
    assert!(index.text().await.unwrap().contains("Element"));
    for path in ["/config.json", "/config.127.0.0.1.json?cachebuster=1"] {
        let config: serde_json::Value = get(path).send().await.unwrap().json().await.unwrap();
        let server = &config["default_server_config"]["m.homeserver"]["base_url"];
        assert_eq!(*server, served.homeserver, "{path}");
        assert_eq!(config["disable_custom_urls"], true);
        // Nobody is told, by a look-up of the server name, who opened Element.
        assert_eq!(config["enable_client_well_known_lookups"], false);
        assert!(config.get("default_server_name").is_none());
        assert!(config.pointer("/default_server_config/m.homeserver/server_name").is_none());
    }
    let bundle = "/bundles/0123456789abcdef/init.js";
    let whole = get(bundle).send().await.unwrap();
    assert!(whole.headers()["cache-control"].to_str().unwrap().contains("immutable"));
    let etag = whole.headers()["etag"].clone();
    assert!(whole.headers().contains_key("last-modified"));
    let same = get(bundle).header("If-None-Match", etag).send().await.unwrap();
    assert_eq!(same.status(), 304);
    let part = get(bundle).header("Range", "bytes=2-4").send().await.unwrap();
    assert_eq!(part.status(), 206);
    assert_eq!(part.text().await.unwrap(), "234");
    for path in ["/../identity.key", "/..%2Fidentity.key", "/bundles/", "/nothing.js"] {
        assert_eq!(get(path).send().await.unwrap().status(), 404, "{path}");
    }
    for method in ["POST", "PUT", "DELETE", "TRACE", "PATCH"] {
        let request = client.request(method.parse().unwrap(), format!("{}/", served.element));
        let refused = request.send().await.unwrap();
        assert_eq!(refused.status(), 405, "{method}");
        assert_eq!(refused.headers()["allow"], "GET, HEAD");
    }
    let head = client.head(format!("{}/", served.element)).send().await.unwrap();
    assert_eq!(head.status(), 200);
    let foreign = get("/").header("Host", "evil.example").send().await.unwrap();
    assert_eq!(foreign.status(), 403);
    served.server.send(Drain).await.unwrap();
}

#[actix_web::test]
async fn without_element_a_page_says_what_to_do() {
    let served = served(|_| ()).await;
    let page = reqwest::get(&served.element).await.unwrap();
    assert_eq!(page.status(), 200);
    let page = page.text().await.unwrap();
    assert!(page.contains(&served.homeserver) && page.contains("element-v1.12.24"), "{page}");
    served.server.send(Drain).await.unwrap();
}

#[actix_web::test]
async fn stopping_ends_those_who_wait() {
    let served = served(|_| ()).await;
    let client = reqwest::Client::new();
    let sync = |query: String| {
        let url = format!("{}/_matrix/client/v3/sync{query}", served.homeserver);
        client.get(url).bearer_auth(&served.token).send()
    };
    let first: serde_json::Value = sync(String::new()).await.unwrap().json().await.unwrap();
    let since = first["next_batch"].as_str().unwrap();
    let waiting = sync(format!("?since={since}&timeout=60000"));
    let stopping = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        served.server.send(Drain).await.unwrap();
    };
    let both = futures::future::join(waiting, stopping);
    let (waited, ()) = tokio::time::timeout(Duration::from_secs(5), both).await.unwrap();
    assert_eq!(waited.unwrap().status(), 200, "those who wait get an answer");
    assert!(client.get(&served.homeserver).send().await.is_err(), "nobody is let in any more");
}

#[actix_web::test]
async fn an_answer_waits_for_the_body_that_it_refuses() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let served = served(|_| ()).await;
    let address = served.homeserver.trim_start_matches("http://");
    for (path, expected) in [("createRoom", "401"), ("no_such", "404"), ("versions", "404")] {
        let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
        let head = format!(
            "POST /_matrix/client/v3/{path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: 2\r\n\r\n"
        );
        socket.write_all(head.as_bytes()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        socket.write_all(b"{}").await.unwrap();
        let mut answer = vec![0; 1024];
        let len = socket.read(&mut answer).await.unwrap();
        let answer = String::from_utf8_lossy(&answer[..len]).to_lowercase();
        assert!(answer.starts_with(&format!("http/1.1 {expected}")), "{path}: {answer}");
        assert!(!answer.contains("connection: close"), "{path}: {answer}");
    }
    served.server.send(Drain).await.unwrap();
}
