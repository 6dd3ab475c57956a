//! Leases: who may send a Write now, without asking anybody.
//!
//! A node asks the leader for a lease several times per failover timeout. The leader grants it for one
//! timeout from when it answers; the node counts from when it *asked*, and takes off a tenth for clocks
//! that run at different speeds. So the node's lease is over before the leader's count is:
//!
//! ```text
//! node    asks |------------- 0.9 timeout ---| holds no more
//! leader            grants |------------- timeout ------------| may declare it dead
//! ```
//!
//! A new leader knows nothing of what the last one granted and declares nobody dead for one whole
//! timeout. That is enough if the last one grants nothing to requests that were sent after the new one
//! was elected, cut off as it may be: a leader grants only after a quorum has confirmed, since the
//! request came, that it leads.
//!
//! A node that [`Granter::overdue`] has named gets no more leases until it has joined again,
//! so none can be granted between that verdict and its entry in the log. Lives are told apart by their
//! generation: a verdict about one does not touch the next, and a `Join` that is merely proposed again
//! does not lift it. The book is kept for the whole term, also by a leader that was frozen: a verdict
//! of its own may be on its way into the log.
//!
//! A lease says that the *node* is alive in the group's eyes, not which of its lives: whoever sends
//! under it checks that the generation is still the one in the journal's entry
//! ([`crate::journal::may_send`]). Times are monotonic and run on while a process is stopped.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::replicated::{NodeId, Origin};

/// The node's side: until when it may act.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Holder {
    until: Option<Instant>,
}

/// The leader's side: who has been granted what. One per term of leadership.
#[derive(Clone, Debug)]
pub struct Granter {
    since: Instant,
    timeout: Duration,
    nodes: BTreeMap<NodeId, Watched>,
}

/// One node in the leader's eyes, in the newest life that it knows of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Watched {
    generation: u64,
    /// Its last grant, or when it began to be watched.
    heard: Instant,
    /// Named as overdue, or dead: gets nothing in this life.
    condemned: bool,
}

// === impl Holder ===

impl Holder {
    /// No lease yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The leader granted `length` to the request that was sent at `sent_at`. Answers that come late
    /// or out of order never shorten a lease.
    pub fn granted(&mut self, sent_at: Instant, length: Duration) {
        let until = sent_at.checked_add(length - length / 10);
        self.until = self.until.max(until);
    }

    /// Gives the lease up: the node was fenced, or joins under a new generation.
    pub fn revoke(&mut self) {
        self.until = None;
    }

    /// Whether the node may act at `now`.
    #[must_use]
    pub fn holds(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }

    /// When the lease ends unless it is granted anew.
    #[must_use]
    pub fn until(&self) -> Option<Instant> {
        self.until
    }
}

// === impl Granter ===

impl Granter {
    /// A leader's book, empty. `timeout` is the failover timeout.
    #[must_use]
    pub fn new(became_leader_at: Instant, timeout: Duration) -> Self {
        Self { since: became_leader_at, timeout, nodes: BTreeMap::new() }
    }

    /// Watches a member that may act, as the group's state has it: unless it asks for a lease, it is
    /// overdue one timeout from `now`. A new generation begins with a clean slate; one that is known,
    /// or older, changes nothing: a member that is condemned stays so until it joins again.
    pub fn watch(&mut self, member: Origin, now: Instant) {
        let Origin { node, generation } = member;
        if self.nodes.get(&node).is_none_or(|it| it.generation < generation) {
            self.nodes.insert(node, Watched { generation, heard: now, condemned: false });
        }
    }

    /// The group has declared the member dead in this life: it gets no leases in it.
    pub fn condemn(&mut self, member: Origin) {
        self.watch(member, self.since);
        if let Some(watched) = self.life(member) {
            watched.condemned = true;
        }
    }

    /// The member's process was not there: somebody began to look at `looked_at`, and its port refused.
    /// Returns whether it is condemned; it is not if it was heard of since then, or lives again.
    pub fn refused(&mut self, member: Origin, looked_at: Instant) -> bool {
        match self.life(member) {
            Some(watched) if watched.heard < looked_at => {
                watched.condemned = true;
                true
            }
            Some(watched) => watched.condemned,
            None => false,
        }
    }

