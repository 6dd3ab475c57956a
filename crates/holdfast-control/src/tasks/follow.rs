//! Tells the data plane what the group has agreed on: where calls go, how well every instance is, and
//! which breakers are kept open or closed.
//!
//! What it was told is remembered, so that it is told changes only. What an operator held and let go between two
//! looks is not there any more, and every breaker ends as if it had heard of it: the record says so. With another configuration it is told
//! everything, also what holds no more: who told it before may have ended before it could say so. It never
//! waits for anything.

use std::sync::Arc;
use std::time::Duration;

use holdfast_engine::breaker::Override as Held;
use holdfast_engine::replicated::{
    ClusterState, Override, OverrideKind, ServerEvent, ServerHappened, ServerState, tool_key,
};

use crate::desk::members;
use crate::driver::{Reconciler, Status};
use crate::plane::{At, Verdict, Word};
use crate::shared::Shared;

/// The watch nudges; this is for a nudge that was lost.
const EVERY: Duration = Duration::from_secs(5);

pub(crate) struct Follow {
    shared: Arc<Shared>,
    told: Vec<Told>,
    /// This node's place among so many that share the rates.
    shares: Option<(usize, usize)>,
}

/// What the data plane was told of a server.
#[derive(Clone, Default)]
struct Told {
    step: Option<(u64, u32)>,
    verdicts: Vec<Option<Verdict>>,
    /// By instance; the last is the server's own. None before the first word.
    breakers: Vec<Option<Kept>>,
    /// By tool that has a breaker of its own.
    tools: Vec<Option<Kept>>,
    /// The last number of an override that was seen; none before the first word.
    seen: Option<u64>,
}

/// What a breaker was told that it is kept at, and by which word.
type Kept = Option<(OverrideKind, u64)>;

// === impl Follow ===

impl Follow {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        let told = shared.plan.servers.iter().map(|server| Told {
            step: None,
            verdicts: vec![None; server.instances.len()],
            breakers: vec![None; server.instances.len() + 1],
            tools: vec![None; server.tools.len()],
            seen: None,
        });
        let told = told.collect();
        Self { shared, told, shares: None }
    }

    /// What an instance may take a minute is shared by the members that serve.
    fn share_rates(&mut self, state: &ClusterState) {
        let serving = members(state);
        let me = self.shared.group.me();
        let place = serving.iter().position(|member| member.node == me);
        let shares = place.map(|place| (place, serving.len()));
        if let Some((place, nodes)) = shares.filter(|_| shares != self.shares) {
            self.shared.plane.share_rates(place, nodes);
        }
        self.shares = shares;
    }

    fn tell(&mut self, server: usize, all: &ClusterState, state: &ServerState, now: u64) -> bool {
        let shared = Arc::clone(&self.shared);
        let planned = &shared.plan.servers[server];
        let told = &mut self.told[server];
        for (instance, it) in planned.instances.iter().enumerate() {
            let verdict = shared.verdict(planned, state, &it.id);
            let verdict = verdict.map_or_else(Verdict::unknown, |it| Verdict {
                opinion: it.opinion,
                score: it.score,
                why: it.why.as_str().into(),
            });
            if told.verdicts[instance].as_ref() != Some(&verdict) {
                told.verdicts[instance] = Some(verdict.clone());
                shared.plane.judge(At { server, instance }, verdict);
            }
        }
        // Nothing was held since.
        let since = told.seen.filter(|seen| *seen < state.override_generation);
        let meanwhile = |name: &str| {
            let of = |it: &&ServerEvent| it.server == planned.name && it.instance == name;
            since.and_then(|since| last_held(all.servers.events.iter().filter(of), since))
        };
        let names = planned.instances.iter().map(|it| it.id.as_str()).chain([""]);
        for (place, name) in names.enumerate() {
            let instance = (place < planned.instances.len()).then_some(place);
            for word in news(&mut told.breakers[place], name, meanwhile(name), state, now) {
                shared.plane.say(server, instance, word);
            }
        }
        for (place, tool) in planned.tools.iter().enumerate() {
            let key = tool_key(tool);
            for word in news(&mut told.tools[place], &key, meanwhile(&key), state, now) {
                shared.plane.say_of_tool(server, tool, word);
            }
        }
        told.seen = Some(state.override_generation);
        let step = (state.failover.generation, state.failover.step);
        let moved = told.step != Some(step);
        told.step = Some(step);
        // By another configuration calls go to all of its instances: whoever does not follow confirms nothing.
        if planned.failover.is_some() {
            if moved {
                shared.plane.route(server, Arc::new(state.failover.clone()));
            }
            shared.now_follows(server, step);
        }
        moved
    }
}

