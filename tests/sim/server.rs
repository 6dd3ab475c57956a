//! The MCP server: it counts what it executes, and its answers can be lost, cut, or go on later.

use std::collections::BTreeMap;

use holdfast_engine::class::CallClass;

use crate::ports::{Ms, ServerEvent, Token};
use crate::world::{Event, FAULTS_END, Request, World};

#[derive(Default)]
pub(crate) struct Server {
    tokens: Token,
    /// What was executed, in its order.
    pub(crate) executions: BTreeMap<Token, Execution>,
    /// Rises when the server is restarted: what was under way is lost.
    life: u32,
    pub(crate) refuses_until: Ms,
    pub(crate) cuts_until: Ms,
}

pub(crate) struct Execution {
    pub(crate) call: usize,
    pub(crate) done_at: Ms,
    life: u32,
}

impl World {
    /// What a node does to send; the connection is made or is not.
    pub(crate) fn send_to_server(&mut self, request: Request) {
        let out = self.is_cut((request.node, crate::world::SERVER));
        if out || self.now < self.server.refuses_until {
            let wait = if out { self.rng.between(100, 900) } else { 3 };
            let message = crate::node::Message::Server(
                request.exchange,
                request.attempt,
                if request.resume.is_some() { ServerEvent::Broken } else { ServerEvent::NotSent },
            );
            return self.after(wait, Event::Node(request.node, request.process, message));
        }
        self.send_patiently(request.node, crate::world::SERVER, Event::Server(request));
    }

    pub(crate) fn at_server(&mut self, request: Request) {
        if let Some(token) = request.resume {
            return self.resumed(request, token);
        }
        if self.now < FAULTS_END && self.rng.percent(2) {
            self.trace("server: session lost", request.call as u64, 0);
            return self.server_says(request, ServerEvent::LostSession);
        }
        self.server.tokens += 1;
        let token = self.server.tokens;
        let duration = match self.rng.between(0, 10) {
            0..7 => self.rng.between(2, 40),
            7..9 => self.rng.between(60, 700),
            _ => self.rng.between(700, 3_500),
        };
        let (call, life) = (request.call, self.server.life);
        self.server
            .executions
            .insert(token, Execution { call, done_at: self.now + duration, life });
        self.trace("server: executes", call as u64, token);
        self.check_execution(call);
        match Manner::of(self.calls[call].number) {
            Manner::Json => {}
            Manner::Stream => self.server_says(request, ServerEvent::Stream(None)),
            Manner::Resumable => self.server_says(request, ServerEvent::Stream(Some(token))),
        }
        self.after(duration, Event::Executed(request, token));
    }

    pub(crate) fn executed(&mut self, request: Request, token: Token) {
        let Some(execution) = self.server.executions.get(&token) else { return };
        let lost = execution.life != self.server.life;
        let cut = self.now < self.server.cuts_until && self.rng.percent(50);
        let event = if lost || cut { ServerEvent::Broken } else { ServerEvent::Answer(token) };
        self.trace("server: done", request.call as u64, u64::from(lost || cut));
        self.server_says(request, event);
    }

    /// A GET that goes on with a stream, from any node.
    fn resumed(&mut self, request: Request, token: Token) {
        let Some(execution) = self.server.executions.get(&token) else { return };
        if execution.life != self.server.life {
            return self.server_says(request, ServerEvent::NoStream);
        }
        let wait = execution.done_at.saturating_sub(self.now);
        self.after(wait, Event::Executed(request, token));
    }

    pub(crate) fn restart_server(&mut self) {
        self.server.life += 1;
        self.note("server restarts");
    }
}

/// How the server answers a call.
enum Manner {
    Json,
    Stream,
    Resumable,
}

impl Manner {
    fn of(call: u64) -> Self {
        match call % 5 {
            0..3 => Self::Json,
            3 => Self::Stream,
            _ => Self::Resumable,
        }
    }
}

/// The class of a call by its number.
pub(crate) fn class_of(call: u64) -> CallClass {
    match call % 7 {
        0 | 3 => CallClass::Read,
        1 | 5 => CallClass::Idempotent,
        _ => CallClass::Write,
    }
}
