//! The actor: takes messages, one at a time, and lets the flusher answer those who wrote.
//!
//! Invariants: nobody else writes; a write is answered, and a position shown, only when it is
//! durable; after a failed write or [`Close`] nothing is written any more.

use std::{
    collections::{BTreeSet, HashMap},
    fs::File,
    path::{Path, PathBuf},
};

use actix::{
    Actor, Addr, Arbiter, AsyncContext as _, Context, Handler, Message, MessageResult,
    ResponseFuture, System,
};
use ruma::{OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId, RoomId, ServerName};
use tokio::sync::watch;

use super::{
    AckToDevice, BundlesRead, Card, Close, CommitRoom, Committed, CountToDevice, DeviceLists,
    DirectoryEntry, DropToDevice, FindAnnotation, FindGap, FindGaps, FindLacking, FindRoommates,
    FindUnspread, GapsFound, KeepReceipt, ListRooms, LoadAuthChain, LoadEvents, LoadRoom,
    LoadState, LoadedRoom, Lookup, MissingEvent, MissingWalk, NameOwner, Notifications,
    ReadBundles, ReadCards, ReadDepartures, ReadDeviceLists, ReadEvents, ReadFaces, ReadHeads,
    ReadMissing, ReadNotifications, ReadRelated, ReadRow, ReadRows, ReadServersOf, ReadServersWith,
    ReadSync, ReadThreads, ReadTimeline, ReceiptPlace, RelatedPage, RoomEvents, RoomFace, RoomGaps,
    RoomRow, Roommates, Row, RowPage, ScanPage, ScanRows, SearchDirectory, SiftIds, SiftedIds,
    StoreError, StoredEvent, SyncRows, TimelinePage, ToDeviceCount, WatchStream, WriteRows, cards,
    commit,
    database::{Database, WriteSet},
    device_lists, directory, events, faces,
    flusher::{self, Flusher, Sizes, Tell},
    gaps, groups, inner_gaps, mark, migrations, missing_ids, notified,
    open::{Opened, open},
    receipts, relations,
    rooms::{self, Counters},
    rows, sync, timeline, unspread,
};
use crate::{
    config::limits,
    proto::{heads::MissingIds, pdu::StateKey},
};

/// Exit code after a failed write: `EX_IOERR`.
const EXIT_DISK: i32 = 74;

/// The Store.
#[derive(Debug)]
pub struct StoreActor {
    open: Result<Open, StoreError>,
    durable: watch::Receiver<u64>,
    /// Whether the database is brought soon what waits for it.
    is_follow_due: bool,
}

/// What is there while the database is open.
#[derive(Debug)]
struct Open {
    database: Database,
    counters: Counters,
    flusher: Flusher,
    data: PathBuf,
    /// Held until the database is closed.
    lock: File,
}

/// The disk refused a write: sent by the flusher.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub(super) struct DiskFailed(pub(super) StoreError);

/// A group is on disk, or in the database: sent by the flusher and the follower, which are free for
/// the next one.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub(super) struct GroupWritten;

/// Opens the database in `<data>/db` and starts the Store on a thread of its own.
///
/// For a folder without keys; see [`start_for`].
pub fn start(data: &Path) -> Result<Addr<StoreActor>, StoreError> {
    start_for(data, None)
}

/// Opens the database in `<data>/db` and starts the Store on a thread of its own. `keys` is the
/// server name of the keys beside it: a database that is not theirs is refused.
///
/// `data` is created where it is missing, readable by its owner only. When the disk refuses a
/// write, the actix system of the caller is stopped with code 74.
pub fn start_for(data: &Path, keys: Option<&ServerName>) -> Result<Addr<StoreActor>, StoreError> {
    start_sized(data, keys, Sizes::default())
}

