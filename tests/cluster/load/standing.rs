//! Standing streams: sessions that listen with a GET all the time and reopen it as the SDKs do. The
//! server tells all of them a number every second; each must get every number once.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::caller::Client;
use super::ledger::Era;
use crate::http::{self, Pool};
use crate::stack::STREAM;
use crate::{Error, PATIENCE};

const EVERY: Duration = Duration::from_secs(1);
/// GETs in a row that may fail; then an SDK listens no more.
const FAILURES: u32 = 2;

/// Streams that are open.
pub(crate) struct Standing {
    listeners: Vec<Arc<Listener>>,
    tasks: JoinSet<()>,
    stop: watch::Sender<bool>,
    told: Arc<AtomicU64>,
}

#[derive(Default)]
struct Listener {
    numbers: Mutex<Vec<u64>>,
    opened: AtomicU64,
    abrupt: AtomicU64,
    failed: AtomicU64,
    lost: Mutex<Option<String>>,
}

/// What became of them.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Heard {
    pub(crate) streams: usize,
    /// Numbers that the server told each of them.
    pub(crate) told: u64,
    /// How often a stream was opened anew.
    pub(crate) reopened: u64,
    /// How often one was cut instead of ended.
    pub(crate) abrupt: u64,
    /// GETs that failed and were tried again.
    pub(crate) failed: u64,
    /// Streams whose client gave up, with the first reason.
    pub(crate) lost: usize,
    pub(crate) why: Option<String>,
    pub(crate) missing: u64,
    pub(crate) doubled: u64,
}

// === impl Standing ===

impl Standing {
    /// Opens `many` sessions with a stream each.
    ///
    /// # Errors
    /// When a session cannot be opened.
    pub(crate) async fn start(
        front: SocketAddr,
        server: SocketAddr,
        many: usize,
    ) -> Result<Self, Error> {
        let (stop, stopped) = watch::channel(false);
        let (mut listeners, mut tasks) = (Vec::new(), JoinSet::new());
        for _ in 0..many {
            let client = Client {
                pool: Pool::new(front),
                host: front.to_string().into(),
                server: STREAM,
                era: Era::Legacy,
                session: None,
            };
            let client = client.open("drill-standing").await?;
            let listener = Arc::new(Listener::default());
            tasks.spawn(Arc::clone(&listener).listen(client, stopped.clone()));
            listeners.push(listener);
        }
        let told = Arc::new(AtomicU64::new(0));
        if many > 0 {
            tasks.spawn(tell(server, Arc::clone(&told), stopped));
        }
        Ok(Self { listeners, tasks, stop, told })
    }

    /// Waits until all have heard the last number, and counts.
    pub(crate) async fn finish(mut self) -> Heard {
        let last = self.told.load(Ordering::Acquire);
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let waiting = |listener: &Arc<Listener>| !listener.has(last) && !listener.is_lost();
        while self.listeners.iter().any(waiting) && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.stop.send_replace(true);
        self.tasks.abort_all();
        while self.tasks.join_next().await.is_some() {}
        let mut heard = Heard { streams: self.listeners.len(), told: last, ..Heard::default() };
        for listener in &self.listeners {
            listener.count(last, &mut heard);
        }
        heard
    }
}

// === impl Listener ===

impl Listener {
    fn numbers(&self) -> std::sync::MutexGuard<'_, Vec<u64>> {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has(&self, number: u64) -> bool {
        number == 0 || self.numbers().contains(&number)
    }

    fn is_lost(&self) -> bool {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    fn count(&self, told: u64, heard: &mut Heard) {
        heard.reopened += self.opened.load(Ordering::Acquire).saturating_sub(1);
        heard.abrupt += self.abrupt.load(Ordering::Acquire);
        heard.failed += self.failed.load(Ordering::Acquire);
        if let Some(why) = self.lost.lock().unwrap_or_else(PoisonError::into_inner).clone() {
            heard.lost += 1;
            heard.why.get_or_insert(why);
            // Whoever listens no more misses whatever comes.
            return;
        }
        let numbers = self.numbers();
        for number in 1..=told {
            match numbers.iter().filter(|it| **it == number).count() as u64 {
                0 => heard.missing += 1,
                times => heard.doubled += times - 1,
            }
        }
    }

    async fn listen(self: Arc<Self>, client: Client, stopped: watch::Receiver<bool>) {
        let (mut last, mut retry, mut failures) = (None::<String>, 1_000, 0);
        while !*stopped.borrow() {
            if let Err(why) = self.once(&client, &mut last, &mut retry, &mut failures).await {
                failures += 1;
                self.failed.fetch_add(1, Ordering::AcqRel);
                if failures >= FAILURES {
                    *self.lost.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
                    return;
                }
            }
            tokio::time::sleep(Duration::from_millis(retry)).await;
        }
    }

    /// One stream from its GET to its end, however it ends.
    async fn once(
        &self,
        client: &Client,
        last: &mut Option<String>,
        retry: &mut u64,
        failures: &mut u32,
    ) -> Result<(), String> {
        let answer = client.pool.send(client.get(last.as_deref())?).await?;
        if answer.status() != 200 || !answer.is_stream() {
            return Err(format!("GET: status {}", answer.status()));
        }
        *failures = 0;
        self.opened.fetch_add(1, Ordering::AcqRel);
        let mut events = answer.events();
        loop {
            match events.next(&client.pool).await {
                Ok(Some(event)) => {
                    *retry = event.retry.unwrap_or(*retry);
                    if let Some(id) = event.id.filter(|id| !id.is_empty()) {
                        *last = Some(id);
                    }
                    let message: Value = serde_json::from_str(&event.data).unwrap_or_default();
                    if let Some(number) = message["params"]["data"]["drill"].as_u64() {
                        self.numbers().push(number);
                    }
                }
                Ok(None) => return Ok(()),
                Err(_) => {
                    self.abrupt.fetch_add(1, Ordering::AcqRel);
                    return Ok(());
                }
            }
        }
    }
}

/// Lets the server tell every session the next number.
async fn tell(server: SocketAddr, told: Arc<AtomicU64>, stopped: watch::Receiver<bool>) {
    while !*stopped.borrow() {
        tokio::time::sleep(EVERY).await;
        let number = told.load(Ordering::Acquire) + 1;
        let emit = json!({
            "method": "notifications/message",
            "params": { "level": "info", "logger": "drill", "data": { "drill": number } },
        });
        let body = Bytes::from(emit.to_string());
        if http::exchange(server, "POST", "/_drill/emit", body).await.is_ok() {
            told.store(number, Ordering::Release);
        }
    }
}
