//! Keys of a thousand devices, and a thousand messages to devices: `cargo bench --bench keys`. Prints a Markdown
//! table for `benches/README.md`; never judges.
//!
//! Queries are made of DeviceKeys over a real Store, rendered as HTTP would; messages go from one real node
//! to another on loopback. About a minute.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::print_stdout, reason = "a bench")]

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::{Duration, Instant},
};

use actix::{Actor, Addr, Context, Handler, MessageResult, System};
use messagehub::{
    actors::{
        cpu::Cpu,
        device_keys::{
            DeviceKeysActor, DeviceKeysLinks, FoundKeys, KeysIssued, QueryKeys, UploadKeys,
        },
        identity::FindServerKeys,
        outbox::{OutboxError, Owe},
        rendezvous::ReadProven,
        store::{
            Close, FindRoommates, ReadServersOf, ReadServersWith, Roommates, StoreActor,
            StoreError, start,
        },
        upward::{FederationError, SendFederation},
    },
    proto::endpoint::Endpoint,
};
use ruma::{CanonicalJsonValue, OwnedServerName, OwnedUserId};
use serde_json::{Value, json};

#[path = "../tests/common/mod.rs"]
mod common;

use common::{Client, client::segment, device::Device, homes};

const USERS: usize = 100;
const DEVICES_EACH: usize = 10;
const QUERIES: usize = 20;
const MESSAGES: usize = 1000;
const LANES: usize = 8;

fn row(what: &str, value: impl std::fmt::Display) {
    println!("| {what} | {value} |");
}

fn median(mut times: Vec<Duration>) -> String {
    times.sort();
    format!("{:.1} ms", times[times.len() / 2].as_secs_f64() * 1e3)
}

/// All other actors: everybody is a room-mate since always, and each server answers at once.
struct Others(HashMap<String, Value>);

impl Actor for Others {
    type Context = Context<Self>;
}

impl Handler<SendFederation> for Others {
    type Result = Result<CanonicalJsonValue, FederationError>;

    fn handle(&mut self, msg: SendFederation, _: &mut Context<Self>) -> Self::Result {
        let answer = self.0.get(&msg.endpoint.uri).cloned();
        let answer = answer.ok_or(FederationError::Unreachable(msg.destination))?;
        Ok(CanonicalJsonValue::try_from(answer).unwrap())
    }
}

impl Handler<FindRoommates> for Others {
    type Result = Result<Roommates, StoreError>;

    fn handle(&mut self, msg: FindRoommates, _: &mut Context<Self>) -> Self::Result {
        let since = msg.users.into_keys().map(|user_id| (user_id, 0)).collect();
        Ok(Roommates { position: 1, since })
    }
}

impl Handler<ReadServersOf> for Others {
    type Result = Result<BTreeSet<OwnedServerName>, StoreError>;

    fn handle(&mut self, _: ReadServersOf, _: &mut Context<Self>) -> Self::Result {
        Ok(BTreeSet::new())
    }
}

impl Handler<ReadServersWith> for Others {
    type Result = Result<BTreeSet<OwnedServerName>, StoreError>;

    fn handle(&mut self, _: ReadServersWith, _: &mut Context<Self>) -> Self::Result {
        Ok(BTreeSet::new())
    }
}

impl Handler<FindServerKeys> for Others {
    type Result = MessageResult<FindServerKeys>;

    fn handle(&mut self, _: FindServerKeys, _: &mut Context<Self>) -> Self::Result {
        MessageResult(HashMap::new())
    }
}

impl Handler<ReadProven> for Others {
    type Result = MessageResult<ReadProven>;

    fn handle(&mut self, _: ReadProven, _: &mut Context<Self>) -> Self::Result {
        MessageResult(Vec::new())
    }
}

impl Handler<KeysIssued> for Others {
    type Result = ();

    fn handle(&mut self, _: KeysIssued, _: &mut Context<Self>) {}
}

impl Handler<Owe> for Others {
    type Result = Result<(), OutboxError>;

    fn handle(&mut self, _: Owe, _: &mut Context<Self>) -> Self::Result {
        Ok(())
    }
}

async fn start_keys(store: &Addr<StoreActor>, others: &Addr<Others>) -> Addr<DeviceKeysActor> {
    let links = DeviceKeysLinks {
        write_rows: store.clone().recipient(),
        read_row: store.clone().recipient(),
        read_rows: store.clone().recipient(),
        scan_rows: store.clone().recipient(),
        scan_page: store.clone().recipient(),
        roommates: others.clone().recipient(),
        servers_of: others.clone().recipient(),
        servers_with: others.clone().recipient(),
        find_keys: others.clone().recipient(),
        proven: others.clone().recipient(),
        keys_issued: others.clone().recipient(),
        cpu: Cpu::start().unwrap(),
        federation: others.clone().recipient(),
        owe: others.clone().recipient(),
    };
    DeviceKeysActor::start_loaded(links).await.unwrap()
}

fn user(server: &str, number: usize) -> OwnedUserId {
    format!("@user{number}:{server}").try_into().unwrap()
}

