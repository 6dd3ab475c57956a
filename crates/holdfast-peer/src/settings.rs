//! Times and caps of the transport, derived from the failover timeout.

use std::time::Duration;

/// The smallest and largest time for dialling: a lost SYN is sent again after one second, so less
/// gains nothing; and a path that heals should not wait long for the next attempt.
const DIAL: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(2));

/// What a peer may take: the largest call and the largest answer, 64 MiB.
const LARGEST: usize = 64 << 20;

/// How much of one stream's body may be on its way to a reader that does not read, in bytes.
pub(crate) const STREAM_WINDOW: u32 = 64 << 10;

/// The same for all streams of a connection: 16,384 times that of one, so that streams whose
/// readers are slow never hold up the others.
pub(crate) const CONNECTION_WINDOW: u32 = 1 << 30;

/// How much of one stream's body may wait in the sender's process, in bytes.
pub(crate) const SEND_BUFFER: usize = 64 << 10;

/// The largest head of a request or an answer, in bytes as HTTP/2 counts them.
pub(crate) const HEADERS: u32 = 256 << 10;

/// How the dialling side behaves.
#[derive(Clone, Debug)]
pub struct Settings {
    /// For name lookup, TCP, TLS and the proof together.
    pub dial: Duration,
    /// A connection that has been silent this long is asked whether it lives.
    pub ping_every: Duration,
    /// How long it may take to answer that before it is given up.
    pub ping_wait: Duration,
    /// After a failed attempt, no other for half to all of this, by chance; doubled each time.
    pub backoff_least: Duration,
    /// The upper end of the back-off.
    pub backoff_most: Duration,
    /// The largest answer to a call, in bytes. Answers to forwards are streamed and have no cap.
    pub largest_answer: usize,
}

/// What the accepting side allows.
#[derive(Clone, Debug)]
pub struct Limits {
    /// For TLS and the proof together.
    pub handshake: Duration,
    /// How many connections may be between TCP and their proof; one more ends the oldest from the
    /// address that has the most.
    pub half_open: usize,
    /// The largest body of a call, in bytes. Bodies of forwards are streamed and have no cap.
    pub largest_call: usize,
    /// How many calls and forwards one connection may have at once, up to 16,384; more wait at the
    /// sender.
    pub streams: u32,
    /// See [`Settings::ping_every`].
    pub ping_every: Duration,
    /// See [`Settings::ping_wait`].
    pub ping_wait: Duration,
    /// How long running calls and forwards may go on after the stop.
    pub drain: Duration,
}

// === impl Settings ===

impl Settings {
    /// Settings with which a dead connection is given up within about `failover`.
    #[must_use]
    pub fn for_failover(failover: Duration) -> Self {
        Self {
            dial: failover.clamp(DIAL.0, DIAL.1),
            ping_every: failover / 4,
            ping_wait: failover * 3 / 4,
            backoff_least: Duration::from_millis(20),
            backoff_most: (failover / 4).max(Duration::from_millis(20)),
            largest_answer: LARGEST,
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self::for_failover(Duration::from_secs(1))
    }
}

// === impl Limits ===

impl Limits {
    /// Limits with which a dead connection is given up within about `failover`.
    #[must_use]
    pub fn for_failover(failover: Duration) -> Self {
        Self {
            handshake: Duration::from_secs(2),
            half_open: 64,
            largest_call: LARGEST,
            streams: 16_384,
            ping_every: failover / 4,
            ping_wait: failover * 3 / 4,
            drain: Duration::from_secs(5),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self::for_failover(Duration::from_secs(1))
    }
}
