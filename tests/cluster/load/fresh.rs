//! Sessions that are opened all through a run, each used at once, and again at its end: what a client
//! got an answer for has to be there afterwards, whatever happened in the moment in which it asked.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{MissedTickBehavior, interval};

use super::caller::Client;
use super::ledger::{Call, Kind, Ledger, Outcome};
use super::{DEADLINE, use_idle};

/// One in so many calls.
const SHARE: u32 = 60;
/// Sessions that are used at the same time at the end.
const AT_ONCE: usize = 8;

pub(super) struct Fresh {
    opened: Opened,
    driver: JoinHandle<()>,
    serial: Arc<AtomicU64>,
    ledger: Arc<Ledger>,
}

/// With what each must have counted at its next use, if that is known.
type Opened = Arc<Mutex<Vec<(Client, Option<u32>)>>>;

// === impl Fresh ===

impl Fresh {
    /// Opens sessions like `bare` until it is stopped, in proportion to the rate of calls.
    pub(super) fn start(
        bare: Client,
        rate: u32,
        serial: &Arc<AtomicU64>,
        ledger: &Arc<Ledger>,
        stopped: watch::Receiver<bool>,
    ) -> Self {
        let opened = Opened::default();
        let mut ticks = interval(Duration::from_secs(1) * SHARE / rate.max(1));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (all, counted, into) = (Arc::clone(&opened), Arc::clone(serial), Arc::clone(ledger));
        let driver = tokio::spawn(async move {
            let mut opens = JoinSet::new();
            while !*stopped.borrow() {
                ticks.tick().await;
                while opens.try_join_next().is_some() {}
                let (bare, all) = (bare.clone(), Arc::clone(&all));
                let (serial, ledger) = (Arc::clone(&counted), Arc::clone(&into));
                opens.spawn(async move {
                    if let Some(client) = open(bare, &ledger).await {
                        let used = use_idle(&client, Some(1), &serial, &ledger).await;
                        // A use that was lost with its node may have been counted.
                        let next = (used == Outcome::Result).then_some(2);
                        all.lock().unwrap_or_else(PoisonError::into_inner).push((client, next));
                    }
                });
            }
            while opens.join_next().await.is_some() {}
        });
        Self { opened, driver, serial: Arc::clone(serial), ledger: Arc::clone(ledger) }
    }

    /// Uses all of them once more; says how many there were.
    pub(super) async fn finish(self) -> usize {
        drop(self.driver.await);
        let opened =
            std::mem::take(&mut *self.opened.lock().unwrap_or_else(PoisonError::into_inner));
        let many = opened.len();
        let mut uses = JoinSet::new();
        for (client, next) in opened {
            if uses.len() >= AT_ONCE {
                uses.join_next().await;
            }
            let (serial, ledger) = (Arc::clone(&self.serial), Arc::clone(&self.ledger));
            uses.spawn(async move { use_idle(&client, next, &serial, &ledger).await });
        }
        while uses.join_next().await.is_some() {}
        many
    }
}

/// Opens one, and notes what came of it.
async fn open(bare: Client, ledger: &Ledger) -> Option<Client> {
    let (era, server) = (bare.era, bare.server);
    let started = ledger.now();
    let (outcome, client) = match tokio::time::timeout(DEADLINE, bare.open("drill-fresh")).await {
        Err(_) => (Outcome::Nothing { stage: "while a session was opened" }, None),
        Ok(Err(what)) => (refusal(what), None),
        Ok(Ok(client)) => (Outcome::Result, Some(client)),
    };
    ledger.add(Call {
        client: "raw".into(),
        kind: Kind::Open,
        era,
        server,
        key: None,
        id: "open".into(),
        session: client.as_ref().and_then(|it| it.session.as_deref().map(str::to_owned)),
        started,
        ended: ledger.now(),
        outcome,
        moved: false,
        resumed: 0,
        events_missing: 0,
        events_doubled: 0,
        trace: String::new(),
    });
    client
}

/// An error of the gateway under the request's id is an answer; a session that was opened and is not known
/// any more is lost; anything else is none.
fn refusal(what: String) -> Outcome {
    if ["initialized: 404", "tools/list: 404"].contains(&what.as_str()) {
        return Outcome::SessionLost { status: 404 };
    }
    let body = what.split_once('{').map(|(_, body)| format!("{{{body}"));
    let said = body.and_then(|body| serde_json::from_str::<serde_json::Value>(&body).ok());
    match said.filter(|said| said["id"] == "open").and_then(|said| said["error"]["code"].as_i64()) {
        Some(code) => Outcome::Error { code, may_have_run: None, message: what },
        None => Outcome::Broken { what },
    }
}
