//! The nodes behind this edge: how each stands, and how much it has to do.
//!
//! One table for all threads, read without a lock. Whoever waits on something that a node's fate
//! decides subscribes to the table's version, which rises with every change of a standing.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use http::HeaderValue;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::StartError;
use crate::decide::{Probed, Standing};

/// Nodes of one edge. Every request looks at each of them.
pub(crate) const MOST: usize = 64;

/// One node.
#[derive(Debug)]
pub(crate) struct Node {
    /// `HOST:PORT`, as configured.
    pub(crate) address: String,
    /// The same where it needs no name service.
    pub(crate) literal: Option<SocketAddr>,
    standing: AtomicU8,
    in_flight: AtomicUsize,
    /// Asks for a probe at once.
    pub(crate) nudge: Notify,
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Nodes {
    list: Vec<Arc<Node>>,
    version: watch::Sender<u64>,
    /// Since when no node is alive.
    none_since: Mutex<Option<Instant>>,
}

/// A request, a stream or a tunnel that counts as work of a node.
#[derive(Debug)]
pub(crate) struct InFlight(Arc<Node>);

// === impl Node ===

impl Node {
    fn new(address: &str) -> Result<Self, &'static str> {
        let (host, port) = address.rsplit_once(':').ok_or("has no port")?;
        if host.is_empty() {
            return Err("has no host");
        }
        if !port.parse::<u16>().is_ok_and(|port| port > 0) {
            return Err("has a port that is not a number from 1 to 65535");
        }
        let literal = address.parse().ok();
        if literal.is_none() && (host.contains(':') || HeaderValue::from_str(address).is_err()) {
            return Err("is not HOST:PORT");
        }
        Ok(Self {
            address: address.to_owned(),
            literal,
            standing: AtomicU8::new(Standing::Unknown as u8),
            in_flight: AtomicUsize::new(0),
            nudge: Notify::new(),
        })
    }

    pub(crate) fn standing(&self) -> Standing {
        Standing::from_u8(self.standing.load(Ordering::Relaxed))
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    pub(crate) fn enter(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(Arc::clone(self))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

// === impl Nodes ===

impl Nodes {
    pub(crate) fn new(addresses: &[String]) -> Result<Self, StartError> {
        if addresses.is_empty() {
            return Err(StartError::NoNode);
        }
        if addresses.len() > MOST {
            return Err(StartError::TooManyNodes(addresses.len()));
        }
        let mut list: Vec<Arc<Node>> = Vec::with_capacity(addresses.len());
        for address in addresses {
            let bad = |why| StartError::Node { node: address.clone(), why };
            if list.iter().any(|node| node.address == *address) {
                return Err(bad("is named twice"));
            }
            list.push(Arc::new(Node::new(address).map_err(bad)?));
        }
        let none_since = Mutex::new(Some(Instant::now()));
        Ok(Self { list, version: watch::Sender::new(0), none_since })
    }

    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.list.iter()
    }

    pub(crate) fn get(&self, index: usize) -> &Arc<Node> {
        &self.list[index]
    }

    /// Tells of every change of any node's standing.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// Since when no node is alive, if none is.
    pub(crate) fn none_since(&self) -> Option<Instant> {
        *self.none_since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in what a probe, or a request that could not be delivered, has found.
    pub(crate) fn found(&self, index: usize, probed: Probed) {
        let node = &self.list[index];
        // A probe and a request may find something at once: each moves on from what it replaces.
        let moved = node.standing.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |before| {
            let after = Standing::from_u8(before).after(probed) as u8;
            (after != before).then_some(after)
        });
        let Ok(before) = moved.map(Standing::from_u8) else { return };
        let now = node.standing();
        if now == Standing::Ready {
            tracing::info!(node = node.address, was = before.label(), "node is ready");
        } else {
            tracing::warn!(
                node = node.address,
                was = before.label(),
                now = now.label(),
                "node is not ready"
            );
        }
        {
            let mut none_since = self.none_since.lock().unwrap_or_else(PoisonError::into_inner);
            let any = self.list.iter().any(|node| node.standing().is_alive());
            match (any, *none_since) {
                (true, Some(_)) => *none_since = None,
                (false, None) => {
                    *none_since = Some(Instant::now());
                    tracing::error!("no node is alive");
                }
                _ => {}
            }
        }
        self.version.send_modify(|version| *version += 1);
    }

    /// Resolves once streams from this node are over.
    pub(crate) async fn lost(&self, index: usize) {
        let mut changes = self.changes();
        loop {
            changes.borrow_and_update();
            if self.list[index].standing().ends_streams() {
                return;
            }
            // The sender is ours: there is always another change to wait for.
            let _ = changes.changed().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(addresses: &[&str]) -> Result<Nodes, StartError> {
        Nodes::new(&addresses.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn addresses_are_checked() {
        let fine = ["10.0.0.1:80", "node-1:37373", "[::1]:1", "localhost:9"];
        assert_eq!(nodes(&fine).unwrap().len(), fine.len());
        assert!(matches!(nodes(&[]), Err(StartError::NoNode)));
        for bad in ["", "node", ":80", "node:0", "node:x", "node:70000", "::1:80", "no\nde:1"] {
            assert!(matches!(nodes(&[bad]), Err(StartError::Node { .. })), "{bad:?}");
        }
        assert!(matches!(nodes(&["a:1", "a:1"]), Err(StartError::Node { .. })));
        let many: Vec<String> = (0..=MOST).map(|n| format!("node:{}", n + 1)).collect();
        assert!(matches!(Nodes::new(&many), Err(StartError::TooManyNodes(65))));
    }

    #[tokio::test]
    async fn a_change_is_told_and_the_last_one_alive_is_noticed() {
        let nodes = nodes(&["a:1", "b:2"]).unwrap();
        assert!(nodes.none_since().is_some(), "before the first probe nobody is known");
        let mut changes = nodes.changes();
        nodes.found(1, Probed::Ready);
        assert!(changes.has_changed().unwrap());
        changes.borrow_and_update();
        assert!(nodes.none_since().is_none());
        nodes.found(1, Probed::Ready);
        assert!(!changes.has_changed().unwrap(), "the same again is no change");
        nodes.found(1, Probed::Refused);
        assert!(nodes.none_since().is_some());
        // What a closed port leaves behind ends by itself; where nothing is any more, nothing does.
        nodes.found(1, Probed::Unreachable);
        nodes.lost(1).await;
    }

    #[test]
    fn work_is_counted_until_it_is_dropped() {
        let nodes = nodes(&["a:1"]).unwrap();
        let one = nodes.get(0).enter();
        let two = nodes.get(0).enter();
        assert_eq!(nodes.get(0).in_flight(), 2);
        drop((one, two));
        assert_eq!(nodes.get(0).in_flight(), 0);
    }
}
