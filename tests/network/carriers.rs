//! What a node does when it is asked to carry, honestly or not; and nodes in a row, each of which
//! is connected to its neighbours alone.

use actix::prelude::*;
use messagehub::{
    actors::{
        admission::Permit,
        relay_request::{CarryRequest, InboundAnswer},
        swarm,
    },
    proto::{
        sealed::{self, Parcel},
        signed::Request,
    },
};
use ruma::{CanonicalJsonValue, OwnedServerName, serde::Base64};
use serde_json::{Value, json};

use super::world::{Node, Set, Start, World, log};

/// What a carrier does to what it is given.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Misdeed {
    #[default]
    None,
    /// It does nothing at all.
    Withhold,
    /// It hands the request on, and never gives the answer back.
    WithholdAnswer,
    /// It changes the request.
    SpoilRequest,
    /// It changes the answer.
    SpoilAnswer,
    /// It gives the answer to an earlier request.
    OldAnswer,
    /// It answers something else.
    Nonsense,
}

/// Changes one byte.
pub(crate) fn spoil(bytes: &Base64) -> Base64 {
    let mut bytes = bytes.as_bytes().to_vec();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    Base64::new(bytes)
}

fn canonical(value: Value) -> CanonicalJsonValue {
    CanonicalJsonValue::try_from(value).unwrap()
}

impl World {
    pub(crate) fn server_keys_of(&self, uri: &str) -> Option<InboundAnswer> {
        let server = uri.strip_prefix("/_messagehub/federation/v1/server_keys/")?;
        let server = sealed::destination(server).unwrap();
        let keys = self.known.get(&server);
        Some(match keys {
            Some(keys) => {
                let content = CanonicalJsonValue::Object(keys.json().clone());
                InboundAnswer { status: 200, content }
            }
            None => InboundAnswer { status: 404, content: canonical(json!({})) },
        })
    }

    pub(crate) fn carry(
        &mut self,
        request: Request,
        destination: OwnedServerName,
        permit: Permit,
    ) -> ResponseActFuture<Self, InboundAnswer> {
        let mut parcel: Parcel = serde_json::from_value(request.content.into()).unwrap();
        self.carried.push(parcel.clone());
        let misdeed = self.misdeed;
        if misdeed == Misdeed::Withhold {
            return Box::pin(std::future::pending().into_actor(self));
        }
        if misdeed == Misdeed::SpoilRequest {
            parcel.sealed = spoil(&parcel.sealed);
        }
        let asked = CarryRequest { origin: request.origin, destination, parcel, permit };
        let answer = self.carry.as_ref().unwrap().send(asked);
        let answered = answer.into_actor(self).then(move |answer, world, _| {
            let mut answer = answer.unwrap();
            world.carried_answers.push(answer.content.clone());
            match misdeed {
                Misdeed::WithholdAnswer => {
                    return Box::pin(std::future::pending().into_actor(world))
                        as ResponseActFuture<Self, InboundAnswer>;
                }
                Misdeed::SpoilAnswer if answer.status == 200 => {
                    let sealed: sealed::SealedAnswer =
                        serde_json::from_value(answer.content.clone().into()).unwrap();
                    answer.content = canonical(json!({"sealed": spoil(&sealed.sealed)}));
                }
                Misdeed::OldAnswer => answer.content = world.carried_answers[0].clone(),
                Misdeed::Nonsense => answer.content = canonical(json!({"sealed": "AAAA"})),
                _ => {}
            }
            Box::pin(actix::fut::ready(answer))
        });
        Box::pin(answered)
    }
}

/// Starts nodes that are connected as `edges` say (each from a later node to an earlier one) and
/// cannot be otherwise. All of them share a room.
pub(crate) async fn mesh<const N: usize>(edges: &[(usize, usize)]) -> [Node; N] {
    log();
    let keys: [swarm::NodeKey; N] = std::array::from_fn(|_| {
        swarm::load_or_create_key(std::path::Path::new("/nowhere"), true).unwrap()
    });
    let peers = keys.each_ref().map(|key| swarm::peer_id(key).parse().unwrap());
    let mut nodes: Vec<Node> = Vec::new();
    for (number, key) in keys.into_iter().enumerate() {
        let joined =
            |other: usize| edges.contains(&(number, other)) || edges.contains(&(other, number));
        let mut start = Start::new(u8::try_from(number).unwrap() + 1);
        for other in (0..N).filter(|other| *other != number) {
            if !joined(other) {
                start.blocked.push(peers[other]);
            } else if other < number {
                start = start.near(&nodes[other]).await;
            }
        }
        start.key = Some(key);
        nodes.push(start.start());
    }
    let servers: Vec<OwnedServerName> = nodes.iter().map(Node::server).collect();
    for (number, node) in nodes.iter().enumerate() {
        let others = servers.iter().filter(|server| **server != node.server()).cloned();
        node.world.send(Set::Shares(others.collect())).await.unwrap();
        for (later, earlier) in edges {
            if *later == number {
                node.knows(&nodes[*earlier]).await;
                nodes[*earlier].knows(node).await;
            }
        }
    }
    nodes.try_into().ok().unwrap()
}
