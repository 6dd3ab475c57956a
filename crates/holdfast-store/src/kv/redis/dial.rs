//! One connection: dialled, set up, and known to be lost the moment it is.
//!
//! The socket is ours and not the client library's, so that small writes go out at once, a peer that
//! is cut off is noticed in seconds, and whoever holds the connection learns of its end without
//! asking.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use holdfast_config::{HostPort, Redis};
use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Cmd, Pipeline, ProtocolVersion, PushInfo, RedisConnectionInfo, Value,
};
use rustls::pki_types::ServerName;
use secrecy::ExposeSecret as _;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::direct::Direct;
use super::failure::{self, Unusable};

/// How connections are made.
#[derive(Clone)]
pub(super) struct Dialler {
    data: RedisConnectionInfo,
    sentinel: RedisConnectionInfo,
    tls: Option<TlsConnector>,
    within: Duration,
}

/// A connection. Commands that are sent at the same time share it; each has its own deadline.
#[derive(Clone)]
pub(super) struct Connection {
    inner: MultiplexedConnection,
    lost: CancellationToken,
    _open: Arc<DropGuard>,
}

/// A connection that is set up, and whose stream can be had back.
pub(super) struct Fresh {
    pub(super) connection: Connection,
    lent: Lent,
    driver: JoinHandle<()>,
}

/// What a connection goes over.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// A stream that the client library has until it is taken back.
#[derive(Clone)]
struct Lent(Arc<Mutex<Option<Box<dyn Stream>>>>);

/// Why there was no reply.
#[derive(Debug)]
pub(super) enum NoReply {
    /// The command was not sent.
    NotSent(String),
    /// It may have been carried out.
    Lost(String),
}

/// Which server it is.
#[derive(Clone, Copy)]
pub(super) enum Server {
    Data,
    Sentinel,
}

// === impl Dialler ===

impl Dialler {
    /// # Errors
    /// Says which certificate or key cannot be used.
    pub(super) fn new(settings: &Redis) -> Result<Self, String> {
        let named = |info: RedisConnectionInfo, name: &Option<String>| match name {
            Some(name) => info.set_username(name),
            None => info,
        };
        // RESP3, so that a connection that listens can also be asked whether it is alive.
        let plain = RedisConnectionInfo::default()
            .set_protocol(ProtocolVersion::RESP3)
            .set_skip_set_lib_name();
        let mut data = named(plain.clone(), &settings.username);
        if let Some(password) = &settings.password {
            data = data.set_password(password.expose_secret());
        }
        data = data.set_db(i64::from(settings.database));
        let mut sentinel = named(plain, &settings.sentinel_username);
        if let Some(password) = &settings.sentinel_password {
            sentinel = sentinel.set_password(password.expose_secret());
        }
        let tls = settings.tls.as_ref().map(super::tls::connector).transpose()?;
        Ok(Self { data, sentinel, tls, within: settings.connect_timeout })
    }

    /// A connection that is set up. `pushed` gets what the server sends unasked.
    pub(super) async fn dial(
        &self,
        address: &HostPort,
        server: Server,
        pushed: Option<UnboundedSender<PushInfo>>,
    ) -> Result<Connection, Unusable> {
        self.dial_fresh(address, server, pushed).await.map(|fresh| fresh.connection)
    }

    /// As [`Self::dial`], for whoever wants the connection to itself afterwards.
    pub(super) async fn dial_fresh(
        &self,
        address: &HostPort,
        server: Server,
        pushed: Option<UnboundedSender<PushInfo>>,
    ) -> Result<Fresh, Unusable> {
        match timeout(self.within, self.connect(address, server, pushed)).await {
            Ok(connected) => connected,
            Err(_) => {
                let hint = match &self.tls {
                    Some(_) => ": is it a port without TLS (redis://)?",
                    None => "",
                };
                let within = self.within;
                Err(Unusable::Away(format!("{address} does not answer within {within:?}{hint}")))
            }
        }
    }

    async fn connect(
        &self,
        address: &HostPort,
        server: Server,
        pushed: Option<UnboundedSender<PushInfo>>,
    ) -> Result<Fresh, Unusable> {
        let away = |error: io::Error| Unusable::Away(format!("{address}: {error}"));
        let stream = TcpStream::connect((&*address.host, address.port)).await.map_err(away)?;
        stream.set_nodelay(true).map_err(away)?;
        let socket = socket2::SockRef::from(&stream);
        let keepalive = socket2::TcpKeepalive::new()
            .with_time(Duration::from_secs(5))
            .with_interval(Duration::from_secs(1))
            .with_retries(3);
        socket.set_tcp_keepalive(&keepalive).map_err(away)?;
        socket.set_tcp_user_timeout(Some(UNHEARD)).map_err(away)?;
        let info = match server {
            Server::Data => &self.data,
            Server::Sentinel => &self.sentinel,
        };
        let Some(tls) = &self.tls else {
            return set_up(address, server, info, Box::new(stream), pushed).await;
        };
        let name = ServerName::try_from(address.host.clone())
            .map_err(|error| Unusable::Wrong(format!("{address}: {error}")))?;
        let stream = tls.connect(name, stream).await.map_err(|error| {
            // A certificate that is refused is refused the next time too; what breaks off may not.
            if error.kind() == io::ErrorKind::InvalidData {
                let cure = if error.to_string().contains("CaUsedAsEndEntity") {
                    ": its certificate is an authority's own; give it one that an authority has signed, and \
                     that authority's as sessions.redis.tls.ca"
                } else {
                    ""
                };
                Unusable::Wrong(format!("{address}: TLS: {error} (sessions.redis.tls){cure}"))
            } else {
                Unusable::Away(format!("{address}: TLS: {error}"))
            }
        })?;
        set_up(address, server, info, Box::new(stream), pushed).await
    }
}

