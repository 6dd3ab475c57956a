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
//!
//! Whether a failover's next step is right is the coordinator's business (`failover::Failover::step`);
//! here it is made sure that it follows the step it was made from, and that within one generation the
//! active instance changes once at most. So of two coordinators that both believe in themselves one
//! goes on, and a step whose proposal was repeated is made once.
//!
//! Everything has a bound: [`MAX_SERVERS`] of [`MAX_INSTANCES`], [`MAX_EVENTS`] lines of history,
//! [`MAX_VERSIONS`] configurations; names at most [`MAX_TEXT`] bytes, and evidence is cut.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};

use super::control::cut;
use super::{Invalid, MAX_TEXT, Reply};
use crate::failover::{Failover, Move, Phase, Stage};
use crate::health::votes::{Cause, Opinion};

/// The most servers.
pub const MAX_SERVERS: usize = 256;
/// The most instances of a server.
pub const MAX_INSTANCES: usize = 64;
/// The most lines of the servers' history that are remembered.
pub const MAX_EVENTS: usize = 256;
/// The most configuration versions that are remembered.
pub const MAX_VERSIONS: usize = 8;

/// What the group knows of all servers.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Servers {
    /// By configured name.
    pub by_name: BTreeMap<String, ServerState>,
    /// The last [`MAX_EVENTS`], oldest first.
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
    /// What the group found, by instance: all that are configured.
    pub verdicts: BTreeMap<String, Verdict>,
    /// Breakers that do not decide for themselves, by instance; the server's own under the empty name.
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
    /// The mean score of the votes then, 0 to 100.
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
        /// How far back what had been acknowledged is lost, in milliseconds; none: not known.
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
        /// The mean score of the votes, 0 to 100.
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
}

/// Where and when a command is applied.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// The log index.
    pub(super) index: u64,
    /// The entry's term.
    pub(super) term: u64,
    /// The machine's clock.
    pub(super) now: u64,
}

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
            | Self::Failover { term, .. } => Some(*term),
            Self::Breaker { term, .. } => *term,
            Self::Configure { .. } | Self::Note { .. } => None,
        }
    }
}

// === impl Servers ===

impl Servers {
    /// The configuration that holds; none: the nodes have not agreed on one.
    #[must_use]
    pub fn configuration(&self) -> Option<&Configuration> {
        self.configurations.back()
    }

    /// Applies a command. Returns the reply, and whether anything changed.
    pub(super) fn apply(&mut self, at: Place, command: &ServerCommand) -> (Reply, bool) {
        if command.term().is_some_and(|term| term != at.term) {
            return (Reply::Stale { term: at.term }, false);
        }
        let changed = match command {
            ServerCommand::Define { server, primary, instances, .. } => {
                self.define(at, server, primary, instances)
            }
            ServerCommand::Retire { server, .. } => self.retire(at, server),
            ServerCommand::Verdict { .. } => self.judge(at, command),
            ServerCommand::Failover { server, follows, next, evidence, .. } => {
                self.step(at, server, *follows, next, evidence)
            }
            ServerCommand::Breaker { .. } => self.force(at, command),
            ServerCommand::Configure { id, by, follows, rolls_back_to } => {
                self.configure(at, id, by, *follows, *rolls_back_to)
            }
            ServerCommand::Notified { up_to, .. } => {
                // Never beyond what there is, or what happens next would not be told.
                let up_to = (*up_to).min(at.index);
                let rises = up_to > self.notified;
                self.notified = self.notified.max(up_to);
                Ok(rises)
            }
            ServerCommand::Note { server, instance, what, evidence } => {
                self.say(at, server, instance, *what, evidence)
            }
        };
        match changed {
            Ok(changed) => (Reply::Done { revision: at.index }, changed),
            Err(reply) => (reply, false),
        }
    }

