//! From a call to the first thing its client can be told.
//!
//! A loop of choose → send → decide: the rules of what may be repeated are
//! [`holdfast_engine::repeat`], and every turn of the loop is one attempt.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use bytes::Bytes;
use holdfast_engine::class::CallClass;
use holdfast_engine::journal::Phase;
use holdfast_engine::repeat::{Progress, Repeat, decide};
use holdfast_mcp::method::Method;
use holdfast_mcp::peek::peek;
use http::StatusCode;

use super::attempt::{self, AttemptError, Begun, Reply, Route};
use super::tries::{Tries, not_repeated};
use super::wanted::unless_cancelled;
use super::{
    Answer, Call, Events, Large, Transfer, Whole, fallback, journal, judge, lent, mark, observe,
    open, state,
};
use crate::failure::{Failure, FailureKind, Ran};
use crate::fleet::{Ask, Attempt, Outcome};
use crate::metrics::CallOutcome;
use crate::session::{self, Bound, Session, Whereto};
use crate::upstream::Endpoint;
use crate::upstream::mux::Mux;

/// Answers the call, or says that its answer is a stream.
///
/// It has no deadline of its own: the caller holds the clock, because what a caller does when time
/// passes (become a stream, give up) depends on the client's transport.
///
/// # Cancel safety
/// Dropping it hangs up on the server. For a legacy client, whose disconnect is not a cancellation,
/// the caller moves it to a task instead.
///
/// What few calls need is boxed where it is awaited: the future of every call stays small.
pub(crate) async fn first_answer(call: Arc<Call>) -> Answer {
    if call.method == Method::Initialize && !call.modern() {
        return Box::pin(open::initialize(&call)).await;
    }
    if call.server.fleet.is_degraded()
        && let Some(answer) = fallback::spares(&call)
    {
        return answer;
    }
    let mut failure = match tried(&call).await {
        Ok(answer) => return answer,
        // A server that does as it was told ends its response without an answer. Whether a Write ran is said all
        // the same.
        Err(_) if call.wanted.is_cancelled() && call.class == CallClass::Read => {
            return cancelled(&call);
        }
        Err(failure) => failure,
    };
    // A first sending may have had its effect, wherever the last one ended. A Read has none.
    let was_out = call.class != CallClass::Read && call.out.get();
    if failure.ran == Ran::No
        && (was_out || !Box::pin(journal::stays_unsent(&call, &failure)).await)
    {
        failure.ran = Ran::Maybe;
    }
    if fallback::may_stand_in(&call) {
        return Box::pin(fallback::stand_in(&call, failure)).await;
    }
    gave_up(&call, failure)
}

