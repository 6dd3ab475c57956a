//! A real MCP server of both eras that can be told to fail: the demo's server, and what tests put
//! behind the gateway.
//!
//! # The way of a request
//! A transport (`http`, `websocket`, `legacy_sse`, `stdio`) takes bytes, records them (`record`), asks
//! the script (`behaviour`) whether a fault is due, and makes a `call` of them. The era's part
//! (`legacy`, `modern`) answers what only it has and leaves the rest to `features`. Whatever a call
//! sends goes to a `stream`, which the transport reads from.
//!
//! # What it is for
//! Every tool makes one thing visible that a gateway could get wrong (`catalogue`); executions are
//! counted, in memory and in a file that outlives a crash, because whether something ran twice is the
//! question behind most tests. The endpoints under `/_drill/` (`control`) script and show it all.
//!
//! It is a test server: it has no authentication, and whoever reaches it can make it exit. It listens
//! where it is told to and nowhere else.

mod answer;
mod ask;
mod behaviour;
mod call;
mod catalogue;
mod control;
mod duplex;
mod execution;
mod features;
mod http;
mod hub;
mod legacy;
mod legacy_sse;
mod message;
mod modern;
mod options;
mod prompts;
mod record;
mod resources;
mod session;
mod stdio;
mod stream;
mod tools;
mod websocket;
mod wire;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::hash::RandomState;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;

pub use behaviour::{Fault, RpcFault, Rule};
pub use options::{Answers, Eras, Options, USAGE};

use self::behaviour::Behaviour;
use self::execution::Executions;
use self::hub::{Change, Hub};
use self::record::{Observed, Recorder};
use self::resources::World;
use self::session::Sessions;
use self::wire::Connections;

/// Serves as the options say: on the address of `http`, or else on stdin and stdout; with `control` the
/// control endpoints have a port of their own. Says on the log where it listens.
///
/// # Errors
/// When an address cannot be bound, the execution log cannot be opened, or stdin and stdout break.
pub async fn run(options: Options) -> io::Result<()> {
    match options.http {
        Some(address) => {
            let listener = TcpListener::bind(address).await?;
            tracing::info!(address = %listener.local_addr()?, "the sample server listens");
            serve_http(listener, options).await
        }
        None => run_stdio(options).await,
    }
}

/// Serves one client on stdin and stdout until the input ends.
///
/// # Errors
/// As [`run`].
pub async fn run_stdio(options: Options) -> io::Result<()> {
    let sample = Sample::new(options)?;
    let control = bind_control(&sample).await?;
    tokio::select! {
        served = stdio::serve(tokio::io::stdin(), tokio::io::stdout(), sample.clone()) => served,
        controlled = serve_control(control, sample.clone()) => controlled,
    }
}

/// Serves Streamable HTTP at `/mcp`, HTTP+SSE at `/sse` and `/message`, WebSocket at `/ws` and the
/// control endpoints at `/_drill/`, all on one listener, until the future is dropped; that closes every
/// connection.
///
/// # Errors
/// As [`run`].
pub async fn serve_http(listener: TcpListener, options: Options) -> io::Result<()> {
    let sample = Sample::new(options)?;
    let control = bind_control(&sample).await?;
    tokio::select! {
        served = http::serve(listener, sample.clone()) => served,
        controlled = serve_control(control, sample.clone()) => controlled,
    }
}

async fn bind_control(sample: &Sample) -> io::Result<Option<TcpListener>> {
    let Some(address) = sample.options.control else { return Ok(None) };
    let listener = TcpListener::bind(address).await?;
    tracing::info!(address = %listener.local_addr()?, "the control endpoints listen");
    Ok(Some(listener))
}

async fn serve_control(listener: Option<TcpListener>, sample: Arc<Sample>) -> io::Result<()> {
    match listener {
        Some(listener) => http::serve(listener, sample).await,
        None => std::future::pending().await,
    }
}

/// Everything that the server knows.
#[derive(Debug)]
struct Sample {
    options: Options,
    behaviour: Behaviour,
    executions: Executions,
    recorder: Recorder,
    observed: Observed,
    sessions: Sessions,
    hub: Arc<Hub>,
    world: World,
    connections: Connections,
    sse_streams: legacy_sse::Streams,
    /// Marks what this process gave out as `requestState`.
    state_key: RandomState,
    /// What the tool `counter` counts for modern clients, by handle.
    handles: Mutex<HashMap<String, u64>>,
    refusals: watch::Sender<Option<Duration>>,
}

/// Handles beyond so many make the server forget all of them.
const MAX_HANDLES: usize = 100_000;

// === impl Sample ===

impl Sample {
    fn new(options: Options) -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            behaviour: Behaviour::new(&options.behaviour),
            executions: Executions::new(options.execution_log.as_deref())?,
            options,
            recorder: Recorder::default(),
            observed: Observed::default(),
            sessions: Sessions::default(),
            hub: Arc::default(),
            world: World::default(),
            connections: Connections::default(),
            sse_streams: legacy_sse::Streams::default(),
            state_key: RandomState::new(),
            handles: Mutex::default(),
            refusals: watch::Sender::new(None),
        }))
    }

    /// Tells everyone who asked to be told, in both eras.
    fn publish(&self, change: &Change) {
        self.hub.publish(change);
        for session in self.sessions.all().iter().chain(&self.hub.connected()) {
            change.tell(session);
        }
    }

    fn count(&self, handle: &str) -> u64 {
        let mut handles = self.handles.lock().unwrap_or_else(PoisonError::into_inner);
        if handles.len() >= MAX_HANDLES {
            handles.clear();
        }
        let count = handles.entry(handle.to_owned()).or_default();
        *count += 1;
        *count
    }

    /// Makes the listener go away for a while.
    fn refuse(&self, duration: Duration) {
        self.refusals.send_replace(Some(duration));
    }

    /// Waits until the listener is to go away.
    async fn refusal(&self) -> Duration {
        let mut refusals = self.refusals.subscribe();
        // The sender lives in `self`, so this cannot fail.
        let _ = refusals.wait_for(Option::is_some).await;
        self.refusals.send_replace(None).unwrap_or_default()
    }
}
