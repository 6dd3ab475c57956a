//! What holds whatever happens, in whatever order.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::replicated::{
    Body, Command as Entry, ControlCommand, Machine, Origin, Reply, ServerCommand,
};

#[derive(Clone, Debug)]
enum Event {
    Passes(u64),
    Becomes(usize, usize),
    Reports(usize, bool),
    Moves(Option<usize>, bool),
    Back(bool),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        6 => (0u64..40_000).prop_map(Event::Passes),
        1 => (0u64..2_000_000).prop_map(Event::Passes),
        4 => (0usize..4, 0usize..5).prop_map(|(at, how)| Event::Becomes(at, how)),
        8 => (0usize..6, any::<bool>()).prop_map(|(which, late)| Event::Reports(which, late)),
        1 => (proptest::option::of(0usize..4), any::<bool>()).prop_map(|(to, force)| Event::Moves(to, force)),
        1 => any::<bool>().prop_map(Event::Back),
    ];
    prop::collection::vec(event, 1..150)
}

const NAMES: [&str; 4] = ["a", "b", "c", "r"];

impl Bench {
    fn happens(&mut self, event: &Event) -> Result<Stepped, Refusal> {
        let by = || "ops".to_owned();
        match event {
            Event::Passes(passes) => Ok(self.tick(*passes)),
            Event::Becomes(at, how) => {
                let name = NAMES[*at];
                match how {
                    0 | 1 => self.well(name),
                    2 => self.down(name),
                    3 => self.set(name, Opinion::Degraded, Cause::Errors),
                    _ => self.set(name, Opinion::Degraded, Cause::Score),
                }
                Ok(self.tick(0))
            }
            Event::Reports(which, late) => {
                let report = match which {
                    0 => Report::Paused,
                    1 => Report::Drained,
                    2 => Report::Checked(Ok(())),
                    3 => Report::Checked(Err("differs".into())),
                    4 => Report::Switched,
                    _ => Report::Notified,
                };
                let (generation, step) = (self.state.generation, self.state.step);
                let step = if *late { step.wrapping_sub(1) } else { step };
                self.step(&Input::Report { generation, step, report })
            }
            Event::Moves(to, force) => {
                let to = to.map(|at| NAMES[at].to_owned());
                self.step(&Input::Move { to, by: by(), force: *force })
            }
            Event::Back(at_once) => self.step(&Input::Back { by: by(), at_once: *at_once }),
        }
    }
}

/// A group that holds the server's state, to which every step is proposed.
struct Group {
    machine: Machine,
    index: u64,
}

impl Group {
    fn new() -> Self {
        let mut group = Self { machine: Machine::default(), index: 0 };
        let (name, text) = ("gateway-1".to_owned(), String::new);
        let (peer, client, admin, version) = (text(), text(), text(), text());
        group.apply(0, ControlCommand::Join { node: 1, name, peer, client, admin, version });
        group.apply(
            1,
            ControlCommand::Server(ServerCommand::Define {
                server: "db".into(),
                primary: "a".into(),
                instances: NAMES.map(str::to_owned).to_vec(),
                term: 1,
            }),
        );
        group
    }

    fn apply(&mut self, generation: u64, body: ControlCommand) -> Reply {
        self.index += 1;
        let (origin, body) = (Origin { node: 1, generation }, Body::Control(body));
        let command = Entry { origin, serial: self.index, settled_below: 0, now: 1, body };
        self.machine.apply(self.index, 1, &command)
    }

    fn state(&self) -> &Failover {
        &self.machine.control.servers.by_name["db"].failover
    }

    fn propose(&mut self, follows: (u64, u32), next: &Failover) -> Reply {
        self.apply(
            1,
            ControlCommand::Server(ServerCommand::Failover {
                server: "db".into(),
                follows,
                next: Box::new(next.clone()),
                evidence: String::new(),
                term: 1,
            }),
        )
    }
}

