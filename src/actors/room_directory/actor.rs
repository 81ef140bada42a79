//! The shell: rows, cards, and who else is asked.

use actix::{
    Actor, ActorFutureExt as _, Addr, Context, Handler, MessageResult, Recipient,
    ResponseActFuture, ResponseFuture, WrapFuture as _, fut,
};
use ruma::{
    OwnedRoomAliasId, OwnedRoomId, OwnedRoomOrAliasId, OwnedServerName, OwnedUserId, RoomAliasId,
    events::room::member::MembershipState, room::RoomSummary,
};

use super::{
    aliases::{Aliases, Entry},
    hierarchy, list,
    messages::*,
    seen::{self, Memberships},
};
use crate::{
    actors::{
        error::AskError,
        identity::ReadSigner,
        room_state::ListRooms,
        store::{Card, ReadCards, Row, RowKind, ScanRows, StoreError, WriteRows},
        upward::SendFederation,
    },
    config::{ASK_WAIT, limits},
};

/// Whom RoomDirectory talks to.
#[derive(Debug, Clone)]
pub struct RoomDirectoryLinks {
    /// Store: writes.
    pub write_rows: Recipient<WriteRows>,
    /// Store: all aliases, at start.
    pub scan_rows: Recipient<ScanRows>,
    /// Store: what rooms show.
    pub read_cards: Recipient<ReadCards>,
    /// RoomState: what somebody is in which room.
    pub list_rooms: Recipient<ListRooms>,
    /// Identity: our name.
    pub signer: Recipient<ReadSigner>,
    /// RelayRequest: asking other servers.
    pub federation: Recipient<SendFederation>,
}

impl RoomDirectoryLinks {
    /// Reads the cards of those of some rooms that this server is in.
    pub(super) async fn cards(&self, rooms: Vec<OwnedRoomId>) -> Result<Vec<Card>, DirectoryError> {
        if rooms.is_empty() {
            return Ok(Vec::new());
        }
        let Some(own) = self.own_name().await? else { return Ok(Vec::new()) };
        let mut cards = Vec::new();
        // A part at a time: the Store has other things to do between them.
        for part in rooms.chunks(limits::CARDS) {
            let read = self.read_cards.send(ReadCards(part.to_vec())).timeout(ASK_WAIT).await;
            cards.extend(read.map_err(AskError::from)??);
        }
        // What we know of a room that we have left is old.
        cards.retain(|card| card.servers.contains(&own));
        Ok(cards)
    }

    pub(super) async fn summaries(
        &self,
        rooms: Vec<OwnedRoomId>,
    ) -> Result<Vec<RoomSummary>, DirectoryError> {
        Ok(self.cards(rooms).await?.into_iter().map(|card| card.summary).collect())
    }

    pub(super) async fn own_name(&self) -> Result<Option<OwnedServerName>, DirectoryError> {
        let signer = self.signer.send(ReadSigner).timeout(ASK_WAIT).await;
        let signer = signer.map_err(AskError::from)?;
        Ok(signer.map(|signer| signer.server_name().to_owned()))
    }

    async fn memberships(&self, user_id: OwnedUserId) -> Result<Memberships, DirectoryError> {
        let rooms = self.list_rooms.send(ListRooms(user_id)).timeout(ASK_WAIT).await;
        Ok(rooms.map_err(AskError::from)?.into_iter().collect())
    }

    async fn write(&self, row: Row, value: Option<Vec<u8>>) -> Result<(), DirectoryError> {
        let written = self.write_rows.send(WriteRows(vec![(row, value)])).timeout(ASK_WAIT).await;
        written.map_err(AskError::from)??;
        Ok(())
    }
}

/// Owns the aliases of this server, and its list of public rooms.
#[derive(Debug)]
pub struct RoomDirectoryActor {
    pub(super) links: RoomDirectoryLinks,
    pub(super) aliases: Aliases,
}

