//! The coordinator's desk: the last report of each node, and when it came.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use holdfast_engine::breaker::Evidence;
use holdfast_engine::health::votes::{Vote, voters};
use holdfast_engine::replicated::{ClusterState, NodeId, Origin};
use tokio::time::Instant;

use crate::report::{Of, Others, Report, ServerPart};

/// What is older than this is of no use where a vote rests on it, says nothing of breakers, nor of what its node
/// does not know: its node is away, or the coordinator is.
pub(crate) const FRESH: Duration = Duration::from_secs(5);

/// What its checks said before this of an instance says nothing against what another node sees now: two reports have not
/// come. A machine that dies with a node and a primary on it would otherwise hold the others up.
const SPOKEN: Duration = Duration::from_secs(2);

#[derive(Default, Debug)]
pub(crate) struct Desk(Mutex<BTreeMap<NodeId, Heard>>);

#[derive(Debug)]
struct Heard {
    report: Report,
    at: Instant,
}

// === impl Heard ===

impl Heard {
    /// Whether it was heard lately, of this life of the member.
    fn is_fresh_of(&self, member: Origin) -> bool {
        self.report.generation == member.generation && self.at.elapsed() <= FRESH
    }
}

// === impl Desk ===

impl Desk {
    /// Takes a node's report in place of its last one.
    pub(crate) fn put(&self, from: NodeId, report: Report, at: Instant) {
        self.open().insert(from, Heard { report, at });
    }

    /// Forgets everything: it is of another time.
    pub(crate) fn clear(&self) {
        self.open().clear();
    }

    /// All votes about an instance; whether they count is the count's business.
    pub(crate) fn votes(&self, server: &str, instance: &str) -> Vec<(Vote, u64)> {
        let desk = self.open();
        let vote = |(node, heard): (&NodeId, &Heard)| {
            let part = heard.report.server(server)?.instance(instance)?.vote.as_ref()?;
            let vote = Vote {
                from: Origin { node: *node, generation: heard.report.generation },
                opinion: part.opinion,
                score: part.score,
                cause: part.cause,
                received: heard.at.into_std(),
                age: Duration::from_millis(part.age),
            };
            Some((vote, part.bad_since))
        };
        desk.iter().filter_map(vote).collect()
    }

    /// Those of `members` that know this instance, or may: all but those that were heard lately, and do not.
    /// Such a node runs another configuration, and sends nothing there.
    pub(crate) fn voters(&self, server: &str, instance: &str, members: &[Origin]) -> Vec<Origin> {
        let desk = self.open();
        let knows = |part: &ServerPart| part.instance(instance).is_some();
        voters(members, |member| {
            let heard = desk.get(&member.node).filter(|it| it.is_fresh_of(member));
            heard.is_some_and(|it| !it.report.server(server).is_some_and(knows))
        })
    }

    /// So many good checks in a row most members have seen of this instance. The others may be cut off from it,
    /// or too far away for its answers to be quick: they are outvoted here as they are in its verdict.
    pub(crate) fn good(&self, server: &str, instance: &str, members: &[Origin]) -> u32 {
        let of = |part: &ServerPart| Some(part.instance(instance)?.vote.as_ref()?.good);
        let mut good: Vec<u32> = self.parts(server, members).filter_map(|part| of(&part)).collect();
        good.sort_unstable_by(|one, other| other.cmp(one));
        good.get(members.len() / 2).copied().unwrap_or(0)
    }

    /// What the members that were heard lately say of a breaker. `since`: an opening before this time is no news.
    pub(crate) fn evidence(
        &self,
        server: &str,
        of: Of<'_>,
        members: &[Origin],
        since: u64,
    ) -> Vec<Evidence> {
        let desk = self.open();
        let evidence = |member: &Origin| {
            let heard = desk.get(&member.node).filter(|it| it.is_fresh_of(*member))?;
            let breaker = heard.report.breaker(server, of)?;
            let opened = breaker.opened && breaker.opened_at > since;
            Some(Evidence { opened, calls: breaker.calls, failed: breaker.failed })
        };
        members.iter().filter_map(evidence).collect()
    }

