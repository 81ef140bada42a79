//! Lists of servers that take part in a room, and that do not (`m.room.server_acl`). Pure.

use std::collections::HashSet;

use ruma::{ServerName, events::room::server_acl::RoomServerAclEventContent};
use serde_json::value::RawValue;
use wildmatch::WildMatch;

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

/// What an `m.room.server_acl` event says, ready to be asked. Its size is bounded by that of an event.
#[derive(Debug)]
pub struct Acl {
    allow: Names,
    deny: Names,
    ip_literals: bool,
}

impl Acl {
    /// Reads the content of an event. What cannot be read allows nobody, as an empty list does.
    pub fn new(content: &RawValue) -> Self {
        let content = serde_json::from_str(content.get());
        let content: RoomServerAclEventContent = content
            .unwrap_or_else(|_| RoomServerAclEventContent::new(true, Vec::new(), Vec::new()));
        Self {
            allow: Names::new(&content.allow),
            deny: Names::new(&content.deny),
            ip_literals: content.allow_ip_literals,
        }
    }

    /// Tells whether a server may take part. Letters count alike, large or small (MSC4436).
    pub fn allows(&self, server: &ServerName) -> bool {
        let host = server.host().to_ascii_lowercase();
        (self.ip_literals || !server.is_ip_literal())
            && !self.deny.contain(&host)
            && self.allow.contain(&host)
    }
}

#[cfg(test)]
mod tests {
    use ruma::OwnedServerName;
    use serde_json::{json, value::to_raw_value};

    use super::*;

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
            let acl = Acl::new(&to_raw_value(&content).unwrap());
            assert_eq!(acl.allows(&name), allowed, "{server} by {content}");
        }
    }
}
