//! What a sync shows of one room.
//!
//! Invariants: state and timeline together give the state in force, in both forms that a client can
//! ask for: the state before the timeline's first event, without what the timeline shows, or that
//! after its last one; whom a room is named after is in it; a room that was left shows nothing from
//! after the leave.

use std::collections::{BTreeSet, HashMap, HashSet};

use ruma::{OwnedEventId, OwnedUserId, UserId, events::room::member::MembershipState};
use serde::Deserialize;

use super::{
    InvitedRoom, JoinedRoom, ReadSync, Receipt, Row, RowKind, StoreError, StoredEvent, Summary,
    SyncRows,
    database::{Database, Rows as _},
    events::{EventRecord, Head, read_event, read_known},
    relations::Reading,
    rooms::{InviteRow, MembershipRow, RoomInfo, StateRow},
    rows,
    schema::{
        Hash, Key, Parts, after, event_id_of, family, hash_of, membership_code, membership_of_code,
        take_changes,
    },
    sync::{RoomChanges, all_account_data, some_account_data},
    timeline,
    unread::{self, Counts},
};
use crate::proto::stream::Order;

/// Most timeline events that a filter is tried on for one room.
const FILTERED: usize = 2000;
/// Most heroes of a room without a name.
const HEROES: usize = 5;

const MEMBER: &str = "m.room.member";
const REDACTION: &str = "m.room.redaction";
/// State that rooms are named by.
const NAMING: [&str; 3] = [MEMBER, "m.room.name", "m.room.canonical_alias"];

/// The part of a timeline that is shown.
#[derive(Debug, Default)]
struct Window {
    /// Oldest first.
    events: Vec<(Hash, EventRecord)>,
    limited: bool,
    prev_batch: Option<Order>,
    senders: BTreeSet<OwnedUserId>,
    /// A redaction is among them.
    redacts: bool,
    /// The place of a state event that the timeline would end with, though it is not in force.
    superseded: Option<(String, String)>,
}

impl Window {
    fn position_of(&self) -> HashMap<Hash, &EventRecord> {
        self.events.iter().map(|(hash, record)| (*hash, record)).collect()
    }
}

/// Reads what a sync shows of one room.
pub(super) struct RoomReader<'a> {
    pub(super) database: &'a Database,
    pub(super) ask: &'a ReadSync,
    pub(super) room: u32,
    pub(super) info: RoomInfo,
    pub(super) changes: RoomChanges,
    /// Whom the user ignores.
    pub(super) ignored: &'a HashSet<OwnedUserId>,
    /// Up to where.
    pub(super) position: u64,
}

