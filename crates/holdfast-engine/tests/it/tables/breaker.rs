//! The breaker's two tables.

use std::time::{Duration, Instant};

use holdfast_engine::breaker::{Breaker, Outcome, Override, Params, Permit, Phase};

use super::table;

const SECOND: Duration = Duration::from_secs(1);
/// The step of the recovery in which the machine is put; the fourth lets four tenths pass.
const STEP: u32 = 4;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Event {
    Success,
    ThirdSuccess,
    Failure,
    FifthFailure,
    Rate,
    RateInFirstStep,
    NotReached,
    FifthNotReached,
    Late,
    Overdue,
    FiveOverdue,
    Begun,
    BegunThird,
    BegunBroken,
    BegunLate,
    BackPressure,
    SessionLost,
    GivenUp,
    Stragglers,
    TimeOver,
    Hour,
    ClusterOpens,
    ClusterOld,
    ClusterReleases,
    Serves,
    ClusterTakesBack,
    OperatorOpen,
    OperatorClosed,
    OperatorAutomatic,
    OperatorHeld,
    OperatorHeldDoubted,
    OperatorOld,
    Settings,
    Off,
    OffCluster,
    OffFailures,
    OffAutomatic,
}

/// The name of each event; the match is what keeps the list complete.
fn name(event: Event) -> &'static str {
    match event {
        Event::Success => "a success",
        Event::ThirdSuccess => "the third success in a row",
        Event::Failure => "a failure among many successes",
        Event::FifthFailure => "the fifth failure in a row",
        Event::Rate => "a failure that makes the rate too high",
        Event::RateInFirstStep => "the same in the first step",
        Event::NotReached => "not reached, among many successes",
        Event::FifthNotReached => "the fifth in a row not reached",
        Event::Late => "a success that came too late",
        Event::Overdue => "a call becomes overdue",
        Event::FiveOverdue => "five calls become overdue",
        Event::Begun => "five calls begin to answer, and take long",
        Event::BegunThird => "three calls that began to answer end well",
        Event::BegunBroken => "five calls begin to answer, and break",
        Event::BegunLate => "five calls begin to answer too late",
        Event::BackPressure => "the server asks for time",
        Event::SessionLost => "the server lost a session",
        Event::GivenUp => "a call is given up",
        Event::Stragglers => "five failures of stragglers",
        Event::TimeOver => "its time is over",
        Event::Hour => "an hour goes by",
        Event::ClusterOpens => "the cluster opens it",
        Event::ClusterOld => "the cluster opens it, an older word",
        Event::ClusterReleases => "the cluster releases it",
        Event::Serves => "its instance begins to serve",
        Event::ClusterTakesBack => "the cluster opens it, and takes that back",
        Event::OperatorOpen => "an operator holds it open",
        Event::OperatorClosed => "an operator holds it closed",
        Event::OperatorAutomatic => "an operator lets it decide",
        Event::OperatorHeld => "an operator holds it open, and lets it decide",
        Event::OperatorHeldDoubted => "the same, and the cluster opens it meanwhile",
        Event::OperatorOld => "an operator's older word",
        Event::Settings => "other settings",
        Event::Off => "it is switched off",
        Event::OffCluster => "it is switched off, and the cluster opens it",
        Event::OffFailures => "it is switched off, and a hundred calls fail",
        Event::OffAutomatic => "it is switched off, and an operator lets it decide",
    }
}

const EVENTS: [Event; 37] = [
    Event::Success,
    Event::ThirdSuccess,
    Event::Failure,
    Event::FifthFailure,
    Event::Rate,
    Event::RateInFirstStep,
    Event::NotReached,
    Event::FifthNotReached,
    Event::Late,
    Event::Overdue,
    Event::FiveOverdue,
    Event::Begun,
    Event::BegunThird,
    Event::BegunBroken,
    Event::BegunLate,
    Event::BackPressure,
    Event::SessionLost,
    Event::GivenUp,
    Event::Stragglers,
    Event::TimeOver,
    Event::Hour,
    Event::ClusterOpens,
    Event::ClusterOld,
    Event::ClusterReleases,
    Event::Serves,
    Event::ClusterTakesBack,
    Event::OperatorOpen,
    Event::OperatorClosed,
    Event::OperatorAutomatic,
    Event::OperatorHeld,
    Event::OperatorHeldDoubted,
    Event::OperatorOld,
    Event::Settings,
    Event::Off,
    Event::OffCluster,
    Event::OffFailures,
    Event::OffAutomatic,
];