impl Reconciler for Follow {
    const NAME: &'static str = "follow";

    async fn activate(&mut self) -> Status {
        let state = self.shared.state();
        let now = self.shared.group.time();
        self.share_rates(&state);
        self.shared.tell_what_is_read();
        let mut moved = false;
        for server in 0..self.shared.plan.servers.len() {
            if let Some(known) = self.shared.server(&state, server) {
                moved |= self.tell(server, &state, &known, now);
            }
        }
        if moved {
            self.shared.nudges.report.nudge();
        }
        Status::Settled(EVERY)
    }
}

/// What the breaker that is kept under this name has to be told; `told`: what it was, and is from here on.
/// `meanwhile`: what an operator held it at since, for the last time.
fn news(
    told: &mut Option<Kept>,
    name: &str,
    meanwhile: Kept,
    state: &ServerState,
    now: u64,
) -> Vec<Word> {
    let wanted = state.breakers.get(name);
    let was = told.replace(wanted.map(|it| (it.kind, it.generation)));
    let mut all = match was {
        None => anew(wanted, state.override_generation),
        Some(_) => Vec::new(),
    };
    let was = was.flatten();
    let past =
        meanwhile.filter(|it| Some(*it) != was && wanted.is_none_or(|now| it.1 < now.generation));
    if let Some((kind, generation)) = past {
        let (by, why) = (String::new(), String::new());
        let past = Override { kind, generation, until: None, since: 0, by, why };
        all.extend(words(was, Some(&past), now));
    }
    all.extend(words(past.or(was), wanted, now));
    all
}

/// What an operator held a breaker at after this number, for the last time, by what the record says of it.
fn last_held<'e>(of: impl DoubleEndedIterator<Item = &'e ServerEvent>, since: u64) -> Kept {
    let held = |it: &ServerEvent| match it.what {
        ServerHappened::BreakerForcedOpen => Some((OverrideKind::ForcedOpen, it.index)),
        ServerHappened::BreakerForcedClosed => Some((OverrideKind::ForcedClosed, it.index)),
        _ => None,
    };
    of.rev().take_while(|it| it.index > since).find_map(held)
}

/// What a breaker has to be told of which nobody knows what it was told: that what holds no more was let
/// go. `last`: the last generation that an override of the server had.
fn anew(wanted: Option<&Override>, last: u64) -> Vec<Word> {
    // Above whatever came before, and below what holds now.
    let above = last.saturating_mul(2).saturating_add(1);
    let generation = wanted.map_or(above, |it| it.generation.saturating_mul(2).saturating_sub(1));
    let automatic = Word::Forced { what: Held::Automatic, generation };
    let released = Word::Released { generation };
    match wanted.map(|it| it.kind) {
        _ if last == 0 => Vec::new(),
        None => vec![automatic, released],
        Some(OverrideKind::Opened) => vec![automatic],
        Some(OverrideKind::ForcedOpen | OverrideKind::ForcedClosed) => vec![released],
    }
}

/// What a breaker has to be told that was told `was`. The group's word about one override is twice its
/// generation, and that it holds no more is one above.
fn words(was: Kept, wanted: Option<&Override>, now: u64) -> Vec<Word> {
    if was == wanted.map(|it| (it.kind, it.generation)) {
        return Vec::new();
    }
    let mut words = Vec::new();
    let is_operators = |kind| kind != OverrideKind::Opened;
    if let Some((kind, generation)) = was {
        let generation = generation.saturating_mul(2).saturating_add(1);
        match (is_operators(kind), wanted.map(|it| is_operators(it.kind))) {
            // The next one takes its place.
            (true, Some(true)) | (false, Some(false)) => {}
            (true, _) => words.push(Word::Forced { what: Held::Automatic, generation }),
            (false, _) => words.push(Word::Released { generation }),
        }
    }
    if let Some(wanted) = wanted {
        let generation = wanted.generation.saturating_mul(2);
        let until = wanted.until.unwrap_or(u64::MAX);
        let length = Duration::from_millis(until.saturating_sub(now).min(LONGEST));
        words.push(match wanted.kind {
            OverrideKind::Opened => Word::Opened { length, generation },
            OverrideKind::ForcedOpen => Word::Forced { what: Held::Open, generation },
            OverrideKind::ForcedClosed => Word::Forced { what: Held::Closed, generation },
        });
    }
    words
}

