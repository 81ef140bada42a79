//! Which events relate to which: an index that the commit of an event writes.
//!
//! What is related to is in the keys as text: what somebody chose must not have the bytes that
//! backwards reading cannot step over (`backwards.rs`). Invariants: in the index are just the events
//! of the timeline that relate to another one and were not redacted, each at its place; the number
//! of what was said in a thread, and the place of the last of it, are those of its rows.

use std::collections::{HashMap, HashSet};

use ruma::{EventId, OwnedEventId, OwnedUserId, UserId};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    Bundle, BundlesRead, Direction, ReadBundles, ReadRelated, ReadThreads, Reader, RelatedPage,
    Row, StoreError, StoredEvent, Thread,
    backwards::Numbered,
    database::{Database, KeyValue, Rows, WriteSet},
    events::{EventRecord, read_event},
    rows,
    schema::{Hash, Key, Parts, event_id_of, family, hash_of, order_bytes, put_text, take_text},
};
use crate::proto::{
    relation::{REFERENCE, REPLACE, Relation, THREAD},
    stream::Order,
};

/// How deep what relates to what relates to an event is followed.
pub(super) const RELATED_DEPTH: usize = 3;
/// Rows of the index that are looked at for one page, or one bundle.
const LOOKED_AT: usize = 5000;
/// Edits of one event, by its sender, among which the newest is looked for.
const EDITS: usize = 100;
/// References that an event shows.
const REFERENCES: usize = 100;

const ENCRYPTED: &str = "m.room.encrypted";
const IGNORED: &str = "m.ignored_user_list";

/// What the index needs of an event.
struct Child {
    target: OwnedEventId,
    rel_type: String,
    kind: String,
    sender: OwnedUserId,
    ts: u64,
    /// It can take the place of a message.
    is_edit: bool,
}

impl Child {
    fn of(json: &str) -> Option<Self> {
        #[derive(Deserialize)]
        struct Event<'a> {
            #[serde(rename = "type")]
            kind: String,
            sender: OwnedUserId,
            #[serde(default)]
            origin_server_ts: u64,
            #[serde(borrow)]
            state_key: Option<&'a RawValue>,
            #[serde(borrow)]
            content: Content<'a>,
        }
        #[derive(Deserialize)]
        struct Content<'a> {
            #[serde(borrow, rename = "m.new_content")]
            new: Option<&'a RawValue>,
        }
        let Relation { rel_type, event_id: target } = Relation::of_event(json)?;
        let Event { kind, sender, origin_server_ts: ts, state_key, content } =
            serde_json::from_str(json).ok()?;
        let says_what = kind == ENCRYPTED || content.new.is_some();
        let is_edit = rel_type == REPLACE && state_key.is_none() && says_what;
        Some(Self { target, rel_type, kind, sender, ts, is_edit })
    }

    fn is_said_in_thread(&self) -> bool {
        self.rel_type == THREAD
    }
}

fn at(order: Order) -> [u8; 16] {
    let mut bytes = [0; 16];
    let (position, history) = bytes.split_at_mut(8);
    position.copy_from_slice(&order_bytes(order.position));
    history.copy_from_slice(&order.history.to_be_bytes());
    bytes
}

/// Reads the place at the end of a key.
fn place_of(key: &[u8]) -> Option<Order> {
    let mut parts = Parts(key.last_chunk::<16>()?);
    Some(Order { position: parts.order()?, history: parts.number()? })
}

fn about(family: u8, room: u32, target: &EventId) -> Key {
    Key::room(family, room).text(target.as_str())
}

fn standing(prefix: Key, order: Order) -> Vec<u8> {
    let mut key = prefix.done();
    key.extend_from_slice(&at(order));
    key
}

fn related_key(room: u32, child: &Child) -> Key {
    about(family::RELATED, room, &child.target)
}

fn edits_key(room: u32, target: &EventId, sender: &UserId) -> Key {
    about(family::EDIT, room, target).text(sender.as_str())
}

fn said_key(room: u32, root: &EventId) -> Key {
    about(family::THREAD, room, root)
}

