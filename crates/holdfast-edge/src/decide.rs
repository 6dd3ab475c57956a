//! Which node a request goes to, and what happens when a sending of it has ended.
//!
//! Pure: how nodes stand and how long something has lasted are arguments. The rules:
//!
//! * A node is chosen by how it stands, then by how often it failed this very request, then by how
//!   much it has to do. When none is ready, any that lives is better than none, and a port that
//!   merely accepts is the last resort.
//! * A request is sent a second time only when its first sending has ended without an answer, or
//!   when the node that has it no longer looks alive and another one does.
//! * A request that has taken several connections with it is not sent to yet another node: it may
//!   be what kills them.

use std::time::Duration;

/// How a node looks from here. The order is the order of choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Standing {
    /// Says that it is ready.
    Ready,
    /// Lives and says that it is not ready: it drains, or its cluster has no leader.
    Live,
    /// Speaks HTTP, though nothing that a node should say.
    Answers,
    /// Left one probe unanswered.
    Silent,
    /// Leaves probes unanswered: frozen or cut off, with its port still open.
    Frozen,
    /// Has closed its port after it said that it was not ready; what it has, it finishes.
    Leaving,
    /// Has closed its port while it looked alive. If it drains, it finishes what it has; if its process
    /// is gone, its system has cut what it had. So nothing that is there is cut from here.
    Closed,
    /// Nothing is there, or its port was closed while it did not look alive.
    Dead,
    /// Not probed yet.
    Unknown,
}

/// What a probe found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Probed {
    Ready,
    NotReady,
    Odd,
    /// A connection was there and nothing came over it in time.
    Unanswered,
    /// No connection in time.
    Unreachable,
    Refused,
}

/// A node as one request sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate {
    pub(crate) standing: Standing,
    /// Requests of all clients that it has from here.
    pub(crate) in_flight: usize,
    /// How often it has failed this request.
    pub(crate) failures: u32,
    /// Whether it has this request right now.
    pub(crate) has_it: bool,
}

/// What has happened to a request so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct History {
    /// Sendings that ended with a broken connection after the request was written.
    pub(crate) lost: u32,
    /// Sendings that nobody can have seen.
    pub(crate) unsent: u32,
    /// Nodes that refused it for their limit of connections.
    pub(crate) full: u32,
    /// Whether the pause after the last failure is over.
    pub(crate) rested: bool,
    /// Whether it has been held for as long as requests are, and no node was alive meanwhile.
    pub(crate) held_out: bool,
    /// Whether the deadline of the whole request has passed.
    pub(crate) overdue: bool,
}

/// What to do with a request now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Send it to this node.
    Send(usize),
    /// Pause, then decide again.
    Rest(Duration),
    /// Nothing, until a sending ends, a node changes or a time is over.
    Wait,
    /// Answer it here.
    GiveUp(Why),
}

/// Why a request is answered here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// No node has been alive for as long as requests are held.
    NoNode,
    /// Too many sendings of it have failed.
    Failing,
    /// Every node is at its limit of connections.
    Full,
    /// Its deadline has passed.
    Deadline,
    /// The edge ends.
    Ending,
}

/// Broken connections that one request may leave behind.
const MOST_LOST: u32 = 8;
/// Sendings that never reached anybody.
const MOST_UNSENT: u32 = 64;
/// Refusals for a node's limit.
const MOST_FULL: u32 = 6;

const FIRST_REST: Duration = Duration::from_millis(50);
const LONGEST_REST: Duration = Duration::from_secs(1);

// === impl Standing ===

impl Standing {
    const ALL: [Self; 9] = [
        Self::Ready,
        Self::Live,
        Self::Answers,
        Self::Silent,
        Self::Frozen,
        Self::Leaving,
        Self::Closed,
        Self::Dead,
        Self::Unknown,
    ];

