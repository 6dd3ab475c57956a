//! The CLI's way to a running node: the admin API over one short-lived connection per question.
//!
//! Errors are read by a person at a prompt, so each names the address and what to do.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;
use std::{fmt, io};

use bytes::Bytes;
use holdfast_config::{Admin as Section, ExposeSecret, SecretString};
use holdfast_proxy::tls::expiry::Expiries;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::api::{
    BreakerActionDto, BreakerRequestDto, ConfigHistoryDto, ConfigTextDto, DrainDto,
    DrainRequestDto, ErrorDto, EventsDto, FailbackRequestDto, FailoverRequestDto, IncidentsDto,
    NodesDto, OrderedDto, ReloadRequestDto, ReloadedDto, RollbackRequestDto, ServersDto,
    SessionsDto, StatusDto,
};

/// For the whole question, connection included.
const DEADLINE: Duration = Duration::from_secs(5);
/// The same for a change of the configuration, which the nodes agree on and take over meanwhile.
const CONFIGURED_WITHIN: Duration = Duration::from_secs(15);
/// An answer beyond this is not one of ours.
const ANSWER_MAX: usize = 16 * 1024 * 1024;

/// Asks the admin port of one node.
#[derive(Clone)]
pub struct Client {
    address: Address,
    token: Option<SecretString>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The text is not an address.
    #[error("{found:?} is not an admin address; write host:port or http(s)://host:port")]
    Address {
        /// What was given.
        found: String,
    },
    /// Nobody listens there, or the way is blocked.
    #[error(
        "cannot connect to the admin port at {address}; is the gateway running there? (its address \
         is admin.address in the configuration, 127.0.0.1:37374 by default)"
    )]
    Connect {
        /// Where to.
        address: String,
        /// The system's reason.
        source: io::Error,
    },
    /// Something listens, but it does not answer in time.
    #[error("the admin port at {address} did not answer within {} s", within.as_secs())]
    Timeout {
        /// Where.
        address: String,
        /// How long it had.
        within: Duration,
    },
    /// It wants a token, or another one.
    #[error("the admin port at {address} wants the token in admin.token: {said}")]
    Unauthorized {
        /// Where.
        address: String,
        /// The node's own words.
        said: String,
    },
    /// It answered with an error.
    #[error("the admin port at {address} answered {status}: {said}")]
    Refused {
        /// Where.
        address: String,
        /// The status.
        status: StatusCode,
        /// The node's own words.
        said: String,
    },
    /// It speaks, but not as an admin port does.
    #[error(
        "what listens at {address} does not answer as an admin port of the gateway does ({what})"
    )]
    Protocol {
        /// Where.
        address: String,
        /// What was odd.
        what: String,
    },
}

#[derive(Clone, Debug)]
struct Address {
    tls: bool,
    host: String,
    port: u16,
}

// === impl Client ===

impl Client {
    /// A client for `address`: `host:port`, `http://host:port` or `https://host:port`.
    ///
    /// # Errors
    /// [`ClientError::Address`].
    pub fn new(address: &str, token: Option<SecretString>) -> Result<Self, ClientError> {
        let address = Address::parse(address)
            .ok_or_else(|| ClientError::Address { found: address.to_owned() })?;
        Ok(Self { address, token })
    }