/// The answer that the server gives, in as many attempts as it takes.
///
/// # Errors
/// [`Failure`], which nobody has counted yet.
async fn tried(call: &Arc<Call>) -> Result<Answer, Failure> {
    if let Err(answer) = call.enter().await? {
        return Ok(answer);
    }
    if call.wanted.is_cancelled() {
        return Ok(cancelled(call));
    }
    if let Some(failure) = observe::too_many(call) {
        return Err(failure);
    }
    if let Err(answer) = journal::admit(call, Phase::Pending).await {
        return Ok(answer);
    }
    let session = call.session.clone();
    let mut tries = Tries::new(call.deadline(), call.out.times());
    loop {
        let found = tokio::select! {
            biased;
            found = route(call, session.as_ref(), &mut tries) => found,
            () = call.wanted.cancelled() => return Ok(cancelled(call)),
        };
        // What it has found is given back.
        if call.wanted.is_cancelled() {
            return Ok(cancelled(call));
        }
        let (route, mut attempt) = match found {
            Ok(found) => found,
            Err(NoRoute::Later) => continue,
            Err(NoRoute::Failed(failure)) => return not_run(call, failure),
        };
        tries.goes();
        let was_out = call.out.get();
        let sent = {
            // Where it is made: it is the largest part of every call.
            let sending = pin!(attempt::send(call, &route, attempt.begun(), &mut tries));
            unless_cancelled(call, &mut attempt, sending).await
        };
        let Some(sent) = sent else { return Ok(cancelled(call)) };
        let error = match sent {
            Ok(reply) => match lost_session(call, &route, &reply, tries.reestablished) {
                None => {
                    let outcome = judge::outcome(call, &reply);
                    match judge::judge(call, reply) {
                        Ok(reply) => {
                            let sent = tries.in_all();
                            return Ok(answered(call, &route, reply, attempt, outcome, sent).await);
                        }
                        // No answer at all: what may be sent again is.
                        Err(failure) if failure.kind == FailureKind::OutcomeUnknown => {
                            let none = outcome == Outcome::Answered;
                            let outcome = if none { Outcome::Garbled } else { outcome };
                            AttemptError::sent(failure.reason).with(outcome)
                        }
                        Err(failure) => {
                            // The server says so.
                            if failure.ran == Ran::No {
                                call.out.set(was_out);
                            }
                            attempt.settle(outcome);
                            // One client's limit is the same at the next instance.
                            let is_its_own = outcome == Outcome::Void;
                            if !is_its_own
                                && tries.asks_another(call, route.instance, &failure).await
                            {
                                continue;
                            }
                            return Err(failure);
                        }
                    }
                }
                Some(reason) => {
                    let progress = Progress::DidNotRun;
                    AttemptError { progress, ..AttemptError::sent(reason).with(Outcome::Void) }
                }
            },
            Err(error) => error,
        };
        if error.progress != Progress::Sent {
            call.out.set(was_out);
        }
        let name = &call.server.name;
        if error.withheld {
            drop(attempt);
            if call.leased(Instant::now()).await && call.may_send().is_ok() {
                tries.sent -= 1;
                continue;
            }
            return Err(Failure::dependency(name, error.reason));
        }
        if error.refused {
            tries.sent -= 1;
            attempt.settle(if tries.first_round() { error.outcome } else { Outcome::Void });
            if tries.waits(call, &route).await {
                continue;
            }
            // The instance is gone. Its session moves to another one, if there is another.
            let used = route.session.as_ref();
            let movable = used.filter(|_| !tries.reestablished && call.server.instances() > 1);
            let (Some(lost), Some(bound)) = (movable, &route.bound) else {
                return Err(Failure::unavailable(name, error.reason));
            };
            tries.reestablished = true;
            let moved = Box::pin(session::reestablish(
                &call.gateway,
                lost,
                bound,
                &call.headers,
                Whereto::Elsewhere,
            ));
            if let Err(failure) = moved.await {
                return not_run(call, failure);
            }
            continue;
        }
        attempt.settle(call.judged(error.outcome));
        // A connection that ended before the call went in: its session is opened again first.
        let not_sent = error.progress == Progress::NotSent;
        let severed = not_sent && !tries.reestablished && is_over(route.mux.as_ref()).await;
        if let (true, Some(lost), Some(bound)) = (severed, &route.session, &route.bound) {
            tries.reestablished = true;
            let again = Box::pin(session::reestablish(
                &call.gateway,
                lost,
                bound,
                &call.headers,
                Whereto::Same,
            ));
            match again.await {
                Ok(_) => continue,
                Err(failure) => return not_run(call, failure),
            }
        }
        if error.progress == Progress::Sent {
            Box::pin(tries.looks_elsewhere(call, &route)).await;
        }
        let sent = tries.for_what_got(error.progress);
        match decide(call.class, error.progress, sent, call.is_latest()) {
            Repeat::Never(_) if error.progress == Progress::Sent => {
                return Err(Failure::unknown(name, error.reason));
            }
            Repeat::Never(why) => {
                let reason = format!("{} ({why})", error.reason);
                return Err(Failure::unavailable(name, reason));
            }
            Repeat::ReestablishThenAgain if tries.reestablished => {
                return Err(Failure::unavailable(name, error.reason));
            }
            Repeat::ReestablishThenAgain => {
                tries.reestablished = true;
                match Box::pin(make_session(call, &route, &mut tries)).await {
                    Ok(()) => {}
                    Err(failure) => return not_run(call, failure),
                }
            }
            Repeat::Again => {
                tries.failed_at(route.instance);
                if error.progress == Progress::Sent
                    && let Err(why) = tries.repeat(call).await
                {
                    let reason = format!("{} ({})", error.reason, not_repeated(why));
                    return Err(Failure::unknown(name, reason));
                }
                tracing::debug!(server = %name, sent = tries.sent, reason = %error.reason, "sent once more");
            }
        }
        call.server.metrics.attempts_repeated.inc();
    }
}

/// The call's session could not be used, so the call did not run: it fails, unless its session is
/// another node's now.
fn not_run(call: &Call, failure: Failure) -> Result<Answer, Failure> {
    let moved = call.session.as_ref().is_some_and(|session| session.is_moved());
    if moved && !call.framed {
        call.let_go();
        return Ok(Answer::Moved);
    }
    Err(failure)
}

