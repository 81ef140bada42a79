//! Previews of links, made by real nodes of what a stand-in for the web answers.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a failed test may panic")]

use std::{
    collections::HashMap,
    io::Cursor,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use image::{DynamicImage, ImageFormat};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

mod common;

use common::{Home, client::segment, homes};

/// A web server: answers by path, and the number of requests.
struct Web {
    base: String,
    asked: Arc<AtomicUsize>,
}

impl Web {
    async fn start(pages: impl FnOnce(&str) -> HashMap<&'static str, Vec<u8>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let (asked, pages) = (Arc::<AtomicUsize>::default(), Arc::new(pages(&base)));
        let counter = asked.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (pages, counter) = (pages.clone(), counter.clone());
                tokio::spawn(async move {
                    let mut head = vec![0; 8192];
                    let len = stream.read(&mut head).await.unwrap_or_default();
                    let head = String::from_utf8_lossy(&head[..len]).into_owned();
                    assert!(!head.to_ascii_lowercase().contains("cookie"), "{head}");
                    let path = head.split(' ').nth(1).unwrap_or_default();
                    counter.fetch_add(1, Ordering::SeqCst);
                    let none = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_vec();
                    let _ = stream.write_all(pages.get(path).unwrap_or(&none)).await;
                });
            }
        });
        Self { base, asked }
    }
}

fn answer(content_type: &str, body: &[u8]) -> Vec<u8> {
    let len = body.len();
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nContent-Length: {len}");
    [head.as_bytes(), b"\r\n\r\n", body].concat()
}

fn redirect(to: &str) -> Vec<u8> {
    format!("HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n").into_bytes()
}

async fn preview(home: &Home, url: &str) -> (u16, Value) {
    let base = home.node.base();
    let path = format!("{base}/_matrix/client/v1/media/preview_url?url={}", segment(url));
    let asked = reqwest::Client::new().get(path).bearer_auth(home.me.token()).send().await.unwrap();
    (asked.status().as_u16(), asked.json().await.unwrap())
}

async fn with_previews(home: &mut Home, wanted: &str) {
    home.node.stop().await;
    home.node.configure(|config| config["media"] = json!({"previews": wanted}));
    home.node.start_again().await;
}

#[tokio::test]
async fn nobody_is_asked_unless_the_person_wants_previews() {
    let web =
        Web::start(|_| HashMap::from([("/", answer("text/html", b"<title>t</title>"))])).await;
    let [mut ann] = homes().await;
    let (status, refused) = preview(&ann, &web.base).await;
    assert_eq!((status, &refused["errcode"]), (404, &json!("M_UNRECOGNIZED")));
    // Of the Internet, and then nothing at home is asked: neither by its address nor by its name.
    with_previews(&mut ann, "internet").await;
    let port = web.base.rsplit(':').next().unwrap();
    for at in [web.base.clone(), format!("http://localhost:{port}/"), ann.node.base()] {
        let (status, refused) = preview(&ann, &at).await;
        assert_eq!(status, 502, "{at}: {refused}");
    }
    for none in ["ftp://example.org/", "x", "http://ann:secret@example.org/"] {
        assert_eq!(preview(&ann, none).await.0, 400, "{none}");
    }
    assert_eq!(web.asked.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_link_is_shown_with_its_picture_and_the_web_is_asked_once() {
    let mut picture = Cursor::new(Vec::new());
    DynamicImage::new_rgb8(30, 20).write_to(&mut picture, ImageFormat::Png).unwrap();
    let picture = picture.into_inner();
    let web = Web::start(|base| {
        let page = format!(
            "<title>older</title><meta property='og:title' content='Tea &amp; cake'>\
             <meta property='og:image' content='{base}/hop'>"
        );
        HashMap::from([
            ("/page", answer("text/html; charset=utf-8", page.as_bytes())),
            ("/hop", redirect("/cake.png")),
            // What it is, its bytes say, not its server.
            ("/cake.png", answer("text/html", &picture)),
            ("/moved", redirect("/page")),
            ("/round", redirect("/round")),
            ("/photo", answer("image/png", &picture)),
            ("/fake", answer("image/png", b"<script>alert(1)</script>")),
            ("/film", answer("video/mp4", b"film")),
            (
                "/huge",
                b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nContent-Length: 9000000\r\n\r\n"
                    .to_vec(),
            ),
        ])
    })
    .await;
    let [mut ann, mut bob] = homes().await;
    with_previews(&mut ann, "everywhere").await;
    ann.node.connected_to(&bob.me).await;
    let (status, shown) = preview(&ann, &format!("{}/page#part", web.base)).await;
    assert_eq!((status, &shown["og:title"]), (200, &json!("Tea & cake")), "{shown}");
    let size = json!(picture.len());
    let told = ["matrix:image:size", "og:image:width", "og:image:height", "og:image:type"];
    let told = told.map(|name| shown[name].clone());
    assert_eq!(told, [size, json!(30), json!(20), json!("image/png")]);
    let uri = shown["og:image"].as_str().unwrap().strip_prefix("mxc://").unwrap().to_owned();
    let get = async |home: &Home| {
        let path = format!("{}/_matrix/client/v1/media/download/{uri}", home.node.base());
        reqwest::Client::new().get(path).bearer_auth(home.me.token()).send().await.unwrap()
    };
    let given = get(&ann).await;
    assert_eq!(given.status(), 200);
    assert_eq!(given.bytes().await.unwrap(), picture);
    // It is for those at this node.
    let room = ann.me.create(json!({"preset": "private_chat"})).await;
    ann.me.invite(&room, &bob.me.user_id).await.ok();
    bob.me.is(&room, "invite").await;
    bob.me.join(&room).await.ok();
    ann.me.sees_member(&room, &bob.me.user_id, "join").await;
    assert_eq!(get(&bob).await.status(), 404);
    // Said twice, asked once.
    let asked = web.asked.load(Ordering::SeqCst);
    assert_eq!(preview(&ann, &format!("{}/page", web.base)).await, (200, shown.clone()));
    assert_eq!((asked, web.asked.load(Ordering::SeqCst)), (3, 3));
    let moved = preview(&ann, &format!("{}/moved", web.base)).await.1;
    assert_eq!(moved["og:title"], shown["og:title"]);
    let photo = preview(&ann, &format!("{}/photo", web.base)).await.1;
    assert_eq!((&photo["og:image:width"], photo.get("og:title")), (&json!(30), None));
    for (path, status) in
        [("fake", 200), ("film", 200), ("huge", 200), ("round", 502), ("none", 502)]
    {
        let (answered, shown) = preview(&ann, &format!("{}/{path}", web.base)).await;
        assert_eq!((answered, shown.get("og:image")), (status, None), "{path}: {shown}");
    }
}
