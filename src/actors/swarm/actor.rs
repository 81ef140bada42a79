//! The shell around the Swarm's task: messages become commands, events become messages.
//!
//! Invariants: nothing waits for the task. What must not be lost (topics, identity, provided keys)
//! waits in a bounded backlog where the command channel is full; all else is dropped or answered
//! as failed. There is no Swarm before there is an identity. When its task ends, the actor restarts
//! and builds the Swarm anew, with the same key.

use std::{collections::VecDeque, fmt, path::PathBuf, time::Duration};

use actix::prelude::*;
use libp2p::{Multiaddr, PeerId, identity::Keypair};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

use super::{
    Admit, AskPieces, Bind, Dial, Discovery, Dismiss, Exchange, FindNode, FindProviders,
    GivePieces, GivePiecesWith, GossipReceived, Keep, NetworkStatus, PiecesAsked, Provide, Publish,
    QueueCounts, ReadMeshes, ReadQueues, ReadSwarm, ReportVerdict, RequestFailed, RequestReceived,
    SendReply, SendRequest, SetIdentity, StopSwarm, Subscribe, SwarmFailed, SwarmRestarted,
    Unsubscribe,
    behaviour::Choices,
    event_loop::{Answered, Command, Event, EventLoop},
    transport::{self, NetworkKey},
};
use crate::{
    actors::beat::Beat,
    config::{Config, RelayConfig, limits},
    meters::{Dropped, Flow, Meters},
};

/// Commands that must not be lost and wait for room.
const BACKLOG_MAX: usize = 16 * 1024;
const BACKLOG_RETRY: Duration = Duration::from_millis(20);
const REBUILD_FIRST: Duration = Duration::from_secs(1);
const REBUILD_LONGEST: Duration = Duration::from_secs(60);

/// What the Swarm is built from.
#[derive(Clone)]
pub struct SwarmSettings {
    pub(super) keypair: Keypair,
    pub(super) listen: Vec<Multiaddr>,
    pub(super) bootstrap: Vec<Multiaddr>,
    pub(super) static_relays: Vec<Multiaddr>,
    pub(super) external: Vec<Multiaddr>,
    pub(super) relay: RelayConfig,
    pub(super) mdns: bool,
    pub(super) port_mapping: bool,
    pub(super) blocked: Vec<PeerId>,
    pub(super) network: Option<NetworkKey>,
    pub(super) failed: Recipient<SwarmFailed>,
    /// Where good nodes of the public DHT are written down.
    pub(super) data: Option<PathBuf>,
    /// What is counted.
    pub(super) meters: Meters,
}

impl fmt::Debug for SwarmSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SwarmSettings").field("listen", &self.listen).finish_non_exhaustive()
    }
}

impl SwarmSettings {
    /// Takes from the configuration what concerns libp2p. `failed` is told when a configured
    /// address cannot be listened on.
    pub fn new(config: &Config, keypair: Keypair, failed: Recipient<SwarmFailed>) -> Self {
        let secret = config.libp2p.private_network_secret.as_deref();
        Self {
            keypair,
            listen: config.libp2p.listen_addresses.clone(),
            bootstrap: config.bootstrap_peers(),
            static_relays: config.libp2p.static_relays.clone(),
            external: config.libp2p.external_addresses.clone(),
            relay: config.libp2p.relay.clone(),
            mdns: config.libp2p.mdns,
            port_mapping: config.libp2p.port_mapping,
            blocked: config.libp2p.blocked_peers.clone(),
            network: secret.map(NetworkKey::derive),
            failed,
            data: None,
            meters: Meters::default(),
        }
    }

    /// Sets what is counted.
    pub fn with_meters(mut self, meters: Meters) -> Self {
        self.meters = meters;
        self
    }

    /// Sets the folder in which good nodes of the public DHT are written down.
    pub fn with_data(mut self, data: Option<PathBuf>) -> Self {
        self.data = data;
        self
    }

    pub(super) fn choices(&self) -> Choices {
        let wan = !self.bootstrap.is_empty() && self.network.is_none();
        let closed = self.network.is_some();
        let port_mapping = self.port_mapping && !closed;
        Choices {
            mdns: self.mdns,
            wan,
            closed,
            traversal: !closed,
            relay: self.relay.clone(),
            port_mapping,
            blocked: self.blocked.clone(),
        }
    }
}

