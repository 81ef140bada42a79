//! Keeps the journal from growing for ever: of the oldest file, what is live still is written again
//! at the end, and then the file is removed.
//!
//! The oldest first, a portion a group of writes, so that nobody waits long. Invariants:
//!
//! - What is written again is the row as it is when its group is taken; a change in the same group
//!   counts more.
//! - A file is removed after all that was live in it stands in a later one, durable, and after the
//!   database has all that the file has.

use super::{
    database::{Changes, Database, Rows as _},
    flusher::Written,
    follower::Follower,
};

/// How far it is.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Idle,
    /// The follower reads the file.
    Reading,
    /// What is live of a portion waits for the next group, or is on its way.
    Keeping { file: u64, is_end: bool },
    /// It is written, and the next portion can be read.
    Kept { file: u64, is_end: bool },
    /// The file is to be removed with the next group.
    Removing { file: u64 },
    /// The file is damaged. What is in the journal stays.
    Stopped,
}

/// What is being written again.
#[derive(Debug, Default)]
pub(super) struct Compaction {
    state: State,
    /// What waits for the next group.
    kept: Changes,
    /// Whether the group on its way removes the file; none while none is on its way.
    on_its_way: Option<bool>,
}

/// The longest that a journal may be before its oldest file goes: twice what is live, and the file
/// that is being written with the one that is being given up.
pub(super) fn longest(live: u64, file: u64) -> u64 {
    live.saturating_add(file).saturating_mul(2)
}

impl Compaction {
    /// Does what can be done now.
    pub(super) fn advance(
        &mut self,
        database: &Database,
        journal: &Written,
        follower: &mut Follower,
        file_max: u64,
    ) {
        if let Some(old) = follower.take_old() {
            if old.file == 0 {
                self.state = State::Stopped;
                return;
            }
            for (key, value) in old.rows {
                // A row that cannot be read is not there for anybody; the file must not go then.
                let Ok(now) = database.get(&key) else {
                    self.state = State::Stopped;
                    return;
                };
                if !database.is_in_group(&key) && now.as_ref() == Some(&value) {
                    self.kept.insert(key, now);
                }
            }
            let (file, is_end) = (old.file, old.is_end);
            self.state = match self.kept.is_empty() {
                true => State::Kept { file, is_end },
                false => State::Keeping { file, is_end },
            };
        }
        let Some((oldest, last)) = &journal.oldest else { return };
        match self.state {
            State::Kept { file, is_end: true } => self.state = State::Removing { file },
            State::Kept { is_end: false, .. } if !follower.is_busy() => {
                self.state = State::Reading;
                follower.read(oldest.clone());
            }
            State::Idle
                if journal.len > longest(follower.followed().live, file_max)
                    && follower.followed().place.number >= *last
                    && !follower.is_busy() =>
            {
                self.state = State::Reading;
                follower.read(oldest.clone());
            }
            _ => {}
        }
    }

    /// Tells whether a group should be written though nobody waits for one.
    pub(super) fn has_work(&self) -> bool {
        !self.kept.is_empty() || matches!(self.state, State::Removing { .. })
    }

    /// Returns what goes with the next group: rows that are written again, and a file that goes.
    pub(super) fn take(&mut self) -> (Changes, Option<u64>) {
        let remove = match self.state {
            State::Removing { file } => Some(file),
            _ => None,
        };
        self.on_its_way = Some(remove.is_some());
        (std::mem::take(&mut self.kept), remove)
    }

    /// The group on its way is written.
    pub(super) fn written(&mut self) {
        let Some(removes) = self.on_its_way.take() else { return };
        self.state = match self.state {
            State::Keeping { file, is_end } if self.kept.is_empty() => State::Kept { file, is_end },
            State::Removing { .. } if removes => State::Idle,
            other => other,
        };
    }
}
