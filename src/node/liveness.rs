//! Whether all parts of the node get on with their work, by what they answer and not by whether
//! they are there.
//!
//! Two look. The Node asks every part once a second; a part that does not answer for
//! [`limits::SILENT`] ends the node, in order as far as the others let it. And since the Node runs
//! on a thread that can be hung itself, a thread that does nothing else looks whether the Node
//! looks. Both count looks and not time: who was stopped or asleep with the whole machine has
//! missed none.

use std::{
    io,
    process::exit,
    sync::{
        Arc, Weak,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

use crate::{actors::beat::Silent, config::limits};

/// How often is looked.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long the last words of a node that hangs may take: standard error can be what hangs.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Looks without an answer until a part counts as hung.
fn looks() -> u32 {
    u32::try_from(limits::SILENT.as_secs() / LOOK_EVERY.as_secs()).unwrap_or(u32::MAX)
}

/// What is known of each part. Pure: time is the number of looks.
#[derive(Debug)]
pub(super) struct Liveness {
    parts: Vec<Part>,
}

#[derive(Debug)]
struct Part {
    name: &'static str,
    /// Looks since it was asked, until it answers.
    asked: Option<u32>,
}

impl Liveness {
    /// Begins with parts of which each is to be asked.
    pub(super) fn new(names: impl IntoIterator<Item = &'static str>) -> Self {
        Self { parts: names.into_iter().map(|name| Part { name, asked: None }).collect() }
    }

    /// Looks once. Returns who is to be asked now: who answered what was asked before.
    pub(super) fn look(&mut self) -> Vec<usize> {
        let mut ask = Vec::new();
        for (at, part) in self.parts.iter_mut().enumerate() {
            match &mut part.asked {
                Some(looks) => *looks = looks.saturating_add(1),
                None => {
                    part.asked = Some(0);
                    ask.push(at);
                }
            }
        }
        ask
    }

    /// A part answered.
    pub(super) fn answered(&mut self, part: usize) {
        if let Some(part) = self.parts.get_mut(part) {
            part.asked = None;
        }
    }

    /// Returns who does not answer, and for how long.
    pub(super) fn silent(&self) -> Vec<Silent> {
        let silent = self.parts.iter().filter_map(|part| {
            let seconds = part.asked.filter(|looks| *looks > 0)?;
            Some(Silent { part: part.name, seconds })
        });
        silent.collect()
    }

    /// Returns a part that has not answered for too long.
    pub(super) fn hung(&self) -> Option<&'static str> {
        let hung = self.parts.iter().find(|part| part.asked.is_some_and(|asked| asked >= looks()));
        hung.map(|part| part.name)
    }
}

/// How often the Node has looked; whoever lets go of it calls the watch off.
#[derive(Debug)]
pub(super) struct Looks(Arc<AtomicU32>);

impl Looks {
    /// Starts the thread that ends the process with `code` when nobody counts any more.
    pub(super) fn watched(code: i32) -> io::Result<Self> {
        let counter = Arc::new(AtomicU32::new(0));
        let watched = Arc::downgrade(&counter);
        thread::Builder::new().name("watchdog".to_owned()).spawn(move || {
            if stands_still(&watched, looks(), LOOK_EVERY) {
                // Where the log itself hangs, nothing is said.
                let _ = thread::Builder::new().spawn(|| {
                    log::error!(
                        "the main thread has not got on for {} s; this node ends",
                        limits::SILENT.as_secs()
                    );
                });
                thread::sleep(LAST_WORDS);
                exit(code);
            }
        })?;
        Ok(Self(counter))
    }

    /// Shows that the Node looks.
    pub(super) fn count(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Returns whether the counter stands still for `looks` looks; `false` when it is gone.
fn stands_still(counter: &Weak<AtomicU32>, looks: u32, every: Duration) -> bool {
    let (mut last, mut same) = (None, 0);
    while same < looks {
        thread::sleep(every);
        let Some(counter) = counter.upgrade() else { return false };
        let now = Some(counter.load(Ordering::Relaxed));
        same = if now == last { same + 1 } else { 0 };
        last = now;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_answers_is_asked_again_and_who_does_not_is_hung() {
        let mut liveness = Liveness::new(["Store", "RoomState"]);
        assert_eq!(liveness.look(), [0, 1]);
        assert!(liveness.silent().is_empty(), "they were asked just now");
        for look in 1..looks() {
            liveness.answered(0);
            assert_eq!(liveness.look(), [0], "a part is asked once until it answers");
            assert_eq!(liveness.silent(), [Silent { part: "RoomState", seconds: look }]);
            assert_eq!(liveness.hung(), None);
        }
        liveness.look();
        assert_eq!(liveness.hung(), Some("RoomState"));
        liveness.answered(1);
        assert_eq!(liveness.hung(), None, "late is not never");
        liveness.answered(7);
    }

    #[test]
    fn a_counter_that_stands_still_is_noticed_and_one_that_is_gone_is_not() {
        let every = Duration::from_millis(5);
        let looks = Looks(Arc::new(AtomicU32::new(0)));
        let watched = Arc::downgrade(&looks.0);
        assert!(stands_still(&watched, 3, every));
        let watch = thread::spawn(move || stands_still(&watched, 400, every));
        looks.count();
        drop(looks);
        assert!(!watch.join().unwrap());
    }
}
