//! StatusPage over one actor that plays all others and counts what it is asked.

use std::{sync::Arc, time::Duration};

use actix::{Actor, Addr, Context, Handler, Message, MessageResult};
use ruma::{OwnedUserId, events::room::member::MembershipState, owned_room_id, owned_server_name};
use serde_json::Value;
use tokio::sync::watch;

use super::{StatusPageActor, StatusPageLinks, WatchStatus, Watched, WindowsFull};
use crate::{
    actors::{
        accounts::ListPeople,
        admission::Admission,
        beat::ReadSilent,
        element::Work,
        gossip::ReadRoomMeshes,
        http_gateway,
        identity::ReadSigner,
        media::{MediaStatus, ReadMedia},
        meeting::{CountHolders, Holders},
        outbox::{CountOwed, OutboxStatus, OwedCount, ReadOutbox},
        relay_request::ReadClock,
        rendezvous::ReadNetwork,
        room_state::{CountRooms, ListRooms, ReadServers, RoomCounts, ServersIn},
        store::{ReadFaces, ReadHeads, RoomFace},
        swarm::{NetworkStatus, QueueCounts, ReadQueues},
    },
    config::{Config, limits},
    meters::Meters,
    proto::{server_keys::tests::secret_keys, signer::Signer},
    status::StatusLinks,
};

/// Everybody else; there is one room, with these heads.
struct Everybody {
    asked: usize,
    faces: usize,
    heads: Vec<&'static str>,
}

impl Actor for Everybody {
    type Context = Context<Self>;
}

/// How often everybody, and the Store for what rooms look like, was asked.
#[derive(Message)]
#[rtype(result = "(usize, usize)")]
struct Asked;

/// Something is said in the room.
#[derive(Message)]
#[rtype(result = "()")]
struct Speak;

macro_rules! answers {
    ($($message:ident => |$all:ident, $ask:ident| $answer:expr;)*) => {$(
        impl Handler<$message> for Everybody {
            type Result = MessageResult<$message>;

            fn handle(&mut self, $ask: $message, _: &mut Context<Self>) -> Self::Result {
                let $all = self;
                MessageResult($answer)
            }
        }
    )*};
}

fn signer() -> Arc<Signer> {
    Arc::new(Signer::new(&secret_keys(1), &[], 1_790_000_000_000).unwrap())
}

answers! {
    Asked => |all, _ask| (all.asked, all.faces);
    Speak => |all, _ask| all.heads = vec!["$new"];
    ReadSilent => |all, _ask| { all.asked += 1; Vec::new() };
    ReadSigner => |_all, _ask| Some(signer());
    ReadNetwork => |_all, _ask| NetworkStatus::default();
    CountRooms => |_all, _ask| RoomCounts { joined: 1, invited: 0, live: 0 };
    ReadClock => |_all, _ask| None;
    ListPeople => |_all, _ask| Vec::new();
    CountOwed => |_all, _ask| OwedCount::default();
    ReadMedia => |_all, _ask| MediaStatus::default();
    ReadOutbox => |_all, _ask| OutboxStatus::default();
    ListRooms => |_all, _ask| vec![
        (owned_room_id!("!in:x"), MembershipState::Join),
        (owned_room_id!("!left:x"), MembershipState::Leave),
    ];
    ReadServers => |_all, ask| ask.0.into_iter().map(|room_id| {
        let servers = vec![owned_server_name!("bob")];
        ServersIn { room_id, servers, is_joined: true }
    }).collect();
    ReadHeads => |all, ask| Ok(ask.0.into_iter().map(|room_id| {
        let heads = all.heads.iter().map(|id| ruma::OwnedEventId::try_from(*id).unwrap());
        (room_id, heads.collect())
    }).collect());
    ReadFaces => |all, ask| {
        all.faces += 1;
        Ok(ask.0.into_iter().map(|room_id| RoomFace {
            room_id,
            name: Some("Garden".to_owned()),
            joined: 2,
            people: vec![(OwnedUserId::try_from("@p2p:bob").unwrap(), Some("Bob".to_owned()))],
        }).collect())
    };
    CountHolders => |_all, ask| ask.0.iter().map(|_| Holders { have: 1, met: 0 }).collect();
    ReadRoomMeshes => |_all, ask| ask.0.iter().map(|_| Vec::new()).collect();
    ReadQueues => |_all, _ask| QueueCounts::default();
}

