//! How long calls may be held: deadlines that are nearly never reached, for next to nothing.
//!
//! Every call waits beside its work for two things that hardly ever happen: that its time is up, and that
//! the node gives it up. An entry in the runtime's timer and one among the waiters of a token cost a call
//! about 2,000 instructions. So a thread has one list of the calls that it holds, and one task that looks
//! through it forty times a second while there are any. A hold ends up to [`TICK`] late.

use std::cell::RefCell;
use std::pin::Pin;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// How often the list is looked through.
const TICK: Duration = Duration::from_millis(25);

/// The task rests when the list has been empty for so many looks: waking it costs more than they do.
const REST_AFTER: u32 = 40;

thread_local! {
    static HERE: RefCell<Option<Arc<List>>> = const { RefCell::new(None) };
}

/// What can be held.
pub(crate) trait Held: Send + Sync {
    /// Whether the node gives it up.
    fn is_given_up(&self) -> bool;
}

/// What is not given up.
struct Nothing;

impl Held for Nothing {
    fn is_given_up(&self) -> bool {
        false
    }
}

/// What a thread holds.
#[derive(Default)]
struct List {
    state: Mutex<State>,
    wanted: Notify,
}

#[derive(Default)]
struct State {
    slots: Vec<Slot>,
    /// Those slots that are free.
    free: Vec<usize>,
    /// The task waits until somebody wants it.
    rests: bool,
}

enum Slot {
    Free,
    Held { until: Instant, waker: Waker, what: Arc<dyn Held> },
    Over(Over),
}

/// Why a call is not held any longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Over {
    /// Its time is up.
    Time,
    /// The node gives it up.
    GivenUp,
}

/// One call's hold. It begins with the first poll.
///
/// # Cancel safety
/// Cancel safe.
pub(crate) struct Hold {
    list: Arc<List>,
    until: Instant,
    state: Begun,
}

enum Begun {
    Not(Arc<dyn Held>),
    At(usize),
}

// === impl Hold ===

impl Hold {
    /// Holds until then, on the list of this thread. Runs in a runtime.
    pub(crate) fn until(until: Instant, what: Arc<dyn Held>) -> Self {
        let list = HERE.with_borrow_mut(|here| Arc::clone(here.get_or_insert_with(start)));
        Self { list, until, state: Begun::Not(what) }
    }

    /// Holds until then what nobody gives up.
    pub(crate) fn only_until(until: Instant) -> Self {
        static NOTHING: LazyLock<Arc<Nothing>> = LazyLock::new(|| Arc::new(Nothing));
        Self::until(until, Arc::clone(&NOTHING) as Arc<dyn Held>)
    }
}

impl Future for Hold {
    type Output = Over;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Over> {
        let this = &mut *self;
        let mut state = this.list.lock();
        match &this.state {
            Begun::At(at) => match &mut state.slots[*at] {
                Slot::Over(over) => return Poll::Ready(*over),
                Slot::Held { waker, .. } => waker.clone_from(cx.waker()),
                Slot::Free => {}
            },
            Begun::Not(what) => {
                let (waker, what) = (cx.waker().clone(), Arc::clone(what));
                let held = Slot::Held { until: this.until, waker, what };
                let at = match state.free.pop() {
                    Some(at) => {
                        state.slots[at] = held;
                        at
                    }
                    None => {
                        state.slots.push(held);
                        state.slots.len() - 1
                    }
                };
                if std::mem::take(&mut state.rests) {
                    this.list.wanted.notify_one();
                }
                this.state = Begun::At(at);
            }
        }
        Poll::Pending
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let Begun::At(at) = self.state else { return };
        let mut state = self.list.lock();
        let was = std::mem::replace(&mut state.slots[at], Slot::Free);
        state.free.push(at);
        drop(state);
        // Whatever it held may go with it, and is not dropped under the lock.
        drop(was);
    }
}

// === impl List ===

impl List {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends what is over; whether anything is held.
    fn look(&self) -> bool {
        let now = Instant::now();
        let mut ended = Vec::new();
        let mut state = self.lock();
        for slot in &mut state.slots {
            let over = match slot {
                Slot::Held { what, .. } if what.is_given_up() => Over::GivenUp,
                Slot::Held { until, .. } if *until <= now => Over::Time,
                _ => continue,
            };
            ended.push(std::mem::replace(slot, Slot::Over(over)));
        }
        let any = state.free.len() < state.slots.len();
        drop(state);
        for slot in ended {
            if let Slot::Held { waker, .. } = slot {
                waker.wake();
            }
        }
        any
    }
}

/// A list for this thread, and the task that looks through it.
fn start() -> Arc<List> {
    let list = Arc::new(List::default());
    tokio::spawn(watch(Arc::clone(&list), Watching));
    list
}

/// Takes the list out of its thread when its task ends with its runtime: another one starts anew.
struct Watching;

impl Drop for Watching {
    fn drop(&mut self) {
        let _ = HERE.try_with(|here| here.try_borrow_mut().map(|mut here| here.take()));
    }
}

async fn watch(list: Arc<List>, _watching: Watching) {
    let mut idle = 0;
    loop {
        tokio::time::sleep(TICK).await;
        idle = if list.look() { 0 } else { idle + 1 };
        if idle < REST_AFTER {
            continue;
        }
        idle = 0;
        let rests = {
            let mut state = list.lock();
            state.rests = state.free.len() == state.slots.len();
            state.rests
        };
        if rests {
            list.wanted.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;

    use super::*;

    impl Held for CancellationToken {
        fn is_given_up(&self) -> bool {
            self.is_cancelled()
        }
    }

    fn hold(list: &Arc<List>, within: Duration, token: &CancellationToken) -> Hold {
        let what: Arc<dyn Held> = Arc::new(token.clone());
        Hold { list: Arc::clone(list), until: Instant::now() + within, state: Begun::Not(what) }
    }

    #[tokio::test(start_paused = true)]
    async fn a_hold_ends_a_tick_late_at_most_however_often_the_task_has_rested() {
        let list = start();
        for _ in 0..3 {
            let (begun, within) = (Instant::now(), Duration::from_millis(250));
            assert_eq!(hold(&list, within, &CancellationToken::new()).await, Over::Time);
            assert!(begun.elapsed() >= within && begun.elapsed() <= within + TICK * 2);
            // Long enough for the task to rest.
            tokio::time::sleep(TICK * (REST_AFTER + 10)).await;
            assert!(list.lock().rests);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_given_up_hears_of_it_and_nothing_else_does() {
        let (list, token) = (start(), CancellationToken::new());
        let held = tokio::spawn(hold(&list, Duration::from_secs(60), &token));
        let other = tokio::spawn(hold(&list, Duration::from_secs(60), &CancellationToken::new()));
        tokio::time::sleep(TICK).await;
        token.cancel();
        let begun = Instant::now();
        assert_eq!(held.await.unwrap(), Over::GivenUp);
        assert_eq!(hold(&list, Duration::from_secs(60), &token).await, Over::GivenUp);
        assert!(begun.elapsed() <= TICK * 2);
        assert_eq!(other.await.unwrap(), Over::Time);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slot_is_used_again_once_its_call_is_done() {
        let (list, token) = (start(), CancellationToken::new());
        for _ in 0..10 {
            let mut one = Box::pin(hold(&list, Duration::from_secs(60), &token));
            let mut other = Box::pin(hold(&list, Duration::from_secs(60), &token));
            assert!(futures_util::poll!(one.as_mut()).is_pending());
            assert!(futures_util::poll!(other.as_mut()).is_pending());
        }
        assert_eq!(list.lock().slots.len(), 2);
    }
}
