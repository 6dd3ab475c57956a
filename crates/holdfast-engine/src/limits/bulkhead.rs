//! Bulkheads: classes of calls that cannot take one another's room, and tools that cannot take their
//! class's.
//!
//! Every call of a server belongs to a class. A class runs so many calls at once and lets some more wait for a
//! time. Beside that there may be a limit for all classes together; then a class of higher priority
//! goes first, and every fourth call that is let in is the one that waits longest of all, so that
//! nobody starves.
//!
//! *Quarantine*: a tool that hangs fills its class with calls that do not end. When a call of
//! another tool has waited 100 ms in a full class, or cannot even wait, and one tool holds more
//! than half of the class and has answered none of its calls for [`HANGS`], that one is limited to a
//! quarter, and what it holds beyond that no longer takes room: the others go on at once. Its calls wait
//! until it holds less than that, and no more than a quarter of the queue is theirs. Those that run are
//! its probes: it is set free when its time is over, it keeps to its limit, and one of them was answered,
//! or none is left; else its time begins anew.
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
    /// Calls that run at once: at least 1.
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
    /// Calls that take room.
    counted: u32,
    /// Those that ever held something: as many as there are tools.
    tools: BTreeMap<ToolKey, Held>,
    /// How many of them are in quarantine.
    quarantined: u32,
    /// In the order of their arrival.
    queue: VecDeque<Waiting>,
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
        let classes = classes.into_iter().map(Class::new).collect();
        let total = total.unwrap_or(u32::MAX).max(1);
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
            class.reconfigure(params);
        }
    }

    /// A call for `tool` wants in. If it is queued, that may have made room for others: ask
    /// [`next`](Self::next). A class that is not known has no limits.
    pub fn enter(&mut self, class: ClassId, tool: ToolKey, now: Instant) -> Entry {
        let until = self.until(now);
        let at = usize::from(class.0);
        let Some(class) = self.classes.get_mut(at) else {
            return Entry::Entered;
        };
        class.set_free(now, until);
        class.relieve(now, until);
        if class.queue.is_empty() && class.params.queue == 0 {
            // It cannot wait, so it does not.
            class.limit_who_fills_it(tool, now, until);
        }
        let may_hold_more = class.may_hold_more(tool);
        let overtakes = self.someone_could_go(at);
        let room = self.room();
        let Some(class) = self.classes.get_mut(at) else {
            return Entry::Entered;
        };
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

    /// Calls that have waited too long; they wait no more. Also limits whoever fills a class in which
    /// others wait: ask [`next`](Self::next) afterwards.
    pub fn expire(&mut self, now: Instant) -> Vec<Ticket> {
        let mut expired = Vec::new();
        let until = self.until(now);
        for class in &mut self.classes {
            class.set_free(now, until);
            class.relieve(now, until);
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
        self.classes.iter().filter_map(Class::next_expiry).min()
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
            concurrency: class.params.concurrency,
            running: class.tools.values().map(|held| held.calls).sum(),
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

// === impl Class ===

impl Class {
    fn new(params: ClassParams) -> Self {
        let params = ClassParams { concurrency: params.concurrency.max(1), ..params };
        Self { params, counted: 0, tools: BTreeMap::new(), quarantined: 0, queue: VecDeque::new() }
    }

    fn reconfigure(&mut self, params: ClassParams) {
        self.params = ClassParams { concurrency: params.concurrency.max(1), ..params };
        let limit = self.limit();
        // What takes room is told by the limit, which is another one now.
        let counts = |held: &Held| match held.quarantined {
            Some(_) => held.calls.min(limit),
            None => held.calls,
        };
        self.counted = self.tools.values().map(counts).sum();
    }

    fn is_full(&self) -> bool {
        self.counted >= self.params.concurrency
    }

    /// What a tool in quarantine may hold.
    fn limit(&self) -> u32 {
        (self.params.concurrency / 4).max(1)
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
    }

    fn give_back(&mut self, tool: ToolKey, answered: Option<Instant>) {
        let limit = self.limit();
        let Some(held) = self.tools.get_mut(&tool) else { return };
        if held.calls == 0 {
            return;
        }
        if let Some(now) = answered {
            held.answered = held.answered.max(now);
            if let Some(quarantine) = &mut held.quarantined {
                quarantine.answered = true;
            }
        }
        // Those beyond the limit leave first: they had given their room back already.
        if held.quarantined.is_none() || held.calls <= limit {
            self.counted -= 1;
        }
        held.calls -= 1;
    }

    /// Whether a call for this tool may wait: there is a place, and if the tool is in quarantine
    /// it has not its quarter of them yet.
    fn may_wait(&self, tool: ToolKey) -> bool {
        let (places, waiting) = (self.params.queue as usize, self.queue.len());
        let of_it = || self.queue.iter().filter(|waiting| waiting.tool == tool).count();
        waiting < places && (self.may_hold_more(tool) || of_it() < places.div_ceil(4))
    }

    /// Who holds more than half of the full class, and more than it would be limited to; and since when
    /// it has answered nothing.
    fn who_fills_it(&self) -> Option<(ToolKey, Instant)> {
        if !self.is_full() {
            return None;
        }
        let most = self.limit().max(self.params.concurrency / 2);
        let fills = |held: &Held| held.quarantined.is_none() && held.calls > most;
        self.tools.iter().find(|(_, held)| fills(held)).map(|(tool, held)| (*tool, held.answered))
    }

    /// A call for `other` cannot wait for whoever fills the class: that one is limited.
    fn limit_who_fills_it(&mut self, other: ToolKey, now: Instant, until: Option<Instant>) {
        let limit = self.limit();
        if let Some(until) = until
            && let Some((tool, silent)) = self.who_fills_it().filter(|(tool, _)| *tool != other)
            && now.saturating_duration_since(silent) >= HANGS
            && let Some(held) = self.tools.get_mut(&tool)
        {
            held.quarantined = Some(Quarantine { until, answered: false });
            self.quarantined += 1;
            self.counted -= held.calls.saturating_sub(limit);
        }
    }

    /// The first who waits only because another tool than its own fills the class, and from when on that
    /// one is limited for it.
    fn first_kept_out(&self) -> Option<(Waiting, Instant)> {
        let (fills_it, silent) = self.who_fills_it()?;
        let kept_out = |it: &&Waiting| it.tool != fills_it && self.may_hold_more(it.tool);
        let first = self.queue.iter().find(kept_out).copied()?;
        Some((first, (first.since + PATIENCE).max(silent + HANGS)))
    }

    /// Limits whoever fills the class if another tool's call has waited for long enough.
    fn relieve(&mut self, now: Instant, until: Option<Instant>) {
        if let Some((waiting, from)) = self.first_kept_out()
            && now >= from
        {
            self.limit_who_fills_it(waiting.tool, now, until);
        }
    }

    /// So long it takes at present to get through the queue: as long as the first of it has waited. Where
    /// nobody may wait, as long as somebody would.
    fn retry_after(&self, now: Instant) -> Duration {
        const LEAST: Duration = Duration::from_millis(100);
        let most = self.params.queue_timeout.max(LEAST);
        let first = self.queue.front().map(|first| now.saturating_duration_since(first.since));
        first.map_or(most, |waits| waits.clamp(LEAST, most))
    }

    fn next_expiry(&self) -> Option<Instant> {
        let too_long = self.queue.front().map(|first| first.since + self.params.queue_timeout)?;
        let kept_out = self.first_kept_out().map(|(_, from)| from);
        Some(kept_out.map_or(too_long, |kept_out| kept_out.min(too_long)))
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
        if self.is_full() {
            return None;
        }
        self.queue.iter().position(|waiting| self.may_hold_more(waiting.tool))
    }
}
