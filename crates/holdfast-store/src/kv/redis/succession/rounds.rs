//! A question that many have at once, asked for all of them: one round at a time, which counts for those who came
//! before it began.
//!
//! A round is driven by the worker that asks, and by nobody beside it. One whose thread does not run (a computation
//! that does not yield, a machine without time for it) holds the lock meanwhile, and with it the writes of all
//! workers that have to ask, until whoever wants them written has waited long enough. A round in a task of its own
//! would only help where that runs on another thread; and a thread that is stuck holds up its calls in any case.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Who is asked.
pub(super) trait Asked {
    type Answer: Clone + Send;

    /// # Cancel safety
    /// Has to be cancel safe: whoever asks may give up.
    fn ask(&mut self) -> impl Future<Output = Self::Answer> + Send;
}

/// The way to who is asked.
pub(super) struct Rounds<A: Asked> {
    /// How many rounds have begun. Read and raised under a lock, so that of a reader and a round one is first, and
    /// all that was before it is before all that comes after the other.
    begun: Mutex<u64>,
    /// Held for as long as a round lasts.
    asked: tokio::sync::Mutex<(A, Option<Round<A::Answer>>)>,
}

/// An answer, and the number of its round: later ones have higher numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Round<T> {
    pub(super) number: u64,
    pub(super) answer: T,
}

impl<A: Asked> Rounds<A> {
    pub(super) fn new(asked: A) -> Self {
        Self { begun: Mutex::default(), asked: tokio::sync::Mutex::new((asked, None)) }
    }

    /// The answer of a round that begins after this was called. One that is under way is waited for, and does
    /// not count; the next one does, whoever began it.
    ///
    /// # Cancel safety
    /// Cancel safe: those who wait ask by themselves.
    pub(super) async fn ask(&self) -> Round<A::Answer> {
        let before = *self.begun();
        let mut asked = self.asked.lock().await;
        let (asked, last) = &mut *asked;
        if let Some(round) = last
            && round.number > before
        {
            return round.clone();
        }
        let number = {
            let mut begun = self.begun();
            *begun += 1;
            *begun
        };
        let answer = asked.ask().await;
        last.insert(Round { number, answer }).clone()
    }

    fn begun(&self) -> MutexGuard<'_, u64> {
        // No code panics under the lock.
        self.begun.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use tokio::sync::mpsc;
    use tokio::task::{JoinHandle, yield_now};
    use tokio::time::timeout;

    use super::*;

    /// Says that it is asked, and answers what it is told to.
    struct Told {
        asked: mpsc::UnboundedSender<()>,
        answers: mpsc::UnboundedReceiver<&'static str>,
    }

    impl Asked for Told {
        type Answer = &'static str;

        async fn ask(&mut self) -> &'static str {
            self.asked.send(()).unwrap();
            self.answers.recv().await.unwrap()
        }
    }

    struct World {
        rounds: Arc<Rounds<Told>>,
        asked: mpsc::UnboundedReceiver<()>,
        answers: mpsc::UnboundedSender<&'static str>,
    }

    impl World {
        fn new() -> Self {
            let (asks, asked) = mpsc::unbounded_channel();
            let (answers, told) = mpsc::unbounded_channel();
            let rounds = Arc::new(Rounds::new(Told { asked: asks, answers: told }));
            Self { rounds, asked, answers }
        }

        /// Somebody who asks now.
        async fn asks(&self) -> JoinHandle<Round<&'static str>> {
            let rounds = Arc::clone(&self.rounds);
            let asks = tokio::spawn(async move { rounds.ask().await });
            for _ in 0..8 {
                yield_now().await;
            }
            asks
        }

        /// A round has begun.
        async fn begins(&mut self) {
            let begun = timeout(Duration::from_secs(1), self.asked.recv()).await;
            begun.expect("somebody asks").unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_round_that_was_under_way_does_not_count_and_the_next_one_counts_for_all() {
        let mut world = World::new();
        let first = world.asks().await;
        world.begins().await;
        // Their writes are acknowledged while the first is under way.
        let (second, third) = (world.asks().await, world.asks().await);
        world.answers.send("it stays").unwrap();
        assert_eq!(first.await.unwrap(), Round { number: 1, answer: "it stays" });
        world.begins().await;
        // And this one's is acknowledged while the second is.
        let fourth = world.asks().await;
        world.answers.send("it goes").unwrap();
        for shares in [second, third] {
            assert_eq!(shares.await.unwrap(), Round { number: 2, answer: "it goes" });
        }
        world.answers.send("another is there").unwrap();
        assert_eq!(fourth.await.unwrap(), Round { number: 3, answer: "another is there" });
        // Nor does what was said before anybody came.
        world.answers.send("that one stays").unwrap();
        assert_eq!(world.rounds.ask().await, Round { number: 4, answer: "that one stays" });
    }

    #[tokio::test(start_paused = true)]
    async fn who_gives_up_holds_up_nobody() {
        let mut world = World::new();
        let first = world.asks().await;
        world.begins().await;
        let second = world.asks().await;
        first.abort();
        world.begins().await;
        world.answers.send("it stays").unwrap();
        assert_eq!(second.await.unwrap(), Round { number: 2, answer: "it stays" });
    }
}
