//! What an operator sees of the servers and may order. The admin port knows the control plane as this.

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};

/// The servers, as something that can be looked at and given orders.
pub trait Operated: Send + Sync + 'static {
    /// Every server in the order of the configuration. From this node's memory: cheap.
    fn servers(&self) -> Vec<ServerView>;

    /// What was decided and done, the newest last, at most `limit`.
    fn events(&self, limit: usize) -> Vec<EventView>;

    /// The incidents that are remembered, the newest last.
    fn incidents(&self) -> Vec<IncidentView>;

    /// Proposes what an operator orders, and waits until the group has agreed on it. What follows is
    /// seen in [`Self::servers`].
    ///
    /// # Cancel safety
    /// Dropped, the order may be carried out all the same.
    fn order(&self, order: Order) -> BoxFuture<'_, Result<(), OrderError>>;

    /// Appends the control plane's metrics.
    fn render(&self, out: &mut String);
}

/// One server as the group and this node see it.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct ServerView {
    /// Its name in the configuration.
    pub name: String,
    /// What the group found about its active instance: `healthy`, `degraded`, `unhealthy` or `unknown`.
    pub verdict: &'static str,
    /// Which instance serves, where it can move; none where it cannot.
    pub active: Option<String>,
    /// Where its failover stands: `primary_active`, `failing_over`, `secondary_active`, `failing_back`
    /// or `failover_failed`; none where it cannot move.
    pub phase: Option<&'static str>,
    /// How far a move is: `pause`, `drain`, `check`, `ramp`, `switch` or `notify`.
    pub stage: Option<&'static str>,
    /// Where a move goes.
    pub target: Option<String>,
    /// Since when it stands there, in milliseconds since the Unix epoch.
    pub since: Option<u64>,
    /// Rises with each move.
    pub generation: u64,
    /// Why it moves, or cannot; or what its failback waits for.
    pub reason: String,
    /// What the group or an operator keeps its own breaker at.
    pub breaker: Option<String>,
    /// Its tools whose breakers the group or an operator keeps, and at what.
    pub tools: Vec<(String, String)>,
    /// Its instances in the order of the configuration.
    pub instances: Vec<InstanceView>,
}

/// One instance of a server.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct InstanceView {
    /// Its name in the configuration.
    pub id: String,
    /// `primary`, `secondary` or `replica`; none where all are equal.
    pub role: Option<&'static str>,
    /// Its region, if it has one.
    pub region: Option<String>,
    /// What the group found: `healthy`, `degraded`, `unhealthy` or `unknown`.
    pub verdict: &'static str,
    /// How the votes stood for that.
    pub votes: String,
    /// What this node's own checks come to, 0 to 1; none before the first.
    pub score: Option<f64>,
    /// What took the score down, the worst first.
    pub why: Vec<String>,
    /// Where this node's breaker is: `closed`, `open`, `half_open`, `recovering`, `forced_open` or
    /// `forced_closed`.
    pub breaker: &'static str,
    /// What the group or an operator keeps the breaker at.
    pub kept: Option<String>,
    /// Calls of this node that are at it.
    pub in_flight: u64,
    /// The share of sessions that it has while the server moves bit by bit, 0 to 1.
    pub share: Option<f64>,
}

/// One line of the record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EventView {
    /// The log index of its cause; several lines may have one.
    pub index: u64,
    /// When, in milliseconds since the Unix epoch.
    pub at: u64,
    /// The server; empty for what concerns the configuration.
    pub server: String,
    /// The instance; may be empty.
    pub instance: String,
    /// What, in one word: `verdict`, `failover_began`, `switched`, ...
    pub kind: &'static str,
    /// All of it, for people, with its evidence.
    pub text: String,
}

/// An outage of a server, against what it is allowed. Times are milliseconds after the first bad sign.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IncidentView {
    /// The server.
    pub server: String,
    /// The instance that failed.
    pub instance: String,
    /// When the first bad sign was seen, in milliseconds since the Unix epoch.
    pub began: u64,
    /// Until the group found it unhealthy.
    pub detected_ms: u64,
    /// Until a failover began.
    pub decided_ms: Option<u64>,
    /// Until another instance was active.
    pub switched_ms: Option<u64>,
    /// Until the first good answer, or what stands for it.
    pub recovered_ms: Option<u64>,
    /// What is allowed until then.
    pub rto_ms: u64,
    /// `kept`, `missed` or, while it goes on within its time, `open`.
    pub objective: &'static str,
    /// How long its server's failover may take by its tier, from the finding to the first good answer;
    /// none where there was none.
    pub tier_ms: Option<u64>,
    /// Whether it took no longer: as `objective`; empty where there was none.
    pub tier: &'static str,
    /// Writes of which nobody knows whether they ran, as far as nodes have told.
    pub unknown_writes: u32,
    /// From when the first of them was received to the end of the outage, or until now; 0: there is none.
    pub in_doubt_ms: u64,
    /// How long that may be.
    pub rpo_ms: u64,
    /// Whether it is no longer: as `objective`; or `unmeasured`, where nodes did not count.
    pub rpo: &'static str,
    /// Sessions that went to another instance, without what the first one kept for them.
    pub sessions_moved: u32,
}

