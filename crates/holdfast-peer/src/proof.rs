//! The proof, from both sides, over a TLS session that has just been made.
//!
//! The dialler speaks first. An acceptor that does not find the dialler's proof right closes the
//! session and has said nothing; one that does, but is not the node that was meant, says who it is
//! and closes.

use std::io;

use rustls::ConnectionCommon;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_rustls::{client, server};

use crate::hello::{self, Hello, Malformed};
use crate::secret::{Role, Secret};
use crate::{Caller, Lane, NodeId, tls};

/// Who this node is, and what it proves that with.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) me: Caller,
    pub(crate) secret: Secret,
}

/// Why there is no proof.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProofError {
    #[error("the connection broke during the proof")]
    Broken(#[from] io::Error),
    #[error("the session cannot be bound to")]
    Channel(#[from] rustls::Error),
    #[error("the other side hung up on our proof")]
    HungUp,
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error("the other side's proof is wrong")]
    Wrong,
    #[error("another node was meant")]
    WrongNode(Caller),
}

/// Proves us to whoever accepted, and who accepted to us; `to` is the node that is meant, 0 for
/// whoever it is. On success the acceptor is `to`.
pub(crate) async fn dial<S>(
    stream: &mut client::TlsStream<S>,
    identity: &Identity,
    lane: Lane,
    to: NodeId,
) -> Result<Caller, ProofError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (ours, theirs) = channels(stream.get_ref().1, Role::Dialler)?;
    let said = hello::write(&identity.secret, &ours, Role::Dialler, lane, &identity.me, to);
    stream.write_all(&said).await?;
    stream.flush().await?;
    let answer = read(stream).await?;
    if answer.role != Role::Acceptor || !answer.is_proven(&identity.secret, &theirs) {
        return Err(ProofError::Wrong);
    }
    if to != 0 && answer.from.node != to {
        return Err(ProofError::WrongNode(answer.from));
    }
    Ok(answer.from)
}

/// Has whoever dialled prove itself, then proves us. On success the dialler meant us.
pub(crate) async fn accept<S>(
    stream: &mut server::TlsStream<S>,
    identity: &Identity,
) -> Result<(Caller, Lane), ProofError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (ours, theirs) = channels(stream.get_ref().1, Role::Acceptor)?;
    let said = match read(stream).await {
        Ok(said) if said.role == Role::Dialler && said.is_proven(&identity.secret, &theirs) => said,
        refused => {
            // The dialler takes a closed session for "your proof was not right". A peer that does
            // not read this is no reason to wait beyond the deadline of the handshake.
            let _ = stream.shutdown().await;
            return Err(refused.err().unwrap_or(ProofError::Wrong));
        }
    };
    let Caller { node, .. } = said.from;
    let answer =
        hello::write(&identity.secret, &ours, Role::Acceptor, said.lane, &identity.me, node);
    stream.write_all(&answer).await?;
    stream.flush().await?;
    if said.to != 0 && said.to != identity.me.node {
        let _ = stream.shutdown().await;
        return Err(ProofError::WrongNode(said.from));
    }
    Ok((said.from, said.lane))
}

/// The keying material for our own proof and for the other side's.
fn channels<D>(
    tls: &ConnectionCommon<D>,
    ours: Role,
) -> Result<([u8; 32], [u8; 32]), rustls::Error> {
    let theirs = match ours {
        Role::Dialler => Role::Acceptor,
        Role::Acceptor => Role::Dialler,
    };
    Ok((tls::channel(tls, ours)?, tls::channel(tls, theirs)?))
}

/// Reads one message, and not one byte more.
async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<Hello, ProofError> {
    let mut first = [0; 2];
    fill(stream, &mut first).await?;
    let mut message = vec![0; hello::length(first)?];
    fill(stream, &mut message).await?;
    Ok(Hello::parse(&message)?)
}

/// Fills the buffer. An orderly end of the session is the other side's way of saying no.
async fn fill(stream: &mut (impl AsyncRead + Unpin), buffer: &mut [u8]) -> Result<(), ProofError> {
    let mut filled = 0;
    while filled < buffer.len() {
        match stream.read(&mut buffer[filled..]).await? {
            0 => return Err(ProofError::HungUp),
            read => filled += read,
        }
    }
    Ok(())
}
