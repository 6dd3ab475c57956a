//! The transport over real sockets: what arrives, who gets in, and what is known when it breaks.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

mod exchange;
mod failure;
mod port;
mod proof;
mod support;
