//! What must hold, judged by what really happened and not by what the nodes believe.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use holdfast_engine::breaker::{Cause, Override, Params, Phase, Transition};

use super::node::End;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// The truth about one node.
pub(crate) struct Truth {
    /// When calls of this node were failed by the server, or swallowed on the way to it.
    failed: VecDeque<Instant>,
    refused: Option<Instant>,
    /// Since when none of its calls can succeed.
    pub(crate) hopeless_since: Option<Instant>,
    /// Since when it is in the phase in which it is.
    pub(crate) phase: Phase,
    pub(crate) since: Instant,
    pub(crate) born: Instant,
    /// It opened by what it saw of the server, and has not heard the cluster since.
    pub(crate) own: bool,
    pub(crate) forced: Override,
    /// The newest of the cluster's words that it has heard.
    pub(crate) newest_word: u64,
}

impl Truth {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            failed: VecDeque::new(),
            refused: None,
            hopeless_since: None,
            phase: Phase::Closed,
            since: now,
            born: now,
            own: false,
            forced: Override::Automatic,
            newest_word: 0,
        }
    }

    /// The node dies and another life begins. What happened has happened.
    pub(crate) fn restarts(&mut self, now: Instant) {
        *self = Self { failed: std::mem::take(&mut self.failed), ..Self::new(now) };
    }

    pub(crate) fn sent(&mut self, end: End, now: Instant) -> Result<(), String> {
        match end {
            End::ServerError | End::Hung => self.failed.push_back(now),
            End::Refused => self.refused = Some(now),
            End::Answer | End::ErrorAnswer | End::Busy | End::ClientLeft => {}
        }
        if matches!(self.phase, Phase::Open | Phase::ForcedOpen) {
            return Err(format!("a call was sent while the breaker is {:?}", self.phase));
        }
        Ok(())
    }

    fn failures_within(&self, time: Duration, now: Instant) -> usize {
        self.failed.iter().rev().take_while(|at| now - **at <= time).count()
    }
}

/// Whether a breaker's opening has a reason in what really happened.
pub(crate) fn opened(
    node: usize,
    it: &Transition,
    truths: &[Truth; 3],
    params: &Params,
    now: Instant,
) -> Result<(), String> {
    let own = &truths[node];
    // Until a call that hangs is overdue, and an answer's time beside that.
    let due = params.slow + params.slow / 8 + SECOND;
    let really = match it.cause {
        Cause::InARow(calls) => {
            let calls = calls.min(params.consecutive_failures) as usize;
            own.failures_within(due + SECOND, now) >= calls
        }
        Cause::Rate { .. } => own.failures_within(params.window + due, now) >= 8,
        Cause::ProbeFailed | Cause::Degraded { .. } => {
            own.failures_within(due + params.recover_for, now) >= 1
        }
        Cause::NotReachedInARow(_) | Cause::ProbeNotReached | Cause::NotReachedRate { .. } => {
            own.refused.is_some_and(|at| now - at <= params.window)
        }
        Cause::Cluster => {
            let long = params.window + due;
            truths.iter().filter(|it| it.failures_within(long, now) >= 1).count() >= 2
        }
        Cause::Operator => true,
        Cause::TimePassed | Cause::ProbesSucceeded | Cause::Recovered | Cause::SwitchedOff => false,
    };
    if really { Ok(()) } else { Err(format!("node {node} opened without a reason: {}", it.cause)) }
}

/// What holds at every moment. `heard`: the nodes and the coordinator have heard each other lately.
pub(crate) fn always(
    truths: &[Truth; 3],
    heard: bool,
    params: &Params,
    now: Instant,
) -> Result<(), String> {
    let lets_pass = |it: &Truth| {
        it.forced == Override::Automatic && matches!(it.phase, Phase::Closed | Phase::Recovering)
    };
    for (node, it) in truths.iter().enumerate() {
        // Twenty calls a second, or two while it recovers: after so long the breaker knows.
        let few = it.phase == Phase::Recovering;
        let knows = params.slow + params.slow / 8 + SECOND * if few { 6 } else { 3 };
        let since = it.hopeless_since.map(|since| since.max(it.born).max(it.since));
        if lets_pass(it) && since.is_some_and(|since| now - since > knows) {
            return Err(format!("node {node} does not notice that no call succeeds"));
        }
        let open = |other: &Truth| {
            other.own && other.phase == Phase::Open && now - other.since > 1500 * MS
        };
        let others = truths.iter().enumerate().filter(|(at, other)| *at != node && open(other));
        if heard
            && others.count() == 2
            && lets_pass(it)
            && it.hopeless_since.is_some_and(|since| now - since > 1500 * MS)
            && now - it.since.max(it.born) > 1500 * MS
        {
            return Err(format!("node {node} is not told that the server is open"));
        }
    }
    Ok(())
}
