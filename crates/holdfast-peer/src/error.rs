//! What can go wrong between two nodes, by what is known afterwards.

use std::io;
use std::net::SocketAddr;

use http::StatusCode;

use crate::NodeId;

/// Why a call or a forward has no answer.
///
/// What matters to a caller is [`PeerError::certainly_not_sent`]: may the same thing be done
/// elsewhere, or may it have been done already?
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// Every address of the peer refused the connection: the process is not there.
    #[error("connection refused: no process listens there")]
    Refused,
    /// There is no connection to the peer; nothing was sent.
    #[error("unreachable: {0}")]
    Unreachable(String),
    /// The other side did not prove the cluster secret, or hung up on our proof; nothing was sent.
    #[error("the cluster secret was not proven: {0}")]
    Unproven(String),
    /// Another node, or another incarnation, is at the address; nothing was sent.
    #[error("node {found} ({name}) is at the address of another")]
    WrongNode {
        /// Who is there.
        found: NodeId,
        /// Its name.
        name: String,
    },
    /// The deadline passed.
    #[error("no answer within the deadline ({})", if *.sent { "sent" } else { "not sent" })]
    TimedOut {
        /// Whether the request may have reached the peer.
        sent: bool,
    },
    /// Sent, then the connection or the stream broke: the outcome is unknown.
    #[error("broken after sending: {0}")]
    Broken(String),
    /// The peer answered that it will not, or could not.
    #[error("rejected with {status}: {message}")]
    Rejected {
        /// 500: its service said so. Every other status is the transport's own, before its service.
        status: StatusCode,
        /// In the peer's words.
        message: String,
    },
}

impl PeerError {
    /// Whether the peer's service has certainly not seen the request. `false` means unknown.
    #[must_use]
    pub fn certainly_not_sent(&self) -> bool {
        match self {
            Self::Refused
            | Self::Unreachable(_)
            | Self::Unproven(_)
            | Self::WrongNode { .. }
            | Self::TimedOut { sent: false } => true,
            Self::TimedOut { sent: true } | Self::Broken(_) => false,
            Self::Rejected { status, .. } => *status != StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// Whether the peer's process is not there.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        matches!(self, Self::Refused)
    }
}

/// Why TLS could not be set up: the operating system gives no randomness, or the library refuses.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// No certificate could be made.
    #[error("cannot make the certificate of the cluster port")]
    Certificate(#[from] rcgen::Error),
    /// TLS refuses its settings.
    #[error("cannot set up TLS for the cluster port")]
    Tls(#[from] rustls::Error),
}

/// Why the cluster port could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The address cannot be had.
    #[error("cannot listen on {address} for peers (cluster.listen)")]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// TLS cannot be set up.
    #[error(transparent)]
    Setup(#[from] SetupError),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_never_began_is_certain() {
        let rejected = |status| PeerError::Rejected { status, message: String::new() };
        for (error, certain) in [
            (PeerError::Refused, true),
            (PeerError::Unreachable(String::new()), true),
            (PeerError::Unproven(String::new()), true),
            (PeerError::WrongNode { found: 1, name: String::new() }, true),
            (PeerError::TimedOut { sent: false }, true),
            (PeerError::TimedOut { sent: true }, false),
            (PeerError::Broken(String::new()), false),
            (rejected(StatusCode::INTERNAL_SERVER_ERROR), false),
            (rejected(StatusCode::PAYLOAD_TOO_LARGE), true),
        ] {
            assert_eq!(error.certainly_not_sent(), certain, "{error}");
        }
    }
}
