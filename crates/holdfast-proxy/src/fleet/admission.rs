//! A call's place in its class and its tool's part of that, its turn while a failover pauses, and what it depends on.
//!
//! Each server has classes of its own, so that no server takes another one's room. A call that is
//! admitted holds its place until it is answered; one that waits does so for a bounded time in a bounded
//! queue, and everybody else is refused at once.

#[cfg(test)]
mod tests;
mod waiting;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use holdfast_config::{BulkheadClass, Config, Role};
use holdfast_engine::balance;
use holdfast_engine::failover::Route;
use holdfast_engine::limits::bulkhead::{
    Bulkheads, ClassId, ClassParams, ClassStatus, Entry, Full, Ticket, ToolKey,
};
use holdfast_engine::retry_budget::{self, NoRetry, RetryBudget};
use tokio::sync::{Notify, oneshot};

use self::waiting::{Asked, Waiting, too_late};
use super::counts::Why;
use super::server::ServerFleet;
use crate::clock::recent;
use crate::exchange::Shelf;

/// The way into one server.
#[derive(Debug)]
pub(super) struct Gate {
    /// Whoever is in stays in when the configuration changes.
    state: Arc<Mutex<State>>,
    /// Where those stand, class by class, who have waited for a failover: they are as many as have called meanwhile.
    lines: Arc<[tokio::sync::Mutex<()>; BulkheadClass::ALL.len()]>,
    classes: [ClassParams; BulkheadClass::ALL.len()],
    total: Option<u32>,
    /// For how long a tool that hangs and fills its class is limited; zero: not at all.
    quarantine: Duration,
    budget: retry_budget::Params,
    class: BulkheadClass,
    /// Tools with a class of their own.
    tools: BTreeMap<String, BulkheadClass>,
    patience: [Duration; BulkheadClass::ALL.len()],
    /// How long a call waits for a failover to go on.
    paused: Duration,
}

#[derive(Debug)]
struct State {
    bulkheads: Bulkheads,
    budget: RetryBudget,
    waiting: HashMap<Ticket, oneshot::Sender<()>>,
    /// Tells those that are first in line that there may be room.
    freed: Arc<Notify>,
    /// How many tools of each class were in quarantine when that was last logged.
    quarantined: [u32; BulkheadClass::ALL.len()],
}

/// A call's place among those of its server. It is given back when this is dropped, if not before.
#[derive(Debug)]
pub(crate) struct Admitted {
    server: Arc<ServerFleet>,
    class: Option<ClassId>,
    tool: ToolKey,
    /// Its server has answered it.
    answered: AtomicBool,
    /// How many places it has: a batch one for each of its calls.
    places: u32,
    /// It is not among the calls that repeats are a share of.
    lasts: bool,
    repeating: AtomicBool,
    /// Its place in the class was given back.
    left: AtomicBool,
}

/// A call that was not let in. It was not sent.
#[derive(Clone, Debug)]
pub(crate) enum NotAdmitted {
    /// Its class is full.
    Full { class: BulkheadClass, retry_after: Duration, waited: bool },
    /// It is a batch of more calls than its class ever has room for.
    TooMany { calls: usize, class: BulkheadClass, concurrency: u32 },
    /// Its tool hangs and fills its class, and has its quarter of that.
    Limited { class: BulkheadClass, retry_after: Duration },
    /// A server that this one depends on does not take calls.
    Needs { server: Arc<str>, retry_after: Duration },
    /// Its server is poorly, and its class can be left out.
    Degraded { class: BulkheadClass },
    /// A failover took too long.
    Paused,
}

/// How much longer than a move's stages a call waits: a coordinator may die in it, and be followed.
const FOLLOWED: Duration = Duration::from_secs(10);

/// How long a call waits for the decision to leave an instance whose breaker is open: the nodes check it once
/// more, tell what they find, and the coordinator begins.
const DECIDED_WITHIN: Duration = Duration::from_millis(1500);

/// Tools are told apart by a hash, in so many parts: what clients make up costs no memory.
const TOOLS: u32 = 1024;

/// What all that is no tool is known by, and all batches.
const NO_TOOL: ToolKey = ToolKey(0);
const BATCHES: ToolKey = ToolKey(TOOLS + 1);

