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
