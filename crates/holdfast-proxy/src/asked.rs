//! What nearly never happens, and is looked for with every poll.
//!
//! A task that is woken for each event of a stream looks each time whether its time is up, its client gone, or
//! the node at its end. To wait for that once is enough to be woken by it; after that it is only asked whether
//! it has happened, which costs a tenth.

use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use tokio::task::coop::unconstrained;
use tokio::time::{Instant, Sleep};

/// A timer.
pub(crate) struct Alarm {
    sleep: Pin<Box<Sleep>>,
    /// Whom it wakes.
    task: Option<Waker>,
}

/// A future that is nearly never ready. It is polled once, and again only when what it waits for has woken
/// it.
pub(crate) struct Seldom<F> {
    future: F,
    bell: Arc<Bell>,
    /// Whom the bell wakes.
    task: Option<Waker>,
}

/// Hears what is waited for, as its waker, and remembers that it did.
pub(crate) struct Bell {
    rung: AtomicBool,
    task: Mutex<Option<Waker>>,
}

/// What is perhaps waited for; nothing never comes.
pub(crate) async fn perhaps<T>(future: Option<impl Future<Output = T>>) -> T {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

/// Whether what waits for this task would wake the one that polls.
fn wakes(task: &Option<Waker>, cx: &Context<'_>) -> bool {
    task.as_ref().is_some_and(|task| task.will_wake(cx.waker()))
}

// === impl Seldom ===

impl<F: Future + Unpin> Seldom<F> {
    pub(crate) fn new(future: F) -> Self {
        Self { future, bell: Bell::rung(None), task: None }
    }
}

impl<F: Future + Unpin> Future for Seldom<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        if !wakes(&this.task, cx) {
            // Before it is looked whether the bell has rung: it may have woken the task before.
            this.bell.wakes(cx.waker().clone());
            this.task = Some(cx.waker().clone());
        }
        if !this.bell.has_rung() {
            return Poll::Pending;
        }
        let waker = this.bell.still();
        Pin::new(&mut this.future).poll(&mut Context::from_waker(&waker))
    }
}

// === impl Bell ===

impl Bell {
    /// One that has rung, since nothing waits with it yet, and wakes this task.
    pub(crate) fn rung(task: Option<Waker>) -> Arc<Self> {
        Arc::new(Self { rung: AtomicBool::new(true), task: Mutex::new(task) })
    }

    pub(crate) fn has_rung(&self) -> bool {
        self.rung.load(Ordering::Acquire)
    }

    /// It is to ring again from here on; the waker that makes it.
    pub(crate) fn still(self: &Arc<Self>) -> Waker {
        self.rung.swap(false, Ordering::AcqRel);
        Waker::from(Arc::clone(self))
    }

    /// It has rung, for the task that asks.
    pub(crate) fn ring(&self) {
        self.rung.store(true, Ordering::Release);
    }

    /// Another task waits from here on. Whoever says so looks afterwards whether it has rung already.
    pub(crate) fn wakes(&self, task: Waker) {
        *self.task.lock().unwrap_or_else(PoisonError::into_inner) = Some(task);
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.ring();
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(task) = task {
            task.wake();
        }
    }
}

// === impl Alarm ===

impl Alarm {
    pub(crate) fn at(deadline: Instant) -> Self {
        Self { sleep: Box::pin(tokio::time::sleep_until(deadline)), task: None }
    }

    /// Goes off then instead.
    pub(crate) fn reset(&mut self, deadline: Instant) {
        self.sleep.as_mut().reset(deadline);
        self.task = None;
    }

    /// Ready once it has gone off, and until it is reset.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !wakes(&self.task, cx) {
            self.task = Some(cx.waker().clone());
        } else if !self.sleep.is_elapsed() {
            return Poll::Pending;
        }
        // A task that has used up its turn would not be waited for by the timer.
        pin!(unconstrained(self.sleep.as_mut())).poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_alarm_wakes_whoever_polls_it_and_again_after_a_reset() {
        let begun = Instant::now();
        let mut alarm = Alarm::at(begun + Duration::from_secs(3));
        for seconds in [3, 5, 5, 9] {
            alarm.reset(begun + Duration::from_secs(seconds));
            // Asked in between, as by a task that is woken for other things.
            for _ in 0..3 {
                let _ = futures_util::poll!(poll_fn(|cx| alarm.poll(cx)));
            }
            poll_fn(|cx| alarm.poll(cx)).await;
            assert_eq!(begun.elapsed(), Duration::from_secs(seconds));
            assert!(futures_util::poll!(poll_fn(|cx| alarm.poll(cx))).is_ready());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_alarm_and_what_is_seldom_wake_the_task_that_they_have_moved_to() {
        let (ring, rings) = tokio::sync::oneshot::channel();
        let mut alarm = Alarm::at(Instant::now() + Duration::from_secs(3));
        let mut seldom = Seldom::new(rings);
        assert!(futures_util::poll!(poll_fn(|cx| alarm.poll(cx))).is_pending());
        assert!(futures_util::poll!(&mut seldom).is_pending());
        let moved = tokio::spawn(async move {
            poll_fn(|cx| alarm.poll(cx)).await;
            seldom.await
        });
        tokio::time::sleep(Duration::from_secs(4)).await;
        ring.send(7).unwrap();
        assert_eq!(moved.await.unwrap(), Ok(7));
    }

    #[tokio::test]
    async fn what_is_seldom_is_polled_only_when_it_was_woken() {
        let (ring, mut rings) = tokio::sync::oneshot::channel::<u32>();
        let mut polls = 0;
        let mut seldom = Seldom::new(poll_fn(|cx| {
            polls += 1;
            Pin::new(&mut rings).poll(cx)
        }));
        for _ in 0..5 {
            assert!(futures_util::poll!(&mut seldom).is_pending());
        }
        ring.send(7).unwrap();
        assert_eq!(seldom.await, Ok(7));
        assert_eq!(polls, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn an_alarm_that_is_set_at_the_end_of_a_turn_goes_off() {
        let mut alarm = Alarm::at(Instant::now() + Duration::from_secs(3));
        poll_fn(|cx| {
            while tokio::task::coop::has_budget_remaining() {
                let _ = tokio::task::coop::poll_proceed(cx).map(|spent| spent.made_progress());
            }
            assert!(alarm.poll(cx).is_pending());
            Poll::Ready(())
        })
        .await;
        let gone_off = tokio::time::timeout(Duration::from_secs(9), poll_fn(|cx| alarm.poll(cx)));
        assert!(gone_off.await.is_ok());
    }
}
