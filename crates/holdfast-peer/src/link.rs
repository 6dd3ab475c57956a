//! One peer at one address, and its two connections.
//!
//! A connection is dialled when somebody needs it, once for all who wait, by a task of its own: a
//! caller that gives up ends its wait, not the attempt. After a failed attempt callers are told how
//! it failed, at once, until the back-off is over, so that a peer that is gone costs nobody a wait.
//! What they are told is never older than the longest back-off.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::connection::Connection;
use crate::dial::Dialler;
use crate::{Lane, LinkStatus, NodeId, PeerError, Settings};

/// A peer. Another address makes another `Link`.
pub(crate) struct Link {
    pub(crate) node: NodeId,
    pub(crate) address: String,
    lanes: [LaneState; 2],
}

#[derive(Default)]
struct LaneState {
    state: Mutex<State>,
    dials: AtomicU64,
}

/// ```text
/// Idle -> Dialling -> Live -> Idle        any -> Closed
///   ^--------'
/// ```
enum State {
    /// There is no connection.
    Idle(Pause),
    /// There is an attempt; its end is `Some`.
    Dialling(watch::Receiver<Option<Result<Connection, PeerError>>>),
    /// There is a connection, or was a moment ago.
    Live(Connection),
    /// The peer is forgotten.
    Closed,
}

/// What failed attempts left behind.
#[derive(Clone, Default)]
struct Pause {
    failures: u32,
    /// The last failure, and until when it is taken for the answer.
    last: Option<(PeerError, Instant)>,
}

// === impl Link ===

impl Link {
    pub(crate) fn new(node: NodeId, address: String) -> Arc<Self> {
        Arc::new(Self { node, address, lanes: Default::default() })
    }

    /// The connection of a lane, dialled if there is none.
    pub(crate) async fn connection(
        self: &Arc<Self>,
        dialler: &Arc<Dialler>,
        lane: Lane,
        deadline: Instant,
    ) -> Result<Connection, PeerError> {
        let mut attempt = match self.begin(dialler, lane)? {
            Begun::Live(connection) => return Ok(connection),
            Begun::Dialling(attempt) => attempt,
        };
        let ended = timeout_at(deadline, attempt.wait_for(Option::is_some)).await;
        match ended {
            Ok(Ok(ended)) => match &*ended {
                Some(outcome) => outcome.clone(),
                None => Err(runtime_is_gone()),
            },
            Ok(Err(_)) => Err(runtime_is_gone()),
            Err(_) => Err(PeerError::TimedOut { sent: false }),
        }
    }

    /// Stops giving out `connection`, which takes no requests any more.
    pub(crate) fn retire(&self, lane: Lane, connection: &Connection) {
        let mut state = self.lock(lane);
        if matches!(&*state, State::Live(live) if live.is(connection)) {
            *state = State::default();
        }
    }

    /// Breaks both connections, and those that attempts under way may yet give.
    pub(crate) fn close(&self) {
        for lane in [Lane::Control, Lane::Data] {
            if let State::Live(connection) = std::mem::replace(&mut *self.lock(lane), State::Closed)
            {
                connection.close();
            }
        }
    }

    pub(crate) fn status(&self, lane: Lane) -> LinkStatus {
        let state = self.lock(lane);
        LinkStatus {
            node: self.node,
            address: self.address.clone(),
            lane,
            connected: matches!(&*state, State::Live(connection) if connection.is_open()),
            dials: self.lanes[index(lane)].dials.load(Relaxed),
            error: match &*state {
                State::Idle(Pause { last: Some((error, _)), .. }) => Some(error.clone()),
                _ => None,
            },
        }
    }

