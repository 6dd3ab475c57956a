//! The other end of the wire: an MCP server that can be scripted to fail, and a benchmark's two ends.
//!
//! * [`bench`] measures what a proxied call costs.
//!
//! Nothing here uses the gateway's own parsers and codecs. A test that runs both against each other
//! would otherwise agree with itself about a mistake.

pub mod bench;
