//! The servers' side of the proxy.

pub mod duplex;
pub mod mux;
