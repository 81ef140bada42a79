//! How often an address may knock. Pure: time is an argument.
//!
//! Invariants: the table is bounded, and who is forgotten is who was quiet longest; a bucket that is
//! forgotten comes back full, so forgetting never locks anybody out.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    num::NonZeroUsize,
    time::Instant,
};

use lru::LruCache;

use crate::actors::rate::{Bucket, Rate};

/// Addresses and nets that are remembered: some 500 KiB.
const BUCKETS_MAX: NonZeroUsize = NonZeroUsize::new(8192).unwrap();

/// One household or server: an IPv4 address, or the /64 that one gets with IPv6.
pub(super) const HOUSE: Rate = Rate { burst: 32.0, per_second: 1.0 };
/// One neighbourhood: a /24, or a /48. Whoever rents many addresses has them here.
pub(super) const NET: Rate = Rate { burst: 128.0, per_second: 4.0 };
/// An address of a private network: few machines, often many nodes, and no strangers.
pub(super) const NEAR: Rate = Rate { burst: 256.0, per_second: 16.0 };
/// All that comes through one relay.
pub(super) const RELAY: Rate = Rate { burst: 64.0, per_second: 4.0 };

/// Who knocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Source {
    /// An IPv4 address, or the /64 of an IPv6 one.
    House(IpAddr),
    /// A /24 or /48.
    Net(IpAddr),
    /// A relay's address.
    Relay(Option<IpAddr>),
}

impl Source {
    pub(super) fn house(ip: IpAddr) -> Self {
        Self::House(cut(ip, 32, 64))
    }

    pub(super) fn net(ip: IpAddr) -> Self {
        Self::Net(cut(ip, 24, 48))
    }
}

/// Keeps the first bits of an address.
fn cut(ip: IpAddr, v4: u32, v6: u32) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            let mask = u32::MAX.checked_shl(32 - v4).unwrap_or(0);
            Ipv4Addr::from_bits(ip.to_bits() & mask).into()
        }
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(128 - v6).unwrap_or(0);
            Ipv6Addr::from_bits(ip.to_bits() & mask).into()
        }
    }
}

/// The buckets of all who knocked.
#[derive(Debug)]
pub(super) struct Buckets(LruCache<Source, Bucket<Instant>>);

impl Buckets {
    pub(super) fn new() -> Self {
        Self(LruCache::new(BUCKETS_MAX))
    }

    /// Takes a token; false where there is none.
    pub(super) fn take(&mut self, source: Source, rate: Rate, now: Instant) -> bool {
        self.0.get_or_insert_mut(source, || Bucket::full(rate, now)).take(1.0, now)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_burst_then_a_trickle() {
        let rate = Rate { burst: 3.0, per_second: 2.0 };
        let mut buckets = Buckets::new();
        let start = Instant::now();
        let source = Source::house([192, 0, 2, 1].into());
        let granted = |buckets: &mut Buckets, millis: u64| {
            let now = start + Duration::from_millis(millis);
            (0..10).filter(|_| buckets.take(source, rate, now)).count()
        };
        assert_eq!(granted(&mut buckets, 0), 3);
        assert_eq!(granted(&mut buckets, 400), 0);
        assert_eq!(granted(&mut buckets, 500), 1);
        assert_eq!(granted(&mut buckets, 60_000), 3, "no more than a burst is saved up");
    }

    #[test]
    fn a_house_a_net_and_everybody_else() {
        let house = |text: &str| Source::house(text.parse().unwrap());
        let net = |text: &str| Source::net(text.parse().unwrap());
        assert_ne!(house("192.0.2.1"), house("192.0.2.2"));
        assert_eq!(net("192.0.2.1"), net("192.0.2.200"));
        assert_ne!(net("192.0.2.1"), net("192.0.3.1"));
        assert_eq!(house("2001:db8:1:2::1"), house("2001:db8:1:2:ffff::1"));
        assert_ne!(house("2001:db8:1:2::1"), house("2001:db8:1:3::1"));
        assert_eq!(net("2001:db8:1:2::1"), net("2001:db8:1:3::1"));
        assert_eq!(house("::ffff:192.0.2.1"), house("192.0.2.1"), "one address, two spellings");
    }

    #[test]
    fn the_table_is_bounded() {
        let mut buckets = Buckets::new();
        let now = Instant::now();
        for number in 0..20_000_u32 {
            buckets.take(Source::house(Ipv4Addr::from_bits(number).into()), HOUSE, now);
        }
        assert_eq!(buckets.0.len(), BUCKETS_MAX.get());
    }
}