fn sender_key(room: u32, root: &EventId, sender: &UserId) -> Vec<u8> {
    about(family::THREAD_SENDER, room, root).text(sender.as_str()).done()
}

fn latest_key(room: u32) -> Key {
    Key::room(family::THREAD_LATEST, room)
}

mod flag {
    pub(super) const REPLACED: u8 = 1;
    pub(super) const REFERENCED: u8 = 1 << 1;
}

/// What relates to an event, in short.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Summary {
    /// Set by the first of a kind, and never taken back.
    flags: u8,
    /// How much was said in the thread.
    said: u64,
    /// Where the last of it stands.
    latest: Option<Order>,
}

impl Summary {
    fn key(room: u32, target: &EventId) -> Vec<u8> {
        about(family::RELATIONS, room, target).done()
    }

    fn read(rows: &impl Rows, room: u32, target: &EventId) -> Result<Option<Self>, StoreError> {
        let Some(bytes) = rows.get(&Self::key(room, target))? else { return Ok(None) };
        let mut parts = Parts(&bytes);
        let mut parse = || {
            let (flags, said) = (parts.byte()?, parts.number()?);
            let latest = if parts.0.is_empty() { None } else { Some(place_of(parts.0)?) };
            Some(Self { flags, said, latest })
        };
        parse().map(Some).ok_or(StoreError::Corrupt { what: "relations" })
    }

    fn write(self, writes: &mut WriteSet<'_>, room: u32, target: &EventId) {
        let mut value = vec![self.flags];
        value.extend_from_slice(&self.said.to_be_bytes());
        value.extend(self.latest.into_iter().flat_map(at));
        writes.put(Self::key(room, target), value);
    }
}

/// Puts an event that stands in the timeline now into the index.
pub(super) fn add(
    writes: &mut WriteSet<'_>,
    room: u32,
    (hash, order): (&Hash, Order),
    json: &str,
) -> Result<(), StoreError> {
    let Some(child) = Child::of(json) else { return Ok(()) };
    let mut value = hash.to_vec();
    for text in [&child.rel_type, &child.kind, child.sender.as_str()] {
        put_text(&mut value, text)?;
    }
    writes.put(standing(related_key(room, &child), order), value);
    let mut summary = Summary::read(writes, room, &child.target)?.unwrap_or_default();
    let before = summary;
    if child.is_edit {
        let mut value = hash.to_vec();
        value.extend_from_slice(&child.ts.to_be_bytes());
        put_text(&mut value, &child.kind)?;
        let edits = edits_key(room, &child.target, &child.sender);
        writes.put(standing(edits, order), value);
        summary.flags |= flag::REPLACED;
    }
    if child.rel_type == REFERENCE {
        summary.flags |= flag::REFERENCED;
    }
    if child.is_said_in_thread() {
        let mut value = hash.to_vec();
        put_text(&mut value, child.sender.as_str())?;
        writes.put(standing(said_key(room, &child.target), order), value);
        count(writes, room, &child, 1)?;
        summary.said = summary.said.saturating_add(1);
        if summary.latest.is_none_or(|latest| latest < order) {
            set_latest(writes, room, &child.target, &mut summary, Some(order))?;
        }
    }
    if summary != before {
        summary.write(writes, room, &child.target);
    }
    Ok(())
}

/// Takes an event out of the index: it was redacted, moves, or is not in the timeline any more.
/// `json` is what it was added with.
pub(super) fn remove(
    writes: &mut WriteSet<'_>,
    room: u32,
    order: Order,
    json: &str,
) -> Result<(), StoreError> {
    let Some(child) = Child::of(json) else { return Ok(()) };
    let key = standing(related_key(room, &child), order);
    if writes.get(&key)?.is_none() {
        return Ok(());
    }
    writes.remove(key);
    writes.remove(standing(edits_key(room, &child.target, &child.sender), order));
    if !child.is_said_in_thread() {
        return Ok(());
    }
    writes.remove(standing(said_key(room, &child.target), order));
    count(writes, room, &child, -1)?;
    let mut summary = Summary::read(writes, room, &child.target)?.unwrap_or_default();
    summary.said = summary.said.saturating_sub(1);
    if summary.latest == Some(order) {
        let said = Numbered::<16>::all(said_key(room, &child.target).done());
        let latest = writes.last(&said)?.and_then(|(key, _)| place_of(&key));
        set_latest(writes, room, &child.target, &mut summary, latest)?;
    }
    summary.write(writes, room, &child.target);
    Ok(())
}

