//! The servers' side: HTTP connections with their pools, and duplex connections with their mux.

pub mod duplex;
pub(crate) mod events;
pub(crate) mod http;
pub mod mux;
pub(crate) mod pool;
mod server_session;
pub(crate) mod wire;

use std::sync::Arc;

pub(crate) use self::server_session::ServerSession;

/// How a server is reached.
pub(crate) enum Endpoint {
    /// Streamable HTTP at one or several equal instances.
    Http(Vec<Arc<http::HttpTarget>>),
    /// A two-way connection that is the session: stdio, WebSocket or HTTP+SSE.
    Duplex(Box<duplex::Target>),
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Http(targets) => f.debug_list().entries(targets).finish(),
            // A target may hold credentials.
            Self::Duplex(target) => f.debug_tuple("Duplex").field(&target.server).finish(),
        }
    }
}
