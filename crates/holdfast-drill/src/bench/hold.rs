//! Sessions that nobody uses: what they cost the thing between is measured while they are held.

use std::io;

use super::LoadPlan;
use super::client::Client;
use super::load::{LoadError, check, open, probe};

/// So many are being opened at a time.
const AT_ONCE: usize = 64;

/// What a held session has besides itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holding {
    /// Nothing; its connection is closed.
    Session,
    /// An open GET stream.
    Stream,
}

/// Sessions that were opened; their streams end when it is dropped.
pub struct Held {
    /// What the sockets are registered with.
    runtime: Option<tokio::runtime::Runtime>,
    streams: Vec<Client>,
}

/// Opens `many` sessions at the plan's address and path, each with a connection of its own, and
/// leaves them alone.
///
/// # Errors
/// When a session or its stream cannot be opened, or a runtime cannot be built.
pub fn hold(plan: &LoadPlan, many: usize, holding: Holding) -> Result<Held, LoadError> {
    let plan = LoadPlan { dialect: super::Dialect::Legacy, ..plan.clone() };
    check(&plan)?;
    probe(&plan)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let opened = tokio::task::LocalSet::new().block_on(&runtime, open_all(&plan, many, holding));
    let streams = opened.map_err(|source| LoadError::Connect { address: plan.address, source })?;
    Ok(Held { runtime: Some(runtime), streams })
}

async fn open_all(plan: &LoadPlan, many: usize, holding: Holding) -> io::Result<Vec<Client>> {
    let mut streams = Vec::new();
    let mut opening = tokio::task::JoinSet::new();
    let mut begun = 0;
    loop {
        while begun < many && opening.len() < AT_ONCE {
            opening.spawn_local(open_one(plan.clone(), holding));
            begun += 1;
        }
        match opening.join_next().await {
            Some(opened) => streams.extend(opened.map_err(io::Error::other)??),
            None => return Ok(streams),
        }
    }
}

async fn open_one(plan: LoadPlan, holding: Holding) -> io::Result<Option<Client>> {
    let (mut client, session) = open(&plan).await?;
    let session = session.ok_or_else(|| io::Error::other("the server has no sessions"))?;
    if holding == Holding::Session {
        return Ok(None);
    }
    client.open_stream(&plan.listen(&session)).await?;
    Ok(Some(client))
}

impl Drop for Held {
    fn drop(&mut self) {
        // Nothing runs in it, and it may be dropped within another one, where waiting is not allowed.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl std::fmt::Debug for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Held").field("streams", &self.streams.len()).finish_non_exhaustive()
    }
}
