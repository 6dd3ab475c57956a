//! From what the control plane says of servers to what the API says of them; and the routes that show
//! it and change it.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Query, State};
use axum::response::Response;
use holdfast_control::{
    EventView, Force, IncidentView, InstanceView, Operated, Order, OrderError, ServerView,
};
use http::StatusCode;
use serde::Deserialize;

use crate::api::{
    BreakerActionDto, BreakerRequestDto, ControlDto, EventDto, EventsDto, FailbackRequestDto,
    FailoverRequestDto, IncidentDto, IncidentsDto, InstanceControlDto, KeptToolDto, OrderedDto,
};
use crate::server::{Shared, refuse};

/// Lines in one answer unless the request says otherwise, and at most.
const LINES: usize = 100;
const LINES_MAX: usize = 1_000;

/// What the cluster has agreed on about a server.
pub(crate) fn control(server: &ServerView) -> ControlDto {
    let owned = |text: Option<&'static str>| text.map(str::to_owned);
    ControlDto {
        verdict: server.verdict.to_owned(),
        active: server.active.clone(),
        phase: owned(server.phase),
        stage: owned(server.stage),
        target: server.target.clone(),
        since_unix_s: server.since.map(|since| since / 1_000),
        generation: server.generation,
        reason: server.reason.clone(),
        kept: server.breaker.clone(),
        kept_tools: server
            .tools
            .iter()
            .cloned()
            .map(|(name, kept)| KeptToolDto { name, kept })
            .collect(),
        instances: server.instances.iter().map(instance).collect(),
    }
}

fn instance(it: &InstanceView) -> InstanceControlDto {
    InstanceControlDto {
        id: it.id.clone(),
        role: it.role.map(str::to_owned),
        region: it.region.clone(),
        verdict: it.verdict.to_owned(),
        votes: it.votes.clone(),
        score: it.score.map(|score| (score * 1e3).round() / 1e3),
        why: it.why.clone(),
        breaker: it.breaker.to_owned(),
        kept: it.kept.clone(),
        in_flight: it.in_flight,
        share: it.share,
    }
}

fn event(it: EventView) -> EventDto {
    EventDto {
        index: it.index,
        at_unix_ms: it.at,
        server: it.server,
        instance: it.instance,
        kind: it.kind.to_owned(),
        text: it.text,
    }
}

fn incident(it: IncidentView) -> IncidentDto {
    IncidentDto {
        server: it.server,
        instance: it.instance,
        began_unix_ms: it.began,
        detected_ms: it.detected_ms,
        decided_ms: it.decided_ms,
        switched_ms: it.switched_ms,
        recovered_ms: it.recovered_ms,
        rto_ms: it.rto_ms,
        objective: it.objective.to_owned(),
        tier_ms: it.tier_ms,
        tier: Some(it.tier).filter(|tier| !tier.is_empty()).map(str::to_owned),
        unknown_writes: it.unknown_writes,
        in_doubt_ms: it.in_doubt_ms,
        rpo_ms: Some(it.rpo_ms),
        rpo: Some(it.rpo.to_owned()),
        sessions_moved: it.sessions_moved,
    }
}

// === the routes ===

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Lines {
    limit: Option<usize>,
}

pub(crate) async fn audit(
    State(shared): State<Arc<Shared>>,
    lines: Result<Query<Lines>, QueryRejection>,
) -> Result<Json<EventsDto>, Response> {
    let Query(Lines { limit }) = lines.map_err(|_| {
        let error = format!("allowed is limit=1…{LINES_MAX}, a whole number");
        refuse(StatusCode::BAD_REQUEST, error)
    })?;
    let limit = limit.unwrap_or(LINES).clamp(1, LINES_MAX);
    let events = operated(&shared)?.events(limit);
    Ok(Json(EventsDto { events: events.into_iter().map(event).collect() }))
}

pub(crate) async fn incidents(
    State(shared): State<Arc<Shared>>,
) -> Result<Json<IncidentsDto>, Response> {
    let incidents = operated(&shared)?.incidents();
    Ok(Json(IncidentsDto { incidents: incidents.into_iter().map(incident).collect() }))
}

