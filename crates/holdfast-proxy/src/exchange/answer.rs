//! From a call to the first thing its client can be told.
//!
//! A loop of choose → send → decide: the rules of what may be repeated are
//! [`holdfast_engine::repeat`], and every turn of the loop is one attempt.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use holdfast_engine::repeat::{Progress, Repeat, decide};
use holdfast_mcp::method::Method;
use holdfast_mcp::peek::peek;
use http::StatusCode;

use super::attempt::{self, AttemptError, Reply, Route};
use super::{Answer, Call, Whole, journal, judge, observe, open, state};
use crate::failure::{Failure, FailureKind};
use crate::session::{self, Session};
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
    if let Err(answer) = journal::admit(&call).await {
        return answer;
    }
    let session = call.session.clone();
    let mut attempts = 0;
    let mut reestablished = false;
    loop {
        attempts += 1;
        let mut route = match route(&call, session.as_ref()).await {
            Ok(route) => route,
            Err(failure) => return not_run(&call, failure),
        };
        let error = match attempt::send(&call, &mut route).await {
            Ok(reply) => match lost_session(&call, &route, &reply) {
                None => match judge::judge(&call, reply) {
                    Ok(reply) => return answered(&call, &route, reply).await,
                    // No answer at all: what may be sent again is.
                    Err(failure) if failure.kind == FailureKind::OutcomeUnknown => {
                        AttemptError::sent(failure.reason)
                    }
                    Err(failure) => return gave_up(&call, failure),
                },
                Some(reason) => {
                    AttemptError { progress: Progress::DidNotRun, ..AttemptError::sent(reason) }
                }
            },
            Err(error) => error,
        };
        let name = &call.server.name;
        if error.withheld && call.leased().await && call.may_send().is_ok() {
            attempts -= 1;
            continue;
        }
        if error.withheld {
            return gave_up(&call, Failure::dependency(name, error.reason));
        }
        if error.waited {
            // The instance is gone. Its session moves to another one, if there is another.
            let used = route.session.as_ref();
            let movable = used.filter(|_| !reestablished && call.server.instances() > 1);
            let (Some(lost), Some(bound)) = (movable, &route.bound) else {
                return gave_up(&call, Failure::unavailable(name, error.reason));
            };
            reestablished = true;
            let moved =
                Box::pin(session::reestablish(&call.gateway, lost, bound, &call.headers, true))
                    .await;
            if let Err(failure) = moved {
                return not_run(&call, failure);
            }
            continue;
        }
        // A connection that ended before the call went in: its session is opened again first.
        let not_sent = error.progress == Progress::NotSent;
        let severed = not_sent && !reestablished && is_over(route.mux.as_ref()).await;
        if let (true, Some(lost), Some(bound)) = (severed, &route.session, &route.bound) {
            reestablished = true;
            let again =
                Box::pin(session::reestablish(&call.gateway, lost, bound, &call.headers, false))
                    .await;
            match again {
                Ok(_) => continue,
                Err(failure) => return not_run(&call, failure),
            }
        }
        match decide(call.class, error.progress, attempts, call.is_latest()) {
            Repeat::Never(_) if error.progress == Progress::Sent => {
                return gave_up(&call, Failure::unknown(name, error.reason));
            }
            Repeat::Never(why) => {
                let reason = format!("{} ({why})", error.reason);
                return gave_up(&call, Failure::unavailable(name, reason));
            }
            Repeat::ReestablishThenAgain if reestablished => {
                return gave_up(&call, Failure::unavailable(name, error.reason));
            }
            Repeat::ReestablishThenAgain => {
                reestablished = true;
                match Box::pin(make_session(&call, &route)).await {
                    Ok(()) => {}
                    Err(failure) => return not_run(&call, failure),
                }
            }
            Repeat::Again => {
                tracing::debug!(server = %name, attempts, reason = %error.reason, "sent once more");
            }
        }
        call.gateway.metrics.server(call.server.index).attempts_repeated.inc();
    }
}

/// The call's session could not be used, so the call did not run: it fails, unless its session is
/// another node's now.
fn not_run(call: &Call, failure: Failure) -> Answer {
    let moved = call.session.as_ref().is_some_and(|session| session.is_moved());
    if moved && !call.framed {
        call.let_go();
        return Answer::Moved;
    }
    gave_up(call, failure)
}

