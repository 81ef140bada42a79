//! The gossipsub topic of a room.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use ruma::RoomId;
use sha2::Sha256;

/// Returns the topic on which a room is gossiped.
///
/// It is keyed by the room id, which only people who were let in learn: the name itself tells a
/// stranger nothing, and cannot be linked to the room without it.
pub fn of_room(room_id: &RoomId) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(room_id.as_bytes())
        .unwrap_or_else(|_| unreachable!("HMAC takes keys of any length"));
    mac.update(b"messagehub topic 1");
    URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes())
}

#[cfg(test)]
mod tests {
    use ruma::room_id;

    use super::*;

    #[test]
    fn a_topic_is_stable_and_opaque() {
        let topic = of_room(room_id!("!room:example"));
        assert_eq!(topic, of_room(room_id!("!room:example")));
        assert_ne!(topic, of_room(room_id!("!room2:example")));
        assert_eq!(topic.len(), 43);
        assert!(!topic.contains("room"));
    }
}
