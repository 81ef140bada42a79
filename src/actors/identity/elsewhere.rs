//! Asks members of shared rooms for the newest server_keys of ours that they know.
//!
//! Where a copy of this node runs, its server_keys are newer, so others listen to it, and nothing
//! that is said here reaches anybody. Nobody tells us that unasked, and a copy with our PeerId
//! cannot even be connected. The answer proves itself, so it does not matter who gives it.

use std::{collections::BTreeSet, ops::Bound, time::Duration};

use actix::{
    ActorFutureExt as _, AsyncContext as _, Context, Handler, Message, Recipient, WrapFuture as _,
};
use ruma::{CanonicalJsonObject, CanonicalJsonValue, OwnedServerName};

use super::actor::IdentityActor;
use crate::{
    actors::{
        clock::now_ms,
        upward::{SendFederation, ServerOffline, ServerOnline},
    },
    proto::{endpoint::Endpoint, server_keys::VerifiedServerKeys},
};

/// How often somebody is asked: each time another one, so that a lie of one does not last.
const ASK_EVERY: Duration = Duration::from_secs(60);
/// Longest wait for an answer.
const ANSWER_WAIT: Duration = Duration::from_secs(10);

/// Says how others are asked. Sent once by `node.rs`: the network is built after Identity.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct AskWith(pub Recipient<SendFederation>);

/// Whom to ask, and how.
#[derive(Debug, Default)]
pub(super) struct Elsewhere {
    federation: Option<Recipient<SendFederation>>,
    /// Members that are connected.
    met: BTreeSet<OwnedServerName>,
    last: Option<OwnedServerName>,
    /// One is asked at a time.
    asking: bool,
}

impl Elsewhere {
    /// Returns the next one in turn.
    fn next(&self) -> Option<OwnedServerName> {
        let after = self.last.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let next = self.met.range::<OwnedServerName, _>((after, Bound::Unbounded)).next();
        next.or_else(|| self.met.first()).cloned()
    }
}

impl IdentityActor {
    /// Begins to ask from time to time.
    pub(super) fn ask_elsewhere_often(ctx: &mut Context<Self>) {
        ctx.run_interval(ASK_EVERY, |act, ctx| {
            if let Some(server) = act.elsewhere.next() {
                act.ask_elsewhere(server, ctx);
            }
        });
    }

    fn ask_elsewhere(&mut self, server: OwnedServerName, ctx: &mut Context<Self>) {
        let (Some(federation), Some(us)) = (&self.elsewhere.federation, self.signer()) else {
            return;
        };
        if self.elsewhere.asking {
            return;
        }
        let ask = federation.send(SendFederation {
            destination: server.clone(),
            endpoint: Endpoint::server_keys_of_key(us.server_name(), us.verify_key_id()),
            content: CanonicalJsonValue::Object(CanonicalJsonObject::new()),
            timeout: ANSWER_WAIT,
        });
        self.elsewhere.asking = true;
        self.elsewhere.last = Some(server);
        let asked = ask.into_actor(self).map(|answer, act, _| {
            act.elsewhere.asking = false;
            // Who knows none, or nothing of us, has nothing to tell.
            let Ok(Ok(CanonicalJsonValue::Object(json))) = answer else { return };
            if let Ok(keys) = VerifiedServerKeys::verify(json, now_ms()) {
                act.look_at_own(&keys);
            }
        });
        ctx.spawn(asked);
    }
}

impl Handler<AskWith> for IdentityActor {
    type Result = ();

    fn handle(&mut self, AskWith(federation): AskWith, _: &mut Context<Self>) {
        self.elsewhere.federation = Some(federation);
    }
}

impl Handler<ServerOnline> for IdentityActor {
    type Result = ();

    fn handle(&mut self, ServerOnline(server): ServerOnline, ctx: &mut Context<Self>) {
        self.elsewhere.met.insert(server.clone());
        self.ask_elsewhere(server, ctx);
    }
}

impl Handler<ServerOffline> for IdentityActor {
    type Result = ();

    fn handle(&mut self, ServerOffline(server): ServerOffline, _: &mut Context<Self>) {
        self.elsewhere.met.remove(&server);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_asked_in_turn() {
        let name = |name: &str| OwnedServerName::try_from(name).unwrap();
        let mut elsewhere = Elsewhere::default();
        assert_eq!(elsewhere.next(), None);
        elsewhere.met.extend(["a", "b", "c"].map(name));
        let mut asked = Vec::new();
        for _ in 0..4 {
            elsewhere.last = elsewhere.next();
            asked.extend(elsewhere.last.clone());
        }
        assert_eq!(asked, ["a", "b", "c", "a"].map(name));
        elsewhere.met.remove(&name("a"));
        assert_eq!(elsewhere.next(), Some(name("b")));
    }
}