fn devices_of(user_id: &OwnedUserId) -> Vec<Device> {
    (0..DEVICES_EACH).map(|n| Device::new(user_id.as_str(), &format!("DEVICE{n}"))).collect()
}

/// Asks for all devices of users, and makes of it what a client gets.
async fn query(keys: &Addr<DeviceKeysActor>, by: &OwnedUserId, users: &[OwnedUserId]) -> Duration {
    let start = Instant::now();
    let ask = QueryKeys {
        by: by.clone(),
        device_keys: users.iter().map(|user_id| (user_id.clone(), Vec::new())).collect(),
        timeout: Duration::from_secs(30),
    };
    let FoundKeys { device_keys, .. } = keys.send(ask).await.unwrap().unwrap();
    let body = serde_json::to_vec(&json!({ "device_keys": device_keys })).unwrap();
    let took = start.elapsed();
    let count: usize = device_keys.values().map(BTreeMap::len).sum();
    assert_eq!(count, USERS * DEVICES_EACH);
    assert!(body.len() > 500_000);
    took
}

/// A thousand devices of a hundred people, here and elsewhere.
async fn queries() {
    let own = "bahwqceragr2q7gf5lh6pzfdnurnkvputhpqvjjfvbfhbysv7ikdgkbptzf7a";
    let by = user(own, 0);
    let other = messagehub_name();
    let people =
        |server: &str| -> Vec<OwnedUserId> { (0..USERS).map(|n| user(server, n)).collect() };
    let (ours, theirs) = (people(own), people(&other));
    let mut answers = HashMap::new();
    for user_id in &theirs {
        let devices = devices_of(user_id)
            .into_iter()
            .map(|device| json!({"device_id": device.device_id, "keys": device.keys()}));
        let devices: Vec<Value> = devices.collect();
        let answer = json!({"user_id": user_id, "stream_id": 1, "devices": devices});
        answers.insert(Endpoint::user_devices(user_id).uri, answer);
    }
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let store = start(folder.path()).unwrap();
    let others = Others(answers).start();
    let keys = start_keys(&store, &others).await;
    for user_id in &ours {
        for device in devices_of(user_id) {
            let upload = UploadKeys {
                user_id: user_id.clone(),
                device_id: device.device_id.clone(),
                display_name: None,
                device_keys: Some(serde_json::from_value(device.keys()).unwrap()),
                one_time_keys: BTreeMap::new(),
                fallback_keys: BTreeMap::new(),
            };
            keys.send(upload).await.unwrap().unwrap();
        }
    }
    let first = query(&keys, &by, &theirs).await;
    row(
        "`keys/query` for 1,000 devices of 100 people elsewhere, asked for and kept",
        median(vec![first]),
    );
    for (what, users) in [("elsewhere, known", &theirs), ("of this node", &ours)] {
        let mut times = Vec::new();
        for _ in 0..QUERIES {
            times.push(query(&keys, &by, users).await);
        }
        row(&format!("`keys/query` for 1,000 devices of 100 people {what}"), median(times));
    }
    store.send(Close).await.unwrap().unwrap();
}

/// Returns the name of another server of this network.
fn messagehub_name() -> String {
    use messagehub::proto::signer::SecretKeys;
    let keys = SecretKeys { identity: [9; 32], verify: [9; 32], encryption: [9; 32] };
    keys.server_name().to_string()
}

/// Takes what comes to a device until it is so many.
async fn hear(mut me: Client, count: usize) -> usize {
    let (mut heard, deadline) = (0, Instant::now() + common::PATIENCE);
    while heard < count && Instant::now() < deadline {
        let news = me.sync(Duration::from_secs(2)).await;
        heard += news["to_device"]["events"].as_array().map_or(0, Vec::len);
    }
    heard
}

/// A thousand messages, each sent by a request of its own, until they are on the device of the other node.
async fn messages() {
    let [ann, mut bob] = homes().await;
    let room = ann.me.create_with(&[&bob.me]).await;
    bob.me.is(&room, "invite").await;
    bob.me.join(&room).await.ok();
    bob.me.sync(Duration::ZERO).await;
    let hearing = tokio::spawn(hear(bob.me.clone(), MESSAGES));
    let start = Instant::now();
    let lanes = (0..LANES).map(|lane| {
        let (me, to) = (ann.me.clone(), bob.me.user_id.clone());
        tokio::spawn(async move {
            for number in (lane..MESSAGES).step_by(LANES) {
                let path =
                    format!("v3/sendToDevice/m.room.encrypted/{}", segment(&number.to_string()));
                let content = json!({"ciphertext": "x".repeat(700), "number": number});
                me.put(&path, json!({"messages": {&to: {"*": content}}})).await.ok();
            }
        })
    });
    for lane in lanes.collect::<Vec<_>>() {
        lane.await.unwrap();
    }
    let sent = start.elapsed();
    let heard = hearing.await.unwrap();
    let took = start.elapsed();
    row("1,000 messages to a device of another node: accepted, 8 at once", median(vec![sent]));
    row(&format!("... until {heard} of them were there"), median(vec![took]));
}

fn main() {
    // What cargo passes on names no part of this.
    println!("| Work | Figure |\n|---|---|");
    System::new().block_on(queries());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(messages());
}