    pub(crate) fn from_u8(value: u8) -> Self {
        Self::ALL.get(usize::from(value)).copied().unwrap_or(Self::Unknown)
    }

    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Live => "not ready",
            Self::Answers => "odd",
            Self::Silent => "silent",
            Self::Frozen => "frozen",
            Self::Leaving => "leaving",
            Self::Closed | Self::Dead => "dead",
            Self::Unknown => "unknown",
        }
    }

    /// Whether a request may be sent there if there is nothing better.
    fn accepts(self) -> bool {
        self <= Self::Frozen
    }

    /// Whether new requests are answered there.
    pub(crate) fn is_alive(self) -> bool {
        self <= Self::Answers
    }

    /// Whether a request that is there is waited for.
    fn is_trusted(self) -> bool {
        self.is_alive() || matches!(self, Self::Leaving | Self::Closed)
    }

    /// Whether streams from there are over. A node that was frozen for longer than the failover
    /// timeout cuts its clients itself, so a single late answer ends none.
    pub(crate) fn ends_streams(self) -> bool {
        matches!(self, Self::Frozen | Self::Dead)
    }

    /// How the node stands after this probe.
    pub(crate) fn after(self, probed: Probed) -> Self {
        match (probed, self) {
            (Probed::Ready, _) => Self::Ready,
            (Probed::NotReady, _) => Self::Live,
            (Probed::Odd, _) => Self::Answers,
            (Probed::Unanswered, Self::Ready | Self::Live | Self::Answers) => Self::Silent,
            (Probed::Unanswered, _) => Self::Frozen,
            (Probed::Unreachable, Self::Ready | Self::Live | Self::Answers) => Self::Silent,
            (Probed::Unreachable | Probed::Refused, Self::Leaving) => Self::Leaving,
            (Probed::Refused, Self::Live) => Self::Leaving,
            (Probed::Refused, Self::Ready | Self::Answers | Self::Closed) => Self::Closed,
            (Probed::Unreachable | Probed::Refused, _) => Self::Dead,
        }
    }
}

/// The node for the next sending, if one can be had. `turn` spreads what is equal.
pub(crate) fn pick(nodes: &[Candidate], turn: usize) -> Option<usize> {
    let many = nodes.len();
    (0..many)
        .map(|step| (turn % many + step) % many)
        .filter(|index| nodes[*index].standing.accepts() && !nodes[*index].has_it)
        .min_by_key(|index| {
            let node = &nodes[*index];
            (node.standing, node.failures, node.in_flight)
        })
}

/// What to do with a request now.
pub(crate) fn step(history: &History, nodes: &[Candidate], turn: usize) -> Step {
    if history.overdue {
        return Step::GiveUp(Why::Deadline);
    }
    let sent = nodes.iter().any(|node| node.has_it);
    if nodes.iter().any(|node| node.has_it && node.standing.is_trusted()) {
        return Step::Wait;
    }
    if history.held_out {
        return Step::GiveUp(Why::NoNode);
    }
    let tired = history.lost >= MOST_LOST || history.unsent >= MOST_UNSENT;
    if !sent && (tired || history.full >= MOST_FULL) {
        return Step::GiveUp(if tired { Why::Failing } else { Why::Full });
    }
    // While one has it, only a node that is better than that one is a reason to send it again.
    let next = pick(nodes, turn).filter(|next| !sent || nodes[*next].standing.is_alive());
    match next {
        Some(next) if nodes[next].failures > 0 && !history.rested => {
            Step::Rest(rest_after(nodes[next].failures))
        }
        Some(next) if !tired => Step::Send(next),
        _ => Step::Wait,
    }
}

/// The pause before a node gets a request again that it has failed.
fn rest_after(failures: u32) -> Duration {
    FIRST_REST.saturating_mul(1 << failures.saturating_sub(1).min(8)).min(LONGEST_REST)
}

#[cfg(test)]
mod tests {
    use super::Standing::{Answers, Closed, Dead, Frozen, Leaving, Live, Ready, Silent, Unknown};
    use super::*;

    fn node(standing: Standing, in_flight: usize) -> Candidate {
        Candidate { standing, in_flight, failures: 0, has_it: false }
    }

    fn failed(standing: Standing, failures: u32) -> Candidate {
        Candidate { failures, ..node(standing, 0) }
    }

    fn has(standing: Standing) -> Candidate {
        Candidate { has_it: true, ..node(standing, 1) }
    }

    #[test]
    fn the_best_standing_wins_then_the_fewest_failures_then_the_least_work() {
        let cases: &[(&[Candidate], Option<usize>)] = &[
            (&[node(Ready, 5), node(Ready, 2), node(Ready, 3)], Some(1)),
            (&[node(Live, 0), node(Ready, 90)], Some(1)),
            (&[failed(Ready, 1), node(Ready, 90)], Some(1)),
            (&[failed(Ready, 3), node(Live, 0)], Some(0)),
            // None is ready: any that lives, then any that accepts.
            (&[node(Silent, 0), node(Live, 9), node(Dead, 0)], Some(1)),
            (&[node(Frozen, 0), node(Answers, 9)], Some(1)),
            (&[node(Frozen, 0), node(Silent, 9)], Some(1)),
            (&[node(Dead, 0), node(Frozen, 7)], Some(1)),
            // Nothing is there, or would take anything.
            (&[node(Dead, 0), node(Leaving, 0), node(Unknown, 0)], None),
            (&[has(Ready), node(Dead, 0)], None),
        ];
        for (nodes, expected) in cases {
            assert_eq!(pick(nodes, 0), *expected, "{nodes:?}");
        }
    }

