//! Bulkheads: classes of calls that cannot take one another's room, and tools that cannot take their
//! class's.
//!
//! Every call of a server belongs to a class. A class runs so many calls at once and lets some more wait for a
//! time. Beside that there may be a limit for all classes together; then a class of higher priority
//! goes first, and every fourth call that is let in is the one that waits longest of all, so that
//! nobody starves.
//!
//! *Quarantine*: a tool that hangs fills its class with calls that do not end. When a call of
//! another tool has waited 100 ms in a full class, or cannot even wait since there is no queue or it is full
//! as well, and one tool holds more than half of the class and has answered none of its calls for
//! [`HANGS`], that one is limited to a quarter, and what it holds beyond that no longer takes room: the
//! others go on at once. Its calls wait until it holds less than that, and from then on no more than a
//! quarter of the queue is theirs. Those that run are its probes: it is set free when its time is over, it
//! keeps to its limit, and one of them was answered, or none is left; else its time begins anew.
//!
//! A class has no more room than all of them together. Where those are full and a class is not, the one
//! with the most calls keeps its calls out: a tool that hangs there is limited for them.
//!
//! ```text
//!            enter                 next                    leave
//!   call ──▶ Entered ──────────────────────────────────────────▶ gone
//!       └──▶ Queued ──▶ granted (Entered) ─────────────────────▶ gone
//!       │         └───▶ expired, or cancelled ─────────────────▶ gone
//!       └──▶ Refused
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// One class's settings.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClassParams {
    /// Calls that run at once: at least 1. A class has no more room than all of them together.
    pub concurrency: u32,
    /// Calls that wait beside them; 0 refuses at once.
    pub queue: u32,
    /// How long one waits at most.
    pub queue_timeout: Duration,
    /// Higher ones go first where classes compete.
    pub priority: u8,
}

/// A class: its place in the list that [`Bulkheads::new`] was given.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ClassId(pub u16);

/// A tool, by a number that the caller gives it. There are as many of them as are ever kept in mind, so
/// what a client makes up is no number of its own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ToolKey(pub u32);

/// A place in a queue. Tickets are never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Ticket(pub u64);

/// What becomes of a call that wants in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use = "a call that entered has to leave"]
pub enum Entry {
    /// It runs. [`Bulkheads::leave`] follows.
    Entered,
    /// It waits until [`Bulkheads::next`] grants its ticket, [`Bulkheads::expire`] names it, or
    /// [`Bulkheads::cancel`] takes it back.
    Queued(Ticket),
    /// It does not run.
    Refused {
        /// When it is worth another try. Never zero.
        retry_after: Duration,
        /// Why.
        why: Full,
    },
}

/// Why a call was refused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Full {
    /// The class and its queue are full.
    Class,
    /// The tool is in quarantine and holds all that it may.
    Quarantined,
}

/// A call that waited and runs now. [`Bulkheads::leave`] follows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use = "a call that entered has to leave"]
pub struct Granted {
    /// Its ticket.
    pub ticket: Ticket,
    /// Its class.
    pub class: ClassId,
    /// Its tool.
    pub tool: ToolKey,
    /// How long it waited.
    pub waited: Duration,
}

/// A class as it is shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClassStatus {
    /// Calls that may run at once.
    pub concurrency: u32,
    /// Calls that run, those beyond a quarantine's limit included.
    pub running: u32,
    /// Calls that take room in it.
    pub counted: u32,
    /// Calls that wait.
    pub waiting: u32,
    /// Tools in quarantine.
    pub quarantined: u32,
}

/// All classes of a server on a node.
#[derive(Clone, Debug)]
pub struct Bulkheads {
    classes: Vec<Class>,
    /// The limit for all classes together.
    total: u32,
    quarantine_for: Duration,
    tickets: u64,
    grants: u64,
}

#[derive(Clone, Debug)]
struct Class {
    params: ClassParams,
    /// Calls that run at once: as many as its settings say, and as all classes together have room for.
    most: u32,
    /// Calls that take room.
    counted: u32,
    /// Those that ever held something: as many as there are tools.
    tools: BTreeMap<ToolKey, Held>,
    /// How many of them are in quarantine.
    quarantined: u32,
    /// In the order of their arrival.
    queue: VecDeque<Waiting>,
    /// It is held to a quarter of its room.
    spared: bool,
    /// Since when it has been full.
    full_since: Option<Instant>,
    /// How long a full one takes until one of its calls is answered, of late; none before the first time.
    pace: Option<Duration>,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    calls: u32,
    /// When one of them was last answered; or when the first began of those that run.
    answered: Instant,
    quarantined: Option<Quarantine>,
}

