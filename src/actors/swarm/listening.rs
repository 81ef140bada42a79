//! Listening: on what was configured, or, where only the default is taken, beside it.

use libp2p::{Multiaddr, Swarm};

use super::{SwarmFailed, address, behaviour::Behaviour};
use crate::config::is_default_listen;

/// Listens. A configured address that cannot be had is an error; of the default ones, one is
/// enough, on another port where theirs is taken.
pub(super) fn listen(
    swarm: &mut Swarm<Behaviour>,
    addresses: &[Multiaddr],
    tcp_only: bool,
) -> Result<(), SwarmFailed> {
    let default = is_default_listen(addresses);
    let mut listening = false;
    let mut first_failure = None;
    for address in addresses {
        if tcp_only && address::is_udp(address) {
            if !default {
                log::warn!(address:%; "a private network is TCP only; not listening there");
            }
            continue;
        }
        let mut result = swarm.listen_on(address.clone());
        if let Err(error) = &result
            && default
        {
            let other = address::with_port(address, 0);
            let why = one_line(error);
            result = swarm.listen_on(other);
            if result.is_ok() {
                log::warn!(address:%, why; "the default port is taken; using another one");
            }
        }
        match result {
            Ok(_) => listening = true,
            Err(error) => {
                let failure = SwarmFailed { address: address.to_string(), why: one_line(&error) };
                if !default {
                    return Err(failure);
                }
                // A machine without IPv6, most likely.
                log::debug!(address:%, why = failure.why; "cannot listen");
                first_failure.get_or_insert(failure);
            }
        }
    }
    match first_failure {
        Some(failure) if !listening => Err(failure),
        _ => Ok(()),
    }
}

/// Returns the innermost cause of an error, in one line.
fn one_line(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}
