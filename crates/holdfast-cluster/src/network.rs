//! Raft's messages to the other nodes.
//!
//! Every call ends by its own deadline. A node that cannot be reached is reported as unreachable, so
//! that openraft waits a little before it tries again; a vote that did not arrive is an error and never
//! a grant.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use holdfast_engine::replicated::NodeId;
use holdfast_peer::{Lane, PeerError};
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{Backoff, RPCOption, v2::RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{OptionalSend, RaftNetworkFactory};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::addresses::Addresses;
use crate::gate::Gate;
use crate::group::Group;
use crate::messages::{
    APPEND, Grouped, PRE_VOTE, Part, PartTaken, SNAPSHOT, TRANSFER, VOTE, decode, encode,
};
use crate::types::{Place, Snapshot, Types, Vote};
use crate::wire::Wire;

/// Bytes of a snapshot in one call.
const PART: usize = 4 << 20;

/// Makes the links to other nodes.
pub(crate) struct Network {
    pub(crate) wire: Arc<dyn Wire>,
    pub(crate) addresses: Arc<Addresses>,
    pub(crate) group: Arc<Group>,
    /// How long an append with entries may take: it waits for the other side's disk.
    pub(crate) append: Duration,
    pub(crate) gate: Arc<Gate>,
}

/// The link to one node.
pub(crate) struct Link {
    to: NodeId,
    wire: Arc<dyn Wire>,
    addresses: Arc<Addresses>,
    group: Arc<Group>,
    append: Duration,
    /// Appends in a row that were not answered in time.
    late: u32,
    gate: Arc<Gate>,
}

/// How often the time for an append is doubled at most: the same entries come again until they are
/// taken, and a node that cannot take them in time would get no further for ever.
const LATEST: u32 = 4;

impl RaftNetworkFactory<Types> for Network {
    type Network = Link;

    async fn new_client(&mut self, to: NodeId, place: &Place) -> Link {
        self.addresses.placed(to, place);
        Link {
            to,
            wire: Arc::clone(&self.wire),
            addresses: Arc::clone(&self.addresses),
            group: Arc::clone(&self.group),
            append: self.append,
            late: 0,
            gate: Arc::clone(&self.gate),
        }
    }
}

// === impl Link ===

impl Link {
    async fn call<A: DeserializeOwned>(
        &self,
        lane: Lane,
        method: &'static str,
        message: impl Serialize,
        deadline: Duration,
    ) -> Result<A, Unreachable<Types>> {
        let Some(group) = self.group.get() else {
            return Err(Unreachable::from_string("this node belongs to no group yet"));
        };
        let body = encode(&Grouped { group, message }).map_err(|error| Unreachable::new(&error))?;
        let answer = self.wire.call(self.to, lane, method, body, deadline).await;
        let answer = answer.map_err(|error| self.unreachable(&error))?;
        decode(&answer).map_err(Unreachable::from_string)
    }

    fn unreachable(&self, error: &PeerError) -> Unreachable<Types> {
        self.addresses.failed(self.to, error);
        Unreachable::new(error)
    }

    async fn parts(
        &self,
        vote: Vote,
        snapshot: Snapshot,
        deadline: Duration,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let transfer = crate::random().map_err(|error| Unreachable::new(&error))?;
        let mut rest: Bytes = snapshot.snapshot;
        let mut offset = 0;
        loop {
            let data = rest.split_to(rest.len().min(PART));
            let length = data.len() as u64;
            let last = rest.is_empty();
            let part = Part { vote, meta: snapshot.meta.clone(), transfer, offset, data, last };
            match self.call(Lane::Data, SNAPSHOT, part, deadline).await? {
                PartTaken::Installed(response) => return Ok(response),
                PartTaken::More if !last => offset += length,
                PartTaken::More => {
                    return Err(Unreachable::from_string("the last part was not the end").into());
                }
            }
        }
    }
}

impl RaftNetworkV2<Types> for Link {
    type SnapshotData = Bytes;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        if self.gate.is_closed() {
            return Err(Unreachable::from_string("this leader has no quorum and is silent").into());
        }
        if request.entries.is_empty() {
            return Ok(self.call(Lane::Control, APPEND, request, option.soft_ttl()).await?);
        }
        let deadline = option.soft_ttl().max(self.append) * 2u32.pow(self.late);
        let begun = Instant::now();
        let answer = self.call(Lane::Control, APPEND, request, deadline).await;
        self.late = match &answer {
            Err(_) if begun.elapsed() >= deadline => (self.late + 1).min(LATEST),
            _ => 0,
        };
        Ok(answer?)
    }

    async fn vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        Ok(self.call(Lane::Control, VOTE, request, option.soft_ttl()).await?)
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        Ok(self.call(Lane::Control, PRE_VOTE, request, option.soft_ttl()).await?)
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        tokio::select! {
            response = self.parts(vote, snapshot, option.soft_ttl()) => response,
            closed = cancel => Err(closed.into()),
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        Ok(self.call(Lane::Control, TRANSFER, request, option.soft_ttl()).await?)
    }

    fn backoff(&self) -> Option<Backoff> {
        // Short and constant: the transport has a back-off of its own, and a node that comes back is
        // missed until it is heard.
        Some(Backoff::new(std::iter::repeat(Duration::from_millis(50))))
    }
}
