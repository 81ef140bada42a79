//! Which pieces of a file are asked of whom. Pure.
//!
//! The lowest come first, so that whoever waits can begin. Invariants: a piece is asked of two at most, and
//! of a second one only when no other is left to ask for; what failed is asked for again.

/// How many are asked for each piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Asked(u8),
    Here,
}

/// Pieces that are asked for together: the first, and how many.
pub(super) type Run = (u64, u64);

/// The pieces of a file.
#[derive(Debug)]
pub(super) struct Plan {
    pieces: Vec<State>,
    /// All before it are here.
    prefix: usize,
    here: usize,
}

impl Plan {
    /// Of so many pieces, of which some are here.
    pub(super) fn new(here: impl Iterator<Item = bool>) -> Self {
        let state = |here| if here { State::Here } else { State::Asked(0) };
        let pieces: Vec<State> = here.map(state).collect();
        let here = pieces.iter().filter(|state| **state == State::Here).count();
        let mut plan = Self { pieces, prefix: 0, here };
        plan.advance();
        plan
    }

    fn advance(&mut self) {
        while self.pieces.get(self.prefix) == Some(&State::Here) {
            self.prefix = self.prefix.saturating_add(1);
        }
    }

    /// How many are here from the first on.
    pub(super) fn prefix(&self) -> u64 {
        self.prefix as u64
    }

    pub(super) fn is_done(&self) -> bool {
        self.here == self.pieces.len()
    }

    /// Returns what to ask next, `most` pieces in a row: what nobody was asked for yet; else, where there are
    /// `several` to ask, what is on its way from one of them, which may be slow.
    pub(super) fn next(&mut self, most: u64, several: bool) -> Option<Run> {
        self.run(0, most).or_else(|| if several { self.run(1, most) } else { None })
    }

    fn run(&mut self, asked: u8, most: u64) -> Option<Run> {
        let rest = self.pieces.get_mut(self.prefix..)?;
        let start = rest.iter().position(|state| *state == State::Asked(asked))?;
        let row = rest.get_mut(start..)?.iter_mut();
        let row = row.take_while(|state| **state == State::Asked(asked));
        let mut count = 0_u64;
        for state in row.take(usize::try_from(most).unwrap_or(usize::MAX)) {
            *state = State::Asked(asked.saturating_add(1));
            count = count.saturating_add(1);
        }
        Some((self.prefix.saturating_add(start) as u64, count))
    }

    fn each(&mut self, (first, count): Run, change: impl Fn(State) -> State) {
        let first = usize::try_from(first).unwrap_or(usize::MAX);
        let rest = self.pieces.iter_mut().skip(first);
        for state in rest.take(usize::try_from(count).unwrap_or_default()) {
            let changed = change(*state);
            if changed == State::Here && *state != State::Here {
                self.here = self.here.saturating_add(1);
            }
            *state = changed;
        }
        self.advance();
    }

    /// These came and are right.
    pub(super) fn came(&mut self, run: Run) {
        self.each(run, |_| State::Here);
    }

    /// These did not come from one who was asked.
    pub(super) fn failed(&mut self, run: Run) {
        self.each(run, |state| match state {
            State::Asked(asked) => State::Asked(asked.saturating_sub(1)),
            State::Here => State::Here,
        });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn pieces_are_asked_for_in_order_and_at_the_end_of_a_second_one() {
        let mut plan = Plan::new([true, false, false, true, false, false].into_iter());
        assert_eq!(plan.prefix(), 1);
        assert_eq!(plan.next(4, true), Some((1, 2)), "as many as are in a row");
        assert_eq!(plan.next(1, true), Some((4, 1)));
        plan.failed((1, 2));
        assert_eq!(plan.next(1, true), Some((1, 1)), "again, the lowest first");
        plan.came((1, 1));
        assert_eq!(plan.prefix(), 2);
        assert_eq!((plan.next(4, true), plan.next(4, true)), (Some((2, 1)), Some((5, 1))));
        assert_eq!(plan.next(4, false), None, "one alone is not asked twice");
        // Nobody was not asked for: the slow ones are asked of another one too, and of no third.
        assert_eq!(
            (plan.next(4, true), plan.next(4, true), plan.next(4, true)),
            (Some((2, 1)), Some((4, 2)), None)
        );
        plan.came((4, 2));
        plan.came((2, 1));
        assert!(plan.is_done() && plan.next(4, true).is_none());
        plan.came((2, 1));
        plan.failed((2, 1));
        assert!(plan.is_done(), "said twice");
        assert!(Plan::new([].into_iter()).is_done());
    }

    proptest! {
        /// Whoever fails and whenever: all comes in the end, and nothing is asked of three at once.
        #[test]
        fn all_comes(here in prop::collection::vec(any::<bool>(), 1..40), luck in any::<[bool; 512]>()) {
            let mut plan = Plan::new(here.iter().copied());
            let (mut flying, mut luck) = (Vec::new(), luck.into_iter());
            for _ in 0..4000 {
                if plan.is_done() {
                    break;
                }
                match plan.next(3, true) {
                    Some(run) if flying.len() < 6 => flying.push(run),
                    next => {
                        flying.extend(next);
                        let run = flying.remove(0);
                        if luck.next().unwrap_or(true) { plan.came(run) } else { plan.failed(run) }
                    }
                }
                for piece in 0..here.len() as u64 {
                    let asked = flying.iter().filter(|(first, count)| (*first..first + count).contains(&piece));
                    prop_assert!(asked.count() <= 2);
                }
            }
            prop_assert!(plan.is_done());
            prop_assert_eq!(plan.prefix(), here.len() as u64);
        }
    }
}
