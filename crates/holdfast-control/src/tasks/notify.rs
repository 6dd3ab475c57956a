//! Tells one webhook of the operators' what happened, in the order in which it happened. There is a task
//! for each, so that one that does not answer holds up no other.
//!
//! The coordinator announces what the group's history holds beyond what it has announced, and marks in the
//! group how far all webhooks have come. One that takes over goes on from the mark, so that nothing is
//! left out; an announcement carries the name of its line in the history, so that a receiver can tell a
//! repetition. A receiver that does not take one is tried again, with growing pauses, as often as is
//! configured.
//!
//! What an outage cost is a line that grows for minutes. It is told when it has rested for some seconds, each time
//! under another name, and not in its turn.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use holdfast_config::{NotifyEvent, Webhook};
use holdfast_engine::backoff::Backoff;
use holdfast_engine::objectives::Outage;
use holdfast_engine::replicated::{
    ClusterState, Happened, Incident, STORE, ServerCommand, ServerEvent, ServerHappened,
};
use serde::Serialize;
use tokio::time::Instant;

use super::node::is_about_node;
use super::objectives::{LATELY, is_about_objective, outages};
use crate::driver::{Reconciler, Status};
use crate::metrics::Announced;
use crate::plan::Plan;
use crate::random;
use crate::shared::{Announcing, Line, Shared, lock};
use crate::view::{kind, text};
use crate::webhook::Post;

/// The watch nudges; this is for a nudge that was lost.
const EVERY: Duration = Duration::from_secs(5);
/// How far back a coordinator begins in a group in which nobody has ever announced anything, in
/// milliseconds.
const BEFORE: u64 = 10_000;
/// What an outage cost is told when it has not grown for so long.
const RESTS: Duration = Duration::from_secs(5);
/// Between two tries.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

pub(crate) struct Notify {
    shared: Arc<Shared>,
    webhook: Webhook,
    announcing: Arc<Announcing>,
    /// Its place among the webhooks.
    place: usize,
    tls: Arc<rustls::ClientConfig>,
}

/// A line of the group's history, as it is announced.
struct News<'a> {
    line: Line,
    /// What it is to the configuration.
    about: NotifyEvent,
    /// It begins or ends an outage besides.
    incident: Option<&'static str>,
    kind: &'static str,
    /// It is not told in its turn.
    grows: bool,
    of: Told<'a>,
}

/// What a line is told from. Its text is made for who wants it.
enum Told<'a> {
    Server(&'a ServerEvent),
    /// And what became of the node.
    Node(&'a Incident, &'static str),
}

/// What a webhook gets.
#[derive(Serialize)]
struct Message<'a> {
    /// The same for each repetition.
    id: &'a str,
    /// `failover`, `health`, ... as in the configuration.
    event: &'static str,
    /// What happened, in one word.
    kind: &'static str,
    /// When, in milliseconds since the Unix epoch.
    at: u64,
    server: &'a str,
    instance: &'a str,
    /// For people.
    text: &'a str,
    /// The node that tells.
    node: &'a str,
}

// === impl Notify ===

impl Notify {
    pub(crate) fn new(shared: Arc<Shared>, place: usize, tls: Arc<rustls::ClientConfig>) -> Self {
        let (webhook, announcing) = shared.webhooks[place].clone();
        Self { shared, webhook, announcing, place, tls }
    }

