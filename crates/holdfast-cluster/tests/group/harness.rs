//! Starts, kills and restarts the nodes of a group.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use holdfast_cluster::{
    Cluster, Forwarded, Options, Prepared, ProposeError, StartError, Unavailable,
};
use holdfast_engine::replicated::{Body, Expect, KvCommand, MemberState, Reply};
use holdfast_peer::{Caller, ResponseBody, Secret};
use http::{Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use tokio::runtime::Handle;

use crate::faults::Switch;

/// How long anything may take before a test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// For one proposal or read.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

pub(crate) struct Group {
    pub(crate) switch: Arc<Switch>,
    nodes: BTreeMap<String, Arc<Cluster>>,
    addresses: BTreeMap<String, String>,
    directory: PathBuf,
    pub(crate) failover: Duration,
    pub(crate) entries_per_snapshot: u64,
    /// Who led in which term, seen by all nodes that ever were.
    leaders: Arc<Mutex<BTreeMap<u64, BTreeSet<String>>>>,
}

struct Nothing;

impl Forwarded for Nothing {
    fn forward(&self, _: Caller, _: Request<Incoming>) -> BoxFuture<'_, Response<ResponseBody>> {
        let body = Empty::<Bytes>::new().map_err(|never| match never {}).boxed_unsync();
        Box::pin(async move { Response::new(body) })
    }
}

