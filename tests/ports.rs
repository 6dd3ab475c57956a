//! Free ports that stay free.
//!
//! They come from below the range from which the kernel takes the local ends of outgoing connections, so
//! that none of those sits on one between its being found and its being used, or while the node that had
//! it is dead. The kernel itself (port 0) gives the same port twice if the first is not bound by then.

use std::collections::BTreeSet;
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// Above them lie the blocks that the clusters of `it` claim.
const PORTS: Range<u16> = 10_000..20_000;

const TRIES: usize = 1_000;

static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// An address on loopback where nobody listens; this process gets none of them twice.
///
/// Two processes can still find the same one, at a moment each: once in some thousand runs.
///
/// # Errors
/// When none is found.
pub fn free_address() -> io::Result<SocketAddr> {
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    for _ in 0..TRIES {
        let chance = RandomState::new().hash_one(()) % u64::try_from(PORTS.len()).unwrap_or(1);
        let port = PORTS.start + u16::try_from(chance).unwrap_or(0);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if given.insert(port) && TcpListener::bind(address).is_ok() {
            return Ok(address);
        }
    }
    Err(io::Error::other(format!("no free port from {} to {}", PORTS.start, PORTS.end)))
}
