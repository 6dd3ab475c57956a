//! Servers that fail behind three nodes: what the nodes find out together, that each goes by it whatever it has
//! seen itself, and that it holds when the coordinator is gone.

mod back;
mod kinds;
mod quarantine;
mod rates;
mod signs;
mod tools;

use crate::harness::client::Client;
use crate::harness::cluster::Cluster;
use crate::harness::message::MODERN;

/// A client at this node that has no session.
fn modern(cluster: &Cluster, at: usize, server: &str) -> Client {
    cluster.client(at).speaking(MODERN).at(&format!("/mcp/{server}"))
}

/// Whether the breaker of a server's only instance is here, as a node shows the server.
fn breaker_is(seen: &serde_json::Value, state: &str) -> bool {
    seen["instances"][0]["breaker"] == state
}
