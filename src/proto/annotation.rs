//! Annotations: reactions to events. Nobody has the same one twice on an event (Client-Server API,
//! "Avoiding duplicate annotations").

use ruma::OwnedEventId;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

const REL_TYPE: &str = "m.annotation";

/// What an annotation annotates, and with what.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Annotation {
    /// The event.
    pub target: OwnedEventId,
    /// SHA-256 of the event type and the key: keys are as long as senders like.
    pub digest: [u8; 32],
}

impl Annotation {
    /// Reads the content of an event, in canonical JSON; none where it annotates nothing.
    pub fn of(kind: &str, content: &str) -> Option<Self> {
        // Nearly all events annotate nothing: they are not parsed for it.
        if !content.contains(REL_TYPE) {
            return None;
        }
        #[derive(Deserialize)]
        struct Content {
            #[serde(rename = "m.relates_to")]
            relates_to: Relation,
        }
        #[derive(Deserialize)]
        struct Relation {
            rel_type: String,
            event_id: OwnedEventId,
            key: String,
        }
        let Content { relates_to } = serde_json::from_str(content).ok()?;
        if relates_to.rel_type != REL_TYPE {
            return None;
        }
        let mut digest = Sha256::new();
        digest.update(kind.as_bytes());
        digest.update([0]);
        digest.update(relates_to.key.as_bytes());
        Some(Self { target: relates_to.event_id, digest: digest.finalize().into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_annotation_is_one_of_type_target_and_key() {
        let of = |kind: &str, target: &str, key: &str| {
            let relation = format!(
                r#"{{"m.relates_to":{{"rel_type":"m.annotation","event_id":"{target}","key":"{key}"}}}}"#
            );
            Annotation::of(kind, &relation).unwrap()
        };
        let one = of("m.reaction", "$e", "+");
        assert_eq!(one, of("m.reaction", "$e", "+"));
        for other in
            [of("m.reaction", "$e", "-"), of("m.reaction", "$f", "+"), of("m.x", "$e", "+")]
        {
            assert_ne!(one, other);
        }
        let thread = r#"{"m.relates_to":{"rel_type":"m.thread","event_id":"$e","key":"+"}}"#;
        for none in [thread, "{}", "7"] {
            assert_eq!(Annotation::of("m.reaction", none), None, "{none}");
        }
    }
}
