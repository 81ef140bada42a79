//! Media over HTTP: what is uploaded, offered, refused.

use actix_web::test::TestRequest;
use serde_json::json;

use super::{
    Homeserver, Reply,
    fake::{self, other_server},
    get, logged_in, owner, post, send, served, with,
};

struct Client {
    app: Homeserver,
    token: String,
}

async fn client() -> Client {
    let (_, gateway) = fake::start().await;
    let token = logged_in(&gateway, "D").await;
    Client { app: served(gateway).await, token }
}

impl Client {
    async fn send(&self, request: TestRequest) -> Reply {
        send(&self.app, with(&self.token, request)).await
    }

    async fn upload(&self, query: &str, kind: &str, bytes: &[u8]) -> Reply {
        let request = TestRequest::post().uri(&format!("/_matrix/media/v3/upload{query}"));
        let request = request.insert_header(("Content-Type", kind)).set_payload(bytes.to_vec());
        self.send(request).await
    }

    /// Uploads, and returns where it is.
    async fn uploaded(&self, query: &str, kind: &str, bytes: &[u8]) -> String {
        let reply = self.upload(query, kind, bytes).await;
        assert_eq!(reply.status, 200, "{reply:?}");
        path_of(&reply)
    }

    async fn get(&self, path: &str) -> Reply {
        self.send(get(&format!("/_matrix/client/v1/media/{path}"))).await
    }
}

/// Returns the two parts of the name in an answer.
fn path_of(reply: &Reply) -> String {
    reply.json()["content_uri"].as_str().unwrap().strip_prefix("mxc://").unwrap().to_owned()
}

#[actix_web::test]
async fn what_was_uploaded_is_offered_as_what_it_is() {
    let me = client().await;
    let bytes: Vec<u8> = (0..700_000_u32).map(|at| at as u8).collect();
    let at = me.uploaded("?filename=cat.png", "image/png", &bytes).await;
    assert!(at.starts_with(owner().server_name().as_str()));
    let reply = me.get(&format!("download/{at}")).await;
    assert_eq!((reply.status, &reply.body), (200, &bytes));
    for (name, value) in [
        ("content-type", "image/png"),
        ("content-disposition", "inline; filename=cat.png"),
        ("x-content-type-options", "nosniff"),
        ("cross-origin-resource-policy", "cross-origin"),
        ("cache-control", "private, max-age=31536000, immutable"),
        ("access-control-allow-origin", "*"),
    ] {
        assert_eq!(reply.header(name), Some(value), "{name}");
    }
    assert!(reply.header("content-security-policy").unwrap().starts_with("sandbox;"));
    let reply = me.get(&format!("download/{at}/dog.png")).await;
    assert_eq!(reply.header("content-disposition"), Some("inline; filename=dog.png"));
    // What can hold scripts is for downloading.
    let at = me.uploaded("?filename=x.svg", "image/svg+xml", b"<svg/>").await;
    let reply = me.get(&format!("download/{at}")).await;
    assert_eq!(reply.header("content-disposition"), Some("attachment; filename=x.svg"));
    // Names of files are no headers.
    let at = me.uploaded("?filename=a%0d%0aX-Evil:%201%22", "a/b", b"").await;
    let reply = me.get(&format!("download/{at}")).await;
    assert_eq!((reply.status, reply.body.len(), reply.header("x-evil")), (200, 0, None));
}

