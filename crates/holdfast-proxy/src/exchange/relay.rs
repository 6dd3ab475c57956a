//! Relaying a stream to its end, and mending it when the server's side breaks.
//!
//! | the server's stream ends before the answer | what follows |
//! |---|---|
//! | cleanly, and it has given event ids (SEP-1699) | a client that can come back is let go and the stream resumed when it does; for others it is resumed behind their open stream |
//! | broken, with event ids | resumed at the server |
//! | a failover has left its instance: a `subscriptions/listen` | it is made again at the new one, behind the client's open stream |
//! | otherwise, or not resumable any more: a Read | the call is sent again, where the retry budget has room |
//! | otherwise: a Write | a JSON-RPC error under the call's id: it may have run |
//!
//! After a repeat, progress up to the last value that was sent is suppressed: it must only rise.

mod mend;

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use holdfast_engine::backoff::Backoff;
use holdfast_mcp::batch::split_batch;
use holdfast_mcp::method::Method;
use holdfast_mcp::peek::{Kind, outline};
use holdfast_mcp::sse::Event;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::attempt::{Route, finish_reading};
use super::wanted::HangUp;
use super::{Answer, Call, Events, Ids, addressed, answer, listen, observe, own, tell};
use crate::asked::{Alarm, Seldom, perhaps};
use crate::failure::Failure;
use crate::fleet::{Attempt, Outcome};
use crate::metrics::CallOutcome;
use crate::spliced;
use crate::streams::StreamLog;
use crate::upstream::events::{End, EventSource, Silence};

/// Where a relay delivers.
pub(crate) enum Sink {
    /// A stream that an HTTP response follows.
    Log(Arc<StreamLog>),
    /// Messages one by one, for a client with a connection of its own (WebSocket, HTTP+SSE).
    Frames(mpsc::Sender<Bytes>),
    /// Nobody: a legacy client that left does not cancel its call.
    Nobody,
}

/// What a relay begins with.
pub(crate) enum First {
    Here(Answer),
    /// It is waited for: the client has the beginning of its response already.
    Coming(Pin<Box<dyn Future<Output = Answer> + Send>>),
}

/// Delivers an answer, and for a stream everything up to its end. Every id of the call gets exactly
/// one answer or error.
///
/// A node that drains waits for one that writes to a log, whether its client is there or not, but not
/// for as long as it gets no further without one.
///
/// # Cancel safety
/// Not cancel safe: owned by a task, cancelled through the log's token only.
pub(crate) fn relay(call: Arc<Call>, first: First, sink: Sink) -> impl Future<Output = ()> + Send {
    // From now on, and not only once it is polled.
    let open = matches!(sink, Sink::Log(_)).then(|| call.gateway.open.token());
    relay_all(call, first, sink, open)
}

async fn relay_all(call: Arc<Call>, first: First, sink: Sink, open: Option<TaskTrackerToken>) {
    let mut relay = Relay {
        call: &call,
        sink: &sink,
        open,
        left: call.ids.iter().map(Into::into).collect(),
        progress: call.told,
        acknowledged: false,
        floor: call.told,
        asked: Vec::new(),
        done: None,
        backoff: Backoff::new(Duration::from_millis(100), Duration::from_secs(15)),
    };
    let mut left = Seldom::new(Box::pin(left(&call, &sink)));
    let first = match first {
        First::Here(first) => Ok(first),
        First::Coming(first) => tokio::select! {
            biased;
            first = first => Ok(first),
            end = &mut left => Err(end),
        },
    };
    let end = match first {
        Ok(first) => tokio::select! {
            biased;
            () = relay.run(first) => Ended::Answered,
            end = &mut left => end,
            () = listen::drained(&call) => Ended::Drained,
        },
        Err(end) => end,
    };
    match end {
        Ended::Answered => {}
        Ended::HungUp => call.settle(CallOutcome::Cancelled),
        Ended::Drained => relay.goodbye().await,
        Ended::GivenUp => relay.fail(call.given_up()).await,
    }
    if let Sink::Log(log) = &sink {
        // What is left to do is not what the client waits for.
        log.finish_and_let_write().await;
    }
    if let Some(source) = relay.done.take() {
        finish_reading(source);
    }
    let Sink::Log(log) = &sink else { return };
    if log.resumable() && !matches!(end, Ended::HungUp) {
        call.gateway.streams.retire(log);
    } else {
        // Whoever comes back for a stream without its end is told its fate.
        call.gateway.streams.remove(log.id());
    }
}