impl RoomDirectoryActor {
    /// Reads what is stored, and starts on the Arbiter that this is called on.
    pub async fn start_loaded(links: RoomDirectoryLinks) -> Result<Addr<Self>, DirectoryError> {
        let mut aliases = Aliases::default();
        for kind in [RowKind::Aliases, RowKind::PublishedRooms] {
            let rows = links.scan_rows.send(ScanRows(kind)).timeout(ASK_WAIT).await;
            for (row, value) in rows.map_err(AskError::from)?? {
                match row {
                    Row::Alias(alias) => {
                        let entry = serde_json::from_slice(&value)
                            .map_err(|_| StoreError::Corrupt { what: "alias" })?;
                        aliases.insert(alias, entry);
                    }
                    Row::PublishedRoom(room_id) => {
                        aliases.publish(room_id, true)?;
                    }
                    _ => {}
                }
            }
        }
        Ok(Self { links, aliases }.start())
    }
}

impl Actor for RoomDirectoryActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(limits::MAILBOX);
    }
}

type Written = ResponseActFuture<RoomDirectoryActor, Result<(), DirectoryError>>;

impl Handler<SetAlias> for RoomDirectoryActor {
    type Result = Written;

    fn handle(&mut self, msg: SetAlias, _: &mut Context<Self>) -> Self::Result {
        let SetAlias { alias, room_id, by } = msg;
        let entry = Entry { room_id, by };
        if let Err(error) = self.aliases.check(&alias, &entry) {
            return Box::pin(fut::err(error));
        }
        if self.aliases.get(&alias).is_some() {
            return Box::pin(fut::ok(()));
        }
        // It is taken from now on; where it cannot be written down, it is free again.
        self.aliases.insert(alias.clone(), entry.clone());
        let links = self.links.clone();
        let row = Row::Alias(alias.clone());
        let written = async move {
            let value = serde_json::to_vec(&entry);
            let value = value.map_err(|_| StoreError::Corrupt { what: "alias" })?;
            links.write(row, Some(value)).await
        };
        Box::pin(written.into_actor(self).map(move |written, act, _| {
            if written.is_err() {
                act.aliases.forget(&alias);
            }
            written
        }))
    }
}

impl Handler<DeleteAlias> for RoomDirectoryActor {
    type Result = Written;

    fn handle(&mut self, msg: DeleteAlias, _: &mut Context<Self>) -> Self::Result {
        let DeleteAlias { alias, by, has_power } = msg;
        if let Err(error) = self.aliases.remove(&alias, &by, has_power) {
            return Box::pin(fut::err(error));
        }
        let links = self.links.clone();
        Box::pin(async move { links.write(Row::Alias(alias), None).await }.into_actor(self))
    }
}

impl Handler<FindAlias> for RoomDirectoryActor {
    type Result = ResponseFuture<Result<Found, DirectoryError>>;

    fn handle(&mut self, FindAlias(alias): FindAlias, _: &mut Context<Self>) -> Self::Result {
        let (links, known) = (self.links.clone(), self.known(&alias));
        Box::pin(async move { find(&links, known, &alias).await })
    }
}

impl RoomDirectoryActor {
    fn known(&self, alias: &RoomAliasId) -> Option<OwnedRoomId> {
        self.aliases.get(alias).map(|entry| entry.room_id.clone())
    }
}

async fn find(
    links: &RoomDirectoryLinks,
    known: Option<OwnedRoomId>,
    alias: &OwnedRoomAliasId,
) -> Result<Found, DirectoryError> {
    if let Some(room_id) = known {
        let servers = links.servers_in(&room_id).await?;
        return Ok(Found { room_id, servers });
    }
    if links.own_name().await?.as_deref() == Some(alias.server_name()) {
        return Err(DirectoryError::NotFound("alias"));
    }
    links.find_elsewhere(alias).await
}

impl Handler<ListAliases> for RoomDirectoryActor {
    type Result = MessageResult<ListAliases>;

