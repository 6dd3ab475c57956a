//! The transport between nodes: always encrypted, both sides proven to hold the cluster secret.
//!
//! # What it gives
//! - [`Peers`], the dialling side: one owned connection per peer and [`Lane`], dialled when it is
//!   needed. [`Peers::call`] sends a small message and gets one back; [`Peers::forward`] sends an
//!   HTTP request on to another node and streams both bodies.
//! - [`Listener`], the accepting side, and [`Service`], what a node does with calls and forwards.
//!
//! It knows neither Raft nor MCP: a call is a name and bytes, a forward is an HTTP request.
//!
//! # What a connection is
//! TCP, then TLS 1.3 with a certificate that is made at the start of the process and that nobody
//! trusts, then one message each way (`hello`) in which the two sides prove that they hold the
//! cluster secret and say who they are, then HTTP/2. The proof is an HMAC over keying material
//! exported from this very TLS session, so whoever stands in the middle with a session to either
//! side holds two different ones and can pass on neither proof. Before its proof a peer is given
//! nothing: not one byte of HTTP, not even the name of the node.
//!
//! # What a caller can rely on
//! - Every wait ends: a call by its own deadline, dialling and the proof by theirs, a connection
//!   whose other end is silent by its pings.
//! - An error says what is known. [`PeerError::certainly_not_sent`] is true only where the other
//!   side has not begun; every other error means *unknown*, never "it did not happen".
//! - An answer comes from the node that was asked. A node id is one incarnation; whoever is found
//!   under the address with another id is not spoken to ([`PeerError::WrongNode`]).
//! - When the caller stops waiting (deadline, dropped future), the stream is reset and the future
//!   of the [`Service`] is dropped. What must finish there has to be spawned by the service.

mod connection;
mod counters;
mod dial;
mod envelope;
mod error;
mod half_open;
mod hello;
mod link;
mod listener;
mod peers;
mod proof;
mod secret;
mod serve;
mod settings;
mod tls;

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;

pub use self::counters::{Counters, Counts};
pub use self::error::{BindError, PeerError, SetupError};
pub use self::listener::Listener;
pub use self::peers::{LinkStatus, Peers};
pub use self::secret::Secret;
pub use self::settings::{Limits, Settings};

/// One incarnation of a node: its name and a random part, kept in its data directory. Never 0,
/// which stands for "whoever answers" on the wire.
pub type NodeId = u64;

/// Whatever made a body fail.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The body of an answer to a forwarded request.
pub type ResponseBody = UnsyncBoxBody<Bytes, BoxError>;

/// Which of the two connections to a peer is used, so that bulk never delays a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Lane {
    /// Raft messages, leases, proposals.
    Control,
    /// Forwarded requests and whatever is large.
    Data,
}

/// Who is at the other end of a connection, proven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The incarnation.
    pub node: NodeId,
    /// The configured name; as the peer says, the secret being all that is proven.
    pub name: Arc<str>,
}

/// What a node does for its peers.
///
/// Both futures are dropped when the caller stops waiting or its connection breaks.
pub trait Service: Send + Sync + 'static {
    /// Answers a call. An `Err` reaches the caller as [`PeerError::Rejected`] with status 500,
    /// its text cut to 1 KiB.
    fn call<'a>(
        &'a self,
        from: Caller,
        method: &'a str,
        body: Bytes,
    ) -> BoxFuture<'a, Result<Bytes, String>>;

    /// Answers a forwarded request: the client's method, URI, version, headers and body.
    fn forward(
        &self,
        from: Caller,
        request: Request<Incoming>,
    ) -> BoxFuture<'_, Response<ResponseBody>>;
}
