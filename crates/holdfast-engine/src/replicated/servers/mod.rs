//! What the nodes agree on about the servers behind the gateway: which instance serves, what the group
//! found, which breakers are forced, which configuration holds, and how it came to that.
//!
//! | command | from | fence | refused as |
//! |---|---|---|---|
//! | `Define` | coordinator | term | [`Reply::Stale`] |
//! | `Notified` | coordinator | term | `Stale` |
//! | `Retire` | coordinator | term | `Stale` |
//! | `Verdict` | coordinator | term | `Stale` |
//! | `Failover` | coordinator | term, and the step that it follows | `Stale`; [`Reply::Moved`] |
//! | `Breaker`, opened by the group | coordinator | term | `Stale` |
//! | `Breaker`, forced or released by an operator | any member | its life | [`Reply::Fenced`] |
//! | `Configure` | any member | its life, and the version that it follows | `Fenced`; `Moved` |
//! | `Note` | any member | its life | `Fenced` |
//! | `Remark` | coordinator | term, and the outage that it is about | `Stale`; `Moved` |
//! | `Lose` | any member | its life, and the outage that it is about | `Fenced`; `Moved` |
//! | `Tool` | any member | its life | `Fenced` |
//! | `OpenTool` | coordinator | term | `Stale`; `Moved`, where an operator holds it |
//!
//! Whether a failover's next step is right is the coordinator's business (`failover::Failover::step`);
//! here it is made sure that it follows the step it was made from, and that within one generation the
//! active instance changes once at most. So of two coordinators that both believe in themselves one
//! goes on, and a step whose proposal was repeated is made once.
//!
//! Everything has a bound: [`MAX_SERVERS`] of [`MAX_INSTANCES`], [`MAX_EVENTS`] lines of history
//! ([`MAX_EVENTS_OF_SERVER`] of one server; those of an outage that goes on stay),
//! [`MAX_VERSIONS`] configurations; names at most [`MAX_TEXT`] bytes, and evidence is cut.

mod apply;
mod follows;
mod record;

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

#[cfg(doc)]
use super::{MAX_TEXT, Reply};
use crate::failover::Failover;
use crate::health::votes::{Cause, Opinion};

/// The most servers.
pub const MAX_SERVERS: usize = 256;
/// The most instances of a server.
pub const MAX_INSTANCES: usize = 64;
/// The most lines of all servers' history that are remembered: four of each that is out, were it all.
pub const MAX_EVENTS: usize = 1024;
/// The most lines of one server's.
pub const MAX_EVENTS_OF_SERVER: usize = 256;
/// How a `Noted` begins that is an alarm.
pub const ALARM: &str = "emergency: ";
/// And one that says which Redis server is the store from there on.
pub const STORE: &str = "session store: ";
/// The most tools of a server whose breakers are kept.
pub const MAX_TOOLS: usize = 128;
/// Which commands this version reads: rises when the log gets one that the version before cannot decode. The
/// nodes say it of themselves, and what one of them could not read is not proposed before all can. So it does
/// when the store gets a record that they cannot read.
pub const READS: u32 = 3;
/// The most configuration versions that are remembered.
pub const MAX_VERSIONS: usize = 8;

/// What the group knows of all servers.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Servers {
    /// By configured name; also those that were retired while an operator held a breaker of theirs, as long
    /// as there is room.
    pub by_name: BTreeMap<String, ServerState>,
    /// The last [`MAX_EVENTS`], oldest first, and those of outages that go on.
    pub events: VecDeque<ServerEvent>,
    /// The last [`MAX_VERSIONS`] configurations, oldest first; the last one holds.
    pub configurations: VecDeque<Configuration>,
    /// The index up to which people were told of `events`.
    pub notified: u64,
}

/// What the group knows of a server.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ServerState {
    /// Which instance serves, and the move that is under way.
    pub failover: Failover,
    /// What the group found, by instance: all that are configured; none: the server was retired.
    pub verdicts: BTreeMap<String, Verdict>,
    /// Breakers that do not decide for themselves, by instance; the server's own under the empty name, and
    /// those of single tools under [`tool_key`]. What an operator holds stays when the instance is configured
    /// no more.
    pub breakers: BTreeMap<String, Override>,
    /// The last generation given to an override of this server.
    pub override_generation: u64,
}

