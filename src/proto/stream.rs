//! Sync tokens.
//!
//! A token names a place in two streams: the durable one (positions of the Store, for ever) and
//! the ephemeral one (typing, presence: counted from 0 at each start). `boot` tells whose
//! ephemeral count it is; after a restart a client is sent the ephemeral state anew.

use std::{fmt, str::FromStr};

use super::ProtoError;

/// A `since` or `next_batch` token: `s<position>_<ephemeral>_<boot>`, and `_<to_device>` where that
/// is another position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SyncToken {
    /// Position in the durable stream.
    pub position: u64,
    /// Position up to which to-device messages came: the durable one, unless more of them wait than
    /// one answer takes.
    pub to_device: u64,
    /// Position in the ephemeral stream.
    pub ephemeral: u64,
    /// The start of the process that counted `ephemeral`.
    pub boot: u64,
}

impl fmt::Display for SyncToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s{}_{}_{:x}", self.position, self.ephemeral, self.boot)?;
        if self.to_device == self.position { Ok(()) } else { write!(f, "_{}", self.to_device) }
    }
}

impl FromStr for SyncToken {
    type Err = ProtoError;

    fn from_str(token: &str) -> Result<Self, ProtoError> {
        let parse = || {
            let mut parts = token.strip_prefix('s')?.split('_');
            let position = parts.next()?.parse().ok()?;
            let ephemeral = parts.next()?.parse().ok()?;
            let boot = u64::from_str_radix(parts.next()?, 16).ok()?;
            let to_device = parts.next().map_or(Ok(position), str::parse).ok()?;
            parts.next().is_none().then_some(Self { position, to_device, ephemeral, boot })
        };
        parse().ok_or_else(|| ProtoError::malformed("sync token", "it is none of this server's"))
    }
}

/// A place in the timeline of one room. Places compare as they stand.
///
/// A live event stands at its stream position. History that was fetched later stands between two
/// positions: before the event that follows it, and behind all that was live before that. (History
/// that an older program fetched has positions below zero instead, and stands before all that is
/// live.)
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Order {
    /// The position, or the one behind which the history stands.
    pub position: i64,
    /// The place within the history behind the position; 0 for what stands at the position.
    pub history: u64,
}

impl Order {
    /// Before everything.
    pub const FIRST: Self = Self { position: i64::MIN, history: 0 };
    /// Behind everything.
    pub const LAST: Self = Self { position: i64::MAX, history: u64::MAX };

    /// Returns the place at a position.
    pub const fn live(position: i64) -> Self {
        Self { position, history: 0 }
    }

    /// Tells whether history stands here that was fetched later.
    pub const fn is_history(self) -> bool {
        self.history > 0 || self.position < 0
    }

    /// Returns the next place before this one.
    pub const fn before(self) -> Self {
        match self.history.checked_sub(1) {
            Some(history) => Self { position: self.position, history },
            None => Self { position: self.position.saturating_sub(1), history: u64::MAX },
        }
    }

    /// Returns the position behind which history stands that comes just before what stands here.
    pub const fn stretch(self) -> i64 {
        if self.history > 0 { self.position } else { self.position.saturating_sub(1) }
    }
}

/// A place in the timeline of one room: `t<position>` behind the history that follows the position,
/// `t<position>.<history>` within it. Pages of `/messages` begin and end at one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TimelineToken(pub Order);

impl fmt::Display for TimelineToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Order { position, history: u64::MAX } => write!(f, "t{position}"),
            Order { position, history } => write!(f, "t{position}.{history}"),
        }
    }
}

impl FromStr for TimelineToken {
    type Err = ProtoError;

    /// Takes a sync token too: it names the place after the last event that it covers.
    fn from_str(token: &str) -> Result<Self, ProtoError> {
        let place = |token: &str| {
            let (position, history) = match token.split_once('.') {
                Some((position, history)) => (position, history.parse().ok()?),
                None => (token, u64::MAX),
            };
            Some(Order { position: position.parse().ok()?, history })
        };
        if let Some(order) = token.strip_prefix('t').and_then(place) {
            return Ok(Self(order));
        }
        let position = token.parse::<SyncToken>()?.position;
        i64::try_from(position)
            .map(|position| Self(Order::live(position)))
            .map_err(|_| ProtoError::malformed("sync token", "its position is out of range"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn every_token_survives_the_round_trip(
            position in any::<u64>(),
            to_device in prop::option::of(any::<u64>()),
            ephemeral in any::<u64>(),
            boot in any::<u64>(),
            at in any::<i64>(),
            history in any::<u64>(),
        ) {
            let to_device = to_device.unwrap_or(position);
            let token = SyncToken { position, to_device, ephemeral, boot };
            prop_assert_eq!(token.to_string().parse::<SyncToken>().unwrap(), token);
            let place = TimelineToken(Order { position: at, history });
            prop_assert_eq!(place.to_string().parse::<TimelineToken>().unwrap(), place);
            // A sync token names a place in a timeline too, as long as there can be one.
            let place = token.to_string().parse::<TimelineToken>().ok();
            prop_assert_eq!(place, i64::try_from(position).ok().map(|at| TimelineToken(Order::live(at))));
        }

        #[test]
        fn other_texts_are_refused_or_mean_one_token(
            text in prop_oneof![any::<String>(), "[st]?[-+0-9a-fA-F_ ]{0,40}"],
        ) {
            // Clients send tokens back as they got them; what else is read has one meaning.
            if let Ok(token) = text.parse::<SyncToken>() {
                prop_assert_eq!(token.to_string().parse::<SyncToken>().unwrap(), token);
            }
            if let Ok(place) = text.parse::<TimelineToken>() {
                prop_assert_eq!(place.to_string().parse::<TimelineToken>().unwrap(), place);
            }
        }
    }

    #[test]
    fn history_stands_between_positions() {
        let history = |history| Order { position: 4, history };
        let places = [Order::FIRST, Order::live(4), history(1), history(9), Order::live(5)];
        assert!(places.is_sorted());
        assert_eq!(Order::live(5).before(), history(u64::MAX));
        assert_eq!((history(9).before(), history(1).before()), (history(8), Order::live(4)));
        assert_eq!((Order::live(5).stretch(), history(9).stretch()), (4, 4));
    }

    #[test]
    fn tokens_survive_the_round_trip() {
        let token = SyncToken { position: 12, to_device: 12, ephemeral: 3, boot: 0xabc };
        assert_eq!(token.to_string(), "s12_3_abc", "as older releases wrote it");
        assert_eq!(token.to_string().parse::<SyncToken>().unwrap(), token);
        let place = |position, history| TimelineToken(Order { position, history });
        assert_eq!("t-7".parse::<TimelineToken>().unwrap(), place(-7, u64::MAX));
        assert_eq!("t7.3".parse::<TimelineToken>().unwrap(), place(7, 3));
        assert_eq!(token.to_string().parse::<TimelineToken>().unwrap(), place(12, 0));
        for bad in ["", "s", "s1", "s1_2", "s1_2_3_4_5", "s1_2_3_x", "s-1_2_3", "t", "t1.", "x1"] {
            assert!(bad.parse::<TimelineToken>().is_err(), "{bad}");
        }
    }
}
