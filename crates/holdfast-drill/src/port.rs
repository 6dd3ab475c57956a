//! Ports that are kept for somebody who does not listen there yet, or not any more.
//!
//! Between looking for a free port and listening on it, and while a process that is to come back is dead,
//! the kernel may give the port to anybody: as port 0, or as the local end of a connection. It gives no port
//! to which a socket is bound. One that is bound and never listens keeps nobody from listening who sets
//! `SO_REUSEADDR`, as servers do (Linux, socket(7): "except when there is an active listening socket bound
//! to the address").

use std::io;
use std::net::SocketAddr;

use socket2::{Domain, Protocol, Socket, Type};

/// A port on which nobody listened when it was taken; kept until this is dropped.
///
/// Whoever connects to it is refused, as long as nobody listens there.
#[derive(Debug)]
pub struct Port {
    address: SocketAddr,
    _bound: Socket,
}

impl Port {
    /// This port, or any free one for port 0.
    ///
    /// # Errors
    /// What the operating system says: that somebody listens there, or that the address is not this machine's.
    pub fn keep(address: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        let address = socket.local_addr()?.as_socket();
        let address = address.ok_or_else(|| io::Error::other("a socket of no IP address"))?;
        Ok(Self { address, _bound: socket })
    }

    /// Where it is.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener, TcpStream};

    use super::*;

    fn any() -> SocketAddr {
        (Ipv4Addr::LOCALHOST, 0).into()
    }

    #[test]
    fn who_listens_may_come_and_go() {
        let port = Port::keep(any()).unwrap();
        for _ in 0..3 {
            assert!(TcpStream::connect(port.address()).is_err(), "nobody listens");
            let listener = TcpListener::bind(port.address()).unwrap();
            let client = TcpStream::connect(port.address()).unwrap();
            let (served, _) = listener.accept().unwrap();
            assert!(Port::keep(port.address()).is_err(), "somebody listens");
            // The side that closes first holds the port for a while yet.
            drop((served, listener, client));
        }
    }
}