/// Counts what somebody said in a thread.
fn count(
    writes: &mut WriteSet<'_>,
    room: u32,
    child: &Child,
    change: i64,
) -> Result<(), StoreError> {
    let key = sender_key(room, &child.target, &child.sender);
    match said_by(writes, &key)?.saturating_add_signed(change) {
        0 => writes.remove(key),
        said => writes.put(key, said.to_be_bytes().to_vec()),
    }
    Ok(())
}

fn said_by(rows: &impl Rows, key: &[u8]) -> Result<u64, StoreError> {
    let Some(bytes) = rows.get(key)? else { return Ok(0) };
    Parts(&bytes).number().ok_or(StoreError::Corrupt { what: "relations" })
}

fn set_latest(
    writes: &mut WriteSet<'_>,
    room: u32,
    root: &EventId,
    summary: &mut Summary,
    latest: Option<Order>,
) -> Result<(), StoreError> {
    if let Some(before) = std::mem::replace(&mut summary.latest, latest) {
        writes.remove(standing(latest_key(room), before));
    }
    if let Some(latest) = latest {
        let mut value = Vec::new();
        put_text(&mut value, root.as_str())?;
        writes.put(standing(latest_key(room), latest), value);
    }
    Ok(())
}

/// Reads whom a user of ours ignores.
pub(super) fn ignored(
    database: &Database,
    user_id: &UserId,
) -> Result<HashSet<OwnedUserId>, StoreError> {
    let row = Row::AccountData(user_id.to_owned(), IGNORED.to_owned());
    let content = rows::read(database, &row)?;
    Ok(content.map(|content| crate::proto::push_rules::ignored(&content)).unwrap_or_default())
}

/// A row of the index.
struct Related {
    order: Order,
    hash: Hash,
    rel_type: String,
    kind: String,
    sender: String,
}

impl Related {
    fn read((key, value): KeyValue) -> Result<Self, StoreError> {
        let mut parts = Parts(&value);
        let mut parse = || {
            Some(Self {
                order: place_of(&key)?,
                hash: parts.hash()?,
                rel_type: take_text(&mut parts)?.to_owned(),
                kind: take_text(&mut parts)?.to_owned(),
                sender: take_text(&mut parts)?.to_owned(),
            })
        };
        parse().ok_or(StoreError::Corrupt { what: "relations" })
    }
}

/// Reads relations for somebody.
pub(super) struct Reading<'a> {
    pub(super) database: &'a Database,
    pub(super) room: u32,
    pub(super) user_id: &'a UserId,
    pub(super) ignored: &'a HashSet<OwnedUserId>,
    /// The last place that is shown.
    pub(super) until: Order,
}

