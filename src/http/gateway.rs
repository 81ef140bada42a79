//! The Recipients that handlers may use, and where this server is.
//!
//! Whatever http can do to the rest of the node is a field here.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use actix::{
    Addr, Message, Recipient,
    dev::{MessageResponse, ToEnvelope},
};
use actix_web::{HttpRequest, http::header::HOST};
use tokio::sync::{Semaphore, watch};

use super::error::HttpError;
use crate::{
    actors::{
        accounts::AccountsActor,
        admission::Admission,
        device_keys::DeviceKeysActor,
        ephemera::{Presence, ReadEphemera, ReadPresence, WatchEphemera},
        error::AskError,
        identity::ReadSigner,
        media::{
            BeginUpload, CreateMedia, FindMedia, FinishUpload, MakeThumbnail, MediaActor,
            ReadMediaLimit,
        },
        outbox::Owe,
        previews::ReadPreview,
        pushers::{DeletePusher, ListPushers, SetPusher},
        rendezvous::SearchPeople,
        room::{
            ChangeMembership, Join, Leave, ReadContext, ReadMembers, ReadMessages, ReadRelations,
            ReadState, ReadThreadList, RoomError, SendEvent, SetReceipt, SetTyping,
        },
        room_directory::{
            DeleteAlias, FindAlias, IsPublished, ListAliases, ListPublicRooms, Publish,
            ReadHierarchy, ReadSummary, RoomDirectoryActor, SetAlias,
        },
        room_state::{CreateRoom, ForgetRoom, KnowsRoom, ListRooms, ReadMembership, ToRoom},
        status_page::{ReadFigures, WatchStatus},
        store::{
            AckToDevice, ReadDeviceLists, ReadNotifications, ReadSync, SearchDirectory, WatchStream,
        },
        upward::SendFederation,
    },
    config::ASK_WAIT,
    meters::Meters,
};

/// Everything that a handler may use.
#[derive(Debug, Clone)]
pub struct Gateway {
    /// Accounts.
    pub accounts: Addr<AccountsActor>,
    /// DeviceKeys.
    pub device_keys: Addr<DeviceKeysActor>,
    /// Pushers.
    pub pushers: PusherLinks,
    /// Rooms, through RoomState.
    pub rooms: RoomLinks,
    /// Store.
    pub store: StoreLinks,
    /// Ephemera.
    pub ephemera: EphemeraLinks,
    /// Rendezvous: finding people.
    pub search_people: Recipient<SearchPeople>,
    /// RelayRequest: asking other servers.
    pub send_federation: Recipient<SendFederation>,
    /// Outbox: what other servers are to get, whether they are there or not.
    pub owe: Recipient<Owe>,
    /// Identity: our server_keys.
    pub read_signer: Recipient<ReadSigner>,
    /// Media.
    pub media: MediaDoor,
    /// Previews, where they are wanted.
    pub read_preview: Option<Recipient<ReadPreview>>,
    /// How rooms are found.
    pub directory: DirectoryLinks,
    /// Places for downloads: each takes memory for as long as it lasts.
    pub downloads: Arc<Semaphore>,
    /// What is counted.
    pub meters: Meters,
    /// The status page.
    pub watch_status: Recipient<WatchStatus>,
    /// StatusPage: figures for Prometheus.
    pub figures: Recipient<ReadFigures>,
    /// The work budget of clients.
    pub admission: Admission,
    /// A number that no other start of this node had, for sync tokens.
    pub boot: u64,
}

/// What is asked of Pushers.
#[derive(Debug, Clone)]
pub struct PusherLinks {
    /// A new one.
    pub set: Recipient<SetPusher>,
    /// One less.
    pub delete: Recipient<DeletePusher>,
    /// All of a user.
    pub list: Recipient<ListPushers>,
}

/// What is asked of Media.
#[derive(Debug, Clone)]
pub struct MediaDoor {
    /// Place for an upload.
    pub begin: Recipient<BeginUpload>,
    /// It is there.
    pub finish: Recipient<FinishUpload>,
    /// An id for a later one.
    pub create: Recipient<CreateMedia>,
    /// Something that was uploaded.
    pub find: Recipient<FindMedia>,
    /// A thumbnail.
    pub thumbnail: Recipient<MakeThumbnail>,
    /// How large a file may be.
    pub limit: Recipient<ReadMediaLimit>,
}

