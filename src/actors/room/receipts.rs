//! How far people have read: what our user says of it, and what others do.
//!
//! Invariant: nobody's receipt goes back, in whatever order receipts and events come. A receipt of an
//! event that is not here yet waits for it.

use actix::{
    ActorFutureExt as _, AsyncContext as _, Context, Handler, ResponseFuture, WrapFuture as _,
};
use ruma::{OwnedEventId, OwnedRoomId, RoomId};
use serde::Deserialize;

use super::{
    actor::RoomActor,
    edus,
    links::{Links, ask},
    messages::{Publish, RoomError, SetReceipt},
};
use crate::{
    actors::{
        clock::now_ms,
        store::{
            KeepReceipt, LoadEvents, Lookup, NewEvent, Place, Receipt, ReceiptPlace, Row, RowKind,
            ScanRows, StoredEvent, WriteRows,
        },
    },
    config::limits,
};

/// Most receipts of one server that wait for their events: a server's newer ones take the place of
/// its older ones.
const WAITING_SERVER: usize = 16;
/// Most that wait in a room; what comes then is lost, as gossip can be.
const WAITING: usize = 512;
/// How many events are followed from one to what it relates to, to find its thread.
const RELATION_HOPS: usize = 3;

/// The thread of what is in none.
const MAIN: &str = "main";

/// Receipts of events that are not here, oldest first.
#[derive(Debug, Default)]
pub(super) struct WaitingReceipts(Vec<Receipt>);

impl WaitingReceipts {
    fn wait(&mut self, receipt: Receipt) {
        let server = receipt.user_id.server_name().to_owned();
        let of_server = |known: &&Receipt| known.user_id.server_name() == server;
        if self.0.iter().filter(of_server).count() >= WAITING_SERVER
            && let Some(oldest) = self.0.iter().position(|known| of_server(&known))
        {
            self.0.remove(oldest);
        }
        if self.0.len() < WAITING {
            self.0.push(receipt);
        }
    }

    /// Its event is here: it waits no longer.
    fn judged(&mut self, receipt: &Receipt) {
        self.0.retain(|known| known != receipt);
    }

    /// Takes out what waited for one of these events.
    pub(super) fn arrived(&mut self, events: &[NewEvent]) -> Vec<Receipt> {
        if self.0.is_empty() {
            return Vec::new();
        }
        let is_here = |receipt: &mut Receipt| {
            events.iter().any(|event| event.pdu.event_id == receipt.event_id)
        };
        self.0.extract_if(.., is_here).collect()
    }
}

/// Keeps a receipt where `/sync` finds it, if it is ahead. What a thread is, anybody can say: of each
/// person those of some threads are kept, and the oldest give way.
async fn keep(
    links: &Links,
    room_id: &RoomId,
    receipt: &Receipt,
) -> Result<ReceiptPlace, RoomError> {
    let ahead = KeepReceipt { room_id: room_id.to_owned(), receipt: receipt.clone() };
    let place = ask(&links.store.keep_receipt, ahead).await?;
    if place == ReceiptPlace::Ahead
        && let Some(thread) = &receipt.thread_id
    {
        let kind = RowKind::ReceiptsOf(room_id.to_owned(), receipt.user_id.clone());
        let given_up = surplus(ask(&links.store.scan_rows, ScanRows(kind)).await?, thread);
        if !given_up.is_empty() {
            let given_up = given_up.into_iter().map(|row| (row, None)).collect();
            ask(&links.store.write_rows, WriteRows(given_up)).await?;
        }
    }
    Ok(place)
}

/// Keeps receipts whose events have come.
pub(super) async fn keep_all(links: &Links, room_id: &RoomId, receipts: Vec<Receipt>) {
    for receipt in receipts {
        if let Err(error) = keep(links, room_id, &receipt).await {
            log::error!(room_id:%; "cannot keep a receipt: {error}");
        }
    }
}

