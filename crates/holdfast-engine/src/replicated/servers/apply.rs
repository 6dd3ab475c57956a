//! What each command does to what the group knows of servers.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::follows::{describe, happened, is_next};
use super::record::least_needed;
use super::{
    Configuration, MAX_EVENTS, MAX_EVENTS_OF_SERVER, MAX_INSTANCES, MAX_SERVERS, MAX_TOOLS,
    MAX_VERSIONS, Override, OverrideKind, Place, ServerCommand, ServerEvent, ServerHappened,
    ServerState, Servers, Verdict, tool_key, tool_of,
};
use crate::failover::Failover;
use crate::objectives::{Ending, outages};
use crate::replicated::control::cut;
use crate::replicated::{Invalid, MAX_TEXT, Reply};

impl Servers {
    /// Applies a command. Returns the reply, and whether anything changed.
    pub(in crate::replicated) fn apply(
        &mut self,
        at: Place,
        command: &ServerCommand,
    ) -> (Reply, bool) {
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
            ServerCommand::Remark { server, instance, what, evidence, outage, .. } => outage
                .map_or(Ok(()), |outage| self.is_about(server, outage, *what))
                .and_then(|()| self.say(at, server, instance, *what, evidence)),
            ServerCommand::Lose { server, outage, unknown, oldest, moved } => {
                self.lose(at, server, *outage, (*unknown, *oldest, *moved))
            }
            ServerCommand::Tool { server, tool, kind, by } => {
                self.force_tool(at, server, tool, *kind, by)
            }
            ServerCommand::OpenTool { server, tool, until, by, why, .. } => {
                self.open_tool(at, server, tool, *until, (by, why))
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
            let retired = self.by_name.iter().find(|(_, it)| it.is_retired());
            let Some(retired) = retired.map(|(name, _)| name.clone()) else {
                return Err(Reply::Invalid(Invalid::Servers));
            };
            self.by_name.remove(&retired);
        }
        let state = self.by_name.entry(server.to_owned()).or_insert_with(|| ServerState {
            failover: Failover::new(primary),
            verdicts: BTreeMap::new(),
            breakers: BTreeMap::new(),
            override_generation: 0,
        });
        if state.is_retired() {
            state.failover = Failover::new(primary);
        }
        let is_known = instances.iter().all(|it| state.verdicts.contains_key(it));
        let count = instances.iter().collect::<BTreeSet<_>>().len();
        if is_known && state.verdicts.len() == count {
            return Ok(false);
        }
        state.verdicts.retain(|name, _| instances.contains(name));
        // What an operator holds is let go by an operator, also of what is configured again later. A tool is of
        // no instance.
        let stays = |name: &str, it: &Override| {
            it.is_held(at.now) || (tool_of(name).is_some() && !it.is_over(at.now))
        };
        let known = |name: &String| name.is_empty() || instances.contains(name);
        state.breakers.retain(|name, it| known(name) || stays(name, it));
        let is_instance = |name: &String| !name.is_empty() && tool_of(name).is_none();
        while state.breakers.keys().filter(|it| is_instance(it)).count() > 2 * MAX_INSTANCES {
            let gone =
                |(name, _): &(&String, &Override)| is_instance(name) && !instances.contains(*name);
            let oldest = state.breakers.iter().filter(gone).min_by_key(|(_, it)| it.generation);
            let Some(oldest) = oldest.map(|(name, _)| name.clone()) else { break };
            state.breakers.remove(&oldest);
        }
        for name in instances {
            state.verdicts.entry(name.clone()).or_default();
        }
        self.note(at, server, "", ServerHappened::Defined, &instances.join(", "));
        Ok(true)
    }