    fn define(
        &mut self,
        at: Place,
        server: &str,
        primary: &str,
        instances: &[String],
    ) -> Result<bool, Reply> {
        are_names(std::iter::once(server).chain(instances.iter().map(String::as_str)))?;
        if instances.len() > MAX_INSTANCES {
            return Err(Reply::Invalid(Invalid::Instances));
        }
        if !instances.iter().any(|it| it == primary) {
            return Err(Reply::Invalid(Invalid::Instance));
        }
        if !self.by_name.contains_key(server) && self.by_name.len() >= MAX_SERVERS {
            return Err(Reply::Invalid(Invalid::Servers));
        }
        let state = self.by_name.entry(server.to_owned()).or_insert_with(|| ServerState {
            failover: Failover::new(primary),
            verdicts: BTreeMap::new(),
            breakers: BTreeMap::new(),
            override_generation: 0,
        });
        let is_known = instances.iter().all(|it| state.verdicts.contains_key(it));
        let count = instances.iter().collect::<BTreeSet<_>>().len();
        if is_known && state.verdicts.len() == count {
            return Ok(false);
        }
        state.verdicts.retain(|name, _| instances.contains(name));
        state.breakers.retain(|name, _| name.is_empty() || instances.contains(name));
        for name in instances {
            state.verdicts.entry(name.clone()).or_default();
        }
        self.note(at, server, "", ServerHappened::Defined, &instances.join(", "));
        Ok(true)
    }

    fn retire(&mut self, at: Place, server: &str) -> Result<bool, Reply> {
        if !self.by_name.contains_key(server) {
            return Ok(false);
        }
        self.note(at, server, "", ServerHappened::Retired, "");
        self.by_name.remove(server);
        Ok(true)
    }

    fn judge(&mut self, at: Place, command: &ServerCommand) -> Result<bool, Reply> {
        let ServerCommand::Verdict {
            server,
            instance,
            opinion,
            cause,
            score,
            evidence_since,
            why,
            ..
        } = command
        else {
            return Err(Reply::Unknown);
        };
        let state = self.by_name.get_mut(server).ok_or(Reply::Unknown)?;
        let active = state.failover.active == *instance;
        let verdict = state.verdicts.get_mut(instance).ok_or(Reply::Unknown)?;
        let (score, why) = ((*score).min(100), cut(why).to_owned());
        let from = verdict.opinion;
        let changes = from != Some(*opinion);
        let next = Verdict {
            opinion: Some(*opinion),
            cause: *cause,
            score,
            // The same opinion on other grounds is as old as it was.
            since: if changes { at.now } else { verdict.since },
            evidence_since: if changes { *evidence_since } else { verdict.evidence_since },
            why,
        };
        if *verdict == next {
            return Ok(false);
        }
        let why = next.why.clone();
        *verdict = next;
        if changes {
            let (to, evidence_since) = (*opinion, *evidence_since);
            let what = ServerHappened::Verdict { from, to, active, evidence_since };
            self.note(at, server, instance, what, &why);
        }
        Ok(true)
    }

    fn step(
        &mut self,
        at: Place,
        server: &str,
        follows: (u64, u32),
        next: &Failover,
        evidence: &str,
    ) -> Result<bool, Reply> {
        let state = self.by_name.get_mut(server).ok_or(Reply::Unknown)?;
        let now = &state.failover;
        if now == next {
            return Ok(false);
        }
        let (generation, step) = (now.generation, now.step);
        if follows != (generation, step) {
            return Err(Reply::Moved { generation, step: u64::from(step) });
        }
        is_next(now, next)?;
        let instance = next.moving().map_or(&next.active, |it| &it.to).clone();
        let what = happened(now, next);
        state.failover = next.clone();
        let evidence = match evidence {
            "" => describe(next),
            evidence => format!("{}: {evidence}", describe(next)),
        };
        self.note(at, server, &instance, what, &evidence);
        Ok(true)
    }