fn start() -> (Addr<StatusPageActor>, Addr<Everybody>, tempfile::TempDir) {
    let all = Everybody { asked: 0, faces: 0, heads: vec!["$old"] }.start();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.json");
    let config = r#"{"listenAddress":"127.0.0.1:0","element":{"listenAddress":null}}"#;
    std::fs::write(&file, config).unwrap();
    let bound = http_gateway::bind(&Config::load(Some(&file)).unwrap()).unwrap();
    let links = StatusPageLinks {
        status: StatusLinks {
            silent: all.clone().recipient(),
            signer: all.clone().recipient(),
            network: all.clone().recipient(),
            rooms: all.clone().recipient(),
            clock: all.clone().recipient(),
            people: all.clone().recipient(),
            count_owed: all.clone().recipient(),
            media: all.clone().recipient(),
            web: bound.places(folder.path(), watch::channel(Work::None).1),
        },
        outbox: all.clone().recipient(),
        list_rooms: all.clone().recipient(),
        read_servers: all.clone().recipient(),
        read_heads: all.clone().recipient(),
        read_faces: all.clone().recipient(),
        holders: all.clone().recipient(),
        meshes: all.clone().recipient(),
        queues: all.clone().recipient(),
        of_clients: Admission::new(1),
        of_others: Admission::new(1),
        data: folder.path().to_owned(),
    };
    let settings = vec![("Element", "not served".to_owned())];
    let page = StatusPageActor::new(links, Meters::default(), settings).start();
    (page, all, folder)
}

async fn shown(window: &mut Watched) -> Value {
    loop {
        let json = window.shown.borrow_and_update().to_string();
        if !json.is_empty() {
            return serde_json::from_str(&json).unwrap();
        }
        window.shown.changed().await.unwrap();
    }
}

#[actix::test]
async fn all_windows_are_shown_one_look_and_nobody_is_asked_where_nobody_looks() {
    let (page, all, _folder) = start();
    assert_eq!(all.send(Asked).await.unwrap(), (0, 0));
    let mut windows = Vec::new();
    for _ in 0..limits::STATUS_WINDOWS {
        windows.push(page.send(WatchStatus).await.unwrap().unwrap());
    }
    assert_eq!(page.send(WatchStatus).await.unwrap().unwrap_err(), WindowsFull);
    for window in &mut windows {
        let shown = shown(window).await;
        assert_eq!(shown["rooms"][0]["name"], "Garden", "{shown}");
        assert_eq!(shown["rooms"].as_array().unwrap().len(), 1, "of rooms that one is in");
        assert_eq!(shown["settings"][0]["words"], "not served");
        assert_eq!(window.history, "[]");
    }
    let (asked, faces) = all.send(Asked).await.unwrap();
    assert_eq!(asked, 1, "{} windows are one look", limits::STATUS_WINDOWS);
    assert_eq!(faces, 1);
    // Goes on looking, and reads what a room looks like only where something was said.
    let asked_often = async |more: usize| {
        while all.send(Asked).await.unwrap().0 < more {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    asked_often(3).await;
    assert_eq!(all.send(Asked).await.unwrap().1, 1);
    all.send(Speak).await.unwrap();
    asked_often(5).await;
    assert_eq!(all.send(Asked).await.unwrap().1, 2);
    drop(windows);
    tokio::time::sleep(3 * limits::STATUS_EVERY).await;
    let (asked, _) = all.send(Asked).await.unwrap();
    tokio::time::sleep(3 * limits::STATUS_EVERY).await;
    assert_eq!(all.send(Asked).await.unwrap().0, asked, "nobody looks");
    // Whoever comes then sees what is, not what was.
    let mut window = page.send(WatchStatus).await.unwrap().unwrap();
    shown(&mut window).await;
    assert!(all.send(Asked).await.unwrap().0 > asked);
}
