//! The links between processes: a proxy before each of their ports that can cut and delay them. Between
//! the nodes it stands before their cluster ports, and before every port of a Redis (`redis`).
//!
//! Every node is known to its peers by the address of its proxy. Who has opened a connection tells the
//! address that it comes from, where each party has one of its own (Redis); of nodes it is read
//! from `/proc`, so each ordered pair of nodes has a fault of its own, however the nodes learn each
//! other's addresses; that costs something, so it is done only when a fault begins. A cut link passes
//! no byte and ends no connection, as a dropped packet does; what was under way arrives after the cut,
//! as TCP would repeat it.

use std::collections::HashMap;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OnceCell, mpsc, watch};
use tokio::task::AbortHandle;

use crate::{Error, PATIENCE};

/// Pieces under way on one connection before its sender has to wait.
const QUEUED: usize = 64;

/// Looks at who holds a connection before it counts as nobody's. `/proc/net/tcp` is read in pieces
/// while connections come and go, and may leave one out.
const OWNER_TRIES: usize = 50;

/// What a link does to bytes in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Weather {
    /// Nothing passes.
    pub(crate) cut: bool,
    /// Everything passes so much later.
    pub(crate) delay: Duration,
}

/// `[from][to]`.
type Forecast = Vec<Vec<Weather>>;

/// A port with a proxy before it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Port {
    /// Whose port it is. Parties are numbered from 0; one may have several ports, or none.
    pub(crate) party: usize,
    /// Where others look for it: the proxy.
    pub(crate) known: SocketAddr,
    pub(crate) real: SocketAddr,
}

/// All links of a stack.
pub(crate) struct Links {
    parties: usize,
    ports: Vec<Port>,
    /// Who connects from which address; where that is known, nobody has to be looked for. Whoever has
    /// no address of its own is the first party.
    sources: Option<Vec<IpAddr>>,
    listening: Mutex<Vec<Option<AbortHandle>>>,
    weather: watch::Sender<Forecast>,
    connections: Mutex<Vec<Weak<Connection>>>,
    pids: Mutex<Vec<Option<u32>>>,
    /// Pieces that arrived at a link that was cut or slow: the proof that there was something to hold.
    held: AtomicU64,
}

/// One connection that passes through.
struct Connection {
    peer: SocketAddr,
    to: usize,
    /// The node at its other end, once anybody had to know; none when it is nobody's.
    from: OnceCell<Option<usize>>,
}

/// Which end of a connection bytes come from.
#[derive(Clone, Copy)]
enum Side {
    Peer,
    Node,
}

// === impl Links ===

impl Links {
    /// One proxy for each of the ports, none of them listening yet.
    pub(crate) fn new(parties: usize, ports: Vec<Port>) -> Arc<Self> {
        Self::make(parties, ports, None)
    }

    /// The same with an address for each party from which it alone connects.
    pub(crate) fn with_sources(sources: Vec<IpAddr>, ports: Vec<Port>) -> Arc<Self> {
        Self::make(sources.len(), ports, Some(sources))
    }

    fn make(parties: usize, ports: Vec<Port>, sources: Option<Vec<IpAddr>>) -> Arc<Self> {
        Arc::new(Self {
            parties,
            sources,
            weather: watch::Sender::new(fair(parties)),
            listening: Mutex::new(ports.iter().map(|_| None).collect()),
            ports,
            connections: Mutex::default(),
            pids: Mutex::default(),
            held: AtomicU64::new(0),
        })
    }

