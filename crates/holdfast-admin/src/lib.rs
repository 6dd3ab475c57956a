//! The operator's side of a node: metrics, health, a small API, the status page, and the client
//! that the command line uses.
//!
//! It has a port of its own, so that what an operator may see is never a routing rule away from
//! what the world may send. It knows the data plane only as something that can be looked at
//! ([`holdfast_proxy::report::Observed`]), the cluster as something that can be looked at and asked to
//! drain a node ([`Nodes`]), and the control plane as something that can be looked at and ordered to
//! move a server or to hold a breaker ([`holdfast_control::Operated`]), the configuration as something
//! that can be looked at and taken over anew ([`holdfast_control::versions::Configured`]); nothing else
//! here changes anything.
//!
//! | path | answers |
//! |---|---|
//! | `/` | the status page |
//! | `/metrics` | Prometheus text (`docs/metrics.md`) |
//! | `/health`, `/health/live`, `/health/ready` | as on the client port |
//! | `/api/status` | [`api::StatusDto`] |
//! | `/api/servers` | [`api::ServersDto`] |
//! | `/api/nodes` | [`api::NodesDto`] |
//! | `POST /api/drain` | [`api::DrainDto`] for [`api::DrainRequestDto`] |
//! | `POST /api/failover` | [`api::OrderedDto`] for [`api::FailoverRequestDto`] |
//! | `POST /api/failback` | [`api::OrderedDto`] for [`api::FailbackRequestDto`] |
//! | `POST /api/breaker` | [`api::OrderedDto`] for [`api::BreakerRequestDto`] |
//! | `/api/audit?limit=100` | [`api::EventsDto`] |
//! | `/api/incidents` | [`api::IncidentsDto`] |
//! | `/api/config?version=3` | [`api::ConfigTextDto`] |
//! | `/api/config/history` | [`api::ConfigHistoryDto`] |
//! | `POST /api/config/reload` | [`api::ReloadedDto`] for [`api::ReloadRequestDto`] |
//! | `POST /api/config/rollback` | [`api::ReloadedDto`] for [`api::RollbackRequestDto`] |
//! | `/api/sessions?offset=0&limit=100` | [`api::SessionsDto`] |
//! | `/api/events` | server-sent events, [`api::StatusDto`] once a second |

pub mod api;
pub mod client;
pub mod cluster;
mod configuration;
mod control;
mod metrics;
mod nodes;
mod page;
mod server;
mod status;
mod window;

pub use client::{Client, ClientError};
pub use cluster::{
    ClusterView, DrainError, Draining, Figures, Load, NodeView, Nodes, Role, state_label,
};
pub use server::{Admin, AdminError, AdminSettings, Prepared, serve};
