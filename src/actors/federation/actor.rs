//! The shell: asks whom a query is for, and renders the answer.

use std::{collections::BTreeMap, time::Instant};

use actix::{Actor, Context, Handler, Recipient, ResponseFuture};
use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use ruma::{
    CanonicalJsonValue, OwnedRoomId, OwnedServerName, OwnedUserId,
    canonical_json::to_canonical_value,
};
use serde::{Deserialize, Serialize};
use serde_json::{json, value::RawValue};

use super::{
    routes::{Query, RouteError, Transaction, route},
    shares::Shares,
};
use crate::{
    actors::{
        accounts::{AccountError, LocalProfile, Profile, ReceiveToDevice},
        admission::Permit,
        device_keys::{DeviceListChanged, KeyError, ServeKeys},
        error::AskError,
        gossip::GossipTransaction,
        identity::{FindServerKeys, ReadSigner},
        media::{MediaError, MediaOffer, OfferMedia, ReadPiece},
        meeting::{CompareHeads, FindEvents, FindMissing, FindMissingIds},
        relay_request::{CarryRequest, InboundAnswer, InboundRequest},
        room::{Gossiped, IngestTransaction, RoomError, RoomRequest},
        room_directory::{DirectoryError, ServeDirectory},
        room_state::{IngestIntoRoom, ServeRoom},
        upward::{FindSharing, TransactionVerdict},
    },
    config::limits,
    proto::edu::{Edu, ToDevice},
};

/// Whom the queries are for.
#[derive(Clone)]
pub struct FederationLinks {
    /// RoomState: queries about rooms.
    pub serve: Recipient<ServeRoom>,
    /// RoomState: transactions.
    pub ingest: Recipient<IngestIntoRoom>,
    /// Meeting: heads.
    pub heads: Recipient<CompareHeads>,
    /// Meeting: what others lack.
    pub missing: Recipient<FindMissing>,
    /// Meeting: ids of what others lack.
    pub missing_ids: Recipient<FindMissingIds>,
    /// Meeting: events by id.
    pub events: Recipient<FindEvents>,
    /// Accounts.
    pub profile: Recipient<LocalProfile>,
    /// Accounts.
    pub to_device: Recipient<ReceiveToDevice>,
    /// DeviceKeys: keys of our users.
    pub serve_keys: Recipient<ServeKeys>,
    /// DeviceKeys: keys of others changed.
    pub device_list_changed: Recipient<DeviceListChanged>,
    /// RoomDirectory: how rooms of ours are found.
    pub serve_directory: Recipient<ServeDirectory>,
    /// Media: what we have of it.
    pub offer_media: Recipient<OfferMedia>,
    /// Media: a piece of it.
    pub read_piece: Recipient<ReadPiece>,
    /// Identity.
    pub signer: Recipient<ReadSigner>,
    /// RelayRequest: sealed requests.
    pub carry: Recipient<CarryRequest>,
    /// RoomState: who shares a room with us.
    pub sharing: Recipient<FindSharing>,
    /// Identity: server_keys of others.
    pub find_keys: Recipient<FindServerKeys>,
}

/// Hands verified requests and gossip of other servers to those who own what they ask for.
pub struct FederationActor {
    links: FederationLinks,
    shares: Shares,
}

impl FederationActor {
    /// Makes the actor.
    pub fn new(links: FederationLinks) -> Self {
        Self { links, shares: Shares::default() }
    }
}

impl FederationActor {
    /// Refuses transactions that are too large, and those of who sends too much.
    fn admit(&mut self, origin: &OwnedServerName, query: Query) -> Result<Query, Refusal> {
        let Query::Transaction(Transaction { pdus, edus }) = &query else { return Ok(query) };
        if pdus.len() > limits::TRANSACTION_PDUS || edus.len() > limits::TRANSACTION_EDUS {
            return Err(RoomError::BadRequest("too many PDUs or EDUs".to_owned()).into());
        }
        if !self.shares.take(origin, pdus.len() + edus.len(), Instant::now()) {
            return Err(RoomError::Full("events in a short time; send again later").into());
        }
        Ok(query)
    }
}

impl Actor for FederationActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(limits::MAILBOX);
    }
}

/// An error as other servers get it.
struct Refusal {
    status: u16,
    errcode: &'static str,
    message: String,
}

