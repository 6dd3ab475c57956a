//! The writers of one primary: one for each runtime whose calls write.
//!
//! A write that goes to another thread and back costs more than all that is done with it: two threads are
//! woken, each by a system call. So a worker's writes go through a writer on the worker's own runtime,
//! over a connection of its own. Its first write has that one dialled, and goes by way of the link's
//! own writer, as do all until it is there, and while it is made anew.
//!
//! The link lives for as long as its own writer, and a worker's connection that breaks is no fault of the other
//! workers': it is made anew, if behind the address is still the same process and that still is the primary. If that
//! cannot be found out, or is not so, the link is given up, and all that wait find its successor.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};

use holdfast_config::HostPort;
use tokio::runtime::{Handle, Id};
use tokio::time::{Duration, Instant, timeout};
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
use super::writer::{self, Done, Ended, Writer};

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

/// The place of a runtime's writer among the others, for as long as the runtime lives.
struct Place {
    inner: Weak<Inner>,
    about: About,
    runtime: Id,
}

/// What the writers have found out about whether their server takes writes.
#[derive(Debug, Default)]
pub(super) struct Standing {
    /// Since when it lacks replicas that acknowledge, or without which it takes no writes.
    short: Mutex<Option<Instant>>,
    /// What the server says of writes, while it takes none.
    refusing: Mutex<Option<String>>,
    /// Whether there is that: all workers' writers ask with each reply, and nearly always there is not.
    refuses: AtomicBool,
    /// Where Sentinels name the primary.
    pub(super) succession: Option<Succession>,
}

impl Writers {
    /// Starts the link's own writer, on this runtime.
    pub(super) fn start(about: About, connection: Direct) -> Self {
        let (own, serve) = writer::over(about.clone(), connection);
        let lost = about.lost.clone();
        tokio::spawn(async move {
            serve.await;
            lost.cancel();
        });
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
            others.push(Other { runtime, writer: None });
        }
        let place = Place { inner: Arc::downgrade(&self.0), about: self.0.about.clone(), runtime };
        handle.spawn(place.keep());
    }
}

impl Place {
    /// Keeps a writer on this runtime, for the life of both.
    async fn keep(self) {
        let (address, lost) = (&self.about.address, &self.about.lost);
        let mut has_been = false;
        loop {
            let begun = Instant::now();
            let connected = tokio::select! {
                connected = connect(&self.about) => connected,
                () = lost.cancelled() => return,
            };
            let connection = match connected {
                Ok(connection) => connection,
                Err(error) => {
                    let reason = error.reason();
                    tracing::debug!(%address, reason, "no writer of a worker's own");
                    if has_been {
                        // It may be gone, or be another one.
                        return lost.cancel();
                    }
                    // The link's own does meanwhile.
                    let _ = timeout(ANEW, lost.cancelled()).await;
                    return;
                }
            };
            has_been = true;
            let (writer, serve) = writer::over(self.about.clone(), connection);
            self.set(Some(writer));
            let ended = serve.await;
            self.set(None);
            match ended {
                Ended::Link => return lost.cancel(),
                Ended::Connection => {
                    tracing::info!(%address, "the connection of a worker that writes to redis broke");
                }
            }
            // Where they break at once, they are not dialled in a row.
            let _ = timeout(ANEW.saturating_sub(begun.elapsed()), lost.cancelled()).await;
        }
    }

    fn set(&self, writer: Option<Writer>) {
        let Some(inner) = self.inner.upgrade() else { return };
        let mut others = inner.others.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(other) = others.iter_mut().find(|other| other.runtime == self.runtime) {
            other.writer = writer;
        }
    }
}

impl Drop for Place {
    /// Also when the runtime ends.
    fn drop(&mut self) {
        let Some(inner) = self.inner.upgrade() else { return };
        let mut others = inner.others.write().unwrap_or_else(PoisonError::into_inner);
        others.retain(|other| other.runtime != self.runtime);
    }
}

/// Another connection to the server that the link has.
async fn connect(about: &About) -> Result<Direct, Unusable> {
    let address = &about.address;
    let Some(shared) = about.shared.upgrade() else {
        return Err(Unusable::Away("the store has ended".to_owned()));
    };
    let fresh = shared.dialler.dial_fresh(address, Server::Data, None).await?;
    let there = inspect::inspect(&fresh.connection, address, &shared.settings).await?;
    if there.run_id != about.run_id {
        return Err(failure::another(address));
    }
    fresh.into_direct(address).await
}

// === impl Standing ===

impl Standing {
    pub(super) fn new(succession: Option<Succession>) -> Self {
        Self { succession, ..Self::default() }
    }

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
        if !self.refuses.load(Ordering::Acquire) {
            return None;
        }
        self.refusing.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Why what is written may not last, while that is so.
    pub(super) fn goes(&self) -> Option<&'static str> {
        self.succession.as_ref()?.goes()
    }

    /// Whether nothing is known that speaks against a write.
    pub(super) fn takes_writes(&self) -> bool {
        !self.is_short() && self.refusal().is_none() && self.goes().is_none()
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
        if said.is_none() && !self.refuses.load(Ordering::Acquire) {
            return;
        }
        let mut refusing = self.refusing.lock().unwrap_or_else(PoisonError::into_inner);
        self.refuses.store(said.is_some(), Ordering::Release);
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

/// How long a runtime whose writer could not be made, or broke at once, does without.
const ANEW: Duration = Duration::from_secs(1);