impl std::fmt::Debug for Dialler {
    /// Without what would be a password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dialler").field("within", &self.within).finish_non_exhaustive()
    }
}

async fn set_up(
    address: &HostPort,
    server: Server,
    info: &RedisConnectionInfo,
    stream: Box<dyn Stream>,
    pushed: Option<UnboundedSender<PushInfo>>,
) -> Result<Fresh, Unusable> {
    let lent = Lent(Arc::new(Mutex::new(Some(stream))));
    // Deadlines are ours: they differ from command to command.
    let mut config =
        AsyncConnectionConfig::new().set_response_timeout(None).set_pipeline_buffer_size(WAITING);
    if let Some(pushed) = pushed {
        config = config.set_push_sender(pushed);
    }
    let (inner, driver) = MultiplexedConnection::new_with_config(info, lent.clone(), config)
        .await
        .map_err(|error| failure::setup(&address.to_string(), server, &error))?;
    let lost = CancellationToken::new();
    let ends = lost.clone();
    let driver = tokio::spawn(async move {
        tokio::select! {
            () = driver => ends.cancel(),
            () = ends.cancelled() => {}
        }
    });
    let open = Arc::new(lost.clone().drop_guard());
    Ok(Fresh { connection: Connection { inner, lost, _open: open }, lent, driver })
}

// === impl Fresh ===

impl Fresh {
    /// The connection without the client library, for one user. Nothing may be under way on it.
    ///
    /// # Errors
    /// It was lost meanwhile.
    pub(super) async fn into_direct(self, address: &HostPort) -> Result<Direct, Unusable> {
        let Self { connection, lent, driver } = self;
        let lost = || Unusable::Away(format!("{address}: the connection was lost"));
        if connection.is_lost() {
            return Err(lost());
        }
        // The library would end the stream if there were nobody any more who could send.
        connection.close();
        let _ = driver.await;
        lent.take().map(Direct::new).ok_or_else(lost)
    }
}

// === impl Lent ===

impl Lent {
    fn take(&self) -> Option<Box<dyn Stream>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn with<T>(
        &self,
        act: impl FnOnce(Pin<&mut dyn Stream>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        match &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(stream) => act(Pin::new(&mut **stream)),
            None => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }
}

impl AsyncRead for Lent {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.with(|stream| stream.poll_read(cx, into))
    }
}

impl AsyncWrite for Lent {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.with(|stream| stream.poll_write(cx, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|stream| stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|stream| stream.poll_shutdown(cx))
    }
}

// === impl Connection ===

impl Connection {
    /// Resolves when it is lost.
    pub(super) async fn lost(&self) {
        self.lost.cancelled().await;
    }

    pub(super) fn is_lost(&self) -> bool {
        self.lost.is_cancelled()
    }

    /// Gives it up.
    pub(super) fn close(&self) {
        self.lost.cancel();
    }

    /// Sends a command. A server's error is a reply.
    pub(super) async fn ask(&self, command: &Cmd, within: Duration) -> Result<Value, NoReply> {
        let mut inner = self.inner.clone();
        self.bounded(within, async move { inner.send_packed_command(command).await }).await
    }

    /// Sends commands together; one reply for each, in their order.
    pub(super) async fn ask_all(
        &self,
        commands: &Pipeline,
        within: Duration,
    ) -> Result<Vec<Value>, NoReply> {
        let (mut inner, count) = (self.inner.clone(), commands.len());
        self.bounded(within, async move { inner.send_packed_commands(commands, 0, count).await })
            .await
    }

    async fn bounded<T>(
        &self,
        within: Duration,
        reply: impl Future<Output = redis::RedisResult<T>>,
    ) -> Result<T, NoReply> {
        if self.is_lost() {
            return Err(NoReply::NotSent("the connection to Redis is lost".to_owned()));
        }
        tokio::select! {
            reply = timeout(within, reply) => match reply {
                Ok(Ok(reply)) => Ok(reply),
                Ok(Err(error)) => Err(NoReply::Lost(error.to_string())),
                Err(_) => Err(NoReply::Lost(format!("Redis has not answered within {within:?}"))),
            },
            () = self.lost.cancelled() => {
                Err(NoReply::Lost("the connection to Redis was lost".to_owned()))
            }
        }
    }
}

impl NoReply {
    pub(super) fn reason(self) -> String {
        match self {
            Self::NotSent(reason) | Self::Lost(reason) => reason,
        }
    }
}

/// After how long without an acknowledgement from its peer a connection is broken off.
const UNHEARD: Duration = Duration::from_secs(5);

/// Commands that may wait to be written to one connection.
const WAITING: usize = 1024;
