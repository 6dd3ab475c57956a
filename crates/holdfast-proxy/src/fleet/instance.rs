//! One instance of a server, as this node has it.

use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use holdfast_config::Role;
use holdfast_engine::balance::UNWELL;
use holdfast_engine::balance::Why as Unfit;
use holdfast_engine::balance::latency::Latency;
use holdfast_engine::breaker::{self, Breaker, Override, Params, Permit, Phase};
use holdfast_engine::health::passive::{Ended, Indicators, Passive, Thresholds, share};
use holdfast_engine::health::resources::{Resource, Resources, Scale};
use holdfast_engine::health::votes::Opinion;
use tokio::sync::Notify;

use super::knock::Door;
use super::outcome::Outcome;
use super::{CheckResult, Verdict, chance};

/// How long a client may well wait before it comes back to what an operator holds open: nobody knows the end.
pub(super) const HELD_FOR: Duration = Duration::from_secs(30);

/// One address or process of a server, as one configuration has it.
#[derive(Debug)]
pub(super) struct Instance {
    pub(super) id: Box<str>,
    /// What it is known by beyond this configuration and this node.
    pub(super) mark: u32,
    pub(super) role: Role,
    pub(super) weight: u32,
    /// How many regions are nearer to the node than its own; 0 also where nobody knows.
    pub(super) distance: u16,
    /// Where to knock while it is away; `None`: it is no address.
    pub(super) door: Option<Door>,
    /// Its name's, for the strategy that hashes.
    pub(super) seed: u64,
    /// What is known of it, whatever the configuration says: the next one goes on with it.
    pub(super) life: Arc<Life>,
}

/// What the calls of an instance, and whoever looks at it, have found.
#[derive(Debug)]
pub(super) struct Life {
    /// Where its times begin.
    zero: Instant,
    breaker: Mutex<Breaker>,
    held: Mutex<Held>,
    /// Until when the breaker is open, in milliseconds; 0: it is not, the last number: until it is told.
    /// What is read without the lock.
    open_until: AtomicU64,
    /// When it opened last, other than after being tried again; in milliseconds.
    opened_at: AtomicU64,
    /// Whether the breaker is half-open, and calls only try it.
    tries: AtomicBool,
    /// Whether the breaker lets only a share of the calls pass, half-open or recovering.
    ramps: AtomicBool,
    /// Calls that try it now, and when the last one began that was of the share.
    trying: AtomicU32,
    tried_at: AtomicU64,
    /// Since when it cannot be reached; 0: it can.
    away_since: AtomicU64,
    passive: Passive,
    /// What it says of its own resources.
    resources: Mutex<Resources>,
    /// Calls that run at it, and those of them that go on for as long as their clients like: they are not
    /// among the first.
    in_flight: AtomicU32,
    lasting: AtomicU32,
    latency: Latency,
    verdict: ArcSwap<Verdict>,
    /// This node's last checks of it.
    pub(super) checks: ArcSwap<Vec<CheckResult>>,
    /// Whether the group finds it unhealthy; read without the verdict.
    unwell: AtomicBool,
    /// What the group finds of it, in thousandths; all of them until it has found something.
    found: AtomicU32,
    /// Its health in thousandths, as calls are shared out: that, less what its calls and readings say.
    score: AtomicU32,
    /// When those were last asked, in milliseconds.
    scored_at: AtomicU64,
    /// When it last answered a call, in milliseconds; 0: never.
    answered_at: AtomicU64,
    /// A breaker's change or a failed call that the control plane has not been told of.
    pub(super) news: AtomicBool,
    /// Since when it takes calls again, in milliseconds; 0: it always has.
    since: AtomicU64,
    /// Tells Reads that wait for its answer that it has been given up.
    gone: Notify,
    /// When that was last told, in nanoseconds; 0: never.
    gave_up_at: AtomicU64,
}

/// What operators hold its breaker at: its own, and with it all of its server's.
#[derive(Debug, Default)]
struct Held {
    own: Hold,
    servers: Hold,
    /// Counts the words that the breaker was told.
    words: u64,
}

#[derive(Clone, Copy, Debug)]
struct Hold {
    what: Override,
    generation: u64,
}

