//! How an item of the Outbox is kept on disk. Pure.
//!
//! A row is an item that waits, with what is to be sent, or one that came to an end, without.

use ruma::{OwnedEventId, OwnedRoomId, OwnedServerName};
use serde::{Deserialize, Serialize};

use super::{Ended, Form, Matter, messages::End};

/// An item that waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Kept {
    /// By which it is the same item in each try: random, made once.
    pub(super) request_id: String,
    pub(super) matter: Matter,
    pub(super) form: Form,
    pub(super) made_ts: u64,
    pub(super) expires_ts: u64,
    /// Owed from when this event is part of its room.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) once: Option<(OwnedRoomId, OwnedEventId)>,
}

/// An item that came to an end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Past {
    matter: Matter,
    made_ts: u64,
    ended_ts: u64,
    end: End,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Row {
    Waiting(Kept),
    Ended(Past),
}

/// What a row says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Read {
    /// It waits.
    Waiting(Kept),
    /// It came to an end.
    Ended(Ended),
}

/// Writes an item that waits.
pub(super) fn waiting(kept: Kept) -> serde_json::Result<Vec<u8>> {
    serde_json::to_vec(&Row::Waiting(kept))
}

/// Writes an item that came to an end.
pub(super) fn ended(ended: &Ended) -> serde_json::Result<Vec<u8>> {
    let Ended { matter, made_ts, ended_ts, end, .. } = ended.clone();
    serde_json::to_vec(&Row::Ended(Past { matter, made_ts, ended_ts, end }))
}

/// Reads a row.
pub(super) fn read(server_name: &OwnedServerName, value: &[u8]) -> serde_json::Result<Read> {
    Ok(match serde_json::from_slice(value)? {
        Row::Waiting(kept) => Read::Waiting(kept),
        Row::Ended(Past { matter, made_ts, ended_ts, end }) => {
            let server_name = server_name.clone();
            Read::Ended(Ended { server_name, matter, made_ts, ended_ts, end })
        }
    })
}

#[cfg(test)]
mod tests {
    use ruma::{
        CanonicalJsonValue, RoomVersionId, owned_event_id, owned_room_id, owned_server_name,
        owned_user_id,
    };

    use super::*;

    #[test]
    fn rows_come_back_as_they_were() {
        let server = owned_server_name!("bob.org");
        let (room_id, event_id) = (owned_room_id!("!r:x"), owned_event_id!("$e"));
        let content: CanonicalJsonValue = serde_json::from_str(r#"{"a":[1,{"b":null}]}"#).unwrap();
        let user_id = owned_user_id!("@bob:bob.org");
        let matters = [
            Matter::Invite {
                room_id: room_id.clone(),
                user_id: user_id.clone(),
                event_id: event_id.clone(),
            },
            Matter::Membership {
                room_id: room_id.clone(),
                user_id: user_id.clone(),
                event_id: event_id.clone(),
            },
            Matter::ToDevice { message_id: "m".into() },
            Matter::DeviceList { user_id },
            Matter::Declined {
                room_id: room_id.clone(),
                user_id: owned_user_id!("@me:me.org"),
                event_id: Some(event_id.clone()),
            },
            Matter::Events { room_id: room_id.clone(), event_id: event_id.clone(), count: 3 },
        ];
        let forms = [
            Form::Put { uri: "/x".into(), content: content.clone() },
            Form::Pdu(content.clone()),
            Form::Edu(content),
            Form::Leave { version: RoomVersionId::V11 },
            Form::Events { room_id: room_id.clone(), event_ids: vec![event_id.clone()] },
        ];
        let ends = [
            End::Delivered,
            End::Refused { status: 403, errcode: "M_FORBIDDEN".into() },
            End::Expired,
            End::GaveWay,
        ];
        for matter in matters {
            for (form, once) in forms.iter().zip([
                None,
                Some((room_id.clone(), event_id.clone())),
                None,
                None,
                None,
            ]) {
                let kept = Kept {
                    request_id: "1".into(),
                    matter: matter.clone(),
                    form: form.clone(),
                    made_ts: 1,
                    expires_ts: 2,
                    once,
                };
                let value = waiting(kept.clone()).unwrap();
                assert_eq!(read(&server, &value).unwrap(), Read::Waiting(kept));
            }
            for end in &ends {
                let past = Ended {
                    server_name: server.clone(),
                    matter: matter.clone(),
                    made_ts: 1,
                    ended_ts: 2,
                    end: end.clone(),
                };
                assert_eq!(read(&server, &ended(&past).unwrap()).unwrap(), Read::Ended(past));
            }
        }
        assert!(read(&server, b"{}").is_err());
    }
}
