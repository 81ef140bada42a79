//! Whom a Room may talk to.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use actix::Recipient;
use ruma::{OwnedRoomId, OwnedServerName, UserId, room_version_rules::RoomVersionRules};
use serde_json::value::RawValue;
use tokio::sync::watch;

use super::messages::{People, RoomError, ShownAs};
use crate::{
    actors::{
        cpu::Cpu,
        ephemera::{Presence, Typing},
        gossip::PublishTransaction,
        identity::{FindServerKeys, KeepKeys},
        outbox::{Decided, Owe},
        room::{Advanced, Carried, HeadsHeard, Said},
        store::{
            CommitRoom, FindAnnotation, FindLacking, KeepReceipt, LoadAuthChain, LoadEvents,
            LoadRoom, LoadState, ReadBundles, ReadRelated, ReadThreads, ReadTimeline, ScanRows,
            WriteRows,
        },
        upward::SendFederation,
    },
    proto::{
        ProtoError,
        certificates::{Certificates, text_for},
        pdu::{self, Pdu, Received, Unverified},
        push_rules::Listeners,
        server_keys::VerifiedServerKeys,
        signer::Signer,
    },
};

/// The Store, as rooms use it.
#[derive(Clone)]
pub struct StoreLink {
    /// Writes.
    pub commit: Recipient<CommitRoom>,
    /// Reads.
    pub load_room: Recipient<LoadRoom>,
    /// Reads.
    pub load_events: Recipient<LoadEvents>,
    /// Reads.
    pub load_state: Recipient<LoadState>,
    /// Reads.
    pub load_auth_chain: Recipient<LoadAuthChain>,
    /// Reads.
    pub find_annotation: Recipient<FindAnnotation>,
    /// Reads.
    pub find_lacking: Recipient<FindLacking>,
    /// Reads.
    pub read_timeline: Recipient<ReadTimeline>,
    /// Reads what is added to events.
    pub read_bundles: Recipient<ReadBundles>,
    /// Reads what relates to an event.
    pub read_related: Recipient<ReadRelated>,
    /// Reads threads.
    pub read_threads: Recipient<ReadThreads>,
    /// Writes receipts.
    pub keep_receipt: Recipient<KeepReceipt>,
    /// Takes receipts away.
    pub write_rows: Recipient<WriteRows>,
    /// Reads receipts.
    pub scan_rows: Recipient<ScanRows>,
}

/// Whom a Room may talk to.
#[derive(Clone)]
pub struct Links {
    /// Keeps everything.
    pub store: StoreLink,
    /// Gossip.
    pub gossip: Recipient<PublishTransaction>,
    /// RelayRequest.
    pub federation: Recipient<SendFederation>,
    /// Outbox: what another server has to get.
    pub owe: Recipient<Owe>,
    /// Outbox.
    pub decided: Recipient<Decided>,
    /// Identity: server_keys of others.
    pub find_keys: Recipient<FindServerKeys>,
    /// Identity: server_keys that came along.
    pub keep_keys: Recipient<KeepKeys>,
    /// Ephemera.
    pub typing: Recipient<Typing>,
    /// Ephemera.
    pub presence: Recipient<Presence>,
    /// RoomState.
    pub advanced: Recipient<Advanced>,
    /// RoomState.
    pub heads_heard: Recipient<HeadsHeard>,
    /// RoomState: what is to come to others.
    pub said: Recipient<Said>,
    /// RoomState: the people of this node.
    pub people: watch::Receiver<People>,
    /// RoomState: of what these are notified.
    pub listeners: watch::Receiver<Listeners>,
    /// RoomState: servers that are reached through others alone.
    pub carried: watch::Receiver<Carried>,
    /// Signatures and state resolution.
    pub cpu: Cpu,
}

/// Asks somebody, with the errors of a Room.
pub(in crate::actors) async fn ask<M, T, E>(to: &Recipient<M>, message: M) -> Result<T, RoomError>
where
    M: actix::Message<Result = Result<T, E>> + Send,
    T: Send + 'static,
    E: Send + Into<RoomError> + 'static,
{
    match to.send(message).await {
        Ok(answer) => answer.map_err(Into::into),
        Err(error) => Err(RoomError::Ask(error.into())),
    }
}

impl Links {
    /// Returns how a user of ours is shown.
    pub(super) fn shown(&self, user: &UserId) -> ShownAs {
        self.people.borrow().get(user).cloned().unwrap_or_default()
    }

    /// Tells whether this node has such a user.
    pub(super) fn is_here(&self, user: &UserId) -> bool {
        self.people.borrow().contains_key(user)
    }

    /// Returns the known server_keys of some servers.
    pub(super) async fn keys_of(
        &self,
        servers: impl IntoIterator<Item = OwnedServerName>,
    ) -> HashMap<OwnedServerName, Certificates> {
        let servers = servers.into_iter().collect();
        self.find_keys.send(FindServerKeys(servers)).await.unwrap_or_default()
    }

