//! The only wiring: Arbiters, actors in their order, who gets which Recipient; and the end, in
//! reverse.
//!
//! What can fail for reasons that a person can mend (ports, folder, keys, database) comes first
//! and touches nothing that is not its own, so that a node which cannot start leaves no trace.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use actix::{
    Actor as _, ActorFutureExt as _, Addr, Arbiter, AsyncContext as _, Context, Handler, Recipient,
    System, WrapFuture as _, fut::wrap_future,
};
use tokio::sync::watch;

mod gateway;
mod liveness;

use gateway::gateway;
use liveness::{LOOK_EVERY, Liveness, Looks};

use crate::{
    actors::{
        accounts::{AccountError, AccountsActor, AccountsLinks, LeaveRooms, LocalProfile},
        admission::Admission,
        beat::{Beat, ReadSilent, Silent},
        clock::uptime_ms,
        cpu::Cpu,
        device_keys::{DeviceKeysActor, DeviceKeysLinks, KeyError},
        element::{ElementActor, Loaded, Work},
        ephemera::EphemeraActor,
        federation::{FederationActor, FederationLinks},
        gossip::{DeliverTo, GossipActor},
        http_gateway::{self, BindError, Drain, HttpGatewayActor},
        identity::{
            self, AskWith, EnsureIdentity, IdentityActor, IdentityError, IdentityParts,
            SignerIssued, SubscribeSigner, UsedElsewhere,
        },
        media::{MediaActor, MediaError, MediaLinks},
        meeting::{MeetingActor, MeetingLinks, TellKeys},
        network::{self, Network, NetworkParts},
        outbox::{OutboxActor, OutboxError, OutboxLinks, TellRooms},
        previews::{PreviewsActor, PreviewsLinks},
        pushers::{PusherError, PushersActor, PushersLinks},
        relay_request::{CarryWith, RelayRequestActor},
        rendezvous::RendezvousActor,
        room::{Carried, StoreLink},
        room_directory::{DirectoryError, RoomDirectoryActor, RoomDirectoryLinks},
        room_state::{MeetWith, RoomStateActor, RoomStateLinks},
        status_page::{StatusPageActor, StatusPageLinks},
        store::{self, Close, StoreActor, StoreError},
        swarm::{self, GivePiecesWith, SwarmError, SwarmFailed},
        upward::{ServerOffline, ServerOnline},
    },
    config::{Config, Previews, limits},
    control::{self, ControlLinks},
    data_folder::{self, FolderError},
    http::gateway::{Gateway, url_of},
    meters::Meters,
    platform::{
        self,
        service::{self, Watchdog},
    },
    proto::server_name::{self, LOCALPART},
    status::{self, StatusLinks},
    web_ask::WebClient,
};

/// Exit code when a part of the node failed that cannot be restarted alone (`EX_SOFTWARE`).
const EXIT_SOFTWARE: i32 = 70;
/// Exit code when a copy of the data folder runs elsewhere (`EX_PROTOCOL`).
const EXIT_COPY: i32 = 76;
/// Exit code when the configuration cannot be followed (`EX_CONFIG`).
const EXIT_CONFIG: i32 = 78;

