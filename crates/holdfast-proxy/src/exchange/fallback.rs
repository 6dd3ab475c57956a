//! What stands in for a server that cannot answer a Read: an earlier answer, another server, or an
//! answer of the configuration, in this order, each only where the configuration says so. Whatever
//! comes from here says so in its `_meta`.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use bytes::Bytes;
use holdfast_engine::class::CallClass;
use holdfast_engine::fallback::{Audience, Hints, Key, Kind, Params, Scope, may_keep, topic};
use holdfast_mcp::batch;
use holdfast_mcp::method::Method;
use holdfast_mcp::peek::{self, peek};
use holdfast_mcp::splice::splice;
use holdfast_store::SessionKey;
use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::attempt::json_headers;
use super::canonical::Members;
use super::{Answer, Call, Guards, Ids, Whole, answer, mark};
use crate::failure::{Failure, Ran};
use crate::fleet::{InVain, Served};

/// Whether anything may stand in for the call's server.
pub(super) fn may_stand_in(call: &Call) -> bool {
    let settings = &call.server.settings.fallback;
    let any = settings.cache.is_some() || settings.server.is_some() || settings.answer.is_some();
    any && call.class == CallClass::Read
        && !call.stands_in
        && matches!(call.ids, Ids::One(_))
        && (settings.tools.is_empty() || is_for(call, &settings.tools))
}

fn is_for(call: &Call, tools: &[String]) -> bool {
    let named = peek(&call.body).ok().and_then(|message| message.params.name);
    call.method == Method::ToolsCall
        && named.is_some_and(|named| tools.iter().any(|tool| **tool == *named))
}

/// Answers in the server's place, or fails as it would have.
pub(super) async fn stand_in(call: &Arc<Call>, failure: Failure) -> Answer {
    if let Some(answer) = kept(call, &failure) {
        return answer;
    }
    let failure = match Box::pin(elsewhere(call, &failure)).await {
        Ok(answer) => return answer,
        // What is a Read at its own server may have had an effect at the other one.
        Err(Ran::Maybe) => Failure { ran: Ran::Maybe, ..failure },
        Err(Ran::No) => failure,
    };
    configured(call, &failure).unwrap_or_else(|| answer::gave_up(call, failure))
}

/// What can be said at once: for who has no time left.
pub(super) fn at_once(call: &Call, failure: &Failure) -> Option<Answer> {
    if !may_stand_in(call) {
        return None;
    }
    kept(call, failure).or_else(|| configured(call, failure))
}

/// An earlier answer for a Read of a server that is poorly: it is not asked.
#[cold]
pub(super) fn spares(call: &Call) -> Option<Answer> {
    let reason = "the server is poorly and is spared (health.measures.degrade)".to_owned();
    may_stand_in(call)
        .then(|| Failure::unavailable(&call.server.name, reason))
        .and_then(|failure| kept(call, &failure))
}

// --- earlier answers ---

/// Whether answers to this call are kept.
pub(super) fn keeps(call: &Call) -> bool {
    call.server.answers.is_some() && call.class == CallClass::Read && !call.stands_in
}

/// Keeps an answer for bad times, if it may be.
pub(super) fn keep(call: &Call, answer: &Bytes) {
    let (Some(answers), Ids::One(_)) = (&call.server.answers, &call.ids) else { return };
    let settings = &call.server.settings.fallback;
    if !settings.tools.is_empty() && !is_for(call, &settings.tools) {
        return;
    }
    let Ok(asked) = peek(&call.body) else { return };
    let carried = asked.params.has_input_responses || asked.params.request_state.is_some();
    let Ok(value) = serde_json::from_slice::<Value>(answer) else { return };
    let Some(result) = value.get("result") else { return };
    let (kind, hints) = (kind(result), hints(result));
    let mut answers = answers.lock();
    let method = &*asked.method;
    let keep = may_keep(method, call.class, carried, kind, hints, &answers.params);
    let (Some(keep), Some(topic)) = (keep, topic(method, call.class)) else { return };
    let audience = match keep.scope {
        Scope::Public => Audience::Everybody,
        Scope::Private => Audience::One(audience(call)),
    };
    let key = Key { audience, question: question(&call.body) };
    answers.kept.put(key, topic, answer.clone(), keep, Instant::now());
}

