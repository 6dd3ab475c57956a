//! `servers.NAME.pool`: the connections to a server.

use std::time::Duration;

use crate::section::Section;

/// Connections of one node to each instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Connections at once to one instance, calls that last for minutes included. 1 to 1,000,000.
    pub max_connections: u32,
    /// Calls that wait for one beside them, of the whole server. 0 to 1,000,000; 0 refuses at once.
    pub queue: u32,
    /// How long one waits at most. 0 to 10m, and less than the call has left.
    pub queue_timeout: Duration,
    /// An idle connection is not used again after this long. 100ms to 1h. Longer than the server
    /// keeps it open is too long: a call that is sent at that moment cannot be repeated.
    pub idle_timeout: Duration,
}

impl Default for Pool {
    fn default() -> Self {
        // Many servers close an idle connection after 5 s.
        Self {
            max_connections: 10_000,
            queue: 1_000,
            queue_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(3),
        }
    }
}

// === impl Pool ===

impl Pool {
    pub(crate) fn read(mut section: Section<'_>) -> Self {
        let (ms, s) = (Duration::from_millis(1), Duration::from_secs(1));
        let mut pool = Self::default();
        section.number("max_connections", 1..=1_000_000, &mut pool.max_connections);
        section.number("queue", 0..=1_000_000, &mut pool.queue);
        section.duration("queue_timeout", Duration::ZERO..=s * 600, &mut pool.queue_timeout);
        section.duration("idle_timeout", ms * 100..=s * 3600, &mut pool.idle_timeout);
        section.finish();
        pool
    }
}
