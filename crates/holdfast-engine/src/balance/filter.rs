//! Which candidates are open to a call, and why the others are not.

use super::{Candidate, MOST, Params, Request, Role, Strategy, UNWELL, Why};

/// Some of the candidates, by their place among them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Set(u64);

/// What the rules leave.
#[derive(Clone, Copy, Debug)]
pub(super) struct Field {
    /// Those the strategy chooses from.
    pub(super) open: Set,
    /// The one that the client stays with.
    pub(super) sticky: Option<usize>,
    /// Health was not looked at.
    pub(super) is_panic: bool,
    /// Before region and role were looked at.
    fit: Set,
    near: Set,
}

/// No candidate may be used. Holds the reason of each of the first eight, and how many there are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("none of {count} instances may be used")]
pub struct NoInstance {
    reasons: [Option<(u16, Why)>; 8],
    /// How many candidates there were.
    pub count: usize,
    /// The one reason that stands for all: that of the candidate which is nearest to being usable;
    /// none if there are no candidates.
    pub foremost: Option<Why>,
}

/// What the rules leave of the candidates.
pub(super) fn field(all: &[Candidate], request: &Request, params: &Params) -> Field {
    let all = &all[..all.len().min(MOST)];
    let mut admitted = Set::default();
    let mut well = Set::default();
    for (at, it) in all.iter().enumerate() {
        if refusal(it, at, request).is_none() {
            admitted.insert(at);
        }
        if it.health() > UNWELL {
            well.insert(at);
        }
    }
    let suitable = all.iter().filter(|it| request.is_read || it.role != Role::Replica).count();
    let is_panic =
        (well.len() as f32) < params.panic * suitable as f32 || admitted.and(well).is_empty();
    let fit = if is_panic { admitted } else { admitted.and(well) };
    let sticky = request
        .sticky
        .filter(|it| it.used_ago < params.sticky_for)
        .and_then(|sticky| fit.iter().find(|at| all[*at].id == sticky.id));
    let right = right(all, fit, request, params);
    let nearest = right.iter().map(|at| all[at].distance).min();
    let open = right.only(|at| Some(all[at].distance) == nearest);
    Field { open, sticky, is_panic: is_panic && !fit.and_not(well).is_empty(), fit, near: right }
}

/// Why a candidate did not get this call; none for the one that did, by [`super::pick`] with the same
/// arguments.
#[must_use]
pub fn why(
    all: &[Candidate],
    request: &Request,
    params: &Params,
    picked: Option<usize>,
    at: usize,
) -> Option<Why> {
    let candidate = all.get(at)?;
    if picked == Some(at) {
        return None;
    }
    if let Some(why) = refusal(candidate, at, request) {
        return Some(why);
    }
    let field = field(all, request, params);
    Some(if at >= MOST {
        Why::NotChosen
    } else if !field.fit.contains(at) {
        Why::Unwell
    } else if field.sticky.is_some() {
        Why::Sticky
    } else if !field.near.contains(at) {
        Why::ReplicasFirst
    } else if !field.open.contains(at) {
        Why::Farther
    } else {
        Why::NotChosen
    })
}

/// Those with the right role, as far as there are any.
fn right(all: &[Candidate], fit: Set, request: &Request, params: &Params) -> Set {
    if params.strategy != Strategy::ReadWrite || !request.is_read {
        return fit;
    }
    let replicas = fit.only(|at| all[at].role == Role::Replica);
    if replicas.is_empty() { fit } else { replicas }
}

/// Why a candidate may not be used at all.
fn refusal(it: &Candidate, at: usize, request: &Request) -> Option<Why> {
    if request.tried.contains(at) {
        Some(Why::Tried)
    } else if let Err(why) = it.admitted {
        Some(why)
    } else if it.role == Role::Replica && !request.is_read {
        Some(Why::ReadsOnly)
    } else if it.limit > 0 && it.in_flight >= it.limit {
        Some(Why::Full)
    } else if it.allowance <= 0.0 {
        Some(Why::RateLimited)
    } else {
        None
    }
}

