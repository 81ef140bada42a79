//! A device that publishes keys, signed as clients sign them. It encrypts nothing.

use ed25519_dalek::{Signer as _, SigningKey};
use ruma::CanonicalJsonObject;
use serde_json::{Map, Value, json};

use super::Client;

/// Signs keys.
pub(crate) struct Device {
    pub(crate) user_id: String,
    pub(crate) device_id: String,
    key: SigningKey,
}

fn base64(bytes: &[u8]) -> String {
    ruma::serde::Base64::<ruma::serde::base64::Standard, _>::new(bytes).encode()
}

impl Device {
    /// Makes the keys of a device.
    pub(crate) fn new(user_id: &str, device_id: &str) -> Self {
        let key = SigningKey::from_bytes(&rand::random());
        Self { user_id: user_id.to_owned(), device_id: device_id.to_owned(), key }
    }

    /// Signs an object as this device.
    pub(crate) fn sign(&self, object: Value) -> Value {
        let mut object: CanonicalJsonObject = serde_json::from_value(object).unwrap();
        object.remove("signatures");
        let text = serde_json::to_string(&object).unwrap();
        let signature = base64(&self.key.sign(text.as_bytes()).to_bytes());
        let mut object = serde_json::to_value(object).unwrap();
        let key_id = format!("ed25519:{}", self.device_id);
        object["signatures"] = json!({&self.user_id: {key_id: signature}});
        object
    }

    /// Returns the keys of the device.
    pub(crate) fn keys(&self) -> Value {
        let public = base64(self.key.verifying_key().as_bytes());
        let id = &self.device_id;
        self.sign(json!({
            "user_id": self.user_id, "device_id": id,
            "algorithms": ["m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"],
            "keys": {format!("ed25519:{id}"): public, format!("curve25519:{id}"): public},
        }))
    }

    /// Returns a one-time or fallback key.
    pub(crate) fn one_time(&self, key: &str) -> Value {
        self.sign(json!({"key": format!("{key:A<43}")}))
    }

    /// Publishes the keys of a client's device, some one-time keys and a fallback key.
    pub(crate) async fn publish(me: &Client, one_time: usize) -> Self {
        let device = Self::new(&me.user_id, &me.device_id);
        let keys = (0..one_time).map(|n| {
            let key = device.one_time(&format!("once{n}"));
            (format!("signed_curve25519:once{n}"), key)
        });
        let body = json!({
            "device_keys": device.keys(),
            "one_time_keys": keys.collect::<Map<_, _>>(),
            "fallback_keys": {"signed_curve25519:again": device.one_time("again")},
        });
        me.post("v3/keys/upload", body).await.ok();
        device
    }
}
