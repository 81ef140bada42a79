//! Which servers share a room with us: they may have something carried, and they may carry. Pure.

use std::collections::HashSet;

use ruma::OwnedServerName;

use super::messages::Sharing;

/// Returns those of `servers` that are in one of our rooms, in their order, and whether also
/// `with` is there with one of them.
pub(super) fn find<'a>(
    rooms: impl Iterator<Item = &'a HashSet<OwnedServerName>>,
    servers: Vec<OwnedServerName>,
    with: Option<&OwnedServerName>,
) -> Vec<Sharing> {
    let mut standing: Vec<(bool, bool)> = vec![(false, with.is_none()); servers.len()];
    for room in rooms {
        let both = with.is_some_and(|with| room.contains(with));
        for (server, standing) in servers.iter().zip(&mut standing) {
            // Looked up only where that can still change something.
            if (!standing.0 || (both && !standing.1)) && room.contains(server) {
                *standing = (true, standing.1 || both);
            }
        }
    }
    let found = servers.into_iter().zip(standing).filter(|(_, standing)| standing.0);
    found.map(|(server_name, (_, with))| Sharing { server_name, with }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_shares_a_room_with_us_and_with_another() {
        let name = |name: &&str| OwnedServerName::try_from(*name).unwrap();
        let room = |names: &[&str]| names.iter().map(name).collect::<HashSet<_>>();
        let rooms = [room(&["me", "ann", "bob"]), room(&["me", "ann", "cleo"]), room(&["me"])];
        let ask = |servers: &[&str], with: Option<&str>| {
            let servers = servers.iter().map(name).collect();
            let with = with.map(|with| name(&with));
            let found = find(rooms.iter(), servers, with.as_ref());
            let found = found.into_iter().map(|one| (one.server_name.to_string(), one.with));
            found.collect::<Vec<_>>()
        };
        let found = |name: &str, with| (name.to_owned(), with);
        assert_eq!(ask(&["ann", "eve"], None), [found("ann", true)]);
        assert_eq!(
            ask(&["ann", "bob", "eve"], Some("cleo")),
            [found("ann", true), found("bob", false)]
        );
        assert_eq!(ask(&["bob", "ann"], Some("eve")), [found("bob", false), found("ann", false)]);
    }
}
