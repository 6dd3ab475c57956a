//! The other end of the wire: an MCP server that can be scripted to fail, and a benchmark's two ends.
//!
//! * [`sample`] is a server of both eras and all transports, with faults on demand and records of
//!   everything that reached it. It is part of the binary: the demo needs a server that is always there.
//! * [`bench`] measures what a proxied call costs.
//! * [`Port`] is kept for a process that is yet to listen there.
//!
//! Nothing here uses the gateway's own parsers and codecs. A test that runs both against each other
//! would otherwise agree with itself about a mistake.

pub mod bench;
mod port;
pub mod sample;

pub use port::Port;