#[derive(Clone, Copy, Debug)]
struct Quarantine {
    until: Instant,
    /// One of its calls was answered since it began.
    answered: bool,
}

/// A tool that fills its class.
#[derive(Clone, Copy, Debug)]
struct Filled {
    class: usize,
    tool: ToolKey,
    /// Since when it has answered nothing.
    silent: Instant,
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    ticket: Ticket,
    tool: ToolKey,
    since: Instant,
}

/// One in so many grants goes to who waits longest of all.
const FAIR: u64 = 4;
/// After waiting so long, a call of another tool has whoever fills the class limited.
const PATIENCE: Duration = Duration::from_millis(100);
/// A tool that has answered nothing for so long hangs. One that is merely busy answers all the time.
pub const HANGS: Duration = Duration::from_secs(5);

// === impl Bulkheads ===

impl Bulkheads {
    /// Empty classes. `total` limits all of them together; `None` leaves each to its own limit.
    #[must_use]
    pub fn new(
        classes: impl IntoIterator<Item = ClassParams>,
        total: Option<u32>,
        quarantine_for: Duration,
    ) -> Self {
        let total = total.unwrap_or(u32::MAX).max(1);
        let classes = classes.into_iter().map(|params| Class::new(params, total)).collect();
        Self { classes, total, quarantine_for, tickets: 0, grants: 0 }
    }

    /// Goes on with other settings. What runs goes on, also beyond a lower limit, and what waits keeps
    /// its place; there may be room for more now: ask [`next`](Self::next). Classes are the same ones in
    /// the same order; a setting too many is left alone.
    pub fn reconfigure(
        &mut self,
        classes: impl IntoIterator<Item = ClassParams>,
        total: Option<u32>,
        quarantine_for: Duration,
    ) {
        self.quarantine_for = quarantine_for;
        self.total = total.unwrap_or(u32::MAX).max(1);
        for (class, params) in self.classes.iter_mut().zip(classes) {
            class.reconfigure(params, self.total);
        }
    }

    /// Holds a class to a quarter of its room from here on, or no more: who waits in it is let in only while
    /// fewer of its calls run, and its newcomers are [refused](Self::would_exceed) by whoever asks. What runs
    /// goes on. Ask [`next`](Self::next) afterwards.
    pub fn spare(&mut self, class: ClassId, spared: bool) {
        if let Some(class) = self.classes.get_mut(usize::from(class.0)) {
            class.spared = spared;
        }
    }

    /// Whether with so many more calls a class would hold more than the quarter that it is held to.
    #[must_use]
    pub fn would_exceed(&self, class: ClassId, calls: u32) -> bool {
        self.classes.get(usize::from(class.0)).is_some_and(|class| class.would_exceed(calls))
    }

    /// A call for `tool` wants in. If it is queued, that may have made room for others: ask
    /// [`next`](Self::next). A class that is not known has no limits.
    pub fn enter(&mut self, class: ClassId, tool: ToolKey, now: Instant) -> Entry {
        let at = usize::from(class.0);
        if at >= self.classes.len() {
            return Entry::Entered;
        }
        self.relieve(now);
        if self.classes[at].has_no_place() {
            // It cannot wait, so it does not.
            self.limit_for(at, tool, now);
        }
        let overtakes = self.someone_could_go(at);
        let room = self.room();
        let class = &mut self.classes[at];
        let may_hold_more = class.may_hold_more(tool);
        if may_hold_more && room && !class.is_full() && !overtakes {
            class.take(tool, now);
            return Entry::Entered;
        }
        if !class.may_wait(tool) {
            let why = if may_hold_more { Full::Class } else { Full::Quarantined };
            return Entry::Refused { retry_after: class.retry_after(now), why };
        }
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        class.queue.push_back(Waiting { ticket, tool, since: now });
        Entry::Queued(ticket)
    }

    /// A call that had entered is over. `answered`: its server answered it, now. Ask
    /// [`next`](Self::next) afterwards, until it has none.
    pub fn leave(&mut self, class: ClassId, tool: ToolKey, answered: Option<Instant>) {
        if let Some(class) = self.classes.get_mut(usize::from(class.0)) {
            class.give_back(tool, answered);
        }
    }

