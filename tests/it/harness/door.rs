//! A way to a server that can be shut: for who goes by it, and for nobody else.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// A proxy before one address. Shut, it passes no byte and ends no connection, as lost packets do.
pub(crate) struct Door {
    pub(crate) address: SocketAddr,
    open: watch::Sender<bool>,
    _accepting: JoinSet<()>,
}

impl Door {
    /// An open one.
    pub(crate) async fn before(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let open = watch::Sender::new(true);
        let passes = open.subscribe();
        let mut accepting = JoinSet::new();
        accepting.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((theirs, _)) = listener.accept().await {
                let Ok(ours) = TcpStream::connect(server).await else { continue };
                let ((theirs, to_them), (ours, to_us)) = (theirs.into_split(), ours.into_split());
                connections.spawn(pass(theirs, to_us, passes.clone()));
                connections.spawn(pass(ours, to_them, passes.clone()));
            }
        });
        Self { address, open, _accepting: accepting }
    }

    pub(crate) fn shut(&self) {
        self.open.send_replace(false);
    }

    /// What was held up goes on.
    pub(crate) fn open(&self) {
        self.open.send_replace(true);
    }
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
