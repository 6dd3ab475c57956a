//! One server: its instances, who of them takes calls, and which one is next.

use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use holdfast_config::{Config, HttpUrl, Role, Strategy, Transport};
use holdfast_engine::balance::rate::{Allowance, Rate};
use holdfast_engine::balance::{self, Candidate, Request, Set, Why as Unfit};
use holdfast_engine::breaker::{self, Breaker, Params, Permit};
use holdfast_engine::class::CallClass;
use holdfast_engine::failover::{Failover, Route};
use tokio::sync::futures::Notified;
use tokio::sync::{Notify, broadcast};

use super::admission::Gate;
use super::attempt::Attempt;
use super::chance;
use super::control::{Change, News};
use super::counts::{Counts, Why};
use super::instance::Instance;
use super::knock::Door;
use super::outcome::Outcome;

/// One server of the configuration.
#[derive(Debug)]
pub struct ServerFleet {
    pub(super) index: usize,
    pub(super) name: Arc<str>,
    pub(super) instances: Box<[Instance]>,
    /// Whether breakers are asked.
    breaks: bool,
    strategy: balance::Params,
    /// Where the key stands, for the strategy that hashes one.
    hash_on: Vec<String>,
    /// Connections at once to one instance.
    limit: u32,
    /// Which instance takes its calls, where only one of several does.
    pub(super) failover: ArcSwapOption<Failover>,
    turn: AtomicU64,
    /// Breakers of single tools, by name.
    pub(super) tools: Box<[(Box<str>, Mutex<Breaker>)]>,
    /// What each instance may take a minute, and this node's part of it.
    rate: Option<Rate>,
    allowances: Box<[Mutex<Allowance>]>,
    pub(super) gate: Gate,
    pub(crate) counts: Counts,
    /// What it depends on.
    pub(super) needs: OnceLock<Vec<Weak<ServerFleet>>>,
    /// Tells calls that wait that the failover has gone on.
    pub(super) turned: Notify,
    news: broadcast::Sender<News>,
    /// Tells the control plane that there is something to look at.
    heard: Arc<Notify>,
    timeout: Duration,
}

/// What an attempt asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask<'a> {
    /// What the call may do.
    pub(crate) class: CallClass,
    /// The instance that it belongs to, if it does.
    pub(crate) named: Option<usize>,
    /// 64 bits that are its session's own, or its own.
    pub(crate) key: u64,
    /// Set that have failed it already: they come last.
    pub(crate) avoid: Set,
    /// Its body, for the strategy that looks at it.
    pub(crate) body: &'a [u8],
    /// Its tool's breaker, by number.
    pub(crate) tool: Option<usize>,
}

/// No instance takes the call now. It was not sent.
#[derive(Clone, Debug)]
pub(crate) struct Refused {
    /// When it is worth another try.
    pub(crate) retry_after: Duration,
    /// Why, for its client.
    pub(crate) reason: String,
    /// The same, for metrics.
    pub(crate) why: Why,
    /// Its instances have only just become unreachable: they may be restarting.
    pub(crate) may_be_restarting: bool,
}

/// Why one instance does not take a call.
#[derive(Clone, Copy, Debug)]
enum Shut {
    /// Its breaker, or its tool's.
    Breaker(breaker::Refused),
    /// It cannot be reached.
    Away,
}

/// When an instance that cannot be reached is worth another try.
const SOON: Duration = Duration::from_secs(1);

/// For how long a server that cannot be reached is taken for one that restarts.
const RESTART: Duration = Duration::from_secs(5);

// === impl Ask ===

impl<'a> Ask<'a> {
    /// To open a session.
    pub(crate) fn opening(prefer: Option<usize>, avoid: Set) -> Self {
        Self {
            class: CallClass::Lifecycle,
            named: prefer,
            key: chance(),
            avoid,
            body: &[],
            tool: None,
        }
    }
}

// === impl ServerFleet ===