impl From<RoomError> for Refusal {
    fn from(error: RoomError) -> Self {
        let (status, errcode) = match &error {
            RoomError::NotFound | RoomError::EventNotFound | RoomError::NoSuchUser(_) => {
                (404, "M_NOT_FOUND")
            }
            RoomError::Forbidden(_) => (403, "M_FORBIDDEN"),
            RoomError::UnsupportedVersion(_) => (400, "M_INCOMPATIBLE_ROOM_VERSION"),
            RoomError::BadRequest(_) | RoomError::DuplicateAnnotation | RoomError::Proto(_) => {
                (400, "M_BAD_JSON")
            }
            RoomError::Full(_) | RoomError::Ask(AskError::Overloaded) => (429, "M_LIMIT_EXCEEDED"),
            RoomError::Internal(why) => {
                log::error!(why:%; "a request of another server failed");
                (500, "M_UNKNOWN")
            }
            RoomError::NotInvited { .. }
            | RoomError::Federation(_)
            | RoomError::Outbox(_)
            | RoomError::Store(_)
            | RoomError::Ask(_) => (500, "M_UNKNOWN"),
        };
        // What went wrong inside is nobody's business.
        let message = if status == 500 { "internal error".to_owned() } else { error.to_string() };
        Self { status, errcode, message }
    }
}

impl From<KeyError> for Refusal {
    fn from(error: KeyError) -> Self {
        match error {
            KeyError::Forbidden(_) | KeyError::NeedsAuth | KeyError::WrongBackupVersion(_) => {
                Self { status: 403, errcode: "M_FORBIDDEN", message: error.to_string() }
            }
            KeyError::BadRequest(why) => RoomError::BadRequest(why).into(),
            KeyError::BadSignature(_) | KeyError::TooLarge(_) => {
                RoomError::BadRequest(error.to_string()).into()
            }
            KeyError::NotFound(_) => RoomError::NotFound.into(),
            KeyError::Full(what) => RoomError::Full(what).into(),
            KeyError::Store(error) => RoomError::Store(error).into(),
            KeyError::Ask(error) => error.into(),
        }
    }
}

impl From<MediaError> for Refusal {
    fn from(error: MediaError) -> Self {
        let message = error.to_string();
        match error {
            MediaError::NotYet => Self { status: 504, errcode: "M_NOT_YET_UPLOADED", message },
            MediaError::Busy(what) => RoomError::Full(what).into(),
            MediaError::Store(error) => RoomError::Store(error).into(),
            MediaError::Ask(error) => error.into(),
            MediaError::Files(why) => RoomError::internal(why).into(),
            // Whether it is not there or not for who asks is nobody's business.
            _ => RoomError::NotFound.into(),
        }
    }
}

impl From<DirectoryError> for Refusal {
    fn from(error: DirectoryError) -> Self {
        match error {
            DirectoryError::BadRequest(why) => RoomError::BadRequest(why.to_owned()).into(),
            DirectoryError::Full(what) => RoomError::Full(what).into(),
            DirectoryError::Store(error) => RoomError::Store(error).into(),
            DirectoryError::Ask(error) => error.into(),
            DirectoryError::NotFound(_)
            | DirectoryError::Taken
            | DirectoryError::Forbidden(_)
            | DirectoryError::Federation(_) => RoomError::NotFound.into(),
        }
    }
}

impl From<RouteError> for Refusal {
    fn from(error: RouteError) -> Self {
        match error {
            RouteError::Unrecognized => Self {
                status: 404,
                errcode: "M_UNRECOGNIZED",
                message: "this server has no such endpoint".to_owned(),
            },
            RouteError::Malformed(message) => Self { status: 400, errcode: "M_BAD_JSON", message },
        }
    }
}

impl From<AskError> for Refusal {
    fn from(error: AskError) -> Self {
        RoomError::Ask(error).into()
    }
}

impl From<Refusal> for InboundAnswer {
    fn from(refusal: Refusal) -> Self {
        let Refusal { status, errcode, message } = refusal;
        let text = |value: String| CanonicalJsonValue::String(value);
        let content = CanonicalJsonValue::Object(
            [("errcode".to_owned(), text(errcode.to_owned())), ("error".to_owned(), text(message))]
                .into(),
        );
        Self { status, content }
    }
}

/// An answer about many rooms.
#[derive(Serialize)]
struct Rooms<T> {
    rooms: T,
}