impl From<&Addr<MediaActor>> for MediaDoor {
    fn from(media: &Addr<MediaActor>) -> Self {
        Self {
            begin: media.clone().recipient(),
            finish: media.clone().recipient(),
            create: media.clone().recipient(),
            find: media.clone().recipient(),
            thumbnail: media.clone().recipient(),
            limit: media.clone().recipient(),
        }
    }
}

/// What is asked of RoomDirectory.
#[derive(Debug, Clone)]
pub struct DirectoryLinks {
    /// An alias for a room.
    pub set_alias: Recipient<SetAlias>,
    /// One less.
    pub delete_alias: Recipient<DeleteAlias>,
    /// Where one leads.
    pub find_alias: Recipient<FindAlias>,
    /// All of a room.
    pub list_aliases: Recipient<ListAliases>,
    /// Into the list of public rooms, or out of it.
    pub publish: Recipient<Publish>,
    /// Whether a room is in it.
    pub is_published: Recipient<IsPublished>,
    /// Public rooms.
    pub list_public_rooms: Recipient<ListPublicRooms>,
    /// What a room shows of itself.
    pub read_summary: Recipient<ReadSummary>,
    /// The rooms of a space.
    pub read_hierarchy: Recipient<ReadHierarchy>,
}

impl From<&Addr<RoomDirectoryActor>> for DirectoryLinks {
    fn from(directory: &Addr<RoomDirectoryActor>) -> Self {
        Self {
            set_alias: directory.clone().recipient(),
            delete_alias: directory.clone().recipient(),
            find_alias: directory.clone().recipient(),
            list_aliases: directory.clone().recipient(),
            publish: directory.clone().recipient(),
            is_published: directory.clone().recipient(),
            list_public_rooms: directory.clone().recipient(),
            read_summary: directory.clone().recipient(),
            read_hierarchy: directory.clone().recipient(),
        }
    }
}

/// What is asked of rooms.
#[derive(Debug, Clone)]
pub struct RoomLinks {
    /// A new room.
    pub create: Recipient<CreateRoom>,
    /// The user's rooms.
    pub list: Recipient<ListRooms>,
    /// The user's membership of one.
    pub membership: Recipient<ReadMembership>,
    /// Whether there is a room.
    pub knows: Recipient<KnowsRoom>,
    /// Forget a room.
    pub forget: Recipient<ForgetRoom>,
    /// Send an event.
    pub send: Recipient<ToRoom<SendEvent>>,
    /// Invite, kick, ban, unban.
    pub change_membership: Recipient<ToRoom<ChangeMembership>>,
    /// Join.
    pub join: Recipient<ToRoom<Join>>,
    /// Leave.
    pub leave: Recipient<ToRoom<Leave>>,
    /// Typing.
    pub set_typing: Recipient<ToRoom<SetTyping>>,
    /// Receipts.
    pub set_receipt: Recipient<ToRoom<SetReceipt>>,
    /// State.
    pub read_state: Recipient<ToRoom<ReadState>>,
    /// Members.
    pub read_members: Recipient<ToRoom<ReadMembers>>,
    /// History.
    pub read_messages: Recipient<ToRoom<ReadMessages>>,
    /// An event and what is around it.
    pub read_context: Recipient<ToRoom<ReadContext>>,
    /// What relates to an event.
    pub read_relations: Recipient<ToRoom<ReadRelations>>,
    /// Threads.
    pub read_threads: Recipient<ToRoom<ReadThreadList>>,
}

/// What is asked of the Store.
#[derive(Debug, Clone)]
pub struct StoreLinks {
    /// What changed.
    pub read_sync: Recipient<ReadSync>,
    /// Whose devices changed.
    pub read_device_lists: Recipient<ReadDeviceLists>,
    /// What notified a user.
    pub read_notifications: Recipient<ReadNotifications>,
    /// The watch of what changes.
    pub watch: Recipient<WatchStream>,
    /// To-device messages arrived.
    pub ack_to_device: Recipient<AckToDevice>,
    /// People in shared rooms.
    pub search_directory: Recipient<SearchDirectory>,
}