    /// Takes a waiting call back. False if it does not wait (any more).
    pub fn cancel(&mut self, class: ClassId, ticket: Ticket) -> bool {
        let Some(class) = self.classes.get_mut(usize::from(class.0)) else { return false };
        let place = class.queue.iter().position(|waiting| waiting.ticket == ticket);
        place.and_then(|place| class.queue.remove(place)).is_some()
    }

    /// Lets time pass for those in quarantine, and limits whoever fills a class in which others wait: ask
    /// [`next`](Self::next) afterwards.
    pub fn relieve(&mut self, now: Instant) {
        let until = self.until(now);
        for class in &mut self.classes {
            class.set_free(now, until);
        }
        let Some(until) = until else { return };
        for at in 0..self.classes.len() {
            if let Some((filled, from)) = self.first_kept_out(at)
                && now >= from
            {
                self.classes[filled.class].limit_it(filled.tool, until);
            }
        }
    }

    /// Calls that have waited too long; they wait no more. [Relieves](Self::relieve) those that still wait:
    /// ask [`next`](Self::next) afterwards.
    pub fn expire(&mut self, now: Instant) -> Vec<Ticket> {
        self.relieve(now);
        let mut expired = Vec::new();
        for class in &mut self.classes {
            let timeout = class.params.queue_timeout;
            while let Some(first) = class.queue.front()
                && now.saturating_duration_since(first.since) >= timeout
            {
                expired.push(first.ticket);
                class.queue.pop_front();
            }
        }
        expired
    }

    /// When [`expire`](Self::expire) next has something to do, as things are now.
    #[must_use]
    pub fn next_expiry(&self) -> Option<Instant> {
        let too_long = self.classes.iter().filter_map(Class::next_expiry);
        let limits = if self.quarantine_for.is_zero() { 0 } else { self.classes.len() };
        let kept_out = (0..limits).filter_map(|at| Some(self.first_kept_out(at)?.1));
        too_long.chain(kept_out).min()
    }

    /// The next waiting call that may run, if there is room for one: of the highest priority, and of
    /// those the one that waits longest; every fourth time the one that waits longest of all.
    pub fn next(&mut self, now: Instant) -> Option<Granted> {
        if !self.room() {
            return None;
        }
        let fair = (self.grants + 1).is_multiple_of(FAIR);
        let (at, place) = self
            .classes
            .iter()
            .enumerate()
            .filter_map(|(at, class)| class.first_that_may_go().map(|place| (at, place)))
            .min_by_key(|(at, place)| {
                let class = &self.classes[*at];
                let rank = if fair { 0 } else { u8::MAX - class.params.priority };
                (rank, class.queue[*place].since)
            })?;
        let class = self.classes.get_mut(at)?;
        let waiting = class.queue.remove(place)?;
        class.take(waiting.tool, now);
        self.grants += 1;
        Some(Granted {
            ticket: waiting.ticket,
            class: ClassId(u16::try_from(at).unwrap_or(u16::MAX)),
            tool: waiting.tool,
            waited: now.saturating_duration_since(waiting.since),
        })
    }

    /// A class as it is. `None` if there is no such class.
    #[must_use]
    pub fn status(&self, class: ClassId) -> Option<ClassStatus> {
        let class = self.classes.get(usize::from(class.0))?;
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Some(ClassStatus {
            concurrency: class.most,
            running: class.running(),
            counted: class.counted,
            waiting: count(class.queue.len()),
            quarantined: class.quarantined,
        })
    }

    /// How many tools of a class are in quarantine.
    #[must_use]
    pub fn quarantined(&self, class: ClassId) -> u32 {
        self.classes.get(usize::from(class.0)).map_or(0, |class| class.quarantined)
    }

    /// Whether a tool is in quarantine.
    #[must_use]
    pub fn is_quarantined(&self, class: ClassId, tool: ToolKey) -> bool {
        self.classes
            .get(usize::from(class.0))
            .and_then(|class| class.tools.get(&tool))
            .is_some_and(|held| held.quarantined.is_some())
    }

    /// Until when a quarantine lasts that begins now; none where there is none.
    fn until(&self, now: Instant) -> Option<Instant> {
        (!self.quarantine_for.is_zero()).then(|| now + self.quarantine_for)
    }