/// The same, with sizes of one's own: for tests that want to see many files of the journal.
pub fn start_sized(
    data: &Path,
    keys: Option<&ServerName>,
    sizes: Sizes,
) -> Result<Addr<StoreActor>, StoreError> {
    let Opened { database, disks, lock, position, room } = open(data, keys, sizes)?;
    let data = data.to_owned();
    let (sender, durable) = watch::channel(position);
    let thread = Arbiter::new();
    Ok(StoreActor::start_in_arbiter(&thread.handle(), move |ctx| {
        ctx.set_mailbox_capacity(limits::MAILBOX);
        let (written, failed) = (ctx.address().recipient(), ctx.address().recipient());
        let flusher = Flusher::start(disks, sender, Tell { written, failed });
        let counters = Counters { position, room };
        let open = flusher.map(|flusher| Open { database, counters, flusher, data, lock });
        StoreActor { open, durable, is_follow_due: false }
    }))
}

impl Actor for StoreActor {
    type Context = Context<Self>;

    fn stopped(&mut self, _: &mut Self::Context) {
        if let Err(error) = self.close() {
            log::error!(error:%; "the last writes did not reach the disk");
        }
        Arbiter::current().stop();
    }
}

impl StoreActor {
    fn open(&self) -> Result<&Open, StoreError> {
        self.open.as_ref().map_err(Clone::clone)
    }

    /// Reads in a room; `absent` where nothing is stored of it.
    fn in_room<T>(
        &self,
        room_id: &RoomId,
        absent: T,
        read: impl FnOnce(&Database, u32) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let database = &self.open()?.database;
        match rooms::room_number(database, room_id)? {
            Some(room) => read(database, room),
            None => Ok(absent),
        }
    }

    /// Adds a write set to the group; its reads are those of all before it.
    fn add(
        &mut self,
        fill: impl FnOnce(&mut WriteSet<'_>, &mut Counters) -> Result<(), StoreError>,
    ) -> Result<&mut Open, StoreError> {
        let open = self.open.as_mut().map_err(|error| error.clone())?;
        let mut counters = open.counters;
        let mut writes = WriteSet::new(&open.database);
        fill(&mut writes, &mut counters)?;
        let changes = writes.finish()?;
        open.database.add(changes);
        open.counters = counters;
        Ok(open)
    }

    /// Adds a write set to the group; answers when it is durable.
    fn write(
        &mut self,
        fill: impl FnOnce(&mut WriteSet<'_>, &mut Counters) -> Result<(), StoreError>,
    ) -> ResponseFuture<Result<Committed, StoreError>> {
        let done = self.add(fill).map(|open| {
            let Open { database, counters, flusher, .. } = open;
            flusher.wait(database, counters.position)
        });
        Box::pin(async move { done?.await.unwrap_or_else(|_| Err(flusher::ended())) })
    }

    /// Answers with what was read when all of it is durable: a crash could take it back before,
    /// and give its positions to something else.
    fn when_durable<T: 'static>(
        &self,
        read: Result<T, StoreError>,
    ) -> ResponseFuture<Result<T, StoreError>> {
        let position = self.open().map(|open| open.counters.position);
        let mut durable = self.durable.clone();
        Box::pin(async move {
            let (answer, position) = (read?, position?);
            match durable.wait_for(|durable| *durable >= position).await {
                Ok(_) => Ok(answer),
                Err(_) => Err(flusher::ended()),
            }
        })
    }

    /// Refuses all writes and reads from now on, and ends the node.
    fn fail(&mut self, error: &StoreError) {
        log::error!(error:%; "a write did not reach the disk; the node stops");
        if let Ok(open) = std::mem::replace(&mut self.open, Err(error.clone())) {
            // What the flusher can still say is that it failed, too.
            let _ = open.flusher.close(open.database);
        }
        if let Some(system) = System::try_current() {
            system.stop_with_code(EXIT_DISK);
        }
    }

    fn close(&mut self) -> Result<(), StoreError> {
        match std::mem::replace(&mut self.open, Err(StoreError::Closed)) {
            Ok(Open { database, counters, flusher, data, lock }) => {
                flusher.close(database)?;
                mark::close(&data, counters.position);
                drop(lock);
                Ok(())
            }
            Err(StoreError::Closed) => Ok(()),
            Err(error) => {
                self.open = Err(error.clone());
                Err(error)
            }
        }
    }
}

impl Handler<CommitRoom> for StoreActor {
    type Result = ResponseFuture<Result<Committed, StoreError>>;

