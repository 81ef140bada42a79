//! Which servers share a room with us: they may have something carried, and they may carry. Pure.

use crate::actors::upward::Sharing;
use std::collections::HashSet;

use ruma::OwnedServerName;

/// Returns those of `servers` that are in one of our rooms, in their order, and whether also
/// `with` is there with one of them. Of each room it is told whether it is public.
pub(super) fn find<'a>(
    rooms: impl Iterator<Item = (&'a HashSet<OwnedServerName>, bool)>,
    servers: Vec<OwnedServerName>,
    with: Option<&OwnedServerName>,
) -> Vec<Sharing> {
    #[derive(Clone, Default)]
    struct Standing {
        shares: bool,
        with: bool,
        close: bool,
    }
    let unknown = Standing { with: with.is_none(), ..Standing::default() };
    let mut standing = vec![unknown; servers.len()];
    for (room, public) in rooms {
        let both = with.is_some_and(|with| room.contains(with));
        for (server, standing) in servers.iter().zip(&mut standing) {
            // Looked up only where that can still change something.
            let news = !standing.shares || (both && !standing.with) || (!public && !standing.close);
            if news && room.contains(server) {
                standing.shares = true;
                standing.with |= both;
                standing.close |= !public;
            }
        }
    }
    let found = servers.into_iter().zip(standing).filter(|(_, standing)| standing.shares);
    let sharing =
        |(server_name, Standing { with, close, .. })| Sharing { server_name, with, close };
    found.map(sharing).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_shares_a_room_with_us_and_with_another() {
        let name = |name: &&str| OwnedServerName::try_from(*name).unwrap();
        let room = |names: &[&str]| names.iter().map(name).collect::<HashSet<_>>();
        let rooms = [
            (room(&["me", "ann", "bob"]), true),
            (room(&["me", "ann", "cleo"]), false),
            (room(&["me"]), false),
        ];
        let ask = |servers: &[&str], with: Option<&str>| {
            let servers = servers.iter().map(name).collect();
            let with = with.map(|with| name(&with));
            let all = rooms.iter().map(|(room, public)| (room, *public));
            let found = find(all, servers, with.as_ref());
            for one in &found {
                assert_eq!(one.close, one.server_name != "bob", "only the public room is his");
            }
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
