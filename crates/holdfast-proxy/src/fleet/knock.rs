//! Whether an instance that could not be reached can be again.
//!
//! One refused connection is enough to know that nothing is there, and one that comes about that
//! something is. So an instance that refuses is left alone from the first refusal on, and this node
//! knocks at it until it opens; a server that restarts is back within a fraction of a second, without
//! the ramp of a server that has failed. Calls wait for that for as long as a restart takes and are
//! refused at once afterwards. What connects and then fails is the breaker's business.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use holdfast_engine::backoff::Backoff;
use tokio::net::TcpStream;

use super::control::{At, Change, News};
use super::server::ServerFleet;
use super::{Fleet, chance};

/// Where to knock.
#[derive(Clone, Debug)]
pub(super) struct Door {
    pub(super) host: Box<str>,
    pub(super) port: u16,
    /// How long a connection may take.
    pub(super) within: Duration,
}

/// The first pause, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

// === impl Fleet ===

impl Fleet {
    /// Lets time pass for instances with calls under way: one that hangs is asked by nobody else, and
    /// what waits for it is to be told. To be called every [`TICK`].
    pub(crate) fn tick(&self) {
        let now = Instant::now();
        for server in self.servers() {
            for (index, it) in server.instances.iter().enumerate() {
                if it.in_flight() > 0 || it.is_open() {
                    let tell = |change| server.tell(index, change);
                    it.steer(|breaker| breaker.tick(now, chance()), tell);
                }
            }
        }
    }
}

/// How late the end of a call's time is noticed at most.
pub(crate) const TICK: Duration = Duration::from_millis(100);

// === impl ServerFleet ===

impl ServerFleet {
    /// An attempt did not reach the instance. From here on it is away, until it answers a knock.
    pub(super) fn left(self: &Arc<Self>, instance: usize, now: Instant) {
        let it = &self.instances[instance];
        let Some(door) = it.door.clone() else { return };
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if !it.goes_away(now) {
            return;
        }
        self.say(instance, Change::Away(true));
        tracing::info!(server = %self.name, instance = %it.id, "instance cannot be reached");
        // The instance outlives this configuration's server, should there be another configuration.
        let life = Arc::downgrade(&it.life);
        let (news, heard) = (self.news.clone(), Arc::clone(&self.heard));
        let queue = Arc::clone(&self.queue);
        let at = At { server: self.index, instance };
        let (name, id) = (Arc::clone(&self.name), it.id.clone());
        runtime.spawn(async move {
            let (first, longest) = PAUSES;
            let mut pause = Backoff::new(first, longest);
            loop {
                tokio::time::sleep(pause.next(chance())).await;
                let opened = TcpStream::connect((&*door.host, door.port));
                let opened = tokio::time::timeout(door.within, opened).await;
                let Some(life) = life.upgrade() else { return };
                if let Ok(Ok(_closed_at_once)) = opened {
                    life.comes_back(Instant::now());
                    if !life.news.swap(true, Ordering::AcqRel) {
                        heard.notify_waiters();
                    }
                    let _ = news.send(News { at, change: Change::Away(false) });
                    queue.look_again();
                    tracing::info!(server = %name, instance = %id, "instance can be reached");
                    return;
                }
            }
        });
    }
}
