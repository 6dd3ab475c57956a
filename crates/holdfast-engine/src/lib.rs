//! Every decision of the gateway, as pure code.
//!
//! Nothing here waits, logs, reads a clock, draws a random number or opens a socket: time and
//! randomness are arguments, and effects are what the caller does with an answer. So each rule can be
//! tested as a table, and the same input gives the same decision on every node.
//!
//! | module | decides | read |
//! |---|---|---|
//! | [`class`] | what a call may do | `docs/life-of-a-request.md`, part 5 |
//! | [`repeat`] | whether a failed call is sent again; whether a server lost its session | the same |
//! | [`bucket`] | whether a principal may call now | `docs/configuration.md`, limits |
//! | [`breaker`] | whether a call may go to a server, by how those before it went | `docs/state-machines.md`; decisions 10 and 30 |
//! | [`retry_budget`] | how many calls are sent again beside those that are sent anyway | decision 10 |
//! | [`limits`] | how many calls run at once, and who waits | `docs/state-machines.md`, "Bulkhead"; decisions 10 and 24 |
//! | [`cascade`] | which servers a call needs beside its own | `docs/configuration.md`, `depends_on` |
//! | [`fallback`] | which answers are kept, and for whom | `docs/configuration.md`, `fallback` |
//! | [`backoff`] | how long to wait before a next attempt |  |
//! | [`journal`] | what a second arrival of a call does; what becomes of a dead node's calls | `docs/state-machines.md`, "Calls in the journal"; decision 8 |
//! | [`lease`] | who may send a Write now; who is declared dead | `docs/state-machines.md`, "Leases"; decision 6 |
//! | [`health`] | how well an instance is, by checks, calls and the votes of the nodes | `docs/state-machines.md`; decisions 12 and 22 |
//! | [`balance`] | which of several instances gets a call | `docs/configuration.md`, `balance` |
//! | [`failover`] | how a server moves from one instance to another and back | `docs/failover.md`, `docs/state-machines.md`; decision 11 |
//! | [`objectives`] | what an outage took, against what its tier allows | `docs/failover.md`, "Objectives"; `docs/state-machines.md`, "Outage" |
//! | [`loss`] | which outage a Write of unknown outcome, or a session that moved, belongs to | decisions 23 and 28 |
//! | [`configuration`] | which configuration a node goes by, and proposes | `docs/state-machines.md`; decision 14 |
//! | [`replicated`] | what every entry of the Raft log does, on every node alike | `docs/architecture.md`, "What the nodes agree on"; decision 6 |
//!
//! Decisions are in `docs/decisions/`, by their numbers.
//!
//! # A call that failed
//! ```
//! use std::collections::BTreeMap;
//! use holdfast_engine::{
//!     class::{CallClass, ToolTable, classify},
//!     repeat::{Progress, Repeat, Why, decide},
//! };
//!
//! let mut tools = ToolTable::new(true, BTreeMap::new());
//! tools.learn("read_file", true, false);
//!
//! let read = classify("tools/call", Some("read_file"), &tools);
//! assert_eq!(decide(read, Progress::Sent, 1, true), Repeat::Again);
//!
//! let write = classify("tools/call", Some("write_file"), &tools);
//! assert_eq!(decide(write, Progress::Sent, 1, true), Repeat::Never(Why::MayHaveRun));
//! assert_eq!(decide(write, Progress::NotSent, 1, true), Repeat::Again);
//! ```
//!
//! Spec: 2025-11-25 Transports, "Session Management" (what a 400 and a 404 mean); schema
//! `ToolAnnotations` (`readOnlyHint`, `idempotentHint`).

pub mod backoff;
pub mod balance;
pub mod breaker;
pub mod bucket;
pub mod cascade;
pub mod class;
pub mod configuration;
pub mod failover;
pub mod fallback;
pub mod health;
pub mod journal;
pub mod lease;
pub mod limits;
pub mod loss;
pub mod objectives;
pub mod repeat;
pub mod replicated;
pub mod retry_budget;
