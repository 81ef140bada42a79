//! What http may do to the rest of the node: each of its Recipients, and whose it is.

use std::sync::Arc;

use actix::Addr;
use tokio::sync::Semaphore;

use crate::{
    actors::{
        accounts::AccountsActor, admission::Admission, device_keys::DeviceKeysActor,
        ephemera::EphemeraActor, identity::IdentityActor, media::MediaActor, network::Network,
        outbox::OutboxActor, pushers::PushersActor, room_directory::RoomDirectoryActor,
        room_state::RoomStateActor, status_page::StatusPageActor, store::StoreActor,
    },
    config::limits,
    http::gateway::{EphemeraLinks, Gateway, PusherLinks, RoomLinks, StoreLinks},
    meters::Meters,
};

/// What is counted of clients, the places for their work, and who shows it.
pub(super) type Watching<'a> = (Meters, Admission, &'a Addr<StatusPageActor>);

/// Who has what is our users'.
pub(super) type Users<'a> = (
    &'a Addr<AccountsActor>,
    &'a Addr<DeviceKeysActor>,
    &'a Addr<MediaActor>,
    &'a Addr<PushersActor>,
    &'a Addr<RoomDirectoryActor>,
);

/// What http may do to the rest of the node.
pub(super) fn gateway(
    store: &Addr<StoreActor>,
    (accounts, device_keys, media, pushers, directory): Users<'_>,
    rooms: &Addr<RoomStateActor>,
    ephemera: &Addr<EphemeraActor>,
    identity: &Addr<IdentityActor>,
    outbox: &Addr<OutboxActor>,
    (network, (meters, admission, status_page)): (&Network, Watching<'_>),
) -> Gateway {
    Gateway {
        accounts: accounts.clone(),
        device_keys: device_keys.clone(),
        pushers: PusherLinks {
            set: pushers.clone().recipient(),
            delete: pushers.clone().recipient(),
            list: pushers.clone().recipient(),
        },
        rooms: RoomLinks {
            create: rooms.clone().recipient(),
            list: rooms.clone().recipient(),
            membership: rooms.clone().recipient(),
            knows: rooms.clone().recipient(),
            forget: rooms.clone().recipient(),
            send: rooms.clone().recipient(),
            change_membership: rooms.clone().recipient(),
            join: rooms.clone().recipient(),
            leave: rooms.clone().recipient(),
            set_typing: rooms.clone().recipient(),
            set_receipt: rooms.clone().recipient(),
            read_state: rooms.clone().recipient(),
            read_members: rooms.clone().recipient(),
            read_messages: rooms.clone().recipient(),
            read_context: rooms.clone().recipient(),
            read_relations: rooms.clone().recipient(),
            read_threads: rooms.clone().recipient(),
        },
        store: StoreLinks {
            read_sync: store.clone().recipient(),
            read_device_lists: store.clone().recipient(),
            read_notifications: store.clone().recipient(),
            watch: store.clone().recipient(),
            ack_to_device: store.clone().recipient(),
            search_directory: store.clone().recipient(),
        },
        ephemera: EphemeraLinks {
            read: ephemera.clone().recipient(),
            watch: ephemera.clone().recipient(),
            set_presence: rooms.clone().recipient(),
            read_presence: ephemera.clone().recipient(),
        },
        search_people: network.rendezvous.clone().recipient(),
        send_federation: network.relay_request.clone().recipient(),
        owe: outbox.clone().recipient(),
        read_signer: identity.clone().recipient(),
        media: media.into(),
        read_preview: None,
        directory: directory.into(),
        downloads: Arc::new(Semaphore::new(limits::MEDIA_DOWNLOADS)),
        meters,
        watch_status: status_page.clone().recipient(),
        figures: status_page.clone().recipient(),
        admission,
        boot: rand::random(),
    }
}