/// Returns the receipts of threads that give way to one of `thread`: those with the oldest dates.
fn surplus(kept: Vec<(Row, Vec<u8>)>, thread: &str) -> Vec<Row> {
    let mut others: Vec<(u64, Row)> = kept
        .into_iter()
        .filter(|(row, _)| matches!(row, Row::Receipt(.., Some(other)) if other != thread))
        .map(|(row, value)| {
            let receipt = serde_json::from_slice::<Receipt>(&value);
            (receipt.map_or(0, |receipt| receipt.ts), row)
        })
        .collect();
    let count = (others.len() + 1).saturating_sub(limits::RECEIPT_THREADS);
    others.sort_by_key(|(ts, _)| *ts);
    others.into_iter().take(count).map(|(_, row)| row).collect()
}

impl RoomActor {
    /// Takes receipts of members of other servers.
    pub(super) fn hear_receipts(&mut self, receipts: Vec<Receipt>, ctx: &mut Context<Self>) {
        for receipt in receipts {
            // First it waits, then it is looked at: an event that comes between finds it.
            self.receipts.wait(receipt.clone());
            let (links, room_id) = (self.links.clone(), self.room_id.clone());
            let kept = async move { (keep(&links, &room_id, &receipt).await, receipt) };
            ctx.spawn(kept.into_actor(self).map(|(kept, receipt), act, _| match kept {
                Ok(ReceiptPlace::Unknown) => {}
                Ok(ReceiptPlace::Ahead | ReceiptPlace::Behind) => act.receipts.judged(&receipt),
                Err(error) => {
                    log::error!(room_id:% = act.room_id; "cannot keep a receipt: {error}");
                }
            }));
        }
    }
}

impl Handler<SetReceipt> for RoomActor {
    type Result = ResponseFuture<Result<(), RoomError>>;

    fn handle(&mut self, msg: SetReceipt, ctx: &mut Context<Self>) -> Self::Result {
        let joined = self.joined(msg.by.clone(), ctx);
        let room = ctx.address();
        Box::pin(async move {
            let (links, room_id, user_id) = joined.await?;
            let SetReceipt { receipt_type, by: _, event_id, thread_id } = msg;
            let event = shown_event(&links, &room_id, event_id).await?;
            if let Some(thread_id) = &thread_id {
                check_thread(&links, &room_id, &event, thread_id).await?;
            }
            let event_id = event.event_id;
            let receipt = Receipt { user_id, receipt_type, event_id, thread_id, ts: now_ms() };
            let place = keep(&links, &room_id, &receipt).await?;
            if place == ReceiptPlace::Ahead && receipt.receipt_type == "m.read" {
                let edus = vec![edus::receipt(&room_id, &receipt)?];
                room.do_send(Publish::new(Vec::new(), edus));
            }
            Ok(())
        })
    }
}

/// Reads an event that clients are shown.
async fn shown_event(
    links: &Links,
    room_id: &OwnedRoomId,
    event_id: OwnedEventId,
) -> Result<StoredEvent, RoomError> {
    let load = LoadEvents { room_id: room_id.clone(), event_ids: vec![event_id] };
    match ask(&links.store.load_events, load).await?.into_iter().next() {
        Some(Lookup::Found(event)) if matches!(event.place, Place::Live | Place::Backfilled) => {
            Ok(event)
        }
        _ => Err(RoomError::EventNotFound),
    }
}

/// What an event relates to.
#[derive(Debug, Deserialize, PartialEq)]
struct Relation {
    rel_type: String,
    event_id: OwnedEventId,
}

impl Relation {
    fn of(event: &StoredEvent) -> Option<Self> {
        #[derive(Deserialize)]
        struct Event {
            content: Content,
        }
        #[derive(Deserialize)]
        struct Content {
            #[serde(rename = "m.relates_to")]
            relates_to: Relation,
        }
        let event = serde_json::from_str::<Event>(&event.json).ok()?;
        Some(event.content.relates_to)
    }

    fn is_thread(&self) -> bool {
        self.rel_type == "m.thread"
    }
}

