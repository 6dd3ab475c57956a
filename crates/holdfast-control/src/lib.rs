//! The control plane: looks at the servers, decides with the other nodes which of them can be used, and
//! moves traffic. It may be away; the data plane goes on with what it was last told.
//!
//! Decisions are pure code (`holdfast_engine`), what all agree on is in the Raft group
//! (`holdfast_cluster`), and what a call meets is in the data plane (`holdfast_proxy`). Here is what
//! drives the three, as reconcilers that can be killed at any point.
//!
//! ```text
//!  every node                                            coordinator
//!  probe ──▶ looks ──▶ report ── votes, breakers, ──▶ desk ──▶ verdict ─────┐
//!             calls ──▶          confirmations              ├▶ breaker_sync ─┤ proposals
//!  data plane ◀── follow ◀── the group's state ◀────────────┴▶ failover ─────┘
//!                                     └──▶ notify (webhooks), objectives
//! ```
//!
//! Beside them [`versions`] has the nodes agree on one configuration, and takes it over.
//!
//! On a node without a cluster the same tasks run over a group of one ([`Alone`]).

mod compare;
mod control;
mod desk;
mod driver;
mod group;
mod history;
mod looks;
mod machine;
mod metrics;
mod operate;
mod plan;
mod plane;
mod report;
mod shared;
mod tasks;
#[cfg(test)]
mod tests;
pub mod versions;
mod view;
mod webhook;

pub use self::control::{Control, Prepared};
pub use self::group::{Alone, Clustered, Group};
pub use self::operate::{
    EventView, Force, IncidentView, InstanceView, Operated, Order, OrderError, ServerView,
};
pub use self::plan::{Plan, Planned, PlannedInstance};
pub use self::plane::Plane;

/// 64 random bits, for jitter: where there are none, none is better than no check.
fn random() -> u64 {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_or(u64::MAX / 2, |()| u64::from_ne_bytes(bytes))
}
