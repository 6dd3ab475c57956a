//! The writers of one primary: one for each runtime whose calls write.
//!
//! A write that goes to another thread and back costs more than all that is done with it: two threads are
//! woken, each by a system call. So a worker's writes go through a writer on the worker's own runtime,
//! over a connection of its own. Its first write has that one dialled, and goes by way of the link's
//! own writer, as do all until it is there. Whichever it is: the link lives for as long as all of them.

use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};

use holdfast_config::HostPort;
use tokio::runtime::{Handle, Id};
use tokio::time::{Duration, Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::carry::LACKING;
use super::dial::Server;
use super::direct::Direct;
use super::failure::{self, Unusable};
use super::inspect;
use super::link::Sent;
use super::scripts::Call;
use super::succession::Succession;
use super::writer::{self, Done, Writer};

/// The way to the writers.
#[derive(Clone, Debug)]
pub(super) struct Writers(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    about: About,
    /// The link's own, on the runtime of the store.
    own: Writer,
    home: Id,
    others: RwLock<Vec<Other>>,
}

/// What every writer of a primary needs to know of it.
#[derive(Clone, Debug)]
pub(super) struct About {
    pub(super) shared: Weak<Shared>,
    pub(super) address: HostPort,
    pub(super) run_id: Arc<str>,
    /// Ends with the link, and ends it.
    pub(super) lost: CancellationToken,
    pub(super) probe_keys: Vec<String>,
    pub(super) standing: Arc<Standing>,
}

/// The writer of another runtime; none while it is dialled.
#[derive(Debug)]
struct Other {
    runtime: Id,
    writer: Option<Writer>,
}

/// What the writers have found out about whether their server takes writes.
#[derive(Debug, Default)]
pub(super) struct Standing {
    /// Since when it lacks replicas that acknowledge, or without which it takes no writes.
    short: Mutex<Option<Instant>>,
    /// What the server says of writes, while it takes none.
    refusing: Mutex<Option<String>>,
    /// Why what is written may not last: another primary may be about to come.
    goes: Mutex<Option<&'static str>>,
}

impl Writers {
    /// Starts the link's own writer, on this runtime.
    pub(super) fn start(about: About, connection: Direct, succession: Option<Succession>) -> Self {
        let own = writer::start(about.clone(), connection, succession);
        let (home, others) = (Handle::current().id(), RwLock::default());
        Self(Arc::new(Inner { about, own, home, others }))
    }

    pub(super) fn standing(&self) -> &Standing {
        &self.0.about.standing
    }

    /// Has a script carried out so that it lasts.
    pub(super) async fn write(&self, call: Call) -> Sent {
        self.here().write(call).await
    }

    /// As [`Self::write`]; `done` is told what came of it.
    ///
    /// # Errors
    /// `done`, where there is no room for it: nothing was sent.
    pub(super) fn post(&self, call: Call, done: Done) -> Result<(), Done> {
        self.here().post(call, done)
    }

    /// The writer of this runtime, or the link's own.
    fn here(&self) -> Writer {
        let Self(inner) = self;
        let Ok(handle) = Handle::try_current() else { return inner.own.clone() };
        let here = handle.id();
        if here == inner.home {
            return inner.own.clone();
        }
        let found = {
            let others = inner.others.read().unwrap_or_else(PoisonError::into_inner);
            let found = others.iter().find(|other| other.runtime == here);
            found.map(|other| other.writer.clone())
        };
        match found {
            Some(Some(writer)) => writer,
            Some(None) => inner.own.clone(),
            None => {
                self.open(&handle);
                inner.own.clone()
            }
        }
    }

    /// Has a writer made on this runtime.
    fn open(&self, handle: &Handle) {
        let runtime = handle.id();
        {
            let mut others = self.0.others.write().unwrap_or_else(PoisonError::into_inner);
            if others.iter().any(|other| other.runtime == runtime) {
                return;
            }
            // Those of runtimes that have ended.
            others.retain(|other| other.writer.as_ref().is_none_or(Writer::is_alive));
            others.push(Other { runtime, writer: None });
        }
        let inner = Arc::downgrade(&self.0);
        let about = self.0.about.clone();
        handle.spawn(async move {
            let connected = tokio::select! {
                connected = connect(&about) => connected,
                () = about.lost.cancelled() => return,
            };
            let writer = match connected {
                Ok((connection, succession)) => {
                    Some(writer::start(about.clone(), connection, succession))
                }
                Err(error) => {
                    // The link's own does meanwhile.
                    let address = &about.address;
                    tracing::debug!(%address, reason = error.reason(), "no writer of a worker's own");
                    sleep(ANEW).await;
                    None
                }
            };
            let Some(inner) = inner.upgrade() else { return };
            let mut others = inner.others.write().unwrap_or_else(PoisonError::into_inner);
            match writer {
                None => others.retain(|other| other.runtime != runtime),
                made => others
                    .iter_mut()
                    .filter(|other| other.runtime == runtime)
                    .for_each(|other| other.writer.clone_from(&made)),
            }
        });
    }
}

/// Another connection to the server that the link has.
async fn connect(about: &About) -> Result<(Direct, Option<Succession>), Unusable> {
    let address = &about.address;
    let Some(shared) = about.shared.upgrade() else {
        return Err(Unusable::Away("the store has ended".to_owned()));
    };
    let fresh = shared.dialler.dial_fresh(address, Server::Data, None).await?;
    let there = inspect::inspect(&fresh.connection, address, &shared.settings).await?;
    if there.run_id != about.run_id {
        return Err(failure::another(address));
    }
    Ok((fresh.into_direct(address).await?, Succession::of(&shared, address)))
}

// === impl Standing ===

impl Standing {
    /// Whether too few replicas acknowledged the last time.
    pub(super) fn is_short(&self) -> bool {
        self.short().is_some()
    }

    /// Whether that has been so for longer than it would be after a failover: it is not waited for.
    pub(super) fn is_short_for_long(&self) -> bool {
        self.short().is_some_and(|since| since.elapsed() > LACKING)
    }

    /// Why the server takes no writes at all, while it does not: its memory is full, or its disk.
    pub(super) fn refusal(&self) -> Option<String> {
        self.refusing.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Why what is written may not last, while that is so.
    pub(super) fn goes(&self) -> Option<&'static str> {
        *self.goes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether nothing is known that speaks against a write.
    pub(super) fn takes_writes(&self) -> bool {
        !self.is_short() && self.refusal().is_none() && self.goes().is_none()
    }

    pub(super) fn set_goes(&self, goes: Option<&'static str>) {
        *self.goes.lock().unwrap_or_else(PoisonError::into_inner) = goes;
    }

    /// Notes whether enough replicas are there. Both are said once.
    pub(super) fn set_short(&self, short: bool) {
        let mut since = self.short.lock().unwrap_or_else(PoisonError::into_inner);
        match (&*since, short) {
            (None, true) => {
                tracing::warn!("too few of redis' replicas acknowledge what is written");
                *since = Some(Instant::now());
            }
            (Some(_), false) => {
                tracing::info!("enough of redis' replicas acknowledge again");
                *since = None;
            }
            (Some(_), true) | (None, false) => {}
        }
    }

    /// Notes whether the server takes writes. Both are said once.
    pub(super) fn set_refusing(&self, said: Option<&redis::ServerError>) {
        let mut refusing = self.refusing.lock().unwrap_or_else(PoisonError::into_inner);
        match (said, &*refusing) {
            (Some(error), None) => {
                let reason = failure::text(error);
                tracing::error!(reason, "redis takes no writes");
                *refusing = Some(reason);
            }
            (None, Some(_)) => {
                tracing::info!("redis takes writes again");
                *refusing = None;
            }
            (Some(_), Some(_)) | (None, None) => {}
        }
    }

    fn short(&self) -> Option<Instant> {
        *self.short.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long a runtime whose writer could not be made does without.
const ANEW: Duration = Duration::from_secs(1);
