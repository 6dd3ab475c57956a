//! One call's life in a node: the order in which the real pure pieces are asked, and nothing else.
//!
//! ```text
//! arrive → journal (put if absent) → lease, life and age → send → settle → answer
//!        ↘ found: wait, deliver, or take over by compare-and-set on the entry's revision
//!          its turn has not come: waiting → (its turn) → pending, by compare-and-set → lease …
//! ```
//! The driver is pure as well: it gets inputs and gives effects, which the node carries out.

use bytes::Bytes;
use holdfast_engine::{
    class::CallClass,
    journal::{
        Arrival, CallKey, Entry, KEEP, MAX_AGE, NotSent, Orphan, Phase, arrival, awaited, may_send,
        orphan,
    },
    repeat::{Progress, Repeat, decide},
    replicated::{Expect, KvCommand, KvEntry, Origin, Reply},
};
use std::time::Duration;

use crate::ports::{Answer, Bug, Effect, Input, Ms, ServerEvent, Token, View};

/// After this long a node answers, whatever it has.
const EXCHANGE_LIMIT: Ms = 10_500;
/// How long the server may take to answer one attempt.
const CALL_LIMIT: Ms = 6_000;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// Not begun, or to be begun again in the node's next life.
    Held,
    Beginning,
    Taking(Orphan),
    Waiting,
    /// Its entry says that it waits for its turn.
    Queued,
    /// Its turn has come: the entry is made to say that it may have been sent.
    Going,
    Sending,
    Reestablishing,
    /// The stream's beginning is being written down.
    Recording(Option<Token>),
    Streaming(Option<Token>),
    /// Told when the journal has it; none: nobody is told.
    Settling(Option<Answer>),
    Closed,
}

/// One call's life in one node.
pub(crate) struct Exchange {
    pub(crate) key: CallKey,
    pub(crate) class: CallClass,
    by_balancer: bool,
    /// A POST, which may begin the call; a GET goes on with its stream.
    post: bool,
    /// The balancer says that it has not tried another node before.
    first: bool,
    pub(crate) received: Ms,
    /// When its turn comes.
    turn: Ms,
    /// When its entry was begun, or taken over.
    begun: Ms,
    client_here: bool,
    state: State,
    /// Who the entry says that sends it: this node in the life in which it wrote that.
    pub(crate) owner: Origin,
    pub(crate) revision: Option<u64>,
    attempts: u32,
    sent_at: Ms,
    /// Some attempt may have run, here or before the entry was taken over.
    may_have_run: bool,
    /// It has seen its own entry: what becomes of that counts.
    waited: bool,
    /// The newest revision seen; what is applied here may be older.
    seen: u64,
    /// Where to resume an orphan's stream; an answer that came while the stream was being recorded.
    early: Option<Token>,
    /// The answer, while the journal does not have it yet.
    result: Option<Token>,
}

impl Exchange {
    pub(crate) fn new(
        key: CallKey,
        class: CallClass,
        by_balancer: bool,
        post: bool,
        first: bool,
        received: Ms,
        turn: Ms,
    ) -> Self {
        Self {
            key,
            class,
            by_balancer,
            post,
            first,
            received,
            turn,
            begun: received,
            client_here: true,
            state: State::Held,
            owner: Origin::default(),
            revision: None,
            attempts: 0,
            sent_at: received,
            may_have_run: false,
            waited: false,
            seen: 0,
            early: None,
            result: None,
        }
    }

    /// Whether this class is journaled.
    pub(crate) fn journaled(&self) -> bool {
        self.class >= CallClass::Idempotent
    }

    pub(crate) fn on(&mut self, view: &View<'_>, input: Input) -> Vec<Effect> {
        let mut out = Vec::new();
        match (self.state, input) {
            (State::Closed, _) => {}
            (_, Input::Gone) => self.client_here = false,
            (State::Held, Input::Arrived | Input::Tick | Input::Changed) if view.joined => {
                self.begin(view, &mut out);
            }
            (State::Waiting, Input::Changed | Input::Tick) => self.look(view, &mut out),
            (State::Queued, Input::Changed | Input::Tick) => self.queued(view, &mut out),
            (State::Going, Input::Written(reply)) => self.goes(view, reply, &mut out),
            (State::Beginning, Input::Written(reply)) => self.begun(view, reply, &mut out),
            (State::Taking(what), Input::Written(reply)) => self.taken(view, what, reply, &mut out),
            (State::Settling(then), Input::Written(reply)) => {
                self.settled(view, then, reply, &mut out);
            }
            (State::Recording(event), Input::Written(reply)) => {
                self.recorded(view, event, reply, &mut out);
            }
            // Only with the planted bug that journals after sending.
            (State::Sending, Input::Written(Some(Reply::Done { revision }))) => {
                self.revision = Some(revision);
            }
            (State::Reestablishing, Input::Reestablished) => self.try_send(view, &mut out),
            (_, Input::Server(attempt, event)) if attempt == self.attempts => {
                self.server(view, event, &mut out);
            }
            _ => {}
        }
        self.deadlines(view, &mut out);
        out
    }

