//! `notify`: who is told when something happens.

use std::time::Duration;

use secrecy::SecretString;

use crate::HttpUrl;
use crate::context::Guard;
use crate::field::Field;
use crate::section::Section;
use crate::server::read_http_url;

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
    /// A node joined, left or died, or does not do well.
    Node,
    /// The group has adopted another Redis server as the session store.
    Store,
    /// A configuration was applied, refused or rolled back.
    Config,
}

/// Webhooks of one node.
const MOST: usize = 20;
/// A shorter secret could be guessed from a message and its signature.
const LEAST_SECRET: usize = 16;

// === impl Webhook ===

impl Webhook {
    /// The list of them.
    pub(crate) fn read_all(field: Option<&Field<'_>>) -> Vec<Self> {
        let items = field.and_then(|field| field.items()).unwrap_or_default();
        if let (Some(field), true) = (field, items.len() > MOST) {
            let cure = "send to one address that passes it on";
            field.problem(format!("a list of {}", items.len()), "at most 20 webhooks", cure);
            return Vec::new();
        }
        items.iter().filter_map(Self::read).collect()
    }

    fn read(item: &Field<'_>) -> Option<Self> {
        let mut section = item.section()?;
        let url = section.field("url").and_then(|field| {
            let url = read_http_url(&field);
            // The path is as good as a secret: it lets anyone post there.
            field.guard(Guard::Path);
            url
        });
        if section.given(&["url"]).is_empty() {
            let cure = "write - { url: \"https://HOST/PATH\" }";
            item.problem("a webhook without url".into(), "url", cure);
        }
        let secret = section.secret("secret", LEAST_SECRET);
        let events = read_events(&mut section);
        let mut webhook = url.map(Self::new);
        let (mut retries, mut timeout) = (3, Duration::from_secs(5));
        section.number("retries", 0..=20, &mut retries);
        let (ms, s) = (Duration::from_millis(1), Duration::from_secs(1));
        section.duration("timeout", ms * 100..=s * 60, &mut timeout);
        section.finish();
        if let Some(webhook) = &mut webhook {
            *webhook = Self { secret, events, retries, timeout, ..webhook.clone() };
        }
        webhook
    }

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

fn read_events(section: &mut Section<'_>) -> Vec<NotifyEvent> {
    let words = NotifyEvent::ALL.map(|event| (event.label(), event));
    let field = section.field("events");
    let items = field.as_ref().and_then(|field| field.items());
    if let (Some(field), Some([])) = (&field, items.as_deref()) {
        let allowed = "one kind of event at least; all of them where the key is absent";
        field.problem("an empty list".into(), allowed, "remove it, or write [failover, failback]");
    }
    let items = items.unwrap_or_default();
    let mut events: Vec<_> = items.iter().filter_map(|item| item.choice(&words)).collect();
    events.sort_unstable();
    events.dedup();
    events
}
