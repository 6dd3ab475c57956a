//! Integration tests: the real binary, real sockets, servers that misbehave on purpose.

mod batches;
mod bytes;
mod cluster;
mod configuration;
mod connections;
mod edge;
mod framed;
mod fronts;
mod half_close;
mod harness;
mod health;
mod host_origin;
mod kill_server;
mod limits;
mod node_health;
mod principals;
mod reload;
mod servers;
mod servers_control;
mod sessions;
mod slow_headers;
mod smuggling;
mod stdio;
mod streams;
mod tls;
mod transports;