fn kept(call: &Call, failure: &Failure) -> Option<Answer> {
    let answers = call.server.answers.as_ref()?;
    let (answer, age) =
        answers.lock().kept.get(audience(call), question(&call.body), Instant::now())?;
    let age = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
    let range = peek(&answer).ok()?.id?.range_in(&answer);
    let Ids::One(id) = &call.ids else { return None };
    let answer = splice(&answer, &[(range, id.as_bytes())]);
    let note = json!({ "kind": "cached", "ageMs": age, "reason": failure.reason });
    Some(served(call, Served::Cached, answer, &note))
}

/// What kind of result it is.
fn kind(result: &Value) -> Kind {
    let complete = result["resultType"].as_str().is_none_or(|kind| kind == "complete")
        && result["isError"] != true
        && result.get("taskId").is_none();
    if complete { Kind::Complete } else { Kind::Other }
}

/// What a result says of how long it holds, and for whom.
fn hints(result: &Value) -> Hints {
    let scope = match result["cacheScope"].as_str() {
        Some("public") => Some(Scope::Public),
        Some("private") => Some(Scope::Private),
        _ => None,
    };
    let ttl = result["ttlMs"].as_u64().map(std::time::Duration::from_millis);
    Hints { ttl, scope }
}

/// Whether the server says of a whole answer that everybody may have it.
pub(super) fn is_public(answer: &[u8]) -> bool {
    let answer: Value = serde_json::from_slice(answer).unwrap_or_default();
    hints(&answer["result"]).scope == Some(Scope::Public)
}

/// Who may be given what this call was given, and the session that it was made on where its client has none.
pub(super) fn audience(call: &Call) -> u128 {
    let session = call.session.as_ref().map(|session| session.key);
    audience_of(call.principal.digest, session, &call.headers, &call.body)
}

/// Whoever cannot be told apart by the server: the same principal, in the same session (where it may have
/// logged in), with the same headers and the same `_meta` as far as they may say who asks.
fn audience_of(
    principal: u64,
    session: Option<SessionKey>,
    headers: &HeaderMap,
    body: &[u8],
) -> u128 {
    let mut hash = Sha256::new();
    hash.update(principal.to_be_bytes());
    let session = session.map_or([0; 17], |SessionKey(key)| {
        let mut bytes = [1; 17];
        bytes[1..].copy_from_slice(&key.to_be_bytes());
        bytes
    });
    hash.update(session);
    super::headers::digest_of_who(headers, &mut hash);
    let message = std::str::from_utf8(body).unwrap_or_default();
    // A batch is whosever its calls are.
    let said: BTreeSet<[u8; 32]> = match batch::is_batch(body) {
        true => {
            let members = batch::split_batch(body).unwrap_or_default();
            members.into_iter().filter_map(|at| says_of_who(message.get(at)?)).collect()
        }
        false => says_of_who(message).into_iter().collect(),
    };
    said.iter().for_each(|it| hash.update(it));
    first(hash)
}

/// What a message's `_meta` may say of who asks.
fn says_of_who(message: &str) -> Option<[u8; 32]> {
    let mut said: Option<Sha256> = None;
    for params in Members::of(message).named(&["params"]).texts() {
        for meta in Members::of(params).named(&["_meta"]).texts() {
            let meta = Members::of(meta).beside(&OF_ONE_MESSAGE);
            if !meta.is_empty() {
                meta.add_to(said.get_or_insert_default());
            }
        }
    }
    said.map(|said| said.finalize().into())
}