impl RoomReader<'_> {
    /// Adds what there is to show to an answer.
    pub(super) fn read(self, answer: &mut SyncRows) -> Result<(), StoreError> {
        let Some(own) = MembershipRow::read(self.database, self.room, &self.ask.user_id)? else {
            return Ok(());
        };
        let membership_changed =
            self.changes.memberships.last() == Some(&membership_code(&own.membership));
        let is_initial = self.ask.since.is_none();
        match own.membership {
            MembershipState::Join => {
                let position = self.position.cast_signed();
                let room = self.events(position)?;
                answer.joined.extend(room);
            }
            MembershipState::Invite if is_initial || membership_changed => {
                let invite = InviteRow::read(self.database, self.room, &self.ask.user_id)?;
                if self.is_of_ignored(invite.as_ref()) {
                    return Ok(());
                }
                answer.invited.push(InvitedRoom {
                    room_id: self.info.room_id,
                    stripped_state: invite.map(|row| row.stripped_state).unwrap_or_default(),
                });
            }
            MembershipState::Leave | MembershipState::Ban
                if membership_changed
                    || (self.ask.include_leave && (is_initial || self.ask.full_state)) =>
            {
                let (database, room) = (self.database, self.room);
                let mut left = self.events(own.order)?;
                if let Some(left) = &mut left {
                    show_departure(database, room, &own, left)?;
                }
                answer.left.extend(left);
            }
            _ => {}
        }
        Ok(())
    }

    /// Tells whether an invite is of somebody whom the user ignores.
    fn is_of_ignored(&self, invite: Option<&InviteRow>) -> bool {
        #[derive(Deserialize)]
        struct Sent {
            sender: OwnedUserId,
        }
        let sent = invite.filter(|_| !self.ignored.is_empty());
        let sent = sent.and_then(|row| serde_json::from_str::<Sent>(row.event.get()).ok());
        sent.is_some_and(|sent| self.ignored.contains(&sent.sender))
    }

    /// Tells whether the client knows nothing of the room yet.
    fn is_fresh(&self) -> bool {
        let join = membership_code(&MembershipState::Join);
        self.ask.since.is_none() || self.changes.memberships.contains(&join)
    }

    /// Reads the room up to the order `last`; none where nothing is to be shown.
    fn events(self, last: i64) -> Result<Option<JoinedRoom>, StoreError> {
        let is_fresh = self.is_fresh();
        let since = self.ask.since.filter(|_| !is_fresh).map(u64::cast_signed);
        let window = self.window(since, last)?;
        let mut changes = match since {
            Some(since) => self.state_changes(since, last)?,
            None => BTreeSet::new(),
        };
        changes.extend(window.superseded.clone());
        let counts = Counts::read(self.database, self.room)?;
        let is_whole = is_fresh || self.ask.full_state;
        let is_named_anew = changes.iter().any(|(kind, _)| NAMING.contains(&kind.as_str()));
        // What is redacted may have been the name.
        let summary = if is_whole || is_named_anew || window.redacts {
            Some(self.summary(&counts)?)
        } else {
            None
        };
        let members = self.shown_members(&window, summary.as_ref(), is_whole);
        let state = if is_whole {
            self.full_state(&window, last, &members)?
        } else {
            self.state_since(&window, since.unwrap_or(0), last, &changes, &members)?
        };
        let room_id = self.info.room_id.clone();
        let (account_data, receipts) = if is_fresh {
            let kind = RowKind::RoomAccountData(self.ask.user_id.clone(), room_id.clone());
            (all_account_data(self.database, &kind)?, self.all_receipts()?)
        } else {
            let kinds = self.changes.account_data.iter();
            let own = |kind: &String| {
                Row::RoomAccountData(self.ask.user_id.clone(), room_id.clone(), kind.clone())
            };
            let rows = kinds.map(own);
            (some_account_data(self.database, rows)?, self.changed_receipts()?)
        };
        let membership_changed = !self.changes.memberships.is_empty();
        if !is_fresh
            && !self.ask.full_state
            && !membership_changed
            && !window.limited
            && window.events.is_empty()
            && state.is_empty()
            && account_data.is_empty()
            && receipts.is_empty()
        {
            return Ok(None);
        }
        let mut room = JoinedRoom {
            room_id,
            timeline: Vec::with_capacity(window.events.len()),
            limited: window.limited,
            prev_batch: window.prev_batch,
            state,
            account_data,
            receipts,
            unread: unread::read(self.database, self.room, &self.ask.user_id)?,
            unread_threads: unread::read_threads(self.database, self.room, &self.ask.user_id)?,
            bundles: HashMap::new(),
            summary,
            redactions: HashMap::new(),
            replaced: HashMap::new(),
        };
        self.attach(window, last, &mut room)?;
        Ok(Some(room))
    }

    /// Reads the newest events after `since`, up to `last`.
    fn window(&self, since: Option<i64>, last: i64) -> Result<Window, StoreError> {
        let first = since.map_or(Order::FIRST, |since| Order { position: since, history: 1 });
        let gaps = timeline::before_gaps(self.database, self.room)?;
        let mut window = Window::default();
        if !self.ask.timeline_filter.allows_room(&self.info.room_id) {
            return Ok(window);
        }
        let mut reached = Order::live(last);
        let mut places = HashSet::new();
        let rows = timeline::scan_back(self.database, self.room, reached, first);
        for (scanned, row) in rows.enumerate() {
            let (order, hash) = row?;
            // History that was missing is no news: whoever pages finds it.
            if since.is_some() && order.is_history() {
                window.limited = true;
                break;
            }
            let record = read_known(self.database, self.room, &hash)?;
            let head = record.head()?;
            // State is always shown, whoever set it.
            let is_ignored = head.state_key.is_none() && self.ignored.contains(&head.sender);
            let is_shown = !is_ignored && self.ask.timeline_filter.allows_head(&head, &record.json);
            if scanned >= FILTERED || (is_shown && window.events.len() >= self.ask.timeline_limit) {
                window.limited = true;
                break;
            }
            if let Some(place) = self.superseded(&head, &hash, last, &mut places)? {
                window.superseded = Some(place);
                window.limited = true;
                break;
            }
            reached = order.before();
            if is_shown {
                window.redacts |= head.kind == REDACTION;
                window.senders.insert(head.sender);
                window.events.push((hash, record));
            }
            if gaps.contains(&hash) {
                window.limited = true;
                break;
            }
        }
        window.events.reverse();
        // Also where nothing is older: what clients keep of a timeline begins at such a token.
        window.prev_batch = Some(reached);
        if since.is_none() {
            let older = timeline::scan(self.database, self.room, Order::FIRST, reached).next();
            window.limited = older.transpose()?.is_some() || !gaps.is_empty();
        }
        Ok(window)
    }

    /// Returns the place of an event that a client would take for the state in force, while state
    /// resolution gave the place to another one. `places` are those of newer events.
    ///
    /// The client adds what a timeline sets to the state before it, so a timeline must not end so
    /// for any place: it begins after the event, which is found further back, and the state before
    /// it says what is so. Who gets the state after the timeline has it from there. Where a filter
    /// leaves events out, no client can tell the state from its timeline.
    fn superseded(
        &self,
        head: &Head,
        hash: &Hash,
        last: i64,
        places: &mut HashSet<(String, String)>,
    ) -> Result<Option<(String, String)>, StoreError> {
        if self.ask.state_after || !self.ask.timeline_filter.allows_all() {
            return Ok(None);
        }
        let Some(key) = head.state_key.clone() else { return Ok(None) };
        let place = (head.kind.clone(), key);
        if !places.insert(place.clone()) {
            return Ok(None);
        }
        let row = StateRow::read(self.database, self.room, (&place.0, &place.1))?;
        let in_force = match row {
            Some(row) => self.before_window(&HashMap::new(), last, row.hash)?,
            None => None,
        };
        Ok(in_force.is_none_or(|(now, _)| now != *hash).then_some(place))
    }

    /// Reads the places of the current state that changed after `since`, as type and key.
    fn state_changes(
        &self,
        since: i64,
        last: i64,
    ) -> Result<BTreeSet<(String, String)>, StoreError> {
        let key = |position: i64| {
            Key::room(family::STATE_LOG, self.room)
                .number(position.saturating_add(1).cast_unsigned())
                .done()
        };
        let mut places = BTreeSet::new();
        if since >= last {
            return Ok(places);
        }
        for row in self.database.scan_long(key(since), key(last)) {
            let changes = take_changes(Parts(&row?.1));
            let changes = changes.ok_or(StoreError::Corrupt { what: "state log" })?;
            places.extend(changes.into_iter().map(|((kind, key), _)| (kind.to_string(), key)));
        }
        Ok(places)
    }

    /// Steps back from the current event of a place to the one before the window.
    fn before_window(
        &self,
        window: &HashMap<Hash, &EventRecord>,
        last: i64,
        hash: Hash,
    ) -> Result<Option<(Hash, EventRecord)>, StoreError> {
        let mut next = Some(hash);
        while let Some(hash) = next {
            if let Some(record) = window.get(&hash) {
                next = record.replaces;
                continue;
            }
            let record = read_known(self.database, self.room, &hash)?;
            if record.order.is_none_or(|order| order <= Order::live(last)) {
                return Ok(Some((hash, record)));
            }
            next = record.replaces;
        }
        Ok(None)
    }

    fn push_state(
        &self,
        state: &mut Vec<StoredEvent>,
        hash: &Hash,
        record: EventRecord,
    ) -> Result<(), StoreError> {
        if self.ask.state_filter.allows_head(&record.head()?, &record.json) {
            state.push(record.into_stored(hash));
        }
        Ok(())
    }

    /// Returns the events that the state is read without: those of the window, which the client
    /// adds by itself, unless it wants the state after them.
    fn left_to_client<'w>(&self, window: &'w Window) -> HashMap<Hash, &'w EventRecord> {
        if self.ask.state_after { HashMap::new() } else { window.position_of() }
    }

    /// Reads the whole state.
    fn full_state(
        &self,
        window: &Window,
        last: i64,
        shown_members: &BTreeSet<OwnedUserId>,
    ) -> Result<Vec<StoredEvent>, StoreError> {
        if !self.ask.state_filter.allows_room(&self.info.room_id) {
            return Ok(Vec::new());
        }
        let in_window = self.left_to_client(window);
        let all = Key::room(family::STATE, self.room).done();
        let members = Key::room(family::STATE, self.room).text(MEMBER).done();
        let mut rows = Vec::new();
        if self.ask.lazy_load_members {
            for user_id in shown_members {
                let place = (MEMBER, user_id.as_str());
                rows.extend(StateRow::read(self.database, self.room, place)?);
            }
        }
        // Members are most of the state of a large room: leave them out before they are read.
        let ranges = if self.ask.lazy_load_members {
            vec![(all.clone(), members.clone()), (after(&members), after(&all))]
        } else {
            vec![(all.clone(), after(&all))]
        };
        for (start, end) in ranges {
            for row in self.database.scan(start, end) {
                rows.push(StateRow::decode(&row?.1)?);
            }
        }
        let mut state = Vec::with_capacity(rows.len());
        for row in rows {
            if let Some((hash, record)) = self.before_window(&in_window, last, row.hash)? {
                self.push_state(&mut state, &hash, record)?;
            }
        }
        Ok(state)
    }

    /// Who is shown to a client that loads members lazily: who spoke, whom the room is named after,
    /// and in a whole state our user.
    fn shown_members(
        &self,
        window: &Window,
        summary: Option<&Summary>,
        is_whole: bool,
    ) -> BTreeSet<OwnedUserId> {
        let mut shown = window.senders.clone();
        shown.extend(summary.into_iter().flat_map(|summary| summary.heroes.iter().cloned()));
        if is_whole {
            shown.insert(self.ask.user_id.clone());
        }
        shown
    }

    /// Reads the state between `since` and the begin of the window, or its end.
    ///
    /// Members who changed there are always shown, also to a client that loads members lazily:
    /// it encrypts for those whom it knows to be in the room.
    fn state_since(
        &self,
        window: &Window,
        since: i64,
        last: i64,
        changes: &BTreeSet<(String, String)>,
        shown_members: &BTreeSet<OwnedUserId>,
    ) -> Result<Vec<StoredEvent>, StoreError> {
        if !self.ask.state_filter.allows_room(&self.info.room_id) {
            return Ok(Vec::new());
        }
        let in_window = self.left_to_client(window);
        let mut state = Vec::new();
        let mut shown = HashSet::new();
        for (kind, key) in changes {
            let row = StateRow::read(self.database, self.room, (kind, key))?;
            let Some(StateRow { hash, .. }) = row else {
                continue;
            };
            let is_in_window = in_window.contains_key(&hash);
            if is_in_window && !window.limited {
                continue;
            }
            let Some((hash, record)) = self.before_window(&in_window, last, hash)? else {
                continue;
            };
            // What it replaced within the window is known if it is older than `since`.
            let is_known =
                is_in_window && record.order.is_none_or(|order| order <= Order::live(since));
            if !is_known && shown.insert(hash) {
                self.push_state(&mut state, &hash, record)?;
            }
        }
        if self.ask.lazy_load_members {
            for user_id in shown_members {
                let place = (MEMBER, user_id.as_str());
                let Some(row) = StateRow::read(self.database, self.room, place)? else {
                    continue;
                };
                if let Some((hash, record)) = self.before_window(&in_window, last, row.hash)?
                    && shown.insert(hash)
                {
                    self.push_state(&mut state, &hash, record)?;
                }
            }
        }
        Ok(state)
    }

    fn all_receipts(&self) -> Result<Vec<Receipt>, StoreError> {
        let rows = rows::scan(self.database, &RowKind::Receipts(self.info.room_id.clone()))?;
        let receipts = rows.into_iter().map(|(_, value)| receipt(&value));
        receipts
            .filter(|receipt| receipt.as_ref().map_or(true, |found| self.may_show(found)))
            .collect()
    }

    /// Tells whether a receipt is for the user's eyes: private ones of others are not.
    fn may_show(&self, receipt: &Receipt) -> bool {
        receipt.receipt_type != "m.read.private" || receipt.user_id == self.ask.user_id
    }

    fn changed_receipts(&self) -> Result<Vec<Receipt>, StoreError> {
        let mut receipts = Vec::new();
        for key in &self.changes.receipts {
            if let Some(value) = self.database.get(key)? {
                receipts.push(receipt(&value)?);
            }
        }
        receipts.retain(|receipt| self.may_show(receipt));
        Ok(receipts)
    }

    /// Says who is in the room, and whom to name it after.
    fn summary(&self, counts: &Counts) -> Result<Summary, StoreError> {
        let heroes = if self.has_name()? { Vec::new() } else { self.heroes()? };
        Ok(Summary { heroes, joined: counts.joined, invited: counts.invited })
    }

    fn has_name(&self) -> Result<bool, StoreError> {
        #[derive(Deserialize)]
        struct Name {
            content: Content,
        }
        #[derive(Deserialize)]
        struct Content {
            name: Option<String>,
            alias: Option<String>,
        }
        for kind in ["m.room.name", "m.room.canonical_alias"] {
            let Some(row) = StateRow::read(self.database, self.room, (kind, ""))? else {
                continue;
            };
            let record = read_known(self.database, self.room, &row.hash)?;
            // The content is the sender's: one that makes no sense is no name.
            let name = serde_json::from_str::<Name>(&record.json).ok();
            let name = name.and_then(|event| event.content.name.or(event.content.alias));
            if name.is_some_and(|name| !name.is_empty()) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Names the first others who are in the room or invited; failing that, who was.
    fn heroes(&self) -> Result<Vec<OwnedUserId>, StoreError> {
        let (mut present, mut gone) = (Vec::new(), Vec::new());
        let prefix = Key::room(family::STATE, self.room).text(MEMBER).done();
        for row in self.database.scan_prefix(&prefix) {
            if present.len() >= HEROES {
                break;
            }
            let (key, value) = row?;
            let user = Parts(key.get(prefix.len()..).unwrap_or_default()).text();
            let Some(user) = user.and_then(|user| UserId::parse(user).ok()) else {
                continue;
            };
            if user == self.ask.user_id {
                continue;
            }
            match membership_of_code(StateRow::decode(&value)?.membership) {
                Some(MembershipState::Join | MembershipState::Invite) => present.push(user),
                Some(MembershipState::Leave | MembershipState::Ban) if gone.len() < HEROES => {
                    gone.push(user);
                }
                _ => {}
            }
        }
        Ok(if present.is_empty() { gone } else { present })
    }

    /// Adds the timeline, and the events that the shown ones refer to.
    fn attach(&self, window: Window, last: i64, room: &mut JoinedRoom) -> Result<(), StoreError> {
        let reading = Reading {
            database: self.database,
            room: self.room,
            user_id: &self.ask.user_id,
            ignored: self.ignored,
            until: Order { position: last, history: u64::MAX },
        };
        for (hash, record) in window.events {
            if let Some(bundle) = reading.bundle(&hash, &record)? {
                room.bundles.insert(event_id_of(&hash), bundle);
            }
            if let Some(replaces) = &record.replaces
                && let Some(replaced) = read_event(self.database, self.room, replaces)?
            {
                room.replaced.insert(event_id_of(&hash), replaced.into_stored(replaces));
            }
            room.timeline.push(record.into_stored(&hash));
        }
        let shown = room.timeline.iter().chain(&room.state);
        let because: BTreeSet<OwnedEventId> =
            shown.filter_map(|event| event.redacted_because.clone()).collect();
        for event_id in because {
            let Some(hash) = hash_of(&event_id) else {
                continue;
            };
            if let Some(record) = read_event(self.database, self.room, &hash)? {
                room.redactions.insert(event_id, record.into_stored(&hash));
            }
        }
        Ok(())
    }
}

/// Shows by which event an invite was taken back: it is in no timeline, since our user was not in
/// the room.
fn show_departure(
    database: &Database,
    room: u32,
    own: &MembershipRow,
    left: &mut JoinedRoom,
) -> Result<(), StoreError> {
    let Some(hash) = own.event_id.as_deref().and_then(hash_of) else { return Ok(()) };
    if let Some(record) = read_event(database, room, &hash)?
        && record.order.is_none()
    {
        left.timeline.push(record.into_stored(&hash));
    }
    Ok(())
}

fn receipt(value: &[u8]) -> Result<Receipt, StoreError> {
    serde_json::from_slice(value).map_err(|_| StoreError::Corrupt { what: "receipt" })
}