    #[test]
    fn equal_nodes_take_turns() {
        let nodes = [node(Ready, 0), node(Ready, 0), node(Ready, 0)];
        let picked: Vec<_> = (0..4).map(|turn| pick(&nodes, turn)).collect();
        assert_eq!(picked, [Some(0), Some(1), Some(2), Some(0)]);
    }

    #[test]
    fn a_request_is_sent_again_only_when_the_node_that_has_it_looks_worse_than_another() {
        let step = |nodes: &[Candidate]| step(&History::default(), nodes, 0);
        for trusted in [Ready, Live, Answers, Leaving] {
            assert_eq!(step(&[has(trusted), node(Ready, 0)]), Step::Wait, "{trusted:?}");
        }
        for lost in [Silent, Frozen, Dead] {
            assert_eq!(step(&[has(lost), node(Ready, 0)]), Step::Send(1), "{lost:?}");
            assert_eq!(step(&[has(lost), node(Live, 0)]), Step::Send(1), "{lost:?}");
            // Neither a node that looks no better, nor a third sending beside a good second one.
            assert_eq!(step(&[has(lost), node(Silent, 0)]), Step::Wait, "{lost:?}");
            assert_eq!(step(&[has(lost), has(Ready), node(Ready, 0)]), Step::Wait, "{lost:?}");
        }
    }

    #[test]
    fn a_node_that_failed_the_request_gets_it_again_after_a_pause() {
        let history = History { lost: 1, ..History::default() };
        assert_eq!(step(&history, &[failed(Ready, 1), node(Ready, 0)], 0), Step::Send(1));
        let alone = [failed(Ready, 1), node(Dead, 0)];
        assert_eq!(step(&history, &alone, 0), Step::Rest(FIRST_REST));
        let rested = History { rested: true, ..history };
        assert_eq!(step(&rested, &alone, 0), Step::Send(0));
        assert_eq!(rest_after(2), FIRST_REST * 2);
        assert_eq!(rest_after(u32::MAX), LONGEST_REST);
    }

    #[test]
    fn what_is_given_up_and_why() {
        let nobody = [node(Dead, 0)];
        let ready = [node(Ready, 0)];
        let none = History::default();
        let cases = [
            (none, &nobody, Step::Wait),
            (History { held_out: true, ..none }, &nobody, Step::GiveUp(Why::NoNode)),
            (History { lost: MOST_LOST - 1, ..none }, &ready, Step::Send(0)),
            (History { lost: MOST_LOST, ..none }, &ready, Step::GiveUp(Why::Failing)),
            (History { unsent: MOST_UNSENT, ..none }, &ready, Step::GiveUp(Why::Failing)),
            (History { full: MOST_FULL, ..none }, &ready, Step::GiveUp(Why::Full)),
            (History { overdue: true, ..none }, &ready, Step::GiveUp(Why::Deadline)),
            // A node that has it is waited for, however many have failed.
            (History { lost: MOST_LOST, ..none }, &[has(Ready)], Step::Wait),
            (History { lost: MOST_LOST, ..none }, &[has(Frozen)], Step::Wait),
            (History { held_out: true, ..none }, &[has(Frozen)], Step::GiveUp(Why::NoNode)),
            (History { held_out: true, ..none }, &[has(Leaving)], Step::Wait),
            (History { overdue: true, ..none }, &[has(Ready)], Step::GiveUp(Why::Deadline)),
        ];
        for (history, nodes, expected) in cases {
            assert_eq!(step(&history, nodes, 0), expected, "{history:?} {nodes:?}");
        }
    }

    #[test]
    fn probes_move_a_node() {
        use Probed::{NotReady, Odd, Refused, Unanswered, Unreachable};
        let cases = [
            (Unknown, Probed::Ready, Ready),
            (Frozen, Probed::Ready, Ready),
            (Ready, NotReady, Live),
            (Ready, Odd, Answers),
            (Ready, Unanswered, Silent),
            (Silent, Unanswered, Frozen),
            (Frozen, Unanswered, Frozen),
            (Dead, Unanswered, Frozen),
            (Ready, Refused, Closed),
            (Closed, Refused, Closed),
            (Closed, Unreachable, Dead),
            (Silent, Refused, Dead),
            (Frozen, Refused, Dead),
            // It said that it was going: what it has, it finishes.
            (Live, Refused, Leaving),
            (Leaving, Refused, Leaving),
            (Leaving, Probed::Ready, Ready),
            (Ready, Unreachable, Silent),
            (Silent, Unreachable, Dead),
            (Unknown, Unreachable, Dead),
        ];
        for (before, probed, after) in cases {
            assert_eq!(before.after(probed), after, "{before:?} {probed:?}");
        }
    }

    #[test]
    fn a_standing_survives_its_number() {
        for standing in Standing::ALL {
            assert_eq!(Standing::from_u8(standing as u8), standing);
        }
        assert_eq!(Standing::from_u8(200), Unknown);
    }
}
