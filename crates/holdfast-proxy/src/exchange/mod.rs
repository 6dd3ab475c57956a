//! A call's life in the proxy, from the parsed request to its answer.
//!
//! The phases are the headings of `docs/life-of-a-request.md`; each has a file here:
//!
//! | phase | file |
//! |---|---|
//! | open a session (`initialize`), and end it | `open`, `close` |
//! | lend a session to a client without one | `lent` |
//! | write down what must not run twice | `journal` |
//! | choose where to, send, and decide about a repeat | `answer`, `attempt` |
//! | how often a call was tried, and where | `tries` |
//! | relay a stream, mend it when it breaks | `relay`, `relay/mend` |
//! | pass a large answer on | `transfer` |
//! | take a server's own stream up again | `take_up` |
//! | what stands in for a server that cannot answer | `fallback` |
//! | which questions are the same | `canonical` |
//! | what the gateway adds to an answer | `mark` |
//! | messages without an id | `tell` |
//! | a call that its client has cancelled | `wanted` |
//! | a subscription of the modern era, made again where it broke | `listen` |
//! | the gateway's own client, for checks | `probe` |
//! | what the gateway answers to servers itself | `own` |
//! | whether an answer is this call's | `addressed` |
//! | what a server's HTTP status may mean to a client | `judge` |
//! | learn from answers | `observe` |
//! | which instance an opaque state belongs to | `state` |
//! | what changes in headers on the way | `headers` |
//!
//! The centre of the proxy speaks the semantics of Streamable HTTP: an ingress hands in one message
//! and gets one [`Answer`]; WebSocket and HTTP+SSE clients, and stdio, WebSocket and HTTP+SSE
//! servers, are adapters on either side (`docs/decisions/0001-streamable-http-in-the-middle.md`).

mod addressed;
mod answer;
mod attempt;
mod canonical;
mod close;
mod fallback;
pub(crate) mod headers;
mod journal;
mod judge;
mod lent;
mod listen;
pub(crate) mod mark;
mod observe;
mod open;
pub(crate) mod own;
pub(crate) mod probe;
mod relay;
mod state;
mod take_up;
mod tell;
mod transfer;
mod tries;
mod wanted;

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use holdfast_config::BulkheadClass;
use holdfast_engine::class::CallClass;
use holdfast_engine::journal::{CallKey, Phase};
use holdfast_engine::limits::bulkhead::ToolKey;
use holdfast_engine::repeat::{MAX_ATTEMPTS, is_lost_session};
use holdfast_engine::retry_budget::NoRetry;
use holdfast_mcp::batch::{is_batch, split_batch};
use holdfast_mcp::method::Method;
use holdfast_mcp::peek::{Kind, peek};
use holdfast_mcp::sse::Event;
use holdfast_mcp::version::Era;
use http::StatusCode;

pub(crate) use self::answer::{first_answer, gave_up};
pub(crate) use self::attempt::{PATIENCE, Route, request_http};
pub(crate) use self::close::close_at_server;
pub(crate) use self::fallback::{Answers, forget};
use self::headers::ForServer;
pub(crate) use self::journal::{Fate, Open as OpenEntries, Ticket, inherit};
pub(crate) use self::open::replay;
pub(crate) use self::relay::{First, Sink, relay};
pub(crate) use self::take_up::resume_at_server;
pub(crate) use self::tell::tell;
pub(crate) use self::transfer::Transfer;
pub(crate) use self::wanted::Wanted;
use crate::failure::{Failure, Ran};
use crate::fleet::{Admitted, Attempt, NotAdmitted, Outcome};
use crate::gateway::Gateway;
use crate::hold::Held;
use crate::metrics::{CallOutcome, GaugeGuard};
use crate::principal::Principal;
use crate::response::Headers;
use crate::server::Server;
use crate::session::{InUse, Session};
use crate::upstream::events::EventSource;

/// When a call that could be left out is worth another try: about a round of checks.
const DEGRADED_FOR: Duration = Duration::from_secs(5);

