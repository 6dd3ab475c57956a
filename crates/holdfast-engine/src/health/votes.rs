//! What the nodes conclude together about an instance, so that no node's own network decides.
//!
//! # A vote
//! Each node has four kinds of evidence, and weighs what it has of them: its own checks (0.4), its
//! peers' checks (0.3), those from outside the cluster (0.2), and what its calls say (0.1). Of the
//! peers it takes the *middle* one, the better of two: a mean would let one peer with a broken network
//! pull everybody down. What is not known leaves its weight to the others, except that the voice from
//! outside never gets more than its own share, nor more than half ([`ballot`]): it is one voice, and all
//! nodes hear the same one. The score makes the vote: 0.9 and above healthy, below 0.5 unhealthy, degraded
//! in between. Whatever the score, a node that sees calls fail (too many of them, or so that its breaker is
//! open), or that judges its calls and the instance's readings as poor, does not vote healthy
//! ([`Opinion::by`]).
//!
//! Where all clients come through one node, that node alone sees calls fail. A node that has too few calls of
//! its own to say anything takes over what most of its peers' calls say ([`heard`]), of those peers whose own
//! checks find the instance healthy: what they reach is the instance. A node whose network is broken fails
//! its checks with its calls, and nobody takes over from it.
//!
//! # A conclusion
//! The coordinator keeps each node's last vote and concludes anew whenever one comes, so the decision
//! is made when the vote arrives that suffices. A vote counts for [`Rules::timeout`] after it was
//! received, if the checks behind it are no older than [`Rules::round`], and only from the present
//! life of a member that may act.
//!
//! | conclusion | needs |
//! |---|---|
//! | unhealthy | 0.66 of the votes, and more than half of all who might vote |
//! | degraded | more than half of the votes say degraded or unhealthy |
//! | healthy | more than half of the votes say healthy |
//! | better than unhealthy, where that was concluded | the same, and more than half of all who might vote do not say unhealthy ([`Tally::lifts`]) |
//! | none | half against half; fewer votes than the smallest of 3 and the number of members; or not of more than half |
//!
//! # Who does not know the instance
//! Nodes may run different configurations for a while: one that cannot take a version over keeps the one
//! before. A member that was heard lately and does not know the instance abstains ([`voters`]): it sends
//! nothing there, and no vote of it will ever come. One that is silent may know it, and is waited for.
//!
//! # Small clusters
//! *Three or more*: with one node cut off, two of three suffice to fail over, one never does. While a
//! member of three is silent but not declared dead (a second or so) there is no conclusion, and what
//! was concluded stays. *Two*, also what is left of three: both must agree. What is left of a cluster
//! when all others are declared dead concludes nothing (without [`Rules::alone`]): it may be that it is
//! itself what is cut off, and comes to this in the moment in which it is heard again. *One*, in a
//! cluster of one: it has only its own eyes, and cannot tell a broken server from its own broken network. It decides all the same, since
//! nobody else will, and the harm is bounded by the rule that a failover needs a target that the same
//! votes find usable: a node that reaches nothing moves nothing. [`Tally::basis`] says which it was.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::passive::Judgement;
use super::score::Failure;
use crate::replicated::{NodeId, Origin};

/// What each kind of evidence counts.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Weights {
    /// The node's own checks.
    pub local: f64,
    /// The middle one of its peers' checks.
    pub peers: f64,
    /// Checks from outside the cluster.
    pub external: f64,
    /// What calls say.
    pub users: f64,
}

/// The evidence that one node has about an instance: scores of 0 to 1, as far as there are any.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Evidence<'a> {
    /// By its own checks, after hysteresis.
    pub local: Option<f64>,
    /// By each peer's own checks.
    pub peers: &'a [f64],
    /// By a monitor outside of the cluster.
    pub external: Option<f64>,
    /// By its calls, and the instance's own readings ([`super::passive`]).
    pub users: Option<f64>,
}

/// How well one node, or the group, finds an instance. The order is from well to ill.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
pub enum Opinion {
    /// It is used.
    #[default]
    Healthy,
    /// It is used, less where there is another.
    Degraded,
    /// It is not used where there is another.
    Unhealthy,
}

/// What makes an instance unhealthy or degraded, as far as it decides what is done.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
pub enum Cause {
    /// Nothing in particular: the score as a whole.
    #[default]
    Score,
    /// Too many errors.
    Errors,
    /// A resource or quota is used up.
    Exhausted,
    /// A critical check failed, or no answer came in time.
    Critical,
    /// It does not accept the gateway's credential.
    Authentication,
    /// No connection.
    Unreachable,
    /// Its calls fail, so that its breakers let none through.
    BreakerOpen,
}

/// What one node's calls say of an instance that its own checks find healthy.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Calls {
    /// There are enough of them, and not too many fail.
    Succeed,
    /// They fail: too many, or so that its breaker is open.
    Fail(Cause),
}