    fn deadlines(&mut self, view: &View<'_>, out: &mut Vec<Effect>) {
        let late = view.now >= self.sent_at + CALL_LIMIT;
        if late && matches!(self.state, State::Sending | State::Streaming(_)) {
            // A last attempt's late answer is not waited for.
            self.attempts += 1;
            self.may_have_run = true;
            self.settle(Phase::Unknown, Some(Answer::MayHaveRun), out);
        }
        if self.state != State::Closed && view.now >= self.received + EXCHANGE_LIMIT {
            out.push(Effect::Note("exchange limit"));
            self.answer(Answer::MayHaveRun, out);
        }
    }

    // === Arrival ===

    fn begin(&mut self, view: &View<'_>, out: &mut Vec<Effect>) {
        if !self.client_here {
            return self.close(out);
        }
        if !self.journaled() {
            self.owner = view.me;
            return self.try_send(view, out);
        }
        // A key without a balancer's id may have named an earlier call, which a copy that lags behind
        // still shows as unfinished: the log itself is asked.
        let lags = !self.by_balancer && self.post && !self.waited;
        match local(view, self.key) {
            Some(found) if !lags => self.found(view, Some(found), out),
            _ if self.post && !self.waited => self.write_pending(view, Expect::Absent, out),
            _ => self.state = State::Waiting,
        }
    }

    fn write_pending(&mut self, view: &View<'_>, expect: Expect, out: &mut Vec<Effect>) {
        if Duration::from_millis(view.now - self.received) >= MAX_AGE {
            return self.not_begun(out);
        }
        (self.owner, self.begun) = (view.me, view.now);
        if view.bug == Some(Bug::JournalAfterSend) {
            self.try_send(view, out);
            out.push(self.propose(view.me, Phase::Pending, expect));
            return;
        }
        self.state = State::Beginning;
        let phase = if self.waits(view) { Phase::Waiting } else { Phase::Pending };
        out.push(self.propose(view.me, phase, expect));
    }

    fn waits(&self, view: &View<'_>) -> bool {
        self.class == CallClass::Write && view.now < self.turn
    }

    fn begun(&mut self, view: &View<'_>, reply: Option<Reply>, out: &mut Vec<Effect>) {
        match reply {
            Some(Reply::Done { revision }) => {
                self.revision = Some(revision);
                self.waited = true;
                if self.class == CallClass::Write && self.begun < self.turn {
                    out.push(Effect::Note("waits for its turn"));
                    self.state = State::Queued;
                    return self.queued(view, out);
                }
                self.try_send(view, out);
            }
            Some(Reply::Mismatch { found: Some(found) }) => {
                self.found(view, decode(&found), out);
            }
            // What was to be replaced has ended meanwhile.
            Some(Reply::Mismatch { found: None }) => self.state = State::Held,
            // A former attempt of this proposal may have been applied: the next life finds out.
            Some(Reply::Fenced { .. }) => self.state = State::Held,
            _ => self.not_begun(out),
        }
    }

    fn queued(&mut self, view: &View<'_>, out: &mut Vec<Effect>) {
        if !self.client_here {
            return self.settle(Phase::Failed, None, out);
        }
        if view.bug == Some(Bug::TurnUnwritten) && view.now >= self.turn {
            return self.try_send(view, out);
        }
        if view.now >= self.turn {
            self.state = State::Going;
            out.push(self.propose_next(Phase::Pending));
        }
    }

    fn goes(&mut self, view: &View<'_>, reply: Option<Reply>, out: &mut Vec<Effect>) {
        match reply {
            Some(Reply::Done { revision }) => {
                self.revision = Some(revision);
                self.try_send(view, out);
            }
            Some(Reply::Mismatch { .. }) => {
                out.push(Effect::Note("taken over while it waited"));
                self.answer(Answer::MayHaveRun, out);
            }
            _ => self.give_up(out),
        }
    }

