//! What lies between the nodes: proxies on loopback, or namespaces with a router.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use holdfast_tests::ports::free_address;

use crate::Error;
use crate::links::{Links, Port, Weather};
use crate::nemesis::What;
use crate::spaces::{self, Spaces};
use crate::stack::NODES;

/// Longer than a heartbeat's interval.
const SLOW: Duration = Duration::from_millis(150);

pub(crate) enum Network {
    Links(Arc<Links>),
    Spaces(Spaces),
}

/// The addresses of one node.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Addresses {
    pub(crate) client: SocketAddr,
    pub(crate) admin: SocketAddr,
    /// Where it listens for its peers.
    pub(crate) cluster: SocketAddr,
    /// Where its peers look for it.
    pub(crate) known: SocketAddr,
}

// === impl Network ===

impl Network {
    /// # Errors
    /// When there are no free ports, or no namespaces.
    pub(crate) fn new(namespaces: bool) -> Result<(Self, Vec<Addresses>), Error> {
        let mut nodes = Vec::new();
        for at in 0..NODES {
            let free = || -> Result<SocketAddr, Error> {
                let port = free_address()?.port();
                let ip = if namespaces { spaces::address(at) } else { Ipv4Addr::LOCALHOST.into() };
                Ok(SocketAddr::new(ip, port))
            };
            let (client, admin, cluster) = (free()?, free()?, free()?);
            let known = if namespaces { cluster } else { free()? };
            nodes.push(Addresses { client, admin, cluster, known });
        }
        if namespaces {
            return Ok((Self::Spaces(Spaces::start(NODES)?), nodes));
        }
        let port = |(party, node): (usize, &Addresses)| Port {
            party,
            known: node.known,
            real: node.cluster,
        };
        let ports = nodes.iter().enumerate().map(port).collect();
        Ok((Self::Links(Links::new(NODES, ports)), nodes))
    }

    /// Where the servers behind the gateway listen.
    pub(crate) fn servers(&self) -> IpAddr {
        match self {
            Self::Links(_) => Ipv4Addr::LOCALHOST.into(),
            Self::Spaces(_) => spaces::ROUTER,
        }
    }

    /// What nodes need in their configuration to be reached from elsewhere.
    pub(crate) fn configuration(&self) -> String {
        match self {
            Self::Links(_) => String::new(),
            Self::Spaces(_) => format!(
                "listen: {{ address: \"0.0.0.0:37373\", public_hosts: [127.0.0.1], trusted_proxies: [10.77.0.0/16] }}\nadmin: {{ token: \"{}\" }}\n",
                crate::http::TOKEN
            ),
        }
    }

    /// A command that runs where a node is.
    pub(crate) fn command(&self, at: usize, program: &Path) -> Command {
        match self {
            Self::Links(_) => Command::new(program),
            Self::Spaces(spaces) => spaces.inside(at, program),
        }
    }

    /// A node's process is about to be there.
    pub(crate) async fn up(&self, at: usize) -> Result<(), Error> {
        match self {
            Self::Links(links) => links.up(at).await,
            Self::Spaces(_) => Ok(()),
        }
    }

    /// A node's process is gone.
    pub(crate) fn down(&self, at: usize) {
        if let Self::Links(links) = self {
            links.down(at);
        }
    }

    /// Which process is which node, from now on.
    pub(crate) fn know(&self, pids: Vec<Option<u32>>) {
        if let Self::Links(links) = self {
            links.know(pids);
        }
    }

    /// Brings a fault between a node and the others.
    ///
    /// # Errors
    /// When this network has no such fault, or it could not be brought about.
    pub(crate) async fn spoil(&self, victim: usize, what: What) -> Result<(), Error> {
        if let (Self::Spaces(spaces), What::Isolate) = (self, what) {
            return spaces.isolate(victim);
        }
        if let Self::Links(links) = self {
            links.look().await;
        }
        for other in (0..NODES).filter(|other| *other != victim) {
            if what != What::CutIn {
                self.spoil_one(victim, other, what)?;
            }
            if what != What::CutOut {
                self.spoil_one(other, victim, what)?;
            }
        }
        Ok(())
    }

    fn spoil_one(&self, from: usize, to: usize, what: What) -> Result<(), Error> {
        match (self, what) {
            (Self::Links(links), What::Slow) => {
                links.set(from, to, Weather { delay: SLOW, ..Weather::default() });
            }
            (Self::Links(links), What::Cut | What::CutIn | What::CutOut) => {
                links.set(from, to, Weather { cut: true, ..Weather::default() });
            }
            (Self::Spaces(spaces), What::Cut | What::CutIn | What::CutOut) => {
                spaces.cut(from, to)?
            }
            (Self::Links(_), _) => return Err(format!("void: {what:?} takes --namespaces").into()),
            (Self::Spaces(_), _) => {
                return Err(format!("void: no {what:?} with --namespaces").into());
            }
        }
        Ok(())
    }

    /// Everything as it should be.
    pub(crate) fn heal(&self) -> Result<(), Error> {
        match self {
            Self::Links(links) => {
                links.heal();
                Ok(())
            }
            Self::Spaces(spaces) => spaces.heal(),
        }
    }

    /// A mark to hold [`Self::took_effect`] against.
    pub(crate) fn mark(&self) -> u64 {
        match self {
            Self::Links(links) => links.held(),
            Self::Spaces(_) => 0,
        }
    }

    /// Whether a fault that is in force stops or delays anything.
    pub(crate) fn took_effect(&self, mark: u64, victim: usize, nodes: &[SocketAddr]) -> bool {
        match self {
            Self::Links(links) => links.held() > mark,
            Self::Spaces(spaces) => {
                let other = (victim + 1) % NODES;
                !spaces.reaches(victim, nodes[other]) && !spaces.reaches(other, nodes[victim])
            }
        }
    }
}