/// How a relay came to its end.
enum Ended {
    Answered,
    HungUp,
    Drained,
    GivenUp,
}

/// Resolves when nobody waits for the answer any more, or the node does not.
async fn left(call: &Arc<Call>, sink: &Sink) -> Ended {
    let giving_up = call.server.giving_up();
    tokio::select! {
        biased;
        () = hung_up(call, sink) => Ended::HungUp,
        () = giving_up.cancelled() => Ended::GivenUp,
    }
}

/// Resolves when the client's disconnect has cancelled the call, or the end of its session.
async fn hung_up(call: &Arc<Call>, sink: &Sink) {
    let Sink::Log(log) = sink else { return std::future::pending().await };
    let waiting = Arc::downgrade(call);
    log.when_stuck(move || waiting.upgrade().iter().for_each(|call| call.leave()));
    tokio::select! {
        () = log.cancel.cancelled() => {}
        () = call.session_is_over() => {}
    }
}

struct Relay<'a> {
    call: &'a Arc<Call>,
    sink: &'a Sink,
    /// Keeps the node from ending.
    open: Option<TaskTrackerToken>,
    /// The ids that still wait for their answer, as JSON text.
    left: Vec<Box<str>>,
    /// The highest progress that the client was told.
    progress: Option<f64>,
    /// Whether the client has the acknowledgement of its listen.
    acknowledged: bool,
    /// The highest progress of the attempts before this one.
    floor: Option<f64>,
    /// Requests of the server that went to the client with this call.
    asked: Vec<Box<str>>,
    /// The server's stream that has brought all answers: its connection can be used again.
    done: Option<EventSource>,
    /// Between listens that break.
    backoff: Backoff,
}

