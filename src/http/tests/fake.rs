//! One actor that plays all actors but Accounts and Ephemera, and writes down what it is told.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use actix::{Actor, Addr, Context, Handler, Message, MessageResult};
use ruma::{OwnedEventId, OwnedServerName, event_id, room_id, user_id};
use serde_json::value::RawValue;
use tokio::sync::{Semaphore, watch};

use crate::{
    actors::{
        accounts::{AccountsActor, AccountsLinks},
        admission::Admission,
        device_keys::{DeviceKeysActor, DeviceKeysLinks, KeysIssued},
        ephemera::EphemeraActor,
        identity::{EnsureIdentity, FindServerKeys, IdentityError, ReadSigner},
        media::{MediaActor, MediaLinks},
        outbox::{Form, OutboxError, Owe},
        pushers::{PushersActor, PushersLinks},
        rendezvous::{Advertise, FoundPerson, ReadProven, SearchPeople},
        room::*,
        room_directory::{RoomDirectoryActor, RoomDirectoryLinks},
        room_state::{
            CreateRoom, ForgetRoom, KnowsRoom, ListRooms, Listens, ProfileUpdated, ReadMembership,
            ToRoom, UserGone,
        },
        status_page::{ReadFigures, WatchStatus, Watched, WindowsFull},
        store::*,
        swarm::{AskPieces, GivePieces, NodeId, RequestFailed},
        upward::{FederationError, FindSharing, SendFederation, Sharing},
    },
    config::{MediaConfig, Registration},
    http::gateway::{EphemeraLinks, Gateway, PusherLinks, RoomLinks, StoreLinks},
    proto::{endpoint::Endpoint, server_keys::tests::secret_keys, signer::Signer, stream::Order},
    web_ask::WebClient,
};

/// A server name of this network that is not ours.
pub(super) fn other_server() -> OwnedServerName {
    secret_keys(2).server_name()
}

/// The fake.
pub(super) struct Fake {
    rows: HashMap<Row, Vec<u8>>,
    /// To-device rows with their positions.
    to_device: Vec<(u64, String, Vec<u8>)>,
    /// Up to which position they came weeks ago.
    old: u64,
    position: u64,
    watch: watch::Sender<u64>,
    signer: Option<Arc<Signer>>,
    told: Vec<String>,
    /// Places for windows with the status page.
    windows: Arc<Semaphore>,
}

/// Asks what the fake was told.
#[derive(Message)]
#[rtype(result = "Vec<String>")]
pub(super) struct Told;

/// Asks for all rows.
#[derive(Message)]
#[rtype(result = "HashMap<Row, Vec<u8>>")]
pub(super) struct AllRows;

/// Lets weeks go by.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct WeeksPass;

/// Starts Accounts over the rows that the fake holds.
pub(super) async fn start_accounts(fake: &Addr<Fake>) -> Addr<AccountsActor> {
    start_users(fake, Registration::Off).await.0
}

/// Starts Accounts and DeviceKeys over the rows that the fake holds.
async fn start_users(
    fake: &Addr<Fake>,
    registration: Registration,
) -> (Addr<AccountsActor>, Addr<DeviceKeysActor>) {
    let device_keys = DeviceKeysActor::start_loaded(DeviceKeysLinks {
        write_rows: fake.clone().recipient(),
        read_row: fake.clone().recipient(),
        read_rows: fake.clone().recipient(),
        scan_rows: fake.clone().recipient(),
        scan_page: fake.clone().recipient(),
        roommates: fake.clone().recipient(),
        servers_of: fake.clone().recipient(),
        servers_with: fake.clone().recipient(),
        find_keys: fake.clone().recipient(),
        proven: fake.clone().recipient(),
        keys_issued: fake.clone().recipient(),
        cpu: crate::actors::cpu::Cpu::start().unwrap(),
        federation: fake.clone().recipient(),
        owe: fake.clone().recipient(),
    });
    let device_keys = device_keys.await.unwrap();
    let links = AccountsLinks {
        write_rows: fake.clone().recipient(),
        read_row: fake.clone().recipient(),
        scan_rows: fake.clone().recipient(),
        ack_to_device: fake.clone().recipient(),
        count_to_device: fake.clone().recipient(),
        drop_to_device: fake.clone().recipient(),
        ensure_identity: fake.clone().recipient(),
        profile_updated: fake.clone().recipient(),
        list_rooms: fake.clone().recipient(),
        leave: fake.clone().recipient(),
        user_gone: fake.clone().recipient(),
        listens: fake.clone().recipient(),
        advertise: fake.clone().recipient(),
        sharing: fake.clone().recipient(),
        forget_devices: device_keys.clone().recipient(),
        device_renamed: device_keys.clone().recipient(),
    };
    let owner = Some(super::owner());
    let accounts = AccountsActor::start_loaded(links, owner, registration).await.unwrap();
    (accounts, device_keys)
}

