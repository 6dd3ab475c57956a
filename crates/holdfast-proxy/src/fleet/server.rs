//! One server: its instances, and who is admitted there.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use holdfast_config::{Config, HttpUrl, Role, Strategy, Transport};
use holdfast_engine::balance::rate::{Allowance, Rate};
use holdfast_engine::balance::{self, Set};
use holdfast_engine::breaker::{self, Breaker, Params, Permit};
use holdfast_engine::class::CallClass;
use holdfast_engine::failover::Failover;
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
    pub(super) breaks: bool,
    pub(super) strategy: balance::Params,
    /// Where the key stands, for the strategy that hashes one.
    pub(super) hash_on: Vec<String>,
    /// Connections at once to one instance.
    pub(super) limit: u32,
    /// Which instance takes its calls, where only one of several does.
    pub(super) failover: ArcSwapOption<Failover>,
    pub(super) turn: AtomicU64,
    /// Breakers of single tools, by name.
    pub(super) tools: Box<[(Box<str>, Mutex<Breaker>)]>,
    /// What each instance may take a minute, and this node's part of it.
    rate: Option<Rate>,
    pub(super) allowances: Box<[Mutex<Allowance>]>,
    pub(super) gate: Gate,
    pub(crate) counts: Counts,
    /// What it depends on.
    pub(super) needs: OnceLock<Vec<Weak<Self>>>,
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
pub(super) enum Shut {
    /// Its breaker, or its tool's.
    Breaker(breaker::Refused),
    /// It cannot be reached.
    Away,
}

/// When an instance that cannot be reached is worth another try.
pub(super) const SOON: Duration = Duration::from_secs(1);

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
        let admitted = if at.is_being_tried(now) {
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
    pub(super) fn ended(
        self: &Arc<Self>,
        instance: usize,
        permit: Option<Permit>,
        tool: Option<(usize, Permit)>,
        outcome: Outcome,
        begun: Instant,
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
        let elapsed = now.saturating_duration_since(begun);
        self.instances[instance].settle(permit, outcome, elapsed, now, |change| {
            self.tell(instance, change);
        });
    }

    /// A stream that had begun well broke.
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
        let at = super::At { server: self.index, instance };
        // Nobody listens on a node without a control plane.
        let _ = self.news.send(News { at, change });
    }

    /// Why no instance takes the call.
    #[cold]
    pub(super) fn nobody(&self, last: Option<Shut>, now: Instant) -> Refused {
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

    /// This node's part of what each instance may take: it is the one at this place of so many.
    pub(super) fn share_rate(&self, place: usize, nodes: usize) {
        let Some(rate) = self.rate else { return };
        for allowance in &self.allowances {
            let mut allowance = allowance.lock().unwrap_or_else(PoisonError::into_inner);
            allowance.change(rate.part(place, nodes), Instant::now());
        }
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

/// A call without an answer for so long counts as failed, unless the configuration says otherwise: by then
/// clients of the TypeScript SDK have given it up. What has begun its answer is none of these.
const SLOW: Duration = Duration::from_secs(60);

/// The engine's settings of a server's breakers.
pub(super) fn params(settings: &holdfast_config::Server) -> Params {
    let breaker = &settings.breaker;
    Params {
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