/// One node's vote about one instance.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Vote {
    /// Who votes, in which of its lives.
    pub from: Origin,
    /// What it finds.
    pub opinion: Opinion,
    /// The score behind it, 0 to 1.
    pub score: f64,
    /// What makes it so.
    pub cause: Cause,
    /// When it was received, by the coordinator's clock.
    pub received: Instant,
    /// How old the checks behind it were then.
    pub age: Duration,
}

/// When votes count, and how many it takes.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Rules {
    /// How old the evidence behind a vote may be.
    pub round: Duration,
    /// How long a vote counts after it was received.
    pub timeout: Duration,
    /// The share of votes for "unhealthy" that declares an instance unhealthy.
    pub unhealthy: f64,
    /// So many votes it takes at least, where there are so many members.
    pub least: usize,
    /// Whether one vote may conclude: only where the cluster has one node and was never to have more.
    pub alone: bool,
}

/// How broad a conclusion's ground is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Basis {
    /// One node's view; there is no other.
    Alone,
    /// Two nodes' views; only what both say counts.
    Pair,
    /// Three or more.
    Consensus,
}

/// The count.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Tally {
    /// What the group concludes; none: too few votes or half against half, and what was concluded
    /// stays.
    pub opinion: Option<Opinion>,
    /// The middle score of the votes that count and are not better than the conclusion, of two the better
    /// one: neither who was outvoted, nor one vote of those that agree, makes it. 0 without any.
    pub score: f64,
    /// The cause named most often among the votes that are not better than the conclusion.
    pub cause: Cause,
    /// Votes that count.
    pub counted: usize,
    /// Of those, for "unhealthy".
    pub unhealthy: usize,
    /// Of those, for "degraded".
    pub degraded: usize,
    /// Votes that do not count: too old, or from no present life of a member.
    pub stale: usize,
    /// Members that might vote.
    pub members: usize,
    /// How broad the ground is.
    pub basis: Basis,
}

impl Default for Weights {
    fn default() -> Self {
        Self { local: 0.4, peers: 0.3, external: 0.2, users: 0.1 }
    }
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            round: Duration::from_secs(30),
            timeout: Duration::from_secs(10),
            unhealthy: 0.66,
            least: 3,
            alone: true,
        }
    }
}

/// One node's score of an instance by all its evidence: the mean by weight of what there is; none if
/// the cluster itself knows nothing.
#[must_use]
pub fn ballot(evidence: &Evidence<'_>, weights: &Weights) -> Option<f64> {
    let parts = [
        (evidence.local, weights.local),
        (middle(evidence.peers), weights.peers),
        (evidence.users, weights.users),
    ];
    let known = || parts.iter().filter_map(|(score, weight)| Some(((*score)?, *weight)));
    let total: f64 = known().map(|(_, weight)| weight).sum();
    let inside = known().map(|(score, weight)| score * weight).sum::<f64>() / total;
    let share = weights.external_share();
    // The voice from outside makes nobody unhealthy that is not.
    let with = |it: f64| (inside * (1.0 - share) + it * share).max(inside.min(0.5));
    let score = evidence.external.map_or(inside, with);
    (total > 0.0).then(|| score.clamp(0.0, 1.0))
}

/// What a node names as the cause that has seen no trouble itself: what its peers' calls meet, if more of
/// them fail than succeed. None if its own calls say something, or its own checks do not find the
/// instance healthy. `local`: by its own checks, 0 to 1.
#[must_use]
pub fn heard(own: Option<Calls>, local: Option<f64>, peers: &[Calls]) -> Option<Cause> {
    if own.is_some() || local.map(Opinion::of) != Some(Opinion::Healthy) {
        return None;
    }
    let failing = peers.iter().filter_map(|it| match it {
        Calls::Fail(cause) => Some(*cause),
        Calls::Succeed => None,
    });
    let failing: Vec<Cause> = failing.collect();
    if 2 * failing.len() > peers.len() { failing.into_iter().max() } else { None }
}

/// Whose votes about an instance it takes: those of the members that have not been heard to know nothing of
/// it.
#[must_use]
pub fn voters(members: &[Origin], abstains: impl Fn(Origin) -> bool) -> Vec<Origin> {
    members.iter().copied().filter(|it| !abstains(*it)).collect()
}