    fn retire(&mut self, at: Place, server: &str) -> Result<bool, Reply> {
        if self.by_name.get(server).is_none_or(ServerState::is_retired) {
            return Ok(false);
        }
        self.note(at, server, "", ServerHappened::Retired, "");
        if let Some(state) = self.by_name.get_mut(server) {
            state.verdicts.clear();
            state.breakers.retain(|_, it| it.is_held(at.now));
            if state.breakers.is_empty() {
                self.by_name.remove(server);
            }
        }
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
        let fail = |it: &Verdict| active.then(|| it.calls_fail()).flatten();
        let (failed, fails) = (fail(verdict), fail(&next));
        *verdict = next;
        if changes || failed != fails {
            let (to, evidence_since) = (*opinion, *evidence_since);
            let what = match fails {
                Some(cause) => ServerHappened::CallsFail { from, cause, evidence_since },
                None => ServerHappened::Verdict { from, to, active, evidence_since },
            };
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
            "" => describe(what, next),
            evidence => format!("{}; {evidence}", describe(what, next)),
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
            self.note(at, server, instance, ServerHappened::BreakerReleased, &by_whom(by, ""));
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
        state.keep(at, instance.clone(), kind, until, by, why);
        let what = match kind {
            OverrideKind::Opened => ServerHappened::BreakerOpened,
            OverrideKind::ForcedOpen => ServerHappened::BreakerForcedOpen,
            OverrideKind::ForcedClosed => ServerHappened::BreakerForcedClosed,
        };
        self.note(at, server, instance, what, &by_whom(by, why));
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

    /// Whether a line can still be about this outage of the server.
    fn is_about(&self, server: &str, outage: u64, what: ServerHappened) -> Result<(), Reply> {
        let own = outages(&self.events).into_iter().filter(|it| it.server == server);
        let (mut last, mut found) = (0, None);
        for it in own {
            last = it.index;
            found = found.or_else(|| (it.index == outage).then_some(it.ending));
        }
        let ends = matches!(what, ServerHappened::Answered { .. });
        match found {
            Some(ending) if !ends || ending == Ending::Open => Ok(()),
            Some(_) | None => Err(Reply::Moved { generation: last, step: 0 }),
        }
    }

    /// Adds to what an outage has cost. `cost`: Writes in doubt, when the first of them was received, and
    /// sessions that moved.
    fn lose(
        &mut self,
        at: Place,
        server: &str,
        outage: u64,
        cost: (u32, u64, u32),
    ) -> Result<bool, Reply> {
        self.is_about(server, outage, ServerHappened::Noted)?;
        let (more, since, left) = cost;
        let known = self.events.iter_mut().filter(|it| it.server == server).find_map(|it| {
            let line = &mut it.what;
            matches!(line, ServerHappened::Lost { outage: of, .. } if *of == outage).then_some(line)
        });
        let since = if more > 0 { since.max(1) } else { 0 };
        match known {
            Some(_) if (more, left) == (0, 0) => return Ok(false),
            Some(ServerHappened::Lost { unknown, oldest, moved, .. }) => {
                *unknown = unknown.saturating_add(more);
                *moved = moved.saturating_add(left);
                *oldest = [*oldest, since].into_iter().filter(|it| *it > 0).min().unwrap_or(0);
            }
            Some(_) | None => {
                let what =
                    ServerHappened::Lost { outage, unknown: more, oldest: since, moved: left };
                self.note(at, server, "", what, "");
            }
        }
        Ok(true)
    }

    fn force_tool(
        &mut self,
        at: Place,
        server: &str,
        tool: &str,
        kind: Option<OverrideKind>,
        by: &str,
    ) -> Result<bool, Reply> {
        let (state, key) = self.of_tool(server, tool, by)?;
        let Some(kind) = kind else {
            let released = state.breakers.remove(&key).is_some();
            if released {
                self.note(at, server, &key, ServerHappened::BreakerReleased, &by_whom(by, ""));
            }
            return Ok(released);
        };
        let what = match kind {
            OverrideKind::Opened => return Err(Reply::Invalid(Invalid::Override)),
            OverrideKind::ForcedOpen => ServerHappened::BreakerForcedOpen,
            OverrideKind::ForcedClosed => ServerHappened::BreakerForcedClosed,
        };
        if state.breakers.get(&key).is_some_and(|present| present.kind == kind) {
            return Ok(false);
        }
        state.has_room_for(&key, at.now)?;
        state.keep(at, key.clone(), kind, None, by, "");
        self.note(at, server, &key, what, &by_whom(by, ""));
        Ok(true)
    }

    /// `said`: by which node, and why.
    fn open_tool(
        &mut self,
        at: Place,
        server: &str,
        tool: &str,
        until: u64,
        said: (&str, &str),
    ) -> Result<bool, Reply> {
        let (by, why) = said;
        let (state, key) = self.of_tool(server, tool, by)?;
        if let Some(present) = state.breakers.get(&key) {
            // What an operator holds, an operator lets go.
            if present.is_held(at.now) {
                return Err(Reply::Moved { generation: present.generation, step: 0 });
            }
            if present.kind == OverrideKind::Opened && present.until == Some(until) {
                return Ok(false);
            }
        }
        state.has_room_for(&key, at.now)?;
        state.keep(at, key.clone(), OverrideKind::Opened, Some(until), by, why);
        self.note(at, server, &key, ServerHappened::BreakerOpened, &by_whom(by, why));
        Ok(true)
    }

    /// The server of a tool, and the name under which the tool's breaker is kept. `by`: who says something of it.
    fn of_tool(
        &mut self,
        server: &str,
        tool: &str,
        by: &str,
    ) -> Result<(&mut ServerState, String), Reply> {
        are_names([tool].into_iter())?;
        if by.len() > MAX_TEXT {
            return Err(Reply::Invalid(Invalid::Text));
        }
        let state = self.by_name.get_mut(server).filter(|it| !it.is_retired());
        Ok((state.ok_or(Reply::Unknown)?, tool_key(tool)))
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
        self.events.push_back(event);
        let own = self.events.iter().filter(|event| event.server == server).count();
        if own > MAX_EVENTS_OF_SERVER {
            self.forget(Some(server));
        }
        while self.events.len() > MAX_EVENTS {
            self.forget(None);
        }
    }

    fn forget(&mut self, of: Option<&str>) {
        let place = least_needed(&self.events, of).unwrap_or(0);
        self.events.remove(place);
    }
}

impl ServerState {
    /// Whether one more breaker of a tool may be kept, unless this one is. Where there are too many, what the group
    /// opened makes room once it is over.
    fn has_room_for(&mut self, key: &str, now: u64) -> Result<(), Reply> {
        let tools = self.breakers.iter().filter(|(name, _)| tool_of(name).is_some());
        let (over, hold): (Vec<_>, Vec<_>) = tools.partition(|(_, it)| it.is_over(now));
        if self.breakers.contains_key(key) || over.len() + hold.len() < MAX_TOOLS {
            return Ok(());
        }
        if hold.len() >= MAX_TOOLS {
            return Err(Reply::Invalid(Invalid::Tools));
        }
        self.breakers.retain(|name, it| tool_of(name).is_none() || !it.is_over(now));
        Ok(())
    }

    /// A breaker does not decide for itself from here on.
    fn keep(
        &mut self,
        at: Place,
        key: String,
        kind: OverrideKind,
        until: Option<u64>,
        by: &str,
        why: &str,
    ) {
        // By the log, so that it is also above what a server of this name had before it was retired.
        self.override_generation = at.index.max(self.override_generation.saturating_add(1));
        let made = Override {
            kind,
            generation: self.override_generation,
            until,
            since: at.now,
            by: by.to_owned(),
            why: cut(why).to_owned(),
        };
        self.breakers.insert(key, made);
    }
}

pub(super) fn are_names<'a>(mut names: impl Iterator<Item = &'a str>) -> Result<(), Reply> {
    if names.all(|it| !it.is_empty() && it.len() <= MAX_TEXT) {
        return Ok(());
    }
    Err(Reply::Invalid(Invalid::Text))
}

/// Who has a breaker be so, and why, if that was said.
fn by_whom(by: &str, why: &str) -> String {
    if why.is_empty() { format!("by {by}") } else { format!("by {by}: {why}") }
}

/// Adds to the end; beyond the bound the oldest goes.
fn push<T>(list: &mut VecDeque<T>, most: usize, item: T) {
    while list.len() >= most {
        list.pop_front();
    }
    list.push_back(item);
}
