//! Who has what is another server's: asking, and what is answered, checked.

use std::time::Duration;

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedServerName, canonical_json::to_canonical_value,
};
use serde::Deserialize;
use serde_json::json;

use super::{actor::MediaLinks, messages::MediaError};
use crate::{
    actors::{
        clock::now_ms,
        rendezvous::ReadProven,
        swarm::NodeId,
        upward::{FederationError, FindSharing, SendFederation},
    },
    config::limits,
    proto::{
        endpoint::Endpoint,
        media::{MediaName, Pieces, Statement, piece::Ticket},
    },
};

/// How long a server may take to say what it has, being found included.
const OFFER_WAIT: Duration = Duration::from_secs(20);
/// The same for those that are connected.
const NEAR_WAIT: Duration = Duration::from_secs(8);

/// A server that has it.
#[derive(Debug, Clone)]
pub(super) struct Offer {
    pub(super) server: OwnedServerName,
    pub(super) ticket: Ticket,
    pub(super) statement: Statement,
    pub(super) signed: CanonicalJsonObject,
    pub(super) pieces: Pieces,
}

#[derive(Deserialize)]
struct Answer {
    statement: CanonicalJsonObject,
    ticket: String,
    #[serde(default)]
    pieces: Option<String>,
}

/// Reads what a server answered. It has to be what the server whose it is says of it, in its words.
fn read(
    server: OwnedServerName,
    name: &MediaName,
    answer: CanonicalJsonValue,
    now: u64,
) -> Result<Offer, String> {
    let answer: Answer =
        serde_json::from_value(answer.into()).map_err(|error| error.to_string())?;
    let statement =
        Statement::verify(&answer.statement, name, now).map_err(|error| error.to_string())?;
    let ticket = URL_SAFE_NO_PAD.decode(&answer.ticket).ok();
    let ticket = ticket.and_then(|ticket| ticket.try_into().ok()).ok_or("its ticket is none")?;
    let list = STANDARD_NO_PAD.decode(answer.pieces.unwrap_or_default());
    let list = list.map_err(|error| error.to_string())?;
    let pieces = Pieces::read(statement.hash, statement.size, &list);
    let pieces = pieces.ok_or("its pieces are not those of the file")?;
    Ok(Offer { server, ticket, statement, signed: answer.statement, pieces })
}

impl MediaLinks {
    /// Asks a server whether it has something.
    pub(super) async fn offer_of(
        self,
        server: OwnedServerName,
        name: MediaName,
    ) -> Result<Offer, MediaError> {
        let own = server == name.server_name;
        let content = to_canonical_value(json!({"pieces": true}));
        let ask = SendFederation {
            destination: server.clone(),
            endpoint: Endpoint::media(&name.server_name, &name.media_id),
            content: content.map_err(|error| MediaError::Files(error.to_string()))?,
            timeout: if own { OFFER_WAIT } else { NEAR_WAIT },
        };
        let answer = match self.federation.send(ask).await {
            Ok(Ok(answer)) => answer,
            // Only the server whose it is knows that it is yet to come.
            Ok(Err(FederationError::Refused { errcode, status: 504, .. }))
                if own && errcode == "M_NOT_YET_UPLOADED" =>
            {
                return Err(MediaError::NotYet);
            }
            Ok(Err(FederationError::Refused { status: 404, .. })) => {
                return Err(MediaError::NotFound);
            }
            Ok(Err(_)) | Err(_) => return Err(MediaError::Unreachable),
        };
        let asked = server.clone();
        let read = move || read(server, &name, answer, now_ms());
        let read = tokio::task::spawn_blocking(read).await;
        read.map_err(|error| MediaError::Files(error.to_string()))?.map_err(|why| {
            log::warn!(server:% = asked, why; "what it offered of media was refused");
            MediaError::NotFound
        })
    }

    /// Returns who may have something, beside the server whose it is: those that are connected and share a
    /// room with us, first those that share one with that server too.
    pub(super) async fn others(&self, name: &MediaName) -> Vec<OwnedServerName> {
        let proven = self.proven.send(ReadProven).await.unwrap_or_default();
        let servers = proven.into_iter().map(|(server, _)| server);
        let servers = servers.filter(|server| *server != name.server_name).collect();
        let find = FindSharing { servers, with: Some(name.server_name.clone()) };
        let mut sharing = self.sharing.send(find).await.unwrap_or_default();
        sharing.sort_by_key(|one| !one.with);
        let servers = sharing.into_iter().map(|one| one.server_name);
        servers.take(limits::MEDIA_SOURCES).collect()
    }

    /// Returns the node of a server, if it is connected.
    pub(super) async fn node_of(&self, server: &OwnedServerName) -> Option<NodeId> {
        let proven = self.proven.send(ReadProven).await.ok()?;
        proven.into_iter().find(|(other, _)| other == server).map(|(_, node)| node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{media::PieceHasher, server_keys::tests::secret_keys, signer::Signer};

    const NOW: u64 = 1_790_000_000_000;

    #[test]
    fn an_offer_counts_for_what_it_proves() {
        let ann = Signer::new(&secret_keys(1), &["peer".to_owned()], NOW).unwrap();
        let bob = secret_keys(2).server_name();
        let mut hasher = PieceHasher::default();
        hasher.update(&[7; 600_000]);
        let pieces = hasher.finish();
        let statement = Statement {
            name: MediaName::read(ann.server_name().as_str(), "abc").unwrap(),
            hash: pieces.hash,
            size: pieces.size,
            content_type: "image/png".to_owned(),
            file_name: None,
        };
        let signed = statement.sign(&ann, NOW).unwrap();
        let list = STANDARD_NO_PAD.encode(pieces.list());
        let ticket = URL_SAFE_NO_PAD.encode([9; 16]);
        let good = json!({"statement": signed, "ticket": ticket, "pieces": list});
        let read = |answer: serde_json::Value| {
            super::read(bob.clone(), &statement.name, to_canonical_value(answer).unwrap(), NOW)
        };
        let offer = read(good.clone()).unwrap();
        assert_eq!((offer.statement, offer.pieces), (statement.clone(), pieces));
        for (field, value) in [
            ("statement", json!({})),
            ("statement", json!(1)),
            ("ticket", json!("short")),
            ("pieces", json!(null)),
            ("pieces", json!("no base64!")),
            ("pieces", json!(STANDARD_NO_PAD.encode([0; 96]))),
        ] {
            let mut wrong = good.clone();
            wrong[field] = value;
            assert!(read(wrong.clone()).is_err(), "{wrong}");
        }
    }
}