    /// The lines that were not announced yet, oldest first.
    fn news<'a>(&self, state: &'a ClusterState, term: u64) -> Vec<News<'a>> {
        if state.newest() <= lock(&self.announcing.since).1.map(|(index, _)| index) {
            return Vec::new();
        }
        let mark = state.servers.notified;
        let from = state.time.saturating_sub(BEFORE);
        let (since, announced) = *lock(&self.announcing.since);
        let taken_over = since != Some(term);
        let mut places: BTreeMap<u64, u64> = BTreeMap::new();
        let lines = of_servers(&self.shared.plan, state).into_iter().chain(of_nodes(state));
        let mut news: Vec<News<'_>> = lines.collect();
        // Stable: lines of one index stay in their order.
        news.sort_by_key(|it| it.line.0);
        for it in &mut news {
            let place = places.entry(it.line.0).or_default();
            *place += 1;
            it.line.1 = *place;
        }
        news.retain(|it| match announced {
            Some(announced) => it.line > announced,
            None if mark > 0 => taken_over && it.line.0 > mark,
            None => taken_over && it.of.at() >= from,
        });
        news
    }

    /// What outages cost that has grown and rests now, with the name under which it is told.
    fn costs<'a>(&self, state: &'a ClusterState) -> Vec<(String, News<'a>)> {
        let known = &mut *lock(&self.announcing.costs);
        let (mut due, mut present) = (Vec::new(), BTreeMap::new());
        for event in &state.servers.events {
            let ServerHappened::Lost { outage, unknown, moved, .. } = event.what else { continue };
            let (cost, now) = ((unknown, moved), Instant::now());
            // Who takes over tells once more what was found lately: it does not know what was told. The name is
            // the same.
            let is_old = state.time.saturating_sub(event.at) > LATELY;
            let new = || (Some(cost).filter(|_| is_old).unwrap_or_default(), cost, now);
            let (told, seen, since) = known.remove(&outage).unwrap_or_else(new);
            let since = if seen == cost { since } else { now };
            let is_due = told != cost && since.elapsed() >= RESTS;
            if is_due {
                let id = format!("{}.lost.{unknown}.{moved}", event.index);
                due.push((id, News::of(event, false, None)));
            }
            present.insert(outage, (if is_due { cost } else { told }, cost, since));
        }
        *known = present;
        due
    }

    async fn announce(&self, id: &str, news: &News<'_>, node: &str) {
        let wanted = self.webhook.wants(news.about);
        let incident = news.incident.filter(|_| self.webhook.wants(NotifyEvent::Incident));
        if !wanted && incident.is_none() {
            return;
        }
        let mut message = Message {
            id,
            event: news.about.label(),
            kind: news.kind,
            at: news.of.at(),
            server: news.of.server(),
            instance: news.of.instance(),
            text: &news.of.text(),
            node,
        };
        if wanted {
            self.post(&message).await;
        }
        if let Some(kind) = incident {
            let id = format!("{id}.incident");
            (message.id, message.event, message.kind) = (&id, NotifyEvent::Incident.label(), kind);
            self.post(&message).await;
        }
    }

    async fn post(&self, message: &Message<'_>) {
        // Strings and numbers: there is a JSON form.
        let Ok(body) = serde_json::to_vec(message) else { return };
        self.deliver(message, body.into()).await;
    }

    /// Has the group know how far all webhooks have come. Whether it does is seen at the next turn.
    async fn mark(&self, term: u64) {
        let up_to = self.shared.all_told();
        if up_to > self.shared.state().servers.notified {
            let _ = self.shared.propose(ServerCommand::Notified { up_to, term }).await;
        }
    }

    /// Sends it until it is taken, or was tried as often as is configured: then one line says so.
    async fn deliver(&self, message: &Message<'_>, body: Bytes) {
        let (webhook, id) = (&self.webhook, message.id);
        let mut failed = None;
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        for attempt in 0..=webhook.retries {
            let post = Post {
                url: &webhook.url,
                secret: webhook.secret.as_ref(),
                id,
                timestamp: self.shared.group.time() / 1_000,
                body: body.clone(),
                within: webhook.timeout,
            };
            match post.send(&self.tls).await {
                Ok(()) => return self.shared.metrics.announced(Announced::Taken),
                Err(error) => failed = Some(error),
            }
            if attempt < webhook.retries {
                tokio::time::sleep(backoff.next(random())).await;
            }
        }
        if let Some(error) = failed {
            // The path may hold a credential.
            let (host, tries) = (webhook.url.authority(), webhook.retries + 1);
            let (event, kind) = (message.event, message.kind);
            tracing::warn!(host, event, kind, id, tries, %error, "a webhook did not take an event");
        }
        self.shared.metrics.announced(Announced::GivenUp);
    }
}