/// The answer to a call that its client has cancelled and that is at no server any more: it did not run, may run
/// twice, or was hung up on.
pub(super) fn cancelled(call: &Call) -> Answer {
    let whole = attempt::cancelled(call);
    if let Some(ticket) = call.ticket.get() {
        ticket.complete(&whole.body);
    }
    call.settle(CallOutcome::Cancelled);
    Answer::whole(whole)
}

/// Ends a call with a failure of the gateway's own, or with what may stand in for its answer.
pub(crate) fn gave_up(call: &Call, failure: Failure) -> Answer {
    if let Some(answer) = fallback::at_once(call, &failure) {
        return answer;
    }
    // A discover that fails for the gateway's own reasons would make clients fall back to an old
    // era for good: the last good result, or a closed connection, and never an error.
    if call.method == Method::Discover && call.modern() {
        if let Some(body) = known_discovery(call) {
            call.settle_with(&body);
            return Answer::whole(Whole {
                status: StatusCode::OK,
                headers: attempt::json_headers(),
                body,
            });
        }
        call.fail(&failure);
        return Answer::HangUp;
    }
    call.fail(&failure);
    Answer::Failed(failure)
}

/// The last good discover result that this client may have, under the id of this call.
fn known_discovery(call: &Call) -> Option<Bytes> {
    let known = call.server.discovered.get(fallback::audience(call))?;
    let range = peek(&known).ok()?.id?.range_in(&known);
    let id = call.ids.one()?;
    Some(holdfast_mcp::splice::splice(&known, &[(range, id.as_bytes())]))
}

/// Why there is no route.
pub(super) enum NoRoute {
    /// What refuses may be back in a moment: look again.
    Later,
    /// The call did not run.
    Failed(Failure),
}

/// Where the next attempt goes, admitted there. Opens what has to be open.
///
/// # Errors
/// [`NoRoute`]; nothing was sent.
async fn route(
    call: &Call,
    session: Option<&Arc<Session>>,
    tries: &mut Tries,
) -> Result<(Route, Attempt), NoRoute> {
    let fleet = &call.server.fleet;
    let takes_none = session.is_none() && tries.lent.is_none() && !lends_session(call);
    if !call.server.is_duplex() && takes_none {
        // What most calls take: no session, over HTTP.
        let ask = tries.ask(call, state::instance_of(call));
        let attempt = match fleet.choose(&ask) {
            Ok(attempt) => attempt,
            Err(refused) => return Err(tries.refused(call, refused).await),
        };
        return Ok((Route::plain(attempt.instance()), attempt));
    }
    let lent = tries.lent.take();
    let used = session.or_else(|| lent.as_ref().map(|lent| lent.session()));
    let mut route = match find(call, used).await {
        Ok(route) => route,
        Err(failure) => return Err(NoRoute::Failed(failure)),
    };
    if lent.is_some() {
        route.lent = lent;
    }
    // A session that is lent goes by its own key, whoever's call it serves.
    let lent_or_own = route.session.as_ref().map(|session| session.steering_key());
    let key = lent_or_own.unwrap_or_else(|| call.steering_key());
    let bound = route.session.is_some() && route.bound.is_some();
    if bound && fleet.is_to_leave(route.instance, key) {
        if fleet.has_moved_on(route.instance, key) && !tries.follows() {
            return Err(NoRoute::Failed(Failure::refused(&call.server.name, fleet.held())));
        }
        go_elsewhere(call, &mut route).await.map_err(NoRoute::Failed)?;
    }
    let ask = Ask { key, bound, ..tries.ask(call, Some(route.instance)) };
    let mut entered = fleet.enter(route.instance, &ask);
    // What takes its calls back bit by bit keeps the sessions of its share: the others are served elsewhere.
    if bound
        && entered.as_ref().is_err_and(|refused| refused.by_share)
        && fleet.is_whole_elsewhere(route.instance, key)
    {
        go_elsewhere(call, &mut route).await.map_err(NoRoute::Failed)?;
        entered = fleet.enter(route.instance, &ask);
    }
    match entered {
        Ok(attempt) => Ok((route, attempt)),
        Err(refused) => {
            tries.lent = route.lent.take();
            Err(tries.refused(call, refused).await)
        }
    }
}