    /// A client for the node that runs on this machine with this configuration.
    #[must_use]
    pub fn for_section(section: &Section) -> Self {
        let ip = match section.address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
            ip => ip,
        };
        let address = Address {
            tls: section.tls.is_some(),
            host: ip.to_string(),
            port: section.address.port(),
        };
        Self { address, token: section.token.clone() }
    }

    /// Everything about the node.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn status(&self) -> Result<StatusDto, ClientError> {
        self.get("/api/status").await
    }

    /// The servers.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn servers(&self) -> Result<ServersDto, ClientError> {
        self.get("/api/servers").await
    }

    /// At most `limit` (1 to 1000) sessions after the first `offset`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn sessions(&self, offset: usize, limit: usize) -> Result<SessionsDto, ClientError> {
        self.get(&format!("/api/sessions?offset={offset}&limit={limit}")).await
    }

    /// The nodes of the cluster, or the one that runs alone.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn nodes(&self) -> Result<NodesDto, ClientError> {
        self.get("/api/nodes").await
    }

    /// Drains a node.
    ///
    /// # Errors
    /// See [`ClientError`]; after a timeout, or a connection that broke, it may drain all the same.
    pub async fn drain(&self, node: &str, force: bool) -> Result<DrainDto, ClientError> {
        self.post("/api/drain", &DrainRequestDto { node: node.to_owned(), force }).await
    }

    /// Moves a server to this instance, or to its best secondary.
    ///
    /// # Errors
    /// See [`ClientError`]; after a timeout, or a connection that broke, it may move all the same.
    pub async fn failover(
        &self,
        server: &str,
        to: Option<&str>,
        force: bool,
    ) -> Result<OrderedDto, ClientError> {
        let (server, to) = (server.to_owned(), to.map(str::to_owned));
        self.post("/api/failover", &FailoverRequestDto { server, to, force }).await
    }

    /// Moves a server back to its primary; `at_once`: all its sessions, not bit by bit.
    ///
    /// # Errors
    /// As for [`Self::failover`].
    pub async fn failback(&self, server: &str, at_once: bool) -> Result<OrderedDto, ClientError> {
        let server = server.to_owned();
        self.post("/api/failback", &FailbackRequestDto { server, at_once }).await
    }

    /// Holds a breaker open or closed, or lets it decide.
    ///
    /// # Errors
    /// As for [`Self::failover`].
    pub async fn breaker(
        &self,
        server: &str,
        instance: Option<&str>,
        action: BreakerActionDto,
    ) -> Result<OrderedDto, ClientError> {
        let (server, instance) = (server.to_owned(), instance.map(str::to_owned));
        let wanted = BreakerRequestDto { server, instance, tool: None, action };
        self.post("/api/breaker", &wanted).await
    }

    /// The same with the breaker of one tool (`breaker.per_tool`).
    ///
    /// # Errors
    /// As for [`Self::failover`].
    pub async fn breaker_of_tool(
        &self,
        server: &str,
        tool: &str,
        action: BreakerActionDto,
    ) -> Result<OrderedDto, ClientError> {
        let (server, tool) = (server.to_owned(), Some(tool.to_owned()));
        let wanted = BreakerRequestDto { server, instance: None, tool, action };
        self.post("/api/breaker", &wanted).await
    }

    /// What was decided about servers: the last `limit` lines (1 to 1000).
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn audit(&self, limit: usize) -> Result<EventsDto, ClientError> {
        self.get(&format!("/api/audit?limit={limit}")).await
    }

    /// Outages of servers.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn incidents(&self) -> Result<IncidentsDto, ClientError> {
        self.get("/api/incidents").await
    }

    /// Has the node read its file and take it over; with `check` it only says what would change. Waits
    /// for 15 seconds.
    ///
    /// # Errors
    /// See [`ClientError`]; after a timeout, or a connection that broke, the node does it all the same.
    pub async fn reload(&self, check: bool) -> Result<ReloadedDto, ClientError> {
        let body = &ReloadRequestDto { check };
        self.change("/api/config/reload", body, CONFIGURED_WITHIN).await
    }

    /// Has an earlier version taken up again. Waits for 15 seconds.
    ///
    /// # Errors
    /// As for [`Self::reload`].
    pub async fn roll_back(&self, version: u64) -> Result<ReloadedDto, ClientError> {
        let body = &RollbackRequestDto { version };
        self.change("/api/config/rollback", body, CONFIGURED_WITHIN).await
    }

    /// The versions of the configuration, and which of them each node runs.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn config_history(&self) -> Result<ConfigHistoryDto, ClientError> {
        self.get("/api/config/history").await
    }

    /// The text of a version, or of the one that holds.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn config_text(&self, version: Option<u64>) -> Result<ConfigTextDto, ClientError> {
        match version {
            Some(version) => self.get(&format!("/api/config?version={version}")).await,
            None => self.get("/api/config").await,
        }
    }

    /// # Cancel safety
    /// What is asked for may be done all the same.
    async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        self.change(path, body, DEADLINE).await
    }

    /// # Cancel safety
    /// As for [`Self::post`].
    async fn change<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
        within: Duration,
    ) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body).map_err(|error| ClientError::Protocol {
            address: self.address.to_string(),
            what: error.to_string(),
        })?;
        self.ask(path, Some(body.into()), within).await
    }

    /// # Cancel safety
    /// Only a question is asked; dropping it closes its connection.
    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.ask(path, None, DEADLINE).await
    }

    /// Asks, or changes something where there is a body.
    async fn ask<T: DeserializeOwned>(
        &self,
        path: &str,
        body: Option<Bytes>,
        within: Duration,
    ) -> Result<T, ClientError> {
        let address = || self.address.to_string();
        let exchange = self.exchange(path, body);
        let (status, body) = match tokio::time::timeout(within, exchange).await {
            Ok(answer) => answer?,
            Err(_) => return Err(ClientError::Timeout { address: address(), within }),
        };
        let protocol = |what: String| ClientError::Protocol { address: address(), what };
        if status.is_success() {
            return serde_json::from_slice(&body).map_err(|error| protocol(error.to_string()));
        }
        let ErrorDto { error: said } =
            serde_json::from_slice(&body).map_err(|_| protocol(format!("status {status}")))?;
        Err(match status {
            StatusCode::UNAUTHORIZED => ClientError::Unauthorized { address: address(), said },
            status => ClientError::Refused { address: address(), status, said },
        })
    }

    async fn exchange(
        &self,
        path: &str,
        body: Option<Bytes>,
    ) -> Result<(StatusCode, Bytes), ClientError> {
        let Address { tls, host, port } = &self.address;
        let connect_error =
            |source| ClientError::Connect { address: self.address.to_string(), source };
        let stream = TcpStream::connect((host.as_str(), *port)).await.map_err(connect_error)?;
        if !tls {
            return self.send(path, body, stream).await;
        }
        let name = ServerName::try_from(host.clone())
            .map_err(|error| connect_error(io::Error::other(error)))?;
        let tls = holdfast_proxy::tls::client_config(&Expiries::default());
        let connector = TlsConnector::from(tls);
        let stream = connector.connect(name, stream).await.map_err(connect_error)?;
        self.send(path, body, stream).await
    }

    async fn send(
        &self,
        path: &str,
        body: Option<Bytes>,
        io: impl AsyncRead + AsyncWrite + Unpin,
    ) -> Result<(StatusCode, Bytes), ClientError> {
        let address = || self.address.to_string();
        let protocol = |error: &dyn fmt::Display| ClientError::Protocol {
            address: address(),
            what: error.to_string(),
        };
        let change = body.is_some();
        let mut request = Request::new(Full::new(body.unwrap_or_default()));
        if change {
            *request.method_mut() = Method::POST;
            let json = HeaderValue::from_static("application/json");
            request.headers_mut().insert(CONTENT_TYPE, json);
        }
        *request.uri_mut() =
            path.parse().map_err(|error: http::uri::InvalidUri| protocol(&error))?;
        let authority = self.address.authority();
        let host = HeaderValue::from_str(&authority).map_err(|error| protocol(&error))?;
        request.headers_mut().insert(HOST, host);
        if let Some(token) = &self.token {
            let value = format!("Bearer {}", token.expose_secret());
            let mut value =
                HeaderValue::from_str(&value).map_err(|_| ClientError::Unauthorized {
                    address: address(),
                    said: "the given one holds characters that no header may carry".to_owned(),
                })?;
            value.set_sensitive(true);
            request.headers_mut().insert(AUTHORIZATION, value);
        }

        let (mut sender, connection) =
            http1::handshake(TokioIo::new(io)).await.map_err(|error| protocol(&error))?;
        let exchange = async move {
            let response = sender.send_request(request).await?;
            let status = response.status();
            let body = Limited::new(response.into_body(), ANSWER_MAX).collect().await?;
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>((status, body.to_bytes()))
        };
        // The connection is driven here, not in a task of its own: it ends with the question.
        let mut connection = std::pin::pin!(connection);
        let mut exchange = std::pin::pin!(exchange);
        tokio::select! {
            answer = exchange.as_mut() => answer.map_err(|error| protocol(&error)),
            _ended = connection.as_mut() => exchange.await.map_err(|error| protocol(&error)),
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("address", &self.address).finish_non_exhaustive()
    }
}

