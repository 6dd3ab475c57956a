//! How a call gets to another node.
//!
//! The group sees the network through [`Wire`] alone. In the program that is the peer transport; a test
//! puts a switch in front of it and cuts whom it wants.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use holdfast_engine::replicated::NodeId;
use holdfast_peer::{Lane, PeerError, Peers};

/// Sends a call and waits for its answer, by its own deadline. Errors say what is known.
pub trait Wire: Send + Sync + 'static {
    /// Calls a node.
    fn call(
        &self,
        to: NodeId,
        lane: Lane,
        method: &'static str,
        body: Bytes,
        deadline: Duration,
    ) -> BoxFuture<'_, Result<Bytes, PeerError>>;

    /// Calls whoever is at an address (`host:port`).
    fn call_address<'a>(
        &'a self,
        address: &'a str,
        method: &'static str,
        body: Bytes,
        deadline: Duration,
    ) -> BoxFuture<'a, Result<Bytes, PeerError>>;
}

impl Wire for Arc<Peers> {
    fn call(
        &self,
        to: NodeId,
        lane: Lane,
        method: &'static str,
        body: Bytes,
        deadline: Duration,
    ) -> BoxFuture<'_, Result<Bytes, PeerError>> {
        Box::pin(Peers::call(self, to, lane, method, body, deadline))
    }

    fn call_address<'a>(
        &'a self,
        address: &'a str,
        method: &'static str,
        body: Bytes,
        deadline: Duration,
    ) -> BoxFuture<'a, Result<Bytes, PeerError>> {
        Box::pin(Peers::call_address(self, address, method, body, deadline))
    }
}
