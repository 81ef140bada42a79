//! Media between real nodes: fetched from who has them, by who may have them, over breaks and carriers.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a failed test may panic")]

use std::{fs, path::Path};

use reqwest::{Response, header::RANGE};
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt as _, net::TcpStream};

mod common;

use common::{Home, PATIENCE, eventually, home, homes};

/// Bytes that are not the same anywhere.
fn bytes(len: usize, seed: u32) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()
    };
    (0..len.div_ceil(4)).flat_map(|_| next()).take(len).collect()
}

fn request(home: &Home, method: reqwest::Method, path: &str) -> reqwest::RequestBuilder {
    let url = format!("{}/_matrix/{path}", home.node.base());
    let client = reqwest::Client::new().request(method, url);
    client.bearer_auth(home.me.token()).timeout(PATIENCE)
}

async fn upload(home: &Home, kind: &str, bytes: Vec<u8>) -> String {
    let request = request(home, reqwest::Method::POST, "media/v3/upload?filename=it.png");
    let answer = request.header("content-type", kind).body(bytes).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let answer: Value = answer.json().await.unwrap();
    answer["content_uri"].as_str().unwrap().strip_prefix("mxc://").unwrap().to_owned()
}

async fn download(home: &Home, at: &str, timeout_ms: u64) -> Response {
    let path = format!("client/v1/media/download/{at}?timeout_ms={timeout_ms}");
    request(home, reqwest::Method::GET, &path).send().await.unwrap()
}

/// Asks until it is there.
async fn comes(home: &Home, at: &str) -> Vec<u8> {
    eventually("the file", async || {
        let answer = download(home, at, 20_000).await;
        let here = answer.status() == 200;
        let bytes = answer.bytes().await.ok()?;
        here.then(|| bytes.to_vec())
    })
    .await
}

async fn share_a_room(ann: &mut Home, others: &mut [&mut Home]) -> String {
    let room = ann.me.create(json!({"preset": "private_chat"})).await;
    for other in others {
        ann.me.invite(&room, &other.me.user_id).await.ok();
        other.me.is(&room, "invite").await;
        other.me.join(&room).await.ok();
        ann.me.sees_member(&room, &other.me.user_id, "join").await;
    }
    room
}

fn files_in(folder: &Path) -> usize {
    fs::read_dir(folder).map_or(0, |files| files.count())
}

#[tokio::test]
async fn a_picture_comes_to_room_mates_and_to_nobody_else() {
    let [mut ann, mut bob, eve] = homes().await;
    share_a_room(&mut ann, &mut [&mut bob]).await;
    let (small, large) = (bytes(1000, 1), bytes(9_000_000, 2));
    for content in [&small, &large] {
        let at = upload(&ann, "image/png", content.clone()).await;
        let answer = download(&bob, &at, 20_000).await;
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["content-type"], "image/png");
        assert_eq!(answer.headers()["content-disposition"], "inline; filename=it.png");
        assert!(answer.bytes().await.unwrap() == **content);
        // Again, from the disk, and a part of it.
        let path = format!("client/v1/media/download/{at}");
        let part = request(&bob, reqwest::Method::GET, &path).header(RANGE, "bytes=500-599");
        let part = part.send().await.unwrap();
        assert_eq!(
            (part.status().as_u16(), &part.bytes().await.unwrap()[..]),
            (206, &content[500..600])
        );
        let head = request(&bob, reqwest::Method::HEAD, &path).send().await.unwrap();
        assert_eq!(head.headers()["content-length"], content.len().to_string());
        let refused = download(&eve, &at, 5_000).await;
        assert!(matches!(refused.status().as_u16(), 404 | 504), "{refused:?}");
    }
    // But the picture that Ann shows of herself is for all who find her.
    let at = upload(&ann, "image/png", bytes(2000, 3)).await;
    let path = format!("v3/profile/{}/avatar_url", ann.me.user_id);
    ann.me.put(&path, json!({"avatar_url": format!("mxc://{at}")})).await.ok();
    assert!(comes(&eve, &at).await == bytes(2000, 3));
    let status = bob.node.status().await.unwrap();
    assert_eq!(status["media"]["media"], 2, "{status}");
}

