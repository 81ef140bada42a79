//! Which of several connections to one peer are not needed any more. Pure.
//!
//! Streams are opened on any of them, so a circuit beside a direct connection makes requests slow
//! and ends them at the relay's limit. Invariants: a connection is given up only beside one that is
//! proven to work and is kept; circuits by either side, of two direct connections the newer one (TCP
//! beside QUIC before that: it alone is stuck where large packets get lost) and of two circuits the
//! older one, by one side alone, since otherwise each could close what the other keeps; and only while
//! no request is under way, within a limit.

use std::time::{Duration, Instant};

use libp2p::swarm::ConnectionId;

/// How long a direct connection has to have been identified: the other side and gossip need a
/// moment to begin using it.
const SETTLE: Duration = Duration::from_millis(500);
/// How long no request may have been under way.
const CALM: Duration = Duration::from_millis(100);
/// Youngest direct connection that is given up: AutoNAT makes some of its own, for seconds.
const AGE: Duration = Duration::from_secs(5);
/// After this, requests are not waited for any more: as long as the longest of them may take.
const LINGER: Duration = Duration::from_secs(30);

/// A connection to a peer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Link {
    pub(super) id: ConnectionId,
    pub(super) relayed: bool,
    pub(super) tcp: bool,
    pub(super) opened: Instant,
    /// When identify was answered on it.
    pub(super) identified: Option<Instant>,
    /// When a ping was last answered on it.
    pub(super) answered: Option<Instant>,
}

/// Tells whether a circuit could go: beside it a direct connection stands.
pub(super) fn is_ripe(links: &[Link], now: Instant) -> bool {
    let identified = links.iter().filter(|link| !link.relayed).filter_map(|link| link.identified);
    let stands = identified.min().is_some_and(|since| now.duration_since(since) >= SETTLE);
    stands && links.iter().any(|link| link.relayed)
}

/// Returns which connections to close. `decides`: our PeerId is the smaller one. `calm_since`: since
/// when no request is under way; none: some are.
pub(super) fn surplus(
    links: &[Link],
    decides: bool,
    calm_since: Option<Instant>,
    now: Instant,
) -> Vec<ConnectionId> {
    let calm = calm_since.is_some_and(|since| now.duration_since(since) >= CALM);
    let direct = || links.iter().filter(|link| !link.relayed);
    let identified = direct().filter(|link| link.identified.is_some());
    let kept = identified.min_by_key(|link| (link.tcp, link.opened));
    let Some(kept) = kept else { return older_circuits(links, decides, calm, now) };
    let stands = kept.identified.map_or(Duration::ZERO, |since| now.duration_since(since));
    let circuits =
        links.iter().filter(|link| link.relayed && stands >= SETTLE && (calm || stands >= LINGER));
    let others = direct().filter(|link| {
        let both_since = link.opened.max(kept.opened);
        let age = now.duration_since(both_since);
        // Else it may be the older one that is dead, and the peer came back by the newer.
        let answered = kept.answered.is_some_and(|at| at > both_since);
        link.id != kept.id && decides && answered && age >= AGE && (calm || age >= LINGER)
    });
    circuits.chain(others).map(|link| link.id).collect()
}