    fn handle(&mut self, step: CommitRoom, _: &mut Self::Context) -> Self::Result {
        self.write(|writes, counters| commit::write(writes, counters, step))
    }
}

impl Handler<WriteRows> for StoreActor {
    type Result = ResponseFuture<Result<Committed, StoreError>>;

    fn handle(&mut self, WriteRows(rows): WriteRows, _: &mut Self::Context) -> Self::Result {
        self.write(|writes, counters| rows::write(writes, counters, rows))
    }
}

impl Handler<KeepReceipt> for StoreActor {
    type Result = ResponseFuture<Result<ReceiptPlace, StoreError>>;

    fn handle(&mut self, ask: KeepReceipt, _: &mut Self::Context) -> Self::Result {
        let judged = self.open().and_then(|open| receipts::judge(&open.database, &ask));
        if !matches!(judged, Ok(ReceiptPlace::Ahead)) {
            return self.when_durable(judged);
        }
        let written = self.write(|writes, counters| {
            let value = rooms::to_json(&ask.receipt)?;
            rows::write(writes, counters, vec![(ask.receipt.row(&ask.room_id), Some(value))])
        });
        Box::pin(async move { written.await.map(|_| ReceiptPlace::Ahead) })
    }
}

impl Handler<AckToDevice> for StoreActor {
    type Result = Result<(), StoreError>;

    fn handle(&mut self, ack: AckToDevice, _: &mut Self::Context) -> Self::Result {
        let AckToDevice { user_id, device_id, position } = ack;
        // Goes to disk with the next group that somebody waits for.
        self.add(|writes, _| rows::remove_to_device(writes, (&user_id, &device_id), position))
            .map(drop)
    }
}

impl Handler<ReadSync> for StoreActor {
    type Result = ResponseFuture<Result<SyncRows, StoreError>>;

    fn handle(&mut self, ask: ReadSync, _: &mut Self::Context) -> Self::Result {
        let open = self.open();
        let read = open.and_then(|open| sync::read(&open.database, open.counters.position, &ask));
        self.when_durable(read)
    }
}

impl Handler<ReadDeviceLists> for StoreActor {
    type Result = ResponseFuture<Result<DeviceLists, StoreError>>;

    fn handle(&mut self, ask: ReadDeviceLists, _: &mut Self::Context) -> Self::Result {
        let open = self.open();
        let read =
            open.and_then(|open| sync::device_lists(&open.database, open.counters.position, &ask));
        self.when_durable(read)
    }
}

impl Handler<FindRoommates> for StoreActor {
    type Result = Result<Roommates, StoreError>;

    fn handle(&mut self, ask: FindRoommates, _: &mut Self::Context) -> Self::Result {
        let open = self.open()?;
        device_lists::roommates(&open.database, open.counters.position, ask)
    }
}

impl Handler<ReadServersOf> for StoreActor {
    type Result = Result<BTreeSet<OwnedServerName>, StoreError>;

    fn handle(&mut self, ask: ReadServersOf, _: &mut Self::Context) -> Self::Result {
        device_lists::servers_of(&self.open()?.database, &ask)
    }
}

impl Handler<ReadServersWith> for StoreActor {
    type Result = Result<BTreeSet<OwnedServerName>, StoreError>;

    fn handle(&mut self, ask: ReadServersWith, _: &mut Self::Context) -> Self::Result {
        device_lists::servers_with(&self.open()?.database, &ask.0)
    }
}

impl Handler<ReadTimeline> for StoreActor {
    type Result = ResponseFuture<Result<TimelinePage, StoreError>>;

    fn handle(&mut self, ask: ReadTimeline, _: &mut Self::Context) -> Self::Result {
        let page = self.in_room(&ask.room_id, TimelinePage::default(), |database, room| {
            timeline::page(database, room, &ask)
        });
        self.when_durable(page)
    }
}

impl Handler<ReadBundles> for StoreActor {
    type Result = ResponseFuture<Result<BundlesRead, StoreError>>;

