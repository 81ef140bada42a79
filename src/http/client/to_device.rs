//! Messages to devices: ours through Accounts, those of others by `m.direct_to_device` EDUs, which
//! the Outbox owes their servers.

use std::collections::BTreeMap;

use actix_web::Responder;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedServerName, OwnedUserId,
    api::client::to_device::send_event_to_device, to_device::DeviceIdOrAllDevices,
};
use serde_json::value::to_raw_value;
use sha2::{Digest as _, Sha256};

use crate::{
    actors::{
        accounts::{SendToDevice, Session, ToDeviceTarget, ToDevices},
        outbox::{Debt, Form, Matter, Owe},
    },
    http::{
        error::HttpError,
        gateway::ask,
        ruma_glue::{Authed, Empty, Json},
    },
    proto::{edu, server_name},
};

/// The contents for the users of one server, by device.
type ByUser = BTreeMap<OwnedUserId, CanonicalJsonObject>;

/// Sends to-device messages. Answered when all of it is on disk: in the queues of our devices, and
/// as owed to the other servers, whether they are there or not. A client that repeats the transaction
/// repeats nothing that arrived.
pub async fn send(
    request: Authed<send_event_to_device::v3::Request>,
) -> Result<impl Responder, HttpError> {
    let Authed { body, session, gateway, permit: _permit } = request;
    let kind = body.event_type.to_string();
    if kind.len() > edu::FIELD_LEN {
        let why = format!("an event type has {} bytes at most", edu::FIELD_LEN);
        return Err(HttpError::invalid_param(why));
    }
    let mut ours: BTreeMap<OwnedUserId, ToDevices> = BTreeMap::new();
    let mut others: BTreeMap<OwnedServerName, ByUser> = BTreeMap::new();
    for (user_id, devices) in body.messages {
        for (device, content) in devices {
            // Checked alike for whomever it is.
            let content = edu::to_device_content(content.json())?;
            if user_id.server_name() == session.user_id.server_name() {
                let content = to_raw_value(&content).map_err(HttpError::internal)?;
                ours.entry(user_id.clone()).or_default().insert(target(&device), content);
            } else {
                server_name::check_user(&user_id)?;
                let of_server = others.entry(user_id.server_name().to_owned()).or_default();
                let content = CanonicalJsonValue::Object(content);
                of_server.entry(user_id.clone()).or_default().insert(device.to_string(), content);
            }
        }
    }
    if !ours.is_empty() {
        let message = SendToDevice {
            from: session.clone(),
            txn_id: body.txn_id.to_string(),
            kind: kind.clone(),
            messages: ours,
        };
        gateway.ask_accounts(message).await??;
    }
    let id = message_id(&session, body.txn_id.as_str(), &kind);
    let debts = others.into_iter().map(|(destination, messages)| {
        let edu = serde_json::json!({
            "edu_type": "m.direct_to_device",
            "content": {
                "sender": session.user_id,
                "type": kind,
                "message_id": id,
                "messages": messages,
            },
        });
        let edu = CanonicalJsonValue::try_from(edu).map_err(HttpError::internal)?;
        let matter = Matter::ToDevice { message_id: id.clone() };
        Ok(Debt { destination, matter, form: Form::Edu(edu), once: None })
    });
    let debts = debts.collect::<Result<Vec<_>, HttpError>>()?;
    if !debts.is_empty() {
        ask(&gateway.owe, Owe(debts)).await??;
    }
    Ok(Json(Empty {}))
}

fn target(device: &DeviceIdOrAllDevices) -> ToDeviceTarget {
    match device {
        DeviceIdOrAllDevices::AllDevices => ToDeviceTarget::All,
        DeviceIdOrAllDevices::DeviceId(device) => ToDeviceTarget::One(device.to_string()),
    }
}

/// Returns the id by which other servers know a message again: at most 32 characters, the same
/// for the same transaction.
fn message_id(session: &Session, txn_id: &str, kind: &str) -> String {
    let Session { user_id, device_id } = session;
    let digest = Sha256::digest(format!("{user_id}\n{device_id}\n{txn_id}\n{kind}").as_bytes());
    URL_SAFE_NO_PAD.encode(digest.get(..16).unwrap_or_default())
}