pub(crate) async fn failover(
    State(shared): State<Arc<Shared>>,
    request: Result<Json<FailoverRequestDto>, JsonRejection>,
) -> Result<(StatusCode, Json<OrderedDto>), Response> {
    let Json(FailoverRequestDto { server, to, force }) = request
        .map_err(|rejection| wrong(&rejection, "{\"server\": \"NAME\", \"to\": \"INSTANCE\"}"))?;
    let wanted = match (force, to) {
        (false, to) => Order::FailOver { server, to },
        (true, Some(to)) => Order::ForceOver { server, to },
        (true, None) => {
            let said = "force needs to: name the instance that is to serve whatever is known of it";
            return Err(refuse(StatusCode::BAD_REQUEST, said.to_owned()));
        }
    };
    order(&shared, wanted).await
}

pub(crate) async fn failback(
    State(shared): State<Arc<Shared>>,
    request: Result<Json<FailbackRequestDto>, JsonRejection>,
) -> Result<(StatusCode, Json<OrderedDto>), Response> {
    let Json(FailbackRequestDto { server, at_once }) =
        request.map_err(|rejection| wrong(&rejection, "{\"server\": \"NAME\"}"))?;
    let wanted = if at_once { Order::BackAtOnce { server } } else { Order::FailBack { server } };
    order(&shared, wanted).await
}

pub(crate) async fn breaker(
    State(shared): State<Arc<Shared>>,
    request: Result<Json<BreakerRequestDto>, JsonRejection>,
) -> Result<(StatusCode, Json<OrderedDto>), Response> {
    let Json(BreakerRequestDto { server, instance, tool, action }) =
        request.map_err(|rejection| {
            wrong(&rejection, "{\"server\": \"NAME\", \"action\": \"open\"} (or close, or clear)")
        })?;
    let force = match action {
        BreakerActionDto::Open => Force::Open,
        BreakerActionDto::Close => Force::Closed,
        BreakerActionDto::Clear => Force::Clear,
    };
    let wanted = match (instance, tool) {
        (instance, None) => Order::Breaker { server, instance, force },
        (None, Some(tool)) => Order::ToolBreaker { server, tool, force },
        (Some(_), Some(_)) => {
            let said = "name an instance or a tool: a tool's breaker is of all instances";
            return Err(refuse(StatusCode::BAD_REQUEST, said.to_owned()));
        }
    };
    order(&shared, wanted).await
}

async fn order(shared: &Shared, order: Order) -> Result<(StatusCode, Json<OrderedDto>), Response> {
    let operated = operated(shared)?;
    let server = order.server().to_owned();
    tracing::info!(?order, "an operator orders");
    operated.order(order).await.map_err(|error| {
        let status = match error {
            OrderError::UnknownServer { .. }
            | OrderError::UnknownInstance { .. }
            | OrderError::UnknownTool { .. } => StatusCode::NOT_FOUND,
            OrderError::NoSecondary { .. }
            | OrderError::There { .. }
            | OrderError::Running { .. }
            | OrderError::Refused { .. }
            | OrderError::NotHeld { .. }
            | OrderError::TooEarly { .. } => StatusCode::CONFLICT,
            OrderError::NoQuorum | OrderError::Minority { .. } => StatusCode::SERVICE_UNAVAILABLE,
            OrderError::TimedOut => StatusCode::GATEWAY_TIMEOUT,
        };
        refuse(status, error.to_string())
    })?;
    let view = operated.servers().into_iter().find(|it| it.name == server);
    let control = view.as_ref().map(control).unwrap_or_default();
    Ok((StatusCode::ACCEPTED, Json(OrderedDto { server, control })))
}

#[expect(clippy::result_large_err, reason = "it is the answer")]
fn operated(shared: &Shared) -> Result<&dyn Operated, Response> {
    shared.operated().ok_or_else(|| {
        let error = "this node has no control plane yet: it is starting; try again".to_owned();
        refuse(StatusCode::SERVICE_UNAVAILABLE, error)
    })
}

fn wrong(rejection: &JsonRejection, expected: &str) -> Response {
    refuse(rejection.status(), format!("send {expected} as application/json"))
}
