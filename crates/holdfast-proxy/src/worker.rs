//! What each worker thread has of its own.

use std::cell::RefCell;

use tokio_util::sync::CancellationToken;

use crate::gateway::Gateway;

thread_local! {
    static GIVING_UP: RefCell<Option<CancellationToken>> = const { RefCell::new(None) };
}

/// The node's [`giving_up`](Gateway::giving_up) token as this thread has it. Every running call
/// waits for it, so it is a child of the shared one: threads do not meet on its lock.
pub(crate) fn giving_up(gateway: &Gateway) -> CancellationToken {
    GIVING_UP.with_borrow_mut(|token| {
        token.get_or_insert_with(|| gateway.giving_up.child_token()).clone()
    })
}