    /// Whether every one of `members` goes by this step, or a later one, of a server's failover.
    pub(crate) fn all_follow(&self, server: &str, members: &[Origin], step: (u64, u32)) -> bool {
        self.of_all(server, members, |part| part.follows >= step)
    }

    /// Whether every one of `members` goes by this step and has no call at this instance.
    pub(crate) fn all_drained(
        &self,
        server: &str,
        instance: &str,
        members: &[Origin],
        step: (u64, u32),
    ) -> bool {
        self.of_all(server, members, |part| {
            let running = part.instance(instance).map_or(0, |it| it.running);
            part.follows >= step && running == 0
        })
    }

    /// The earliest time after `since` at which this instance is known to have answered a call.
    pub(crate) fn answered(&self, server: &str, instance: &str, since: u64) -> Option<u64> {
        let desk = self.open();
        let at = |heard: &Heard| Some(heard.report.server(server)?.instance(instance)?.answered_at);
        desk.values().filter_map(at).filter(|at| *at > since).min()
    }

    /// What the others' own checks and calls say of every instance, for one node.
    pub(crate) fn others(&self, of: NodeId) -> Others {
        let desk = self.open();
        let mut scores: BTreeMap<(&str, &str), Vec<f64>> = BTreeMap::new();
        let fresh = |heard: &&Heard| heard.at.elapsed() <= FRESH;
        let mut calls = Vec::new();
        let others = desk.iter().filter(|(node, _)| **node != of).map(|(_, heard)| heard);
        for heard in others.filter(fresh) {
            calls.extend(heard.report.calls.iter().cloned());
            if heard.at.elapsed() > SPOKEN {
                continue;
            }
            for server in &heard.report.servers {
                for instance in &server.instances {
                    if let Some(own) = instance.vote.as_ref().and_then(|vote| vote.own) {
                        scores.entry((&server.name, &instance.id)).or_default().push(own);
                    }
                }
            }
        }
        let owned = |((server, instance), scores): ((&str, &str), Vec<f64>)| {
            (server.to_owned(), instance.to_owned(), scores)
        };
        Others { scores: scores.into_iter().map(owned).collect(), calls }
    }

    /// Forgets whoever is no member any more.
    pub(crate) fn keep(&self, state: &ClusterState) {
        self.open().retain(|node, _| state.members.contains_key(node));
    }

    /// Whoever was heard lately and does not know the server has no calls of it. One by whose configuration the
    /// server does not move will go by no step, however long it is waited for, while all calls are held.
    fn of_all(&self, server: &str, members: &[Origin], fits: impl Fn(&ServerPart) -> bool) -> bool {
        let desk = self.open();
        members.iter().all(|member| {
            let heard = desk.get(&member.node);
            let heard = heard.filter(|it| it.report.generation == member.generation);
            heard.is_some_and(|it| match it.report.server(server) {
                Some(part) if it.report.moves(server) => fits(part),
                Some(_) | None => it.is_fresh_of(*member),
            })
        })
    }

    fn parts(&self, server: &str, members: &[Origin]) -> std::vec::IntoIter<ServerPart> {
        let desk = self.open();
        let parts = members.iter().filter_map(|member| {
            let heard = desk.get(&member.node)?;
            heard.report.server(server).filter(|_| heard.is_fresh_of(*member)).cloned()
        });
        parts.collect::<Vec<_>>().into_iter()
    }

    fn open(&self) -> MutexGuard<'_, BTreeMap<NodeId, Heard>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The members that may act, in their present lives.
pub(crate) fn members(state: &ClusterState) -> Vec<Origin> {
    let acting = state.members.iter().filter(|(_, member)| member.state.may_act());
    acting.map(|(node, member)| Origin { node: *node, generation: member.generation }).collect()
}