/// Has the route's session opened at another instance.
///
/// # Errors
/// None opened it; the call did not run.
async fn go_elsewhere(call: &Call, route: &mut Route) -> Result<(), Failure> {
    let (Some(session), Some(bound)) = (&route.session, &route.bound) else { return Ok(()) };
    let away =
        session::reestablish(&call.gateway, session, bound, &call.headers, Whereto::Elsewhere);
    let bound = Box::pin(away).await?;
    route.instance = place(call, &bound)?;
    route.mux = bound.mux.clone();
    route.bound = Some(bound);
    Ok(())
}

/// Where a message goes that is not admitted: one that expects no answer.
pub(super) async fn find(call: &Call, session: Option<&Arc<Session>>) -> Result<Route, Failure> {
    let borrowed = match session.is_none() && lends_session(call) {
        true => Some(Arc::new(Box::pin(lent::implicit(call)).await?)),
        false => None,
    };
    if let Some(session) = session.or_else(|| borrowed.as_ref().map(|borrowed| borrowed.session()))
    {
        let mut bound = session.bound();
        let over = is_over(bound.mux.as_ref()).await;
        if over || !bound.is_usable(&call.server) {
            let again =
                session::reestablish(&call.gateway, session, &bound, &call.headers, Whereto::Same);
            bound = Box::pin(again).await?;
        }
        let (mux, instance) = (bound.mux.clone(), place(call, &bound)?);
        let session = Some(Arc::clone(session));
        return Ok(Route { session, lent: borrowed, instance, mux, bound: Some(bound) });
    }
    let (mux, instance) = match &call.server.endpoint {
        Endpoint::Http(_) => {
            let named = state::instance_of(call);
            (None, named.unwrap_or_else(|| call.server.fleet.pick()))
        }
        Endpoint::Duplex(target) => (Some(Box::pin(shared_mux(call, target)).await?), 0),
    };
    Ok(Route { mux, ..Route::plain(instance) })
}

/// Where a binding's instance stands in the configuration that the call began with.
///
/// # Errors
/// Another call has just bound the session where a newer configuration has it. This one did not run.
fn place(call: &Call, bound: &Bound) -> Result<usize, Failure> {
    call.server.fleet.place(bound.mark).ok_or_else(|| {
        let reason = "its session has just moved with a change of the configuration".to_owned();
        Failure::unavailable(&call.server.name, reason)
    })
}

/// Whether a client without a session is lent one.
fn lends_session(call: &Call) -> bool {
    !call.modern() && (call.server.is_duplex() || call.server.wants_session.load(Ordering::Relaxed))
}

/// Whether the connection to the server has ended, if it has one.
async fn is_over(mux: Option<&Arc<Mux>>) -> bool {
    match mux {
        Some(mux) => mux.settled().await.is_some(),
        None => false,
    }
}

/// The duplex that modern clients of this server share, opened where necessary.
async fn shared_mux(
    call: &Call,
    target: &crate::upstream::duplex::Target,
) -> Result<Arc<Mux>, Failure> {
    let mut shared = call.server.shared.lock().await;
    if let Some(mux) = shared.as_ref()
        && mux.settled().await.is_none()
    {
        return Ok(Arc::clone(mux));
    }
    *shared = None;
    match open::duplex(&call.gateway, &call.server, target, true).await {
        Ok((mux, unclaimed)) => {
            // Nothing that a modern server says outside of a call has an addressee.
            tokio::spawn(discard(unclaimed));
            *shared = Some(Arc::clone(&mux));
            Ok(mux)
        }
        Err(error) => {
            tracing::warn!(server = %call.server.name, error = %error, "server not opened");
            Err(Failure::unavailable(&call.server.name, error.to_string()))
        }
    }
}

async fn discard(mut unclaimed: tokio::sync::mpsc::Receiver<Bytes>) {
    while unclaimed.recv().await.is_some() {}
}

/// Whether the reply says that the server does not know the session, and how it said so; `again`: although that
/// was opened for this call.
fn lost_session(call: &Call, route: &Route, reply: &Reply, again: bool) -> Option<String> {
    let Reply::Whole(whole) = reply else { return None };
    let said = whole.says_lost(route.has_server_session(), call.modern());
    let lost = said.or_else(|| wants_session(call, route, whole));
    // With a session it is refused as it was without: that was not for the want of one.
    let in_vain = if lost.is_some() { again } else { refuses_unread(call, whole) };
    if in_vain && route.lent.is_some() {
        call.server.wants_session.store(false, Ordering::Relaxed);
    }
    lost
}