/// What the group found about an instance.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Verdict {
    /// The conclusion; none: not enough nodes have voted yet.
    pub opinion: Option<Opinion>,
    /// What makes it so.
    pub cause: Cause,
    /// The score of the votes then, 0 to 100: the middle of those that are not better than the conclusion.
    pub score: u8,
    /// When it began, in milliseconds since the Unix epoch.
    pub since: u64,
    /// When the first evidence for it was seen, by the coordinator's count; 0: not said.
    pub evidence_since: u64,
    /// How the votes stood, for people.
    pub why: String,
}

/// A breaker that does not decide for itself.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Override {
    /// What it is kept at, by whom.
    pub kind: OverrideKind,
    /// Rises with each override of the server: a node obeys the newest.
    pub generation: u64,
    /// Until when, in milliseconds since the Unix epoch; none: until it is released.
    pub until: Option<u64>,
    /// When it was made.
    pub since: u64,
    /// The operator or node behind it.
    pub by: String,
    /// Why, for people.
    pub why: String,
}

/// What a breaker is kept at, and by whom.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum OverrideKind {
    /// The group opened it: several nodes' breakers had opened, or their rates together.
    Opened,
    /// An operator keeps it open.
    ForcedOpen,
    /// An operator keeps it closed.
    ForcedClosed,
}

/// A configuration that the group agreed on.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Configuration {
    /// Counts up from 1.
    pub version: u64,
    /// Names the contents: their digest.
    pub id: String,
    /// Who proposed it.
    pub by: String,
    /// When, in milliseconds since the Unix epoch.
    pub at: u64,
    /// The version that it takes up again, if it is a return to an earlier one.
    pub rolls_back_to: Option<u64>,
}

/// One line of the servers' history.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ServerEvent {
    /// The log index of its cause. Several lines may have one cause.
    pub index: u64,
    /// When, in milliseconds since the Unix epoch.
    pub at: u64,
    /// Of which server; empty: of the configuration.
    pub server: String,
    /// Of which instance; may be empty.
    pub instance: String,
    /// The generation of the failover at that time.
    pub generation: u64,
    /// What.
    pub what: ServerHappened,
    /// On what evidence, or by whom; for people.
    pub evidence: String,
}

/// What happened to a server.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum ServerHappened {
    /// The group came to another conclusion about an instance.
    Verdict {
        /// What it was before; none: not known.
        from: Option<Opinion>,
        /// What it is now.
        to: Opinion,
        /// Whether it was the active instance.
        active: bool,
        /// When the first evidence for it was seen; 0: not said.
        evidence_since: u64,
    },
    /// A failover began.
    FailoverBegan,
    /// A failback began.
    FailbackBegan,
    /// The move goes on: it came to the stage that the evidence names.
    Progressed,
    /// Another instance is active from here on: `instance`.
    Switched,
    /// The move was taken back.
    RolledBack,
    /// There was no way to fail over.
    Failed,
    /// The move is over, and people were told; or the active instance recovered.
    Settled,
    /// The first good answer after the failure, as a node reported it.
    Answered {
        /// Always none: a [`Self::Lost`] says what was lost. What the record has had is read all the same.
        lost: Option<u64>,
    },
    /// The group opened a breaker.
    BreakerOpened,
    /// An operator keeps a breaker open.
    BreakerForcedOpen,
    /// An operator keeps a breaker closed.
    BreakerForcedClosed,
    /// A breaker decides for itself again.
    BreakerReleased,
    /// The server was configured, or its instances were.
    Defined,
    /// The server is not configured any more.
    Retired,
    /// A configuration holds from here on.
    Configured,
    /// What a node has to say, such as that it could not apply a configuration.
    Noted,
    /// The group found that calls of the active instance fail, whatever its checks say: in place of a
    /// `Verdict` that it is degraded, or when that became so while it was.
    CallsFail {
        /// What it was before; none: not known.
        from: Option<Opinion>,
        /// What its calls meet: errors, or breakers that are open.
        cause: Cause,
        /// When the first evidence for it was seen; 0: not said.
        evidence_since: u64,
    },
    /// What an outage has cost, as far as nodes have told: one line for each outage, which grows.
    Lost {
        /// The outage, by its index.
        outage: u64,
        /// Writes of which nobody knows whether they ran.
        unknown: u32,
        /// When the first of them was received, in milliseconds since the Unix epoch; 0: there is none.
        oldest: u64,
        /// Sessions that went to another instance, without what the first one kept for them.
        moved: u32,
    },
}

