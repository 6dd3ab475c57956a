//! What the integration tests drive the gateway with.
//!
//! The gateway is the real binary in a process of its own ([`gateway`]). Clients are raw sockets
//! that show exact bytes ([`wire`], [`sse`]), with a thin layer that knows MCP ([`client`]). Servers
//! are either a recorder that keeps every byte it gets and answers as it is told ([`recorder`]), or
//! the scriptable sample server as a process that can be killed ([`sample`]). None of it uses the
//! gateway's own parsers: a test must not agree with the gateway's mistakes.
//!
//! Every wait has a deadline ([`DEADLINE`]) that only a hang reaches.

pub(crate) mod client;
pub(crate) mod cluster;
pub(crate) mod control;
pub(crate) mod door;
pub(crate) mod duplex;
pub(crate) mod gateway;
pub(crate) mod message;
pub(crate) mod process;
pub(crate) mod recorder;
pub(crate) mod redis;
pub(crate) mod sample;
pub(crate) mod spaces;
pub(crate) mod sse;
pub(crate) mod wire;

use std::future::Future;
use std::time::Duration;

/// How long anything may take that should take no time. Long, since two cores run many tests.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// Waits for the future, and fails with what it was waiting for at [`DEADLINE`].
pub(crate) async fn within<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(output) => output,
        Err(_) => panic!("{what}: nothing within {DEADLINE:?}"),
    }
}

/// Asks again and again until there is an answer.
pub(crate) async fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    within(what, async {
        loop {
            if let Some(answer) = ask() {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
}

/// A folder that is gone with the value.
pub(crate) struct TempDir(std::path::PathBuf);

impl TempDir {
    pub(crate) fn new() -> Self {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("holdfast-it-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).expect("make a temporary folder");
        Self(path)
    }

    pub(crate) fn join(&self, name: &str) -> std::path::PathBuf {
        self.0.join(name)
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}