    fn room(&self) -> bool {
        let counted: u64 = self.classes.iter().map(|class| u64::from(class.counted)).sum();
        counted < u64::from(self.total)
    }

    /// Whose calls keep those of a class out: where that is full the tool that fills it, and where all
    /// classes together are the one that fills the largest.
    fn who_keeps_out(&self, at: usize) -> Option<Filled> {
        let class = match self.classes.get(at)?.is_full() {
            true => at,
            false if self.room() => return None,
            false => (0..self.classes.len()).max_by_key(|at| self.classes[*at].counted)?,
        };
        let (tool, silent) = self.classes[class].who_fills_it()?;
        Some(Filled { class, tool, silent })
    }

    /// Who fills the class that keeps out the first who waits in this one only for another tool than its
    /// own; and from when on that one is limited for it.
    fn first_kept_out(&self, at: usize) -> Option<(Filled, Instant)> {
        let class = self.classes.get(at).filter(|it| !it.queue.is_empty())?;
        let filled = self.who_keeps_out(at)?;
        let kept_out = |it: &&Waiting| !filled.is(at, it.tool) && class.may_hold_more(it.tool);
        let first = class.queue.iter().find(kept_out)?;
        Some((filled, (first.since + PATIENCE).max(filled.silent + HANGS)))
    }

    /// A call of this tool cannot wait for whoever keeps it out of its class: that one is limited.
    fn limit_for(&mut self, at: usize, tool: ToolKey, now: Instant) {
        if let Some(until) = self.until(now)
            && let Some(filled) = self.who_keeps_out(at).filter(|it| !it.is(at, tool))
            && now.saturating_duration_since(filled.silent) >= HANGS
        {
            self.classes[filled.class].limit_it(filled.tool, until);
        }
    }

    /// Whether a call waits that could run and that a new one of this class must not overtake.
    fn someone_could_go(&self, newcomer: usize) -> bool {
        let priority = self.classes.get(newcomer).map(|it| it.params.priority);
        self.classes.iter().enumerate().any(|(at, class)| {
            let own = at == newcomer;
            let shared = self.total < u32::MAX && Some(class.params.priority) >= priority;
            (own || shared) && class.first_that_may_go().is_some()
        })
    }
}

// === impl Filled ===

impl Filled {
    /// Whether it is this tool of this class.
    fn is(&self, class: usize, tool: ToolKey) -> bool {
        (self.class, self.tool) == (class, tool)
    }
}

// === impl Class ===

impl Class {
    fn new(params: ClassParams, total: u32) -> Self {
        let params = ClassParams { concurrency: params.concurrency.max(1), ..params };
        let most = params.concurrency.min(total);
        let (tools, queue) = (BTreeMap::new(), VecDeque::new());
        let (counted, quarantined) = (0, 0);
        let (full_since, pace) = (None, None);
        Self { params, most, counted, tools, quarantined, queue, spared: false, full_since, pace }
    }

    fn reconfigure(&mut self, params: ClassParams, total: u32) {
        self.params = ClassParams { concurrency: params.concurrency.max(1), ..params };
        self.most = self.params.concurrency.min(total);
        let limit = self.limit();
        // What takes room is told by the limit, which is another one now.
        let counts = |held: &Held| match held.quarantined {
            Some(_) => held.calls.min(limit),
            None => held.calls,
        };
        self.counted = self.tools.values().map(counts).sum();
    }

    fn is_full(&self) -> bool {
        self.counted >= self.most
    }

    fn running(&self) -> u32 {
        self.tools.values().map(|held| held.calls).sum()
    }

    fn would_exceed(&self, calls: u32) -> bool {
        self.spared && self.running().saturating_add(calls) > self.limit()
    }

    /// Whether nobody more may wait.
    fn has_no_place(&self) -> bool {
        self.queue.len() >= self.params.queue as usize
    }

    /// A quarter: what a tool in quarantine may hold, and the class where it is held to that.
    fn limit(&self) -> u32 {
        (self.most / 4).max(1)
    }

    fn may_hold_more(&self, tool: ToolKey) -> bool {
        self.tools
            .get(&tool)
            .is_none_or(|held| held.quarantined.is_none() || held.calls < self.limit())
    }