/// What an operator orders.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Order {
    /// Moves a server to another instance.
    FailOver {
        /// The server.
        server: String,
        /// Where to; none: the best secondary.
        to: Option<String>,
    },
    /// Moves a server back to its primary, without waiting for the delay.
    FailBack {
        /// The server.
        server: String,
    },
    /// Holds a breaker open or closed on every node, or lets it decide by itself again.
    Breaker {
        /// The server.
        server: String,
        /// One of its instances; none: all of them.
        instance: Option<String>,
        /// What with it.
        force: Force,
    },
    /// Moves a server to an instance whatever is known of that. Comes after the others, as the next one:
    /// nodes of an earlier version do not know them.
    ForceOver {
        /// The server.
        server: String,
        /// Where to.
        to: String,
    },
    /// Moves a server back to its primary, all sessions at once.
    BackAtOnce {
        /// The server.
        server: String,
    },
    /// The same as `Breaker` with the breaker of one of its tools.
    ToolBreaker {
        /// The server.
        server: String,
        /// The tool, one with a breaker of its own.
        tool: String,
        /// What with it.
        force: Force,
    },
}

/// What an operator does with a breaker.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Force {
    /// No call passes.
    Open,
    /// Every call passes.
    Closed,
    /// It decides by itself.
    Clear,
}

/// Why an order is not carried out.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
pub enum OrderError {
    /// No server has that name.
    #[error("no server is called {server:?}{}", did_you_mean(.known, .server))]
    UnknownServer {
        /// What was asked for.
        server: String,
        /// The names that exist.
        known: Vec<String>,
    },
    /// The server has no instance of that name.
    #[error("{server} has no instance {instance:?}{}", did_you_mean(.known, .instance))]
    UnknownInstance {
        /// The server.
        server: String,
        /// What was asked for.
        instance: String,
        /// The instances that it has.
        known: Vec<String>,
    },
    /// There is nothing to move to.
    #[error("{server} has no secondary: give one of its instances `role: secondary`")]
    NoSecondary {
        /// The server.
        server: String,
    },
    /// It is there already.
    #[error("{server} is on {instance} already")]
    There {
        /// The server.
        server: String,
        /// The instance.
        instance: String,
    },
    /// It is being moved already.
    #[error(
        "{server} is on its way to {to} already ({stage}): follow it with `holdfast servers --watch`"
    )]
    Running {
        /// The server.
        server: String,
        /// Where it goes.
        to: String,
        /// How far it is.
        stage: String,
    },
    /// It cannot be moved, as things are.
    #[error("{server} is not moved: {why}")]
    Refused {
        /// The server.
        server: String,
        /// Why.
        why: String,
    },
    /// The group has not heard of it yet.
    #[error("{server} is not known to the cluster yet: it has just been started; try again")]
    TooEarly {
        /// The server.
        server: String,
    },
    /// Too few nodes are there to decide anything.
    #[error(
        "the cluster has no quorum: nothing can be decided until a majority of its nodes is there"
    )]
    NoQuorum,
    /// The group did not answer in time; it may do so yet.
    #[error("the cluster did not answer in time; it may be done yet: look with `holdfast servers`")]
    TimedOut,
    /// None of its tools of that name has a breaker of its own. Comes after the others: nodes of an earlier
    /// version do not know it.
    #[error(
        "{tool:?} of {server} has no breaker of its own: list it under `breaker.per_tool`{}",
        did_you_mean(.known, .tool)
    )]
    UnknownTool {
        /// The server.
        server: String,
        /// What was asked for.
        tool: String,
        /// The tools that have one.
        known: Vec<String>,
    },
    /// A breaker is not held, or not let go. Comes after the others, as above.
    #[error("the breaker of {server} is left as it is: {why}")]
    NotHeld {
        /// The server.
        server: String,
        /// Why.
        why: String,
    },
    /// As `NoQuorum`, found by the node that was asked, which knows more. Comes after the others, as above.
    #[error("{}", minority(.silent, *.is_sent))]
    Minority {
        /// The nodes that do not answer the one that was asked, by name.
        silent: Vec<String>,
        /// The order was on its way when the majority was gone.
        is_sent: bool,
    },
}

// === impl Order ===

impl Order {
    /// The server that is meant.
    #[must_use]
    pub fn server(&self) -> &str {
        match self {
            Self::FailOver { server, .. }
            | Self::FailBack { server }
            | Self::ForceOver { server, .. }
            | Self::BackAtOnce { server }
            | Self::ToolBreaker { server, .. }
            | Self::Breaker { server, .. } => server,
        }
    }
}

/// Why nothing is decided, and the cure.
fn minority(silent: &[String], is_sent: bool) -> String {
    let mut said = OrderError::NoQuorum.to_string();
    match silent {
        [] => said.push_str(". Look with `holdfast nodes` who is missing"),
        [one] => said.push_str(&format!(". {one} does not answer: start it, or mend its network")),
        more => {
            let names = more.join(", ");
            said.push_str(&format!(". {names} do not answer: start them, or mend their network"));
        }
    }
    said.push_str(match is_sent {
        true => {
            ". The order was under way, and may be carried out then: look with `holdfast servers`"
        }
        false => ", and give the order again",
    });
    said
}

/// The nearest name, or all of them.
fn did_you_mean(known: &[String], name: &str) -> String {
    let names: Vec<&str> = known.iter().map(String::as_str).collect();
    match holdfast_config::nearest(name, &names) {
        Some(nearest) => format!("; did you mean {nearest}?"),
        None if known.is_empty() => "; there is none".to_owned(),
        None => format!("; there are {}", known.join(", ")),
    }
}