/// Why a node did not start: one line each, naming the key, file or address.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be listened on.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The data folder cannot be used.
    #[error(transparent)]
    Data(#[from] FolderError),
    /// The libp2p key cannot be used.
    #[error(transparent)]
    Swarm(#[from] SwarmError),
    /// The identity cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The database cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The accounts cannot be read.
    #[error(transparent)]
    Accounts(#[from] AccountError),
    /// The keys of devices cannot be read.
    #[error(transparent)]
    DeviceKeys(#[from] KeyError),
    /// Media cannot be read.
    #[error(transparent)]
    Media(#[from] MediaError),
    /// The pushers cannot be read.
    #[error(transparent)]
    Pushers(#[from] PusherError),
    /// The aliases of rooms cannot be read.
    #[error(transparent)]
    RoomDirectory(#[from] DirectoryError),
    /// What is owed to other servers cannot be read.
    #[error(transparent)]
    Outbox(#[from] OutboxError),
    /// The system refused threads or sockets.
    #[error("cannot start: {0}")]
    System(String),
}

/// Runs a node until it is told to stop. Returns its exit code. `browse` opens Element in the browser of
/// whoever sits here, once it is served.
pub fn run(config: &Config, data: &Path, browse: bool) -> Result<i32, StartError> {
    // Whatever is made from here on is for the owner of the process alone.
    platform::files::make_private_from_here();
    let system = System::new();
    system.block_on(start(config, data, browse))?;
    let code = system.run_with_code().map_err(|error| StartError::System(error.to_string()))?;
    log::info!("stopped");
    Ok(code)
}

async fn start(config: &Config, data: &Path, browse: bool) -> Result<(), StartError> {
    let refused = |error: &dyn std::fmt::Display| StartError::System(error.to_string());
    let bound = http_gateway::bind(config)?;
    data_folder::prepare(data)?;
    let keys = identity::read_server_name(data)?;
    let store = store::start_for(data, keys.as_deref())?;
    let keypair = swarm::load_or_create_key(data, config.libp2p.fresh_peer_id)?;
    let meters = Meters::default();
    let cpu = Cpu::start().map_err(|error| refused(&error))?;
    let (of_clients, of_others) =
        (Admission::new(limits::WORK_CLIENTS), Admission::new(limits::WORK_NODE));

    data_folder::forget_last_word(data);
    let folder = data.to_owned();
    let node = NodeActor::create(|_| NodeActor {
        data: folder,
        wired: None,
        greeted: false,
        watchdog: Watchdog::asked_for(),
    });
    let identity = IdentityActor::load(IdentityParts {
        data: data.to_owned(),
        peer_id: swarm::peer_id(&keypair),
        read: store.clone().recipient(),
        scan: store.clone().recipient(),
        write: store.clone().recipient(),
        name_owner: store.clone().recipient(),
        used_elsewhere: node.clone().recipient(),
    })
    .await?;
    let generations = identity.generations();
    let identity = identity.start();
    let network = network::start(NetworkParts {
        config,
        keypair,
        data: Some(data.to_owned()),
        cpu: cpu.clone(),
        admission: of_others.clone(),
        meters: meters.clone(),
        write_rows: store.clone().recipient(),
        scan_rows: store.clone().recipient(),
        keys_seen: identity.clone().recipient(),
        generations,
        server_online: node.clone().recipient(),
        server_offline: node.clone().recipient(),
        failed: node.clone().recipient(),
    })
    .map_err(|error| refused(&error))?;
    let ephemera = EphemeraActor::default().start();
    let outbox = OutboxActor::start_loaded(OutboxLinks {
        write_rows: store.clone().recipient(),
        read_row: store.clone().recipient(),
        scan_rows: store.clone().recipient(),
        load_events: store.clone().recipient(),
        signer: identity.clone().recipient(),
        find_keys: identity.clone().recipient(),
        federation: network.relay_request.clone().recipient(),
    })
    .await?;

    let media_cpu = cpu.clone();
    let carried = watch::Sender::new(Carried::default());
    let links = RoomStateLinks {
        store: StoreLink {
            commit: store.clone().recipient(),
            load_room: store.clone().recipient(),
            load_events: store.clone().recipient(),
            load_state: store.clone().recipient(),
            load_auth_chain: store.clone().recipient(),
            read_timeline: store.clone().recipient(),
            find_annotation: store.clone().recipient(),
            find_lacking: store.clone().recipient(),
            read_bundles: store.clone().recipient(),
            read_related: store.clone().recipient(),
            read_threads: store.clone().recipient(),
            keep_receipt: store.clone().recipient(),
            write_rows: store.clone().recipient(),
            scan_rows: store.clone().recipient(),
        },
        list_rooms: store.clone().recipient(),
        join_topic: network.gossip.clone().recipient(),
        leave_topic: network.gossip.clone().recipient(),
        publish: network.gossip.clone().recipient(),
        federation: network.relay_request.clone().recipient(),
        owe: outbox.clone().recipient(),
        decided: outbox.clone().recipient(),
        carried: carried.subscribe(),
        shared: network.rendezvous.clone().recipient(),
        find_keys: identity.clone().recipient(),
        keep_keys: identity.clone().recipient(),
        typing: ephemera.clone().recipient(),
        presence: ephemera.clone().recipient(),
        cpu: cpu.clone(),
    };
    let rooms_arbiter = Arbiter::new();
    let rooms = RoomStateActor::start_in_arbiter(&rooms_arbiter.handle(), move |_| {
        RoomStateActor::new(links)
    });
    let links = MeetingLinks {
        read_shared: rooms.clone().recipient(),
        read_servers: rooms.clone().recipient(),
        sift_shared: rooms.clone().recipient(),
        take_missing: rooms.clone().recipient(),
        take_departure: rooms.clone().recipient(),
        follow_heads: rooms.clone().recipient(),
        fetch_history: rooms.clone().recipient(),
        read_heads: store.clone().recipient(),
        find_unspread: store.clone().recipient(),
        write_rows: store.clone().recipient(),
        read_departures: store.clone().recipient(),
        find_lacking: store.clone().recipient(),
        read_missing: store.clone().recipient(),
        missing_walk: store.clone().recipient(),
        read_events: store.clone().recipient(),
        sift_ids: store.clone().recipient(),
        find_gaps: store.clone().recipient(),
        find_gap: store.clone().recipient(),
        federation: network.relay_request.clone().recipient(),
        reached: outbox.clone().recipient(),
        owe: outbox.clone().recipient(),
        settle: outbox.clone().recipient(),
        find_keys: identity.clone().recipient(),
        cpu,
    };
    let meeting = MeetingActor::start_in_arbiter(&rooms_arbiter.handle(), move |_| {
        MeetingActor::new(links, carried)
    });
    rooms.do_send(MeetWith {
        turned: meeting.clone().recipient(),
        heads_heard: meeting.clone().recipient(),
        said: meeting.clone().recipient(),
    });

    outbox.do_send(TellRooms {
        refused: rooms.clone().recipient(),
        leave: rooms.clone().recipient(),
    });

    let device_keys = DeviceKeysActor::start_loaded(DeviceKeysLinks {
        write_rows: store.clone().recipient(),
        read_row: store.clone().recipient(),
        read_rows: store.clone().recipient(),
        scan_rows: store.clone().recipient(),
        scan_page: store.clone().recipient(),
        roommates: store.clone().recipient(),
        servers_of: store.clone().recipient(),
        servers_with: store.clone().recipient(),
        find_keys: identity.clone().recipient(),
        proven: network.rendezvous.clone().recipient(),
        keys_issued: meeting.clone().recipient(),
        cpu: media_cpu.clone(),
        federation: network.relay_request.clone().recipient(),
        owe: outbox.clone().recipient(),
    })
    .await?;
    meeting.do_send(TellKeys(device_keys.clone().recipient()));
    let accounts = AccountsLinks {
        write_rows: store.clone().recipient(),
        read_row: store.clone().recipient(),
        scan_rows: store.clone().recipient(),
        ack_to_device: store.clone().recipient(),
        count_to_device: store.clone().recipient(),
        drop_to_device: store.clone().recipient(),
        ensure_identity: identity.clone().recipient(),
        profile_updated: rooms.clone().recipient(),
        list_rooms: rooms.clone().recipient(),
        leave: rooms.clone().recipient(),
        user_gone: rooms.clone().recipient(),
        listens: rooms.clone().recipient(),
        advertise: network.rendezvous.clone().recipient(),
        sharing: rooms.clone().recipient(),
        forget_devices: device_keys.clone().recipient(),
        device_renamed: device_keys.clone().recipient(),
    };
    let owner = keys.as_deref().map(server_name::user_of);
    let registration = config.accounts.registration.clone();
    let accounts = AccountsActor::start_loaded(accounts, owner, registration).await?;
    let pushers = PushersActor::start_loaded(
        PushersLinks {
            write_rows: store.clone().recipient(),
            read_row: store.clone().recipient(),
            scan_rows: store.clone().recipient(),
            notifications: store.clone().recipient(),
            watch: store.clone().recipient(),
        },
        WebClient::new(config.push.allow_private_addresses),
    )
    .await?;
    let links = MediaLinks {
        write_rows: store.clone().recipient(),
        scan_rows: store.clone().recipient(),
        read_row: store.clone().recipient(),
        servers_of: store.clone().recipient(),
        profile: accounts.clone().recipient(),
        signer: identity.clone().recipient(),
        sharing: rooms.clone().recipient(),
        proven: network.rendezvous.clone().recipient(),
        federation: network.relay_request.clone().recipient(),
        cpu: media_cpu,
        ask_pieces: network.swarm.clone().recipient(),
        give_pieces: network.swarm.clone().recipient(),
    };
    let preview_cpu = links.cpu.clone();
    let media = MediaActor::load(data.to_owned(), config.media.clone(), links).await?;
    let media = MediaActor::start_in_arbiter(&Arbiter::new().handle(), move |_| media);
    let directory = RoomDirectoryActor::start_loaded(RoomDirectoryLinks {
        write_rows: store.clone().recipient(),
        scan_rows: store.clone().recipient(),
        read_cards: store.clone().recipient(),
        list_rooms: rooms.clone().recipient(),
        signer: identity.clone().recipient(),
        federation: network.relay_request.clone().recipient(),
    })
    .await?;
    let previews = match config.media.previews {
        Previews::Off => None,
        wanted => {
            let links = PreviewsLinks {
                begin: media.clone().recipient(),
                finish: media.clone().recipient(),
                cpu: preview_cpu,
            };
            let client = WebClient::new(wanted == Previews::Everywhere);
            Some(PreviewsActor::new(links, client).start())
        }
    };
    network.give_pieces(GivePiecesWith(media.clone().recipient()));
    let federation = FederationActor::new(FederationLinks {
        serve: rooms.clone().recipient(),
        ingest: rooms.clone().recipient(),
        heads: meeting.clone().recipient(),
        missing: meeting.clone().recipient(),
        missing_ids: meeting.clone().recipient(),
        events: meeting.clone().recipient(),
        profile: accounts.clone().recipient(),
        to_device: accounts.clone().recipient(),
        serve_keys: device_keys.clone().recipient(),
        device_list_changed: device_keys.clone().recipient(),
        serve_directory: directory.clone().recipient(),
        offer_media: media.clone().recipient(),
        read_piece: media.clone().recipient(),
        signer: identity.clone().recipient(),
        carry: network.relay_request.clone().recipient(),
        sharing: rooms.clone().recipient(),
        find_keys: identity.clone().recipient(),
    })
    .start();
    network.carry(CarryWith {
        sharing: rooms.clone().recipient(),
        find_keys: identity.clone().recipient(),
    });
    let deliver = DeliverTo {
        transactions: federation.clone().recipient(),
        keys: rooms.clone().recipient(),
        lost: meeting.clone().recipient(),
    };
    network.bind(deliver, federation.clone().recipient());

    let users = (&accounts, &device_keys, &media, &pushers, &directory);
    let to_fetch = bound.to_fetch(data);
    let begin = if to_fetch.is_some() { Work::Loading(Loaded::default()) } else { Work::None };
    let work = watch::Sender::new(begin);
    let web = bound.places(data, work.subscribe());
    let status_links = StatusLinks {
        silent: node.clone().recipient(),
        signer: identity.clone().recipient(),
        network: network.rendezvous.clone().recipient(),
        rooms: rooms.clone().recipient(),
        clock: network.relay_request.clone().recipient(),
        people: accounts.clone().recipient(),
        count_owed: outbox.clone().recipient(),
        media: media.clone().recipient(),
        web: web.clone(),
    };
    let links = StatusPageLinks {
        status: status_links.clone(),
        outbox: outbox.clone().recipient(),
        list_rooms: rooms.clone().recipient(),
        read_servers: rooms.clone().recipient(),
        read_heads: store.clone().recipient(),
        read_faces: store.clone().recipient(),
        holders: meeting.clone().recipient(),
        meshes: network.gossip.clone().recipient(),
        queues: network.swarm.clone().recipient(),
        of_clients: of_clients.clone(),
        of_others,
        data: data.to_owned(),
    };
    let settings = status::settings_in_words(config);
    let status_page = StatusPageActor::new(links, meters.clone(), settings).start();
    let watching = (meters, of_clients, &status_page);
    let gateway = Gateway {
        read_preview: previews.as_ref().map(|previews| previews.clone().recipient()),
        ..gateway(&store, users, &rooms, &ephemera, &identity, &outbox, (&network, watching))
    };
    // Before anybody is answered, so that whoever is finds it in the log.
    if let Some(web) = web.look().await {
        for line in status::banner(&web, config.file.as_deref(), data, keys.is_some()) {
            log::info!("{line}");
        }
        if let Some(exposure) = web.exposure() {
            log::warn!("{exposure}");
        }
    }
    // Whoever asks at once finds the rooms: it is the signer that starts them.
    if keys.is_some() {
        match identity.send(EnsureIdentity).await {
            Ok(Ok(signer)) => {
                meeting.do_send(identity::UseSigner(Arc::clone(&signer)));
                rooms.send(identity::UseSigner(signer)).await.ok();
                accounts.do_send(LeaveRooms);
            }
            Ok(Err(error)) => log::warn!("the rooms are not there yet: {error}"),
            Err(error) => return Err(refused(&error)),
        }
    }
    if let Some(address) = bound.metrics() {
        log::info!("figures for Prometheus are at http://{address}/metrics");
        if !address.ip().is_loopback() {
            log::warn!(
                "whoever reaches {address} reads them; metrics.listenAddress can be one of 127.0.0.1"
            );
        }
    }
    let homeserver = url_of(bound.homeserver());
    let page = bound.element().filter(|_| browse).map(url_of);
    let http = http_gateway::start(bound, gateway, data, work.subscribe());
    if let Some(page) = page {
        show(page);
    }
    if let Some(parts) = to_fetch {
        ElementActor::new(parts, work).start();
    }
    let control = control::serve(
        data,
        ControlLinks {
            mint: accounts.clone().recipient(),
            set_password: accounts.clone().recipient(),
            ensure: identity.clone().recipient(),
            outbox: outbox.clone().recipient(),
            status: status_links,
        },
    );
    if let Err(error) = control {
        let path = platform::control_socket::place(data);
        let path = path.display();
        log::warn!("{path}: {error}; `status`, `login-token` and `password` cannot be used");
    }
    let mut parts: Vec<(&str, Recipient<Beat>)> = vec![
        ("Store", store.clone().recipient()),
        ("Identity", identity.clone().recipient()),
        ("Accounts", accounts.clone().recipient()),
        ("DeviceKeys", device_keys.clone().recipient()),
        ("Media", media.recipient()),
        ("Pushers", pushers.clone().recipient()),
        ("Ephemera", ephemera.clone().recipient()),
        ("Outbox", outbox.clone().recipient()),
        ("StatusPage", status_page.recipient()),
        ("RoomDirectory", directory.clone().recipient()),
        ("RoomState", rooms.clone().recipient()),
        ("Meeting", meeting.clone().recipient()),
        ("Federation", federation.clone().recipient()),
        ("HttpGateway", http.clone().recipient()),
        ("Swarm", network.swarm.clone().recipient()),
        ("Gossip", network.gossip.clone().recipient()),
        ("Rendezvous", network.rendezvous.clone().recipient()),
        ("RelayRequest", network.relay_request.clone().recipient()),
    ];
    parts.extend(previews.map(|previews| ("Previews", previews.recipient())));
    let relay_request = network.relay_request.clone().recipient();
    let wired = Wired {
        network,
        rooms,
        meeting,
        identity: identity.clone(),
        store,
        accounts,
        device_keys,
        outbox,
        http,
        liveness: Liveness::new(parts.iter().map(|(name, _)| *name)),
        looks: Looks::watched(EXIT_SOFTWARE).map_err(|error| refused(&error))?,
        parts,
    };
    node.send(Wire(wired)).await.map_err(|error| refused(&error))?;
    service::ready(&format!("the homeserver is at {homeserver}"));
    identity.do_send(AskWith(relay_request));
    identity.do_send(SubscribeSigner(node.clone().recipient()));
    actix::spawn(async move {
        platform::signals::told_to_stop().await;
        node.do_send(Stop { code: 0 });
    });
    Ok(())
}

/// Opens a page in the browser of whoever sits here; starting one takes a moment.
fn show(page: String) {
    if platform::desktop::has_own_console() {
        log::info!("this window is MessageHub: it runs until you close it");
    }
    actix::spawn(async move {
        let opened = tokio::task::spawn_blocking({
            let page = page.clone();
            move || platform::desktop::open(&page)
        });
        if !matches!(opened.await, Ok(Ok(()))) {
            log::info!("no browser could be started: open {page} in one");
        }
    });
}

/// The parts that the node speaks to once all stand.
struct Wired {
    network: Network,
    rooms: Addr<RoomStateActor>,
    meeting: Addr<MeetingActor>,
    identity: Addr<IdentityActor>,
    store: Addr<StoreActor>,
    accounts: Addr<AccountsActor>,
    device_keys: Addr<DeviceKeysActor>,
    outbox: Addr<OutboxActor>,
    http: Addr<HttpGatewayActor>,
    /// All actors that are one of a kind, by name.
    parts: Vec<(&'static str, Recipient<Beat>)>,
    liveness: Liveness,
    looks: Looks,
}

/// Lets an actor answer a [`Beat`].
macro_rules! beats {
    ($($actor:ty),* $(,)?) => {
        $(impl Handler<Beat> for $actor {
            type Result = ();

            fn handle(&mut self, _: Beat, _: &mut Self::Context) {}
        })*
    };
}

// Swarm answers when its task does.
beats!(
    StoreActor,
    IdentityActor,
    AccountsActor,
    DeviceKeysActor,
    MediaActor,
    PreviewsActor,
    PushersActor,
    EphemeraActor,
    OutboxActor,
    StatusPageActor,
    RoomDirectoryActor,
    RoomStateActor,
    MeetingActor,
    FederationActor,
    HttpGatewayActor,
    GossipActor,
    RendezvousActor,
    RelayRequestActor,
);

/// Passes on what goes upward while the node is being built, and ends it.
struct NodeActor {
    data: PathBuf,
    wired: Option<Wired>,
    /// Whether the log says already how others find us.
    greeted: bool,
    watchdog: Watchdog,
}

#[derive(actix::Message)]
#[rtype(result = "()")]
struct Wire(Wired);

/// Ends the node.
#[derive(actix::Message)]
#[rtype(result = "()")]
struct Stop {
    code: i32,
}

impl NodeActor {
    /// Ends the node when a part of it is gone that nobody starts again (it panicked, and whatever
    /// it owned is in an unknown state), or when one does not get on. Whoever runs the node
    /// (compose, systemd) starts it anew.
    fn look(&mut self, ctx: &mut Context<Self>) {
        let Some(Wired { parts, liveness, looks, .. }) = &mut self.wired else { return };
        looks.count();
        if let Some((name, _)) = parts.iter().find(|(_, part)| !part.connected()) {
            log::error!("{name} ended unexpectedly; this node ends too");
            return ctx.notify(Stop { code: EXIT_SOFTWARE });
        }
        for at in liveness.look() {
            let Some((_, part)) = parts.get(at) else { continue };
            let answered = wrap_future::<_, Self>(part.send(Beat));
            ctx.spawn(answered.map(move |_, node, _| {
                if let Some(wired) = &mut node.wired {
                    wired.liveness.answered(at);
                }
            }));
        }
        if let Some(name) = liveness.hung() {
            let silent = limits::SILENT.as_secs();
            log::error!("{name} has not answered for {silent} s; this node ends");
            return ctx.notify(Stop { code: EXIT_SOFTWARE });
        }
        self.watchdog.gets_on(uptime_ms());
    }
}

impl actix::Actor for NodeActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.run_interval(LOOK_EVERY, Self::look);
    }
}

impl Handler<Wire> for NodeActor {
    type Result = ();

    fn handle(&mut self, msg: Wire, _: &mut Self::Context) {
        self.wired = Some(msg.0);
    }
}

impl Handler<ReadSilent> for NodeActor {
    type Result = Vec<Silent>;

    fn handle(&mut self, _: ReadSilent, _: &mut Self::Context) -> Self::Result {
        self.wired.as_ref().map_or_else(Vec::new, |wired| wired.liveness.silent())
    }
}

impl Handler<SignerIssued> for NodeActor {
    type Result = ();

    fn handle(&mut self, msg: SignerIssued, ctx: &mut Self::Context) {
        let Some(wired) = &self.wired else { return };
        if !std::mem::replace(&mut self.greeted, true) {
            let (accounts, signer) = (wired.accounts.clone(), Arc::clone(&msg.0));
            actix::spawn(async move {
                let profile = LocalProfile(server_name::user_of(signer.server_name()));
                let Ok(profile) = accounts.send(profile).await else { return };
                let name = profile.and_then(|profile| profile.displayname);
                let name = name.unwrap_or_else(|| LOCALPART.to_owned());
                let found = status::found_as(&name, signer.server_name()).join(" or ");
                log::info!("others find you as {found}");
            });
        }
        // Rooms first, and until they know each other: from the network on, others may ask.
        wired.meeting.do_send(identity::UseSigner(Arc::clone(&msg.0)));
        wired.device_keys.do_send(identity::UseSigner(Arc::clone(&msg.0)));
        let ready = wired.rooms.send(identity::UseSigner(Arc::clone(&msg.0)));
        ctx.spawn(ready.into_actor(self).map(move |_, act, _| {
            if let Some(wired) = &act.wired {
                wired.network.use_signer(&msg.0);
            }
        }));
    }
}

impl Handler<ServerOnline> for NodeActor {
    type Result = ();

    fn handle(&mut self, msg: ServerOnline, _: &mut Self::Context) {
        if let Some(wired) = &self.wired {
            wired.identity.do_send(msg.clone());
            wired.outbox.do_send(msg.clone());
            wired.device_keys.do_send(msg.clone());
            wired.meeting.do_send(msg);
        }
    }
}

impl Handler<ServerOffline> for NodeActor {
    type Result = ();

    fn handle(&mut self, msg: ServerOffline, _: &mut Self::Context) {
        if let Some(wired) = &self.wired {
            wired.identity.do_send(msg.clone());
            wired.meeting.do_send(msg);
        }
    }
}

impl Handler<SwarmFailed> for NodeActor {
    type Result = ();

    fn handle(&mut self, msg: SwarmFailed, ctx: &mut Self::Context) {
        log::error!("{msg}");
        ctx.notify(Stop { code: EXIT_CONFIG });
    }
}

impl Handler<UsedElsewhere> for NodeActor {
    type Result = ();

    fn handle(&mut self, msg: UsedElsewhere, ctx: &mut Context<Self>) {
        log::error!("{msg}");
        data_folder::leave_last_word(&self.data, &msg.to_string());
        ctx.notify(Stop { code: EXIT_COPY });
    }
}

impl Handler<Stop> for NodeActor {
    type Result = ();

    fn handle(&mut self, msg: Stop, _: &mut Self::Context) {
        let Some(Wired { network, store, http, .. }) = self.wired.take() else { return };
        service::stopping();
        let system = System::current();
        actix::spawn(async move {
            let ended = tokio::time::timeout(limits::STOP_WAIT, async {
                let _ = http.send(Drain).await;
                network.stop().await;
                // Last, when nobody writes any more.
                match store.send(Close).await {
                    Ok(Ok(())) => msg.code,
                    Ok(Err(error)) => {
                        log::error!("the database did not close cleanly: {error}");
                        EXIT_SOFTWARE
                    }
                    Err(_) => EXIT_SOFTWARE,
                }
            });
            system.stop_with_code(ended.await.unwrap_or(EXIT_SOFTWARE));
        });
    }
}