/// What is asked of Ephemera.
#[derive(Debug, Clone)]
pub struct EphemeraLinks {
    /// What changed.
    pub read: Recipient<ReadEphemera>,
    /// The watch of what changes.
    pub watch: Recipient<WatchEphemera>,
    /// Our user's presence.
    pub set_presence: Recipient<Presence>,
    /// Somebody's presence.
    pub read_presence: Recipient<ReadPresence>,
}

/// Asks an actor.
pub async fn ask<M>(to: &Recipient<M>, message: M) -> Result<M::Result, HttpError>
where
    M: Message + Send + 'static,
    M::Result: Send,
{
    Ok(to.send(message).timeout(ASK_WAIT).await.map_err(AskError::from)?)
}

impl Gateway {
    /// Asks Accounts.
    pub async fn ask_accounts<M>(&self, message: M) -> Result<M::Result, HttpError>
    where
        M: Message + Send + 'static,
        M::Result: MessageResponse<AccountsActor, M> + Send,
        AccountsActor: actix::Handler<M>,
        <AccountsActor as actix::Actor>::Context: ToEnvelope<AccountsActor, M>,
    {
        Ok(self.accounts.send(message).timeout(ASK_WAIT).await.map_err(AskError::from)?)
    }

    /// Asks DeviceKeys.
    pub async fn ask_device_keys<M>(&self, message: M) -> Result<M::Result, HttpError>
    where
        M: Message + Send + 'static,
        M::Result: MessageResponse<DeviceKeysActor, M> + Send,
        DeviceKeysActor: actix::Handler<M>,
        <DeviceKeysActor as actix::Actor>::Context: ToEnvelope<DeviceKeysActor, M>,
    {
        Ok(self.device_keys.send(message).timeout(ASK_WAIT).await.map_err(AskError::from)?)
    }
}

/// Asks a room.
pub async fn ask_room<M, T>(
    to: &Recipient<ToRoom<M>>,
    room_id: ruma::OwnedRoomId,
    message: M,
) -> Result<T, HttpError>
where
    M: Message<Result = Result<T, RoomError>> + Send + 'static,
    T: Send + 'static,
{
    Ok(ask(to, ToRoom { room_id, message }).await???)
}

/// Where the servers are bound, and what follows from it: which `Host` is ours, which origin is
/// Element's.
#[derive(Debug, Clone)]
pub struct Place {
    /// The homeserver.
    pub homeserver: SocketAddr,
    /// Element, where it is served.
    pub element: Option<SocketAddr>,
    /// Turns true when the node stops: whoever waits answers at once.
    pub stopping: watch::Receiver<bool>,
}

impl Place {
    /// Returns the address that clients use for the homeserver, without a slash at the end.
    pub fn homeserver_url(&self) -> String {
        url_of(self.homeserver)
    }