    /// The member has left; it is not watched any more.
    pub fn forget(&mut self, node: NodeId) {
        self.nodes.remove(&node);
    }

    /// Grants a lease from `now` on to a member that may act in the group's eyes: its length, or
    /// `None` if it is condemned in this life, or begins another.
    pub fn grant(&mut self, member: Origin, now: Instant) -> Option<Duration> {
        self.watch(member, now);
        let timeout = self.timeout;
        let watched = self.life(member).filter(|it| !it.condemned)?;
        // Requests may be answered out of order by a clock read late; the later one counts.
        watched.heard = watched.heard.max(now);
        Some(timeout)
    }

    /// The last grant to this node by this leader, or when it began to be watched; none if it is not
    /// watched, or is condemned.
    #[must_use]
    pub fn heard(&self, node: NodeId) -> Option<Instant> {
        self.nodes.get(&node).filter(|it| !it.condemned).map(|it| it.heard)
    }

    /// All who get nothing: the coordinator declares those lives dead which the group still takes for
    /// living, as often as it takes. The generation is part of the verdict: a newer one is innocent.
    pub fn condemned(&self) -> impl Iterator<Item = Origin> {
        self.nodes
            .iter()
            .filter(|(_, watched)| watched.condemned)
            .map(|(node, watched)| Origin { node: *node, generation: watched.generation })
    }

    /// Those who have not been granted anything for the whole timeout. They are condemned from now on
    /// and are named once: the caller declares them dead. Nobody is overdue before this leader has led
    /// for the whole timeout.
    pub fn overdue(&mut self, now: Instant) -> Vec<Origin> {
        let mut overdue = Vec::new();
        for (node, watched) in &mut self.nodes {
            let silent = now.saturating_duration_since(watched.heard.max(self.since));
            if !watched.condemned && silent >= self.timeout {
                watched.condemned = true;
                overdue.push(Origin { node: *node, generation: watched.generation });
            }
        }
        overdue
    }

    fn life(&mut self, member: Origin) -> Option<&mut Watched> {
        self.nodes.get_mut(&member.node).filter(|it| it.generation == member.generation)
    }
}

#[cfg(test)]
mod tests {
    mod properties;

    use super::*;

    const TIMEOUT: Duration = Duration::from_millis(1000);

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn a_lease_counts_from_the_request_and_loses_a_tenth() {
        let start = Instant::now();
        let mut holder = Holder::new();
        assert!(!holder.holds(start));
        holder.granted(start, TIMEOUT);
        assert!(holder.holds(start + ms(899)));
        assert!(!holder.holds(start + ms(900)));
        assert_eq!(holder.until(), Some(start + ms(900)));
    }

    #[test]
    fn an_old_answer_does_not_shorten_a_lease() {
        let start = Instant::now();
        let mut holder = Holder::new();
        holder.granted(start + ms(500), TIMEOUT);
        holder.granted(start, TIMEOUT);
        assert!(holder.holds(start + ms(1399)));
        holder.revoke();
        assert!(!holder.holds(start));
        assert_eq!(holder.until(), None);
    }

    fn member(node: NodeId, generation: u64) -> Origin {
        Origin { node, generation }
    }

    #[test]
    fn a_new_leader_waits_one_timeout_before_anybody_is_overdue() {
        let start = Instant::now();
        let mut granter = Granter::new(start + ms(100), TIMEOUT);
        granter.watch(member(1, 1), start);
        assert!(granter.overdue(start + ms(1099)).is_empty());
        assert_eq!(granter.overdue(start + ms(1100)), [member(1, 1)]);
    }

