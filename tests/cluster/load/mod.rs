//! The raw load: so many calls a second, of every kind and era, each with a deadline of its own and
//! each accounted for.

pub(crate) mod caller;
mod fresh;
pub(crate) mod ledger;
pub(crate) mod standing;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::json;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::Error;
use crate::chance::Chance;
use crate::http::Pool;
use crate::stack::{COUNT, LOCAL, STREAM};
use caller::{Ask, Client};
use fresh::Fresh;
use ledger::{Call, Era, Kind, Ledger, Outcome};

/// How long a call may take beyond what its tool sleeps. A frozen node holds calls for as long as it
/// is frozen, and a machine under load is slow.
const DEADLINE: Duration = Duration::from_secs(30);

/// Sessions per server that are in use all the time, and those that wait for the end of the run.
const BUSY_LEGACY: usize = 10;
const BUSY_OLDER: usize = 5;
const IDLE: usize = 15;

/// Load that is being made.
pub(crate) struct Load {
    sessions: usize,
    fresh: Fresh,
    idle: Vec<Client>,
    stop: watch::Sender<bool>,
    driver: JoinHandle<()>,
    ledger: Arc<Ledger>,
    serial: Arc<AtomicU64>,
}

/// Those that call all the time. One whose session is lost opens another.
type Clients = Arc<Mutex<Vec<Client>>>;

// === impl Load ===

impl Load {
    /// Opens the sessions and begins.
    ///
    /// # Errors
    /// When a session cannot be opened: nothing is broken yet.
    pub(crate) async fn start(
        front: SocketAddr,
        rate: u32,
        seed: u64,
        ledger: &Arc<Ledger>,
    ) -> Result<Self, Error> {
        let bare = |server: &'static str, era: Era| Client {
            pool: Pool::new(front),
            host: front.to_string().into(),
            server,
            era,
            session: None,
        };
        let mut clients = Vec::new();
        for server in [COUNT, STREAM, LOCAL] {
            for number in 0..BUSY_LEGACY + BUSY_OLDER {
                let era = if number < BUSY_LEGACY { Era::Legacy } else { Era::Older };
                clients.push(open(bare(server, era), "drill-busy").await?);
            }
            let modern = bare(server, Era::Modern);
            modern.list_tools().await?;
            clients.push(modern);
        }
        let serial = Arc::new(AtomicU64::new(1));
        let mut idle = Vec::new();
        for number in 0..IDLE {
            let era = if number % 3 == 0 { Era::Older } else { Era::Legacy };
            let client = open(bare(COUNT, era), "drill-idle").await?;
            use_idle(&client, Some(1), &serial, ledger).await;
            idle.push(client);
        }
        let (stop, stopped) = watch::channel(false);
        let fresh = Fresh::start(bare(COUNT, Era::Legacy), rate, &serial, ledger, stopped.clone());
        let sessions = clients.iter().filter(|client| client.session.is_some()).count();
        let clients: Clients = Arc::new(Mutex::new(clients));
        let driver = tokio::spawn(drive(
            clients,
            rate,
            Chance::new(seed),
            Arc::clone(&serial),
            Arc::clone(ledger),
            stopped,
        ));
        let ledger = Arc::clone(ledger);
        Ok(Self { sessions, fresh, idle, stop, driver, ledger, serial })
    }

    /// Stops making calls, waits for those under way, and uses the idle sessions once more.
    pub(crate) async fn finish(self) -> usize {
        self.stop.send_replace(true);
        drop(self.driver.await);
        let fresh = self.fresh.finish().await;
        for client in &self.idle {
            // The count goes on: the session at the server is the one that it was.
            use_idle(client, Some(2), &self.serial, &self.ledger).await;
        }
        self.idle.len() + self.sessions + fresh
    }
}

async fn open(client: Client, name: &str) -> Result<Client, Error> {
    let server = client.server;
    let opened = tokio::time::timeout(DEADLINE, client.open(name)).await;
    let opened = opened.map_err(|_| format!("no session at {server} within {DEADLINE:?}"))?;
    Ok(opened.map_err(|error| format!("no session at {server}: {error}"))?)
}

/// Uses a session whose server has counted so far, or says what it has counted.
async fn use_idle(
    client: &Client,
    count: Option<u32>,
    serial: &AtomicU64,
    ledger: &Ledger,
) -> Outcome {
    let counted = count.map_or_else(String::new, |count| count.to_string());
    let ask = Ask {
        id: format!("i{}", serial.fetch_add(1, Ordering::Relaxed)),
        kind: Kind::Idle,
        tool: "counter",
        arguments: json!({}),
        expect: format!("\"count\":{counted}"),
        steps: None,
    };
    make(client, ask, DEADLINE, ledger).await
}

