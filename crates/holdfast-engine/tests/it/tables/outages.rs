//! What makes an outage of a server, how far it has come, and what ends it.

use holdfast_engine::health::votes::{Cause, Opinion};
use holdfast_engine::objectives::{Ending, Objective, outages};
use holdfast_engine::replicated::{ServerEvent, ServerHappened};

use super::table;

/// The only server's history: a line each second.
#[derive(Default)]
struct History(Vec<ServerEvent>);

impl History {
    fn say(&mut self, what: ServerHappened) {
        let switches = |it: &ServerHappened| *it == ServerHappened::Switched;
        let before = self.0.iter().filter(|it| switches(&it.what)).count();
        self.say_of(before + usize::from(switches(&what)), what);
    }

    /// The next instance that will be active is of no use.
    fn next_is_ill(&mut self) {
        let before = self.0.iter().filter(|it| it.what == ServerHappened::Switched).count();
        let to = Opinion::Unhealthy;
        let what = ServerHappened::Verdict { from: None, to, active: false, evidence_since: 0 };
        self.say_of(before + 1, what);
    }

    fn say_of(&mut self, instance: usize, what: ServerHappened) {
        let index = self.0.len() as u64 + 1;
        self.0.push(ServerEvent {
            index,
            at: index * 1_000,
            server: "docs".to_owned(),
            instance: ["a", "b", "c"][instance].to_owned(),
            generation: 1,
            what,
            evidence: String::new(),
        });
    }

    /// Whether the end of the move does not end it.
    fn stays_open(&self) -> bool {
        let mut settles = Self(self.0.clone());
        settles.say(ServerHappened::Settled);
        outages(&settles.0).last().is_some_and(|it| it.ending == Ending::Open)
    }

    fn state(&self) -> &'static str {
        let all = outages(&self.0);
        let Some(last) = all.last() else {
            let mut leaves = Self(self.0.clone());
            leaves.say(ServerHappened::FailoverBegan);
            return if outages(&leaves.0).is_empty() { "none" } else { "errors" };
        };
        let goes_on = |now| last.judge(Objective::of_tier(1), now).took;
        match last.ending {
            Ending::Open if last.switched.is_some() && self.stays_open() => "ill",
            Ending::Open if goes_on(1_000_000) == goes_on(2_000_000) => "in use",
            Ending::Open if last.switched.is_some() => "switched",
            Ending::Open if last.decided.is_some() => "decided",
            Ending::Open => "open",
            Ending::FailedOver | Ending::Recovered | Ending::Retired => "over",
        }
    }
}

fn found(to: Opinion) -> ServerHappened {
    ServerHappened::Verdict { from: None, to, active: true, evidence_since: 0 }
}

fn fail(cause: Cause) -> ServerHappened {
    ServerHappened::CallsFail { from: Some(Opinion::Healthy), cause, evidence_since: 0 }
}

#[test]
fn what_becomes_of_an_outage() {
    use ServerHappened::*;
    let down = found(Opinion::Unhealthy);
    let to_use = [down, FailoverBegan, Switched, Progressed];
    let errors = [fail(Cause::Errors)];
    let ill = [down, FailoverBegan, Switched, down];
    let states: [(&[ServerHappened], &str); 7] = [
        (&[], "none"),
        (&errors, "errors"),
        (&to_use[..1], "open"),
        (&to_use[..2], "decided"),
        (&to_use[..3], "switched"),
        (&to_use, "in use"),
        (&ill, "ill"),
    ];
    let is_well = |what| (what, false);
    let events = [
        (is_well(down), "the active instance is found unhealthy"),
        (is_well(fail(Cause::BreakerOpen)), "its breakers are open on most nodes"),
        (is_well(fail(Cause::Errors)), "too many of its calls fail"),
        (is_well(found(Opinion::Degraded)), "it is found of some use"),
        (is_well(FailoverBegan), "a failover begins"),
        (is_well(Switched), "another instance is active"),
        ((Switched, true), "one that is of no use is made active"),
        (is_well(Progressed), "the move goes on"),
        (is_well(Answered { lost: None }), "a node reports a good answer"),
        (is_well(Failed), "the failover comes to nothing"),
        (is_well(Settled), "the move is over"),
        (is_well(Retired), "the server is not configured any more"),
    ];
    table("Outage", 0).check(&states, &events, |before, (event, is_ill)| {
        let mut history = History::default();
        before.iter().for_each(|it| history.say(*it));
        if is_ill {
            history.next_is_ill();
        }
        history.say(event);
        history.state().to_owned()
    });
}
