//! Servers that offer media and give something else: what is on the disk is what its owner signed, whoever
//! gave it, and it is bounded.

#![allow(clippy::indexing_slicing, reason = "a failed test may panic")]

use std::{cell::Cell, rc::Rc};

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};
use messagehub::proto::media::{
    Hash, MediaName, PIECE, PieceHasher, Pieces, Statement, count_of, len_of,
    piece::{Asked, Given, TICKET_LEN},
};

use super::{floods::Pen, member::Eve, *};

/// Bytes that are not the same anywhere.
fn bytes(len: usize) -> Vec<u8> {
    let number = |n: usize| (n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
    (0..len.div_ceil(8)).flat_map(number).take(len).collect()
}

fn pieces_of(bytes: &[u8]) -> Pieces {
    let mut hasher = PieceHasher::default();
    hasher.update(bytes);
    hasher.finish()
}

/// What Eve signs of media of hers.
fn sign(eve: &Eve, media_id: &str, pieces: &Pieces) -> (MediaName, Value) {
    sign_as(eve, media_id, pieces.hash, pieces.size)
}

fn sign_as(eve: &Eve, media_id: &str, hash: Hash, size: u64) -> (MediaName, Value) {
    let signer = &eve.node.signer;
    let name = MediaName::read(signer.server_name().as_str(), media_id).unwrap();
    let statement = Statement {
        name: name.clone(),
        hash,
        size,
        content_type: "image/png".to_owned(),
        file_name: None,
    };
    (name, serde_json::to_value(statement.sign(signer, now_ms()).unwrap()).unwrap())
}

/// Has a peer answer that it has media, with a list of pieces.
fn offer(eve: &mut Eve, name: &MediaName, statement: &Value, list: &[u8]) {
    let path = format!("/media/{}/{}", name.server_name, name.media_id);
    let ticket = URL_SAFE_NO_PAD.encode([7; TICKET_LEN]);
    let list = STANDARD_NO_PAD.encode(list);
    let answer = json!({"statement": statement, "ticket": ticket, "pieces": list});
    eve.serve =
        Box::new(move |request| request.uri.ends_with(&path).then(|| (200, answer.clone())));
}

/// Has a peer give pieces of bytes, each changed by `change`. Returns how often it was asked.
fn give(
    eve: &mut Eve,
    bytes: Vec<u8>,
    change: impl Fn(u64, &mut Vec<u8>) + 'static,
) -> Rc<Cell<usize>> {
    let asked = Rc::new(Cell::new(0));
    let count = Rc::clone(&asked);
    eve.give = Box::new(move |Asked { first, count: number, .. }| {
        count.set(count.get() + 1);
        let pieces = (first..first + number).filter_map(|piece| {
            let (start, len) = len_of(bytes.len() as u64, piece)?;
            let start = usize::try_from(start).unwrap();
            let mut given = bytes[start..start + len].to_vec();
            change(piece, &mut given);
            Some(given)
        });
        Given::Pieces(pieces.flatten().collect())
    });
    asked
}

/// Asks for media as a client does that waits so many seconds; returns the status, or 0, and the bytes.
async fn download(home: &Home, name: &MediaName, seconds: u64) -> (u16, Vec<u8>) {
    let url = format!(
        "{}/_matrix/client/v1/media/download/{}/{}?timeout_ms={}",
        home.node.base(),
        name.server_name,
        name.media_id,
        seconds * 1000
    );
    let request = reqwest::Client::new().get(url).bearer_auth(home.me.token());
    let Ok(answer) = request.timeout(Duration::from_secs(seconds)).send().await else {
        return (0, Vec::new());
    };
    let status = answer.status().as_u16();
    // A body that breaks off is none.
    (status, answer.bytes().await.map(|bytes| bytes.to_vec()).unwrap_or_default())
}

/// Bytes of all files that came, whole or in part.
fn on_disk(home: &Home) -> u64 {
    fn len(path: &std::path::Path) -> u64 {
        let Ok(folder) = std::fs::read_dir(path) else { return 0 };
        let each = folder.flatten().map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => len(&entry.path()),
            // What is laid out and not written takes nothing.
            Ok(meta) => std::os::unix::fs::MetadataExt::blocks(&meta) * 512,
            Err(_) => 0,
        });
        each.sum()
    }
    len(&home.node.data().join("media"))
}

/// Bob's node, and two peers who are members of a room of his.
async fn two_members(bob: &Home) -> [Eve; 2] {
    let room = bob.me.create(json!({"preset": "public_chat"})).await;
    let mut eve = Eve::meet(bob).await;
    Pen::new(&mut eve, bob, &room).await;
    let mut dave = Eve::meet(bob).await;
    eve.during(Pen::new(&mut dave, bob, &room)).await;
    [eve, dave]
}

