//! What must be so once all was well for long enough.

use std::collections::{BTreeMap, BTreeSet};

use ruma::OwnedEventId;

use super::{
    node::{Behaves, Node},
    world::World,
};

impl World {
    /// What must be so in the end, of those who are honest: what a liar alone has is not theirs.
    pub(super) fn check(&self) {
        let honest: Vec<(usize, &Node)> =
            self.nodes.iter().enumerate().filter(|(_, node)| node.way == Behaves::Honest).collect();
        let (_, first) = honest[0];
        let all: BTreeSet<&OwnedEventId> =
            honest.iter().flat_map(|(_, node)| node.timeline.iter().skip(self.before)).collect();
        for (number, node) in &honest {
            self.check_events(*number, node, &all);
            assert!(node.replica.view() == first.replica.view(), "node {number} sees another room");
            check_order(*number, node);
        }
        self.check_owed(&honest);
        self.check_work(&honest);
    }

    fn check_events(&self, number: usize, node: &Node, all: &BTreeSet<&OwnedEventId>) {
        for id in all {
            let prev = &self.said[*id].pdu.prev_events;
            let prev: Vec<_> = prev.iter().map(|prev| (prev, node.has(prev))).collect();
            assert!(
                node.has(id),
                "node {number} lacks {id} by {} behind {prev:?}; gaps {:?}, parked {}, pending {:?}, \
                 {:?}, {:?}",
                self.said[*id].pdu.sender,
                node.replica.gaps(),
                node.replica.parked(),
                node.pending,
                node.machine,
                node.filling,
            );
        }
        let gaps = node.replica.gaps();
        assert!(gaps.is_empty(), "node {number} has gaps: {gaps:?}");
        // What waits for ever is of somebody who keeps back what comes before it.
        for pdu in node.replica.waiting() {
            let by = &self.nodes[self.index[pdu.sender.server_name()]];
            let id = &pdu.event_id;
            assert!(by.way != Behaves::Honest && !node.has(id), "{id} waits on node {number}");
        }
        let is_idle = node.machine.is_idle() || !node.pending.is_empty();
        assert!(is_idle, "node {number} is at work still: {:?}", node.machine);
    }

    /// What was taken over arrived, in its order, each once; nothing is owed to who is there.
    fn check_owed(&self, honest: &[(usize, &Node)]) {
        let takes = |node: &Node| !matches!(node.way, Behaves::Silent | Behaves::Withholds);
        for (number, node) in honest {
            for (to, other) in self.nodes.iter().enumerate().filter(|(_, node)| takes(node)) {
                let owed = node.outbox.owed_to(&self.names[to]);
                assert_eq!(owed, 0, "node {number} owes to {to}");
                let due = self.owed.get(&(*number, to)).cloned().unwrap_or_default();
                let told = other.told.get(number).cloned().unwrap_or_default();
                assert_eq!(told, due, "what {number} owed to {to}");
            }
        }
    }

    /// What came twice, and what was asked, is bounded by what was said and by whom one met.
    fn check_work(&self, honest: &[(usize, &Node)]) {
        let count = self.nodes.len();
        for (number, node) in honest {
            let bound = 4 * self.said.len() + 20 * count;
            assert!(node.came <= bound, "{} of {bound} events came to node {number}", node.came);
            let bound = 60 * count + 6 * self.said.len();
            let requests = node.requests;
            assert!(requests <= bound, "{requests} of {bound} requests of node {number}");
            // Each is tried when its server is met, and else ever more seldom.
            let owed: usize =
                (0..count).filter_map(|to| self.owed.get(&(*number, to))).map(Vec::len).sum();
            let bound = 60 * owed + 10;
            assert!(node.tries <= bound, "{} of {bound} tries of node {number}", node.tries);
        }
    }

    /// What it took.
    pub(super) fn figures(&self) -> String {
        let sum = |of: fn(&Node) -> usize| self.nodes.iter().map(of).sum::<usize>();
        let ways = self.nodes.iter().fold(BTreeMap::<String, usize>::new(), |mut ways, node| {
            *ways.entry(format!("{:?}", node.way)).or_default() += 1;
            ways
        });
        let said = self.said.len() - self.before;
        format!(
            "{said} events, {} messages, {} requests, {} events came (of {}), {} jumps, {} owed, \
             {} tries, {ways:?}",
            self.messages,
            sum(|node| node.requests),
            sum(|node| node.came),
            said * (self.nodes.len() - 1),
            sum(|node| node.jumps),
            self.owed.values().map(Vec::len).sum::<usize>(),
            sum(|node| node.tries),
        )
    }
}

/// Each event stands once, and behind what comes before it.
fn check_order(number: usize, node: &Node) {
    let here: BTreeSet<_> = node.timeline.iter().collect();
    let mut before = BTreeSet::new();
    for id in &node.timeline {
        let pdu = &node.replica.known_event(id).unwrap().pdu;
        for prev in pdu.prev_events.iter().filter(|prev| here.contains(prev)) {
            assert!(before.contains(prev), "node {number}: {id} stands before {prev}");
        }
        assert!(before.insert(id), "node {number}: {id} stands twice");
    }
}