/// Ends a call with a failure of the gateway's own.
pub(crate) fn gave_up(call: &Call, failure: Failure) -> Answer {
    // A discover that fails for the gateway's own reasons would make clients fall back to an old
    // era for good: the last good result, or a closed connection, and never an error.
    if call.method == Method::Discover && call.modern() {
        if let Some(body) = known_discovery(call) {
            call.settle_with(&body);
            return Answer::Whole(Whole {
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

/// The last good discover result of this principal, under the id of this call.
fn known_discovery(call: &Call) -> Option<bytes::Bytes> {
    let known = call.server.discovered(call.principal.digest)?;
    let range = peek(&known).ok()?.id?.range_in(&known);
    let id = call.ids.one()?;
    Some(holdfast_mcp::splice::splice(&known, &[(range, id.as_bytes())]))
}

/// Where the next attempt goes. Opens what has to be open.
///
/// # Errors
/// [`Failure`] if it cannot be opened; the call did not run.
pub(super) async fn route(call: &Call, session: Option<&Arc<Session>>) -> Result<Route, Failure> {
    let needs_one = session.is_none()
        && !call.modern()
        && (call.server.is_duplex() || call.server.wants_session.load(Ordering::Relaxed));
    let borrowed = match needs_one {
        true => Some(Arc::new(Box::pin(open::implicit(call)).await?)),
        false => None,
    };
    if let Some(session) = session.or_else(|| borrowed.as_ref().map(|borrowed| borrowed.session()))
    {
        let mut bound = session.bound();
        let over = is_over(bound.mux.as_ref()).await;
        if over || !bound.is_usable(&call.server) {
            let again = session::reestablish(&call.gateway, session, &bound, &call.headers, false);
            bound = Box::pin(again).await?;
        }
        let (mux, instance) = (bound.mux.clone(), bound.instance);
        let session = Some(Arc::clone(session));
        return Ok(Route { session, _borrowed: borrowed, instance, mux, bound: Some(bound) });
    }
    let (mux, instance) = match &call.server.endpoint {
        Endpoint::Http(_) => (None, state::instance_of(call).unwrap_or_else(|| call.server.pick())),
        Endpoint::Duplex(target) => (Some(Box::pin(shared_mux(call, target)).await?), 0),
    };
    Ok(Route { session: None, _borrowed: None, bound: None, instance, mux })
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

async fn discard(mut unclaimed: tokio::sync::mpsc::Receiver<bytes::Bytes>) {
    while unclaimed.recv().await.is_some() {}
}

/// Whether the reply says that the server does not know the session, and how it said so.
fn lost_session(call: &Call, route: &Route, reply: &Reply) -> Option<String> {
    let Reply::Whole(whole) = reply else { return None };
    whole.says_lost(route.server_session().is_some(), call.modern())
}

/// Opens the session again that the server has lost. A legacy client without a session, at a server
/// that wants one, is lent one from here on.
async fn make_session(call: &Call, route: &Route) -> Result<(), Failure> {
    match (&route.session, &route.bound) {
        (Some(session), Some(bound)) => {
            session::reestablish(&call.gateway, session, bound, &call.headers, false).await?;
        }
        _ => call.server.wants_session.store(true, Ordering::Relaxed),
    }
    Ok(())
}

/// Turns the reply to the call's last attempt into its answer.
async fn answered(call: &Call, route: &Route, reply: Reply) -> Answer {
    match reply {
        Reply::Whole(mut whole) => {
            if observe::matters(call.method) {
                Box::pin(observe::observe(call, &whole.body)).await;
            }
            whole.body = state::seal(call, route, whole.body);
            call.settle_with(&whole.body);
            Answer::Whole(whole)
        }
        Reply::One { status, headers, mut event } => {
            if let Some(data) = event.data.take() {
                if observe::matters(call.method) {
                    Box::pin(observe::observe(call, &data)).await;
                }
                let data = state::seal(call, route, data);
                call.settle_with(&data);
                event.data = Some(data);
            }
            Answer::One { status, headers, event }
        }
        Reply::Large(large) => {
            call.settle(crate::metrics::CallOutcome::Ok);
            Answer::Large(large)
        }
        Reply::Events(events) => Answer::Events(events),
    }
}
