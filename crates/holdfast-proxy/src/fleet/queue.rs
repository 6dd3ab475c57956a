//! Calls that wait for one of an instance's connections, all of which are busy.
//!
//! A call that finds every instance that it could go to at `pool.max_connections` waits, in the order of
//! arrival, until something ends at one of them: for a bounded time, in a queue of bounded length. A
//! call that belongs to an instance waits for that one. What comes meanwhile does not overtake, with one
//! exception: a session is opened before calls go, since one of them may be waiting for it.
//!
//! Whatever else changes where a call could go (a breaker, a verdict, a failover, another configuration)
//! has those that wait look again; each keeps its place in the order.
//!
//! While nobody waits, all of this costs a call two looks at a number that does not change.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::attempt::Attempt;
use super::counts::Why;
use super::instance::Instance;
use super::refusal::Refused;
use super::server::{Ask, ServerFleet};

/// The calls of one server that wait. The next configuration's goes on with it.
#[derive(Debug)]
pub(super) struct Queue {
    /// Connections at once to one instance; 0: one carries all calls.
    places: AtomicU32,
    /// How many are in the line; read without the lock.
    waiting: AtomicU32,
    numbers: AtomicU64,
    /// By their numbers.
    line: Mutex<VecDeque<Waiter>>,
}

#[derive(Debug)]
struct Waiter {
    number: u64,
    /// It opens a session.
    opens: bool,
    /// The marks of the instances that it waits for; once it was told, of the one where it goes.
    at: Vec<u32>,
    /// Gets the mark of the instance where there is room; none: it has, and is on its way there.
    tell: Option<oneshot::Sender<u32>>,
}

/// A call's place in the queue of its server, over all of its waits until it is sent.
#[derive(Debug)]
pub(crate) struct InLine {
    until: Instant,
    /// None before it waits for the first time.
    number: Option<u64>,
    kept: Option<Reservation>,
}

/// A connection that is kept for a call. Dropped, it is the next one's if it is still there.
#[derive(Debug)]
struct Reservation {
    server: Arc<ServerFleet>,
    mark: u32,
    number: u64,
}

// === impl Queue ===

impl Queue {
    pub(super) fn new(places: u32) -> Self {
        Self {
            places: AtomicU32::new(places),
            waiting: AtomicU32::new(0),
            numbers: AtomicU64::new(0),
            line: Mutex::default(),
        }
    }

    /// Connections at once to one instance; 0: as many as there are calls.
    pub(super) fn places(&self) -> u32 {
        self.places.load(Ordering::Relaxed)
    }

    /// Whether others wait, or are on their way, that go before this one at the instance with this mark.
    pub(super) fn is_waited_for(&self, mark: u32, opens: bool) -> bool {
        let first = |it: &Waiter| (it.opens || !opens) && it.at.contains(&mark);
        self.is_waiting() && self.line().iter().any(first)
    }

    /// Has all who wait look again where they could go.
    pub(super) fn look_again(&self) {
        if self.is_waiting() {
            // Without its sender each of them wakes, and leaves the line itself.
            let told: Vec<_> = self.line().iter_mut().map(|it| it.tell.take()).collect();
            drop(told);
        }
    }

