//! What this node does for its peers.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use holdfast_engine::replicated::NodeId;
use holdfast_peer::{Caller, ResponseBody, Service};
use http::{Request, Response};
use hyper::body::Incoming;
use openraft::raft::{AppendEntriesRequest, TransferLeaderRequest, VoteRequest};
use openraft::storage::Snapshot;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::messages::{
    APPEND, BEAT, Beat, Grouped, HELLO, JOIN, JoinAnswer, JoinRequest, NODES, PING, PRE_VOTE,
    PROPOSE, Part, PartTaken, ProposeRequest, READ, REMOVE, SNAPSHOT, TRANSFER, VOTE, decode,
    encode,
};
use crate::node::Node;
use crate::types::Types;

/// The largest snapshot that is taken in, in bytes.
const LARGEST_SNAPSHOT: usize = 2 << 30;

/// What the rest of the gateway does with what other nodes send it through the cluster port.
pub trait Forwarded: Send + Sync + 'static {
    /// Answers a request that another node has forwarded.
    ///
    /// The future is dropped when the other node stops waiting.
    fn forward(
        &self,
        from: Caller,
        request: Request<Incoming>,
    ) -> BoxFuture<'_, Response<ResponseBody>>;

    /// Answers a call that is none of the cluster's own. Its methods begin with neither `raft/` nor
    /// `cluster/`.
    ///
    /// # Errors
    /// What is said to the caller.
    fn call<'a>(
        &'a self,
        _from: Caller,
        method: &'a str,
        _body: Bytes,
    ) -> BoxFuture<'a, Result<Bytes, String>> {
        Box::pin(async move { Err(format!("no such method: {method}")) })
    }
}

/// A snapshot that is coming in.
pub(crate) struct Arriving {
    transfer: u64,
    data: Vec<u8>,
}

pub(crate) struct Serving {
    node: Arc<Node>,
    forwarded: Arc<dyn Forwarded>,
    arriving: Mutex<Option<Arriving>>,
}

impl Serving {
    pub(crate) fn new(node: Arc<Node>, forwarded: Arc<dyn Forwarded>) -> Self {
        Self { node, forwarded, arriving: Mutex::default() }
    }

    async fn answer(&self, from: Caller, method: &str, body: Bytes) -> Result<Bytes, String> {
        let node = &self.node;
        match method {
            APPEND => {
                let request: AppendEntriesRequest<Types> = self.grouped(&body).await?;
                reply(&node.raft.append_entries(request).await.map_err(text)?)
            }
            VOTE => {
                let request: VoteRequest<Types> = self.grouped(&body).await?;
                reply(&node.raft.vote(request).await.map_err(text)?)
            }
            PRE_VOTE => {
                let request: VoteRequest<Types> = self.grouped(&body).await?;
                reply(&node.raft.pre_vote(request).await.map_err(text)?)
            }
            TRANSFER => {
                let request: TransferLeaderRequest<Types> = self.grouped(&body).await?;
                reply(&node.raft.handle_transfer_leader(request).await.map_err(text)?)
            }
            SNAPSHOT => {
                let part: Part = self.grouped(&body).await?;
                reply(&self.take(part).await?)
            }
            HELLO => reply(&node.hello()),
            PING => reply(&()),
            BEAT => {
                let Beat { generation } = decode(&body)?;
                let within = node.options.failover_timeout / 2;
                reply(&node.grant(from.node, generation, within).await)
            }
            READ => {
                let within = node.options.failover_timeout / 2;
                let answer = node.confirm(within).await;
                reply(&answer.ok_or("it is not known whether this node leads")?)
            }
            PROPOSE => {
                let ProposeRequest { command, within } = decode(&body)?;
                if command.origin.node != from.node {
                    return Err("a node proposes in its own name".to_owned());
                }
                let within = Duration::from_millis(within).min(Duration::from_secs(600));
                reply(&node.write(command, within).await)
            }
            JOIN => {
                let request: JoinRequest = decode(&body)?;
                if request.node != from.node {
                    return Err("a node joins in its own name".to_owned());
                }
                // A change of the membership goes on when the new node stops waiting.
                let node = Arc::clone(node);
                let admitted = self.node.tasks.spawn(async move { node.admit(request).await });
                let stopped = |_| JoinAnswer::Again("this node stops".to_owned());
                reply(&admitted.await.unwrap_or_else(stopped))
            }
            REMOVE => {
                let gone: NodeId = decode(&body)?;
                let node = Arc::clone(node);
                let removed = self.node.tasks.spawn(async move { node.dismiss(gone).await });
                reply(&removed.await.map_err(text)?)
            }
            NODES => reply(&node.local_nodes()),
            _ => self.forwarded.call(from, method, body).await,
        }
    }

    /// Reads a message of Raft, if it is of this node's group.
    async fn grouped<T: DeserializeOwned>(&self, body: &[u8]) -> Result<T, String> {
        let Grouped { group, message } = decode(body)?;
        self.node.group.adopt(group).await.map_err(text)?;
        Ok(message)
    }

    /// Takes a part of a snapshot; installs it with the last.
    async fn take(&self, part: Part) -> Result<PartTaken, String> {
        let complete = {
            let mut arriving = self.arriving.lock().unwrap_or_else(PoisonError::into_inner);
            let mut whole = match arriving.take() {
                Some(whole) if whole.transfer == part.transfer => whole,
                _ => Arriving { transfer: part.transfer, data: Vec::new() },
            };
            if whole.data.len() as u64 != part.offset {
                return Err(format!("a part of a snapshot is missing before {}", part.offset));
            }
            if whole.data.len() + part.data.len() > LARGEST_SNAPSHOT {
                return Err("the snapshot is too large".to_owned());
            }
            whole.data.extend_from_slice(&part.data);
            if !part.last {
                *arriving = Some(whole);
                return Ok(PartTaken::More);
            }
            whole
        };
        let snapshot = Snapshot { meta: part.meta, snapshot: Bytes::from(complete.data) };
        let installed = self.node.raft.install_full_snapshot(part.vote, snapshot).await;
        Ok(PartTaken::Installed(installed.map_err(text)?))
    }
}

impl Service for Serving {
    fn call<'a>(
        &'a self,
        from: Caller,
        method: &'a str,
        body: Bytes,
    ) -> BoxFuture<'a, Result<Bytes, String>> {
        Box::pin(self.answer(from, method, body))
    }

    fn forward(
        &self,
        from: Caller,
        request: Request<Incoming>,
    ) -> BoxFuture<'_, Response<ResponseBody>> {
        self.forwarded.forward(from, request)
    }
}

fn reply(value: &impl Serialize) -> Result<Bytes, String> {
    encode(value).map_err(text)
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
