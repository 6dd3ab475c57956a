//! A timer that nearly never goes off, and is looked at with every poll.
//!
//! A task that is woken for each event of a stream looks each time whether its time is up. To wait for a timer
//! once is enough to be woken by it; after that it is only asked whether it has gone off, which costs a
//! tenth. That holds as long as one task polls.

use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use tokio::task::coop::unconstrained;
use tokio::time::{Instant, Sleep};

/// A timer. Always polled by the same task.
pub(crate) struct Alarm {
    sleep: Pin<Box<Sleep>>,
    waits: bool,
}

// === impl Alarm ===

impl Alarm {
    pub(crate) fn at(deadline: Instant) -> Self {
        Self { sleep: Box::pin(tokio::time::sleep_until(deadline)), waits: false }
    }

    /// Goes off then instead.
    pub(crate) fn reset(&mut self, deadline: Instant) {
        self.sleep.as_mut().reset(deadline);
        self.waits = false;
    }

    /// Ready once it has gone off, and until it is reset.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.waits && !self.sleep.is_elapsed() {
            return Poll::Pending;
        }
        self.waits = true;
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