async fn drive(
    clients: Clients,
    rate: u32,
    mut chance: Chance,
    serial: Arc<AtomicU64>,
    ledger: Arc<Ledger>,
    stopped: watch::Receiver<bool>,
) {
    let mut ticks = interval(Duration::from_secs(1) / rate.max(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut calls = JoinSet::new();
    while !*stopped.borrow() {
        ticks.tick().await;
        while calls.try_join_next().is_some() {}
        let Some((at, client)) = choose(&lock(&clients), &mut chance) else { break };
        let serial = serial.fetch_add(1, Ordering::Relaxed);
        let (ask, takes) = ask(&client, serial, &mut chance);
        let (clients, ledger) = (Arc::clone(&clients), Arc::clone(&ledger));
        calls.spawn(async move {
            let outcome = make(&client, ask, takes + DEADLINE, &ledger).await;
            if let Outcome::SessionLost { .. } = outcome {
                reopen(&clients, at, client).await;
            }
        });
    }
    while calls.join_next().await.is_some() {}
}

fn lock(clients: &Clients) -> std::sync::MutexGuard<'_, Vec<Client>> {
    clients.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What an application does whose session has ended: it opens another.
async fn reopen(clients: &Clients, at: usize, lost: Client) {
    if lock(clients)[at].session != lost.session {
        return;
    }
    let bare = Client { session: None, ..lost };
    if let Ok(client) = open(bare, "drill-busy").await {
        lock(clients)[at] = client;
    }
}

/// Half of the calls in sessions that resume, a fifth in older ones, the rest without.
fn choose(clients: &[Client], chance: &mut Chance) -> Option<(usize, Client)> {
    let era = match chance.below(10) {
        0..5 => Era::Legacy,
        5..7 => Era::Older,
        _ => Era::Modern,
    };
    let server = match chance.below(10) {
        0..5 => COUNT,
        5..9 => STREAM,
        _ => LOCAL,
    };
    let fits = |(_, client): &(usize, &Client)| client.era == era && client.server == server;
    let fitting: Vec<(usize, &Client)> = clients.iter().enumerate().filter(fits).collect();
    chance.pick(&fitting).map(|(at, client)| (*at, (*client).clone()))
}

fn ask(client: &Client, serial: u64, chance: &mut Chance) -> (Ask, Duration) {
    let id = format!("c{serial}");
    let kind = match chance.below(100) {
        0..50 => Kind::Read,
        50..78 => Kind::Write,
        78..84 => Kind::SlowRead,
        84..90 => Kind::SlowWrite,
        // A begun stream of an older client ends with its node; the resumable server is the other one.
        _ if client.era == Era::Older || client.server == LOCAL => Kind::Read,
        _ if client.server == COUNT => Kind::SlowRead,
        _ => Kind::Stream,
    };
    let slow = 1_000 + chance.below(2_000);
    let quick = if chance.below(4) == 0 { chance.below(100) } else { 0 };
    let (tool, arguments, expect, takes, steps) = match kind {
        Kind::Read | Kind::Idle | Kind::Open => {
            ("echo", json!({ "text": id }), id.clone(), 0, None)
        }
        Kind::SlowRead => {
            ("slow", json!({ "ms": slow, "key": id }), format!("slept {slow} ms"), slow, None)
        }
        Kind::Stream => {
            let steps = 10 + chance.below(20);
            let arguments = json!({ "ms": slow, "steps": steps, "key": id });
            ("slow", arguments, format!("slept {slow} ms"), slow, Some(steps))
        }
        Kind::Write => ("write", json!({ "key": id, "ms": quick }), executed(&id), quick, None),
        Kind::SlowWrite => ("write", json!({ "key": id, "ms": slow }), executed(&id), slow, None),
    };
    (Ask { id, kind, tool, arguments, expect, steps }, Duration::from_millis(takes))
}

fn executed(key: &str) -> String {
    format!("write {key}: execution 1")
}

async fn make(client: &Client, ask: Ask, within: Duration, ledger: &Ledger) -> Outcome {
    let started = ledger.now();
    let seen = client.call(&ask, Instant::now() + within).await;
    let outcome = seen.outcome.clone();
    ledger.add(Call {
        client: "raw".into(),
        kind: ask.kind,
        era: client.era,
        server: client.server,
        key: ask.kind.is_write().then(|| (ask.tool.to_owned(), ask.id.clone())),
        id: ask.id,
        session: client.session.as_deref().map(str::to_owned),
        started,
        ended: ledger.now(),
        outcome: seen.outcome,
        moved: seen.moved,
        resumed: seen.resumed,
        events_missing: seen.missing,
        events_doubled: seen.doubled,
        trace: seen.trace.trim_end().to_owned(),
    });
    outcome
}
