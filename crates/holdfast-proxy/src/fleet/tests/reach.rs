//! Whether an instance can be reached, and what that makes of calls: the tables of `docs/state-machines.md`.

use tokio::net::{TcpListener, TcpSocket};

use super::*;
use crate::fleet::refusal::Shut;

#[path = "../../../../holdfast-engine/tests/it/tables/table.rs"]
mod table;

use table::table;

/// For how long it is taken for one that restarts.
const RESTART: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Reached,
    Away,
    AwayForLong,
    Back,
}

const STATES: [(State, &str); 4] = [
    (State::Reached, "reached"),
    (State::Away, "away"),
    (State::AwayForLong, "away for 5 s"),
    (State::Back, "back"),
];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Event {
    Ends(Outcome),
    RefusesKnock,
    AnswersKnock,
    TimePasses,
    OtherConfiguration,
    OtherAddress,
}

const EVENTS: [(Event, &str); 8] = [
    (Event::Ends(Outcome::Unreachable), "no connection for an attempt comes about"),
    (Event::Ends(Outcome::Unanswering), "one comes about and is of no use"),
    (Event::Ends(Outcome::Answered), "an attempt that began before is answered"),
    (Event::RefusesKnock, "it refuses a knock"),
    (Event::AnswersKnock, "it takes a connection"),
    (Event::TimePasses, "five seconds pass"),
    (Event::OtherConfiguration, "another configuration has it too"),
    (Event::OtherAddress, "another configuration has it at another address"),
];

/// What becomes of a call, and how many instances there are.
const CALLS: [(usize, &str); 2] =
    [(1, "a call that no other instance takes"), (2, "a call that another one takes too")];

/// The first instance of a server, whose port is this test's own.
struct Bench {
    fleet: Arc<Fleet>,
    /// Bound, and refuses.
    port: Option<TcpSocket>,
    listener: Option<TcpListener>,
    /// Begun while it could be reached.
    begun: Option<Attempt>,
    /// How much later it is looked at.
    later: Duration,
}

fn text(address: std::net::SocketAddr, instances: usize) -> String {
    let other = "{ id: b, url: \"http://127.0.0.1:1/mcp\" }, ".repeat(instances - 1);
    let first = format!("{{ id: a, url: \"http://{address}/mcp\" }}");
    let balance = "balance: { strategy: round_robin, slow_start: 0s }";
    format!("servers: {{ one: {{ {balance}, instances: [ {first}, {other} ] }} }}")
}

impl Bench {
    async fn at(state: State, instances: usize) -> Self {
        let port = TcpSocket::new_v4().unwrap();
        port.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let fleet = fleet(&text(port.local_addr().unwrap(), instances));
        let begun = fleet.server("one").unwrap().enter(0, &ask(CallClass::Read)).unwrap();
        let later = if state == State::AwayForLong { RESTART } else { Duration::ZERO };
        let (port, listener, begun) = (Some(port), None, Some(begun));
        let mut bench = Self { fleet, port, listener, begun, later };
        if state != State::Reached {
            fail(bench.server(), 0, Outcome::Unreachable, 1);
        }
        if state == State::Back {
            bench.listens().await;
        }
        bench
    }

    fn server(&self) -> &Arc<ServerFleet> {
        self.fleet.server("one").unwrap()
    }

    /// Takes connections from here on, and is knocked at if it was away.
    async fn listens(&mut self) {
        let port = self.port.take();
        self.listener = port.map(|it| it.listen(16).unwrap()).or_else(|| self.listener.take());
        let back = async {
            while self.server().instances[0].is_away() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), back).await.expect("it is knocked at");
    }

    async fn happens(&mut self, event: Event) {
        match event {
            Event::Ends(outcome) => self.begun.take().unwrap().settle(outcome),
            // However often.
            Event::RefusesKnock => tokio::time::sleep(Duration::from_millis(200)).await,
            Event::AnswersKnock => self.listens().await,
            Event::TimePasses => self.later += RESTART,
            Event::OtherConfiguration => self.reconfigure(false),
            Event::OtherAddress => self.reconfigure(true),
        }
    }

    fn reconfigure(&mut self, elsewhere: bool) {
        let address = match (&self.port, &self.listener) {
            _ if elsewhere => "127.0.0.1:1".parse().unwrap(),
            (Some(port), _) => port.local_addr().unwrap(),
            (None, listener) => listener.as_ref().unwrap().local_addr().unwrap(),
        };
        let config = holdfast_config::parse(&text(address, 1), "test", &|_| None).unwrap();
        let after = Fleet::new(&config, Some(&self.fleet), |_| Arc::default(), Instant::now());
        after.begin(&self.fleet, Instant::now());
        self.fleet = after;
    }

    fn name(&self) -> &'static str {
        let it = &self.server().instances[0];
        match () {
            () if it.is_away() && self.waits() => "away",
            () if it.is_away() => "away for 5 s",
            () if it.back_for(Instant::now()).is_some() => "back",
            () => "reached",
        }
    }

    /// Whether a call that it cannot take may be taken soon.
    fn waits(&self) -> bool {
        let shut = [(0, Shut::Away)];
        self.server().nobody(&shut, None, Instant::now() + self.later).may_be_over_soon
    }

    fn call(&self) -> &'static str {
        let chosen = (0..20).map(|_| self.server().choose(&ask(CallClass::Write)));
        let chosen: Vec<_> = chosen.map(|it| it.map(|it| it.instance())).collect();
        match () {
            () if chosen.iter().any(|it| matches!(it, Ok(0))) => "goes there",
            () if chosen.iter().all(|it| matches!(it, Ok(1))) => "goes to the other",
            () if self.waits() => "waits",
            () => "is refused",
        }
    }
}

/// Each cell has a runtime of its own, with which its knocks end.
fn run<T>(cell: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(cell)
}

#[test]
fn whether_an_instance_can_be_reached() {
    table("An instance that refuses connections", 0).check(&STATES, &EVENTS, |state, event| {
        run(async {
            let mut bench = Bench::at(state, 1).await;
            bench.happens(event).await;
            let name = bench.name();
            // Whoever is away is knocked at until it takes a connection, also by another configuration.
            bench.listens().await;
            name.to_owned()
        })
    });
}

#[test]
fn what_becomes_of_a_call_meanwhile() {
    table("An instance that refuses connections", 1).check(&STATES, &CALLS, |state, instances| {
        run(async { Bench::at(state, instances).await.call().to_owned() })
    });
}

#[test]
#[ignore = "prints the tables"]
fn print() {
    for (event, name) in EVENTS {
        let cell = |state: (State, &str)| {
            run(async {
                let mut bench = Bench::at(state.0, 1).await;
                bench.happens(event).await;
                bench.name()
            })
        };
        println!("| {name} | {} |", STATES.map(cell).join(" | "));
    }
    for (instances, name) in CALLS {
        let cell = |state: (State, &str)| run(async { Bench::at(state.0, instances).await.call() });
        println!("| {name} | {} |", STATES.map(cell).join(" | "));
    }
}