/// One request (or batch) of a client, with everything that was decided at its receipt.
pub(crate) struct Call {
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) server: Arc<Server>,
    pub(crate) session: Option<Arc<Session>>,
    /// What a failover that goes bit by bit knows it by where it has no session: 64 random bits.
    pub(crate) steered_by: u64,
    pub(crate) principal: Principal,
    pub(crate) era: Era,
    pub(crate) method: Method,
    pub(crate) class: CallClass,
    pub(crate) ids: Ids,
    /// Its number among the calls of its session.
    pub(crate) number: u64,
    /// What goes upstream: the client's headers without what belongs to its own connection.
    pub(crate) headers: Arc<ForServer>,
    pub(crate) body: Bytes,
    /// Whether the client takes an event stream for an answer.
    pub(crate) takes_stream: bool,
    /// Whether the client's messages are frames of one connection, so that no HTTP response carries
    /// the answer.
    pub(crate) framed: bool,
    /// Whether a stream to this client carries ids that it can come back with.
    pub(crate) resumable: bool,
    pub(crate) started: Instant,
    /// The id that a trusted balancer gave it: the same for every sending of it.
    pub(crate) balancer_id: Option<Box<str>>,
    /// Whether it was at another node before, or here already, where it may have run.
    pub(crate) again: bool,
    /// The highest progress that its client was told by a node before this one.
    pub(crate) told: Option<f64>,
    /// Its name in the journal and whether a balancer gave it, once somebody has asked.
    pub(crate) key: OnceLock<Option<(CallKey, bool)>>,
    /// Its entry in the journal, once it has one.
    pub(crate) ticket: OnceLock<Ticket>,
    pub(crate) shelf: Shelf,
    /// Its place among the server's calls, once it was admitted.
    pub(crate) admitted: OnceLock<Admitted>,
    /// Whether its client still wants its answer.
    pub(crate) wanted: Wanted,
    /// Whether it may be at a server, or may have been.
    pub(crate) out: Out,
    /// Whether it is made in place of a call of another server, which could not answer.
    pub(crate) stands_in: bool,
    pub(crate) _guards: Guards,
}

/// What limits and breakers know a call by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shelf {
    pub(crate) class: BulkheadClass,
    /// Its tool's own breaker, by number.
    pub(crate) tool: Option<usize>,
    /// What its tool is known by in its class.
    pub(crate) key: ToolKey,
}

/// Whether a call may have reached a server: what its end says of its effect. One that ends while it waits here
/// did not run.
#[derive(Debug, Default)]
pub(crate) struct Out {
    is: AtomicBool,
    /// How often it was sent when its answer last began to stream. Should that break off, it goes on from there.
    times: AtomicU32,
    /// Whether it was sent once more since its server has moved.
    elsewhere: AtomicBool,
}

/// What is held while a call runs.
pub(crate) struct Guards {
    pub(crate) _node: GaugeGuard,
    pub(crate) _server: GaugeGuard,
    pub(crate) _session: Option<InUse>,
}

/// The ids that wait for an answer, as JSON text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ids {
    None,
    One(Box<str>),
    Batch(Vec<Box<str>>),
}

/// The first thing that a client can be told. Small, since it goes through many hands.
pub(crate) enum Answer {
    /// A whole response.
    Whole(Box<Whole>),
    /// A response too large to hold back; streamed from here on.
    Large(Box<Large>),
    /// A stream that held exactly the answer.
    One(Box<One>),
    /// A stream, from its first event on.
    Events(Box<Events>),
    /// The gateway's own failure.
    Failed(Failure),
    /// The session went to another node before the call was sent: it did not run, and is to be
    /// placed anew.
    Moved,
    /// Nothing that may be said: the client's connection is closed instead.
    HangUp,
}

/// A response whose body is here.
pub(crate) struct Whole {
    pub(crate) status: StatusCode,
    pub(crate) headers: Headers,
    pub(crate) body: Bytes,
}

/// The one event that a stream held.
pub(crate) struct One {
    pub(crate) status: StatusCode,
    pub(crate) headers: Headers,
    pub(crate) event: Event,
}

/// A response whose body is still coming.
pub(crate) struct Large {
    pub(crate) status: StatusCode,
    pub(crate) headers: Headers,
    pub(crate) body: Transfer,
}

/// A server's stream.
pub(crate) struct Events {
    pub(crate) headers: Headers,
    pub(crate) first: Option<Event>,
    pub(crate) source: EventSource,
    pub(crate) route: Route,
    /// The attempt that brought it, until it is settled.
    pub(crate) attempt: Option<Attempt>,
}

// === impl Answer ===

impl Events {
    /// Tells the attempt that brought the stream that it has said something: what only primes is nothing.
    fn heard(attempt: &mut Option<Attempt>, event: &Event) {
        if let Some(attempt) = attempt
            && event.data.as_ref().is_some_and(|data| !data.is_empty())
        {
            attempt.heard();
        }
    }
}

impl Answer {
    pub(crate) fn whole(whole: Whole) -> Self {
        Self::Whole(Box::new(whole))
    }
}

// === impl Whole ===