impl FederationLinks {
    async fn answer(
        &self,
        origin: OwnedServerName,
        query: Query,
        permit: Permit,
    ) -> Result<InboundAnswer, Refusal> {
        let content = match query {
            Query::Room(room_id, query) => {
                let request = RoomRequest { origin, query, permit };
                let answer = self.serve.send(ServeRoom { room_id, request }).await;
                answer.map_err(AskError::from)??
            }
            Query::Profile(user_id) => self.profile_of(user_id).await?,
            Query::Keys(query) => {
                let served = self.serve_keys.send(ServeKeys { origin, query }).await;
                served.map_err(AskError::from)??
            }
            Query::Directory(query) => {
                let served = self.serve_directory.send(ServeDirectory { origin, query }).await;
                served.map_err(AskError::from)??
            }
            Query::Media(name, pieces) => {
                let offer = self.offer_media.send(OfferMedia { origin, name, pieces }).await;
                let MediaOffer { statement, ticket, list } = offer.map_err(AskError::from)??;
                let list = list.map(|list| STANDARD_NO_PAD.encode(list));
                let offer = json!({"statement": statement, "ticket": ticket, "pieces": list});
                to_canonical_value(offer).map_err(RoomError::internal)?
            }
            Query::MediaPiece(ticket, piece) => {
                let read = self.read_piece.send(ReadPiece { origin, ticket, piece }).await;
                let bytes = read.map_err(AskError::from)??;
                let piece = json!({"bytes": STANDARD_NO_PAD.encode(bytes)});
                to_canonical_value(piece).map_err(RoomError::internal)?
            }
            Query::ServerKeys => {
                let signer = self.signer.send(ReadSigner).await.map_err(AskError::from)?;
                let signer = signer.ok_or(RoomError::NotFound)?;
                CanonicalJsonValue::Object(signer.server_keys().clone())
            }
            Query::Heads(rooms) => {
                let compared = self.heads.send(CompareHeads { origin, rooms, permit }).await;
                let compared = compared.map_err(AskError::from)??;
                to_canonical_value(compared).map_err(RoomError::internal)?
            }
            Query::Missing(rooms) => {
                let found = self.missing.send(FindMissing { origin, rooms, permit }).await;
                let rooms = found.map_err(AskError::from)??;
                to_canonical_value(Rooms { rooms }).map_err(RoomError::internal)?
            }
            Query::MissingIds(rooms) => {
                let find = FindMissingIds { origin, rooms, permit };
                let found = self.missing_ids.send(find).await.map_err(AskError::from)??;
                to_canonical_value(found).map_err(RoomError::internal)?
            }
            Query::Events(rooms) => {
                let find = FindEvents { origin, rooms, permit };
                let found = self.events.send(find).await.map_err(AskError::from)??;
                to_canonical_value(found).map_err(RoomError::internal)?
            }
            Query::ServerKeysOf(server, verify_key) => {
                self.server_keys_of(origin, server, verify_key).await?
            }
            Query::Carry(destination, parcel) => {
                let carry = CarryRequest { origin, destination, parcel, permit };
                return Ok(self.carry.send(carry).await.map_err(AskError::from)?);
            }
            Query::Transaction(transaction) => {
                let _permit = permit;
                self.transaction(origin, transaction).await?
            }
        };
        Ok(InboundAnswer { status: 200, content })
    }

    /// server_keys prove themselves, so anybody may hand them on; whom we know is for those to
    /// know who share rooms with us.
    async fn server_keys_of(
        &self,
        origin: OwnedServerName,
        server: OwnedServerName,
        verify_key: Option<String>,
    ) -> Result<CanonicalJsonValue, Refusal> {
        let both = FindSharing { servers: vec![origin, server.clone()], with: None };
        let sharing = self.sharing.send(both).await.map_err(AskError::from)?;
        if sharing.len() < 2 {
            return Err(RoomError::NotFound.into());
        }
        let find = FindServerKeys(vec![server.clone()]);
        let found = self.find_keys.send(find).await.map_err(AskError::from)?;
        let certificates = found.get(&server).ok_or(RoomError::NotFound)?;
        let keys = match &verify_key {
            Some(key_id) => certificates.newest_of(key_id),
            None => certificates.newest(),
        };
        let keys = keys.ok_or(RoomError::NotFound)?;
        Ok(CanonicalJsonValue::Object(keys.json().clone()))
    }

    async fn profile_of(&self, user_id: OwnedUserId) -> Result<CanonicalJsonValue, Refusal> {
        let known = self.profile.send(LocalProfile(user_id)).await.map_err(AskError::from)?;
        let Profile { displayname, avatar_url, fields: others } =
            known.ok_or(RoomError::NotFound)?;
        // What canonical JSON cannot say (numbers with a point) is not said.
        let others = others
            .into_iter()
            .filter_map(|(key, value)| Some((key, CanonicalJsonValue::try_from(value).ok()?)));
        let fields = [("displayname", displayname), ("avatar_url", avatar_url)];
        let fields = fields
            .into_iter()
            .filter_map(|(key, value)| Some((key.to_owned(), CanonicalJsonValue::String(value?))));
        Ok(CanonicalJsonValue::Object(others.chain(fields).collect()))
    }