    fn handle(&mut self, ask: ReadBundles, _: &mut Self::Context) -> Self::Result {
        let read = self.in_room(&ask.room_id, BundlesRead::default(), |database, room| {
            relations::bundles(database, room, &ask)
        });
        self.when_durable(read)
    }
}

impl Handler<ReadRelated> for StoreActor {
    type Result = ResponseFuture<Result<Option<RelatedPage>, StoreError>>;

    fn handle(&mut self, ask: ReadRelated, _: &mut Self::Context) -> Self::Result {
        let read = self
            .in_room(&ask.room_id, None, |database, room| relations::page(database, room, &ask));
        self.when_durable(read)
    }
}

impl Handler<ReadThreads> for StoreActor {
    type Result = ResponseFuture<Result<RelatedPage, StoreError>>;

    fn handle(&mut self, ask: ReadThreads, _: &mut Self::Context) -> Self::Result {
        let read = self.in_room(&ask.room_id, RelatedPage::default(), |database, room| {
            relations::threads(database, room, &ask)
        });
        self.when_durable(read)
    }
}

impl Handler<ReadNotifications> for StoreActor {
    type Result = ResponseFuture<Result<Notifications, StoreError>>;

    fn handle(&mut self, ask: ReadNotifications, _: &mut Self::Context) -> Self::Result {
        let read = self.open().and_then(|open| notified::read(&open.database, &ask));
        self.when_durable(read)
    }
}

impl Handler<LoadRoom> for StoreActor {
    type Result = Result<Option<LoadedRoom>, StoreError>;

    fn handle(&mut self, ask: LoadRoom, _: &mut Self::Context) -> Self::Result {
        rooms::load(&self.open()?.database, &ask.room_id)
    }
}

impl Handler<LoadEvents> for StoreActor {
    type Result = Result<Vec<Lookup>, StoreError>;

    fn handle(&mut self, ask: LoadEvents, _: &mut Self::Context) -> Self::Result {
        let absent = vec![Lookup::Absent; ask.event_ids.len()];
        self.in_room(&ask.room_id, absent, |database, room| {
            ask.event_ids.iter().map(|id| events::look_up(database, room, id)).collect()
        })
    }
}

impl Handler<LoadState> for StoreActor {
    type Result = Result<HashMap<StateKey, OwnedEventId>, StoreError>;

    fn handle(&mut self, ask: LoadState, _: &mut Self::Context) -> Self::Result {
        let database = &self.open()?.database;
        let room = rooms::room_number(database, &ask.room_id)?;
        groups::load(database, room.ok_or(StoreError::Corrupt { what: "state group" })?, ask.group)
    }
}

impl Handler<FindAnnotation> for StoreActor {
    type Result = Result<bool, StoreError>;

    fn handle(&mut self, ask: FindAnnotation, _: &mut Self::Context) -> Self::Result {
        self.in_room(&ask.room_id, false, |database, room| {
            events::is_annotated(database, room, &ask.user_id, &ask.annotation)
        })
    }
}

impl Handler<LoadAuthChain> for StoreActor {
    type Result = Result<Vec<StoredEvent>, StoreError>;

    fn handle(&mut self, ask: LoadAuthChain, _: &mut Self::Context) -> Self::Result {
        self.in_room(&ask.room_id, Vec::new(), |database, room| {
            events::auth_chain(database, room, &ask.roots)
        })
    }
}

impl Handler<ListRooms> for StoreActor {
    type Result = Result<Vec<RoomRow>, StoreError>;

    fn handle(&mut self, _: ListRooms, _: &mut Self::Context) -> Self::Result {
        rooms::list(&self.open()?.database)
    }
}

impl Handler<ReadHeads> for StoreActor {
    type Result = ResponseFuture<Result<RoomEvents, StoreError>>;

    fn handle(&mut self, ReadHeads(room_ids): ReadHeads, _: &mut Self::Context) -> Self::Result {
        let heads = self.open().and_then(|open| rooms::heads(&open.database, room_ids));
        self.when_durable(heads)
    }
}

impl Handler<ReadFaces> for StoreActor {
    type Result = ResponseFuture<Result<Vec<RoomFace>, StoreError>>;

