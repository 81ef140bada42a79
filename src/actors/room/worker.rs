//! What works for a room in a future of its own: operations of the room, and requests about it.

use std::{sync::Arc, time::Duration};

use actix::{Addr, AsyncContext as _, Context};
use ruma::{OwnedRoomId, OwnedServerName, room_version_rules::RoomVersionRules};

use super::{
    actor::{RoomActor, operate_for},
    asking::{federation, read},
    links::{Links, ask},
    machine::{Change, Machine, Stop},
    messages::RoomError,
    operate::Whose,
};
use crate::{
    config::limits,
    proto::{endpoint::Endpoint, signer::Signer},
};

/// What an actor's future needs to work for the room.
#[derive(Clone)]
pub(super) struct Worker {
    pub(super) room: Addr<RoomActor>,
    pub(super) links: Arc<Links>,
    pub(super) signer: Arc<Signer>,
    pub(super) room_id: OwnedRoomId,
    pub(super) turn: Whose,
}

impl RoomActor {
    /// Returns what works for our user.
    pub(super) fn worker(&self, ctx: &Context<Self>) -> Worker {
        self.worker_for(Whose::Ours, ctx)
    }

    /// Returns what works for whoever asks.
    pub(super) fn worker_for(&self, turn: Whose, ctx: &Context<Self>) -> Worker {
        Worker {
            room: ctx.address(),
            links: Arc::clone(&self.links),
            signer: Arc::clone(&self.signer),
            room_id: self.room_id.clone(),
            turn,
        }
    }
}

impl Worker {
    /// Runs an operation of the room.
    pub(super) async fn operate<T, F>(&self, closure: F) -> Result<T, RoomError>
    where
        T: Send + 'static,
        F: FnMut(&mut Machine) -> Result<(T, Option<Box<Change>>), Stop> + Send + 'static,
    {
        operate_for(self.turn, &self.room, None, closure).await
    }

    /// Sends a request about the room and reads its answer.
    pub(super) async fn request<T: serde::de::DeserializeOwned>(
        &self,
        server: &OwnedServerName,
        endpoint: Endpoint,
        content: serde_json::Value,
    ) -> Result<T, RoomError> {
        self.request_within(server, endpoint, content, limits::FEDERATION_WAIT).await
    }

    /// The same, within a time.
    pub(super) async fn request_within<T: serde::de::DeserializeOwned>(
        &self,
        server: &OwnedServerName,
        endpoint: Endpoint,
        content: serde_json::Value,
        wait: Duration,
    ) -> Result<T, RoomError> {
        let request = federation(server, endpoint, content, wait)?;
        read(server, ask(&self.links.federation, request).await?)
    }

    /// Returns the rules of the version of the room.
    pub(super) async fn rules(&self) -> Result<RoomVersionRules, RoomError> {
        self.operate(|machine| Ok((machine.rules().clone(), None))).await
    }
}
