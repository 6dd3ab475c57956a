//! `holdfast edge` as a process, in front of scripted nodes that refuse, reset, freeze, cut and
//! close, and of real ones.

mod gone;
mod lifetime;
mod node;
mod passes;
mod process;
mod real;
mod resend;
mod streams;

use crate::harness::wire::{Answer, Conn};
use node::Node;
use process::Edge;

/// A POST of this body, as a client would send it.
fn post(body: &str) -> String {
    format!(
        "POST /mcp HTTP/1.1\r\nHost: mcp.example.com\r\nContent-Type: application/json\r\n\
         Accept: application/json, text/event-stream\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn call(id: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"x"}}}}"#)
}

/// Sends one call over a connection of its own.
async fn ask(edge: &Edge, id: &str) -> Answer {
    Conn::open(edge.address).await.exchange(post(&call(id))).await
}

/// An edge over these nodes, once it knows how each stands.
async fn edge_over(nodes: &[&Node], options: &[&str]) -> Edge {
    let addresses: Vec<String> = nodes.iter().map(|node| node.address.to_string()).collect();
    let edge = Edge::start(&addresses, options).await;
    edge.knows_all(&addresses).await;
    edge
}
