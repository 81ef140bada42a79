//! Heads of other servers that are being followed: of each server one announcement at a time, and
//! of those that come meanwhile the newest. A server that announces without end keeps itself busy
//! and nobody else.

use std::collections::{HashMap, hash_map::Entry};

use ruma::{OwnedEventId, OwnedServerName};

/// The announcement that is followed next, for each server that one is being followed of.
#[derive(Debug, Default)]
pub(super) struct Following(HashMap<OwnedServerName, Option<Vec<OwnedEventId>>>);

impl Following {
    /// Returns the heads back if they can be followed now; else they wait, in the place of those
    /// that waited before.
    pub(super) fn begin(
        &mut self,
        server: &OwnedServerName,
        heads: Vec<OwnedEventId>,
    ) -> Option<Vec<OwnedEventId>> {
        match self.0.entry(server.clone()) {
            Entry::Vacant(free) => {
                free.insert(None);
                Some(heads)
            }
            Entry::Occupied(mut busy) => {
                busy.insert(Some(heads));
                None
            }
        }
    }

    /// Notes that heads have been followed, and returns those that waited.
    pub(super) fn end(&mut self, server: &OwnedServerName) -> Option<Vec<OwnedEventId>> {
        self.0.remove(server).flatten()
    }
}

#[cfg(test)]
mod tests {
    use ruma::{owned_event_id, owned_server_name};

    use super::*;

    #[test]
    fn of_each_server_one_at_a_time_and_then_the_newest() {
        let (ann, eve) = (owned_server_name!("ann"), owned_server_name!("eve"));
        let (first, second) = (vec![owned_event_id!("$1")], vec![owned_event_id!("$2")]);
        let mut following = Following::default();
        assert!(following.begin(&eve, first.clone()).is_some());
        for _ in 0..1000 {
            assert!(following.begin(&eve, first.clone()).is_none());
        }
        assert!(following.begin(&eve, second.clone()).is_none());
        assert!(following.begin(&ann, first.clone()).is_some(), "the others do not wait for it");
        assert_eq!(following.end(&eve), Some(second));
        assert_eq!(following.end(&ann), None);
        assert!(following.begin(&ann, first).is_some());
    }
}