/// Counts the votes about one instance. `members` are those that may act, in their present lives, and
/// know it ([`voters`]); of several votes of one node the last in `votes` counts.
#[must_use]
pub fn tally(votes: &[Vote], members: &[Origin], rules: &Rules, now: Instant) -> Tally {
    let mut fresh: BTreeMap<NodeId, &Vote> = BTreeMap::new();
    for vote in votes.iter().filter(|it| it.counts(members, rules, now)) {
        fresh.insert(vote.from.node, vote);
    }
    let counted = fresh.len();
    let of = |opinion| fresh.values().filter(|it| it.opinion == opinion).count();
    let (unhealthy, degraded) = (of(Opinion::Unhealthy), of(Opinion::Degraded));
    let least = rules.least.min(members.len()).max(if rules.alone { 1 } else { 2 });
    let enough = counted >= least && 2 * counted > members.len();
    let declared = declares(unhealthy, counted, members.len(), rules);
    let opinion = match (2 * (unhealthy + degraded)).cmp(&counted) {
        _ if !enough => None,
        _ if declared => Some(Opinion::Unhealthy),
        Ordering::Greater => Some(Opinion::Degraded),
        // Half against half: nobody is outvoted, and neither way is safer than to stay.
        Ordering::Equal => None,
        Ordering::Less => Some(Opinion::Healthy),
    };
    // Who finds it better was outvoted, and does not soften what the others found.
    let not_better = fresh.values().filter(|it| Some(it.opinion) >= opinion);
    let score = middle(&not_better.map(|it| it.score).collect::<Vec<_>>()).unwrap_or(0.0);
    let basis = match members.len() {
        0 | 1 => Basis::Alone,
        2 => Basis::Pair,
        _ => Basis::Consensus,
    };
    Tally {
        opinion,
        score,
        cause: common_cause(fresh.values().copied(), opinion, counted),
        counted,
        unhealthy,
        degraded,
        stale: votes.len().saturating_sub(counted),
        members: members.len(),
        basis,
    }
}

/// When the sign came that made a conclusion one: those who find the instance so, each by the first sign
/// that it saw, are counted from the earliest on until they are enough. So one who has long found it ill, and
/// was outvoted, does not date what the others saw later. `votes` come with those signs, in milliseconds since
/// the Unix epoch; 0: it names none, and counts as the last. The result is of the same kind; 0 also where too few
/// name one, or there is nothing to date.
#[must_use]
pub fn first_sign(
    votes: &[(Vote, u64)],
    tally: &Tally,
    members: &[Origin],
    rules: &Rules,
    now: Instant,
) -> u64 {
    let suffice = |count: usize| match tally.opinion {
        Some(Opinion::Unhealthy) => declares(count, tally.counted, tally.members, rules),
        Some(Opinion::Degraded) => 2 * count > tally.counted,
        Some(Opinion::Healthy) | None => false,
    };
    let Some(takes) = (1..=tally.counted).find(|count| suffice(*count)) else { return 0 };
    let counts =
        |vote: &Vote| vote.counts(members, rules, now) && Some(vote.opinion) >= tally.opinion;
    let agree = || votes.iter().filter(|(vote, _)| counts(vote));
    let sorted = |signs: &mut dyn Iterator<Item = &(Vote, u64)>| {
        let since = signs.map(|(_, since)| if *since == 0 { u64::MAX } else { *since });
        let mut signs: Vec<u64> = since.collect();
        signs.sort_unstable();
        signs
    };
    let Some(sign) = sorted(&mut agree()).get(takes - 1).copied() else { return 0 };
    // That an instance is slow is no sign of what makes its calls fail; those who name that may be fewer than
    // it takes.
    let by_calls = tally.opinion == Some(Opinion::Degraded) && tally.cause.is_of_calls();
    let named = by_calls.then(|| {
        let signs = sorted(&mut agree().filter(|(vote, _)| vote.cause == tally.cause));
        signs.get(takes - 1).or_else(|| signs.last()).copied().unwrap_or(u64::MAX)
    });
    match sign.max(named.unwrap_or(0)) {
        u64::MAX => 0,
        sign => sign,
    }
}

/// Whether so many votes declare an instance unhealthy.
fn declares(unhealthy: usize, counted: usize, members: usize, rules: &Rules) -> bool {
    unhealthy as f64 >= rules.unhealthy * counted as f64 && 2 * unhealthy > members && unhealthy > 0
}

// === impl Weights ===

impl Weights {
    /// What the voice from outside counts of the whole, 0 to 0.5, whatever else is known.
    #[must_use]
    pub fn external_share(&self) -> f64 {
        let total = self.local + self.peers + self.external + self.users;
        if total > 0.0 { (self.external / total).min(0.5) } else { 0.0 }
    }
}

// === impl Opinion ===

impl Opinion {
    /// The opinion that a score of 0 to 1 stands for.
    #[must_use]
    pub fn of(score: f64) -> Self {
        match score {
            it if it >= 0.9 => Self::Healthy,
            it if it >= 0.5 => Self::Degraded,
            _ => Self::Unhealthy,
        }
    }

