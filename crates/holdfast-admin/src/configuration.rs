//! From what is known of the configuration to what the API says of it; and the routes that show it and
//! change it.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Query, State};
use axum::response::Response;
use holdfast_config::Change;
use holdfast_control::versions::{
    Ask, Configured, History, NodeStanding, ReloadError, Reloaded, Said, VersionView,
};
use http::StatusCode;
use serde::Deserialize;

use crate::api::{
    ChangeDto, ConfigHistoryDto, ConfigNodeDto, ConfigTextDto, ConfigVersionDto, ReloadRequestDto,
    ReloadedDto, RollbackRequestDto,
};
use crate::server::{Shared, refuse};

fn reloaded(it: Reloaded) -> ReloadedDto {
    ReloadedDto {
        version: it.version,
        new: it.new,
        changes: it.changes.into_iter().map(change).collect(),
        nodes: it.nodes.into_iter().map(node).collect(),
    }
}

fn change(it: Change) -> ChangeDto {
    ChangeDto { key: it.key, old: it.old, new: it.new }
}

fn node(it: NodeStanding) -> ConfigNodeDto {
    let standing = it.said.standing();
    let (failed, why) = standing.and_then(|it| it.failed.clone()).unzip();
    ConfigNodeDto {
        version: standing.map(|it| it.version),
        since_unix_ms: standing.map(|it| it.since),
        failed,
        why,
        file: standing.map(|it| it.file.label().to_owned()),
        trouble: standing.and_then(|it| it.trouble.clone()),
        format: match it.said {
            Said::Format(format) => Some(format),
            Said::Standing(_) | Said::Nothing => None,
        },
        node: it.node,
    }
}

fn version(it: VersionView) -> ConfigVersionDto {
    ConfigVersionDto {
        version: it.version,
        id: it.id,
        by: it.by,
        at_unix_ms: it.at,
        rolls_back_to: it.rolls_back_to,
    }
}

/// Which version each node runs, as far as they say so within a moment.
pub(crate) async fn nodes(shared: &Shared) -> Vec<ConfigNodeDto> {
    let Some(configured) = shared.configured() else { return Vec::new() };
    configured.history().await.nodes.into_iter().map(node).collect()
}

// === the routes ===

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Which {
    version: Option<u64>,
}

pub(crate) async fn show(
    State(shared): State<Arc<Shared>>,
    which: Result<Query<Which>, QueryRejection>,
) -> Result<Json<ConfigTextDto>, Response> {
    let Query(Which { version }) = which.map_err(|_| {
        let error = "allowed is version=1…, a whole number".to_owned();
        refuse(StatusCode::BAD_REQUEST, error)
    })?;
    let shown = configured(&shared)?.show(version).map_err(|error| refused(&error))?;
    Ok(Json(ConfigTextDto { version: shown.version, text: shown.text }))
}

pub(crate) async fn history(
    State(shared): State<Arc<Shared>>,
) -> Result<Json<ConfigHistoryDto>, Response> {
    let History { versions, nodes } = configured(&shared)?.history().await;
    Ok(Json(ConfigHistoryDto {
        versions: versions.into_iter().map(version).collect(),
        nodes: nodes.into_iter().map(node).collect(),
    }))
}

pub(crate) async fn reload(
    State(shared): State<Arc<Shared>>,
    request: Result<Json<ReloadRequestDto>, JsonRejection>,
) -> Result<Json<ReloadedDto>, Response> {
    let Json(ReloadRequestDto { check }) =
        request.map_err(|rejection| wrong(&rejection, "{} or {\"check\": true}"))?;
    let ask = if check { Ask::Check } else { Ask::Do };
    to_its_end(&shared, move |it| async move { it.reload(ask).await }).await
}

pub(crate) async fn roll_back(
    State(shared): State<Arc<Shared>>,
    request: Result<Json<RollbackRequestDto>, JsonRejection>,
) -> Result<Json<ReloadedDto>, Response> {
    let Json(RollbackRequestDto { version }) =
        request.map_err(|rejection| wrong(&rejection, "{\"version\": NUMBER}"))?;
    tracing::info!(version, "an operator asks for an earlier configuration");
    to_its_end(&shared, move |it| async move { it.roll_back(version).await }).await
}

/// Changes the configuration in a task of its own: a client that goes takes this handler with it, and
/// would leave a version half proposed.
async fn to_its_end<F>(
    shared: &Shared,
    change: impl FnOnce(Arc<dyn Configured>) -> F,
) -> Result<Json<ReloadedDto>, Response>
where
    F: Future<Output = Result<Reloaded, ReloadError>> + Send + 'static,
{
    let done = tokio::spawn(change(Arc::clone(configured(shared)?))).await.map_err(|ended| {
        let error =
            format!("the change came to no end, look with `holdfast config history`: {ended}");
        refuse(StatusCode::INTERNAL_SERVER_ERROR, error)
    })?;
    done.map(|done| Json(reloaded(done))).map_err(|error| refused(&error))
}

fn refused(error: &ReloadError) -> Response {
    let status = match error {
        ReloadError::Problems(_) | ReloadError::TooLong { .. } => StatusCode::UNPROCESSABLE_ENTITY,
        ReloadError::Refused(_)
        | ReloadError::Failed { .. }
        | ReloadError::Overtaken { .. }
        | ReloadError::Holds { .. } => StatusCode::CONFLICT,
        ReloadError::Unknown { .. } | ReloadError::NoText { .. } => StatusCode::NOT_FOUND,
        ReloadError::NoQuorum | ReloadError::Busy => StatusCode::SERVICE_UNAVAILABLE,
        ReloadError::TimedOut => StatusCode::GATEWAY_TIMEOUT,
    };
    refuse(status, error.to_string())
}

#[expect(clippy::result_large_err, reason = "it is the answer")]
fn configured(shared: &Shared) -> Result<&Arc<dyn Configured>, Response> {
    shared.configured().ok_or_else(|| {
        let error = "this node has no configuration file, or is starting; try again".to_owned();
        refuse(StatusCode::SERVICE_UNAVAILABLE, error)
    })
}

fn wrong(rejection: &JsonRejection, expected: &str) -> Response {
    refuse(rejection.status(), format!("send {expected} as application/json"))
}
