//! What the node tells a client connection to do.
//!
//! A connection is polled several times per call, and nearly never has an order. To wait for two tokens
//! costs some hundred instructions each time; so it is done once, which is enough to be woken, and after
//! that the tokens are only asked.

use std::pin::Pin;
use std::task::{Context, Poll};

use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// The orders of one connection. Always polled by the same task.
pub(super) struct Orders {
    cut: CancellationToken,
    draining: CancellationToken,
    drains: bool,
    /// What wakes the connection's task, from the first poll on.
    waiting: Option<[Pin<Box<WaitForCancellationFutureOwned>>; 2]>,
}

/// What a connection is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// Close at once.
    Cut,
    /// Take no new request. Told once.
    Drain,
}

// === impl Orders ===

impl Orders {
    pub(super) fn new(cut: CancellationToken, draining: CancellationToken) -> Self {
        Self { cut, draining, drains: false, waiting: None }
    }

    /// Whether no new request is to be taken, told or not.
    pub(super) fn drains(&self) -> bool {
        self.draining.is_cancelled()
    }

    /// The next order, once there is one.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Order> {
        if self.waiting.is_none() {
            let waiting = self.waiting.insert([
                Box::pin(self.cut.clone().cancelled_owned()),
                Box::pin(self.draining.clone().cancelled_owned()),
            ]);
            for token in waiting {
                // What is over already is seen below.
                let _ = token.as_mut().poll(cx);
            }
        }
        if self.cut.is_cancelled() {
            return Poll::Ready(Order::Cut);
        }
        if !self.drains && self.draining.is_cancelled() {
            self.drains = true;
            return Poll::Ready(Order::Drain);
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test]
    async fn each_order_wakes_the_connection_and_a_drain_is_told_once() {
        let (cut, draining) = (CancellationToken::new(), CancellationToken::new());
        let mut orders = Orders::new(cut.clone(), draining.clone());
        let told = tokio::spawn(async move {
            let first = poll_fn(|cx| orders.poll(cx)).await;
            (first, poll_fn(|cx| orders.poll(cx)).await)
        });
        tokio::task::yield_now().await;
        draining.cancel();
        tokio::task::yield_now().await;
        assert!(!told.is_finished());
        cut.cancel();
        assert_eq!(told.await.unwrap(), (Order::Drain, Order::Cut));
    }

    #[tokio::test]
    async fn an_order_that_was_given_before_is_heard() {
        let (cut, draining) = (CancellationToken::new(), CancellationToken::new());
        cut.cancel();
        let mut orders = Orders::new(cut, draining);
        assert_eq!(poll_fn(|cx| orders.poll(cx)).await, Order::Cut);
    }
}
