//! Which servers a room keeps out (`m.room.server_acl`).
//!
//! Who is kept out is no member for any purpose: he is asked for nothing and told nothing, no key of
//! the room is for him, and what his users say fails softly, whoever hands it over. The specification
//! looks at who sends a request only; here everybody passes on what others said, so that alone would
//! be no wall. Our own server is never kept out here: its users may leave.

use std::{collections::HashSet, sync::Arc};

use ruma::{
    OwnedServerName, ServerName,
    events::{StateEventType, room::server_acl::RoomServerAclEventContent},
};
use wildmatch::WildMatch;

use super::{Change, Machine, Stop, state::View};
use crate::proto::pdu::Pdu;

/// A list of servers, ready to be looked through.
#[derive(Debug, Default)]
struct Names {
    exact: HashSet<String>,
    globs: Vec<WildMatch>,
}

impl Names {
    fn new(list: &[String]) -> Self {
        let mut names = Self::default();
        for name in list {
            if name.contains(['*', '?']) {
                names.globs.push(WildMatch::new_case_insensitive(name));
            } else {
                names.exact.insert(name.to_ascii_lowercase());
            }
        }
        names
    }

    fn contain(&self, host: &str) -> bool {
        self.exact.contains(host) || self.globs.iter().any(|glob| glob.matches(host))
    }
}

/// An `m.room.server_acl` event, ready to be asked.
#[derive(Debug)]
pub(super) struct Acl {
    allow: Names,
    deny: Names,
    ip_literals: bool,
}

impl Acl {
    /// Reads an event. What cannot be read allows nobody, as an empty list does.
    fn new(pdu: &Pdu) -> Self {
        let content = serde_json::from_str(pdu.content.get());
        let content: RoomServerAclEventContent = content
            .unwrap_or_else(|_| RoomServerAclEventContent::new(true, Vec::new(), Vec::new()));
        Self {
            allow: Names::new(&content.allow),
            deny: Names::new(&content.deny),
            ip_literals: content.allow_ip_literals,
        }
    }

    /// Tells whether a server may take part. Letters count alike, large or small (MSC4436).
    fn allows(&self, server: &ServerName) -> bool {
        let host = server.host().to_ascii_lowercase();
        (self.ip_literals || !server.is_ip_literal())
            && !self.deny.contain(&host)
            && self.allow.contain(&host)
    }
}

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
        self.acl = event.map(|pdu| Arc::new(Acl::new(pdu)));
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
        Ok(then.is_some_and(|then| !Acl::new(&then).allows(server)))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::actors::room::machine::tests::{draft, room};

    fn acl(content: serde_json::Value) -> Acl {
        let mut ann = room(&ruma::RoomVersionId::V11, 1);
        let event = ann.send(draft("m.room.server_acl", Some(""), content)).unwrap();
        Acl::new(&event)
    }

    #[test]
    fn lists_are_read_as_the_specification_has_them() {
        let open = json!({"allow": ["*"]});
        let cases = [
            (open.clone(), "evil.example", true),
            (json!({"allow": ["*"], "deny": ["evil.example"]}), "evil.example", false),
            (json!({"allow": ["*"], "deny": ["evil.example"]}), "evil.example:8448", false),
            (json!({"allow": ["*"], "deny": ["EVIL.example"]}), "evil.EXAMPLE", false),
            (json!({"allow": ["*"], "deny": ["*.example"]}), "EVIL.example", false),
            (json!({"allow": ["*"], "deny": ["evi?.example"]}), "evil.example", false),
            (json!({"allow": ["*"], "deny": ["evi?.example"]}), "evi.example", true),
            (json!({"allow": ["good.example"]}), "evil.example", false),
            (json!({"allow": ["good.example"], "deny": ["good.*"]}), "good.example", false),
            (json!({}), "good.example", false),
            (json!({"allow": "*"}), "good.example", false),
            (json!({"allow": ["*"], "allow_ip_literals": false}), "10.0.0.1", false),
            (json!({"allow": ["*"], "allow_ip_literals": false}), "[::1]:8448", false),
            (open, "10.0.0.1", true),
        ];
        for (content, server, allowed) in cases {
            let name = OwnedServerName::try_from(server).unwrap();
            assert_eq!(acl(content.clone()).allows(&name), allowed, "{server} by {content}");
        }
    }
}
