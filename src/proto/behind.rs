//! What is behind some events of a graph and not behind others: what one server lacks of a room, as
//! another one finds it. Pure: whoever keeps the events reads them.
//!
//! The walk goes down an order in which each event stands behind its parents, as a timeline does. So
//! an event comes up once all that follow it have, and is known then to be had or not.
//!
//! Invariants: what is found is exact, and comes parents first; the walk ends where nothing is left that
//! is wanted and may not be had, and at the latest after [`Behind::MOST`] events.

use std::{
    collections::{BinaryHeap, HashMap, HashSet},
    hash::Hash,
};

/// An event, as the walk looks at it.
#[derive(Debug, Clone)]
pub struct Node<I, O> {
    /// Where it stands; nothing for one that has no place in the order.
    pub order: Option<O>,
    /// What it follows.
    pub prev: Vec<I>,
}

#[derive(Debug)]
struct Seen<I> {
    prev: Vec<I>,
    is_wanted: bool,
    is_had: bool,
    is_over: bool,
}

/// When an event comes up: by its place. One that has none comes up after the one that led to it.
type Turn<I, O> = (Option<O>, bool, I);

/// A walk.
#[derive(Debug)]
pub struct Behind<I, O> {
    seen: HashMap<I, Seen<I>>,
    queue: BinaryHeap<Turn<I, O>>,
    /// Events in the queue that are wanted, and not known to be had.
    open: usize,
    steps: usize,
    /// What is not had, children first.
    found: Vec<I>,
}

impl<I: Hash + Ord + Clone, O: Ord + Copy> Behind<I, O> {
    /// Events that a walk looks at.
    pub const MOST: usize = 100_000;

    /// Begins a walk from what is wanted down to what is had. `read` returns an event that is here.
    pub fn begin<E>(
        wanted: &[I],
        had: &[I],
        mut read: impl FnMut(&I) -> Result<Option<Node<I, O>>, E>,
    ) -> Result<Self, E> {
        let (seen, queue) = (HashMap::new(), BinaryHeap::new());
        let mut walk = Self { seen, queue, open: 0, steps: 0, found: Vec::new() };
        for (ids, is_had) in [(had, true), (wanted, false)] {
            for id in ids {
                walk.reach(id, is_had, None, &mut read)?;
            }
        }
        Ok(walk)
    }

    /// Goes on for some events. Tells whether the walk is over.
    pub fn go_on<E>(
        &mut self,
        events: usize,
        mut read: impl FnMut(&I) -> Result<Option<Node<I, O>>, E>,
    ) -> Result<bool, E> {
        for _ in 0..events {
            if self.open == 0 || self.steps >= Self::MOST {
                return Ok(true);
            }
            let Some((turn, _, id)) = self.queue.pop() else { return Ok(true) };
            self.steps += 1;
            let Some(seen) = self.seen.get_mut(&id) else { continue };
            seen.is_over = true;
            let (is_had, prev) = (seen.is_had, seen.prev.clone());
            if seen.is_wanted && !is_had {
                self.open -= 1;
                self.found.push(id);
            }
            for prev in &prev {
                self.reach(prev, is_had, turn, &mut read)?;
            }
        }
        Ok(self.open == 0 || self.steps >= Self::MOST)
    }

    fn reach<E>(
        &mut self,
        id: &I,
        is_had: bool,
        child: Option<O>,
        read: &mut impl FnMut(&I) -> Result<Option<Node<I, O>>, E>,
    ) -> Result<(), E> {
        if let Some(seen) = self.seen.get_mut(id) {
            let was_open = seen.is_wanted && !seen.is_had;
            seen.is_had |= is_had;
            seen.is_wanted |= !is_had;
            if !seen.is_over {
                let is_open = seen.is_wanted && !seen.is_had;
                self.open = self.open + usize::from(is_open) - usize::from(was_open);
            }
            return Ok(());
        }
        let Some(Node { order, prev }) = read(id)? else { return Ok(()) };
        self.queue.push((order.or(child), order.is_some(), id.clone()));
        self.open += usize::from(!is_had);
        let seen = Seen { prev, is_wanted: !is_had, is_had, is_over: false };
        self.seen.insert(id.clone(), seen);
        Ok(())
    }

    /// Returns the first events that were found, parents first, and tells whether there are more.
    pub fn first(&self, most: usize) -> (Vec<I>, bool) {
        let found: HashSet<&I> = self.found.iter().collect();
        let (mut given, mut given_order) = (HashSet::new(), Vec::new());
        // In their order parents come first. What has no place in it may come up before them, and so may
        // what it follows.
        for id in self.found.iter().rev() {
            let mut stack = vec![(id, false)];
            while let Some((id, parents_are_given)) = stack.pop() {
                if given_order.len() >= most {
                    return (given_order, self.found.len() > most);
                }
                if parents_are_given {
                    if given.insert(id) {
                        given_order.push(id.clone());
                    }
                    continue;
                }
                if given.contains(id) {
                    continue;
                }
                stack.push((id, true));
                let parents = self.seen.get(id).into_iter().flat_map(|seen| &seen.prev);
                let due = parents.filter(|id| found.contains(id) && !given.contains(*id));
                stack.extend(due.map(|id| (id, false)));
            }
        }
        (given_order, false)
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, convert::Infallible};