#[actix_web::test]
async fn parts_of_files_are_offered() {
    let me = client().await;
    let bytes: Vec<u8> = (0..600_000_u32).map(|at| (at / 7) as u8).collect();
    let at = me.uploaded("", "video/mp4", &bytes).await;
    let path = format!("/_matrix/client/v1/media/download/{at}");
    let part = async |range: &str| me.send(get(&path).insert_header(("Range", range))).await;
    let reply = part("bytes=300000-300009").await;
    assert_eq!((reply.status, &reply.body[..]), (206, &bytes[300_000..300_010]));
    assert_eq!(reply.header("content-range"), Some("bytes 300000-300009/600000"));
    assert_eq!(part("bytes=-5").await.body, bytes[599_995..]);
    let reply = part("bytes=600000-").await;
    assert_eq!((reply.status, reply.header("content-range")), (416, Some("bytes */600000")));
    assert_eq!(part("bytes=0-1,5-6").await.body.len(), bytes.len());
    let tag = me.send(get(&path)).await.header("etag").unwrap().to_owned();
    let again = me.send(get(&path).insert_header(("If-None-Match", tag.as_str()))).await;
    assert_eq!((again.status, again.body.len()), (304, 0));
    let request = get(&path).insert_header(("Range", "bytes=0-0"));
    let reply = me.send(request.insert_header(("If-Range", "\"another\""))).await;
    assert_eq!((reply.status, reply.body.len()), (200, bytes.len()));
}

#[actix_web::test]
async fn nothing_is_given_out_without_a_token() {
    let me = client().await;
    let at = me.uploaded("", "image/png", b"secret").await;
    for path in ["download", "thumbnail"] {
        for root in ["/_matrix/client/v1/media", "/_matrix/media/v3", "/_matrix/media/r0"] {
            let reply = send(&me.app, get(&format!("{root}/{path}/{at}?width=1&height=1"))).await;
            let wanted = match root.contains("client") {
                true => (401, "M_MISSING_TOKEN".to_owned()),
                false => (404, "M_NOT_FOUND".to_owned()),
            };
            assert_eq!(reply.errcode(), wanted, "{root}/{path}");
        }
    }
    for request in [
        TestRequest::post().uri("/_matrix/media/v3/upload").set_payload("x"),
        TestRequest::put().uri(&format!("/_matrix/media/v3/upload/{at}")).set_payload("x"),
        get("/_matrix/client/v1/media/config"),
        get("/_matrix/media/v3/config"),
    ] {
        assert_eq!(send(&me.app, request).await.errcode(), (401, "M_MISSING_TOKEN".to_owned()));
    }
}

#[actix_web::test]
async fn an_id_that_was_given_out_is_filled_once_and_by_whom_it_is() {
    let me = client().await;
    let created = me.send(post("/_matrix/media/v1/create", &json!({}))).await;
    assert!(created.json()["unused_expires_at"].as_u64().unwrap() > 1_790_000_000_000);
    let at = path_of(&created);
    let early = me.get(&format!("download/{at}?timeout_ms=10")).await;
    assert_eq!(early.errcode(), (504, "M_NOT_YET_UPLOADED".to_owned()));
    let put = |at: &str, bytes: &'static str| {
        let request = TestRequest::put().uri(&format!("/_matrix/media/v3/upload/{at}"));
        request.insert_header(("Content-Type", "text/plain")).set_payload(bytes)
    };
    // Whoever waits gets it when it comes.
    let path = format!("download/{at}?timeout_ms=20000");
    let waits = me.get(&path);
    let fills = async {
        tokio::task::yield_now().await;
        me.send(put(&at, "hello")).await
    };
    let (got, filled) = futures::join!(waits, fills);
    assert_eq!((filled.status, filled.json()), (200, json!({})));
    assert_eq!((got.status, got.text()), (200, "hello"));
    let again = me.send(put(&at, "other")).await;
    assert_eq!(again.errcode(), (409, "M_CANNOT_OVERWRITE_MEDIA".to_owned()));
    assert_eq!(me.get(&format!("download/{at}")).await.text(), "hello");
    let mine = owner().server_name().to_owned();
    let unknown = me.send(put(&format!("{mine}/abc"), "x")).await;
    assert_eq!(unknown.errcode(), (404, "M_NOT_FOUND".to_owned()));
    let other = me.send(put(&format!("{}/abc", other_server()), "x")).await;
    assert_eq!(other.errcode(), (403, "M_FORBIDDEN".to_owned()));
}

