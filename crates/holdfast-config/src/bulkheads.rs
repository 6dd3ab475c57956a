//! `bulkheads`: classes of calls that cannot drown one another.

use std::time::Duration;

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

/// What each class may use of one server on one node.
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
            user: of(100, 1000, 10, 100),
            background: of(20, 200, 30, 50),
            emergency: of(10, 100, 5, 255),
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