#[tokio::test]
async fn who_has_a_picture_gives_it_while_its_owner_is_off() {
    let [mut ann, mut bob, mut cleo] = homes().await;
    share_a_room(&mut ann, &mut [&mut bob, &mut cleo]).await;
    let content = bytes(3_000_000, 4);
    let at = upload(&ann, "video/mp4", content.clone()).await;
    assert!(comes(&bob, &at).await == content);
    let nobody_has = upload(&ann, "video/mp4", bytes(10, 5)).await;
    ann.node.stop().await;
    assert!(comes(&cleo, &at).await == content);
    let missing = download(&cleo, &nobody_has, 3_000).await;
    assert!(matches!(missing.status().as_u16(), 404 | 504), "{missing:?}");
    // When she is back, what she alone has comes too.
    ann.node.start_again().await;
    cleo.node.connected_to(&ann.me).await;
    assert!(comes(&cleo, &nobody_has).await == bytes(10, 5));
}

#[tokio::test]
async fn a_download_goes_on_after_kill_9_of_either_side() {
    let [mut ann, mut bob] = homes().await;
    share_a_room(&mut ann, &mut [&mut bob]).await;
    let content = bytes(200_000_000, 6);
    let at = upload(&ann, "video/mp4", content.clone()).await;
    // Killed in the middle of an upload, nothing is left of it.
    let address = ann.node.base().strip_prefix("http://").unwrap().to_owned();
    let mut half = TcpStream::connect(&address).await.unwrap();
    let head = format!(
        "POST /_matrix/media/v3/upload HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {}\r\n\
         Content-Length: 50000000\r\n\r\n",
        ann.me.token()
    );
    half.write_all(head.as_bytes()).await.unwrap();
    half.write_all(&vec![7; 3_000_000]).await.unwrap();
    let coming = ann.node.data().join("media/coming");
    eventually("an upload", async || (files_in(&coming) > 0).then_some(())).await;

    let mut answer = download(&bob, &at, 20_000).await;
    assert_eq!(answer.status(), 200);
    let mut got = 0;
    while got < 2_000_000 {
        got += answer.chunk().await.unwrap().unwrap().len();
    }
    bob.node.kill();
    ann.node.kill();
    let parts = bob.node.data().join("media/parts");
    assert_eq!(files_in(&parts), 1);
    ann.node.start_again().await;
    bob.node.start_again().await;
    assert_eq!(files_in(&coming), 0);
    assert_eq!(files_in(&parts), 1, "what came is kept");
    bob.node.connected_to(&ann.me).await;
    assert!(comes(&bob, &at).await == content);
    assert_eq!(files_in(&parts), 0);
    // And is there for good.
    bob.node.kill();
    ann.node.stop().await;
    bob.node.start_again().await;
    assert!(comes(&bob, &at).await == content);
}

/// Ann's node and Cleo's cannot connect; Bob's knows both.
#[tokio::test]
async fn a_picture_comes_through_a_friend() {
    let [mut ann, mut cleo] = [home(&[]).await, home(&[]).await];
    let mut bob = home(&[]).await;
    let peer_id =
        async |home: &Home| home.node.addresses().await[0].rsplit('/').next().unwrap().to_owned();
    let (of_ann, of_cleo) = (peer_id(&ann).await, peer_id(&cleo).await);
    let known = bob.node.addresses().await;
    for (friend, other) in [(&mut ann, of_cleo), (&mut cleo, of_ann)] {
        friend.node.stop().await;
        friend.node.configure(|config| {
            config["libp2p"]["blockedPeers"] = json!([other]);
            config["libp2p"]["dht"]["bootstrapPeers"] = json!(known);
        });
        friend.node.start_again().await;
        friend.node.connected_to(&bob.me).await;
        share_a_room(&mut bob, &mut [friend]).await;
    }
    share_a_room(&mut ann, &mut [&mut cleo]).await;
    let content = bytes(700_000, 7);
    let at = upload(&ann, "image/jpeg", content.clone()).await;
    assert!(comes(&cleo, &at).await == content);
    let of_bob = bob.node.status().await.unwrap()["media"]["media"].clone();
    assert_eq!(of_bob, 0, "who carries keeps nothing");
}
