//! Breakers that operators or the group keep: what holds whatever anybody proposes.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const INSTANCES: [&str; 3] = ["a", "b", "c"];
const TOOLS: [&str; 2] = ["read", "write"];

/// What happens to the only server's breakers.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Event {
    Passes(u64),
    /// These instances are configured.
    Defines([bool; 3]),
    Retires,
    /// Of an instance; the last is the server's own. By the coordinator, or by an operator.
    Says {
        at: usize,
        kind: Option<OverrideKind>,
        until: Option<u64>,
        generation: bool,
        group: bool,
    },
    OperatorSays {
        tool: usize,
        kind: Option<OverrideKind>,
    },
    GroupOpens {
        tool: usize,
        until: u64,
    },
}

fn kinds() -> impl Strategy<Value = Option<OverrideKind>> {
    use OverrideKind::*;
    (0..4_usize).prop_map(|it| [None, Some(Opened), Some(ForcedOpen), Some(ForcedClosed)][it])
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let says = (0..4_usize, kinds(), proptest::option::of(0..400_u64), any::<(bool, bool)>())
        .prop_map(|(at, kind, until, (generation, group))| Event::Says {
            at,
            kind,
            until,
            generation,
            group,
        });
    let event = prop_oneof![
        2 => (1..200_u64).prop_map(Event::Passes),
        2 => any::<[bool; 3]>().prop_map(Event::Defines),
        1 => Just(Event::Retires),
        8 => says,
        3 => (0..2_usize, kinds()).prop_map(|(tool, kind)| Event::OperatorSays { tool, kind }),
        2 => (0..2_usize, 0..400_u64).prop_map(|(tool, until)| Event::GroupOpens { tool, until }),
    ];
    vec(event, 1..60)
}

/// Who has the last word about which breaker, if the event is one about a breaker: its key, and whether an
/// operator says it.
fn word(event: &Event) -> Option<(String, bool)> {
    match event {
        Event::Says { at, group, .. } => {
            Some((INSTANCES.get(*at).copied().unwrap_or_default().to_owned(), !group))
        }
        Event::OperatorSays { tool, .. } => Some((tool_key(TOOLS[*tool]), true)),
        Event::GroupOpens { tool, .. } => Some((tool_key(TOOLS[*tool]), false)),
        Event::Passes(_) | Event::Defines(_) | Event::Retires => None,
    }
}

impl Bench {
    fn breakers(&self) -> BTreeMap<String, Override> {
        let server = self.machine.control.servers.by_name.get("db");
        server.map(|it| it.breakers.clone()).unwrap_or_default()
    }

    fn happens(&mut self, event: &Event) {
        let (server, by, why) = ("db".to_owned(), "ops".to_owned(), String::new());
        let command = match event {
            Event::Passes(passes) => {
                self.now += passes;
                return;
            }
            Event::Defines(which) => {
                let of = INSTANCES.iter().zip(which).filter(|it| *it.1);
                let instances: Vec<String> = of.map(|it| (*it.0).to_owned()).collect();
                let Some(primary) = instances.first().cloned() else { return };
                ServerCommand::Define { server, primary, instances, term: 5 }
            }
            Event::Retires => ServerCommand::Retire { server, term: 5 },
            Event::Says { at, kind, until, generation, group } => {
                let instance = INSTANCES.get(*at).copied().unwrap_or_default().to_owned();
                let present = self.breakers().get(&instance).map(|it| it.generation);
                ServerCommand::Breaker {
                    server,
                    instance,
                    kind: *kind,
                    generation: present.filter(|_| *generation),
                    until: until.map(|it| self.now + it),
                    by,
                    why,
                    term: group.then_some(5),
                }
            }
            Event::OperatorSays { tool, kind } => {
                ServerCommand::Tool { server, tool: TOOLS[*tool].into(), kind: *kind, by }
            }
            Event::GroupOpens { tool, until } => {
                let (tool, until) = (TOOLS[*tool].into(), self.now + until);
                ServerCommand::OpenTool { server, tool, until, by, why, term: 5 }
            }
        };
        self.control(A, ControlCommand::Server(command));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    /// What an operator holds stays as it is until an operator says otherwise of it, or its time is over: whatever
    /// the group finds, and whatever is configured. What the group opened of a tool stays until its time is over
    /// or an operator says otherwise, and no word about one breaker touches another.
    #[test]
    fn what_an_operator_holds_only_an_operator_lets_go(events in events()) {
        let mut bench = Bench::new();
        bench.happens(&Event::Defines([true; 3]));
        for event in &events {
            let before = bench.breakers();
            bench.happens(event);
            let (now, after) = (bench.now, bench.breakers());
            let said = word(event);
            for (key, was) in before {
                let about = said.as_ref().filter(|it| it.0 == key);
                let is_operators = about.is_some_and(|it| it.1);
                let same = after.get(&key) == Some(&was);
                if was.is_held(now) {
                    prop_assert!(same || is_operators, "{:?} ends {} at {:?}", event, key, was);
                }
                // It knows no other rule for those than their names.
                let is_configured = matches!(event, Event::Defines(_) | Event::Retires);
                if !is_configured && about.is_none() {
                    prop_assert!(same || was.is_over(now), "{:?} ends {} at {:?}", event, key, was);
                }
                if key.starts_with("tool ") && !was.is_over(now) && *event != Event::Retires {
                    prop_assert!(same || about.is_some(), "{:?} ends {} at {:?}", event, key, was);
                }
            }
        }
    }

    /// Every word that is kept has a higher number than all that the server ever had, also after it was away: a
    /// node that has heard of the last one obeys the next.
    #[test]
    fn the_numbers_of_what_is_kept_only_rise(events in events()) {
        let mut bench = Bench::new();
        bench.happens(&Event::Defines([true; 3]));
        let mut highest = 0;
        for event in &events {
            let before = bench.breakers();
            bench.happens(event);
            let mut new: Vec<u64> = Vec::new();
            for (key, it) in bench.breakers() {
                let was = before.get(&key).map(|it| it.generation);
                prop_assert!(was.is_none_or(|was| was <= it.generation), "{} of {:?}", key, event);
                if was != Some(it.generation) {
                    new.push(it.generation);
                }
            }
            prop_assert!(new.len() <= 1, "{:?} says {:?}", event, new);
            if let Some(new) = new.first() {
                prop_assert!(*new > highest, "{} after {}", new, highest);
                highest = *new;
            }
            let server = bench.machine.control.servers.by_name.get("db");
            if let Some(last) = server.map(|it| it.override_generation) {
                prop_assert!(last >= bench.breakers().values().map(|it| it.generation).max().unwrap_or(0));
            }
        }
    }
}