impl ServerFleet {
    pub(super) fn new(
        index: usize,
        name: &str,
        settings: &holdfast_config::Server,
        config: &Config,
        news: broadcast::Sender<News>,
        heard: Arc<Notify>,
        now: Instant,
    ) -> Self {
        let params = params(settings);
        let here = config.node.region.as_deref();
        let door = |url: &HttpUrl| Door {
            host: url.host.as_str().into(),
            port: url.port,
            within: settings.connect_timeout,
        };
        let mut instances: Vec<Instance> = settings
            .instances()
            .iter()
            .map(|it| {
                let region = it.region.as_deref();
                let is_near = here.is_none() || region.is_none() || region == here;
                let door = Some(door(&it.url));
                Instance::new(&it.id, it.role, it.weight, is_near, door, params, now)
            })
            .collect();
        if instances.is_empty() {
            let door = match &settings.transport {
                Transport::Sse { url } | Transport::WebSocket { url } => Some(door(url)),
                Transport::Http { .. } | Transport::Stdio(_) => None,
            };
            instances.push(Instance::new("default", Role::Equal, 1, true, door, params, now));
        }
        let primary = instances.iter().find(|it| it.role == Role::Primary);
        let failover = primary
            .filter(|_| settings.failover.is_some())
            .map(|primary| Arc::new(Failover::new(&primary.id)));
        let per_tool = settings.breaker.per_tool.iter();
        let balance = &settings.balance;
        let rate = balance.rate.map(|it| Rate { per_minute: it.per_minute, burst: it.burst });
        let allowances = rate
            .iter()
            .flat_map(|rate| instances.iter().map(|_| Mutex::new(Allowance::new(*rate))))
            .collect();
        Self {
            index,
            name: Arc::from(name),
            breaks: settings.breaker.enabled,
            strategy: balance::Params {
                strategy: strategy(balance.strategy),
                sticky_for: 0,
                panic: balance.panic_threshold as f32,
                slow_start: u64::try_from(balance.slow_start.as_millis()).unwrap_or(u64::MAX),
            },
            hash_on: balance.hash_on.clone(),
            limit: settings.pool.max_connections,
            failover: ArcSwapOption::from(failover),
            turn: AtomicU64::new(0),
            tools: per_tool
                .map(|tool| (tool.as_str().into(), Mutex::new(Breaker::new(params, now))))
                .collect(),
            rate,
            allowances,
            gate: Gate::new(settings, &config.bulkheads, &config.retry_budget, now),
            counts: Counts::default(),
            needs: OnceLock::new(),
            turned: Notify::new(),
            news,
            heard,
            timeout: settings.timeout,
            instances: instances.into(),
        }
    }

    pub(super) fn depend_on(&self, needs: Vec<Weak<Self>>) {
        let _ = self.needs.set(needs);
    }

    /// Its name in the configuration.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The ids of its instances, by their numbers.
    pub fn instance_ids(&self) -> impl Iterator<Item = &str> {
        self.instances.iter().map(|it| &*it.id)
    }

    /// Where to knock at an instance; `None`: it is no address.
    pub(super) fn door(&self, instance: usize) -> Option<&Door> {
        self.instances.get(instance)?.door.as_ref()
    }

    /// How long an instance may be silent.
    pub(super) fn silence(&self) -> Duration {
        self.timeout
    }

    /// The number of a tool's own breaker, if it has one.
    pub(crate) fn tool(&self, name: &str) -> Option<usize> {
        self.tools.iter().position(|(tool, _)| **tool == *name)
    }

    /// Whether any tool has a breaker of its own.
    pub(crate) fn has_tools(&self) -> bool {
        !self.tools.is_empty()
    }

    // --- which instance ---