    fn is_waiting(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) > 0
    }

    fn line(&self) -> MutexGuard<'_, VecDeque<Waiter>> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the first who could go there that there is room, if there is. Whether somebody was told.
    #[cold]
    fn grant(&self, at: &Instance) -> bool {
        let mut line = self.line();
        let (places, taken) = (self.places(), at.taken());
        // Whoever opens a session must not wait for a call that waits for it.
        for opens in [true, false] {
            let ahead = line.iter().filter(|it| it.is_coming(at.mark) && (it.opens || !opens));
            let ahead = u32::try_from(ahead.count()).unwrap_or(u32::MAX);
            if places != 0 && taken.saturating_add(ahead) >= places {
                return false;
            }
            for waiter in line.iter_mut().filter(|it| it.opens == opens) {
                if !waiter.at.contains(&at.mark) {
                    continue;
                }
                let Some(tell) = waiter.tell.take() else { continue };
                if tell.send(at.mark).is_ok() {
                    waiter.at = vec![at.mark];
                    return true;
                }
            }
        }
        false
    }

    /// Its place is by its number; `most`: the longest line that it stands in, unless it has already.
    fn enter(&self, waiter: Waiter, most: Option<u32>) -> bool {
        let mut line = self.line();
        if most.is_some_and(|most| line.len() >= most as usize) {
            return false;
        }
        let at = line.partition_point(|it| it.number < waiter.number);
        line.insert(at, waiter);
        self.waiting.fetch_add(1, Ordering::SeqCst);
        true
    }

    fn leave(&self, number: u64) {
        let mut line = self.line();
        if let Some(at) = line.iter().position(|it| it.number == number) {
            line.remove(at);
            self.waiting.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

impl Waiter {
    /// It has been told that there is room there.
    fn is_coming(&self, mark: u32) -> bool {
        self.tell.is_none() && *self.at == [mark]
    }
}

// === impl ServerFleet ===

impl ServerFleet {
    /// There may be room at an instance: whoever waits for it gets it.
    #[inline]
    pub(super) fn is_free(&self, instance: usize) {
        if self.queue.is_waiting() {
            while self.queue.grant(&self.instances[instance]) {}
        }
    }

    fn look_for_room(&self) {
        (0..self.instances.len()).for_each(|at| self.is_free(at));
    }

    /// From here on an instance has so many connections at once, for whoever waits as well.
    pub(super) fn change_places(&self) {
        self.queue.places.store(self.limit, Ordering::Relaxed);
        self.queue.look_again();
    }

    /// Calls that wait for a connection.
    pub(super) fn waiting(&self) -> u32 {
        self.queue.waiting.load(Ordering::Relaxed)
    }

    /// How long a call waits for a connection.
    pub(crate) fn patience(&self) -> Duration {
        self.queue_for
    }

    /// [`Self::choose`], after a wait where all connections are busy.
    ///
    /// # Errors
    /// [`Refused`]; nothing was sent.
    ///
    /// # Cancel safety
    /// Its place in the queue is the next one's.
    pub(crate) async fn choose_in_line(
        self: &Arc<Self>,
        ask: &Ask<'_>,
    ) -> Result<Attempt, Refused> {
        let mut line = InLine::until(Instant::now() + self.queue_for);
        loop {
            let chosen = self.choose(&Ask { kept: line.is_next(), ..*ask });
            match chosen {
                Err(busy) if busy.why == Why::Connections => {
                    line.wait(self, ask.opens, busy).await?
                }
                chosen => return chosen,
            }
        }
    }
}

// === impl InLine ===

impl InLine {
    /// It has not waited yet, and waits until then at most.
    pub(crate) fn until(until: Instant) -> Self {
        Self { until, number: None, kept: None }
    }

    /// Whether a connection is kept for it.
    pub(crate) fn is_next(&self) -> bool {
        self.kept.is_some()
    }

    /// Its place is the next one's: should it wait again, it stands at the end, for the rest of its time.
    pub(crate) fn steps_out(&mut self) {
        (self.number, self.kept) = (None, None);
    }

    /// Waits until a connection is kept for it at an instance where all were busy, or until it could go
    /// somewhere else: then it asks again. `opens`: it opens a session.
    ///
    /// # Errors
    /// The refusal, and why it does not wait longer. It was not sent.
    ///
    /// # Cancel safety
    /// Its place in the queue is the next one's.
    pub(crate) async fn wait(
        &mut self,
        server: &Arc<ServerFleet>,
        opens: bool,
        busy: Refused,
    ) -> Result<(), Refused> {
        self.kept = None;
        let queue = &server.queue;
        let most = self.number.is_none().then_some(server.queue_most);
        let next = || queue.numbers.fetch_add(1, Ordering::Relaxed);
        let number = *self.number.get_or_insert_with(next);
        let (sender, granted) = oneshot::channel();
        let waiter = Waiter { number, opens, at: busy.busy_at.clone(), tell: Some(sender) };
        if !queue.enter(waiter, most) {
            return Err(busy.for_good("as many calls as may wait for one"));
        }
        let mut waiting = Waiting { server, number: Some(number), granted };
        // One that ended before this one was seen to wait told nobody.
        server.look_for_room();
        match tokio::time::timeout_at(self.until, &mut waiting.granted).await {
            Ok(Ok(mark)) => {
                waiting.number = None;
                self.kept = Some(Reservation { server: Arc::clone(server), mark, number });
                Ok(())
            }
            Ok(Err(_)) => Ok(()),
            Err(_) => Err(busy.for_good("none was free in time")),
        }
    }
}

/// A call in the line; without its number one that a connection is kept for.
struct Waiting<'a> {
    server: &'a Arc<ServerFleet>,
    number: Option<u64>,
    granted: oneshot::Receiver<u32>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let Some(number) = self.number else { return };
        self.server.queue.leave(number);
        // It may have been let in at this very moment, and does not know.
        self.server.look_for_room();
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.server.queue.leave(self.number);
        if let Some(instance) = self.server.place(self.mark) {
            self.server.is_free(instance);
        }
    }
}

// === impl Refused ===

impl Refused {
    /// It waits for nothing any more.
    fn for_good(self, why: &str) -> Self {
        let reason = format!("{}, and {why}", self.reason);
        Self { reason, may_be_over_soon: false, turn_at: None, ..self }
    }
}