    fn handle(&mut self, ListAliases(room): ListAliases, _: &mut Context<Self>) -> Self::Result {
        MessageResult(self.aliases.of_room(&room))
    }
}

impl Handler<Publish> for RoomDirectoryActor {
    type Result = Written;

    fn handle(&mut self, msg: Publish, _: &mut Context<Self>) -> Self::Result {
        let Publish { room_id, is_public } = msg;
        match self.aliases.publish(room_id.clone(), is_public) {
            Err(error) => return Box::pin(fut::err(error)),
            Ok(false) => return Box::pin(fut::ok(())),
            Ok(true) => {}
        }
        let links = self.links.clone();
        let row = Row::PublishedRoom(room_id);
        let value = is_public.then(Vec::new);
        Box::pin(async move { links.write(row, value).await }.into_actor(self))
    }
}

impl Handler<IsPublished> for RoomDirectoryActor {
    type Result = bool;

    fn handle(&mut self, IsPublished(room): IsPublished, _: &mut Context<Self>) -> bool {
        self.aliases.is_published(&room)
    }
}

impl Handler<ListPublicRooms> for RoomDirectoryActor {
    type Result = ResponseFuture<Result<PublicRooms, DirectoryError>>;

    fn handle(&mut self, msg: ListPublicRooms, _: &mut Context<Self>) -> Self::Result {
        let ListPublicRooms { server, filter, limit, since } = msg;
        let (links, published) = (self.links.clone(), self.aliases.published());
        Box::pin(async move {
            let own = links.own_name().await?;
            match server.filter(|server| Some(server) != own.as_ref()) {
                Some(server) => links.list_elsewhere(&server, filter, limit, since).await,
                None => {
                    let rooms = links.summaries(published).await?;
                    list::page(rooms, &filter, limit, since.as_deref())
                }
            }
        })
    }
}

impl Handler<ReadSummary> for RoomDirectoryActor {
    type Result = ResponseFuture<Result<(RoomSummary, Option<MembershipState>), DirectoryError>>;

    fn handle(&mut self, msg: ReadSummary, _: &mut Context<Self>) -> Self::Result {
        let ReadSummary { room, mut via, by } = msg;
        let alias = <&RoomAliasId>::try_from(&*room).ok().map(ToOwned::to_owned);
        let known = alias.as_deref().and_then(|alias| self.known(alias));
        let links = self.links.clone();
        Box::pin(async move {
            let room_id = match alias {
                Some(alias) => {
                    let found = find(&links, known, &alias).await?;
                    via.extend(found.servers);
                    found.room_id
                }
                None => id_of(&room)?,
            };
            let own = links.memberships(by).await?;
            let card = links.cards(vec![room_id.clone()]).await?.into_iter().next();
            let summary = match card {
                Some(card) => Some(card.summary),
                None => links.card_elsewhere(&room_id, &via).await.map(|told| told.summary),
            };
            let summary = summary.filter(|summary| seen::by_user(summary, &own));
            let membership = own.get(&room_id).cloned();
            Ok((summary.ok_or(DirectoryError::NotFound("room, or not for you"))?, membership))
        })
    }
}

fn id_of(room: &OwnedRoomOrAliasId) -> Result<OwnedRoomId, DirectoryError> {
    let bad = |_| DirectoryError::BadRequest("this is neither the id nor an alias of a room");
    OwnedRoomId::try_from(room.as_str()).map_err(bad)
}

impl Handler<ReadHierarchy> for RoomDirectoryActor {
    type Result = ResponseFuture<Result<Hierarchy, DirectoryError>>;

    fn handle(&mut self, msg: ReadHierarchy, _: &mut Context<Self>) -> Self::Result {
        let links = self.links.clone();
        Box::pin(async move {
            let own = links.memberships(msg.by.clone()).await?;
            hierarchy::read(&links, &own, msg).await
        })
    }
}