/// Calls that try a half-open instance at once, whatever share passes: one that hangs must not hang more of
/// them. If they hang, one more tries it per probe interval.
const AT_ONCE: u32 = 3;

/// The best score of an instance that may not be used, in thousandths.
const UNHEALTHY: u32 = 400;

/// How often its calls are asked how well it is, in milliseconds.
const SCORED_EVERY: u64 = 1000;

const NOT_OPEN: u64 = 0;
const UNTIL_TOLD: u64 = u64::MAX;

// === impl Instance ===

impl Deref for Instance {
    type Target = Life;

    fn deref(&self) -> &Life {
        &self.life
    }
}

// === impl Life ===

impl Life {
    pub(super) fn new(params: Params, zero: Instant) -> Self {
        Self {
            zero,
            breaker: Mutex::new(Breaker::new(params, zero)),
            held: Mutex::default(),
            open_until: AtomicU64::new(NOT_OPEN),
            opened_at: AtomicU64::new(0),
            tries: AtomicBool::new(false),
            ramps: AtomicBool::new(false),
            trying: AtomicU32::new(0),
            tried_at: AtomicU64::new(0),
            away_since: AtomicU64::new(0),
            passive: Passive::new(),
            resources: Mutex::default(),
            in_flight: AtomicU32::new(0),
            lasting: AtomicU32::new(0),
            latency: Latency::new(),
            verdict: ArcSwap::from_pointee(Verdict::unknown()),
            checks: ArcSwap::from_pointee(Vec::new()),
            unwell: AtomicBool::new(false),
            found: AtomicU32::new(1000),
            score: AtomicU32::new(1000),
            scored_at: AtomicU64::new(0),
            answered_at: AtomicU64::new(0),
            news: AtomicBool::new(false),
            since: AtomicU64::new(0),
            gone: Notify::new(),
            gave_up_at: AtomicU64::new(0),
        }
    }

    /// Nanoseconds since the node started, and one.
    fn nanos(&self, now: Instant) -> u64 {
        let nanos = now.saturating_duration_since(self.zero).as_nanos();
        u64::try_from(nanos).unwrap_or(u64::MAX - 1) + 1
    }

    /// What its calls met before says nothing from here on: it begins to serve.
    pub(super) fn forget_calls(&self) {
        self.passive.forget();
    }

    /// Reads that wait for its answer had better go elsewhere. To be said after whatever keeps new ones away.
    pub(super) fn give_up(&self) {
        self.gave_up_at.store(self.nanos(Instant::now()), Ordering::SeqCst);
        self.gone.notify_waiters();
    }

    /// Resolves when it is given up; at once, if that was after `since`: whoever looked at it before, and found
    /// it well, may not have listened yet.
    pub(super) fn given_up(&self, since: Instant) -> impl Future<Output = ()> {
        // It listens first and looks then, so that it misses nothing in between.
        let told = self.gone.notified();
        let missed = self.gave_up_at.load(Ordering::SeqCst) > self.nanos(since);
        async move {
            if !missed {
                told.await;
            }
        }
    }

    /// Milliseconds since the node started, and one: 0 stands for never.
    pub(super) fn millis(&self, now: Instant) -> u64 {
        let millis = now.saturating_duration_since(self.zero).as_millis();
        u64::try_from(millis).unwrap_or(UNTIL_TOLD - 2) + 1
    }

    fn lock(&self) -> MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a call may be sent to it at all.
    pub(super) fn is_shut(&self) -> bool {
        self.is_away() || self.is_open()
    }

    /// Whether the breaker refuses everybody now. Costs a look at the clock only where it may.
    pub(super) fn is_open(&self) -> bool {
        match self.open_until.load(Ordering::Relaxed) {
            NOT_OPEN => false,
            UNTIL_TOLD => true,
            until => self.millis(Instant::now()) < until,
        }
    }

    /// Why no call may be sent to it at all, if it is so.
    pub(super) fn shut_by(&self) -> Option<Unfit> {
        match () {
            () if self.is_away() => Some(Unfit::Unreachable),
            () if !self.is_open() => None,
            () if self.open_until.load(Ordering::Relaxed) == UNTIL_TOLD => Some(Unfit::Forced),
            () => Some(Unfit::BreakerOpen),
        }
    }