/// Starts Media over the rows that the fake holds, in a folder that is left to the system.
async fn start_media(fake: &Addr<Fake>, accounts: &Addr<AccountsActor>) -> Addr<MediaActor> {
    let links = MediaLinks {
        write_rows: fake.clone().recipient(),
        scan_rows: fake.clone().recipient(),
        read_row: fake.clone().recipient(),
        servers_of: fake.clone().recipient(),
        profile: accounts.clone().recipient(),
        signer: fake.clone().recipient(),
        sharing: fake.clone().recipient(),
        proven: fake.clone().recipient(),
        federation: fake.clone().recipient(),
        cpu: crate::actors::cpu::Cpu::start().unwrap(),
        ask_pieces: fake.clone().recipient(),
        give_pieces: fake.clone().recipient(),
    };
    let data = tempfile::tempdir().unwrap().keep();
    let config = MediaConfig {
        max_upload_bytes: 1024 * 1024,
        max_bytes: 8 * 1024 * 1024,
        max_user_bytes: 4 * 1024 * 1024,
        ..MediaConfig::default()
    };
    MediaActor::load(data, config, links).await.unwrap().start()
}

/// Starts the fake, Accounts and Ephemera.
pub(super) async fn start() -> (Addr<Fake>, Gateway) {
    start_with(Registration::Off).await
}

/// Starts the same for a node on which people may register.
pub(super) async fn start_with(registration: Registration) -> (Addr<Fake>, Gateway) {
    let fake = Fake {
        rows: HashMap::new(),
        to_device: Vec::new(),
        old: 0,
        position: 10,
        watch: watch::channel(10).0,
        signer: None,
        told: Vec::new(),
        windows: Arc::new(Semaphore::new(1)),
    };
    let fake = fake.start();
    let ephemera = EphemeraActor::default().start();
    let (accounts, device_keys) = start_users(&fake, registration).await;
    let media = start_media(&fake, &accounts).await;
    let links = PushersLinks {
        write_rows: fake.clone().recipient(),
        read_row: fake.clone().recipient(),
        scan_rows: fake.clone().recipient(),
        notifications: fake.clone().recipient(),
        watch: fake.clone().recipient(),
    };
    let directory = RoomDirectoryActor::start_loaded(RoomDirectoryLinks {
        write_rows: fake.clone().recipient(),
        scan_rows: fake.clone().recipient(),
        read_cards: fake.clone().recipient(),
        list_rooms: fake.clone().recipient(),
        signer: fake.clone().recipient(),
        federation: fake.clone().recipient(),
    });
    let directory = directory.await.unwrap();
    let pushers = PushersActor::start_loaded(links, WebClient::new(false)).await.unwrap();
    let gateway = Gateway {
        accounts,
        device_keys,
        pushers: PusherLinks {
            set: pushers.clone().recipient(),
            delete: pushers.clone().recipient(),
            list: pushers.recipient(),
        },
        rooms: RoomLinks {
            create: fake.clone().recipient(),
            list: fake.clone().recipient(),
            membership: fake.clone().recipient(),
            knows: fake.clone().recipient(),
            forget: fake.clone().recipient(),
            send: fake.clone().recipient(),
            change_membership: fake.clone().recipient(),
            join: fake.clone().recipient(),
            leave: fake.clone().recipient(),
            set_typing: fake.clone().recipient(),
            set_receipt: fake.clone().recipient(),
            read_state: fake.clone().recipient(),
            read_members: fake.clone().recipient(),
            read_messages: fake.clone().recipient(),
            read_context: fake.clone().recipient(),
            read_relations: fake.clone().recipient(),
            read_threads: fake.clone().recipient(),
        },
        store: StoreLinks {
            read_sync: fake.clone().recipient(),
            read_device_lists: fake.clone().recipient(),
            read_notifications: fake.clone().recipient(),
            watch: fake.clone().recipient(),
            ack_to_device: fake.clone().recipient(),
            search_directory: fake.clone().recipient(),
        },
        ephemera: EphemeraLinks {
            read: ephemera.clone().recipient(),
            watch: ephemera.clone().recipient(),
            set_presence: ephemera.clone().recipient(),
            read_presence: ephemera.recipient(),
        },
        search_people: fake.clone().recipient(),
        send_federation: fake.clone().recipient(),
        owe: fake.clone().recipient(),
        read_signer: fake.clone().recipient(),
        media: (&media).into(),
        read_preview: None,
        directory: (&directory).into(),
        downloads: Arc::new(tokio::sync::Semaphore::new(4)),
        meters: crate::meters::Meters::default(),
        watch_status: fake.clone().recipient(),
        figures: fake.clone().recipient(),
        admission: Admission::new(64),
        boot: 7,
    };
    (fake, gateway)
}

