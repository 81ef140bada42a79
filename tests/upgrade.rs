//! Data that earlier releases made: it opens, and all is there; also where that release could not
//! go on with it. And data that is not whole: it is refused, and left as it is.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};

mod common;

use common::{Client, Node, client::segment, home, node::refused_start};

/// The access token of the device OLD in the fixture, of a user who exists nowhere else.
const OLD_TOKEN: &str = "mh_SmGbOlQugA8gewtBcw3n6J-b0RItfwZ5-EAdJ8qM_j0";

/// Lays out a node over the data folder of a release.
fn node_of(fixture: &str) -> Node {
    let node = Node::new(&[]);
    let archive = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(fixture);
    fs::create_dir(node.data()).unwrap();
    let unpacked = Command::new("tar")
        .args(["--strip-components=1", "--no-same-owner", "-xzf"])
        .arg(archive)
        .arg("-C")
        .arg(node.data())
        .status();
    assert!(unpacked.unwrap().success());
    node
}

async fn whole_sync(me: &Client) -> Value {
    me.get("v3/sync").await.ok()
}

#[tokio::test]
async fn what_the_first_release_kept_is_all_there() {
    all_is_kept(node_of("kept-e80ed5b.tar.gz")).await;
}

/// Layout 3 had one user, whom no key named.
#[tokio::test]
async fn what_layout_3_kept_is_all_there() {
    let mut node = node_of("kept-layout-3.tar.gz");
    node.start_again().await;
    let me = node.log_in().await;
    let sync = whole_sync(&me).await;
    let (room, shown) = sync["rooms"]["join"].as_object().unwrap().iter().next().unwrap();
    let tags = json!({"type": "m.tag", "content": {"tags": {"m.favourite": {"order": 0.5}}}});
    assert_eq!(shown["account_data"]["events"], json!([tags]));
    let of_user = |what: &str| format!("v3/user/{}/{what}", segment(&me.user_id));
    let filter = me.get(&of_user("filter/NwMRF1IuBGW4kGIC")).await.ok();
    assert_eq!(filter["room"]["timeline"]["limit"], 5);
    let name = format!("v3/profile/{}/displayname", segment(&me.user_id));
    assert_eq!(me.get(&name).await.ok()["displayname"], "Keeper");
    // Whoever has reacted so has done it.
    let events = shown["timeline"]["events"].as_array().unwrap();
    let reaction = events.iter().find(|event| event["type"] == "m.reaction").unwrap();
    let again = format!("v3/rooms/{}/send/m.reaction/again", segment(room));
    let again = me.put(&again, reaction["content"].clone()).await;
    assert_eq!(again.body["errcode"], "M_DUPLICATE_ANNOTATION");
    node.stop().await;
    all_is_kept(node).await;
}

/// Layout 4 had one address and one row of server_keys of a server, and knew to-device messages again by
/// their ids alone.
#[tokio::test]
async fn what_layout_4_kept_is_all_there() {
    let mut node = node_of("kept-layout-4.tar.gz");
    what_others_said_is_kept(&mut node, &["to the friend", "from the friend"]).await;
    all_is_kept(node).await;
}

/// Layout 6 had one address of a server.
#[tokio::test]
async fn what_layout_6_kept_is_all_there() {
    let mut node = node_of("kept-layout-6.tar.gz");
    let said = ["to the friend", "from the friend", "to the friend", "from another friend"];
    what_others_said_is_kept(&mut node, &said).await;
    all_is_kept(node).await;
}

/// The room with this name.
async fn named(me: &Client, name: &str) -> String {
    let sync = whole_sync(me).await;
    for room in sync["rooms"]["join"].as_object().unwrap().keys() {
        let path = format!("v3/rooms/{}/state/m.room.name", segment(room));
        if me.get(&path).await.body["name"] == name {
            return room.clone();
        }
    }
    panic!("no room is called {name}");
}

/// Who comes in now can verify what people said who are gone: their server_keys are there.
async fn what_others_said_is_kept(node: &mut Node, said: &[&str]) {
    node.start_again().await;
    let me = node.log_in().await;
    let room = named(&me, "Shared").await;
    assert_eq!(me.texts(&room).await, said);
    let who = format!("v3/rooms/{}/joined_members", segment(&room));
    let members = me.get(&who).await.ok();
    let mut guest = home(&[node]).await;
    node.connected_to(&guest.me).await;
    me.invite(&room, &guest.me.user_id).await.ok();
    guest.me.is(&room, "invite").await;
    guest.me.join(&room).await.ok();
    common::eventually("all members", async || {
        // Who came before the guest is in the state, and not always in what is shown of the history.
        let seen = guest.me.get(&who).await.ok();
        members["joined"]
            .as_object()?
            .keys()
            .all(|one| !seen["joined"][one].is_null())
            .then_some(())
    })
    .await;
    common::eventually("the history", async || {
        let texts = guest.me.texts(&room).await;
        said.iter().all(|text| texts.iter().any(|one| one == text)).then_some(())
    })
    .await;
    node.stop().await;
}