/// The shell around the Swarm.
pub struct SwarmActor {
    settings: SwarmSettings,
    commands: Option<mpsc::Sender<Command>>,
    /// The other way, to see how full it is; it does not keep it open.
    events: Option<mpsc::WeakSender<Event>>,
    task: Option<JoinHandle<()>>,
    backlog: VecDeque<Command>,
    identity: Option<Vec<u8>>,
    bound: Option<Bind>,
    pieces: Option<Recipient<PiecesAsked>>,
    rebuild_wait: Option<Duration>,
    stopping: bool,
}

impl fmt::Debug for SwarmActor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SwarmActor").field("backlog", &self.backlog.len()).finish_non_exhaustive()
    }
}

impl SwarmActor {
    /// Makes the actor; the Swarm is built with the first [`SetIdentity`].
    pub fn new(settings: SwarmSettings) -> Self {
        Self {
            settings,
            commands: None,
            events: None,
            task: None,
            backlog: VecDeque::new(),
            identity: None,
            bound: None,
            pieces: None,
            rebuild_wait: None,
            stopping: false,
        }
    }

    fn build(&mut self, ctx: &mut Context<Self>) {
        let settings = self.settings.clone();
        let built =
            transport::build(settings.keypair.clone(), settings.network, &settings.choices());
        let swarm = match built {
            Ok(swarm) => swarm,
            Err(error) => {
                log::error!("{error}");
                let failed = SwarmFailed { address: "any".to_owned(), why: error.to_string() };
                self.settings.failed.do_send(failed);
                return;
            }
        };
        let (commands, receiver) = mpsc::channel(limits::SWARM_COMMANDS);
        let (sender, mut events) = mpsc::channel(limits::SWARM_EVENTS);
        self.events = Some(sender.downgrade());
        let task = EventLoop::new(swarm, settings, receiver, sender).run();
        self.task = Some(tokio::spawn(Box::pin(task)));
        ctx.add_stream(futures::stream::poll_fn(move |cx| events.poll_recv(cx)));
        self.commands = Some(commands);
        if let Some(identity) = self.identity.clone() {
            self.backlog.push_front(Command::SetIdentity(identity));
        }
        self.drain(ctx);
        if let (Some(_), Some(bound)) = (self.rebuild_wait, &self.bound) {
            for owner in &bound.restarted {
                owner.do_send(SwarmRestarted);
            }
        }
    }

    /// Sends what may be lost.
    fn tell(&self, command: Command) -> Result<(), Command> {
        match &self.commands {
            Some(commands) => {
                commands.try_send(command).map_err(mpsc::error::TrySendError::into_inner)
            }
            None => Err(command),
        }
    }

    /// Sends what may be lost, and counts it.
    fn send_counted(&self, flow: Flow, len: usize, command: Command) {
        self.settings.meters.sent(flow, len);
        // Without a Swarm nobody was to get it.
        if self.tell(command).is_err() && self.commands.is_some() {
            self.settings.meters.dropped(Dropped::RequestBehind);
        }
    }

    /// Waits for an answer, and counts it.
    fn count_answer(
        &self,
        flow: Flow,
        answer: oneshot::Receiver<Answered>,
    ) -> ResponseFuture<Answered> {
        let meters = self.settings.meters.clone();
        Box::pin(async move {
            let answer = answer.await.unwrap_or(Err(RequestFailed::Offline));
            if let Ok(bytes) = &answer {
                meters.received(flow, bytes.len());
            }
            answer
        })
    }

    /// Sends what must not be lost, in order.
    fn must(&mut self, command: Command, ctx: &mut Context<Self>) {
        let command = match self.backlog.is_empty() {
            true => match self.tell(command) {
                Ok(()) => return,
                Err(command) => command,
            },
            false => command,
        };
        if self.backlog.len() >= BACKLOG_MAX {
            log::error!("a command to the network was lost: too many are waiting");
            return;
        }
        // Without a Swarm, it is the one that is built next that gets them.
        if self.backlog.is_empty() && self.commands.is_some() {
            ctx.run_later(BACKLOG_RETRY, |actor, ctx| actor.drain(ctx));
        }
        self.backlog.push_back(command);
    }

