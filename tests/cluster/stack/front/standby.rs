//! An address that goes to whichever of two balancers lives: on loopback, what keepalived does with an
//! address of the network.
//!
//! Connections to the one that is lost break; new ones are refused until the other one has the
//! address, as by a machine whose balancer is gone. The check is that of `nginx/keepalived.conf`: one
//! each second, two that fail in a row.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::{Error, PATIENCE};

const EVERY: Duration = Duration::from_secs(1);
const FALL: u32 = 2;

pub(super) struct Floating {
    active: watch::Sender<usize>,
    /// How often it has moved, and how often anybody has asked.
    moves: Arc<AtomicUsize>,
    seen: AtomicUsize,
    tasks: Vec<JoinHandle<()>>,
}

// === impl Floating ===

impl Floating {
    /// # Errors
    /// When its port is taken.
    pub(super) async fn start(address: SocketAddr, behind: Vec<SocketAddr>) -> Result<Self, Error> {
        let listener = TcpListener::bind(address).await?;
        let active = watch::Sender::new(0);
        let moves = Arc::<AtomicUsize>::default();
        let tasks = vec![
            tokio::spawn(accept(listener, behind.clone(), active.subscribe())),
            tokio::spawn(check(behind, active.clone(), Arc::clone(&moves))),
        ];
        Ok(Self { active, moves, seen: AtomicUsize::new(0), tasks })
    }

    pub(super) fn active(&self) -> usize {
        *self.active.borrow()
    }

    /// Waits until it has moved once more than when this was last asked.
    ///
    /// # Errors
    /// When it does not.
    pub(super) async fn moved(&self) -> Result<(), Error> {
        let deadline = Instant::now() + PATIENCE;
        let before = self.seen.load(Ordering::Acquire);
        while self.moves.load(Ordering::Acquire) == before {
            if Instant::now() > deadline {
                return Err("void: the standby never got the address".into());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.seen.store(self.moves.load(Ordering::Acquire), Ordering::Release);
        Ok(())
    }
}

impl Drop for Floating {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

async fn accept(listener: TcpListener, behind: Vec<SocketAddr>, active: watch::Receiver<usize>) {
    loop {
        let Ok((mut client, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let to = behind[*active.borrow()];
        tokio::spawn(async move {
            if let Ok(mut balancer) = TcpStream::connect(to).await {
                drop(client.set_nodelay(true));
                drop(balancer.set_nodelay(true));
                drop(tokio::io::copy_bidirectional(&mut client, &mut balancer).await);
            }
        });
    }
}

async fn check(behind: Vec<SocketAddr>, active: watch::Sender<usize>, moves: Arc<AtomicUsize>) {
    let mut failed = 0;
    loop {
        tokio::time::sleep(EVERY).await;
        let now = *active.borrow();
        let asked = tokio::time::timeout(EVERY, TcpStream::connect(behind[now])).await;
        failed = if matches!(asked, Ok(Ok(_))) { 0 } else { failed + 1 };
        if failed >= FALL {
            failed = 0;
            active.send_replace((now + 1) % behind.len());
            moves.fetch_add(1, Ordering::AcqRel);
        }
    }
}