    use proptest::prelude::*;

    use super::*;

    /// What each event follows, and which have a place.
    type Graph = Vec<(Vec<usize>, bool)>;

    fn walk(graph: &Graph, wanted: &[usize], had: &[usize], page: usize) -> (Vec<usize>, bool) {
        let read = |id: &usize| -> Result<_, Infallible> {
            let node = graph.get(*id);
            let place = |placed: bool| placed.then_some(*id);
            Ok(node.map(|(prev, placed)| Node { order: place(*placed), prev: prev.clone() }))
        };
        let mut walk = Behind::begin(wanted, had, read).unwrap();
        while !walk.go_on(3, read).unwrap() {}
        walk.first(page)
    }

    fn ancestors(graph: &Graph, of: &[usize]) -> BTreeSet<usize> {
        let (mut all, mut todo) = (BTreeSet::new(), of.to_vec());
        while let Some(id) = todo.pop() {
            if id < graph.len() && all.insert(id) {
                todo.extend(&graph[id].0);
            }
        }
        all
    }

    fn graphs() -> impl Strategy<Value = Graph> {
        let node = (proptest::collection::vec(1_usize..6, 0..3), 0..10_u8);
        proptest::collection::vec(node, 1..60).prop_map(|nodes| {
            let node = |(id, (back, place)): (usize, (Vec<usize>, u8))| {
                let prev: BTreeSet<usize> =
                    back.iter().filter_map(|it| id.checked_sub(*it)).collect();
                (prev.into_iter().collect(), place > 0)
            };
            nodes.into_iter().enumerate().map(node).collect()
        })
    }

    proptest! {
        #[test]
        fn what_is_missing_is_found_and_no_more_and_parents_come_first(
            mut graph in graphs(),
            wanted in proptest::collection::vec(0_usize..60, 1..4),
            had in proptest::collection::vec(0_usize..60, 0..4),
            page in 1_usize..80,
            all_placed in any::<bool>(),
        ) {
            if all_placed {
                graph.iter_mut().for_each(|(_, placed)| *placed = true);
            }
            let (all, is_cut) = walk(&graph, &wanted, &had, usize::MAX);
            prop_assert!(!is_cut);
            let has = ancestors(&graph, &had);
            let lacks: BTreeSet<usize> =
                ancestors(&graph, &wanted).difference(&has).copied().collect();
            let found: BTreeSet<usize> = all.iter().copied().collect();
            prop_assert_eq!(found.len(), all.len(), "nothing twice");
            prop_assert!(found.is_superset(&lacks), "{:?} {:?}", found, lacks);
            if all_placed {
                prop_assert_eq!(&found, &lacks);
            }
            for (place, id) in all.iter().enumerate() {
                for prev in &graph[*id].0 {
                    prop_assert!(!found.contains(prev) || all[..place].contains(prev));
                }
            }
            let (first, is_more) = walk(&graph, &wanted, &had, page);
            prop_assert_eq!(&all[..page.min(all.len())], &first[..]);
            prop_assert_eq!(is_more, page < all.len());
        }
    }

    #[test]
    fn a_short_gap_in_a_long_history_is_a_short_walk() {
        let graph: Graph = (0..1_000_000_usize)
            .map(|id| (id.checked_sub(1).into_iter().collect(), true))
            .collect();
        let mut reads = 0;
        let mut read = |id: &usize| -> Result<_, Infallible> {
            reads += 1;
            Ok(Some(Node { order: Some(*id), prev: graph[*id].0.clone() }))
        };
        let mut walk = Behind::begin(&[999_999], &[999_990], &mut read).unwrap();
        while !walk.go_on(10, &mut read).unwrap() {}
        assert_eq!(walk.first(usize::MAX), ((999_991..1_000_000).collect(), false));
        assert!(reads < 30, "{reads}");
        // And one that nothing is had of ends too.
        let mut read = |id: &usize| -> Result<_, Infallible> {
            Ok(Some(Node { order: Some(*id), prev: graph[*id].0.clone() }))
        };
        let mut walk = Behind::begin(&[999_999], &[], &mut read).unwrap();
        assert!(walk.go_on(usize::MAX, &mut read).unwrap());
        assert_eq!(walk.first(usize::MAX).0.len(), Behind::<usize, usize>::MOST);
    }
}