    /// Listens before a party's ports, as long as its process is there.
    ///
    /// # Errors
    /// When a port is taken.
    pub(crate) async fn up(self: &Arc<Self>, to: usize) -> Result<(), Error> {
        for (at, port) in self.ports_of(to) {
            // The task that listened before ends soon, not at once.
            self.replace_listener(at, None);
            let deadline = Instant::now() + PATIENCE;
            let listener = loop {
                match TcpListener::bind(port.known).await {
                    Ok(listener) => break listener,
                    Err(error) if Instant::now() > deadline => return Err(error.into()),
                    Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            };
            let task = tokio::spawn(Arc::clone(self).accept(listener, port));
            self.replace_listener(at, Some(task.abort_handle()));
        }
        Ok(())
    }

    /// Connections to the party are refused from now on, as the port of a dead process does.
    pub(crate) fn down(&self, to: usize) {
        for (at, _) in self.ports_of(to) {
            self.replace_listener(at, None);
        }
    }

    fn ports_of(&self, party: usize) -> Vec<(usize, Port)> {
        self.ports.iter().copied().enumerate().filter(|(_, port)| port.party == party).collect()
    }

    fn replace_listener(&self, at: usize, with: Option<AbortHandle>) {
        let mut listening = lock(&self.listening);
        if let Some(before) = std::mem::replace(&mut listening[at], with) {
            before.abort();
        }
    }

    /// Which process is which party, from now on.
    pub(crate) fn know(&self, pids: Vec<Option<u32>>) {
        *lock(&self.pids) = pids;
    }

    /// Finds out who holds the connections that there are; a fault that begins right afterwards finds
    /// them all known.
    pub(crate) async fn look(&self) {
        if self.sources.is_some() {
            return;
        }
        let connections: Vec<_> =
            lock(&self.connections).iter().filter_map(Weak::upgrade).collect();
        let peers = connections.iter().map(|connection| connection.peer).collect();
        let owners = self.owners(peers).await;
        for connection in connections {
            if let Some(owner) = owners.get(&connection.peer) {
                drop(connection.from.set(Some(*owner)));
            }
        }
    }

    pub(crate) fn set(&self, from: usize, to: usize, weather: Weather) {
        self.weather.send_modify(|forecast| forecast[from][to] = weather);
    }

    /// Every link as it should be.
    pub(crate) fn heal(&self) {
        self.weather.send_replace(fair(self.parties));
    }

    /// How many pieces have been held up so far.
    pub(crate) fn held(&self) -> u64 {
        self.held.load(Ordering::Acquire)
    }

    async fn accept(self: Arc<Self>, listener: TcpListener, port: Port) {
        loop {
            let Ok((incoming, peer)) = listener.accept().await else {
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            };
            let connection = Arc::new(Connection { peer, to: port.party, from: OnceCell::new() });
            if let Some(sources) = &self.sources {
                let from = sources.iter().position(|source| *source == peer.ip()).unwrap_or(0);
                drop(connection.from.set(Some(from)));
            }
            {
                let mut connections = lock(&self.connections);
                connections.retain(|connection| connection.strong_count() > 0);
                connections.push(Arc::downgrade(&connection));
            }
            tokio::spawn(Arc::clone(&self).join(incoming, connection, port.real));
        }
    }

    async fn join(
        self: Arc<Self>,
        incoming: TcpStream,
        connection: Arc<Connection>,
        real: SocketAddr,
    ) {
        // Connecting takes packets in both directions.
        for side in [Side::Peer, Side::Node] {
            if !self.passes(&connection, side).await {
                return;
            }
        }
        let Ok(outgoing) = TcpStream::connect(real).await else { return };
        drop(incoming.set_nodelay(true));
        drop(outgoing.set_nodelay(true));
        let (from_peer, to_peer) = incoming.into_split();
        let (from_node, to_node) = outgoing.into_split();
        let there = Arc::clone(&self).pump(from_peer, to_node, Arc::clone(&connection), Side::Peer);
        tokio::spawn(there);
        self.pump(from_node, to_peer, connection, Side::Node).await;
    }

    /// Passes bytes on in one direction: read at once, written when their time has come.
    async fn pump(
        self: Arc<Self>,
        mut read: OwnedReadHalf,
        write: OwnedWriteHalf,
        connection: Arc<Connection>,
        side: Side,
    ) {
        let (pieces, due) = mpsc::channel(QUEUED);
        let writer =
            tokio::spawn(Arc::clone(&self).write(due, write, Arc::clone(&connection), side));
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let many = read.read(&mut buffer).await.unwrap_or_default();
            let delay = self.now(&connection, side).await.map_or(Duration::ZERO, |now| now.delay);
            if !delay.is_zero() {
                self.held.fetch_add(1, Ordering::AcqRel);
            }
            let piece = (tokio::time::Instant::now() + delay, buffer[..many].to_vec());
            if pieces.send(piece).await.is_err() || many == 0 {
                break;
            }
        }
        drop(pieces);
        drop(writer.await);
    }

