//! How a two-way connection fails: while it opens, while it sends, and for good.
//!
//! [`SendError`] is the part that calls depend on: a Write may be sent again only if not a byte of it
//! has left, so the variants say what is known about the bytes, and nothing rounder.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

/// A connection could not be opened. No message was sent.
#[derive(Debug, Error)]
pub enum OpenError {
    #[error(
        "the command `{command}` was not found: install it, put its folder into PATH, or configure its absolute path"
    )]
    CommandNotFound { command: String },
    #[error(
        "the command `{command}` cannot be executed ({reason}): check its permissions, or configure the absolute path of a program"
    )]
    CommandNotExecutable { command: String, reason: String },
    #[error("the working folder `{path}` of the command `{command}` does not exist")]
    NoSuchFolder { command: String, path: String },
    #[error("the command `{command}` could not be started: {reason}")]
    Start { command: String, reason: String },
    #[error("cannot connect to {address}")]
    Connect {
        address: String,
        #[source]
        source: io::Error,
    },
    #[error("no TLS connection to {address}")]
    Tls {
        address: String,
        #[source]
        source: io::Error,
    },
    #[error("{address} refused the connection with HTTP status {status}")]
    Refused { address: String, status: u16 },
    #[error("{address} does not speak the expected protocol: {reason}")]
    Protocol { address: String, reason: String },
    #[error(
        "{address} names `{endpoint}` as the place for messages, which is another origin: messages go only to the configured host"
    )]
    ForeignEndpoint { address: String, endpoint: String },
    #[error("{subject} did not answer within {after:?}")]
    TimedOut { subject: String, after: Duration },
}

impl OpenError {
    /// Whether trying again cannot help until somebody changes the configuration or the machine.
    pub fn is_misconfiguration(&self) -> bool {
        matches!(
            self,
            Self::CommandNotFound { .. }
                | Self::CommandNotExecutable { .. }
                | Self::NoSuchFolder { .. }
                | Self::ForeignEndpoint { .. }
        )
    }
}

/// A message was not delivered, or perhaps not.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum SendError {
    /// Not a byte of it has left: it may be sent elsewhere, whatever it is.
    #[error("not sent: {0}")]
    NotSent(String),
    /// Not sent: a call with the same id is in flight on this connection.
    #[error("not sent: a call with the id {0} is in flight already")]
    Duplicate(Box<str>),
    /// The server answered its POST with a status other than 2xx (HTTP+SSE only).
    #[error("the server refused the message with HTTP status {status}")]
    Refused { status: u16 },
    /// Some or all of it may have reached the server; the connection still stands.
    #[error("perhaps sent: {0}")]
    Unknown(String),
    /// Some or all of it may have reached the server, and the connection is gone.
    #[error("the connection ended while the message was being sent: {0}")]
    Closed(Closed),
}

impl SendError {
    /// The message certainly did not run: it never left, or the very POST that carried it was
    /// answered with the status of a lost session (400 or 404).
    pub fn did_not_run(&self) -> bool {
        match self {
            Self::NotSent(_) | Self::Duplicate(_) => true,
            Self::Refused { status } => is_lost_session(*status),
            Self::Unknown(_) | Self::Closed(_) => false,
        }
    }
}

/// The statuses by which an HTTP+SSE server says that the session of a POST is gone.
pub(super) fn is_lost_session(status: u16) -> bool {
    matches!(status, 400 | 404)
}

/// The reason of a connection that the gateway ended.
pub(super) const BY_GATEWAY: &str = "closed by the gateway";

/// Why a connection ended. Cheap to clone.
#[derive(Clone, PartialEq, Eq)]
pub struct Closed(Arc<Ending>);

#[derive(Debug, PartialEq, Eq)]
struct Ending {
    reason: String,
    exit: Option<Exit>,
    stderr: Vec<String>,
}

/// How a server process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It exited with this status, 0 to 255.
    Status(i32),
    /// A signal ended it, or it exited with 128 plus this number, as shells report signals.
    Signal(i32),
}

impl Closed {
    pub(crate) fn new(reason: impl Into<String>) -> Self {
        Self::with_exit(reason, None, Vec::new())
    }

    pub(super) fn with_exit(
        reason: impl Into<String>,
        exit: Option<Exit>,
        stderr: Vec<String>,
    ) -> Self {
        Self(Arc::new(Ending { reason: reason.into(), exit, stderr }))
    }

    /// What happened, in words.
    pub fn reason(&self) -> &str {
        &self.0.reason
    }

    /// Whether the gateway itself ended it, so that nothing is wrong with the server.
    pub fn by_gateway(&self) -> bool {
        self.reason() == BY_GATEWAY
    }

    /// How the server's process ended, where there was one and it has ended.
    pub fn exit(&self) -> Option<Exit> {
        self.0.exit
    }

    /// The last lines that the process wrote to its standard error: at most five, each at most 500
    /// bytes, oldest first.
    pub fn stderr(&self) -> &[String] {
        &self.0.stderr
    }
}

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason())?;
        if let Some(exit) = self.exit() {
            write!(f, " ({exit})")?;
        }
        if !self.stderr().is_empty() {
            write!(f, "; its last words: {}", self.stderr().join(" | "))?;
        }
        Ok(())
    }
}

impl fmt::Debug for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "exit status {status}"),
            Self::Signal(signal) => match nix::sys::signal::Signal::try_from(*signal) {
                Ok(name) => write!(f, "ended by {name}"),
                Err(_) => write!(f, "ended by signal {signal}"),
            },
        }
    }
}
