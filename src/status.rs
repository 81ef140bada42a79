//! What a node is at this moment, put together once for all who show it: `messagehub status`, the
//! doctor, the log.

mod settings;
mod words;

use actix::Recipient;
use ruma::{OwnedServerName, OwnedUserId};
use serde::{Deserialize, Serialize};

use crate::{
    actors::{
        accounts::{ListPeople, LocalPerson},
        beat::{ReadSilent, Silent},
        http_gateway::{WebPlaces, WebStatus},
        identity::ReadSigner,
        media::{MediaStatus, ReadMedia},
        outbox::{CountOwed, OwedCount},
        relay_request::ReadClock,
        rendezvous::ReadNetwork,
        room_state::{CountRooms, RoomCounts},
        swarm::NetworkStatus,
    },
    proto::{
        rendezvous,
        server_name::{LOCALPART, user_of},
    },
};

pub use crate::actors::{outbox::OutboxStatus, relay_request::ClockStatus};
pub use settings::settings_in_words;
pub use words::{banner, ended_in_words, found_as, next_try, outbox_in_words, status_in_words};

/// After how many seconds without an answer a part of the node is told of instead of asked.
const SILENT_S: u32 = 5;

impl From<LocalPerson> for PersonStatus {
    fn from(person: LocalPerson) -> Self {
        let LocalPerson { user_id, profile, devices, has_password } = person;
        let strings = rendezvous::strings_of_user(user_id.localpart(), user_id.server_name());
        let found_as = strings.into_iter().take(1).chain([user_id.to_string()]).collect();
        Self { user_id, display_name: profile.displayname, found_as, devices, has_password }
    }
}

/// What a node is and whom it knows, as `messagehub status` gets it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    /// The server name; none before the first login.
    pub server_name: Option<OwnedServerName>,
    /// The user.
    pub user_id: Option<OwnedUserId>,
    /// The name that the user shows; none where none was chosen.
    #[serde(default)]
    pub display_name: Option<String>,
    /// By what others find the user: a short string, and one that is sure.
    #[serde(default)]
    pub found_as: Vec<String>,
    /// Where clients find the node.
    #[serde(default)]
    pub web: Option<WebStatus>,
    /// Whether the user can log in by a password.
    #[serde(default)]
    pub has_password: bool,
    /// The others who are at home on this node.
    #[serde(default)]
    pub people: Vec<PersonStatus>,
    /// The network.
    #[serde(flatten)]
    pub network: NetworkStatus,
    /// The rooms.
    pub rooms: RoomCounts,
    /// How far our clock is from those of others; none before anybody was heard.
    #[serde(default)]
    pub clock: Option<ClockStatus>,
    /// What other servers are to get, once they are there.
    #[serde(default)]
    pub owed: OwedCount,
    /// Pictures and files.
    #[serde(default)]
    pub media: MediaStatus,
}

/// Somebody who registered on the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PersonStatus {
    /// Who.
    pub user_id: OwnedUserId,
    /// The name that they show.
    pub display_name: Option<String>,
    /// By what others find them: a short string, and one that is sure.
    pub found_as: Vec<String>,
    /// How many devices they have logged in.
    pub devices: usize,
    /// Whether they can log in by a password.
    pub has_password: bool,
}

/// Whom a node asks about itself.
#[derive(Clone)]
pub struct StatusLinks {
    /// Node: which of the others do not answer.
    pub silent: Recipient<ReadSilent>,
    /// Identity.
    pub signer: Recipient<ReadSigner>,
    /// Rendezvous.
    pub network: Recipient<ReadNetwork>,
    /// RoomState.
    pub rooms: Recipient<CountRooms>,
    /// RelayRequest.
    pub clock: Recipient<ReadClock>,
    /// Accounts: who is at home here.
    pub people: Recipient<ListPeople>,
    /// Outbox.
    pub count_owed: Recipient<CountOwed>,
    /// Media.
    pub media: Recipient<ReadMedia>,
    /// Where the http servers are.
    pub web: WebPlaces,
}

/// Asks the parts of a node what they are at. Fails with a line that names the part which does not
/// answer, or which is gone.
pub async fn read(links: &StatusLinks) -> Result<Status, String> {
    let gone = |part: &'static str| move |_| format!("{part} is gone; this node ends");
    let silent = links.silent.send(ReadSilent).await.map_err(gone("Node"))?;
    if let Some(Silent { part, seconds }) = silent.iter().find(|part| part.seconds >= SILENT_S) {
        return Err(format!("{part} has not answered for {seconds} s"));
    }
    let signer = links.signer.send(ReadSigner).await.map_err(gone("Identity"))?;
    let network = links.network.send(ReadNetwork).await.map_err(gone("Rendezvous"))?;
    let rooms = links.rooms.send(CountRooms).await.map_err(gone("RoomState"))?;
    let clock = links.clock.send(ReadClock).await.map_err(gone("RelayRequest"))?;
    let owed = links.count_owed.send(CountOwed).await.map_err(gone("Outbox"))?;
    let media = links.media.send(ReadMedia).await.map_err(gone("Media"))?;
    let server_name = signer.as_ref().map(|signer| signer.server_name().clone());
    let user_id = server_name.as_deref().map(user_of);
    let people = links.people.send(ListPeople).await.map_err(gone("Accounts"))?;
    let (owner, others): (Vec<_>, Vec<_>) =
        people.into_iter().partition(|person| Some(&person.user_id) == user_id.as_ref());
    let owner = owner.into_iter().next();
    let has_password = owner.as_ref().is_some_and(|owner| owner.has_password);
    let display_name = owner.and_then(|owner| owner.profile.displayname);
    let shown = display_name.as_deref().unwrap_or(LOCALPART);
    let found_as = server_name.as_ref().map_or_else(Vec::new, |name| found_as(shown, name));
    Ok(Status {
        server_name,
        user_id,
        display_name,
        found_as,
        has_password,
        people: others.into_iter().map(PersonStatus::from).collect(),
        web: links.web.look().await,
        network,
        rooms,
        clock,
        owed,
        media,
    })
}