#[tokio::test]
async fn attack_17_false_pieces_come_to_nobody_and_the_file_comes_from_who_has_it() {
    let bob = home(&[]).await;
    let [mut eve, mut dave] = Box::pin(two_members(&bob)).await;
    let content = bytes(5 * 1024 * 1024 + 77);
    let pieces = pieces_of(&content);
    // What Eve signed is true. What she gives is not: a bit is turned, pieces are swapped, short, or long.
    let lies: [fn(u64, &mut Vec<u8>); 4] = [
        |_, piece| piece[3] ^= 1,
        |number, piece| piece.rotate_left(usize::try_from(number).unwrap() + 1),
        |_, piece| piece.truncate(piece.len() - 1),
        |_, piece| piece.push(0),
    ];
    for (number, lie) in lies.into_iter().enumerate() {
        let (name, statement) = sign(&eve, &format!("lie{number}"), &pieces);
        offer(&mut eve, &name, &statement, pieces.list());
        let asked = give(&mut eve, content.clone(), lie);
        let (_, got) = dave.during(eve.during(download(&bob, &name, 4))).await;
        assert!(got.is_empty() && asked.get() > 0, "{} bytes, asked {}", got.len(), asked.get());
    }
    // One piece of twenty is false; who has the whole file is a member too.
    let (name, statement) = sign(&eve, "picture", &pieces);
    offer(&mut eve, &name, &statement, pieces.list());
    let of_eve = give(&mut eve, content.clone(), |number, piece| piece[0] ^= u8::from(number == 9));
    offer(&mut dave, &name, &statement, pieces.list());
    let of_dave = give(&mut dave, content.clone(), |_, _| {});
    let (status, got) = dave.during(eve.during(download(&bob, &name, 20))).await;
    assert_eq!(status, 200);
    assert!(got == content, "{} bytes", got.len());
    assert!(of_eve.get() > 0 && of_dave.get() > 0, "both were asked");
}

#[tokio::test]
async fn attack_17_a_list_of_pieces_is_that_of_the_file_or_none() {
    let bob = home(&[]).await;
    let [mut eve, mut dave] = Box::pin(two_members(&bob)).await;
    let content = bytes(3 * PIECE + 5);
    let pieces = pieces_of(&content);
    let (name, statement) = sign(&eve, "film", &pieces);
    let list = pieces.list().to_vec();
    let (one, rest) = list.split_at(32);
    let more = [&list[..], &[0; 32]].concat();
    let swapped = [&rest[..32], one, &rest[32..]].concat();
    let mut larger = statement.clone();
    larger["size"] = json!(pieces.size * 1000);
    let lists = [
        ("none", &statement, Vec::new()),
        ("one less", &statement, rest.to_vec()),
        ("one more", &statement, more),
        ("another order", &statement, swapped),
        ("half a hash", &statement, list[..list.len() - 7].to_vec()),
        ("very many", &statement, vec![1; 4 * 1024 * 1024]),
        ("another size", &larger, list.clone()),
    ];
    for (what, statement, list) in lists {
        offer(&mut eve, &name, statement, &list);
        let asked = give(&mut eve, content.clone(), |_, _| {});
        let (status, got) = dave.during(eve.during(download(&bob, &name, 3))).await;
        assert!(status != 200 && got != content, "{what}: {status}");
        assert_eq!(asked.get(), 0, "{what}: no piece is asked for");
    }
    // A member who lies does not hide one who does not.
    offer(&mut eve, &name, &statement, &list[32..]);
    offer(&mut dave, &name, &statement, &list);
    give(&mut dave, content.clone(), |_, _| {});
    let (status, got) = dave.during(eve.during(download(&bob, &name, 20))).await;
    assert!(status == 200 && got == content, "{status}, {} bytes", got.len());
}

#[tokio::test]
async fn attack_17_large_media_of_others_fill_no_disk() {
    const MOST: u64 = 20 * 1024 * 1024;
    let mut bob = home(&[]).await;
    bob.node.stop().await;
    bob.node.configure(|config| {
        config["media"] = json!({
            "maxUploadBytes": MOST / 2, "maxBytes": MOST, "maxUserBytes": MOST / 2,
        });
    });
    bob.node.start_again().await;
    let [mut eve, mut dave] = Box::pin(two_members(&bob)).await;
    // One that is larger than one may be, and says so; and one of a million GiB, with no list for it.
    let large = bytes(usize::try_from(MOST).unwrap());
    let pieces = pieces_of(&large);
    let (name, statement) = sign(&eve, "large", &pieces);
    offer(&mut eve, &name, &statement, pieces.list());
    let asked = give(&mut eve, large.clone(), |_, _| {});
    let (status, _) = dave.during(eve.during(download(&bob, &name, 3))).await;
    assert_ne!(status, 200);
    let huge = 1 << 50;
    let (name, statement) = sign_as(&eve, "huge", pieces.hash, huge);
    offer(&mut eve, &name, &statement, pieces.list());
    let (status, _) = dave.during(eve.during(download(&bob, &name, 3))).await;
    assert!(status != 200 && count_of(huge) > 1 << 30);
    assert_eq!(asked.get(), 0, "no piece of either is asked for");
    // Many that may be: what Eve has here stays her part, and what is older gives way.
    for number in 0..12 {
        let content = bytes(1024 * 1024 + number);
        let pieces = pieces_of(&content);
        let (name, statement) = sign(&eve, &format!("many{number}"), &pieces);
        offer(&mut eve, &name, &statement, pieces.list());
        give(&mut eve, content.clone(), |_, _| {});
        let (status, got) = dave.during(eve.during(download(&bob, &name, 10))).await;
        assert!(status == 200 && got == content, "{number}: {status}");
    }
    // Some that never come whole: the last piece of each is missing.
    for number in 0..10 {
        let content = bytes(2 * 1024 * 1024 + number);
        let pieces = pieces_of(&content);
        let (name, statement) = sign(&eve, &format!("part{number}"), &pieces);
        offer(&mut eve, &name, &statement, pieces.list());
        give(&mut eve, content, |number, piece| {
            if number >= 7 {
                piece.clear();
            }
        });
        dave.during(eve.during(download(&bob, &name, 1))).await;
    }
    let taken = on_disk(&bob);
    assert!(taken <= MOST / 4 + MOST / 16 + 2 * 1024 * 1024, "{taken} bytes of Eve's");
    let own = bob.me.create(json!({})).await;
    bob.me.send(&own, "still here").await;
}
