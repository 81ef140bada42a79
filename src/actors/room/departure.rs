//! Learning that a user of ours was shown out, or is not invited any more: told by the request of whoever
//! did it, by any member with whom heads are compared, or found out when a new invite comes.

use actix::{Context, Handler, ResponseFuture};
use ruma::{OwnedEventId, OwnedServerName, OwnedUserId, events::room::member::MembershipState};
use serde::{Deserialize, de::IgnoredAny};
use serde_json::{json, value::RawValue};

use super::{
    actor::RoomActor,
    machine::GivenState,
    messages::{RoomError, TakeDeparture},
    worker::Worker,
};
use crate::proto::{
    endpoint::Endpoint,
    heads::ComparedHeads,
    pdu::{Pdu, Received, with_server_keys},
    server_keys::VerifiedServerKeys,
};

/// Events of the auth chain of a departure that are looked at: what was ever needed to give somebody
/// the power to show others out.
const AUTH_CHAIN: usize = 2000;
/// Departures of one transaction that are looked at.
const DEPARTURES: usize = 8;

#[derive(Deserialize)]
struct AuthAnswer {
    auth_chain: Vec<Box<RawValue>>,
}

impl Handler<TakeDeparture> for RoomActor {
    type Result = ResponseFuture<Result<(), RoomError>>;

    fn handle(&mut self, msg: TakeDeparture, ctx: &mut Context<Self>) -> Self::Result {
        let TakeDeparture { server_name, pdu } = msg;
        let worker = self.worker(ctx);
        Box::pin(async move { worker.take_departure(pdu, &server_name).await })
    }
}

impl Worker {
    /// Returns the events of a transaction that look like such as show users of ours out.
    /// Those that lean on server_keys beside them get these: from here on each goes by itself.
    pub(super) fn departures_among(
        &self,
        pdus: &[Box<RawValue>],
        beside: Option<&VerifiedServerKeys>,
    ) -> Vec<Box<RawValue>> {
        #[derive(Deserialize)]
        struct Fields {
            #[serde(rename = "type")]
            kind: String,
            sender: OwnedUserId,
            state_key: Option<OwnedUserId>,
            server_keys: Option<IgnoredAny>,
        }
        let server = self.signer.server_name();
        let ours = |pdu: &RawValue| {
            let fields: Fields = serde_json::from_str(pdu.get()).ok()?;
            let of_ours = fields.state_key.is_some_and(|user| user.server_name() == server);
            if fields.kind != "m.room.member" || !of_ours {
                return None;
            }
            let beside = beside.filter(|keys| {
                fields.server_keys.is_none() && keys.server_name() == fields.sender.server_name()
            });
            Some(
                beside.map_or_else(
                    || pdu.to_owned(),
                    |keys| with_server_keys(pdu.get(), keys.text()),
                ),
            )
        };
        pdus.iter().filter_map(|pdu| ours(pdu)).take(DEPARTURES).collect()
    }

    /// Takes a departure in of which a server tells that is no member here, or of which no user of ours
    /// is one.
    pub(super) async fn hear_departure(&self, from: &OwnedServerName, pdu: Box<RawValue>) {
        if let Err(error) = self.take_departure(pdu, from).await {
            log::debug!(room_id:% = self.room_id, from:%; "not taken for a departure: {error}");
        }
    }

    /// Asks a server whether users of ours are out of the room, and takes that in.
    pub(super) async fn ask_for_departure(&self, from: &OwnedServerName) -> Result<(), RoomError> {
        if !self.operate(|machine| Ok((machine.is_resident(), None))).await? {
            return Ok(());
        }
        // No fingerprint of ours: the heads are of no interest.
        let content = json!({"rooms": {self.room_id.as_str(): ""}});
        let mut answer: ComparedHeads = self.request(from, Endpoint::heads(), content).await?;
        for pdu in answer.left_in(&self.room_id) {
            self.take_departure(pdu, from).await?;
        }
        Ok(())
    }

    async fn take_departure(
        &self,
        pdu: Box<RawValue>,
        from: &OwnedServerName,
    ) -> Result<(), RoomError> {
        let received = self.receive(vec![pdu], from).await?;
        let received = received.into_iter().next().ok_or(RoomError::EventNotFound)?;
        self.depart(received, from).await
    }

    /// Takes in a departure of which nothing is here that comes before it.
    pub(super) async fn take_parked_departure(
        &self,
        event_id: OwnedEventId,
        from: &OwnedServerName,
    ) -> Result<(), RoomError> {
        let parked = self.operate(move |machine| Ok((machine.parked_event(&event_id), None)));
        match parked.await? {
            Some(received) => self.depart(received, from).await,
            None => Ok(()),
        }
    }

    async fn depart(&self, received: Received, from: &OwnedServerName) -> Result<(), RoomError> {
        let pdu = received.pdu.clone();
        let news = self.operate(move |machine| Ok((machine.departs_from(&pdu)?, None))).await?;
        let Some(membership) = news else { return Ok(()) };
        let given = self.what_authorizes(&received.pdu, &membership, from).await?;
        if membership == MembershipState::Invite {
            return self
                .operate(move |machine| {
                    let change = machine.uninvited(&received, &given)?;
                    Ok(((), Some(Box::new(change))))
                })
                .await;
        }
        let pdu = received.pdu.clone();
        let named = self
            .operate(move |machine| {
                let (named, change) = machine.name_departure(&pdu, &given)?;
                Ok((named, Some(Box::new(change))))
            })
            .await?;
        self.operate(move |machine| {
            if machine.departs_from(&received.pdu)?.is_none() {
                return Ok(((), None));
            }
            let change = machine.depart(&received, named)?;
            Ok(((), Some(Box::new(change))))
        })
        .await
    }

    /// Returns the auth chain of a departure, where it is not here.
    async fn what_authorizes(
        &self,
        pdu: &Pdu,
        membership: &MembershipState,
        from: &OwnedServerName,
    ) -> Result<GivenState, RoomError> {
        let wanted = pdu.clone();
        let here = self.operate(move |machine| Ok((machine.has_auth_events(&wanted)?, None)));
        if here.await? && *membership == MembershipState::Join {
            return Ok(GivenState::default());
        }
        let endpoint = Endpoint::event_auth(&self.room_id, &pdu.event_id);
        let mut answer: AuthAnswer = self.request(from, endpoint, json!({})).await?;
        answer.auth_chain.truncate(AUTH_CHAIN);
        let auth_chain = self.receive(answer.auth_chain, from).await?;
        Ok(GivenState { state: Vec::new(), auth_chain })
    }
}