/// Checks that an event is in a thread: it says so itself, is its root, or is about what is in it.
async fn check_thread(
    links: &Links,
    room_id: &OwnedRoomId,
    event: &StoredEvent,
    thread_id: &str,
) -> Result<(), RoomError> {
    let refused = || RoomError::BadRequest("the event is not in that thread".to_owned());
    if thread_id != MAIN && event.event_id == thread_id {
        return Ok(());
    }
    let mut relation = Relation::of(event);
    for _ in 0..RELATION_HOPS {
        match &relation {
            Some(found) if !found.is_thread() => {
                if found.event_id == thread_id {
                    return Ok(());
                }
                let next = shown_event(links, room_id, found.event_id.clone()).await.ok();
                relation = next.as_ref().and_then(Relation::of);
            }
            _ => break,
        }
    }
    let thread = relation.filter(Relation::is_thread).map(|found| found.event_id);
    let is_in_it = match &thread {
        None => thread_id == MAIN,
        Some(root) => root == thread_id,
    };
    if is_in_it { Ok(()) } else { Err(refused()) }
}

#[cfg(test)]
mod tests {
    use ruma::{event_id, room_id, user_id};

    use super::*;
    use crate::proto::stream::Order;

    fn of(user: &str, event_id: &str) -> Receipt {
        Receipt {
            user_id: user.try_into().unwrap(),
            receipt_type: "m.read".to_owned(),
            event_id: event_id.try_into().unwrap(),
            thread_id: None,
            ts: 1,
        }
    }

    #[test]
    fn attack_13_one_server_takes_no_places_of_waiting_receipts_from_others() {
        let mut waiting = WaitingReceipts::default();
        let honest = of("@a:honest", "$e");
        waiting.wait(honest.clone());
        for number in 0..WAITING {
            waiting.wait(of(&format!("@u{number}:eve"), "$none"));
        }
        assert_eq!(waiting.0.len(), WAITING_SERVER + 1);
        assert!(waiting.0.contains(&honest));
        for server in 0..WAITING {
            waiting.wait(of(&format!("@a:s{server}"), "$none"));
        }
        assert_eq!(waiting.0.len(), WAITING);
        assert!(waiting.0.contains(&honest), "what comes last is lost, not what was first");
        waiting.judged(&honest);
        assert!(!waiting.0.contains(&honest));
    }

    #[test]
    fn relations_are_read_where_there_are_any() {
        let relation = |content: &str| {
            Relation::of(&StoredEvent {
                event_id: event_id!("$e").to_owned(),
                json: format!(r#"{{"content":{content}}}"#).into(),
                place: Place::Live,
                state_group: None,
                order: Some(Order::live(1)),
                spoilt: false,
                txn: None,
                redacted_because: None,
            })
        };
        let thread = r#"{"m.relates_to":{"rel_type":"m.thread","event_id":"$root"}}"#;
        assert!(relation(thread).unwrap().is_thread());
        for none in ["{}", "7", r#"{"m.relates_to":{"m.in_reply_to":{"event_id":"$x"}}}"#] {
            assert_eq!(relation(none), None, "{none}");
        }
    }

    #[test]
    fn attack_13_of_endless_threads_the_newest_receipts_are_kept() {
        let row = |number: u64, thread: Option<String>| {
            let receipt = Receipt {
                user_id: user_id!("@a:x").to_owned(),
                receipt_type: "m.read".to_owned(),
                event_id: event_id!("$e").to_owned(),
                thread_id: thread.clone(),
                ts: number,
            };
            let row = Row::Receipt(
                room_id!("!r:x").to_owned(),
                receipt.user_id.clone(),
                receipt.receipt_type.clone(),
                thread,
            );
            (row, serde_json::to_vec(&receipt).unwrap())
        };
        let most = u64::try_from(limits::RECEIPT_THREADS).unwrap();
        // The oldest of all is of no thread, and so none of those that give way.
        let mut kept = vec![row(0, None)];
        kept.extend((1..=most).rev().map(|number| row(number, Some(format!("$thread{number}")))));
        assert_eq!(surplus(kept.clone(), "$thread7"), [], "it is one of them");
        assert_eq!(surplus(kept.clone(), "$new"), [row(1, Some("$thread1".to_owned())).0]);
        kept.truncate(limits::RECEIPT_THREADS);
        assert_eq!(surplus(kept, "$new"), []);
    }
}