/// What of a request's `_meta` changes with each message or names the program that sent it, and says nothing
/// of who asks.
const OF_ONE_MESSAGE: [&str; 5] = [
    "progressToken",
    "traceparent",
    "tracestate",
    "io.modelcontextprotocol/clientInfo",
    "io.modelcontextprotocol/logLevel",
];

/// What is asked: the method and what the result depends on.
fn question(body: &[u8]) -> u128 {
    let message = std::str::from_utf8(body).unwrap_or_default();
    let mut hash = Sha256::new();
    Members::of(message).named(&["method"]).add_to(&mut hash);
    for params in Members::of(message).named(&["params"]).texts() {
        Members::of(params).beside(&["_meta"]).add_to(&mut hash);
    }
    first(hash)
}

fn first(hash: Sha256) -> u128 {
    let digest: [u8; 32] = hash.finalize().into();
    let mut half = [0; 16];
    half.copy_from_slice(&digest[..16]);
    u128::from_be_bytes(half)
}

/// The server says that something has changed: what was kept of it is old.
pub(crate) fn forget(server: &crate::server::Server, method: &str) {
    use holdfast_engine::fallback::Topic;
    let Some(answers) = &server.answers else { return };
    let topic = match method {
        "notifications/tools/list_changed" => Topic::Tools,
        "notifications/prompts/list_changed" => Topic::Prompts,
        "notifications/resources/list_changed" | "notifications/resources/updated" => {
            Topic::Resources
        }
        _ => return,
    };
    answers.lock().kept.invalidate(topic);
}

// --- another server ---

/// Asks the server that stands in, as whoever calls that one does: within its limits, in its class and
/// if its breaker of the tool lets it pass, and by what it says of the tool.
///
/// # Errors
/// There is none, or it does not help either: whether the call may have run there.
async fn elsewhere(call: &Arc<Call>, failure: &Failure) -> Result<Answer, Ran> {
    let name = call.server.settings.fallback.server.as_deref().ok_or(Ran::No)?;
    let server = call.gateway.server(name).ok_or(Ran::No)?;
    let headers = Arc::new(call.headers.for_other(&call.server, server));
    let gateway = &call.gateway;
    let (tool, class) = {
        let asked = peek(&call.body).map_err(|_| Ran::No)?;
        let named = asked.params.name.filter(|_| call.method == Method::ToolsCall);
        // What is a Read there may write here: by this server's word it is repeated or not.
        let class = server.classify(&gateway.store, &asked.method, named.as_deref());
        (named.map(|it| it.to_string()), class)
    };
    // An outage of one server is no reason to ask more of the other than it may be asked.
    if server.admit(1, tool.as_deref().map(|tool| (tool, 1)), Instant::now()).is_err() {
        let reason = "the call is over its limits (requests_per_minute)";
        in_vain(call, name, failure, InVain::Limited, reason);
        return Err(Ran::No);
    }
    let other = Arc::new(Call {
        gateway: Arc::clone(gateway),
        server: Arc::clone(server),
        session: None,
        steered_by: call.steered_by,
        principal: call.principal.clone(),
        era: call.era,
        method: call.method,
        class,
        ids: call.ids.clone(),
        number: 0,
        headers,
        body: call.body.clone(),
        takes_stream: false,
        framed: call.framed,
        resumable: false,
        started: Instant::now(),
        balancer_id: None,
        again: false,
        told: None,
        key: OnceLock::new(),
        ticket: OnceLock::new(),
        shelf: server.fleet.shelf_of(tool.as_deref()),
        admitted: OnceLock::new(),
        wanted: super::Wanted::default(),
        out: super::Out::default(),
        stands_in: true,
        _guards: Guards {
            _node: gateway.metrics.in_flight.enter(),
            _server: server.metrics.in_flight.enter(),
            _session: None,
        },
    });
    // As long as nobody knows.
    call.out.set(true);
    let mut asked = Asked { call, other: &other, failure, over: false };
    let answer = Box::pin(answer::first_answer(Arc::clone(&other))).await;
    asked.over = true;
    match body_of(answer) {
        Ok(body) => {
            let note = json!({ "kind": "server", "server": name, "reason": failure.reason });
            Ok(served(call, Served::Server, body, &note))
        }
        Err((why, reason)) => {
            in_vain(call, name, failure, why, &reason);
            Err(if other.out.get() { Ran::Maybe } else { Ran::No })
        }
    }
}