    fn force(&mut self, at: Place, command: &ServerCommand) -> Result<bool, Reply> {
        let ServerCommand::Breaker { server, instance, kind, generation, until, by, why, term } =
            command
        else {
            return Err(Reply::Unknown);
        };
        let state = self.by_name.get_mut(server).ok_or(Reply::Unknown)?;
        if by.len() > MAX_TEXT {
            return Err(Reply::Invalid(Invalid::Text));
        }
        if !instance.is_empty() && !state.verdicts.contains_key(instance) {
            return Err(Reply::Unknown);
        }
        let present = state.breakers.get(instance);
        let Some(kind) = *kind else {
            let Some(present) = present else { return Ok(false) };
            let found = present.generation;
            if generation.is_some_and(|it| it != found) {
                return Err(Reply::Moved { generation: found, step: 0 });
            }
            // What an operator forces, an operator releases.
            if term.is_some() && present.kind != OverrideKind::Opened {
                return Err(Reply::Moved { generation: found, step: 0 });
            }
            state.breakers.remove(instance);
            self.note(at, server, instance, ServerHappened::BreakerReleased, by);
            return Ok(true);
        };
        let is_operators = kind != OverrideKind::Opened;
        if is_operators == term.is_some() {
            return Err(Reply::Invalid(Invalid::Override));
        }
        let until = *until;
        if let Some(present) = present {
            let holds = present.until.is_none_or(|until| until > at.now);
            if present.kind == kind && present.until == until {
                return Ok(false);
            }
            if !is_operators && present.kind != OverrideKind::Opened && holds {
                return Err(Reply::Moved { generation: present.generation, step: 0 });
            }
        }
        state.override_generation = state.override_generation.saturating_add(1);
        let made = Override {
            kind,
            generation: state.override_generation,
            until,
            since: at.now,
            by: by.clone(),
            why: cut(why).to_owned(),
        };
        state.breakers.insert(instance.clone(), made);
        let what = match kind {
            OverrideKind::Opened => ServerHappened::BreakerOpened,
            OverrideKind::ForcedOpen => ServerHappened::BreakerForcedOpen,
            OverrideKind::ForcedClosed => ServerHappened::BreakerForcedClosed,
        };
        self.note(at, server, instance, what, &format!("by {by}: {why}"));
        Ok(true)
    }

    fn configure(
        &mut self,
        at: Place,
        id: &str,
        by: &str,
        follows: u64,
        rolls_back_to: Option<u64>,
    ) -> Result<bool, Reply> {
        are_names([id].into_iter())?;
        if by.len() > MAX_TEXT {
            return Err(Reply::Invalid(Invalid::Text));
        }
        let version = self.configuration().map_or(0, |it| it.version);
        // The nodes all propose the file that they find: the first wins, the others agree.
        if self.configuration().is_some_and(|it| it.id == id) {
            return Ok(false);
        }
        if follows != version {
            return Err(Reply::Moved { generation: version, step: 0 });
        }
        let version = version.saturating_add(1);
        let (id, by) = (id.to_owned(), by.to_owned());
        let evidence = format!("version {version}, {id}, by {by}");
        push(
            &mut self.configurations,
            MAX_VERSIONS,
            Configuration { version, id, by, at: at.now, rolls_back_to },
        );
        self.note(at, "", "", ServerHappened::Configured, &evidence);
        Ok(true)
    }

    fn say(
        &mut self,
        at: Place,
        server: &str,
        instance: &str,
        what: ServerHappened,
        evidence: &str,
    ) -> Result<bool, Reply> {
        if server.len() > MAX_TEXT || instance.len() > MAX_TEXT {
            return Err(Reply::Invalid(Invalid::Text));
        }
        if !matches!(what, ServerHappened::Answered { .. } | ServerHappened::Noted) {
            return Err(Reply::Invalid(Invalid::Event));
        }
        self.note(at, server, instance, what, evidence);
        Ok(true)
    }

    fn note(
        &mut self,
        at: Place,
        server: &str,
        instance: &str,
        what: ServerHappened,
        evidence: &str,
    ) {
        let generation = self.by_name.get(server).map_or(0, |it| it.failover.generation);
        let event = ServerEvent {
            index: at.index,
            at: at.now,
            server: server.to_owned(),
            instance: instance.to_owned(),
            generation,
            what,
            evidence: cut(evidence).to_owned(),
        };
        push(&mut self.events, MAX_EVENTS, event);
    }
}