/// Whether a server that gives sessions refuses a call that came without one: the protocol has a status for it, and
/// no words (2025-11-25, Streamable HTTP, session management). What answers the call by its id has looked at it, and
/// may have run it. Once a server has refused one, all get a session, until that proves to be in vain.
fn wants_session(call: &Call, route: &Route, whole: &Whole) -> Option<String> {
    let came_without = route.session.is_none() && !call.modern() && !call.server.is_duplex();
    let may_want = came_without && call.server.gives_sessions.load(Ordering::Relaxed);
    (may_want && refuses_unread(call, whole))
        .then(|| format!("the server refuses a call without a session ({})", whole.status.as_u16()))
}

/// Whether the reply is a refusal that does not answer the call by its id.
fn refuses_unread(call: &Call, whole: &Whole) -> bool {
    if !matches!(whole.status, StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND) {
        return false;
    }
    let message = peek(&whole.body).ok();
    let id = message.as_ref().and_then(|message| message.id);
    !id.is_some_and(|id| call.ids.is(id.as_str()) || call.ids.hold(id.as_str()))
}

/// Opens the session again that the server has lost. A legacy client without a session, at a server
/// that wants one, is lent one from here on.
async fn make_session(call: &Call, route: &Route, tries: &mut Tries) -> Result<(), Failure> {
    match (&route.session, &route.bound) {
        (Some(session), Some(bound)) => {
            session::reestablish(&call.gateway, session, bound, &call.headers, Whereto::Same)
                .await?;
        }
        _ => {
            call.server.wants_session.store(true, Ordering::Relaxed);
            // For this call already, whatever others find out of the server meanwhile.
            tries.lent = Some(Arc::new(Box::pin(lent::implicit(call)).await?));
        }
    }
    Ok(())
}

/// The server's answer as its client gets it.
pub(super) async fn passed_on(call: &Call, route: &Route, answer: Bytes) -> Bytes {
    let answer = state::seal(call, route, answer);
    if fallback::keeps(call) {
        fallback::keep(call, &answer);
    }
    match route.session.as_ref().filter(|session| session.owes_notice()) {
        Some(session) => Box::pin(with_notice(call, session, answer)).await,
        None => answer,
    }
}

/// The answer, with what the client is to be told of its session, if it can take that.
async fn with_notice(call: &Call, session: &Session, answer: Bytes) -> Bytes {
    if !mark::takes(&answer) {
        return answer;
    }
    match session::notice::for_answer(&call.gateway, session).await {
        Some(notice) => mark::mark(&answer, mark::SESSION, &notice),
        None => answer,
    }
}

/// Turns the reply to the call's last attempt, the `sent`th, into its answer.
async fn answered(
    call: &Arc<Call>,
    route: &Route,
    reply: Reply,
    mut attempt: Attempt,
    outcome: Outcome,
    sent: u32,
) -> Answer {
    match reply {
        Reply::Whole(mut whole) => {
            attempt.settle(outcome);
            if observe::matters(call.method) {
                Box::pin(observe::observe(call, &whole.body)).await;
            }
            whole.body = passed_on(call, route, whole.body).await;
            call.settle_with(&whole.body);
            Answer::Whole(whole)
        }
        Reply::One(mut one) => {
            attempt.settle(outcome);
            if let Some(data) = one.event.data.take() {
                if observe::matters(call.method) {
                    Box::pin(observe::observe(call, &data)).await;
                }
                let data = passed_on(call, route, data).await;
                call.settle_with(&data);
                one.event.data = Some(data);
            }
            Answer::One(one)
        }
        Reply::Large(begun) => {
            let Begun { status, headers, head, rest } = *begun;
            let body = Transfer::new(call, attempt, head, rest);
            Answer::Large(Box::new(Large { status, headers, body }))
        }
        Reply::Events(mut events) => {
            // It is settled when the stream has brought the answer, or has not.
            match call.method {
                // It is made again for as long as its client is there.
                Method::SubscriptionsListen => attempt.lasts(),
                _ => call.out.set_times(sent),
            }
            events.attempt = Some(attempt);
            if let Some(first) = &events.first {
                Events::heard(&mut events.attempt, first);
                // What is being answered holds up no repetition of others, however long it streams.
                call.repeat_is_over();
            }
            Answer::Events(events)
        }
    }
}
