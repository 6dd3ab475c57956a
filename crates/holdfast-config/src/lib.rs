//! The configuration: read whole, checked whole, reported whole.
//!
//! serde stops at the first thing it does not like; an operator with eight mistakes would start
//! the gateway eight times. This crate reads YAML into a tree whose every node knows its line and
//! column, then checks it field by field and collects every [`Problem`]. What comes out is a
//! [`Config`] of plain types that cannot be wrong, or all [`Problems`] at once.
//!
//! Sections are passed on, never the whole `Config`: take your section, not the file.

mod admin;
mod auth;
mod bulkheads;
mod cluster;
mod context;
mod cross;
mod document;
mod environment;
mod expand;
mod field;
mod health;
mod json;
mod limits;
mod listen;
mod load;
mod log;
mod nearest;
mod node;
mod notify;
mod problem;
mod quantity;
mod redis;
mod reload;
mod reserved;
mod retry_budget;
mod section;
mod server;
mod sessions;
mod settings;
mod streams;
mod tree;
mod units;

use std::collections::BTreeMap;

pub use self::admin::Admin;
pub use self::auth::{ApiKey, Auth};
pub use self::bulkheads::{Bulkhead, BulkheadClass, Bulkheads};
pub use self::cluster::Cluster;
pub use self::document::{Document, File, MAX_DOCUMENT};
pub use self::health::{Health, Indicator, Levels, NodeHealth, Passive, Votes};
pub use self::limits::Limits;
pub use self::listen::{Listen, Tls};
pub use self::load::{load, parse, read};
pub use self::log::{Log, LogFormat};
pub use self::nearest::nearest;
pub use self::node::Node;
pub use self::notify::{NotifyEvent, Webhook};
pub use self::problem::{Place, Problem, Problems};
pub use self::redis::{HostPort, Redis, RedisTls, Topology};
pub use self::reload::Reload;
pub use self::retry_budget::RetryBudget;
pub use self::server::{
    Balance, Breaker, Check, CheckKind, CheckTarget, Consistency, Failover, FailoverTier, Fallback,
    FallbackCache, Held, HttpUrl, Instance, InstanceRate, MetricSource, Objectives, Pool, Role,
    Server, ServerHealth, Stdio, Strategy, Tier, ToolRule, Transport, UrlError,
};
pub use self::sessions::{Sessions, StoreKind};
pub use self::settings::{Change, Version, When};
pub use self::streams::Streams;
/// Re-exported so that whoever reads a secret needs no dependency of its own.
pub use secrecy::{ExposeSecret, SecretString};

/// Where environment variables come from: `&|name| std::env::var(name).ok()`, or a test's table.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// One node's whole configuration, checked.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// Who this node is.
    pub node: Node,
    /// Its place among the nodes that stand in for one another; `None`: it runs alone.
    pub cluster: Option<Cluster>,
    /// The port for clients.
    pub listen: Listen,
    /// The port for the operator.
    pub admin: Admin,
    /// Upper bounds.
    pub limits: Limits,
    /// Client sessions.
    pub sessions: Sessions,
    /// Streams.
    pub streams: Streams,
    /// Who may call.
    pub auth: Auth,
    /// The servers behind the gateway, by name. `[A-Za-z0-9_-]{1,64}`; never empty once loaded.
    pub servers: BTreeMap<String, Server>,
    /// What each class of calls may use of a server.
    pub bulkheads: Bulkheads,
    /// How much is repeated.
    pub retry_budget: RetryBudget,
    /// How servers are checked, and how a cluster agrees on it.
    pub health: Health,
    /// Who is told when something happens.
    pub notify: Vec<Webhook>,
    /// Logs.
    pub log: Log,
    /// How a running node comes to another configuration.
    pub reload: Reload,
    /// What was accepted but has no effect, for the operator to read at start.
    pub notices: Vec<String>,
}