impl Reading<'_> {
    fn ignores(&self, sender: &str) -> bool {
        !self.ignored.is_empty()
            && <&UserId>::try_from(sender).is_ok_and(|sender| self.ignored.contains(sender))
    }

    /// The rows below a key up to the last place that is shown, the newest first.
    fn back(&self, prefix: Key) -> impl Iterator<Item = Result<KeyValue, StoreError>> {
        let below = Numbered::<16> { last: at(self.until), ..Numbered::<16>::all(prefix.done()) };
        self.database.scan_back(&below).take(LOOKED_AT)
    }

    fn corrupt() -> StoreError {
        StoreError::Corrupt { what: "relations" }
    }

    /// Reads an event of the index.
    fn event(&self, hash: &Hash) -> Result<Option<EventRecord>, StoreError> {
        let record = read_event(self.database, self.room, hash)?;
        let is_shown = |record: &EventRecord| record.order.is_some_and(|at| at <= self.until);
        Ok(record.filter(is_shown))
    }

    /// Reads what is added to an event that is shown.
    pub(super) fn bundle(
        &self,
        hash: &Hash,
        record: &EventRecord,
    ) -> Result<Option<Bundle>, StoreError> {
        let event_id = event_id_of(hash);
        let Some(summary) = Summary::read(self.database, self.room, &event_id)? else {
            return Ok(None);
        };
        let own = Relation::of_event(&record.json);
        let is_redacted = record.redacted_because.is_some();
        let mut bundle = Bundle::default();
        if summary.flags & flag::REPLACED != 0 && !is_redacted {
            bundle.edit = self.edit(&event_id, record)?;
        }
        // What is about something else begins no thread.
        if summary.said > 0 && own.is_none() {
            bundle.thread = self.thread(&event_id, record, summary)?;
        }
        if summary.flags & flag::REFERENCED != 0 && !is_redacted {
            bundle.references = self.references(&event_id)?;
        }
        Ok(Some(bundle).filter(|bundle| !bundle.is_empty()))
    }

    /// Finds the newest edit: by who sent the event, of its type, of what is no edit itself.
    fn edit(
        &self,
        event_id: &EventId,
        record: &EventRecord,
    ) -> Result<Option<StoredEvent>, StoreError> {
        let head = record.head()?;
        let is_edit = Relation::of_event(&record.json).is_some_and(|own| own.rel_type == REPLACE);
        if head.state_key.is_some() || is_edit {
            return Ok(None);
        }
        let mut newest: Option<(u64, Hash)> = None;
        for row in self.back(edits_key(self.room, event_id, &head.sender)).take(EDITS) {
            let (_, value) = row?;
            let mut parts = Parts(&value);
            let parse = || {
                let (hash, ts) = (parts.hash()?, parts.number()?);
                Some((hash, ts, take_text(&mut parts)? == head.kind))
            };
            let (hash, ts, fits) = { parse }().ok_or_else(Self::corrupt)?;
            let later =
                |(other, than): (u64, Hash)| (ts, event_id_of(&hash)) > (other, event_id_of(&than));
            if fits && newest.is_none_or(later) {
                newest = Some((ts, hash));
            }
        }
        let Some((_, hash)) = newest else { return Ok(None) };
        Ok(self.event(&hash)?.map(|record| record.into_stored(&hash)))
    }

    fn thread(
        &self,
        root: &EventId,
        record: &EventRecord,
        summary: Summary,
    ) -> Result<Option<Thread>, StoreError> {
        let (mut latest, mut seen) = (None, 0_u64);
        let is_whole = summary.latest.is_none_or(|latest| latest <= self.until);
        for row in self.back(said_key(self.room, root)) {
            let (_, value) = row?;
            let mut parts = Parts(&value);
            let hash = parts.hash().ok_or_else(Self::corrupt)?;
            let sender = take_text(&mut parts).ok_or_else(Self::corrupt)?;
            if self.ignores(sender) {
                continue;
            }
            seen = seen.saturating_add(1);
            latest = latest.or(Some(hash));
            if is_whole {
                break;
            }
        }
        let Some(hash) = latest else { return Ok(None) };
        let mut count = if is_whole { summary.said } else { seen };
        if is_whole {
            for user in self.ignored {
                let said = said_by(self.database, &sender_key(self.room, root, user))?;
                count = count.saturating_sub(said);
            }
        }
        let Some(latest) = self.event(&hash)? else { return Ok(None) };
        let latest_edit = self.edit(&event_id_of(&hash), &latest)?;
        let participated = self.has_part(root, record)?;
        let latest = latest.into_stored(&hash);
        Ok(Some(Thread { latest, latest_edit, count, participated }))
    }

    /// Tells whether the reader began a thread or said something in it.
    fn has_part(&self, root: &EventId, record: &EventRecord) -> Result<bool, StoreError> {
        Ok(record.head()?.sender == self.user_id
            || said_by(self.database, &sender_key(self.room, root, self.user_id))? > 0)
    }

    fn references(&self, event_id: &EventId) -> Result<Vec<OwnedEventId>, StoreError> {
        let mut found = Vec::new();
        let prefix = about(family::RELATED, self.room, event_id).done();
        for row in self.database.scan_prefix(&prefix).take(LOOKED_AT) {
            let row = Related::read(row?)?;
            if row.rel_type == REFERENCE && row.order <= self.until && !self.ignores(&row.sender) {
                found.push(event_id_of(&row.hash));
            }
            if found.len() >= REFERENCES {
                break;
            }
        }
        Ok(found)
    }

    /// Reads the events that relate to one, between two places.
    fn related(
        &self,
        event_id: &EventId,
        (first, last): (Order, Order),
        direction: Direction,
    ) -> Box<dyn Iterator<Item = Result<Related, StoreError>> + '_> {
        let prefix = about(family::RELATED, self.room, event_id).done();
        let last = last.min(self.until);
        let rows = Numbered::<16> { prefix, first: at(first), last: at(last) };
        match direction {
            Direction::Backward => {
                Box::new(self.database.scan_back(&rows).map(|row| Related::read(row?)))
            }
            Direction::Forward => {
                let (start, mut end) = rows.range().into_inner();
                end.push(0);
                let start = start.min(end.clone());
                Box::new(self.database.scan(start, end).map(|row| Related::read(row?)))
            }
        }
    }

    /// Answers [`ReadRelated`].
    fn page(&self, ask: &ReadRelated) -> Result<Option<RelatedPage>, StoreError> {
        let Some(hash) = hash_of(&ask.event_id) else { return Ok(None) };
        if self.event(&hash)?.is_none() {
            return Ok(None);
        }
        let (first, last) = range(ask);
        let mut page = RelatedPage::default();
        if first > last {
            return Ok(Some(page));
        }
        let rows: Box<dyn Iterator<Item = _>> = if ask.recurse {
            let mut found = self.deep(&ask.event_id)?;
            found.retain(|row| first <= row.order && row.order <= last);
            found.sort_by_key(|row| row.order);
            if ask.direction == Direction::Backward {
                found.reverse();
            }
            Box::new(found.into_iter().map(Ok))
        } else {
            self.related(&ask.event_id, (first, last), ask.direction)
        };
        let wanted = |row: &Related| {
            ask.rel_type.as_ref().is_none_or(|wanted| *wanted == row.rel_type)
                && ask.event_type.as_ref().is_none_or(|wanted| *wanted == row.kind)
                && !self.ignores(&row.sender)
        };
        for (looked_at, row) in rows.enumerate() {
            let row = row?;
            if page.events.len() >= ask.limit || looked_at >= LOOKED_AT {
                return self.with_bundles(page).map(Some);
            }
            page.next = Some(match ask.direction {
                Direction::Backward => row.order.before(),
                Direction::Forward => row.order,
            });
            if wanted(&row)
                && let Some(record) = self.event(&row.hash)?
            {
                page.events.push(record.into_stored(&row.hash));
            }
        }
        page.next = None;
        self.with_bundles(page).map(Some)
    }

    /// Reads what relates to an event, and to that, and to that.
    fn deep(&self, event_id: &EventId) -> Result<Vec<Related>, StoreError> {
        let mut found: Vec<Related> = Vec::new();
        let mut seen: HashSet<Hash> = hash_of(event_id).into_iter().collect();
        let mut level = vec![event_id.to_owned()];
        for _ in 0..RELATED_DEPTH {
            let mut next = Vec::new();
            for event_id in &level {
                let whole = (Order::FIRST, Order::LAST);
                for row in self.related(event_id, whole, Direction::Forward) {
                    let row = row?;
                    if found.len() >= LOOKED_AT {
                        return Ok(found);
                    }
                    if seen.insert(row.hash) {
                        next.push(event_id_of(&row.hash));
                        found.push(row);
                    }
                }
            }
            level = next;
        }
        Ok(found)
    }

    /// Answers [`ReadThreads`].
    fn threads(&self, ask: &ReadThreads) -> Result<RelatedPage, StoreError> {
        let mut page = RelatedPage::default();
        let last = ask.from.unwrap_or(Order::LAST).min(self.until);
        let all = Numbered::<16>::all(latest_key(self.room).done());
        let below = Numbered::<16> { last: at(last), ..all };
        for (looked_at, row) in self.database.scan_back(&below).enumerate() {
            let (key, value) = row?;
            if page.events.len() >= ask.limit || looked_at >= LOOKED_AT {
                return self.with_bundles(page);
            }
            page.next = place_of(&key).map(Order::before);
            let root = take_text(&mut Parts(&value)).and_then(|root| EventId::parse(root).ok());
            let root = root.ok_or_else(Self::corrupt)?;
            let Some(hash) = hash_of(&root) else { continue };
            let Some(record) = self.event(&hash)? else { continue };
            if Relation::of_event(&record.json).is_some()
                || self.ignores(record.head()?.sender.as_str())
                || (ask.participated && !self.has_part(&root, &record)?)
            {
                continue;
            }
            page.events.push(record.into_stored(&hash));
        }
        page.next = None;
        self.with_bundles(page)
    }

    fn with_bundles(&self, mut page: RelatedPage) -> Result<RelatedPage, StoreError> {
        for event in &page.events {
            let Some(hash) = hash_of(&event.event_id) else { continue };
            let Some(record) = self.event(&hash)? else { continue };
            if let Some(bundle) = self.bundle(&hash, &record)? {
                page.bundles.insert(event.event_id.clone(), bundle);
            }
            if let Some(because) = &event.redacted_because
                && let Some(by) = hash_of(because)
                && let Some(redaction) = read_event(self.database, self.room, &by)?
            {
                page.redactions.insert(because.clone(), redaction.into_stored(&by));
            }
        }
        Ok(page)
    }
}