/// A stored event of a type.
pub(super) fn stored(event_id: &str, kind: &str, content: &str) -> StoredEvent {
    let json = format!(
        r#"{{"content":{content},"origin_server_ts":5,"sender":"@a:x","state_key":"","type":"{kind}"}}"#
    );
    StoredEvent {
        event_id: event_id.try_into().unwrap(),
        json: json.into(),
        place: Place::Live,
        state_group: None,
        order: Some(Order::live(3)),
        spoilt: false,
        txn: None,
        redacted_because: None,
    }
}

impl Actor for Fake {
    type Context = Context<Self>;
}

impl Handler<Told> for Fake {
    type Result = Vec<String>;
    fn handle(&mut self, _: Told, _: &mut Context<Self>) -> Vec<String> {
        self.told.clone()
    }
}

impl Handler<AllRows> for Fake {
    type Result = MessageResult<AllRows>;
    fn handle(&mut self, _: AllRows, _: &mut Context<Self>) -> Self::Result {
        MessageResult(self.rows.clone())
    }
}

// ---------------------------------------------------------------- Store

impl Handler<WriteRows> for Fake {
    type Result = Result<Committed, StoreError>;
    fn handle(&mut self, msg: WriteRows, _: &mut Context<Self>) -> Self::Result {
        let mut shown = false;
        for (row, value) in msg.0 {
            shown |=
                matches!(row, Row::AccountData(..) | Row::RoomAccountData(..) | Row::ToDevice(..));
            match (row, value) {
                (Row::ToDevice(_, device), Some(value)) => {
                    self.to_device.push((self.position + 1, device, value));
                }
                (row, Some(value)) => drop(self.rows.insert(row, value)),
                (row, None) => drop(self.rows.remove(&row)),
            }
        }
        if shown {
            self.position += 1;
            self.watch.send_replace(self.position);
        }
        Ok(Committed { position: self.position })
    }
}

impl Handler<ReadRow> for Fake {
    type Result = Result<Option<Vec<u8>>, StoreError>;
    fn handle(&mut self, msg: ReadRow, _: &mut Context<Self>) -> Self::Result {
        Ok(self.rows.get(&msg.0).cloned())
    }
}

impl Handler<ReadRows> for Fake {
    type Result = Result<Vec<Option<Vec<u8>>>, StoreError>;
    fn handle(&mut self, msg: ReadRows, _: &mut Context<Self>) -> Self::Result {
        Ok(msg.0.iter().map(|row| self.rows.get(row).cloned()).collect())
    }
}

/// One page has all of it.
impl Handler<ScanPage> for Fake {
    type Result = Result<RowPage, StoreError>;
    fn handle(&mut self, msg: ScanPage, ctx: &mut Context<Self>) -> Self::Result {
        let rows = self.handle(ScanRows(msg.kind), ctx)?;
        Ok(RowPage { rows, is_last: true })
    }
}

