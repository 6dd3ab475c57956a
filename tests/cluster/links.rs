//! The links between the nodes: a proxy before each cluster port that can cut and delay them.
//!
//! Every node is known to its peers by the address of its proxy. Who has opened a connection is read
//! from `/proc`, so each ordered pair of nodes has a fault of its own, however the nodes learn each
//! other's addresses. A cut link passes no byte and ends no connection, as a dropped packet does; what
//! was under way arrives after the cut, as TCP would repeat it.

use std::fs;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;

use crate::{Error, PATIENCE};

/// Pieces under way on one connection before its sender has to wait.
const QUEUED: usize = 64;

/// Looks at who holds a connection before it counts as nobody's.
const OWNER_TRIES: usize = 100;

/// What a link does to bytes in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Weather {
    /// Nothing passes.
    pub(crate) cut: bool,
    /// Everything passes so much later.
    pub(crate) delay: Duration,
}

/// All links of a stack.
pub(crate) struct Links {
    addresses: Vec<SocketAddr>,
    real: Vec<SocketAddr>,
    listening: Mutex<Vec<Option<AbortHandle>>>,
    /// `[from][to]`.
    weather: Vec<Vec<watch::Sender<Weather>>>,
    pids: Mutex<Vec<Option<u32>>>,
    /// Pieces that arrived at a link that was cut or slow: the proof that there was something to hold.
    held: AtomicU64,
}

// === impl Links ===

impl Links {
    /// One proxy for each of the nodes' real cluster addresses, none of them listening yet.
    pub(crate) fn new(real: &[SocketAddr], addresses: Vec<SocketAddr>) -> Arc<Self> {
        let row = || real.iter().map(|_| watch::Sender::new(Weather::default())).collect();
        Arc::new(Self {
            addresses,
            real: real.to_vec(),
            weather: real.iter().map(|_| row()).collect(),
            listening: Mutex::new(real.iter().map(|_| None).collect()),
            pids: Mutex::default(),
            held: AtomicU64::new(0),
        })
    }

    /// Listens before a node, as long as that node's process is there.
    ///
    /// # Errors
    /// When its port is taken.
    pub(crate) async fn up(self: &Arc<Self>, to: usize) -> Result<(), Error> {
        let deadline = Instant::now() + PATIENCE;
        // The task that listened before ends soon, not at once.
        let listener = loop {
            match TcpListener::bind(self.addresses[to]).await {
                Ok(listener) => break listener,
                Err(error) if Instant::now() > deadline => return Err(error.into()),
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        };
        let task = tokio::spawn(Arc::clone(self).accept(listener, to, self.real[to]));
        self.replace_listener(to, Some(task.abort_handle()));
        Ok(())
    }

    /// Connections to the node are refused from now on, as the port of a dead process does.
    pub(crate) fn down(&self, to: usize) {
        self.replace_listener(to, None);
    }

    fn replace_listener(&self, to: usize, with: Option<AbortHandle>) {
        let mut listening = self.listening.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(before) = std::mem::replace(&mut listening[to], with) {
            before.abort();
        }
    }

    /// Which process is which node, from now on.
    pub(crate) fn know(&self, pids: Vec<Option<u32>>) {
        *self.pids.lock().unwrap_or_else(PoisonError::into_inner) = pids;
    }

    pub(crate) fn set(&self, from: usize, to: usize, weather: Weather) {
        self.weather[from][to].send_replace(weather);
    }

    /// Every link as it should be.
    pub(crate) fn heal(&self) {
        for link in self.weather.iter().flatten() {
            link.send_replace(Weather::default());
        }
    }

    /// How many pieces have been held up so far.
    pub(crate) fn held(&self) -> u64 {
        self.held.load(Ordering::Acquire)
    }

    async fn accept(self: Arc<Self>, listener: TcpListener, to: usize, real: SocketAddr) {
        loop {
            let Ok((incoming, peer)) = listener.accept().await else {
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            };
            tokio::spawn(Arc::clone(&self).join(incoming, peer, to, real));
        }
    }

    async fn join(
        self: Arc<Self>,
        incoming: TcpStream,
        peer: SocketAddr,
        to: usize,
        real: SocketAddr,
    ) {
        // Of a connection whose owner has gone nothing is known, and nothing is lost with it.
        let Some(from) = self.find_owner(peer).await else { return };
        // Connecting takes packets in both directions.
        for (from, to) in [(from, to), (to, from)] {
            let mut link = self.weather[from][to].subscribe();
            if link.borrow_and_update().cut {
                self.held.fetch_add(1, Ordering::AcqRel);
                drop(link.wait_for(|weather| !weather.cut).await);
            }
        }
        let Ok(outgoing) = TcpStream::connect(real).await else { return };
        drop(incoming.set_nodelay(true));
        drop(outgoing.set_nodelay(true));
        let (from_peer, to_peer) = incoming.into_split();
        let (from_node, to_node) = outgoing.into_split();
        tokio::spawn(Arc::clone(&self).pump(from_peer, to_node, from, to));
        self.pump(from_node, to_peer, to, from).await;
    }

    /// Passes bytes on in one direction: read at once, written when their time has come.
    async fn pump(
        self: Arc<Self>,
        mut read: OwnedReadHalf,
        write: OwnedWriteHalf,
        from: usize,
        to: usize,
    ) {
        let weather = self.weather[from][to].subscribe();
        let (pieces, due) = mpsc::channel(QUEUED);
        let writer = tokio::spawn(Arc::clone(&self).write(due, write, weather.clone()));
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let many = read.read(&mut buffer).await.unwrap_or_default();
            let delay = weather.borrow().delay;
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
        mut weather: watch::Receiver<Weather>,
    ) {
        while let Some((when, piece)) = due.recv().await {
            tokio::time::sleep_until(when).await;
            if weather.borrow_and_update().cut {
                self.held.fetch_add(1, Ordering::AcqRel);
                drop(weather.wait_for(|weather| !weather.cut).await);
            }
            if piece.is_empty() || write.write_all(&piece).await.is_err() {
                break;
            }
        }
        drop(write.shutdown().await);
    }

    /// `/proc/net/tcp` is read in pieces while connections come and go, and may leave one out.
    async fn find_owner(&self, peer: SocketAddr) -> Option<usize> {
        for _ in 0..OWNER_TRIES {
            if let Some(owner) = self.owner(peer) {
                return Some(owner);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        None
    }

    /// Which node holds the other end of a connection.
    fn owner(&self, peer: SocketAddr) -> Option<usize> {
        let inode = inode(peer)?;
        let pids = self.pids.lock().unwrap_or_else(PoisonError::into_inner).clone();
        pids.iter().position(|pid| pid.is_some_and(|pid| holds(pid, &inode)))
    }
}

/// The inode of the socket whose local address this is, as `/proc/net/tcp` lists it.
fn inode(address: SocketAddr) -> Option<String> {
    let SocketAddr::V4(address) = address else { return None };
    let wanted =
        format!("{:08X}:{:04X}", u32::from_le_bytes(address.ip().octets()), address.port());
    let text = fs::read_to_string("/proc/net/tcp").ok()?;
    let line = text.lines().find(|line| line.split_whitespace().nth(1) == Some(&wanted))?;
    line.split_whitespace().nth(9).map(str::to_owned)
}

fn holds(pid: u32, inode: &str) -> bool {
    let wanted = format!("socket:[{inode}]");
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    entries.flatten().any(|entry| {
        fs::read_link(entry.path()).is_ok_and(|target| target.as_os_str() == wanted.as_str())
    })
}
