//! A way to a server that can be shut: for who goes by it, and for nobody else.
//!
//! Or only its listener: then it takes no new connections, and those that there are go on.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::process::free_address;

/// A proxy before one address. Shut, it passes no byte and ends no connection, as lost packets do.
pub(crate) struct Door {
    pub(crate) address: SocketAddr,
    open: watch::Sender<bool>,
    listens: watch::Sender<bool>,
    _accepting: JoinSet<()>,
}

impl Door {
    /// An open one.
    pub(crate) async fn before(server: SocketAddr) -> Self {
        // It may be bound a second time.
        let address = free_address();
        let mut listener = TcpListener::bind(address).await.expect("bind a free port");
        let (open, listens) = (watch::Sender::new(true), watch::Sender::new(true));
        let (passes, mut is_to_listen) = (open.subscribe(), listens.subscribe());
        let mut accepting = JoinSet::new();
        accepting.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let accepted = tokio::select! {
                    accepted = listener.accept() => Some(accepted),
                    true = becomes(&mut is_to_listen, false) => None,
                };
                let Some(accepted) = accepted else {
                    drop(listener);
                    if !becomes(&mut is_to_listen, true).await {
                        return;
                    }
                    listener = TcpListener::bind(address).await.expect("its port once more");
                    continue;
                };
                let Ok((theirs, _)) = accepted else { return };
                let Ok(ours) = TcpStream::connect(server).await else { continue };
                let ((theirs, to_them), (ours, to_us)) = (theirs.into_split(), ours.into_split());
                connections.spawn(pass(theirs, to_us, passes.clone()));
                connections.spawn(pass(ours, to_them, passes.clone()));
            }
        });
        Self { address, open, listens, _accepting: accepting }
    }

    pub(crate) fn shut(&self) {
        self.open.send_replace(false);
    }

    /// Refuses connections from here on, and passes on what comes over those that there are.
    pub(crate) fn refuse(&self) {
        self.listens.send_replace(false);
    }

    /// Takes connections again.
    pub(crate) fn admit(&self) {
        self.listens.send_replace(true);
    }

    /// What was held up goes on.
    pub(crate) fn open(&self) {
        self.open.send_replace(true);
    }
}

/// Waits until it is so; false: it never will be.
async fn becomes(what: &mut watch::Receiver<bool>, so: bool) -> bool {
    what.wait_for(|is| *is == so).await.is_ok()
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut open: watch::Receiver<bool>) {
    let mut piece = vec![0; 16 * 1024];
    while let Ok(many @ 1..) = from.read(&mut piece).await {
        let opened = open.wait_for(|open| *open).await.is_ok();
        if !opened || to.write_all(&piece[..many]).await.is_err() {
            return;
        }
    }
}