    fn drain(&mut self, ctx: &mut Context<Self>) {
        while let Some(command) = self.backlog.pop_front() {
            if let Err(command) = self.tell(command) {
                self.backlog.push_front(command);
                if self.commands.is_some() {
                    ctx.run_later(BACKLOG_RETRY, |actor, ctx| actor.drain(ctx));
                }
                return;
            }
        }
    }
}

impl Actor for SwarmActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        ctx.set_mailbox_capacity(limits::MAILBOX);
        if let Some(wait) = self.rebuild_wait {
            ctx.run_later(wait, Self::build);
        }
    }
}

impl Supervised for SwarmActor {
    fn restarting(&mut self, _: &mut Context<Self>) {
        log::error!("the network task ended; building it anew");
        self.commands = None;
        // Subscriptions and provided keys are asked for again by those who own them.
        self.backlog.clear();
        let wait = self.rebuild_wait.map_or(REBUILD_FIRST, |wait| wait * 2);
        self.rebuild_wait = Some(wait.min(REBUILD_LONGEST));
    }
}

impl StreamHandler<Event> for SwarmActor {
    fn handle(&mut self, event: Event, _: &mut Context<Self>) {
        let Some(bound) = &self.bound else { return };
        let meters = &self.settings.meters;
        match event {
            Event::Gossip(event) => {
                meters.received(Flow::Gossip, event.bytes.len());
                send::<GossipReceived>(&bound.gossip, event);
            }
            Event::Pieces(event) => {
                meters.received(Flow::Media, event.bytes.len());
                if let Some(pieces) = &self.pieces {
                    send::<PiecesAsked>(pieces, event);
                }
            }
            Event::Request(event) => {
                meters.received(Flow::Requests, event.bytes.len());
                send::<RequestReceived>(&bound.requests, event);
            }
            Event::Discovery(event) => send::<Discovery>(&bound.discovery, event),
        }
    }

    fn finished(&mut self, ctx: &mut Context<Self>) {
        if !self.stopping {
            ctx.stop();
        }
    }
}

fn send<M>(to: &Recipient<M>, message: M)
where
    M: Message + Send + 'static,
    M::Result: Send,
{
    to.do_send(message);
}

impl Handler<Bind> for SwarmActor {
    type Result = ();

    fn handle(&mut self, bind: Bind, _: &mut Context<Self>) {
        self.bound = Some(bind);
    }
}

impl Handler<StopSwarm> for SwarmActor {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: StopSwarm, _: &mut Context<Self>) -> Self::Result {
        self.stopping = true;
        self.backlog.clear();
        self.commands = None;
        let task = self.task.take();
        Box::pin(async move {
            // It may have ended already; that it failed was logged then.
            if let Some(task) = task {
                let _ = task.await;
            }
        })
    }
}

impl Handler<SetIdentity> for SwarmActor {
    type Result = ();

    fn handle(&mut self, SetIdentity(server_keys): SetIdentity, ctx: &mut Context<Self>) {
        let first = self.identity.replace(server_keys.clone()).is_none();
        match &self.commands {
            Some(_) => self.must(Command::SetIdentity(server_keys), ctx),
            None if first && !self.stopping => self.build(ctx),
            None => {}
        }
    }
}

impl Handler<Exchange> for SwarmActor {
    type Result = ();

    fn handle(&mut self, Exchange(peer): Exchange, ctx: &mut Context<Self>) {
        self.must(Command::Exchange(peer), ctx);
    }
}

impl Handler<Keep> for SwarmActor {
    type Result = ();

    fn handle(&mut self, Keep(peer): Keep, ctx: &mut Context<Self>) {
        self.must(Command::Keep(peer), ctx);
    }
}

impl Handler<Admit> for SwarmActor {
    type Result = ();

    fn handle(&mut self, Admit(peer): Admit, ctx: &mut Context<Self>) {
        self.must(Command::Admit(peer), ctx);
    }
}

