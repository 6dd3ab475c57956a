//! A call's place in its class, its turn while a failover pauses, and what it depends on.
//!
//! Each server has classes of its own, so that no server takes another one's room. A call that is
//! admitted holds its place until it is answered; one that waits does so for a bounded time in a bounded
//! queue, and everybody else is refused at once.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use holdfast_config::{BulkheadClass, Config};
use holdfast_engine::failover::Route;
use holdfast_engine::limits::bulkhead::{
    Bulkheads, ClassId, ClassParams, ClassStatus, Entry, Full, ServerKey, Ticket,
};
use holdfast_engine::retry_budget::{self, NoRetry, RetryBudget};
use tokio::sync::oneshot;

use super::counts::Why;
use super::server::ServerFleet;

/// The way into one server.
#[derive(Debug)]
pub(super) struct Gate {
    /// Whoever is in stays in when the configuration changes.
    state: Arc<Mutex<State>>,
    classes: [ClassParams; BulkheadClass::ALL.len()],
    total: Option<u32>,
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
}

/// A call's place among those of its server. It is given back when this is dropped, if not before.
#[derive(Debug)]
pub(crate) struct Admitted {
    server: Arc<ServerFleet>,
    class: Option<ClassId>,
    repeating: AtomicBool,
    /// Its place in the class was given back.
    left: AtomicBool,
}

/// A call that was not let in. It was not sent.
#[derive(Clone, Debug)]
pub(crate) enum NotAdmitted {
    /// Its class is full.
    Full { class: BulkheadClass, retry_after: Duration, waited: bool },
    /// A server that this one depends on does not take calls.
    Needs { server: Arc<str>, retry_after: Duration },
    /// Its server is poorly, and its class can be left out.
    Degraded { class: BulkheadClass },
    /// A failover took too long.
    Paused,
}

/// How much longer than a move's stages a call waits: a coordinator may die in it, and be followed.
const FOLLOWED: Duration = Duration::from_secs(10);

/// The one server of its bulkheads.
const ALONE: ServerKey = ServerKey(0);

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
            bulkheads: Bulkheads::new(classes, total, Duration::ZERO),
            budget: RetryBudget::new(budget, now),
            waiting: HashMap::new(),
        };
        Self {
            state: before.map_or_else(|| Arc::new(Mutex::new(state())), |it| Arc::clone(&it.state)),
            classes,
            total,
            budget,
            class: settings.class,
            tools: tools.filter_map(|(tool, rule)| Some((tool.clone(), rule.class?))).collect(),
            patience: BulkheadClass::ALL.map(|class| bulkheads.of(class).queue_timeout),
            paused: settings.failover.as_ref().map_or(FOLLOWED, |failover| {
                failover.held(config.lease(), settings.health.timeout).total() + FOLLOWED
            }),
        }
    }

    /// From here on its settings hold, for whoever waits as well.
    pub(super) fn begin(&self, now: Instant) {
        let mut state = self.lock();
        state.bulkheads.reconfigure(self.classes, self.total);
        state.budget.reconfigure(self.budget);
        state.let_in(now);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long a call of this class waits for its turn.
    pub(super) fn patience_of(&self, class: BulkheadClass) -> Duration {
        self.patience[usize::from(id(class).0)]
    }

    pub(super) fn status(&self, class: BulkheadClass) -> Option<ClassStatus> {
        self.lock().bulkheads.status(id(class))
    }

    /// Repeats that are under way, and how many there may be.
    pub(super) fn repeats(&self) -> (u32, u32) {
        let state = self.lock();
        (state.budget.used(), state.budget.allowed())
    }
}

impl State {
    /// Whether background calls hold all that they may while the server is poorly.
    fn has_its_quarter(&self) -> bool {
        let class = id(BulkheadClass::Background);
        self.bulkheads.status(class).is_some_and(|it| it.running >= (it.concurrency / 4).max(1))
    }

    /// A place of the class is free.
    fn leave(&mut self, class: ClassId) {
        self.bulkheads.leave(class, ALONE);
        if !self.waiting.is_empty() {
            self.let_in(Instant::now());
        }
    }

    /// Lets in whoever may go.
    fn let_in(&mut self, now: Instant) {
        if self.waiting.is_empty() {
            return;
        }
        while let Some(granted) = self.bulkheads.next(now) {
            let told = self.waiting.remove(&granted.ticket).map(|waiting| waiting.send(()));
            if told != Some(Ok(())) {
                // It has given up at this very moment.
                self.bulkheads.leave(granted.class, granted.server);
            }
        }
    }
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

    /// Lets a call in that counts against no class: it opens or keeps a conversation, or lasts for as
    /// long as its client likes.
    pub(crate) fn let_in(self: &Arc<Self>) -> Admitted {
        self.gate.lock().budget.began(Instant::now());
        Admitted::new(self, None)
    }