const STATES: [(Phase, &str); 6] = [
    (Phase::Closed, "Closed"),
    (Phase::Open, "Open"),
    (Phase::HalfOpen, "HalfOpen"),
    (Phase::Recovering, "Recovering"),
    (Phase::ForcedOpen, "ForcedOpen"),
    (Phase::ForcedClosed, "ForcedClosed"),
];

/// A breaker with a clock, in some state.
struct Rig {
    breaker: Breaker,
    now: Instant,
    stragglers: Vec<Permit>,
}

impl Rig {
    /// Puts a breaker into a state, with five calls under way that were admitted before it.
    fn new(phase: Phase, step: u32) -> Self {
        let now = Instant::now();
        let breaker = Breaker::new(Params::default(), now);
        let mut rig = Self { breaker, now, stragglers: Vec::new() };
        for _ in 0..5 {
            let permit = rig.breaker.admit(now, 0).expect("closed");
            rig.stragglers.push(permit);
        }
        match phase {
            Phase::Closed => {
                // Closed anew, so that the five are of an earlier life.
                rig.breaker.force(Override::Closed, 1, now);
                rig.breaker.force(Override::Automatic, 2, now);
            }
            Phase::Open => rig.open(),
            Phase::HalfOpen => rig.half_open(),
            Phase::Recovering => {
                rig.half_open();
                rig.send(Outcome::Success, 3);
                for _ in 1..step {
                    rig.wait(30 * SECOND);
                }
            }
            Phase::ForcedOpen => {
                rig.breaker.force(Override::Open, 1, now);
            }
            Phase::ForcedClosed => {
                rig.breaker.force(Override::Closed, 1, now);
            }
        }
        assert_eq!(rig.breaker.phase(), phase);
        rig
    }

    fn open(&mut self) {
        for _ in 0..5 {
            self.breaker.observe(Outcome::Failure, self.now, 0);
        }
    }

    fn half_open(&mut self) {
        self.open();
        self.wait(38 * SECOND);
    }

    fn switch_off(&mut self) {
        self.breaker.reconfigure(Params { enabled: false, ..Params::default() }, self.now);
    }

    fn wait(&mut self, time: Duration) {
        self.now += time;
        self.breaker.tick(self.now, 0);
    }

    /// Evidence as of calls that were admitted now, whatever share passes.
    fn send(&mut self, outcome: Outcome, calls: u32) {
        for _ in 0..calls {
            self.breaker.observe(outcome, self.now, 0);
        }
    }

    /// Calls that have begun to answer, of so many that ask within one probe interval each.
    fn streams(&mut self, calls: usize) -> Vec<Permit> {
        let mut streams: Vec<Permit> = (0..calls).filter_map(|_| self.admit()).collect();
        for stream in &mut streams {
            self.breaker.begun(stream, self.now, 0);
        }
        streams
    }

    /// A call that passes: of those that ask, one a second.
    fn admit(&mut self) -> Option<Permit> {
        self.now += SECOND;
        self.breaker.admit(self.now, 0).ok()
    }
}