    /// A node's opinion by its score, by what it names as the cause, and by its judgement of the calls.
    /// An instance may answer every check and fail every call, which weighs a tenth of the score: so
    /// what the calls say makes it degraded by itself.
    #[must_use]
    pub fn by(score: f64, cause: Cause, calls: Option<&Judgement>) -> Self {
        let least = match cause {
            _ if calls.is_some_and(|it| it.poor) => Self::Degraded,
            Cause::Errors | Cause::Exhausted | Cause::BreakerOpen => Self::Degraded,
            Cause::Score | Cause::Critical | Cause::Authentication | Cause::Unreachable => {
                Self::Healthy
            }
        };
        Self::of(score).max(least)
    }

    /// The word for it.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Unhealthy => "unhealthy",
        }
    }
}

// === impl Cause ===

impl Cause {
    /// Whether waiting does not help: the instance cannot serve at all.
    #[must_use]
    pub fn is_immediate(self) -> bool {
        match self {
            Self::Unreachable | Self::Authentication | Self::Critical | Self::BreakerOpen => true,
            Self::Score | Self::Errors | Self::Exhausted => false,
        }
    }

    /// Whether it is what calls meet, whatever the checks find.
    #[must_use]
    pub fn is_of_calls(self) -> bool {
        match self {
            Self::Errors | Self::BreakerOpen => true,
            Self::Score
            | Self::Exhausted
            | Self::Critical
            | Self::Authentication
            | Self::Unreachable => false,
        }
    }

    /// The words for it.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Score => "score",
            Self::Errors => "errors",
            Self::Exhausted => "exhausted",
            Self::Critical => "critical check",
            Self::Authentication => "authentication",
            Self::Unreachable => "unreachable",
            Self::BreakerOpen => "breaker open",
        }
    }

    /// A sentence for it, of this instance.
    #[must_use]
    pub fn tells_of(self, instance: &str) -> String {
        match self {
            Self::Score => format!("the score of {instance} is low"),
            Self::Errors => format!("too many calls fail at {instance}"),
            Self::Exhausted => format!("{instance} is exhausted"),
            Self::Critical => format!("{instance} fails a critical check"),
            Self::Authentication => format!("{instance} refuses the credential"),
            Self::Unreachable => format!("{instance} is unreachable"),
            Self::BreakerOpen => format!("the breakers of {instance} are open"),
        }
    }
}

impl From<Failure> for Cause {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Unreachable => Self::Unreachable,
            Failure::Authentication => Self::Authentication,
            Failure::TimedOut | Failure::Wrong => Self::Critical,
        }
    }
}

// === impl Vote ===

impl Vote {
    /// Whether the vote counts at `now`.
    #[must_use]
    pub fn counts(&self, members: &[Origin], rules: &Rules, now: Instant) -> bool {
        let waited = now.saturating_duration_since(self.received);
        members.contains(&self.from)
            && waited <= rules.timeout
            && self.age.saturating_add(waited) <= rules.round
    }
}

// === impl Tally ===

impl Tally {
    /// Whether an instance that was found unhealthy is so no more: more than half of all who might vote say so. One
    /// who votes before it has looked again is not enough, when those who found it have gone.
    #[must_use]
    pub fn lifts(&self) -> bool {
        2 * (self.counted - self.unhealthy) > self.members
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { counted, unhealthy, degraded, members, .. } = self;
        let healthy = counted - unhealthy - degraded;
        write!(
            f,
            "{counted} of {members} nodes voted: {unhealthy} unhealthy, {degraded} degraded, {healthy} healthy; score {:.2}",
            self.score
        )?;
        match self.cause {
            Cause::Score => Ok(()),
            cause => write!(f, ", {}", cause.label()),
        }
    }
}

/// The middle of some scores; of an even number the better of the two in the middle.
fn middle(scores: &[f64]) -> Option<f64> {
    // The one with this place from above, found without sorting, since peers are few.
    let place = scores.len().div_ceil(2).max(1);
    let above = |it: f64| scores.iter().filter(|other| **other > it).count();
    let not_below = |it: f64| scores.iter().filter(|other| **other >= it).count();
    scores.iter().copied().find(|it| above(*it) < place && not_below(*it) >= place)
}

fn common_cause<'a>(
    votes: impl Iterator<Item = &'a Vote>,
    opinion: Option<Opinion>,
    counted: usize,
) -> Cause {
    let mut named: BTreeMap<Cause, usize> = BTreeMap::new();
    let at_least = opinion.unwrap_or_default().max(Opinion::Degraded);
    for vote in votes.filter(|it| it.opinion >= at_least) {
        *named.entry(vote.cause).or_default() += 1;
    }
    // An instance is left at once for it: what one node's breaker says is not enough.
    named.retain(|cause, times| *cause != Cause::BreakerOpen || 2 * *times > counted);
    named.into_iter().max_by_key(|(cause, times)| (*times, *cause)).map_or(Cause::Score, |it| it.0)
}

#[cfg(test)]
mod tests;