    /// Chooses an instance for an attempt that may go anywhere and admits it there; `ask.named` comes
    /// first.
    ///
    /// # Errors
    /// [`Refused`]; nothing was sent.
    pub(crate) fn choose(self: &Arc<Self>, ask: &Ask<'_>) -> Result<Attempt, Refused> {
        if let [_] = &*self.instances {
            return self.enter(0, ask);
        }
        let now = Instant::now();
        loop {
            let failover = self.failover.load_full();
            let attempt = self.choose_by(ask, failover.as_deref(), now)?;
            // Whoever changed the state after it was read here sees this call under way, or this sees
            // the change.
            if failover.is_none() || self.is_still(failover.as_ref()) {
                return Ok(attempt);
            }
        }
    }

    fn is_still(&self, failover: Option<&Arc<Failover>>) -> bool {
        fence(Ordering::SeqCst);
        let present = self.failover.load();
        match (&*present, failover) {
            (Some(present), Some(seen)) => Arc::ptr_eq(present, seen),
            (None, None) => true,
            _ => false,
        }
    }

    fn choose_by(
        self: &Arc<Self>,
        ask: &Ask<'_>,
        failover: Option<&Failover>,
        now: Instant,
    ) -> Result<Attempt, Refused> {
        let active = match failover.map(|it| it.route(ask.key)) {
            Some(Route::Hold) => return Err(self.held()),
            Some(Route::To(active)) => Some(active),
            None => None,
        };
        if let Some(named) = ask.named.filter(|named| !ask.avoid.contains(*named))
            && self.takes(named, ask.key)
            && let Ok(attempt) = self.admit(named, ask, now)
        {
            return Ok(attempt);
        }
        let mut tried = ask.avoid;
        let mut last = None;
        loop {
            let next = match self.next(ask, active, tried, now) {
                // What has failed the call may be better than nothing.
                None if ask.avoid != Set::default() && last.is_none() => {
                    self.next(ask, active, Set::default(), now)
                }
                next => next,
            };
            let Some(instance) = next else { return Err(self.nobody(last, now)) };
            match self.admit(instance, ask, now) {
                Ok(attempt) => return Ok(attempt),
                Err(refused) => last = Some(refused),
            }
            tried.insert(instance);
        }
    }

    /// Admits an attempt that has to go to this instance.
    ///
    /// # Errors
    /// [`Refused`]; nothing was sent.
    pub(crate) fn enter(
        self: &Arc<Self>,
        instance: usize,
        ask: &Ask<'_>,
    ) -> Result<Attempt, Refused> {
        let instance = instance.min(self.instances.len() - 1);
        let now = Instant::now();
        let failover = self.failover.load_full();
        if let Some(failover) = &failover
            && failover.route(ask.key) == Route::Hold
        {
            return Err(self.held());
        }
        let attempt =
            self.admit(instance, ask, now).map_err(|refused| self.nobody(Some(refused), now))?;
        match failover.is_none() || self.is_still(failover.as_ref()) {
            true => Ok(attempt),
            // It waits for its turn, and looks again where its session belongs.
            false => Err(self.held()),
        }
    }

    #[cold]
    fn held(&self) -> Refused {
        Refused {
            retry_after: SOON,
            reason: "it fails over to another instance".to_owned(),
            why: Why::Paused,
            may_be_restarting: true,
        }
    }