impl Handler<Dismiss> for SwarmActor {
    type Result = ();

    fn handle(&mut self, Dismiss(peer): Dismiss, ctx: &mut Context<Self>) {
        self.must(Command::Dismiss(peer), ctx);
    }
}

impl Handler<Subscribe> for SwarmActor {
    type Result = ();

    fn handle(&mut self, Subscribe(topic): Subscribe, ctx: &mut Context<Self>) {
        self.must(Command::Subscribe(topic), ctx);
    }
}

impl Handler<Unsubscribe> for SwarmActor {
    type Result = ();

    fn handle(&mut self, Unsubscribe(topic): Unsubscribe, ctx: &mut Context<Self>) {
        self.must(Command::Unsubscribe(topic), ctx);
    }
}

impl Handler<Provide> for SwarmActor {
    type Result = ();

    fn handle(&mut self, Provide(keys): Provide, ctx: &mut Context<Self>) {
        self.must(Command::Provide(keys), ctx);
    }
}

impl Handler<Publish> for SwarmActor {
    type Result = ();

    fn handle(&mut self, Publish { topic, bytes }: Publish, _: &mut Context<Self>) {
        self.settings.meters.sent(Flow::Gossip, bytes.len());
        if self.tell(Command::Publish { topic, bytes }).is_err() {
            self.settings.meters.dropped(Dropped::PublishBehind);
            log::debug!("gossip was dropped: the network is overloaded");
        }
    }
}

impl Handler<ReportVerdict> for SwarmActor {
    type Result = ();

    fn handle(&mut self, report: ReportVerdict, _: &mut Context<Self>) {
        let ReportVerdict { ticket, verdict } = report;
        // Lost, the message counts as ignored.
        if self.tell(Command::ReportVerdict { ticket, verdict }).is_err() {
            self.settings.meters.dropped(Dropped::VerdictBehind);
        }
    }
}

impl Handler<SendRequest> for SwarmActor {
    type Result = ResponseFuture<Answered>;

    fn handle(&mut self, request: SendRequest, _: &mut Context<Self>) -> Self::Result {
        let SendRequest { peer, bytes } = request;
        let (reply, answer) = oneshot::channel();
        self.send_counted(Flow::Requests, bytes.len(), Command::Request { peer, bytes, reply });
        self.count_answer(Flow::Requests, answer)
    }
}

impl Handler<SendReply> for SwarmActor {
    type Result = ();

    fn handle(&mut self, SendReply { ticket, bytes }: SendReply, _: &mut Context<Self>) {
        // Lost, the stream closes and the asker learns it.
        self.send_counted(Flow::Requests, bytes.len(), Command::Reply { ticket, bytes });
    }
}

impl Handler<GivePiecesWith> for SwarmActor {
    type Result = ();

    fn handle(&mut self, GivePiecesWith(pieces): GivePiecesWith, _: &mut Context<Self>) {
        self.pieces = Some(pieces);
    }
}

impl Handler<AskPieces> for SwarmActor {
    type Result = ResponseFuture<Answered>;

    fn handle(
        &mut self,
        AskPieces { peer, bytes }: AskPieces,
        _: &mut Context<Self>,
    ) -> Self::Result {
        let (reply, answer) = oneshot::channel();
        self.send_counted(Flow::Media, bytes.len(), Command::AskPieces { peer, bytes, reply });
        self.count_answer(Flow::Media, answer)
    }
}

impl Handler<GivePieces> for SwarmActor {
    type Result = ();

    fn handle(&mut self, GivePieces { ticket, bytes }: GivePieces, _: &mut Context<Self>) {
        // Lost, the stream closes and the asker learns it.
        self.send_counted(Flow::Media, bytes.len(), Command::GivePieces { ticket, bytes });
    }
}

impl Handler<Dial> for SwarmActor {
    type Result = ();

    fn handle(&mut self, Dial { peer, addresses }: Dial, _: &mut Context<Self>) {
        if self.tell(Command::Dial { peer, addresses }).is_err()
            && let Some(bound) = &self.bound
        {
            bound.discovery.do_send(Discovery::DialFailed(peer));
        }
    }
}

