//! The data plane: ingress, exchange, attempts, upstreams, sessions, replay, drain.

pub mod health;
pub mod metrics;
pub mod report;
pub mod tls;
pub mod upstream;
