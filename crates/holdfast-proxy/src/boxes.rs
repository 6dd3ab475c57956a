//! Boxes that the futures of calls take turns in.
//!
//! The future of a call is some kilobytes, and is boxed so that a connection that waits for one has
//! none. Blocks of that size are beyond what glibc keeps at hand for a thread: to get and give back the
//! two of a call cost more than all its small ones together (`docs/performance.md`). So each thread keeps
//! the boxes of the calls that it has served.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::thread::LocalKey;

use tokio_util::sync::ReusableBoxFuture;

/// The empty boxes of a thread.
pub(crate) type Boxes<T> = RefCell<Vec<ReusableBoxFuture<'static, T>>>;

/// A thread keeps at most so many, of some kilobytes each: more calls at once than this wait for their
/// servers long enough for an allocation.
const KEPT: usize = 64;

/// A future in one of them. Cancelled, it takes its box along.
pub(crate) struct Boxed<T: 'static> {
    future: Option<ReusableBoxFuture<'static, T>>,
    home: &'static LocalKey<Boxes<T>>,
}

// === impl Boxed ===

impl<T> Boxed<T> {
    pub(crate) fn new(
        home: &'static LocalKey<Boxes<T>>,
        future: impl Future<Output = T> + Send + 'static,
    ) -> Self {
        let future = match home.with_borrow_mut(Vec::pop) {
            Some(mut kept) => {
                kept.set(future);
                kept
            }
            None => ReusableBoxFuture::new(future),
        };
        Self { future: Some(future), home }
    }
}

impl<T> Future for Boxed<T> {
    type Output = T;

    /// Pending for ever once it has been ready.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let Some(future) = &mut self.future else { return Poll::Pending };
        let done = ready!(future.poll(cx));
        // What has ended holds nothing any more.
        let empty = self.future.take();
        self.home.with_borrow_mut(|kept| {
            if kept.len() < KEPT {
                kept.extend(empty);
            }
        });
        Poll::Ready(done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    thread_local! {
        static HERE: Boxes<u32> = const { RefCell::new(Vec::new()) };
    }

    #[tokio::test]
    async fn a_box_is_used_again_by_whoever_comes_and_lost_by_who_is_cancelled() {
        let kept = || HERE.with_borrow(Vec::len);
        let one = async |number: u32| {
            tokio::task::yield_now().await;
            number
        };
        assert_eq!(Boxed::new(&HERE, one(1)).await, 1);
        assert_eq!(kept(), 1);
        let (first, second) = (Boxed::new(&HERE, one(2)), Boxed::new(&HERE, one(3)));
        assert_eq!(kept(), 0, "the first has taken it");
        drop(first);
        assert_eq!((second.await, kept()), (3, 1));
        // Another kind of future needs another box.
        assert_eq!((Boxed::new(&HERE, async { 4 }).await, kept()), (4, 1));
    }

    #[tokio::test]
    async fn what_is_done_is_polled_no_more() {
        let mut done = Boxed::new(&HERE, async { 1 });
        assert_eq!(futures_util::poll!(&mut done), Poll::Ready(1));
        assert_eq!(futures_util::poll!(&mut done), Poll::Pending);
    }

    #[tokio::test]
    async fn a_thread_keeps_a_limited_number() {
        let many: Vec<_> = (0..KEPT + 10).map(|_| Boxed::new(&HERE, async { 1 })).collect();
        futures_util::future::join_all(many).await;
        assert_eq!(HERE.with_borrow(Vec::len), KEPT);
    }
}