/// A day, in milliseconds: the group never opens a breaker for longer.
const LONGEST: u64 = 86_400_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn made(kind: OverrideKind, generation: u64) -> Override {
        let (by, why) = ("ops".to_owned(), String::new());
        Override { kind, generation, until: Some(9_000), since: 0, by, why }
    }

    #[test]
    fn a_breaker_of_which_nothing_is_known_is_told_what_holds_no_more() {
        use OverrideKind::{ForcedOpen, Opened};
        let automatic = |generation| Word::Forced { what: Held::Automatic, generation };
        let released = |generation| Word::Released { generation };
        let table = [
            (None, 0, vec![]),
            (None, 3, vec![automatic(7), released(7)]),
            (Some(made(Opened, 3)), 3, vec![automatic(5)]),
            (Some(made(ForcedOpen, 2)), 3, vec![released(3)]),
        ];
        for (wanted, last, expected) in table {
            assert_eq!(anew(wanted.as_ref(), last), expected, "{wanted:?} {last}");
        }
    }

    /// Each row: what it was told, what was held and let go since, and what it hears of that.
    #[test]
    fn what_was_held_and_let_go_between_two_looks_is_told_all_the_same() {
        use OverrideKind::{ForcedClosed, ForcedOpen, Opened};
        let state = ServerState {
            failover: holdfast_engine::failover::Failover::new("a"),
            verdicts: Default::default(),
            breakers: Default::default(),
            override_generation: 9,
        };
        let forced = |what, generation| Word::Forced { what, generation };
        let closed = [forced(Held::Closed, 18), forced(Held::Automatic, 19)];
        let table = [
            (None, Some((ForcedClosed, 9)), closed.to_vec()),
            (Some((ForcedOpen, 4)), Some((ForcedClosed, 9)), closed.to_vec()),
            (
                Some((Opened, 4)),
                Some((ForcedClosed, 9)),
                [&[Word::Released { generation: 9 }], &closed[..]].concat(),
            ),
            (Some((ForcedClosed, 9)), Some((ForcedClosed, 9)), vec![closed[1]]),
            (None, None, vec![]),
        ];
        for (was, meanwhile, expected) in table {
            let mut told = Some(was);
            assert_eq!(news(&mut told, "a", meanwhile, &state, 1_000), expected, "{was:?}");
            assert_eq!(told, Some(None));
        }
    }

    #[test]
    fn a_breaker_is_told_each_change_once_and_what_was_taken_back() {
        use OverrideKind::{ForcedClosed, ForcedOpen, Opened};
        let length = Duration::from_secs(8);
        let opened = Word::Opened { length, generation: 2 };
        let forced = |what, generation| Word::Forced { what, generation };
        let table = [
            (None, None, vec![]),
            (None, Some(made(Opened, 1)), vec![opened]),
            (Some((Opened, 1)), Some(made(Opened, 1)), vec![]),
            (Some((Opened, 1)), None, vec![Word::Released { generation: 3 }]),
            (
                Some((Opened, 1)),
                Some(made(ForcedClosed, 2)),
                vec![Word::Released { generation: 3 }, forced(Held::Closed, 4)],
            ),
            (Some((ForcedClosed, 2)), Some(made(ForcedOpen, 3)), vec![forced(Held::Open, 6)]),
            (Some((ForcedOpen, 3)), None, vec![forced(Held::Automatic, 7)]),
        ];
        for (was, wanted, expected) in table {
            assert_eq!(words(was, wanted.as_ref(), 1_000), expected, "{was:?} {wanted:?}");
        }
    }
}