impl Relay<'_> {
    async fn run(&mut self, first: Answer) {
        let mut next = first;
        let mut time = Alarm::at(Instant::now() + self.call.server.settings.max_duration);
        loop {
            let events = match next {
                Answer::Events(events) => events,
                other => return self.whole(other).await,
            };
            if self.listens() {
                match self.stream(*events).await {
                    Some(again) => next = again,
                    None => return,
                }
                continue;
            }
            let ended = {
                let mut stream = pin!(self.stream(*events));
                let either = poll_fn(|cx| match stream.as_mut().poll(cx) {
                    Poll::Ready(ended) => Poll::Ready(Some(ended)),
                    Poll::Pending => time.poll(cx).map(|()| None),
                });
                either.await
            };
            match ended {
                Some(None) => return,
                Some(Some(again)) => next = again,
                None => {
                    let after = self.call.server.settings.max_duration;
                    return self.fail(Failure::timed_out(&self.call.server.name, after)).await;
                }
            }
        }
    }

    /// Delivers what came in one piece; it is counted already.
    async fn whole(&mut self, answer: Answer) {
        let failure = match answer {
            Answer::Whole(whole) => match addressed::refusal(&whole.body, &self.call.ids) {
                Some(body) => return self.only(&body).await,
                None => {
                    let reason = format!("it answered with HTTP status {}", whole.status);
                    Failure::unknown(&self.call.server.name, reason)
                }
            },
            Answer::One(one) => {
                let data = one.event.data.unwrap_or_default();
                return self.only(&data).await;
            }
            Answer::Large(_) if matches!(self.sink, Sink::Nobody) => return,
            Answer::Large(large) => match large.body.all().await {
                Ok(body) => return self.only(&body).await,
                Err(failure) => failure,
            },
            Answer::Failed(failure) => failure,
            // Its client has the beginning of the response from here already.
            Answer::Moved => {
                let reason = "its session went to another node".to_owned();
                Failure::unavailable(&self.call.server.name, reason)
            }
            Answer::Events(_) | Answer::HangUp => return,
        };
        self.render(failure).await;
    }

    /// Relays one stream. `None`: it brought every answer. Otherwise what the call goes on with.
    async fn stream(&mut self, events: Events) -> Option<Answer> {
        let Events { mut first, mut source, mut route, mut attempt, .. } = events;
        let mut server_event: Option<Box<str>> = None;
        let mut retry = None;
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
        let mut silence = Silence::new(self.call.server.settings.timeout);
        let mut hang_up = HangUp::of(self.call);
        loop {
            let end = loop {
                // What has come already waits for nothing: many events may have come together.
                let here = first.take().map(Ok).or_else(|| source.here());
                let event = match here {
                    Some(event) => Some(event),
                    // A listen stream is silent for as long as nothing changes.
                    None if self.listens() => tokio::select! {
                        event = source.next() => Some(event),
                        () = self.moves_on(&route) => {
                            settle(&mut attempt, Outcome::Answered);
                            drop(source);
                            return Some(Box::pin(self.goes_along()).await);
                        }
                    },
                    None => {
                        let gone = attempt.as_ref().and_then(|it| it.may_leave(self.call.class));
                        tokio::select! {
                            biased;
                            event = self.next(&mut source, &route, &mut silence) => event,
                            () = hang_up.due(&mut attempt) => Some(Err(End::Cancelled)),
                            () = perhaps(gone) => {
                                settle(&mut attempt, Outcome::TimedOut);
                                drop(source);
                                let reason = "its instance was given up while it was waited for";
                                return Box::pin(self.again(&mut route, reason.to_owned())).await;
                            }
                        }
                    }
                };
                let Some(event) = event else {
                    settle(&mut attempt, Outcome::TimedOut);
                    let after = self.call.server.settings.timeout;
                    let failure = Failure::timed_out(&self.call.server.name, after);
                    self.fail(failure).await;
                    return None;
                };
                match event {
                    Ok(event) => {
                        Events::heard(&mut attempt, &event);
                        backoff.reset();
                        self.backoff.reset();
                        self.event(event, &route, &mut server_event, &mut retry).await;
                        if self.left.is_empty() {
                            settle(&mut attempt, Outcome::Answered);
                            self.done = Some(source);
                            return None;
                        }
                    }
                    Err(end) => break end,
                }
            };
            if matches!(end, End::Cancelled) {
                drop(source);
                self.left.clear();
                self.call.settle(CallOutcome::Cancelled);
                self.take_back(&route).await;
                return None;
            }
            if matches!(end, End::Unread) {
                // It is not its server's doing, and would come again.
                settle(&mut attempt, Outcome::Void);
                self.take_back(&route).await;
                let reason = "its client did not take what the server said".to_owned();
                self.fail(Failure::unknown(&self.call.server.name, reason)).await;
                return None;
            }
            if self.call.wanted.are_struck(&self.left) {
                // Its client has cancelled all that is left of the batch: it misses nothing.
                drop(source);
                let none = self.left.len() == self.call.ids.count();
                settle(&mut attempt, if none { Outcome::Void } else { Outcome::Answered });
                self.left.clear();
                self.call.settle(if none { CallOutcome::Cancelled } else { CallOutcome::Ok });
                self.take_back(&route).await;
                return None;
            }
            let reason = match &end {
                End::Clean | End::Cancelled | End::Unread => {
                    "the stream ended before the answer".to_owned()
                }
                End::Broken(reason) => {
                    let metrics = &self.call.server.metrics;
                    metrics.streams_broken.inc();
                    reason.clone()
                }
            };
            let resumed = match &server_event {
                // Boxed, as what follows: most streams end well, and each is moved into its task.
                Some(event) => {
                    Box::pin(self.resume(&route, event, retry, &end, &mut backoff)).await
                }
                None => None,
            };
            match resumed {
                Some(next) => {
                    if let (Some(attempt), End::Clean) = (&mut attempt, &end) {
                        // It has let its client go on purpose, and takes the call up again when asked.
                        attempt.heard();
                    }
                    source = next;
                }
                None => {
                    settle(&mut attempt, self.call.judged(Outcome::Broken));
                    return Box::pin(self.again(&mut route, reason)).await;
                }
            }
        }
    }

    /// The server's next event, if it comes in time. While the server waits for the client, which may be
    /// away, nothing of this holds up a drain, and its silence is none: a person may think for long.
    async fn next(
        &mut self,
        source: &mut EventSource,
        route: &Route,
        silence: &mut Silence,
    ) -> Option<Result<Event, End>> {
        loop {
            if let Some(session) = &route.session {
                self.asked.retain(|id| session.waits_for(id));
            }
            if self.asked.is_empty() {
                return source.next_within(silence).await;
            }
            self.open = None;
            let event = source.next_within(silence).await;
            self.open = Some(self.call.gateway.open.token());
            // It was not silent: its turn is when the client has answered, and its time begins anew.
            if event.is_some() || self.is_alone() {
                return event;
            }
        }
    }

    /// Whether nobody is there who could answer the server, nor comes back.
    fn is_alone(&self) -> bool {
        match self.sink {
            Sink::Log(log) => log.is_deserted(),
            Sink::Frames(frames) => frames.is_closed(),
            Sink::Nobody => true,
        }
    }

    /// One event of the server on its way to the client.
    async fn event(
        &mut self,
        event: Event,
        route: &Route,
        server_event: &mut Option<Box<str>>,
        retry: &mut Option<Duration>,
    ) {
        if let Some(ms) = event.retry {
            *retry = Some(Duration::from_millis(ms));
        }
        let id = event.id.as_deref().and_then(|id| std::str::from_utf8(id).ok());
        if let Some(id) = id {
            *server_event = Some(id.into());
        }
        if event.event.as_deref().is_some_and(|kind| kind != b"message") {
            tracing::debug!(server = %self.call.server.name, "event of an unknown type dropped");
            return;
        }
        let Some(data) = event.data.filter(|data| !data.is_empty()) else {
            // A priming event: ours has primed the client already, but not with the server's delay.
            if let Sink::Log(log) = self.sink {
                if let Some(id) = id {
                    log.note_server_event(id);
                }
                if let Some(ms) = event.retry {
                    log.hint(ms);
                }
            }
            return;
        };
        let generation = route.bound.as_ref().map_or(1, |bound| bound.generation);
        let Ok(message) = outline(&data) else {
            // A batch, or nothing that we know and not ours to judge.
            for element in split_batch(&data).unwrap_or_default() {
                if let Some(answered) = outline(&data[element]).ok().and_then(|message| message.id)
                {
                    self.answered(answered.as_str());
                }
            }
            if self.left.is_empty() {
                self.call.settle(CallOutcome::Ok);
            }
            return self.answer(&data, id).await;
        };
        match message.kind {
            Kind::Response => {
                let id_text = message.id.map(|id| id.to_owned_text());
                let data = if id_text.is_some_and(|id| self.answered(&id)) {
                    data
                } else if let (true, [only]) = (message.is_error, self.left.as_slice()) {
                    // An error without a usable id can only mean the one call of this stream.
                    let body = addressed::refusal(&data, &Ids::One(only.clone()));
                    self.left.clear();
                    body.unwrap_or(data)
                } else {
                    tracing::debug!(server = %self.call.server.name, "answer to nothing dropped");
                    return;
                };
                if observe::matters(self.call.method) {
                    Box::pin(observe::observe(self.call, &data)).await;
                }
                let data = answer::passed_on(self.call, route, data).await;
                self.deliver(&data, id).await;
            }
            Kind::Request if route.lent.is_some() => {
                // The gateway is the client of this session: the call's has no part in it.
                if let Some(reply) = own::reply(&data) {
                    tell::reply(self.call, route, reply);
                }
            }
            Kind::Request => {
                if let (Some(session), Some(request)) = (&route.session, message.id) {
                    let id = spliced::client_id(request.as_str(), generation);
                    session.asked(&id);
                    self.asked.push(id);
                }
                self.send(&spliced::for_client(data, generation), id).await;
            }
            Kind::Notification => match Method::parse(&message.method) {
                Method::Progress if !self.rises(message.progress) => {}
                _ if self.listens() && message.method == listen::ACKNOWLEDGED => {
                    if std::mem::replace(&mut self.acknowledged, true) {
                        // Made again behind the client's open stream: it is not told of that, but
                        // of what it may have missed.
                        for message in listen::missed(&self.call.body) {
                            self.send(&message.into(), None).await;
                        }
                        return;
                    }
                    self.send(&data, id).await;
                }
                Method::Cancelled => self.send(&spliced::for_client(data, generation), id).await,
                _ => self.send(&data, id).await,
            },
        }
    }

    fn listens(&self) -> bool {
        self.call.method == Method::SubscriptionsListen
    }

    fn rises(&mut self, value: Option<f64>) -> bool {
        let Some(value) = value else { return true };
        // What earlier attempts have told already; within one attempt the server may do as it likes.
        if self.floor.is_some_and(|told| value <= told) {
            return false;
        }
        let highest = self.progress.map_or(value, |last| last.max(value));
        self.progress = Some(highest);
        if let Sink::Log(log) = self.sink {
            log.note_progress(highest);
        }
        true
    }

    /// The graceful end of a listen stream: its result, so that its client listens again elsewhere.
    async fn goodbye(&mut self) {
        self.call.settle(CallOutcome::Ok);
        for id in std::mem::take(&mut self.left) {
            let result = format!(
                r#"{{"jsonrpc":"2.0","id":{id},"result":{{"resultType":"complete","_meta":{{"io.modelcontextprotocol/subscriptionId":{id}}}}}}}"#
            );
            self.send_last(result.into()).await;
        }
    }

    /// Strikes an id off; whether it was waited for.
    fn answered(&mut self, id: &str) -> bool {
        let at = self.left.iter().position(|left| &**left == id);
        at.map(|at| self.left.swap_remove(at)).is_some()
    }

    async fn deliver(&mut self, answer: &Bytes, id: Option<&str>) {
        if self.left.is_empty() {
            self.call.settle_with(answer);
        }
        self.answer(answer, id).await;
    }

    /// Sends what answers all that is left, and is counted already.
    async fn only(&mut self, answer: &Bytes) {
        self.left.clear();
        self.answer(answer, None).await;
    }

    /// Sends one of the call's answers. The last needs no room: nothing follows it, and it is counted
    /// already, so that it must not be lost to a client that reads slowly.
    async fn answer(&mut self, answer: &Bytes, id: Option<&str>) {
        match self.sink {
            Sink::Log(log) if self.left.is_empty() => {
                self.call.gateway.metrics.events.inc();
                log.append_last(answer, id);
            }
            _ => self.send(answer, id).await,
        }
    }

    async fn fail(&mut self, failure: Failure) {
        if self.left.is_empty() {
            // All of it is answered and counted: only a client that does not take it is left.
            return;
        }
        self.call.fail(&failure);
        self.render(failure).await;
    }

    /// Tells the client of a failure that is already counted.
    async fn render(&mut self, failure: Failure) {
        for id in std::mem::take(&mut self.left) {
            let body = failure.render_one(&id);
            self.send_last(body).await;
        }
    }

    /// Sends an end of the call, for which there is always room: nothing follows it.
    async fn send_last(&self, data: Bytes) {
        self.call.gateway.metrics.events.inc();
        match self.sink {
            Sink::Log(log) => log.append_last(&data, None),
            Sink::Frames(frames) => {
                let sent = frames.send(data);
                let _ = tokio::time::timeout(LAST_SEND, sent).await;
            }
            Sink::Nobody => {}
        }
    }

    async fn send(&mut self, data: &Bytes, server_event: Option<&str>) {
        self.call.gateway.metrics.events.inc();
        match self.sink {
            Sink::Log(log) if log.append_if_room(data, server_event) => {}
            Sink::Log(log) => {
                // Its client reads slowly, and then its connection keeps the node, or it is away.
                self.open = None;
                log.append(data, server_event).await;
                self.open = Some(self.call.gateway.open.token());
            }
            Sink::Frames(frames) => {
                // A client that is gone leaves its answer to nobody.
                let _ = frames.send(Bytes::copy_from_slice(data)).await;
            }
            Sink::Nobody => {}
        }
    }
}

fn settle(attempt: &mut Option<Attempt>, outcome: Outcome) {
    if let Some(attempt) = attempt.take() {
        attempt.settle(outcome);
    }
}

/// How long the end of a call waits for a framed client that does not read.
const LAST_SEND: Duration = Duration::from_secs(10);
