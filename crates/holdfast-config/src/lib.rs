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
mod cluster;
mod context;
mod cross;
mod environment;
mod expand;
mod field;
mod limits;
mod listen;
mod load;
mod log;
mod nearest;
mod node;
mod problem;
mod reserved;
mod section;
mod server;
mod sessions;
mod streams;
mod tree;
mod units;

use std::collections::BTreeMap;

pub use self::admin::Admin;
pub use self::auth::{ApiKey, Auth};
pub use self::cluster::Cluster;
pub use self::limits::Limits;
pub use self::listen::{Listen, Tls};
pub use self::load::{load, parse};
pub use self::log::{Log, LogFormat};
pub use self::node::Node;
pub use self::problem::{Place, Problem, Problems};
pub use self::server::{HttpUrl, Instance, Server, Stdio, Tier, ToolRule, Transport, UrlError};
pub use self::sessions::{Sessions, StoreKind};
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
    /// Logs.
    pub log: Log,
    /// What was accepted but has no effect, for the operator to read at start.
    pub notices: Vec<String>,
}
