//! The worker threads, for work that comes from others.

use std::cell::RefCell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::gateway::Gateway;

thread_local! {
    static DRAINING: RefCell<Option<CancellationToken>> = const { RefCell::new(None) };
}

/// The node's [`draining`](crate::gateway::Node::draining) token as this thread has it. Every client
/// connection waits for it, so it is a child of the shared one: threads do not meet on its lock.
pub(crate) fn draining(gateway: &Gateway) -> CancellationToken {
    DRAINING.with_borrow_mut(|token| {
        token.get_or_insert_with(|| gateway.draining.child_token()).clone()
    })
}

/// The runtimes of all workers, for work that comes from other threads.
#[derive(Debug, Default)]
pub(crate) struct Workers {
    handles: Mutex<Vec<Handle>>,
    turn: AtomicUsize,
}

impl Workers {
    pub(crate) fn join(&self, handle: Handle) {
        self.handles.lock().unwrap_or_else(PoisonError::into_inner).push(handle);
    }

    /// The node ends: no work from other threads is taken any more.
    pub(crate) fn end(&self) {
        self.handles.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// The workers in turn; none before the first has started.
    pub(crate) fn next(&self) -> Option<Handle> {
        let handles = self.handles.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        handles.get(turn % handles.len().max(1)).cloned()
    }
}