    #[test]
    fn who_is_overdue_is_named_once_and_gets_nothing_until_it_begins_another_life() {
        let start = Instant::now();
        let mut granter = Granter::new(start, TIMEOUT);
        let (first, second, other) = (member(1, 1), member(1, 2), member(2, 1));
        granter.watch(first, start);
        assert_eq!(granter.grant(other, start + ms(500)), Some(TIMEOUT));
        assert_eq!(granter.overdue(start + ms(1000)), [first]);
        assert!(granter.overdue(start + ms(1001)).is_empty());
        assert_eq!(granter.grant(first, start + ms(1002)), None);
        // Seen again in the same life, as when its join is proposed once more: still condemned.
        granter.watch(first, start + ms(1003));
        assert_eq!(granter.grant(first, start + ms(1004)), None);
        assert_eq!(granter.heard(1), None);
        assert_eq!(granter.condemned().collect::<Vec<_>>(), [first]);
        granter.watch(second, start + ms(1100));
        assert!(granter.condemned().next().is_none());
        assert_eq!(granter.grant(first, start + ms(1150)), None, "its earlier life");
        assert_eq!(granter.grant(second, start + ms(1200)), Some(TIMEOUT));
        assert_eq!(granter.heard(1), Some(start + ms(1200)));
        assert_eq!(granter.overdue(start + ms(1500)), [other]);
        assert_eq!(granter.overdue(start + ms(2200)), [second]);
    }

    #[test]
    fn a_verdict_about_one_life_does_not_touch_the_next() {
        let start = Instant::now();
        let mut granter = Granter::new(start, TIMEOUT);
        granter.watch(member(1, 2), start);
        granter.condemn(member(1, 1));
        assert_eq!(granter.grant(member(1, 2), start), Some(TIMEOUT));
        granter.condemn(member(1, 2));
        assert_eq!(granter.grant(member(1, 2), start), None);
        assert_eq!(granter.grant(member(1, 3), start), Some(TIMEOUT));
    }

    #[test]
    fn a_refused_connection_counts_if_nothing_was_heard_since_it_was_tried() {
        let start = Instant::now();
        let mut granter = Granter::new(start, TIMEOUT);
        let (one, next) = (member(1, 1), member(1, 2));
        granter.watch(one, start);
        granter.grant(one, start + ms(100));
        assert!(!granter.refused(one, start + ms(100)));
        assert_eq!(granter.grant(one, start + ms(200)), Some(TIMEOUT));
        assert!(granter.refused(one, start + ms(201)));
        assert_eq!(granter.grant(one, start + ms(202)), None);
        granter.watch(next, start + ms(300));
        assert!(!granter.refused(one, start + ms(400)), "it lives again");
        assert_eq!(granter.grant(next, start + ms(500)), Some(TIMEOUT));
        assert!(!granter.refused(member(9, 1), start));
    }

    #[test]
    fn the_dead_get_nothing_and_those_who_left_are_not_missed() {
        let start = Instant::now();
        let mut granter = Granter::new(start, TIMEOUT);
        granter.watch(member(2, 1), start);
        granter.condemn(member(1, 1));
        granter.forget(2);
        assert_eq!(granter.grant(member(1, 1), start), None);
        assert!(granter.overdue(start + ms(5000)).is_empty());
    }

    /// The one thing that leases are for, tried for all delays of a request and its answer.
    #[test]
    fn no_lease_outlives_the_moment_at_which_its_holder_can_be_declared_dead() {
        let start = Instant::now();
        for there in (0..1200).step_by(50) {
            for back in (0..1200).step_by(50) {
                let mut granter = Granter::new(start, TIMEOUT);
                granter.watch(member(1, 1), start);
                let mut holder = Holder::new();
                if let Some(length) = granter.grant(member(1, 1), start + ms(there)) {
                    holder.granted(start, length);
                }
                for now in (there..there + back + 2500).step_by(10) {
                    let now = start + ms(now);
                    if !granter.overdue(now).is_empty() {
                        assert!(!holder.holds(now), "{there} {back}");
                    }
                }
            }
        }
    }

    #[test]
    fn times_at_the_end_of_the_world_do_no_harm() {
        let mut holder = Holder::new();
        holder.granted(Instant::now(), Duration::MAX);
        assert!(!holder.holds(Instant::now()), "a length that cannot be is no lease");
    }
}
