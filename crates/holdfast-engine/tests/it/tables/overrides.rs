//! Breakers that operators or the group keep: the table of their overrides in the replicated state.

use holdfast_engine::replicated::{
    Body, Command, ControlCommand, Machine, Origin, OverrideKind, Reply, ServerCommand,
};

use super::table;

const TERM: u64 = 3;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kept {
    Itself,
    Opened,
    ForcedOpen,
    ForcedClosed,
    /// By an operator, until a time that is over.
    Past,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Event {
    GroupOpens,
    GroupOpensAnew,
    GroupReleases,
    ForceOpen,
    ForceClosed,
    Release,
    ReleaseEarlier,
    OldCoordinator,
    TimeOver,
    InstanceGone,
    ServerGone,
    ServerBack,
}

const STATES: [(Kept, &str); 5] = [
    (Kept::Itself, "itself"),
    (Kept::Opened, "opened"),
    (Kept::ForcedOpen, "forced open"),
    (Kept::ForcedClosed, "forced closed"),
    (Kept::Past, "past"),
];

const EVENTS: [(Event, &str); 12] = [
    (Event::GroupOpens, "the group opens it"),
    (Event::GroupOpensAnew, "the group opens it for longer"),
    (Event::GroupReleases, "the group releases it"),
    (Event::ForceOpen, "an operator holds it open"),
    (Event::ForceClosed, "an operator holds it closed"),
    (Event::Release, "an operator lets it decide"),
    (Event::ReleaseEarlier, "an operator lets an earlier one go"),
    (Event::OldCoordinator, "a coordinator of an earlier term opens it"),
    (Event::TimeOver, "its time is over"),
    (Event::InstanceGone, "the instance is configured no more"),
    (Event::ServerGone, "the server is configured no more"),
    (Event::ServerBack, "the server is configured no more, and then again"),
];

struct Bench {
    machine: Machine,
    index: u64,
    now: u64,
}

impl Bench {
    fn apply(&mut self, body: ControlCommand, generation: u64) -> Reply {
        self.index += 1;
        let origin = Origin { node: 1, generation };
        let body = Body::Control(body);
        let command = Command { origin, serial: self.index, settled_below: 0, now: self.now, body };
        self.machine.apply(self.index, TERM, &command)
    }

    fn server(&mut self, command: ServerCommand) -> Reply {
        self.apply(ControlCommand::Server(command), 1)
    }

    fn breaker(&mut self, kind: Option<OverrideKind>, term: Option<u64>, until: u64) -> Reply {
        self.breaker_of(kind, None, term, until)
    }

    fn breaker_of(
        &mut self,
        kind: Option<OverrideKind>,
        generation: Option<u64>,
        term: Option<u64>,
        until: u64,
    ) -> Reply {
        self.server(ServerCommand::Breaker {
            server: "db".into(),
            instance: "a".into(),
            kind,
            generation,
            until: Some(until),
            by: "ops".into(),
            why: String::new(),
            term,
        })
    }

    fn define(&mut self, instances: &[&str]) {
        self.server(ServerCommand::Define {
            server: "db".into(),
            primary: "b".into(),
            instances: instances.iter().map(|it| (*it).to_owned()).collect(),
            term: TERM,
        });
    }

    fn name(&self) -> String {
        let Some(server) = self.machine.control.servers.by_name.get("db") else {
            return "itself".into();
        };
        let word = |kind| match kind {
            OverrideKind::Opened => "opened",
            OverrideKind::ForcedOpen => "forced open",
            OverrideKind::ForcedClosed => "forced closed",
        };
        match (server.forced("a", self.now), server.breakers.get("a")) {
            (Some(it), _) => word(it.kind).into(),
            (None, Some(_)) => "past".into(),
            (None, None) => "itself".into(),
        }
    }
}

fn happens(kept: Kept, event: Event) -> String {
    let mut bench = Bench { machine: Machine::default(), index: 0, now: 1_000 };
    let join = ControlCommand::Join {
        node: 1,
        name: "gateway-1".into(),
        peer: String::new(),
        client: String::new(),
        admin: String::new(),
        version: String::new(),
    };
    bench.apply(join, 0);
    bench.define(&["a", "b"]);
    match kept {
        Kept::Itself => Reply::Unknown,
        Kept::Opened => bench.breaker(Some(OverrideKind::Opened), Some(TERM), 9_000),
        Kept::ForcedOpen => bench.breaker(Some(OverrideKind::ForcedOpen), None, 9_000),
        Kept::ForcedClosed => bench.breaker(Some(OverrideKind::ForcedClosed), None, 9_000),
        Kept::Past => bench.breaker(Some(OverrideKind::ForcedOpen), None, 1_000),
    };
    let reply = match event {
        Event::GroupOpens => bench.breaker(Some(OverrideKind::Opened), Some(TERM), 9_000),
        Event::GroupOpensAnew => bench.breaker(Some(OverrideKind::Opened), Some(TERM), 9_500),
        Event::GroupReleases => bench.breaker(None, Some(TERM), 0),
        Event::ForceOpen => bench.breaker(Some(OverrideKind::ForcedOpen), None, 9_500),
        Event::ForceClosed => bench.breaker(Some(OverrideKind::ForcedClosed), None, 9_500),
        Event::Release => bench.breaker(None, None, 0),
        Event::ReleaseEarlier => bench.breaker_of(None, Some(0), None, 0),
        Event::OldCoordinator => bench.breaker(Some(OverrideKind::Opened), Some(TERM - 1), 9_500),
        Event::TimeOver => {
            bench.now = 9_000;
            return bench.name();
        }
        Event::InstanceGone => {
            bench.define(&["b"]);
            return bench.name();
        }
        Event::ServerGone | Event::ServerBack => {
            bench.server(ServerCommand::Retire { server: "db".into(), term: TERM });
            if event == Event::ServerBack {
                bench.define(&["a", "b"]);
            }
            return bench.name();
        }
    };
    let is_refused = !matches!(reply, Reply::Done { .. });
    let name = bench.name();
    if is_refused { format!("refused ({name})") } else { name }
}

#[test]
fn overrides() {
    table("Kept breakers", 0).check(&STATES, &EVENTS, happens);
}

#[test]
#[ignore = "prints the table"]
fn print() {
    for (event, name) in EVENTS {
        println!("| {name} | {} |", STATES.map(|it| happens(it.0, event)).join(" | "));
    }
}