/// The server that stands in is asked. Whoever waits for its answer no longer drops this: after the call's time,
/// or so long a silence that it counts as a failure anywhere, it was of no help.
struct Asked<'a> {
    call: &'a Call,
    other: &'a Call,
    failure: &'a Failure,
    over: bool,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        let Self { call, other, failure, over } = *self;
        let silent = || {
            other.started.elapsed() >= other.server.fleet.silence()
                || call.started.elapsed() >= call.server.settings.timeout
        };
        if !over && silent() {
            in_vain(call, &other.server.name, failure, InVain::Failed, "it gave no answer in time");
        }
    }
}

/// The answer of a server that stands in, if it has one: a result.
///
/// # Errors
/// Why it has none.
fn body_of(answer: Answer) -> Result<Bytes, (InVain, String)> {
    let body = match answer {
        Answer::Whole(whole) if whole.status.is_success() => Some(whole.body),
        Answer::Whole(whole) => {
            return Err((InVain::Error, format!("it answered with HTTP status {}", whole.status)));
        }
        Answer::One(one) => one.event.data,
        Answer::Failed(failure) => return Err((InVain::Failed, failure.reason)),
        Answer::Large(_) | Answer::Events(_) => {
            let reason = "its answer is a stream, or too large to stand in for another".to_owned();
            return Err((InVain::Failed, reason));
        }
        Answer::Moved | Answer::HangUp => None,
    };
    let is_response = |body: &Bytes| peek(body).is_ok_and(|it| it.kind == peek::Kind::Response);
    let Some(body) = body.filter(is_response) else {
        return Err((InVain::Failed, "it gave no answer".to_owned()));
    };
    match super::observe::is_rpc_error(&body) {
        true => Err((InVain::Error, "it answered with an error".to_owned())),
        false => Ok(body),
    }
}

/// Says that the server that stands in was of no help: who configured it counts on it. No text of an answer
/// goes into the log.
#[cold]
fn in_vain(call: &Call, other: &str, failure: &Failure, why: InVain, reason: &str) {
    let counts = &call.server.fleet.counts;
    counts.in_vain(why);
    if let Some(missing) = counts.in_vain_lines.take(Instant::now()) {
        tracing::warn!(
            server = %call.server.name,
            fallback = other,
            because = %failure.reason,
            reason,
            missing,
            "the server that stands in does not help either"
        );
    }
}

// --- the configuration ---