impl Handler<FindProviders> for SwarmActor {
    type Result = ();

    fn handle(&mut self, FindProviders { ticket, keys }: FindProviders, _: &mut Context<Self>) {
        let sent = self.tell(Command::FindProviders { ticket, keys });
        self.found_nothing(sent.is_err(), ticket);
    }
}

impl Handler<FindNode> for SwarmActor {
    type Result = ();

    fn handle(&mut self, FindNode { ticket, peer }: FindNode, _: &mut Context<Self>) {
        let sent = self.tell(Command::FindNode { ticket, peer });
        self.found_nothing(sent.is_err(), ticket);
    }
}

impl SwarmActor {
    fn found_nothing(&self, lost: bool, ticket: u64) {
        if let (true, Some(bound)) = (lost, &self.bound) {
            bound.discovery.do_send(Discovery::Found { ticket, peers: Vec::new(), done: true });
        }
    }
}

impl Handler<ReadSwarm> for SwarmActor {
    type Result = ResponseFuture<NetworkStatus>;

    fn handle(&mut self, _: ReadSwarm, _: &mut Context<Self>) -> Self::Result {
        let (reply, status) = oneshot::channel();
        let _ = self.tell(Command::Status(reply));
        Box::pin(async move { status.await.unwrap_or_default() })
    }
}

impl Handler<ReadQueues> for SwarmActor {
    type Result = QueueCounts;

    fn handle(&mut self, _: ReadQueues, _: &mut Context<Self>) -> QueueCounts {
        fn waits<T>(sender: &mpsc::Sender<T>) -> usize {
            sender.max_capacity().saturating_sub(sender.capacity())
        }
        let events = self.events.as_ref().and_then(mpsc::WeakSender::upgrade);
        QueueCounts {
            commands: self.commands.as_ref().map_or(0, waits),
            events: events.as_ref().map_or(0, waits),
            backlog: self.backlog.len(),
        }
    }
}

impl Handler<ReadMeshes> for SwarmActor {
    type Result = ResponseFuture<Vec<Vec<String>>>;

    fn handle(&mut self, ReadMeshes(topics): ReadMeshes, _: &mut Context<Self>) -> Self::Result {
        let (reply, meshes) = oneshot::channel();
        let _ = self.tell(Command::Meshes { topics, reply });
        Box::pin(async move { meshes.await.unwrap_or_default() })
    }
}

impl Handler<Beat> for SwarmActor {
    type Result = ResponseFuture<()>;