fn happens(phase: Phase, event: Event) -> Phase {
    let step = if event == Event::RateInFirstStep { 1 } else { STEP };
    let mut rig = Rig::new(phase, step);
    let old = Rig::new(phase, step).breaker;
    let later = rig.now + 300 * SECOND;
    let share = rig.breaker.status().share;
    // Three successes would end the state; a failure is the first thing that happens in it.
    let before = if phase == Phase::HalfOpen { 0 } else { 200 };
    // What is open lets no call pass that could become overdue, and its time is over before that.
    let slow = if phase == Phase::Open { 20 * SECOND } else { 30 * SECOND };
    match event {
        Event::Success => rig.send(Outcome::Success, 1),
        Event::ThirdSuccess => rig.send(Outcome::Success, 3),
        Event::Failure => {
            rig.send(Outcome::Success, before);
            rig.send(Outcome::Failure, 1);
        }
        Event::NotReached => {
            rig.send(Outcome::Success, before);
            rig.send(Outcome::NotReached, 1);
        }
        Event::FifthFailure => {
            rig.send(Outcome::Success, before);
            rig.send(Outcome::Failure, 4);
            assert!(before == 0 || rig.breaker.phase() == phase);
            rig.send(Outcome::Failure, 1);
        }
        Event::FifthNotReached => {
            rig.send(Outcome::Success, before);
            rig.send(Outcome::NotReached, 4);
            assert!(before == 0 || rig.breaker.phase() == phase);
            rig.send(Outcome::NotReached, 1);
        }
        Event::Rate | Event::RateInFirstStep => {
            // Eight of fifty are too many, and seven of forty-nine are not yet; never five in a row.
            if phase != Phase::HalfOpen {
                rig.send(Outcome::Success, 41);
                rig.send(Outcome::Failure, 4);
                rig.send(Outcome::Success, 1);
                rig.send(Outcome::Failure, 3);
                assert_eq!((rig.breaker.phase(), rig.breaker.status().share), (phase, share));
            }
            rig.send(Outcome::Failure, 1);
        }
        Event::Late => {
            let permit = rig.admit();
            rig.wait(slow);
            if phase == Phase::Recovering {
                rig.send(Outcome::Success, 100);
            }
            if let Some(permit) = permit {
                rig.breaker.settle(permit, Outcome::Success, rig.now, 0);
            }
        }
        Event::Overdue => {
            let _lost = rig.admit();
            rig.wait(slow);
            if phase == Phase::Recovering {
                rig.send(Outcome::Success, 100);
            }
            rig.wait(4 * SECOND);
        }
        Event::FiveOverdue => {
            for _ in 0..60 {
                let _lost = rig.breaker.admit(rig.now, 0);
            }
            rig.wait(slow);
            rig.wait(4 * SECOND);
        }
        Event::Begun => {
            let _streams = rig.streams(5);
            rig.wait(slow);
            rig.wait(4 * SECOND);
        }
        Event::BegunThird | Event::BegunBroken => {
            let (calls, outcome) = match event {
                Event::BegunThird => (3, Outcome::Success),
                _ => (5, Outcome::Failure),
            };
            for _ in 0..calls {
                // One at a time: the beginning of the next says nothing of the last.
                for stream in rig.streams(1) {
                    rig.breaker.settle(stream, outcome, rig.now, 0);
                }
            }
        }
        Event::BegunLate => {
            let mut late: Vec<Permit> =
                (0..60).filter_map(|_| rig.breaker.admit(rig.now, 0).ok()).collect();
            rig.wait(slow);
            for permit in &mut late {
                rig.breaker.begun(permit, rig.now, 0);
            }
            rig.wait(4 * SECOND);
        }
        Event::BackPressure => rig.send(Outcome::BackPressure { retry_after: 9 * SECOND }, 10),
        Event::SessionLost => rig.send(Outcome::SessionLost, 10),
        Event::GivenUp => {
            for _ in 0..10 {
                if let Some(permit) = rig.admit() {
                    rig.breaker.abandon(permit, rig.now, 0);
                }
            }
        }
        Event::Stragglers => {
            for permit in std::mem::take(&mut rig.stragglers) {
                rig.breaker.settle(permit, Outcome::Failure, rig.now, 0);
            }
        }
        Event::TimeOver => match phase {
            Phase::Open => rig.wait(38 * SECOND),
            Phase::Recovering => rig.wait(30 * SECOND),
            Phase::Closed | Phase::HalfOpen | Phase::ForcedOpen | Phase::ForcedClosed => {
                rig.wait(SECOND);
            }
        },
        Event::Hour => rig.wait(3600 * SECOND),
        Event::ClusterOpens => assert!(rig.breaker.opened_by_cluster(later, 1, rig.now, 0)),
        Event::ClusterOld => {
            assert!(rig.breaker.released_by_cluster(9, rig.now));
            rig = Rig { breaker: old, ..rig };
            assert!(rig.breaker.opened_by_cluster(rig.now, 9, rig.now, 0), "over before it came");
            assert!(!rig.breaker.opened_by_cluster(later, 8, rig.now, 0));
            assert!(!rig.breaker.opened_by_cluster(later, 9, rig.now, 0));
        }
        Event::ClusterReleases => assert!(rig.breaker.released_by_cluster(1, rig.now)),
        Event::Serves => rig.breaker.start_over(rig.now, 0),
        Event::ClusterTakesBack => {
            assert!(rig.breaker.opened_by_cluster(later, 1, rig.now, 0));
            assert!(rig.breaker.released_by_cluster(2, rig.now));
        }
        Event::OperatorOpen => assert!(rig.breaker.force(Override::Open, 5, rig.now)),
        Event::OperatorClosed => assert!(rig.breaker.force(Override::Closed, 5, rig.now)),
        Event::OperatorAutomatic => assert!(rig.breaker.force(Override::Automatic, 5, rig.now)),
        Event::OperatorHeld | Event::OperatorHeldDoubted => {
            assert!(rig.breaker.force(Override::Open, 5, rig.now));
            if event == Event::OperatorHeldDoubted {
                assert!(rig.breaker.opened_by_cluster(later, 1, rig.now, 0));
            }
            assert!(rig.breaker.force(Override::Automatic, 6, rig.now));
        }
        Event::OperatorOld => {
            for what in [Override::Open, Override::Closed, Override::Automatic] {
                assert!(!rig.breaker.force(what, 0, rig.now));
            }
        }
        Event::Settings => {
            let params = Params { consecutive_failures: 7, ..Params::default() };
            rig.breaker.reconfigure(params, rig.now);
        }
        Event::Off => rig.switch_off(),
        Event::OffCluster => {
            rig.switch_off();
            assert!(rig.breaker.opened_by_cluster(later, 1, rig.now, 0));
        }
        Event::OffFailures => {
            rig.switch_off();
            rig.send(Outcome::Failure, 50);
            rig.send(Outcome::NotReached, 50);
        }
        Event::OffAutomatic => {
            rig.switch_off();
            assert!(rig.breaker.force(Override::Automatic, 5, rig.now));
        }
    }
    rig.breaker.phase()
}