// === impl ServerState ===

impl ServerState {
    /// The override of an instance's breaker (empty name: the server's own) that holds at `now`.
    #[must_use]
    pub fn forced(&self, instance: &str, now: u64) -> Option<&Override> {
        self.breakers.get(instance).filter(|it| it.until.is_none_or(|until| until > now))
    }
}

/// Whether a state may follow another: by the next step of its generation, or the first of the next;
/// with one change of the active instance per generation, to where the move goes.
fn is_next(now: &Failover, next: &Failover) -> Result<(), Reply> {
    let follows = next.generation == now.generation && next.step > now.step;
    let begins = next.generation == now.generation.saturating_add(1) && next.step == 0;
    if !(follows || begins) {
        return Err(Reply::Invalid(Invalid::Step));
    }
    let texts = [&next.active].into_iter().chain(&next.tried);
    let moved = next.moving().into_iter().flat_map(|it| [&it.from, &it.to]);
    are_names(texts.chain(moved).map(String::as_str))?;
    let long = match &next.phase {
        Phase::Failed(it) => it.why.len() > MAX_TEXT,
        Phase::FailingOver(it) | Phase::FailingBack(it) => it.cause.len() > MAX_TEXT,
        Phase::PrimaryActive | Phase::SecondaryActive => false,
    };
    if long || next.tried.len() > MAX_INSTANCES {
        return Err(Reply::Invalid(Invalid::Text));
    }
    let is_open = |it: &Failover| it.moving().is_some_and(|it| it.stage.is_before_switch());
    // Once it has switched or was taken back, a generation does not start over.
    if follows && !is_open(now) && is_open(next) {
        return Err(Reply::Invalid(Invalid::Step));
    }
    let by_move =
        |it: &Move| it.stage == Stage::Switch && it.to == next.active && it.from == now.active;
    let switches = follows && is_open(now) && next.moving().is_some_and(by_move);
    if next.active != now.active && !switches {
        return Err(Reply::Invalid(Invalid::Step));
    }
    Ok(())
}

fn happened(now: &Failover, next: &Failover) -> ServerHappened {
    let begins = next.generation != now.generation;
    match &next.phase {
        Phase::FailingOver(_) if begins => ServerHappened::FailoverBegan,
        Phase::FailingBack(_) if begins => ServerHappened::FailbackBegan,
        Phase::FailingOver(it) | Phase::FailingBack(it) => match it.stage {
            Stage::Switch => ServerHappened::Switched,
            Stage::Notify { end: crate::failover::End::RolledBack } => ServerHappened::RolledBack,
            Stage::Pause
            | Stage::Drain
            | Stage::Check
            | Stage::Ramp { .. }
            | Stage::Notify { .. } => ServerHappened::Progressed,
        },
        Phase::Failed(it) if !it.told => ServerHappened::Failed,
        Phase::Failed(_) => ServerHappened::Progressed,
        Phase::PrimaryActive | Phase::SecondaryActive => ServerHappened::Settled,
    }
}

fn describe(next: &Failover) -> String {
    match &next.phase {
        Phase::PrimaryActive | Phase::SecondaryActive => format!("{} active", next.active),
        Phase::Failed(it) => it.why.clone(),
        Phase::FailingOver(it) | Phase::FailingBack(it) => {
            let (manner, stage) = (it.manner.label(), it.stage.label());
            match it.stage {
                Stage::Ramp { percent } => format!("{manner}, {stage} {percent} %, {}", it.cause),
                _ => format!("{manner}, {stage}, {}", it.cause),
            }
        }
    }
}

fn are_names<'a>(mut names: impl Iterator<Item = &'a str>) -> Result<(), Reply> {
    if names.all(|it| !it.is_empty() && it.len() <= MAX_TEXT) {
        return Ok(());
    }
    Err(Reply::Invalid(Invalid::Text))
}

/// Adds to the end; beyond the bound the oldest goes.
fn push<T>(list: &mut VecDeque<T>, most: usize, item: T) {
    while list.len() >= most {
        list.pop_front();
    }
    list.push_back(item);
}