    fn handle(&mut self, ReadFaces(room_ids): ReadFaces, _: &mut Self::Context) -> Self::Result {
        let read = self.open().and_then(|open| faces::read(&open.database, room_ids));
        self.when_durable(read)
    }
}

impl Handler<FindUnspread> for StoreActor {
    type Result = ResponseFuture<Result<RoomEvents, StoreError>>;

    fn handle(&mut self, ask: FindUnspread, _: &mut Self::Context) -> Self::Result {
        let FindUnspread { server_name, since_ts, room_ids } = ask;
        let found = self
            .open()
            .and_then(|open| unspread::find(&open.database, &server_name, since_ts, room_ids));
        self.when_durable(found)
    }
}

impl Handler<FindLacking> for StoreActor {
    type Result = Result<RoomGaps, StoreError>;

    fn handle(&mut self, FindLacking(events): FindLacking, _: &mut Self::Context) -> Self::Result {
        gaps::lacking(&self.open()?.database, events)
    }
}

impl Handler<FindGaps> for StoreActor {
    type Result = Result<GapsFound, StoreError>;

    fn handle(&mut self, FindGaps { after }: FindGaps, _: &mut Self::Context) -> Self::Result {
        inner_gaps::look(&self.open()?.database, after.as_deref())
    }
}

impl Handler<FindGap> for StoreActor {
    type Result = Result<Option<OwnedEventId>, StoreError>;

    fn handle(&mut self, FindGap(room_id): FindGap, _: &mut Self::Context) -> Self::Result {
        inner_gaps::find(&self.open()?.database, &room_id)
    }
}

impl Handler<ReadMissing> for StoreActor {
    type Result = ResponseFuture<Result<Vec<(OwnedRoomId, Vec<MissingEvent>)>, StoreError>>;

    fn handle(&mut self, ReadMissing(rooms): ReadMissing, _: &mut Self::Context) -> Self::Result {
        let events = self.open().and_then(|open| gaps::missing(&open.database, rooms));
        self.when_durable(events)
    }
}

impl Handler<MissingWalk> for StoreActor {
    type Result = Result<Result<MissingIds, MissingWalk>, StoreError>;

    fn handle(&mut self, walk: MissingWalk, _: &mut Self::Context) -> Self::Result {
        missing_ids::go_on(&self.open()?.database, walk)
    }
}

impl Handler<ReadEvents> for StoreActor {
    type Result = ResponseFuture<Result<Vec<(OwnedRoomId, Vec<MissingEvent>)>, StoreError>>;

    fn handle(&mut self, ReadEvents(rooms): ReadEvents, _: &mut Self::Context) -> Self::Result {
        let events = self.open().and_then(|open| missing_ids::events(&open.database, rooms));
        self.when_durable(events)
    }
}

impl Handler<SiftIds> for StoreActor {
    type Result = Result<Vec<SiftedIds>, StoreError>;

    fn handle(&mut self, SiftIds(rooms): SiftIds, _: &mut Self::Context) -> Self::Result {
        missing_ids::sift(&self.open()?.database, rooms)
    }
}

impl Handler<ReadDepartures> for StoreActor {
    type Result = ResponseFuture<Result<Vec<(OwnedRoomId, MissingEvent)>, StoreError>>;

    fn handle(&mut self, ask: ReadDepartures, _: &mut Self::Context) -> Self::Result {
        let found = self.open().and_then(|open| gaps::departures(&open.database, ask));
        self.when_durable(found)
    }
}

impl Handler<SearchDirectory> for StoreActor {
    type Result = Result<Vec<(OwnedUserId, DirectoryEntry)>, StoreError>;

    fn handle(&mut self, ask: SearchDirectory, _: &mut Self::Context) -> Self::Result {
        directory::search(&self.open()?.database, &ask.term, ask.limit)
    }
}

impl Handler<ReadCards> for StoreActor {
    type Result = Result<Vec<Card>, StoreError>;