fn configured(call: &Call, failure: &Failure) -> Option<Answer> {
    if call.method != Method::ToolsCall {
        return None;
    }
    let result = call.server.settings.fallback.answer.as_deref()?;
    let Ids::One(id) = &call.ids else { return None };
    let body = Bytes::from(format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#));
    let note = json!({ "kind": "static", "reason": failure.reason });
    Some(served(call, Served::Static, body, &note))
}

fn served(call: &Call, what: Served, body: Bytes, note: &Value) -> Answer {
    call.server.fleet.counts.served(what);
    let body = mark::mark(&body, mark::FALLBACK, &note.to_string());
    call.settle_with(&body);
    if let Some(admitted) = call.admitted.get() {
        // Not by its server.
        admitted.answered(false);
    }
    Answer::whole(Whole { status: StatusCode::OK, headers: json_headers(), body })
}

/// The answers of one server that are kept.
#[derive(Debug)]
pub(crate) struct Answers(std::sync::Mutex<Kept>);

#[derive(Debug)]
struct Kept {
    params: Params,
    kept: holdfast_engine::fallback::Answers,
}

// === impl Answers ===

impl Answers {
    pub(crate) fn new(cache: holdfast_config::FallbackCache) -> Self {
        let params = Params {
            max_age: cache.ttl,
            max_bytes: cache.max_bytes,
            max_audience_bytes: cache.max_bytes / 4,
            ..Params::default()
        };
        Self(std::sync::Mutex::new(Kept {
            params,
            kept: holdfast_engine::fallback::Answers::new(params),
        }))
    }

    /// Drops what is too old to be given.
    pub(crate) fn expire(&self, now: Instant) {
        self.lock().kept.expire(now);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::{HeaderName, HeaderValue};

    use super::*;

    const CALL: &str = r#"{"id":1,"method":"tools/list","params":{}}"#;

    fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    fn with(pairs: &[(&'static str, &'static str)]) -> u128 {
        audience_of(7, None, &map(pairs), CALL.as_bytes())
    }

    #[test]
    fn whatever_may_say_who_asks_makes_another_audience() {
        let pairs = [
            ("authorization", "Bearer a"),
            ("cookie", "session=a"),
            ("x-user-token", "a"),
            ("x-tenant", "a"),
            ("baggage", "user=a"),
            ("x-forwarded-for", "192.0.2.1"),
            ("forwarded", "for=192.0.2.1"),
            ("accept-language", "de"),
            ("mcp-protocol-version", "2025-06-18"),
        ];
        let mut all = vec![with(&[])];
        all.extend(pairs.iter().map(|pair| with(&[*pair])));
        all.push(with(&pairs));
        // The same text under another name, in another place, or twice.
        all.push(with(&[("x-tenant", "b")]));
        all.push(with(&[("x-tenan", "ta")]));
        all.push(with(&[("x-tenant", "a"), ("x-tenant", "a")]));
        let principal = audience_of(8, None, &map(&[]), CALL.as_bytes());
        let sessions =
            [0, 1].map(|key| audience_of(7, Some(SessionKey(key)), &map(&[]), CALL.as_bytes()));
        all.extend([principal, sessions[0], sessions[1]]);
        let different: BTreeSet<u128> = all.iter().copied().collect();
        assert_eq!(different.len(), all.len(), "{all:?}");
    }

    #[test]
    fn what_changes_with_each_message_makes_none() {
        let who = [("cookie", "a"), ("x-tenant", "b")];
        let turned = [("x-tenant", "b"), ("cookie", "a")];
        assert_eq!(with(&who), with(&turned), "the order says nothing");
        let message = [
            ("accept", "application/json"),
            ("content-type", "application/json"),
            ("user-agent", "node"),
            ("traceparent", "00-1-2-00"),
            ("tracestate", "a=1"),
            ("x-request-id", "r-1"),
            ("x-b3-traceid", "1"),
            ("mcp-method", "tools/call"),
            ("mcp-name", "echo"),
            ("mcp-param-region", "eu"),
        ];
        for pair in message {
            assert_eq!(with(&[who[0], who[1], pair]), with(&who), "{pair:?}");
        }
    }

    #[test]
    fn of_meta_counts_what_may_say_who_asks() {
        let of = |meta: &str| {
            let body = format!(r#"{{"method":"tools/list","params":{{"_meta":{{{meta}}}}}}}"#);
            audience_of(7, None, &map(&[]), body.as_bytes())
        };
        assert_eq!(of(""), of(r#""progressToken":5,"traceparent":"00-1-2-00""#));
        assert_eq!(of(""), with(&[]));
        assert_ne!(of(""), of(r#""com.example/user":"ann""#));
        assert_ne!(of(r#""com.example/user":"ann""#), of(r#""com.example/user":"bob""#));
        let user = |number: &str| of(&format!(r#""com.example/user":{number}"#));
        assert_ne!(user("18446744073709551616"), user("18446744073709551617"));
        let can = r#""io.modelcontextprotocol/clientCapabilities""#;
        assert_ne!(of(&format!("{can}:{{}}")), of(&format!(r#"{can}:{{"roots":{{}}}}"#)));
    }

    #[test]
    fn a_batch_is_whoevers_its_calls_are() {
        let of = |bodies: &[&str]| {
            let body = format!("[{}]", bodies.join(","));
            audience_of(7, None, &map(&[]), body.as_bytes())
        };
        let ann = r#"{"method":"a","params":{"_meta":{"com.example/user":"ann"}}}"#;
        let bob = ann.replace("ann", "bob");
        let alone = audience_of(7, None, &map(&[]), ann.as_bytes());
        assert_eq!([of(&[ann]), of(&[ann, ann])], [alone; 2]);
        assert_eq!(of(&[]), with(&[]));
        let others = [of(&[&bob]), of(&[ann, &bob]), of(&[CALL])];
        assert!(!others.contains(&alone), "{others:?}");
    }

    #[test]
    fn a_question_is_its_method_and_its_parameters() {
        let of = |text: &str| question(text.as_bytes());
        let plain =
            of(r#"{"id":1,"method":"tools/call","params":{"name":"a","arguments":{"x":1,"y":2}}}"#);
        let same = r#"{"params":{"arguments":{"y":2,"x":1},"_meta":{"progressToken":9},"name":"a"},"method":"tools/call","id":"7"}"#;
        assert_eq!(plain, of(same));
        for other in [
            r#"{"id":1,"method":"tools/list","params":{"name":"a","arguments":{"x":1,"y":2}}}"#,
            r#"{"id":1,"method":"tools/call","params":{"name":"b","arguments":{"x":1,"y":2}}}"#,
            r#"{"id":1,"method":"tools/call","params":{"name":"a","arguments":{"x":1,"y":"2"}}}"#,
            r#"{"id":1,"method":"tools/call","params":{"name":"a","arguments":{"x":1}}}"#,
            r#"{"id":1,"method":"tools/call"}"#,
            r#"{"id":1,"method":"tools/call","params":{"name":"a","arguments":{"x":1.0,"y":2}}}"#,
        ] {
            assert_ne!(plain, of(other), "{other}");
        }
    }

    #[test]
    fn only_what_says_public_is_public() {
        let scope = |text: &str| hints(&serde_json::from_str(text).unwrap()).scope;
        assert_eq!(scope(r#"{"cacheScope":"public","ttlMs":5}"#), Some(Scope::Public));
        assert_eq!(scope(r#"{"cacheScope":"private"}"#), Some(Scope::Private));
        for text in ["{}", r#"{"cacheScope":"Public"}"#, r#"{"cacheScope":true}"#, r#"{"ttlMs":5}"#]
        {
            assert_eq!(scope(text), None, "{text}");
        }
        let ttl = |text: &str| hints(&serde_json::from_str(text).unwrap()).ttl;
        assert_eq!(ttl(r#"{"ttlMs":1500}"#), Some(Duration::from_millis(1500)));
        assert_eq!(ttl(r#"{"ttlMs":-1}"#), None);
        assert!(is_public(br#"{"id":1,"result":{"cacheScope":"public"}}"#));
        assert!(!is_public(br#"{"id":1,"result":{"tools":[]},"cacheScope":"public"}"#));
        assert!(!is_public(b"not JSON"));
    }

    #[test]
    fn what_is_no_complete_result_is_none() {
        let kind = |text: &str| kind(&serde_json::from_str(text).unwrap());
        assert_eq!(kind(r#"{"content":[]}"#), Kind::Complete);
        assert_eq!(kind(r#"{"resultType":"complete","isError":false}"#), Kind::Complete);
        for text in
            [r#"{"isError":true}"#, r#"{"resultType":"input_required"}"#, r#"{"taskId":"t"}"#]
        {
            assert_eq!(kind(text), Kind::Other, "{text}");
        }
    }
}
