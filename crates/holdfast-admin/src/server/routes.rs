//! What the admin port answers. A GET changes nothing; what changes something is a POST. Its body is
//! JSON by its content type, which no page can send to another site unasked.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Query, Request, State};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router, middleware};
use futures_util::{Stream, StreamExt, stream};
use http::StatusCode;
use http::header::CONTENT_TYPE;
use serde::Deserialize;

use super::{Shared, guard, json};
use crate::api::{
    DrainDto, DrainRequestDto, ErrorDto, NodesDto, ServersDto, SessionsDto, StatusDto,
};
use crate::cluster::DrainError;
use crate::{configuration, control, metrics as cluster_metrics, nodes, page, status};

/// Sessions in one answer unless the request says otherwise, and at most.
const PAGE: usize = 100;
const PAGE_MAX: usize = 1_000;

const PATHS: &str = "/, /metrics, /health, /health/live, /health/ready, /api/status, /api/servers, \
                     /api/nodes, /api/sessions, /api/audit, /api/incidents, /api/config, \
                     /api/config/history, /api/events, and POST /api/drain, /api/failover, \
                     /api/failback, /api/breaker, /api/config/reload, /api/config/rollback";

/// A body beyond this is no request of ours.
const BODY: usize = 4 * 1024;

pub(super) fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/", get(|| async { page::index() }))
        .route("/page.js", get(|| async { page::script() }))
        .route("/page.css", get(|| async { page::style() }))
        .route("/icon.svg", get(|| async { page::icon() }))
        .route("/metrics", get(metrics))
        .route("/health", get(health))
        .route("/health/live", get(health))
        .route("/health/ready", get(health))
        .route("/api/status", get(api_status))
        .route("/api/servers", get(api_servers))
        .route("/api/nodes", get(api_nodes))
        .route("/api/drain", post(api_drain).layer(DefaultBodyLimit::max(BODY)))
        .route("/api/failover", post(control::failover).layer(DefaultBodyLimit::max(BODY)))
        .route("/api/failback", post(control::failback).layer(DefaultBodyLimit::max(BODY)))
        .route("/api/breaker", post(control::breaker).layer(DefaultBodyLimit::max(BODY)))
        .route("/api/config", get(configuration::show))
        .route("/api/config/history", get(configuration::history))
        .route("/api/config/reload", post(configuration::reload).layer(DefaultBodyLimit::max(BODY)))
        .route(
            "/api/config/rollback",
            post(configuration::roll_back).layer(DefaultBodyLimit::max(BODY)),
        )
        .route("/api/audit", get(control::audit))
        .route("/api/incidents", get(control::incidents))
        .route("/api/sessions", get(api_sessions))
        .route("/api/events", get(api_events))
        .fallback(not_found)
        .method_not_allowed_fallback(not_allowed)
        .layer(middleware::from_fn_with_state(Arc::clone(&shared), guard::check))
        .with_state(shared)
}

/// Whether `path` is part of the status page: static, the same for everyone.
pub(super) fn is_page(path: &str) -> bool {
    matches!(path, "/" | "/page.js" | "/page.css" | "/icon.svg")
}

async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    let mut text = String::with_capacity(16 * 1024);
    shared.observed.metrics().render(&mut text);
    if let Some(nodes) = shared.nodes.get() {
        cluster_metrics::render(&nodes.figures(), &mut text);
    }
    if let Some(operated) = shared.operated() {
        operated.render(&mut text);
    }
    if let Some(configured) = shared.configured() {
        configured.render(&mut text);
    }
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

async fn health(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    let answer = holdfast_proxy::health::respond(&path, &*shared.observed).await;
    answer.map(axum::body::Body::from)
}

async fn api_status(State(shared): State<Arc<Shared>>) -> Json<StatusDto> {
    Json(shared.status().await)
}

async fn api_servers(State(shared): State<Arc<Shared>>) -> Json<ServersDto> {
    Json(ServersDto { servers: shared.status().await.servers })
}

