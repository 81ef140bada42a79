//! Ports that the router opened for us, and closing them in the end.

use std::time::Duration;

use futures::StreamExt as _;
use tokio::time::{Instant, sleep_until};

use super::{super::port_mapping::Event, EventLoop};

/// Longest wait for a router to close our ports: the node has 5 s to stop.
const LEAVE_WAIT: Duration = Duration::from_secs(1);

impl EventLoop {
    pub(super) fn on_port_mapping(&mut self, event: &Event) {
        match event {
            Event::Opened(at) => {
                log::info!("the router sends to us what comes to {at}");
                self.reach.mapped(at, true);
                // It may have been tested before the router opened it.
                self.retests.changed(std::time::Instant::now());
            }
            Event::Closed(at) => {
                log::info!("the router does not send to us any more what comes to {at}");
                self.reach.mapped(at, false);
            }
            Event::Ended => {}
        }
        self.weigh();
    }

    /// Has the router close our ports: else they stay open for whoever gets our address next.
    pub(super) async fn leave(mut self) {
        let Some(mapping) = self.swarm.behaviour_mut().port_mapping.as_mut() else { return };
        mapping.close();
        let end = Instant::now() + LEAVE_WAIT;
        loop {
            let mapping = self.swarm.behaviour().port_mapping.as_ref();
            if mapping.is_none_or(crate::actors::swarm::port_mapping::Behaviour::is_idle) {
                return;
            }
            tokio::select! {
                _ = self.swarm.select_next_some() => {}
                () = sleep_until(end) => {
                    log::debug!("a router did not close our ports in time");
                    return;
                }
            }
        }
    }
}
