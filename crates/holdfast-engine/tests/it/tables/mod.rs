//! Every cell of `docs/state-machines.md`, carried out.
//!
//! The tables of what the proxy decides are carried out there, with the same [`table`].

mod breaker;
mod bulkhead;
mod failover;
mod health;
mod journal;
mod members;
mod outages;
mod overrides;
mod table;
mod versions;

pub(crate) use table::table;