/// How often a call that waits looks whether a tool that hangs keeps it out.
const RELIEF: Duration = Duration::from_millis(250);

/// When a batch for which there are too few places is worth another try.
const SHORTLY: Duration = Duration::from_secs(1);

// === impl Gate ===

impl Gate {
    pub(super) fn new(
        settings: &holdfast_config::Server,
        config: &Config,
        before: Option<&Self>,
        now: Instant,
    ) -> Self {
        let (bulkheads, budget) = (&config.bulkheads, &config.retry_budget);
        let class = |class| {
            let it = bulkheads.of(class);
            let (concurrency, queue) = (it.concurrency, it.queue);
            let (queue_timeout, priority) = (it.queue_timeout, it.priority);
            ClassParams { concurrency, queue, queue_timeout, priority }
        };
        let budget = retry_budget::Params {
            share: budget.share,
            at_least: budget.at_least,
            attempts: budget.attempts,
        };
        let tools = settings.tools.iter();
        let (classes, total) = (BulkheadClass::ALL.map(class), bulkheads.total);
        let state = || State {
            bulkheads: Bulkheads::new(classes, total, bulkheads.quarantine),
            budget: RetryBudget::new(budget, now),
            waiting: HashMap::new(),
            freed: Arc::default(),
            quarantined: [0; BulkheadClass::ALL.len()],
        };
        Self {
            state: before.map_or_else(|| Arc::new(Mutex::new(state())), |it| Arc::clone(&it.state)),
            lines: before.map_or_else(Arc::default, |it| Arc::clone(&it.lines)),
            classes,
            total,
            quarantine: bulkheads.quarantine,
            budget,
            class: settings.class,
            tools: tools.filter_map(|(tool, rule)| Some((tool.clone(), rule.class?))).collect(),
            patience: BulkheadClass::ALL.map(|class| bulkheads.of(class).queue_timeout),
            paused: settings.failover.as_ref().map_or(FOLLOWED, |failover| {
                failover.held(config.lease(), settings.health.timeout).total() + FOLLOWED
            }),
        }
    }

    /// From here on its settings hold, for whoever waits as well; but who waits does so for as long as was
    /// said when it began to.
    pub(super) fn begin(&self, server: &str, now: Instant) {
        let mut state = self.lock();
        state.bulkheads.reconfigure(self.classes, self.total, self.quarantine);
        state.budget.reconfigure(self.budget);
        state.relieve(server, now);
    }

    /// From here on calls that can be left out have a quarter of their room, or all of it again.
    pub(super) fn spare(&self, server: &str, spared: bool, now: Instant) {
        let mut state = self.lock();
        state.bulkheads.spare(id(BulkheadClass::Background), spared);
        state.relieve(server, now);
    }

    /// Waits for a word, and looks now and then meanwhile whether a tool that hangs keeps others out: nobody else may
    /// be there to see that.
    ///
    /// # Cancel safety
    /// As `word`.
    async fn relieves<T>(&self, server: &str, word: impl Future<Output = T>) -> T {
        let mut word = std::pin::pin!(word);
        while !self.quarantine.is_zero() {
            match tokio::time::timeout(RELIEF, word.as_mut()).await {
                Ok(word) => return word,
                Err(_) => self.lock().relieve(server, Instant::now()),
            }
        }
        word.await
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long a call of this class waits for its turn.
    pub(super) fn patience_of(&self, class: BulkheadClass) -> Duration {
        self.patience[usize::from(id(class).0)]
    }

    /// Its classes now: what has lasted for its time is over, though nobody calls.
    pub(super) fn status(&self, server: &str, now: Instant) -> Vec<(BulkheadClass, ClassStatus)> {
        let mut state = self.lock();
        state.relieve(server, now);
        let status = |class| Some((class, state.bulkheads.status(id(class))?));
        BulkheadClass::ALL.into_iter().filter_map(status).collect()
    }

    /// Repeats that are under way, and how many there may be.
    pub(super) fn repeats(&self) -> (u32, u32) {
        let state = self.lock();
        (state.budget.used(), state.budget.allowed())
    }
}

impl State {
    /// Takes so many places, or none and says after how long it is worth another try: what holds some of
    /// its places and waits for the others would keep everybody from theirs.
    fn enter_at_once(
        &mut self,
        class: ClassId,
        tool: ToolKey,
        places: u32,
        now: Instant,
    ) -> Result<(), Duration> {
        if self.bulkheads.would_exceed(class, places) {
            return Err(SHORTLY);
        }
        for taken in 0..places {
            let retry_after = match self.bulkheads.enter(class, tool, now) {
                Entry::Entered => continue,
                Entry::Queued(ticket) => {
                    self.bulkheads.cancel(class, ticket);
                    SHORTLY
                }
                Entry::Refused { retry_after, .. } => retry_after,
            };
            self.leave(class, tool, taken, false);
            return Err(retry_after);
        }
        Ok(())
    }

