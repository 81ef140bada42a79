//! Finding rooms: aliases, lists of public rooms, summaries and spaces, across nodes.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a failed test may panic")]

use serde_json::{Value, json};

mod common;

use common::{Client, client::segment, homes};

fn alias_of(client: &Client, name: &str) -> String {
    format!("#{name}:{}", client.user_id.split_once(':').unwrap().1)
}

fn server_of(client: &Client) -> &str {
    client.user_id.split_once(':').unwrap().1
}

fn names(rooms: &Value) -> Vec<&str> {
    rooms.as_array().unwrap().iter().map(|room| room["name"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_room_is_found_by_its_alias_and_joined_from_another_node() {
    let [mut ann, bob] = homes().await;
    let wanted = json!({"preset": "public_chat", "visibility": "public", "name": "Tea", "room_alias_name": "tea"});
    let room = ann.me.create(wanted.clone()).await;
    let alias = alias_of(&ann.me, "tea");
    ann.me.post("v3/createRoom", wanted).await.refused(400, "M_ROOM_IN_USE");
    let path = format!("v3/directory/room/{}", segment(&alias));
    for home in [&ann, &bob] {
        let found = home.me.get(&path).await.ok();
        assert_eq!(
            (&found["room_id"], &found["servers"][0]),
            (&json!(room), &json!(server_of(&ann.me)))
        );
    }
    let joined = bob.me.post(&format!("v3/join/{}", segment(&alias)), json!({})).await.ok();
    assert_eq!(joined["room_id"], json!(room));
    ann.me.sees_member(&room, &bob.me.user_id, "join").await;
    let named =
        bob.me.get(&format!("v3/rooms/{}/state/m.room.canonical_alias", segment(&room))).await;
    assert_eq!(named.ok()["alias"], json!(alias));

    // Another one: of one's own server alone, once, for who is in the room.
    let other = alias_of(&ann.me, "green tea");
    let no = format!("v3/directory/room/{}", segment(&other));
    ann.me.put(&no, json!({"room_id": room})).await.ok();
    let elsewhere = ann.me.create(json!({})).await;
    ann.me.put(&no, json!({"room_id": elsewhere})).await.refused(409, "M_UNKNOWN");
    let not_hers = format!("v3/directory/room/{}", segment(&alias_of(&bob.me, "x")));
    ann.me.put(&not_hers, json!({"room_id": room})).await.refused(400, "M_INVALID_PARAM");
    let listed = ann.me.get(&format!("v3/rooms/{}/aliases", segment(&room))).await.ok();
    assert_eq!(listed["aliases"], json!([other, alias]));

    // A room is called by what leads to it.
    let place = format!("v3/rooms/{}/state/m.room.canonical_alias/", segment(&room));
    let nowhere = json!({"alias": alias, "alt_aliases": [alias_of(&ann.me, "nowhere")]});
    ann.me.put(&place, nowhere).await.refused(400, "M_BAD_ALIAS");
    ann.me.put(&place, json!({"alias": "tea"})).await.refused(400, "M_INVALID_PARAM");
    ann.me.put(&place, json!({"alias": alias, "alt_aliases": [other]})).await.ok();

    // All of it outlives a crash.
    ann.node.kill();
    ann.node.start_again().await;
    ann.node.connected_to(&bob.me).await;
    assert_eq!(bob.me.get(&path).await.ok()["room_id"], json!(room));
    ann.me.delete(&path).await.ok();
    for home in [&ann, &bob] {
        home.me.get(&path).await.refused(404, "M_NOT_FOUND");
    }
    bob.me
        .get(&format!("v3/directory/room/{}", segment("#tea:example.org")))
        .await
        .refused(404, "M_NOT_FOUND");
}

#[tokio::test]
async fn public_rooms_are_listed_to_everybody_and_others_to_nobody() {
    let [ann, bob] = homes().await;
    for (name, topic) in [("Tea", "Oolong"), ("Coffee", "Beans")] {
        let wanted =
            json!({"preset": "public_chat", "visibility": "public", "name": name, "topic": topic});
        ann.me.create(wanted).await;
    }
    let secret = ann.me.create(json!({"preset": "public_chat", "name": "Not listed"})).await;
    let list = async |client: &Client, more: Value| {
        client.post(&format!("v3/publicRooms?server={}", server_of(&ann.me)), more).await.ok()
    };
    for client in [&ann.me, &bob.me] {
        let all = list(client, json!({})).await;
        let mut found = names(&all["chunk"]);
        found.sort_unstable();
        assert_eq!((found, &all["total_room_count_estimate"]), (vec!["Coffee", "Tea"], &json!(2)));
        let tea = list(client, json!({"filter": {"generic_search_term": "oolong"}})).await;
        assert_eq!(names(&tea["chunk"]), ["Tea"]);
        let first = list(client, json!({"limit": 1})).await;
        let second = list(client, json!({"limit": 1, "since": first["next_batch"]})).await;
        assert_ne!(names(&first["chunk"]), names(&second["chunk"]));
        assert_eq!(second.get("next_batch"), None);
    }
    assert_eq!(bob.me.get("v3/publicRooms").await.ok()["chunk"], json!([]));
    // Who may say what the room is called publishes it.
    let place = format!("v3/directory/list/room/{}", segment(&secret));
    let published = json!({"visibility": "public"});
    bob.me
        .post(
            &format!("v3/join/{}?server_name={}", segment(&secret), server_of(&ann.me)),
            json!({}),
        )
        .await
        .ok();
    bob.me.put(&place, published.clone()).await.refused(403, "M_FORBIDDEN");
    assert_eq!(ann.me.get(&place).await.ok()["visibility"], json!("private"));
    ann.me.put(&place, published).await.ok();
    assert_eq!(ann.me.get(&place).await.ok()["visibility"], json!("public"));
    assert_eq!(list(&bob.me, json!({})).await["total_room_count_estimate"], json!(3));
    ann.me.put(&place, json!({"visibility": "private"})).await.ok();
    assert_eq!(list(&bob.me, json!({})).await["total_room_count_estimate"], json!(2));
}

/// Makes a room of a space.
async fn child(of: &Client, space: &str, wanted: Value, content: Value) -> String {
    let room = of.create(wanted).await;
    let place = format!("v3/rooms/{}/state/m.space.child/{}", segment(space), segment(&room));
    let mut content = content;
    content["via"] = json!([server_of(of)]);
    of.put(&place, content).await.ok();
    room
}

#[tokio::test]
async fn a_space_shows_its_rooms_to_whom_each_lets_in() {
    let [mut ann, bob] = homes().await;
    let space = |name: &str| json!({"preset": "public_chat", "name": name, "creation_content": {"type": "m.space"}});
    let root = ann.me.create(space("Root")).await;
    let inner = child(&ann.me, &root, space("Inner"), json!({"order": "b"})).await;
    let open = json!({"preset": "public_chat", "name": "Open"});
    child(&ann.me, &root, open, json!({"order": "a", "suggested": true})).await;
    let hidden =
        child(&ann.me, &root, json!({"preset": "private_chat", "name": "Hidden"}), json!({})).await;
    child(&ann.me, &inner, json!({"preset": "public_chat", "name": "Deep"}), json!({})).await;
    // One that holds what holds it.
    let place = format!("v3/rooms/{}/state/m.space.child/{}", segment(&inner), segment(&root));
    ann.me.put(&place, json!({"via": [server_of(&ann.me)]})).await.ok();

    let path = format!("v1/rooms/{}/hierarchy", segment(&root));
    let own = ann.me.get(&path).await.ok();
    assert_eq!(names(&own["rooms"]), ["Root", "Open", "Inner", "Deep", "Hidden"]);
    assert_eq!(own["rooms"][0]["children_state"].as_array().unwrap().len(), 3);
    assert_eq!(own["rooms"][0]["room_type"], json!("m.space"));
    let shallow = ann.me.get(&format!("{path}?max_depth=1")).await.ok();
    assert_eq!(names(&shallow["rooms"]), ["Root", "Open", "Inner", "Hidden"]);
    let suggested = ann.me.get(&format!("{path}?suggested_only=true")).await.ok();
    assert_eq!(names(&suggested["rooms"]), ["Root", "Open"]);
    let mut paged = Vec::new();
    let mut next = String::new();
    loop {
        let page = ann.me.get(&format!("{path}?limit=2{next}")).await.ok();
        paged.extend(names(&page["rooms"]).into_iter().map(str::to_owned));
        let Some(token) = page["next_batch"].as_str() else { break };
        next = format!("&from={token}");
    }
    assert_eq!(paged, ["Root", "Open", "Inner", "Deep", "Hidden"]);
    let changed = format!("{path}?max_depth=1{next}");
    ann.me.get(&changed).await.refused(400, "M_INVALID_PARAM");

    // Bob is in none of them, and then in the space.
    bob.me.get(&path).await.refused(403, "M_FORBIDDEN");
    bob.me
        .post(&format!("v3/join/{}?server_name={}", segment(&root), server_of(&ann.me)), json!({}))
        .await
        .ok();
    ann.me.sees_member(&root, &bob.me.user_id, "join").await;
    let seen = bob.me.get(&path).await.ok();
    assert_eq!(names(&seen["rooms"]), ["Root", "Open", "Inner", "Deep"]);

    let summary = async |client: &Client, room: &str| {
        let path = format!("v1/room_summary/{}?via={}", segment(room), server_of(&ann.me));
        client.get(&path).await
    };
    let shown = summary(&bob.me, &inner).await.ok();
    assert_eq!((&shown["name"], shown.get("membership")), (&json!("Inner"), None));
    summary(&bob.me, &hidden).await.refused(404, "M_NOT_FOUND");
    let own = summary(&ann.me, &hidden).await.ok();
    assert_eq!((&own["name"], &own["membership"]), (&json!("Hidden"), &json!("join")));
}
