//! The servers' failovers, breakers and outages in the API's words.

use serde::{Deserialize, Serialize};

/// Part of [`super::ServerDto`]: what the cluster has agreed on about a server.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct ControlDto {
    /// What the cluster found about the instance that serves: `healthy`, `degraded`, `unhealthy` or
    /// `unknown`.
    pub verdict: String,
    /// Which instance serves; none where all are equal.
    pub active: Option<String>,
    /// `primary_active`, `failing_over`, `secondary_active`, `failing_back` or `failover_failed`; none
    /// where it cannot move.
    pub phase: Option<String>,
    /// How far a move is: `pause`, `drain`, `check`, `ramp`, `switch` or `notify`.
    pub stage: Option<String>,
    /// Where a move goes.
    pub target: Option<String>,
    /// Since when it stands there, seconds since 1970.
    pub since_unix_s: Option<u64>,
    /// Rises with each move.
    pub generation: u64,
    /// Why it moves, or cannot.
    pub reason: String,
    /// What the cluster or an operator keeps the server's breaker at.
    pub kept: Option<String>,
    /// The tools whose breakers the cluster or an operator keeps.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kept_tools: Vec<KeptToolDto>,
    /// In the order of the configuration.
    pub instances: Vec<InstanceControlDto>,
}

/// One tool whose breaker an operator keeps.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct KeptToolDto {
    /// Its name.
    pub name: String,
    /// At what, and by whom.
    pub kept: String,
}

/// One instance.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct InstanceControlDto {
    /// Its name in the configuration.
    pub id: String,
    /// `primary`, `secondary` or `replica`; none where all are equal.
    pub role: Option<String>,
    /// Its region.
    pub region: Option<String>,
    /// What the cluster found.
    pub verdict: String,
    /// How the votes stood for that.
    pub votes: String,
    /// What this node's checks come to, 0 to 1; none before the first.
    pub score: Option<f64>,
    /// What took the score down, the worst first.
    pub why: Vec<String>,
    /// This node's breaker: `closed`, `open`, `half_open`, `recovering`, `forced_open` or
    /// `forced_closed`.
    pub breaker: String,
    /// What the cluster or an operator keeps the breaker at.
    pub kept: Option<String>,
    /// Calls of this node that are at it.
    pub in_flight: u64,
    /// The share of sessions that it has while the server moves bit by bit.
    pub share: Option<f64>,
}

/// `GET /api/audit?limit=100`: what was decided about servers, the newest last.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EventsDto {
    /// The lines.
    pub events: Vec<EventDto>,
}

/// One line.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EventDto {
    /// The log index of its cause; several lines may have one.
    pub index: u64,
    /// When, milliseconds since 1970.
    pub at_unix_ms: u64,
    /// The server; empty for what concerns the configuration.
    pub server: String,
    /// The instance; may be empty.
    pub instance: String,
    /// `verdict`, `failover_began`, `switched`, ...
    pub kind: String,
    /// All of it, with its evidence.
    pub text: String,
}

/// `GET /api/incidents`: outages of servers, the newest last.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct IncidentsDto {
    /// The outages.
    pub incidents: Vec<IncidentDto>,
}

/// One outage. Times are milliseconds after its first bad sign.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct IncidentDto {
    /// The server.
    pub server: String,
    /// The instance that failed.
    pub instance: String,
    /// The first bad sign, milliseconds since 1970.
    pub began_unix_ms: u64,
    /// Until the cluster found it unhealthy.
    pub detected_ms: u64,
    /// Until a failover began.
    pub decided_ms: Option<u64>,
    /// Until another instance served.
    pub switched_ms: Option<u64>,
    /// Until the first good answer, or what stands for it.
    pub recovered_ms: Option<u64>,
    /// What is allowed until then.
    pub rto_ms: u64,
    /// `kept`, `missed` or `open`.
    pub objective: String,
    /// How long its failover may take by `failover.tier`, from `detected_ms` to `recovered_ms`; none
    /// without a failover.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier_ms: Option<u64>,
    /// `kept`, `missed` or `open`; none without a failover.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<String>,
    /// Writes of which nobody knows whether they ran, as far as nodes have told.
    #[serde(default)]
    pub unknown_writes: u32,
    /// From when the first of them was received to the end of the outage, or until now; 0: there is none.
    #[serde(default)]
    pub in_doubt_ms: u64,
    /// How long that may be (`objectives.rpo`); none: the node is of a version that does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rpo_ms: Option<u64>,
    /// `kept`, `missed` or `open`; `unmeasured`: the nodes did not count what it cost; none: as above.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rpo: Option<String>,
    /// Sessions that went to another instance, without what the first one kept for them.
    #[serde(default)]
    pub sessions_moved: u32,
}

/// The body of `POST /api/failover`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FailoverRequestDto {
    /// The server.
    pub server: String,
    /// The instance that is to serve; none: the best secondary.
    #[serde(default)]
    pub to: Option<String>,
    /// Whatever is known of that instance, which has to be named then.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
}

/// The body of `POST /api/failback`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FailbackRequestDto {
    /// The server.
    pub server: String,
    /// All its sessions at once, not bit by bit.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub at_once: bool,
}

/// The body of `POST /api/breaker`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BreakerRequestDto {
    /// The server.
    pub server: String,
    /// One of its instances; none: all of them.
    #[serde(default)]
    pub instance: Option<String>,
    /// The breaker of one of its tools instead (`breaker.per_tool`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool: Option<String>,
    /// What with it.
    pub action: BreakerActionDto,
}

/// What is done with a breaker.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BreakerActionDto {
    /// No call passes.
    Open,
    /// Every call passes.
    Close,
    /// It decides by itself again.
    Clear,
}

/// The answer to a change that the cluster has agreed on: how the server stands now.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct OrderedDto {
    /// The server.
    pub server: String,
    /// How it stands.
    pub control: ControlDto,
}