    /// So many places of the class are free.
    fn leave(&mut self, class: ClassId, tool: ToolKey, places: u32, answered: bool) {
        let answered = answered.then(recent);
        for _ in 0..places {
            self.bulkheads.leave(class, tool, answered);
        }
        if !self.waiting.is_empty() {
            self.let_in(Instant::now());
        }
        self.tell_line();
    }

    /// Limits a tool that hangs and keeps others out, ends the quarantines whose time is over, and lets in
    /// whoever may go for it. Those who wait see themselves to the end of their time.
    fn relieve(&mut self, server: &str, now: Instant) {
        self.bulkheads.relieve(now);
        self.tell(server);
        self.let_in(now);
        self.tell_line();
    }

    /// There may be room for whoever is first in line, if anybody is: who stands there holds it too.
    fn tell_line(&self) {
        if Arc::strong_count(&self.freed) > 1 {
            self.freed.notify_waiters();
        }
    }

    /// Logs that a tool was limited or let back.
    fn tell(&mut self, server: &str) {
        for (class, before) in BulkheadClass::ALL.into_iter().zip(&mut self.quarantined) {
            let now = self.bulkheads.quarantined(id(class));
            if now == *before {
                continue;
            }
            let class = class.label();
            match now > *before {
                true => tracing::warn!(
                    server,
                    class,
                    tools = now,
                    "a tool hangs and fills its class: it is limited"
                ),
                false => tracing::info!(server, class, tools = now, "a tool that hung is let back"),
            }
            *before = now;
        }
    }

    /// Lets in whoever may go. If anybody does there is room in the queue, for whoever is first in line before it.
    fn let_in(&mut self, now: Instant) {
        if self.waiting.is_empty() {
            return;
        }
        let before = self.waiting.len();
        while let Some(granted) = self.bulkheads.next(now) {
            let told = self.waiting.remove(&granted.ticket).map(|waiting| waiting.send(()));
            if told != Some(Ok(())) {
                // It has given up at this very moment.
                self.bulkheads.leave(granted.class, granted.tool, None);
            }
        }
        if self.waiting.len() < before {
            self.tell_line();
        }
    }
}

/// How long a call whose time is over then waits for anything but its answer: a tenth less than it has.
pub(crate) fn left(deadline: Instant) -> Duration {
    let left = deadline.saturating_duration_since(Instant::now());
    left - left / 10
}

fn id(class: BulkheadClass) -> ClassId {
    let at = BulkheadClass::ALL.iter().position(|it| *it == class).unwrap_or(0);
    ClassId(u16::try_from(at).unwrap_or(0))
}

// === impl ServerFleet ===

impl ServerFleet {
    /// How important a call is.
    pub(crate) fn class_of(&self, tool: Option<&str>) -> BulkheadClass {
        if self.gate.tools.is_empty() {
            return self.gate.class;
        }
        tool.and_then(|tool| self.gate.tools.get(tool)).copied().unwrap_or(self.gate.class)
    }

    /// What limits and breakers know a call of this tool by.
    pub(crate) fn shelf_of(&self, tool: Option<&str>) -> Shelf {
        let own = tool.filter(|_| self.has_tools()).and_then(|tool| self.tool(tool));
        Shelf { class: self.class_of(tool), tool: own, key: self.tool_key(tool) }
    }