    fn admit(
        self: &Arc<Self>,
        instance: usize,
        ask: &Ask<'_>,
        now: Instant,
    ) -> Result<Attempt, Shut> {
        let at = &self.instances[instance];
        if at.is_away() {
            return Err(Shut::Away);
        }
        if let Some(allowance) = self.allowances.get(instance) {
            // An instance that has none left is chosen only where none has.
            let _ = allowance.lock().unwrap_or_else(PoisonError::into_inner).take(now);
        }
        if !self.breaks {
            return Ok(Attempt::new(Arc::clone(self), instance, None, None, now));
        }
        let tool = match ask.tool.and_then(|tool| self.tools.get(tool).map(|it| (tool, it))) {
            Some((number, (_, breaker))) => {
                let mut breaker = breaker.lock().unwrap_or_else(PoisonError::into_inner);
                Some((number, breaker.admit(now, chance()).map_err(Shut::Breaker)?))
            }
            None => None,
        };
        let admitted = if at.is_being_tried() {
            let retry_after = Duration::from_secs(1);
            Err(breaker::Refused { retry_after, why: breaker::Why::HalfOpen })
        } else {
            at.admit(now, |change| self.tell(instance, change))
        };
        match admitted {
            Ok(permit) => Ok(Attempt::new(Arc::clone(self), instance, Some(permit), tool, now)),
            Err(refused) => {
                if let Some((number, permit)) = tool {
                    let (_, breaker) = &self.tools[number];
                    let mut breaker = breaker.lock().unwrap_or_else(PoisonError::into_inner);
                    breaker.abandon(permit, now, chance());
                }
                Err(Shut::Breaker(refused))
            }
        }
    }

    /// An attempt has ended.
    #[expect(clippy::too_many_arguments, reason = "each is one part of what an attempt was")]
    pub(super) fn ended(
        self: &Arc<Self>,
        instance: usize,
        permit: Option<Permit>,
        tool: Option<(usize, Permit)>,
        outcome: Outcome,
        begun: Instant,
        ended: Instant,
        now: Instant,
    ) {
        if let Some((number, permit)) = tool {
            let (_, breaker) = &self.tools[number];
            let mut breaker = breaker.lock().unwrap_or_else(PoisonError::into_inner);
            // A tool is not to blame for a server that cannot be reached.
            match outcome.of_breaker().filter(|_| outcome != Outcome::Unreachable) {
                Some(outcome) => breaker.settle(permit, outcome, now, chance()),
                None => breaker.abandon(permit, now, chance()),
            }
        }
        if outcome.is_failure() {
            self.look(instance);
            if outcome == Outcome::Unreachable {
                self.left(instance, now);
            }
        }
        let elapsed = ended.saturating_duration_since(begun);
        self.instances[instance].settle(permit, outcome, elapsed, now, |change| {
            self.tell(instance, change);
        });
    }

    #[cold]
    pub(super) fn tell(&self, instance: usize, transition: breaker::Transition) {
        tracing::info!(
            server = %self.name,
            instance = %self.instances[instance].id,
            from = transition.from.label(),
            to = transition.to.label(),
            why = %transition.cause,
            "circuit breaker"
        );
        self.counts.turned(transition.to);
        self.say(instance, Change::Breaker(transition));
    }

    /// Has the control plane look at the instance.
    pub(super) fn look(&self, instance: usize) {
        if !self.instances[instance].news.swap(true, Ordering::AcqRel) {
            self.heard.notify_waiters();
        }
    }

    pub(super) fn say(&self, instance: usize, change: Change) {
        self.look(instance);
        let at = super::At { server: self.index, instance };
        // Nobody listens on a node without a control plane.
        let _ = self.news.send(News { at, change });
    }

    /// Why no instance takes the call.
    #[cold]
    fn nobody(&self, last: Option<Shut>, now: Instant) -> Refused {
        let away = self.instances.iter().filter_map(|it| it.away_for(now)).min();
        let (retry_after, why, what) = match last {
            Some(Shut::Breaker(refused)) => {
                let what = match refused.why {
                    breaker::Why::Open => "its circuit breaker is open after it failed",
                    breaker::Why::HalfOpen => "it is being tried again after it failed",
                    breaker::Why::Recovering => "it recovers and does not take every call yet",
                    breaker::Why::ForcedOpen => "an operator has taken it out",
                    breaker::Why::BackPressure => "it asked for fewer calls",
                };
                let why = match refused.why {
                    breaker::Why::BackPressure => Why::BackPressure,
                    _ => Why::Breaker,
                };
                (refused.retry_after, why, what)
            }
            Some(Shut::Away) => (SOON, Why::Away, "it cannot be reached"),
            None if self.instances.iter().any(Instance::is_open) => {
                let soonest = self.opens_in().unwrap_or(SOON);
                (soonest, Why::Breaker, "its circuit breaker is open after it failed")
            }
            None if away.is_some() => (SOON, Why::Away, "it cannot be reached"),
            None => (SOON, Why::NoInstance, "no instance takes this call now"),
        };
        let shut = self.instances.iter().filter(|it| it.is_shut()).count();
        let reason = match self.instances.len() {
            all if all > 1 && shut > 0 => format!("{what} ({shut} of {all} instances)"),
            _ => what.to_owned(),
        };
        // While one of them may only be restarting, its clients see a pause.
        let may_be_restarting = away.is_some_and(|away| away < RESTART);
        Refused { retry_after, reason, why, may_be_restarting }
    }

