//! Members who cannot be connected but through others: two people behind two routers that let
//! nobody in, who have a friend in common. Gossip of a room does not reach them unless that friend
//! is in it, so they are looked for; while they are reached by requests that others carry, heads
//! are compared with them as with those who are connected, and new events go to them by requests.
//!
//! Invariants: nobody is looked for while there is nobody who could carry; few are at once.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use actix::Context;
use rand::RngExt as _;
use ruma::OwnedServerName;
use tokio::sync::watch;

use super::{absent::Absent, actor::MeetingActor, meetings::Footing};
use crate::actors::{
    outbox::ServerReached,
    room::{Carried, RoomError},
    upward::FederationError,
};

/// How often it is looked whether somebody is to be looked for.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Members that are looked for at the same time: each costs a search, and carriers theirs.
const AT_ONCE: usize = 2;
/// After the start, members have this long to be connected as usual.
pub(super) const AFTER_START: Duration = Duration::from_secs(10);
/// The same for who came into a room, or whose connection was lost.
pub(super) const AFTER_CHANGE: Duration = Duration::from_secs(3);

/// Who is absent, and who of them is reached.
#[derive(Debug)]
pub(super) struct Distant {
    pub(super) absent: Absent,
    carried: watch::Sender<Carried>,
}

impl Distant {
    /// Makes it of where the rooms see who is reached.
    pub(super) fn new(carried: watch::Sender<Carried>) -> Self {
        Self { absent: Absent::default(), carried }
    }

    /// Tells the rooms that a server is reached through others, or is not any more.
    fn tell(&self, server: &OwnedServerName, reached: bool) {
        self.carried.send_if_modified(|carried| {
            if carried.contains(server) == reached {
                return false;
            }
            let carried = Arc::make_mut(carried);
            match reached {
                true => carried.insert(server.clone()),
                false => carried.remove(server),
            }
        });
    }
}

/// Tells whether an error means that a server is not reached, rather than that it disagrees.
fn is_unreached(error: &RoomError) -> bool {
    use FederationError::{Offline, TimedOut, Unreachable};
    matches!(
        error,
        RoomError::Federation(Unreachable(_) | TimedOut(_) | Offline) | RoomError::Ask(_)
    )
}

impl MeetingActor {
    /// Members of whom nothing is known yet are looked for after `pause`.
    pub(super) fn miss<'a>(
        &mut self,
        servers: impl IntoIterator<Item = &'a OwnedServerName>,
        pause: Duration,
    ) {
        let own = self.signer.as_ref().map(|signer| signer.server_name().clone());
        let at = Instant::now() + pause;
        for server in servers {
            if Some(server) != own.as_ref() && self.online.footing(server).is_none() {
                self.distant.absent.add(server, at);
            }
        }
    }

    /// Looks for those whose time it is.
    pub(super) fn look_for_absent(&mut self, ctx: &mut Context<Self>) {
        let now = Instant::now();
        while self.online.count(Footing::Connected) > 0
            && self.online.count(Footing::Sought) < AT_ONCE
            && let Some(server) = self.distant.absent.next(now, rand::rng().random())
        {
            self.online.begin(&server, Footing::Sought);
            self.compare(&server, ctx);
        }
    }

    /// No room is shared any more with somebody who is not connected.
    pub(super) fn lose_sight(&mut self, server: &OwnedServerName) {
        self.online.end(server);
        self.distant.absent.remove(server);
        self.distant.tell(server, false);
    }

    /// Heads were compared with somebody who is not connected, or could not be.
    pub(super) fn compared_at_a_distance(
        &mut self,
        server: &OwnedServerName,
        done: &Result<(), RoomError>,
    ) {
        let reached = !done.as_ref().is_err_and(is_unreached);
        if reached {
            log::debug!(server:%; "reached through others");
            self.distant.absent.remove(server);
            self.online.settle(server, Footing::Carried);
            self.links.reached.do_send(ServerReached(server.clone()));
        } else {
            self.online.end(server);
            // Whoever was being looked for is again, at the time that was planned.
            if !self.distant.absent.contains(server) {
                self.miss([server], AFTER_CHANGE);
            }
        }
        self.distant.tell(server, reached);
    }

    /// A server is connected: nothing has to be carried to it, and it may carry.
    pub(super) fn came_near(&mut self, server: &OwnedServerName) {
        self.distant.absent.remove(server);
        self.distant.tell(server, false);
        if self.shared.contains(server) {
            self.distant.absent.hurry(Instant::now());
        }
    }
}
