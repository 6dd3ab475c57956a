//! The one thing that leases are for, whatever is late, dies, or leads: who was declared dead holds none.

use std::collections::{BTreeMap, BTreeSet};

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const TIMEOUT: Duration = Duration::from_millis(1000);
const NODES: u64 = 2;

#[derive(Clone, Copy, Debug)]
enum Event {
    /// A node asks whoever leads. The request takes so long, and the answer.
    Asks { node: NodeId, there: u64, back: u64 },
    /// The leader looks who is overdue, and the group declares those dead.
    Looks,
    /// Another leads.
    Elects,
    /// A node joins again, in another life.
    Joins { node: NodeId },
}

enum Message {
    Ask { from: Origin, leader: usize, sent_at: u64, back: u64 },
    Granted { node: NodeId, sent_at: u64, length: Duration },
}

/// A node, and how fast its clock is in percent of the leaders'.
struct Node {
    generation: u64,
    holder: Holder,
    speed: u64,
}

struct Group {
    start: Instant,
    /// Milliseconds.
    now: u64,
    nodes: BTreeMap<NodeId, Node>,
    /// All that ever led; the last one does.
    leaders: Vec<Granter>,
    led_since: u64,
    messages: BTreeMap<(u64, u64), Message>,
    sent: u64,
    /// Lives that were declared dead.
    dead: BTreeSet<(NodeId, u64)>,
}

impl Group {
    fn new(speeds: &[u64]) -> Self {
        let node = |speed: &u64| Node { generation: 1, holder: Holder::new(), speed: *speed };
        let nodes = (1..).zip(speeds.iter().map(node)).collect();
        let mut group = Self {
            start: Instant::now(),
            now: 0,
            nodes,
            leaders: Vec::new(),
            led_since: 0,
            messages: BTreeMap::new(),
            sent: 0,
            dead: BTreeSet::new(),
        };
        group.elect();
        group
    }

    fn at(&self, millis: u64) -> Instant {
        self.start + Duration::from_millis(millis)
    }

    /// The same moment by the node's clock.
    fn by(&self, node: &Node, millis: u64) -> Instant {
        self.at(millis * node.speed / 100)
    }

    fn leader(&mut self) -> &mut Granter {
        self.leaders.last_mut().expect("one leads")
    }

    fn send(&mut self, at: u64, message: Message) {
        self.sent += 1;
        self.messages.insert((at, self.sent), message);
    }

    /// One that knows who is in the group, and which lives are over.
    fn elect(&mut self) {
        let now = self.at(self.now);
        let mut granter = Granter::new(now, TIMEOUT);
        for (node, it) in &self.nodes {
            granter.watch(Origin { node: *node, generation: it.generation }, now);
        }
        for (node, generation) in &self.dead {
            granter.condemn(Origin { node: *node, generation: *generation });
        }
        self.led_since = self.now;
        self.leaders.push(granter);
    }

    /// Lets time pass, with the messages that arrive meanwhile.
    fn passes(&mut self, millis: u64) -> Result<(), TestCaseError> {
        let until = self.now + millis;
        while let Some(entry) = self.messages.first_entry().filter(|it| it.key().0 <= until) {
            let ((at, _), message) = entry.remove_entry();
            self.now = at;
            match message {
                // One that leads no more may still have had its quorum, for what was sent before.
                Message::Ask { from, leader, sent_at, back } => {
                    let now = self.at(at);
                    if let Some(length) = self.leaders[leader].grant(from, now) {
                        let node = from.node;
                        self.send(at + back, Message::Granted { node, sent_at, length });
                    }
                }
                Message::Granted { node, sent_at, length } => {
                    let sent = self.by(&self.nodes[&node], sent_at);
                    let node = self.nodes.get_mut(&node).expect("a node");
                    node.holder.granted(sent, length);
                }
            }
            self.holds()?;
        }
        self.now = until;
        self.holds()
    }

    /// Nobody holds a lease in a life that was declared dead.
    fn holds(&self) -> Result<(), TestCaseError> {
        for (name, node) in &self.nodes {
            let is_dead = self.dead.contains(&(*name, node.generation));
            let holds = node.holder.holds(self.by(node, self.now));
            prop_assert!(!(is_dead && holds), "{} acts and is dead at {}", name, self.now);
        }
        Ok(())
    }

    fn happens(&mut self, event: Event) -> Result<(), TestCaseError> {
        match event {
            Event::Asks { node, there, back } => {
                let from = Origin { node, generation: self.nodes[&node].generation };
                let (leader, sent_at) = (self.leaders.len() - 1, self.now);
                self.send(self.now + there, Message::Ask { from, leader, sent_at, back });
            }
            Event::Looks => {
                let now = self.at(self.now);
                for overdue in self.leader().overdue(now) {
                    let Origin { node, generation } = overdue;
                    let has_led = self.now - self.led_since;
                    prop_assert!(has_led >= 1000, "it has led for {} ms", has_led);
                    prop_assert!(self.dead.insert((node, generation)), "named twice");
                    prop_assert_eq!(self.leader().grant(overdue, now), None);
                }
            }
            Event::Elects => self.elect(),
            Event::Joins { node } => {
                let now = self.at(self.now);
                let it = self.nodes.get_mut(&node).expect("a node");
                it.generation += 1;
                it.holder.revoke();
                let joined = Origin { node, generation: it.generation };
                self.leader().watch(joined, now);
            }
        }
        self.holds()
    }
}

/// Most requests take no time, and some take longer than a lease lasts.
fn delays() -> impl Strategy<Value = u64> {
    prop_oneof![3 => 0..30_u64, 1 => 0..1500_u64]
}

fn events() -> impl Strategy<Value = Vec<(u64, Event)>> {
    let nodes = || 1..=NODES;
    let event = prop_oneof![
        8 => (nodes(), delays(), delays())
            .prop_map(|(node, there, back)| Event::Asks { node, there, back }),
        8 => Just(Event::Looks),
        1 => Just(Event::Elects),
        1 => nodes().prop_map(|node| Event::Joins { node }),
    ];
    vec((0..300_u64, event), 1..80)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    /// Requests and answers come late and out of order, leaders follow one another, nodes begin other lives, and
    /// their clocks are up to a tenth slower than the leader's, or faster.
    #[test]
    fn who_was_declared_dead_holds_no_lease_and_gets_none(
        events in events(),
        speeds in vec(91..130_u64, NODES as usize),
    ) {
        let mut group = Group::new(&speeds);
        for (after, event) in events {
            group.passes(after)?;
            group.happens(event)?;
        }
        group.passes(5_000)?;
    }

    /// A node that asks every third of the timeout is never overdue, whoever leads; and one that has asked for the
    /// last time is, once.
    #[test]
    fn who_asks_is_never_overdue_and_who_is_silent_is_once(
        elections in vec(0..4000_u64, 0..3),
        last in 0..4000_u64,
    ) {
        let mut group = Group::new(&[100]);
        // When the leader last had to do with it, and when it was named.
        let (mut since, mut named) = (0, Vec::new());
        for now in 0..8000_u64 {
            group.passes(1)?;
            if elections.contains(&now) {
                group.elect();
                since = now;
            }
            if now % 333 == 0 && now <= last {
                group.happens(Event::Asks { node: 1, there: 1, back: 1 })?;
                since = now;
            }
            if now % 50 == 0 {
                group.happens(Event::Looks)?;
            }
            if named.len() < group.dead.len() {
                prop_assert!((since + 1000..=since + 1060).contains(&now), "at {}, {}", now, since);
                named.push(now);
            }
        }
        prop_assert_eq!(named.len(), 1);
    }
}
