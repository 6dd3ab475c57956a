//! Free ports that stay free.
//!
//! A node that was killed has to get its port back, so ports come from below the range from which
//! the kernel takes the local ends of outgoing connections.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use crate::Error;
use crate::chance::Chance;

const FROM: u64 = 10_000;
const TO: u64 = 32_000;
const TRIES: usize = 1_000;

/// Hands out addresses on loopback, none of them twice.
pub(crate) struct Ports {
    chance: Chance,
    given: BTreeSet<u16>,
}

// === impl Ports ===

impl Ports {
    /// Two runs at a time start at different ports, whatever their seeds.
    pub(crate) fn new() -> Self {
        Self { chance: Chance::of_this_moment(), given: BTreeSet::new() }
    }

    /// # Errors
    /// When no port is free.
    pub(crate) fn free(&mut self) -> Result<SocketAddr, Error> {
        for _ in 0..TRIES {
            let port = u16::try_from(FROM + self.chance.below(TO - FROM))?;
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            if self.given.insert(port) && TcpListener::bind(address).is_ok() {
                return Ok(address);
            }
        }
        Err("no free port below the ephemeral range".into())
    }
}