/// Returns the first and the last place that may be shown.
fn range(ask: &ReadRelated) -> (Order, Order) {
    let after = |order: Order| Order {
        position: order.position.saturating_add(i64::from(order.history == u64::MAX)),
        history: order.history.wrapping_add(1),
    };
    match ask.direction {
        Direction::Forward => (ask.from.map_or(Order::FIRST, after), ask.to.unwrap_or(Order::LAST)),
        Direction::Backward => {
            (ask.to.map_or(Order::FIRST, after), ask.from.unwrap_or(Order::LAST))
        }
    }
}

/// Begins to read for somebody.
fn reading<T>(
    database: &Database,
    room: u32,
    reader: &Reader,
    read: impl FnOnce(&Reading<'_>) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    let ignored = &ignored(database, &reader.user_id)?;
    let until = reader.until.unwrap_or(Order::LAST);
    read(&Reading { database, room, user_id: &reader.user_id, ignored, until })
}

/// Answers [`ReadBundles`].
pub(super) fn bundles(
    database: &Database,
    room: u32,
    ask: &ReadBundles,
) -> Result<BundlesRead, StoreError> {
    reading(database, room, &ask.reader, |reading| {
        let mut bundles = HashMap::new();
        for event_id in &ask.event_ids {
            let Some(hash) = hash_of(event_id) else { continue };
            let Some(record) = reading.event(&hash)? else { continue };
            if let Some(bundle) = reading.bundle(&hash, &record)? {
                bundles.insert(event_id.clone(), bundle);
            }
        }
        Ok(BundlesRead { bundles, ignored: reading.ignored.clone() })
    })
}

/// Answers [`ReadRelated`].
pub(super) fn page(
    database: &Database,
    room: u32,
    ask: &ReadRelated,
) -> Result<Option<RelatedPage>, StoreError> {
    reading(database, room, &ask.reader, |reading| reading.page(ask))
}

/// Answers [`ReadThreads`].
pub(super) fn threads(
    database: &Database,
    room: u32,
    ask: &ReadThreads,
) -> Result<RelatedPage, StoreError> {
    reading(database, room, &ask.reader, |reading| reading.threads(ask))
}

/// Finds the thread of an event that stands, or comes to stand, in a room.
pub(super) fn thread_of(
    rows: &impl Rows,
    room: u32,
    json: &str,
) -> Result<Option<OwnedEventId>, StoreError> {
    let mut failed = Ok(());
    let thread = crate::proto::relation::thread_of(Relation::of_event(json), |event_id| {
        match read_event(rows, room, &hash_of(event_id)?) {
            Ok(record) => Relation::of_event(&record?.json),
            Err(error) => {
                failed = Err(error);
                None
            }
        }
    });
    failed.map(|()| thread)
}