#[test]
fn every_cell_of_the_breakers_table_is_as_it_says() {
    let events: Vec<(Event, &str)> = EVENTS.map(|event| (event, name(event))).to_vec();
    table("Breaker", 0)
        .check(&STATES, &events, |phase, event| format!("{:?}", happens(phase, event)));
}

#[derive(Clone, Copy, Debug)]
enum Asked {
    First,
    Many,
    Silence,
    Held,
}

const ASKED: [(Asked, &str); 4] = [
    (Asked::First, "the first call"),
    (Asked::Many, "ten thousand calls at once"),
    (Asked::Silence, "a call when none has passed for the probe interval"),
    (Asked::Held, "a call while the server asked for time"),
];

fn admits(phase: Phase, asked: Asked) -> String {
    let mut rig = Rig::new(phase, STEP);
    let said = |passes: bool| if passes { "passes" } else { "refused" }.to_owned();
    let chance = |call: u64| call.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    match asked {
        Asked::First => said(rig.breaker.admit(rig.now, 0).is_ok()),
        Asked::Many => {
            let passed = (0..10_000)
                .filter(|call| rig.breaker.admit(rig.now, chance(*call)).is_ok())
                .count();
            match passed {
                0 => "none",
                10_000 => "all",
                983..=1017 => "a tenth",
                3983..=4017 if phase == Phase::Recovering => "as many tenths as the step",
                _ => panic!("{passed} of 10,000 passed"),
            }
            .to_owned()
        }
        Asked::Silence => {
            // Until one is refused, or all pass.
            (0..100).take_while(|_| rig.breaker.admit(rig.now, 0).is_ok()).for_each(drop);
            rig.now += SECOND;
            said(rig.breaker.admit(rig.now, 0).is_ok())
        }
        Asked::Held => {
            let hold = Outcome::BackPressure { retry_after: 9 * SECOND };
            rig.send(hold, 1);
            said(rig.breaker.admit(rig.now + SECOND, 0).is_ok())
        }
    }
}

#[test]
fn every_cell_of_the_table_of_admissions_is_as_it_says() {
    table("Breaker", 1).check(&STATES, &ASKED, admits);
}
