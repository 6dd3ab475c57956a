//! `bulkheads`: classes of calls that cannot drown one another.

use std::time::Duration;

use crate::section::Section;

/// How important a call is: that of its tool's rule, else its server's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum BulkheadClass {
    /// What must go on.
    Critical,
    /// What people wait for.
    #[default]
    User,
    /// What can wait.
    Background,
    /// What is let through when nothing else is: a way in for the operator.
    Emergency,
}

/// What each class may use of one server on one node, so that neither a class nor a server drowns
/// another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bulkheads {
    /// For [`BulkheadClass::Critical`].
    pub critical: Bulkhead,
    /// For [`BulkheadClass::User`].
    pub user: Bulkhead,
    /// For [`BulkheadClass::Background`].
    pub background: Bulkhead,
    /// For [`BulkheadClass::Emergency`].
    pub emergency: Bulkhead,
    /// Calls at once of all classes together; where they compete, the higher priority goes first. 1
    /// to 1,000,000. `None`: each class has its own limit alone.
    pub total: Option<u32>,
    /// For how long a tool that answers nothing and fills a class that others wait for is limited to a
    /// quarter of it; what it holds beyond that takes no room, so the server may get more calls than
    /// `concurrency`. 0s (not at all) to 1h.
    pub quarantine: Duration,
}

/// What one class may use of one server on one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bulkhead {
    /// Calls at once. 1 to 1,000,000.
    pub concurrency: u32,
    /// Calls that wait for a place. 0 to 1,000,000; one more is refused at once.
    pub queue: u32,
    /// How long one may wait. 0s to 10m. Then it is refused, and did not run.
    pub queue_timeout: Duration,
    /// Who goes first where several classes wait: the higher. 0 to 255.
    pub priority: u8,
}

impl Default for Bulkheads {
    fn default() -> Self {
        let of = |concurrency, queue, seconds, priority| Bulkhead {
            concurrency,
            queue,
            queue_timeout: Duration::from_secs(seconds),
            priority,
        };
        Self {
            critical: of(50, 500, 10, 200),
            user: of(100, 1000, 30, 100),
            background: of(20, 200, 30, 50),
            emergency: of(10, 100, 5, 255),
            total: None,
            quarantine: Duration::from_secs(30),
        }
    }
}

// === impl BulkheadClass ===

impl BulkheadClass {
    /// Every class, the most important first.
    pub const ALL: [Self; 4] = [Self::Emergency, Self::Critical, Self::User, Self::Background];

    /// The word for it in the configuration, status and metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Critical => "critical",
            Self::User => "user",
            Self::Background => "background",
            Self::Emergency => "emergency",
        }
    }
}

// === impl Bulkheads ===

impl Bulkheads {
    pub(crate) fn read(mut section: Section<'_>) -> Self {
        let mut bulkheads = Self::default();
        for class in BulkheadClass::ALL {
            let into = bulkheads.of_mut(class);
            *into = Bulkhead::read(section.section(class.label()), *into);
        }
        let mut total = 0;
        section.number("total", 1..=1_000_000, &mut total);
        bulkheads.total = (total > 0).then_some(total);
        let most = Duration::from_secs(3600);
        section.duration("quarantine", Duration::ZERO..=most, &mut bulkheads.quarantine);
        section.finish();
        bulkheads
    }

    fn of_mut(&mut self, class: BulkheadClass) -> &mut Bulkhead {
        match class {
            BulkheadClass::Critical => &mut self.critical,
            BulkheadClass::User => &mut self.user,
            BulkheadClass::Background => &mut self.background,
            BulkheadClass::Emergency => &mut self.emergency,
        }
    }

    /// What `class` may use.
    pub fn of(&self, class: BulkheadClass) -> &Bulkhead {
        match class {
            BulkheadClass::Critical => &self.critical,
            BulkheadClass::User => &self.user,
            BulkheadClass::Background => &self.background,
            BulkheadClass::Emergency => &self.emergency,
        }
    }
}

// === impl Bulkhead ===

impl Bulkhead {
    fn read(mut section: Section<'_>, mut bulkhead: Self) -> Self {
        section.number("concurrency", 1..=1_000_000, &mut bulkhead.concurrency);
        section.number("queue", 0..=1_000_000, &mut bulkhead.queue);
        let most = Duration::from_secs(600);
        section.duration("queue_timeout", Duration::ZERO..=most, &mut bulkhead.queue_timeout);
        let mut priority = u32::from(bulkhead.priority);
        section.number("priority", 0..=255, &mut priority);
        bulkhead.priority = u8::try_from(priority).unwrap_or(u8::MAX);
        section.finish();
        bulkhead
    }
}