    /// The same of a batch, which may hold calls of any tool.
    pub(crate) fn shelf_of_batch(&self) -> Shelf {
        let key = if self.gate.quarantine.is_zero() { NO_TOOL } else { BATCHES };
        Shelf { key, ..self.shelf_of(None) }
    }

    /// What a tool is known by in its class. Where none is limited, all are one.
    fn tool_key(&self, tool: Option<&str>) -> ToolKey {
        match tool {
            Some(tool) if !self.gate.quarantine.is_zero() => {
                ToolKey(u32::try_from(balance::seed(tool) % u64::from(TOOLS)).unwrap_or(0) + 1)
            }
            Some(_) | None => NO_TOOL,
        }
    }

    /// Lets a call in that counts against no class: it opens or keeps a conversation, or `lasts` for as long as
    /// its client likes. What lasts is no call that others could be a share of when they are repeated: it is under
    /// way for days and asks nothing.
    pub(crate) fn let_in(self: &Arc<Self>, lasts: bool) -> Admitted {
        if !lasts {
            self.gate.lock().budget.began(recent());
        }
        let mut admitted = Admitted::new(self, None, NO_TOOL);
        admitted.lasts = lasts;
        admitted
    }

    /// Lets a call in, after a wait if it has to be; or the first of so many.
    ///
    /// # Errors
    /// [`NotAdmitted`]; it was not sent.
    ///
    /// # Cancel safety
    /// Its place is given to the next.
    async fn admit_first(
        self: &Arc<Self>,
        class: BulkheadClass,
        tool: ToolKey,
        places: u32,
        deadline: Instant,
    ) -> Result<Admitted, NotAdmitted> {
        if self.is_paused() {
            return Box::pin(self.admit_late(class, tool, places, deadline)).await;
        }
        let patience = self.gate.patience_of(class);
        match self.ask_in(class, tool, places)? {
            Asked::In(admitted) => Ok(admitted),
            Asked::Queued(queued) => Box::pin(queued.granted(patience.min(left(deadline)))).await,
        }
    }

    /// Lets a call in after a failover's pause. All who have waited for that come at once, and may be more than
    /// their class and its queue hold: they stand in line before it, and not for longer in all than in the queue.
    ///
    /// # Errors
    /// [`NotAdmitted`]; it was not sent.
    ///
    /// # Cancel safety
    /// Its place is given to the next.
    async fn admit_late(
        self: &Arc<Self>,
        class: BulkheadClass,
        tool: ToolKey,
        places: u32,
        deadline: Instant,
    ) -> Result<Admitted, NotAdmitted> {
        self.pause_over_by(deadline).await?;
        let patience = self.gate.patience_of(class).min(left(deadline));
        let until = tokio::time::Instant::now() + patience;
        let freed = Arc::clone(&self.gate.lock().freed);
        let comes_in = async {
            let _first = self.gate.lines[usize::from(id(class).0)].lock().await;
            loop {
                let freed = freed.notified();
                match self.ask_in(class, tool, places) {
                    Err(NotAdmitted::Full { .. }) => self.gate.relieves(&self.name, freed).await,
                    asked => return asked,
                }
            }
        };
        match tokio::time::timeout_at(until, comes_in).await {
            Ok(Ok(Asked::In(admitted))) => Ok(admitted),
            Ok(Ok(Asked::Queued(queued))) => {
                queued.granted(until.saturating_duration_since(tokio::time::Instant::now())).await
            }
            Ok(Err(refused)) => Err(refused),
            Err(_) => Err(too_late(class, patience)),
        }
    }