proptest! {
    /// Steps count up by one, the active instance changes once per generation at most and in its
    /// switch, a share only rises within a move, a replica never becomes active, orders follow from the
    /// state alone, and the group takes every step in.
    #[test]
    fn every_step_is_one_that_may_be(events in events(), check: bool) {
        let mut bench = Bench::new();
        bench.params.check = check;
        let mut group = Group::new();
        let mut switches: BTreeMap<u64, u32> = BTreeMap::new();
        for event in &events {
            let before = bench.state.clone();
            let Ok(stepped) = bench.happens(event) else {
                prop_assert_eq!(&bench.state, &before, "a refusal changes nothing");
                continue;
            };
            let after = &bench.state;
            prop_assert_eq!(stepped.changed, *after != before);
            prop_assert_eq!(&stepped.orders, &after.orders(&bench.params, 1));
            prop_assert!(stepped.orders.iter().all(|it| it.fence == after.fence(1)));
            if !stepped.changed {
                continue;
            }
            let goes_on = after.generation == before.generation && after.step == before.step + 1;
            let begins = after.generation == before.generation + 1 && after.step == 0;
            prop_assert!(goes_on || begins, "{:?} to {:?}", before, after);
            if after.active != before.active {
                *switches.entry(after.generation).or_default() += 1;
                let it = after.moving().unwrap();
                prop_assert_eq!((it.stage, &it.to, &it.from), (Stage::Switch, &after.active, &before.active));
                prop_assert_ne!(after.active.as_str(), "r");
            }
            let share = |it: &Failover| match it.moving().map(|it| it.stage) {
                Some(Stage::Ramp { percent }) => Some(percent),
                _ => None,
            };
            if let (true, Some(one), Some(two)) = (goes_on, share(&before), share(after)) {
                prop_assert!(one < two && two <= 100);
            }
            let follows = (before.generation, before.step);
            let reply = group.propose(follows, after);
            prop_assert!(matches!(reply, Reply::Done { .. }), "{:?}: {:?} to {:?}", reply, before, after);
            prop_assert_eq!(group.state(), after);
        }
        prop_assert!(switches.values().all(|it| *it == 1));
    }

    /// A session has one instance in every state: the active one, or in a ramp the target; and while a
    /// move goes on it goes over once.
    #[test]
    fn a_session_is_in_one_place_and_goes_over_once(events in events()) {
        let mut bench = Bench::new();
        let mut places: BTreeMap<u64, (u64, String)> = BTreeMap::new();
        for event in &events {
            let _ = bench.happens(event);
            let state = &bench.state;
            for key in 0..32_u64 {
                let Route::To(name) = state.route(key) else { continue };
                prop_assert!(state.serves(name));
                let before = places.insert(key, (state.generation, name.to_owned()));
                if let Some((generation, was)) = before
                    && generation == state.generation
                    && was != name
                {
                    // Back only when the move was taken back.
                    let it = state.moving();
                    let rolled_back = it.is_none_or(|it| {
                        matches!(it.stage, Stage::Notify { end: End::RolledBack })
                    });
                    let over = it.is_some_and(|it| it.to == name);
                    prop_assert!(over || rolled_back, "{} to {} in {:?}", was, name, state);
                }
            }
        }
    }

    /// Nothing waits without a limit: if all become well and nobody reports anything, the server rests
    /// within the limits of all stages, and the primary is active again a while later unless an operator
    /// moved it.
    #[test]
    fn it_comes_to_rest_without_a_single_report(events in events()) {
        let mut bench = Bench::new();
        bench.params.check = false;
        for event in &events {
            let _ = bench.happens(event);
        }
        for name in NAMES {
            bench.well(name);
        }
        // Eight delays at most, and a failback.
        for _ in 0..700 {
            bench.tick(5_000);
        }
        let rests =
            if bench.state.by_hand { Phase::SecondaryActive } else { Phase::PrimaryActive };
        prop_assert_eq!(&bench.state.phase, &rests);
        prop_assert!(bench.state.tried.len() <= NAMES.len());
    }
}