impl Handler<ScanRows> for Fake {
    type Result = Result<Vec<(Row, Vec<u8>)>, StoreError>;
    fn handle(&mut self, msg: ScanRows, _: &mut Context<Self>) -> Self::Result {
        let wanted = |row: &Row| match msg.0 {
            RowKind::Devices => matches!(row, Row::Device(..)),
            RowKind::AccessTokens => matches!(row, Row::AccessToken(_)),
            RowKind::RefreshTokens => matches!(row, Row::RefreshToken(_)),
            RowKind::Accounts => matches!(row, Row::Account(_)),
            RowKind::AccountData(ref user) => matches!(row, Row::AccountData(of, _) if of == user),
            RowKind::Filters(ref user) => matches!(row, Row::Filter(of, _) if of == user),
            RowKind::Profiles => matches!(row, Row::Profile(..)),
            RowKind::KeyLists => matches!(row, Row::KeyList(_)),
            RowKind::Media => matches!(row, Row::Media(..)),
            RowKind::Backups(_) => matches!(row, Row::Backup(..)),
            RowKind::BackedUp(_, version) => {
                matches!(row, Row::BackedUp(_, of, ..) if *of == version)
            }
            RowKind::BackedUpOfRoom(_, version, ref room) => {
                matches!(row, Row::BackedUp(_, of, at, _) if *of == version && at == room)
            }
            _ => false,
        };
        let rows = self.rows.iter().filter(|(row, _)| wanted(row));
        Ok(rows.map(|(row, value)| (row.clone(), value.clone())).collect())
    }
}

/// Everybody is a room-mate, since always.
impl Handler<FindRoommates> for Fake {
    type Result = Result<Roommates, StoreError>;
    fn handle(&mut self, msg: FindRoommates, _: &mut Context<Self>) -> Self::Result {
        let since = msg.users.into_keys().map(|user_id| (user_id, 0)).collect();
        Ok(Roommates { position: self.position, since })
    }
}

impl Handler<ReadServersOf> for Fake {
    type Result = Result<BTreeSet<OwnedServerName>, StoreError>;
    fn handle(&mut self, _: ReadServersOf, _: &mut Context<Self>) -> Self::Result {
        Ok([other_server()].into())
    }
}

impl Handler<ReadServersWith> for Fake {
    type Result = Result<BTreeSet<OwnedServerName>, StoreError>;
    fn handle(&mut self, _: ReadServersWith, _: &mut Context<Self>) -> Self::Result {
        Ok([other_server()].into())
    }
}

impl Handler<FindServerKeys> for Fake {
    type Result = MessageResult<FindServerKeys>;
    fn handle(&mut self, _: FindServerKeys, _: &mut Context<Self>) -> Self::Result {
        MessageResult(HashMap::new())
    }
}

impl Handler<KeysIssued> for Fake {
    type Result = ();
    fn handle(&mut self, _: KeysIssued, _: &mut Context<Self>) {}
}

impl Handler<ReadDeviceLists> for Fake {
    type Result = Result<DeviceLists, StoreError>;
    fn handle(&mut self, _: ReadDeviceLists, _: &mut Context<Self>) -> Self::Result {
        let changed = [user_id!("@a:x").to_owned()].into();
        Ok(DeviceLists { changed, left: BTreeSet::new() })
    }
}

impl Handler<AckToDevice> for Fake {
    type Result = Result<(), StoreError>;
    fn handle(&mut self, msg: AckToDevice, _: &mut Context<Self>) -> Self::Result {
        self.to_device
            .retain(|(position, device, _)| *device != msg.device_id || *position > msg.position);
        Ok(())
    }
}

/// Returns who sent a to-device row.
fn sent_by(value: &[u8]) -> OwnedServerName {
    let event: serde_json::Value = serde_json::from_slice(value).unwrap();
    <&ruma::UserId>::try_from(event["sender"].as_str().unwrap()).unwrap().server_name().to_owned()
}

impl Handler<CountToDevice> for Fake {
    type Result = Result<HashMap<OwnedServerName, ToDeviceCount>, StoreError>;
    fn handle(&mut self, _: CountToDevice, _: &mut Context<Self>) -> Self::Result {
        let mut counts = HashMap::<_, ToDeviceCount>::new();
        for (position, _, value) in &self.to_device {
            let count = counts.entry(sent_by(value)).or_default();
            let old = (*position <= self.old).then_some(&mut count.old);
            for (number, len) in std::iter::once(&mut count.all).chain(old) {
                (*number, *len) = (*number + 1, *len + value.len());
            }
        }
        Ok(counts)
    }
}

impl Handler<DropToDevice> for Fake {
    type Result = Result<(), StoreError>;
    fn handle(&mut self, msg: DropToDevice, _: &mut Context<Self>) -> Self::Result {
        let old = self.old;
        self.to_device.retain(|(at, _, value)| *at > old || !msg.of.contains(&sent_by(value)));
        Ok(())
    }
}