    /// A transaction that was sent to this server alone.
    async fn transaction(
        &self,
        origin: OwnedServerName,
        transaction: Transaction,
    ) -> Result<CanonicalJsonValue, Refusal> {
        let Transaction { pdus, edus } = transaction;
        let mut rooms: BTreeMap<OwnedRoomId, (Vec<_>, Vec<_>)> = BTreeMap::new();
        for pdu in pdus {
            if let Some(room_id) = room_of(&pdu) {
                rooms.entry(room_id).or_default().0.push(pdu);
            }
        }
        let (mut to_devices, mut device_lists) = (Vec::new(), BTreeMap::new());
        for raw in edus {
            match Edu::read(&raw) {
                Ok(Edu::ToDevice(message)) => to_devices.push(message),
                // The newest one says it.
                Ok(Edu::DeviceList { user_id, stream_id }) => {
                    device_lists.insert(user_id, stream_id);
                }
                Ok(edu) => {
                    if let Some(room_id) = edu.room_id() {
                        rooms.entry(room_id.to_owned()).or_default().1.push(raw);
                    }
                }
                Err(error) => log::debug!(origin:%; "an EDU is passed over: {error}"),
            }
        }
        for (room_id, (pdus, edus)) in rooms {
            let (origin, gossiped) = (origin.clone(), None);
            let transaction = IngestTransaction { origin, pdus, edus, gossiped };
            let _ = self.ingest.send(IngestIntoRoom { room_id, transaction }).await;
        }
        for (user_id, stream_id) in device_lists {
            let changed = DeviceListChanged { origin: origin.clone(), user_id, stream_id };
            self.device_list_changed.send(changed).await.map_err(AskError::from)?;
        }
        if !to_devices.is_empty() {
            self.receive_to_device(origin, to_devices).await?;
        }
        to_canonical_value(json!({"pdus": {}})).map_err(|error| RoomError::internal(error).into())
    }

    async fn receive_to_device(
        &self,
        origin: OwnedServerName,
        messages: Vec<ToDevice>,
    ) -> Result<(), Refusal> {
        let receive = ReceiveToDevice { origin: origin.clone(), messages };
        match self.to_device.send(receive).await {
            Ok(Err(AccountError::Full(what))) => Err(RoomError::Full(what).into()),
            Ok(Err(error @ AccountError::TooLarge(_))) => {
                let message = error.to_string();
                Err(Refusal { status: 413, errcode: "M_TOO_LARGE", message })
            }
            // What was not kept is not acknowledged, so that it is sent again.
            Ok(Err(error)) => {
                log::warn!(origin:%; "to-device messages could not be kept: {error}");
                Err(RoomError::internal(error).into())
            }
            Err(error) => Err(AskError::from(error).into()),
            Ok(Ok(())) => Ok(()),
        }
    }
}

fn room_of(pdu: &RawValue) -> Option<OwnedRoomId> {
    #[derive(Deserialize)]
    struct Fields {
        room_id: OwnedRoomId,
    }
    serde_json::from_str::<Fields>(pdu.get()).ok().map(|fields| fields.room_id)
}

impl Handler<InboundRequest> for FederationActor {
    type Result = ResponseFuture<InboundAnswer>;

    fn handle(&mut self, msg: InboundRequest, _: &mut Self::Context) -> Self::Result {
        let InboundRequest { request, permit } = msg;
        let request = request.message;
        let query = route(&request).map_err(Refusal::from);
        let query = query.and_then(|query| self.admit(&request.origin, query));
        let (links, origin) = (self.links.clone(), request.origin);
        Box::pin(async move {
            let answer = async { links.answer(origin, query?, permit).await };
            answer.await.unwrap_or_else(Into::into)
        })
    }
}

impl Handler<GossipTransaction> for FederationActor {
    type Result = ResponseFuture<TransactionVerdict>;

    fn handle(&mut self, msg: GossipTransaction, _: &mut Self::Context) -> Self::Result {
        let GossipTransaction { room_id, origin, server_keys, pdus, edus, permit } = msg;
        // What is lost by this comes when heads are compared, as fast as we ask for it.
        if !self.shares.take(&origin, pdus.len() + edus.len(), Instant::now()) {
            log::debug!(room_id:%, origin:%; "gossip ignored: its origin says too much");
            return Box::pin(async { TransactionVerdict::Ignore });
        }
        let gossiped = Some(Gossiped { server_keys, permit });
        let transaction = IngestTransaction { origin, pdus, edus, gossiped };
        let verdict = self.links.ingest.send(IngestIntoRoom { room_id, transaction });
        Box::pin(async move {
            match verdict.await {
                Ok(Ok(verdict)) => verdict,
                Ok(Err(_)) | Err(_) => TransactionVerdict::Ignore,
            }
        })
    }
}