    /// A place for a call, or one in the queue.
    ///
    /// # Errors
    /// [`NotAdmitted`]; it was not sent.
    fn ask_in(
        self: &Arc<Self>,
        class: BulkheadClass,
        tool: ToolKey,
        places: u32,
    ) -> Result<Asked<'_>, NotAdmitted> {
        self.check_needs()?;
        let now = recent();
        let mut state = self.gate.lock();
        if state.bulkheads.would_exceed(id(class), places) {
            return Err(NotAdmitted::Degraded { class });
        }
        let entry = state.bulkheads.enter(id(class), tool, now);
        state.tell(&self.name);
        match entry {
            Entry::Entered => {
                state.budget.began(now);
                drop(state);
                Ok(Asked::In(self.admitted(class, tool)))
            }
            Entry::Refused { retry_after, why } => {
                // Whoever could not wait may have had the one limited that fills the class.
                state.let_in(now);
                Err(match why {
                    Full::Class => NotAdmitted::Full { class, retry_after, waited: false },
                    Full::Quarantined => NotAdmitted::Limited { class, retry_after },
                })
            }
            Entry::Queued(ticket) => {
                let (sender, granted) = oneshot::channel();
                state.waiting.insert(ticket, sender);
                // It may have had the one limited that kept others out.
                state.let_in(now);
                Ok(Asked::Queued(Waiting {
                    server: self,
                    class,
                    tool,
                    ticket: Some(ticket),
                    granted,
                }))
            }
        }
    }

    /// Lets in a call, after a wait if it has to be; or what holds so many calls, a batch, with a place for
    /// each of them. The first place is waited for, and not to the call's deadline, so that it is told why in
    /// time; then the others are there, or it is refused.
    ///
    /// # Errors
    /// [`NotAdmitted`]; it was not sent.
    ///
    /// # Cancel safety
    /// Its places are given to the next.
    pub(crate) async fn admit_calls(
        self: &Arc<Self>,
        calls: usize,
        class: BulkheadClass,
        tool: ToolKey,
        deadline: Instant,
    ) -> Result<Admitted, NotAdmitted> {
        if calls > 1 {
            return Box::pin(self.admit_batch(calls, class, tool, deadline)).await;
        }
        self.admit_first(class, tool, 1, deadline).await
    }

    async fn admit_batch(
        self: &Arc<Self>,
        calls: usize,
        class: BulkheadClass,
        tool: ToolKey,
        deadline: Instant,
    ) -> Result<Admitted, NotAdmitted> {
        let concurrency = self.gate.classes[usize::from(id(class).0)].concurrency;
        let concurrency = concurrency.min(self.gate.total.unwrap_or(u32::MAX));
        let places = u32::try_from(calls).unwrap_or(u32::MAX);
        if places > concurrency {
            return Err(NotAdmitted::TooMany { calls, class, concurrency });
        }
        let mut admitted = self.admit_first(class, tool, places, deadline).await?;
        let now = Instant::now();
        let more = self.gate.lock().enter_at_once(id(class), tool, places - 1, now);
        match more {
            Ok(()) => {
                admitted.places = places;
                Ok(admitted)
            }
            Err(retry_after) => Err(NotAdmitted::Full { class, retry_after, waited: false }),
        }
    }

    fn admitted(self: &Arc<Self>, class: BulkheadClass, tool: ToolKey) -> Admitted {
        Admitted::new(self, Some(id(class)), tool)
    }

    /// Whether new calls wait because the server fails over.
    pub(super) fn is_paused(&self) -> bool {
        let failover = self.failover.load();
        // What a call without a session of its own is told, everybody is.
        failover.as_deref().is_some_and(|it| it.route(0) == Route::Hold)
    }

