//! `notify`: who is told when something happens.

use std::time::Duration;

use secrecy::SecretString;

use crate::HttpUrl;

/// One address that is told. It gets a POST with the event as JSON.
#[derive(Clone, Debug)]
pub struct Webhook {
    /// Where it goes.
    pub url: HttpUrl,
    /// Signs each message: HMAC-SHA-256 of the body, in a header. At least 16 characters. `None`:
    /// unsigned.
    pub secret: Option<SecretString>,
    /// What it is told of. Empty: everything.
    pub events: Vec<NotifyEvent>,
    /// How often a message that was not taken is sent again, with growing pauses. 0 to 20.
    pub retries: u32,
    /// How long one attempt may take. 100ms to 1m.
    pub timeout: Duration,
}

/// A kind of event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NotifyEvent {
    /// A server moves to a secondary, or could not.
    Failover,
    /// A server moves back.
    Failback,
    /// The group's verdict on a server or instance changed.
    Health,
    /// A breaker opened or closed for the whole cluster.
    Breaker,
    /// An incident began or ended.
    Incident,
    /// A recovery objective was missed.
    Objective,
    /// A node joined, left or died.
    Node,
    /// The session store went away, came back or changed its primary.
    Store,
    /// A configuration was applied, refused or rolled back.
    Config,
}

// === impl Webhook ===

impl Webhook {
    /// One that is told everything, with three repeats.
    pub fn new(url: HttpUrl) -> Self {
        let timeout = Duration::from_secs(5);
        Self { url, secret: None, events: Vec::new(), retries: 3, timeout }
    }

    /// Whether it is told of `event`.
    pub fn wants(&self, event: NotifyEvent) -> bool {
        self.events.is_empty() || self.events.contains(&event)
    }
}

// === impl NotifyEvent ===

impl NotifyEvent {
    /// Every kind.
    pub const ALL: [Self; 9] = [
        Self::Failover,
        Self::Failback,
        Self::Health,
        Self::Breaker,
        Self::Incident,
        Self::Objective,
        Self::Node,
        Self::Store,
        Self::Config,
    ];

    /// The word for it in the configuration and in messages.
    pub fn label(self) -> &'static str {
        match self {
            Self::Failover => "failover",
            Self::Failback => "failback",
            Self::Health => "health",
            Self::Breaker => "breaker",
            Self::Incident => "incident",
            Self::Objective => "objective",
            Self::Node => "node",
            Self::Store => "store",
            Self::Config => "config",
        }
    }
}