    fn not_begun(&mut self, out: &mut Vec<Effect>) {
        // Nothing was sent here and nothing will be, but only of a first attempt is that all.
        let only_here = self.first && self.post && !self.may_have_run;
        let answer = if only_here { Answer::DidNotRun } else { Answer::MayHaveRun };
        out.push(Effect::Note("journal not reached"));
        self.answer(answer, out);
    }

    /// Decides by the entry that the journal has.
    fn found(&mut self, view: &View<'_>, found: Option<(Entry, u64)>, out: &mut Vec<Effect>) {
        let Some((entry, revision)) = found else { return self.state = State::Waiting };
        if revision < self.seen {
            return self.state = State::Waiting;
        }
        self.seen = revision;
        let owner_may_run = view.machine.control.may_run(entry.owner);
        let forgets = view.bug == Some(Bug::WaitingForgotten);
        let decision = if self.waited && !forgets {
            awaited(Some(&entry), 1, owner_may_run)
        } else {
            arrival(Some(&entry), 1, self.by_balancer, owner_may_run)
        };
        self.state = State::Waiting;
        match decision {
            Arrival::Run if self.post && self.client_here => {
                if entry.phase == Phase::Waiting {
                    out.push(Effect::Note("ran what waited elsewhere"));
                    if Duration::from_millis(view.now - self.received) >= MAX_AGE {
                        (self.owner, self.revision) = (view.me, Some(revision));
                        return self.give_up(out);
                    }
                } else if !self.waited && entry.phase != Phase::Failed {
                    out.push(Effect::Note("ran anew"));
                }
                self.write_pending(view, Expect::Revision(revision), out);
            }
            Arrival::Run => self.answer(Answer::MayHaveRun, out),
            Arrival::Wait => {
                self.waited = true;
                out.push(Effect::Note("waits"));
            }
            Arrival::Deliver { answer, .. } => self.answer(unseal(answer), out),
            Arrival::NotKept | Arrival::Unknown | Arrival::Forbidden => {
                self.answer(Answer::MayHaveRun, out)
            }
            Arrival::TakeOver => {
                self.waited = true;
                self.take_over(view, &entry, revision, out);
            }
        }
    }

    fn look(&mut self, view: &View<'_>, out: &mut Vec<Effect>) {
        if !self.client_here {
            return self.close(out);
        }
        let Some((entry, revision)) = local(view, self.key) else { return };
        let waits =
            self.waited && !entry.phase.is_finished() && view.machine.control.may_run(entry.owner);
        if !waits && view.joined {
            self.found(view, Some((entry, revision)), out);
        }
    }

    // === Taking over ===

    fn take_over(&mut self, view: &View<'_>, entry: &Entry, at: u64, out: &mut Vec<Effect>) {
        (self.owner, self.begun) = (view.me, view.now);
        if let Some(token) = self.result {
            // It was this node's, in an earlier life, and the answer has come in the meantime.
            out.push(Effect::Note("settled its former life's call"));
            self.state = State::Settling(Some(Answer::Result(token)));
            let phase = complete(Answer::Result(token));
            return out.push(self.propose(view.me, phase, Expect::Revision(at)));
        }
        let mut what = orphan(entry.call_class(), entry.phase.is_resumable(), self.client_here);
        if what == Orphan::OutcomeUnknown && view.bug == Some(Bug::TakeOverRepeatsWrites) {
            what = Orphan::Repeat;
        }
        let phase = match what {
            Orphan::Resume => entry.phase.clone(),
            Orphan::Repeat => Phase::Pending,
            Orphan::OutcomeUnknown => Phase::Unknown,
        };
        if let Phase::Streaming { server_event: Some(event), .. } = &entry.phase {
            self.early = event.parse().ok();
        }
        self.may_have_run = true;
        self.state = State::Taking(what);
        out.push(self.propose(view.me, phase, Expect::Revision(at)));
    }