/// Returns the circuits that a newer one replaced, where there is no direct connection.
fn older_circuits(links: &[Link], decides: bool, calm: bool, now: Instant) -> Vec<ConnectionId> {
    if !decides || links.iter().any(|link| !link.relayed) {
        return Vec::new();
    }
    let newest = links.iter().max_by_key(|link| link.opened);
    let stands = newest.and_then(|link| link.identified).map(|since| now.duration_since(since));
    let (Some(newest), Some(stands)) = (newest, stands) else { return Vec::new() };
    if stands < SETTLE || !(calm || stands >= LINGER) {
        return Vec::new();
    }
    links.iter().filter(|link| link.id != newest.id).map(|link| link.id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A connection by number: relayed or not, opened, identified and last answered, in
    /// milliseconds.
    type Row = (usize, bool, u64, Option<u64>, Option<u64>);

    /// Connections with numbers from here on are TCP.
    const TCP: usize = 10;

    fn check(rows: &[Row], decides: bool, calm: Option<u64>, now: u64) -> Vec<usize> {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let links: Vec<Link> = rows
            .iter()
            .map(|(id, relayed, opened, identified, answered)| Link {
                id: ConnectionId::new_unchecked(*id),
                relayed: *relayed,
                tcp: *id >= TCP,
                opened: at(*opened),
                identified: identified.map(at),
                answered: answered.map(at),
            })
            .collect();
        let closed = surplus(&links, decides, calm.map(at), at(now));
        let number = |id: &ConnectionId| {
            rows.iter().find(|row| ConnectionId::new_unchecked(row.0) == *id).unwrap().0
        };
        closed.iter().map(number).collect()
    }

    #[test]
    fn a_circuit_goes_once_a_direct_connection_stands() {
        let circuit = (1, true, 0, Some(10), None);
        let direct = (2, false, 1000, Some(1010), None);
        for decides in [false, true] {
            assert_eq!(check(&[circuit, direct], decides, Some(0), 1600), [1]);
        }
        assert!(check(&[circuit, direct], true, Some(0), 1400).is_empty(), "too soon");
        assert!(check(&[circuit], true, Some(0), 100_000).is_empty(), "the only one");
        let unproven = (2, false, 1000, None, None);
        assert!(check(&[circuit, unproven], true, Some(0), 60_000).is_empty(), "not identified");
        let other = (3, true, 0, Some(10), None);
        assert_eq!(check(&[circuit, other, direct], true, Some(0), 2100), [1, 3]);
    }

    #[test]
    fn requests_under_way_are_waited_for_within_a_limit() {
        let links = [(1, true, 0, Some(10), None), (2, false, 1000, Some(1010), None)];
        assert!(check(&links, true, None, 20_000).is_empty());
        assert!(check(&links, true, Some(19_950), 20_000).is_empty(), "it has only just ended");
        assert_eq!(check(&links, true, Some(19_000), 20_000), [1]);
        assert_eq!(check(&links, true, None, 31_100), [1]);
    }

    #[test]
    fn of_two_direct_ones_one_side_closes_the_newer_where_the_older_is_alive() {
        let old = (1, false, 0, Some(10), Some(7000));
        let new = (2, false, 1000, Some(1010), Some(2000));
        assert_eq!(check(&[old, new], true, Some(0), 8000), [2]);
        assert_eq!(check(&[new, old], true, Some(0), 8000), [2]);
        assert!(check(&[old, new], false, Some(0), 8000).is_empty(), "the other side does");
        let silent = (1, false, 0, Some(10), Some(900));
        assert!(check(&[silent, new], true, Some(0), 60_000).is_empty(), "it may be dead");
        let young = (2, false, 6000, Some(6010), None);
        assert!(check(&[old, young], true, Some(0), 8000).is_empty(), "AutoNAT may use it");
    }

    #[test]
    fn tcp_goes_beside_quic_whichever_was_there_first() {
        let tcp = (TCP, false, 0, Some(10), Some(7000));
        let quic = (1, false, 1000, Some(1010), Some(7000));
        assert_eq!(check(&[tcp, quic], true, Some(0), 8000), [TCP]);
        assert!(check(&[tcp, quic], false, Some(0), 8000).is_empty(), "the other side does");
        let unproven = (1, false, 1000, Some(1010), None);
        assert!(check(&[tcp, unproven], true, Some(0), 8000).is_empty(), "it may not work");
        let newer = (TCP + 1, false, 1000, Some(1010), Some(7000));
        assert_eq!(check(&[tcp, newer], true, Some(0), 8000), [TCP + 1]);
    }

    #[test]
    fn of_two_circuits_the_newer_one_stays() {
        let none: [usize; 0] = [];
        let old = (1, true, 0, Some(100), None);
        let new = (2, true, 5_000, Some(5_100), None);
        assert_eq!(check(&[old, new], true, Some(0), 5_500), none);
        assert_eq!(check(&[old, new], true, Some(0), 5_600), [1]);
        assert_eq!(check(&[old, new], false, Some(0), 6_100), none, "the other side decides");
        assert_eq!(check(&[old, new], true, None, 6_100), none, "a request is under way");
        assert_eq!(check(&[old, new], true, None, 35_100), [1]);
        let silent = (2, true, 5_000, None, None);
        assert_eq!(check(&[old, silent], true, Some(0), 9_000), none, "it may not work");
        let direct = (3, false, 6_000, None, None);
        assert_eq!(
            check(&[old, new, direct], true, Some(0), 6_100),
            none,
            "it is about to be better"
        );
    }
}
