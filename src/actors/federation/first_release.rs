//! What the first release asked for, as it was recorded: each request leads where it should.

use super::routes::{Query, route};
use crate::{actors::room::RoomQuery, proto::first_release::Exchange};

#[test]
fn the_first_release_is_understood_in_whatever_it_asks_for() {
    for exchange in Exchange::all() {
        let asked = route(&exchange.request().message);
        let asked = match asked.unwrap_or_else(|error| panic!("{}: {error:?}", exchange.what)) {
            Query::Room(_, RoomQuery::MakeJoin { .. }) => "make_join",
            Query::Room(_, RoomQuery::SendJoin { .. }) => "send_join",
            Query::Room(_, RoomQuery::MakeLeave { .. }) => "make_leave",
            Query::Room(_, RoomQuery::SendLeave { .. }) => "send_leave",
            Query::Room(_, RoomQuery::Invite { .. }) => "invite",
            Query::Room(_, RoomQuery::Backfill { .. }) => "backfill",
            Query::Room(_, RoomQuery::MissingEvents { .. }) => "get_missing_events",
            Query::Room(_, RoomQuery::EventAuth { .. }) => "event_auth",
            Query::Room(_, RoomQuery::Event { .. }) => "event",
            Query::Room(_, RoomQuery::TakeKeys { .. }) => "room_keys",
            Query::Room(_, RoomQuery::FindKeys { .. }) => "room_keys query",
            Query::Profile(_) => "profile",
            Query::Heads(_) => "heads",
            Query::Missing(_) => "missing_events",
            Query::ServerKeysOf(_, None) => "server_keys",
            Query::Carry(..) => "carry",
            Query::Transaction(_) => "send",
            other => panic!("{other:?}"),
        };
        assert_eq!(asked, exchange.what);
    }
}