    /// When its breaker lets calls pass again, if it is open.
    pub(super) fn opens_in(&self) -> Option<Duration> {
        match self.open_until.load(Ordering::Relaxed) {
            NOT_OPEN => None,
            UNTIL_TOLD => Some(HELD_FOR),
            until => {
                let left = until.saturating_sub(self.millis(Instant::now()));
                Some(Duration::from_millis(left.max(1)))
            }
        }
    }

    /// For how long its own failures have kept it open.
    pub(super) fn open_for(&self, now: Instant) -> Option<Duration> {
        let is_own = self.is_open() && self.open_until.load(Ordering::Relaxed) != UNTIL_TOLD;
        let since = self.opened_at.load(Ordering::Relaxed);
        is_own.then(|| Duration::from_millis(self.millis(now).saturating_sub(since)))
    }

    /// Whether enough calls try it as it is.
    pub(super) fn is_being_tried(&self, probe_interval: Duration, now: Instant) -> bool {
        self.tries.load(Ordering::Relaxed)
            && self.trying.load(Ordering::Relaxed) >= AT_ONCE
            && !self.is_silent(probe_interval, now)
    }

    /// Whether a call has to try it now: few may, none has for so long, and none waits for its answer.
    pub(super) fn is_due(&self, probe_interval: Duration, now: Instant) -> bool {
        self.ramps()
            && self.trying.load(Ordering::Relaxed) == 0
            && self.is_silent(probe_interval, now)
    }

    fn is_silent(&self, probe_interval: Duration, now: Instant) -> bool {
        let interval = u64::try_from(probe_interval.as_millis()).unwrap_or(UNTIL_TOLD);
        self.millis(now) >= self.tried_at.load(Ordering::Relaxed).saturating_add(interval)
    }

    /// Whether its breaker lets only a share of the calls pass.
    pub(super) fn ramps(&self) -> bool {
        self.ramps.load(Ordering::Relaxed)
    }

    /// Whether an operator holds its breaker open.
    pub(super) fn is_held_open(&self) -> bool {
        self.open_until.load(Ordering::Relaxed) == UNTIL_TOLD
    }

    /// Takes one of its places, if there is one; of 0 places there is always one.
    pub(super) fn takes_place(&self, places: u32) -> bool {
        // Whoever ends after this sees that it is taken, or this sees that it is free.
        let taken = self.in_flight.fetch_add(1, Ordering::SeqCst);
        let fits = places == 0 || taken + self.lasting.load(Ordering::SeqCst) < places;
        if !fits {
            self.gives_place();
        }
        fits
    }

    /// Gives it back: nothing was sent.
    pub(super) fn gives_place(&self) {
        self.in_flight.fetch_sub(1, Ordering::SeqCst);
    }

    /// Whether one of so many places is free.
    pub(super) fn has_room(&self, places: u32) -> bool {
        places == 0 || self.taken() < places
    }

    /// An attempt begins, in the place that was taken for it; whether it is a try.
    pub(super) fn begins(&self, now: Instant) -> bool {
        let tries = self.is_tried();
        if tries {
            self.trying.fetch_add(1, Ordering::Relaxed);
        }
        if self.ramps() {
            self.tried_at.store(self.millis(now), Ordering::Relaxed);
        }
        tries
    }

    /// One that runs goes on for as long as its client likes.
    pub(super) fn lasts(&self) {
        self.lasting.fetch_add(1, Ordering::SeqCst);
        self.in_flight.fetch_sub(1, Ordering::SeqCst);
    }

    /// Places that are taken. Never too few, to whoever has seen one end.
    pub(super) fn taken(&self) -> u32 {
        // What goes on for long is added to the second before it is taken from the first.
        self.in_flight.load(Ordering::SeqCst) + self.lasting.load(Ordering::SeqCst)
    }

