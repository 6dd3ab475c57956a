//! One server: its instances, and who is admitted there.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use holdfast_config::{Config, HttpUrl, Role, Strategy, Transport};
use holdfast_engine::balance::rate::{Allowance, Rate};
use holdfast_engine::balance::{self, Set};
use holdfast_engine::breaker::{self, Breaker, Params, Permit, Phase};
use holdfast_engine::class::CallClass;
use holdfast_engine::failover::Failover;
use holdfast_engine::health::passive::Thresholds;
use holdfast_engine::health::resources::{Resource, Scale};
use holdfast_engine::health::{Bars, Grade, Measure};
use tokio::sync::{Notify, broadcast};

use super::admission::Gate;
use super::attempt::Attempt;
use super::chance;
use super::control::{Change, News};
use super::counts::Counts;
use super::instance::{Instance, Life, settle};
use super::knock::Door;
use super::mark::mark_of;
use super::outcome::Outcome;
use super::queue::Queue;
use super::refusal::Shut;

/// One server of the configuration.
#[derive(Debug)]
pub struct ServerFleet {
    pub(super) index: usize,
    pub(super) name: Arc<str>,
    pub(super) instances: Box<[Instance]>,
    /// Whether breakers are asked; operators are heeded all the same.
    pub(super) breaks: bool,
    pub(super) strategy: balance::Params,
    /// Where the key stands, for the strategy that hashes one.
    pub(super) hash_on: Vec<String>,
    /// Connections at once to one instance; 0: one carries all calls.
    pub(super) limit: u32,
    /// Calls that wait for one, how many may, and for how long.
    pub(super) queue: Arc<Queue>,
    pub(super) queue_most: u32,
    pub(super) queue_for: Duration,
    /// Which instance takes its calls, where only one of several does.
    pub(super) failover: Arc<ArcSwapOption<Failover>>,
    pub(super) turn: AtomicU64,
    /// Breakers of single tools, by name.
    pub(super) tools: Box<[ToolBreaker]>,
    /// One of them has changed, and whoever tells the other nodes has not looked since.
    pub(super) tools_changed: AtomicBool,
    /// What each instance may take a minute, and this node's part of it.
    pub(super) rate: Option<Rate>,
    pub(super) allowances: Box<[Arc<Mutex<Allowance>>]>,
    pub(super) gate: Gate,
    pub(crate) counts: Arc<Counts>,
    /// What it depends on.
    pub(super) needs: OnceLock<Vec<Weak<Self>>>,
    /// Tells calls that wait that the failover has gone on.
    pub(super) turned: Arc<Notify>,
    pub(super) news: broadcast::Sender<News>,
    /// Tells the control plane that there is something to look at.
    pub(super) heard: Arc<Notify>,
    timeout: Duration,
    /// The settings of its breakers.
    pub(super) params: Params,
    /// What its calls and readings are judged by.
    pub(super) thresholds: Thresholds,
    /// Below which scores what is done.
    bars: Bars,
    /// What is done now: a place in [`Measure::ALL`].
    measure: AtomicU8,
}

/// A tool with a breaker of its own.
type ToolBreaker = (Box<str>, Arc<Mutex<Breaker>>);

/// What a server is built into, and goes on from.
pub(super) struct Surroundings<'a> {
    /// Its number.
    pub(super) index: usize,
    /// The configuration that has it.
    pub(super) config: &'a Config,
    pub(super) news: broadcast::Sender<News>,
    pub(super) heard: Arc<Notify>,
    pub(super) counts: Arc<Counts>,
    /// The same server of the configuration before.
    pub(super) before: Option<&'a ServerFleet>,
    pub(super) now: Instant,
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
    /// Its session lives at an instance.
    pub(crate) bound: bool,
    /// Set that have failed it already: they come last.
    pub(crate) avoid: Set,
    /// Its body, for the strategy that looks at it.
    pub(crate) body: &'a [u8],
    /// Its tool's breaker, by number.
    pub(crate) tool: Option<usize>,
    /// The instance at which it has waited for its turn: the allowance was taken then.
    pub(crate) turn: Option<usize>,
    /// It opens a session, and goes before calls that wait for a connection.
    pub(crate) opens: bool,
    /// It has waited for a connection, and one is kept for it.
    pub(crate) kept: bool,
}

// === impl Ask ===