/// A change to what the group knows of servers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ServerCommand {
    /// The server has these instances. What is known of those that stay is kept.
    Define {
        /// Its name; not empty.
        server: String,
        /// The instance that serves when the server is new; one of `instances`.
        primary: String,
        /// All its instances.
        instances: Vec<String>,
        /// The term in which it was decided.
        term: u64,
    },
    /// The server is not configured any more.
    Retire {
        /// Its name.
        server: String,
        /// The term in which it was decided.
        term: u64,
    },
    /// The group's conclusion about an instance.
    Verdict {
        /// The server.
        server: String,
        /// Its instance.
        instance: String,
        /// The conclusion.
        opinion: Opinion,
        /// What makes it so.
        cause: Cause,
        /// The score of the votes, 0 to 100.
        score: u8,
        /// When the first evidence was seen, in milliseconds since the Unix epoch; 0: not said.
        evidence_since: u64,
        /// How the votes stood, for people; cut.
        why: String,
        /// The term in which it was decided.
        term: u64,
    },
    /// The next step of a server's failover.
    Failover {
        /// The server.
        server: String,
        /// Generation and step of the state that it follows.
        follows: (u64, u32),
        /// The state from now on.
        next: Box<Failover>,
        /// On what evidence, for people; cut.
        evidence: String,
        /// The term in which it was decided.
        term: u64,
    },
    /// A breaker is kept open or closed, or released.
    Breaker {
        /// The server.
        server: String,
        /// Its instance; empty: the server's own.
        instance: String,
        /// What it is kept at; none: it decides for itself.
        kind: Option<OverrideKind>,
        /// Of a release: only an override of this generation. None: any.
        generation: Option<u64>,
        /// Until when, in milliseconds since the Unix epoch.
        until: Option<u64>,
        /// The operator or node behind it.
        by: String,
        /// Why, for people; cut.
        why: String,
        /// The term in which the coordinator decided; none: an operator did.
        term: Option<u64>,
    },
    /// A configuration holds from here on.
    Configure {
        /// Names the contents: their digest; not empty.
        id: String,
        /// Who proposes it.
        by: String,
        /// The version that it follows; 0: the first.
        follows: u64,
        /// The version that it takes up again.
        rolls_back_to: Option<u64>,
    },
    /// People were told of all events up to this index.
    Notified {
        /// The index of the last of them.
        up_to: u64,
        /// The term in which it was decided.
        term: u64,
    },
    /// A line for the history.
    Note {
        /// The server; may be empty.
        server: String,
        /// Its instance; may be empty.
        instance: String,
        /// `Answered` or `Noted`.
        what: ServerHappened,
        /// On what evidence; cut.
        evidence: String,
    },
    /// A line of the coordinator's for the history: as a `Note`, and refused where what it is about is past.
    Remark {
        /// The server; may be empty.
        server: String,
        /// Its instance; may be empty.
        instance: String,
        /// `Answered` or `Noted`.
        what: ServerHappened,
        /// On what evidence; cut.
        evidence: String,
        /// The outage that it is about, by its index; none: it is about none. An `Answered` ends it, and is
        /// refused unless it goes on.
        outage: Option<u64>,
        /// The term in which it was decided.
        term: u64,
    },
    /// A node tells what an outage has cost clients of its own, beside what was told before. Of nothing there is
    /// a line too: that it was measured.
    Lose {
        /// The server.
        server: String,
        /// The outage, by its index.
        outage: u64,
        /// Writes of which nobody knows whether they ran.
        unknown: u32,
        /// When the first of them was received, in milliseconds since the Unix epoch.
        oldest: u64,
        /// Sessions that went to another instance.
        moved: u32,
    },
    /// An operator keeps the breaker of one tool open or closed, or releases it.
    Tool {
        /// The server.
        server: String,
        /// The tool; not empty.
        tool: String,
        /// What it is kept at, `ForcedOpen` or `ForcedClosed`; none: it decides for itself.
        kind: Option<OverrideKind>,
        /// The operator behind it.
        by: String,
    },
    /// The group opens the breaker of one tool.
    OpenTool {
        /// The server.
        server: String,
        /// The tool; not empty.
        tool: String,
        /// Until when, in milliseconds since the Unix epoch.
        until: u64,
        /// The node behind it.
        by: String,
        /// Why, for people; cut.
        why: String,
        /// The term in which the coordinator decided.
        term: u64,
    },
}