    fn taken(
        &mut self,
        view: &View<'_>,
        what: Orphan,
        reply: Option<Reply>,
        out: &mut Vec<Effect>,
    ) {
        match reply {
            Some(Reply::Done { revision }) => {
                self.revision = Some(revision);
                self.seen = revision;
                match (what, self.early.take()) {
                    (Orphan::Resume, Some(event)) => {
                        out.push(Effect::Note("resumed an orphan"));
                        self.state = State::Streaming(Some(event));
                        self.resume(view, event, out);
                    }
                    (Orphan::Repeat, _) => {
                        out.push(Effect::Note("repeated an orphan"));
                        self.try_send(view, out);
                    }
                    (Orphan::Resume | Orphan::OutcomeUnknown, _) => {
                        out.push(Effect::Note("gave an orphan up"));
                        self.answer(Answer::MayHaveRun, out);
                    }
                }
            }
            Some(Reply::Mismatch { found: Some(found) }) => {
                out.push(Effect::Note("take-over lost"));
                self.found(view, decode(&found), out);
            }
            Some(Reply::Fenced { .. } | Reply::Mismatch { found: None }) => {
                self.state = State::Held;
            }
            _ => self.answer(Answer::MayHaveRun, out),
        }
    }

    // === Sending ===

    fn try_send(&mut self, view: &View<'_>, out: &mut Vec<Effect>) {
        if self.journaled() {
            if !self.client_here && !self.may_have_run {
                out.push(Effect::Note("client gone before sending"));
                return self.settle(Phase::Failed, None, out);
            }
            let lease = view.lease || view.bug == Some(Bug::LeaseUnchecked);
            let now = if view.bug == Some(Bug::LifeUnchecked) { self.owner } else { view.me };
            let age = Duration::from_millis(view.now - self.begun);
            if let Err(why) = may_send(self.owner, now, lease, age) {
                out.push(Effect::Note(match why {
                    NotSent::NoLease => "not sent: no lease",
                    NotSent::OtherLife => "not sent: another life",
                    NotSent::TooOld => "not sent: too old",
                }));
                return match why {
                    NotSent::OtherLife => self.state = State::Held,
                    NotSent::NoLease | NotSent::TooOld => self.give_up(out),
                };
            }
        } else if !self.client_here {
            return self.close(out);
        }
        self.attempts += 1;
        self.sent_at = view.now;
        self.state = State::Sending;
        out.push(Effect::Send(self.attempts));
    }

    fn resume(&mut self, view: &View<'_>, event: Token, out: &mut Vec<Effect>) {
        self.attempts += 1;
        self.sent_at = view.now;
        out.push(Effect::Resume(self.attempts, event));
    }

    fn server(&mut self, view: &View<'_>, event: ServerEvent, out: &mut Vec<Effect>) {
        match (self.state, event) {
            (State::Recording(_), ServerEvent::Answer(token)) => self.early = Some(token),
            (State::Sending | State::Streaming(_), ServerEvent::Answer(token)) => {
                self.result = Some(token);
                self.settle(complete(Answer::Result(token)), Some(Answer::Result(token)), out);
            }
            (State::Sending, ServerEvent::Stream(event)) => {
                self.may_have_run = true;
                if self.journaled() && self.revision.is_some() {
                    self.state = State::Recording(event);
                    let phase = Phase::Streaming {
                        stream: 1,
                        server_event: event.map(|it| it.to_string()),
                        server_session: None,
                        instance: 0,
                    };
                    out.push(self.propose_next(phase));
                } else {
                    self.state = State::Streaming(event);
                }
            }
            (State::Sending, ServerEvent::NotSent) => self.failed(view, Progress::NotSent, out),
            (State::Sending, ServerEvent::LostSession) => {
                self.failed(view, Progress::DidNotRun, out);
            }
            (State::Sending, ServerEvent::Broken) => {
                self.may_have_run = true;
                self.failed(view, Progress::Sent, out);
            }
            (State::Streaming(Some(event)), ServerEvent::Broken | ServerEvent::NotSent)
                if self.attempts < 6 =>
            {
                self.resume(view, event, out);
            }
            (State::Streaming(_), _) => self.give_up(out),
            _ => {}
        }
    }

    fn failed(&mut self, view: &View<'_>, progress: Progress, out: &mut Vec<Effect>) {
        match decide(self.class, progress, self.attempts, self.client_here) {
            Repeat::Again => self.try_send(view, out),
            Repeat::ReestablishThenAgain => {
                self.state = State::Reestablishing;
                out.push(Effect::Reestablish);
            }
            Repeat::Never(_) => self.give_up(out),
        }
    }

