//! Free ports that stay free.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Mutex, PoisonError};

use holdfast_drill::Port;

static KEPT: Mutex<Vec<Port>> = Mutex::new(Vec::new());

/// An address on loopback where nobody listens, kept as long as this process runs: for whoever it starts
/// there, and starts again. Nobody else is given it by the kernel.
///
/// # Errors
/// When there is none.
pub fn free_address() -> io::Result<SocketAddr> {
    let port = Port::keep((Ipv4Addr::LOCALHOST, 0).into())?;
    let address = port.address();
    KEPT.lock().unwrap_or_else(PoisonError::into_inner).push(port);
    Ok(address)
}