    /// Answers when the task does. One that is being built anew has nothing to hang in.
    fn handle(&mut self, _: Beat, _: &mut Context<Self>) -> Self::Result {
        let commands = self.commands.clone();
        Box::pin(async move {
            let Some(commands) = commands else { return };
            let (reply, beat) = oneshot::channel();
            // A channel that stays full is a task that does not get on.
            if commands.send(Command::Beat(reply)).await.is_ok() {
                let _ = beat.await;
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    /// Makes the task end, as a bug in it would.
    #[derive(Message)]
    #[rtype(result = "()")]
    struct Fail;

    impl Handler<Fail> for SwarmActor {
        type Result = ();

        fn handle(&mut self, _: Fail, _: &mut Context<Self>) {
            let _ = self.tell(Command::Fail);
        }
    }

    /// Everybody whom the Swarm tells something.
    #[derive(Default)]
    struct Others {
        restarted: usize,
    }

    impl Actor for Others {
        type Context = Context<Self>;
    }

    #[derive(Message)]
    #[rtype(result = "usize")]
    struct Restarts;

    impl Handler<Restarts> for Others {
        type Result = usize;

        fn handle(&mut self, _: Restarts, _: &mut Context<Self>) -> usize {
            self.restarted
        }
    }

    impl Handler<SwarmRestarted> for Others {
        type Result = ();

        fn handle(&mut self, _: SwarmRestarted, _: &mut Context<Self>) {
            self.restarted += 1;
        }
    }

    macro_rules! ignore {
        ($($message:ty),*) => {$(
            impl Handler<$message> for Others {
                type Result = ();

                fn handle(&mut self, _: $message, _: &mut Context<Self>) {}
            }
        )*};
    }

    ignore!(GossipReceived, RequestReceived, Discovery, SwarmFailed);

    async fn listening(swarm: &Addr<SwarmActor>) -> NetworkStatus {
        loop {
            let status = swarm.send(ReadSwarm).await.unwrap();
            if !status.listen_addresses.is_empty() {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn start() -> (Addr<SwarmActor>, Addr<Others>) {
        let others = Others::default().start();
        let libp2p = serde_json::json!({
            "listenAddresses": ["/ip4/127.0.0.1/tcp/0"],
            "mdns": false,
            "dht": {"bootstrapPeers": []},
        });
        let config = serde_json::json!({ "libp2p": libp2p });
        let config: Config = serde_json::from_value(config).unwrap();
        let key = Keypair::generate_ed25519();
        let settings = SwarmSettings::new(&config, key, others.clone().recipient());
        let swarm = Supervisor::start(|_| SwarmActor::new(settings));
        swarm.do_send(Bind {
            gossip: others.clone().recipient(),
            requests: others.clone().recipient(),
            discovery: others.clone().recipient(),
            restarted: vec![others.clone().recipient()],
        });
        (swarm, others)
    }

    #[actix::test]
    async fn a_private_network_asks_no_router() {
        for (libp2p, asks) in [
            (serde_json::json!({}), true),
            (serde_json::json!({"portMapping": false}), false),
            (serde_json::json!({"privateNetworkSecret": "a secret of some length"}), false),
        ] {
            let config: Config =
                serde_json::from_value(serde_json::json!({ "libp2p": libp2p })).unwrap();
            let failed = Others::default().start().recipient();
            let settings = SwarmSettings::new(&config, Keypair::generate_ed25519(), failed);
            assert_eq!(settings.choices().port_mapping, asks, "{libp2p}");
        }
    }

    #[actix::test]
    async fn a_task_that_ended_is_replaced_with_the_same_key() {
        let (swarm, others) = start();
        swarm.do_send(SetIdentity(b"keys".to_vec()));
        let before = listening(&swarm).await;
        swarm.send(Fail).await.unwrap();
        while others.send(Restarts).await.unwrap() == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(listening(&swarm).await.peer_id, before.peer_id);
    }

    #[actix::test]
    async fn there_is_no_network_without_an_identity_and_none_after_the_end() {
        let (swarm, _others) = start();
        swarm.send(Subscribe("topic".to_owned())).await.unwrap();
        assert_eq!(swarm.send(ReadSwarm).await.unwrap().peer_id, "");
        let request = || SendRequest { peer: libp2p::PeerId::random(), bytes: Vec::new() };
        assert_eq!(swarm.send(request()).await.unwrap(), Err(RequestFailed::Offline));
        swarm.do_send(SetIdentity(b"keys".to_vec()));
        listening(&swarm).await;
        swarm.send(StopSwarm).await.unwrap();
        assert_eq!(swarm.send(request()).await.unwrap(), Err(RequestFailed::Offline));
    }

    #[actix::test]
    async fn a_flood_of_topics_loses_none() {
        let (swarm, _others) = start();
        swarm.do_send(SetIdentity(b"keys".to_vec()));
        listening(&swarm).await;
        let topics = 4 * limits::SWARM_COMMANDS;
        for number in 0..topics {
            swarm.do_send(Subscribe(number.to_string()));
        }
        // Asked behind the flood; those in the backlog come later, and none is dropped.
        let (reply, waiting) = oneshot::channel();
        swarm.do_send(Waiting(reply));
        assert!(waiting.await.unwrap() <= topics);
        loop {
            let (reply, waiting) = oneshot::channel();
            swarm.do_send(Waiting(reply));
            if waiting.await.unwrap() == 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    #[derive(Message)]
    #[rtype(result = "()")]
    struct Waiting(oneshot::Sender<usize>);

    impl Handler<Waiting> for SwarmActor {
        type Result = ();

        fn handle(&mut self, Waiting(reply): Waiting, _: &mut Context<Self>) {
            let _ = reply.send(self.backlog.len());
        }
    }
}
