//! Which servers a room keeps out (`m.room.server_acl`).
//!
//! Who is kept out is no member for any purpose: he is asked for nothing and told nothing, no key of
//! the room is for him, and what his users say fails softly, whoever hands it over. The specification
//! looks at who sends a request only; here everybody passes on what others said, so that alone would
//! be no wall. Our own server is never kept out here: its users may leave.

use std::sync::Arc;

use ruma::{OwnedServerName, ServerName, events::StateEventType};

use super::{Change, Machine, Stop, state::View};
use crate::proto::{acl::Acl, pdu::Pdu};

impl Machine {
    /// Tells whether the room keeps a server out.
    pub(crate) fn denies(&self, server: &ServerName) -> bool {
        *server != self.server && self.acl.as_ref().is_some_and(|acl| !acl.allows(server))
    }

    /// Counts a server that has a joined user to those that take part, or not any more.
    pub(super) fn count_server(&mut self, server: &OwnedServerName) {
        if self.joined.contains_key(server) && !self.denies(server) {
            self.servers.insert(server.clone());
        } else {
            self.servers.remove(server);
        }
    }

    /// Takes the list of the current state. Returns whether other servers take part now.
    pub(super) fn take_acl(&mut self) -> bool {
        let event = self.state_event(&StateEventType::RoomServerAcl, "");
        self.acl = event.map(|pdu| Arc::new(Acl::new(&pdu.content)));
        let servers = self.joined.keys().filter(|server| !self.denies(server)).cloned().collect();
        std::mem::replace(&mut self.servers, servers) != self.servers
    }

    /// Tells the servers that take part, where they changed.
    pub(super) fn note_servers(&self, change: &mut Change) {
        change.commit.servers = Some(self.servers.iter().cloned().collect());
    }

    /// Tells whether the sender of an event is kept out, now or by the state before it.
    pub(super) fn is_denied(&self, pdu: &Pdu, before: &View) -> Result<bool, Stop> {
        let server = pdu.sender.server_name();
        if self.denies(server) {
            return Ok(true);
        }
        let place = (StateEventType::RoomServerAcl, String::new());
        self.require_places(before, std::slice::from_ref(&place))?;
        let then = self.event_in(before, &place.0, &place.1);
        let now = self.state_event(&place.0, &place.1);
        let is_other = then.as_ref().map(|pdu| &pdu.event_id) != now.map(|pdu| &pdu.event_id);
        let then = then.filter(|_| is_other && *server != self.server);
        Ok(then.is_some_and(|then| !Acl::new(&then.content).allows(server)))
    }
}