impl Handler<WeeksPass> for Fake {
    type Result = ();
    fn handle(&mut self, _: WeeksPass, _: &mut Context<Self>) {
        self.old = self.position;
    }
}

impl Handler<WatchStream> for Fake {
    type Result = MessageResult<WatchStream>;
    fn handle(&mut self, _: WatchStream, _: &mut Context<Self>) -> Self::Result {
        MessageResult(self.watch.subscribe())
    }
}

impl Handler<ReadSync> for Fake {
    type Result = Result<SyncRows, StoreError>;
    fn handle(&mut self, msg: ReadSync, _: &mut Context<Self>) -> Self::Result {
        let since = msg.since.unwrap_or(0);
        let to_device = self
            .to_device
            .iter()
            .filter(|(position, device, _)| *device == msg.device_id && *position > since);
        let to_device =
            to_device.map(|(_, _, value)| serde_json::from_slice(value).unwrap()).collect();
        let counts = self.rows.get(&Row::KeyCounts(msg.user_id.clone(), msg.device_id.clone()));
        let key_counts = counts.map(|value| serde_json::from_slice(value).unwrap());
        let mut rows = SyncRows {
            position: self.position,
            to_device,
            key_counts: key_counts.unwrap_or_default(),
            ..SyncRows::default()
        };
        if msg.since.is_none() {
            rows.joined.push(JoinedRoom {
                room_id: room_id!("!r:x").to_owned(),
                timeline: vec![stored("$e", "m.room.topic", r#"{"topic":"T"}"#)],
                limited: true,
                prev_batch: Some(Order { position: -3, history: u64::MAX }),
                state: Vec::new(),
                account_data: Vec::new(),
                receipts: vec![Receipt {
                    user_id: user_id!("@a:x").to_owned(),
                    receipt_type: "m.read".into(),
                    event_id: event_id!("$e").to_owned(),
                    thread_id: Some("main".into()),
                    ts: 9,
                }],
                unread: Unread::default(),
                unread_threads: Vec::new(),
                bundles: Bundles::new(),
                summary: None,
                redactions: HashMap::new(),
                replaced: HashMap::new(),
            });
            let rules =
                self.rows.get(&Row::AccountData(msg.user_id, "m.push_rules".into())).unwrap();
            let rules: Box<RawValue> = serde_json::from_slice(rules).unwrap();
            rows.account_data.push(("m.push_rules".into(), rules));
        }
        Ok(rows)
    }
}

impl Handler<ReadCards> for Fake {
    type Result = Result<Vec<Card>, StoreError>;

    fn handle(&mut self, _: ReadCards, _: &mut Context<Self>) -> Self::Result {
        Ok(Vec::new())
    }
}

impl Handler<SearchDirectory> for Fake {
    type Result = Result<Vec<(ruma::OwnedUserId, DirectoryEntry)>, StoreError>;
    fn handle(&mut self, _: SearchDirectory, _: &mut Context<Self>) -> Self::Result {
        let entry =
            |name: &str| DirectoryEntry { displayname: Some(name.into()), avatar_url: None };
        Ok(vec![
            (user_id!("@found:x").to_owned(), entry("older name")),
            (user_id!("@known:x").to_owned(), entry("Known")),
        ])
    }
}

// ---------------------------------------------------------------- Identity and the network

impl Handler<EnsureIdentity> for Fake {
    type Result = Result<Arc<Signer>, IdentityError>;
    fn handle(&mut self, _: EnsureIdentity, _: &mut Context<Self>) -> Self::Result {
        let make = || Arc::new(Signer::new(&secret_keys(1), &[], 1_790_000_000_000).unwrap());
        Ok(Arc::clone(self.signer.get_or_insert_with(make)))
    }
}

impl Handler<ReadSigner> for Fake {
    type Result = MessageResult<ReadSigner>;
    fn handle(&mut self, _: ReadSigner, _: &mut Context<Self>) -> Self::Result {
        MessageResult(self.signer.clone())
    }
}

impl Handler<SearchPeople> for Fake {
    type Result = MessageResult<SearchPeople>;
    fn handle(&mut self, _: SearchPeople, _: &mut Context<Self>) -> Self::Result {
        // Two who call themselves the same.
        let people = [user_id!("@found:x"), user_id!("@double:x")];
        let people = people.map(|user_id| FoundPerson {
            user_id: user_id.to_owned(),
            displayname: Some("Found".into()),
            avatar_url: None,
        });
        MessageResult(people.into())
    }
}

impl Handler<SendFederation> for Fake {
    type Result = MessageResult<SendFederation>;
    fn handle(&mut self, msg: SendFederation, _: &mut Context<Self>) -> Self::Result {
        let content = serde_json::to_string(&msg.content).unwrap();
        let Endpoint { method, uri } = msg.endpoint;
        self.told.push(format!("{method} {} {uri} {content}", msg.destination));
        if msg.destination == secret_keys(9).server_name() {
            return MessageResult(Err(FederationError::Unreachable(msg.destination)));
        }
        let answer = serde_json::json!({"displayname": "Other"});
        MessageResult(Ok(answer.try_into().unwrap()))
    }
}

impl Handler<Owe> for Fake {
    type Result = Result<(), OutboxError>;
    fn handle(&mut self, Owe(debts): Owe, _: &mut Context<Self>) -> Self::Result {
        for debt in debts {
            let Form::Edu(edu) = debt.form else { panic!("{:?}", debt.form) };
            let edu = serde_json::to_string(&edu).unwrap();
            self.told.push(format!("owe {} {edu}", debt.destination));
        }
        Ok(())
    }
}

impl Handler<Advertise> for Fake {
    type Result = ();
    fn handle(&mut self, msg: Advertise, _: &mut Context<Self>) {
        let names = std::iter::once(msg.display_name).chain(msg.others);
        self.told.push(format!("advertise {}", names.collect::<Vec<_>>().join(" ")));
    }
}

impl Handler<UserGone> for Fake {
    type Result = ();
    fn handle(&mut self, msg: UserGone, _: &mut Context<Self>) {
        self.told.push(format!("gone {}", msg.0));
    }
}

impl Handler<ProfileUpdated> for Fake {
    type Result = ();
    fn handle(&mut self, msg: ProfileUpdated, _: &mut Context<Self>) {
        self.told.push(format!("profile {:?}", msg.shown.displayname));
    }
}

impl Handler<Listens> for Fake {
    type Result = ();
    fn handle(&mut self, msg: Listens, _: &mut Context<Self>) {
        let Listens { listener, .. } = msg;
        let words: Vec<_> = listener.rules.content.iter().map(|rule| &*rule.pattern).collect();
        self.told.push(format!("listens to {words:?}, ignores {:?}", listener.ignored));
    }
}

impl Handler<ReadNotifications> for Fake {
    type Result = Result<Notifications, StoreError>;
    fn handle(&mut self, msg: ReadNotifications, _: &mut Context<Self>) -> Self::Result {
        self.told.push(format!("{msg:?}"));
        Ok(Notifications::default())
    }
}

// ---------------------------------------------------------------- rooms

impl Handler<CreateRoom> for Fake {
    type Result = Result<ruma::OwnedRoomId, RoomError>;
    fn handle(&mut self, msg: CreateRoom, _: &mut Context<Self>) -> Self::Result {
        let kinds: Vec<_> = msg.initial_state.iter().map(|(kind, _, _)| kind.as_str()).collect();
        self.told.push(format!("create {:?} {}", msg.version, kinds.join(" ")));
        Ok(room_id!("!new").to_owned())
    }
}

impl Handler<ListRooms> for Fake {
    type Result = MessageResult<ListRooms>;
    fn handle(&mut self, _: ListRooms, _: &mut Context<Self>) -> Self::Result {
        use ruma::events::room::member::MembershipState;
        MessageResult(vec![
            (room_id!("!in:x").to_owned(), MembershipState::Join),
            (room_id!("!invited:x").to_owned(), MembershipState::Invite),
        ])
    }
}

/// The user is in all rooms but those of `none`.
impl Handler<ReadMembership> for Fake {
    type Result = MessageResult<ReadMembership>;
    fn handle(&mut self, msg: ReadMembership, _: &mut Context<Self>) -> Self::Result {
        use ruma::events::room::member::MembershipState;
        let is_in = !msg.room_id.as_str().ends_with(":none");
        MessageResult(is_in.then_some(MembershipState::Join))
    }
}

impl Handler<KnowsRoom> for Fake {
    type Result = bool;
    fn handle(&mut self, msg: KnowsRoom, _: &mut Context<Self>) -> bool {
        !msg.0.as_str().ends_with(":none")
    }
}

impl Handler<ForgetRoom> for Fake {
    type Result = Result<(), RoomError>;
    fn handle(&mut self, _: ForgetRoom, _: &mut Context<Self>) -> Self::Result {
        Err(RoomError::BadRequest("leave it first".into()))
    }
}

macro_rules! room {
    ($message:ty, $answer:ty, $value:expr) => {
        impl Handler<ToRoom<$message>> for Fake {
            type Result = Result<Result<$answer, RoomError>, RoomError>;
            fn handle(&mut self, msg: ToRoom<$message>, _: &mut Context<Self>) -> Self::Result {
                let ToRoom { room_id, message } = msg;
                self.told.push(format!("{room_id} {message:?}"));
                let value: fn() -> Result<$answer, RoomError> = $value;
                Ok(value())
            }
        }
    };
}

room!(SendEvent, OwnedEventId, || Ok(event_id!("$sent").to_owned()));
room!(ChangeMembership, OwnedEventId, || Err(RoomError::Forbidden("power".into())));
room!(Join, (), || Ok(()));
room!(Leave, (), || Ok(()));
room!(SetTyping, (), || Ok(()));
room!(SetReceipt, (), || Ok(()));
room!(ReadState, Vec<StoredEvent>, || Ok(vec![stored("$t", "m.room.topic", r#"{"topic":"T"}"#)]));
room!(ReadMembers, Vec<StoredEvent>, || Ok(vec![stored(
    "$m",
    "m.room.member",
    r#"{"membership":"join","displayname":"A"}"#
)]));
room!(ReadMessages, Page, || Ok(Page {
    events: vec![
        stored("$1", "m.room.message", r#"{"body":"one"}"#),
        stored("$2", "m.room.topic", r#"{"topic":"T"}"#)
    ],
    start: Order::live(9),
    next: Some(Order { position: -4, history: u64::MAX }),
    redactions: HashMap::new(),
    members: vec![stored("$m", "m.room.member", "{}")],
    bundles: Bundles::new(),
}));
room!(ReadContext, crate::actors::room::Context, || Err(RoomError::EventNotFound));
room!(ReadRelations, RelatedPage, || Ok(RelatedPage::default()));
room!(ReadThreadList, RelatedPage, || Ok(RelatedPage::default()));

/// Nobody shares a room with the fake's user.
impl Handler<FindSharing> for Fake {
    type Result = Vec<Sharing>;

    fn handle(&mut self, _: FindSharing, _: &mut Context<Self>) -> Self::Result {
        Vec::new()
    }
}

/// Nobody is connected.
impl Handler<ReadProven> for Fake {
    type Result = Vec<(OwnedServerName, NodeId)>;
    fn handle(&mut self, _: ReadProven, _: &mut Context<Self>) -> Self::Result {
        Vec::new()
    }
}

impl Handler<AskPieces> for Fake {
    type Result = Result<Vec<u8>, RequestFailed>;
    fn handle(&mut self, _: AskPieces, _: &mut Context<Self>) -> Self::Result {
        Err(RequestFailed::Offline)
    }
}

impl Handler<GivePieces> for Fake {
    type Result = ();
    fn handle(&mut self, _: GivePieces, _: &mut Context<Self>) {}
}

impl Handler<ReadFigures> for Fake {
    type Result = MessageResult<ReadFigures>;

    fn handle(&mut self, _: ReadFigures, _: &mut Context<Self>) -> Self::Result {
        MessageResult(Err("a fake has no figures".to_owned()))
    }
}

/// The page shows the same all the time, and its node ends.
impl Handler<WatchStatus> for Fake {
    type Result = MessageResult<WatchStatus>;

    fn handle(&mut self, _: WatchStatus, _: &mut Context<Self>) -> Self::Result {
        let Ok(place) = Arc::clone(&self.windows).try_acquire_owned() else {
            return MessageResult(Err(WindowsFull));
        };
        let shown = watch::channel(Arc::from(r#"{"headline":"secret"}"#)).1;
        MessageResult(Ok(Watched { history: "[]".to_owned(), shown, place }))
    }
}