    /// Whether no instance can be called.
    pub(crate) fn is_shut(&self) -> bool {
        self.instances.iter().all(Instance::is_shut)
    }

    /// When the first open breaker lets calls pass again.
    pub(super) fn opens_in(&self) -> Option<Duration> {
        self.instances.iter().filter_map(Instance::opens_in).min()
    }

    /// Where a message goes that is not admitted.
    pub(crate) fn pick(&self) -> usize {
        let ask = Ask::opening(None, Set::default());
        let failover = self.failover.load();
        let active = failover.as_deref().map(|it| it.route(ask.key));
        let active = match active {
            Some(Route::To(active)) => Some(active),
            Some(Route::Hold) | None => None,
        };
        self.next(&ask, active, Set::default(), Instant::now()).unwrap_or(0)
    }

    /// Whether a session with this key, which is bound to this instance, is well there.
    pub(crate) fn takes(&self, instance: usize, key: u64) -> bool {
        let Some(it) = self.instances.get(instance) else { return false };
        self.sits(it, key) && !it.is_unwell() && !it.is_shut()
    }

    fn sits(&self, it: &Instance, key: u64) -> bool {
        let failover = self.failover.load();
        match failover.as_deref().map(|it| it.route(key)) {
            Some(Route::To(active)) => it.role == Role::Replica || *it.id == *active,
            Some(Route::Hold) | None => true,
        }
    }

    /// Whether another instance would take such a session.
    pub(crate) fn other_than(&self, instance: usize, key: u64) -> bool {
        (0..self.instances.len()).filter(|it| *it != instance).any(|it| {
            let other = &self.instances[it];
            other.role != Role::Replica && other.weight > 0 && self.takes(it, key)
        })
    }

    /// Whether there is an instance to go to beside these.
    pub(crate) fn has_more(&self, beside: Set, key: u64) -> bool {
        let all = 0..self.instances.len();
        all.filter(|it| !beside.contains(*it))
            .any(|it| self.instances[it].weight > 0 && self.takes(it, key))
    }