async fn all_is_kept(mut node: Node) {
    fs::set_permissions(node.data(), fs::Permissions::from_mode(0o755)).unwrap();
    let mut texts: Vec<String> = (0..25).map(|n| format!("message {n}")).collect();
    // The second start finds what the first one made of it.
    for round in 0..2 {
        node.start_again().await;
        let me = node.log_in().await;
        let room = named(&me, "Kept").await;
        assert_eq!(me.texts(&room).await, texts);
        let path = format!("v3/user/{}/account_data/org.example.kept", segment(&me.user_id));
        assert_eq!(me.get(&path).await.ok(), json!({"kept": true}));
        // The device that was logged in is so still, and its message waits.
        let url = format!("{}/_matrix/client/v3/sync", node.base());
        let old = reqwest::Client::new().get(url).bearer_auth(OLD_TOKEN).send().await.unwrap();
        let old: Value = serde_json::from_str(&old.text().await.unwrap()).unwrap();
        assert_eq!(old["to_device"]["events"][0]["content"], json!({"n": 1}));
        let text = format!("new {round}");
        me.send(&room, &text).await;
        texts.push(text);
        node.stop().await;
        let mode = |file: &str| fs::metadata(node.data().join(file)).unwrap().permissions().mode();
        for file in ["", "db", "db/db", "db/conf", "db.mark", "keys.json"] {
            assert_eq!(mode(file) & 0o077, 0, "{file}");
        }
    }
}

#[tokio::test]
async fn a_node_that_ended_at_every_sync_comes_back_with_all_its_rooms() {
    let mut node = node_of("bricked-e80ed5b.tar.gz");
    node.start_again().await;
    let me = node.log_in().await;
    let sync = whole_sync(&me).await;
    let rooms = sync["rooms"]["join"].as_object().unwrap();
    assert_eq!(rooms.len(), 2, "{:?}", rooms.keys());
    for room in rooms.keys() {
        let back = me.messages(room).await;
        let path = format!("v3/rooms/{}/messages?dir=f&limit=1000", segment(room));
        let forth = me.get(&path).await.ok();
        let mut forth: Vec<&Value> =
            forth["chunk"].as_array().unwrap().iter().map(|event| &event["event_id"]).collect();
        forth.reverse();
        let back: Vec<&Value> = back.iter().map(|event| &event["event_id"]).collect();
        assert_eq!(back, forth, "{room}");
        assert!(back.len() >= 50, "{room} has {} events", back.len());
    }
    // It lives on, and the next start too.
    let room = rooms.keys().next().unwrap();
    me.send(room, "here again").await;
    node.kill();
    node.start_again().await;
    let me = node.log_in().await;
    assert_eq!(me.texts(room).await.last().unwrap(), "here again");
}

/// All files below a folder with their contents, the socket and the lock aside.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let kind = entry.file_type().unwrap();
            match (kind.is_dir(), kind.is_file()) {
                (true, _) => folders.push(entry.path()),
                (_, true) => drop(found.insert(entry.path(), fs::read(entry.path()).unwrap())),
                _ => {}
            }
        }
    }
    found
}

