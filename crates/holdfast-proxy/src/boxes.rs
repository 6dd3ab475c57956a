//! Boxes that the futures of calls take turns in.
//!
//! The future of a call is some kilobytes, and is boxed so that a connection that waits for one has
//! none. Blocks of that size are beyond what glibc keeps at hand for a thread: to get and give back the
//! two of a call cost more than all its small ones together (`docs/performance.md`). So each thread keeps
//! the boxes of the calls that it has served.
//!
//! To put a new future into a kept box would be to copy it there, twice, with all its room for what it does
//! later. So what is kept is a future that does one piece of work after the other, each in the same place,
//! and a new one is given what it works on.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::thread::LocalKey;

/// The idle boxes of a thread, for one kind of work: what is done with a `G` so that there is a `T`.
pub(crate) struct Boxes<G: 'static, T: 'static> {
    make: fn() -> Worker,
    idle: RefCell<Vec<Worker>>,
    /// What passes between a box and whoever polls it; empty but for the length of that poll.
    given: Cell<Option<G>>,
    done: Cell<Option<T>>,
}

/// Does one piece of work after the other. Never ready.
type Worker = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A thread keeps at most so many, of some kilobytes each.
const KEPT: usize = 256;

/// Work in one of them. Cancelled, it takes its box along.
pub(crate) struct Boxed<G: 'static, T: 'static> {
    worker: Option<Worker>,
    /// Until it is polled for the first time.
    given: Option<G>,
    home: &'static LocalKey<Boxes<G, T>>,
}

// === impl Boxes ===

impl<G, T> Boxes<G, T> {
    /// No boxes; `make` is [`worker`] with the work.
    pub(crate) const fn new(make: fn() -> Worker) -> Self {
        let idle = RefCell::new(Vec::new());
        Self { make, idle, given: Cell::new(None), done: Cell::new(None) }
    }
}

/// A new box at home there.
pub(crate) fn worker<G: Send, T: Send, F>(
    home: &'static LocalKey<Boxes<G, T>>,
    work: impl Fn(G) -> F + Send + Sync + 'static,
) -> Worker
where
    F: Future<Output = T> + Send,
{
    Box::pin(async move {
        loop {
            let given = poll_fn(|_| match home.with(|home| home.given.take()) {
                Some(given) => Poll::Ready(given),
                // It is done with, and is polled again when it is given something.
                None => Poll::Pending,
            });
            let done = work(given.await).await;
            home.with(|home| home.done.set(Some(done)));
        }
    })
}

// === impl Boxed ===

impl<G, T> Boxed<G, T> {
    pub(crate) fn new(home: &'static LocalKey<Boxes<G, T>>, given: G) -> Self {
        let kept = home.with(|home| home.idle.borrow_mut().pop());
        let worker = kept.unwrap_or_else(|| home.with(|home| home.make)());
        Self { worker: Some(worker), given: Some(given), home }
    }
}

// What is polled in place is behind the box's own pin.
impl<G, T> Unpin for Boxed<G, T> {}

impl<G, T> Future for Boxed<G, T> {
    type Output = T;

    /// Pending for ever once it has been ready.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let this = &mut *self;
        let Some(worker) = &mut this.worker else { return Poll::Pending };
        if let Some(given) = this.given.take() {
            this.home.with(|home| home.given.set(Some(given)));
        }
        // Ready is what nobody can make of it.
        let _ = worker.as_mut().poll(cx);
        let Some(done) = this.home.with(|home| home.done.take()) else { return Poll::Pending };
        // What it worked with is gone.
        let idle = this.worker.take();
        this.home.with(|home| {
            let mut kept = home.idle.borrow_mut();
            if kept.len() < KEPT {
                kept.extend(idle);
            }
        });
        Poll::Ready(done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    thread_local! {
        /// Gives back twice the number; an odd one waits first.
        static HERE: Boxes<u32, u32> = const { Boxes::new(|| worker(&HERE, async |number| {
            if number % 2 == 1 {
                tokio::task::yield_now().await;
            }
            number * 2
        })) };
    }

    fn twice(number: u32) -> Boxed<u32, u32> {
        Boxed::new(&HERE, number)
    }

    fn kept() -> usize {
        HERE.with(|home| home.idle.borrow().len())
    }

    #[tokio::test]
    async fn a_box_is_used_again_by_whoever_comes_and_lost_by_who_is_cancelled() {
        assert_eq!(twice(1).await, 2);
        assert_eq!(kept(), 1);
        let (mut first, second) = (twice(3), twice(5));
        assert_eq!(kept(), 0, "the first has taken it");
        assert_eq!(futures_util::poll!(&mut first), Poll::Pending);
        drop(first);
        assert_eq!((second.await, kept()), (10, 1));
        assert_eq!((twice(7).await, kept()), (14, 1));
    }

    #[tokio::test]
    async fn what_is_done_is_polled_no_more() {
        let mut done = twice(2);
        assert_eq!(futures_util::poll!(&mut done), Poll::Ready(4));
        assert_eq!(futures_util::poll!(&mut done), Poll::Pending);
        assert_eq!(twice(4).await, 8);
    }

    #[tokio::test]
    async fn work_that_waits_at_the_same_time_gets_what_is_its_own() {
        let (mut one, mut other) = (twice(1), twice(3));
        assert!(futures_util::poll!(&mut one).is_pending());
        assert!(futures_util::poll!(&mut other).is_pending());
        assert_eq!((other.await, one.await), (6, 2));
    }

    #[tokio::test]
    async fn work_may_wait_for_work_of_its_kind() {
        thread_local! {
            static DEEP: Boxes<u32, u32> = const { Boxes::new(|| worker(&DEEP, |depth| async move {
                match depth {
                    0 => 0,
                    depth => Boxed::new(&DEEP, depth - 1).await + 1,
                }
            })) };
        }
        assert_eq!(Boxed::new(&DEEP, 5).await, 5);
    }

    /// Its work holds nothing once it is done: a connection, or a call.
    #[tokio::test]
    async fn an_idle_box_holds_nothing() {
        use std::sync::{Arc, Weak};
        thread_local! {
            static HELD: Boxes<Arc<()>, Weak<()>> =
                const { Boxes::new(|| worker(&HELD, async |it| Arc::downgrade(&it))) };
        }
        let weak = Boxed::new(&HELD, Arc::new(())).await;
        assert!(weak.upgrade().is_none());
    }

    #[tokio::test]
    async fn a_thread_keeps_a_limited_number() {
        let many: Vec<_> = (0..KEPT + 40).map(|_| twice(1)).collect();
        futures_util::future::join_all(many).await;
        assert_eq!(kept(), KEPT);
    }
}