    /// No attempt will be made any more, and none has brought an answer.
    fn give_up(&mut self, out: &mut Vec<Effect>) {
        if self.may_have_run || !self.journaled() {
            self.settle(Phase::Unknown, Some(Answer::MayHaveRun), out);
        } else {
            self.settle(complete(Answer::DidNotRun), Some(Answer::DidNotRun), out);
        }
    }

    fn recorded(
        &mut self,
        view: &View<'_>,
        event: Option<Token>,
        reply: Option<Reply>,
        out: &mut Vec<Effect>,
    ) {
        self.state = State::Streaming(event);
        match reply {
            Some(Reply::Done { revision }) => {
                self.revision = Some(revision);
                out.push(Effect::Commit);
            }
            Some(Reply::Mismatch { .. } | Reply::Fenced { .. }) => {
                out.push(Effect::Note("late record refused"));
            }
            // Headers stay back; the answer is still waited for.
            _ => {}
        }
        if let Some(token) = self.early.take() {
            self.server(view, ServerEvent::Answer(token), out);
        }
    }

    // === Settling ===

    fn settle(&mut self, phase: Phase, then: Option<Answer>, out: &mut Vec<Effect>) {
        if !self.journaled() || self.revision.is_none() {
            return match then {
                Some(answer) => self.answer(answer, out),
                None => self.close(out),
            };
        }
        self.state = State::Settling(then);
        out.push(self.propose_next(phase));
    }

    fn settled(
        &mut self,
        view: &View<'_>,
        then: Option<Answer>,
        reply: Option<Reply>,
        out: &mut Vec<Effect>,
    ) {
        match (reply, then) {
            (Some(Reply::Done { .. }), Some(answer)) => self.answer(answer, out),
            (_, None) => self.close(out),
            // Somebody has taken the call over: who is still here gets the taker's answer.
            (Some(Reply::Mismatch { found: Some(found) }), _) => {
                out.push(Effect::Note("late settlement refused"));
                self.waited = true;
                self.found(view, decode(&found), out);
            }
            (Some(Reply::Fenced { .. } | Reply::Mismatch { .. }), _) => {
                out.push(Effect::Note("late settlement refused"));
                self.waited = true;
                self.state = State::Waiting;
            }
            (_, Some(Answer::Result(token))) => self.answer(Answer::Result(token), out),
            (_, Some(_)) => self.answer(Answer::MayHaveRun, out),
        }
    }

    fn answer(&mut self, answer: Answer, out: &mut Vec<Effect>) {
        out.push(Effect::Answer(answer));
        self.close(out);
    }

    fn close(&mut self, out: &mut Vec<Effect>) {
        self.state = State::Closed;
        out.push(Effect::Close);
    }

    /// Replaces the own entry, in the life that wrote it.
    fn propose_next(&self, phase: Phase) -> Effect {
        let expect = self.revision.map_or(Expect::Absent, Expect::Revision);
        self.propose(self.owner, phase, expect)
    }

    fn propose(&self, origin: Origin, phase: Phase, expect: Expect) -> Effect {
        let entry = Entry {
            owner: origin,
            principal: 1,
            server: "counter".into(),
            class: self.class as u8,
            instance: 0,
            started: self.received,
            by_balancer: self.by_balancer,
            phase,
        };
        let value = postcard::to_stdvec(&entry).expect("an entry can be encoded").into();
        let deadline = Some(self.begun + KEEP.as_millis() as u64);
        let key = Bytes::copy_from_slice(self.key.as_ref());
        Effect::Propose(origin, KvCommand::Put { key, value, expect, deadline })
    }
}

/// The entry as it is applied at this node.
fn local(view: &View<'_>, key: CallKey) -> Option<(Entry, u64)> {
    decode(view.machine.kv.get(key.as_ref(), view.machine.control.time)?)
}

pub(crate) fn decode(found: &KvEntry) -> Option<(Entry, u64)> {
    Some((postcard::from_bytes(&found.value).ok()?, found.revision))
}

fn complete(answer: Answer) -> Phase {
    Phase::Complete { answer: Some(seal(answer)), status: 200, is_stream: false }
}

fn seal(answer: Answer) -> Bytes {
    let token = if let Answer::Result(token) = answer { Some(token) } else { None };
    postcard::to_stdvec(&token).expect("a number can be encoded").into()
}

fn unseal(answer: &Bytes) -> Answer {
    match postcard::from_bytes(answer) {
        Ok(Some(token)) => Answer::Result(token),
        _ => Answer::DidNotRun,
    }
}