/// The file that is to be named, and what is done to the folder.
type Damage = (&'static str, fn(&Path));

#[tokio::test]
async fn a_folder_that_is_not_whole_is_refused_and_left_as_it_is() {
    let mut home = home(&[]).await;
    let room = home.me.create(json!({})).await;
    for n in 0..100 {
        home.me.send(&room, &format!("{n}")).await;
    }
    home.node.stop().await;
    let (data, config) = (home.node.data(), home.node.config_file());
    // From its journal a database would be made anew (tests/safekeeping.rs).
    fs::remove_dir_all(data.join("journal")).unwrap();
    let whole = files(&data);
    let damages: [Damage; 8] = [
        ("db", |data| fs::remove_dir_all(data.join("db")).unwrap()),
        ("db", |data| fs::write(data.join("db/db"), "").unwrap()),
        ("db", |data| {
            let db = fs::read(data.join("db/db")).unwrap();
            let used = db.iter().rposition(|byte| ![0, 255].contains(byte)).unwrap();
            fs::write(data.join("db/db"), &db[..used / 2]).unwrap();
        }),
        ("db", |data| fs::write(data.join("db/conf"), "nonsense".repeat(8)).unwrap()),
        ("db.mark", |data| fs::remove_file(data.join("db.mark")).unwrap()),
        ("keys.json", |data| fs::remove_file(data.join("keys.json")).unwrap()),
        ("keys.json", |data| fs::write(data.join("keys.json"), "{").unwrap()),
        ("keys.json", |data| {
            let key = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
            let keys = json!({"identity_key": key, "verify_key": key, "encryption_key": key});
            fs::write(data.join("keys.json"), keys.to_string()).unwrap();
        }),
    ];
    for (culprit, damage) in damages {
        damage(&data);
        let before = files(&data);
        let arguments = ["--config", config.to_str().unwrap(), "--data", data.to_str().unwrap()];
        let elsewhere = tempfile::TempDir::new().unwrap();
        let (status, said) = refused_start(elsewhere.path(), &arguments).await;
        assert!(status.code().is_some_and(|code| code != 0), "{culprit}: {status}: {said}");
        assert_eq!(said.trim_end().lines().count(), 1, "{culprit}: {said}");
        let file = data.join(culprit).display().to_string();
        assert!(said.contains(&file) && !said.contains("panicked"), "{culprit}: {said}");
        let remedies = ["restore", "put back"];
        assert!(remedies.iter().any(|remedy| said.contains(remedy)), "{culprit}: {said}");
        assert!(files(&data) == before, "{culprit}: something was written");
        fs::remove_dir_all(data.join("db")).ok();
        for (file, bytes) in &whole {
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, bytes).unwrap();
        }
    }
    home.node.start_again().await;
    assert_eq!(home.me.texts(&room).await.len(), 100);
}

/// Copies a folder as `cp -r` does.
fn copy(from: &Path, to: &Path) {
    for (file, bytes) in files(from) {
        let to = to.join(file.strip_prefix(from).unwrap());
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::write(to, bytes).unwrap();
    }
}

#[tokio::test]
async fn of_two_copies_of_a_node_the_older_ends_and_says_why() {
    let friend = home(&[]).await;
    let mut first = home(&[&friend.node]).await;
    first.node.connected_to(&friend.me).await;
    let room = first.me.create_with(&[&friend.me]).await;
    let mut member = friend.me.clone();
    member.is(&room, "invite").await;
    friend.me.join(&room).await.ok();
    first.me.sees_member(&room, &friend.me.user_id, "join").await;
    // It is copied while it is stopped, and both are started.
    first.node.stop().await;
    let mut second = Node::new(&friend.node.addresses().await);
    copy(&first.node.data(), &second.data());
    first.node.start_again().await;
    first.node.connected_to(&friend.me).await;
    // Its own server_keys of before come back to it, and that is no reason to end.
    first.me.send(&room, "all is well").await;
    second.start_again().await;
    let status = first.node.ends().await;
    assert_eq!(status.code(), Some(76), "{}", first.node.log());
    assert!(first.node.log().contains("a copy of this data folder"), "{}", first.node.log());
    let doctor = first.node.run(&["doctor", "--json"]).await;
    let said = String::from_utf8(doctor.stdout).unwrap();
    assert!(said.contains("a copy of this data folder"), "{said}");
    // The newer one goes on.
    let me = second.log_in().await;
    me.send(&room, "from the second").await;
    member.reads(&room, "from the second").await;
}

/// A disk of a few MiB, until it is dropped.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Option<Self> {
        let disk = Self(tempfile::TempDir::new().unwrap());
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=4m", "none"]).arg(disk.0.path());
        mount.status().is_ok_and(|status| status.success()).then_some(disk)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[tokio::test]
async fn a_full_disk_is_told_in_a_line() {
    if !rustix::process::geteuid().is_root() {
        return common::skip("making a small disk needs root");
    }
    let Some(disk) = SmallDisk::mount() else {
        return common::skip("a small disk cannot be mounted here");
    };
    let node = Node::new(&[]);
    let data = disk.0.path().join("data");
    fs::create_dir(&data).unwrap();
    let mut rest = fs::File::create(disk.0.path().join("rest")).unwrap();
    while rest.write_all(&[0; 4096]).is_ok() {}
    let config = node.config_file();
    let arguments = ["--config", config.to_str().unwrap(), "--data", data.to_str().unwrap()];
    let elsewhere = tempfile::TempDir::new().unwrap();
    let (status, said) = refused_start(elsewhere.path(), &arguments).await;
    assert!(status.code().is_some_and(|code| code != 0), "{status}: {said}");
    assert_eq!(said.trim_end().lines().count(), 1, "{said}");
    assert!(said.contains("is full") && said.contains(data.to_str().unwrap()), "{said}");
}
