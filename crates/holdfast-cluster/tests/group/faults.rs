//! A switch between each node and the network. What it cuts is lost as on a wire: the caller hears
//! nothing until its own deadline and knows nothing afterwards.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use holdfast_cluster::Wire;
use holdfast_engine::replicated::NodeId;
use holdfast_peer::{Lane, PeerError};
use tokio::time::{Instant, sleep_until};

/// Who is cut off from whom.
#[derive(Default)]
pub(crate) struct Switch {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    names: BTreeMap<NodeId, String>,
    addresses: BTreeMap<String, String>,
    /// Nothing gets from the first to the second.
    cut: BTreeSet<(String, String)>,
    /// How many answers to this method are lost yet.
    lost: BTreeMap<&'static str, usize>,
}

/// The network as one node sees it.
struct Switched {
    from: String,
    switch: Arc<Switch>,
    wire: Arc<dyn Wire>,
}

impl Switch {
    pub(crate) fn wrap(self: &Arc<Self>, from: &str, wire: Arc<dyn Wire>) -> Arc<dyn Wire> {
        Arc::new(Switched { from: from.to_owned(), switch: Arc::clone(self), wire })
    }

    pub(crate) fn is_at(&self, name: &str, node: NodeId, address: &str) {
        let mut inner = self.inner();
        inner.names.insert(node, name.to_owned());
        inner.addresses.insert(address.to_owned(), name.to_owned());
    }

    /// Cuts both directions between a node and each of the others.
    pub(crate) fn isolate(&self, name: &str) {
        let mut inner = self.inner();
        let others: BTreeSet<String> = inner.names.values().cloned().collect();
        for other in others.into_iter().filter(|it| it != name) {
            inner.cut.insert((name.to_owned(), other.clone()));
            inner.cut.insert((other, name.to_owned()));
        }
    }

    /// Nothing that a node sends arrives; it still hears the others.
    pub(crate) fn silence(&self, name: &str) {
        let mut inner = self.inner();
        let others: BTreeSet<String> = inner.names.values().cloned().collect();
        for other in others.into_iter().filter(|it| it != name) {
            inner.cut.insert((name.to_owned(), other));
        }
    }

    /// Nothing that the others send arrives at a node; they still hear it.
    pub(crate) fn deafen(&self, name: &str) {
        let mut inner = self.inner();
        let others: BTreeSet<String> = inner.names.values().cloned().collect();
        for other in others.into_iter().filter(|it| it != name) {
            inner.cut.insert((other, name.to_owned()));
        }
    }

    pub(crate) fn heal(&self) {
        self.inner().cut.clear();
    }

    /// Loses the next answers to a method; the calls arrive.
    pub(crate) fn lose_answers(&self, method: &'static str, count: usize) {
        self.inner().lost.insert(method, count);
    }

    /// How many answers to a method are still to be lost.
    pub(crate) fn to_be_lost(&self, method: &str) -> usize {
        self.inner().lost.get(method).copied().unwrap_or(0)
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    fn is_cut(&self, from: &str, to: Option<&str>) -> bool {
        let Some(to) = to else { return false };
        self.inner().cut.contains(&(from.to_owned(), to.to_owned()))
    }

    fn loses(&self, method: &'static str) -> bool {
        let mut inner = self.inner();
        let Some(count) = inner.lost.get_mut(method).filter(|it| **it > 0) else { return false };
        *count -= 1;
        true
    }
}

impl Switched {
    async fn pass(
        &self,
        to: Option<String>,
        method: &'static str,
        deadline: Duration,
        call: impl Future<Output = Result<Bytes, PeerError>>,
    ) -> Result<Bytes, PeerError> {
        let until = Instant::now() + deadline;
        let to = to.as_deref();
        let nothing = async {
            sleep_until(until).await;
            Err(PeerError::TimedOut { sent: true })
        };
        if self.switch.is_cut(&self.from, to) {
            return nothing.await;
        }
        let answer = call.await;
        let back = to.is_some_and(|to| self.switch.is_cut(to, Some(&self.from)));
        if back {
            return nothing.await;
        }
        if answer.is_ok() && self.switch.loses(method) {
            return Err(PeerError::Broken("the answer was lost".to_owned()));
        }
        answer
    }
}

impl Wire for Switched {
    fn call(
        &self,
        to: NodeId,
        lane: Lane,
        method: &'static str,
        body: Bytes,
        deadline: Duration,
    ) -> BoxFuture<'_, Result<Bytes, PeerError>> {
        let name = self.switch.inner().names.get(&to).cloned();
        let call = self.wire.call(to, lane, method, body, deadline);
        Box::pin(self.pass(name, method, deadline, call))
    }

    fn call_address<'a>(
        &'a self,
        address: &'a str,
        method: &'static str,
        body: Bytes,
        deadline: Duration,
    ) -> BoxFuture<'a, Result<Bytes, PeerError>> {
        let name = self.switch.inner().addresses.get(address).cloned();
        let call = self.wire.call_address(address, method, body, deadline);
        Box::pin(self.pass(name, method, deadline, call))
    }
}