#[actix_web::test]
async fn no_name_leads_out_of_the_folder() {
    let me = client().await;
    let mine = owner().server_name().to_owned();
    for at in [
        format!("{mine}/..%2F..%2F..%2Fetc%2Fpasswd"),
        format!("{mine}/%2e%2e"),
        format!("{mine}/a%00b"),
        "..%2F..%2Fetc/passwd".to_owned(),
        "127.0.0.1/abc".to_owned(),
        "example.org/abc".to_owned(),
        format!("{mine}/unknown"),
    ] {
        let reply = me.get(&format!("download/{at}")).await;
        assert!(matches!(reply.status, 400 | 404), "{at}: {reply:?}");
    }
}

#[actix_web::test]
async fn what_is_too_large_or_too_much_is_refused_and_leaves_nothing() {
    let me = client().await;
    let most = me.get("config").await.json()["m.upload.size"].as_u64().unwrap();
    let most = usize::try_from(most).unwrap();
    let over = me.upload("", "a/b", &vec![0; most + 1]).await;
    assert_eq!(over.errcode(), (413, "M_TOO_LARGE".to_owned()));
    // Equal files are there once, but each counts for who uploaded it.
    for _ in 0..4 {
        me.uploaded("", "a/b", &vec![1; most]).await;
    }
    let full = me.upload("", "a/b", b"one more").await;
    assert_eq!(full.errcode(), (403, "M_FORBIDDEN".to_owned()));
    assert!(full.text().contains("maxUserBytes"), "{full:?}");
}

#[test]
fn files_are_those_bodies_that_are() {
    use actix_web::http::Method;

    use crate::http::client::media::is_upload;
    for (method, path, file) in [
        (Method::POST, "/_matrix/media/v3/upload", true),
        (Method::POST, "/_matrix/media/r0/upload", true),
        (Method::PUT, "/_matrix/media/v3/upload/a/b", true),
        (Method::POST, "/_matrix/media/v1/create", false),
        (Method::PUT, "/_matrix/media/v3/upload", false),
        (Method::GET, "/_matrix/media/v3/upload/a/b", false),
        (Method::POST, "/_matrix/media/v3/uploads", false),
        (Method::POST, "/_matrix/client/v3/keys/upload", false),
        (Method::POST, "/_matrix/client/v3/login", false),
    ] {
        assert_eq!(is_upload(&method, path), file, "{method} {path}");
    }
}

#[actix_web::test]
async fn thumbnails_are_small_pictures_and_of_nothing_else() {
    use crate::actors::media::thumbnail_tests::encoded;
    let me = client().await;
    let png = encoded(500, 400, true, image::ImageFormat::Png);
    let at = me.uploaded("", "image/png", &png).await;
    let thumbnail = async |at: &str, rest: &str| me.get(&format!("thumbnail/{at}?{rest}")).await;
    for (asked, size) in [
        ("width=36&height=36&method=crop", (96, 96)),
        ("width=300&height=200&method=scale", (300, 240)),
        ("width=300&height=200", (300, 240)),
    ] {
        for _ in 0..2 {
            let reply = thumbnail(&at, asked).await;
            assert_eq!((reply.status, reply.header("content-type")), (200, Some("image/png")));
            let read = image::load_from_memory(&reply.body).unwrap();
            assert_eq!((read.width(), read.height()), size, "{asked}");
        }
    }
    let gif = encoded(50, 50, false, image::ImageFormat::Gif);
    let moves = me.uploaded("", "image/gif", &gif).await;
    let reply = thumbnail(&moves, "width=32&height=32&animated=true").await;
    assert_eq!((reply.header("content-type"), &reply.body), (Some("image/gif"), &gif));
    let reply = thumbnail(&moves, "width=32&height=32").await;
    assert_ne!(reply.header("content-type"), Some("image/gif"));
    let other = me.uploaded("", "image/png", b"no picture at all").await;
    for _ in 0..2 {
        let reply = thumbnail(&other, "width=32&height=32").await;
        assert_eq!(reply.errcode(), (400, "M_UNKNOWN".to_owned()));
    }
    assert_eq!(thumbnail(&at, "width=0&height=5").await.status, 400);
}

#[actix_web::test]
async fn what_nobody_has_is_told_so() {
    let me = client().await;
    let reply = me.get(&format!("download/{}/abc", other_server())).await;
    assert!(matches!(reply.status, 404 | 504), "{reply:?}");
}