    fn handle(&mut self, ReadCards(rooms): ReadCards, _: &mut Self::Context) -> Self::Result {
        let database = &self.open()?.database;
        rooms.iter().filter_map(|room_id| cards::read(database, room_id).transpose()).collect()
    }
}

impl Handler<ReadRow> for StoreActor {
    type Result = Result<Option<Vec<u8>>, StoreError>;

    fn handle(&mut self, ReadRow(row): ReadRow, _: &mut Self::Context) -> Self::Result {
        rows::read(&self.open()?.database, &row)
    }
}

impl Handler<ReadRows> for StoreActor {
    type Result = Result<Vec<Option<Vec<u8>>>, StoreError>;

    fn handle(&mut self, ReadRows(rows): ReadRows, _: &mut Self::Context) -> Self::Result {
        let database = &self.open()?.database;
        rows.iter().map(|row| rows::read(database, row)).collect()
    }
}

impl Handler<ScanPage> for StoreActor {
    type Result = Result<RowPage, StoreError>;

    fn handle(&mut self, ask: ScanPage, _: &mut Self::Context) -> Self::Result {
        rows::scan_page(&self.open()?.database, &ask)
    }
}

impl Handler<ScanRows> for StoreActor {
    type Result = Result<Vec<(Row, Vec<u8>)>, StoreError>;

    fn handle(&mut self, ScanRows(kind): ScanRows, _: &mut Self::Context) -> Self::Result {
        rows::scan(&self.open()?.database, &kind)
    }
}

impl Handler<CountToDevice> for StoreActor {
    type Result = Result<HashMap<OwnedServerName, ToDeviceCount>, StoreError>;

    fn handle(&mut self, msg: CountToDevice, _: &mut Self::Context) -> Self::Result {
        rows::count_to_device(&self.open()?.database, msg.old_before)
    }
}

impl Handler<DropToDevice> for StoreActor {
    type Result = Result<(), StoreError>;

    fn handle(&mut self, msg: DropToDevice, _: &mut Self::Context) -> Self::Result {
        let keys = rows::old_to_device(&self.open()?.database, &msg.of, msg.before)?;
        let remove = |writes: &mut WriteSet<'_>, _: &mut Counters| {
            keys.into_iter().for_each(|key| writes.remove(key));
            Ok(())
        };
        self.add(remove).map(drop)
    }
}

impl Handler<WatchStream> for StoreActor {
    type Result = MessageResult<WatchStream>;

    fn handle(&mut self, _: WatchStream, _: &mut Self::Context) -> Self::Result {
        MessageResult(self.durable.clone())
    }
}

impl Handler<NameOwner> for StoreActor {
    type Result = ResponseFuture<Result<Committed, StoreError>>;

    fn handle(&mut self, NameOwner(owner): NameOwner, _: &mut Self::Context) -> Self::Result {
        self.write(|writes, _| {
            migrations::write_owner(writes, &owner);
            Ok(())
        })
    }
}

impl Handler<Close> for StoreActor {
    type Result = Result<(), StoreError>;

    fn handle(&mut self, _: Close, _: &mut Self::Context) -> Self::Result {
        self.close()
    }
}

impl Handler<GroupWritten> for StoreActor {
    type Result = ();

    fn handle(&mut self, _: GroupWritten, ctx: &mut Self::Context) {
        let Ok(Open { database, flusher, .. }) = &mut self.open else { return };
        flusher.advance(database);
        if database.journaled_len() == 0 || std::mem::replace(&mut self.is_follow_due, true) {
            return;
        }
        ctx.run_later(limits::FOLLOW_AFTER, |store, _| {
            store.is_follow_due = false;
            if let Ok(Open { database, flusher, .. }) = &mut store.open {
                flusher.follow(database);
            }
        });
    }
}

impl Handler<DiskFailed> for StoreActor {
    type Result = ();

    fn handle(&mut self, DiskFailed(error): DiskFailed, _: &mut Self::Context) {
        self.fail(&error);
    }
}
