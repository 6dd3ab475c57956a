//! Tests that look at the whole: `tidy` holds the architecture's rules, `it` drives real processes,
//! `bench` measures the gateway beside nginx. `interop` (SDK clients) and `golden` (command-line
//! output) lie beside them. Here is what several of them share.

pub mod ports;
