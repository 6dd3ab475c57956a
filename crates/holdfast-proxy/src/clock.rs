//! The node's clock: time since the node started, read at the edges and handed inwards.

use std::time::{Duration, Instant};

/// A copyable handle on the time since start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    started: Instant,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self { started: Instant::now() }
    }

    pub(crate) fn now(self) -> Duration {
        self.started.elapsed()
    }
}

/// Milliseconds since the Unix epoch, for what other nodes read too.
pub(crate) fn unix_millis() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// When something was, by this node's clock, that another node dated `unix` by its own: before what came of it
/// `here`.
pub(crate) fn seen_at(unix: u64, here: Instant) -> Instant {
    let ago = Duration::from_millis(unix_millis().saturating_sub(unix));
    let at = Instant::now().checked_sub(ago).filter(|_| ago <= LONGEST);
    at.map_or(here, |at| at.min(here))
}

/// No call waits for its server for longer (`timeout`): what seems to be older is of a clock that is wrong.
const LONGEST: Duration = Duration::from_secs(86_400);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_is_taken_over_is_as_old_as_its_entry() {
        let here = Instant::now();
        let ago = here.saturating_duration_since(seen_at(unix_millis() - 30_000, here));
        assert!(ago > Duration::from_secs(29) && ago < Duration::from_secs(31), "{ago:?}");
        assert_eq!(seen_at(unix_millis() + 5_000, here), here, "not later than its repetition");
        assert_eq!(seen_at(0, here), here, "a clock that is wrong says nothing");
    }
}