impl Reconciler for Notify {
    const NAME: &'static str = "notify";

    async fn activate(&mut self) -> Status {
        let Some(term) = self.shared.coordinates() else {
            *lock(&self.announcing.since) = (None, None);
            lock(&self.announcing.costs).clear();
            return Status::Settled(EVERY);
        };
        let state = self.shared.state();
        let news = self.news(&state, term);
        lock(&self.announcing.since).0 = Some(term);
        let me = state.members.get(&self.shared.group.me());
        let node = me.map(|member| member.name.clone()).unwrap_or_default();
        let mut news = news.into_iter().peekable();
        while let Some(it) = news.next() {
            // In the middle of it another may have taken over, which announces the rest.
            if self.shared.coordinates() != Some(term) {
                return Status::Settled(EVERY);
            }
            if !it.grows {
                self.announce(&format!("{}.{}", it.line.0, it.line.1), &it, &node).await;
            }
            lock(&self.announcing.since).1 = Some(it.line);
            // Of several lines with one index the last says that all of them were told.
            let more = news.peek().is_some_and(|next| next.line.0 == it.line.0);
            self.shared.now_told(self.place, it.line.0 - u64::from(more));
            self.mark(term).await;
        }
        // What was there before, or is of no interest to anybody, counts as told.
        if let Some(last) = state.newest() {
            lock(&self.announcing.since).1.get_or_insert((last, u64::MAX));
            self.shared.now_told(self.place, last);
        }
        self.mark(term).await;
        for (id, event) in self.costs(&state) {
            if self.shared.coordinates() != Some(term) {
                return Status::Settled(EVERY);
            }
            self.announce(&id, &event, &node).await;
        }
        Status::Settled(EVERY)
    }
}

// === impl News ===

impl<'a> News<'a> {
    /// A line about a server. `is_back`: its move is one back; `incident`: what it does to an outage.
    fn of(event: &'a ServerEvent, is_back: bool, incident: Option<&'static str>) -> Self {
        let about = about(event, is_back);
        // One message, where the line is about nothing else.
        let is_told = about == NotifyEvent::Incident;
        Self {
            line: (event.index, 0),
            about,
            incident: incident.filter(|_| !is_told),
            kind: incident.filter(|_| is_told).unwrap_or_else(|| kind(event.what)),
            grows: matches!(event.what, ServerHappened::Lost { .. }),
            of: Told::Server(event),
        }
    }
}

// === impl Told ===

impl Told<'_> {
    /// When it was, in milliseconds since the Unix epoch.
    fn at(&self) -> u64 {
        match self {
            Self::Server(event) => event.at,
            Self::Node(incident, _) => incident.at,
        }
    }

    fn server(&self) -> &str {
        match self {
            Self::Server(event) => &event.server,
            Self::Node(..) => "",
        }
    }

    fn instance(&self) -> &str {
        match self {
            Self::Server(event) => &event.instance,
            Self::Node(..) => "",
        }
    }

    /// All of it, for people.
    fn text(&self) -> String {
        match self {
            Self::Server(event) => text(event),
            Self::Node(Incident { name, reason, .. }, what) if reason.is_empty() => {
                format!("node {name} {what}")
            }
            Self::Node(it, what) => format!("node {} {what}: {}", it.name, it.reason),
        }
    }
}

