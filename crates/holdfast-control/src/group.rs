//! The Raft group as the control plane uses it; and a group of one, for a node without a cluster, which
//! decides the same things by the same commands.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use holdfast_cluster::{Cluster, Leadership, ProposeError};
use holdfast_engine::replicated::{
    Body, ClusterState, Command, ControlCommand, Machine, NodeId, Origin, Reply, ServerCommand,
    ServerEvent, ServerHappened,
};
use holdfast_peer::Lane;
use tokio::sync::watch;

use crate::history::History;

/// What a node knows, for the coordinator.
pub(crate) const REPORT: &str = "control/report";
/// What an operator orders, for the coordinator.
pub(crate) const ORDER: &str = "control/order";

/// What the coordinator wants compared that does not reach it itself.
pub(crate) const COMPARE: &str = "control/compare";
/// How well a node is, for the coordinator, which says whether it may step aside.
pub(crate) const NODE: &str = "control/node";

/// What an outage cost clients of a node, for the coordinator, which has the group take it down.
pub(crate) const LOSS: &str = "control/loss";

/// How long a decision may take; then the next turn looks at what became of it.
const PROPOSE_WITHIN: Duration = Duration::from_secs(2);
/// How long another node may take to answer: longer than a decision takes there, or what it decided would be
/// told again.
const CALL_WITHIN: Duration = Duration::from_secs(3);
/// How long another node may take to show that it is there.
const ANSWER_WITHIN: Duration = Duration::from_millis(500);

/// What all nodes agree on, and the way to change it.
pub trait Group: Send + Sync + 'static {
    /// This node.
    fn me(&self) -> NodeId;

    /// What is agreed on, as applied here.
    fn state(&self) -> watch::Receiver<Arc<ClusterState>>;

    /// Who coordinates, as far as this node knows.
    fn leadership(&self) -> watch::Receiver<Leadership>;

    /// Changes it, or says why not. A reply that refuses is no error.
    ///
    /// # Errors
    /// See [`ProposeError`].
    fn propose(&self, command: ControlCommand) -> BoxFuture<'_, Result<Reply, ProposeError>>;

    /// The group's time, in milliseconds since the Unix epoch.
    fn time(&self) -> u64;

    /// This machine's own, which goes on while the machine sleeps.
    fn wall(&self) -> u64 {
        wall_clock()
    }

    /// Hands leadership over, if this node has it, to one that is none of `avoid`. Whether it has it no
    /// more.
    fn hand_over(&self, avoid: BTreeSet<NodeId>) -> BoxFuture<'_, bool>;

    /// Whether a majority of the group has heard of this node lately. Without one nothing can be decided here.
    fn has_quorum(&self) -> bool {
        true
    }

    /// The names of the other nodes that do not answer this one. They are asked, which takes half a second
    /// where one does not.
    fn silent(&self) -> BoxFuture<'_, Vec<String>> {
        Box::pin(std::future::ready(Vec::new()))
    }

    /// What happened, oldest first: the last `limit` events that are known.
    fn events(&self, limit: usize) -> Vec<ServerEvent> {
        let state = self.state();
        let state = state.borrow();
        last(state.servers.events.iter(), limit)
    }

    /// Says something to another node's control plane, and returns what that one answers; its end is
    /// [`crate::Control::receive`].
    ///
    /// # Errors
    /// Why it may not have heard.
    fn call(
        &self,
        to: NodeId,
        method: &'static str,
        body: Bytes,
    ) -> BoxFuture<'_, Result<Bytes, String>>;
}

/// A cluster.
pub struct Clustered(pub Arc<Cluster>);

/// A node that decides alone.
pub struct Alone {
    machine: Mutex<Machine>,
    state: watch::Sender<Arc<ClusterState>>,
    leadership: watch::Sender<Leadership>,
    origin: Origin,
    /// What happened, where that is kept beyond the process.
    history: Option<Mutex<History>>,
}

// === impl Clustered ===

impl Group for Clustered {
    fn me(&self) -> NodeId {
        self.0.me()
    }

    fn state(&self) -> watch::Receiver<Arc<ClusterState>> {
        self.0.state()
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.0.leadership()
    }

    fn propose(&self, command: ControlCommand) -> BoxFuture<'_, Result<Reply, ProposeError>> {
        Box::pin(self.0.propose(Body::Control(command), PROPOSE_WITHIN))
    }

    fn time(&self) -> u64 {
        self.0.time()
    }

    fn has_quorum(&self) -> bool {
        self.0.lease().holds()
    }

    fn silent(&self) -> BoxFuture<'_, Vec<String>> {
        Box::pin(self.0.silent(ANSWER_WITHIN))
    }

    fn hand_over(&self, avoid: BTreeSet<NodeId>) -> BoxFuture<'_, bool> {
        Box::pin(async move { self.0.transfer_leadership(&avoid).await })
    }

    fn call(
        &self,
        to: NodeId,
        method: &'static str,
        body: Bytes,
    ) -> BoxFuture<'_, Result<Bytes, String>> {
        Box::pin(async move {
            let answer = self.0.peers().call(to, Lane::Control, method, body, CALL_WITHIN).await;
            answer.map_err(|error| error.to_string())
        })
    }
}