// === impl NoInstance ===

impl NoInstance {
    pub(super) fn of(all: &[Candidate], request: &Request, params: &Params) -> Self {
        let mut reasons = [None; 8];
        let mut foremost = None;
        for (at, candidate) in all.iter().enumerate() {
            let Some(why) = why(all, request, params, None, at) else { continue };
            if let Some(slot) = reasons.get_mut(at) {
                *slot = Some((candidate.id, why));
            }
            if foremost.is_none_or(|it| rank(why) < rank(it)) {
                foremost = Some(why);
            }
        }
        Self { reasons, count: all.len(), foremost }
    }

    /// Instances, by their place in the configuration, and why each may not be used: the first eight.
    pub fn reasons(&self) -> impl Iterator<Item = (u16, Why)> {
        self.reasons.iter().copied().flatten()
    }
}

/// How soon a candidate with this reason may be usable again: the smallest first.
fn rank(why: Why) -> u8 {
    match why {
        Why::Paused => 0,
        Why::Full => 1,
        Why::RateLimited => 2,
        Why::PushedBack => 3,
        Why::Recovering => 4,
        Why::BreakerOpen | Why::Unreachable => 5,
        Why::Draining => 6,
        Why::Forced => 7,
        Why::Tried => 8,
        Why::Unwell => 9,
        Why::ReadsOnly => 10,
        Why::Standby => 11,
        Why::Farther | Why::ReplicasFirst | Why::Sticky | Why::NotChosen => 12,
    }
}

// === impl Why ===

impl Why {
    /// The words for it.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::BreakerOpen => "breaker open",
            Self::Recovering => "recovering",
            Self::PushedBack => "asked for a pause",
            Self::Unreachable => "not reachable",
            Self::Forced => "kept out by an operator",
            Self::Paused => "failing over",
            Self::Standby => "standing by",
            Self::Draining => "draining",
            Self::Full => "at its limit of calls",
            Self::RateLimited => "allowance used up",
            Self::Tried => "tried already",
            Self::ReadsOnly => "reads only",
            Self::Unwell => "unwell",
            Self::Farther => "another region is nearer",
            Self::ReplicasFirst => "reads go to replicas",
            Self::Sticky => "the client stays with another",
            Self::NotChosen => "another was chosen",
        }
    }
}

// === impl Set ===

impl Set {
    /// No candidates.
    pub const NONE: Self = Self(0);

    /// Adds a place; one of [`MOST`] or above is not added.
    pub fn insert(&mut self, at: usize) {
        if at < MOST {
            self.0 |= 1 << at;
        }
    }

    /// Whether a place is in it.
    #[must_use]
    pub fn contains(self, at: usize) -> bool {
        at < MOST && self.0 & (1 << at) != 0
    }

    /// How many places are in it.
    #[must_use]
    pub fn len(self) -> u32 {
        self.0.count_ones()
    }

    /// Whether no place is in it.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The places, from the smallest on.
    pub fn iter(self) -> impl Iterator<Item = usize> {
        let mut left = self.0;
        std::iter::from_fn(move || {
            let at = (left != 0).then_some(left.trailing_zeros() as usize)?;
            left &= left - 1;
            Some(at)
        })
    }

    pub(super) fn first(self) -> Option<usize> {
        (self.0 != 0).then_some(self.0.trailing_zeros() as usize)
    }

    pub(super) fn last(self) -> Option<usize> {
        (self.0 != 0).then(|| 63 - self.0.leading_zeros() as usize)
    }

    fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    fn and_not(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    fn only(self, keep: impl Fn(usize) -> bool) -> Self {
        let mut kept = Self::default();
        self.iter().filter(|at| keep(*at)).for_each(|at| kept.insert(at));
        kept
    }
}