    /// Puts server_keys back on events, as they go on the wire. Left out are events of servers whose
    /// keys are not known any more, since nobody could verify them, and those that are too deep,
    /// since nobody would take them.
    pub(super) async fn wire(&self, pdus: &[Arc<Pdu>], signer: &Signer) -> Vec<Box<RawValue>> {
        let servers: HashSet<OwnedServerName> =
            pdus.iter().map(|pdu| pdu.sender.server_name().to_owned()).collect();
        let known = self.keys_of(servers).await;
        let to_wire = |pdu: &Arc<Pdu>| {
            let keys = text_for(signer, &known, pdu.sender.server_name(), &pdu.json)?;
            Some(pdu.to_wire(keys))
        };
        pdus.iter().filter(|pdu| pdu.fits()).filter_map(to_wire).collect()
    }

    /// Checks events from outside up to the content hash, off this thread, and keeps what certifies
    /// them. One bad event spoils no other.
    pub(super) async fn receive(
        &self,
        raws: Vec<Box<RawValue>>,
        room_id: OwnedRoomId,
        rules: RoomVersionRules,
        servers: Vec<OwnedServerName>,
    ) -> Result<Vec<Result<Received, ProtoError>>, RoomError> {
        let results = self.check(raws, room_id, rules, servers).await?;
        self.keep_all(&results);
        Ok(results)
    }

    /// The same of what came in one transaction beside server_keys: they are those of its events that
    /// have none.
    pub(super) async fn receive_beside(
        &self,
        raws: Vec<Box<RawValue>>,
        room_id: OwnedRoomId,
        rules: RoomVersionRules,
        server_keys: &Arc<VerifiedServerKeys>,
    ) -> Result<Vec<Result<Received, ProtoError>>, RoomError> {
        let read = self.read(raws, room_id, rules.clone()).await?;
        let beside = |event: Unverified| event.beside(server_keys);
        let read = read.into_iter().map(|event| event.map(beside)).collect();
        let results = self.verify_all(read, rules, Vec::new()).await?;
        self.keep_all(&results);
        Ok(results)
    }

    /// Keeps what certifies events, each once.
    fn keep_all(&self, results: &[Result<Received, ProtoError>]) {
        let mut kept = HashSet::new();
        for keys in results.iter().flatten().map(|received| &received.server_keys) {
            if kept.insert(keys.text()) {
                self.keep(keys);
            }
        }
    }

    /// Keeps what certifies an event of the room.
    pub(super) fn keep(&self, keys: &VerifiedServerKeys) {
        self.keep_keys.do_send(KeepKeys(keys.clone()));
    }

    /// Checks events as [`Self::receive`] does, and keeps nothing: they may be anybody's.
    pub(super) async fn check(
        &self,
        raws: Vec<Box<RawValue>>,
        room_id: OwnedRoomId,
        rules: RoomVersionRules,
        servers: Vec<OwnedServerName>,
    ) -> Result<Vec<Result<Received, ProtoError>>, RoomError> {
        let read = self.read(raws, room_id, rules.clone()).await?;
        self.verify_all(read, rules, servers).await
    }

    /// Checks size and shape of events, which is quick, and works their ids out.
    pub(super) async fn read(
        &self,
        raws: Vec<Box<RawValue>>,
        room_id: OwnedRoomId,
        rules: RoomVersionRules,
    ) -> Result<Vec<Result<Unverified, ProtoError>>, RoomError> {
        let job = move || raws.iter().map(|raw| pdu::read(raw, &room_id, &rules)).collect();
        self.cpu.run_for_others(job).await.map_err(RoomError::internal)
    }

    /// Goes on with what [`Self::read`] found, as [`Self::receive`] does.
    pub(super) async fn verify(
        &self,
        events: Vec<Unverified>,
        rules: RoomVersionRules,
        servers: Vec<OwnedServerName>,
    ) -> Result<Vec<Result<Received, ProtoError>>, RoomError> {
        let results = self.verify_all(events.into_iter().map(Ok).collect(), rules, servers).await?;
        self.keep_all(&results);
        Ok(results)
    }

    /// Verifies events by the server_keys that come along and those that are known: of their senders'
    /// servers, one of which may have ended the node that signed, and of `servers`.
    async fn verify_all(
        &self,
        events: Vec<Result<Unverified, ProtoError>>,
        rules: RoomVersionRules,
        servers: Vec<OwnedServerName>,
    ) -> Result<Vec<Result<Received, ProtoError>>, RoomError> {
        let senders = events.iter().flatten();
        let senders = senders.map(|event| event.pdu.sender.server_name().to_owned());
        let servers: HashSet<OwnedServerName> = servers.into_iter().chain(senders).collect();
        let mut known = self.keys_of(servers).await;
        let now = crate::actors::clock::now_ms();
        let job = move || {
            let verify = |event: Result<Unverified, _>| verify(event?, &rules, &mut known, now);
            events.into_iter().map(verify).collect()
        };
        self.cpu.run_for_others(job).await.map_err(RoomError::internal)
    }
}

/// Verifies one event of several, and notes the server_keys that it brings for the others.
fn verify(
    event: Unverified,
    rules: &RoomVersionRules,
    known: &mut HashMap<OwnedServerName, Certificates>,
    now: u64,
) -> Result<Received, ProtoError> {
    let received = event.verify(rules, known, now)?;
    let keys = &received.server_keys;
    let certificates = known.entry(keys.server_name().to_owned()).or_default();
    if certificates.lacks(keys) {
        certificates.add(&Arc::new(keys.clone()));
    }
    Ok(received)
}