/// Where and when a command is applied.
#[derive(Clone, Copy, Debug)]
pub(in crate::replicated) struct Place {
    /// The log index.
    pub(in crate::replicated) index: u64,
    /// The entry's term.
    pub(in crate::replicated) term: u64,
    /// The machine's clock.
    pub(in crate::replicated) now: u64,
}

/// Where the breaker of a tool is kept among those of instances: no instance's name has a space.
#[must_use]
pub fn tool_key(tool: &str) -> String {
    format!("{TOOL} {tool}")
}

/// The tool whose breaker is kept under this name, if it is a tool's.
#[must_use]
pub fn tool_of(key: &str) -> Option<&str> {
    key.strip_prefix(TOOL)?.strip_prefix(' ')
}

const TOOL: &str = "tool";

// === impl ServerCommand ===
impl ServerCommand {
    /// The term in which a coordinator decided this; none: any member may say it.
    #[must_use]
    pub fn term(&self) -> Option<u64> {
        match self {
            Self::Define { term, .. }
            | Self::Retire { term, .. }
            | Self::Verdict { term, .. }
            | Self::Notified { term, .. }
            | Self::Failover { term, .. }
            | Self::OpenTool { term, .. } => Some(*term),
            Self::Breaker { term, .. } => *term,
            Self::Remark { term, .. } => Some(*term),
            Self::Configure { .. } | Self::Note { .. } | Self::Lose { .. } | Self::Tool { .. } => {
                None
            }
        }
    }

    /// The least that a node has to say of itself ([`READS`]) to read this.
    #[must_use]
    pub fn reads(&self) -> u32 {
        match self {
            Self::Define { .. }
            | Self::Retire { .. }
            | Self::Verdict { .. }
            | Self::Failover { .. }
            | Self::Breaker { .. }
            | Self::Configure { .. }
            | Self::Notified { .. }
            | Self::Note { .. } => 0,
            // The version before takes it for nothing, and its record would be another one.
            Self::Lose { unknown: 0, moved: 0, .. } | Self::OpenTool { .. } => 2,
            Self::Remark { .. } | Self::Lose { .. } | Self::Tool { .. } => 1,
        }
    }
}

// === impl ServerEvent ===

impl ServerEvent {
    /// Whether people are told with it that an instance is of no use.
    #[must_use]
    pub fn is_alarm(&self) -> bool {
        self.what == ServerHappened::Noted && self.evidence.starts_with(ALARM)
    }
}

// === impl Servers ===

impl Servers {
    /// The configuration that holds; none: the nodes have not agreed on one.
    #[must_use]
    pub fn configuration(&self) -> Option<&Configuration> {
        self.configurations.back()
    }
}

// === impl Verdict ===

impl Verdict {
    /// What calls of an instance meet that is usable by its checks, if it is degraded for that.
    #[must_use]
    pub fn calls_fail(&self) -> Option<Cause> {
        let is_by_calls = self.cause.is_of_calls();
        (self.opinion == Some(Opinion::Degraded) && is_by_calls).then_some(self.cause)
    }
}

// === impl Override ===

impl Override {
    /// Whether an operator keeps it at `now`.
    #[must_use]
    pub fn is_held(&self, now: u64) -> bool {
        self.kind != OverrideKind::Opened && !self.is_over(now)
    }

    /// Whether it holds no more at `now`.
    #[must_use]
    pub fn is_over(&self, now: u64) -> bool {
        self.until.is_some_and(|until| until <= now)
    }
}

// === impl ServerState ===

impl ServerState {
    /// Whether it is configured no more, and here for what operators hold of it alone.
    #[must_use]
    pub fn is_retired(&self) -> bool {
        self.verdicts.is_empty()
    }

    /// The override of an instance's breaker (empty name: the server's own; [`tool_key`]: a tool's) that
    /// holds at `now`.
    #[must_use]
    pub fn forced(&self, instance: &str, now: u64) -> Option<&Override> {
        self.breakers.get(instance).filter(|it| !it.is_over(now))
    }
}
