//! What the node tells a client connection to do.
//!
//! A connection is polled several times per call, and nearly never has an order. To wait for two tokens
//! costs some hundred instructions each time, and to ask them a lock each, so it is done once: after that they
//! ring a bell, and what is asked is whether it has rung.

use std::future::Future as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::asked::Bell;

/// The orders of one connection. Always polled by the same task.
pub(super) struct Orders {
    cut: CancellationToken,
    draining: CancellationToken,
    drains: bool,
    /// What wakes the connection's task, from the first poll on.
    waiting: Option<Waiting>,
}

struct Waiting {
    tokens: [Pin<Box<WaitForCancellationFutureOwned>>; 2],
    bell: Arc<Bell>,
    /// Whom the bell wakes.
    task: Waker,
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
        match &self.waiting {
            Some(waiting) if !waiting.bell.has_rung() => self.drains,
            Some(_) | None => self.draining.is_cancelled(),
        }
    }

    /// The next order, once there is one.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Order> {
        let waiting = self.waiting.get_or_insert_with(|| {
            let tokens = [&self.cut, &self.draining];
            let tokens = tokens.map(|token| Box::pin(token.clone().cancelled_owned()));
            let task = cx.waker().clone();
            Waiting { tokens, bell: Bell::rung(Some(task.clone())), task }
        });
        if !waiting.task.will_wake(cx.waker()) {
            // Before it is looked whether the bell has rung: it may have woken the task before.
            waiting.task = cx.waker().clone();
            waiting.bell.wakes(cx.waker().clone());
        }
        if !waiting.bell.has_rung() {
            return Poll::Pending;
        }
        let waker = waiting.bell.still();
        for token in &mut waiting.tokens {
            // What is over is seen below.
            let _ = token.as_mut().poll(&mut Context::from_waker(&waker));
        }
        if self.cut.is_cancelled() {
            // It stays an order.
            waiting.bell.ring();
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

    #[test]
    fn a_drain_is_known_before_it_is_told_and_a_cut_stays_an_order() {
        let (cut, draining) = (CancellationToken::new(), CancellationToken::new());
        let mut orders = Orders::new(cut.clone(), draining.clone());
        let cx = &mut Context::from_waker(Waker::noop());
        assert_eq!((orders.poll(cx), orders.drains()), (Poll::Pending, false));
        draining.cancel();
        assert!(orders.drains());
        assert_eq!((orders.poll(cx), orders.drains()), (Poll::Ready(Order::Drain), true));
        assert_eq!((orders.poll(cx), orders.drains()), (Poll::Pending, true));
        cut.cancel();
        for _ in 0..3 {
            assert_eq!(orders.poll(cx), Poll::Ready(Order::Cut));
        }
    }

    #[tokio::test]
    async fn an_order_that_was_given_before_is_heard() {
        let (cut, draining) = (CancellationToken::new(), CancellationToken::new());
        cut.cancel();
        let mut orders = Orders::new(cut, draining);
        assert_eq!(poll_fn(|cx| orders.poll(cx)).await, Order::Cut);
    }
}
