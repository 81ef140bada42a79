//! Lists of servers that take part in a room, and that do not (`m.room.server_acl`). Pure.

use std::collections::{HashMap, HashSet};

use ruma::{ServerName, events::room::server_acl::RoomServerAclEventContent};
use serde_json::value::RawValue;
use wildmatch::WildMatch;

/// What stands for anything in a glob.
const WILDCARDS: [char; 2] = ['*', '?'];

/// A list of servers, ready to be looked through. Globs are found by what a name has to begin or end with,
/// so that of thousands only those are tried that can match.
#[derive(Debug, Default)]
struct Names {
    exact: HashSet<String>,
    by_start: HashMap<String, Vec<WildMatch>>,
    by_end: HashMap<String, Vec<WildMatch>>,
    /// Those that begin and end with a wildcard.
    others: Vec<WildMatch>,
}

impl Names {
    fn new(list: &[String]) -> Self {
        let mut names = Self::default();
        for name in list {
            let name = name.to_ascii_lowercase();
            let (Some(first), Some(last)) = (name.find(WILDCARDS), name.rfind(WILDCARDS)) else {
                names.exact.insert(name);
                continue;
            };
            let glob = WildMatch::new(&name);
            // A wildcard is one byte.
            match (name.get(..first).unwrap_or_default(), name.get(last + 1..).unwrap_or_default())
            {
                ("", "") => names.others.push(glob),
                ("", end) => names.by_end.entry(end.to_owned()).or_default().push(glob),
                (start, _) => names.by_start.entry(start.to_owned()).or_default().push(glob),
            }
        }
        names
    }

    fn contain(&self, host: &str) -> bool {
        let any = |globs: &Vec<WildMatch>| globs.iter().any(|glob| glob.matches(host));
        let of = |globs: &HashMap<String, Vec<WildMatch>>, part: Option<&str>| {
            part.and_then(|part| globs.get(part)).is_some_and(any)
        };
        self.exact.contains(host)
            || (0..=host.len())
                .any(|at| of(&self.by_start, host.get(..at)) || of(&self.by_end, host.get(at..)))
            || any(&self.others)
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
    use proptest::{collection, prop_assert_eq, proptest};
    use ruma::OwnedServerName;
    use serde_json::{json, value::to_raw_value};

    use super::*;

    proptest! {
        /// However globs are looked up, they match what they match one by one.
        #[test]
        fn globs_are_found_by_their_ends(
            globs in collection::vec("[ab.]{0,3}[*?]?[aB]{0,2}[*?]?[ab]{0,3}", 0..12),
            host in "[ab.]{0,8}",
        ) {
            let one_by_one = globs.iter().any(|glob| WildMatch::new_case_insensitive(glob).matches(&host));
            prop_assert_eq!(Names::new(&globs).contain(&host), one_by_one);
        }
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
            let acl = Acl::new(&to_raw_value(&content).unwrap());
            assert_eq!(acl.allows(&name), allowed, "{server} by {content}");
        }
    }
}
