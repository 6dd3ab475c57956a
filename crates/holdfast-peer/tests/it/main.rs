//! The transport over real sockets: what arrives, who gets in, and what is known when it breaks.

mod exchange;
mod failure;
mod port;
mod proof;
mod support;