    /// Waits for a failover's pause to end.
    ///
    /// # Errors
    /// [`NotAdmitted::Paused`] if it lasts longer than all of its stages may.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(crate) async fn pause_over(&self) -> Result<(), NotAdmitted> {
        self.pause_over_within(self.gate.paused).await
    }

    /// The same, for a call whose time is over then: it is told why in time.
    pub(crate) async fn pause_over_by(&self, deadline: Instant) -> Result<(), NotAdmitted> {
        self.pause_over_within(self.gate.paused.min(left(deadline))).await
    }

    async fn pause_over_within(&self, patience: Duration) -> Result<(), NotAdmitted> {
        let over = async {
            loop {
                let turned = self.turned.notified();
                if !self.is_paused() {
                    return;
                }
                turned.await;
            }
        };
        tokio::time::timeout(patience, over).await.map_err(|_| NotAdmitted::Paused)
    }

    /// Whether a failover takes a call with this key from an instance that has failed it to another one: at once
    /// where it has, and otherwise once it has been decided, if the instance is being left. That is so while its
    /// breaker is open or the failover holds calls; within [`DECIDED_WITHIN`] the group decides, or does not.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(crate) async fn is_left(&self, instance: usize, key: u64) -> bool {
        let Some(it) = self.instances.get(instance) else { return false };
        // A replica is left for another one by each call.
        if it.role == Role::Replica || self.failover.load().is_none() {
            return false;
        }
        let decided = async {
            loop {
                let turned = self.turned.notified();
                if self.is_paused() || self.has_moved_on(instance, key) {
                    return;
                }
                turned.await;
            }
        };
        if it.is_shut() {
            let _ = tokio::time::timeout(DECIDED_WITHIN, decided).await;
        }
        self.pause_over().await.is_ok() && self.has_moved_on(instance, key)
    }

    fn check_needs(&self) -> Result<(), NotAdmitted> {
        let Some(needs) = self.needs.get() else { return Ok(()) };
        let closed = needs.iter().filter_map(std::sync::Weak::upgrade).find(|it| it.is_down());
        match closed {
            Some(server) => {
                let retry_after = server.opens_in().unwrap_or(Duration::from_secs(1));
                Err(NotAdmitted::Needs { server: Arc::clone(&server.name), retry_after })
            }
            None => Ok(()),
        }
    }
}

// === impl NotAdmitted ===

impl NotAdmitted {
    /// The same, for metrics.
    pub(crate) fn why(&self) -> Why {
        match self {
            Self::Full { waited: true, .. } => Why::Waited,
            Self::Full { waited: false, .. } | Self::TooMany { .. } => Why::Full,
            Self::Limited { .. } => Why::Quarantined,
            Self::Needs { .. } => Why::Needs,
            Self::Degraded { .. } => Why::Degraded,
            Self::Paused => Why::Paused,
        }
    }
}

// === impl Admitted ===

impl Admitted {
    fn new(server: &Arc<ServerFleet>, class: Option<ClassId>, tool: ToolKey) -> Self {
        let server = Arc::clone(server);
        let [answered, repeating, left] = [false; 3].map(AtomicBool::new);
        Self { server, class, tool, answered, places: 1, lasts: false, repeating, left }
    }

    /// Its server has answered it: its tool does not hang.
    pub(crate) fn answered(&self, is: bool) {
        self.answered.store(is, Ordering::Relaxed);
    }

    /// Gives its place in the class to the next: nobody works for the call any more.
    pub(crate) fn leave(&self) {
        let Some(class) = self.class else { return };
        let mut state = self.server.gate.lock();
        if !self.left.swap(true, Ordering::Relaxed) {
            let answered = self.answered.load(Ordering::Relaxed);
            state.leave(class, self.tool, self.places, answered);
        }
    }

    /// How often a call may be sent, the first time included.
    pub(crate) fn attempts(&self) -> u32 {
        self.server.gate.budget.attempts
    }

    /// Whether the call may be sent once more, having been sent so often. If so, a repetition that is under way
    /// is over; if not, it goes on.
    ///
    /// # Errors
    /// Why not.
    pub(crate) fn may_repeat(&self, attempts: u32) -> Result<(), NoRetry> {
        let mut state = self.server.gate.lock();
        let now = Instant::now();
        if self.repeating.load(Ordering::Relaxed) {
            return state.budget.try_instead(attempts, now);
        }
        state.budget.try_repeat(attempts, now)?;
        self.repeating.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// The call's repetition has failed, or is being answered: others need not wait for its end.
    pub(crate) fn repeat_is_over(&self) {
        // Most calls are none, and touch no lock here.
        if self.repeating.load(Ordering::Relaxed) {
            let mut state = self.server.gate.lock();
            if self.repeating.swap(false, Ordering::Relaxed) {
                state.budget.repeat_ended();
            }
        }
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut state = self.server.gate.lock();
        if !self.lasts {
            state.budget.ended();
        }
        if *self.repeating.get_mut() {
            state.budget.repeat_ended();
        }
        if let Some(class) = self.class
            && !*self.left.get_mut()
        {
            state.leave(class, self.tool, self.places, *self.answered.get_mut());
        }
    }
}