    fn take(&mut self, tool: ToolKey, now: Instant) {
        // A tool in quarantine gets here only below its limit, so every call that enters counts.
        let fresh = Held { calls: 0, answered: now, quarantined: None };
        let held = self.tools.entry(tool).or_insert(fresh);
        if held.calls == 0 {
            held.answered = now;
        }
        held.calls += 1;
        self.counted += 1;
        if self.is_full() {
            self.full_since = Some(now);
        }
    }

    fn give_back(&mut self, tool: ToolKey, answered: Option<Instant>) {
        let limit = self.limit();
        let Some(held) = self.tools.get_mut(&tool) else { return };
        if held.calls == 0 {
            return;
        }
        if let Some(now) = answered {
            held.answered = held.answered.max(now);
            if let Some(since) = self.full_since {
                let took = now.saturating_duration_since(since);
                // An eighth of what is new, so that one call says little.
                self.pace = Some(self.pace.map_or(took, |pace| (pace * 7 + took) / 8));
            }
            if let Some(quarantine) = &mut held.quarantined {
                quarantine.answered = true;
            }
        }
        // Those beyond the limit leave first: they had given their room back already.
        if held.quarantined.is_none() || held.calls <= limit {
            self.counted -= 1;
        }
        held.calls -= 1;
        if !self.is_full() {
            self.full_since = None;
        }
    }

    /// Whether a call for this tool may wait: there is a place, and if the tool is in quarantine
    /// it has not its quarter of them yet.
    fn may_wait(&self, tool: ToolKey) -> bool {
        let quarter = (self.params.queue as usize).div_ceil(4);
        let of_it = || self.queue.iter().filter(|waiting| waiting.tool == tool).count();
        !self.has_no_place() && (self.may_hold_more(tool) || of_it() < quarter)
    }

    /// Who holds more than half of the class, and more than it would be limited to; and since when it has
    /// answered nothing.
    fn who_fills_it(&self) -> Option<(ToolKey, Instant)> {
        let most = self.limit().max(self.most / 2);
        let fills = |held: &Held| held.quarantined.is_none() && held.calls > most;
        self.tools.iter().find(|(_, held)| fills(held)).map(|(tool, held)| (*tool, held.answered))
    }

    /// Limits a tool that hangs.
    fn limit_it(&mut self, tool: ToolKey, until: Instant) {
        let limit = self.limit();
        if let Some(held) = self.tools.get_mut(&tool) {
            held.quarantined = Some(Quarantine { until, answered: false });
            self.quarantined += 1;
            self.counted -= held.calls.saturating_sub(limit);
        }
    }

    /// So long it takes at present to get through the queue: as long as the first of it has waited. Where
    /// nobody waits, until there is room: as long as a full class takes for that, or has by now if that is
    /// longer.
    fn retry_after(&self, now: Instant) -> Duration {
        const LEAST: Duration = Duration::from_millis(100);
        const MOST: Duration = Duration::from_secs(30);
        if let Some(first) = self.queue.front() {
            let most = self.params.queue_timeout.max(LEAST);
            return now.saturating_duration_since(first.since).clamp(LEAST, most);
        }
        let full = self.full_since.map(|since| now.saturating_duration_since(since));
        full.max(self.pace).unwrap_or_default().clamp(LEAST, MOST)
    }

    fn next_expiry(&self) -> Option<Instant> {
        self.queue.front().map(|first| first.since + self.params.queue_timeout)
    }

    /// Ends the quarantine of those whose time is over, who keep to their limit, and of whose calls one was
    /// answered meanwhile or none is left. `until`: when one ends that begins now; none where there is none
    /// any more.
    fn set_free(&mut self, now: Instant, until: Option<Instant>) {
        if self.quarantined == 0 {
            return;
        }
        let limit = self.limit();
        for held in self.tools.values_mut() {
            let Some(quarantine) = &mut held.quarantined else { continue };
            let over = quarantine.until <= now || until.is_none();
            if !over || held.calls > limit {
                continue;
            }
            match until.filter(|_| held.calls > 0 && !quarantine.answered) {
                // Its probes say nothing.
                Some(until) => quarantine.until = until,
                None => {
                    held.quarantined = None;
                    self.quarantined -= 1;
                }
            }
        }
    }

    /// The place of the first waiting call that may run now.
    fn first_that_may_go(&self) -> Option<usize> {
        if self.is_full() || self.queue.is_empty() || self.would_exceed(1) {
            return None;
        }
        self.queue.iter().position(|waiting| self.may_hold_more(waiting.tool))
    }
}