    /// Finds the connection, or the attempt to wait for.
    fn begin(self: &Arc<Self>, dialler: &Arc<Dialler>, lane: Lane) -> Result<Begun, PeerError> {
        let mut state = self.lock(lane);
        let pause = match &*state {
            State::Live(connection) if connection.is_open() => {
                return Ok(Begun::Live(connection.clone()));
            }
            State::Dialling(attempt) if attempt.has_changed().is_ok() => {
                return Ok(Begun::Dialling(attempt.clone()));
            }
            State::Closed => return Err(forgotten(self.node)),
            State::Live(_) | State::Dialling(_) => Pause::default(),
            State::Idle(Pause { last: Some((error, until)), .. }) if Instant::now() < *until => {
                return Err(error.clone());
            }
            State::Idle(pause) => pause.clone(),
        };
        let (done, attempt) = watch::channel(None);
        *state = State::Dialling(attempt.clone());
        self.lanes[index(lane)].dials.fetch_add(1, Relaxed);
        let (link, dialler) = (Arc::clone(self), Arc::clone(dialler));
        dialler.runtime.clone().spawn(async move {
            let outcome = dialler.dial(&link.address, link.node, lane).await;
            let outcome = link.finish(lane, outcome, pause, &dialler.settings);
            // Nobody may be waiting any more.
            done.send_replace(Some(outcome));
        });
        Ok(Begun::Dialling(attempt))
    }

    /// Takes the end of an attempt.
    fn finish(
        &self,
        lane: Lane,
        outcome: Result<Connection, PeerError>,
        pause: Pause,
        settings: &Settings,
    ) -> Result<Connection, PeerError> {
        let mut state = self.lock(lane);
        if matches!(&*state, State::Closed) {
            if let Ok(connection) = outcome {
                connection.close();
            }
            return Err(forgotten(self.node));
        }
        match &outcome {
            Ok(connection) => {
                *state = State::Live(connection.clone());
                drop(state);
                self.end_pause(other(lane));
            }
            Err(error) => {
                tracing::debug!(node = self.node, address = self.address, ?lane, %error, "peer not reached");
                let failures = pause.failures.saturating_add(1);
                let until = Instant::now() + backoff(failures, settings, chance());
                *state = State::Idle(Pause { failures, last: Some((error.clone(), until)) });
            }
        }
        outcome
    }

    /// The peer is there: no reason to wait on the other lane either.
    fn end_pause(&self, lane: Lane) {
        let mut state = self.lock(lane);
        if matches!(&*state, State::Idle(_)) {
            *state = State::default();
        }
    }

    fn lock(&self, lane: Lane) -> MutexGuard<'_, State> {
        self.lanes[index(lane)].state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for State {
    fn default() -> Self {
        Self::Idle(Pause::default())
    }
}

enum Begun {
    Live(Connection),
    Dialling(watch::Receiver<Option<Result<Connection, PeerError>>>),
}

/// A time between half of the doubled back-off and all of it; `chance` in 0..=255.
fn backoff(failures: u32, settings: &Settings, chance: u8) -> Duration {
    let doubled = settings.backoff_least.saturating_mul(1 << failures.saturating_sub(1).min(16));
    let most = doubled.min(settings.backoff_most);
    most / 2 + most / 2 * u32::from(chance) / 255
}

fn chance() -> u8 {
    let mut byte = [u8::MAX];
    // Without randomness the pause is the longest, which is right too.
    let _ = getrandom::fill(&mut byte);
    byte[0]
}

fn index(lane: Lane) -> usize {
    match lane {
        Lane::Control => 0,
        Lane::Data => 1,
    }
}

fn other(lane: Lane) -> Lane {
    match lane {
        Lane::Control => Lane::Data,
        Lane::Data => Lane::Control,
    }
}

fn forgotten(node: NodeId) -> PeerError {
    PeerError::Unreachable(format!("node {node} is no peer"))
}

fn runtime_is_gone() -> PeerError {
    PeerError::Unreachable("the runtime of the transport has ended".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_back_off_doubles_up_to_its_most() {
        let settings = Settings {
            backoff_least: Duration::from_millis(20),
            backoff_most: Duration::from_millis(250),
            ..Settings::default()
        };
        let spans = [1, 2, 3, 4, 5, u32::MAX].map(|failures| {
            let [least, most] =
                [0, 255].map(|chance| backoff(failures, &settings, chance).as_millis());
            (least, most)
        });
        assert_eq!(spans, [(10, 20), (20, 40), (40, 80), (80, 160), (125, 250), (125, 250)]);
    }
}