    /// Returns the URL of a server of ours as it is for whoever sent a request to one of them: one
    /// that listens on all addresses is at the address where they found us.
    pub fn url_seen_by(&self, request: &HttpRequest, server: SocketAddr) -> String {
        if !server.ip().is_unspecified() {
            return url_of(server);
        }
        let host = request.headers().get(HOST).and_then(|host| host.to_str().ok());
        let host = host.unwrap_or_default();
        let name = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
            _ => host,
        };
        url_with(name, server.port())
    }

    /// Tells whether a `Host` header names the server that listens at `listen`.
    ///
    /// A name that is not ours means that somebody's domain was made to resolve to our address
    /// (DNS rebinding), and its pages would have our origin. The port proves nothing: it may have
    /// been forwarded.
    pub fn is_our_host(host: &str, listen: SocketAddr) -> bool {
        let name = match host.strip_prefix('[') {
            Some(rest) => rest.split_once(']').map_or("", |(name, _)| name),
            None => host.rsplit_once(':').map_or(host, |(name, _)| name),
        };
        let address: Option<IpAddr> = name.parse().ok();
        let ip = listen.ip();
        if ip.is_unspecified() {
            // Bound to every address, as in a container: an address cannot be rebound.
            return address.is_some() || name.eq_ignore_ascii_case("localhost");
        }
        let here = ip.is_loopback()
            && (name.eq_ignore_ascii_case("localhost")
                || address.is_some_and(|address| address == IpAddr::from([127, 0, 0, 1]))
                || address.is_some_and(|address| address == std::net::Ipv6Addr::LOCALHOST));
        address == Some(ip) || here
    }

    /// Tells whether an origin (`scheme://host:port`, as browsers write it) is Element's.
    pub fn is_element(&self, origin: &str) -> bool {
        let Some(element) = self.element else { return false };
        if !element.ip().is_unspecified() {
            return origin == url_of(element);
        }
        let here = ["127.0.0.1", "localhost", "[::1]"];
        here.iter().any(|host| origin == url_with(host, element.port()))
    }

    /// Tells whether an origin is the homeserver's own.
    pub fn is_homeserver(&self, origin: &str, host: &str) -> bool {
        origin.strip_prefix("http://").is_some_and(|own| own.eq_ignore_ascii_case(host))
            && Self::is_our_host(host, self.homeserver)
    }
}

/// Returns the URL of an address; an address that stands for all becomes the loopback one.
pub fn url_of(address: SocketAddr) -> String {
    match address.ip() {
        ip if ip.is_unspecified() => url_with("127.0.0.1", address.port()),
        IpAddr::V4(ip) => url_with(&ip.to_string(), address.port()),
        IpAddr::V6(ip) => url_with(&format!("[{ip}]"), address.port()),
    }
}

/// Returns the URL of a host and port; 80 is not written, as browsers do not either.
pub fn url_with(host: &str, port: u16) -> String {
    match port {
        80 => format!("http://{host}"),
        port => format!("http://{host}:{port}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_names_are_ours() {
        let listen: SocketAddr = "127.84.48.2:80".parse().unwrap();
        for host in ["127.84.48.2", "127.84.48.2:80", "localhost:8008", "[::1]:80", "127.0.0.1"] {
            assert!(Place::is_our_host(host, listen), "{host}");
        }
        for host in
            ["evil.example", "127.84.48.2.evil.example", "", "10.0.0.1", "evil:80", "[::2]", "["]
        {
            assert!(!Place::is_our_host(host, listen), "{host}");
        }
        let lan: SocketAddr = "192.168.1.5:80".parse().unwrap();
        assert!(Place::is_our_host("192.168.1.5", lan));
        assert!(!Place::is_our_host("localhost", lan));
        let all: SocketAddr = "0.0.0.0:80".parse().unwrap();
        assert!(Place::is_our_host("10.1.2.3:8080", all));
        assert!(!Place::is_our_host("evil.example", all));
    }

    #[test]
    fn urls_are_written_as_browsers_write_them() {
        assert_eq!(url_of("127.84.48.1:80".parse().unwrap()), "http://127.84.48.1");
        assert_eq!(url_of("[::1]:8480".parse().unwrap()), "http://[::1]:8480");
        assert_eq!(url_of("0.0.0.0:8008".parse().unwrap()), "http://127.0.0.1:8008");
    }

    #[test]
    fn the_origin_of_element_is_its_exact_address() {
        let place = |element: &str| Place {
            homeserver: "127.84.48.2:80".parse().unwrap(),
            element: element.parse().ok(),
            stopping: watch::channel(false).1,
        };
        assert!(place("127.84.48.1:80").is_element("http://127.84.48.1"));
        for origin in ["http://127.84.48.1:81", "https://127.84.48.1", "http://localhost", "null"] {
            assert!(!place("127.84.48.1:80").is_element(origin), "{origin}");
        }
        assert!(place("0.0.0.0:81").is_element("http://localhost:81"));
        assert!(!place("none").is_element("http://127.84.48.1"));
    }
}