    async fn write(
        self: Arc<Self>,
        mut due: mpsc::Receiver<(tokio::time::Instant, Vec<u8>)>,
        mut write: OwnedWriteHalf,
        connection: Arc<Connection>,
        side: Side,
    ) {
        while let Some((when, piece)) = due.recv().await {
            tokio::time::sleep_until(when).await;
            let passes = self.passes(&connection, side).await;
            if !passes || piece.is_empty() || write.write_all(&piece).await.is_err() {
                break;
            }
        }
        drop(write.shutdown().await);
    }

    /// Waits until bytes pass in this direction; `false` when nobody knows whose they are.
    async fn passes(&self, connection: &Connection, side: Side) -> bool {
        let mut forecast = self.weather.subscribe();
        let mut held = false;
        loop {
            forecast.borrow_and_update();
            match self.now(connection, side).await {
                None => return false,
                Some(now) if !now.cut => return true,
                Some(_) if !held => {
                    held = true;
                    self.held.fetch_add(1, Ordering::AcqRel);
                }
                Some(_) => {}
            }
            if forecast.changed().await.is_err() {
                return false;
            }
        }
    }

    /// The weather for bytes of a connection.
    async fn now(&self, connection: &Connection, side: Side) -> Option<Weather> {
        let is_fair = |forecast: &Forecast| {
            forecast.iter().flatten().all(|weather| *weather == Weather::default())
        };
        if is_fair(&self.weather.borrow()) {
            return Some(Weather::default());
        }
        let from = (*connection.from.get_or_init(|| self.find_owner(connection.peer)).await)?;
        let (from, to) = match side {
            Side::Peer => (from, connection.to),
            Side::Node => (connection.to, from),
        };
        Some(self.weather.borrow()[from][to])
    }

    async fn find_owner(&self, peer: SocketAddr) -> Option<usize> {
        for _ in 0..OWNER_TRIES {
            if let Some(owner) = self.owners(vec![peer]).await.get(&peer) {
                return Some(*owner);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        None
    }

    /// Which nodes hold the other ends of connections.
    async fn owners(&self, peers: Vec<SocketAddr>) -> HashMap<SocketAddr, usize> {
        let pids = lock(&self.pids).clone();
        tokio::task::spawn_blocking(move || owners(&peers, &pids)).await.unwrap_or_default()
    }
}

fn fair(parties: usize) -> Forecast {
    vec![vec![Weather::default(); parties]; parties]
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn owners(peers: &[SocketAddr], pids: &[Option<u32>]) -> HashMap<SocketAddr, usize> {
    // The inode of each socket by its local address, as `/proc/net/tcp` lists them.
    let table = fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    let inodes: HashMap<&str, &str> = table
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let (address, inode) = (words.nth(1)?, words.nth(7)?);
            // An earlier connection from the same port may still be listed, as nobody's.
            (inode != "0").then_some((address, inode))
        })
        .collect();
    let mut holders = HashMap::new();
    for (node, pid) in pids.iter().enumerate() {
        let Some(pid) = pid else { continue };
        let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { continue };
        for target in entries.flatten().filter_map(|entry| fs::read_link(entry.path()).ok()) {
            let target = target.to_string_lossy().into_owned();
            let inode = target.strip_prefix("socket:[").and_then(|it| it.strip_suffix(']'));
            if let Some(inode) = inode {
                holders.insert(inode.to_owned(), node);
            }
        }
    }
    let owner = |peer: &SocketAddr| {
        let SocketAddr::V4(address) = peer else { return None };
        let ip = u32::from_le_bytes(address.ip().octets());
        let inode = inodes.get(format!("{ip:08X}:{:04X}", address.port()).as_str())?;
        holders.get(*inode).copied()
    };
    peers.iter().filter_map(|peer| Some((*peer, owner(peer)?))).collect()
}
