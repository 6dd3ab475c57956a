//! Tests that look at the whole: `tidy` holds the architecture's rules, `it` drives nodes over their ports,
//! `cluster` kills processes of real clusters, `sim` runs many nodes on one clock, `bench` measures the gateway
//! beside nginx. `interop` (SDK clients) and `golden` (command-line
//! output) lie beside them. Here is what several of them share.

pub mod ports;