impl Group {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("holdfast-group-{}-{next}", std::process::id());
        Self {
            switch: Arc::default(),
            nodes: BTreeMap::new(),
            addresses: BTreeMap::new(),
            directory: std::env::temp_dir().join(name),
            failover: Duration::from_secs(1),
            entries_per_snapshot: Options::ENTRIES_PER_SNAPSHOT,
            leaders: Arc::default(),
        }
    }

    /// A group of these nodes, all of them members.
    pub(crate) async fn of(names: &[&str]) -> Self {
        let mut group = Self::new();
        group.start(names).await;
        group
    }

    pub(crate) async fn start(&mut self, names: &[&str]) {
        let mut prepared = Vec::new();
        for name in names {
            let node = self.prepare(name).await;
            self.addresses.insert((*name).to_owned(), node.local_addr().to_string());
            prepared.push((*name, node));
        }
        for (name, node) in prepared {
            self.launch(name, node).await;
        }
        for name in names {
            assert!(self.node(name).joined(PATIENCE).await, "{name} does not join");
        }
    }

    /// Starts a node anew with what its directory holds, and waits until it is a member.
    pub(crate) async fn restart(&mut self, name: &str) -> Arc<Cluster> {
        let node = self.restart_unjoined(name).await;
        assert!(node.joined(PATIENCE).await, "{name} does not join");
        node
    }

    pub(crate) async fn restart_unjoined(&mut self, name: &str) -> Arc<Cluster> {
        let node = self.prepare(name).await;
        self.addresses.insert(name.to_owned(), node.local_addr().to_string());
        self.launch(name, node).await;
        Arc::clone(self.node(name))
    }

    /// As `restart`, with everything of the node on a runtime of its own.
    pub(crate) async fn restart_on(&mut self, name: &str, runtime: &Handle) -> Arc<Cluster> {
        let options = self.options(name, "127.0.0.1:0");
        let node = runtime.spawn(Prepared::new(options)).await.unwrap().unwrap();
        let (me, address) = (node.me(), node.local_addr().to_string());
        self.switch.is_at(name, me, &address);
        let mut nodes = self.addresses.clone();
        nodes.insert(name.to_owned(), address);
        let (switch, name) = (Arc::clone(&self.switch), name.to_owned());
        let node = node.with_nodes(nodes).with_wire(|wire| switch.wrap(&name, wire));
        let node = runtime.spawn(node.start(Arc::new(Nothing))).await.unwrap().unwrap();
        assert!(node.joined(PATIENCE).await, "{name} does not join");
        node
    }

    /// A second process under a node's name, with a directory of its own and at another address.
    pub(crate) async fn second(&self, name: &str) -> Arc<Cluster> {
        let data_dir = self.directory_of("second");
        let node = Prepared::new(Options { data_dir, ..self.options(name, "127.0.0.1:0") }).await;
        let node = node.unwrap();
        let mut nodes = self.addresses.clone();
        nodes.insert(name.to_owned(), node.local_addr().to_string());
        node.with_nodes(nodes).start(Arc::new(Nothing)).await.unwrap()
    }

    async fn launch(&mut self, name: &str, node: Prepared) {
        let (me, address) = (node.me(), node.local_addr().to_string());
        self.switch.is_at(name, me, &address);
        let switch = Arc::clone(&self.switch);
        let node = node
            .with_nodes(self.addresses.clone())
            .with_wire(|wire| switch.wrap(name, wire))
            .start(Arc::new(Nothing))
            .await
            .unwrap();
        let (leaders, whose) = (Arc::clone(&self.leaders), name.to_owned());
        let mut leadership = node.leadership();
        tokio::spawn(async move {
            loop {
                let now = *leadership.borrow_and_update();
                if now.me {
                    leaders.lock().unwrap().entry(now.term).or_default().insert(whose.clone());
                }
                if leadership.changed().await.is_err() {
                    return;
                }
            }
        });
        self.nodes.insert(name.to_owned(), node);
    }

    async fn prepare(&self, name: &str) -> Prepared {
        let began = Instant::now();
        // The port that it had, unless somebody else has it for longer than a moment.
        let mut listen = self.addresses.get(name).map_or("127.0.0.1:0", |it| it).to_owned();
        loop {
            let options = self.options(name, &listen);
            match Prepared::new(options).await {
                Ok(prepared) => return prepared,
                Err(StartError::Bind(_)) if began.elapsed() < Duration::from_secs(5) => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                Err(StartError::Bind(_)) => listen = "127.0.0.1:0".to_owned(),
                Err(error) => panic!("{name}: {error}"),
            }
        }
    }

    fn options(&self, name: &str, listen: &str) -> Options {
        Options {
            name: name.to_owned(),
            data_dir: self.directory_of(name),
            listen: listen.parse().unwrap(),
            advertise: Some(listen.to_owned()).filter(|it| !it.ends_with(":0")),
            nodes: BTreeMap::new(),
            secret: Secret::new(&"a secret of these tests, long enough".into(), None),
            failover_timeout: self.failover,
            entries_per_snapshot: self.entries_per_snapshot,
            client: String::new(),
            admin: String::new(),
            version: "test".to_owned(),
        }
    }

    pub(crate) fn directory_of(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Ends a node without a word to the others.
    pub(crate) async fn kill(&mut self, name: &str) {
        let node = self.nodes.remove(name).unwrap();
        node.stop().await;
    }

    /// Empties the directory of a node that was killed.
    pub(crate) fn wipe(&self, name: &str) {
        std::fs::remove_dir_all(self.directory_of(name)).unwrap();
    }

    pub(crate) fn node(&self, name: &str) -> &Arc<Cluster> {
        &self.nodes[name]
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.nodes.keys().cloned().collect()
    }

    /// The leader that the others agree on, `without` some node that does not count.
    pub(crate) async fn leader_without(&self, without: Option<&str>) -> String {
        let others: Vec<_> =
            self.nodes.iter().filter(|(name, _)| Some(name.as_str()) != without).collect();
        let found = || {
            let views: Vec<_> =
                others.iter().map(|(_, node)| *node.leadership().borrow()).collect();
            let (name, _) = others.iter().zip(&views).find(|(_, view)| view.me)?.0;
            let leader = self.nodes[*name].me();
            let term = views.iter().map(|view| view.term).max();
            let agreed = views.iter().all(|it| it.leader == Some(leader) && Some(it.term) == term);
            agreed.then(|| (*name).clone())
        };
        eventually("a leader", found).await
    }

    pub(crate) async fn leader(&self) -> String {
        self.leader_without(None).await
    }

    pub(crate) async fn follower(&self) -> String {
        let leader = self.leader().await;
        self.names().into_iter().find(|it| *it != leader).unwrap()
    }

    /// The state of a name's member, as another node sees it.
    pub(crate) fn state_of(&self, name: &str, seen_by: &str) -> Option<MemberState> {
        let state = self.node(seen_by).state();
        let state = state.borrow();
        state.by_name(name).map(|(_, member)| member.state)
    }

    /// Never two leaders in one term.
    pub(crate) fn check_terms(&self) {
        let leaders = self.leaders.lock().unwrap();
        for (term, leaders) in &*leaders {
            assert_eq!(leaders.len(), 1, "term {term}: {leaders:?}");
        }
    }

    pub(crate) async fn stop(mut self) {
        self.check_terms();
        for name in self.names() {
            self.kill(&name).await;
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// Polls until there is something.
pub(crate) async fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(began.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    eventually(what, || holds().then_some(())).await;
}

/// A put, as a body.
pub(crate) fn put(key: &str, value: &str, expect: Expect) -> Body {
    let (key, value) = (key.to_owned().into(), value.to_owned().into());
    Body::Kv(KvCommand::Put { key, value, expect, deadline: None })
}

/// Writes, and insists: a write that may or may not have been made is made again.
pub(crate) async fn write(node: &Cluster, key: &str, value: &str) {
    let began = Instant::now();
    loop {
        match node.propose(put(key, value, Expect::Any), DEADLINE).await {
            Ok(Reply::Done { .. }) => return,
            Ok(reply) => panic!("{key}: {reply:?}"),
            Err(ProposeError::Fenced | ProposeError::Unknown | ProposeError::Unavailable) => {}
        }
        assert!(began.elapsed() < PATIENCE, "{key} is not written");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Reads the latest.
pub(crate) async fn read(node: &Cluster, key: &str) -> Option<String> {
    let began = Instant::now();
    while let Err(Unavailable) = node.read_index(DEADLINE).await {
        assert!(began.elapsed() < PATIENCE, "{key} is not read");
    }
    let entry = node.get(key.as_bytes())?;
    Some(String::from_utf8(entry.value.to_vec()).unwrap())
}
