//! Messages to devices: ours through Accounts, those of others by `m.direct_to_device` EDUs.

use std::collections::BTreeMap;

use actix_web::Responder;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedServerName, OwnedUserId,
    api::client::to_device::send_event_to_device, to_device::DeviceIdOrAllDevices,
};
use serde_json::value::to_raw_value;
use sha2::{Digest as _, Sha256};

use crate::{
    actors::{
        accounts::{SendToDevice, Session, ToDeviceTarget, ToDevices},
        clock::now_ms,
        relay_request::SendFederation,
    },
    config::limits,
    http::{
        error::HttpError,
        gateway::{Gateway, ask},
        ruma_glue::{Authed, Empty, Json},
    },
    proto::edu,
};

/// The contents for the users of one server, by device.
type ByUser = BTreeMap<OwnedUserId, CanonicalJsonObject>;

/// Sends to-device messages. Answered when the queues of our devices are on disk and every other
/// server has taken its part; a client that repeats the transaction repeats nothing that arrived.
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
    let sends = others
        .into_iter()
        .map(|(server, messages)| send_to_server(&gateway, &session, server, &kind, &id, messages));
    let sent = futures::future::join_all(sends).await;
    sent.into_iter().collect::<Result<Vec<()>, HttpError>>()?;
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

async fn send_to_server(
    gateway: &Gateway,
    session: &Session,
    destination: OwnedServerName,
    kind: &str,
    id: &str,
    messages: ByUser,
) -> Result<(), HttpError> {
    let transaction = serde_json::json!({
        "origin": session.user_id.server_name(),
        "origin_server_ts": now_ms(),
        "pdus": [],
        "edus": [{
            "edu_type": "m.direct_to_device",
            "content": {
                "sender": session.user_id,
                "type": kind,
                "message_id": id,
                "messages": messages,
            },
        }],
    });
    let content = CanonicalJsonValue::try_from(transaction).map_err(HttpError::internal)?;
    let txn = utf8_percent_encode(id, NON_ALPHANUMERIC);
    let request = SendFederation {
        destination,
        method: "PUT",
        uri: format!("/_matrix/federation/v1/send/{txn}"),
        content,
        timeout: limits::FEDERATION_WAIT,
    };
    ask(&gateway.send_federation, request).await??;
    Ok(())
}