async fn api_nodes(State(shared): State<Arc<Shared>>) -> Result<Json<NodesDto>, Response> {
    let (nodes, configurations) = tokio::join!(shared.cluster(), configuration::nodes(&shared));
    let mut nodes = match nodes {
        None => nodes::alone(&shared.observed.report()),
        Some(Ok(nodes)) => nodes,
        Some(Err(_)) => {
            let error = "the cluster did not say in time how it is; try again".to_owned();
            return Err(refuse(StatusCode::GATEWAY_TIMEOUT, error));
        }
    };
    nodes::add_configurations(&mut nodes, configurations);
    Ok(Json(nodes))
}

async fn api_drain(
    State(shared): State<Arc<Shared>>,
    request: Result<Json<DrainRequestDto>, JsonRejection>,
) -> Result<(StatusCode, Json<DrainDto>), Response> {
    let Json(DrainRequestDto { node, force }) = request.map_err(|rejection| {
        let error = "send {\"node\": \"NAME\"} as application/json".to_owned();
        refuse(rejection.status(), error)
    })?;
    let Some(nodes) = shared.nodes.get() else {
        let error =
            "this node runs alone: there is no other to take its place. SIGTERM drains and \
                     ends it"
                .to_owned();
        return Err(refuse(StatusCode::CONFLICT, error));
    };
    let draining = nodes.drain(&node, force).await.map_err(|error| {
        let status = match error {
            DrainError::Unknown { .. } => StatusCode::NOT_FOUND,
            DrainError::Gone { .. } | DrainError::Majority { .. } => StatusCode::CONFLICT,
            DrainError::NoQuorum => StatusCode::SERVICE_UNAVAILABLE,
            DrainError::TimedOut => StatusCode::GATEWAY_TIMEOUT,
        };
        refuse(status, error.to_string())
    })?;
    tracing::info!(node, generation = draining.generation, "asked to drain");
    let deadline_ms = u64::try_from(draining.deadline.as_millis()).unwrap_or(u64::MAX);
    let answer = DrainDto { node, generation: draining.generation, deadline_ms };
    Ok((StatusCode::ACCEPTED, Json(answer)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Paging {
    #[serde(default)]
    offset: usize,
    limit: Option<usize>,
}

async fn api_sessions(
    State(shared): State<Arc<Shared>>,
    paging: Result<Query<Paging>, QueryRejection>,
) -> Result<Json<SessionsDto>, Response> {
    let Query(Paging { offset, limit }) = paging.map_err(|_| {
        let error = format!("allowed are offset=0… and limit=1…{PAGE_MAX}, both whole numbers");
        refuse(StatusCode::BAD_REQUEST, error)
    })?;
    let limit = limit.unwrap_or(PAGE).clamp(1, PAGE_MAX);
    let me = shared.observed.report().node;
    Ok(Json(status::sessions(&shared.observed.sessions(offset, limit), offset, &me)))
}

/// The status at once and then every second, until the client or the node goes.
async fn api_events(
    State(shared): State<Arc<Shared>>,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    // Subscribed before the first status is made, so that no second is missed in between.
    let feed = shared.feed.subscribe();
    let first: Arc<str> = json(&shared.status().await).into();
    // The watch channel keeps the latest only: a slow reader skips, nothing queues up.
    let later = stream::unfold(feed, |mut feed| async {
        feed.changed().await.ok()?;
        let text = Arc::clone(&feed.borrow_and_update());
        Some((text, feed))
    });
    let events = stream::once(std::future::ready(first))
        .chain(later)
        .map(|text| Ok(Event::default().event("status").data(&*text)))
        .take_until(shared.stopping.clone().cancelled_owned());
    Sse::new(events).keep_alive(KeepAlive::new().interval(Duration::from_secs(15)))
}

async fn not_found() -> Response {
    let error = format!("no such path; there are {PATHS}");
    refuse(StatusCode::NOT_FOUND, error)
}

async fn not_allowed() -> Response {
    let error = "the admin port answers GET, and POST for what changes something".to_owned();
    refuse(StatusCode::METHOD_NOT_ALLOWED, error)
}

pub(crate) fn refuse(status: StatusCode, error: String) -> Response {
    (status, Json(ErrorDto { error })).into_response()
}
