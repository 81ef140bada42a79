//! Rooms as the page shows them. Pure.

use std::collections::{BTreeMap, BTreeSet};

use ruma::{OwnedServerName, OwnedUserId, ServerName};
use serde::Serialize;

use super::gather::RoomLook;

/// Others who name a room that has no name.
const NAMED_AFTER: usize = 3;

/// One room.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct RoomShown {
    id: String,
    pub(super) name: String,
    /// People who have joined it, and those of them whose node is connected now, ours among them.
    people: u64,
    here: usize,
    /// Other nodes that belong to it, those that are met, and those that are known to have all that we have.
    nodes: usize,
    met: usize,
    have: usize,
    /// PeerIds of those to whom we hand on what is said there.
    mesh: Vec<String>,
    /// Servers in it.
    servers: Vec<OwnedServerName>,
}

/// Shows rooms, by name. `own` is our user, `connected` the servers that are connected.
pub(super) fn rooms(
    looks: &[RoomLook],
    own: &OwnedUserId,
    connected: &BTreeSet<&OwnedServerName>,
) -> Vec<RoomShown> {
    let mut rooms: Vec<RoomShown> = looks.iter().map(|look| room(look, own, connected)).collect();
    rooms.sort_by_cached_key(|room| (room.name.to_lowercase(), room.id.clone()));
    rooms
}

fn room(look: &RoomLook, own: &OwnedUserId, connected: &BTreeSet<&OwnedServerName>) -> RoomShown {
    let RoomLook { face, servers, holders, mesh } = look;
    let is_here = |server: &ServerName| {
        server == own.server_name() || connected.iter().any(|other| **other == server)
    };
    let here = face.people.iter().filter(|(user, _)| is_here(user.server_name())).count();
    RoomShown {
        id: face.room_id.to_string(),
        name: face.name.clone().unwrap_or_else(|| named_after(look, own)),
        people: face.joined,
        here,
        nodes: servers.len(),
        met: holders.met,
        have: holders.have,
        mesh: mesh.clone(),
        servers: servers.clone(),
    }
}

/// Names a room after those who are in it.
fn named_after(look: &RoomLook, own: &OwnedUserId) -> String {
    let others = look.face.people.iter().filter(|(user, _)| user != own);
    let names: Vec<String> = others
        .map(|(user, shown)| shown.clone().unwrap_or_else(|| short(user.server_name())))
        .collect();
    match names.len() {
        0 => "a room with nobody else".to_owned(),
        count if count <= NAMED_AFTER => names.join(", "),
        count => {
            let first: Vec<String> = names.into_iter().take(NAMED_AFTER).collect();
            format!("{} and {} more", first.join(", "), count - NAMED_AFTER)
        }
    }
}

/// Returns what people of other servers call themselves, by server: the first of each that has a name.
pub(super) fn names(looks: &[RoomLook]) -> BTreeMap<OwnedServerName, String> {
    let mut names = BTreeMap::new();
    for (user, shown) in looks.iter().flat_map(|look| &look.face.people) {
        if let Some(shown) = shown {
            names.entry(user.server_name().to_owned()).or_insert_with(|| shown.clone());
        }
    }
    names
}

/// Returns the end of a server name, by which people tell servers apart.
pub(super) fn short(server: &ServerName) -> String {
    const END: usize = 7;
    let name = server.as_str();
    let at = name.len().saturating_sub(END);
    format!("…{}", name.get(at..).unwrap_or(name))
}

#[cfg(test)]
mod tests {
    use ruma::{owned_room_id, owned_server_name, owned_user_id};

    use super::*;
    use crate::actors::{meeting::Holders, store::RoomFace};

    fn look(name: Option<&str>, people: &[(&str, Option<&str>)]) -> RoomLook {
        let people = people
            .iter()
            .map(|(user, shown)| (OwnedUserId::try_from(*user).unwrap(), shown.map(str::to_owned)));
        let people: Vec<_> = people.collect();
        RoomLook {
            face: RoomFace {
                room_id: owned_room_id!("!r:x"),
                name: name.map(str::to_owned),
                joined: people.len() as u64,
                people,
            },
            servers: vec![owned_server_name!("bob"), owned_server_name!("eve")],
            holders: Holders { have: 1, met: 1 },
            mesh: vec!["12D3".to_owned()],
        }
    }

    #[test]
    fn a_room_shows_who_is_here_and_how_many_have_all_of_it() {
        let (own, bob) = (owned_user_id!("@p2p:me"), owned_server_name!("bob"));
        let people = [("@p2p:me", None), ("@p2p:bob", Some("Bob")), ("@p2p:eve", Some("Eve"))];
        let connected = BTreeSet::from([&bob]);
        let shown = rooms(&[look(Some("Garden"), &people)], &own, &connected).remove(0);
        assert_eq!((shown.name.as_str(), shown.people, shown.here), ("Garden", 3, 2));
        assert_eq!((shown.nodes, shown.met, shown.have), (2, 1, 1));
    }

    #[test]
    fn a_room_without_a_name_is_called_after_the_others() {
        let own = owned_user_id!("@p2p:me");
        let name = |people: &[(&str, Option<&str>)]| {
            rooms(&[look(None, people)], &own, &BTreeSet::new()).remove(0).name
        };
        assert_eq!(name(&[("@p2p:me", Some("Me"))]), "a room with nobody else");
        assert_eq!(name(&[("@p2p:bahwqceraiwqjdna", None)]), "…iwqjdna");
        let many = ["@a:1", "@b:1", "@c:1", "@d:1", "@e:1"].map(|user| (user, Some("X")));
        assert_eq!(name(&many), "X, X, X and 2 more");
    }

    #[test]
    fn rooms_stand_by_name_whatever_their_ids_are() {
        let own = owned_user_id!("@p2p:me");
        let looks = [look(Some("b"), &[]), look(Some("C"), &[]), look(Some("a"), &[])];
        let names: Vec<_> =
            rooms(&looks, &own, &BTreeSet::new()).into_iter().map(|room| room.name).collect();
        assert_eq!(names, ["a", "b", "C"]);
    }
}