    /// Resolves when Reads that wait for this instance had better go elsewhere.
    pub(crate) fn gone(&self, instance: usize) -> Notified<'_> {
        self.instances[instance.min(self.instances.len() - 1)].gone.notified()
    }

    /// The next instance for the call, beside those that were tried.
    fn next(&self, ask: &Ask<'_>, active: Option<&str>, tried: Set, now: Instant) -> Option<usize> {
        let reads = ask.class == CallClass::Read;
        // A Write is no test: while another instance takes it, none goes to one that is being tried.
        let wary = matches!(ask.class, CallClass::Write | CallClass::Idempotent)
            && self.instances.iter().any(|it| !it.is_tried() && !it.is_shut() && !it.is_unwell());
        let candidate = |(at, it): (usize, &Instance)| {
            let standby =
                active.is_some_and(|active| it.role != Role::Replica && *it.id != *active);
            let admitted = match () {
                () if standby => Err(Unfit::Standby),
                () if it.weight == 0 => Err(Unfit::Draining),
                () if it.is_shut() => Err(Unfit::BreakerOpen),
                () if wary && it.is_tried() => Err(Unfit::Recovering),
                () => Ok(()),
            };
            Candidate {
                role: match it.role {
                    Role::Equal | Role::Primary => balance::Role::Primary,
                    Role::Secondary => balance::Role::Secondary,
                    Role::Replica => balance::Role::Replica,
                },
                distance: u16::from(!it.is_near),
                weight: it.weight,
                score: it.score(),
                in_flight: it.in_flight.load(Ordering::Relaxed),
                limit: self.limit,
                latency: it.latency(now),
                allowance: self.allowance(at, now),
                back_for: it.back_for(now),
                admitted,
                ..Candidate::new(u16::try_from(at).unwrap_or(u16::MAX), it.seed)
            }
        };
        let request = Request {
            is_read: reads,
            key: (self.strategy.strategy == balance::Strategy::Hash)
                .then(|| hash_key(ask.body, &self.hash_on))
                .flatten(),
            turn: self.turn.fetch_add(1, Ordering::Relaxed),
            tried,
            sticky: None,
        };
        let all = self.instances.iter().enumerate();
        let picked = if self.instances.len() <= FEW {
            let mut few = [Candidate::new(0, 0); FEW];
            few.iter_mut().zip(all).for_each(|(slot, it)| *slot = candidate(it));
            let few = &few[..self.instances.len()];
            balance::pick(few, &request, &self.strategy, chance())
        } else {
            let many: Vec<Candidate> = all.map(candidate).collect();
            balance::pick(&many, &request, &self.strategy, chance())
        };
        picked.ok().map(|picked| picked.index)
    }

    fn allowance(&self, instance: usize, now: Instant) -> f32 {
        let Some(allowance) = self.allowances.get(instance) else { return 1.0 };
        allowance.lock().unwrap_or_else(PoisonError::into_inner).left(now)
    }

    /// This node's part of what each instance may take: it is the one at this place of so many.
    pub(super) fn share_rate(&self, place: usize, nodes: usize) {
        let Some(rate) = self.rate else { return };
        for allowance in &self.allowances {
            let mut allowance = allowance.lock().unwrap_or_else(PoisonError::into_inner);
            allowance.change(rate.part(place, nodes), Instant::now());
        }
    }
}

/// Servers of at most so many instances are balanced without an allocation.
const FEW: usize = 8;

fn strategy(strategy: Strategy) -> balance::Strategy {
    match strategy {
        Strategy::RoundRobin => balance::Strategy::RoundRobin,
        Strategy::Weighted => balance::Strategy::Weighted,
        Strategy::LeastConnections => balance::Strategy::LeastConnections,
        Strategy::ReadWrite => balance::Strategy::ReadWrite,
        Strategy::Hash => balance::Strategy::Hash,
        Strategy::RateAware => balance::Strategy::RateAware,
    }
}

/// The engine's settings of a server's breakers.
pub(super) fn params(settings: &holdfast_config::Server) -> Params {
    let breaker = &settings.breaker;
    Params {
        consecutive_failures: breaker.consecutive_failures,
        failure_rate: breaker.failure_rate,
        minimum_calls: breaker.minimum_calls,
        window: breaker.window,
        slow: breaker.slow_call.unwrap_or(settings.timeout),
        open_for: breaker.open_for,
        open_at_most: breaker.max_open_for,
        half_open_share: breaker.half_open_share,
        probe_interval: breaker.probe_interval,
        successes_to_close: breaker.half_open_successes,
        recover_for: breaker.ramp_over,
        ..Params::default()
    }
}

/// The value that the path names in the arguments, hashed; `None` where there is none.
fn hash_key(body: &[u8], path: &[String]) -> Option<u64> {
    let message: serde_json::Value = serde_json::from_slice(body).ok()?;
    let mut at = message.get("params")?;
    for step in path {
        at = at.get(step)?;
    }
    Some(balance::seed(&at.to_string()))
}