/// What the record says of the servers.
fn of_servers<'a>(plan: &Plan, state: &'a ClusterState) -> Vec<News<'a>> {
    let outages = outages(plan, state);
    let any = |is: &dyn Fn(&Outage) -> bool| outages.iter().any(|(it, _)| is(it));
    let incident = |index: u64| {
        let begins = any(&|it| it.began_by == index).then_some("incident_began");
        begins.or_else(|| any(&|it| it.over == Some(index)).then_some("incident_ended"))
    };
    // Whose last move was back.
    let mut back: BTreeSet<&str> = BTreeSet::new();
    let news = state.servers.events.iter().map(|event| {
        match event.what {
            ServerHappened::FailbackBegan => back.insert(&event.server),
            ServerHappened::FailoverBegan => back.remove(event.server.as_str()),
            _ => false,
        };
        News::of(event, back.contains(event.server.as_str()), incident(event.index))
    });
    news.collect()
}

/// Which nodes came and went.
fn of_nodes(state: &ClusterState) -> impl Iterator<Item = News<'_>> {
    state.incidents.iter().filter_map(|it| {
        let (kind, what) = match it.what {
            Happened::Joined => ("node_joined", "joined"),
            Happened::Rejoined => ("node_joined", "joined again"),
            Happened::Left => ("node_left", "left"),
            Happened::Died => ("node_died", "died"),
            Happened::Replaced | Happened::Suspected | Happened::Recovered | Happened::Draining => {
                return None;
            }
        };
        Some(News {
            line: (it.index, 0),
            about: NotifyEvent::Node,
            incident: None,
            kind,
            grows: false,
            of: Told::Node(it, what),
        })
    })
}

/// What an event is to the configuration; `is_back`: the server's move is one back.
fn about(event: &ServerEvent, is_back: bool) -> NotifyEvent {
    match event.what {
        ServerHappened::Verdict { .. } | ServerHappened::CallsFail { .. } => NotifyEvent::Health,
        ServerHappened::FailbackBegan => NotifyEvent::Failback,
        ServerHappened::Progressed
        | ServerHappened::Switched
        | ServerHappened::RolledBack
        | ServerHappened::Failed
        | ServerHappened::Settled
            if is_back =>
        {
            NotifyEvent::Failback
        }
        ServerHappened::FailoverBegan
        | ServerHappened::Progressed
        | ServerHappened::Switched
        | ServerHappened::RolledBack
        | ServerHappened::Failed
        | ServerHappened::Settled => NotifyEvent::Failover,
        ServerHappened::Answered { .. } | ServerHappened::Lost { .. } => NotifyEvent::Incident,
        ServerHappened::BreakerOpened
        | ServerHappened::BreakerForcedOpen
        | ServerHappened::BreakerForcedClosed
        | ServerHappened::BreakerReleased => NotifyEvent::Breaker,
        ServerHappened::Noted if is_about_objective(&event.evidence) => NotifyEvent::Objective,
        ServerHappened::Noted if event.is_alarm() => NotifyEvent::Health,
        ServerHappened::Noted if event.evidence.starts_with(STORE) => NotifyEvent::Store,
        ServerHappened::Noted if is_about_node(&event.evidence) => NotifyEvent::Node,
        ServerHappened::Defined
        | ServerHappened::Retired
        | ServerHappened::Configured
        | ServerHappened::Noted => NotifyEvent::Config,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_told_as_what_it_is_about() {
        let line = |what, evidence: &str| ServerEvent {
            index: 1,
            at: 1,
            server: String::new(),
            instance: String::new(),
            generation: 0,
            what,
            evidence: evidence.to_owned(),
        };
        let noted = |evidence| about(&line(ServerHappened::Noted, evidence), false);
        assert_eq!(noted("session store: redis:6379 is the primary"), NotifyEvent::Store);
        assert_eq!(noted("emergency: a has 12 of 100"), NotifyEvent::Health);
        assert_eq!(noted("anything else"), NotifyEvent::Config);
        let settled = line(ServerHappened::Settled, "");
        assert_eq!(about(&settled, true), NotifyEvent::Failback);
        assert_eq!(about(&settled, false), NotifyEvent::Failover);
    }
}