// === impl Address ===

impl Address {
    fn parse(text: &str) -> Option<Self> {
        let (tls, rest) = match text.split_once("://") {
            Some(("http", rest)) => (false, rest),
            Some(("https", rest)) => (true, rest),
            Some(_) => return None,
            None => (false, text),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = rest.rsplit_once(':')?;
        let host = match host.strip_prefix('[') {
            Some(v6) => v6.strip_suffix(']').filter(|v6| v6.parse::<Ipv6Addr>().is_ok())?,
            None => host,
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
        let valid = !host.is_empty()
            && host.chars().all(plain)
            && (!host.contains(':') || host.parse::<Ipv6Addr>().is_ok());
        valid.then_some(())?;
        Some(Self { tls, host: host.to_owned(), port: port.parse().ok().filter(|&p| p > 0)? })
    }

    fn authority(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}", self.authority())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let shown = |text| Address::parse(text).map(|address| address.to_string());
        for (text, expected) in [
            ("127.0.0.1:37374", "http://127.0.0.1:37374"),
            ("gateway-1:80", "http://gateway-1:80"),
            ("https://ops.example:8443/", "https://ops.example:8443"),
            ("[::1]:37374", "http://[::1]:37374"),
        ] {
            assert_eq!(shown(text).as_deref(), Some(expected), "{text}");
        }
        for text in [
            "",
            "localhost",
            "localhost:0",
            "localhost:x",
            "ftp://a:1",
            "::1:80:x",
            "a b:1",
            "user@host:1",
            "http://host:1/path",
            "[::1:1",
        ] {
            assert_eq!(shown(text), None, "{text}");
        }
    }

    #[test]
    fn the_client_of_a_configuration_reaches_its_own_machine() {
        let section =
            |address: &str| Section { address: address.parse().unwrap(), ..Section::default() };
        let to = |address| Client::for_section(&section(address)).address.to_string();
        assert_eq!(to("0.0.0.0:1"), "http://127.0.0.1:1");
        assert_eq!(to("[::]:1"), "http://[::1]:1");
        assert_eq!(to("10.0.0.1:1"), "http://10.0.0.1:1");
    }

    #[test]
    fn debug_shows_no_token() {
        let client = Client::new("localhost:1", Some("very-secret-token".into())).unwrap();
        assert!(!format!("{client:?}").contains("very-secret"));
    }
}