    /// Lets a call in, after a wait if it has to be.
    ///
    /// # Errors
    /// [`NotAdmitted`]; it was not sent.
    ///
    /// # Cancel safety
    /// Its place is given to the next.
    pub(crate) async fn admit_call(
        self: &Arc<Self>,
        class: BulkheadClass,
    ) -> Result<Admitted, NotAdmitted> {
        if self.is_paused() {
            Box::pin(self.pause_over()).await?;
        }
        self.check_needs()?;
        let now = Instant::now();
        let (ticket, granted) = {
            let mut state = self.gate.lock();
            if class == BulkheadClass::Background && self.is_degraded() && state.has_its_quarter() {
                return Err(NotAdmitted::Degraded { class });
            }
            match state.bulkheads.enter(id(class), ALONE, now) {
                Entry::Entered => {
                    state.budget.began(now);
                    drop(state);
                    return Ok(self.admitted(class));
                }
                Entry::Refused { retry_after, why: Full::Class | Full::Quarantined } => {
                    return Err(NotAdmitted::Full { class, retry_after, waited: false });
                }
                Entry::Queued(ticket) => {
                    let (sender, granted) = oneshot::channel();
                    state.waiting.insert(ticket, sender);
                    (ticket, granted)
                }
            }
        };
        let waiting = Waiting { server: self, class, ticket: Some(ticket) };
        Box::pin(waiting.granted(granted)).await
    }

    fn admitted(self: &Arc<Self>, class: BulkheadClass) -> Admitted {
        Admitted::new(self, Some(id(class)))
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
        let over = async {
            loop {
                let turned = self.turned.notified();
                if !self.is_paused() {
                    return;
                }
                turned.await;
            }
        };
        tokio::time::timeout(self.gate.paused, over).await.map_err(|_| NotAdmitted::Paused)
    }

    fn check_needs(&self) -> Result<(), NotAdmitted> {
        let Some(needs) = self.needs.get() else { return Ok(()) };
        let closed = needs.iter().filter_map(std::sync::Weak::upgrade).find(|it| it.is_shut());
        match closed {
            Some(server) => {
                let retry_after = server.opens_in().unwrap_or(Duration::from_secs(1));
                Err(NotAdmitted::Needs { server: Arc::clone(&server.name), retry_after })
            }
            None => Ok(()),
        }
    }
}

/// A call in its class's queue.
struct Waiting<'a> {
    server: &'a Arc<ServerFleet>,
    class: BulkheadClass,
    ticket: Option<Ticket>,
}

impl Waiting<'_> {
    async fn granted(mut self, granted: oneshot::Receiver<()>) -> Result<Admitted, NotAdmitted> {
        let patience = self.server.gate.patience_of(self.class);
        if let Ok(Ok(())) = tokio::time::timeout(patience, granted).await {
            self.ticket = None;
            self.server.gate.lock().budget.began(Instant::now());
            return Ok(self.server.admitted(self.class));
        }
        let retry_after = patience.max(Duration::from_millis(100));
        Err(NotAdmitted::Full { class: self.class, retry_after, waited: true })
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket.take() else { return };
        let mut state = self.server.gate.lock();
        let place = id(self.class);
        if state.waiting.remove(&ticket).is_some() {
            state.bulkheads.cancel(place, ticket);
        } else {
            // It was let in at this very moment.
            state.bulkheads.leave(place, ALONE);
            state.let_in(Instant::now());
        }
    }
}

// === impl NotAdmitted ===

impl NotAdmitted {
    /// The same, for metrics.
    pub(crate) fn why(&self) -> Why {
        match self {
            Self::Full { waited: true, .. } => Why::Waited,
            Self::Full { waited: false, .. } => Why::Full,
            Self::Needs { .. } => Why::Needs,
            Self::Degraded { .. } => Why::Degraded,
            Self::Paused => Why::Paused,
        }
    }
}

// === impl Admitted ===

impl Admitted {
    fn new(server: &Arc<ServerFleet>, class: Option<ClassId>) -> Self {
        let server = Arc::clone(server);
        Self { server, class, repeating: AtomicBool::new(false), left: AtomicBool::new(false) }
    }

    /// Gives its place in the class to the next: nobody works for the call any more.
    pub(crate) fn leave(&self) {
        let Some(class) = self.class else { return };
        let mut state = self.server.gate.lock();
        if !self.left.swap(true, Ordering::Relaxed) {
            state.leave(class);
        }
    }

    /// Whether the call may be sent once more, having been sent so often.
    ///
    /// # Errors
    /// Why not.
    pub(crate) fn may_repeat(&self, attempts: u32) -> Result<(), NoRetry> {
        let mut state = self.server.gate.lock();
        if self.repeating.swap(false, Ordering::Relaxed) {
            state.budget.repeat_ended();
        }
        state.budget.try_repeat(attempts, Instant::now())?;
        self.repeating.store(true, Ordering::Relaxed);
        Ok(())
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut state = self.server.gate.lock();
        state.budget.ended();
        if *self.repeating.get_mut() {
            state.budget.repeat_ended();
        }
        if let Some(class) = self.class
            && !*self.left.get_mut()
        {
            state.leave(class);
        }
    }
}