impl<'a> Ask<'a> {
    /// To open a session.
    pub(crate) fn opening(prefer: Option<usize>, avoid: Set) -> Self {
        Self {
            class: CallClass::Lifecycle,
            named: prefer,
            key: chance(),
            bound: false,
            avoid,
            body: &[],
            tool: None,
            turn: None,
            opens: true,
            kept: false,
        }
    }
}

// === impl ServerFleet ===

impl ServerFleet {
    /// Changes nothing of what the same server of the configuration before has; see [`Self::begin`].
    pub(super) fn new(
        name: &str,
        settings: &holdfast_config::Server,
        around: Surroundings<'_>,
    ) -> Self {
        let Surroundings { index, config, news, heard, counts, before, now } = around;
        let params = params(settings);
        let regions = &config.node.regions;
        let distance = |region: Option<&str>| match region.filter(|_| !regions.is_empty()) {
            // What is not known is as near as any.
            None => 0,
            Some(region) => {
                let place = regions.iter().position(|it| it == region);
                u16::try_from(place.unwrap_or(regions.len())).unwrap_or(u16::MAX)
            }
        };
        let door = |url: &HttpUrl| Door {
            host: url.host.as_str().into(),
            port: url.port,
            within: settings.connect_timeout,
        };
        let known = |mark: u32| before?.instances.iter().find(|it| it.mark == mark);
        let instance = |id: &str, mark: u32, role, weight, distance, door| Instance {
            id: id.into(),
            mark,
            role,
            weight,
            distance,
            door,
            seed: balance::seed(id),
            life: known(mark)
                .map_or_else(|| Arc::new(Life::new(params, now)), |it| Arc::clone(&it.life)),
        };
        let mut instances: Vec<Instance> = settings
            .instances()
            .iter()
            .map(|it| {
                let mark = mark_of(&it.id, &it.url.to_string());
                let distance = distance(it.region.as_deref());
                instance(&it.id, mark, it.role, it.weight, distance, Some(door(&it.url)))
            })
            .collect();
        if instances.is_empty() {
            let door = match &settings.transport {
                Transport::Sse { url } | Transport::WebSocket { url } => Some(door(url)),
                Transport::Http { .. } | Transport::Stdio(_) => None,
            };
            let mark = super::mark::only(&settings.transport);
            instances.push(instance("default", mark, Role::Equal, 1, 0, door));
        }
        let primary = instances.iter().find(|it| it.role == Role::Primary);
        let first = primary
            .filter(|_| settings.failover.is_some())
            .map(|primary| Arc::new(Failover::new(&primary.id)));
        // A move that is under way goes on, as long as there is what it has come to.
        let failover = before.filter(|_| first.is_some()).and_then(|before| {
            let present = before.failover.load();
            let active = &present.as_ref()?.active;
            let there = instances.iter().any(|it| *it.id == **active);
            there.then(|| Arc::clone(&before.failover))
        });
        let breaker = |tool: &String| {
            let known = before.and_then(|it| it.tools.iter().find(|(name, _)| **name == **tool));
            let breaker = known.map_or_else(
                || Arc::new(Mutex::new(Breaker::new(params, now))),
                |(_, breaker)| Arc::clone(breaker),
            );
            (tool.as_str().into(), breaker)
        };
        let balance = &settings.balance;
        let rate = balance.rate.map(|it| Rate { per_minute: it.per_minute, burst: it.burst });
        let allowance = |rate: Rate, mark: u32| {
            let at = before.and_then(|it| it.instances.iter().position(|it| it.mark == mark));
            let known = before.zip(at).and_then(|(before, at)| before.allowances.get(at));
            known.map_or_else(|| Arc::new(Mutex::new(Allowance::new(rate))), Arc::clone)
        };
        let allowances = rate
            .iter()
            .flat_map(|rate| instances.iter().map(|it| allowance(*rate, it.mark)))
            .collect();
        let gate = Gate::new(settings, config, before.map(|it| &it.gate), now);
        let limit = match &settings.transport {
            Transport::Http { .. } => settings.pool.max_connections,
            Transport::Sse { .. } | Transport::WebSocket { .. } | Transport::Stdio(_) => 0,
        };
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
            limit,
            queue: before.map_or_else(|| Arc::new(Queue::new(limit)), |it| Arc::clone(&it.queue)),
            queue_most: settings.pool.queue,
            queue_for: settings.pool.queue_timeout,
            failover: failover.unwrap_or_else(|| Arc::new(ArcSwapOption::from(first))),
            turn: AtomicU64::new(before.map_or(0, |it| it.turn.load(Ordering::Relaxed))),
            tools: settings.breaker.per_tool.iter().map(breaker).collect(),
            tools_changed: AtomicBool::new(false),
            rate,
            allowances,
            gate,
            counts,
            needs: OnceLock::new(),
            turned: before.map_or_else(Arc::default, |it| Arc::clone(&it.turned)),
            news,
            heard,
            timeout: settings.timeout,
            params,
            thresholds: config.health.passive.thresholds(),
            bars: config.health.measures,
            measure: AtomicU8::new(0),
            instances: instances.into(),
        }
    }

    /// From here on it takes the calls, in place of what it was `before`: what both have in common goes
    /// by its settings.
    pub(super) fn begin(&self, before: &Self, now: Instant) {
        for (index, it) in self.instances.iter().enumerate() {
            it.steer(
                |breaker| breaker.reconfigure(self.params, now),
                |change| self.tell(index, change),
            );
        }
        for number in 0..self.tools.len() {
            self.steer_tool(number, |breaker| breaker.reconfigure(self.params, now));
        }
        self.gate.begin(&self.name, now);
        self.take_measure();
        if !Arc::ptr_eq(&self.failover, &before.failover) {
            // Calls that wait for a move to end that nobody makes any more.
            before.failover.store(self.failover.load_full());
        }
        self.turned.notify_waiters();
        self.change_places();
    }

    /// The number of the instance with this mark.
    pub(crate) fn place(&self, mark: u32) -> Option<usize> {
        self.instances.iter().position(|it| it.mark == mark)
    }

    /// The mark of an instance.
    pub(crate) fn mark(&self, instance: usize) -> u32 {
        self.instances.get(instance).map_or(0, |it| it.mark)
    }

    /// Two of its instances that could not be told apart, if there are.
    pub(crate) fn alike(&self) -> Option<(&str, &str)> {
        self.instances.iter().enumerate().find_map(|(at, it)| {
            let same = self.instances[..at].iter().find(|other| other.mark == it.mark)?;
            Some((&*same.id, &*it.id))
        })
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

    /// How long an instance may be silent: what has had no answer for longer has failed there, whether its
    /// client still waits or not.
    pub(crate) fn silence(&self) -> Duration {
        self.params.slow.min(self.timeout)
    }

    /// The number of a tool's own breaker, if it has one.
    pub(crate) fn tool(&self, name: &str) -> Option<usize> {
        self.tools.iter().position(|(tool, _)| **tool == *name)
    }

    /// Whether any tool has a breaker of its own.
    pub(crate) fn has_tools(&self) -> bool {
        !self.tools.is_empty()
    }

    pub(super) fn admit(
        self: &Arc<Self>,
        instance: usize,
        ask: &Ask<'_>,
        now: Instant,
    ) -> Result<Attempt, Shut> {
        let at = &self.instances[instance];
        if at.is_away() {
            return Err(Shut::Away);
        }
        if !ask.kept && self.queue.is_waited_for(at.mark, ask.opens) {
            return Err(Shut::Busy);
        }
        if !at.takes_place(self.queue.places()) {
            // Somebody may have ended while the place was looked at, and found it taken.
            self.is_free(instance);
            return Err(Shut::Busy);
        }
        let admitted = self.pass(instance, ask, now);
        if admitted.is_err() {
            at.gives_place();
            self.is_free(instance);
        }
        admitted
    }

    /// Past its breakers and its allowance, with a place taken.
    fn pass(
        self: &Arc<Self>,
        instance: usize,
        ask: &Ask<'_>,
        now: Instant,
    ) -> Result<Attempt, Shut> {
        let at = &self.instances[instance];
        if !self.breaks {
            self.heed_orders(at, ask)?;
            self.take_allowance(instance, ask, now)?;
            return Ok(Attempt::new(Arc::clone(self), instance, None, None, now));
        }
        let tool = match ask.tool.filter(|number| *number < self.tools.len()) {
            Some(number) => {
                let admitted = self.steer_tool(number, |breaker| breaker.admit(now, chance()));
                Some((number, admitted.map_err(|refused| Shut::Tool(number, refused))?))
            }
            None => None,
        };
        let interval = self.params.probe_interval;
        let admitted = if at.is_being_tried(interval, now) {
            Err(breaker::Refused { retry_after: interval, why: breaker::Why::HalfOpen })
        } else {
            at.admit(self.lot(at, ask), now, |change| self.tell(instance, change))
        };
        let shut = match admitted {
            Ok(permit) => match self.take_allowance(instance, ask, now) {
                Ok(()) => {
                    return Ok(Attempt::new(Arc::clone(self), instance, Some(permit), tool, now));
                }
                Err(shut) => {
                    let tell = |change| self.tell(instance, change);
                    at.steer(|breaker| breaker.abandon(permit, now, chance()), tell);
                    shut
                }
            },
            Err(refused) => Shut::Breaker(refused),
        };
        if let Some((number, permit)) = tool {
            self.steer_tool(number, |breaker| breaker.abandon(permit, now, chance()));
        }
        Err(shut)
    }

    /// What an operator holds open is refused also where breakers are asked for nothing else.
    fn heed_orders(&self, at: &Instance, ask: &Ask<'_>) -> Result<(), Shut> {
        let refused = breaker::Refused {
            retry_after: self.params.probe_interval,
            why: breaker::Why::ForcedOpen,
        };
        if at.is_held_open() {
            return Err(Shut::Breaker(refused));
        }
        match ask.tool.filter(|number| *number < self.tools.len()) {
            Some(tool) if self.steer_tool(tool, |it| it.phase()) == Phase::ForcedOpen => {
                Err(Shut::Tool(tool, refused))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Asks a tool's breaker, or tells it, and hands out what changed.
    pub(super) fn steer_tool<T>(&self, number: usize, act: impl FnOnce(&mut Breaker) -> T) -> T {
        let (name, breaker) = &self.tools[number];
        let mut breaker = breaker.lock().unwrap_or_else(PoisonError::into_inner);
        let done = act(&mut breaker);
        while let Some(transition) = breaker.take_transition() {
            self.tell_of_tool(name, transition);
        }
        done
    }

    #[cold]
    fn tell_of_tool(&self, tool: &str, transition: breaker::Transition) {
        tracing::info!(
            server = %self.name,
            tool,
            from = transition.from.label(),
            to = transition.to.label(),
            why = %transition.cause,
            "circuit breaker of a tool"
        );
        self.counts.turned(transition.to);
        self.queue.look_again();
        if !self.tools_changed.swap(true, Ordering::AcqRel) {
            self.heard.notify_waiters();
        }
    }

    /// An attempt has ended.
    pub(super) fn ended(
        self: &Arc<Self>,
        instance: usize,
        permit: Option<Permit>,
        tool: Option<(usize, Permit)>,
        outcome: Outcome,
        begun: Instant,
        now: Instant,
    ) {
        self.tell_tool(tool, outcome, now);
        if outcome.is_failure() {
            self.look(instance);
            if outcome == Outcome::Unreachable {
                self.left(instance, now);
            }
        }
        let elapsed = now.saturating_duration_since(begun);
        self.instances[instance].settle(
            permit,
            outcome,
            elapsed,
            now,
            &self.thresholds,
            |change| self.tell(instance, change),
        );
    }

    fn tell_tool(&self, tool: Option<(usize, Permit)>, outcome: Outcome, now: Instant) {
        let Some((number, permit)) = tool else { return };
        // A tool is not to blame for a server that cannot be reached.
        let outcome = outcome.of_breaker().filter(|_| outcome != Outcome::Unreachable);
        self.steer_tool(number, |breaker| settle(breaker, permit, outcome, now));
    }

    /// An attempt has begun to be answered, by a stream.
    pub(super) fn begun(
        &self,
        instance: usize,
        permit: Option<&mut Permit>,
        tool: Option<&mut (usize, Permit)>,
        begun: Instant,
        now: Instant,
    ) {
        if let Some((number, permit)) = tool {
            self.steer_tool(*number, |breaker| breaker.begun(permit, now, chance()));
        }
        let elapsed = now.saturating_duration_since(begun);
        let tell = |change| self.tell(instance, change);
        self.instances[instance].begun(permit, elapsed, now, &self.thresholds, tell);
    }

    /// Its stream has ended.
    pub(super) fn stream_ended(
        &self,
        instance: usize,
        permit: Option<Permit>,
        tool: Option<(usize, Permit)>,
        outcome: Outcome,
        now: Instant,
    ) {
        self.tell_tool(tool, outcome, now);
        if outcome.is_failure() {
            self.look(instance);
        }
        let tell = |change| self.tell(instance, change);
        self.instances[instance].stream_ended(permit, outcome, now, tell);
    }

    /// A stream broke that had begun well, and lasts for as long as its client likes.
    #[cold]
    pub(super) fn broke(&self, instance: usize, outcome: Outcome, now: Instant) {
        self.look(instance);
        let tell = |change| self.tell(instance, change);
        self.instances[instance].broke(outcome, now, tell);
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
        self.queue.look_again();
        let at = super::At { server: self.index, instance };
        // Nobody listens on a node without a control plane.
        let _ = self.news.send(News { at, change });
    }

    /// The id of an instance in the configuration.
    pub(super) fn id(&self, instance: usize) -> &str {
        self.instances.get(instance).map_or("", |it| &it.id)
    }

    /// A check has read one of an instance's resources; the share that the number stands for.
    pub(super) fn reads(
        &self,
        instance: usize,
        what: Resource,
        number: f64,
        scale: Scale,
    ) -> Option<f64> {
        self.instances.get(instance)?.reads(what, number, scale)
    }

    /// What its health calls for now.
    pub(crate) fn measure(&self) -> Measure {
        let place = usize::from(self.measure.load(Ordering::Relaxed));
        Measure::ALL.get(place).copied().unwrap_or_default()
    }

    /// Whether what can be left out is left out.
    pub(crate) fn is_degraded(&self) -> bool {
        self.measure.load(Ordering::Relaxed) >= Measure::Degrade as u8
    }

    /// Looks what its health calls for: that of its best instance that serves, by the group's word.
    pub(super) fn take_measure(&self) {
        let failover = self.failover.load();
        let serves =
            |it: &&Instance| failover.as_deref().is_none_or(|failover| failover.serves(&it.id));
        let found = self.instances.iter().filter(serves).map(|it| it.verdict());
        let best = found.filter(|it| it.opinion.is_some()).map(|it| it.score).max();
        let measure = best.map_or(Measure::Nothing, |score| self.bars.measure(score));
        let before = self.measure.swap(measure as u8, Ordering::Relaxed);
        self.gate.spare(&self.name, self.is_degraded(), Instant::now());
        if before != measure as u8 {
            let score = best.unwrap_or(100);
            tracing::warn!(
                server = %self.name,
                score,
                grade = Grade::of(score).label(),
                measure = measure.label(),
                "what the server's health calls for"
            );
        }
    }

    /// Whether no instance can be called.
    pub(crate) fn is_shut(&self) -> bool {
        self.all_that_serve(|it| it.is_shut())
    }

    /// Whether who depends on it finds nothing there: none of those that serve can be called, or is well.
    pub(super) fn is_down(&self) -> bool {
        self.all_that_serve(|it| it.is_shut() || it.is_unwell())
    }

    /// Whether it is so of each instance that calls may go to. One that stands by takes none.
    fn all_that_serve(&self, is_so: impl Fn(&Instance) -> bool) -> bool {
        let failover = self.failover.load();
        let serves = |it: &&Instance| {
            let serves = |failover: &Failover| failover.serves(&it.id);
            it.role == Role::Replica || failover.as_deref().is_none_or(serves)
        };
        let mut serving = self.instances.iter().filter(serves).peekable();
        match serving.peek() {
            Some(_) => serving.all(is_so),
            // What is active is of another configuration.
            None => self.instances.iter().all(is_so),
        }
    }

    /// When the first open breaker lets calls pass again.
    pub(super) fn opens_in(&self) -> Option<Duration> {
        self.instances.iter().filter_map(|it| it.opens_in()).min()
    }
}

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

/// A call without an answer for so long counts as failed, unless the configuration says otherwise. Clients of
/// the TypeScript SDK give up after 60 s and take their call along: by then it has to be evidence (a slot of
/// the breaker's window ripens up to an eighth later, at 50.6 s), and a Read needs time for its repeat.
/// What has begun its answer is none of these.
const SLOW: Duration = Duration::from_secs(45);

/// The engine's settings of a server's breakers.
pub(super) fn params(settings: &holdfast_config::Server) -> Params {
    let breaker = &settings.breaker;
    Params {
        enabled: breaker.enabled,
        consecutive_failures: breaker.consecutive_failures,
        failure_rate: breaker.failure_rate,
        minimum_calls: breaker.minimum_calls,
        window: breaker.window,
        slow: breaker.slow_call.unwrap_or_else(|| SLOW.min(settings.timeout)),
        open_for: breaker.open_for,
        open_at_most: breaker.max_open_for,
        half_open_share: breaker.half_open_share,
        probe_interval: breaker.probe_interval,
        successes_to_close: breaker.half_open_successes,
        recover_for: breaker.ramp_over,
        ..Params::default()
    }
}