    /// Calls that are at it.
    pub(super) fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed) + self.lasting.load(Ordering::Relaxed)
    }

    /// Those that end by themselves. Whoever changed what calls go by before this sees each that went by
    /// the old.
    pub(super) fn running(&self) -> u32 {
        self.in_flight.load(Ordering::SeqCst)
    }

    /// It has ended.
    pub(super) fn ends(&self, tries: bool, lasts: bool) {
        let under_way = if lasts { &self.lasting } else { &self.in_flight };
        under_way.fetch_sub(1, Ordering::SeqCst);
        if tries {
            self.has_tried();
        }
    }

    /// A call that tried it has begun to be answered, and goes on.
    pub(super) fn has_tried(&self) {
        self.trying.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether the breaker is half-open, and calls only try it.
    pub(super) fn is_tried(&self) -> bool {
        self.tries.load(Ordering::Relaxed)
    }

    /// Whether it cannot be reached from here.
    pub(super) fn is_away(&self) -> bool {
        self.away_since.load(Ordering::Relaxed) != 0
    }

    /// It could not be reached; whether that is news.
    pub(super) fn goes_away(&self, now: Instant) -> bool {
        let since = self.millis(now);
        self.away_since.compare_exchange(0, since, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// It can be reached again, as well as before: nothing has failed.
    pub(super) fn comes_back(&self, now: Instant) {
        self.away_since.store(0, Ordering::Relaxed);
        self.since.store(self.millis(now), Ordering::Relaxed);
    }

    /// For how long it could not be reached.
    pub(super) fn away_for(&self, now: Instant) -> Option<Duration> {
        let since = self.away_since.load(Ordering::Relaxed);
        (since != 0).then(|| Duration::from_millis(self.millis(now).saturating_sub(since)))
    }

    /// How long it usually takes, in microseconds; 0: nobody knows.
    pub(super) fn latency(&self, now: Instant) -> f32 {
        self.latency.read(self.millis(now))
    }

    /// Whether the group finds it unhealthy.
    pub(super) fn is_unwell(&self) -> bool {
        self.unwell.load(Ordering::Relaxed)
    }

    /// Its health as calls are shared out, 0 to 1.
    pub(super) fn score(&self) -> f32 {
        self.score.load(Ordering::Relaxed) as f32 / 1000.0
    }

    /// When it last answered a call: for how long ago.
    pub(super) fn answered_ago(&self, now: Instant) -> Option<Duration> {
        let at = self.answered_at.load(Ordering::Relaxed);
        (at != 0).then(|| Duration::from_millis(self.millis(now).saturating_sub(at)))
    }

    pub(super) fn verdict(&self) -> Arc<Verdict> {
        self.verdict.load_full()
    }

    /// How long it has been taking calls again, in milliseconds; none if it always has.
    pub(super) fn back_for(&self, now: Instant) -> Option<u64> {
        let since = self.since.load(Ordering::Relaxed);
        (since != 0).then(|| self.millis(now).saturating_sub(since))
    }

    /// Takes in what the group finds; the change, if it is one.
    pub(super) fn find(&self, verdict: Verdict, now: Instant) -> Option<(Opinion, Opinion)> {
        let known = |verdict: &Verdict| verdict.opinion.unwrap_or_default();
        let new = known(&verdict);
        if let (Some(_), score) = (verdict.opinion, verdict.score) {
            let score = u32::from(score.min(100)) * 10;
            // One that may not be used is not well, whatever its parts come to.
            let score = if new == Opinion::Unhealthy { score.min(UNHEALTHY) } else { score };
            self.found.store(score, Ordering::Relaxed);
            // Its calls take off what they do when they are asked the next time.
            self.score.store(score, Ordering::Relaxed);
            self.scored_at.store(0, Ordering::Relaxed);
        }
        let old = known(&self.verdict.swap(Arc::new(verdict)));
        self.unwell.store(new == Opinion::Unhealthy, Ordering::Relaxed);
        if old == Opinion::Unhealthy && new != Opinion::Unhealthy {
            self.since.store(self.millis(now), Ordering::Relaxed);
        }
        if new == Opinion::Unhealthy && old != new {
            self.give_up();
        }
        (old != new).then_some((old, new))
    }

    /// What its calls say, and it of itself, at this time.
    pub(super) fn indicators(&self, millis: u64) -> Indicators {
        let mut indicators = self.passive.read(millis);
        let resources = self.resources.lock().unwrap_or_else(PoisonError::into_inner);
        resources.put(&mut indicators, millis);
        indicators
    }

    /// A check has read one of its resources; the share that the number stands for, if it does.
    pub(super) fn reads(&self, what: Resource, number: f64, scale: Scale) -> Option<f64> {
        let millis = self.millis(Instant::now());
        let mut resources = self.resources.lock().unwrap_or_else(PoisonError::into_inner);
        resources.feed(what, number, scale, millis)
    }

    /// Now and then its calls and readings are asked how well it is.
    fn score_calls(&self, millis: u64, thresholds: &Thresholds) {
        let last = self.scored_at.load(Ordering::Relaxed);
        if millis >= last + SCORED_EVERY
            && self
                .scored_at
                .compare_exchange(last, millis, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
        {
            self.weigh(&self.indicators(millis), thresholds);
        }
    }

    /// Takes in what its calls and readings say.
    pub(super) fn weigh(&self, indicators: &Indicators, thresholds: &Thresholds) {
        let found = f64::from(self.found.load(Ordering::Relaxed)) / 1000.0;
        let score = shared(found, indicators, thresholds);
        self.score.store((score * 1000.0) as u32, Ordering::Relaxed);
    }

    /// Whether a call may start; `lot`: its session's, if it has one.
    pub(super) fn admit(
        &self,
        lot: Option<u16>,
        now: Instant,
        tell: impl FnMut(breaker::Transition),
    ) -> Result<Permit, breaker::Refused> {
        let mut breaker = self.lock();
        let admitted = breaker.admit_with(lot, now, chance());
        self.mirror(&mut breaker, tell);
        admitted
    }

    /// An attempt has ended.
    pub(super) fn settle(
        &self,
        permit: Option<Permit>,
        outcome: Outcome,
        elapsed: Duration,
        now: Instant,
        thresholds: &Thresholds,
        tell: impl FnMut(breaker::Transition),
    ) {
        self.note(outcome, elapsed.as_micros(), self.millis(now), thresholds);
        let Some(permit) = permit else { return };
        self.steer(|breaker| settle(breaker, permit, outcome.of_breaker(), now), tell);
    }

    /// An attempt has begun to be answered.
    pub(super) fn begun(
        &self,
        permit: Option<&mut Permit>,
        elapsed: Duration,
        now: Instant,
        thresholds: &Thresholds,
        tell: impl FnMut(breaker::Transition),
    ) {
        self.note(Outcome::Answered, elapsed.as_micros(), self.millis(now), thresholds);
        if let Some(permit) = permit {
            self.steer(|breaker| breaker.begun(permit, now, chance()), tell);
        }
    }

    /// Such an attempt has ended.
    pub(super) fn stream_ended(
        &self,
        permit: Option<Permit>,
        outcome: Outcome,
        now: Instant,
        tell: impl FnMut(breaker::Transition),
    ) {
        if outcome.is_failure() {
            self.passive.ended(Ended::Failed { micros: 0 }, self.millis(now));
        }
        let Some(permit) = permit else { return };
        self.steer(|breaker| settle(breaker, permit, outcome.of_breaker(), now), tell);
    }

    /// A stream of it broke that lasts for as long as its client likes, and had begun well.
    pub(super) fn broke(
        &self,
        outcome: Outcome,
        now: Instant,
        tell: impl FnMut(breaker::Transition),
    ) {
        self.passive.ended(Ended::Failed { micros: 0 }, self.millis(now));
        let Some(outcome) = outcome.of_breaker() else { return };
        self.steer(|breaker| breaker.observe(outcome, now, chance()), tell);
    }

    fn note(&self, outcome: Outcome, elapsed: u128, millis: u64, thresholds: &Thresholds) {
        let micros = u64::try_from(elapsed).unwrap_or(u64::MAX);
        let ended = match outcome {
            Outcome::Answered => Ended::Answered { micros },
            Outcome::Broken | Outcome::Garbled | Outcome::Status | Outcome::TimedOut => {
                Ended::Failed { micros }
            }
            Outcome::Unreachable | Outcome::Unanswering => Ended::NotConnected,
            Outcome::Busy(_) => Ended::PushedBack,
            Outcome::Void => return,
        };
        self.passive.ended(ended, millis);
        match ended {
            Ended::Answered { micros } => {
                self.latency.answered(micros, millis);
                self.answered_at.store(millis, Ordering::Relaxed);
            }
            Ended::Failed { micros } => self.latency.failed(micros, millis),
            Ended::NotConnected | Ended::PushedBack => self.latency.failed(0, millis),
        }
        self.score_calls(millis, thresholds);
    }

    /// Changes the breaker from outside of a call.
    pub(super) fn steer<T>(
        &self,
        act: impl FnOnce(&mut Breaker) -> T,
        tell: impl FnMut(breaker::Transition),
    ) -> T {
        let mut breaker = self.lock();
        let done = act(&mut breaker);
        self.mirror(&mut breaker, tell);
        done
    }

    /// An operator holds its breaker, for itself or with all of its server's: what it is held at for
    /// itself comes first, and what the server is held at holds again after that. Whether that is
    /// news: an older generation of the same word is refused.
    pub(super) fn hold(
        &self,
        with_server: bool,
        hold: (Override, u64),
        now: Instant,
        tell: impl FnMut(breaker::Transition),
    ) -> bool {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((what, number)) = held.take(with_server, hold) else { return false };
        self.steer(|breaker| breaker.force(what, number, now), tell)
    }

    /// Keeps what is read without the lock in step, and hands out what changed.
    #[inline]
    fn mirror(&self, breaker: &mut Breaker, mut tell: impl FnMut(breaker::Transition)) {
        while let Some(transition) = breaker.take_transition() {
            self.turn(breaker, &transition);
            tell(transition);
        }
    }

    #[cold]
    fn turn(&self, breaker: &Breaker, transition: &breaker::Transition) {
        let status = breaker.status();
        let until = match status.phase {
            Phase::ForcedOpen => UNTIL_TOLD,
            Phase::Open => status.open_until.map_or(UNTIL_TOLD, |until| self.millis(until)),
            Phase::Closed | Phase::HalfOpen | Phase::Recovering | Phase::ForcedClosed => NOT_OPEN,
        };
        self.open_until.store(until, Ordering::Relaxed);
        // One that fails when it is tried again has been down all the time.
        if transition.to == Phase::Open && transition.from != Phase::HalfOpen {
            self.opened_at.store(self.millis(transition.at), Ordering::Relaxed);
        }
        self.tries.store(status.phase == Phase::HalfOpen, Ordering::Relaxed);
        let ramps = matches!(status.phase, Phase::HalfOpen | Phase::Recovering);
        self.ramps.store(ramps, Ordering::Relaxed);
        if until != NOT_OPEN {
            self.give_up();
        }
        // One that was let back in step by step has its whole share already.
        if (transition.from, transition.to) == (Phase::HalfOpen, Phase::Closed) {
            self.since.store(self.millis(transition.at), Ordering::Relaxed);
        }
    }
}

/// Tells a breaker how an attempt ended, if it ended at all.
pub(super) fn settle(
    breaker: &mut Breaker,
    permit: Permit,
    outcome: Option<breaker::Outcome>,
    now: Instant,
) {
    match outcome {
        Some(outcome) => breaker.settle(permit, outcome, now, chance()),
        None => breaker.abandon(permit, now, chance()),
    }
}

/// How well an instance is for whoever shares calls out, 0 to 1.
pub(super) fn shared(found: f64, indicators: &Indicators, thresholds: &Thresholds) -> f64 {
    share(found, indicators.judge(thresholds).map(|it| it.score), f64::from(UNWELL) + 0.01)
}

// === impl Held ===

impl Held {
    /// Takes in a word; what the breaker is to be from now on and the number of that, unless it is an
    /// older word.
    fn take(&mut self, with_server: bool, hold: (Override, u64)) -> Option<(Override, u64)> {
        let place = if with_server { &mut self.servers } else { &mut self.own };
        let (what, generation) = hold;
        if generation <= place.generation {
            return None;
        }
        *place = Hold { what, generation };
        self.words += 1;
        let holds = if self.own.what == Override::Automatic { self.servers } else { self.own };
        Some((holds.what, self.words))
    }
}

impl Default for Hold {
    fn default() -> Self {
        Self { what: Override::Automatic, generation: 0 }
    }
}