impl Whole {
    /// Whether the response says that the server does not know the session, and how it said so.
    pub(crate) fn says_lost(&self, sent_session: bool, modern: bool) -> Option<String> {
        if !matches!(self.status, StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST) {
            return None;
        }
        let message = peek(&self.body).ok();
        let code = message.as_ref().and_then(|message| message.error_code);
        let text = message.as_ref().and_then(|message| message.error_message.as_deref());
        let status = self.status.as_u16();
        is_lost_session(status, sent_session, code, text, modern).then(|| {
            let how = text.unwrap_or(self.status.as_str());
            format!("the server does not know the session ({how})")
        })
    }
}

// === impl Out ===

impl Out {
    pub(crate) fn set(&self, out: bool) {
        self.is.store(out, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> bool {
        self.is.load(Ordering::Relaxed)
    }

    fn set_times(&self, times: u32) {
        self.times.store(times, Ordering::Relaxed);
    }

    fn times(&self) -> u32 {
        self.times.load(Ordering::Relaxed)
    }

    /// It is sent once more since its server has moved; whether that is the first time.
    fn goes_elsewhere(&self) -> bool {
        !self.elsewhere.swap(true, Ordering::Relaxed)
    }

    fn went_elsewhere(&self) -> bool {
        self.elsewhere.load(Ordering::Relaxed)
    }
}

// === impl Ids ===

impl Ids {
    /// The ids of a body that nobody has looked at yet: a request, or a batch of them.
    pub(crate) fn of(body: &[u8]) -> Self {
        let id = |message: &[u8]| {
            let message = peek(message).ok().filter(|message| message.kind == Kind::Request)?;
            message.id.map(|id| id.to_owned_text())
        };
        if !is_batch(body) {
            return id(body).map_or(Self::None, Self::One);
        }
        let members = split_batch(body).unwrap_or_default();
        Self::Batch(members.into_iter().filter_map(|member| id(&body[member])).collect())
    }

    pub(crate) fn count(&self) -> usize {
        match self {
            Self::None => 0,
            Self::One(_) => 1,
            Self::Batch(ids) => ids.len(),
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &str> {
        let (one, many): (Option<&str>, &[Box<str>]) = match self {
            Self::None => (None, &[]),
            Self::One(id) => (Some(id), &[]),
            Self::Batch(ids) => (None, ids),
        };
        one.into_iter().chain(many.iter().map(|id| &**id))
    }

    /// Whether this message is the answer to everything that waits.
    pub(crate) fn is_whole_answer(&self, data: &[u8]) -> bool {
        let Self::One(id) = self else { return false };
        peek(data).is_ok_and(|message| {
            message.kind == Kind::Response
                && message.id.is_some_and(|answered| answered.as_str() == &**id)
        })
    }

    /// Whether one of several has this id (JSON text).
    pub(crate) fn hold(&self, id: &str) -> bool {
        matches!(self, Self::Batch(ids) if ids.iter().any(|own| **own == *id))
    }

    /// Whether it is the one with this id (JSON text).
    pub(crate) fn is(&self, id: &str) -> bool {
        matches!(self, Self::One(own) if **own == *id)
    }

    /// The one id, as a sealed event id carries it.
    pub(crate) fn one(&self) -> Option<Box<str>> {
        match self {
            Self::One(id) => Some(id.clone()),
            Self::None | Self::Batch(_) => None,
        }
    }
}

// === impl Call ===

impl Drop for Call {
    fn drop(&mut self) {
        if let Some(session) = self.session.as_ref().filter(|_| self.wanted.is_listed()) {
            session.ran(self);
        }
    }
}

impl Held for Call {
    fn is_given_up(&self) -> bool {
        self.server.giving_up().is_cancelled()
    }
}

impl Call {
    /// What the end of an attempt says about its instance: nothing, where the session was being ended.
    fn judged(&self, outcome: Outcome) -> Outcome {
        match &self.session {
            Some(session) if session.is_ending() => Outcome::Void,
            _ => outcome,
        }
    }

    pub(crate) fn modern(&self) -> bool {
        self.era == Era::Modern
    }

    /// Lets the call in at its server, once; it may have to wait for its turn. One that its client cancels
    /// meanwhile is done with that as well, and has no place. `Err` within: the answer of one that the journal has
    /// while it waits.
    ///
    /// # Errors
    /// [`Failure`]; it was not sent.
    pub(crate) async fn enter(self: &Arc<Self>) -> Result<Result<(), Answer>, Failure> {
        if self.admitted.get().is_some() {
            return Ok(Ok(()));
        }
        let fleet = &self.server.fleet;
        // What opens a conversation takes nobody's room, and neither does what lasts for days.
        let lasts = self.method == Method::SubscriptionsListen;
        let counts = self.class != CallClass::Lifecycle && !lasts;
        let admitted = match counts {
            true => {
                Session::runs(self);
                let Shelf { class, key, .. } = self.shelf;
                let admitted = fleet.admit_calls(self.ids.count(), class, key, self.deadline());
                let mut admitted = std::pin::pin!(async {
                    tokio::select! {
                        biased;
                        admitted = admitted => Some(admitted),
                        () = self.wanted.cancelled() => None,
                    }
                });
                let at_once = tokio::select! {
                    biased;
                    admitted = &mut admitted => Some(admitted),
                    () = std::future::ready(()) => None,
                };
                let admitted = match at_once {
                    Some(admitted) => admitted,
                    None => match Box::pin(self.waits(admitted)).await {
                        Ok(admitted) => admitted,
                        Err(answer) => return Ok(Err(answer)),
                    },
                };
                match admitted {
                    Some(Ok(admitted)) => admitted,
                    Some(Err(refused)) => return Err(self.not_admitted(refused)),
                    None => return Ok(Ok(())),
                }
            }
            false => fleet.let_in(lasts),
        };
        let _ = self.admitted.set(admitted);
        if !self.wanted.goes_in() {
            self.leave();
        }
        Ok(Ok(()))
    }

    /// Waits for the call's turn, and writes it down meanwhile if it may not run twice: the wait may be longer than
    /// a call may take into the journal.
    ///
    /// # Errors
    /// The call's answer, where it does not run here.
    async fn waits<T>(
        self: &Arc<Self>,
        mut turn: impl Future<Output = T> + Unpin,
    ) -> Result<T, Answer> {
        let mut written = std::pin::pin!(journal::admit(self, Phase::Waiting));
        let comes = tokio::select! {
            biased;
            written = &mut written => {
                written?;
                return Ok(turn.await);
            }
            comes = &mut turn => comes,
        };
        written.await?;
        Ok(comes)
    }

    #[cold]
    fn not_admitted(&self, refused: NotAdmitted) -> Failure {
        let name = &self.server.name;
        self.server.fleet.counts.refused(refused.why());
        match refused {
            NotAdmitted::Full { class, retry_after, waited } => {
                let class = class.label();
                let reason = match waited {
                    true => format!("its turn in class {class} did not come in time (bulkheads)"),
                    false => format!("class {class} is full and so is its queue (bulkheads)"),
                };
                Failure::overloaded(name, reason, retry_after)
            }
            NotAdmitted::TooMany { calls, class, concurrency } => {
                let class = class.label();
                let reason = format!(
                    "a batch of {calls} calls, and class {class} has room for {concurrency} at once \
                     (bulkheads.{class}.concurrency): send fewer in one batch"
                );
                // Coming back later does not make it smaller.
                let failure = Failure::overloaded(name, reason, Duration::ZERO);
                Failure { retry_after: None, ..failure }
            }
            NotAdmitted::Limited { class, retry_after } => {
                let class = class.label();
                let reason = format!(
                    "its tool hangs, fills class {class} and is limited (bulkheads.quarantine)"
                );
                Failure::overloaded(name, reason, retry_after)
            }
            NotAdmitted::Needs { server, retry_after } => {
                let reason = format!("it depends on {server}, which does not take calls now");
                Failure { retry_after: Some(retry_after), ..Failure::needs(name, reason) }
            }
            NotAdmitted::Degraded { class } => {
                let class = class.label();
                let reason = format!(
                    "the server is poorly, and class {class} has a quarter of its room until it is \
                     better (health.measures.degrade)"
                );
                Failure::overloaded(name, reason, DEGRADED_FOR)
            }
            NotAdmitted::Paused => {
                Failure::unavailable(name, "its failover has not ended in time".to_owned())
            }
        }
    }

    /// When its time is over. What is sent again behind an open stream has the whole time again.
    fn deadline(&self) -> Instant {
        let began = if self.out.get() { Instant::now() } else { self.started };
        began + self.server.settings.timeout
    }

    /// [`Self::may_send`], right before its first byte: from here on it may have run.
    ///
    /// # Errors
    /// As [`Self::may_send`].
    fn goes_out(&self) -> Result<(), String> {
        self.may_send()?;
        if self.wanted.is_cancelled() {
            return Err("its client has cancelled it".to_owned());
        }
        self.out.set(true);
        Ok(())
    }

    /// Whether it may have had its effect.
    fn ran(&self) -> Ran {
        if self.again || self.out.get() || self.may_be_taken() { Ran::Maybe } else { Ran::No }
    }

    /// What it ends with when its time is over, after so long.
    pub(crate) fn timed_out(&self, after: Duration) -> Failure {
        match self.ran() {
            Ran::Maybe => Failure::timed_out(&self.server.name, after),
            Ran::No => Failure::not_sent_in_time(&self.server.name, after),
        }
    }

    /// What it ends with when its node, or what is configured, does not wait for it any longer.
    pub(crate) fn given_up(&self) -> Failure {
        let failure = self.server.given_up();
        match self.ran() {
            Ran::Maybe => failure,
            Ran::No => Failure::unavailable(&self.server.name, failure.reason),
        }
    }

    /// What a failover that goes bit by bit knows it by: its session, or chance.
    pub(crate) fn steering_key(&self) -> u64 {
        self.session.as_ref().map_or(self.steered_by, |session| session.steering_key())
    }

    /// Resolves when its session is over; never, if it has none.
    pub(crate) async fn session_is_over(&self) {
        match &self.session {
            Some(session) => session.is_over().await,
            None => std::future::pending().await,
        }
    }

    /// Its client has no use for the answer any more.
    pub(crate) fn cancel(&self) {
        if self.wanted.cancel() {
            self.leave();
        }
    }

    /// Gives its place at the server to the next: nobody waits for its answer, or nobody reads it.
    pub(crate) fn leave(&self) {
        if let Some(admitted) = self.admitted.get() {
            admitted.leave();
        }
    }

    /// Whether it may be sent once more, having been sent so often.
    pub(crate) fn may_repeat(&self, sent: u32) -> Result<(), NoRetry> {
        self.admitted.get().map_or(Ok(()), |admitted| admitted.may_repeat(sent))
    }

    /// Its repetition, if it is one, has failed, or is being answered.
    pub(crate) fn repeat_is_over(&self) {
        self.admitted.get().into_iter().for_each(Admitted::repeat_is_over);
    }

    /// Whether it was sent as often as it may be.
    pub(crate) fn is_spent(&self, sent: u32) -> bool {
        let most = self.admitted.get().map_or(MAX_ATTEMPTS, |admitted| admitted.attempts());
        sent >= most.min(MAX_ATTEMPTS)
    }

    /// Lets go of a call that did not run and that is placed anew: whoever gets it runs it.
    pub(crate) fn let_go(&self) {
        if let Some(ticket) = self.ticket.get() {
            ticket.settle(Phase::Failed);
        }
    }

    /// Whether its session has seen no later call: what may be done twice may not be done out of
    /// order.
    pub(crate) fn is_latest(&self) -> bool {
        self.session.as_ref().is_none_or(|session| session.is_latest(self.number))
    }

    /// Counts the call's end.
    pub(crate) fn settle(&self, outcome: CallOutcome) {
        if let Some(ticket) = self.ticket.get() {
            // What is known better was written down before this. What was never sent runs when it comes again.
            let phase = if self.ran() == Ran::No { Phase::Failed } else { Phase::Unknown };
            ticket.settle(phase);
        }
        if let (Some(admitted), CallOutcome::Ok | CallOutcome::RpcError) =
            (self.admitted.get(), outcome)
        {
            admitted.answered(true);
        }
        // To the last byte, so by the clock and not by the turn.
        let elapsed = self.started.elapsed();
        self.server.metrics.call(self.method, outcome, elapsed);
        tracing::debug!(
            server = %self.server.name,
            method = self.method.label(),
            class = self.class.label(),
            outcome = outcome.label(),
            micros = elapsed.as_micros(),
            "call"
        );
    }

    /// Counts the call's end by the message that answered it.
    pub(crate) fn settle_with(&self, answer: &[u8]) {
        if let Some(ticket) = self.ticket.get() {
            match self.ids {
                // Its members were answered one by one, and this is the last of them.
                Ids::Batch(_) if !is_batch(answer) => ticket.not_kept(),
                _ => ticket.complete(answer),
            }
        }
        let outcome =
            if observe::is_rpc_error(answer) { CallOutcome::RpcError } else { CallOutcome::Ok };
        self.settle(outcome);
    }

    pub(crate) fn fail(&self, failure: &Failure) {
        if let Some(ticket) = self.ticket.get() {
            ticket.failed(failure, &self.ids);
        }
        if failure.ran == Ran::Maybe && self.class == CallClass::Write && !self.is_repeat() {
            self.server.fleet.counts.losses.unknown(self.started);
        }
        self.settle(failure.outcome());
        self.server.metrics.failed(&failure.reason);
        tracing::debug!(
            server = %self.server.name,
            method = self.method.label(),
            reason = %failure.reason,
            "call failed"
        );
    }
}