// === impl Alone ===

/// The one member's number, and the one term.
const ONE: u64 = 1;

impl Alone {
    /// A group that the node of this name is the only member of.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self::begin(name, None)
    }

    /// The same; what happened before and happens from here on is kept in this folder. The rest is not.
    ///
    /// # Errors
    /// The system's, where the folder can be neither read nor written.
    pub fn keeping(name: &str, folder: &Path) -> io::Result<Self> {
        Ok(Self::begin(name, Some(History::open(folder)?)))
    }

    fn begin(name: &str, history: Option<History>) -> Self {
        let mut machine = Machine::default();
        // Indices go on, so that each event has its own.
        let before = history.as_ref().and_then(|it| it.events().map(|event| event.index).max());
        machine.control.index = before.unwrap_or_default();
        let alone = Self {
            machine: Mutex::new(machine),
            state: watch::Sender::default(),
            leadership: watch::Sender::new(Leadership { leader: Some(ONE), term: ONE, me: true }),
            origin: Origin { node: ONE, generation: 1 },
            history: history.map(Mutex::new),
        };
        alone.apply(Body::Control(ControlCommand::Join {
            node: ONE,
            name: name.to_owned(),
            peer: String::new(),
            client: String::new(),
            admin: String::new(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }));
        alone
    }

    pub(crate) fn read<T>(&self, read: impl FnOnce(&Machine) -> T) -> T {
        read(&self.machine.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn apply(&self, body: Body) -> Reply {
        let mut machine = self.machine.lock().unwrap_or_else(PoisonError::into_inner);
        let index = machine.control.index + 1;
        let command = Command {
            origin: self.origin,
            serial: index,
            settled_below: index,
            now: wall_clock(),
            body,
        };
        let reply = machine.apply(index, ONE, &command);
        if let Some(history) = &self.history {
            let all = machine.control.servers.events.iter();
            let grown =
                all.clone().filter(|event| event.index < index && grows(event, &command.body));
            let new = all.skip_while(|event| event.index < index);
            history.lock().unwrap_or_else(PoisonError::into_inner).add(grown.chain(new));
        }
        self.state.send_replace(Arc::new(machine.control.clone()));
        reply
    }
}

impl Group for Alone {
    fn me(&self) -> NodeId {
        ONE
    }

    fn state(&self) -> watch::Receiver<Arc<ClusterState>> {
        self.state.subscribe()
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.subscribe()
    }

    fn propose(&self, command: ControlCommand) -> BoxFuture<'_, Result<Reply, ProposeError>> {
        Box::pin(std::future::ready(Ok(self.apply(Body::Control(command)))))
    }

    fn time(&self) -> u64 {
        wall_clock()
    }

    fn events(&self, limit: usize) -> Vec<ServerEvent> {
        match &self.history {
            Some(history) => {
                let history = history.lock().unwrap_or_else(PoisonError::into_inner);
                last(history.events(), limit)
            }
            None => last(self.state.borrow().servers.events.iter(), limit),
        }
    }

    fn hand_over(&self, _avoid: BTreeSet<NodeId>) -> BoxFuture<'_, bool> {
        Box::pin(std::future::ready(false))
    }

    fn call(
        &self,
        _to: NodeId,
        _method: &'static str,
        _body: Bytes,
    ) -> BoxFuture<'_, Result<Bytes, String>> {
        Box::pin(std::future::ready(Err("there is no other node".to_owned())))
    }
}

/// Whether a command adds to this line: what an outage cost is one line, which grows.
fn grows(event: &ServerEvent, body: &Body) -> bool {
    let Body::Control(ControlCommand::Server(ServerCommand::Lose { server, outage, .. })) = body
    else {
        return false;
    };
    event.server == *server
        && matches!(event.what, ServerHappened::Lost { outage: of, .. } if of == *outage)
}

fn last<'e>(
    events: impl ExactSizeIterator<Item = &'e ServerEvent>,
    limit: usize,
) -> Vec<ServerEvent> {
    let before = events.len().saturating_sub(limit);
    events.skip(before).cloned().collect()
}

/// Milliseconds since the Unix epoch.
pub(crate) fn wall_clock() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |it| u64::try_from(it.as_millis()).unwrap_or(u64::MAX))
}
